//! The kernels against a plain one in double precision, and against themselves: other numbers of rows, other threads, other cells.

use super::*;
use crate::kernels::half::{f16_to_f32, f32_to_f16};
use crate::kernels::memory::{Buffer, Memory};
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg32;

/// Owned data of one call.
#[derive(Clone)]
struct Case {
    head_size: usize,
    n_heads: usize,
    n_kv_heads: usize,
    n_rows: usize,
    n_cells: usize,
    soft_cap: f32,
    cells: CellType,
    q: Vec<f32>,
    k: Vec<u8>,
    v: Vec<u8>,
    mask: Option<Vec<u16>>,
    positions: Option<Vec<i32>>,
}

/// What a call reads.
struct Data {
    q: Buffer<f32>,
    k: Buffer<u8>,
    v: Buffer<u8>,
    mask: Option<Buffer<u16>>,
    positions: Option<Buffer<i32>>,
}

impl Data {
    fn new(case: &Case, memory: Memory) -> Self {
        Self {
            q: memory.copy(&case.q),
            k: memory.copy(&case.k),
            v: memory.copy(&case.v),
            mask: case.mask.as_ref().map(|mask| memory.copy(mask)),
            positions: case.positions.as_ref().map(|positions| memory.copy(positions)),
        }
    }
}

/// What the threads of a call share.
struct Shared(Attention, *mut u8);

// SAFETY: the kernels divide what they write among the threads.
unsafe impl Sync for Shared {}

impl Shared {
    fn get(&self) -> &Self {
        self
    }
}

impl Case {
    fn random(seed: u64, head_size: usize, heads: [usize; 2], n_rows: usize, n_cells: usize, cells: CellType) -> Self {
        let mut rng = Pcg32::seed_from_u64(seed);
        let [n_heads, n_kv_heads] = heads;
        let q = (0..n_rows * n_heads * head_size).map(|_| rng.random_range(-2.0..2.0)).collect();
        let mut cache = || {
            let mut bytes = Vec::new();
            for _ in 0..n_cells * n_kv_heads {
                match cells {
                    CellType::F16 => (0..head_size)
                        .for_each(|_| bytes.extend(f32_to_f16(rng.random_range(-2.0f32..2.0)).to_le_bytes())),
                    CellType::Q8_0 => (0..head_size / 32).for_each(|_| {
                        bytes.extend(f32_to_f16(rng.random_range(0.0f32..0.02)).to_le_bytes());
                        bytes.extend((0..32).map(|_| rng.random::<u8>()));
                    }),
                }
            }
            bytes
        };
        let (k, v) = (cache(), cache());
        let (mask, positions) = (None, None);
        Self { head_size, n_heads, n_kv_heads, n_rows, n_cells, soft_cap: 0.0, cells, q, k, v, mask, positions }
    }

    /// Each row sees each cell with the given probability.
    fn masked(mut self, seed: u64, share: f64) -> Self {
        let mut rng = Pcg32::seed_from_u64(seed);
        let mask = (0..self.n_rows * self.n_cells).map(|_| if rng.random_bool(share) { 0 } else { 0xfc00 });
        self.mask = Some(mask.collect());
        self
    }

    fn head_bytes(&self) -> usize {
        match self.cells {
            CellType::F16 => self.head_size * 2,
            CellType::Q8_0 => self.head_size / 32 * 34,
        }
    }

    /// Row `row` alone.
    fn row(&self, row: usize) -> Self {
        let q = self.q[row * self.n_heads * self.head_size..][..self.n_heads * self.head_size].to_vec();
        let mask = self.mask.as_ref().map(|m| m[row * self.n_cells..][..self.n_cells].to_vec());
        Self { n_rows: 1, q, mask, ..self.clone() }
    }

