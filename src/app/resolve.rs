//! From what was typed to what will run: the files, the defaults, the values that depend on the model.

use std::env;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use aded::config::{Config, DraftMode, MAX_DRAFT_ROWS, SearchKind};
use aded::kernels::Isa;
use aded::llama::{
    ContextParams, Kernels, MemoryKind, Model, ModelParams, SamplerChain, SamplingParams, Target, default_threads,
    kernel_counts, kernels_enable,
};
use aded::model::{DraftShape, TargetModel as _};
use aded::noise::shape_noise;
use aded::representative::Source;
use aded::representative::corpus::Corpus;
use aded::representative::store::Fingerprint;
use aded::{CancelFlag, Error, Session, Token};
use anyhow::Result;
use indicatif::{ProgressBar, ProgressStyle};
use tracing::info;

use super::flags::{ContextArgs, KernelArgs, KernelMode, ModelArgs, SamplingArgs, SpecArgs, SpecMode, SpecSearch};
use super::models;

/// The file that `make run` fetches.
const DEFAULT_MODEL: &str = "SmolLM2-135M-Instruct.Q4_1.gguf";

/// Longest context that is taken where nobody asks for one: the memory for it is filled as it is used, but reserved at once.
const DEFAULT_CONTEXT: u32 = 8192;

/// Most bytes for the logits of a round's rows, unless the user sets a budget: a row of a large vocabulary takes two megabytes.
const LOGITS_BYTES: usize = 32 << 20;

/// Bytes of logits per row and vocabulary entry: llama.cpp computes them in one buffer and hands them out in another.
const LOGITS_BYTES_PER_ENTRY: usize = 8;

/// The folder of fetched models; the same as in scripts/models.py.
pub(crate) fn model_store() -> Option<PathBuf> {
    folder("ADED_MODELS", "models")
}

/// A folder in the platform's cache folder, or the one that an environment variable names. `None` where there is no home either.
pub(crate) fn folder(variable: &str, name: &str) -> Option<PathBuf> {
    let set = |name: &str| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    set(variable).or_else(|| {
        let home = env::home_dir().filter(|home| !home.as_os_str().is_empty());
        let cache = if cfg!(target_os = "macos") {
            home?.join("Library/Caches")
        } else if cfg!(windows) {
            set("LOCALAPPDATA").or_else(|| Some(home?.join("AppData/Local")))?
        } else {
            set("XDG_CACHE_HOME").filter(|path| path.is_absolute()).or_else(|| Some(home?.join(".cache")))?
        };
        Some(cache.join("aded").join(name))
    })
}

/// Where the default model is or would be.
pub(crate) fn default_model() -> Option<PathBuf> {
    model_store().map(|store| store.join(DEFAULT_MODEL))
}

/// The model file that is meant; fetched if it is named and not here.
///
/// # Errors
/// A usage error if none is named and the default one is not there, and those of the hub.
pub(crate) fn model_path(args: &ModelArgs) -> Result<PathBuf, Error> {
    if let Some(repo) = args.hf_repo.as_ref().filter(|repo| !repo.is_empty()) {
        return models::path_of(repo, &args.hub);
    }
    if args.hub.hf_file.is_some() {
        return Err(Error::usage("-hff names a file of a repository, and there is none: give it with -hf user/repo"));
    }
    if let Some(path) = args.model.as_ref().filter(|path| !path.as_os_str().is_empty()) {
        return Ok(path.clone());
    }
    let path = default_model().unwrap_or_default();
    if path.is_file() {
        return Ok(path);
    }
    if !args.hub.offline
        && let Some(path) = models::offer_default()?
    {
        return Ok(path);
    }
    Err(Error::usage(format!(
        "no model is named and the default one is not at {}: give a GGUF file with -m or a name with -hf, or fetch the default one with \
         `aded models pull` or `make run`",
        path.display()
    )))
}

