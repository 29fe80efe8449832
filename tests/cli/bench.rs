//! `aded bench` and `aded replay`: what they write, on a tiny model. No time is asserted.

use crate::{aded, folder, tiny, write};

const QUESTIONS: &str = r#"{"question_id": 81, "category": "writing", "turns": ["Say the hen and the hat.", "Again."]}
{"question_id": "b", "category": "qa", "turns": ["Who sat on the hen and the hat?"]}
"#;

fn numbers(value: &serde_json::Value, names: &[&str]) -> Vec<f64> {
    names.iter().map(|name| value[name].as_f64().unwrap_or_else(|| panic!("{name} is not in {value}"))).collect()
}

#[test]
fn a_report_holds_every_group_and_a_repetition_starts_from_nothing() {
    let folder = folder();
    let prompts = write(folder.path(), "q.jsonl", QUESTIONS);
    let once = |repetitions: &str| {
        let flags = ["-m", tiny(), "--prompts", &prompts, "-n", "40", "--spec-budget", "8", "-o", "json"];
        aded(&[&["bench", "-r", repetitions, "--modes", "plain,stock,auto"], &flags[..]].concat()).json()
    };
    let (one, three) = (once("1"), once("3"));
    assert_eq!((one["schema"].as_u64(), one["model"]["arch"].as_str()), (Some(1), Some("llama")));
    let groups =
        |report: &serde_json::Value| -> Vec<serde_json::Value> { report["groups"].as_array().unwrap().clone() };
    let named = |group: &serde_json::Value| (group["category"].clone(), group["mode"].clone());
    assert_eq!(
        groups(&one).iter().map(named).collect::<Vec<_>>(),
        groups(&three).iter().map(named).collect::<Vec<_>>()
    );
    assert!(groups(&one).iter().any(|group| named(group) == ("mt_bench".into(), "auto".into())));
    for (one, three) in groups(&one).iter().zip(groups(&three)) {
        // Kept tables would make later repetitions of the same question better.
        assert_eq!(one["spec"]["tokens_per_round"], three["spec"]["tokens_per_round"], "{one}");
        assert_eq!(3 * one["answers"].as_u64().unwrap(), three["answers"].as_u64().unwrap());
        let values = numbers(&three, &["speedup", "speedup_with_prefill"]);
        assert!(values.iter().all(|value| *value > 0.0), "{three}");
        assert_eq!(three["speedup_ci95"].as_array().map(Vec::len), Some(2));
    }
    assert!(
        groups(&one)
            .iter()
            .any(|group| group["mode"] == "auto" && group["spec"]["rows_per_round"].as_f64() > Some(1.5))
    );
}

#[test]
fn a_curve_is_a_table_of_rows() {
    let flags = ["bench", "-m", tiny(), "--curve", "--rows", "1-4+3,6", "-c", "16", "-o"];
    let csv = aded(&[&flags[..], &["csv"]].concat()).text();
    let rows: Vec<&str> = csv.lines().skip(1).map(|line| line.rsplit(',').nth(2).unwrap()).collect();
    assert_eq!(rows, ["1", "4", "6"], "{csv}");
    let sql = aded(&[&flags[..], &["sql"]].concat()).text();
    assert_eq!(sql.matches("INSERT INTO aded_curve").count(), 3, "{sql}");
    assert_eq!(aded(&[&flags[..4], &["--rows", "4-1"]].concat()).code, Some(2));
}

