//! A report in the formats that people and programs read.

use std::fmt::Write as _;

use serde_json::json;

use super::measure::Run;
use super::prompts::Question;
use super::report::{Cost, Group, Report};
use super::statistics::Ratio;
use super::table::Table;

/// The table of groups, then sources, forks and costs.
pub(crate) fn markdown(report: &Report) -> String {
    let mut text = header(report);
    if !report.groups.is_empty() {
        text += &groups(&report.groups);
        text += &forks(&report.groups);
    }
    if !report.sources.is_empty() {
        let mut table = Table::new(&["mode", "source", "drafted", "accepted", "share"]);
        for tally in &report.sources {
            let share = percent(tally.accepted, tally.drafted);
            table.push(vec![
                tally.mode.clone(),
                tally.source.clone(),
                tally.drafted.to_string(),
                tally.accepted.to_string(),
                share,
            ]);
        }
        let _ = write!(text, "\nNodes by source\n\n{}", table.markdown());
    }
    if !report.per_depth.is_empty() {
        let mut table = Table::new(&["mode", "depth", "drafted", "accepted", "share"]);
        for tally in report.per_depth.iter().filter(|tally| tally.depth <= 8) {
            let share = percent(tally.accepted, tally.drafted);
            table.push(vec![
                tally.mode.clone(),
                tally.depth.to_string(),
                tally.drafted.to_string(),
                tally.accepted.to_string(),
                share,
            ]);
        }
        let _ = write!(text, "\nNodes by depth, the first eight\n\n{}", table.markdown());
    }
    if !report.cost.is_empty() {
        let _ = write!(text, "\n{}", costs(&report.cost));
    }
    for read in &report.prefill {
        let _ = write!(
            text,
            "\nA prompt of {} tokens, {}: {:.1} ms, {:.0} t/s\n",
            read.tokens, read.kernels, read.ms, read.tps
        );
    }
    text
}

fn header(report: &Report) -> String {
    let text = |value: &serde_json::Value, name: &str| match &value[name] {
        serde_json::Value::String(text) => text.clone(),
        serde_json::Value::Null => "?".to_owned(),
        other => other.to_string(),
    };
    let model = &report.model;
    let hash = model.sha256.get(..12).unwrap_or(&model.sha256);
    format!(
        "{} ({}, {}, sha256 {hash}), {} threads on {}, aded {} ({}), llama.cpp {}\n\n",
        model.file,
        model.arch,
        model.quant,
        text(&report.settings, "threads"),
        text(&report.machine, "cpu"),
        text(&report.build, "aded"),
        text(&report.build, "commit"),
        text(&report.build, "llama_cpp"),
    )
}

/// One line for each group and mode. An interval that spans 1 is marked: it tells nothing.
pub(crate) fn groups(groups: &[Group]) -> String {
    let has_stock = groups.iter().any(|group| group.speedup_vs_stock.is_some());
    let mut head = vec!["group", "mode", "prompts", "t/s", "speed-up", "95 %", "with prefill"];
    if has_stock {
        head.extend(["over llama.cpp's", "95 % "]);
    }
    head.extend(["tokens/round", "rows/round", "overhead", "identical"]);
    let mut table = Table::new(&head);
    let mut is_marked = false;
    for group in groups {
        let is_plain = group.mode == "plain";
        let mut interval = |ends: [f64; 2]| {
            let spans_one = Ratio { value: 1.0, low: ends[0], high: ends[1] }.spans_one();
            is_marked |= spans_one;
            format!("{:.2}-{:.2}{}", ends[0], ends[1], if spans_one { " *" } else { "" })
        };
        let spec = &group.spec;
        let mut row = vec![
            group.category.clone(),
            group.mode.clone(),
            group.prompts.to_string(),
            format!("{:.1}", spec.tps),
            format!("{:.2}x", group.speedup),
            if is_plain { String::new() } else { interval(group.speedup_ci95) },
            format!("{:.2}x", group.speedup_with_prefill),
        ];
        if has_stock {
            row.push(group.speedup_vs_stock.map_or_else(String::new, |value| format!("{value:.2}x")));
            row.push(group.speedup_vs_stock_ci95.map_or_else(String::new, &mut interval));
        }
        row.extend([
            format!("{:.2}", spec.tokens_per_round),
            format!("{:.2}", spec.rows_per_round),
            format!("{:.1} %", 100.0 * spec.overhead_share),
            format!("{}/{}", group.identical, group.answers),
        ]);
        table.push(row);
    }
    let mark = if is_marked { "\n\\* the interval spans 1: neither faster nor slower\n" } else { "" };
    table.markdown() + mark
}

fn forks(groups: &[Group]) -> String {
    let all: Vec<_> = groups.iter().filter(|group| group.category == "all").collect();
    let n: usize = all.iter().map(|group| group.forks.len()).sum();
    if n == 0 {
        return String::new();
    }
    let mut table = Table::new(&["mode", "question", "turn", "at token", "gap of the two best logits"]);
    for group in all {
        for fork in &group.forks {
            table.push(vec![
                group.mode.clone(),
                fork.question_id.to_string(),
                fork.turn.to_string(),
                fork.at.to_string(),
                format!("{:.4}", fork.gap),
            ]);
        }
    }
    format!("\nAnswers that leave the plain one\n\n{}", table.markdown())
}

