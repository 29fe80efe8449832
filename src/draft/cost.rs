//! What a round costs: a table of measured times by number of rows, learnt while decoding.
//!
//! For each number of rows n the time of a round is modelled as (a\[n\] + b\[n\] * used cells) * speed; `speed` follows a machine that
//! slows down or recovers as a whole. No calibration run: sizes that were never tried get an optimistic guess, so that they are
//! tried exactly where that guess would win.
//!
//! Where several sequences share the call, a plain round of n of them has as many rows as a draft of n - 1 nodes, but not its cost: nothing
//! is searched or thrown away. Such rounds have a line of their own for each n, since drafts must beat them and nothing else.

use crate::config::MAX_DRAFT_ROWS;

mod saved;

pub use saved::TimesFile;

/// Row counts that drafts use. Each is a compute graph, kept for up to 16 rows on CPUs and elsewhere built anew with each change, so
/// that there are few.
pub const SIZES: [usize; 18] = [1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24, 32, 40, 48, 64];

/// Least relative cost of another row, assumed where nothing is measured. Deliberately optimistic.
const OPTIMISTIC_ROW: f32 = 0.02;

/// Cells are counted in thousands, so that a and b have like sizes.
const CELLS: f32 = 1.0 / 1024.0;

/// A size that was not seen for this many rounds may cost half of what it did, in between accordingly less, so that it is looked at again:
/// what was measured while the machine was busy would keep it from being drafted for ever.
const STALE_ROUNDS: f32 = 2048.0;

/// A size that was not seen for this many rounds is proven anew before it is learnt from, and believed only as far as it is likely.
const OLD_ROUNDS: u32 = 1024;

/// Most that another number of rows costs on top, as a part of a round.
const MAX_SWITCH: f32 = 0.25;

/// Rounds after which a plain time from a file must be proven: were it wrong, nothing else would show it.
const PROOF_ROUNDS: u32 = 32;

/// Plain rounds of several sequences before the first draft. One of many sequences nearly always has something to draft, so that a first
/// time that was too long by chance would never be corrected.
const SHARED_ROUNDS: u32 = 4;

/// Rounds after which a plain time of several sequences is taken anew.
const SHARED_AGE: u32 = 512;

/// Lines of the table: by rows, and after those by the number of sequences of plain rounds that share the call.
const LINES: usize = 2 * MAX_DRAFT_ROWS + 1;

/// The line of plain rounds of so many sequences.
fn plain_line(n_sequences: usize) -> usize {
    if n_sequences > 1 { MAX_DRAFT_ROWS + n_sequences.min(MAX_DRAFT_ROWS) } else { 1 }
}

/// A line through the measured times of one size, by moving averages: ms = mean_ms + slope * (x - mean_x), x = used cells in thousands.
#[derive(Clone, Copy, Debug, Default)]
struct Entry {
    mean_x: f32,
    mean_ms: f32,
    variance_x: f32,
    covariance: f32,
    /// Slope of the nearest known size, which holds as far as this size's own samples say nothing about it.
    prior_slope: f32,
    n_samples: u32,
    /// Samples whose round before had the same number of rows.
    n_unswitched: u32,
    last_seen: u32,
    /// The entry comes from a file, or is old, and waits for two further rounds: the milliseconds of the first, infinite before it.
    unproven_ms: Option<f32>,
}

impl Entry {
    /// Strength of the prior slope, as a variance of x: samples within some 50 cells of each other say little about the slope.
    const RIDGE: f32 = 0.002;

    fn slope(&self) -> f32 {
        ((self.covariance + Self::RIDGE * self.prior_slope) / (self.variance_x + Self::RIDGE)).max(0.0)
    }

    /// Not seen for long before this round.
    fn is_old(&self, round: u32) -> bool {
        round.wrapping_sub(self.last_seen) >= OLD_ROUNDS
    }

    fn at(&self, x: f32) -> f32 {
        (self.mean_ms + self.slope() * (x - self.mean_x)).max(0.1 * self.mean_ms)
    }

    fn learn(&mut self, x: f32, ms: f32, step: f32) {
        let (dx, dy) = (x - self.mean_x, ms - self.mean_ms);
        self.mean_x += step * dx;
        self.mean_ms += step * dy;
        self.variance_x = (1.0 - step) * (self.variance_x + step * dx * dx);
        self.covariance = (1.0 - step) * (self.covariance + step * dx * dy);
    }
}

