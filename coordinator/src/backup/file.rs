//! The file of a backup.
//!
//! ```text
//! "WHARFBAK"        8 bytes
//! length            4 bytes, big-endian
//! head              sealed as everything that outlives a process: magic, version, checksum, body
//! encapsulated key  32 bytes: HPKE (RFC 9180), X25519, HKDF-SHA256, ChaCha20-Poly1305
//! chunks            each 4 bytes of length, whose first bit marks the last chunk, and the encrypted bytes
//! ```
//!
//! All that stands before the encapsulated key goes into the encryption as its `info`, and the length of each chunk as
//! its associated data. HPKE counts the chunks. So no bit can be changed, and no chunk left out, moved or added, without
//! being found. Neither side holds more than a chunk beside the state itself.

use std::io::{self, Read, Write};

use common::{
    backup::{BackupKey, Recipient},
    codec::{self, CodecError, Format},
    id::ClusterId,
    secret::Secret,
    time::Timestamp,
};
use coordinator_core::state::StateHash;
use hpke::{
    Deserializable, HpkeError, Kem as _, OpModeR, OpModeS, Serializable,
    aead::{AeadCtxR, AeadCtxS, ChaCha20Poly1305},
    kdf::HkdfSha256,
    kem::X25519HkdfSha256,
    setup_receiver, setup_sender,
};
use link::identity::random_bytes;
use rand_core::{CryptoRng, RngCore};
use serde::{Deserialize, Serialize};

use super::Contents;

const BEGINNING: &[u8; 8] = b"WHARFBAK";
/// How the head is sealed.
const HEAD_FORMAT: Format = Format { magic: b"WBAK", version: 1, limit: 4 << 10 };
/// The bytes in clear of every chunk but the last one.
const CHUNK: usize = 64 << 10;
/// The bytes that encryption adds to a chunk.
const TAG: usize = 16;
/// Marks the last chunk in its length.
const LAST: u32 = 1 << 31;
/// The size of an encapsulated key.
const ENCAPSULATED: usize = 32;
/// The most that is decrypted. No state is larger.
const MOST: usize = (1 << 30) + (1 << 20);

type Kem = X25519HkdfSha256;
type Sender = AeadCtxS<ChaCha20Poly1305, HkdfSha256, Kem>;
type Receiver = AeadCtxR<ChaCha20Poly1305, HkdfSha256, Kem>;

/// What a backup says of itself in clear.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Head {
    /// The cluster.
    pub cluster: ClusterId,
    /// The index of its state.
    pub index: u64,
    /// When the backup was made.
    pub at: Timestamp,
    /// The feature level of the state.
    pub level: u16,
    /// The version of wharf that made it.
    pub wharf: String,
    /// The key that it is encrypted to.
    pub recipient: Recipient,
    /// The hash of the state.
    pub hash: StateHash,
}

