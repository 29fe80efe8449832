//! All sources together, as one sequence sees them.

use std::hint::black_box;
use std::sync::Arc;

use crate::config::RepresentativeConfig;
use crate::representative::calibrate::{Calibration, Proposals, copy_bucket, count_bucket, level_bucket};
use crate::representative::copy::CopyIndex;
use crate::representative::corpus::Corpus;
use crate::representative::overlay::{ONE, Overlay};
use crate::representative::recall::{Recall, TopRow};
use crate::representative::rows::{Row, pair_key, token_key};
use crate::representative::{Candidate, Context, MAX_CANDIDATES, Predict, Source, Successors};
use crate::token::Token;

/// What a process has learnt, shared by all its sequences.
#[derive(Clone, Debug)]
pub struct Representative {
    corpus: Option<Arc<Corpus>>,
    pub(crate) overlay: Overlay,
    pub(crate) recall: Recall,
    pub(crate) log: CopyIndex,
    calibrations: [Calibration; 2],
    enabled: [bool; Source::COUNT],
}

impl Representative {
    /// An empty representative with tables of the configured sizes.
    pub fn new(config: &RepresentativeConfig) -> Self {
        Self {
            corpus: None,
            overlay: Overlay::new(config.overlay_contexts),
            recall: Recall::new(config.recall_contexts),
            log: CopyIndex::new(config.log_tokens),
            calibrations: [Calibration::default(), Calibration::default()],
            enabled: Source::ALL.map(|source| !config.without.contains(&source)),
        }
    }

    /// Adds a frozen corpus in place of an earlier one. It must be of the target's tokenizer: compare
    /// [`Corpus::fingerprint`].
    pub(crate) fn set_corpus(&mut self, corpus: Option<Arc<Corpus>>) {
        self.corpus = corpus;
    }

    /// The frozen corpus, if there is one.
    pub fn corpus(&self) -> Option<&Arc<Corpus>> {
        self.corpus.as_ref()
    }

    /// What was said, counted.
    pub fn overlay(&self) -> &Overlay {
        &self.overlay
    }

    /// True if nothing was learnt since it was made or cleared.
    pub(crate) fn is_blank(&self) -> bool {
        self.overlay.table().is_unused()
            && self.recall.table().is_unused()
            && self.log.tokens().is_empty()
            && self.calibrations.iter().all(|calibration| calibration.n_outcomes() == 0.0)
    }

    /// Forgets everything learnt; a corpus stays.
    pub fn clear(&mut self) {
        self.overlay.clear();
        self.recall.clear();
        self.log.clear();
        self.calibrations = [Calibration::default(), Calibration::default()];
    }

    /// Bytes held by the learnt tables; a corpus counts itself.
    pub fn memory_bytes(&self) -> usize {
        self.overlay.table().memory_bytes() + self.recall.table().memory_bytes() + self.log.memory_bytes()
    }

    /// The estimates' bookkeeping for sampled and for greedy decoding.
    pub(crate) fn calibrations(&self) -> &[Calibration; 2] {
        &self.calibrations
    }

    /// The estimates' bookkeeping for sampled and for greedy decoding.
    pub(crate) fn calibrations_mut(&mut self) -> &mut [Calibration; 2] {
        &mut self.calibrations
    }

    /// The estimates' bookkeeping for greedy or sampled decoding.
    pub(crate) fn calibration_mut(&mut self, greedy: bool) -> &mut Calibration {
        &mut self.calibrations[usize::from(greedy)]
    }

    fn enabled(&self, source: Source) -> bool {
        self.enabled[source as usize]
    }
}

/// The representative from one sequence's end.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// What all sequences have learnt.
    pub shared: &'a Representative,
    /// The sequence's own text.
    pub text: &'a CopyIndex,
    /// The row from which the sequence's last token was sampled.
    pub last_row: &'a TopRow,
    /// True if the sequence is decoded greedily.
    pub greedy: bool,
}

