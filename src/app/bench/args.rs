//! The flags of `aded bench`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use super::curve::MAX_ROWS;
use super::measure::Mode;
use crate::app::flags::{ContextArgs, KernelArgs, LogArgs, ModelArgs, SamplingArgs, SpecArgs};

/// Greedy and with a fixed seed unless asked otherwise: a measurement should be repeatable.
#[derive(Clone, Debug, Args)]
#[command(args_conflicts_with_subcommands = true, mut_arg("temp", |arg| arg.default_value("0")), mut_arg("seed", |arg| arg.default_value("42")))]
pub(crate) struct BenchArgs {
    #[command(subcommand)]
    pub(crate) what: Option<BenchWhat>,
    /// Questions, one JSON object a line: {"question_id", "category", "turns"}.
    #[arg(long, value_name = "FILE", conflicts_with = "curve")]
    pub(crate) prompts: Option<PathBuf>,
    /// Use the first K questions of each category.
    #[arg(long, value_name = "K", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) limit: Option<u32>,
    /// Most tokens of an answer.
    #[arg(short = 'n', long, alias = "n-predict", value_name = "N", default_value_t = 128, env = "ADED_PREDICT", value_parser = clap::value_parser!(u32).range(2..))]
    pub(crate) predict: u32,
    /// Passes over all questions; each starts with nothing learnt.
    #[arg(short = 'r', long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) repetitions: u32,
    /// Modes to compare with plain decoding.
    #[arg(long, value_name = "MODES", value_enum, value_delimiter = ',', default_values_t = [Mode::Plain, Mode::Auto])]
    pub(crate) modes: Vec<Mode>,
    /// Forget what was learnt before each question.
    #[arg(long, conflicts_with = "warm")]
    pub(crate) cold: bool,
    /// Keep what was learnt from the questions before (the default).
    #[arg(long)]
    pub(crate) warm: bool,
    /// Give the question as it is, without the model's chat template.
    #[arg(long)]
    pub(crate) no_conversation: bool,
    /// Measure instead what a pass costs by its number of rows; -c then lists the contexts.
    #[arg(long)]
    pub(crate) curve: bool,
    /// With --curve: the numbers of rows to measure, 1 to 32, such as 1,2,4-16+4 [default: all].
    #[arg(long, value_name = "LIST", value_delimiter = ',', requires = "curve", value_parser = numbers)]
    pub(crate) rows: Vec<Numbers>,
    /// Format on standard output.
    #[arg(short, long, value_name = "FORMAT", value_enum, default_value_t)]
    pub(crate) output: Format,
    /// Write a picture of the result.
    #[arg(long, value_name = "FILE")]
    pub(crate) svg: Option<PathBuf>,
    /// Write what plain decoding said, for `aded replay`.
    #[arg(long, value_name = "FILE", conflicts_with = "curve")]
    pub(crate) record: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    #[command(flatten)]
    pub(crate) kernels: KernelArgs,
    #[command(flatten)]
    pub(crate) context: BenchContextArgs,
    #[command(flatten)]
    pub(crate) sampling: SamplingArgs,
    #[command(flatten)]
    pub(crate) spec: SpecArgs,
    #[command(flatten)]
    pub(crate) log: LogArgs,
}

#[derive(Clone, Debug, Subcommand)]
pub(crate) enum BenchWhat {
    /// Compare two reports made with -o json.
    Compare {
        /// The first report.
        #[arg(value_name = "A.json")]
        first: PathBuf,
        /// The second report.
        #[arg(value_name = "B.json")]
        second: PathBuf,
    },
}

