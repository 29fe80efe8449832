//! `include/aded.h` is what cbindgen makes of `src/capi` today, and compilers of C and C++ take it without a warning.

use std::path::Path;
use std::process::Command;
use std::{env, fs};

use super::{ROOT, run};

#[test]
fn the_header_is_generated_from_the_sources() {
    let config = cbindgen::Config::from_file(Path::new(ROOT).join("cbindgen.toml")).expect("cbindgen.toml");
    let builder = cbindgen::Builder::new().with_config(config).with_src(Path::new(ROOT).join("src/capi/mod.rs"));
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

/// Compiles `text` and nothing more.
fn check(name: &str, compiler: &str, standard: &str, text: &str, arguments: &[&str]) {
    let folder = super::target().join("capi-tests");
    fs::create_dir_all(&folder).expect("a folder for programs");
    let source = folder.join(name);
    fs::write(&source, text).expect("written");
    let mut command = Command::new(compiler);
    command.current_dir(ROOT).arg(format!("-std={standard}")).args(["-Wall", "-Wextra", "-Wpedantic", "-Werror"]);
    run(command.args(["-fsyntax-only", "-Iinclude"]).args(arguments).arg(source));
}

#[test]
fn c_and_cpp_compilers_take_the_header_alone() {
    let text = "#include \"aded.h\"\nint main(void) { return aded_version() == 0; }\n";
    for full in [&[][..], &["-DADED_FULL"]] {
        check("alone-c99.c", "cc", "c99", text, full);
        check("alone-c11.c", "cc", "c11", text, full);
        check("alone-cpp.cpp", "c++", "c++17", text, full);
    }
}

#[cfg(feature = "llama")]
#[test]
fn c_and_cpp_compilers_take_the_headers_after_that_of_llama_cpp() {
    // Its own header is not free of warnings in every dialect: a system header may be what it is.
    let include = format!("-isystem{}", super::libraries("full").join("include/llama.cpp").display());
    for header in ["aded.h", "aded_llama.h"] {
        let text =
            format!("#include \"llama.h\"\n#include \"{header}\"\nint main(void) {{ return aded_version() == 0; }}\n");
        for (name, compiler, standard) in
            [("after-c99.c", "cc", "c99"), ("after-c11.c", "cc", "c11"), ("after-cpp.cpp", "c++", "c++17")]
        {
            check(&format!("{header}-{name}"), compiler, standard, &text, &[&include, "-DADED_FULL"]);
        }
    }
}
