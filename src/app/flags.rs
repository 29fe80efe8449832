//! The one list of flags, in llama.cpp's names where llama.cpp has the thing. Subcommands share the groups by `flatten`.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use super::bench::args::BenchArgs;
use super::chain::ChainArgs;
use super::chat::args::ChatArgs;
use super::doctor::DoctorArgs;
use super::models::ModelsArgs;
use super::replay::ReplayArgs;

/// Runs local GGUF models with llama.cpp, faster: guesses from tri-grams, searched as a tree, checked by the model in one pass.
#[derive(Debug, Parser)]
#[command(name = "aded", disable_version_flag = true, subcommand_required = false, arg_required_else_help = true)]
pub(crate) struct Cli {
    /// Print versions, backends and processor features.
    #[arg(long, short = 'V')]
    pub(crate) version: bool,
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Answer a prompt.
    Run(Box<RunArgs>),
    /// Answer requests of OpenAI's and llama.cpp's clients, and show a chat page.
    #[cfg(feature = "server")]
    #[command(alias = "server")]
    Serve(Box<crate::server::args::ServeArgs>),
    /// Chat with a model; input that is no terminal is taken line by line.
    Chat(Box<ChatArgs>),
    /// Measure the speed-up on real prompts, or the cost of rows.
    Bench(Box<BenchArgs>),
    /// Play recorded answers over a given cost of rows, without a model: searches and settings judged without noise.
    Replay(Box<ReplayArgs>),
    /// Print what is in a model or corpus file, or one round's draft tree.
    Inspect(InspectArgs),
    /// Learn a corpus: a table of tri-grams from text, to draft from.
    Learn(LearnArgs),
    /// Quantise a model file to another type.
    Quantize(QuantizeArgs),
    /// List, look into, join or remove what was learnt from earlier answers.
    #[command(subcommand, arg_required_else_help = true)]
    Memory(MemoryCommand),
    /// List, fetch or remove models.
    Models(ModelsArgs),
    /// Look at the machine: processor, memory, folders, models, and in five seconds what rows cost.
    Doctor(Box<DoctorArgs>),
    /// Print a completion script for a shell.
    Completions {
        /// Shell.
        shell: clap_complete::Shell,
    },
    /// Print a manual page: `aded man | man -l -`, `aded man run | man -l -`.
    Man {
        /// Command that the page is about [default: the program].
        #[arg(value_name = "COMMAND")]
        names: Vec<String>,
    },
}

/// Which model, and where its weights go.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Model")]
pub(crate) struct ModelArgs {
    /// Model file (GGUF). Without it: the default model that `make run` fetches.
    #[arg(short, long, value_name = "FILE", env = "ADED_MODEL")]
    pub(crate) model: Option<PathBuf>,
    /// Model on Hugging Face: user/repo[:quant], by default Q4_K_M or the first one there is. In place of --model.
    #[arg(long, value_name = "NAME", env = "ADED_HF_REPO")]
    pub(crate) hf_repo: Option<String>,
    #[command(flatten)]
    pub(crate) hub: HubArgs,
    /// Layers to put on the GPU: a number, `auto` or `all`.
    #[arg(long, alias = "n-gpu-layers", value_name = "N", default_value = "all", env = "ADED_GPU_LAYERS", value_parser = gpu_layers, allow_negative_numbers = true)]
    pub(crate) gpu_layers: i32,
    /// Read the file instead of mapping it.
    #[arg(long, env = "ADED_NO_MMAP")]
    pub(crate) no_mmap: bool,
    /// Keep the weights from being swapped out.
    #[arg(long, env = "ADED_MLOCK")]
    pub(crate) mlock: bool,
    /// Look for invalid numbers in the weights while loading.
    #[arg(long, env = "ADED_CHECK_TENSORS")]
    pub(crate) check_tensors: bool,
}

