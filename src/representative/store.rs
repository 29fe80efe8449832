//! The file format of everything that is learnt, and the only place of the core that touches files.
//!
//! A file is a row of little-endian 32-bit words:
//!
//! | words | meaning |
//! | --- | --- |
//! | 0-1 | label `89 41 44 45 44 0D 0A 1A` ("ADED"; the bytes around it betray a transfer in text mode) |
//! | 2 | byte-order mark `0A0B0C0D` |
//! | 3 | format version |
//! | 4 | kind: what the file holds |
//! | 5 | n_vocab: every token id in the file is below it |
//! | 6-7 | fingerprint of the tokenizer, low word first |
//! | 8-9 | length of the whole file in words, low word first |
//! | 10 | number of sections |
//! | 11-15 | 0, kept for later |
//! | 16... | section table: id, 0, first word (low, high), length in words (low, high) |
//! | ... | the sections, each beginning at a multiple of 16 words, zeros between them |
//! | last two | checksum over all words before it, low word first |
//!
//! Label, byte-order mark, version, length and checksum keep their places and their meaning in all versions from 2 on, so that damage is
//! told from progress; version 1 differs in how the checksum is computed, which took longer than all else that reading takes. A reader skips sections whose id it does not know; so a later version may add sections without a new format version, and a later
//! kind is a new kind number with section ids of its own.

mod checksum;
mod keep;
mod replace;
pub(crate) mod spill;

use std::fmt;
use std::fs::File;
use std::io::{Read, Write};
use std::ops::Range;
use std::path::Path;

use crate::error::Error;

use checksum::Checksum;
pub use keep::Kept;
pub(crate) use keep::{Content, Keep};
pub(crate) use replace::{Access, replace_file};
use spill::WordFile;

const LABEL: [u8; 8] = *b"\x89ADED\r\n\x1a";
const BYTE_ORDER: u32 = 0x0A0B_0C0D;
/// What is written. Files of version 1, which differ in the checksum alone, are read as well.
const VERSION: u32 = 2;
const OLDEST_VERSION: u32 = 1;
const HEADER_WORDS: usize = 16;
const ENTRY_WORDS: usize = 6;
const CHECKSUM_WORDS: u64 = 2;
/// Sections begin at a cache line.
const ALIGN_WORDS: u64 = 16;
/// More sections than any kind has; keeps an altered header from asking for gigabytes.
const MAX_SECTIONS: u32 = 1024;
const CHUNK_BYTES: usize = 256 * 1024;

/// The largest vocabulary that the tables take: three token ids fit into 63 bits. The largest in use is an eighth of it.
pub const MAX_VOCAB: u32 = 1 << 21;

/// Identifies a tokenizer: token ids mean the same text exactly if the fingerprints are equal. The caller computes it, for example over
/// the vocabulary of a GGUF file.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Fingerprint(pub u64);

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// What a file holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    Corpus = 1,
    Memory = 2,
    Times = 3,
}

impl Kind {
    fn name(number: u32) -> String {
        match number {
            1 => "a corpus".to_owned(),
            2 => "what was learnt from answers".to_owned(),
            3 => "measured times".to_owned(),
            other => format!("something else (kind {other})"),
        }
    }

    /// What a user does about a file that cannot be used.
    fn way_out(self) -> &'static str {
        match self {
            Self::Corpus => "learn it again",
            Self::Memory | Self::Times => "begin a new one",
        }
    }

    /// How a file of this kind comes to be.
    fn origin(self) -> &'static str {
        match self {
            Self::Corpus => "make one with `aded learn`",
            Self::Memory | Self::Times => "name another file, or one that does not exist yet",
        }
    }
}

/// What is wrong with a file, as far as its owner acts on it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Reason {
    /// It cannot be read.
    Io,
    /// It never was one of ours.
    Foreign,
    /// It was one of ours: truncated or altered.
    Damaged,
    /// It is sound and of use to somebody else: of a later version, another kind or another tokenizer.
    Others,
}

/// A file that cannot be used.
#[derive(Debug)]
pub(crate) struct Refused {
    pub(crate) reason: Reason,
    pub(crate) error: Error,
}

impl From<Refused> for Error {
    fn from(refused: Refused) -> Self {
        refused.error
    }
}

