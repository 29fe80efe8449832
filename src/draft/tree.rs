//! The draft: a tree of guessed tokens below the last confirmed token, in flat arrays.

use crate::representative::Source;
use crate::token::{NodeId, Token};

/// Parent index of a node that hangs directly below the root.
const ROOT: u32 = u32::MAX;

/// A draft tree. Nodes are numbered in the order in which they were added, parents before children; siblings have different tokens.
///
/// The root (the last confirmed token, whose row every round decodes anyway) is not a node. An empty tree is a plain decoding step.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DraftTree {
    parent: Vec<u32>,
    token: Vec<Token>,
    /// 1 for children of the root.
    depth: Vec<u16>,
    /// Probability that the target takes the whole path down to this node: a product along the path, so never above the parent's.
    survival: Vec<f32>,
    /// The source that was surest of the token, for statistics.
    source: Vec<Source>,
    first_child: Vec<u32>,
    next_sibling: Vec<u32>,
    root_child: u32,
    n_leaves: u32,
}

impl DraftTree {
    /// An empty tree.
    pub fn new() -> Self {
        let mut tree = Self::default();
        tree.clear();
        tree
    }

    /// An empty tree whose arrays hold `n_nodes` nodes without growing.
    pub fn with_capacity(n_nodes: usize) -> Self {
        let mut tree = Self {
            parent: Vec::with_capacity(n_nodes),
            token: Vec::with_capacity(n_nodes),
            depth: Vec::with_capacity(n_nodes),
            survival: Vec::with_capacity(n_nodes),
            source: Vec::with_capacity(n_nodes),
            first_child: Vec::with_capacity(n_nodes),
            next_sibling: Vec::with_capacity(n_nodes),
            root_child: ROOT,
            n_leaves: 0,
        };
        tree.clear();
        tree
    }

    /// Forgets all nodes and keeps the memory.
    pub fn clear(&mut self) {
        self.parent.clear();
        self.token.clear();
        self.depth.clear();
        self.survival.clear();
        self.source.clear();
        self.first_child.clear();
        self.next_sibling.clear();
        self.root_child = ROOT;
        self.n_leaves = 0;
    }

    /// Adds `token` below `parent` (`None` = root) with the probability that the target takes it **given** the parent.
    ///
    /// A child that is there already is returned instead of a twin, its probability unchanged: two siblings with one token would be
    /// two rows for one question.
    pub fn add(&mut self, parent: Option<NodeId>, token: Token, probability: f32) -> NodeId {
        if let Some(child) = self.child(parent, token) {
            return child;
        }
        let node = self.parent.len() as u32;
        let (depth, survival) = parent.map_or((0, 1.0), |p| (self.depth(p), self.survival(p)));
        // The new node goes last among its siblings, so that the first child stays the one that was added first: the likeliest.
        let mut link = self.first_link(parent);
        let is_first_child = link == ROOT;
        if is_first_child {
            match parent {
                None => self.root_child = node,
                Some(p) => self.first_child[p.0 as usize] = node,
            }
        } else {
            while self.next_sibling[link as usize] != ROOT {
                link = self.next_sibling[link as usize];
            }
            self.next_sibling[link as usize] = node;
        }
        // A first child takes its parent's place as a leaf; the root itself never counts as one.
        if !is_first_child || parent.is_none() {
            self.n_leaves += 1;
        }
        self.parent.push(parent.map_or(ROOT, |p| p.0));
        self.token.push(token);
        self.depth.push(depth + 1);
        self.survival.push(survival * probability.clamp(0.0, 1.0));
        self.source.push(Source::default());
        self.first_child.push(ROOT);
        self.next_sibling.push(ROOT);
        NodeId(node)
    }

    /// Notes which source a node came from.
    pub fn set_source(&mut self, node: NodeId, source: Source) {
        self.source[node.0 as usize] = source;
    }

    /// The source that a node came from.
    pub fn source(&self, node: NodeId) -> Source {
        self.source[node.0 as usize]
    }

    /// Drops the nodes added last until `n_nodes` are left. A prefix of a tree is a tree: parents come before children.
    pub fn truncate(&mut self, n_nodes: usize) {
        while self.len() > n_nodes {
            let node = self.len() as u32 - 1;
            let parent = self.parent(NodeId(node));
            let first = self.first_link(parent);
            if first == node {
                match parent {
                    None => self.root_child = ROOT,
                    Some(p) => self.first_child[p.0 as usize] = ROOT,
                }
            } else {
                let mut link = first;
                while self.next_sibling[link as usize] != node {
                    link = self.next_sibling[link as usize];
                }
                self.next_sibling[link as usize] = ROOT;
            }
            if first != node || parent.is_none() {
                self.n_leaves -= 1;
            }
            self.parent.pop();
            self.token.pop();
            self.depth.pop();
            self.survival.pop();
            self.source.pop();
            self.first_child.pop();
            self.next_sibling.pop();
        }
    }

