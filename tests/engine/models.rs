//! Tiny models of several architectures with random weights, so large that memory decides and that the best two logits lie apart.

use std::sync::{Arc, OnceLock};

use aded::llama::{Model, ModelParams};

use crate::gguf::{Gguf, N_VOCAB, Weights, tiny_llama_with, tokenizer, write};

const N_EMBD: u64 = 64;
const N_FF: u64 = 128;
const N_HEADS: u32 = 4;
const N_KV_HEADS: u32 = 2;
const HEAD: u64 = N_EMBD / N_HEADS as u64;
/// Tokens of the sliding window of [`Architecture::Gemma3`]: short, so that tests go well beyond it.
pub const WINDOW: u32 = 48;
/// The spread of the output weights. Logits are so large that the best two hardly ever lie within 1, and noise stays far below that.
const OUTPUT: f32 = 300.0;

/// The kinds of memory that llama.cpp has, each by a model that uses it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Architecture {
    /// Cells.
    Llama,
    /// Cells, a sliding window in every other layer.
    Gemma3,
    /// A state.
    Mamba,
    /// A state in two layers, cells in two.
    Lfm2,
}

impl Architecture {
    pub const ALL: [Self; 4] = [Self::Llama, Self::Gemma3, Self::Mamba, Self::Lfm2];

    /// The model, written and loaded once.
    pub fn model(self) -> Arc<Model> {
        static MODELS: [OnceLock<Arc<Model>>; 4] = [const { OnceLock::new() }; 4];
        let load = || {
            let folder = tempfile::tempdir().unwrap();
            let path = write(folder.path(), "tiny.gguf", &self.gguf(7).bytes());
            // Not mapped, so that the file may go.
            Model::load(path, &ModelParams { use_mmap: false, ..ModelParams::default() }).unwrap()
        };
        MODELS[self as usize].get_or_init(load).clone()
    }

    /// The file.
    pub fn gguf(self, seed: u64) -> Gguf {
        match self {
            Self::Llama => tiny_llama_with(seed, OUTPUT),
            Self::Gemma3 => gemma3(seed),
            Self::Mamba => mamba(seed),
            Self::Lfm2 => lfm2(seed),
        }
    }
}

/// Writes matrices of random weights.
struct Writer {
    file: Gguf,
    weights: Weights,
}

impl Writer {
    fn new(architecture: &str, n_layers: u32, seed: u64) -> Self {
        let mut file = Gguf::default();
        let key = |part: &str| format!("{architecture}.{part}");
        file.text("general.architecture", architecture)
            .text("general.name", "tiny")
            .u32(&key("context_length"), 1024)
            .u32(&key("embedding_length"), N_EMBD as u32)
            .u32(&key("block_count"), n_layers)
            .u32(&key("vocab_size"), N_VOCAB)
            .f32(&key("attention.layer_norm_rms_epsilon"), 1e-5);
        tokenizer(&mut file);
        Self { file, weights: Weights::new(seed) }
    }

    fn matrix(&mut self, name: &str, columns: u64, rows: u64, spread: f32) {
        let values = self.weights.spread(columns * rows, spread);
        self.file.tensor(name, &[columns, rows], values);
    }

    fn ones(&mut self, name: &str, length: u64) {
        self.file.tensor(name, &[length], vec![1.0; length as usize]);
    }

    fn vector(&mut self, name: &str, length: u64, spread: f32) {
        let values = self.weights.spread(length, spread);
        self.file.tensor(name, &[length], values);
    }

    fn attention(&mut self, layer: u32) {
        let name = |part: &str| format!("blk.{layer}.{part}.weight");
        let n_kv = HEAD * u64::from(N_KV_HEADS);
        self.matrix(&name("attn_q"), N_EMBD, N_EMBD, 0.35);
        self.matrix(&name("attn_k"), N_EMBD, n_kv, 0.35);
        self.matrix(&name("attn_v"), N_EMBD, n_kv, 0.4);
        self.matrix(&name("attn_output"), N_EMBD, N_EMBD, 0.4);
        // Norms of more than 1 sharpen attention, so that a wrong cell shows.
        self.file.tensor(&name("attn_q_norm"), &[HEAD], vec![2.0; HEAD as usize]);
        self.file.tensor(&name("attn_k_norm"), &[HEAD], vec![2.0; HEAD as usize]);
    }

    fn feed_forward(&mut self, layer: u32) {
        let name = |part: &str| format!("blk.{layer}.{part}.weight");
        self.ones(&name("ffn_norm"), N_EMBD);
        self.matrix(&name("ffn_gate"), N_EMBD, N_FF, 0.2);
        self.matrix(&name("ffn_up"), N_EMBD, N_FF, 0.2);
        self.matrix(&name("ffn_down"), N_FF, N_EMBD, 0.2);
    }

