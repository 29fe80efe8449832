//! What an answer must look like: grammars, JSON schemas, and OpenAI's `response_format`.

use serde_json::{Value, json};

use super::error::ApiError;
use super::fields::{Fields, wrong};

/// Largest grammar or schema in bytes, and deepest nesting of parentheses: llama.cpp reads grammars by recursion.
const MAX_BYTES: usize = 256 << 10;
const MAX_DEPTH: usize = 64;

/// Any JSON object. White space is bounded, so that an answer cannot consist of it.
const JSON_OBJECT: &str = r#"root ::= object
object ::= "{" space ( pair ( "," space pair )* )? "}" space
pair ::= string ":" space value
value ::= object | array | string | number | ( "true" | "false" | "null" ) space
array ::= "[" space ( value ( "," space value )* )? "]" space
string ::= "\"" ( [^"\\\x00-\x1F] | "\\" ( ["\\/bfnrt] | "u" [0-9a-fA-F]{4} ) )* "\"" space
number ::= "-"? ( "0" | [1-9] [0-9]{0,15} ) ( "." [0-9]{1,16} )? ( [eE] [-+]? [0-9]{1,3} )? space
space ::= | " " | "\n" [ \t]{0,20}
"#;

/// The grammar that a request asks for in one way or another.
pub(super) fn grammar(fields: &Fields<'_>) -> Result<Option<String>, ApiError> {
    let grammar = fields.text("grammar")?.filter(|grammar| !grammar.trim().is_empty());
    let schema = fields.get("json_schema");
    let format = fields.object("response_format")?;
    let format_kind = format.map(|format| format.text("type")).transpose()?.flatten();
    let n_given = [grammar.is_some(), schema.is_some(), format_kind.is_some_and(|kind| kind != "text")];
    if n_given.into_iter().filter(|&is_given| is_given).count() > 1 {
        return Err(ApiError::invalid(
            "grammar, json_schema and response_format all say what the answer must look like: give one",
        ));
    }
    if let Some(grammar) = grammar {
        check(grammar)?;
        return Ok(Some(grammar.to_owned()));
    }
    if let Some(schema) = schema {
        return of_schema(schema).map(Some);
    }
    let Some(format) = format else { return Ok(None) };
    match format_kind {
        None | Some("text") => Ok(None),
        Some("json_object") => match format.get("schema") {
            Some(schema) => of_schema(schema).map(Some),
            None => Ok(Some(JSON_OBJECT.to_owned())),
        },
        Some("json_schema") => {
            // OpenAI wraps the schema once more; llama.cpp takes both.
            let wrapped = format.object("json_schema")?.and_then(|inner| inner.get("schema"));
            let schema = wrapped.or(format.get("schema")).ok_or_else(|| {
                format.missing("response_format.json_schema.schema", "a JSON schema, or ask for the type json_object")
            })?;
            of_schema(schema).map(Some)
        }
        Some(other) => Err(wrong("response_format.type", &Value::from(other), "text, json_object or json_schema")),
    }
}

/// The grammar of calls of tools, in the plain form `{"name": ..., "arguments": ...}`.
pub(super) fn of_tools(tools: &[(String, Value)]) -> Result<String, ApiError> {
    let call = |(name, parameters): &(String, Value)| {
        let parameters = if parameters.is_object() { parameters.clone() } else { json!({"type": "object"}) };
        json!({
            "type": "object",
            "properties": {"name": {"const": name}, "arguments": parameters},
            "required": ["name", "arguments"],
        })
    };
    match tools {
        [only] => of_schema(&call(only)),
        several => of_schema(&json!({ "anyOf": several.iter().map(call).collect::<Vec<_>>() })),
    }
}

/// The grammar of a JSON schema.
fn of_schema(schema: &Value) -> Result<String, ApiError> {
    if !schema.is_object() && !schema.is_boolean() {
        return Err(wrong("the JSON schema", schema, "an object"));
    }
    let text = schema.to_string();
    if text.len() > MAX_BYTES {
        return Err(ApiError::invalid(format!(
            "the JSON schema has {} bytes, but at most {MAX_BYTES} are taken",
            text.len()
        )));
    }
    convert(&text)
}

/// llama.cpp's own conversion.
fn convert(_schema: &str) -> Result<String, ApiError> {
    Err(ApiError::unsupported(
        "JSON schemas are not converted to grammars yet: give a grammar, or ask for the response format json_object",
    ))
}

/// Refuses what llama.cpp's parser could not survive: it recurses once for each parenthesis.
fn check(grammar: &str) -> Result<(), ApiError> {
    if grammar.len() > MAX_BYTES {
        let message = format!("the grammar has {} bytes, but at most {MAX_BYTES} are taken", grammar.len());
        return Err(ApiError::invalid_field("grammar", message));
    }
    let (mut depth, mut deepest) = (0usize, 0);
    for byte in grammar.bytes() {
        match byte {
            b'(' => depth += 1,
            // A parenthesis inside a text may close what was never opened.
            b')' => depth = depth.saturating_sub(1),
            _ => {}
        }
        deepest = deepest.max(depth);
    }
    if deepest > MAX_DEPTH {
        let message = format!(
            "the grammar nests {deepest} parentheses, but at most {MAX_DEPTH} are taken: name the inner ones as rules"
        );
        return Err(ApiError::invalid_field("grammar", message));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deep_and_long_grammars_are_refused() {
        assert!(check(&"(".repeat(65)).is_err());
        assert!(check(&format!("root ::= {}", "( \"a\" ) ".repeat(1000))).is_ok());
        assert!(check(&"a".repeat(MAX_BYTES + 1)).is_err());
    }

    #[test]
    fn one_way_to_say_it_is_enough() {
        let read = |value: &Value| grammar(&Fields::new(value.as_object().unwrap()));
        assert_eq!(
            read(&json!({"response_format": {"type": "text"}, "grammar": "root ::= \"a\""})).unwrap().unwrap(),
            "root ::= \"a\""
        );
        assert_eq!(read(&json!({"response_format": {"type": "json_object"}})).unwrap().unwrap(), JSON_OBJECT);
        assert!(read(&json!({"response_format": {"type": "json_object"}, "grammar": "root ::= \"a\""})).is_err());
        assert!(read(&json!({"response_format": {"type": "xml"}})).is_err());
        assert!(read(&json!({"response_format": {"type": "json_schema"}})).is_err());
        assert!(read(&json!({"grammar": "", "response_format": null})).unwrap().is_none());
    }
}
