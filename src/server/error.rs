//! What goes wrong with a request, in the shape that OpenAI's clients know, with llama.cpp's types.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};

/// An answer that says why there is none.
#[derive(Debug)]
pub(super) struct ApiError {
    pub(super) status: StatusCode,
    kind: &'static str,
    message: String,
    details: Map<String, Value>,
}

impl ApiError {
    fn new(status: StatusCode, kind: &'static str, message: impl Into<String>) -> Self {
        Self { status, kind, message: message.into(), details: Map::new() }
    }

    /// The request is wrong.
    pub(super) fn invalid(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_request_error", message)
    }

    /// As [`invalid`](Self::invalid), naming the field.
    pub(super) fn invalid_field(name: &str, message: impl Into<String>) -> Self {
        let mut error = Self::invalid(message);
        error.details.insert("param".to_owned(), name.into());
        error
    }

    /// The prompt does not fit.
    pub(super) fn exceeds_context(n_prompt: usize, n_ctx: u32) -> Self {
        let message = format!(
            "the prompt has {n_prompt} tokens, but the context holds {n_ctx}, one of them for the answer: shorten it, or start the \
             server with a larger --ctx-size"
        );
        let mut error = Self::new(StatusCode::BAD_REQUEST, "exceed_context_size_error", message);
        error.details.insert("n_prompt_tokens".to_owned(), n_prompt.into());
        error.details.insert("n_ctx".to_owned(), n_ctx.into());
        error
    }

    /// No key, or a wrong one.
    pub(super) fn unauthorized() -> Self {
        let message = "the API key is missing or wrong: send it as `Authorization: Bearer KEY`";
        Self::new(StatusCode::UNAUTHORIZED, "authentication_error", message)
    }

    /// A page or a host name that may not use the server.
    pub(super) fn forbidden(message: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "permission_error", message)
    }

    /// No such path.
    pub(super) fn not_found(path: &str) -> Self {
        let path: String = path.chars().take(100).collect();
        Self::new(
            StatusCode::NOT_FOUND,
            "not_found_error",
            format!("there is no {path}; docs/server.md lists what there is"),
        )
    }

    /// A path that takes another method.
    pub(super) fn wrong_method() -> Self {
        let message = "this path takes another method: POST for requests with a body, GET for the rest";
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "invalid_request_error", message)
    }

    /// The client sends too slowly.
    pub(super) fn too_slow(seconds: u64) -> Self {
        let message = format!("the request did not arrive within {seconds} seconds (--timeout)");
        Self::new(StatusCode::REQUEST_TIMEOUT, "invalid_request_error", message)
    }

    /// The body is too large.
    pub(super) fn too_large(limit_mib: u32) -> Self {
        let message = format!("the request is larger than {limit_mib} MiB (--body-limit)");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "invalid_request_error", message)
    }

    /// Something that others have and this server has not.
    pub(super) fn unsupported(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_IMPLEMENTED, "not_supported_error", message)
    }

    /// Not now.
    pub(super) fn unavailable(message: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable_error", message)
    }

    /// The server's own fault.
    pub(super) fn internal(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "server_error", message)
    }

    /// The object that clients read.
    pub(super) fn body(&self) -> Value {
        let mut error = self.details.clone();
        error.insert("code".to_owned(), self.status.as_u16().into());
        error.insert("message".to_owned(), self.message.clone().into());
        error.insert("type".to_owned(), self.kind.into());
        json!({ "error": error })
    }
}

impl From<aded::Error> for ApiError {
    fn from(error: aded::Error) -> Self {
        let text = error.to_string();
        if error.is_usage() {
            Self::invalid(text)
        } else if error.is_format() {
            Self::unsupported(text)
        } else if error.is_cancelled() {
            Self::unavailable("the server is stopping")
        } else {
            Self::internal(text)
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(self.body())).into_response();
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}
