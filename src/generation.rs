//! The public face: a prompt goes in, confirmed tokens come out, round by round.

use crate::cancel::CancelFlag;
use crate::config::Config;
use crate::error::Error;
use crate::model::TargetModel;
use crate::round::{Decoder, Turn};
use crate::sampling::RowSampler;
use crate::sequence::{Finish, Request, Sequence};
use crate::stats::Stats;
use crate::token::{Slot, Token};

/// A target model, what was learnt about it, and one sequence (slot 0). Prompts that begin like the last one reuse its cells.
#[derive(Debug)]
pub struct Session<T: TargetModel> {
    target: T,
    decoder: Decoder,
    sequence: Sequence,
    cancel: CancelFlag,
    /// The target's slot may hold something else than `sequence` says.
    is_unclean: bool,
    /// A generation runs.
    is_open: bool,
}

impl<T: TargetModel> Session<T> {
    /// A session that has learnt nothing yet.
    ///
    /// # Errors
    /// A usage error if the configuration is out of range.
    pub fn new(target: T, config: Config) -> Result<Self, Error> {
        let sequence = Sequence::new(Slot(0), target.limits().n_ctx);
        let decoder = Decoder::new(config)?;
        Ok(Self { target, decoder, sequence, cancel: CancelFlag::new(), is_unclean: true, is_open: false })
    }

    /// Stops the running generation within one round. Clones of the flag work from any thread; it stays raised until it is reset.
    pub fn set_cancel_flag(&mut self, cancel: CancelFlag) {
        self.cancel = cancel;
    }

    /// What happens at the end of the context: with `Some(n)` the first `n` tokens of the prompt stay, half of the others are forgotten,
    /// and the generation goes on; with `None`, the default, it ends there.
    ///
    /// # Errors
    /// A usage error if the target cannot forget what lies between.
    pub fn set_context_shift(&mut self, n_keep: Option<usize>) -> Result<(), Error> {
        if n_keep.is_some() && !self.target.can_shift() {
            return Err(Error::usage("the memory of this model cannot be shifted; do without the context shift"));
        }
        self.sequence.set_context_shift(n_keep);
        Ok(())
    }

    /// Exact greedy decoding, as [`Sequence::set_exact`].
    pub fn set_exact(&mut self, noise: Option<f32>) {
        self.sequence.set_exact(noise);
    }

    /// The target.
    pub fn target(&self) -> &T {
        &self.target
    }

    /// The target, to change a setting such as its number of threads. What its slots hold must stay as it is.
    pub fn target_mut(&mut self) -> &mut T {
        &mut self.target
    }

    /// What outlives generations: the learnt tables and the measured costs.
    pub fn decoder(&self) -> &Decoder {
        &self.decoder
    }

    /// What outlives generations, to add a corpus or to forget.
    pub fn decoder_mut(&mut self) -> &mut Decoder {
        &mut self.decoder
    }

    /// Drops the sequence and its cells: the next prompt is read and learnt from its first token on, whatever came before.
    pub fn reset(&mut self) {
        self.is_unclean = true;
    }

