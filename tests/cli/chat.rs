//! `aded chat` from a pipe: line by line, with nothing on standard output but answers.

use serde_json::Value;

use crate::output::EXACT;
use crate::{Outcome, SMOLLM2, fetched, folder, piped, tiny, write};

const CHAT: [&str; 7] = ["chat", "-m", "", "-n", "24", "--temp", "0"];

/// `aded chat` on the tiny model with more flags and these lines.
fn chat(flags: &[&str], lines: &[&str]) -> Outcome {
    let mut arguments = CHAT.to_vec();
    arguments[2] = tiny();
    piped(&[&arguments[..], &EXACT, flags].concat(), (lines.join("\n") + "\n").as_bytes())
}

/// The objects that `--json` prints, one for each answer.
fn answers(flags: &[&str], lines: &[&str]) -> Vec<Value> {
    let text = chat(&[&["--json"], flags].concat(), lines).text();
    text.lines().map(|line| serde_json::from_str(line).expect("one object a line")).collect()
}

fn count(answer: &Value, name: &str) -> u64 {
    answer["timings"][name].as_u64().unwrap_or_else(|| panic!("{name} in {answer}"))
}

/// The messages of a conversation that was saved.
fn saved(path: &str) -> Vec<(String, String)> {
    let value: Value = serde_json::from_slice(&std::fs::read(path).expect("it was written")).expect("it is JSON");
    assert_eq!((value["format"].as_str(), value["version"].as_u64()), (Some("aded-chat"), Some(1)));
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    let messages = value["messages"].as_array().expect("messages");
    messages.iter().map(|message| (text(&message["role"]), text(&message["content"]))).collect()
}

#[test]
fn a_turn_reads_only_what_is_new() {
    // The tiny model says bytes that are no text, which can be known again only up to its answer.
    let all = answers(&[], &["tell of the hen", "and of the hat", "", "and then"]);
    assert_eq!(all.len(), 3);
    assert_eq!(count(&all[0], "cache_n"), 0);
    for pair in all.windows(2) {
        assert!(count(&pair[1], "cache_n") >= count(&pair[0], "cache_n") + count(&pair[0], "prompt_n"));
    }
    let Some(model) = fetched(SMOLLM2) else { return };
    let arguments = ["chat", "-m", model.to_str().unwrap(), "--temp", "0", "-n", "20", "--json"];
    let text = piped(&arguments, b"Name a colour.\nAnd an animal?\nThanks!\n").text();
    let mut held = 0;
    for line in text.lines() {
        let answer: Value = serde_json::from_str(line).expect("JSON");
        assert_eq!(count(&answer, "cache_n"), held);
        // The last token that was said is not decoded.
        held += count(&answer, "prompt_n") + count(&answer, "predicted_n") - 1;
    }
}

#[test]
fn drafts_do_not_change_what_is_said() {
    let said = |flags: &[&str]| {
        let answers = answers(flags, &["tell of the hen", "and of the hat", "again of the hen"]);
        answers.iter().map(|answer| answer["tokens"].clone()).collect::<Vec<_>>()
    };
    let plain = said(&["--spec", "off"]);
    assert_eq!(said(&["--spec", "on"]), plain);
    assert_eq!(said(&["--spec-budget", "8"]), plain);
}

#[test]
fn only_answers_are_on_standard_output_and_nothing_is_coloured() {
    let outcome = chat(&["--show-draft", "--spec", "on"], &["tell of the hen", "/set", "/spec"]);
    assert!(outcome.stderr.contains("temp 0,") && outcome.stderr.contains("on\n"), "{}", outcome.stderr);
    let text = outcome.text();
    assert!(!text.contains('\u{1b}') && !text.contains("> ") && !text.contains("temp"), "{text}");
    let one =
        piped(&[&["run", "-m", tiny(), "-n", "24", "--temp", "0", "-p", "tell of the hen"], &EXACT[..]].concat(), b"");
    assert_eq!(text, one.text());
    assert_eq!(chat(&[], &["tell of the hen"]).stderr, "");
    let single = chat(&["-st", "-p", "tell of the hen"], &["never read"]);
    assert_eq!(single.text(), text);
}

#[test]
fn the_speed_up_is_told_once_plain_rounds_were_measured() {
    let answers = answers(&["--spec", "off"], &["tell of the hen", "/spec on", "and of the hat"]);
    assert!(answers[0]["timings"]["speed_up"].is_null(), "{}", answers[0]);
    assert!(count(&answers[1], "draft_n") > 0);
    assert!(answers[1]["timings"]["speed_up"].as_f64().is_some_and(|factor| factor > 0.0), "{}", answers[1]);
    let outcome = chat(&["--spec", "off"], &["/stats", "tell of the hen", "/spec on", "and of the hat", "/stats full"]);
    let lines: Vec<&str> = outcome.stderr.lines().collect();
    assert_eq!(lines[0], "nothing was answered yet");
    assert!(lines[1].contains("tokens per round") && lines[1].ends_with("x the plain rate"), "{lines:?}");
    assert!(outcome.stderr.contains("depth 1 ") && outcome.stderr.contains("all 2 answers: "), "{lines:?}");
    assert!(lines.last().is_some_and(|line| line.starts_with("--spec on, drafts: tree")), "{lines:?}");
}

