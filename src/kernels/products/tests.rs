//! Every kernel against the oracle, on every instruction set of the machine.

use super::reference::{block, dequantise};
use super::*;
use crate::kernels::half::f32_to_f16;

/// A small generator: the tests need variety, not quality.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        self.0 >> 33
    }

    fn float(&mut self) -> f32 {
        (self.next() % 20001) as f32 / 10000.0 - 1.0
    }
}

fn isas() -> impl Iterator<Item = Isa> {
    Isa::ALL.into_iter().filter(|isa| isa.is_available())
}

/// What the weights' bytes are.
#[derive(Clone, Copy, Debug)]
enum Fill {
    /// Any codes; scales of ordinary size.
    Random,
    /// All bytes zero.
    Zero,
    /// Codes and sub-scales at their largest (all bits set; as a signed byte: -1), scales 65504.
    Ones,
    /// Every byte -128 or its like, scales -65504.
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
                (Fill::Ones, _) => 0x7bff,
                (Fill::Lowest, _) => 0xfbff,
                (Fill::Denormal, _) => 1 + (random.next() & 3) as u16,
            };
            block[at..at + 2].copy_from_slice(&scale.to_le_bytes());
        }
    }
    bytes
}

/// Packs in `parts` parts, rounds and multiplies in `parts` ranges; every buffer is a box of its exact size.
fn multiply(
    weight_type: WeightType,
    weight: &Weight,
    source: &[u8],
    x: &[f32],
    n_columns: usize,
    parts: usize,
) -> Box<[f32]> {
    let mut packed = vec![0xaa; weight.packed_bytes()].into_boxed_slice();
    let part = |i: usize, n: usize| n * i / parts..n * (i + 1) / parts;
    for i in 0..parts {
        let groups = part(i, weight.n_groups());
        let rows = groups.start * 16..weight.rows().min(groups.end * 16);
        let bytes = groups.start * weight.group_bytes()..groups.end * weight.group_bytes();
        let source = &source[rows.start * weight.row_bytes()..rows.end * weight.row_bytes()];
        weight.pack(source, &mut packed[bytes]).expect("sizes fit");
    }
    let mut scratch = vec![u32::MAX; weight.scratch_bytes(n_columns) / 4].into_boxed_slice();
    let mut out = vec![f32::NAN; weight.rows() * n_columns].into_boxed_slice();
    // SAFETY: the boxes have the sizes that the functions ask for, and the ranges lie within.
    unsafe {
        for i in 0..parts {
            let items = part(i, weight.quantise_items(n_columns));
            weight.quantise(x.as_ptr(), weight.cols(), n_columns, items, scratch.as_mut_ptr().cast());
        }
        for i in 0..parts {
            let groups = part(i, weight.n_groups());
            weight.product(
                packed.as_ptr(),
                groups,
                scratch.as_ptr().cast(),
                n_columns,
                out.as_mut_ptr(),
                weight.rows(),
            );
        }
    }
    let values = dequantise_packed(weight, &packed);
    let expected = dequantise(weight_type, source);
    assert!(values.iter().zip(&expected).all(|(a, b)| a.to_bits() == b.to_bits()), "looked-up rows");
    out
}

fn dequantise_packed(weight: &Weight, packed: &[u8]) -> Vec<f32> {
    let mut values = vec![f32::NAN; weight.rows() * weight.cols()];
    for (row, values) in values.chunks_exact_mut(weight.cols()).enumerate() {
        weight.unpack_row(packed, row, values).expect("the row exists");
    }
    values
}

/// The product in double precision, and the size of what was summed, by which an error is judged.
fn expected(values: &[f32], x: &[f32], cols: usize, row: usize, column: usize) -> (f64, f64) {
    let w = &values[row * cols..][..cols];
    let x = &x[column * cols..][..cols];
    // Rounding activations to 7 bits costs up to 1/254 of the largest in the block: of the largest in the column, at most.
    let largest = x.iter().fold(0.0, |m: f64, v| m.max(f64::from(v.abs())));
    w.iter().zip(x).fold((0.0, 0.0), |(sum, size), (&w, &x)| {
        (sum + f64::from(w) * f64::from(x), size + f64::from(w.abs()) * largest)
    })
}

#[test]
fn products_are_near_the_oracle() {
    for isa in isas() {
        for weight_type in WeightType::ALL {
            for fill in FILLS {
                for (rows, cols, n_columns, parts) in
                    [(1, 256, 1, 1), (37, 512, 5, 3), (64, 768, 16, 8), (16, 256, 37, 1)]
                {
                    let Some(weight) = Weight::new(weight_type, isa, rows, cols) else { continue };
                    let mut random = Random(rows as u64);
                    let source = weights(weight_type, rows, cols, fill, &mut random);
                    let x: Box<[f32]> = (0..cols * n_columns).map(|_| random.float()).collect();
                    let out = multiply(weight_type, &weight, &source, &x, n_columns, parts);
                    let values = dequantise(weight_type, &source);
                    for (i, &y) in out.iter().enumerate() {
                        let (sum, size) = expected(&values, &x, cols, i % rows, i / rows);
                        let error = (f64::from(y) - sum).abs();
                        assert!(
                            error <= size / 200.0,
                            "{weight_type:?} {isa:?} {fill:?} {rows}x{cols}, {n_columns}: {y} for {sum}"
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn a_column_is_the_same_among_any_number_of_columns() {
    for isa in isas() {
        for weight_type in WeightType::ALL {
            let (rows, cols) = (40, 768);
            let Some(weight) = Weight::new(weight_type, isa, rows, cols) else { continue };
            let mut random = Random(7);
            let source = weights(weight_type, rows, cols, Fill::Random, &mut random);
            let x: Box<[f32]> = (0..cols * 50).map(|_| random.float()).collect();
            let alone: Vec<f32> =
                x.chunks_exact(cols).flat_map(|column| multiply(weight_type, &weight, &source, column, 1, 1)).collect();
            for n_columns in (1..=16).chain([17, 33, 50]) {
                let together =
                    multiply(weight_type, &weight, &source, &x[..cols * n_columns], n_columns, 1 + n_columns % 8);
                let same = together.iter().zip(&alone).all(|(a, b)| a.to_bits() == b.to_bits());
                assert!(same, "{weight_type:?} {isa:?} {n_columns}");
            }
        }
    }
}
