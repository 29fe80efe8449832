//! Answers a prompt with a model file:
//!
//! ```sh
//! cargo run --release --example 01_generate -- MODEL.gguf "Why is the sky blue?"
//! ```

use std::env;
use std::error::Error;
use std::io::{self, Write as _};

use aded::llama::text::{ChatMessage, Detokenizer};
use aded::llama::{ContextParams, Model, ModelParams, Target};
use aded::sampling::Greedy;
use aded::{Config, Request, Session};

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = env::args().skip(1);
    let path = arguments.next().ok_or("give the path of a GGUF file")?;
    let question = arguments.next().unwrap_or_else(|| "Why is the sky blue?".to_owned());

    let model = Model::load(path, &ModelParams::default())?;
    let target = Target::new(model.clone(), &ContextParams { n_ctx: 4096, ..ContextParams::default() })?;
    // It learns as it goes: later prompts are drafted from earlier ones.
    let mut session = Session::new(target, Config::default())?;

    let prompt = model.tokenize_chat(&model.chat_prompt(&[ChatMessage::new("user", question)], true)?)?;
    let request = Request { prompt: &prompt, n_max: 200, end_tokens: &model.end_tokens() };
    let mut greedy = Greedy;
    let mut generation = session.generate(&request, &mut greedy)?;
    let mut characters = Detokenizer::new(model, false);
    for token in &mut generation {
        let mut text = String::new();
        characters.push(token?, &mut text)?;
        print!("{text}");
        io::stdout().flush()?;
    }
    println!("\n{}", generation.stats());
    Ok(())
}
