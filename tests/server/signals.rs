//! The end: answers under way are finished, and no longer than allowed.

use std::io::{BufReader, Write as _};
#[cfg(target_os = "linux")]
use std::process::Command;

use serde_json::json;

use crate::http::{connect, read, read_chunk, read_head, request};
use crate::{Server, greedy};
#[cfg(target_os = "linux")]
use crate::{settled, tiny};

#[test]
fn a_request_to_stop_lets_the_answer_end() {
    for signal in ["-INT", "-TERM"] {
        let mut server = Server::tiny(&["-c", "1024"]);
        let mut stream = connect(&server.address);
        stream.write_all(&request("POST", "/completion", &[], greedy("the", 900).to_string().as_bytes())).unwrap();
        server.until("it runs", || server.n_busy() == 1);
        server.signal(signal);
        let answer = read(stream).unwrap().json(200);
        assert_eq!(answer["tokens_predicted"], 900);
        assert_eq!(server.wait(), Some(0), "{signal}");
    }
}

#[test]
fn answers_that_take_too_long_are_cut() {
    let mut server = Server::tiny(&["-c", "1024", "--drain", "0"]);
    let mut body = greedy("the", 100_000);
    body["stream"] = json!(true);
    let mut stream = connect(&server.address);
    stream.write_all(&request("POST", "/completion", &[], body.to_string().as_bytes())).unwrap();
    let mut reader = BufReader::new(stream);
    assert_eq!(read_head(&mut reader).unwrap().status, 200);
    assert!(read_chunk(&mut reader).unwrap().is_some());
    server.signal("-INT");
    assert_eq!(server.wait(), Some(0));
}

#[test]
fn a_second_request_to_stop_is_obeyed_at_once() {
    let mut server = Server::tiny(&["-c", "1024"]);
    // A connection under way keeps the first from ending it.
    let mut stream = connect(&server.address);
    stream.write_all(b"POST /completion HTTP/1.1\r\nHost: localhost\r\nContent-Length: 50\r\n\r\n{").unwrap();
    std::thread::sleep(std::time::Duration::from_millis(300));
    server.signal("-INT");
    std::thread::sleep(std::time::Duration::from_millis(300));
    server.signal("-INT");
    assert_eq!(server.wait(), Some(130));
}

#[test]
fn the_end_of_the_terminal_ends_it_in_good_order() {
    let mut server = Server::tiny(&[]);
    server.signal("-HUP");
    assert_eq!(server.wait(), Some(0));
}

#[test]
#[cfg(target_os = "linux")]
fn with_nohup_it_outlives_its_terminal() {
    let mut nohup = Command::new("nohup");
    nohup.arg(env!("CARGO_BIN_EXE_aded"));
    let mut server = Server::start(settled(nohup), &["-m", tiny()]);
    server.wait_until_ready();
    server.signal("-HUP");
    std::thread::sleep(std::time::Duration::from_millis(300));
    assert_eq!(server.get("/health")["status"], "ok");
    server.signal("-TERM");
    assert_eq!(server.wait(), Some(0));
}
