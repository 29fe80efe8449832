//! One sequence: its text, what of it the target has decoded, and the memory that its rounds reuse.

use crate::batch::DraftBatch;
use crate::config::MAX_DRAFT_ROWS;
use crate::draft::DraftTree;
use crate::representative::copy::CopyIndex;
use crate::representative::recall::TopRow;
use crate::stats::Stats;
use crate::token::{Slot, Token};
use crate::verify::Walk;

/// Why a generation ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(rename_all = "snake_case"))]
pub enum Finish {
    /// The model ended its answer, or a stop string was found.
    Stop,
    /// The limit on tokens, or the end of the context, was reached.
    Length,
    /// The caller asked to stop.
    Cancelled,
}

/// What to generate.
#[derive(Clone, Debug, Default)]
pub struct Request<'a> {
    /// The prompt; at least one token.
    pub prompt: &'a [Token],
    /// Most tokens to emit; the end of the context ends the generation as well.
    pub n_max: usize,
    /// Tokens after which the generation ends; they are emitted.
    pub end_tokens: &'a [Token],
}

/// A prompt and its continuation so far.
#[derive(Debug)]
pub struct Sequence {
    pub(crate) slot: Slot,
    /// Prompt and output. The last token is sampled but not yet decoded.
    pub(crate) text: CopyIndex,
    pub(crate) n_prompt: usize,
    /// Tokens whose cells the target holds.
    pub(crate) n_decoded: usize,
    /// Tokens that were learnt before the prompt was started.
    pub(crate) n_learnt: usize,
    /// Tokens that may still be emitted.
    pub(crate) n_left: usize,
    /// Sorted tokens after which the generation ends.
    pub(crate) end_tokens: Vec<Token>,
    pub(crate) finish: Option<Finish>,
    /// The row from which the last token was sampled.
    pub(crate) last_row: TopRow,
    pub(crate) tree: DraftTree,
    pub(crate) walk: Walk,
    /// The context length that the target grants.
    pub(crate) n_ctx: usize,
    /// Tokens of the prompt that stay when a full context is shifted; `None` ends the generation there.
    shift_keeps: Option<usize>,
    /// Tokens whose cells are what reading them anew would give: those after a shift have seen what is gone.
    pub(crate) n_reusable: usize,
    /// Greedy choices between two logits closer than this are made on a row that was computed alone.
    pub(crate) doubt: Option<f32>,
    /// The last token's row was in doubt: the next round drafts nothing.
    pub(crate) wants_plain: bool,
    /// Most nodes of a draft, beside all other limits.
    draft_limit: usize,
    /// What happened so far.
    pub stats: Stats,
}

impl Sequence {
    /// A sequence in `slot`, with room for `n_ctx` tokens.
    pub fn new(slot: Slot, n_ctx: u32) -> Self {
        let n_ctx = n_ctx as usize;
        Self {
            slot,
            // One more than the context holds: the last token is never decoded.
            text: CopyIndex::new(n_ctx + 1 + MAX_DRAFT_ROWS),
            n_prompt: 0,
            n_decoded: 0,
            n_learnt: 0,
            n_left: 0,
            end_tokens: Vec::new(),
            finish: None,
            last_row: TopRow::default(),
            tree: DraftTree::with_capacity(MAX_DRAFT_ROWS),
            walk: Walk::default(),
            n_ctx,
            shift_keeps: None,
            n_reusable: usize::MAX,
            doubt: None,
            wants_plain: false,
            draft_limit: usize::MAX,
            stats: Stats::default(),
        }
    }

    /// What happens at the end of the context: with `Some(n)` the first `n` tokens of the prompt stay, half of the others are forgotten,
    /// and the generation goes on; with `None`, the default, it ends. Only for targets that [can](crate::model::TargetModel::can_shift).
    pub fn set_context_shift(&mut self, n_keep: Option<usize>) {
        self.shift_keeps = n_keep;
    }

    /// Exact greedy decoding: where the two best logits of a row in a draft lie closer than `noise`, the row is computed again without a
    /// draft before it decides. See [`shape_noise`](crate::noise::shape_noise). `None`, the default, trusts every row.
    pub fn set_exact(&mut self, noise: Option<f32>) {
        self.doubt = noise.filter(|&noise| noise > 0.0);
    }

    /// Starts anew with a prompt of which the target's slot holds the first `n_decoded` tokens.
    pub(crate) fn begin(&mut self, request: &Request<'_>, n_decoded: usize) {
        let Request { prompt, n_max, end_tokens } = *request;
        self.text.clear();
        self.text.extend(prompt);
        self.n_prompt = prompt.len();
        self.n_decoded = n_decoded;
        self.n_learnt = n_decoded;
        self.n_left = n_max;
        self.end_tokens.clear();
        self.end_tokens.extend_from_slice(end_tokens);
        self.end_tokens.sort_unstable();
        self.finish = (n_max == 0).then_some(Finish::Length);
        self.n_reusable = usize::MAX;
        self.wants_plain = false;
        self.last_row = TopRow::default();
        self.draft_limit = usize::MAX;
        self.tree.clear();
        self.walk.clear();
        self.stats = Stats { n_prompt_reused: n_decoded as u64, ..Stats::default() };
    }

    /// Drafts of the generation that has begun have at most so many nodes from now on; 0 = plain decoding. The next generation begins
    /// without this limit.
    pub fn set_draft_limit(&mut self, n_nodes: usize) {
        self.draft_limit = n_nodes;
    }

