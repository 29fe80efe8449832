//! The server as a black box: the built program, spoken to over sockets. Most tests run it on a model of random weights that they write
//! themselves.

mod answers;
mod clients;
mod endpoints;
#[path = "../engine/gguf.rs"]
#[allow(dead_code, unreachable_pub)]
mod gguf;
mod http;
mod limits;
mod malformed;
#[path = "../support/models.rs"]
#[allow(unreachable_pub)]
mod models;
mod safety;
#[cfg(unix)]
mod signals;
mod soak;

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use http::{Reply, get, post};
use models::fetched;
use serde_json::{Value, json};

/// Longest wait for anything that will happen, on a machine that does other things as well.
const LONG: Duration = Duration::from_secs(120);

const SMOLLM2: &str = "SmolLM2-135M-Instruct.Q4_1.gguf";

/// A running server; it ends with the value.
struct Server {
    child: Child,
    address: String,
    stderr: Arc<Mutex<String>>,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    /// Starts it on the tiny model. Memory of 32 bits and attention step by step keep the noise between batch shapes far below the gaps
    /// between logits.
    fn tiny(arguments: &[&str]) -> Self {
        let exact = ["-m", tiny(), "-ctk", "f32", "-ctv", "f32", "-fa", "off", "-c", "512"];
        let server = Self::spawn(&[&exact, arguments].concat());
        server.wait_until_ready();
        server
    }

    /// Starts it on any model, and waits until it listens.
    fn spawn(arguments: &[&str]) -> Self {
        Self::start(program(), arguments)
    }

    fn start(mut command: Command, arguments: &[&str]) -> Self {
        command.args(["serve", "--port", "0"]).args(arguments);
        let mut child = command.spawn().expect("the program was built");
        let mut lines = BufReader::new(child.stderr.take().expect("a pipe")).lines();
        let stderr = Arc::new(Mutex::new(String::new()));
        let mut address = None;
        for line in lines.by_ref() {
            let line = line.expect("UTF-8");
            if let Some(of) = line.strip_prefix("listening on http://") {
                address = Some(of.to_owned());
                break;
            }
            *stderr.lock().unwrap() += &(line + "\n");
        }
        let kept = stderr.clone();
        // Nobody else empties the pipe.
        thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                *kept.lock().unwrap() += &(line + "\n");
            }
        });
        let said = stderr.lock().unwrap().clone();
        Self { child, address: address.unwrap_or_else(|| panic!("it does not listen: {said}")), stderr }
    }

    fn wait_until_ready(&self) {
        self.until("it is ready", || get(&self.address, "/health").status == 200);
    }

    /// Waits for something to become true.
    #[track_caller]
    fn until(&self, what: &str, mut is_so: impl FnMut() -> bool) {
        let begun = Instant::now();
        while !is_so() {
            assert!(begun.elapsed() < LONG, "waited in vain: {what}\n{}", self.stderr.lock().unwrap());
            thread::sleep(Duration::from_millis(20));
        }
    }

    #[track_caller]
    fn post(&self, path: &str, body: &Value) -> Reply {
        post(&self.address, path, body.to_string().as_bytes())
    }

    /// The object that a request gives; it must be answered.
    #[track_caller]
    fn ask(&self, path: &str, body: &Value) -> Value {
        self.post(path, body).json(200)
    }

    #[track_caller]
    fn get(&self, path: &str) -> Value {
        get(&self.address, path).json(200)
    }

    /// The slots that are busy.
    fn n_busy(&self) -> usize {
        let slots = self.get("/slots");
        slots.as_array().expect("a list").iter().filter(|slot| slot["is_processing"] == true).count()
    }

    #[cfg(unix)]
    fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([name, &self.child.id().to_string()]).status().expect("kill is there");
        assert!(sent.success());
    }

    /// Waits for the end of the process.
    fn wait(&mut self) -> Option<i32> {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("a child") {
                return status.code();
            }
            assert!(begun.elapsed() < LONG, "it does not end\n{}", self.stderr.lock().unwrap());
            thread::sleep(Duration::from_millis(20));
        }
    }
}

/// The program by itself.
fn program() -> Command {
    settled(Command::new(env!("CARGO_BIN_EXE_aded")))
}

/// A command with nothing of the caller's environment that changes what the program does.
fn settled(mut command: Command) -> Command {
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if (text.starts_with("ADED_") && text != "ADED_MODELS") || text.starts_with("LLAMA_") {
            command.env_remove(&name);
        }
    }
    // Tests run side by side: more threads than cores would wait for each other at every step.
    command.env("ADED_THREADS", "1").env("ADED_MEMORY", "off").env("ADED_MEMORY_DIR", scratch());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// A folder for what nobody looks at.
fn scratch() -> &'static Path {
    static FOLDER: OnceLock<tempfile::TempDir> = OnceLock::new();
    FOLDER.get_or_init(|| tempfile::tempdir().expect("a temporary folder")).path()
}

/// A model of random weights that all tests share.
fn tiny() -> &'static str {
    static FOLDER: OnceLock<(tempfile::TempDir, String)> = OnceLock::new();
    let (_, path) = FOLDER.get_or_init(|| {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("tiny.gguf");
        std::fs::write(&path, gguf::tiny_llama(7).bytes()).expect("the folder takes files");
        let path = path.to_str().expect("temporary paths are UTF-8").to_owned();
        (folder, path)
    });
    path
}

/// A greedy request of a text's continuation.
fn greedy(prompt: &str, n: usize) -> Value {
    json!({"prompt": prompt, "n_predict": n, "temperature": 0, "ignore_eos": true, "return_tokens": true})
}

/// A chat of one question.
fn question(text: &str) -> Value {
    json!({"messages": [{"role": "user", "content": text}], "temperature": 0, "max_tokens": 24})
}
