//! The encodings of values: bincode on the wire, and on disk sealed with a version and a checksum.
//!
//! Sealing checks a size limit, so everything written can be read back. bincode's own limit counts the memory that a
//! value claims, which may be several times its encoded size; it protects the receivers of frames, whose lengths
//! another host has written.

mod cautious;

use bincode::error::DecodeError;
use serde::{Serialize, de::DeserializeOwned};
use sha2::{Digest, Sha256};

use cautious::Value;

/// Why bytes cannot be decoded, or a value cannot be encoded.
#[derive(Debug, thiserror::Error)]
pub enum CodecError {
    /// The value cannot be encoded, or the bytes do not form one.
    #[error("{0}")]
    Format(String),
    /// The bytes hold something that this binary does not know, and a newer one does.
    #[error("{0}")]
    Newer(String),
    /// The bytes start with something else.
    #[error("it is not a {expected} (it starts with {found:02x?})")]
    Magic {
        /// The four letters of the format.
        expected: String,
        /// The bytes in their place.
        found: Vec<u8>,
    },
    /// The format version is newer than this binary.
    #[error("it has format version {found}, and this binary reads up to {newest}: upgrade wharf")]
    Version {
        /// The version in the header.
        found: u16,
        /// The newest version that this binary reads.
        newest: u16,
    },
    /// The format version is older than any that this binary reads.
    #[error("it has format version {found}, which this binary does not read: upgrade through the versions between")]
    TooOld {
        /// The version in the header.
        found: u16,
    },
    /// The value is larger than its format allows.
    #[error("it has {size} bytes, and its format allows {limit}")]
    TooLarge {
        /// The encoded size in bytes.
        size: usize,
        /// The maximum size in bytes.
        limit: usize,
    },
    /// The checksum does not match: the bytes are damaged.
    #[error("its checksum is {found:08x} and should be {expected:08x}: the disk or a copy damaged it")]
    Checksum {
        /// The checksum in the header.
        expected: u32,
        /// The checksum of the bytes.
        found: u32,
    },
}

/// How the error ends of a decoder that meets a tag or a version which it does not know. serde carries errors as text
/// alone; this ending is how [`CodecError::Newer`] is recognised.
pub const NEWER: &str = ": a newer version of wharf wrote it";

/// The memory that a value may claim.
const MOST_CLAIMED: usize = 256 << 20;
/// No value claims more than this for a byte of its encoded form: the widest number takes one byte if it is small.
const CLAIMED_PER_BYTE: usize = 16;

fn config() -> impl bincode::config::Config {
    bincode::config::standard().with_limit::<MOST_CLAIMED>()
}

/// Encodes a value in the compact binary form.
pub fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, CodecError> {
    bincode::serde::encode_to_vec(value, config()).map_err(|e| CodecError::Format(e.to_string()))
}

/// The encoded size of a value in bytes, without encoding it.
pub fn size<T: Serialize>(value: &T) -> Result<usize, CodecError> {
    let mut count = bincode::enc::write::SizeWriter::default();
    bincode::serde::encode_into_writer(value, &mut count, config()).map_err(|e| CodecError::Format(e.to_string()))?;
    Ok(count.bytes_written)
}

/// Writes what [`encode`] would give, which is never held in memory as a whole.
pub fn write<T: Serialize>(value: &T, to: &mut impl std::io::Write) -> Result<(), CodecError> {
    bincode::serde::encode_into_std_write(value, to, config()).map(drop).map_err(|e| CodecError::Format(e.to_string()))
}

/// Reads a value from exactly `bytes` that are known to be what this or another version of wharf wrote, whatever their
/// size.
pub fn decode_trusted<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError> {
    if bytes.len() <= MOST_CLAIMED / CLAIMED_PER_BYTE {
        decode(bytes)
    } else {
        decode_with(bytes, bincode::config::standard())
    }
}

