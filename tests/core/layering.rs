//! The layers of ARCHITECTURE.md, held by a scan of the sources.

use std::fs;
use std::path::{Path, PathBuf};

/// The layers from left to right; a module imports only from layers to its left, and from its own layer where `true` stands.
const LAYERS: &[(&[&str], bool)] = &[
    (&["token", "error", "cancel", "log"], true),
    (&["config", "stats", "kernels", "representative", "sampling"], true),
    (&["draft"], false),
    (&["batch"], false),
    (&["verify", "leaf_ids"], false),
    (&["model"], false),
    (&["noise"], false),
    (&["sequence"], false),
    (&["round"], false),
    (&["generation"], false),
    (&["llama", "llama_cpp_2"], false),
    (&["capi"], false),
    (&["app", "server", "bench", "replay"], true),
];

fn sources(folder: &Path, out: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("readable").map(|entry| entry.expect("readable").path()) {
        if entry.is_dir() {
            sources(&entry, out);
        } else if entry.extension().is_some_and(|extension| extension == "rs") && !entry.ends_with("tests.rs") {
            out.push(entry);
        }
    }
}

/// Each source file: its top module, its path below `src/`, and its text without tests and comments.
fn modules() -> Vec<(String, String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    files
        .into_iter()
        .map(|file| {
            let name = file.strip_prefix(&root).expect("below src").to_string_lossy().replace('\\', "/");
            let module = name.split(['/', '.']).next().unwrap_or_default().to_owned();
            let text = fs::read_to_string(&file).expect("UTF-8");
            let code = text.split("#[cfg(test)]\nmod").next().unwrap_or_default();
            let code =
                code.lines().map(|line| line.split("//").next().unwrap_or_default()).collect::<Vec<_>>().join("\n");
            (module, name, code)
        })
        .collect()
}

fn layer(module: &str) -> Option<usize> {
    LAYERS.iter().position(|(modules, _)| modules.contains(&module))
}

#[test]
fn modules_import_only_from_the_left() {
    for (module, name, code) in modules() {
        let Some(own) = layer(&module) else {
            assert!(
                ["lib", "main"].contains(&module.as_str()),
                "{name} belongs to no layer: add it to ARCHITECTURE.md and here"
            );
            continue;
        };
        for used in code.split("crate::").skip(1) {
            let used: String = used.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            let Some(other) = layer(&used) else { continue };
            let allowed = other < own || (other == own && (used == module || LAYERS[own].1));
            assert!(allowed, "{name} imports crate::{used}, which is not to its left");
        }
    }
}

#[test]
fn the_core_does_no_io_starts_no_thread_and_reads_no_clock() {
    for (module, name, code) in modules() {
        if layer(&module) >= layer("llama") || layer(&module).is_none() {
            continue;
        }
        let files = name.starts_with("representative/store") || name.starts_with("representative/corpus");
        let clock = name == "round.rs";
        for (word, allowed) in [
            ("std::fs", files),
            ("std::net", false),
            ("std::thread", false),
            ("std::process", files),
            ("std::env", false),
            ("Instant", clock),
            ("SystemTime", false),
            ("println!", false),
            ("eprintln!", false),
            ("print!", false),
        ] {
            assert!(allowed || !code.contains(word), "{name} names {word}");
        }
    }
}

#[test]
fn only_the_engine_names_llama_and_only_listed_files_are_unsafe() {
    for (_, name, code) in modules() {
        let engine = name.starts_with("llama/") || name == "llama_cpp_2.rs";
        for word in ["llama_cpp_sys_2", "llama_cpp_2::"] {
            assert!(engine || !code.contains(word), "{name} names {word}");
        }
        let may = ["llama/sys", "llama/kernels", "kernels", "capi/"].iter().any(|prefix| name.starts_with(prefix));
        let uses = code.contains("unsafe {")
            || code.contains("unsafe fn")
            || code.contains("unsafe impl")
            || code.contains("unsafe extern");
        assert!(may || !uses, "{name} holds unsafe code");
    }
}
