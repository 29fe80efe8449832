//! What the soak asks for: random prompts, chains of samplers, limits and contexts.

use aded::Token;
use aded::config::{Config, DraftConfig, DraftMode, RepresentativeConfig, SearchKind};
use aded::llama::text::ChatMessage;
use aded::llama::{ContextParams, Model, SamplingParams};
use rand::RngExt as _;
use rand_pcg::Pcg32;

/// Texts that prompts are cut from.
const TEXTS: [&str; 5] = [
    include_str!("../../README.md"),
    include_str!("../../docs/faults.md"),
    include_str!("../../docs/models.md"),
    include_str!("../../src/round.rs"),
    include_str!("../../src/leaf_ids/mod.rs"),
];

const QUESTIONS: [&str; 8] = [
    "Name # colours.",
    "Count from # to 40.",
    "Write a short poem about rain and the number #.",
    "What is the capital of France? Say it # times.",
    "Repeat this list # times: apple, pear, plum.",
    "Write a Python function that multiplies by #.",
    "Explain what a tree is in # sentences.",
    "List the days of the week as JSON, with the number #.",
];

const GRAMMARS: [&str; 4] = [
    "root ::= [a-zA-Z ,.]+",
    "root ::= line+\nline ::= \"- \" [a-z ]+ \"\\n\"",
    "root ::= \"yes\" | \"no\" | \"perhaps\"",
    "root ::= \"{\" pair (\",\" pair)* \"}\"\npair ::= \"\\\"\" [a-z]+ \"\\\":\" [0-9]+",
];

const STOPS: [&str; 6] = [".", "\n\n", "the", " of a", "ab", "```"];

/// One thing to generate.
pub struct Case {
    pub prompt: Vec<Token>,
    pub sampling: SamplingParams,
    pub n_max: usize,
    /// The answer ends before this text.
    pub stop: Option<&'static str>,
}

/// A context, and what drafts in it.
pub struct Setup {
    pub context: ContextParams,
    pub config: Config,
    pub shift: Option<usize>,
}

pub fn pick<T: Copy>(random: &mut Pcg32, choices: &[T]) -> T {
    choices[random.random_range(0..choices.len())]
}

fn chance(random: &mut Pcg32, one_in: u32) -> bool {
    random.random_range(0..one_in) == 0
}

/// Small contexts and batches, so that their ends are met often. Tables are small as well: they are full soon, and grow no more.
pub fn setup(random: &mut Pcg32, can_shift: bool) -> Setup {
    let n_ubatch = pick(random, &[64, 96, 128]);
    let context = ContextParams {
        n_ctx: pick(random, &[256, 320, 512]),
        n_batch: n_ubatch * pick(random, &[1, 2]),
        n_ubatch,
        n_threads: 1,
        n_threads_batch: 1,
        max_leaves: pick(random, &[1, 3, 8, 16]),
        max_logits_rows: pick(random, &[8, 32, 64]),
        swa_full: !chance(random, 4),
        ..ContextParams::default()
    };
    let draft = DraftConfig {
        mode: pick(random, &[DraftMode::On, DraftMode::On, DraftMode::Auto]),
        search: pick(random, &[SearchKind::BestFirst, SearchKind::BestFirst, SearchKind::Mcts, SearchKind::Reference]),
        budget: pick(random, &[None, Some(3), Some(7), Some(31)]),
        ..DraftConfig::default()
    };
    let representative = RepresentativeConfig {
        overlay_contexts: 4096,
        recall_contexts: 4096,
        log_tokens: 8192,
        ..RepresentativeConfig::default()
    };
    let shift = (can_shift && context.swa_full && chance(random, 3)).then(|| random.random_range(0..64));
    Setup { context, config: Config { draft, representative }, shift }
}

