//! Trees, chains and slots through llama.cpp against plain decoding.

use std::collections::BTreeSet;

use aded::batch::DraftBatch;
use aded::draft::DraftTree;
use aded::llama::{ContextParams, HAS_KERNELS, Target};
use aded::model::{DraftShape, TargetModel};
use aded::sampling::argmax;
use aded::{NodeId, Pos, RowId, Slot, Token};

use super::{clear_prompts, prompt, small, tiny};
use crate::gguf::{N_VOCAB, Weights};

/// A tree round the true continuation: at each depth the true token (or not, which ends it), and wrong ones with branches of their own,
/// in random order, so that the accepted path ends at any leaf and at any depth.
pub fn tree(truth: &[Token], max_leaves: usize, max_nodes: usize, random: &mut Weights) -> DraftTree {
    fn add(tree: &mut DraftTree, parent: Option<NodeId>, token: Token, limits: (usize, usize)) -> Option<NodeId> {
        let fits = tree.len() < limits.1 && tree.n_leaves_with_child_of(parent) <= limits.0;
        fits.then(|| tree.add(parent, token, 0.5))
    }
    let limits = (max_leaves, max_nodes);
    let mut tree = DraftTree::new();
    let mut on_path = None;
    let depth = random.below(7) as usize;
    let truth_first = random.below(2) == 0;
    for &token in truth.iter().take(depth) {
        let n_wrong_before = if truth_first { 0 } else { random.below(3) };
        for _ in 0..n_wrong_before {
            let mut wrong = add(&mut tree, on_path, Token(random.below(N_VOCAB)), limits);
            while let (Some(parent), true) = (wrong, random.below(2) == 0) {
                wrong = add(&mut tree, Some(parent), Token(random.below(N_VOCAB)), limits);
            }
        }
        match add(&mut tree, on_path, token, limits) {
            Some(node) => on_path = Some(node),
            None => break,
        }
        if random.below(3) == 0 {
            add(&mut tree, on_path, Token(random.below(N_VOCAB)), limits);
        }
    }
    tree
}

/// The tokens of a row's path from the root on.
fn path(batch: &DraftBatch, mut row: RowId) -> Vec<Token> {
    let mut tokens = vec![batch.row(row).token];
    while let Some(parent) = batch.row(row).parent {
        tokens.push(batch.row(parent).token);
        row = parent;
    }
    tokens.reverse();
    tokens
}

/// Walks down from `row` along the largest logits; gives the last row and the token after it.
fn walk(target: &Target, batch: &DraftBatch, mut row: RowId) -> (RowId, Token) {
    loop {
        let token = argmax(target.logits(row)).unwrap();
        match batch.child(row, token) {
            Some(child) => row = child,
            None => return (row, token),
        }
    }
}

/// One round: a draft decoded, walked along the largest logits, and kept.
pub struct Round {
    /// Draft tokens that were accepted.
    pub accepted: Vec<Token>,
    /// The token after them.
    pub bonus: Token,
    /// The leaf that they lead to.
    pub leaf: u16,
}

impl Round {
    /// Runs a round in slot 0, whose last token is not decoded yet.
    pub fn run(target: &mut Target, last: Token, draft: &DraftTree) -> Self {
        let mut batch = DraftBatch::new();
        let root = batch.push_draft(Slot(0), Pos(target.n_committed(Slot(0))), last, draft);
        target.decode(&batch).unwrap();
        let (last, bonus) = walk(target, &batch, root);
        target.keep(Slot(0), last).unwrap();
        Self { accepted: path(&batch, last).split_off(1), bonus, leaf: batch.row(last).first_leaf }
    }
}

/// How far two rows of logits lie apart at most.
fn distance(left: &[f32], right: &[f32]) -> f32 {
    left.iter().zip(right).map(|(left, right)| (left - right).abs()).fold(0.0, f32::max)
}

#[test]
fn the_memory_takes_trees_and_says_its_limits() {
    let target = Target::new(tiny(), &small()).unwrap();
    let limits = target.limits();
    assert_eq!((limits.shape, limits.n_vocab, limits.n_ctx, limits.max_leaves), (DraftShape::Tree, N_VOCAB, 512, 16));
    assert_eq!((limits.max_rows, limits.max_logits_rows, limits.n_slots), (128, 64, 1));
}

