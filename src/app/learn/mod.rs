//! `aded learn`: text to a corpus file.

mod own;

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aded::llama::{Model, default_threads};
use aded::representative::corpus::{BuildOptions, CorpusBuilder};
use aded::{CancelFlag, Error};
use anyhow::{Context as _, Result, anyhow};
use indicatif::ProgressBar;
use serde_json::Value;
use tracing::warn;

use own::OwnTexts;

use super::flags::LearnArgs;
use super::output::note;
use super::{interrupt, log, resolve};

/// Text that is tokenized at once. Longer files are learnt in pieces of whole lines, so that memory stays bounded.
const PIECE_BYTES: usize = 1 << 20;
/// Beginning of a file in a folder that tells text from other things.
const PROBE_BYTES: usize = 8192;

/// Learns a corpus.
///
/// # Errors
/// If a file cannot be read or is no text, and if the corpus cannot be written; an older file then stays as it was.
pub(crate) fn learn(args: &LearnArgs) -> Result<()> {
    log::install(&args.log)?;
    let cancel = interrupt::install()?;
    interrupt::watched();
    let output = &args.output;
    if output.exists() && !output.is_file() {
        let name = output.display();
        return Err(Error::usage(format!("{name} is not a regular file: give the corpus a name of its own")).into());
    }
    let inputs = find_inputs(args)?;
    let model = if args.own.is_some() {
        resolve::kernels(args.kernels);
        resolve::model(&args.model, &cancel)?
    } else {
        resolve::tokenizer(&args.model, &cancel)?
    };
    let folder = output.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if !folder.is_dir() {
        return Err(Error::usage(format!("there is no folder {} to write the corpus into", folder.display())).into());
    }
    let options = BuildOptions {
        memory_limit_bytes: args.memory.saturating_mul(1 << 20),
        min_count: args.min_count,
        ..BuildOptions::new(model.n_vocab(), resolve::fingerprint(&model), folder)
    };
    let n_bytes = inputs.iter().map(|input| input.n_bytes).sum();
    let bar = resolve::progress_bar("reading", n_bytes);
    let mut reader = Reader { model, builder: CorpusBuilder::new(options)?, bar, cancel, n_read: 0 };
    for input in &inputs {
        let name = input.path.display();
        reader.read(input).with_context(|| format!("cannot learn from {name}"))?;
    }
    reader.bar.finish_and_clear();
    let Reader { model, mut builder, cancel, mut n_read, .. } = reader;
    if let Some(n_tokens) = args.own {
        let bar = resolve::progress_bar("writing texts", n_tokens);
        let n_threads = args.threads.unwrap_or_else(default_threads);
        let own = OwnTexts { model: &model, n_tokens, seed: args.seed, n_threads, cancel: &cancel, bar: &bar };
        let written = own.write(output, &mut builder);
        bar.finish_and_clear();
        if written.is_err() && cancel.is_cancelled() {
            let texts = own::texts_path(output);
            note(&format!("the texts so far are in {}: the same command goes on from them", texts.display()));
        }
        n_read += u64::from(written?);
    }
    if n_read == 0 {
        return Err(Error::usage("there is no text in the files given: nothing to learn").into());
    }
    let bar = resolve::progress_bar("writing", 1000);
    let summary = builder.finish(output, &mut |share| {
        bar.set_position((share * 1000.0) as u64);
        if cancel.is_cancelled() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    bar.finish_and_clear();
    let summary = summary?;
    note(&format!(
        "{}: {} pairs with {} successors from {} tokens of {n_read} texts, {:.1} MiB",
        output.display(),
        summary.n_contexts,
        summary.n_successors,
        summary.n_tokens,
        summary.n_bytes as f64 / f64::from(1 << 20)
    ));
    Ok(())
}

/// A file to learn from.
struct Input {
    path: PathBuf,
    n_bytes: u64,
    /// The field of each JSON line that holds the text; `None` for plain text.
    field: Option<String>,
    /// Found in a folder, where files that are no text are passed over.
    is_found: bool,
}

fn find_inputs(args: &LearnArgs) -> Result<Vec<Input>> {
    let mut inputs = Vec::new();
    for path in &args.files {
        if path == Path::new("-") {
            inputs.push(Input { path: path.clone(), n_bytes: 0, field: args.field.clone(), is_found: false });
        } else {
            find(path, args, false, &mut inputs)?;
        }
    }
    if inputs.is_empty() && args.own.is_none() {
        return Err(Error::usage("there are no files in the folders given: nothing to learn from").into());
    }
    Ok(inputs)
}

/// Files below `path` in order of their names, so that a folder is learnt alike everywhere. Hidden ones are left out.
fn find(path: &Path, args: &LearnArgs, is_found: bool, inputs: &mut Vec<Input>) -> Result<()> {
    let cannot = || format!("cannot read {}", path.display());
    // Links within folders are not followed: they may lead round in circles.
    let meta = if is_found { path.symlink_metadata() } else { path.metadata() }.with_context(cannot)?;
    if meta.is_dir() {
        let mut entries = path.read_dir().with_context(cannot)?.collect::<io::Result<Vec<_>>>().with_context(cannot)?;
        entries.sort_by_key(std::fs::DirEntry::file_name);
        for entry in entries.iter().filter(|entry| !entry.file_name().as_encoded_bytes().starts_with(b".")) {
            find(&entry.path(), args, true, inputs)?;
        }
    } else if meta.is_file() || !is_found {
        let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
        let is_json = matches!(extension.to_ascii_lowercase().as_str(), "jsonl" | "ndjson") || args.field.is_some();
        let field = is_json.then(|| args.field.clone().unwrap_or_else(|| "text".to_owned()));
        inputs.push(Input { path: path.to_owned(), n_bytes: meta.len(), field, is_found });
    }
    Ok(())
}

struct Reader {
    model: Arc<Model>,
    builder: CorpusBuilder,
    bar: ProgressBar,
    cancel: CancelFlag,
    /// Texts that were not empty.
    n_read: u64,
}

impl Reader {
    fn read(&mut self, input: &Input) -> Result<()> {
        if input.path == Path::new("-") {
            return self.read_from(io::stdin().lock(), input);
        }
        let mut file = File::open(&input.path)?;
        if input.is_found && input.field.is_none() {
            let mut probe = Vec::new();
            (&mut file).take(PROBE_BYTES as u64).read_to_end(&mut probe)?;
            if !is_text(&probe) {
                self.bar.inc(input.n_bytes);
                return Ok(());
            }
            return self.read_from(probe.chain(file), input);
        }
        self.read_from(file, input)
    }

    fn read_from(&mut self, source: impl Read, input: &Input) -> Result<()> {
        let source = BufReader::with_capacity(1 << 16, source);
        match &input.field {
            Some(field) => self.read_json(source, field),
            None => self.read_text(source, input),
        }
    }

    fn read_text(&mut self, mut source: impl io::BufRead, input: &Input) -> Result<()> {
        let (mut piece, mut at) = (Vec::new(), 0);
        let mut is_first = true;
        loop {
            // Whole lines; a line that is as long as a piece is cut between two characters.
            let n = (&mut source).take(PIECE_BYTES as u64).read_until(b'\n', &mut piece)?;
            if n > 0 && piece.len() < PIECE_BYTES {
                continue;
            }
            let end = match std::str::from_utf8(&piece) {
                Ok(_) => piece.len(),
                Err(error) if error.error_len().is_none() && n > 0 => error.valid_up_to(),
                Err(_) if input.is_found => {
                    warn!("{} holds more than text; it was learnt as far as byte {at}", input.path.display());
                    return Ok(());
                }
                Err(error) => {
                    let at = at + error.valid_up_to() as u64;
                    return Err(anyhow!(Error::format(format!(
                        "it is not valid UTF-8 at byte {at}: convert it first"
                    ))));
                }
            };
            let text = std::str::from_utf8(&piece[..end]).unwrap_or_default();
            self.push(text, is_first)?;
            is_first = false;
            self.bar.inc(end as u64);
            at += end as u64;
            piece.drain(..end);
            if n == 0 {
                return Ok(());
            }
        }
    }

    fn read_json(&mut self, source: impl io::BufRead, field: &str) -> Result<()> {
        let (mut n_lines, mut n_without, mut first_fields) = (0u64, 0u64, None);
        for (index, line) in source.lines().enumerate() {
            let line = line.with_context(|| format!("line {}", index + 1))?;
            self.bar.inc(line.len() as u64 + 1);
            if line.trim().is_empty() {
                continue;
            }
            n_lines += 1;
            let value: Value = serde_json::from_str(&line)
                .map_err(|error| Error::format(format!("line {} is not JSON: {error}", index + 1)))?;
            let texts = texts_of(field.split('.').try_fold(&value, |value, name| value.get(name)));
            if texts.is_empty() {
                n_without += 1;
                first_fields.get_or_insert_with(|| fields(&value));
            }
            for text in texts {
                self.push(text, true)?;
            }
        }
        if n_lines > 0 && n_without == n_lines {
            let fields = first_fields.unwrap_or_default();
            return Err(Error::usage(format!(
                "no line has a text in the field {field:?}; the first has {fields}: name one with --field"
            ))
            .into());
        }
        if n_without > 0 {
            warn!("{n_without} of {n_lines} lines have no text in the field {field:?} and were passed over");
        }
        Ok(())
    }

    fn push(&mut self, text: &str, is_new: bool) -> Result<()> {
        if self.cancel.is_cancelled() {
            return Err(Error::cancelled().into());
        }
        if text.is_empty() {
            return Ok(());
        }
        // Neither a begin token nor control tokens by name: it is text, not a prompt.
        let tokens = self.model.tokenize(text, false, false)?;
        self.builder.push_document(&tokens)?;
        self.n_read += u64::from(is_new);
        Ok(())
    }
}

/// Text has no zero bytes and is UTF-8 but for a character cut at the end.
fn is_text(probe: &[u8]) -> bool {
    let is_utf8 = std::str::from_utf8(probe).map_or_else(|error| error.error_len().is_none(), |_| true);
    is_utf8 && !probe.contains(&0)
}

/// The texts in a field: itself, those of a list, or the contents of a list of messages.
fn texts_of(value: Option<&Value>) -> Vec<&str> {
    match value {
        Some(Value::String(text)) => vec![text],
        Some(Value::Array(entries)) => {
            entries.iter().filter_map(|entry| entry.as_str().or_else(|| entry.get("content")?.as_str())).collect()
        }
        _ => Vec::new(),
    }
}

fn fields(value: &Value) -> String {
    match value.as_object() {
        Some(object) if !object.is_empty() => {
            object.keys().map(|key| format!("{key:?}")).collect::<Vec<_>>().join(", ")
        }
        _ => "none".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_found_in_fields_lists_and_messages() {
        let value = serde_json::json!({"a": {"b": "x"}, "l": ["y", 1], "m": [{"role": "user", "content": "z"}]});
        let at = |field: &str| texts_of(field.split('.').try_fold(&value, |value, name| value.get(name)));
        assert_eq!((at("a.b"), at("l"), at("m"), at("a")), (vec!["x"], vec!["y"], vec!["z"], vec![]));
        assert_eq!(fields(&value), r#""a", "l", "m""#);
    }

    #[test]
    fn text_is_told_from_other_things() {
        assert!(is_text("é and more".as_bytes()) && is_text(b"cut \xc3"));
        assert!(!is_text(b"\x7fELF\0") && !is_text(b"\xff\xfe text"));
    }
}
