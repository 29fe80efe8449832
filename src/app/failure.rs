//! What went wrong, as one line and an exit code.

use std::io;
use std::process::ExitCode;

use anyhow::Error;

use super::output::note;

/// The exit code for an error: 1 failed at work, 2 wrong usage, 130 interrupted.
const FAILED: u8 = 1;
const USAGE: u8 = 2;
/// As shells report a program that was interrupted.
pub(crate) const INTERRUPTED: u8 = 130;

/// Reports an error on standard error and gives the exit code.
pub(crate) fn report(error: &Error) -> ExitCode {
    if let Some(error) = error.downcast_ref::<clap::Error>() {
        // Help goes to standard output and is no failure. A reader that is gone wants to know nothing.
        let _ = error.print();
        return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(USAGE));
    }
    let code = exit_code(error);
    if code == FAILED || code == USAGE {
        note(&format!("error: {}", line(error)));
    }
    ExitCode::from(code)
}

fn exit_code(error: &Error) -> u8 {
    let is_closed_pipe = |cause: &(dyn std::error::Error + 'static)| {
        cause.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
    };
    if error.chain().any(is_closed_pipe) {
        return 0;
    }
    match error.chain().find_map(|cause| cause.downcast_ref::<aded::Error>()) {
        Some(error) if error.is_cancelled() => INTERRUPTED,
        Some(error) if error.is_usage() => USAGE,
        _ => FAILED,
    }
}

/// The error and its causes in one line. A cause that its error quotes already is not said twice.
pub(crate) fn line(error: &Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if !text.contains(&cause) {
            text += if text.is_empty() { "" } else { ": " };
            text += &cause;
        }
    }
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use anyhow::Context as _;

    use super::*;

    #[test]
    fn errors_are_one_line_and_their_kind_decides_the_code() {
        let io = |kind| aded::Error::io("cannot read `x`", io::Error::new(kind, "it\nfailed"));
        let error = Error::new(io(io::ErrorKind::NotFound)).context("no prompt");
        assert_eq!((line(&error).as_str(), exit_code(&error)), ("no prompt: cannot read `x`: it failed", FAILED));
        assert_eq!(exit_code(&Error::new(io(io::ErrorKind::BrokenPipe))), 0);
        assert_eq!(exit_code(&Error::new(aded::Error::usage("0 threads"))), USAGE);
        assert_eq!(exit_code(&Err::<(), _>(aded::Error::cancelled()).context("loading").unwrap_err()), INTERRUPTED);
    }
}
