//! A file that the program keeps for itself: read at the start, written again and again, by several processes at once.

use std::ffi::OsString;
use std::fs::{self, File, TryLockError};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

use super::replace::{Access, remove_leftovers, replace_file};
use super::{CHECKSUM_WORDS, Fingerprint, Intake, Kind, Reason, Refused, Words, load_into, write};
use crate::error::Error;

/// How an attempt to save ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kept {
    /// The file holds it now.
    Saved,
    /// Another process is saving; try again in some milliseconds.
    Busy,
}

/// What is written: sections by id.
pub(crate) type Content = Vec<(u32, Vec<u32>)>;

/// A kept file.
#[derive(Debug)]
pub(crate) struct Keep {
    path: PathBuf,
    kind: Kind,
    n_vocab: u32,
    fingerprint: Fingerprint,
    /// Checksum of the file as this process read or wrote it last.
    last_seen: Option<u64>,
    /// The file is somebody else's: it is neither moved nor replaced.
    hands_off: bool,
    /// The file lies where only this program puts files, so that anything else there is damage.
    is_own_place: bool,
}

impl Keep {
    /// The file at `path`, which need not exist. `is_own_place` says that nobody but this program names files there.
    pub(crate) fn new(path: PathBuf, kind: Kind, n_vocab: u32, fingerprint: Fingerprint, is_own_place: bool) -> Self {
        Self { path, kind, n_vocab, fingerprint, last_seen: None, hands_off: false, is_own_place }
    }

    /// The file.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Reads the file and lets `intake` take from it what it needs; false if there is none. A damaged one is set aside, so that the next
    /// save begins anew; one that is of use to somebody else stays, and will not be replaced.
    ///
    /// # Errors
    /// Why the file cannot be used, and what became of it.
    pub(crate) fn read(&mut self, intake: &mut dyn Intake) -> Result<bool, Error> {
        let is_nothing = fs::metadata(&self.path).map_or_else(
            |error| error.kind() == std::io::ErrorKind::NotFound,
            // An empty file was made by somebody who wanted its name.
            |meta| meta.is_file() && meta.len() == 0,
        );
        if is_nothing {
            return Ok(false);
        }
        let checked = load_into(&self.path, self.kind, Some(self.fingerprint), intake).and_then(|stored| {
            let name = self.path.display();
            intake.finish(&stored).map_err(|Refused { reason, error }| {
                let text = format!("cannot use `{name}`: {error}");
                Refused { reason, error: Error::format(text) }
            })?;
            Ok(stored.checksum)
        });
        match checked {
            Ok(checksum) => {
                self.last_seen = Some(checksum);
                Ok(true)
            }
            Err(refused) => Err(self.refuse(refused)),
        }
    }

    fn refuse(&mut self, Refused { reason, error }: Refused) -> Error {
        match reason {
            Reason::Damaged => self.set_aside(error),
            Reason::Foreign if self.is_own_place => self.set_aside(error),
            Reason::Io | Reason::Foreign | Reason::Others => {
                self.hands_off = true;
                error
            }
        }
    }

    fn set_aside(&mut self, error: Error) -> Error {
        let mut aside = OsString::from(&self.path);
        aside.push(".bad");
        match fs::rename(&self.path, &aside) {
            Ok(()) => Error::format(format!("{error}; it was set aside as `{}`", Path::new(&aside).display())),
            Err(cause) => {
                self.hands_off = true;
                Error::format(format!("{error}; it cannot be set aside")).with_source(cause)
            }
        }
    }

    /// Replaces the file by what `content` gives. If another process replaced it since this one read or wrote it, `merge` gets that
    /// file's content first, so that nothing which both had saved is lost.
    ///
    /// # Errors
    /// If the file cannot be written; it then is what it was.
    pub(crate) fn save(&mut self, merge: &mut dyn Intake, content: &mut dyn FnMut() -> Content) -> Result<Kept, Error> {
        if self.hands_off {
            let name = self.path.display();
            return Err(Error::format(format!("cannot write `{name}`: it holds something else, which stays as it is")));
        }
        // Behind a symbolic link lies the one file that all its names mean.
        let path = fs::canonicalize(&self.path).unwrap_or_else(|_| self.path.clone());
        let Some(lock) = lock(&path)? else { return Ok(Kept::Busy) };
        if lock.is_held {
            remove_leftovers(&path);
        }
        if self.is_new_to_us() {
            // What cannot be used was set aside or is left alone by this.
            let read = self.read(merge);
            if self.hands_off {
                return read.map(|_| Kept::Saved);
            }
        }
        let mut content = content();
        let mut sections: Vec<(u32, Words<'_>)> =
            content.iter_mut().map(|(id, words)| (*id, Words::Memory(words))).collect();
        let (name, mut checksum) = (self.path.display().to_string(), 0);
        replace_file(&path, Access::Private, |file| {
            checksum = write(file, &name, self.kind, self.n_vocab, self.fingerprint, &mut sections, &mut |_| Ok(()))?.1;
            Ok(())
        })?;
        self.last_seen = Some(checksum);
        Ok(Kept::Saved)
    }

    /// True if the file is another than the one that was read or written last.
    fn is_new_to_us(&self) -> bool {
        let now = File::open(&self.path).and_then(|mut file| {
            let mut bytes = [0; 4 * CHECKSUM_WORDS as usize];
            file.seek(SeekFrom::End(-(bytes.len() as i64)))?;
            file.read_exact(&mut bytes)?;
            Ok(u64::from_le_bytes(bytes))
        });
        now.is_ok_and(|now| Some(now) != self.last_seen)
    }
}

/// A lock on a kept file, let go when it is dropped.
struct Lock {
    is_held: bool,
    _file: File,
}

/// Locks a file against other processes by a file beside it, which stays: removing it would let two processes lock two files of the same
/// name. `None` if another process holds the lock.
fn lock(path: &Path) -> Result<Option<Lock>, Error> {
    let mut name = OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(".lock");
    let beside = path.with_file_name(name);
    let cannot =
        |source| Error::io(format!("cannot lock `{}` to write `{}`", beside.display(), path.display()), source);
    let file = Access::Private.options().create(true).truncate(false).open(&beside).map_err(cannot)?;
    match file.try_lock() {
        Ok(()) => Ok(Some(Lock { is_held: true, _file: file })),
        Err(TryLockError::WouldBlock) => Ok(None),
        // File systems without locks still replace files as a whole: the last writer wins there.
        Err(TryLockError::Error(error)) if error.kind() == std::io::ErrorKind::Unsupported => {
            Ok(Some(Lock { is_held: false, _file: file }))
        }
        Err(TryLockError::Error(error)) => Err(cannot(error)),
    }
}
