//! Programs that link the core library alone.

use std::path::Path;
use std::process::Command;

use super::{ROOT, compile, libraries, linked, run, text};

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

/// What pkg-config says, or none where there is no pkg-config.
fn pkg_config(arguments: &[&str]) -> Option<Vec<String>> {
    let mut command = Command::new("pkg-config");
    command.env("PKG_CONFIG_PATH", libraries("core").join("pkgconfig")).args(arguments).arg("aded-core");
    command.output().ok()?;
    Some(text(&run(&mut command)).split_whitespace().map(str::to_owned).collect())
}

#[test]
fn programs_outside_the_repository_link_by_pkg_config() {
    let folder = libraries("core");
    let outside = tempfile::tempdir().expect("a folder");
    let source = Path::new(ROOT).join("tests/capi/cells.c");
    for (name, linkage) in [("shared", &[][..]), ("static", &["-static"])] {
        // macOS has no programs without shared libraries.
        let (Some(flags), false) = (
            pkg_config(if name == "static" { &["--static", "--cflags", "--libs"] } else { &["--cflags", "--libs"] }),
            cfg!(target_os = "macos") && name == "static",
        ) else {
            continue;
        };
        let program = outside.path().join(name);
        let mut command = Command::new("cc");
        command.current_dir(outside.path()).args(linkage).arg(&source).args(flags).arg("-o").arg(&program);
        run(&mut command);
        let mut command = Command::new(&program);
        command.env("LD_LIBRARY_PATH", &folder).env("DYLD_LIBRARY_PATH", &folder);
        assert!(text(&run(&mut command)).contains("all equal"), "{name}");
    }
}
