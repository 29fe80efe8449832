//! What was learnt survives: `--memory`, and `aded memory`.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::{Outcome, folder, gguf, outcome, program, tiny, write};

/// Greedy answers that do not depend on the shape of batches.
const EXACT: [&str; 12] =
    ["--temp", "0", "--json", "-ctk", "f32", "-ctv", "f32", "-fa", "off", "--spec", "on", "--ignore-eos"];

/// The program with its memory in `cache`.
fn with_memory(cache: &Path) -> Command {
    let mut command = program();
    command.env_remove("ADED_MEMORY").env("ADED_MEMORY_DIR", cache);
    command
}

fn run(cache: &Path, prompt: &str, flags: &[&str]) -> Outcome {
    outcome(with_memory(cache).args(["run", "-m", tiny(), "-p", prompt, "-n", "60"]).args(EXACT).args(flags))
}

fn memory(cache: &Path, arguments: &[&str]) -> Outcome {
    outcome(with_memory(cache).arg("memory").args(arguments))
}

/// Names in a folder, locks left out, sorted.
fn names(folder: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let names = entries.map(|entry| entry.expect("read").file_name().to_string_lossy().into_owned());
    let mut names: Vec<String> = names.filter(|name| !name.ends_with(".lock")).collect();
    names.sort();
    names
}

/// The memory file in a cache folder.
fn only(cache: &Path) -> String {
    let names: Vec<String> = names(cache).into_iter().filter(|name| name.ends_with(".aded")).collect();
    assert_eq!(names.len(), 1, "{names:?}");
    cache.join(&names[0]).to_str().expect("UTF-8").to_owned()
}

fn accepted(answer: &serde_json::Value) -> u64 {
    answer["timings"]["draft_n_accepted"].as_u64().unwrap_or(0)
}

#[test]
fn the_second_process_knows_what_the_first_one_learnt() {
    let cache = folder();
    let cache = cache.path().join("not/there/yet");
    let first = run(&cache, "a prompt of the user", &[]).json();
    let second = run(&cache, "a prompt of the user", &[]).json();
    assert_eq!(first["tokens"], second["tokens"]);
    assert!(accepted(&second) > accepted(&first), "{first} {second}");
    assert_eq!(names(&cache).len(), 2, "{:?}", names(&cache));
    assert_eq!(names(&cache.join("times")).len(), 1);
    #[cfg(unix)]
    for path in [only(&cache), cache.join("times").join(&names(&cache.join("times"))[0]).display().to_string()] {
        use std::os::unix::fs::PermissionsExt as _;
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600, "{path}");
    }
    let cold = run(&cache, "a prompt of the user", &["--memory", "off"]).json();
    assert_eq!((accepted(&cold), &cold["tokens"]), (accepted(&first), &first["tokens"]));
}

#[test]
fn off_leaves_no_trace_of_text_and_read_none_at_all() {
    let cache = folder();
    run(cache.path(), "the hen and the hat", &["--memory", "off"]).text();
    assert_eq!(names(cache.path()), ["times"]);
    let times = names(&cache.path().join("times"));
    assert!(times.len() == 1 && fs::metadata(cache.path().join("times").join(&times[0])).unwrap().len() < 4096);
    let empty = folder();
    run(empty.path(), "the hen and the hat", &["--memory", "read"]).text();
    run(empty.path(), "the hen and the hat", &["--spec", "off"]).text();
    assert!(fs::read_dir(empty.path()).unwrap().next().is_none());
    run(cache.path(), "the hen and the hat", &[]).text();
    let before = fs::read(only(cache.path())).unwrap();
    let known = run(cache.path(), "the hen and the hat", &["--memory", "read"]).json();
    assert!(accepted(&known) > accepted(&run(cache.path(), "the hen and the hat", &["--memory", "off"]).json()));
    assert_eq!(fs::read(only(cache.path())).unwrap(), before);
}

