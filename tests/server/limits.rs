//! Limits: bodies, queues, times, connections; and clients that are slow, or leave.

use std::io::{BufReader, Read as _, Write as _};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use crate::http::{connect, get, read, read_chunk, read_head, request, send};
use crate::{Server, greedy};

/// A request that takes as long as the context lasts.
fn endless() -> Value {
    let mut body = greedy("the", 100_000);
    body["stream"] = true.into();
    body
}

#[test]
fn large_bodies_are_refused_before_they_are_read() {
    let server = Server::tiny(&["--body-limit", "1"]);
    let body = json!({"prompt": "x".repeat(2 << 20)}).to_string();
    let mut stream = connect(&server.address);
    let head = format!("POST /completion HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n", body.len());
    stream.write_all(head.as_bytes()).unwrap();
    read(stream).unwrap().fails(413, "1 MiB");
    // Without a length it is read as far as the limit.
    let mut stream = connect(&server.address);
    stream.write_all(b"POST /completion HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n").unwrap();
    for _ in 0..40 {
        if stream.write_all(format!("{:x}\r\n{}\r\n", 1 << 16, "x".repeat(1 << 16)).as_bytes()).is_err() {
            break;
        }
    }
    let reply = read(stream);
    assert!(reply.is_err() || reply.is_ok_and(|reply| reply.status == 413));
    server.ask("/completion", &greedy("the", 2));
}

#[test]
fn a_full_queue_turns_requests_away() {
    let server = Server::tiny(&["--queue", "1", "-c", "1024", "--metrics"]);
    let body = endless().to_string();
    let ask = || {
        let mut stream = connect(&server.address);
        stream.write_all(&request("POST", "/completion", &[], body.as_bytes())).unwrap();
        BufReader::new(stream)
    };
    let mut running = ask();
    assert_eq!(read_head(&mut running).unwrap().status, 200);
    let waiting = ask();
    let page = || String::from_utf8(get(&server.address, "/metrics").body).unwrap();
    let mut is_full = false;
    server.until("one waits", || {
        is_full |= page().contains("aded:requests_deferred 1");
        // The first may be over before the second is seen to wait.
        is_full || !page().contains("aded:requests_processing 1")
    });
    if is_full {
        let refused = send(&server.address, "POST", "/completion", &[], greedy("x", 1).to_string().as_bytes());
        if refused.status != 200 {
            refused.fails(503, "--queue");
            assert_eq!(refused.header("retry-after"), Some("1"));
        }
    }
    drop((running, waiting));
    // One that waits is in no slot yet.
    let is_idle =
        |page: &str| ["aded:requests_processing 0", "aded:requests_deferred 0"].iter().all(|line| page.contains(line));
    server.until("both are gone", || is_idle(&page()));
    server.ask("/completion", &greedy("the", 2));
}

#[test]
fn a_client_that_leaves_frees_its_slot() {
    let server = Server::tiny(&["-c", "1024", "--metrics"]);
    for is_stream in [true, false] {
        let mut body = endless();
        body["stream"] = is_stream.into();
        let mut stream = connect(&server.address);
        stream.write_all(&request("POST", "/completion", &[], body.to_string().as_bytes())).unwrap();
        if is_stream {
            let mut reader = BufReader::new(stream);
            assert_eq!(read_head(&mut reader).unwrap().status, 200);
            assert!(read_chunk(&mut reader).unwrap().is_some());
        } else {
            server.until("it runs", || server.n_busy() == 1);
        }
        // The connection is closed here, in the middle of the answer.
        server.until("the slot is free", || server.n_busy() == 0);
        let n = server.ask("/completion", &greedy("the", 4))["tokens_predicted"].clone();
        assert_eq!(n, 4);
    }
    let page = String::from_utf8(get(&server.address, "/metrics").body).unwrap();
    let total = page.lines().find_map(|line| line.strip_prefix("aded:tokens_predicted_total ")).unwrap();
    assert!(total.parse::<u64>().unwrap() < 2 * 1020, "none went on to the end: {total}");
}