/// Switches our kernels on or off; to be called before a model is loaded.
pub(crate) fn kernels(args: KernelArgs) {
    let isa = kernels_enable(&kernels_of(args));
    info!("kernels: {}", isa.map_or("llama.cpp's", Isa::name));
}

/// The kernels that the flags ask for.
pub(crate) fn kernels_of(args: KernelArgs) -> Kernels {
    match args.kernels {
        KernelMode::Auto => Kernels::default(),
        KernelMode::Off => Kernels::off(),
    }
}

/// Loads the model that is meant; with a progress bar on a terminal if it takes long.
///
/// # Errors
/// As [`Model::load`].
pub(crate) fn model(args: &ModelArgs, cancel: &CancelFlag) -> Result<Arc<Model>, Error> {
    model_with(args, cancel, false)
}

/// As [`model`], the tokenizer alone.
///
/// # Errors
/// As [`Model::load`].
pub(crate) fn tokenizer(args: &ModelArgs, cancel: &CancelFlag) -> Result<Arc<Model>, Error> {
    model_with(args, cancel, true)
}

fn model_with(args: &ModelArgs, cancel: &CancelFlag, vocab_only: bool) -> Result<Arc<Model>, Error> {
    let path = model_path(args)?;
    let params = ModelParams {
        n_gpu_layers: args.gpu_layers,
        use_mmap: !args.no_mmap,
        use_mlock: args.mlock,
        check_tensors: args.check_tensors,
        vocab_only,
    };
    let begun = Instant::now();
    let mut bar = None;
    let model = Model::load_with_progress(&path, &params, &mut |share| {
        // Most files are mapped in no time, and a bar that flashes says nothing.
        if bar.is_none() && begun.elapsed().as_millis() > 500 {
            bar = Some(progress_bar("loading", 1000));
        }
        if let Some(bar) = &bar {
            bar.set_position((share * 1000.0) as u64);
        }
        !cancel.is_cancelled()
    });
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
    let model = model?;
    info!("{}: {}, {:.1} MiB", path.display(), model.description(), model.size_bytes() as f64 / f64::from(1 << 20));
    Ok(model)
}

/// A bar on standard error; nothing where that is no terminal.
pub(crate) fn progress_bar(what: &'static str, length: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("{msg:>10} [{bar:40}] {percent:>3} % {eta}")
        .map_or_else(|_| ProgressStyle::default_bar(), |style| style.progress_chars("=> "));
    ProgressBar::new(length).with_style(style).with_message(what)
}

/// The context that is asked for. `n_slots` sequences share it.
///
/// # Errors
/// A usage error for names and values that are not known.
pub(crate) fn context_params(context: &ContextArgs, spec: &SpecArgs, model: &Model) -> Result<ContextParams, Error> {
    let n_threads = context.threads.unwrap_or_else(default_threads);
    let mode = draft_mode(spec)?;
    let budget = usize::from(config(spec)?.draft.budget.unwrap_or(0));
    let entries = LOGITS_BYTES_PER_ENTRY * (model.n_vocab() as usize).max(1);
    let max_logits_rows = match (mode, budget) {
        (DraftMode::Off, _) => 1,
        (_, 0) => (LOGITS_BYTES / entries).clamp(16, MAX_DRAFT_ROWS),
        (_, budget) => budget + 1,
    };
    let defaults = ContextParams::default();
    let params = ContextParams {
        n_ctx: context.ctx_size.unwrap_or_else(|| match model.n_ctx_train() {
            0 => DEFAULT_CONTEXT,
            trained => trained.min(DEFAULT_CONTEXT),
        }),
        n_batch: context.batch_size,
        n_ubatch: context.ubatch_size.min(context.batch_size),
        n_threads,
        n_threads_batch: context.threads_batch.unwrap_or(n_threads),
        flash_attention: context.flash_attn.parse()?,
        type_k: context.cache_type_k.parse()?,
        type_v: context.cache_type_v.parse()?,
        offload_kqv: !context.no_kv_offload,
        max_logits_rows: max_logits_rows as u32,
        max_leaves: defaults.max_leaves.min((max_logits_rows - 1).max(1) as u16),
        ..defaults
    };
    params.validate()?;
    Ok(params)
}

