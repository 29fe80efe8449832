//! Traces: what plain decoding said and the best tokens of its rows, one answer a line, for `aded replay`.
//!
//! The first line says where the trace comes from: `{"trace": 1, "tokenizer", "build", "machine", "model", "settings"}`. Each further
//! line is an answer: `{"question_id", "category", "turn", "greedy", "prompt": [ids], "output": [ids], "tops": [[id, probability, id, ...]]}`, with
//! one entry of `tops` for each output token, likeliest first.

use std::fs::File;
use std::io::{BufRead as _, BufReader, BufWriter, Write as _};
use std::path::Path;

use aded::replay::Recording;
use aded::representative::NO_TOKEN;
use aded::representative::recall::TopRow;
use aded::representative::store::Fingerprint;
use aded::{Error, Token};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Changes whenever a reader of the last one would misread this one.
const TRACE: u32 = 1;

/// Where a trace comes from.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Header {
    trace: u32,
    /// Fingerprint of the tokenizer, as corpus files carry it; traces of earlier builds have none.
    #[serde(default)]
    pub(crate) tokenizer: Option<String>,
    pub(crate) build: Value,
    pub(crate) machine: Value,
    pub(crate) model: Value,
    pub(crate) settings: Value,
}

impl Header {
    pub(crate) fn new(tokenizer: Fingerprint, build: Value, machine: Value, model: Value, settings: Value) -> Self {
        Self { trace: TRACE, tokenizer: Some(tokenizer.to_string()), build, machine, model, settings }
    }
}

#[derive(Serialize, Deserialize)]
struct Line {
    question_id: Value,
    category: String,
    turn: usize,
    greedy: bool,
    prompt: Vec<Token>,
    output: Vec<Token>,
    tops: Vec<Vec<f64>>,
}

/// One recorded answer and what it answers.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) question_id: Value,
    pub(crate) category: String,
    pub(crate) turn: usize,
    pub(crate) recording: Recording,
}

/// Writes a trace.
pub(crate) struct Writer {
    file: BufWriter<File>,
}

impl Writer {
    /// # Errors
    /// If the file cannot be written.
    pub(crate) fn create(path: &Path, header: &Header) -> anyhow::Result<Self> {
        let file = File::create(path)
            .map_err(|error| Error::io(format!("cannot write the trace {}", path.display()), error))?;
        let mut file = BufWriter::new(file);
        writeln!(file, "{}", serde_json::to_string(header)?)?;
        Ok(Self { file })
    }

    /// # Errors
    /// If the file cannot be written.
    pub(crate) fn write(&mut self, answer: &Answer) -> anyhow::Result<()> {
        let recording = &answer.recording;
        let row = |top: &TopRow| -> Vec<f64> {
            let known = top.tokens.iter().zip(top.probabilities).filter(|(token, _)| **token != NO_TOKEN);
            // Five digits: the tables that learn from it keep less.
            known.flat_map(|(token, p)| [f64::from(token.0), (f64::from(p) * 1e5).round() / 1e5]).collect()
        };
        let line = Line {
            question_id: answer.question_id.clone(),
            category: answer.category.clone(),
            turn: answer.turn,
            greedy: recording.is_greedy(),
            prompt: recording.prompt().to_vec(),
            output: recording.output().to_vec(),
            tops: recording.tops().iter().map(row).collect(),
        };
        writeln!(self.file, "{}", serde_json::to_string(&line)?)?;
        Ok(self.file.flush()?)
    }
}

/// Reads a trace.
///
/// # Errors
/// If the file cannot be read, or is no trace of this version.
pub(crate) fn read(path: &Path) -> Result<(Header, Vec<Answer>), Error> {
    let name = path.display();
    let io = |error| Error::io(format!("cannot read the trace {name}"), error);
    let mut lines = BufReader::new(File::open(path).map_err(io)?).lines();
    let first = lines.next().transpose().map_err(io)?.unwrap_or_default();
    let header: Header = serde_json::from_str(&first)
        .map_err(|error| Error::format(format!("{name} is no trace of `aded bench --record`: {error}")))?;
    if header.trace != TRACE {
        return Err(Error::format(format!(
            "{name} is a trace of version {}, and this program reads version {TRACE}; record it again",
            header.trace
        )));
    }
    let mut answers = Vec::new();
    for (number, line) in (2..).zip(lines) {
        let line = line.map_err(io)?;
        let line: Line = serde_json::from_str(&line)
            .map_err(|error| Error::format(format!("line {number} of {name} is no recorded answer: {error}")))?;
        let tops = line.tops.iter().map(|row| top_row(row)).collect();
        answers.push(Answer {
            question_id: line.question_id,
            category: line.category,
            turn: line.turn,
            recording: Recording::new(line.prompt, line.output, tops, line.greedy)?,
        });
    }
    if answers.is_empty() {
        return Err(Error::format(format!("{name} holds no answers; record it again")));
    }
    Ok((header, answers))
}

fn top_row(row: &[f64]) -> TopRow {
    let mut top = TopRow::default();
    for ((token, probability), pair) in top.tokens.iter_mut().zip(&mut top.probabilities).zip(row.chunks_exact(2)) {
        (*token, *probability) = (Token(pair[0] as u32), pair[1] as f32);
    }
    top
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Header {
        Header::new(Fingerprint(42), Value::Null, Value::Null, Value::Null, Value::Null)
    }

    #[test]
    fn what_is_written_is_read_back() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a.trace");
        let mut top = TopRow::default();
        (top.tokens[0], top.tokens[1]) = (Token(7), Token(9));
        (top.probabilities[0], top.probabilities[1]) = (0.75, 0.12345);
        let recording = Recording::new(vec![Token(1), Token(2)], vec![Token(7)], vec![top], true).expect("whole");
        let answer = Answer { question_id: 81.into(), category: "qa".into(), turn: 1, recording };
        let header = header();
        Writer::create(&path, &header).and_then(|mut writer| writer.write(&answer)).expect("written");
        let (header, answers) = read(&path).expect("a trace");
        assert_eq!(header.tokenizer.as_deref(), Some("000000000000002a"));
        assert_eq!((answers.len(), &answers[0].recording), (1, &answer.recording));
        assert_eq!((&answers[0].category, answers[0].turn, &answers[0].question_id), (&answer.category, 1, &81.into()));
    }

    #[test]
    fn faults_are_named() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a.trace");
        let header = serde_json::to_string(&header()).expect("text");
        let refused = |text: &str| {
            std::fs::write(&path, text).expect("written");
            read(&path).expect_err("refused").to_string()
        };
        assert!(refused("").contains("is no trace"));
        assert!(refused(&header.replace(":1", ":9")).contains("version 9"));
        assert!(refused(&header).contains("holds no answers"));
        assert!(refused(&format!("{header}\n{{}}")).contains("line 2"));
    }
}
