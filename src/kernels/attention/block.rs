//! One block of places, one head of keys and values, a few pairs of query row and head: scores, weights, weighted sums.

use super::lanes::Lanes;
use super::order::{Block, HIDDEN, Order, Part, mask_row};
use super::{Attention, BLOCK, MAX_SIBLINGS, TASK_PAIRS};
use std::ops::Range;

/// The largest head.
pub(super) const MAX_HEAD_SIZE: usize = 256;
/// Columns whose keys are turned over together.
pub(super) const TILE: usize = 16;
/// Scores of a pair in the scratch.
const SCORE_STRIDE: usize = BLOCK + MAX_SIBLINGS;
/// Tiles in a block.
const MAX_TILES: usize = SCORE_STRIDE / TILE;

/// How keys and values are stored.
pub(super) trait Element {
    /// Elements `16 * i` to `16 * i + 15` of a head.
    ///
    /// # Safety
    /// The head at `p` has them; the processor has `L`'s instruction set.
    unsafe fn load<L: Lanes>(p: *const u8, i: usize) -> L;
}

pub(super) struct F16;

impl Element for F16 {
    #[inline(always)]
    unsafe fn load<L: Lanes>(p: *const u8, i: usize) -> L {
        // SAFETY: the caller's promise.
        unsafe { L::load_f16(p.add(32 * i)) }
    }
}

pub(super) struct Q8_0;

impl Element for Q8_0 {
    #[inline(always)]
    unsafe fn load<L: Lanes>(p: *const u8, i: usize) -> L {
        // SAFETY: a block is a scale of half precision and 32 bytes, of which these are one half.
        unsafe {
            let block = p.add(i / 2 * 34);
            let scale = crate::kernels::half::f16_to_f32(block.cast::<u16>().read_unaligned());
            L::load_i8(block.add(2 + i % 2 * 16)).mul(L::splat(scale))
        }
    }
}

/// What a thread does at a time.
pub(super) struct Job<'a> {
    pub(super) attention: &'a Attention,
    pub(super) order: &'a Order,
    /// The rows that the job's pairs are of.
    pub(super) part: &'a Part,
    /// One block of the part, or all of them if the job merges them.
    pub(super) blocks: Range<usize>,
    pub(super) kv_head: usize,
    /// Pair p is query row p / group and head kv_head * group + p % group. At most `TASK_PAIRS`.
    pub(super) pairs: Range<usize>,
    /// The job visits all blocks there are, merges them and writes the result.
    pub(super) own_merge: bool,
    /// The partial results are this thread's alone, numbered from the job's first pair.
    pub(super) own_partials: bool,
    /// `scratch_floats` floats of this thread.
    pub(super) scratch: *mut f32,
    /// Partial results: one record for each block of a pair.
    pub(super) partials: *mut f32,
}

/// A job at one of its blocks.
#[derive(Clone, Copy)]
struct BlockJob<'a> {
    job: &'a Job<'a>,
    index: usize,
    block: Block,
}

impl BlockJob<'_> {
    /// The cell of a column.
    #[inline(always)]
    fn cell(&self, column: usize) -> usize {
        let column = self.block.first + column;
        if self.block.contiguous { column } else { self.job.order.cells[column] as usize }
    }
}

/// The scratch of a job, divided.
#[derive(Clone, Copy)]
struct Scratch {
    /// `[pair][column]`, first scores, then weights.
    scores: *mut f32,
    /// `[pair / SCORE_ROWS][element][pair % SCORE_ROWS]`, scaled.
    queries: *mut f32,
    /// `[tile][element][column]`
    keys: *mut f32,
    /// Weights by place.
    places: *mut f32,
}

