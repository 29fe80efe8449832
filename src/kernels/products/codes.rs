//! Codes of 4, 5, 6 or 8 bits of 32 consecutive elements of 16 rows: the tile that all quantised types share.
//!
//! A tile is made of planes of 64 bytes, four bytes for each row. With 8 bits, plane k holds elements 4k to 4k + 3. With fewer,
//! plane j of the first four holds the lower halves of elements 4j to 4j + 3 in the lower halves of its bytes, and those of elements
//! 16 + 4j to 16 + 4j + 3 in the upper. The fifth bits have one plane more: bit k of byte b of a row belongs to element 4k + b. The
//! fifth and sixth bits have two: bits 2k and 2k + 1 of byte b belong to element 4k + b, in the second plane 16 + 4k + b.

use super::simd::Simd;

/// Bytes of a tile.
pub(super) const fn tile_bytes(bits: usize) -> usize {
    bits * 64
}

/// Elements 4k to 4k + 3 of 16 rows, as the bytes that `dot` wants (`dot_signed` for 8 bits).
///
/// # Safety
/// The processor has the instruction set; the tile is whole and `k` below 8.
#[inline(always)]
pub(super) unsafe fn plane<S: Simd, const BITS: usize>(tile: *const u8, k: usize) -> S::I {
    // SAFETY: the planes named lie within the tile.
    unsafe {
        if BITS == 8 {
            return S::signed(S::load(tile.add(64 * k)));
        }
        let halves = S::load(tile.add(64 * (k % 4)));
        let low = S::and(if k < 4 { halves } else { S::shr(halves, 4) }, S::bytes(15));
        // The bits above are moved to bit 4; what else the shift brings along is masked.
        match BITS {
            5 => S::and_or(to_bit_4::<S>(S::load(tile.add(256)), k), S::bytes(16), low),
            6 => S::and_or(to_bit_4::<S>(S::load(tile.add(256 + k / 4 * 64)), k % 4 * 2), S::bytes(48), low),
            _ => low,
        }
    }
}

#[inline(always)]
unsafe fn to_bit_4<S: Simd>(plane: S::I, from: usize) -> S::I {
    // SAFETY: as the caller's.
    unsafe { if from <= 4 { S::shl(plane, 4 - from as i32) } else { S::shr(plane, from as i32 - 4) } }
}

/// The code of element `t` of row `row`; sign-extended if it has 8 bits.
pub(super) fn code<const BITS: usize>(tile: &[u8], row: usize, t: usize) -> i32 {
    let (k, byte) = (t / 4, row * 4 + t % 4);
    if BITS == 8 {
        return i32::from(tile[k * 64 + byte] as i8);
    }
    let low = tile[k % 4 * 64 + byte] >> (t / 16 * 4) & 15;
    let high = match BITS {
        5 => tile[256 + byte] >> k & 1,
        6 => tile[256 + k / 4 * 64 + byte] >> (k % 4 * 2) & 3,
        _ => 0,
    };
    i32::from(low | high << 4)
}

/// Puts the lower halves of 32 codes of a row (all of it, if it has 8 bits) into a tile, in words of four bytes, in their order.
#[inline]
pub(super) fn put_words(tile: &mut [u8], row: usize, bytes: &[u8]) {
    for (word, plane) in bytes.chunks_exact(4).zip(tile.chunks_exact_mut(64)) {
        plane[row * 4..][..4].copy_from_slice(word);
    }
}

/// Puts the 32 fifth bits of a row, bit t for element t.
#[inline]
pub(super) fn put_fifth_bits(tile: &mut [u8], row: usize, bits: u32) {
    // Four bits into four bytes: the product shifts them apart by sevens, so that bit b ends at bit 8b.
    let spread = |k: u32| (((bits >> (4 * k)) & 15) * 0x0020_4081) & 0x0101_0101;
    let plane = (0..8).fold(0, |all, k| all | spread(k) << k);
    tile[256 + row * 4..][..4].copy_from_slice(&plane.to_le_bytes());
}

/// Puts 32 codes of a row, one to a byte and four to a word, into a tile of 4 to 6 bits.
#[inline]
pub(super) fn put_codes<const BITS: usize>(tile: &mut [u8], row: usize, words: &[u32; 8]) {
    let mut put = |plane: usize, word: u32| tile[plane * 64 + row * 4..][..4].copy_from_slice(&word.to_le_bytes());
    for j in 0..4 {
        put(j, words[j] & 0x0f0f_0f0f | (words[j + 4] & 0x0f0f_0f0f) << 4);
    }
    let high = words.map(|word| word >> 4 & 0x0f0f_0f0f);
    match BITS {
        5 => put(4, (0..8).fold(0, |all, k| all | high[k] << k)),
        6 => {
            put(4, (0..4).fold(0, |all, k| all | high[k] << (2 * k)));
            put(5, (0..4).fold(0, |all, k| all | high[k + 4] << (2 * k)));
        }
        _ => {}
    }
}

/// Eight words from the bytes at `at`.
#[inline]
pub(super) fn words(bytes: &[u8], at: usize) -> [u32; 8] {
    let mut words = [0; 8];
    for (word, b) in words.iter_mut().zip(bytes[at..at + 32].chunks_exact(4)) {
        *word = u32::from_le_bytes([b[0], b[1], b[2], b[3]]);
    }
    words
}