/// A chain of stages, each switched on by chance.
fn sampling(random: &mut Pcg32, n_vocab: u32) -> SamplingParams {
    let mut params = SamplingParams { seed: random.random_range(0..u32::MAX), ..SamplingParams::default() };
    if chance(random, 3) {
        return SamplingParams { temperature: 0.0, ..params };
    }
    params.temperature = pick(random, &[0.0, 0.3, 0.8, 1.0, 1.7]);
    params.top_k = pick(random, &[0, 1, 5, 40, 40, 200]);
    params.top_p = pick(random, &[0.5, 0.95, 1.0]);
    params.min_p = pick(random, &[0.0, 0.05, 0.2]);
    if chance(random, 5) {
        params.dynatemp_range = 0.4;
    }
    if chance(random, 5) {
        params.typical_p = 0.7;
    }
    if chance(random, 6) {
        params.top_n_sigma = 1.5;
    }
    if chance(random, 5) {
        params.xtc_probability = 0.5;
    }
    if chance(random, 3) {
        params.repeat_penalty = pick(random, &[1.1, 1.5]);
        params.presence_penalty = pick(random, &[0.0, 0.5]);
        params.frequency_penalty = pick(random, &[0.0, 0.3]);
        params.repeat_last_n = pick(random, &[16, 64, 512]);
    }
    if chance(random, 5) {
        params.dry_multiplier = 0.8;
    }
    if chance(random, 8) {
        params.mirostat = pick(random, &[1, 2]);
    }
    if chance(random, 6) {
        let bias = pick(random, &[2.0, -5.0, f32::NEG_INFINITY]);
        params.logit_bias.extend((0..8).map(|_| (Token(random.random_range(0..n_vocab)), bias)));
    }
    if chance(random, 6) {
        params.grammar = Some(pick(random, &GRAMMARS).to_owned());
    }
    params
}

/// A piece of a text, cut anywhere between two characters.
fn piece(random: &mut Pcg32, most: usize) -> String {
    let text = pick(random, &TEXTS);
    let length = random.random_range(4..most);
    let begin = random.random_range(0..text.len() - most);
    let cut = |mut at: usize| {
        while !text.is_char_boundary(at) {
            at += 1;
        }
        at
    };
    text[cut(begin)..cut(begin + length)].to_owned()
}

fn prompt(random: &mut Pcg32, model: &Model, before: &[Token]) -> Vec<Token> {
    let plain = |text: &str| model.tokenize(text, true, false).expect("texts are short");
    match random.random_range(0..8) {
        0 | 1 => {
            let number = random.random_range(2..12).to_string();
            let question = pick(random, &QUESTIONS).replace('#', &number);
            match model.chat_prompt(&[ChatMessage::new("user", &question)], true) {
                Ok(chat) => model.tokenize_chat(&chat).expect("texts are short"),
                Err(_) => plain(&format!("Question: {question}\nAnswer:")),
            }
        }
        2 | 3 => plain(&piece(random, 1200)),
        // A next turn: what was said before, and something new.
        4 | 5 => {
            let mut tokens = before.to_vec();
            tokens.extend(model.tokenize(&piece(random, 80), false, false).expect("texts are short"));
            tokens
        }
        6 => plain(&format!("{} ", pick(random, &["la", "1 2 3", "yes no", "=-="])).repeat(random.random_range(1..60))),
        // Nonsense.
        _ => (0..random.random_range(1..150)).map(|_| Token(random.random_range(0..model.n_vocab()))).collect(),
    }
}

/// A request that fits into the context. `before` is the text of the last one.
pub fn case(random: &mut Pcg32, model: &Model, setup: &Setup, before: &[Token]) -> Case {
    let mut prompt = prompt(random, model, before);
    if prompt.is_empty() {
        prompt.push(Token(1));
    }
    let (n_ctx, n_batch) = (setup.context.n_ctx as usize, setup.context.n_batch as usize);
    if chance(random, 4) {
        // Just under, at and over what one call takes, or the context.
        let length = pick(random, &[n_batch - 1, n_batch, n_batch + 1, n_ctx - 1, n_ctx - 2]);
        prompt = prompt.into_iter().cycle().take(length).collect();
    }
    prompt.truncate(n_ctx - 1);
    let n_max = match random.random_range(0..6) {
        0 => random.random_range(0..4),
        // To the end of the context; where it is shifted there is none.
        1 if setup.shift.is_none() => usize::MAX,
        1 => n_ctx,
        _ => random.random_range(4..60),
    };
    let stop = chance(random, 4).then(|| pick(random, &STOPS));
    let sampling = sampling(random, model.n_vocab());
    // Stages that look at a whole vocabulary of this size take longer than the model.
    let is_slow = sampling.temperature > 0.0 && sampling.top_k == 0 && model.n_vocab() > 100_000;
    Case { prompt, sampling, n_max: if is_slow { n_max.min(24) } else { n_max }, stop }
}
