//! What an answer must look like: grammars, JSON schemas, and OpenAI's `response_format`.

use serde_json::{Value, json};

use super::error::ApiError;
use super::fields::{Fields, wrong};

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
    // The library says what cannot be converted.
    aded::llama::json_schema_to_grammar(&schema.to_string()).map_err(|error| ApiError::invalid(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schemas_become_grammars_or_errors() {
        let read = |schema: Value| {
            let body = json!({"response_format": {"type": "json_schema", "json_schema": {"schema": schema}}});
            grammar(&Fields::new(body.as_object().unwrap()))
        };
        let object = json!({"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]});
        assert!(read(object).unwrap().unwrap().contains("root ::="));
        assert!(read(json!({"$ref": "#/nowhere"})).is_err());
        assert!(read(json!("a")).is_err());
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
