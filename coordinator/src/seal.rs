//! The keys that secrets, and the cluster's own keys, are sealed with. They lie in a file of their own on every
//! coordinator, apart from the store, and are in no command, no snapshot and no backup of either (docs/decisions/0011,
//! 0038). There is one, but while it is changed for another.

use std::{
    io,
    path::{Path, PathBuf},
};

use common::{
    assignment::RegistryCredentials,
    codec::{self, CodecError, Format},
    error::{Code, Problem},
    file::FileId,
    id::ClusterId,
    secret::Secret,
};
use coordinator_core::{
    State,
    command::{Authority, SealedPlace},
    sealed::{self, KeyId, WITH_KEY, WITHOUT_KEY},
};
use link::{
    file,
    identity::{Certified, random_bytes},
};
use ring::{
    aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    hmac,
};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

mod keep;

pub use keep::keep;

/// How the file is sealed while it holds one key: every version of wharf reads it.
pub const SEALING_KEY_FORMAT: Format = Format { magic: b"WSEA", version: 1, limit: 4 << 10 };
/// How it is sealed while it holds several.
pub const SEALING_KEYS_FORMAT: Format = Format { version: 2, ..SEALING_KEY_FORMAT };

/// Most keys that are kept although the state does not name them.
const MOST_SPARE: usize = 4;

/// A key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SealingKey(pub Secret<[u8; 32]>);

impl SealingKey {
    /// A new one.
    pub fn generate() -> SealingKey {
        SealingKey(Secret::new(random_bytes()))
    }

    /// Its name.
    pub fn id(&self) -> KeyId {
        let mac = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, self.0.expose()), b"wharf sealing key");
        let mut id = [0; 8];
        id.copy_from_slice(&mac.as_ref()[..8]);
        KeyId(id)
    }

    fn cipher(&self) -> LessSafeKey {
        let key = UnboundKey::new(&CHACHA20_POLY1305, self.0.expose()).expect("the key has the right length");
        LessSafeKey::new(key)
    }
}

/// What something is sealed for: it cannot be put in the place of something else.
#[derive(Debug, Clone, Copy)]
pub enum Purpose<'a> {
    /// A secret.
    Secret(&'a FileId),
    /// The key of a root.
    RootKey,
    /// The join key.
    JoinKey,
    /// The password for a registry.
    Password(&'a str),
}

impl<'a> From<&'a SealedPlace> for Purpose<'a> {
    fn from(place: &'a SealedPlace) -> Purpose<'a> {
        match place {
            SealedPlace::Secret { id, .. } => Purpose::Secret(id),
            // It is the same key, before and after its root issues.
            SealedPlace::RootKey | SealedPlace::NextRootKey => Purpose::RootKey,
            SealedPlace::JoinKey => Purpose::JoinKey,
            SealedPlace::Password { registry } => Purpose::Password(registry),
        }
    }
}

impl Purpose<'_> {
    fn bind(&self) -> Result<Aad<Vec<u8>>, Problem> {
        // No id of a file begins like these: its first byte is the length of an environment's name.
        let bytes = match self {
            Purpose::Secret(id) => codec::encode(id).map_err(|e| Problem::new(Code::Internal, e.to_string()))?,
            Purpose::RootKey => b"wharf root key".to_vec(),
            Purpose::JoinKey => b"wharf join key".to_vec(),
            Purpose::Password(registry) => format!("wharf password {registry}").into_bytes(),
        };
        Ok(Aad::from(bytes))
    }

    fn refusal(&self, what: &str) -> Problem {
        match self {
            Purpose::Secret(id) => Problem::new(Code::SealingKeyMissing, format!("{id} cannot be {what}")),
            Purpose::RootKey => Problem::new(Code::SealingKeyMissing, format!("The root's key cannot be {what}")),
            Purpose::JoinKey => Problem::new(Code::SealingKeyMissing, format!("The join key cannot be {what}")),
            Purpose::Password(registry) => {
                Problem::new(Code::SealingKeyMissing, format!("The password for {registry} cannot be {what}"))
            }
        }
    }
}

/// The keys of this coordinator, as soon as it has them.
pub struct Seals {
    path: PathBuf,
    keys: watch::Sender<Vec<SealingKey>>,
    /// Held while a new key is made.
    making: tokio::sync::Mutex<()>,
}

fn path(folder: &Path, cluster: ClusterId) -> PathBuf {
    folder.join(format!("{cluster}.key"))
}

