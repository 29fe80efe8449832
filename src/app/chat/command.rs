//! What a line of the user means: a message, or a command behind a slash.

use std::env;
use std::path::PathBuf;

use aded::Error;

use crate::app::flags::SpecMode;

/// Marks the beginning and the end of a message of several lines.
pub(crate) const QUOTES: &str = "\"\"\"";

/// A line that was understood.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Entry {
    Nothing,
    Message(String),
    Command(Command),
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Command {
    Help,
    Exit,
    Clear,
    Regenerate,
    /// Shows the system prompt, or changes it; an empty one removes it.
    System(Option<String>),
    /// Shows the settings, or changes one.
    Set(Option<(String, String)>),
    Stats {
        is_full: bool,
    },
    Spec(Option<SpecMode>),
    Read(PathBuf),
    Save(PathBuf),
    Load(PathBuf),
}

/// Names, arguments and meanings, as `/help` lists them.
pub(crate) const HELP: [(&str, &str, &str); 11] = [
    ("/help", "", "this list; also /?"),
    ("/exit", "", "end the chat; also /bye, /quit and Ctrl-D"),
    ("/clear", "", "forget the conversation, but for the system prompt"),
    ("/regen", "", "answer the last message anew"),
    ("/system", "[TEXT]", "show or change the system prompt; \"\" removes it"),
    ("/set", "[NAME VALUE]", "show the settings of sampling, or change one: /set temp 0.2"),
    ("/stats", "[full]", "speed and drafts of the last answer and of all"),
    ("/spec", "[on|off|auto]", "show or change when guesses are drafted"),
    ("/read", "FILE", "put a text file before the next message"),
    ("/save", "FILE", "write the conversation, as JSON"),
    ("/load", "FILE", "go on with a conversation that was written"),
];

/// True if a message of several lines has begun and not ended.
pub(crate) fn is_open(text: &str) -> bool {
    text.trim_start().strip_prefix(QUOTES).is_some_and(|rest| !rest.trim_end().ends_with(QUOTES))
}

/// Understands a line, or a message of several.
///
/// # Errors
/// [`Error::is_usage`] for commands that are not known or lack something.
pub(crate) fn parse(line: &str) -> Result<Entry, Error> {
    if let Some(rest) = line.trim_start().strip_prefix(QUOTES) {
        let rest = rest.trim_end();
        let text = rest.strip_suffix(QUOTES).unwrap_or(rest);
        let text = text.strip_prefix('\n').unwrap_or(text);
        let text = text.strip_suffix('\n').unwrap_or(text);
        return Ok(if text.trim().is_empty() { Entry::Nothing } else { Entry::Message(text.to_owned()) });
    }
    let text = line.trim();
    if text.is_empty() {
        return Ok(Entry::Nothing);
    }
    // A space before the slash makes it text.
    let Some(typed) = line.strip_prefix('/') else { return Ok(Entry::Message(text.to_owned())) };
    let (name, rest) = typed.split_once(char::is_whitespace).unwrap_or((typed, ""));
    let rest = rest.trim();
    let file = || match rest {
        "" => Err(Error::usage(format!("/{name} needs the name of a file"))),
        rest => Ok(path(rest)),
    };
    let unknown = |expected: &str| Error::usage(format!("/{name} {rest:?} is not known; give {expected}"));
    let command = match name {
        "help" | "?" => Command::Help,
        "exit" | "bye" | "quit" => Command::Exit,
        "clear" => Command::Clear,
        "regen" => Command::Regenerate,
        "system" => Command::System((!rest.is_empty()).then(|| if rest == "\"\"" { "" } else { rest }.to_owned())),
        "set" if rest.is_empty() => Command::Set(None),
        "set" => match rest.split_once(|c: char| c.is_whitespace() || c == '=') {
            Some((name, value)) => Command::Set(Some((name.to_owned(), value.trim().to_owned()))),
            None => return Err(Error::usage(format!("/set {rest} lacks the value"))),
        },
        "stats" => match rest {
            "" => Command::Stats { is_full: false },
            "full" => Command::Stats { is_full: true },
            _ => return Err(unknown("nothing, or `full`")),
        },
        "spec" => Command::Spec(match rest {
            "" => None,
            "on" => Some(SpecMode::On),
            "off" => Some(SpecMode::Off),
            "auto" => Some(SpecMode::Auto),
            _ => return Err(unknown("on, off or auto")),
        }),
        "read" => Command::Read(file()?),
        "save" => Command::Save(file()?),
        "load" => Command::Load(file()?),
        _ => {
            return Err(Error::usage(format!(
                "/{name} is no command; /help lists them, and a space before the slash makes it a message"
            )));
        }
    };
    if !rest.is_empty() && matches!(command, Command::Help | Command::Exit | Command::Clear | Command::Regenerate) {
        return Err(Error::usage(format!("/{name} takes nothing behind it, and {rest:?} stands there")));
    }
    Ok(Entry::Command(command))
}