/// How models are fetched.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Model")]
pub(crate) struct HubArgs {
    /// File of the repository, in place of a quantisation.
    #[arg(long, value_name = "FILE", env = "ADED_HF_FILE")]
    pub(crate) hf_file: Option<String>,
    /// Token for private and gated repositories.
    #[arg(long, value_name = "TOKEN", env = "HF_TOKEN", hide_env_values = true)]
    pub(crate) hf_token: Option<String>,
    /// Use what is on this machine and fetch nothing; also HF_HUB_OFFLINE.
    #[arg(long, env = "ADED_OFFLINE")]
    pub(crate) offline: bool,
}

/// Memory and threads.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Context")]
pub(crate) struct ContextArgs {
    /// Tokens that prompt and answer may have together; 0 = as many as the model was trained with [default: the same, but at most 8192].
    #[arg(short, long, value_name = "N", env = "ADED_CTX_SIZE")]
    pub(crate) ctx_size: Option<u32>,
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
    /// Fused attention: on, off or auto.
    #[arg(long, value_name = "WHEN", default_value = "auto", default_missing_value = "on", num_args = 0..=1, env = "ADED_FLASH_ATTN")]
    pub(crate) flash_attn: String,
    /// Number type of the memory's keys: f32, f16, bf16, q8_0, q4_0, q4_1, iq4_nl, q5_0, q5_1.
    #[arg(long, value_name = "TYPE", default_value = "f16", env = "ADED_CACHE_TYPE_K")]
    pub(crate) cache_type_k: String,
    /// Number type of the memory's values; a quantised one needs fused attention.
    #[arg(long, value_name = "TYPE", default_value = "f16", env = "ADED_CACHE_TYPE_V")]
    pub(crate) cache_type_v: String,
    /// Go on at the end of the context: keep the beginning of the prompt (--keep), and forget half of what follows it.
    #[arg(long, overrides_with = "no_context_shift", env = "ADED_CONTEXT_SHIFT")]
    pub(crate) context_shift: bool,
    /// End the answer with the context (the default).
    #[arg(long, hide = true)]
    pub(crate) no_context_shift: bool,
    /// Tokens of the prompt that stay when the context is shifted; -1 = all.
    #[arg(long, value_name = "N", default_value_t = 0, allow_negative_numbers = true, env = "ADED_KEEP")]
    pub(crate) keep: i32,
    /// Keep the memory off the GPU.
    #[arg(long, overrides_with = "kv_offload", env = "ADED_NO_KV_OFFLOAD")]
    pub(crate) no_kv_offload: bool,
    /// Keep the memory where the layers are (the default).
    #[arg(long, hide = true)]
    pub(crate) kv_offload: bool,
    /// Taken for llama.cpp's sake: trees need the full memory of sliding-window layers, so it is always on.
    #[arg(long, hide = true)]
    pub(crate) swa_full: bool,
}

/// How a token is chosen; defaults as in llama.cpp.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Sampling")]
pub(crate) struct SamplingArgs {
    /// Seed; -1 = another one each time.
    #[arg(short, long, value_name = "N", default_value_t = -1, allow_negative_numbers = true, env = "ADED_SEED")]
    pub(crate) seed: i64,
    /// Temperature; 0 = always the likeliest token.
    #[arg(
        long,
        alias = "temperature",
        value_name = "T",
        default_value_t = 0.8,
        allow_negative_numbers = true,
        env = "ADED_TEMP"
    )]
    pub(crate) temp: f32,
    /// Choose among the K likeliest tokens; 0 = all.
    #[arg(long, value_name = "K", default_value_t = 40, allow_negative_numbers = true, env = "ADED_TOP_K")]
    pub(crate) top_k: i32,
    /// Choose among the likeliest tokens that together have this probability; 1 = all.
    #[arg(long, value_name = "P", default_value_t = 0.95, env = "ADED_TOP_P")]
    pub(crate) top_p: f32,
    /// Leave out tokens less likely than this share of the likeliest; 0 = none.
    #[arg(long, value_name = "P", default_value_t = 0.05, env = "ADED_MIN_P")]
    pub(crate) min_p: f32,
    /// Divide the logits of repeated tokens by this; 1 = no penalty.
    #[arg(long, value_name = "X", default_value_t = 1.0, env = "ADED_REPEAT_PENALTY")]
    pub(crate) repeat_penalty: f32,
    /// Tokens to look back for penalties; 0 = none, -1 = the whole context.
    #[arg(long, value_name = "N", default_value_t = 64, allow_negative_numbers = true, env = "ADED_REPEAT_LAST_N")]
    pub(crate) repeat_last_n: i32,
    /// Subtracted from the logits of tokens that occurred; 0 = no penalty.
    #[arg(long, value_name = "X", default_value_t = 0.0, allow_negative_numbers = true, env = "ADED_PRESENCE_PENALTY")]
    pub(crate) presence_penalty: f32,
    /// Subtracted from the logits of tokens for each occurrence; 0 = no penalty.
    #[arg(
        long,
        value_name = "X",
        default_value_t = 0.0,
        allow_negative_numbers = true,
        env = "ADED_FREQUENCY_PENALTY"
    )]
    pub(crate) frequency_penalty: f32,
    #[command(flatten)]
    pub(crate) chain: ChainArgs,
}

