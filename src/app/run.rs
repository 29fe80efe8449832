//! `aded run`: answers one prompt.

use std::io::Write as _;
use std::sync::Arc;

use aded::llama::text::Detokenizer;
use aded::llama::{Model, Target, circumstances};
use aded::model::TargetModel as _;
use aded::sampling::RowSampler;
use aded::{Error, Finish, Request, Session, Stats, Token};
use anyhow::Result;

use super::flags::{OutputArgs, RunArgs, StatsDetail};
use super::memory::Memory;
use super::output::{Answer, StopFilter, TextWriter, Timings, details, has_colours, note};
use super::prompt::{Prompt, unescape};
use super::{interrupt, log, resolve};

/// Answers the prompt.
///
/// # Errors
/// Whatever keeps it from doing so; [`Error::is_cancelled`] if it was interrupted.
pub(crate) fn run(args: &RunArgs) -> Result<()> {
    log::install(&args.log)?;
    let cancel = interrupt::install()?;
    let prompt = Prompt::read(&args.prompt)?;
    interrupt::watched();
    resolve::kernels(args.kernels);
    let model = resolve::model(&args.model, &cancel)?;
    let tokens = prompt.tokens(&model)?;
    let mut session = resolve::session(&model, &args.context, &args.spec, &cancel)?;
    let mut sampler =
        resolve::sampler(&args.sampling, &model, session.target().limits().n_ctx, &tokens, args.output.ignore_eos)?;
    let stops = args.output.stop.iter().map(|stop| if args.prompt.no_escape { stop.clone() } else { unescape(stop) });
    let mut answering = Answering {
        args: &args.output,
        stops: StopFilter::new(stops),
        out: TextWriter::new(args.output.show_draft && has_colours(args.log.color)),
        text: String::new(),
        tokens: Vec::new(),
    };
    let params = resolve::context_params(&args.context, &args.spec, &model)?;
    let circumstances = circumstances(&model, &params, args.model.gpu_layers, &resolve::kernels_of(args.kernels));
    let mut memory = Memory::open(&args.memory, &model, circumstances, session.decoder_mut())?;
    let result = answering.answer(&model, &mut session, &tokens, &mut sampler);
    let result = result.and_then(|ended| answering.finish(ended, session.target()));
    // After the last word: nobody waits for it.
    memory.close(session.decoder_mut());
    result
}

struct Answering<'a> {
    args: &'a OutputArgs,
    stops: StopFilter,
    out: TextWriter,
    text: String,
    tokens: Vec<Token>,
}

impl Answering<'_> {
    fn answer(
        &mut self,
        model: &Arc<Model>,
        session: &mut Session<Target>,
        prompt: &[Token],
        sampler: &mut dyn RowSampler,
    ) -> Result<(Option<Finish>, Stats)> {
        let end_tokens = if self.args.ignore_eos { Vec::new() } else { model.end_tokens() };
        let n_max = usize::try_from(self.args.predict).unwrap_or(usize::MAX);
        let request = Request { prompt, n_max, end_tokens: &end_tokens };
        let mut detokenizer = Detokenizer::new(model.clone(), false);
        let mut generation = session.generate(&request, sampler)?;
        let (mut characters, mut piece) = (String::new(), String::new());
        let mut is_stopped = false;
        while let Some(emitted) = generation.advance()? {
            // The last token of a round is the model's own; those before it were guessed.
            for (index, &token) in emitted.iter().enumerate() {
                self.tokens.push(token);
                characters.clear();
                piece.clear();
                detokenizer.push(token, &mut characters)?;
                is_stopped = self.stops.push(&characters, &mut piece);
                self.emit(&piece, index + 1 < emitted.len());
                if is_stopped {
                    break;
                }
            }
            if is_stopped {
                generation.stop();
            }
            self.out.flush()?;
        }
        let (finish, stats) = (generation.finish(), generation.stats().clone());
        if !is_stopped {
            piece.clear();
            characters.clear();
            detokenizer.flush(&mut characters);
            if !self.stops.push(&characters, &mut piece) {
                self.stops.finish(&mut piece);
            }
            self.emit(&piece, false);
        }
        Ok((finish, stats))
    }

    fn emit(&mut self, piece: &str, is_guessed: bool) {
        if self.args.json {
            self.text.push_str(piece);
        } else {
            self.out.push(piece, is_guessed);
        }
    }

    fn finish(mut self, (finish, stats): (Option<Finish>, Stats), target: &Target) -> Result<()> {
        if self.args.json {
            let is_full = self.args.stats == Some(StatsDetail::Full);
            let answer = Answer {
                text: &self.text,
                tokens: &self.tokens,
                finish_reason: finish,
                timings: Timings::new(&stats, self.tokens.len()),
                stats: is_full.then_some(&stats),
            };
            let mut out = std::io::stdout().lock();
            serde_json::to_writer(&mut out, &answer).map_err(std::io::Error::from)?;
            writeln!(out)?;
            out.flush()?;
        } else {
            self.out.end_line();
            self.out.flush()?;
        }
        if let Some(detail) = self.args.stats {
            note(&format!("{stats}, {}", resolve::circumstances(target)));
            if detail == StatsDetail::Full {
                note(details(&stats).trim_end());
            }
        }
        if finish == Some(Finish::Cancelled) { Err(Error::cancelled().into()) } else { Ok(()) }
    }
}
