//! Hands the kernels to `hook.cpp` as a table of C functions.
//!
//! The C++ side decides what is taken over and finds the pointers; it knows the shapes and strides, and answers for them.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::{ptr, slice, thread};

use crate::kernels::attention::{Attention, CellType, Heads, Order};
use crate::kernels::{Isa, Weight, WeightType};

/// Products of weights that were loaded while it was on.
pub(in crate::llama) const PRODUCTS: u32 = 1;
/// Attention.
pub(in crate::llama) const ATTENTION: u32 = 2;

#[repr(C)]
struct CAttention {
    head_size: usize,
    n_heads: usize,
    n_kv_heads: usize,
    n_rows: usize,
    n_cells: usize,
    scale: f32,
    soft_cap: f32,
    q: *const f32,
    q_row_bytes: usize,
    q_head_bytes: usize,
    k: *const u8,
    k_row_bytes: usize,
    k_head_bytes: usize,
    v: *const u8,
    v_row_bytes: usize,
    v_head_bytes: usize,
    cell_type: u32,
    mask: *const u16,
    mask_row_bytes: usize,
    cache: *const c_void,
    first_cell: usize,
    out: *mut f32,
}

#[repr(C)]
struct Table {
    packed_bytes: extern "C" fn(u32, usize, usize) -> usize,
    weight_new: extern "C" fn(u32, usize, usize) -> *mut Weight,
    weight_free: unsafe extern "C" fn(*mut Weight),
    pack: unsafe extern "C" fn(&Weight, *const u8, usize, usize, *mut u8) -> bool,
    unpack_row: unsafe extern "C" fn(&Weight, *const u8, usize, *mut f32),
    scratch_bytes: extern "C" fn(&Weight, usize) -> usize,
    shares_scratch: extern "C" fn(&Weight, &Weight) -> bool,
    n_items: extern "C" fn(&Weight, usize) -> usize,
    n_groups: extern "C" fn(&Weight) -> usize,
    quantise: unsafe extern "C" fn(&Weight, *const f32, usize, usize, usize, usize, *mut u8),
    product: unsafe extern "C" fn(&Weight, *const u8, usize, usize, *const u8, usize, *mut f32, usize),
    attention_bytes: extern "C" fn(&CAttention, usize) -> usize,
    attention_run: unsafe extern "C" fn(&CAttention, *mut u8, usize, usize) -> bool,
    attention_merge: unsafe extern "C" fn(&CAttention, *mut u8, usize, usize),
    cells_written: unsafe extern "C" fn(*const c_void, usize, *const i64, *const i32, usize),
    cells_shifted: unsafe extern "C" fn(*const c_void, *const i32, usize),
}

static TABLE: Table = Table {
    packed_bytes,
    weight_new,
    weight_free,
    pack,
    unpack_row,
    scratch_bytes,
    shares_scratch,
    n_items,
    n_groups,
    quantise,
    product,
    attention_bytes,
    attention_run,
    attention_merge,
    cells_written,
    cells_shifted,
};

unsafe extern "C" {
    fn aded_hook_register(kernels: *const Table) -> bool;
    fn aded_hook_switch(parts: u32);
    fn aded_hook_counts(n_products: *mut u64, n_attentions: *mut u64);
}

/// Adds the kernels to llama.cpp, switched off. Must be called before the first model is loaded; later calls do nothing.
pub(in crate::llama) fn register() {
    // SAFETY: the table lives for ever, its functions are as the header declares them, and the call may be repeated.
    unsafe { aded_hook_register(&TABLE) };
}

/// What is taken over from now on, and with which instruction set; none switches all off.
pub(in crate::llama) fn switch(parts: u32, isa: Option<Isa>) {
    let number = isa.map_or(0, |isa| 1 + Isa::ALL.iter().position(|&i| i == isa).unwrap_or(0) as u8);
    ISA.store(number, Ordering::Relaxed);
    let parts = if isa.is_some() { parts } else { 0 };
    HAS_ATTENTION.store(parts & ATTENTION != 0, Ordering::Relaxed);
    // SAFETY: stores a number.
    unsafe { aded_hook_switch(parts) };
}