#[test]
fn slow_heads_and_bodies_are_cut() {
    let server = Server::tiny(&["--timeout", "1"]);
    // A head that never ends.
    let mut stream = connect(&server.address);
    stream.write_all(b"POST /completion HTTP/1.1\r\nHost: local").unwrap();
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).unwrap();
    assert!(rest.is_empty() || rest.starts_with(b"HTTP/1.1 408"), "{}", String::from_utf8_lossy(&rest));
    // One that comes a byte at a time.
    let mut stream = connect(&server.address);
    let mut reader = stream.try_clone().unwrap();
    let feeding = thread::spawn(move || {
        for byte in b"GET /health HTTP/1.1\r\nX: ".iter().chain(std::iter::repeat_n(&b'x', 600)) {
            if stream.write_all(&[*byte]).is_err() {
                return;
            }
            thread::sleep(Duration::from_millis(50));
        }
        panic!("it took all of it");
    });
    rest.clear();
    let _ = reader.read_to_end(&mut rest);
    drop(reader);
    feeding.join().unwrap();
    // A body that never comes.
    let mut stream = connect(&server.address);
    stream.write_all(b"POST /completion HTTP/1.1\r\nHost: localhost\r\nContent-Length: 50\r\n\r\n{").unwrap();
    read(stream).unwrap().fails(408, "--timeout");
    // Connections that say nothing do not stay.
    let mut stream = connect(&server.address);
    rest.clear();
    stream.read_to_end(&mut rest).unwrap();
    server.ask("/completion", &greedy("the", 2));
}

#[test]
fn connections_beyond_the_limit_wait_and_idle_ones_make_room() {
    let server = Server::tiny(&["--connections", "2", "--timeout", "2"]);
    let idle = [connect(&server.address), connect(&server.address)];
    // Answered once an idle one has been cut.
    server.ask("/completion", &greedy("the", 2));
    drop(idle);
}

#[test]
fn a_reader_that_takes_nothing_is_cut() {
    let server = Server::tiny(&["--timeout", "1", "-c", "1024"]);
    let mut body = endless();
    // Enough to fill all buffers on the way.
    body["n_probs"] = 100.into();
    body["timings_per_token"] = true.into();
    let mut stream = connect(&server.address);
    stream.write_all(&request("POST", "/completion", &[], body.to_string().as_bytes())).unwrap();
    server.until("it is over", || server.n_busy() == 1 || !server.stderr.lock().unwrap().is_empty());
    server.until("it is over", || server.n_busy() == 0);
    server.ask("/completion", &greedy("the", 2));
}

#[test]
fn answers_end_when_their_time_is_up() {
    let server = Server::tiny(&["-c", "1024"]);
    let mut body = greedy("the", 100_000);
    body["t_max_predict_ms"] = 1.into();
    let answer = server.ask("/completion", &body);
    assert_eq!(answer["stop_type"], "limit");
    assert!(answer["tokens_predicted"].as_u64().unwrap() < 1000, "{}", answer["tokens_predicted"]);
}

#[test]
fn a_stream_that_waits_shows_signs_of_life() {
    let server = Server::tiny(&["--sse-ping-interval", "1", "-c", "1024", "-np", "1", "--queue", "4"]);
    // Long answers that run one after the other keep the last one waiting.
    let body = endless().to_string();
    let mut streams: Vec<_> = (0..4)
        .map(|_| {
            let mut stream = connect(&server.address);
            stream.write_all(&request("POST", "/completion", &[], body.as_bytes())).unwrap();
            stream
        })
        .collect();
    let reply = read(streams.pop().unwrap()).unwrap();
    let text = String::from_utf8(reply.body).unwrap();
    // On a fast machine nothing waits for a second; where it did, there are pings, and they disturb nobody.
    let data: String = text.split("\n\n").filter(|event| !event.starts_with(": ping")).collect::<Vec<_>>().join("\n\n");
    assert!(data.contains("\"stop\":true"), "{data}");
}