/// The learnt table.
#[derive(Clone, Debug)]
pub struct CostTable {
    entries: [Entry; LINES],
    /// Factor on all entries.
    speed: f32,
    /// What a round costs on top if its number of rows differs from the last round's, in ms; believed within [`MAX_SWITCH`].
    switch_ms: f32,
    /// Sampling one token, in ms.
    sample_ms: f32,
    last_rows: usize,
    /// The last round drafted.
    last_drafted: bool,
    /// How often the round after a plain one, and after a draft, has another number of rows, by moving averages.
    changes: [f32; 2],
    round: u32,
}

/// The costs of the round at hand: for each allowed number of rows the expected milliseconds.
#[derive(Clone, Debug)]
pub struct CostCurve {
    /// Milliseconds to reckon with for this many rows: the round, a change of the number of rows before it, and one after it as far as it
    /// is likely; sampling left out. Infinite where the size is not allowed.
    pub ms: [f32; MAX_DRAFT_ROWS + 1],
    /// Milliseconds for sampling each emitted token.
    pub sample_ms: f32,
    /// Milliseconds of a plain round, the standard that drafts must beat.
    pub plain_ms: f32,
}

impl Default for CostTable {
    fn default() -> Self {
        Self {
            entries: [Entry::default(); LINES],
            speed: 1.0,
            switch_ms: 0.0,
            sample_ms: 0.0,
            last_rows: 0,
            last_drafted: false,
            changes: [0.5; 2],
            round: 0,
        }
    }
}

impl CostTable {
    /// Learns from a round that drafted, or from a plain one of a single sequence: its rows, the cells that its sequences used, the
    /// milliseconds without sampling, and the tokens sampled with the milliseconds that took.
    pub fn observe(&mut self, rows: usize, used_cells: usize, ms: f32, n_sampled: usize, sampling_ms: f32) {
        self.learn(rows, rows, used_cells, ms, (n_sampled, sampling_ms));
    }

    /// Learns from a plain round of so many sequences, each of which has one row and gets one token; otherwise as
    /// [`observe`](Self::observe).
    pub fn observe_plain(&mut self, n_sequences: usize, used_cells: usize, ms: f32, sampling_ms: f32) {
        self.learn(plain_line(n_sequences), n_sequences, used_cells, ms, (n_sequences, sampling_ms));
    }

    fn learn(&mut self, line: usize, rows: usize, used_cells: usize, ms: f32, sampling: (usize, f32)) {
        let (n_sampled, sampling_ms) = sampling;
        self.round = self.round.wrapping_add(1);
        let switched = self.last_rows != rows;
        if self.last_rows > 0 {
            let changes = &mut self.changes[usize::from(self.last_drafted)];
            *changes += 0.02 * (f32::from(u8::from(switched)) - *changes);
        }
        self.last_rows = rows;
        // Plain rounds of several sequences have lines of their own.
        self.last_drafted = (2..=MAX_DRAFT_ROWS).contains(&line);
        if n_sampled > 0 && sampling_ms.is_finite() {
            let each = sampling_ms / n_sampled as f32;
            self.sample_ms += (each - self.sample_ms) * if self.sample_ms == 0.0 { 1.0 } else { 0.05 };
        }
        if rows == 0 || rows > MAX_DRAFT_ROWS || !ms.is_finite() || ms <= 0.0 {
            return;
        }
        let x = used_cells as f32 * CELLS;
        if let Some(plain_ms) = self.plain_ms(1, used_cells) {
            self.switch_ms = self.switch_within(plain_ms);
        }
        let round = self.round;
        if self.entries[line].n_samples >= 2 && self.entries[line].is_old(round) {
            // What one old time turns out to be is likely of the others, too.
            for entry in self.entries.iter_mut().filter(|entry| entry.n_samples > 0 && entry.is_old(round)) {
                entry.unproven_ms.get_or_insert(f32::INFINITY);
            }
        }
        // However dear switching seems, most of a round is the decode call.
        let unswitched_ms = (ms - if switched { self.switch_ms } else { 0.0 }).max(0.5 * ms);
        if self.entries[line].unproven_ms.is_some() {
            self.prove(line, x, unswitched_ms);
            return;
        }
        let slope = self.slope_near(rows);
        let entry = &mut self.entries[line];
        entry.last_seen = self.round;
        let own = unswitched_ms / self.speed;
        match entry.n_samples {
            0 => {
                *entry =
                    Entry { mean_x: x, mean_ms: own, prior_slope: slope, last_seen: self.round, ..Entry::default() }
            }
            // The first round of a size may have built a graph or touched fresh memory; the second tells.
            1 => (entry.mean_x, entry.mean_ms) = (x, own.min(entry.at(x))),
            _ => {
                let expected = entry.at(x);
                // A round that the operating system interrupted must not count in full; one that is always slow still gets through.
                let step = (1.0 / (entry.n_samples as f32 + 1.0)).max(0.03);
                entry.learn(x, own.clamp(expected * 0.5, expected * 1.5), step);
                let surprise = (own / expected.max(1e-6)).clamp(0.8, 1.25);
                self.speed = (self.speed * (1.0 + 0.02 * (surprise - 1.0))).clamp(0.1, 10.0);
                // What a switch costs can be told only at sizes whose unswitched time is known.
                if switched && entry.n_unswitched >= 4 {
                    let limit = MAX_SWITCH * expected * self.speed;
                    let excess = ms - expected * self.speed - self.switch_ms;
                    self.switch_ms = (self.switch_ms + 0.05 * excess.clamp(-limit, limit)).clamp(0.0, limit);
                }
            }
        }
        entry.n_samples = entry.n_samples.saturating_add(1);
        entry.n_unswitched = entry.n_unswitched.saturating_add(u32::from(!switched));
    }

