//! A soak: random prompts, samplers, limits, cancellations and faults for a while, one real model a process.
//!
//! `ADED_SOAK_MINUTES=60` for the long form, `ADED_SOAK_SEED` for other requests. What must hold: no error that was not provoked, memory
//! that does not grow, sequence ids that hold what they should, and answers that are those of plain decoding.

use std::process::Command;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use aded::config::{Config, DraftConfig, DraftMode};
use aded::llama::{
    ContextParams, Kernels, Model, SamplerChain, SamplingParams, Target, kernels_enable, text::Detokenizer,
};
use aded::model::TargetModel;
use aded::noise::shape_noise;
use aded::representative::memory::{MemoryFile, Owner};
use aded::representative::store::Fingerprint;
use aded::sampling::RowSampler;
use aded::{CancelFlag, Error, Finish, Request, Session, Slot, Token};
use rand::{RngExt as _, SeedableRng as _};
use rand_pcg::Pcg32;

use super::faulty::{Fault, Faulty, When};
use super::real::{GEMMA3, SMOLLM2, load};
use super::soak_cases::{Case, Setup, case, pick, setup};

/// What anonymous memory may differ by between the first and the last third: contexts come and go, and the allocator keeps some of it.
const SLACK_KIB: u64 = 24 << 10;

/// Requests that are made in any case, however slow the machine: too few say nothing.
const LEAST_REQUESTS: u64 = 12;

/// Contexts in a third of the time from which on its memory is judged.
const LEAST_CONTEXTS: usize = 4;

/// Takes note of how close the two best logits of each row are.
struct Watching<'a> {
    chain: &'a mut SamplerChain,
    gaps: Vec<f32>,
}

impl RowSampler for Watching<'_> {
    fn sample(&mut self, logits: &[f32]) -> Result<Token, Error> {
        let (mut best, mut second) = (f32::NEG_INFINITY, f32::NEG_INFINITY);
        for &logit in logits {
            if logit > best {
                (best, second) = (logit, best);
            } else if logit > second {
                second = logit;
            }
        }
        self.gaps.push(best - second);
        self.chain.sample(logits)
    }

    fn is_greedy(&self) -> bool {
        self.chain.is_greedy()
    }
}

/// What was said, and how it ended.
struct Said {
    tokens: Vec<Token>,
    gaps: Vec<f32>,
    end: Result<Option<Finish>, Error>,
    n_accepted: u64,
}

fn say<T: TargetModel>(session: &mut Session<T>, model: &Arc<Model>, case: &Case) -> Result<Said, Error> {
    let mut chain = SamplerChain::new(model, &case.sampling)?;
    chain.accept_prompt(&case.prompt)?;
    let mut watching = Watching { chain: &mut chain, gaps: Vec::new() };
    let end_tokens = model.end_tokens();
    let request = Request { prompt: &case.prompt, n_max: case.n_max, end_tokens: &end_tokens };
    let mut generation = session.generate(&request, &mut watching)?;
    let mut detokenizer = Detokenizer::new(model.clone(), false);
    let (mut tokens, mut text, mut end) = (Vec::new(), String::new(), None);
    while let Some(token) = generation.next() {
        match token {
            Ok(token) => {
                tokens.push(token);
                detokenizer.push(token, &mut text)?;
                if case.stop.is_some_and(|stop| text.contains(stop)) {
                    generation.stop();
                    break;
                }
            }
            Err(error) => {
                end = Some(Err(error));
                break;
            }
        }
    }
    let end = end.unwrap_or(Ok(generation.finish()));
    let n_accepted = generation.stats().n_accepted;
    drop(generation);
    Ok(Said { tokens, gaps: watching.gaps, end, n_accepted })
}

/// Asserts that what was said is what plain decoding says, as far as it got. With noise only greedy answers are compared, and those may
/// part at a tie; false then.
fn compare(case: &Case, said: &Said, plain: &Said, noise: f32, what: &str) -> bool {
    let common = said.tokens.iter().zip(&plain.tokens).take_while(|(left, right)| left == right).count();
    if common == said.tokens.len() && (said.tokens.len() == plain.tokens.len() || !is_whole(said)) {
        return true;
    }
    let gap = plain.gaps.get(common).copied().unwrap_or(f32::INFINITY);
    assert!(noise > 0.0, "{what}: parts from plain decoding at token {common}, best logits {gap} apart");
    assert!(
        !is_greedy(case) || gap <= noise,
        "{what}: parts at token {common}, best logits {gap} apart, noise {noise}"
    );
    false
}

/// The answer ran to its own end.
fn is_whole(said: &Said) -> bool {
    matches!(said.end, Ok(finish) if finish != Some(Finish::Cancelled))
}

fn is_greedy(case: &Case) -> bool {
    case.sampling == SamplingParams { seed: case.sampling.seed, ..SamplingParams::greedy() }
}

/// Kibibytes of memory that no file stands for.
fn resident_kib() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"))?;
    line.trim().trim_end_matches(" kB").parse().ok()
}

