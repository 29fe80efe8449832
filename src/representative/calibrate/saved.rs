//! Shares and weights to words and back, and two processes' outcomes in one.

use super::{BUCKET_MEMORY, Bucket, Calibration, N_BUCKETS, N_INPUTS, N_KINDS, N_NAMERS, WeightSet};
use crate::representative::Source;

/// Words of a calibration.
pub(crate) const WORDS: usize = 2 * Source::COUNT * N_BUCKETS + (N_KINDS + N_NAMERS) * (N_INPUTS + 1);

/// Raised whenever buckets, kinds or weights change their meaning, so that older files' calibrations are not misread.
const MEANING: u64 = 2;

impl Calibration {
    /// Tells whether saved words mean what this version takes them for: sources, buckets and kinds.
    pub(crate) fn shape() -> u64 {
        let names = Source::ALL.iter().flat_map(|source| source.name().bytes().chain([0]));
        let sizes = [MEANING, N_BUCKETS as u64, N_KINDS as u64, N_NAMERS as u64];
        // FNV-1a.
        let step = |hash: u64, value: u64| (hash ^ value).wrapping_mul(0x0100_0000_01b3);
        names.map(u64::from).chain(sizes).fold(0xcbf2_9ce4_8422_2325, step)
    }

    pub(crate) fn to_words(&self, out: &mut Vec<u32>) {
        let buckets = self.buckets.iter().flatten().flat_map(|bucket| [bucket.share, bucket.n]);
        let weights = self.sets().flat_map(|set| set.weights.into_iter().chain([set.n_updates]));
        out.extend(buckets.chain(weights).map(f32::to_bits));
    }

    /// `None` if the words are none that [`to_words`](Self::to_words) can have written.
    pub(crate) fn from_words(words: &[u32]) -> Option<Self> {
        if words.len() != WORDS {
            return None;
        }
        let mut values = words.iter().copied().map(f32::from_bits);
        // NaN is in no range.
        let mut next = |least: f32, most: f32| values.next().filter(|value| (least..=most).contains(value));
        let mut calibration = Self::default();
        for bucket in calibration.buckets.iter_mut().flatten() {
            *bucket = Bucket { share: next(0.0, 1.0)?, n: next(0.0, BUCKET_MEMORY)? };
        }
        for set in calibration.sets_mut() {
            for weight in &mut set.weights {
                *weight = next(-1.0, 3.0)?;
            }
            set.n_updates = next(0.0, 1e6)?;
        }
        Some(calibration)
    }

    fn sets(&self) -> impl Iterator<Item = &WeightSet> {
        self.by_kind.iter().chain(&self.by_namers)
    }

    fn sets_mut(&mut self) -> impl Iterator<Item = &mut WeightSet> {
        self.by_kind.iter_mut().chain(&mut self.by_namers)
    }

    /// Adds what another process learnt. Shares and weights are averaged by the outcomes that they rest on; those that both began with
    /// count twice, which does not move an average.
    pub(crate) fn merge(&mut self, other: &Self) {
        let mean =
            |a: f32, n_a: f32, b: f32, n_b: f32| if n_a + n_b > 0.0 { (a * n_a + b * n_b) / (n_a + n_b) } else { a };
        for (bucket, other) in self.buckets.iter_mut().flatten().zip(other.buckets.iter().flatten()) {
            bucket.share = mean(bucket.share, bucket.n, other.share, other.n);
            bucket.n = bucket.n.max(other.n);
        }
        for (set, other) in self.sets_mut().zip(other.sets()) {
            for (weight, other_weight) in set.weights.iter_mut().zip(other.weights) {
                *weight = mean(*weight, set.n_updates, other_weight, other.n_updates);
            }
            set.n_updates = set.n_updates.max(other.n_updates);
        }
    }

    /// Outcomes learnt, roughly.
    pub(crate) fn n_outcomes(&self) -> f32 {
        self.by_kind.iter().map(|set| set.n_updates).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::representative::calibrate::{Proposals, level_bucket};
    use crate::token::Token;

    fn learnt(taken: f32, n: usize) -> (Calibration, Proposals) {
        let mut calibration = Calibration::default();
        let mut proposals = Proposals::new(0);
        proposals.know(Source::RecallPair);
        proposals.propose(Source::RecallPair, Token(1), level_bucket(0.5));
        (0..n).for_each(|_| calibration.learn(&proposals, |_| taken));
        (calibration, proposals)
    }

    fn words(calibration: &Calibration) -> Vec<u32> {
        let mut words = Vec::new();
        calibration.to_words(&mut words);
        words
    }

    #[test]
    fn a_calibration_comes_back_as_it_was() {
        let (calibration, _) = learnt(1.0, 50);
        let saved = words(&calibration);
        let back = Calibration::from_words(&saved).expect("written just now");
        assert_eq!(words(&back), saved);
        assert_ne!(saved, words(&Calibration::default()));
        for (index, value) in [(0, 1.5f32), (1, -1.0), (1, f32::NAN), (WORDS - 1, f32::INFINITY), (600, 4.0)] {
            let mut wrong = saved.clone();
            wrong[index] = value.to_bits();
            assert!(Calibration::from_words(&wrong).is_none(), "{index} {value}");
        }
        assert!(Calibration::from_words(&saved[1..]).is_none());
    }

    #[test]
    fn merging_averages_by_outcomes() {
        let ((mut many, proposals), (few, _)) = (learnt(1.0, 300), learnt(0.0, 30));
        let before = many.probabilities(&proposals)[0].0;
        let other = few.probabilities(&proposals)[0].0;
        many.merge(&few);
        let after = many.probabilities(&proposals)[0].0;
        assert!(after < before && after > (before + other) / 2.0, "{before} {after} {other}");
        let (mut fresh, _) = learnt(0.0, 0);
        let (learnt, _) = learnt(1.0, 400);
        let truth = learnt.probabilities(&proposals)[0].0;
        fresh.merge(&learnt);
        assert!((fresh.probabilities(&proposals)[0].0 - truth).abs() < 0.05);
    }
}