/// Why a backup cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The file cannot be read or written.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// It is something else.
    #[error("it is not a backup of wharf")]
    NotABackup,
    /// It ends too early.
    #[error("it is cut off in {0}")]
    Truncated(&'static str),
    /// Something follows behind its end.
    #[error("there is something behind its end")]
    Longer,
    /// Its head is damaged, or a newer version has written it.
    #[error("its head cannot be read: {0}")]
    Head(CodecError),
    /// It was encrypted to another key.
    #[error("it was encrypted to the key {0}, and not to this one")]
    OtherKey(Recipient),
    /// A part was changed.
    #[error("{0} was changed since it was made, or is damaged")]
    Changed(String),
    /// What is in it cannot be decoded.
    #[error("its state cannot be read: {0}")]
    State(CodecError),
    /// It is not what its head says.
    #[error("{0} is not what its head says")]
    Differs(&'static str),
    /// The recipient is no usable public key.
    #[error("it cannot be encrypted: {0}")]
    Encryption(HpkeError),
}

/// Draws a new pair of keys.
pub fn make_key() -> (BackupKey, Recipient) {
    let key = BackupKey(Secret::new(random_bytes()));
    let recipient = recipient_of(&key);
    (key, recipient)
}

/// The public part of a key.
pub fn recipient_of(key: &BackupKey) -> Recipient {
    let mut bytes = [0; 32];
    Kem::sk_to_pk(&private(key)).write_exact(&mut bytes);
    Recipient(bytes)
}

fn private(key: &BackupKey) -> <Kem as hpke::Kem>::PrivateKey {
    Deserializable::from_bytes(key.0.expose()).expect("any 32 bytes are a private key of X25519")
}

/// The system's random numbers, as `hpke` asks for them.
struct Random;

impl RngCore for Random {
    fn next_u32(&mut self) -> u32 {
        u32::from_ne_bytes(random_bytes())
    }

    fn next_u64(&mut self) -> u64 {
        u64::from_ne_bytes(random_bytes())
    }

    fn fill_bytes(&mut self, bytes: &mut [u8]) {
        for piece in bytes.chunks_mut(32) {
            piece.copy_from_slice(&random_bytes::<32>()[..piece.len()]);
        }
    }
}

impl CryptoRng for Random {}

/// Writes a backup; returns its size.
pub(super) fn write(head: &Head, contents: &Contents, mut to: impl Write) -> Result<u64, BackupError> {
    let sealed = HEAD_FORMAT.seal(head).map_err(BackupError::Head)?;
    let length = u32::try_from(sealed.len()).map_err(|_| BackupError::NotABackup)?;
    let beginning = [BEGINNING, &length.to_be_bytes()[..], &sealed].concat();
    let recipient = Deserializable::from_bytes(&head.recipient.0).map_err(BackupError::Encryption)?;
    let (encapsulated, context) =
        setup_sender::<ChaCha20Poly1305, HkdfSha256, Kem, _>(&OpModeS::Base, &recipient, &beginning, &mut Random)
            .map_err(BackupError::Encryption)?;
    let mut key = [0; ENCAPSULATED];
    encapsulated.write_exact(&mut key);
    to.write_all(&beginning)?;
    to.write_all(&key)?;
    let written = (beginning.len() + key.len()) as u64;
    let mut sealing = Sealing { to, context, buffer: Vec::with_capacity(CHUNK + TAG), written };
    codec::write(contents, &mut sealing).map_err(BackupError::State)?;
    sealing.finish()
}

/// Encrypts what is written to it, chunk by chunk.
struct Sealing<W> {
    to: W,
    context: Sender,
    buffer: Vec<u8>,
    written: u64,
}

impl<W: Write> Sealing<W> {
    fn chunk(&mut self, mark: u32) -> io::Result<()> {
        let length = (mark | (self.buffer.len() + TAG) as u32).to_be_bytes();
        let sealed = self.context.seal(&self.buffer, &length).map_err(|e| io::Error::other(e.to_string()))?;
        self.to.write_all(&length)?;
        self.to.write_all(&sealed)?;
        self.written += (length.len() + sealed.len()) as u64;
        self.buffer.clear();
        Ok(())
    }

    fn finish(mut self) -> Result<u64, BackupError> {
        self.chunk(LAST)?;
        self.to.flush()?;
        Ok(self.written)
    }
}

impl<W: Write> Write for Sealing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.buffer.len() == CHUNK {
            self.chunk(0)?;
        }
        let taken = bytes.len().min(CHUNK - self.buffer.len());
        self.buffer.extend_from_slice(&bytes[..taken]);
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Reads what a backup says of itself in clear; nothing of it is proved.
pub fn read_head(mut from: impl Read) -> Result<Head, BackupError> {
    beginning(&mut from).map(|(head, _)| head)
}

/// The head, and all bytes up to its end.
fn beginning(from: &mut impl Read) -> Result<(Head, Vec<u8>), BackupError> {
    let mut bytes = vec![0; BEGINNING.len() + 4];
    exactly(from, &mut bytes, "its head")?;
    let (magic, length) = bytes.split_at(BEGINNING.len());
    let length = u32::from_be_bytes([length[0], length[1], length[2], length[3]]) as usize;
    if magic != BEGINNING || length > 2 * HEAD_FORMAT.limit {
        return Err(BackupError::NotABackup);
    }
    let mut sealed = vec![0; length];
    exactly(from, &mut sealed, "its head")?;
    let head = HEAD_FORMAT.open(&sealed).map_err(BackupError::Head)?;
    bytes.extend_from_slice(&sealed);
    Ok((head, bytes))
}

/// Fills a buffer.
fn exactly(from: &mut impl Read, buffer: &mut [u8], place: &'static str) -> Result<(), BackupError> {
    from.read_exact(buffer).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => BackupError::Truncated(place),
        _ => BackupError::Io(error),
    })
}

