//! What the web side hands to the engine thread, and what comes back.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use aded::llama::SamplerChain;
use aded::sampling::RowSampler;
use aded::{CancelFlag, Error, Finish, Stats, Token};
use serde::Serialize;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};

/// A request on its way through queue and slot.
pub(super) struct Job {
    /// Counts up; the order of arrival.
    pub(super) id: u64,
    pub(super) prompt: Vec<Token>,
    pub(super) n_max: usize,
    pub(super) ignore_end: bool,
    pub(super) sampler: JobSampler,
    pub(super) stops: Vec<String>,
    /// Give the names of control tokens: calls of tools may be marked by them.
    pub(super) special: bool,
    /// Most nodes of each draft.
    pub(super) draft_limit: Option<usize>,
    /// The slot that the client asks for.
    pub(super) slot: Option<u32>,
    /// Use what the slot holds of the prompt.
    pub(super) cache_prompt: bool,
    /// Put the times so far into every round's event.
    pub(super) wants_timings: bool,
    /// Report how much of the prompt has been read.
    pub(super) wants_progress: bool,
    pub(super) time_limit: Option<Duration>,
    pub(super) events: UnboundedSender<Event>,
    /// Raised once it has reached a slot.
    pub(super) is_running: Arc<AtomicBool>,
    /// The place that it takes among all requests.
    pub(super) _ticket: Ticket,
}

impl Job {
    /// Nobody listens any more.
    pub(super) fn is_abandoned(&self) -> bool {
        self.events.is_closed()
    }
}

/// A place among the requests that wait or run; free again when it is dropped.
pub(super) struct Ticket(Arc<AtomicUsize>);

impl Ticket {
    /// Takes a place, unless there are `limit` in use.
    pub(super) fn take(count: &Arc<AtomicUsize>, limit: usize) -> Option<Self> {
        let taken = count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| (n < limit).then_some(n + 1));
        taken.is_ok().then(|| Self(count.clone()))
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What the engine reports.
pub(super) enum Event {
    /// The prompt has been read so far.
    Progress(Progress),
    /// A round's tokens.
    Round(Round),
    /// The answer is complete.
    Done(Box<Outcome>),
    /// It could not be completed.
    Failed(Error),
}

/// How much of a prompt has been read.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Progress {
    pub(super) total: usize,
    pub(super) cache: usize,
    pub(super) processed: usize,
    pub(super) time_ms: f64,
}

/// The tokens of one round.
#[derive(Default)]
pub(super) struct Round {
    pub(super) pieces: Vec<Piece>,
    /// Nodes of the draft that gave them.
    pub(super) n_drafted: usize,
    pub(super) timings: Option<Timings>,
}

/// A token and its text.
pub(super) struct Piece {
    /// `None` for text that was held back until the end.
    pub(super) token: Option<Token>,
    pub(super) text: String,
    pub(super) is_drafted: bool,
    pub(super) probabilities: Option<Probabilities>,
}

/// The likeliest tokens of a visited row, by an exact softmax over the vocabulary.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Probabilities {
    /// Natural logarithm of the probability of the token that was taken.
    pub(super) logprob: f32,
    /// The likeliest first.
    pub(super) top: Vec<(Token, f32)>,
}

/// How a job ended.
pub(super) struct Outcome {
    pub(super) finish: Finish,
    /// The stop string that was found.
    pub(super) stop: Option<String>,
    pub(super) slot: u32,
    pub(super) timings: Timings,
}

/// Counts and wall-clock times under llama.cpp's names, and ours.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(super) struct Timings {
    pub(super) cache_n: u64,
    pub(super) prompt_n: u64,
    pub(super) prompt_ms: f64,
    prompt_per_token_ms: f64,
    prompt_per_second: f64,
    /// Tokens of the answer. The first comes with the prompt, so that the rates below rest on one token less.
    pub(super) predicted_n: u64,
    pub(super) predicted_ms: f64,
    predicted_per_token_ms: f64,
    predicted_per_second: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    draft_n: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    draft_n_accepted: Option<u64>,
    draft_rounds: u64,
    draft_ms: f64,
    learn_ms: f64,
    rounds: u64,
    tokens_per_round: f64,
    nodes_per_round: f64,
    /// How many times faster the rounds were than plain decoding by its measured times; absent before these are known.
    #[serde(skip_serializing_if = "Option::is_none")]
    speed_up: Option<f64>,
}

impl Timings {
    pub(super) fn new(
        stats: &Stats,
        n_tokens: u64,
        prompt: Duration,
        predicted: Duration,
        speed_up: Option<f64>,
    ) -> Self {
        let ms = |time: Duration| time.as_secs_f64() * 1e3;
        let of_ns = |ns: u64| ns as f64 / 1e6;
        let share = |part: f64, whole: f64| if whole > 0.0 { part / whole } else { 0.0 };
        let n_rated = n_tokens.saturating_sub(1) as f64;
        let has_drafted = stats.n_drafted > 0;
        Self {
            cache_n: stats.n_prompt_reused,
            prompt_n: stats.n_prompt,
            prompt_ms: ms(prompt),
            prompt_per_token_ms: share(ms(prompt), stats.n_prompt as f64),
            prompt_per_second: share(stats.n_prompt as f64 * 1e3, ms(prompt)),
            predicted_n: n_tokens,
            predicted_ms: ms(predicted),
            predicted_per_token_ms: share(ms(predicted), n_rated),
            predicted_per_second: share(n_rated * 1e3, ms(predicted)),
            draft_n: has_drafted.then_some(stats.n_drafted),
            draft_n_accepted: has_drafted.then_some(stats.n_accepted),
            draft_rounds: stats.n_draft_rounds,
            draft_ms: of_ns(stats.draft_ns),
            learn_ms: of_ns(stats.learn_ns),
            rounds: stats.n_rounds,
            tokens_per_round: stats.tokens_per_round(),
            nodes_per_round: stats.nodes_per_round(),
            speed_up,
        }
    }
}

