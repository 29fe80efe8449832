//! Rows to words and back: what a file holds of a table.
//!
//! | words | meaning |
//! | --- | --- |
//! | 0 | the table's clock |
//! | 1-15 | 0 |
//! | 16... | one row per context, 16 words each, in the order in which they lie in the table |
//!
//! A row: key (low, high), stamp (1 to clock), total, eight tokens, eight weights of 16 bits, two to a word.

use super::{Row, RowTable, WAYS, WIDTH};
use crate::representative::NO_TOKEN;
use crate::token::Token;

/// Words of a row, and of the head of a section.
pub(crate) const ROW_WORDS: usize = 16;

impl Row {
    fn to_words(self) -> [u32; ROW_WORDS] {
        let mut words = [0; ROW_WORDS];
        words[..4].copy_from_slice(&[self.key as u32, (self.key >> 32) as u32, self.stamp, self.total]);
        for (word, token) in words[4..].iter_mut().zip(self.tokens) {
            *word = token.0;
        }
        for (word, pair) in words[4 + WIDTH..].iter_mut().zip(self.weights.as_chunks::<2>().0) {
            *word = u32::from(pair[0]) | u32::from(pair[1]) << 16;
        }
        words
    }

    fn from_words(words: &[u32; ROW_WORDS]) -> Self {
        Self {
            key: u64::from(words[0]) | u64::from(words[1]) << 32,
            stamp: words[2],
            total: words[3],
            tokens: std::array::from_fn(|place| Token(words[4 + place])),
            weights: std::array::from_fn(|place| (words[4 + WIDTH + place / 2] >> (16 * (place % 2))) as u16),
        }
    }

    /// True if every token in it, the context's as well, is below `n_vocab` or absent.
    fn is_within(&self, n_vocab: u32) -> bool {
        // One more than the absent token is 0. All are looked at, without a branch for each.
        const _: () = assert!(NO_TOKEN.0 == u32::MAX);
        let above = |token: u32| token.wrapping_add(1) > n_vocab;
        let key = above(self.key as u32) | above((self.key >> 32) as u32);
        !self.tokens.iter().fold(key, |any, token| any | above(token.0))
    }
}

impl RowTable {
    /// The section that holds the table, of `max_rows` rows at most: what was written long ago and observed seldom is left out first.
    pub(crate) fn to_words(&self, max_rows: usize, observations: impl Fn(&Row) -> u32) -> Vec<u32> {
        let rows = || self.rows.iter().filter(|row| row.stamp != 0);
        // A context that was observed eight times is worth one that is eight times as young.
        let staleness = |row: &Row| (self.clock - row.stamp) / observations(row).clamp(1, 8);
        let (mut limit, mut n_at_limit) = (u32::MAX, usize::MAX);
        let mut all: Vec<u32> = rows().map(staleness).collect();
        if max_rows < all.len() {
            let (younger, &mut last, _) = all.select_nth_unstable(max_rows);
            n_at_limit = younger.iter().filter(|&&staleness| staleness == last).count();
            limit = last;
        }
        let mut words = Vec::with_capacity(ROW_WORDS * (all.len().min(max_rows) + 1));
        words.extend([self.clock].into_iter().chain([0; ROW_WORDS - 1]));
        for row in rows() {
            let staleness = staleness(row);
            if staleness > limit || staleness == limit && n_at_limit == 0 {
                continue;
            }
            n_at_limit -= usize::from(staleness == limit);
            words.extend(row.to_words());
        }
        words
    }