    /// The tokens whose cells a prompt that begins with them may use again.
    pub fn reusable(&self) -> &[Token] {
        &self.tokens()[..self.n_decoded.min(self.n_reusable)]
    }

    /// Tokens at the beginning of a prompt that are [reusable](Self::reusable).
    pub fn n_common(&self, prompt: &[Token]) -> usize {
        prompt.iter().zip(self.reusable()).take_while(|(new, held)| new == held).count()
    }

    /// The slot of the target that holds the sequence.
    pub fn slot(&self) -> Slot {
        self.slot
    }

    /// Prompt and output so far, but for what a context shift has forgotten.
    pub fn tokens(&self) -> &[Token] {
        self.text.tokens()
    }

    /// Tokens emitted by the last round.
    pub fn emitted(&self) -> &[Token] {
        &self.walk.tokens
    }

    /// Why the generation ended, once it has.
    pub fn finish(&self) -> Option<Finish> {
        self.finish
    }

    /// The draft of the last round.
    pub fn draft(&self) -> &DraftTree {
        &self.tree
    }

    /// Tokens that the target holds.
    pub fn n_decoded(&self) -> usize {
        self.n_decoded
    }

    /// Tokens known but not decoded: 1 while generating, more while the prompt is being read.
    pub(crate) fn n_pending(&self) -> usize {
        self.text.tokens().len() - self.n_decoded
    }

    /// True if the next round may draft: the prompt is read to its end, and no row waits to be computed alone.
    pub(crate) fn may_draft(&self) -> bool {
        self.n_pending() == 1 && self.n_decoded >= self.n_prompt && !self.wants_plain
    }

    /// Forgets the draft of a round that was not decoded.
    #[cfg(feature = "capi")]
    pub(crate) fn give_up(&mut self) {
        self.tree.clear();
        self.walk.clear();
    }

    /// Counts the round just done: rows, walk and tree are those of this round.
    pub(crate) fn count(&mut self, batch: &DraftBatch) {
        let (stats, tree, walk) = (&mut self.stats, &self.tree, &self.walk);
        stats.n_rounds += 1;
        stats.n_draft_rounds += u64::from(!tree.is_empty());
        stats.n_tokens += walk.tokens.len() as u64;
        stats.n_drafted += tree.len() as u64;
        stats.n_accepted += walk.n_accepted() as u64;
        stats.rounds_by_accepted[walk.n_accepted().min(MAX_DRAFT_ROWS - 1)] += 1;
        stats.rounds_by_drafted[tree.len().min(MAX_DRAFT_ROWS - 1)] += 1;
        for node in tree.nodes() {
            stats.by_depth[usize::from(tree.depth(node)).min(MAX_DRAFT_ROWS - 1)].drafted += 1;
            stats.by_source[tree.source(node) as usize].drafted += 1;
        }
        for node in walk.rows.iter().filter_map(|&row| batch.node(row)) {
            stats.by_depth[usize::from(tree.depth(node)).min(MAX_DRAFT_ROWS - 1)].accepted += 1;
            stats.by_source[tree.source(node) as usize].accepted += 1;
            let first = tree.children(tree.parent(node)).next();
            stats.n_accepted_aside += u64::from(first != Some(node));
        }
    }

    /// True if the context is full and the generation ends for it.
    pub(crate) fn is_full(&self) -> bool {
        self.shift_keeps.is_none() && self.lacks_room()
    }

    /// True if the last token is one more than the context holds: decoding it needs a cell.
    fn lacks_room(&self) -> bool {
        self.text.tokens().len() > self.n_ctx
    }

    /// Tokens to keep and to discard if the context must be shifted now; as llama.cpp's own programs do it, half of what may go.
    pub(crate) fn wants_shift(&self) -> Option<(usize, usize)> {
        let n_keep = self.shift_keeps.filter(|_| self.lacks_room() && self.finish.is_none())?;
        let n_keep = n_keep.min(self.n_prompt).min(self.n_ctx.saturating_sub(4));
        Some((n_keep, ((self.n_decoded - n_keep) / 2).max(1)))
    }

    /// The target has forgotten the tokens `n_keep..n_keep + n_discard`.
    pub(crate) fn shifted(&mut self, n_keep: usize, n_discard: usize) {
        let tokens = self.text.tokens();
        let left = [&tokens[..n_keep], &tokens[n_keep + n_discard..]].concat();
        self.text.clear();
        self.text.extend(&left);
        self.n_decoded -= n_discard;
        self.n_prompt = self.n_prompt.min(self.n_decoded);
        self.n_reusable = self.n_reusable.min(n_keep);
        self.stats.n_shifts += 1;
    }

    /// Nodes that a draft may have: as many as the context has cells for, beside the root's, within the limit that was set. Each node
    /// takes one while it is verified, accepted or not.
    pub(crate) fn max_nodes(&self) -> usize {
        self.n_ctx.saturating_sub(self.n_decoded + 1).min(self.draft_limit)
    }

    /// Deepest node that could still be of use: a token emitted beyond the limit or the context would be thrown away.
    pub(crate) fn max_depth(&self) -> usize {
        let room = self.n_ctx.saturating_sub(self.text.tokens().len());
        self.n_left.saturating_sub(1).min(room)
    }
}
