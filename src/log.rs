//! The library's log events, and llama.cpp's, as lines of text for whoever shows them.
//!
//! The library only emits `tracing` events and spans; programs that have a subscriber already need nothing from here.

use std::fmt::{self, Write as _};

use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

/// The target of llama.cpp's own events; those of this crate begin with `aded`.
pub const LLAMA_CPP: &str = "llama.cpp";

/// Where lines of the log go.
pub trait LineSink: Send + Sync + 'static {
    /// The most that is wanted of events with this target: [`LLAMA_CPP`], or one that begins with `aded`.
    fn filter(&self, target: &str) -> LevelFilter;

    /// Takes a line, without a line feed: `llama.cpp: ` where it comes from there, the message, then its fields.
    fn line(&self, level: Level, text: &str);
}

/// A subscriber that hands events to a [`LineSink`] as text. Spans, and what dependencies have to say, are not shown.
#[derive(Debug)]
pub struct Lines<S>(pub S);

impl<S: LineSink> Subscriber for Lines<S> {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        let target = metadata.target();
        let is_ours = target == LLAMA_CPP || target.starts_with("aded");
        is_ours && metadata.is_event() && *metadata.level() <= self.0.filter(target)
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(self.0.filter("aded").max(self.0.filter(LLAMA_CPP)))
    }

    fn event(&self, event: &Event<'_>) {
        let mut text = String::new();
        if event.metadata().target() == LLAMA_CPP {
            text += "llama.cpp: ";
        }
        event.record(&mut Text(&mut text));
        self.0.line(*event.metadata().level(), &text);
    }

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

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    struct Kept(Arc<Mutex<Vec<(Level, String)>>>);

    impl LineSink for Kept {
        fn filter(&self, target: &str) -> LevelFilter {
            if target == LLAMA_CPP { LevelFilter::WARN } else { LevelFilter::INFO }
        }
        fn line(&self, level: Level, text: &str) {
            self.0.lock().expect("no panic").push((level, text.to_owned()));
        }
    }

    #[test]
    fn events_become_lines_by_target_and_level() {
        let kept = Arc::default();
        tracing::subscriber::with_default(Lines(Kept(Arc::clone(&kept))), || {
            tracing::info!(n = 3, "three");
            tracing::debug!("too fine");
            tracing::warn!(target: LLAMA_CPP, "slow");
            tracing::info!(target: LLAMA_CPP, "too fine");
            tracing::error!(target: "hyper", "a dependency's");
            let _span = tracing::info_span!("a span").entered();
        });
        let lines = kept.lock().expect("no panic").clone();
        assert_eq!(lines, [(Level::INFO, "three n=3".to_owned()), (Level::WARN, "llama.cpp: slow".to_owned())]);
    }
}
