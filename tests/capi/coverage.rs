//! The misuse suite leaves no function out: each one that the header declares is called wrongly in every way that its types allow.

use std::fs;
use std::path::Path;

use super::ROOT;

fn read(path: &str) -> String {
    fs::read_to_string(Path::new(ROOT).join(path)).expect("readable")
}

/// The arguments of the call that begins after the opening parenthesis, split at commas that are not inside others.
fn arguments(text: &str) -> Vec<String> {
    let (mut depth, mut all) = (0, vec![String::new()]);
    for character in text.chars() {
        match character {
            '(' | '{' | '[' => depth += 1,
            ')' | '}' | ']' if depth == 0 => break,
            ')' | '}' | ']' => depth -= 1,
            ',' if depth == 0 => {
                all.push(String::new());
                continue;
            }
            _ => {}
        }
        all.last_mut().expect("never empty").push(character);
    }
    all.iter().map(|argument| argument.trim().to_owned()).collect()
}

/// The functions of the header with their parameters.
fn prototypes(header: &str) -> Vec<(String, Vec<String>)> {
    let code: Vec<&str> = header.lines().map(|line| line.split("//").next().unwrap_or_default()).collect();
    let is_first = |line: &&str| line.starts_with(|c: char| c.is_ascii_lowercase()) && !line.starts_with("typedef");
    let begins = (0..code.len()).filter(|&at| is_first(&code[at]) && code[at].contains('('));
    let prototype = |at: usize| {
        let text = code[at..].join("\n");
        let (before, after) = text.split_once('(')?;
        let name = before.rsplit([' ', '*']).next()?;
        name.starts_with("aded_").then(|| (name.to_owned(), arguments(after)))
    };
    begins.filter_map(prototype).collect()
}

#[test]
fn the_misuse_suite_calls_every_function_with_null_everywhere_and_with_freed_handles() {
    let sources = read("tests/capi/misuse.c") + &read("tests/capi/misuse_full.c");
    let all = prototypes(&read("include/aded.h"));
    assert!(all.len() > 40, "{} functions", all.len());
    let mut missing = Vec::new();
    for (name, parameters) in all {
        let calls: Vec<_> = sources.split(&format!("{name}(")).skip(1).map(arguments).collect();
        if calls.is_empty() {
            missing.push(format!("{name} is never called"));
            continue;
        }
        for (index, parameter) in parameters.iter().enumerate().filter(|(_, parameter)| parameter.contains('*')) {
            if !calls.iter().any(|call| call.get(index).is_some_and(|argument| argument.contains("NULL"))) {
                missing.push(format!("{name} never gets NULL as `{parameter}`"));
            }
        }
        let takes_handle =
            ["drafter", "model", "session"].iter().any(|kind| parameters[0].ends_with(&format!("aded_{kind} *{kind}")));
        if takes_handle && !sources.contains(&format!("GIVES(ADED_NO_SUCH_HANDLE, {name}(")) {
            missing.push(format!("{name} never gets a handle that was freed"));
        }
    }
    assert!(missing.is_empty(), "{}", missing.join("\n"));
}

#[test]
fn the_misuse_suite_sees_every_status_that_a_caller_can_provoke() {
    // A fault in the library cannot be provoked from outside; unit tests of `boundary.rs` see what becomes of one.
    let sources = read("tests/capi/misuse.c") + &read("tests/capi/misuse_full.c");
    let header = read("include/aded.h");
    let statuses = header.split("typedef enum {").nth(1).and_then(|rest| rest.split('}').next()).expect("the statuses");
    let names = statuses.lines().filter_map(|line| line.trim().split_once(" = ")).map(|(name, _)| name);
    for name in names.filter(|name| !["ADED_INTERNAL", "ADED_POISONED", "ADED_OK"].contains(name)) {
        assert!(sources.contains(name), "no test provokes {name}");
    }
}
