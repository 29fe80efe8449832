//! Sums over the words of a file. They guard against accidents, not against forgery.

const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
const START: u64 = 0x6164_6564_7374_6f72;

/// Sums that run side by side, so that a step need not wait for the one before it.
const LANES: usize = 8;
/// Words of 32 bits that all lanes take together.
const BLOCK: usize = 2 * LANES;

/// A bijection of the sum for every value, and of the value for every sum.
fn step(sum: u64, value: u64) -> u64 {
    (sum ^ value).wrapping_mul(FACTOR).rotate_left(29)
}

/// A 64-bit sum over words. One altered word always changes it, since every step is a bijection; several cancel out with a chance of 2^-64.
pub(super) enum Checksum {
    /// Version 1: one step after the other, a word each.
    Serial(u64),
    /// Versions from 2 on: pairs of words go to eight sums in turn, which a last pass puts together. What is missing to a whole block is
    /// zeros; the length is among the words.
    Lanes { sums: [u64; LANES], block: [u32; BLOCK], n_block: usize },
}

impl Checksum {
    pub(super) fn new(version: u32) -> Self {
        if version == 1 {
            return Self::Serial(START);
        }
        Self::Lanes { sums: std::array::from_fn(|lane| START ^ lane as u64), block: [0; BLOCK], n_block: 0 }
    }

    pub(super) fn add(&mut self, words: &[u32]) {
        match self {
            Self::Serial(sum) => *sum = words.iter().fold(*sum, |sum, &word| step(sum, word.into())),
            Self::Lanes { sums, block, n_block } => {
                let (head, words) = words.split_at(words.len().min((BLOCK - *n_block) % BLOCK));
                block[*n_block..*n_block + head.len()].copy_from_slice(head);
                *n_block += head.len();
                if *n_block == BLOCK {
                    add_block(sums, block);
                    *n_block = 0;
                }
                let (blocks, rest) = words.as_chunks::<BLOCK>();
                blocks.iter().for_each(|block| add_block(sums, block));
                if !rest.is_empty() {
                    block[..rest.len()].copy_from_slice(rest);
                    *n_block = rest.len();
                }
            }
        }
    }

    pub(super) fn value(&self) -> u64 {
        match self {
            Self::Serial(sum) => *sum,
            Self::Lanes { sums, block, n_block } => {
                let mut sums = *sums;
                if *n_block > 0 {
                    let mut block = *block;
                    block[*n_block..].fill(0);
                    add_block(&mut sums, &block);
                }
                sums.into_iter().fold(START, step)
            }
        }
    }
}

fn add_block(sums: &mut [u64; LANES], block: &[u32; BLOCK]) {
    for (sum, pair) in sums.iter_mut().zip(block.as_chunks::<2>().0) {
        *sum = step(*sum, u64::from(pair[0]) | u64::from(pair[1]) << 32);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sum(version: u32, pieces: &[&[u32]]) -> u64 {
        let mut sum = Checksum::new(version);
        pieces.iter().for_each(|piece| sum.add(piece));
        sum.value()
    }

    #[test]
    fn pieces_give_what_the_whole_gives() {
        let words: Vec<u32> = (0..100u32).map(|index| index.wrapping_mul(2_654_435_761)).collect();
        for version in [1, 2] {
            let whole = sum(version, &[&words]);
            for at in 0..=words.len() {
                let (head, tail) = words.split_at(at);
                assert_eq!(sum(version, &[head, tail]), whole, "version {version}, cut at {at}");
                assert_eq!(sum(version, &[&head[..at / 2], &head[at / 2..], tail]), whole);
            }
        }
    }

    #[test]
    fn every_altered_bit_changes_the_sum() {
        let words: Vec<u32> = (0..75u32).map(|index| index * index).collect();
        for version in [1, 2] {
            let whole = sum(version, &[&words]);
            for bit in 0..words.len() * 32 {
                let mut altered = words.clone();
                altered[bit / 32] ^= 1 << (bit % 32);
                assert_ne!(sum(version, &[&altered]), whole, "version {version}, bit {bit}");
            }
            let mut swapped = words.clone();
            swapped.swap(17, 33);
            assert_ne!(sum(version, &[&swapped]), whole, "two words of one lane");
        }
    }

    #[test]
    fn sums_are_those_of_files_that_exist() {
        // tests/formats has files of both versions; these are their sums of three words.
        assert_eq!(sum(1, &[&[1, 2, 3]]), [1u64, 2, 3].into_iter().fold(START, step));
        let mut lanes: [u64; LANES] = std::array::from_fn(|lane| START ^ lane as u64);
        for (lane, value) in lanes.iter_mut().zip([1 | 2 << 32, 3, 0, 0, 0, 0, 0, 0]) {
            *lane = step(*lane, value);
        }
        assert_eq!(sum(2, &[&[1, 2, 3]]), lanes.into_iter().fold(START, step));
    }
}
