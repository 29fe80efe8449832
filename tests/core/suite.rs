//! Cases as data (`tests/data/*.toml`), run through every search and a naive oracle where they must agree.

use std::collections::{BTreeMap, BTreeSet};

use aded::batch::DraftBatch;
use aded::draft::{BestFirst, Bounds, DraftTree, Mcts, Search};
use aded::representative::copy::Cursor;
use aded::representative::{Candidate, Context, NO_TOKEN, Predict, Source, Successors};
use aded::token::{NodeId, Pos, RowId, Slot, Token};
use aded::verify::{Walk, walk};
use proptest::prelude::*;
use serde::Deserialize;

/// Successors of the last token, as written down.
#[derive(Debug)]
struct Table {
    successors: BTreeMap<u32, Vec<(u32, f32)>>,
    root: u32,
}

impl Predict for Table {
    fn text(&self) -> &[Token] {
        &[]
    }

    fn root(&self) -> Context {
        let (copy, log) = (Cursor::default(), Cursor::default());
        Context { previous: NO_TOKEN, last: Token(self.root), copy, log, depth: 0 }
    }

    fn child(&self, parent: &Context, token: Token) -> Context {
        Context { previous: parent.last, last: token, depth: parent.depth + 1, ..*parent }
    }

    fn successors(&self, context: &Context, out: &mut Successors) {
        out.candidates.clear();
        let row = self.successors.get(&context.last.0).map_or(&[][..], Vec::as_slice);
        out.candidates.extend(row.iter().map(|&(token, probability)| Candidate {
            token: Token(token),
            probability,
            observations: 0.0,
            source: Source::Copy,
        }));
        out.candidates.sort_by(|a, b| b.probability.total_cmp(&a.probability).then(a.token.cmp(&b.token)));
    }
}

/// All paths by force, the likeliest first.
fn oracle(table: &Table, bounds: &Bounds) -> Vec<(Vec<u32>, f32)> {
    let mut paths = Vec::new();
    let mut open = vec![(Vec::new(), 1.0f32)];
    while let Some((path, survival)) = open.pop() {
        if path.len() >= usize::from(bounds.max_depth) {
            continue;
        }
        let last = path.last().copied().unwrap_or(table.root);
        for &(token, probability) in table.successors.get(&last).into_iter().flatten() {
            let mut longer = path.clone();
            longer.push(token);
            if survival * probability >= 1e-3 {
                paths.push((longer.clone(), survival * probability));
                open.push((longer, survival * probability));
            }
        }
    }
    paths.sort_by(|a, b| b.1.total_cmp(&a.1));
    paths.truncate(bounds.max_nodes);
    paths
}

fn path(tree: &DraftTree, node: NodeId) -> Vec<u32> {
    let mut path = tree.parent(node).map_or_else(Vec::new, |parent| self::path(tree, parent));
    path.push(tree.token(node).0);
    path
}

fn run(search: &mut dyn Search, table: &Table, bounds: &Bounds) -> Vec<Vec<u32>> {
    let mut tree = DraftTree::new();
    search.search(table, bounds, &mut |_, _| true, &mut tree);
    assert!(tree.len() <= bounds.max_nodes && tree.n_leaves() <= bounds.max_leaves.max(1));
    tree.nodes().map(|node| path(&tree, node)).collect()
}

#[derive(Deserialize)]
struct Suite<T> {
    case: Vec<T>,
}

#[derive(Deserialize)]
struct SearchCase {
    name: String,
    table: BTreeMap<String, Vec<(u32, f32)>>,
    root: u32,
    nodes: usize,
    depth: u16,
    leaves: usize,
    tree: Vec<Vec<u32>>,
    mcts: bool,
}

#[test]
fn searches_make_the_trees_written_down() {
    let suite: Suite<SearchCase> = toml::from_str(include_str!("../data/search.toml")).expect("valid TOML");
    for case in suite.case {
        let successors = case.table.into_iter().map(|(token, row)| (token.parse().expect("a token id"), row)).collect();
        let table = Table { successors, root: case.root };
        let bounds = Bounds { max_nodes: case.nodes, max_depth: case.depth, max_leaves: case.leaves };
        assert_eq!(run(&mut BestFirst::default(), &table, &bounds), case.tree, "{}: best-first", case.name);
        let set = |tree: &[Vec<u32>]| tree.iter().cloned().collect::<BTreeSet<_>>();
        if case.mcts {
            let mcts = run(&mut Mcts::new(400), &table, &bounds);
            assert_eq!(set(&mcts), set(&case.tree), "{}: mcts", case.name);
        }
        if case.leaves > 1 {
            let oracle: Vec<_> = oracle(&table, &bounds).into_iter().map(|(path, _)| path).collect();
            assert_eq!(set(&oracle), set(&case.tree), "{}: oracle", case.name);
        }
    }
}

#[derive(Deserialize)]
struct WalkCase {
    name: String,
    tree: Vec<Vec<u32>>,
    samples: Vec<u32>,
    emitted: Vec<u32>,
    limit: Option<usize>,
    end: Option<u32>,
}

