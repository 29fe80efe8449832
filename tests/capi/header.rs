//! `include/aded.h` is what cbindgen makes of `src/capi` today, and compilers of C and C++ take it without a warning.

use std::path::Path;
use std::{env, fs};

use super::{ROOT, compile};

#[test]
fn the_header_is_generated_from_the_sources() {
    let config = cbindgen::Config::from_file(Path::new(ROOT).join("cbindgen.toml")).expect("cbindgen.toml");
    let sources =
        ["boundary", "data", "log", "core", "llama"].map(|name| Path::new(ROOT).join(format!("src/capi/{name}.rs")));
    let builder = sources.into_iter().fold(cbindgen::Builder::new().with_config(config), cbindgen::Builder::with_src);
    let mut fresh = Vec::new();
    builder.generate().expect("bindings").write(&mut fresh);
    let fresh = String::from_utf8(fresh).expect("UTF-8");
    let path = Path::new(ROOT).join("include/aded.h");
    if env::var_os("ADED_WRITE_HEADER").is_some() {
        fs::write(&path, &fresh).expect("written");
    }
    let committed = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        committed == fresh,
        "include/aded.h is not what src/capi gives; run the test with ADED_WRITE_HEADER=1 and commit the header"
    );
}
