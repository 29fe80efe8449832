//! Many seeded continuations of one prompt, plain and drafting, as two samples of one distribution; and seeded answers of a real model.

use std::collections::BTreeMap;
use std::sync::Arc;

use aded::batch::DraftBatch;
use aded::config::DraftMode;
use aded::llama::text::ChatMessage;
use aded::llama::{ContextParams, FlashAttention, Model, SamplerChain, SamplingParams, Target};
use aded::model::TargetModel;
use aded::sampling::RowSampler;
use aded::{Pos, RowId, Slot, Token};

use super::answers::{answer, session};
use super::real::{SMOLLM2, load};
use super::{small, tiny};

/// Tokens of each seeded answer of the real model.
const N_SAMPLED: usize = 16;

/// Pearson's statistic of two samples of equal size against the same shares, and its degrees of freedom. Rare tokens are counted together.
fn two_samples(left: &[Token], right: &[Token]) -> (f64, f64) {
    let mut counts: BTreeMap<Token, [f64; 2]> = BTreeMap::new();
    for (side, tokens) in [left, right].into_iter().enumerate() {
        tokens.iter().for_each(|&token| counts.entry(token).or_default()[side] += 1.0);
    }
    let mut rare = [0.0; 2];
    let mut classes: Vec<[f64; 2]> = Vec::new();
    for counts in counts.into_values() {
        if counts[0] + counts[1] < 10.0 {
            rare = [rare[0] + counts[0], rare[1] + counts[1]];
        } else {
            classes.push(counts);
        }
    }
    classes.extend((rare[0] + rare[1] > 0.0).then_some(rare));
    let statistic = classes.iter().map(|[left, right]| (left - right).powi(2) / (left + right)).sum();
    (statistic, classes.len() as f64 - 1.0)
}

/// The value that the statistic passes once in 100,000 times by chance (Wilson and Hilferty's approximation).
fn limit(freedom: f64) -> f64 {
    const QUANTILE: f64 = 4.265;
    let part = 2.0 / (9.0 * freedom);
    freedom * (1.0 - part + QUANTILE * part.sqrt()).powi(3)
}

#[test]
fn drafting_samples_the_distribution_of_plain_decoding() {
    const N_ANSWERS: u32 = 700;
    const N_TOKENS: usize = 6;
    let model = tiny();
    let prompt: Vec<Token> = (0..20).map(|index| Token(4 + index * 11)).collect();
    let base = SamplingParams { temperature: 4.0, ..SamplingParams::default() };
    let chains = [
        ("default at a high temperature", base.clone()),
        ("few tokens", SamplingParams { top_k: 5, top_p: 1.0, min_p: 0.0, ..base.clone() }),
        ("penalties", SamplingParams { repeat_penalty: 1.3, presence_penalty: 0.5, ..base.clone() }),
        ("xtc", SamplingParams { xtc_probability: 0.5, ..base.clone() }),
        ("mirostat", SamplingParams { mirostat: 2, mirostat_tau: 3.0, ..base.clone() }),
        ("grammar", SamplingParams { grammar: Some("root ::= [a-h]+".to_owned()), ..base }),
    ];
    let mut plain = session(&model, &small(), DraftMode::Off);
    for (name, params) in chains {
        let mut drafting = session(&model, &small(), DraftMode::On);
        let mut positions = [const { (Vec::new(), Vec::new()) }; N_TOKENS];
        let mut n_accepted = 0;
        for number in 0..N_ANSWERS {
            // Different seeds: the two arms have nothing in common but the distribution.
            let seeded = |seed| SamplingParams { seed, ..params.clone() };
            let (left, _) = answer(&mut plain, &seeded(number), &prompt, N_TOKENS);
            let (right, accepted) = answer(&mut drafting, &seeded(1_000_000 + number), &prompt, N_TOKENS);
            n_accepted += accepted;
            for (position, tokens) in positions.iter_mut().enumerate() {
                tokens.0.extend(left.get(position));
                tokens.1.extend(right.get(position));
            }
        }
        assert!(n_accepted > u64::from(N_ANSWERS) / 10, "{name}: drafts took part, {n_accepted} accepted");
        let mut report = String::new();
        let mut n_tested = 0;
        for (position, (left, right)) in positions.iter().enumerate() {
            let (statistic, freedom) = two_samples(left, right);
            if freedom < 1.0 {
                continue;
            }
            n_tested += 1;
            report += &format!(" {statistic:.1}/{freedom}");
            assert!(
                statistic < limit(freedom),
                "{name} at {position}: {statistic:.1} with {freedom} degrees of freedom"
            );
        }
        assert!(n_tested >= 3, "{name}: only {n_tested} positions have a choice");
        println!("{name}: {n_accepted} accepted, statistic/degrees of freedom by position:{report}");
    }
}

