//! Requests that are no requests: each gives an error of the client's, and nobody else is the worse for it.

use std::io::{Read as _, Write as _};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use serde_json::{Map, Value, json};

use crate::http::{connect, post};
use crate::{Server, greedy};

const PATHS: [&str; 6] =
    ["/v1/chat/completions", "/v1/completions", "/completion", "/tokenize", "/detokenize", "/apply-template"];

/// Names that some path knows.
const NAMES: [&str; 40] = [
    "messages",
    "prompt",
    "content",
    "tokens",
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "seed",
    "stop",
    "max_tokens",
    "n_predict",
    "n_probs",
    "logprobs",
    "top_logprobs",
    "logit_bias",
    "grammar",
    "json_schema",
    "response_format",
    "tools",
    "tool_choice",
    "stream",
    "stream_options",
    "speculative",
    "id_slot",
    "cache_prompt",
    "ignore_eos",
    "repeat_penalty",
    "repeat_last_n",
    "mirostat",
    "dry_sequence_breakers",
    "chat_template_kwargs",
    "reasoning_format",
    "add_special",
    "with_pieces",
    "t_max_predict_ms",
    "n",
    "echo",
    "return_progress",
    "timings_per_token",
];

/// A server that the tests here share. It ends with the last one that uses it: what a static holds would outlive the process.
fn server() -> Arc<Server> {
    static SERVER: Mutex<Weak<Server>> = Mutex::new(Weak::new());
    let mut shared = SERVER.lock().unwrap_or_else(PoisonError::into_inner);
    shared.upgrade().unwrap_or_else(|| {
        let server = Arc::new(Server::tiny(&["-np", "2", "-n", "4"]));
        *shared = Arc::downgrade(&server);
        server
    })
}

fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        (-5i64..200).prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "\\PC{0,12}".prop_map(Value::from),
        prop::sample::select(vec![
            "user",
            "system",
            "assistant",
            "json_object",
            "json_schema",
            "auto",
            "required",
            "root ::= \"a\"",
            "root ::= [",
            "function"
        ])
        .prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 24, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::vec(
                (
                    prop_oneof![
                        "[a-z_]{1,8}",
                        prop::sample::select(vec![
                            "role",
                            "content",
                            "type",
                            "function",
                            "name",
                            "parameters",
                            "schema",
                            "properties",
                            "enabled",
                            "budget",
                            "text"
                        ])
                        .prop_map(str::to_owned)
                    ],
                    inner
                ),
                0..5
            )
            .prop_map(|pairs| Value::Object(pairs.into_iter().collect())),
        ]
    })
}

/// The answer to a body must be one of a server that is well.
fn check(server: &Server, path: &str, body: &[u8]) -> Result<(), TestCaseError> {
    let reply = post(&server.address, path, body);
    let text = String::from_utf8_lossy(&reply.body).into_owned();
    prop_assert!(matches!(reply.status, 200 | 400 | 413 | 501), "{path}: {} {text}", reply.status);
    if reply.status != 200 {
        let error: Value =
            serde_json::from_str(&text).map_err(|error| TestCaseError::fail(format!("{error}: {text}")))?;
        prop_assert!(error["error"]["message"].as_str().is_some_and(|message| !message.is_empty()), "{text}");
        prop_assert!(text.len() < 2000, "an error need not quote all of it: {text}");
    }
    Ok(())
}

#[test]
fn hundreds_of_odd_objects_get_an_answer_each() {
    let server = server();
    let mut runner = TestRunner::new(Config { cases: 400, failure_persistence: None, ..Config::default() });
    let fields = prop::collection::vec((prop::sample::select(NAMES.to_vec()), any_value()), 0..6);
    let reference = server.ask("/completion", &greedy("the hen", 20))["tokens"].clone();
    runner
        .run(&(prop::sample::select(PATHS.to_vec()), fields, any::<bool>()), |(path, fields, is_sound)| {
            let mut object = Map::new();
            if is_sound {
                // Something that would be answered, but for the odd fields.
                object.insert("prompt".to_owned(), "the".into());
                object.insert("content".to_owned(), "the".into());
                object.insert("messages".to_owned(), json!([{"role": "user", "content": "the"}]));
            }
            object.extend(fields.into_iter().map(|(name, value)| (name.to_owned(), value)));
            // A text that asks for a long answer is no fault; it would only take long.
            for name in ["max_tokens", "n_predict"] {
                if object.get(name).is_some_and(|value| value.as_f64().is_some_and(|n| !(0.0..=8.0).contains(&n))) {
                    object.insert(name.to_owned(), 8.into());
                }
            }
            check(&server, path, Value::Object(object).to_string().as_bytes())
        })
        .unwrap();
    assert_eq!(server.ask("/completion", &greedy("the hen", 20))["tokens"], reference);
}

