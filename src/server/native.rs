//! llama.cpp's own interface: `/completion`, `/tokenize`, `/detokenize`, `/apply-template`, `/props`.

use std::sync::Arc;

use aded::llama::{LLAMA_CPP_VERSION, Model, SamplingParams};
use aded::{Finish, Token};
use serde_json::{Map, Value, json};

use super::error::ApiError;
use super::fields::{Fields, wrong};
use super::job::{Outcome, Piece, Probabilities, Progress, Round};
use super::openai::{draft_report, finite, token_text};
use super::params::Params;
use super::scheduler::Ready;
use super::stream::Writer;

/// Most token ids in a request: more than any context holds.
const MAX_TOKENS: usize = 1 << 22;

/// A prompt: a text, a list of token ids, or a list of both. Texts stand for themselves, with control tokens by name.
pub(super) fn prompt_tokens(name: &str, value: &Value, model: &Model) -> Result<Vec<Token>, ApiError> {
    const EXPECTED: &str = "a text, or a list of texts and token ids that make one prompt";
    match value {
        Value::String(text) => Ok(model.tokenize(text, true, true)?),
        Value::Array(parts) => {
            if parts.len() > MAX_TOKENS {
                return Err(ApiError::invalid_field(
                    name,
                    format!("{name} has {} parts, but at most {MAX_TOKENS} are taken", parts.len()),
                ));
            }
            let n_texts = parts.iter().filter(|part| part.is_string()).count();
            if n_texts > 1 && n_texts == parts.len() {
                return Err(ApiError::unsupported(format!(
                    "{name} holds {n_texts} prompts, but this server takes one in a request"
                )));
            }
            let mut tokens = Vec::new();
            for (index, part) in parts.iter().enumerate() {
                match part {
                    Value::String(text) => tokens.extend(model.tokenize(text, index == 0, true)?),
                    part => tokens.push(token(name, part, model)?),
                }
            }
            Ok(tokens)
        }
        other => Err(wrong(name, other, EXPECTED)),
    }
}

fn token(name: &str, value: &Value, model: &Model) -> Result<Token, ApiError> {
    let expected = || format!("a token id from 0 to {}", model.n_vocab() - 1);
    let id = value.as_u64().and_then(|id| u32::try_from(id).ok()).filter(|&id| id < model.n_vocab());
    id.map(Token).ok_or_else(|| wrong(name, value, &expected()))
}

/// `/tokenize`.
pub(super) fn tokenize(fields: &Fields<'_>, model: &Model) -> Result<Value, ApiError> {
    let text = fields.text("content")?.ok_or_else(|| fields.missing("content", "the text to tokenize"))?;
    let add_special = fields.flag("add_special")?.unwrap_or(false);
    let parse_special = fields.flag("parse_special")?.unwrap_or(true);
    let tokens = model.tokenize(text, add_special, parse_special)?;
    if !fields.flag("with_pieces")?.unwrap_or(false) {
        return Ok(json!({ "tokens": tokens.iter().map(|token| token.0).collect::<Vec<_>>() }));
    }
    let piece = |token: &Token| {
        let (text, bytes) = token_text(model, *token);
        let piece = if std::str::from_utf8(&bytes).is_ok() { Value::from(text) } else { Value::from(bytes) };
        json!({"id": token.0, "piece": piece})
    };
    Ok(json!({ "tokens": tokens.iter().map(piece).collect::<Vec<_>>() }))
}

/// `/detokenize`.
pub(super) fn detokenize(fields: &Fields<'_>, model: &Model) -> Result<Value, ApiError> {
    let tokens = fields.list("tokens")?.ok_or_else(|| fields.missing("tokens", "a list of token ids"))?;
    let tokens = tokens.iter().map(|value| token("tokens[]", value, model)).collect::<Result<Vec<_>, _>>()?;
    Ok(json!({ "content": model.detokenize(&tokens, true)? }))
}