#[test]
fn walks_emit_what_is_written_down() {
    let suite: Suite<WalkCase> = toml::from_str(include_str!("../data/walk.toml")).expect("valid TOML");
    for case in suite.case {
        let mut tree = DraftTree::new();
        for path in &case.tree {
            let parent = path[..path.len() - 1].iter().fold(None, |at, &token| tree.child(at, Token(token)));
            tree.add(parent, Token(path[path.len() - 1]), 0.5);
        }
        let mut batch = DraftBatch::new();
        let root = batch.push_draft(Slot(0), Pos(5), Token(0), &tree);
        let mut samples = case.samples.iter().map(|&token| Token(token));
        let mut out = Walk::default();
        let ends = |token: Token| Some(token.0) == case.end;
        let sample = |_| Ok(samples.next().expect("no more samples than visited rows"));
        walk(&batch, root, case.limit.unwrap_or(100), ends, sample, &mut out).expect("no sampler error");
        let emitted: Vec<u32> = out.tokens.iter().map(|token| token.0).collect();
        assert_eq!(emitted, case.emitted, "{}", case.name);
        assert_eq!(samples.next(), None, "{}: every sample was taken", case.name);
    }
}

/// Random sparse tables: each token has a few successors whose probabilities sum to less than 1.
fn table() -> impl Strategy<Value = Table> {
    let row = prop::collection::btree_map(0u32..12, 1u32..100, 0..5);
    (prop::collection::btree_map(0u32..12, row, 0..12), 0u32..12).prop_map(|(rows, root)| {
        let successors = rows
            .into_iter()
            .map(|(token, row)| {
                let total: u32 = row.values().sum::<u32>() + 20;
                (token, row.into_iter().map(|(next, weight)| (next, weight as f32 / total as f32)).collect())
            })
            .collect();
        Table { successors, root }
    })
}

proptest! {
    #[test]
    fn best_first_is_as_good_as_the_oracle(table in table(), max_nodes in 0usize..30, max_depth in 1u16..7) {
        let bounds = Bounds { max_nodes, max_depth, max_leaves: usize::MAX };
        let mut tree = DraftTree::new();
        BestFirst::default().search(&table, &bounds, &mut |_, _| true, &mut tree);
        let best = oracle(&table, &bounds);
        prop_assert_eq!(tree.len(), best.len());
        for (survival, (_, expected)) in tree.survivals().iter().zip(best) {
            prop_assert!((survival - expected).abs() < 1e-5);
        }
    }

    #[test]
    fn searches_are_repeatable_and_within_bounds(
        table in table(), max_nodes in 0usize..30, max_depth in 1u16..7, max_leaves in 1usize..5,
    ) {
        let bounds = Bounds { max_nodes, max_depth, max_leaves };
        let searches: [fn() -> Box<dyn Search>; 2] = [|| Box::new(BestFirst::default()), || Box::new(Mcts::new(50))];
        for search in searches {
            let once = run(&mut *search(), &table, &bounds);
            let mut used = search();
            run(&mut *used, &table, &Bounds { max_nodes: 7, max_depth: 3, max_leaves: 9 });
            prop_assert_eq!(&run(&mut *used, &table, &bounds), &once, "what was searched before leaves no trace");
            prop_assert!(once.iter().all(|path| path.len() <= usize::from(max_depth)));
        }
    }

    #[test]
    fn a_tree_survives_the_way_through_a_batch(parents in prop::collection::vec(any::<prop::sample::Index>(), 0..60)) {
        let mut tree = DraftTree::new();
        for (token, parent) in parents.iter().enumerate() {
            let parent = parent.index(tree.len() + 1).checked_sub(1).map(|index| NodeId(index as u32));
            tree.add(parent, Token(token as u32), 0.5);
        }
        let mut batch = DraftBatch::new();
        batch.push_prompt(Slot(3), Pos(0), &[Token(1); 4], false);
        let root = batch.push_draft(Slot(0), Pos(20), Token(999), &tree);
        prop_assert_eq!(batch.len(), 4 + 1 + tree.len());
        let mut leaves_seen = vec![0; tree.n_leaves().max(1)];
        for row in (root.0 + 1..batch.len() as u32).map(RowId) {
            let node = batch.node(row).expect("a draft row has its node");
            let parent = batch.row(row).parent.expect("a draft row has a parent");
            prop_assert!(parent < row, "parents first");
            prop_assert_eq!(batch.node(parent), tree.parent(node));
            prop_assert_eq!(batch.row(row).token, tree.token(node));
            prop_assert_eq!(batch.row(row).pos.0, batch.row(parent).pos.0 + 1);
            prop_assert!(batch.row(parent).first_leaf <= batch.row(row).first_leaf);
            prop_assert!(batch.row(row).end_leaf <= batch.row(parent).end_leaf, "leaf sets shrink along paths");
            prop_assert_eq!(batch.child(parent, tree.token(node)), Some(row));
            if tree.children(Some(node)).next().is_none() {
                prop_assert_eq!(batch.row(row).leaves().len(), 1);
                leaves_seen[usize::from(batch.row(row).first_leaf)] += 1;
            }
        }
        prop_assert_eq!(batch.row(root).leaves(), 0..tree.n_leaves().max(1) as u16);
        prop_assert!(tree.is_empty() || leaves_seen.iter().all(|&count| count == 1), "each leaf number once");
    }
}
