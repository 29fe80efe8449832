//! What goes where: text, statistics, JSON, colours, files.

use crate::architectures::Architecture;
use crate::{aded, folder, outcome, piped, program, tiny, write};

/// Memory of 32 bits and attention step by step: the noise between batch shapes stays near 3e-5, far below the distance between the
/// likeliest tokens of the tiny model, so that answers can be compared token by token.
pub(crate) const EXACT: [&str; 6] = ["-ctk", "f32", "-ctv", "f32", "-fa", "off"];

const RUN: [&str; 9] = ["run", "-m", "", "-n", "40", "--temp", "0", "-p", "tell of the hen"];

/// `aded run` on the tiny model with more flags.
fn run(flags: &[&str]) -> crate::Outcome {
    let mut arguments = RUN.to_vec();
    arguments[2] = tiny();
    aded(&[&arguments[..], &EXACT, flags].concat())
}

#[test]
fn only_the_text_is_on_standard_output() {
    let plain = run(&["--spec", "off"]);
    assert_eq!(plain.stderr, "");
    let text = plain.text();
    assert!(text.ends_with('\n') && text.len() > 1);
    let verbose = run(&["--spec", "off", "-v", "--stats"]);
    assert!(verbose.stderr.contains("llama.cpp: ") && verbose.stderr.contains("tokens per round"));
    assert_eq!(verbose.text(), text);
    // The same whatever is drafted, and however the tree is searched.
    for search in ["mcts", "reference", "best-first"] {
        for flags in [&["--spec", "on", "--spec-search", search][..], &["--spec-budget", "8", "--spec-search", search]]
        {
            assert_eq!(run(flags).text(), text, "{flags:?}");
        }
    }
}

#[test]
fn the_kind_of_memory_and_the_drafts_that_it_takes_are_said() {
    let folder = folder();
    for (architecture, drafts) in [
        (Architecture::Llama, "tree"),
        (Architecture::Gemma3, "tree"),
        (Architecture::Mamba, "chain (a state, saved and run forward again)"),
        (Architecture::Lfm2, "chain (a state with 8 snapshots)"),
    ] {
        let model = write(folder.path(), "model.gguf", architecture.gguf(7).bytes());
        let inspected = aded(&["inspect", &model]).text();
        let line = inspected.lines().find(|line| line.starts_with("drafts")).unwrap_or_default();
        assert!(line.ends_with(drafts), "{architecture:?}: {line}");
        let has_cells = matches!(architecture, Architecture::Llama | Architecture::Gemma3);
        assert_eq!(inspected.contains("for each 1,024 tokens of context"), has_cells, "{architecture:?}: {inspected}");
        let run = aded(&["run", "-m", &model, "-p", "the hen", "-n", "12", "--spec", "on", "--stats"]);
        assert!(run.stderr.contains(&format!("drafts: {drafts}, ")), "{architecture:?}: {}", run.stderr);
    }
}

#[test]
fn the_statistics_are_one_line_or_a_table() {
    let one = run(&["--stats", "--spec", "on"]);
    let line = one.stderr.trim_end();
    assert_eq!(line.lines().count(), 1, "{line}");
    for part in ["prompt", "generation", "tokens per round", "nodes per round", "accepted", "drafting", "drafts: tree"]
    {
        assert!(line.contains(part), "{part:?} is not in {line}");
    }
    let full = run(&["--stats=full", "--spec", "on"]).stderr;
    assert!(full.contains("depth 1 ") && full.contains("recall_token"), "{full}");
    let off = run(&["--stats=full", "--spec", "off"]).stderr;
    assert!(off.contains("nothing was drafted"), "{off}");
}

