//! The reader of model files, compiled here without llama.cpp.
#![no_main]

use std::path::PathBuf;
use std::sync::LazyLock;

#[allow(dead_code)]
#[path = "../../src/llama/gguf.rs"]
mod gguf;

mod error {
    pub use aded::Error;
}

/// In memory where the system has such a folder.
static PATH: LazyLock<PathBuf> = LazyLock::new(|| {
    let folder = PathBuf::from("/dev/shm");
    let folder = if folder.is_dir() { folder } else { std::env::temp_dir() };
    folder.join(format!("aded-fuzz-{}.gguf", std::process::id()))
});

fn layout(kind: u32) -> Option<(u64, u64)> {
    [(1, 4), (1, 2), (32, 18), (32, 20)].get(kind as usize).copied()
}

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    // Half of the inputs need not find the label out first.
    let mut file = if bytes.first().is_some_and(|byte| byte % 2 == 0) { b"GGUF\x03\0\0\0".to_vec() } else { Vec::new() };
    file.extend_from_slice(bytes);
    std::fs::write(&*PATH, &file).expect("the folder takes files");
    if let Err(error) = gguf::Header::read(&PATH, layout) {
        assert!(error.is_format() && !error.to_string().contains('\n'), "{error}");
    }
    let _ = std::fs::remove_file(&*PATH);
});
