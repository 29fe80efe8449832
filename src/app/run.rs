//! `aded run`: answers one prompt.

use aded::llama::Target;
use aded::model::TargetModel as _;
use aded::{Error, Finish, Session};
use anyhow::Result;

use super::answer::{Answer, Answering};
use super::flags::{RunArgs, StatsDetail};
use super::memory::Memory;
use super::output::{AnswerObject, TextWriter, details, has_colours, note, speed_up, statistics};
use super::prompt::Prompt;
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
    let params = resolve::context_params(&args.context, &args.spec, &model)?;
    let mut session = resolve::session(&model, &params, &args.context, &args.spec, &cancel)?;
    let mut sampler =
        resolve::sampler(&args.sampling, &model, session.target().limits().n_ctx, &tokens, args.output.ignore_eos)?;
    let end_tokens = model.end_tokens();
    let answering = Answering { args: &args.output, template: &args.prompt.template, end_tokens: &end_tokens };
    let mut out = TextWriter::new(args.output.show_draft && has_colours(args.log.color));
    let mut memory = Memory::open(&args.memory, &model, (&params, &args.model, args.kernels), session.decoder_mut())?;
    let answer = answering.answer(&model, &mut session, &tokens, &mut sampler, &mut out);
    let result = answer.and_then(|answer| finish(args, &answer, &session, &mut out));
    // After the last word: nobody waits for it.
    memory.close(session.decoder_mut());
    result
}

/// What is printed when the answer is there.
fn finish(args: &RunArgs, answer: &Answer, session: &Session<Target>, out: &mut TextWriter) -> Result<()> {
    let speed_up = speed_up(&answer.stats, session.decoder().cost());
    if args.output.json {
        AnswerObject::new(answer, speed_up, args.output.stats == Some(StatsDetail::Full)).write()?;
    } else {
        out.end_line();
        out.flush()?;
    }
    if let Some(detail) = args.output.stats {
        let manner = resolve::manner(session.target());
        note(&format!("{}, {manner}", statistics(&answer.stats, speed_up)));
        if detail == StatsDetail::Full {
            note(details(&answer.stats).trim_end());
        }
    }
    if answer.finish == Some(Finish::Cancelled) { Err(Error::cancelled().into()) } else { Ok(()) }
}
