//! The paths, and what each of them does.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use aded::Token;
use aded::llama::SamplerChain;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, Uri, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::{Map, Value, json};
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;
use tokio::time::timeout;
use tower_http::cors::{AllowHeaders, AllowOrigin, CorsLayer};

use super::auth::{Keys, Origins};
use super::error::ApiError;
use super::fields::Fields;
use super::job::{Answer, Job, JobSampler, Ticket};
use super::native::{self, NativeWriter};
use super::openai::{self, ChatWriter, CompletionWriter};
use super::page;
use super::params::Params;
use super::scheduler::{Command, Handle, Ready, Shared};
use super::stream::{self, Writer};

/// What all requests share.
pub(super) struct App {
    pub(super) shared: Arc<Shared>,
    pub(super) engine: Handle,
    pub(super) keys: Keys,
    pub(super) origins: Origins,
    pub(super) n_predict: i64,
    pub(super) n_slots: u32,
    pub(super) n_queue: usize,
    pub(super) body_limit_mib: u32,
    pub(super) patience: Duration,
    pub(super) time_limit: Option<Duration>,
    pub(super) ping: Duration,
    pub(super) has_metrics: bool,
    pub(super) has_slots: bool,
    pub(super) has_page: bool,
    /// Seconds since 1970.
    pub(super) started: u64,
}

type Shares = State<Arc<App>>;
type Answered = Result<Response, ApiError>;

/// All paths.
pub(super) fn router(app: Arc<App>) -> Router {
    let origins = app.origins.clone();
    let cors = CorsLayer::new()
        .allow_origin(AllowOrigin::predicate(move |origin, _| {
            origin.to_str().is_ok_and(|origin| origins.allow(origin))
        }))
        .allow_methods([Method::GET, Method::POST])
        .allow_headers(AllowHeaders::mirror_request())
        .max_age(Duration::from_secs(600));
    let mut router = Router::new();
    if app.has_page {
        router = router.route("/", get(page::page)).route("/index.html", get(page::page));
    }
    for prefix in ["", "/v1"] {
        router = router
            .route(&format!("{prefix}/health"), get(health))
            .route(&format!("{prefix}/models"), get(models))
            .route(&format!("{prefix}/chat/completions"), post(chat))
            .route(&format!("{prefix}/embeddings"), post(no_embeddings))
            .route(&format!("{prefix}/responses"), post(no_responses));
    }
    router
        .route("/v1/completions", post(completions))
        .route("/completion", post(completion))
        .route("/completions", post(completion))
        .route("/tokenize", post(tokenize))
        .route("/detokenize", post(detokenize))
        .route("/apply-template", post(apply_template))
        .route("/props", get(props))
        .route("/slots", get(slots))
        .route("/metrics", get(metrics))
        .route("/infill", post(no_infill))
        .fallback(async |uri: Uri| ApiError::not_found(uri.path()))
        .method_not_allowed_fallback(async || ApiError::wrong_method())
        .layer(middleware::from_fn_with_state(app.clone(), admit))
        .layer(cors)
        .with_state(app)
}

/// Lets pass who may ask.
async fn admit(State(app): Shares, request: Request, next: Next) -> Response {
    let headers = request.headers();
    let text = |name| headers.get(name).map(|value: &HeaderValue| value.to_str().unwrap_or("?"));
    if !app.origins.admit(text(header::ORIGIN), text(header::HOST)) {
        return ApiError::forbidden(
            "this origin or host name may not use the server: name it with --cors-origins if it should",
        )
        .into_response();
    }
    let is_open = matches!(request.uri().path(), "/" | "/index.html" | "/health" | "/v1/health");
    if !is_open && !app.keys.admit(headers) {
        return ApiError::unauthorized().into_response();
    }
    next.run(request).await
}

impl App {
    /// What is known once the model is loaded.
    fn ready(&self) -> Result<&Ready, ApiError> {
        if self.shared.is_stopping.load(Ordering::Relaxed) {
            return Err(ApiError::unavailable("the server is stopping"));
        }
        self.shared.ready.get().ok_or_else(|| ApiError::unavailable("Loading model"))
    }

    /// The object in a request's body.
    async fn object(&self, headers: &HeaderMap, body: Body) -> Result<Map<String, Value>, ApiError> {
        self.ready()?;
        let limit = (self.body_limit_mib as usize) << 20;
        let length = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
        if length.is_some_and(|length| length > limit as u64) {
            return Err(ApiError::too_large(self.body_limit_mib));
        }
        let bytes = timeout(self.patience, to_bytes(body, limit))
            .await
            .map_err(|_| ApiError::too_slow(self.patience.as_secs()))?
            .map_err(|error| match std::error::Error::source(&error) {
                Some(cause) if cause.to_string().contains("length limit") => ApiError::too_large(self.body_limit_mib),
                _ => ApiError::invalid(format!("the request's body cannot be read: {error}")),
            })?;
        match serde_json::from_slice(&bytes) {
            Ok(Value::Object(map)) => Ok(map),
            Ok(_) => Err(ApiError::invalid("the request's body is JSON, but must be an object")),
            Err(error) => Err(ApiError::invalid(format!("the request's body is not JSON: {error}"))),
        }
    }

