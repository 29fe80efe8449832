//! What reaches the terminal: text as it is confirmed, colours, statistics and the JSON object.

use std::env;
use std::fmt::Write as _;
use std::io::{self, IsTerminal as _, Write as _};
use std::sync::atomic::{AtomicBool, Ordering};

use aded::draft::cost::CostTable;
use aded::representative::Source;
use aded::stats::Tally;
use aded::{Finish, Stats, Token};
use serde::Serialize;

use super::answer::Answer;
use super::flags::When;

const GUESSED: &str = "\x1b[32m";
const PLAIN: &str = "\x1b[0m";

/// A colour may be left on.
static IS_COLOURED: AtomicBool = AtomicBool::new(false);

/// Whether standard output takes colours.
pub(crate) fn has_colours(when: When) -> bool {
    match when {
        When::On => true,
        When::Off => false,
        When::Auto => {
            let is_set = |name| env::var_os(name).is_some_and(|value| !value.is_empty());
            io::stdout().is_terminal() && !is_set("NO_COLOR") && env::var_os("TERM").is_none_or(|term| term != "dumb")
        }
    }
}

/// Switches colours off where a piece of text left them on. Called when the process is about to be ended.
pub(crate) fn reset_colour() {
    if IS_COLOURED.swap(false, Ordering::Relaxed) {
        // Whoever holds the lock may hold it for good.
        let _ = write!(io::stderr(), "{PLAIN}");
    }
}

/// A line on standard error; lost without harm where nobody reads it.
pub(crate) fn note(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}

/// An error of standard output that says what could not be written.
fn unwritten(error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("cannot write the answer: {error}"))
}

/// Writes pieces of the answer to standard output as they come.
pub(crate) struct TextWriter {
    show_draft: bool,
    buffer: String,
    is_line_begun: bool,
}

impl TextWriter {
    /// `show_draft` colours the tokens that were guessed.
    pub(crate) fn new(show_draft: bool) -> Self {
        Self { show_draft, buffer: String::new(), is_line_begun: false }
    }

    /// Adds a piece.
    pub(crate) fn push(&mut self, text: &str, is_guessed: bool) {
        let Some(last) = text.chars().last() else { return };
        self.is_line_begun = last != '\n';
        if self.show_draft && is_guessed {
            self.buffer.extend([GUESSED, text, PLAIN]);
        } else {
            self.buffer.push_str(text);
        }
    }

    /// The answer is over: its last line ends, if it has not.
    pub(crate) fn end_line(&mut self) {
        if self.is_line_begun {
            self.push("\n", false);
        }
    }

    /// Hands out what was added.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        IS_COLOURED.store(self.show_draft, Ordering::Relaxed);
        let mut out = io::stdout().lock();
        out.write_all(self.buffer.as_bytes()).and_then(|()| out.flush()).map_err(unwritten)?;
        IS_COLOURED.store(false, Ordering::Relaxed);
        self.buffer.clear();
        Ok(())
    }
}

/// Finds stop strings in text that comes in pieces. What may be the beginning of one is held back until it is decided.
pub(crate) struct StopFilter {
    stops: Vec<String>,
    held: String,
    found: Option<usize>,
}

impl StopFilter {
    /// Empty strings stop nothing.
    pub(crate) fn new(stops: impl IntoIterator<Item = String>) -> Self {
        Self { stops: stops.into_iter().filter(|stop| !stop.is_empty()).collect(), held: String::new(), found: None }
    }

    /// The stop string that was found.
    #[cfg_attr(not(feature = "server"), allow(dead_code))]
    pub(crate) fn found(&self) -> Option<&str> {
        self.found.map(|index| self.stops[index].as_str())
    }

