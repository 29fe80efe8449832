//! A loaded model file.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use tracing::debug_span;

use super::gguf::Header;
use super::sys::{self, LoadOptions, ModelHandle};
use crate::error::Error;
use crate::token::Token;

/// How a model file is loaded.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelParams {
    /// Layers to put on a GPU; negative means all. Without a GPU it has no effect. Default -1.
    pub n_gpu_layers: i32,
    /// Map the file instead of reading it: loads faster, and several processes share the pages. Default true.
    pub use_mmap: bool,
    /// Keep the weights from being swapped out. Default false.
    pub use_mlock: bool,
    /// Look for NaN and infinity in the weights while loading; takes a pass over the file. Default false.
    pub check_tensors: bool,
    /// Load the tokenizer alone; such a model can tokenize and not decode. Default false.
    pub vocab_only: bool,
}

impl Default for ModelParams {
    fn default() -> Self {
        Self { n_gpu_layers: -1, use_mmap: true, use_mlock: false, check_tensors: false, vocab_only: false }
    }
}

impl ModelParams {
    /// Checks the values against each other.
    ///
    /// # Errors
    /// [`Error::is_usage`], saying which value is wrong.
    pub fn validate(&self) -> Result<(), Error> {
        // Any combination is meaningful today; callers need not change when that changes.
        Ok(())
    }
}

/// A loaded model: weights, tokenizer and metadata. Shared by all contexts and samplers that use it; usable from any thread.
pub struct Model {
    pub(super) handle: Arc<ModelHandle>,
    pub(super) header: Header,
    path: PathBuf,
    vocab_only: bool,
    fingerprint: OnceLock<u64>,
}

impl std::fmt::Debug for Model {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Model")
            .field("path", &self.path)
            .field("description", &self.description())
            .finish_non_exhaustive()
    }
}

impl Model {
    /// Loads a GGUF file.
    ///
    /// # Errors
    /// [`Error::is_io`] if the file is missing or cannot be read, [`Error::is_format`] if it is no GGUF file, is damaged, or holds
    /// something that cannot continue a text: an encoder, an embedding model, a projector, an adapter.
    pub fn load(path: impl AsRef<Path>, params: &ModelParams) -> Result<Arc<Self>, Error> {
        Self::load_with_progress(path, params, &mut |_| true)
    }

    /// Loads a GGUF file and reports the share that is done, 0 to 1; loading stops where `progress` returns false.
    ///
    /// # Errors
    /// As [`load`](Self::load), and [`Error::is_cancelled`] if `progress` stopped it.
    pub fn load_with_progress(
        path: impl AsRef<Path>,
        params: &ModelParams,
        progress: &mut dyn FnMut(f32) -> bool,
    ) -> Result<Arc<Self>, Error> {
        params.validate()?;
        let path = path.as_ref();
        let _span = debug_span!("load", path = %path.display()).entered();
        sys::start();
        let header = Header::read(path, sys::type_layout)?;
        refuse_by_metadata(path, &header)?;
        let options = LoadOptions {
            n_gpu_layers: params.n_gpu_layers,
            use_mmap: params.use_mmap,
            use_mlock: params.use_mlock,
            check_tensors: params.check_tensors,
            vocab_only: params.vocab_only,
        };
        let handle = ModelHandle::load(path, &options, progress)?;
        refuse_by_kind(path, &handle)?;
        Ok(Arc::new(Self {
            handle: Arc::new(handle),
            header,
            path: path.to_owned(),
            vocab_only: params.vocab_only,
            fingerprint: OnceLock::new(),
        }))
    }

    /// The file it came from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The head of the file: all metadata, and what types the tensors have.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// llama.cpp's name of the architecture, such as `llama` or `gemma3`.
    pub fn architecture(&self) -> &str {
        self.header.architecture()
    }

    /// The model's own name from its metadata.
    pub fn name(&self) -> Option<&str> {
        self.header.text("general.name")
    }

    /// Architecture, size class and quantisation in llama.cpp's words, such as `llama ?B Q4_1`.
    pub fn description(&self) -> String {
        self.handle.description()
    }

    /// The main quantisation, such as `Q4_K - Medium`.
    pub fn file_type(&self) -> String {
        self.handle.file_type()
    }

    /// Number of weights.
    pub fn n_params(&self) -> u64 {
        self.handle.n_params()
    }

    /// Bytes of all weights.
    pub fn size_bytes(&self) -> u64 {
        self.handle.size_bytes()
    }

    /// Number of vocabulary entries: the length of a logits row.
    pub fn n_vocab(&self) -> u32 {
        self.handle.n_vocab()
    }

    /// Tokens of the longest context that the model was trained with.
    pub fn n_ctx_train(&self) -> u32 {
        self.handle.n_ctx_train()
    }

    /// Tokens that the layers with a sliding window look back; 0 for a model without such layers.
    pub fn n_sliding_window(&self) -> u32 {
        self.handle.n_swa()
    }

    /// True if it was loaded for its tokenizer alone.
    pub fn is_vocab_only(&self) -> bool {
        self.vocab_only
    }

