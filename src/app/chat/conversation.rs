//! What was said so far, as messages and as the tokens that the model has read.

use std::sync::Arc;

use aded::llama::Model;
use aded::llama::text::ChatMessage;
use aded::{Error, Token};

/// The messages of a chat, and how they become a prompt.
pub(crate) struct Conversation {
    model: Arc<Model>,
    template: String,
    system: Option<String>,
    /// Without the system prompt.
    messages: Vec<ChatMessage>,
    /// The last prompt with its answer.
    read: Option<Prompt>,
}

/// A prompt as text and as tokens.
#[derive(Debug, Default)]
pub(crate) struct Prompt {
    text: String,
    pub(crate) tokens: Vec<Token>,
}

impl Conversation {
    /// Nothing said yet.
    pub(crate) fn new(model: Arc<Model>, template: String, system: Option<String>) -> Self {
        Self { model, template, system, messages: Vec::new(), read: None }
    }

    pub(crate) fn system(&self) -> Option<&str> {
        self.system.as_deref()
    }

    /// Changes the system prompt; what was said stays.
    pub(crate) fn set_system(&mut self, system: Option<String>) {
        self.system = system;
    }

    /// Forgets what was said; the system prompt stays.
    pub(crate) fn clear(&mut self) {
        self.messages.clear();
    }

    /// All messages, the system prompt first.
    pub(crate) fn messages(&self) -> Vec<ChatMessage> {
        let system = self.system.iter().map(|text| ChatMessage::new("system", text));
        system.chain(self.messages.iter().cloned()).collect()
    }

    /// Takes the place of all that was said. A first message of the system is the new system prompt.
    pub(crate) fn set_messages(&mut self, mut messages: Vec<ChatMessage>) {
        let has_system = messages.first().is_some_and(|message| message.role == "system");
        self.system = has_system.then(|| messages.remove(0).content);
        self.messages = messages;
    }

    /// Somebody says something.
    pub(crate) fn push(&mut self, role: &str, text: &str) {
        self.messages.push(ChatMessage::new(role, text));
    }

    /// Takes the last message back if it is of this role.
    pub(crate) fn pop(&mut self, role: &str) -> Option<String> {
        self.messages.pop_if(|message| message.role == role).map(|message| message.content)
    }

    /// The prompt for the model's next answer.
    fn prompt(&self) -> Result<Prompt, Error> {
        let text = self.model.chat_prompt_with(&self.template, &self.messages(), true)?;
        let tokens = match self.continued(&text)? {
            Some(tokens) => tokens,
            None => self.model.tokenize_chat(&text)?,
        };
        Ok(Prompt { text, tokens })
    }

    /// The tokens of a prompt that goes on where the last answer ended. The model may have said it in other tokens than the tokenizer would
    /// choose, and only those it has said need not be read again.
    fn continued(&self, text: &str) -> Result<Option<Vec<Token>>, Error> {
        let Some(read) = &self.read else { return Ok(None) };
        let Some(rest) = text.strip_prefix(&read.text).filter(|rest| !rest.is_empty()) else { return Ok(None) };
        let added = self.model.tokenize(rest, false, true)?;
        // Some tokenizers put a space before a text: right at its beginning, wrong in its middle.
        let is_same = self.model.detokenize(&added, true)? == rest;
        Ok(is_same.then(|| [&read.tokens[..], &added].concat()))
    }

    /// The prompt for the next answer, within a context of `n_ctx` tokens. Where it leaves no room for an answer the oldest turns go, enough of
    /// them that a quarter of the context is free: all that is left has to be read again. Gives the number of turns dropped.
    ///
    /// # Errors
    /// [`Error::is_usage`] if the last message alone is too long, or the template refuses; nothing is dropped then.
    pub(crate) fn fit(&mut self, n_ctx: usize) -> Result<(Prompt, usize), Error> {
        let mut prompt = self.prompt()?;
        if prompt.tokens.len() + n_ctx / 8 <= n_ctx {
            return Ok((prompt, 0));
        }
        let all = self.messages.clone();
        let mut n_dropped = 0;
        while prompt.tokens.len() > n_ctx - n_ctx / 4 && drop_turn(&mut self.messages) {
            n_dropped += 1;
            prompt = match self.prompt() {
                Ok(prompt) => prompt,
                Err(error) => {
                    self.messages = all;
                    return Err(error);
                }
            };
        }
        if prompt.tokens.len() >= n_ctx {
            self.messages = all;
            return Err(Error::usage(format!(
                "the message and the system prompt have {} tokens, and the context holds {n_ctx}; shorten them or start with a larger \
                 -c",
                prompt.tokens.len()
            )));
        }
        Ok((prompt, n_dropped))
    }

    /// The model has answered a prompt.
    ///
    /// # Errors
    /// [`Error::is_usage`] for tokens outside the vocabulary.
    pub(crate) fn answered(&mut self, mut prompt: Prompt, text: &str, tokens: &[Token]) -> Result<(), Error> {
        self.push("assistant", text);
        prompt.text += &self.model.detokenize(tokens, true)?;
        prompt.tokens.extend_from_slice(tokens);
        self.read = Some(prompt);
        Ok(())
    }
}

/// Removes the oldest message of the user and what followed it, but never the last message of the user.
fn drop_turn(messages: &mut Vec<ChatMessage>) -> bool {
    let next = messages.iter().skip(1).position(|message| message.role == "user");
    next.map(|next| messages.drain(..=next)).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_go_oldest_first_and_the_last_question_stays() {
        let roles = ["user", "assistant", "user", "assistant", "assistant", "user"];
        let mut messages: Vec<ChatMessage> = roles.iter().map(|role| ChatMessage::new(*role, "x")).collect();
        assert!(drop_turn(&mut messages));
        assert_eq!(messages.len(), 4);
        assert!(drop_turn(&mut messages));
        assert_eq!(messages.len(), 1);
        assert!(!drop_turn(&mut messages));
        assert_eq!(messages.len(), 1);
    }
}
