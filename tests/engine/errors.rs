//! Bad input and broken calls: one clear line each, and a target that works on.

use std::process::Command;
use std::thread;
use std::time::Duration;

use aded::batch::DraftBatch;
use aded::draft::DraftTree;
use aded::llama::{ContextParams, FlashAttention, KvType, Model, ModelParams, Target};
use aded::model::TargetModel;
use aded::{Error, Pos, RowId, Slot, Token};

use super::{clear_prompts, prompt, small, tiny};
use crate::gguf::{self, N_CTX_TRAIN, tiny_llama};

fn assert_line(error: &Error, part: &str) {
    let text = error.to_string();
    assert!(text.contains(part) && !text.contains('\n'), "expected {part:?} in {text:?}");
}

#[test]
fn files_that_are_no_text_models_are_refused_with_the_reason() {
    let folder = tempfile::tempdir().unwrap();
    let load = |name: &str, bytes: &[u8]| {
        let path = gguf::write(folder.path(), name, bytes);
        Model::load(path, &ModelParams::default()).unwrap_err()
    };
    let whole = tiny_llama(1).bytes();
    assert_line(&Model::load(folder.path().join("none"), &ModelParams::default()).unwrap_err(), "does not exist");
    assert_line(&Model::load(folder.path(), &ModelParams::default()).unwrap_err(), "is a folder");
    assert_line(&load("empty", b""), "is empty");
    assert_line(&load("foreign", b"PK\x03\x04"), "is not a GGUF file");
    assert_line(&load("cut", &whole[..whole.len() / 2]), "truncated");
    assert_line(&load("head", &whole[..500]), "truncated");
    let mut encoder = tiny_llama(1);
    encoder.bool("llama.attention.causal", false);
    assert_line(&load("encoder", &encoder.bytes()), "is an encoder");
    let mut embedding = tiny_llama(1);
    embedding.u32("llama.pooling_type", 3);
    assert_line(&load("embedding", &embedding.bytes()), "is an embedding model");
    let mut missing = gguf::Gguf::default();
    missing.text("general.architecture", "llama");
    assert_line(&load("missing", &missing.bytes()), "cannot load the model");
    let mut unknown = gguf::Gguf::default();
    unknown.text("general.architecture", "nothing-known");
    assert_line(&load("unknown", &unknown.bytes()), "unknown model architecture");
}

/// Loads the file that the environment names, when [`damaged_bytes_never_end_the_process`] runs this test in a process of its own.
#[test]
fn load_the_file_of_the_environment() {
    if let Some(path) = std::env::var_os("ADED_TEST_LOAD") {
        // Either it loads (a changed weight or name), or there is an error with one line.
        match Model::load(path, &ModelParams { use_mmap: false, ..ModelParams::default() }) {
            Ok(model) => println!("loaded {}", model.description()),
            Err(error) => {
                assert_line(&error, "");
                println!("refused: {error}");
            }
        }
    }
}

#[test]
fn damaged_bytes_never_end_the_process() {
    let folder = tempfile::tempdir().unwrap();
    let whole = tiny_llama(1).bytes();
    let head = whole.windows(16).position(|bytes| bytes == b"token_embd.weigh").unwrap() + 2000;
    let n_rounds = std::env::var("ADED_TEST_DAMAGE").map_or(60, |n| n.parse().unwrap());
    for round in 0..n_rounds {
        let mut random = gguf::Weights::new(round);
        let mut bytes = whole.clone();
        for _ in 0..=round % 3 {
            let at = random.below(head as u32) as usize;
            bytes[at] = [random.below(256) as u8, 0, 1, 0xff][random.below(4) as usize];
        }
        let path = gguf::write(folder.path(), "damaged.gguf", &bytes);
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "errors::load_the_file_of_the_environment", "--nocapture"])
            .env("ADED_TEST_LOAD", &path)
            .env("GGML_NO_BACKTRACE", "1")
            .output()
            .unwrap();
        let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "round {round}: {} {text}", output.status);
    }
}

#[test]
fn values_out_of_range_are_named() {
    let fail = |params: ContextParams| Target::new(tiny(), &params).map(|_| ()).unwrap_err();
    assert_line(&fail(ContextParams { n_threads: 0, ..small() }), "threads is 0");
    assert_line(&fail(ContextParams { n_threads_batch: 0, ..small() }), "threads for batches is 0");
    assert_line(
        &fail(ContextParams { n_batch: 20, ..small() }),
        "a batch size of 20 is smaller than the largest draft of 64",
    );
    assert_line(&fail(ContextParams { n_slots: 20, ..small() }), "320 sequences");
    let quantised = ContextParams { type_v: "q8_0".parse().unwrap(), flash_attention: FlashAttention::Off, ..small() };
    assert_line(&fail(quantised), "needs flash attention");
    assert_line(&"q9_9".parse::<KvType>().unwrap_err(), "known are f32, f16");
    assert_line(&"maybe".parse::<FlashAttention>().unwrap_err(), "auto, on and off");
    let huge = fail(ContextParams { n_ctx: 2_000_000_000, ..small() });
    assert_line(&huge, "cannot create a context of 2000000000 tokens (about ");
    // Larger than trained is a warning, no error.
    Target::new(tiny(), &ContextParams { n_ctx: N_CTX_TRAIN * 2, ..small() }).unwrap();
}

