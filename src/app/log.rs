//! The library's and llama.cpp's log events, as lines on standard error or in a file.

use std::fs::File;
use std::io::Write as _;
use std::sync::Mutex;

use aded::log::{LLAMA_CPP, LineSink, Lines};
use anyhow::{Context as _, Result};
use tracing::Level;
use tracing::level_filters::LevelFilter;

use super::flags::LogArgs;

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
    tracing::subscriber::set_global_default(Lines(Log { own, llama_cpp, file })).context("cannot begin to log")
}

impl LineSink for Log {
    fn filter(&self, target: &str) -> LevelFilter {
        if target == LLAMA_CPP { self.llama_cpp } else { self.own }
    }

    fn line(&self, level: Level, text: &str) {
        let kind = match level {
            Level::ERROR => "error: ",
            Level::WARN => "warning: ",
            _ => "",
        };
        let line = format!("{kind}{text}\n");
        // A log that cannot be written is no reason to stop the answer.
        let _ = match self.file.as_ref().map(Mutex::lock) {
            Some(Ok(mut file)) => file.write_all(line.as_bytes()),
            Some(Err(_)) => Ok(()),
            None => std::io::stderr().write_all(line.as_bytes()),
        };
    }
}
