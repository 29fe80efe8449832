//! How true the guessed probabilities are.

use crate::representative::Successors;
use crate::token::Token;

/// Guesses of about the same probability.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Bin {
    /// Number of guesses.
    pub n: u64,
    /// Their mean probability.
    pub predicted: f64,
    /// The share of them that the target took.
    pub taken: f64,
}

/// The reliability diagram: for guesses of about the same probability the share that the target took. All candidates of every visited node
/// count, drafted or not.
#[derive(Clone, Debug, Default)]
pub struct Reliability {
    /// Number, sum of probabilities, and number taken.
    sums: [(u64, f64, u64); N_BINS],
}

const N_BINS: usize = 20;

impl Reliability {
    /// Notes the guesses at a visited node and the token that the target took there.
    pub fn observe(&mut self, guesses: &Successors, taken: Token) {
        for candidate in &guesses.candidates {
            let bin = ((candidate.probability * N_BINS as f32) as usize).min(N_BINS - 1);
            let (n, sum, hits) = &mut self.sums[bin];
            *n += 1;
            *sum += f64::from(candidate.probability);
            *hits += u64::from(candidate.token == taken);
        }
    }

    /// The bins from the least to the greatest probability, each a twentieth wide.
    pub fn bins(&self) -> Vec<Bin> {
        let bin = |&(n, sum, hits): &(u64, f64, u64)| {
            let mean = |part: f64| if n == 0 { 0.0 } else { part / n as f64 };
            Bin { n, predicted: mean(sum), taken: mean(hits as f64) }
        };
        self.sums.iter().map(bin).collect()
    }

    /// The mean distance between predicted and taken, each bin by its number of guesses. 0 is perfect.
    pub fn error(&self) -> f64 {
        let total: u64 = self.sums.iter().map(|sums| sums.0).sum();
        let error: f64 = self.bins().iter().map(|bin| bin.n as f64 * (bin.predicted - bin.taken).abs()).sum();
        if total == 0 { 0.0 } else { error / total as f64 }
    }
}
