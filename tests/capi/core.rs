//! Programs that link the core library alone.

use std::process::Command;

use super::{compile, libraries, linked, run, text};

#[test]
fn a_host_with_a_memory_of_cells_decodes_what_it_decodes_plainly() {
    let folder = libraries("core");
    let mut arguments = vec![folder.join("libaded_core.a").to_string_lossy().into_owned()];
    arguments.extend(linked(&folder, "aded-core"));
    let program = compile("cells", "cc", &["tests/capi/cells.c"], &arguments);
    let memory = tempfile::tempdir().expect("a folder");
    let output = text(&run(Command::new(program).arg(memory.path().join("cells.aded"))));
    assert!(output.contains("all equal"), "{output}");
}

#[test]
fn the_shared_library_works_as_the_archive_does() {
    let folder = libraries("core");
    let link = format!("-L{}", folder.display());
    let program = compile("cells-shared", "cc", &["tests/capi/cells.c"], &[&link, "-laded_core"]);
    run(Command::new(program).env("LD_LIBRARY_PATH", &folder).env("DYLD_LIBRARY_PATH", &folder));
}

#[test]
fn misuse_is_answered_by_statuses() {
    let folder = libraries("core");
    let mut arguments = vec![folder.join("libaded_core.a").to_string_lossy().into_owned()];
    arguments.extend(linked(&folder, "aded-core"));
    let program = compile("misuse", "cc", &["tests/capi/misuse.c"], &arguments);
    run(&mut Command::new(program));
}
