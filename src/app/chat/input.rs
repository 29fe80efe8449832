//! Lines of the user: edited on a terminal, read as they come elsewhere.

use std::env;
use std::fs;
use std::io::{self, BufRead as _, IsTerminal as _, Read as _};
use std::path::PathBuf;

use aded::Error;
use anyhow::{Context as _, Result};
use rustyline::completion::{Completer, FilenameCompleter, Pair};
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::FileHistory;
use rustyline::validate::{ValidationContext, ValidationResult, Validator};
use rustyline::{CompletionType, Config, Context, Editor, Helper};

use super::args::HistoryArgs;
use super::command::{HELP, is_open};
use super::settings;
use crate::app::{interrupt, output, prompt};

const PROMPT: &str = "> ";

/// Lines kept from earlier chats.
const HISTORY_LINES: usize = 1000;

/// Longest line that is read from a pipe.
const MAX_BYTES: u64 = 64 << 20;

/// What came.
#[derive(Debug)]
pub(crate) enum Line {
    Text(String),
    Interrupt,
    End,
}

/// Where lines come from.
pub(crate) enum Input {
    Terminal { editor: Box<Editor<Completion, FileHistory>>, history: Option<PathBuf> },
    Pipe { n_lines: usize, has_prompt: bool },
}

impl Input {
    /// An editor if standard input and output are a terminal.
    ///
    /// # Errors
    /// If the terminal cannot be set up.
    pub(crate) fn new(args: &HistoryArgs) -> Result<Self> {
        if !io::stdin().is_terminal() || !io::stdout().is_terminal() {
            return Ok(Self::Pipe { n_lines: 0, has_prompt: io::stdin().is_terminal() });
        }
        interrupt::keep_terminal();
        // A line that begins with a space is not kept, as in shells.
        let config = Config::builder()
            .max_history_size(HISTORY_LINES)
            .map(|config| config.history_ignore_space(true).completion_type(CompletionType::List).build())
            .context("cannot set up the terminal")?;
        let mut editor = Box::new(Editor::with_config(config).context("cannot set up the terminal")?);
        editor.set_helper(Some(Completion { files: FilenameCompleter::new() }));
        let history = if args.no_history { None } else { args.history_file.clone().or_else(history_file) };
        if let Some(path) = history.as_ref().filter(|path| path.exists())
            && let Err(error) = editor.load_history(path)
        {
            output::note(&format!(
                "warning: cannot read the typed lines of earlier chats: {}: {error}",
                path.display()
            ));
        }
        Ok(Self::Terminal { editor, history })
    }

    /// True if somebody sits there.
    pub(crate) fn is_terminal(&self) -> bool {
        matches!(self, Self::Terminal { .. })
    }

    /// The next line, or the next message of several lines.
    ///
    /// # Errors
    /// If it cannot be read or is not UTF-8.
    pub(crate) fn next(&mut self) -> Result<Line> {
        match self {
            Self::Terminal { editor, history } => match editor.readline(PROMPT) {
                Ok(line) => {
                    keep(editor, history, &line);
                    Ok(Line::Text(line))
                }
                Err(ReadlineError::Interrupted) => Ok(Line::Interrupt),
                // A terminal that is gone gives an error of input and output.
                Err(ReadlineError::Eof) => Ok(Line::End),
                Err(error) => Err(error).context("cannot read from the terminal"),
            },
            Self::Pipe { n_lines, has_prompt } => {
                let mut text = String::new();
                loop {
                    if *has_prompt {
                        eprint_prompt();
                    }
                    let Some(line) = read_line(n_lines)? else {
                        return Ok(if text.is_empty() { Line::End } else { Line::Text(text) });
                    };
                    text += &line;
                    if !is_open(&text) {
                        return Ok(Line::Text(text));
                    }
                }
            }
        }
    }
}

/// On standard error: standard output is somebody else's.
fn eprint_prompt() {
    use io::Write as _;
    let _ = write!(io::stderr(), "{PROMPT}");
}

