//! With our kernels a row's logits do not depend on how many rows share its call.

use aded::llama::{Kernels, Target};
use aded::model::TargetModel;
use aded::{Slot, Token};

use crate::{GEMMA3, SMOLLM2, each_set, load, logits, params, prompt, text, with};

/// Rows that are compared at each context.
const ROWS: usize = 16;

/// Behind contexts of these many tokens, 16 tokens in calls of 1 to 16 rows.
fn check(name: &str, kernels: Kernels, contexts: &[usize]) {
    with(kernels, || {
        let model = load(name);
        let tokens: Vec<Token> = model.tokenize_prompt(&text()).unwrap();
        let mut target = Target::new(model, &params(4096, ROWS as u32)).unwrap();
        let mut n_read = 0;
        for &n_context in contexts {
            prompt(&mut target, &tokens[n_read..n_context]);
            n_read = n_context;
            let next = &tokens[n_context..n_context + ROWS];
            let alone = logits(&mut target, next, 1);
            for n_rows in 2..=ROWS {
                target.truncate(Slot(0), n_context as u32).unwrap();
                let together = logits(&mut target, next, n_rows);
                let differing = alone.iter().zip(&together).filter(|(a, b)| a.to_bits() != b.to_bits()).count();
                assert_eq!(differing, 0, "{name}, {:?}: {n_context} tokens, {n_rows} rows", kernels.isa());
            }
            target.truncate(Slot(0), n_context as u32).unwrap();
        }
    });
}

#[test]
fn the_default_model_s_logits_are_the_same_for_1_to_16_rows() {
    for (index, kernels) in each_set().into_iter().enumerate() {
        check(SMOLLM2, kernels, if index == 0 { &[64, 600, 3000] } else { &[64, 600] });
    }
}

#[test]
fn those_of_a_model_with_a_sliding_window_are_the_same_for_1_to_16_rows() {
    if let Some(&kernels) = each_set().first() {
        check(GEMMA3, kernels, &[64, 600, 3000]);
    }
}
