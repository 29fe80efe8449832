//! Drafts change time, never the answer: on a target with exact arithmetic, speculative output equals plain output token for token.

use aded::config::{Config, DraftConfig, DraftMode, RepresentativeConfig, SearchKind};
use aded::model::{DraftShape, Limits, ScriptedModel, TargetModel};
use aded::representative::Source;
use aded::sampling::{Greedy, RowSampler};
use aded::{CancelFlag, Error, Finish, Request, Session, Token};
use proptest::prelude::*;
use rand::RngExt;
use rand_pcg::Pcg32;
use rand_pcg::rand_core::SeedableRng;

/// Samples by inverse distribution function, one random number per token.
struct Seeded(Pcg32);

impl RowSampler for Seeded {
    fn sample(&mut self, logits: &[f32]) -> Result<Token, Error> {
        let total: f64 = logits.iter().map(|&x| f64::from(x).exp()).sum();
        let mut left = self.0.random::<f64>() * total;
        for (index, &x) in logits.iter().enumerate() {
            left -= f64::from(x).exp();
            if left < 0.0 {
                return Ok(Token(index as u32));
            }
        }
        Ok(Token(logits.len() as u32 - 1))
    }

    fn is_greedy(&self) -> bool {
        false
    }
}

fn sampler(seed: Option<u64>) -> Box<dyn RowSampler> {
    seed.map_or_else(|| Box::new(Greedy) as Box<dyn RowSampler>, |seed| Box::new(Seeded(Pcg32::seed_from_u64(seed))))
}

fn config(mode: DraftMode, search: SearchKind, budget: Option<u16>, max_depth: u16) -> Config {
    let draft = DraftConfig { mode, search, budget, max_depth, ..DraftConfig::default() };
    // Small tables: eviction and dropping happen.
    let representative =
        RepresentativeConfig { overlay_contexts: 64, recall_contexts: 64, log_tokens: 128, without: vec![] };
    Config { draft, representative }
}

fn plain(model: &ScriptedModel, prompt: &[Token], n_max: usize, seed: Option<u64>) -> Vec<Token> {
    let config = config(DraftMode::Off, SearchKind::BestFirst, None, 63);
    let mut session = Session::new(model.clone(), config).expect("valid");
    let mut sampler = sampler(seed);
    let request = Request { prompt, n_max, end_tokens: &[Token(3)] };
    session.generate(&request, &mut *sampler).expect("starts").map(|token| token.expect("decodes")).collect()
}

#[derive(Debug, Clone)]
struct Case {
    n_vocab: u32,
    order: usize,
    sharpness: f32,
    seed: u64,
    shape: DraftShape,
    max_leaves: u16,
    n_ctx: u32,
    max_rows: u32,
    search: SearchKind,
    mode: DraftMode,
    budget: Option<u16>,
    max_depth: u16,
    n_prompt: usize,
    n_max: usize,
    sampled: bool,
}

fn case() -> impl Strategy<Value = Case> {
    let model = (2u32..60, 1usize..4, 0.5f32..30.0, any::<u64>());
    let limits = (
        prop_oneof![3 => Just(DraftShape::Tree), 1 => Just(DraftShape::Chain), 1 => Just(DraftShape::Nothing)],
        1u16..17,
        20u32..300,
        64u32..100,
    );
    let draft = (
        prop_oneof![Just(SearchKind::BestFirst), Just(SearchKind::Mcts), Just(SearchKind::Reference)],
        prop_oneof![Just(DraftMode::On), Just(DraftMode::Auto)],
        prop::option::of(1u16..40),
        1u16..20,
    );
    (model, limits, draft, 1usize..150, 0usize..120, any::<bool>()).prop_map(
        |((n_vocab, order, sharpness, seed), (shape, max_leaves, n_ctx, max_rows), draft, n_prompt, n_max, sampled)| {
            let (search, mode, budget, max_depth) = draft;
            let n_prompt = n_prompt.min(n_ctx as usize - 1);
            Case {
                n_vocab,
                order,
                sharpness,
                seed,
                shape,
                max_leaves,
                n_ctx,
                max_rows,
                search,
                mode,
                budget,
                max_depth,
                n_prompt,
                n_max,
                sampled,
            }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, ..ProptestConfig::default() })]

    #[test]
    fn speculative_output_equals_plain_output(case in case()) {
        let model = ScriptedModel::new(case.n_vocab, case.order, case.sharpness, case.seed);
        let limits = Limits {
            n_ctx: case.n_ctx, shape: case.shape, max_leaves: case.max_leaves, max_rows: case.max_rows, ..model.limits()
        };
        let model = model.with_limits(limits);
        let mut session =
            Session::new(model.clone(), config(case.mode, case.search, case.budget, case.max_depth)).expect("valid");
        let mut rng = Pcg32::seed_from_u64(case.seed);
        // Several generations in one session: learnt tables, reused prefixes and cut texts take part.
        for generation in 0..3u64 {
            let prompt: Vec<Token> =
                (0..case.n_prompt).map(|_| Token(rng.random_range(0..case.n_vocab))).collect();
            let seed = case.sampled.then_some(generation);
            let expected = plain(&model, &prompt, case.n_max, seed);
            let mut sampler = sampler(seed);
            let request = Request { prompt: &prompt, n_max: case.n_max, end_tokens: &[Token(3)] };
            let mut generation = session.generate(&request, &mut *sampler).expect("starts");
            let mut output = Vec::new();
            while let Some(tokens) = generation.advance().expect("decodes") {
                prop_assert!(!tokens.is_empty(), "a round yields at least one token");
                output.extend_from_slice(tokens);
            }
            prop_assert_eq!(&output, &expected);
            let finish = generation.finish();
            prop_assert_eq!(finish == Some(Finish::Stop), output.last() == Some(&Token(3)));
            let stats = generation.stats().clone();
            prop_assert_eq!(stats.n_accepted + stats.n_rounds, stats.n_tokens);
            prop_assert_eq!(stats.rounds_by_accepted.iter().sum::<u64>(), stats.n_rounds);
            prop_assert_eq!(stats.by_source.iter().map(|tally| tally.drafted).sum::<u64>(), stats.n_drafted);
            prop_assert_eq!(stats.by_depth.iter().map(|tally| tally.accepted).sum::<u64>(), stats.n_accepted);
            drop(generation);
            prop_assert!(session.decoder().representative().memory_bytes() < 100_000);
        }
    }
}

