use super::*;
use proptest::prelude::*;
use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::ops::ControlFlow;

const PRINT: Fingerprint = Fingerprint(0x0123_4567_89ab_cdef);

fn tokens(ids: &[u32]) -> Vec<Token> {
    ids.iter().copied().map(Token).collect()
}

fn options(n_vocab: u32) -> BuildOptions {
    BuildOptions::new(n_vocab, PRINT, "/no/such/folder")
}

fn build(options: BuildOptions, documents: &[Vec<u32>]) -> CorpusBuilder {
    let mut builder = CorpusBuilder::new(options).unwrap();
    for document in documents {
        builder.push_document(&tokens(document)).unwrap();
    }
    builder
}

fn small() -> Corpus {
    build(options(10), &[vec![1, 2, 3, 1, 2, 4, 1, 2, 3], vec![2, 3], vec![9]]).finish_in_memory().unwrap()
}

#[test]
fn windows_stay_within_documents() {
    let corpus = small();
    assert_eq!(
        corpus.successors3(Token(1), Token(2)).collect::<Vec<_>>(),
        [(Token(3), 2.0 / 3.0), (Token(4), 1.0 / 3.0)]
    );
    assert_eq!(corpus.successors2(Token(2)).counts().collect::<Vec<_>>(), [(Token(3), 3), (Token(4), 1)]);
    assert!(corpus.successors3(Token(2), Token(9)).is_empty() && corpus.successors2(Token(9)).is_empty());
    assert_eq!(corpus.successors1().next(), Some((Token(2), 4.0 / 12.0)));
    assert_eq!(corpus.successors1().n_seen(), 12);
    assert_eq!((corpus.summary().n_documents, corpus.summary().n_tokens), (3, 12));
    assert_eq!(corpus.summary().n_contexts, 5, "12 23 31 24 41");
    for token in [10, 11, u32::MAX] {
        assert!(corpus.successors2(Token(token)).is_empty());
        assert!(corpus.successors3(Token(token), Token(1)).is_empty());
        assert!(corpus.successors3(Token(1), Token(token)).is_empty());
    }
}

#[test]
fn an_empty_corpus_says_nothing() {
    let corpus = build(options(7), &[]).finish_in_memory().unwrap();
    assert!(corpus.successors1().is_empty() && corpus.successors2(Token(3)).is_empty());
    assert!(corpus.successors3(Token(0), Token(6)).is_empty());
}

#[test]
fn a_corpus_is_shared_between_threads() {
    fn shared<T: Send + Sync>() {}
    shared::<std::sync::Arc<Corpus>>();
    fn sent<T: Send>() {}
    sent::<CorpusBuilder>();
}

#[test]
fn bad_options_and_tokens_are_usage_errors() {
    for n_vocab in [0, store::MAX_VOCAB + 1] {
        let error = CorpusBuilder::new(options(n_vocab)).err().unwrap();
        assert!(error.is_usage() && error.to_string().contains(&n_vocab.to_string()));
    }
    let mut builder = CorpusBuilder::new(options(10)).unwrap();
    let error = builder.push_document(&tokens(&[1, 2, 10])).unwrap_err();
    assert!(error.is_usage() && error.to_string().contains("token 10"), "{error}");
    assert!(builder.finish_in_memory().unwrap().successors1().is_empty(), "nothing of the document was counted");
}

/// The naive count: maps from contexts to maps from successors to counts.
#[derive(Default)]
struct Oracle {
    counts: BTreeMap<Vec<u32>, BTreeMap<u32, u32>>,
}

impl Oracle {
    fn learn(&mut self, document: &[u32]) {
        for n in 1..=3 {
            for window in document.windows(n) {
                let row = self.counts.entry(window[..n - 1].to_vec()).or_default();
                *row.entry(window[n - 1]).or_default() += 1;
            }
        }
    }

