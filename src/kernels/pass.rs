//! From a weight's type to machine code: what a type provides, and its passes for every instruction set and column count.
#![allow(unsafe_code)]

use super::avx2::Avx2;
use super::avx512::Avx512;
use super::isa::Isa;
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
/// about half of this; the processor's own prefetchers stop at the ends of pages.
const AHEAD: usize = 4096;

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

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
unsafe fn avx512<W: Weights, const N: usize>(pass: &Pass) {
    // SAFETY: the caller's promise, and the features are enabled here.
    unsafe { W::run::<Avx512, N>(pass) }
}

#[target_feature(enable = "avxvnni,avx2,fma,f16c")]
unsafe fn avx_vnni<W: Weights, const N: usize>(pass: &Pass) {
    // SAFETY: the caller's promise, and the features are enabled here.
    unsafe { W::run::<Avx2<true>, N>(pass) }
}

#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn avx2<W: Weights, const N: usize>(pass: &Pass) {
    // SAFETY: the caller's promise, and the features are enabled here.
    unsafe { W::run::<Avx2<false>, N>(pass) }
}

struct Passes<W>(W);

impl<W: Weights> Passes<W> {
    const AVX512: [PassFn; Avx512::COLUMNS] = [
        avx512::<W, 1>,
        avx512::<W, 2>,
        avx512::<W, 3>,
        avx512::<W, 4>,
        avx512::<W, 5>,
        avx512::<W, 6>,
        avx512::<W, 7>,
        avx512::<W, 8>,
    ];
    const AVX_VNNI: [PassFn; Avx2::<true>::COLUMNS] =
        [avx_vnni::<W, 1>, avx_vnni::<W, 2>, avx_vnni::<W, 3>, avx_vnni::<W, 4>];
    const AVX2: [PassFn; Avx2::<false>::COLUMNS] = [avx2::<W, 1>, avx2::<W, 2>, avx2::<W, 3>, avx2::<W, 4>];
}

/// The passes for 1, 2, ... columns.
pub(super) fn passes<W: Weights>(isa: Isa) -> &'static [PassFn] {
    match isa {
        Isa::Avx512Vnni => &Passes::<W>::AVX512,
        Isa::AvxVnni => &Passes::<W>::AVX_VNNI,
        Isa::Avx2 => &Passes::<W>::AVX2,
    }
}
