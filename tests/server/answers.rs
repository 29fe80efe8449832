//! Text: the same whatever the interface, streamed or whole, drafted or not; and all that shapes it.

use serde_json::{Value, json};

use crate::http::post;
use crate::{Server, greedy, question};

/// The text of a streamed chat.
fn chat_text(events: &[Value]) -> String {
    events.iter().filter_map(|event| event["choices"][0]["delta"]["content"].as_str()).collect()
}

#[test]
fn a_chat_is_the_same_whole_and_in_pieces() {
    let server = Server::tiny(&["--spec", "on"]);
    let mut body = question("the hen and the hen");
    let whole = server.ask("/v1/chat/completions", &body);
    let choice = &whole["choices"][0];
    assert_eq!((&whole["object"], &choice["message"]["role"]), (&json!("chat.completion"), &json!("assistant")));
    assert_eq!((&choice["finish_reason"], &whole["usage"]["completion_tokens"]), (&json!("length"), &json!(24)));
    let usage = &whole["usage"];
    let total = usage["prompt_tokens"].as_u64().unwrap() + 24;
    assert_eq!(usage["total_tokens"], total);
    body["stream"] = true.into();
    body["stream_options"] = json!({"include_usage": true});
    body["timings_per_token"] = true.into();
    let reply = server.post("/v1/chat/completions", &body);
    assert!(reply.body.ends_with(b"data: [DONE]\n\n"));
    let events = reply.events();
    assert_eq!(chat_text(&events), choice["message"]["content"]);
    assert_eq!(events[0]["choices"][0]["delta"]["role"], "assistant");
    assert!(events.iter().all(|event| event["object"] == "chat.completion.chunk" && event["id"] == events[0]["id"]));
    let last = &events[events.len() - 1];
    assert_eq!((&last["choices"], &last["usage"]["completion_tokens"]), (&json!([]), &json!(24)));
    assert!(last["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap() > 0, "the prompt was held");
    let end = &events[events.len() - 2];
    assert_eq!((&end["choices"][0]["finish_reason"], &end["timings"]["predicted_n"]), (&json!("length"), &json!(24)));
    assert!(events[1]["timings"]["predicted_n"].as_u64().is_some_and(|n| n > 0), "times so far");
}

#[test]
fn all_interfaces_give_the_same_text() {
    let server = Server::tiny(&[]);
    let native = server.ask("/completion", &greedy("the hen", 20));
    assert_eq!(
        (&native["stop_type"], &native["tokens_predicted"], &native["truncated"]),
        (&json!("limit"), &json!(20), &json!(false))
    );
    assert_eq!(native["tokens"].as_array().unwrap().len(), 20);
    let mut body = greedy("the hen", 20);
    body["max_tokens"] = 20.into();
    let openai = server.ask("/v1/completions", &body);
    assert_eq!((&openai["choices"][0]["text"], &openai["object"]), (&native["content"], &json!("text_completion")));
    body["echo"] = true.into();
    let echoed = server.ask("/v1/completions", &body)["choices"][0]["text"].clone();
    assert_eq!(echoed.as_str().unwrap(), format!("the hen{}", native["content"].as_str().unwrap()));
    body["stream"] = true.into();
    let events = server.post("/v1/completions", &body).events();
    let text: String = events.iter().filter_map(|event| event["choices"][0]["text"].as_str()).collect();
    assert_eq!(text, echoed.as_str().unwrap());
    let events = server.post("/completion", &body).events();
    let text: String = events.iter().filter_map(|event| event["content"].as_str()).collect();
    assert_eq!(text, native["content"].as_str().unwrap());
    let tokens: Vec<Value> = events.iter().flat_map(|event| event["tokens"].as_array().unwrap().clone()).collect();
    assert_eq!(Value::from(tokens), native["tokens"]);
    assert_eq!(events[events.len() - 1]["stop"], true);
    // Token ids, and texts among them, make the same prompt.
    let ids = server.ask("/tokenize", &json!({"content": "the hen", "add_special": true}))["tokens"].clone();
    let mut body = greedy("", 20);
    body["prompt"] = ids;
    assert_eq!(server.ask("/completion", &body)["content"], native["content"]);
}

#[test]
fn drafts_change_nothing_and_each_request_can_do_without() {
    let server = Server::tiny(&["--spec", "on", "--spec-budget", "8"]);
    let prompt = "an hen and an hen and an hen and an";
    let mut body = greedy(prompt, 60);
    body["speculative"] = json!({"enabled": false});
    let plain = server.ask("/completion", &body);
    assert!(plain["timings"].get("draft_n").is_none(), "{}", plain["timings"]);
    body["speculative"] = json!({"enabled": true});
    let drafted = server.ask("/completion", &body);
    assert_eq!(drafted["tokens"], plain["tokens"]);
    assert!(
        drafted["timings"]["draft_n"].as_u64().unwrap() > 0
            && drafted["timings"]["draft_n_accepted"].as_u64().unwrap() > 0
    );
    assert!(drafted["timings"]["tokens_per_round"].as_f64().unwrap() > 1.0);
    body["speculative"] = json!({"budget": 2, "report": true});
    body["stream"] = true.into();
    let events = server.post("/completion", &body).events();
    let n_drafted: Vec<u64> = events.iter().filter_map(|event| event["draft"]["n_drafted"].as_u64()).collect();
    assert!(n_drafted.iter().all(|&n| n <= 2) && n_drafted.contains(&2), "{n_drafted:?}");
    let pieces = events.iter().flat_map(|event| event["draft"]["pieces"].as_array().cloned().unwrap_or_default());
    let (drafted, all): (Vec<Value>, Vec<Value>) = {
        let all: Vec<Value> = pieces.collect();
        (all.iter().filter(|piece| piece["drafted"] == true).cloned().collect(), all)
    };
    assert!(!drafted.is_empty() && drafted.len() < all.len());
    let text: String = all.iter().filter_map(|piece| piece["text"].as_str()).collect();
    assert_eq!(text, plain["content"].as_str().unwrap());
    for wrong in [json!({"budget": 64}), json!({"enabled": "yes"}), json!(true)] {
        body["speculative"] = wrong;
        server.post("/completion", &body).fails(400, "speculative");
    }
}

#[test]
fn seeds_biases_stops_and_limits_shape_the_text() {
    let server = Server::tiny(&[]);
    let sampled = |seed: i64| {
        let body = json!({"prompt": "the", "n_predict": 24, "temperature": 1.5, "seed": seed, "ignore_eos": true, "return_tokens": true});
        server.ask("/completion", &body)["tokens"].clone()
    };
    assert_eq!(sampled(7), sampled(7));
    assert_ne!(sampled(7), sampled(8));
    assert_ne!(sampled(-1), sampled(-1), "another one each time");
    assert_eq!(sampled(1 << 40), sampled(1 << 40), "clients send 64 bits");
    let free = server.ask("/completion", &greedy("the", 12));
    let first = free["tokens"][0].as_u64().unwrap();
    for bias in [json!([[first, false]]), json!({first.to_string(): -100}), json!([[first, -100]])] {
        let mut body = greedy("the", 12);
        body["logit_bias"] = bias;
        let tokens = server.ask("/completion", &body)["tokens"].clone();
        assert!(!tokens.as_array().unwrap().contains(&first.into()), "{tokens}");
    }
    // A stop string in the middle ends the text before it.
    let text = free["content"].as_str().unwrap();
    let characters: Vec<char> = text.chars().collect();
    let stop: String = characters[4..6].iter().collect();
    let mut body = greedy("the", 12);
    body["stop"] = json!([stop, "never"]);
    let stopped = server.ask("/completion", &body);
    assert_eq!(stopped["content"].as_str().unwrap(), &text[..text.find(&stop).unwrap()]);
    assert_eq!((&stopped["stop_type"], &stopped["stopping_word"]), (&json!("word"), &json!(stop)));
    body["max_tokens"] = 12.into();
    assert_eq!(server.ask("/v1/completions", &body)["choices"][0]["finish_reason"], "stop");
    // An answer ends with the context at the latest.
    let full = server.ask("/completion", &greedy("the", 100_000));
    let n = full["tokens_evaluated"].as_u64().unwrap() + full["tokens_predicted"].as_u64().unwrap();
    assert_eq!((n, &full["stop_type"]), (513, &json!("limit")), "the last token is never decoded");
    assert_eq!(server.ask("/completion", &greedy("the", 0))["content"], "");
}

#[test]
fn probabilities_are_those_of_the_model() {
    let server = Server::tiny(&["--spec", "on"]);
    let mut body = greedy("the hen", 12);
    body["n_probs"] = 3.into();
    let answer = server.ask("/completion", &body);
    let rows = answer["completion_probabilities"].as_array().unwrap();
    assert_eq!(rows.len(), 12);
    for (row, token) in rows.iter().zip(answer["tokens"].as_array().unwrap()) {
        let top = row["top_logprobs"].as_array().unwrap();
        assert_eq!((&row["id"], top.len()), (token, 3));
        assert_eq!((&top[0]["id"], &top[0]["logprob"]), (token, &row["logprob"]), "greedy takes the likeliest");
        let sum: f64 = top.iter().map(|entry| entry["logprob"].as_f64().unwrap().exp()).sum();
        assert!(sum > 0.0 && sum <= 1.00001, "{sum}");
        assert!(top.windows(2).all(|pair| pair[0]["logprob"].as_f64() >= pair[1]["logprob"].as_f64()));
    }
    let mut chat = question("the hen");
    chat["logprobs"] = true.into();
    chat["top_logprobs"] = 2.into();
    let whole = server.ask("/v1/chat/completions", &chat)["choices"][0]["logprobs"]["content"].clone();
    assert_eq!((whole.as_array().unwrap().len(), whole[0]["top_logprobs"].as_array().unwrap().len()), (24, 2));
    chat["stream"] = true.into();
    let events = server.post("/v1/chat/completions", &chat).events();
    let streamed: Vec<Value> = events
        .iter()
        .flat_map(|event| event["choices"][0]["logprobs"]["content"].as_array().cloned().unwrap_or_default())
        .collect();
    let ids = |rows: &[Value]| rows.iter().map(|row| row["id"].as_u64().unwrap()).collect::<Vec<_>>();
    assert_eq!(ids(&streamed), ids(whole.as_array().unwrap()));
    let older = server.ask(
        "/v1/completions",
        &json!({"prompt": "the hen", "max_tokens": 5, "temperature": 0, "logprobs": 2, "ignore_eos": true}),
    );
    let older = &older["choices"][0]["logprobs"];
    for name in ["tokens", "token_logprobs", "top_logprobs", "text_offset"] {
        assert_eq!(older[name].as_array().unwrap().len(), 5, "{name}");
    }
    server
        .post("/v1/chat/completions", &json!({"messages": [{"role": "user", "content": "x"}], "top_logprobs": 2}))
        .fails(400, "logprobs");
}

#[test]
fn grammars_hold_in_every_slot_and_wrong_ones_are_refused() {
    let server = Server::tiny(&["-np", "2", "--spec", "on"]);
    let mut body = greedy("the", 24);
    body["ignore_eos"] = false.into();
    body["grammar"] = "root ::= [a-c]+ \"!\" [x-z]".into();
    let others = std::thread::scope(|scope| {
        let other = scope.spawn(|| server.ask("/completion", &greedy("an hen", 40)));
        for temperature in [0.0, 1.0] {
            body["temperature"] = temperature.into();
            let answer = server.ask("/completion", &body);
            let text = answer["content"].as_str().unwrap();
            let (letters, rest) = text.split_once('!').unwrap_or((text, "x"));
            assert!(letters.chars().all(|c| ('a'..='c').contains(&c)), "{text:?}");
            assert!(rest.chars().all(|c| ('x'..='z').contains(&c)) && rest.len() <= 1, "{text:?}");
        }
        other.join().unwrap()
    });
    assert_eq!(others["tokens"], server.ask("/completion", &greedy("an hen", 40))["tokens"]);
    let mut object = question("the");
    object["response_format"] = json!({"type": "json_object"});
    object["max_tokens"] = 200.into();
    object["logit_bias"] = json!([["}", 30], ["\"", 5]]);
    let answer = server.ask("/v1/chat/completions", &object);
    let text = answer["choices"][0]["message"]["content"].as_str().unwrap();
    assert!(text.starts_with('{'), "{text}");
    if answer["choices"][0]["finish_reason"] == "stop" {
        serde_json::from_str::<Value>(text).unwrap_or_else(|error| panic!("{error}: {text}"));
    }
    for (grammar, part) in
        [("root ::= (", "does not parse"), ("x ::= \"a\"", "root"), (&*"(".repeat(500), "nests groups 500 deep")]
    {
        body["grammar"] = grammar.into();
        server.post("/completion", &body).fails(400, part);
    }
}

#[test]
fn a_prompt_that_is_held_is_not_read_again() {
    let server = Server::tiny(&["-np", "2"]);
    let long = "the hen and the hat ".repeat(10);
    let first = server.ask("/completion", &greedy(&long, 8));
    assert_eq!((&first["timings"]["cache_n"], &first["tokens_evaluated"]), (&json!(0), &first["timings"]["prompt_n"]));
    let again = server.ask("/completion", &greedy(&long, 8));
    assert_eq!((&again["timings"]["prompt_n"], &again["id_slot"]), (&json!(1), &first["id_slot"]));
    assert_eq!(again["tokens"], first["tokens"]);
    let further = server.ask("/completion", &greedy(&format!("{long}and the man"), 8));
    assert!(further["timings"]["cache_n"].as_u64().unwrap() > 50 && further["id_slot"] == first["id_slot"]);
    // Another text takes the slot that has rested.
    assert_ne!(server.ask("/completion", &greedy("zebra, man, zebra", 2))["id_slot"], first["id_slot"]);
    let mut body = greedy(&long, 8);
    body["cache_prompt"] = false.into();
    let fresh = server.ask("/completion", &body);
    assert_eq!((&fresh["timings"]["cache_n"], &fresh["tokens"]), (&json!(0), &first["tokens"]));
    body["id_slot"] = 1.into();
    assert_eq!(server.ask("/completion", &body)["id_slot"], 1);
    body["id_slot"] = 2.into();
    server.post("/completion", &body).fails(400, "id_slot is 2");
}

#[test]
fn several_requests_at_once_give_what_each_gives_alone() {
    let server = Server::tiny(&["-np", "3", "--spec", "on", "--spec-budget", "6", "-ub", "64"]);
    let prompts =
        ["the hen and the hen and the", "an", &"a man and the hat ".repeat(20), "zebra", "the hen", "and then an"];
    let alone: Vec<Value> = prompts.iter().map(|prompt| server.ask("/completion", &greedy(prompt, 60))).collect();
    let together: Vec<Value> = std::thread::scope(|scope| {
        let asked: Vec<_> =
            prompts.iter().map(|prompt| scope.spawn(|| server.ask("/completion", &greedy(prompt, 60)))).collect();
        asked.into_iter().map(|answer| answer.join().unwrap()).collect()
    });
    for ((prompt, alone), together) in prompts.iter().zip(&alone).zip(&together) {
        assert_eq!(alone["tokens"], together["tokens"], "{prompt:?}");
    }
}

#[test]
fn calls_of_tools_come_apart_from_text() {
    // A template that puts a call into the model's mouth would be no test; a grammar that leaves no choice is the model's own answer.
    let server = Server::tiny(&[]);
    let tools = json!([{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]);
    let mut body = question("call f");
    body["tools"] = tools.clone();
    body["max_tokens"] = 200.into();
    body["grammar"] = r#"root ::= "hm <tool_call>{\"name\": \"f\", \"arguments\": {\"a\": 1}}</tool_call>""#.into();
    let whole = server.ask("/v1/chat/completions", &body);
    let choice = &whole["choices"][0];
    assert_eq!(
        (&choice["finish_reason"], &choice["message"]["content"]),
        (&json!("tool_calls"), &json!("hm ")),
        "{whole}"
    );
    let call = &choice["message"]["tool_calls"][0];
    assert_eq!(
        (&call["type"], &call["function"]),
        (&json!("function"), &json!({"name": "f", "arguments": "{\"a\":1}"}))
    );
    body["stream"] = true.into();
    let events = server.post("/v1/chat/completions", &body).events();
    assert_eq!(chat_text(&events), "hm ");
    let calls: Vec<&Value> =
        events.iter().filter_map(|event| event["choices"][0]["delta"]["tool_calls"].get(0)).collect();
    assert_eq!((calls.len(), &calls[0]["index"], &calls[0]["function"]["name"]), (1, &json!(0), &json!("f")));
    assert_eq!(events[events.len() - 1]["choices"][0]["finish_reason"], "tool_calls");
    // The template knows no tools, so that the system message tells of them; the answer then goes back as a message.
    let prompt =
        server.ask("/apply-template", &json!({"messages": body["messages"], "tools": tools}))["prompt"].clone();
    assert!(
        prompt.as_str().unwrap().starts_with("<s>system: You may call functions")
            && prompt.as_str().unwrap().contains("\"name\":\"f\"")
    );
    let none =
        server.ask("/apply-template", &json!({"messages": body["messages"], "tools": tools, "tool_choice": "none"}));
    assert_eq!(none["prompt"], "<s>user: call f<|turn|>");
    let history = json!([{"role": "user", "content": "x"}, {"role": "assistant", "content": null, "tool_calls": [{"id": "abc", "type": "function", "function": {"name": "f", "arguments": "{}"}}]}, {"role": "tool", "tool_call_id": "abc", "content": "4"}]);
    assert!(
        server.ask("/apply-template", &json!({ "messages": history }))["prompt"]
            .as_str()
            .unwrap()
            .ends_with("tool: 4<|turn|>")
    );
    for (name, value) in [
        ("tools", json!([1])),
        ("tools", json!("f")),
        ("tool_choice", json!("maybe")),
        ("tool_choice", json!({"type": "function", "function": {"name": "g"}})),
    ] {
        let mut wrong = question("x");
        wrong["tools"] = tools.clone();
        wrong[name] = value;
        server.post("/v1/chat/completions", &wrong).fails(400, name);
    }
}

#[test]
fn thoughts_come_apart_from_text() {
    let server = Server::tiny(&[]);
    let mut body = question("x");
    body["max_tokens"] = 100.into();
    body["grammar"] = r#"root ::= "<think>hm</think>yes""#.into();
    let message = server.ask("/v1/chat/completions", &body)["choices"][0]["message"].clone();
    assert_eq!((&message["reasoning_content"], &message["content"]), (&json!("hm"), &json!("yes")));
    body["reasoning_format"] = "none".into();
    let message = server.ask("/v1/chat/completions", &body)["choices"][0]["message"].clone();
    assert_eq!(message["content"], "<think>hm</think>yes");
}

#[test]
fn prompts_that_do_not_fit_are_refused_with_both_numbers() {
    let server = Server::tiny(&[]);
    let reply = server.post("/completion", &greedy(&"x".repeat(600), 4));
    reply.fails(400, "the context holds 512");
    let error = reply.json(400)["error"].clone();
    assert_eq!((&error["type"], &error["n_ctx"]), (&json!("exceed_context_size_error"), &json!(512)));
    assert!(error["n_prompt_tokens"].as_u64().unwrap() > 512);
    server.post("/completion", &json!({"prompt": []})).fails(400, "empty");
    server.post("/completion", &json!({"prompt": ["a", "b"]})).fails(501, "2 prompts");
    server.post("/completion", &json!({"prompt": "x", "n": 2})).fails(501, "n is above 1");
    post(&server.address, "/completion", b"{}").fails(400, "prompt is missing");
}

#[test]
fn progress_through_a_prompt_is_reported() {
    let server = Server::tiny(&["-ub", "64"]);
    let mut body = greedy(&"the hen and the hat ".repeat(20), 2);
    body["stream"] = true.into();
    body["return_progress"] = true.into();
    let events = server.post("/completion", &body).events();
    let steps: Vec<(u64, u64)> = events
        .iter()
        .filter_map(|event| {
            Some((event["prompt_progress"]["processed"].as_u64()?, event["prompt_progress"]["total"].as_u64()?))
        })
        .collect();
    assert!(steps.len() >= 2 && steps.windows(2).all(|pair| pair[0].0 < pair[1].0), "{steps:?}");
    assert!(steps.iter().all(|step| step.1 == steps[0].1) && steps[steps.len() - 1].0 == steps[0].1, "{steps:?}");
}

#[test]
fn schemas_hold_in_each_of_their_forms_and_force_calls() {
    let server = Server::tiny(&["--spec", "on", "-c", "1024"]);
    let schema = json!({"type": "object", "properties": {"a": {"enum": ["x", "y"]}, "b": {"enum": [1, 2]}}, "required": ["a", "b"], "additionalProperties": false});
    let holds = |text: &str| {
        let value: Value = serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"));
        assert!(
            ["x", "y"].contains(&value["a"].as_str().unwrap()) && [1, 2].contains(&value["b"].as_u64().unwrap()),
            "{value}"
        );
    };
    let mut body = json!({"prompt": "the", "n_predict": 200, "temperature": 1, "json_schema": schema});
    holds(server.ask("/completion", &body)["content"].as_str().unwrap());
    for format in [
        json!({"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}),
        json!({"type": "json_schema", "schema": schema}),
        json!({"type": "json_object", "schema": schema}),
    ] {
        let mut chat = question("the");
        chat["max_tokens"] = 200.into();
        chat["response_format"] = format;
        holds(server.ask("/v1/chat/completions", &chat)["choices"][0]["message"]["content"].as_str().unwrap());
    }
    body["json_schema"] = json!({"type": "nothing"});
    server.post("/completion", &body).fails(400, "schema");
    let tools = ["f", "g"].map(|name| json!({"type": "function", "function": {"name": name, "parameters": schema}}));
    for (choice, names) in
        [(json!("required"), vec!["f", "g"]), (json!({"type": "function", "function": {"name": "g"}}), vec!["g"])]
    {
        let mut chat = question("the");
        chat["max_tokens"] = 300.into();
        chat["tools"] = json!(tools);
        chat["tool_choice"] = choice;
        let choice = server.ask("/v1/chat/completions", &chat)["choices"][0].clone();
        assert_eq!(choice["finish_reason"], "tool_calls", "{choice}");
        let call = &choice["message"]["tool_calls"][0]["function"];
        assert!(names.contains(&call["name"].as_str().unwrap()), "{call}");
        holds(call["arguments"].as_str().unwrap());
    }
}