/// # Safety
/// As [`Attention::run`](super::Attention::run); the processor has `L`'s instruction set.
#[inline(always)]
pub(super) unsafe fn run<L: Lanes, E: Element>(job: &Job<'_>) {
    // SAFETY: the pieces of the scratch follow each other within `scratch_floats`.
    unsafe {
        let scores = job.scratch;
        let queries = scores.add(TASK_PAIRS * SCORE_STRIDE);
        let keys = queries.add(TASK_PAIRS * MAX_HEAD_SIZE);
        let scratch = Scratch { scores, queries, keys, places: keys.add(2 * TILE * MAX_HEAD_SIZE) };
        pack_queries::<L>(job, scratch);
        for block in job.blocks.clone() {
            let job = BlockJob { job, index: block, block: job.order.blocks[block] };
            let seen = find_scores::<L, E>(&job, scratch);
            find_weights::<L>(&job, scratch, seen);
            sum_values::<L, E>(&job, scratch, seen);
        }
        if job.own_merge {
            for pair in job.pairs.clone() {
                let out = job.attention.out.add(job.row(pair) * job.attention.head_size);
                super::merge_row::<L>(
                    job.partial(pair, job.part.blocks.start),
                    job.part.blocks.len(),
                    job.attention.head_size,
                    out,
                );
            }
        }
    }
}

impl Job<'_> {
    /// A pair's number among all rows and heads.
    fn row(&self, pair: usize) -> usize {
        let group = self.attention.group();
        pair / group * self.attention.n_heads + self.kv_head * group + pair % group
    }

    /// Where a block's result for a pair goes.
    unsafe fn partial(&self, pair: usize, block: usize) -> *mut f32 {
        let row = if self.own_partials { pair - self.pairs.start } else { self.row(pair) };
        let record = row * self.part.blocks.len() + (block - self.part.blocks.start);
        // SAFETY: the partials have room for `max_blocks` records a row, and `Order` gives no more blocks.
        unsafe { self.partials.add(record * self.attention.partial_floats()) }
    }
}

/// Scales the queries and interleaves them, so that the inner loop reads them one after the other.
#[inline(always)]
unsafe fn pack_queries<L: Lanes>(job: &Job<'_>, scratch: Scratch) {
    let a = job.attention;
    let scale = if a.soft_cap > 0.0 { a.scale / a.soft_cap } else { a.scale };
    let group = a.group();
    for (i, pair) in job.pairs.clone().enumerate() {
        // SAFETY: the query exists; the scratch has room for `TASK_PAIRS` of them, a multiple of SCORE_ROWS.
        unsafe {
            let head = job.kv_head * group + pair % group;
            let source = a.q.data.byte_add(pair / group * a.q.row_bytes + head * a.q.head_bytes);
            let target = scratch.queries.add(i / L::SCORE_ROWS * L::SCORE_ROWS * a.head_size + i % L::SCORE_ROWS);
            for d in 0..a.head_size {
                *target.add(d * L::SCORE_ROWS) = *source.add(d) * scale;
            }
        }
    }
}

