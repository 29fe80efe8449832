//! Many clients at once for a while, some of whom leave in the middle: every finished answer is the one that the same request gets alone,
//! and afterwards nothing is left behind.

use std::collections::HashMap;
use std::io::{BufReader, Write as _};
use std::thread;
use std::time::{Duration, Instant};

use rand::{RngExt as _, SeedableRng as _};
use rand_pcg::Pcg32;
use serde_json::{Value, json};

use crate::http::{connect, read_chunk, read_head, request};
use crate::{SMOLLM2, Server, fetched, program};

const QUESTIONS: [&str; 8] = [
    "Name three colours.",
    "Count from 1 to 20.",
    "Write a short poem about rain.",
    "What is the capital of France?",
    "Repeat this list twice: apple, pear, plum, apple, pear, plum.",
    "Write a Python function that adds two numbers.",
    "Explain what a tree is in two sentences.",
    "List the days of the week, one a line.",
];

/// How far apart the logarithms of a probability may lie between batch shapes. Weights and memory of 32 bits and attention step by step keep
/// it near 1e-5; one sequence that saw another's text would be off by far more.
const NOISE: f64 = 1e-3;

/// Clients and minutes: `ADED_SOAK=8,10` for the long form.
fn extent() -> (usize, Duration) {
    let text = std::env::var("ADED_SOAK").unwrap_or_else(|_| "2,1".to_owned());
    let (clients, minutes) = text.split_once(',').expect("ADED_SOAK is CLIENTS,MINUTES");
    let minutes: f64 = minutes.parse().expect("ADED_SOAK's minutes are a number");
    (clients.parse().expect("ADED_SOAK's clients are a number"), Duration::from_secs_f64(minutes * 60.0))
}

fn body(question: &str) -> Value {
    json!({"messages": [{"role": "user", "content": question}], "temperature": 0, "max_tokens": 48, "logprobs": true, "top_logprobs": 2})
}

/// A token of an answer, and the logarithms of the probabilities of the two likeliest ones.
type Row = (u64, [f64; 2]);

fn rows(answer: &Value) -> Vec<Row> {
    let rows = answer["choices"][0]["logprobs"]["content"].as_array().expect("logprobs were asked for");
    let top = |row: &Value, index: usize| row["top_logprobs"][index]["logprob"].as_f64().expect("two of them");
    rows.iter().map(|row| (row["id"].as_u64().expect("an id"), [top(row, 0), top(row, 1)])).collect()
}

/// Asserts that an answer is the one that the request got alone. True if they part at a tie, which either side may decide.
fn parts_at_a_tie(question: &str, got: &[Row], alone: &[Row]) -> bool {
    for (at, (got, alone)) in got.iter().zip(alone).enumerate() {
        let away = (got.1[0] - alone.1[0]).abs();
        assert!(away < NOISE, "{question}: {away} away at {at}: {got:?}, alone {alone:?}");
        if got.0 != alone.0 {
            assert!(alone.1[0] - alone.1[1] < NOISE, "{question}: parts at {at}: {got:?}, alone {alone:?}");
            return true;
        }
    }
    assert_eq!(got.len(), alone.len(), "{question}");
    false
}

/// Kibibytes in memory.
fn resident(server: &Server) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.child.id())).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().trim_end_matches(" kB").parse().ok()
}

/// Asks for a stream and leaves after a few events.
fn leave(server: &Server, question: &str, n_events: u32) {
    let mut body = body(question);
    body["stream"] = true.into();
    let mut stream = connect(&server.address);
    stream.write_all(&request("POST", "/v1/chat/completions", &[], body.to_string().as_bytes())).expect("it listens");
    let mut reader = BufReader::new(stream);
    assert_eq!(read_head(&mut reader).expect("an answer").status, 200);
    for _ in 0..n_events {
        if read_chunk(&mut reader).expect("a chunk").is_none() {
            break;
        }
    }
}

#[test]
fn clients_that_come_and_go_get_what_each_gets_alone() {
    let Some(model) = fetched(SMOLLM2) else { return };
    let (n_clients, time) = extent();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let exact = folder.path().join("f32.gguf");
    let made = program().args(["quantize", "--allow-requantize"]).arg(&model).arg(&exact).arg("f32").output();
    let made = made.expect("the program was built");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let n_slots = n_clients.div_ceil(2).max(2).to_string();
    let server = Server::spawn(&[
        "-m",
        exact.to_str().unwrap(),
        "-c",
        "1024",
        "-np",
        &n_slots,
        "--metrics",
        "-ctk",
        "f32",
        "-ctv",
        "f32",
        "-fa",
        "off",
    ]);
    server.wait_until_ready();
    let ask = |question: &str| rows(&server.ask("/v1/chat/completions", &body(question)));
    let alone: HashMap<&str, Vec<Row>> = QUESTIONS.iter().map(|question| (*question, ask(question))).collect();
    let end = Instant::now() + time;
    let mut after_start = None;
    let counts: Vec<(usize, usize, usize)> = thread::scope(|scope| {
        let clients: Vec<_> = (0..n_clients)
            .map(|client| {
                let (server, ask, alone) = (&server, &ask, &alone);
                scope.spawn(move || {
                    let mut random = Pcg32::seed_from_u64(client as u64);
                    let (mut n_finished, mut n_left, mut n_forked) = (0, 0, 0);
                    while Instant::now() < end {
                        let question = QUESTIONS[random.random_range(0..QUESTIONS.len())];
                        if random.random_range(0..4) == 0 {
                            leave(server, question, random.random_range(0..12));
                            n_left += 1;
                            continue;
                        }
                        n_forked += usize::from(parts_at_a_tie(question, &ask(question), &alone[question]));
                        n_finished += 1;
                    }
                    (n_finished, n_left, n_forked)
                })
            })
            .collect();
        // Memory is filled as it is used; from then on it must not grow.
        thread::sleep(time / 3);
        after_start = resident(&server);
        clients.into_iter().map(|client| client.join().expect("no client fails")).collect()
    });
    let sum = |of: fn(&(usize, usize, usize)) -> usize| counts.iter().map(of).sum::<usize>();
    let (n_finished, n_left, n_forked) = (sum(|c| c.0), sum(|c| c.1), sum(|c| c.2));
    println!("{n_finished} answers, {n_left} left in the middle, {n_forked} parted at a tie");
    assert!(n_finished > 0 && n_left > 0);
    server.until("no slot stays busy", || server.n_busy() == 0);
    let page = String::from_utf8(crate::http::get(&server.address, "/metrics").body).unwrap();
    assert!(page.contains("aded:requests_deferred 0") && page.contains("aded:requests_processing 0"), "{page}");
    if let (Some(before), Some(after)) = (after_start, resident(&server)) {
        println!("{before} KiB in memory after a third of the time, {after} KiB at the end");
        assert!(after < before + (32 << 10), "it grew from {before} to {after} KiB");
    }
    // What was learnt meanwhile changes no answer.
    for question in QUESTIONS {
        parts_at_a_tie(question, &ask(question), &alone[question]);
    }
}
