//! Sorting more than fits into memory: sorted runs in temporary files, merged at the end.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fs::{File, OpenOptions};
use std::io::{BufReader, BufWriter, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::error::Error;

/// Runs of one level that are merged into a run of the next: a run is rewritten once per level, and few files are open at a time.
const FAN_IN: usize = 16;
const BUFFER_BYTES: usize = 64 * 1024;

/// A file without a future: gone when it is dropped, on Unix even if the process is killed.
struct TempFile {
    file: File,
    /// On systems where an open file cannot be removed: what to remove at the end.
    path: Option<PathBuf>,
}

impl TempFile {
    fn new(folder: &Path) -> std::io::Result<Self> {
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        loop {
            let name = format!(".aded-{}-{}.run", std::process::id(), COUNTER.fetch_add(1, Ordering::Relaxed));
            let path = folder.join(name);
            match OpenOptions::new().read(true).write(true).create_new(true).open(&path) {
                Ok(file) if cfg!(unix) && std::fs::remove_file(&path).is_ok() => return Ok(Self { file, path: None }),
                Ok(file) => return Ok(Self { file, path: Some(path) }),
                Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err(e),
            }
        }
    }
}

impl Drop for TempFile {
    fn drop(&mut self) {
        if let Some(path) = self.path.take() {
            // Nobody is left to tell; the file is named so that its origin is clear.
            let _ = std::fs::remove_file(path);
        }
    }
}

fn cannot_spill(folder: &Path) -> impl Fn(std::io::Error) -> Error + '_ {
    move |source| {
        Error::io(
            format!("cannot use a temporary file in `{}`; free some space or choose another folder", folder.display()),
            source,
        )
    }
}

/// Counts keys: takes them in any order, gives each once with its count, in rising order.
pub(crate) struct Sorter {
    folder: PathBuf,
    keys: Vec<u64>,
    capacity: usize,
    /// Levels never rise from one run to the next.
    runs: Vec<Run>,
}

struct Run {
    file: TempFile,
    level: u32,
}

impl Sorter {
    /// Keeps at most `capacity` keys (8 bytes each) in memory; what is more goes to files in `folder`.
    pub(crate) fn new(folder: &Path, capacity: usize) -> Self {
        Self { folder: folder.to_owned(), keys: Vec::new(), capacity: capacity.max(2), runs: Vec::new() }
    }

    pub(crate) fn push(&mut self, key: u64) -> Result<(), Error> {
        if self.keys.len() == self.keys.capacity() {
            if self.keys.len() >= self.capacity {
                self.spill()?;
            } else {
                // Doubling, but never past the limit.
                let more = self.keys.len().max(1024).min(self.capacity - self.keys.len());
                self.keys.reserve_exact(more);
            }
        }
        self.keys.push(key);
        Ok(())
    }

    /// True if anything went to a file.
    pub(crate) fn has_spilled(&self) -> bool {
        !self.runs.is_empty()
    }

    /// All keys in rising order, each with its count.
    pub(crate) fn finish(mut self) -> Result<Merge, Error> {
        if self.has_spilled() {
            self.spill()?;
            self.keys = Vec::new();
        } else {
            self.keys.sort_unstable();
        }
        let mut sources: Vec<Source> = Vec::with_capacity(self.runs.len() + 1);
        sources.push(Source::Memory { keys: self.keys, at: 0 });
        for run in self.runs {
            sources.push(Source::from_run(run).map_err(cannot_spill(&self.folder))?);
        }
        Merge::new(self.folder, sources)
    }

    fn spill(&mut self) -> Result<(), Error> {
        if self.keys.is_empty() {
            return Ok(());
        }
        self.keys.sort_unstable();
        let keys = std::mem::take(&mut self.keys);
        let mut merge = Merge::new(self.folder.clone(), vec![Source::Memory { keys, at: 0 }])?;
        let run = self.write_run(&mut merge, 0)?;
        // The buffer comes back from the merge, so that a long build allocates it once.
        if let Some(Source::Memory { keys, .. }) = merge.sources.pop() {
            self.keys = keys;
            self.keys.clear();
        }
        self.runs.push(run);
        while let [.., first, _] = &self.runs[..]
            && let Some(start) = self.runs.len().checked_sub(FAN_IN)
            && self.runs[start].level == first.level
            && first.level == self.runs[self.runs.len() - 1].level
        {
            let level = first.level + 1;
            let sources = self.runs.drain(start..).map(Source::from_run).collect::<Result<Vec<_>, _>>();
            let mut merge = Merge::new(self.folder.clone(), sources.map_err(cannot_spill(&self.folder))?)?;
            let run = self.write_run(&mut merge, level)?;
            self.runs.push(run);
        }
        Ok(())
    }

