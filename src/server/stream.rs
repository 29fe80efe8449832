//! From the engine's events to what the client reads: one object at the end, or server-sent events as they come.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::Json;
use axum::response::sse::{self, KeepAlive, Sse};
use axum::response::{IntoResponse as _, Response};
use futures_core::Stream;
use serde_json::Value;

use super::error::ApiError;
use super::job::{Answer, Event, Outcome, Progress, Round};

/// Writes an answer in the terms of one of the interfaces. It sees all rounds, whether they are streamed or not.
pub(super) trait Writer: Send + Unpin + 'static {
    /// A stream ends with `[DONE]`.
    const SAYS_DONE: bool;

    /// What a stream begins with.
    fn open(&mut self) -> Option<Value>;
    /// The prompt has been read so far.
    fn progress(&mut self, progress: Progress) -> Value;
    /// Takes a round's tokens and gives their chunk, if there is something to say.
    fn round(&mut self, round: Round) -> Option<Value>;
    /// What a stream ends with.
    fn close(&mut self, outcome: &Outcome) -> Vec<Value>;
    /// The answer as one object.
    fn whole(&mut self, outcome: &Outcome) -> Value;
}

/// Waits for the whole answer.
pub(super) async fn whole<W: Writer>(mut answer: Answer, mut writer: W) -> Result<Response, ApiError> {
    loop {
        match answer.next().await {
            Some(Event::Progress(_)) => {}
            Some(Event::Round(round)) => {
                writer.round(round);
            }
            Some(Event::Done(outcome)) => return Ok(Json(writer.whole(&outcome)).into_response()),
            Some(Event::Failed(error)) => return Err(error.into()),
            None => return Err(ApiError::internal("the engine has stopped")),
        }
    }
}

/// Hands the answer out as it comes.
pub(super) fn stream<W: Writer>(answer: Answer, mut writer: W, ping: Duration) -> Response {
    let waiting = writer.open().iter().map(event).collect();
    let events = Events { answer, writer, waiting, is_over: false };
    Sse::new(events).keep_alive(KeepAlive::new().interval(ping).text("ping")).into_response()
}

/// The stream of events.
struct Events<W> {
    answer: Answer,
    writer: W,
    waiting: VecDeque<sse::Event>,
    is_over: bool,
}

fn event(value: &Value) -> sse::Event {
    // JSON in one line: what would break the frame is escaped.
    sse::Event::default().data(value.to_string())
}

impl<W: Writer> Stream for Events<W> {
    type Item = Result<sse::Event, Infallible>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        loop {
            if let Some(event) = this.waiting.pop_front() {
                return Poll::Ready(Some(Ok(event)));
            }
            if this.is_over {
                return Poll::Ready(None);
            }
            match ready!(this.answer.poll_next(context)) {
                Some(Event::Progress(progress)) => this.waiting.push_back(event(&this.writer.progress(progress))),
                Some(Event::Round(round)) => this.waiting.extend(this.writer.round(round).as_ref().map(event)),
                Some(Event::Done(outcome)) => {
                    this.waiting.extend(this.writer.close(&outcome).iter().map(event));
                    if W::SAYS_DONE {
                        this.waiting.push_back(sse::Event::default().data("[DONE]"));
                    }
                    this.is_over = true;
                }
                failed => {
                    let error = match failed {
                        Some(Event::Failed(error)) => error.into(),
                        _ => ApiError::internal("the engine has stopped"),
                    };
                    this.waiting.push_back(event(&error.body()));
                    this.is_over = true;
                }
            }
        }
    }
}
