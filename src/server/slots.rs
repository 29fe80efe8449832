//! A slot: a sequence of the shared memory, and the job that runs in it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use aded::llama::Model;
use aded::llama::text::Detokenizer;
use aded::round::Decoder;
use aded::{Finish, Request, Sequence, Token};
use serde_json::{Value, json};

use super::job::{Clock, Event, Job, Outcome, Piece, Progress, Round, Timings};
use crate::app::output::StopFilter;

/// One of the sequences that are decoded side by side.
pub(super) struct SlotState {
    pub(super) sequence: Sequence,
    pub(super) running: Option<Running>,
    /// The memory may hold something else than the sequence says.
    pub(super) is_unclean: bool,
    /// Counts up with each use.
    pub(super) last_use: u64,
}

/// A job in its slot.
pub(super) struct Running {
    pub(super) job: Job,
    pub(super) clock: Clock,
    detokenizer: Detokenizer,
    stops: StopFilter,
    n_tokens: u64,
    /// Milliseconds of rounds, and what plain decoding would have taken for their tokens; those of which the latter is known.
    compared_ms: (f64, f64),
    characters: String,
}

impl Running {
    pub(super) fn new(job: Job, model: &Arc<Model>) -> Self {
        let begun = Instant::now();
        let clock = Clock { begun, first: None, deadline: job.time_limit.map(|limit| begun + limit) };
        Self {
            detokenizer: Detokenizer::new(model.clone(), job.special),
            stops: StopFilter::new(job.stops.iter().cloned()),
            clock,
            n_tokens: 0,
            compared_ms: (0.0, 0.0),
            characters: String::new(),
            job,
        }
    }
}

/// How a job left its slot, if it has.
pub(super) enum After {
    Goes,
    Ended(Box<Ended>),
}

/// What remains of a job.
pub(super) struct Ended {
    pub(super) job: Job,
    pub(super) timings: Timings,
}

impl SlotState {
    pub(super) fn new(sequence: Sequence) -> Self {
        Self { sequence, running: None, is_unclean: true, last_use: 0 }
    }

    /// Tokens of the prompt that the slot holds already.
    pub(super) fn n_common(&self, prompt: &[Token]) -> usize {
        if self.is_unclean { 0 } else { self.sequence.n_common(prompt) }
    }

    /// Takes the tokens of the round just done, `ms` of wall time, and hands them out. `plain_ms` is what a plain round of as many
    /// sequences takes.
    pub(super) fn take_round(&mut self, model: &Model, ms: f64, plain_ms: Option<f64>) -> After {
        let Some(running) = &mut self.running else { return After::Goes };
        if let Some(error) = running.job.sampler.take_error() {
            let _ = running.job.events.send(Event::Failed(error));
            return self.leave();
        }
        let emitted = self.sequence.emitted();
        if emitted.is_empty() {
            if running.job.wants_progress && running.clock.first.is_none() {
                let _ = running.job.events.send(Event::Progress(progress(&self.sequence, &running.clock)));
            }
            return After::Goes;
        }
        if running.clock.first.is_none() {
            running.clock.first = Some(Instant::now());
            if running.job.wants_progress {
                let _ = running.job.events.send(Event::Progress(progress(&self.sequence, &running.clock)));
            }
        } else if let Some(plain_ms) = plain_ms {
            running.compared_ms.0 += ms;
            running.compared_ms.1 += plain_ms * emitted.len() as f64;
        }
        let mut round = Round { n_drafted: self.sequence.draft().len(), ..Round::default() };
        let mut probabilities = running.job.sampler.take_probabilities();
        let mut is_stopped = false;
        for (index, &token) in emitted.iter().enumerate() {
            running.n_tokens += 1;
            running.characters.clear();
            // The name of a token that ends the answer is no part of it, even where control tokens are named.
            let failed = (!model.is_end(token) || running.job.ignore_end)
                .then(|| running.detokenizer.push(token, &mut running.characters))
                .and_then(Result::err);
            debug_assert!(failed.is_none(), "the token came from this vocabulary: {failed:?}");
            let mut text = String::new();
            is_stopped = running.stops.push(&running.characters, &mut text);
            let is_drafted = index + 1 < emitted.len();
            round.pieces.push(Piece { token: Some(token), text, is_drafted, probabilities: probabilities.next() });
            if is_stopped {
                break;
            }
        }
        drop(probabilities);
        let finish = if is_stopped { Some(Finish::Stop) } else { self.sequence.finish() };
        if running.job.wants_timings {
            round.timings = self.timings();
        }
        match finish {
            None => {
                if let Some(running) = &self.running {
                    let _ = running.job.events.send(Event::Round(round));
                }
                After::Goes
            }
            Some(finish) => self.end(finish, round),
        }
    }

