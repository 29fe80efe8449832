//! Reading a file: its frame is checked, and sections that somebody wants go to them as they come.

use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::path::Path;

use super::{
    ALIGN_WORDS, BYTE_ORDER, CHECKSUM_WORDS, CHUNK_BYTES, Checksum, ENTRY_WORDS, Fingerprint, HEADER_WORDS, Intake,
    Kind, LABEL, MAX_SECTIONS, MAX_VOCAB, OLDEST_VERSION, Reason, Refused, Stored, VERSION,
};
use crate::error::Error;

/// Reads and checks a whole file. `expected` is the tokenizer that the caller's model has; `None` takes any.
pub(crate) fn load(path: &Path, kind: Kind, expected: Option<Fingerprint>) -> Result<Stored, Refused> {
    load_into(path, kind, expected, &mut |_: &Stored| Ok(()))
}

/// As [`load`], with an intake, which is to be asked to finish by the caller.
pub(super) fn load_into(
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
