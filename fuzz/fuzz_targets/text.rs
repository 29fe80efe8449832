//! Characters from pieces of bytes, and chat templates: compiled here without llama.cpp.
#![no_main]

#[allow(dead_code)]
#[path = "../../src/llama/characters.rs"]
mod characters;
#[allow(dead_code)]
#[path = "../../src/llama/chat.rs"]
mod chat;
#[path = "../checks/text.rs"]
mod check;
#[path = "../../src/llama/clock.rs"]
mod clock;

mod error {
    pub use aded::Error;
}

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| check::check(bytes));
