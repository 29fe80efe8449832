//! llama.cpp's samplers, and the array of candidates that they work on.

use std::ffi::{CStr, c_char};
use std::ptr::NonNull;
use std::sync::Arc;

use llama_cpp_sys_2 as ffi;

use super::{Failure, ModelHandle, shim};
use crate::error::Error;
use crate::llama::log;
use crate::token::Token;

/// The numbers of a chain, checked by the caller; the meaning is llama.cpp's.
pub(crate) struct ChainOptions<'a> {
    pub(crate) seed: u32,
    pub(crate) temperature: f32,
    pub(crate) dynatemp_range: f32,
    pub(crate) dynatemp_exponent: f32,
    pub(crate) top_k: i32,
    pub(crate) top_p: f32,
    pub(crate) min_p: f32,
    pub(crate) typical_p: f32,
    pub(crate) top_n_sigma: f32,
    pub(crate) xtc_probability: f32,
    pub(crate) xtc_threshold: f32,
    pub(crate) penalty_last_n: i32,
    pub(crate) penalty_repeat: f32,
    pub(crate) penalty_frequency: f32,
    pub(crate) penalty_presence: f32,
    pub(crate) dry_multiplier: f32,
    pub(crate) dry_base: f32,
    pub(crate) dry_allowed_length: i32,
    pub(crate) dry_last_n: i32,
    pub(crate) dry_breakers: &'a [&'a CStr],
    pub(crate) mirostat: i32,
    pub(crate) mirostat_tau: f32,
    pub(crate) mirostat_eta: f32,
    pub(crate) logit_bias: &'a [(Token, f32)],
}

/// The grammar of a JSON schema, by llama.cpp's converter; `Err` holds its reason.
pub(crate) fn json_schema_to_grammar(schema: &CStr) -> Result<String, String> {
    let mut failure = Failure::new();
    // SAFETY: the text is terminated.
    let text = unsafe { shim::aded_json_schema_to_grammar(schema.as_ptr(), &mut failure.0) };
    if text.is_null() {
        return Err(failure.text_or(&[]));
    }
    // SAFETY: the shim gave a terminated text, which is copied and then freed once.
    let grammar = unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned();
    // SAFETY: as above.
    unsafe { shim::aded_text_free(text) };
    Ok(grammar)
}

/// A sampler or a chain of them, with its state.
pub(crate) struct Sampler {
    ptr: NonNull<ffi::llama_sampler>,
    /// Held because samplers refer to its vocabulary.
    model: Arc<ModelHandle>,
}

// SAFETY: a sampler may be used from any thread, from one at a time; nothing in it is bound to the thread that made it.
unsafe impl Send for Sampler {}

impl Drop for Sampler {
    fn drop(&mut self) {
        // SAFETY: the pointer came from llama.cpp, belongs to no chain and is freed once; the vocabulary is still alive.
        unsafe { ffi::llama_sampler_free(self.ptr.as_ptr()) }
    }
}

impl Sampler {
    /// A chain in the order of llama.cpp's own programs.
    pub(crate) fn chain(model: &Arc<ModelHandle>, options: &ChainOptions<'_>) -> Result<Self, Error> {
        let mut breakers: Vec<*const c_char> = options.dry_breakers.iter().map(|text| text.as_ptr()).collect();
        let biases: Vec<ffi::llama_logit_bias> = options
            .logit_bias
            .iter()
            .map(|&(token, bias)| ffi::llama_logit_bias { token: token.0 as i32, bias })
            .collect();
        let sampling = shim::aded_sampling {
            seed: options.seed,
            temperature: options.temperature,
            dynatemp_range: options.dynatemp_range,
            dynatemp_exponent: options.dynatemp_exponent,
            top_k: options.top_k,
            top_p: options.top_p,
            min_p: options.min_p,
            typical_p: options.typical_p,
            top_n_sigma: options.top_n_sigma,
            xtc_probability: options.xtc_probability,
            xtc_threshold: options.xtc_threshold,
            penalty_last_n: options.penalty_last_n,
            penalty_repeat: options.penalty_repeat,
            penalty_frequency: options.penalty_frequency,
            penalty_presence: options.penalty_presence,
            dry_multiplier: options.dry_multiplier,
            dry_base: options.dry_base,
            dry_allowed_length: options.dry_allowed_length,
            dry_last_n: options.dry_last_n,
            dry_breakers: breakers.as_mut_ptr(),
            n_dry_breakers: breakers.len(),
            mirostat: options.mirostat,
            mirostat_tau: options.mirostat_tau,
            mirostat_eta: options.mirostat_eta,
            logit_bias: biases.as_ptr(),
            n_logit_bias: biases.len() as i32,
        };
        let mut failure = Failure::new();
        // SAFETY: the vocabulary is valid; all arrays of `sampling` live for the call, and llama.cpp copies them.
        let ptr = unsafe { shim::aded_sampler_new(model.vocab(), &sampling, &mut failure.0) };
        Self::own(ptr, model, &failure, &[], "cannot create the sampler chain")
    }

