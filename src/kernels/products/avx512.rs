//! [`Simd`] on one 512-bit register, with the byte multiply-add of AVX-512 VNNI.
// The contract of every function is the trait's; a block in each would repeat it thirty times.
#![allow(unsafe_op_in_unsafe_fn)]

use super::simd::Simd;
use std::arch::x86_64::*;

#[derive(Clone, Copy)]
pub(super) struct Avx512;

impl Simd for Avx512 {
    type I = __m512i;
    type F = __m512;
    const COLUMNS: usize = 8;
    const CHAINS: usize = 2;
    const SIGNED_OFFSET: i32 = 128;

    #[inline(always)]
    unsafe fn prefetch(p: *const u8) {
        _mm_prefetch::<_MM_HINT_T0>(p.cast());
    }
    #[inline(always)]
    unsafe fn load(p: *const u8) -> __m512i {
        _mm512_loadu_si512(p.cast())
    }
    #[inline(always)]
    unsafe fn splat(p: *const u8) -> __m512i {
        _mm512_set1_epi32(p.cast::<i32>().read_unaligned())
    }
    #[inline(always)]
    unsafe fn bytes(byte: u8) -> __m512i {
        _mm512_set1_epi8(byte as i8)
    }
    #[inline(always)]
    unsafe fn zero() -> __m512i {
        _mm512_setzero_si512()
    }
    #[inline(always)]
    unsafe fn and(a: __m512i, b: __m512i) -> __m512i {
        _mm512_and_si512(a, b)
    }
    #[inline(always)]
    unsafe fn and_or(a: __m512i, mask: __m512i, b: __m512i) -> __m512i {
        _mm512_ternarylogic_epi32::<0b1111_1000>(b, a, mask)
    }
    #[inline(always)]
    unsafe fn shl(a: __m512i, bits: i32) -> __m512i {
        _mm512_sll_epi16(a, _mm_cvtsi32_si128(bits))
    }
    #[inline(always)]
    unsafe fn shr(a: __m512i, bits: i32) -> __m512i {
        _mm512_srl_epi16(a, _mm_cvtsi32_si128(bits))
    }
    #[inline(always)]
    unsafe fn add(a: __m512i, b: __m512i) -> __m512i {
        _mm512_add_epi32(a, b)
    }
    #[inline(always)]
    unsafe fn mul(a: __m512i, b: __m512i) -> __m512i {
        _mm512_mullo_epi32(a, b)
    }
    #[inline(always)]
    unsafe fn begin(sum: __m512i) -> __m512i {
        sum
    }
    #[inline(always)]
    unsafe fn end(_sum: __m512i, run: __m512i) -> __m512i {
        run
    }
    #[inline(always)]
    unsafe fn dot(run: __m512i, w: __m512i, a: __m512i) -> __m512i {
        _mm512_dpbusd_epi32(run, w, a)
    }
    #[inline(always)]
    unsafe fn signed(w: __m512i) -> __m512i {
        _mm512_xor_si512(w, _mm512_set1_epi8(i8::MIN))
    }
    #[inline(always)]
    unsafe fn dot_signed(run: __m512i, w: __m512i, a: __m512i) -> __m512i {
        _mm512_dpbusd_epi32(run, w, a)
    }
    #[inline(always)]
    unsafe fn dot_pairs(sum: __m512i, w: __m512i, a: __m512i) -> __m512i {
        _mm512_dpwssd_epi32(sum, w, a)
    }
    #[inline(always)]
    unsafe fn load_u8(p: *const u8) -> __m512i {
        _mm512_cvtepu8_epi32(_mm_loadu_si128(p.cast()))
    }
    #[inline(always)]
    unsafe fn load_i8(p: *const u8) -> __m512i {
        _mm512_cvtepi8_epi32(_mm_loadu_si128(p.cast()))
    }
    #[inline(always)]
    unsafe fn load_u8_pairs(p: *const u8) -> __m512i {
        _mm512_cvtepu8_epi16(_mm256_loadu_si256(p.cast()))
    }
    #[inline(always)]
    unsafe fn float(a: __m512i) -> __m512 {
        _mm512_cvtepi32_ps(a)
    }
    #[inline(always)]
    unsafe fn zero_f() -> __m512 {
        _mm512_setzero_ps()
    }
    #[inline(always)]
    unsafe fn splat_f(p: *const u8) -> __m512 {
        _mm512_set1_ps(p.cast::<f32>().read_unaligned())
    }
    #[inline(always)]
    unsafe fn add_f(a: __m512, b: __m512) -> __m512 {
        _mm512_add_ps(a, b)
    }
    #[inline(always)]
    unsafe fn mul_f(a: __m512, b: __m512) -> __m512 {
        _mm512_mul_ps(a, b)
    }
    #[inline(always)]
    unsafe fn fma(a: __m512, b: __m512, c: __m512) -> __m512 {
        _mm512_fmadd_ps(a, b, c)
    }
    #[inline(always)]
    unsafe fn fnma(a: __m512, b: __m512, c: __m512) -> __m512 {
        _mm512_fnmadd_ps(a, b, c)
    }
    #[inline(always)]
    unsafe fn load_f16(p: *const u8) -> __m512 {
        _mm512_cvtph_ps(_mm256_loadu_si256(p.cast()))
    }
    #[inline(always)]
    unsafe fn load_bf16(p: *const u8) -> __m512 {
        _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(_mm256_loadu_si256(p.cast()))))
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, a: __m512) {
        _mm512_storeu_ps(p, a);
    }
}
