//! Owning wrappers round llama.cpp's pointers: the one file of the engine with `unsafe`.
//!
//! What llama.cpp answers with an abort of the process (a batch over its limits, a sequence id out of range) is refused here first;
//! what it answers with a C++ exception is caught in `shim.cpp`.
#![allow(unsafe_code)]

use std::any::Any;
use std::ffi::{CStr, CString, c_char, c_void};
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Once, PoisonError};

use llama_cpp_sys_2 as ffi;

use super::log::{self, Level};
use crate::cancel::CancelFlag;
use crate::error::Error;
use crate::leaf_ids::SeqOp;
use crate::token::Token;

#[allow(dead_code, missing_docs, non_camel_case_types, unreachable_pub)]
#[allow(clippy::undocumented_unsafe_blocks)]
mod shim {
    include!(concat!(env!("OUT_DIR"), "/shim.rs"));
}

#[cfg(aded_hook)]
pub(super) mod hook;

/// Sequence ids that llama.cpp knows: `LLAMA_MAX_SEQ`, which its headers do not export.
pub(super) const MAX_SEQUENCES: u32 = 256;

/// All sequence ids in order. A row's ids are contiguous, so each row of a batch points into this one table.
static SEQUENCE_IDS: [ffi::llama_seq_id; MAX_SEQUENCES as usize] = {
    let mut ids = [0; MAX_SEQUENCES as usize];
    let mut index = 0;
    while index < ids.len() {
        ids[index] = index as ffi::llama_seq_id;
        index += 1;
    }
    ids
};

/// What the shim wrote about an exception.
struct Failure(shim::aded_failure);

impl Failure {
    fn new() -> Self {
        Self(shim::aded_failure { text: [0; 1024] })
    }

    fn text(&self) -> Option<String> {
        // SAFETY: the shim terminates the text within the array, and it starts out all zero.
        let text = unsafe { CStr::from_ptr(self.0.text.as_ptr()) }.to_string_lossy();
        (!text.is_empty()).then(|| text.into_owned())
    }

    fn text_or(&self, errors: &[String]) -> String {
        self.text()
            .or_else(|| log::cause(errors).map(str::to_owned))
            .unwrap_or_else(|| "llama.cpp gives no reason".to_owned())
    }
}

unsafe extern "C" fn take_log(level: ffi::ggml_log_level, text: *const c_char, _: *mut c_void) {
    if text.is_null() {
        return;
    }
    // SAFETY: llama.cpp hands out a terminated string that lives for the call.
    let text = unsafe { CStr::from_ptr(text) }.to_string_lossy();
    let level = match level {
        ffi::GGML_LOG_LEVEL_CONT => None,
        ffi::GGML_LOG_LEVEL_ERROR => Some(Level::Error),
        ffi::GGML_LOG_LEVEL_WARN => Some(Level::Warn),
        ffi::GGML_LOG_LEVEL_INFO => Some(Level::Info),
        _ => Some(Level::Debug),
    };
    // A panic in a subscriber must not unwind into C++.
    _ = catch_unwind(AssertUnwindSafe(|| log::take(level, &text)));
}

/// Sets llama.cpp up once for the process: its log goes to `tracing`, its backends are known.
pub(super) fn start() {
    static START: Once = Once::new();
    START.call_once(|| {
        // SAFETY: the callback has the type asked for and needs no data; called once, before any other use of llama.cpp.
        unsafe {
            ffi::llama_log_set(Some(take_log), ptr::null_mut());
            ffi::llama_backend_init();
        }
        // Before the first model is loaded: llama.cpp copies its list of buffer types then.
        #[cfg(aded_hook)]
        hook::register();
    });
}

/// The CPU features that llama.cpp was compiled with, in its own words.
pub(super) fn system_info() -> String {
    start();
    // SAFETY: the function returns a terminated string in static memory; nobody else calls it, and we copy at once.
    unsafe { text_of(ffi::llama_print_system_info()) }
}

