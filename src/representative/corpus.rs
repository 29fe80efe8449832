//! The frozen tri-gram table: what followed each pair of tokens, each token, and anything, in a corpus of text.
//!
//! Contexts lie in sorted flat arrays, in memory exactly as in the file (`store.rs`), so loading parses nothing. A pair is found through
//! its first token, which indexes the table directly; the second is searched within that row. All siblings of a draft tree share the
//! first token, so one row serves them all while it is in the cache (`benches/record/corpus-look-up.md`).

mod build;

use std::io::Read;
use std::ops::Range;
use std::path::Path;

use crate::error::Error;
use crate::representative::store::{self, Fingerprint, Kind, Stored};
use crate::token::Token;

pub use build::{BuildOptions, CorpusBuilder, Summary};

/// Successors kept per context, as in the published method ("the 12 heaviest per context").
pub const MAX_SUCCESSORS: usize = 12;

/// Section ids of the file. Numbers are never used again for something else.
mod section {
    pub(super) const FACTS: u32 = 1;
    pub(super) const TRI_ROWS: u32 = 2;
    pub(super) const TRI_SECONDS: u32 = 3;
    pub(super) const TRI_CONTEXTS: u32 = 4;
    pub(super) const TRI_SUCCESSORS: u32 = 5;
    pub(super) const BI_CONTEXTS: u32 = 6;
    pub(super) const BI_SUCCESSORS: u32 = 7;
    pub(super) const UNI_CONTEXTS: u32 = 8;
    pub(super) const UNI_SUCCESSORS: u32 = 9;
}

/// A corpus in memory. Never changes; share it between generations and threads in an `Arc`.
pub struct Corpus {
    words: Vec<u32>,
    n_vocab: u32,
    fingerprint: Fingerprint,
    facts: Summary,
    /// n_vocab + 1 words: where the second tokens of each first token begin.
    tri_rows: Range<usize>,
    /// One word per pair: its second token, rising within a row.
    tri_seconds: Range<usize>,
    tri: Level,
    bi: Level,
    uni: Level,
}

/// Contexts of one length, by number.
struct Level {
    /// One pair of words per context and one more: where its successors begin, and how often the context was seen.
    contexts: Range<usize>,
    /// One pair of words per successor: token, count. Heaviest first, ties by token id up.
    successors: Range<usize>,
}

impl Corpus {
    /// Reads a corpus file. `expected` is the tokenizer of the model it is to serve; `None` takes any, to look at a file without a model.
    ///
    /// Everything is checked: a file that is truncated, altered, of another tokenizer or of a later version is an error that says so.
    pub fn load(path: impl AsRef<Path>, expected: Option<Fingerprint>) -> Result<Self, Error> {
        let path = path.as_ref();
        Self::from_stored(store::load(path, Kind::Corpus, expected)?, &path.display().to_string())
    }

    /// As [`load`](Self::load), from `n_bytes` bytes of any reader; `name` stands in error texts.
    pub fn read(reader: impl Read, n_bytes: u64, name: &str, expected: Option<Fingerprint>) -> Result<Self, Error> {
        Self::from_stored(store::read(reader, n_bytes, name, Kind::Corpus, expected)?, name)
    }

    /// What followed `a`, `b`; heaviest first. Empty if the pair is not in the corpus.
    pub fn successors3(&self, a: Token, b: Token) -> Successors<'_> {
        let Some(row) = self.words[self.tri_rows.clone()].get(a.0 as usize..).and_then(|rows| rows.get(..2)) else {
            return Successors::default();
        };
        let (start, end) = (row[0] as usize, row[1] as usize);
        match self.words[self.tri_seconds.clone()][start..end].binary_search(&b.0) {
            Ok(place) => self.tri.successors(&self.words, start + place),
            Err(_) => Successors::default(),
        }
    }

    /// What followed `b` whatever stood before it; heaviest first.
    pub fn successors2(&self, b: Token) -> Successors<'_> {
        if b.0 >= self.n_vocab { Successors::default() } else { self.bi.successors(&self.words, b.0 as usize) }
    }

    /// The commonest tokens; heaviest first.
    pub fn successors1(&self) -> Successors<'_> {
        self.uni.successors(&self.words, 0)
    }

    /// Token ids are below this.
    pub fn n_vocab(&self) -> u32 {
        self.n_vocab
    }

    /// The tokenizer that the corpus was learnt with.
    pub fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    /// What was learnt, in numbers.
    pub fn summary(&self) -> Summary {
        self.facts
    }

    /// Bytes held in memory.
    pub fn memory_bytes(&self) -> usize {
        self.words.capacity() * size_of::<u32>()
    }

    fn from_stored(stored: Stored, name: &str) -> Result<Self, Error> {
        Self::checked(stored).map_err(|what| Error::format(format!("cannot use `{name}`: {what}; learn it again")))
    }

    fn checked(stored: Stored) -> Result<Self, String> {
        let n_vocab = stored.n_vocab as usize;
        let section = |id, what: &str, width: usize| {
            let range = stored.section(id).ok_or_else(|| format!("it has no section {id} ({what})"))?;
            if range.len().is_multiple_of(width) { Ok(range) } else { Err(format!("its {what} end in the middle")) }
        };
        let facts = section(section::FACTS, "facts", 1)?;
        let tri_rows = section(section::TRI_ROWS, "rows of pairs", 1)?;
        let tri_seconds = section(section::TRI_SECONDS, "second tokens", 1)?;
        let level = |contexts, successors, what: &str| -> Result<Level, String> {
            Ok(Level { contexts: section(contexts, what, 2)?, successors: section(successors, what, 2)? })
        };
        let tri = level(section::TRI_CONTEXTS, section::TRI_SUCCESSORS, "tri-grams")?;
        let bi = level(section::BI_CONTEXTS, section::BI_SUCCESSORS, "bi-grams")?;
        let uni = level(section::UNI_CONTEXTS, section::UNI_SUCCESSORS, "uni-grams")?;

        let words = &stored.words[..];
        let n_pairs = tri_seconds.len();
        check_level(words, &tri, "tri-grams", n_pairs, n_vocab)?;
        check_level(words, &bi, "bi-grams", n_vocab, n_vocab)?;
        check_level(words, &uni, "uni-grams", 1, n_vocab)?;
        let rows = &words[tri_rows.clone()];
        if rows.len() != n_vocab + 1 || rows[0] != 0 || rows[n_vocab] as usize != n_pairs || !rows.is_sorted() {
            return Err("its rows of pairs are out of range or unsorted".into());
        }
        let seconds = &words[tri_seconds.clone()];
        for (&start, &end) in rows.iter().zip(&rows[1..]) {
            let row = &seconds[start as usize..end as usize];
            if !row.is_sorted_by(|a, b| a < b) || row.last().is_some_and(|&b| b as usize >= n_vocab) {
                return Err("its second tokens are out of range or unsorted".into());
            }
        }
        let facts = Summary::from_words(&words[facts])
            .map(|facts| Summary {
                n_contexts: n_pairs as u64,
                n_successors: tri.successors.len() as u64 / 2,
                n_bytes: stored.n_words * 4,
                ..facts
            })
            .ok_or("its facts end in the middle")?;
        let Stored { fingerprint, n_vocab, words, .. } = stored;
        Ok(Self { words, n_vocab, fingerprint, facts, tri_rows, tri_seconds, tri, bi, uni })
    }
}

