//! The draft maker as published, faults included: what the paper is, and what the default is measured against.
//!
//! 150 simulations over the tri-gram table, three levels deep, then one greedy token. Selection:
//!
//! ```text
//! PUCT(child) = +inf                                                         if n = 0
//!             = W/n + p * sqrt(N) / (1 + n) * (c1 + ln((N + c2 + 1) / c2))   otherwise
//! n, W: the child's visits and summed score; N: its parent's visits; p: the weight of its tri-gram; c1 = 32, c2 = 8
//! ```
//!
//! A leaf is expanded to all its successors at once; a rollout then samples successors in proportion to their weights down to the third
//! level. The score of a path of tokens t is 1 + the sum over i of the weight of `t[i+1]` after `t[i], t[i+1]`: an index fault for the
//! weight of `t[i+2]`, kept here. Of all nodes the 24 most visited are taken, the root among them, and all but the root give a path to their
//! heaviest successor. The longest paths are dropped until the sum of path lengths is at most 64.
//!
//! Read in the published code and checked against the package `draftretriever` 0.1.1 (`benches/record/reference.md`). What is ours:
//! rollouts are seeded, and ties have a fixed order ([`Ties`]), where the published code follows the order of a hash table.

use std::cmp::Reverse;
use std::sync::Arc;

use rand::{Rng, SeedableRng};
use rand_pcg::Pcg64Mcg;

use crate::draft::{Bounds, DraftTree, Search};
use crate::representative::corpus::Corpus;
use crate::representative::reference::ReferenceTable;
use crate::representative::{Predict, Source};
use crate::token::{NodeId, Token};

const ITERATIONS: usize = 150;
/// Levels of the search; the greedy token lies one deeper.
const LEVELS: u16 = 3;
const C2: f64 = 8.0;
/// Most visited nodes that are kept, the root among them.
const N_KEPT: usize = 24;
/// Largest sum of path lengths; shared beginnings count once for each path.
const MAX_PATH_TOKENS: usize = 64;
/// Scores nearer than this are equal: logarithms differ in the last bit between machines.
const TIE: f64 = 1e-9;

const NONE: u32 = u32::MAX;

/// c1 of the current release of the published code.
pub const EXPLORATION: f64 = 32.0;
/// c1 of its first release.
pub const EXPLORATION_FIRST_RELEASE: f64 = 1.814;

/// Who comes first of siblings that were never visited, and of nodes that were visited equally often. Both happen in every search: most
/// nodes of 150 simulations have one or two visits.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Ties {
    /// The heavier, then the smaller token id.
    #[default]
    Weight,
    /// An order shuffled by the seed, like that of the published code's hash tables. A little worse; for comparisons with it.
    Shuffled,
}

/// The search and its arena, reused from round to round.
#[derive(Debug)]
pub struct ReferenceSearch {
    exploration: f64,
    seed: u64,
    ties: Ties,
    nodes: Vec<Node>,
    /// Most visited first.
    order: Vec<u32>,
    paths: Vec<Path>,
    successors: Vec<(Token, f32)>,
}

/// The published method behind the same door as the other searches: its own table, updated at the start of each draft step as published.
#[derive(Debug)]
pub struct Reference {
    table: ReferenceTable,
    search: ReferenceSearch,
}

impl Reference {
    /// The published method over a corpus; see [`ReferenceTable::new`] and [`ReferenceSearch::new`].
    pub fn new(corpus: Option<Arc<Corpus>>, max_pairs: usize, seed: u64) -> Self {
        Self { table: ReferenceTable::new(corpus, max_pairs), search: ReferenceSearch::new(EXPLORATION, seed) }
    }
}

impl Search for Reference {
    /// Reads the confirmed text only; what the calibrated sources say, and what rows cost, plays no part.
    fn search(
        &mut self,
        predict: &dyn Predict,
        bounds: &Bounds,
        _wanted: &mut dyn FnMut(&DraftTree, f32) -> bool,
        tree: &mut DraftTree,
    ) {
        self.table.update(predict.text());
        self.search.draft(&self.table, predict.text(), bounds, tree);
    }
}

#[derive(Clone, Copy, Debug)]
struct Node {
    parent: u32,
    token: Token,
    depth: u16,
    /// p: the weight of the tri-gram that ends here.
    weight: f32,
    /// The weight's share among its siblings.
    share: f32,
    /// Who comes first among nodes visited equally often: the larger.
    precedence: u32,
    /// True for the heaviest of its siblings, of equals the smallest token id.
    is_heaviest: bool,
    /// Score of a path that ends here; what follows deeper down is added where it is known.
    score: f64,
    /// Children lie side by side in the arena.
    first_child: u32,
    n_children: u32,
    visits: u32,
    /// W.
    total: f64,
}

