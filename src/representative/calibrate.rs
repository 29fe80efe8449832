//! Calibration: what the sources say, turned into the probability that the target takes the token.
//!
//! Each source puts a proposal into a bucket (how sure it sounds); each bucket keeps the share of its proposals that were taken. The
//! shares of all sources are mixed on the logistic scale with weights that are learnt online: those of the kind of context, plus those
//! of the set of sources that name the token. This is the mixing of context-mixing compressors (Mahoney, "Adaptive weighing of context
//! models for lossless data compression", 2005), with a candidate token in place of a bit.
//!
//! Outcomes come from *all* candidates of a visited node, drafted or not; from the drafted alone they would be biased by the search.

use crate::representative::{MAX_CANDIDATES, Source};
use crate::token::Token;

pub(crate) mod saved;

/// Buckets per source. Bucket 0 means: the source knows the context and does not name the token.
pub const N_BUCKETS: usize = 36;

/// Bucket of a source that does not know the context at all; it takes no part in the mix.
pub const UNKNOWN: u8 = u8::MAX;

/// Weight sets chosen by [`Proposals::kind`].
const N_KINDS: usize = 18;

/// Weight sets chosen by [`namers`]: one for each set of sources.
const N_NAMERS: usize = 1 << Source::COUNT;

/// What is mixed: a share of each source, and a constant.
const N_INPUTS: usize = Source::COUNT + 1;

/// After this many outcomes a bucket's share is a moving average.
const BUCKET_MEMORY: f32 = 400.0;

/// Step of the weights at the start and at the end of learning (benches/record/2026-11-30).
const STEP: (f32, f32) = (0.02, 0.004);

/// The proposals of all sources for one context, before calibration.
#[derive(Clone, Debug)]
pub struct Proposals {
    pub(crate) n: usize,
    pub(crate) tokens: [Token; MAX_CANDIDATES],
    /// Bucket of each source for each token.
    pub(crate) buckets: [[u8; Source::COUNT]; MAX_CANDIDATES],
    /// Bucket of a source for tokens that it does not name: 0 or [`UNKNOWN`].
    silent: [u8; Source::COUNT],
    /// Outcomes that the context's estimates rest on, roughly.
    pub(crate) observations: f32,
    pub(crate) depth: u16,
}

impl Proposals {
    /// No proposals yet, at a node of the given depth.
    pub fn new(depth: u16) -> Self {
        Self {
            n: 0,
            tokens: [Token(0); MAX_CANDIDATES],
            buckets: [[UNKNOWN; Source::COUNT]; MAX_CANDIDATES],
            silent: [UNKNOWN; Source::COUNT],
            observations: 0.0,
            depth,
        }
    }

    /// The source knows the context. Call before its proposals.
    pub fn know(&mut self, source: Source) {
        self.silent[source as usize] = 0;
        for buckets in &mut self.buckets[..self.n] {
            buckets[source as usize] = 0;
        }
    }

    /// The source names a token. A token beyond [`MAX_CANDIDATES`] is left out.
    pub fn propose(&mut self, source: Source, token: Token, bucket: u8) {
        let place = match self.tokens[..self.n].iter().position(|&other| other == token) {
            Some(place) => place,
            None if self.n < MAX_CANDIDATES => {
                self.tokens[self.n] = token;
                self.buckets[self.n] = self.silent;
                self.n += 1;
                self.n - 1
            }
            None => return,
        };
        self.buckets[place][source as usize] = bucket;
    }

    /// The kind of context: how long a copy is under way, what the pair is known by, root or deeper.
    fn kind(&self) -> usize {
        let named =
            |source: Source| self.buckets[..self.n].iter().map(|b| b[source as usize]).find(|&bucket| names(bucket));
        let copy = named(Source::Copy).map_or(0, |bucket| if bucket <= 2 { 1 } else { 2 });
        let recall = self.silent[Source::RecallPair as usize] == 0;
        let overlay = self.silent[Source::OverlayPair as usize] == 0;
        let pair = if recall { 2 } else { usize::from(overlay) };
        (copy * 3 + pair) * 2 + usize::from(self.depth > 0)
    }
}

