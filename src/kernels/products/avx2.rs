//! [`Simd`] on pairs of 256-bit registers: with the byte multiply-add of AVX-VNNI, or with AVX2 alone.
// The contract of every function is the trait's; a block in each would repeat it sixty times.
#![allow(unsafe_op_in_unsafe_fn)]

use super::simd::Simd;
use std::arch::x86_64::*;

#[cfg(not(test))]
use std::arch::x86_64::_mm256_dpbusd_avx_epi32 as dpbusd;
#[cfg(test)]
use std::arch::x86_64::_mm256_dpbusd_epi32 as dpbusd;

/// Lanes 0 to 7 and 8 to 15.
type Pair = [__m256i; 2];

/// `VNNI`: the processor has AVX-VNNI.
#[derive(Clone, Copy)]
pub(super) struct Avx2<const VNNI: bool>;

/// Applies an operation to both halves. A macro, because a closure would not be compiled with the caller's features.
macro_rules! both {
    ($f:expr, $a:expr) => {{
        let a = $a;
        [$f(a[0]), $f(a[1])]
    }};
    ($f:expr, $a:expr, $b:expr) => {{
        let (a, b) = ($a, $b);
        [$f(a[0], b[0]), $f(a[1], b[1])]
    }};
    ($f:expr, $a:expr, $b:expr, $c:expr) => {{
        let (a, b, c) = ($a, $b, $c);
        [$f(a[0], b[0], c[0]), $f(a[1], b[1], c[1])]
    }};
}

impl<const VNNI: bool> Simd for Avx2<VNNI> {
    type I = Pair;
    type F = [__m256; 2];
    const COLUMNS: usize = 4;
    const CHAINS: usize = 1;
    const SIGNED_OFFSET: i32 = if VNNI { 128 } else { 0 };

