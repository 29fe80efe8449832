//! A tree, its rows, and the walk down: all three must be of one shape.

use aded::batch::DraftBatch;
use aded::draft::DraftTree;
use aded::verify::{Walk, walk};
use aded::{NodeId, Pos, RowId, Slot, Token};

pub(crate) fn check(bytes: &[u8]) {
    let Some((&[n_nodes, n_kept], rest)) = bytes.split_first_chunk::<2>() else { return };
    let (nodes, said) = rest.split_at((2 * usize::from(n_nodes)).min(rest.len()) / 2 * 2);
    let mut tree = DraftTree::new();
    for &[parent, token] in nodes.as_chunks::<2>().0 {
        let parent = (usize::from(parent) % (tree.len() + 1)).checked_sub(1).map(|node| NodeId(node as u32));
        tree.add(parent, Token(u32::from(token % 7)), f32::from(token) / 255.0);
    }
    tree.truncate(usize::from(n_kept));
    let mut batch = DraftBatch::new();
    batch.push_prompt(Slot(1), Pos(3), &[Token(1), Token(2)], true);
    let root = batch.push_draft(Slot(0), Pos(9), Token(5), &tree);
    assert_eq!(batch.len(), 3 + tree.len());
    let mut leaves = vec![0; tree.n_leaves().max(1)];
    for row in (root.0..batch.len() as u32).map(RowId) {
        let leaf_range = batch.row(row).leaves();
        assert!(!leaf_range.is_empty() && usize::from(leaf_range.end) <= leaves.len());
        match (batch.node(row), batch.row(row).parent) {
            (Some(node), Some(parent)) => {
                assert!(parent < row && batch.node(parent) == tree.parent(node));
                assert_eq!(
                    (batch.row(row).token, batch.row(row).pos.0),
                    (tree.token(node), 9 + u32::from(tree.depth(node)))
                );
                assert_eq!(batch.child(parent, tree.token(node)), Some(row));
                let around = batch.row(parent).leaves();
                assert!(around.start <= leaf_range.start && leaf_range.end <= around.end);
                if tree.children(Some(node)).next().is_none() {
                    leaves[usize::from(leaf_range.start)] += 1;
                }
            }
            (node, parent) => assert!(row == root && node.is_none() && parent.is_none()),
        }
    }
    assert!(tree.is_empty() || leaves.iter().all(|&n| n == 1), "every leaf has an id of its own");
    let mut samples = said.iter().map(|&byte| Token(u32::from(byte % 8)));
    let mut taken = Walk::default();
    let limit = 1 + said.len() % 5;
    walk(&batch, root, limit, |token| token.0 == 7, |_| Ok(samples.next().unwrap_or(Token(6))), &mut taken)
        .expect("this sampler does not fail");
    assert!(taken.rows.len() == taken.tokens.len() && taken.tokens.len() <= limit && taken.rows[0] == root);
    for (pair, &token) in taken.rows.windows(2).zip(&taken.tokens) {
        assert_eq!((batch.row(pair[1]).parent, batch.row(pair[1]).token), (Some(pair[0]), token));
    }
}
