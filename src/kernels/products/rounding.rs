//! Rounding of activations with AVX2, which every instruction set of the kernels includes; so it is the same for all of them.

use super::activations::{Format, Place};
use std::arch::x86_64::*;

/// Rounds one unit of one column.
///
/// # Safety
/// `x` holds a unit's elements, and `place` is made for the format.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn round(format: Format, x: *const f32, place: &Place) {
    // SAFETY: offsets stay within the unit.
    unsafe {
        match format {
            Format::Q8_0 { .. } | Format::Q8_1 => {
                let most = largest(x, 32);
                let bytes = round32(x, if most == 0.0 { 0.0 } else { 127.0 / most });
                let scale = most / 127.0;
                let sum = sums16(bytes).iter().sum::<i32>();
                put8(place, 0, bytes);
                place.put(8, through_f16(scale).to_bits());
                place.put(
                    9,
                    match format {
                        Format::Q8_0 { offset } => (-offset * sum) as u32,
                        _ => through_f16(scale * sum as f32).to_bits(),
                    },
                );
            }
            Format::Q8KPairs | Format::Q8KOffset { .. } => {
                let most = largest(x, 256);
                let factor = if most == 0.0 { 0.0 } else { -127.0 / first_of_magnitude(x, most) };
                for part in 0..8 {
                    let bytes = round32(x.add(32 * part), factor);
                    let [low, high] = sums16(bytes);
                    put8(place, 8 * part, bytes);
                    if let Format::Q8KOffset { offset } = format {
                        place.put(65 + 2 * part, (-offset * low) as u32);
                        place.put(66 + 2 * part, (-offset * high) as u32);
                    } else {
                        // Two parts share a word: the first leaves its sum in the lower half, the second joins it.
                        let word = place.first.add((65 + part / 2) * place.step);
                        let sum = u32::from((low + high) as u16);
                        let joined = if part % 2 == 0 { sum } else { word.read_unaligned() | sum << 16 };
                        word.write_unaligned(joined);
                    }
                }
                place.put(64, if most == 0.0 { 0 } else { (1.0 / factor).to_bits() });
            }
            Format::F16 => {
                for part in [0, 8] {
                    let halves = _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(_mm256_loadu_ps(x.add(part)));
                    put8(place, part, _mm256_castps_si256(_mm256_cvtph_ps(halves)));
                }
            }
            Format::Bf16 => {
                for part in [0, 8] {
                    let values = _mm256_loadu_ps(x.add(part));
                    let bits = _mm256_castps_si256(values);
                    let odd = _mm256_and_si256(_mm256_srli_epi32::<16>(bits), _mm256_set1_epi32(1));
                    let rounded = _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), odd);
                    // Rounding could carry a NaN over into infinity or zero; it is cut instead, and made quiet.
                    let nan = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_UNORD_Q>(values, values));
                    let quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x40_0000));
                    let chosen = _mm256_blendv_epi8(rounded, quiet, nan);
                    put8(place, part, _mm256_and_si256(chosen, _mm256_set1_epi32(!0xffff)));
                }
            }
        }
    }
}

/// # Safety
/// The eight words from `word` are the unit's.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn put8(place: &Place, word: usize, values: __m256i) {
    let mut all = [0u32; 8];
    // SAFETY: the array has the vector's size.
    unsafe { _mm256_storeu_si256(all.as_mut_ptr().cast(), values) };
    for (i, value) in all.into_iter().enumerate() {
        // SAFETY: the caller's promise.
        unsafe { place.put(word + i, value) };
    }
}

#[inline]
#[target_feature(enable = "avx2,f16c")]
fn through_f16(value: f32) -> f32 {
    let half = _mm_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(_mm_set_ss(value));
    _mm_cvtss_f32(_mm_cvtph_ps(half))
}

#[inline]
#[target_feature(enable = "avx2")]
fn magnitude(values: __m256) -> __m256i {
    _mm256_and_si256(_mm256_castps_si256(values), _mm256_set1_epi32(i32::MAX))
}

/// The largest magnitude of `n` floats. Magnitudes are ordered as their bits are; a NaN is larger than all else.
///
/// # Safety
/// `x` holds `n` floats, a multiple of 8.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn largest(x: *const f32, n: usize) -> f32 {
    let mut most = _mm256_setzero_si256();
    for i in (0..n).step_by(8) {
        // SAFETY: `i + 8` is at most `n`.
        most = _mm256_max_epi32(most, magnitude(unsafe { _mm256_loadu_ps(x.add(i)) }));
    }
    let most = _mm_max_epi32(_mm256_castsi256_si128(most), _mm256_extracti128_si256::<1>(most));
    let most = _mm_max_epi32(most, _mm_shuffle_epi32::<0b01_00_11_10>(most));
    let most = _mm_max_epi32(most, _mm_shuffle_epi32::<0b10_11_00_01>(most));
    f32::from_bits(_mm_cvtsi128_si32(most) as u32)
}

