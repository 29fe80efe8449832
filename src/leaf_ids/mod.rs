//! Which sequence ids of a target's memory hold which path: plain bookkeeping, one id per leaf of a draft tree.
//!
//! A memory such as llama.cpp's keeps cells; a cell has a position and the set of sequence ids that own it, and a row sees the cells
//! of its **first** id at positions up to its own. So slot `s` owns the ids `s * k .. (s + 1) * k` (k = leaves per slot): the first
//! is the slot's *main* id and holds the committed tokens, id `j` stands for leaf `j` of the slot's tree, and leaf 0 is the main id
//! itself. A chain therefore needs one id and works in any memory that can drop a tail.
//!
//! Nothing here talks to a memory. Each step appends the [`SeqOp`]s to carry out to a list that the caller owns.

use std::ops::Range;

use crate::batch::{DraftBatch, Row, Segment};
use crate::error::Error;
use crate::token::{RowId, Slot, Token};

/// Drafts of no more leaves than this leave the ids of further ones alone: each order has the memory look at all its cells, and several
/// slots that draft with all their ids would spend a noticeable part of a round on it.
const FEW_LEAVES: u16 = 4;

/// One order to the memory. Positions are half-open ranges.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SeqOp {
    /// Cells of `from` at positions `begin..end` belong to `to` as well.
    Copy {
        /// Sequence id that owns the cells.
        from: u32,
        /// Sequence id that is added to them.
        to: u32,
        /// First position.
        begin: u32,
        /// One past the last position.
        end: u32,
    },
    /// Cells at positions from `begin` on no longer belong to `id`; a cell that belongs to no id is free.
    Remove {
        /// Sequence id.
        id: u32,
        /// First position.
        begin: u32,
    },
}

/// The state of all slots between two decode calls.
#[derive(Clone, Debug)]
pub struct LeafIds {
    leaves_per_slot: u16,
    slots: Vec<SlotState>,
    /// Rows and segments of the batch under way: what [`plan_keep`](Self::plan_keep) refers to.
    rows: Vec<Row>,
    segments: Vec<Segment>,
    /// Some slot drafts in that batch.
    has_draft: bool,
    /// For each row of the batch the first leaf that its next child may have.
    next_leaf: Vec<u16>,
}

#[derive(Clone, Debug)]
struct SlotState {
    /// Tokens committed: the main id holds exactly the positions `0..n_committed`, and the rows under way above them.
    n_committed: u32,
    /// `synced[leaf]`: between rounds the id of this leaf holds exactly the positions `0..synced[leaf]` of the main id's cells. Entry
    /// 0 is unused.
    synced: Vec<u32>,
    /// Index of the segment under way.
    under_way: Option<usize>,
}

impl LeafIds {
    /// No tokens in any of `n_slots` slots, whose trees have at most `leaves_per_slot` leaves.
    pub fn new(n_slots: u32, leaves_per_slot: u16) -> Self {
        let leaves_per_slot = leaves_per_slot.max(1);
        let slot = SlotState { n_committed: 0, synced: vec![0; usize::from(leaves_per_slot)], under_way: None };
        Self {
            leaves_per_slot,
            slots: vec![slot; n_slots as usize],
            rows: Vec::new(),
            segments: Vec::new(),
            has_draft: false,
            next_leaf: Vec::new(),
        }
    }

    /// Number of slots.
    pub fn n_slots(&self) -> u32 {
        self.slots.len() as u32
    }

    /// Sequence ids in use: `0..n_ids`.
    pub fn n_ids(&self) -> u32 {
        self.n_slots() * u32::from(self.leaves_per_slot)
    }

    /// Tokens committed to a slot; 0 for a slot that does not exist.
    pub fn n_committed(&self, slot: Slot) -> u32 {
        self.slots.get(slot.0 as usize).map_or(0, |state| state.n_committed)
    }

    /// Tokens committed to all slots: cells in use between rounds.
    pub fn n_cells(&self) -> u64 {
        self.slots.iter().map(|slot| u64::from(slot.n_committed)).sum()
    }

    /// The sequence ids that a row of the batch under way is tagged with; the first one decides what it sees.
    ///
    /// The root of a draft carries more ids than the tree has leaves, the same number for all small trees and all ids of the slot for
    /// others, and so does the single row of a slot beside one that drafts: the number of distinct ids is part of what llama.cpp compares
    /// before it uses a compute graph again.
    pub fn ids(&self, row: RowId) -> Range<u32> {
        let row = &self.rows[row.0 as usize];
        let main = self.main_id(row.slot);
        let is_root = row.parent.is_none();
        let tagged = match self.segment_under_way(row.slot) {
            Some(segment) if is_root && self.is_tagged(segment) => 0..self.n_tagged(segment),
            _ => row.leaves(),
        };
        main + u32::from(tagged.start)..main + u32::from(tagged.end)
    }

