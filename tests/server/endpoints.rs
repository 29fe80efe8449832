//! The paths that give no text: what is there, what is not, and in which shape.

use serde_json::json;

use crate::http::{get, post, send};
use crate::{SMOLLM2, Server, fetched};

#[test]
fn a_server_that_loads_says_so_and_then_is_ready() {
    let Some(model) = fetched(SMOLLM2) else { return };
    let server = Server::spawn(&["-m", model.to_str().unwrap(), "-c", "256"]);
    // It may have loaded already; until then nothing but this comes.
    for path in ["/health", "/v1/health", "/v1/models", "/props"] {
        let reply = get(&server.address, path);
        if reply.status != 200 {
            reply.fails(503, "Loading model");
            assert_eq!(reply.header("retry-after"), Some("1"));
        }
    }
    server.wait_until_ready();
    assert_eq!(server.get("/v1/health"), json!({"status": "ok"}));
}

#[test]
fn a_model_that_cannot_be_loaded_ends_the_server_with_one_line() {
    let mut server = Server::spawn(&["-m", "/nonexistent/model.gguf"]);
    assert_eq!(server.wait(), Some(1));
    let stderr = server.stderr.lock().unwrap().clone();
    assert!(stderr.starts_with("error: ") && stderr.contains("/nonexistent/model.gguf"), "{stderr}");
}

#[test]
fn other_ways_of_drafting_are_replaced_by_ours_with_a_warning() {
    let server = Server::tiny(&["--spec-type", "ngram-mod,draft-eagle3", "--spec-draft-n-max", "16"]);
    let stderr = server.stderr.lock().unwrap().clone();
    assert!(
        stderr.starts_with("warning: --spec-type ngram-mod,draft-eagle3 ") && stderr.contains("n-max 16"),
        "{stderr}"
    );
    let answer =
        server.ask("/completion", &json!({"prompt": "the hen and the hen and", "n_predict": 24, "temperature": 0}));
    assert!(answer["timings"]["draft_n"].as_u64().is_some(), "{answer}");
}

#[test]
fn models_props_and_slots_tell_what_runs() {
    let server = Server::tiny(&["--alias", "pet", "-np", "2", "--temp", "0.5"]);
    let models = server.get("/v1/models");
    assert_eq!(models["data"][0]["id"], "pet");
    assert_eq!(models["data"][0]["meta"]["n_vocab"], 320);
    assert_eq!(models, server.get("/models"));
    let props = server.get("/props");
    assert_eq!(
        (&props["total_slots"], &props["model_alias"], &props["eos_token"]),
        (&json!(2), &json!("pet"), &json!("</s>"))
    );
    assert_eq!(props["default_generation_settings"]["params"]["temperature"], 0.5);
    assert!(props["chat_template"].as_str().unwrap().contains("messages"));
    assert_eq!(props["model_path"], "tiny.gguf", "no folder is told");
    let slots = server.get("/slots");
    assert_eq!(slots.as_array().unwrap().len(), 2);
    assert_eq!(
        (&slots[1]["id"], &slots[1]["n_ctx"], &slots[1]["is_processing"]),
        (&json!(1), &json!(512), &json!(false))
    );
}

#[test]
fn text_becomes_tokens_and_text_again() {
    let server = Server::tiny(&[]);
    let text = "the hen, été \u{1f600}";
    let tokens = server.ask("/tokenize", &json!({"content": text, "add_special": true}))["tokens"].clone();
    assert_eq!(tokens[0], 1, "the begin token");
    let plain = server.ask("/tokenize", &json!({ "content": text }))["tokens"].clone();
    assert_eq!(plain.as_array().unwrap()[..], tokens.as_array().unwrap()[1..]);
    let back = server.ask("/detokenize", &json!({ "tokens": plain }))["content"].clone();
    assert_eq!(back.as_str().unwrap().trim_start(), text);
    let pieces = server.ask("/tokenize", &json!({"content": "é", "with_pieces": true}))["tokens"].clone();
    let pieces = pieces.as_array().unwrap();
    assert_eq!(pieces[pieces.len() - 2]["piece"], json!([0xC3]), "half a character comes as its byte");
    server.post("/detokenize", &json!({"tokens": [99999]})).fails(400, "from 0 to 319");
    server.post("/tokenize", &json!({})).fails(400, "content is missing");
}