#[test]
fn every_row_of_a_tree_has_the_logits_of_its_path() {
    let mut target = Target::new(tiny(), &small()).unwrap();
    let mut linear = Target::new(tiny(), &small()).unwrap();
    let mut random = Weights::new(3);
    let start: Vec<Token> = (0..20).map(|index| Token(4 + index * 7)).collect();
    let root = prompt(&mut target, Slot(0), &start);
    for _ in 0..30 {
        let wrong: Vec<Token> = (0..6).map(|_| Token(random.below(N_VOCAB))).collect();
        let tree = tree(&wrong, 8, 20, &mut random);
        let mut batch = DraftBatch::new();
        batch.push_draft(Slot(0), Pos(start.len() as u32), root, &tree);
        target.decode(&batch).unwrap();
        for row in (0..batch.len() as u32).map(RowId) {
            let mut tokens = start.clone();
            tokens.extend(path(&batch, row));
            linear.truncate(Slot(0), 0).unwrap();
            let mut alone = DraftBatch::new();
            alone.push_prompt(Slot(0), Pos(0), &tokens, true);
            linear.decode(&alone).unwrap();
            let expected = linear.logits(RowId(tokens.len() as u32 - 1));
            let got = target.logits(row);
            assert!(distance(got, expected) < 0.001, "row {row:?} lies {} apart", distance(got, expected));
            assert_eq!(argmax(got), argmax(expected));
        }
        // Nobody keeps the rows: the next call forgets them.
    }
}

/// Rounds with trees until `n` tokens are there; gives them, and how many nodes were accepted on leaf 0 and on other leaves.
fn drafted(target: &mut Target, start: &[Token], truth: &[Token], seed: u64) -> (Vec<Token>, usize, usize) {
    let limits = target.limits();
    let mut random = Weights::new(seed);
    let mut output = vec![prompt(target, Slot(0), start)];
    let (mut on_first, mut on_others) = (0, 0);
    while output.len() < truth.len() {
        let max_nodes = limits.max_logits_rows as usize - 1;
        let draft = tree(&truth[output.len()..], limits.max_leaves.into(), max_nodes, &mut random);
        let round = Round::run(target, output[output.len() - 1], &draft);
        match round.leaf {
            0 => on_first += round.accepted.len(),
            _ => on_others += round.accepted.len(),
        }
        output.extend(&round.accepted);
        output.push(round.bonus);
        assert_eq!(target.n_committed(Slot(0)) as usize, start.len() + output.len() - 1);
    }
    output.truncate(truth.len());
    (output, on_first, on_others)
}

#[test]
fn hundreds_of_rounds_with_trees_give_the_plain_output() {
    for (seed, (start, truth)) in clear_prompts(3, 400).into_iter().enumerate() {
        let mut target = Target::new(tiny(), &small()).unwrap();
        let (output, on_first, on_others) = drafted(&mut target, &start, &truth, seed as u64);
        assert_eq!(output, truth);
        assert!(on_first > 30 && on_others > 30, "{on_first} nodes accepted on leaf 0, {on_others} on others");
    }
}

#[test]
fn chains_need_one_sequence_and_give_the_plain_output() {
    let params = ContextParams { max_leaves: 1, ..small() };
    let mut target = Target::new(tiny(), &params).unwrap();
    assert_eq!((target.limits().shape, target.limits().max_leaves), (DraftShape::Chain, 1));
    let (start, truth) = clear_prompts(1, 300).remove(0);
    let (output, on_first, _) = drafted(&mut target, &start, &truth, 9);
    assert_eq!(output, truth);
    assert!(on_first > 30);
}

#[test]
fn the_plain_output_is_worth_comparing_with() {
    let (_, output) = clear_prompts(1, 300).remove(0);
    let different: BTreeSet<Token> = output.into_iter().collect();
    assert!(different.len() > 40, "only {} different tokens in 300", different.len());
}

#[test]
fn two_slots_share_their_calls_and_do_not_see_each_other() {
    let threads = ContextParams { n_threads: 2, n_threads_batch: 2, ..small() };
    let params = ContextParams { n_slots: 2, max_leaves: 6, max_logits_rows: 40, ..threads };
    let mut target = Target::new(tiny(), &params).unwrap();
    let mut random = Weights::new(21);
    let (starts, truths): (Vec<_>, Vec<_>) = clear_prompts(2, 250).into_iter().unzip();
    let mut outputs: [Vec<Token>; 2] = Default::default();
    for slot in [0, 1] {
        outputs[slot].push(prompt(&mut target, Slot(slot as u32), &starts[slot]));
    }
    let mut batch = DraftBatch::new();
    while outputs.iter().any(|output| output.len() < 250) {
        batch.clear();
        let mut roots = Vec::new();
        for (slot, output) in outputs.iter().enumerate().filter(|(_, output)| output.len() < 250) {
            let draft = tree(&truths[slot][output.len()..], 6, 18, &mut random);
            let pos = Pos((starts[slot].len() + output.len() - 1) as u32);
            roots.push((slot, batch.push_draft(Slot(slot as u32), pos, output[output.len() - 1], &draft)));
        }
        target.decode(&batch).unwrap();
        for (slot, root) in roots {
            let (last, bonus) = walk(&target, &batch, root);
            outputs[slot].extend(&path(&batch, last)[1..]);
            outputs[slot].push(bonus);
            target.keep(Slot(slot as u32), last).unwrap();
        }
    }
    for (slot, output) in outputs.iter().enumerate() {
        assert_eq!(output[..250], truths[slot], "slot {slot}");
    }
}

