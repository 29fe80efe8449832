//! What the method itself costs: the search for a tree, and a whole round without the target's part.
//!
//! `cargo bench --no-default-features --bench round`

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use aded::batch::DraftBatch;
use aded::config::{Config, DraftConfig, DraftMode, SearchKind};
use aded::draft::{BestFirst, Bounds, DraftTree, Mcts, Search};
use aded::model::{Limits, ScriptedModel, TargetModel};
use aded::representative::recall::{RowScan, TopRow};
use aded::sampling::RowSampler;
use aded::{Error, Generation, Request, RowId, Session, Slot, Token};
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;

/// Tokens of one answer; the scripted target holds 4,096.
const ANSWER: usize = 3500;

/// A target that keeps count of the time spent in it, the scan of its rows included, so that the rest of a round can be told.
struct Metered {
    model: ScriptedModel,
    scan: RowScan,
    tops: Vec<Option<TopRow>>,
    spent: Rc<Cell<Duration>>,
}

impl Metered {
    fn metered<T>(&mut self, call: impl FnOnce(&mut Self) -> T) -> T {
        let begun = Instant::now();
        let result = call(self);
        self.spent.set(self.spent.get() + begun.elapsed());
        result
    }
}

impl TargetModel for Metered {
    fn limits(&self) -> Limits {
        self.model.limits()
    }

    fn decode(&mut self, batch: &DraftBatch) -> Result<(), Error> {
        self.metered(|this| {
            this.model.decode(batch)?;
            this.tops.clear();
            for (index, row) in batch.rows().iter().enumerate() {
                let top = row.wants_logits.then(|| this.scan.top(this.model.logits(RowId(index as u32))));
                this.tops.push(top);
            }
            Ok(())
        })
    }

    fn logits(&self, row: RowId) -> &[f32] {
        self.model.logits(row)
    }

    fn top(&self, row: RowId) -> Option<TopRow> {
        self.tops[row.0 as usize]
    }

    fn keep(&mut self, slot: Slot, last: RowId) -> Result<(), Error> {
        self.metered(|this| this.model.keep(slot, last))
    }

    fn truncate(&mut self, slot: Slot, n_tokens: u32) -> Result<(), Error> {
        self.metered(|this| this.model.truncate(slot, n_tokens))
    }
}

/// Samples at temperature 1, so that the text never falls into a loop; its time counts as the target's.
struct Sampled {
    random: Pcg64Mcg,
    spent: Rc<Cell<Duration>>,
}

impl RowSampler for Sampled {
    fn sample(&mut self, logits: &[f32]) -> Result<Token, Error> {
        let begun = Instant::now();
        let total: f32 = logits.iter().map(|x| x.exp()).sum();
        let mut left = self.random.random::<f32>() * total;
        let at = logits.iter().position(|x| {
            left -= x.exp();
            left < 0.0
        });
        self.spent.set(self.spent.get() + begun.elapsed());
        Ok(Token(at.unwrap_or(0) as u32))
    }

    fn is_greedy(&self) -> bool {
        false
    }
}

/// A language of 400 words with about 5 likely followers each: as in real text, about half the drafts are wrong.
fn target(spent: &Rc<Cell<Duration>>) -> Metered {
    let model = ScriptedModel::new(400, 1, 90.0, 5);
    Metered { model, scan: RowScan::default(), tops: Vec::new(), spent: Rc::clone(spent) }
}

fn advance(generation: &mut Generation<'_, Metered>) -> bool {
    generation.advance().expect("the scripted target decodes").is_some()
}

fn rounds(c: &mut Criterion) {
    let mut group = c.benchmark_group("round without target, 8 nodes");
    for (name, search) in [("best-first", SearchKind::BestFirst), ("mcts", SearchKind::Mcts)] {
        let spent = Rc::new(Cell::new(Duration::ZERO));
        let draft = DraftConfig { mode: DraftMode::On, search, budget: Some(8), ..DraftConfig::default() };
        let mut session = Session::new(target(&spent), Config { draft, ..Config::default() }).expect("valid");
        let mut sampler = Sampled { random: Pcg64Mcg::seed_from_u64(1), spent: Rc::clone(&spent) };
        let request = Request { prompt: &[Token(1), Token(2)], n_max: ANSWER, end_tokens: &[] };
        let warm = session.generate(&request, &mut sampler).expect("starts").count();
        assert_eq!(warm, ANSWER, "the answer fits the target");
        let (mut n_rounds, mut n_tokens) = (0_u64, 0_u64);
        group.bench_function(name, |b| {
            b.iter_custom(|n| {
                let mut total = Duration::ZERO;
                let mut left = n;
                while left > 0 {
                    let mut generation = session.generate(&request, &mut sampler).expect("starts");
                    // The first round evaluates the prompt.
                    let mut goes_on = advance(&mut generation);
                    spent.set(Duration::ZERO);
                    let begun = Instant::now();
                    while left > 0 && goes_on {
                        goes_on = advance(&mut generation);
                        left -= 1;
                    }
                    total += begun.elapsed() - spent.get();
                    n_rounds += generation.stats().n_rounds;
                    n_tokens += generation.stats().n_tokens;
                }
                total
            });
        });
        eprintln!("{name}: {:.2} tokens per round", n_tokens as f64 / n_rounds.max(1) as f64);
    }
    group.finish();
}

fn searches(c: &mut Criterion) {
    let spent = Rc::new(Cell::new(Duration::ZERO));
    let draft = DraftConfig { mode: DraftMode::On, budget: Some(8), ..DraftConfig::default() };
    let mut session = Session::new(target(&spent), Config { draft, ..Config::default() }).expect("valid");
    let mut sampler = Sampled { random: Pcg64Mcg::seed_from_u64(2), spent };
    let request = Request { prompt: &[Token(1), Token(2)], n_max: ANSWER, end_tokens: &[] };
    assert_eq!(session.generate(&request, &mut sampler).expect("starts").count(), ANSWER);
    let view = session.decoder().view(session.sequence(), false);
    let mut group = c.benchmark_group("search");
    let searches: [(&str, Box<dyn Search>); 2] =
        [("best-first", Box::<BestFirst>::default()), ("mcts", Box::new(Mcts::new(48)))];
    for (name, mut search) in searches {
        let mut tree = DraftTree::with_capacity(64);
        for max_nodes in [8, 32] {
            let bounds = Bounds { max_nodes, max_depth: 63, max_leaves: 16 };
            group.bench_function(BenchmarkId::new(name, max_nodes), |b| {
                b.iter(|| {
                    tree.clear();
                    search.search(&view, &bounds, &mut |_, _| true, &mut tree);
                    tree.len()
                });
            });
        }
    }
    group.finish();
}

criterion_group!(benches, rounds, searches);
criterion_main!(benches);
