//! Every kernel against the oracle, on every instruction set of the machine.

use super::reference::{block, dequantise, unrounded};
use super::*;
use crate::kernels::half::f32_to_f16;
use crate::kernels::memory::{Buffer, Memory};

/// A small generator: the tests need variety, not quality.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        self.0 >> 33
    }

    fn below(&mut self, limit: usize) -> usize {
        self.next() as usize % limit
    }

    fn float(&mut self) -> f32 {
        (self.next() % 20001) as f32 / 10000.0 - 1.0
    }
}

/// What the weights' bytes are.
#[derive(Clone, Copy, Debug)]
enum Fill {
    /// Any codes; scales of ordinary size.
    Random,
    /// All bytes zero.
    Zero,
    /// All bits of codes and sub-scales set, scales 65504.
    Ones,
    /// Every byte -128, scales -65504.
    Lowest,
    /// Scales of the smallest subnormal halves.
    Denormal,
}

const FILLS: [Fill; 5] = [Fill::Random, Fill::Zero, Fill::Ones, Fill::Lowest, Fill::Denormal];

/// Where a block has its half-precision numbers.
fn halves(weight_type: WeightType) -> Vec<usize> {
    match weight_type {
        WeightType::F16 | WeightType::BF16 => (0..16).map(|i| 2 * i).collect(),
        WeightType::Q4_0 | WeightType::Q5_0 | WeightType::Q8_0 => vec![0],
        WeightType::Q4_1 | WeightType::Q5_1 | WeightType::Q4_K | WeightType::Q5_K => vec![0, 2],
        WeightType::Q6_K => vec![208],
    }
}

fn weights(weight_type: WeightType, rows: usize, cols: usize, fill: Fill, random: &mut Random) -> Box<[u8]> {
    let (block_cols, size) = block(weight_type);
    let mut bytes = vec![0; rows * (cols / block_cols) * size].into_boxed_slice();
    for block in bytes.chunks_exact_mut(size) {
        for byte in block.iter_mut() {
            *byte = match fill {
                Fill::Random | Fill::Denormal => random.next() as u8,
                Fill::Zero => 0,
                Fill::Ones => 255,
                Fill::Lowest => 128,
            };
        }
        for at in halves(weight_type) {
            let scale: u16 = match (fill, weight_type) {
                (Fill::Random, WeightType::BF16) => (random.float().to_bits() >> 16) as u16,
                (Fill::Random, _) => f32_to_f16(random.float() / 50.0),
                (Fill::Zero, _) => 0,
                // The largest half is far beyond what a float can hold the sums of, read as bfloat16: 256 serves there.
                (Fill::Ones, WeightType::BF16) => 0x4380,
                (Fill::Ones, _) => 0x7bff,
                (Fill::Lowest, WeightType::BF16) => 0xc380,
                (Fill::Lowest, _) => 0xfbff,
                (Fill::Denormal, _) => 1 + (random.next() & 3) as u16,
            };
            block[at..at + 2].copy_from_slice(&scale.to_le_bytes());
        }
    }
    bytes
}

fn floats(n: usize, random: &mut Random) -> Box<[f32]> {
    (0..n).map(|_| random.float()).collect()
}

/// The kernels to test: every type on every instruction set that the machine has, where the shape is allowed.
fn each_weight(rows: usize, cols: usize) -> impl Iterator<Item = (WeightType, Isa, Weight)> {
    let pairs = Isa::ALL.into_iter().flat_map(|isa| WeightType::ALL.map(|weight_type| (weight_type, isa)));
    pairs.filter_map(move |(weight_type, isa)| Some((weight_type, isa, Weight::new(weight_type, isa, rows, cols)?)))
}

/// A pointer that threads share.
#[derive(Clone, Copy)]
struct Shared<T>(*mut T);

// SAFETY: the threads below write to places of their own.
unsafe impl<T> Send for Shared<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for Shared<T> {}

impl<T> Shared<T> {
    fn get(&self) -> *mut T {
        self.0
    }
}

/// Packs, rounds and multiplies, each on `threads` threads. Every buffer is a box of its exact size.
fn multiply(weight: &Weight, source: &[u8], x: &[f32], n_columns: usize, threads: usize) -> Buffer<f32> {
    multiply_in(Memory::Heap, weight, source, x, n_columns, threads)
}

