//! `aded memory`: what is kept, for its owner to see and to remove.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use aded::config::RepresentativeConfig;
use aded::representative::Representative;
use aded::representative::memory::{self, MemoryFile, MemorySummary};
use aded::representative::store::Kept;
use aded::{CancelFlag, Error};
use anyhow::Result;
use serde_json::{Value, json};

use super::{lock_name, name, owner, patiently, texts_folder, times_folder};
use crate::app::flags::{MemoryCommand, MemoryShowArgs};
use crate::app::output::note;
use crate::app::resolve;

/// Does what the command says.
///
/// # Errors
/// If a file named cannot be read or is no memory, or if one cannot be removed or written.
pub(crate) fn memory(command: &MemoryCommand) -> Result<()> {
    match command {
        MemoryCommand::Ls { json: false } => print(&list()),
        MemoryCommand::Ls { json: true } => print(&(serde_json::to_string_pretty(&listed())? + "\n")),
        MemoryCommand::Show(args) => show(args),
        MemoryCommand::Clear { files } => clear(files),
        MemoryCommand::Merge { files, output, memory_limit } => merge(files, output, *memory_limit),
    }
}

fn print(text: &str) -> Result<()> {
    io::stdout().lock().write_all(text.as_bytes())?;
    Ok(())
}

/// Files of a folder in the order of their names; none where there is no such folder.
fn files_in(folder: Option<PathBuf>) -> Vec<PathBuf> {
    let entries = folder.and_then(|folder| folder.read_dir().ok()).into_iter().flatten().flatten();
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.path()).filter(|path| path.is_file()).collect();
    files.sort();
    files
}

fn is_kept(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "aded")
}

fn list() -> String {
    let Some(folder) = texts_folder() else { return "there is no cache folder: nothing is kept\n".to_owned() };
    let mut out = format!("{}\n", folder.display());
    for path in files_in(Some(folder)).iter().filter(|path| is_kept(path)) {
        let file_name = path.file_name().unwrap_or_default().to_string_lossy();
        let _ = match memory::summary(path) {
            Ok(summary) => writeln!(
                out,
                "{file_name}  {}, {} contexts, {} texts, saved {}",
                size(summary.n_bytes),
                summary.n_overlay + summary.n_recall,
                summary.n_log_documents,
                age(path)
            ),
            Err(error) => writeln!(out, "{file_name}  {error}"),
        };
    }
    let times: Vec<PathBuf> = files_in(times_folder()).into_iter().filter(|path| is_kept(path)).collect();
    for path in &times {
        let file_name = path.file_name().unwrap_or_default().to_string_lossy();
        let _ = writeln!(out, "times/{file_name}  measured times, saved {}", age(path));
    }
    out
}

/// The same for programs. A file that cannot be read has an `error` in place of counts.
fn listed() -> Vec<Value> {
    let kept = |folder| files_in(folder).into_iter().filter(|path| is_kept(path));
    let entry = |path: &Path, what: &str| {
        let bytes = fs::metadata(path).map_or(0, |meta| meta.len());
        json!({"path": path.to_string_lossy(), "what": what, "bytes": bytes, "age_s": age_s(path)})
    };
    let memories = kept(texts_folder()).map(|path| {
        let mut entry = entry(&path, "memory");
        match memory::summary(&path) {
            Ok(summary) => {
                entry["contexts"] = (summary.n_overlay + summary.n_recall).into();
                entry["texts"] = summary.n_log_documents.into();
                entry["tokens"] = summary.n_log_tokens.into();
            }
            Err(error) => entry["error"] = error.to_string().into(),
        }
        entry
    });
    memories.chain(kept(times_folder()).map(|path| entry(&path, "times"))).collect()
}

/// Seconds since a file was written.
fn age_s(path: &Path) -> Option<u64> {
    let written = fs::metadata(path).and_then(|meta| meta.modified()).ok()?;
    SystemTime::now().duration_since(written).ok().map(|age| age.as_secs())
}

/// Time since a file was written, in words.
fn age(path: &Path) -> String {
    let Some(seconds) = age_s(path) else { return "at an unknown time".to_owned() };
    match seconds {
        0..120 => "just now".to_owned(),
        120..7200 => format!("{} minutes ago", seconds / 60),
        7200..172_800 => format!("{} hours ago", seconds / 3600),
        _ => format!("{} days ago", seconds / 86_400),
    }
}

fn size(n_bytes: u64) -> String {
    format!("{:.1} MiB", n_bytes as f64 / f64::from(1 << 20))
}