    /// Takes a piece and appends to `out` what no stop string can begin in. True if one was found: the text before it is in `out`, and
    /// the rest is gone.
    pub(crate) fn push(&mut self, piece: &str, out: &mut String) -> bool {
        self.held.push_str(piece);
        let places = self.stops.iter().enumerate().filter_map(|(index, stop)| Some((self.held.find(stop)?, index)));
        if let Some((at, index)) = places.min() {
            self.found = Some(index);
            out.push_str(&self.held[..at]);
            self.held.clear();
            return true;
        }
        let begins = |stop: &String| {
            (1..stop.len().min(self.held.len() + 1))
                .rev()
                .find(|&n| stop.is_char_boundary(n) && self.held.ends_with(&stop[..n]))
                .unwrap_or(0)
        };
        let end = self.held.len() - self.stops.iter().map(begins).max().unwrap_or(0);
        out.push_str(&self.held[..end]);
        self.held.drain(..end);
        false
    }

    /// The text has ended: what was held back is no stop string.
    pub(crate) fn finish(&mut self, out: &mut String) {
        out.push_str(&self.held);
        self.held.clear();
    }
}

/// The object of `--json`.
#[derive(Serialize)]
pub(crate) struct AnswerObject<'a> {
    text: &'a str,
    tokens: &'a [Token],
    finish_reason: Option<Finish>,
    timings: Timings,
    #[serde(skip_serializing_if = "Option::is_none")]
    stats: Option<&'a Stats>,
}

impl<'a> AnswerObject<'a> {
    /// `is_full` adds all counts.
    pub(crate) fn new(answer: &'a Answer, speed_up: Option<f64>, is_full: bool) -> Self {
        Self {
            text: &answer.text,
            tokens: &answer.tokens,
            finish_reason: answer.finish,
            timings: Timings::new(&answer.stats, answer.tokens.len(), speed_up),
            stats: is_full.then_some(&answer.stats),
        }
    }

    /// Writes it to standard output, in one line.
    pub(crate) fn write(&self) -> io::Result<()> {
        let mut out = io::stdout().lock();
        let written = serde_json::to_writer(&mut out, self).map_err(io::Error::from);
        written.and_then(|()| writeln!(out)).and_then(|()| out.flush()).map_err(unwritten)
    }
}

/// How many times faster an answer came than it would have plainly, by the plain rounds that were measured on the way: their time, sampling
/// included, at the answer's middle. `None` where nothing was drafted or no plain round was measured.
pub(crate) fn speed_up(stats: &Stats, cost: &CostTable) -> Option<f64> {
    // The first round of a size builds llama.cpp's graph and touches fresh memory.
    if stats.n_drafted == 0 || stats.round_ns == 0 || cost.n_samples(1) < 2 {
        return None;
    }
    let middle = stats.n_prompt_reused + stats.n_prompt + stats.n_tokens / 2;
    let plain_ms = f64::from(cost.measured_ms(1, middle as usize)? + cost.sample_ms());
    Some(plain_ms * 1e6 * stats.n_tokens as f64 / stats.round_ns as f64)
}

/// The statistics in one line, with the speed-up where it is known.
pub(crate) fn statistics(stats: &Stats, speed_up: Option<f64>) -> String {
    let gained = speed_up.map_or_else(String::new, |factor| format!(", {factor:.2}x the plain rate"));
    format!("{stats}{gained}")
}

/// Times and counts under llama.cpp's names, and ours.
#[derive(Serialize)]
struct Timings {
    cache_n: u64,
    prompt_n: u64,
    prompt_ms: f64,
    prompt_per_token_ms: f64,
    prompt_per_second: f64,
    /// Tokens of the answer. The first comes with the prompt, so that the rates below rest on one token less.
    predicted_n: u64,
    predicted_ms: f64,
    predicted_per_token_ms: f64,
    predicted_per_second: f64,
    draft_n: u64,
    draft_n_accepted: u64,
    draft_rounds: u64,
    draft_ms: f64,
    learn_ms: f64,
    tokens_per_round: f64,
    nodes_per_round: f64,
    /// See [`speed_up`]; null where it is not known.
    speed_up: Option<f64>,
}

