//! `aded inspect`: what is in a file, and what one round drafts.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::path::Path;

use aded::draft::DraftTree;
use aded::llama::{ContextParams, Header, Model, ModelParams, Target, TensorType, Value};
use aded::model::TargetModel as _;
use aded::representative::corpus::Corpus;
use aded::{CancelFlag, Error, NodeId, Request, Token};
use anyhow::Result;

use super::flags::{InspectArgs, InspectWhat, SpecMode, TreeArgs};
use super::output::has_colours;
use super::prompt::Prompt;
use super::{interrupt, log, resolve};

/// Longest metadata value that is printed in one line.
const MAX_VALUE: usize = 96;

/// Prints what is in a file, or one round's tree.
///
/// # Errors
/// If the file cannot be read or is none that is known.
pub(crate) fn inspect(args: &InspectArgs) -> Result<()> {
    if let Some(InspectWhat::Tree(tree)) = &args.what {
        return inspect_tree(tree);
    }
    let path = args.file.as_deref().unwrap_or(Path::new(""));
    let text = if is_corpus(path) { describe_corpus(path)? } else { describe_model(path, args.all)? };
    io::stdout().lock().write_all(text.as_bytes())?;
    Ok(())
}

/// Whether a file begins like one of ours: `\x89ADED`.
fn is_corpus(path: &Path) -> bool {
    let mut label = [0; 5];
    File::open(path).and_then(|mut file| file.read_exact(&mut label)).is_ok() && label == *b"\x89ADED"
}

fn describe_corpus(path: &Path) -> Result<String, Error> {
    let corpus = Corpus::load(path, None)?;
    let summary = corpus.summary();
    let mut out = Lines::default();
    out.add("corpus", path.display());
    out.add("size", mebibytes(summary.n_bytes));
    out.add("tokenizer", format_args!("{} ({} tokens)", corpus.fingerprint(), corpus.n_vocab()));
    out.add("learnt from", format_args!("{} documents, {} tokens", summary.n_documents, summary.n_tokens));
    out.add("pairs", format_args!("{} with {} successors", summary.n_contexts, summary.n_successors));
    Ok(out.0)
}

fn describe_model(path: &Path, all: bool) -> Result<String, Error> {
    // The tokenizer alone: the weights are not needed to describe them.
    let params = ModelParams { vocab_only: true, ..ModelParams::default() };
    let model = Model::load(path, &params)?;
    let header = model.header();
    let number = |key: &str| header.architecture_number(key);
    let trial = trial(path);
    let mut out = Lines::default();
    out.add("model", path.display());
    out.option("name", model.name());
    out.add("architecture", model.architecture());
    out.add(
        "file",
        format_args!("GGUF {}, {}, {} tensors", header.version, mebibytes(header.file_bytes), header.n_tensors),
    );
    out.add("weights", tensor_types(&header.tensor_types));
    out.option("context", number("context_length").map(|n| format!("{n} tokens in training")));
    out.option("layers", number("block_count"));
    out.option("width", number("embedding_length"));
    out.option(
        "heads",
        number("attention.head_count").map(|n| match number("attention.head_count_kv") {
            Some(kv) => format!("{n}, {kv} for keys and values"),
            None => n.to_string(),
        }),
    );
    let has_state = trial.as_ref().is_ok_and(|target| target.memory_kind().has_state());
    out.option(
        "memory",
        cell_bytes(header).filter(|_| !has_state).map(|bytes| {
            let context = mebibytes(bytes.saturating_mul(1024));
            format!(
                "{} of weights, {context} for each 1,024 tokens of context (keys and values in f16)",
                mebibytes(header.file_bytes)
            )
        }),
    );
    out.option("window", number("attention.sliding_window").map(|n| format!("{n} tokens in layers that slide")));
    out.option(
        "experts",
        number("expert_count").map(|n| format!("{n}, {} used", number("expert_used_count").unwrap_or(0))),
    );
    out.add(
        "vocabulary",
        format_args!("{} tokens, {}", model.n_vocab(), header.text("tokenizer.ggml.model").unwrap_or("?")),
    );
    out.add("tokenizer", format_args!("{:016x}", model.tokenizer_fingerprint()));
    out.option("begins with", special(&model, model.begin_token()));
    out.option("ends with", special(&model, model.end_token()));
    out.add(
        "chat template",
        model.chat_template().map_or("none".to_owned(), |text| format!("{} characters", text.chars().count())),
    );
    out.option("licence", header.text("general.license"));
    out.add("drafts", trial.map_or_else(|error| format!("not tried: {error}"), |target| resolve::draft_shape(&target)));
    if all {
        out.0.push('\n');
        for (key, value) in &header.values {
            out.add(key, one_line(value));
        }
    }
    Ok(out.0)
}

/// What one token takes in the memory of keys and values at 16 bits, all layers together; `None` where heads differ by layer or there are
/// none.
fn cell_bytes(header: &Header) -> Option<u64> {
    let heads = header.heads()?;
    let values = heads.n_kv?.checked_mul(heads.key_size.checked_add(heads.value_size)?)?;
    header.architecture_number("block_count")?.checked_mul(values)?.checked_mul(2)
}

/// The model with a small context: what its memory is and takes shows by trial.
fn trial(path: &Path) -> Result<Target, Error> {
    let model = Model::load(path, &ModelParams::default())?;
    let params = ContextParams { n_ctx: 64, n_batch: 64, n_ubatch: 64, ..ContextParams::default() };
    Target::new(model, &params)
}

fn special(model: &Model, token: Option<Token>) -> Option<String> {
    let token = token?;
    Some(format!("{} {:?}", token.0, model.detokenize(&[token], true).ok()?))
}

