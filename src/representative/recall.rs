//! Recall: the target's own distribution at contexts whose logits were computed before, rejected nodes included.
//!
//! Every row of a round was paid for; its best few tokens with their probabilities are kept under the last token and under the last two.

use crate::representative::NO_TOKEN;
use crate::representative::rows::{Row, RowTable, WIDTH, pair_key, token_key};
use crate::token::Token;

/// The best few tokens of a logits row and their probabilities at temperature 1, likeliest first.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TopRow {
    /// Tokens; [`NO_TOKEN`] fills up.
    pub tokens: [Token; WIDTH],
    /// Probabilities, 0 where there is no token.
    pub probabilities: [f32; WIDTH],
}

impl Default for TopRow {
    fn default() -> Self {
        Self { tokens: [NO_TOKEN; WIDTH], probabilities: [0.0; WIDTH] }
    }
}

impl TopRow {
    /// The largest logit's token.
    pub fn best(&self) -> Option<Token> {
        (self.tokens[0] != NO_TOKEN).then_some(self.tokens[0])
    }

    /// How far the two largest logits lie apart; infinity if there is only one. Within 1e-3 of the truth, never above it: the exponential
    /// function behind the probabilities is approximate.
    pub fn gap(&self) -> f32 {
        if self.tokens[1] == NO_TOKEN {
            return f32::INFINITY;
        }
        ((self.probabilities[0] / self.probabilities[1]).ln() - 1e-3).max(0.0)
    }

    /// The probability of a token, 0 if it is not among the best.
    pub fn probability(&self, token: Token) -> f32 {
        self.tokens.iter().position(|&other| other == token).map_or(0.0, |place| self.probabilities[place])
    }
}

/// Scans logits rows. Holds the scratch memory, so that a scan allocates nothing.
#[derive(Clone, Debug, Default)]
pub struct RowScan {
    block_max: Vec<f32>,
}

/// Logits per block: the maximum of a block decides whether its elements are looked at one by one.
const BLOCK: usize = 64;

/// Values that the loops below take side by side.
const LANES: usize = 16;

/// Blocks whose best logit is this far below the row's are left out of the sum: each would add less than 0.003 to it where the best
/// adds 1. Estimates are calibrated anyway.
const TAIL: f32 = 10.0;

impl RowScan {
    /// The best tokens of a row, ties by token id up. NaN counts as absent. One pass over the row, and a second over the few blocks
    /// that matter.
    pub fn top(&mut self, logits: &[f32]) -> TopRow {
        self.block_max.clear();
        self.block_max.extend(logits.chunks(BLOCK).map(block_max));
        let mut best = [f32::NEG_INFINITY; WIDTH];
        let mut top = TopRow::default();
        for (block, (values, &max)) in logits.chunks(BLOCK).zip(&self.block_max).enumerate() {
            if max > best[WIDTH - 1] {
                for (offset, &value) in values.iter().enumerate() {
                    if value > best[WIDTH - 1] {
                        insert(&mut best, &mut top.tokens, value, Token((block * BLOCK + offset) as u32));
                    }
                }
            }
        }
        if best[0] == f32::NEG_INFINITY {
            return top;
        }
        let floor = best[0] - TAIL;
        let mut lanes = [0.0f32; LANES];
        for (values, &max) in logits.chunks(BLOCK).zip(&self.block_max) {
            if max > floor {
                add_exp(values, best[0], &mut lanes);
            }
        }
        let sum: f32 = lanes.iter().sum();
        for (probability, value) in top.probabilities.iter_mut().zip(best) {
            *probability = if value == f32::NEG_INFINITY { 0.0 } else { exp(value - best[0]) / sum };
        }
        top
    }
}

fn block_max(values: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let (chunks, rest) = values.as_chunks::<LANES>();
    for chunk in chunks {
        for lane in 0..LANES {
            lanes[lane] = if chunk[lane] > lanes[lane] { chunk[lane] } else { lanes[lane] };
        }
    }
    for (lane, &value) in lanes.iter_mut().zip(rest) {
        *lane = if value > *lane { value } else { *lane };
    }
    // Halving keeps the chain of dependent steps short.
    let mut half = LANES / 2;
    while half > 0 {
        for lane in 0..half {
            lanes[lane] = if lanes[lane + half] > lanes[lane] { lanes[lane + half] } else { lanes[lane] };
        }
        half /= 2;
    }
    lanes[0]
}

/// Adds e^(value - max) of each value to the lanes: one running sum would keep the compiler from vectorising it.
fn add_exp(values: &[f32], max: f32, lanes: &mut [f32; LANES]) {
    let (chunks, rest) = values.as_chunks::<LANES>();
    for chunk in chunks {
        for lane in 0..LANES {
            lanes[lane] += exp(chunk[lane] - max);
        }
    }
    for (lane, &value) in lanes.iter_mut().zip(rest) {
        *lane += exp(value - max);
    }
}

