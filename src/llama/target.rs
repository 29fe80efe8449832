//! [`TargetModel`] for llama.cpp: batches go in with one sequence id for each leaf, logits rows come out in place.

use std::str::FromStr;
use std::sync::Arc;

use llama_cpp_sys_2 as ffi;
use tracing::{debug, warn};

use super::host::{self, default_threads};
use super::model::Model;
use super::sys::{self, BatchRows, Context, ContextOptions, DecodeFailure, MAX_SEQUENCES};
use crate::batch::DraftBatch;
use crate::cancel::CancelFlag;
use crate::draft::DraftTree;
use crate::error::Error;
use crate::leaf_ids::{LeafIds, SeqOp};
use crate::model::{DraftShape, Limits, TargetModel};
use crate::token::{Pos, RowId, Slot, Token};

/// When llama.cpp computes attention in one fused step.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum FlashAttention {
    /// Where the backend supports it.
    #[default]
    Auto,
    /// Always.
    On,
    /// Never.
    Off,
}

impl FromStr for FlashAttention {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        match text {
            "auto" | "-1" => Ok(Self::Auto),
            "on" | "1" | "true" | "enabled" => Ok(Self::On),
            "off" | "0" | "false" | "disabled" => Ok(Self::Off),
            _ => Err(Error::usage(format!("flash attention is {text:?}, but auto, on and off are known"))),
        }
    }
}

/// The number type of the memory's keys or values.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KvType(ffi::ggml_type);

impl KvType {
    /// 16 bits: llama.cpp's default.
    pub const F16: Self = Self(ffi::GGML_TYPE_F16);

    /// The names that [`from_str`](FromStr::from_str) knows, and their types. Those that llama.cpp's own programs take.
    const NAMES: [(&str, ffi::ggml_type); 9] = [
        ("f32", ffi::GGML_TYPE_F32),
        ("f16", ffi::GGML_TYPE_F16),
        ("bf16", ffi::GGML_TYPE_BF16),
        ("q8_0", ffi::GGML_TYPE_Q8_0),
        ("q4_0", ffi::GGML_TYPE_Q4_0),
        ("q4_1", ffi::GGML_TYPE_Q4_1),
        ("iq4_nl", ffi::GGML_TYPE_IQ4_NL),
        ("q5_0", ffi::GGML_TYPE_Q5_0),
        ("q5_1", ffi::GGML_TYPE_Q5_1),
    ];

    /// The name, such as `q8_0`.
    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(_, kind)| *kind == self.0).map_or("unknown", |(name, _)| name)
    }

    /// Values and bytes of a block.
    fn layout(self) -> (u64, u64) {
        sys::type_layout(self.0).unwrap_or((1, 4))
    }
}

impl FromStr for KvType {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        Self::NAMES.iter().find(|(name, _)| *name == text).map(|(_, kind)| Self(*kind)).ok_or_else(|| {
            let known = Self::NAMES.map(|(name, _)| name).join(", ");
            Error::usage(format!("the KV cache type {text:?} is not known; known are {known}"))
        })
    }
}

/// What a context is created with.
#[derive(Clone, Debug, PartialEq)]
pub struct ContextParams {
    /// Tokens that each slot can hold; 0 = as many as the model was trained with. Default 0.
    pub n_ctx: u32,
    /// Rows that one decode call can take. Default 2048.
    pub n_batch: u32,
    /// Rows that are computed at once; a tree must fit. Default 512.
    pub n_ubatch: u32,
    /// Threads for calls with one row. Default [`default_threads`].
    pub n_threads: u32,
    /// Threads for calls with several rows. Default [`default_threads`].
    pub n_threads_batch: u32,
    /// Default auto.
    pub flash_attention: FlashAttention,
    /// Type of the keys. Default f16.
    pub type_k: KvType,
    /// Type of the values; a quantised one needs flash attention. Default f16.
    pub type_v: KvType,
    /// Keep all tokens for layers with a sliding window, not the window alone: trees need it. Default true.
    pub swa_full: bool,
    /// Keep the memory on the GPU where layers are. Default true.
    pub offload_kqv: bool,
    /// LeafIds that can be decoded side by side. Default 1.
    pub n_slots: u32,
    /// Rows with logits that one call can take, over all slots: roots and draft nodes. Each costs `8 * n_vocab` bytes. Default 64.
    pub max_logits_rows: u32,
    /// Leaves that a slot's tree can have. Default 16, beyond which the attention mask costs more than a leaf is worth.
    pub max_leaves: u16,
    /// Nodes that a chain can have in memory that rolls back by saved states (hybrid models that support it). Default 8.
    pub n_state_snapshots: u32,
}

impl Default for ContextParams {
    fn default() -> Self {
        let n_threads = default_threads();
        Self {
            n_ctx: 0,
            n_batch: 2048,
            n_ubatch: 512,
            n_threads,
            n_threads_batch: n_threads,
            flash_attention: FlashAttention::Auto,
            type_k: KvType::F16,
            type_v: KvType::F16,
            swa_full: true,
            offload_kqv: true,
            n_slots: 1,
            max_logits_rows: 64,
            max_leaves: 16,
            n_state_snapshots: 8,
        }
    }
}

