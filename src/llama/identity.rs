//! Numbers that tell models, files and machines apart.

use super::attention;
use super::context_params::ContextParams;
use super::gguf::Value;
use super::kernels::Kernels;
use super::model::Model;
use super::{LLAMA_CPP_VERSION, TARGET_FEATURES, devices, system_info};

/// What a model is, in its metadata; beside these come all entries of its architecture. How its weights are stored is left out.
const IDENTITY: [&str; 7] = [
    "general.architecture",
    "general.type",
    "general.name",
    "general.basename",
    "general.finetune",
    "general.version",
    "general.size_label",
];

/// FNV-1a; every field is ended by a byte that no UTF-8 text holds, so that fields do not run into each other.
struct Hash(u64);

impl Hash {
    fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    fn take(&mut self, field: impl std::fmt::Display) -> &mut Self {
        for byte in field.to_string().bytes().chain([0xff]) {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        self
    }
}

impl Model {
    /// A number that tells models of one tokenizer apart: from name, kind and shape in the metadata. Equal for all quantisations of a
    /// model, so that they share what was learnt.
    pub fn metadata_fingerprint(&self) -> u64 {
        let architecture = format!("{}.", self.architecture());
        self.hash_of(|key| IDENTITY.contains(&key) || key.starts_with(&architecture)).0
    }

    /// A number that tells model files apart: from all metadata, the types of the tensors and the size. The weights are not read.
    pub fn file_fingerprint(&self) -> u64 {
        let mut hash = self.hash_of(|_| true);
        for (kind, n) in &self.header.tensor_types {
            hash.take(kind).take(n);
        }
        hash.take(self.header.file_bytes).0
    }

    fn hash_of(&self, is_taken: impl Fn(&str) -> bool) -> Hash {
        let mut hash = Hash::new();
        for (key, value) in self.header.values.iter().filter(|(key, _)| is_taken(key)) {
            hash.take(key);
            match value {
                // The bits: two floats may print alike.
                Value::Float(value) => hash.take(value.to_bits()),
                value => hash.take(value),
            };
        }
        hash
    }
}

/// A number that differs wherever the times of rounds may differ: model file, build, processor and devices, layers on the GPU, threads,
/// attention, the memory's types, leaves, and whose kernels run.
pub fn circumstances(model: &Model, params: &ContextParams, n_gpu_layers: i32, kernels: &Kernels) -> u64 {
    let mut hash = Hash::new();
    hash.take(model.file_fingerprint()).take(env!("CARGO_PKG_VERSION")).take(LLAMA_CPP_VERSION).take(TARGET_FEATURES);
    hash.take(system_info()).take(n_gpu_layers);
    for (name, description) in devices() {
        hash.take(name).take(description);
    }
    hash.take(params.n_threads)
        .take(params.n_threads_batch)
        .take(format_args!("{:?}", attention::choose(model, params)));
    hash.take(params.type_k.name()).take(params.type_v.name()).take(params.offload_kqv).take(params.swa_full);
    hash.take(params.n_slots).take(params.max_leaves);
    let isa = kernels.isa().map_or("none", crate::kernels::Isa::name);
    hash.take(isa).take(kernels.products).take(kernels.attention).0
}