/// Names of the devices that llama.cpp can compute on, such as `CPU` or `CUDA0`, each with its description.
pub(super) fn devices() -> Vec<(String, String)> {
    start();
    // SAFETY: indices below the count give valid devices, whose names are terminated strings that outlive the process' use of them.
    unsafe {
        (0..ffi::ggml_backend_dev_count())
            .map(|index| ffi::ggml_backend_dev_get(index))
            .map(|device| {
                let name = text_of(ffi::ggml_backend_dev_name(device));
                (name, text_of(ffi::ggml_backend_dev_description(device)))
            })
            .collect()
    }
}

/// True if layers and memory can be put on a device with memory of its own.
pub(super) fn has_gpu() -> bool {
    // SAFETY: takes nothing and looks through the list of devices.
    unsafe { ffi::llama_supports_gpu_offload() }
}

/// Values and bytes of a block of one of ggml's types; `None` for a number that is no type, or one that was removed.
pub(super) fn type_layout(kind: u32) -> Option<(u64, u64)> {
    if kind >= ffi::GGML_TYPE_COUNT {
        return None;
    }
    // SAFETY: below the count, which is all that the two functions index a table by.
    let (values, bytes) = unsafe { (ffi::ggml_blck_size(kind), ffi::ggml_type_size(kind)) };
    Some((u64::try_from(values).ok()?, bytes as u64)).filter(|&(values, bytes)| values > 0 && bytes > 0)
}

/// # Safety
/// `text` is null or a terminated string.
unsafe fn text_of(text: *const c_char) -> String {
    if text.is_null() {
        return String::new();
    }
    // SAFETY: as the caller promises.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}

/// How a model file is loaded; the fields are those of `ModelParams`.
pub(super) struct LoadOptions {
    pub(super) n_gpu_layers: i32,
    pub(super) use_mmap: bool,
    pub(super) use_mlock: bool,
    pub(super) check_tensors: bool,
    pub(super) vocab_only: bool,
}

/// A loaded model.
pub(super) struct ModelHandle(NonNull<ffi::llama_model>);

// SAFETY: llama.cpp does not change a model after loading it, except in `llama_init_from_model`, which runs under a lock (`Context::new`).
unsafe impl Send for ModelHandle {}
// SAFETY: as above; its accessors, the vocabulary included, only read.
unsafe impl Sync for ModelHandle {}

impl Drop for ModelHandle {
    fn drop(&mut self) {
        // SAFETY: the pointer came from the loader and is freed once; contexts and samplers keep the model alive by `Arc`.
        unsafe { ffi::llama_model_free(self.0.as_ptr()) }
    }
}

struct Progress<'a> {
    report: &'a mut dyn FnMut(f32) -> bool,
    stopped: bool,
    panic: Option<Box<dyn Any + Send>>,
}