#[test]
fn conversations_are_saved_loaded_and_cleared() {
    let folder = folder();
    let file = folder.path().join("a chat.json").to_str().unwrap().to_owned();
    let save = format!("/save {file}");
    chat(&["-sys", "be brief"], &["one", "/read /dev/null", "\"\"\"", "two", "lines", "\"\"\"", &save]).text();
    let first = saved(&file);
    let roles: Vec<&str> = first.iter().map(|(role, _)| role.as_str()).collect();
    assert_eq!(roles, ["system", "user", "assistant", "user", "assistant"]);
    assert_eq!((first[0].1.as_str(), first[1].1.as_str(), first[3].1.as_str()), ("be brief", "one", "\ntwo\nlines"));
    // The same conversation, whether it is loaded by a flag or by a command.
    let said = |flags: &[&str], lines: &[&str]| chat(flags, &[lines, &["and then"]].concat()).text();
    let load = format!("/load \"{file}\"");
    assert_eq!(said(&["--load", &file], &[]), said(&[], &[&load]));
    chat(&["--load", &file], &["/system be long", "/clear", "three", &save]).text();
    let roles: Vec<(String, String)> = saved(&file).into_iter().take(2).collect();
    assert_eq!(roles, [("system".into(), "be long".into()), ("user".into(), "three".into())]);
    chat(&["-sys", "x"], &["/system \"\"", "one", &save]).text();
    assert_eq!(saved(&file)[0].0, "user");
}

#[test]
fn files_go_before_the_next_message() {
    let folder = folder();
    let notes = write(folder.path(), "notes.txt", "the hen\nthe hat");
    let file = folder.path().join("chat.json").to_str().unwrap().to_owned();
    let outcome = chat(&[], &[&format!("/read {notes}"), "what is in it?", "more", &format!("/save {file}")]);
    assert!(outcome.stderr.contains("16 characters go with the next message"), "{}", outcome.stderr);
    outcome.text();
    let messages = saved(&file);
    assert_eq!(messages[0].1, "the hen\nthe hat\nwhat is in it?");
    assert_eq!(messages[2].1, "more");
}

#[test]
fn an_answer_is_given_anew() {
    let folder = folder();
    let file = folder.path().join("chat.json").to_str().unwrap().to_owned();
    let flags = ["--temp", "1.5", "-s", "7", "--json"];
    let lines = ["a story", "/regen", "/regen", &format!("/save {file}")];
    let texts = |outcome: Outcome| outcome.text().lines().map(json_text).collect::<Vec<_>>();
    let said = texts(chat(&flags, &lines));
    assert_eq!(said.len(), 3);
    assert!(said[0] != said[1] && said[1] != said[2], "{said:?}");
    assert_eq!(said, texts(chat(&flags, &lines)), "a seed repeats the whole chat");
    let messages = saved(&file);
    assert_eq!((messages.len(), &messages[1].1), (2, &said[2]));
    let run = piped(&[&["run", "-m", tiny(), "-n", "24", "-p", "a story"], &flags[..], &EXACT].concat(), b"");
    assert_eq!(run.json()["text"], said[0], "the first answer is that of `aded run`");
}

fn json_text(line: &str) -> String {
    let value: Value = serde_json::from_str(line).expect("JSON");
    value["text"].as_str().expect("a text").to_owned()
}

#[test]
fn settings_count_from_the_next_answer_on() {
    let all = answers(&["--ignore-eos"], &["one", "/set predict 5", "two"]);
    assert_eq!((count(&all[0], "predicted_n"), count(&all[1], "predicted_n")), (24, 5));
    let listed = chat(&[], &["/set top_k 7", "/set --min-p 0.5", "/set temperature 0.25", "/set"]);
    assert!(listed.stderr.contains("temp 0.25, top-k 7, top-p 0.95, min-p 0.5"), "{}", listed.stderr);
    // The less common stages as well, and they are the sampler's: out of range they are refused, and Mirostat changes what is said.
    let listed = chat(&[], &["/set top_n_sigma 1.5", "/set dry-multiplier 0.8", "/set xtc-probability 0.1", "/set"]);
    for part in ["top-nsigma 1.5", "dry-multiplier 0.8", "xtc-probability 0.1", "mirostat 0"] {
        assert!(listed.stderr.contains(part), "{part}: {}", listed.stderr);
    }
    chat(&[], &["/set mirostat 3"]).fails(2, "mirostat");
    let flags = ["--ignore-eos", "-s", "5", "--temp", "1"];
    let [usual, set] = [None, Some("/set mirostat 2")].map(|set| {
        let lines: Vec<&str> = set.into_iter().chain(["one"]).collect();
        answers(&flags, &lines)[0]["text"].clone()
    });
    let by_flag = answers(&[&flags[..], &["--mirostat", "2"]].concat(), &["one"])[0]["text"].clone();
    assert!(set == by_flag && set != usual, "{usual} {set} {by_flag}");
}

