//! Monte Carlo tree search in the manner of the paper (section 3, "draft maker"), over calibrated probabilities.
//!
//! Selection follows PUCT with the paper's growth of the exploration constant:
//!
//! ```text
//! Q(child) + p * sqrt(N) / (1 + n) * (C1 + ln((N + C2 + 1) / C2)) + EXPLORE * p / (1 + observations)
//! ```
//!
//! n, N: visits of child and parent; p: the child's probability; Q = p * (1 + mean value of the child), the expected accepted tokens
//! through it. A leaf's value is the expected accepted tokens of the likeliest path below it. The last term is ours: contexts that were
//! hardly ever verified are worth a look, because the rows that verify them are remembered.

use crate::draft::{Bounds, DraftTree, Search};
use crate::representative::{Context, Predict, Source, Successors};
use crate::token::{NodeId, Token};

const C1: f32 = 1.25;
const C2: f32 = 64.0;
const EXPLORE: f32 = 0.05;

/// Successors that an expansion adds.
const MAX_CHILDREN: usize = 8;

/// Levels of a rollout below its leaf.
const ROLLOUT: usize = 3;

const NONE: u32 = u32::MAX;

/// The search and its arena, reused from round to round.
#[derive(Debug)]
pub struct Mcts {
    nodes: Vec<Node>,
    successors: Successors,
    order: Vec<u32>,
    path: Vec<u32>,
    /// Place of each arena node in the tree.
    placed: Vec<Option<NodeId>>,
    iterations: usize,
}

#[derive(Clone, Copy, Debug)]
struct Node {
    parent: u32,
    /// Children lie side by side in the arena.
    first_child: u32,
    n_children: u32,
    depth: u16,
    token: Token,
    source: Source,
    context: Context,
    probability: f32,
    survival: f32,
    observations: f32,
    visits: f32,
    value: f32,
}

impl Mcts {
    /// A search of this many simulations per round.
    pub fn new(iterations: usize) -> Self {
        Self {
            nodes: Vec::new(),
            successors: Successors::default(),
            order: Vec::new(),
            path: Vec::new(),
            placed: Vec::new(),
            iterations,
        }
    }

    fn expand(&mut self, predict: &dyn Predict, index: u32) {
        let node = self.nodes[index as usize];
        predict.successors(&node.context, &mut self.successors);
        let first_child = self.nodes.len() as u32;
        for candidate in self.successors.candidates.iter().take(MAX_CHILDREN) {
            self.nodes.push(Node {
                parent: index,
                first_child: NONE,
                n_children: 0,
                depth: node.depth + 1,
                token: candidate.token,
                source: candidate.source,
                context: predict.child(&node.context, candidate.token),
                probability: candidate.probability,
                survival: node.survival * candidate.probability,
                observations: candidate.observations,
                visits: 0.0,
                value: 0.0,
            });
        }
        let n_children = self.nodes.len() as u32 - first_child;
        let node = &mut self.nodes[index as usize];
        (node.first_child, node.n_children) = (first_child, n_children);
    }

    fn select(&self, index: u32) -> Option<u32> {
        let parent = &self.nodes[index as usize];
        let growth = C1 + ((parent.visits + C2 + 1.0) / C2).ln();
        let score = |child: &Node| {
            let mean = if child.visits > 0.0 { child.value / child.visits } else { 0.0 };
            child.probability * (1.0 + mean)
                + child.probability * parent.visits.sqrt() / (1.0 + child.visits) * growth
                + EXPLORE * child.probability / (1.0 + child.observations)
        };
        let children = parent.first_child..parent.first_child + parent.n_children;
        // Children lie in falling order of probability; the first of equals wins.
        let mut best: Option<(u32, f32)> = None;
        for child in children {
            let score = score(&self.nodes[child as usize]);
            if best.is_none_or(|(_, highest)| score > highest) {
                best = Some((child, score));
            }
        }
        best.map(|(child, _)| child)
    }

    /// Expected accepted tokens of the likeliest path below a context.
    fn rollout(&mut self, predict: &dyn Predict, mut context: Context) -> f32 {
        let (mut value, mut survival) = (0.0, 1.0);
        for _ in 0..ROLLOUT {
            predict.successors(&context, &mut self.successors);
            let Some(best) = self.successors.candidates.first().copied() else { break };
            survival *= best.probability;
            value += survival;
            if survival < 0.05 {
                break;
            }
            context = predict.child(&context, best.token);
        }
        value
    }
}

impl Search for Mcts {
    fn search(
        &mut self,
        predict: &dyn Predict,
        bounds: &Bounds,
        wanted: &mut dyn FnMut(&DraftTree, f32) -> bool,
        tree: &mut DraftTree,
    ) {
        tree.clear();
        self.nodes.clear();
        let context = predict.root();
        self.nodes.push(Node {
            parent: NONE,
            first_child: NONE,
            n_children: 0,
            depth: 0,
            token: context.last,
            source: Source::Copy,
            context,
            probability: 1.0,
            survival: 1.0,
            observations: 0.0,
            visits: 0.0,
            value: 0.0,
        });
        for _ in 0..self.iterations {
            self.path.clear();
            let mut index = 0;
            let mut value = loop {
                self.path.push(index);
                let node = self.nodes[index as usize];
                if node.depth >= bounds.max_depth {
                    break 0.0;
                }
                if node.first_child == NONE {
                    self.expand(predict, index);
                    break self.rollout(predict, node.context);
                }
                match self.select(index) {
                    Some(child) => index = child,
                    None => break 0.0,
                }
            };
            for &index in self.path.iter().rev() {
                let node = &mut self.nodes[index as usize];
                node.visits += 1.0;
                node.value += value;
                value = node.probability * (1.0 + value);
            }
        }
        self.order.clear();
        self.order.extend((1..self.nodes.len() as u32).filter(|&index| self.nodes[index as usize].visits > 0.0));
        let nodes = &self.nodes;
        // A parent is visited at least as often as its child, and stands before it in the arena.
        self.order.sort_unstable_by(|&a, &b| {
            let (x, y) = (&nodes[a as usize], &nodes[b as usize]);
            y.visits.total_cmp(&x.visits).then(y.survival.total_cmp(&x.survival)).then(a.cmp(&b))
        });
        self.placed.clear();
        self.placed.resize(self.nodes.len(), None);
        for &index in &self.order {
            let node = &self.nodes[index as usize];
            let parent = self.placed[node.parent as usize];
            if node.parent != 0 && parent.is_none() {
                continue;
            }
            if tree.len() >= bounds.max_nodes || !wanted(tree, node.survival) {
                break;
            }
            if tree.n_leaves_with_child_of(parent) > bounds.max_leaves {
                continue;
            }
            let placed = tree.add(parent, node.token, node.probability);
            tree.set_source(placed, node.source);
            self.placed[index as usize] = Some(placed);
        }
    }
}