    /// Notes a call that is none of drafts: the next round begins with another graph than that of the last one learnt from.
    pub fn interrupt(&mut self) {
        self.last_rows = 0;
    }

    /// Expected milliseconds of a round of `rows` rows, as measured; `None` if that was never measured.
    pub fn measured_ms(&self, rows: usize, used_cells: usize) -> Option<f32> {
        let entry = self.sizes().get(rows)?;
        (entry.n_samples >= 1).then(|| self.at(entry, used_cells))
    }

    /// Expected milliseconds of a plain round of `n_sequences` sequences that use so many cells together; `None` if that was never measured.
    pub fn plain_ms(&self, n_sequences: usize, used_cells: usize) -> Option<f32> {
        let entry = &self.entries[plain_line(n_sequences)];
        (entry.n_samples >= 1).then(|| self.at(entry, used_cells))
    }

    /// Rounds measured with this many rows.
    pub fn n_samples(&self, rows: usize) -> u32 {
        self.sizes().get(rows).map_or(0, |entry| entry.n_samples)
    }

    /// Milliseconds for sampling one token.
    pub fn sample_ms(&self) -> f32 {
        self.sample_ms
    }

    /// The costs of the next round of `n_roots` sequences; sizes above `max_rows` are not allowed. A round of the roots alone is the plain
    /// one.
    pub fn curve(&self, used_cells: usize, n_roots: usize, max_rows: usize) -> CostCurve {
        let mut ms = [f32::INFINITY; MAX_DRAFT_ROWS + 1];
        let n_roots = n_roots.clamp(1, MAX_DRAFT_ROWS);
        let line = &self.entries[plain_line(n_roots)];
        let plain = self.plain_ms(n_roots, used_cells);
        let plain_ms = plain.unwrap_or(1.0);
        let mut below = (n_roots, plain_ms);
        ms[n_roots] = plain_ms;
        for rows in SIZES.into_iter().filter(|&rows| rows > n_roots && rows <= max_rows) {
            let entry = &self.entries[rows];
            let cost = if entry.n_samples >= 1 {
                let measured = self.at(entry, used_cells);
                // Rows together cost no more than one by one, unless the machine was busy.
                let is_likely = entry.unproven_ms.is_none() && !entry.is_old(self.round);
                let known = if is_likely { measured } else { measured.min(plain_ms * (rows as f32 / n_roots as f32)) };
                let lowest = (0.5 * known).max(below.1.min(known));
                below = (rows, known);
                let age = self.round.wrapping_sub(entry.last_seen) as f32;
                let doubt = (age / STALE_ROUNDS).clamp(if entry.n_samples < 2 { 0.2 } else { 0.0 }, 1.0);
                known + doubt * (lowest - known)
            } else {
                // A little dearer than the nearest smaller size, never dearer than the nearest larger one.
                let guess = below.1 * (1.0 + OPTIMISTIC_ROW * (rows - below.0) as f32);
                let larger = self.sizes()[rows..].iter().find(|entry| entry.n_samples >= 2);
                larger.map_or(guess, |entry| guess.min(self.at(entry, used_cells)))
            };
            ms[rows] = cost;
        }
        let switch_ms = self.switch_within(plain_ms);
        for (rows, ms) in ms.iter_mut().enumerate() {
            // A draft between plain rounds costs two changes, there and back.
            let n_switches = f32::from(u8::from(rows != self.last_rows)) + self.changes[usize::from(rows > n_roots)];
            *ms += n_switches * switch_ms;
        }
        let is_overdue = if n_roots > 1 {
            line.n_samples < SHARED_ROUNDS || self.round.wrapping_sub(line.last_seen) >= SHARED_AGE
        } else {
            self.round >= PROOF_ROUNDS && line.unproven_ms.is_some()
        };
        if plain.is_none() || is_overdue {
            // The first rounds are plain: everything else is measured against them. Those of a saved table are so when there is nothing
            // to draft, or after a while.
            ms[n_roots + 1..].fill(f32::INFINITY);
        }
        CostCurve { ms, sample_ms: self.sample_ms, plain_ms }
    }

