//! Which attention a context gets where the user leaves it open: llama.cpp's fused one or its several steps.
//!
//! With our kernels the fused one is theirs, and faster. llama.cpp's own on a CPU may be faster or several times slower than the steps,
//! by processor, context and rows, so one layer of the model's shape is timed both ways. A text is short before it is long, and the
//! fused one passes over cells that hold nothing: the steps must win at both lengths, or short answers would be slower than llama.cpp's.
//! The choice is kept for the process: two contexts of a kind must not differ by chance.

use std::sync::{Mutex, PoisonError};

use tracing::debug;

use super::context_params::{ContextParams, FlashAttention, KvType};
use super::kernels::has_attention;
use super::model::Model;
use super::sys::{self, AttentionShape};
use crate::kernels::attention::CellType;

/// Cells that passes of the trial look at and how many of them are used, if the context has so many. llama.cpp looks at whole blocks of
/// 256.
const FILLS: [(u32, u32); 2] = [(256, 128), (1024, 896)];

/// Rows of the passes that are timed: a plain one, and one with a short draft.
const ROWS: [u32; 2] = [1, 4];

/// Fused attention reads prompts faster and needs less memory, so the steps must be this much faster.
const LEAST_GAIN: f64 = 1.1;

/// The choices of this process.
static CHOSEN: Mutex<Vec<(AttentionShape, Option<bool>)>> = Mutex::new(Vec::new());

/// True for fused, false for steps, `None` for whatever llama.cpp prefers.
pub(super) fn choose(model: &Model, params: &ContextParams) -> Option<bool> {
    match params.flash_attention {
        FlashAttention::On => return Some(true),
        FlashAttention::Off => return Some(false),
        FlashAttention::Auto => {}
    }
    let shape = shape(model, params)?;
    let is_half = params.type_k == KvType::F16 && params.type_v == KvType::F16;
    if has_attention() && is_half && CellType::F16.takes_heads(shape.head_size as usize) {
        return None;
    }
    let mut chosen = CHOSEN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, choice)) = chosen.iter().find(|(known, _)| *known == shape) {
        return *choice;
    }
    // Twice, since a busy moment may spoil one trial.
    let fills = FILLS.iter().chain(&FILLS).filter(|(n_cells, _)| *n_cells <= shape.n_cells);
    let mut trials = fills.map(|&(n_cells, n_used)| steps_win(&AttentionShape { n_cells, ..shape }, n_used));
    let choice = trials.all(|wins| wins).then_some(false);
    chosen.push((shape, choice));
    choice
}

fn steps_win(shape: &AttentionShape, n_used: u32) -> bool {
    let ms = |is_fused| ROWS.iter().map(|&rows| sys::attention_ms(shape, n_used, rows, is_fused)).sum::<Option<f64>>();
    let (Some(fused), Some(steps)) = (ms(true), ms(false)) else { return false };
    debug!("attention over {} cells, {n_used} used: {fused:.3} ms fused, {steps:.3} ms in steps", shape.n_cells);
    steps * LEAST_GAIN < fused
}

/// The attention of one layer; `None` where there is nothing to choose: on a device, with values that only the fused one reads, with heads
/// of several sizes, without attention.
fn shape(model: &Model, params: &ContextParams) -> Option<AttentionShape> {
    if sys::has_gpu() || params.type_v.layout().0 > 1 {
        return None;
    }
    let (head_size, n_heads, n_kv_heads) = model.attention_heads()?;
    let n_ctx = if params.n_ctx == 0 { model.n_ctx_train() } else { params.n_ctx };
    // llama.cpp rounds a context up to whole blocks.
    let [(block, _), (most, _)] = FILLS;
    let n_cells = n_ctx.clamp(block, most).next_multiple_of(block);
    Some(AttentionShape {
        head_size,
        n_heads,
        n_kv_heads,
        n_cells,
        n_threads: params.n_threads,
        type_k: params.type_k.0,
        type_v: params.type_v.0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_are_timed_and_shapes_that_ggml_does_not_take_are_refused() {
        let shape = AttentionShape {
            head_size: 64,
            n_heads: 9,
            n_kv_heads: 3,
            n_cells: 512,
            n_threads: 2,
            type_k: KvType::F16.0,
            type_v: KvType::F16.0,
        };
        for (rows, is_fused) in [(1, true), (1, false), (4, true), (4, false)] {
            let ms = sys::attention_ms(&shape, 300, rows, is_fused).expect("an ordinary shape");
            assert!(ms > 0.0 && ms < 10_000.0, "{ms} ms for {rows} rows");
        }
        let q8_0: KvType = "q8_0".parse().expect("known");
        let refused = [
            AttentionShape { n_kv_heads: 2, ..shape },
            AttentionShape { n_kv_heads: 0, ..shape },
            AttentionShape { n_cells: 0, ..shape },
            AttentionShape { head_size: 80, type_k: q8_0.0, ..shape },
        ];
        for shape in refused {
            assert_eq!(sys::attention_ms(&shape, 1, 1, true), None, "{shape:?}");
        }
    }
}
