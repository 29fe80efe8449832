//! The engine: GGUF models through llama.cpp (feature `llama`).
//!
//! [`Model`] is a loaded file, [`Target`] one context of it that takes part in drafting, [`SamplerChain`] llama.cpp's samplers, and
//! [`text`] the way between tokens and characters. All of llama.cpp's types stay inside.

mod attention;
mod characters;
mod chat;
mod clock;
mod context_params;
mod gguf;
mod grammar;
mod host;
mod identity;
mod kernels;
mod log;
mod memory;
mod model;
mod quantize;
mod sampler;
mod sys;
mod target;
pub mod text;
mod top;
mod trial;

pub use context_params::{ContextParams, FlashAttention, KvType};
pub use gguf::{Header, Value};
pub use grammar::json_schema_to_grammar;
pub use host::{available_bytes, default_threads};
pub use identity::circumstances;
pub use kernels::{HAS_KERNELS, KernelCounts, Kernels, kernel_counts, kernels_enable};
pub use memory::MemoryKind;
pub use model::{Model, ModelParams};
pub use quantize::{FileType, QuantizeOptions, TensorType, partial_file, quantize};
pub use sampler::{SamplerChain, SamplingParams};
pub use target::Target;

/// The version of llama.cpp that is built in, such as `0.6.0-dev (b11434)`.
pub const LLAMA_CPP_VERSION: &str = env!("ADED_LLAMA_CPP_VERSION");

/// The target features that the Rust side was compiled with, separated by commas.
pub const TARGET_FEATURES: &str = env!("ADED_TARGET_FEATURES");

/// The CPU features that llama.cpp was compiled with and runs on, in its own words.
pub fn system_info() -> String {
    sys::system_info()
}

/// The devices that llama.cpp can compute on: names such as `CPU` or `CUDA0`, with descriptions.
pub fn devices() -> Vec<(String, String)> {
    sys::devices()
}

#[cfg(test)]
#[path = "../../fuzz/checks/text.rs"]
mod fuzz_check;

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    /// What fuzzing found, and where it began; `fuzz/README.md` says how to look for more.
    #[test]
    fn fuzzed_texts_and_templates_are_characters_and_prompts_or_errors() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/regressions/text");
        let files: Vec<_> = fs::read_dir(folder).unwrap().map(|file| file.unwrap().path()).collect();
        assert!(!files.is_empty());
        files.iter().for_each(|file| super::fuzz_check::check(&fs::read(file).unwrap()));
    }
}
