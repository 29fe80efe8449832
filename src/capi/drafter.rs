//! What a host that decodes by itself drives: a [`Decoder`], one [`Sequence`] for each slot, and the plan of sequence ids.
//!
//! The stages are those of `round.rs`, in its order. Between them the host does what a target model does there, so that each step is a
//! call of its own here, and a call out of order is refused.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::boundary::{Answer, Failure};
use crate::batch::DraftBatch;
use crate::config::Config;
use crate::error::Error;
use crate::leaf_ids::{LeafIds, SeqOp};
use crate::model::{DraftShape, Limits};
use crate::representative::corpus::Corpus;
use crate::representative::memory::{MAX_BYTES, MemoryFile, Owner};
use crate::representative::recall::{RowScan, TopRow};
use crate::representative::store::Fingerprint;
use crate::round::{Decoder, Times, Turn};
use crate::sampling::RowSampler;
use crate::sequence::{Finish, Request, Sequence};
use crate::stats::Stats;
use crate::token::{RowId, Slot, Token};

/// Sequence ids that a host's memory may have at most: what any host can count.
const MAX_IDS: u64 = 1 << 16;
const MAX_CONTEXT: u32 = 1 << 28;

/// The host samples; the drafter only needs to know how.
struct HostSampler {
    is_greedy: bool,
}

impl RowSampler for HostSampler {
    fn sample(&mut self, _: &[f32]) -> Result<Token, Error> {
        Err(Error::usage("the host samples by itself"))
    }

    fn is_greedy(&self) -> bool {
        self.is_greedy
    }
}

struct HostSlot {
    sequence: Sequence,
    sampler: HostSampler,
    is_open: bool,
    takes_part: bool,
    /// The row to sample next.
    next: Option<RowId>,
}

/// Where a round stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    Between,
    Drafted,
    Kept,
}

struct Clock {
    begun: Instant,
    drafted: Instant,
    /// When the first row was asked for: the host has decoded then.
    decoded: Option<Instant>,
    sampled: Instant,
    kept: Instant,
}

/// What a prompt is started with, beside the [`Request`].
pub(super) struct Start {
    /// Tokens whose cells the slot's main sequence holds.
    pub(super) n_held: usize,
    /// Tokens that were learnt when an earlier prompt with the same beginning was started.
    pub(super) n_learnt: usize,
    pub(super) is_greedy: bool,
}

pub(super) struct Drafter {
    decoder: Decoder,
    limits: Limits,
    n_cells: u64,
    ids: LeafIds,
    slots: Vec<HostSlot>,
    ops: Vec<SeqOp>,
    stage: Stage,
    clock: Clock,
    memory: Option<MemoryFile>,
}

impl Drafter {
    pub(super) fn new(config: Config, limits: Limits, n_cells: u32) -> Answer<Self> {
        let positive = [
            ("vocabulary", limits.n_vocab),
            ("context of a slot", limits.n_ctx),
            ("number of cells", n_cells),
            ("number of rows in a call", limits.max_rows),
            ("number of rows with logits", limits.max_logits_rows),
            ("number of leaves", limits.max_leaves.into()),
            ("number of slots", limits.n_slots),
        ];
        if let Some((name, _)) = positive.iter().find(|(_, value)| *value == 0) {
            return Err(Failure::invalid(format!("the {name} is 0, but must be at least 1")));
        }
        let large = positive[..4].iter().find(|(_, value)| *value > MAX_CONTEXT);
        if let Some((name, value)) = large {
            return Err(Failure::invalid(format!("the {name} is {value}, but can be at most {MAX_CONTEXT}")));
        }
        let n_ids = u64::from(limits.n_slots) * u64::from(limits.max_leaves);
        if n_ids > MAX_IDS {
            let (slots, leaves) = (limits.n_slots, limits.max_leaves);
            return Err(Failure::invalid(format!(
                "{slots} slots with {leaves} leaves each need {n_ids} sequence ids, more than {MAX_IDS}: lower one of them"
            )));
        }
        if limits.shape != DraftShape::Tree && limits.max_leaves != 1 {
            return Err(Failure::invalid(format!(
                "{} leaves are asked for where the memory takes no trees: give 1",
                limits.max_leaves
            )));
        }
        let slot = |slot| HostSlot {
            sequence: Sequence::new(Slot(slot), limits.n_ctx),
            sampler: HostSampler { is_greedy: true },
            is_open: false,
            takes_part: false,
            next: None,
        };
        let now = Instant::now();
        Ok(Self {
            decoder: Decoder::new(config)?,
            limits,
            n_cells: n_cells.into(),
            ids: LeafIds::new(limits.n_slots, limits.max_leaves),
            slots: (0..limits.n_slots).map(slot).collect(),
            ops: Vec::new(),
            stage: Stage::Between,
            clock: Clock { begun: now, drafted: now, decoded: None, sampled: now, kept: now },
            memory: None,
        })
    }

