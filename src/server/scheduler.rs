//! The engine thread: one loop that admits jobs to slots and runs rounds, in which all busy slots share one decode call.

use std::collections::VecDeque;
use std::mem;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvError, Sender, TryRecvError};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Instant;

use aded::config::DraftMode;
use aded::llama::{Model, SamplingParams, Target};
use aded::model::{DraftShape, Limits, TargetModel as _};
use aded::round::{Decoder, Turn};
use aded::{CancelFlag, Error, Finish, Sequence, Slot, Token};
use serde_json::Value;
use tracing::{info, warn};

use super::job::{Event, Job, Round};
use super::metrics::Metrics;
use super::slots::{After, SlotState};

use crate::app::memory::Memory;

/// An order to the engine thread.
pub(super) enum Command {
    /// Answer a request.
    Answer(Box<Job>),
    /// End, whatever runs.
    Stop,
}

/// What is known once the model is loaded.
pub(super) struct Ready {
    pub(super) model: Arc<Model>,
    /// The chat template in use.
    pub(super) template: Option<String>,
    pub(super) limits: Limits,
    /// The defaults of requests.
    pub(super) sampling: SamplingParams,
    /// The name of the model in answers.
    pub(super) alias: String,
    /// Drafts are possible at all.
    pub(super) drafts: bool,
}

/// What both sides look at.
#[derive(Default)]
pub(super) struct Shared {
    pub(super) ready: OnceLock<Ready>,
    /// Requests that wait or run.
    pub(super) n_requests: Arc<AtomicUsize>,
    pub(super) n_running: Arc<AtomicUsize>,
    pub(super) n_jobs: AtomicUsize,
    /// Ends the decode call under way.
    pub(super) abort: CancelFlag,
    pub(super) is_stopping: AtomicBool,
    slots: Mutex<Vec<Value>>,
    metrics: Mutex<Metrics>,
}

