//! The examples, built by the CMake package that `make lib` leaves, with a real model.

use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;
use std::{env, fs};

use super::{ROOT, compile, libraries, linked, run, target, text};

fn model() -> PathBuf {
    let store = env::var_os("ADED_MODELS").map(PathBuf::from).or_else(|| {
        let caches = env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
        Some(caches.or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".cache")))?.join("aded/models"))
    });
    let path = store.expect("HOME or ADED_MODELS is set").join("SmolLM2-135M-Instruct.Q4_1.gguf");
    assert!(path.is_file(), "{} is missing: run `make models` first", path.display());
    path
}

/// A text that the model goes on repeating.
#[cfg(feature = "llama-cpp-2")]
const REPEATED: &str = "The quick brown fox jumps over the lazy dog. The quick brown fox jumps over the lazy dog. \
                        The quick brown fox jumps over the lazy dog. The quick brown fox";

/// The number in a program's report.
fn tokens_per_round(report: &str) -> f64 {
    let before = report.split(" tokens per round").next().expect("a report");
    before.rsplit(' ').next().expect("a number").parse().expect("a number")
}

/// The folder of the programs, built once.
fn programs() -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT
        .get_or_init(|| {
            libraries("core");
            let prefix = format!("-DCMAKE_PREFIX_PATH={}", libraries("full").parent().expect("below target").display());
            let folder = target().join("capi-tests/cmake");
            // A cache from another place would be used in silence.
            let _ = fs::remove_dir_all(&folder);
            let flags = "-DCMAKE_CXX_FLAGS=-Wall -Wextra -Werror";
            let mut command = Command::new("cmake");
            command.args(["-S", "examples/c", "-DCMAKE_BUILD_TYPE=Release", flags, &prefix, "-B"]);
            run(command.arg(&folder).current_dir(ROOT));
            run(Command::new("cmake").arg("--build").arg(&folder));
            folder
        })
        .clone()
}

/// Runs an example on the model: what it prints, and what it reports.
fn answer(program: &str, arguments: &[&str]) -> (String, String) {
    let output =
        run(Command::new(programs().join(program)).arg(model()).args(arguments).env("OMP_WAIT_POLICY", "passive"));
    (text(&output), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn a_c_program_generates_with_the_full_library() {
    let (output, report) = answer("generate", &["Count from 1 to 20."]);
    assert!(output.contains("12") && output.contains("19"), "{output}");
    assert!(report.contains("tokens per round"), "{report}");
}

#[test]
fn misuse_of_the_full_library_is_answered_by_statuses() {
    let folder = libraries("full");
    let mut arguments = vec!["-DADED_FULL".to_owned(), folder.join("libaded.a").to_string_lossy().into_owned()];
    arguments.extend(linked(&folder, "aded"));
    let program = compile("misuse_full", "cc", &["tests/capi/misuse_full.c"], &arguments);
    run(Command::new(program).arg(model()).env("OMP_WAIT_POLICY", "passive"));
}

#[test]
fn a_host_with_a_llama_cpp_of_its_own_prints_what_it_prints_plainly() {
    // llama.cpp's own kernels round differently for one row and for several, and on each processor: on this text no choice is close.
    let counted = "1, 2, 3, 4, 5, ".repeat(5) + "1, 2,";
    let plain = answer("host_llama", &["-n", "80", "--plain", &counted]);
    let drafted = answer("host_llama", &["-n", "80", "--always", &counted]);
    assert_eq!(drafted.0, plain.0, "{}{}", drafted.1, plain.1);
    assert!(tokens_per_round(&drafted.1) > 1.5, "{}", drafted.1);
}

#[test]
fn a_host_with_our_kernels_drafts_and_prints_what_it_prints_plainly() {
    let plain = answer("host_llama_full", &["-n", "150", "--kernels", "--plain"]);
    let drafted = answer("host_llama_full", &["-n", "150", "--kernels", "--always"]);
    assert_eq!(drafted.0, plain.0, "{}{}", drafted.1, plain.1);
    assert_eq!(tokens_per_round(&plain.1), 1.0);
    assert!(tokens_per_round(&drafted.1) > 1.2, "{}", drafted.1);
}

#[test]
fn two_slots_give_what_each_gives_alone() {
    // The cells of another slot may change the order of a row's sums, with our kernels too where many positions are held twice:
    // on these texts no choice is close.
    let together = answer("two_slots_full", &["-n", "60", "--kernels"]);
    let alone = answer("two_slots_full", &["-n", "60", "--kernels", "--alone"]);
    assert_eq!(together.0, alone.0, "{}{}", together.1, alone.1);
    // Whatever they round, the program ends well on a llama.cpp of its own.
    answer("two_slots", &["-n", "40"]);
}

#[cfg(feature = "llama-cpp-2")]
#[test]
fn a_llama_cpp_2_program_prints_what_it_prints_plainly() {
    // As the continuous integration calls the tests, so that nothing is built twice.
    let mut build = Command::new(env!("CARGO"));
    build.args(["build", "--locked", "--release", "--features", "capi,llama-cpp-2", "--example", "04_llama_cpp_2"]);
    run(build.current_dir(ROOT));
    let example = target().join("release/examples/04_llama_cpp_2");
    let answer = |mode: &str| {
        let mut command = Command::new(&example);
        run(command.arg(model()).args([REPEATED, mode]).env("OMP_WAIT_POLICY", "passive"))
    };
    let (plain, drafted) = (answer("off"), answer("on"));
    assert_eq!(text(&drafted), text(&plain));
    let report = String::from_utf8_lossy(&drafted.stderr).into_owned();
    assert!(!report.contains(" 0/0 accepted"), "{report}");
}
