//! How a token is chosen from a logits row: the user's own sampler, called once for every token that is emitted.

use crate::error::Error;
use crate::token::Token;

/// Chooses a token from a logits row **and** takes note of it (repetition penalties, grammars, random state move on).
///
/// Verification calls [`sample`](RowSampler::sample) once for each emitted token, in order, and never on a row that is not visited.
/// That is what makes drafting exact for any sampler: the calls are the very calls of plain decoding.
pub trait RowSampler {
    /// Samples from `logits` (length = vocabulary size) and accepts the token.
    ///
    /// # Errors
    /// Whatever the sampler reports, such as a grammar that admits no token. The generation ends with that error.
    fn sample(&mut self, logits: &[f32]) -> Result<Token, Error>;

    /// True if the sampler always takes the largest logit. The representative keeps separate calibration for both ways.
    fn is_greedy(&self) -> bool;
}

/// Always the largest logit; the lowest token id on a tie. No candidate array is built.
#[derive(Clone, Copy, Debug, Default)]
pub struct Greedy;

impl RowSampler for Greedy {
    fn sample(&mut self, logits: &[f32]) -> Result<Token, Error> {
        argmax(logits).ok_or_else(|| Error::target("the logits row is empty or holds no finite number"))
    }

    fn is_greedy(&self) -> bool {
        true
    }
}

/// The index of the largest value, the lowest on a tie; `None` if no value is above negative infinity (NaN counts as absent).
pub fn argmax(logits: &[f32]) -> Option<Token> {
    // Two passes, both of a shape that the compiler vectorises: a maximum, then a search for it.
    const LANES: usize = 16;
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let chunks = logits.chunks_exact(LANES);
    let rest = chunks.remainder();
    for chunk in chunks {
        for (lane, &value) in lanes.iter_mut().zip(chunk) {
            *lane = if value > *lane { value } else { *lane };
        }
    }
    let max = lanes.iter().chain(rest).fold(f32::NEG_INFINITY, |max, &value| if value > max { value } else { max });
    if max == f32::NEG_INFINITY {
        return None;
    }
    logits.iter().position(|&value| value == max).map(|index| Token(index as u32))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn argmax_takes_the_first_of_equals_and_skips_nan() {
        let mut logits = vec![0.5_f32; 40];
        logits[7] = f32::NAN;
        logits[21] = 2.0;
        logits[38] = 2.0;
        assert_eq!(argmax(&logits), Some(Token(21)));
        assert_eq!(argmax(&[]), None);
        assert_eq!(argmax(&[f32::NEG_INFINITY, f32::NAN]), None);
    }
}