#[test]
fn a_file_may_be_named() {
    let cache = folder();
    let at = |name: &str| cache.path().join(name).to_str().unwrap().to_owned();
    run(cache.path(), "one", &["--memory", &at("mine.aded")]).text();
    assert_eq!(names(cache.path()), ["mine.aded", "times"]);
    let text = run(cache.path(), "one", &["--memory", "/no/such/folder/x"]);
    text.fails(2, "there is no folder /no/such/folder");
    // What is not ours is never moved nor written.
    let letter = write(cache.path(), "letter.txt", "Dear aunt, ".repeat(20));
    let told = run(cache.path(), "one", &["--memory", &letter]);
    assert!(told.stderr.contains("does not begin like an aded file"), "{}", told.stderr);
    assert!(told.stderr.lines().all(|line| line.starts_with("warning: ")) && told.code == Some(0), "{}", told.stderr);
    assert_eq!(fs::read_to_string(&letter).unwrap(), "Dear aunt, ".repeat(20));
    let other = write(cache.path(), "other.gguf", gguf::tiny_llama(8).bytes());
    let arguments = ["run", "-m", &other, "-p", "x", "-n", "5", "--memory", &at("mine.aded")];
    outcome(with_memory(cache.path()).args(arguments)).text();
}

#[test]
fn spoilt_files_are_set_aside_with_a_warning() {
    let cache = folder();
    run(cache.path(), "one", &[]).text();
    let path = only(cache.path());
    let good = fs::read(&path).unwrap();
    let mut altered = good.clone();
    altered[good.len() / 2] ^= 16;
    for (bytes, part) in [
        (&good[..good.len() / 2], "truncated"),
        (&altered[..], "altered"),
        (b"a foreign file that is long enough to hold the whole header of one of ours", "does not begin like"),
    ] {
        fs::write(&path, bytes).unwrap();
        let told = run(cache.path(), "one", &[]);
        assert!(told.stderr.contains(part) && told.stderr.contains("set aside as"), "{}", told.stderr);
        assert_eq!((told.code, told.stderr.lines().count()), (Some(0), 1), "{}", told.stderr);
        assert_eq!(fs::read(format!("{path}.bad")).unwrap(), bytes);
        let again = run(cache.path(), "one", &[]);
        assert!(again.stderr.is_empty() && again.code == Some(0), "{}", again.stderr);
    }
    let times = cache.path().join("times");
    let table = times.join(&names(&times)[0]);
    fs::write(&table, b"nonsense").unwrap();
    assert!(run(cache.path(), "one", &[]).stderr.contains("set aside as"));
    assert!(run(cache.path(), "one", &[]).stderr.is_empty());
}

/// A limit on the size of files stands for a disk that is full.
#[cfg(unix)]
#[test]
fn a_full_disk_or_a_read_only_folder_is_a_warning() {
    let cache = folder();
    run(cache.path(), "one", &[]).text();
    let path = only(cache.path());
    let old = fs::read(&path).unwrap();
    let script = "trap '' XFSZ; ulimit -f 8; exec \"$0\" \"$@\"";
    let mut command = Command::new("sh");
    command.arg("-c").arg(script).arg(env!("CARGO_BIN_EXE_aded"));
    command.args(["run", "-m", tiny(), "-p", "two", "-n", "60"]).args(EXACT);
    let told = outcome(command.env("ADED_MEMORY_DIR", cache.path()).env("ADED_THREADS", "1"));
    assert!(told.code == Some(0) && told.stdout.contains("\"finish_reason\""), "{}", told.stderr);
    assert!(told.stderr.contains("the old file, if there was one, is unchanged"), "{}", told.stderr);
    assert_eq!(fs::read(&path).unwrap(), old);
    assert!(names(cache.path()).iter().all(|name| !name.ends_with(".tmp")));

    // Root writes into read-only folders as well, but nobody makes one below a file.
    let below = Path::new(tiny()).join("memory");
    let told = run(&below, "one", &[]);
    assert!(told.code == Some(0) && told.stderr.contains("cannot make the folder"), "{}", told.stderr);
    use std::os::unix::fs::PermissionsExt as _;
    let locked = folder();
    fs::set_permissions(locked.path(), fs::Permissions::from_mode(0o555)).unwrap();
    let may_write_all_the_same = fs::write(locked.path().join("probe"), b"").is_ok();
    let told = run(locked.path(), "one", &[]);
    assert!(
        told.code == Some(0) && (may_write_all_the_same || told.stderr.contains("warning: cannot")),
        "{}",
        told.stderr
    );
}