#[test]
fn json_is_one_object_of_a_known_shape() {
    let object = run(&["--json", "--spec", "on"]).json();
    let keys = |value: &serde_json::Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(keys(&object), ["finish_reason", "text", "timings", "tokens"]);
    assert_eq!(
        keys(&object["timings"]),
        [
            "cache_n",
            "draft_ms",
            "draft_n",
            "draft_n_accepted",
            "draft_rounds",
            "learn_ms",
            "nodes_per_round",
            "predicted_ms",
            "predicted_n",
            "predicted_per_second",
            "predicted_per_token_ms",
            "prompt_ms",
            "prompt_n",
            "prompt_per_second",
            "prompt_per_token_ms",
            "speed_up",
            "tokens_per_round"
        ]
    );
    let tokens = object["tokens"].as_array().unwrap();
    assert_eq!(object["timings"]["predicted_n"], tokens.len());
    assert!(tokens.iter().all(serde_json::Value::is_u64));
    assert!(["stop", "length"].contains(&object["finish_reason"].as_str().unwrap()));
    let text = run(&["--spec", "on"]).text();
    assert_eq!(text.trim_end_matches('\n'), object["text"].as_str().unwrap().trim_end_matches('\n'));
    let drafted = object["timings"]["draft_n"].as_u64().unwrap();
    assert!(drafted >= object["timings"]["draft_n_accepted"].as_u64().unwrap());
    let full = run(&["--json", "--stats=full"]).json();
    assert!(full["stats"]["by_source"].is_array());
}

#[test]
fn the_limit_on_tokens_holds() {
    for n in ["0", "1", "7"] {
        let object = run(&["-n", n, "--ignore-eos", "--json", "--spec", "on"]).json();
        assert_eq!(object["tokens"].as_array().unwrap().len().to_string(), n);
        assert_eq!(object["finish_reason"], "length");
    }
    let object = run(&["-n", "-1", "--ignore-eos", "-c", "256", "--json"]).json();
    let timings = &object["timings"];
    let n_all = timings["prompt_n"].as_u64().unwrap() + timings["predicted_n"].as_u64().unwrap();
    // The last token is sampled and not decoded.
    assert_eq!((n_all, object["finish_reason"].as_str()), (257, Some("length")));
}

#[test]
fn stop_strings_end_the_answer_before_them() {
    let text = run(&["--no-escape"]).text();
    let text = text.trim_end_matches('\n');
    let characters: Vec<char> = text.chars().collect();
    let middle: String = characters[characters.len() / 2..characters.len() / 2 + 3].iter().collect();
    let expected = &text[..text.find(&middle).unwrap()];
    for spec in ["on", "off"] {
        for flag in ["-r", "--stop", "--reverse-prompt"] {
            let object = run(&["--no-escape", "--spec", spec, "--json", flag, "never in it", flag, &middle]).json();
            assert_eq!((object["text"].as_str(), object["finish_reason"].as_str()), (Some(expected), Some("stop")));
        }
    }
}

#[test]
fn prompts_come_from_everywhere() {
    let folder = folder();
    let file = write(folder.path(), "prompt.txt", "first part\nsecond part\n");
    let run = |flags: &[&str], input: &[u8]| {
        let base = ["run", "-m", tiny(), "-n", "8", "--temp", "0", "--json"];
        piped(&[&base[..], flags].concat(), input).json()
    };
    let tokens = |flags: &[&str], input: &[u8]| {
        let object = run(flags, input);
        (object["tokens"].clone(), object["timings"]["prompt_n"].clone())
    };
    let whole = tokens(&["-p", "first part\\nsecond part"], b"");
    assert_eq!(tokens(&["-f", &file], b"not read"), whole);
    assert_eq!(tokens(&["-f", "-"], b"first part\nsecond part\n"), whole);
    assert_eq!(tokens(&[], b"first part\nsecond part\n"), whole);
    assert_eq!(tokens(&["-p", "second part"], b"first part"), whole);
    assert_eq!(tokens(&["-p", "second part"], b"first part\n"), whole);
    assert_ne!(tokens(&["--no-escape", "-p", "first part\\nsecond part"], b""), whole);
    // The template adds to the prompt, and so does the system's.
    let count = |flags: &[&str]| run(&[&["-p", "x"], flags].concat(), b"")["timings"]["prompt_n"].as_u64().unwrap();
    assert!(count(&["-no-cnv"]) < count(&[]) && count(&[]) < count(&["-sys", "be brief"]));
    assert_eq!(count(&["-sys", "be brief"]), {
        let file = write(folder.path(), "system.txt", "be brief");
        count(&["-sysf", &file])
    });
}

