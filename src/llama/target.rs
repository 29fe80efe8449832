//! [`TargetModel`] for llama.cpp: batches go in with one sequence id for each leaf, logits rows come out in place.

use std::sync::Arc;

use tracing::{debug, warn};

use super::attention;
use super::context_params::ContextParams;
use super::host;
use super::memory::{Memory, MemoryKind};
use super::model::Model;
use super::sys::{self, BatchRows, Context, ContextOptions, DecodeFailure};
use crate::batch::DraftBatch;
use crate::cancel::CancelFlag;
use crate::error::Error;
use crate::leaf_ids::{LeafIds, SeqOp};
use crate::model::{DraftShape, Limits, TargetModel};
use crate::token::{RowId, Slot, Token};

/// Bytes that llama.cpp keeps for a cell besides keys and values: position, shift, extension, a set of 256 sequence ids.
const CELL_BYTES: u64 = 56;

/// A context of a model: the memory of its slots, ready to decode drafts.
pub struct Target {
    context: Context,
    model: Arc<Model>,
    pub(super) limits: Limits,
    ids: LeafIds,
    pub(super) memory: Memory,
    rows: BatchRows,
    ops: Vec<SeqOp>,
    path: Vec<Token>,
}

impl std::fmt::Debug for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Target").field("model", &self.model).field("limits", &self.limits).finish_non_exhaustive()
    }
}

impl Target {
    /// Creates a context and finds out by trial what drafts its memory can take.
    ///
    /// # Errors
    /// [`Error::is_usage`] for values out of range, [`Error::is_target`] if llama.cpp cannot create the context, above all because there
    /// is no room for its memory.
    pub fn new(model: Arc<Model>, params: &ContextParams) -> Result<Self, Error> {
        params.validate()?;
        if model.is_vocab_only() {
            return Err(Error::usage("the model was loaded for its tokenizer alone and cannot decode"));
        }
        let n_ctx_train = model.n_ctx_train();
        let n_ctx = if params.n_ctx == 0 { n_ctx_train } else { params.n_ctx };
        if n_ctx == 0 {
            return Err(Error::usage(
                "the context size is 0 and the model does not say what it was trained with: set one",
            ));
        }
        if n_ctx_train > 0 && n_ctx > n_ctx_train {
            warn!(
                "a context of {n_ctx} tokens is larger than the {n_ctx_train} that the model was trained with: answers may suffer"
            );
        }
        let n_cells = n_ctx.checked_mul(params.n_slots).filter(|&cells| cells <= i32::MAX as u32).ok_or_else(|| {
            Error::usage(format!(
                "{} slots of {n_ctx} tokens are more than llama.cpp can count: lower the context",
                params.n_slots
            ))
        })?;
        // Memory that cannot hold a tree gets one id for each slot: states and windows are kept for every id.
        let window = (model.n_sliding_window() > 0 && !params.swa_full).then(|| model.n_sliding_window());
        let has_state = model.handle.has_state();
        let max_leaves = if has_state || window.is_some() { 1 } else { params.max_leaves };
        // A chain of any slot may take all rows that the other slots leave; each of its nodes may have to be rolled back.
        let n_snapshots = match params.n_state_snapshots {
            n if has_state && n > 0 && params.max_logits_rows > 1 => n.max(params.n_slots),
            _ => 0,
        };
        let n_sequences = params.n_slots * u32::from(max_leaves);
        let options = ContextOptions {
            n_ctx: n_cells,
            n_batch: params.n_batch,
            n_ubatch: params.n_ubatch,
            n_sequences,
            n_state_snapshots: n_snapshots,
            // llama.cpp sizes its compute buffer by this, and aborts where a call has more outputs or the context more sequences.
            n_outputs_max: params.max_logits_rows.max(n_sequences),
            n_threads: params.n_threads,
            n_threads_batch: params.n_threads_batch,
            flash_attention: attention::choose(&model, params),
            type_k: params.type_k.0,
            type_v: params.type_v.0,
            swa_full: params.swa_full,
            offload_kqv: params.offload_kqv,
        };
        let context = create(&model, &options, params)?;
        let limits = Limits {
            n_vocab: model.n_vocab(),
            n_ctx: context.n_ctx() / params.n_slots,
            max_rows: context.n_batch(),
            max_logits_rows: params.max_logits_rows.min(context.n_ubatch()),
            max_leaves,
            n_slots: params.n_slots,
            shape: if max_leaves > 1 { DraftShape::Tree } else { DraftShape::Chain },
        };
        let kind = match (has_state, context.n_state_snapshots(), window) {
            (true, 0, _) => MemoryKind::Replay,
            (true, n, _) => MemoryKind::Snapshots(n),
            (false, _, Some(window)) => MemoryKind::Window(window),
            (false, _, None) => MemoryKind::Cells,
        };
        let mut target = Self {
            context,
            model,
            limits,
            ids: LeafIds::new(params.n_slots, max_leaves),
            memory: Memory::new(kind, params.n_slots),
            rows: BatchRows::default(),
            ops: Vec::new(),
            path: Vec::new(),
        };
        target.try_shapes()?;
        Ok(target)
    }