/// As [`multiply`], with all buffers in this memory.
fn multiply_in(
    memory: Memory,
    weight: &Weight,
    source: &[u8],
    x: &[f32],
    n_columns: usize,
    threads: usize,
) -> Buffer<f32> {
    let part = |i: usize, n: usize| n * i / threads..n * (i + 1) / threads;
    let (source, x) = (&*memory.copy(source), &*memory.copy(x));
    let mut packed = memory.filled(weight.packed_bytes(), 0xaa);
    std::thread::scope(|scope| {
        let mut rest = &mut packed[..];
        for i in 0..threads {
            let groups = part(i, weight.n_groups());
            let rows = groups.start * 16..weight.rows().min(groups.end * 16);
            let (own, others) = rest.split_at_mut(groups.len() * weight.group_bytes());
            rest = others;
            let source = &source[rows.start * weight.row_bytes()..rows.end * weight.row_bytes()];
            scope.spawn(move || weight.pack(source, own).expect("sizes fit"));
        }
    });
    let mut scratch = memory.filled(weight.scratch_bytes(n_columns) / 4, u32::MAX);
    let mut out = memory.filled(weight.rows() * n_columns, f32::NAN);
    let shared = Shared(scratch.as_mut_ptr());
    std::thread::scope(|scope| {
        for i in 0..threads {
            let shared = &shared;
            let items = part(i, weight.quantise_items(n_columns));
            // SAFETY: the boxes have the sizes that are asked for, and the threads' items do not meet.
            scope.spawn(move || unsafe {
                weight.quantise(x.as_ptr(), weight.cols(), n_columns, items, shared.get().cast());
            });
        }
    });
    let results = Shared(out.as_mut_ptr());
    std::thread::scope(|scope| {
        for i in 0..threads {
            let (packed, scratch, results) = (&*packed, &*scratch, &results);
            let groups = part(i, weight.n_groups());
            // SAFETY: as above; the threads' groups do not meet.
            scope.spawn(move || unsafe {
                let scratch = scratch.as_ptr().cast();
                weight.product(packed.as_ptr(), groups, scratch, n_columns, results.get(), weight.rows());
            });
        }
    });
    out
}

/// The largest error of products of `values` with `x`, in units of what was summed.
fn worst_error(weight: &Weight, values: &[f32], x: &[f32], out: &[f32]) -> f64 {
    let cols = weight.cols();
    let mut worst = 0.0_f64;
    for (column, out) in x.chunks_exact(cols).zip(out.chunks_exact(weight.rows())) {
        let column = unrounded(weight.format, column);
        for (row, &y) in values.chunks_exact(cols).zip(out) {
            let (sum, size) = row.iter().zip(&column).fold((0.0, 0.0), |(sum, size), (&w, &x)| {
                let product = f64::from(w) * f64::from(x);
                (sum + product, size + product.abs())
            });
            worst = worst.max((f64::from(y) - sum).abs() / (size + 1e-30));
        }
    }
    worst
}

fn check(weight_type: WeightType, weight: &Weight, fill: Fill, n_columns: usize, threads: usize, random: &mut Random) {
    let source = weights(weight_type, weight.rows(), weight.cols(), fill, random);
    let x = floats(weight.cols() * n_columns, random);
    let out = multiply(weight, &source, &x, n_columns, threads);
    let worst = worst_error(weight, &dequantise(weight_type, &source), &x, &out);
    // Q8_1 rounds the sum of a block, which meets the minimum, to eleven bits; a sum that nearly cancels counts by its parts. A
    // value of a K type is a difference of products that can be much larger than it.
    let limit = match (weight_type, fill) {
        (WeightType::Q4_1 | WeightType::Q5_1, _) => 2e-3,
        (WeightType::Q4_K | WeightType::Q5_K, _) => 2e-5,
        _ => 4e-6,
    };
    let shape = (weight.rows(), weight.cols(), n_columns, threads);
    assert!(worst <= limit, "{weight_type:?} {:?} {fill:?} {shape:?}: {worst}", weight.format);
}

