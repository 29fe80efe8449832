//! In which order the cells of the cache are visited.
//!
//! llama.cpp puts a decoded token into any free cell. Plain decoding fills them one after the other; a draft tree puts siblings side by
//! side, and after the rejected ones were freed, accepted tokens lie scattered and the gaps are filled by later tokens. Sums
//! over cells in memory order would then round differently from plain decoding's. So where the positions of the cells
//! are known, a cell's *place* is its position: place p belongs to block p / 256 and lane p % 16, wherever the cell lies. Siblings
//! have the same place; no row sees two of them.
//!
//! Sequences that share a call share no cells, though their cells lie mixed. Each has an order of its own, so that its rows are computed
//! from its own cells and nothing else, and with the same bits whoever else is served.

use super::{Attention, BLOCK, MAX_SIBLINGS};
use std::ops::Range;

/// One block of places: a run of columns.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Block {
    /// The first column.
    pub(super) first: usize,
    /// Columns of the block: its cells in order of place.
    pub(super) n_columns: usize,
    /// Column i is cell `first + i`: no list is needed.
    pub(super) contiguous: bool,
    /// Column i has place i in the block.
    pub(super) dense: bool,
}

/// Rows that follow each other and share cells, such as those of a draft tree; rows of another sequence are another part, whose cells
/// nobody here looks at.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Part {
    pub(super) rows: Range<usize>,
    /// Its blocks among all.
    pub(super) blocks: Range<usize>,
}

/// The order for one call, and the room to compute the next. Blocks that no row of a part sees are left out.
#[derive(Default, Debug)]
pub struct Order {
    pub(super) parts: Vec<Part>,
    pub(super) blocks: Vec<Block>,
    /// For blocks that are not contiguous: each column's cell.
    pub(super) cells: Vec<u32>,
    /// For blocks that are not dense: each column's place in its block.
    pub(super) places: Vec<u8>,
    /// For each cell: some row of the part sees it.
    seen: Vec<bool>,
    sorted: Vec<u64>,
}

