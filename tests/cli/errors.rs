//! Bad input: one clear line, the right exit code, never a panic or an abort.

use crate::{aded, folder, gguf, outcome, piped, program, tiny, write};

#[test]
fn files_that_are_no_model() {
    let folder = folder();
    let run = |path: &str| aded(&["run", "-m", path, "-p", "x"]);
    let whole = gguf::tiny_llama(1).bytes();
    run(&format!("{}/none.gguf", folder.path().display())).fails(1, "does not exist");
    run(folder.path().to_str().unwrap()).fails(1, "is a folder");
    run(&write(folder.path(), "empty.gguf", b"")).fails(1, "is empty");
    run(&write(folder.path(), "foreign.gguf", b"\x89PNG\r\n\x1a\n and more of a picture")).fails(1, "not a GGUF file");
    for length in [20, 200, 4000, whole.len() / 2] {
        run(&write(folder.path(), "cut.gguf", &whole[..length])).fails(1, "truncated");
    }
    aded(&["inspect", &write(folder.path(), "note.txt", b"no model")]).fails(1, "not a GGUF file");
}

#[test]
fn a_corrupt_tensor_table() {
    let folder = folder();
    let whole = gguf::tiny_llama(1).bytes();
    let name = b"blk.0.attn_q.weight";
    let at = whole.windows(name.len()).position(|window| window == name).unwrap() + name.len();
    // After the name: number of extents (4 bytes), the extents (8 each), type (4), offset (8).
    for (offset, bytes) in
        [(0, [99, 0, 0, 0]), (4, [0xff; 4]), (20, [0xee, 0xee, 0, 0]), (24, [0xfe; 4]), (28, [0x7f; 4])]
    {
        let mut damaged = whole.clone();
        damaged[at + offset..at + offset + 4].copy_from_slice(&bytes);
        let outcome = aded(&["run", "-m", &write(folder.path(), "damaged.gguf", &damaged), "-p", "x", "-n", "1"]);
        outcome.fails(1, "damaged.gguf");
    }
}

#[test]
fn models_that_do_not_generate() {
    let folder = folder();
    let mut encoder = gguf::tiny_llama(1);
    encoder.bool("llama.attention.causal", false);
    aded(&["run", "-m", &write(folder.path(), "encoder.gguf", encoder.bytes()), "-p", "x"])
        .fails(1, "a model that generates text is needed");
    let mut embedding = gguf::tiny_llama(1);
    embedding.u32("llama.pooling_type", 1);
    aded(&["run", "-m", &write(folder.path(), "embedding.gguf", embedding.bytes()), "-p", "x"])
        .fails(1, "an embedding model");
}

#[test]
fn values_out_of_range() {
    let run = |flags: &[&str]| aded(&[&["run", "-m", tiny(), "-p", "x"], flags].concat());
    run(&["-t", "0"]).fails(2, "at least 1");
    run(&["-tb", "0"]).fails(2, "at least 1");
    run(&["-t", "100000"]).fails(2, "100000 threads");
    run(&["-b", "8"]).fails(2, "smaller than the largest draft");
    run(&["-ub", "8"]).fails(2, "smaller than the largest draft");
    run(&["-b", "0"]).fails(2, "0");
    run(&["-ctk", "q9_9"]).fails(2, "q9_9");
    run(&["-ctv", "q9_9"]).fails(2, "q9_9");
    run(&["-ctv", "q8_0", "-fa", "off"]).fails(2, "flash attention");
    run(&["-s", "-2"]).fails(2, "seed");
    run(&["-s", "4294967296"]).fails(2, "seed");
    run(&["--temp", "nan"]).fails(2, "temperature");
    run(&["--repeat-penalty", "0"]).fails(2, "repeat penalty");
    run(&["--repeat-last-n", "-2"]).fails(2, "look back");
    run(&["-fa", "perhaps"]).fails(2, "perhaps");
    run(&["--spec-budget", "64"]).fails(2, "from 1 to 63");
    run(&["--spec-depth", "0"]).fails(2, "from 1 to 63");
    run(&["--spec-type", "ngram-mod"]).fails(2, "--spec on|off|auto");
    run(&["--draft-max", "8"]).fails(2, "--spec-budget");
    run(&["-cl"]).fails(2, "aded models ls");
    run(&["-md", "draft.gguf"]).fails(2, "needs none");
    run(&["--spec-without", "luck"]).fails(2, "known are copy");
    aded(&["run", "-hf", "a", "--offline", "-p", "x"]).fails(2, "give user/repo");
    run(&["-hff", "x.gguf"]).fails(2, "-hf user/repo");
    let outcome = run(&["-c", "2000000000"]);
    assert!(outcome.code == Some(1) && outcome.stderr.contains("a smaller context"), "{}", outcome.stderr);
    // These are worded by the parser of the command line.
    for flags in [&["--spec", "maybe"][..], &["-n", "-3"], &["-c", "many"], &["--no-such-flag"], &["-hf"], &["-n"]] {
        let outcome = run(flags);
        assert_eq!(outcome.code, Some(2), "{flags:?}: {}", outcome.stderr);
        assert!(outcome.stderr.starts_with("error: ") && outcome.stdout.is_empty(), "{}", outcome.stderr);
    }
}