/// Drafting.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Drafting")]
pub(crate) struct SpecArgs {
    /// Draft: whenever it pays by the measured times, always, or never.
    #[arg(long, value_name = "WHEN", value_enum, default_value_t, env = "ADED_SPEC")]
    pub(crate) spec: SpecMode,
    /// Only `none` is known: llama.cpp's way to say `--spec off`.
    #[arg(long, hide = true)]
    pub(crate) spec_type: Option<String>,
    /// Nodes of each draft, 1 to 63 [default: by the measured times].
    #[arg(long, value_name = "N", env = "ADED_SPEC_BUDGET")]
    pub(crate) spec_budget: Option<u16>,
    /// Longest guess in tokens, 1 to 63.
    #[arg(long, value_name = "N", env = "ADED_SPEC_DEPTH")]
    pub(crate) spec_depth: Option<u16>,
    /// How the tree is searched.
    #[arg(long, value_name = "HOW", value_enum, default_value_t, env = "ADED_SPEC_SEARCH")]
    pub(crate) spec_search: SpecSearch,
    /// Sources of guesses to leave out, for comparisons: copy, log, recall_pair, overlay_pair, corpus, runner_up, recall_token,
    /// overlay_token.
    #[arg(long, value_name = "NAME", value_delimiter = ',', env = "ADED_SPEC_WITHOUT")]
    pub(crate) spec_without: Vec<String>,
    /// With --temp 0: where the two best tokens lie within the noise of batches, compute the position again without a draft.
    #[arg(long, env = "ADED_EXACT")]
    pub(crate) exact: bool,
    /// Corpus to draft from, made by `aded learn` with a model of the same tokenizer.
    #[arg(long, value_name = "FILE", env = "ADED_CORPUS")]
    pub(crate) corpus: Option<PathBuf>,
}

/// What is learnt from one answer to the next.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Drafting")]
pub(crate) struct MemoryArgs {
    /// What was learnt from earlier prompts and answers: `on` uses and keeps it, `read` uses it, `off` neither. A file takes the place
    /// of the model's own in the cache folder.
    #[arg(long, value_name = "WHAT", default_value = "on", env = "ADED_MEMORY")]
    pub(crate) memory: PathBuf,
    /// Most MiB of that file; what is old and was of little use goes first.
    #[arg(long, value_name = "MIB", default_value_t = 64, env = "ADED_MEMORY_LIMIT", value_parser = clap::value_parser!(u64).range(1..=4096))]
    pub(crate) memory_limit: u64,
}

/// Whose kernels compute.
#[derive(Clone, Copy, Debug, Default, Args)]
#[command(next_help_heading = "Model")]
pub(crate) struct KernelArgs {
    /// Kernels: ours where there are some for this machine and this model, or llama.cpp's alone.
    #[arg(long, value_name = "WHOSE", value_enum, default_value_t, env = "ADED_KERNELS")]
    pub(crate) kernels: KernelMode,
}

/// Whose kernels compute.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, ValueEnum)]
pub(crate) enum KernelMode {
    /// Ours where there are some.
    #[default]
    Auto,
    /// llama.cpp's.
    Off,
}

