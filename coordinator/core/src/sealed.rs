//! The outer form of sealed texts: what can be seen of one without a key.
//!
//! The first byte says how the rest is to be read. Form 1 does not say which key it needs: it is of the key that a
//! cluster is born with. Form 2 begins with the id of its key. [`LOST`] stands before a text that no key of the cluster
//! opened when the key was changed; its bytes are kept.

use common::{hex, secret::Secret};
use serde::{Deserialize, Serialize};

/// The form without the id of a key.
pub const WITHOUT_KEY: u8 = 1;
/// The form with the id of its key.
pub const WITH_KEY: u8 = 2;
/// Before a text that no key opened.
pub const LOST: u8 = 0;
/// The first byte of a private key that is not sealed (a DER sequence).
const DER: u8 = 0x30;

/// Names a sealing key, and gives nothing of it away.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct KeyId(pub [u8; 8]);

impl std::fmt::Display for KeyId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl std::fmt::Debug for KeyId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, f)
    }
}

/// The key that a text needs, if the text says so.
pub fn key_of(text: &[u8]) -> Option<KeyId> {
    let (form, rest) = text.split_first()?;
    (*form == WITH_KEY).then(|| rest.first_chunk().copied().map(KeyId))?
}

/// Whether a private key lies open.
pub fn is_open(key: &[u8]) -> bool {
    key.first() == Some(&DER)
}

/// Whether a text was given up when the key was changed.
pub fn is_lost(text: &[u8]) -> bool {
    text.first() == Some(&LOST)
}

/// Stands before a password that is sealed. No password of a person may have it: it is a control character.
const SEALED_PASSWORD: char = '\u{2}';

/// A sealed password in the place of the password.
pub fn in_place_of_password(text: &[u8]) -> Secret<String> {
    Secret::new(format!("{SEALED_PASSWORD}{}", hex::encode(text)))
}

/// The sealed text in the place of a password; none if the password lies open.
pub fn of_password(password: &Secret<String>) -> Option<Vec<u8>> {
    hex::decode(password.expose().strip_prefix(SEALED_PASSWORD)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_says_which_key_it_needs() {
        let key = KeyId([7; 8]);
        let text = [&[WITH_KEY][..], &key.0, b"rest"].concat();
        assert_eq!(key_of(&text), Some(key));
        for other in [&[][..], &[WITH_KEY], &text[..8], &[WITHOUT_KEY, 7, 7, 7, 7, 7, 7, 7, 7], &[LOST, 2, 7]] {
            assert_eq!(key_of(other), None, "{other:?}");
        }
        assert!(is_open(&[0x30, 0x81]) && !is_open(&text) && !is_open(&[]));
        assert_eq!(key.to_string(), "0707070707070707");
    }
}
