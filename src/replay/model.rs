//! The recording as a target.

use super::{Recording, RowCost};
use crate::batch::DraftBatch;
use crate::error::Error;
use crate::model::{DraftShape, Limits, TargetModel};
use crate::representative::recall::TopRow;
use crate::sampling::RowSampler;
use crate::token::{RowId, Slot, Token};

/// A target that knows the rows of one recorded path and nothing else, and says what its rounds would have taken.
#[derive(Clone, Debug)]
pub struct ReplayModel {
    limits: Limits,
    cost: RowCost,
    /// Prompt and output of the recording.
    text: Vec<Token>,
    n_prompt: usize,
    tops: Vec<TopRow>,
    n_held: usize,
    batch: DraftBatch,
    /// For each row of the batch: it and all rows before it on its path are the recorded ones.
    on_path: Vec<bool>,
    ms: f32,
    last_rows: usize,
}

impl ReplayModel {
    /// A target for texts of at most `n_ctx` tokens. Its memory takes trees of at most 16 leaves, as llama.cpp's does.
    pub fn new(cost: RowCost, n_ctx: u32) -> Self {
        let limits = Limits {
            n_vocab: u32::MAX,
            n_ctx,
            max_rows: 512,
            max_logits_rows: 64,
            max_leaves: 16,
            n_slots: 1,
            shape: DraftShape::Tree,
        };
        Self {
            limits,
            cost,
            text: Vec::new(),
            n_prompt: 0,
            tops: Vec::new(),
            n_held: 0,
            batch: DraftBatch::new(),
            on_path: Vec::new(),
            ms: 0.0,
            last_rows: 0,
        }
    }

    /// The recording to follow from now on.
    pub fn select(&mut self, recording: &Recording) {
        self.text.clear();
        self.text.extend_from_slice(recording.prompt());
        self.text.extend_from_slice(recording.output());
        self.n_prompt = recording.prompt().len();
        self.tops.clear();
        self.tops.extend_from_slice(recording.tops());
    }

    /// What rows cost.
    pub fn cost(&self) -> &RowCost {
        &self.cost
    }
}

impl TargetModel for ReplayModel {
    fn limits(&self) -> Limits {
        self.limits
    }

    fn decode(&mut self, batch: &DraftBatch) -> Result<(), Error> {
        self.batch.clone_from(batch);
        self.on_path.clear();
        for row in batch.rows() {
            let parent = row.parent.is_none_or(|parent| self.on_path[parent.0 as usize]);
            self.on_path.push(parent && self.text.get(row.pos.0 as usize) == Some(&row.token));
        }
        let rows = batch.len();
        self.ms = self.cost.ms(rows, self.n_held) + if rows == self.last_rows { 0.0 } else { self.cost.switch_ms };
        self.last_rows = rows;
        Ok(())
    }

    /// Nothing: a recording keeps the best tokens of a row only.
    fn logits(&self, _row: RowId) -> &[f32] {
        &[]
    }

    fn top(&self, row: RowId) -> Option<TopRow> {
        let known = self.on_path[row.0 as usize].then(|| {
            let next = self.batch.row(row).pos.0 as usize + 1;
            next.checked_sub(self.n_prompt).and_then(|index| self.tops.get(index))
        });
        Some(known.flatten().copied().unwrap_or_default())
    }

    fn reckoned_ms(&self) -> Option<f32> {
        Some(self.ms)
    }

    fn keep(&mut self, _slot: Slot, last: RowId) -> Result<(), Error> {
        self.n_held = self.batch.row(last).pos.0 as usize + 1;
        Ok(())
    }

    fn truncate(&mut self, _slot: Slot, n_tokens: u32) -> Result<(), Error> {
        self.n_held = n_tokens as usize;
        Ok(())
    }
}

/// Says the recorded tokens, one after the other.
#[derive(Clone, Debug)]
pub struct RecordedSampler {
    output: Vec<Token>,
    n_said: usize,
    greedy: bool,
}

impl RecordedSampler {
    /// A sampler at the beginning of the recorded output.
    pub fn new(recording: &Recording) -> Self {
        Self { output: recording.output().to_vec(), n_said: 0, greedy: recording.is_greedy() }
    }
}

impl RowSampler for RecordedSampler {
    fn sample(&mut self, _logits: &[f32]) -> Result<Token, Error> {
        self.n_said += 1;
        let token = self.output.get(self.n_said - 1).copied();
        token.ok_or_else(|| Error::target("the recording has ended"))
    }

    fn is_greedy(&self) -> bool {
        self.greedy
    }
}