    /// Takes over the rows of a section, or of a piece of it: a whole number of rows. `clock` is the section's, `None` before its first piece.
    /// Where both know a context `both` decides; where a set is full the rows written last stay. `tidy` brings a row into order and says
    /// whether it can be one.
    ///
    /// # Errors
    /// What is wrong with the section; the rows before the wrong one were taken.
    pub(crate) fn merge_words(
        &mut self,
        clock: &mut Option<u32>,
        words: &[u32],
        n_vocab: u32,
        tidy: impl Fn(&mut Row) -> bool,
        both: impl Fn(&mut Row, &Row),
    ) -> Result<(), String> {
        let (mut chunks, rest) = words.as_chunks::<ROW_WORDS>();
        if !rest.is_empty() {
            return Err("rows end in the middle".to_owned());
        }
        if clock.is_none()
            && let Some((head, rows)) = chunks.split_first()
        {
            *clock = Some(head[0]);
            chunks = rows;
        }
        let clock = clock.unwrap_or(0);
        self.clock = self.clock.max(clock);
        for words in chunks {
            let mut row = Row::from_words(words);
            if row.stamp == 0 || row.stamp > clock {
                return Err(format!("a row is stamped {} by a clock at {clock}", row.stamp));
            }
            if !row.is_within(n_vocab) {
                return Err(format!("a row holds a token outside its vocabulary of {n_vocab}"));
            }
            if !tidy(&mut row) {
                return Err("the weights of a row are too large".to_owned());
            }
            let first = self.set(row.key);
            let set = &mut self.rows[first..first + WAYS];
            if let Some(known) = set.iter_mut().find(|known| known.key == row.key && known.stamp != 0) {
                both(known, &row);
                known.stamp = known.stamp.max(row.stamp);
            } else if let Some(oldest) = set.iter_mut().min_by_key(|known| known.stamp)
                && oldest.stamp < row.stamp
            {
                *oldest = row;
            }
        }
        Ok(())
    }
}

/// The newer of two rows stays: for tables whose rows are measured, not counted.
pub(crate) fn newer(row: &mut Row, other: &Row) {
    if other.stamp > row.stamp {
        *row = *other;
    }
}

/// Rows in a section of so many words.
pub(crate) fn n_rows(n_words: usize) -> usize {
    (n_words / ROW_WORDS).saturating_sub(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::representative::overlay;

    fn table(keys: std::ops::Range<u64>) -> RowTable {
        let mut table = RowTable::new(64);
        for key in keys {
            let row = table.get_or_insert(key);
            (row.tokens[0], row.weights[0], row.tokens[7], row.weights[7]) = (Token(key as u32), 16, Token(3), 5);
        }
        table
    }

    fn merged(into: &mut RowTable, words: &[u32]) -> Result<(), String> {
        into.merge_words(&mut None, words, 1000, overlay::tidy, newer)
    }

    #[test]
    fn rows_come_back_as_they_were() {
        let full = table(0..40);
        let mut back = RowTable::new(64);
        merged(&mut back, &full.to_words(1000, |_| 1)).unwrap();
        assert_eq!(back.clock, full.clock);
        for key in 0..40 {
            let (row, other) = (full.get(key), back.get(key));
            assert_eq!(
                row.map(|row| (row.tokens, row.weights, row.stamp)),
                other.map(|row| (row.tokens, row.weights, row.stamp))
            );
        }
        let mut smaller = RowTable::new(16);
        merged(&mut smaller, &full.to_words(1000, |_| 1)).unwrap();
        assert!(smaller.len() > 8 && smaller.get(39).is_some());
    }

    #[test]
    fn what_is_old_and_seldom_goes_first() {
        let mut table = table(0..8);
        table.get_or_insert(0);
        let kept = |table: &RowTable, n: usize, seen: &dyn Fn(&Row) -> u32| -> Vec<u64> {
            let mut keys: Vec<u64> =
                table.to_words(n, seen)[ROW_WORDS..].chunks(ROW_WORDS).map(|row| row[0].into()).collect();
            keys.sort_unstable();
            keys
        };
        assert_eq!(kept(&table, 3, &|_| 1), [0, 6, 7]);
        assert_eq!(kept(&table, 3, &|row| if row.key == 1 { 8 } else { 1 }), [0, 1, 7]);
        assert_eq!(kept(&table, 0, &|_| 1), [0u64; 0]);
        table.rows.iter_mut().filter(|row| row.stamp != 0).for_each(|row| row.stamp = 1);
        assert_eq!(kept(&table, 5, &|_| 1).len(), 5, "equally old");
    }

    #[test]
    fn wrong_rows_are_refused() {
        let good = table(0..4).to_words(9, |_| 1);
        let with = |at: usize, value: u32| {
            let mut words = good.clone();
            words[ROW_WORDS + at] = value;
            merged(&mut RowTable::new(64), &words).unwrap_err()
        };
        assert!(with(0, 1000).contains("outside its vocabulary of 1000"));
        assert!(with(5, 4000).contains("outside"));
        assert!(with(2, 0).contains("stamped 0") && with(2, 99).contains("stamped 99 by a clock at 4"));
        assert!(with(12, u32::MAX).contains("too large"));
        assert!(merged(&mut RowTable::new(64), &good[..good.len() - 1]).unwrap_err().contains("middle"));
    }
}
