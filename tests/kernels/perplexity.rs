//! The perplexity of a text is the same with our kernels as with llama.cpp's.

use aded::llama::{Kernels, Target};
use aded::model::TargetModel;
use aded::{Slot, Token};

use crate::{GEMMA3, SMOLLM2, each_set, load, params, rows, text, with};

/// Tokens of a window; each begins anew.
const WINDOW: usize = 512;
/// Rows of a call.
const CALL: usize = 128;

/// The negative logarithm of the probability of each token of the text but the first of each window.
fn losses(name: &str, kernels: Kernels) -> Vec<f64> {
    with(kernels, || {
        let model = load(name);
        let tokens: Vec<Token> = model.tokenize_prompt(&text()).unwrap();
        let mut target = Target::new(model, &params(WINDOW as u32, CALL as u32)).unwrap();
        let mut losses = Vec::new();
        for window in tokens.chunks(WINDOW) {
            target.truncate(Slot(0), 0).unwrap();
            rows(&mut target, window, CALL, |index, logits| {
                losses.extend(window.get(index + 1).map(|&next| loss(logits, next)));
            });
        }
        losses
    })
}

/// The negative logarithm of a token's probability.
fn loss(logits: &[f32], token: Token) -> f64 {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|&logit| f64::from((logit - largest).exp())).sum();
    sum.ln() + f64::from(largest) - f64::from(logits[token.0 as usize])
}

/// Rounding moves each token's loss by chance: it must not move the mean by more than 0.1 % beyond what that chance makes of it.
fn check(name: &str) {
    let Some(&kernels) = each_set().first() else { return };
    let (stock, ours) = (losses(name, Kernels::off()), losses(name, kernels));
    let n = stock.len() as f64;
    assert!(n > 4000.0 && stock.len() == ours.len(), "{n} and {} tokens", ours.len());
    let mean = |losses: &[f64]| losses.iter().sum::<f64>() / n;
    let moved: Vec<f64> = ours.iter().zip(&stock).map(|(ours, stock)| ours - stock).collect();
    let by = mean(&moved);
    let error = (moved.iter().map(|moved| (moved - by).powi(2)).sum::<f64>() / (n - 1.0) / n).sqrt();
    let (stock, ours) = (mean(&stock).exp(), mean(&ours).exp());
    println!("{name}: perplexity {ours}, llama.cpp's {stock}; the logarithms differ by {by}, standard error {error}");
    assert!(by.abs() <= 0.001 + 3.0 * error, "{name}: {ours} instead of {stock}, standard error {error}");
}

#[test]
fn of_the_default_model() {
    check(SMOLLM2);
}

#[test]
fn of_a_model_with_a_sliding_window() {
    check(GEMMA3);
}