/// The first of 256 floats that has this magnitude.
///
/// # Safety
/// `x` holds 256 floats.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn first_of_magnitude(x: *const f32, most: f32) -> f32 {
    let most_bits = _mm256_set1_epi32(most.to_bits() as i32);
    for i in (0..256).step_by(8) {
        // SAFETY: eight floats from `i`, and one of them.
        unsafe {
            let same = _mm256_cmpeq_epi32(magnitude(_mm256_loadu_ps(x.add(i))), most_bits);
            let mask = _mm256_movemask_ps(_mm256_castsi256_ps(same)) as u32;
            if mask != 0 {
                return *x.add(i + mask.trailing_zeros() as usize);
            }
        }
    }
    most
}

/// 32 floats times `factor`, to the nearest integers, ties to even.
///
/// # Safety
/// `x` holds 32 floats.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn round32(x: *const f32, factor: f32) -> __m256i {
    let factor = _mm256_set1_ps(factor);
    // SAFETY: four times eight floats.
    let [a, b, c, d] = unsafe {
        [
            _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x), factor)),
            _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x.add(8)), factor)),
            _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x.add(16)), factor)),
            _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x.add(24)), factor)),
        ]
    };
    // Packing works within halves of registers, so that words of four bytes come out as 0 2 4 6 1 3 5 7.
    let mixed = _mm256_packs_epi16(_mm256_packs_epi32(a, b), _mm256_packs_epi32(c, d));
    _mm256_permutevar8x32_epi32(mixed, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7))
}

/// The sums of the first and the last sixteen bytes.
#[inline]
#[target_feature(enable = "avx2")]
fn sums16(bytes: __m256i) -> [i32; 2] {
    let pairs = _mm256_maddubs_epi16(_mm256_set1_epi8(1), bytes);
    let fours = _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
    let eights = _mm256_add_epi32(fours, _mm256_shuffle_epi32::<0b01_00_11_10>(fours));
    let all = _mm256_add_epi32(eights, _mm256_shuffle_epi32::<0b10_11_00_01>(eights));
    [_mm256_extract_epi32::<0>(all), _mm256_extract_epi32::<4>(all)]
}

#[cfg(test)]
mod tests {
    use super::super::activations::{Matrix, quantise};
    use super::super::reference::rounded;
    use super::*;

    #[test]
    fn rounding_is_the_oracle_s() {
        if !crate::kernels::Isa::Avx2.is_available() {
            return;
        }
        let mut columns: Vec<[f32; 256]> = vec![
            [0.0; 256],
            [1e-40; 256],
            std::array::from_fn(|i| 2e-37 * (i as f32 / 8.0)),
            [-3.0; 256],
            std::array::from_fn(|i| if i == 77 { -1.0 } else { 1.0 / 254.0 * (i % 2) as f32 }),
            std::array::from_fn(|i| (i as f32 - 128.0) * if i % 3 == 0 { 1e4 } else { 1e-4 }),
        ];
        columns
            .extend((1..40).map(|seed| std::array::from_fn(|i| ((i * i * seed + 17 * i) % 1009) as f32 / 504.0 - 1.0)));
        for format in [
            Format::Q8_0 { offset: 8 },
            Format::Q8_1,
            Format::Q8KPairs,
            Format::Q8KOffset { offset: 32 },
            Format::F16,
            Format::Bf16,
        ] {
            let n_units = 256 / format.unit_cols();
            for column in &columns {
                let mut scratch = vec![u32::MAX; n_units * format.unit_words()];
                let x = Matrix { first: column.as_ptr(), stride: 256, cols: 256 };
                // SAFETY: the sizes are those of one column of 256 elements, and the processor was asked.
                unsafe { quantise(format, x, 1, n_units, 0..n_units, scratch.as_mut_ptr().cast()) };
                for (unit, words) in scratch.chunks_exact(format.unit_words()).enumerate() {
                    let values = &column[unit * format.unit_cols()..][..format.unit_cols()];
                    assert_eq!(words, rounded(format, values), "{format:?} {values:?}");
                }
            }
        }
    }
}
