//! `aded_model_*`, `aded_session_*`: the engine with llama.cpp inside. In the full library alone.

use std::ffi::{CStr, CString, c_char, c_void};
use std::ptr;
use std::sync::{Arc, LazyLock};

use super::boundary::{
    Answer, Failure, Registry, Versioned, aded_status, array, call, check_out, put, put_array, put_sized, put_text,
    sized, text,
};
use super::data::{aded_stats, finish_of, flag, mode_of, stats_of, tokens_of, versioned};
use crate::cancel::CancelFlag;
use crate::config::{Config, DraftConfig, DraftMode};
use crate::generation::Session;
use crate::kernels::Isa;
use crate::llama::text::{ChatMessage, Detokenizer};
use crate::llama::{
    ContextParams, FlashAttention, Kernels, Model, ModelParams, SamplerChain, SamplingParams, Target, kernels_enable,
};
use crate::sequence::Request;
use crate::token::Token;

/// A loaded model. Serves any number of sessions, and any number of threads at once: never ADED_BUSY. May be freed while sessions live.
pub struct aded_model {
    _private: [u8; 0],
}

/// A context of a model with one sequence, and what was learnt in it. Prompts that begin like the last one reuse its memory. From one
/// thread at a time, but for aded_session_cancel().
pub struct aded_session {
    _private: [u8; 0],
}

/// How a model is loaded.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct aded_model_params {
    /// sizeof(aded_model_params) of the caller's header.
    pub size: usize,
    /// Layers to put on a GPU, negative for all. Default -1.
    pub n_gpu_layers: i32,
    /// 1 to map the file, 0 to read it. Default 1.
    pub use_mmap: i32,
    /// 1 to keep the weights from being swapped out. Default 0.
    pub use_mlock: i32,
    /// Called now and then with the share that is done, 0 to 1, by the thread that loads; loading stops where it returns 0. Default NULL.
    pub progress: Option<unsafe extern "C" fn(share: f32, user_data: *mut c_void) -> i32>,
    /// Handed to `progress`.
    pub user_data: *mut c_void,
}

/// What a session is made with.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct aded_session_params {
    /// sizeof(aded_session_params) of the caller's header.
    pub size: usize,
    /// Tokens that prompt and answer may have together; 0 = as many as the model was trained with. Default 4096.
    pub n_ctx: u32,
    /// Rows that one call can take. Default 2048.
    pub n_batch: u32,
    /// Rows that are computed at once. Default 512.
    pub n_ubatch: u32,
    /// Threads; 0 = one for each physical core. Default 0.
    pub n_threads: u32,
    /// Threads for prompts and drafts; 0 = as n_threads. Default 0.
    pub n_threads_batch: u32,
    /// Fused attention: 1 on, 0 off, -1 where the backend supports it. Default -1.
    pub flash_attention: i32,
    /// Rows with logits: a draft's nodes and its root. Default 64.
    pub max_logits_rows: u32,
    /// Leaves of a draft. Default 16.
    pub max_leaves: u32,
    /// ADED_MODE_... Default ADED_MODE_AUTO.
    pub mode: i32,
    /// Nodes of each draft, 1 to 63; 0 = by the measured times. Default 0.
    pub budget: u32,
}

/// How tokens are chosen: llama.cpp's samplers, in the order of its own programs.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct aded_sampling {
    /// sizeof(aded_sampling) of the caller's header.
    pub size: usize,
    /// Start of the random numbers; UINT32_MAX = another one each time. Default UINT32_MAX.
    pub seed: u32,
    /// 0 or less takes the likeliest token. Default 0.8.
    pub temperature: f32,
    /// Keep the so many likeliest tokens; 0 = all. Default 40.
    pub top_k: i32,
    /// Keep the likeliest tokens that together have this probability; 1 = all. Default 0.95.
    pub top_p: f32,
    /// Keep tokens with at least this share of the likeliest one's probability; 0 = all. Default 0.05.
    pub min_p: f32,
    /// Divisor of repeated tokens' logits; 1 = off. Default 1.
    pub repeat_penalty: f32,
    /// Tokens that the penalties look back. Default 64.
    pub repeat_last_n: u32,
    /// Taken off a logit once if its token occurred; 0 = off. Default 0.
    pub presence_penalty: f32,
    /// Taken off a logit for each time that its token occurred; 0 = off. Default 0.
    pub frequency_penalty: f32,
    /// A grammar in llama.cpp's GBNF notation, or NULL. Read during the call. Default NULL.
    pub grammar: *const c_char,
}