#[test]
fn a_prompt_larger_than_the_physical_batch_and_a_shared_beginning() {
    let mut target = Target::new(tiny(), &small()).unwrap();
    let long: Vec<Token> = (0..120).map(|index| Token(4 + index * index % 256)).collect();
    let mut pieces = Target::new(tiny(), &small()).unwrap();
    for piece in long[..100].chunks(37) {
        prompt(&mut pieces, Slot(0), piece);
    }
    let first = prompt(&mut pieces, Slot(0), &long[100..]);
    assert_eq!(prompt(&mut target, Slot(0), &long), first);
    // Another prompt with the same first 60 tokens.
    let mut other = long[..60].to_vec();
    other.extend((0..30).map(|index| Token(200 + index)));
    target.truncate(Slot(0), 60).unwrap();
    let continued = prompt(&mut target, Slot(0), &other[60..]);
    target.truncate(Slot(0), 0).unwrap();
    assert_eq!(prompt(&mut target, Slot(0), &other), continued);
}

#[test]
fn trees_with_all_the_sequences_that_there_are() {
    // 256 ids, and drafts on the last slot's, all of them siblings.
    let params = ContextParams { n_slots: 4, max_leaves: 64, ..small() };
    let mut target = Target::new(tiny(), &params).unwrap();
    let (start, truth) = clear_prompts(1, 120).remove(0);
    let (slot, mut random) = (Slot(3), Weights::new(5));
    let mut output = vec![prompt(&mut target, slot, &start)];
    let mut batch = DraftBatch::new();
    let mut n_accepted = 0;
    while output.len() + 1 < truth.len() {
        let place = random.below(63);
        let mut draft = DraftTree::new();
        for leaf in 0..63 {
            let next = truth[output.len()];
            let token = if leaf == place { next } else { Token((next.0 + 1 + leaf) % N_VOCAB) };
            draft.add(None, token, 0.01);
        }
        batch.clear();
        let root = batch.push_draft(slot, Pos(target.n_committed(slot)), output[output.len() - 1], &draft);
        target.decode(&batch).unwrap();
        let (last, bonus) = walk(&target, &batch, root);
        n_accepted += usize::from(last != root);
        output.extend(&path(&batch, last)[1..]);
        output.push(bonus);
        target.keep(slot, last).unwrap();
        target.check_sequences().unwrap();
    }
    assert_eq!(output, truth[..output.len()]);
    assert_eq!(n_accepted, (output.len() - 1) / 2, "each draft holds the truth");
    // One leaf more than there are ids is refused, and nothing has changed.
    let mut few = Target::new(tiny(), &ContextParams { max_leaves: 4, ..small() }).unwrap();
    let first = prompt(&mut few, Slot(0), &start);
    let mut wide = DraftTree::new();
    (0..5).for_each(|token| _ = wide.add(None, Token(token), 0.1));
    batch.clear();
    batch.push_draft(Slot(0), Pos(start.len() as u32), first, &wide);
    let error = few.decode(&batch).unwrap_err();
    assert!(error.to_string().contains("has 5 leaves, more than 4"), "{error}");
    few.check_sequences().unwrap();
    assert_eq!(prompt(&mut few, Slot(0), &[first]), truth[1]);
}

#[test]
fn rounds_of_changing_sizes_use_their_graphs_again() {
    if !HAS_KERNELS {
        // llama.cpp is linked from elsewhere, and its insides are out of reach.
        return;
    }
    let mut target = Target::new(tiny(), &small()).unwrap();
    let start: Vec<Token> = (0..20).map(|index| Token(4 + index * 7)).collect();
    let root = prompt(&mut target, Slot(0), &start);
    let chain = |n_nodes: u32| {
        let mut tree = DraftTree::new();
        (0..n_nodes).fold(None, |parent, node| Some(tree.add(parent, Token(300 + node), 0.5)));
        tree
    };
    let logits = |target: &mut Target, n_nodes: u32| {
        let mut batch = DraftBatch::new();
        let root = batch.push_draft(Slot(0), Pos(start.len() as u32), root, &chain(n_nodes));
        target.decode(&batch).unwrap();
        target.logits(root).to_vec()
    };
    let sizes = [0, 1, 3, 7, 15];
    let first = sizes.map(|n_nodes| logits(&mut target, n_nodes));
    for round in 1..4 {
        // After a prompt, too.
        assert_eq!(argmax(&first[0]), Some(prompt_again(&mut target, &start, root)));
        let n_before = target.n_graph_reuses();
        for (n_nodes, first) in sizes.into_iter().zip(&first) {
            assert_eq!(&logits(&mut target, n_nodes), first, "{n_nodes} nodes, round {round}");
        }
        assert_eq!(target.n_graph_reuses() - n_before, sizes.len() as u32);
    }
}

/// Decodes the prompt and what follows it anew, and gives the token after that.
fn prompt_again(target: &mut Target, start: &[Token], root: Token) -> Token {
    target.truncate(Slot(0), 0).unwrap();
    let mut tokens = start.to_vec();
    tokens.push(root);
    let next = prompt(target, Slot(0), &tokens);
    target.truncate(Slot(0), start.len() as u32).unwrap();
    next
}
