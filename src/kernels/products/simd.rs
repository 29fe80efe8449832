//! The operations that a product needs, on sixteen lanes of 32 bits: one lane for each row of a group.
//!
//! A vector is one 512-bit register or a pair of 256-bit registers, so that a kernel is written once. Every method is
//! inlined into a function that enables the instruction set (`pass.rs`).
#![allow(clippy::missing_safety_doc)]

/// Sixteen lanes of one instruction set.
///
/// # Safety
/// Every method needs a processor with the implementor's instruction set. Pointers must be valid for the bytes that the
/// method's comment names; nothing need be aligned.
pub(super) trait Simd: Copy {
    /// Sixteen 32-bit lanes of integers, or 64 bytes.
    type I: Copy;
    /// Sixteen floats.
    type F: Copy;
    /// Columns for whose sums there are registers enough.
    const COLUMNS: usize;
    /// Sums of floats that a column needs beside each other for one addition not to wait for the last.
    const CHAINS: usize;
    /// What `signed` adds to every weight. The sums of activations times this are taken off again by the caller.
    const SIGNED_OFFSET: i32;

    /// Asks for the cache line at `p`, which may be any address.
    unsafe fn prefetch(p: *const u8);
    /// 64 bytes.
    unsafe fn load(p: *const u8) -> Self::I;
    /// The 4 bytes at `p` in every lane.
    unsafe fn splat(p: *const u8) -> Self::I;
    /// `byte` everywhere.
    unsafe fn bytes(byte: u8) -> Self::I;
    unsafe fn zero() -> Self::I;
    unsafe fn and(a: Self::I, b: Self::I) -> Self::I;
    /// `(a & mask) | b`
    unsafe fn and_or(a: Self::I, mask: Self::I, b: Self::I) -> Self::I;
    /// Shifts 16-bit units left; `bits` must be a constant after inlining to be fast.
    unsafe fn shl(a: Self::I, bits: i32) -> Self::I;
    /// Shifts 16-bit units right.
    unsafe fn shr(a: Self::I, bits: i32) -> Self::I;
    unsafe fn add(a: Self::I, b: Self::I) -> Self::I;
    unsafe fn mul(a: Self::I, b: Self::I) -> Self::I;
    /// Begins a run of `dot`s that goes on from `sum`. Without byte multiply-add a run sums in 16 bits, so that it can hold only so
    /// many products: [`run_steps`].
    unsafe fn begin(sum: Self::I) -> Self::I;
    /// Ends a run that began from `sum`.
    unsafe fn end(sum: Self::I, run: Self::I) -> Self::I;
    /// Adds sums of products, for each lane four: unsigned bytes of `w` times signed bytes of `a`.
    unsafe fn dot(run: Self::I, w: Self::I, a: Self::I) -> Self::I;
    /// Signed weights made ready for `dot_signed`.
    unsafe fn signed(w: Self::I) -> Self::I;
    /// As `dot`, for weights from `signed`.
    unsafe fn dot_signed(run: Self::I, w: Self::I, a: Self::I) -> Self::I;
    /// Sums of two products of 16-bit integers.
    unsafe fn dot_pairs(sum: Self::I, w: Self::I, a: Self::I) -> Self::I;
    /// 16 unsigned bytes, one for each lane.
    unsafe fn load_u8(p: *const u8) -> Self::I;
    /// 16 signed bytes, one for each lane.
    unsafe fn load_i8(p: *const u8) -> Self::I;
    /// 32 unsigned bytes, widened to 16 bits.
    unsafe fn load_u8_pairs(p: *const u8) -> Self::I;

    unsafe fn float(a: Self::I) -> Self::F;
    unsafe fn zero_f() -> Self::F;
    /// The float at `p` in every lane.
    unsafe fn splat_f(p: *const u8) -> Self::F;
    unsafe fn add_f(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn mul_f(a: Self::F, b: Self::F) -> Self::F;
    /// `a * b + c`, rounded once.
    unsafe fn fma(a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// `c - a * b`, rounded once.
    unsafe fn fnma(a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// 16 numbers of half precision.
    unsafe fn load_f16(p: *const u8) -> Self::F;
    /// 16 bfloat16 numbers.
    unsafe fn load_bf16(p: *const u8) -> Self::F;
    /// 16 floats.
    unsafe fn store(p: *mut f32, a: Self::F);
}

/// How many `dot`s a run may have, for codes of `bits` bits and activations from -127 to 127: two products each must fit 16 bits.
pub(super) const fn run_steps(bits: usize) -> usize {
    match bits {
        4 => 8,
        5 => 4,
        6 => 2,
        _ => 1,
    }
}