/// Looks whether a backup has all of its chunks, without its key; nothing else is proved.
pub fn walk(mut from: impl Read) -> Result<Head, BackupError> {
    let (head, _) = beginning(&mut from)?;
    exactly(&mut from, &mut [0; ENCAPSULATED], "its encapsulated key")?;
    let mut chunk = vec![0; CHUNK + TAG];
    loop {
        let mut length = [0; 4];
        exactly(&mut from, &mut length, "its state")?;
        let word = u32::from_be_bytes(length);
        let (is_last, size) = (word & LAST != 0, (word & !LAST) as usize);
        let Some(chunk) = chunk.get_mut(..size) else { return Err(BackupError::Changed("its state".to_owned())) };
        exactly(&mut from, chunk, "its state")?;
        if is_last {
            break;
        }
    }
    if from.read(&mut [0])? != 0 {
        return Err(BackupError::Longer);
    }
    Ok(head)
}

/// Reads a backup with its key, and checks every byte of it.
pub fn read(mut from: impl Read, key: &BackupKey) -> Result<(Head, Contents), BackupError> {
    let (head, beginning) = beginning(&mut from)?;
    if recipient_of(key) != head.recipient {
        return Err(BackupError::OtherKey(head.recipient));
    }
    let mut encapsulated = [0; ENCAPSULATED];
    exactly(&mut from, &mut encapsulated, "its encapsulated key")?;
    let changed = |what: &str| BackupError::Changed(what.to_owned());
    let encapsulated = Deserializable::from_bytes(&encapsulated).map_err(|_| changed("its encapsulated key"))?;
    let mut context: Receiver = setup_receiver(&OpModeR::Base, &private(key), &encapsulated, &beginning)
        .map_err(|_| changed("its encapsulated key"))?;
    let clear = decrypt(&mut from, &mut context)?;
    let contents: Contents = codec::decode_trusted(&clear).map_err(BackupError::State)?;
    check(&head, &contents)?;
    Ok((head, contents))
}

fn decrypt(from: &mut impl Read, context: &mut Receiver) -> Result<Vec<u8>, BackupError> {
    let mut clear = Vec::new();
    for number in 1_u64.. {
        let mut length = [0; 4];
        exactly(from, &mut length, "its state")?;
        let word = u32::from_be_bytes(length);
        let (is_last, size) = (word & LAST != 0, (word & !LAST) as usize);
        let changed = || BackupError::Changed(format!("chunk {number}, or the key before it,"));
        if !(TAG..=CHUNK + TAG).contains(&size) || clear.len() + size > MOST {
            return Err(changed());
        }
        let mut sealed = vec![0; size];
        exactly(from, &mut sealed, "its state")?;
        clear.extend_from_slice(&context.open(&sealed, &length).map_err(|_| changed())?);
        if is_last {
            break;
        }
    }
    if from.read(&mut [0])? != 0 {
        return Err(BackupError::Longer);
    }
    Ok(clear)
}

