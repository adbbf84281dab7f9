//! The key that secrets are sealed with. It lies in a file of its own on every coordinator, apart from
//! the store, and is in no command, no snapshot and no backup of either (docs/decisions/0011).

use std::{
    io,
    path::{Path, PathBuf},
    sync::OnceLock,
    time::Duration,
};

use common::{
    codec::{self, Format},
    error::{Code, Problem},
    file::FileId,
    id::ClusterId,
    secret::Secret,
    wire::Open,
};
use coordinator_core::view;
use link::{file, identity::random_bytes};
use ring::{
    aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    hmac,
};
use serde::{Deserialize, Serialize};

use crate::raft::Consensus;

/// How the key's file is sealed.
pub const SEALING_KEY_FORMAT: Format = Format { magic: b"WSEA", version: 1, limit: 4 << 10 };
/// The first byte of everything sealed: how the rest is to be read.
const FORM: u8 = 1;
const ASK_TIMEOUT: Duration = Duration::from_secs(2);
const RETRY: Duration = Duration::from_secs(1);

/// The key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SealingKey(pub Secret<[u8; 32]>);

/// The key of this coordinator, as soon as it has it.
pub struct Seals {
    path: PathBuf,
    key: OnceLock<SealingKey>,
}

fn path(folder: &Path, cluster: ClusterId) -> PathBuf {
    folder.join(format!("{cluster}.key"))
}

/// Makes the key of a new cluster.
pub fn make(folder: &Path, cluster: ClusterId) -> io::Result<()> {
    save(&path(folder, cluster), &SealingKey(Secret::new(random_bytes())))
}

/// Removes the key from this host.
pub fn remove(folder: &Path, cluster: ClusterId) -> io::Result<()> {
    file::if_there(std::fs::remove_file(path(folder, cluster)))?;
    // The folder may hold other things, or be something that people have mounted: then it stays.
    use io::ErrorKind::{DirectoryNotEmpty, NotFound, ResourceBusy};
    match std::fs::remove_dir(folder) {
        Err(error) if !matches!(error.kind(), NotFound | DirectoryNotEmpty | ResourceBusy) => Err(error),
        _ => Ok(()),
    }
}

/// Puts the key's file from a backup into a folder. Another one that is there is kept beside it.
pub fn put_file(folder: &Path, cluster: ClusterId, bytes: &Secret<Vec<u8>>) -> io::Result<()> {
    let path = path(folder, cluster);
    match file::read(&path)? {
        Some(known) if known == *bytes.expose() => return Ok(()),
        Some(other) => file::replace(&path.with_extension("key.replaced"), &other)?,
        None => {}
    }
    file::replace(&path, bytes.expose())
}

fn save(path: &Path, key: &SealingKey) -> io::Result<()> {
    file::replace(path, &SEALING_KEY_FORMAT.seal(key).map_err(io::Error::other)?)
}

impl Seals {
    /// The key in a folder, if it is there.
    pub fn load(folder: &Path, cluster: ClusterId) -> Result<Seals, Problem> {
        let path = path(folder, cluster);
        let damaged = |why: String| {
            Problem::new(Code::InstallFailed, format!("The sealing key {} cannot be used", path.display()))
                .why(why)
                .fix("Move it away: this coordinator then gets the key from another one")
        };
        let key = OnceLock::new();
        if let Some(bytes) = file::read(&path).map_err(|e| damaged(e.to_string()))? {
            let read: SealingKey = SEALING_KEY_FORMAT.open(&bytes).map_err(|e| damaged(e.to_string()))?;
            key.get_or_init(|| read);
        }
        Ok(Seals { path, key })
    }

    /// The bytes of the key's file, for a backup.
    pub fn file(&self) -> io::Result<Option<Secret<Vec<u8>>>> {
        Ok(file::read(&self.path)?.map(Secret::new))
    }

    /// The key, for another coordinator.
    pub fn share(&self) -> Option<SealingKey> {
        self.key.get().cloned()
    }