    #[inline(always)]
    unsafe fn prefetch(p: *const u8) {
        _mm_prefetch::<_MM_HINT_T0>(p.cast());
    }
    #[inline(always)]
    unsafe fn load(p: *const u8) -> Pair {
        [_mm256_loadu_si256(p.cast()), _mm256_loadu_si256(p.add(32).cast())]
    }
    #[inline(always)]
    unsafe fn splat(p: *const u8) -> Pair {
        [_mm256_set1_epi32(p.cast::<i32>().read_unaligned()); 2]
    }
    #[inline(always)]
    unsafe fn bytes(byte: u8) -> Pair {
        [_mm256_set1_epi8(byte as i8); 2]
    }
    #[inline(always)]
    unsafe fn zero() -> Pair {
        [_mm256_setzero_si256(); 2]
    }
    #[inline(always)]
    unsafe fn and(a: Pair, b: Pair) -> Pair {
        both!(_mm256_and_si256, a, b)
    }
    #[inline(always)]
    unsafe fn and_or(a: Pair, mask: Pair, b: Pair) -> Pair {
        both!(_mm256_or_si256, Self::and(a, mask), b)
    }
    #[inline(always)]
    unsafe fn shl(a: Pair, bits: i32) -> Pair {
        let bits = _mm_cvtsi32_si128(bits);
        [_mm256_sll_epi16(a[0], bits), _mm256_sll_epi16(a[1], bits)]
    }
    #[inline(always)]
    unsafe fn shr(a: Pair, bits: i32) -> Pair {
        let bits = _mm_cvtsi32_si128(bits);
        [_mm256_srl_epi16(a[0], bits), _mm256_srl_epi16(a[1], bits)]
    }
    #[inline(always)]
    unsafe fn add(a: Pair, b: Pair) -> Pair {
        both!(_mm256_add_epi32, a, b)
    }
    #[inline(always)]
    unsafe fn mul(a: Pair, b: Pair) -> Pair {
        both!(_mm256_mullo_epi32, a, b)
    }
    #[inline(always)]
    unsafe fn begin(sum: Pair) -> Pair {
        if VNNI { sum } else { Self::zero() }
    }
    #[inline(always)]
    unsafe fn end(sum: Pair, run: Pair) -> Pair {
        if VNNI { run } else { Self::dot_pairs(sum, run, [_mm256_set1_epi16(1); 2]) }
    }
    #[inline(always)]
    unsafe fn dot(run: Pair, w: Pair, a: Pair) -> Pair {
        if VNNI { both!(dpbusd, run, w, a) } else { both!(_mm256_add_epi16, run, both!(_mm256_maddubs_epi16, w, a)) }
    }
    #[inline(always)]
    unsafe fn signed(w: Pair) -> Pair {
        if VNNI { both!(_mm256_xor_si256, w, Self::bytes(0x80)) } else { w }
    }
    #[inline(always)]
    unsafe fn dot_signed(run: Pair, w: Pair, a: Pair) -> Pair {
        if VNNI {
            Self::dot(run, w, a)
        } else {
            // Magnitudes up to 128 times activations up to 127: two such products fit 16 bits, which an offset of 128 would not.
            Self::dot(run, both!(_mm256_abs_epi8, w), both!(_mm256_sign_epi8, a, w))
        }
    }
    #[inline(always)]
    unsafe fn dot_pairs(sum: Pair, w: Pair, a: Pair) -> Pair {
        Self::add(sum, both!(_mm256_madd_epi16, w, a))
    }
    #[inline(always)]
    unsafe fn load_u8(p: *const u8) -> Pair {
        both!(_mm256_cvtepu8_epi32, [_mm_loadl_epi64(p.cast()), _mm_loadl_epi64(p.add(8).cast())])
    }
    #[inline(always)]
    unsafe fn load_i8(p: *const u8) -> Pair {
        both!(_mm256_cvtepi8_epi32, [_mm_loadl_epi64(p.cast()), _mm_loadl_epi64(p.add(8).cast())])
    }
    #[inline(always)]
    unsafe fn load_u8_pairs(p: *const u8) -> Pair {
        both!(_mm256_cvtepu8_epi16, [_mm_loadu_si128(p.cast()), _mm_loadu_si128(p.add(16).cast())])
    }
    #[inline(always)]
    unsafe fn float(a: Pair) -> [__m256; 2] {
        both!(_mm256_cvtepi32_ps, a)
    }
    #[inline(always)]
    unsafe fn zero_f() -> [__m256; 2] {
        [_mm256_setzero_ps(); 2]
    }
    #[inline(always)]
    unsafe fn splat_f(p: *const u8) -> [__m256; 2] {
        [_mm256_set1_ps(p.cast::<f32>().read_unaligned()); 2]
    }
    #[inline(always)]
    unsafe fn add_f(a: [__m256; 2], b: [__m256; 2]) -> [__m256; 2] {
        both!(_mm256_add_ps, a, b)
    }
    #[inline(always)]
    unsafe fn mul_f(a: [__m256; 2], b: [__m256; 2]) -> [__m256; 2] {
        both!(_mm256_mul_ps, a, b)
    }
    #[inline(always)]
    unsafe fn fma(a: [__m256; 2], b: [__m256; 2], c: [__m256; 2]) -> [__m256; 2] {
        both!(_mm256_fmadd_ps, a, b, c)
    }
    #[inline(always)]
    unsafe fn fnma(a: [__m256; 2], b: [__m256; 2], c: [__m256; 2]) -> [__m256; 2] {
        both!(_mm256_fnmadd_ps, a, b, c)
    }
    #[inline(always)]
    unsafe fn load_f16(p: *const u8) -> [__m256; 2] {
        both!(_mm256_cvtph_ps, [_mm_loadu_si128(p.cast()), _mm_loadu_si128(p.add(16).cast())])
    }
    #[inline(always)]
    unsafe fn load_bf16(p: *const u8) -> [__m256; 2] {
        let wide = both!(_mm256_cvtepu16_epi32, [_mm_loadu_si128(p.cast()), _mm_loadu_si128(p.add(16).cast())]);
        both!(_mm256_castsi256_ps, both!(_mm256_slli_epi32::<16>, wide))
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, a: [__m256; 2]) {
        _mm256_storeu_ps(p, a[0]);
        _mm256_storeu_ps(p.add(8), a[1]);
    }
}
