//! Fetching a model into the hub's cache, in the layout that llama.cpp and Hugging Face's tools read.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use aded::Error;
use indicatif::{ProgressBar, ProgressStyle};
use tracing::{info, warn};

use super::cache;
use super::hub::{Hub, Listing, Remote, is_inside};
use super::name::{RepoName, parts};
use crate::app::{output, sha256};

/// Attempts in a row that bring nothing until it is given up, and the pause after the first of them; later ones are longer.
const ATTEMPTS: u32 = 4;
const PAUSE: Duration = Duration::from_millis(500);

/// Makes sure that a model is in the cache as the hub has it now, and gives its files.
///
/// # Errors
/// [`Error::is_usage`] if the repository has no such file; [`Error::is_io`] if the hub or the disk fails; [`Error::is_format`] if what came is
/// not what the hub announced.
pub(crate) fn fetch(hub: &Hub, name: &RepoName, file: Option<&str>) -> Result<Vec<PathBuf>, Error> {
    let folder = cache::hub_folders()
        .into_iter()
        .next()
        .ok_or_else(|| Error::usage("there is no folder for models: neither HF_HOME nor HOME is set"))?;
    let listing = hub.list(name)?;
    let chosen = choose(name, file, &listing)?;
    let repo = folder.join(name.folder());
    let mut paths = Vec::new();
    for part in parts(&chosen) {
        if !listing.files.contains(&part) {
            return Err(Error::format(format!("{} lacks {part}, a part of {chosen}", name.repo)));
        }
        let remote = hub.describe(name, &listing.commit, &part)?;
        paths.push(fetch_file(hub, name, &listing.commit, &part, &remote, &repo)?);
    }
    // Last, so that the name stands for what is whole.
    let refs = repo.join("refs");
    fs::create_dir_all(&refs)
        .and_then(|()| replace(&refs.join("main"), listing.commit.as_bytes()))
        .map_err(|error| Error::io(format!("cannot write {}", refs.join("main").display()), error))?;
    Ok(paths)
}

fn choose(name: &RepoName, file: Option<&str>, listing: &Listing) -> Result<String, Error> {
    let files: Vec<&str> = listing.files.iter().map(String::as_str).collect();
    let chosen = match file {
        Some(file) => files.iter().copied().find(|other| *other == file && is_inside(file)),
        None => name.choose(&files),
    };
    chosen.map(str::to_owned).ok_or_else(|| {
        let models: Vec<&str> = files.iter().copied().filter(|file| super::name::is_model(file)).collect();
        let there = if models.is_empty() { "no GGUF file".to_owned() } else { models.join(", ") };
        let wanted = file.or(name.quant.as_deref()).unwrap_or("a GGUF file");
        Error::usage(format!("{} has no {wanted}; it has {there}", name.repo))
    })
}

/// One file: `blobs/HASH`, and a link to it under its name.
fn fetch_file(
    hub: &Hub,
    name: &RepoName,
    commit: &str,
    file: &str,
    remote: &Remote,
    repo: &Path,
) -> Result<PathBuf, Error> {
    let path = repo.join("snapshots").join(commit).join(file);
    let has_size = |path: &Path| fs::metadata(path).is_ok_and(|data| data.is_file() && data.len() == remote.bytes);
    if has_size(&path) {
        return Ok(path);
    }
    let blob = repo.join("blobs").join(&remote.etag);
    let failed = |path: &Path, error| {
        Error::io(format!("cannot write {}; HF_HOME or LLAMA_CACHE names another folder", path.display()), error)
    };
    for folder in [blob.parent(), path.parent()].into_iter().flatten() {
        fs::create_dir_all(folder).map_err(|error| failed(folder, error))?;
    }
    if !has_size(&blob) {
        let unfinished = blob.with_extension("incomplete");
        let mut partial = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&unfinished)
            .map_err(|error| failed(&unfinished, error))?;
        if partial.try_lock().is_err() {
            output::note(&format!("another process fetches {file}: waiting for it"));
            partial.lock().map_err(|error| failed(&unfinished, error))?;
        }
        // The process waited for may have brought this very file.
        if !has_size(&blob) {
            download(hub, name, commit, file, remote, &mut partial, &unfinished)?;
            verify(file, remote, &mut partial, &unfinished)?;
            fs::rename(&unfinished, &blob).map_err(|error| failed(&blob, error))?;
        }
    }
    link(&blob, &path).map_err(|error| failed(&path, error))?;
    Ok(path)
}

