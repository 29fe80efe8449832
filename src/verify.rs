//! Verification: keep what the model itself says.
//!
//! From the root down, every visited row is sampled once with the user's sampler; the walk descends to the child that holds the sampled
//! token and ends where there is none. That last sample is the bonus token. Exact for any sampler, with no draft probabilities: the
//! emitted tokens are the samples themselves.

use crate::batch::DraftBatch;
use crate::error::Error;
use crate::token::{RowId, Token};

/// The visited rows of one sequence and what was sampled there. Reused from round to round.
#[derive(Clone, Debug, Default)]
pub struct Walk {
    /// Visited rows: the root and the accepted nodes, in order.
    pub rows: Vec<RowId>,
    /// The token sampled at each visited row; the last one is the bonus, or the token that ended the walk.
    pub tokens: Vec<Token>,
}

impl Walk {
    /// Draft tokens that were accepted: all samples but the last.
    pub fn n_accepted(&self) -> usize {
        self.tokens.len().saturating_sub(1)
    }

    /// Forgets the last round's walk.
    pub fn clear(&mut self) {
        self.rows.clear();
        self.tokens.clear();
    }

    /// Takes the token that was sampled at `row` and gives the row to sample next; none where the walk ends: at a token that no child
    /// of the row holds, after `limit` tokens (at least one), and after a token for which `ends` is true.
    pub fn step(
        &mut self,
        batch: &DraftBatch,
        row: RowId,
        token: Token,
        limit: usize,
        ends: impl FnOnce(Token) -> bool,
    ) -> Option<RowId> {
        self.rows.push(row);
        self.tokens.push(token);
        if self.tokens.len() >= limit.max(1) || ends(token) {
            return None;
        }
        batch.child(row, token)
    }
}

/// Walks from `root`, emitting at most `limit` tokens (at least one), and ends after a token for which `ends` is true.
///
/// # Errors
/// The sampler's; what was sampled before it is in `walk`.
pub fn walk(
    batch: &DraftBatch,
    root: RowId,
    limit: usize,
    ends: impl FnMut(Token) -> bool,
    mut sample: impl FnMut(RowId) -> Result<Token, Error>,
    walk: &mut Walk,
) -> Result<(), Error> {
    walk_while(batch, root, limit, ends, |row| sample(row).map(Some), walk)
}

/// As [`walk`], but ends before a row for which `sample` gives nothing; the token that leads to it is the last one then. Emits nothing if
/// that row is the root.
///
/// # Errors
/// As [`walk`].
pub fn walk_while(
    batch: &DraftBatch,
    root: RowId,
    limit: usize,
    mut ends: impl FnMut(Token) -> bool,
    mut sample: impl FnMut(RowId) -> Result<Option<Token>, Error>,
    walk: &mut Walk,
) -> Result<(), Error> {
    walk.clear();
    let mut next = Some(root);
    while let Some(row) = next {
        let Some(token) = sample(row)? else { return Ok(()) };
        next = walk.step(batch, row, token, limit, &mut ends);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::draft::DraftTree;
    use crate::token::{Pos, Slot};

    fn batch() -> DraftBatch {
        let mut tree = DraftTree::new();
        let a = tree.add(None, Token(1), 0.5);
        tree.add(None, Token(2), 0.5);
        tree.add(Some(a), Token(3), 0.5);
        let mut batch = DraftBatch::new();
        batch.push_draft(Slot(0), Pos(0), Token(0), &tree);
        batch
    }

    fn walked(samples: &[u32], limit: usize, end: u32) -> Vec<u32> {
        let mut out = Walk::default();
        let mut next = samples.iter();
        let sample = |_| Ok(Token(*next.next().expect("sampled no more than needed")));
        walk(&batch(), RowId(0), limit, |token| token == Token(end), sample, &mut out).expect("no sampler error");
        assert_eq!(out.rows.len(), out.tokens.len());
        out.tokens.iter().map(|token| token.0).collect()
    }

    #[test]
    fn the_walk_follows_samples_and_stops_where_it_must() {
        assert_eq!(walked(&[1, 3, 9], 10, 99), [1, 3, 9]);
        assert_eq!(walked(&[2, 9], 10, 99), [2, 9]);
        assert_eq!(walked(&[7], 10, 99), [7]);
        assert_eq!(walked(&[1, 3], 2, 99), [1, 3], "the token limit");
        assert_eq!(walked(&[1], 10, 1), [1], "an end token inside the path");
        assert_eq!(walked(&[1], 0, 99), [1], "a round yields at least one token");
    }

    #[test]
    fn a_sampler_error_keeps_what_came_before() {
        let mut out = Walk::default();
        let mut n = 0;
        let sample = |_| {
            n += 1;
            if n == 1 { Ok(Token(1)) } else { Err(Error::target("no token fits the grammar")) }
        };
        assert!(walk(&batch(), RowId(0), 9, |_| false, sample, &mut out).is_err());
        assert_eq!(out.tokens, [Token(1)]);
    }
}