    /// Gets the key from the other coordinators if it is not here; again and again until it is.
    pub async fn fetch(&self, consensus: &Consensus) {
        while self.key.get().is_none() {
            let cluster = consensus.current().cluster.clone();
            let own = cluster.members().get(&consensus.me()).map(|member| member.address);
            for address in view::coordinators(&cluster).into_iter().filter(|address| Some(*address) != own) {
                let asked = consensus.callers().get(address).ask(&Open::SealingKey, ASK_TIMEOUT).await;
                match asked {
                    Ok(Some(key)) => match save(&self.path, &key) {
                        Ok(()) => {
                            self.key.get_or_init(|| key);
                            return tracing::info!(from = %address, "received the sealing key");
                        }
                        Err(error) => {
                            tracing::error!(%error, path = %self.path.display(), "the sealing key cannot be stored")
                        }
                    },
                    Ok(None) => tracing::debug!(%address, "that coordinator has no sealing key either"),
                    Err(error) => {
                        tracing::debug!(%address, %error, "a coordinator did not provide the sealing key")
                    }
                }
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    fn held(&self) -> Result<&SealingKey, Problem> {
        let missing = || {
            Problem::new(Code::SealingKeyMissing, "This coordinator cannot use secrets at present")
                .why(format!("there is no {}, and no other coordinator has provided the key yet", self.path.display()))
                .fix("Start the other coordinators, or restore the file from a backup")
        };
        self.key.get().ok_or_else(missing)
    }

    fn key(&self) -> Result<LessSafeKey, Problem> {
        let SealingKey(key) = self.held()?;
        let key = UnboundKey::new(&CHACHA20_POLY1305, key.expose()).expect("the key has the right length");
        Ok(LessSafeKey::new(key))
    }

    /// A secret that only who holds the key can find; for the same purpose always the same.
    pub fn derive(&self, purpose: &[&[u8]]) -> Result<Secret<[u8; 16]>, Problem> {
        let SealingKey(key) = self.held()?;
        let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, key.expose()));
        for part in purpose {
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part);
        }
        let mut derived = [0; 16];
        derived.copy_from_slice(&context.sign().as_ref()[..16]);
        Ok(Secret::new(derived))
    }

    /// Seals the content of a secret, for that secret alone.
    pub fn seal(&self, id: &FileId, content: &[u8]) -> Result<Vec<u8>, Problem> {
        let nonce: [u8; NONCE_LEN] = random_bytes();
        let mut text = content.to_vec();
        let tag = self
            .key()?
            .seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), belongs_to(id)?, &mut text)
            .map_err(|_| Problem::new(Code::Internal, format!("{id} cannot be sealed")))?;
        Ok([&[FORM], &nonce[..], &text, tag.as_ref()].concat())
    }

    /// The content of a secret.
    pub fn open(&self, id: &FileId, sealed: &[u8]) -> Result<Secret<Vec<u8>>, Problem> {
        let foreign = || {
            Problem::new(Code::SealingKeyMissing, format!("{id} cannot be decrypted"))
                .why("it was sealed with another key, or for another secret")
                .fix(format!("Set it again: wharf secret set {}", id.name))
        };
        let (nonce, text) = match sealed.split_first() {
            Some((&FORM, rest)) => rest.split_first_chunk::<NONCE_LEN>().ok_or_else(foreign)?,
            _ => return Err(foreign()),
        };
        let mut text = text.to_vec();
        let key = self.key()?;
        let opened = key.open_in_place(Nonce::assume_unique_for_key(*nonce), belongs_to(id)?, &mut text);
        Ok(Secret::new(opened.map_err(|_| foreign())?.to_vec()))
    }
}

/// Ties what is sealed to one secret: it cannot be put in the place of another.
fn belongs_to(id: &FileId) -> Result<Aad<Vec<u8>>, Problem> {
    let encoded = codec::encode(id).map_err(|e| Problem::new(Code::Internal, e.to_string()))?;
    Ok(Aad::from(encoded))
}

#[cfg(test)]
mod tests {
    use common::{file::FileKind, name::default_environment};

    use super::*;

    fn secret(name: &str) -> FileId {
        FileId {
            environment: default_environment(),
            stack: None,
            kind: FileKind::Secret,
            name: name.parse().expect("a name"),
        }
    }

    #[test]
    fn what_is_sealed_is_opened_with_the_same_key_for_the_same_secret_alone() {
        let (folder, cluster) = (tempfile::tempdir().expect("a folder"), ClusterId([3; 10]));
        let none = Seals::load(folder.path(), cluster).expect("loads");
        let refused = none.seal(&secret("a"), b"x").expect_err("there is no key");
        assert_eq!(refused.code, Code::SealingKeyMissing);

        make(folder.path(), cluster).expect("is made");
        let seals = Seals::load(folder.path(), cluster).expect("loads");
        let sealed = seals.seal(&secret("a"), b"hunter2").expect("seals");
        assert!(!sealed.windows(7).any(|part| part == b"hunter2"));
        assert_ne!(seals.seal(&secret("a"), b"hunter2").expect("seals"), sealed, "no two are alike");
        assert_eq!(seals.open(&secret("a"), &sealed).expect("opens").expose(), b"hunter2");
        seals.open(&secret("b"), &sealed).expect_err("it is another's");
        for (index, _) in sealed.iter().enumerate() {
            let mut changed = sealed.clone();
            changed[index] ^= 1;
            seals.open(&secret("a"), &changed).expect_err("it was changed");
        }
        for length in 0..sealed.len() {
            seals.open(&secret("a"), &sealed[..length]).expect_err("it was cut");
        }
        make(folder.path(), cluster).expect("another is made");
        let other = Seals::load(folder.path(), cluster).expect("loads");
        other.open(&secret("a"), &sealed).expect_err("it is another key");
    }
}
