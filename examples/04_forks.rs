//! Counts where greedy answers with drafts part from those without, on prompts of a JSONL file (`{"turns": ["..."]}` a line):
//!
//! ```sh
//! cargo run --release --example 04_forks -- MODEL PROMPTS.jsonl [PROMPTS [TOKENS [off]]]
//! ```
//!
//! Every round drafts a tree of seven nodes, whether that pays or not. `off` leaves llama.cpp its own kernels. The last table says what
//! moves logits at all: a row of a batch against the same row computed alone.

use std::collections::BTreeMap;
use std::error::Error;
use std::time::Instant;
use std::{env, fs};

use aded::batch::DraftBatch;
use aded::draft::DraftTree;
use aded::llama::text::ChatMessage;
use aded::llama::{ContextParams, Kernels, Model, ModelParams, Target, kernels_enable};
use aded::model::TargetModel;
use aded::noise::shape_noise;
use aded::sampling::{Greedy, RowSampler};
use aded::{Config, DraftMode, Pos, Request, Session, Slot, Token};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Greedy, with the distance of the two best logits of each row.
#[derive(Default)]
struct Watching {
    gaps: Vec<f32>,
}

impl RowSampler for Watching {
    fn sample(&mut self, logits: &[f32]) -> std::result::Result<Token, aded::Error> {
        let (mut best, mut second) = (f32::NEG_INFINITY, f32::NEG_INFINITY);
        for &logit in logits {
            if logit > best {
                (best, second) = (logit, best);
            } else if logit > second {
                second = logit;
            }
        }
        self.gaps.push(best - second);
        Greedy.sample(logits)
    }

    fn is_greedy(&self) -> bool {
        // Every row is shown to the sampler.
        false
    }
}

fn params(n_ubatch: u32) -> ContextParams {
    ContextParams { n_ctx: 2048, n_ubatch, ..ContextParams::default() }
}

fn session(model: &std::sync::Arc<Model>, n_ubatch: u32, mode: DraftMode) -> Result<Session<Target>> {
    let mut config = Config::default();
    config.draft.mode = mode;
    config.draft.budget = (mode == DraftMode::On).then_some(7);
    Ok(Session::new(Target::new(model.clone(), &params(n_ubatch))?, config)?)
}

/// What one way of decoding did differently from plain decoding.
#[derive(Default)]
struct Tally {
    n_answers: usize,
    n_forked: usize,
    /// Tokens up to the fork or the end.
    n_compared: usize,
    gaps: Vec<f32>,
    n_tokens: u64,
    n_rounds: u64,
    n_rechecked: u64,
    seconds: f64,
}

fn main() -> Result<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [path, file, ..] = arguments.as_slice() else {
        return Err("usage: 04_forks MODEL PROMPTS.jsonl [PROMPTS [TOKENS [off]]]".into());
    };
    let number = |index: usize, default| arguments.get(index).map_or(Ok(default), |text| text.parse::<usize>());
    let (n_prompts, n_tokens) = (number(2, 40)?, number(3, 128)?);
    let kernels = if arguments.get(4).is_some_and(|text| text == "off") { Kernels::off() } else { Kernels::default() };
    let isa = kernels_enable(&kernels);
    let model = Model::load(path, &ModelParams::default())?;
    println!("{path}: {}, kernels: {}", model.description(), isa.map_or("llama.cpp's", |isa| isa.name()));

    let prompts = prompts(&model, file, n_prompts)?;
    let mut target = Target::new(model.clone(), &params(512))?;
    let noise = shape_noise(&mut target, &prompts[0][..prompts[0].len().min(60)])?;
    drop(target);
    println!("noise between shapes of batches, with its margin: {noise}\n");
    let ways = ["plain, n_ubatch 64", "drafts", "drafts, exact"];
    let mut sessions = BTreeMap::from([
        (ways[0], session(&model, 64, DraftMode::Off)?),
        (ways[1], session(&model, 512, DraftMode::On)?),
        (ways[2], session(&model, 512, DraftMode::On)?),
    ]);
    sessions.get_mut(ways[2]).ok_or("no such session")?.set_exact(Some(noise));
    let mut plain = session(&model, 512, DraftMode::Off)?;
    let mut tallies: BTreeMap<&str, Tally> = BTreeMap::new();
    for prompt in &prompts {
        let request = Request { prompt, n_max: n_tokens, end_tokens: &model.end_tokens() };
        let mut watching = Watching::default();
        let expected = plain.generate(&request, &mut watching)?.collect::<std::result::Result<Vec<_>, _>>()?;
        for (way, session) in &mut sessions {
            let tally = tallies.entry(way).or_default();
            let begun = Instant::now();
            let mut greedy = Greedy;
            let mut generation = session.generate(&request, &mut greedy)?;
            let output = generation.by_ref().collect::<std::result::Result<Vec<_>, _>>()?;
            tally.seconds += begun.elapsed().as_secs_f64();
            tally.n_tokens += generation.stats().n_tokens;
            tally.n_rounds += generation.stats().n_rounds;
            tally.n_rechecked += generation.stats().n_rechecked;
            tally.n_answers += 1;
            let fork = (0..expected.len().max(output.len())).find(|&at| expected.get(at) != output.get(at));
            tally.n_compared += fork.unwrap_or(expected.len());
            if let Some(at) = fork {
                tally.n_forked += 1;
                tally.gaps.extend(watching.gaps.get(at));
            }
        }
    }
    println!(
        "| way | answers | forked | forks per 10,000 tokens | gaps there | tokens per round | computed again | s |"
    );
    println!("| --- | --- | --- | --- | --- | --- | --- | --- |");
    for (way, tally) in &tallies {
        println!(
            "| {way} | {} | {} | {:.1} | {} | {:.2} | {} ({:.2} %) | {:.1} |",
            tally.n_answers,
            tally.n_forked,
            1e4 * tally.n_forked as f64 / tally.n_compared as f64,
            tally.gaps.iter().map(|gap| format!("{gap:.4}")).collect::<Vec<_>>().join(" "),
            tally.n_tokens as f64 / tally.n_rounds as f64,
            tally.n_rechecked,
            100.0 * tally.n_rechecked as f64 / tally.n_tokens as f64,
            tally.seconds,
        );
    }
    drop(sessions);
    drop(plain);

    println!("\n| rows that share a call | largest move of a logit |");
    println!("| --- | --- |");
    let text: Vec<Token> = prompts.iter().flatten().copied().take(700).collect();
    for (name, shape) in [
        ("chains, all accepted", Shape::Chain { wrong_tail: 0 }),
        ("chains, the last two nodes rejected", Shape::Chain { wrong_tail: 2 }),
        ("trees, a wrong branch before each node", Shape::Tree),
    ] {
        let mut alone = Target::new(model.clone(), &params(512))?;
        let mut shared = Target::new(model.clone(), &params(512))?;
        println!("| {name} | {:e} |", move_by(&mut alone, &mut shared, &text, shape)?);
    }
    Ok(())
}