#[test]
fn sampling_repeats_with_the_seed_and_does_not_depend_on_drafts() {
    let run = |flags: &[&str]| {
        let base = ["run", "-m", tiny(), "-n", "40", "-p", "a story", "--json", "--temp", "1.5"];
        aded(&[&base[..], &EXACT, flags].concat()).json()["tokens"].clone()
    };
    let one = run(&["-s", "1", "--spec", "off"]);
    assert_eq!(run(&["-s", "1", "--spec", "on"]), one);
    assert_eq!(run(&["-s", "1", "--spec-budget", "12"]), one);
    assert_ne!(run(&["-s", "2"]), one);
    assert_ne!(run(&["-s", "1", "--top-k", "1"]), one);
    assert_ne!(
        run(&["-s", "1", "--repeat-penalty", "1.5", "--repeat-last-n", "-1"]),
        run(&["-s", "1", "--min-p", "0.9"])
    );
}

#[test]
fn colours_only_where_they_are_wanted() {
    let has_escape = |flags: &[&str]| run(flags).text().contains('\u{1b}');
    assert!(!has_escape(&["--show-draft", "--spec", "on", "--spec-budget", "8"]));
    assert!(!has_escape(&["--color", "on"]));
    let coloured = run(&["--show-draft", "--color", "on", "--spec", "on", "--spec-budget", "8"]).text();
    let plain = coloured.replace("\u{1b}[32m", "").replace("\u{1b}[0m", "");
    assert_eq!(plain, run(&[]).text());
}

#[test]
fn the_log_goes_to_a_file() {
    let folder = folder();
    let file = folder.path().join("log.txt");
    let quiet = run(&["--log-file", file.to_str().unwrap()]);
    assert_eq!(quiet.stderr, "");
    assert!(std::fs::read_to_string(&file).unwrap().contains("llama.cpp: "));
    run(&["--log-file", "/no/such/folder/log"]).fails(1, "cannot write the log file");
}

#[test]
fn the_environment_stands_in_for_flags() {
    let run = |variables: &[(&str, &str)], flags: &[&str]| {
        let mut command = program();
        command
            .envs(variables.iter().copied())
            .args(["run", "-p", "x", "--json", "--temp", "0", "--ignore-eos"])
            .args(flags);
        outcome(&mut command)
    };
    let n = |outcome: crate::Outcome| outcome.json()["tokens"].as_array().unwrap().len();
    assert_eq!(n(run(&[("ADED_MODEL", tiny()), ("ADED_PREDICT", "3")], &[])), 3);
    assert_eq!(n(run(&[("LLAMA_ARG_MODEL", tiny()), ("LLAMA_ARG_N_PREDICT", "4")], &[])), 4);
    assert_eq!(n(run(&[("ADED_MODEL", tiny()), ("ADED_PREDICT", "3"), ("LLAMA_ARG_N_PREDICT", "4")], &[])), 3);
    assert_eq!(n(run(&[("ADED_MODEL", tiny()), ("ADED_PREDICT", "3")], &["-n", "5"])), 5);
    assert_eq!(n(run(&[("ADED_MODEL", tiny()), ("ADED_PREDICT", "")], &["-n", "2"])), 2);
    run(&[("ADED_MODEL", tiny()), ("ADED_THREADS", "0")], &[]).fails(2, "at least 1");
    // Switches take llama.cpp's words, and where a wrong word comes from is said.
    for (name, word) in [("ADED_EXACT", "on"), ("LLAMA_ARG_CONTEXT_SHIFT", "1"), ("ADED_NO_MMAP", "disabled")] {
        assert_eq!(n(run(&[("ADED_MODEL", tiny()), (name, word)], &["-n", "2"])), 2, "{name}");
    }
    for (name, word) in [("ADED_EXACT", "maybe"), ("ADED_SPEC", "maybe"), ("ADED_TOP_K", "many")] {
        let wrong = run(&[("ADED_MODEL", tiny()), (name, word)], &[]);
        assert!(wrong.code == Some(2) && wrong.stderr.contains(name), "{}", wrong.stderr);
    }
    let typed = run(&[("ADED_MODEL", tiny()), ("ADED_SPEC", "on")], &["--spec", "maybe"]);
    assert!(typed.code == Some(2) && !typed.stderr.contains("ADED_SPEC"), "{}", typed.stderr);
}