unsafe extern "C" fn take_progress(share: f32, data: *mut c_void) -> bool {
    // SAFETY: `data` is the `Progress` that `ModelHandle::load` holds on its stack during the call; loading reports from one thread.
    let progress = unsafe { &mut *data.cast::<Progress<'_>>() };
    let go_on = catch_unwind(AssertUnwindSafe(|| (progress.report)(share))).unwrap_or_else(|panic| {
        progress.panic = Some(panic);
        false
    });
    progress.stopped |= !go_on;
    go_on
}

impl ModelHandle {
    /// Loads a file. `report` hears of the share that is done and ends the loading by returning false.
    pub(super) fn load(path: &Path, options: &LoadOptions, report: &mut dyn FnMut(f32) -> bool) -> Result<Self, Error> {
        start();
        let text =
            path.to_str().ok_or_else(|| Error::usage(format!("the path {} is not valid UTF-8", path.display())))?;
        let c_path = CString::new(text).map_err(|_| Error::usage(format!("the path {text:?} holds a zero byte")))?;
        let mut progress = Progress { report, stopped: false, panic: None };
        // SAFETY: returns plain data.
        let mut params = unsafe { ffi::llama_model_default_params() };
        params.n_gpu_layers = options.n_gpu_layers;
        params.load_mode = match (options.use_mmap, options.use_mlock) {
            (false, false) => ffi::LLAMA_LOAD_MODE_NONE,
            (true, false) => ffi::LLAMA_LOAD_MODE_MMAP,
            (false, true) => ffi::LLAMA_LOAD_MODE_MLOCK,
            (true, true) => ffi::LLAMA_LOAD_MODE_MMAP_MLOCK,
        };
        params.check_tensors = options.check_tensors;
        params.vocab_only = options.vocab_only;
        params.progress_callback = Some(take_progress);
        params.progress_callback_user_data = (&raw mut progress).cast();
        let mut failure = Failure::new();
        let (model, errors) = log::errors_of(|| {
            // SAFETY: the path is terminated, `progress` and `failure` live until the call has returned.
            unsafe { shim::aded_model_load(c_path.as_ptr(), params, &mut failure.0) }
        });
        if let Some(panic) = progress.panic {
            if let Some(model) = NonNull::new(model) {
                drop(Self(model));
            }
            resume_unwind(panic);
        }
        match NonNull::new(model) {
            Some(model) => Ok(Self(model)),
            None if progress.stopped => Err(Error::cancelled()),
            None => Err(Error::format(format!("cannot load the model {text}: {}", failure.text_or(&errors)))),
        }
    }

    pub(super) fn n_ctx_train(&self) -> u32 {
        // SAFETY: the model is valid.
        unsafe { ffi::llama_model_n_ctx_train(self.0.as_ptr()) }.max(0) as u32
    }

    pub(super) fn n_swa(&self) -> u32 {
        // SAFETY: the model is valid.
        unsafe { ffi::llama_model_n_swa(self.0.as_ptr()) }.max(0) as u32
    }

    pub(super) fn n_params(&self) -> u64 {
        // SAFETY: the model is valid.
        unsafe { ffi::llama_model_n_params(self.0.as_ptr()) }
    }

    pub(super) fn size_bytes(&self) -> u64 {
        // SAFETY: the model is valid.
        unsafe { ffi::llama_model_size(self.0.as_ptr()) }
    }

    pub(super) fn has_encoder(&self) -> bool {
        // SAFETY: the model is valid.
        unsafe { ffi::llama_model_has_encoder(self.0.as_ptr()) }
    }

    pub(super) fn has_decoder(&self) -> bool {
        // SAFETY: the model is valid.
        unsafe { ffi::llama_model_has_decoder(self.0.as_ptr()) }
    }

    pub(super) fn is_diffusion(&self) -> bool {
        // SAFETY: the model is valid.
        unsafe { ffi::llama_model_is_diffusion(self.0.as_ptr()) }
    }

    /// True for memory that holds a state instead of (or besides) one cell for each token.
    pub(super) fn has_state(&self) -> bool {
        // SAFETY: the model is valid.
        unsafe { ffi::llama_model_is_recurrent(self.0.as_ptr()) || ffi::llama_model_is_hybrid(self.0.as_ptr()) }
    }

    /// A description such as `llama ?B Q4_1`.
    pub(super) fn description(&self) -> String {
        let mut text = [0 as c_char; 256];
        // SAFETY: the model is valid, and llama.cpp writes at most the length given, terminated.
        unsafe {
            ffi::llama_model_desc(self.0.as_ptr(), text.as_mut_ptr(), text.len());
            text_of(text.as_ptr())
        }
    }

    /// The name of the file's main quantisation, such as `Q4_K - Medium`.
    pub(super) fn file_type(&self) -> String {
        // SAFETY: the model is valid; the name is a terminated string in static memory, copied at once.
        unsafe { text_of(ffi::llama_ftype_name(ffi::llama_model_ftype(self.0.as_ptr()))) }
    }

    /// The chat template of the file.
    pub(super) fn chat_template(&self) -> Option<String> {
        // SAFETY: the model is valid; null asks for the default template, which lives as long as the model.
        let template = unsafe { ffi::llama_model_chat_template(self.0.as_ptr(), ptr::null()) };
        // SAFETY: not null, hence a terminated string.
        (!template.is_null()).then(|| unsafe { text_of(template) })
    }

    fn vocab(&self) -> *const ffi::llama_vocab {
        // SAFETY: the model is valid; the vocabulary belongs to it.
        unsafe { ffi::llama_model_get_vocab(self.0.as_ptr()) }
    }

    pub(super) fn n_vocab(&self) -> u32 {
        // SAFETY: the vocabulary is valid.
        unsafe { ffi::llama_vocab_n_tokens(self.vocab()) }.max(0) as u32
    }

    /// 0 for a model without a vocabulary, else llama.cpp's number of the kind of tokenizer.
    pub(super) fn vocab_type(&self) -> u32 {
        // SAFETY: the vocabulary is valid.
        unsafe { ffi::llama_vocab_type(self.vocab()) as u32 }
    }

    /// The text of a vocabulary entry as the file has it; empty for a token outside the vocabulary.
    pub(super) fn token_text(&self, token: Token) -> &[u8] {
        if token.0 >= self.n_vocab() {
            return &[];
        }
        // SAFETY: the token is in the vocabulary; the text is terminated and lives as long as the model, which `self` borrows.
        unsafe {
            let text = ffi::llama_vocab_get_text(self.vocab(), token.0 as i32);
            if text.is_null() { &[] } else { CStr::from_ptr(text).to_bytes() }
        }
    }

    /// True for tokens that end an answer.
    pub(super) fn is_end(&self, token: Token) -> bool {
        // SAFETY: the token is in the vocabulary, which is valid.
        token.0 < self.n_vocab() && unsafe { ffi::llama_vocab_is_eog(self.vocab(), token.0 as i32) }
    }

    /// True for tokens that steer and stand for no text.
    pub(super) fn is_control(&self, token: Token) -> bool {
        // SAFETY: the token is in the vocabulary, which is valid.
        token.0 < self.n_vocab() && unsafe { ffi::llama_vocab_is_control(self.vocab(), token.0 as i32) }
    }

    /// The tokens with a role of their own, `None` where the vocabulary has none: begin, end, end of turn, separator, newline, padding.
    pub(super) fn special_tokens(&self) -> [Option<Token>; 6] {
        let vocab = self.vocab();
        // SAFETY: the vocabulary is valid.
        let tokens = unsafe {
            [
                ffi::llama_vocab_bos(vocab),
                ffi::llama_vocab_eos(vocab),
                ffi::llama_vocab_eot(vocab),
                ffi::llama_vocab_sep(vocab),
                ffi::llama_vocab_nl(vocab),
                ffi::llama_vocab_pad(vocab),
            ]
        };
        tokens.map(|token| u32::try_from(token).ok().map(Token))
    }

    /// Whether the tokenizer puts the begin and the end token round a text by itself.
    pub(super) fn adds_begin_and_end(&self) -> (bool, bool) {
        // SAFETY: the vocabulary is valid.
        unsafe { (ffi::llama_vocab_get_add_bos(self.vocab()), ffi::llama_vocab_get_add_eos(self.vocab())) }
    }

    /// The tokens of a text.
    pub(super) fn tokenize(&self, text: &str, add_special: bool, parse_special: bool) -> Result<Vec<Token>, Error> {
        let too_long = || Error::usage(format!("a text of {} bytes is too long to tokenize in one piece", text.len()));
        let n_bytes = i32::try_from(text.len()).map_err(|_| too_long())?;
        // No tokenizer makes more tokens than bytes, but for what it adds itself.
        let mut tokens: Vec<ffi::llama_token> = vec![0; text.len() / 2 + 16];
        loop {
            let room = i32::try_from(tokens.len()).map_err(|_| too_long())?;
            let mut failure = Failure::new();
            // SAFETY: text and tokens are given with their lengths and live for the call.
            let n_tokens = unsafe {
                shim::aded_tokenize(
                    self.vocab(),
                    text.as_ptr().cast(),
                    n_bytes,
                    tokens.as_mut_ptr(),
                    room,
                    add_special,
                    parse_special,
                    &mut failure.0,
                )
            };
            match n_tokens {
                i32::MIN => {
                    return Err(failure
                        .text()
                        .map_or_else(too_long, |text| Error::target(format!("cannot tokenize: {text}"))));
                }
                needed if needed < 0 => tokens.resize(needed.unsigned_abs() as usize, 0),
                n_tokens => {
                    tokens.truncate(n_tokens as usize);
                    return Ok(tokens.into_iter().map(|token| Token(token as u32)).collect());
                }
            }
        }
    }

    /// Appends the bytes that a token stands for; control tokens give theirs only if `special`.
    pub(super) fn append_piece(&self, token: Token, special: bool, bytes: &mut Vec<u8>) -> Result<(), Error> {
        if token.0 >= self.n_vocab() {
            return Err(Error::usage(format!("token {} is outside the vocabulary of {}", token.0, self.n_vocab())));
        }
        let begin = bytes.len();
        let mut room = 64;
        loop {
            bytes.resize(begin + room, 0);
            let mut failure = Failure::new();
            // SAFETY: the token is in the vocabulary; the buffer has `room` bytes from `begin` on.
            let n_bytes = unsafe {
                let buffer = bytes.as_mut_ptr().add(begin).cast();
                shim::aded_token_to_piece(self.vocab(), token.0 as i32, buffer, room as i32, special, &mut failure.0)
            };
            match n_bytes {
                i32::MIN => {
                    bytes.truncate(begin);
                    let text = failure.text().unwrap_or_default();
                    return Err(Error::target(format!("cannot turn token {} into text: {text}", token.0)));
                }
                needed if needed < 0 => room = needed.unsigned_abs() as usize,
                n_bytes => {
                    bytes.truncate(begin + n_bytes as usize);
                    return Ok(());
                }
            }
        }
    }
}

/// What a context is created with, checked by the caller.
pub(super) struct ContextOptions {
    pub(super) n_ctx: u32,
    pub(super) n_batch: u32,
    pub(super) n_ubatch: u32,
    pub(super) n_sequences: u32,
    pub(super) n_state_snapshots: u32,
    pub(super) n_outputs_max: u32,
    pub(super) n_threads: u32,
    pub(super) n_threads_batch: u32,
    pub(super) flash_attention: Option<bool>,
    pub(super) type_k: ffi::ggml_type,
    pub(super) type_v: ffi::ggml_type,
    pub(super) swa_full: bool,
    pub(super) offload_kqv: bool,
}

/// A context: the memory of all sequences, the compute buffers, the logits of the last batch.
pub(super) struct Context {
    ptr: NonNull<ffi::llama_context>,
    /// Looked at by llama.cpp between graph nodes; kept here so that its address stays valid.
    cancel: CancelFlag,
    n_vocab: usize,
    n_batch: u32,
    n_sequences: u32,
    n_outputs_max: u32,
    /// Held so that it outlives the context, which needs it.
    _model: Arc<ModelHandle>,
}

// SAFETY: a context may be used from any thread, from one at a time; nothing in it is bound to the thread that made it.
unsafe impl Send for Context {}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: the pointer came from llama.cpp and is freed once; the model is still alive.
        unsafe { ffi::llama_free(self.ptr.as_ptr()) }
    }
}

