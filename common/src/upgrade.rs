//! The binaries of wharf that hosts run, and the one that an upgrade brings to all of them.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::hex;

/// The largest binary that a cluster takes, in bytes.
pub const MAX_BINARY: u64 = 256 << 20;
/// The longest version that a binary may say, in bytes.
pub const MAX_VERSION: usize = 64;

/// The SHA-256 of a binary, which is its name in the cluster.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct BinaryHash(pub [u8; 32]);

/// The text is not a SHA-256.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a SHA-256 has 64 hexadecimal digits")]
pub struct InvalidHash;

impl BinaryHash {
    /// Enough of it to tell two binaries apart, for people.
    pub fn short(&self) -> String {
        hex::encode(&self.0[..6])
    }
}

impl fmt::Display for BinaryHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(&self.0))
    }
}

impl fmt::Debug for BinaryHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for BinaryHash {
    type Err = InvalidHash;
    fn from_str(text: &str) -> Result<BinaryHash, InvalidHash> {
        hex::decode(text).and_then(|bytes| bytes.try_into().ok()).map(BinaryHash).ok_or(InvalidHash)
    }
}

impl TryFrom<String> for BinaryHash {
    type Error = InvalidHash;
    fn try_from(text: String) -> Result<BinaryHash, InvalidHash> {
        text.parse()
    }
}

impl From<BinaryHash> for String {
    fn from(hash: BinaryHash) -> String {
        hash.to_string()
    }
}

impl utoipa::PartialSchema for BinaryHash {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
        <String as utoipa::PartialSchema>::schema()
    }
}

impl utoipa::ToSchema for BinaryHash {}

/// What a binary says of itself: the JSON of `wharf version --client -o json`, whose field names are stable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BinaryInfo {
    /// Its version.
    pub version: String,
    /// The newest feature level that it understands.
    pub level: u16,
    /// The wire protocols that it supports.
    pub protocols: Vec<u16>,
}

/// A binary of wharf that is to run on every host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    /// Its hash.
    pub hash: BinaryHash,
    /// Its size in bytes.
    pub size: u64,
    /// The version that it says it has.
    pub version: String,
    /// The newest feature level that it understands.
    pub level: u16,
}

/// The binary that a host runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Build {
    /// Its hash.
    pub hash: BinaryHash,
    /// Its version.
    pub version: String,
}

/// Bytes that are encoded in one go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece(pub Vec<u8>);

impl Serialize for Piece {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for Piece {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Piece, D::Error> {
        struct Bytes;
        impl serde::de::Visitor<'_> for Bytes {
            type Value = Piece;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("bytes")
            }
            fn visit_bytes<E: serde::de::Error>(self, bytes: &[u8]) -> Result<Piece, E> {
                Ok(Piece(bytes.to_vec()))
            }
            fn visit_byte_buf<E: serde::de::Error>(self, bytes: Vec<u8>) -> Result<Piece, E> {
                Ok(Piece(bytes))
            }
        }
        deserializer.deserialize_byte_buf(Bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec;

    #[test]
    fn hashes_are_read_back_and_nothing_else_is_one() {
        let hash = BinaryHash([7; 32]);
        assert_eq!(hash.to_string().parse(), Ok(hash));
        for other in ["", "07", &"07".repeat(33), &"0x".repeat(32)] {
            assert_eq!(other.parse::<BinaryHash>(), Err(InvalidHash), "{other}");
        }
    }

    #[test]
    fn pieces_are_read_back() {
        for length in [0, 1, 1 << 20] {
            let piece = Piece(vec![9; length]);
            let bytes = codec::encode(&piece).expect("it is written");
            assert_eq!(codec::decode::<Piece>(&bytes).expect("it is read"), piece);
        }
    }
}
