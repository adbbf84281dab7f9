//! Hexadecimal text in lower case.

/// Encodes bytes, two characters each.
pub fn encode(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Decodes a text; `None` if it is not hexadecimal.
pub fn decode(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let pair = |pair: &[u8]| match pair {
        [high, low] => Some(digit(*high)? << 4 | digit(*low)?),
        _ => None,
    };
    text.as_bytes().chunks(2).map(pair).collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn hexadecimal_is_read_back() {
        assert_eq!(super::decode(&super::encode(&[0, 255, 16])), Some(vec![0, 255, 16]));
        assert_eq!(super::decode("abc"), None);
        assert_eq!(super::decode("zz"), None);
        assert_eq!(super::decode("0F"), Some(vec![15]));
        assert_eq!(super::decode("+2"), None, "a sign is no digit");
        assert_eq!(super::decode("é"), None);
    }
}