#[test]
fn one_model_is_named_and_a_flag_beats_the_environment() {
    let both = "names the model";
    for command in ["run", "chat", "bench", "doctor"] {
        let outcome = aded(&[command, "-m", tiny(), "-hf", "user/repo:Q8_0", "--offline"]);
        outcome.fails(2, both);
        for part in [tiny(), "user/repo:Q8_0", "-m ", "-hf "] {
            assert!(outcome.stderr.contains(part), "{command}: {part}: {}", outcome.stderr);
        }
    }
    let run = |flags: &[&str], variables: &[(&str, &str)]| {
        outcome(program().args(["run", "-p", "x", "-n", "2", "--offline"]).args(flags).envs(variables.iter().copied()))
    };
    let nowhere = "is not on this machine";
    run(&["-m", tiny()], &[("ADED_HF_REPO", "user/repo"), ("LLAMA_ARG_HF_FILE", "x.gguf")]).text();
    run(&["-hf", "no/such"], &[("ADED_MODEL", tiny())]).fails(2, nowhere);
    run(&["-hf", "no/such"], &[("LLAMA_ARG_MODEL", tiny())]).fails(2, nowhere);
    run(&[], &[("ADED_MODEL", tiny()), ("LLAMA_ARG_HF_REPO", "no/such")]).fails(2, both);
    // Empty ones count as unset.
    run(&[], &[("ADED_MODEL", tiny()), ("ADED_HF_REPO", "")]).text();
}

#[test]
fn prompts_that_cannot_be() {
    aded(&["run", "-m", tiny()]).fails(2, "there is no prompt");
    piped(&["run", "-m", tiny()], b"").fails(2, "there is no prompt");
    piped(&["run", "-m", tiny()], b"bad \xff byte").fails(2, "not valid UTF-8 at byte 4");
    let folder = folder();
    let file = write(folder.path(), "prompt.txt", b"\xc3");
    aded(&["run", "-m", tiny(), "-f", &file]).fails(2, "not valid UTF-8 at byte 0");
    aded(&["run", "-m", tiny(), "-f", "/no/such/file"]).fails(1, "cannot read the prompt file /no/such/file");
    let long = "long ".repeat(400);
    aded(&["run", "-m", tiny(), "-c", "256", "-p", &long]).fails(2, "the context holds 256");
    aded(&["run", "-m", tiny(), "-no-cnv", "-sys", "be", "-p", "x"]).fails(2, "needs the chat template");
    aded(&["run", "-m", tiny(), "--chat-template", "{{ raise_exception('no') }}", "-p", "x"]).fails(2, "refuses");
    aded(&["run", "-m", tiny(), "--chat-template", "{% if %}", "-p", "x"]).fails(1, "cannot run");
}

#[cfg(unix)]
#[test]
fn a_prompt_argument_that_is_no_text() {
    use std::os::unix::ffi::OsStrExt as _;
    let bad = std::ffi::OsStr::from_bytes(b"\xff\xfe");
    let outcome = outcome(program().args(["run", "-m", tiny(), "-p"]).arg(bad));
    assert_eq!(outcome.code, Some(2), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("UTF-8") && !outcome.stderr.contains("panic"), "{}", outcome.stderr);
}

#[test]
fn no_model_anywhere() {
    let folder = folder();
    let outcome = outcome(program().env("ADED_MODELS", folder.path()).args(["run", "-p", "x"]));
    outcome.fails(2, "make run");
    assert!(outcome.stderr.contains("-m"), "{}", outcome.stderr);
}

#[test]
fn a_context_beyond_the_training_is_a_warning() {
    let outcome = aded(&["run", "-m", tiny(), "-c", "4096", "-n", "2", "-p", "x"]);
    assert!(outcome.stderr.starts_with("warning: ") && outcome.stderr.contains("1024"), "{}", outcome.stderr);
    outcome.text();
}

#[cfg(target_os = "linux")]
#[test]
fn standard_output_that_is_full() {
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let outcome = outcome(program().args(["run", "-m", tiny(), "-n", "4", "-p", "x"]).stdout(full));
    outcome.fails(1, "o space left");
}

#[test]
fn what_cannot_be_quantised() {
    let folder = folder();
    let output = folder.path().join("out.gguf").to_str().unwrap().to_owned();
    aded(&["quantize", tiny(), &output, "q9_9"]).fails(2, "known are");
    aded(&["quantize", tiny(), &output, "q8_0", "--output-tensor-type", "q9_9"]).fails(2, "q9_9");
    aded(&["quantize", "/no/such/file", &output, "q8_0"]).fails(1, "does not exist");
    aded(&["quantize", &write(folder.path(), "note.txt", b"no model"), &output, "q8_0"]).fails(1, "not a GGUF file");
    aded(&["quantize", tiny(), "/no/such/folder/out.gguf", "q8_0"]).fails(1, "cannot write");
    aded(&["quantize", tiny(), &output, "q8_0"]).text();
    aded(&["quantize", &output, &format!("{output}.again"), "q4_0"]).fails(2, "--allow-requantize");
    aded(&["quantize", &output, &format!("{output}.again"), "q4_0", "--allow-requantize"]).text();
    aded(&["quantize", &output, &output, "q4_0", "--allow-requantize"]).fails(2, "input and output");
    assert!(aded(&["inspect", &output]).text().contains("q8_0 ("));
    aded(&["run", "-m", &output, "-p", "x", "-n", "4"]).text();
}
