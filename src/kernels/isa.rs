//! Which instruction set the kernels use: found at run time, and narrowed feature by feature by tests and by the user.

/// One feature that a kernel may need and that can be masked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Feature {
    /// AVX2 with FMA and F16C: the least that the kernels need.
    Avx2,
    /// Multiply-add of bytes in 256-bit registers, VEX encoded.
    AvxVnni,
    /// 512-bit registers (F, BW, DQ, VL) and multiply-add of bytes in them.
    Avx512Vnni,
}

/// A set of [`Feature`]s.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Features {
    avx2: bool,
    avx_vnni: bool,
    avx512_vnni: bool,
}

impl Features {
    /// What this machine offers. Nothing outside x86-64.
    pub fn detect() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            let avx2 =
                is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c");
            let avx512 = is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vl")
                && is_x86_feature_detected!("avx512vnni");
            // Tests run the 256-bit kernels with the other encoding of the multiply-add, which machines with AVX-512 have.
            let avx_vnni = is_x86_feature_detected!("avxvnni") && !cfg!(test) || avx512 && cfg!(test);
            Self { avx2, avx_vnni: avx2 && avx_vnni, avx512_vnni: avx2 && avx512 }
        }
        #[cfg(not(target_arch = "x86_64"))]
        Self { avx2: false, avx_vnni: false, avx512_vnni: false }
    }

    /// The set without `feature`. Without AVX2 nothing is left.
    #[must_use]
    pub fn without(self, feature: Feature) -> Self {
        match feature {
            Feature::Avx2 => Self { avx2: false, avx_vnni: false, avx512_vnni: false },
            Feature::AvxVnni => Self { avx_vnni: false, ..self },
            Feature::Avx512Vnni => Self { avx512_vnni: false, ..self },
        }
    }

    /// The fastest instruction set that the features allow; none means that llama.cpp's own kernels run.
    pub fn best(self) -> Option<Isa> {
        [(self.avx512_vnni, Isa::Avx512Vnni), (self.avx_vnni, Isa::AvxVnni), (self.avx2, Isa::Avx2)]
            .into_iter()
            .find_map(|(has, isa)| has.then_some(isa))
    }
}

/// An instruction set for which there are kernels.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Isa {
    /// 512-bit registers with byte multiply-add.
    Avx512Vnni,
    /// 256-bit registers with byte multiply-add.
    AvxVnni,
    /// 256-bit registers, byte products through 16-bit sums.
    Avx2,
}

impl Isa {
    /// All of them, fastest first.
    pub const ALL: [Self; 3] = [Self::Avx512Vnni, Self::AvxVnni, Self::Avx2];

    /// True if this machine can run it.
    pub fn is_available(self) -> bool {
        let features = Features::detect();
        match self {
            Self::Avx512Vnni => features.avx512_vnni,
            Self::AvxVnni => features.avx_vnni,
            Self::Avx2 => features.avx2,
        }
    }

    /// The name that `--version` and `--stats` print.
    pub fn name(self) -> &'static str {
        match self {
            Self::Avx512Vnni => "avx512-vnni",
            Self::AvxVnni => "avx-vnni",
            Self::Avx2 => "avx2",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masking_one_by_one_ends_at_none() {
        let all = Features { avx2: true, avx_vnni: true, avx512_vnni: true };
        assert_eq!(all.best(), Some(Isa::Avx512Vnni));
        let all = all.without(Feature::Avx512Vnni);
        assert_eq!(all.best(), Some(Isa::AvxVnni));
        let all = all.without(Feature::AvxVnni);
        assert_eq!(all.best(), Some(Isa::Avx2));
        assert_eq!(all.without(Feature::Avx2).best(), None);
    }
}
