//! The representative as published, for the `reference` search: a tri-gram table whose weights grow where the text goes.
//!
//! Weights begin as count / total of the corpus, the 12 heaviest of each pair. At the start of each draft step every tri-gram among the
//! last 16 tokens gains 0.04, up to 3.0; weights are never normalised and never decay (arXiv 2407.12021 and its published code; checked
//! against the package `draftretriever` 0.1.1). What is ours: the table is bounded, which the published one is not.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;

use crate::representative::corpus::{Corpus, MAX_SUCCESSORS};
use crate::token::Token;

/// Tokens at the end of the text whose tri-grams each draft step learns.
const WINDOW: usize = 16;
/// What a tri-gram's weight gains.
const STEP: f32 = 0.04;
const MAX_WEIGHT: f32 = 3.0;

/// Successors that a changed pair can hold: those of the corpus and as many learnt ones. The lightest gives way.
pub(crate) const WIDTH: usize = 2 * MAX_SUCCESSORS;

/// Pairs and the weights of their successors: a corpus, frozen, under the pairs that have changed.
#[derive(Debug)]
pub struct ReferenceTable {
    corpus: Option<Arc<Corpus>>,
    /// Place of a changed pair in `rows`.
    places: HashMap<u64, u32, BuildHasherDefault<PairHasher>>,
    rows: Vec<Row>,
    /// The row to be given up when a new pair finds no place: the one changed first.
    oldest: usize,
    max_rows: usize,
}

/// Successors by falling weight, ties by token id up.
#[derive(Clone, Debug)]
struct Row {
    key: u64,
    n: usize,
    successors: [(Token, f32); WIDTH],
}

impl ReferenceTable {
    /// A table over a corpus that can change the weights of at most `max_pairs` pairs (about 240 bytes each). After that the pair that was
    /// changed first goes back to what the corpus says.
    pub fn new(corpus: Option<Arc<Corpus>>, max_pairs: usize) -> Self {
        let max_rows = max_pairs.clamp(1, 1 << 24);
        // Twice the entries: a full hash table then tidies up in place instead of growing.
        let places = HashMap::with_capacity_and_hasher(2 * max_rows, BuildHasherDefault::default());
        Self { corpus, places, rows: Vec::with_capacity(max_rows), oldest: 0, max_rows }
    }

    /// The update at the start of a draft step: `text` ends with the last confirmed token.
    pub fn update(&mut self, text: &[Token]) {
        for window in text[text.len().saturating_sub(WINDOW)..].windows(3) {
            let &[a, b, c] = window else { continue };
            let row = self.changed_row(a, b);
            row.strengthen(c);
        }
    }

    /// Writes the successors of a pair with their weights into `out`, heaviest first, ties by token id up.
    pub fn successors(&self, a: Token, b: Token, out: &mut Vec<(Token, f32)>) {
        out.clear();
        match self.row(a, b) {
            Some(row) => out.extend_from_slice(&row.successors[..row.n]),
            None => out.extend(self.corpus.iter().flat_map(|corpus| corpus.successors3(a, b))),
        }
    }

    /// The weight of `c` after `a`, `b`; 0 if it is not a successor.
    pub fn weight(&self, a: Token, b: Token, c: Token) -> f32 {
        let of = |found: Option<(Token, f32)>| found.map_or(0.0, |(_, weight)| weight);
        match self.row(a, b) {
            Some(row) => of(row.successors[..row.n].iter().copied().find(|&(token, _)| token == c)),
            None => of(self.corpus.as_ref().and_then(|corpus| corpus.successors3(a, b).find(|&(token, _)| token == c))),
        }
    }

    /// Pairs whose weights have changed.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// True if nothing has changed since the corpus.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Forgets all changes.
    pub fn clear(&mut self) {
        self.places.clear();
        self.rows.clear();
        self.oldest = 0;
    }

    /// Bytes held, the corpus not counted.
    pub fn memory_bytes(&self) -> usize {
        // A hash table's entry is its pair and one byte.
        self.rows.capacity() * size_of::<Row>() + self.places.capacity() * (size_of::<(u64, u32)>() + 1)
    }

    fn row(&self, a: Token, b: Token) -> Option<&Row> {
        self.places.get(&key(a, b)).map(|&place| &self.rows[place as usize])
    }

    /// The pair's row, made from the corpus if this is its first change.
    fn changed_row(&mut self, a: Token, b: Token) -> &mut Row {
        let key = key(a, b);
        let place = match self.places.get(&key) {
            Some(&place) => place as usize,
            None => {
                let mut row = Row { key, n: 0, successors: [(Token(0), 0.0); WIDTH] };
                for successor in self.corpus.iter().flat_map(|corpus| corpus.successors3(a, b)) {
                    row.successors[row.n] = successor;
                    row.n += 1;
                }
                let place = if self.rows.len() < self.max_rows {
                    self.rows.push(row);
                    self.rows.len() - 1
                } else {
                    let place = self.oldest;
                    self.oldest = (place + 1) % self.max_rows;
                    let given_up = std::mem::replace(&mut self.rows[place], row);
                    self.places.remove(&given_up.key);
                    place
                };
                self.places.insert(key, place as u32);
                place
            }
        };
        &mut self.rows[place]
    }
}