/// True if attention is taken over now.
pub(in crate::llama) fn has_attention() -> bool {
    HAS_ATTENTION.load(Ordering::Relaxed)
}

/// Products and attentions that the kernels computed since the start.
pub(in crate::llama) fn counts() -> (u64, u64) {
    let (mut products, mut attentions) = (0, 0);
    // SAFETY: both are writable.
    unsafe { aded_hook_counts(&mut products, &mut attentions) };
    (products, attentions)
}

/// 0: none; else one more than the index in `Isa::ALL`. A placed weight keeps the set it was packed for.
static ISA: AtomicU8 = AtomicU8::new(0);

static HAS_ATTENTION: AtomicBool = AtomicBool::new(false);

fn isa() -> Option<Isa> {
    Isa::ALL.get(usize::from(ISA.load(Ordering::Relaxed)).wrapping_sub(1)).copied()
}

fn weight(number: u32, n_rows: usize, n_cols: usize) -> Option<Weight> {
    Weight::new(WeightType::from_ggml(number)?, isa()?, n_rows, n_cols)
}

extern "C" fn packed_bytes(number: u32, n_rows: usize, n_cols: usize) -> usize {
    weight(number, n_rows, n_cols).map_or(0, |w| w.packed_bytes())
}

extern "C" fn weight_new(number: u32, n_rows: usize, n_cols: usize) -> *mut Weight {
    weight(number, n_rows, n_cols).map_or(ptr::null_mut(), |w| Box::into_raw(Box::new(w)))
}

unsafe extern "C" fn weight_free(weight: *mut Weight) {
    // SAFETY: it came from `weight_new` and is freed once.
    drop(unsafe { Box::from_raw(weight) });
}

/// Rows that a thread packs at a time: a few megabytes.
const PACK_ROWS: usize = 1024;

unsafe extern "C" fn pack(weight: &Weight, rows: *const u8, first_row: usize, n_rows: usize, packed: *mut u8) -> bool {
    let (row_bytes, group_bytes) = (weight.row_bytes(), weight.group_bytes());
    let first_group = first_row / 16;
    if !first_row.is_multiple_of(16) || first_row + n_rows > weight.rows() {
        return false;
    }
    // SAFETY: the caller has whole rows, and room for the whole packed weight.
    let (source, target) = unsafe {
        let target = slice::from_raw_parts_mut(packed, weight.packed_bytes());
        (slice::from_raw_parts(rows, n_rows * row_bytes), &mut target[first_group * group_bytes..])
    };
    let target = &mut target[..n_rows.div_ceil(16) * group_bytes];
    let mut jobs = source.chunks(PACK_ROWS * row_bytes).zip(target.chunks_mut(PACK_ROWS / 16 * group_bytes));
    let n_threads = thread::available_parallelism().map_or(1, usize::from).min(jobs.len());
    if n_threads < 2 {
        return jobs.all(|(source, target)| weight.pack(source, target).is_ok());
    }
    let jobs = std::sync::Mutex::new(jobs);
    let work = || {
        loop {
            let job = jobs.lock().unwrap_or_else(PoisonError::into_inner).next();
            let Some((source, target)) = job else { return true };
            if weight.pack(source, target).is_err() {
                return false;
            }
        }
    };
    thread::scope(|scope| {
        let others: Vec<_> = (1..n_threads).map(|_| scope.spawn(work)).collect();
        let own = work();
        others.into_iter().all(|other| other.join().unwrap_or(false)) && own
    })
}

unsafe extern "C" fn unpack_row(weight: &Weight, packed: *const u8, row: usize, values: *mut f32) {
    // SAFETY: the caller has a packed weight and room for a row; the row was checked.
    let (packed, values) = unsafe {
        (slice::from_raw_parts(packed, weight.packed_bytes()), slice::from_raw_parts_mut(values, weight.cols()))
    };
    if weight.unpack_row(packed, row, values).is_err() {
        values.fill(f32::NAN);
    }
}