fn insert(best: &mut [f32; WIDTH], tokens: &mut [Token; WIDTH], value: f32, token: Token) {
    let mut place = WIDTH - 1;
    while place > 0 && best[place - 1] < value {
        best[place] = best[place - 1];
        tokens[place] = tokens[place - 1];
        place -= 1;
    }
    best[place] = value;
    tokens[place] = token;
}

/// e^x for x <= 0 within 2e-4 relative, in a form that the compiler vectorises; 0 below -86, and for NaN.
///
/// 2^t = 2^n * 2^(t - n) with n the integer nearest to t, the second factor by its Taylor polynomial in ln 2 * (t - n).
fn exp(x: f32) -> f32 {
    /// Adding 1.5 * 2^23 rounds to an integer and leaves it in the lowest bits.
    const ROUND: f32 = 12_582_912.0;
    let t = (x * std::f32::consts::LOG2_E).max(-125.0);
    let rounded = t + ROUND;
    let f = (t - (rounded - ROUND)) * std::f32::consts::LN_2;
    let poly = 1.0 + f * (1.0 + f * (0.5 + f * (1.0 / 6.0 + f * (1.0 / 24.0))));
    let scale = f32::from_bits((rounded.to_bits() << 23).wrapping_add(127 << 23));
    if x > -86.0 { poly * scale } else { 0.0 }
}

/// The remembered rows.
#[derive(Clone, Debug)]
pub struct Recall {
    table: RowTable,
}

impl Recall {
    /// A table of at most `n_contexts` contexts, pairs and single tokens together (64 bytes each).
    pub fn new(n_contexts: usize) -> Self {
        Self { table: RowTable::new(n_contexts) }
    }

    /// Remembers the row computed for `last` after `previous`, in place of an earlier one.
    pub fn learn(&mut self, previous: Token, last: Token, top: &TopRow) {
        if previous != NO_TOKEN {
            write(self.table.get_or_insert(pair_key(previous, last)), top);
        }
        write(self.table.get_or_insert(token_key(last)), top);
    }

    /// The latest row of a pair. Weights are probabilities in units of 1/65535.
    pub fn pair(&self, previous: Token, last: Token) -> Option<&Row> {
        self.table.get(pair_key(previous, last))
    }

    /// The latest row of a single token.
    pub fn token(&self, last: Token) -> Option<&Row> {
        self.table.get(token_key(last))
    }

    /// The table itself.
    pub fn table(&self) -> &RowTable {
        &self.table
    }

    /// The table itself, to merge what was saved.
    pub(crate) fn table_mut(&mut self) -> &mut RowTable {
        &mut self.table
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.table.clear();
    }
}

fn write(row: &mut Row, top: &TopRow) {
    row.tokens = top.tokens;
    for (weight, probability) in row.weights.iter_mut().zip(top.probabilities) {
        *weight = (probability * f32::from(u16::MAX)) as u16;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn exp_is_close_enough() {
        for step in 0..8600 {
            let x = -(step as f32) / 100.0;
            assert!((exp(x) - x.exp()).abs() <= 2e-4 * x.exp() + 1e-37, "{x}");
        }
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp(f32::NAN), 0.0);
    }

    #[test]
    fn what_was_scanned_is_recalled() {
        let mut recall = Recall::new(64);
        let mut logits = vec![0.0f32; 1000];
        logits[700] = 9.0;
        logits[3] = 8.0;
        let top = RowScan::default().top(&logits);
        assert_eq!((top.tokens[0], top.tokens[1], top.tokens[2]), (Token(700), Token(3), Token(0)));
        recall.learn(Token(1), Token(2), &top);
        let row = recall.pair(Token(1), Token(2)).expect("learnt");
        assert!((f32::from(row.weights[0]) / 65535.0 - top.probabilities[0]).abs() < 1e-4);
        assert!(recall.token(Token(2)).is_some() && recall.pair(Token(2), Token(1)).is_none());
    }

    #[test]
    fn rows_without_a_number_have_no_best() {
        let mut scan = RowScan::default();
        assert_eq!(scan.top(&[]).best(), None);
        assert_eq!(scan.top(&[f32::NAN; 300]).best(), None);
        assert_eq!(scan.top(&[f32::NEG_INFINITY; 3]).best(), None);
    }

    proptest! {
        #[test]
        fn the_scan_equals_a_full_sort(logits in prop::collection::vec(-20.0f32..20.0, 1..1500)) {
            let top = RowScan::default().top(&logits);
            let mut order: Vec<usize> = (0..logits.len()).collect();
            order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]).then(a.cmp(&b)));
            let sum: f64 = logits.iter().map(|&x| f64::from(x - logits[order[0]]).exp()).sum();
            for (place, &index) in order.iter().take(WIDTH).enumerate() {
                prop_assert_eq!(top.tokens[place], Token(index as u32));
                let p = f64::from(logits[index] - logits[order[0]]).exp() / sum;
                prop_assert!((f64::from(top.probabilities[place]) - p).abs() < 1e-3);
            }
        }
    }
}
