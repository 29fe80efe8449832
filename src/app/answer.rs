//! One answer: rounds, characters, stop strings, and text as it is confirmed.

use std::sync::Arc;

use aded::llama::text::Detokenizer;
use aded::llama::{Model, Target};
use aded::sampling::RowSampler;
use aded::{Finish, Request, Session, Stats, Token};
use anyhow::Result;

use super::flags::{OutputArgs, TemplateArgs};
use super::output::{StopFilter, TextWriter};

/// How an answer is made and where its text goes.
pub(crate) struct Answering<'a> {
    /// Flags of the answer. With `--json` nothing is written while it comes.
    pub(crate) args: &'a OutputArgs,
    /// For the stop strings.
    pub(crate) template: &'a TemplateArgs,
    /// Tokens after which the model's answer ends.
    pub(crate) end_tokens: &'a [Token],
}

/// What was said.
#[derive(Debug)]
pub(crate) struct Answer {
    /// Without control tokens, and without a stop string.
    pub(crate) text: String,
    pub(crate) tokens: Vec<Token>,
    pub(crate) finish: Option<Finish>,
    pub(crate) stats: Stats,
}

impl Answering<'_> {
    /// Answers a prompt; what is confirmed goes to `out` at once, but for the end of the last line.
    ///
    /// # Errors
    /// The session's, or if standard output takes no more.
    pub(crate) fn answer(
        &self,
        model: &Arc<Model>,
        session: &mut Session<Target>,
        prompt: &[Token],
        sampler: &mut dyn RowSampler,
        out: &mut TextWriter,
    ) -> Result<Answer> {
        let end_tokens = if self.args.ignore_eos { &[] } else { self.end_tokens };
        let n_max = usize::try_from(self.args.predict).unwrap_or(usize::MAX);
        let request = Request { prompt, n_max, end_tokens };
        let mut stops = StopFilter::new(self.args.stop.iter().map(|stop| self.template.unescape(stop)));
        let mut detokenizer = Detokenizer::new(model.clone(), false);
        let (mut text, mut tokens) = (String::new(), Vec::new());
        let mut generation = session.generate(&request, sampler)?;
        let (mut characters, mut piece) = (String::new(), String::new());
        let mut is_stopped = false;
        while let Some(emitted) = generation.advance()? {
            // The last token of a round is the model's own; those before it were guessed.
            for (index, &token) in emitted.iter().enumerate() {
                tokens.push(token);
                characters.clear();
                piece.clear();
                detokenizer.push(token, &mut characters)?;
                is_stopped = stops.push(&characters, &mut piece);
                text.push_str(&piece);
                if !self.args.json {
                    out.push(&piece, index + 1 < emitted.len());
                }
                if is_stopped {
                    break;
                }
            }
            if is_stopped {
                generation.stop();
            }
            out.flush()?;
        }
        let (finish, stats) = (generation.finish(), generation.stats().clone());
        if !is_stopped {
            piece.clear();
            characters.clear();
            detokenizer.flush(&mut characters);
            if !stops.push(&characters, &mut piece) {
                stops.finish(&mut piece);
            }
            text.push_str(&piece);
            if !self.args.json {
                out.push(&piece, false);
            }
        }
        out.flush()?;
        Ok(Answer { text, tokens, finish, stats })
    }
}
