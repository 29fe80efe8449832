//! Memory files: an error, or a memory that can be drafted from.

use std::fs;
use std::path::PathBuf;
use std::sync::LazyLock;

use aded::config::RepresentativeConfig;
use aded::representative::Representative;
use aded::representative::memory::{MAX_BYTES, MemoryFile, Owner, summary_of};
use aded::representative::store::Fingerprint;

use super::frame::sealed;

/// In memory where the system has such a folder.
static PATH: LazyLock<PathBuf> = LazyLock::new(|| {
    let folder = PathBuf::from("/dev/shm");
    let folder = if folder.is_dir() { folder } else { std::env::temp_dir() };
    folder.join(format!("aded-fuzz-{}.aded", std::process::id()))
});

pub(crate) fn check(bytes: &[u8]) {
    for file in [bytes.to_vec(), sealed(bytes, 2)] {
        let summary = summary_of(&file, "fuzzed");
        match &summary {
            Ok(summary) => assert!(summary.n_log_documents <= summary.n_log_tokens),
            Err(error) => assert!(error.is_format() && !error.to_string().contains('\n'), "{error}"),
        }
        // The other way in: rows go into the tables while the file is read, and are taken back if it is of no use.
        let other = Owner { tokenizer: Fingerprint(0), model: 0, n_vocab: 40 };
        let owner = summary.as_ref().map_or(other, |summary| summary.owner);
        let config = RepresentativeConfig { overlay_contexts: 64, recall_contexts: 64, ..Default::default() };
        let mut known = Representative::new(&RepresentativeConfig { log_tokens: 64, ..config });
        fs::write(&*PATH, &file).expect("the folder takes files");
        let loaded = MemoryFile::new(&*PATH, owner, MAX_BYTES, false).load(&mut known);
        assert!(summary.is_err() || loaded.is_ok(), "one way takes it, the other does not: {loaded:?}");
        assert!(loaded.is_ok() || known.overlay().table().is_empty(), "something of a refused file is known");
        let _ = fs::remove_file(&*PATH);
        let _ = fs::remove_file(PATH.with_extension("aded.bad"));
    }
}