/// A file in memory, its frame checked: label, version, kind, length, checksum, section table. What the sections hold is for their owner
/// to check.
#[derive(Debug)]
pub(crate) struct Stored {
    pub(crate) n_vocab: u32,
    pub(crate) fingerprint: Fingerprint,
    /// The file's own checksum: tells whether a file is still the one that was read.
    pub(crate) checksum: u64,
    /// The file's words, but for the sections that an [`Intake`] was given.
    pub(crate) words: Vec<u32>,
    /// Length of the whole file.
    pub(crate) n_words: u64,
    sections: Vec<(u32, Range<usize>)>,
}

/// Whoever takes a file in: as a whole once its frame is known to be sound, and sections of its choice before that, piece by piece. What
/// is many megabytes long then need not be stored between the file and the table that it is made for.
pub(crate) trait Intake {
    /// True to be given a section's words as they are read. Nothing is known yet: the header may be altered.
    fn wants(&mut self, _id: u32, _n_vocab: u32) -> bool {
        false
    }

    /// Words of a section that was wanted: a multiple of 16, but for the end of it.
    fn take(&mut self, _id: u32, _words: &[u32]) {}

    /// The file, whose frame is sound; sections that were taken are empty in it.
    fn finish(&mut self, stored: &Stored) -> Result<(), Refused>;
}

/// A function wants the whole file.
impl<F: FnMut(&Stored) -> Result<(), Refused>> Intake for F {
    fn finish(&mut self, stored: &Stored) -> Result<(), Refused> {
        self(stored)
    }
}

impl Stored {
    /// The words of section `id` as a range of [`words`](Self::words).
    pub(crate) fn section(&self, id: u32) -> Option<Range<usize>> {
        self.sections.iter().find(|(section, _)| *section == id).map(|(_, range)| range.clone())
    }
}

/// Reads and checks a whole file. `expected` is the tokenizer that the caller's model has; `None` takes any.
pub(crate) fn load(path: &Path, kind: Kind, expected: Option<Fingerprint>) -> Result<Stored, Refused> {
    load_into(path, kind, expected, &mut |_: &Stored| Ok(()))
}

/// As [`load`], with an intake, which is to be asked to finish by the caller.
fn load_into(
    path: &Path,
    kind: Kind,
    expected: Option<Fingerprint>,
    intake: &mut dyn Intake,
) -> Result<Stored, Refused> {
    let name = path.display().to_string();
    let cannot = |source| Refused { reason: Reason::Io, error: Error::io(format!("cannot read `{name}`"), source) };
    let file = File::open(path).map_err(cannot)?;
    let meta = file.metadata().map_err(cannot)?;
    if !meta.is_file() {
        let text = format!("cannot read `{name}`: it is not a regular file; give the path of an aded file");
        return Err(Refused { reason: Reason::Foreign, error: Error::format(text) });
    }
    read_into(file, meta.len(), &name, kind, expected, intake)
}

/// As [`load`], from any reader of `n_bytes` bytes; `name` is for error texts.
pub(crate) fn read(
    reader: impl Read,
    n_bytes: u64,
    name: &str,
    kind: Kind,
    expected: Option<Fingerprint>,
) -> Result<Stored, Refused> {
    read_into(reader, n_bytes, name, kind, expected, &mut |_: &Stored| Ok(()))
}