#[cfg(target_os = "linux")]
#[test]
fn an_answer_that_cannot_be_written_is_a_failure() {
    for flags in [&[][..], &["--json"]] {
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").expect("there on Linux");
        let outcome = outcome(program().args(["run", "-m", tiny(), "-p", "x", "-n", "3"]).args(flags).stdout(full));
        outcome.fails(1, "cannot write the answer: ");
    }
}

#[test]
fn manual_pages_name_what_the_help_names() {
    let page = aded(&["man", "run"]).text();
    for part in [".TH aded-run 1", "ADED_GPU_LAYERS", "[short: \\-ngl]"] {
        assert!(page.contains(part), "{part:?} is not in {page}");
    }
    assert!(aded(&["man"]).text().contains("aded\\-serve") || !cfg!(feature = "server"));
    aded(&["man", "bench", "compare"]).text();
    aded(&["man", "nothing"]).fails(2, "`aded help` lists them");
    let help = aded(&["run", "--help"]).text();
    assert!(help.contains("[short: -ngl]") && help.contains("[env: ADED_GPU_LAYERS=]"), "{help}");
}

#[test]
fn one_round_is_shown_as_a_tree() {
    let text =
        aded(&["inspect", "tree", "-m", tiny(), "-p", "the hen and the hen", "--after", "4", "--temp", "0"]).text();
    assert!(text.starts_with("round ") && text.contains("tokens expected"), "{text}");
    assert!(text.lines().any(|line| line.contains("(path ")), "{text}");
    let late = aded(&["inspect", "tree", "-m", tiny(), "-p", "x", "--after", "5000", "-c", "128"]);
    late.fails(1, "--after");
    let all = aded(&["inspect", tiny(), "--all"]).text();
    assert!(all.contains("architecture   llama") && all.contains("general.name"), "{all}");
}

#[test]
fn help_versions_and_completions() {
    let version = aded(&["--version"]).text();
    for part in
        [concat!("aded ", env!("CARGO_PKG_VERSION")), "llama.cpp", "b11434", "backends", "compiled for", "own kernels"]
    {
        assert!(version.contains(part), "{part:?} is not in {version}");
    }
    // A checkout names its commit. Where there is no git, or the sources came without it, nothing is said.
    let root = env!("CARGO_MANIFEST_DIR");
    let head = std::process::Command::new("git").args(["-C", root, "rev-parse", "--short=12", "HEAD"]).output();
    if let Some(head) =
        head.ok().filter(|head| head.status.success() && std::path::Path::new(root).join(".git").exists())
    {
        let commit = format!("({})", String::from_utf8_lossy(&head.stdout).trim());
        assert!(version.lines().next().is_some_and(|line| line.ends_with(&commit)), "{commit} is not in {version}");
    }
    assert!(aded(&["--help"]).text().contains("learn"));
    assert!(aded(&["run", "--help"]).text().contains("--spec-budget"));
    for shell in ["bash", "zsh", "fish", "powershell"] {
        assert!(aded(&["completions", shell]).text().contains("aded"));
    }
    let nothing = aded(&[]);
    assert_eq!(nothing.code, Some(2));
    assert!(nothing.stderr.contains("Usage"));
}