#[test]
fn a_model_that_repeats_itself_is_drafted_well() {
    // Order 1 and greedy: the output runs into a cycle, which every source can know.
    let model = ScriptedModel::new(50, 1, 20.0, 7);
    let mut session = Session::new(model, config(DraftMode::On, SearchKind::BestFirst, Some(8), 63)).expect("valid");
    let mut greedy = Greedy;
    let request = Request { prompt: &[Token(1)], n_max: 300, end_tokens: &[] };
    let mut generation = session.generate(&request, &mut greedy).expect("starts");
    while generation.advance().expect("decodes").is_some() {}
    assert!(generation.stats().tokens_per_round() > 4.0, "{}", generation.stats());
}

/// Pearson's statistic of counts against expected shares.
fn chi_square(counts: &[u64], shares: &[f64]) -> f64 {
    let n: u64 = counts.iter().sum();
    counts
        .iter()
        .zip(shares)
        .map(|(&count, share)| (count as f64 - share * n as f64).powi(2) / (share * n as f64))
        .sum()
}

#[test]
fn emitted_tokens_follow_the_targets_distribution() {
    const N_VOCAB: usize = 6;
    let model = ScriptedModel::new(N_VOCAB as u32, 1, 2.0, 11);
    let mut session =
        Session::new(model.clone(), config(DraftMode::On, SearchKind::BestFirst, Some(6), 4)).expect("valid");
    let mut counts = [[0u64; N_VOCAB]; N_VOCAB];
    let mut sampler = Seeded(Pcg32::seed_from_u64(5));
    let mut accepted = 0;
    for _ in 0..40 {
        let request = Request { prompt: &[Token(0)], n_max: 1000, end_tokens: &[] };
        let mut generation = session.generate(&request, &mut sampler).expect("starts");
        let mut last = Token(0);
        for token in generation.by_ref() {
            let token = token.expect("decodes");
            counts[last.0 as usize][token.0 as usize] += 1;
            last = token;
        }
        accepted += generation.stats().n_accepted;
    }
    assert!(accepted > 10_000, "drafts took part: {accepted}");
    for (last, counts) in counts.iter().enumerate() {
        let mut logits = [0.0; N_VOCAB];
        model.logits_after(&[Token(last as u32)], &mut logits);
        let total: f64 = logits.iter().map(|&x| f64::from(x).exp()).sum();
        let shares = logits.map(|x| f64::from(x).exp() / total);
        // 5 degrees of freedom: 20.5 is passed by chance once in a thousand; the seeds are fixed.
        let statistic = chi_square(counts, &shares);
        assert!(statistic < 20.5, "after token {last}: {statistic:.1}");
    }
}

#[test]
fn a_raised_flag_ends_the_generation_and_the_next_one_is_whole() {
    let model = ScriptedModel::new(40, 2, 8.0, 3);
    let mut session = Session::new(model.clone(), Config::default()).expect("valid");
    let flag = CancelFlag::new();
    session.set_cancel_flag(flag.clone());
    let mut greedy = Greedy;
    let request = Request { prompt: &[Token(5), Token(6)], n_max: 50, end_tokens: &[] };
    let mut generation = session.generate(&request, &mut greedy).expect("starts");
    generation.advance().expect("decodes");
    flag.cancel();
    assert_eq!(generation.advance().expect("ends"), None);
    assert_eq!(generation.finish(), Some(Finish::Cancelled));
    drop(generation);
    flag.reset();
    let mut greedy = Greedy;
    let output: Vec<Token> =
        session.generate(&request, &mut greedy).expect("starts").map(|token| token.expect("decodes")).collect();
    assert_eq!(output, plain(&model, request.prompt, 50, None));
}

#[test]
fn bad_prompts_are_refused_with_the_limit() {
    let mut session = Session::new(ScriptedModel::new(10, 1, 1.0, 0), Config::default()).expect("valid");
    let mut greedy = Greedy;
    let mut error = |prompt: &[Token]| {
        let request = Request { prompt, n_max: 1, end_tokens: &[] };
        session.generate(&request, &mut greedy).err().expect("refused").to_string()
    };
    assert!(error(&[]).contains("empty"));
    assert!(error(&[Token(10)]).contains("vocabulary ends at 10"));
    assert!(error(&[Token(1); 4096]).contains("4096 tokens, and the context holds 4096"));
}

#[test]
fn each_source_can_be_switched_off() {
    for source in Source::ALL {
        let mut config = config(DraftMode::On, SearchKind::BestFirst, Some(8), 8);
        config.representative.without = vec![source];
        let mut session = Session::new(ScriptedModel::new(20, 1, 9.0, 2), config).expect("valid");
        let mut greedy = Greedy;
        let request = Request { prompt: &[Token(1), Token(2)], n_max: 200, end_tokens: &[] };
        let mut generation = session.generate(&request, &mut greedy).expect("starts");
        while generation.advance().expect("decodes").is_some() {}
        assert_eq!(generation.stats().by_source[source as usize].drafted, 0, "{source:?}");
    }
}
