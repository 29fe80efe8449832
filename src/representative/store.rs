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
mod read;
mod replace;
pub(crate) mod spill;

use std::fmt;
use std::io::Write;
use std::ops::Range;

use crate::error::Error;

use checksum::Checksum;
pub use keep::Kept;
pub(crate) use keep::{Content, Keep};
use read::load_into;
pub(crate) use read::{load, read};
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
