//! The program as a black box: what it prints, where, and how it ends. Most tests run it on a model of random weights that they write
//! themselves; `answers` needs the models that `make models` fetches.

mod answers;
#[path = "../engine/models.rs"]
#[allow(dead_code, unreachable_pub)]
mod architectures;
mod bench;
mod chat;
mod corpus;
mod doctor;
mod errors;
#[path = "../engine/gguf.rs"]
#[allow(dead_code, unreachable_pub)]
mod gguf;
#[cfg(feature = "hub")]
mod hub;
mod memory;
#[path = "../support/models.rs"]
#[allow(unreachable_pub)]
mod models;
mod output;
mod readme;
#[cfg(unix)]
mod signals;
#[cfg(unix)]
mod terminal;

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use models::fetched;

/// How a run ended, and what it said.
struct Outcome {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Outcome {
    /// Asserts that it failed with this code, in one line that holds `part`.
    #[track_caller]
    fn fails(&self, code: i32, part: &str) {
        let Outcome { stdout, stderr, .. } = self;
        assert_eq!(self.code, Some(code), "stdout: {stdout}\nstderr: {stderr}");
        assert!(stderr.contains(part), "{part:?} is not in: {stderr}");
        assert!(stderr.starts_with("error: ") && stderr.trim_end().lines().count() == 1, "not one line: {stderr}");
        assert!(stdout.is_empty(), "{stdout}");
    }

    /// As [`fails`](Self::fails), after lines of another kind.
    #[track_caller]
    #[cfg(feature = "hub")]
    fn fails_after_a_list(&self, part: &str) {
        assert_eq!(self.code, Some(2), "{}", self.stderr);
        let last = self.stderr.lines().last().unwrap_or_default();
        assert!(last.starts_with("error: ") && last.contains(part) && self.stdout.is_empty(), "{}", self.stderr);
    }

    /// Asserts that all went well and gives standard output.
    #[track_caller]
    fn text(self) -> String {
        assert_eq!(self.code, Some(0), "{}", self.stderr);
        self.stdout
    }

    /// The JSON object on standard output.
    #[track_caller]
    fn json(self) -> serde_json::Value {
        let text = self.text();
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }
}

/// The program with nothing of the caller's environment that changes what it does.
fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_aded"));
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if (text.starts_with("ADED_") && text != "ADED_MODELS") || text.starts_with("LLAMA_ARG_") || text == "NO_COLOR"
        {
            command.env_remove(&name);
        }
    }
    // No test depends on what another one taught, and none teaches the user's own models.
    command.env("ADED_MEMORY", "off").env("ADED_MEMORY_DIR", scratch());
    // Tests run side by side: more threads than cores would wait for each other at every step.
    command.env("ADED_THREADS", "1");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// A folder for what the program keeps for itself, gone with the process.
fn scratch() -> &'static Path {
    static FOLDER: OnceLock<tempfile::TempDir> = OnceLock::new();
    FOLDER.get_or_init(folder).path()
}

fn aded(arguments: &[&str]) -> Outcome {
    outcome(program().args(arguments))
}

fn outcome(command: &mut Command) -> Outcome {
    let output = command.output().expect("the program was built");
    Outcome {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).expect("standard output is UTF-8"),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// Runs it with `input` on standard input.
fn piped(arguments: &[&str], input: &[u8]) -> Outcome {
    let mut child = program().args(arguments).stdin(Stdio::piped()).spawn().expect("the program was built");
    let mut stdin = child.stdin.take().expect("a pipe");
    // A program that has nothing to do with its input may be gone before it is written.
    let _ = stdin.write_all(input);
    drop(stdin);
    let output = child.wait_with_output().expect("it ends");
    Outcome {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).expect("standard output is UTF-8"),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// A folder for the files of one test.
fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

fn write(folder: &Path, name: &str, bytes: impl AsRef<[u8]>) -> String {
    let path = folder.join(name);
    std::fs::write(&path, bytes).expect("the folder takes files");
    path.to_str().expect("temporary paths are UTF-8").to_owned()
}

/// A model of random weights that all tests share.
fn tiny() -> &'static str {
    static FOLDER: OnceLock<(tempfile::TempDir, String)> = OnceLock::new();
    let (_, path) = FOLDER.get_or_init(|| {
        let folder = folder();
        let path = write(folder.path(), "tiny.gguf", gguf::tiny_llama(7).bytes());
        (folder, path)
    });
    path
}

const SMOLLM2: &str = "SmolLM2-135M-Instruct.Q4_1.gguf";
