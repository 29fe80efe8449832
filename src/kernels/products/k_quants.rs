//! Weights in blocks of 256 elements whose scales are themselves quantised: Q4_K, Q5_K, Q6_K.
//!
//! ggml's block of Q4_K and Q5_K: scale and scale of the minima (f16), eight scales and minima of 6 bits in twelve bytes, in Q5_K
//! the fifth bits (bit s of byte t: element 32s + t), then the lower halves, 64 elements to 32 bytes, the first 32 of
//! them low. An element is `scale * s * code - minimum_scale * m`. Q6_K: lower halves and upper two bits, interleaved over 128
//! elements, sixteen signed scales of 8 bits, and the scale (f16); an element is `scale * s * (code - 32)`. Facts from
//! ggml-common.h and ggml-quants.c.
//!
//! A packed unit is a block of 16 rows: 64 bytes of scales (f16) and, unless 6 bits, of scales of minima; 256 bytes of
//! sub-scales (16 rows side by side) and, unless 6 bits, of minima from byte 128, two consecutive ones of a row side by
//! side; then eight tiles (`codes.rs`). Integers are summed exactly over a block, as llama.cpp does.
#![allow(clippy::needless_range_loop, reason = "a column indexes registers and memory alike")]

use super::codes;
use super::pass::{GROUP_ROWS, Pass, Weights};
use super::simd::{Simd, run_steps};
use crate::kernels::half::f16_to_f32;

/// `BITS`: 4, 5 or 6.
pub(super) struct KQuants<const BITS: usize>;

/// Where a unit has its sub-scales, its minima, and its tiles.
const SCALES: usize = 64;
const MINIMA: usize = SCALES + 128;
const TILES: usize = SCALES + 256;

impl<const BITS: usize> KQuants<BITS> {
    const TILE: usize = codes::tile_bytes(BITS);
    /// Where ggml's block has the lower halves of its codes.
    const CODES: usize = match BITS {
        4 => 16,
        5 => 48,
        _ => 0,
    };

    /// The 32 codes of sub-block `sub` of ggml's block, one to a byte.
    #[inline]
    fn codes(block: &[u8], sub: usize) -> [u32; 8] {
        let (low_at, low_shift, high) = match BITS {
            4 => (Self::CODES + sub / 2 * 32, sub % 2 * 4, None),
            5 => (Self::CODES + sub / 2 * 32, sub % 2 * 4, Some((16, sub, 0x0101_0101))),
            _ => (sub / 4 * 64 + sub % 2 * 32, sub % 4 / 2 * 4, Some((128 + sub / 4 * 32, sub % 4 * 2, 0x0303_0303))),
        };
        let mut codes = codes::words(block, low_at).map(|word| word >> low_shift & 0x0f0f_0f0f);
        if let Some((at, shift, mask)) = high {
            for (code, word) in codes.iter_mut().zip(codes::words(block, at)) {
                *code |= (word >> shift & mask) << 4;
            }
        }
        codes
    }
}

/// Scale and minimum of each sub-block of Q4_K and Q5_K. The first four have six bits of a byte each; the others have four bits in
/// the last four bytes, and two in the bits that the first leave free.
fn scales_and_minima(b: &[u8]) -> ([u8; 8], [u8; 8]) {
    let (mut scales, mut minima) = ([0; 8], [0; 8]);
    for j in 0..4 {
        (scales[j], minima[j]) = (b[j] & 63, b[j + 4] & 63);
        scales[j + 4] = b[j + 8] & 15 | (b[j] >> 6) << 4;
        minima[j + 4] = b[j + 8] >> 4 | (b[j + 4] >> 6) << 4;
    }
    (scales, minima)
}

impl<const BITS: usize> Weights for KQuants<BITS> {
    const BLOCK_COLS: usize = 256;
    const BLOCK_BYTES: usize = match BITS {
        4 => 144,
        5 => 176,
        _ => 210,
    };
    const UNIT_BLOCKS: usize = 1;
    const UNIT_BYTES: usize = TILES + 8 * Self::TILE;

    fn pack(block: &[u8], _index: usize, row: usize, unit: &mut [u8]) {
        if BITS == 6 {
            unit[row * 2..][..2].copy_from_slice(&block[208..210]);
            for (sub, &scale) in block[192..208].iter().enumerate() {
                unit[SCALES + sub * GROUP_ROWS + row] = scale;
            }
        } else {
            unit[row * 2..][..2].copy_from_slice(&block[..2]);
            unit[32 + row * 2..][..2].copy_from_slice(&block[2..4]);
            let (scales, minima) = scales_and_minima(&block[4..16]);
            for sub in 0..8 {
                unit[SCALES + sub * GROUP_ROWS + row] = scales[sub];
                unit[MINIMA + sub / 2 * 32 + row * 2 + sub % 2] = minima[sub];
            }
        }
        for (sub, tile) in unit[TILES..].chunks_exact_mut(Self::TILE).enumerate() {
            codes::put_codes::<BITS>(tile, row, &Self::codes(block, sub));
        }
    }

