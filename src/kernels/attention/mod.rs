//! Attention of a few query rows over a long cache, with the cache read once for all rows.
//!
//! The places of a sequence are divided into fixed blocks of 256. For each block every row gets its largest score, the sum of its
//! weights and its weighted sum of values, in F32; the blocks of a row are then merged in their order. A row's sums run
//! in the same order whatever the number of rows in the call, the number of threads and the cells that
//! other rows see, so its result is **bit-identical** for one row at a time and for many.
//!
//! Which cells make a block: without positions, cell by cell as they lie in memory. With positions ([`Attention::positions`]) the cells
//! are visited in the order of their positions, so that the result does not depend on where a draft tree left the accepted tokens
//! (`order.rs`). Rows of other sequences see other cells; each sequence's rows visit their own.
//!
//! A call takes two steps, each shared by any number of threads, with a barrier between them if [`Attention::needs_merge`] says so:
//! [`Attention::run`] and [`Attention::merge`].

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod block;
mod lanes;
mod order;
#[cfg(test)]
mod tests;

use super::isa::Isa;
use block::{Element, F16, Job, MAX_HEAD_SIZE, Q8_0, TILE};
use lanes::{Lanes, Portable};
pub use order::Order;

/// Places in a block: the partition that fixes the order of a row's sums.
pub const BLOCK: usize = 256;

/// Cells of a block that may stand beside another cell of the same position (siblings in a draft tree). More than that, and
/// the call visits the cells as they lie in memory.
const MAX_SIBLINGS: usize = 64;

/// Pairs of a query row and a head that a task serves: their scores stay in the second-level cache.
const TASK_PAIRS: usize = 48;

/// From this many rows on, a task visits all blocks of its pairs and merges them itself: there are tasks enough, and the results of
/// the blocks of all rows would take much memory.
const OWN_MERGE_ROWS: usize = 33;

/// How keys and values are stored: in ggml's blocks.
#[allow(non_camel_case_types, reason = "ggml's names")]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CellType {
    /// Half precision.
    F16,
    /// 32 signed bytes with a scale of half precision.
    Q8_0,
}

impl CellType {
    /// True if the kernels take heads of so many elements.
    pub fn takes_heads(self, head_size: usize) -> bool {
        let unit = match self {
            Self::F16 => 16,
            Self::Q8_0 => 32,
        };
        head_size > 0 && head_size <= MAX_HEAD_SIZE && head_size.is_multiple_of(unit)
    }

    /// Bytes of a head of `head_size` elements.
    fn head_bytes(self, head_size: usize) -> usize {
        match self {
            Self::F16 => head_size * 2,
            Self::Q8_0 => head_size / 32 * 34,
        }
    }
}

/// A three-dimensional array whose innermost dimension, a head, is contiguous.
#[derive(Clone, Copy, Debug)]
pub struct Heads<T> {
    /// The first element.
    pub data: *const T,
    /// Bytes from one row (of queries) or cell (of keys or values) to the next.
    pub row_bytes: usize,
    /// Bytes from one head to the next.
    pub head_bytes: usize,
}

/// One attention: shapes, strides and pointers. Plain data.
#[derive(Clone, Copy, Debug)]
pub struct Attention {
    /// Elements of a head: a multiple of 16 (of 32 for Q8_0), at most 256; the same for queries, keys and values.
    pub head_size: usize,
    /// Heads of the queries, a multiple of `n_kv_heads`.
    pub n_heads: usize,
    /// Heads of keys and values.
    pub n_kv_heads: usize,
    /// Query rows.
    pub n_rows: usize,
    /// Cells of the cache that the mask covers.
    pub n_cells: usize,
    /// Factor on the scores.
    pub scale: f32,
    /// Bound of the scores, `cap * tanh(score / cap)`; 0 for none.
    pub soft_cap: f32,
    /// Queries, F32.
    pub q: Heads<f32>,
    /// Keys.
    pub k: Heads<u8>,
    /// Values.
    pub v: Heads<u8>,
    /// Storage of the keys and values.
    pub cells: CellType,
    /// Half-precision numbers added to the scores, `n_cells` for each row; minus infinity hides a cell. Null: all cells are seen.
    pub mask: *const u16,
    /// Bytes from one row of the mask to the next.
    pub mask_row_bytes: usize,
    /// Position of each cell, or null. Cells that no row sees may have any.
    pub positions: *const i32,
    /// The result: `out[(row * n_heads + head) * head_size + i]`.
    pub out: *mut f32,
}

/// Scores, packed queries and a tile of keys of one task; in the work area, one for each thread.
fn scratch_floats() -> usize {
    TASK_PAIRS * (BLOCK + MAX_SIBLINGS) + TASK_PAIRS * MAX_HEAD_SIZE + 2 * TILE * MAX_HEAD_SIZE + BLOCK + 64
}