/// When to draft.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, ValueEnum)]
pub(crate) enum SpecMode {
    /// At least one node in every round.
    On,
    /// Plain decoding.
    Off,
    /// While the measured times say that it pays.
    #[default]
    Auto,
}

/// How the tree is searched.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, ValueEnum)]
pub(crate) enum SpecSearch {
    /// Monte Carlo tree search.
    Mcts,
    /// The published algorithm with its constants.
    Reference,
    /// Likeliest node first.
    #[default]
    BestFirst,
}

/// What goes to standard error and to the log.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Log")]
pub(crate) struct LogArgs {
    /// Log everything.
    #[arg(short, long, alias = "log-verbose")]
    pub(crate) verbose: bool,
    /// Log level: 0 nothing, 1 errors, 2 warnings, 3 information, 4 and more everything [default: 2, without llama.cpp's own].
    #[arg(long, alias = "log-verbosity", value_name = "N", env = "ADED_VERBOSITY")]
    pub(crate) verbosity: Option<u8>,
    /// Write the log to a file, at level 3 at least.
    #[arg(long, value_name = "FILE", env = "ADED_LOG_FILE")]
    pub(crate) log_file: Option<PathBuf>,
    /// Format of the log: json = one object a line, with time, level, origin and message.
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t, env = "ADED_LOG_FORMAT")]
    pub(crate) log_format: LogFormat,
    /// Log nothing.
    #[arg(long, hide = true)]
    pub(crate) log_disable: bool,
    /// Colours: on, off, or auto (on a terminal, unless NO_COLOR is set).
    #[arg(long, value_name = "WHEN", value_enum, default_value_t, default_missing_value = "on", num_args = 0..=1)]
    pub(crate) color: When,
}

/// How a line of the log is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, ValueEnum)]
pub(crate) enum LogFormat {
    #[default]
    Text,
    Json,
}

/// On, off, or by the circumstances.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, ValueEnum)]
pub(crate) enum When {
    On,
    Off,
    #[default]
    Auto,
}

/// How much of the statistics to print.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum StatsDetail {
    /// One line.
    Line,
    /// Per depth and per source as well.
    Full,
}

/// The prompt.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Prompt")]
pub(crate) struct PromptArgs {
    /// Prompt. Piped input stands before it.
    #[arg(short, long, value_name = "TEXT", allow_hyphen_values = true)]
    pub(crate) prompt: Option<String>,
    /// File with the prompt, before --prompt; `-` = standard input.
    #[arg(short, long, value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) template: TemplateArgs,
    /// Give the prompt as it is, without the model's chat template.
    #[arg(long, overrides_with = "conversation")]
    pub(crate) no_conversation: bool,
    /// Use the model's chat template (the default where the model has one).
    #[arg(long, hide = true)]
    pub(crate) conversation: bool,
}

