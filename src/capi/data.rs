//! The plain data that crosses the boundary: constants, structures, and the way between them and the core's own types.

use std::ptr;

use super::boundary::{Answer, Failure, Versioned};
use crate::config::{Config, DraftConfig, DraftMode, MAX_DRAFT_ROWS, RepresentativeConfig, SearchKind};
use crate::leaf_ids::SeqOp;
use crate::model::{DraftShape, Limits};
use crate::sequence::Finish;
use crate::stats::Stats;
use crate::token::Token;

/// The version of this header: the library's is that of aded_version().
pub const ADED_VERSION_MAJOR: u32 = 0;
pub const ADED_VERSION_MINOR: u32 = 1;
pub const ADED_VERSION_PATCH: u32 = 0;

/// Draft whenever the measured times say that it pays.
pub const ADED_MODE_AUTO: i32 = 0;
/// Draft in every round for which anything is known.
pub const ADED_MODE_ON: i32 = 1;
/// Never draft: plain decoding through the same calls.
pub const ADED_MODE_OFF: i32 = 2;

/// The memory keeps the branches of a tree apart by sequence ids (llama.cpp with a unified KV cache).
pub const ADED_SHAPE_TREE: i32 = 0;
/// The memory can drop a tail and no more: drafts are chains.
pub const ADED_SHAPE_CHAIN: i32 = 1;
/// The memory cannot drop anything: no drafts.
pub const ADED_SHAPE_NOTHING: i32 = 2;

/// Search in order of survival probability: exact for a budget of rows.
pub const ADED_SEARCH_BEST_FIRST: i32 = 0;
/// Monte Carlo tree search over the same probabilities.
pub const ADED_SEARCH_MCTS: i32 = 1;
/// The published algorithm as it is, for comparisons.
pub const ADED_SEARCH_REFERENCE: i32 = 2;

/// The sequence goes on.
pub const ADED_FINISH_NONE: i32 = 0;
/// An end token was confirmed, or the caller stopped it.
pub const ADED_FINISH_STOP: i32 = 1;
/// As many tokens as were asked for, or the end of the context.
pub const ADED_FINISH_LENGTH: i32 = 2;
/// Cancelled.
pub const ADED_FINISH_CANCELLED: i32 = 3;

/// Cells of `from` at positions `begin` to `end` - 1 belong to `to` as well.
pub const ADED_OP_COPY: i32 = 0;
/// Cells of `from` at positions from `begin` on no longer belong to it. `to` and `end` are -1.
pub const ADED_OP_REMOVE: i32 = 1;

/// What a drafter is made with. Fill it with aded_drafter_default_params(), then set n_vocab and n_ctx at least.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct aded_drafter_params {
    /// sizeof(aded_drafter_params) of the caller's header.
    pub size: usize,
    /// Length of a logits row. Must be set.
    pub n_vocab: u32,
    /// Tokens that one slot's sequence can hold. Must be set.
    pub n_ctx: u32,
    /// Cells of the memory, over all slots; 0 = n_ctx * n_slots. Smaller where slots share a memory that is not enough for all.
    pub n_cells: u32,
    /// Sequences that can be decoded side by side. Default 1.
    pub n_slots: u32,
    /// Rows that one decode call can take, prompts included. Default 512.
    pub max_rows: u32,
    /// Of them, rows with logits: roots and draft nodes of all slots. Default 64, which is also the most that is ever drafted.
    pub max_logits_rows: u32,
    /// Leaves of a slot's tree; the memory needs n_slots * max_leaves sequence ids. 1 where shape is not ADED_SHAPE_TREE. Default 16.
    pub max_leaves: u32,
    /// ADED_SHAPE_... Default ADED_SHAPE_TREE.
    pub shape: i32,
    /// ADED_MODE_... Default ADED_MODE_AUTO.
    pub mode: i32,
    /// ADED_SEARCH_... Default ADED_SEARCH_BEST_FIRST.
    pub search: i32,
    /// Nodes of each draft, 1 to 63; 0 = by the measured times, round by round. Default 0.
    pub budget: u32,
    /// Deepest node, 1 to 63. Default 63.
    pub max_depth: u32,
    /// Start of the random numbers of ADED_SEARCH_REFERENCE. Default 0.
    pub seed: u64,
    /// Contexts of counted successors, 64 bytes each. Default 65536.
    pub overlay_contexts: usize,
    /// Contexts of remembered logits rows, 64 bytes each. Default 131072.
    pub recall_contexts: usize,
    /// Tokens of earlier sequences that can be copied from, 16 bytes each. Default 131072.
    pub log_tokens: usize,
}

