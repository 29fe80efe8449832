//! Writes small GGUF files: models with random weights that llama.cpp loads, and files with faults.

use std::path::{Path, PathBuf};

use rand::{Rng, RngExt, SeedableRng};
use rand_pcg::Pcg32;

const ALIGNMENT: usize = 32;

/// A file in the making.
#[derive(Default)]
pub struct Gguf {
    values: Vec<u8>,
    n_values: u64,
    tensors: Vec<(String, Vec<u64>, Vec<f32>)>,
}

fn text(bytes: &mut Vec<u8>, text: &str) {
    bytes.extend((text.len() as u64).to_le_bytes());
    bytes.extend(text.as_bytes());
}

impl Gguf {
    fn key(&mut self, key: &str, kind: u32) -> &mut Vec<u8> {
        self.n_values += 1;
        text(&mut self.values, key);
        self.values.extend(kind.to_le_bytes());
        &mut self.values
    }

    pub fn u32(&mut self, key: &str, value: u32) -> &mut Self {
        self.key(key, 4).extend(value.to_le_bytes());
        self
    }

    pub fn f32(&mut self, key: &str, value: f32) -> &mut Self {
        self.key(key, 6).extend(value.to_le_bytes());
        self
    }

    pub fn bool(&mut self, key: &str, value: bool) -> &mut Self {
        self.key(key, 7).push(value.into());
        self
    }

    pub fn text(&mut self, key: &str, value: &str) -> &mut Self {
        text(self.key(key, 8), value);
        self
    }

    fn array(&mut self, key: &str, kind: u32, length: usize) -> &mut Vec<u8> {
        let bytes = self.key(key, 9);
        bytes.extend(kind.to_le_bytes());
        bytes.extend((length as u64).to_le_bytes());
        bytes
    }

    pub fn texts(&mut self, key: &str, values: &[String]) -> &mut Self {
        let bytes = self.array(key, 8, values.len());
        values.iter().for_each(|value| text(bytes, value));
        self
    }

    pub fn floats(&mut self, key: &str, values: &[f32]) -> &mut Self {
        self.array(key, 6, values.len()).extend(values.iter().flat_map(|value| value.to_le_bytes()));
        self
    }

    pub fn ints(&mut self, key: &str, values: &[i32]) -> &mut Self {
        self.array(key, 5, values.len()).extend(values.iter().flat_map(|value| value.to_le_bytes()));
        self
    }

    /// A tensor of 32-bit floats; the first extent is the one that lies together in memory.
    pub fn tensor(&mut self, name: &str, shape: &[u64], values: Vec<f32>) -> &mut Self {
        assert_eq!(shape.iter().product::<u64>(), values.len() as u64, "{name}");
        self.tensors.push((name.to_owned(), shape.to_vec(), values));
        self
    }

    /// The file's bytes.
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = b"GGUF".to_vec();
        bytes.extend(3u32.to_le_bytes());
        bytes.extend((self.tensors.len() as u64).to_le_bytes());
        bytes.extend(self.n_values.to_le_bytes());
        bytes.extend(&self.values);
        let mut offset = 0;
        for (name, shape, values) in &self.tensors {
            text(&mut bytes, name);
            bytes.extend((shape.len() as u32).to_le_bytes());
            bytes.extend(shape.iter().flat_map(|extent| extent.to_le_bytes()));
            bytes.extend(0u32.to_le_bytes());
            bytes.extend((offset as u64).to_le_bytes());
            offset += (values.len() * 4).next_multiple_of(ALIGNMENT);
        }
        for (_, _, values) in &self.tensors {
            bytes.resize(bytes.len().next_multiple_of(ALIGNMENT), 0);
            bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
        }
        bytes.resize(bytes.len().next_multiple_of(ALIGNMENT), 0);
        bytes
    }
}

/// Random numbers with mean 0.
pub struct Weights(Pcg32);

impl Weights {
    pub fn new(seed: u64) -> Self {
        Self(Pcg32::seed_from_u64(seed))
    }

    /// `n` numbers between `-spread` and `spread`.
    pub fn spread(&mut self, n: u64, spread: f32) -> Vec<f32> {
        (0..n).map(|_| (self.0.random::<f32>() * 2.0 - 1.0) * spread).collect()
    }

    pub fn below(&mut self, end: u32) -> u32 {
        self.0.next_u32() % end
    }
}

/// Vocabulary entries of [`tiny_llama`].
pub const N_VOCAB: u32 = 320;
const N_EMBD: u64 = 64;
const N_LAYERS: u32 = 2;
const N_HEADS: u32 = 4;
const N_KV_HEADS: u32 = 2;
/// Tokens of the longest context of [`tiny_llama`].
pub const N_CTX_TRAIN: u32 = 1024;

