//! Tokens: texts that users paste, checked for typing errors before they are sent.
//!
//! A join token admits hosts; an API token authorises a program or a person. Both end in a CRC-32, so that an
//! incomplete or mistyped token is refused locally. Coordinators keep only the SHA-256 of their secrets.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use utoipa::ToSchema;

use crate::{base32, secret::Secret};

const JOIN_PREFIX: &str = "wjt1_";
const JOIN_LENGTH: usize = 100;
const API_PREFIX: &str = "wat1_";
const API_LENGTH: usize = 47;

/// The public part of a token, shown in lists, logs and events.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(try_from = "String", into = "String")]
#[schema(value_type = String)]
pub struct TokenId(pub [u8; 5]);

/// The SHA-256 of a DER-encoded public key (SPKI), which identifies a certificate.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pin(pub [u8; 32]);

/// The SHA-256 of a token's secret; coordinators keep nothing else of it.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecretHash(pub [u8; 32]);

/// `wjt1_<id 8>_<ca pin 52>_<secret 26><crc 7>`: 100 characters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinToken {
    /// The public part, by which the cluster finds the token.
    pub id: TokenId,
    /// The pin of the cluster's root certificate.
    pub pin: Pin,
    /// The secret part, which proves that the token is genuine.
    pub secret: Secret<[u8; 16]>,
}

/// `wat1_<id 8>_<secret 26><crc 7>`: 47 characters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiToken {
    /// The public part, by which the cluster finds the token.
    pub id: TokenId,
    /// The secret part, which proves that the token is genuine.
    pub secret: Secret<[u8; 16]>,
}

/// The role of a host that joins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum JoinRole {
    /// It runs instances.
    Agent,
    /// It runs instances and becomes a member of the Raft group.
    Coordinator,
}

impl fmt::Display for JoinRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            JoinRole::Agent => "agent",
            JoinRole::Coordinator => "coordinator",
        })
    }
}

/// Why a text is not a token. The text has not been sent anywhere.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidToken {
    /// It has another prefix.
    #[error("it does not start with {0}")]
    Prefix(&'static str),
    /// It has the wrong length.
    #[error("it has {found} of {expected} characters")]
    Length {
        /// The number of characters.
        found: usize,
        /// The correct number of characters.
        expected: usize,
    },
    /// A character is not in the alphabet, or a separator is missing.
    #[error("it contains a character that tokens never have")]
    Alphabet,
    /// The checksum does not match, which is likely a typing error.
    #[error("a character is wrong: the checksum at its end does not match")]
    Checksum,
}

/// Checks prefix, length and checksum; returns the text between prefix and checksum.
pub(crate) fn unwrap_checked<'a>(text: &'a str, prefix: &'static str, length: usize) -> Result<&'a str, InvalidToken> {
    let body = text.strip_prefix(prefix).ok_or(InvalidToken::Prefix(prefix))?;
    let found = text.chars().count();
    if found != length {
        return Err(InvalidToken::Length { found, expected: length });
    }
    if !text.is_ascii() {
        return Err(InvalidToken::Alphabet);
    }
    let (checked, crc) = text.split_at(length - 7);
    let crc = base32::decode::<4>(crc).ok_or(InvalidToken::Alphabet)?;
    if u32::from_be_bytes(crc) != crc32fast::hash(checked.as_bytes()) {
        return Err(InvalidToken::Checksum);
    }
    Ok(&body[..body.len() - 7])
}

pub(crate) fn with_checksum(text: String) -> String {
    let crc = base32::encode(&crc32fast::hash(text.as_bytes()).to_be_bytes());
    text + &crc
}

impl JoinToken {
    /// The whole token as text, which is secret.
    pub fn reveal(&self) -> String {
        let (pin, secret) = (base32::encode(&self.pin.0), base32::encode(self.secret.expose()));
        with_checksum(format!("{JOIN_PREFIX}{}_{pin}_{secret}", self.id))
    }
}

