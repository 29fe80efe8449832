//! Whole generations through llama.cpp, drafting against plain: samplers, limits, faults, cancellation.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use aded::config::{Config, DraftConfig, DraftMode};
use aded::llama::{ContextParams, Model, SamplerChain, SamplingParams, Target};
use aded::model::TargetModel;
use aded::{CancelFlag, Error, Finish, Request, Session, Stats, Token};

use super::faulty::{Fault, Faulty, When, drain};
use super::models::Architecture;
use super::sampling::chains;
use super::{small, tiny};

fn config(mode: DraftMode) -> Config {
    Config { draft: DraftConfig { mode, ..DraftConfig::default() }, ..Config::default() }
}

fn session(model: Arc<Model>, params: &ContextParams, mode: DraftMode) -> Session<Target> {
    Session::new(Target::new(model, params).unwrap(), config(mode)).unwrap()
}

/// What a generation said, and how it went.
struct Answer {
    tokens: Vec<Token>,
    result: Result<(), Error>,
    finish: Option<Finish>,
    stats: Stats,
}

fn generate<T: TargetModel>(
    session: &mut Session<T>,
    model: &Arc<Model>,
    params: &SamplingParams,
    request: &Request<'_>,
) -> Answer {
    let mut sampler = SamplerChain::new(model, params).unwrap();
    sampler.accept_prompt(request.prompt).unwrap();
    let mut generation = session.generate(request, &mut sampler).unwrap();
    let (tokens, result) = drain(&mut generation);
    Answer { tokens, result, finish: generation.finish(), stats: generation.stats().clone() }
}

fn greedy<T: TargetModel>(session: &mut Session<T>, model: &Arc<Model>, prompt: &[Token], n_max: usize) -> Answer {
    generate(session, model, &SamplingParams::greedy(), &Request { prompt, n_max, end_tokens: &[] })
}

fn prompt(seed: u32, n: u32) -> Vec<Token> {
    (0..n).map(|index| Token(4 + (seed * 91 + index * index * 17 + index * 3) % 300)).collect()
}

#[test]
fn every_chain_says_in_a_session_what_it_says_without_drafts() {
    let model = tiny();
    let prompt = prompt(5, 20);
    let mut plain = session(model.clone(), &small(), DraftMode::Off);
    let request = Request { prompt: &prompt, n_max: 70, end_tokens: &model.end_tokens() };
    for (name, params) in chains() {
        let expected = generate(&mut plain, &model, &params, &request);
        expected.result.unwrap();
        let mut drafting = session(model.clone(), &small(), DraftMode::On);
        // The second time the text is known, and most of it is accepted.
        for round in 0..2 {
            let answer = generate(&mut drafting, &model, &params, &request);
            answer.result.unwrap();
            assert_eq!((&answer.tokens, answer.finish), (&expected.tokens, expected.finish), "{name}");
            if round == 1 {
                assert!(answer.stats.n_accepted > answer.stats.n_tokens / 4, "{name}: {}", answer.stats);
            }
        }
    }
}

#[test]
fn a_chain_without_temperature_still_applies_what_it_is_made_of() {
    let model = tiny();
    let prompt = prompt(5, 20);
    let request = Request { prompt: &prompt, n_max: 40, end_tokens: &[] };
    let mut drafting = session(model.clone(), &small(), DraftMode::On);
    let plain = greedy(&mut drafting, &model, &prompt, 40).tokens;
    let forbidden = SamplingParams { logit_bias: vec![(plain[3], f32::NEG_INFINITY)], ..SamplingParams::greedy() };
    let answer = generate(&mut drafting, &model, &forbidden, &request);
    assert!(!answer.tokens.contains(&plain[3]), "a forbidden token was said");
    let letters = SamplingParams { grammar: Some("root ::= [a-e]+".to_owned()), ..SamplingParams::greedy() };
    let answer = generate(&mut drafting, &model, &letters, &request);
    let text = model.detokenize(&answer.tokens, false).unwrap();
    assert!(text.len() >= 20 && text.bytes().all(|byte| (b'a'..=b'e').contains(&byte)), "{text:?}");
}

