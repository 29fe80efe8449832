//! llama.cpp's samplers as a [`RowSampler`]: the chain is applied once and takes note once for each token that is emitted.

use std::ffi::CString;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use super::grammar;
use super::model::Model;
use super::sys::{Candidates, ChainOptions, Sampler};
use super::top::{TopK, has_nan};
use crate::error::Error;
use crate::sampling::{RowSampler, argmax};
use crate::token::Token;

/// What a sampler does, in the terms and with the defaults of llama.cpp's own programs. The stages run in this order: logit bias,
/// penalties, DRY, top-n-sigma, top-k, typical, top-p, min-p, XTC, temperature; or, with mirostat, logit bias, temperature, mirostat.
#[derive(Clone, Debug, PartialEq)]
pub struct SamplingParams {
    /// Start of the random numbers; `u32::MAX` = another one each time. Default `u32::MAX`.
    pub seed: u32,
    /// 0 or less takes the likeliest token. Default 0.8.
    pub temperature: f32,
    /// Half the range in which entropy moves the temperature; 0 = off. Default 0.
    pub dynatemp_range: f32,
    /// How entropy maps to the temperature. Default 1.
    pub dynatemp_exponent: f32,
    /// Keep the so many likeliest tokens; 0 or less = all. Default 40.
    pub top_k: i32,
    /// Keep the likeliest tokens that together have this probability; 1 = all. Default 0.95.
    pub top_p: f32,
    /// Keep tokens with at least this share of the likeliest one's probability; 0 = all. Default 0.05.
    pub min_p: f32,
    /// Keep the most typical tokens that together have this probability; 1 = all. Default 1.
    pub typical_p: f32,
    /// Keep tokens within so many standard deviations of the largest logit; 0 or less = all. Default -1.
    pub top_n_sigma: f32,
    /// Probability that the likeliest tokens above the threshold are dropped but for the last; 0 = off. Default 0.
    pub xtc_probability: f32,
    /// Probability from which on a token counts for XTC; above 0.5 = off. Default 0.1.
    pub xtc_threshold: f32,
    /// Tokens that the penalties look back; 0 = off. Default 64.
    pub repeat_last_n: u32,
    /// Divisor of repeated tokens' logits; 1 = off. Default 1.
    pub repeat_penalty: f32,
    /// Taken off a logit once if its token occurred; 0 = off. Default 0.
    pub presence_penalty: f32,
    /// Taken off a logit for each time that its token occurred; 0 = off. Default 0.
    pub frequency_penalty: f32,
    /// Strength of the penalty on repeating a sequence; 0 = off. Default 0.
    pub dry_multiplier: f32,
    /// Growth of that penalty with the length of the repetition. Default 1.75.
    pub dry_base: f32,
    /// Length of a repetition that costs nothing. Default 2.
    pub dry_allowed_length: u32,
    /// Tokens that DRY looks back; 0 = off. Default 64.
    pub dry_last_n: u32,
    /// Texts that end a sequence for DRY. Default newline, colon, quotation mark, asterisk.
    pub dry_breakers: Vec<String>,
    /// 1 or 2 = hold the surprise of the text near `mirostat_tau`, instead of most other stages; 0 = off. Default 0.
    pub mirostat: u32,
    /// Surprise aimed at. Default 5.
    pub mirostat_tau: f32,
    /// Speed of adaptation. Default 0.1.
    pub mirostat_eta: f32,
    /// Added to the logits of these tokens; negative infinity forbids one. Default none.
    pub logit_bias: Vec<(Token, f32)>,
    /// A grammar in llama.cpp's GBNF notation that the output must follow from the rule `root` on. Default none.
    pub grammar: Option<String>,
}