unsafe extern "C" fn is_cancelled(data: *mut c_void) -> bool {
    // SAFETY: `data` points to the flag that the context keeps alive.
    unsafe { &*data.cast::<AtomicBool>() }.load(Ordering::Relaxed)
}

/// How a decode call ended, if not well.
pub(super) enum DecodeFailure {
    /// No room in the memory.
    Full,
    /// The cancel flag was raised.
    Cancelled,
    /// Anything else, in words.
    Other(String),
}

impl Context {
    /// Creates a context; `Err` holds llama.cpp's reason.
    pub(super) fn new(model: Arc<ModelHandle>, options: &ContextOptions) -> Result<Self, String> {
        static CREATING: Mutex<()> = Mutex::new(());
        assert!(options.n_sequences <= MAX_SEQUENCES && options.n_sequences <= options.n_outputs_max);
        // SAFETY: returns plain data.
        let mut params = unsafe { ffi::llama_context_default_params() };
        params.n_ctx = options.n_ctx;
        params.n_batch = options.n_batch;
        params.n_ubatch = options.n_ubatch;
        params.n_seq_max = options.n_sequences;
        params.n_rs_seq = options.n_state_snapshots;
        params.n_outputs_max = options.n_outputs_max;
        params.n_threads = options.n_threads as i32;
        params.n_threads_batch = options.n_threads_batch as i32;
        params.flash_attn_type = match options.flash_attention {
            None => ffi::LLAMA_FLASH_ATTN_TYPE_AUTO,
            Some(false) => ffi::LLAMA_FLASH_ATTN_TYPE_DISABLED,
            Some(true) => ffi::LLAMA_FLASH_ATTN_TYPE_ENABLED,
        };
        params.type_k = options.type_k;
        params.type_v = options.type_v;
        params.swa_full = options.swa_full;
        params.offload_kqv = options.offload_kqv;
        // One buffer for all sequences: the leaves of a tree share the cells of the committed tokens.
        params.kv_unified = true;
        params.no_perf = false;
        let mut failure = Failure::new();
        // Creating a context may write to the model (its trained context size, for some rope scalings).
        let guard = CREATING.lock().unwrap_or_else(PoisonError::into_inner);
        let (ptr, errors) = log::errors_of(|| {
            // SAFETY: the model is valid and kept alive; `failure` lives for the call.
            unsafe { shim::aded_context_new(model.0.as_ptr(), params, &mut failure.0) }
        });
        drop(guard);
        let ptr = NonNull::new(ptr).ok_or_else(|| failure.text_or(&errors))?;
        let mut context = Self {
            ptr,
            cancel: CancelFlag::new(),
            n_vocab: model.n_vocab() as usize,
            n_batch: 0,
            n_sequences: options.n_sequences,
            n_outputs_max: options.n_outputs_max,
            _model: model,
        };
        // SAFETY: the context is valid. llama.cpp may have lowered the number that was asked for.
        context.n_batch = unsafe { ffi::llama_n_batch(ptr.as_ptr()) };
        context.set_cancel_flag(CancelFlag::new());
        Ok(context)
    }

