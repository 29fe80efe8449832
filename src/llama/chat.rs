//! Chat templates: the Jinja text in a model file, run the way the Python library runs it for which such templates are written.

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Serde, ValueKind};
use minijinja::{Environment, ErrorKind, Value, context};
use serde::Serialize;

use crate::error::Error;

/// One message of a chat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChatMessage {
    /// Who speaks: `system`, `user` or `assistant`, or what else the model's template knows.
    pub role: String,
    /// What is said.
    pub content: String,
}

impl ChatMessage {
    /// A message.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self { role: role.into(), content: content.into() }
    }
}

/// All that a template is given, from any values that can be serialised: messages with tool calls, tools, variables of its own.
#[derive(Clone, Debug)]
pub struct ChatInput {
    messages: Value,
    tools: Value,
    variables: Value,
    add_generation_prompt: bool,
}

impl ChatInput {
    /// A list of messages, each a map with at least `role` and `content`, after which the model answers.
    pub fn new(messages: &impl Serialize) -> Self {
        Self {
            messages: Value::from(Serde(messages)),
            tools: Value::from(()),
            variables: context! {},
            add_generation_prompt: true,
        }
    }

    /// Adds the list of tools that the model may call.
    #[must_use]
    pub fn with_tools(self, tools: &impl Serialize) -> Self {
        Self { tools: Value::from(Serde(tools)), ..self }
    }

    /// Adds a map of further variables that the template may know, such as `enable_thinking`. They do not replace those that every
    /// template is given.
    #[must_use]
    pub fn with_variables(self, variables: &impl Serialize) -> Self {
        Self { variables: Value::from(Serde(variables)), ..self }
    }

    /// Whether the opening of the model's own answer comes last. Default true.
    #[must_use]
    pub fn with_generation_prompt(self, add_generation_prompt: bool) -> Self {
        Self { add_generation_prompt, ..self }
    }
}

/// Steps that a template may take: one that loops for ever ends here.
const FUEL: u64 = 50_000_000;

/// Runs a template.
pub(super) fn render(
    template: &str,
    messages: &[ChatMessage],
    add_generation_prompt: bool,
    begin: &str,
    end: &str,
) -> Result<String, Error> {
    let messages: Vec<Value> =
        messages.iter().map(|message| context! { role => &message.role, content => &message.content }).collect();
    let messages = Value::from(messages);
    let input = ChatInput { messages, tools: Value::from(()), variables: context! {}, add_generation_prompt };
    render_input(template, &input, begin, end)
}

/// Runs a template on anything.
pub(super) fn render_input(template: &str, input: &ChatInput, begin: &str, end: &str) -> Result<String, Error> {
    let mut environment = Environment::new();
    // These templates are written for an environment with both switches on.
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    environment.set_syntax(syntax.map_err(|error| Error::format(format!("cannot set up chat templates: {error}")))?);
    environment.set_fuel(Some(FUEL));
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.add_filter("tojson", to_json);
    environment.add_function("raise_exception", |text: String| -> Result<Value, minijinja::Error> {
        Err(minijinja::Error::new(ErrorKind::InvalidOperation, text).with_source(Refused))
    });
    environment.add_function("strftime_now", |format: String| super::clock::format_now(&format));
    let ChatInput { messages, tools, variables, add_generation_prompt } = input;
    environment
        .add_template("chat", template)
        .and_then(|()| environment.get_template("chat"))
        .and_then(|template| {
            template.render(context! {
                messages,
                add_generation_prompt,
                bos_token => begin,
                eos_token => end,
                tools,
                ..variables.clone()
            })
        })
        .map_err(|error| {
            let refused = std::error::Error::source(&error).is_some_and(|source| source.is::<Refused>());
            let text = error.detail().map_or_else(|| error.kind().to_string(), str::to_owned);
            let line = error.line().map_or_else(String::new, |line| format!(" (line {line} of the template)"));
            if refused {
                Error::usage(format!("the model's chat template refuses the messages: {text}"))
            } else {
                Error::format(format!(
                    "cannot run the model's chat template: {text}{line}; give the prompt as plain text"
                ))
                .with_source(error)
            }
        })
}

/// Marks an error that the template itself raised.
#[derive(Debug, thiserror::Error)]
#[error("raised by the template")]
struct Refused;

/// `json.dumps` as templates expect it: no HTML escapes, characters beyond ASCII as they are, `", "` and `": "` between entries.
fn to_json(value: &Value, options: Kwargs) -> Result<Value, minijinja::Error> {
    let indent: Option<usize> = options.get("indent")?;
    _ = options.get::<Option<bool>>("ensure_ascii");
    _ = options.get::<Option<bool>>("sort_keys");
    options.assert_all_used()?;
    let mut json = String::new();
    write_json(value, indent, 0, &mut json)?;
    Ok(Value::from_safe_string(json))
}

