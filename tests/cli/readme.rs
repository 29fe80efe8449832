//! The commands of the README run as they stand there, and its library snippet is that of an example.

use std::fs;
use std::path::Path;

use crate::{folder, outcome, program, tiny};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The contents of the README's code blocks in a language.
fn blocks(language: &str) -> Vec<String> {
    let readme = fs::read_to_string(root().join("README.md")).expect("there is a README");
    let fence = format!("```{language}\n");
    readme.split(&fence).skip(1).filter_map(|rest| rest.split("```").next()).map(str::to_owned).collect()
}

/// The commands of the program in shell blocks, long ones joined, with the folder that holds files they name.
fn commands() -> Vec<String> {
    let lines = blocks("sh").join("\n").replace("\\\n", " ");
    let commands = lines.lines().map(|line| line.split("   #").next().unwrap_or_default().trim());
    commands.filter(|line| line.contains("aded ") && !line.contains("cargo ")).map(str::to_owned).collect()
}

#[test]
fn the_commands_work() {
    let commands = commands();
    assert!(commands.len() >= 3, "{commands:?}");
    let folder = folder();
    fs::create_dir(folder.path().join("docs")).unwrap();
    for name in ["notes.txt", "README.md", "docs/guide.md", "main.rs", "code.py"] {
        fs::write(folder.path().join(name), "the hen and the hat and the hen\n").unwrap();
    }
    let question = r#"{"question_id": 1, "category": "hens", "turns": ["Where is the hen?"]}"#;
    fs::write(folder.path().join("questions.jsonl"), question).unwrap();
    let model = tiny();
    for command in &commands {
        let script = command
            .replace("./target/release/aded", "\"$ADED\"")
            .replace("~/models/mine.gguf", "\"$MODEL\"")
            .replace("git diff", "echo a change");
        let script = if script.starts_with("aded ") { script.replacen("aded ", "\"$ADED\" ", 1) } else { script };
        let mut shell = program();
        let variables =
            [("ADED", env!("CARGO_BIN_EXE_aded")), ("MODEL", model), ("ADED_MODEL", model), ("ADED_PREDICT", "8")];
        let envs: Vec<_> =
            shell.get_envs().map(|(name, value)| (name.to_owned(), value.map(ToOwned::to_owned))).collect();
        shell = std::process::Command::new("sh");
        for (name, value) in envs {
            match value {
                Some(value) => shell.env(name, value),
                None => shell.env_remove(name),
            };
        }
        shell.envs(variables).current_dir(folder.path()).stdin(std::process::Stdio::null()).args(["-ec", &script]);
        let outcome = outcome(&mut shell);
        assert_eq!(outcome.code, Some(0), "{command}\n{}", outcome.stderr);
    }
}

#[test]
fn the_library_snippet_is_part_of_an_example() {
    let example = fs::read_to_string(root().join("examples/01_generate.rs")).unwrap();
    let lines: Vec<&str> = example.lines().map(str::trim).collect();
    let snippets = blocks("rust");
    assert!(!snippets.is_empty());
    for line in snippets.iter().flat_map(|snippet| snippet.lines()).map(str::trim).filter(|line| !line.is_empty()) {
        assert!(lines.contains(&line), "examples/01_generate.rs lacks: {line}");
    }
}
