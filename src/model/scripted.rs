//! A target without weights: its logits are a fixed function of the last tokens, computed exactly. Tests and benches run on it, and it
//! shows how little an engine of one's own must do.

use crate::batch::DraftBatch;
use crate::error::Error;
use crate::model::{DraftShape, Limits, TargetModel};
use crate::token::{RowId, Slot, Token};

/// A target whose next-token distribution depends on the last `order` tokens.
///
/// It checks what a real target cannot see: that rows come parents first, at the right positions, and that leaf ranges nest. It panics
/// where they do not, because that is a fault of this crate.
#[derive(Clone, Debug)]
pub struct ScriptedModel {
    limits: Limits,
    order: usize,
    seed: u64,
    /// Larger values make the best token stand out more.
    sharpness: f32,
    slots: Vec<Vec<Token>>,
    batch: DraftBatch,
    logits: Vec<f32>,
    /// Start of each row's logits; `usize::MAX` where they were not wanted.
    starts: Vec<usize>,
    context: Vec<Token>,
}

impl ScriptedModel {
    /// A model over `n_vocab` tokens that looks at the last `order` of them, with trees of at most 16 leaves in 4 slots.
    pub fn new(n_vocab: u32, order: usize, sharpness: f32, seed: u64) -> Self {
        let limits = Limits {
            n_vocab,
            n_ctx: 4096,
            max_rows: 512,
            max_logits_rows: 64,
            max_leaves: 16,
            n_slots: 4,
            shape: DraftShape::Tree,
        };
        Self {
            limits,
            order,
            seed,
            sharpness,
            slots: vec![Vec::new(); limits.n_slots as usize],
            batch: DraftBatch::new(),
            logits: Vec::new(),
            starts: Vec::new(),
            context: Vec::new(),
        }
    }

    /// The same model with other limits.
    #[must_use]
    pub fn with_limits(mut self, limits: Limits) -> Self {
        self.slots = vec![Vec::new(); limits.n_slots as usize];
        self.limits = limits;
        self
    }

    /// The tokens that a slot holds.
    pub fn held(&self, slot: Slot) -> &[Token] {
        &self.slots[slot.0 as usize]
    }

    /// Writes the logits after `context` into `out` (`n_vocab` numbers).
    pub fn logits_after(&self, context: &[Token], out: &mut [f32]) {
        let mut state = self.seed ^ 0x9e37_79b9_7f4a_7c15;
        for token in &context[context.len().saturating_sub(self.order)..] {
            state = mix(state ^ u64::from(token.0));
        }
        for value in out.iter_mut() {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            // 24 bits: exact as a float, so that every run computes the same sums.
            *value = (mix(state) >> 40) as f32 / (1u64 << 24) as f32 * self.sharpness;
        }
    }

    fn path(&self, row: RowId, out: &mut Vec<Token>) {
        out.clear();
        let mut at = Some(row);
        while let Some(row) = at {
            out.push(self.batch.row(row).token);
            at = self.batch.row(row).parent;
        }
        out.extend(self.slots[self.batch.row(row).slot.0 as usize].iter().rev().take(self.order));
        out.reverse();
    }
}

impl TargetModel for ScriptedModel {
    fn limits(&self) -> Limits {
        self.limits
    }

    fn decode(&mut self, batch: &DraftBatch) -> Result<(), Error> {
        if batch.len() > self.limits.max_rows as usize {
            return Err(Error::target(format!("{} rows in one call, and {} fit", batch.len(), self.limits.max_rows)));
        }
        let n_logits = batch.rows().iter().filter(|row| row.wants_logits).count();
        assert!(n_logits <= self.limits.max_logits_rows as usize, "{n_logits} rows with logits");
        for (index, row) in batch.rows().iter().enumerate() {
            let held = self.slots[row.slot.0 as usize].len() as u32;
            match row.parent {
                None => assert_eq!(row.pos.0, held, "a first row continues the committed prefix"),
                Some(parent) => {
                    assert!((parent.0 as usize) < index, "parents come first");
                    let parent = batch.row(parent);
                    assert_eq!((parent.slot, parent.pos.0 + 1), (row.slot, row.pos.0), "a row follows its parent");
                    assert!(parent.first_leaf <= row.first_leaf && row.end_leaf <= parent.end_leaf, "leaf sets shrink");
                }
            }
            assert!(row.first_leaf < row.end_leaf, "every row has a leaf");
        }
        for segment in batch.segments() {
            let cells = self.slots[segment.slot.0 as usize].len() + segment.rows.len();
            if cells > self.limits.n_ctx as usize {
                return Err(Error::full(format!("{cells} cells are needed, and a slot has {}", self.limits.n_ctx)));
            }
        }
        self.batch.clone_from(batch);
        self.starts.clear();
        let n_vocab = self.limits.n_vocab as usize;
        self.logits.resize(n_logits * n_vocab, 0.0);
        let mut logits = std::mem::take(&mut self.logits);
        let mut context = std::mem::take(&mut self.context);
        let mut start = 0;
        for index in 0..batch.len() as u32 {
            if batch.row(RowId(index)).wants_logits {
                self.path(RowId(index), &mut context);
                self.logits_after(&context, &mut logits[start..start + n_vocab]);
                self.starts.push(start);
                start += n_vocab;
            } else {
                self.starts.push(usize::MAX);
            }
        }
        (self.logits, self.context) = (logits, context);
        Ok(())
    }

    fn logits(&self, row: RowId) -> &[f32] {
        let start = self.starts[row.0 as usize];
        assert_ne!(start, usize::MAX, "logits of a row that did not want them");
        &self.logits[start..start + self.limits.n_vocab as usize]
    }

    fn keep(&mut self, slot: Slot, last: RowId) -> Result<(), Error> {
        let begin = self.slots[slot.0 as usize].len();
        let mut at = Some(last);
        while let Some(row) = at {
            assert_eq!(self.batch.row(row).slot, slot, "a path of another slot");
            self.slots[slot.0 as usize].push(self.batch.row(row).token);
            at = self.batch.row(row).parent;
        }
        self.slots[slot.0 as usize][begin..].reverse();
        Ok(())
    }

    fn truncate(&mut self, slot: Slot, n_tokens: u32) -> Result<(), Error> {
        self.slots[slot.0 as usize].truncate(n_tokens as usize);
        Ok(())
    }

    fn can_shift(&self) -> bool {
        true
    }

    fn shift(&mut self, slot: Slot, n_keep: u32, n_discard: u32) -> Result<(), Error> {
        self.slots[slot.0 as usize].drain(n_keep as usize..(n_keep + n_discard) as usize);
        Ok(())
    }
}

/// The finaliser of splitmix64.
fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}
