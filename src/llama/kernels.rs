//! Our kernels in llama.cpp's CPU backend: what is taken over, and what was.
//!
//! Weights are placed with the kernels when a model is loaded; from then on its products are theirs. Attention is taken
//! over as long as it is switched on. Anything else, and any weight or attention for which there is no kernel, stays llama.cpp's.

#[cfg(aded_hook)]
use super::sys::hook;
use crate::kernels::{Features, Isa};

/// What the kernels take over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Kernels {
    /// Products of the weights of models that are loaded while this is set.
    pub products: bool,
    /// Attention with flash attention on, as long as this is set.
    pub attention: bool,
    /// Instruction sets that may be used.
    pub features: Features,
}

impl Default for Kernels {
    /// All, with what the machine offers.
    fn default() -> Self {
        Self { products: true, attention: true, features: Features::detect() }
    }
}

impl Kernels {
    /// Nothing: llama.cpp's own kernels.
    pub fn off() -> Self {
        Self { products: false, attention: false, ..Self::default() }
    }

    /// The instruction set that these settings lead to; none if nothing is taken over.
    pub fn isa(&self) -> Option<Isa> {
        self.features.best().filter(|_| HAS_KERNELS && (self.products || self.attention))
    }

    /// As the hook counts them.
    #[cfg(aded_hook)]
    fn parts(&self) -> u32 {
        u32::from(self.products) * hook::PRODUCTS + u32::from(self.attention) * hook::ATTENTION
    }
}

/// False if llama.cpp is not linked statically from the bundled sources: the kernels reach into its CPU backend, so they are left out.
pub const HAS_KERNELS: bool = cfg!(aded_hook);

/// Switches the kernels for the whole process. Returns what will run: none means llama.cpp's own kernels.
///
/// For models loaded by other means than this crate (llama-cpp-2, a host program), call it before the first of them is loaded. A model that was
/// loaded with products on keeps them. Do not switch while a model decodes in another thread if the results are to be comparable.
pub fn kernels_enable(kernels: &Kernels) -> Option<Isa> {
    #[cfg(aded_hook)]
    {
        hook::register();
        hook::switch(kernels.parts(), kernels.isa());
    }
    kernels.isa()
}

/// True if our kernels are what fused attention of the process is computed with, where they can.
pub(super) fn has_attention() -> bool {
    #[cfg(aded_hook)]
    let is_on = hook::has_attention();
    #[cfg(not(aded_hook))]
    let is_on = false;
    is_on
}

/// What the kernels computed since the start of the process.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct KernelCounts {
    /// Products of a weight with some columns.
    pub n_products: u64,
    /// Attentions of one layer.
    pub n_attentions: u64,
}

/// What the kernels computed since the start of the process.
pub fn kernel_counts() -> KernelCounts {
    #[cfg(aded_hook)]
    let (n_products, n_attentions) = hook::counts();
    #[cfg(not(aded_hook))]
    let (n_products, n_attentions) = (0, 0);
    KernelCounts { n_products, n_attentions }
}
