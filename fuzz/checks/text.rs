//! Characters from pieces of bytes, and a chat template.

use super::{characters, chat};

pub(crate) fn check(bytes: &[u8]) {
    let Some((&step, bytes)) = bytes.split_first() else { return };
    let (mut waiting, mut text) = (Vec::new(), String::new());
    for piece in bytes.chunks(usize::from(step % 7) + 1) {
        waiting.extend_from_slice(piece);
        characters::take_characters(&mut waiting, &mut text);
        assert!(waiting.len() < 4, "an unfinished character has three bytes at most");
    }
    text.push_str(&String::from_utf8_lossy(&waiting));
    assert_eq!(text, String::from_utf8_lossy(bytes), "as if all had come at once");
    if step.is_multiple_of(4) && text.len() < 400 {
        let messages = [chat::ChatMessage::new("system", "s"), chat::ChatMessage::new("user", &text)];
        let _ = chat::render(&text, &messages, step.is_multiple_of(8), "<s>", "</s>");
    }
}