#[test]
fn a_grammar_that_comes_to_an_end_is_an_error_and_no_more() {
    let model = tiny();
    let prompt = prompt(2, 20);
    let ends = SamplingParams { grammar: Some("root ::= \"abc\"".to_owned()), ..SamplingParams::greedy() };
    let mut forbids = ends.clone();
    forbids.ignore_end(&model);
    let request = Request { prompt: &prompt, n_max: 40, end_tokens: &model.end_tokens() };
    let mut drafting = session(model.clone(), &small(), DraftMode::On);
    let expected = greedy(&mut drafting, &model, &prompt, 30).tokens;
    for _ in 0..2 {
        let answer = generate(&mut drafting, &model, &ends, &request);
        answer.result.unwrap();
        assert_eq!(
            (model.detokenize(&answer.tokens, false).unwrap().as_str(), answer.finish),
            ("abc", Some(Finish::Stop))
        );
        let error = generate(&mut drafting, &model, &forbids, &request).result.unwrap_err();
        assert!(error.is_target() && error.to_string().contains("no token"), "{error}");
        assert_eq!(greedy(&mut drafting, &model, &prompt, 30).tokens, expected);
    }
}

#[test]
fn json_schemas_hold_with_drafts() {
    let model = tiny();
    let schema = r#"{"type": "object", "properties": {"n": {"type": "integer"}, "ok": {"type": "boolean"}},
                     "required": ["n", "ok"], "additionalProperties": false}"#;
    let grammar = Some(aded::llama::json_schema_to_grammar(schema).unwrap());
    let prompt = prompt(7, 20);
    let end_tokens = model.end_tokens();
    let mut n_whole = 0;
    let mut drafting = session(model.clone(), &small(), DraftMode::On);
    let mut plain = session(model.clone(), &small(), DraftMode::Off);
    for seed in 0..12 {
        let params = SamplingParams { grammar: grammar.clone(), seed, temperature: 3.0, ..SamplingParams::default() };
        let request = Request { prompt: &prompt, n_max: 120, end_tokens: &end_tokens };
        let answer = generate(&mut drafting, &model, &params, &request);
        answer.result.unwrap();
        assert_eq!(answer.tokens, generate(&mut plain, &model, &params, &request).tokens);
        if answer.finish == Some(Finish::Stop) {
            let text = model.detokenize(&answer.tokens, false).unwrap();
            let value: serde_json::Value =
                serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
            assert!(value["n"].is_i64() && value["ok"].is_boolean(), "{text}");
            n_whole += 1;
        }
    }
    assert!(n_whole > 0, "no answer came to its end");
}

#[test]
fn a_shifted_context_goes_on_as_plain_decoding_does_on_every_memory() {
    let params = ContextParams { n_ctx: 256, ..small() };
    for architecture in Architecture::ALL {
        let model = architecture.model();
        let prompt = prompt(3, 40);
        let mut plain = session(model.clone(), &params, DraftMode::Off);
        plain.set_context_shift(Some(8)).unwrap();
        let expected = greedy(&mut plain, &model, &prompt, 700);
        expected.result.unwrap();
        assert!(expected.stats.n_shifts >= 3, "{architecture:?}: {}", expected.stats);
        assert_eq!(expected.tokens.len(), 700);
        let mut drafting = session(model.clone(), &params, DraftMode::On);
        drafting.set_context_shift(Some(8)).unwrap();
        for round in 0..2 {
            let answer = greedy(&mut drafting, &model, &prompt, 700);
            answer.result.unwrap();
            assert_eq!(answer.tokens, expected.tokens, "{architecture:?}");
            assert!(round == 0 || answer.stats.n_accepted > 200, "{architecture:?}: {}", answer.stats);
        }
    }
}

#[test]
fn a_window_that_cannot_be_shifted_says_so() {
    let params = ContextParams { swa_full: false, ..small() };
    let mut session = session(Architecture::Gemma3.model(), &params, DraftMode::On);
    let error = session.set_context_shift(Some(0)).unwrap_err();
    assert!(error.is_usage() && error.to_string().contains("cannot be shifted"), "{error}");
}

