//! How much the shape of a batch moves a target's logits.
//!
//! The sums behind a row's logits may run in another order when other rows share the call, so that the row alone and the row in a tree
//! differ a little. Where the two best logits lie closer than that, greedy decoding with drafts may say another token than without.

use crate::batch::DraftBatch;
use crate::draft::DraftTree;
use crate::error::Error;
use crate::model::{DraftShape, TargetModel};
use crate::token::{Pos, Slot, Token};

/// The measurement sees some tens of rows, and the next thousand will have a few that move further.
const MARGIN: f32 = 2.0;

/// Candidates of a row among which the best one may change.
const N_BEST: usize = 8;

/// Most that a difference between two of a row's best logits moves when the row is computed in a tree, among wrong branches, instead of
/// alone; with a margin for rows that were not measured. 0 if the target's rows do not depend on each other at all.
///
/// Decodes `tokens`, some tens of tokens of ordinary text, twice in slot 0, which is empty before and afterwards. Fewer than four tokens,
/// and a target that takes no drafts, give 0.
///
/// # Errors
/// The target's.
pub fn shape_noise(target: &mut dyn TargetModel, tokens: &[Token]) -> Result<f32, Error> {
    let limits = target.limits();
    let max_nodes = (limits.max_logits_rows as usize).saturating_sub(1).min(7);
    let n_tokens = tokens.len().min(limits.n_ctx as usize / 2);
    let tokens = &tokens[..n_tokens];
    if n_tokens < 4 || max_nodes == 0 || limits.shape == DraftShape::Nothing {
        return Ok(0.0);
    }
    target.truncate(Slot(0), 0)?;
    let plain = tokens
        .iter()
        .enumerate()
        .map(|(pos, &token)| {
            let mut batch = DraftBatch::new();
            let row = batch.push_draft(Slot(0), Pos(pos as u32), token, &DraftTree::new());
            target.decode(&batch)?;
            let best = best(target.logits(row));
            target.keep(Slot(0), row)?;
            Ok(best)
        })
        .collect::<Result<Vec<_>, Error>>()?;
    target.truncate(Slot(0), 0)?;
    let is_tree = limits.shape == DraftShape::Tree && limits.max_leaves > 1;
    let (mut pos, mut largest) = (0, 0.0f32);
    // Rounds of 1 to 8 rows, again and again.
    for size in (1..=max_nodes).cycle() {
        if pos + 1 >= n_tokens {
            break;
        }
        let (tree, path) = draft(&tokens[pos + 1..], size, is_tree.then_some(limits.max_leaves), limits.n_vocab);
        let mut batch = DraftBatch::new();
        let root = batch.push_draft(Slot(0), Pos(pos as u32), tokens[pos], &tree);
        target.decode(&batch)?;
        let mut row = root;
        for (depth, &next) in std::iter::once(&tokens[pos]).chain(&path).enumerate() {
            if depth > 0 {
                row = batch.child(row, next).unwrap_or(row);
            }
            largest = largest.max(moved(&plain[pos + depth], target.logits(row)));
        }
        target.keep(Slot(0), row)?;
        pos += path.len() + 1;
    }
    target.truncate(Slot(0), 0)?;
    Ok(largest * MARGIN)
}

/// A draft of at most `n_nodes` nodes along `truth`; in a tree wrong nodes come first at every other depth, so that the cells of what is
/// accepted lie apart. Gives the true path as well.
fn draft(truth: &[Token], n_nodes: usize, max_leaves: Option<u16>, n_vocab: u32) -> (DraftTree, Vec<Token>) {
    let mut tree = DraftTree::new();
    let mut path = Vec::new();
    let mut at = None;
    for (depth, &token) in truth.iter().enumerate() {
        let n_wrong = tree.len() - path.len();
        if depth % 2 == 0 && tree.len() + 2 <= n_nodes && max_leaves.is_some_and(|max| n_wrong + 1 < max.into()) {
            let wrong = Token((token.0 + 1) % n_vocab);
            if wrong != token {
                tree.add(at, wrong, 0.5);
            }
        }
        if tree.len() >= n_nodes {
            break;
        }
        at = Some(tree.add(at, token, 0.5));
        path.push(token);
    }
    (tree, path)
}

/// The best few logits of a row with their tokens.
fn best(logits: &[f32]) -> Vec<(usize, f32)> {
    let mut best: Vec<(usize, f32)> = Vec::with_capacity(N_BEST + 1);
    for (token, &logit) in logits.iter().enumerate() {
        if best.len() == N_BEST && best.last().is_some_and(|&(_, least)| logit <= least) {
            continue;
        }
        let place = best.partition_point(|&(_, other)| other >= logit);
        best.insert(place, (token, logit));
        best.truncate(N_BEST);
    }
    best
}

/// Most that the difference between two of these logits has moved.
fn moved(before: &[(usize, f32)], after: &[f32]) -> f32 {
    let moves = before.iter().filter_map(|&(token, logit)| after.get(token).map(|after| after - logit));
    let (least, most) =
        moves.fold((f32::INFINITY, f32::NEG_INFINITY), |(least, most), by| (least.min(by), most.max(by)));
    if most >= least { most - least } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Limits, ScriptedModel};
    use crate::token::RowId;

    /// A target whose rows move by a little when others share the call.
    struct Noisy(ScriptedModel, Vec<f32>, f32);

    impl TargetModel for Noisy {
        fn limits(&self) -> Limits {
            self.0.limits()
        }
        fn decode(&mut self, batch: &DraftBatch) -> Result<(), Error> {
            self.0.decode(batch)?;
            let n_vocab = self.limits().n_vocab as usize;
            self.1 = (0..batch.len() as u32).flat_map(|row| self.0.logits(RowId(row)).to_vec()).collect();
            if batch.len() > 1 {
                self.1.iter_mut().step_by(3).for_each(|logit| *logit += self.2);
            }
            assert_eq!(self.1.len(), batch.len() * n_vocab);
            Ok(())
        }
        fn logits(&self, row: RowId) -> &[f32] {
            let n_vocab = self.limits().n_vocab as usize;
            &self.1[row.0 as usize * n_vocab..][..n_vocab]
        }
        fn keep(&mut self, slot: Slot, last: RowId) -> Result<(), Error> {
            self.0.keep(slot, last)
        }
        fn truncate(&mut self, slot: Slot, n_tokens: u32) -> Result<(), Error> {
            self.0.truncate(slot, n_tokens)
        }
    }

    #[test]
    fn noise_is_what_the_shape_of_a_batch_moves() {
        let tokens: Vec<Token> = (0..40).map(|index| Token(index * 7 % 50)).collect();
        for shape in [DraftShape::Tree, DraftShape::Chain, DraftShape::Nothing] {
            let mut model = ScriptedModel::new(50, 2, 4.0, 3);
            let max_leaves = if shape == DraftShape::Tree { 16 } else { 1 };
            model = model.clone().with_limits(Limits { shape, max_leaves, ..model.limits() });
            assert_eq!(shape_noise(&mut model, &tokens).unwrap(), 0.0, "exact arithmetic");
            let noise = shape_noise(&mut Noisy(model, Vec::new(), 0.25), &tokens).unwrap();
            let expected = if shape == DraftShape::Nothing { 0.0 } else { 0.5 };
            assert!((noise - expected).abs() < 1e-5, "{shape:?}: {noise}");
        }
    }
}
