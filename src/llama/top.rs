//! The largest of many logits, without an array of candidates for all of them.

use crate::token::Token;

/// Logits that are looked at together: whole blocks are passed over by their largest value.
const BLOCK: usize = 64;

/// Scratch memory, used again from row to row.
#[derive(Default)]
pub(super) struct TopK {
    /// The largest so far, as a heap whose first entry is the one to give up next.
    heap: Vec<(f32, Token)>,
}

impl TopK {
    /// Largest `k`: beyond it a sort of everything is no slower.
    pub(super) const MAX: usize = 1024;

    /// The `k` largest logits, the largest first; the lower token first where two are equal.
    pub(super) fn select(&mut self, logits: &[f32], k: usize) -> impl Iterator<Item = (Token, f32)> + '_ {
        self.heap.clear();
        let mut least = f32::NEG_INFINITY;
        for (block, values) in logits.chunks(BLOCK).enumerate() {
            if self.heap.len() == k && max(values) <= least {
                continue;
            }
            for (offset, &value) in values.iter().enumerate() {
                let token = Token((block * BLOCK + offset) as u32);
                if self.heap.len() < k {
                    self.heap.push((value, token));
                    if self.heap.len() == k {
                        (0..k / 2).rev().for_each(|index| self.sift_down(index));
                        least = self.heap[0].0;
                    }
                } else if value > least {
                    self.heap[0] = (value, token);
                    self.sift_down(0);
                    least = self.heap[0].0;
                }
            }
        }
        self.heap.sort_unstable_by(|left, right| right.0.total_cmp(&left.0).then(left.1.cmp(&right.1)));
        self.heap.iter().map(|&(value, token)| (token, value))
    }

    /// Restores the heap below `index`. Of two equal logits the higher token goes first.
    fn sift_down(&mut self, mut index: usize) {
        let before =
            |left: (f32, Token), right: (f32, Token)| left.0 < right.0 || (left.0 == right.0 && left.1 > right.1);
        loop {
            let mut first = index;
            for child in [2 * index + 1, 2 * index + 2] {
                if child < self.heap.len() && before(self.heap[child], self.heap[first]) {
                    first = child;
                }
            }
            if first == index {
                return;
            }
            self.heap.swap(index, first);
            index = first;
        }
    }
}

/// True if one of the values is not a number.
pub(super) fn has_nan(values: &[f32]) -> bool {
    // Whole chunks without a branch, so that the compiler vectorises.
    let mut chunks = values.chunks_exact(BLOCK);
    let is_in = |values: &[f32]| values.iter().fold(false, |any, value| any | value.is_nan());
    chunks.by_ref().any(is_in) || is_in(chunks.remainder())
}

fn max(values: &[f32]) -> f32 {
    const LANES: usize = 16;
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let chunks = values.chunks_exact(LANES);
    let rest = chunks.remainder();
    for chunk in chunks {
        for (lane, &value) in lanes.iter_mut().zip(chunk) {
            *lane = if value > *lane { value } else { *lane };
        }
    }
    lanes.iter().chain(rest).fold(f32::NEG_INFINITY, |max, &value| if value > max { value } else { max })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_largest_are_those_of_a_full_sort(
            // Few different values, so that many are equal.
            values in prop::collection::vec((-20i8..20).prop_map(|value| f32::from(value) / 4.0), 1..400),
            k in 1usize..60,
        ) {
            let mut expected: Vec<(Token, f32)> = (0..).map(Token).zip(values.iter().copied()).collect();
            expected.sort_by(|left, right| right.1.total_cmp(&left.1).then(left.0.cmp(&right.0)));
            expected.truncate(k);
            let mut top = TopK::default();
            prop_assert_eq!(top.select(&values, k).collect::<Vec<_>>(), expected);
        }
    }

    #[test]
    fn nan_is_found_anywhere() {
        for index in 0..200 {
            let mut values = vec![1.0; 200];
            values[index] = f32::NAN;
            assert!(has_nan(&values));
        }
        assert!(!has_nan(&[f32::NEG_INFINITY, f32::INFINITY, 0.0]));
    }
}