impl View<'_> {
    /// What the sources say about a context, before calibration.
    pub fn proposals(&self, context: &Context) -> Proposals {
        let mut proposals = Proposals::new(context.depth);
        let (shared, out) = (self.shared, &mut proposals);
        let (recall, overlay) = (shared.recall.table(), shared.overlay.table());
        let (pair, token) = (pair_key(context.previous, context.last), token_key(context.last));
        // All are looked for before the first is used, and not when the compiler thinks fit: four waits for the memory become one.
        let [recall_pair, overlay_pair, recall_token, overlay_token] =
            black_box([recall.place(pair), overlay.place(pair), recall.place(token), overlay.place(token)]);
        if shared.enabled(Source::Copy) {
            copy(self.text, context.copy, Source::Copy, out);
        }
        if shared.enabled(Source::Log) {
            copy(&shared.log, context.log, Source::Log, out);
        }
        if shared.enabled(Source::RecallPair) {
            recalled(recall.row(recall_pair), Source::RecallPair, out);
        }
        if shared.enabled(Source::OverlayPair) {
            counted(overlay.row(overlay_pair), Source::OverlayPair, out);
        }
        if shared.enabled(Source::Corpus)
            && let Some(corpus) = &shared.corpus
        {
            from_corpus(corpus, context, out);
        }
        if shared.enabled(Source::RunnerUp) && context.depth == 0 {
            out.know(Source::RunnerUp);
            for (&token, &probability) in self.last_row.tokens.iter().zip(&self.last_row.probabilities).take(5) {
                if token != context.last && probability > 0.01 {
                    out.propose(Source::RunnerUp, token, level_bucket(probability));
                }
            }
        }
        if shared.enabled(Source::RecallToken) {
            recalled(recall.row(recall_token), Source::RecallToken, out);
        }
        if shared.enabled(Source::OverlayToken) {
            counted(overlay.row(overlay_token), Source::OverlayToken, out);
        }
        proposals
    }
}

impl Predict for View<'_> {
    fn text(&self) -> &[Token] {
        self.text.tokens()
    }

    fn root(&self) -> Context {
        let tokens = self.text.tokens();
        let from_end =
            |n: usize| tokens.len().checked_sub(n).map_or(crate::representative::NO_TOKEN, |index| tokens[index]);
        Context {
            previous: from_end(2),
            last: from_end(1),
            copy: self.text.own_end(),
            log: self.shared.log.find(&tokens[tokens.len().saturating_sub(crate::representative::copy::MAX_MATCH)..]),
            depth: 0,
        }
    }

    fn child(&self, parent: &Context, token: Token) -> Context {
        Context {
            previous: parent.last,
            last: token,
            copy: self.text.follow(parent.copy, parent.last, token),
            log: self.shared.log.follow(parent.log, parent.last, token),
            depth: parent.depth + 1,
        }
    }

    fn successors(&self, context: &Context, out: &mut Successors) {
        out.candidates.clear();
        let proposals = self.proposals(context);
        let probabilities = self.shared.calibrations[usize::from(self.greedy)].probabilities(&proposals);
        let observations = proposals.observations;
        out.candidates.extend(
            probabilities
                .iter()
                .zip(&proposals.tokens)
                .take(proposals.n.min(MAX_CANDIDATES))
                .map(|(&(probability, source), &token)| Candidate { token, probability, observations, source }),
        );
        out.candidates.sort_unstable_by(|a, b| b.probability.total_cmp(&a.probability).then(a.token.cmp(&b.token)));
    }
}

fn copy(text: &CopyIndex, cursor: crate::representative::copy::Cursor, source: Source, out: &mut Proposals) {
    if let Some(token) = text.guess(cursor) {
        out.know(source);
        out.propose(source, token, copy_bucket(cursor.length));
    }
}

fn recalled(row: Option<&Row>, source: Source, out: &mut Proposals) {
    if let Some(row) = row {
        out.know(source);
        out.observations += 4.0;
        for (token, weight) in row.iter() {
            let probability = f32::from(weight) / f32::from(u16::MAX);
            if probability > 0.002 {
                out.propose(source, token, level_bucket(probability));
            }
        }
    }
}

fn counted(row: Option<&Row>, source: Source, out: &mut Proposals) {
    if let Some(row) = row {
        let one = f32::from(ONE);
        let total = row.total as f32 / one;
        out.know(source);
        out.observations += total;
        for (token, weight) in row.iter() {
            if weight > 0 {
                out.propose(source, token, count_bucket(f32::from(weight) / one, total));
            }
        }
    }
}

/// The pair's successors, or those of the last token alone where the pair is not in the corpus.
fn from_corpus(corpus: &Corpus, context: &Context, out: &mut Proposals) {
    const WIDTH: usize = 8;
    let pair = corpus.successors3(context.previous, context.last);
    let backed_off = pair.is_empty();
    let row = if backed_off { corpus.successors2(context.last) } else { pair };
    if row.is_empty() {
        return;
    }
    out.know(Source::Corpus);
    for (token, probability) in row.take(WIDTH) {
        let bucket = level_bucket(probability) + if backed_off { 15 } else { 0 };
        out.propose(Source::Corpus, token, bucket);
    }
}