#[test]
fn products_are_near_the_oracle() {
    let mut random = Random(1);
    for fill in FILLS {
        for (rows, cols, n_columns, threads) in [(1, 256, 1, 1), (37, 512, 5, 3), (64, 768, 16, 8), (16, 256, 37, 1)] {
            for (weight_type, _, weight) in each_weight(rows, cols) {
                check(weight_type, &weight, fill, n_columns, threads, &mut random);
            }
        }
    }
}

#[test]
fn odd_shapes_are_near_the_oracle() {
    let mut random = Random(2);
    for _ in 0..60 {
        let (rows, cols) = (1 + random.below(70), 16 * (1 + random.below(40)));
        for (weight_type, _, weight) in each_weight(rows, cols) {
            let (n_columns, threads) = (1 + random.below(20), 1 + random.below(8));
            check(weight_type, &weight, Fill::Random, n_columns, threads, &mut random);
        }
    }
}

#[test]
fn a_column_is_the_same_among_any_number_of_columns() {
    let (rows, cols) = (40, 768);
    for (weight_type, isa, weight) in each_weight(rows, cols) {
        let mut random = Random(7);
        let source = weights(weight_type, rows, cols, Fill::Random, &mut random);
        let x = floats(cols * 50, &mut random);
        let alone: Vec<f32> =
            x.chunks_exact(cols).flat_map(|column| multiply(&weight, &source, column, 1, 1).to_vec()).collect();
        for n_columns in (1..=16).chain([17, 33, 50]) {
            let together = multiply(&weight, &source, &x[..cols * n_columns], n_columns, 1 + n_columns % 8);
            let same = together.iter().zip(&alone).all(|(a, b)| a.to_bits() == b.to_bits());
            assert!(same, "{weight_type:?} {isa:?} {n_columns}");
        }
    }
}

/// More columns than one sweep takes, so that weights are visited twice.
#[test]
fn several_sweeps_are_one_product() {
    let (rows, cols, n_columns) = (16, 8192, 70);
    for (weight_type, isa, weight) in each_weight(rows, cols) {
        let mut random = Random(8);
        let source = weights(weight_type, rows, cols, Fill::Random, &mut random);
        let x = floats(cols * n_columns, &mut random);
        let together = multiply(&weight, &source, &x, n_columns, 2);
        for column in [0, 31, 32, 33, 64, 69] {
            let alone = multiply(&weight, &source, &x[column * cols..][..cols], 1, 1);
            assert_eq!(together[column * rows..][..rows], alone[..], "{weight_type:?} {isa:?} {column}");
        }
    }
}

#[test]
fn nothing_is_written_between_the_columns() {
    let (rows, cols, n_columns, stride) = (21, 256, 9, 30);
    for (weight_type, isa, weight) in each_weight(rows, cols) {
        let mut random = Random(9);
        let source = weights(weight_type, rows, cols, Fill::Random, &mut random);
        let mut packed = vec![0; weight.packed_bytes()].into_boxed_slice();
        weight.pack(&source, &mut packed).expect("sizes fit");
        // Columns of activations stand apart too; what lies between them must not matter.
        let x_stride = cols + 3;
        let mut x = vec![f32::NAN; (n_columns - 1) * x_stride + cols].into_boxed_slice();
        for column in x.chunks_mut(x_stride) {
            column[..cols].copy_from_slice(&floats(cols, &mut random));
        }
        let mut scratch = vec![0u32; weight.scratch_bytes(n_columns) / 4].into_boxed_slice();
        let mut out = vec![-7.0; (n_columns - 1) * stride + rows].into_boxed_slice();
        // SAFETY: the boxes are as long as the strides say.
        unsafe {
            let scratch = scratch.as_mut_ptr().cast();
            weight.quantise(x.as_ptr(), x_stride, n_columns, 0..weight.quantise_items(n_columns), scratch);
            weight.product(packed.as_ptr(), 0..weight.n_groups(), scratch, n_columns, out.as_mut_ptr(), stride);
        }
        for column in out.chunks(stride) {
            assert!(column[..rows].iter().all(|v| v.is_finite()), "{weight_type:?} {isa:?}");
            assert!(column[rows..].iter().all(|&v| v == -7.0), "{weight_type:?} {isa:?}");
        }
    }
}

