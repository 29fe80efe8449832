//! What a context of a model is created with.

use std::str::FromStr;

use llama_cpp_sys_2 as ffi;

use super::host::default_threads;
use super::sys::{self, MAX_SEQUENCES};
use crate::error::Error;

/// When llama.cpp computes attention in one fused step.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum FlashAttention {
    /// Where the backend supports it, and where it is not slower than the steps: with llama.cpp's own kernels on a CPU that is timed.
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
pub struct KvType(pub(super) ffi::ggml_type);

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
    pub(super) fn layout(self) -> (u64, u64) {
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
    /// Sequences that can be decoded side by side. Default 1.
    pub n_slots: u32,
    /// Rows with logits that one call can take, over all slots: roots and draft nodes. Each costs `8 * n_vocab` bytes. Default 64.
    pub max_logits_rows: u32,
    /// Leaves that a slot's tree can have. Default 16, beyond which the attention mask costs more than a leaf is worth.
    pub max_leaves: u16,
    /// Nodes that a chain can have in memory that keeps a state for each of the last tokens (hybrid models that support it); each takes
    /// as much memory as the state itself. 0 = keep none, and save, restore and run forward again instead. Default 8.
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
            ("number of threads", self.n_threads),
            ("number of threads for batches", self.n_threads_batch),
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