#[derive(Clone, Copy, Debug)]
struct Bucket {
    share: f32,
    n: f32,
}

/// Weights of one situation.
#[derive(Clone, Copy, Debug)]
struct WeightSet {
    weights: [f32; N_INPUTS],
    n_updates: f32,
}

impl WeightSet {
    const NOTHING: Self = Self { weights: [0.0; N_INPUTS], n_updates: 0.0 };

    /// Counts an update and gives its step.
    fn step(&mut self) -> f32 {
        let step = STEP.1.max(STEP.0 / (1.0 + self.n_updates / 300.0));
        self.n_updates = (self.n_updates + 1.0).min(1e6);
        step
    }

    /// Moves the weights so that the error shrinks.
    fn learn(&mut self, step: f32, error: f32, inputs: &[f32; N_INPUTS]) {
        for (weight, input) in self.weights.iter_mut().zip(inputs) {
            *weight = (*weight + step * error * input).clamp(-1.0, 3.0);
        }
    }
}

/// Learnt shares and weights. Greedy and sampled decoding keep one each.
#[derive(Clone, Debug)]
pub struct Calibration {
    buckets: [[Bucket; N_BUCKETS]; Source::COUNT],
    by_kind: [WeightSet; N_KINDS],
    /// What the weights by kind leave to be said: who agrees with whom about a token tells more than what each says alone.
    by_namers: [WeightSet; N_NAMERS],
}

impl Default for Calibration {
    fn default() -> Self {
        let bucket = |source: usize, bucket: usize| Bucket { share: prior(Source::ALL[source], bucket as u8), n: 4.0 };
        let mut weights = [0.45; N_INPUTS];
        weights[Source::COUNT] = 0.0;
        Self {
            buckets: std::array::from_fn(|source| std::array::from_fn(|index| bucket(source, index))),
            by_kind: [WeightSet { weights, n_updates: 0.0 }; N_KINDS],
            by_namers: [WeightSet::NOTHING; N_NAMERS],
        }
    }
}

impl Calibration {
    /// The probability of each proposal and the source that is surest of it, in the order of the proposals; they sum to at most 0.99.
    pub fn probabilities(&self, proposals: &Proposals) -> [(f32, Source); MAX_CANDIDATES] {
        let kind = proposals.kind();
        let mut out = [(0.0, Source::Copy); MAX_CANDIDATES];
        let mut sum = 0.0;
        for (place, buckets) in proposals.buckets[..proposals.n].iter().enumerate() {
            let (inputs, surest) = self.inputs(buckets);
            let probability = self.mix(kind, namers(buckets), &inputs);
            sum += probability;
            out[place] = (probability, surest);
        }
        if sum > 0.99 {
            out.iter_mut().for_each(|(probability, _)| *probability *= 0.99 / sum);
        }
        out
    }

    /// Learns the outcome at a visited node: `outcome(token)` is 1 for the token that the target took and 0 for others, or the target's
    /// own probability where that is known.
    pub fn learn(&mut self, proposals: &Proposals, outcome: impl Fn(Token) -> f32) {
        let kind = proposals.kind();
        let step = self.by_kind[kind].step();
        for (&token, buckets) in proposals.tokens.iter().zip(&proposals.buckets).take(proposals.n) {
            let taken = outcome(token);
            let (inputs, _) = self.inputs(buckets);
            let namers = namers(buckets);
            let error = taken - self.mix(kind, namers, &inputs);
            self.by_kind[kind].learn(step, error, &inputs);
            let set = &mut self.by_namers[namers];
            let step = set.step();
            set.learn(step, error, &inputs);
            for (source, &bucket) in buckets.iter().enumerate() {
                if bucket != UNKNOWN {
                    let bucket = &mut self.buckets[source][usize::from(bucket)];
                    bucket.n = (bucket.n + 1.0).min(BUCKET_MEMORY);
                    bucket.share += (taken - bucket.share) / bucket.n;
                }
            }
        }
    }

    /// The probability that the inputs of a candidate make together.
    fn mix(&self, kind: usize, namers: usize, inputs: &[f32; N_INPUTS]) -> f32 {
        squash(dot(&self.by_kind[kind].weights, inputs) + dot(&self.by_namers[namers].weights, inputs))
    }

