//! The models that `make models` fetches.

use std::fmt::{Debug, Write};
use std::iter;
use std::sync::{Arc, Mutex};

use aded::batch::DraftBatch;
use aded::draft::DraftTree;
use aded::llama::text::ChatMessage;
use aded::llama::{ContextParams, FlashAttention, Model, ModelParams, Target};
use aded::model::{DraftShape, TargetModel};
use aded::sampling::argmax;
use aded::{NodeId, Pos, RowId, Slot, Token};
use tracing::field::{Field, Visit};
use tracing::span;

use crate::fetched_models::fetched;

pub const SMOLLM2: &str = "SmolLM2-135M-Instruct.Q4_1.gguf";
pub const GEMMA3: &str = "gemma-3-270m-q4_k_m.gguf";

pub fn load(name: &str) -> Arc<Model> {
    let path = fetched(name).unwrap_or_else(|| panic!("{name} is missing: run `make models` first"));
    Model::load(path, &ModelParams::default()).unwrap()
}

fn params() -> ContextParams {
    ContextParams { n_ctx: 1024, n_threads: 1, n_threads_batch: 1, ..ContextParams::default() }
}

/// Decodes tokens alone, the last `n_tail` of them in a call of their own; gives the logits of the last row.
fn linear(target: &mut Target, tokens: &[Token], n_tail: usize) -> Vec<f32> {
    target.truncate(Slot(0), 0).unwrap();
    let (head, tail) = tokens.split_at(tokens.len() - n_tail);
    let mut logits = Vec::new();
    for piece in [head, tail].into_iter().filter(|piece| !piece.is_empty()) {
        let mut batch = DraftBatch::new();
        batch.push_prompt(Slot(0), Pos(target.n_committed(Slot(0))), piece, true);
        target.decode(&batch).unwrap();
        let last = RowId(piece.len() as u32 - 1);
        logits = target.logits(last).to_vec();
        target.keep(Slot(0), last).unwrap();
    }
    logits
}

/// How far two rows of logits lie apart at most.
fn distance(left: &[f32], right: &[f32]) -> f32 {
    left.iter().zip(right).map(|(left, right)| (left - right).abs()).fold(0.0, f32::max)
}

/// Each row of a tree against the same path decoded alone: equal but for the noise between batch shapes.
fn tree_against_linear(name: &str, params: &ContextParams) {
    let model = load(name);
    let mut target = Target::new(model.clone(), params).unwrap();
    assert_eq!(target.limits().shape, DraftShape::Tree);
    let tokens = model.tokenize_prompt(b"The three largest cities of France are Paris,").unwrap();
    let first = argmax(&linear(&mut target, &tokens, 0)).unwrap();
    let mut tree = DraftTree::new();
    let piece = |text: &str| model.tokenize(text, false, false).unwrap()[0];
    let a = tree.add(None, piece(" Lyon"), 0.3);
    let b = tree.add(None, piece(" Marseille"), 0.3);
    tree.add(Some(a), piece(","), 0.3);
    tree.add(Some(a), piece(" and"), 0.3);
    let c = tree.add(Some(b), piece(" and"), 0.3);
    tree.add(Some(c), piece(" Lyon"), 0.3);
    tree.add(None, piece(" the"), 0.1);
    let mut batch = DraftBatch::new();
    batch.push_draft(Slot(0), Pos(tokens.len() as u32), first, &tree);
    target.decode(&batch).unwrap();
    let mut alone = Target::new(model.clone(), params).unwrap();
    let rows = (0..batch.len() as u32).map(RowId);
    let expected: Vec<_> = rows
        .clone()
        .map(|row| {
            let mut path: Vec<_> = iter::successors(Some(row), |&row| batch.row(row).parent).collect();
            path.reverse();
            let path: Vec<_> = tokens.iter().copied().chain(path.into_iter().map(|row| batch.row(row).token)).collect();
            let expected = linear(&mut alone, &path, 0);
            // Quantised products round the activations, so that the logits of one path move with the shape of the batch, now and then
            // by much: as far as they do between shapes of plain batches, a tree may move them too.
            let noise =
                (1..6).map(|n_tail| distance(&linear(&mut alone, &path, n_tail), &expected)).fold(0.05, f32::max);
            (expected, noise)
        })
        .collect();
    let noise = expected.iter().map(|&(_, noise)| noise).fold(0.0, f32::max);
    let far = 1.5 * noise;
    for row in rows {
        let mut distances: Vec<_> =
            expected.iter().map(|(expected, _)| distance(target.logits(row), expected)).collect();
        let moved = distances.remove(row.0 as usize);
        let other = distances.into_iter().fold(f32::INFINITY, f32::min);
        println!(
            "{name} row {}: {moved} apart, {other} from the nearest other path, {noise} between plain shapes",
            row.0
        );
        assert!(moved <= far, "row {row:?} of {name} lies {moved} apart, {noise} between plain shapes");
        assert!(
            other > far,
            "row {row:?} of {name} cannot be told from another path: {other} apart, {noise} between plain shapes"
        );
    }
}

/// With either attention, whichever is the faster one here.
fn trees_against_linear(name: &str) {
    for flash_attention in [FlashAttention::On, FlashAttention::Off] {
        tree_against_linear(name, &ContextParams { flash_attention, ..params() });
    }
}

#[test]
fn a_tree_of_the_default_model_gives_the_logits_of_its_paths() {
    trees_against_linear(SMOLLM2);
}