    fn params(&self, fields: &Fields<'_>, ready: &Ready) -> Result<Params, ApiError> {
        Params::read(fields, &ready.sampling, self.n_predict, self.n_slots, &ready.model)
    }

    /// Puts a request into the queue.
    fn submit(
        &self,
        ready: &Ready,
        params: &Params,
        prompt: Vec<Token>,
        special: bool,
    ) -> Result<(u64, Answer), ApiError> {
        if prompt.is_empty() {
            return Err(ApiError::invalid("the prompt is empty: give at least one token"));
        }
        let n_ctx = ready.limits.n_ctx;
        if prompt.len() >= n_ctx as usize {
            return Err(ApiError::exceeds_context(prompt.len(), n_ctx));
        }
        let mut sampling = params.sampling.clone();
        sampling.repeat_last_n = sampling.repeat_last_n.min(n_ctx);
        sampling.dry_last_n = sampling.dry_last_n.min(n_ctx);
        let mut chain = SamplerChain::new(&ready.model, &sampling)?;
        chain.accept_prompt(&prompt)?;
        let Some(ticket) = Ticket::take(&self.shared.n_requests, self.n_slots as usize + self.n_queue) else {
            self.shared.metrics(|metrics| metrics.count_refused());
            return Err(ApiError::unavailable(format!(
                "all slots are busy and {} requests wait (--queue): try again later",
                self.n_queue
            )));
        };
        let (sender, events) = mpsc::unbounded_channel();
        let is_running = Arc::new(AtomicBool::new(false));
        let id = self.shared.n_jobs.fetch_add(1, Ordering::Relaxed) as u64;
        let limits = [self.time_limit, params.time_limit];
        let job = Job {
            id,
            n_max: params.n_max.unwrap_or(usize::MAX),
            ignore_end: params.ignore_end,
            sampler: JobSampler::new(chain, params.n_probabilities),
            stops: params.stops.clone(),
            special,
            draft_limit: params.draft_limit,
            slot: params.slot,
            cache_prompt: params.cache_prompt,
            wants_timings: params.timings_per_token,
            wants_progress: params.stream && params.return_progress,
            time_limit: limits.into_iter().flatten().min(),
            events: sender,
            is_running: is_running.clone(),
            _ticket: ticket,
            prompt,
        };
        let answer = Answer {
            events,
            is_running,
            abort: self.shared.abort.clone(),
            n_running: self.shared.n_running.clone(),
            is_over: false,
        };
        self.engine.send(Command::Answer(Box::new(job)))?;
        Ok((id, answer))
    }

    async fn respond<W: Writer>(&self, params: &Params, answer: Answer, writer: W) -> Answered {
        if params.stream { Ok(stream::stream(answer, writer, self.ping)) } else { stream::whole(answer, writer).await }
    }
}

/// Work that takes a while, off the threads that serve connections.
async fn aside<T: Send + 'static>(
    app: &Arc<App>,
    work: impl FnOnce(&App, &Ready) -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    let app = app.clone();
    let done = spawn_blocking(move || work(&app, app.ready()?)).await;
    done.map_err(|_| ApiError::internal("the request ended in a fault of the server's"))?
}

async fn chat(State(app): Shares, headers: HeaderMap, body: Body) -> Answered {
    let map = app.object(&headers, body).await?;
    let (params, answer, writer) = aside(&app, move |app, ready| {
        let fields = Fields::new(&map);
        let mut params = app.params(&fields, ready)?;
        params.read_chat_logprobs(&fields)?;
        let prompt = openai::chat_prompt(&fields, ready)?;
        if let Some(grammar) = &prompt.grammar {
            if params.sampling.grammar.is_some() {
                return Err(ApiError::invalid(
                    "a tool must be called, and the answer must follow a grammar: ask for one of them",
                ));
            }
            params.sampling.grammar = Some(grammar.clone());
        }
        let tokens = ready.model.tokenize_chat(&prompt.text)?;
        let n_prompt = tokens.len();
        let (id, answer) = app.submit(ready, &params, tokens, !prompt.tools.is_empty())?;
        let writer = ChatWriter::new(ready, &params, id, n_prompt, &prompt);
        Ok((params, answer, writer))
    })
    .await?;
    app.respond(&params, answer, writer).await
}

