//! A target that fails at any call: the generation ends with the error or goes on, and the next one is whole.

use aded::config::{Config, DraftConfig, DraftMode};
use aded::model::{DraftShape, Limits, ScriptedModel, TargetModel};
use aded::sampling::{Greedy, RowSampler};
use aded::{Error, Finish, Request, Session, Token};

use crate::faulty::{Fault, Faulty, When, drain};

const N_MAX: usize = 60;

fn model(shape: DraftShape) -> ScriptedModel {
    let model = ScriptedModel::new(40, 2, 9.0, 12);
    let max_leaves = if shape == DraftShape::Tree { 8 } else { 1 };
    let limits = Limits { shape, max_leaves, max_rows: 64, ..model.limits() };
    model.with_limits(limits)
}

fn config(mode: DraftMode) -> Config {
    Config { draft: DraftConfig { mode, ..DraftConfig::default() }, ..Config::default() }
}

fn prompt(seed: u32, n: u32) -> Vec<Token> {
    (0..n).map(|index| Token((index * 7 + seed * 5 + index * index) % 40)).collect()
}

fn generate<T: TargetModel>(session: &mut Session<T>, prompt: &[Token]) -> (Vec<Token>, Result<Option<Finish>, Error>) {
    let mut greedy = Greedy;
    let request = Request { prompt, n_max: N_MAX, end_tokens: &[] };
    let mut generation = session.generate(&request, &mut greedy).expect("starts");
    let (output, result) = drain(&mut generation);
    (output, result.map(|()| generation.finish()))
}

#[test]
fn a_fault_at_any_call_leaves_a_session_that_works() {
    // A prompt of several calls, so that faults strike inside it as well.
    let (first, second) = (prompt(1, 150), prompt(2, 90));
    for shape in [DraftShape::Tree, DraftShape::Chain, DraftShape::Nothing] {
        let mut plain = Session::new(model(shape), config(DraftMode::Off)).expect("valid");
        let expected = [generate(&mut plain, &first).0, generate(&mut plain, &second).0];
        for fault in Fault::ALL {
            for when in [When::Before, When::After, When::Keep] {
                for call in 0..25 {
                    let what = format!("{shape:?} {fault:?} {when:?} call {call}");
                    let mut session = Session::new(Faulty::new(model(shape)), config(DraftMode::On)).expect("valid");
                    // Teaches the text, so that the faults strike among accepted and rejected drafts.
                    assert_eq!(generate(&mut session, &first).0, expected[0]);
                    session.reset();
                    session.target_mut().arm(fault, when, call);
                    let (output, result) = generate(&mut session, &first);
                    assert_eq!(output, expected[0][..output.len()], "{what}: what came before the fault is right");
                    let struck = session.target().fault.is_none();
                    match result {
                        Ok(Some(Finish::Cancelled)) => {
                            assert!(struck && fault == Fault::Cancelled, "{what}");
                        }
                        Ok(finish) => {
                            assert_eq!((finish, output.len()), (Some(Finish::Length), N_MAX), "{what}");
                            // A draft without room goes, and the round goes on.
                            assert!(!struck || (fault == Fault::Full && when != When::Keep), "{what}");
                        }
                        Err(error) => {
                            assert!(struck, "{what}: {error}");
                            assert_eq!(error.is_full(), fault == Fault::Full, "{what}: {error}");
                        }
                    }
                    session.target_mut().fault = None;
                    // The same prompt again, of which the memory may hold a part, and another one.
                    assert_eq!(generate(&mut session, &first).0, expected[0], "{what}");
                    assert_eq!(generate(&mut session, &second).0, expected[1], "{what}");
                }
            }
        }
    }
}

/// Fails at a given sample.
struct Failing(usize);

impl RowSampler for Failing {
    fn sample(&mut self, logits: &[f32]) -> Result<Token, Error> {
        self.0 = self.0.checked_sub(1).ok_or_else(|| Error::target("the grammar admits no token here"))?;
        Greedy.sample(logits)
    }

    fn is_greedy(&self) -> bool {
        false
    }
}

#[test]
fn a_sampler_that_fails_anywhere_leaves_a_session_that_works() {
    let prompt = prompt(3, 70);
    let mut plain = Session::new(model(DraftShape::Tree), config(DraftMode::Off)).expect("valid");
    let expected = generate(&mut plain, &prompt).0;
    let mut session = Session::new(model(DraftShape::Tree), config(DraftMode::On)).expect("valid");
    for n_samples in 0..N_MAX {
        let mut failing = Failing(n_samples);
        let request = Request { prompt: &prompt, n_max: N_MAX, end_tokens: &[] };
        let mut generation = session.generate(&request, &mut failing).expect("starts");
        let (output, result) = drain(&mut generation);
        assert!(result.is_err_and(|error| error.is_target()));
        // Tokens that were sampled in the round that failed are not emitted.
        assert_eq!(output, expected[..output.len()]);
        assert!(output.len() <= n_samples);
        drop(generation);
        assert_eq!(generate(&mut session, &prompt).0, expected, "after {n_samples} samples");
    }
}
