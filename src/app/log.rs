//! The library's and llama.cpp's log events, as lines on standard error or in a file.

use std::fmt::{self, Write as _};
use std::fs::File;
use std::io::Write as _;
use std::sync::Mutex;

use anyhow::{Context as _, Result};
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

use super::flags::LogArgs;

/// The target that the library gives to llama.cpp's own lines.
const LLAMA_CPP: &str = "llama.cpp";

struct Log {
    /// For events of the program and the library.
    own: LevelFilter,
    /// For llama.cpp's. Its errors reach the user as errors of the library, so that they are off where nobody asks for them.
    llama_cpp: LevelFilter,
    file: Option<Mutex<File>>,
}

/// Begins to log as the flags say. To be called once.
///
/// # Errors
/// If the log file cannot be made.
pub(crate) fn install(args: &LogArgs) -> Result<()> {
    let level = match args.verbosity {
        _ if args.verbose => LevelFilter::TRACE,
        Some(0) => LevelFilter::OFF,
        Some(1) => LevelFilter::ERROR,
        Some(2) => LevelFilter::WARN,
        Some(3) => LevelFilter::INFO,
        Some(_) => LevelFilter::TRACE,
        None => LevelFilter::OFF,
    };
    let (mut own, mut llama_cpp) = match args.verbosity {
        None if !args.verbose => (LevelFilter::WARN, LevelFilter::OFF),
        _ => (level, level),
    };
    let mut file = None;
    if let Some(path) = &args.log_file {
        let created = File::create(path).with_context(|| format!("cannot write the log file {}", path.display()))?;
        file = Some(Mutex::new(created));
        (own, llama_cpp) = (own.max(LevelFilter::INFO), llama_cpp.max(LevelFilter::INFO));
    }
    if args.log_disable {
        (own, llama_cpp) = (LevelFilter::OFF, LevelFilter::OFF);
    }
    tracing::subscriber::set_global_default(Log { own, llama_cpp, file }).context("cannot begin to log")
}

impl Log {
    fn filter(&self, target: &str) -> LevelFilter {
        if target == LLAMA_CPP { self.llama_cpp } else { self.own }
    }
}

impl Subscriber for Log {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        // Dependencies have nothing to say to the user.
        let is_ours = metadata.target() == LLAMA_CPP || metadata.target().starts_with("aded");
        is_ours && *metadata.level() <= self.filter(metadata.target())
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(self.own.max(self.llama_cpp))
    }

    fn event(&self, event: &Event<'_>) {
        let mut line = match *event.metadata().level() {
            Level::ERROR => "error: ",
            Level::WARN => "warning: ",
            _ => "",
        }
        .to_owned();
        if event.metadata().target() == LLAMA_CPP {
            line += "llama.cpp: ";
        }
        event.record(&mut Text(&mut line));
        line.push('\n');
        // A log that cannot be written is no reason to stop the answer.
        let _ = match self.file.as_ref().map(Mutex::lock) {
            Some(Ok(mut file)) => file.write_all(line.as_bytes()),
            Some(Err(_)) => Ok(()),
            None => std::io::stderr().write_all(line.as_bytes()),
        };
    }

    // Spans are not shown.
    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }
    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

/// The message of an event, then its fields.
struct Text<'a>(&'a mut String);

impl Visit for Text<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let written = match field.name() {
            "message" => write!(self.0, "{value:?}"),
            name => write!(self.0, " {name}={value:?}"),
        };
        debug_assert!(written.is_ok(), "writing to a string does not fail");
    }
}