    /// A run holds pairs (key minus the key before it, count), both as LEB128.
    fn write_run(&self, merge: &mut Merge, level: u32) -> Result<Run, Error> {
        let cannot = cannot_spill(&self.folder);
        let file = TempFile::new(&self.folder).map_err(&cannot)?;
        let mut writer = BufWriter::with_capacity(BUFFER_BYTES, &file.file);
        let mut last = 0;
        while let Some((key, count)) = merge.next()? {
            write_number(&mut writer, key - last).map_err(&cannot)?;
            write_number(&mut writer, count).map_err(&cannot)?;
            last = key;
        }
        writer.flush().map_err(&cannot)?;
        drop(writer);
        Ok(Run { file, level })
    }
}

enum Source {
    Memory { keys: Vec<u64>, at: usize },
    File { reader: BufReader<TempFile>, last: u64 },
}

impl Read for TempFile {
    fn read(&mut self, bytes: &mut [u8]) -> std::io::Result<usize> {
        self.file.read(bytes)
    }
}

impl Source {
    fn from_run(run: Run) -> std::io::Result<Self> {
        let mut file = run.file;
        file.file.rewind()?;
        Ok(Source::File { reader: BufReader::with_capacity(BUFFER_BYTES, file), last: 0 })
    }

    fn next(&mut self) -> std::io::Result<Option<(u64, u64)>> {
        match self {
            Source::Memory { keys, at } => {
                let Some(&key) = keys.get(*at) else { return Ok(None) };
                let n = keys[*at..].iter().take_while(|&&other| other == key).count();
                *at += n;
                Ok(Some((key, n as u64)))
            }
            Source::File { reader, last } => {
                let Some(step) = read_number(reader)? else { return Ok(None) };
                let count = read_number(reader)?.ok_or(std::io::ErrorKind::UnexpectedEof)?;
                *last = last.wrapping_add(step);
                Ok(Some((*last, count)))
            }
        }
    }
}

fn write_number(writer: &mut impl Write, mut number: u64) -> std::io::Result<()> {
    let mut bytes = [0u8; 10];
    let mut n = 0;
    loop {
        bytes[n] = (number & 0x7f) as u8 | if number > 0x7f { 0x80 } else { 0 };
        number >>= 7;
        n += 1;
        if number == 0 {
            return writer.write_all(&bytes[..n]);
        }
    }
}

/// `None` at the end of the file.
fn read_number(reader: &mut impl Read) -> std::io::Result<Option<u64>> {
    let mut number = 0u64;
    let mut byte = [0u8];
    for shift in (0..64).step_by(7) {
        if let Err(e) = reader.read_exact(&mut byte) {
            let at_end = shift == 0 && e.kind() == std::io::ErrorKind::UnexpectedEof;
            return if at_end { Ok(None) } else { Err(e) };
        }
        number |= u64::from(byte[0] & 0x7f) << shift;
        if byte[0] & 0x80 == 0 {
            return Ok(Some(number));
        }
    }
    Err(std::io::ErrorKind::InvalidData.into())
}

/// Several sorted sources read as one.
pub(crate) struct Merge {
    folder: PathBuf,
    sources: Vec<Source>,
    /// The next (key, source, count) of every source that has one; smallest first.
    heads: BinaryHeap<Reverse<(u64, usize, u64)>>,
}

impl Merge {
    fn new(folder: PathBuf, sources: Vec<Source>) -> Result<Self, Error> {
        let heads = BinaryHeap::with_capacity(sources.len());
        let mut merge = Self { folder, sources, heads };
        for source in 0..merge.sources.len() {
            merge.advance(source)?;
        }
        Ok(merge)
    }

    /// The next key with the sum of its counts.
    pub(crate) fn next(&mut self) -> Result<Option<(u64, u64)>, Error> {
        let Some(Reverse((key, source, mut count))) = self.heads.pop() else { return Ok(None) };
        self.advance(source)?;
        while let Some(&Reverse((other, source, more))) = self.heads.peek()
            && other == key
        {
            self.heads.pop();
            self.advance(source)?;
            count += more;
        }
        Ok(Some((key, count)))
    }