/// The way down to a node, and on to its heaviest successor (with its share) if it has one.
#[derive(Clone, Copy, Debug)]
struct Path {
    node: u32,
    next: Option<(Token, f32)>,
    length: usize,
}

impl ReferenceSearch {
    /// A search with c1 = `exploration`: [`EXPLORATION`] or [`EXPLORATION_FIRST_RELEASE`]. The same seed, table and text give the same
    /// draft.
    pub fn new(exploration: f64, seed: u64) -> Self {
        Self {
            exploration,
            seed,
            ties: Ties::default(),
            nodes: Vec::new(),
            order: Vec::new(),
            paths: Vec::with_capacity(N_KEPT),
            successors: Vec::new(),
        }
    }

    /// The same search with another order of ties.
    #[must_use]
    pub fn with_ties(self, ties: Ties) -> Self {
        Self { ties, ..self }
    }

    /// Fills `tree` with the draft after `text`, within `bounds`. [`ReferenceTable::update`] comes first in a draft step.
    ///
    /// Total: a text of fewer than two tokens, or one whose end the table does not know, gives an empty draft.
    pub fn draft(&mut self, table: &ReferenceTable, text: &[Token], bounds: &Bounds, tree: &mut DraftTree) {
        tree.clear();
        let &[.., before, last] = text else { return };
        self.simulate(table, before, last);
        self.take_paths(table, before);
        self.plant(bounds, tree);
    }

    fn simulate(&mut self, table: &ReferenceTable, before: Token, last: Token) {
        let mut random = Pcg64Mcg::seed_from_u64(self.seed);
        self.nodes.clear();
        self.nodes.push(Node {
            parent: NONE,
            token: last,
            depth: 0,
            weight: 1.0,
            share: 1.0,
            precedence: 0,
            is_heaviest: true,
            score: 1.0 + f64::from(table.weight(before, last, last)),
            first_child: NONE,
            n_children: 0,
            visits: 0,
            total: 0.0,
        });
        for _ in 0..ITERATIONS {
            let mut leaf = 0;
            while self.nodes[leaf].n_children > 0 {
                leaf = self.select(leaf);
            }
            if self.nodes[leaf].first_child == NONE && self.nodes[leaf].depth < LEVELS {
                self.expand(table, before, leaf as u32, &mut random);
            }
            let score = self.rollout(table, leaf, &mut random);
            let mut up = leaf as u32;
            while up != NONE {
                let node = &mut self.nodes[up as usize];
                node.visits += 1;
                node.total += score;
                up = node.parent;
            }
        }
    }

    fn select(&self, parent: usize) -> usize {
        let node = &self.nodes[parent];
        let n = f64::from(node.visits);
        let growth = n.sqrt() * (self.exploration + ((n + C2 + 1.0) / C2).ln());
        let first = node.first_child as usize;
        let children = &self.nodes[first..first + node.n_children as usize];
        // Children lie in the order of ties, so the first of equals wins.
        let (mut best, mut highest) = (0, f64::NEG_INFINITY);
        for (place, child) in children.iter().enumerate() {
            if child.visits == 0 {
                return first + place;
            }
            let n = f64::from(child.visits);
            let score = child.total / n + f64::from(child.weight) * growth / (1.0 + n);
            if score > highest + TIE {
                (best, highest) = (place, score);
            }
        }
        first + best
    }

    fn expand(&mut self, table: &ReferenceTable, before: Token, index: u32, random: &mut Pcg64Mcg) {
        let node = self.nodes[index as usize];
        let previous = self.previous(before, index as usize);
        table.successors(previous, node.token, &mut self.successors);
        let sum: f32 = self.successors.iter().map(|&(_, weight)| weight).sum();
        let heaviest = self.successors.first().map(|&(token, _)| token);
        if self.ties == Ties::Shuffled {
            for place in (1..self.successors.len()).rev() {
                self.successors.swap(place, random.next_u32() as usize % (place + 1));
            }
        }
        let first_child = self.nodes.len() as u32;
        for &(token, weight) in &self.successors {
            let depth = node.depth + 1;
            // The last level's own repetition is no part of the score: the sum ends with the tri-gram that ends there.
            let repeat = if depth < LEVELS { table.weight(node.token, token, token) } else { 0.0 };
            self.nodes.push(Node {
                parent: index,
                token,
                depth,
                weight,
                share: weight / sum,
                precedence: match self.ties {
                    // Positive floats are ordered like their bits.
                    Ties::Weight => weight.to_bits(),
                    Ties::Shuffled => random.next_u32(),
                },
                is_heaviest: Some(token) == heaviest,
                score: node.score + f64::from(repeat),
                first_child: NONE,
                n_children: 0,
                visits: 0,
                total: 0.0,
            });
        }
        let n_children = self.nodes.len() as u32 - first_child;
        let node = &mut self.nodes[index as usize];
        (node.first_child, node.n_children) = (first_child, n_children);
    }