fn prompts(model: &Model, file: &str, n: usize) -> Result<Vec<Vec<Token>>> {
    let text = fs::read_to_string(file)?;
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    let step = (lines.len() / n.max(1)).max(1);
    let mut prompts = Vec::new();
    for line in lines.iter().step_by(step).take(n) {
        let value: serde_json::Value = serde_json::from_str(line)?;
        let question = value["turns"][0].as_str().ok_or("a line without turns")?;
        let tokens = match model.chat_template() {
            Some(_) => model.tokenize_chat(&model.chat_prompt(&[ChatMessage::new("user", question)], true)?)?,
            None => model.tokenize_prompt(question.as_bytes())?,
        };
        if tokens.len() < 1800 {
            prompts.push(tokens);
        }
    }
    if prompts.is_empty() { Err("no prompts".into()) } else { Ok(prompts) }
}

#[derive(Clone, Copy)]
enum Shape {
    Chain { wrong_tail: usize },
    Tree,
}

/// Decodes a text one token a call, and in drafts of one to seven of its tokens; gives the largest distance of two logits of one position.
fn move_by(alone: &mut Target, shared: &mut Target, text: &[Token], shape: Shape) -> Result<f32> {
    let n_vocab = alone.limits().n_vocab;
    let wrong = |token: Token| Token((token.0 + 1) % n_vocab);
    let (mut pos, mut largest) = (0, 0.0f32);
    for size in (1..=7).cycle() {
        if pos + size + 1 >= text.len() {
            return Ok(largest);
        }
        let mut tree = DraftTree::new();
        let mut at = None;
        for &token in &text[pos + 1..=pos + size] {
            if matches!(shape, Shape::Tree) {
                tree.add(at, wrong(token), 0.5);
            }
            at = Some(tree.add(at, token, 0.5));
        }
        if let Shape::Chain { wrong_tail } = shape {
            for _ in 0..wrong_tail {
                at = Some(tree.add(at, wrong(text[pos]), 0.5));
            }
        }
        let mut batch = DraftBatch::new();
        let mut row = batch.push_draft(Slot(0), Pos(pos as u32), text[pos], &tree);
        shared.decode(&batch)?;
        for depth in 0..=size {
            if depth > 0 {
                row = batch.child(row, text[pos + depth]).ok_or("a node is missing")?;
            }
            let mut single = DraftBatch::new();
            let root = single.push_draft(Slot(0), Pos((pos + depth) as u32), text[pos + depth], &DraftTree::new());
            alone.decode(&single)?;
            let pairs = alone.logits(root).iter().zip(shared.logits(row));
            largest = pairs.map(|(left, right)| (left - right).abs()).fold(largest, f32::max);
            alone.keep(Slot(0), root)?;
        }
        shared.keep(Slot(0), row)?;
        pos += size + 1;
    }
    Ok(largest)
}
