//! Tables in Markdown and CSV.

/// A table of text cells.
#[derive(Clone, Debug, Default)]
pub(crate) struct Table {
    head: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new(head: &[&str]) -> Self {
        Self { head: head.iter().map(|&cell| cell.to_owned()).collect(), rows: Vec::new() }
    }

    /// Adds a row; it must have as many cells as the head.
    pub(crate) fn push(&mut self, row: Vec<String>) {
        debug_assert_eq!(row.len(), self.head.len());
        self.rows.push(row);
    }

    /// Aligned, so that it reads well unrendered: the first column to the left, numbers to the right.
    pub(crate) fn markdown(&self) -> String {
        let width = |column: usize| {
            let cells = self.rows.iter().chain([&self.head]).map(|row| row[column].chars().count());
            cells.max().unwrap_or(0).max(3)
        };
        let widths: Vec<usize> = (0..self.head.len()).map(width).collect();
        let is_text = |column: usize| {
            self.rows.iter().all(|row| !row[column].starts_with(|first: char| first.is_ascii_digit() || first == '-'))
        };
        let left: Vec<bool> = (0..self.head.len()).map(is_text).collect();
        let line = |row: &[String]| {
            let cells = row.iter().enumerate().map(|(column, cell)| {
                let space = " ".repeat(widths[column] - cell.chars().count());
                if left[column] { format!(" {cell}{space} ") } else { format!(" {space}{cell} ") }
            });
            format!("|{}|\n", cells.collect::<Vec<_>>().join("|"))
        };
        let rule = |(column, width): (usize, &usize)| {
            let dashes = "-".repeat(width + 1);
            if left[column] { format!("{dashes}-") } else { format!("{dashes}:") }
        };
        let rule = format!("|{}|\n", widths.iter().enumerate().map(rule).collect::<Vec<_>>().join("|"));
        line(&self.head) + &rule + &self.rows.iter().map(|row| line(row)).collect::<String>()
    }
}

/// One line of CSV (RFC 4180).
pub(crate) fn csv_line(cells: &[String]) -> String {
    let quoted = cells.iter().map(|cell| {
        if cell.contains([',', '"', '\n', '\r']) { format!("\"{}\"", cell.replace('"', "\"\"")) } else { cell.clone() }
    });
    quoted.collect::<Vec<_>>().join(",") + "\n"
}

/// The statement that makes a table where it is not there yet; columns are names and types.
pub(crate) fn sql_table(name: &str, columns: &[(&str, &str)]) -> String {
    let columns: Vec<String> = columns.iter().map(|(name, kind)| format!("  {name} {kind}")).collect();
    format!("CREATE TABLE IF NOT EXISTS {name} (\n{}\n);\n", columns.join(",\n"))
}

/// The statement that adds a row. An empty cell becomes NULL, and numbers stand as they are.
pub(crate) fn sql_insert(name: &str, columns: &[(&str, &str)], cells: &[String]) -> String {
    let names: Vec<&str> = columns.iter().map(|(name, _)| *name).collect();
    let values = columns.iter().zip(cells).map(|((_, kind), cell)| match (*kind, cell.as_str()) {
        (_, "") => "NULL".to_owned(),
        ("TEXT", text) => format!("'{}'", text.replace('\'', "''")),
        (_, number) => number.to_owned(),
    });
    format!("INSERT INTO {name} ({}) VALUES ({});\n", names.join(", "), values.collect::<Vec<_>>().join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sql_quotes_texts_and_leaves_numbers() {
        let columns = [("name", "TEXT"), ("n", "INTEGER"), ("x", "REAL")];
        assert_eq!(sql_table("t", &columns[..2]), "CREATE TABLE IF NOT EXISTS t (\n  name TEXT,\n  n INTEGER\n);\n");
        assert_eq!(
            sql_insert("t", &columns, &["o'clock".into(), "3".into(), String::new()]),
            "INSERT INTO t (name, n, x) VALUES ('o''clock', 3, NULL);\n"
        );
    }

    #[test]
    fn tables_are_aligned_and_csv_is_quoted() {
        let mut table = Table::new(&["name", "n"]);
        table.push(vec!["é".into(), "1.5".into()]);
        table.push(vec!["longer".into(), "10.25".into()]);
        assert_eq!(
            table.markdown(),
            "| name   |     n |\n|--------|------:|\n| é      |   1.5 |\n| longer | 10.25 |\n"
        );
        assert_eq!(csv_line(&["a".into(), "b,\"c\"".into()]), "a,\"b,\"\"c\"\"\"\n");
    }
}
