//! One opaque error type. Its text says what was tried, the value given, the limit, and the way out.

use std::error::Error as StdError;
use std::fmt;

/// What can go wrong outside drafting and verifying, which cannot fail.
///
/// The kinds are not public, so that they can grow; ask by predicate ([`is_usage`](Error::is_usage) and its neighbours).
#[derive(Debug)]
pub struct Error {
    kind: Kind,
    text: String,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Usage,
    Format,
    Io,
    Target,
    Full,
    Cancelled,
}

impl Error {
    /// A value that the caller gave is outside its range.
    pub fn usage(text: impl Into<String>) -> Self {
        Self::new(Kind::Usage, text)
    }

    /// A file is not what it should be: foreign, truncated or altered.
    pub fn format(text: impl Into<String>) -> Self {
        Self::new(Kind::Format, text)
    }

    /// Reading or writing failed.
    pub fn io(text: impl Into<String>, source: std::io::Error) -> Self {
        Self { source: Some(Box::new(source)), ..Self::new(Kind::Io, text) }
    }

    /// The target model failed.
    pub fn target(text: impl Into<String>) -> Self {
        Self::new(Kind::Target, text)
    }

    /// The target's memory has no room for the rows of this call.
    pub fn full(text: impl Into<String>) -> Self {
        Self::new(Kind::Full, text)
    }

    /// The caller asked to stop.
    pub fn cancelled() -> Self {
        Self::new(Kind::Cancelled, "cancelled by the caller")
    }

    fn new(kind: Kind, text: impl Into<String>) -> Self {
        Self { kind, text: text.into(), source: None }
    }

    /// The same error with its cause, which stays reachable through [`source`](StdError::source).
    #[must_use]
    pub fn with_source(self, source: impl StdError + Send + Sync + 'static) -> Self {
        Self { source: Some(Box::new(source)), ..self }
    }

    /// True if the caller can mend it by giving another value.
    pub fn is_usage(&self) -> bool {
        self.kind == Kind::Usage
    }

    /// True if a file is not what it should be.
    pub fn is_format(&self) -> bool {
        self.kind == Kind::Format
    }

    /// True if reading or writing failed.
    pub fn is_io(&self) -> bool {
        self.kind == Kind::Io
    }

    /// True if the target model failed.
    pub fn is_target(&self) -> bool {
        self.kind == Kind::Target
    }

    /// True if the target's memory was full.
    pub fn is_full(&self) -> bool {
        self.kind == Kind::Full
    }

    /// True if the caller asked to stop.
    pub fn is_cancelled(&self) -> bool {
        self.kind == Kind::Cancelled
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_ref().map(|source| source.as_ref() as &(dyn StdError + 'static))
    }
}