impl Default for SamplingParams {
    fn default() -> Self {
        Self {
            seed: u32::MAX,
            temperature: 0.8,
            dynatemp_range: 0.0,
            dynatemp_exponent: 1.0,
            top_k: 40,
            top_p: 0.95,
            min_p: 0.05,
            typical_p: 1.0,
            top_n_sigma: -1.0,
            xtc_probability: 0.0,
            xtc_threshold: 0.1,
            repeat_last_n: 64,
            repeat_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            dry_multiplier: 0.0,
            dry_base: 1.75,
            dry_allowed_length: 2,
            dry_last_n: 64,
            dry_breakers: ["\n", ":", "\"", "*"].map(str::to_owned).to_vec(),
            mirostat: 0,
            mirostat_tau: 5.0,
            mirostat_eta: 0.1,
            logit_bias: Vec::new(),
            grammar: None,
        }
    }
}

impl SamplingParams {
    /// The likeliest token at each step, and nothing else.
    pub fn greedy() -> Self {
        Self { temperature: 0.0, ..Self::default() }
    }

    /// Forbids all tokens that end an answer.
    pub fn ignore_end(&mut self, model: &Model) {
        self.logit_bias.extend(model.end_tokens().into_iter().map(|token| (token, f32::NEG_INFINITY)));
    }

    /// Checks the values against each other.
    ///
    /// # Errors
    /// [`Error::is_usage`], saying which value is wrong and what would be right.
    pub fn validate(&self) -> Result<(), Error> {
        let finite = [
            ("temperature", self.temperature),
            ("dynamic temperature range", self.dynatemp_range),
            ("dynamic temperature exponent", self.dynatemp_exponent),
            ("top-p", self.top_p),
            ("min-p", self.min_p),
            ("typical-p", self.typical_p),
            ("top-n-sigma", self.top_n_sigma),
            ("XTC probability", self.xtc_probability),
            ("XTC threshold", self.xtc_threshold),
            ("repeat penalty", self.repeat_penalty),
            ("presence penalty", self.presence_penalty),
            ("frequency penalty", self.frequency_penalty),
            ("DRY multiplier", self.dry_multiplier),
            ("DRY base", self.dry_base),
            ("mirostat entropy", self.mirostat_tau),
            ("mirostat learning rate", self.mirostat_eta),
        ];
        if let Some((name, value)) = finite.iter().find(|(_, value)| !value.is_finite()) {
            return Err(Error::usage(format!("the {name} is {value}, but must be a finite number")));
        }
        // Below this the reciprocal, by which llama.cpp multiplies negative logits, overflows.
        if self.repeat_penalty <= 0.0 || !(1.0 / self.repeat_penalty).is_finite() {
            return Err(Error::usage(format!(
                "the repeat penalty is {}, but must be above 0; 1 = off",
                self.repeat_penalty
            )));
        }
        if self.mirostat > 2 {
            return Err(Error::usage(format!("mirostat is {}, but 0, 1 and 2 are known", self.mirostat)));
        }
        let look_backs =
            [("repeat penalty", self.repeat_last_n), ("DRY", self.dry_last_n), ("DRY length", self.dry_allowed_length)];
        if let Some((name, value)) = look_backs.iter().find(|(_, value)| *value > 1 << 24) {
            return Err(Error::usage(format!(
                "the {name} looks back {value} tokens, but at most {} can be kept",
                1 << 24
            )));
        }
        if let Some((token, bias)) = self.logit_bias.iter().find(|(_, bias)| bias.is_nan() || *bias == f32::INFINITY) {
            return Err(Error::usage(format!(
                "the bias of token {} is {bias}, but must be a number or negative infinity",
                token.0
            )));
        }
        if let Some(text) = self.grammar.iter().chain(&self.dry_breakers).find(|text| text.contains('\0')) {
            return Err(Error::usage(format!("the text {text:?} holds a zero byte")));
        }
        Ok(())
    }

    /// True if the largest logit is always taken: nothing changes the logits before, and no stage can drop the largest.
    fn is_plain_greedy(&self) -> bool {
        self.temperature <= 0.0
            && self.dynatemp_range <= 0.0
            && self.mirostat == 0
            && self.grammar.is_none()
            && self.typical_p >= 1.0
            && !self.has_xtc()
            && !self.changes_logits()
    }