fn show(args: &MemoryShowArgs) -> Result<()> {
    let model = if args.text || args.file.is_none() {
        Some(resolve::tokenizer(&args.model, &CancelFlag::new())?)
    } else {
        None
    };
    let path = match (&args.file, &model) {
        (Some(path), _) => path.clone(),
        (None, Some(model)) => {
            let own = texts_folder().unwrap_or_default().join(name(model, owner(model).model));
            if !own.exists() {
                let text = format!("nothing is remembered of this model yet: there is no {}", own.display());
                return Err(Error::usage(text).into());
            }
            own
        }
        (None, None) => PathBuf::new(),
    };
    let summary = memory::summary(&path)?;
    if !args.text {
        return print(&describe(&path, &summary));
    }
    let Some(model) = model else { return Ok(()) };
    if owner(&model).tokenizer != summary.owner.tokenizer {
        return Err(Error::usage(format!(
            "{} was learnt with another tokenizer than {} has; name its model with -m",
            path.display(),
            model.path().display()
        ))
        .into());
    }
    let mut out = String::new();
    for text in memory::texts(&path)? {
        let _ = writeln!(out, "{}\n", model.detokenize(&text, true)?);
    }
    print(&out)
}

fn describe(path: &Path, summary: &MemorySummary) -> String {
    let mut out = String::new();
    let mut line = |name: &str, value: String| _ = writeln!(out, "{name:<14} {value}");
    line("memory", path.display().to_string());
    line("size", format!("{}, saved {}", size(summary.n_bytes), age(path)));
    line("model", format!("{:016x}", summary.owner.model));
    line("tokenizer", format!("{} ({} tokens)", summary.owner.tokenizer, summary.owner.n_vocab));
    line("said", format!("{} contexts with counted successors", summary.n_overlay));
    line("computed", format!("{} contexts with the model's likeliest successors", summary.n_recall));
    line("texts", format!("{} word for word, {} tokens", summary.n_log_documents, summary.n_log_tokens));
    line("calibration", format!("{} outcomes", summary.n_outcomes));
    out
}

/// Whether a file begins like one of ours.
fn is_ours(path: &Path) -> bool {
    let mut label = [0; 5];
    File::open(path).and_then(|mut file| file.read_exact(&mut label)).is_ok() && label == *b"\x89ADED"
}

fn clear(files: &[PathBuf]) -> Result<()> {
    let (mut n_removed, mut n_bytes) = (0u64, 0);
    let mut remove = |path: &Path| -> Result<()> {
        let cannot = |error| Error::io(format!("cannot remove {}", path.display()), error);
        n_bytes += fs::metadata(path).map_err(cannot)?.len();
        fs::remove_file(path).map_err(cannot)?;
        n_removed += 1;
        Ok(())
    };
    for path in files {
        // A damaged memory that was set aside is one all the same; a corpus or a text is not.
        let is_aside = path.extension().is_some_and(|extension| extension == "bad");
        let sort = memory::summary(path).err().map(|error| error.to_string()).unwrap_or_default();
        if path.exists() && !is_aside && (!is_ours(path) || sort.contains("it holds a corpus")) {
            let text = format!("{} is no memory: it stays; name files that `aded memory ls` lists", path.display());
            return Err(Error::usage(text).into());
        }
        remove(path)?;
        let _ = fs::remove_file(path.with_file_name(lock_name(path)));
    }
    if files.is_empty() {
        // Locks and leftovers of killed processes as well: the folder is ours alone.
        for path in files_in(times_folder()).iter().chain(&files_in(texts_folder())) {
            remove(path)?;
        }
    }
    note(&format!("removed {n_removed} files, {}", size(n_bytes)));
    Ok(())
}

fn merge(files: &[PathBuf], output: &Path, memory_limit: u64) -> Result<()> {
    let mut summaries = files.iter().map(memory::summary).collect::<Result<Vec<_>, _>>()?;
    if output.exists() {
        summaries.push(memory::summary(output)?);
    }
    let owner = summaries[0].owner;
    let sum = |count: &dyn Fn(&MemorySummary) -> usize| summaries.iter().map(count).sum::<usize>();
    let mut all = Representative::new(&RepresentativeConfig {
        overlay_contexts: (2 * sum(&|summary| summary.n_overlay)).max(16),
        recall_contexts: (2 * sum(&|summary| summary.n_recall)).max(16),
        log_tokens: sum(&|summary| summary.n_log_tokens).max(16),
        without: Vec::new(),
    });
    for path in files {
        MemoryFile::new(path, owner, memory_limit << 20, false).load(&mut all)?;
    }
    let mut file = MemoryFile::new(output, owner, memory_limit << 20, false);
    if patiently(&mut || file.save(&mut all))? == Kept::Busy {
        let text = format!("another process keeps {} locked; try again once it has ended", output.display());
        return Err(Error::usage(text).into());
    }
    print(&describe(output, &memory::summary(output)?))
}