    /// What every id that [`ids`](Self::ids) gives for rows of this slot must hold before the decode call: the positions
    /// `0..n_committed`. The ids are those of the batch under way.
    pub fn ids_under_way(&self, slot: Slot) -> Range<u32> {
        let main = self.main_id(slot);
        match self.segment_under_way(slot) {
            Some(segment) if self.is_tagged(segment) => main..main + u32::from(self.n_tagged(segment)),
            Some(_) => main..main + 1,
            None => main..main,
        }
    }

    /// What the memory must hold between rounds: each id of the slot with its number of tokens, counted from position 0. `None` as long
    /// as rows are under way.
    pub fn held(&self, slot: Slot) -> Option<impl Iterator<Item = (u32, u32)> + '_> {
        let main = self.main_id(slot);
        let state = self.slots.get(slot.0 as usize).filter(|state| state.under_way.is_none())?;
        let leaves = (main + 1..).zip(state.synced.iter().skip(1).copied());
        Some(std::iter::once((main, state.n_committed)).chain(leaves))
    }

    /// Makes `batch` the batch under way and says what must be done to the memory before it is decoded.
    ///
    /// # Errors
    /// [`Error::is_target`] if the batch does not continue its slots, has a slot twice, more leaves than ids, or siblings that share an
    /// id (the memory would take those and compute nonsense). Nothing has changed then.
    pub fn plan_decode(&mut self, batch: &DraftBatch, ops: &mut Vec<SeqOp>) -> Result<(), Error> {
        self.check(batch)?;
        for slot in 0..self.n_slots() {
            self.plan_forget(Slot(slot), ops);
        }
        self.rows.clear();
        self.rows.extend_from_slice(batch.rows());
        self.segments.clear();
        self.segments.extend_from_slice(batch.segments());
        self.has_draft = self.segments.iter().any(|segment| is_draft(segment, &self.rows));
        for (index, segment) in self.segments.iter().enumerate() {
            let (main, n_tagged) = (self.main_id(segment.slot), self.n_tagged(segment));
            let is_tagged = self.is_tagged(segment);
            let state = &mut self.slots[segment.slot.0 as usize];
            state.under_way = Some(index);
            if is_tagged {
                let n_committed = state.n_committed;
                for (leaf, synced) in state.synced.iter_mut().enumerate().take(n_tagged.into()).skip(1) {
                    if *synced < n_committed {
                        let to = main + leaf as u32;
                        ops.push(SeqOp::Copy { from: main, to, begin: *synced, end: n_committed });
                        *synced = n_committed;
                    }
                }
            }
        }
        Ok(())
    }

    /// Commits the path of the batch under way that ends at `last`, and forgets the slot's other rows.
    ///
    /// # Errors
    /// [`Error::is_target`] if `last` is no row of this slot in the batch under way. Nothing has changed then.
    pub fn plan_keep(&mut self, slot: Slot, last: RowId, ops: &mut Vec<SeqOp>) -> Result<(), Error> {
        let segment = self
            .segment_under_way(slot)
            .filter(|segment| segment.rows.contains(&last.0))
            .ok_or_else(|| Error::target(format!("row {} is not a row of slot {} in the last batch", last.0, slot.0)))?
            .clone();
        let main = self.main_id(slot);
        let is_tagged = self.is_tagged(&segment);
        let end = self.rows[last.0 as usize].pos.0 + 1;
        let accepted = self.rows[last.0 as usize].first_leaf;
        // The main id first: what leaf `accepted` holds beyond the path that the main id shares with it.
        let (held, deepest) = self.holds(&segment, last, 0);
        if deepest > held {
            ops.push(SeqOp::Remove { id: main, begin: held });
        }
        if held < end {
            ops.push(SeqOp::Copy { from: main + u32::from(accepted), to: main, begin: held, end });
        }
        if is_tagged {
            for leaf in 1..self.n_tagged(&segment) {
                let (held, deepest) = self.holds(&segment, last, leaf);
                if deepest > held {
                    ops.push(SeqOp::Remove { id: main + u32::from(leaf), begin: held });
                }
                self.slots[slot.0 as usize].synced[usize::from(leaf)] = held;
            }
        }
        let state = &mut self.slots[slot.0 as usize];
        state.n_committed = end;
        state.under_way = None;
        Ok(())
    }

    /// Appends the tokens of the path of the batch under way that ends at `last`, from the segment's first row on. Nothing if `last` is
    /// no row of this slot.
    pub fn path(&self, slot: Slot, last: RowId, out: &mut Vec<Token>) {
        let Some(segment) = self.segment_under_way(slot).filter(|segment| segment.rows.contains(&last.0)) else {
            return;
        };
        let begin = out.len();
        let mut at = Some(last);
        while let Some(row) = at.filter(|row| segment.rows.contains(&row.0)) {
            let row = &self.rows[row.0 as usize];
            out.push(row.token);
            at = row.parent;
        }
        out[begin..].reverse();
    }

    /// Forgets the slot's rows of the batch under way: after a decode call that failed, and where nobody kept them.
    pub fn plan_forget(&mut self, slot: Slot, ops: &mut Vec<SeqOp>) {
        let ids = self.ids_under_way(slot);
        let Some(state) = self.slots.get_mut(slot.0 as usize) else { return };
        state.under_way = None;
        let begin = state.n_committed;
        ops.extend(ids.map(|id| SeqOp::Remove { id, begin }));
    }

    /// Forgets everything of the slot from position `n_tokens` on, rows under way included. The main id comes first, so that a memory
    /// that cannot drop a tail refuses before anything has changed; to 0 tokens every id is emptied, whatever is known of it; [`set_truncated`](Self::set_truncated) settles it.
    pub fn plan_truncate(&self, slot: Slot, n_tokens: u32, ops: &mut Vec<SeqOp>) {
        let Some(state) = self.slots.get(slot.0 as usize) else { return };
        let main = self.main_id(slot);
        if n_tokens == 0 || n_tokens < state.n_committed || state.under_way.is_some() {
            ops.push(SeqOp::Remove { id: main, begin: n_tokens.min(state.n_committed) });
        }
        for (leaf, &synced) in state.synced.iter().enumerate().skip(1) {
            if n_tokens == 0 || n_tokens < synced || state.under_way.is_some() {
                ops.push(SeqOp::Remove { id: main + leaf as u32, begin: n_tokens.min(synced) });
            }
        }
    }

    /// Notes that the memory carried out [`plan_truncate`](Self::plan_truncate).
    pub fn set_truncated(&mut self, slot: Slot, n_tokens: u32) {
        let Some(state) = self.slots.get_mut(slot.0 as usize) else { return };
        state.under_way = None;
        state.n_committed = state.n_committed.min(n_tokens);
        for synced in &mut state.synced {
            *synced = (*synced).min(n_tokens);
        }
    }

    /// Drops all ids of the slot but the main one, whose positions are about to be [shifted](Self::set_shifted). To be called between a
    /// `keep` and a decode call.
    pub fn plan_shift(&mut self, slot: Slot, ops: &mut Vec<SeqOp>) {
        let main = self.main_id(slot);
        let Some(state) = self.slots.get_mut(slot.0 as usize) else { return };
        for (leaf, synced) in state.synced.iter_mut().enumerate().skip(1).filter(|(_, synced)| **synced > 0) {
            ops.push(SeqOp::Remove { id: main + leaf as u32, begin: 0 });
            *synced = 0;
        }
    }

    /// Takes over what somebody else decoded: the main id holds the positions `0..n_tokens`, and nothing is known of what the other ids
    /// hold, so that they are emptied.
    pub fn plan_adopt(&mut self, slot: Slot, n_tokens: u32, ops: &mut Vec<SeqOp>) {
        let main = self.main_id(slot);
        let Some(state) = self.slots.get_mut(slot.0 as usize) else { return };
        state.under_way = None;
        state.n_committed = n_tokens;
        ops.push(SeqOp::Remove { id: main, begin: n_tokens });
        for (leaf, synced) in (0..).zip(&mut state.synced).skip(1) {
            ops.push(SeqOp::Remove { id: main + leaf, begin: 0 });
            *synced = 0;
        }
    }

    /// Notes that the main id has `n_discard` tokens less, and that those after them have moved down.
    pub fn set_shifted(&mut self, slot: Slot, n_discard: u32) {
        if let Some(state) = self.slots.get_mut(slot.0 as usize) {
            state.n_committed -= n_discard.min(state.n_committed);
        }
    }

    /// The slots of the batch under way.
    pub fn slots_under_way(&self) -> impl Iterator<Item = Slot> + '_ {
        (0..self.n_slots()).map(Slot).filter(|slot| self.slots[slot.0 as usize].under_way.is_some())
    }

    /// The rows of the batch under way that belong to the slot; `None` if it has none.
    pub fn segment_under_way(&self, slot: Slot) -> Option<&Segment> {
        self.slots.get(slot.0 as usize)?.under_way.map(|index| &self.segments[index])
    }

    /// True if the slot has a root with a draft below it in the batch under way.
    pub fn has_draft_under_way(&self, slot: Slot) -> bool {
        self.segment_under_way(slot).is_some_and(|segment| is_draft(segment, &self.rows))
    }

    /// True if the segment's first row carries more than its own ids.
    fn is_tagged(&self, segment: &Segment) -> bool {
        let is_root = self.rows[segment.rows.start as usize].wants_logits;
        self.has_draft && is_root
    }

    /// Ids that such a row carries.
    fn n_tagged(&self, segment: &Segment) -> u16 {
        if segment.n_leaves <= FEW_LEAVES { FEW_LEAVES.min(self.leaves_per_slot) } else { self.leaves_per_slot }
    }

    /// Of the id of `leaf`: one past the last position that it shares with the path to `last`, and one past its last position.
    fn holds(&self, segment: &Segment, last: RowId, leaf: u16) -> (u32, u32) {
        let root = &self.rows[segment.rows.start as usize];
        let owns = |row: &Row| row.leaves().contains(&leaf);
        // An id beyond the tree's leaves holds the root alone.
        let deepest =
            segment.rows.clone().map(|row| &self.rows[row as usize]).filter(|row| owns(row)).map(|row| row.pos.0).max();
        let deepest = deepest.unwrap_or(root.pos.0) + 1;
        let mut row = &self.rows[last.0 as usize];
        while let (false, Some(parent)) = (owns(row), row.parent) {
            row = &self.rows[parent.0 as usize];
        }
        (row.pos.0 + 1, deepest)
    }

    fn check(&mut self, batch: &DraftBatch) -> Result<(), Error> {
        for (index, segment) in batch.segments().iter().enumerate() {
            let slot = segment.slot;
            let state = self.slots.get(slot.0 as usize).ok_or_else(|| {
                Error::target(format!("slot {} does not exist: the target has {} slots", slot.0, self.slots.len()))
            })?;
            if batch.segments()[..index].iter().any(|other| other.slot == slot) {
                return Err(Error::target(format!("slot {} occurs twice in one batch", slot.0)));
            }
            if segment.n_leaves > self.leaves_per_slot {
                let (given, limit) = (segment.n_leaves, self.leaves_per_slot);
                return Err(Error::target(format!(
                    "the draft of slot {} has {given} leaves, more than {limit}",
                    slot.0
                )));
            }
            let first = batch.rows().get(segment.rows.start as usize).map(|row| row.pos.0);
            if first != Some(state.n_committed) {
                let committed = state.n_committed;
                return Err(Error::target(format!(
                    "the rows of slot {} begin at position {first:?}, but it holds {committed} tokens",
                    slot.0
                )));
            }
        }
        self.next_leaf.clear();
        for (index, row) in batch.rows().iter().enumerate() {
            self.next_leaf.push(row.first_leaf);
            let Some(parent) = row.parent else { continue };
            let above = batch.rows().get(parent.0 as usize).filter(|_| (parent.0 as usize) < index);
            let fits = above.is_some_and(|above| {
                above.slot == row.slot
                    && above.pos.0 + 1 == row.pos.0
                    && row.first_leaf >= self.next_leaf[parent.0 as usize]
                    && row.first_leaf < row.end_leaf
                    && row.end_leaf <= above.end_leaf
            });
            if !fits {
                return Err(Error::target(format!(
                    "row {index} does not fit below row {}: {row:?}, {above:?}",
                    parent.0
                )));
            }
            self.next_leaf[parent.0 as usize] = row.end_leaf;
        }
        Ok(())
    }

    fn main_id(&self, slot: Slot) -> u32 {
        slot.0 * u32::from(self.leaves_per_slot)
    }
}

/// True for a root with a draft below it, whose every row wants logits; false for prompt pieces and for a root alone, which stay on the
/// main id and leave the other ids behind until the next draft.
fn is_draft(segment: &Segment, rows: &[Row]) -> bool {
    segment.rows.len() > 1 && rows[segment.rows.start as usize].wants_logits
}

#[cfg(test)]
mod tests;