/// Fills up the partial file; a connection that is cut is taken up where it was.
fn download(
    hub: &Hub,
    name: &RepoName,
    commit: &str,
    file: &str,
    remote: &Remote,
    partial: &mut File,
    path: &Path,
) -> Result<(), Error> {
    let failed = |error| Error::io(format!("cannot write {}", path.display()), error);
    let mut n_bytes = partial.seek(SeekFrom::End(0)).map_err(failed)?;
    if n_bytes > remote.bytes {
        partial.set_len(0).map_err(failed)?;
        n_bytes = 0;
    }
    if n_bytes > 0 {
        info!("{file}: {n_bytes} of {} bytes are here already", remote.bytes);
    }
    let bar = bar(file, remote.bytes);
    let mut n_vain = 0;
    while n_bytes < remote.bytes {
        let before = n_bytes;
        let result = attempt(hub, name, commit, file, remote, partial, &mut n_bytes, &bar);
        let error = match result {
            Ok(()) if n_bytes >= remote.bytes => break,
            Ok(()) => io::Error::new(io::ErrorKind::UnexpectedEof, "the connection ended early").into(),
            Err(error) => error,
        };
        n_vain = if n_bytes > before { 0 } else { n_vain + 1 };
        let error = match error {
            Failure::Final(error) => return Err(error),
            Failure::Cut(error) => error,
        };
        if n_vain >= ATTEMPTS {
            bar.abandon();
            return Err(Error::io(
                format!(
                    "{file} was cut at byte {n_bytes} of {} and does not go on; the same command goes on from there",
                    remote.bytes
                ),
                error,
            ));
        }
        warn!("{file} was cut at byte {n_bytes} of {}: {error}; going on", remote.bytes);
        sleep(PAUSE * (1 << n_vain));
    }
    bar.finish_and_clear();
    Ok(())
}

/// Why an attempt ended: for good, or so that another may help.
enum Failure {
    Final(Error),
    Cut(io::Error),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Cut(error)
    }
}

#[allow(clippy::too_many_arguments, reason = "one step of `download`, whose state it shares")]
fn attempt(
    hub: &Hub,
    name: &RepoName,
    commit: &str,
    file: &str,
    remote: &Remote,
    partial: &mut File,
    n_bytes: &mut u64,
    bar: &ProgressBar,
) -> Result<(), Failure> {
    // Where it worked a moment ago, a refusal may pass as well.
    let (mut reader, begins) = hub
        .open(name, commit, file, *n_bytes)
        .map_err(|error| if error.is_io() { Failure::Cut(io::Error::other(error)) } else { Failure::Final(error) })?;
    let failed = |error| Failure::Final(Error::io(format!("cannot write {file} to the disk"), error));
    if begins != *n_bytes {
        // The server gives whole files only.
        partial.set_len(0).map_err(failed)?;
        *n_bytes = 0;
    }
    partial.seek(SeekFrom::Start(*n_bytes)).map_err(failed)?;
    let mut buffer = vec![0; 1 << 18];
    loop {
        bar.set_position(*n_bytes);
        let n = match reader.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(n) => n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(Failure::Cut(error)),
        };
        if *n_bytes + n as u64 > remote.bytes {
            // It would never fit; what is here may be of another file.
            partial.set_len(0).map_err(failed)?;
            *n_bytes = 0;
            let bytes = remote.bytes;
            return Err(Failure::Final(Error::format(format!(
                "{file} has more than the {bytes} bytes that were announced"
            ))));
        }
        partial.write_all(&buffer[..n]).map_err(failed)?;
        *n_bytes += n as u64;
    }
}

/// Compares what came with what was announced; a file that is wrong is removed.
fn verify(file: &str, remote: &Remote, partial: &mut File, path: &Path) -> Result<(), Error> {
    partial.sync_all().map_err(|error| Error::io(format!("cannot write {}", path.display()), error))?;
    let Some(expected) = remote.sha256() else {
        info!("{file}: the hub tells no SHA-256, so only the size was compared");
        return Ok(());
    };
    let found = sha256::of_file(path).map_err(|error| Error::io(format!("cannot read {}", path.display()), error))?;
    if found == expected {
        return Ok(());
    }
    let _ = fs::remove_file(path);
    Err(Error::format(format!(
        "{file} came with the SHA-256 {found}, and {expected} was announced: it was removed; fetch it again"
    )))
}

/// A relative link, so that the cache can be moved; where there are no links, the file itself moves.
fn link(blob: &Path, path: &Path) -> io::Result<()> {
    let _ = fs::remove_file(path);
    #[cfg(unix)]
    {
        // From the snapshot's folder up to that of the repository.
        let depth =
            path.parent().zip(blob.parent().and_then(Path::parent)).and_then(|(from, to)| from.strip_prefix(to).ok());
        let n_up = depth.map_or(0, |depth| depth.components().count());
        let up: PathBuf = std::iter::repeat_n("..", n_up).collect();
        let target = up.join("blobs").join(blob.file_name().unwrap_or_default());
        if std::os::unix::fs::symlink(target, path).is_ok() {
            return Ok(());
        }
    }
    fs::rename(blob, path)
}

/// Writes a small file that is never seen half done.
fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let unfinished = path.with_extension(format!("{}.unfinished", std::process::id()));
    fs::write(&unfinished, bytes)?;
    fs::rename(&unfinished, path)
}

fn bar(file: &str, n_bytes: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("{msg} [{bar:30}] {bytes} of {total_bytes}, {bytes_per_sec}, {eta}")
        .map_or_else(|_| ProgressStyle::default_bar(), |style| style.progress_chars("=> "));
    let name = file.rsplit('/').next().unwrap_or(file).to_owned();
    ProgressBar::new(n_bytes).with_style(style).with_message(name)
}
