//! What was learnt survives: overlay, recall, the log of earlier texts and the calibration of one model, in a file.
//!
//! The file's frame is described in [`store`]; these are its sections:
//!
//! | id | content |
//! | --- | --- |
//! | 1 | fingerprint of the model (low, high) |
//! | 2 | overlay: rows |
//! | 3 | recall: rows |
//! | 4 | log: tokens |
//! | 5 | log: where its documents begin, rising from 0 |
//! | 6 | calibration: shape (low, high), sampled decoding, greedy decoding |
//!
//! A file tells much about what was said: the log holds texts word for word.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use crate::config::RepresentativeConfig;
use crate::error::Error;
use crate::representative::calibrate::Calibration;
use crate::representative::calibrate::saved::WORDS as CALIBRATION_WORDS;
use crate::representative::copy::CopyIndex;
use crate::representative::overlay::{self, ONE};
use crate::representative::rows::saved::{ROW_WORDS, n_rows, newer};
use crate::representative::store::{self, Content, Fingerprint, Intake, Keep, Kept, Kind, Reason, Refused, Stored};
use crate::representative::view::Representative;
use crate::token::Token;

mod section {
    pub(super) const MODEL: u32 = 1;
    pub(super) const OVERLAY: u32 = 2;
    pub(super) const RECALL: u32 = 3;
    pub(super) const LOG: u32 = 4;
    pub(super) const LOG_STARTS: u32 = 5;
    pub(super) const CALIBRATION: u32 = 6;
}

/// Most bytes of a file, unless the caller says otherwise.
pub const MAX_BYTES: u64 = 64 << 20;

/// Whose memory a file holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Owner {
    /// The tokenizer.
    pub tokenizer: Fingerprint,
    /// Tells models with the same tokenizer apart, by whatever the caller computes from their metadata.
    pub model: u64,
    /// Token ids are below this.
    pub n_vocab: u32,
}

/// What a file holds, in numbers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MemorySummary {
    /// Whose it is.
    pub owner: Owner,
    /// Size of the file.
    pub n_bytes: u64,
    /// Contexts with counted successors.
    pub n_overlay: usize,
    /// Contexts with a remembered logits row.
    pub n_recall: usize,
    /// Tokens of earlier texts.
    pub n_log_tokens: usize,
    /// Earlier texts.
    pub n_log_documents: usize,
    /// Outcomes that the calibration rests on, sampled and greedy decoding together.
    pub n_outcomes: u64,
}

/// A file in which a model's memory is kept.
#[derive(Debug)]
pub struct MemoryFile {
    keep: Keep,
    owner: Owner,
    max_bytes: u64,
}

impl MemoryFile {
    /// The file at `path`, which need not exist, for a model; it never grows beyond `max_bytes` (at least 64 KiB).
    ///
    /// `is_own_place` says that nobody but this program names files there: anything else found in the place is then set aside.
    pub fn new(path: impl Into<PathBuf>, owner: Owner, max_bytes: u64, is_own_place: bool) -> Self {
        let keep = Keep::new(path.into(), Kind::Memory, owner.n_vocab, owner.tokenizer, is_own_place);
        Self { keep, owner, max_bytes: max_bytes.max(64 << 10) }
    }

    /// The file.
    pub fn path(&self) -> &Path {
        self.keep.path()
    }

    /// Adds what the file holds to what is known. False if there is no file yet.
    ///
    /// # Errors
    /// Why the file cannot be used. A damaged one was set aside, and the text says so; one that holds something else is left alone.
    /// Nothing is known then that was not known before, and everything goes on without the file.
    pub fn load(&mut self, representative: &mut Representative) -> Result<bool, Error> {
        let mut merging = Merging::new(self.owner, representative);
        let read = self.keep.read(&mut merging);
        if merging.has_begun && read.is_err() {
            representative.clear();
        }
        read
    }