impl Row {
    fn strengthen(&mut self, token: Token) {
        let mut place = match self.successors[..self.n].iter().position(|&(other, _)| other == token) {
            Some(place) => place,
            None => {
                let place = self.n.min(WIDTH - 1);
                self.n = place + 1;
                self.successors[place] = (token, 0.0);
                place
            }
        };
        let weight = &mut self.successors[place].1;
        // A weight that begins above the limit is lowered to it, as published.
        *weight = (*weight + STEP).min(MAX_WEIGHT);
        let weight = *weight;
        while place > 0 {
            let (before, heavier) = self.successors[place - 1];
            if heavier > weight || (heavier == weight && before < token) {
                break;
            }
            self.successors.swap(place - 1, place);
            place -= 1;
        }
    }
}

fn key(a: Token, b: Token) -> u64 {
    u64::from(a.0) << 32 | u64::from(b.0)
}

/// Hashes a pair by one multiplication; nothing here comes from an attacker who could profit from collisions, and the standard hasher
/// would take most of the search's time.
#[derive(Default)]
struct PairHasher(u64);

impl Hasher for PairHasher {
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|&byte| self.write_u64(byte.into()));
    }

    fn write_u64(&mut self, key: u64) {
        let wide = u128::from(self.0 ^ key) * 0x9e37_79b9_7f4a_7c15;
        self.0 = wide as u64 ^ (wide >> 64) as u64;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::representative::corpus::{BuildOptions, CorpusBuilder};
    use crate::representative::store::Fingerprint;

    fn tokens(ids: &[u32]) -> Vec<Token> {
        ids.iter().copied().map(Token).collect()
    }

    /// (1, 2) is followed by 3 twice and by 4 once.
    fn corpus() -> Arc<Corpus> {
        let mut builder = CorpusBuilder::new(BuildOptions::new(100, Fingerprint(0), "")).unwrap();
        builder.push_document(&tokens(&[1, 2, 3, 1, 2, 4, 1, 2, 3])).unwrap();
        Arc::new(builder.finish_in_memory().unwrap())
    }

    fn successors(table: &ReferenceTable, a: u32, b: u32) -> Vec<(u32, f32)> {
        let mut out = Vec::new();
        table.successors(Token(a), Token(b), &mut out);
        for &(token, weight) in &out {
            assert_eq!(table.weight(Token(a), Token(b), token), weight);
        }
        out.iter().map(|&(token, weight)| (token.0, weight)).collect()
    }

    #[test]
    fn weights_begin_with_the_corpus_and_grow_with_the_text() {
        let mut table = ReferenceTable::new(Some(corpus()), 100);
        assert_eq!(successors(&table, 1, 2), [(3, 2.0 / 3.0), (4, 1.0 / 3.0)]);
        table.update(&tokens(&[1, 2, 9, 1, 2, 9, 8]));
        assert_eq!(successors(&table, 1, 2), [(3, 2.0 / 3.0), (4, 1.0 / 3.0), (9, 0.08)]);
        assert_eq!(successors(&table, 2, 9), [(1, 0.04), (8, 0.04)]);
        for _ in 0..8 {
            table.update(&tokens(&[1, 2, 4]));
        }
        assert_eq!(successors(&table, 1, 2)[0].0, 3, "0.33 + 0.32 is below 0.67");
        table.update(&tokens(&[1, 2, 4]));
        assert_eq!(successors(&table, 1, 2)[0].0, 4);
        for _ in 0..100 {
            table.update(&tokens(&[1, 2, 4]));
        }
        assert_eq!(successors(&table, 1, 2)[0], (4, MAX_WEIGHT));
        table.clear();
        assert_eq!(successors(&table, 1, 2), [(3, 2.0 / 3.0), (4, 1.0 / 3.0)]);
    }

    #[test]
    fn fourteen_tri_grams_are_learnt() {
        let mut table = ReferenceTable::new(None, 100);
        table.update(&tokens(&(0..40).collect::<Vec<_>>()));
        assert_eq!(table.len(), 14);
        assert_eq!((successors(&table, 23, 24).len(), successors(&table, 24, 25).len()), (0, 1));
        assert_eq!(successors(&table, 37, 38), [(39, 0.04)]);
        for short in [&[][..], &[1], &[1, 2]] {
            table.update(&tokens(short));
        }
        assert_eq!(table.len(), 14);
    }

    #[test]
    fn the_table_is_bounded() {
        let mut table = ReferenceTable::new(Some(corpus()), 20);
        table.update(&tokens(&[1, 2, 4]));
        for i in 0..1000u32 {
            table.update(&tokens(&[i, i + 1, i + 2]));
            assert!(table.len() <= 20 && table.places.len() == table.len());
        }
        assert_eq!(successors(&table, 1, 2), [(3, 2.0 / 3.0), (4, 1.0 / 3.0)], "back to the corpus");
        assert_eq!(successors(&table, 999, 1000).len(), 1);
        let bytes = table.memory_bytes();
        (0..5000).for_each(|i| table.update(&tokens(&[i, 7, i])));
        assert_eq!(table.memory_bytes(), bytes);
        for c in 0..100 {
            table.update(&tokens(&[5, 5, c]));
        }
        assert_eq!(successors(&table, 5, 5).len(), WIDTH);
    }
}