fn read_into(
    mut reader: impl Read,
    n_bytes: u64,
    name: &str,
    kind: Kind,
    expected: Option<Fingerprint>,
    intake: &mut dyn Intake,
) -> Result<Stored, Refused> {
    let bad = |reason, what: String| Refused { reason, error: Error::format(format!("cannot use `{name}`: {what}")) };
    let damaged = |what: String| bad(Reason::Damaged, format!("{what}; {}", kind.way_out()));
    let mut header = [0u8; HEADER_WORDS * 4];
    let n_header = read_up_to(&mut reader, &mut header)
        .map_err(|e| Refused { reason: Reason::Io, error: Error::io(format!("cannot read `{name}`"), e) })?;
    if n_header == 0 {
        return Err(bad(Reason::Foreign, format!("it is empty; {}", kind.origin())));
    }
    if !header[..n_header].starts_with(&LABEL[..n_header.min(LABEL.len())]) {
        return Err(bad(Reason::Foreign, format!("it does not begin like an aded file; {}", kind.origin())));
    }
    if n_header < header.len() {
        return Err(damaged(format!("it is truncated: {n_header} bytes, not even a header of {}", header.len())));
    }
    let word = |i: usize| u32::from_le_bytes([header[4 * i], header[4 * i + 1], header[4 * i + 2], header[4 * i + 3]]);
    let wide = |i: usize| u64::from(word(i)) | u64::from(word(i + 1)) << 32;
    if word(2) != BYTE_ORDER {
        return Err(damaged(format!("its byte-order mark is {:08x}, not {BYTE_ORDER:08x}", word(2))));
    }
    let n_words = wide(8);
    if n_words.checked_mul(4) != Some(n_bytes) {
        let what = if n_words.saturating_mul(4) > n_bytes { "truncated" } else { "altered" };
        let promised = n_words.saturating_mul(4);
        return Err(damaged(format!("it is {what}: {n_bytes} bytes where its header promises {promised}")));
    }

    // The checksum stands before all that follows: an altered byte shall not pass for another version, kind or tokenizer.
    let WordsRead { mut words, sum, taken } = read_words(&mut reader, &header, n_words, name, intake)?;
    let body = n_words - CHECKSUM_WORDS;
    let stored = words.split_off(words.len() - CHECKSUM_WORDS as usize);
    let stored = u64::from(stored[0]) | u64::from(stored[1]) << 32;
    if sum != stored || body < HEADER_WORDS as u64 {
        return Err(damaged(format!("its contents were altered: checksum {sum:016x}, stored {stored:016x}")));
    }
    if !(OLDEST_VERSION..=VERSION).contains(&word(3)) {
        let way_out =
            if word(3) > VERSION { format!("update aded, or {}", kind.way_out()) } else { kind.way_out().into() };
        let what = format!("its format version is {}, this aded reads versions up to {VERSION}; {way_out}", word(3));
        return Err(bad(Reason::Others, what));
    }
    if word(4) != kind as u32 {
        let what = format!("it holds {}, not {}", Kind::name(word(4)), Kind::name(kind as u32));
        return Err(bad(Reason::Others, what));
    }
    let n_vocab = word(5);
    if n_vocab == 0 || n_vocab > MAX_VOCAB {
        return Err(damaged(format!("its vocabulary has {n_vocab} tokens, the limit is {MAX_VOCAB}")));
    }
    let fingerprint = Fingerprint(wide(6));
    if let Some(expected) = expected.filter(|&expected| expected != fingerprint) {
        let way_out = match kind {
            Kind::Corpus => "learn it again with -m of this model",
            Kind::Memory | Kind::Times => "name another file",
        };
        return Err(bad(
            Reason::Others,
            format!(
                "it was learnt with another tokenizer (fingerprint {fingerprint}; this model has {expected}); {way_out}"
            ),
        ));
    }
    let mut sections = section_table(&words, word(10), body).map_err(damaged)?;
    for (_, range) in &mut sections {
        let start = range.start;
        let before: usize = taken.iter().filter(|taken| taken.end <= start).map(Range::len).sum();
        let is_taken = start < range.end && taken.contains(range);
        *range = start - before..if is_taken { start } else { range.end } - before;
    }
    Ok(Stored { n_vocab, fingerprint, checksum: stored, words, n_words, sections })
}

fn section_table(words: &[u32], n_sections: u32, end: u64) -> Result<Vec<(u32, Range<usize>)>, String> {
    let table = HEADER_WORDS as u64..HEADER_WORDS as u64 + u64::from(n_sections) * ENTRY_WORDS as u64;
    if n_sections > MAX_SECTIONS || table.end > end {
        return Err(format!("its section table is out of range ({n_sections} sections)"));
    }
    let mut sections = Vec::with_capacity(n_sections as usize);
    for entry in words[table.start as usize..table.end as usize].chunks_exact(ENTRY_WORDS) {
        let start = u64::from(entry[2]) | u64::from(entry[3]) << 32;
        let length = u64::from(entry[4]) | u64::from(entry[5]) << 32;
        let in_range = start >= table.end && start.checked_add(length).is_some_and(|section_end| section_end <= end);
        if !in_range {
            return Err(format!("section {} is out of range ({length} words at {start})", entry[0]));
        }
        sections.push((entry[0], start as usize..(start + length) as usize));
    }
    Ok(sections)
}

/// What reading a file gave.
struct WordsRead {
    /// The words but for those that the intake took.
    words: Vec<u32>,
    /// Checksum over all words but the last two.
    sum: u64,
    /// Places that were taken, rising.
    taken: Vec<Range<usize>>,
}