    /// Saves what is known. If another process saved meanwhile, what it knew is added first.
    ///
    /// # Errors
    /// If the file cannot be written; it is then as it was before.
    pub fn save(&mut self, representative: &mut Representative) -> Result<Kept, Error> {
        let (owner, max_bytes) = (self.owner, self.max_bytes);
        let known = std::cell::RefCell::new(representative);
        self.keep.save(&mut |stored: &Stored| merge(stored, Some(&owner), &mut known.borrow_mut()), &mut || {
            content(&known.borrow(), &owner, max_bytes)
        })
    }
}

/// Looks into a file, whosever it is.
///
/// # Errors
/// If it cannot be read, is damaged, or holds something else.
pub fn summary(path: impl AsRef<Path>) -> Result<MemorySummary, Error> {
    Ok(read(path.as_ref())?.1)
}

/// Looks into a file, whosever it is, and gives the texts in its log, oldest first.
///
/// # Errors
/// As [`summary`].
pub fn texts(path: impl AsRef<Path>) -> Result<Vec<Vec<Token>>, Error> {
    Ok(read(path.as_ref())?.0.log.documents().map(<[Token]>::to_vec).collect())
}

/// As [`summary`], from bytes; `name` stands in error texts.
///
/// # Errors
/// As [`summary`].
pub fn summary_of(bytes: &[u8], name: &str) -> Result<MemorySummary, Error> {
    Ok(take(&store::read(bytes, bytes.len() as u64, name, Kind::Memory, None)?, name)?.1)
}

fn read(path: &Path) -> Result<(Representative, MemorySummary), Error> {
    take(&store::load(path, Kind::Memory, None)?, &path.display().to_string())
}

/// Everything that a file holds, in tables of the size that it takes.
fn take(stored: &Stored, name: &str) -> Result<(Representative, MemorySummary), Error> {
    let length = |id| stored.section(id).map_or(0, |range| range.len());
    let room = |n_rows: usize| (2 * n_rows).max(16);
    let mut representative = Representative::new(&RepresentativeConfig {
        overlay_contexts: room(n_rows(length(section::OVERLAY))),
        recall_contexts: room(n_rows(length(section::RECALL))),
        log_tokens: length(section::LOG).max(16),
        without: Vec::new(),
    });
    merge(stored, None, &mut representative)
        .map_err(|refused| Error::format(format!("cannot use `{name}`: {}", refused.error)))?;
    let summary = MemorySummary {
        owner: owner_of(stored).map_err(|refused| refused.error)?,
        n_bytes: stored.n_words * 4,
        n_overlay: n_rows(length(section::OVERLAY)),
        n_recall: n_rows(length(section::RECALL)),
        n_log_tokens: representative.log.tokens().len(),
        n_log_documents: representative.log.documents().count(),
        n_outcomes: representative.calibrations_mut().iter().map(|calibration| calibration.n_outcomes() as u64).sum(),
    };
    Ok((representative, summary))
}

fn damaged(what: impl Into<String>) -> Refused {
    Refused { reason: Reason::Damaged, error: Error::format(what) }
}

fn owner_of(stored: &Stored) -> Result<Owner, Refused> {
    match stored.section(section::MODEL).map(|range| &stored.words[range]) {
        Some(&[low, high]) => Ok(Owner {
            tokenizer: stored.fingerprint,
            model: u64::from(low) | u64::from(high) << 32,
            n_vocab: stored.n_vocab,
        }),
        _ => Err(damaged("it does not say which model it belongs to")),
    }
}

/// Takes a file's content over into tables in which nothing is yet: their rows as they come, so that they need not be stored in between.
/// If the file turns out to be of no use, the tables must be cleared again.
struct Merging<'a> {
    owner: Owner,
    known: &'a mut Representative,
    /// Nothing was known before.
    is_blank: bool,
    /// Rows were taken.
    has_begun: bool,
    n_vocab: u32,
    /// The clocks of both tables' sections.
    clocks: [Option<u32>; 2],
    result: Result<(), String>,
}

impl<'a> Merging<'a> {
    fn new(owner: Owner, known: &'a mut Representative) -> Self {
        let is_blank = known.is_blank();
        Self { owner, known, is_blank, has_begun: false, n_vocab: 0, clocks: [None; 2], result: Ok(()) }
    }
}