    pub(super) fn cancel_flag(&self) -> &CancelFlag {
        &self.cancel
    }

    /// From now on a raised `flag` ends a decode call that is under way.
    pub(super) fn set_cancel_flag(&mut self, flag: CancelFlag) {
        let data = ptr::from_ref(flag.as_atomic()).cast_mut().cast();
        // SAFETY: the context is valid; the flag is kept by `self.cancel` as long as llama.cpp may look at it.
        unsafe { ffi::llama_set_abort_callback(self.ptr.as_ptr(), Some(is_cancelled), data) };
        self.cancel = flag;
    }

    pub(super) fn n_ctx(&self) -> u32 {
        // SAFETY: the context is valid.
        unsafe { ffi::llama_n_ctx(self.ptr.as_ptr()) }
    }

    pub(super) fn n_batch(&self) -> u32 {
        self.n_batch
    }

    pub(super) fn n_ubatch(&self) -> u32 {
        // SAFETY: the context is valid.
        unsafe { ffi::llama_n_ubatch(self.ptr.as_ptr()) }
    }

    /// Snapshots of the state that the memory keeps; 0 for memory without a state, and where the architecture cannot.
    pub(super) fn n_state_snapshots(&self) -> u32 {
        // SAFETY: the context is valid.
        unsafe { ffi::llama_n_rs_seq(self.ptr.as_ptr()) }
    }

