//! Best-first search: nodes in order of survival probability.
//!
//! The expected number of accepted tokens is the sum of the nodes' survival probabilities, and a child's is never above its parent's.
//! So the first n nodes in falling order are the best tree of n nodes: for a budget of rows this search is exact.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use crate::draft::{Bounds, DraftTree, Search};
use crate::representative::{Candidate, Context, Predict, Successors};
use crate::token::NodeId;

/// Nodes below this are never worth a row on any machine.
const LEAST_SURVIVAL: f32 = 1e-3;

/// The search and its reused memory.
#[derive(Debug, Default)]
pub struct BestFirst {
    heap: BinaryHeap<Waiting>,
    contexts: Vec<Context>,
    successors: Successors,
}

#[derive(Clone, Copy, Debug)]
struct Waiting {
    survival: f32,
    parent: Option<NodeId>,
    candidate: Candidate,
}

impl Ord for Waiting {
    /// The likeliest first; equals by depth-independent, fixed order: the older parent, then the smaller token id.
    fn cmp(&self, other: &Self) -> Ordering {
        let parent = |waiting: &Waiting| waiting.parent.map_or(0, |node| node.0 + 1);
        (self.survival.total_cmp(&other.survival))
            .then_with(|| parent(other).cmp(&parent(self)))
            .then_with(|| other.candidate.token.cmp(&self.candidate.token))
    }
}

impl PartialOrd for Waiting {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Waiting {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Waiting {}

impl BestFirst {
    fn expand(&mut self, predict: &dyn Predict, context: &Context, parent: Option<NodeId>, survival: f32) {
        predict.successors(context, &mut self.successors);
        for &candidate in &self.successors.candidates {
            let survival = survival * candidate.probability;
            if survival >= LEAST_SURVIVAL {
                self.heap.push(Waiting { survival, parent, candidate });
            }
        }
    }
}

impl Search for BestFirst {
    fn search(
        &mut self,
        predict: &dyn Predict,
        bounds: &Bounds,
        wanted: &mut dyn FnMut(&DraftTree, f32) -> bool,
        tree: &mut DraftTree,
    ) {
        tree.clear();
        self.heap.clear();
        self.contexts.clear();
        if bounds.max_nodes == 0 || bounds.max_depth == 0 {
            return;
        }
        let root = predict.root();
        self.expand(predict, &root, None, 1.0);
        while let Some(best) = self.heap.pop() {
            if tree.len() >= bounds.max_nodes || !wanted(tree, best.survival) {
                break;
            }
            if tree.n_leaves_with_child_of(best.parent) > bounds.max_leaves {
                continue;
            }
            let node = tree.add(best.parent, best.candidate.token, best.candidate.probability);
            tree.set_source(node, best.candidate.source);
            let context = best.parent.map_or(root, |parent| self.contexts[parent.0 as usize]);
            let context = predict.child(&context, best.candidate.token);
            self.contexts.push(context);
            if tree.depth(node) < bounds.max_depth {
                self.expand(predict, &context, Some(node), best.survival);
            }
        }
    }
}