#[test]
fn hundreds_of_damaged_texts_get_an_answer_each() {
    let server = server();
    let mut runner = TestRunner::new(Config { cases: 200, failure_persistence: None, ..Config::default() });
    let sound = json!({"messages": [{"role": "user", "content": "the é"}], "prompt": "the", "content": "x", "max_tokens": 2, "stop": ["a"], "logit_bias": {"5": -1}});
    let sound = sound.to_string().into_bytes();
    let damage = prop::collection::vec((0..sound.len(), any::<u8>()), 1..4);
    runner
        .run(&(prop::sample::select(PATHS.to_vec()), damage, 0..sound.len()), |(path, damage, length)| {
            let mut body = sound.clone();
            for (at, byte) in damage {
                body[at] = byte;
            }
            check(&server, path, &body)?;
            check(&server, path, &body[..length])
        })
        .unwrap();
}

#[test]
fn deep_long_and_wrong_bodies_are_refused() {
    let server = server();
    let deep = "[".repeat(1 << 20);
    let objects = "{\"a\":".repeat(1 << 17);
    for path in PATHS {
        for body in [
            deep.as_bytes(),
            objects.as_bytes(),
            format!("{{\"messages\":{deep}}}").as_bytes(),
            b"\xff\xfe{}",
            b"{\"prompt\":\"\xc3\"}",
            b"{\"prompt\":\"\\ud800\"}",
            b"",
            b"null",
            b"[]",
            b"\"text\"",
            b"{\"temperature\":1e400}",
            b"{\"prompt\":\"a\"} {}",
            b"NaN",
        ] {
            let reply = post(&server.address, path, body);
            assert_eq!(reply.status, 400, "{path} {}", String::from_utf8_lossy(&reply.body));
        }
    }
    for (field, value) in [
        ("temperature", json!("hot")),
        ("temperature", json!(-1)),
        ("top_k", json!(1.5)),
        ("max_tokens", json!(1e18)),
        ("max_tokens", json!(-7)),
        ("seed", json!("1")),
        ("stop", json!([1])),
        ("stop", json!(vec!["x"; 65])),
        ("stop", json!("x".repeat(2000))),
        ("stream", json!("yes")),
        ("logit_bias", json!({"x": 1})),
        ("logit_bias", json!({"99999": 1})),
        ("n_probs", json!(101)),
        ("grammar", json!(7)),
        ("repeat_penalty", json!(0)),
        ("mirostat", json!(3)),
    ] {
        let mut body = greedy("the", 2);
        body[field] = value;
        server.post("/completion", &body).fails(400, field);
    }
    server.ask("/completion", &greedy("the", 2));
}

#[test]
fn bytes_that_are_no_http_harm_nobody() {
    let server = server();
    let long = format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(1 << 20));
    let many = format!("GET / HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(5000));
    for bytes in [
        &b"\x16\x03\x01\x02\x00\x01\x00\x01"[..],
        b"\0\0\0\0\r\n\r\n",
        b"GET\r\n\r\n",
        b"POST /completion HTTP/1.1\r\nHost: localhost\r\nContent-Length: -5\r\n\r\n",
        b"POST /completion HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n{}",
        b"POST /completion HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        long.as_bytes(),
        many.as_bytes(),
    ] {
        let mut stream = connect(&server.address);
        let _ = stream.write_all(bytes);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut reply = Vec::new();
        let _ = stream.read_to_end(&mut reply);
        assert!(reply.is_empty() || reply.starts_with(b"HTTP/1.1 4"), "{}", String::from_utf8_lossy(&reply));
    }
    server.ask("/completion", &greedy("the", 2));
}