/// Every buffer begins or ends at a page that nobody may touch: a byte too much would end the process.
#[test]
fn nothing_outside_the_buffers_is_touched() {
    let mut random = Random(10);
    for (rows, cols) in [(1, 16), (15, 32), (17, 48), (33, 96), (16, 160), (2, 224), (19, 256), (47, 512), (5, 1280)] {
        for (weight_type, isa, weight) in each_weight(rows, cols) {
            let source = weights(weight_type, rows, cols, Fill::Random, &mut random);
            let x = floats(cols * 19, &mut random);
            for n_columns in 1..=19 {
                let (x, threads) = (&x[..cols * n_columns], 1 + n_columns % 3);
                let expected = multiply(&weight, &source, x, n_columns, 1);
                for &memory in Memory::GUARDED {
                    let out = multiply_in(memory, &weight, &source, x, n_columns, threads);
                    assert_eq!(out[..], expected[..], "{weight_type:?} {isa:?} {rows} x {cols}, {n_columns} columns");
                }
            }
        }
    }
}

#[test]
fn rows_are_looked_up_exactly() {
    for fill in FILLS {
        for (rows, cols) in [(1, 16), (19, 160), (33, 256), (16, 768)] {
            for (weight_type, isa, weight) in each_weight(rows, cols) {
                let source = weights(weight_type, rows, cols, fill, &mut Random(3));
                let mut packed = vec![0xaa; weight.packed_bytes()];
                weight.pack(&source, &mut packed).expect("sizes fit");
                let mut values = vec![f32::NAN; cols];
                for (row, expected) in dequantise(weight_type, &source).chunks_exact(cols).enumerate() {
                    weight.unpack_row(&packed, row, &mut values).expect("the row exists");
                    let same = values.iter().zip(expected).all(|(a, b)| a.to_bits() == b.to_bits());
                    assert!(same, "{weight_type:?} {isa:?} {fill:?} {row}");
                }
            }
        }
    }
}

/// Packed weights are at most a tenth larger than the file's, where rows fill groups and columns fill units.
#[test]
fn packed_weights_are_about_as_large_as_the_file_s() {
    for (weight_type, _, weight) in each_weight(64, 2048) {
        let file = weight.rows() * weight.row_bytes();
        assert!(weight.packed_bytes() * 100 <= file * 104, "{weight_type:?}: {} for {file}", weight.packed_bytes());
    }
}

#[test]
fn wrong_sizes_are_refused() {
    for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
        for (rows, cols) in [(0, 256), (16, 0), (16, 24), (usize::MAX / 2, 256), (1 << 40, 1 << 40)] {
            assert!(Weight::new(WeightType::Q8_0, isa, rows, cols).is_none(), "{rows} x {cols}");
        }
        assert!(Weight::new(WeightType::Q4_K, isa, 16, 288).is_none());
        let weight = Weight::new(WeightType::Q8_0, isa, 20, 64).expect("a plain shape");
        let mut packed = vec![0; weight.packed_bytes()];
        let text = weight.pack(&[0; 20 * 68 - 1], &mut packed).expect_err("a row is not whole").to_string();
        assert!(text.contains("1359"), "{text}");
        assert!(weight.pack(&[0; 20 * 68], &mut packed[1..]).is_err());
        assert!(weight.pack(&[], &mut []).is_ok());
        assert!(weight.unpack_row(&packed, 20, &mut [0.0; 64]).is_err());
        assert!(weight.unpack_row(&packed, 19, &mut [0.0; 63]).is_err());
        assert!(weight.unpack_row(&packed[1..], 19, &mut [0.0; 64]).is_err());
        assert!(weight.unpack_row(&packed, 19, &mut [0.0; 64]).is_ok());
    }
}

#[test]
fn types_keep_ggml_s_numbers() {
    for weight_type in WeightType::ALL {
        assert_eq!(WeightType::from_ggml(weight_type.to_ggml()), Some(weight_type));
    }
    assert_eq!(WeightType::from_ggml(0), None, "F32 has no kernel");
}