    /// The model.
    pub fn model(&self) -> &Arc<Model> {
        &self.model
    }

    /// How the memory gives up rows that were not accepted.
    pub fn memory_kind(&self) -> MemoryKind {
        self.memory.kind
    }

    /// The flag that ends a decode call under way. The call then gives [`Error::is_cancelled`], and so does every later call until the
    /// flag is [reset](CancelFlag::reset).
    pub fn cancel_flag(&self) -> CancelFlag {
        self.context.cancel_flag().clone()
    }

    /// Puts another flag in place, such as one that a signal handler raises.
    pub fn set_cancel_flag(&mut self, flag: CancelFlag) {
        self.context.set_cancel_flag(flag);
    }

    /// Changes the number of threads for calls with one row and with several.
    ///
    /// # Errors
    /// [`Error::is_usage`] if one of them is 0 or above 512.
    pub fn set_threads(&mut self, n_threads: u32, n_threads_batch: u32) -> Result<(), Error> {
        ContextParams { n_threads, n_threads_batch, ..ContextParams::default() }.validate()?;
        self.context.set_n_threads(n_threads, n_threads_batch);
        Ok(())
    }

    /// Tokens that a slot holds.
    pub fn n_committed(&self, slot: Slot) -> u32 {
        self.ids.n_committed(slot)
    }

    /// Compares what llama.cpp holds of each sequence id with what the slots have committed: nothing may be missing, and nothing be left of
    /// rows that were not accepted. For tests and for hosts that doubt their memory; slots with rows under way, and those whose memory a
    /// failed call has destroyed and the next call makes anew, are passed over.
    ///
    /// # Errors
    /// [`Error::is_target`] with the first id that differs.
    pub fn check_sequences(&self) -> Result<(), Error> {
        for slot in (0..self.limits.n_slots).map(Slot).filter(|&slot| !self.memory.is_lost(slot)) {
            for (id, n_tokens) in self.ids.held(slot).into_iter().flatten() {
                let held = self.context.positions(id);
                // A state and a window say nothing of how far back they reach.
                let begins = self.memory.kind != MemoryKind::Cells || held.is_none_or(|(first, _)| first == 0);
                if !begins || held.map_or(0, |(_, last)| last + 1) != n_tokens {
                    return Err(Error::target(format!(
                        "sequence {id} holds the positions {held:?} in memory, but slot {} has {n_tokens} tokens for it",
                        slot.0
                    )));
                }
            }
        }
        Ok(())
    }

    /// Times that a compute graph could be used again. On CPUs graphs are kept for each number of rows up to 16; elsewhere llama.cpp
    /// keeps that of the last call.
    pub fn n_graph_reuses(&self) -> u32 {
        self.context.n_graph_reuses()
    }