#[test]
fn a_full_context_forgets_the_oldest_turns_and_keeps_the_system_prompt() {
    let folder = folder();
    let file = folder.path().join("chat.json").to_str().unwrap().to_owned();
    let mut lines: Vec<String> = (0..12).map(|n| format!("message {n} of the hen and of the hat")).collect();
    lines.push(format!("/save {file}"));
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    let outcome = chat(&["-c", "256", "-sys", "be brief", "--ignore-eos"], &lines);
    assert!(outcome.stderr.contains("the context of 256 tokens is full: the"), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("forgotten; /clear"), "{}", outcome.stderr);
    outcome.text();
    let messages = saved(&file);
    assert!(messages.len() > 2 && messages.len() < 25, "{}", messages.len());
    assert_eq!((messages[0].0.as_str(), messages[1].0.as_str()), ("system", "user"));
    assert!(messages[messages.len() - 2].1.contains("message 11 "));
    let long = "of the hen ".repeat(200);
    chat(&["-c", "256"], &[&long]).fails(2, "the context holds 256");
    let cut = chat(&["-c", "256", "-n", "-1", "--ignore-eos"], &["go on"]);
    assert!(cut.stderr.contains("the answer ends here because the context of 256 tokens is full"), "{}", cut.stderr);
}

#[test]
fn what_goes_wrong_in_a_pipe_ends_it_in_one_line() {
    chat(&[], &["/foo"]).fails(2, "/help");
    chat(&[], &["/set temp hot"]).fails(2, "temp cannot be \"hot\"");
    chat(&[], &["/set temp nan"]).fails(2, "finite");
    chat(&[], &["/set luck 1"]).fails(2, "known are temp");
    chat(&[], &["/regen"]).fails(2, "no message");
    chat(&[], &["/read /no/such/file"]).fails(1, "cannot read /no/such/file");
    chat(&[], &["/load /no/such/file"]).fails(1, "cannot read the conversation");
    chat(&[], &["/save /no/such/folder/x.json"]).fails(1, "cannot write the conversation");
    chat(&["--load", tiny()], &[]).fails(1, "holds no conversation");
    chat(&["-s", "-2"], &[]).fails(2, "seed");
    chat(&["--chat-template", "{{ raise_exception('no') }}"], &["x"]).fails(2, "refuses");
    piped(&["chat", "-m", tiny()], b"/spec off\nbad \xff byte\n")
        .fails(2, "line 2 of standard input is not valid UTF-8");
    let Some(model) = fetched("gemma-3-270m-q4_k_m.gguf") else { return };
    piped(&["chat", "-m", model.to_str().unwrap()], b"x").fails(2, "has no chat template");
}

#[test]
fn the_model_gets_all_that_was_said() {
    let Some(model) = fetched(SMOLLM2) else { return };
    let template = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}{% if \
                    add_generation_prompt %}<|im_start|>assistant\n{% endif %}";
    let flags = ["-m", model.to_str().unwrap(), "--temp", "0", "-n", "8", "--json"];
    let chat = ["chat", "-sys", "You speak plainly.", "--chat-template", template];
    let text = piped(&[&chat[..], &flags].concat(), b"Name a colour.\nAnd an animal?\n").text();
    let texts: Vec<String> = text.lines().map(json_text).collect();
    let whole = format!(
        "<|im_start|>system\nYou speak plainly.<|im_end|>\n<|im_start|>user\nName a colour.<|im_end|>\n\
         <|im_start|>assistant\n{}<|im_end|>\n<|im_start|>user\nAnd an animal?<|im_end|>\n<|im_start|>assistant\n",
        texts[0]
    );
    let run = piped(&[&["run", "-no-cnv", "-p", &whole], &flags[..]].concat(), b"").json();
    assert_eq!(run["text"], texts[1]);
}

#[test]
fn what_was_learnt_is_kept_as_by_run() {
    let folder = folder();
    let memory = folder.path().join("memory.aded");
    let kept = |flags: &[&str]| {
        chat(&[&["--memory", memory.to_str().unwrap()], flags].concat(), &["tell of the hen", "and again"]).text();
        memory.exists()
    };
    assert!(!kept(&["--spec", "off"]), "who never drafts learns nothing");
    assert!(kept(&[]));
}
