//! llama.cpp's log lines as `tracing` events of the target `llama.cpp`; nothing is printed.

use std::cell::RefCell;

use tracing::{debug, error, info, warn};

/// How serious a line is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Level {
    Debug,
    Info,
    Warn,
    Error,
}

#[derive(Default)]
struct Lines {
    /// A line that has not ended yet, and its level.
    open: Option<(Level, String)>,
    /// The errors since [`errors_of`] began on this thread.
    errors: Option<Vec<String>>,
}

thread_local! {
    static LINES: RefCell<Lines> = RefCell::default();
}

/// Takes a piece of text as llama.cpp hands it out: a line, part of one (`level` = `None` continues the last), or several.
pub(super) fn take(level: Option<Level>, text: &str) {
    let done = LINES.with_borrow_mut(|lines| {
        let (open_level, mut open) = lines.open.take().unwrap_or((level.unwrap_or(Level::Info), String::new()));
        let level = level.unwrap_or(open_level);
        open.push_str(text);
        let end = open.rfind('\n').map_or(0, |end| end + 1);
        let done = open[..end].to_owned();
        if end < open.len() {
            lines.open = Some((level, open.split_off(end)));
        }
        if let (Level::Error, Some(errors)) = (level, &mut lines.errors) {
            errors.extend(done.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned));
        }
        (level, done)
    });
    // Outside the borrow: a subscriber may do anything.
    for line in done.1.lines().filter(|line| !line.trim().is_empty()) {
        match done.0 {
            Level::Debug => debug!(target: "llama.cpp", "{line}"),
            Level::Info => info!(target: "llama.cpp", "{line}"),
            Level::Warn => warn!(target: "llama.cpp", "{line}"),
            Level::Error => error!(target: "llama.cpp", "{line}"),
        }
    }
}

/// Runs `call` and gives the error lines that llama.cpp logged on this thread meanwhile: where it returns a null pointer, they are the
/// only reason it states.
pub(super) fn errors_of<T>(call: impl FnOnce() -> T) -> (T, Vec<String>) {
    LINES.with_borrow_mut(|lines| lines.errors = Some(Vec::new()));
    let result = call();
    let errors = LINES.with_borrow_mut(|lines| lines.errors.take()).unwrap_or_default();
    (result, errors)
}

/// The first of the lines without the name of the function that logged it: the cause; the later ones only pass it on.
pub(super) fn cause(errors: &[String]) -> Option<&str> {
    let line = errors.first()?;
    let text = line.split_once(": ").filter(|(name, _)| !name.contains(' ')).map_or(line.as_str(), |(_, text)| text);
    Some(text.strip_prefix("error loading model: ").unwrap_or(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_become_lines_and_the_first_error_is_the_cause() {
        let ((), errors) = errors_of(|| {
            take(Some(Level::Error), "llama_model_load: error loading model: ");
            take(None, "missing tensor 'x'\n");
            take(Some(Level::Info), "loading\n");
            take(Some(Level::Error), "llama_model_load_from_file_impl: failed to load model\n");
        });
        assert_eq!(errors.len(), 2);
        assert_eq!(cause(&errors), Some("missing tensor 'x'"));
        assert_eq!(cause(&[]), None);
    }
}