    /// The entries by rows, without those of plain rounds that several sequences share.
    fn sizes(&self) -> &[Entry] {
        &self.entries[..=MAX_DRAFT_ROWS]
    }

    /// What another number of rows costs on top, whatever a busy machine made of it.
    fn switch_within(&self, plain_ms: f32) -> f32 {
        self.switch_ms.min(MAX_SWITCH * plain_ms)
    }

    fn at(&self, entry: &Entry, used_cells: usize) -> f32 {
        entry.at(used_cells as f32 * CELLS) * self.speed
    }

    /// The slope of the measured size that is nearest to `rows`.
    fn slope_near(&self, rows: usize) -> f32 {
        let measured = self.sizes().iter().enumerate().filter(|(_, entry)| entry.n_samples >= 8);
        measured.min_by_key(|(size, _)| size.abs_diff(rows)).map_or(0.0, |(_, entry)| entry.slope())
    }
}

impl CostCurve {
    /// A curve for a given number of nodes whatever they cost: every size up to `max_rows` is allowed and free.
    pub fn free(max_rows: usize) -> Self {
        let mut ms = [f32::INFINITY; MAX_DRAFT_ROWS + 1];
        ms[1..=max_rows.min(MAX_DRAFT_ROWS)].fill(1.0);
        Self { ms, sample_ms: 0.0, plain_ms: 1.0 }
    }

    /// Tokens per millisecond of a round with `rows` rows that yields `tokens` on average.
    pub fn rate(&self, rows: usize, tokens: f32) -> f32 {
        tokens / (self.ms.get(rows).copied().unwrap_or(f32::INFINITY) + self.sample_ms * tokens)
    }