/// Reads the rest of the file in pieces that stay in the cache while they are turned into words and summed: the arrays then lie in memory as
/// they lie in the file, aligned, on machines of either byte order.
fn read_words(
    reader: &mut impl Read,
    header: &[u8; HEADER_WORDS * 4],
    n_words: u64,
    name: &str,
    intake: &mut dyn Intake,
) -> Result<WordsRead, Refused> {
    let io = |error| Refused { reason: Reason::Io, error };
    let no_room = || io(Error::format(format!("cannot use `{name}`: {n_words} words do not fit into memory")));
    let n_words = usize::try_from(n_words).map_err(|_| no_room())?;
    let body = n_words.saturating_sub(CHECKSUM_WORDS as usize);
    let mut chunk: Vec<u32> = Vec::with_capacity(CHUNK_BYTES / 4);
    chunk.extend(header.as_chunks::<4>().0.iter().map(|&b| u32::from_le_bytes(b)));
    let (n_vocab, n_sections) = (chunk[5], chunk[10]);
    let mut sum = Checksum::new(chunk[3]);
    let mut words: Vec<u32> = Vec::new();
    let mut wanted: Option<Vec<(u32, Range<usize>)>> = None;
    let (mut at, mut bytes) = (0, vec![0u8; CHUNK_BYTES]);
    loop {
        sum.add(&chunk[..chunk.len().min(body.saturating_sub(at))]);
        hand_out(&chunk, at, wanted.as_deref().unwrap_or_default(), &mut words, intake);
        at += chunk.len();
        // The section table comes in a piece of its own, and all that follows it begins at a multiple of 16.
        let n_head = (HEADER_WORDS + ENTRY_WORDS * n_sections.min(MAX_SECTIONS) as usize)
            .next_multiple_of(ALIGN_WORDS as usize)
            .min(n_words);
        if at >= n_head && wanted.is_none() {
            let found = wanted_sections(&words, n_sections, body, n_vocab, intake);
            let n_taken: usize = found.iter().map(|(_, range)| range.len()).sum();
            words.try_reserve_exact(n_words - n_taken - at).map_err(|_| no_room())?;
            wanted = Some(found);
        }
        let n = (if at < n_head { n_head } else { n_words } - at).min(CHUNK_BYTES / 4);
        if n == 0 {
            break;
        }
        reader.read_exact(&mut bytes[..4 * n]).map_err(|e| io(Error::io(format!("cannot read `{name}`"), e)))?;
        chunk.clear();
        chunk.extend(bytes[..4 * n].as_chunks::<4>().0.iter().map(|&b| u32::from_le_bytes(b)));
    }
    let taken = wanted.unwrap_or_default().into_iter().map(|(_, range)| range).collect();
    Ok(WordsRead { words, sum: sum.value(), taken })
}

/// The sections that the intake wants, rising; none where sections overlap or are out of place: that is told from the whole file.
fn wanted_sections(
    words: &[u32],
    n_sections: u32,
    body: usize,
    n_vocab: u32,
    intake: &mut dyn Intake,
) -> Vec<(u32, Range<usize>)> {
    let mut sections = section_table(words, n_sections, body as u64).unwrap_or_default();
    sections.retain(|(_, range)| range.start < range.end);
    sections.sort_unstable_by_key(|(_, range)| range.start);
    let is_apart = sections.windows(2).all(|pair| pair[0].1.end <= pair[1].1.start && pair[0].0 != pair[1].0);
    sections.retain(|(id, range)| {
        is_apart && range.start.is_multiple_of(ALIGN_WORDS as usize) && intake.wants(*id, n_vocab)
    });
    sections
}

/// Gives the intake what it wants of the words from place `at` on, and keeps the others.
fn hand_out(chunk: &[u32], at: usize, wanted: &[(u32, Range<usize>)], words: &mut Vec<u32>, intake: &mut dyn Intake) {
    let mut done = 0;
    for (id, range) in wanted {
        let here = |place: usize| place.clamp(at + done, at + chunk.len()) - at;
        let (begin, end) = (here(range.start), here(range.end));
        if begin < end {
            words.extend_from_slice(&chunk[done..begin]);
            intake.take(*id, &chunk[begin..end]);
            done = end;
        }
    }
    words.extend_from_slice(&chunk[done..]);
}

