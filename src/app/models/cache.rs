//! Model files on this machine: our store, the hub's cache that llama.cpp and Hugging Face's tools share, and llama.cpp's older one.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use super::name::{RepoName, Split, is_model, parts};
use crate::app::resolve::model_store;

/// Where a file was found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Place {
    /// Our store.
    Store,
    /// A hub's cache: `models--user--repo/snapshots/COMMIT/FILE`.
    Hub,
    /// llama.cpp's cache of earlier releases: `user_repo_FILE`.
    LlamaCpp,
}

impl Place {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Store => "store",
            Self::Hub => "hub",
            Self::LlamaCpp => "llama.cpp",
        }
    }
}

/// A model on this machine; one that is split over files counts once.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    pub(crate) place: Place,
    /// `user/repo` where that is known.
    pub(crate) repo: Option<String>,
    /// The name within the repository or the folder; of a split model the first part.
    pub(crate) file: String,
    /// All its files.
    pub(crate) paths: Vec<PathBuf>,
    pub(crate) bytes: u64,
}

fn set(name: &str) -> Option<PathBuf> {
    env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}

fn home() -> Option<PathBuf> {
    env::home_dir().filter(|home| !home.as_os_str().is_empty())
}

/// The caches of the hub, as llama.cpp looks for them; files are fetched into the first.
pub(crate) fn hub_folders() -> Vec<PathBuf> {
    let candidates = [
        set("LLAMA_CACHE"),
        set("HF_HUB_CACHE"),
        set("HUGGINGFACE_HUB_CACHE"),
        set("HF_HOME").map(|home| home.join("hub")),
        set("XDG_CACHE_HOME").map(|cache| cache.join("huggingface/hub")),
        home().map(|home| home.join(".cache/huggingface/hub")),
    ];
    let mut folders: Vec<PathBuf> = Vec::new();
    for folder in candidates.into_iter().flatten() {
        if !folders.contains(&folder) {
            folders.push(folder);
        }
    }
    folders
}

/// llama.cpp's caches of earlier releases.
pub(crate) fn llama_cpp_folders() -> Vec<PathBuf> {
    let cache = if cfg!(target_os = "macos") {
        home().map(|home| home.join("Library/Caches"))
    } else if cfg!(windows) {
        set("LOCALAPPDATA")
    } else {
        set("XDG_CACHE_HOME").or_else(|| home().map(|home| home.join(".cache")))
    };
    set("LLAMA_CACHE").into_iter().chain(cache.map(|cache| cache.join("llama.cpp"))).collect()
}

/// All models that are whole, in a fixed order. Folders that cannot be read hold none.
pub(crate) fn all() -> Vec<Found> {
    let mut found = Vec::new();
    if let Some(store) = model_store() {
        collect(&store, Place::Store, None, &store, &mut found);
    }
    for folder in hub_folders() {
        for repo in entries(&folder) {
            let name = repo.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let Some(name) = name.strip_prefix("models--").and_then(|name| name.split_once("--")) else { continue };
            let name = format!("{}/{}", name.0, name.1);
            // Several revisions may be there; what the names stand for now is the one that counts.
            let Some(snapshot) = current(&repo) else { continue };
            collect(&snapshot, Place::Hub, Some(&name), &snapshot, &mut found);
        }
    }
    for folder in llama_cpp_folders() {
        // Not below: LLAMA_CACHE may be a hub's cache as well.
        for path in entries(&folder).into_iter().filter(|path| path.is_file()) {
            add(&path, Place::LlamaCpp, None, &folder, &mut found);
        }
    }
    found
}

/// The models in one place that belong to a repository.
pub(crate) fn of_repo(name: &RepoName) -> Vec<Found> {
    // The older cache wrote a dash for nothing and an underscore for every slash.
    let prefix = format!("{}_", name.repo.replace('/', "_"));
    let mut found = all();
    found.retain_mut(|found| match found.place {
        Place::Store => false,
        Place::Hub => found.repo.as_deref() == Some(&name.repo),
        Place::LlamaCpp => match found.file.strip_prefix(&prefix).map(str::to_owned) {
            Some(file) => {
                found.file = file;
                true
            }
            None => false,
        },
    });
    found
}

/// The snapshot folder that a repository's `main` stands for, else that of another name.
fn current(repo: &Path) -> Option<PathBuf> {
    let refs = repo.join("refs");
    let mut names = entries(&refs);
    names.sort_by_key(|path| path.file_name().is_none_or(|name| name != "main"));
    names.iter().find_map(|name| {
        let commit = fs::read_to_string(name).ok()?;
        let commit = commit.trim();
        let is_plain = !commit.is_empty() && commit.chars().all(|c| c.is_ascii_alphanumeric());
        let snapshot = repo.join("snapshots").join(commit);
        (is_plain && snapshot.is_dir()).then_some(snapshot)
    })
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let mut entries: Vec<PathBuf> =
        fs::read_dir(folder).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path())).collect();
    entries.sort();
    entries
}

fn collect(folder: &Path, place: Place, repo: Option<&str>, root: &Path, found: &mut Vec<Found>) {
    for path in entries(folder) {
        let is_hidden = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
        if is_hidden {
            continue;
        }
        // Folders that are links may lead in circles.
        if path.is_dir() && !path.is_symlink() {
            collect(&path, place, repo, root, found);
        } else if path.is_file() {
            add(&path, place, repo, root, found);
        }
    }
}

/// Adds a file if it is a model, or the first part of one whose parts are all there.
fn add(path: &Path, place: Place, repo: Option<&str>, root: &Path, found: &mut Vec<Found>) {
    let Some(file) = path.strip_prefix(root).ok().and_then(Path::to_str) else { return };
    let file = file.replace('\\', "/");
    if !is_model(&file) || Split::of(&file).is_some_and(|split| split.index > 1) {
        return;
    }
    let paths: Vec<PathBuf> = parts(&file).iter().map(|part| root.join(part)).collect();
    let sizes: Option<Vec<u64>> = paths.iter().map(|path| Some(fs::metadata(path).ok()?.len())).collect();
    let Some(sizes) = sizes else { return };
    if found.iter().any(|other| other.paths == paths) {
        return;
    }
    found.push(Found { place, repo: repo.map(str::to_owned), file, paths, bytes: sizes.iter().sum() });
}