    fn ends(&mut self, norm: &str) {
        self.matrix("token_embd.weight", N_EMBD, u64::from(N_VOCAB), 1.0);
        self.ones(norm, N_EMBD);
        self.matrix("output.weight", N_EMBD, u64::from(N_VOCAB), OUTPUT);
    }
}

fn gemma3(seed: u64) -> Gguf {
    const N_LAYERS: u32 = 4;
    let mut writer = Writer::new("gemma3", N_LAYERS, seed);
    writer
        .file
        .u32("gemma3.feed_forward_length", N_FF as u32)
        .u32("gemma3.attention.head_count", N_HEADS)
        .u32("gemma3.attention.head_count_kv", N_KV_HEADS)
        .u32("gemma3.attention.key_length", HEAD as u32)
        .u32("gemma3.attention.value_length", HEAD as u32)
        .u32("gemma3.attention.sliding_window", WINDOW)
        .u32("gemma3.attention.sliding_window_pattern", 2);
    writer.ends("output_norm.weight");
    for layer in 0..N_LAYERS {
        let name = |part: &str| format!("blk.{layer}.{part}.weight");
        writer.ones(&name("attn_norm"), N_EMBD);
        writer.attention(layer);
        writer.ones(&name("post_attention_norm"), N_EMBD);
        writer.feed_forward(layer);
        writer.ones(&name("post_ffw_norm"), N_EMBD);
    }
    writer.file
}

fn lfm2(seed: u64) -> Gguf {
    const CONV: u64 = 3;
    let mut writer = Writer::new("lfm2", 4, seed);
    writer
        .file
        .u32("lfm2.feed_forward_length", N_FF as u32)
        .u32("lfm2.attention.head_count", N_HEADS)
        .ints("lfm2.attention.head_count_kv", &[0, N_KV_HEADS as i32, 0, N_KV_HEADS as i32])
        .u32("lfm2.shortconv.l_cache", CONV as u32);
    writer.ends("token_embd_norm.weight");
    for layer in 0..4 {
        let name = |part: &str| format!("blk.{layer}.{part}.weight");
        writer.ones(&name("attn_norm"), N_EMBD);
        if layer % 2 == 0 {
            writer.matrix(&name("shortconv.conv"), CONV, N_EMBD, 1.0);
            writer.matrix(&name("shortconv.in_proj"), N_EMBD, 3 * N_EMBD, 0.3);
            writer.matrix(&name("shortconv.out_proj"), N_EMBD, N_EMBD, 0.3);
        } else {
            writer.attention(layer);
        }
        writer.feed_forward(layer);
    }
    writer.file
}

fn mamba(seed: u64) -> Gguf {
    const INNER: u64 = 2 * N_EMBD;
    const STATE: u64 = 16;
    const RANK: u64 = 8;
    const CONV: u64 = 4;
    let mut writer = Writer::new("mamba", 2, seed);
    writer
        .file
        .u32("mamba.feed_forward_length", 0)
        .u32("mamba.attention.head_count", 0)
        .u32("mamba.ssm.conv_kernel", CONV as u32)
        .u32("mamba.ssm.inner_size", INNER as u32)
        .u32("mamba.ssm.state_size", STATE as u32)
        .u32("mamba.ssm.time_step_rank", RANK as u32);
    writer.ends("output_norm.weight");
    for layer in 0..2 {
        let name = |part: &str| format!("blk.{layer}.{part}");
        writer.ones(&name("attn_norm.weight"), N_EMBD);
        writer.matrix(&name("ssm_in.weight"), N_EMBD, 2 * INNER, 0.3);
        writer.matrix(&name("ssm_conv1d.weight"), CONV, INNER, 0.6);
        writer.vector(&name("ssm_conv1d.bias"), INNER, 0.1);
        writer.matrix(&name("ssm_x.weight"), INNER, RANK + 2 * STATE, 0.3);
        writer.matrix(&name("ssm_dt.weight"), RANK, INNER, 0.3);
        writer.vector(&name("ssm_dt.bias"), INNER, 1.0);
        // States fade at different speeds, as the usual initialisation has it.
        let fading: Vec<f32> = (0..INNER * STATE).map(|index| -((index % STATE + 1) as f32) * 0.05).collect();
        writer.file.tensor(&name("ssm_a"), &[STATE, INNER], fading);
        writer.ones(&name("ssm_d"), INNER);
        writer.matrix(&name("ssm_out.weight"), INNER, N_EMBD, 0.3);
    }
    writer.file
}
