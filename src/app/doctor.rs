//! `aded doctor`: what the machine has, what was built for it, where things are, and in five seconds what rows cost.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use aded::CancelFlag;
use aded::kernels::{Features, Isa};
use aded::llama::{self, ContextParams, Model, Target};
use aded::model::{DraftShape, TargetModel as _};
use anyhow::Result;
use clap::Args;
use serde::Serialize;

use super::bench::curve::{self, Chain};
use super::bench::statistics::median;
use super::bench::{filler, machine};
use super::flags::{ContextArgs, KernelArgs, LogArgs, ModelArgs, SpecArgs};
use super::models::{self, cache};
use super::{chat, interrupt, log, memory, resolve, version};

/// The shape of `--json`, told in docs/tuning.md. Raised when a field changes its meaning or goes.
const SCHEMA: &str = "aded-doctor-1";

/// Rows of the passes that are timed, and the tokens in memory meanwhile.
const SIZES: [usize; 7] = [1, 2, 3, 4, 8, 16, 32];
const USED_CELLS: usize = 256;

/// Time for the curve. A machine that cannot do all sizes in it leaves out the largest.
const CURVE: Duration = Duration::from_secs(5);

/// Cost of a further row in plain steps from which on a warning is given: a guess pays only if it is right more often than that, and few
/// texts are so easy to guess unless they repeat.
const DEAR_ROW: f64 = 0.5;
/// Spread of a size's times from which on they are said to say little.
const UNSTEADY: f64 = 0.25;

#[derive(Clone, Debug, Args)]
pub(crate) struct DoctorArgs {
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
    /// Leave out the five seconds of measuring, and load no model.
    #[arg(long)]
    no_curve: bool,
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    kernels: KernelArgs,
    #[command(flatten)]
    context: ContextArgs,
    #[command(flatten)]
    log: LogArgs,
}

#[derive(Serialize)]
struct Report {
    schema: &'static str,
    aded: &'static str,
    llama_cpp: &'static str,
    processor: Processor,
    memory: Memory,
    threads: Threads,
    folders: Vec<Folder>,
    models: Vec<serde_json::Value>,
    /// What was measured; null where no model was loaded.
    model: Option<Measured>,
    /// What should be looked at, in words.
    warnings: Vec<String>,
}

#[derive(Serialize)]
struct Processor {
    name: String,
    arch: &'static str,
    /// Under llama.cpp's names.
    compiled: Vec<String>,
    /// Those of this machine that matter to decoding.
    present: Vec<&'static str>,
    missing: Vec<&'static str>,
    /// The instruction set of our kernels; null where llama.cpp's run alone.
    own_kernels: Option<&'static str>,
    devices: Vec<String>,
}

#[derive(Serialize)]
struct Memory {
    total_bytes: Option<u64>,
    available_bytes: Option<u64>,
}

#[derive(Serialize)]
struct Threads {
    logical: usize,
    used: u32,
}

#[derive(Serialize)]
struct Folder {
    what: &'static str,
    path: String,
    exists: bool,
}

#[derive(Serialize)]
struct Measured {
    path: String,
    description: String,
    bytes: u64,
    chat_template: bool,
    n_ctx: u32,
    drafts: DraftShape,
    /// Whether our kernels computed the products and the attention.
    own_products: bool,
    own_attention: bool,
    used_cells: usize,
    curve: Vec<Point>,
    /// Cost of each further row up to four, in plain steps: a draft node pays if it is accepted more often than this.
    row_cost: Option<f64>,
}

#[derive(Serialize)]
struct Point {
    rows: usize,
    ms: f64,
    /// In passes of one row.
    relative: f64,
    samples: usize,
    /// The middle half of the samples lies within this share of their median.
    spread: f64,
}

/// Looks at everything.
///
/// # Errors
/// If a model is there and cannot be loaded or run; what else is wrong is a part of the report.
pub(crate) fn doctor(args: &DoctorArgs) -> Result<()> {
    log::install(&args.log)?;
    let cancel = interrupt::install()?;
    interrupt::watched();
    resolve::kernels(args.kernels);
    let mut report = look(args);
    if !args.no_curve {
        if is_there(&args.model) {
            report.model = Some(measure(args, &cancel)?);
        } else {
            report.warnings.push(
                "there is no model to measure: fetch the default one with `aded models pull`, or name one with -m or -hf".to_owned(),
            );
        }
    }
    judge(&mut report);
    let mut out = io::stdout().lock();
    if args.json {
        serde_json::to_writer_pretty(&mut out, &report)?;
        writeln!(out)?;
    } else {
        out.write_all(text(&report).as_bytes())?;
    }
    Ok(())
}

/// Whether a model is named or the default one is here: a doctor asks for no download of its own accord.
fn is_there(args: &ModelArgs) -> bool {
    args.hf_repo.is_some() || args.model.is_some() || resolve::default_model().is_some_and(|path| path.is_file())
}

