//! `aded replay`: recorded answers played over a given cost of rows, without a model, a clock or noise.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aded::draft::cost::SIZES;
use aded::replay::{Bin, CostPoint, EXAMPLES, Played, Reliability, Replay, RowCost};
use aded::representative::Source;
use aded::representative::corpus::Corpus;
use aded::{Error, Stats};
use anyhow::Result;
use clap::{Args, ValueEnum};
use serde::Serialize;

use super::bench::measure::Mode;
use super::bench::statistics::is_repetitive;
use super::bench::table::Table;
use super::bench::trace::{self, Answer};
use super::flags::{LogArgs, SpecArgs};
use super::{log, resolve};

/// What to replay, and on which machine.
#[derive(Clone, Debug, Args)]
pub(crate) struct ReplayArgs {
    /// Traces written by `aded bench --record`.
    #[arg(required = true, value_name = "TRACE")]
    pub(crate) traces: Vec<PathBuf>,
    /// What rows cost: a report of `aded bench --curve -o json`, or a built-in table: stock-q4_1, stock-q4_0, stock-q4_0-head,
    /// stock-q8_0, prototype-q8_0, prototype-1b-q8_0.
    #[arg(long, value_name = "COST", default_value = "prototype-q8_0")]
    pub(crate) cost: String,
    /// Milliseconds on top where a round has another number of rows than the last one.
    #[arg(long, value_name = "MS", default_value_t = 0.0)]
    pub(crate) switch_ms: f32,
    /// Modes to compare.
    #[arg(long, value_name = "MODES", value_enum, value_delimiter = ',', default_values_t = [Mode::Auto])]
    pub(crate) modes: Vec<Mode>,
    /// Forget what was learnt before each answer.
    #[arg(long)]
    pub(crate) cold: bool,
    /// Format on standard output.
    #[arg(short, long, value_name = "FORMAT", value_enum, default_value_t)]
    pub(crate) output: ReplayFormat,
    #[command(flatten)]
    pub(crate) spec: SpecArgs,
    #[command(flatten)]
    pub(crate) log: LogArgs,
}

/// Output formats.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, ValueEnum)]
pub(crate) enum ReplayFormat {
    /// Tables for people.
    #[default]
    Md,
    /// One object.
    Json,
}

#[derive(Debug, Serialize)]
struct Outcome {
    mode: &'static str,
    groups: Vec<Group>,
    sources: Vec<Share<String>>,
    per_depth: Vec<Share<usize>>,
    /// Guesses by their probability, in twentieths.
    reliability: Vec<Bin>,
    /// Mean distance between predicted and taken.
    reliability_error: f64,
}

#[derive(Debug, Serialize)]
struct Group {
    category: String,
    answers: usize,
    tokens: u64,
    tokens_per_round: f64,
    nodes_per_round: f64,
    predicted_speedup: f64,
}

#[derive(Debug, Serialize)]
struct Share<T> {
    of: T,
    drafted: u64,
    accepted: u64,
}

/// Replays.
///
/// # Errors
/// For bad arguments and files.
pub(crate) fn replay(args: &ReplayArgs) -> Result<()> {
    log::install(&args.log)?;
    let corpus = args.spec.corpus.as_deref().map(|path| Corpus::load(path, None).map(Arc::new)).transpose()?;
    let mut answers = Vec::new();
    for path in &args.traces {
        let (header, recorded) = trace::read(path)?;
        if let (Some(corpus), Some(tokenizer)) = (&corpus, header.tokenizer)
            && corpus.fingerprint().to_string() != tokenizer
        {
            return Err(Error::usage(format!(
                "the corpus is of the tokenizer {}, but {} was recorded with {tokenizer}; learn it with the model of the trace",
                corpus.fingerprint(),
                path.display()
            ))
            .into());
        }
        answers.extend(recorded);
    }
    let mut cost = cost(&args.cost)?;
    cost.switch_ms = args.switch_ms;
    let outcomes =
        args.modes.iter().map(|&mode| play(args, mode, &answers, &cost, corpus.clone())).collect::<Result<Vec<_>>>()?;
    let text = match args.output {
        ReplayFormat::Md => outcomes.iter().map(markdown).collect::<String>(),
        ReplayFormat::Json => serde_json::to_string_pretty(&outcomes)? + "\n",
    };
    Ok(io::stdout().lock().write_all(text.as_bytes())?)
}

fn cost(name: &str) -> Result<RowCost, Error> {
    if let Some(cost) = RowCost::named(name) {
        return Ok(cost);
    }
    let path = Path::new(name);
    if !path.exists() {
        let known = EXAMPLES.iter().map(|(name, ..)| *name).collect::<Vec<_>>().join(", ");
        return Err(Error::usage(format!(
            "{name} is neither a file nor a built-in table of costs ({known}); `aded bench --curve -o json` writes one"
        )));
    }
    let text = fs::read_to_string(path).map_err(|error| Error::io(format!("cannot read the costs {name}"), error))?;
    let wrong = |error| Error::format(format!("{name} is no report of `aded bench -o json`: {error}"));
    let report: serde_json::Value = serde_json::from_str(&text).map_err(wrong)?;
    let points: Vec<CostPoint> = serde_json::from_value(report["cost"].clone()).map_err(wrong)?;
    RowCost::new(&points)
}

