//! `/metrics`: counters in Prometheus' text format, under llama.cpp's names where it has them.

use std::fmt::Write as _;

use aded::Stats;
use aded::representative::Source;

use super::job::Timings;

/// Counts since the start. An answer counts once it is over.
#[derive(Debug, Default)]
pub(super) struct Metrics {
    stats: Stats,
    n_answers: u64,
    n_tokens: u64,
    n_prompt: u64,
    prompt_ms: f64,
    predicted_ms: f64,
    n_rounds: u64,
    n_busy: u64,
    n_refused: u64,
}

impl Metrics {
    /// A decode call for so many slots.
    pub(super) fn count_round(&mut self, n_slots: usize) {
        self.n_rounds += 1;
        self.n_busy += n_slots as u64;
    }

    /// An answer that is over, complete or not.
    pub(super) fn count_answer(&mut self, stats: &Stats, timings: &Timings) {
        self.stats += stats;
        self.n_answers += 1;
        self.n_tokens += timings.predicted_n;
        self.n_prompt += timings.prompt_n;
        self.prompt_ms += timings.prompt_ms;
        self.predicted_ms += timings.predicted_ms;
    }

    /// A request that was turned away because the queue was full.
    pub(super) fn count_refused(&mut self) {
        self.n_refused += 1;
    }

    /// The page. `n_running` requests run now, `n_waiting` wait.
    pub(super) fn page(&self, n_running: usize, n_waiting: usize) -> String {
        let stats = &self.stats;
        let rate = |n: u64, ms: f64| if ms > 0.0 { n as f64 * 1e3 / ms } else { 0.0 };
        let mut page = Page(String::new());
        page.counter("prompt_tokens_total", "Prompt tokens read.", self.n_prompt as f64);
        page.counter(
            "prompt_tokens_cached_total",
            "Prompt tokens that a slot held already.",
            stats.n_prompt_reused as f64,
        );
        page.counter("prompt_seconds_total", "Seconds from a slot to the first token.", self.prompt_ms / 1e3);
        page.counter("tokens_predicted_total", "Tokens of answers.", self.n_tokens as f64);
        page.counter(
            "tokens_predicted_seconds_total",
            "Seconds from the first token to the last.",
            self.predicted_ms / 1e3,
        );
        page.counter("n_decode_total", "Decode calls.", self.n_rounds as f64);
        page.counter("answers_total", "Answers that are over.", self.n_answers as f64);
        page.counter(
            "requests_refused_total",
            "Requests turned away because the queue was full.",
            self.n_refused as f64,
        );
        page.gauge("prompt_tokens_seconds", "Prompt tokens per second.", rate(self.n_prompt, self.prompt_ms));
        page.gauge(
            "predicted_tokens_seconds",
            "Tokens per second of an answer.",
            rate(self.n_tokens, self.predicted_ms),
        );
        page.gauge(
            "n_busy_slots_per_decode",
            "Slots that share a decode call, on average.",
            if self.n_rounds > 0 { self.n_busy as f64 / self.n_rounds as f64 } else { 0.0 },
        );
        page.gauge("requests_processing", "Requests in slots.", n_running as f64);
        page.gauge("requests_deferred", "Requests that wait for a slot.", n_waiting as f64);
        page.counter("spec_decode_num_drafts_total", "Rounds that drafted.", stats.n_draft_rounds as f64);
        page.counter("spec_decode_num_draft_tokens_total", "Tokens drafted.", stats.n_drafted as f64);
        page.counter("spec_decode_num_accepted_tokens_total", "Draft tokens accepted.", stats.n_accepted as f64);
        page.gauge("tokens_per_round", "Tokens of a round, the model's own included.", stats.tokens_per_round());
        let depths = || stats.by_depth.iter().skip(1).enumerate().filter(|(_, tally)| tally.drafted > 0);
        page.labelled(
            "spec_decode_num_draft_tokens_per_pos_total",
            "Tokens drafted, by depth; 0 = first.",
            depths().map(|(position, tally)| ("position", position.to_string(), tally.drafted)),
        );
        page.labelled(
            "spec_decode_num_accepted_tokens_per_pos_total",
            "Draft tokens accepted, by depth; 0 = first.",
            depths().map(|(position, tally)| ("position", position.to_string(), tally.accepted)),
        );
        let sources = || Source::ALL.iter().zip(&stats.by_source);
        page.labelled(
            "spec_decode_num_draft_tokens_per_source_total",
            "Tokens drafted, by source of the guess.",
            sources().map(|(source, tally)| ("source", source.name().to_owned(), tally.drafted)),
        );
        page.labelled(
            "spec_decode_num_accepted_tokens_per_source_total",
            "Draft tokens accepted, by source of the guess.",
            sources().map(|(source, tally)| ("source", source.name().to_owned(), tally.accepted)),
        );
        page.0
    }
}

struct Page(String);

impl Page {
    fn head(&mut self, name: &str, help: &str, kind: &str) {
        let _ = writeln!(self.0, "# HELP aded:{name} {help}\n# TYPE aded:{name} {kind}");
    }

    fn counter(&mut self, name: &str, help: &str, value: f64) {
        self.head(name, help, "counter");
        let _ = writeln!(self.0, "aded:{name} {value}");
    }

    fn gauge(&mut self, name: &str, help: &str, value: f64) {
        self.head(name, help, "gauge");
        let _ = writeln!(self.0, "aded:{name} {value}");
    }

    fn labelled(&mut self, name: &str, help: &str, rows: impl Iterator<Item = (&'static str, String, u64)>) {
        self.head(name, help, "counter");
        for (label, of, value) in rows {
            let _ = writeln!(self.0, "aded:{name}{{{label}=\"{of}\"}} {value}");
        }
    }
}