/// What must be refused, whatever else goes on.
fn refuse(session: &mut Session<Faulty<Target>>, model: &Arc<Model>, which: u32) {
    let mut case = Case { prompt: vec![Token(1)], sampling: SamplingParams::greedy(), n_max: 8, stop: None };
    match which {
        0 => case.prompt.clear(),
        // llama.cpp rounds the length that was asked for up.
        1 => case.prompt = vec![Token(1); session.target().limits().n_ctx as usize],
        2 => case.prompt.push(Token(model.n_vocab())),
        3 => case.sampling.grammar = Some("root ::= (".to_owned()),
        4 => case.sampling.repeat_penalty = 0.0,
        _ => case.sampling.logit_bias = vec![(Token(0), f32::NAN)],
    }
    let error = say(session, model, &case).map(|_| ()).expect_err("it cannot be done");
    assert!(error.is_usage() && !error.to_string().contains('\n'), "{error}");
}

#[derive(Default)]
struct Tally {
    sessions: u64,
    requests: u64,
    tokens: u64,
    accepted: u64,
    cancelled: u64,
    faults: u64,
    refused: u64,
    compared: u64,
    compared_tokens: u64,
    ties: u64,
    ended_by_length: u64,
    ended_by_stop: u64,
    shifted: u64,
}

/// One soak of one model.
struct Soak {
    model: Arc<Model>,
    random: Pcg32,
    noise: f32,
    file: MemoryFile,
    tally: Tally,
}

impl Soak {
    fn is_over(&self, end: Instant) -> bool {
        Instant::now() >= end && self.tally.requests >= LEAST_REQUESTS
    }

    /// A context, some requests in it, and what was learnt kept.
    fn session(&mut self, end: Instant) {
        let mut setup = setup(&mut self.random, true);
        let target = Target::new(self.model.clone(), &setup.context).unwrap();
        let mut drafting = Session::new(Faulty::new(target), setup.config.clone()).unwrap();
        self.file.load(drafting.decoder_mut().representative_mut()).unwrap();
        let plain_config = DraftConfig { mode: DraftMode::Off, ..DraftConfig::default() };
        let plain_config = Config { draft: plain_config, representative: setup.config.representative.clone() };
        let plain = Target::new(self.model.clone(), &setup.context).unwrap();
        let mut plain = Session::new(plain, plain_config).unwrap();
        if setup.shift.is_some() && drafting.set_context_shift(setup.shift).is_err() {
            setup.shift = None;
        }
        plain.set_context_shift(setup.shift).unwrap();
        let flag = CancelFlag::new();
        drafting.target_mut().inner.set_cancel_flag(flag.clone());
        drafting.set_cancel_flag(flag.clone());
        let mut before = Vec::new();
        for _ in 0..self.random.random_range(3..12) {
            if self.is_over(end) {
                break;
            }
            before = self.request(&mut drafting, &mut plain, &setup, &flag, &before);
        }
        // Emptied, no id may hold anything.
        drafting.target_mut().truncate(Slot(0), 0).unwrap();
        drafting.target().inner.check_sequences().unwrap();
        self.file.save(drafting.decoder_mut().representative_mut()).unwrap();
        self.tally.sessions += 1;
    }

    /// One request; gives its text.
    fn request(
        &mut self,
        drafting: &mut Session<Faulty<Target>>,
        plain: &mut Session<Target>,
        setup: &Setup,
        flag: &CancelFlag,
        before: &[Token],
    ) -> Vec<Token> {
        if self.random.random_range(0..12) == 0 {
            refuse(drafting, &self.model, self.random.random_range(0..6));
            self.tally.refused += 1;
        }
        let case = case(&mut self.random, &self.model, setup, before);
        let what =
            format!("request {}: {:?}, {} tokens of prompt", self.tally.requests, case.sampling, case.prompt.len());
        let exact = self.noise > 0.0 && self.random.random_range(0..3) == 0;
        drafting.set_exact(exact.then_some(self.noise));
        drafting.target_mut().fault = None;
        let mut is_armed = false;
        if self.random.random_range(0..10) == 0 {
            let when = pick(&mut self.random, &[When::Before, When::After, When::Keep]);
            drafting.target_mut().arm(pick(&mut self.random, &Fault::ALL), when, self.random.random_range(0..8));
            is_armed = true;
        }
        let wait = (self.random.random_range(0..5) == 0).then(|| self.random.random_range(0..400_000));
        let raiser = wait.map(|wait| {
            let flag = flag.clone();
            thread::spawn(move || {
                thread::sleep(Duration::from_micros(wait));
                flag.cancel();
            })
        });
        let said = say(drafting, &self.model, &case).unwrap_or_else(|error| panic!("{what}: {error}"));
        if let Some(raiser) = raiser {
            raiser.join().unwrap();
            flag.reset();
        }
        let struck = is_armed && drafting.target().fault.is_none();
        drafting.target_mut().fault = None;
        self.tally.requests += 1;
        self.tally.tokens += said.tokens.len() as u64;
        self.tally.accepted += said.n_accepted;
        self.tally.faults += u64::from(struck);
        self.tally.shifted += drafting.sequence().stats.n_shifts;
        match &said.end {
            Ok(Some(Finish::Cancelled)) => {
                assert!(wait.is_some() || struck, "{what}: cancelled by nobody");
                self.tally.cancelled += 1;
            }
            Ok(Some(Finish::Length)) => self.tally.ended_by_length += 1,
            Ok(Some(Finish::Stop)) => self.tally.ended_by_stop += 1,
            Ok(finish) => panic!("{what}: ended by {finish:?}"),
            Err(error) => assert!(struck, "{what}: {error}"),
        }
        drafting.target().inner.check_sequences().unwrap_or_else(|error| panic!("{what}: {error}"));
        // Every other answer, those that were cut short among them, against plain decoding.
        if self.random.random_range(0..2) == 0 && (self.noise == 0.0 || is_greedy(&case)) {
            let expected = say(plain, &self.model, &case).unwrap_or_else(|error| panic!("{what}: {error}"));
            assert!(expected.end.is_ok(), "{what}: plain decoding fails: {:?}", expected.end);
            let is_same = compare(&case, &said, &expected, self.noise, &what);
            self.tally.compared += 1;
            self.tally.compared_tokens += said.tokens.len() as u64;
            self.tally.ties += u64::from(!is_same);
        }
        let mut text = case.prompt;
        text.extend(&said.tokens);
        text
    }
}

