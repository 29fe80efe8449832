//! What was learnt, from one process to the next: loaded at the start, saved at the end and every few minutes.

mod command;

use std::fs;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use aded::Error;
use aded::config::DraftMode;
use aded::draft::cost::TimesFile;
use aded::llama::{ContextParams, Model, circumstances};
use aded::representative::memory::{MemoryFile, Owner};
use aded::representative::store::Kept;
use aded::round::Decoder;
use tracing::{info, warn};

use super::flags::{KernelArgs, MemoryArgs, ModelArgs};
use super::resolve;

pub(crate) use command::memory;

/// Time between two saves of a process that goes on.
const INTERVAL: Duration = Duration::from_secs(180);

/// How long to wait for another process that is saving: it takes some hundred milliseconds on a slow disk.
const PATIENCE: Duration = Duration::from_secs(2);

/// Tables of times that are kept; each is of one model file in one setting and takes some kilobytes.
const MAX_TIMES: usize = 64;

/// The memory of a session's decoder. Whatever goes wrong with it is a warning: an answer needs no memory.
#[derive(Debug)]
pub(crate) struct Memory {
    texts: Option<MemoryFile>,
    times: Option<TimesFile>,
    is_kept: bool,
    saved_at: Instant,
    n_rounds: u32,
}

impl Memory {
    /// Takes up what earlier processes learnt about this model, and what its rounds cost in these
    /// [circumstances](aded::llama::circumstances): the context's parameters, where the model lies and whose kernels run. A decoder
    /// that never drafts needs neither.
    ///
    /// # Errors
    /// A usage error if the file named is in a folder that is not there.
    pub(crate) fn open(
        args: &MemoryArgs,
        model: &Model,
        placement: (&ContextParams, &ModelArgs, KernelArgs),
        decoder: &mut Decoder,
    ) -> Result<Self, Error> {
        let mut memory = Self {
            texts: None,
            times: None,
            is_kept: true,
            saved_at: Instant::now(),
            n_rounds: decoder.cost().n_rounds(),
        };
        if decoder.config().draft.mode == DraftMode::Off {
            return Ok(memory);
        }
        memory.is_kept = args.memory.as_os_str() != "read";
        if let Some(mut file) = texts_file(args, model)? {
            match file.load(decoder.representative_mut()) {
                Ok(true) => info!("memory: {}", file.path().display()),
                Ok(false) => {}
                Err(error) => warn!("{error}"),
            }
            memory.texts = Some(file);
        }
        if let Some(folder) = times_folder() {
            let (params, ModelArgs { gpu_layers, .. }, kernels) = placement;
            let circumstances = circumstances(model, params, *gpu_layers, &resolve::kernels_of(kernels));
            let mut file = TimesFile::new(folder.join(name(model, circumstances)), circumstances, true);
            if let Err(error) = file.load(decoder.cost_mut()) {
                warn!("{error}");
            }
            memory.times = Some(file);
        }
        Ok(memory)
    }

    /// To be called by whatever answers many prompts, now and then, between rounds or between answers: saves if the last time is long ago.
    pub(crate) fn tick(&mut self, decoder: &mut Decoder) {
        if self.saved_at.elapsed() >= INTERVAL {
            self.close(decoder);
        }
    }

    /// Saves what was learnt since the last time, if anything was.
    pub(crate) fn close(&mut self, decoder: &mut Decoder) {
        self.saved_at = Instant::now();
        let n_rounds = decoder.cost().n_rounds();
        if n_rounds == self.n_rounds || !self.is_kept {
            return;
        }
        self.n_rounds = n_rounds;
        if let Some(file) = &mut self.texts {
            let path = file.path().to_owned();
            if !save(&path, &mut || file.save(decoder.representative_mut())) {
                self.texts = None;
            }
        }
        if let Some(file) = &mut self.times {
            let path = file.path().to_owned();
            let is_new = !path.exists();
            if !save(&path, &mut || file.save(decoder.cost_mut())) {
                self.times = None;
            } else if is_new && let Some(folder) = path.parent() {
                remove_oldest(folder, MAX_TIMES);
            }
        }
    }
}