#[test]
fn a_recorded_trace_is_replayed_the_same_each_time_and_reports_are_compared() {
    let folder = folder();
    let prompts = write(folder.path(), "q.jsonl", QUESTIONS);
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (trace, svg) = (path("a.trace"), path("a.svg"));
    let flags = ["bench", "-m", tiny(), "--prompts", &prompts, "-n", "40", "-o", "json"];
    let report = aded(&[&flags[..], &["--record", &trace, "--svg", &svg]].concat()).text();
    let report = write(folder.path(), "a.json", report);
    assert!(std::fs::read_to_string(svg).unwrap().starts_with("<svg"));
    let replay = || aded(&["replay", &trace, "--modes", "auto,best-first,mcts,reference", "-o", "json"]).json();
    let played = replay();
    assert_eq!(played, replay());
    let modes: Vec<&str> = played.as_array().unwrap().iter().map(|outcome| outcome["mode"].as_str().unwrap()).collect();
    assert_eq!(modes, ["auto", "best-first", "mcts", "reference"]);
    let all = &played[0]["groups"][0];
    assert_eq!((all["category"].as_str(), all["answers"].as_u64()), (Some("all"), Some(3)));
    assert!(all["predicted_speedup"].as_f64() > Some(0.9) && all["tokens_per_round"].as_f64() >= Some(1.0), "{all}");
    let table = aded(&["bench", "compare", &report, &report]).text();
    assert!(table.contains("| all"), "{table}");
    let curve = ["bench", "--curve", "-m", tiny(), "-c", "16,40", "--rows", "1,4", "-o", "json"];
    let curve = aded(&curve).json();
    let points: Vec<_> =
        curve["cost"].as_array().unwrap().iter().map(|c| (c["rows"].as_u64(), c["used_cells"].as_u64())).collect();
    assert_eq!(points, [(Some(1), Some(16)), (Some(4), Some(16)), (Some(1), Some(40)), (Some(4), Some(40))]);
    let costs = write(folder.path(), "curve.json", curve.to_string());
    aded(&["replay", &trace, "--cost", &costs]).text();
}

#[test]
fn a_replay_drafts_from_a_corpus() {
    let folder = folder();
    let prompts = write(folder.path(), "q.jsonl", QUESTIONS);
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (trace, corpus) = (path("a.trace"), path("a.aded"));
    aded(&["bench", "-m", tiny(), "--prompts", &prompts, "-n", "40", "--record", &trace]).text();
    // What the model said, so that the corpus cannot but be right now and then.
    let said: String = QUESTIONS
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["turns"][0].as_str().unwrap().to_owned())
        .map(|turn| aded(&["run", "-m", tiny(), "-p", &turn, "-n", "40", "--temp", "0", "--memory", "off"]).text())
        .collect();
    let said = write(folder.path(), "said.txt", said);
    aded(&["learn", "-m", tiny(), &said, "-o", &corpus]).text();
    let played = aded(&["replay", &trace, "--cold", "--corpus", &corpus, "-o", "json"]).json();
    let sources = played[0]["sources"].as_array().unwrap();
    assert!(sources.iter().any(|share| share["of"] == "corpus"), "{played}");
    // A trace of another tokenizer.
    let text = std::fs::read_to_string(&trace).unwrap();
    let at = text.find("\"tokenizer\":\"").unwrap() + 13;
    let other = write(folder.path(), "b.trace", format!("{}{:016x}{}", &text[..at], 0, &text[at + 16..]));
    aded(&["replay", &other, "--corpus", &corpus]).fails(2, "learn it with the model of the trace");
    aded(&["replay", &trace, "--corpus", "nowhere.aded"]).fails(1, "nowhere.aded");
}

#[test]
fn faults_are_one_line() {
    let folder = folder();
    let empty = write(folder.path(), "empty.jsonl", "");
    aded(&["bench", "-m", tiny()]).fails(2, "there is nothing to measure");
    aded(&["bench", "-m", tiny(), "--prompts", &empty]).fails(1, "holds no questions");
    aded(&["bench", "-m", tiny(), "--prompts", "nowhere.jsonl"]).fails(1, "cannot read the prompts nowhere.jsonl");
    aded(&["replay", &empty]).fails(1, "is no trace");
    aded(&["replay", &empty, "--cost", "cheap"]).fails(1, "is no trace");
}
