//! The bookkeeping against a memory of cells that is as simple as can be.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::draft::DraftTree;
use crate::token::{NodeId, Pos, Token};

/// Cells with a position, a token and their owners.
#[derive(Default)]
struct Memory {
    cells: Vec<(u32, Token, BTreeSet<u32>)>,
}

impl Memory {
    fn carry_out(&mut self, ops: &[SeqOp]) {
        for op in ops {
            for (pos, _, ids) in &mut self.cells {
                match *op {
                    SeqOp::Copy { from, to, begin, end } if (begin..end).contains(pos) && ids.contains(&from) => {
                        ids.insert(to);
                    }
                    SeqOp::Remove { id, begin } if *pos >= begin => {
                        ids.remove(&id);
                    }
                    _ => {}
                }
            }
            self.cells.retain(|(_, _, ids)| !ids.is_empty());
        }
    }

    fn decode(&mut self, ids: &LeafIds, batch: &DraftBatch) {
        for (index, row) in (0..).zip(batch.rows()) {
            self.cells.push((row.pos.0, row.token, ids.ids(RowId(index)).collect()));
        }
    }

    /// What a row that is tagged with `id` first sees up to position `pos`, in order of position: exactly one cell for each position.
    fn seen(&self, id: u32, pos: u32) -> Vec<Token> {
        let mut seen = BTreeMap::new();
        for (cell, token, ids) in &self.cells {
            if *cell <= pos && ids.contains(&id) {
                assert!(seen.insert(*cell, *token).is_none(), "two cells at position {cell} for id {id}");
            }
        }
        assert!(seen.keys().copied().eq(0..seen.len() as u32), "a gap before position {pos} for id {id}: {seen:?}");
        seen.into_values().collect()
    }
}

/// What happens to a slot in one round.
#[derive(Clone, Debug)]
enum Step {
    Prompt { tokens: u32 },
    Draft { parents: Vec<u8>, keep: u8 },
    Failed { parents: Vec<u8> },
    NotKept { parents: Vec<u8> },
    Truncate { share: u8 },
    Rest,
}

fn step() -> impl Strategy<Value = Step> {
    let parents = || prop::collection::vec(any::<u8>(), 0..12);
    prop_oneof![
        1 => (1u32..5).prop_map(|tokens| Step::Prompt { tokens }),
        8 => (parents(), any::<u8>()).prop_map(|(parents, keep)| Step::Draft { parents, keep }),
        1 => parents().prop_map(|parents| Step::Failed { parents }),
        1 => parents().prop_map(|parents| Step::NotKept { parents }),
        1 => any::<u8>().prop_map(|share| Step::Truncate { share }),
        1 => Just(Step::Rest),
    ]
}

/// A tree with at most `leaves` leaves; each number picks the parent of one node.
fn tree(parents: &[u8], leaves: usize, next: &mut u32) -> DraftTree {
    let mut tree = DraftTree::new();
    for &pick in parents {
        let pick = usize::from(pick) % (tree.len() + 1);
        let parent = pick.checked_sub(1).map(|index| NodeId(index as u32));
        if tree.n_leaves_with_child_of(parent) <= leaves {
            tree.add(parent, Token(*next), 0.5);
            *next += 1;
        }
    }
    tree
}

fn path(batch: &DraftBatch, row: RowId) -> Vec<Token> {
    let mut tokens = vec![batch.row(row).token];
    let mut row = row;
    while let Some(parent) = batch.row(row).parent {
        tokens.push(batch.row(parent).token);
        row = parent;
    }
    tokens.reverse();
    tokens
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Whatever is drafted, kept, dropped or cut in two slots that share their calls: each row sees its slot's committed tokens and
    /// its own path, and the memory holds nothing else.
    #[test]
    fn every_row_sees_its_own_path(
        leaves in 1u16..10,
        rounds in prop::collection::vec((step(), step()), 1..25),
    ) {
        let mut ids = LeafIds::new(2, leaves);
        let mut memory = Memory::default();
        let mut committed = [Vec::<Token>::new(), Vec::new()];
        let mut next = 0;
        let mut ops = Vec::new();
        for round in rounds {
            let steps = [round.0, round.1];
            let mut batch = DraftBatch::new();
            for (slot, step) in steps.iter().enumerate() {
                let pos = Pos(committed[slot].len() as u32);
                let slot = Slot(slot as u32);
                match step {
                    Step::Prompt { tokens } => {
                        let tokens: Vec<Token> = (next..next + tokens).map(Token).collect();
                        next += tokens.len() as u32;
                        batch.push_prompt(slot, pos, &tokens, true);
                    }
                    Step::Draft { parents, .. } | Step::Failed { parents } | Step::NotKept { parents } => {
                        next += 1;
                        let root = Token(next);
                        next += 1;
                        batch.push_draft(slot, pos, root, &tree(parents, usize::from(leaves), &mut next));
                    }
                    Step::Truncate { .. } | Step::Rest => {}
                }
            }
            ops.clear();
            ids.plan_decode(&batch, &mut ops).unwrap();
            memory.carry_out(&ops);
            for (slot, tokens) in committed.iter().enumerate() {
                for id in ids.ids_under_way(Slot(slot as u32)) {
                    prop_assert_eq!(&memory.seen(id, u32::MAX), tokens, "id {} before the call", id);
                }
            }
            memory.decode(&ids, &batch);
            for (index, row) in (0..).zip(batch.rows()) {
                let mut expected = committed[row.slot.0 as usize].clone();
                expected.extend(path(&batch, RowId(index)));
                prop_assert_eq!(memory.seen(ids.ids(RowId(index)).start, row.pos.0), expected);
            }
            for (slot, step) in steps.iter().enumerate() {
                let tokens = &mut committed[slot];
                let slot = Slot(slot as u32);
                ops.clear();
                match step {
                    Step::Prompt { .. } | Step::Draft { .. } => {
                        let rows = ids.segment_under_way(slot).unwrap().rows.clone();
                        let last = match step {
                            Step::Draft { keep, .. } => rows.start + u32::from(*keep) % rows.len() as u32,
                            _ => rows.end - 1,
                        };
                        ids.plan_keep(slot, RowId(last), &mut ops).unwrap();
                        tokens.extend(path(&batch, RowId(last)));
                    }
                    Step::Failed { .. } => ids.plan_forget(slot, &mut ops),
                    Step::Truncate { share } => {
                        let n_tokens = tokens.len() * usize::from(*share) / 255;
                        ids.plan_truncate(slot, n_tokens as u32, &mut ops);
                        ids.set_truncated(slot, n_tokens as u32);
                        tokens.truncate(n_tokens);
                    }
                    // Rows that nobody keeps go with the next call.
                    Step::NotKept { .. } | Step::Rest => {}
                }
                memory.carry_out(&ops);
                prop_assert_eq!(ids.n_committed(slot), tokens.len() as u32);
            }
        }
        // One more call forgets what was not kept; then the main ids hold the committed tokens and no cell is lost.
        ops.clear();
        ids.plan_decode(&DraftBatch::new(), &mut ops).unwrap();
        memory.carry_out(&ops);
        for (slot, tokens) in committed.iter().enumerate() {
            prop_assert_eq!(&memory.seen(slot as u32 * u32::from(leaves), u32::MAX), tokens);
        }
        prop_assert_eq!(memory.cells.len() as u64, ids.n_cells());
    }
}

