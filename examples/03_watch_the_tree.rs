//! Prints each round's draft tree: what was guessed, how sure, from which source, and how far the model agreed.
//!
//! ```sh
//! cargo run --release --example 03_watch_the_tree -- MODEL.gguf "Count from 1 to 30."
//! ```

use std::env;
use std::error::Error;

use aded::config::DraftMode;
use aded::draft::DraftTree;
use aded::llama::text::ChatMessage;
use aded::llama::{ContextParams, Model, ModelParams, Target};
use aded::sampling::Greedy;
use aded::{Config, NodeId, Request, Session, Token};

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = env::args().skip(1);
    let path = arguments.next().ok_or("give the path of a GGUF file")?;
    let question = arguments.next().unwrap_or_else(|| "Count from 1 to 30.".to_owned());

    let model = Model::load(path, &ModelParams::default())?;
    let target = Target::new(model.clone(), &ContextParams { n_ctx: 2048, ..ContextParams::default() })?;
    let mut config = Config::default();
    // Always eight nodes, whether that pays on this machine or not: something to look at.
    config.draft.mode = DraftMode::On;
    config.draft.budget = Some(8);
    let mut session = Session::new(target, config)?;

    let prompt = model.tokenize_chat(&model.chat_prompt(&[ChatMessage::new("user", question)], true)?)?;
    let request = Request { prompt: &prompt, n_max: 60, end_tokens: &model.end_tokens() };
    let mut greedy = Greedy;
    let mut generation = session.generate(&request, &mut greedy)?;
    let name = |token: Token| model.detokenize(&[token], true).map(|text| format!("{text:?}")).unwrap_or_default();
    while let Some(emitted) = generation.advance()? {
        let emitted = emitted.to_vec();
        print_tree(generation.sequence().draft(), None, &emitted, &name);
        let said: Vec<String> = emitted.iter().map(|&token| name(token)).collect();
        println!("=> {}\n", said.join(" "));
    }
    println!("{}", generation.stats());
    Ok(())
}

/// Prints the children of a node. `emitted` is what the model said from there on, empty off its path.
fn print_tree(tree: &DraftTree, parent: Option<NodeId>, emitted: &[Token], name: &dyn Fn(Token) -> String) {
    for node in tree.children(parent) {
        let token = tree.token(node);
        let is_taken = emitted.first() == Some(&token);
        let indent = "   ".repeat(usize::from(tree.depth(node)));
        let mark = if is_taken { " <= taken" } else { "" };
        println!("{indent}{} {:.2} {}{mark}", name(token), tree.survival(node), tree.source(node).name());
        print_tree(tree, Some(node), if is_taken { &emitted[1..] } else { &[] }, name);
    }
}
