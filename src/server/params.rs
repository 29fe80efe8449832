//! The fields that all requests for text share, under OpenAI's and llama.cpp's names.

use std::ops::RangeInclusive;
use std::time::Duration;

use aded::Token;
use aded::llama::{Model, SamplingParams};
use serde_json::Value;

use super::error::ApiError;
use super::fields::{Fields, wrong};
use super::schema;

/// Most stop strings, and bytes of each: they are looked for in every piece of text.
const STOPS: (usize, usize) = (64, 1024);

/// Most tokens with a bias.
const MAX_BIASES: usize = 4096;

/// Most tokens whose probabilities are reported.
const MAX_PROBABILITIES: i64 = 100;

/// What a request asks for, beside its prompt.
#[derive(Clone, Debug)]
pub(super) struct Params {
    pub(super) sampling: SamplingParams,
    /// Most tokens of the answer; `None` = until the end of the context.
    pub(super) n_max: Option<usize>,
    pub(super) ignore_end: bool,
    pub(super) stops: Vec<String>,
    /// Tokens whose probabilities are reported beside the one that was taken; `None` = no probabilities.
    pub(super) n_probabilities: Option<usize>,
    pub(super) stream: bool,
    pub(super) wants_usage: bool,
    pub(super) timings_per_token: bool,
    pub(super) return_progress: bool,
    pub(super) return_tokens: bool,
    /// Report each token and whether it was drafted.
    pub(super) report_drafts: bool,
    pub(super) draft_limit: Option<usize>,
    pub(super) slot: Option<u32>,
    pub(super) cache_prompt: bool,
    pub(super) time_limit: Option<Duration>,
}

impl Params {
    /// Reads the fields; `defaults` and `n_predict` stand in for those that are absent.
    pub(super) fn read(
        fields: &Fields<'_>,
        defaults: &SamplingParams,
        n_predict: i64,
        n_slots: u32,
        model: &Model,
    ) -> Result<Self, ApiError> {
        if fields.integer("n", 1..=128)?.or(fields.integer("n_cmpl", 1..=128)?).is_some_and(|n| n > 1) {
            return Err(ApiError::unsupported(
                "n is above 1, but this server gives one answer to a request: ask again for more",
            ));
        }
        let ignore_end = fields.flag("ignore_eos")?.unwrap_or(false);
        let mut sampling = sampling(fields, defaults)?;
        sampling.logit_bias.extend(biases(fields, model)?);
        if ignore_end {
            sampling.ignore_end(model);
        }
        sampling.grammar = schema::grammar(fields)?.or(sampling.grammar);
        sampling.validate()?;
        let limits = ["max_completion_tokens", "max_tokens", "n_predict"];
        let mut n_max = n_predict;
        for name in limits {
            if let Some(n) = fields.integer(name, -1..=i64::from(i32::MAX))? {
                n_max = n;
                break;
            }
        }
        let stream_options = fields.object("stream_options")?;
        let speculative = fields.object("speculative")?;
        let mut draft_limit = None;
        if let Some(speculative) = speculative {
            draft_limit = speculative.integer("budget", 0..=63)?.map(|n| n as usize);
            if speculative.flag("enabled")? == Some(false) {
                draft_limit = Some(0);
            }
        }
        let slot = fields.integer("id_slot", -1..=i64::from(n_slots) - 1)?.and_then(|slot| u32::try_from(slot).ok());
        let milliseconds = fields.integer("t_max_predict_ms", -1..=86_400_000)?.and_then(|ms| u64::try_from(ms).ok());
        Ok(Self {
            sampling,
            n_max: usize::try_from(n_max).ok(),
            ignore_end,
            stops: fields.texts("stop", STOPS.0, STOPS.1)?.unwrap_or_default(),
            n_probabilities: None,
            stream: fields.flag("stream")?.unwrap_or(false),
            wants_usage: stream_options
                .map(|options| options.flag("include_usage"))
                .transpose()?
                .flatten()
                .unwrap_or(false),
            timings_per_token: fields.flag("timings_per_token")?.unwrap_or(false),
            return_progress: fields.flag("return_progress")?.unwrap_or(false),
            return_tokens: fields.flag("return_tokens")?.unwrap_or(false),
            report_drafts: speculative
                .map(|speculative| speculative.flag("report"))
                .transpose()?
                .flatten()
                .unwrap_or(false),
            draft_limit,
            slot,
            cache_prompt: fields.flag("cache_prompt")?.unwrap_or(true),
            time_limit: milliseconds.filter(|&ms| ms > 0).map(Duration::from_millis),
        })
    }

    /// Reads how many probabilities are asked for: chat's way.
    pub(super) fn read_chat_logprobs(&mut self, fields: &Fields<'_>) -> Result<(), ApiError> {
        let top = fields.integer("top_logprobs", 0..=MAX_PROBABILITIES)?;
        match fields.flag("logprobs")? {
            Some(true) => self.n_probabilities = Some(top.unwrap_or(0) as usize),
            _ if top.is_some_and(|top| top > 0) => {
                return Err(ApiError::invalid_field("top_logprobs", "top_logprobs needs logprobs to be true"));
            }
            _ => {}
        }
        Ok(())
    }

    /// Reads how many probabilities are asked for: a number in this field.
    pub(super) fn read_logprobs(&mut self, fields: &Fields<'_>, name: &str) -> Result<(), ApiError> {
        self.n_probabilities = fields.integer(name, 0..=MAX_PROBABILITIES)?.map(|n| n as usize);
        Ok(())
    }
}