    /// The call on these copies of the case's data.
    fn attention(&self, data: &Data) -> Attention {
        let cache = |data: &[u8]| Heads {
            data: data.as_ptr(),
            row_bytes: self.n_kv_heads * self.head_bytes(),
            head_bytes: self.head_bytes(),
        };
        Attention {
            head_size: self.head_size,
            n_heads: self.n_heads,
            n_kv_heads: self.n_kv_heads,
            n_rows: self.n_rows,
            n_cells: self.n_cells,
            scale: 0.3,
            soft_cap: self.soft_cap,
            q: Heads {
                data: data.q.as_ptr(),
                row_bytes: self.n_heads * self.head_size * 4,
                head_bytes: self.head_size * 4,
            },
            k: cache(&data.k),
            v: cache(&data.v),
            cells: self.cells,
            mask: data.mask.as_ref().map_or(std::ptr::null(), |m| m.as_ptr()),
            mask_row_bytes: self.n_cells * 2,
            positions: data.positions.as_ref().map_or(std::ptr::null(), |p| p.as_ptr()),
            out: std::ptr::null_mut(),
        }
    }

    fn run(&self, isa: Option<Isa>, n_threads: usize) -> Buffer<f32> {
        self.run_in(Memory::Heap, isa, n_threads)
    }

    /// As [`run`](Self::run), with all buffers in this memory.
    fn run_in(&self, memory: Memory, isa: Option<Isa>, n_threads: usize) -> Buffer<f32> {
        let data = Data::new(self, memory);
        let mut out = memory.filled(self.n_rows * self.n_heads * self.head_size, f32::NAN);
        let attention = Attention { out: out.as_mut_ptr(), ..self.attention(&data) };
        assert!(attention.is_supported());
        let mut work = memory.filled(attention.work_bytes(n_threads), 0xffu8);
        let shared = Shared(attention, work.as_mut_ptr());
        let barrier = std::sync::Barrier::new(n_threads);
        let run = &|thread| {
            let Shared(attention, work) = shared.get();
            // SAFETY: all pointers come from buffers of these shapes, and each thread has its own number.
            unsafe {
                let mut order = Order::new();
                order.update(attention);
                attention.run(isa, &order, *work, thread, n_threads);
                barrier.wait();
                if attention.needs_merge(&order) {
                    attention.merge(isa, &order, *work, thread, n_threads);
                }
            }
        };
        std::thread::scope(|scope| {
            (1..n_threads).for_each(|thread| drop(scope.spawn(move || run(thread))));
            run(0);
        });
        out
    }

    /// A cache as `[cell][head][element]`.
    fn values(&self, cache: &[u8]) -> Vec<f64> {
        let half = |p: &[u8]| f64::from(f16_to_f32(u16::from_le_bytes([p[0], p[1]])));
        match self.cells {
            CellType::F16 => cache.chunks_exact(2).map(half).collect(),
            CellType::Q8_0 => cache
                .chunks_exact(34)
                .flat_map(|block| block[2..].iter().map(move |&q| half(block) * f64::from(q as i8)))
                .collect(),
        }
    }

    fn reference(&self) -> Vec<f64> {
        let (k, v) = (self.values(&self.k), self.values(&self.v));
        let d = self.head_size;
        let mut out = Vec::new();
        for row in 0..self.n_rows {
            for head in 0..self.n_heads {
                let kv_head = head / (self.n_heads / self.n_kv_heads);
                let at = |cell: usize| (cell * self.n_kv_heads + kv_head) * d;
                let q = &self.q[(row * self.n_heads + head) * d..][..d];
                let score = |cell: usize| {
                    let dot: f64 = q.iter().zip(&k[at(cell)..]).map(|(&q, k)| f64::from(q) * k).sum();
                    let (score, cap) = (dot * f64::from(0.3f32), f64::from(self.soft_cap));
                    let score = if cap > 0.0 { cap * (score / cap).tanh() } else { score };
                    score + self.mask.as_ref().map_or(0.0, |m| f64::from(f16_to_f32(m[row * self.n_cells + cell])))
                };
                let scores: Vec<f64> = (0..self.n_cells).map(score).collect();
                let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let (mut sums, mut total) = (vec![0.0; d], 0.0);
                for (cell, score) in scores.iter().enumerate().filter(|(_, score)| score.is_finite()) {
                    let weight = (score - largest).exp();
                    total += weight;
                    sums.iter_mut().zip(&v[at(cell)..]).for_each(|(sum, v)| *sum += weight * v);
                }
                out.extend(sums.iter().map(|sum| if total > 0.0 { sum / total } else { 0.0 }));
            }
        }
        out
    }