#[test]
fn a_tree_of_a_model_with_a_sliding_window_gives_the_logits_of_its_paths() {
    trees_against_linear(GEMMA3);
}

#[test]
fn memory_that_keeps_the_window_alone_takes_chains() {
    let model = load(GEMMA3);
    let target = Target::new(model, &ContextParams { swa_full: false, ..params() }).unwrap();
    assert_eq!((target.limits().shape, target.limits().max_leaves), (DraftShape::Chain, 1));
}

/// Decodes a prompt and then the 24 tokens of `truth`, or greedily where it is shorter, in chains of 0 to 4 nodes of which every third
/// goes wrong at its third node. Gives the tokens and the logits they were taken from.
fn in_chains(model: &Arc<Model>, start: &[Token], swa_full: bool, truth: &[Token]) -> (Vec<Token>, Vec<Vec<f32>>) {
    let mut target = Target::new(model.clone(), &ContextParams { swa_full, ..params() }).unwrap();
    let mut rows = vec![linear(&mut target, start, 0)];
    let mut output = vec![argmax(&rows[0]).unwrap()];
    let mut batch = DraftBatch::new();
    while output.len() < 24 {
        let mut draft = DraftTree::new();
        let mut parent: Option<NodeId> = None;
        for (depth, &token) in truth.iter().skip(output.len()).take(output.len() % 5).enumerate() {
            let token = if output.len().is_multiple_of(3) && depth >= 2 { Token(token.0 ^ 1) } else { token };
            parent = Some(draft.add(parent, token, 0.5));
        }
        batch.clear();
        let mut row = batch.push_draft(Slot(0), Pos(target.n_committed(Slot(0))), output[output.len() - 1], &draft);
        target.decode(&batch).unwrap();
        loop {
            let logits = target.logits(row);
            let token = truth.get(output.len()).copied().unwrap_or_else(|| argmax(logits).unwrap());
            output.push(token);
            rows.push(logits.to_vec());
            match batch.child(row, token) {
                Some(child) => row = child,
                None => break,
            }
        }
        target.keep(Slot(0), row).unwrap();
    }
    (output, rows)
}

#[test]
fn chains_beyond_a_sliding_window_see_what_plain_decoding_sees() {
    // The window of this model is 512 tokens; the prompt goes beyond it.
    let model = load(GEMMA3);
    let text = "The history of bread, of wheat, of mills and of ovens, told from the beginning. ".repeat(34);
    let start = model.tokenize_prompt(text.as_bytes()).unwrap();
    assert!(start.len() > model.n_sliding_window() as usize + 50 && start.len() < 950, "{}", start.len());
    let (truth, _) = in_chains(&model, &start, true, &[]);
    // The same calls with all cells kept and with the window alone: a cell that is missing or wrong moves rows by whole logits.
    let (_, all) = in_chains(&model, &start, true, &truth);
    let (_, window) = in_chains(&model, &start, false, &truth);
    let farthest = all.iter().zip(&window).map(|(left, right)| distance(left, right)).fold(0.0, f32::max);
    assert!(farthest < 0.1, "rows lie up to {farthest} apart");
}

#[test]
fn chat_prompts_are_those_of_the_files_templates() {
    let smol = load(SMOLLM2);
    let messages = [ChatMessage::new("system", "Be brief."), ChatMessage::new("user", "Hi")];
    let expected = "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n";
    assert_eq!(smol.chat_prompt(&messages, true).unwrap(), expected);
    let tokens = smol.tokenize_chat(expected).unwrap();
    assert_eq!(smol.detokenize(&tokens, true).unwrap(), expected);
    assert_eq!(smol.detokenize(&tokens[..1], true).unwrap(), "<|im_start|>");
    let text = "Straße: 日本語 😀 naïve\n";
    assert_eq!(smol.detokenize(&smol.tokenize(text, false, false).unwrap(), false).unwrap(), text);
}

/// Collects the text of llama.cpp's log lines.
struct Collector(Arc<Mutex<String>>);

impl Visit for Collector {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if field.name() == "message" {
            writeln!(self.0.lock().unwrap(), "{value:?}").unwrap();
        }
    }
}

impl tracing::Subscriber for Collector {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        metadata.target() == "llama.cpp"
    }
    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }
    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn event(&self, event: &tracing::Event<'_>) {
        event.record(&mut Collector(self.0.clone()));
    }
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}
}

#[test]
fn a_vocabulary_of_262_144_tokens_keeps_its_compute_buffer_small() {
    let model = load(GEMMA3);
    let lines = Arc::new(Mutex::new(String::new()));
    // A log line that another thread reaches for the first time just now may count as unwanted until the next subscriber comes.
    for _ in 0..5 {
        tracing::subscriber::with_default(Collector(lines.clone()), || {
            Target::new(model.clone(), &ContextParams { n_ctx: 4096, ..params() }).unwrap();
        });
        if lines.lock().unwrap().contains("compute buffer size =") {
            break;
        }
    }
    let lines = lines.lock().unwrap();
    let sizes: Vec<f64> = lines
        .lines()
        .filter(|line| line.contains("compute buffer size ="))
        .map(|line| line.split('=').nth(1).unwrap().trim().split(' ').next().unwrap().parse().unwrap())
        .collect();
    assert!(!sizes.is_empty(), "no line tells the size: {lines}");
    println!("compute buffers: {sizes:?} MiB");
    assert!(sizes.iter().sum::<f64>() < 120.0, "{sizes:?} MiB");
}
