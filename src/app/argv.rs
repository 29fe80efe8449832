//! From the command line as llama.cpp's users type it to one that clap understands.
//!
//! llama.cpp has flags of several letters behind a single dash. clap would read `-ngl 99` as `-n gl` and `-hf x` as `-h`, so they are
//! spelled out before it sees them. Flags of llama.cpp that mean another way of speculating end with an error that names ours.

use std::ffi::{OsStr, OsString};

use anyhow::{Error, Result};
use clap::error::{ContextKind, ContextValue};
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command};

/// llama.cpp's flags of several letters behind a single dash, and how they are spelled out. Those that aded does not know are here as
/// well: spelled out, they are refused by their own names.
pub(crate) const SPELLINGS: &[(&str, &str)] = &[
    ("-bf", "--binary-file"),
    ("-bs", "--backend-sampling"),
    ("-cb", "--cont-batching"),
    ("-Cb", "--cpu-mask-batch"),
    ("-cmoe", "--cpu-moe"),
    ("-cms", "--checkpoint-min-step"),
    ("-cnv", "--conversation"),
    ("-co", "--color"),
    ("-Cr", "--cpu-range"),
    ("-cram", "--cache-ram"),
    ("-Crb", "--cpu-range-batch"),
    ("-ctk", "--cache-type-k"),
    ("-ctv", "--cache-type-v"),
    ("-ctxcp", "--ctx-checkpoints"),
    ("-dev", "--device"),
    ("-dr", "--docker-repo"),
    ("-dt", "--defrag-thold"),
    ("-fa", "--flash-attn"),
    ("-fit", "--fit"),
    ("-fitc", "--fit-ctx"),
    ("-fitp", "--fit-print"),
    ("-fitt", "--fit-target"),
    ("-gan", "--grp-attn-n"),
    ("-gaw", "--grp-attn-w"),
    ("-hf", "--hf-repo"),
    ("-hff", "--hf-file"),
    ("-hfr", "--hf-repo"),
    ("-hft", "--hf-token"),
    ("-if", "--interactive-first"),
    ("-jf", "--json-schema-file"),
    ("-kvo", "--kv-offload"),
    ("-kvu", "--kv-unified"),
    ("-lm", "--load-mode"),
    ("-lv", "--verbosity"),
    ("-lzm", "--lazy-mode"),
    ("-mg", "--main-gpu"),
    ("-mli", "--multiline-input"),
    ("-mm", "--mmproj"),
    ("-mmu", "--mmproj-url"),
    ("-ncffn", "--n-cpu-ffn"),
    ("-ncmoe", "--n-cpu-moe"),
    ("-ngl", "--gpu-layers"),
    ("-nkvo", "--no-kv-offload"),
    ("-no-cnv", "--no-conversation"),
    ("-no-kvu", "--no-kv-unified"),
    ("-nocb", "--no-cont-batching"),
    ("-np", "--parallel"),
    ("-nr", "--no-repack"),
    ("-ns", "--sequences"),
    ("-ot", "--override-tensor"),
    ("-ptc", "--print-token-count"),
    ("-rea", "--reasoning"),
    ("-sm", "--split-mode"),
    ("-sp", "--special"),
    ("-sps", "--slot-prompt-similarity"),
    ("-st", "--single-turn"),
    ("-sys", "--system-prompt"),
    ("-sysf", "--system-prompt-file"),
    ("-tb", "--threads-batch"),
    ("-to", "--timeout"),
    ("-ts", "--tensor-split"),
    ("-ub", "--ubatch-size"),
];

/// Flags whose value is a text of the user's, which may itself look like a flag.
const TAKE_TEXT: &[&str] = &[
    "-p",
    "--prompt",
    "-sys",
    "--system-prompt",
    "-r",
    "--reverse-prompt",
    "--stop",
    "--chat-template",
    "--grammar",
    "-j",
    "--json-schema",
];