/// Compares what is in a backup with its head.
fn check(head: &Head, Contents { state, .. }: &Contents) -> Result<(), BackupError> {
    if state.identity().map(|identity| identity.id) != Some(head.cluster) {
        return Err(BackupError::Differs("the cluster"));
    }
    if (state.index(), state.level()) != (head.index, head.level) {
        return Err(BackupError::Differs("the index"));
    }
    if state.hash().map_err(BackupError::State)? != head.hash {
        return Err(BackupError::Differs("the hash of the state"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use coordinator_core::State;

    use super::*;
    use crate::backup::tests::state;

    fn backup(state: State, recipient: Recipient) -> Vec<u8> {
        let contents = Contents { sealing_key: Secret::new(vec![7; 40]), state };
        let head = Head {
            cluster: contents.state.identity().expect("it has one").id,
            index: contents.state.index(),
            at: Timestamp(5),
            level: contents.state.level(),
            wharf: "0".to_owned(),
            recipient,
            hash: contents.state.hash().expect("it is hashed"),
        };
        let mut bytes = Vec::new();
        let size = write(&head, &contents, &mut bytes).expect("it is written");
        assert_eq!(size, bytes.len() as u64);
        bytes
    }

    #[test]
    fn a_backup_is_read_back_with_its_key_and_with_no_other() {
        let (key, recipient) = make_key();
        let bytes = backup(state(3000), recipient);
        assert!(bytes.len() > 2 * CHUNK, "it has several chunks: {}", bytes.len());
        let (head, contents) = read(&bytes[..], &key).expect("it is read");
        assert_eq!((contents.state, contents.sealing_key.expose().len()), (state(3000), 40));
        assert_eq!(read_head(&bytes[..]).expect("it is in clear"), head);
        assert!(!bytes.windows(9).any(|part| part == b"key-00500"), "the state is not in clear");
        let (other, _) = make_key();
        let why = read(&bytes[..], &other).expect_err("it is another key").to_string();
        assert!(why.contains(&recipient.to_string()), "{why}");
    }

    #[test]
    fn every_flipped_byte_and_every_cut_is_found() {
        let (key, recipient) = make_key();
        let bytes = backup(state(0), recipient);
        for at in 0..bytes.len() {
            for bit in [1, 128] {
                let mut changed = bytes.clone();
                changed[at] ^= bit;
                let why = read(&changed[..], &key).expect_err("it was changed").to_string();
                assert!(!why.contains("its state cannot be read"), "byte {at} was decrypted: {why}");
            }
            assert!(read(&bytes[..at], &key).is_err(), "cut at {at}");
        }
        let longer = [&bytes[..], &[0]].concat();
        assert!(matches!(read(&longer[..], &key), Err(BackupError::Longer)));
    }

    #[test]
    fn chunks_cannot_be_left_out_moved_or_taken_from_another_backup() {
        let (key, recipient) = make_key();
        let (bytes, other) = (backup(state(3000), recipient), backup(state(3000), recipient));
        let (_, head) = beginning(&mut &bytes[..]).expect("it has a head");
        let (first, whole) = (head.len() + ENCAPSULATED, 4 + CHUNK + TAG);
        let chunk = |number: usize| first + number * whole..first + (number + 1) * whole;
        assert!(bytes.len() > chunk(2).end, "it has more than three chunks");
        let without = [&bytes[..chunk(1).start], &bytes[chunk(1).end..]].concat();
        let swapped = [&bytes[..first], &bytes[chunk(1)], &bytes[chunk(0)], &bytes[chunk(1).end..]].concat();
        let mixed = [&bytes[..chunk(1).start], &other[chunk(1)], &bytes[chunk(1).end..]].concat();
        let key_of_another = [&bytes[..head.len()], &other[head.len()..]].concat();
        for changed in [without, swapped, mixed] {
            assert!(matches!(read(&changed[..], &key), Err(BackupError::Changed(_))));
        }
        assert_eq!(key_of_another == other, bytes[..head.len()] == other[..head.len()]);
    }
}
