//! `aded bench`: speed-up over plain decoding on real prompts, measured so that it can be believed; and the cost of rows.

pub(crate) mod args;
mod compare;
pub(crate) mod curve;
pub(crate) mod machine;
pub(crate) mod measure;
mod output;
mod prompts;
mod report;
mod rows;
pub(crate) mod statistics;
mod subject;
mod svg;
pub(crate) mod table;
pub(crate) mod trace;

use std::fs;
use std::io::{self, Write as _};
use std::path::Path;

use aded::llama::{ContextParams, Target};
use aded::replay::Recording;
use aded::{CancelFlag, Error, Token};
use anyhow::Result;
use serde_json::{Value, json};

use args::{BenchArgs, BenchWhat, Format};
use measure::{Mode, Plan, Run};
use prompts::Question;
use report::{Report, SCHEMA};
use subject::ModelSubject;

use super::flags::KernelMode;
use super::{interrupt, log, resolve};

/// Measures.
///
/// # Errors
/// For bad arguments and files, and if the model fails.
pub(crate) fn bench(args: &BenchArgs) -> Result<()> {
    if let Some(BenchWhat::Compare { first, second }) = &args.what {
        let text = compare::markdown(&compare::read(first)?, &compare::read(second)?);
        return Ok(io::stdout().lock().write_all(text.as_bytes())?);
    }
    log::install(&args.log)?;
    let cancel = interrupt::install()?;
    interrupt::watched();
    if args.curve { curves(args, &cancel) } else { prompts(args, &cancel) }
}

fn prompts(args: &BenchArgs, cancel: &CancelFlag) -> Result<()> {
    let Some(path) = &args.prompts else {
        return Err(Error::usage(
            "there is nothing to measure: give questions with --prompts FILE.jsonl, or measure the cost of rows with --curve",
        )
        .into());
    };
    let mut questions = prompts::read(path, args.limit.map(|limit| limit as usize))?;
    let (subject, left_out) = ModelSubject::new(args, &mut questions, cancel)?;
    let mut modes = vec![Mode::Plain];
    for &mode in &args.modes {
        if !modes.contains(&mode) {
            modes.push(mode);
        }
    }
    let plan = Plan {
        modes,
        n_max: args.predict as usize,
        repetitions: args.repetitions as usize,
        cold: args.cold,
        records: args.record.is_some(),
    };
    let (build, machine, model) = (machine::build(), machine::machine(), machine::model(subject.model()));
    let settings = settings(args, &plan, path, &left_out, &subject);
    let is_greedy = args.sampling.temp <= 0.0;
    let mut trace = match &args.record {
        Some(path) => {
            let model = serde_json::to_value(&model)?;
            let header = trace::Header::new(
                resolve::fingerprint(subject.model()),
                build.clone(),
                machine.clone(),
                model,
                settings.clone(),
            );
            Some(trace::Writer::create(path, &header)?)
        }
        None => None,
    };
    let n_answers: usize = questions.iter().map(|question| question.turns.len()).sum();
    let bar = resolve::progress_bar("measuring", (n_answers * plan.modes.len() * plan.repetitions) as u64);
    let mut listener = |run: &Run, prompt: &[Token]| {
        bar.inc(1);
        let question = &questions[run.question];
        if let Some(trace) = trace.as_mut().filter(|_| run.mode == Mode::Plain && run.repetition == 0) {
            trace.write(&trace::Answer {
                question_id: question.question_id.clone(),
                category: question.category.clone(),
                turn: run.turn,
                recording: Recording::new(prompt.to_vec(), run.output.clone(), run.tops.clone(), is_greedy)?,
            })?;
        }
        if args.output == Format::Jsonl {
            io::stdout().lock().write_all(output::jsonl(question, run).as_bytes())?;
        }
        Ok(())
    };
    let (runs, arms) = measure::measure(&subject, &plan, &questions, &mut listener)?;
    bar.finish_and_clear();
    let (sources, per_depth) = report::tallies(&runs, &plan.modes);
    let report = Report {
        schema: SCHEMA,
        build,
        machine,
        model,
        settings,
        groups: report::groups(&questions, &runs, &plan.modes),
        cost: subject.cost(&runs, &arms),
        prefill: Vec::new(),
        sources,
        per_depth,
    };
    if args.output == Format::Jsonl { picture(args, &report) } else { write(args, &report) }
}

