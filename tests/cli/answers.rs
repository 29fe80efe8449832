//! The default model on 20 prompts: drafting must not change a greedy answer, but where two tokens are as likely as each other to
//! within the noise that the number of rows in a call makes in llama.cpp's sums.

use std::path::Path;

use aded::batch::DraftBatch;
use aded::llama::text::ChatMessage;
use aded::llama::{ContextParams, FlashAttention, Model, ModelParams, Target};
use aded::model::TargetModel as _;
use aded::{Pos, RowId, Slot, Token};

use crate::{SMOLLM2, fetched, outcome, program};

const PROMPTS: [&str; 20] = [
    "Write a short guide to brewing tea, as a numbered list.",
    "Write a Python function that returns the n-th Fibonacci number.",
    "Name the planets of the solar system in order.",
    "What is the capital of France?",
    "Explain what a hash table is.",
    "Repeat this line three times: the quick brown fox jumps over the lazy dog.",
    "Write a haiku about rain.",
    "Summarise: The meeting was moved to Friday. The room is the same. Bring the reports.",
    "Fix the spelling: Ths sentense has erors.",
    "List five fruits as JSON.",
    "Translate to French: Good morning, how are you?",
    "Count from 1 to 30.",
    "Write the multiplication table of 7.",
    "Who wrote Romeo and Juliet?",
    "Write an HTML page with a heading and two paragraphs.",
    "Why is the sky blue?",
    "Continue: Once upon a time there was a miller who had",
    "Write a SQL query that counts the orders of each customer.",
    "Give three tips for better sleep.",
    "What comes next: a b c a b c a b c a b",
];

#[test]
fn drafting_does_not_change_greedy_answers() {
    let Some(path) = fetched(SMOLLM2) else { return };
    let answer = |prompt: &str, flags: &[&str]| {
        let mut command = program();
        command.args(["run", "-m"]).arg(&path).args(["-p", prompt, "-n", "48", "--temp", "0", "--json", "--stats"]);
        outcome(command.args(flags))
    };
    let tokens = |answer: &serde_json::Value| -> Vec<Token> {
        answer["tokens"].as_array().unwrap().iter().map(|token| Token(token.as_u64().unwrap() as u32)).collect()
    };
    let mut n_accepted = 0;
    // A few prompts with llama.cpp's kernels as well: they are slow for several rows.
    let cases = PROMPTS.iter().map(|prompt| (prompt, "auto")).chain(PROMPTS[..5].iter().map(|prompt| (prompt, "off")));
    for (index, (prompt, kernels)) in cases.enumerate() {
        let search = ["mcts", "best-first", "reference"][index % 3];
        // The attention is named: with llama.cpp's kernels each process finds out which is faster, and near a tie two may differ.
        let flags = ["--kernels", kernels, "-fa", "on", "--spec"];
        let plain = answer(prompt, &[&flags[..], &["off"]].concat());
        let drafting = ["on", "--spec-budget", "8", "--spec-search", search];
        let drafted = answer(prompt, &[&flags[..], &drafting].concat());
        // Our kernels compute the same sums for any number of rows.
        let is_exact = drafted.stderr.contains("own kernels\n");
        let (plain, drafted) = (plain.json(), drafted.json());
        n_accepted += drafted["timings"]["draft_n_accepted"].as_u64().unwrap();
        let (plain, drafted) = (tokens(&plain), tokens(&drafted));
        let Some(at) = plain.iter().zip(&drafted).position(|(a, b)| a != b) else {
            assert_eq!(plain.len(), drafted.len(), "{prompt}");
            continue;
        };
        assert!(!is_exact, "{prompt:?} forks at token {at}, though our kernels do not depend on the number of rows");
        let (gap, noise) = gap_and_noise(&path, prompt, &plain[..at], plain[at], drafted[at]);
        println!(
            "{prompt:?} forks at token {at}: the logits are {gap} apart, and the number of rows moves one by {noise}"
        );
        assert!(gap < 2.0 * noise, "{prompt:?} forks at token {at}: {gap} apart, {noise} of noise");
    }
    assert!(n_accepted > 100, "{n_accepted} guesses accepted");
}

/// At the end of a prompt and the beginning of its answer: how far apart the logits of two tokens are in plain decoding, and how far a
/// logit moves at most if all is decoded in one call.
fn gap_and_noise(path: &Path, prompt: &str, begun: &[Token], one: Token, other: Token) -> (f32, f32) {
    let model = Model::load(path, &ModelParams::default()).unwrap();
    let message = ChatMessage::new("user", prompt);
    let prompt = model.tokenize_chat(&model.chat_prompt(&[message], true).unwrap()).unwrap();
    let params = ContextParams { n_ctx: 1024, flash_attention: FlashAttention::On, ..ContextParams::default() };
    let mut target = Target::new(model, &params).unwrap();
    let mut decode = |pos: usize, tokens: &[Token]| {
        let mut batch = DraftBatch::new();
        batch.push_prompt(Slot(0), Pos(pos as u32), tokens, true);
        target.decode(&batch).unwrap();
        let last = RowId(tokens.len() as u32 - 1);
        let logits = target.logits(last).to_vec();
        target.keep(Slot(0), last).unwrap();
        logits
    };
    let mut plain = decode(0, &prompt);
    for (index, &token) in begun.iter().enumerate() {
        plain = decode(prompt.len() + index, &[token]);
    }
    target.truncate(Slot(0), 0).unwrap();
    let mut decode = |tokens: &[Token]| {
        let mut batch = DraftBatch::new();
        batch.push_prompt(Slot(0), Pos(0), tokens, true);
        target.decode(&batch).unwrap();
        target.logits(RowId(tokens.len() as u32 - 1)).to_vec()
    };
    let whole = decode(&[&prompt, begun].concat());
    let noise = plain.iter().zip(&whole).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    ((plain[one.0 as usize] - plain[other.0 as usize]).abs(), noise)
}