/// What stands round the prompt.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Prompt")]
pub(crate) struct TemplateArgs {
    /// System prompt, for models with a chat template.
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub(crate) system_prompt: Option<String>,
    /// File with the system prompt.
    #[arg(long, value_name = "FILE", conflicts_with = "system_prompt")]
    pub(crate) system_prompt_file: Option<PathBuf>,
    /// Chat template (Jinja) in place of the model's.
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub(crate) chat_template: Option<String>,
    /// File with a chat template in place of the model's.
    #[arg(long, value_name = "FILE", conflicts_with = "chat_template")]
    pub(crate) chat_template_file: Option<PathBuf>,
    /// Take \n and the like in --prompt, --system-prompt and --stop as they stand.
    #[arg(long, overrides_with = "escape")]
    pub(crate) no_escape: bool,
    /// Process \n and the like (the default).
    #[arg(short, long, hide = true)]
    pub(crate) escape: bool,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct RunArgs {
    #[command(flatten)]
    pub(crate) prompt: PromptArgs,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    #[command(flatten)]
    pub(crate) kernels: KernelArgs,
    #[command(flatten)]
    pub(crate) context: ContextArgs,
    #[command(flatten)]
    pub(crate) sampling: SamplingArgs,
    #[command(flatten)]
    pub(crate) spec: SpecArgs,
    #[command(flatten)]
    pub(crate) memory: MemoryArgs,
    #[command(flatten)]
    pub(crate) log: LogArgs,
    #[command(flatten)]
    pub(crate) ignored: IgnoredArgs,
}

/// The answer.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Answer")]
pub(crate) struct OutputArgs {
    /// Most tokens of the answer; -1 = until the end of the context.
    #[arg(short = 'n', long, alias = "n-predict", value_name = "N", default_value_t = -1, allow_negative_numbers = true, env = "ADED_PREDICT", value_parser = predict)]
    pub(crate) predict: i64,
    /// End the answer before this text; may be given several times.
    #[arg(short = 'r', long = "stop", alias = "reverse-prompt", value_name = "TEXT", allow_hyphen_values = true)]
    pub(crate) stop: Vec<String>,
    /// Go on after the model's own end of the answer.
    #[arg(long)]
    pub(crate) ignore_eos: bool,
    /// Print the statistics on standard error; `--stats=full` per depth and source.
    #[arg(long, value_name = "HOW", value_enum, default_missing_value = "line", num_args = 0..=1, require_equals = true)]
    pub(crate) stats: Option<StatsDetail>,
    /// Print one JSON object with text, tokens, finish reason and timings in place of the text.
    #[arg(long)]
    pub(crate) json: bool,
    /// Colour the tokens that were guessed; needs colours.
    #[arg(long, conflicts_with = "json")]
    pub(crate) show_draft: bool,
}

/// Flags of llama.cpp that ask for what we do anyway.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct IgnoredArgs {
    /// End after one answer: always so with `aded run`.
    #[arg(long, hide = true)]
    pub(crate) single_turn: bool,
    #[arg(long, hide = true)]
    jinja: bool,
    #[arg(long, hide = true)]
    no_display_prompt: bool,
    #[arg(long, hide = true)]
    no_warmup: bool,
    #[arg(long, hide = true)]
    simple_io: bool,
    #[arg(long, hide = true)]
    no_perf: bool,
}

#[derive(Clone, Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(crate) struct InspectArgs {
    /// Model (GGUF) or corpus file.
    #[arg(required = true, value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
    /// Print all metadata.
    #[arg(long)]
    pub(crate) all: bool,
    #[command(subcommand)]
    pub(crate) what: Option<InspectWhat>,
}

#[derive(Clone, Debug, Subcommand)]
pub(crate) enum InspectWhat {
    /// Print one round's draft tree: probabilities, sources and what the model took.
    Tree(Box<TreeArgs>),
}

#[derive(Clone, Debug, Args)]
pub(crate) struct TreeArgs {
    #[command(flatten)]
    pub(crate) prompt: PromptArgs,
    /// The round to print: the first one after so many tokens of the answer that drafts anything.
    #[arg(long, value_name = "N", default_value_t = 16)]
    pub(crate) after: usize,
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    #[command(flatten)]
    pub(crate) kernels: KernelArgs,
    #[command(flatten)]
    pub(crate) context: ContextArgs,
    #[command(flatten)]
    pub(crate) sampling: SamplingArgs,
    #[command(flatten)]
    pub(crate) spec: SpecArgs,
    #[command(flatten)]
    pub(crate) log: LogArgs,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct LearnArgs {
    /// Text files, JSONL files (.jsonl, .ndjson) or folders of them; `-` = standard input.
    #[arg(required_unless_present = "own", value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,
    /// Let the model write texts of N tokens in all (10000, 300k, 2M) and learn them: its own questions and its answers. They are kept
    /// beside the output, so that the same command with another N, or after an interruption, goes on from them.
    #[arg(long = "self", value_name = "N", value_parser = counted)]
    pub(crate) own: Option<u64>,
    /// Seed of these texts.
    #[arg(short, long, value_name = "SEED", default_value_t = 0)]
    pub(crate) seed: u32,
    /// Threads that write them [default: one for each physical core].
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=512))]
    pub(crate) threads: Option<u32>,
    /// File to write. An older one stays until the new one is whole.
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: PathBuf,
    /// Field of each JSON line that holds the text, such as `text` or `message.content`; reads every FILE as JSONL if given
    /// [default: text].
    #[arg(long, value_name = "NAME")]
    pub(crate) field: Option<String>,
    /// Leave out what was seen less often than this.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) min_count: u32,
    /// Memory for counting in MiB; beyond it temporary files beside the output take over.
    #[arg(long, value_name = "MIB", default_value_t = 512)]
    pub(crate) memory: usize,
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    #[command(flatten)]
    pub(crate) kernels: KernelArgs,
    #[command(flatten)]
    pub(crate) log: LogArgs,
}