/// Saves, and waits for another process that does. False, and a warning, if that will not work later either.
fn save(path: &Path, attempt: &mut dyn FnMut() -> Result<Kept, Error>) -> bool {
    if let Some(folder) = path.parent().filter(|folder| !folder.exists()) {
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true);
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        if let Err(error) = builder.create(folder) {
            warn!(
                "cannot make the folder {}, so nothing is remembered: {error}; --memory off asks for none",
                folder.display()
            );
            return false;
        }
    }
    match patiently(attempt) {
        Ok(Kept::Saved) => true,
        Ok(Kept::Busy) => {
            warn!("another process keeps {} locked: what was learnt since is saved next time", path.display());
            true
        }
        Err(error) => {
            let cause = std::error::Error::source(&error).map_or_else(String::new, |cause| format!(": {cause}"));
            warn!("{error}{cause}");
            false
        }
    }
}

/// Tries again for a while where another process is saving.
fn patiently(attempt: &mut dyn FnMut() -> Result<Kept, Error>) -> Result<Kept, Error> {
    let begun = Instant::now();
    loop {
        match attempt() {
            Ok(Kept::Busy) if begun.elapsed() < PATIENCE => sleep(Duration::from_millis(20)),
            ended => return ended,
        }
    }
}

/// The file that the flags mean; none if they ask for none.
fn texts_file(args: &MemoryArgs, model: &Model) -> Result<Option<MemoryFile>, Error> {
    let owner = owner(model);
    let max_bytes = args.memory_limit << 20;
    let path = &args.memory;
    Ok(match path.to_str() {
        Some("off") => None,
        Some("on" | "read") => {
            texts_folder().map(|folder| MemoryFile::new(folder.join(name(model, owner.model)), owner, max_bytes, true))
        }
        _ => {
            let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
            if !folder.is_dir() {
                return Err(Error::usage(format!(
                    "--memory {}: there is no folder {}; give a file in one that exists, or on, read or off",
                    path.display(),
                    folder.display()
                )));
            }
            Some(MemoryFile::new(path, owner, max_bytes, false))
        }
    })
}

/// Whose memory it is: a model's, whatever its quantisation.
fn owner(model: &Model) -> Owner {
    Owner { tokenizer: resolve::fingerprint(model), model: model.metadata_fingerprint(), n_vocab: model.n_vocab() }
}

/// The folder of what was learnt from texts.
pub(crate) fn texts_folder() -> Option<PathBuf> {
    resolve::folder("ADED_MEMORY_DIR", "memory")
}

/// The folder of measured times.
fn times_folder() -> Option<PathBuf> {
    Some(texts_folder()?.join("times"))
}

/// A file name that people can read and that no two models share.
fn name(model: &Model, number: u64) -> String {
    let stem = model.path().file_stem().map(|stem| stem.to_string_lossy().into_owned());
    let spoken = model.name().map(str::to_owned).or(stem).unwrap_or_default();
    let mut slug = String::new();
    for part in spoken.split(|c: char| !c.is_ascii_alphanumeric()).filter(|part| !part.is_empty()) {
        if slug.len() + part.len() > 40 {
            break;
        }
        slug += part;
        slug.push('-');
    }
    format!("{slug}{number:016x}.aded").to_ascii_lowercase()
}

/// Removes the files that were written longest ago, but for `n`.
fn remove_oldest(folder: &Path, n: usize) {
    let mut files: Vec<_> = fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.path().extension().is_some_and(|extension| extension == "aded"))
        .filter_map(|entry| Some((entry.metadata().and_then(|meta| meta.modified()).ok()?, entry.path())))
        .collect();
    files.sort();
    let n_old = files.len().saturating_sub(n);
    for (_, path) in &files[..n_old] {
        // One that stays takes some kilobytes.
        let _ = fs::remove_file(path);
        let _ = fs::remove_file(path.with_file_name(lock_name(path)));
    }
}

/// The name of the lock beside a file.
fn lock_name(path: &Path) -> String {
    format!(".{}.lock", path.file_name().unwrap_or_default().to_string_lossy())
}
