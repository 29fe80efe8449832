//! Replacing a file as a whole or not at all.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::error::Error;

/// Who may read a file that is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Access {
    /// Whoever the user's own settings let.
    Usual,
    /// The user alone: the file tells what was said. On systems without Unix permissions it is as [`Usual`](Self::Usual).
    Private,
}

impl Access {
    /// Options to write a file that does not exist yet.
    pub(super) fn options(self) -> OpenOptions {
        let mut options = OpenOptions::new();
        options.write(true);
        #[cfg(unix)]
        if self == Self::Private {
            use std::os::unix::fs::OpenOptionsExt as _;
            options.mode(0o600);
        }
        options
    }
}

/// Writes `path` anew through `write`: into a temporary file in the same folder, synced to the disk and renamed. Whatever fails on the
/// way, the old file stays as it was and the temporary one is removed.
pub(crate) fn replace_file(
    path: &Path,
    access: Access,
    write: impl FnOnce(&mut dyn Write) -> Result<(), Error>,
) -> Result<(), Error> {
    // A rename would put the new file in the place of a symbolic link; following it first keeps the link.
    let path = &fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let cannot = |source| {
        Error::io(format!("cannot write `{}`: the old file, if there was one, is unchanged", path.display()), source)
    };
    let (temporary, mut file) = create_beside(path, access).map_err(cannot)?;
    let result = write(&mut file)
        .and_then(|()| file.sync_all().map_err(cannot))
        .and_then(|()| fs::rename(&temporary, path).map_err(cannot));
    match result {
        Ok(()) => {
            sync_folder(path);
            Ok(())
        }
        Err(error) => {
            // The first error is the one to tell; a leftover that cannot be removed either is named so that the user can.
            let _ = fs::remove_file(&temporary);
            Err(error)
        }
    }
}

fn create_beside(path: &Path, access: Access) -> std::io::Result<(PathBuf, File)> {
    static COUNTER: AtomicU32 = AtomicU32::new(0);
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let Some(name) = path.file_name() else {
        return Err(std::io::Error::new(std::io::ErrorKind::InvalidInput, "the path does not end in a file name"));
    };
    loop {
        let temporary =
            folder.join(beside(name, &format!("{}-{}", std::process::id(), COUNTER.fetch_add(1, Ordering::Relaxed))));
        match access.options().create_new(true).open(&temporary) {
            Ok(file) => return Ok((temporary, file)),
            // Left behind by a killed process that had the same id.
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(e),
        }
    }
}

/// The name of a temporary file for `name`.
fn beside(name: &OsStr, tag: &str) -> OsString {
    let mut temporary = OsString::from(".");
    temporary.push(name);
    temporary.push(format!(".{tag}.tmp"));
    temporary
}

/// Removes temporary files for `path` that killed processes left. Only for whoever holds the lock on `path`: nobody else writes then.
pub(super) fn remove_leftovers(path: &Path) {
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else { return };
    let pattern = beside(name, "").into_encoded_bytes();
    let (start, end) = pattern.split_at(pattern.len() - ".tmp".len());
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let middle = name.as_encoded_bytes().strip_prefix(start).and_then(|rest| rest.strip_suffix(end));
        if middle.is_some_and(|tag| tag.iter().all(|&byte| byte.is_ascii_digit() || byte == b'-')) {
            // One that stays costs room and nothing else.
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// Makes the rename itself last through a power cut. File systems that cannot sync a folder keep the rename anyway, so a failure here
/// is no failure of the save.
fn sync_folder(path: &Path) {
    #[cfg(unix)]
    if let Some(folder) = path.parent() {
        let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
        let _ = File::open(folder).and_then(|folder| folder.sync_all());
    }
    #[cfg(not(unix))]
    let _ = path;
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A writer on a disk with room for `left` more bytes.
    struct FullDisk<'a> {
        inner: &'a mut dyn Write,
        left: usize,
    }

    impl Write for FullDisk<'_> {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            if self.left == 0 {
                return Err(std::io::ErrorKind::StorageFull.into());
            }
            let n = self.inner.write(&bytes[..bytes.len().min(self.left)])?;
            self.left -= n;
            Ok(n)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            self.inner.flush()
        }
    }

    fn save(path: &Path, bytes: &[u8], room: usize) -> Result<(), Error> {
        replace_file(path, Access::Usual, |inner| {
            FullDisk { inner, left: room }.write_all(bytes).map_err(|e| Error::io("cannot write", e))
        })
    }

    #[test]
    fn a_full_disk_leaves_the_old_file_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.aded");
        save(&path, b"old", 3).unwrap();
        let error = save(&path, b"newer", 4).unwrap_err();
        assert!(error.is_io());
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "the temporary file is gone");
        save(&path, b"newer", 5).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"newer");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_missing_folder_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let error = save(&folder.path().join("no/such/x.aded"), b"new", 3).unwrap_err();
        assert!(error.is_io() && error.to_string().contains("no/such/x.aded"));
    }

    #[cfg(unix)]
    #[test]
    fn a_link_stays_a_link() {
        let folder = tempfile::tempdir().unwrap();
        let (real, link) = (folder.path().join("real"), folder.path().join("link"));
        save(&real, b"old", 3).unwrap();
        std::os::unix::fs::symlink(&real, &link).unwrap();
        save(&link, b"new", 3).unwrap();
        assert_eq!(fs::read(&real).unwrap(), b"new");
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    }
}
