//! `aded serve`: an address that OpenAI's and llama.cpp's clients know, with one engine thread behind it.
//!
//! The web side (tokio) reads requests, puts them through template, tokenizer and sampler setup, and sends a job to the engine thread.
//! The engine thread owns target, decoder and slots; it runs rounds in which all busy slots share one decode call, and sends each
//! round's tokens back through the job's channel. Nobody waits for a lock that is held during a decode call.

mod answer;
pub(crate) mod args;
mod auth;
mod error;
mod fields;
mod job;
mod listen;
mod metrics;
mod native;
mod openai;
mod page;
mod params;
mod routes;
mod scheduler;
mod schema;
mod slots;
mod stream;
mod tools;

use std::fs;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use aded::config::DraftMode;
use aded::llama::{ContextParams, Model, Target};
use aded::model::TargetModel as _;
use aded::round::Decoder;
use aded::{CancelFlag, Error};
use anyhow::{Context as _, Result};
use tokio::net::TcpListener;
use tokio::sync::{oneshot, watch};
use tokio::time::sleep;
use tracing::info;

use args::ServeArgs;
use auth::{Keys, Origins};
use routes::App;
use scheduler::{Command, Engine, Handle, Loaded, Ready, Shared};

use crate::app::memory::Memory;
use crate::app::output::note;
use crate::app::{interrupt, log, resolve};

/// Threads that serve connections: they do next to nothing.
const N_WORKERS: usize = 2;

/// Threads for templates and tokenizers.
const N_ASIDE: usize = 4;

/// Stack of these threads: grammars and schemas are read by recursion.
const STACK_BYTES: usize = 8 << 20;

/// Serves until it is asked to stop.
///
/// # Errors
/// If the address cannot be used or the model cannot be loaded.
pub(crate) fn serve(args: &ServeArgs) -> Result<()> {
    log::install(&args.log)?;
    let (args, ignored) = args.clone().without_other_drafts();
    let args = &args;
    for flag in ignored {
        note(&format!(
            "warning: {flag} is for llama.cpp's ways of drafting, and ours is used: --spec off switches it off"
        ));
    }
    // Before the address is taken: what is wrong here needs no model.
    resolve::config(&args.spec)?;
    let interrupted = interrupt::install()?;
    interrupt::watched();
    let keys = Keys::read(&args.server.api_key, args.server.api_key_file.as_deref())?;
    let template = chat_template(args)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(N_WORKERS)
        .max_blocking_threads(N_ASIDE)
        .thread_stack_size(STACK_BYTES)
        .enable_all()
        .build()
        .context("cannot start the threads that serve connections")?;
    let result = runtime.block_on(run(args, keys, template, interrupted));
    // Connections that did not end in time are cut.
    runtime.shutdown_background();
    result
}

async fn run(args: &ServeArgs, keys: Keys, template: Option<String>, interrupted: CancelFlag) -> Result<()> {
    let server = &args.server;
    let host = server.host.trim_start_matches('[').trim_end_matches(']');
    let listener = TcpListener::bind((host, server.port)).await.with_context(|| {
        format!("cannot listen on {host} port {}: choose another with --host and --port", server.port)
    })?;
    let address = listener.local_addr().context("cannot tell the address")?;
    if !address.ip().is_loopback() && keys.is_empty() {
        note(&format!(
            "warning: {address} can be reached from the network and needs no key: set one with --api-key-file"
        ));
    }
    let shared = Arc::new(Shared::default());
    let (sender, commands) = mpsc::channel();
    let engine = Handle(sender);
    let (loaded, mut loading) = oneshot::channel();
    let thread = {
        let (args, shared, interrupted) = (args.clone(), shared.clone(), interrupted.clone());
        thread::Builder::new()
            .name("engine".to_owned())
            .spawn(move || match load(&args, template, &interrupted) {
                Ok((parts, mut ready)) => {
                    let mut engine = Engine::new(parts, shared.clone(), commands);
                    ready.drafts = engine.drafts();
                    engine.publish();
                    let _ = shared.ready.set(ready);
                    let _ = loaded.send(Ok(()));
                    engine.run();
                }
                Err(error) => {
                    let _ = loaded.send(Err(error));
                }
            })
            .context("cannot start the engine thread")?
    };
    let (stop, stopping) = watch::channel(false);
    let serving = tokio::spawn(listen::serve(
        listener,
        routes::router(Arc::new(app(args, keys, address, shared.clone(), engine.clone()))),
        server.connections as usize,
        Duration::from_secs(server.timeout.into()),
        Duration::from_secs(server.drain.into()),
        stopping,
    ));
    note(&format!("listening on http://{address}"));
    let mut is_loading = true;
    let result = loop {
        tokio::select! {
            done = &mut loading, if is_loading => {
                is_loading = false;
                match done {
                    Ok(Ok(())) => note(&format!("ready: {}", shared.ready.get().map_or("", |ready| &ready.alias))),
                    Ok(Err(error)) => break Err(error),
                    Err(_) => break Err(Error::target("the engine ended while it loaded the model").into()),
                }
            }
            () = sleep(Duration::from_millis(50)) => {
                if interrupted.is_cancelled() {
                    break Ok(());
                }
                if !is_loading && thread.is_finished() {
                    break Err(Error::target("the engine has stopped").into());
                }
            }
        }
    };
    shared.is_stopping.store(true, Ordering::Relaxed);
    let _ = stop.send(true);
    if result.is_ok() {
        info!("stopping: answers under way have {} seconds", server.drain);
        let _ = serving.await;
    }
    let _ = engine.send(Command::Stop);
    shared.abort.cancel();
    if thread.join().is_err() {
        return Err(Error::target("the engine thread failed").into());
    }
    result
}