/// A number of tokens, with `k` for thousands or `M` for millions.
fn counted(text: &str) -> Result<u64, String> {
    let (digits, unit) = match text.strip_suffix(['k', 'K']) {
        Some(digits) => (digits, 1000),
        None => text.strip_suffix(['m', 'M']).map_or((text, 1), |digits| (digits, 1_000_000)),
    };
    let number = digits.parse::<u64>().ok().and_then(|number| number.checked_mul(unit));
    number
        .filter(|number| (1..=1_000_000_000).contains(number))
        .ok_or_else(|| "give a number of tokens from 1 to 1000M, such as 300k".to_owned())
}

#[derive(Clone, Debug, Args)]
pub(crate) struct QuantizeArgs {
    /// Model to read (GGUF).
    #[arg(value_name = "IN")]
    pub(crate) input: PathBuf,
    /// File to write.
    #[arg(value_name = "OUT")]
    pub(crate) output: PathBuf,
    /// Type of most weights, such as q8_0, q4_k_m or f16.
    #[arg(value_name = "TYPE")]
    pub(crate) kind: String,
    /// Threads [default: one for each physical core].
    #[arg(short, long, value_name = "N")]
    pub(crate) threads: Option<u32>,
    /// Quantise weights that are quantised already; quality suffers.
    #[arg(long)]
    pub(crate) allow_requantize: bool,
    /// Type of the token embeddings.
    #[arg(long, value_name = "TYPE")]
    pub(crate) token_embedding_type: Option<String>,
    /// Type of the output matrix.
    #[arg(long, value_name = "TYPE")]
    pub(crate) output_tensor_type: Option<String>,
    #[command(flatten)]
    pub(crate) log: LogArgs,
}

#[derive(Clone, Debug, Subcommand)]
pub(crate) enum MemoryCommand {
    /// List the memories of all models, and the tables of measured times.
    Ls {
        /// Print a JSON array, one object for each file.
        #[arg(long)]
        json: bool,
    },
    /// Say what a memory holds, in numbers; its texts with --text.
    Show(Box<MemoryShowArgs>),
    /// Remove memories: all of them, measured times as well, or the files named.
    Clear {
        /// Files to remove; others than memories and tables of times are left alone.
        #[arg(value_name = "FILE")]
        files: Vec<PathBuf>,
    },
    /// Join memories of one model into one.
    Merge {
        /// Files to join. Where the limit is reached, the first files' texts stay.
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
        /// File to write. What it holds already is kept.
        #[arg(short, long, value_name = "FILE")]
        output: PathBuf,
        /// Most MiB of that file.
        #[arg(long, value_name = "MIB", default_value_t = 64, value_parser = clap::value_parser!(u64).range(1..=4096))]
        memory_limit: u64,
    },
}

#[derive(Clone, Debug, Args)]
pub(crate) struct MemoryShowArgs {
    /// Memory file [default: that of the model].
    #[arg(value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
    /// Print the texts that it remembers word for word.
    #[arg(long)]
    pub(crate) text: bool,
    #[command(flatten)]
    pub(crate) model: ModelArgs,
}

/// llama.cpp's -2, until the context is full, is what -1 means here.
fn predict(text: &str) -> Result<i64, String> {
    text.parse()
        .ok()
        .filter(|&n| n >= -2)
        .ok_or_else(|| "a number of tokens is expected, or -1 for no limit".to_owned())
}

