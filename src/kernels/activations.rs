//! Activations on their way into a product: rounded as llama.cpp's own kernel for the weight's type rounds them, and laid
//! out so that a product reads them from front to back.
//!
//! Columns stand in tiles of [`TILE_COLUMNS`] (the last tile is as wide as there are columns left), a tile in units of
//! consecutive elements, a unit in words of 4 bytes, and a word for all columns of the tile side by side.
#![allow(unsafe_code)]

use super::half::{bf16_to_f32, f16_to_f32, f32_to_bf16, f32_to_f16};
use super::isa::Isa;

/// Columns side by side in a full tile.
pub(super) const TILE_COLUMNS: usize = 16;

/// How a weight's type wants its activations.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Format {
    /// Blocks of 32 bytes as ggml's Q8_0; then the scale, and the sum of the bytes times `-offset`.
    Q8_0 { offset: i32 },
    /// Blocks of 32 bytes as ggml's Q8_1; then the scale, and the scale times the sum of the bytes.
    Q8_1,
    /// Blocks of 256 bytes as ggml's Q8_K; then the scale, and four words, each the sums of two runs of 32 bytes in 16 bits.
    Q8KPairs,
    /// Blocks of 256 bytes as ggml's Q8_K; then the scale, and sixteen words, each the sum of 16 bytes times `-offset`.
    Q8KOffset { offset: i32 },
    /// Floats rounded to half precision.
    F16,
    /// Floats rounded to bfloat16.
    Bf16,
}

impl Format {
    /// Elements of a unit.
    pub(super) const fn unit_cols(self) -> usize {
        match self {
            Self::Q8_0 { .. } | Self::Q8_1 => 32,
            Self::Q8KPairs | Self::Q8KOffset { .. } => 256,
            Self::F16 | Self::Bf16 => 16,
        }
    }

    /// Words of 4 bytes of a unit, for one column.
    pub(super) const fn unit_words(self) -> usize {
        match self {
            Self::Q8_0 { .. } | Self::Q8_1 => 8 + 2,
            Self::Q8KPairs => 64 + 1 + 4,
            Self::Q8KOffset { .. } => 64 + 1 + 16,
            Self::F16 | Self::Bf16 => 16,
        }
    }
}

/// Where one column's words of one unit go.
struct Place {
    first: *mut u32,
    /// The tile's width.
    step: usize,
}

impl Place {
    #[inline(always)]
    fn put(&self, word: usize, value: u32) {
        // SAFETY: `words` promises that the unit's words lie in the scratch; writing unaligned asks nothing of its address.
        unsafe { self.first.add(word * self.step).write_unaligned(value) }
    }
}