    fn check(&self, name: &str) {
        let reference = self.reference();
        for isa in sets() {
            let out = self.run(isa, 2);
            for (i, (&a, &b)) in out.iter().zip(&reference).enumerate() {
                assert!((f64::from(a) - b).abs() < 2e-5, "{name}, {isa:?}: {a} instead of {b} at {i}");
            }
        }
    }
}

/// Every instruction set of this machine, and none.
fn sets() -> Vec<Option<Isa>> {
    Isa::ALL.into_iter().filter(|isa| isa.is_available()).map(Some).chain([None]).collect()
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

#[test]
fn agrees_with_double_precision() {
    for (head_size, heads) in [(64, [9, 3]), (80, [4, 4]), (96, [4, 1]), (128, [8, 2]), (256, [4, 1]), (16, [1, 1])] {
        for (n_rows, n_cells) in [(1, 1), (1, 300), (3, 17), (8, 257), (13, 16)] {
            let name = format!("head {head_size}, {n_rows} rows, {n_cells} cells");
            Case::random(1, head_size, heads, n_rows, n_cells, CellType::F16).check(&name);
            Case::random(2, head_size, heads, n_rows, n_cells, CellType::F16).masked(3, 0.6).check(&name);
            if head_size % 32 == 0 {
                Case::random(4, head_size, heads, n_rows, n_cells, CellType::Q8_0).masked(5, 0.6).check(&name);
            }
        }
    }
    // More rows than a task serves, and than merge apart.
    Case::random(6, 32, [6, 2], 40, 300, CellType::F16).masked(7, 0.5).check("40 rows");
    let capped = Case { soft_cap: 1.5, ..Case::random(8, 64, [2, 1], 5, 300, CellType::F16) };
    capped.masked(9, 0.9).check("soft cap");
}

#[test]
fn hidden_cells_and_rows_do_no_harm() {
    Case::random(1, 64, [2, 1], 4, 700, CellType::F16).masked(2, 0.0).check("nothing seen");
    Case::random(1, 64, [2, 1], 4, 700, CellType::F16).masked(2, 0.004).check("hardly anything seen");
    // One row sees only the last block, another one only the first.
    let mut case = Case::random(3, 64, [2, 1], 2, 700, CellType::F16);
    let mask = (0..1400).map(|i| if (200..700 + 650).contains(&i) { 0xfc00 } else { 0 });
    case.mask = Some(mask.collect());
    case.check("ends");
}

#[test]
fn a_row_has_the_same_bits_alone_and_among_others() {
    for cells in [CellType::F16, CellType::Q8_0] {
        for (n_rows, n_cells) in [(2, 64), (5, 300), (17, 270), (40, 260)] {
            let case = Case::random(n_rows as u64, 32, [6, 2], n_rows, n_cells, cells).masked(1, 0.5);
            for isa in sets() {
                let together = case.run(isa, 2);
                for row in 0..n_rows {
                    let alone = case.row(row).run(isa, 1);
                    let row = &together[row * 6 * 32..][..6 * 32];
                    assert_eq!(bits(&alone), bits(row), "{isa:?}, {n_rows} rows, {n_cells} cells");
                }
            }
        }
    }
}

#[test]
fn the_number_of_threads_changes_no_bit() {
    let case = Case::random(1, 32, [6, 2], 8, 700, CellType::F16).masked(1, 0.7);
    for isa in sets() {
        let one = case.run(isa, 1);
        for n_threads in 2..=8 {
            assert_eq!(bits(&one), bits(&case.run(isa, n_threads)));
        }
    }
}

/// The case with cell i's content in cell `target(i)` of a larger cache, whose other cells hold copies of cell 0.
fn scattered(case: &Case, n_cells: usize, target: impl Fn(usize) -> usize) -> Case {
    let cell_bytes = case.n_kv_heads * case.head_bytes();
    let copy = |cache: &[u8]| {
        let mut out = cache[..cell_bytes].repeat(n_cells);
        for i in 0..case.n_cells {
            out[target(i) * cell_bytes..][..cell_bytes].copy_from_slice(&cache[i * cell_bytes..][..cell_bytes]);
        }
        out
    };
    let mut positions = vec![-1; n_cells];
    let mut mask = vec![0xfc00; case.n_rows * n_cells];
    for i in 0..case.n_cells {
        positions[target(i)] = i as i32;
        for row in 0..case.n_rows {
            mask[row * n_cells + target(i)] = case.mask.as_ref().map_or(0, |m| m[row * case.n_cells + i]);
        }
    }
    Case { n_cells, k: copy(&case.k), v: copy(&case.v), mask: Some(mask), positions: Some(positions), ..case.clone() }
}

#[test]
fn the_cells_in_which_tokens_lie_change_no_bit() {
    for n_cells in [100, 256, 300, 520] {
        let case = Case::random(1, 32, [3, 1], 4, n_cells, CellType::F16).masked(2, 0.8);
        for isa in sets() {
            let in_order = bits(&case.run(isa, 2));
            let gaps = scattered(&case, n_cells + n_cells / 4 + 1, |i| i + i / 4);
            assert_eq!(in_order, bits(&gaps.run(isa, 2)));
            let backwards = scattered(&case, n_cells, |i| n_cells - 1 - i);
            assert_eq!(in_order, bits(&backwards.run(isa, 2)));
            let shuffled = scattered(&case, 2 * 719, |i| i * 31 % 719 * 2);
            assert_eq!(in_order, bits(&shuffled.run(isa, 2)));
        }
    }
}

#[test]
fn siblings_change_no_bit() {
    // Cells 290 to 299 are siblings of cells 280 to 289: rows 0 and 1 see the former, rows 2 and 3 the latter.
    let mut case = Case::random(1, 64, [9, 3], 4, 300, CellType::F16);
    let hidden = |row: usize, cell: usize| if row < 2 { (280..290).contains(&cell) } else { cell >= 290 };
    case.mask = Some((0..1200).map(|i| if hidden(i / 300, i % 300) { 0xfc00 } else { 0 }).collect());
    case.positions = Some((0..300).map(|i| if i < 290 { i } else { i - 10 }).collect());
    // As a chain, the rows' own cells stand one after the other.
    let mut chain = scattered(&case.row(0), 300, |i| i);
    let cell_bytes = case.n_kv_heads * case.head_bytes();
    for cache in [&mut chain.k, &mut chain.v] {
        cache.copy_within(290 * cell_bytes..300 * cell_bytes, 280 * cell_bytes);
    }
    chain.mask = Some((0..300).map(|i| if i < 290 { 0 } else { 0xfc00 }).collect());
    chain.positions = None;
    for isa in sets() {
        let tree = case.run(isa, 2);
        assert_eq!(bits(&chain.run(isa, 1)), bits(&tree[..9 * 64]), "{isa:?}");
    }
    case.check("siblings");
}

#[test]
fn other_sequences_in_the_call_change_no_bit() {
    // Sequence s has 40 s + 7 tokens in every seventh cell from cell s on, and more rows than the one before.
    const N: usize = 7;
    let alone: Vec<Case> = (0..N)
        .map(|s| Case::random(s as u64, 32, [6, 2], 1 + 2 * s, 40 * s + 7, CellType::F16).masked(s as u64, 0.9))
        .collect();
    let n_cells = N * (40 * (N - 1) + 7);
    let mut all = Case { n_rows: 0, n_cells, q: Vec::new(), ..alone[0].clone() };
    let cell_bytes = all.n_kv_heads * all.head_bytes();
    let (mut mask, mut positions) = (Vec::new(), vec![-1; n_cells]);
    (all.k, all.v) = (vec![0; n_cells * cell_bytes], vec![0; n_cells * cell_bytes]);
    for (s, case) in alone.iter().enumerate() {
        let wide = scattered(case, n_cells, |i| N * i + s);
        all.n_rows += case.n_rows;
        all.q.extend(&case.q);
        mask.extend(wide.mask.unwrap());
        for cell in (0..case.n_cells).map(|i| N * i + s) {
            positions[cell] = (cell / N) as i32;
            let bytes = cell * cell_bytes..(cell + 1) * cell_bytes;
            all.k[bytes.clone()].copy_from_slice(&wide.k[bytes.clone()]);
            all.v[bytes.clone()].copy_from_slice(&wide.v[bytes]);
        }
    }
    all.mask = Some(mask);
    all.positions = Some(positions);
    let data = Data::new(&all, Memory::Heap);
    let mut order = Order::new();
    // SAFETY: the mask and the positions have the shapes of the case.
    unsafe { order.update(&all.attention(&data)) };
    assert_eq!(order.parts.len(), N, "a part for each sequence");
    for isa in sets() {
        for n_threads in [1, 2, 3] {
            let together = all.run(isa, n_threads);
            let mut rest = &together[..];
            for case in &alone {
                let (own, others) = rest.split_at(case.q.len());
                assert_eq!(bits(&case.run(isa, 2)), bits(own), "{isa:?}, {n_threads} threads, {} rows", case.n_rows);
                rest = others;
            }
        }
    }
    all.check("several sequences");
}

#[test]
fn useless_positions_fall_back_to_memory_order() {
    let case = Case::random(1, 64, [2, 1], 3, 300, CellType::F16).masked(2, 0.7);
    for positions in
        [vec![-1; 300], vec![7; 300], (0..300).map(|i| i / 2).collect(), (0..300).map(|i| i * 999).collect()]
    {
        let odd = Case { positions: Some(positions), ..case.clone() };
        for isa in sets() {
            assert_eq!(bits(&case.run(isa, 2)), bits(&odd.run(isa, 2)));
        }
    }
}

/// Every buffer begins or ends at a page that nobody may touch: a byte too much would end the process.
#[test]
fn nothing_outside_the_buffers_is_touched() {
    for (cells, unit) in [(CellType::F16, 16), (CellType::Q8_0, 32)] {
        for (head_size, n_rows) in (unit..=256).step_by(unit).zip((1..=16).cycle()) {
            for n_cells in [1, 17, 273] {
                let all_seen = Case::random(1, head_size, [6, 2], n_rows, n_cells, cells);
                let masked = all_seen.clone().masked(2, 0.7);
                let scattered = scattered(&masked, n_cells + n_cells / 3 + 1, |i| i + i / 3);
                for case in [all_seen, masked, scattered] {
                    for isa in sets() {
                        let expected = bits(&case.run(isa, 1));
                        for &memory in Memory::GUARDED {
                            let out = case.run_in(memory, isa, 1 + n_rows % 3);
                            assert_eq!(bits(&out), expected, "{isa:?} {cells:?} {head_size} {n_rows} x {n_cells}");
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn random_shapes_agree_with_double_precision_and_touch_nothing_else() {
    let mut rng = Pcg32::seed_from_u64(1);
    for seed in 0..40 {
        let cells = if rng.random_bool(0.5) { CellType::F16 } else { CellType::Q8_0 };
        let head_size = 32 * rng.random_range(1..=8);
        let n_kv_heads = rng.random_range(1..=3);
        let n_heads = n_kv_heads * rng.random_range(1..=7);
        let (n_rows, n_cells) = (rng.random_range(1..=50), rng.random_range(1..=300));
        let mut case = Case::random(seed, head_size, [n_heads, n_kv_heads], n_rows, n_cells, cells);
        if rng.random_bool(0.8) {
            case = case.masked(seed, rng.random_range(0.01..1.0));
        }
        if rng.random_bool(0.3) {
            case.soft_cap = rng.random_range(0.5..50.0);
        }
        case.check(&format!("{n_rows} rows of {n_heads} heads of {head_size}, {n_cells} cells, seed {seed}"));
        let memory = Memory::GUARDED.get(seed as usize % 2).copied().unwrap_or(Memory::Heap);
        for isa in sets() {
            let expected = bits(&case.run(isa, 1));
            assert_eq!(expected, bits(&case.run_in(memory, isa, rng.random_range(1..=8))), "{isa:?}, seed {seed}");
        }
    }
}
