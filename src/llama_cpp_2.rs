//! Drafting for programs that decode through the crate `llama-cpp-2` (feature `llama-cpp-2`).
//!
//! [`ContextTarget`] makes a [`TargetModel`] of a `LlamaContext` that the program has made; [`context_params`] says what such a context
//! needs. Both crates then share one llama.cpp. With the feature `llama` as well, `aded::llama::kernels_enable`, called before the model
//! is loaded, gives that llama.cpp our kernels.
//!
//! # Limits
//!
//! They are those of llama-cpp-2, which hides the pointers:
//!
//! * A prompt that is being read cannot be interrupted inside a decode call; there is no abort callback.
//! * `n_outputs_max` cannot be set, so that llama.cpp keeps room for the logits of `n_batch` rows: choose a small `n_batch` (128) for
//!   models with a large vocabulary.
//! * A C++ exception inside llama.cpp ends the process; `llama::Target` catches it.
//! * One slot. What the memory can take is judged by the kind of model, not tried.

use llama_cpp_2::DecodeError;
use llama_cpp_2::context::LlamaContext;
use llama_cpp_2::context::params::LlamaContextParams;
use llama_cpp_2::llama_batch::LlamaBatch;
use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::token::LlamaToken;

use crate::batch::DraftBatch;
use crate::config::MAX_DRAFT_ROWS;
use crate::error::Error;
use crate::leaf_ids::{LeafIds, SeqOp};
use crate::model::{DraftShape, Limits, TargetModel};
use crate::token::{RowId, Slot};

/// Leaves that a draft can have: beyond, the attention mask costs more than a leaf is worth.
const MAX_LEAVES: u16 = 16;

/// `params` with what a draft needs: a sequence id for each leaf, one memory for all of them, and windows that keep everything.
pub fn context_params(params: LlamaContextParams, model: &LlamaModel) -> LlamaContextParams {
    let leaves = max_leaves(model);
    let params = params.with_n_seq_max(leaves.into());
    if leaves > 1 { params.with_kv_unified(true).with_swa_full(true) } else { params }
}

fn max_leaves(model: &LlamaModel) -> u16 {
    if model.is_recurrent() || model.is_hybrid() { 1 } else { MAX_LEAVES }
}

/// A context of llama-cpp-2 that takes part in drafting. What its memory holds must not be changed by others while this lives.
pub struct ContextTarget<'c, 'm> {
    context: &'c mut LlamaContext<'m>,
    limits: Limits,
    ids: LeafIds,
    batch: LlamaBatch<'static>,
    /// Which rows of the last batch have logits: llama-cpp-2 panics where one is asked for that has none.
    has_logits: Vec<bool>,
    ops: Vec<SeqOp>,
    row_ids: Vec<i32>,
}

impl std::fmt::Debug for ContextTarget<'_, '_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ContextTarget").field("limits", &self.limits).finish_non_exhaustive()
    }
}

impl<'c, 'm> ContextTarget<'c, 'm> {
    /// Takes a context of `model` that was created with `params`, and empties its memory.
    ///
    /// # Errors
    /// [`Error::is_usage`] if `params` do not come from [`context_params`], or a batch of the context cannot hold a draft.
    pub fn new(
        context: &'c mut LlamaContext<'m>,
        model: &LlamaModel,
        params: &LlamaContextParams,
    ) -> Result<Self, Error> {
        let max_leaves = max_leaves(model);
        if params.n_seq_max() < u32::from(max_leaves) || (max_leaves > 1 && !params.kv_unified()) {
            return Err(Error::usage(format!(
                "the context has {} sequences (one memory for all: {}), and drafts need {max_leaves} in one: create it with aded::llama_cpp_2::context_params",
                params.n_seq_max(),
                params.kv_unified()
            )));
        }
        let max_rows = context.n_batch().min(context.n_ubatch());
        if max_rows < 2 {
            return Err(Error::usage(format!("a batch of {max_rows} rows leaves no room for a draft; raise n_batch")));
        }
        let n_vocab = u32::try_from(model.n_vocab())
            .map_err(|_| Error::usage(format!("the model has a vocabulary of {}", model.n_vocab())))?;
        let limits = Limits {
            n_vocab,
            n_ctx: context.n_ctx(),
            max_rows,
            max_logits_rows: max_rows.min(MAX_DRAFT_ROWS as u32),
            max_leaves,
            n_slots: 1,
            shape: if max_leaves > 1 { DraftShape::Tree } else { DraftShape::Nothing },
        };
        context.clear_kv_cache();
        Ok(Self {
            context,
            limits,
            ids: LeafIds::new(1, max_leaves),
            batch: LlamaBatch::new(max_rows as usize, max_leaves.into()),
            has_logits: Vec::new(),
            ops: Vec::new(),
            row_ids: Vec::new(),
        })
    }