versioned!(aded_model_params, {
    let params = ModelParams::default();
    Self {
        size: size_of::<Self>(),
        n_gpu_layers: params.n_gpu_layers,
        use_mmap: params.use_mmap.into(),
        use_mlock: params.use_mlock.into(),
        progress: None,
        user_data: ptr::null_mut(),
    }
});
versioned!(aded_session_params, {
    let params = ContextParams::default();
    Self {
        size: size_of::<Self>(),
        n_ctx: 4096,
        n_batch: params.n_batch,
        n_ubatch: params.n_ubatch,
        n_threads: 0,
        n_threads_batch: 0,
        flash_attention: -1,
        max_logits_rows: params.max_logits_rows,
        max_leaves: params.max_leaves.into(),
        mode: 0,
        budget: 0,
    }
});
versioned!(aded_sampling, {
    let params = SamplingParams::default();
    Self {
        size: size_of::<Self>(),
        seed: params.seed,
        temperature: params.temperature,
        top_k: params.top_k,
        top_p: params.top_p,
        min_p: params.min_p,
        repeat_penalty: params.repeat_penalty,
        repeat_last_n: params.repeat_last_n,
        presence_penalty: params.presence_penalty,
        frequency_penalty: params.frequency_penalty,
        grammar: ptr::null(),
    }
});

/// A session as the host holds it: the sampler of the generation under way, and characters that were not fetched.
struct Host {
    session: Session<Target>,
    model: Arc<Model>,
    end_tokens: Vec<Token>,
    sampler: SamplerChain,
    characters: Detokenizer,
    /// Text of the tokens confirmed since the last fetch.
    text: String,
    /// Tokens that did not fit into the caller's array.
    waiting: Vec<i32>,
}

/// Nothing of a model changes, so that all of it can be reached at any time.
static MODELS: Registry<(), Arc<Model>> = Registry::new("model");
static SESSIONS: Registry<Host, CancelFlag> = Registry::new("session");

/// Switches our kernels for quantised weights and attention on CPUs: `on` is 1 or 0. They are off until this is called. Call it before the
/// first model is loaded, be it by aded_model_new() or, in a program that takes the llama.cpp in this library as its own, by
/// llama_model_load_from_file(): weights are laid out while a model is loaded. `name` (or NULL) gets the instruction set that the kernels
/// use, such as "avx512-vnni", or "none" where llama.cpp's own run; the text lives for ever. Safe from any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aded_kernels_enable(on: i32, name: *mut *const c_char) -> aded_status {
    call(|| {
        let kernels = if flag(on, "on")? { Kernels::default() } else { Kernels::off() };
        let used = kernels_enable(&kernels).map_or(c"none", name_of);
        if name.is_null() {
            return Ok(());
        }
        // SAFETY: as the caller promises.
        unsafe { put(name, used.as_ptr(), "the place for the name") }
    })
}

/// Fills `params` with the defaults. `size` is sizeof(aded_model_params).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aded_model_default_params(params: *mut aded_model_params, size: usize) -> aded_status {
    // SAFETY: as the caller promises.
    call(|| unsafe { put_sized(&aded_model_params::defaults(), params, size, "the parameters") })
}

/// Loads a GGUF file; `params` NULL means the defaults. Free the model with aded_model_free().
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aded_model_new(
    path: *const c_char,
    params: *const aded_model_params,
    model: *mut *mut aded_model,
) -> aded_status {
    call(|| {
        check_out(model, "the place for the model")?;
        // SAFETY: as the caller promises.
        let (path, params) = unsafe { (text(path, "the path")?, or_default(params, "the parameters")?) };
        let own = ModelParams {
            n_gpu_layers: params.n_gpu_layers,
            use_mmap: flag(params.use_mmap, "use_mmap")?,
            use_mlock: flag(params.use_mlock, "use_mlock")?,
            ..ModelParams::default()
        };
        let mut progress = |share| {
            // SAFETY: the caller's function, with the caller's pointer.
            params.progress.is_none_or(|progress| unsafe { progress(share, params.user_data) } != 0)
        };
        let loaded = Model::load_with_progress(path, &own, &mut progress)?;
        // SAFETY: as the caller promises.
        unsafe { put(model, MODELS.insert((), loaded), "the place for the model") }
    })
}