    fn inputs(&self, buckets: &[u8; Source::COUNT]) -> ([f32; N_INPUTS], Source) {
        let mut inputs = [0.0; N_INPUTS];
        inputs[Source::COUNT] = 0.3;
        let (mut surest, mut highest) = (Source::Copy, f32::NEG_INFINITY);
        for (source, &bucket) in buckets.iter().enumerate() {
            if bucket != UNKNOWN {
                inputs[source] = stretch(self.buckets[source][usize::from(bucket)].share);
                if names(bucket) && inputs[source] > highest {
                    (surest, highest) = (Source::ALL[source], inputs[source]);
                }
            }
        }
        (inputs, surest)
    }
}

/// True for the bucket of a source that names the token.
fn names(bucket: u8) -> bool {
    bucket != 0 && bucket != UNKNOWN
}

/// The sources that name a token, as a number: bit i for [`Source::ALL`]`[i]`.
fn namers(buckets: &[u8; Source::COUNT]) -> usize {
    buckets.iter().enumerate().map(|(source, &bucket)| usize::from(names(bucket)) << source).sum()
}

/// Level of a probability, 0..15, finer near both ends.
pub fn level(probability: f32) -> u8 {
    const BOUNDS: [f32; 14] = [0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 0.9, 0.95, 0.98, 0.99];
    BOUNDS.iter().filter(|&&bound| probability >= bound).count() as u8
}

/// Middle of a level of [`level`].
fn level_middle(level: u8) -> f32 {
    const MIDDLES: [f32; 15] =
        [0.003, 0.007, 0.015, 0.035, 0.07, 0.14, 0.27, 0.42, 0.57, 0.72, 0.85, 0.925, 0.965, 0.985, 0.995];
    MIDDLES[usize::from(level.min(14))]
}

/// Bucket of a match of `length` tokens: 1..=8.
pub fn copy_bucket(length: u32) -> u8 {
    match length {
        0..=2 => 1,
        3 => 2,
        4 => 3,
        5 => 4,
        6..=7 => 5,
        8..=11 => 6,
        12..=19 => 7,
        _ => 8,
    }
}

/// Bucket of a probability: 1..=15.
pub fn level_bucket(probability: f32) -> u8 {
    1 + level(probability)
}

/// Bucket of a counted successor: its share of the context's observations in eighths, by how many these are. 1..=32.
pub fn count_bucket(weight: f32, total: f32) -> u8 {
    let share = (weight / total.max(1e-6) * 8.0).ceil().clamp(1.0, 8.0) as u8 - 1;
    let seen = if total < 1.5 {
        0
    } else if total < 2.5 {
        1
    } else if total < 6.0 {
        2
    } else {
        3
    };
    1 + share * 4 + seen
}

/// What a bucket is worth before any outcome is known: a source is believed by half where it speaks of a single token, and more the
/// more it has seen. A few dozen outcomes replace these.
fn prior(source: Source, bucket: u8) -> f32 {
    if bucket == 0 {
        return 0.03;
    }
    let by_level = |trust: f32| (level_middle((bucket - 1) % 15) * trust).clamp(0.002, 0.98);
    let by_count = |trust: f32| {
        let (share, seen) = ((bucket - 1) / 4, (bucket - 1) % 4);
        let seen = [1.0, 2.0, 4.0, 12.0][usize::from(seen)];
        ((f32::from(share) + 0.7) / 8.0 * seen / (seen + 1.5) * trust).clamp(0.002, 0.98)
    };
    match source {
        Source::Copy => [0.25, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.97][usize::from(bucket - 1).min(7)],
        Source::Log => [0.15, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9][usize::from(bucket - 1).min(7)],
        Source::RecallPair => by_level(0.8),
        Source::OverlayPair => by_count(0.8),
        Source::Corpus => by_level(0.6),
        Source::RunnerUp => by_level(0.3),
        Source::RecallToken => by_level(0.5),
        Source::OverlayToken => by_count(0.4),
    }
}

fn dot(weights: &[f32; N_INPUTS], inputs: &[f32; N_INPUTS]) -> f32 {
    weights.iter().zip(inputs).map(|(weight, input)| weight * input).sum()
}

