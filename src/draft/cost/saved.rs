//! What rounds cost, from one process to the next: times and nothing else, in a file.
//!
//! A saved table is a prior. The first two rounds of a size in a new process prove it or replace it; where it was wrong, all sizes that
//! still wait for their proof are scaled alike, since the likeliest cause is a machine that is slower or faster as a whole.
//!
//! Sections of the file, whose frame is described in [`store`](crate::representative::store):
//!
//! | id | content |
//! | --- | --- |
//! | 1 | milliseconds for another number of rows, milliseconds for sampling a token (32-bit floats) |
//! | 2 | per size: rows, mean cells, mean ms, variance, covariance, prior slope, samples, samples without a switch, rounds since |

use std::path::{Path, PathBuf};

use super::{CostTable, Entry};
use crate::config::MAX_DRAFT_ROWS;
use crate::error::Error;
use crate::representative::store::{Content, Fingerprint, Keep, Kept, Kind, Reason, Refused, Stored};

mod section {
    pub(super) const TABLE: u32 = 1;
    pub(super) const SIZES: u32 = 2;
}

const SIZE_WORDS: usize = 9;

/// A saved size counts as so many samples at most: a dozen new ones outweigh it.
const PRIOR_SAMPLES: u32 = 8;

/// A proof that differs by less than this factor confirms a saved time.
const TOLERANCE: f32 = 1.25;

/// Longest time that is believed, in ms.
const MAX_MS: f32 = 1e6;

/// A file in which the times of one machine, model and setting are kept.
#[derive(Debug)]
pub struct TimesFile {
    keep: Keep,
}

impl TimesFile {
    /// The file at `path`, which need not exist. `circumstances` is a number that differs wherever times may differ: model file,
    /// backend, threads, kernels, build. `is_own_place` says that nobody but this program names files there.
    pub fn new(path: impl Into<PathBuf>, circumstances: u64, is_own_place: bool) -> Self {
        // Times know no tokens; the frame wants a vocabulary of one at least.
        Self { keep: Keep::new(path.into(), Kind::Times, 1, Fingerprint(circumstances), is_own_place) }
    }

    /// The file.
    pub fn path(&self) -> &Path {
        self.keep.path()
    }

    /// Takes the file's times for sizes that were not measured yet. False if there is no file.
    ///
    /// # Errors
    /// Why the file cannot be used; a damaged one was set aside. Times are then learnt as if there were none.
    pub fn load(&mut self, table: &mut CostTable) -> Result<bool, Error> {
        self.keep.read(&mut |stored: &Stored| table.merge(stored))
    }

    /// Saves all times. Sizes that another process saved meanwhile and this one did not measure are kept.
    ///
    /// # Errors
    /// If the file cannot be written; it is then as it was before.
    pub fn save(&mut self, table: &mut CostTable) -> Result<Kept, Error> {
        let table = std::cell::RefCell::new(table);
        self.keep.save(&mut |stored: &Stored| table.borrow_mut().merge(stored), &mut || table.borrow().content())
    }
}

impl CostTable {
    /// Rounds learnt from in this process.
    pub fn n_rounds(&self) -> u32 {
        self.round
    }

    fn content(&self) -> Content {
        let mut sizes = Vec::new();
        // Plain rounds of several sequences are not kept: how many share a call differs from server to server.
        for (rows, entry) in self.sizes().iter().enumerate().filter(|(_, entry)| entry.n_samples > 0) {
            let Entry { mean_x, mean_ms, variance_x, covariance, prior_slope, .. } = *entry;
            let speed = self.speed;
            let line = [mean_x, mean_ms * speed, variance_x, covariance * speed, prior_slope * speed];
            sizes.push(rows as u32);
            sizes.extend(line.map(f32::to_bits));
            sizes.extend([entry.n_samples, entry.n_unswitched, self.round.wrapping_sub(entry.last_seen)]);
        }
        vec![(section::TABLE, vec![self.switch_ms.to_bits(), self.sample_ms.to_bits()]), (section::SIZES, sizes)]
    }