impl ContextParams {
    /// Checks the values against each other.
    ///
    /// # Errors
    /// [`Error::is_usage`], saying which value is wrong and what would be right.
    pub fn validate(&self) -> Result<(), Error> {
        let positive = [
            ("threads", self.n_threads),
            ("threads for batches", self.n_threads_batch),
            ("batch size", self.n_batch),
            ("physical batch size", self.n_ubatch),
            ("number of slots", self.n_slots),
            ("number of rows with logits", self.max_logits_rows),
            ("number of leaves", self.max_leaves.into()),
        ];
        if let Some((name, _)) = positive.iter().find(|(_, value)| *value == 0) {
            return Err(Error::usage(format!("the {name} is 0, but must be at least 1")));
        }
        if let Some(threads) = [self.n_threads, self.n_threads_batch].into_iter().find(|&n_threads| n_threads > 512) {
            return Err(Error::usage(format!("{threads} threads are asked for, but at most 512 can be used")));
        }
        let ids = u64::from(self.n_slots) * u64::from(self.max_leaves);
        if ids > u64::from(MAX_SEQUENCES) {
            let (slots, leaves) = (self.n_slots, self.max_leaves);
            return Err(Error::usage(format!(
                "{slots} slots with {leaves} leaves each need {ids} sequences, but llama.cpp has {MAX_SEQUENCES}: lower one of them"
            )));
        }
        if self.max_logits_rows < self.n_slots {
            let (rows, slots) = (self.max_logits_rows, self.n_slots);
            return Err(Error::usage(format!("{rows} rows with logits are too few for {slots} slots: each needs one")));
        }
        let rows = self.max_logits_rows;
        let limit = self.n_batch.min(self.n_ubatch);
        if limit < rows {
            let name = if self.n_batch < rows { "batch size" } else { "physical batch size" };
            return Err(Error::usage(format!(
                "a {name} of {limit} is smaller than the largest draft of {rows} rows: raise it, or lower the draft"
            )));
        }
        if sys::type_layout(self.type_v.0).is_some_and(|(values, _)| values > 1)
            && self.flash_attention == FlashAttention::Off
        {
            let name = self.type_v.name();
            return Err(Error::usage(format!("a V cache of type {name} needs flash attention, which is switched off")));
        }
        Ok(())
    }
}

/// Bytes that llama.cpp keeps for a cell besides keys and values: position, shift, extension, a set of 256 sequence ids.
const CELL_BYTES: u64 = 56;

/// A context of a model: the memory of its slots, ready to decode drafts.
pub struct Target {
    context: Context,
    model: Arc<Model>,
    limits: Limits,
    ids: LeafIds,
    rows: BatchRows,
    ops: Vec<SeqOp>,
    /// Memory that keeps only the window of its sliding-window layers: what a truncation must leave for them.
    window: Option<u32>,
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
        let n_sequences = params.n_slots * u32::from(max_leaves);
        let options = ContextOptions {
            n_ctx: n_cells,
            n_batch: params.n_batch,
            n_ubatch: params.n_ubatch,
            n_sequences,
            n_state_snapshots: if has_state { params.n_state_snapshots } else { 0 },
            // llama.cpp sizes its compute buffer by this, and aborts where a call has more outputs or the context more sequences.
            n_outputs_max: params.max_logits_rows.max(n_sequences),
            n_threads: params.n_threads,
            n_threads_batch: params.n_threads_batch,
            flash_attention: match params.flash_attention {
                FlashAttention::Auto => None,
                FlashAttention::On => Some(true),
                FlashAttention::Off => Some(false),
            },
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
        let mut target = Self {
            context,
            model,
            limits,
            ids: LeafIds::new(params.n_slots, max_leaves),
            rows: BatchRows::default(),
            ops: Vec::new(),
            window,
        };
        target.try_shapes()?;
        Ok(target)
    }