    fn advance(&mut self, source: usize) -> Result<(), Error> {
        if let Some((key, count)) = self.sources[source].next().map_err(cannot_spill(&self.folder))? {
            self.heads.push(Reverse((key, source, count)));
        }
        Ok(())
    }
}

/// A growing array of words that stays in memory until it passes a limit, and goes to a temporary file from there on.
pub(crate) struct WordFile {
    folder: PathBuf,
    buffer: Vec<u32>,
    /// Words that the buffer may hold.
    limit: usize,
    file: Option<TempFile>,
    n_in_file: u64,
}

impl WordFile {
    pub(crate) fn new(folder: &Path, limit: usize) -> Self {
        Self { folder: folder.to_owned(), buffer: Vec::new(), limit: limit.max(1024), file: None, n_in_file: 0 }
    }

    pub(crate) fn len(&self) -> u64 {
        self.n_in_file + self.buffer.len() as u64
    }

    pub(crate) fn extend(&mut self, words: &[u32]) -> Result<(), Error> {
        if self.buffer.len() + words.len() > self.limit {
            self.flush()?;
        }
        self.buffer.extend_from_slice(words);
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Error> {
        let cannot = cannot_spill(&self.folder);
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(TempFile::new(&self.folder).map_err(&cannot)?),
        };
        let mut bytes = Vec::with_capacity(BUFFER_BYTES);
        for chunk in self.buffer.chunks(BUFFER_BYTES / 4) {
            bytes.clear();
            bytes.extend(chunk.iter().flat_map(|w| w.to_le_bytes()));
            file.file.write_all(&bytes).map_err(&cannot)?;
        }
        self.n_in_file += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    /// Gives all words, in order, in pieces.
    pub(crate) fn read_all(&mut self, sink: &mut dyn FnMut(&[u32]) -> Result<(), Error>) -> Result<(), Error> {
        if self.file.is_some() {
            self.flush()?;
        }
        if let Some(file) = &mut self.file {
            let cannot = cannot_spill(&self.folder);
            file.file.rewind().map_err(&cannot)?;
            let mut bytes = vec![0u8; BUFFER_BYTES];
            let mut words = Vec::with_capacity(BUFFER_BYTES / 4);
            let mut left = self.n_in_file * 4;
            while left > 0 {
                let n = left.min(BUFFER_BYTES as u64) as usize;
                file.file.read_exact(&mut bytes[..n]).map_err(&cannot)?;
                words.clear();
                words.extend(bytes[..n].as_chunks::<4>().0.iter().map(|&b| u32::from_le_bytes(b)));
                sink(&words)?;
                left -= n as u64;
            }
        }
        self.buffer.chunks(BUFFER_BYTES / 4).try_for_each(sink)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    proptest! {
        #[test]
        fn a_sorter_counts_like_a_map(
            keys in prop::collection::vec(prop_oneof![0u64..40, any::<u64>()], 0..600),
            capacity in 2usize..80,
        ) {
            let folder = tempfile::tempdir().unwrap();
            let mut sorter = Sorter::new(folder.path(), capacity);
            let mut oracle = BTreeMap::new();
            for &key in &keys {
                sorter.push(key).unwrap();
                *oracle.entry(key).or_insert(0u64) += 1;
            }
            prop_assert_eq!(sorter.has_spilled(), keys.len() > capacity);
            let mut merge = sorter.finish().unwrap();
            let mut counted = Vec::new();
            while let Some(pair) = merge.next().unwrap() {
                counted.push(pair);
            }
            prop_assert_eq!(counted, oracle.into_iter().collect::<Vec<_>>());
            drop(merge);
            prop_assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        }
    }

    #[test]
    fn words_come_back_in_order_from_memory_and_file() {
        let folder = tempfile::tempdir().unwrap();
        for n in [0u32, 5, 1024, 1025, 100_000] {
            let mut file = WordFile::new(folder.path(), 1024);
            for i in 0..n {
                file.extend(&[i]).unwrap();
            }
            assert_eq!(file.len(), u64::from(n));
            let mut back = Vec::new();
            file.read_all(&mut |words| {
                back.extend_from_slice(words);
                Ok(())
            })
            .unwrap();
            assert!(back.iter().copied().eq(0..n));
        }
    }

    #[test]
    fn a_missing_folder_is_told() {
        let mut sorter = Sorter::new(Path::new("/no/such/folder"), 2);
        let error = (0..9).find_map(|key| sorter.push(key).err()).expect("the third key spills");
        assert!(error.is_io() && error.to_string().contains("/no/such/folder"), "{error}");
    }
}