    fn merge(&mut self, stored: &Stored) -> Result<(), Refused> {
        let words = |id| stored.section(id).map_or(&[][..], |range| &stored.words[range]);
        let damaged = |what: &str| Refused { reason: Reason::Damaged, error: Error::format(what) };
        let in_range = |word: u32, most: f32| {
            let value = f32::from_bits(word);
            (0.0..=most).contains(&value).then_some(value)
        };
        let &[switch, sample] = words(section::TABLE) else { return Err(damaged("it has no times")) };
        let (Some(switch_ms), Some(sample_ms)) = (in_range(switch, MAX_MS), in_range(sample, MAX_MS)) else {
            return Err(damaged("its times are out of range"));
        };
        let (lines, rest) = words(section::SIZES).as_chunks::<SIZE_WORDS>();
        let mut saved = Vec::new();
        for &[rows, mean_x, mean_ms, variance_x, covariance, prior_slope, n_samples, n_unswitched, age] in lines {
            let number = |word: u32, most: f32| {
                in_range(word & !(1 << 31), most).map(|size| if word >> 31 == 0 { size } else { -size })
            };
            let entry = (|| {
                Some(Entry {
                    mean_x: in_range(mean_x, MAX_MS)?,
                    mean_ms: in_range(mean_ms, MAX_MS).filter(|&ms| ms > 0.0)?,
                    variance_x: in_range(variance_x, 1e12)?,
                    covariance: number(covariance, 1e12)?,
                    prior_slope: in_range(prior_slope, MAX_MS)?,
                    n_samples: n_samples.clamp(1, PRIOR_SAMPLES),
                    n_unswitched: n_unswitched.min(PRIOR_SAMPLES),
                    last_seen: self.round.wrapping_sub(age),
                    unproven_ms: Some(f32::INFINITY),
                })
            })();
            match entry {
                Some(entry) if (1..=MAX_DRAFT_ROWS as u32).contains(&rows) => saved.push((rows as usize, entry)),
                _ => return Err(damaged("its times are out of range")),
            }
        }
        if !rest.is_empty() {
            return Err(damaged("its sizes end in the middle"));
        }
        if self.round == 0 {
            (self.switch_ms, self.sample_ms) = (switch_ms, sample_ms);
        }
        for (rows, mut entry) in saved {
            let own = &mut self.entries[rows];
            if own.n_samples == 0 || own.unproven_ms.is_some() {
                entry.scale(1.0 / self.speed);
                *own = entry;
            }
        }
        Ok(())
    }

    /// Learns from a round of a size whose time waits for its proof: `ms` is what the round took, a switch left out.
    pub(super) fn prove(&mut self, rows: usize, x: f32, ms: f32) {
        let (round, speed) = (self.round, self.speed);
        let entry = &mut self.entries[rows];
        entry.last_seen = round;
        let first = entry.unproven_ms.unwrap_or(f32::INFINITY);
        if first.is_infinite() {
            // The first round of a size may have built a graph or touched fresh memory.
            entry.unproven_ms = Some(ms);
            return;
        }
        let ratio = ms.min(first) / (entry.at(x) * speed).max(1e-6);
        if (1.0 / TOLERANCE..=TOLERANCE).contains(&ratio) {
            entry.unproven_ms = None;
            return;
        }
        for entry in self.entries.iter_mut().filter(|entry| entry.unproven_ms.is_some()) {
            entry.scale(ratio);
        }
        let entry = &mut self.entries[rows];
        (entry.unproven_ms, entry.n_samples, entry.n_unswitched) = (None, 2, 0);
    }
}