/// A prompt, or a text that is to go on.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct aded_prompt {
    /// sizeof(aded_prompt) of the caller's header.
    pub size: usize,
    /// The tokens, read during the call. At least one.
    pub tokens: *const i32,
    /// Their number, at most n_ctx of the drafter.
    pub n_tokens: usize,
    /// So many of them have cells in the memory of the slot's main sequence, which holds nothing else. At most n_tokens - 1: the last
    /// token is decoded by the first round. Default 0: rounds read the prompt, in as many calls as it takes.
    pub n_held: usize,
    /// So many of them were learnt before, by this drafter, as the beginning of an earlier sequence. Default 0.
    pub n_learnt: usize,
    /// Most tokens to confirm. Default SIZE_MAX: until the slot is full.
    pub n_max: usize,
    /// Tokens that end the sequence; they are confirmed. Read during the call. Default none.
    pub end_tokens: *const i32,
    /// Their number.
    pub n_end_tokens: usize,
    /// 1 if the host always takes the largest logit, else 0. Statistics are kept apart for both. Default 1.
    pub greedy: i32,
}

/// An order to the memory, in the host's sequence ids: main sequences are 0 to n_slots - 1, leaves the ids after them.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct aded_op {
    /// ADED_OP_COPY (llama_memory_seq_cp) or ADED_OP_REMOVE (llama_memory_seq_rm).
    pub kind: i32,
    /// The sequence whose cells they are.
    pub from: i32,
    /// The sequence that gets them as well; -1 for a removal.
    pub to: i32,
    /// First position.
    pub begin: i32,
    /// One past the last position; -1 for a removal: to the end.
    pub end: i32,
}

/// The host's own measurement of a round.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct aded_times {
    /// sizeof(aded_times) of the caller's header.
    pub size: usize,
    /// Milliseconds from draft to learn.
    pub round_ms: f64,
    /// Of them, the sampling.
    pub sample_ms: f64,
}

/// What happened to a sequence so far.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct aded_stats {
    /// sizeof(aded_stats) of the caller's header.
    pub size: usize,
    /// Prompt tokens that rounds read.
    pub n_prompt: u64,
    /// Rounds after the prompt.
    pub n_rounds: u64,
    /// Of them, rounds with a draft.
    pub n_draft_rounds: u64,
    /// Tokens confirmed by these rounds.
    pub n_tokens: u64,
    /// Nodes drafted.
    pub n_drafted: u64,
    /// Nodes accepted.
    pub n_accepted: u64,
    /// Milliseconds of the prompt's rounds.
    pub prompt_ms: f64,
    /// Milliseconds of the rounds after the prompt.
    pub round_ms: f64,
    /// Of them, drafting.
    pub draft_ms: f64,
    /// Of them, decoding.
    pub decode_ms: f64,
    /// Of them, sampling.
    pub sample_ms: f64,
    /// Of them, learning.
    pub learn_ms: f64,
}

macro_rules! versioned {
    ($type:ty, $default:expr) => {
        // SAFETY: `repr(C)`, numbers and raw pointers alone, and the first field is a size_t.
        unsafe impl Versioned for $type {
            // Grown structures keep here what they had in their first release.
            const FIRST_SIZE: usize = size_of::<$type>();
            fn defaults() -> Self {
                $default
            }
        }
    };
}

#[cfg(feature = "llama")]
pub(super) use versioned;

versioned!(aded_drafter_params, {
    let Config { draft, representative } = Config::default();
    Self {
        size: size_of::<Self>(),
        n_vocab: 0,
        n_ctx: 0,
        n_cells: 0,
        n_slots: 1,
        max_rows: 512,
        max_logits_rows: MAX_DRAFT_ROWS as u32,
        max_leaves: 16,
        shape: ADED_SHAPE_TREE,
        mode: ADED_MODE_AUTO,
        search: ADED_SEARCH_BEST_FIRST,
        budget: draft.budget.map_or(0, u32::from),
        max_depth: draft.max_depth.into(),
        seed: draft.seed,
        overlay_contexts: representative.overlay_contexts,
        recall_contexts: representative.recall_contexts,
        log_tokens: representative.log_tokens,
    }
});
versioned!(
    aded_prompt,
    Self {
        size: size_of::<Self>(),
        tokens: ptr::null(),
        n_tokens: 0,
        n_held: 0,
        n_learnt: 0,
        n_max: usize::MAX,
        end_tokens: ptr::null(),
        n_end_tokens: 0,
        greedy: 1,
    }
);
versioned!(aded_times, Self { size: size_of::<Self>(), round_ms: 0.0, sample_ms: 0.0 });
versioned!(aded_stats, stats_of(&Stats::default()));