    /// Ends the job with a last round, the text that was held back, and the outcome.
    pub(super) fn end(&mut self, finish: Finish, mut round: Round) -> After {
        let timings = self.timings();
        let Some(running) = &mut self.running else { return After::Goes };
        let stop = running.stops.found().map(str::to_owned);
        if stop.is_none() {
            running.characters.clear();
            running.detokenizer.flush(&mut running.characters);
            let mut text = String::new();
            if !running.stops.push(&running.characters, &mut text) {
                running.stops.finish(&mut text);
            }
            if !text.is_empty() {
                round.pieces.push(Piece { token: None, text, is_drafted: false, probabilities: None });
            }
        }
        let events = &running.job.events;
        let _ = events.send(Event::Round(round));
        let outcome =
            Outcome { finish, stop, slot: self.sequence.slot().0, timings: timings.clone().unwrap_or_default() };
        let _ = events.send(Event::Done(Box::new(outcome)));
        self.leave()
    }

    /// Takes the job out of the slot.
    pub(super) fn leave(&mut self) -> After {
        let timings = self.timings().unwrap_or_default();
        match self.running.take() {
            Some(running) => After::Ended(Box::new(Ended { job: running.job, timings })),
            None => After::Goes,
        }
    }

    fn timings(&self) -> Option<Timings> {
        let running = self.running.as_ref()?;
        let now = Instant::now();
        let first = running.clock.first.unwrap_or(now);
        let (compared, plain) = running.compared_ms;
        let speed_up = (compared > 0.0 && plain > 0.0).then(|| plain / compared);
        let (prompt, predicted) = (first - running.clock.begun, now - first);
        Some(Timings::new(&self.sequence.stats, running.n_tokens, prompt, predicted, speed_up))
    }

    /// What `/slots` says of it. Prompts and answers are nobody's business but the client's.
    pub(super) fn view(&self, n_ctx: u32, drafts: bool) -> Value {
        let slot = self.sequence.slot().0;
        let n_held = self.sequence.reusable().len();
        let running = self.running.as_ref();
        let timings = self.timings();
        json!({
            "id": slot,
            "id_task": running.map_or(-1, |running| running.job.id as i64),
            "n_ctx": n_ctx,
            "speculative": drafts && running.is_none_or(|running| running.job.draft_limit != Some(0)),
            "is_processing": running.is_some(),
            "n_cached": if self.is_unclean { 0 } else { n_held },
            "next_token": {
                "has_next_token": running.is_some(),
                "n_decoded": running.map_or(0, |running| running.n_tokens),
            },
            "timings": timings,
        })
    }

    /// Begins the job in this slot, of which the memory holds the first `n_held` tokens.
    pub(super) fn begin(&mut self, job: Job, n_held: usize, decoder: &mut Decoder, model: &Arc<Model>, end: &[Token]) {
        let end_tokens = if job.ignore_end { &[] } else { end };
        let request = Request { prompt: &job.prompt, n_max: job.n_max, end_tokens };
        decoder.begin(&mut self.sequence, &request, n_held);
        if let Some(limit) = job.draft_limit {
            self.sequence.set_draft_limit(limit);
        }
        self.is_unclean = false;
        job.is_running.store(true, Ordering::Relaxed);
        self.running = Some(Running::new(job, model));
    }

    /// No job runs in it.
    pub(super) fn is_free(&self) -> bool {
        self.running.is_none()
    }
}

fn progress(sequence: &Sequence, clock: &Clock) -> Progress {
    let cache = sequence.stats.n_prompt_reused as usize;
    Progress {
        total: cache.max(sequence.tokens().len() - sequence.emitted().len()),
        cache,
        processed: sequence.n_decoded(),
        time_ms: clock.begun.elapsed().as_secs_f64() * 1e3,
    }
}