    /// Most tokens that can be left after the first stages, if nothing before top-k looks at more than the largest logits.
    fn preselected(&self) -> Option<usize> {
        let alone = self.mirostat == 0 && self.top_n_sigma <= 0.0 && !self.changes_logits();
        usize::try_from(self.top_k).ok().filter(|&k| alone && (1..=TopK::MAX).contains(&k))
    }

    fn changes_logits(&self) -> bool {
        let penalties = self.repeat_penalty != 1.0 || self.presence_penalty != 0.0 || self.frequency_penalty != 0.0;
        !self.logit_bias.is_empty()
            || (penalties && self.repeat_last_n > 0)
            || (self.dry_multiplier != 0.0 && self.dry_last_n > 0)
    }

    fn has_xtc(&self) -> bool {
        self.xtc_probability > 0.0 && self.xtc_threshold <= 0.5
    }
}

/// A chain of llama.cpp's samplers with its state: random numbers, tokens seen, place in the grammar.
///
/// The same seed and the same logits give the same tokens, with drafts and without, since only emitted tokens move the state.
pub struct SamplerChain {
    model: Arc<Model>,
    params: SamplingParams,
    /// `None` where the largest logit is taken.
    chain: Option<Sampler>,
    grammar: Option<Sampler>,
    candidates: Candidates,
    /// One token that is put to the grammar.
    probe: Candidates,
    top: TopK,
    greedy: Option<Token>,
}

impl std::fmt::Debug for SamplerChain {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SamplerChain").field("params", &self.params).finish_non_exhaustive()
    }
}

impl SamplerChain {
    /// A chain that has seen no tokens.
    ///
    /// # Errors
    /// [`Error::is_usage`] for values out of range and for a grammar that does not parse.
    pub fn new(model: &Arc<Model>, params: &SamplingParams) -> Result<Self, Error> {
        params.validate()?;
        let mut params = params.clone();
        let n_vocab = model.n_vocab();
        if let Some((token, _)) = params.logit_bias.iter().find(|(token, _)| token.0 >= n_vocab) {
            return Err(Error::usage(format!("the bias of token {} is outside the vocabulary of {n_vocab}", token.0)));
        }
        let suppressed = model.handle.suppressed_tokens();
        params.logit_bias.extend(suppressed.into_iter().map(|token| (token, f32::NEG_INFINITY)));
        if params.seed == u32::MAX {
            // Any source of chance will do; one number, so that it can be told and all stages share it.
            params.seed = RandomState::new().hash_one(0) as u32 % u32::MAX;
        }
        let text =
            |text: &str| CString::new(text).map_err(|_| Error::usage(format!("the text {text:?} holds a zero byte")));
        let breakers = params.dry_breakers.iter().map(|breaker| text(breaker)).collect::<Result<Vec<_>, _>>()?;
        let breakers: Vec<_> = breakers.iter().map(CString::as_c_str).collect();
        let options = ChainOptions {
            seed: params.seed,
            temperature: params.temperature,
            dynatemp_range: params.dynatemp_range,
            dynatemp_exponent: params.dynatemp_exponent,
            top_k: params.top_k,
            top_p: params.top_p,
            min_p: params.min_p,
            typical_p: params.typical_p,
            top_n_sigma: params.top_n_sigma,
            xtc_probability: params.xtc_probability,
            xtc_threshold: params.xtc_threshold,
            penalty_last_n: params.repeat_last_n as i32,
            penalty_repeat: params.repeat_penalty,
            penalty_frequency: params.frequency_penalty,
            penalty_presence: params.presence_penalty,
            dry_multiplier: params.dry_multiplier,
            dry_base: params.dry_base,
            dry_allowed_length: params.dry_allowed_length as i32,
            dry_last_n: params.dry_last_n as i32,
            dry_breakers: &breakers,
            mirostat: params.mirostat as i32,
            mirostat_tau: params.mirostat_tau,
            mirostat_eta: params.mirostat_eta,
            logit_bias: &params.logit_bias,
        };
        let chain = if params.is_plain_greedy() { None } else { Some(Sampler::chain(&model.handle, &options)?) };
        let grammar = match params.grammar.as_deref().filter(|grammar| !grammar.trim().is_empty()) {
            Some(grammar) => {
                grammar::check_gbnf(grammar)?;
                Some(Sampler::grammar(&model.handle, &text(grammar)?)?)
            }
            None => None,
        };
        Ok(Self {
            model: model.clone(),
            params,
            chain,
            grammar,
            candidates: Candidates::default(),
            probe: Candidates::default(),
            top: TopK::default(),
            greedy: None,
        })
    }