impl FromStr for JoinToken {
    type Err = InvalidToken;
    fn from_str(text: &str) -> Result<JoinToken, InvalidToken> {
        let mut parts = unwrap_checked(text, JOIN_PREFIX, JOIN_LENGTH)?.split('_');
        let mut part = || parts.next().ok_or(InvalidToken::Alphabet);
        let (id, pin, secret) = (part()?, part()?, part()?);
        Ok(JoinToken {
            id: TokenId(base32::decode(id).ok_or(InvalidToken::Alphabet)?),
            pin: Pin(base32::decode(pin).ok_or(InvalidToken::Alphabet)?),
            secret: Secret::new(base32::decode(secret).ok_or(InvalidToken::Alphabet)?),
        })
    }
}

impl ApiToken {
    /// The whole token as text, which is secret.
    pub fn reveal(&self) -> String {
        with_checksum(format!("{API_PREFIX}{}_{}", self.id, base32::encode(self.secret.expose())))
    }
}

impl FromStr for ApiToken {
    type Err = InvalidToken;
    fn from_str(text: &str) -> Result<ApiToken, InvalidToken> {
        let (id, secret) =
            unwrap_checked(text, API_PREFIX, API_LENGTH)?.split_once('_').ok_or(InvalidToken::Alphabet)?;
        Ok(ApiToken {
            id: TokenId(base32::decode(id).ok_or(InvalidToken::Alphabet)?),
            secret: Secret::new(base32::decode(secret).ok_or(InvalidToken::Alphabet)?),
        })
    }
}

impl SecretHash {
    /// Hashes a token's secret.
    pub fn of(secret: &Secret<[u8; 16]>) -> SecretHash {
        SecretHash(Sha256::digest(secret.expose()).into())
    }

    /// Compares in constant time, so that the duration reveals nothing.
    pub fn matches(&self, other: &SecretHash) -> bool {
        let difference = self.0.iter().zip(other.0).fold(0u8, |sum, (a, b)| sum | (a ^ b));
        std::hint::black_box(difference) == 0
    }
}

impl Pin {
    /// Hashes a DER-encoded public key (SPKI).
    pub fn of(spki: &[u8]) -> Pin {
        Pin(Sha256::digest(spki).into())
    }
}

impl fmt::Debug for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&base32::encode(&self.0))
    }
}

impl fmt::Debug for SecretHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[hash]")
    }
}

impl fmt::Display for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&base32::encode(&self.0))
    }
}

impl fmt::Debug for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for TokenId {
    type Err = InvalidToken;
    fn from_str(text: &str) -> Result<TokenId, InvalidToken> {
        base32::decode(text).map(TokenId).ok_or(InvalidToken::Alphabet)
    }
}

impl TryFrom<String> for TokenId {
    type Error = InvalidToken;
    fn try_from(text: String) -> Result<TokenId, InvalidToken> {
        text.parse()
    }
}

impl From<TokenId> for String {
    fn from(id: TokenId) -> String {
        id.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token() -> JoinToken {
        JoinToken { id: TokenId([1, 2, 3, 4, 5]), pin: Pin([9; 32]), secret: Secret::new([200; 16]) }
    }

    #[test]
    fn a_token_is_100_characters_and_reads_back() {
        let text = token().reveal();
        assert_eq!(text.len(), JOIN_LENGTH);
        assert_eq!(text.parse(), Ok(token()));
        let api = ApiToken { id: TokenId([7; 5]), secret: Secret::new([1; 16]) };
        assert_eq!(api.reveal().parse(), Ok(api));
    }

    #[test]
    fn every_typing_error_is_found_before_anything_is_sent() {
        let text = token().reveal();
        for cut in 0..text.len() {
            assert!(text[..cut].parse::<JoinToken>().is_err());
        }
        for at in 0..text.len() {
            let mut changed = text.clone().into_bytes();
            changed[at] = if changed[at] == b'q' { b'r' } else { b'q' };
            let changed = String::from_utf8(changed).expect("ascii");
            assert!(changed.parse::<JoinToken>().is_err(), "{changed}");
        }
        for odd in [
            format!(" {text}"),
            format!("{text}\n"),
            format!("\"{text}\""),
            text.to_uppercase(),
            format!("{text}{text}"),
            format!("{text}\u{a0}"),
        ] {
            assert!(odd.parse::<JoinToken>().is_err(), "{odd:?}");
        }
        assert_eq!(text[..87].parse::<JoinToken>(), Err(InvalidToken::Length { found: 87, expected: 100 }));
    }
}
