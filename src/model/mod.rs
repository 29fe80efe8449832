//! What a target model must offer to be sped up. llama.cpp's is `llama::Target`; anybody's own engine works as well.

mod scripted;

pub use scripted::ScriptedModel;

use crate::batch::DraftBatch;
use crate::error::Error;
use crate::representative::recall::TopRow;
use crate::token::{RowId, Slot};

/// The drafts that a target's memory can take.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(rename_all = "snake_case"))]
pub enum DraftShape {
    /// Any tree within [`Limits::max_leaves`].
    Tree,
    /// One path: memory that rolls back a tail but cannot keep branches apart.
    Chain,
    /// Nothing: memory that cannot roll back.
    Nothing,
}

/// What a target can take in one decode call. Constant while the target lives.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Length of a logits row.
    pub n_vocab: u32,
    /// Tokens that one slot's sequence can hold.
    pub n_ctx: u32,
    /// Rows that one decode call can take, prompt rows included.
    pub max_rows: u32,
    /// Rows with logits that one decode call can take, over all slots.
    pub max_logits_rows: u32,
    /// Leaves that one slot's tree can have; 1 where [`shape`](Limits::shape) is a chain.
    pub max_leaves: u16,
    /// Number of sequences.
    pub n_slots: u32,
    /// The drafts that the memory can take.
    pub shape: DraftShape,
}

/// A model that decodes batches of rows and keeps the sequences they belong to.
///
/// Calls come in rounds: [`decode`](TargetModel::decode), then [`logits`](TargetModel::logits) of some rows, then
/// [`keep`](TargetModel::keep) once for every segment of the batch. Rows that were not kept when the next call comes are forgotten by it:
/// so it is after a sampler's error, and where a row is to be computed again in another batch.
pub trait TargetModel {
    /// What the target can take.
    fn limits(&self) -> Limits;

    /// Decodes all rows of the batch. Each row sees its slot's committed prefix and its own path, nothing else.
    ///
    /// # Errors
    /// [`Error::is_full`] if the memory has no room, [`Error::is_cancelled`] if the caller asked to stop, else
    /// [`Error::is_target`]. After an error the slots of the batch hold what they held before the call.
    fn decode(&mut self, batch: &DraftBatch) -> Result<(), Error>;

    /// The logits of a row of the last batch that wanted them: `n_vocab` numbers. They are read before [`keep`](TargetModel::keep).
    fn logits(&self, row: RowId) -> &[f32];

    /// The best tokens of a row of the last batch, for targets that know them without the whole row: a device that selects them itself,
    /// or a recording. `None`, the default, has the [`logits`](TargetModel::logits) scanned. A row of which nothing is known gives a
    /// [`TopRow`] without tokens; it teaches nothing.
    fn top(&self, _row: RowId) -> Option<TopRow> {
        None
    }

    /// Milliseconds that the round with the last batch takes, for targets with a reckoning of their own, such as a recording. `None`, the
    /// default, has the round measured by the clock.
    fn reckoned_ms(&self) -> Option<f32> {
        None
    }

    /// Commits the path of the last batch that ends at `last`, and forgets the slot's other rows of that batch. Memory that cannot forget
    /// may have to compute: the batch's logits are gone afterwards.
    ///
    /// # Errors
    /// [`Error::is_target`] if the memory does not follow; the slot must then be truncated to 0 before its next use.
    fn keep(&mut self, slot: Slot, last: RowId) -> Result<(), Error>;

    /// Forgets everything of a slot from position `n_tokens` on; 0 empties it. Used for prompts that share a beginning.
    ///
    /// # Errors
    /// [`Error::is_target`] if the memory cannot roll back that far; the slot is then as it was.
    fn truncate(&mut self, slot: Slot, n_tokens: u32) -> Result<(), Error>;

    /// True if [`shift`](TargetModel::shift) works. False by default.
    fn can_shift(&self) -> bool {
        false
    }

    /// Forgets the tokens `n_keep..n_keep + n_discard` of a slot and moves the later ones down to their place, so that a full context can
    /// go on. What the later ones took from those before them stays in them.
    ///
    /// # Errors
    /// [`Error::is_target`] if the memory cannot; the slot must then be truncated to 0 before its next use. Always by default.
    fn shift(&mut self, slot: Slot, _n_keep: u32, _n_discard: u32) -> Result<(), Error> {
        Err(Error::target(format!("the memory of slot {} cannot be shifted", slot.0)))
    }
}
