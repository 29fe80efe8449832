//! The prompt: from the command line, files and standard input, through the chat template, to tokens.

use std::fs;
use std::io::{self, IsTerminal as _, Read as _};
use std::path::Path;

use aded::llama::Model;
use aded::llama::text::ChatMessage;
use aded::{Error, Token};
use anyhow::{Context as _, Result};

use super::flags::{PromptArgs, TemplateArgs};

/// What the user asks.
#[derive(Debug)]
pub(crate) struct Prompt {
    text: String,
    system: Option<String>,
    template: Option<String>,
    is_plain: bool,
}

impl Prompt {
    /// Gathers the prompt: standard input or the file first, then `--prompt`.
    ///
    /// # Errors
    /// If there is none, if it is not UTF-8, or if a file cannot be read.
    pub(crate) fn read(args: &PromptArgs) -> Result<Self> {
        let mut text = match &args.file {
            Some(path) if path == Path::new("-") => read_stdin()?,
            Some(path) => read_file(path, "prompt")?,
            None if !io::stdin().is_terminal() => read_stdin()?,
            None => String::new(),
        };
        if let Some(prompt) = &args.prompt {
            if !text.is_empty() && !text.ends_with('\n') {
                text.push('\n');
            }
            text.push_str(&args.template.unescape(prompt));
        } else if text.ends_with('\n') {
            // Editors and shells end every text with one.
            text.pop();
        }
        if text.is_empty() {
            return Err(Error::usage("there is no prompt: give one with -p TEXT or -f FILE, or pipe it in").into());
        }
        let (system, template) = (args.template.system()?, args.template.template()?);
        if args.no_conversation && system.is_some() {
            return Err(Error::usage(
                "a system prompt needs the chat template: leave out -no-cnv, or put it into the prompt",
            )
            .into());
        }
        Ok(Self { text, system, template, is_plain: args.no_conversation })
    }

    /// The tokens that go before the model. A model without a chat template gets the text as it is.
    ///
    /// # Errors
    /// If the template fails or refuses.
    pub(crate) fn tokens(&self, model: &Model) -> Result<Vec<Token>, Error> {
        let template = self.template.clone().or_else(|| model.chat_template());
        let Some(template) = template.filter(|_| !self.is_plain) else {
            if self.system.is_some() {
                let name = model.path().display();
                return Err(Error::usage(format!(
                    "the model {name} has no chat template and so takes no system prompt: put it into the prompt"
                )));
            }
            return model.tokenize_prompt(self.text.as_bytes());
        };
        let mut messages: Vec<ChatMessage> = Vec::new();
        messages.extend(self.system.iter().map(|system| ChatMessage::new("system", system)));
        messages.push(ChatMessage::new("user", &self.text));
        model.tokenize_chat(&model.chat_prompt_with(&template, &messages, true)?)
    }
}

impl TemplateArgs {
    /// A text of the command line as it is meant.
    pub(crate) fn unescape(&self, text: &str) -> String {
        if self.no_escape { text.to_owned() } else { unescape(text) }
    }

    /// The system prompt, if one is given.
    ///
    /// # Errors
    /// If its file cannot be read.
    pub(crate) fn system(&self) -> Result<Option<String>> {
        match (&self.system_prompt, &self.system_prompt_file) {
            (Some(text), _) => Ok(Some(self.unescape(text))),
            (None, Some(path)) => read_file(path, "system prompt").map(Some),
            (None, None) => Ok(None),
        }
    }

    /// The chat template in place of the model's, if one is given.
    ///
    /// # Errors
    /// If its file cannot be read.
    pub(crate) fn template(&self) -> Result<Option<String>> {
        match (&self.chat_template, &self.chat_template_file) {
            (Some(text), _) => Ok(Some(text.clone())),
            (None, Some(path)) => read_file(path, "chat template").map(Some),
            (None, None) => Ok(None),
        }
    }
}

fn read_stdin() -> Result<String> {
    let mut bytes = Vec::new();
    io::stdin().lock().read_to_end(&mut bytes).context("cannot read standard input")?;
    utf8(bytes, "the prompt on standard input")
}

fn read_file(path: &Path, what: &str) -> Result<String> {
    let name = path.display();
    let bytes = fs::read(path).with_context(|| format!("cannot read the {what} file {name}"))?;
    utf8(bytes, &format!("the {what} file {name}"))
}

/// Bytes that must be text; `what` names them in errors.
pub(crate) fn utf8(bytes: Vec<u8>, what: &str) -> Result<String> {
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        Error::usage(format!("{what} is not valid UTF-8 at byte {at}: convert it first")).into()
    })
}

/// Backslash sequences as llama.cpp knows them: `\n \r \t \' \" \\` and `\xHH` for an ASCII character. Others stay as they are.
fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        let hex = after.strip_prefix('x').and_then(|digits| digits.get(..2));
        let hex = hex.and_then(|digits| u8::from_str_radix(digits, 16).ok()).filter(u8::is_ascii);
        let (character, length) = match (after.chars().next(), hex) {
            (_, Some(code)) => (char::from(code), 3),
            (Some('n'), _) => ('\n', 1),
            (Some('r'), _) => ('\r', 1),
            (Some('t'), _) => ('\t', 1),
            (Some(same @ ('\'' | '"' | '\\')), _) => (same, 1),
            _ => ('\\', 0),
        };
        out.push(character);
        rest = &after[length..];
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_are_those_of_llama_cpp() {
        assert_eq!(unescape(r#"a\nb\t\"c\"\\n\x41\x7"#), "a\nb\t\"c\"\\nA\\x7");
        assert_eq!(unescape(r"C:\dir \é \xff \"), r"C:\dir \é \xff \");
    }
}