    /// Starts a generation. The prompt is read by its first rounds.
    ///
    /// # Errors
    /// A usage error if the prompt is empty or does not fit into the context; the target's if its memory cannot be cleared.
    pub fn generate<'a>(
        &'a mut self,
        request: &Request<'_>,
        sampler: &'a mut dyn RowSampler,
    ) -> Result<Generation<'a, T>, Error> {
        self.begin(request)?;
        Ok(Generation { session: self, sampler, n_returned: 0 })
    }

    /// Starts a generation that [`advance`](Self::advance) runs, and ends an earlier one, for callers that cannot hold a borrow: the C
    /// interface, threads.
    /// [`generate`](Self::generate) is the same with a handle that ends the generation when it is dropped. A request that is refused
    /// changes nothing: an earlier generation goes on.
    ///
    /// # Errors
    /// As [`generate`](Self::generate).
    pub fn begin(&mut self, request: &Request<'_>) -> Result<(), Error> {
        let limits = self.target.limits();
        if request.prompt.is_empty() {
            return Err(Error::usage("the prompt is empty; give at least one token"));
        }
        if request.prompt.len() >= limits.n_ctx as usize {
            return Err(Error::usage(format!(
                "the prompt has {} tokens, and the context holds {}; shorten it or ask for a larger context",
                request.prompt.len(),
                limits.n_ctx
            )));
        }
        if let Some(token) = request.prompt.iter().find(|token| token.0 >= limits.n_vocab) {
            return Err(Error::usage(format!(
                "the prompt holds token {}, and the vocabulary ends at {}; use the tokenizer of this model",
                token.0, limits.n_vocab
            )));
        }
        self.end();
        let common = if self.is_unclean { 0 } else { self.sequence.n_common(request.prompt) };
        let mut reused = common.min(request.prompt.len() - 1);
        if self.target.truncate(Slot(0), reused as u32).is_err() {
            reused = 0;
            self.target.truncate(Slot(0), 0)?;
        }
        self.is_unclean = false;
        self.decoder.begin(&mut self.sequence, request, reused);
        self.is_open = true;
        Ok(())
    }

    /// Runs rounds until tokens are confirmed: one or more of them, or `None` once the generation has ended. All calls of a generation
    /// must be given the same sampler.
    ///
    /// # Errors
    /// The target's or the sampler's; the generation has then ended.
    pub fn advance(&mut self, sampler: &mut dyn RowSampler) -> Result<Option<&[Token]>, Error> {
        loop {
            if !self.is_open || self.sequence.finish.is_some() {
                self.end();
                return Ok(None);
            }
            if self.cancel.is_cancelled() {
                self.sequence.finish = Some(Finish::Cancelled);
                continue;
            }
            let turn = Turn { sequence: &mut self.sequence, sampler: &mut *sampler };
            match self.decoder.round(&mut self.target, &mut [turn]) {
                Ok(()) if self.sequence.emitted().is_empty() => {}
                Ok(()) => return Ok(Some(self.sequence.emitted())),
                Err(error) if error.is_cancelled() => self.sequence.finish = Some(Finish::Cancelled),
                Err(error) => {
                    self.is_unclean = true;
                    self.end();
                    return Err(error);
                }
            }
        }
    }

    /// Ends the generation, as if the model had: used when a stop string was found.
    pub fn stop(&mut self) {
        self.sequence.finish.get_or_insert(Finish::Stop);
    }

    /// The generation is over, early or not; what it said can be copied from later. Nothing happens if none runs.
    pub fn end(&mut self) {
        if std::mem::take(&mut self.is_open) {
            self.decoder.end(&self.sequence);
        }
    }

    /// The sequence of the last generation: its tokens, statistics and why it ended.
    pub fn sequence(&self) -> &Sequence {
        &self.sequence
    }

    /// Runs a whole generation and hands each round's tokens to `on_tokens` as they are confirmed; it stops where that returns false.
    ///
    /// # Errors
    /// As [`generate`](Self::generate) and [`advance`](Self::advance).
    pub fn run(
        &mut self,
        request: &Request<'_>,
        sampler: &mut dyn RowSampler,
        mut on_tokens: impl FnMut(&[Token]) -> bool,
    ) -> Result<Finish, Error> {
        self.begin(request)?;
        while let Some(tokens) = self.advance(sampler)? {
            if !on_tokens(tokens) {
                self.stop();
            }
        }
        Ok(self.sequence.finish().unwrap_or(Finish::Stop))
    }
}

/// A running generation. Dropping it early is fine; what it said is learnt all the same.
pub struct Generation<'a, T: TargetModel> {
    session: &'a mut Session<T>,
    sampler: &'a mut dyn RowSampler,
    /// Tokens of the last round already handed out by the iterator.
    n_returned: usize,
}

impl<T: TargetModel> Generation<'_, T> {
    /// Runs rounds until tokens are confirmed: one or more of them, or `None` once the generation has ended.
    ///
    /// # Errors
    /// The target's or the sampler's; the generation has then ended.
    pub fn advance(&mut self) -> Result<Option<&[Token]>, Error> {
        let tokens = self.session.advance(self.sampler)?;
        if tokens.is_some() {
            self.n_returned = 0;
        }
        Ok(tokens)
    }

    /// Why the generation ended, once it has.
    pub fn finish(&self) -> Option<Finish> {
        self.session.sequence.finish()
    }

    /// Ends the generation, as if the model had: used when a stop string was found.
    pub fn stop(&mut self) {
        self.session.stop();
    }

    /// What happened so far.
    pub fn stats(&self) -> &Stats {
        &self.session.sequence.stats
    }

    /// The sequence, for a look at the last round's draft.
    pub fn sequence(&self) -> &Sequence {
        &self.session.sequence
    }

    /// What outlives the generation.
    pub fn decoder(&self) -> &Decoder {
        &self.session.decoder
    }
}

impl<T: TargetModel> Iterator for Generation<'_, T> {
    type Item = Result<Token, Error>;

    /// The next confirmed token.
    fn next(&mut self) -> Option<Self::Item> {
        if self.n_returned >= self.session.sequence.emitted().len() {
            match self.advance() {
                Ok(Some(_)) => {}
                Ok(None) => return None,
                Err(error) => return Some(Err(error)),
            }
        }
        let token = self.session.sequence.emitted().get(self.n_returned).copied();
        self.n_returned += 1;
        token.map(Ok)
    }
}

impl<T: TargetModel> Drop for Generation<'_, T> {
    fn drop(&mut self) {
        self.session.end();
    }
}