#[test]
fn the_template_is_applied() {
    let server = Server::tiny(&[]);
    let messages = json!([{"role": "developer", "content": "be"}, {"role": "user", "content": [{"type": "text", "text": "hi"}, {"type": "text", "text": "you"}]}]);
    let prompt = server.ask("/apply-template", &json!({ "messages": messages }))["prompt"].clone();
    assert_eq!(prompt, "<s>system: be<|turn|>user: hi\nyou<|turn|>");
    let image = json!([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]);
    server.post("/apply-template", &json!({ "messages": image })).fails(501, "image_url");
    for messages in
        [json!([]), json!("x"), json!([1]), json!([{"role": 1}]), json!([{"role": "user"}]), json!([{"content": "x"}])]
    {
        let reply = server.post("/apply-template", &json!({ "messages": messages }));
        reply.fails(400, "messages");
    }
    let own = Server::tiny(&["--chat-template", "{{ messages[0].content }}!{{ mood }}"]);
    let body = json!({"messages": [{"role": "user", "content": "hi"}], "chat_template_kwargs": {"mood": "glad"}});
    assert_eq!(own.ask("/apply-template", &body)["prompt"], "hi!glad");
}

#[test]
fn what_is_not_there_says_so() {
    let server = Server::tiny(&["--no-slots", "--no-webui"]);
    get(&server.address, "/nothing").fails(404, "/nothing");
    get(&server.address, "/../../etc/passwd").fails(404, "there is no");
    get(&server.address, "/").fails(404, "there is no");
    get(&server.address, "/v1/chat/completions").fails(405, "POST");
    send(&server.address, "DELETE", "/health", &[], b"").fails(405, "another method");
    get(&server.address, "/slots").fails(501, "--no-slots");
    get(&server.address, "/metrics").fails(501, "--metrics");
    post(&server.address, "/v1/embeddings", b"{}").fails(501, "embeddings");
    post(&server.address, "/infill", b"{}").fails(501, "middle");
}

#[test]
fn the_page_comes_with_a_policy_that_lets_nothing_in() {
    let server = Server::tiny(&["--api-key", "secret"]);
    for path in ["/", "/index.html"] {
        let reply = get(&server.address, path);
        assert_eq!((reply.status, reply.header("content-type")), (200, Some("text/html; charset=utf-8")));
        assert!(reply.header("content-security-policy").unwrap().starts_with("default-src 'none';"));
        let text = String::from_utf8(reply.body).unwrap();
        assert!(!text.contains("https://") && !text.contains("src=\"http"), "nothing from elsewhere");
    }
}

#[test]
fn metrics_count_what_was_answered() {
    let server = Server::tiny(&["--metrics", "--spec", "on"]);
    let read = |name: &str| {
        let page = String::from_utf8(get(&server.address, "/metrics").body).unwrap();
        let line = page
            .lines()
            .find(|line| line.strip_prefix("aded:").is_some_and(|line| line.starts_with(&format!("{name} "))));
        let value = line.unwrap_or_else(|| panic!("{name} is not in {page}")).rsplit(' ').next().unwrap().to_owned();
        value.parse::<f64>().unwrap()
    };
    assert_eq!(read("tokens_predicted_total"), 0.0);
    let answer = server.ask("/completion", &crate::greedy("the hen and the hen and the hen", 30));
    server.until("the answer is counted", || read("answers_total") == 1.0);
    assert_eq!(read("tokens_predicted_total"), 30.0);
    assert_eq!(read("prompt_tokens_total"), answer["timings"]["prompt_n"].as_f64().unwrap());
    assert_eq!(read("spec_decode_num_draft_tokens_total"), answer["timings"]["draft_n"].as_f64().unwrap());
    assert!(read("spec_decode_num_drafts_total") > 0.0 && read("n_decode_total") > 0.0);
    let page = String::from_utf8(get(&server.address, "/metrics").body).unwrap();
    let sum = |name: &str| -> f64 {
        page.lines()
            .filter(|line| line.starts_with(&format!("aded:{name}{{")))
            .map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap())
            .sum()
    };
    assert_eq!(sum("spec_decode_num_draft_tokens_per_source_total"), read("spec_decode_num_draft_tokens_total"));
    assert_eq!(sum("spec_decode_num_accepted_tokens_per_pos_total"), read("spec_decode_num_accepted_tokens_total"));
}
