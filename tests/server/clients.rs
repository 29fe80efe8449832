//! Clients that people have: curl, the official Python package of OpenAI, and a browser on the chat page.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::{SMOLLM2, Server, fetched, question};

#[test]
fn curl_reads_a_stream_as_its_frames_say() {
    let server = Server::tiny(&[]);
    let mut body = question("the hen");
    body["stream"] = true.into();
    let url = format!("http://{}/v1/chat/completions", server.address);
    // -d sends another content type, as everybody's first try does.
    let Ok(output) =
        Command::new("curl").args(["-sS", "-N", "-i", "--max-time", "120", &url, "-d", &body.to_string()]).output()
    else {
        eprintln!("skipped: curl is not there");
        return;
    };
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let (head, events) = text.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200") && head.contains("content-type: text/event-stream"), "{head}");
    let frames: Vec<&str> = events.split_terminator("\n\n").collect();
    assert!(frames.iter().all(|frame| frame.starts_with("data: ") && !frame.contains('\n')), "{events}");
    assert_eq!(frames[frames.len() - 1], "data: [DONE]");
    let objects = frames[..frames.len() - 1].iter().map(|frame| serde_json::from_str::<Value>(&frame[6..]).unwrap());
    let content: String =
        objects.filter_map(|object| object["choices"][0]["delta"]["content"].as_str().map(str::to_owned)).collect();
    body["stream"] = false.into();
    assert_eq!(server.ask("/v1/chat/completions", &body)["choices"][0]["message"]["content"], json!(content));
}

/// Runs a script with a Python that `variable` names, against a server with a key; `more` are its further arguments.
fn script(variable: &str, name: &str, more: &[&str], n_parts: usize) {
    // .ci/run makes one.
    let Some(python) = std::env::var_os(variable) else {
        eprintln!("skipped: set {variable} to a Python that {name} can run with");
        return;
    };
    let Some(model) = fetched(SMOLLM2) else { return };
    let server = Server::spawn(&["-m", model.to_str().unwrap(), "-c", "2048", "--api-key", "secret", "--spec", "on"]);
    server.wait_until_ready();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/server").join(name);
    let base = format!("http://{}", server.address);
    let mut command = Command::new(python);
    let output = command.arg(path).args([base.as_str(), "secret"]).args(more).output().expect("a Python");
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{stdout}\n{stderr}");
    assert_eq!(stdout.lines().filter(|line| line.ends_with(": ok")).count(), n_parts, "{stdout}");
}

#[test]
fn the_openai_package_finds_what_it_expects() {
    script("ADED_OPENAI_PYTHON", "openai_client.py", &[], 8);
}

#[test]
fn the_page_works_in_a_browser() {
    let chromium = std::env::var("ADED_CHROMIUM").unwrap_or_else(|_| "/usr/bin/chromium".to_owned());
    let folder = std::env::var("ADED_SCREENSHOTS").ok();
    let more: Vec<&str> = [chromium.as_str()].into_iter().chain(folder.as_deref()).collect();
    script("ADED_BROWSER_PYTHON", "page_client.py", &more, 6);
}