    fn expected(&self, context: &[u32], min_count: u32) -> (u32, Vec<(Token, u32)>) {
        let Some(row) = self.counts.get(context) else { return (0, Vec::new()) };
        let min_count = if context.is_empty() { 1 } else { min_count };
        let mut successors: Vec<_> =
            row.iter().filter(|(_, c)| **c >= min_count).map(|(t, c)| (Token(*t), *c)).collect();
        successors.sort_by_key(|&(token, count)| (std::cmp::Reverse(count), token));
        successors.truncate(MAX_SUCCESSORS);
        (row.values().sum(), successors)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Any memory limit gives the bytes that no limit gives, and the counts of the oracle.
    #[test]
    fn the_builder_counts_like_a_map(
        documents in prop::collection::vec(prop::collection::vec(prop_oneof![3 => 0u32..4, 2 => 0u32..30], 0..120), 0..12),
        memory_limit_bytes in prop_oneof![Just(0usize), 0usize..8192],
        min_count in 1u32..4,
    ) {
        let folder = tempfile::tempdir().unwrap();
        let (unlimited, limited) = (folder.path().join("unlimited"), folder.path().join("limited"));
        let options = BuildOptions { min_count, ..BuildOptions::new(30, PRINT, folder.path()) };
        let mut go_on = |_| ControlFlow::Continue(());
        build(options.clone(), &documents).finish(&unlimited, &mut go_on).unwrap();
        let builder = build(BuildOptions { memory_limit_bytes, ..options }, &documents);
        let summary = builder.finish(&limited, &mut go_on).unwrap();
        prop_assert_eq!(fs::read(&unlimited).unwrap(), fs::read(&limited).unwrap());
        prop_assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2, "no temporary file is left");

        let corpus = Corpus::load(&limited, Some(PRINT)).unwrap();
        prop_assert_eq!(corpus.summary(), summary);
        let mut oracle = Oracle::default();
        documents.iter().for_each(|document| oracle.learn(document));
        let check = |context: &[u32], successors: Successors<'_>| {
            let (total, expected) = oracle.expected(context, min_count);
            prop_assert_eq!(successors.counts().collect::<Vec<_>>(), expected);
            // A pair without successors is no context of the table, a single token always is.
            prop_assert!(successors.n_seen() == total || (context.len() == 2 && successors.is_empty()) || min_count > 1);
            let sum: f32 = successors.map(|(_, probability)| probability).sum();
            prop_assert!(sum <= 1.0 + 1e-6);
            Ok(())
        };
        check(&[], corpus.successors1())?;
        for b in 0..30 {
            check(&[b], corpus.successors2(Token(b)))?;
            for a in 0..30 {
                check(&[a, b], corpus.successors3(Token(a), Token(b)))?;
            }
        }
    }
}

#[test]
fn progress_rises_to_one_and_can_stop_the_work() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.aded");
    let documents: Vec<Vec<u32>> = (0..200).map(|i| (0..1000u32).map(|j| (i * j + j / 7) % 50).collect()).collect();
    let builder = || build(BuildOptions::new(50, PRINT, folder.path()), &documents);
    let mut heard = vec![0.0];
    builder()
        .finish(&path, &mut |share| {
            heard.push(share);
            ControlFlow::Continue(())
        })
        .unwrap();
    assert!(heard.len() > 5 && heard.is_sorted());
    assert_eq!(heard.last(), Some(&1.0));
    let bytes = fs::read(&path).unwrap();
    let error = builder().finish(&path, &mut |_| ControlFlow::Break(())).unwrap_err();
    assert!(error.is_cancelled());
    assert_eq!(fs::read(&path).unwrap(), bytes, "the old file stays");
}

/// A file as words, to alter and to seal again with a right checksum.
struct Forged(Vec<u32>);

impl Forged {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.aded");
        let builder = build(options(10), &[vec![1, 2, 3, 1, 2, 4, 1, 2, 3], vec![2, 3], vec![9]]);
        builder.finish(&path, &mut |_| ControlFlow::Continue(())).unwrap();
        let bytes = fs::read(&path).unwrap();
        Self(bytes.as_chunks::<4>().0.iter().map(|&b| u32::from_le_bytes(b)).collect())
    }

    fn section(&mut self, id: u32) -> &mut [u32] {
        let entry = (16..).step_by(6).find(|&at| self.0[at] == id).unwrap();
        let (start, length) = (self.0[entry + 2] as usize, self.0[entry + 4] as usize);
        &mut self.0[start..start + length]
    }

    fn seal(mut self) -> Self {
        let body = self.0.len() - 2;
        let sum = store::checksum(&self.0[..body]);
        (self.0[body], self.0[body + 1]) = (sum as u32, (sum >> 32) as u32);
        self
    }

    fn bytes(&self) -> Vec<u8> {
        self.0.iter().flat_map(|w| w.to_le_bytes()).collect()
    }
}

fn load_error(bytes: &[u8]) -> String {
    let error = Corpus::read(bytes, bytes.len() as u64, "x.aded", Some(PRINT)).expect_err("must not load");
    assert!(error.is_format(), "{error}");
    error.to_string()
}

fn with(alter: impl FnOnce(&mut Forged)) -> String {
    let mut forged = Forged::new();
    alter(&mut forged);
    load_error(&forged.seal().bytes())
}

