//! Clients that people have: curl, and the official Python package of OpenAI.

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

#[test]
fn the_openai_package_finds_what_it_expects() {
    // A Python that has the package: .ci/run makes one.
    let Some(python) = std::env::var_os("ADED_OPENAI_PYTHON") else {
        eprintln!("skipped: set ADED_OPENAI_PYTHON to a Python with the package openai");
        return;
    };
    let Some(model) = fetched(SMOLLM2) else { return };
    let server = Server::spawn(&["-m", model.to_str().unwrap(), "-c", "2048", "--api-key", "secret"]);
    server.wait_until_ready();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/server/openai_client.py");
    let base = format!("http://{}", server.address);
    let output =
        Command::new(python).args([script, &base, "secret"]).output().expect("ADED_OPENAI_PYTHON names a program");
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{stdout}\n{stderr}");
    assert_eq!(stdout.lines().filter(|line| line.ends_with(": ok")).count(), 8, "{stdout}");
}
