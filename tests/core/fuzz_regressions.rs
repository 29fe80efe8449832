//! What fuzzing found, and where it began, replayed. `fuzz/README.md` says how to look for more.

use std::fs;
use std::path::Path;

#[path = "../../fuzz/checks/corpus_load.rs"]
mod corpus_load;
#[path = "../../fuzz/checks/draft_verify.rs"]
mod draft_verify;
#[path = "../../fuzz/checks/frame.rs"]
mod frame;
#[path = "../../fuzz/checks/store_load.rs"]
mod store_load;

fn replay(target: &str, check: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/regressions").join(target);
    let files = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut n_files = 0;
    for file in files {
        check(&fs::read(file.expect("listed").path()).expect("readable"));
        n_files += 1;
    }
    assert!(n_files > 0, "{target} has no files");
}

#[test]
fn memory_files() {
    replay("store_load", store_load::check);
}

#[test]
fn corpus_files() {
    replay("corpus_load", corpus_load::check);
}

#[test]
fn trees() {
    replay("draft_verify", draft_verify::check);
}