/// As for other commands, with a list of contexts.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Context")]
pub(crate) struct BenchContextArgs {
    /// Tokens that prompt and answer may have together [default: what the questions need]. With --curve: the contexts to measure
    /// [default: 64].
    #[arg(short, long, value_name = "N", value_delimiter = ',', env = "ADED_CTX_SIZE")]
    pub(crate) ctx_size: Vec<u32>,
    /// Most tokens of the prompt in one call.
    #[arg(short, long, value_name = "N", default_value_t = 2048, env = "ADED_BATCH_SIZE")]
    pub(crate) batch_size: u32,
    /// Most tokens that are computed at once.
    #[arg(long, value_name = "N", default_value_t = 512, env = "ADED_UBATCH_SIZE")]
    pub(crate) ubatch_size: u32,
    /// Threads [default: one for each physical core].
    #[arg(short, long, value_name = "N", env = "ADED_THREADS")]
    pub(crate) threads: Option<u32>,
    /// Threads for prompts and drafts [default: as --threads].
    #[arg(long, value_name = "N", env = "ADED_THREADS_BATCH")]
    pub(crate) threads_batch: Option<u32>,
    /// Fused attention: on, off or auto. Auto gives plain decoding what is faster for it.
    #[arg(long, value_name = "WHEN", default_value = "auto", default_missing_value = "on", num_args = 0..=1, env = "ADED_FLASH_ATTN")]
    pub(crate) flash_attn: String,
    /// Number type of the memory's keys.
    #[arg(long, value_name = "TYPE", default_value = "f16", env = "ADED_CACHE_TYPE_K")]
    pub(crate) cache_type_k: String,
    /// Number type of the memory's values.
    #[arg(long, value_name = "TYPE", default_value = "f16", env = "ADED_CACHE_TYPE_V")]
    pub(crate) cache_type_v: String,
}

impl BenchContextArgs {
    /// The shared flags, with a context of `ctx_size` tokens.
    pub(crate) fn with_size(&self, ctx_size: u32) -> ContextArgs {
        ContextArgs {
            ctx_size: Some(ctx_size),
            batch_size: self.batch_size,
            ubatch_size: self.ubatch_size,
            threads: self.threads,
            threads_batch: self.threads_batch,
            flash_attn: self.flash_attn.clone(),
            cache_type_k: self.cache_type_k.clone(),
            cache_type_v: self.cache_type_v.clone(),
            no_kv_offload: false,
            kv_offload: true,
            swa_full: true,
            context_shift: false,
            no_context_shift: false,
            keep: 0,
        }
    }
}

/// One number of rows or several.
pub(crate) type Numbers = Vec<usize>;

/// A number of rows, or a range in llama-bench's form: `first-last`, `first-last+step`.
fn numbers(text: &str) -> Result<Numbers, String> {
    let (range, step) = text.split_once('+').unwrap_or((text, "1"));
    let (first, last) = range.split_once('-').unwrap_or((range, range));
    let number = |text: &str| text.parse().ok().filter(|number| (1..=MAX_ROWS).contains(number));
    match (number(first), number(last), number(step)) {
        (Some(first), Some(last), Some(step)) if first <= last => Ok((first..=last).step_by(step).collect()),
        _ => Err(format!("give numbers from 1 to {MAX_ROWS}, such as 8, 1-4 or 4-16+4")),
    }
}

/// Output formats.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, ValueEnum)]
pub(crate) enum Format {
    /// Tables for people.
    #[default]
    Md,
    /// One line for each group and mode.
    Csv,
    /// The whole report as one object.
    Json,
    /// One line for each answer, as it comes.
    Jsonl,
    /// As CSV, in statements for a database.
    Sql,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_numbers_and_ranges() {
        assert_eq!(numbers("8"), Ok(vec![8]));
        assert_eq!(numbers("1-4"), Ok(vec![1, 2, 3, 4]));
        assert_eq!(numbers("4-17+4"), Ok(vec![4, 8, 12, 16]));
        for wrong in ["", "0", "33", "4-1", "1-40", "1-4+0", "a", "-3", "1--2"] {
            assert!(numbers(wrong).is_err_and(|text| text.contains("from 1 to 32")), "{wrong}");
        }
    }
}
