//! `aded learn` and what is done with its files.

use std::fs;

use crate::{aded, folder, gguf, outcome, piped, tiny, write};

const TEXT: &str = "the hen and the hat and the hen and the heath\n";

/// What a corpus holds, as `aded inspect` says it, without the file's name.
fn facts(path: &str) -> String {
    aded(&["inspect", path]).text().lines().skip(1).collect::<Vec<_>>().join("\n")
}

#[test]
fn text_json_lines_folders_and_pipes_are_learnt_alike() {
    let folder = folder();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let text = write(folder.path(), "a.txt", TEXT);
    let learn = |input: &[&str], output: &str| {
        aded(&[&["learn", "-m", tiny(), "-o", output], input].concat()).text();
        facts(output)
    };
    let plain = learn(&[&text], &at("plain.aded"));
    assert!(plain.contains("1 documents"), "{plain}");
    let line = serde_json::json!({"id": 1, "text": TEXT, "deep": {"text": TEXT}}).to_string();
    let json = write(folder.path(), "a.jsonl", format!("{line}\n\n"));
    assert_eq!(learn(&[&json], &at("json.aded")), plain);
    let other = write(folder.path(), "lines.txt", &line);
    assert_eq!(learn(&[&other, "--field", "deep.text"], &at("deep.aded")), plain);
    piped(&["learn", "-m", tiny(), "-o", &at("pipe.aded"), "-"], TEXT.as_bytes()).text();
    assert_eq!(facts(&at("pipe.aded")), plain);

    let inner = folder.path().join("all/inner");
    fs::create_dir_all(&inner).unwrap();
    write(&inner, "b.md", TEXT);
    write(&inner, "c.jsonl", &line);
    write(&inner, "binary", b"\x7fELF\0\xff");
    write(&inner, ".hidden", "not this");
    let both = learn(&[&at("all")], &at("all.aded"));
    assert!(both.contains("2 documents"), "{both}");

    let rare = learn(&[&text, "--min-count", "3"], &at("rare.aded"));
    assert_ne!(rare, plain);
}

#[test]
fn a_corpus_is_drafted_from_and_does_not_change_the_answer() {
    let folder = folder();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let base = [
        "run",
        "-m",
        tiny(),
        "-p",
        "a prompt of the user",
        "-n",
        "60",
        "--temp",
        "0",
        "--json",
        "-ctk",
        "f32",
        "-ctv",
        "f32",
        "-fa",
        "off",
    ];
    let plain = aded(&[&base[..], &["--spec", "off"]].concat()).json();
    // The answer itself as a corpus: what it drafts is right.
    let text = write(folder.path(), "answer.txt", plain["text"].as_str().unwrap());
    aded(&["learn", &text, "-m", tiny(), "-o", &at("answer.aded")]).text();
    let without = "copy,log,recall_pair,overlay_pair,runner_up,recall_token,overlay_token";
    let flags = ["--spec", "on", "--corpus", &at("answer.aded"), "--spec-without", without, "--stats=full"];
    let drafted = aded(&[&base[..], &flags].concat()).json();
    assert_eq!(drafted["tokens"], plain["tokens"]);
    assert!(drafted["timings"]["draft_n"].as_u64().unwrap() > 0, "{drafted}");
}

#[test]
fn files_that_are_no_corpus_of_this_model() {
    let folder = folder();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let text = write(folder.path(), "a.txt", TEXT);
    aded(&["learn", &text, "-m", tiny(), "-o", &at("good.aded")]).text();
    let good = fs::read(at("good.aded")).unwrap();
    let run = |path: &str| aded(&["run", "-m", tiny(), "-p", "x", "-n", "1", "--corpus", path]);
    run(&at("good.aded")).text();
    run(&at("none.aded")).fails(1, "cannot read");
    run(&text).fails(1, "does not begin like an aded file");
    run(&write(folder.path(), "empty.aded", b"")).fails(1, "empty");
    run(&write(folder.path(), "cut.aded", &good[..good.len() / 2])).fails(1, "truncated");
    let mut altered = good.clone();
    altered[good.len() / 2] ^= 4;
    run(&write(folder.path(), "altered.aded", &altered)).fails(1, "altered");

    let mut bytes = gguf::tiny_llama(7).bytes();
    // Another text for one token, of the same length: the same file otherwise.
    let at_word = bytes.windows(6).position(|window| window == "\u{2581}the".as_bytes()).unwrap();
    bytes[at_word + 3..at_word + 6].copy_from_slice(b"eht");
    let other = write(folder.path(), "other.gguf", &bytes);
    aded(&["run", "-m", &other, "-p", "x", "-n", "1", "--corpus", &at("good.aded")])
        .fails(1, "learnt with another tokenizer");
}