    fn unpack(unit: &[u8], _index: usize, row: usize, values: &mut [f32]) {
        let half = |at: usize| f16_to_f32(u16::from_le_bytes([unit[at], unit[at + 1]]));
        let scale = half(row * 2);
        let minimum_scale = half(32 + row * 2);
        for (i, value) in values.iter_mut().enumerate() {
            let code = codes::code::<BITS>(&unit[TILES + i / 32 * Self::TILE..], row, i % 32);
            if BITS == 6 {
                let sub_scale = unit[SCALES + i / 16 * GROUP_ROWS + row] as i8;
                *value = scale * f32::from(sub_scale) * (code - 32) as f32;
            } else {
                let sub_scale = unit[SCALES + i / 32 * GROUP_ROWS + row];
                let minimum = unit[MINIMA + i / 64 * 32 + row * 2 + i / 32 % 2];
                *value = (scale * f32::from(sub_scale)) * code as f32 - minimum_scale * f32::from(minimum);
            }
        }
    }

    #[inline(always)]
    unsafe fn run<S: Simd, const N: usize>(pass: &Pass) {
        let step = pass.step;
        // SAFETY: the caller promises `n_units` units of weights, and as many of activations: 64 words of codes, the
        // scale, and the 4 words of `Q8KPairs`, or the 16 of `Q8KOffset` with 6 bits.
        unsafe {
            let mut unit = pass.packed;
            let mut a = pass.activations;
            let mut sums = [S::zero_f(); N];
            for _ in 0..pass.n_units {
                let mut whole = [S::zero(); N];
                let mut corrections = a.add(65 * step);
                let scale_at = a.add(64 * step);
                for sub in 0..8 {
                    let tile = unit.add(TILES + sub * Self::TILE);
                    pass.prefetch::<S>(tile, Self::TILE + 40);
                    macro_rules! steps {
                        ($dots:ident: $($i:literal $k:literal)*) => {{
                            let mut runs = [S::zero(); N];
                            for c in 0..N {
                                runs[c] = S::begin($dots[c]);
                            }
                            $(
                                let w = codes::plane::<S, BITS>(tile, $k);
                                for c in 0..N {
                                    runs[c] = S::dot(runs[c], w, S::splat(a.add($k * step + 4 * c)));
                                }
                                if ($i + 1) % run_steps(BITS) == 0 {
                                    for c in 0..N {
                                        $dots[c] = S::end($dots[c], runs[c]);
                                        runs[c] = S::begin($dots[c]);
                                    }
                                }
                            )*
                        }};
                    }
                    if BITS == 6 {
                        let mut dots = [S::zero(); N];
                        let scale = S::load_i8(unit.add(SCALES + sub * 2 * GROUP_ROWS));
                        for c in 0..N {
                            dots[c] = S::splat(corrections.add(4 * c));
                        }
                        steps!(dots: 0 0 1 1 2 2 3 3);
                        for c in 0..N {
                            whole[c] = S::add(whole[c], S::mul(dots[c], scale));
                            dots[c] = S::splat(corrections.add(step + 4 * c));
                        }
                        let scale = S::load_i8(unit.add(SCALES + (sub * 2 + 1) * GROUP_ROWS));
                        steps!(dots: 0 4 1 5 2 6 3 7);
                        for c in 0..N {
                            whole[c] = S::add(whole[c], S::mul(dots[c], scale));
                        }
                        corrections = corrections.add(2 * step);
                    } else {
                        let mut dots = [S::zero(); N];
                        steps!(dots: 0 0 1 4 2 1 3 5 4 2 5 6 6 3 7 7);
                        let scale = S::load_u8(unit.add(SCALES + sub * GROUP_ROWS));
                        for c in 0..N {
                            whole[c] = S::add(whole[c], S::mul(dots[c], scale));
                        }
                    }
                    a = a.add(8 * step);
                }
                let scale = S::load_f16(unit);
                for c in 0..N {
                    let scales = S::mul_f(scale, S::splat_f(scale_at.add(4 * c)));
                    sums[c] = S::fma(S::float(whole[c]), scales, sums[c]);
                }
                if BITS == 6 {
                    a = a.add(17 * step);
                } else {
                    let mut minima = [S::zero(); N];
                    for pair in 0..4 {
                        let w = S::load_u8_pairs(unit.add(MINIMA + pair * 32));
                        for c in 0..N {
                            minima[c] = S::dot_pairs(minima[c], w, S::splat(corrections.add(pair * step + 4 * c)));
                        }
                    }
                    let scale = S::load_f16(unit.add(2 * GROUP_ROWS));
                    for c in 0..N {
                        let scales = S::mul_f(scale, S::splat_f(scale_at.add(4 * c)));
                        sums[c] = S::fnma(S::float(minima[c]), scales, sums[c]);
                    }
                    a = a.add(5 * step);
                }
                unit = unit.add(Self::UNIT_BYTES);
            }
            for c in 0..N {
                pass.store::<S>(c, sums[c]);
            }
        }
    }
}