fn stretch(probability: f32) -> f32 {
    let p = probability.clamp(0.001, 0.999);
    (p / (1.0 - p)).ln()
}

fn squash(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::RngExt;
    use rand_pcg::rand_core::SeedableRng;

    /// A world in which recall tells the truth and the overlay is noise: the estimate must find that out.
    #[test]
    fn estimates_become_true() {
        let mut rng = rand_pcg::Pcg32::seed_from_u64(1);
        let mut calibration = Calibration::default();
        let mut bins = [(0.0f32, 0.0f32, 0.0f32); 10];
        for round in 0..40_000 {
            let truth: f32 = rng.random();
            let mut proposals = Proposals::new(0);
            proposals.know(Source::RecallPair);
            proposals.propose(Source::RecallPair, Token(1), level_bucket(truth));
            proposals.know(Source::OverlayPair);
            proposals.propose(Source::OverlayPair, Token(1), count_bucket(rng.random::<f32>() * 4.0, 4.0));
            let estimate = calibration.probabilities(&proposals)[0].0;
            let taken = f32::from(u8::from(rng.random::<f32>() < truth));
            if round > 20_000 {
                let bin = &mut bins[(estimate * 10.0) as usize];
                *bin = (bin.0 + estimate, bin.1 + taken, bin.2 + 1.0);
            }
            calibration.learn(&proposals, |_| taken);
        }
        for (estimate, taken, n) in bins.into_iter().filter(|bin| bin.2 > 300.0) {
            assert!((estimate / n - taken / n).abs() < 0.08, "estimated {} taken {} of {n}", estimate / n, taken / n);
        }
    }

    /// A token is taken where one source names it, or all three: no weighted sum of what they say can tell.
    #[test]
    fn who_agrees_with_whom_is_learnt() {
        const SOURCES: [Source; 3] = [Source::RecallPair, Source::OverlayPair, Source::OverlayToken];
        let mut rng = rand_pcg::Pcg32::seed_from_u64(2);
        let mut calibration = Calibration::default();
        let named_by = |namers: u32| {
            let mut proposals = Proposals::new(0);
            SOURCES.iter().for_each(|&source| proposals.know(source));
            for (place, &source) in SOURCES.iter().enumerate().filter(|(place, _)| namers >> place & 1 == 1) {
                proposals.propose(source, Token(1), 8 + place as u8);
            }
            proposals
        };
        let likely = |namers: u32| if namers.count_ones() == 2 { 0.1 } else { 0.9 };
        for _ in 0..100_000 {
            let namers = rng.random_range(1..8);
            let taken = f32::from(u8::from(rng.random::<f32>() < likely(namers)));
            calibration.learn(&named_by(namers), |_| taken);
        }
        for namers in 1..8 {
            let estimate = calibration.probabilities(&named_by(namers))[0].0;
            assert!((estimate - likely(namers)).abs() < 0.2, "named by {namers:03b}: {estimate}");
        }
    }

    #[test]
    fn siblings_sum_to_less_than_one() {
        let calibration = Calibration::default();
        let mut proposals = Proposals::new(3);
        proposals.know(Source::RecallPair);
        proposals.know(Source::Copy);
        for token in 0..40 {
            proposals.propose(Source::RecallPair, Token(token), 15);
            proposals.propose(Source::Copy, Token(token), 8);
        }
        assert_eq!(proposals.n, MAX_CANDIDATES);
        let sum: f32 = calibration.probabilities(&proposals).iter().map(|(probability, _)| probability).sum();
        assert!(sum <= 0.9901, "{sum}");
    }

    #[test]
    fn every_bucket_is_in_range() {
        for length in 0..100 {
            assert!(usize::from(copy_bucket(length)) < N_BUCKETS);
        }
        for step in 0..=1000 {
            assert!(usize::from(level_bucket(step as f32 / 1000.0)) <= 15);
            assert!(usize::from(count_bucket(step as f32 / 10.0, 100.0)) < N_BUCKETS);
        }
        assert!(usize::from(count_bucket(0.0, 0.0)) < N_BUCKETS);
    }
}
