//! A loaded model and its vocabulary.

use std::any::Any;
use std::ffi::{CStr, CString, c_char, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;
use std::ptr::{self, NonNull};

use llama_cpp_sys_2 as ffi;

use super::{Failure, shim, start, text_of};
use crate::error::Error;
use crate::llama::log;
use crate::token::Token;

/// How a model file is loaded; the fields are those of `ModelParams`.
pub(crate) struct LoadOptions {
    pub(crate) n_gpu_layers: i32,
    pub(crate) use_mmap: bool,
    pub(crate) use_mlock: bool,
    pub(crate) check_tensors: bool,
    pub(crate) vocab_only: bool,
}

/// A loaded model.
pub(crate) struct ModelHandle(pub(super) NonNull<ffi::llama_model>);

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
    pub(crate) fn load(path: &Path, options: &LoadOptions, report: &mut dyn FnMut(f32) -> bool) -> Result<Self, Error> {
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

    pub(crate) fn n_ctx_train(&self) -> u32 {
        // SAFETY: the model is valid.
        unsafe { ffi::llama_model_n_ctx_train(self.0.as_ptr()) }.max(0) as u32
    }

    pub(crate) fn n_swa(&self) -> u32 {
        // SAFETY: the model is valid.
        unsafe { ffi::llama_model_n_swa(self.0.as_ptr()) }.max(0) as u32
    }

    pub(crate) fn n_params(&self) -> u64 {
        // SAFETY: the model is valid.
        unsafe { ffi::llama_model_n_params(self.0.as_ptr()) }
    }

    pub(crate) fn size_bytes(&self) -> u64 {
        // SAFETY: the model is valid.
        unsafe { ffi::llama_model_size(self.0.as_ptr()) }
    }

    pub(crate) fn has_encoder(&self) -> bool {
        // SAFETY: the model is valid.
        unsafe { ffi::llama_model_has_encoder(self.0.as_ptr()) }
    }

    pub(crate) fn has_decoder(&self) -> bool {
        // SAFETY: the model is valid.
        unsafe { ffi::llama_model_has_decoder(self.0.as_ptr()) }
    }

    pub(crate) fn is_diffusion(&self) -> bool {
        // SAFETY: the model is valid.
        unsafe { ffi::llama_model_is_diffusion(self.0.as_ptr()) }
    }

    /// True for memory that holds a state instead of (or besides) one cell for each token.
    pub(crate) fn has_state(&self) -> bool {
        // SAFETY: the model is valid.
        unsafe { ffi::llama_model_is_recurrent(self.0.as_ptr()) || ffi::llama_model_is_hybrid(self.0.as_ptr()) }
    }

    /// A description such as `llama ?B Q4_1`.
    pub(crate) fn description(&self) -> String {
        let mut text = [0 as c_char; 256];
        // SAFETY: the model is valid, and llama.cpp writes at most the length given, terminated.
        unsafe {
            ffi::llama_model_desc(self.0.as_ptr(), text.as_mut_ptr(), text.len());
            text_of(text.as_ptr())
        }
    }

    /// The name of the file's main quantisation, such as `Q4_K - Medium`.
    pub(crate) fn file_type(&self) -> String {
        // SAFETY: the model is valid; the name is a terminated string in static memory, copied at once.
        unsafe { text_of(ffi::llama_ftype_name(ffi::llama_model_ftype(self.0.as_ptr()))) }
    }

    /// The chat template of the file.
    pub(crate) fn chat_template(&self) -> Option<String> {
        // SAFETY: the model is valid; null asks for the default template, which lives as long as the model.
        let template = unsafe { ffi::llama_model_chat_template(self.0.as_ptr(), ptr::null()) };
        // SAFETY: not null, hence a terminated string.
        (!template.is_null()).then(|| unsafe { text_of(template) })
    }

    pub(super) fn vocab(&self) -> *const ffi::llama_vocab {
        // SAFETY: the model is valid; the vocabulary belongs to it.
        unsafe { ffi::llama_model_get_vocab(self.0.as_ptr()) }
    }

    pub(crate) fn n_vocab(&self) -> u32 {
        // SAFETY: the vocabulary is valid.
        unsafe { ffi::llama_vocab_n_tokens(self.vocab()) }.max(0) as u32
    }

    /// 0 for a model without a vocabulary, else llama.cpp's number of the kind of tokenizer.
    pub(crate) fn vocab_type(&self) -> u32 {
        // SAFETY: the vocabulary is valid.
        unsafe { ffi::llama_vocab_type(self.vocab()) as u32 }
    }

    /// The text of a vocabulary entry as the file has it; empty for a token outside the vocabulary.
    pub(crate) fn token_text(&self, token: Token) -> &[u8] {
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
    pub(crate) fn is_end(&self, token: Token) -> bool {
        // SAFETY: the token is in the vocabulary, which is valid.
        token.0 < self.n_vocab() && unsafe { ffi::llama_vocab_is_eog(self.vocab(), token.0 as i32) }
    }

    /// True for tokens that steer and stand for no text.
    pub(crate) fn is_control(&self, token: Token) -> bool {
        // SAFETY: the token is in the vocabulary, which is valid.
        token.0 < self.n_vocab() && unsafe { ffi::llama_vocab_is_control(self.vocab(), token.0 as i32) }
    }

    /// The tokens with a role of their own, `None` where the vocabulary has none: begin, end, end of turn, separator, newline, padding.
    pub(crate) fn special_tokens(&self) -> [Option<Token>; 6] {
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

    /// Tokens that the file says must never be sampled.
    pub(crate) fn suppressed_tokens(&self) -> Vec<Token> {
        let mut n_tokens = 0;
        // SAFETY: the vocabulary is valid; llama.cpp gives an array of its own that lives as long as the model, with its length.
        let tokens = unsafe {
            let tokens = ffi::llama_vocab_get_suppress_tokens(self.vocab(), &mut n_tokens);
            let n_tokens = usize::try_from(n_tokens).unwrap_or(0);
            if tokens.is_null() || n_tokens == 0 { &[] } else { std::slice::from_raw_parts(tokens, n_tokens) }
        };
        let in_vocab = |&token: &i32| u32::try_from(token).ok().filter(|&token| token < self.n_vocab());
        tokens.iter().filter_map(in_vocab).map(Token).collect()
    }

    /// Whether the tokenizer puts the begin and the end token round a text by itself.
    pub(crate) fn adds_begin_and_end(&self) -> (bool, bool) {
        // SAFETY: the vocabulary is valid.
        unsafe { (ffi::llama_vocab_get_add_bos(self.vocab()), ffi::llama_vocab_get_add_eos(self.vocab())) }
    }

    /// The tokens of a text.
    pub(crate) fn tokenize(&self, text: &str, add_special: bool, parse_special: bool) -> Result<Vec<Token>, Error> {
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
    pub(crate) fn append_piece(&self, token: Token, special: bool, bytes: &mut Vec<u8>) -> Result<(), Error> {
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
