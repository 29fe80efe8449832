//! Drafting: which continuations are worth a row of the next decode call.

mod best_first;
mod budget;
pub mod cost;
mod governor;
mod mcts;
pub mod reference;
mod tree;

pub use best_first::BestFirst;
pub use budget::Budget;
pub use governor::Governor;
pub use mcts::Mcts;
pub use tree::DraftTree;

use crate::representative::Predict;

/// What a tree must not exceed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bounds {
    /// Most nodes.
    pub max_nodes: usize,
    /// Deepest node; children of the root have depth 1.
    pub max_depth: u16,
    /// Most leaves; 1 makes the tree a chain.
    pub max_leaves: usize,
}

/// A search for the tree to verify. All searches are total: the worst draft is an empty one. The same input gives the same tree.
pub trait Search: std::fmt::Debug + Send {
    /// Fills `tree`, the most valuable nodes first, so that any prefix is a sensible tree.
    ///
    /// Before a node is added, `wanted(tree, survival)` is asked with the survival probability of the next node; the search ends where
    /// it answers no.
    fn search(
        &mut self,
        predict: &dyn Predict,
        bounds: &Bounds,
        wanted: &mut dyn FnMut(&DraftTree, f32) -> bool,
        tree: &mut DraftTree,
    );
}