/// Makes the key of a new cluster.
pub fn make(folder: &Path, cluster: ClusterId) -> io::Result<Seals> {
    let (path, keys) = (path(folder, cluster), vec![SealingKey::generate()]);
    save(&path, &keys)?;
    Ok(Seals { path, keys: watch::Sender::new(keys), making: Default::default() })
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

fn save(path: &Path, keys: &[SealingKey]) -> io::Result<()> {
    let bytes = match keys {
        [only] => SEALING_KEY_FORMAT.seal(only),
        several => SEALING_KEYS_FORMAT.seal(&several),
    };
    file::replace(path, &bytes.map_err(io::Error::other)?)
}

/// The keys in a file.
pub fn read_keys(bytes: &[u8]) -> Result<Vec<SealingKey>, CodecError> {
    SEALING_KEYS_FORMAT.open_with(bytes, |version, body| match version {
        1 => Ok(vec![codec::decode(body)?]),
        found => Err(CodecError::TooOld { found }),
    })
}

impl Seals {
    /// The keys in a folder, if they are there.
    pub fn load(folder: &Path, cluster: ClusterId) -> Result<Seals, Problem> {
        let path = path(folder, cluster);
        let damaged = |why: String| {
            Problem::new(Code::InstallFailed, format!("The sealing key {} cannot be used", path.display()))
                .why(why)
                .fix("Move it away: this coordinator then gets the key from another one")
        };
        let bytes = file::read(&path).map_err(|e| damaged(e.to_string()))?;
        let keys = bytes.map(|bytes| read_keys(&bytes).map_err(|e| damaged(e.to_string()))).transpose()?;
        Ok(Seals { path, keys: watch::Sender::new(keys.unwrap_or_default()), making: Default::default() })
    }

    /// The keys of a file that a backup holds.
    pub fn of_file(bytes: &Secret<Vec<u8>>) -> Result<Seals, Problem> {
        let damaged = |error: CodecError| {
            Problem::new(Code::SealingKeyMissing, "The sealing key in the backup cannot be used").why(error.to_string())
        };
        let keys = read_keys(bytes.expose()).map_err(damaged)?;
        Ok(Seals { path: PathBuf::new(), keys: watch::Sender::new(keys), making: Default::default() })
    }

    /// All keys, for another coordinator.
    pub fn share(&self) -> Vec<SealingKey> {
        self.keys.borrow().clone()
    }

    /// The key that seals by a state, for another coordinator that knows of one only.
    pub fn share_one(&self, by: Option<KeyId>) -> Option<SealingKey> {
        self.key(by).ok()
    }

    /// Notice of every change of the keys.
    pub fn watch(&self) -> watch::Receiver<Vec<SealingKey>> {
        self.keys.subscribe()
    }

    /// Whether a key is here.
    pub fn holds(&self, id: KeyId) -> bool {
        self.keys.borrow().iter().any(|key| key.id() == id)
    }

    /// The first key: the only one of a cluster that never changed it.
    pub fn first(&self) -> Option<KeyId> {
        self.keys.borrow().first().map(SealingKey::id)
    }

    /// Stores a changed list of keys, and uses it from then on.
    fn change(&self, change: impl FnOnce(&mut Vec<SealingKey>)) -> io::Result<()> {
        let mut keys = self.share();
        change(&mut keys);
        if keys == *self.keys.borrow() {
            return Ok(());
        }
        save(&self.path, &keys)?;
        self.keys.send_replace(keys);
        Ok(())
    }

    /// The bytes of the key's file, for a backup.
    pub fn file(&self) -> io::Result<Option<Secret<Vec<u8>>>> {
        Ok(file::read(&self.path)?.map(Secret::new))
    }

    /// Makes a key that no member has yet. Of those that `cluster` does not need, the last few stay: the command that
    /// brings one may be on its way.
    pub fn make_next(&self, cluster: &State) -> Result<KeyId, Problem> {
        let needed: Vec<KeyId> = cluster.needed_keys().collect();
        let next = SealingKey::generate();
        let id = next.id();
        let stored = self.change(|keys| {
            let spare = keys.iter().filter(|key| !needed.contains(&key.id())).count();
            let mut surplus = spare.saturating_sub(MOST_SPARE);
            keys.retain(|key| {
                let goes = surplus > 0 && !needed.contains(&key.id());
                surplus -= usize::from(goes);
                !goes
            });
            keys.push(next);
        });
        stored.map(|()| id).map_err(|error| {
            Problem::new(Code::StoreFailed, "The new sealing key was not made")
                .why(format!("{}: {error}", self.path.display()))
        })
    }

    /// One key is made at a time.
    pub async fn making(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.making.lock().await
    }

    fn missing(&self) -> Problem {
        Problem::new(Code::SealingKeyMissing, "This coordinator cannot use secrets at present")
            .why(format!(
                "there is no {} with the present key, and no other coordinator has provided it yet",
                self.path.display()
            ))
            .fix("Start the other coordinators, or restore the file from a backup")
    }

    /// The key that seals, by a state.
    fn key(&self, by: Option<KeyId>) -> Result<SealingKey, Problem> {
        let keys = self.keys.borrow();
        let found = keys.iter().find(|key| by.is_none_or(|id| key.id() == id));
        found.cloned().ok_or_else(|| self.missing())
    }

    /// Secrets that only who holds a key can find; for the same purpose always the same. The first is of the key that
    /// seals, and the others are of keys that did, or will.
    pub fn derive(&self, by: Option<KeyId>, purpose: &[&[u8]]) -> Result<Vec<Secret<[u8; 16]>>, Problem> {
        let first = self.key(by)?;
        let others = self.share().into_iter().filter(|key| *key != first);
        Ok([first.clone()].into_iter().chain(others).map(|key| derived(&key, purpose)).collect())
    }

    /// Seals a content for one purpose with the key that a state names. Without one, the form is that of the first key.
    pub fn seal(&self, by: Option<KeyId>, purpose: Purpose<'_>, content: &[u8]) -> Result<Vec<u8>, Problem> {
        let key = self.key(by)?;
        let nonce: [u8; NONCE_LEN] = random_bytes();
        let mut text = content.to_vec();
        let tag = key
            .cipher()
            .seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), purpose.bind()?, &mut text)
            .map_err(|_| Problem::new(Code::Internal, "A content cannot be sealed"))?;
        let head = by.map_or_else(|| vec![WITHOUT_KEY], |id| [&[WITH_KEY][..], &id.0].concat());
        Ok([&head, &nonce[..], &text, tag.as_ref()].concat())
    }

    /// The content of what was sealed for a purpose.
    pub fn open(&self, purpose: Purpose<'_>, sealed: &[u8]) -> Result<Secret<Vec<u8>>, Problem> {
        let foreign = || {
            let problem = purpose.refusal("decrypted").why("it was sealed with another key, or for something else");
            match purpose {
                Purpose::Secret(id) => problem.fix(format!("Set it again: wharf secret set {}", id.name)),
                Purpose::Password(registry) => problem.fix(format!("Set it again: wharf registry set {registry} USER")),
                _ => problem.fix("Start the other coordinators, or restore the sealing key from a backup"),
            }
        };
        if self.keys.borrow().is_empty() {
            return Err(self.missing());
        }
        let (key, body) = match (sealed::key_of(sealed), sealed.split_first()) {
            (Some(id), _) => (Some(id), &sealed[1 + id.0.len()..]),
            (None, Some((&WITHOUT_KEY, body))) => (None, body),
            _ => return Err(foreign()),
        };
        let (nonce, text) = body.split_first_chunk::<NONCE_LEN>().ok_or_else(foreign)?;
        for candidate in self.share().iter().filter(|one| key.is_none_or(|id| one.id() == id)) {
            let mut text = text.to_vec();
            let nonce = Nonce::assume_unique_for_key(*nonce);
            if let Ok(opened) = candidate.cipher().open_in_place(nonce, purpose.bind()?, &mut text) {
                return Ok(Secret::new(opened.to_vec()));
            }
        }
        Err(foreign())
    }

    /// Credentials as the state holds them, with the password open.
    pub fn open_credentials(&self, stored: &RegistryCredentials) -> Result<RegistryCredentials, Problem> {
        let Some(text) = sealed::of_password(&stored.password) else { return Ok(stored.clone()) };
        let purpose = Purpose::Password(&stored.registry);
        let opened = self.open(purpose, &text)?;
        let password =
            String::from_utf8(opened.expose().clone()).map_err(|_| purpose.refusal("read").why("it is not text"))?;
        Ok(RegistryCredentials { password: Secret::new(password), ..stored.clone() })
    }

    /// A private key of the authority, which lies open below feature level 3.
    fn own_key(&self, purpose: Purpose<'_>, key: &Secret<Vec<u8>>) -> Result<Secret<Vec<u8>>, Problem> {
        if sealed::is_open(key.expose()) { Ok(key.clone()) } else { self.open(purpose, key.expose()) }
    }

    /// The root that issues certificates, with its key.
    pub fn root(&self, authority: &Authority) -> Result<Certified, Problem> {
        let key = self.own_key(Purpose::RootKey, &authority.key)?;
        Ok(Certified { certificate: authority.certificate.clone(), key })
    }

    /// The certificate of the join key, with the key.
    pub fn join(&self, authority: &Authority) -> Result<Certified, Problem> {
        let key = self.own_key(Purpose::JoinKey, &authority.join_key)?;
        Ok(Certified { certificate: authority.join_certificate.clone(), key })
    }

    /// The authority with sealed keys.
    pub fn sealed(&self, by: KeyId, authority: &Authority) -> Result<Authority, Problem> {
        let key = self.seal(Some(by), Purpose::RootKey, authority.key.expose())?;
        let join_key = self.seal(Some(by), Purpose::JoinKey, authority.join_key.expose())?;
        Ok(Authority { key: Secret::new(key), join_key: Secret::new(join_key), ..authority.clone() })
    }
}

