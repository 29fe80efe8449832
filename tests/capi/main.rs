//! The C interface as C and C++ programs see it: each test compiles a program with the system's compiler and runs it.
//!
//! The libraries are those of `make lib`; building them again where nothing changed takes a second.

#![allow(unreachable_pub)]

mod core;
mod coverage;
mod header;
#[cfg(feature = "llama")]
mod hosts;
mod symbols;

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;
use std::{env, fs};

/// The root of the repository.
pub const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// Where cargo builds; `make lib` leaves its libraries below.
pub fn target() -> PathBuf {
    env::var_os("CARGO_TARGET_DIR").map_or_else(|| Path::new(ROOT).join("target"), PathBuf::from)
}

/// The folder with the libraries, made once: `core`, or `full` as well.
pub fn libraries(kind: &'static str) -> PathBuf {
    static CORE: OnceLock<()> = OnceLock::new();
    static FULL: OnceLock<()> = OnceLock::new();
    let made = if kind == "core" { &CORE } else { &FULL };
    made.get_or_init(|| {
        // What cargo set for this test is not meant for another build.
        let cargo = env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("CARGO_PKG"));
        let mut command = Command::new("python3");
        command.arg("scripts/make-lib.py").arg(kind).current_dir(ROOT);
        cargo.for_each(|(name, _)| {
            command.env_remove(name);
        });
        run(&mut command);
    });
    target().join("lib")
}

/// Runs a command that must succeed.
pub fn run(command: &mut Command) -> Output {
    let output = command.output().unwrap_or_else(|error| panic!("cannot run {command:?}: {error}"));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(
        output.status.success(),
        "{command:?} ended with {}:\n{}{}",
        output.status,
        text(&output.stdout),
        text(&output.stderr)
    );
    output
}

/// What a command printed.
pub fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Compiles `sources`, paths from the root of the repository, to a program, with every warning an error.
pub fn compile<S: AsRef<OsStr>>(name: &str, compiler: &str, sources: &[&str], arguments: &[S]) -> PathBuf {
    let folder = target().join("capi-tests");
    fs::create_dir_all(&folder).expect("a folder for programs");
    let program = folder.join(name);
    let mut command = Command::new(compiler);
    command.current_dir(ROOT).args(["-Wall", "-Wextra", "-Wpedantic", "-Werror", "-O1", "-g", "-Iinclude"]);
    run(command.args(sources).args(arguments).arg("-o").arg(&program));
    program
}

/// What a program links beside the core library, by its pkg-config file.
pub fn linked(folder: &Path, package: &str) -> Vec<String> {
    let file = fs::read_to_string(folder.join("pkgconfig").join(format!("{package}.pc"))).expect("a pkg-config file");
    let list = file.lines().find_map(|line| line.strip_prefix("Libs.private: ")).expect("a link list");
    list.split_whitespace().map(str::to_owned).collect()
}