/// Flags of a draft model: beginnings of names, and whole names.
const DRAFT_MODEL_PREFIXES: &[&str] = &["--spec-draft-"];
const DRAFT_MODEL: &[&str] = &[
    "-md",
    "--model-draft",
    "-hfd",
    "-hfrd",
    "--hf-repo-draft",
    "-td",
    "--threads-draft",
    "-tbd",
    "--threads-batch-draft",
    "-ctkd",
    "--cache-type-k-draft",
    "-ctvd",
    "--cache-type-v-draft",
    "-otd",
    "--override-tensor-draft",
    "-cmoed",
    "--cpu-moe-draft",
    "-ncmoed",
    "--n-cpu-moe-draft",
    "-devd",
    "--device-draft",
    "-ngld",
    "--gpu-layers-draft",
    "--n-gpu-layers-draft",
    "-cd",
    "--ctx-size-draft",
    "-Cd",
    "--cpu-mask-draft",
    "-Crd",
    "--cpu-range-draft",
    "-Cbd",
    "--cpu-mask-batch-draft",
    "-Crbd",
    "--cpu-range-batch-draft",
    "--draft-p-split",
    "--draft-p-min",
    "--mtp",
    "--eagle3",
    "--dflash",
];
/// Flags of draft lengths.
const DRAFT_LENGTH: &[&str] = &[
    "--draft",
    "--draft-n",
    "--draft-max",
    "--draft-min",
    "--draft-n-min",
    "--spec-draft-n-max",
    "--spec-draft-n-min",
];
/// Flags of other ways to draft without a model.
const OTHER_DRAFTS_PREFIXES: &[&str] = &["--spec-ngram-", "--spec-synth-"];
const OTHER_DRAFTS: &[&str] = &["--spec-default", "-lcs", "--lookup-cache-static", "-lcd", "--lookup-cache-dynamic"];

/// Spells out llama.cpp's flags.
///
/// # Errors
/// A usage error for a flag that chooses another way of speculating.
pub(crate) fn normalise(arguments: impl IntoIterator<Item = OsString>) -> Result<Vec<OsString>> {
    let mut out = Vec::new();
    let (mut is_text, mut is_over) = (true, false);
    let mut is_server = false;
    for argument in arguments {
        is_server |= out.len() == 1 && (argument == "serve" || argument == "server");
        // The first argument is the program's own name.
        if is_text || is_over {
            (is_text, is_over) = (false, is_over);
            out.push(argument);
            continue;
        }
        is_over = argument == "--";
        let Some(text) = argument.to_str().filter(|text| text.starts_with('-')) else {
            out.push(argument);
            continue;
        };
        let (name, value) = text.split_once('=').map_or((text, None), |(name, value)| (name, Some(value)));
        // llama.cpp takes `--ctx_size` for `--ctx-size`.
        let dashed = if name.starts_with("--") { name.replace('_', "-") } else { name.to_owned() };
        // The server warns of those that programs give which start llama-server, and goes on.
        if !(is_server && ["--spec-draft-n-max", "--spec-draft-n-min"].contains(&dashed.as_str())) {
            refuse(&dashed)?;
        }
        let name = SPELLINGS.iter().find(|(short, _)| *short == dashed).map_or(dashed.as_str(), |(_, long)| long);
        is_text = value.is_none() && TAKE_TEXT.contains(&name);
        out.push(value.map_or_else(|| name.into(), |value| format!("{name}={value}").into()));
    }
    Ok(out)
}

/// What llama.cpp does by a flag and we do otherwise.
const ELSEWHERE: &[(&str, &str)] = &[
    ("-cl", "`aded models ls` lists the models on this machine"),
    ("--cache-list", "`aded models ls` lists the models on this machine"),
    ("--list-devices", "`aded doctor --no-curve` lists the devices"),
    ("-mu", "fetch the file and name it with -m, or name a repository with -hf"),
    ("--model-url", "fetch the file and name it with -m, or name a repository with -hf"),
];

