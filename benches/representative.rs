//! Look-up times of the representative's sources.
//!
//! `cargo bench --no-default-features --bench representative`

use std::hint::black_box;
use std::sync::Arc;

use aded::Token;
use aded::draft::reference::{EXPLORATION, ReferenceSearch};
use aded::draft::{Bounds, DraftTree};
use aded::representative::corpus::{BuildOptions, Corpus, CorpusBuilder};
use aded::representative::reference::ReferenceTable;
use aded::representative::store::Fingerprint;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use rand::{Rng, SeedableRng};
use rand_pcg::Pcg64Mcg;

/// About as many tokens as a small model's vocabulary has.
const N_VOCAB: u32 = 49_152;

/// Tokens that follow each other like text does: a few common ones, many rare ones, and each pair is followed by few.
fn text(n: usize, random: &mut Pcg64Mcg) -> Vec<Token> {
    let mut tokens = vec![Token(1), Token(2)];
    while tokens.len() < n {
        let &[.., a, b] = &tokens[..] else { unreachable!() };
        let hashed = (u64::from(a.0) << 32 | u64::from(b.0)).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20;
        // The largest of a few uniform numbers, turned round, is small most of the time.
        let uniform = (random.next_u64() >> 11) as f64 / (1u64 << 53) as f64;
        let next = if random.next_u64() % 10 < 7 {
            hashed + random.next_u64() % 3
        } else {
            (uniform.powi(4) * 49_000.0) as u64
        };
        let skewed = ((next % 49_000) as f64 / 49_000.0).powi(3) * 49_000.0;
        tokens.push(Token(skewed as u32));
    }
    tokens
}

fn corpus(n_tokens: usize) -> (Corpus, Vec<Token>) {
    let mut random = Pcg64Mcg::seed_from_u64(7);
    let tokens = text(n_tokens, &mut random);
    let mut builder = CorpusBuilder::new(BuildOptions::new(N_VOCAB, Fingerprint(0), std::env::temp_dir())).unwrap();
    tokens.chunks(1000).for_each(|document| builder.push_document(document).unwrap());
    (builder.finish_in_memory().unwrap(), tokens)
}

fn look_ups(c: &mut Criterion) {
    let (corpus, tokens) = corpus(4_000_000);
    eprintln!("{:?}, {} bytes", corpus.summary(), corpus.memory_bytes());
    let mut random = Pcg64Mcg::seed_from_u64(8);
    let pairs: Vec<(Token, Token)> = (0..1 << 16)
        .map(|_| {
            let at = random.next_u64() as usize % (tokens.len() - 1);
            (tokens[at], tokens[at + 1])
        })
        .collect();
    let sum = |successors: aded::representative::corpus::Successors<'_>| -> f32 { successors.map(|(_, p)| p).sum() };
    let mut group = c.benchmark_group("corpus");
    let mut next = 0;
    let mut pair = || {
        next = (next + 1) % pairs.len();
        pairs[next]
    };
    group.bench_function("pair", |b| {
        b.iter(|| {
            let (first, second) = pair();
            sum(corpus.successors3(first, second))
        });
    });
    group.bench_function("pair, unknown", |b| {
        b.iter(|| {
            let (first, second) = pair();
            sum(corpus.successors3(first, Token(N_VOCAB - 1 - second.0)))
        });
    });
    group.bench_function("token", |b| b.iter(|| sum(corpus.successors2(pair().1))));
    group.bench_function("any", |b| b.iter(|| sum(black_box(&corpus).successors1())));
    group.finish();

    let mut table = ReferenceTable::new(Some(Arc::new(corpus)), 1 << 14);
    let mut search = ReferenceSearch::new(EXPLORATION, 1);
    let mut tree = DraftTree::with_capacity(64);
    let bounds = Bounds { max_nodes: 63, max_depth: 63, max_leaves: 63 };
    let mut at = 1000;
    c.bench_function("reference round", |b| {
        b.iter(|| {
            at = (at + 3) % tokens.len();
            let text = &tokens[at.saturating_sub(32)..at];
            table.update(text);
            search.draft(&table, text, &bounds, &mut tree);
            tree.len()
        });
    });
}

fn building(c: &mut Criterion) {
    let mut random = Pcg64Mcg::seed_from_u64(9);
    let tokens = text(200_000, &mut random);
    let mut group = c.benchmark_group("learn");
    group.throughput(Throughput::Elements(tokens.len() as u64)).sample_size(10);
    for memory_limit_bytes in [512 << 20, 1 << 20] {
        group.bench_function(BenchmarkId::new("memory", memory_limit_bytes), |b| {
            b.iter(|| {
                let options = BuildOptions::new(N_VOCAB, Fingerprint(0), std::env::temp_dir());
                let mut builder = CorpusBuilder::new(BuildOptions { memory_limit_bytes, ..options }).unwrap();
                builder.push_document(&tokens).unwrap();
                builder.finish_in_memory().unwrap().memory_bytes()
            });
        });
    }
    group.finish();
}

criterion_group!(benches, look_ups, building);
criterion_main!(benches);
