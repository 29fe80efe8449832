//! Learning a corpus: counts the windows of three, two and one tokens of many documents within a bound of memory.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use super::{Corpus, MAX_SUCCESSORS, section};
use crate::error::Error;
use crate::representative::store::spill::{Merge, Sorter, WordFile};
use crate::representative::store::{self, Access, Fingerprint, Kind, MAX_VOCAB, Words};
use crate::token::Token;

const TOKEN_BITS: u32 = MAX_VOCAB.trailing_zeros();
const TOKEN_MASK: u64 = MAX_VOCAB as u64 - 1;
/// Windows merged, or words written, between two calls of the progress callback.
const PROGRESS_STEP: u64 = 1 << 16;
/// Share of the progress that merging has; the rest is writing.
const MERGE_SHARE: f32 = 0.9;

/// How to learn a corpus.
#[derive(Clone, Debug)]
pub struct BuildOptions {
    /// Token ids are below this; 1..=[`MAX_VOCAB`].
    pub n_vocab: u32,
    /// The tokenizer that made the tokens.
    pub fingerprint: Fingerprint,
    /// Bytes of windows kept in memory before they go to temporary files. On top of it come 12 bytes per vocabulary entry and up to
    /// 6 MiB of file buffers. Default 512 MiB.
    pub memory_limit_bytes: usize,
    /// Successors seen less often than this are left out; 1 (the default) keeps all. Totals count them in any case, so probabilities
    /// stay what they were.
    pub min_count: u32,
    /// Folder for temporary files, if the memory does not do. They are removed at the end, on Unix even if the process is killed.
    pub temporary_folder: PathBuf,
}

impl BuildOptions {
    /// The defaults for a tokenizer. The folder that the corpus is written to makes a good `temporary_folder`.
    pub fn new(n_vocab: u32, fingerprint: Fingerprint, temporary_folder: impl Into<PathBuf>) -> Self {
        let temporary_folder = temporary_folder.into();
        Self { n_vocab, fingerprint, memory_limit_bytes: 512 << 20, min_count: 1, temporary_folder }
    }
}

/// What was learnt, in numbers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Summary {
    /// Documents.
    pub n_documents: u64,
    /// Tokens in them.
    pub n_tokens: u64,
    /// Pairs of tokens that have successors.
    pub n_contexts: u64,
    /// Successors of pairs.
    pub n_successors: u64,
    /// Size of the file, and of the table in memory.
    pub n_bytes: u64,
}

impl Summary {
    fn to_words(self) -> [u32; 4] {
        let (documents, tokens) = (self.n_documents, self.n_tokens);
        [documents as u32, (documents >> 32) as u32, tokens as u32, (tokens >> 32) as u32]
    }

    pub(super) fn from_words(words: &[u32]) -> Option<Self> {
        let wide = |i: usize| Some(u64::from(*words.get(i)?) | u64::from(*words.get(i + 1)?) << 32);
        Some(Self { n_documents: wide(0)?, n_tokens: wide(2)?, ..Self::default() })
    }
}

/// Counts documents into a [`Corpus`].
///
/// Push each document by itself: no window reaches across documents. The result depends on the documents alone, not on their order nor
/// on the memory limit.
pub struct CorpusBuilder {
    options: BuildOptions,
    tri: Sorter,
    bi: Sorter,
    uni: Vec<u64>,
    n_documents: u64,
    n_windows: u64,
}

impl CorpusBuilder {
    /// Nothing counted yet. Fails if an option is out of range.
    pub fn new(options: BuildOptions) -> Result<Self, Error> {
        let n_vocab = options.n_vocab;
        if !(1..=MAX_VOCAB).contains(&n_vocab) {
            return Err(Error::usage(format!(
                "cannot learn with a vocabulary of {n_vocab} tokens: 1 to {MAX_VOCAB} are possible"
            )));
        }
        // Distinct windows of three outnumber those of two several times; the table's own parts share the last eighth.
        let n_keys = options.memory_limit_bytes / size_of::<u64>();
        let folder = &options.temporary_folder;
        Ok(Self {
            tri: Sorter::new(folder, n_keys / 8 * 5),
            bi: Sorter::new(folder, n_keys / 8 * 2),
            uni: vec![0; n_vocab as usize],
            n_documents: 0,
            n_windows: 0,
            options,
        })
    }

    /// Counts the windows of one document. Fails on a token outside the vocabulary (nothing of the document is counted then) and if a
    /// temporary file cannot be written.
    pub fn push_document(&mut self, tokens: &[Token]) -> Result<(), Error> {
        let n_vocab = self.options.n_vocab;
        if let Some(token) = tokens.iter().find(|token| token.0 >= n_vocab) {
            return Err(Error::usage(format!(
                "cannot learn token {}: the vocabulary has {n_vocab}; tokenize with the model that the corpus is for",
                token.0
            )));
        }
        for &token in tokens {
            self.uni[token.0 as usize] += 1;
        }
        for pair in tokens.windows(2) {
            self.bi.push(key(pair))?;
        }
        for triple in tokens.windows(3) {
            self.tri.push(key(triple))?;
        }
        self.n_documents += 1;
        self.n_windows += (tokens.len().saturating_sub(1) + tokens.len().saturating_sub(2)) as u64;
        Ok(())
    }

