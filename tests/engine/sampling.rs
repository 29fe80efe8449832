//! Sampler chains: the same with drafts and without, and what they refuse.

use aded::batch::DraftBatch;
use aded::draft::DraftTree;
use aded::llama::{SamplerChain, SamplingParams, Target};
use aded::model::TargetModel;
use aded::sampling::RowSampler;
use aded::{Pos, RowId, Slot, Token};

use super::{small, tiny};
use crate::gguf::{N_VOCAB, Weights};

/// Chains that between them have every stage switched on.
pub fn chains() -> Vec<(&'static str, SamplingParams)> {
    let base = SamplingParams { seed: 11, ..SamplingParams::default() };
    vec![
        ("default", base.clone()),
        ("everything kept", SamplingParams { top_k: 0, top_p: 1.0, min_p: 0.0, temperature: 1.5, ..base.clone() }),
        (
            "penalties",
            SamplingParams {
                repeat_penalty: 1.3,
                presence_penalty: 0.5,
                frequency_penalty: 0.2,
                temperature: 2.0,
                ..base.clone()
            },
        ),
        ("greedy with penalties", SamplingParams { repeat_penalty: 1.5, temperature: 0.0, ..base.clone() }),
        ("dry", SamplingParams { dry_multiplier: 0.8, temperature: 3.0, ..base.clone() }),
        ("xtc", SamplingParams { xtc_probability: 0.5, temperature: 3.0, ..base.clone() }),
        ("typical", SamplingParams { typical_p: 0.7, temperature: 3.0, ..base.clone() }),
        ("sigma", SamplingParams { top_n_sigma: 1.0, temperature: 3.0, ..base.clone() }),
        ("dynamic temperature", SamplingParams { dynatemp_range: 0.5, temperature: 2.0, ..base.clone() }),
        ("mirostat", SamplingParams { mirostat: 1, ..base.clone() }),
        ("mirostat 2", SamplingParams { mirostat: 2, ..base.clone() }),
        ("bias", SamplingParams { logit_bias: vec![(Token(50), 5.0), (Token(60), f32::NEG_INFINITY)], ..base.clone() }),
        ("grammar", SamplingParams { grammar: Some("root ::= [a-z ]+".to_owned()), ..base }),
    ]
}

fn rows(seed: u64, n_rows: usize) -> Vec<Vec<f32>> {
    let mut random = Weights::new(seed);
    (0..n_rows).map(|_| random.spread(N_VOCAB.into(), 8.0)).collect()
}

/// Decodes with the chain; every round drafts the tokens of `truth` that come next, among wrong ones. Empty: no drafts.
fn generate(params: &SamplingParams, truth: &[Token], n: usize) -> Vec<Token> {
    let model = tiny();
    let mut sampler = SamplerChain::new(&model, params).unwrap();
    let mut target = Target::new(model, &small()).unwrap();
    let start: Vec<Token> = (0..20).map(|index| Token(4 + index * 11)).collect();
    let mut random = Weights::new(3);
    let mut batch = DraftBatch::new();
    batch.push_prompt(Slot(0), Pos(0), &start, true);
    target.decode(&batch).unwrap();
    sampler.accept_prompt(&start).unwrap();
    let mut output = vec![sampler.sample(target.logits(RowId(19))).unwrap()];
    target.keep(Slot(0), RowId(19)).unwrap();
    while output.len() < n {
        let mut tree = DraftTree::new();
        let mut parent = None;
        for &token in truth.iter().skip(output.len()).take(random.below(5) as usize) {
            tree.add(parent, Token(random.below(N_VOCAB)), 0.1);
            parent = Some(tree.add(parent, token, 0.5));
        }
        batch.clear();
        let mut row = batch.push_draft(Slot(0), Pos(target.n_committed(Slot(0))), output[output.len() - 1], &tree);
        target.decode(&batch).unwrap();
        loop {
            let token = sampler.sample(target.logits(row)).unwrap();
            output.push(token);
            match batch.child(row, token) {
                Some(child) => row = child,
                None => break,
            }
        }
        target.keep(Slot(0), row).unwrap();
    }
    output.truncate(n);
    output
}

#[test]
fn every_chain_gives_the_same_tokens_with_drafts_and_without() {
    for (name, params) in chains() {
        let plain = generate(&params, &[], 80);
        assert_eq!(generate(&params, &plain, 80), plain, "{name}");
    }
}

#[test]
fn choosing_among_the_largest_logits_alone_gives_what_the_whole_vocabulary_gives() {
    let model = tiny();
    for (name, params) in chains() {
        // A bias of nothing on one token makes the chain take the whole vocabulary.
        let mut whole_params = params.clone();
        whole_params.logit_bias.push((Token(0), 0.0));
        let mut few = SamplerChain::new(&model, &params).unwrap();
        let mut whole = SamplerChain::new(&model, &whole_params).unwrap();
        for row in rows(9, 300) {
            assert_eq!(few.sample(&row).unwrap(), whole.sample(&row).unwrap(), "{name}");
        }
    }
}

