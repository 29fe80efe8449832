//! Characters from pieces of bytes, and chat templates: compiled here without llama.cpp.
#![no_main]

#[allow(dead_code)]
#[path = "../../src/llama/characters.rs"]
mod characters;
#[allow(dead_code)]
#[path = "../../src/llama/chat.rs"]
mod chat;
#[path = "../../src/llama/clock.rs"]
mod clock;

mod error {
    pub use aded::Error;
}

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Some((&step, bytes)) = bytes.split_first() else { return };
    let (mut waiting, mut text) = (Vec::new(), String::new());
    for piece in bytes.chunks(usize::from(step % 7) + 1) {
        waiting.extend_from_slice(piece);
        characters::take_characters(&mut waiting, &mut text);
        assert!(waiting.len() < 4, "an unfinished character has three bytes at most");
    }
    text.push_str(&String::from_utf8_lossy(&waiting));
    assert_eq!(text, String::from_utf8_lossy(bytes), "as if all had come at once");
    if step % 4 == 0 && text.len() < 400 {
        let messages = [chat::ChatMessage::new("system", "s"), chat::ChatMessage::new("user", &text)];
        let _ = chat::render(&text, &messages, step % 8 == 0, "<s>", "</s>");
    }
});