    /// Empties all slots.
    pub fn clear(&mut self) {
        self.context.clear();
        self.ids = LeafIds::new(self.limits.n_slots, self.limits.max_leaves);
        self.memory.clear();
    }

    /// Carries out the orders in `self.ops`.
    fn carry_out(&mut self) -> Result<(), Error> {
        for op in self.ops.drain(..) {
            match self.context.carry_out(op) {
                Ok(true) => {}
                Ok(false) => return Err(Error::target(format!("the memory refuses {op:?}: it cannot roll back"))),
                Err(reason) => return Err(Error::target(format!("the memory fails at {op:?}: {reason}"))),
            }
        }
        Ok(())
    }

    fn main_id(&self, slot: Slot) -> u32 {
        slot.0 * u32::from(self.limits.max_leaves)
    }

    /// Brings the slots of the batch under way back to what they held before it: at once where each token has cells of its own, else
    /// before their next call.
    fn restore(&mut self) {
        for slot in (0..self.limits.n_slots).map(Slot) {
            if self.ids.segment_under_way(slot).is_none() {
                continue;
            }
            if self.memory.kind.has_state() {
                // How far a failed call got, nobody knows: its state may be that of any row.
                self.memory.lose(slot);
                self.ids.set_truncated(slot, self.ids.n_committed(slot));
                continue;
            }
            self.ops.clear();
            self.ids.plan_forget(slot, &mut self.ops);
            if let Err(error) = self.carry_out() {
                // Memory without a way back: the slot is emptied rather than left in a state that nobody knows.
                warn!("slot {} is emptied after a failed call: {error}", slot.0);
                self.empty(slot);
            }
            // The rows of the call may have taken cells that had left the window, but not the one that opens up again.
            if self.window_lacks(slot, self.ids.n_committed(slot)).is_some() {
                self.memory.lose(slot);
            }
        }
    }

    fn empty(&mut self, slot: Slot) {
        self.ops.clear();
        self.ids.plan_truncate(slot, 0, &mut self.ops);
        if self.carry_out().is_err() {
            self.clear();
        }
        self.ids.set_truncated(slot, 0);
        self.memory.truncate(slot, 0);
    }

    /// The first position that a sliding window holds, if a sequence of `n_tokens` would look at one before it.
    fn window_lacks(&self, slot: Slot, n_tokens: u32) -> Option<u32> {
        let MemoryKind::Window(window) = self.memory.kind else { return None };
        let first = self.context.positions(self.main_id(slot)).map_or(0, |(first, _)| first);
        (first > n_tokens.saturating_sub(window)).then_some(first)
    }

    /// Makes anew what failed calls have destroyed in the slots of a batch.
    fn recover(&mut self, batch: &DraftBatch) -> Result<(), Error> {
        if self.memory.kind.has_state() {
            // Rows that nobody kept are in the state.
            for slot in (0..self.limits.n_slots).map(Slot) {
                if self.ids.segment_under_way(slot).is_some() {
                    self.forget_draft(slot);
                    self.ids.set_truncated(slot, self.ids.n_committed(slot));
                }
            }
        }
        for segment in batch.segments() {
            if self.memory.is_lost(segment.slot) {
                let slot = segment.slot;
                debug!("slot {} is decoded anew after a failed call", slot.0);
                self.remove(slot, 0)?;
                let text = self.memory.take_text(slot);
                let result = self.decode_alone(slot, 0, &text);
                self.memory.put_text(slot, text);
                result?;
                self.memory.recovered(slot);
            }
        }
        Ok(())
    }

    /// Takes rows that nobody kept out of a slot's state: by the one that was saved before a draft, or else all is decoded anew.
    fn forget_draft(&mut self, slot: Slot) {
        let is_saved = self.memory.kind == MemoryKind::Replay && self.ids.has_draft_under_way(slot);
        self.path.clear();
        if !is_saved || self.replay(slot, self.ids.n_committed(slot)).is_err() {
            self.memory.lose(slot);
        }
    }