    pub(super) fn set_n_threads(&mut self, n_threads: u32, n_threads_batch: u32) {
        // SAFETY: the context is valid.
        unsafe { ffi::llama_set_n_threads(self.ptr.as_ptr(), n_threads as i32, n_threads_batch as i32) }
    }

    /// Times that llama.cpp used its compute graph again since the context was created.
    pub(super) fn n_graph_reuses(&self) -> u32 {
        // SAFETY: the context is valid; returns plain data.
        unsafe { ffi::llama_perf_context(self.ptr.as_ptr()) }.n_reused.max(0) as u32
    }

    /// Decodes the rows.
    pub(super) fn decode(&mut self, rows: &mut BatchRows) -> Result<(), DecodeFailure> {
        let refuse = |text: String| Err(DecodeFailure::Other(text));
        let n_rows = rows.tokens.len();
        if n_rows == 0 || n_rows > self.n_batch as usize {
            return refuse(format!("a batch of {n_rows} rows, but 1 to {} fit", self.n_batch));
        }
        if rows.n_outputs > self.n_outputs_max {
            return refuse(format!("{} rows with logits, but {} fit", rows.n_outputs, self.n_outputs_max));
        }
        if rows.end_id > self.n_sequences {
            return refuse(format!("sequence id {}, but there are {}", rows.end_id - 1, self.n_sequences));
        }
        if let Some(token) = rows.tokens.iter().find(|&&token| token < 0 || token as usize >= self.n_vocab) {
            return refuse(format!("token {token} is outside the vocabulary of {}", self.n_vocab));
        }
        let batch = ffi::llama_batch {
            n_tokens: n_rows as i32,
            token: rows.tokens.as_mut_ptr(),
            embd: ptr::null_mut(),
            pos: rows.positions.as_mut_ptr(),
            n_seq_id: rows.n_ids.as_mut_ptr(),
            seq_id: rows.ids.as_mut_ptr(),
            logits: rows.outputs.as_mut_ptr(),
        };
        let mut failure = Failure::new();
        let (status, errors) = log::errors_of(|| {
            // SAFETY: all arrays have `n_rows` entries, and each `ids` entry points to as many ids as `n_ids` says (`BatchRows::push`).
            // llama.cpp copies the batch and writes to none of it. The numbers that it would abort on were checked above.
            unsafe { shim::aded_decode(self.ptr.as_ptr(), batch, &mut failure.0) }
        });
        match status {
            0 => Ok(()),
            1 => Err(DecodeFailure::Full),
            2 => Err(DecodeFailure::Cancelled),
            shim::ADED_EXCEPTION => refuse(failure.text_or(&errors)),
            status => refuse(format!("{} (status {status})", failure.text_or(&errors))),
        }
    }

