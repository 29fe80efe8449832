//! Copying: where the end of the context stood before, and what came after it there.
//!
//! A hash of the last 2, 4 and 8 tokens leads to the place where they ended last; the match is verified and measured backwards, so a
//! hash collision costs time and never a wrong guess.

use crate::token::Token;

/// Lengths of the indexed ends, longest first.
const ORDERS: [usize; 3] = [8, 4, 2];

/// Matches longer than this are as good as certain; measuring stops here.
pub const MAX_MATCH: usize = 64;

/// A place in an indexed text whose token is the guess, and the length of the match before it. Length 0 = no match.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Cursor {
    at: u32,
    /// Number of matching tokens before the place, at most [`MAX_MATCH`].
    pub length: u32,
}

/// A text, and an index of where its pieces stand.
#[derive(Clone, Debug)]
pub struct CopyIndex {
    tokens: Vec<Token>,
    /// For each order a table of positions after the piece; 0 = none.
    heads: [Vec<u32>; ORDERS.len()],
    /// Documents do not continue each other: a match never reaches before this position.
    document: usize,
    /// Where documents after the first begin, rising.
    starts: Vec<u32>,
    max_tokens: usize,
}

impl CopyIndex {
    /// An index that holds the last `max_tokens` tokens at most, half of them at least (16 bytes per token).
    pub fn new(max_tokens: usize) -> Self {
        let max_tokens = max_tokens.max(16);
        let n_heads = max_tokens.next_power_of_two();
        Self {
            tokens: Vec::new(),
            heads: std::array::from_fn(|_| vec![0; n_heads]),
            document: 0,
            starts: Vec::new(),
            max_tokens,
        }
    }

    /// Appends a token.
    pub fn push(&mut self, token: Token) {
        if self.tokens.len() >= self.max_tokens {
            self.drop_older_half();
        }
        self.tokens.push(token);
        self.index_end(self.tokens.len());
    }

    /// Appends tokens.
    pub fn extend(&mut self, tokens: &[Token]) {
        for &token in tokens {
            self.push(token);
        }
    }

    /// The next token begins another document.
    pub fn begin_document(&mut self) {
        self.document = self.tokens.len();
        if self.starts.last() != Some(&(self.document as u32)) {
            self.starts.push(self.document as u32);
        }
    }

    /// The documents held, oldest first. The first may lack its beginning.
    pub fn documents(&self) -> impl Iterator<Item = &[Token]> {
        let starts = || self.starts.iter().map(|&start| start as usize);
        let bounds = std::iter::once(0).chain(starts()).zip(starts().chain([self.tokens.len()]));
        bounds.map(|(start, end)| &self.tokens[start..end]).filter(|document| !document.is_empty())
    }

    /// Most tokens that are ever held.
    pub fn max_tokens(&self) -> usize {
        self.max_tokens
    }

    /// The text held.
    pub fn tokens(&self) -> &[Token] {
        &self.tokens
    }

    /// The longest verified match of the text's own end, before that end.
    pub fn own_end(&self) -> Cursor {
        self.find(&self.tokens)
    }

    /// The longest verified match of the end of `context` in this text. Of several places that match equally far by their hash the
    /// latest counts.
    pub fn find(&self, context: &[Token]) -> Cursor {
        for (order, heads) in ORDERS.into_iter().zip(&self.heads) {
            if context.len() < order {
                continue;
            }
            let at = heads[self.slot(&context[context.len() - order..])] as usize;
            if at == 0 || at >= self.tokens.len() {
                continue;
            }
            let matching = self.tokens[..at].iter().rev().zip(context.iter().rev()).take(MAX_MATCH);
            let length = matching.take_while(|(here, there)| here == there).count();
            if length >= order {
                return Cursor { at: at as u32, length: length as u32 };
            }
        }
        Cursor::default()
    }

    /// The guess at a cursor.
    pub fn guess(&self, cursor: Cursor) -> Option<Token> {
        if cursor.length == 0 {
            return None;
        }
        self.tokens.get(cursor.at as usize).copied()
    }

    /// The cursor after `token` was added to a context that ended in `last`: one further where it is the guess, else the latest place
    /// of these two tokens.
    pub fn follow(&self, cursor: Cursor, last: Token, token: Token) -> Cursor {
        if self.guess(cursor) == Some(token) {
            return Cursor { at: cursor.at + 1, length: (cursor.length + 1).min(MAX_MATCH as u32) };
        }
        self.find(&[last, token])
    }