fn curves(args: &BenchArgs, cancel: &CancelFlag) -> Result<()> {
    let has_kernels = subject::switch_kernels(args.kernels.kernels == KernelMode::Auto);
    let kernels = if has_kernels { "aded" } else { "llama.cpp" };
    let model = resolve::model(&args.model, cancel)?;
    let contexts = if args.context.ctx_size.is_empty() { vec![64] } else { args.context.ctx_size.clone() };
    let sizes: Vec<usize> = match args.rows.as_slice() {
        [] => (1..=curve::MAX_ROWS).collect(),
        rows => rows.concat(),
    };
    let (mut cost, mut prefill) = (Vec::new(), Vec::new());
    let mut params = ContextParams::default();
    for &used_cells in &contexts {
        let n_ctx = used_cells.max(curve::PROMPT as u32) + curve::MAX_ROWS as u32;
        params = resolve::context_params(&args.context.with_size(n_ctx.next_multiple_of(256)), &args.spec, &model)?;
        // One sequence: every pass is a chain.
        params = ContextParams { max_leaves: 1, max_logits_rows: curve::MAX_ROWS as u32, ..params };
        let text = filler(&model, n_ctx as usize)?;
        let mut target = Target::new(model.clone(), &params)?;
        target.set_cancel_flag(cancel.clone());
        prefill.push(curve::prefill(&mut target, &text, used_cells as usize, kernels)?);
        cost.extend(curve::curve(&mut target, &text, used_cells as usize, &sizes, kernels)?);
    }
    let report = Report {
        schema: SCHEMA,
        build: machine::build(),
        machine: machine::machine(),
        model: machine::model(&model),
        settings: json!({
            "threads": params.n_threads,
            "threads_batch": params.n_threads_batch,
            "flash_attn": args.context.flash_attn,
            "kernels": kernels,
            "contexts": contexts,
        }),
        groups: Vec::new(),
        cost,
        prefill,
        sources: Vec::new(),
        per_depth: Vec::new(),
    };
    write(args, &report)
}

/// Some text of so many tokens. What it says makes no difference to how long a pass takes.
pub(crate) fn filler(model: &aded::llama::Model, n_tokens: usize) -> Result<Vec<Token>> {
    let words =
        "The river rose in the night and by morning the lower fields stood under water; nobody had expected that. ";
    let piece = model.tokenize(words, false, false)?;
    Ok(piece.into_iter().cycle().take(n_tokens).collect())
}

fn settings(args: &BenchArgs, plan: &Plan, path: &Path, left_out: &[Question], subject: &ModelSubject) -> Value {
    let (params, plain_attention, stock_attention) = subject.params();
    let modes = |wanted: Mode| plan.modes.contains(&wanted);
    json!({
        "prompts": path.file_name().unwrap_or_default().to_string_lossy(),
        "limit": args.limit,
        "left_out_too_long": left_out.iter().map(|question| &question.question_id).collect::<Vec<_>>(),
        "modes": plan.modes.iter().map(|mode| mode.name()).collect::<Vec<_>>(),
        "order": "as in the file; modes forwards and backwards by turns",
        "later_turns": "after the plain arm's answer, in every mode",
        "n_predict": plan.n_max,
        "repetitions": plan.repetitions,
        "learnt": if plan.cold { "cold" } else { "warm" },
        "chat_template": !args.no_conversation && subject.model().chat_template().is_some(),
        "ctx_size": params.n_ctx,
        "threads": params.n_threads,
        "threads_batch": params.n_threads_batch,
        "flash_attn": args.context.flash_attn,
        "flash_attn_plain": format!("{plain_attention:?}").to_lowercase(),
        "flash_attn_stock": modes(Mode::Stock).then(|| format!("{stock_attention:?}").to_lowercase()),
        "cache_type_k": args.context.cache_type_k,
        "cache_type_v": args.context.cache_type_v,
        "kernels": subject.kernels(Mode::Plain),
        "temp": args.sampling.temp,
        "top_k": args.sampling.top_k,
        "top_p": args.sampling.top_p,
        "min_p": args.sampling.min_p,
        "seed": args.sampling.seed,
        "spec_budget": args.spec.spec_budget,
        "spec_depth": args.spec.spec_depth,
        "spec_without": args.spec.spec_without,
        "corpus": args.spec.corpus.as_ref().map(|path| path.file_name().unwrap_or_default().to_string_lossy()),
    })
}

fn write(args: &BenchArgs, report: &Report) -> Result<()> {
    let text = match args.output {
        Format::Md => output::markdown(report),
        Format::Csv => rows::csv(report),
        Format::Sql => rows::sql(report),
        Format::Json => serde_json::to_string_pretty(report)? + "\n",
        Format::Jsonl => report.cost.iter().map(|cost| json!(cost).to_string() + "\n").collect(),
    };
    io::stdout().lock().write_all(text.as_bytes())?;
    picture(args, report)
}

fn picture(args: &BenchArgs, report: &Report) -> Result<()> {
    let Some(path) = &args.svg else { return Ok(()) };
    let failed = |error| Error::io(format!("cannot write the picture {}", path.display()), error);
    Ok(fs::write(path, svg::picture(report)).map_err(failed)?)
}
