//! Greedy decoding on a target whose rows move with the shape of the batch, as real backends' do.

use aded::batch::DraftBatch;
use aded::config::{Config, DraftConfig, DraftMode};
use aded::model::{DraftShape, Limits, ScriptedModel, TargetModel};
use aded::noise::shape_noise;
use aded::sampling::Greedy;
use aded::{Error, Request, RowId, Session, Slot, Stats, Token};

/// A row that shares its call has each of its logits moved by up to this.
const NOISE: f32 = 0.1;

#[derive(Clone)]
struct Noisy {
    inner: ScriptedModel,
    logits: Vec<f32>,
}

impl TargetModel for Noisy {
    fn limits(&self) -> Limits {
        self.inner.limits()
    }

    fn decode(&mut self, batch: &DraftBatch) -> Result<(), Error> {
        self.inner.decode(batch)?;
        let n_vocab = self.limits().n_vocab as usize;
        self.logits.clear();
        for (index, row) in (0..).zip(batch.rows()) {
            if !row.wants_logits {
                self.logits.resize(self.logits.len() + n_vocab, 0.0);
                continue;
            }
            let moved = self.inner.logits(RowId(index)).iter().enumerate().map(|(token, logit)| {
                let key = (token as u32).wrapping_mul(2_654_435_761)
                    ^ (batch.len() as u32 * 40_503 + index * 977 + row.pos.0 * 31);
                let share = key.wrapping_mul(2_246_822_519) as f32 / u32::MAX as f32 * 2.0 - 1.0;
                logit + if batch.len() > 1 { share * NOISE } else { 0.0 }
            });
            self.logits.extend(moved.collect::<Vec<_>>());
        }
        Ok(())
    }

    fn logits(&self, row: RowId) -> &[f32] {
        let n_vocab = self.limits().n_vocab as usize;
        &self.logits[row.0 as usize * n_vocab..][..n_vocab]
    }

    fn keep(&mut self, slot: Slot, last: RowId) -> Result<(), Error> {
        self.inner.keep(slot, last)
    }

    fn truncate(&mut self, slot: Slot, n_tokens: u32) -> Result<(), Error> {
        self.inner.truncate(slot, n_tokens)
    }
}

fn noisy(shape: DraftShape) -> Noisy {
    // One row in some has its best logits within the noise.
    let inner = ScriptedModel::new(60, 1, 60.0, 21);
    let max_leaves = if shape == DraftShape::Tree { 8 } else { 1 };
    let limits = Limits { shape, max_leaves, ..inner.limits() };
    Noisy { inner: inner.with_limits(limits), logits: Vec::new() }
}

fn outputs(target: Noisy, mode: DraftMode, noise: Option<f32>) -> (Vec<Vec<Token>>, Stats) {
    let config = Config { draft: DraftConfig { mode, ..DraftConfig::default() }, ..Config::default() };
    let mut session = Session::new(target, config).expect("valid");
    session.set_exact(noise);
    let mut sum = Stats::default();
    let outputs = (0..60)
        .map(|prompt| {
            let mut greedy = Greedy;
            let request = Request { prompt: &[Token(prompt)], n_max: 80, end_tokens: &[] };
            let mut generation = session.generate(&request, &mut greedy).expect("starts");
            let output: Vec<Token> = generation.by_ref().map(|token| token.expect("decodes")).collect();
            sum += generation.stats();
            output
        })
        .collect();
    (outputs, sum)
}

#[test]
fn exact_mode_decides_ties_as_plain_decoding_does() {
    for shape in [DraftShape::Tree, DraftShape::Chain] {
        let (plain, _) = outputs(noisy(shape), DraftMode::Off, None);
        let (forked, _) = outputs(noisy(shape), DraftMode::On, None);
        let n_forks = plain.iter().zip(&forked).filter(|(plain, forked)| plain != forked).count();
        assert!(n_forks > 3, "{shape:?}: without the mode {n_forks} outputs fork, too few to show anything");
        let text: Vec<Token> = (0..60).map(Token).collect();
        let noise = shape_noise(&mut noisy(shape), &text).expect("measured");
        assert!(noise > NOISE && noise < 4.5 * NOISE, "{noise}");
        let (exact, stats) = outputs(noisy(shape), DraftMode::On, Some(noise));
        assert_eq!(exact, plain, "{shape:?}");
        assert!(stats.n_rechecked > 10 && stats.n_accepted > 500, "{stats}");
        // Recomputing everything would be exact too.
        assert!(stats.n_rechecked * 4 < stats.n_tokens, "{} of {} tokens", stats.n_rechecked, stats.n_tokens);
    }
}
