//! Crockford's base32 in lower case: no `i`, `l`, `o`, `u`, so a text survives being read aloud.
//!
//! Source: <https://www.crockford.com/base32.html>, without its check symbols.

const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

/// Writes `bytes` as `ceil(8 * len / 5)` characters; the last one is padded with zero bits.
pub fn encode(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(5) * 8);
    let (mut buffer, mut bits) = (0u32, 0u32);
    for byte in bytes {
        buffer = (buffer << 8) | u32::from(*byte);
        bits += 8;
        while bits >= 5 {
            bits -= 5;
            text.push(char::from(ALPHABET[(buffer >> bits) as usize & 31]));
        }
    }
    if bits > 0 {
        text.push(char::from(ALPHABET[(buffer << (5 - bits)) as usize & 31]));
    }
    text
}

/// Reads exactly `N` bytes; `None` if a character, the length or the padding bits do not fit.
pub fn decode<const N: usize>(text: &str) -> Option<[u8; N]> {
    if text.len() != (N * 8).div_ceil(5) {
        return None;
    }
    let mut bytes = [0u8; N];
    let (mut buffer, mut bits, mut at) = (0u32, 0u32, 0usize);
    for character in text.bytes() {
        let value = ALPHABET.iter().position(|a| *a == character)? as u32;
        buffer = (buffer << 5) | value;
        bits += 5;
        if bits >= 8 {
            bits -= 8;
            bytes[at] = (buffer >> bits) as u8;
            at += 1;
        }
    }
    (buffer & ((1 << bits) - 1) == 0).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let bytes = [0, 1, 127, 128, 255, 3, 9, 200];
        assert_eq!(decode::<8>(&encode(&bytes)), Some(bytes));
        assert_eq!(decode::<8>("too short"), None);
        assert_eq!(encode(&[0xff; 5]), "zzzzzzzz");
        assert_eq!(decode::<1>("zz"), None, "padding bits must be zero");
    }
}
