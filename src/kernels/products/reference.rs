//! The oracle: ggml's blocks read, and activations rounded, the slow way, from the facts of ggml-common.h and ggml-quants.c.

use super::WeightType;
use super::activations::Format;
use crate::kernels::half::{bf16_to_f32, f16_to_f32, f32_to_bf16, f32_to_f16};

/// Elements and bytes of a block of the file.
pub(super) fn block(weight_type: WeightType) -> (usize, usize) {
    match weight_type {
        WeightType::F16 | WeightType::BF16 => (16, 32),
        WeightType::Q4_0 => (32, 18),
        WeightType::Q4_1 => (32, 20),
        WeightType::Q5_0 => (32, 22),
        WeightType::Q5_1 => (32, 24),
        WeightType::Q8_0 => (32, 34),
        WeightType::Q4_K => (256, 144),
        WeightType::Q5_K => (256, 176),
        WeightType::Q6_K => (256, 210),
    }
}

fn half(bytes: &[u8], at: usize) -> f32 {
    f16_to_f32(u16::from_le_bytes([bytes[at], bytes[at + 1]]))
}

fn bit(bytes: &[u8], index: usize) -> u8 {
    bytes[index / 8] >> (index % 8) & 1
}

/// Element `i` of a block.
pub(super) fn element(weight_type: WeightType, b: &[u8], i: usize) -> f32 {
    // The codes of a block of 32 in halves of bytes: the first sixteen low, the rest high.
    let nibble = |at: usize| i32::from(b[at + i % 16] >> (i / 16 * 4) & 15);
    match weight_type {
        WeightType::F16 => half(b, 2 * i),
        WeightType::BF16 => bf16_to_f32(u16::from_le_bytes([b[2 * i], b[2 * i + 1]])),
        WeightType::Q4_0 => (nibble(2) - 8) as f32 * half(b, 0),
        WeightType::Q4_1 => nibble(4) as f32 * half(b, 0) + half(b, 2),
        WeightType::Q5_0 => (nibble(6) + 16 * i32::from(bit(&b[2..6], i)) - 16) as f32 * half(b, 0),
        WeightType::Q5_1 => (nibble(8) + 16 * i32::from(bit(&b[4..8], i))) as f32 * half(b, 0) + half(b, 2),
        WeightType::Q8_0 => f32::from(b[2 + i] as i8) * half(b, 0),
        WeightType::Q4_K | WeightType::Q5_K => {
            let (scale, minimum) = scale_and_minimum(&b[4..16], i / 32);
            let (codes, fifth) = if weight_type == WeightType::Q4_K {
                (&b[16..], 0)
            } else {
                (&b[48..], b[16 + i % 32] >> (i / 32) & 1)
            };
            let code = (codes[i / 64 * 32 + i % 32] >> (i / 32 % 2 * 4) & 15) + 16 * fifth;
            (half(b, 0) * f32::from(scale)) * f32::from(code) - half(b, 2) * f32::from(minimum)
        }
        WeightType::Q6_K => {
            let (part, within) = (i / 128, i % 128);
            let low = b[part * 64 + within % 64] >> (within / 64 * 4) & 15;
            let high = b[128 + part * 32 + within % 32] >> (within / 32 * 2) & 3;
            let code = i32::from(low | high << 4) - 32;
            half(b, 208) * f32::from(b[192 + i / 16] as i8) * code as f32
        }
    }
}

/// The six bits each of scale and minimum number `j`, of eight, in the twelve bytes of Q4_K and Q5_K.
fn scale_and_minimum(b: &[u8], j: usize) -> (u8, u8) {
    if j < 4 {
        (b[j] & 63, b[j + 4] & 63)
    } else {
        (b[j + 4] & 15 | b[j - 4] >> 6 << 4, b[j + 4] >> 4 | b[j] >> 6 << 4)
    }
}

/// A matrix' elements, row after row.
pub(super) fn dequantise(weight_type: WeightType, bytes: &[u8]) -> Vec<f32> {
    let (cols, size) = block(weight_type);
    bytes.chunks_exact(size).flat_map(|b| (0..cols).map(move |i| element(weight_type, b, i))).collect()
}

/// The words of a unit of activations.
pub(super) fn rounded(format: Format, values: &[f32]) -> Vec<u32> {
    let through_f16 = |value: f32| f16_to_f32(f32_to_f16(value)).to_bits();
    let most = values.iter().fold(0.0, |most: f32, v| most.max(v.abs()));
    // The value of largest magnitude, the first of equals, becomes -127 for K types; elsewhere the magnitude becomes 127.
    let signed = values.iter().copied().find(|v| v.abs() == most).unwrap_or(0.0);
    let factor = match format {
        _ if most == 0.0 => 0.0,
        Format::Q8_0 { .. } | Format::Q8_1 => 127.0 / most,
        _ => -127.0 / signed,
    };
    // A block of magnitudes below 127 / f32::MAX overflows; the scale, rounded to zero, makes up for it.
    let byte = |v: f32| if v.is_finite() { v.round_ties_even() as i32 } else { -128 };
    let bytes: Vec<i32> = values.iter().map(|v| byte(v * factor)).collect();
    let words = bytes.chunks(4).map(|w| u32::from_le_bytes([w[0] as u8, w[1] as u8, w[2] as u8, w[3] as u8]));
    let sums = |n: usize| bytes.chunks(n).map(|run| run.iter().sum::<i32>()).collect::<Vec<_>>();
    let k_scale = if most == 0.0 { 0 } else { (1.0 / factor).to_bits() };
    match format {
        Format::Q8_0 { offset } => words.chain([through_f16(most / 127.0), (-offset * sums(32)[0]) as u32]).collect(),
        Format::Q8_1 => {
            words.chain([through_f16(most / 127.0), through_f16(most / 127.0 * sums(32)[0] as f32)]).collect()
        }
        Format::Q8KPairs => {
            let pairs = sums(32);
            let pairs = pairs.chunks(2).map(|p| u32::from(p[0] as u16) | u32::from(p[1] as u16) << 16);
            words.chain([k_scale]).chain(pairs).collect()
        }
        Format::Q8KOffset { offset } => {
            words.chain([k_scale]).chain(sums(16).into_iter().map(|s| (-offset * s) as u32)).collect()
        }
        Format::F16 => values.iter().map(|&v| through_f16(v)).collect(),
        Format::Bf16 => values.iter().map(|&v| bf16_to_f32(f32_to_bf16(v)).to_bits()).collect(),
    }
}

/// The values that the words of `rounded` stand for.
pub(super) fn unrounded(format: Format, values: &[f32]) -> Vec<f32> {
    let cols = format.unit_cols();
    let unit = |unit: &[f32]| {
        let words = rounded(format, unit);
        if matches!(format, Format::F16 | Format::Bf16) {
            return words.into_iter().map(f32::from_bits).collect::<Vec<_>>();
        }
        let scale = f32::from_bits(words[cols / 4]);
        words[..cols / 4].iter().flat_map(|w| w.to_le_bytes()).map(|b| f32::from(b as i8) * scale).collect()
    };
    values.chunks_exact(cols).flat_map(unit).collect()
}