pub(super) fn settings(params: &aded_drafter_params) -> Answer<(Config, Limits, u32)> {
    let small = |value: u32, name: &str| {
        u16::try_from(value).map_err(|_| Failure::invalid(format!("{name} is {value}; give at most {}", u16::MAX)))
    };
    let shape = match params.shape {
        ADED_SHAPE_TREE => DraftShape::Tree,
        ADED_SHAPE_CHAIN => DraftShape::Chain,
        ADED_SHAPE_NOTHING => DraftShape::Nothing,
        other => return Err(unknown("shape", other)),
    };
    let config = Config {
        draft: DraftConfig {
            mode: mode_of(params.mode)?,
            search: search_of(params.search)?,
            budget: (params.budget != 0).then(|| small(params.budget, "budget")).transpose()?,
            max_depth: small(params.max_depth, "max_depth")?,
            seed: params.seed,
            ..DraftConfig::default()
        },
        representative: RepresentativeConfig {
            overlay_contexts: params.overlay_contexts,
            recall_contexts: params.recall_contexts,
            log_tokens: params.log_tokens,
            ..RepresentativeConfig::default()
        },
    };
    let limits = Limits {
        n_vocab: params.n_vocab,
        n_ctx: params.n_ctx,
        max_rows: params.max_rows,
        max_logits_rows: params.max_logits_rows.min(params.max_rows),
        max_leaves: small(params.max_leaves, "max_leaves")?,
        n_slots: params.n_slots,
        shape,
    };
    let n_cells = match params.n_cells {
        0 => params.n_ctx.saturating_mul(params.n_slots),
        n_cells => n_cells,
    };
    Ok((config, limits, n_cells))
}

pub(super) fn mode_of(mode: i32) -> Answer<DraftMode> {
    Ok(match mode {
        ADED_MODE_AUTO => DraftMode::Auto,
        ADED_MODE_ON => DraftMode::On,
        ADED_MODE_OFF => DraftMode::Off,
        other => return Err(unknown("mode", other)),
    })
}

pub(super) fn search_of(search: i32) -> Answer<SearchKind> {
    Ok(match search {
        ADED_SEARCH_BEST_FIRST => SearchKind::BestFirst,
        ADED_SEARCH_MCTS => SearchKind::Mcts,
        ADED_SEARCH_REFERENCE => SearchKind::Reference,
        other => return Err(unknown("search", other)),
    })
}

pub(super) fn unknown(name: &str, value: i32) -> Failure {
    Failure::invalid(format!("{name} is {value}, which is none of the constants for it"))
}

pub(super) fn flag(value: i32, name: &str) -> Answer<bool> {
    match value {
        0 => Ok(false),
        1 => Ok(true),
        other => Err(Failure::invalid(format!("{name} is {other}; give 0 or 1"))),
    }
}

/// The caller's numbers as tokens of the vocabulary.
pub(super) fn tokens_of(numbers: &[i32], n_vocab: u32, name: &str) -> Answer<Vec<Token>> {
    let token = |&number: &i32| match u32::try_from(number) {
        Ok(number) if number < n_vocab => Ok(Token(number)),
        _ => Err(Failure::invalid(format!("{name} holds token {number}, and the vocabulary has {n_vocab}"))),
    };
    numbers.iter().map(token).collect()
}

pub(super) fn finish_of(finish: Option<Finish>) -> i32 {
    match finish {
        None => ADED_FINISH_NONE,
        Some(Finish::Stop) => ADED_FINISH_STOP,
        Some(Finish::Length) => ADED_FINISH_LENGTH,
        Some(Finish::Cancelled) => ADED_FINISH_CANCELLED,
    }
}

pub(super) fn stats_of(stats: &Stats) -> aded_stats {
    let ms = |ns: u64| ns as f64 * 1e-6;
    aded_stats {
        size: size_of::<aded_stats>(),
        n_prompt: stats.n_prompt,
        n_rounds: stats.n_rounds,
        n_draft_rounds: stats.n_draft_rounds,
        n_tokens: stats.n_tokens,
        n_drafted: stats.n_drafted,
        n_accepted: stats.n_accepted,
        prompt_ms: ms(stats.prompt_ns),
        round_ms: ms(stats.round_ns),
        draft_ms: ms(stats.draft_ns),
        decode_ms: ms(stats.decode_ns),
        sample_ms: ms(stats.sample_ns),
        learn_ms: ms(stats.learn_ns),
    }
}

pub(super) fn op_of(op: SeqOp) -> aded_op {
    match op {
        SeqOp::Copy { from, to, begin, end } => {
            aded_op { kind: ADED_OP_COPY, from: from as i32, to: to as i32, begin: begin as i32, end: end as i32 }
        }
        SeqOp::Remove { id, begin } => {
            aded_op { kind: ADED_OP_REMOVE, from: id as i32, to: -1, begin: begin as i32, end: -1 }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_has_the_version_of_the_package() {
        let version = format!("{ADED_VERSION_MAJOR}.{ADED_VERSION_MINOR}.{ADED_VERSION_PATCH}");
        assert_eq!(version, env!("CARGO_PKG_VERSION"));
    }
}