#[test]
fn input_that_cannot_be_learnt() {
    let folder = folder();
    let output = folder.path().join("out.aded").to_str().unwrap().to_owned();
    let learn = |input: &str| aded(&["learn", input, "-m", tiny(), "-o", &output]);
    learn("/no/such/file").fails(1, "cannot read /no/such/file");
    learn(&write(folder.path(), "bad.txt", b"fine \xff")).fails(1, "not valid UTF-8 at byte 5");
    learn(&write(folder.path(), "cut.txt", b"fine \xc3")).fails(1, "not valid UTF-8 at byte 5");
    learn(&write(folder.path(), "empty.txt", b"")).fails(2, "nothing to learn");
    learn(&write(folder.path(), "bad.jsonl", b"{\"text\": \"a\"}\n{oh\n")).fails(1, "line 2 is not JSON");
    learn(&write(folder.path(), "other.jsonl", b"{\"body\": \"a\"}\n")).fails(2, "\"body\"");
    assert!(!folder.path().join("out.aded").exists());
    let text = write(folder.path(), "a.txt", TEXT);
    aded(&["learn", &text, "-m", tiny(), "-o", "/no/such/folder/x.aded"]).fails(2, "no folder");
    aded(&["learn", &text, "-m", tiny(), "-o", folder.path().to_str().unwrap()]).fails(2, "not a regular file");
}

/// A limit on the size of files stands for a disk that is full.
#[cfg(unix)]
#[test]
fn a_full_disk_leaves_the_old_file() {
    let folder = folder();
    let output = folder.path().join("old.aded");
    let small = write(folder.path(), "small.txt", TEXT);
    aded(&["learn", &small, "-m", tiny(), "-o", output.to_str().unwrap()]).text();
    let old = fs::read(&output).unwrap();
    let words: String = (0..20_000u32).map(|n| format!("w{} ", n.wrapping_mul(2_654_435_761) % 9973)).collect();
    let large = write(folder.path(), "large.txt", words);
    let script = "trap '' XFSZ; ulimit -f 16; exec \"$0\" \"$@\"";
    let mut command = std::process::Command::new("sh");
    command.arg("-c").arg(script).arg(env!("CARGO_BIN_EXE_aded"));
    command.args(["learn", &large, "-m", tiny(), "-o", output.to_str().unwrap()]);
    outcome(&mut command).fails(1, "the old file, if there was one, is unchanged");
    assert_eq!(fs::read(&output).unwrap(), old);
    let leftovers = fs::read_dir(folder.path())
        .unwrap()
        .filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().ends_with(".tmp"));
    assert_eq!(leftovers.count(), 0);
}

#[test]
fn the_model_writes_texts_and_a_larger_number_goes_on_from_them() {
    let folder = folder();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (corpus, texts) = (at("own.aded"), at("own.aded.texts.jsonl"));
    let learn = |n: &str, output: &str| aded(&["learn", "-m", tiny(), "--self", n, "-o", output]);
    let lines = || fs::read_to_string(&texts).unwrap();
    let n_tokens = |lines: &str| -> usize {
        let rows = lines.lines().skip(1).map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        rows.map(|row| row["tokens"].as_array().unwrap().len()).sum()
    };
    learn("3k", &corpus).text();
    let first = lines();
    assert!(n_tokens(&first) >= 3000, "{} tokens", n_tokens(&first));
    let small = facts(&corpus);
    // Nothing is missing: nothing is written.
    learn("3000", &corpus).text();
    assert_eq!((lines(), facts(&corpus)), (first.clone(), small.clone()));
    // As a killed process leaves it: the last line is half there.
    fs::write(&texts, &first[..first.len() - 5]).unwrap();
    learn("6k", &corpus).text();
    let second = lines();
    let whole = first[..first.len() - 1].rfind('\n').unwrap() + 1;
    assert!(second.starts_with(&first[..whole]) && n_tokens(&second) >= 6000);
    assert_ne!(facts(&corpus), small);
    // Text from elsewhere is learnt beside it.
    let text = write(folder.path(), "a.txt", TEXT);
    aded(&["learn", "-m", tiny(), "--self", "1", "-o", &corpus, &text]).text();
    assert_eq!(lines(), second);

    fs::write(&texts, second.replacen("\"seed\":0", "\"seed\":1", 1)).unwrap();
    learn("3k", &corpus).fails(1, "texts of another model, seed or version");
    fs::write(&texts, "not ours\n").unwrap();
    learn("3k", &corpus).fails(1, "line 1: it is not JSON");
    assert_eq!(fs::read_to_string(&texts).unwrap(), "not ours\n", "a foreign file stays as it was");
    let refused = learn("many", &corpus);
    assert!(refused.code == Some(2) && refused.stderr.contains("from 1 to 1000M"), "{}", refused.stderr);
}
