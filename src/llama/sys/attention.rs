//! How long llama.cpp's attention takes.

use llama_cpp_sys_2 as ffi;

use super::{Failure, shim, start};

/// The attention of one layer: heads, cells and types of the memory, threads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct AttentionShape {
    pub(crate) head_size: u32,
    /// A multiple of `n_kv_heads`.
    pub(crate) n_heads: u32,
    pub(crate) n_kv_heads: u32,
    /// Cells that a pass looks at.
    pub(crate) n_cells: u32,
    pub(crate) n_threads: u32,
    pub(crate) type_k: ffi::ggml_type,
    pub(crate) type_v: ffi::ggml_type,
}

/// Milliseconds of the layer for so many rows on the CPU, fused or in steps, where `n_used` of the cells hold something; `None` where it
/// cannot be run.
pub(crate) fn attention_ms(shape: &AttentionShape, n_used: u32, n_rows: u32, is_fused: bool) -> Option<f64> {
    let whole_blocks =
        |kind| super::type_layout(kind).is_some_and(|(n, _)| u64::from(shape.head_size).is_multiple_of(n));
    let divides = shape.n_kv_heads > 0 && shape.n_heads.is_multiple_of(shape.n_kv_heads);
    // ggml ends the process where shapes do not fit.
    if !divides || !whole_blocks(shape.type_k) || !whole_blocks(shape.type_v) || n_rows == 0 || shape.n_cells == 0 {
        return None;
    }
    start();
    let attention = shim::aded_attention {
        head_size: i32::try_from(shape.head_size).ok()?,
        n_heads: i32::try_from(shape.n_heads).ok()?,
        n_kv_heads: i32::try_from(shape.n_kv_heads).ok()?,
        n_cells: i32::try_from(shape.n_cells).ok()?,
        n_used: i32::try_from(n_used).ok()?,
        n_threads: i32::try_from(shape.n_threads).ok()?,
        type_k: shape.type_k,
        type_v: shape.type_v,
    };
    let n_rows = i32::try_from(n_rows).ok()?;
    let mut failure = Failure::new();
    // SAFETY: both pointers live for the call, and the shapes are ones that ggml takes.
    let ms = unsafe { shim::aded_attention_ms(&attention, n_rows, is_fused, &mut failure.0) };
    (ms >= 0.0).then_some(ms)
}
