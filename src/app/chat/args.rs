//! The flags of `aded chat`.

use std::path::PathBuf;

use clap::Args;

use crate::app::flags::{
    ContextArgs, IgnoredArgs, KernelArgs, LogArgs, MemoryArgs, ModelArgs, OutputArgs, SamplingArgs, SpecArgs,
    TemplateArgs,
};

/// As for `aded run`; `--stats` and `--json` hold for every answer.
#[derive(Clone, Debug, Args)]
pub(crate) struct ChatArgs {
    /// First message.
    #[arg(short, long, value_name = "TEXT", allow_hyphen_values = true, help_heading = "Prompt")]
    pub(crate) prompt: Option<String>,
    #[command(flatten)]
    pub(crate) template: TemplateArgs,
    #[command(flatten)]
    pub(crate) history: HistoryArgs,
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

/// The conversation and the lines that were typed.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Chat")]
pub(crate) struct HistoryArgs {
    /// Go on with a conversation that `/save` wrote.
    #[arg(long, value_name = "FILE")]
    pub(crate) load: Option<PathBuf>,
    /// File of the lines typed in earlier chats.
    #[arg(long, value_name = "FILE", env = "ADED_HISTORY_FILE")]
    pub(crate) history_file: Option<PathBuf>,
    /// Neither read nor write the file of typed lines.
    #[arg(long, conflicts_with = "history_file")]
    pub(crate) no_history: bool,
}
