//! What drafts a context's memory can take, found out by trial on the empty context.

use tracing::debug;

use super::memory::MemoryKind;
use super::target::Target;
use crate::batch::DraftBatch;
use crate::draft::DraftTree;
use crate::error::Error;
use crate::model::{DraftShape, TargetModel};
use crate::token::{Pos, RowId, Slot, Token};

/// A rejected draft may move the logits after it by this share of what it moves them by if it stays in memory: some noise there is, since
/// the rows before were computed in another shape.
const TOLERANCE: f32 = 0.5;

impl Target {
    /// Lowers [`Limits::shape`](crate::model::Limits::shape) to what the memory really does: a small tree, or else a chain.
    pub(super) fn try_shapes(&mut self) -> Result<(), Error> {
        if self.limits.shape == DraftShape::Tree {
            match self.try_tree() {
                Ok(()) => {
                    self.clear();
                    return Ok(());
                }
                Err(error) => debug!("the memory takes no trees: {error}"),
            }
            self.limits.shape = DraftShape::Chain;
            self.limits.max_leaves = 1;
        }
        self.clear();
        if let MemoryKind::Snapshots(n) = self.memory.kind {
            let before = self.limits.max_logits_rows;
            self.limits.max_logits_rows = before.min(n + 1);
            match self.try_chain() {
                Ok(()) => {
                    self.clear();
                    return Ok(());
                }
                Err(error) => debug!("the memory's snapshots are of no use: {error}"),
            }
            self.memory.kind = MemoryKind::Replay;
            self.limits.max_logits_rows = before;
            self.clear();
        }
        if let Err(error) = self.try_chain() {
            if error.is_cancelled() {
                return Err(error);
            }
            debug!("the memory takes no drafts: {error}");
            self.limits.shape = DraftShape::Nothing;
        }
        self.clear();
        Ok(())
    }

    /// A tree of two leaves, of which the second is kept: that takes a removal and a copy.
    fn try_tree(&mut self) -> Result<(), Error> {
        if self.limits.max_logits_rows < 4 || self.limits.n_vocab < 2 {
            return Err(Error::usage("a tree needs four rows and two tokens"));
        }
        self.append(Token(0))?;
        let mut tree = DraftTree::new();
        let first = tree.add(None, Token(0), 0.5);
        tree.add(None, Token(1), 0.5);
        tree.add(Some(first), Token(0), 0.5);
        let mut batch = DraftBatch::new();
        let root = batch.push_draft(Slot(0), Pos(1), Token(0), &tree);
        self.decode(&batch)?;
        self.keep(Slot(0), RowId(root.0 + 3))
    }

    /// A chain of which nothing is kept. Where the memory holds a state, the logits that follow tell whether the chain is out of it.
    fn try_chain(&mut self) -> Result<(), Error> {
        if self.limits.max_logits_rows < 2 {
            return Err(Error::usage("one row leaves no room for a draft"));
        }
        let token = |index: u32| Token(index.min(self.limits.n_vocab - 1));
        let (first, second, wrong) = (token(1), token(2), token(3));
        let n_nodes = match self.memory.kind {
            MemoryKind::Snapshots(n) => n.min(self.limits.max_logits_rows - 1),
            _ => 1,
        };
        self.append(first)?;
        let mut chain = DraftTree::new();
        let mut at = None;
        for _ in 0..n_nodes {
            at = Some(chain.add(at, wrong, 0.5));
        }
        let mut batch = DraftBatch::new();
        let root = batch.push_draft(Slot(0), Pos(1), second, &chain);
        self.decode(&batch)?;
        self.keep(Slot(0), root)?;
        if !self.memory.kind.has_state() {
            return Ok(());
        }
        if self.memory.is_lost(Slot(0)) {
            return Err(Error::target("it cannot roll back"));
        }
        let after = self.append(first)?;
        let straight = self.logits_after(&[first, second, first])?;
        let polluted = self.logits_after(&[first, second, wrong, first])?;
        let (moved, by_draft) = (distance(&after, &straight), distance(&polluted, &straight));
        if moved > TOLERANCE * by_draft {
            return Err(Error::target(format!(
                "a rejected draft moves the logits by {moved}, and one that stays by {by_draft}"
            )));
        }
        Ok(())
    }

    fn logits_after(&mut self, tokens: &[Token]) -> Result<Vec<f32>, Error> {
        self.clear();
        tokens.iter().try_fold(Vec::new(), |_, &token| self.append(token))
    }

    /// Decodes one token and keeps it; gives its logits.
    fn append(&mut self, token: Token) -> Result<Vec<f32>, Error> {
        let mut batch = DraftBatch::new();
        let row = batch.push_draft(Slot(0), Pos(self.n_committed(Slot(0))), token, &DraftTree::new());
        self.decode(&batch)?;
        let logits = self.logits(row).to_vec();
        self.keep(Slot(0), row)?;
        Ok(logits)
    }
}

/// How far two rows of logits lie apart at most.
fn distance(left: &[f32], right: &[f32]) -> f32 {
    left.iter().zip(right).map(|(left, right)| (left - right).abs()).fold(0.0, f32::max)
}
