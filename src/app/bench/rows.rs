//! A report as rows of one table, for spreadsheets (CSV) and databases (SQL).

use super::report::{Group, Report};
use super::table::{csv_line, sql_insert, sql_table};

/// Columns that tell records apart, with their types in SQL.
const RECORD: &[(&str, &str)] = &[
    ("build_commit", "TEXT"),
    ("cpu_info", "TEXT"),
    ("model_filename", "TEXT"),
    ("model_sha256", "TEXT"),
    ("model_type", "TEXT"),
    ("n_threads", "INTEGER"),
];

/// Columns of a group of questions in one mode.
const GROUP: &[(&str, &str)] = &[
    ("category", "TEXT"),
    ("mode", "TEXT"),
    ("prompts", "INTEGER"),
    ("answers", "INTEGER"),
    ("plain_tokens", "INTEGER"),
    ("plain_ms", "REAL"),
    ("plain_tps", "REAL"),
    ("tokens", "INTEGER"),
    ("ms", "REAL"),
    ("tps", "REAL"),
    ("rounds", "INTEGER"),
    ("tokens_per_round", "REAL"),
    ("rows_per_round", "REAL"),
    ("draft_us_per_round", "REAL"),
    ("learn_us_per_round", "REAL"),
    ("overhead_share", "REAL"),
    ("speedup", "REAL"),
    ("speedup_low", "REAL"),
    ("speedup_high", "REAL"),
    ("speedup_with_prefill", "REAL"),
    ("speedup_vs_stock", "REAL"),
    ("identical", "INTEGER"),
    ("forks", "INTEGER"),
    ("largest_gap", "REAL"),
];

/// Columns of what a pass costs by its rows.
const COST: &[(&str, &str)] =
    &[("kernels", "TEXT"), ("used_cells", "INTEGER"), ("rows", "INTEGER"), ("ms", "REAL"), ("samples", "INTEGER")];

/// A table: its name in SQL, its columns, and its rows; an empty cell holds nothing.
struct Rows {
    name: &'static str,
    columns: Vec<(&'static str, &'static str)>,
    rows: Vec<Vec<String>>,
}

/// A line for the names of the columns, then one for each row.
pub(crate) fn csv(report: &Report) -> String {
    let table = rows(report);
    let head: Vec<String> = table.columns.iter().map(|(name, _)| (*name).to_owned()).collect();
    csv_line(&head) + &table.rows.iter().map(|row| csv_line(row)).collect::<String>()
}

/// A statement that makes the table where it is not there yet, then one for each row.
pub(crate) fn sql(report: &Report) -> String {
    let table = rows(report);
    sql_table(table.name, &table.columns)
        + &table.rows.iter().map(|row| sql_insert(table.name, &table.columns, row)).collect::<String>()
}

/// One row for each group and mode, or without groups one for each number of rows.
fn rows(report: &Report) -> Rows {
    let value = |value: &serde_json::Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let record = [
        value(&report.build["commit"]),
        value(&report.machine["cpu"]),
        report.model.file.clone(),
        report.model.sha256.clone(),
        format!("{} {}", report.model.arch, report.model.quant),
        value(&report.settings["threads"]),
    ];
    let (name, own, cells): (_, _, Vec<Vec<String>>) = if report.groups.is_empty() {
        let cells = report.cost.iter().map(|cost| {
            let (ms, samples) = (format!("{:.4}", cost.ms), cost.samples.to_string());
            vec![cost.kernels.clone(), cost.used_cells.to_string(), cost.rows.to_string(), ms, samples]
        });
        ("aded_curve", COST, cells.collect())
    } else {
        ("aded_bench", GROUP, report.groups.iter().map(group).collect())
    };
    Rows {
        name,
        columns: [RECORD, own].concat(),
        rows: cells.into_iter().map(|cells| record.iter().cloned().chain(cells).collect()).collect(),
    }
}

fn group(group: &Group) -> Vec<String> {
    let (plain, spec) = (&group.plain, &group.spec);
    let number = |number: f64| format!("{number:.4}");
    vec![
        group.category.clone(),
        group.mode.clone(),
        group.prompts.to_string(),
        group.answers.to_string(),
        plain.tokens.to_string(),
        number(plain.decode_ms),
        number(plain.tps),
        spec.tokens.to_string(),
        number(spec.decode_ms),
        number(spec.tps),
        spec.rounds.to_string(),
        number(spec.tokens_per_round),
        number(spec.rows_per_round),
        number(spec.draft_us_per_round),
        number(spec.learn_us_per_round),
        number(spec.overhead_share),
        number(group.speedup),
        number(group.speedup_ci95[0]),
        number(group.speedup_ci95[1]),
        number(group.speedup_with_prefill),
        group.speedup_vs_stock.map_or_else(String::new, number),
        group.identical.to_string(),
        group.forks.len().to_string(),
        group.forks.iter().map(|fork| fork.gap).reduce(f32::max).map_or_else(String::new, |gap| format!("{gap:.5}")),
    ]
}

#[cfg(test)]
mod tests {
    use super::super::output::tests::report;
    use super::*;

    #[test]
    fn every_row_has_a_cell_for_each_column() {
        let curve = Report { groups: Vec::new(), ..report() };
        for (report, n_rows, n_columns) in [(report(), 2, 30), (curve.clone(), 3, 11)] {
            let table = rows(&report);
            assert_eq!((table.rows.len(), table.columns.len()), (n_rows, n_columns));
            assert!(table.rows.iter().all(|row| row.len() == n_columns), "{:?}", table.rows);
            let names: Vec<&str> = table.columns.iter().map(|(name, _)| *name).collect();
            assert_eq!(csv(&report).lines().next(), Some(names.join(",").as_str()));
            assert_eq!(csv(&report).lines().count(), 1 + n_rows);
        }
        let text = sql(&curve);
        assert!(text.starts_with("CREATE TABLE IF NOT EXISTS aded_curve (\n  build_commit TEXT,\n"), "{text}");
        let row = "VALUES ('abc', 'one, fast', 'm.gguf', NULL, ' ', 2, 'aded', 64, 2, 4.5000, 9);\n";
        assert!(text.contains(row), "{text}");
    }
}