impl Intake for Merging<'_> {
    fn wants(&mut self, id: u32, n_vocab: u32) -> bool {
        self.n_vocab = n_vocab;
        self.is_blank && [section::OVERLAY, section::RECALL].contains(&id)
    }

    fn take(&mut self, id: u32, words: &[u32]) {
        self.has_begun = true;
        if self.result.is_ok() {
            let clock = &mut self.clocks[usize::from(id == section::RECALL)];
            self.result = merge_rows(id, clock, words, self.n_vocab, self.known);
        }
    }

    fn finish(&mut self, stored: &Stored) -> Result<(), Refused> {
        merge(stored, Some(&self.owner), self.known)?;
        std::mem::replace(&mut self.result, Ok(())).map_err(damaged)
    }
}

/// Adds a piece of the rows of one of the tables.
fn merge_rows(
    id: u32,
    clock: &mut Option<u32>,
    words: &[u32],
    n_vocab: u32,
    known: &mut Representative,
) -> Result<(), String> {
    if id == section::OVERLAY {
        known.overlay.table_mut().merge_words(clock, words, n_vocab, overlay::tidy, overlay::merge)
    } else {
        known.recall.table_mut().merge_words(clock, words, n_vocab, |_| true, newer)
    }
}

/// Adds a file's content to what is known. Nothing changes if the owner is another, or the log or the calibration is refused.
fn merge(stored: &Stored, expected: Option<&Owner>, known: &mut Representative) -> Result<(), Refused> {
    let owner = owner_of(stored)?;
    if expected.is_some_and(|expected| *expected != owner) {
        let text = format!("it is the memory of another model ({:016x}); name another file", owner.model);
        return Err(Refused { reason: Reason::Others, error: Error::format(text) });
    }
    let words = |id| stored.section(id).map_or(&[][..], |range| &stored.words[range]);
    let log = Log::new(words(section::LOG), words(section::LOG_STARTS), owner.n_vocab).map_err(damaged)?;
    let calibrations = calibrations(words(section::CALIBRATION)).map_err(damaged)?;
    for id in [section::OVERLAY, section::RECALL] {
        merge_rows(id, &mut None, words(id), owner.n_vocab, known).map_err(damaged)?;
    }
    log.add_to(&mut known.log);
    if let Some(saved) = calibrations {
        for (own, saved) in known.calibrations_mut().iter_mut().zip(saved) {
            if own.n_outcomes() == 0.0 { *own = saved } else { own.merge(&saved) }
        }
    }
    Ok(())
}

/// `None` if there is none, or one of a version whose buckets mean something else: calibrating anew takes a few dozen rounds.
fn calibrations(words: &[u32]) -> Result<Option<[Calibration; 2]>, String> {
    let Some((shape, words)) = words.split_at_checked(2) else { return Ok(None) };
    if u64::from(shape[0]) | u64::from(shape[1]) << 32 != Calibration::shape() {
        return Ok(None);
    }
    let (sampled, greedy) = words.split_at(words.len().min(CALIBRATION_WORDS));
    match (Calibration::from_words(sampled), Calibration::from_words(greedy)) {
        (Some(sampled), Some(greedy)) => Ok(Some([sampled, greedy])),
        _ => Err("its calibration is out of range".to_owned()),
    }
}

/// The texts of a file's log.
struct Log<'a>(Vec<&'a [u32]>);

impl<'a> Log<'a> {
    fn new(tokens: &'a [u32], starts: &[u32], n_vocab: u32) -> Result<Self, String> {
        if let Some(token) = tokens.iter().find(|&&token| token >= n_vocab) {
            return Err(format!("its log holds token {token}, and its vocabulary ends at {n_vocab}"));
        }
        let in_range = starts.is_sorted_by(|a, b| a < b) && starts.iter().all(|&start| (start as usize) < tokens.len());
        if !in_range || starts.first().is_some_and(|&start| start != 0) || starts.is_empty() != tokens.is_empty() {
            return Err("the beginnings of its texts are out of order".to_owned());
        }
        let ends = starts.iter().skip(1).copied().chain([tokens.len() as u32]);
        Ok(Self(starts.iter().zip(ends).map(|(&start, end)| &tokens[start as usize..end as usize]).collect()))
    }