fn derived(SealingKey(key): &SealingKey, purpose: &[&[u8]]) -> Secret<[u8; 16]> {
    let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, key.expose()));
    for part in purpose {
        context.update(&(part.len() as u64).to_be_bytes());
        context.update(part);
    }
    let mut derived = [0; 16];
    derived.copy_from_slice(&context.sign().as_ref()[..16]);
    Secret::new(derived)
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
        let refused = none.seal(None, Purpose::Secret(&secret("a")), b"x").expect_err("there is no key");
        assert_eq!(refused.code, Code::SealingKeyMissing);

        make(folder.path(), cluster).map(drop).expect("is made");
        let seals = Seals::load(folder.path(), cluster).expect("loads");
        let (a, b) = (secret("a"), secret("b"));
        for by in [None, seals.first()] {
            let seal = || seals.seal(by, Purpose::Secret(&a), b"hunter2").expect("seals");
            let sealed = seal();
            assert_eq!(sealed::key_of(&sealed), by);
            assert!(!sealed.windows(7).any(|part| part == b"hunter2"));
            assert_ne!(seal(), sealed, "no two are alike");
            assert_eq!(seals.open(Purpose::Secret(&a), &sealed).expect("opens").expose(), b"hunter2");
            for other in [Purpose::Secret(&b), Purpose::RootKey, Purpose::JoinKey] {
                seals.open(other, &sealed).expect_err("it is another's");
            }
            for (index, _) in sealed.iter().enumerate() {
                let mut changed = sealed.clone();
                changed[index] ^= 1;
                seals.open(Purpose::Secret(&a), &changed).expect_err("it was changed");
            }
            for length in 0..sealed.len() {
                seals.open(Purpose::Secret(&a), &sealed[..length]).expect_err("it was cut");
            }
            let elsewhere = tempfile::tempdir().expect("a folder");
            let other = make(elsewhere.path(), cluster).expect("another is made");
            other.open(Purpose::Secret(&a), &sealed).expect_err("it is another key");
        }
    }

    #[test]
    fn several_keys_are_kept_for_as_long_as_they_are_needed() {
        let (folder, cluster) = (tempfile::tempdir().expect("a folder"), ClusterId([3; 10]));
        let seals = make(folder.path(), cluster).expect("is made");
        let (first, a) = (seals.first(), secret("a"));
        let old = seals.seal(None, Purpose::Secret(&a), b"old").expect("seals");
        let key = seals.seal(first, Purpose::RootKey, b"root").expect("seals");
        let before = std::fs::read(seals.path.as_path()).expect("it is there");
        assert_eq!(SEALING_KEY_FORMAT.open::<SealingKey>(&before).map(|key| key.id()).ok(), first, "as ever");
        let second = SealingKey::generate();
        seals.change(|keys| keys.push(second.clone())).expect("is stored");
        let seals = Seals::load(folder.path(), cluster).expect("loads");
        assert!(seals.holds(second.id()) && seals.first() == first);
        let new = seals.seal(Some(second.id()), Purpose::Secret(&a), b"new").expect("seals");
        for (sealed, expected) in [(&old, b"old"), (&new, b"new")] {
            assert_eq!(seals.open(Purpose::Secret(&a), sealed).expect("opens").expose(), expected);
        }
        let tokens = |by| seals.derive(by, &[b"x"]).expect("derives");
        assert_eq!((tokens(first)[0] == tokens(Some(second.id()))[1], tokens(first).len()), (true, 2));
        seals.change(|keys| keys.retain(|key| Some(key.id()) != first)).expect("is stored");
        seals.open(Purpose::RootKey, &key).expect_err("its key is gone");
        let after = std::fs::read(seals.path.as_path()).expect("it is there");
        assert_eq!(SEALING_KEY_FORMAT.open::<SealingKey>(&after).expect("as ever"), second);
        assert_eq!(seals.seal(first, Purpose::JoinKey, b"").expect_err("it is gone").code, Code::SealingKeyMissing);
    }
}