impl Shared {
    /// The last view of all slots.
    pub(super) fn slots(&self) -> Vec<Value> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Looks at the counters, or changes them.
    pub(super) fn metrics<R>(&self, look: impl FnOnce(&mut Metrics) -> R) -> R {
        look(&mut self.metrics.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The sending end of the engine thread's orders.
#[derive(Clone)]
pub(super) struct Handle(pub(super) Sender<Command>);

impl Handle {
    /// Gives an order.
    ///
    /// # Errors
    /// If the engine thread has ended.
    pub(super) fn send(&self, command: Command) -> Result<(), Error> {
        self.0.send(command).map_err(|_| Error::target("the engine has stopped"))
    }
}

/// What the engine works with.
pub(super) struct Loaded {
    pub(super) target: Target,
    pub(super) decoder: Decoder,
    pub(super) memory: Memory,
    /// For exact greedy decoding: see [`Sequence::set_exact`].
    pub(super) noise: Option<f32>,
    /// For shifts of a full context: see [`Sequence::set_context_shift`].
    pub(super) n_keep: Option<usize>,
}

/// The engine.
pub(super) struct Engine {
    target: Target,
    decoder: Decoder,
    /// What earlier processes learnt, and where this one's knowledge goes.
    memory: Memory,
    model: Arc<Model>,
    end_tokens: Vec<Token>,
    slots: Vec<SlotState>,
    queue: VecDeque<Box<Job>>,
    shared: Arc<Shared>,
    commands: Receiver<Command>,
    n_uses: u64,
}

impl Engine {
    pub(super) fn new(loaded: Loaded, shared: Arc<Shared>, commands: Receiver<Command>) -> Self {
        let Loaded { mut target, decoder, memory, noise, n_keep } = loaded;
        target.set_cancel_flag(shared.abort.clone());
        let limits = target.limits();
        let model = target.model().clone();
        let slots = (0..limits.n_slots).map(|slot| {
            let mut sequence = Sequence::new(Slot(slot), limits.n_ctx);
            sequence.set_exact(noise);
            sequence.set_context_shift(n_keep);
            SlotState::new(sequence)
        });
        let slots = slots.collect();
        let end_tokens = model.end_tokens();
        Self { target, decoder, memory, model, end_tokens, slots, queue: VecDeque::new(), shared, commands, n_uses: 0 }
    }

    /// Answers until it is told to stop, or nobody is left who could ask.
    pub(super) fn run(&mut self) {
        while self.admit() {
            self.release();
            self.publish();
            if self.slots.iter().any(|slot| !slot.is_free()) {
                self.round();
            }
        }
        for slot in &mut self.slots {
            if let Some(running) = &slot.running {
                let _ = running.job.events.send(Event::Failed(Error::cancelled()));
            }
        }
        self.memory.close(&mut self.decoder);
    }

    /// Takes orders, waiting for one only if there is nothing else to do, and gives free slots to waiting jobs in order of arrival.
    /// False if it is time to stop.
    fn admit(&mut self) -> bool {
        loop {
            let is_idle = self.queue.is_empty() && self.slots.iter().all(SlotState::is_free);
            let command = if is_idle {
                self.publish();
                self.commands.recv().map_err(|RecvError| TryRecvError::Disconnected)
            } else {
                self.commands.try_recv()
            };
            match command {
                Ok(Command::Answer(job)) => self.queue.push_back(job),
                Ok(Command::Stop) | Err(TryRecvError::Disconnected) => return false,
                Err(TryRecvError::Empty) => break,
            }
        }
        self.queue.retain(|job| !job.is_abandoned());
        let mut waiting = mem::take(&mut self.queue);
        while let Some(job) = waiting.pop_front() {
            match self.choose(&job) {
                Some(slot) => self.begin(*job, slot),
                None => self.queue.push_back(job),
            }
        }
        true
    }

    /// The free slot that holds most of the prompt; of those that hold equally much the one that rested longest.
    fn choose(&self, job: &Job) -> Option<usize> {
        let free = self.slots.iter().enumerate().filter(|(_, slot)| slot.is_free());
        match job.slot {
            Some(wanted) => free.map(|(index, _)| index).find(|&index| index == wanted as usize),
            None => free
                .max_by_key(|(_, slot)| {
                    // A beginning that any two prompts share (a begin token, a template's opening) is no reason to overwrite a text.
                    let n_common = slot.n_common(&job.prompt);
                    (if n_common * 4 >= job.prompt.len() { n_common } else { 0 }, u64::MAX - slot.last_use)
                })
                .map(|(index, _)| index),
        }
    }

    fn begin(&mut self, job: Job, index: usize) {
        let slot = &mut self.slots[index];
        // The last token is decoded in any case: its logits are needed.
        let n_common = if job.cache_prompt { slot.n_common(&job.prompt) } else { 0 };
        let mut n_held = n_common.min(job.prompt.len() - 1);
        let id = Slot(index as u32);
        if self.target.truncate(id, n_held as u32).is_err() {
            n_held = 0;
            if let Err(error) = self.target.truncate(id, 0) {
                slot.is_unclean = true;
                let _ = job.events.send(Event::Failed(error));
                return;
            }
        }
        self.n_uses += 1;
        slot.last_use = self.n_uses;
        info!("request {}: slot {index}, {} prompt tokens, {n_held} of them held", job.id, job.prompt.len());
        slot.begin(job, n_held, &mut self.decoder, &self.model, &self.end_tokens);
        self.count_running();
        // An answer of no tokens is complete before it has begun.
        if let Some(finish) = self.slots[index].sequence.finish() {
            let after = self.slots[index].end(finish, Round::default());
            self.ended(index, after);
        }
    }

    /// Ends the jobs whose client has gone or whose time is up.
    fn release(&mut self) {
        let now = Instant::now();
        for index in 0..self.slots.len() {
            let slot = &mut self.slots[index];
            let Some(running) = &slot.running else { continue };
            let after = if running.job.is_abandoned() {
                slot.leave()
            } else if running.clock.deadline.is_some_and(|deadline| now >= deadline) {
                slot.end(Finish::Length, Round::default())
            } else {
                continue;
            };
            self.ended(index, after);
        }
    }

    /// One decode call for all busy slots.
    fn round(&mut self) {
        let begun = Instant::now();
        let mut busy: Vec<&mut SlotState> = self.slots.iter_mut().filter(|slot| !slot.is_free()).collect();
        // Prompts are read in order of arrival.
        busy.sort_by_key(|slot| slot.running.as_ref().map(|running| running.job.id));
        let mut turns: Vec<Turn<'_>> = busy
            .into_iter()
            .filter_map(|slot| {
                let sampler = &mut slot.running.as_mut()?.job.sampler;
                Some(Turn { sequence: &mut slot.sequence, sampler })
            })
            .collect();
        let n_turns = turns.len();
        let result = self.decoder.round(&mut self.target, &mut turns);
        let used_cells = turns.iter().map(|turn| turn.sequence.n_decoded()).sum();
        drop(turns);
        let ms = begun.elapsed().as_secs_f64() * 1e3;
        match result {
            Ok(()) => {
                let cost = self.decoder.cost();
                let plain_ms = cost
                    .plain_ms(n_turns, used_cells)
                    .map(|plain_ms| f64::from(plain_ms) + n_turns as f64 * f64::from(cost.sample_ms()));
                self.shared.metrics(|metrics| metrics.count_round(n_turns));
                for index in 0..self.slots.len() {
                    let after = self.slots[index].take_round(&self.model, ms, plain_ms);
                    self.ended(index, after);
                }
            }
            // Somebody left in the middle of a call; the others' slots hold what they held, and the call is made again.
            Err(error) if error.is_cancelled() => self.shared.abort.reset(),
            Err(error) => self.fail(&error),
        }
    }

    /// A call that failed for all: nobody knows whose rows it failed for.
    fn fail(&mut self, error: &Error) {
        warn!("a decode call failed: {error}");
        for index in 0..self.slots.len() {
            let slot = &mut self.slots[index];
            if let Some(running) = &slot.running {
                let _ = running.job.events.send(Event::Failed(Error::target(error.to_string())));
                slot.is_unclean = true;
                let after = slot.leave();
                self.ended(index, after);
            }
        }
    }

    fn ended(&mut self, index: usize, after: After) {
        let After::Ended(ended) = after else { return };
        let slot = &self.slots[index];
        self.decoder.end(&slot.sequence);
        self.count_running();
        self.shared.metrics(|metrics| metrics.count_answer(&slot.sequence.stats, &ended.timings));
        // Saving takes a moment, so that it waits for the end of an answer.
        self.memory.tick(&mut self.decoder);
        info!("request {}: over, {} tokens, {}", ended.job.id, ended.timings.predicted_n, slot.sequence.stats);
    }

    fn count_running(&self) {
        let n_running = self.slots.iter().filter(|slot| !slot.is_free()).count();
        self.shared.n_running.store(n_running, Ordering::Relaxed);
    }

    /// Shows the slots as they are.
    pub(super) fn publish(&self) {
        let limits = self.target.limits();
        let drafts = self.drafts();
        let views = self.slots.iter().map(|slot| slot.view(limits.n_ctx, drafts)).collect();
        *self.shared.slots.lock().unwrap_or_else(PoisonError::into_inner) = views;
    }

    /// Drafts are possible at all.
    pub(super) fn drafts(&self) -> bool {
        self.decoder.config().draft.mode != DraftMode::Off && self.target.limits().shape != DraftShape::Nothing
    }
}
