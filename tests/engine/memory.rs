//! Every kind of memory that llama.cpp has: drafts of all shapes that it takes, against plain decoding.

use std::collections::BTreeSet;

use aded::draft::DraftTree;
use aded::llama::{ContextParams, MemoryKind, Target};
use aded::model::{DraftShape, TargetModel};
use aded::{NodeId, Slot, Token};

use super::models::{Architecture, WINDOW};
use super::rounds::{Round, tree};
use super::{plain_with_gap, prompt, small};
use crate::gguf::Weights;

const N_ROUNDS: usize = 300;

/// A prompt on whose continuation the best two logits stay more than 1 apart, with the continuation.
fn clear_prompt(architecture: Architecture, n: usize) -> (Vec<Token>, Vec<Token>) {
    let model = architecture.model();
    (0u32..400)
        .map(|seed| (0..25).map(|index| Token(4 + (seed * 91 + index * index * 17 + index * 3) % 300)).collect())
        .find_map(|start: Vec<Token>| {
            let (output, gap) = plain_with_gap(&model, &start, n, 1.0)?;
            (gap > 1.0).then_some((start, output))
        })
        .unwrap_or_else(|| panic!("no prompt of {architecture:?} stays clear"))
}

/// A chain of the truth that goes wrong at a random depth, or not at all.
fn chain(truth: &[Token], max_nodes: usize, random: &mut Weights) -> DraftTree {
    let mut draft = DraftTree::new();
    let mut at: Option<NodeId> = None;
    let n_nodes = random.below(max_nodes as u32 + 1) as usize;
    let wrong = random.below(max_nodes as u32 + 4) as usize;
    for (depth, &token) in truth.iter().take(n_nodes).enumerate() {
        let token = if depth == wrong { Token(token.0 ^ 1) } else { token };
        at = Some(draft.add(at, token, 0.5));
    }
    draft
}

/// At least [`N_ROUNDS`] rounds of drafts round the truth on one target, from the prompt again whenever the truth is used up. Gives how
/// often so many nodes were accepted, and rejected after so many, by depth.
fn rounds(target: &mut Target, start: &[Token], truth: &[Token], name: &str) -> ([usize; 16], [usize; 16]) {
    let mut random = Weights::new(31);
    let limits = target.limits();
    let max_nodes = limits.max_logits_rows as usize - 1;
    let (mut accepted, mut rejected) = ([0; 16], [0; 16]);
    let mut n_rounds = 0;
    while n_rounds < N_ROUNDS {
        target.truncate(Slot(0), 0).unwrap();
        let mut output = vec![prompt(target, Slot(0), start)];
        while output.len() < truth.len() {
            // Now and then the whole draft is wrong.
            let wrong: Vec<Token> = truth[output.len()..].iter().take(8).map(|token| Token(token.0 ^ 1)).collect();
            let left = if random.below(8) == 0 { &wrong } else { &truth[output.len()..] };
            let draft = match limits.shape {
                DraftShape::Tree => tree(left, limits.max_leaves.into(), max_nodes, &mut random),
                DraftShape::Chain => chain(left, max_nodes.min(8), &mut random),
                DraftShape::Nothing => DraftTree::new(),
            };
            let round = Round::run(target, output[output.len() - 1], &draft);
            accepted[round.accepted.len().min(15)] += 1;
            if draft.len() > round.accepted.len() {
                rejected[round.accepted.len().min(15)] += 1;
            }
            output.extend(&round.accepted);
            output.push(round.bonus);
            assert_eq!(
                target.n_committed(Slot(0)) as usize,
                start.len() + output.len() - 1,
                "{name} after {n_rounds} rounds"
            );
            let n = output.len().min(truth.len());
            assert_eq!(output[..n], truth[..n], "{name} after {n_rounds} rounds");
            n_rounds += 1;
        }
    }
    (accepted, rejected)
}

fn check(architecture: Architecture, params: &ContextParams, kind: MemoryKind, shape: DraftShape) {
    let name = format!("{architecture:?}, {kind}");
    let mut target = Target::new(architecture.model(), params).unwrap();
    assert_eq!((target.memory_kind(), target.limits().shape), (kind, shape), "{name}");
    let (start, truth) = clear_prompt(architecture, 300);
    let different: BTreeSet<Token> = truth.iter().copied().collect();
    assert!(different.len() > 40, "{name}: only {} different tokens in the plain output", different.len());
    let (accepted, rejected) = rounds(&mut target, &start, &truth, &name);
    println!("{name}: rounds by accepted {accepted:?}, by where they went wrong {rejected:?}");
    let depths = if shape == DraftShape::Tree { 6 } else { 8 };
    assert!(accepted[..=depths].iter().all(|&n| n > 0), "{name}: accepted at every depth {accepted:?}");
    assert!(rejected[..depths].iter().all(|&n| n > 0), "{name}: rejected at every depth {rejected:?}");
}

#[test]
fn trees_in_cells() {
    check(Architecture::Llama, &small(), MemoryKind::Cells, DraftShape::Tree);
}

#[test]
fn trees_in_cells_with_a_sliding_window_kept_in_full() {
    check(Architecture::Gemma3, &small(), MemoryKind::Cells, DraftShape::Tree);
}

#[test]
fn chains_in_a_sliding_window() {
    let params = ContextParams { swa_full: false, ..small() };
    check(Architecture::Gemma3, &params, MemoryKind::Window(WINDOW), DraftShape::Chain);
}

#[test]
fn chains_on_a_state_that_is_saved_and_run_forward_again() {
    check(Architecture::Mamba, &small(), MemoryKind::Replay, DraftShape::Chain);
    let params = ContextParams { n_state_snapshots: 0, ..small() };
    check(Architecture::Lfm2, &params, MemoryKind::Replay, DraftShape::Chain);
}

#[test]
fn chains_on_a_state_with_snapshots() {
    check(Architecture::Lfm2, &small(), MemoryKind::Snapshots(8), DraftShape::Chain);
}
