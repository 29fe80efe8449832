//! Compiles and binds what we add to llama.cpp in C++ (feature `llama`); does nothing and needs nothing without it.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    #[cfg(feature = "llama")]
    engine::build();
}

#[cfg(feature = "llama")]
mod engine {
    use std::path::{Path, PathBuf};
    use std::{env, fs};

    /// The llama.cpp that the pinned sys crate bundles: its release tag, which the crate's build does not know itself, and the
    /// version that this release calls itself by.
    const BUNDLED: (&str, &str) = ("b11434", "0.6.0");

    pub(crate) fn build() {
        let include = include_folder();
        println!("cargo:include={}", include.display());
        compile_shim(&include);
        bind_shim(&include);
        record_version();
    }

    /// The folder of llama.h as the sys crate installed it; it tells us by `links` metadata.
    fn include_folder() -> PathBuf {
        let cmake = env::var("DEP_LLAMA_GGML_CMAKE_DIR").unwrap_or_else(|_| {
            panic!(
                "llama-cpp-sys-2 did not say where it installed llama.cpp (DEP_LLAMA_GGML_CMAKE_DIR is not set); this package \
                 needs exactly the version that Cargo.toml pins, with the bundled llama.cpp"
            )
        });
        let include = Path::new(&cmake).join("../../include");
        assert!(
            include.join("llama.h").is_file(),
            "no llama.h in {}: rebuild llama.cpp with `cargo clean -p llama-cpp-sys-2`",
            include.display()
        );
        include
    }

    fn compile_shim(include: &Path) {
        for file in ["src/llama/shim.cpp", "src/llama/shim.h"] {
            println!("cargo:rerun-if-changed={file}");
        }
        cc::Build::new()
            .cpp(true)
            .std("c++17")
            .include(include)
            .include("src/llama")
            .file("src/llama/shim.cpp")
            .warnings(true)
            .compile("aded_shim");
    }

    fn bind_shim(include: &Path) {
        let bindings = bindgen::Builder::default()
            .header("src/llama/shim.h")
            .clang_arg(format!("-I{}", include.display()))
            // llama.cpp's own types come from the sys crate, so that there is one of each.
            .allowlist_item("(aded|ADED)_.*")
            .allowlist_recursively(false)
            .raw_line("use llama_cpp_sys_2::*;")
            .prepend_enum_name(false)
            .layout_tests(false)
            .generate()
            .unwrap_or_else(|error| {
                panic!(
                    "cannot bind src/llama/shim.h: {error}; libclang is needed (Debian: apt install clang libclang-dev)"
                )
            });
        let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR")).join("shim.rs");
        bindings.write_to_file(&out).unwrap_or_else(|error| panic!("cannot write {}: {error}", out.display()));
    }

    /// Hands llama.cpp's version and the instruction sets of the Rust side to the code.
    fn record_version() {
        let cmake = env::var("DEP_LLAMA_GGML_CMAKE_DIR").unwrap_or_default();
        let config = fs::read_to_string(Path::new(&cmake).join("llama/llama-config.cmake")).unwrap_or_default();
        let field = |name: &str| {
            config.lines().find_map(|line| {
                line.strip_prefix("set(")?
                    .trim_end()
                    .strip_suffix(')')?
                    .strip_prefix(name)
                    .map(|value| value.trim().to_owned())
            })
        };
        let version = field("LLAMA_VERSION ").unwrap_or_else(|| "unknown".to_owned());
        let known = version.trim_end_matches("-dev") == BUNDLED.1;
        let commit = field("LLAMA_BUILD_COMMIT ").filter(|commit| commit != "unknown");
        let build = if known { BUNDLED.0.to_owned() } else { commit.unwrap_or_else(|| "of unknown build".to_owned()) };
        println!("cargo:rustc-env=ADED_LLAMA_CPP_VERSION={version} ({build})");
        let features = env::var("CARGO_CFG_TARGET_FEATURE").unwrap_or_default();
        println!("cargo:rustc-env=ADED_TARGET_FEATURES={features}");
    }
}