/// Frees a model; its memory goes with the last session that uses it. NULL is fine; a second time is ADED_NO_SUCH_HANDLE.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aded_model_free(model: *mut aded_model) -> aded_status {
    call(|| MODELS.free(model))
}

/// The tokens of a prompt that is no chat, with the begin token that the model wants; names of control tokens stand for those tokens.
/// `n_tokens` (not NULL) gets their number; ADED_TOO_SMALL if `capacity` is less.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aded_model_tokenize(
    model: *const aded_model,
    prompt: *const c_char,
    tokens: *mut i32,
    capacity: usize,
    n_tokens: *mut usize,
) -> aded_status {
    call(|| {
        // SAFETY: as the caller promises.
        let prompt = unsafe { text(prompt, "the prompt")? };
        let own = numbers(&shared(model)?.tokenize_prompt(prompt.as_bytes())?);
        // SAFETY: as the caller promises.
        unsafe { put_array(&own, tokens, capacity, n_tokens, "the array of tokens") }
    })
}

/// The tokens that put a chat before the model by the template in its file, up to the opening of the model's answer: `n_messages` roles
/// ("system", "user", "assistant") and as many texts. `n_tokens` (not NULL) gets their number; ADED_TOO_SMALL if `capacity` is less,
/// ADED_FORMAT if the file has no template.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aded_model_chat(
    model: *const aded_model,
    roles: *const *const c_char,
    texts: *const *const c_char,
    n_messages: usize,
    tokens: *mut i32,
    capacity: usize,
    n_tokens: *mut usize,
) -> aded_status {
    call(|| {
        // SAFETY: as the caller promises.
        let (roles, texts) = unsafe {
            (array(roles, n_messages, "the array of roles")?, array(texts, n_messages, "the array of texts")?)
        };
        let messages = roles
            .iter()
            .zip(texts)
            // SAFETY: as the caller promises.
            .map(|(&role, &own)| Ok(unsafe { ChatMessage::new(text(role, "a role")?, text(own, "a text")?) }))
            .collect::<Answer<Vec<_>>>()?;
        let model = shared(model)?;
        let own = numbers(&model.tokenize_chat(&model.chat_prompt(&messages, true)?)?);
        // SAFETY: as the caller promises.
        unsafe { put_array(&own, tokens, capacity, n_tokens, "the array of tokens") }
    })
}

/// What kind of tokenizer the model has: two models with the same `fingerprint` (not NULL) can share a corpus.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aded_model_fingerprint(model: *const aded_model, fingerprint: *mut u64) -> aded_status {
    call(|| {
        // SAFETY: as the caller promises.
        unsafe { put(fingerprint, shared(model)?.tokenizer_fingerprint(), "the place for the fingerprint") }
    })
}

/// Fills `params` with the defaults. `size` is sizeof(aded_session_params).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aded_session_default_params(params: *mut aded_session_params, size: usize) -> aded_status {
    // SAFETY: as the caller promises.
    call(|| unsafe { put_sized(&aded_session_params::defaults(), params, size, "the parameters") })
}

/// Makes a session of a model; `params` NULL means the defaults. Free it with aded_session_free(). ADED_TARGET, above all, where there is
/// no room for the context's memory; the message says how much it needs.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aded_session_new(
    model: *const aded_model,
    params: *const aded_session_params,
    session: *mut *mut aded_session,
) -> aded_status {
    call(|| {
        check_out(session, "the place for the session")?;
        // SAFETY: as the caller promises.
        let params = unsafe { or_default(params, "the parameters")? };
        let model = shared(model)?;
        let (context, config) = session_settings(&params)?;
        let mut target = Target::new(model.clone(), &context)?;
        let cancel = CancelFlag::new();
        target.set_cancel_flag(cancel.clone());
        let mut own = Session::new(target, config)?;
        own.set_cancel_flag(cancel.clone());
        let host = Host {
            session: own,
            end_tokens: model.end_tokens(),
            sampler: SamplerChain::new(&model, &SamplingParams::greedy())?,
            characters: Detokenizer::new(model.clone(), false),
            model,
            text: String::new(),
            waiting: Vec::new(),
        };
        // SAFETY: as the caller promises.
        unsafe { put(session, SESSIONS.insert(host, cancel), "the place for the session") }
    })
}

/// Frees a session. NULL is fine. ADED_NO_SUCH_HANDLE if it was freed before, ADED_BUSY if another thread is using it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aded_session_free(session: *mut aded_session) -> aded_status {
    call(|| SESSIONS.free(session))
}

