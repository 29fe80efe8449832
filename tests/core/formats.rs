//! Files that earlier versions wrote are read by this one. `ADED_WRITE_FORMATS=1` writes those of the format's current version; they are
//! written once, when a version is new, and never again.

use std::ops::ControlFlow;
use std::path::PathBuf;

use aded::draft::cost::{CostTable, TimesFile};
use aded::model::ScriptedModel;
use aded::representative::corpus::{BuildOptions, Corpus, CorpusBuilder};
use aded::representative::memory::{self, MAX_BYTES, MemoryFile, Owner};
use aded::representative::store::Fingerprint;
use aded::sampling::Greedy;
use aded::{Config, Request, Session, Token};

const OWNER: Owner = Owner { tokenizer: Fingerprint(0x1234_5678_9abc_def0), model: 0xfedc_ba98_7654_3210, n_vocab: 40 };

fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/formats").join(name)
}

fn text() -> Vec<Token> {
    [1, 2, 3, 1, 2, 4, 1, 2, 3, 39].map(Token).to_vec()
}

/// Writes into a scratch folder and moves what was asked for: locks stay behind.
fn write() {
    let scratch = tempfile::tempdir().expect("a folder");
    let at = |name: &str| scratch.path().join(name);
    let options = BuildOptions::new(40, OWNER.tokenizer, scratch.path());
    let mut builder = CorpusBuilder::new(options).expect("valid");
    builder.push_document(&text()).expect("in the vocabulary");
    builder.finish(at("corpus-2.aded"), &mut |_| ControlFlow::Continue(())).expect("written");
    let mut session = Session::new(ScriptedModel::new(40, 2, 12.0, 9), Config::default()).expect("valid");
    let request = Request { prompt: &text(), n_max: 12, end_tokens: &[] };
    let mut greedy = Greedy;
    session.generate(&request, &mut greedy).expect("starts").for_each(|token| _ = token.expect("decodes"));
    let known = session.decoder_mut().representative_mut();
    MemoryFile::new(at("memory-2.aded"), OWNER, MAX_BYTES, true).save(known).expect("written");
    let mut table = CostTable::default();
    for round in 0..60 {
        let rows = [1, 2, 8][round % 3];
        table.observe(rows, 100, 4.0 + rows as f32, 1, 0.5);
    }
    TimesFile::new(at("times-2.aded"), 77, true).save(&mut table).expect("written");
    for name in ["corpus-2.aded", "memory-2.aded", "times-2.aded"] {
        std::fs::create_dir_all(path("")).expect("a folder");
        std::fs::copy(at(name), path(name)).expect("copied");
    }
}

#[test]
fn files_of_earlier_versions_are_read() {
    if std::env::var_os("ADED_WRITE_FORMATS").is_some() {
        write();
    }
    for version in 1..=2 {
        let file = |kind: &str| path(&format!("{kind}-{version}.aded"));
        let corpus = Corpus::load(file("corpus"), Some(OWNER.tokenizer)).expect("a corpus");
        let counts: Vec<_> = corpus.successors3(Token(1), Token(2)).counts().collect();
        assert_eq!((counts, corpus.n_vocab()), (vec![(Token(3), 2), (Token(4), 1)], 40));

        let summary = memory::summary(file("memory")).expect("a memory");
        assert_eq!((summary.owner, summary.n_log_documents, summary.n_log_tokens), (OWNER, 1, 22));
        assert_eq!(memory::texts(file("memory")).expect("a memory")[0][..10], text());
        let mut session = Session::new(ScriptedModel::new(40, 2, 12.0, 9), Config::default()).expect("valid");
        let known = session.decoder_mut().representative_mut();
        assert!(MemoryFile::new(file("memory"), OWNER, MAX_BYTES, false).load(known).expect("a memory"));
        let row = known.overlay().pair(Token(1), Token(2)).expect("counted");
        assert!(row.iter().any(|(token, _)| token == Token(3)));

        let mut table = CostTable::default();
        assert!(TimesFile::new(file("times"), 77, false).load(&mut table).expect("times"));
        for rows in [1usize, 2, 8] {
            let ms = table.measured_ms(rows, 100).expect("saved");
            assert!((ms - 4.0 - rows as f32).abs() < 0.5, "version {version}, {rows} rows: {ms}");
        }
    }
}
