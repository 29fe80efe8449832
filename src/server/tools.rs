//! Calls of tools in a model's answer: the forms that common models write them in.

use std::hash::{BuildHasher as _, RandomState};

use serde_json::{Map, Value, json};

/// A call.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct ToolCall {
    pub(super) name: String,
    /// JSON, as OpenAI's clients expect it: a text.
    pub(super) arguments: String,
}

impl ToolCall {
    /// The object in a message; in a stream it carries its index.
    pub(super) fn object(&self, index: Option<usize>) -> Value {
        let mut call = json!({
            "id": id(),
            "type": "function",
            "function": {"name": self.name, "arguments": self.arguments},
        });
        if let Some(index) = index {
            call["index"] = index.into();
        }
        call
    }
}

/// Nine letters and digits: the most that all templates take back.
fn id() -> String {
    const DIGITS: &[u8; 36] = b"abcdefghijklmnopqrstuvwxyz0123456789";
    let mut number = RandomState::new().hash_one(0);
    (0..9)
        .map(|_| {
            let digit = DIGITS[(number % 36) as usize];
            number /= 36;
            char::from(digit)
        })
        .collect()
}

/// Texts that begin a call wherever they stand: Hermes' and Qwen's, Mistral's, Llama 3's.
pub(super) const MARKERS: [&str; 4] = ["<tool_call>", "[TOOL_CALLS]", "<|python_tag|>", "<function="];

/// What may begin a call at the very beginning of an answer.
pub(super) fn may_begin_plain(text: &str) -> bool {
    text.starts_with(['{', '[']) || text.starts_with("```")
}

/// The calls in a text that begins with one, or `None` where it is no call of a known tool after all.
pub(super) fn parse(text: &str, known: &[String]) -> Option<Vec<ToolCall>> {
    let text = text.trim();
    let calls = if text.contains("<tool_call>") {
        text.split("<tool_call>").skip(1).flat_map(values).filter_map(|value| call(&value)).collect()
    } else if let Some(rest) = text.strip_prefix("[TOOL_CALLS]") {
        mistral(rest)
    } else if text.starts_with("<function=") {
        text.split("<function=").skip(1).filter_map(function).collect()
    } else {
        let text = text.strip_prefix("<|python_tag|>").unwrap_or(text);
        let text = text.strip_prefix("```json").or(text.strip_prefix("```")).unwrap_or(text);
        values(text).iter().filter_map(call).collect::<Vec<_>>()
    };
    let are_known = calls.iter().all(|call| known.contains(&call.name));
    (!calls.is_empty() && are_known).then_some(calls)
}

/// The JSON values at the beginning of a text, with `;` or white space between them; the elements of a list count one by one.
fn values(text: &str) -> Vec<Value> {
    let mut values = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let mut stream = serde_json::Deserializer::from_str(rest).into_iter::<Value>();
        let Some(Ok(value)) = stream.next() else { break };
        rest = rest[stream.byte_offset()..].trim_start_matches([';', ',']).trim_start();
        match value {
            Value::Array(elements) => values.extend(elements),
            value => values.push(value),
        }
    }
    values
}

/// An object with a name and arguments, under the names that models give these.
fn call(value: &Value) -> Option<ToolCall> {
    let object = value.as_object()?;
    // OpenAI's own form, which some models imitate.
    let object = object.get("function").and_then(Value::as_object).unwrap_or(object);
    let name = object.get("name")?.as_str()?;
    let arguments = object.get("arguments").or_else(|| object.get("parameters"));
    Some(ToolCall { name: name.to_owned(), arguments: arguments_text(arguments)? })
}

fn arguments_text(arguments: Option<&Value>) -> Option<String> {
    match arguments {
        None | Some(Value::Null) => Some("{}".to_owned()),
        Some(Value::Object(map)) => Some(Value::Object(map.clone()).to_string()),
        // Already a text that holds an object.
        Some(Value::String(text)) => serde_json::from_str::<Map<String, Value>>(text).is_ok().then(|| text.clone()),
        Some(_) => None,
    }
}