async fn completions(State(app): Shares, headers: HeaderMap, body: Body) -> Answered {
    let map = app.object(&headers, body).await?;
    let (params, answer, writer) = aside(&app, move |app, ready| {
        let fields = Fields::new(&map);
        if fields.text("suffix")?.is_some_and(|suffix| !suffix.is_empty()) {
            return Err(ApiError::unsupported(
                "suffix is not supported: this server does not fill in the middle of a text",
            ));
        }
        if fields.integer("best_of", 1..=128)?.is_some_and(|n| n > 1) {
            return Err(ApiError::unsupported("best_of is above 1, but this server gives one answer to a request"));
        }
        let mut params = app.params(&fields, ready)?;
        params.read_logprobs(&fields, "logprobs")?;
        let prompt = fields.get("prompt").ok_or_else(|| fields.missing("prompt", "a text or a list of token ids"))?;
        let tokens = native::prompt_tokens("prompt", prompt, &ready.model)?;
        let echo = if fields.flag("echo")?.unwrap_or(false) {
            Some(match prompt {
                Value::String(text) => text.clone(),
                _ => ready.model.detokenize(&tokens, true)?,
            })
        } else {
            None
        };
        let n_prompt = tokens.len();
        let (id, answer) = app.submit(ready, &params, tokens, false)?;
        let writer = CompletionWriter::new(ready, &params, id, n_prompt, echo);
        Ok((params, answer, writer))
    })
    .await?;
    app.respond(&params, answer, writer).await
}

async fn completion(State(app): Shares, headers: HeaderMap, body: Body) -> Answered {
    let map = app.object(&headers, body).await?;
    let (params, answer, writer) = aside(&app, move |app, ready| {
        let fields = Fields::new(&map);
        let mut params = app.params(&fields, ready)?;
        params.read_logprobs(&fields, "n_probs")?;
        // llama.cpp's clients send 0 for none.
        params.n_probabilities = params.n_probabilities.filter(|&n| n > 0);
        let prompt = fields.get("prompt").ok_or_else(|| fields.missing("prompt", "a text or a list of token ids"))?;
        let tokens = native::prompt_tokens("prompt", prompt, &ready.model)?;
        let writer = NativeWriter::new(ready, &params, &tokens);
        let (_, answer) = app.submit(ready, &params, tokens, false)?;
        Ok((params, answer, writer))
    })
    .await?;
    app.respond(&params, answer, writer).await
}

async fn tokenize(State(app): Shares, headers: HeaderMap, body: Body) -> Answered {
    let map = app.object(&headers, body).await?;
    let value = aside(&app, move |_, ready| native::tokenize(&Fields::new(&map), &ready.model)).await?;
    Ok(Json(value).into_response())
}

async fn detokenize(State(app): Shares, headers: HeaderMap, body: Body) -> Answered {
    let map = app.object(&headers, body).await?;
    let value = aside(&app, move |_, ready| native::detokenize(&Fields::new(&map), &ready.model)).await?;
    Ok(Json(value).into_response())
}

async fn apply_template(State(app): Shares, headers: HeaderMap, body: Body) -> Answered {
    let map = app.object(&headers, body).await?;
    let prompt = aside(&app, move |_, ready| Ok(openai::chat_prompt(&Fields::new(&map), ready)?.text)).await?;
    Ok(Json(json!({ "prompt": prompt })).into_response())
}

async fn health(State(app): Shares) -> Answered {
    app.ready()?;
    Ok(Json(json!({"status": "ok"})).into_response())
}

async fn models(State(app): Shares) -> Answered {
    Ok(Json(openai::models(app.ready()?, app.started)).into_response())
}

async fn props(State(app): Shares) -> Answered {
    Ok(Json(native::props(app.ready()?)).into_response())
}

async fn slots(State(app): Shares) -> Answered {
    app.ready()?;
    if !app.has_slots {
        return Err(ApiError::unsupported("this server does not show its slots: start it without --no-slots"));
    }
    Ok(Json(app.shared.slots()).into_response())
}

async fn metrics(State(app): Shares) -> Answered {
    if !app.has_metrics {
        return Err(ApiError::unsupported("this server shows no metrics: start it with --metrics"));
    }
    app.ready()?;
    let n_running = app.shared.n_running.load(Ordering::Relaxed);
    let n_waiting = app.shared.n_requests.load(Ordering::Relaxed).saturating_sub(n_running);
    let page = app.shared.metrics(|metrics| metrics.page(n_running, n_waiting));
    Ok(([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], page).into_response())
}

async fn no_embeddings() -> ApiError {
    ApiError::unsupported("this server gives no embeddings: it runs models that continue a text")
}

async fn no_responses() -> ApiError {
    ApiError::unsupported("the responses interface is not there: ask for /v1/chat/completions")
}

async fn no_infill() -> ApiError {
    ApiError::unsupported("this server does not fill in the middle of a text")
}