#[test]
fn the_end_of_the_context_and_end_tokens_cut_drafts() {
    let params = ContextParams { n_ctx: 256, ..small() };
    for architecture in Architecture::ALL {
        let model = architecture.model();
        let prompt = prompt(3, 40);
        let mut plain = session(model.clone(), &params, DraftMode::Off);
        let expected = greedy(&mut plain, &model, &prompt, usize::MAX).tokens;
        assert_eq!(expected.len(), 256 - 40 + 1);
        let mut drafting = session(model.clone(), &params, DraftMode::On);
        for _ in 0..2 {
            let answer = greedy(&mut drafting, &model, &prompt, usize::MAX);
            answer.result.unwrap();
            assert_eq!((answer.tokens.as_slice(), answer.finish), (&expected[..], Some(Finish::Length)));
        }
        for at in [0, 1, 2, 7, 30, 31, 32, 33, 100] {
            let end = [expected[at]];
            let first = expected.iter().position(|token| *token == end[0]).unwrap();
            let request = Request { prompt: &prompt, n_max: usize::MAX, end_tokens: &end };
            let answer = generate(&mut drafting, &model, &SamplingParams::greedy(), &request);
            assert_eq!((answer.tokens.as_slice(), answer.finish), (&expected[..=first], Some(Finish::Stop)));
        }
    }
}

#[test]
fn prompts_just_under_at_and_over_both_sizes_of_a_batch() {
    // 128 rows a call, 64 at once.
    for architecture in Architecture::ALL {
        let model = architecture.model();
        let mut drafting = session(model.clone(), &small(), DraftMode::On);
        let mut plain =
            session(model.clone(), &ContextParams { n_batch: 512, n_ubatch: 512, ..small() }, DraftMode::Off);
        for n_prompt in [1, 63, 64, 65, 127, 128, 129, 191, 192, 193, 257] {
            let prompt = prompt(n_prompt, n_prompt);
            let expected = greedy(&mut plain, &model, &prompt, 12).tokens;
            let answer = greedy(&mut drafting, &model, &prompt, 12);
            answer.result.unwrap();
            assert_eq!(answer.tokens, expected, "{architecture:?}: a prompt of {n_prompt}");
        }
    }
}

#[test]
fn later_turns_of_a_chat_are_right_on_every_memory() {
    for architecture in Architecture::ALL {
        for swa_full in [true, false] {
            let params = ContextParams { swa_full, ..small() };
            let model = architecture.model();
            let mut chat = prompt(9, 30);
            let mut drafting = session(model.clone(), &params, DraftMode::On);
            for turn in 0..4u32 {
                let mut fresh = session(model.clone(), &params, DraftMode::Off);
                let expected = greedy(&mut fresh, &model, &chat, 25).tokens;
                let answer = greedy(&mut drafting, &model, &chat, 25);
                answer.result.unwrap();
                assert_eq!(answer.tokens, expected, "{architecture:?} turn {turn}");
                if turn > 0 {
                    let reused = answer.stats.n_prompt_reused as usize;
                    assert_eq!(
                        reused,
                        chat.len() - 10,
                        "{architecture:?}: all but the answer's last token and the question"
                    );
                }
                chat.extend(answer.tokens);
                chat.extend(prompt(turn, 9));
            }
            // Another beginning, another chat.
            let other: Vec<Token> = chat[..40].iter().copied().chain(prompt(77, 20)).collect();
            let expected = greedy(&mut session(model.clone(), &params, DraftMode::Off), &model, &other, 25).tokens;
            assert_eq!(greedy(&mut drafting, &model, &other, 25).tokens, expected, "{architecture:?}");
        }
    }
}

