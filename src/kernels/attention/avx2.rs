//! [`Lanes`] on a pair of 256-bit registers (AVX2, FMA, F16C).
// The contract of every function is the trait's; a block in each would repeat it twenty times.
#![allow(unsafe_op_in_unsafe_fn)]

use super::lanes::{LEAST_POWER, Lanes};
use std::arch::x86_64::*;

#[derive(Clone, Copy)]
pub(super) struct Avx2([__m256; 2]);

impl Avx2 {
    #[inline(always)]
    unsafe fn each(self, b: Self, f: impl Fn(__m256, __m256) -> __m256) -> Self {
        Self([f(self.0[0], b.0[0]), f(self.0[1], b.0[1])])
    }
}

/// Transposes eight rows of eight.
#[inline(always)]
unsafe fn transpose8(rows: [__m256; 8]) -> [__m256; 8] {
    let mut a = rows;
    for i in 0..4 {
        let (x, y) = (a[2 * i], a[2 * i + 1]);
        (a[2 * i], a[2 * i + 1]) = (_mm256_unpacklo_ps(x, y), _mm256_unpackhi_ps(x, y));
    }
    for i in 0..2 {
        let [p, q, r, s] = [0, 1, 2, 3].map(|k| _mm256_castps_pd(a[4 * i + k]));
        a[4 * i] = _mm256_castpd_ps(_mm256_unpacklo_pd(p, r));
        a[4 * i + 1] = _mm256_castpd_ps(_mm256_unpackhi_pd(p, r));
        a[4 * i + 2] = _mm256_castpd_ps(_mm256_unpacklo_pd(q, s));
        a[4 * i + 3] = _mm256_castpd_ps(_mm256_unpackhi_pd(q, s));
    }
    let mut out = a;
    for k in 0..4 {
        out[k] = _mm256_permute2f128_ps::<0x20>(a[k], a[4 + k]);
        out[4 + k] = _mm256_permute2f128_ps::<0x31>(a[k], a[4 + k]);
    }
    out
}

impl Lanes for Avx2 {
    const SCORE_ROWS: usize = 4;
    const OUTPUT_ROWS: usize = 1;

    #[inline(always)]
    unsafe fn prefetch(p: *const u8) {
        _mm_prefetch::<_MM_HINT_T0>(p.cast());
    }
    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        Self([_mm256_set1_ps(x); 2])
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self {
        Self([_mm256_loadu_ps(p), _mm256_loadu_ps(p.add(8))])
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32) {
        _mm256_storeu_ps(p, self.0[0]);
        _mm256_storeu_ps(p.add(8), self.0[1]);
    }
    #[inline(always)]
    unsafe fn load_f16(p: *const u8) -> Self {
        Self([0, 16].map(|half| _mm256_cvtph_ps(_mm_loadu_si128(p.add(half).cast()))))
    }
    #[inline(always)]
    unsafe fn load_i8(p: *const u8) -> Self {
        Self([0, 8].map(|half| _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(p.add(half).cast())))))
    }
    #[inline(always)]
    unsafe fn add(self, b: Self) -> Self {
        self.each(b, |a, b| _mm256_add_ps(a, b))
    }
    #[inline(always)]
    unsafe fn sub(self, b: Self) -> Self {
        self.each(b, |a, b| _mm256_sub_ps(a, b))
    }
    #[inline(always)]
    unsafe fn mul(self, b: Self) -> Self {
        self.each(b, |a, b| _mm256_mul_ps(a, b))
    }
    #[inline(always)]
    unsafe fn div(self, b: Self) -> Self {
        self.each(b, |a, b| _mm256_div_ps(a, b))
    }
    #[inline(always)]
    unsafe fn max(self, b: Self) -> Self {
        self.each(b, |a, b| _mm256_max_ps(a, b))
    }
    #[inline(always)]
    unsafe fn min(self, b: Self) -> Self {
        self.each(b, |a, b| _mm256_min_ps(a, b))
    }
    #[inline(always)]
    unsafe fn fma(self, b: Self, c: Self) -> Self {
        Self([_mm256_fmadd_ps(self.0[0], b.0[0], c.0[0]), _mm256_fmadd_ps(self.0[1], b.0[1], c.0[1])])
    }
    #[inline(always)]
    unsafe fn round(self) -> Self {
        Self(self.0.map(|a| _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a)))
    }
    #[inline(always)]
    unsafe fn scale_by_power(self, n: Self) -> Self {
        self.each(n, |x, n| {
            let exponent = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
            let scaled = _mm256_mul_ps(x, _mm256_castsi256_ps(_mm256_slli_epi32::<23>(exponent)));
            _mm256_and_ps(scaled, _mm256_cmp_ps::<_CMP_GE_OQ>(n, _mm256_set1_ps(LEAST_POWER)))
        })
    }
    #[inline(always)]
    unsafe fn first(self, n: usize) -> Self {
        let lane = _mm256_setr_ps(0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0);
        let n = _mm256_set1_ps(n as f32);
        let lanes = [lane, _mm256_add_ps(lane, _mm256_set1_ps(8.0))];
        self.each(Self(lanes), |a, lane| {
            let keep = _mm256_cmp_ps::<_CMP_LT_OQ>(lane, n);
            _mm256_blendv_ps(_mm256_set1_ps(f32::NEG_INFINITY), a, keep)
        })
    }
    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        let a = _mm256_add_ps(self.0[0], self.0[1]);
        let a = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
        let a = _mm_add_ps(a, _mm_movehl_ps(a, a));
        _mm_cvtss_f32(_mm_add_ss(a, _mm_shuffle_ps::<1>(a, a)))
    }
    #[inline(always)]
    unsafe fn largest(self) -> f32 {
        let a = _mm256_max_ps(self.0[0], self.0[1]);
        let a = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
        let a = _mm_max_ps(a, _mm_movehl_ps(a, a));
        _mm_cvtss_f32(_mm_max_ss(a, _mm_shuffle_ps::<1>(a, a)))
    }
    #[inline(always)]
    unsafe fn transpose(rows: &mut [Self; 16]) {
        let quarter = |i: usize, half: usize| std::array::from_fn(|k| rows[8 * i + k].0[half]);
        // The quarter at rows 8 i, half j moves to rows 8 j, half i.
        let (aa, ab) = (transpose8(quarter(0, 0)), transpose8(quarter(0, 1)));
        let (ba, bb) = (transpose8(quarter(1, 0)), transpose8(quarter(1, 1)));
        for k in 0..8 {
            rows[k] = Self([aa[k], ba[k]]);
            rows[8 + k] = Self([ab[k], bb[k]]);
        }
    }
}