    pub(super) fn n_vocab(&self) -> u32 {
        self.limits.n_vocab
    }

    pub(super) fn set_corpus(&mut self, corpus: Option<Corpus>) -> Answer {
        if let Some(corpus) = corpus.as_ref().filter(|corpus| corpus.n_vocab() > self.limits.n_vocab) {
            return Err(Failure::invalid(format!(
                "the corpus was made for a vocabulary of {} tokens, and the model has {}; make one with this model",
                corpus.n_vocab(),
                self.limits.n_vocab
            )));
        }
        self.decoder.set_corpus(corpus.map(Arc::new));
        Ok(())
    }

    /// Adds what a file holds, if there is one, and keeps its name for saving.
    pub(super) fn open_memory(&mut self, path: &str, tokenizer: Fingerprint, model: u64) -> Answer {
        self.expect(Stage::Between, "memory is opened between rounds")?;
        let owner = Owner { tokenizer, model, n_vocab: self.limits.n_vocab };
        let mut file = MemoryFile::new(path, owner, MAX_BYTES, false);
        self.memory = None;
        file.load(self.decoder.representative_mut())?;
        self.memory = Some(file);
        Ok(())
    }

    /// Saves what is known to the file that was opened.
    pub(super) fn save_memory(&mut self) -> Answer {
        self.expect(Stage::Between, "memory is saved between rounds")?;
        let file = self.memory.as_mut().ok_or_else(|| Failure::state("no memory file was opened"))?;
        file.save(self.decoder.representative_mut())?;
        Ok(())
    }

    pub(super) fn forget(&mut self) -> Answer {
        self.expect(Stage::Between, "forget between rounds")?;
        self.decoder.forget();
        Ok(())
    }

    /// Starts a sequence in a slot, and ends the one before.
    pub(super) fn begin(&mut self, slot: u32, request: &Request<'_>, start: &Start) -> Answer {
        self.expect(Stage::Between, "begin between rounds: end this one with keep and learn, or with abort")?;
        self.slot(slot)?;
        let n_tokens = request.prompt.len();
        if n_tokens == 0 {
            return Err(Failure::invalid("the prompt is empty; give at least one token"));
        }
        if n_tokens > self.limits.n_ctx as usize {
            return Err(Failure::invalid(format!(
                "the prompt has {n_tokens} tokens, and a slot holds {}; shorten it",
                self.limits.n_ctx
            )));
        }
        for (name, value) in [("held", start.n_held), ("learnt", start.n_learnt)] {
            let most = if name == "held" { n_tokens - 1 } else { n_tokens };
            if value > most {
                return Err(Failure::invalid(format!(
                    "{value} tokens are said to be {name}, but of {n_tokens} tokens at most {most} can be: the last one is decoded next"
                )));
            }
        }
        self.end(slot)?;
        let own = &mut self.slots[slot as usize];
        self.decoder.adopt(&mut own.sequence, request, start.n_held, start.n_learnt);
        own.sampler.is_greedy = start.is_greedy;
        own.is_open = true;
        self.ids.plan_adopt(Slot(slot), start.n_held as u32, &mut self.ops);
        Ok(())
    }

    /// The sequence of a slot is over; later ones may copy from it.
    pub(super) fn end(&mut self, slot: u32) -> Answer {
        self.expect(Stage::Between, "end sequences between rounds")?;
        self.slot(slot)?;
        let own = &mut self.slots[slot as usize];
        if std::mem::take(&mut own.is_open) {
            self.decoder.end(&own.sequence);
        }
        Ok(())
    }

