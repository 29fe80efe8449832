//! The method. One round, for one or more sequences that share a decode call:
//!
//! ```text
//! tokens -> representative -> draft tree -> batch -> [target] -> logits rows -> acceptance -> update
//!           (predict)         (search)     (rows)    decode      (sample)       (verify)      (learn)
//! ```
//!
//! [`Decoder::round`] calls the stages in this order; no stage calls another. Where the host of a C program decodes, `capi/core.rs` calls
//! the same stages, and the host does between them what a [`TargetModel`] does here.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::{trace, trace_span};

use crate::batch::{DraftBatch, Segment};
use crate::config::{Config, DraftMode, MAX_DRAFT_ROWS, SearchKind};
use crate::draft::cost::{CostCurve, CostTable};
use crate::draft::reference::Reference;
use crate::draft::{BestFirst, Bounds, Budget, DraftTree, Governor, Mcts, Search};
use crate::error::Error;
use crate::model::{DraftShape, Limits, TargetModel};
use crate::representative::corpus::Corpus;
use crate::representative::recall::{RowScan, TopRow};
use crate::representative::{NO_TOKEN, Predict, Representative, View};
use crate::sampling::RowSampler;
use crate::sequence::{Finish, Request, Sequence};
use crate::token::{Pos, RowId, Token};
use crate::verify::walk_while;

/// A sequence that takes part in a round, with the sampler of its generation.
pub struct Turn<'a> {
    /// The sequence.
    pub sequence: &'a mut Sequence,
    /// Its sampler.
    pub sampler: &'a mut dyn RowSampler,
}

/// Everything that outlives a round: what was learnt, what rounds cost, and the reused memory.
#[derive(Debug)]
pub struct Decoder {
    config: Config,
    pub(crate) representative: Representative,
    cost: CostTable,
    governor: Governor,
    search: Box<dyn Search>,
    budget: Budget,
    batch: DraftBatch,
    scan: RowScan,
    /// The best tokens of each row of the last batch, as far as they were looked at.
    tops: Vec<Option<TopRow>>,
}

/// The time of a round, by stage.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Times {
    pub(crate) draft: Duration,
    pub(crate) decode: Duration,
    pub(crate) sample: Duration,
    pub(crate) keep: Duration,
    pub(crate) learn: Duration,
}

impl Times {
    fn sum(&self) -> Duration {
        self.draft + self.decode + self.sample + self.keep + self.learn
    }
}

impl Decoder {
    /// A decoder that has learnt nothing yet.
    ///
    /// # Errors
    /// A usage error if the configuration is out of range.
    pub fn new(config: Config) -> Result<Self, Error> {
        config.validate()?;
        Ok(Self {
            representative: Representative::new(&config.representative),
            search: search(&config, None),
            config,
            cost: CostTable::default(),
            governor: Governor::default(),
            budget: Budget::default(),
            batch: DraftBatch::new(),
            scan: RowScan::default(),
            tops: Vec::new(),
        })
    }

    /// What was learnt.
    pub fn representative(&self) -> &Representative {
        &self.representative
    }

    /// What was learnt, to add what was [saved](crate::representative::memory) before.
    pub fn representative_mut(&mut self) -> &mut Representative {
        &mut self.representative
    }

    /// Adds a frozen corpus in place of an earlier one. It must be of the target's tokenizer: compare
    /// [`Corpus::fingerprint`].
    pub fn set_corpus(&mut self, corpus: Option<Arc<Corpus>>) {
        self.representative.set_corpus(corpus.clone());
        self.search = search(&self.config, corpus);
    }

    /// Forgets everything learnt from texts; the corpus and the measured times stay.
    pub fn forget(&mut self) {
        self.representative.clear();
        self.search = search(&self.config, self.representative.corpus().cloned());
    }

    /// What rounds cost, as measured so far.
    pub fn cost(&self) -> &CostTable {
        &self.cost
    }

    /// What rounds cost, to add what was [saved](crate::draft::cost::TimesFile) before.
    pub fn cost_mut(&mut self) -> &mut CostTable {
        &mut self.cost
    }