#[test]
fn a_fault_at_any_call_leaves_a_session_that_works_on_every_memory() {
    let params = ContextParams { n_batch: 64, max_logits_rows: 32, ..small() };
    let window = ContextParams { swa_full: false, ..params.clone() };
    let replay = ContextParams { n_state_snapshots: 0, ..params.clone() };
    let kinds = Architecture::ALL.map(|architecture| (architecture, &params));
    for (architecture, params) in
        kinds.into_iter().chain([(Architecture::Gemma3, &window), (Architecture::Lfm2, &replay)])
    {
        let model = architecture.model();
        // Longer than a call and than the sliding window.
        let (first, second) = (prompt(1, 150), prompt(2, 70));
        let mut plain = session(model.clone(), params, DraftMode::Off);
        let expected = [&first, &second].map(|prompt| greedy(&mut plain, &model, prompt, 40).tokens);
        let target = Faulty::new(Target::new(model.clone(), params).unwrap());
        let mut drafting = Session::new(target, config(DraftMode::On)).unwrap();
        assert_eq!(greedy(&mut drafting, &model, &first, 40).tokens, expected[0]);
        for fault in Fault::ALL {
            for when in [When::Before, When::After, When::Keep] {
                for call in [0, 1, 2, 3, 4, 6, 9] {
                    let what = format!(
                        "{architecture:?} {:?} {fault:?} {when:?} call {call}",
                        drafting.target().inner.memory_kind()
                    );
                    drafting.reset();
                    drafting.target_mut().arm(fault, when, call);
                    let answer = greedy(&mut drafting, &model, &first, 40);
                    assert_eq!(answer.tokens, expected[0][..answer.tokens.len()], "{what}");
                    let struck = drafting.target().fault.is_none();
                    let ended = answer.result.is_err() || answer.finish == Some(Finish::Cancelled);
                    assert!(!struck || ended || fault == Fault::Full, "{what}: {:?}", answer.finish);
                    drafting.target_mut().fault = None;
                    let again = greedy(&mut drafting, &model, &first, 40);
                    assert!(again.result.is_ok(), "{what}: {:?}", again.result);
                    assert_eq!(again.tokens, expected[0], "{what}");
                    assert_eq!(greedy(&mut drafting, &model, &second, 40).tokens, expected[1], "{what}");
                }
            }
        }
    }
}

/// Raises a flag after a while.
fn raise_after(flag: &CancelFlag, wait: Duration) -> thread::JoinHandle<()> {
    let flag = flag.clone();
    thread::spawn(move || {
        thread::sleep(wait);
        flag.cancel();
    })
}

#[test]
fn cancelling_from_another_thread_ends_the_round_or_the_prompt_under_way() {
    let params = ContextParams { n_ctx: 1024, n_batch: 1024, ..small() };
    for architecture in Architecture::ALL {
        let model = architecture.model();
        let long = prompt(4, 900);
        let flag = CancelFlag::new();
        let mut target = Target::new(model.clone(), &params).unwrap();
        target.set_cancel_flag(flag.clone());
        let mut target = Faulty::new(target);
        target.watched = Some(flag.clone());
        let mut drafting = Session::new(target, config(DraftMode::On)).unwrap();
        drafting.set_cancel_flag(flag.clone());
        let expected = greedy(&mut drafting, &model, &long, 60);
        let (mut in_prompt, mut in_answer) = (0, 0);
        for wait in 0..30 {
            drafting.reset();
            drafting.target_mut().n_after_cancel = 0;
            let raiser = raise_after(&flag, Duration::from_micros(wait * 700));
            let answer = greedy(&mut drafting, &model, &long, 60);
            raiser.join().unwrap();
            answer.result.unwrap();
            if answer.finish == Some(Finish::Cancelled) {
                assert_eq!(answer.tokens, expected.tokens[..answer.tokens.len()], "{architecture:?}");
                *if answer.tokens.is_empty() { &mut in_prompt } else { &mut in_answer } += 1;
                // Raised between the look at the flag and the call, which looks again.
                assert!(drafting.target().n_after_cancel <= 1, "{architecture:?}");
            } else {
                assert_eq!(answer.tokens, expected.tokens);
            }
            flag.reset();
            // What the memory holds of the cancelled call is reused, or made anew.
            let again = greedy(&mut drafting, &model, &long, 60);
            again.result.unwrap();
            assert_eq!(again.tokens, expected.tokens, "{architecture:?} after {wait}");
        }
        println!("{architecture:?}: cancelled {in_prompt} times in the prompt, {in_answer} in the answer");
        assert!(in_prompt > 0, "{architecture:?}");
    }
}