    /// True if windows went to temporary files.
    pub fn has_spilled(&self) -> bool {
        self.tri.has_spilled() || self.bi.has_spilled()
    }

    /// Merges all that was counted and writes it to `path`; an older file stays as it is until the new one is whole.
    ///
    /// `progress` hears the finished share, 0.0 to 1.0, and stops the work by `Break`, which gives an error for which
    /// [`Error::is_cancelled`] holds.
    pub fn finish(
        self,
        path: impl AsRef<Path>,
        progress: &mut dyn FnMut(f32) -> ControlFlow<()>,
    ) -> Result<Summary, Error> {
        let mut table = self.merge(progress)?;
        let name = path.as_ref().display().to_string();
        store::replace_file(path.as_ref(), Access::Usual, |file| table.write(file, &name, progress))?;
        Ok(table.summary)
    }

    /// As [`finish`](Self::finish), into memory, for a corpus that serves this process alone.
    pub fn finish_in_memory(self) -> Result<Corpus, Error> {
        let mut on = |_| ControlFlow::Continue(());
        let mut table = self.merge(&mut on)?;
        let mut bytes = Vec::new();
        table.write(&mut bytes, "memory", &mut on)?;
        Corpus::read(&bytes[..], bytes.len() as u64, "memory", None)
    }

    fn merge(self, progress: &mut dyn FnMut(f32) -> ControlFlow<()>) -> Result<Table, Error> {
        let n_words = self.options.memory_limit_bytes / size_of::<u32>() / 32;
        let word_file = || WordFile::new(&self.options.temporary_folder, n_words);
        let min_count = u64::from(self.options.min_count);
        let n_tokens = self.uni.iter().sum();
        let mut meter = Meter { progress, at: 0.0, step: MERGE_SHARE / self.n_windows.max(1) as f32, pending: 0 };

        let n_vocab = self.options.n_vocab as usize;
        let mut rows = vec![0u32; n_vocab + 1];
        let mut seconds = word_file();
        let mut tri = LevelWriter::new(word_file(), word_file());
        merge_contexts(self.tri.finish()?, min_count, &mut meter, &mut |context, heaviest| {
            rows[(context >> TOKEN_BITS) as usize + 1] += 1;
            seconds.extend(&[(context & TOKEN_MASK) as u32])?;
            tri.add(heaviest)
        })?;
        for first in 0..n_vocab {
            rows[first + 1] += rows[first];
        }
        let mut bi = LevelWriter::new(word_file(), word_file());
        let mut n_bi = 0;
        merge_contexts(self.bi.finish()?, min_count, &mut meter, &mut |context, heaviest| {
            while n_bi < context {
                bi.add(&Heaviest::default())?;
                n_bi += 1;
            }
            n_bi += 1;
            bi.add(heaviest)
        })?;
        while n_bi < n_vocab as u64 {
            bi.add(&Heaviest::default())?;
            n_bi += 1;
        }
        let mut uni = LevelWriter::new(word_file(), word_file());
        let mut heaviest = Heaviest::default();
        for (token, &count) in self.uni.iter().enumerate().filter(|(_, count)| **count > 0) {
            heaviest.add(token as u32, count, 1);
        }
        uni.add(&heaviest)?;

        let summary = Summary {
            n_documents: self.n_documents,
            n_tokens,
            n_contexts: seconds.len(),
            n_successors: u64::from(tri.n_successors),
            n_bytes: 0,
        };
        let [tri, bi, uni] = [tri.finish()?, bi.finish()?, uni.finish()?];
        Ok(Table { options: self.options, summary, rows, seconds, tri, bi, uni })
    }
}

fn key(tokens: &[Token]) -> u64 {
    tokens.iter().fold(0, |key, token| key << TOKEN_BITS | u64::from(token.0))
}

/// Gathers the windows of each context, whose keys differ in the last token alone, and hands their heaviest successors on.
fn merge_contexts(
    mut merge: Merge,
    min_count: u64,
    meter: &mut Meter<'_>,
    sink: &mut dyn FnMut(u64, &Heaviest) -> Result<(), Error>,
) -> Result<(), Error> {
    let mut heaviest = Heaviest::default();
    let mut context = None;
    loop {
        let next = merge.next()?;
        let next_context = next.map(|(key, _)| key >> TOKEN_BITS);
        if next_context != context {
            if let Some(context) = context
                && heaviest.n > 0
            {
                sink(context, &heaviest)?;
            }
            heaviest = Heaviest::default();
            context = next_context;
        }
        let Some((key, count)) = next else { return meter.tell() };
        heaviest.add((key & TOKEN_MASK) as u32, count, min_count);
        meter.add(count)?;
    }
}

