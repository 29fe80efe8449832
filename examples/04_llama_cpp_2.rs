//! A program that decodes through `llama-cpp-2`, with drafting plugged in; the lines for it are marked ADED:
//!
//! ```sh
//! cargo run --release --no-default-features --features llama-cpp-2 --example 04_llama_cpp_2 -- MODEL.gguf "1 2 3 4 5 6" [on|off|auto] [150]
//! ```

use std::env;
use std::error::Error;
use std::io::{self, Write as _};
use std::num::NonZeroU32;

use aded::config::{Config, DraftConfig, DraftMode};
use aded::llama_cpp_2::{ContextTarget, context_params};
use aded::sampling::Greedy;
use aded::{Request, Session, Token};
use llama_cpp_2::context::params::LlamaContextParams;
use llama_cpp_2::llama_backend::LlamaBackend;
use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::model::params::LlamaModelParams;
use llama_cpp_2::token::LlamaToken;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = env::args().skip(1);
    let path = arguments.next().ok_or("give the path of a GGUF file")?;
    let prompt = arguments.next().unwrap_or_else(|| "1\n2\n3\n4\n5\n6\n".to_owned());
    let mode = match arguments.next().as_deref() {
        Some("off") => DraftMode::Off,
        Some("on") => DraftMode::On,
        _ => DraftMode::Auto,
    };

    let n_max = arguments.next().map_or(Ok(150), |number| number.parse())?;

    // ADED: our kernels, where they are built in, before the model is loaded.
    #[cfg(feature = "llama")]
    aded::llama::kernels_enable(&aded::llama::Kernels::default());
    let mut backend = LlamaBackend::init()?;
    backend.void_logs();
    let model = LlamaModel::load_from_file(&backend, path, &LlamaModelParams::default())?;
    let params = LlamaContextParams::default()
        .with_n_ctx(NonZeroU32::new(2048))
        .with_n_batch(512)
        .with_n_threads(2)
        .with_n_threads_batch(2);
    let params = context_params(params, &model); // ADED
    let mut context = model.new_context(&backend, params.clone())?;
    let tokens = model.vocab().tokenize(prompt.as_bytes(), true, true);

    // ADED: from here on in place of a loop of decode and sample.
    let prompt: Vec<Token> = tokens.iter().map(|token| Token(token.0 as u32)).collect();
    let target = ContextTarget::new(&mut context, &model, &params)?;
    let draft = DraftConfig { mode, ..DraftConfig::default() };
    let mut session = Session::new(target, Config { draft, ..Config::default() })?;
    let mut greedy = Greedy;
    let end_tokens = [Token(model.vocab().eos().0 as u32)];
    let mut generation = session.generate(&Request { prompt: &prompt, n_max, end_tokens: &end_tokens }, &mut greedy)?;
    for token in &mut generation {
        io::stdout().write_all(&model.vocab().token_to_piece(LlamaToken(token?.0 as i32), false, None))?;
        io::stdout().flush()?;
    }
    eprintln!("\n{}", generation.stats());
    Ok(())
}