fn refuse(name: &str) -> Result<()> {
    let begins = |prefixes: &[&str]| prefixes.iter().any(|prefix| name.starts_with(prefix));
    let text = if DRAFT_LENGTH.contains(&name) {
        format!("{name} is llama.cpp's; here --spec-budget sets the nodes per round and --spec-depth the longest guess")
    } else if DRAFT_MODEL.contains(&name) || begins(DRAFT_MODEL_PREFIXES) {
        format!("{name} is for a draft model, and aded needs none: leave it out; --spec on|off|auto switches drafting")
    } else if OTHER_DRAFTS.contains(&name) || begins(OTHER_DRAFTS_PREFIXES) {
        format!(
            "{name} is for another way of drafting; here --spec on|off|auto switches drafting, --spec-search and --corpus shape it"
        )
    } else if let Some((_, instead)) = ELSEWHERE.iter().find(|(flag, _)| *flag == name) {
        format!("{name} is llama.cpp's; here {instead}")
    } else {
        return Ok(());
    };
    Err(Error::new(aded::Error::usage(text)))
}

/// Environment variables of llama.cpp and of the hub's tools that stand in for a flag's own `ADED_*` one where that is not set: (flag's id, name).
pub(crate) const LLAMA_ENVIRONMENT: &[(&str, &str)] = &[
    ("model", "LLAMA_ARG_MODEL"),
    ("gpu_layers", "LLAMA_ARG_N_GPU_LAYERS"),
    ("ctx_size", "LLAMA_ARG_CTX_SIZE"),
    ("batch_size", "LLAMA_ARG_BATCH"),
    ("ubatch_size", "LLAMA_ARG_UBATCH"),
    ("threads", "LLAMA_ARG_THREADS"),
    ("flash_attn", "LLAMA_ARG_FLASH_ATTN"),
    ("context_shift", "LLAMA_ARG_CONTEXT_SHIFT"),
    ("cache_type_k", "LLAMA_ARG_CACHE_TYPE_K"),
    ("cache_type_v", "LLAMA_ARG_CACHE_TYPE_V"),
    ("predict", "LLAMA_ARG_N_PREDICT"),
    ("temp", "LLAMA_ARG_TEMPERATURE"),
    ("top_k", "LLAMA_ARG_TOP_K"),
    ("top_p", "LLAMA_ARG_TOP_P"),
    ("min_p", "LLAMA_ARG_MIN_P"),
    ("repeat_penalty", "LLAMA_ARG_REPEAT_PENALTY"),
    ("presence_penalty", "LLAMA_ARG_PRESENCE_PENALTY"),
    ("frequency_penalty", "LLAMA_ARG_FREQUENCY_PENALTY"),
    ("log_file", "LLAMA_ARG_LOG_FILE"),
    ("host", "LLAMA_ARG_HOST"),
    ("port", "LLAMA_ARG_PORT"),
    ("parallel", "LLAMA_ARG_N_PARALLEL"),
    ("alias", "LLAMA_ARG_ALIAS"),
    ("api_key", "LLAMA_API_KEY"),
    ("metrics", "LLAMA_ARG_ENDPOINT_METRICS"),
    ("hf_repo", "LLAMA_ARG_HF_REPO"),
    ("hf_file", "LLAMA_ARG_HF_FILE"),
    ("offline", "LLAMA_ARG_OFFLINE"),
    // The switch of Hugging Face's own tools.
    ("offline", "HF_HUB_OFFLINE"),
];

/// Reads a command line that was [normalised](normalise); llama.cpp's names and environment stand in.
///
/// # Errors
/// clap's, and a usage error where two models are named.
pub(crate) fn matches(command: Command, arguments: Vec<OsString>) -> Result<ArgMatches> {
    let command = with_habits(command);
    let matches = command.clone().try_get_matches_from(&arguments).map_err(|error| with_source(error, &command))?;
    match beaten(&matches)? {
        Some(ids) => Ok(without_environment(command, ids).try_get_matches_from(&arguments)?),
        None => Ok(matches),
    }
}