impl Order {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }

    /// Finds the order for a call from its mask and positions.
    ///
    /// # Safety
    /// The mask of `attention` is valid for its rows and cells, or null, and its positions for its cells, or null.
    pub unsafe fn update(&mut self, attention: &Attention) {
        self.parts.clear();
        self.blocks.clear();
        self.cells.clear();
        self.places.clear();
        let n = attention.n_cells;
        // SAFETY: the caller's promise.
        let positions =
            (!attention.positions.is_null()).then(|| unsafe { std::slice::from_raw_parts(attention.positions, n) });
        let mut begin = 0;
        while begin < attention.n_rows {
            // SAFETY: the caller's promise on the mask.
            let end = unsafe { self.see(attention, begin) };
            let (rows, first_block) = (begin..end, self.blocks.len());
            // SAFETY: as above.
            let by_position = |order: &mut Self, p| unsafe { order.by_position(attention, rows.clone(), p) };
            match positions {
                Some(positions) if !self.lies_in_order(positions) && by_position(self, positions) => {}
                _ => {
                    self.blocks.truncate(first_block);
                    self.by_cell(n);
                }
            }
            self.parts.push(Part { rows, blocks: first_block..self.blocks.len() });
            begin = end;
        }
    }

    /// Finds the rows from `begin` on that share cells, and notes what they see. Gives where they end.
    ///
    /// # Safety
    /// As [`update`](Self::update); the row exists.
    unsafe fn see(&mut self, attention: &Attention, begin: usize) -> usize {
        self.seen.clear();
        self.seen.resize(attention.n_cells, attention.mask.is_null());
        if attention.mask.is_null() {
            return attention.n_rows;
        }
        for row in begin..attention.n_rows {
            // SAFETY: the row exists in the mask.
            let mask = unsafe { mask_row(attention, row) };
            let shares = |(seen, mask): (&[bool], &[u16])| {
                seen.iter().zip(mask).fold(false, |any, (&seen, &m)| any | (seen & (m != HIDDEN)))
            };
            if row > begin && !self.seen.chunks(BLOCK).zip(mask.chunks(BLOCK)).any(shares) {
                return row;
            }
            for (seen, &m) in self.seen.iter_mut().zip(mask) {
                *seen |= m != HIDDEN;
            }
        }
        attention.n_rows
    }

    /// True if every cell that is seen holds the position of its own number.
    fn lies_in_order(&self, positions: &[i32]) -> bool {
        let moved = self.seen.iter().zip(positions).enumerate();
        moved.fold(0, |n, (cell, (&seen, &position))| n + u32::from(seen & (position != cell as i32))) == 0
    }

    fn by_cell(&mut self, n_cells: usize) {
        for first in (0..n_cells).step_by(BLOCK) {
            let n_columns = BLOCK.min(n_cells - first);
            if self.seen[first..first + n_columns].contains(&true) {
                self.blocks.push(Block { first, n_columns, contiguous: true, dense: true });
            }
        }
    }

    /// False if the positions give no order: one is unknown, or a row sees two cells of one position, or there would be too many
    /// columns or blocks. Blocks that were added before that was found are then of no use.
    ///
    /// # Safety
    /// As [`update`](Self::update).
    unsafe fn by_position(&mut self, attention: &Attention, rows: Range<usize>, positions: &[i32]) -> bool {
        self.sorted.clear();
        for (cell, (_, &position)) in self.seen.iter().zip(positions).enumerate().filter(|(_, (seen, _))| **seen) {
            let Ok(position) = u32::try_from(position) else { return false };
            self.sorted.push(u64::from(position) << 32 | cell as u64);
        }
        // Nearly sorted already: the stable sort finds the runs.
        self.sorted.sort();
        let (first_block, mut first) = (self.blocks.len(), self.cells.len());
        self.cells.extend(self.sorted.iter().map(|&key| key as u32));
        self.places.extend(self.sorted.iter().map(|&key| (key >> 32) as u8));
        for run in self.sorted.chunk_by(|a, b| a >> 40 == b >> 40) {
            let dense = run.iter().enumerate().all(|(i, &key)| i as u64 == (key >> 32) % BLOCK as u64);
            let siblings = if dense {
                0
            } else {
                // SAFETY: the cells lie within the mask.
                match unsafe { siblings(attention, rows.clone(), run) } {
                    Some(siblings) => siblings,
                    None => return false,
                }
            };
            if siblings > MAX_SIBLINGS {
                return false;
            }
            self.blocks.push(Block { first, n_columns: run.len(), contiguous: false, dense });
            first += run.len();
        }
        self.blocks.len() - first_block <= attention.max_blocks()
    }
}

/// Cells beyond the first of each position, or None if a row sees two of one position.
///
/// # Safety
/// The mask of `attention` is valid for its rows and cells, or null.
unsafe fn siblings(attention: &Attention, rows: Range<usize>, sorted: &[u64]) -> Option<usize> {
    let mut siblings = 0;
    for same in sorted.chunk_by(|a, b| a >> 32 == b >> 32).filter(|same| same.len() > 1) {
        siblings += same.len() - 1;
        if attention.mask.is_null() {
            return None;
        }
        for row in rows.clone() {
            // SAFETY: the row exists in the mask.
            let mask = unsafe { mask_row(attention, row) };
            if same.iter().filter(|&&key| mask[key as u32 as usize] != HIDDEN).count() > 1 {
                return None;
            }
        }
    }
    Some(siblings)
}

/// Minus infinity in half precision.
pub(super) const HIDDEN: u16 = 0xfc00;

/// # Safety
/// The mask is valid for its rows and cells, not null, and has the row.
pub(super) unsafe fn mask_row(attention: &Attention, row: usize) -> &[u16] {
    // SAFETY: the caller's promise.
    unsafe {
        let start = attention.mask.byte_add(row * attention.mask_row_bytes);
        std::slice::from_raw_parts(start, attention.n_cells)
    }
}
