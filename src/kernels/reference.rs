//! The oracle: ggml's blocks read the slow way, from the facts of ggml-common.h, and products in double precision.

use super::WeightType;
use super::half::{bf16_to_f32, f16_to_f32};

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
