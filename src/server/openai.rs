//! OpenAI's interface: `/v1/chat/completions`, `/v1/completions`, `/v1/models`.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use aded::Finish;
use aded::llama::text::ChatInput;
use aded::llama::{LLAMA_CPP_VERSION, Model};
use serde_json::{Map, Value, json};

use super::answer::Splitter;
use super::error::ApiError;
use super::fields::{Fields, wrong};
use super::job::{Outcome, Piece, Probabilities, Progress, Round, Timings};
use super::native::number;
use super::params::Params;
use super::scheduler::Ready;
use super::stream::Writer;
use super::{schema, tools};

/// Most messages of a chat and most tools: templates take time for each.
const MAX_MESSAGES: usize = 16_384;
const MAX_TOOLS: usize = 256;

/// A chat as the model sees it.
pub(super) struct ChatPrompt {
    pub(super) text: String,
    /// Names of the tools that may be called.
    pub(super) tools: Vec<String>,
    /// The grammar that a call of a tool must follow, if one must come.
    pub(super) grammar: Option<String>,
    splits_thoughts: bool,
}

/// Reads a chat and puts it through the template.
pub(super) fn chat_prompt(fields: &Fields<'_>, ready: &Ready) -> Result<ChatPrompt, ApiError> {
    let template = ready.template.as_deref().ok_or_else(|| {
        ApiError::unsupported(
            "the model has no chat template: ask for /v1/completions, or start the server with --chat-template",
        )
    })?;
    let messages = fields.list("messages")?.ok_or_else(|| fields.missing("messages", "a list of messages"))?;
    if messages.is_empty() || messages.len() > MAX_MESSAGES {
        let message = format!("messages has {} entries, but must have 1 to {MAX_MESSAGES}", messages.len());
        return Err(ApiError::invalid_field("messages", message));
    }
    let mut messages = messages.iter().map(message).collect::<Result<Vec<Value>, _>>()?;
    let (tools, grammar) = wanted_tools(fields)?;
    if !tools.is_empty() && !template.contains("tools") {
        add_instruction(&mut messages, &tools::instruction(&Value::from(tools.clone())));
    }
    let variables = match fields.object("chat_template_kwargs")? {
        Some(variables) => variables.map.clone(),
        None => Map::new(),
    };
    let mut input = ChatInput::new(&messages)
        .with_variables(&variables)
        .with_generation_prompt(fields.flag("add_generation_prompt")?.unwrap_or(true));
    if !tools.is_empty() {
        input = input.with_tools(&tools);
    }
    let splits_thoughts = match fields.text("reasoning_format")? {
        None | Some("auto" | "deepseek" | "deepseek-legacy") => true,
        Some("none") => false,
        Some(other) => return Err(wrong("reasoning_format", &other.into(), "none, auto or deepseek")),
    };
    let names = tools.iter().filter_map(|tool| tool["function"]["name"].as_str().map(str::to_owned)).collect();
    Ok(ChatPrompt { text: ready.model.chat_prompt_of(template, &input)?, tools: names, grammar, splits_thoughts })
}

/// A message as templates expect it: the text as one text, arguments of calls as objects.
fn message(value: &Value) -> Result<Value, ApiError> {
    let fields = Fields::of(value, "messages[]")?;
    let role = fields.text("role")?.ok_or_else(|| fields.missing("messages[].role", "who speaks, such as user"))?;
    let content = match fields.get("content") {
        None => None,
        Some(Value::String(text)) => Some(text.clone()),
        Some(Value::Array(parts)) => Some(parts.iter().map(text_part).collect::<Result<Vec<_>, _>>()?.join("\n")),
        Some(other) => return Err(wrong("messages[].content", other, "a text or a list of parts")),
    };
    let calls = fields.list("tool_calls")?;
    if content.is_none() && calls.is_none() {
        return Err(fields.missing("messages[].content", "what is said"));
    }
    let mut message = Map::new();
    // Templates know the older name.
    message.insert("role".to_owned(), if role == "developer" { "system" } else { role }.into());
    message.insert("content".to_owned(), content.unwrap_or_default().into());
    for name in ["name", "tool_call_id", "reasoning_content"] {
        if let Some(text) = fields.text(name)? {
            message.insert(name.to_owned(), text.into());
        }
    }
    if let Some(calls) = calls {
        message.insert("tool_calls".to_owned(), calls.iter().map(earlier_call).collect::<Result<Vec<_>, _>>()?.into());
    }
    Ok(Value::Object(message))
}

