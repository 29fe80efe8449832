//! The engine with llama.cpp: tiny models that the tests write themselves, and the real ones.

#![allow(unreachable_pub)]

#[path = "../support/answers.rs"]
mod answers;
mod distribution;
mod errors;
#[path = "../support/faulty.rs"]
mod faulty;
#[path = "../support/models.rs"]
mod fetched_models;
mod gguf;
mod memory;
mod models;
mod quantize;
mod real;
mod rounds;
mod sampling;
mod sessions;
mod soak;
mod soak_cases;
mod text;

use std::sync::{Arc, OnceLock};

use aded::batch::DraftBatch;
use aded::llama::{ContextParams, FlashAttention, Model, ModelParams, Target};
use aded::model::TargetModel;
use aded::sampling::argmax;
use aded::{Pos, RowId, Slot, Token};

/// The tiny model, written and loaded once.
pub fn tiny() -> Arc<Model> {
    static MODEL: OnceLock<Arc<Model>> = OnceLock::new();
    MODEL
        .get_or_init(|| {
            let folder = tempfile::tempdir().unwrap();
            let path = gguf::write(folder.path(), "tiny.gguf", &gguf::tiny_llama(7).bytes());
            // Not mapped, so that the file may go.
            Model::load(path, &ModelParams { use_mmap: false, ..ModelParams::default() }).unwrap()
        })
        .clone()
}

/// A small context. Keys and values of 32 bits and attention step by step keep the noise between batch shapes near 3e-5 (flash attention
/// on a CPU: 5e-2), far below the gaps between logits that the tests see to. One thread: where tests
/// run side by side, threads that wait for each other wait for other tests.
pub fn small() -> ContextParams {
    ContextParams {
        type_k: "f32".parse().unwrap(),
        type_v: "f32".parse().unwrap(),
        flash_attention: FlashAttention::Off,
        n_ctx: 512,
        n_batch: 128,
        n_ubatch: 64,
        n_threads: 1,
        n_threads_batch: 1,
        ..ContextParams::default()
    }
}

/// Decodes a prompt in one piece and gives the first token.
pub fn prompt(target: &mut Target, slot: Slot, tokens: &[Token]) -> Token {
    prompt_with_gap(target, slot, tokens).0
}

/// As `prompt`, with the distance between the two largest logits.
fn prompt_with_gap(target: &mut Target, slot: Slot, tokens: &[Token]) -> (Token, f32) {
    let mut batch = DraftBatch::new();
    let pos = target.n_committed(slot);
    batch.push_prompt(slot, Pos(pos), tokens, true);
    target.decode(&batch).unwrap();
    let last = RowId(tokens.len() as u32 - 1);
    let logits = target.logits(last);
    let token = argmax(logits).unwrap();
    let others = logits.iter().enumerate().filter(|(index, _)| *index != token.0 as usize).map(|(_, value)| *value);
    let gap = logits[token.0 as usize] - others.fold(f32::NEG_INFINITY, f32::max);
    target.keep(slot, last).unwrap();
    (token, gap)
}

/// Greedy decoding without drafts: `n` tokens after the prompt, and the smallest distance between the two largest logits on the way.
/// `None` as soon as that falls below `least`.
pub fn plain_with_gap(model: &Arc<Model>, tokens: &[Token], n: usize, least: f32) -> Option<(Vec<Token>, f32)> {
    let mut target = Target::new(model.clone(), &small()).unwrap();
    let (first, mut smallest) = prompt_with_gap(&mut target, Slot(0), tokens);
    let mut output = vec![first];
    while output.len() < n {
        if smallest < least {
            return None;
        }
        let (token, gap) = prompt_with_gap(&mut target, Slot(0), &[output[output.len() - 1]]);
        output.push(token);
        smallest = smallest.min(gap);
    }
    Some((output, smallest))
}

/// Prompts of the tiny model on whose greedy continuations the two largest logits stay clear of each other, so that no noise between
/// batch shapes can change them; each with its continuation of `n` tokens.
pub fn clear_prompts(n_prompts: usize, n: usize) -> Vec<(Vec<Token>, Vec<Token>)> {
    let candidates =
        (0u32..).map(|seed| (0..30).map(|index| Token(4 + (seed * 77 + index * index * 31 + index) % 256)).collect());
    candidates
        .filter_map(|start: Vec<Token>| {
            let (output, gap) = plain_with_gap(&tiny(), &start, n, 0.002)?;
            (gap > 0.002).then_some((start, output))
        })
        .take(n_prompts)
        .collect()
}