/// Types of the tensors, the commonest first.
fn tensor_types(types: &BTreeMap<u32, u64>) -> String {
    let mut types: Vec<(u32, u64)> = types.iter().map(|(&kind, &n)| (kind, n)).collect();
    types.sort_by_key(|&(_, n)| std::cmp::Reverse(n));
    let name = |kind| TensorType::from_number(kind).map_or_else(|| format!("type {kind}"), |kind| kind.to_string());
    types.iter().map(|&(kind, n)| format!("{} ({n})", name(kind))).collect::<Vec<_>>().join(", ")
}

fn one_line(value: &Value) -> String {
    let text = value.to_string().replace('\n', "\\n");
    match text.char_indices().nth(MAX_VALUE) {
        Some((end, _)) => format!("{}... ({} bytes)", &text[..end], text.len()),
        None => text,
    }
}

fn mebibytes(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

#[derive(Default)]
struct Lines(String);

impl Lines {
    fn add(&mut self, name: &str, value: impl std::fmt::Display) {
        let _ = writeln!(self.0, "{name:<14} {value}");
    }

    fn option(&mut self, name: &str, value: Option<impl std::fmt::Display>) {
        if let Some(value) = value {
            self.add(name, value);
        }
    }
}

/// Generates until a round drafts, and prints that round.
fn inspect_tree(args: &TreeArgs) -> Result<()> {
    log::install(&args.log)?;
    let cancel = interrupt::install()?;
    let prompt = Prompt::read(&args.prompt)?;
    interrupt::watched();
    resolve::kernels(args.kernels);
    let (text, is_coloured) = (round_text(args, &prompt, &cancel)?, has_colours(args.log.color));
    let text = if is_coloured { text.replace(TAKEN, "\x1b[32m taken\x1b[0m") } else { text };
    io::stdout().lock().write_all(text.as_bytes())?;
    Ok(())
}

const TAKEN: &str = " taken";

fn round_text(args: &TreeArgs, prompt: &Prompt, cancel: &CancelFlag) -> Result<String> {
    let model = resolve::model(&args.model, cancel)?;
    let tokens = prompt.tokens(&model)?;
    let mut spec = args.spec.clone();
    if spec.spec == SpecMode::Auto {
        // A look at the tree is asked for, whether it pays or not.
        spec.spec = SpecMode::On;
    }
    let params = resolve::context_params(&args.context, &spec, &model)?;
    let mut session = resolve::session(&model, &params, &args.context, &spec, cancel)?;
    let mut sampler = resolve::sampler(&args.sampling, &model, session.target().limits().n_ctx, &tokens, false)?;
    let end_tokens = model.end_tokens();
    let request = Request { prompt: &tokens, n_max: usize::MAX, end_tokens: &end_tokens };
    let mut generation = session.generate(&request, &mut sampler)?;
    let (mut n_rounds, mut n_tokens) = (0, 0);
    while let Some(emitted) = generation.advance()? {
        n_rounds += 1;
        let n_before = n_tokens;
        n_tokens += emitted.len();
        let emitted = emitted.to_vec();
        let tree = generation.sequence().draft();
        if n_before < args.after || tree.is_empty() {
            continue;
        }
        let name = |token: Token| model.detokenize(&[token], true).map(|text| format!("{text:?}"));
        let confirmed = &generation.sequence().tokens()[..tokens.len() + n_before];
        let context = model.detokenize(&confirmed[confirmed.len().saturating_sub(12)..], true)?;
        let mut text = format!("round {n_rounds}, after {n_before} tokens of the answer: ...{context:?}\n");
        let (_, expected) = (tree.len(), tree.expected_tokens());
        let mut path = Vec::new();
        let mut at = None;
        for &token in &emitted {
            at = tree.child(at, token);
            match at {
                Some(node) => path.push(node),
                None => break,
            }
        }
        print_children(tree, None, "", &path, &name, &mut text)?;
        let said = emitted.iter().map(|&token| name(token)).collect::<Result<Vec<_>, _>>()?.join(" ");
        let _ = writeln!(
            text,
            "{} nodes, {} leaves; {expected:.2} tokens expected, {} taken: {said}",
            tree.len(),
            tree.n_leaves(),
            emitted.len()
        );
        return Ok(text);
    }
    if cancel.is_cancelled() {
        return Err(Error::cancelled().into());
    }
    let after = args.after;
    Err(Error::target(format!(
        "no round drafted anything after {after} tokens, and the answer has {n_tokens}: choose an earlier one with --after"
    ))
    .into())
}

fn print_children(
    tree: &DraftTree,
    parent: Option<NodeId>,
    indent: &str,
    path: &[NodeId],
    name: &dyn Fn(Token) -> Result<String, Error>,
    out: &mut String,
) -> Result<(), Error> {
    let children: Vec<NodeId> = tree.children(parent).collect();
    let above = parent.map_or(1.0, |parent| tree.survival(parent));
    for (index, &node) in children.iter().enumerate() {
        let is_last = index + 1 == children.len();
        let own = if above > 0.0 { tree.survival(node) / above } else { 0.0 };
        let _ = writeln!(
            out,
            "{indent}{} {} {own:.2} (path {:.2}, {}){}",
            if is_last { "└" } else { "├" },
            name(tree.token(node))?,
            tree.survival(node),
            tree.source(node).name(),
            if path.contains(&node) { TAKEN } else { "" }
        );
        let below = format!("{indent}{} ", if is_last { " " } else { "│" });
        print_children(tree, Some(node), &below, path, name, out)?;
    }
    Ok(())
}
