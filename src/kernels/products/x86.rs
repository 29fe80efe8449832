//! Machine code: the passes of every type for every x86-64 instruction set and column count.

use super::avx2::Avx2;
use super::avx512::Avx512;
use super::pass::{Pass, PassFn, Weights};
use super::simd::Simd;
use crate::kernels::isa::Isa;

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
unsafe fn avx512<W: Weights, const N: usize>(pass: &Pass) {
    // SAFETY: the caller's promise, and the features are enabled here.
    unsafe { W::run::<Avx512, N>(pass) }
}

// Few machines that have AVX-512 have the VEX encoding of its byte multiply-add too: tests use the other encoding (`avx2.rs`).
#[cfg_attr(not(test), target_feature(enable = "avxvnni,avx2,fma,f16c"))]
#[cfg_attr(test, target_feature(enable = "avx512vl,avx512vnni,avx2,fma,f16c"))]
unsafe fn avx_vnni<W: Weights, const N: usize>(pass: &Pass) {
    // SAFETY: the caller's promise, and the features are enabled here.
    unsafe { W::run::<Avx2<true>, N>(pass) }
}

#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn avx2<W: Weights, const N: usize>(pass: &Pass) {
    // SAFETY: the caller's promise, and the features are enabled here.
    unsafe { W::run::<Avx2<false>, N>(pass) }
}

struct Passes<W>(W);

impl<W: Weights> Passes<W> {
    const AVX512: [PassFn; Avx512::COLUMNS] = [
        avx512::<W, 1>,
        avx512::<W, 2>,
        avx512::<W, 3>,
        avx512::<W, 4>,
        avx512::<W, 5>,
        avx512::<W, 6>,
        avx512::<W, 7>,
        avx512::<W, 8>,
    ];
    const AVX_VNNI: [PassFn; Avx2::<true>::COLUMNS] =
        [avx_vnni::<W, 1>, avx_vnni::<W, 2>, avx_vnni::<W, 3>, avx_vnni::<W, 4>];
    const AVX2: [PassFn; Avx2::<false>::COLUMNS] = [avx2::<W, 1>, avx2::<W, 2>, avx2::<W, 3>, avx2::<W, 4>];
}

/// The passes for 1, 2, ... columns.
pub(super) fn passes<W: Weights>(isa: Isa) -> &'static [PassFn] {
    match isa {
        Isa::Avx512Vnni => &Passes::<W>::AVX512,
        Isa::AvxVnni => &Passes::<W>::AVX_VNNI,
        Isa::Avx2 => &Passes::<W>::AVX2,
    }
}