    /// A grammar in llama.cpp's GBNF notation, from the rule `root` on.
    pub(crate) fn grammar(model: &Arc<ModelHandle>, grammar: &CStr) -> Result<Self, Error> {
        let mut failure = Failure::new();
        let (ptr, errors) = log::errors_of(|| {
            // SAFETY: the vocabulary is valid, and both texts are terminated.
            unsafe { shim::aded_sampler_new_grammar(model.vocab(), grammar.as_ptr(), c"root".as_ptr(), &mut failure.0) }
        });
        Self::own(ptr, model, &failure, &errors, "the grammar does not parse")
            .map_err(|error| Error::usage(error.to_string()))
    }

    /// The same sampler in the same state.
    pub(crate) fn try_clone(&self) -> Result<Self, Error> {
        let mut failure = Failure::new();
        // SAFETY: the sampler is valid.
        let ptr = unsafe { shim::aded_sampler_clone(self.ptr.as_ptr(), &mut failure.0) };
        Self::own(ptr, &self.model, &failure, &[], "cannot copy the sampler")
    }

    /// Changes the candidates, and selects one if the sampler ends in a stage that does.
    pub(crate) fn apply(&mut self, candidates: &mut Candidates) -> Result<(), Error> {
        let mut array = ffi::llama_token_data_array {
            data: candidates.entries.as_mut_ptr(),
            size: candidates.entries.len(),
            selected: -1,
            sorted: candidates.is_sorted,
        };
        let mut failure = Failure::new();
        // SAFETY: the sampler is valid; the array names as many entries as there are.
        let status = unsafe { shim::aded_sampler_apply(self.ptr.as_ptr(), &mut array, &mut failure.0) };
        if status != 0 {
            candidates.entries.clear();
            return Err(Error::target(format!("the sampler fails: {}", failure.text_or(&[]))));
        }
        // Samplers order and cut the array in place; those that cut at its front (XTC) move the pointer.
        let bytes = (array.data as usize).wrapping_sub(candidates.entries.as_ptr() as usize);
        let begin = bytes / size_of::<ffi::llama_token_data>();
        let end = begin.saturating_add(array.size);
        if end > candidates.entries.len() {
            candidates.entries.clear();
            return Err(Error::target("the sampler gives an array that is not the one it got"));
        }
        candidates.entries.truncate(end);
        candidates.entries.drain(..begin);
        candidates.is_sorted = array.sorted;
        candidates.selected = usize::try_from(array.selected).ok().filter(|&index| index < array.size);
        Ok(())
    }

    /// Takes note of a token.
    pub(crate) fn accept(&mut self, token: Token) -> Result<(), Error> {
        let mut failure = Failure::new();
        // SAFETY: the sampler is valid.
        match unsafe { shim::aded_sampler_accept(self.ptr.as_ptr(), token.0 as i32, &mut failure.0) } {
            0 => Ok(()),
            _ => Err(Error::target(format!("the sampler does not take token {}: {}", token.0, failure.text_or(&[])))),
        }
    }

    /// Back to the state after its creation.
    pub(crate) fn reset(&mut self) -> Result<(), Error> {
        let mut failure = Failure::new();
        // SAFETY: the sampler is valid.
        match unsafe { shim::aded_sampler_reset(self.ptr.as_ptr(), &mut failure.0) } {
            0 => Ok(()),
            _ => Err(Error::target(format!("the sampler cannot be reset: {}", failure.text_or(&[])))),
        }
    }

    fn own(
        ptr: *mut ffi::llama_sampler,
        model: &Arc<ModelHandle>,
        failure: &Failure,
        errors: &[String],
        what: &str,
    ) -> Result<Self, Error> {
        match NonNull::new(ptr) {
            Some(ptr) => Ok(Self { ptr, model: model.clone() }),
            None => Err(Error::target(format!("{what}: {}", failure.text_or(errors)))),
        }
    }
}

/// Tokens with logits, and with probabilities once a stage has set them.
#[derive(Default)]
pub(crate) struct Candidates {
    entries: Vec<ffi::llama_token_data>,
    is_sorted: bool,
    selected: Option<usize>,
}

impl Candidates {
    pub(crate) fn clear(&mut self) {
        self.entries.clear();
        self.is_sorted = false;
        self.selected = None;
    }

    /// The whole vocabulary.
    pub(crate) fn fill(&mut self, logits: &[f32]) {
        self.clear();
        self.entries.extend((0..).zip(logits).map(|(id, &logit)| ffi::llama_token_data { id, logit, p: 0.0 }));
    }

    /// Some tokens, the largest logit first.
    pub(crate) fn fill_sorted(&mut self, tokens: impl Iterator<Item = (Token, f32)>) {
        self.clear();
        self.entries.extend(tokens.map(|(token, logit)| ffi::llama_token_data { id: token.0 as i32, logit, p: 0.0 }));
        self.is_sorted = true;
    }

    /// Tokens, logits and probabilities.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Token, f32, f32)> + '_ {
        self.entries.iter().map(|entry| (Token(entry.id as u32), entry.logit, entry.p))
    }

    /// The token that the chain selected, with its logit.
    pub(crate) fn selected(&self) -> Option<(Token, f32)> {
        self.selected.map(|index| (Token(self.entries[index].id as u32), self.entries[index].logit))
    }
}