    /// Changes when to draft, from the next round on. What was learnt and measured stays.
    pub fn set_mode(&mut self, mode: DraftMode) {
        self.config.draft.mode = mode;
    }

    /// The configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// What the representative says at the end of a sequence that is decoded greedily or not.
    pub fn view<'a>(&'a self, sequence: &'a Sequence, greedy: bool) -> View<'a> {
        View { shared: &self.representative, text: &sequence.text, last_row: &sequence.last_row, greedy }
    }

    /// Starts a sequence on a prompt of which the target's slot holds the first `n_held` tokens, less than all of them. The prompt is
    /// learnt, but for the beginning that was learnt when the slot's cells were made.
    ///
    /// Call [`end`](Self::end) when the sequence has finished.
    pub fn begin(&mut self, sequence: &mut Sequence, request: &Request<'_>, n_held: usize) {
        self.adopt(sequence, request, n_held, n_held);
    }

    /// As [`begin`](Self::begin), where the first `n_learnt` tokens were learnt before: a host that decodes prompts by itself may hold
    /// cells whose tokens nobody has learnt.
    pub(crate) fn adopt(&mut self, sequence: &mut Sequence, request: &Request<'_>, n_held: usize, n_learnt: usize) {
        sequence.begin(request, n_held.min(request.prompt.len().saturating_sub(1)));
        sequence.n_learnt = n_learnt.min(request.prompt.len());
        if self.config.draft.mode != DraftMode::Off {
            // Two tokens of context make the first new tri-gram whole.
            let from = sequence.n_learnt.saturating_sub(2);
            self.representative.overlay.learn_text(&sequence.tokens()[from..]);
        }
    }

    /// A sequence ends: later ones may copy from it.
    pub fn end(&mut self, sequence: &Sequence) {
        if self.config.draft.mode != DraftMode::Off {
            let from = sequence.n_learnt.min(sequence.tokens().len());
            self.representative.log.begin_document();
            self.representative.log.extend(&sequence.tokens()[from..]);
        }
    }