impl Attention {
    /// True if the kernels can compute these shapes.
    pub fn is_supported(&self) -> bool {
        self.cells.takes_heads(self.head_size)
            && self.n_kv_heads > 0
            && self.n_heads > 0
            && self.n_heads.is_multiple_of(self.n_kv_heads)
            && self.n_rows > 0
            && self.n_cells > 0
            && u32::try_from(self.n_cells).is_ok()
    }

    /// The most blocks that a call may have.
    fn max_blocks(&self) -> usize {
        self.n_cells.div_ceil(BLOCK) + 1
    }

    /// Floats of what a block leaves for one row and head: its sums, the largest score and the sum of weights.
    fn partial_floats(&self) -> usize {
        self.head_size + 16
    }

    /// Bytes of the work area for `n_threads` threads.
    pub fn work_bytes(&self, n_threads: usize) -> usize {
        (self.partials_floats(n_threads) + n_threads * scratch_floats() + 16) * 4
    }

    /// Floats of the partial results: of all rows, or of the tasks that all threads work at.
    fn partials_floats(&self, n_threads: usize) -> usize {
        let of_rows = if self.merges_itself() { 0 } else { self.n_rows * self.n_heads };
        let of_tasks = if self.n_rows > 1 { n_threads * TASK_PAIRS } else { 0 };
        of_rows.max(of_tasks) * self.max_blocks() * self.partial_floats()
    }

    fn merges_itself(&self) -> bool {
        self.n_rows >= OWN_MERGE_ROWS
    }

    /// Query heads that share a head of keys and values.
    fn group(&self) -> usize {
        self.n_heads / self.n_kv_heads
    }

    /// True if [`merge`](Self::merge) must follow, after a barrier.
    pub fn needs_merge(&self, order: &Order) -> bool {
        order.blocks.len() > 1 && order.parts.len() == 1 && !self.merges_itself()
    }

    /// Computes thread `thread`'s part of `n_threads`. `isa` None: any processor.
    ///
    /// `order` is what [`Order::update`] found for this call; every thread has its own, equal one.
    ///
    /// # Safety
    /// The shapes are supported ([`is_supported`](Self::is_supported)) and the pointers valid for them, the output and `work` for writes of
    /// [`work_bytes`](Self::work_bytes) bytes, which all threads share. No other thread has the same number.
    pub unsafe fn run(&self, isa: Option<Isa>, order: &Order, work: *mut u8, thread: usize, n_threads: usize) {
        let own_merge = order.parts.len() > 1 || self.merges_itself();
        // Tasks are dealt to the threads in turn, on and on through the parts.
        let mut n_dealt = 0;
        for part in &order.parts {
            let (pairs, n_blocks) = (self.group() * part.rows.len(), part.blocks.len());
            let first_pair = self.group() * part.rows.start;
            let mut shares = pairs.div_ceil(TASK_PAIRS);
            let tasks = self.n_kv_heads * if own_merge { 1 } else { n_blocks };
            // Few long tasks would leave threads idle at the end; a task's keys are turned over once for all its pairs,
            // so few pairs are not worth dividing. Rows are independent: dividing them changes no result.
            if pairs > 6 && tasks * shares < 4 * n_threads && !(tasks * shares).is_multiple_of(n_threads) {
                shares = shares.max(n_threads.min(pairs / 3));
            }
            let first = (thread + n_threads - n_dealt % n_threads) % n_threads;
            n_dealt += tasks * shares;
            for task in (first..tasks * shares).step_by(n_threads) {
                let (block, rest) = (task / (self.n_kv_heads * shares), task % (self.n_kv_heads * shares));
                let (share, kv_head) = (rest / self.n_kv_heads, rest % self.n_kv_heads);
                let block = part.blocks.start + block;
                // SAFETY: the partials come first, then each thread's own scratch; `work_bytes` counts both.
                unsafe {
                    let floats = work_floats(work);
                    let own =
                        if own_merge { thread * TASK_PAIRS * self.max_blocks() * self.partial_floats() } else { 0 };
                    let job = Job {
                        attention: self,
                        order,
                        part,
                        blocks: if own_merge { part.blocks.clone() } else { block..block + 1 },
                        kv_head,
                        pairs: first_pair + pairs * share / shares..first_pair + pairs * (share + 1) / shares,
                        own_merge: own_merge || n_blocks == 1,
                        own_partials: own_merge,
                        scratch: floats.add(self.partials_floats(n_threads) + thread * scratch_floats()),
                        partials: floats.add(own),
                    };
                    run_job(isa, self.cells, &job);
                }
            }
        }
        if order.blocks.is_empty() {
            for row in (thread..self.n_rows * self.n_heads).step_by(n_threads) {
                // SAFETY: row and head exist in the output.
                unsafe { self.out.add(row * self.head_size).write_bytes(0, self.head_size) };
            }
        }
    }

    /// Merges the blocks of thread `thread`'s share of the rows, once all threads have run.
    ///
    /// # Safety
    /// As [`run`](Self::run), with the same arguments.
    pub unsafe fn merge(&self, isa: Option<Isa>, order: &Order, work: *mut u8, thread: usize, n_threads: usize) {
        for row in (thread..self.n_rows * self.n_heads).step_by(n_threads) {
            // SAFETY: the partials of the row were written by `run`, and the row exists in the output.
            unsafe {
                let partials = work_floats(work).add(row * order.blocks.len() * self.partial_floats());
                let out = self.out.add(row * self.head_size);
                run_merge(isa, partials, order.blocks.len(), self.head_size, out);
            }
        }
    }
}