/// Writes `/completion`.
pub(super) struct NativeWriter {
    model: Arc<Model>,
    alias: String,
    prompt: String,
    settings: Value,
    n_prompt: usize,
    n_predicted: u64,
    slot: Option<u32>,
    text: String,
    has_new_line: bool,
    tokens: Vec<u32>,
    probabilities: Option<Vec<Value>>,
    return_tokens: bool,
    report_drafts: bool,
    is_stream: bool,
}

impl NativeWriter {
    pub(super) fn new(ready: &Ready, params: &Params, prompt: &[Token]) -> Self {
        let text = ready.model.detokenize(prompt, true);
        debug_assert!(text.is_ok(), "the prompt was checked");
        Self {
            model: ready.model.clone(),
            alias: ready.alias.clone(),
            prompt: text.unwrap_or_default(),
            settings: settings(&params.sampling, ready.limits.n_ctx),
            n_prompt: prompt.len(),
            n_predicted: 0,
            slot: params.slot,
            text: String::new(),
            has_new_line: false,
            tokens: Vec::new(),
            probabilities: params.n_probabilities.map(|_| Vec::new()),
            return_tokens: params.return_tokens,
            report_drafts: params.report_drafts,
            is_stream: params.stream,
        }
    }

    fn chunk(&self, text: &str, tokens: &[u32]) -> Value {
        json!({
            "index": 0,
            "content": text,
            "tokens": tokens,
            "stop": false,
            "id_slot": self.slot.map_or(-1, i64::from),
            "tokens_predicted": self.n_predicted,
            "tokens_evaluated": self.n_prompt,
        })
    }

    fn last(&mut self, outcome: &Outcome, text: &str) -> Value {
        let stop_type = match (outcome.finish, &outcome.stop) {
            (Finish::Length, _) => "limit",
            (Finish::Stop, Some(_)) => "word",
            (Finish::Stop, None) => "eos",
            (Finish::Cancelled, _) => "none",
        };
        let timings = &outcome.timings;
        let mut last = json!({
            "index": 0,
            "content": text,
            "tokens": if self.return_tokens && !self.is_stream { self.tokens.as_slice() } else { &[] },
            "id_slot": outcome.slot,
            "stop": true,
            "model": self.alias,
            "tokens_predicted": timings.predicted_n,
            "tokens_evaluated": self.n_prompt,
            "generation_settings": self.settings,
            "prompt": self.prompt,
            "has_new_line": self.has_new_line,
            "truncated": false,
            "stop_type": stop_type,
            "stopping_word": outcome.stop.as_deref().unwrap_or_default(),
            "tokens_cached": self.n_prompt as u64 + timings.predicted_n.saturating_sub(1),
            "timings": timings,
        });
        if let Some(probabilities) = self.probabilities.take().filter(|_| !self.is_stream) {
            last["completion_probabilities"] = probabilities.into();
        }
        last
    }
}

impl Writer for NativeWriter {
    const SAYS_DONE: bool = false;

    fn open(&mut self) -> Option<Value> {
        None
    }

    fn progress(&mut self, progress: Progress) -> Value {
        let mut chunk = self.chunk("", &[]);
        chunk["prompt_progress"] = json!(progress);
        chunk
    }

    fn round(&mut self, round: Round) -> Option<Value> {
        let text: String = round.pieces.iter().map(|piece| piece.text.as_str()).collect();
        let tokens: Vec<u32> = round.pieces.iter().filter_map(|piece| piece.token).map(|token| token.0).collect();
        self.n_predicted += tokens.len() as u64;
        self.has_new_line |= text.contains('\n');
        let model = &self.model;
        let probabilities: Vec<Value> =
            round.pieces.iter().filter_map(|piece| probability(model, piece, piece.probabilities.as_ref()?)).collect();
        if !self.is_stream {
            self.text += &text;
            self.tokens.extend(tokens);
            if let Some(all) = &mut self.probabilities {
                all.extend(probabilities);
            }
            return None;
        }
        if text.is_empty() && tokens.is_empty() {
            return None;
        }
        let mut chunk = self.chunk(&text, &tokens);
        if !probabilities.is_empty() {
            chunk["completion_probabilities"] = probabilities.into();
        }
        if let Some(timings) = &round.timings {
            chunk["timings"] = json!(timings);
        }
        if self.report_drafts {
            chunk["draft"] = draft_report(&round);
        }
        Some(chunk)
    }

