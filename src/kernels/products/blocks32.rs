//! Weights in blocks of 32 elements with a scale, and in some types a minimum: Q4_0, Q4_1, Q5_0, Q5_1, Q8_0.
//!
//! ggml's block: scale (f16), minimum (f16, in the `_1` types), the fifth bits (32 bits, bit t for element t), then codes:
//! one byte each, or two to a byte, elements 0 to 15 in the low halves and 16 to 31 in the high halves. An element is
//! `code * scale` (Q8_0, signed), `(code - 2^(bits-1)) * scale`, or `code * scale + minimum`. Facts from ggml-common.h.
//!
//! A packed unit is two blocks of 16 rows: the scales and minima of both, then the tiles (`codes.rs`) of both.
#![allow(clippy::needless_range_loop, reason = "a column indexes registers and memory alike")]

use super::codes;
use super::pass::{GROUP_ROWS, Pass, Weights};
use super::simd::{Simd, run_steps};
use crate::kernels::half::f16_to_f32;

/// `BITS`: 4, 5 or 8. `MIN`: blocks have a minimum.
pub(super) struct Blocks32<const BITS: usize, const MIN: bool>;

impl<const BITS: usize, const MIN: bool> Blocks32<BITS, MIN> {
    /// Scales and minima of a block, for 16 rows.
    const META: usize = if MIN { 64 } else { 32 };
    const TILE: usize = codes::tile_bytes(BITS);
    /// Where ggml's block has its codes.
    const CODES: usize = (if MIN { 4 } else { 2 }) + if BITS == 5 { 4 } else { 0 };

    const fn tile_at(index: usize) -> usize {
        2 * Self::META + index * Self::TILE
    }

    /// What the codes exceed the values by, as `dot` sees them. Minima need no offset. The activations bring its share of the sums.
    pub(super) const fn offset(signed_offset: i32) -> i32 {
        match BITS {
            8 => signed_offset,
            _ if MIN => 0,
            _ => 1 << (BITS - 1),
        }
    }
}

impl<const BITS: usize, const MIN: bool> Weights for Blocks32<BITS, MIN> {
    const BLOCK_COLS: usize = 32;
    const BLOCK_BYTES: usize = (if MIN { 4 } else { 2 }) + BITS * 4;
    const UNIT_BLOCKS: usize = 2;
    const UNIT_BYTES: usize = 2 * (Self::META + Self::TILE);

    fn pack(block: &[u8], index: usize, row: usize, unit: &mut [u8]) {
        let (meta, tiles) = unit.split_at_mut(2 * Self::META);
        let meta = &mut meta[index * Self::META..][..Self::META];
        let tile = &mut tiles[index * Self::TILE..][..Self::TILE];
        meta[row * 2..][..2].copy_from_slice(&block[..2]);
        if MIN {
            meta[32 + row * 2..][..2].copy_from_slice(&block[2..4]);
        }
        codes::put_words(tile, row, &block[Self::CODES..]);
        if BITS == 5 {
            let bits = block[Self::CODES - 4..Self::CODES].try_into().unwrap_or_default();
            codes::put_fifth_bits(tile, row, u32::from_le_bytes(bits));
        }
    }

    fn unpack(unit: &[u8], index: usize, row: usize, values: &mut [f32]) {
        let meta = &unit[index * Self::META..];
        let tile = &unit[Self::tile_at(index)..];
        let half = |at: usize| f16_to_f32(u16::from_le_bytes([meta[at], meta[at + 1]]));
        let scale = half(row * 2);
        let minimum = if MIN { half(32 + row * 2) } else { 0.0 };
        for (t, value) in values.iter_mut().enumerate() {
            let code = codes::code::<BITS>(tile, row, t);
            *value = match BITS {
                8 => code as f32 * scale,
                _ if MIN => code as f32 * scale + minimum,
                _ => (code - (1 << (BITS - 1))) as f32 * scale,
            };
        }
    }

    #[inline(always)]
    unsafe fn run<S: Simd, const N: usize>(pass: &Pass) {
        let step = pass.step;
        // SAFETY: the caller promises `n_units` units of weights, and of activations 2 * n_units units of 10 words.
        unsafe {
            let mut unit = pass.packed;
            let mut a = pass.activations;
            let mut sums = [S::zero_f(); N];
            for _ in 0..pass.n_units {
                for index in 0..2 {
                    let meta = unit.add(index * Self::META);
                    let tile = unit.add(Self::tile_at(index));
                    pass.prefetch::<S>(tile, Self::META + Self::TILE);
                    let mut dots = [S::zero(); N];
                    if Self::offset(S::SIGNED_OFFSET) != 0 {
                        for c in 0..N {
                            dots[c] = S::splat(a.add(9 * step + 4 * c));
                        }
                    }
                    let mut runs = [S::zero(); N];
                    for c in 0..N {
                        runs[c] = S::begin(dots[c]);
                    }
                    macro_rules! steps {
                        ($($i:literal $k:literal)*) => {$(
                            let w = codes::plane::<S, BITS>(tile, $k);
                            for c in 0..N {
                                let a = S::splat(a.add($k * step + 4 * c));
                                runs[c] = if BITS == 8 { S::dot_signed(runs[c], w, a) } else { S::dot(runs[c], w, a) };
                            }
                            if ($i + 1) % run_steps(BITS) == 0 {
                                for c in 0..N {
                                    dots[c] = S::end(dots[c], runs[c]);
                                    runs[c] = S::begin(dots[c]);
                                }
                            }
                        )*};
                    }
                    steps!(0 0 1 4 2 1 3 5 4 2 5 6 6 3 7 7);
                    let scale = S::load_f16(meta);
                    for c in 0..N {
                        let scales = S::mul_f(scale, S::splat_f(a.add(8 * step + 4 * c)));
                        sums[c] = S::fma(S::float(dots[c]), scales, sums[c]);
                    }
                    if MIN {
                        let minimum = S::load_f16(meta.add(2 * GROUP_ROWS));
                        for c in 0..N {
                            sums[c] = S::fma(minimum, S::splat_f(a.add(9 * step + 4 * c)), sums[c]);
                        }
                    }
                    a = a.add(10 * step);
                }
                unit = unit.add(Self::UNIT_BYTES);
            }
            for c in 0..N {
                pass.store::<S>(c, sums[c]);
            }
        }
    }
}