/// A list of calls, or names each followed by arguments, with or without `[ARGS]` between.
fn mistral(text: &str) -> Vec<ToolCall> {
    if text.trim_start().starts_with(['[', '{']) {
        return values(text).iter().filter_map(call).collect();
    }
    text.split("[TOOL_CALLS]")
        .filter_map(|part| {
            let begin = part.find('{')?;
            let name = part[..begin].trim().trim_end_matches("[ARGS]").trim();
            let arguments = values(&part[begin..]);
            Some(ToolCall { name: name.to_owned(), arguments: arguments_text(arguments.first())? })
        })
        .collect()
}

/// `name>{...}</function>`, after the opening was taken off.
fn function(text: &str) -> Option<ToolCall> {
    let (name, rest) = text.split_once('>')?;
    let arguments = values(rest);
    Some(ToolCall { name: name.trim().to_owned(), arguments: arguments_text(arguments.first())? })
}

/// Tells a model whose template knows nothing of tools how to call them.
pub(super) fn instruction(tools: &Value) -> String {
    let mut text = String::from(
        "You may call functions to help with the question. Each function is described by a JSON object:\n",
    );
    for tool in tools.as_array().into_iter().flatten() {
        text += &format!("{}\n", tool.get("function").unwrap_or(tool));
    }
    text += "To call one, answer with its name and its arguments between these tags and nothing else:\n\
             <tool_call>\n{\"name\": \"the name\", \"arguments\": {\"parameter\": \"value\"}}\n</tool_call>";
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_common_forms_are_understood() {
        let known = ["f".to_owned(), "g".to_owned()];
        let f = |arguments: &str| ToolCall { name: "f".to_owned(), arguments: arguments.to_owned() };
        let one = [f(r#"{"a":1}"#)];
        for text in [
            "<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": 1}}\n</tool_call>",
            "<tool_call>{\"name\": \"f\", \"arguments\": {\"a\": 1}}",
            "[TOOL_CALLS][{\"name\": \"f\", \"arguments\": {\"a\": 1}}]",
            "[TOOL_CALLS]f[ARGS]{\"a\": 1}",
            "[TOOL_CALLS] f {\"a\": 1}",
            "{\"name\": \"f\", \"parameters\": {\"a\": 1}}",
            "<|python_tag|>{\"name\": \"f\", \"parameters\": {\"a\": 1}}",
            "<function=f>{\"a\": 1}</function>",
            "```json\n{\"name\": \"f\", \"arguments\": {\"a\": 1}}\n```",
            "{\"type\": \"function\", \"function\": {\"name\": \"f\", \"arguments\": {\"a\": 1}}}",
        ] {
            assert_eq!(parse(text, &known).as_deref(), Some(&one[..]), "{text}");
        }
        let two =
            "<tool_call>{\"name\": \"f\"}</tool_call>\n<tool_call>{\"name\": \"g\", \"arguments\": \"{}\"}</tool_call>";
        let two = parse(two, &known).unwrap();
        assert_eq!((two.len(), two[0].arguments.as_str(), two[1].name.as_str()), (2, "{}", "g"));
        assert_eq!(
            parse("{\"name\": \"f\", \"parameters\": {}}; {\"name\": \"g\", \"parameters\": {}}", &known)
                .unwrap()
                .len(),
            2
        );
    }

    #[test]
    fn what_is_no_call_stays_text() {
        let known = ["f".to_owned()];
        for text in [
            "{\"answer\": 4}",
            "{\"name\": \"unknown\", \"arguments\": {}}",
            "[1, 2, 3]",
            "<tool_call>not JSON</tool_call>",
            "{\"name\": \"f\", \"arguments\": [1]}",
            "[TOOL_CALLS]",
            "<function=",
            "",
        ] {
            assert_eq!(parse(text, &known), None, "{text}");
        }
    }

    #[test]
    fn ids_are_short_and_differ() {
        assert!(id().len() == 9 && id() != id());
    }
}