    fn carry_out(&mut self) -> Result<(), Error> {
        for op in self.ops.drain(..) {
            let done = match op {
                SeqOp::Copy { from, to, begin, end } => {
                    self.context.copy_kv_cache_seq(from as i32, to as i32, Some(begin), Some(end)).map(|()| true)
                }
                SeqOp::Remove { id, begin } => self.context.clear_kv_cache_seq(Some(id), Some(begin), None),
            };
            match done {
                Ok(true) => {}
                Ok(false) => return Err(Error::target(format!("the memory refuses {op:?}: it cannot roll back"))),
                Err(error) => return Err(Error::target(format!("the memory fails at {op:?}")).with_source(error)),
            }
        }
        Ok(())
    }

    /// Brings the memory back to what it held before the batch under way.
    fn restore(&mut self) {
        self.ops.clear();
        self.ids.plan_forget(Slot(0), &mut self.ops);
        if self.carry_out().is_err() {
            // Memory without a way back is emptied rather than left in a state that nobody knows.
            self.ops.clear();
            self.context.clear_kv_cache();
            self.ids = LeafIds::new(1, self.limits.max_leaves);
        }
    }

    fn fill(&mut self, batch: &DraftBatch) -> Result<(), Error> {
        self.batch.clear();
        self.has_logits.clear();
        for (id, row) in (0..).map(RowId).zip(batch.rows()) {
            self.row_ids.clear();
            // Never more than `max_leaves`, for which the batch has room: it checks that itself not.
            self.row_ids.extend(self.ids.ids(id).map(|id| id as i32));
            self.batch
                .add(LlamaToken(row.token.0 as i32), row.pos.0 as i32, &self.row_ids, row.wants_logits)
                .map_err(|error| Error::target("a row does not fit into the batch").with_source(error))?;
            self.has_logits.push(row.wants_logits);
        }
        Ok(())
    }
}

impl TargetModel for ContextTarget<'_, '_> {
    fn limits(&self) -> Limits {
        self.limits
    }

    fn decode(&mut self, batch: &DraftBatch) -> Result<(), Error> {
        let (n_rows, limits) = (batch.len(), &self.limits);
        // llama.cpp aborts the process on some of these.
        if n_rows == 0 || n_rows > limits.max_rows as usize {
            return Err(Error::target(format!("the batch has {n_rows} rows, but 1 to {} fit", limits.max_rows)));
        }
        if let Some(row) = batch.rows().iter().find(|row| row.token.0 >= limits.n_vocab) {
            let n_vocab = limits.n_vocab;
            return Err(Error::target(format!("token {} is outside the vocabulary of {n_vocab}", row.token.0)));
        }
        let cells = self.ids.n_cells() + n_rows as u64;
        if cells > limits.n_ctx.into() {
            let n_ctx = limits.n_ctx;
            return Err(Error::full(format!("the context of {n_ctx} tokens is full: the call would need {cells}")));
        }
        self.ops.clear();
        self.ids.plan_decode(batch, &mut self.ops)?;
        let filled = self.carry_out().and_then(|()| self.fill(batch));
        let decoded = filled.and_then(|()| {
            self.context.decode(&mut self.batch).map_err(|error| match error {
                DecodeError::NoKvCacheSlot => {
                    Error::full(format!("llama.cpp finds no room for {n_rows} rows in its KV cache"))
                }
                DecodeError::Unknown(2) => Error::cancelled(),
                error => Error::target(format!("llama.cpp cannot decode {n_rows} rows")).with_source(error),
            })
        });
        match decoded {
            // On a device the work may still be running; its time belongs to this call.
            Ok(()) => self.context.synchronize(),
            Err(_) => self.restore(),
        }
        decoded
    }

    fn logits(&self, row: RowId) -> &[f32] {
        match self.has_logits.get(row.0 as usize) {
            Some(true) => self.context.get_logits_ith(row.0 as i32),
            _ => &[],
        }
    }

    fn keep(&mut self, slot: Slot, last: RowId) -> Result<(), Error> {
        self.ops.clear();
        self.ids.plan_keep(slot, last, &mut self.ops)?;
        self.carry_out()?;
        let (end, committed) = (self.context.kv_cache_seq_pos_max(0) + 1, self.ids.n_committed(slot));
        if u32::try_from(end) != Ok(committed) {
            return Err(Error::target(format!("the memory ends at {end}, but holds {committed} tokens by our count")));
        }
        Ok(())
    }

    fn truncate(&mut self, slot: Slot, n_tokens: u32) -> Result<(), Error> {
        if slot != Slot(0) {
            return Err(Error::target(format!("slot {} does not exist: there is one", slot.0)));
        }
        self.ops.clear();
        self.ids.plan_truncate(slot, n_tokens, &mut self.ops);
        self.carry_out()?;
        self.ids.set_truncated(slot, n_tokens);
        Ok(())
    }
}