/// An error about a value that nobody typed names the environment variable that it came from.
fn with_source(mut error: clap::Error, command: &Command) -> clap::Error {
    let text = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => text.as_str(),
        _ => "",
    };
    let (flag, value) = (text(ContextKind::InvalidArg), text(ContextKind::InvalidValue));
    let name = flag.trim_start_matches("--").split([' ', '[']).next().unwrap_or_default();
    let variable = variable_of(command, name).filter(|name| {
        let is_quoted = |set: OsString| set.to_string_lossy().split(',').any(|part| part == value);
        std::env::var_os(name).is_some_and(is_quoted)
    });
    if let Some(variable) = variable {
        let tip = format!("the environment variable {} says so", variable.to_string_lossy());
        error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![tip.into()]));
    }
    error
}

/// The environment variable of a flag, of whichever subcommand.
fn variable_of(command: &Command, long: &str) -> Option<OsString> {
    let own = command.get_arguments().find(|argument| argument.get_long() == Some(long)).and_then(Arg::get_env);
    own.map(OsStr::to_owned).or_else(|| command.get_subcommands().find_map(|command| variable_of(command, long)))
}

/// Of `--model` and `--hf-repo` one is enough. A flag beats what the environment says of the other: the ids of what then counts as unset.
fn beaten(matches: &ArgMatches) -> Result<Option<&'static [&'static str]>, aded::Error> {
    if let Some((_, matches)) = matches.subcommand() {
        return beaten(matches);
    }
    let source = |id: &str| matches.try_contains_id(id).ok().and_then(|_| matches.value_source(id));
    let text = |id: &str| {
        let raw = matches.get_raw(id).and_then(|mut values| values.next()).unwrap_or_default();
        raw.to_string_lossy().into_owned()
    };
    match (source("model"), source("hf_repo")) {
        (Some(ValueSource::CommandLine), Some(ValueSource::EnvVariable)) => Ok(Some(&["hf_repo", "hf_file"])),
        (Some(ValueSource::EnvVariable), Some(ValueSource::CommandLine)) => Ok(Some(&["model"])),
        (Some(model), Some(_)) => {
            let (model_name, repo_name) = match model {
                ValueSource::CommandLine => ("-m", "-hf"),
                _ => ("ADED_MODEL (or LLAMA_ARG_MODEL)", "ADED_HF_REPO (or LLAMA_ARG_HF_REPO)"),
            };
            Err(aded::Error::usage(format!(
                "{model_name} names the model {} and {repo_name} names {}: give one of them",
                text("model"),
                text("hf_repo")
            )))
        }
        _ => Ok(None),
    }
}

/// The command and all its subcommands with flags that no environment variable sets.
fn without_environment(command: Command, ids: &'static [&'static str]) -> Command {
    let command =
        command.mut_args(
            |argument| {
                if ids.contains(&argument.get_id().as_str()) { argument.env(None::<&str>) } else { argument }
            },
        );
    command.mut_subcommands(|command| without_environment(command, ids))
}

/// Lets llama.cpp's habits and environment variables stand in, in a command and all its subcommands. An empty variable counts as unset.
pub(crate) fn with_habits(command: Command) -> Command {
    let value = |name: &OsStr| std::env::var_os(name);
    let is_set = |name: &OsStr| value(name).is_some_and(|value| !value.is_empty());
    let command = command.mut_args(|argument| {
        let argument = with_spelling(argument);
        let own = argument.get_env().is_some_and(is_set);
        let id = argument.get_id().as_str().to_owned();
        let is_switch = argument.get_env().is_some() && matches!(argument.get_action(), ArgAction::SetTrue);
        let argument = if is_switch { argument.value_parser(switch) } else { argument };
        match LLAMA_ENVIRONMENT.iter().find(|(of, name)| *of == id && is_set(OsStr::new(name))) {
            Some((_, name)) if !own => argument.env(*name),
            // One that is unset stays, for the help to name it.
            _ if argument.get_env().is_some_and(|name| value(name).is_some() && !own) => argument.env(None::<&str>),
            _ => argument,
        }
    });
    // As with llama.cpp, the last of several wins.
    command.args_override_self(true).mut_subcommands(with_habits)
}

