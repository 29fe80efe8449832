//! What a type of weights provides, and what its passes over a group of rows are given.

use super::simd::Simd;

/// Rows side by side in a packed weight.
pub(super) const GROUP_ROWS: usize = 16;

/// One pass: a group of rows times a few columns.
pub(super) struct Pass {
    /// The group's units, back to back.
    pub(super) packed: *const u8,
    pub(super) n_units: usize,
    /// The tile of activations, advanced by four bytes for each column left out.
    pub(super) activations: *const u8,
    /// Bytes from a word of the activations to the next: the tile's width times 4.
    pub(super) step: usize,
    /// The group's first row in the first of the columns.
    pub(super) out: *mut f32,
    pub(super) out_stride: usize,
    /// Rows of the group that exist: 1 to 16.
    pub(super) rows: usize,
}

/// How far ahead of its use a weight is asked for, in bytes. The memory's latency times a core's share of its bandwidth is
/// about a quarter of this, and half as far was 4 to 6 % slower (benches/record/2026-11-30); the processor's own prefetchers stop at
/// the ends of pages.
const AHEAD: usize = 8192;

impl Pass {
    /// Asks for the `bytes` of weights that come [`AHEAD`] after those at `p`.
    #[inline(always)]
    pub(super) fn prefetch<S: Simd>(&self, p: *const u8, bytes: usize) {
        for line in 0..bytes.div_ceil(64) {
            // SAFETY: any address may be asked for, and every x86-64 processor can.
            unsafe { S::prefetch(p.wrapping_add(AHEAD + 64 * line)) }
        }
    }

    /// Stores a column's results.
    ///
    /// # Safety
    /// As [`Weights::run`].
    #[inline(always)]
    pub(super) unsafe fn store<S: Simd>(&self, column: usize, values: S::F) {
        // SAFETY: only rows that exist are written.
        unsafe {
            let out = self.out.add(column * self.out_stride);
            if self.rows == GROUP_ROWS {
                S::store(out, values);
            } else {
                let mut all = [0.0; GROUP_ROWS];
                S::store(all.as_mut_ptr(), values);
                out.copy_from_nonoverlapping(all.as_ptr(), self.rows);
            }
        }
    }
}

/// One weight type.
pub(super) trait Weights {
    /// Elements of a row that ggml stores as one block.
    const BLOCK_COLS: usize;
    /// Bytes of ggml's block.
    const BLOCK_BYTES: usize;
    /// ggml's blocks of a row that a packed unit holds.
    const UNIT_BLOCKS: usize;
    /// Bytes of a packed unit, for 16 rows; a multiple of 64, so that rows of bytes lie in cache lines.
    const UNIT_BYTES: usize;

    /// Puts block `index` of a unit, of row `row` of the group, into a zeroed unit.
    fn pack(block: &[u8], index: usize, row: usize, unit: &mut [u8]);

    /// The values of that block, just as ggml computes them.
    fn unpack(unit: &[u8], index: usize, row: usize, values: &mut [f32]);

    /// Multiplies a group of rows with `N` columns.
    ///
    /// # Safety
    /// The processor has the instruction set of `S`, and the pointers of `pass` are valid for what its fields say.
    unsafe fn run<S: Simd, const N: usize>(pass: &Pass);
}

pub(super) type PassFn = unsafe fn(&Pass);
