//! The method on a model of one's own, without llama.cpp:
//!
//! ```sh
//! cargo run --no-default-features --example 02_own_model
//! ```
//!
//! The model here is a table that knows, for every twelve characters of a text, which character followed how often. What an engine must
//! offer is in `impl TargetModel`: decode rows that hang together as a tree, hand out their logits, and keep the path that was taken.

use std::collections::HashMap;

use aded::batch::DraftBatch;
use aded::config::DraftMode;
use aded::model::{DraftShape, Limits, TargetModel};
use aded::sampling::Greedy;
use aded::{Config, Error, Request, RowId, Session, Slot, Token};

/// Characters that the model looks back.
const ORDER: usize = 12;
/// A token is a byte.
const N_VOCAB: usize = 256;

const TEXT: &str = "\
the wheel turns and the mill grinds the corn; the miller takes the flour to the baker, and the baker bakes the bread. \
the baker sells the bread to the miller, and the miller eats the bread while the wheel turns and the mill grinds the corn. \
when the river is low the wheel stands still, and the miller waits for the rain. when the rain falls the river rises, \
and the wheel turns and the mill grinds the corn; ";

struct Markov {
    followers: HashMap<Vec<Token>, [f32; N_VOCAB]>,
    /// What slot 0 holds.
    held: Vec<Token>,
    /// The last batch: each row's token and parent.
    rows: Vec<(Token, Option<RowId>)>,
    logits: Vec<[f32; N_VOCAB]>,
    n_calls: usize,
}

impl Markov {
    fn learn(text: &str) -> Self {
        let tokens = tokens(text);
        let mut followers: HashMap<Vec<Token>, [f32; N_VOCAB]> = HashMap::new();
        for window in tokens.windows(ORDER + 1) {
            followers.entry(window[..ORDER].to_vec()).or_insert([0.0; N_VOCAB])[window[ORDER].0 as usize] += 1.0;
        }
        Self { followers, held: Vec::new(), rows: Vec::new(), logits: Vec::new(), n_calls: 0 }
    }

    /// The tokens from the first row of the batch down to `row`.
    fn path(&self, row: RowId) -> Vec<Token> {
        let mut path: Vec<Token> = std::iter::successors(Some(row), |row| self.rows[row.0 as usize].1)
            .map(|row| self.rows[row.0 as usize].0)
            .collect();
        path.reverse();
        path
    }
}

impl TargetModel for Markov {
    fn limits(&self) -> Limits {
        Limits {
            n_vocab: N_VOCAB as u32,
            n_ctx: 4096,
            max_rows: 512,
            max_logits_rows: 64,
            max_leaves: 16,
            n_slots: 1,
            shape: DraftShape::Tree,
        }
    }

    fn decode(&mut self, batch: &DraftBatch) -> Result<(), Error> {
        self.n_calls += 1;
        self.rows = batch.rows().iter().map(|row| (row.token, row.parent)).collect();
        // Each row sees what is held and its own path, nothing else. A real engine computes all rows at once: that is the gain.
        self.logits = (0..self.rows.len() as u32)
            .map(|row| {
                let mut context = self.held.clone();
                context.extend(self.path(RowId(row)));
                let end = &context[context.len().saturating_sub(ORDER)..];
                self.followers.get(end).copied().unwrap_or([0.0; N_VOCAB])
            })
            .collect();
        Ok(())
    }

    fn logits(&self, row: RowId) -> &[f32] {
        &self.logits[row.0 as usize]
    }

    fn keep(&mut self, _: Slot, last: RowId) -> Result<(), Error> {
        let path = self.path(last);
        self.held.extend(path);
        Ok(())
    }

    fn truncate(&mut self, _: Slot, n_tokens: u32) -> Result<(), Error> {
        self.held.truncate(n_tokens as usize);
        Ok(())
    }
}

fn tokens(text: &str) -> Vec<Token> {
    text.bytes().map(|byte| Token(byte.into())).collect()
}

fn main() -> Result<(), Error> {
    let prompt = tokens("the wheel turns and the mi");
    let request = Request { prompt: &prompt, n_max: 240, end_tokens: &[] };
    let mut answers = Vec::new();
    for mode in [DraftMode::Off, DraftMode::On] {
        let mut config = Config::default();
        config.draft.mode = mode;
        // Calls take no time here, so that their measured cost says nothing: a fixed number of nodes instead.
        config.draft.budget = Some(8);
        let mut session = Session::new(Markov::learn(TEXT), config)?;
        let mut greedy = Greedy;
        let mut generation = session.generate(&request, &mut greedy)?;
        let answer = generation.by_ref().collect::<Result<Vec<Token>, Error>>()?;
        let (n_tokens, stats) = (answer.len(), generation.stats().clone());
        drop(generation);
        println!(
            "{mode:?}: {n_tokens} tokens in {} calls, {:.2} tokens per round",
            session.target().n_calls,
            stats.tokens_per_round()
        );
        answers.push(answer);
    }
    assert_eq!(answers[0], answers[1], "drafts change the time, never the answer");
    let text: String = answers[0].iter().map(|token| char::from(token.0 as u8)).collect();
    println!("{text}");
    Ok(())
}