    /// Removes the cells of a slot's main id from `begin` on.
    fn remove(&mut self, slot: Slot, begin: u32) -> Result<(), Error> {
        self.ops.clear();
        self.ops.push(SeqOp::Remove { id: self.main_id(slot), begin });
        self.carry_out()
    }

    /// Decodes tokens of one slot without reading their logits. The logits of the batch before are gone.
    fn decode_alone(&mut self, slot: Slot, begin: u32, tokens: &[Token]) -> Result<(), Error> {
        let id = self.main_id(slot);
        let mut pos = begin;
        for piece in tokens.chunks(self.limits.max_rows as usize) {
            self.rows.clear();
            for &token in piece {
                self.rows.push(token, pos, id..id + 1, false);
                pos += 1;
            }
            self.context.decode(&mut self.rows).map_err(|failure| failed(failure, piece.len()))?;
        }
        Ok(())
    }

    /// Saves the states that the drafts of a batch will run over, where the memory keeps no snapshots of them.
    fn save_states(&mut self, batch: &DraftBatch) -> Result<(), Error> {
        if self.memory.kind != MemoryKind::Replay {
            return Ok(());
        }
        for segment in batch.segments() {
            let is_draft = segment.rows.len() > 1 && batch.row(RowId(segment.rows.start)).wants_logits;
            if !is_draft || self.ids.n_committed(segment.slot) == 0 {
                continue;
            }
            let mut saved = self.memory.take_saved(segment.slot);
            let result = self.context.save_state(self.main_id(segment.slot), &mut saved);
            self.memory.put_saved(segment.slot, saved);
            result.map_err(|reason| {
                Error::target(format!("cannot save the state of slot {}: {reason}", segment.slot.0))
            })?;
        }
        Ok(())
    }

    /// Puts the state before the draft back, which held `n_before` tokens, and runs it over the accepted path.
    fn replay(&mut self, slot: Slot, n_before: u32) -> Result<(), Error> {
        if n_before > 0 {
            let saved = self.memory.take_saved(slot);
            let result = self.context.load_state(self.main_id(slot), &saved);
            self.memory.put_saved(slot, saved);
            result
                .map_err(|reason| Error::target(format!("cannot put back the state of slot {}: {reason}", slot.0)))?;
        }
        // The attention layers of a hybrid model have cells, which the saved state leaves alone.
        self.remove(slot, n_before)?;
        let path = std::mem::take(&mut self.path);
        let result = self.decode_alone(slot, n_before, &path);
        self.path = path;
        result
    }

    /// What llama.cpp takes without a word and computes wrong: a leaf whose id does not hold the committed tokens.
    fn check_memory(&self) -> Result<(), Error> {
        for slot in self.ids.slots_under_way() {
            let last = self.ids.n_committed(slot).checked_sub(1);
            for id in self.ids.ids_under_way(slot) {
                let held = self.context.positions(id).map(|(_, last)| last);
                if held != last {
                    return Err(Error::target(format!(
                        "sequence {id} ends at {held:?} in memory, but slot {} at {last:?}",
                        slot.0
                    )));
                }
            }
        }
        Ok(())
    }

