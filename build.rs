//! Compiles and binds what we add to llama.cpp in C++ (feature `llama`), and records the commit for the program (feature `cli`); does
//! nothing and needs nothing without them.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    #[cfg(feature = "cli")]
    println!("cargo:rustc-env=ADED_COMMIT={}", commit::find().unwrap_or_default());
    #[cfg(feature = "llama")]
    engine::build();
}

/// Which commit is built. Nothing is said where nobody knows, such as in an archive of the sources.
#[cfg(feature = "cli")]
mod commit {
    use std::path::Path;
    use std::process::Command;
    use std::{env, fs};

    /// So many digits tell a commit.
    const DIGITS: usize = 12;

    pub(crate) fn find() -> Option<String> {
        let root = env::var_os("CARGO_MANIFEST_DIR")?;
        of_package(Path::new(&root)).or_else(|| of_checkout(Path::new(&root)))
    }

    /// What `cargo package` took down.
    fn of_package(root: &Path) -> Option<String> {
        let text = fs::read_to_string(root.join(".cargo_vcs_info.json")).ok()?;
        let digits = text.split("\"sha1\"").nth(1)?.split('"').nth(1)?;
        digits.get(..DIGITS).map(str::to_owned)
    }

    /// What git says, if the checkout is ours: a package may have been unpacked inside somebody else's.
    fn of_checkout(root: &Path) -> Option<String> {
        let git = |arguments: &[&str]| {
            let output = Command::new("git").arg("-C").arg(root).args(arguments).output().ok()?;
            let text = String::from_utf8(output.stdout).ok()?;
            output.status.success().then(|| text.trim().to_owned())
        };
        if fs::canonicalize(git(&["rev-parse", "--show-toplevel"])?).ok()? != fs::canonicalize(root).ok()? {
            return None;
        }
        // It grows with each commit and each change of branch.
        let log = root.join(git(&["rev-parse", "--git-path", "logs/HEAD"])?);
        if log.is_file() {
            println!("cargo:rerun-if-changed={}", log.display());
        }
        git(&["rev-parse", &format!("--short={DIGITS}"), "HEAD"])
    }
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
        compile_hook();
        compile_graphs();
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
            // The converter from JSON schemas to grammars is in llama.cpp's `common`, whose headers are not installed.
            .include(source_folder().join("common"))
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

    /// Compiles our part of llama.cpp's CPU backend against its internal headers, and sets the cfg `aded_hook`.
    ///
    /// They are not installed, but the sys crate's sources are at hand where it built them. Where ggml is not linked statically from
    /// there, its internals are out of reach: the hook is left out, and llama.cpp's own kernels run.
    fn compile_hook() {
        println!("cargo:rustc-check-cfg=cfg(aded_hook)");
        let mut build = against_internals("hook");
        let Some(sources) = bundled_sources() else { return };
        let ggml = sources.join("ggml");
        println!("cargo:rustc-cfg=aded_hook");
        build
            .define("ADED_GGML_VERSION", ggml_version(&ggml).as_str())
            .include(ggml.join("src/ggml-cpu"))
            .compile("aded_hook");
    }

    /// Compiles the kept graphs, or in their place what keeps none.
    fn compile_graphs() {
        let mut build = against_internals("graphs");
        if let Some(sources) = bundled_sources() {
            build.define("ADED_LLAMA_INTERNALS", None).include(sources.join("src"));
        }
        build.include(source_folder().join("include")).compile("aded_graphs");
    }

    /// A build of `src/llama/NAME.cpp` with ggml's headers, the internal ones among them.
    fn against_internals(name: &str) -> cc::Build {
        for extension in ["cpp", "h"] {
            println!("cargo:rerun-if-changed=src/llama/{name}.{extension}");
        }
        let ggml = source_folder().join("ggml");
        let mut build = cc::Build::new();
        build
            .cpp(true)
            .std("c++17")
            .include("src/llama")
            .include(ggml.join("include"))
            .include(ggml.join("src"))
            .file(format!("src/llama/{name}.cpp"))
            // The internal headers leave parameters and functions unused.
            .flag_if_supported("-Wno-unused-parameter")
            .flag_if_supported("-Wno-unused-function");
        build
    }

    /// llama.cpp's source folder, if ggml's CPU backend was built from it into a static library.
    fn bundled_sources() -> Option<PathBuf> {
        let out = build_folder();
        let is_static = ["libggml-cpu.a", "ggml-cpu.lib"].iter().any(|name| out.join("lib").join(name).is_file());
        let sources = source_folder();
        (is_static && sources.join("ggml/src/ggml-cpu/traits.h").is_file()).then_some(sources)
    }

    /// The folder in which the sys crate built and installed llama.cpp.
    fn build_folder() -> PathBuf {
        Path::new(&env::var_os("DEP_LLAMA_GGML_CMAKE_DIR").unwrap_or_default()).join("../..")
    }

    /// llama.cpp's source folder, as CMake noted it.
    fn source_folder() -> PathBuf {
        let cache = build_folder().join("build/CMakeCache.txt");
        let text = fs::read_to_string(&cache).unwrap_or_default();
        let home = text.lines().find_map(|line| line.strip_prefix("CMAKE_HOME_DIRECTORY:INTERNAL="));
        let home = home.unwrap_or_else(|| {
            panic!(
                "{} does not name llama.cpp's sources: rebuild llama.cpp with `cargo clean -p llama-cpp-sys-2`",
                cache.display()
            )
        });
        PathBuf::from(home)
    }

    /// ggml's version as one number: 0.26.0 is 2600.
    fn ggml_version(ggml: &Path) -> String {
        let list = fs::read_to_string(ggml.join("CMakeLists.txt")).unwrap_or_default();
        let part = |name: &str| {
            list.lines()
                .find_map(|line| {
                    line.trim().strip_prefix("set(")?.strip_prefix(name)?.strip_suffix(')')?.trim().parse::<u32>().ok()
                })
                .unwrap_or(0)
        };
        let (major, minor, patch) =
            (part("GGML_VERSION_MAJOR"), part("GGML_VERSION_MINOR"), part("GGML_VERSION_PATCH"));
        (major * 10_000 + minor * 100 + patch).to_string()
    }
}
