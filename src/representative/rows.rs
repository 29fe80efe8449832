//! A bounded map from a context to its eight heaviest successors: one cache line per context, four-way sets, no allocation after
//! construction. Overlay and recall are both this table with another meaning of the weights.

use crate::representative::NO_TOKEN;
use crate::token::Token;

pub(crate) mod saved;

/// Successors kept per context.
pub const WIDTH: usize = 8;

/// Contexts that compete for a place.
const WAYS: usize = 4;

/// The successors of one context.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub struct Row {
    key: u64,
    /// When the row was last written; 0 = empty.
    stamp: u32,
    /// Sum of the weights, for tables whose weights are counts.
    pub(crate) total: u32,
    /// Successors; [`NO_TOKEN`] marks an unused place.
    pub(crate) tokens: [Token; WIDTH],
    /// Their weights, in the unit of the table that owns the row.
    pub(crate) weights: [u16; WIDTH],
}

impl Row {
    const EMPTY: Row = Row { key: 0, stamp: 0, total: 0, tokens: [NO_TOKEN; WIDTH], weights: [0; WIDTH] };

    /// Pairs of successor and weight, in no particular order.
    pub fn iter(&self) -> impl Iterator<Item = (Token, u16)> + '_ {
        self.tokens.iter().copied().zip(self.weights).filter(|&(token, _)| token != NO_TOKEN)
    }
}

/// The key of a context of two tokens.
pub fn pair_key(previous: Token, last: Token) -> u64 {
    u64::from(previous.0) << 32 | u64::from(last.0)
}

/// The key of a context of one token.
pub fn token_key(last: Token) -> u64 {
    pair_key(NO_TOKEN, last)
}

/// Where a context's row lies, if it is held.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    first: usize,
    /// Bit i is set if the context is at place i of its set.
    ways: u8,
}

/// The table.
#[derive(Clone, Debug)]
pub struct RowTable {
    rows: Vec<Row>,
    set_mask: usize,
    clock: u32,
}

impl RowTable {
    /// A table that holds at least `n_contexts` contexts (rounded up to a power of two, 64 bytes each).
    pub fn new(n_contexts: usize) -> Self {
        let n_rows = n_contexts.next_power_of_two().max(WAYS);
        Self { rows: vec![Row::EMPTY; n_rows], set_mask: n_rows / WAYS - 1, clock: 0 }
    }

    /// The successors of a context.
    pub fn get(&self, key: u64) -> Option<&Row> {
        self.row(self.place(key))
    }

    /// Looks for a context without a branch, so that the processor waits for the memory once where several are looked for in a row: a
    /// table is larger than its caches.
    #[inline]
    pub(crate) fn place(&self, key: u64) -> Place {
        let first = self.set(key);
        let held = |(way, row): (usize, &Row)| u8::from((row.key == key) & (row.stamp != 0)) << way;
        Place { first, ways: self.rows[first..first + WAYS].iter().enumerate().map(held).sum() }
    }

    /// The row at a place of this table.
    #[inline]
    pub(crate) fn row(&self, place: Place) -> Option<&Row> {
        (place.ways != 0).then(|| &self.rows[place.first + place.ways.trailing_zeros() as usize])
    }

    /// The successors of a context, for writing. A new context takes an empty place or the place that was written longest ago.
    pub fn get_or_insert(&mut self, key: u64) -> &mut Row {
        self.tick();
        let first = self.set(key);
        let set = &mut self.rows[first..first + WAYS];
        let place = set.iter().position(|row| row.key == key && row.stamp != 0).unwrap_or_else(|| {
            let oldest = (0..WAYS).min_by_key(|&way| set[way].stamp).unwrap_or(0);
            set[oldest] = Row { key, ..Row::EMPTY };
            oldest
        });
        let row = &mut set[place];
        row.stamp = self.clock;
        row
    }

    /// Number of contexts held.
    pub fn len(&self) -> usize {
        self.rows.iter().filter(|row| row.stamp != 0).count()
    }

    /// True if no context is held.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// True if nothing was ever written since the table was made or cleared: as [`is_empty`](Self::is_empty), at once.
    pub(crate) fn is_unused(&self) -> bool {
        self.clock == 0
    }

    /// Forgets everything and keeps the memory.
    pub fn clear(&mut self) {
        self.rows.fill(Row::EMPTY);
        self.clock = 0;
    }

    /// Most contexts that the table ever holds.
    pub fn capacity(&self) -> usize {
        self.rows.len()
    }

    /// Bytes held.
    pub fn memory_bytes(&self) -> usize {
        self.rows.capacity() * size_of::<Row>()
    }

    fn set(&self, key: u64) -> usize {
        // The finaliser of splitmix64 (Steele, Lea, Flood 2014): every input bit reaches every index bit.
        let mut hash = (key ^ (key >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((hash ^ (hash >> 31)) as usize & self.set_mask) * WAYS
    }

    fn tick(&mut self) {
        self.clock = self.clock.checked_add(1).unwrap_or_else(|| {
            // Once in four thousand million writes all rows become equally old.
            self.rows.iter_mut().for_each(|row| row.stamp = row.stamp.min(1));
            2
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_set_gives_up_its_oldest_context_only() {
        let mut table = RowTable::new(4);
        for key in 1..=4 {
            table.get_or_insert(key).total = key as u32;
        }
        table.get_or_insert(1);
        table.get_or_insert(9);
        assert!(table.get(2).is_none(), "written longest ago");
        assert_eq!(table.get(1).map(|row| row.total), Some(1));
        assert_eq!(table.get(9).map(|row| row.iter().count()), Some(0));
        assert_eq!((table.len(), table.capacity()), (4, 4));
        table.clear();
        assert!(table.is_empty());
    }

    #[test]
    fn a_row_is_one_cache_line() {
        assert_eq!(size_of::<Row>(), 64);
    }

    #[test]
    fn the_clock_survives_its_own_end() {
        let mut table = RowTable::new(4);
        table.clock = u32::MAX - 1;
        for key in 1..=8 {
            table.get_or_insert(key);
        }
        assert!(table.get(8).is_some());
        assert!(table.clock < 100);
    }
}