    /// The best rate that any larger size could reach if each further row yielded `survival` tokens.
    pub fn best_rate_beyond(&self, rows: usize, tokens: f32, survival: f32) -> f32 {
        (rows + 1..self.ms.len())
            .filter(|&size| self.ms[size].is_finite())
            .map(|size| self.rate(size, tokens + (size - rows) as f32 * survival))
            .fold(0.0, f32::max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds rounds of a machine whose rows cost `ms(rows, cells)`.
    fn measured(ms: impl Fn(usize, usize) -> f32) -> CostTable {
        let mut table = CostTable::default();
        for round in 0..4000 {
            let rows = SIZES[round % 8];
            let cells = 100 + round % 900;
            table.observe(rows, cells, ms(rows, cells), 1, 0.01);
        }
        table
    }

    #[test]
    fn the_table_learns_times_and_their_growth_with_the_context() {
        let truth = |rows: usize, cells: usize| 4.0 + 0.3 * rows as f32 + 0.002 * cells as f32;
        let table = measured(truth);
        for rows in [1, 4, 8] {
            for cells in [200, 900] {
                let ms = table.measured_ms(rows, cells).expect("measured");
                assert!((ms - truth(rows, cells)).abs() < 0.05 * truth(rows, cells), "{rows} {cells} {ms}");
            }
        }
        assert!((table.sample_ms() - 0.01).abs() < 1e-4);
    }

    #[test]
    fn outliers_hardly_count_and_a_slower_machine_is_followed() {
        let mut table = measured(|rows, _| 4.0 + rows as f32);
        table.observe(4, 500, 400.0, 1, 0.0);
        let ms = table.measured_ms(4, 500).expect("measured");
        assert!((ms - 8.0).abs() < 0.6, "{ms}");
        for _ in 0..300 {
            table.observe(1, 500, 10.0, 1, 0.0);
        }
        let one = table.measured_ms(1, 500).expect("measured");
        assert!((one - 10.0).abs() < 0.5, "{one}");
        assert!(table.measured_ms(8, 500).expect("measured") > 13.0, "other sizes slow down with it");
    }

    #[test]
    fn a_switch_cost_above_a_round_s_time_leaves_times_positive() {
        let mut table = CostTable::default();
        for round in 0..200 {
            let rows = if round % 20 < 10 { 1 } else { 4 };
            table.observe(rows, 0, if round % 10 == 0 { 0.004 } else { 0.001 }, 1, 0.0);
        }
        for round in 0..100 {
            table.observe(SIZES[round % 8], round, 1e-5, 1, 0.0);
        }
        for rows in &SIZES[..8] {
            assert!(table.measured_ms(*rows, 0).expect("measured") > 0.0);
        }
    }

    #[test]
    fn a_draft_between_plain_rounds_pays_for_the_way_back() {
        const SWITCH_MS: f32 = 0.5;
        // 0: after three plain rounds a draft; 1: after three drafts a plain round.
        let dearer = [1, 4].map(|often| {
            let mut table = CostTable::default();
            let mut last = 0;
            for round in 0..4000 {
                let rows = if round % 4 < 3 { often } else { 5 - often };
                let ms = 4.0 + rows as f32 + if rows == last { 0.0 } else { SWITCH_MS };
                table.observe(rows, 100, ms, 1, 0.01);
                last = rows;
            }
            table.interrupt();
            let ms = table.curve(100, 1, 8).ms;
            ms[4] - ms[1] - 3.0
        });
        assert!(
            dearer[0] > 0.4 * SWITCH_MS,
            "a lone draft is followed by a switch each time, a plain round by one in three: {dearer:?}"
        );
        assert!(dearer[1] < -0.4 * SWITCH_MS, "here the plain round is alone: {dearer:?}");
    }

    #[test]
    fn a_call_for_a_prompt_makes_the_next_round_a_switch() {
        let cost = |rows: usize, switched: bool| 4.0 + rows as f32 + if switched { 0.5 } else { 0.0 };
        let mut table = CostTable::default();
        for round in 0..4000 {
            let rows = if round % 40 < 20 { 1 } else { 4 };
            table.observe(rows, 0, cost(rows, round % 20 == 0), 1, 0.0);
        }
        let curve = |table: &CostTable| table.curve(0, 1, 4).ms;
        let (stays, goes) = (curve(&table)[4], curve(&table)[1]);
        table.interrupt();
        assert!(curve(&table)[4] > stays + 0.2, "the last size costs a switch as well: {} {stays}", curve(&table)[4]);
        assert_eq!(curve(&table)[1], goes);
    }

    #[test]
    fn plain_rounds_of_several_sequences_are_measured_for_themselves_and_again_after_a_while() {
        // A draft of one node takes 9 ms, a plain round of two sequences 6 ms, and its first one 20 ms.
        let mut table = CostTable::default();
        for _ in 0..100 {
            table.observe(1, 100, 5.0, 1, 0.0);
            table.observe(2, 100, 9.0, 1, 0.0);
        }
        let may_draft = |table: &CostTable| table.curve(200, 2, 16).ms[3..].iter().any(|ms| ms.is_finite());
        for round in 0..SHARED_ROUNDS {
            assert!(!may_draft(&table), "round {round}");
            table.observe_plain(2, 200, if round == 0 { 20.0 } else { 6.0 }, 0.0);
        }
        let plain_ms = table.curve(200, 2, 16).plain_ms;
        assert!((plain_ms - 6.0).abs() < 0.5 && may_draft(&table), "{plain_ms}");
        let pair_ms = table.measured_ms(2, 100).expect("measured");
        assert!((pair_ms - 9.0).abs() < 0.5, "drafts of one node cost what they did: {pair_ms}");
        assert!(table.plain_ms(3, 200).is_none() && table.plain_ms(1, 100) == table.measured_ms(1, 100));
        // Drafts that always pay leave no plain rounds; one is made from time to time, and tells of a machine with less to do.
        let mut n_plain = 0;
        for _ in 0..4 * SHARED_AGE {
            if may_draft(&table) {
                table.observe(8, 200, 9.5, 4, 0.0);
            } else {
                table.observe_plain(2, 200, 5.0, 0.0);
                n_plain += 1;
            }
        }
        assert_eq!(n_plain, 3);
        assert!(table.plain_ms(2, 200).expect("measured") < plain_ms);
    }

    #[test]
    fn before_plain_is_known_nothing_else_is_allowed() {
        let curve = CostTable::default().curve(0, 1, 64);
        assert!(curve.ms[1].is_finite() && curve.ms[2..].iter().all(|ms| ms.is_infinite()));
    }

    #[test]
    fn unmeasured_sizes_are_optimistic_and_bounded_by_larger_ones() {
        let mut table = CostTable::default();
        for _ in 0..5 {
            table.observe(1, 0, 4.0, 1, 0.0);
            table.observe(8, 0, 4.2, 1, 0.0);
        }
        let curve = table.curve(0, 1, 16);
        assert!(curve.ms[4] < 4.4 && curve.ms[12] > 4.2 && curve.ms[12] < 5.0);
        assert!(curve.ms[20].is_infinite(), "above the limit");
    }
}