fn write_json(value: &Value, indent: Option<usize>, depth: usize, json: &mut String) -> Result<(), minijinja::Error> {
    let line = |json: &mut String, depth: usize| {
        if let Some(indent) = indent {
            json.push('\n');
            json.extend(std::iter::repeat_n(' ', indent * depth));
        }
    };
    let comma = if indent.is_some() { "," } else { ", " };
    match value.kind() {
        ValueKind::Undefined | ValueKind::None => json.push_str("null"),
        ValueKind::Bool => json.push_str(if value.is_true() { "true" } else { "false" }),
        ValueKind::String => write_json_text(value.as_str().unwrap_or_default(), json),
        ValueKind::Seq | ValueKind::Iterable => {
            json.push('[');
            let mut n_entries = 0;
            for entry in value.try_iter()? {
                json.push_str(if n_entries > 0 { comma } else { "" });
                line(json, depth + 1);
                write_json(&entry, indent, depth + 1, json)?;
                n_entries += 1;
            }
            if n_entries > 0 {
                line(json, depth);
            }
            json.push(']');
        }
        ValueKind::Map => {
            json.push('{');
            let mut n_entries = 0;
            for key in value.try_iter()? {
                json.push_str(if n_entries > 0 { comma } else { "" });
                line(json, depth + 1);
                write_json_text(&key.to_string(), json);
                json.push_str(": ");
                write_json(&value.get_item(&key)?, indent, depth + 1, json)?;
                n_entries += 1;
            }
            if n_entries > 0 {
                line(json, depth);
            }
            json.push('}');
        }
        _ => json.push_str(&value.to_string()),
    }
    Ok(())
}

fn write_json_text(text: &str, json: &mut String) {
    json.push('"');
    for character in text.chars() {
        match character {
            '"' => json.push_str("\\\""),
            '\\' => json.push_str("\\\\"),
            '\n' => json.push_str("\\n"),
            '\r' => json.push_str("\\r"),
            '\t' => json.push_str("\\t"),
            control if (control as u32) < 0x20 => json.push_str(&format!("\\u{:04x}", control as u32)),
            other => json.push(other),
        }
    }
    json.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(template: &str) -> Result<String, Error> {
        let messages = [ChatMessage::new("system", " be brief "), ChatMessage::new("user", "2 < 3 & \"so\"?")];
        render(template, &messages, true, "<s>", "</s>")
    }

    #[test]
    fn python_habits_of_templates_work() {
        let template = "{{- bos_token }}\n{%- set ns = namespace(n=0) %}\n{% for message in messages[1:] %}\n    \
                        {%- set ns.n = ns.n + 1 %}\n{{ message['role'].upper() + ':' + message.content.strip() }}\n{% endfor %}\n\
                        {% if add_generation_prompt %}{{ ns.n ~ messages[0].content.split(' ')[1] }}{% endif %}";
        assert_eq!(run(template).unwrap(), "<s>USER:2 < 3 & \"so\"?\n1be");
        assert_eq!(run("{{ 'abc'.startswith('ab') }}{{ messages[0].get('x', 'none') }}").unwrap(), "Truenone");
        assert_eq!(
            run("{% for m in messages %}{% if loop.last %}{% break %}{% endif %}{{ m.role }}{% endfor %}").unwrap(),
            "system"
        );
        assert_eq!(
            run("{{ tools is none }}{{ messages is iterable }}{{ messages[0].content is string }}").unwrap(),
            "TrueTrueTrue"
        );
    }

    #[test]
    fn tools_and_variables_reach_the_template_and_replace_nothing() {
        let message = std::collections::BTreeMap::from([("role", "user"), ("content", "hi")]);
        let input = ChatInput::new(&[message])
            .with_tools(&[[("name", "f")]])
            .with_variables(&std::collections::BTreeMap::from([("mood", "glad"), ("bos_token", "x")]))
            .with_generation_prompt(false);
        let template =
            "{{ bos_token }}{{ mood }}{{ messages[0].content }}{{ tools | tojson }}{{ add_generation_prompt }}";
        assert_eq!(render_input(template, &input, "<s>", "").unwrap(), "<s>gladhi[[[\"name\", \"f\"]]]False");
    }

    #[test]
    fn json_is_written_as_python_writes_it() {
        assert_eq!(run("{{ messages[1] | tojson }}").unwrap(), r#"{"role": "user", "content": "2 < 3 & \"so\"?"}"#);
        assert_eq!(run("{{ [1, 2.5, true, none, 'ü\n'] | tojson }}").unwrap(), "[1, 2.5, true, null, \"ü\\n\"]");
        assert_eq!(run("{{ {'a': [1]} | tojson(indent=2) }}").unwrap(), "{\n  \"a\": [\n    1\n  ]\n}");
    }

    #[test]
    fn a_template_that_refuses_or_fails_gives_one_clear_line() {
        let refused = run("{{ raise_exception('roles must alternate') }}").unwrap_err();
        assert!(
            refused.is_usage() && refused.to_string().ends_with("refuses the messages: roles must alternate"),
            "{refused}"
        );
        for template in ["{% generation %}", "{{ messages[0].nothing.more }}", "{{ nothing() }}"] {
            let error = run(template).unwrap_err();
            assert!(error.is_format() && !error.to_string().contains('\n'), "{error}");
        }
        assert!(run("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}").is_err());
    }
}