impl Entry {
    fn scale(&mut self, factor: f32) {
        self.mean_ms *= factor;
        self.covariance *= factor;
        self.prior_slope *= factor;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::draft::cost::SIZES;

    fn learnt(ms: impl Fn(usize) -> f32) -> CostTable {
        let mut table = CostTable::default();
        for round in 0..600 {
            let rows = SIZES[round % 8];
            table.observe(rows, 100 + round, ms(rows), 1, 0.02);
        }
        table
    }

    fn reloaded(table: &mut CostTable) -> CostTable {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("times.aded");
        assert_eq!(TimesFile::new(&path, 7, true).save(table).unwrap(), Kept::Saved);
        let mut back = CostTable::default();
        assert!(TimesFile::new(&path, 7, true).load(&mut back).unwrap());
        assert!(TimesFile::new(&path, 8, true).load(&mut CostTable::default()).is_err(), "other circumstances");
        back
    }

    fn near(table: &CostTable, rows: usize, ms: f32) {
        let own = table.measured_ms(rows, 300).expect("known");
        assert!((own - ms).abs() < 0.1 * ms, "{rows} rows: {own} ms, not {ms}");
    }

    /// The rows that pay best, up to `most`, where each node is right half the time.
    fn best_rows(table: &CostTable, most: usize) -> usize {
        let curve = table.curve(300, 1, 64);
        let rate = |rows: usize| curve.rate(rows, 1.0 + 0.5 * (rows - 1) as f32);
        (1..=most).fold(1, |best, rows| if rate(rows) > rate(best) { rows } else { best })
    }

    /// Rounds until drafts of two nodes are drafted and known for what they cost.
    fn rounds_to_recover(table: &mut CostTable, ms: impl Fn(usize) -> f32) -> usize {
        for round in 0..20_000 {
            let rows = best_rows(table, 3);
            table.observe(rows, 300, ms(rows), 1, 0.02);
            if rows == 3 && table.measured_ms(3, 300).is_some_and(|known| known < 1.1 * ms(3)) {
                return round;
            }
        }
        panic!("it never does");
    }

    #[test]
    fn times_of_a_busy_machine_do_not_end_drafting_for_ever() {
        let idle = |rows: usize| 3.0 + 0.5 * rows as f32;
        let busy = |rows: usize| if rows == 1 { idle(1) } else { 120.0 };
        // In the same process and in another one.
        for mut table in [learnt(busy), reloaded(&mut learnt(busy))] {
            let n = rounds_to_recover(&mut table, idle);
            assert!(n < 2500, "{n}");
        }
    }

    #[test]
    fn dear_rows_are_looked_at_seldom() {
        let dear = |rows: usize| 3.0 * rows as f32;
        let mut table = learnt(dear);
        let mut n_drafted = 0;
        for _ in 0..20_000 {
            let rows = best_rows(&table, 8);
            n_drafted += usize::from(rows > 1);
            table.observe(rows, 300, dear(rows), 1, 0.02);
        }
        assert!((2..200).contains(&n_drafted), "{n_drafted} of 20000 rounds");
    }

    #[test]
    fn a_new_process_knows_the_cost_of_rows_at_once() {
        let mut table = learnt(|rows| 4.0 + rows as f32);
        table.observe(1, 300, 9.0, 1, 0.02);
        let back = reloaded(&mut table);
        for rows in &SIZES[..8] {
            near(&back, *rows, 4.0 + *rows as f32);
        }
        let curve = back.curve(300, 1, 64);
        assert!(curve.ms[8].is_finite() && curve.ms[16].is_finite() && curve.plain_ms > 4.0);
        assert!((back.sample_ms() - 0.02).abs() < 1e-3);
    }

    #[test]
    fn a_slower_machine_is_believed_after_two_rounds() {
        let mut back = reloaded(&mut learnt(|rows| 4.0 + rows as f32));
        back.observe(1, 300, 60.0, 1, 0.02);
        near(&back, 1, 5.0);
        back.observe(1, 300, 20.0, 1, 0.02);
        near(&back, 1, 20.0);
        near(&back, 8, 48.0);
        // A size that is dear now for itself says so within its own two rounds, and takes nobody with it who has spoken.
        back.observe(8, 300, 300.0, 1, 0.02);
        back.observe(8, 300, 300.0, 1, 0.02);
        near(&back, 8, 300.0);
        near(&back, 1, 20.0);
    }

    #[test]
    fn a_wrong_plain_time_is_found_out_even_if_drafts_go_on() {
        let mut back = reloaded(&mut learnt(|rows| 50.0 + rows as f32));
        let mut n_plain = 0;
        for _ in 0..100 {
            let curve = back.curve(300, 1, 64);
            let rows = if curve.ms[8].is_finite() { 8 } else { 1 };
            n_plain += usize::from(rows == 1);
            back.observe(rows, 300, if rows == 1 { 4.0 } else { 58.0 }, 1, 0.02);
        }
        assert_eq!(n_plain, 2);
        near(&back, 1, 4.0);
        near(&back, 8, 58.0);
    }

    #[test]
    fn two_processes_keep_each_other_s_sizes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("times.aded");
        let (mut a, mut b) = (CostTable::default(), CostTable::default());
        let (mut a_file, mut b_file) = (TimesFile::new(&path, 7, true), TimesFile::new(&path, 7, true));
        for _ in 0..20 {
            a.observe(1, 300, 4.0, 1, 0.02);
            b.observe(6, 300, 9.0, 1, 0.02);
        }
        a_file.save(&mut a).unwrap();
        b_file.save(&mut b).unwrap();
        let mut both = CostTable::default();
        assert!(TimesFile::new(&path, 7, true).load(&mut both).unwrap());
        near(&both, 1, 4.0);
        near(&both, 6, 9.0);
    }

    #[test]
    fn times_out_of_range_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("times.aded");
        for spoil in [
            |table: &mut CostTable| table.switch_ms = f32::NAN,
            |table: &mut CostTable| table.entries[1].mean_ms = -1.0,
            |table: &mut CostTable| table.entries[1].covariance = f32::INFINITY,
        ] {
            let mut table = learnt(|rows| rows as f32);
            spoil(&mut table);
            TimesFile::new(&path, 7, true).save(&mut table).unwrap();
            let text = TimesFile::new(&path, 7, true).load(&mut CostTable::default()).unwrap_err().to_string();
            assert!(text.contains("out of range") && text.contains("set aside as"), "{text}");
            assert!(!path.exists());
        }
    }
}
