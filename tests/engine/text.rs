//! Tokens and characters, with the tiny model's tokenizer.

use aded::Token;
use aded::llama::text::{ChatMessage, Detokenizer};
use aded::llama::{Model, ModelParams, Target};

use super::{small, tiny};
use crate::gguf::{self, N_VOCAB, tiny_llama};

#[test]
fn text_survives_the_way_there_and_back() {
    let model = tiny();
    for text in ["the hand and the band", "Grüße, 世界 😀\n\ttabs", "", " leading", "\u{0}zero"] {
        let tokens = model.tokenize(text, false, false).unwrap();
        let back = model.detokenize(&tokens, false).unwrap();
        // This kind of tokenizer begins every text with a space.
        assert_eq!(back, if text.is_empty() { String::new() } else { format!(" {text}") });
        let (mut detokenizer, mut pieces) = (Detokenizer::new(model.clone(), false), String::new());
        for token in tokens {
            detokenizer.push(token, &mut pieces).unwrap();
        }
        detokenizer.flush(&mut pieces);
        assert_eq!(pieces, back);
    }
    // Byte tokens of an unfinished character.
    let (mut detokenizer, mut text) = (Detokenizer::new(model.clone(), false), String::new());
    detokenizer.push(Token(4 + 0xe2), &mut text).unwrap();
    assert_eq!(text, "");
    detokenizer.flush(&mut text);
    assert_eq!(text, "\u{fffd}");
    assert!(detokenizer.push(Token(N_VOCAB), &mut text).unwrap_err().is_usage());
}

#[test]
fn any_bytes_are_a_prompt_or_an_error() {
    let model = tiny();
    let mut random = gguf::Weights::new(17);
    let names: [&[u8]; 6] = [b"<s>", b"</s>", b"<|turn|>", b"\0", "\u{2581}".as_bytes(), b"<0x"];
    let (mut n_prompts, mut n_errors) = (0, 0);
    for round in 0..3000 {
        let mut bytes = Vec::new();
        for _ in 0..random.below(40) {
            match random.below(4) {
                0 => bytes.extend_from_slice(names[random.below(names.len() as u32) as usize]),
                // Half of the rounds are text, the others any bytes.
                _ if round % 2 == 0 => {
                    let character = char::from_u32(random.below(0x11_0000)).unwrap_or('x');
                    bytes.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
                }
                _ => bytes.push(random.below(256) as u8),
            }
        }
        match model.tokenize_prompt(&bytes) {
            Ok(tokens) => {
                n_prompts += 1;
                assert!(tokens.iter().all(|token| token.0 < N_VOCAB), "{bytes:?}");
                model.detokenize(&tokens, true).unwrap();
            }
            Err(error) => {
                n_errors += 1;
                assert!(error.is_usage() && std::str::from_utf8(&bytes).is_err(), "{bytes:?}: {error}");
            }
        }
    }
    assert!(n_prompts > 1500 && n_errors > 500, "{n_prompts} prompts, {n_errors} errors");
}

#[test]
fn prompts_begin_with_one_begin_token() {
    let model = tiny();
    let (begin, end) = (model.begin_token().unwrap(), model.end_token().unwrap());
    assert_eq!((begin, end), (Token(1), Token(2)));
    assert!(model.is_end(end) && !model.is_end(begin) && model.is_control(begin));
    assert!(model.end_tokens().contains(&end));
    let prompt = model.tokenize_prompt("the hand".as_bytes()).unwrap();
    assert_eq!(prompt.iter().filter(|&&token| token == begin).count(), 1);
    let chat = model.chat_prompt(&[ChatMessage::new("user", "and?")], true).unwrap();
    assert_eq!(chat, "<s>user: and?<|turn|>");
    let tokens = model.tokenize_chat(&chat).unwrap();
    assert_eq!(tokens.iter().filter(|&&token| token == begin).count(), 1);
    assert_eq!(tokens.last(), Some(&Token(3)), "the control token by its name");
    let invalid = model.tokenize_prompt(b"ab\xff").unwrap_err();
    assert!(invalid.is_usage() && invalid.to_string().contains("not valid UTF-8 at byte 2"));
}

#[test]
fn the_fingerprint_follows_the_tokenizer_and_not_the_weights() {
    let folder = tempfile::tempdir().unwrap();
    let load = |name: &str, bytes: &[u8], vocab_only: bool| {
        let path = gguf::write(folder.path(), name, bytes);
        Model::load(path, &ModelParams { use_mmap: false, vocab_only, ..ModelParams::default() }).unwrap()
    };
    let model = tiny();
    let other_weights = load("weights", &tiny_llama(99).bytes(), false);
    assert_eq!(model.tokenizer_fingerprint(), other_weights.tokenizer_fingerprint());
    let mut bytes = tiny_llama(7).bytes();
    let at = bytes.windows(4).rposition(|window| window == b"w319").unwrap();
    bytes[at] = b'v';
    let other_token = load("token", &bytes, true);
    assert_ne!(model.tokenizer_fingerprint(), other_token.tokenizer_fingerprint());
    assert_eq!(other_token.n_vocab(), N_VOCAB);
    assert!(Target::new(other_token, &small()).unwrap_err().is_usage(), "a tokenizer alone cannot decode");
}

#[test]
fn metadata_is_told() {
    let model = tiny();
    assert_eq!((model.architecture(), model.name(), model.n_ctx_train()), ("llama", Some("tiny"), gguf::N_CTX_TRAIN));
    assert!(model.n_params() > 80_000 && model.size_bytes() == 4 * model.n_params());
    assert!(model.description().contains("llama") && !model.file_type().is_empty());
    assert!(aded::llama::LLAMA_CPP_VERSION.contains("b11434"), "{}", aded::llama::LLAMA_CPP_VERSION);
    assert!(!aded::llama::system_info().is_empty() && !aded::llama::devices().is_empty());
}

#[test]
fn what_is_shared_between_threads_may_be() {
    fn is_sync<T: Send + Sync>() {}
    fn is_send<T: Send>() {}
    is_sync::<Model>();
    is_send::<Target>();
    is_send::<aded::llama::SamplerChain>();
}