#[test]
fn a_copy_and_a_reset_chain_go_on_alike() {
    let model = tiny();
    for (name, params) in chains() {
        let mut chain = SamplerChain::new(&model, &params).unwrap();
        let before: Vec<_> = rows(1, 20).iter().map(|row| chain.sample(row).unwrap()).collect();
        let mut copy = chain.try_clone().unwrap();
        for row in rows(2, 20) {
            assert_eq!(chain.sample(&row).unwrap(), copy.sample(&row).unwrap(), "{name}");
        }
        chain.reset().unwrap();
        let again: Vec<_> = rows(1, 20).iter().map(|row| chain.sample(row).unwrap()).collect();
        assert_eq!(before, again, "{name}");
    }
}

#[test]
fn candidates_are_a_distribution_that_holds_the_choice() {
    let model = tiny();
    for (name, params) in chains().into_iter().chain([("greedy", SamplingParams::greedy())]) {
        let mut chain = SamplerChain::new(&model, &params).unwrap();
        for row in rows(5, 20) {
            let token = chain.sample(&row).unwrap();
            let candidates: Vec<_> = chain.last_candidates().collect();
            let sum: f32 = candidates.iter().map(|(_, probability)| probability).sum();
            assert!((sum - 1.0).abs() < 1e-3, "{name}: {sum}");
            assert!(
                candidates.iter().any(|&(candidate, probability)| candidate == token && probability > 0.0),
                "{name}"
            );
        }
    }
}

#[test]
fn a_grammar_holds_ends_and_is_refused_where_it_is_wrong() {
    let model = tiny();
    let with = |grammar: &str| {
        SamplerChain::new(&model, &SamplingParams { grammar: Some(grammar.to_owned()), ..SamplingParams::greedy() })
    };
    let wrong = with("root ::= (").unwrap_err();
    assert!(wrong.is_usage() && wrong.to_string().starts_with("the grammar does not parse"), "{wrong}");
    assert!(with("other ::= \"a\"").unwrap_err().is_usage(), "a grammar without root");
    let mut chain = with("root ::= \"ab\" | \"ad\"").unwrap();
    let mut text = Vec::new();
    for row in rows(4, 10) {
        let token = chain.sample(&row).unwrap();
        if model.is_end(token) {
            assert!(text == b"ab" || text == b"ad", "{text:?}");
            return;
        }
        model.append_piece(token, false, &mut text).unwrap();
    }
    panic!("the grammar did not end: {text:?}");
}

#[test]
fn rows_that_cannot_be_sampled_are_errors() {
    let model = tiny();
    let mut chain = SamplerChain::new(&model, &SamplingParams::default()).unwrap();
    assert_ne!(chain.params().seed, u32::MAX);
    let mut row = vec![0.0; N_VOCAB as usize];
    row[7] = f32::NAN;
    assert!(chain.sample(&row).unwrap_err().to_string().contains("NaN"));
    assert!(chain.sample(&row[..5]).unwrap_err().to_string().contains("a row of 5 logits"));
    let forbidden = (0..N_VOCAB).map(|token| (Token(token), f32::NEG_INFINITY)).collect();
    let mut none =
        SamplerChain::new(&model, &SamplingParams { logit_bias: forbidden, ..SamplingParams::default() }).unwrap();
    row[7] = 0.0;
    assert!(none.sample(&row).unwrap_err().to_string().contains("no token is left"));
    let outside = SamplingParams { logit_bias: vec![(Token(N_VOCAB), 1.0)], ..SamplingParams::default() };
    assert!(SamplerChain::new(&model, &outside).unwrap_err().is_usage());
}

#[test]
fn a_grammar_of_as_many_rules_as_are_taken_leaves_the_stack_whole() {
    let model = tiny();
    let with = |n_rules: usize| {
        let rules: String = (1..n_rules).map(|rule| format!("r{rule} ::= r{}\n", rule + 1)).collect();
        let grammar = format!("root ::= r1\n{rules}r{n_rules} ::= \"a\"\n");
        SamplerChain::new(&model, &SamplingParams { grammar: Some(grammar), ..SamplingParams::greedy() })
    };
    let mut chain = with(4999).unwrap();
    let mut text = Vec::new();
    model.append_piece(chain.sample(&rows(4, 1)[0]).unwrap(), false, &mut text).unwrap();
    assert_eq!(text, b"a");
    let error = with(6000).unwrap_err();
    assert!(error.is_usage() && error.to_string().contains("at most 5000"), "{error}");
}
