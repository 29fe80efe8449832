//! What can be handed to another thread, and what can be used by several at once.

use std::sync::Arc;

use aded::model::ScriptedModel;
use aded::representative::corpus::Corpus;
use aded::round::Decoder;
use aded::sampling::Greedy;
use aded::{CancelFlag, Config, Error, Finish, Request, Sequence, Session, Stats, Token};

fn send<T: Send>() {}
fn sync<T: Sync>() {}

#[test]
fn what_lives_long_can_move_and_what_is_shared_can_be_shared() {
    send::<Session<ScriptedModel>>();
    send::<Decoder>();
    send::<Sequence>();
    send::<Stats>();
    send::<Error>();
    sync::<Error>();
    send::<Arc<Corpus>>();
    sync::<Corpus>();
    send::<CancelFlag>();
    sync::<CancelFlag>();
    send::<Config>();
    sync::<Config>();
}

#[test]
fn a_session_runs_in_another_thread_with_a_callback_that_stops_it() {
    let mut session = Session::new(ScriptedModel::new(50, 2, 9.0, 3), Config::default()).expect("valid");
    let (session, tokens, finish) = std::thread::spawn(move || {
        let mut tokens = Vec::new();
        let request = Request { prompt: &[Token(1), Token(2)], n_max: 100, end_tokens: &[] };
        let finish = session.run(&request, &mut Greedy, |confirmed| {
            tokens.extend_from_slice(confirmed);
            tokens.len() < 20
        });
        (session, tokens, finish.expect("decodes"))
    })
    .join()
    .expect("no panic");
    assert_eq!(finish, Finish::Stop);
    assert!((20..100).contains(&tokens.len()), "{} tokens", tokens.len());
    assert_eq!(&session.sequence().tokens()[2..], tokens);
}