/// A tokenizer that turns any text into bytes and knows a few words, in the terms of llama.cpp's kind `llama`.
pub fn tokenizer(file: &mut Gguf) {
    let mut tokens: Vec<String> = ["<unk>", "<s>", "</s>", "<|turn|>"].map(str::to_owned).to_vec();
    let mut kinds = vec![2, 3, 3, 3];
    tokens.extend((0..256).map(|byte| format!("<0x{byte:02X}>")));
    kinds.resize(tokens.len(), 6);
    tokens.push("\u{2581}".to_owned());
    tokens.extend(('a'..='z').map(String::from));
    tokens.extend(["he", "th", "the", "\u{2581}the", "an", "and"].map(str::to_owned));
    while tokens.len() < N_VOCAB as usize {
        tokens.push(format!("\u{2581}w{}", tokens.len()));
    }
    kinds.resize(tokens.len(), 1);
    let scores: Vec<f32> = (0..tokens.len()).map(|index| -(index as f32)).collect();
    file.text("tokenizer.ggml.model", "llama")
        .texts("tokenizer.ggml.tokens", &tokens)
        .floats("tokenizer.ggml.scores", &scores)
        .ints("tokenizer.ggml.token_type", &kinds)
        .u32("tokenizer.ggml.bos_token_id", 1)
        .u32("tokenizer.ggml.eos_token_id", 2)
        .u32("tokenizer.ggml.unknown_token_id", 0)
        .bool("tokenizer.ggml.add_bos_token", true);
}

/// A model of the llama architecture with random weights, so large that attention decides and that the best two logits lie apart.
pub fn tiny_llama(seed: u64) -> Gguf {
    tiny_llama_with(seed, 1.5)
}

/// As [`tiny_llama`], with output weights of this spread.
pub fn tiny_llama_with(seed: u64, output: f32) -> Gguf {
    llama(seed, output, N_EMBD)
}

/// As [`tiny_llama_with`], with embeddings of this length: a multiple of 256 suits every type of weights.
pub fn llama(seed: u64, output: f32, n_embd: u64) -> Gguf {
    let n_ff = 2 * n_embd;
    // Longer sums of smaller products come to the same.
    let narrower = (N_EMBD as f32 / n_embd as f32).sqrt();
    let mut file = Gguf::default();
    let mut weights = Weights::new(seed);
    file.text("general.architecture", "llama")
        .text("general.name", "tiny")
        .u32("llama.context_length", N_CTX_TRAIN)
        .u32("llama.embedding_length", n_embd as u32)
        .u32("llama.block_count", N_LAYERS)
        .u32("llama.feed_forward_length", n_ff as u32)
        .u32("llama.attention.head_count", N_HEADS)
        .u32("llama.attention.head_count_kv", N_KV_HEADS)
        .u32("llama.rope.dimension_count", n_embd as u32 / N_HEADS)
        .f32("llama.attention.layer_norm_rms_epsilon", 1e-5)
        .u32("llama.vocab_size", N_VOCAB)
        .text(
            "tokenizer.chat_template",
            "{{ bos_token }}{% for m in messages %}{{ m.role }}: {{ m.content }}<|turn|>{% endfor %}",
        );
    tokenizer(&mut file);
    let n_kv = n_embd * u64::from(N_KV_HEADS) / u64::from(N_HEADS);
    let vocab = u64::from(N_VOCAB);
    let mut matrix = |file: &mut Gguf, name: &str, columns: u64, rows: u64, spread: f32| {
        let values = weights.spread(columns * rows, spread * narrower);
        file.tensor(name, &[columns, rows], values);
    };
    matrix(&mut file, "token_embd.weight", n_embd, vocab, 1.0 / narrower);
    for layer in 0..N_LAYERS {
        let name = |part: &str| format!("blk.{layer}.{part}.weight");
        file.tensor(&name("attn_norm"), &[n_embd], vec![1.0; n_embd as usize]);
        matrix(&mut file, &name("attn_q"), n_embd, n_embd, 0.35);
        matrix(&mut file, &name("attn_k"), n_embd, n_kv, 0.35);
        matrix(&mut file, &name("attn_v"), n_embd, n_kv, 0.4);
        matrix(&mut file, &name("attn_output"), n_embd, n_embd, 0.4);
        file.tensor(&name("ffn_norm"), &[n_embd], vec![1.0; n_embd as usize]);
        matrix(&mut file, &name("ffn_gate"), n_embd, n_ff, 0.2);
        matrix(&mut file, &name("ffn_up"), n_embd, n_ff, 0.2);
        matrix(&mut file, &name("ffn_down"), n_ff, n_embd, 0.2);
    }
    file.tensor("output_norm.weight", &[n_embd], vec![1.0; n_embd as usize]);
    matrix(&mut file, "output.weight", n_embd, vocab, output);
    file
}

/// Writes bytes to a file in a folder that is removed at the end of the test.
pub fn write(folder: &Path, name: &str, bytes: &[u8]) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, bytes).unwrap();
    path
}
