//! Prompt files: one question a line, `{"question_id", "category", "turns"}`.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use aded::Error;
use serde::Deserialize;

/// One question with all its turns.
#[derive(Clone, Debug, Deserialize, PartialEq)]
pub(crate) struct Question {
    /// A number or a name; only passed on.
    pub(crate) question_id: serde_json::Value,
    pub(crate) category: String,
    pub(crate) turns: Vec<String>,
}

/// MT-Bench's categories, which hold few questions each and are pooled as [`MT_BENCH`].
const MT_BENCH_CATEGORIES: [&str; 8] =
    ["writing", "roleplay", "reasoning", "math", "coding", "extraction", "stem", "humanities"];
const MT_BENCH: &str = "mt_bench";

/// Reads a prompt file; the first `limit` questions of each category.
///
/// # Errors
/// If it cannot be read, if a line is no question, or if there is none.
pub(crate) fn read(path: &Path, limit: Option<usize>) -> Result<Vec<Question>, Error> {
    let name = path.display();
    let text = fs::read_to_string(path).map_err(|error| Error::io(format!("cannot read the prompts {name}"), error))?;
    parse(&text, limit, &name.to_string())
}

fn parse(text: &str, limit: Option<usize>, name: &str) -> Result<Vec<Question>, Error> {
    let mut questions = Vec::new();
    let mut n_of: HashMap<String, usize> = HashMap::new();
    for (number, line) in (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty()) {
        let mut question: Question = serde_json::from_str(line).map_err(|error| {
            Error::format(format!(
                "line {number} of {name} is no question; {{\"question_id\", \"category\", \"turns\"}} is expected: {error}"
            ))
        })?;
        if question.turns.is_empty() || question.turns.iter().any(|turn| turn.is_empty()) {
            return Err(Error::format(format!("line {number} of {name} has no turn, or an empty one")));
        }
        if MT_BENCH_CATEGORIES.contains(&question.category.as_str()) {
            question.category = MT_BENCH.to_owned();
        }
        let n = n_of.entry(question.category.clone()).or_default();
        *n += 1;
        if limit.is_none_or(|limit| *n <= limit) {
            questions.push(question);
        }
    }
    if questions.is_empty() {
        return Err(Error::format(format!("{name} holds no questions")));
    }
    Ok(questions)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_are_limited_by_category_and_mt_bench_is_one() {
        let text = r#"{"question_id": 1, "category": "writing", "turns": ["a", "b"]}
            {"question_id": "x", "category": "qa", "turns": ["c"], "more": 1}

            {"question_id": 2, "category": "stem", "turns": ["d"]}
            {"question_id": 3, "category": "math", "turns": ["e"]}"#;
        let questions = parse(text, Some(2), "f").expect("questions");
        let categories: Vec<&str> = questions.iter().map(|question| question.category.as_str()).collect();
        assert_eq!(categories, ["mt_bench", "qa", "mt_bench"]);
        assert_eq!(questions[0].turns, ["a", "b"]);
        assert_eq!(parse(text, None, "f").expect("questions").len(), 4);
    }

    #[test]
    fn faults_name_the_line() {
        let fault = |text: &str| parse(text, None, "f.jsonl").expect_err("refused").to_string();
        assert!(fault("{}").contains("line 1 of f.jsonl is no question"));
        assert!(
            fault("\n{\"question_id\":1,\"category\":\"qa\",\"turns\":[]}").contains("line 2 of f.jsonl has no turn")
        );
        assert!(fault(" \n").contains("holds no questions"));
    }
}