    /// The logits of a row of the last batch; `None` if it asked for none.
    pub(super) fn logits(&self, row: u32) -> Option<&[f32]> {
        let mut failure = Failure::new();
        // SAFETY: the context is valid. The call may reorder llama.cpp's output rows once after a batch, which moves no row handed out
        // before it, since any earlier call has done so already; `Context` is not `Sync`.
        let logits = unsafe { shim::aded_logits(self.ptr.as_ptr(), i32::try_from(row).ok()?, &mut failure.0) };
        // SAFETY: a logits row has as many entries as the vocabulary and stays until the next decode call, which needs `&mut self`.
        (!logits.is_null()).then(|| unsafe { std::slice::from_raw_parts(logits, self.n_vocab) })
    }

    /// Carries out an order; false if the memory cannot remove a part.
    pub(super) fn carry_out(&mut self, op: SeqOp) -> Result<bool, String> {
        let mut failure = Failure::new();
        // SAFETY: the context is valid.
        let context = self.ptr.as_ptr();
        let status = match op {
            SeqOp::Copy { from, to, begin, end } => {
                assert!(from.max(to) < self.n_sequences, "sequence ids {from} and {to} of {}", self.n_sequences);
                // SAFETY: both ids are below n_seq_max, which llama.cpp would abort on.
                match unsafe {
                    shim::aded_sequence_copy(context, from as i32, to as i32, begin as i32, end as i32, &mut failure.0)
                } {
                    0 => 1,
                    status => status,
                }
            }
            SeqOp::Remove { id, begin } => {
                assert!(id < self.n_sequences, "sequence id {id} of {}", self.n_sequences);
                // SAFETY: the id is below n_seq_max, which llama.cpp would abort on.
                unsafe { shim::aded_sequence_remove(context, id as i32, begin as i32, -1, &mut failure.0) }
            }
        };
        match status {
            shim::ADED_EXCEPTION => Err(failure.text_or(&[])),
            status => Ok(status == 1),
        }
    }