impl std::fmt::Debug for Corpus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Corpus").field("fingerprint", &self.fingerprint).field("facts", &self.facts).finish()
    }
}

impl Level {
    fn successors<'a>(&self, words: &'a [u32], context: usize) -> Successors<'a> {
        let contexts = &words[self.contexts.clone()];
        let (start, total, end) = (contexts[2 * context], contexts[2 * context + 1], contexts[2 * context + 2]);
        let pairs = words[self.successors.clone()].as_chunks().0;
        Successors { pairs: &pairs[start as usize..end as usize], total }
    }
}

/// Checks all that look-ups rely on, so that they need not.
fn check_level(words: &[u32], level: &Level, what: &str, n_contexts: usize, n_vocab: usize) -> Result<(), String> {
    let contexts: &[[u32; 2]] = words[level.contexts.clone()].as_chunks().0;
    let pairs: &[[u32; 2]] = words[level.successors.clone()].as_chunks().0;
    let out_of_range = || format!("offsets of its {what} are out of range");
    if contexts.len() != n_contexts + 1 || contexts[0][0] != 0 || contexts[n_contexts][0] as usize != pairs.len() {
        return Err(out_of_range());
    }
    for (context, next) in contexts.iter().zip(&contexts[1..]) {
        let pairs = (context[0] <= next[0]).then(|| pairs.get(context[0] as usize..next[0] as usize)).flatten();
        let pairs = pairs.filter(|pairs| pairs.len() <= MAX_SUCCESSORS).ok_or_else(out_of_range)?;
        let mut sum = 0;
        for (place, &[token, count]) in pairs.iter().enumerate() {
            if token as usize >= n_vocab {
                return Err(format!("token {token} in its {what} is outside its vocabulary of {n_vocab}"));
            }
            let (before, place_before) = (&pairs[..place], place.wrapping_sub(1));
            let in_order = pairs.get(place_before).is_none_or(|b| b[1] > count || (b[1] == count && b[0] < token));
            if !in_order || count == 0 || before.iter().any(|b| b[0] == token) {
                return Err(format!("successors in its {what} are unsorted"));
            }
            sum += u64::from(count);
        }
        if sum > u64::from(context[1]) {
            return Err(format!("counts in its {what} are larger than their total"));
        }
    }
    Ok(())
}

/// Successors of a context with their probabilities, heaviest first, ties by token id up. At most [`MAX_SUCCESSORS`].
#[derive(Clone, Copy, Debug, Default)]
pub struct Successors<'a> {
    pairs: &'a [[u32; 2]],
    total: u32,
}

impl Successors<'_> {
    /// How often the context was seen; 0 if never. Larger than the sum of the counts if successors were pruned.
    pub fn n_seen(&self) -> u32 {
        self.total
    }

    /// (token, count) pairs, heaviest first.
    pub fn counts(&self) -> impl ExactSizeIterator<Item = (Token, u32)> + '_ {
        self.pairs.iter().map(|&[token, count]| (Token(token), count))
    }

    /// True if there is no successor.
    pub fn is_empty(&self) -> bool {
        self.pairs.is_empty()
    }
}

impl Iterator for Successors<'_> {
    /// A token and its share of all that followed the context in the corpus.
    type Item = (Token, f32);

    fn next(&mut self) -> Option<Self::Item> {
        let (&[token, count], rest) = self.pairs.split_first()?;
        self.pairs = rest;
        Some((Token(token), (f64::from(count) / f64::from(self.total)) as f32))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.pairs.len(), Some(self.pairs.len()))
    }
}

impl ExactSizeIterator for Successors<'_> {}

#[cfg(test)]
mod tests;