    /// Forgets everything and keeps the memory.
    pub fn clear(&mut self) {
        self.tokens.clear();
        self.heads.iter_mut().for_each(|heads| heads.fill(0));
        self.document = 0;
        self.starts.clear();
    }

    /// Bytes held.
    pub fn memory_bytes(&self) -> usize {
        self.tokens.capacity() * size_of::<Token>() + self.heads.iter().map(|heads| heads.capacity() * 4).sum::<usize>()
    }

    /// Enters the pieces that end just before position `end - 1`'s token: the token at `end - 1` is their continuation.
    fn index_end(&mut self, end: usize) {
        let piece_end = end - 1;
        for (index, order) in ORDERS.into_iter().enumerate() {
            if piece_end < self.document + order {
                continue;
            }
            let slot = self.slot(&self.tokens[piece_end - order..piece_end]);
            self.heads[index][slot] = piece_end as u32;
        }
    }

    fn drop_older_half(&mut self) {
        let dropped = self.tokens.len() / 2;
        self.tokens.drain(..dropped);
        self.heads.iter_mut().for_each(|heads| heads.fill(0));
        self.starts.retain_mut(|start| {
            *start = start.saturating_sub(dropped as u32);
            *start > 0
        });
        self.document = 0;
        let mut next = 0;
        for end in 1..=self.tokens.len() {
            if let Some(&start) = self.starts.get(next).filter(|&&start| (start as usize) < end) {
                self.document = start as usize;
                next += 1;
            }
            self.index_end(end);
        }
        self.document = self.starts.last().map_or(0, |&start| start as usize);
    }

    fn slot(&self, piece: &[Token]) -> usize {
        let mut hash = piece.len() as u64;
        for token in piece {
            hash = (hash ^ u64::from(token.0)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            hash ^= hash >> 29;
        }
        (hash >> 7) as usize & (self.heads[0].len() - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(ids: &[u32]) -> Vec<Token> {
        ids.iter().copied().map(Token).collect()
    }

    #[test]
    fn the_longest_match_wins_and_its_length_is_measured() {
        let mut index = CopyIndex::new(1024);
        index.extend(&tokens(&[5, 1, 2, 3, 4, 50, 9, 3, 4, 60, 7, 1, 2, 3, 4]));
        let cursor = index.own_end();
        assert_eq!(cursor.length, 4);
        assert_eq!(index.guess(cursor), Some(Token(50)), "four tokens match here, two at the later place");
        let next = index.follow(cursor, Token(4), Token(50));
        assert_eq!((index.guess(next), next.length), (Some(Token(9)), 5));
        let other = index.follow(cursor, Token(4), Token(60));
        assert_eq!((index.guess(other), other.length), (Some(Token(7)), 2));
        assert_eq!(index.guess(index.follow(cursor, Token(4), Token(99))), None);
    }

    #[test]
    fn a_text_without_repetition_has_no_match() {
        let mut index = CopyIndex::new(64);
        assert_eq!(index.own_end(), Cursor::default());
        for id in 0..1000 {
            index.push(Token(id));
            assert_eq!(index.guess(index.own_end()), None);
        }
        assert!(index.tokens().len() <= 64);
    }

    #[test]
    fn after_dropping_the_older_half_matches_are_right() {
        let mut index = CopyIndex::new(32);
        for round in 0..50u32 {
            index.extend(&tokens(&[1, 2, 3, 100 + round]));
            index.begin_document();
            let cursor = index.find(&tokens(&[1, 2]));
            assert_eq!(index.guess(cursor), Some(Token(3)));
        }
    }

    #[test]
    fn documents_do_not_continue_each_other() {
        let mut index = CopyIndex::new(64);
        index.extend(&tokens(&[1, 2]));
        index.begin_document();
        index.begin_document();
        index.extend(&tokens(&[3, 4]));
        assert_eq!(index.guess(index.find(&tokens(&[1, 2]))), None);
        let documents: Vec<_> = index.documents().map(<[Token]>::to_vec).collect();
        assert_eq!(documents, [tokens(&[1, 2]), tokens(&[3, 4])]);
        for id in 0..100 {
            index.begin_document();
            index.extend(&tokens(&[1, 2, 1000 + id]));
            index.begin_document();
            index.extend(&tokens(&[3, 4]));
            assert_eq!(index.documents().flatten().count(), index.tokens().len());
            assert!(index.documents().last() == Some(&tokens(&[3, 4])));
            assert_ne!(index.guess(index.find(&tokens(&[2, 1000 + id]))), Some(Token(3)));
        }
    }
}