/// The soak itself, when [`soak`] runs this test in a process of its own: memory is that of one model and nothing else.
#[test]
fn soak_the_model_of_the_environment() {
    let Ok(name) = std::env::var("ADED_TEST_SOAK") else { return };
    let number = |name: &str, default: f64| std::env::var(name).map_or(default, |text| text.parse().unwrap());
    let minutes = number("ADED_SOAK_MINUTES", 0.4);
    let seed = number("ADED_SOAK_SEED", 1.0) as u64;
    let isa = kernels_enable(&Kernels::default());
    let model = load(&name);
    let params = ContextParams { n_ctx: 512, n_threads: 1, n_threads_batch: 1, ..ContextParams::default() };
    let sample = model.tokenize(include_str!("../../README.md"), true, false).unwrap();
    let noise = shape_noise(&mut Target::new(model.clone(), &params).unwrap(), &sample[..60]).unwrap();
    println!("{name}: kernels {isa:?}, noise between shapes of batches {noise}, seed {seed}");
    let folder = tempfile::tempdir().unwrap();
    let owner = Owner {
        tokenizer: Fingerprint(model.tokenizer_fingerprint()),
        model: model.metadata_fingerprint(),
        n_vocab: model.n_vocab(),
    };
    let file = MemoryFile::new(folder.path().join("memory.aded"), owner, 1 << 20, false);
    let mut soak = Soak { model, random: Pcg32::seed_from_u64(seed), noise, file, tally: Tally::default() };
    let begun = Instant::now();
    let end = begun + Duration::from_secs_f64(minutes * 60.0);
    let mut memory = Vec::new();
    let mut told = begun;
    while !soak.is_over(end) {
        soak.session(end);
        memory.extend(resident_kib());
        if told.elapsed() > Duration::from_secs(120) {
            told = Instant::now();
            let Tally { requests, tokens, compared, ties, .. } = soak.tally;
            let now = memory.last();
            println!(
                "{:.0} min: {requests} requests, {tokens} tokens, {compared} compared, {ties} ties, {now:?} KiB",
                begun.elapsed().as_secs_f64() / 60.0
            );
        }
    }
    let t = &soak.tally;
    println!(
        "{name}, {:.1} min: {} requests in {} contexts, {} tokens ({} accepted from drafts); {} ended by length, {} by a stop, {} cancelled, \
         {} faults, {} shifts, {} refused; {} answers ({} tokens) compared with plain decoding, {} parted at a tie",
        begun.elapsed().as_secs_f64() / 60.0,
        t.requests,
        t.sessions,
        t.tokens,
        t.accepted,
        t.ended_by_length,
        t.ended_by_stop,
        t.cancelled,
        t.faults,
        t.shifted,
        t.refused,
        t.compared,
        t.compared_tokens,
        t.ties
    );
    assert!(t.requests > 0 && t.accepted > 0 && t.compared > 0, "the soak was too short to say anything");
    // The allocator keeps what the largest context so far has given back: a few contexts say nothing of growth.
    let third = memory.len() / 3;
    if third >= LEAST_CONTEXTS {
        let most = |part: &[u64]| part.iter().copied().max().unwrap_or(0);
        let (first, last) = (most(&memory[..third]), most(&memory[memory.len() - third..]));
        println!("at most {first} KiB of anonymous memory between contexts in the first third, {last} KiB in the last");
        assert!(last < first + SLACK_KIB, "memory grew from {first} to {last} KiB");
    }
}

fn soak(name: &str) {
    let status = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "soak::soak_the_model_of_the_environment", "--nocapture"])
        .env("ADED_TEST_SOAK", name)
        .status()
        .unwrap();
    assert!(status.success(), "{name}: {status}");
}

#[test]
fn a_soak_of_the_default_model() {
    soak(SMOLLM2);
}

#[test]
fn a_soak_of_a_model_with_a_sliding_window() {
    soak(GEMMA3);
}
