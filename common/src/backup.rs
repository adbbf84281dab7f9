//! Backups: the keys that they are encrypted with, and when they are made.
//!
//! A backup is encrypted to a [`Recipient`], which the cluster knows. Only the [`BackupKey`] that belongs to it opens
//! the backup, and no coordinator ever has that.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    base32,
    secret::Secret,
    time::Span,
    token::{InvalidToken, unwrap_checked, with_checksum},
};

const KEY_PREFIX: &str = "wbk1_";
const KEY_LENGTH: usize = 64;

/// The public key that backups are encrypted to (X25519).
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(try_from = "String", into = "String")]
#[schema(value_type = String)]
pub struct Recipient(pub [u8; 32]);

/// `wbk1_<key 52><crc 7>`: 64 characters, the private key that opens backups. A person keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupKey(pub Secret<[u8; 32]>);

impl BackupKey {
    /// The whole key as text, which is secret.
    pub fn reveal(&self) -> String {
        with_checksum(format!("{KEY_PREFIX}{}", base32::encode(self.0.expose())))
    }
}

impl FromStr for BackupKey {
    type Err = InvalidToken;
    fn from_str(text: &str) -> Result<BackupKey, InvalidToken> {
        let key = unwrap_checked(text, KEY_PREFIX, KEY_LENGTH)?;
        Ok(BackupKey(Secret::new(base32::decode(key).ok_or(InvalidToken::Alphabet)?)))
    }
}

impl fmt::Display for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&base32::encode(&self.0))
    }
}

impl fmt::Debug for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Recipient {
    type Err = InvalidToken;
    fn from_str(text: &str) -> Result<Recipient, InvalidToken> {
        base32::decode(text).map(Recipient).ok_or(InvalidToken::Alphabet)
    }
}

impl TryFrom<String> for Recipient {
    type Error = InvalidToken;
    fn try_from(text: String) -> Result<Recipient, InvalidToken> {
        text.parse()
    }
}

impl From<Recipient> for String {
    fn from(recipient: Recipient) -> String {
        recipient.to_string()
    }
}

/// How often every coordinator writes a backup by itself, and how many it keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Schedule {
    /// The time from one backup to the next.
    pub every: Span,
    /// How many backups each coordinator keeps.
    pub keep: u32,
}

impl Schedule {
    /// The shortest time from one backup to the next.
    pub const SHORTEST: Span = Span::seconds(60);
    /// The longest time from one backup to the next.
    pub const LONGEST: Span = Span::minutes(31 * 24 * 60);
    /// The maximum number of backups that a coordinator keeps.
    pub const MOST_KEPT: u32 = 1000;

    /// Why it cannot be followed, if it cannot.
    pub fn violation(&self) -> Option<String> {
        if self.every < Self::SHORTEST || self.every > Self::LONGEST {
            return Some(format!(
                "a backup is made every {} at the most, and every {} at least",
                Self::SHORTEST,
                Self::LONGEST
            ));
        }
        let range = 1..=Self::MOST_KEPT;
        (!range.contains(&self.keep)).then(|| format!("1 to {} backups are kept", Self::MOST_KEPT))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_64_characters_and_every_typing_error_is_found() {
        let key = BackupKey(Secret::new([7; 32]));
        let text = key.reveal();
        assert_eq!(text.len(), KEY_LENGTH);
        assert_eq!(text.parse(), Ok(key));
        for at in 0..text.len() {
            let mut changed = text.clone().into_bytes();
            changed[at] = if changed[at] == b'q' { b'r' } else { b'q' };
            let changed = String::from_utf8(changed).expect("ascii");
            assert!(changed.parse::<BackupKey>().is_err(), "{changed}");
            assert!(text[..at].parse::<BackupKey>().is_err());
        }
        let recipient = Recipient([3; 32]);
        assert_eq!(recipient.to_string().parse(), Ok(recipient));
    }
}