extern "C" fn scratch_bytes(weight: &Weight, n_columns: usize) -> usize {
    weight.scratch_bytes(n_columns)
}

extern "C" fn shares_scratch(weight: &Weight, other: &Weight) -> bool {
    weight.shares_scratch(other)
}

extern "C" fn n_items(weight: &Weight, n_columns: usize) -> usize {
    weight.quantise_items(n_columns)
}

extern "C" fn n_groups(weight: &Weight) -> usize {
    weight.n_groups()
}

unsafe extern "C" fn quantise(
    weight: &Weight,
    x: *const f32,
    stride: usize,
    n_columns: usize,
    begin: usize,
    end: usize,
    scratch: *mut u8,
) {
    // SAFETY: the caller's columns and scratch have these shapes, and threads get different items.
    unsafe { weight.quantise(x, stride, n_columns, begin..end, scratch) };
}

unsafe extern "C" fn product(
    weight: &Weight,
    packed: *const u8,
    begin: usize,
    end: usize,
    scratch: *const u8,
    n_columns: usize,
    out: *mut f32,
    out_stride: usize,
) {
    // SAFETY: the caller packed the weight, rounded all columns before a barrier, and gives threads different groups.
    unsafe { weight.product(packed, begin..end, scratch, n_columns, out, out_stride) };
}

impl CAttention {
    /// `positions` null or valid for the cells.
    fn attention(&self, positions: *const i32) -> Option<Attention> {
        let cells = match self.cell_type {
            1 => CellType::F16,
            8 => CellType::Q8_0,
            _ => return None,
        };
        Some(Attention {
            head_size: self.head_size,
            n_heads: self.n_heads,
            n_kv_heads: self.n_kv_heads,
            n_rows: self.n_rows,
            n_cells: self.n_cells,
            scale: self.scale,
            soft_cap: self.soft_cap,
            q: Heads { data: self.q, row_bytes: self.q_row_bytes, head_bytes: self.q_head_bytes },
            k: Heads { data: self.k, row_bytes: self.k_row_bytes, head_bytes: self.k_head_bytes },
            v: Heads { data: self.v, row_bytes: self.v_row_bytes, head_bytes: self.v_head_bytes },
            cells,
            mask: self.mask,
            mask_row_bytes: self.mask_row_bytes,
            positions,
            out: self.out,
        })
    }
}

extern "C" fn attention_bytes(attention: &CAttention, n_threads: usize) -> usize {
    attention.attention(ptr::null()).filter(Attention::is_supported).map_or(0, |a| a.work_bytes(n_threads))
}

/// The order of the latest calls of this thread: all layers of a graph that share a cache have the same one.
#[derive(Default)]
struct Orders {
    entries: [(Option<OrderKey>, Order); 2],
    latest: usize,
}

/// Mask, its shape, and the history of the cache's cells: two graphs never share all of them, since each one writes cells.
type OrderKey = (usize, usize, usize, usize, u64);

thread_local! {
    static ORDERS: RefCell<Orders> = RefCell::default();
}

fn with_order<T>(attention: &CAttention, f: impl FnOnce(&Attention, &Order) -> T) -> Option<T> {
    let cells = cells_of(attention.cache);
    let (positions, history) = match &cells {
        Some(cells) if attention.first_cell + attention.n_cells <= cells.positions.len() => {
            (cells.positions[attention.first_cell..].as_ptr().cast::<i32>(), cells.history.load(Ordering::Relaxed))
        }
        _ => (ptr::null(), 0),
    };
    let attention_ = attention.attention(positions)?;
    let key = (attention.mask as usize, attention.n_cells, attention.n_rows, attention.first_cell, history);
    ORDERS.with_borrow_mut(|orders| {
        let found = orders.entries.iter().position(|(k, _)| history != 0 && *k == Some(key));
        let index = found.unwrap_or_else(|| {
            let index = 1 - orders.latest;
            let (k, order) = &mut orders.entries[index];
            // SAFETY: the mask and the positions are valid for the cells.
            unsafe { order.update(&attention_) };
            *k = Some(key);
            index
        });
        orders.latest = index;
        Some(f(&attention_, &orders.entries[index].1))
    })
}