/// The work area from its first multiple of 64.
fn work_floats(work: *mut u8) -> *mut f32 {
    work.wrapping_add(work.align_offset(64)).cast()
}

/// Runs a job in a function that enables the instruction set, into which the kernel is inlined.
///
/// # Safety
/// As [`Attention::run`]; the processor has the instruction set.
unsafe fn run_job(isa: Option<Isa>, cells: CellType, job: &Job<'_>) {
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
        unsafe fn in_avx512<E: Element>(job: &Job<'_>) {
            // SAFETY: the features are enabled here.
            unsafe { block::run::<avx512::Avx512, E>(job) }
        }
        #[target_feature(enable = "avx2,fma,f16c")]
        unsafe fn in_avx2<E: Element>(job: &Job<'_>) {
            // SAFETY: the features are enabled here.
            unsafe { block::run::<avx2::Avx2, E>(job) }
        }
        // SAFETY: the caller's promise.
        unsafe {
            match (isa, cells) {
                (Some(Isa::Avx512Vnni), CellType::F16) => return in_avx512::<F16>(job),
                (Some(Isa::Avx512Vnni), CellType::Q8_0) => return in_avx512::<Q8_0>(job),
                (Some(_), CellType::F16) => return in_avx2::<F16>(job),
                (Some(_), CellType::Q8_0) => return in_avx2::<Q8_0>(job),
                (None, _) => {}
            }
        }
    }
    let _ = isa;
    // SAFETY: the caller's promise; plain arrays need no instruction set.
    unsafe {
        match cells {
            CellType::F16 => block::run::<Portable, F16>(job),
            CellType::Q8_0 => block::run::<Portable, Q8_0>(job),
        }
    }
}

/// As [`run_job`], for the merge of one row.
///
/// # Safety
/// `partials` holds `n_blocks` partial results and `out` takes `head_size` floats; the processor has the instruction set.
unsafe fn run_merge(isa: Option<Isa>, partials: *const f32, n_blocks: usize, head_size: usize, out: *mut f32) {
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
        unsafe fn in_avx512(partials: *const f32, n_blocks: usize, head_size: usize, out: *mut f32) {
            // SAFETY: the features are enabled here.
            unsafe { merge_row::<avx512::Avx512>(partials, n_blocks, head_size, out) }
        }
        #[target_feature(enable = "avx2,fma,f16c")]
        unsafe fn in_avx2(partials: *const f32, n_blocks: usize, head_size: usize, out: *mut f32) {
            // SAFETY: the features are enabled here.
            unsafe { merge_row::<avx2::Avx2>(partials, n_blocks, head_size, out) }
        }
        // SAFETY: the caller's promise.
        unsafe {
            match isa {
                Some(Isa::Avx512Vnni) => return in_avx512(partials, n_blocks, head_size, out),
                Some(_) => return in_avx2(partials, n_blocks, head_size, out),
                None => {}
            }
        }
    }
    let _ = isa;
    // SAFETY: the caller's promise.
    unsafe { merge_row::<Portable>(partials, n_blocks, head_size, out) }
}

/// out = sum over blocks of e^(largest of the block - largest) * sums, divided by the same sum of the weights.
///
/// A block in which the row sees nothing is passed over, so that such blocks change no bit.
///
/// # Safety
/// As [`run_merge`].
#[inline(always)]
unsafe fn merge_row<L: Lanes>(partials: *const f32, n_blocks: usize, head_size: usize, out: *mut f32) {
    // SAFETY: block b's record starts at b * stride; its largest score follows the sums, then the sum of weights.
    unsafe {
        let stride = head_size + 16;
        let mut largest = f32::NEG_INFINITY;
        for b in 0..n_blocks {
            largest = largest.max(*partials.add(b * stride + head_size));
        }
        let mut weights = 0.0f32;
        for i in (0..head_size).step_by(16) {
            L::splat(0.0).store(out.add(i));
        }
        for b in 0..n_blocks {
            let partial = partials.add(b * stride);
            let block_largest = *partial.add(head_size);
            if block_largest == f32::NEG_INFINITY {
                continue;
            }
            let factor = L::splat(block_largest - largest).exp();
            let mut first = [0.0f32; 16];
            factor.store(first.as_mut_ptr());
            weights += first[0] * *partial.add(head_size + 1);
            for i in (0..head_size).step_by(16) {
                L::load(partial.add(i)).fma(factor, L::load(out.add(i))).store(out.add(i));
            }
        }
        let inverse = L::splat(if weights > 0.0 { 1.0 / weights } else { 0.0 });
        for i in (0..head_size).step_by(16) {
            L::load(out.add(i)).mul(inverse).store(out.add(i));
        }
    }
}