    /// The score of one sampled way down from a leaf.
    ///
    /// The score reads no token of the last level, so none is sampled.
    fn rollout(&mut self, table: &ReferenceTable, leaf: usize, random: &mut Pcg64Mcg) -> f64 {
        let node = self.nodes[leaf];
        if node.depth + 1 >= LEVELS || node.n_children == 0 {
            return node.score;
        }
        let first = node.first_child as usize;
        let children = &self.nodes[first..first + node.n_children as usize];
        let child = children[sample(children.iter().map(|child| child.weight), random)];
        let (mut a, mut b, mut score) = (node.token, child.token, child.score);
        for _ in child.depth + 1..LEVELS {
            table.successors(a, b, &mut self.successors);
            if self.successors.is_empty() {
                break;
            }
            let place = sample(self.successors.iter().map(|&(_, weight)| weight), random);
            (a, b) = (b, self.successors[place].0);
            score += f64::from(table.weight(a, b, b));
        }
        score
    }

    /// The token before a node's own.
    fn previous(&self, before: Token, index: usize) -> Token {
        match self.nodes[index].parent {
            NONE => before,
            parent => self.nodes[parent as usize].token,
        }
    }

    /// The most visited nodes with their heaviest successors, less the longest.
    fn take_paths(&mut self, table: &ReferenceTable, before: Token) {
        let nodes = &self.nodes;
        self.order.clear();
        self.order.extend(0..nodes.len() as u32);
        let rank = |index: &u32| {
            let node = &nodes[*index as usize];
            // The root stands first: nothing is visited more often, and nothing lies before it.
            (Reverse(node.visits), *index != 0, Reverse(node.precedence), node.token, *index)
        };
        if self.order.len() > N_KEPT {
            self.order.select_nth_unstable_by_key(N_KEPT, rank);
            self.order.truncate(N_KEPT);
        }
        self.order.sort_unstable_by_key(rank);
        self.paths.clear();
        let mut n_tokens = 0;
        for &index in self.order.iter().filter(|&&index| index != 0) {
            let node = &self.nodes[index as usize];
            let previous = self.previous(before, index as usize);
            table.successors(previous, node.token, &mut self.successors);
            let sum: f32 = self.successors.iter().map(|&(_, weight)| weight).sum();
            let next = self.successors.first().map(|&(token, weight)| (token, weight / sum));
            // A node without successors gives the path to itself, which its parent gives already if it is the parent's heaviest.
            let is_twin = next.is_none() && node.parent != 0 && node.is_heaviest && self.order.contains(&node.parent);
            if !is_twin {
                let length = usize::from(node.depth) + usize::from(next.is_some());
                n_tokens += length;
                self.paths.push(Path { node: index, next, length });
            }
        }
        while n_tokens > MAX_PATH_TOKENS {
            // Of the longest the least visited goes first.
            let Some(longest) = (0..self.paths.len()).max_by_key(|&place| self.paths[place].length) else { break };
            n_tokens -= self.paths.remove(longest).length;
        }
    }

    fn plant(&mut self, bounds: &Bounds, tree: &mut DraftTree) {
        for path in &self.paths {
            let mut way = [0u32; LEVELS as usize];
            let mut up = path.node;
            while up != 0 {
                let node = &self.nodes[up as usize];
                way[usize::from(node.depth) - 1] = up;
                up = node.parent;
            }
            let depth = usize::from(self.nodes[path.node as usize].depth);
            let mut parent = None;
            let steps = way[..depth].iter().map(|&index| {
                let node = &self.nodes[index as usize];
                (node.token, node.share)
            });
            for (token, share) in steps.chain(path.next) {
                match step(bounds, tree, parent, token, share) {
                    Some(node) => parent = Some(node),
                    None => break,
                }
            }
        }
    }
}

