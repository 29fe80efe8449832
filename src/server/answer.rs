//! Splits an answer, as it comes, into thoughts, text for the user, and calls of tools.

use super::tools::{self, ToolCall};

const THINK: &str = "<think>";
const THINK_END: &str = "</think>";

/// Where in the answer the text that comes next belongs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    /// Nothing but white space so far.
    Start,
    Thinking,
    /// Thoughts have ended: the white space that follows belongs to nothing.
    Gap,
    /// The text is about to begin.
    AfterThoughts,
    Content,
    /// A call of a tool: held back until it is whole.
    Call,
}

/// The splitter.
#[derive(Debug)]
pub(super) struct Splitter {
    state: State,
    /// Names of the tools; none if calls are not looked for.
    tools: Vec<String>,
    held: String,
}

/// A piece of an answer.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Part {
    pub(super) thoughts: String,
    pub(super) content: String,
}

impl Splitter {
    /// `is_thinking`: the prompt ended with the opening of thoughts. Without `splits_thoughts` these are part of the text.
    pub(super) fn new(tools: Vec<String>, is_thinking: bool, splits_thoughts: bool) -> Self {
        let state = match (splits_thoughts, is_thinking) {
            (true, true) => State::Thinking,
            (true, false) => State::Start,
            (false, _) => State::AfterThoughts,
        };
        Self { state, tools, held: String::new() }
    }

    /// Takes text and gives what is decided.
    pub(super) fn push(&mut self, text: &str) -> Part {
        self.held.push_str(text);
        let mut part = Part::default();
        while self.step(&mut part) {}
        part
    }

    /// The answer is over: gives the rest, and the calls.
    pub(super) fn finish(&mut self) -> (Part, Vec<ToolCall>) {
        let mut part = Part::default();
        let held = std::mem::take(&mut self.held);
        let calls = match self.state {
            State::Call => tools::parse(&held, &self.tools).unwrap_or_default(),
            _ => Vec::new(),
        };
        if calls.is_empty() {
            match self.state {
                State::Thinking => part.thoughts = held,
                _ => part.content = held,
            }
        }
        (part, calls)
    }

    /// Moves on by one decision; false if more text is needed.
    fn step(&mut self, part: &mut Part) -> bool {
        match self.state {
            State::Start => {
                let text = self.held.trim_start();
                if let Some(rest) = text.strip_prefix(THINK) {
                    self.held = rest.to_owned();
                    self.state = State::Thinking;
                    return true;
                }
                if THINK.starts_with(text) {
                    return false;
                }
                self.state = State::AfterThoughts;
                true
            }
            State::Thinking => {
                if let Some(at) = self.held.find(THINK_END) {
                    part.thoughts += &self.held[..at];
                    self.held.drain(..at + THINK_END.len());
                    self.state = State::Gap;
                    return true;
                }
                let end = self.held.len() - overlap(&self.held, &[THINK_END]);
                part.thoughts.extend(self.held.drain(..end));
                false
            }
            State::Gap => {
                let n_spaces = self.held.len() - self.held.trim_start().len();
                self.held.drain(..n_spaces);
                if self.held.is_empty() {
                    return false;
                }
                self.state = State::AfterThoughts;
                true
            }
            State::AfterThoughts => {
                if self.tools.is_empty() {
                    self.state = State::Content;
                    return true;
                }
                let text = self.held.trim_start();
                if text.is_empty() || ("```".starts_with(text)) {
                    return false;
                }
                self.state = if tools::may_begin_plain(text) { State::Call } else { State::Content };
                true
            }
            State::Content => {
                if self.tools.is_empty() {
                    part.content.push_str(&self.held);
                    self.held.clear();
                    return false;
                }
                if let Some(at) = tools::MARKERS.iter().filter_map(|marker| self.held.find(marker)).min() {
                    part.content.extend(self.held.drain(..at));
                    self.state = State::Call;
                    return false;
                }
                let end = self.held.len() - overlap(&self.held, &tools::MARKERS);
                part.content.extend(self.held.drain(..end));
                false
            }
            State::Call => false,
        }
    }
}

/// Length of the longest end of `text` that begins one of the markers.
fn overlap(text: &str, markers: &[&str]) -> usize {
    let begins = |marker: &&str| (1..marker.len()).rev().find(|&n| text.ends_with(&marker[..n])).unwrap_or(0);
    markers.iter().map(begins).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The whole split in pieces of any size.
    fn split(text: &str, tools: &[&str], is_thinking: bool) -> (String, String, Vec<ToolCall>) {
        let mut results = Vec::new();
        for size in 1..=text.chars().count().max(1) {
            let tools = tools.iter().map(|name| (*name).to_owned()).collect();
            let mut splitter = Splitter::new(tools, is_thinking, true);
            let (mut thoughts, mut content) = (String::new(), String::new());
            let characters: Vec<char> = text.chars().collect();
            for piece in characters.chunks(size) {
                let part = splitter.push(&piece.iter().collect::<String>());
                thoughts += &part.thoughts;
                content += &part.content;
            }
            let (part, calls) = splitter.finish();
            results.push((thoughts + &part.thoughts, content + &part.content, calls));
        }
        assert!(results.windows(2).all(|pair| pair[0] == pair[1]), "the pieces' size matters: {results:?}");
        results.swap_remove(0)
    }

    #[test]
    fn thoughts_and_text_come_apart() {
        let text = |thoughts: &str, content: &str| (thoughts.to_owned(), content.to_owned(), Vec::new());
        assert_eq!(split("just text < think", &[], false), text("", "just text < think"));
        assert_eq!(split("<think>é hm</think>\n\nyes", &[], false), text("é hm", "yes"));
        assert_eq!(split("hm</think>yes </think>", &[], true), text("hm", "yes </think>"));
        assert_eq!(split("<think>never ends", &[], false), text("never ends", ""));
        assert_eq!(split("<thi", &[], false), text("", "<thi"));
        assert_eq!(split("", &[], false), text("", ""));
    }

    #[test]
    fn calls_are_held_back_and_all_else_is_not() {
        let (thoughts, content, calls) =
            split("<think>a</think>Well. <tool_call>{\"name\": \"f\"}</tool_call>", &["f"], false);
        assert_eq!((thoughts.as_str(), content.as_str(), calls.len()), ("a", "Well. ", 1));
        let (_, content, calls) = split("{\"name\": \"f\", \"arguments\": {}}", &["f"], false);
        assert_eq!((content.as_str(), calls.len()), ("", 1));
        let (_, content, calls) = split("{\"x\": 1}", &["f"], false);
        assert_eq!((content.as_str(), calls.len()), ("{\"x\": 1}", 0));
        let (_, content, calls) = split("a <tool_cal l", &["f"], false);
        assert_eq!((content.as_str(), calls.len()), ("a <tool_cal l", 0));
    }
}