fn text_part(part: &Value) -> Result<String, ApiError> {
    let fields = Fields::of(part, "messages[].content[]")?;
    match fields.text("type")? {
        Some("text") | None => Ok(fields.text("text")?.unwrap_or_default().to_owned()),
        Some(other) => {
            let other: String = other.chars().take(40).collect();
            Err(ApiError::unsupported(format!(
                "a message holds a part of type {other}, but this server takes text alone"
            )))
        }
    }
}

fn earlier_call(call: &Value) -> Result<Value, ApiError> {
    let fields = Fields::of(call, "messages[].tool_calls[]")?;
    let function = fields
        .object("function")?
        .ok_or_else(|| fields.missing("messages[].tool_calls[].function", "an object with name and arguments"))?;
    let name =
        function.text("name")?.ok_or_else(|| fields.missing("messages[].tool_calls[].function.name", "a name"))?;
    let arguments = match function.get("arguments") {
        Some(Value::String(text)) => serde_json::from_str(text).unwrap_or_else(|_| Value::from(text.as_str())),
        Some(value) => value.clone(),
        None => json!({}),
    };
    let mut call = call.clone();
    call["function"] = json!({"name": name, "arguments": arguments});
    Ok(call)
}

/// The tools that the template shall show, and the grammar of a call if one must come.
fn wanted_tools(fields: &Fields<'_>) -> Result<(Vec<Value>, Option<String>), ApiError> {
    const EXPECTED: &str = "an object with type `function` and a function with a name";
    let given = fields.list("tools")?.unwrap_or_default();
    if given.len() > MAX_TOOLS {
        let message = format!("tools has {} entries, but at most {MAX_TOOLS} are taken", given.len());
        return Err(ApiError::invalid_field("tools", message));
    }
    let name = |tool: &Value| tool["function"]["name"].as_str().map(str::to_owned);
    if let Some(odd) = given.iter().find(|tool| name(tool).is_none()) {
        return Err(wrong("tools[]", odd, EXPECTED));
    }
    let parameters = |tool: &Value| (name(tool).unwrap_or_default(), tool["function"]["parameters"].clone());
    let forced: Vec<&Value> = match fields.get("tool_choice") {
        None => Vec::new(),
        Some(Value::String(choice)) => match choice.as_str() {
            "none" => return Ok((Vec::new(), None)),
            "auto" => Vec::new(),
            "required" => given.iter().collect(),
            _ => return Err(wrong("tool_choice", &choice.as_str().into(), "none, auto, required or a function")),
        },
        Some(choice) => {
            let wanted = choice["function"]["name"].as_str();
            let tool = given.iter().find(|tool| name(tool).as_deref() == wanted);
            vec![tool.ok_or_else(|| wrong("tool_choice", choice, "a function that is among the tools"))?]
        }
    };
    let forces = fields.get("tool_choice").is_some_and(|choice| choice != "auto");
    if forces && given.is_empty() {
        return Err(ApiError::invalid_field("tool_choice", "tool_choice demands a call, but there are no tools"));
    }
    let grammar = match forced.as_slice() {
        [] => None,
        forced => Some(schema::of_tools(&forced.iter().map(|tool| parameters(tool)).collect::<Vec<_>>())?),
    };
    Ok((given.to_vec(), grammar))
}

fn add_instruction(messages: &mut Vec<Value>, instruction: &str) {
    match messages.first_mut().filter(|message| message["role"] == "system") {
        Some(system) => {
            let text = system["content"].as_str().unwrap_or_default();
            system["content"] = format!("{text}\n\n{instruction}").into();
        }
        None => messages.insert(0, json!({"role": "system", "content": instruction})),
    }
}

/// Seconds since 1970.
pub(super) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

fn finish_reason(finish: Finish) -> &'static str {
    if finish == Finish::Length { "length" } else { "stop" }
}

/// What all of OpenAI's answers share.
struct Head {
    id: String,
    created: u64,
    model: Arc<Model>,
    alias: String,
    n_prompt: usize,
    wants_usage: bool,
    report_drafts: bool,
    is_stream: bool,
}

