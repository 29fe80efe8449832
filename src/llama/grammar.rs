//! Grammars: from a JSON schema by llama.cpp's own converter, and the checks that llama.cpp's parsers lack. They call themselves for each
//! level and for each reference; where the stack ends, the process ends.

use std::ffi::CString;

use serde_json::Value;

use super::sys;
use crate::error::Error;

/// Longest schema or grammar that is taken, in bytes. A grammar's rules are expanded in memory.
const MAX_BYTES: usize = 1 << 20;

/// Rules and groups of a grammar that are taken: each may be a call within the last one, and a thread's stack has two megabytes.
const MAX_RULES: usize = 5000;

/// Deepest nesting of groups in a grammar that is taken.
const MAX_NESTING: usize = 200;

/// Longest chain of references in a schema that is taken.
const MAX_REFERENCES: usize = 100;

/// The grammar, in llama.cpp's GBNF notation, of the JSON texts that fit a JSON schema, for [`SamplingParams::grammar`]. The schema `{}`
/// admits any JSON.
///
/// [`SamplingParams::grammar`]: super::SamplingParams::grammar
///
/// # Errors
/// [`Error::is_usage`] if the text is no JSON, if the schema asks for what llama.cpp's converter cannot express, and if it is too large or
/// refers to itself without end.
///
/// ```
/// let grammar = aded::llama::json_schema_to_grammar(r#"{"type": "integer", "minimum": 0, "maximum": 9}"#)?;
/// assert!(grammar.contains("root ::="));
/// # Ok::<(), aded::Error>(())
/// ```
pub fn json_schema_to_grammar(schema: &str) -> Result<String, Error> {
    check_length("JSON schema", schema)?;
    // This parser has a limit on nesting, and says where the fault is.
    let value: Value =
        serde_json::from_str(schema).map_err(|error| Error::usage(format!("the JSON schema is no JSON: {error}")))?;
    check_references(&value, &value)?;
    let text = CString::new(schema).map_err(|_| Error::usage("the JSON schema holds a zero byte"))?;
    sys::json_schema_to_grammar(&text).map_err(|reason| {
        let reason = reason.split_whitespace().collect::<Vec<_>>().join(" ");
        Error::usage(format!("the JSON schema cannot be used: {reason}"))
    })
}

/// Refuses grammars that llama.cpp's parser would end the process on.
pub(super) fn check_gbnf(grammar: &str) -> Result<(), Error> {
    check_length("grammar", grammar)?;
    let (n_rules, deepest) = measure(grammar);
    if n_rules > MAX_RULES {
        return Err(Error::usage(format!(
            "the grammar has {n_rules} rules and groups, but at most {MAX_RULES} are taken"
        )));
    }
    if deepest > MAX_NESTING {
        return Err(Error::usage(format!(
            "the grammar nests groups {deepest} deep, but at most {MAX_NESTING} levels are taken"
        )));
    }
    Ok(())
}

fn check_length(what: &str, text: &str) -> Result<(), Error> {
    if text.len() > MAX_BYTES {
        return Err(Error::usage(format!("the {what} has {} bytes, but at most {MAX_BYTES} are taken", text.len())));
    }
    Ok(())
}

/// Refuses a `$ref` that leads to a `$ref` and so on without end.
fn check_references(value: &Value, root: &Value) -> Result<(), Error> {
    let reference = |value: &Value| value.get("$ref").and_then(Value::as_str).map(str::to_owned);
    let mut at = reference(value);
    let mut n_steps = 0;
    while let Some(name) = at {
        n_steps += 1;
        if n_steps > MAX_REFERENCES {
            return Err(Error::usage(format!(
                "the JSON schema's reference {name:?} leads on through more than {MAX_REFERENCES} others, perhaps to itself"
            )));
        }
        // Another file's schemas are the converter's to refuse.
        at = name.strip_prefix('#').and_then(|pointer| root.pointer(pointer)).and_then(reference);
    }
    match value {
        Value::Object(map) => map.values().try_for_each(|value| check_references(value, root)),
        Value::Array(list) => list.iter().try_for_each(|value| check_references(value, root)),
        _ => Ok(()),
    }
}

/// Rules and groups of a grammar, and how deep its groups nest, outside of texts, character classes and comments.
fn measure(grammar: &str) -> (usize, usize) {
    let (mut n_rules, mut depth, mut deepest) = (grammar.matches("::=").count(), 0usize, 0);
    let mut until: Option<char> = None;
    let mut characters = grammar.chars();
    while let Some(character) = characters.next() {
        match (until, character) {
            (Some('\n'), '\n') => until = None,
            (Some('\n'), _) => {}
            (_, '\\') => _ = characters.next(),
            (Some(end), _) if character == end => until = None,
            (Some(_), _) => {}
            (None, '"') => until = Some('"'),
            (None, '[') => until = Some(']'),
            (None, '#') => until = Some('\n'),
            (None, '(') => {
                n_rules += 1;
                depth += 1;
                deepest = deepest.max(depth);
            }
            (None, ')') => depth = depth.saturating_sub(1),
            (None, '*' | '+' | '?' | '{') => n_rules += 1,
            (None, _) => {}
        }
    }
    (n_rules, deepest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(schema: &str, part: &str) {
        let error = json_schema_to_grammar(schema).expect_err(schema);
        assert!(error.is_usage() && error.to_string().contains(part) && !error.to_string().contains('\n'), "{error}");
    }

    #[test]
    fn rules_and_groups_are_counted_outside_of_texts() {
        assert_eq!(measure("root ::= (\"((\" [(\\]] # ((\n ((\"a\")))*"), (5, 3));
        assert_eq!(measure(""), (0, 0));
        assert!(check_gbnf(&"(".repeat(MAX_NESTING + 1)).is_err());
        assert!(check_gbnf(&"x".repeat(MAX_BYTES + 1)).is_err());
        check_gbnf("root ::= [a-z]+").unwrap();
    }

    #[test]
    fn schemas_that_cannot_be_used_are_errors() {
        refused("", "is no JSON: EOF");
        refused("{\"type\": }", "line 1 column 10");
        refused(&"[".repeat(100_000), "recursion limit");
        refused(&format!("{{\"a\": \"{}\"}}", "x".repeat(MAX_BYTES)), "bytes, but at most");
        refused(r##"{"allOf": [{"$ref": "#/$defs/a"}], "$defs": {"a": {"$ref": "#/$defs/a"}}}"##, "perhaps to itself");
        refused(r##"{"$ref": "#/$defs/missing"}"##, "cannot be used");
        refused(r#"{"type": "string", "pattern": "^(a$"}"#, "cannot be used");
        refused(r#"{"type": "no-such-type"}"#, "cannot be used");
        refused("{\"type\": \"integer\", \"a\\u0000\": 1, \0}", "is no JSON");
    }

    #[test]
    fn a_schema_that_holds_itself_further_in_is_fine() {
        let list =
            r##"{"$ref": "#/$defs/list", "$defs": {"list": {"type": "array", "items": {"$ref": "#/$defs/list"}}}}"##;
        assert!(json_schema_to_grammar(list).unwrap().contains("root ::="));
        assert!(json_schema_to_grammar("{}").unwrap().contains("root ::="));
    }
}
