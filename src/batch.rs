//! The rows of one decode call: draft trees and prompt pieces of one or more sequences, laid out for tree attention.
//!
//! A tree's rows come in depth-first order, so the leaves below any row are a contiguous range of leaf numbers. A target that marks
//! rows with one sequence id per leaf (llama.cpp) reads the ids off that range; one that wants an ancestor mask follows `parent`.

use std::ops::Range;

use crate::draft::DraftTree;
use crate::token::{NodeId, Pos, RowId, Slot, Token};

/// One row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// The sequence that the row belongs to.
    pub slot: Slot,
    /// The token to decode.
    pub token: Token,
    /// Its position: the number of tokens before it on its path.
    pub pos: Pos,
    /// The row before it on its path; `None` if that is the sequence's committed prefix.
    pub parent: Option<RowId>,
    /// First leaf below the row, counted within the slot's tree.
    pub first_leaf: u16,
    /// One past the last leaf below the row; at least `first_leaf + 1`. A row of a prompt piece and a root without draft have leaf 0.
    pub end_leaf: u16,
    /// True if the row's logits are read afterwards.
    pub wants_logits: bool,
}

impl Row {
    /// The leaves below the row, counted within the slot's tree. Leaf 0 is the end of the first-child path.
    pub fn leaves(&self) -> Range<u16> {
        self.first_leaf..self.end_leaf
    }
}

/// The rows that one slot has in the batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// The sequence.
    pub slot: Slot,
    /// Its rows; the first is the root of a draft, or the first token of a prompt piece.
    pub rows: Range<u32>,
    /// Leaves of its tree; 1 for a chain, a root alone, and a prompt piece.
    pub n_leaves: u16,
}

/// The rows of one decode call. Reused from round to round without allocation.
#[derive(Debug, Default)]
pub struct DraftBatch {
    rows: Vec<Row>,
    segments: Vec<Segment>,
    /// Node of each row; `None` for roots and prompt rows.
    node: Vec<Option<NodeId>>,
    /// Depth-first stack of (node, its parent's row).
    stack: Vec<(NodeId, RowId)>,
    siblings: Vec<NodeId>,
}

impl Clone for DraftBatch {
    fn clone(&self) -> Self {
        let mut copy = Self::default();
        copy.clone_from(self);
        copy
    }

    /// Copies the rows into the memory that is there.
    fn clone_from(&mut self, other: &Self) {
        self.rows.clone_from(&other.rows);
        self.segments.clone_from(&other.segments);
        self.node.clone_from(&other.node);
    }
}

impl DraftBatch {
    /// An empty batch.
    pub fn new() -> Self {
        Self::default()
    }

    /// Forgets all rows and keeps the memory.
    pub fn clear(&mut self) {
        self.rows.clear();
        self.segments.clear();
        self.node.clear();
    }

    /// Adds a piece of a prompt: a chain of tokens from position `pos` on. Only the last row's logits are wanted, and only if
    /// `wants_logits`. An empty piece adds nothing.
    pub fn push_prompt(&mut self, slot: Slot, pos: Pos, tokens: &[Token], wants_logits: bool) {
        if tokens.is_empty() {
            return;
        }
        let begin = self.rows.len() as u32;
        for (offset, &token) in (0u32..).zip(tokens) {
            self.rows.push(Row {
                slot,
                token,
                pos: Pos(pos.0 + offset),
                parent: (offset > 0).then(|| RowId(begin + offset - 1)),
                first_leaf: 0,
                end_leaf: 1,
                wants_logits: wants_logits && offset as usize + 1 == tokens.len(),
            });
            self.node.push(None);
        }
        self.segments.push(Segment { slot, rows: begin..self.rows.len() as u32, n_leaves: 1 });
    }