    /// First and last position that the memory holds for a sequence id; `None` if it holds none.
    pub(super) fn positions(&self, id: u32) -> Option<(u32, u32)> {
        assert!(id < self.n_sequences, "sequence id {id} of {}", self.n_sequences);
        // SAFETY: the context is valid and the id below n_seq_max, which llama.cpp would abort on.
        let (first, last) = unsafe {
            let memory = ffi::llama_get_memory(self.ptr.as_ptr());
            (ffi::llama_memory_seq_pos_min(memory, id as i32), ffi::llama_memory_seq_pos_max(memory, id as i32))
        };
        Some((u32::try_from(first).ok()?, u32::try_from(last).ok()?))
    }

    /// Empties the memory.
    pub(super) fn clear(&mut self) {
        // SAFETY: the context is valid; cells without an owner are never read, so their data may stay.
        unsafe { ffi::llama_memory_clear(ffi::llama_get_memory(self.ptr.as_ptr()), false) }
    }
}

/// The arrays of a `llama_batch`, used again from call to call.
#[derive(Default)]
pub(super) struct BatchRows {
    tokens: Vec<ffi::llama_token>,
    positions: Vec<ffi::llama_pos>,
    n_ids: Vec<i32>,
    ids: Vec<*mut ffi::llama_seq_id>,
    outputs: Vec<i8>,
    n_outputs: u32,
    /// One past the highest sequence id.
    end_id: u32,
}

// SAFETY: the pointers lead to a static table that nobody writes to.
unsafe impl Send for BatchRows {}

impl BatchRows {
    pub(super) fn clear(&mut self) {
        self.tokens.clear();
        self.positions.clear();
        self.n_ids.clear();
        self.ids.clear();
        self.outputs.clear();
        self.n_outputs = 0;
        self.end_id = 0;
    }

    /// Adds a row that belongs to all of `ids`.
    pub(super) fn push(&mut self, token: Token, pos: u32, ids: Range<u32>, wants_logits: bool) {
        let table = &SEQUENCE_IDS[ids.start as usize..ids.end as usize];
        assert!(!table.is_empty(), "a row belongs to at least one sequence");
        self.tokens.push(token.0 as ffi::llama_token);
        self.positions.push(pos as ffi::llama_pos);
        self.n_ids.push(table.len() as i32);
        self.ids.push(table.as_ptr().cast_mut());
        self.outputs.push(i8::from(wants_logits));
        self.n_outputs += u32::from(wants_logits);
        self.end_id = self.end_id.max(ids.end);
    }
}