#[test]
fn every_stage_of_the_chain_has_a_flag_and_works_with_drafts() {
    for flags in [
        &["--dynatemp-range", "0.5", "--dynatemp-exp", "1.2"][..],
        &["--typical", "0.7"],
        &["--typical-p", "0.7"],
        &["--top-nsigma", "1"],
        &["--top-n-sigma", "1"],
        &["--xtc-probability", "0.5", "--xtc-threshold", "0.05"],
        &["--mirostat", "1", "--mirostat-lr", "0.2", "--mirostat-ent", "3"],
        &["--mirostat", "2"],
        &["--dry-multiplier", "0.8", "--dry-base", "2", "--dry-allowed-length", "1", "--dry-penalty-last-n", "32"],
        &["--dry-multiplier", "0.8", "--dry-sequence-breaker", "none"],
        &["-l", "50+5", "--logit-bias", "60-inf"],
        &["--grammar", "root ::= [a-f ]+"],
        &["-j", r#"{"type": "array", "items": {"type": "boolean"}}"#],
        &["--temp", "0", "--repeat-penalty", "1.5"],
    ] {
        let with = |spec: &str| {
            let all = [&["-n", "24", "--temp", "2", "-s", "3", "--json", "--spec", spec], flags].concat();
            run(&all).json()["tokens"].clone()
        };
        assert_eq!(with("on"), with("off"), "{flags:?}");
    }
}

#[test]
fn grammars_and_schemas_shape_the_answer() {
    let text = run(&["-n", "30", "--temp", "0", "--grammar", "root ::= [a-c]+"]).text();
    assert!(text.trim().len() > 10 && text.trim().bytes().all(|byte| (b'a'..=b'c').contains(&byte)), "{text:?}");
    let folder = crate::folder();
    let grammar = crate::write(folder.path(), "answer.gbnf", b"root ::= \"yes\" | \"no\"");
    let text = run(&["--temp", "0", "--grammar-file", &grammar]).text();
    assert!(["yes", "no"].contains(&text.trim()), "{text:?}");
    let schema = crate::write(folder.path(), "schema.json", br#"{"enum": ["red", "green"]}"#);
    let text = run(&["--temp", "0", "-jf", &schema]).text();
    assert!(["\"red\"", "\"green\""].contains(&text.trim()), "{text:?}");
    // llama.cpp's parser prints where it stopped by itself, before our line.
    let wrong = run(&["--grammar", "root ::= ("]);
    assert_eq!(wrong.code, Some(2));
    assert!(wrong.stderr.contains("error: the grammar does not parse"), "{}", wrong.stderr);
    run(&["-j", "{"]).fails(2, "the JSON schema is no JSON");
    run(&["-jf", "/no/such/file"]).fails(1, "cannot read the JSON schema file");
    run(&["-l", "nonsense"]).fails(2, "is not a token's number");
}

#[test]
fn the_context_shifts_on_request() {
    let with = |flags: &[&str]| {
        let all = [&["-c", "256", "-n", "400", "--temp", "0", "--ignore-eos", "--json", "--stats"], flags].concat();
        let object = run(&all).json();
        (object["tokens"].as_array().unwrap().len(), object["tokens"].clone(), object["finish_reason"].clone())
    };
    let (n, ..) = with(&[]);
    assert!(n < 256);
    let plain = with(&["--context-shift", "--keep", "4", "--spec", "off"]);
    assert_eq!((plain.0, plain.2.as_str()), (400, Some("length")));
    assert_eq!(with(&["--context-shift", "--keep", "4", "--spec", "on"]), plain);
    run(&["--context-shift", "--keep", "-7"]).fails(2, "--keep is -7");
}

#[test]
fn the_memory_is_named() {
    let text = crate::aded(&["inspect", crate::tiny()]).text();
    assert!(text.lines().any(|line| line.starts_with("drafts") && line.ends_with(" tree")), "{text}");
}
