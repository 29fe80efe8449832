//! The flags of `aded serve`, in llama.cpp's names.

use std::path::PathBuf;

use clap::Args;

use crate::app::flags::{ContextArgs, KernelArgs, LogArgs, MemoryArgs, ModelArgs, SamplingArgs, SpecArgs};

#[derive(Clone, Debug, Args)]
pub(crate) struct ServeArgs {
    #[command(flatten)]
    pub(crate) server: ServerArgs,
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
    pub(crate) ignored: IgnoredServerArgs,
}

/// Where it listens, who may ask, and how much.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Server")]
pub(crate) struct ServerArgs {
    /// Address to listen on: 127.0.0.1 serves this machine alone, 0.0.0.0 the network.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1", env = "ADED_HOST")]
    pub(crate) host: String,
    /// Port to listen on; 0 = any free one, which is printed.
    #[arg(long, value_name = "N", default_value_t = 8080, env = "ADED_PORT")]
    pub(crate) port: u16,
    /// Requests that are answered at the same time; each has a context of --ctx-size tokens.
    #[arg(long, value_name = "N", default_value_t = 1, env = "ADED_PARALLEL", value_parser = clap::value_parser!(u32).range(1..=64))]
    pub(crate) parallel: u32,
    /// Name of the model in answers [default: the file's name].
    #[arg(short, long, value_name = "NAME", env = "ADED_ALIAS")]
    pub(crate) alias: Option<String>,
    /// Most tokens of an answer where the request sets no limit; -1 = until the end of the context.
    #[arg(short = 'n', long, alias = "n-predict", value_name = "N", default_value_t = -1, allow_negative_numbers = true, env = "ADED_PREDICT", value_parser = clap::value_parser!(i64).range(-1..))]
    pub(crate) predict: i64,
    /// Key that requests must bring; several are separated by commas. Others on this machine can read a command line: the environment
    /// or a file is safer.
    #[arg(long, value_name = "KEY", value_delimiter = ',', env = "ADED_API_KEY", hide_env_values = true)]
    pub(crate) api_key: Vec<String>,
    /// File with keys, one a line.
    #[arg(long, value_name = "FILE", env = "ADED_API_KEY_FILE")]
    pub(crate) api_key_file: Option<PathBuf>,
    /// Web pages from these origins may use the server; `*` = from anywhere, `localhost` = pages of this machine [default: these and the
    /// server's own].
    #[arg(long, value_name = "ORIGINS", value_delimiter = ',', env = "ADED_CORS_ORIGINS", value_parser = origin)]
    pub(crate) cors_origins: Vec<String>,
    /// Answer /metrics, in Prometheus' format.
    #[arg(long, env = "ADED_METRICS")]
    pub(crate) metrics: bool,
    /// Do not answer /slots.
    #[arg(long, overrides_with = "slots")]
    pub(crate) no_slots: bool,
    /// Answer /slots (the default).
    #[arg(long, hide = true)]
    pub(crate) slots: bool,
    /// Leave out the web page at /.
    #[arg(long, alias = "no-ui", env = "ADED_NO_WEBUI")]
    pub(crate) no_webui: bool,
    /// Chat template (Jinja) in place of the model's.
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub(crate) chat_template: Option<String>,
    /// File with a chat template in place of the model's.
    #[arg(long, value_name = "FILE", conflicts_with = "chat_template")]
    pub(crate) chat_template_file: Option<PathBuf>,
    /// Requests that may wait while all slots are busy; more are turned away with status 503.
    #[arg(long, value_name = "N", default_value_t = 64, env = "ADED_QUEUE")]
    pub(crate) queue: usize,
    /// Connections at the same time; further ones wait to be accepted.
    #[arg(long, value_name = "N", default_value_t = 256, env = "ADED_CONNECTIONS", value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub(crate) connections: u32,
    /// Largest request, in MiB.
    #[arg(long, value_name = "MIB", default_value_t = 8, env = "ADED_BODY_LIMIT", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub(crate) body_limit: u32,
    /// Seconds that a client may take to send its request, and to take a piece of the answer, before it is cut off.
    #[arg(long, value_name = "SECONDS", default_value_t = 60, env = "ADED_TIMEOUT", value_parser = clap::value_parser!(u32).range(1..=86_400))]
    pub(crate) timeout: u32,
    /// Seconds after which an answer ends with what is there; 0 = no limit.
    #[arg(long, value_name = "SECONDS", default_value_t = 3600, env = "ADED_TIME_LIMIT")]
    pub(crate) time_limit: u32,
    /// Seconds between signs of life in a stream that has nothing to say yet.
    #[arg(long, value_name = "SECONDS", default_value_t = 30, env = "ADED_SSE_PING_INTERVAL", value_parser = clap::value_parser!(u32).range(1..=3600))]
    pub(crate) sse_ping_interval: u32,
    /// Seconds that answers under way may take after a request to stop.
    #[arg(long, value_name = "SECONDS", default_value_t = 30, env = "ADED_DRAIN", value_parser = clap::value_parser!(u32).range(0..=86_400))]
    pub(crate) drain: u32,
}

/// Flags of llama.cpp that ask for what the server does anyway.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct IgnoredServerArgs {
    #[arg(long, hide = true)]
    jinja: bool,
    #[arg(long, hide = true)]
    cont_batching: bool,
    #[arg(long, hide = true)]
    kv_unified: bool,
    #[arg(long, hide = true)]
    no_warmup: bool,
    #[arg(long, hide = true)]
    no_perf: bool,
    /// Programs that start llama-server give these; drafts are ours all the same.
    #[arg(long, hide = true)]
    spec_draft_n_max: Option<String>,
    #[arg(long, hide = true)]
    spec_draft_n_min: Option<String>,
}

impl ServeArgs {
    /// The flags without those that choose llama.cpp's ways of drafting, and those.
    pub(crate) fn without_other_drafts(mut self) -> (Self, Vec<String>) {
        let kind = self.spec.spec_type.take_if(|kind| !["none", "off"].contains(&kind.as_str()));
        let flags = [
            ("--spec-type", kind),
            ("--spec-draft-n-max", self.ignored.spec_draft_n_max.take()),
            ("--spec-draft-n-min", self.ignored.spec_draft_n_min.take()),
        ];
        let told = flags.into_iter().filter_map(|(flag, value)| Some(format!("{flag} {}", value?)));
        (self, told.collect())
    }
}

/// An origin as browsers send it, `*` or `localhost`.
fn origin(text: &str) -> Result<String, String> {
    let trimmed = text.trim().trim_end_matches('/');
    let is_origin = trimmed.split_once("://").is_some_and(|(scheme, host)| {
        !scheme.is_empty() && !host.is_empty() && !host.contains(|c: char| c == '/' || c.is_whitespace())
    });
    if ["", "*", "localhost"].contains(&trimmed) || is_origin {
        return Ok(trimmed.to_owned());
    }
    Err("an origin has a scheme and a host and no path, such as https://app.example.com; * = from anywhere".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_that_no_browser_sends_are_refused() {
        for good in ["*", "localhost", "http://localhost:3000", "https://app.example.com/", "moz-extension://1-2", " "]
        {
            assert!(origin(good).is_ok(), "{good}");
        }
        for bad in ["app.example.com", "https://", "https://a/b", "://a", "https://a b"] {
            assert!(origin(bad).unwrap_err().contains("https://app.example.com"), "{bad}");
        }
    }
}