    /// Drafts for these slots and lays out the rows; the call's rows are `max_rows` at most. Returns their number.
    pub(super) fn draft(&mut self, slots: &[u32], max_rows: u32) -> Answer<usize> {
        self.expect(Stage::Between, "a round is under way: end it with keep and learn, or with abort")?;
        if slots.is_empty() {
            return Err(Failure::invalid("no slots are given; a round needs at least one"));
        }
        for (index, &slot) in slots.iter().enumerate() {
            let own = self.slot(slot)?;
            if slots[..index].contains(&slot) {
                return Err(Failure::invalid(format!("slot {slot} is given twice")));
            }
            if !own.is_open {
                return Err(Failure::state(format!("slot {slot} has no sequence: begin one")));
            }
            if let Some(finish) = own.sequence.finish() {
                return Err(Failure::state(format!(
                    "the sequence of slot {slot} has ended ({finish:?}): begin another"
                )));
            }
        }
        let room = self.n_cells.saturating_sub(self.ids.n_cells()).min(max_rows.into());
        let room = u32::try_from(room).unwrap_or(u32::MAX);
        let limits = Limits {
            max_rows: self.limits.max_rows.min(room),
            max_logits_rows: self.limits.max_logits_rows.min(room),
            ..self.limits
        };
        if slots.len() > limits.max_logits_rows as usize {
            let text = format!(
                "{} slots need a row each, and there is room for {}: fewer slots, or a larger context",
                slots.len(),
                limits.max_logits_rows
            );
            return Err(Error::full(text).into());
        }
        for own in &mut self.slots {
            (own.takes_part, own.next) = (false, None);
        }
        for &slot in slots {
            self.slots[slot as usize].takes_part = true;
        }
        self.clock.begun = Instant::now();
        let mut turns = turns(&mut self.slots);
        self.decoder.draft(&limits, &mut turns);
        self.decoder.lay_out(&limits, &turns);
        drop(turns);
        self.ids.plan_decode(self.decoder.batch(), &mut self.ops)?;
        for own in self.slots.iter_mut().filter(|own| own.takes_part) {
            own.next = self.decoder.root(&own.sequence);
        }
        self.stage = Stage::Drafted;
        self.clock.drafted = Instant::now();
        self.clock.decoded = None;
        Ok(self.decoder.batch().len())
    }

    /// The rows of the round under way.
    pub(super) fn batch(&self) -> Answer<&DraftBatch> {
        self.expect_round()?;
        Ok(self.decoder.batch())
    }

