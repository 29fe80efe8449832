//! The C interface as C and C++ programs see it: each test compiles a program with the system's compiler and runs it.

mod header;

use std::path::Path;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
fn compile() {
    let _ = Path::new(ROOT);
}