fn gpu_layers(text: &str) -> Result<i32, String> {
    match text {
        "auto" | "all" => Ok(-1),
        number => number.parse().map_err(|_| "a number, `auto` or `all` is expected".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, FromArgMatches as _};

    use super::*;
    use crate::app::argv::{LLAMA_ENVIRONMENT, SPELLINGS, matches, normalise};

    fn parse(arguments: &[&str]) -> Result<RunArgs, clap::Error> {
        let arguments = ["aded", "run"].iter().chain(arguments).map(std::ffi::OsString::from);
        let matches = matches(Cli::command(), normalise(arguments).unwrap());
        let matches = matches.map_err(|error| error.downcast::<clap::Error>().expect("one model is named"))?;
        Cli::from_arg_matches(&matches).map(|cli| match cli.command {
            Some(Command::Run(run)) => *run,
            other => panic!("{other:?}"),
        })
    }

    #[test]
    fn the_flags_are_consistent_and_the_environment_names_them() {
        let command = Cli::command();
        command.clone().debug_assert();
        let mut flags = command.get_subcommands().flat_map(clap::Command::get_arguments).map(clap::Arg::get_id);
        let known: Vec<&str> = flags.by_ref().map(clap::Id::as_str).collect();
        for (id, name) in
            LLAMA_ENVIRONMENT.iter().filter(|(id, _)| cfg!(feature = "server") || !SERVER_FLAGS.contains(id))
        {
            assert!(known.contains(id), "{name} stands for no flag");
        }
    }

    #[test]
    fn flags_of_model_context_sampling_and_drafting_have_variables_of_their_names() {
        let command = Cli::command();
        for argument in command.get_subcommands().flat_map(clap::Command::get_arguments) {
            let heading = argument.get_help_heading().unwrap_or_default();
            let is_among = ["Model", "Context", "Sampling", "Drafting"].contains(&heading);
            if !is_among || argument.is_hide_set() || argument.get_id() == "hf_token" {
                continue;
            }
            let name = format!("ADED_{}", argument.get_id().as_str().to_uppercase());
            assert_eq!(argument.get_env().and_then(|name| name.to_str()), Some(name.as_str()));
        }
    }

    #[test]
    fn no_name_of_llama_cpp_is_taken_apart() {
        let command = Cli::command();
        let run = command.find_subcommand("run").unwrap();
        for (short, long) in SPELLINGS {
            let known = run
                .get_arguments()
                .any(|argument| argument.get_long_and_visible_aliases().unwrap_or_default().contains(&&long[2..]));
            match parse(&[short, "1"]) {
                Ok(_) => assert!(known, "{short} was accepted as something else"),
                Err(error) => {
                    // A known flag may refuse the value, and a switch takes none; an unknown one is named in full.
                    let text = error.to_string();
                    assert!(known || text.contains(long), "{short}: {text}");
                    assert_eq!(error.exit_code(), 2, "{short}: {text}");
                }
            }
        }
    }

    #[test]
    fn llama_cpps_command_lines_mean_the_same() {
        let line = "-m m.gguf -ngl 99 -fa on -ctk q8_0 -ctv q8_0 -tb 3 -t 2 -ub 256 -b 512 -c 4096 -sys be -no-cnv -st -lv 3 -nkvo \
                    -s -1 --temp 0 --top_k 0 -n -1 -r end -r -stop --ignore-eos -p - --spec-type none";
        let run = parse(&line.split(' ').collect::<Vec<_>>()).unwrap();
        assert_eq!(run.model.model.unwrap(), PathBuf::from("m.gguf"));
        assert_eq!(run.model.gpu_layers, 99);
        assert_eq!(run.context.flash_attn, "on");
        assert_eq!((run.context.cache_type_k.as_str(), run.context.cache_type_v.as_str()), ("q8_0", "q8_0"));
        assert_eq!((run.context.threads, run.context.threads_batch), (Some(2), Some(3)));
        assert_eq!((run.context.batch_size, run.context.ubatch_size, run.context.ctx_size), (512, 256, Some(4096)));
        assert_eq!(run.prompt.template.system_prompt.as_deref(), Some("be"));
        assert_eq!(run.prompt.prompt.as_deref(), Some("-"));
        assert!(run.prompt.no_conversation && run.context.no_kv_offload && run.output.ignore_eos);
        assert_eq!(run.output.stop, ["end", "-stop"]);
        assert_eq!((run.sampling.seed, run.output.predict, run.log.verbosity), (-1, -1, Some(3)));
        assert_eq!(run.spec.spec_type.as_deref(), Some("none"));
        assert_eq!(parse(&["-n", "1", "-n", "2", "-r", "a", "-r", "b"]).unwrap().output.predict, 2);
        let run = parse(&["-p", "- a list", "-fa", "--color", "--stats"]).unwrap();
        assert_eq!((run.context.flash_attn.as_str(), run.log.color), ("on", When::On));
        assert_eq!((run.prompt.prompt.as_deref(), run.output.stats), (Some("- a list"), Some(StatsDetail::Line)));
    }

    /// Flags of `aded serve` alone that llama.cpp's environment variables stand in for.
    const SERVER_FLAGS: &[&str] = &["host", "port", "parallel", "alias", "api_key", "metrics"];

    /// The flags of a subcommand as the documents list them: all, or those under one heading.
    fn table(subcommand: &str, of_heading: Option<&str>) -> String {
        let mut command = Cli::command();
        command.build();
        let run = command.find_subcommand(subcommand).unwrap();
        let mut text = String::from("| flag | meaning | default |\n| --- | --- | --- |\n");
        let mut heading = None;
        for argument in run.get_arguments().filter(|argument| !argument.is_hide_set() && argument.get_id() != "help") {
            if of_heading.is_some_and(|of| argument.get_help_heading() != Some(of)) {
                continue;
            }
            if of_heading.is_none() && argument.get_help_heading() != heading {
                heading = argument.get_help_heading();
                text += &format!("| **{}** | | |\n", heading.unwrap_or_default());
            }
            let long = argument.get_long().unwrap_or_default();
            let short = argument.get_short().map(|short| format!("`-{short}` "));
            let spelled = SPELLINGS.iter().find(|(_, to)| &to[2..] == long).map(|(short, _)| format!("`{short}` "));
            let values = if argument.get_action().takes_values() { argument.get_value_names() } else { None };
            let value = values.and_then(|names| names.first()).map_or(String::new(), |name| format!(" {name}"));
            let mut help = argument.get_help().map(ToString::to_string).unwrap_or_default();
            let possible: Vec<String> =
                argument.get_possible_values().iter().map(|value| format!("`{}`", value.get_name())).collect();
            if !possible.is_empty() && argument.get_action().takes_values() {
                help += &format!(" ({})", possible.join(", "));
            }
            let mut default =
                argument.get_default_values().iter().map(|value| value.to_string_lossy()).collect::<String>();
            if let Some((before, of_help)) = help.clone().split_once(" [default: ") {
                default = of_help.trim_end_matches(']').to_owned();
                help = before.to_owned();
            }
            let names = short.or(spelled).unwrap_or_default();
            text += &format!("| {names}`--{long}{value}` | {} | {default} |\n", help.replace('|', "\\|"));
        }
        text
    }

    #[test]
    fn the_readme_lists_the_flags() {
        check_document("README.md", &table("run", None));
    }

    #[cfg(feature = "server")]
    #[test]
    fn the_readme_of_the_server_lists_its_flags() {
        check_document("docs/server.md", &table("serve", Some("Server")));
    }

    /// Compares the table in a document, or writes it.
    fn check_document(name: &str, table: &str) {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
        let text = std::fs::read_to_string(&path).unwrap();
        let (begin, end) = ("<!-- flags -->\n", "<!-- /flags -->");
        let from = text.find(begin).expect("a place for the table") + begin.len();
        let to = from + text[from..].find(end).expect("an end of the table");
        if std::env::var_os("ADED_WRITE_README").is_some() {
            std::fs::write(path, format!("{}{table}{}", &text[..from], &text[to..])).unwrap();
            return;
        }
        assert_eq!(&text[from..to], table, "write it anew: ADED_WRITE_README=1 cargo test --release --bin aded readme");
    }
}