/// A file name as it is typed: in quotation marks, or with backslashes before spaces, as the completion writes them; `~/` is the home folder.
fn path(typed: &str) -> PathBuf {
    let quoted = typed.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    let name = match quoted {
        Some(name) => name.to_owned(),
        None if cfg!(windows) => typed.to_owned(),
        None => rustyline::completion::unescape(typed, Some('\\')).into_owned(),
    };
    match (name.strip_prefix("~/"), env::home_dir()) {
        (Some(rest), Some(home)) => home.join(rest),
        _ => PathBuf::from(name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command(line: &str) -> Command {
        match parse(line) {
            Ok(Entry::Command(command)) => command,
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn messages_of_one_line_and_of_several() {
        let message = |text: &str| Ok::<_, String>(Entry::Message(text.to_owned()));
        let understood = |line: &str| parse(line).map_err(|error| error.to_string());
        assert_eq!(understood(" hello "), message("hello"));
        assert_eq!(understood(" /usr is a folder"), message("/usr is a folder"));
        assert_eq!(understood("\"\"\"\none\n two\n\n\"\"\""), message("one\n two\n"));
        assert_eq!(understood("\"\"\"/clear\"\"\""), message("/clear"));
        assert_eq!(understood("  \t"), Ok(Entry::Nothing));
        assert_eq!(understood("\"\"\"\"\"\""), Ok(Entry::Nothing));
        assert!(is_open("\"\"\"a\nb") && is_open("\"\"\"") && !is_open("\"\"\"a\"\"\" ") && !is_open("a \"\"\""));
    }

    #[test]
    fn every_command_of_the_help_is_known_and_others_say_what_is_missing() {
        for (name, arguments, _) in HELP {
            let line = format!("{name} {}", if arguments.contains("FILE") { "x.json" } else { "" });
            command(line.trim_end());
        }
        assert_eq!(command("/set top_k 5"), Command::Set(Some(("top_k".into(), "5".into()))));
        assert_eq!(command("/set temp=0.5"), Command::Set(Some(("temp".into(), "0.5".into()))));
        assert_eq!(command("/system \"\""), Command::System(Some(String::new())));
        assert_eq!(command("/spec off"), Command::Spec(Some(SpecMode::Off)));
        for (line, part) in [
            ("/foo", "/help"),
            ("/", "/help"),
            ("/save", "name of a file"),
            ("/spec perhaps", "on, off or auto"),
            ("/stats all", "full"),
            ("/set temp", "value"),
            ("/clear all", "nothing"),
        ] {
            let error = parse(line).expect_err(line).to_string();
            assert!(error.contains(part), "{line}: {error}");
        }
    }

    #[test]
    #[cfg(unix)]
    fn file_names_as_they_are_typed() {
        assert_eq!(path("a b"), PathBuf::from("a b"));
        assert_eq!(path("a\\ b"), PathBuf::from("a b"));
        assert_eq!(path("\"a\\ b\""), PathBuf::from("a\\ b"));
        assert!(path("~/x").is_absolute());
    }
}