fn draft_mode(spec: &SpecArgs) -> Result<DraftMode, Error> {
    match spec.spec_type.as_deref() {
        None => {}
        Some("none" | "off") => return Ok(DraftMode::Off),
        Some(other) => {
            return Err(Error::usage(format!(
                "--spec-type {other} is llama.cpp's; here --spec on|off|auto switches drafting and --spec-search says how"
            )));
        }
    }
    Ok(match spec.spec {
        SpecMode::On => DraftMode::On,
        SpecMode::Off => DraftMode::Off,
        SpecMode::Auto => DraftMode::Auto,
    })
}

/// The configuration of drafting.
///
/// # Errors
/// A usage error for values out of range.
pub(crate) fn config(spec: &SpecArgs) -> Result<Config, Error> {
    let mut config = Config::default();
    config.draft.mode = draft_mode(spec)?;
    config.draft.search = match spec.spec_search {
        SpecSearch::Mcts => SearchKind::Mcts,
        SpecSearch::Reference => SearchKind::Reference,
        SpecSearch::BestFirst => SearchKind::BestFirst,
    };
    config.draft.budget = spec.spec_budget;
    config.draft.max_depth = spec.spec_depth.unwrap_or(config.draft.max_depth);
    for name in &spec.spec_without {
        let source = Source::ALL.into_iter().find(|source| source.name() == name).ok_or_else(|| {
            let known = Source::ALL.map(Source::name).join(", ");
            Error::usage(format!("{name:?} is no source of guesses; known are {known}"))
        })?;
        config.representative.without.push(source);
    }
    config.validate()?;
    Ok(config)
}

/// The corpus of a model's tokenizer.
///
/// # Errors
/// As [`Corpus::load`].
pub(crate) fn corpus(path: &Path, model: &Model) -> Result<Arc<Corpus>, Error> {
    Corpus::load(path, Some(fingerprint(model))).map(Arc::new)
}

/// The corpus that is drafted from, if there is one and drafts are made at all.
///
/// # Errors
/// As [`corpus`].
pub(crate) fn drafting_corpus(spec: &SpecArgs, config: &Config, model: &Model) -> Result<Option<Arc<Corpus>>, Error> {
    let path = spec.corpus.as_ref().filter(|_| config.draft.mode != DraftMode::Off);
    path.map(|path| corpus(path, model)).transpose()
}

/// The fingerprint of a model's tokenizer, as corpus files carry it.
pub(crate) fn fingerprint(model: &Model) -> Fingerprint {
    Fingerprint(model.tokenizer_fingerprint())
}

/// Model, corpus and configuration in a context of `params`, ready to answer.
///
/// # Errors
/// As its parts.
pub(crate) fn session(
    model: &Arc<Model>,
    params: &ContextParams,
    context: &ContextArgs,
    spec: &SpecArgs,
    cancel: &CancelFlag,
) -> Result<Session<Target>, Error> {
    let config = config(spec)?;
    let corpus = drafting_corpus(spec, &config, model)?;
    let mut target = Target::new(model.clone(), params)?;
    target.set_cancel_flag(cancel.clone());
    let noise = exact_noise(spec, &config, model, &mut target)?;
    let mut session = Session::new(target, config)?;
    session.set_exact(noise);
    session.set_cancel_flag(cancel.clone());
    if context.context_shift {
        session.set_context_shift(Some(n_keep(context.keep, model)?))?;
    }
    session.decoder_mut().set_corpus(corpus);
    Ok(session)
}

/// Ordinary text, on which the noise of batches is measured.
const TEXT: &str = "The river had risen in the night, and by morning the lower road was under water. Nobody in the village was \
                    surprised: it happened every spring, and 3 of the 12 houses near the bridge stood empty for that reason.";

