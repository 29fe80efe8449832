//! `aded bench compare`: two reports side by side, group by group.

use std::fs;
use std::path::Path;

use aded::Error;

use super::report::{Group, Report, SCHEMA};
use super::table::Table;

/// Reads a report.
///
/// # Errors
/// If the file cannot be read, is no report, or is one of another schema.
pub(crate) fn read(path: &Path) -> Result<Report, Error> {
    let name = path.display();
    let text = fs::read_to_string(path).map_err(|error| Error::io(format!("cannot read the report {name}"), error))?;
    let report: Report = serde_json::from_str(&text)
        .map_err(|error| Error::format(format!("{name} is no report of `aded bench -o json`: {error}")))?;
    if report.schema != SCHEMA {
        return Err(Error::format(format!(
            "{name} is of schema {}, and this program reads schema {SCHEMA}; measure again",
            report.schema
        )));
    }
    Ok(report)
}

/// The groups that both reports have, with the change from the first to the second.
pub(crate) fn markdown(first: &Report, second: &Report) -> String {
    let mut table = Table::new(&[
        "group",
        "mode",
        "t/s A",
        "t/s B",
        "B/A",
        "plain B/A",
        "speed-up A",
        "speed-up B",
        "tokens/round A",
        "tokens/round B",
        "differ",
    ]);
    for a in &first.groups {
        let Some(b) = second.groups.iter().find(|b| (&b.category, &b.mode) == (&a.category, &a.mode)) else { continue };
        table.push(vec![
            a.category.clone(),
            a.mode.clone(),
            format!("{:.1}", a.spec.tps),
            format!("{:.1}", b.spec.tps),
            ratio(a.spec.tps, b.spec.tps),
            ratio(a.plain.tps, b.plain.tps),
            speedup(a),
            speedup(b),
            format!("{:.2}", a.spec.tokens_per_round),
            format!("{:.2}", b.spec.tokens_per_round),
            if intervals_differ(a, b) { "yes".into() } else { String::new() },
        ]);
    }
    let mut notes = String::new();
    let mut note = |what: &str, a: &str, b: &str| {
        if a != b {
            notes += &format!("{what}: {a} in A, {b} in B\n");
        }
    };
    let value = |value: &serde_json::Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    note("model", &first.model.file, &second.model.file);
    note("model hash", &first.model.sha256, &second.model.sha256);
    note("commit", &value(&first.build["commit"]), &value(&second.build["commit"]));
    note("processor", &value(&first.machine["cpu"]), &value(&second.machine["cpu"]));
    note("settings", &first.settings.to_string(), &second.settings.to_string());
    if !notes.is_empty() {
        notes.insert(0, '\n');
    }
    table.markdown() + "\n\"differ\": the 95 % intervals of the speed-ups do not overlap.\n" + &notes
}

fn ratio(a: f64, b: f64) -> String {
    if a > 0.0 { format!("{:.3}", b / a) } else { String::new() }
}

fn speedup(group: &Group) -> String {
    format!("{:.2}x ({:.2}-{:.2})", group.speedup, group.speedup_ci95[0], group.speedup_ci95[1])
}

fn intervals_differ(a: &Group, b: &Group) -> bool {
    a.speedup_ci95[1] < b.speedup_ci95[0] || b.speedup_ci95[1] < a.speedup_ci95[0]
}

#[cfg(test)]
mod tests {
    use super::super::output::tests::report;
    use super::*;

    #[test]
    fn common_groups_are_compared_and_what_else_differs_is_said() {
        let first = report();
        let mut second = report();
        second.groups[0].spec.tps = 600.0;
        second.groups[0].speedup_ci95 = [2.9, 3.1];
        second.groups.truncate(1);
        second.model.file = "other.gguf".into();
        let text = markdown(&first, &second);
        assert!(text.contains("1.500") && text.contains("yes") && !text.contains("qa"), "{text}");
        assert!(text.contains("model: m.gguf in A, other.gguf in B"), "{text}");
    }

    #[test]
    fn foreign_files_and_schemas_are_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a.json");
        let refused = |text: &str| {
            fs::write(&path, text).expect("written");
            read(&path).expect_err("refused").to_string()
        };
        assert!(refused("{}").contains("is no report"));
        let mut other = report();
        other.schema = 7;
        assert!(refused(&serde_json::to_string(&other).expect("serialises")).contains("of schema 7"));
        fs::write(&path, serde_json::to_string(&report()).expect("serialises")).expect("written");
        assert_eq!(read(&path).expect("a report").groups.len(), 2);
    }
}