fn app(args: &ServeArgs, keys: Keys, address: SocketAddr, shared: Arc<Shared>, engine: Handle) -> App {
    let server = &args.server;
    App {
        shared,
        engine,
        keys,
        origins: Origins::new(&server.cors_origins, address.ip().is_loopback()),
        n_predict: server.predict,
        n_slots: server.parallel,
        n_queue: server.queue,
        body_limit_mib: server.body_limit,
        patience: Duration::from_secs(server.timeout.into()),
        time_limit: (server.time_limit > 0).then(|| Duration::from_secs(server.time_limit.into())),
        ping: Duration::from_secs(server.sse_ping_interval.into()),
        has_metrics: server.metrics,
        has_slots: !server.no_slots,
        has_page: !server.no_webui,
        started: openai::now(),
    }
}

/// Loads model, context and corpus, on the engine thread.
fn load(args: &ServeArgs, template: Option<String>, cancel: &CancelFlag) -> Result<(Loaded, Ready)> {
    resolve::kernels(args.kernels);
    let model = resolve::model(&args.model, cancel)?;
    let config = resolve::config(&args.spec)?;
    let params = context_params(args, &model, config.draft.mode)?;
    let mut target = Target::new(model.clone(), &params)?;
    let noise = resolve::exact_noise(&args.spec, &config, &model, &mut target)?;
    let n_keep = if args.context.context_shift { Some(resolve::n_keep(args.context.keep, &model)?) } else { None };
    if n_keep.is_some() && !target.can_shift() {
        return Err(Error::usage("the memory of this model cannot be shifted: leave out --context-shift").into());
    }
    let corpus = resolve::drafting_corpus(&args.spec, &config, &model)?;
    let mut decoder = Decoder::new(config)?;
    decoder.set_corpus(corpus);
    let memory = Memory::open(&args.memory, &model, (&params, &args.model, args.kernels), &mut decoder)?;
    let limits = target.limits();
    let file = model.path().file_stem().map(|name| name.to_string_lossy().into_owned());
    let ready = Ready {
        template: template.or_else(|| model.chat_template()),
        limits,
        sampling: resolve::sampling_params(&args.sampling, limits.n_ctx)?,
        alias: args.server.alias.clone().or(file).unwrap_or_else(|| "model".to_owned()),
        drafts: false,
        model,
    };
    Ok((Loaded { target, decoder, memory, noise, n_keep }, ready))
}

/// A context for all slots.
fn context_params(args: &ServeArgs, model: &Model, mode: DraftMode) -> Result<ContextParams, Error> {
    let one = resolve::context_params(&args.context, &args.spec, model)?;
    let n_slots = args.server.parallel;
    let budget = args.spec.spec_budget.map_or(0, u32::from);
    let max_logits_rows = match (mode, budget) {
        (DraftMode::Off, _) => n_slots,
        (_, 0) => one.max_logits_rows.max(n_slots),
        (_, budget) => budget + n_slots,
    };
    let params = ContextParams {
        n_slots,
        max_logits_rows,
        // The buffers grow with the number of sequences as they do with that of rows: no more of the former than of the latter.
        max_leaves: one.max_leaves.min((max_logits_rows / n_slots).max(1) as u16),
        // A round holds a piece of a prompt of at most this size, so that other slots and clients that leave do not wait for long.
        n_batch: one.n_batch.min(one.n_ubatch),
        ..one
    };
    params.validate()?;
    Ok(params)
}

fn chat_template(args: &ServeArgs) -> Result<Option<String>> {
    match (&args.server.chat_template, &args.server.chat_template_file) {
        (Some(text), _) => Ok(Some(text.clone())),
        (None, Some(path)) => {
            let text = fs::read_to_string(path);
            text.map(Some).with_context(|| format!("cannot read the chat template file {}", path.display()))
        }
        (None, None) => Ok(None),
    }
}
