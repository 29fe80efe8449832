//! What this and earlier generations said: counts of tri-, bi- and uni-grams, bounded and decaying.

use crate::representative::NO_TOKEN;
use crate::representative::rows::{Row, RowTable, WIDTH, pair_key, token_key};
use crate::token::Token;

/// Weight of one observation. Weights are fixed-point, so that halving loses little.
pub(crate) const ONE: u16 = 16;

/// A context's counts are halved when their sum passes this many observations: what was said lately outweighs what was said often.
const MAX_TOTAL: u32 = 48 * ONE as u32;

/// Counted successors of pairs, of single tokens, and of nothing.
#[derive(Clone, Debug)]
pub struct Overlay {
    table: RowTable,
}

impl Overlay {
    /// A table of at most `n_contexts` contexts, pairs and single tokens together (64 bytes each).
    pub fn new(n_contexts: usize) -> Self {
        Self { table: RowTable::new(n_contexts) }
    }

    /// Learns that `next` came after `previous` and `last`; either may be [`NO_TOKEN`] at the start of a text.
    pub fn learn(&mut self, previous: Token, last: Token, next: Token) {
        if last != NO_TOKEN {
            if previous != NO_TOKEN {
                count(self.table.get_or_insert(pair_key(previous, last)), next);
            }
            count(self.table.get_or_insert(token_key(last)), next);
        }
        count(self.table.get_or_insert(token_key(NO_TOKEN)), next);
    }

    /// Learns every tri-gram of a text once for each time it stands there.
    pub fn learn_text(&mut self, tokens: &[Token]) {
        let (mut previous, mut last) = (NO_TOKEN, NO_TOKEN);
        for &next in tokens {
            self.learn(previous, last, next);
            (previous, last) = (last, next);
        }
    }

    /// Counted successors of a pair.
    pub fn pair(&self, previous: Token, last: Token) -> Option<&Row> {
        self.table.get(pair_key(previous, last))
    }

    /// Counted successors of a single token.
    pub fn token(&self, last: Token) -> Option<&Row> {
        self.table.get(token_key(last))
    }

    /// The tokens said most of late, whatever stood before them.
    pub fn any(&self) -> Option<&Row> {
        self.table.get(token_key(NO_TOKEN))
    }

    /// The table itself.
    pub fn table(&self) -> &RowTable {
        &self.table
    }

    /// The table itself, to merge what was saved.
    pub(crate) fn table_mut(&mut self) -> &mut RowTable {
        &mut self.table
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.table.clear();
    }
}

/// Brings a row from a file into order. False if no overlay can have written it.
pub(crate) fn tidy(row: &mut Row) -> bool {
    for (weight, token) in row.weights.iter_mut().zip(row.tokens) {
        *weight = if token == NO_TOKEN { 0 } else { *weight };
    }
    row.total = row.weights.iter().map(|&weight| u32::from(weight)).sum();
    row.total <= MAX_TOTAL
}

/// Adds what another process counted in the same context. Both may have begun with the same counts, so that a successor is worth what the
/// surer of them says, not the sum.
pub(crate) fn merge(row: &mut Row, other: &Row) {
    let mut all = [(NO_TOKEN, 0u16); 2 * WIDTH];
    let mut n = 0;
    for (token, weight) in row.iter().chain(other.iter()) {
        match all[..n].iter_mut().find(|(known, _)| *known == token) {
            Some((_, known)) => *known = weight.max(*known),
            None => {
                all[n] = (token, weight);
                n += 1;
            }
        }
    }
    all[..n].sort_unstable_by_key(|&(token, weight)| (std::cmp::Reverse(weight), token));
    for (place, (token, weight)) in all.into_iter().take(WIDTH).enumerate() {
        (row.tokens[place], row.weights[place]) = (token, weight);
    }
    tidy(row);
    halve_if_full(row);
}

fn count(row: &mut Row, next: Token) {
    let place = (0..WIDTH).find(|&place| row.tokens[place] == next).unwrap_or_else(|| {
        // The lightest successor gives way; unused places weigh nothing.
        let lightest = (0..WIDTH).min_by_key(|&place| row.weights[place]).unwrap_or(0);
        row.total -= u32::from(row.weights[lightest]);
        row.tokens[lightest] = next;
        row.weights[lightest] = 0;
        lightest
    });
    row.weights[place] += ONE;
    row.total += u32::from(ONE);
    halve_if_full(row);
}

fn halve_if_full(row: &mut Row) {
    if row.total > MAX_TOTAL {
        row.total = 0;
        for weight in &mut row.weights {
            *weight /= 2;
            row.total += u32::from(*weight);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(ids: &[u32]) -> Vec<Token> {
        ids.iter().copied().map(Token).collect()
    }

    #[test]
    fn each_tri_gram_is_learnt_once_per_occurrence() {
        let mut overlay = Overlay::new(64);
        overlay.learn_text(&tokens(&[1, 2, 3, 1, 2, 4, 1, 2, 3]));
        let row = overlay.pair(Token(1), Token(2)).expect("seen three times");
        let mut seen: Vec<_> = row.iter().collect();
        seen.sort();
        assert_eq!(seen, [(Token(3), 2 * ONE), (Token(4), ONE)]);
        assert_eq!(row.total, 3 * u32::from(ONE));
        assert_eq!(overlay.token(Token(3)).map(|row| row.iter().count()), Some(1));
        assert!(overlay.pair(Token(2), Token(1)).is_none());
        assert_eq!(overlay.any().map(|row| row.total), Some(9 * u32::from(ONE)));
    }

    #[test]
    fn counts_decay_and_the_lightest_gives_way() {
        let mut overlay = Overlay::new(64);
        for _ in 0..1000 {
            overlay.learn(Token(1), Token(2), Token(3));
        }
        for next in 10..20 {
            overlay.learn(Token(1), Token(2), Token(next));
        }
        let row = overlay.pair(Token(1), Token(2)).expect("learnt");
        assert!(row.iter().any(|(token, _)| token == Token(3)));
        assert!(row.iter().any(|(token, _)| token == Token(19)));
        assert!(row.total <= MAX_TOTAL);
        assert_eq!(row.total, row.iter().map(|(_, weight)| u32::from(weight)).sum::<u32>());
    }
}