/// The heaviest successors of one context, offered in the order of their token ids.
#[derive(Default)]
struct Heaviest {
    kept: [(u32, u64); MAX_SUCCESSORS],
    n: usize,
    total: u64,
}

impl Heaviest {
    fn add(&mut self, token: u32, count: u64, min_count: u64) {
        self.total += count;
        // Of equals the smaller id came first and stays first.
        let place = self.kept[..self.n].partition_point(|&(_, kept)| kept >= count);
        if count < min_count || place == MAX_SUCCESSORS {
            return;
        }
        self.n = (self.n + 1).min(MAX_SUCCESSORS);
        self.kept.copy_within(place..self.n - 1, place + 1);
        self.kept[place] = (token, count);
    }
}

/// Writes the contexts of one length in rising order.
struct LevelWriter {
    contexts: WordFile,
    successors: WordFile,
    n_successors: u32,
}

impl LevelWriter {
    fn new(contexts: WordFile, successors: WordFile) -> Self {
        Self { contexts, successors, n_successors: 0 }
    }

    fn add(&mut self, heaviest: &Heaviest) -> Result<(), Error> {
        // Counts beyond 32 bits are scaled down together, which leaves their ratios.
        let shift = 64 - (heaviest.total >> 32).leading_zeros();
        self.contexts.extend(&[self.n_successors, (heaviest.total >> shift) as u32])?;
        for &(token, count) in heaviest.kept[..heaviest.n].iter().filter(|(_, count)| count >> shift > 0) {
            self.successors.extend(&[token, (count >> shift) as u32])?;
            self.n_successors = self.n_successors.checked_add(1).ok_or_else(|| {
                Error::usage("cannot learn more than 4294967295 successors; raise the minimum count or give less text")
            })?;
        }
        Ok(())
    }

    fn finish(mut self) -> Result<Self, Error> {
        self.contexts.extend(&[self.n_successors, 0])?;
        Ok(self)
    }
}

struct Table {
    options: BuildOptions,
    summary: Summary,
    rows: Vec<u32>,
    seconds: WordFile,
    tri: LevelWriter,
    bi: LevelWriter,
    uni: LevelWriter,
}

impl Table {
    fn write(
        &mut self,
        writer: &mut dyn std::io::Write,
        name: &str,
        progress: &mut dyn FnMut(f32) -> ControlFlow<()>,
    ) -> Result<(), Error> {
        let facts = self.summary.to_words();
        let mut sections = [
            (section::FACTS, Words::Memory(&facts)),
            (section::TRI_ROWS, Words::Memory(&self.rows)),
            (section::TRI_SECONDS, Words::File(&mut self.seconds)),
            (section::TRI_CONTEXTS, Words::File(&mut self.tri.contexts)),
            (section::TRI_SUCCESSORS, Words::File(&mut self.tri.successors)),
            (section::BI_CONTEXTS, Words::File(&mut self.bi.contexts)),
            (section::BI_SUCCESSORS, Words::File(&mut self.bi.successors)),
            (section::UNI_CONTEXTS, Words::File(&mut self.uni.contexts)),
            (section::UNI_SUCCESSORS, Words::File(&mut self.uni.successors)),
        ];
        let n_words: u64 = sections.iter().map(|(_, words)| words.len()).sum();
        let mut meter =
            Meter { progress, at: MERGE_SHARE, step: (1.0 - MERGE_SHARE) / n_words.max(1) as f32, pending: 0 };
        let (n_vocab, fingerprint) = (self.options.n_vocab, self.options.fingerprint);
        self.summary.n_bytes =
            store::write(writer, name, Kind::Corpus, n_vocab, fingerprint, &mut sections, &mut |n| meter.add(n))?.0;
        meter.at = 1.0;
        meter.tell()
    }
}

/// Turns counted work into calls of the progress callback.
struct Meter<'a> {
    progress: &'a mut dyn FnMut(f32) -> ControlFlow<()>,
    at: f32,
    /// Share of the whole per unit of work.
    step: f32,
    pending: u64,
}

impl Meter<'_> {
    fn add(&mut self, n: u64) -> Result<(), Error> {
        self.pending += n;
        if self.pending >= PROGRESS_STEP { self.tell() } else { Ok(()) }
    }

    fn tell(&mut self) -> Result<(), Error> {
        self.at = (self.at + self.step * self.pending as f32).min(1.0);
        self.pending = 0;
        match (self.progress)(self.at) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(Error::cancelled()),
        }
    }
}