/// Fills `sampling` with the defaults. `size` is sizeof(aded_sampling).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aded_sampling_defaults(sampling: *mut aded_sampling, size: usize) -> aded_status {
    // SAFETY: as the caller promises.
    call(|| unsafe { put_sized(&aded_sampling::defaults(), sampling, size, "the sampling") })
}

/// Starts a generation of at most `n_max` tokens after a prompt, and ends an earlier one; aded_session_next() runs it. `sampling` NULL
/// takes the likeliest token each time. A cancellation that came before is taken back.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aded_session_begin(
    session: *mut aded_session,
    tokens: *const i32,
    n_tokens: usize,
    n_max: usize,
    sampling: *const aded_sampling,
) -> aded_status {
    call(|| {
        // SAFETY: as the caller promises.
        let (tokens, params) = unsafe { (array(tokens, n_tokens, "the array of tokens")?, sampling_of(sampling)?) };
        SESSIONS.with(session, |host| {
            let prompt = tokens_of(tokens, host.model.n_vocab(), "the prompt")?;
            let mut sampler = SamplerChain::new(&host.model, &params)?;
            sampler.accept_prompt(&prompt)?;
            let request = Request { prompt: &prompt, n_max, end_tokens: &host.end_tokens };
            host.session.begin(&request)?;
            // Here and not before: the cancellation of an earlier generation stands where this one does not begin.
            SESSIONS.with_shared(session, CancelFlag::reset)?;
            host.sampler = sampler;
            host.characters = Detokenizer::new(host.model.clone(), false);
            host.text.clear();
            host.waiting.clear();
            Ok(())
        })
    })
}

/// Runs the generation until tokens are confirmed: one or more, or none once it has ended. `tokens` gets as many as `capacity` (at least 1)
/// allows, the others come first in the next call; `n_tokens` (not NULL) gets their number.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aded_session_next(
    session: *mut aded_session,
    tokens: *mut i32,
    capacity: usize,
    n_tokens: *mut usize,
) -> aded_status {
    call(|| {
        check_out(tokens, "the array of tokens")?;
        check_out(n_tokens, "the place for the number of tokens")?;
        if capacity == 0 {
            return Err(Failure::invalid("the array of tokens has room for 0; give room for 1 at least"));
        }
        SESSIONS.with(session, |host| {
            host.advance()?;
            let n = host.waiting.len().min(capacity);
            // SAFETY: as the caller promises.
            unsafe { put_array(&host.waiting[..n], tokens, capacity, n_tokens, "the array of tokens")? };
            host.waiting.drain(..n);
            Ok(())
        })
    })
}

/// The text of the tokens confirmed since the last fetch, whole characters only, UTF-8 with a zero at its end. `needed` (not NULL) gets the
/// size, that zero included; ADED_TOO_SMALL if `capacity` is less, and the text stays. After the end of the generation, the rest.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aded_session_text(
    session: *mut aded_session,
    buffer: *mut c_char,
    capacity: usize,
    needed: *mut usize,
) -> aded_status {
    call(|| {
        SESSIONS.with(session, |host| {
            if host.session.sequence().finish().is_some() {
                host.characters.flush(&mut host.text);
            }
            // SAFETY: as the caller promises.
            unsafe { put_text(&host.text, buffer, capacity, needed)? };
            host.text.clear();
            Ok(())
        })
    })
}

/// Ends the generation as if the model had: for stop strings and the like.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aded_session_stop(session: *mut aded_session) -> aded_status {
    call(|| {
        SESSIONS.with(session, |host| {
            host.session.stop();
            Ok(())
        })
    })
}

/// Stops the generation within a round, also while another thread is in aded_session_next(), and also inside a long prompt on a CPU. Safe
/// from any thread at any time; not from signal handlers. The flag stays up until the next aded_session_begin().
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aded_session_cancel(session: *const aded_session) -> aded_status {
    call(|| SESSIONS.with_shared(session, CancelFlag::cancel))
}

/// Why the generation ended: `reason` (not NULL) gets ADED_FINISH_..., ADED_FINISH_NONE while it goes on.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aded_session_finish(session: *const aded_session, reason: *mut i32) -> aded_status {
    call(|| {
        SESSIONS.with(session, |host| {
            // SAFETY: as the caller promises.
            unsafe { put(reason, finish_of(host.session.sequence().finish()), "the place for the reason") }
        })
    })
}

