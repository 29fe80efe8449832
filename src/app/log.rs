//! The library's and llama.cpp's log events, as lines on standard error or in a file.

use std::fs::File;
use std::io::Write as _;
use std::sync::Mutex;
use std::time::{SystemTime, UNIX_EPOCH};

use aded::log::{LLAMA_CPP, LineSink, Lines};
use anyhow::{Context as _, Result};
use tracing::Level;
use tracing::level_filters::LevelFilter;

use super::flags::{LogArgs, LogFormat};

struct Log {
    /// For events of the program and the library.
    own: LevelFilter,
    /// For llama.cpp's. Its errors reach the user as errors of the library, so that they are off where nobody asks for them.
    llama_cpp: LevelFilter,
    format: LogFormat,
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
    tracing::subscriber::set_global_default(Lines(Log { own, llama_cpp, format: args.log_format, file }))
        .context("cannot begin to log")
}

impl LineSink for Log {
    fn filter(&self, target: &str) -> LevelFilter {
        if target == LLAMA_CPP { self.llama_cpp } else { self.own }
    }

    fn line(&self, level: Level, text: &str) {
        let line = match self.format {
            LogFormat::Text => in_words(level, text),
            LogFormat::Json => as_object(level, text),
        };
        // A log that cannot be written is no reason to stop the answer.
        let _ = match self.file.as_ref().map(Mutex::lock) {
            Some(Ok(mut file)) => file.write_all(line.as_bytes()),
            Some(Err(_)) => Ok(()),
            None => std::io::stderr().write_all(line.as_bytes()),
        };
    }
}

fn in_words(level: Level, text: &str) -> String {
    let kind = match level {
        Level::ERROR => "error: ",
        Level::WARN => "warning: ",
        _ => "",
    };
    format!("{kind}{text}\n")
}

fn as_object(level: Level, text: &str) -> String {
    let time = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64());
    let (origin, message) = match text.split_once(": ") {
        Some((LLAMA_CPP, message)) => (LLAMA_CPP, message),
        _ => ("aded", text),
    };
    let level = level.as_str().to_lowercase();
    format!("{}\n", serde_json::json!({"time": time, "level": level, "origin": origin, "message": message}))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_tell_level_and_origin() {
        let object = |level, text| serde_json::from_str::<serde_json::Value>(&as_object(level, text)).expect("JSON");
        let own = object(Level::WARN, "request 3: \"slow\"\nor not");
        assert_eq!((&own["level"], &own["origin"]), (&"warn".into(), &"aded".into()));
        assert_eq!(own["message"], "request 3: \"slow\"\nor not");
        assert!(own["time"].as_f64().is_some_and(|time| time > 1.7e9));
        let other = object(Level::INFO, "llama.cpp: loading: a file");
        assert_eq!((&other["origin"], &other["message"]), (&"llama.cpp".into(), &"loading: a file".into()));
        assert_eq!(in_words(Level::ERROR, "it failed"), "error: it failed\n");
    }
}