/// The help of a flag names llama.cpp's short form, which clap does not know.
fn with_spelling(argument: Arg) -> Arg {
    let short = SPELLINGS.iter().find(|(_, long)| argument.get_long() == Some(&long[2..]));
    let (Some((short, _)), Some(help)) = (short, argument.get_help()) else { return argument };
    let help = format!("{help} [short: {short}]");
    argument.help(help)
}

/// A switch in the environment, by llama.cpp's words and those of Hugging Face's tools.
fn switch(text: &str) -> Result<bool, String> {
    match text.to_lowercase().as_str() {
        "1" | "on" | "true" | "enabled" | "yes" | "y" | "t" => Ok(true),
        "0" | "off" | "false" | "disabled" | "no" | "n" | "f" => Ok(false),
        _ => Err("`on` or `off` is expected".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    #[cfg(feature = "server")]
    use clap::CommandFactory as _;

    use super::*;

    fn run(arguments: &[&str]) -> Vec<String> {
        let arguments = std::iter::once("aded").chain(arguments.iter().copied()).map(OsString::from);
        normalise(arguments).unwrap().iter().skip(1).map(|argument| argument.to_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn every_short_name_is_spelled_out_alone_and_with_a_value() {
        for (short, long) in SPELLINGS {
            assert_eq!(run(&["run", short, "1"]), ["run", long, "1"]);
            assert_eq!(run(&[&format!("{short}=1")]), [format!("{long}=1")]);
        }
        assert!(SPELLINGS.is_sorted_by_key(|(short, _)| short.to_lowercase()), "in order, so that readers find them");
        assert_eq!(run(&["--ctx_size", "64", "--cache_type_k=f16"]), ["--ctx-size", "64", "--cache-type-k=f16"]);
    }

    #[test]
    fn texts_of_the_user_stay_as_they_are() {
        for flag in ["-p", "--prompt", "-r", "--stop"] {
            assert_eq!(run(&[flag, "-ngl", "-ngl", "9"]), [flag, "-ngl", "--gpu-layers", "9"]);
        }
        assert_eq!(run(&["-sys", "-md", "x"]), ["--system-prompt", "-md", "x"]);
        assert_eq!(run(&["--", "-ngl", "--draft"]), ["--", "-ngl", "--draft"]);
        assert_eq!(run(&["-p=--draft", "-n", "-1", "-"]), ["-p=--draft", "-n", "-1", "-"]);
    }

    #[test]
    fn flags_of_other_speculation_name_ours() {
        let all =
            [DRAFT_LENGTH, DRAFT_MODEL, OTHER_DRAFTS, &["--spec-ngram-mod-n-max", "--spec-draft-p-min", "--draft_max"]];
        for name in all.concat() {
            let error = normalise(["aded", "run", name, "8"].map(OsString::from)).unwrap_err().to_string();
            assert!(error.contains("--spec"), "{name}: {error}");
        }
    }

    #[cfg(feature = "server")]
    #[test]
    fn the_server_takes_the_lengths_that_llama_server_is_started_with() {
        let line = ["aded", "serve", "--spec-draft-n-max", "16", "--spec-type", "ngram-mod"];
        let normalised = normalise(line.map(OsString::from)).unwrap();
        assert!(matches(crate::app::flags::Cli::command(), normalised).is_ok());
        assert!(normalise(["aded", "serve", "--draft-max", "16"].map(OsString::from)).is_err());
    }

    #[test]
    fn flags_of_what_is_elsewhere_say_where() {
        for (name, instead) in ELSEWHERE {
            let error = normalise(["aded", "run", name].map(OsString::from)).unwrap_err().to_string();
            assert!(error.starts_with(name) && error.ends_with(instead), "{error}");
        }
    }

    #[test]
    fn switches_take_llama_cpps_words() {
        for word in ["1", "on", "ENABLED", "true", "YES"] {
            assert_eq!(switch(word), Ok(true), "{word}");
        }
        for word in ["0", "off", "Disabled", "false", "no"] {
            assert_eq!(switch(word), Ok(false), "{word}");
        }
        assert!(switch("maybe").is_err() && switch("").is_err());
    }
}