unsafe extern "C" fn attention_run(attention: &CAttention, work: *mut u8, thread: usize, n_threads: usize) -> bool {
    with_order(attention, |a, order| {
        // SAFETY: the caller asked `attention_bytes`, which refuses unsupported shapes, and gives each thread its number.
        unsafe { a.run(isa(), order, work, thread, n_threads) };
        a.needs_merge(order)
    })
    .unwrap_or(false)
}

unsafe extern "C" fn attention_merge(attention: &CAttention, work: *mut u8, thread: usize, n_threads: usize) {
    with_order(attention, |a, order| {
        // SAFETY: as `attention_run`, after a barrier.
        unsafe { a.merge(isa(), order, work, thread, n_threads) };
    });
}

/// Which position each cell of a cache holds.
struct Cells {
    /// -1: not known.
    positions: Box<[AtomicI32]>,
    /// Changes with every write, the same way in all layers; 0 before the first.
    history: AtomicU64,
}

/// By the address of the cache. Caches come and go without notice: what remains of an old one is overwritten before it is visible.
static CELLS: OnceLock<RwLock<HashMap<usize, Arc<Cells>>>> = OnceLock::new();

/// Caches (one for each layer) that are remembered. Beyond, all are forgotten, and cells are visited as they lie in memory.
const MAX_CACHES: usize = 4096;

fn all_cells() -> &'static RwLock<HashMap<usize, Arc<Cells>>> {
    CELLS.get_or_init(RwLock::default)
}

fn cells_of(cache: *const c_void) -> Option<Arc<Cells>> {
    all_cells().read().unwrap_or_else(PoisonError::into_inner).get(&(cache as usize)).cloned()
}

/// Makes `history` another number, depending on all that was mixed in before.
fn mix(history: u64, value: u64) -> u64 {
    let mixed = (history.rotate_left(5) ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed ^ (mixed >> 32) | 1
}

unsafe extern "C" fn cells_written(
    cache: *const c_void,
    n_cells: usize,
    written: *const i64,
    positions: *const i32,
    n: usize,
) {
    let cells = cells_of(cache).filter(|cells| cells.positions.len() == n_cells).unwrap_or_else(|| {
        let positions = (0..n_cells).map(|_| AtomicI32::new(-1)).collect();
        let cells = Arc::new(Cells { positions, history: AtomicU64::new(1) });
        let mut all = all_cells().write().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= MAX_CACHES {
            all.clear();
        }
        all.insert(cache as usize, Arc::clone(&cells));
        cells
    });
    // SAFETY: the caller has n of each, or null.
    let (written, positions) = unsafe {
        (slice::from_raw_parts(written, n), (!positions.is_null()).then(|| slice::from_raw_parts(positions, n)))
    };
    let mut history = cells.history.load(Ordering::Relaxed);
    for (i, &cell) in written.iter().enumerate() {
        let position = positions.map_or(-1, |p| p[i]);
        if let Some(entry) = usize::try_from(cell).ok().and_then(|cell| cells.positions.get(cell)) {
            entry.store(position, Ordering::Relaxed);
        }
        history = mix(history, (cell as u64) << 32 ^ position as u32 as u64);
    }
    cells.history.store(history, Ordering::Relaxed);
}

unsafe extern "C" fn cells_shifted(cache: *const c_void, shift: *const i32, n: usize) {
    let Some(cells) = cells_of(cache) else { return };
    // SAFETY: the caller has n of them.
    let shift = unsafe { slice::from_raw_parts(shift, n) };
    for (position, shift) in cells.positions.iter().zip(shift) {
        if position.load(Ordering::Relaxed) >= 0 {
            position.fetch_add(*shift, Ordering::Relaxed);
        }
    }
    cells.history.store(mix(cells.history.load(Ordering::Relaxed), u64::MAX), Ordering::Relaxed);
}
