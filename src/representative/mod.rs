//! The representative: a cheap guess at the target's next-token distribution, built from everything that was seen anyway.
//!
//! Several *sources* propose successors of a context; [`calibrate`] turns what they say into one currency, the probability that the
//! target will take this token here. Nothing in this module drafts: the search reads it through [`Predict`].

pub mod calibrate;
pub mod copy;
pub mod corpus;
pub mod memory;
pub mod overlay;
pub mod recall;
pub mod reference;
pub mod rows;
pub mod store;
mod view;

use crate::token::Token;

pub use view::{Representative, View};

/// Most candidates that a context yields. More than the target's own top few are never worth a row.
pub const MAX_CANDIDATES: usize = 24;

/// One origin of guesses.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(rename_all = "snake_case"))]
#[repr(u8)]
pub enum Source {
    /// The longest match of the context's end earlier in the same prompt and output.
    #[default]
    Copy,
    /// The same in earlier, finished generations of this process.
    Log,
    /// Logits rows of this pair of tokens that were computed before, rejected nodes included.
    RecallPair,
    /// Counts of what followed this pair of tokens.
    OverlayPair,
    /// The frozen tri-gram table, with its own back-off.
    Corpus,
    /// The other likely tokens of the last logits row: what was not said now is often said next.
    RunnerUp,
    /// Logits rows of the last token alone.
    RecallToken,
    /// Counts of what followed the last token alone.
    OverlayToken,
}

impl Source {
    /// Number of sources.
    pub const COUNT: usize = 8;

    /// All sources, in the order in which a candidate that several propose is credited when they are equally sure.
    pub const ALL: [Source; Self::COUNT] = [
        Source::Copy,
        Source::Log,
        Source::RecallPair,
        Source::OverlayPair,
        Source::Corpus,
        Source::RunnerUp,
        Source::RecallToken,
        Source::OverlayToken,
    ];

    /// The name used in statistics.
    pub fn name(self) -> &'static str {
        match self {
            Source::Copy => "copy",
            Source::Log => "log",
            Source::RecallPair => "recall_pair",
            Source::OverlayPair => "overlay_pair",
            Source::Corpus => "corpus",
            Source::RunnerUp => "runner_up",
            Source::RecallToken => "recall_token",
            Source::OverlayToken => "overlay_token",
        }
    }
}

/// A guess for the token after a context.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Candidate {
    /// The guessed token.
    pub token: Token,
    /// Probability that the target takes it here, given the context.
    pub probability: f32,
    /// How many outcomes the estimate rests on, roughly; small for a context that was hardly ever verified.
    pub observations: f32,
    /// The source that is surest of it.
    pub source: Source,
}

/// The guesses for one context, likeliest first; equals by token id. Their probabilities sum to at most 1.
#[derive(Clone, Debug, Default)]
pub struct Successors {
    /// The guesses.
    pub candidates: Vec<Candidate>,
}

/// What a guess depends on: the last two tokens, and where the context's end was seen before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Context {
    /// The token before the last; [`NO_TOKEN`] at the start of a text.
    pub previous: Token,
    /// The last token.
    pub last: Token,
    /// Continuation of the longest match in the same sequence.
    pub copy: copy::Cursor,
    /// Continuation of the longest match in earlier generations.
    pub log: copy::Cursor,
    /// 0 at the root, its depth in the draft elsewhere.
    pub depth: u16,
}

/// Stands for "no token" in contexts; no vocabulary is that large.
pub const NO_TOKEN: Token = Token(u32::MAX);

/// Guesses the successors of a context. The one interface between the representative and the search, and the way in for drafters of
/// your own.
pub trait Predict {
    /// The confirmed text, prompt and output.
    fn text(&self) -> &[Token];

    /// The context at the end of the confirmed text.
    fn root(&self) -> Context;

    /// The context after `token` was added to `parent`.
    fn child(&self, parent: &Context, token: Token) -> Context;

    /// Writes the guesses for `context` into `out`, likeliest first, replacing what it held. Never fails; nothing known is an empty
    /// list. Probabilities lie in 0..=1 and sum to at most 1.
    fn successors(&self, context: &Context, out: &mut Successors);
}
