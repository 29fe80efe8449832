//! Weights of half precision and bfloat16, multiplied in single precision as llama.cpp does.
//!
//! A packed unit is 32 columns of 16 rows: the rows of a column side by side.
#![allow(clippy::needless_range_loop, reason = "a column indexes registers and memory alike")]

use super::pass::{GROUP_ROWS, Pass, Weights};
use super::simd::Simd;
use crate::kernels::half::{bf16_to_f32, f16_to_f32};

/// `BF16`: bfloat16, else half precision.
pub(super) struct Floats<const BF16: bool>;

impl<const BF16: bool> Floats<BF16> {
    #[inline(always)]
    unsafe fn load<S: Simd>(p: *const u8) -> S::F {
        // SAFETY: as the caller's.
        unsafe { if BF16 { S::load_bf16(p) } else { S::load_f16(p) } }
    }
}

impl<const BF16: bool> Weights for Floats<BF16> {
    const BLOCK_COLS: usize = 16;
    const BLOCK_BYTES: usize = 32;
    const UNIT_BLOCKS: usize = 2;
    const UNIT_BYTES: usize = 32 * 2 * GROUP_ROWS;

    fn pack(block: &[u8], index: usize, row: usize, unit: &mut [u8]) {
        let columns = unit[index * 512..].chunks_exact_mut(2 * GROUP_ROWS);
        for (value, column) in block.chunks_exact(2).zip(columns) {
            column[row * 2..][..2].copy_from_slice(value);
        }
    }

    fn unpack(unit: &[u8], index: usize, row: usize, values: &mut [f32]) {
        let columns = unit[index * 512..].chunks_exact(2 * GROUP_ROWS);
        for (column, value) in columns.zip(values) {
            let bits = u16::from_le_bytes([column[row * 2], column[row * 2 + 1]]);
            *value = if BF16 { bf16_to_f32(bits) } else { f16_to_f32(bits) };
        }
    }

    #[inline(always)]
    unsafe fn run<S: Simd, const N: usize>(pass: &Pass) {
        let step = pass.step;
        // SAFETY: the caller promises `n_units` units of weights, and of activations 32 words for each.
        unsafe {
            let mut unit = pass.packed;
            let mut a = pass.activations;
            let mut even = [S::zero_f(); N];
            let mut odd = [S::zero_f(); N];
            for _ in 0..pass.n_units {
                for k in 0..4 {
                    let columns = unit.add(k * 256);
                    pass.prefetch::<S>(columns, 256);
                    macro_rules! steps {
                        ($($k:literal)*) => {$(
                            let w = Self::load::<S>(columns.add($k * 32));
                            for c in 0..N {
                                let sum = if $k % S::CHAINS == 0 { &mut even[c] } else { &mut odd[c] };
                                *sum = S::fma(w, S::splat_f(a.add($k * step + 4 * c)), *sum);
                            }
                        )*};
                    }
                    steps!(0 1 2 3 4 5 6 7);
                    a = a.add(8 * step);
                }
                unit = unit.add(Self::UNIT_BYTES);
            }
            for c in 0..N {
                pass.store::<S>(c, S::add_f(even[c], odd[c]));
            }
        }
    }
}