fn read_up_to(reader: &mut impl Read, buffer: &mut [u8]) -> std::io::Result<usize> {
    let mut n = 0;
    while n < buffer.len() {
        match reader.read(&mut buffer[n..]) {
            Ok(0) => break,
            Ok(more) => n += more,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(n)
}

/// Where the words of a section come from when a file is written.
pub(crate) enum Words<'a> {
    Memory(&'a [u32]),
    File(&'a mut WordFile),
}

impl Words<'_> {
    pub(crate) fn len(&self) -> u64 {
        match self {
            Words::Memory(words) => words.len() as u64,
            Words::File(file) => file.len(),
        }
    }
}

/// Writes a whole file to `writer` and gives its bytes and its checksum. `name` is for error texts, `sections` are (id, words);
/// `on_words` hears how many words were written since its last call and may stop the writing with an error.
pub(crate) fn write(
    writer: &mut dyn Write,
    name: &str,
    kind: Kind,
    n_vocab: u32,
    fingerprint: Fingerprint,
    sections: &mut [(u32, Words<'_>)],
    on_words: &mut dyn FnMut(u64) -> Result<(), Error>,
) -> Result<(u64, u64), Error> {
    let mut at = (HEADER_WORDS + ENTRY_WORDS * sections.len()) as u64;
    let mut table = Vec::with_capacity(ENTRY_WORDS * sections.len());
    for (id, words) in sections.iter() {
        at = at.next_multiple_of(ALIGN_WORDS);
        let n = words.len();
        table.extend([*id, 0, at as u32, (at >> 32) as u32, n as u32, (n >> 32) as u32]);
        at += n;
    }
    let n_words = at + CHECKSUM_WORDS;
    let [l0, l1, l2, l3, l4, l5, l6, l7] = LABEL;
    let mut header = [0u32; HEADER_WORDS];
    header[0] = u32::from_le_bytes([l0, l1, l2, l3]);
    header[1] = u32::from_le_bytes([l4, l5, l6, l7]);
    header[2] = BYTE_ORDER;
    header[3] = VERSION;
    header[4] = kind as u32;
    header[5] = n_vocab;
    (header[6], header[7]) = (fingerprint.0 as u32, (fingerprint.0 >> 32) as u32);
    (header[8], header[9]) = (n_words as u32, (n_words >> 32) as u32);
    header[10] = sections.len() as u32;

    let mut out =
        WordWriter { writer, name, sum: Checksum::new(VERSION), n_written: 0, bytes: Vec::with_capacity(CHUNK_BYTES) };
    out.put(&header)?;
    out.put(&table)?;
    for (_, words) in sections {
        let gap = out.n_written.next_multiple_of(ALIGN_WORDS) - out.n_written;
        out.put(&[0; ALIGN_WORDS as usize][..gap as usize])?;
        match words {
            Words::Memory(words) => {
                for chunk in words.chunks(CHUNK_BYTES / 4) {
                    out.put(chunk)?;
                    on_words(chunk.len() as u64)?;
                }
            }
            Words::File(file) => file.read_all(&mut |chunk| {
                out.put(chunk)?;
                on_words(chunk.len() as u64)
            })?,
        }
    }
    let sum = out.sum.value();
    out.put(&[sum as u32, (sum >> 32) as u32])?;
    out.writer.flush().map_err(|e| cannot_write(name, e))?;
    Ok((n_words * 4, sum))
}

struct WordWriter<'a> {
    writer: &'a mut dyn Write,
    name: &'a str,
    sum: Checksum,
    n_written: u64,
    bytes: Vec<u8>,
}

impl WordWriter<'_> {
    fn put(&mut self, words: &[u32]) -> Result<(), Error> {
        self.sum.add(words);
        self.n_written += words.len() as u64;
        self.bytes.clear();
        self.bytes.extend(words.iter().flat_map(|w| w.to_le_bytes()));
        self.writer.write_all(&self.bytes).map_err(|e| cannot_write(self.name, e))
    }
}

fn cannot_write(name: &str, source: std::io::Error) -> Error {
    Error::io(format!("cannot write `{name}`: the old file, if there was one, is unchanged"), source)
}

/// The checksum of a file's words, for tests that forge files.
#[cfg(test)]
pub(crate) fn checksum(words: &[u32]) -> u64 {
    let mut sum = Checksum::new(words[3]);
    sum.add(words);
    sum.value()
}