/// Milliseconds by rows, one column for each context, mode and kernels.
pub(crate) fn costs(cost: &[Cost]) -> String {
    type Key<'a> = (Option<&'a str>, usize, &'a str);
    let mut columns: Vec<Key<'_>> = Vec::new();
    let mut rows: Vec<usize> = Vec::new();
    let key = |cost: &'_ Cost| -> (Option<String>, usize, String) {
        (cost.mode.clone(), cost.used_cells, cost.kernels.clone())
    };
    for entry in cost {
        let column = (entry.mode.as_deref(), entry.used_cells, entry.kernels.as_str());
        if !columns.contains(&column) {
            columns.push(column);
        }
        if !rows.contains(&entry.rows) {
            rows.push(entry.rows);
        }
    }
    rows.sort_unstable();
    let names: Vec<String> = columns
        .iter()
        .map(|(mode, cells, kernels)| {
            let mode = mode.map_or_else(String::new, |mode| format!("{mode}, "));
            format!("{mode}{kernels}, {cells} cells")
        })
        .collect();
    let head: Vec<&str> = ["rows"].into_iter().chain(names.iter().map(String::as_str)).collect();
    let mut table = Table::new(&head);
    for n in rows {
        let cells = columns.iter().map(|&(mode, cells, kernels)| {
            let wanted = (mode.map(str::to_owned), cells, kernels.to_owned());
            let entry = cost.iter().find(|entry| entry.rows == n && key(entry) == wanted);
            entry.map_or_else(String::new, |entry| format!("{:.2}", entry.ms))
        });
        table.push([n.to_string()].into_iter().chain(cells).collect());
    }
    format!("Milliseconds of a round by its rows\n\n{}", table.markdown())
}

fn percent(part: u64, whole: u64) -> String {
    if whole == 0 { String::new() } else { format!("{:.1} %", 100.0 * part as f64 / whole as f64) }
}

/// One object for an answer in one mode.
pub(crate) fn jsonl(question: &Question, run: &Run) -> String {
    let stats = &run.stats;
    let line = json!({
        "question_id": question.question_id,
        "category": question.category,
        "turn": run.turn,
        "mode": run.mode.name(),
        "repetition": run.repetition,
        "prompt_tokens": run.n_prompt,
        "tokens": run.output.len(),
        "finish": run.finish,
        "repetitive": run.repetitive,
        "prompt_ms": stats.prompt_ns as f64 / 1e6,
        "decode_ms": stats.round_ns as f64 / 1e6,
        "rounds": stats.n_rounds,
        "tokens_per_round": stats.tokens_per_round(),
        "drafted": stats.n_drafted,
        "accepted": stats.n_accepted,
        "draft_ms": stats.draft_ns as f64 / 1e6,
        "learn_ms": stats.learn_ns as f64 / 1e6,
        "identical": run.fork.is_none(),
        "fork": run.fork.map(|fork| json!({"at": fork.at, "gap": fork.gap})),
    });
    format!("{line}\n")
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::app::bench::report::{ForkInfo, ModelInfo, Plain, SCHEMA, Spec};

    pub(crate) fn report() -> Report {
        let group = |category: &str, mode: &str, speedup: f64, ends: [f64; 2]| Group {
            category: category.into(),
            mode: mode.into(),
            prompts: 3,
            answers: 6,
            plain: Plain { tokens: 100, decode_ms: 500.0, tps: 200.0 },
            spec: Spec {
                tokens: 100,
                decode_ms: 250.0,
                tps: 400.0,
                rounds: 50,
                tokens_per_round: 2.0,
                ..Spec::default()
            },
            speedup,
            speedup_ci95: ends,
            speedup_with_prefill: 1.0,
            speedup_vs_stock: None,
            speedup_vs_stock_ci95: None,
            identical: 5,
            forks: vec![ForkInfo { question_id: 81.into(), turn: 0, at: 9, gap: 0.0312 }],
        };
        let cost = |rows, used_cells, ms| Cost { mode: None, rows, used_cells, kernels: "aded".into(), ms, samples: 9 };
        Report {
            schema: SCHEMA,
            build: json!({"aded": "0.1.0", "commit": "abc"}),
            machine: json!({"cpu": "one, fast"}),
            model: ModelInfo { file: "m.gguf".into(), ..ModelInfo::default() },
            settings: json!({"threads": 2}),
            groups: vec![group("all", "auto", 2.0, [1.8, 2.2]), group("qa", "auto", 1.01, [0.97, 1.04])],
            cost: vec![cost(1, 64, 4.0), cost(2, 64, 4.5), cost(1, 600, 5.0)],
            prefill: vec![],
            sources: vec![],
            per_depth: vec![],
        }
    }

    #[test]
    fn a_doubtful_interval_is_marked_and_forks_are_listed() {
        let text = markdown(&report());
        assert!(text.contains("0.97-1.04 *") && text.contains("1.80-2.20 "), "{text}");
        assert!(text.contains("neither faster nor slower") && text.contains("0.0312"), "{text}");
        assert!(text.contains("| rows | aded, 64 cells | aded, 600 cells |"), "{text}");
    }

    #[test]
    fn the_schema_is_the_documented_one() {
        let value = serde_json::to_value(report()).expect("serialises");
        let keys = |value: &serde_json::Value| -> Vec<String> {
            value.as_object().map(|object| object.keys().cloned().collect()).unwrap_or_default()
        };
        let mut top = keys(&value);
        top.sort_unstable();
        assert_eq!(top, ["build", "cost", "groups", "machine", "model", "per_depth", "schema", "settings", "sources"]);
        let mut group = keys(&value["groups"][0]);
        group.sort_unstable();
        let expected =
            "answers category forks identical mode plain prompts spec speedup speedup_ci95 speedup_with_prefill";
        assert_eq!(group.join(" "), expected);
        let mut model = keys(&value["model"]);
        model.sort_unstable();
        assert_eq!(model, ["arch", "file", "params", "quant", "sha256"]);
    }
}