/// Rounds some (column, unit) items of a matrix into `scratch`. Item `i` is unit `i % n_units` of column `i / n_units`.
///
/// Units that begin at or after `cols` are written as zeros.
///
/// # Safety
/// The processor has `isa`. `x` holds `cols` floats for each column, columns `x_stride` floats apart. `scratch` is valid
/// for `n_columns * n_units * unit_words` words, and no other thread writes the same items.
#[allow(clippy::too_many_arguments)]
pub(super) unsafe fn quantise(
    isa: Isa,
    format: Format,
    x: *const f32,
    x_stride: usize,
    cols: usize,
    n_columns: usize,
    n_units: usize,
    items: std::ops::Range<usize>,
    scratch: *mut u8,
) {
    for item in items {
        let (column, unit) = (item / n_units, item % n_units);
        let tile = column / TILE_COLUMNS;
        let width = TILE_COLUMNS.min(n_columns - tile * TILE_COLUMNS);
        let words = format.unit_words();
        let begin = (tile * TILE_COLUMNS * n_units + unit * width) * words + column % TILE_COLUMNS;
        let from = unit * format.unit_cols();
        // SAFETY: the item's words lie inside the scratch, as the caller promises.
        let place = Place { first: unsafe { scratch.cast::<u32>().add(begin) }, step: width };
        if from >= cols {
            (0..words).for_each(|word| place.put(word, 0));
            continue;
        }
        // SAFETY: the column holds `cols` floats, a multiple of the unit, and `from` is below that.
        let values = unsafe { std::slice::from_raw_parts(x.add(column * x_stride + from), format.unit_cols()) };
        // SAFETY: the caller promises the instruction set.
        unsafe {
            match isa {
                Isa::Avx512Vnni => round_avx512(format, values, &place),
                Isa::AvxVnni | Isa::Avx2 => round_avx2(format, values, &place),
            }
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
fn round_avx512(format: Format, values: &[f32], place: &Place) {
    round(format, values, place);
}

#[target_feature(enable = "avx2,fma,f16c")]
fn round_avx2(format: Format, values: &[f32], place: &Place) {
    round(format, values, place);
}

#[inline(always)]
fn round(format: Format, values: &[f32], place: &Place) {
    match format {
        Format::Q8_0 { offset } => {
            let (bytes, scale) = q8(values.try_into().unwrap_or(&[0.0; 32]));
            put_bytes(place, &bytes);
            place.put(8, f16_to_f32(f32_to_f16(scale)).to_bits());
            place.put(9, (-offset * sum(&bytes)) as u32);
        }
        Format::Q8_1 => {
            let (bytes, scale) = q8(values.try_into().unwrap_or(&[0.0; 32]));
            put_bytes(place, &bytes);
            place.put(8, f16_to_f32(f32_to_f16(scale)).to_bits());
            place.put(9, f16_to_f32(f32_to_f16(scale * sum(&bytes) as f32)).to_bits());
        }
        Format::Q8KPairs | Format::Q8KOffset { .. } => {
            let (bytes, scale) = q8_k(values.try_into().unwrap_or(&[0.0; 256]));
            put_bytes(place, &bytes);
            place.put(64, scale.to_bits());
            if let Format::Q8KOffset { offset } = format {
                for (word, run) in bytes.chunks_exact(16).enumerate() {
                    place.put(65 + word, (-offset * sum(run)) as u32);
                }
            } else {
                for (word, run) in bytes.chunks_exact(64).enumerate() {
                    let (low, high) = (sum(&run[..32]) as u16, sum(&run[32..]) as u16);
                    place.put(65 + word, u32::from(low) | u32::from(high) << 16);
                }
            }
        }
        Format::F16 => {
            for (word, &value) in values.iter().enumerate() {
                place.put(word, f16_to_f32(f32_to_f16(value)).to_bits());
            }
        }
        Format::Bf16 => {
            for (word, &value) in values.iter().enumerate() {
                place.put(word, bf16_to_f32(f32_to_bf16(value)).to_bits());
            }
        }
    }
}

#[inline(always)]
fn put_bytes(place: &Place, bytes: &[i8]) {
    for (word, b) in bytes.chunks_exact(4).enumerate() {
        place.put(word, u32::from_le_bytes([b[0] as u8, b[1] as u8, b[2] as u8, b[3] as u8]));
    }
}

#[inline(always)]
fn sum(bytes: &[i8]) -> i32 {
    bytes.iter().map(|&b| i32::from(b)).sum()
}

/// The largest magnitude. Bits of magnitudes are ordered as the magnitudes are, and integers are compared in vectors.
#[inline(always)]
fn largest(values: &[f32]) -> f32 {
    f32::from_bits(values.iter().map(|v| v.to_bits() & 0x7fff_ffff).max().unwrap_or(0))
}

/// To the nearest integer, ties to even, as the hardware's conversion.
#[inline(always)]
fn nearest(value: f32) -> i8 {
    value.round_ties_even() as i32 as i8
}

/// ggml's Q8_0 and Q8_1: the largest magnitude becomes 127.
#[inline(always)]
fn q8(values: &[f32; 32]) -> ([i8; 32], f32) {
    let most = largest(values);
    let factor = if most == 0.0 { 0.0 } else { 127.0 / most };
    let mut bytes = [0; 32];
    for (byte, &value) in bytes.iter_mut().zip(values) {
        *byte = nearest(value * factor);
    }
    (bytes, most / 127.0)
}

/// ggml's Q8_K: the value of largest magnitude, the first of equals, becomes -127.
#[inline(always)]
fn q8_k(values: &[f32; 256]) -> ([i8; 256], f32) {
    let most = largest(values);
    let mut bytes = [0; 256];
    if most == 0.0 {
        return (bytes, 0.0);
    }
    let signed = values.iter().copied().find(|v| v.abs() == most).unwrap_or(most);
    let factor = -127.0 / signed;
    for (byte, &value) in bytes.iter_mut().zip(values) {
        *byte = nearest(value * factor);
    }
    (bytes, 1.0 / factor)
}