    /// A number that tells tokenizers apart: equal for two files whose tokens mean the same, whatever their weights. Tables learnt with
    /// one model serve every model with the same number.
    pub fn tokenizer_fingerprint(&self) -> u64 {
        *self.fingerprint.get_or_init(|| {
            // FNV-1a over the kind, the size, the special tokens and every token's text with its length.
            let mut hash = 0xcbf2_9ce4_8422_2325_u64;
            let mut take = |bytes: &[u8]| {
                for &byte in bytes {
                    hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
                }
            };
            take(&self.handle.vocab_type().to_le_bytes());
            take(&self.n_vocab().to_le_bytes());
            for special in self.handle.special_tokens() {
                take(&special.map_or(u32::MAX, |token| token.0).to_le_bytes());
            }
            for token in (0..self.n_vocab()).map(Token) {
                let text = self.handle.token_text(token);
                take(&(text.len() as u32).to_le_bytes());
                take(text);
            }
            hash
        })
    }

    /// Bytes of a memory for `n_ctx` tokens whose keys and values take so many bytes each for `(values, bytes)` of a block. An estimate
    /// from the metadata for messages; `None` where the metadata do not say enough.
    pub(super) fn kv_bytes(&self, n_ctx: u64, key_block: (u64, u64), value_block: (u64, u64)) -> Option<u64> {
        let heads = self.header.heads()?;
        let n_layers = self.header.architecture_number("block_count")?;
        let n_rows = n_ctx.checked_mul(n_layers)?.checked_mul(heads.n_kv.unwrap_or(heads.n))?;
        let bytes = |size: u64, block: (u64, u64)| (n_rows.checked_mul(size)? / block.0).checked_mul(block.1);
        bytes(heads.key_size, key_block)?.checked_add(bytes(heads.value_size, value_block)?)
    }

    /// Elements of a head, heads of the queries, heads of keys and values; `None` where heads differ in size, by layer, or do not divide.
    pub(super) fn attention_heads(&self) -> Option<(u32, u32, u32)> {
        let heads = self.header.heads()?;
        let n_kv = heads.n_kv.filter(|&n| n > 0 && heads.n <= 1 << 10 && heads.n.is_multiple_of(n))?;
        let is_known = heads.key_size == heads.value_size && (1..=1024).contains(&heads.key_size);
        is_known.then_some((heads.key_size as u32, heads.n as u32, n_kv as u32))
    }
}

/// What the metadata say about a file that cannot continue a text. llama.cpp would load some of these and answer with nonsense.
fn refuse_by_metadata(path: &Path, header: &Header) -> Result<(), Error> {
    let architecture = header.architecture();
    let refuse = |what: &str| {
        let name = path.display();
        Err(Error::format(format!(
            "the model {name} is {what} (architecture {architecture}); a model that generates text is needed"
        )))
    };
    match header.text("general.type") {
        Some("adapter") => return refuse("a LoRA adapter"),
        Some("mmproj") => return refuse("a multimodal projector"),
        Some("imatrix") => return refuse("an importance matrix"),
        _ => {}
    }
    if architecture == "clip" {
        return refuse("a multimodal projector");
    }
    if header.text("general.architecture").is_none() {
        return Err(Error::format(format!(
            "the file {} names no model architecture; it is not a language model",
            path.display()
        )));
    }
    // llama.cpp aborts on numbers beyond its tables instead of refusing them. Recurrent models have no heads, and say so.
    let is_recurrent = ["ssm.conv_kernel", "wkv.head_size"].iter().any(|key| header.architecture_number(key).is_some());
    for (key, limit) in [("block_count", 512), ("expert_count", 1024), ("attention.head_count", 1 << 16)] {
        let may_be_none = key == "expert_count" || is_recurrent && key == "attention.head_count";
        if let Some(value) =
            header.architecture_number(key).filter(|&value| value > limit || value == 0 && !may_be_none)
        {
            let name = path.display();
            return Err(Error::format(format!("the model file {name} is damaged: a {key} of {value}; fetch it again")));
        }
    }
    if header.architecture_flag("attention.causal") == Some(false) {
        return refuse("an encoder, whose tokens look both ways");
    }
    if header.architecture_number("pooling_type").is_some_and(|kind| kind > 0) {
        return refuse("an embedding model");
    }
    Ok(())
}

/// What llama.cpp itself says about a model that cannot continue a text.
fn refuse_by_kind(path: &Path, handle: &ModelHandle) -> Result<(), Error> {
    let refuse = |what: &str| {
        Err(Error::format(format!("the model {} {what}; a model that generates text is needed", path.display())))
    };
    if !handle.has_decoder() {
        return refuse("is an encoder and has no decoder");
    }
    if handle.has_encoder() {
        return refuse("is an encoder-decoder model, which this program does not run");
    }
    if handle.is_diffusion() {
        return refuse("is a diffusion model, which does not decode from left to right");
    }
    if handle.vocab_type() == 0 || handle.n_vocab() == 0 {
        return refuse("has no tokenizer");
    }
    Ok(())
}