    /// What it does: the seed is the one in use, never `u32::MAX`, and the tokens that the model's file forbids are among the biases.
    pub fn params(&self) -> &SamplingParams {
        &self.params
    }

    /// Takes note of a prompt: penalties and DRY count its tokens, the grammar does not.
    ///
    /// # Errors
    /// [`Error::is_target`] if llama.cpp refuses a token.
    pub fn accept_prompt(&mut self, tokens: &[Token]) -> Result<(), Error> {
        let Some(chain) = &mut self.chain else { return Ok(()) };
        // No stage looks back further; a long prompt need not pass through one by one.
        let look_back = self.params.repeat_last_n.max(self.params.dry_last_n) as usize;
        tokens[tokens.len().saturating_sub(look_back)..].iter().try_for_each(|&token| chain.accept(token))
    }

    /// Forgets all tokens and begins again with the same seed.
    ///
    /// # Errors
    /// [`Error::is_target`] if llama.cpp fails.
    pub fn reset(&mut self) -> Result<(), Error> {
        self.greedy = None;
        self.candidates.clear();
        self.chain.iter_mut().chain(&mut self.grammar).try_for_each(Sampler::reset)
    }

    /// The same chain in the same state.
    ///
    /// # Errors
    /// [`Error::is_target`] if llama.cpp fails.
    pub fn try_clone(&self) -> Result<Self, Error> {
        Ok(Self {
            model: self.model.clone(),
            params: self.params.clone(),
            chain: self.chain.as_ref().map(Sampler::try_clone).transpose()?,
            grammar: self.grammar.as_ref().map(Sampler::try_clone).transpose()?,
            candidates: Candidates::default(),
            probe: Candidates::default(),
            top: TopK::default(),
            greedy: self.greedy,
        })
    }

    /// The tokens that the last [`sample`](RowSampler::sample) chose from, with the probabilities that it gave them; they sum to 1. In
    /// the order of the chain: by falling probability where a stage sorted them (top-k, top-p, min-p), else by token.
    pub fn last_candidates(&self) -> impl Iterator<Item = (Token, f32)> + '_ {
        let sampled = self.candidates.iter().map(|(token, _, probability)| (token, probability));
        self.greedy.map(|token| (token, 1.0)).into_iter().chain(sampled.filter(|_| self.greedy.is_none()))
    }

    fn fill(&mut self, logits: &[f32]) {
        match self.params.preselected().filter(|&k| k < logits.len()) {
            Some(k) => self.candidates.fill_sorted(self.top.select(logits, k)),
            None => self.candidates.fill(logits),
        }
    }

    /// Applies the chain to the candidates and gives its choice.
    fn choose(candidates: &mut Candidates, chain: &mut Sampler) -> Result<Token, Error> {
        chain.apply(candidates)?;
        match candidates.selected() {
            Some((token, logit)) if logit > f32::NEG_INFINITY => Ok(token),
            _ => Err(Error::target("no token is left to sample: the logit biases forbid all of them")),
        }
    }
}

