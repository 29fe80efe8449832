//! The frame of a file of ours round any words, so that what is inside is reached.

/// A sealed file of a kind whose words from the section table on come from `bytes`.
pub(crate) fn sealed(bytes: &[u8], kind: u32) -> Vec<u8> {
    let mut words = vec![0u32; 16];
    (words[0], words[1]) = (u32::from_le_bytes(*b"\x89ADE"), u32::from_le_bytes(*b"D\r\n\x1a"));
    (words[2], words[3], words[4], words[5]) = (0x0A0B_0C0D, 1, kind, 40);
    let (&[n_sections, ..], rest) = bytes.split_at(bytes.len().min(1)) else { return Vec::new() };
    words[10] = u32::from(n_sections % 12);
    // One byte a word where the first bit is set: small numbers are the interesting ones.
    let is_small = n_sections & 0x80 != 0;
    let body = if is_small { rest.iter().map(|&byte| u32::from(byte)).collect() } else { wide(rest) };
    words.extend(body);
    let n_words = words.len() as u32 + 2;
    words[8] = n_words;
    let step = |sum: u64, &word: &u32| (sum ^ u64::from(word)).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
    let sum = words.iter().fold(0x6164_6564_7374_6f72, step);
    words.extend([sum as u32, (sum >> 32) as u32]);
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

fn wide(bytes: &[u8]) -> Vec<u32> {
    bytes.as_chunks::<4>().0.iter().map(|&word| u32::from_le_bytes(word)).collect()
}