#[test]
fn a_chain_that_is_accepted_whole_costs_no_order() {
    let mut ids = LeafIds::new(1, 1);
    let mut batch = DraftBatch::new();
    let mut draft = DraftTree::new();
    let first = draft.add(None, Token(1), 0.5);
    draft.add(Some(first), Token(2), 0.5);
    batch.push_draft(Slot(0), Pos(0), Token(0), &draft);
    let mut ops = Vec::new();
    ids.plan_decode(&batch, &mut ops).unwrap();
    ids.plan_keep(Slot(0), RowId(2), &mut ops).unwrap();
    assert_eq!((ops, ids.n_committed(Slot(0))), (vec![], 3));
}

#[test]
fn small_trees_leave_further_ids_alone_and_calls_with_drafts_have_the_same_number_of_ids() {
    let mut ids = LeafIds::new(2, 16);
    let mut n_ids = |trees: [&[u8]; 2], pos: u32| {
        let (mut batch, mut ops, mut next) = (DraftBatch::new(), Vec::new(), 0);
        for (slot, parents) in (0..).zip(trees) {
            batch.push_draft(Slot(slot), Pos(pos), Token(99), &tree(parents, 16, &mut next));
        }
        ids.plan_decode(&batch, &mut ops).unwrap();
        let tagged: BTreeSet<u32> = (0..batch.len() as u32).flat_map(|row| ids.ids(RowId(row))).collect();
        for slot in [0, 1].map(Slot) {
            let root = ids.segment_under_way(slot).unwrap().rows.start;
            ids.plan_keep(slot, RowId(root), &mut ops).unwrap();
        }
        (tagged.len(), ops.len())
    };
    assert_eq!(n_ids([&[], &[]], 0), (2, 0), "plain rows have one id each, and nothing is to be done");
    let few = usize::from(FEW_LEAVES);
    let (tagged, n_ops) = n_ids([&[0, 0, 0], &[]], 1);
    assert_eq!(tagged, 2 * few);
    // Three ids of each slot catch up, and three of the ids of the tree's leaves give up what was not accepted.
    assert_eq!(n_ops, 2 * (few - 1) + 3);
    assert_eq!(n_ids([&[], &[0, 1]], 2).0, 2 * few);
    assert_eq!(n_ids([&[0], &[0]], 3).0, 2 * few);
    assert_eq!(n_ids([&[0; 5], &[0]], 4).0, 16 + few, "a large tree takes all");
}

#[test]
fn a_batch_that_does_not_fit_is_refused_and_changes_nothing() {
    let mut ids = LeafIds::new(1, 2);
    let mut ops = Vec::new();
    let mut refuse = |batch: &DraftBatch, part: &str| {
        let error = ids.plan_decode(batch, &mut ops).unwrap_err();
        assert!(error.is_target() && error.to_string().contains(part), "{error}");
        assert!(ops.is_empty() && ids.n_committed(Slot(0)) == 0);
    };
    let mut batch = DraftBatch::new();
    batch.push_prompt(Slot(1), Pos(0), &[Token(1)], true);
    refuse(&batch, "slot 1 does not exist");
    batch.clear();
    batch.push_prompt(Slot(0), Pos(4), &[Token(1)], true);
    refuse(&batch, "holds 0 tokens");
    batch.clear();
    batch.push_prompt(Slot(0), Pos(0), &[Token(1)], true);
    batch.push_prompt(Slot(0), Pos(0), &[Token(1)], true);
    refuse(&batch, "twice");
    batch.clear();
    let mut wide = DraftTree::new();
    (0..3).for_each(|token| _ = wide.add(None, Token(token), 0.1));
    batch.push_draft(Slot(0), Pos(0), Token(9), &wide);
    refuse(&batch, "3 leaves");
    assert!(ids.plan_keep(Slot(0), RowId(0), &mut Vec::new()).unwrap_err().is_target());
}