/// The SHA-256 of what [`encode`] would give, which is never held in memory as a whole.
pub fn hash<T: Serialize>(value: &T) -> Result<[u8; 32], CodecError> {
    let mut hasher = Hasher(Sha256::new());
    bincode::serde::encode_into_writer(value, &mut hasher, config()).map_err(|e| CodecError::Format(e.to_string()))?;
    Ok(hasher.0.finalize().into())
}

struct Hasher(Sha256);

impl bincode::enc::write::Writer for Hasher {
    fn write(&mut self, bytes: &[u8]) -> Result<(), bincode::error::EncodeError> {
        self.0.update(bytes);
        Ok(())
    }
}

/// Reads a value from exactly `bytes`, which another host may have sent.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError> {
    decode_with(bytes, config())
}

fn decode_with<T: DeserializeOwned>(bytes: &[u8], config: impl bincode::config::Config) -> Result<T, CodecError> {
    let (Value(value), read) = bincode::serde::decode_from_slice(bytes, config).map_err(|error| match error {
        DecodeError::OtherString(text) if text.ends_with(NEWER) => CodecError::Newer(text),
        error => CodecError::Format(error.to_string()),
    })?;
    if read != bytes.len() {
        return Err(CodecError::Format(format!("{} bytes follow after the value", bytes.len() - read)));
    }
    Ok(value)
}

/// A format for values that outlive the process.
#[derive(Debug, Clone, Copy)]
pub struct Format {
    /// The four letters at the start of each value.
    pub magic: &'static [u8; 4],
    /// The version that is written, and the newest that can be read.
    pub version: u16,
    /// The maximum size of a body in bytes. Larger values are not written.
    pub limit: usize,
}

const HEADER: usize = 10;

impl Format {
    /// Encodes a value as magic, version, CRC-32 of the rest, and the rest. Fails if it exceeds the limit.
    pub fn seal<T: Serialize>(&self, value: &T) -> Result<Vec<u8>, CodecError> {
        let body = encode(value)?;
        if body.len() > self.limit {
            return Err(CodecError::TooLarge { size: body.len(), limit: self.limit });
        }
        let mut bytes = Vec::with_capacity(HEADER + body.len());
        bytes.extend_from_slice(self.magic);
        bytes.extend_from_slice(&self.version.to_be_bytes());
        bytes.extend_from_slice(&crc32fast::hash(&body).to_be_bytes());
        bytes.extend_from_slice(&body);
        Ok(bytes)
    }

    /// Decodes the output of [`Format::seal`] after checking its whole header.
    pub fn open<T: DeserializeOwned>(&self, bytes: &[u8]) -> Result<T, CodecError> {
        self.open_with(bytes, |found, _| Err(CodecError::TooOld { found }))
    }

