//! The models that `make models` fetches.

use std::path::PathBuf;

/// A fetched model, or `None` with a word about it where it is not there.
pub fn fetched(name: &str) -> Option<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let home = std::env::home_dir().unwrap_or_default();
    let cache = if cfg!(target_os = "macos") { home.join("Library/Caches") } else { home.join(".cache") };
    let cache = set("XDG_CACHE_HOME").filter(|path| path.is_absolute() && !cfg!(target_os = "macos")).unwrap_or(cache);
    let path = set("ADED_MODELS").unwrap_or_else(|| cache.join("aded/models")).join(name);
    if !path.is_file() {
        eprintln!("skipped: {} is not there; fetch it with `make models`", path.display());
    }
    path.is_file().then_some(path)
}