    /// The model.
    pub fn model(&self) -> &Arc<Model> {
        &self.model
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

    /// Times that llama.cpp could use its compute graph again: after a call with the same number of rows.
    pub fn n_graph_reuses(&self) -> u32 {
        self.context.n_graph_reuses()
    }

    /// Empties all slots.
    pub fn clear(&mut self) {
        self.context.clear();
        self.ids = LeafIds::new(self.limits.n_slots, self.limits.max_leaves);
    }

    /// Lowers [`Limits::shape`] to what the memory really does: a chain whose tail is dropped, and a small tree.
    fn try_shapes(&mut self) -> Result<(), Error> {
        let mut batch = DraftBatch::new();
        let mut tree = DraftTree::new();
        let first = tree.add(None, Token(0), 0.5);
        if self.limits.shape == DraftShape::Tree {
            tree.add(None, Token(1.min(self.limits.n_vocab - 1)), 0.5);
            tree.add(Some(first), Token(0), 0.5);
            batch.push_prompt(Slot(0), Pos(0), &[Token(0)], false);
            self.decode(&batch).and_then(|()| self.keep(Slot(0), RowId(0)))?;
            batch.clear();
            let root = batch.push_draft(Slot(0), Pos(1), Token(0), &tree);
            // The last row is the second leaf: keeping it takes a removal and a copy.
            if self.limits.max_logits_rows >= 4 && self.limits.n_vocab > 1 {
                let branch = RowId(root.0 + 3);
                match self.decode(&batch).and_then(|()| self.keep(Slot(0), branch)) {
                    Ok(()) => {
                        self.clear();
                        return Ok(());
                    }
                    Err(error) => debug!("the memory takes no trees: {error}"),
                }
            }
            self.limits.shape = DraftShape::Chain;
            self.limits.max_leaves = 1;
            self.ids = LeafIds::new(self.limits.n_slots, 1);
        }
        self.context.clear();
        let rollback = self.context.n_state_snapshots();
        if rollback > 0 {
            self.limits.max_logits_rows = self.limits.max_logits_rows.min(self.limits.n_slots.max(rollback + 1));
        }
        let mut chain = DraftTree::new();
        chain.add(None, Token(0), 0.5);
        batch.clear();
        let root = batch.push_draft(Slot(0), Pos(0), Token(0), &chain);
        let kept = match self.limits.max_logits_rows {
            1 => Err(Error::usage("one row leaves no room for a draft")),
            _ => self.decode(&batch).and_then(|()| self.keep(Slot(0), root)),
        };
        if let Err(error) = kept {
            debug!("the memory takes no drafts: {error}");
            self.limits.shape = DraftShape::Nothing;
        }
        self.clear();
        Ok(())
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

    /// Brings the slots of the batch under way back to what they held before it.
    fn restore(&mut self) {
        for slot in 0..self.limits.n_slots {
            let slot = Slot(slot);
            self.ops.clear();
            self.ids.plan_forget(slot, &mut self.ops);
            if let Err(error) = self.carry_out() {
                // Memory without a way back: the slot is emptied rather than left in a state that nobody knows.
                warn!("slot {} is emptied after a failed call: {error}", slot.0);
                self.empty(slot);
            }
        }
    }

    fn empty(&mut self, slot: Slot) {
        self.ops.clear();
        self.ids.plan_truncate(slot, 0, &mut self.ops);
        if self.carry_out().is_err() {
            self.context.clear();
            self.ids = LeafIds::new(self.limits.n_slots, self.limits.max_leaves);
        }
        self.ids.set_truncated(slot, 0);
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

impl TargetModel for Target {
    fn limits(&self) -> Limits {
        self.limits
    }

    fn decode(&mut self, batch: &DraftBatch) -> Result<(), Error> {
        self.check_limits(batch)?;
        if self.context.cancel_flag().is_cancelled() {
            return Err(Error::cancelled());
        }
        self.ops.clear();
        self.ids.plan_decode(batch, &mut self.ops)?;
        if let Err(error) = self.carry_out().and_then(|()| self.check_memory()) {
            self.restore();
            return Err(error);
        }
        self.rows.clear();
        for (index, row) in (0..).zip(batch.rows()) {
            self.rows.push(row.token, row.pos.0, self.ids.ids(RowId(index)), row.wants_logits);
        }
        self.context.decode(&mut self.rows).map_err(|failure| {
            self.restore();
            match failure {
                DecodeFailure::Full => {
                    Error::full(format!("llama.cpp finds no room for {} rows in its KV cache", batch.len()))
                }
                DecodeFailure::Cancelled => Error::cancelled(),
                DecodeFailure::Other(reason) => {
                    Error::target(format!("llama.cpp cannot decode {} rows: {reason}", batch.len()))
                }
            }
        })
    }

    fn logits(&self, row: RowId) -> &[f32] {
        self.context.logits(row.0).unwrap_or_default()
    }

    fn keep(&mut self, slot: Slot, last: RowId) -> Result<(), Error> {
        self.ops.clear();
        self.ids.plan_keep(slot, last, &mut self.ops)?;
        self.carry_out()?;
        let main = slot.0 * u32::from(self.limits.max_leaves);
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
        if let Some(window) = self.window.filter(|_| n_tokens > 0 && n_tokens < self.ids.n_committed(slot)) {
            // What left the window is gone; the token after the cut would look at a hole.
            let first =
                self.context.positions(slot.0 * u32::from(self.limits.max_leaves)).map_or(0, |(first, _)| first);
            if first > n_tokens.saturating_sub(window) {
                return Err(Error::target(format!(
                    "slot {} cannot go back to {n_tokens} tokens: the sliding window holds nothing before position {first}",
                    slot.0
                )));
            }
        }
        self.ops.clear();
        self.ids.plan_truncate(slot, n_tokens, &mut self.ops);
        self.carry_out()?;
        self.ids.set_truncated(slot, n_tokens);
        Ok(())
    }
}