fn play(
    args: &ReplayArgs,
    mode: Mode,
    answers: &[Answer],
    cost: &RowCost,
    corpus: Option<Arc<Corpus>>,
) -> Result<Outcome> {
    let config = mode.config(&resolve::config(&args.spec)?);
    let n_ctx = answers.iter().map(|answer| answer.recording.prompt().len() + answer.recording.output().len());
    let n_ctx = n_ctx.max().unwrap_or(0) + SIZES[SIZES.len() - 1];
    let mut replay = Replay::new(config, cost.clone(), n_ctx as u32)?;
    replay.session_mut().decoder_mut().set_corpus(corpus);
    let mut reliability = Reliability::default();
    let mut played = Vec::new();
    for answer in answers {
        if args.cold {
            replay.forget();
        }
        played.push(replay.play(&answer.recording, &mut reliability)?);
    }
    let mut stats = Stats::default();
    played.iter().for_each(|played| stats += &played.stats);
    let shares = stats.by_source.iter().zip(Source::ALL).filter(|(tally, _)| tally.drafted > 0);
    let depths = stats.by_depth.iter().enumerate().filter(|(_, tally)| tally.drafted > 0);
    Ok(Outcome {
        mode: mode.name(),
        groups: groups(answers, &played),
        sources: shares
            .map(|(tally, source)| Share {
                of: source.name().to_owned(),
                drafted: tally.drafted,
                accepted: tally.accepted,
            })
            .collect(),
        per_depth: depths.map(|(of, tally)| Share { of, drafted: tally.drafted, accepted: tally.accepted }).collect(),
        reliability_error: reliability.error(),
        reliability: reliability.bins(),
    })
}

fn groups(answers: &[Answer], played: &[Played]) -> Vec<Group> {
    let mut names = vec!["all", "repetitive", "non-repetitive"];
    for answer in answers {
        if !names.contains(&answer.category.as_str()) {
            names.push(&answer.category);
        }
    }
    let belongs = |name: &str, answer: &Answer| match name {
        "all" => true,
        "repetitive" => is_repetitive(answer.recording.output()),
        "non-repetitive" => !is_repetitive(answer.recording.output()),
        category => answer.category == category,
    };
    let group = |name: &&str| {
        let of: Vec<&Played> =
            answers.iter().zip(played).filter(|(answer, _)| belongs(name, answer)).map(|(_, played)| played).collect();
        let mut stats = Stats::default();
        of.iter().for_each(|played| stats += &played.stats);
        let ms = |which: fn(&Played) -> f64| of.iter().map(|played| which(played)).sum::<f64>();
        (!of.is_empty()).then(|| Group {
            category: (*name).to_owned(),
            answers: of.len(),
            tokens: stats.n_tokens,
            tokens_per_round: stats.tokens_per_round(),
            nodes_per_round: stats.nodes_per_round(),
            predicted_speedup: ms(|played| played.plain_ms) / ms(|played| played.ms).max(1e-9),
        })
    };
    names.iter().filter_map(group).collect()
}

fn markdown(outcome: &Outcome) -> String {
    let mut table = Table::new(&["group", "mode", "answers", "speed-up", "tokens/round", "nodes/round"]);
    for group in &outcome.groups {
        table.push(vec![
            group.category.clone(),
            outcome.mode.to_owned(),
            group.answers.to_string(),
            format!("{:.3}x", group.predicted_speedup),
            format!("{:.3}", group.tokens_per_round),
            format!("{:.2}", group.nodes_per_round),
        ]);
    }
    let mut text = table.markdown() + "\n" + &shares("source", &outcome.sources) + &shares("depth", &outcome.per_depth);
    let mut bins = Table::new(&["guessed", "taken", "guesses"]);
    for bin in outcome.reliability.iter().filter(|bin| bin.n > 0) {
        bins.push(vec![format!("{:.3}", bin.predicted), format!("{:.3}", bin.taken), bin.n.to_string()]);
    }
    text += &format!("Reliability (mean error {:.4})\n\n{}\n", outcome.reliability_error, bins.markdown());
    text
}

fn shares<T: ToString>(what: &str, shares: &[Share<T>]) -> String {
    if shares.is_empty() {
        return String::new();
    }
    let mut table = Table::new(&[what, "drafted", "accepted", "share"]);
    for share in shares {
        let percent = 100.0 * share.accepted as f64 / share.drafted.max(1) as f64;
        let cells = [share.of.to_string(), share.drafted.to_string(), share.accepted.to_string()];
        table.push(cells.into_iter().chain([format!("{percent:.1} %")]).collect());
    }
    table.markdown() + "\n"
}