/// Fills the scores, masked. Bit t of the result is set if some pair sees a cell of tile t; other tiles have no scores.
#[inline(always)]
unsafe fn find_scores<L: Lanes, E: Element>(job: &BlockJob<'_>, scratch: Scratch) -> u32 {
    let a = job.job.attention;
    let n_columns = job.block.n_columns;
    let group = a.group();
    let n_pairs = job.job.pairs.len();
    let rows = job.job.pairs.start / group..(job.job.pairs.end - 1) / group + 1;
    let mut seen = 0u32;
    for tile in 0..n_columns.div_ceil(TILE) {
        let first = tile * TILE;
        let n = TILE.min(n_columns - first);
        // SAFETY: the tile's columns are cells of the cache; the scratch has MAX_TILES tiles for each pair.
        unsafe {
            if !a.mask.is_null() && !rows.clone().any(|row| sees_any(job, row, first, n)) {
                continue;
            }
            seen |= 1 << tile;
            prefetch::<L>(job, first);
            turn_keys::<L, E>(job, first, n, scratch.keys);
            for i in (0..n_pairs).step_by(L::SCORE_ROWS) {
                let width = L::SCORE_ROWS.min(n_pairs - i);
                let queries = scratch.queries.add(i * a.head_size);
                let out = scratch.scores.add(i * SCORE_STRIDE + first);
                match width {
                    1 => multiply::<L, 1>(scratch.keys, queries, a.head_size, out),
                    2 => multiply::<L, 2>(scratch.keys, queries, a.head_size, out),
                    3 => multiply::<L, 3>(scratch.keys, queries, a.head_size, out),
                    4 => multiply::<L, 4>(scratch.keys, queries, a.head_size, out),
                    5 => multiply::<L, 5>(scratch.keys, queries, a.head_size, out),
                    6 => multiply::<L, 6>(scratch.keys, queries, a.head_size, out),
                    7 => multiply::<L, 7>(scratch.keys, queries, a.head_size, out),
                    _ => multiply::<L, 8>(scratch.keys, queries, a.head_size, out),
                }
            }
            for row in rows.clone() {
                let mask = (!a.mask.is_null()).then(|| load_mask::<L>(job, row, first, n));
                let pairs = (row * group).max(job.job.pairs.start)..((row + 1) * group).min(job.job.pairs.end);
                for pair in pairs {
                    let p = scratch.scores.add((pair - job.job.pairs.start) * SCORE_STRIDE + first);
                    let mut score = L::load(p);
                    if a.soft_cap > 0.0 {
                        score = score.tanh().mul(L::splat(a.soft_cap));
                    }
                    if let Some(mask) = mask {
                        score = score.add(mask);
                    }
                    if n < TILE {
                        score = score.first(n);
                    }
                    score.store(p);
                }
            }
        }
    }
    debug_assert!(n_columns.div_ceil(TILE) <= MAX_TILES);
    seen
}

/// Asks for what comes after the keys of the tile at column `first`: the next tile's keys, and this one's values, which are used once
/// all scores of the block are known. A head of a cell is a few lines far from the next cell's: the processor sees no stream in it.
#[inline(always)]
unsafe fn prefetch<L: Lanes>(job: &BlockJob<'_>, first: usize) {
    let a = job.job.attention;
    let bytes = a.cells.head_bytes(a.head_size);
    let keys = first + TILE..(first + 2 * TILE).min(job.block.n_columns);
    let values = first..(first + TILE).min(job.block.n_columns);
    for (heads, columns) in [(&a.k, keys), (&a.v, values)] {
        let base = heads.data.wrapping_add(job.job.kv_head * heads.head_bytes);
        for column in columns {
            let cell = base.wrapping_add(job.cell(column) * heads.row_bytes);
            for line in (0..bytes).step_by(64) {
                // SAFETY: any address may be asked for; the processor has the instruction set.
                unsafe { L::prefetch(cell.wrapping_add(line)) }
            }
        }
    }
}

/// True if a query row sees one of `n` columns.
#[inline(always)]
unsafe fn sees_any(job: &BlockJob<'_>, row: usize, first: usize, n: usize) -> bool {
    // SAFETY: the row exists and the mask is not null.
    let mask = unsafe { mask_row(job.job.attention, row) };
    let block = &job.block;
    if block.contiguous {
        let mask = &mask[block.first + first..][..n];
        mask.iter().fold(false, |any, &m| any | (m != HIDDEN))
    } else {
        (first..first + n).any(|column| mask[job.cell(column)] != HIDDEN)
    }
}

/// What the mask adds to the scores of a tile.
#[inline(always)]
unsafe fn load_mask<L: Lanes>(job: &BlockJob<'_>, row: usize, first: usize, n: usize) -> L {
    // SAFETY: the row exists and the mask is not null.
    let mask = unsafe { mask_row(job.job.attention, row) };
    let block = &job.block;
    if block.contiguous && n == TILE {
        // SAFETY: sixteen halves of the slice.
        unsafe { L::load_f16(mask[block.first + first..][..TILE].as_ptr().cast()) }
    } else {
        let mut tile = [0u16; TILE];
        for (i, m) in tile[..n].iter_mut().enumerate() {
            *m = mask[job.cell(first + i)];
        }
        // SAFETY: sixteen halves.
        unsafe { L::load_f16(tile.as_ptr().cast()) }
    }
}

