//! [`Lanes`] on one 512-bit register.
// The contract of every function is the trait's; a block in each would repeat it twenty times.
#![allow(unsafe_op_in_unsafe_fn)]

use super::lanes::{LEAST_POWER, Lanes};
use std::arch::x86_64::*;

#[derive(Clone, Copy)]
pub(super) struct Avx512(__m512);

impl Lanes for Avx512 {
    const SCORE_ROWS: usize = 8;
    const OUTPUT_ROWS: usize = 6;

    #[inline(always)]
    unsafe fn prefetch(p: *const u8) {
        _mm_prefetch::<_MM_HINT_T0>(p.cast());
    }
    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        Self(_mm512_set1_ps(x))
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self {
        Self(_mm512_loadu_ps(p))
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32) {
        _mm512_storeu_ps(p, self.0);
    }
    #[inline(always)]
    unsafe fn load_f16(p: *const u8) -> Self {
        Self(_mm512_cvtph_ps(_mm256_loadu_si256(p.cast())))
    }
    #[inline(always)]
    unsafe fn load_i8(p: *const u8) -> Self {
        Self(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(p.cast()))))
    }
    #[inline(always)]
    unsafe fn add(self, b: Self) -> Self {
        Self(_mm512_add_ps(self.0, b.0))
    }
    #[inline(always)]
    unsafe fn sub(self, b: Self) -> Self {
        Self(_mm512_sub_ps(self.0, b.0))
    }
    #[inline(always)]
    unsafe fn mul(self, b: Self) -> Self {
        Self(_mm512_mul_ps(self.0, b.0))
    }
    #[inline(always)]
    unsafe fn div(self, b: Self) -> Self {
        Self(_mm512_div_ps(self.0, b.0))
    }
    #[inline(always)]
    unsafe fn max(self, b: Self) -> Self {
        Self(_mm512_max_ps(self.0, b.0))
    }
    #[inline(always)]
    unsafe fn min(self, b: Self) -> Self {
        Self(_mm512_min_ps(self.0, b.0))
    }
    #[inline(always)]
    unsafe fn fma(self, b: Self, c: Self) -> Self {
        Self(_mm512_fmadd_ps(self.0, b.0, c.0))
    }
    #[inline(always)]
    unsafe fn round(self) -> Self {
        Self(_mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(self.0))
    }
    #[inline(always)]
    unsafe fn scale_by_power(self, n: Self) -> Self {
        // A result below the normal range would take a hundred cycles and more.
        let least = _mm512_set1_ps(LEAST_POWER);
        let scaled = _mm512_scalef_ps(self.0, _mm512_max_ps(n.0, least));
        Self(_mm512_maskz_mov_ps(_mm512_cmp_ps_mask::<_CMP_GE_OQ>(n.0, least), scaled))
    }
    #[inline(always)]
    unsafe fn first(self, n: usize) -> Self {
        let keep = ((1u32 << n) - 1) as u16;
        Self(_mm512_mask_mov_ps(_mm512_set1_ps(f32::NEG_INFINITY), keep, self.0))
    }
    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        _mm512_reduce_add_ps(self.0)
    }
    #[inline(always)]
    unsafe fn largest(self) -> f32 {
        _mm512_reduce_max_ps(self.0)
    }
    #[inline(always)]
    unsafe fn transpose(rows: &mut [Self; 16]) {
        let mut a: [__m512; 16] = std::array::from_fn(|i| rows[i].0);
        // Pairs, then quadruples within each 128-bit part, then the parts.
        for i in 0..8 {
            let (x, y) = (a[2 * i], a[2 * i + 1]);
            (a[2 * i], a[2 * i + 1]) = (_mm512_unpacklo_ps(x, y), _mm512_unpackhi_ps(x, y));
        }
        for i in 0..4 {
            let [p, q, r, s] = [0, 1, 2, 3].map(|k| _mm512_castps_pd(a[4 * i + k]));
            a[4 * i] = _mm512_castpd_ps(_mm512_unpacklo_pd(p, r));
            a[4 * i + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(p, r));
            a[4 * i + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(q, s));
            a[4 * i + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(q, s));
        }
        for k in 0..4 {
            // Vector k of quadruple i holds, in its part j, column 4 j + k of rows 4 i to 4 i + 3.
            let lo = _mm512_shuffle_f32x4::<0b01_00_01_00>(a[k], a[4 + k]);
            let hi = _mm512_shuffle_f32x4::<0b11_10_11_10>(a[k], a[4 + k]);
            let lo2 = _mm512_shuffle_f32x4::<0b01_00_01_00>(a[8 + k], a[12 + k]);
            let hi2 = _mm512_shuffle_f32x4::<0b11_10_11_10>(a[8 + k], a[12 + k]);
            rows[k] = Self(_mm512_shuffle_f32x4::<0b10_00_10_00>(lo, lo2));
            rows[4 + k] = Self(_mm512_shuffle_f32x4::<0b11_01_11_01>(lo, lo2));
            rows[8 + k] = Self(_mm512_shuffle_f32x4::<0b10_00_10_00>(hi, hi2));
            rows[12 + k] = Self(_mm512_shuffle_f32x4::<0b11_01_11_01>(hi, hi2));
        }
    }
}