    /// Adds the root at `pos` and the draft below it. Every row's logits are wanted. Returns the root's row.
    pub fn push_draft(&mut self, slot: Slot, pos: Pos, root: Token, tree: &DraftTree) -> RowId {
        let root_row = RowId(self.rows.len() as u32);
        self.rows.push(Row { slot, token: root, pos, parent: None, first_leaf: 0, end_leaf: 0, wants_logits: true });
        self.node.push(None);
        self.stack.clear();
        self.push_children(tree, None, root_row);
        let mut n_leaves = 0u16;
        while let Some((node, parent)) = self.stack.pop() {
            let row = RowId(self.rows.len() as u32);
            self.rows.push(Row {
                slot,
                token: tree.token(node),
                pos: Pos(pos.0 + u32::from(tree.depth(node))),
                parent: Some(parent),
                first_leaf: n_leaves,
                end_leaf: 0,
                wants_logits: true,
            });
            self.node.push(Some(node));
            if !self.push_children(tree, Some(node), row) {
                n_leaves += 1;
            }
        }
        // A row's range ends where its last child's does; children come after their parents, so one pass backwards settles it.
        let begin = root_row.0 as usize;
        for index in (begin..self.rows.len()).rev() {
            let row = &mut self.rows[index];
            if row.end_leaf == 0 {
                row.end_leaf = row.first_leaf + 1;
            }
            let end = row.end_leaf;
            if let Some(parent) = row.parent {
                let parent = &mut self.rows[parent.0 as usize];
                parent.end_leaf = parent.end_leaf.max(end);
            }
        }
        self.segments.push(Segment { slot, rows: root_row.0..self.rows.len() as u32, n_leaves: n_leaves.max(1) });
        root_row
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// True if there is nothing to decode.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// All rows; a row's index is its [`RowId`].
    pub fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// One row.
    pub fn row(&self, row: RowId) -> &Row {
        &self.rows[row.0 as usize]
    }

    /// The slots' shares of the batch, in the order in which they were added.
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// The tree node that a row decodes; `None` for roots and prompt rows.
    pub fn node(&self, row: RowId) -> Option<NodeId> {
        self.node[row.0 as usize]
    }

    /// The row of the child of `row` that holds `token`, within the same segment.
    pub fn child(&self, row: RowId, token: Token) -> Option<RowId> {
        let segment = self.segments.iter().find(|segment| segment.rows.contains(&row.0))?;
        (row.0 + 1..segment.rows.end)
            .map(RowId)
            .find(|&child| self.row(child).parent == Some(row) && self.row(child).token == token)
    }

    /// Pushes the children so that the first one is popped first. False if there are none.
    fn push_children(&mut self, tree: &DraftTree, parent: Option<NodeId>, row: RowId) -> bool {
        self.siblings.clear();
        self.siblings.extend(tree.children(parent));
        self.stack.extend(self.siblings.iter().rev().map(|&child| (child, row)));
        !self.siblings.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_depth_first_and_leaf_ranges_nest() {
        let mut tree = DraftTree::new();
        let a = tree.add(None, Token(1), 0.5);
        let d = tree.add(None, Token(4), 0.4);
        let b = tree.add(Some(a), Token(2), 0.5);
        tree.add(Some(d), Token(5), 0.5);
        let c = tree.add(Some(a), Token(3), 0.3);
        let mut batch = DraftBatch::new();
        batch.push_prompt(Slot(1), Pos(0), &[Token(8), Token(9)], true);
        let root = batch.push_draft(Slot(0), Pos(10), Token(7), &tree);
        assert_eq!(root, RowId(2));
        let tokens: Vec<u32> = batch.rows().iter().map(|row| row.token.0).collect();
        assert_eq!(tokens, [8, 9, 7, 1, 2, 3, 4, 5]);
        let leaves: Vec<_> = batch.rows().iter().map(Row::leaves).collect();
        assert_eq!(leaves, [0..1, 0..1, 0..3, 0..2, 0..1, 1..2, 2..3, 2..3]);
        let positions: Vec<u32> = batch.rows().iter().map(|row| row.pos.0).collect();
        assert_eq!(positions, [0, 1, 10, 11, 12, 12, 11, 12]);
        assert_eq!(batch.segments()[1].n_leaves, 3);
        assert_eq!(batch.node(RowId(3)), Some(a));
        assert_eq!((batch.node(RowId(4)), batch.node(RowId(5))), (Some(b), Some(c)));
        assert_eq!(batch.child(RowId(3), Token(3)), Some(RowId(5)));
        assert_eq!(batch.child(RowId(3), Token(4)), None);
        assert!(!batch.row(RowId(0)).wants_logits && batch.row(RowId(1)).wants_logits);
    }

    #[test]
    fn a_root_alone_has_leaf_zero() {
        let mut batch = DraftBatch::new();
        batch.push_draft(Slot(0), Pos(3), Token(7), &DraftTree::new());
        assert_eq!(batch.row(RowId(0)).leaves(), 0..1);
        assert_eq!(batch.segments()[0].n_leaves, 1);
    }
}
