//! Between tokens and characters: tokenizing, chat prompts, and text that arrives token by token.

use std::sync::Arc;

use super::characters::take_characters;
use super::chat;
use super::model::Model;
use crate::error::Error;
use crate::token::Token;

pub use super::chat::{ChatInput, ChatMessage};

impl Model {
    /// The tokens of a text.
    ///
    /// `add_special` puts the begin and end tokens round it that the model wants; `parse_special` takes the names of control tokens in
    /// the text for those tokens. Both are right for a prompt; neither for a piece of plain text.
    ///
    /// # Errors
    /// [`Error::is_usage`] if the text is too long to tokenize (2 GiB).
    pub fn tokenize(&self, text: &str, add_special: bool, parse_special: bool) -> Result<Vec<Token>, Error> {
        self.handle.tokenize(text, add_special, parse_special)
    }

    /// The tokens of a prompt that is not a chat, as llama.cpp's programs make them: begin token, control tokens by name.
    ///
    /// # Errors
    /// [`Error::is_usage`] if the prompt is not UTF-8.
    pub fn tokenize_prompt(&self, prompt: &[u8]) -> Result<Vec<Token>, Error> {
        let text = std::str::from_utf8(prompt).map_err(|error| {
            let at = error.valid_up_to();
            Error::usage(format!("the prompt is not valid UTF-8 at byte {at}: convert it first")).with_source(error)
        })?;
        self.tokenize(text, true, true)
    }

    /// The tokens of a text that [`chat_prompt`](Self::chat_prompt) made: a begin token that the template wrote is not doubled.
    ///
    /// # Errors
    /// As [`tokenize`](Self::tokenize).
    pub fn tokenize_chat(&self, text: &str) -> Result<Vec<Token>, Error> {
        let begin =
            self.begin_token().filter(|_| self.handle.adds_begin_and_end().0).map(|token| self.token_name(token));
        let text = begin.filter(|name| !name.is_empty()).and_then(|name| text.strip_prefix(&name)).unwrap_or(text);
        self.tokenize(text, true, true)
    }

    /// The text that puts these messages before the model, by the chat template in the file.
    ///
    /// `add_generation_prompt` adds the opening of the model's own answer.
    ///
    /// # Errors
    /// [`Error::is_format`] if the file has no template, or one that cannot be run; [`Error::is_usage`] if the template refuses the
    /// messages.
    pub fn chat_prompt(&self, messages: &[ChatMessage], add_generation_prompt: bool) -> Result<String, Error> {
        let template = self.chat_template().ok_or_else(|| {
            Error::format(format!(
                "the model {} has no chat template: give the prompt as plain text",
                self.path().display()
            ))
        })?;
        self.chat_prompt_with(&template, messages, add_generation_prompt)
    }

    /// As [`chat_prompt`](Self::chat_prompt), by another template.
    ///
    /// # Errors
    /// As [`chat_prompt`](Self::chat_prompt).
    pub fn chat_prompt_with(
        &self,
        template: &str,
        messages: &[ChatMessage],
        add_generation_prompt: bool,
    ) -> Result<String, Error> {
        let name = |token: Option<Token>| token.map_or_else(String::new, |token| self.token_name(token));
        chat::render(template, messages, add_generation_prompt, &name(self.begin_token()), &name(self.end_token()))
    }

    /// As [`chat_prompt_with`](Self::chat_prompt_with), of messages with all that templates know: tool calls, tools, variables.
    ///
    /// # Errors
    /// As [`chat_prompt`](Self::chat_prompt).
    pub fn chat_prompt_of(&self, template: &str, input: &ChatInput) -> Result<String, Error> {
        let name = |token: Option<Token>| token.map_or_else(String::new, |token| self.token_name(token));
        chat::render_input(template, input, &name(self.begin_token()), &name(self.end_token()))
    }

    /// The chat template in the file: Jinja.
    pub fn chat_template(&self) -> Option<String> {
        self.handle.chat_template()
    }

    /// The token that begins a text.
    pub fn begin_token(&self) -> Option<Token> {
        self.handle.special_tokens()[0]
    }

    /// The token that ends a text.
    pub fn end_token(&self) -> Option<Token> {
        self.handle.special_tokens()[1]
    }

    /// True for tokens that end an answer: end of text, end of turn and their kin.
    pub fn is_end(&self, token: Token) -> bool {
        self.handle.is_end(token)
    }

    /// All tokens that end an answer.
    pub fn end_tokens(&self) -> Vec<Token> {
        (0..self.n_vocab()).map(Token).filter(|&token| self.is_end(token)).collect()
    }

    /// True for tokens that steer and stand for no text.
    pub fn is_control(&self, token: Token) -> bool {
        self.handle.is_control(token)
    }

    /// The bytes that a token stands for, appended to `bytes`; they may be a part of a character. Control tokens give their names if
    /// `special`, else nothing.
    ///
    /// # Errors
    /// [`Error::is_usage`] for a token outside the vocabulary.
    pub fn append_piece(&self, token: Token, special: bool, bytes: &mut Vec<u8>) -> Result<(), Error> {
        self.handle.append_piece(token, special, bytes)
    }

    /// The text of tokens, with replacement characters for what is not UTF-8.
    ///
    /// # Errors
    /// [`Error::is_usage`] for a token outside the vocabulary.
    pub fn detokenize(&self, tokens: &[Token], special: bool) -> Result<String, Error> {
        let mut bytes = Vec::new();
        for &token in tokens {
            self.append_piece(token, special, &mut bytes)?;
        }
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// What a control token is called in templates.
    fn token_name(&self, token: Token) -> String {
        String::from_utf8_lossy(self.handle.token_text(token)).into_owned()
    }
}

/// Turns tokens into text as they come, whole characters only: the bytes of one that has not ended wait for its next token.
#[derive(Clone, Debug)]
pub struct Detokenizer {
    model: Arc<Model>,
    special: bool,
    waiting: Vec<u8>,
}

impl Detokenizer {
    /// Nothing taken yet. Control tokens give their names if `special`, else nothing.
    pub fn new(model: Arc<Model>, special: bool) -> Self {
        Self { model, special, waiting: Vec::new() }
    }

    /// Takes a token and appends the characters that are complete now.
    ///
    /// # Errors
    /// [`Error::is_usage`] for a token outside the vocabulary.
    pub fn push(&mut self, token: Token, text: &mut String) -> Result<(), Error> {
        self.model.append_piece(token, self.special, &mut self.waiting)?;
        take_characters(&mut self.waiting, text);
        Ok(())
    }

    /// Ends the text: bytes that wait become a replacement character.
    pub fn flush(&mut self, text: &mut String) {
        text.push_str(&String::from_utf8_lossy(&self.waiting));
        self.waiting.clear();
    }
}
