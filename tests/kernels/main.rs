//! Our kernels inside llama.cpp, whole models against its own kernels and against themselves. A process of its own: the kernels are
//! switched for a whole process.

#![allow(unreachable_pub, missing_docs)]

#[path = "../support/answers.rs"]
mod answers;
#[path = "../engine/gguf.rs"]
#[allow(dead_code)]
mod gguf;
#[path = "../support/models.rs"]
mod models;
mod near_stock;
mod perplexity;
mod same_bits;
mod sampled;

use std::sync::{Arc, Mutex, PoisonError};

use aded::batch::DraftBatch;
use aded::draft::DraftTree;
use aded::kernels::{Feature, Features};
use aded::llama::{ContextParams, Kernels, Model, ModelParams, Target, kernel_counts, kernels_enable};
use aded::model::TargetModel;
use aded::{Pos, RowId, Slot, Token};

pub const SMOLLM2: &str = "SmolLM2-135M-Instruct.Q4_1.gguf";
pub const GEMMA3: &str = "gemma-3-270m-q4_k_m.gguf";

/// Some 20 KB of prose and questions that hardly ever change.
pub fn text() -> Vec<u8> {
    let parts = [
        include_str!("../../benches/prompts/mixed.jsonl"),
        include_str!("../../LICENSE-APACHE"),
        include_str!("../../LICENSE-MIT"),
    ];
    let mut text = parts.concat().into_bytes();
    assert!(text.len() >= 20_000, "{} bytes", text.len());
    text.truncate(20_000);
    text
}

/// A model that `make models` fetches. Its weights are placed with the kernels that are switched on now.
pub fn load(name: &str) -> Arc<Model> {
    let path = models::fetched(name).unwrap_or_else(|| panic!("{name} is missing: run `make models` first"));
    Model::load(path, &ModelParams::default()).unwrap()
}

/// Our kernels on every instruction set of this machine, the fastest first: its features are masked one by one until none is left.
pub fn each_set() -> Vec<Kernels> {
    let mut features = Features::detect();
    let mut sets = Vec::new();
    for masked in [Feature::Avx512Vnni, Feature::AvxVnni, Feature::Avx2] {
        let kernels = Kernels { features, ..Kernels::default() };
        if kernels.isa().is_some() && sets.last().is_none_or(|last: &Kernels| last.isa() != kernels.isa()) {
            sets.push(kernels);
        }
        features = features.without(masked);
    }
    assert_eq!(Kernels { features, ..Kernels::default() }.isa(), None);
    sets
}

/// What `work` gives with these kernels, which must be those that compute. Others wait.
pub fn with<T>(kernels: Kernels, work: impl FnOnce() -> T) -> T {
    static SWITCH: Mutex<()> = Mutex::new(());
    let _switch = SWITCH.lock().unwrap_or_else(PoisonError::into_inner);
    let isa = kernels_enable(&kernels);
    assert_eq!(isa, kernels.isa());
    let before = kernel_counts();
    let result = work();
    let after = kernel_counts();
    let ran = (after.n_products > before.n_products, after.n_attentions > before.n_attentions);
    assert_eq!(ran, (isa.is_some() && kernels.products, isa.is_some() && kernels.attention), "{isa:?}");
    kernels_enable(&Kernels::off());
    result
}

/// One thread for one row and two for several, so that a difference between threads would show.
pub fn params(n_ctx: u32, max_logits_rows: u32) -> ContextParams {
    ContextParams { n_ctx, max_logits_rows, n_threads: 1, n_threads_batch: 2, ..ContextParams::default() }
}

/// Decodes text behind what slot 0 holds.
pub fn prompt(target: &mut Target, tokens: &[Token]) {
    for piece in tokens.chunks(512) {
        let mut batch = DraftBatch::new();
        batch.push_prompt(Slot(0), Pos(target.n_committed(Slot(0))), piece, true);
        target.decode(&batch).unwrap();
        target.keep(Slot(0), RowId(piece.len() as u32 - 1)).unwrap();
    }
}

/// Decodes tokens behind what slot 0 holds in calls of `n` rows, and shows the logits after each one.
pub fn rows(target: &mut Target, tokens: &[Token], n: usize, mut see: impl FnMut(usize, &[f32])) {
    for (call, tokens) in tokens.chunks(n).enumerate() {
        let mut chain = DraftTree::new();
        let mut parent = None;
        for &token in &tokens[1..] {
            parent = Some(chain.add(parent, token, 0.5));
        }
        let mut batch = DraftBatch::new();
        let mut row = batch.push_draft(Slot(0), Pos(target.n_committed(Slot(0))), tokens[0], &chain);
        target.decode(&batch).unwrap();
        for index in 0..tokens.len() {
            see(call * n + index, target.logits(row));
            row = tokens.get(index + 1).map_or(row, |&token| batch.child(row, token).unwrap());
        }
        target.keep(Slot(0), row).unwrap();
    }
}

/// As [`rows`]; gives all logits.
pub fn logits(target: &mut Target, tokens: &[Token], n: usize) -> Vec<f32> {
    let mut all = Vec::new();
    rows(target, tokens, n, |_, logits| all.extend_from_slice(logits));
    all
}