impl Head {
    fn new(ready: &Ready, params: &Params, id: String, n_prompt: usize) -> Self {
        Self {
            id,
            created: now(),
            model: ready.model.clone(),
            alias: ready.alias.clone(),
            n_prompt,
            wants_usage: params.wants_usage,
            report_drafts: params.report_drafts,
            is_stream: params.stream,
        }
    }

    fn object(&self, kind: &str, choices: Value) -> Value {
        json!({
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.alias,
            "system_fingerprint": fingerprint(),
            "choices": choices,
        })
    }

    fn usage(&self, timings: &Timings) -> Value {
        json!({
            "prompt_tokens": self.n_prompt,
            "completion_tokens": timings.predicted_n,
            "total_tokens": self.n_prompt as u64 + timings.predicted_n,
            "prompt_tokens_details": {"cached_tokens": timings.cache_n},
        })
    }

    /// Puts in what is ours, and llama.cpp's.
    fn extend(&self, chunk: &mut Value, round: &Round) {
        if let Some(timings) = &round.timings {
            chunk["timings"] = json!(timings);
        }
        if self.report_drafts {
            chunk["draft"] = draft_report(round);
        }
    }

    /// The last chunks of a stream.
    fn close(&self, kind: &str, choice: Value, timings: &Timings) -> Vec<Value> {
        let mut last = self.object(kind, json!([choice]));
        last["timings"] = json!(timings);
        let mut chunks = vec![last];
        if self.wants_usage {
            let mut chunk = self.object(kind, json!([]));
            chunk["usage"] = self.usage(timings);
            chunks.push(chunk);
        }
        chunks
    }

    fn whole(&self, kind: &str, choice: Value, timings: &Timings) -> Value {
        let mut answer = self.object(kind, json!([choice]));
        answer["usage"] = self.usage(timings);
        answer["timings"] = json!(timings);
        answer
    }
}

/// The build that answers.
pub(super) fn fingerprint() -> String {
    format!("aded {} llama.cpp {LLAMA_CPP_VERSION}", env!("CARGO_PKG_VERSION"))
}

/// Each token's text, and whether it was guessed before the model said it.
pub(super) fn draft_report(round: &Round) -> Value {
    let pieces = round.pieces.iter().map(|piece| json!({"text": piece.text, "drafted": piece.is_drafted}));
    json!({"n_drafted": round.n_drafted, "pieces": pieces.collect::<Vec<_>>()})
}

/// A token's text and bytes, control tokens by name.
pub(super) fn token_text(model: &Model, token: aded::Token) -> (String, Vec<u8>) {
    let mut bytes = Vec::new();
    let failed = model.append_piece(token, true, &mut bytes).is_err();
    debug_assert!(!failed, "the token came from this vocabulary");
    (String::from_utf8_lossy(&bytes).into_owned(), bytes)
}

fn chat_logprob(model: &Model, piece: &Piece, probabilities: &Probabilities) -> Option<Value> {
    let entry = |token, logprob: f32| {
        let (text, bytes) = token_text(model, token);
        json!({"id": token.0, "token": text, "bytes": bytes, "logprob": finite(logprob)})
    };
    let mut value = entry(piece.token?, probabilities.logprob);
    let top = probabilities.top.iter().map(|&(token, logprob)| entry(token, logprob));
    value["top_logprobs"] = top.collect::<Vec<_>>().into();
    Some(value)
}

/// JSON knows no infinity; OpenAI writes this number for what cannot happen.
pub(super) fn finite(logprob: f32) -> Value {
    number(logprob.max(-9999.0))
}

/// Writes `/v1/chat/completions`.
pub(super) struct ChatWriter {
    head: Head,
    splitter: Splitter,
    thoughts: String,
    content: String,
    logprobs: Option<Vec<Value>>,
}

impl ChatWriter {
    pub(super) fn new(ready: &Ready, params: &Params, id: u64, n_prompt: usize, prompt: &ChatPrompt) -> Self {
        let is_thinking = prompt.text.trim_end().ends_with("<think>");
        Self {
            head: Head::new(ready, params, format!("chatcmpl-{id}-{}", now()), n_prompt),
            splitter: Splitter::new(prompt.tools.clone(), is_thinking, prompt.splits_thoughts),
            thoughts: String::new(),
            content: String::new(),
            logprobs: params.n_probabilities.map(|_| Vec::new()),
        }
    }

