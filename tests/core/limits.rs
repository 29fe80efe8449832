//! Ends of the context, of the answer and of a call.

use aded::config::{Config, DraftConfig, DraftMode};
use aded::model::{Limits, ScriptedModel, TargetModel};
use aded::sampling::Greedy;
use aded::{Finish, Request, Session, Stats, Token};

use crate::faulty::{Faulty, drain};

fn session(limits: Limits, mode: DraftMode, shift: Option<usize>) -> Session<Faulty<ScriptedModel>> {
    let model = ScriptedModel::new(30, 2, 9.0, 5).with_limits(limits);
    let config = Config { draft: DraftConfig { mode, ..DraftConfig::default() }, ..Config::default() };
    let mut session = Session::new(Faulty::new(model), config).expect("valid");
    session.set_context_shift(shift).expect("scripted models can");
    session
}

fn limits(n_ctx: u32) -> Limits {
    Limits { n_ctx, max_rows: 64, ..ScriptedModel::new(30, 2, 9.0, 5).limits() }
}

fn generate(
    session: &mut Session<Faulty<ScriptedModel>>,
    prompt: &[Token],
    n_max: usize,
    end_tokens: &[Token],
) -> (Vec<Token>, Option<Finish>, Stats) {
    let mut greedy = Greedy;
    let request = Request { prompt, n_max, end_tokens };
    let mut generation = session.generate(&request, &mut greedy).expect("starts");
    let (output, result) = drain(&mut generation);
    result.expect("no error");
    (output, generation.finish(), generation.stats().clone())
}

fn prompt(n: u32) -> Vec<Token> {
    (0..n).map(|index| Token((index * index + 3 * index) % 30)).collect()
}

#[test]
fn a_shifted_context_goes_on_as_plain_decoding_does() {
    for n_keep in [0, 1, 5, 1000] {
        for n_ctx in [8, 20, 33, 64] {
            let prompt = prompt(6);
            let mut plain = session(limits(n_ctx), DraftMode::Off, Some(n_keep));
            let (expected, finish, stats) = generate(&mut plain, &prompt, 400, &[]);
            assert_eq!((expected.len(), finish), (400, Some(Finish::Length)), "{n_keep} {n_ctx}");
            assert!(stats.n_shifts >= 400 / u64::from(n_ctx), "{} shifts", stats.n_shifts);
            let mut drafting = session(limits(n_ctx), DraftMode::On, Some(n_keep));
            for _ in 0..2 {
                let (output, finish, drafted) = generate(&mut drafting, &prompt, 400, &[]);
                assert_eq!((output, finish), (expected.clone(), Some(Finish::Length)), "{n_keep} {n_ctx}");
                assert_eq!(drafted.n_shifts, stats.n_shifts);
            }
            let (_, _, drafted) = generate(&mut drafting, &prompt, 400, &[]);
            assert!(drafted.n_accepted > 100, "drafts took part: {}", drafted.n_accepted);
            // What lies behind a shift has seen tokens that are gone: a prompt of the same tokens is read anew.
            let held = drafting.target().inner.held(aded::Slot(0)).to_vec();
            let (_, _, again) = generate(&mut drafting, &held[..held.len() - 1], 1, &[]);
            assert!(again.n_prompt_reused <= n_keep.min(prompt.len()) as u64, "{}", again.n_prompt_reused);
        }
    }
}

#[test]
fn without_a_shift_the_end_of_the_context_ends_the_answer() {
    for n_ctx in [8, 20, 33] {
        let prompt = prompt(6);
        let expected = generate(&mut session(limits(n_ctx), DraftMode::Off, None), &prompt, usize::MAX, &[]);
        // The last token needs no cell.
        assert_eq!(expected.0.len(), n_ctx as usize - prompt.len() + 1);
        let mut drafting = session(limits(n_ctx), DraftMode::On, None);
        for _ in 0..3 {
            let (output, finish, _) = generate(&mut drafting, &prompt, usize::MAX, &[]);
            assert_eq!((output, finish), (expected.0.clone(), Some(Finish::Length)));
        }
    }
}

#[test]
fn token_limit_and_end_tokens_cut_an_accepted_path() {
    let prompt = prompt(10);
    let (whole, ..) = generate(&mut session(limits(500), DraftMode::Off, None), &prompt, 120, &[]);
    let mut drafting = session(limits(500), DraftMode::On, None);
    generate(&mut drafting, &prompt, 120, &[]);
    let mut n_cut = 0;
    for n_max in 1..120 {
        let (output, finish, stats) = generate(&mut drafting, &prompt, n_max, &[]);
        assert_eq!((output.as_slice(), finish), (&whole[..n_max], Some(Finish::Length)));
        n_cut += u64::from(stats.n_accepted > 0);
    }
    assert!(n_cut > 60, "drafts took part in {n_cut}");
    for end in 0..30 {
        let (output, finish, _) = generate(&mut drafting, &prompt, 120, &[Token(end)]);
        match whole.iter().position(|token| *token == Token(end)) {
            Some(at) => assert_eq!((output.as_slice(), finish), (&whole[..=at], Some(Finish::Stop)), "end {end}"),
            None => assert_eq!((output, finish), (whole.clone(), Some(Finish::Length)), "end {end}"),
        }
    }
}

#[test]
fn prompts_just_under_at_and_over_the_size_of_a_call() {
    for n_prompt in [1, 63, 64, 65, 127, 128, 129, 200] {
        let prompt = prompt(n_prompt);
        let (expected, ..) = generate(&mut session(limits(500), DraftMode::Off, None), &prompt, 30, &[]);
        let mut drafting = session(limits(500), DraftMode::On, None);
        let (output, _, stats) = generate(&mut drafting, &prompt, 30, &[]);
        assert_eq!((output, stats.n_prompt), (expected, u64::from(n_prompt)));
        let calls = &drafting.target().sizes[..(n_prompt as usize).div_ceil(64)];
        assert_eq!(calls.iter().sum::<usize>(), n_prompt as usize, "{calls:?}");
        assert!(calls[..calls.len() - 1].iter().all(|&rows| rows == 64), "{calls:?}");
    }
}

#[test]
fn a_later_turn_reuses_what_the_memory_holds_of_it() {
    let mut chat = prompt(20);
    let mut drafting = session(limits(500), DraftMode::On, None);
    for turn in 0..6u32 {
        let (expected, ..) = generate(&mut session(limits(500), DraftMode::Off, None), &chat, 25, &[]);
        let (answer, _, stats) = generate(&mut drafting, &chat, 25, &[]);
        assert_eq!(answer, expected, "turn {turn}");
        if turn > 0 {
            // All but the last token of the answer before, which was never decoded, and the new question.
            assert_eq!(stats.n_prompt_reused as usize, chat.len() - 8, "turn {turn}");
        }
        chat.extend(answer);
        chat.extend((0..7).map(|index| Token((turn + index * 3) % 30)));
    }
}