#[test]
fn two_programs_at_once_both_add_what_they_learnt() {
    let cache = folder();
    for round in 0..3 {
        let prompts = [format!("the hen {round}"), format!("a prompt {round}")];
        let children = prompts.each_ref().map(|prompt| {
            let mut command = with_memory(cache.path());
            command.args(["run", "-m", tiny(), "-p", prompt, "-n", "40"]).args(EXACT).spawn().expect("it was built")
        });
        for child in children {
            let output = child.wait_with_output().expect("ends");
            assert!(output.status.success() && output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
        }
    }
    let text = memory(cache.path(), &["show", "-m", tiny(), "--text"]).text();
    for round in 0..3 {
        assert!(text.contains(&format!("hen {round}")) && text.contains(&format!("prompt {round}")), "{text}");
    }
}

#[test]
fn memories_are_listed_shown_joined_and_removed() {
    let cache = folder();
    let at = |name: &str| cache.path().join(name).to_str().unwrap().to_owned();
    memory(cache.path(), &["show", "-m", tiny()]).fails(2, "nothing is remembered of this model yet");
    run(cache.path(), "the hen", &[]).text();
    run(cache.path(), "the hat", &["--memory", &at("other")]).text();
    let listed = memory(cache.path(), &["ls"]).text();
    assert!(listed.contains("1 texts, saved just now") && listed.contains("times/"), "{listed}");
    let listed = memory(cache.path(), &["ls", "--json"]).json();
    let kinds: Vec<&str> = listed.as_array().unwrap().iter().map(|entry| entry["what"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["memory", "times"], "{listed}");
    assert_eq!((listed[0]["path"].as_str(), &listed[0]["texts"]), (Some(only(cache.path()).as_str()), &1.into()));
    let shown = memory(cache.path(), &["show", "-m", tiny()]).text();
    assert!(shown.contains("1 word for word") && shown.contains("outcomes"), "{shown}");
    assert_eq!(memory(cache.path(), &["show", &only(cache.path())]).text(), shown);
    let joined = memory(cache.path(), &["merge", &only(cache.path()), &at("other"), "-o", &at("both")]).text();
    assert!(joined.contains("2 word for word"), "{joined}");
    let text = memory(cache.path(), &["show", &at("both"), "--text", "-m", tiny()]).text();
    assert!(text.contains("hen") && text.contains("hat"), "{text}");

    let letter = write(cache.path(), "letter.txt", "Dear aunt");
    memory(cache.path(), &["show", &letter]).fails(1, "does not begin like an aded file");
    memory(cache.path(), &["clear", &letter]).fails(2, "is no memory: it stays");
    memory(cache.path(), &["clear", &at("nowhere")]).fails(1, "cannot remove");
    memory(cache.path(), &["merge", &at("both"), &letter, "-o", &at("x")]).fails(1, "does not begin like an aded file");
    assert!(!Path::new(&at("x")).exists() && Path::new(&letter).exists());
    let removed = memory(cache.path(), &["clear", &at("other")]);
    assert!(removed.stderr.contains("removed 1 files") && !Path::new(&at("other")).exists(), "{}", removed.stderr);
    fs::remove_file(&letter).unwrap();
    assert_eq!(memory(cache.path(), &["clear"]).code, Some(0));
    assert_eq!((names(cache.path()), names(&cache.path().join("times"))), (vec!["times".to_owned()], vec![]));
    let listed = memory(cache.path(), &["ls"]).text();
    assert_eq!(listed.lines().count(), 1, "{listed}");
}
