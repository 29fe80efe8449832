//! Weights in blocks of 32 elements with a scale, and in some types a minimum: Q4_0, Q4_1, Q5_0, Q5_1, Q8_0.
//!
//! ggml's block: scale (f16), minimum (f16, in the `_1` types), the fifth bits (32 bits, bit t for element t), then codes:
//! one byte each, or two to a byte, elements 0 to 15 in the low halves and 16 to 31 in the high halves. An element is
//! `code * scale` (Q8_0, signed), `(code - 2^(bits-1)) * scale`, or `code * scale + minimum`. Facts from ggml-common.h.
//!
//! A packed unit is two blocks of 16 rows: the scales and minima of both, then the planes of both. A plane is 64 bytes:
//! four consecutive elements of each row. Halves of bytes stay halves: plane j holds elements 4j.. low and 16+4j.. high.
//! Byte b of a row in the plane of fifth bits has bit k for element 4k + b.
#![allow(unsafe_code)]
#![allow(clippy::needless_range_loop, reason = "a column indexes registers and memory alike")]

use super::half::f16_to_f32;
use super::pass::{GROUP_ROWS, Pass, Weights};
use super::simd::Simd;

/// `BITS`: 4, 5 or 8. `MIN`: blocks have a minimum.
pub(super) struct Blocks32<const BITS: usize, const MIN: bool>;

impl<const BITS: usize, const MIN: bool> Blocks32<BITS, MIN> {
    /// Scales and minima of a block, for 16 rows.
    const META: usize = if MIN { 64 } else { 32 };
    /// Planes of a block.
    const TILE: usize = BITS * 64;
    /// Where ggml's block has its codes.
    const CODES: usize = (if MIN { 4 } else { 2 }) + if BITS == 5 { 4 } else { 0 };

    const fn tile_at(index: usize) -> usize {
        2 * Self::META + index * Self::TILE
    }

    /// What a code exceeds its value by; minima need none.
    const fn offset<S: Simd>() -> i32 {
        match BITS {
            8 => S::SIGNED_OFFSET,
            _ if MIN => 0,
            _ => 1 << (BITS - 1),
        }
    }

    /// Elements 4k to 4k + 3 of 16 rows, as the bytes that `dot` wants.
    #[inline(always)]
    unsafe fn plane<S: Simd>(tile: *const u8, k: usize) -> S::I {
        // SAFETY: the tile has a plane for every k below 8.
        unsafe {
            if BITS == 8 {
                return S::signed(S::load(tile.add(64 * k)));
            }
            let halves = S::load(tile.add(64 * (k % 4)));
            let low = S::and(if k < 4 { halves } else { S::shr(halves, 4) }, S::bytes(15));
            if BITS == 4 {
                return low;
            }
            let fifth = S::load(tile.add(256));
            let fifth = if k < 4 { S::shl(fifth, 4 - k as i32) } else { S::shr(fifth, k as i32 - 4) };
            S::and_or(fifth, S::bytes(16), low)
        }
    }

    #[inline(always)]
    unsafe fn dot<S: Simd>(sum: S::I, w: S::I, a: S::I) -> S::I {
        // SAFETY: as the caller's.
        unsafe { if BITS == 8 { S::dot_signed(sum, w, a) } else { S::dot(sum, w, a) } }
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
        for (codes, plane) in block[Self::CODES..].chunks_exact(4).zip(tile.chunks_exact_mut(64)) {
            plane[row * 4..][..4].copy_from_slice(codes);
        }
        if BITS == 5 {
            let bits = u32::from_le_bytes(block[Self::CODES - 4..Self::CODES].try_into().unwrap_or_default());
            // Four bits into four bytes: the product shifts them apart by sevens, so that bit b ends at bit 8b.
            let spread = (0..8).fold(0, |sum, k| sum | (((((bits >> (4 * k)) & 15) * 0x0020_4081) & 0x0101_0101) << k));
            tile[256 + row * 4..][..4].copy_from_slice(&spread.to_le_bytes());
        }
    }

    fn unpack(unit: &[u8], index: usize, row: usize, values: &mut [f32]) {
        let meta = &unit[index * Self::META..];
        let tile = &unit[Self::tile_at(index)..];
        let half = |at: usize| f16_to_f32(u16::from_le_bytes([meta[at], meta[at + 1]]));
        let scale = half(row * 2);
        for (t, value) in values.iter_mut().enumerate() {
            let (k, byte) = (t / 4, row * 4 + t % 4);
            if BITS == 8 {
                *value = f32::from(tile[k * 64 + byte] as i8) * scale;
                continue;
            }
            let mut code = i32::from(tile[k % 4 * 64 + byte] >> (4 * (k / 4))) & 15;
            if BITS == 5 {
                code |= i32::from(tile[256 + byte] >> k & 1) << 4;
            }
            *value =
                if MIN { code as f32 * scale + half(32 + row * 2) } else { (code - (1 << (BITS - 1))) as f32 * scale };
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
                    for line in 0..(Self::TILE + Self::META).div_ceil(64) {
                        S::prefetch(tile.wrapping_add(4096 + 64 * line));
                    }
                    let mut dots = [S::zero(); N];
                    if Self::offset::<S>() != 0 {
                        for c in 0..N {
                            dots[c] = S::splat(a.add(9 * step + 4 * c));
                        }
                    }
                    macro_rules! steps {
                        ($($k:literal)*) => {$(
                            let w = Self::plane::<S>(tile, $k);
                            for c in 0..N {
                                dots[c] = Self::dot::<S>(dots[c], w, S::splat(a.add($k * step + 4 * c)));
                            }
                        )*};
                    }
                    steps!(0 4 1 5 2 6 3 7);
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
