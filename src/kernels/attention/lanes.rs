//! Sixteen floats at a time: the operations that attention needs, for each instruction set.
//!
//! A vector is one 512-bit register, a pair of 256-bit registers, or an array. The kernels are written once against the
//! trait; every method is inlined into a function that enables the instruction set (`mod.rs`).
#![allow(clippy::missing_safety_doc)]

/// The least power of two that [`Lanes::scale_by_power`] scales by: what is near 1 stays a normal number.
pub(super) const LEAST_POWER: f32 = -125.0;

/// Sixteen floats of one instruction set.
///
/// # Safety
/// Every method needs a processor with the implementor's instruction set. Pointers must be valid for the bytes that the
/// method's comment names; nothing need be aligned.
pub(super) trait Lanes: Copy {
    /// Rows whose scores are summed at once.
    const SCORE_ROWS: usize;
    /// Rows whose outputs are summed at once, four vectors of each.
    const OUTPUT_ROWS: usize;

    /// Asks for the cache line at an address, which may be any.
    unsafe fn prefetch(_p: *const u8) {}
    unsafe fn splat(x: f32) -> Self;
    /// 16 floats.
    unsafe fn load(p: *const f32) -> Self;
    /// 16 floats.
    unsafe fn store(self, p: *mut f32);
    /// 16 numbers of half precision.
    unsafe fn load_f16(p: *const u8) -> Self;
    /// 16 signed bytes.
    unsafe fn load_i8(p: *const u8) -> Self;
    unsafe fn add(self, b: Self) -> Self;
    unsafe fn sub(self, b: Self) -> Self;
    unsafe fn mul(self, b: Self) -> Self;
    unsafe fn div(self, b: Self) -> Self;
    unsafe fn max(self, b: Self) -> Self;
    unsafe fn min(self, b: Self) -> Self;
    /// `self * b + c`, rounded once where the instruction set can.
    unsafe fn fma(self, b: Self, c: Self) -> Self;
    /// The nearest integers.
    unsafe fn round(self) -> Self;
    /// `self * 2^n` for whole numbers `n` from -160 to 127; zero below [`LEAST_POWER`].
    unsafe fn scale_by_power(self, n: Self) -> Self;
    /// The lanes below `n`, and minus infinity in the others.
    unsafe fn first(self, n: usize) -> Self;
    /// The sum of the lanes, always in the same order.
    unsafe fn sum(self) -> f32;
    unsafe fn largest(self) -> f32;
    /// Lane j of vector i becomes lane i of vector j.
    unsafe fn transpose(rows: &mut [Self; 16]);

    /// e to the power of each lane, for lanes up to 80; exactly zero for those below -87 and for minus infinity.
    /// Range reduction and polynomial as in Cephes' `expf`: the error is below two units in the last place.
    #[inline(always)]
    unsafe fn exp(self) -> Self {
        // SAFETY: the processor has the instruction set, as the trait demands.
        unsafe {
            let x = self.max(Self::splat(-110.0));
            let n = x.mul(Self::splat(std::f32::consts::LOG2_E)).round();
            let r = n.fma(Self::splat(-0.693_359_4), x);
            let r = n.fma(Self::splat(2.121_944_4e-4), r);
            let mut p = Self::splat(1.987_569_1e-4);
            for c in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
                p = p.fma(r, Self::splat(c));
            }
            r.mul(r).fma(p, r.add(Self::splat(1.0))).scale_by_power(n)
        }
    }

    /// The hyperbolic tangent of each lane.
    #[inline(always)]
    unsafe fn tanh(self) -> Self {
        // SAFETY: the processor has the instruction set, as the trait demands.
        unsafe {
            let x = self.min(Self::splat(10.0)).max(Self::splat(-10.0));
            let e = x.add(x).exp();
            e.sub(Self::splat(1.0)).div(e.add(Self::splat(1.0)))
        }
    }
}

/// Plain arrays: any processor.
#[derive(Clone, Copy)]
pub(super) struct Portable([f32; 16]);

impl Portable {
    #[inline(always)]
    fn each(self, b: Self, f: impl Fn(f32, f32) -> f32) -> Self {
        Self(std::array::from_fn(|i| f(self.0[i], b.0[i])))
    }
}

// SAFETY contracts are the trait's: only the loads and stores touch memory, and only what their comments name.
impl Lanes for Portable {
    const SCORE_ROWS: usize = 4;
    const OUTPUT_ROWS: usize = 2;

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        Self([x; 16])
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self {
        // SAFETY: the caller gives 16 readable floats.
        Self(unsafe { p.cast::<[f32; 16]>().read_unaligned() })
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32) {
        // SAFETY: the caller gives 16 writable floats.
        unsafe { p.cast::<[f32; 16]>().write_unaligned(self.0) }
    }
    #[inline(always)]
    unsafe fn load_f16(p: *const u8) -> Self {
        // SAFETY: the caller gives 16 readable halves.
        let halves = unsafe { p.cast::<[u16; 16]>().read_unaligned() };
        Self(halves.map(crate::kernels::half::f16_to_f32))
    }
    #[inline(always)]
    unsafe fn load_i8(p: *const u8) -> Self {
        // SAFETY: the caller gives 16 readable bytes.
        Self(unsafe { p.cast::<[i8; 16]>().read_unaligned() }.map(f32::from))
    }
    #[inline(always)]
    unsafe fn add(self, b: Self) -> Self {
        self.each(b, |a, b| a + b)
    }
    #[inline(always)]
    unsafe fn sub(self, b: Self) -> Self {
        self.each(b, |a, b| a - b)
    }
    #[inline(always)]
    unsafe fn mul(self, b: Self) -> Self {
        self.each(b, |a, b| a * b)
    }
    #[inline(always)]
    unsafe fn div(self, b: Self) -> Self {
        self.each(b, |a, b| a / b)
    }
    #[inline(always)]
    unsafe fn max(self, b: Self) -> Self {
        self.each(b, f32::max)
    }
    #[inline(always)]
    unsafe fn min(self, b: Self) -> Self {
        self.each(b, f32::min)
    }
    #[inline(always)]
    unsafe fn fma(self, b: Self, c: Self) -> Self {
        Self(std::array::from_fn(|i| self.0[i] * b.0[i] + c.0[i]))
    }
    #[inline(always)]
    unsafe fn round(self) -> Self {
        Self(self.0.map(f32::round_ties_even))
    }
    #[inline(always)]
    unsafe fn scale_by_power(self, n: Self) -> Self {
        self.each(n, |x, n| if n < LEAST_POWER { 0.0 } else { x * f32::from_bits(((n as i32 + 127) as u32) << 23) })
    }
    #[inline(always)]
    unsafe fn first(self, n: usize) -> Self {
        Self(std::array::from_fn(|i| if i < n { self.0[i] } else { f32::NEG_INFINITY }))
    }
    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        self.0.iter().sum()
    }
    #[inline(always)]
    unsafe fn largest(self) -> f32 {
        self.0.iter().copied().fold(f32::NEG_INFINITY, f32::max)
    }
    #[inline(always)]
    unsafe fn transpose(rows: &mut [Self; 16]) {
        let old = *rows;
        *rows = std::array::from_fn(|j| Self(std::array::from_fn(|i| old[i].0[j])));
    }
}