fn sampling(fields: &Fields<'_>, defaults: &SamplingParams) -> Result<SamplingParams, ApiError> {
    let mut sampling = defaults.clone();
    let any = -1e6..=1e6;
    let share = 0.0..=1.0;
    let look_back = -1..=1 << 24;
    let set = |name: &str, range: &RangeInclusive<f64>, value: &mut f32| -> Result<(), ApiError> {
        fields.number(name, range.clone()).map(|number| *value = number.unwrap_or(*value))
    };
    set("temperature", &(0.0..=1e6), &mut sampling.temperature)?;
    set("dynatemp_range", &any, &mut sampling.dynatemp_range)?;
    set("dynatemp_exponent", &any, &mut sampling.dynatemp_exponent)?;
    set("top_p", &share, &mut sampling.top_p)?;
    set("min_p", &share, &mut sampling.min_p)?;
    set("typical_p", &share, &mut sampling.typical_p)?;
    set("top_n_sigma", &any, &mut sampling.top_n_sigma)?;
    set("xtc_probability", &share, &mut sampling.xtc_probability)?;
    set("xtc_threshold", &share, &mut sampling.xtc_threshold)?;
    set("repeat_penalty", &(1e-3..=1e6), &mut sampling.repeat_penalty)?;
    set("presence_penalty", &any, &mut sampling.presence_penalty)?;
    set("frequency_penalty", &any, &mut sampling.frequency_penalty)?;
    set("dry_multiplier", &any, &mut sampling.dry_multiplier)?;
    set("dry_base", &any, &mut sampling.dry_base)?;
    set("mirostat_tau", &any, &mut sampling.mirostat_tau)?;
    set("mirostat_eta", &any, &mut sampling.mirostat_eta)?;
    if let Some(top_k) = fields.integer("top_k", i64::from(i32::MIN)..=i64::from(i32::MAX))? {
        sampling.top_k = top_k as i32;
    }
    if let Some(kind) = fields.integer("mirostat", 0..=2)? {
        sampling.mirostat = kind as u32;
    }
    // -1 means the whole context; no context is longer than what can be kept.
    let n_tokens = |n: i64| u32::try_from(n).unwrap_or(1 << 24);
    if let Some(n) = fields.integer("repeat_last_n", look_back.clone())? {
        sampling.repeat_last_n = n_tokens(n);
    }
    if let Some(n) = fields.integer("dry_penalty_last_n", look_back)? {
        sampling.dry_last_n = n_tokens(n);
    }
    if let Some(n) = fields.integer("dry_allowed_length", 0..=1 << 16)? {
        sampling.dry_allowed_length = n as u32;
    }
    if let Some(breakers) = fields.texts("dry_sequence_breakers", STOPS.0, STOPS.1)? {
        sampling.dry_breakers = breakers;
    }
    if let Some(seed) = fields.integer("seed", i64::MIN..=i64::MAX)? {
        // Clients send seeds of 64 bits. -1 is another one each time, which only that value may mean.
        let folded = (seed ^ (seed >> 32)) as u32;
        sampling.seed = match seed {
            -1 => u32::MAX,
            0..=0xffff_fffe => seed as u32,
            _ => folded.min(u32::MAX - 1),
        };
    }
    Ok(sampling)
}

/// OpenAI's `{"15043": -100}`, and llama.cpp's `[[15043, -1.5], ["text", false]]`.
fn biases(fields: &Fields<'_>, model: &Model) -> Result<Vec<(Token, f32)>, ApiError> {
    const NAME: &str = "logit_bias";
    let Some(value) = fields.get(NAME) else { return Ok(Vec::new()) };
    let expected = "a map from tokens to numbers from -100 to 100, or a list of [token, number or false]";
    let wrong = |value: &Value| wrong(NAME, value, expected);
    let pairs: Vec<(Value, &Value)> = match value {
        Value::Object(map) => map.iter().map(|(token, bias)| (Value::from(token.as_str()), bias)).collect(),
        Value::Array(pairs) => {
            let pair = |pair: &'_ Value| pair.as_array().filter(|pair| pair.len() == 2).map(Vec::len);
            if let Some(odd) = pairs.iter().find(|value| pair(value).is_none()) {
                return Err(wrong(odd));
            }
            pairs.iter().map(|pair| (pair[0].clone(), &pair[1])).collect()
        }
        other => return Err(wrong(other)),
    };
    if pairs.len() > MAX_BIASES {
        return Err(ApiError::invalid_field(
            NAME,
            format!("{NAME} has {} entries, but at most {MAX_BIASES} are taken", pairs.len()),
        ));
    }
    let is_map = value.is_object();
    let mut biases = Vec::new();
    for (token, bias) in pairs {
        let bias = match bias {
            Value::Bool(false) => f32::NEG_INFINITY,
            Value::Number(number) => {
                let number = number.as_f64().filter(|number| number.abs() <= 1e6).ok_or_else(|| wrong(bias))?;
                number as f32
            }
            other => return Err(wrong(other)),
        };
        let tokens = match &token {
            Value::String(text) if is_map => match text.parse() {
                Ok(token) => vec![Token(token)],
                Err(_) => return Err(wrong(&token)),
            },
            Value::String(text) => model.tokenize(text, false, false)?,
            Value::Number(number) => {
                let number = number.as_u64().and_then(|number| u32::try_from(number).ok());
                vec![Token(number.ok_or_else(|| wrong(&token))?)]
            }
            other => return Err(wrong(other)),
        };
        biases.extend(tokens.into_iter().map(|token| (token, bias)));
    }
    if let Some((token, _)) = biases.iter().find(|(token, _)| token.0 >= model.n_vocab()) {
        let message = format!("{NAME} names token {}, but the vocabulary ends at {}", token.0, model.n_vocab());
        return Err(ApiError::invalid_field(NAME, message));
    }
    Ok(biases)
}