    fn chunk(&self, delta: Value) -> Value {
        let choice = json!({"index": 0, "delta": delta, "finish_reason": null});
        self.head.object("chat.completion.chunk", json!([choice]))
    }
}

impl Writer for ChatWriter {
    const SAYS_DONE: bool = true;

    fn open(&mut self) -> Option<Value> {
        Some(self.chunk(json!({"role": "assistant", "content": ""})))
    }

    fn progress(&mut self, progress: Progress) -> Value {
        let mut chunk = self.chunk(json!({}));
        chunk["prompt_progress"] = json!(progress);
        chunk
    }

    fn round(&mut self, round: Round) -> Option<Value> {
        let text: String = round.pieces.iter().map(|piece| piece.text.as_str()).collect();
        let part = self.splitter.push(&text);
        self.thoughts += &part.thoughts;
        self.content += &part.content;
        let model = &self.head.model;
        let logprobs: Option<Vec<Value>> = self.logprobs.as_ref().map(|_| {
            let entry = |piece: &Piece| chat_logprob(model, piece, piece.probabilities.as_ref()?);
            round.pieces.iter().filter_map(entry).collect()
        });
        if let (Some(all), Some(new)) = (&mut self.logprobs, &logprobs) {
            all.extend_from_slice(if self.head.is_stream { &[] } else { new });
        }
        let mut delta = Map::new();
        if !part.thoughts.is_empty() {
            delta.insert("reasoning_content".to_owned(), part.thoughts.into());
        }
        if !part.content.is_empty() {
            delta.insert("content".to_owned(), part.content.into());
        }
        let has_logprobs = logprobs.as_ref().is_some_and(|logprobs| !logprobs.is_empty());
        let has_more = has_logprobs || round.timings.is_some() || self.head.report_drafts;
        if delta.is_empty() && !has_more {
            return None;
        }
        let mut chunk = self.chunk(delta.into());
        if has_logprobs {
            chunk["choices"][0]["logprobs"] = json!({"content": logprobs});
        }
        self.head.extend(&mut chunk, &round);
        Some(chunk)
    }

    fn close(&mut self, outcome: &Outcome) -> Vec<Value> {
        let (part, calls) = self.splitter.finish();
        let mut chunks = Vec::new();
        for (name, text) in [("reasoning_content", part.thoughts), ("content", part.content)] {
            if !text.is_empty() {
                chunks.push(self.chunk(json!({ name: text })));
            }
        }
        if !calls.is_empty() {
            let objects: Vec<Value> = calls.iter().enumerate().map(|(index, call)| call.object(Some(index))).collect();
            chunks.push(self.chunk(json!({"tool_calls": objects})));
        }
        let reason = if calls.is_empty() { finish_reason(outcome.finish) } else { "tool_calls" };
        let choice = json!({"index": 0, "delta": {}, "finish_reason": reason});
        chunks.extend(self.head.close("chat.completion.chunk", choice, &outcome.timings));
        chunks
    }

    fn whole(&mut self, outcome: &Outcome) -> Value {
        let (part, calls) = self.splitter.finish();
        self.thoughts += &part.thoughts;
        self.content += &part.content;
        let mut message = json!({"role": "assistant", "content": self.content});
        if !self.thoughts.is_empty() {
            message["reasoning_content"] = std::mem::take(&mut self.thoughts).into();
        }
        let mut reason = finish_reason(outcome.finish);
        if !calls.is_empty() {
            reason = "tool_calls";
            message["tool_calls"] = calls.iter().map(|call| call.object(None)).collect::<Vec<_>>().into();
            if self.content.trim().is_empty() {
                message["content"] = Value::Null;
            }
        }
        let logprobs = self.logprobs.take().map(|content| json!({ "content": content }));
        let choice = json!({"index": 0, "message": message, "logprobs": logprobs, "finish_reason": reason});
        self.head.whole("chat.completion", choice, &outcome.timings)
    }
}

/// Writes `/v1/completions`.
pub(super) struct CompletionWriter {
    head: Head,
    text: String,
    /// The prompt, if the answer shall begin with it.
    echo: Option<String>,
    logprobs: Option<Logprobs>,
}

/// The older form: four lists of equal length.
#[derive(Default)]
struct Logprobs {
    tokens: Vec<String>,
    token_logprobs: Vec<Value>,
    top_logprobs: Vec<Value>,
    text_offset: Vec<usize>,
    /// Characters before the next token.
    n_characters: usize,
}