    /// Number of nodes, the root not counted.
    pub fn len(&self) -> usize {
        self.parent.len()
    }

    /// True if nothing is drafted.
    pub fn is_empty(&self) -> bool {
        self.parent.is_empty()
    }

    /// Number of leaves: paths that the target's memory must keep apart. 0 for an empty tree.
    pub fn n_leaves(&self) -> usize {
        self.n_leaves as usize
    }

    /// Number of leaves if a child were added below `parent`.
    pub fn n_leaves_with_child_of(&self, parent: Option<NodeId>) -> usize {
        let first = self.first_link(parent) == ROOT;
        self.n_leaves() + usize::from(!first || parent.is_none())
    }

    /// The node's parent, `None` for children of the root.
    pub fn parent(&self, node: NodeId) -> Option<NodeId> {
        let parent = self.parent[node.0 as usize];
        (parent != ROOT).then_some(NodeId(parent))
    }

    /// The guessed token.
    pub fn token(&self, node: NodeId) -> Token {
        self.token[node.0 as usize]
    }

    /// Distance from the root, 1 for its children.
    pub fn depth(&self, node: NodeId) -> u16 {
        self.depth[node.0 as usize]
    }

    /// Probability that the path down to the node is accepted, as the search saw it.
    pub fn survival(&self, node: NodeId) -> f32 {
        self.survival[node.0 as usize]
    }

    /// The child of `parent` (`None` = root) that holds `token`.
    pub fn child(&self, parent: Option<NodeId>, token: Token) -> Option<NodeId> {
        self.children(parent).find(|&child| self.token(child) == token)
    }

    /// The children of `parent` (`None` = root), in the order in which they were added.
    pub fn children(&self, parent: Option<NodeId>) -> impl Iterator<Item = NodeId> + '_ {
        let mut link = self.first_link(parent);
        std::iter::from_fn(move || {
            let node = (link != ROOT).then_some(NodeId(link))?;
            link = self.next_sibling[link as usize];
            Some(node)
        })
    }

    /// The survival probabilities of all nodes, in their order.
    pub fn survivals(&self) -> &[f32] {
        &self.survival
    }

    /// All nodes, parents before children.
    pub fn nodes(&self) -> impl Iterator<Item = NodeId> + use<> {
        (0..self.parent.len() as u32).map(NodeId)
    }

    /// 1 + the sum of the survival probabilities: the tokens that a round with this tree yields on average.
    pub fn expected_tokens(&self) -> f32 {
        1.0 + self.survival.iter().sum::<f32>()
    }

    /// Bytes held by the arrays.
    pub fn memory_bytes(&self) -> usize {
        self.parent.capacity() * (4 * size_of::<u32>() + size_of::<u16>() + size_of::<f32>() + size_of::<Source>())
    }

    fn first_link(&self, parent: Option<NodeId>) -> u32 {
        parent.map_or(self.root_child, |p| self.first_child[p.0 as usize])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_counts_leaves_and_keeps_order() {
        let mut tree = DraftTree::new();
        assert_eq!((tree.len(), tree.n_leaves()), (0, 0));
        let a = tree.add(None, Token(1), 0.5);
        assert_eq!(tree.n_leaves_with_child_of(Some(a)), 1);
        let b = tree.add(Some(a), Token(2), 0.5);
        let c = tree.add(Some(a), Token(3), 0.25);
        let d = tree.add(None, Token(2), 0.5);
        assert_eq!(tree.n_leaves(), 3);
        assert_eq!(tree.children(None).collect::<Vec<_>>(), [a, d]);
        assert_eq!(tree.children(Some(a)).collect::<Vec<_>>(), [b, c]);
        assert_eq!(tree.add(Some(a), Token(3), 0.9), c, "no twin among siblings");
        assert_eq!((tree.depth(c), tree.survival(c)), (2, 0.125));
        assert_eq!(tree.expected_tokens(), 1.0 + 0.5 + 0.25 + 0.125 + 0.5);
        assert_eq!(tree.child(None, Token(9)), None);
        let whole = tree.clone();
        tree.truncate(2);
        assert_eq!((tree.len(), tree.n_leaves()), (2, 1));
        tree.add(Some(a), Token(3), 0.25);
        tree.add(None, Token(2), 0.5);
        assert_eq!(tree, whole, "what was cut can be added again");
        tree.truncate(0);
        assert_eq!((tree.len(), tree.n_leaves()), (0, 0));
    }
}
