//! The budget: how many nodes are worth their time now, over all sequences that share the decode call.
//!
//! A round of n rows that yields E tokens takes C(n) + E * sampling. Along the nodes in falling order of survival probability, the
//! prefix that maximises E per millisecond is drafted; the empty one counts as well, and wins where nothing pays.

use crate::draft::DraftTree;
use crate::draft::cost::CostCurve;

/// Drafts must promise this much more than plain decoding: guesses about guesses are not exact.
const LEAST_GAIN: f32 = 1.01;

/// The merge of several sequences' candidates. Holds the reused memory.
#[derive(Clone, Debug, Default)]
pub struct Budget {
    taken: Vec<usize>,
    best: Vec<usize>,
}

impl Budget {
    /// True if a further node of this survival probability, or better ones like it, could still raise the rate of a single sequence
    /// whose draft so far is `tree`.
    pub fn wanted(curve: &CostCurve, tree: &DraftTree, survival: f32) -> bool {
        let mut tokens = 1.0;
        let mut best = curve.rate(1, 1.0);
        for (node, survival) in tree.survivals().iter().enumerate() {
            tokens += survival;
            best = best.max(curve.rate(node + 2, tokens));
        }
        curve.best_rate_beyond(tree.len() + 1, tokens, survival) > best
    }

    /// The survival probability below which no node can pay when `n_roots` sequences share the call, whatever else is drafted.
    pub fn floor(curve: &CostCurve, n_roots: usize) -> f32 {
        let roots = n_roots as f32;
        let plain = curve.rate(n_roots, roots);
        // roots + k * s tokens in `ms` must beat the plain rate; solved for s, and the least over all sizes.
        let needed = |rows: usize| {
            let ms = curve.ms[rows];
            let k = (rows - n_roots) as f32;
            (plain * ms - roots * (1.0 - plain * curve.sample_ms)) / (k * (1.0 - plain * curve.sample_ms))
        };
        (n_roots + 1..curve.ms.len())
            .filter(|&rows| curve.ms[rows].is_finite())
            .map(needed)
            .fold(f32::INFINITY, f32::min)
            .max(0.0)
    }

    /// How many nodes each sequence may keep, in the order of `survivals` (each tree's nodes in its own order). `least` nodes are
    /// drafted in any case, as far as there are any.
    pub fn share(&mut self, curve: &CostCurve, survivals: &[&[f32]], least: usize) -> &[usize] {
        let n_roots = survivals.len();
        self.taken.clear();
        self.taken.resize(n_roots, 0);
        self.best.clear();
        self.best.resize(n_roots, 0);
        let mut tokens = n_roots as f32;
        let mut best_rate = curve.rate(n_roots, tokens) * LEAST_GAIN;
        let mut n_nodes = 0;
        loop {
            let next = (0..n_roots)
                .filter_map(|index| survivals[index].get(self.taken[index]).map(|&survival| (index, survival)))
                .fold(
                    None,
                    |best: Option<(usize, f32)>, next| {
                        if best.is_none_or(|best| next.1 > best.1) { Some(next) } else { best }
                    },
                );
            let Some((index, survival)) = next else { break };
            self.taken[index] += 1;
            n_nodes += 1;
            tokens += survival;
            let rate = curve.rate(n_roots + n_nodes, tokens);
            if rate > best_rate || n_nodes <= least {
                best_rate = rate;
                self.best.copy_from_slice(&self.taken);
            }
        }
        &self.best
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::MAX_DRAFT_ROWS;
    use crate::token::Token;
    use proptest::prelude::*;

    fn curve(ms: impl Fn(usize) -> f32) -> CostCurve {
        let mut curve = CostCurve::free(MAX_DRAFT_ROWS);
        for rows in 1..=MAX_DRAFT_ROWS {
            curve.ms[rows] = ms(rows);
        }
        curve
    }

    #[test]
    fn dear_rows_draft_nothing_and_cheap_rows_much() {
        let survivals = [0.5, 0.4, 0.2, 0.1];
        let mut budget = Budget::default();
        assert_eq!(budget.share(&curve(|rows| rows as f32), &[&survivals], 0), [0]);
        assert_eq!(budget.share(&curve(|rows| 1.0 + 0.02 * rows as f32), &[&survivals], 0), [4]);
        assert_eq!(budget.share(&curve(|rows| rows as f32), &[&survivals], 1), [1], "at least one was asked for");
    }

    #[test]
    fn two_sequences_share_by_worth() {
        let steps = curve(|rows| if rows <= 4 { 1.0 } else { 3.0 });
        assert_eq!(Budget::default().share(&steps, &[&[0.9, 0.8, 0.7], &[0.3]], 0), [2, 0]);
    }

    #[test]
    fn a_jagged_cost_is_looked_through() {
        let jagged = curve(|rows| if rows == 2 || rows == 3 { 2.5 } else { 1.1 });
        assert_eq!(Budget::default().share(&jagged, &[&[0.5, 0.4, 0.3]], 0), [3]);
    }

    proptest! {
        #[test]
        fn the_share_is_the_best_prefix_and_wanted_never_stops_too_early(
            mut survivals in prop::collection::vec(0.001f32..1.0, 0..40),
            costs in prop::collection::vec(0.0f32..0.4, MAX_DRAFT_ROWS),
        ) {
            survivals.sort_by(|a, b| b.total_cmp(a));
            let curve = curve(|rows| 1.0 + costs[..rows].iter().sum::<f32>());
            let rate = |n: usize| curve.rate(n + 1, 1.0 + survivals[..n].iter().sum::<f32>());
            let n = Budget::default().share(&curve, &[&survivals], 0)[0];
            let best = (1..=survivals.len()).map(rate).fold(rate(0) * LEAST_GAIN, f32::max);
            let reached = if n == 0 { rate(0) * LEAST_GAIN } else { rate(n) };
            prop_assert!(reached >= best * 0.9999);
            let mut tree = DraftTree::new();
            let floor = Budget::floor(&curve, 1);
            for (index, &survival) in survivals.iter().enumerate().take(n) {
                prop_assert!(Budget::wanted(&curve, &tree, survival), "stopped at {index} of {n}");
                prop_assert!(index > 0 || survivals[0] >= floor * 0.999);
                tree.add(None, Token(index as u32), survival);
            }
        }
    }
}