#[test]
fn the_test_of_two_samples_finds_a_small_bias() {
    let sample = |seed: u32, share: u32| -> Vec<Token> {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state >> 8
        };
        (0..700).map(|_| if next() % 100 < share { Token(0) } else { Token(1 + next() % 8) }).collect()
    };
    let (same, freedom) = two_samples(&sample(1, 20), &sample(2, 20));
    assert!(same < limit(freedom), "{same}");
    let (biased, freedom) = two_samples(&sample(1, 20), &sample(2, 38));
    assert!(biased > limit(freedom), "{biased} with {freedom}");
}

/// The answer that plain decoding gives where seven other sequences share each of its calls.
fn beside_others(
    model: &Arc<Model>,
    params: &ContextParams,
    sampling: &SamplingParams,
    prompt: &[Token],
) -> Vec<Token> {
    const N_SLOTS: u32 = 8;
    let params = ContextParams { n_slots: N_SLOTS, max_leaves: 1, ..params.clone() };
    let mut target = Target::new(model.clone(), &params).unwrap();
    let mut sampler = SamplerChain::new(model, sampling).unwrap();
    sampler.accept_prompt(prompt).unwrap();
    let mut batch = DraftBatch::new();
    let mut piece = prompt.to_vec();
    let mut output = Vec::new();
    while output.len() < N_SAMPLED {
        batch.clear();
        batch.push_prompt(Slot(0), Pos(target.n_committed(Slot(0))), &piece, true);
        let row = RowId(piece.len() as u32 - 1);
        if !output.is_empty() {
            for slot in (1..N_SLOTS).map(Slot) {
                batch.push_prompt(slot, Pos(target.n_committed(slot)), &prompt[output.len()..][..1], true);
            }
        }
        target.decode(&batch).unwrap();
        let token = sampler.sample(target.logits(row)).unwrap();
        for row in (row.0..batch.len() as u32).map(RowId) {
            target.keep(batch.row(row).slot, row).unwrap();
        }
        output.push(token);
        piece = vec![token];
    }
    output
}

/// Answers that part from the expected ones, and the tokens at which they could have done so.
#[derive(Default, Debug)]
struct Forks {
    n: f64,
    n_tokens: f64,
}

impl Forks {
    fn add(&mut self, output: &[Token], expected: &[Token]) {
        let n_equal = output.iter().zip(expected).take_while(|(a, b)| a == b).count();
        let is_fork = n_equal < expected.len();
        self.n += f64::from(u8::from(is_fork));
        self.n_tokens += (n_equal + usize::from(is_fork)) as f64;
    }

    fn rate(&self) -> f64 {
        self.n / self.n_tokens
    }
}

#[test]
fn seeded_answers_fork_no_more_often_than_those_of_another_batch_size() {
    let model = load(SMOLLM2);
    let questions = [
        "Name the planets of the solar system in order.",
        "Why is the sky blue?",
        "Write a short guide to brewing tea, as a numbered list.",
        "Explain what a hash table is to a child of ten years.",
        "List five fruits as JSON.",
        "Who wrote Romeo and Juliet, and when? Then say in two sentences what happens in it.",
        "Write a limerick about a cat that learns to sail.",
        "What should one see in Lisbon in two days?",
    ];
    for flash_attention in [FlashAttention::On, FlashAttention::Off] {
        let params = ContextParams {
            n_ctx: 2048,
            n_threads: 1,
            n_threads_batch: 1,
            flash_attention,
            ..ContextParams::default()
        };
        let mut plain = session(&model, &params, DraftMode::Off);
        let mut drafting = session(&model, &params, DraftMode::On);
        let (mut other, mut drafted, mut n_accepted) = (Forks::default(), Forks::default(), 0);
        for (seed, question) in (0u32..).zip(questions) {
            let chat = model.chat_prompt(&[ChatMessage::new("user", question)], true).unwrap();
            let prompt = model.tokenize_chat(&chat).unwrap();
            let sampling = SamplingParams { seed, ..SamplingParams::default() };
            let (expected, _) = answer(&mut plain, &sampling, &prompt, N_SAMPLED);
            other.add(&beside_others(&model, &params, &sampling, &prompt), &expected);
            let (output, accepted) = answer(&mut drafting, &sampling, &prompt, N_SAMPLED);
            drafted.add(&output, &expected);
            n_accepted += accepted;
        }
        println!("{flash_attention:?}: beside others {other:?}, drafting {drafted:?}; {n_accepted} nodes accepted");
        assert!(n_accepted > 10, "{n_accepted}");
        // Both are chance; a sampler that is called once too often parts within a token or two.
        let error = (other.n + 1.0).sqrt() / other.n_tokens + (drafted.n + 1.0).sqrt() / drafted.n_tokens;
        assert!(drafted.rate() <= other.rate() + 2.0 * error, "{flash_attention:?}: {other:?}, drafting {drafted:?}");
    }
}
