//! The arithmetic of a comparison: pooled rates, paired bootstrap, medians, and what counts as repetitive.

use std::collections::HashSet;

use aded::Token;
use rand::RngExt as _;
use rand_pcg::Pcg32;
use rand_pcg::rand_core::SeedableRng as _;

/// Resamples of the bootstrap; the ends of a 95 % interval then rest on some fifty of them.
const N_RESAMPLES: usize = 2000;

/// Tokens and the time they took.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Yield {
    pub(crate) tokens: u64,
    pub(crate) ns: u64,
}

impl Yield {
    pub(crate) fn add(&mut self, other: Self) {
        self.tokens += other.tokens;
        self.ns += other.ns;
    }

    /// Tokens per second; 0 without any time.
    pub(crate) fn per_second(self) -> f64 {
        if self.ns == 0 { 0.0 } else { self.tokens as f64 * 1e9 / self.ns as f64 }
    }
}

/// What two arms did with one question.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Pair {
    pub(crate) base: Yield,
    pub(crate) tried: Yield,
}

/// A ratio of pooled rates with its 95 % interval.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Ratio {
    pub(crate) value: f64,
    pub(crate) low: f64,
    pub(crate) high: f64,
}

impl Ratio {
    /// True if the interval does not tell faster from slower.
    pub(crate) fn spans_one(self) -> bool {
        self.low <= 1.0 && 1.0 <= self.high
    }
}

/// The pooled speed-up of `tried` over `base`, and its interval by a bootstrap over questions: both arms of a question are drawn
/// together, so what makes a question slow for both does not widen it. `None` if an arm has no time.
pub(crate) fn speedup(pairs: &[Pair]) -> Option<Ratio> {
    let value = ratio(pairs.iter())?;
    let mut rng = Pcg32::seed_from_u64(pairs.len() as u64);
    let mut resamples: Vec<f64> = (0..N_RESAMPLES)
        .filter_map(|_| ratio((0..pairs.len()).map(|_| &pairs[rng.random_range(0..pairs.len())])))
        .collect();
    resamples.sort_unstable_by(f64::total_cmp);
    let at = |share: f64| resamples.get((share * (resamples.len() as f64 - 1.0)).round() as usize).copied();
    Some(Ratio { value, low: at(0.025).unwrap_or(value), high: at(0.975).unwrap_or(value) })
}

fn ratio<'a>(pairs: impl Iterator<Item = &'a Pair>) -> Option<f64> {
    let (mut base, mut tried) = (Yield::default(), Yield::default());
    for pair in pairs {
        base.add(pair.base);
        tried.add(pair.tried);
    }
    let ratio = tried.per_second() / base.per_second();
    (ratio.is_finite() && ratio > 0.0).then_some(ratio)
}

/// The median; 0 of nothing.
pub(crate) fn median(values: &mut [f64]) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => 0.0,
        n if n % 2 == 1 => values[middle],
        _ => f64::midpoint(values[middle - 1], values[middle]),
    }
}

/// Length of the pieces that are looked for.
const GRAM: usize = 8;

/// An output is repetitive if more than this share of its 8-grams occur before in it.
const REPETITIVE: f64 = 0.2;

/// True if an output repeats itself: every drafter looks good on such a text.
pub(crate) fn is_repetitive(output: &[Token]) -> bool {
    let mut seen = HashSet::new();
    let n_repeated = output.windows(GRAM).filter(|gram| !seen.insert(*gram)).count();
    n_repeated as f64 > REPETITIVE * (output.len().saturating_sub(GRAM - 1)) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(base_ns: u64, tried_ns: u64) -> Pair {
        Pair { base: Yield { tokens: 100, ns: base_ns }, tried: Yield { tokens: 100, ns: tried_ns } }
    }

    #[test]
    fn the_interval_is_paired_and_the_same_each_time() {
        // Questions differ tenfold in length, and the gain is the same for all: the interval must stay narrow.
        let even: Vec<Pair> = (1..=20).map(|n| pair(n * 1000, n * 500)).collect();
        let ratio = speedup(&even).expect("times");
        assert!((ratio.value - 2.0).abs() < 1e-9 && ratio.low > 1.99 && ratio.high < 2.01, "{ratio:?}");
        let uneven: Vec<Pair> = (1..=20).map(|n| pair(1000, if n % 2 == 0 { 500 } else { 2000 })).collect();
        let ratio = speedup(&uneven).expect("times");
        assert!(ratio.spans_one() && ratio.low < 0.75 && ratio.high > 0.85, "{ratio:?}");
        assert_eq!(speedup(&uneven), Some(ratio));
        assert_eq!(speedup(&[]), None);
        assert_eq!(speedup(&[Pair::default()]), None);
    }

    #[test]
    fn the_interval_covers_the_truth_as_often_as_it_says() {
        let mut rng = Pcg32::seed_from_u64(4);
        let mut n_covered = 0;
        for _ in 0..60 {
            let pairs: Vec<Pair> = (0..40).map(|_| pair(1000, rng.random_range(600..1400))).collect();
            let ratio = speedup(&pairs).expect("times");
            n_covered += usize::from(ratio.low <= 1.0 && 1.0 <= ratio.high);
        }
        assert!((52..=60).contains(&n_covered), "{n_covered} of 60");
    }

    #[test]
    fn medians_and_repetition() {
        assert_eq!((median(&mut [3.0, 1.0, 2.0]), median(&mut [4.0, 1.0, 2.0, 3.0]), median(&mut [])), (2.0, 2.5, 0.0));
        let fresh: Vec<Token> = (0..100).map(Token).collect();
        let loops: Vec<Token> = (0..100).map(|n| Token(n % 30)).collect();
        assert!(!is_repetitive(&fresh) && is_repetitive(&loops) && !is_repetitive(&fresh[..5]) && !is_repetitive(&[]));
    }
}
