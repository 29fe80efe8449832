//! Whole characters from bytes that arrive in pieces.

/// Moves all complete characters from `bytes` to `text`; bytes that begin no character become a replacement character.
pub(super) fn take_characters(bytes: &mut Vec<u8>, text: &mut String) {
    let mut taken = 0;
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        taken += chunk.valid().len();
        let rest = chunk.invalid();
        // An unfinished character is only ever the last chunk, and only if more bytes could finish it.
        if taken + rest.len() == bytes.len()
            && std::str::from_utf8(rest).is_err_and(|error| error.error_len().is_none())
        {
            break;
        }
        if !rest.is_empty() {
            text.push(char::REPLACEMENT_CHARACTER);
        }
        taken += rest.len();
    }
    bytes.drain(..taken);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn characters_come_out_whole_however_their_bytes_arrive() {
        let whole = "aé€😀 z\u{301}";
        for step in 1..5 {
            let (mut waiting, mut text) = (Vec::new(), String::new());
            for piece in whole.as_bytes().chunks(step) {
                waiting.extend_from_slice(piece);
                take_characters(&mut waiting, &mut text);
                assert!(whole.starts_with(&text), "{text:?}");
            }
            assert_eq!((text.as_str(), waiting.as_slice()), (whole, &[][..]));
        }
    }

    #[test]
    fn bytes_that_are_no_character_do_not_hold_up_the_rest() {
        let (mut waiting, mut text) = (b"a\xff\xe2\x82b\xe2\x82".to_vec(), String::new());
        take_characters(&mut waiting, &mut text);
        assert_eq!((text.as_str(), waiting.as_slice()), ("a\u{fffd}\u{fffd}b", &b"\xe2\x82"[..]));
    }
}
