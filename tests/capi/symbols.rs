//! What the libraries define and need: the core knows nothing of llama.cpp, and the link lists in the documents are rustc's own.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use super::{ROOT, libraries, linked, run, text};

/// The functions that the header declares, those of the full library as well or not.
fn declared(full: bool) -> BTreeSet<String> {
    let header = fs::read_to_string(Path::new(ROOT).join("include/aded.h")).expect("the header");
    let mut names = BTreeSet::new();
    let mut guarded = false;
    for line in header.lines() {
        match line {
            "#if defined(ADED_FULL)" => guarded = true,
            "#endif" => guarded = false,
            _ => {}
        }
        let is_code = !line.trim_start().starts_with("//") && !line.starts_with(" *") && !line.starts_with("typedef");
        if let Some((before, _)) = line.split_once('(').filter(|_| is_code && (full || !guarded)) {
            let name = before.rsplit([' ', '*']).next().unwrap_or_default();
            if name.starts_with("aded_") {
                names.insert(name.to_owned());
            }
        }
    }
    names
}

/// Symbols of a library: name, and whether it is defined there.
fn symbols(file: &Path, arguments: &[&str]) -> Vec<(String, bool)> {
    let output = text(&run(Command::new("nm").args(arguments).arg(file)));
    let entry = |line: &str| {
        let mut words = line.split_whitespace().rev();
        let (name, kind) = (words.next()?, words.next()?);
        (kind.len() == 1).then(|| (name.trim_start_matches('_').to_owned(), !"Uw".contains(kind)))
    };
    output.lines().filter_map(entry).collect()
}

#[test]
fn the_core_names_no_symbol_of_llama_cpp() {
    let folder = libraries("core");
    let own = symbols(&folder.join("libaded_core.a"), &[]);
    let foreign: Vec<_> = own.iter().filter(|(name, _)| name.contains("llama") || name.contains("ggml")).collect();
    assert!(own.len() > 1000 && foreign.is_empty(), "{} symbols, of them foreign: {foreign:?}", own.len());
    let defined: BTreeSet<_> =
        own.into_iter().filter(|(name, defined)| *defined && name.starts_with("aded_")).map(|(name, _)| name).collect();
    assert_eq!(defined, declared(false), "functions in the archive, and in the header");
    if cfg!(target_os = "linux") {
        let exported = symbols(&folder.join("libaded_core.so"), &["-D", "--defined-only"]);
        let exported: BTreeSet<_> = exported.into_iter().map(|(name, _)| name).collect();
        assert_eq!(exported, declared(false), "functions that the shared library exports");
    }
}

#[cfg(feature = "llama")]
#[test]
fn the_full_library_has_every_function_of_the_header_and_llama_cpp() {
    let folder = libraries("full");
    let defined: BTreeSet<_> = symbols(&folder.join("libaded.a"), &[])
        .into_iter()
        .filter_map(|(name, defined)| defined.then_some(name))
        .collect();
    let missing: Vec<_> = declared(true).into_iter().filter(|name| !defined.contains(name)).collect();
    assert!(missing.is_empty(), "{missing:?} are declared and not defined");
    assert!(declared(true).len() > declared(false).len() + 15, "the header guards what only the full library has");
    assert!(defined.contains("llama_decode"), "a host can take the llama.cpp inside as its own");
    if cfg!(target_os = "linux") {
        let exported = symbols(&folder.join("libaded.so"), &["-D", "--defined-only"]);
        let exported: BTreeSet<_> = exported.into_iter().map(|(name, _)| name).collect();
        assert_eq!(exported, declared(true), "the shared library keeps its llama.cpp to itself");
    }
}

/// The list after `name: ` in the header's manual.
#[cfg(target_os = "linux")]
fn documented(name: &str) -> BTreeSet<String> {
    let header = fs::read_to_string(Path::new(ROOT).join("include/aded.h")).expect("the header");
    let list =
        header.lines().find_map(|line| line.trim_start_matches(" *").trim().strip_prefix(name)).expect("a link list");
    list.trim_start_matches(':').split_whitespace().map(str::to_owned).collect()
}

#[cfg(target_os = "linux")]
#[test]
fn the_documented_link_lists_are_those_of_rustc() {
    let rustc = |kind, package| linked(&libraries(kind), package).into_iter().collect::<BTreeSet<_>>();
    assert_eq!(documented("libaded_core.a"), rustc("core", "aded-core"));
    #[cfg(feature = "llama")]
    assert_eq!(documented("libaded.a"), rustc("full", "aded"));
}