#[test]
fn a_call_that_is_refused_changes_nothing() {
    let mut target = Target::new(tiny(), &small()).unwrap();
    let (start, truth) = clear_prompts(1, 40).remove(0);
    let mut output = vec![prompt(&mut target, Slot(0), &start)];
    while output.len() < 40 {
        let pos = Pos(target.n_committed(Slot(0)));
        let mut batch = DraftBatch::new();
        assert!(target.decode(&batch).unwrap_err().is_target(), "an empty batch");
        batch.push_prompt(Slot(0), pos, &vec![Token(5); 129], true);
        assert_line(&target.decode(&batch).unwrap_err(), "129 rows, but 128 fit");
        batch.clear();
        batch.push_prompt(Slot(0), pos, &[Token(3), Token(100_000)], true);
        assert_line(&target.decode(&batch).unwrap_err(), "token 100000 is outside");
        batch.clear();
        batch.push_prompt(Slot(0), Pos(pos.0 + 1), &[Token(3)], true);
        assert_line(&target.decode(&batch).unwrap_err(), "begin at position");
        assert_eq!(target.n_committed(Slot(0)), pos.0);
        output.push(prompt(&mut target, Slot(0), &[output[output.len() - 1]]));
    }
    assert_eq!(output, truth);
    assert!(target.logits(RowId(77)).is_empty());
}

#[test]
fn a_full_context_is_an_error_and_leaves_the_slot_as_it_was() {
    let params = ContextParams { n_ctx: 256, ..small() };
    let mut target = Target::new(tiny(), &params).unwrap();
    let start: Vec<Token> = (0..250).map(|index| Token(4 + index)).collect();
    for piece in start.chunks(100) {
        prompt(&mut target, Slot(0), piece);
    }
    let mut tree = DraftTree::new();
    (0..8).for_each(|token| _ = tree.add(None, Token(token), 0.1));
    let mut batch = DraftBatch::new();
    batch.push_draft(Slot(0), Pos(250), Token(9), &tree);
    let error = target.decode(&batch).unwrap_err();
    assert!(error.is_full());
    assert_line(&error, "context of 256 tokens is full");
    for _ in 0..6 {
        prompt(&mut target, Slot(0), &[Token(9)]);
    }
    batch.clear();
    batch.push_draft(Slot(0), Pos(256), Token(9), &DraftTree::new());
    assert!(target.decode(&batch).unwrap_err().is_full());
}

#[test]
fn cancelling_ends_a_call_under_way_and_the_target_works_on() {
    let params = ContextParams { n_ctx: 1024, n_batch: 1024, n_threads: 1, n_threads_batch: 1, ..small() };
    let mut target = Target::new(tiny(), &params).unwrap();
    let (start, truth) = clear_prompts(1, 30).remove(0);
    let first = prompt(&mut target, Slot(0), &start);
    let flag = target.cancel_flag();
    let mut cancelled = 0;
    for wait in 0..60 {
        let raiser = thread::spawn({
            let flag = flag.clone();
            move || {
                thread::sleep(Duration::from_micros(wait * 400));
                flag.cancel();
            }
        });
        let mut batch = DraftBatch::new();
        batch.push_prompt(Slot(0), Pos(30), &vec![Token(50); 900], true);
        if let Err(error) = target.decode(&batch) {
            assert!(error.is_cancelled(), "{error}");
            cancelled += 1;
        }
        raiser.join().unwrap();
        flag.reset();
        assert_eq!(target.n_committed(Slot(0)), 30);
    }
    assert!(cancelled > 0, "no call was caught under way");
    let mut output = vec![first];
    while output.len() < 30 {
        output.push(prompt(&mut target, Slot(0), &[output[output.len() - 1]]));
    }
    assert_eq!(output, truth);
}

/// What fuzzing found in the reader of model files, and where it began.
#[test]
fn fuzzed_heads_of_model_files_are_headers_or_errors() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/regressions/gguf");
    for file in std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().path()) {
        if let Err(error) = aded::llama::Header::read(&file, |kind| (kind == 0).then_some((1, 4))) {
            assert!(error.is_format() && !error.to_string().contains('\n'), "{}: {error}", file.display());
        }
    }
}