/// How much the shape of a batch moves this target's logits, if exact drafts are asked for.
///
/// # Errors
/// The target's.
pub(crate) fn exact_noise(
    spec: &SpecArgs,
    config: &Config,
    model: &Model,
    target: &mut Target,
) -> Result<Option<f32>, Error> {
    if !spec.exact || config.draft.mode == DraftMode::Off {
        return Ok(None);
    }
    let noise = shape_noise(target, &model.tokenize(TEXT, true, false)?)?;
    info!("noise between shapes of batches: {noise}");
    Ok(Some(noise))
}

/// Tokens of the prompt that stay when the context is shifted; as llama.cpp has it, the one that begins every text comes on top.
pub(crate) fn n_keep(keep: i32, model: &Model) -> Result<usize, Error> {
    match keep {
        -1 => Ok(usize::MAX),
        n => usize::try_from(n)
            .map(|n| n + usize::from(model.begin_token().is_some()))
            .map_err(|_| Error::usage(format!("--keep is {n}; give a number of tokens, or -1 for the whole prompt"))),
    }
}

/// The drafts that a target's memory takes, and the memory where it is not the usual one.
pub(crate) fn draft_shape(target: &Target) -> String {
    let shape = match target.limits().shape {
        DraftShape::Tree => "tree",
        DraftShape::Chain => "chain",
        DraftShape::Nothing => "nothing",
    };
    match target.memory_kind() {
        MemoryKind::Cells => shape.to_owned(),
        kind => format!("{shape} ({kind})"),
    }
}

/// The drafts that a target takes and the kernels that computed, in a few words.
pub(crate) fn manner(target: &Target) -> String {
    let shape = draft_shape(target);
    let counts = kernel_counts();
    let kernels = match (counts.n_products > 0, counts.n_attentions > 0) {
        (true, true) => "own kernels",
        (true, false) => "own kernels for products",
        (false, true) => "own kernels for attention",
        (false, false) => "llama.cpp's kernels",
    };
    format!("drafts: {shape}, {kernels}")
}

/// What the flags say on sampling. `n_ctx` is the context's length.
///
/// # Errors
/// A usage error for values out of range; the system's for a grammar file that cannot be read.
pub(crate) fn sampling_params(args: &SamplingArgs, n_ctx: u32) -> Result<SamplingParams> {
    let seed = match args.seed {
        -1 => u32::MAX,
        seed => u32::try_from(seed).map_err(|_| {
            Error::usage(format!(
                "the seed is {seed}; give a number from 0 to {}, or -1 for another one each time",
                u32::MAX
            ))
        })?,
    };
    let repeat_last_n = match args.repeat_last_n {
        -1 => n_ctx,
        n => u32::try_from(n).map_err(|_| {
            Error::usage(format!("the penalties look back {n} tokens; give 0 for none, or -1 for the whole context"))
        })?,
    };
    let mut params = SamplingParams {
        seed,
        temperature: args.temp,
        top_k: args.top_k,
        top_p: args.top_p,
        min_p: args.min_p,
        repeat_last_n,
        repeat_penalty: args.repeat_penalty,
        presence_penalty: args.presence_penalty,
        frequency_penalty: args.frequency_penalty,
        ..SamplingParams::default()
    };
    args.chain.fill(&mut params)?;
    Ok(params)
}

/// The sampler that the flags describe, after a prompt: penalties count its tokens, as llama.cpp's do.
///
/// # Errors
/// As [`sampling_params`].
pub(crate) fn sampler(
    args: &SamplingArgs,
    model: &Arc<Model>,
    n_ctx: u32,
    prompt: &[Token],
    ignore_end: bool,
) -> Result<SamplerChain> {
    let mut params = sampling_params(args, n_ctx)?;
    if ignore_end {
        params.ignore_end(model);
    }
    let mut sampler = SamplerChain::new(model, &params)?;
    info!("seed: {}", sampler.params().seed);
    sampler.accept_prompt(prompt)?;
    Ok(sampler)
}