    /// The sequence ids of a row, the one that decides what it sees first.
    pub(super) fn row_ids(&self, row: u32) -> Answer<impl Iterator<Item = u32> + use<'_>> {
        self.expect(Stage::Drafted, "rows have sequence ids from draft to keep")?;
        self.check_row(row)?;
        Ok(self.ids.ids(RowId(row)).map(|id| self.host_id(id)))
    }

    /// The orders to the memory that have not been fetched, in the host's sequence ids.
    pub(super) fn ops(&self) -> impl ExactSizeIterator<Item = SeqOp> + '_ {
        self.ops.iter().map(|op| match *op {
            SeqOp::Copy { from, to, begin, end } => {
                SeqOp::Copy { from: self.host_id(from), to: self.host_id(to), begin, end }
            }
            SeqOp::Remove { id, begin } => SeqOp::Remove { id: self.host_id(id), begin },
        })
    }

    /// The orders were fetched.
    pub(super) fn clear_ops(&mut self) {
        self.ops.clear();
    }

    /// The row of a slot to sample next, if any.
    pub(super) fn next_row(&mut self, slot: u32) -> Answer<Option<u32>> {
        self.expect_round()?;
        let next = self.taking_part(slot)?.next;
        self.mark_decoded();
        Ok(next.map(|row| row.0))
    }

    /// Takes down the best tokens of a row. What is known of a row already stays.
    pub(super) fn look(&mut self, row: u32, top: impl FnOnce(&mut RowScan) -> TopRow) -> Answer<TopRow> {
        self.expect_round()?;
        self.check_row(row)?;
        if !self.decoder.batch().row(RowId(row)).wants_logits {
            return Err(Failure::invalid(format!("row {row} asked for no logits")));
        }
        self.mark_decoded();
        Ok(self.decoder.look_at(RowId(row), top))
    }

    /// The token that was sampled at the slot's next row; returns the row after it.
    pub(super) fn accept(&mut self, slot: u32, token: Token) -> Answer<Option<u32>> {
        self.expect(Stage::Drafted, "tokens are accepted from draft to keep")?;
        let row = self.taking_part(slot)?.next.ok_or_else(|| {
            Failure::state(format!("slot {slot} has no row left to sample in this round: keep and learn end it"))
        })?;
        self.mark_decoded();
        let own = &mut self.slots[slot as usize];
        own.next = self.decoder.accept(&mut own.sequence, row, token);
        Ok(own.next.map(|row| row.0))
    }

    /// Commits the accepted paths: orders to the memory follow.
    pub(super) fn keep(&mut self) -> Answer {
        self.expect(Stage::Drafted, "keep comes once after draft")?;
        for (slot, own) in self.slots.iter().enumerate().filter(|(_, own)| own.takes_part) {
            if own.next.is_some() && own.sequence.emitted().is_empty() {
                return Err(Failure::state(format!(
                    "no token was sampled for slot {slot}: accept at least one, or end the round with abort"
                )));
            }
        }
        self.mark_decoded();
        self.clock.sampled = Instant::now();
        for own in self.slots.iter_mut().filter(|own| own.takes_part) {
            // A slot without rows: its prompt waits for room in the call.
            let Some(last) = self.decoder.last(&own.sequence) else { continue };
            self.ids.plan_keep(own.sequence.slot(), last, &mut self.ops)?;
            self.decoder.kept(&mut own.sequence, last);
        }
        self.stage = Stage::Kept;
        self.clock.kept = Instant::now();
        Ok(())
    }

    /// Ends the round: everything learns from it. `times` are the host's, if it measures by itself: the whole round and of it the
    /// sampling.
    pub(super) fn learn(&mut self, times: Option<(Duration, Duration)>) -> Answer {
        self.expect(Stage::Kept, "learn comes after keep")?;
        // The memory operations and the rows that were looked at after them belong to `learn` below.
        let mut turns = turns(&mut self.slots);
        self.decoder.learn(&mut turns);
        let clock = &self.clock;
        let decoded = clock.decoded.unwrap_or(clock.sampled);
        let times = match times {
            Some((round, sample)) => Times { decode: round.saturating_sub(sample), sample, ..Times::default() },
            None => Times {
                draft: clock.drafted - clock.begun,
                decode: decoded - clock.drafted,
                sample: clock.sampled - decoded,
                keep: clock.kept - clock.sampled,
                learn: clock.kept.elapsed(),
            },
        };
        self.decoder.measure(&mut turns, &times);
        self.stage = Stage::Between;
        Ok(())
    }

    /// The round is given up, because the host could not decode it: what the memory may hold of it is to be removed.
    pub(super) fn abort(&mut self) -> Answer {
        self.expect(Stage::Drafted, "only a round that was not kept can be given up")?;
        for own in self.slots.iter_mut().filter(|own| own.takes_part) {
            own.sequence.give_up();
            own.next = None;
            self.ids.plan_forget(own.sequence.slot(), &mut self.ops);
        }
        self.stage = Stage::Between;
        Ok(())
    }

    /// The tokens that the last round confirmed for a slot.
    pub(super) fn emitted(&self, slot: u32) -> Answer<&[Token]> {
        Ok(self.slot(slot)?.sequence.emitted())
    }

    /// Why the sequence of a slot ended, if it has.
    pub(super) fn finish(&self, slot: u32) -> Answer<Option<Finish>> {
        Ok(self.slot(slot)?.sequence.finish())
    }

    pub(super) fn stats(&self, slot: u32) -> Answer<&Stats> {
        Ok(&self.slot(slot)?.sequence.stats)
    }

    /// The host's number of a sequence id: a slot's main id is the slot's own number, and the other leaves come after all of those.
    fn host_id(&self, id: u32) -> u32 {
        let (n_slots, n_leaves) = (self.limits.n_slots, u32::from(self.limits.max_leaves));
        let (slot, leaf) = (id / n_leaves, id % n_leaves);
        if leaf == 0 { slot } else { n_slots + slot * (n_leaves - 1) + leaf - 1 }
    }

    fn mark_decoded(&mut self) {
        self.clock.decoded.get_or_insert_with(Instant::now);
    }

    fn slot(&self, slot: u32) -> Answer<&HostSlot> {
        self.slots.get(slot as usize).ok_or_else(|| {
            Failure::invalid(format!("slot {slot} does not exist: the drafter has {}", self.slots.len()))
        })
    }

    fn taking_part(&self, slot: u32) -> Answer<&HostSlot> {
        let own = self.slot(slot)?;
        if !own.takes_part {
            return Err(Failure::state(format!("slot {slot} takes no part in this round")));
        }
        Ok(own)
    }

    fn check_row(&self, row: u32) -> Answer {
        let n_rows = self.decoder.batch().len();
        if row as usize >= n_rows {
            return Err(Failure::invalid(format!("row {row} does not exist: the round has {n_rows}")));
        }
        Ok(())
    }

    fn expect(&self, stage: Stage, rule: &str) -> Answer {
        if self.stage != stage {
            return Err(Failure::state(rule));
        }
        Ok(())
    }

    fn expect_round(&self) -> Answer {
        if self.stage == Stage::Between {
            return Err(Failure::state("no round is under way: call draft"));
        }
        Ok(())
    }
}

/// The slots of the round under way.
fn turns(slots: &mut [HostSlot]) -> Vec<Turn<'_>> {
    slots
        .iter_mut()
        .filter(|own| own.takes_part)
        .map(|own| Turn { sequence: &mut own.sequence, sampler: &mut own.sampler })
        .collect()
}