    /// One round: every sequence advances by at least one token, or by a piece of its prompt. Afterwards
    /// [`Sequence::emitted`] holds each sequence's new tokens and [`Sequence::finish`] tells whether it has ended.
    ///
    /// # Errors
    /// The target's or a sampler's. Sequences are then unchanged and their slots hold what they held, unless [`TargetModel::keep`]
    /// failed.
    pub fn round(&mut self, target: &mut dyn TargetModel, turns: &mut [Turn<'_>]) -> Result<(), Error> {
        let _span = trace_span!("round", n_sequences = turns.len()).entered();
        let limits = target.limits();
        let begun = Instant::now();
        for turn in turns.iter_mut() {
            if let Some((n_keep, n_discard)) = turn.sequence.wants_shift() {
                target.shift(turn.sequence.slot, n_keep as u32, n_discard as u32)?;
                turn.sequence.shifted(n_keep, n_discard);
            }
        }
        self.draft(&limits, turns);
        self.lay_out(&limits, turns);
        let drafted = Instant::now();
        self.decode(&limits, target, turns)?;
        let decoded = Instant::now();
        self.verify(target, turns)?;
        let sampled = Instant::now();
        self.read_rows(target, turns);
        let read = Instant::now();
        self.keep(target, turns)?;
        let kept = Instant::now();
        self.learn(turns);
        let measured = Times {
            draft: drafted - begun,
            decode: decoded - drafted,
            sample: sampled - decoded,
            keep: kept - read,
            learn: (read - sampled) + kept.elapsed(),
        };
        let reckoned =
            |ms: f32| Times { decode: Duration::try_from_secs_f32(ms * 1e-3).unwrap_or_default(), ..Times::default() };
        self.measure(turns, &target.reckoned_ms().map_or(measured, reckoned));
        Ok(())
    }

    /// Representative and search: fills each sequence's tree, within the budget that all share.
    pub(crate) fn draft(&mut self, limits: &Limits, turns: &mut [Turn<'_>]) {
        for turn in turns.iter_mut() {
            turn.sequence.tree.clear();
            turn.sequence.walk.clear();
        }
        let all_generate = turns.iter().all(|turn| turn.sequence.may_draft());
        if self.config.draft.mode == DraftMode::Off || limits.shape == DraftShape::Nothing || !all_generate {
            return;
        }
        let published = self.config.draft.search == SearchKind::Reference;
        let n_roots = turns.len();
        let max_rows = (limits.max_logits_rows as usize).min(MAX_DRAFT_ROWS);
        if n_roots >= max_rows {
            return;
        }
        let used_cells = turns.iter().map(|turn| turn.sequence.n_decoded).sum();
        let curve = match self.config.draft.budget {
            Some(nodes) => CostCurve::free((n_roots + usize::from(nodes)).min(max_rows)),
            None => self.cost.curve(used_cells, n_roots, max_rows),
        };
        let always = self.config.draft.mode == DraftMode::On;
        if !always && !published && self.config.draft.budget.is_none() && !self.governor.may_draft() {
            return;
        }
        let floor = Budget::floor(&curve, n_roots);
        for turn in turns.iter_mut() {
            let bounds = Bounds {
                max_nodes: usize::from(self.config.draft.budget.unwrap_or(u16::MAX))
                    .min((max_rows - n_roots) / if published { n_roots } else { 1 })
                    .min(turn.sequence.max_nodes()),
                max_depth: usize::from(self.config.draft.max_depth).min(turn.sequence.max_depth()) as u16,
                max_leaves: if limits.shape == DraftShape::Tree { limits.max_leaves.into() } else { 1 },
            };
            let mut tree = std::mem::take(&mut turn.sequence.tree);
            let view = view(&self.representative, turn);
            let mut wanted = |tree: &DraftTree, survival: f32| {
                let first = always && tree.is_empty();
                first || if n_roots == 1 { Budget::wanted(&curve, tree, survival) } else { survival >= floor }
            };
            self.search.search(&view, &bounds, &mut wanted, &mut tree);
            turn.sequence.tree = tree;
        }
        if published {
            // As published: a tree of fixed size, whatever its rows cost.
            return;
        }
        let least = usize::from(always);
        let single;
        let several: Vec<&[f32]>;
        let survivals: &[&[f32]] = match &*turns {
            // The usual case allocates nothing.
            [turn] => {
                single = [turn.sequence.tree.survivals()];
                &single
            }
            turns => {
                several = turns.iter().map(|turn| turn.sequence.tree.survivals()).collect();
                &several
            }
        };
        let shares = self.budget.share(&curve, survivals, least);
        for (turn, &share) in turns.iter_mut().zip(shares) {
            turn.sequence.tree.truncate(share);
        }
    }

    /// Trees to rows, and pieces of prompts as far as there is room beside them.
    pub(crate) fn lay_out(&mut self, limits: &Limits, turns: &[Turn<'_>]) {
        self.batch.clear();
        let sequences = || turns.iter().map(|turn| &*turn.sequence);
        for sequence in sequences().filter(|sequence| sequence.n_pending() == 1) {
            let root = sequence.tokens()[sequence.n_decoded];
            self.batch.push_draft(sequence.slot, Pos(sequence.n_decoded as u32), root, &sequence.tree);
        }
        for sequence in sequences().filter(|sequence| sequence.n_pending() > 1) {
            let pending = &sequence.tokens()[sequence.n_decoded..];
            let room = (limits.max_rows as usize).saturating_sub(self.batch.len());
            let piece = &pending[..pending.len().min(room)];
            let pos = Pos(sequence.n_decoded as u32);
            self.batch.push_prompt(sequence.slot, pos, piece, piece.len() == pending.len());
        }
        self.tops.clear();
        self.tops.resize(self.batch.len(), None);
    }

    /// The target computes all rows. Where it has no room for a draft, the draft goes: fragments of memory may hold the roots still.
    fn decode(&mut self, limits: &Limits, target: &mut dyn TargetModel, turns: &mut [Turn<'_>]) -> Result<(), Error> {
        let result = target.decode(&self.batch);
        let has_draft = turns.iter().any(|turn| !turn.sequence.tree.is_empty());
        if !has_draft || !result.as_ref().is_err_and(Error::is_full) {
            return result;
        }
        turns.iter_mut().for_each(|turn| turn.sequence.tree.clear());
        self.lay_out(limits, turns);
        target.decode(&self.batch)
    }

    /// Samples each visited row once and walks down as far as the draft agrees.
    fn verify(&mut self, target: &dyn TargetModel, turns: &mut [Turn<'_>]) -> Result<(), Error> {
        let (batch, scan, tops) = (&self.batch, &mut self.scan, &mut self.tops);
        let has_draft = turns.iter().any(|turn| !turn.sequence.tree.is_empty());
        for turn in turns.iter_mut() {
            let Turn { sequence, sampler } = turn;
            let Some(root) = root(batch, sequence) else { continue };
            let greedy = sampler.is_greedy();
            let end_tokens = &sequence.end_tokens;
            let doubt = sequence.doubt.filter(|_| greedy && has_draft);
            let mut is_doubtful = false;
            walk_while(
                batch,
                root,
                sequence.n_left,
                |token| end_tokens.binary_search(&token).is_ok(),
                |row| {
                    if greedy {
                        // The scan that recall needs anyway finds the largest logit; looking twice would cost a pass over the row.
                        let top = target.top(row).unwrap_or_else(|| scan.top(target.logits(row)));
                        tops[row.0 as usize] = Some(top);
                        is_doubtful = doubt.is_some_and(|noise| top.gap() < noise);
                        if is_doubtful {
                            return Ok(None);
                        }
                        if let Some(best) = top.best() {
                            return Ok(Some(best));
                        }
                    }
                    sampler.sample(target.logits(row)).map(Some)
                },
                &mut sequence.walk,
            )?;
            sequence.wants_plain = is_doubtful;
            sequence.stats.n_rechecked += u64::from(is_doubtful);
        }
        Ok(())
    }

    /// Looks through the rows that verification has not looked at: keeping may cost the target its logits.
    fn read_rows(&mut self, target: &dyn TargetModel, turns: &[Turn<'_>]) {
        if self.config.draft.mode == DraftMode::Off {
            return;
        }
        for turn in turns.iter().filter(|turn| !turn.sequence.walk.tokens.is_empty()) {
            let Some(segment) = segment(&self.batch, turn.sequence) else { continue };
            for id in segment.rows.clone().map(RowId).filter(|&id| self.batch.row(id).wants_logits) {
                let top = &mut self.tops[id.0 as usize];
                if top.is_none() {
                    *top = Some(target.top(id).unwrap_or_else(|| self.scan.top(target.logits(id))));
                }
            }
        }
    }

    /// The target commits the accepted paths.
    fn keep(&mut self, target: &mut dyn TargetModel, turns: &mut [Turn<'_>]) -> Result<(), Error> {
        for turn in turns.iter_mut() {
            if let Some(last) = self.last(turn.sequence) {
                target.keep(turn.sequence.slot, last)?;
                self.kept(turn.sequence, last);
            }
        }
        Ok(())
    }

    /// The rows of the round.
    #[cfg(feature = "capi")]
    pub(crate) fn batch(&self) -> &DraftBatch {
        &self.batch
    }

    /// The first row of a sequence that is to be sampled; none while its prompt is being read.
    #[cfg(feature = "capi")]
    pub(crate) fn root(&self, sequence: &Sequence) -> Option<RowId> {
        root(&self.batch, sequence)
    }

    /// Takes the token that the host sampled at `row` and gives the row to sample next, if the walk goes on.
    #[cfg(feature = "capi")]
    pub(crate) fn accept(&self, sequence: &mut Sequence, row: RowId, token: Token) -> Option<RowId> {
        let Sequence { walk, end_tokens, n_left, .. } = sequence;
        walk.step(&self.batch, row, token, *n_left, |token| end_tokens.binary_search(&token).is_ok())
    }

    /// What is known of a row, for whoever has the row's logits; the best token is in it.
    #[cfg(feature = "capi")]
    pub(crate) fn look_at(&mut self, row: RowId, top: impl FnOnce(&mut RowScan) -> TopRow) -> TopRow {
        *self.tops[row.0 as usize].get_or_insert_with(|| top(&mut self.scan))
    }

    /// The row whose path a sequence keeps: the end of a piece of prompt, or of the accepted path. None where nothing is kept.
    pub(crate) fn last(&self, sequence: &Sequence) -> Option<RowId> {
        let segment = segment(&self.batch, sequence)?;
        if sequence.wants_plain && sequence.walk.tokens.is_empty() {
            // The root itself is in doubt: its rows are left to be forgotten by the next call, which computes it alone.
            return None;
        }
        if sequence.n_pending() > 1 {
            return Some(RowId(segment.rows.end - 1));
        }
        Some(sequence.walk.rows.last().copied().unwrap_or(RowId(segment.rows.start)))
    }

    /// Notes that the path to `last` is committed.
    pub(crate) fn kept(&self, sequence: &mut Sequence, last: RowId) {
        sequence.n_decoded = self.batch.row(last).pos.0 as usize + 1;
    }

    /// Update: outcomes for calibration first, from what was known before this round; then rows, counts and text.
    pub(crate) fn learn(&mut self, turns: &mut [Turn<'_>]) {
        let learns = self.config.draft.mode != DraftMode::Off;
        for turn in turns.iter_mut() {
            if turn.sequence.walk.tokens.is_empty() {
                continue;
            }
            if learns {
                self.calibrate(turn);
                self.remember_rows(turn.sequence);
            }
            let sequence = &mut *turn.sequence;
            for &next in &sequence.walk.tokens {
                if learns {
                    let (previous, last) = last_two(sequence.text.tokens());
                    self.representative.overlay.learn(previous, last, next);
                }
                sequence.text.push(next);
            }
            sequence.n_left -= sequence.walk.tokens.len().min(sequence.n_left);
            let end = sequence.walk.tokens.last().is_some_and(|token| sequence.end_tokens.binary_search(token).is_ok());
            let is_full = sequence.n_left == 0 || sequence.is_full();
            sequence.finish = if end { Some(Finish::Stop) } else { is_full.then_some(Finish::Length) };
        }
    }

    /// Outcomes at all visited nodes. A copy is taken of nothing: the proposals are computed again, before anything changes.
    fn calibrate(&mut self, turn: &mut Turn<'_>) {
        let greedy = turn.sampler.is_greedy();
        let mut context = view(&self.representative, turn).root();
        for &taken in &turn.sequence.walk.tokens {
            let view = view(&self.representative, turn);
            let proposals = view.proposals(&context);
            context = view.child(&context, taken);
            let outcome = |token: Token| f32::from(u8::from(token == taken));
            self.representative.calibration_mut(greedy).learn(&proposals, outcome);
        }
    }

    /// Recall: the best tokens of every row that has logits, rejected nodes included.
    fn remember_rows(&mut self, sequence: &mut Sequence) {
        let Some(segment) = segment(&self.batch, sequence) else { return };
        // The token before the segment's first row, whose predecessor is the text itself.
        let first = self.batch.row(RowId(segment.rows.start)).pos.0 as usize;
        let before = first.checked_sub(1).map_or(NO_TOKEN, |index| sequence.text.tokens()[index]);
        for id in segment.rows.clone().map(RowId) {
            let row = self.batch.row(id);
            let Some(top) = self.tops[id.0 as usize].filter(|top| top.best().is_some()) else { continue };
            let previous = row.parent.map_or(before, |parent| self.batch.row(parent).token);
            self.representative.recall.learn(previous, row.token, &top);
        }
        if let Some(top) = sequence.walk.rows.last().and_then(|row| self.tops[row.0 as usize]) {
            sequence.last_row = top;
        }
    }

    /// Statistics, the cost table and the governor.
    pub(crate) fn measure(&mut self, turns: &mut [Turn<'_>], times: &Times) {
        let ns = |time: Duration| time.as_nanos() as u64;
        let n_sequences = turns.len().max(1) as u64;
        let (mut used_cells, mut n_tokens, mut n_drafted) = (0, 0, 0);
        let mut reads_prompt = false;
        for turn in turns.iter_mut() {
            let sequence = &mut *turn.sequence;
            used_cells += sequence.n_decoded;
            n_tokens += sequence.walk.tokens.len();
            n_drafted += sequence.tree.len();
            let first = segment(&self.batch, sequence)
                .map_or(0, |segment| self.batch.row(RowId(segment.rows.start)).pos.0 as usize);
            let stats = &mut sequence.stats;
            if first < sequence.n_prompt {
                reads_prompt = true;
                // A prompt of which one token was left may be followed by accepted nodes in the same round; a host may hold less of it
                // than it has learnt.
                stats.n_prompt =
                    (sequence.n_decoded.min(sequence.n_prompt) as u64).saturating_sub(stats.n_prompt_reused);
                stats.prompt_ns += ns(times.sum()) / n_sequences;
                continue;
            }
            stats.round_ns += ns(times.sum()) / n_sequences;
            stats.draft_ns += ns(times.draft) / n_sequences;
            stats.decode_ns += ns(times.decode) / n_sequences;
            stats.sample_ns += ns(times.sample) / n_sequences;
            stats.keep_ns += ns(times.keep) / n_sequences;
            stats.learn_ns += ns(times.learn) / n_sequences;
            sequence.count(&self.batch);
        }
        if reads_prompt {
            // Its graph is none that the next round could use.
            self.cost.interrupt();
            return;
        }
        let ms = |time: Duration| time.as_secs_f32() * 1e3;
        let (sampling_ms, round_ms) = (ms(times.sample), ms(times.sum()));
        if n_drafted == 0 {
            self.cost.observe_plain(turns.len(), used_cells, round_ms - sampling_ms, sampling_ms);
        } else {
            self.cost.observe(self.batch.len(), used_cells, round_ms - sampling_ms, n_tokens, sampling_ms);
        }
        let plain_ms = self.cost.plain_ms(turns.len(), used_cells);
        let (n_sequences, n_rows) = (turns.len(), self.batch.len());
        trace!(
            "{n_sequences} sequences of {used_cells} cells, {n_rows} rows: {n_tokens} tokens in {round_ms:.3} ms, plain {plain_ms:.3?} ms"
        );
        if n_drafted > 0
            && let Some(plain_ms) = plain_ms
        {
            // A plain round gives each sequence a token.
            let token_ms = plain_ms / turns.len() as f32 + self.cost.sample_ms();
            self.governor.observe(token_ms * n_tokens as f32, round_ms);
        }
    }
}

fn search(config: &Config, corpus: Option<Arc<Corpus>>) -> Box<dyn Search> {
    match config.draft.search {
        SearchKind::BestFirst => Box::new(BestFirst::default()),
        SearchKind::Mcts => Box::new(Mcts::new(config.draft.iterations.into())),
        SearchKind::Reference => {
            Box::new(Reference::new(corpus, config.representative.overlay_contexts, config.draft.seed))
        }
    }
}

/// The rows that a sequence has in the batch.
fn segment<'a>(batch: &'a DraftBatch, sequence: &Sequence) -> Option<&'a Segment> {
    batch.segments().iter().find(|segment| segment.slot == sequence.slot)
}

/// The first row of a sequence that is to be sampled: the root of its draft, or the last row of its prompt.
fn root(batch: &DraftBatch, sequence: &Sequence) -> Option<RowId> {
    let segment = segment(batch, sequence)?;
    let is_prompt = sequence.n_pending() > 1;
    let row = RowId(if is_prompt { segment.rows.end - 1 } else { segment.rows.start });
    batch.row(row).wants_logits.then_some(row)
}

fn view<'a>(representative: &'a Representative, turn: &'a Turn<'_>) -> View<'a> {
    View {
        shared: representative,
        text: &turn.sequence.text,
        last_row: &turn.sequence.last_row,
        greedy: turn.sampler.is_greedy(),
    }
}

/// The last two tokens of a text, [`NO_TOKEN`] where there is none.
fn last_two(tokens: &[Token]) -> (Token, Token) {
    let from_end = |n: usize| tokens.len().checked_sub(n).map_or(NO_TOKEN, |index| tokens[index]);
    (from_end(2), from_end(1))
}