/// A line with its end; none at the end of the input.
fn read_line(n_lines: &mut usize) -> Result<Option<String>> {
    let mut bytes = Vec::new();
    io::stdin().lock().take(MAX_BYTES + 1).read_until(b'\n', &mut bytes).context("cannot read standard input")?;
    if bytes.is_empty() {
        return Ok(None);
    }
    *n_lines += 1;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(Error::usage(format!("line {n_lines} of standard input has more than {MAX_BYTES} bytes")).into());
    }
    prompt::utf8(bytes, &format!("line {n_lines} of standard input")).map(Some)
}

fn keep(editor: &mut Editor<Completion, FileHistory>, history: &mut Option<PathBuf>, line: &str) {
    let added = editor.add_history_entry(line.trim_end());
    let Some(path) = history.as_ref().filter(|_| matches!(added, Ok(true))) else { return };
    let folder = path.parent().map_or(Ok(()), fs::create_dir_all);
    let written = folder.map_err(ReadlineError::Io).and_then(|()| editor.append_history(path));
    if let Err(error) = written {
        output::note(&format!("warning: cannot keep typed lines in {}: {error}; --no-history", path.display()));
        // Once is enough.
        *history = None;
    }
}

/// Where typed lines are kept if nobody says.
pub(crate) fn history_file() -> Option<PathBuf> {
    let set = |name: &str| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let home = env::home_dir().filter(|home| !home.as_os_str().is_empty());
    let state = if cfg!(target_os = "macos") {
        home?.join("Library/Application Support")
    } else if cfg!(windows) {
        set("LOCALAPPDATA").or_else(|| Some(home?.join("AppData/Local")))?
    } else {
        set("XDG_STATE_HOME").filter(|path| path.is_absolute()).or_else(|| Some(home?.join(".local/state")))?
    };
    Some(state.join("aded/chat-history"))
}

/// Completes commands, settings and file names, and keeps a message of several lines open.
pub(crate) struct Completion {
    files: FilenameCompleter,
}

impl Helper for Completion {}
impl Highlighter for Completion {}

impl Hinter for Completion {
    type Hint = String;
}

impl Validator for Completion {
    fn validate(&self, context: &mut ValidationContext<'_>) -> rustyline::Result<ValidationResult> {
        Ok(if is_open(context.input()) { ValidationResult::Incomplete } else { ValidationResult::Valid(None) })
    }
}

impl Completer for Completion {
    type Candidate = Pair;

    fn complete(&self, line: &str, pos: usize, _: &Context<'_>) -> rustyline::Result<(usize, Vec<Pair>)> {
        let typed = &line[..pos];
        let pairs = |names: Vec<&str>| {
            let pair = |name: &str| Pair { display: name.to_owned(), replacement: format!("{name} ") };
            names.into_iter().map(pair).collect()
        };
        if typed.starts_with('/') && !typed.contains(char::is_whitespace) {
            let names = HELP.iter().map(|(name, ..)| *name).filter(|name| name.starts_with(typed));
            return Ok((0, pairs(names.collect())));
        }
        if let Some(begun) = typed.strip_prefix("/set ").filter(|begun| !begun.contains(' ')) {
            let names = settings::names().filter(|name| name.starts_with(begun));
            return Ok((pos - begun.len(), pairs(names.collect())));
        }
        if ["/read ", "/save ", "/load "].iter().any(|command| typed.starts_with(command)) {
            return self.files.complete_path(line, pos);
        }
        Ok((pos, Vec::new()))
    }
}

#[cfg(test)]
mod tests {
    use rustyline::history::MemHistory;

    use super::*;

    #[test]
    fn commands_settings_and_files_are_completed() {
        let completion = Completion { files: FilenameCompleter::new() };
        let history = MemHistory::new();
        let complete = |line: &str| {
            let (at, found) = completion.complete(line, line.len(), &Context::new(&history)).expect("no I/O");
            (at, found.into_iter().map(|pair| pair.replacement).collect::<Vec<_>>())
        };
        assert_eq!(complete("/re"), (0, vec!["/regen ".to_owned(), "/read ".to_owned()]));
        assert_eq!(complete("/set top-"), (5, ["top-k ", "top-p ", "top-nsigma "].map(str::to_owned).to_vec()));
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join("notes.txt"), "").expect("written");
        let (_, found) = complete(&format!("/read {}/no", folder.path().display()));
        assert!(found.len() == 1 && found[0].ends_with("notes.txt"), "{found:?}");
        assert_eq!(complete("tell me /re").1, Vec::<String>::new());
    }
}