    fn check_limits(&self, batch: &DraftBatch) -> Result<(), Error> {
        let limits = &self.limits;
        let n_rows = batch.len();
        if n_rows == 0 {
            return Err(Error::target("the batch is empty"));
        }
        if n_rows > limits.max_rows as usize {
            return Err(Error::target(format!("the batch has {n_rows} rows, but {} fit in one call", limits.max_rows)));
        }
        let n_outputs = batch.rows().iter().filter(|row| row.wants_logits).count();
        if n_outputs > limits.max_logits_rows as usize {
            return Err(Error::target(format!(
                "{n_outputs} rows want logits, but {} can have them",
                limits.max_logits_rows
            )));
        }
        let has_draft = batch.rows().windows(2).any(|rows| rows[0].wants_logits && rows[1].parent.is_some());
        if has_draft && n_rows > self.context.n_ubatch() as usize {
            let fit = self.context.n_ubatch();
            return Err(Error::target(format!(
                "a batch with a draft has {n_rows} rows, but {fit} are computed at once"
            )));
        }
        if has_draft && limits.shape == DraftShape::Nothing {
            return Err(Error::target("the memory of this model cannot take drafts"));
        }
        let cells = self.ids.n_cells() + n_rows as u64;
        if cells > u64::from(self.context.n_ctx()) {
            let n_ctx = self.context.n_ctx();
            return Err(Error::full(format!("the context of {n_ctx} tokens is full: the call would need {cells}")));
        }
        Ok(())
    }
}

/// Creates the context, or says what it would have needed.
fn create(model: &Model, options: &ContextOptions, params: &ContextParams) -> Result<Context, Error> {
    let n_cells = options.n_ctx;
    let kv_bytes = model.kv_bytes(n_cells.into(), params.type_k.layout(), params.type_v.layout());
    let mebibytes = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    let fail = |reason: &str| {
        let size = kv_bytes.map_or(String::new(), |bytes| format!(" (about {:.0} MiB of KV cache)", mebibytes(bytes)));
        let way_out = "a smaller context or KV type needs less";
        Err(Error::target(format!("cannot create a context of {n_cells} tokens{size}: {reason}; {way_out}")))
    };
    // llama.cpp writes to all of its memory at once. Where that is more than there is, Linux grants it and then ends the process.
    let on_host = !params.offload_kqv || !sys::has_gpu();
    let needed = kv_bytes.filter(|_| on_host).unwrap_or(0).saturating_add(u64::from(n_cells) * CELL_BYTES);
    if let Some(available) = host::available_bytes().filter(|&available| needed > available) {
        return fail(&format!(
            "{:.0} MiB are needed, but {:.0} MiB are available",
            mebibytes(needed),
            mebibytes(available)
        ));
    }
    Context::new(model.handle.clone(), options).or_else(|reason| fail(&reason))
}

fn failed(failure: DecodeFailure, n_rows: usize) -> Error {
    match failure {
        DecodeFailure::Full => Error::full(format!("llama.cpp finds no room for {n_rows} rows in its KV cache")),
        DecodeFailure::Cancelled => Error::cancelled(),
        DecodeFailure::Other(reason) => Error::target(format!("llama.cpp cannot decode {n_rows} rows: {reason}")),
    }
}

impl TargetModel for Target {
    fn limits(&self) -> Limits {
        self.limits
    }

    fn decode(&mut self, batch: &DraftBatch) -> Result<(), Error> {
        self.check_limits(batch)?;
        if self.context.cancel_flag().is_cancelled() {
            return Err(Error::cancelled());
        }
        self.recover(batch)?;
        self.ops.clear();
        self.ids.plan_decode(batch, &mut self.ops)?;
        if let Err(error) = self.carry_out().and_then(|()| self.check_memory()).and_then(|()| self.save_states(batch)) {
            self.restore();
            return Err(error);
        }
        self.rows.clear();
        for (index, row) in (0..).zip(batch.rows()) {
            self.rows.push(row.token, row.pos.0, self.ids.ids(RowId(index)), row.wants_logits);
        }
        self.context.decode(&mut self.rows).map_err(|failure| {
            self.restore();
            failed(failure, batch.len())
        })
    }

    fn logits(&self, row: RowId) -> &[f32] {
        self.context.logits(row.0).unwrap_or_default()
    }

