//! With our kernels seeded answers with drafts are those without, token for token.

use aded::config::DraftMode;
use aded::llama::SamplingParams;

use crate::answers::{answer, session};
use crate::{GEMMA3, SMOLLM2, each_set, load, params, with};

fn check(name: &str) {
    let Some(&kernels) = each_set().first() else { return };
    let questions = [
        "Name the planets of the solar system in order.",
        "Write a short guide to brewing tea, as a numbered list.",
        "List five fruits as JSON.",
        "Who wrote Romeo and Juliet, and when? Then say in two sentences what happens in it.",
    ];
    with(kernels, || {
        let model = load(name);
        let mut plain = session(&model, &params(1024, 16), DraftMode::Off);
        let mut drafting = session(&model, &params(1024, 16), DraftMode::On);
        let mut n_accepted = 0;
        for (seed, question) in (0u32..).zip(questions) {
            let prompt = model.tokenize_prompt(question.as_bytes()).unwrap();
            for temperature in [0.0, 0.8, 1.5] {
                let sampling = SamplingParams { seed, temperature, ..SamplingParams::default() };
                let (expected, _) = answer(&mut plain, &sampling, &prompt, 48);
                let (output, accepted) = answer(&mut drafting, &sampling, &prompt, 48);
                assert_eq!(output, expected, "{name}, seed {seed}, temperature {temperature}");
                n_accepted += accepted;
            }
        }
        println!("{name}: {n_accepted} nodes accepted");
        assert!(n_accepted > 50, "{n_accepted}");
    });
}

#[test]
fn seeded_answers_of_the_default_model_are_the_same_with_drafts() {
    check(SMOLLM2);
}

#[test]
fn seeded_answers_of_a_model_with_a_sliding_window_are_the_same_with_drafts() {
    check(GEMMA3);
}