impl RowSampler for SamplerChain {
    fn sample(&mut self, logits: &[f32]) -> Result<Token, Error> {
        let n_vocab = self.model.n_vocab() as usize;
        if logits.len() != n_vocab {
            return Err(Error::target(format!(
                "a row of {} logits was given, but the vocabulary has {n_vocab}",
                logits.len()
            )));
        }
        let Some(mut chain) = self.chain.take() else {
            self.greedy = Some(argmax(logits).ok_or_else(|| Error::target("the logits row holds no finite number"))?);
            return self.greedy.ok_or_else(|| Error::target("no token was chosen"));
        };
        let result = self.sample_by(logits, &mut chain);
        self.chain = Some(chain);
        result
    }

    fn is_greedy(&self) -> bool {
        // Penalties, biases and grammars change the largest logit: a row then needs the chain, whatever the temperature.
        self.chain.is_none()
    }
}

impl SamplerChain {
    fn sample_by(&mut self, logits: &[f32], chain: &mut Sampler) -> Result<Token, Error> {
        // llama.cpp sorts by comparisons that NaN breaks, beyond the array's ends in the worst case.
        if has_nan(logits) {
            return Err(Error::target("the model's logits hold NaN: the file may be damaged, or a kernel wrong"));
        }
        self.fill(logits);
        let mut token = Self::choose(&mut self.candidates, chain)?;
        if let Some(grammar) = &mut self.grammar {
            // As llama.cpp's own programs do it: the grammar looks at the one token that was sampled, which nearly always fits. Where it
            // does not, the whole vocabulary passes through the grammar and then through the chain again.
            self.probe.fill_sorted(std::iter::once((token, 0.0)));
            grammar.apply(&mut self.probe)?;
            if self.probe.iter().all(|(_, logit, _)| logit == f32::NEG_INFINITY) {
                self.candidates.fill(logits);
                grammar.apply(&mut self.candidates)?;
                if self.candidates.iter().all(|(_, logit, _)| logit == f32::NEG_INFINITY) {
                    return Err(Error::target("the grammar admits no token here"));
                }
                token = Self::choose(&mut self.candidates, chain)?;
            }
            grammar.accept(token)?;
        }
        chain.accept(token)?;
        Ok(token)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_out_of_range_are_named() {
        let fail = |params: SamplingParams, part: &str| {
            let error = params.validate().unwrap_err();
            assert!(error.is_usage() && error.to_string().contains(part), "{error}");
        };
        fail(SamplingParams { temperature: f32::NAN, ..Default::default() }, "temperature is NaN");
        fail(SamplingParams { repeat_penalty: 0.0, ..Default::default() }, "repeat penalty is 0");
        fail(SamplingParams { mirostat: 3, ..Default::default() }, "mirostat is 3");
        fail(SamplingParams { logit_bias: vec![(Token(3), f32::NAN)], ..Default::default() }, "bias of token 3 is NaN");
        fail(SamplingParams { grammar: Some("root ::= \0".to_owned()), ..Default::default() }, "zero byte");
        SamplingParams::default().validate().unwrap();
    }

    #[test]
    fn only_what_cannot_move_the_largest_logit_is_plain_greedy() {
        let greedy = SamplingParams::greedy();
        assert!(greedy.is_plain_greedy());
        assert!(!SamplingParams::default().is_plain_greedy());
        assert!(!SamplingParams { repeat_penalty: 1.1, ..greedy.clone() }.is_plain_greedy());
        assert!(!SamplingParams { xtc_probability: 0.5, ..greedy.clone() }.is_plain_greedy());
        assert!(!SamplingParams { typical_p: 0.9, ..greedy.clone() }.is_plain_greedy());
        assert_eq!(SamplingParams::default().preselected(), Some(40));
        assert_eq!(SamplingParams { top_n_sigma: 1.0, ..Default::default() }.preselected(), None);
    }
}