/// What happened in the last generation so far. `size` is sizeof(aded_stats).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aded_session_stats(
    session: *const aded_session,
    stats: *mut aded_stats,
    size: usize,
) -> aded_status {
    call(|| {
        // SAFETY: as the caller promises.
        SESSIONS.with(session, |host| unsafe {
            put_sized(&stats_of(&host.session.sequence().stats), stats, size, "the statistics")
        })
    })
}

/// Forgets what was learnt from texts, and the memory of the last prompt. The measured times stay.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aded_session_forget(session: *mut aded_session) -> aded_status {
    call(|| {
        SESSIONS.with(session, |host| {
            host.session.end();
            host.session.decoder_mut().forget();
            host.session.reset();
            Ok(())
        })
    })
}

impl Host {
    /// Sees to it that tokens wait, unless the generation has ended.
    fn advance(&mut self) -> Answer {
        if !self.waiting.is_empty() {
            return Ok(());
        }
        let Some(tokens) = self.session.advance(&mut self.sampler)? else { return Ok(()) };
        self.waiting.extend(tokens.iter().map(|token| token.0 as i32));
        for &token in tokens {
            self.characters.push(token, &mut self.text)?;
        }
        Ok(())
    }
}

/// The model behind a handle.
fn shared(model: *const aded_model) -> Answer<Arc<Model>> {
    MODELS.with_shared(model, Arc::clone)
}

/// An instruction set's name with a zero at its end, for ever.
fn name_of(isa: Isa) -> &'static CStr {
    static NAMES: LazyLock<Vec<CString>> =
        LazyLock::new(|| Isa::ALL.iter().map(|isa| CString::new(isa.name()).unwrap_or_default()).collect());
    let place = Isa::ALL.iter().position(|other| *other == isa);
    place.and_then(|place| NAMES.get(place)).map_or(c"unknown", CString::as_c_str)
}

/// The caller's structure, or the defaults for NULL.
///
/// # Safety
/// As [`sized`].
unsafe fn or_default<T: Versioned>(data: *const T, name: &str) -> Answer<T> {
    if data.is_null() {
        return Ok(T::defaults());
    }
    // SAFETY: as the caller promises.
    unsafe { sized(data, name) }
}

/// # Safety
/// `sampling` is NULL or points to a structure of the size that it says, whose grammar is NULL or ends with a zero.
unsafe fn sampling_of(sampling: *const aded_sampling) -> Answer<SamplingParams> {
    if sampling.is_null() {
        return Ok(SamplingParams::greedy());
    }
    // SAFETY: as the caller promises.
    let own = unsafe { sized(sampling, "the sampling")? };
    let grammar = if own.grammar.is_null() {
        None
    } else {
        // SAFETY: as the caller promises.
        Some(unsafe { text(own.grammar, "the grammar")? }.to_owned())
    };
    Ok(SamplingParams {
        seed: own.seed,
        temperature: own.temperature,
        top_k: own.top_k,
        top_p: own.top_p,
        min_p: own.min_p,
        repeat_penalty: own.repeat_penalty,
        repeat_last_n: own.repeat_last_n,
        presence_penalty: own.presence_penalty,
        frequency_penalty: own.frequency_penalty,
        grammar,
        ..SamplingParams::default()
    })
}

fn session_settings(params: &aded_session_params) -> Answer<(ContextParams, Config)> {
    let mut context = ContextParams {
        n_ctx: params.n_ctx,
        n_batch: params.n_batch,
        n_ubatch: params.n_ubatch,
        flash_attention: match params.flash_attention {
            -1 => FlashAttention::Auto,
            other if flag(other, "flash_attention")? => FlashAttention::On,
            _ => FlashAttention::Off,
        },
        max_logits_rows: params.max_logits_rows,
        max_leaves: params.max_leaves.try_into().unwrap_or(u16::MAX),
        ..ContextParams::default()
    };
    if params.n_threads != 0 {
        (context.n_threads, context.n_threads_batch) = (params.n_threads, params.n_threads);
    }
    if params.n_threads_batch != 0 {
        context.n_threads_batch = params.n_threads_batch;
    }
    let budget = (params.budget != 0).then(|| params.budget.try_into().unwrap_or(u16::MAX));
    let mode: DraftMode = mode_of(params.mode)?;
    Ok((context, Config { draft: DraftConfig { mode, budget, ..DraftConfig::default() }, ..Config::default() }))
}

fn numbers(tokens: &[Token]) -> Vec<i32> {
    tokens.iter().map(|token| token.0 as i32).collect()
}
