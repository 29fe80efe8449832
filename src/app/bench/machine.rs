//! What a record must say about where it was made.

use std::fs;

use aded::llama::{self, Model};
use serde_json::{Value, json};

use super::report::ModelInfo;
use crate::app::sha256;
use crate::app::version::COMMIT;

/// Versions and features.
pub(crate) fn build() -> Value {
    json!({
        "aded": env!("CARGO_PKG_VERSION"),
        "commit": if COMMIT.is_empty() { "unknown" } else { COMMIT },
        "llama_cpp": llama::LLAMA_CPP_VERSION,
        "target_features": llama::TARGET_FEATURES,
        "system_info": llama::system_info().trim(),
    })
}

/// The processor's name, where the system says it.
pub(crate) fn processor() -> Option<String> {
    field("/proc/cpuinfo", "model name")
}

/// The machine's memory as the system says it: a number and its unit, kB.
pub(crate) fn total_memory() -> Option<String> {
    field("/proc/meminfo", "MemTotal")
}

/// The value behind the first `name:` of a file.
fn field(file: &str, name: &str) -> Option<String> {
    let text = fs::read_to_string(file).ok()?;
    let line = text.lines().find(|line| line.starts_with(name))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

/// Processor, cores, memory and system.
pub(crate) fn machine() -> Value {
    json!({
        "cpu": processor().unwrap_or_else(|| std::env::consts::ARCH.to_owned()),
        "threads": std::thread::available_parallelism().map_or(1, usize::from),
        "memory": total_memory(),
        "os": std::env::consts::OS,
        "arch": std::env::consts::ARCH,
        "devices": llama::devices().into_iter().map(|(name, what)| format!("{name}: {what}")).collect::<Vec<_>>(),
    })
}

/// Which model it was.
pub(crate) fn model(model: &Model) -> ModelInfo {
    ModelInfo {
        file: model.path().file_name().unwrap_or_default().to_string_lossy().into_owned(),
        sha256: sha256::of_file(model.path()).unwrap_or_default(),
        arch: model.architecture().to_owned(),
        quant: model.file_type(),
        params: model.n_params(),
    }
}