    /// What only the file knows comes after what both knew, and before what only this process knows: both began with the same texts, and
    /// what stands last is dropped last.
    fn add_to(&self, log: &mut CopyIndex) {
        let own: Vec<Vec<u32>> =
            log.documents().map(|document| document.iter().map(|token| token.0).collect()).collect();
        let saved: HashSet<&[u32]> = self.0.iter().copied().collect();
        let n_common = own.iter().rposition(|document| saved.contains(&document[..])).map_or(0, |last| last + 1);
        let known: HashSet<&[u32]> = own.iter().map(Vec::as_slice).collect();
        // The oldest text of either may have lost its beginning.
        let cut = self.0.first().filter(|first| own.iter().any(|document| document.ends_with(first)));
        let is_known = |document: &&[u32]| {
            known.contains(document)
                || cut == Some(document)
                || own.first().is_some_and(|first| document.ends_with(first))
        };
        let mut others = self.0.iter().copied().filter(|document| !is_known(document)).peekable();
        if others.peek().is_none() {
            return;
        }
        let (common, new) = own.split_at(n_common);
        log.clear();
        for document in common.iter().map(Vec::as_slice).chain(others).chain(new.iter().map(Vec::as_slice)) {
            log.begin_document();
            document.iter().for_each(|&id| log.push(Token(id)));
        }
    }
}

/// The sections of a file of at most `max_bytes`. Where the whole does not fit, every table gives up the same share.
fn content(known: &Representative, owner: &Owner, max_bytes: u64) -> Content {
    let (overlay, recall) = (known.overlay.table(), known.recall.table());
    let mut calibration = vec![Calibration::shape() as u32, (Calibration::shape() >> 32) as u32];
    known.calibrations().iter().for_each(|own| own.to_words(&mut calibration));
    // Beside the tables: the frame, gaps between sections, and the two sections of fixed length.
    let fixed = 4 * (calibration.len() + 256) as u64;
    let row_bytes = 4 * ROW_WORDS as u64;
    let (n_overlay, n_recall, n_log) = (overlay.len() as u64, recall.len() as u64, known.log.tokens().len() as u64);
    let n_documents = known.log.documents().count() as u64;
    let wanted = (n_overlay + n_recall) * row_bytes + (n_log + n_documents) * 4;
    let room = max_bytes.saturating_sub(fixed);
    let share =
        |n: u64| if wanted <= room { n } else { (u128::from(n) * u128::from(room) / u128::from(wanted)) as u64 };
    let (tokens, starts) = newest_texts(&known.log, share(n_log + n_documents) as usize);
    vec![
        (section::MODEL, vec![owner.model as u32, (owner.model >> 32) as u32]),
        (
            section::OVERLAY,
            overlay
                .to_words(share(n_overlay) as usize, |row| row.iter().map(|(_, weight)| u32::from(weight / ONE)).sum()),
        ),
        (section::RECALL, recall.to_words(share(n_recall) as usize, |_| 1)),
        (section::LOG, tokens),
        (section::LOG_STARTS, starts),
        (section::CALIBRATION, calibration),
    ]
}

/// The last documents, oldest first, in `n_words` words; of the oldest of them its end.
fn newest_texts(log: &CopyIndex, n_words: usize) -> (Vec<u32>, Vec<u32>) {
    let documents: Vec<&[Token]> = log.documents().collect();
    let mut room = n_words;
    let mut kept: Vec<&[Token]> = Vec::new();
    for document in documents.iter().rev() {
        let n = document.len().min(room.saturating_sub(1));
        if n == 0 {
            break;
        }
        kept.push(&document[document.len() - n..]);
        room -= n + 1;
    }
    let (mut tokens, mut starts) = (Vec::new(), Vec::new());
    for document in kept.iter().rev() {
        starts.push(tokens.len() as u32);
        tokens.extend(document.iter().map(|token| token.0));
    }
    (tokens, starts)
}

#[cfg(test)]
mod tests;