impl Timings {
    fn new(stats: &Stats, n_tokens: usize, speed_up: Option<f64>) -> Self {
        let ms = |ns: u64| ns as f64 / 1e6;
        let each = |ns: u64, n: u64| if n == 0 { 0.0 } else { ms(ns) / n as f64 };
        Self {
            cache_n: stats.n_prompt_reused,
            prompt_n: stats.n_prompt,
            prompt_ms: ms(stats.prompt_ns),
            prompt_per_token_ms: each(stats.prompt_ns, stats.n_prompt),
            prompt_per_second: stats.prompt_per_second(),
            predicted_n: n_tokens as u64,
            predicted_ms: ms(stats.round_ns),
            predicted_per_token_ms: each(stats.round_ns, stats.n_tokens),
            predicted_per_second: stats.tokens_per_second(),
            draft_n: stats.n_drafted,
            draft_n_accepted: stats.n_accepted,
            draft_rounds: stats.n_draft_rounds,
            draft_ms: ms(stats.draft_ns),
            learn_ms: ms(stats.learn_ns),
            tokens_per_round: stats.tokens_per_round(),
            nodes_per_round: stats.nodes_per_round(),
            speed_up,
        }
    }
}

/// Drafted and accepted nodes by depth and by source, as a table.
pub(crate) fn details(stats: &Stats) -> String {
    let mut text = String::new();
    let mut add = |name: &str, tally: Tally| {
        if tally.drafted > 0 {
            let share = 100.0 * tally.accepted as f64 / tally.drafted as f64;
            let _ = writeln!(text, "{name:<14} {:>8} {:>8} {share:>6.1} %", tally.drafted, tally.accepted);
        }
    };
    for (depth, &tally) in stats.by_depth.iter().enumerate() {
        add(&format!("depth {depth}"), tally);
    }
    for (source, &tally) in Source::ALL.iter().zip(&stats.by_source) {
        add(source.name(), tally);
    }
    if text.is_empty() {
        return "nothing was drafted\n".to_owned();
    }
    let head = format!("{:<14} {:>8} {:>8} {:>8}\n", "nodes", "drafted", "accepted", "share");
    let aside = format!("accepted on branches other than the first: {}\n", stats.n_accepted_aside);
    head + &text + &aside
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stop_strings_are_found_across_pieces_and_nothing_else_is_lost() {
        let text = "a user: asks, an us er and é\u{1f600} stays; <|end|> gone";
        for stops in [vec!["user:x", "<|end|>"], vec!["é!", "<|"], vec!["", "zz"]] {
            let whole = stops.iter().filter(|s| !s.is_empty()).filter_map(|s| text.find(s)).min().map(|at| &text[..at]);
            for size in 1..9 {
                let mut filter = StopFilter::new(stops.iter().map(|s| (*s).to_owned()));
                let (mut out, mut found) = (String::new(), false);
                let characters: Vec<char> = text.chars().collect();
                for piece in characters.chunks(size) {
                    found = filter.push(&piece.iter().collect::<String>(), &mut out);
                    assert!(text.starts_with(&out));
                    if found {
                        break;
                    }
                }
                if !found {
                    filter.finish(&mut out);
                }
                assert_eq!((found, out.as_str()), (whole.is_some(), whole.unwrap_or(text)), "{stops:?} by {size}");
            }
        }
    }

    #[test]
    fn the_speed_up_rests_on_measured_plain_rounds_alone() {
        let mut cost = CostTable::default();
        let stats = Stats { n_drafted: 3, n_tokens: 30, round_ns: 100_000_000, ..Stats::default() };
        assert_eq!(speed_up(&stats, &cost), None);
        cost.observe(4, 0, 12.0, 1, 0.5);
        cost.observe(1, 0, 90.0, 1, 0.5);
        assert_eq!(speed_up(&stats, &cost), None, "the first round tells nothing");
        cost.observe(1, 0, 9.5, 1, 0.5);
        let factor = speed_up(&stats, &cost).expect("measured");
        assert!((factor - 3.0).abs() < 1e-3, "30 tokens of 10 ms in 100 ms: {factor}");
        assert_eq!(speed_up(&Stats { n_drafted: 0, ..stats }, &cost), None);
    }

    #[test]
    fn guessed_tokens_are_coloured_only_on_request() {
        let write = |show_draft| {
            let mut writer = TextWriter::new(show_draft);
            writer.push("one", false);
            writer.push(" two", true);
            writer.push("", true);
            writer.buffer
        };
        assert_eq!(write(false), "one two");
        assert_eq!(write(true), "one\x1b[32m two\x1b[0m");
    }
}