fn look(args: &DoctorArgs) -> Report {
    let compiled = version::compiled();
    let present = version::present();
    let missing = present.iter().copied().filter(|name| !compiled.iter().any(|other| other == name)).collect();
    let isa = Features::detect().best().filter(|_| llama::HAS_KERNELS);
    let mut folders = Vec::new();
    let mut add = |what, path: &Path| {
        folders.push(Folder { what, path: path.to_string_lossy().into_owned(), exists: path.is_dir() });
    };
    if let Some(store) = resolve::model_store() {
        add("models", &store);
    }
    cache::hub_folders().iter().for_each(|folder| add("hub cache", folder));
    cache::llama_cpp_folders().iter().for_each(|folder| add("llama.cpp cache", folder));
    if let Some(folder) = memory::texts_folder() {
        add("memories", &folder);
    }
    if let Some(folder) = chat::history_file().as_deref().and_then(Path::parent) {
        add("chat history", folder);
    }
    Report {
        schema: SCHEMA,
        aded: env!("CARGO_PKG_VERSION"),
        llama_cpp: llama::LLAMA_CPP_VERSION,
        processor: Processor {
            name: machine::processor().unwrap_or_else(|| "unknown".to_owned()),
            arch: std::env::consts::ARCH,
            compiled,
            present,
            missing,
            own_kernels: isa.map(Isa::name),
            devices: llama::devices().into_iter().map(|(name, what)| format!("{name} ({})", what.trim())).collect(),
        },
        memory: Memory { total_bytes: total_bytes(), available_bytes: llama::available_bytes() },
        threads: Threads {
            logical: std::thread::available_parallelism().map_or(1, usize::from),
            used: args.context.threads.unwrap_or_else(llama::default_threads),
        },
        folders,
        models: cache::all().iter().map(models::object).collect(),
        model: None,
        warnings: Vec::new(),
    }
}

fn total_bytes() -> Option<u64> {
    let text = machine::total_memory()?;
    text.split_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1024)
}

fn measure(args: &DoctorArgs, cancel: &CancelFlag) -> Result<Measured> {
    let model = resolve::model(&args.model, cancel)?;
    let before = llama::kernel_counts();
    let spec = SpecArgs::default();
    let n_ctx = (USED_CELLS + SIZES[SIZES.len() - 1]).next_multiple_of(256) as u32;
    let context =
        ContextArgs { ctx_size: Some(args.context.ctx_size.unwrap_or(n_ctx).max(n_ctx)), ..args.context.clone() };
    let params = resolve::context_params(&context, &spec, &model)?;
    let mut target = Target::new(model.clone(), &params)?;
    target.set_cancel_flag(cancel.clone());
    let shape = target.limits().shape;
    let points = points(&mut target, &model)?;
    let after = llama::kernel_counts();
    // The context that other commands would take.
    let usual: ContextParams = resolve::context_params(&args.context, &spec, &model)?;
    let at = |rows: usize| points.iter().find(|point| point.rows == rows).map(|point| point.relative);
    let row_cost = at(4).map(|four| (four - 1.0) / 3.0).or_else(|| at(2).map(|two| two - 1.0));
    Ok(Measured {
        path: model.path().to_string_lossy().into_owned(),
        description: model.description(),
        bytes: model.size_bytes(),
        chat_template: model.chat_template().is_some(),
        n_ctx: usual.n_ctx,
        drafts: shape,
        own_products: after.n_products > before.n_products,
        own_attention: after.n_attentions > before.n_attentions,
        used_cells: USED_CELLS,
        curve: points,
        row_cost,
    })
}

/// Times the sizes by turns, so that a machine that slows down meanwhile does not tilt the curve, until the time is up.
fn points(target: &mut Target, model: &Arc<Model>) -> Result<Vec<Point>> {
    let max_rows = target.limits().max_logits_rows as usize;
    let sizes: Vec<usize> = SIZES.into_iter().filter(|&rows| rows <= max_rows).collect();
    let text = filler(model, USED_CELLS + SIZES[SIZES.len() - 1])?;
    let begun = Instant::now();
    curve::fill(target, &text[..USED_CELLS], false)?;
    let mut samples: Vec<Vec<f64>> = vec![Vec::new(); sizes.len()];
    'time: loop {
        for (&rows, samples) in sizes.iter().zip(&mut samples) {
            // The smallest size is measured whatever it takes: without it there is nothing to compare with.
            if begun.elapsed() > CURVE && !(rows == 1 && samples.is_empty()) {
                break 'time;
            }
            let chain = Chain::new(&text[USED_CELLS..USED_CELLS + rows], USED_CELLS);
            // The first pass of a size builds a graph.
            chain.pass(target)?;
            for _ in 0..3 {
                samples.push(chain.pass(target)?.as_secs_f64() * 1e3);
            }
        }
    }
    let ms: Vec<f64> = samples.iter_mut().map(|samples| median(samples)).collect();
    let points = sizes.iter().zip(&samples).zip(&ms).filter(|((_, samples), _)| !samples.is_empty());
    Ok(points
        .map(|((&rows, samples), &ms_of)| {
            // They are in order since their median was looked for.
            let (low, high) = (samples[samples.len() / 4], samples[3 * samples.len() / 4]);
            Point { rows, ms: ms_of, relative: ms_of / ms[0], samples: samples.len(), spread: (high - low) / ms_of }
        })
        .collect())
}