    fn close(&mut self, outcome: &Outcome) -> Vec<Value> {
        vec![self.last(outcome, "")]
    }

    fn whole(&mut self, outcome: &Outcome) -> Value {
        let text = std::mem::take(&mut self.text);
        self.last(outcome, &text)
    }
}

fn probability(model: &Model, piece: &Piece, probabilities: &Probabilities) -> Option<Value> {
    let entry = |token: Token, logprob: f32| {
        let (text, bytes) = token_text(model, token);
        json!({"id": token.0, "token": text, "bytes": bytes, "logprob": finite(logprob)})
    };
    let mut value = entry(piece.token?, probabilities.logprob);
    value["top_logprobs"] =
        probabilities.top.iter().map(|&(token, logprob)| entry(token, logprob)).collect::<Vec<_>>().into();
    Some(value)
}

/// The settings of an answer, under llama.cpp's names.
pub(super) fn settings(sampling: &SamplingParams, n_ctx: u32) -> Value {
    json!({
        "n_ctx": n_ctx,
        "seed": sampling.seed,
        "temperature": number(sampling.temperature),
        "dynatemp_range": number(sampling.dynatemp_range),
        "dynatemp_exponent": number(sampling.dynatemp_exponent),
        "top_k": sampling.top_k,
        "top_p": number(sampling.top_p),
        "min_p": number(sampling.min_p),
        "typical_p": number(sampling.typical_p),
        "top_n_sigma": number(sampling.top_n_sigma),
        "xtc_probability": number(sampling.xtc_probability),
        "xtc_threshold": number(sampling.xtc_threshold),
        "repeat_last_n": sampling.repeat_last_n,
        "repeat_penalty": number(sampling.repeat_penalty),
        "presence_penalty": number(sampling.presence_penalty),
        "frequency_penalty": number(sampling.frequency_penalty),
        "dry_multiplier": number(sampling.dry_multiplier),
        "dry_base": number(sampling.dry_base),
        "dry_allowed_length": sampling.dry_allowed_length,
        "dry_penalty_last_n": sampling.dry_last_n,
        "mirostat": sampling.mirostat,
        "mirostat_tau": number(sampling.mirostat_tau),
        "mirostat_eta": number(sampling.mirostat_eta),
        "grammar": sampling.grammar.as_deref().unwrap_or_default(),
    })
}

/// A number of 32 bits with no more digits than it has: 0.95, not 0.949999988079071.
pub(super) fn number(value: f32) -> Value {
    value.to_string().parse::<f64>().map_or(Value::Null, Value::from)
}

/// `/props`.
pub(super) fn props(ready: &Ready) -> Value {
    let name = |token: Option<Token>| token.map_or_else(String::new, |token| token_text(&ready.model, token).0);
    // The folder is nobody's business.
    let file = ready.model.path().file_name().map(|name| name.to_string_lossy().into_owned());
    json!({
        "default_generation_settings": {
            "n_ctx": ready.limits.n_ctx,
            "params": settings(&ready.sampling, ready.limits.n_ctx),
            "speculative": ready.drafts,
        },
        "total_slots": ready.limits.n_slots,
        "model_alias": ready.alias,
        "model_path": file,
        "modalities": Map::from_iter(["vision", "audio"].map(|name| (name.to_owned(), Value::from(false)))),
        "chat_template": ready.template.as_deref().unwrap_or_default(),
        "bos_token": name(ready.model.begin_token()),
        "eos_token": name(ready.model.end_token()),
        "build_info": format!("aded {}, llama.cpp {LLAMA_CPP_VERSION}", env!("CARGO_PKG_VERSION")),
    })
}