    /// Like [`Format::open`] for a format with earlier versions: `older` decodes their bodies and converts them.
    pub fn open_with<T: DeserializeOwned>(
        &self,
        bytes: &[u8],
        older: impl FnOnce(u16, &[u8]) -> Result<T, CodecError>,
    ) -> Result<T, CodecError> {
        let magic = || String::from_utf8_lossy(self.magic).into_owned();
        if bytes.len() < HEADER || &bytes[..4] != self.magic {
            return Err(CodecError::Magic { expected: magic(), found: bytes.iter().take(4).copied().collect() });
        }
        let version = u16::from_be_bytes([bytes[4], bytes[5]]);
        if version > self.version {
            return Err(CodecError::Version { found: version, newest: self.version });
        }
        let expected = u32::from_be_bytes([bytes[6], bytes[7], bytes[8], bytes[9]]);
        let found = crc32fast::hash(&bytes[HEADER..]);
        if found != expected {
            return Err(CodecError::Checksum { expected, found });
        }
        if version < self.version {
            return older(version, &bytes[HEADER..]);
        }
        let body = &bytes[HEADER..];
        // No value of this size that was written claims more than the limit, so a text whose length is absurd is refused
        // before memory is taken for it. A larger body is trusted: its checksum has shown that it is what was written.
        decode_trusted(body)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FORMAT: Format = Format { magic: b"TEST", version: 2, limit: 1000 };

    #[test]
    fn a_sealed_value_is_read_back_and_every_flipped_bit_is_seen() {
        let sealed = FORMAT.seal(&("hello", 7u64)).expect("seals");
        assert_eq!(FORMAT.open::<(String, u64)>(&sealed).expect("opens"), ("hello".into(), 7));
        for bit in 0..sealed.len() * 8 {
            let mut broken = sealed.clone();
            broken[bit / 8] ^= 1 << (bit % 8);
            assert!(FORMAT.open::<(String, u64)>(&broken).is_err(), "bit {bit}");
        }
        for length in 0..sealed.len() {
            assert!(FORMAT.open::<(String, u64)>(&sealed[..length]).is_err(), "cut at {length}");
        }
    }

    #[test]
    fn what_can_be_written_can_be_read_and_has_the_size_that_was_told() {
        let largest = vec![7_u8; 1000 - 3];
        let sealed = FORMAT.seal(&largest).expect("it is just small enough");
        assert_eq!(FORMAT.open::<Vec<u8>>(&sealed).expect("opens"), largest);
        let larger = vec![7_u8; 1000 - 2];
        let refused = FORMAT.seal(&larger).expect_err("it is too large").to_string();
        assert_eq!(refused, "it has 1001 bytes, and its format allows 1000");
        // Small numbers take one byte each and claim eight.
        let wide = Format { limit: 64 << 20, ..FORMAT };
        let numbers: Vec<u64> = (0..40_u64 << 20).map(|number| number % 200).collect();
        let sealed = wide.seal(&numbers).expect("seals");
        assert!(wide.open::<Vec<u64>>(&sealed).expect("opens") == numbers);
        for value in ["", "hello", &"long".repeat(200)] {
            assert_eq!(size(&value).expect("it has one"), encode(&value).expect("encodes").len());
        }
    }

    #[test]
    fn a_length_that_nothing_stands_behind_takes_no_memory() {
        // A text of 2^63 bytes, of 2^40 and of 2^28, and nothing behind it.
        for length in [1_u64 << 63, 1 << 40, 1 << 28] {
            let sealed = FORMAT.seal(&length).expect("seals");
            assert!(FORMAT.open::<String>(&sealed).is_err(), "{length}");
            assert!(FORMAT.open::<Vec<String>>(&sealed).is_err(), "{length}");
            assert!(decode::<String>(&encode(&length).expect("encodes")).is_err(), "{length}");
            // This type reserves as many elements as the length says.
            assert!(FORMAT.open::<imbl::OrdMap<u64, [u64; 8]>>(&sealed).is_err(), "{length}");
            assert!(
                FORMAT
                    .open::<(u64, Option<imbl::OrdSet<String>>)>(&FORMAT.seal(&(1_u8, true, length)).expect("seals"))
                    .is_err()
            );
        }
        // The widest that a small body may claim is read nevertheless.
        let widest = vec![1_u128; 900];
        let sealed = FORMAT.seal(&widest).expect("seals");
        assert_eq!(FORMAT.open::<Vec<u128>>(&sealed).expect("opens"), widest);
    }

    #[test]
    fn an_older_format_has_a_decoder_of_its_own_or_is_refused() {
        let first = Format { version: 1, ..FORMAT }.seal(&"seven").expect("seals");
        let refused = FORMAT.open::<u64>(&first).expect_err("is refused").to_string();
        assert!(refused.contains("version 1, which this binary does not read"), "{refused}");
        let opened = FORMAT.open_with(&first, |version, body| match version {
            1 => decode::<String>(body).map(|text| text.len() as u64),
            found => Err(CodecError::TooOld { found }),
        });
        assert_eq!(opened.expect("it is converted"), 5);
    }

    #[test]
    fn a_newer_format_is_refused_by_name() {
        let newer = Format { version: 3, ..FORMAT }.seal(&1u8).expect("seals");
        let error = FORMAT.open::<u8>(&newer).expect_err("is refused").to_string();
        assert!(error.contains("version 3") && error.contains("upgrade"), "{error}");
    }
}
