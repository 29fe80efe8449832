//! Memory files: an error, or a memory that can be drafted from.

use aded::representative::memory::summary_of;

use super::frame::sealed;

pub(crate) fn check(bytes: &[u8]) {
    for file in [bytes.to_vec(), sealed(bytes, 2)] {
        match summary_of(&file, "fuzzed") {
            Ok(summary) => assert!(summary.n_log_documents <= summary.n_log_tokens),
            Err(error) => assert!(error.is_format() && !error.to_string().contains('\n'), "{error}"),
        }
    }
}
