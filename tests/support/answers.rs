//! Answers of a real session, with drafts and without.

use std::sync::Arc;

use aded::config::{Config, DraftConfig, DraftMode};
use aded::llama::{ContextParams, Model, SamplerChain, SamplingParams, Target};
use aded::{Request, Session, Token};

/// A session that drafts trees of 7 nodes with [`DraftMode::On`].
pub fn session(model: &Arc<Model>, params: &ContextParams, mode: DraftMode) -> Session<Target> {
    let budget = (mode == DraftMode::On).then_some(7);
    let draft = DraftConfig { mode, budget, ..DraftConfig::default() };
    Session::new(Target::new(model.clone(), params).unwrap(), Config { draft, ..Config::default() }).unwrap()
}

/// The `n` tokens behind a prompt, and how many of them were drafted.
pub fn answer(session: &mut Session<Target>, params: &SamplingParams, prompt: &[Token], n: usize) -> (Vec<Token>, u64) {
    let mut sampler = SamplerChain::new(&session.target().model().clone(), params).unwrap();
    sampler.accept_prompt(prompt).unwrap();
    let request = Request { prompt, n_max: n, end_tokens: &[] };
    let mut generation = session.generate(&request, &mut sampler).unwrap();
    let tokens = generation.by_ref().map(Result::unwrap).collect();
    (tokens, generation.stats().n_accepted)
}