/// The child that holds `token`, added if the bounds allow.
fn step(bounds: &Bounds, tree: &mut DraftTree, parent: Option<NodeId>, token: Token, share: f32) -> Option<NodeId> {
    if let Some(child) = tree.child(parent, token) {
        return Some(child);
    }
    let depth = parent.map_or(0, |parent| tree.depth(parent));
    let fits = tree.len() < bounds.max_nodes
        && depth < bounds.max_depth
        && tree.n_leaves_with_child_of(parent) <= bounds.max_leaves;
    fits.then(|| {
        let node = tree.add(parent, token, share);
        tree.set_source(node, Source::Corpus);
        node
    })
}

/// A place with a chance in proportion to its weight.
fn sample(weights: impl Iterator<Item = f32> + Clone, random: &mut Pcg64Mcg) -> usize {
    let sum: f64 = weights.clone().map(f64::from).sum();
    // 53 random bits fill a double in 0..1.
    let mut left = (random.next_u64() >> 11) as f64 / (1u64 << 53) as f64 * sum;
    let mut last = 0;
    for (place, weight) in weights.enumerate() {
        left -= f64::from(weight);
        last = place;
        if left < 0.0 {
            break;
        }
    }
    last
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::representative::corpus::{BuildOptions, Corpus, CorpusBuilder};
    use crate::representative::store::Fingerprint;
    use std::sync::Arc;

    const FREE: Bounds = Bounds { max_nodes: 64, max_depth: 8, max_leaves: 64 };

    fn tokens(ids: &[u32]) -> Vec<Token> {
        ids.iter().copied().map(Token).collect()
    }

    fn table(documents: &[&[u32]]) -> ReferenceTable {
        let mut builder = CorpusBuilder::new(BuildOptions::new(1000, Fingerprint(0), "")).unwrap();
        documents.iter().for_each(|document| builder.push_document(&tokens(document)).unwrap());
        let corpus: Corpus = builder.finish_in_memory().unwrap();
        ReferenceTable::new(Some(Arc::new(corpus)), 1 << 10)
    }

    fn draft(table: &ReferenceTable, text: &[u32], bounds: &Bounds) -> DraftTree {
        let mut tree = DraftTree::new();
        ReferenceSearch::new(EXPLORATION, 1).draft(table, &tokens(text), bounds, &mut tree);
        tree
    }

    /// Every leaf's path.
    fn paths(tree: &DraftTree) -> Vec<Vec<u32>> {
        let mut paths: Vec<Vec<u32>> = tree
            .nodes()
            .filter(|&node| tree.children(Some(node)).next().is_none())
            .map(|leaf| {
                let mut path: Vec<u32> = std::iter::successors(Some(leaf), |&node| tree.parent(node))
                    .map(|node| tree.token(node).0)
                    .collect();
                path.reverse();
                path
            })
            .collect();
        paths.sort();
        paths
    }

    #[test]
    fn a_chain_is_followed_four_deep() {
        let table = table(&[&[1, 2, 10, 11, 12, 13, 14]]);
        assert_eq!(paths(&draft(&table, &[7, 1, 2], &FREE)), [[10, 11, 12, 13]]);
        assert_eq!(paths(&draft(&table, &[1, 2], &Bounds { max_depth: 2, ..FREE })), [[10, 11]]);
        assert_eq!(paths(&draft(&table, &[1, 2], &Bounds { max_nodes: 3, ..FREE })), [[10, 11, 12]]);
        assert!(draft(&table, &[1, 2], &Bounds { max_nodes: 0, ..FREE }).is_empty());
    }

    #[test]
    fn short_and_unknown_contexts_draft_nothing() {
        let table = table(&[&[1, 2, 3]]);
        for text in [&[][..], &[2], &[2, 1], &[900, 900], &[u32::MAX, u32::MAX]] {
            assert!(draft(&table, text, &FREE).is_empty());
        }
    }

    #[test]
    fn dead_ends_are_paths_too() {
        // The package drafts [10, 12] and [11] here.
        let table = table(&[&[1, 2, 10], &[1, 2, 11], &[2, 10, 12]]);
        assert_eq!(paths(&draft(&table, &[1, 2], &FREE)), [vec![10, 12], vec![11]]);
    }

    /// A tree of 12 successors each, 3 deep, none repeated: every score is 1, and selection follows the weights alone. The paths are those
    /// that `draftretriever` 0.1.1 always drafts from the same table; one more it picks among ties in hash order.
    #[test]
    fn visits_follow_the_weights() {
        let weights = [30u32, 20, 10, 8, 7, 6, 5, 4, 3, 3, 2, 2];
        let mut documents = Vec::new();
        let token = |way: &[u32]| way.iter().fold(7, |id, step| id * 13 + step + 1);
        for i in 0..12 {
            let a = token(&[i]);
            (0..weights[i as usize]).for_each(|_| documents.push(vec![1, 2, a]));
            for j in 0..12 {
                let b = token(&[i, j]);
                (0..weights[j as usize]).for_each(|_| documents.push(vec![2, a, b]));
                for k in 0..12 {
                    let c = token(&[i, j, k]);
                    (0..weights[k as usize]).for_each(|_| documents.push(vec![a, b, c]));
                    documents.push(vec![b, c, token(&[i, j, k, 0])]);
                }
            }
        }
        let mut builder = CorpusBuilder::new(BuildOptions::new(400_000, Fingerprint(0), "")).unwrap();
        documents.iter().for_each(|document| builder.push_document(&tokens(document)).unwrap());
        let table = ReferenceTable::new(Some(Arc::new(builder.finish_in_memory().unwrap())), 16);
        let found = paths(&draft(&table, &[1, 2], &FREE));
        let mut expected: Vec<Vec<u32>> = Vec::new();
        let ways: [&[u32]; 18] = [
            &[0, 0, 0, 0],
            &[0, 1, 0],
            &[0, 2, 0],
            &[0, 3, 0],
            &[0, 4, 0],
            &[1, 0, 0],
            &[1, 1, 0],
            &[1, 2, 0],
            &[2, 0, 0],
            &[3, 0],
            &[4, 0],
            &[5, 0],
            &[6, 0],
            &[7, 0],
            &[8, 0],
            &[9, 0],
            &[10, 0],
            &[11, 0],
        ];
        for way in ways {
            expected.push((1..=way.len()).map(|n| token(&way[..n])).collect());
        }
        let missing: Vec<_> = expected.iter().filter(|path| !found.contains(path)).collect();
        assert_eq!((found.len(), missing.len()), (19, 0), "{missing:?} of {found:?}");
    }

    #[test]
    fn the_sum_of_path_lengths_is_bounded() {
        // One successor everywhere but at the root: 8 chains, whose 23 paths would sum up to 69.
        let mut documents = Vec::new();
        for i in 0..8u32 {
            let chain = 100 + 10 * i;
            documents.push(vec![1, 2, chain, chain + 1, chain + 2, chain + 3, chain + 4]);
        }
        let documents: Vec<&[u32]> = documents.iter().map(|d| &d[..]).collect();
        let tree = draft(&table(&documents), &[1, 2], &FREE);
        let mut search = ReferenceSearch::new(EXPLORATION, 1);
        search.draft(&table(&documents), &tokens(&[1, 2]), &FREE, &mut DraftTree::new());
        let lengths: Vec<usize> = search.paths.iter().map(|path| path.length).collect();
        let sum: usize = lengths.iter().sum();
        assert!(sum <= MAX_PATH_TOKENS && sum > MAX_PATH_TOKENS - 4, "{lengths:?}");
        assert_eq!(tree.n_leaves(), 8);
    }

    #[test]
    fn leaves_are_bounded_and_drafts_repeat() {
        let mut documents: Vec<Vec<u32>> = Vec::new();
        let mut state = 1u32;
        for _ in 0..50 {
            documents.push(
                (0..60)
                    .map(|_| {
                        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                        (state >> 16) % 7
                    })
                    .collect(),
            );
        }
        let documents: Vec<&[u32]> = documents.iter().map(|d| &d[..]).collect();
        let mut table = table(&documents);
        let mut search = ReferenceSearch::new(EXPLORATION, 5);
        let mut text = vec![1, 2];
        for round in 0..50 {
            table.update(&tokens(&text));
            let tree = draft(&table, &text, &FREE);
            assert!(tree.len() > 20 && tree.len() < 64 && tree.nodes().all(|node| tree.depth(node) <= 4));
            let narrow = draft(&table, &text, &Bounds { max_leaves: 3, ..FREE });
            assert!(narrow.n_leaves() <= 3 && !narrow.is_empty());
            let (mut again, mut first) = (DraftTree::new(), DraftTree::new());
            search.draft(&table, &tokens(&text), &FREE, &mut first);
            search.draft(&table, &tokens(&text), &FREE, &mut again);
            assert_eq!(first, again);
            text.push(round % 7);
        }
    }
}
