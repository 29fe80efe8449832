//! Corpus files: an error, or a corpus whose look-ups end.

use aded::Token;
use aded::representative::corpus::Corpus;

use super::frame::sealed;

pub(crate) fn check(bytes: &[u8]) {
    for file in [bytes.to_vec(), sealed(bytes, 1)] {
        match Corpus::read(&file[..], file.len() as u64, "fuzzed", None) {
            Ok(corpus) => {
                for a in (0..50).map(Token) {
                    assert!(corpus.successors2(a).all(|(token, share)| token.0 < corpus.n_vocab() && share <= 1.0));
                    (0..50).for_each(|b| corpus.successors3(a, Token(b)).for_each(drop));
                }
                corpus.successors1().for_each(drop);
            }
            Err(error) => assert!(error.is_format() && !error.to_string().contains('\n'), "{error}"),
        }
    }
}