/// The request's own sampler chain. Several requests share a decode call, so that an error of one must not end the round of all: it is
/// kept, and the sampler gives a token that nobody will see.
pub(super) struct JobSampler {
    chain: SamplerChain,
    /// Tokens whose probabilities are reported beside the one that was taken.
    n_probabilities: Option<usize>,
    probabilities: Vec<Probabilities>,
    error: Option<Error>,
    order: Vec<u32>,
}

impl JobSampler {
    pub(super) fn new(chain: SamplerChain, n_probabilities: Option<usize>) -> Self {
        Self { chain, n_probabilities, probabilities: Vec::new(), error: None, order: Vec::new() }
    }

    /// The error that ended the job.
    pub(super) fn take_error(&mut self) -> Option<Error> {
        self.error.take()
    }

    /// The probabilities of the tokens sampled since the last call, in order.
    pub(super) fn take_probabilities(&mut self) -> std::vec::Drain<'_, Probabilities> {
        self.probabilities.drain(..)
    }
}

impl RowSampler for JobSampler {
    fn sample(&mut self, logits: &[f32]) -> Result<Token, Error> {
        if self.error.is_some() {
            return Ok(Token(0));
        }
        match self.chain.sample(logits) {
            Ok(token) => {
                if let Some(n) = self.n_probabilities {
                    self.probabilities.push(probabilities(logits, token, n, &mut self.order));
                }
                Ok(token)
            }
            Err(error) => {
                self.error = Some(error);
                Ok(Token(0))
            }
        }
    }

    fn is_greedy(&self) -> bool {
        // Probabilities take the whole row, which a greedy round does not hand over.
        self.n_probabilities.is_none() && self.chain.is_greedy()
    }
}

fn probabilities(logits: &[f32], taken: Token, n: usize, order: &mut Vec<u32>) -> Probabilities {
    let max = logits.iter().fold(f32::NEG_INFINITY, |max, &logit| max.max(logit));
    let sum: f64 = logits.iter().map(|&logit| f64::from(logit - max).exp()).sum();
    let normaliser = f64::from(max) + sum.ln();
    let logprob = |index: u32| (f64::from(logits[index as usize]) - normaliser) as f32;
    order.clear();
    order.extend(0..logits.len() as u32);
    let by_logit = |a: &u32, b: &u32| logits[*b as usize].total_cmp(&logits[*a as usize]).then(a.cmp(b));
    let n = n.min(order.len());
    if n > 0 && n < order.len() {
        order.select_nth_unstable_by(n - 1, by_logit);
    }
    order.truncate(n);
    order.sort_unstable_by(by_logit);
    Probabilities {
        logprob: logprob(taken.0),
        top: order.iter().map(|&index| (Token(index), logprob(index))).collect(),
    }
}

/// The listening end of a job. Dropped before the end, it frees the slot within a round.
pub(super) struct Answer {
    pub(super) events: UnboundedReceiver<Event>,
    pub(super) is_running: Arc<AtomicBool>,
    /// Ends the decode call under way; the engine then goes on with whoever still listens.
    pub(super) abort: CancelFlag,
    pub(super) n_running: Arc<AtomicUsize>,
    pub(super) is_over: bool,
}

impl Answer {
    /// The next event; `None` after the last one.
    pub(super) fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Event>> {
        let event = ready!(self.events.poll_recv(context));
        self.is_over |= matches!(event, None | Some(Event::Done(_) | Event::Failed(_)));
        Poll::Ready(event)
    }

    /// The next event; `None` after the last one.
    pub(super) async fn next(&mut self) -> Option<Event> {
        poll_fn(|context| self.poll_next(context)).await
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.events.close();
        // A long prompt of which nobody wants the answer need not be read to the end of its piece, unless others share the call.
        if !self.is_over && self.is_running.load(Ordering::Relaxed) && self.n_running.load(Ordering::Relaxed) == 1 {
            self.abort.cancel();
        }
    }
}

/// When a job began to run, spoke for the first time, and must have ended.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    pub(super) begun: Instant,
    pub(super) first: Option<Instant>,
    pub(super) deadline: Option<Instant>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probabilities_are_an_exact_softmax_and_the_likeliest_come_first() {
        let logits = [1.0_f32, 3.0, f32::NEG_INFINITY, 3.0, 0.5];
        let mut order = Vec::new();
        let found = probabilities(&logits, Token(0), 3, &mut order);
        let sum: f32 = logits.iter().map(|logit| logit.exp()).sum();
        assert!((found.logprob - (1.0_f32.exp() / sum).ln()).abs() < 1e-6);
        assert_eq!(found.top.iter().map(|(token, _)| token.0).collect::<Vec<_>>(), [1, 3, 0]);
        let all = probabilities(&logits, Token(4), 99, &mut order);
        let total: f32 = all.top.iter().map(|(_, logprob)| logprob.exp()).sum();
        assert!((total - 1.0).abs() < 1e-6 && all.top.len() == 5, "{total}");
        assert!(probabilities(&logits, Token(4), 0, &mut order).top.is_empty());
    }

    #[test]
    fn places_are_limited_and_given_back() {
        let count = Arc::new(AtomicUsize::new(0));
        let first = Ticket::take(&count, 1);
        assert!(first.is_some() && Ticket::take(&count, 1).is_none());
        drop(first);
        assert!(Ticket::take(&count, 1).is_some());
    }
}