#[test]
fn every_fault_of_a_file_has_its_text() {
    let good = Forged::new();
    assert!(Corpus::read(&good.bytes()[..], good.bytes().len() as u64, "x", Some(PRINT)).is_ok());
    let texts = HashMap::from([
        ("empty", load_error(b"")),
        (
            "does not begin like an aded file",
            load_error(b"GGUF\x03\0\0\0 and so on, much longer than the header of our file...."),
        ),
        ("does not begin like", load_error(b"hi")),
        ("not even a header", load_error(&good.bytes()[..40])),
        ("byte-order mark is 0d0c0b0a", with(|f| f.0[2] = f.0[2].swap_bytes())),
        ("format version is 3, this aded reads versions up to 2; update aded", with(|f| f.0[3] = 3)),
        ("truncated: 64 bytes where its header promises", load_error(&good.bytes()[..64])),
        ("truncated", load_error(&good.bytes()[..good.bytes().len() - 1])),
        ("altered", load_error(&[good.bytes(), vec![0]].concat())),
        ("something else (kind 77), not a corpus", with(|f| f.0[4] = 77)),
        ("vocabulary has 0 tokens", with(|f| f.0[5] = 0)),
        ("vocabulary has 4294967295 tokens", with(|f| f.0[5] = u32::MAX)),
        (
            "another tokenizer (fingerprint 0123456700000007; this model has 0123456789abcdef); learn it again with -m of this model",
            with(|f| f.0[6] = 7),
        ),
        ("section table is out of range", with(|f| f.0[10] = 1000)),
        ("section table is out of range (4294967295", with(|f| f.0[10] = u32::MAX)),
        ("section 1 is out of range", with(|f| f.0[16 + 3] = 1)),
        ("section 2 is out of range", with(|f| f.0[22 + 5] = u32::MAX)),
        ("no section 3 (second tokens)", with(|f| f.0[28] = 99)),
        ("end in the middle", with(|f| f.0[34 + 4] -= 1)),
        ("offsets of its tri-grams are out of range", with(|f| f.section(4)[2] = 99)),
        ("offsets of its bi-grams are out of range", with(|f| f.section(6)[2] = u32::MAX)),
        ("offsets of its uni-grams are out of range", with(|f| f.section(8)[0] = 1)),
        ("token 10 in its tri-grams is outside its vocabulary of 10", with(|f| f.section(5)[0] = 10)),
        ("token 4294967295 in its uni-grams is outside", with(|f| f.section(9)[0] = u32::MAX)),
        ("successors in its tri-grams are unsorted", with(|f| f.section(5)[3] = 3)),
        ("successors in its bi-grams are unsorted", with(|f| f.section(7)[1] = 0)),
        ("counts in its tri-grams are larger than their total", with(|f| f.section(4)[1] = 2)),
        ("rows of pairs are out of range or unsorted", with(|f| f.section(2)[3] = 9)),
        ("second tokens are out of range or unsorted", with(|f| f.section(3)[2] = 3)),
        ("second tokens are out of range", with(|f| f.section(3)[4] = 10)),
    ]);
    for (expected, text) in texts {
        assert!(text.contains(expected) && text.contains("x.aded"), "expected {expected:?} in {text:?}");
    }
}

#[test]
fn no_altered_bit_goes_unnoticed() {
    let good = Forged::new().bytes();
    for bit in 0..good.len() * 8 {
        let mut bytes = good.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        load_error(&bytes);
    }
    for length in 0..good.len() {
        load_error(&good[..length]);
    }
}

#[test]
fn files_are_told_by_their_path() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("missing.aded");
    let error = Corpus::load(&missing, None).unwrap_err();
    assert!(error.is_io() && error.to_string().contains("missing.aded"), "{error}");
    let error = Corpus::load(folder.path(), None).unwrap_err();
    assert!(error.to_string().contains("not a regular file") || error.is_io(), "{error}");
}

proptest! {
    /// Whatever a sealed file holds: an error or a corpus whose look-ups do not panic.
    #[test]
    fn sealed_nonsense_is_an_error_or_a_corpus(changes in prop::collection::vec((any::<prop::sample::Index>(), 0u32..40), 1..6)) {
        let mut forged = Forged::new();
        for (place, value) in changes {
            let n = forged.0.len();
            forged.0[place.index(n)] = value;
        }
        let bytes = forged.seal().bytes();
        if let Ok(corpus) = Corpus::read(&bytes[..], bytes.len() as u64, "x", None) {
            for a in (0..50).map(Token) {
                corpus.successors2(a).for_each(drop);
                (0..50).for_each(|b| corpus.successors3(a, Token(b)).for_each(drop));
            }
            corpus.successors1().for_each(drop);
        }
    }
}