/// Writes the keys of a tile as `[element][column]`. Columns past `n` repeat the last one.
#[inline(always)]
unsafe fn turn_keys<L: Lanes, E: Element>(job: &BlockJob<'_>, first: usize, n: usize, keys: *mut f32) {
    let k = &job.job.attention.k;
    // SAFETY: the cells exist, and the scratch has room for a tile.
    unsafe {
        let base = k.data.add(job.job.kv_head * k.head_bytes);
        let cells: [*const u8; TILE] = std::array::from_fn(|i| base.add(job.cell(first + i.min(n - 1)) * k.row_bytes));
        for part in 0..job.job.attention.head_size / 16 {
            let mut rows: [L; TILE] = std::array::from_fn(|i| E::load::<L>(cells[i], part));
            L::transpose(&mut rows);
            for (i, row) in rows.into_iter().enumerate() {
                row.store(keys.add((part * 16 + i) * TILE));
            }
        }
    }
}

/// Scores of R pairs with the sixteen keys of a tile.
#[inline(always)]
unsafe fn multiply<L: Lanes, const R: usize>(keys: *const f32, queries: *const f32, head_size: usize, out: *mut f32) {
    // SAFETY: `keys` and `queries` have `head_size` rows; `out` a tile for each pair.
    unsafe {
        let mut sums = [L::splat(0.0); R];
        for d in 0..head_size {
            let key = L::load(keys.add(d * TILE));
            for (r, sum) in sums.iter_mut().enumerate() {
                *sum = key.fma(L::splat(*queries.add(d * L::SCORE_ROWS + r)), *sum);
            }
        }
        for (r, sum) in sums.into_iter().enumerate() {
            sum.store(out.add(r * SCORE_STRIDE));
        }
    }
}

/// Turns scores into weights e^(score - largest), and stores the largest and the weights' sum in the pair's partial result. Only tiles that
/// some pair sees have weights.
#[inline(always)]
unsafe fn find_weights<L: Lanes>(job: &BlockJob<'_>, scratch: Scratch, seen: u32) {
    for (i, pair) in job.job.pairs.clone().enumerate() {
        // SAFETY: the pair's scores and partial exist.
        unsafe {
            let scores = scratch.scores.add(i * SCORE_STRIDE);
            let mut largest = L::splat(f32::NEG_INFINITY);
            for tile in tiles(seen) {
                largest = largest.max(L::load(scores.add(tile * TILE)));
            }
            let largest = largest.largest();
            let partial = job.job.partial(pair, job.index).add(job.job.attention.head_size);
            *partial = largest;
            if largest == f32::NEG_INFINITY {
                *partial.add(1) = 0.0;
                for tile in tiles(seen) {
                    L::splat(0.0).store(scores.add(tile * TILE));
                }
                continue;
            }
            let subtract = L::splat(largest);
            let mut sum = L::splat(0.0);
            for tile in tiles(seen) {
                let p = scores.add(tile * TILE);
                let weight = L::load(p).sub(subtract).exp();
                weight.store(p);
                sum = sum.add(weight);
            }
            if !job.block.dense {
                sum = sum_by_place::<L>(job, scores, scratch.places, seen);
            }
            *partial.add(1) = sum.sum();
        }
    }
}

/// The tiles of a set of bits, in rising order.
#[inline(always)]
fn tiles(mut seen: u32) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let tile = seen.trailing_zeros();
        seen &= seen.wrapping_sub(1);
        (tile < 32).then_some(tile as usize)
    })
}