impl Logprobs {
    fn add(&mut self, model: &Model, round: &Round) {
        for piece in &round.pieces {
            let (Some(token), Some(probabilities)) = (piece.token, &piece.probabilities) else { continue };
            self.tokens.push(token_text(model, token).0);
            self.token_logprobs.push(finite(probabilities.logprob));
            let top = probabilities.top.iter().map(|&(token, logprob)| (token_text(model, token).0, finite(logprob)));
            self.top_logprobs.push(Value::Object(top.collect()));
            self.text_offset.push(self.n_characters);
            self.n_characters += piece.text.chars().count();
        }
    }

    /// The object, emptied of what was handed out.
    fn take(&mut self) -> Value {
        json!({
            "tokens": std::mem::take(&mut self.tokens),
            "token_logprobs": std::mem::take(&mut self.token_logprobs),
            "top_logprobs": std::mem::take(&mut self.top_logprobs),
            "text_offset": std::mem::take(&mut self.text_offset),
        })
    }
}

impl CompletionWriter {
    pub(super) fn new(ready: &Ready, params: &Params, id: u64, n_prompt: usize, echo: Option<String>) -> Self {
        Self {
            head: Head::new(ready, params, format!("cmpl-{id}-{}", now()), n_prompt),
            text: String::new(),
            echo,
            logprobs: params.n_probabilities.map(|_| Logprobs::default()),
        }
    }

    fn chunk(&self, text: &str) -> Value {
        let choice = json!({"index": 0, "text": text, "logprobs": null, "finish_reason": null});
        self.head.object("text_completion", json!([choice]))
    }
}

impl Writer for CompletionWriter {
    const SAYS_DONE: bool = true;

    fn open(&mut self) -> Option<Value> {
        let echo = self.echo.take()?;
        Some(self.chunk(&echo))
    }

    fn progress(&mut self, progress: Progress) -> Value {
        let mut chunk = self.chunk("");
        chunk["prompt_progress"] = json!(progress);
        chunk
    }

    fn round(&mut self, round: Round) -> Option<Value> {
        let text: String = round.pieces.iter().map(|piece| piece.text.as_str()).collect();
        if let Some(logprobs) = &mut self.logprobs {
            logprobs.add(&self.head.model, &round);
        }
        if !self.head.is_stream {
            self.text += &text;
            return None;
        }
        let has_logprobs = self.logprobs.as_ref().is_some_and(|logprobs| !logprobs.tokens.is_empty());
        if text.is_empty() && !has_logprobs && round.timings.is_none() && !self.head.report_drafts {
            return None;
        }
        let mut chunk = self.chunk(&text);
        if let Some(logprobs) = self.logprobs.as_mut().filter(|_| has_logprobs) {
            chunk["choices"][0]["logprobs"] = logprobs.take();
        }
        self.head.extend(&mut chunk, &round);
        Some(chunk)
    }

    fn close(&mut self, outcome: &Outcome) -> Vec<Value> {
        let choice = json!({"index": 0, "text": "", "logprobs": null, "finish_reason": finish_reason(outcome.finish)});
        self.head.close("text_completion", choice, &outcome.timings)
    }

    fn whole(&mut self, outcome: &Outcome) -> Value {
        let text = self.echo.take().unwrap_or_default() + &self.text;
        let logprobs = self.logprobs.as_mut().map(Logprobs::take);
        let choice =
            json!({"index": 0, "text": text, "logprobs": logprobs, "finish_reason": finish_reason(outcome.finish)});
        self.head.whole("text_completion", choice, &outcome.timings)
    }
}

/// `/v1/models`.
pub(super) fn models(ready: &Ready, started: u64) -> Value {
    let model = &ready.model;
    let number = |key: &str| model.header().architecture_number(key);
    json!({
        "object": "list",
        "data": [{
            "id": ready.alias,
            "object": "model",
            "created": started,
            "owned_by": "aded",
            "meta": {
                "description": model.description(),
                "n_vocab": model.n_vocab(),
                "n_ctx": ready.limits.n_ctx,
                "n_ctx_train": model.n_ctx_train(),
                "n_embd": number("embedding_length"),
                "n_params": model.n_params(),
                "size": model.size_bytes(),
            },
        }],
    })
}
