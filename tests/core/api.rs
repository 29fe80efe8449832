//! What programs may rely on in the Rust interface, beyond what the examples show.

use aded::cancel::CancelFlag;
use aded::generation::Session;
use aded::model::ScriptedModel;
use aded::round::Decoder;
use aded::sampling::Greedy;
use aded::sequence::Finish;
use aded::stats::Stats;
use aded::{Config, Error, Request, Token};

#[test]
fn what_moves_between_threads_may() {
    fn is_send<T: Send>() {}
    fn is_shared<T: Send + Sync>() {}
    is_send::<Session<ScriptedModel>>();
    is_send::<Decoder>();
    is_shared::<Config>();
    is_shared::<Stats>();
    is_shared::<CancelFlag>();
    is_shared::<Error>();
}

#[test]
fn the_iterator_and_the_callback_give_the_same_tokens() {
    let request = Request { prompt: &[Token(1), Token(2)], n_max: 40, end_tokens: &[] };
    let session = || Session::new(ScriptedModel::new(100, 2, 8.0, 1), Config::default()).expect("in range");
    let (mut first, mut second) = (session(), session());
    let iterated: Vec<_> =
        first.generate(&request, &mut Greedy).expect("in range").map(|token| token.expect("no fault")).collect();
    let mut called = Vec::new();
    second
        .run(&request, &mut Greedy, |tokens| {
            called.extend_from_slice(tokens);
            true
        })
        .expect("no fault");
    assert_eq!(iterated, called);
    assert_eq!(iterated.len(), 40);
}

#[test]
fn a_callback_and_a_flag_from_another_thread_stop_a_generation() {
    let request = Request { prompt: &[Token(1), Token(2)], n_max: 4000, end_tokens: &[] };
    let mut session = Session::new(ScriptedModel::new(100, 2, 8.0, 1), Config::default()).expect("in range");
    let mut n_calls = 0;
    let finish = session
        .run(&request, &mut Greedy, |_| {
            n_calls += 1;
            n_calls < 3
        })
        .expect("no fault");
    assert_eq!((n_calls, finish), (3, Finish::Stop));
    let flag = CancelFlag::new();
    session.set_cancel_flag(flag.clone());
    std::thread::spawn(move || flag.cancel()).join().expect("no panic");
    let finish = session.run(&request, &mut Greedy, |_| panic!("it was cancelled before")).expect("no fault");
    assert_eq!(finish, Finish::Cancelled);
}

#[test]
fn a_request_that_is_refused_leaves_the_generation_under_way_alone() {
    let mut session = Session::new(ScriptedModel::new(100, 2, 8.0, 1), Config::default()).expect("in range");
    let request = Request { prompt: &[Token(1), Token(2)], n_max: 40, end_tokens: &[] };
    session.begin(&request).expect("in range");
    let mut n_tokens = 0;
    while let Some(tokens) = session.advance(&mut Greedy).expect("no fault") {
        n_tokens += tokens.len();
        let empty = session.begin(&Request { prompt: &[], ..request }).expect_err("no prompt");
        assert!(empty.is_usage());
        let outside = session.begin(&Request { prompt: &[Token(100)], ..request }).expect_err("no such token");
        assert!(outside.is_usage());
    }
    assert_eq!(n_tokens, 40);
}