/// The sums over the block's places, lane by lane, as if the columns lay at their places. Of the columns of one place at most one has
/// a weight.
#[inline(always)]
unsafe fn sum_by_place<L: Lanes>(job: &BlockJob<'_>, weights: *const f32, places: *mut f32, seen: u32) -> L {
    let block = job.block;
    // SAFETY: the scratch has a float for each place, and a place is a byte.
    unsafe {
        for tile in 0..BLOCK / TILE {
            L::splat(0.0).store(places.add(tile * TILE));
        }
        for column in tiles(seen).flat_map(|tile| tile * TILE..block.n_columns.min(tile * TILE + TILE)) {
            let place = usize::from(job.job.order.places[block.first + column]);
            *places.add(place) += *weights.add(column);
        }
        let mut sum = L::splat(0.0);
        for tile in 0..BLOCK / TILE {
            sum = sum.add(L::load(places.add(tile * TILE)));
        }
        sum
    }
}

/// Weighted sums of the values. A column adds its product to each sum in the order of the columns; a weight of zero changes nothing.
#[inline(always)]
unsafe fn sum_values<L: Lanes, E: Element>(job: &BlockJob<'_>, scratch: Scratch, seen: u32) {
    let n_pairs = job.job.pairs.len();
    let vectors = job.job.attention.head_size / 16;
    // SAFETY: as the callees demand.
    unsafe {
        for vector in (0..vectors).step_by(4) {
            for i in (0..n_pairs).step_by(L::OUTPUT_ROWS) {
                let width = L::OUTPUT_ROWS.min(n_pairs - i);
                match vectors - vector {
                    1 => sum_rows::<L, E, 1>(job, scratch, seen, vector, i, width),
                    2 => sum_rows::<L, E, 2>(job, scratch, seen, vector, i, width),
                    3 => sum_rows::<L, E, 3>(job, scratch, seen, vector, i, width),
                    _ => sum_rows::<L, E, 4>(job, scratch, seen, vector, i, width),
                }
            }
        }
    }
}

#[inline(always)]
unsafe fn sum_rows<L: Lanes, E: Element, const V: usize>(
    job: &BlockJob<'_>,
    scratch: Scratch,
    seen: u32,
    vector: usize,
    first: usize,
    width: usize,
) {
    // SAFETY: the pairs `first` to `first + width - 1` exist.
    unsafe {
        match width {
            1 => sum_tile::<L, E, V, 1>(job, scratch, seen, vector, first),
            2 => sum_tile::<L, E, V, 2>(job, scratch, seen, vector, first),
            3 => sum_tile::<L, E, V, 3>(job, scratch, seen, vector, first),
            4 => sum_tile::<L, E, V, 4>(job, scratch, seen, vector, first),
            5 => sum_tile::<L, E, V, 5>(job, scratch, seen, vector, first),
            _ => sum_tile::<L, E, V, 6>(job, scratch, seen, vector, first),
        }
    }
}

/// V vectors of R pairs' sums, in registers for the whole block.
#[inline(always)]
unsafe fn sum_tile<L: Lanes, E: Element, const V: usize, const R: usize>(
    job: &BlockJob<'_>,
    scratch: Scratch,
    seen: u32,
    vector: usize,
    first: usize,
) {
    let v = &job.job.attention.v;
    let n_columns = job.block.n_columns;
    // SAFETY: the cells exist; the pairs have weights and partial results.
    unsafe {
        let base = v.data.add(job.job.kv_head * v.head_bytes);
        let weights = scratch.scores.add(first * SCORE_STRIDE);
        let mut sums = [[L::splat(0.0); V]; R];
        for tile in tiles(seen) {
            for column in tile * TILE..n_columns.min(tile * TILE + TILE) {
                let cell = base.add(job.cell(column) * v.row_bytes);
                let values: [L; V] = std::array::from_fn(|i| E::load::<L>(cell, vector + i));
                for (r, sums) in sums.iter_mut().enumerate() {
                    let weight = L::splat(*weights.add(r * SCORE_STRIDE + column));
                    for (sum, value) in sums.iter_mut().zip(values) {
                        *sum = value.fma(weight, *sum);
                    }
                }
            }
        }
        for (r, sums) in sums.into_iter().enumerate() {
            let partial = job.job.partial(job.job.pairs.start + first + r, job.index);
            for (i, sum) in sums.into_iter().enumerate() {
                sum.store(partial.add((vector + i) * 16));
            }
        }
    }
}