/// What should be looked at.
fn judge(report: &mut Report) {
    let mut warn = |text: String| report.warnings.push(text);
    if !report.processor.missing.is_empty() {
        warn(format!(
            "llama.cpp was not compiled for {}, which this machine has: build with -C target-cpu=native after `cargo clean -p \
             llama-cpp-sys-2 --release`",
            report.processor.missing.join(", ")
        ));
    }
    if report.processor.own_kernels.is_none() {
        warn("our kernels do not run here, so that rows cost what llama.cpp's cost".to_owned());
    }
    if report.threads.used as usize > report.threads.logical {
        warn(format!("{} threads are asked for and the machine has {}", report.threads.used, report.threads.logical));
    }
    let Some(model) = &report.model else { return };
    if report.processor.own_kernels.is_some() && !model.own_products {
        warn(format!(
            "our kernels know nothing of this model's weights ({}): `aded quantize` makes others",
            model.description
        ));
    }
    if model.drafts == DraftShape::Nothing {
        warn("the memory of this model cannot take drafts: it decodes plainly".to_owned());
    }
    let spread = model.curve.iter().map(|point| point.spread).fold(0.0, f64::max);
    if spread > UNSTEADY {
        warn(format!(
            "the times vary by {:.0} %: something else keeps the processor busy, and what rows cost is better measured again without it",
            100.0 * spread
        ));
    }
    if let Some(cost) = model.row_cost.filter(|&cost| cost > DEAR_ROW) {
        warn(format!("a further row costs {cost:.2} plain steps: only text that repeats pays; see docs/tuning.md"));
    }
}

fn text(report: &Report) -> String {
    let mut out = String::new();
    let mut line = |name: &str, value: String| {
        let _ = writeln!(out, "{name:<16} {value}");
    };
    let words = |words: &[&str]| if words.is_empty() { "nothing of note".to_owned() } else { words.join(" ") };
    let bytes = |bytes: Option<u64>| bytes.map_or_else(|| "unknown".to_owned(), models::size);
    line("aded", format!("{}, llama.cpp {}", report.aded, report.llama_cpp));
    line("processor", format!("{} ({})", report.processor.name, report.processor.arch));
    line("present", words(&report.processor.present));
    line("compiled for", report.processor.compiled.join(" "));
    line("own kernels", report.processor.own_kernels.unwrap_or("none").to_owned());
    line("devices", report.processor.devices.join(", "));
    line("memory", format!("{}, {} free", bytes(report.memory.total_bytes), bytes(report.memory.available_bytes)));
    line("threads", format!("{} of {}", report.threads.used, report.threads.logical));
    for folder in &report.folders {
        line(folder.what, format!("{}{}", folder.path, if folder.exists { "" } else { " (not there)" }));
    }
    for (index, model) in report.models.iter().enumerate() {
        let name = if index == 0 { "models here" } else { "" };
        let size = models::size(model["bytes"].as_u64().unwrap_or(0));
        line(name, format!("{}, {size}", model["name"].as_str().unwrap_or_default()));
    }
    if report.models.is_empty() {
        line("models here", "none".to_owned());
    }
    if let Some(model) = &report.model {
        line("model", format!("{}: {}, {}", model.path, model.description, models::size(model.bytes)));
        let shape = match model.drafts {
            DraftShape::Tree => "trees",
            DraftShape::Chain => "chains",
            DraftShape::Nothing => "none",
        };
        let own = |is_own: bool| if is_own { "ours" } else { "llama.cpp's" };
        line("drafts", shape.to_owned());
        line("kernels", format!("products {}, attention {}", own(model.own_products), own(model.own_attention)));
        for (index, point) in model.curve.iter().enumerate() {
            let name = if index == 0 { format!("rows at {}", model.used_cells) } else { String::new() };
            line(&name, format!("{:>3} {:>9.2} ms  {:>5.2} steps", point.rows, point.ms, point.relative));
        }
        if let Some(cost) = model.row_cost {
            line("further row", format!("{cost:.2} steps: a guess pays if it is right more often than that"));
        }
    }
    for warning in &report.warnings {
        line("warning", warning.clone());
    }
    out
}