    fn keep(&mut self, slot: Slot, last: RowId) -> Result<(), Error> {
        let n_before = self.ids.n_committed(slot);
        let main = self.main_id(slot);
        self.path.clear();
        self.ids.path(slot, last, &mut self.path);
        self.ops.clear();
        self.ids.plan_keep(slot, last, &mut self.ops)?;
        let rejects = self.ops.iter().any(|op| matches!(op, SeqOp::Remove { id, .. } if *id == main));
        let kept = match self.memory.kind {
            MemoryKind::Replay if rejects => self.replay(slot, n_before),
            _ => self.carry_out(),
        };
        self.memory.commit(slot, &self.path);
        match kept {
            Ok(()) => {}
            // The text is known, and what does not hold it any more is made anew from it.
            Err(error) if self.memory.kind.has_state() => {
                debug!("slot {} will be decoded anew: {error}", slot.0);
                self.memory.lose(slot);
                return Ok(());
            }
            Err(error) => return Err(error),
        }
        let end = self.context.positions(main).map(|(_, last)| last + 1);
        let committed = self.ids.n_committed(slot);
        if end != Some(committed) {
            return Err(Error::target(format!(
                "slot {} ends at {end:?} in memory, but holds {committed} tokens",
                slot.0
            )));
        }
        Ok(())
    }

    fn truncate(&mut self, slot: Slot, n_tokens: u32) -> Result<(), Error> {
        if slot.0 >= self.limits.n_slots {
            return Err(Error::target(format!("slot {} does not exist: there are {}", slot.0, self.limits.n_slots)));
        }
        let held = self.ids.n_committed(slot);
        if self.memory.kind.has_state() && self.ids.segment_under_way(slot).is_some() {
            self.memory.lose(slot);
        }
        if n_tokens > 0 && n_tokens < held && !self.memory.is_lost(slot) {
            if self.memory.kind.has_state() {
                // Snapshots reach back into the last call alone, and nobody would notice an older one.
                return Err(Error::target(format!(
                    "slot {} cannot go back to {n_tokens} of its {held} tokens: the model keeps a state for all of them together",
                    slot.0
                )));
            }
            // What left the window is gone; the token after the cut would look at a hole.
            if let Some(first) = self.window_lacks(slot, n_tokens) {
                return Err(Error::target(format!(
                    "slot {} cannot go back to {n_tokens} tokens: the sliding window holds nothing before position {first}",
                    slot.0
                )));
            }
        }
        if n_tokens == 0 || !self.memory.is_lost(slot) {
            self.ops.clear();
            self.ids.plan_truncate(slot, n_tokens, &mut self.ops);
            self.carry_out()?;
        }
        self.ids.set_truncated(slot, n_tokens);
        self.memory.truncate(slot, n_tokens);
        Ok(())
    }

    fn can_shift(&self) -> bool {
        self.context.can_shift()
    }

    fn shift(&mut self, slot: Slot, n_keep: u32, n_discard: u32) -> Result<(), Error> {
        let n_held = self.ids.n_committed(slot);
        if !self.can_shift() {
            return Err(Error::target(format!("the memory of slot {} cannot be shifted", slot.0)));
        }
        if n_keep.checked_add(n_discard).is_none_or(|end| end > n_held) {
            return Err(Error::target(format!(
                "slot {} holds {n_held} tokens, and cannot discard {n_discard} after {n_keep}",
                slot.0
            )));
        }
        // Rows that nobody kept go first: their positions would stay where they are.
        self.ops.clear();
        self.ids.plan_forget(slot, &mut self.ops);
        self.ids.plan_shift(slot, &mut self.ops);
        self.carry_out()?;
        if !self.memory.is_lost(slot) {
            match self.context.shift(self.main_id(slot), n_keep, n_keep + n_discard) {
                Ok(true) => {}
                Ok(false) => return Err(Error::target(format!("the memory of slot {} refuses to shift", slot.0))),
                Err(reason) => return Err(Error::target(format!("cannot shift slot {}: {reason}", slot.0))),
            }
        }
        self.ids.set_shifted(slot, n_discard);
        self.memory.shift(slot, n_keep, n_discard);
        Ok(())
    }
}
