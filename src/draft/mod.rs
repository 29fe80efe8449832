//! Drafting: which continuations are worth a row of the next decode call.

mod tree;

pub use tree::DraftTree;
