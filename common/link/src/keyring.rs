//! The keyring: a host's key, its certificate and its cluster, on disk.

use std::{
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use common::{
    codec::{self, CodecError, Format},
    id::{ClusterId, HostId, MemberId},
    name::Name,
    secret::Secret,
    wire::PeerIdentity,
};
use serde::{Deserialize, Serialize};

use crate::{Credentials, file, identity::Certified};

/// The format of the file of a host that trusts one root: every version of wharf reads it.
pub const KEYRING_FORMAT: Format = Format { magic: b"WKEY", version: 1, limit: 1 << 20 };
/// The format while there is more to know of roots.
pub const KEYRING_FORMAT_2: Format = Format { version: 2, ..KEYRING_FORMAT };
const FILE: &str = "identity";
const KEY_FILE: &str = "host.key";

/// Everything that a host knows about its identity.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Keyring {
    /// The cluster that it belongs to.
    pub cluster: ClusterId,
    /// The host's id, derived from its key.
    pub host: HostId,
    /// The number of its coordinator, if it runs one.
    pub member: Option<MemberId>,
    /// The host's name in the cluster.
    pub name: Name,
    /// The host's certificate (DER).
    pub certificate: Vec<u8>,
    /// Its private key (PKCS #8).
    pub key: Secret<Vec<u8>>,
    /// The cluster's root certificate (DER).
    pub root: Vec<u8>,
    /// The addresses of the coordinators when the host joined.
    pub coordinators: Vec<SocketAddr>,
    /// The address at which others reach its coordinator.
    pub advertise: Option<SocketAddr>,
    /// Further roots, which the first format does not have.
    #[serde(skip)]
    pub further: Further,
}

/// What the second format adds: further roots while the cluster's root is changed, and after.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Further {
    /// Root certificates that are trusted beside the first one (DER).
    pub roots: Vec<Vec<u8>>,
    /// The newest root as the one before it has signed it (DER).
    pub cross: Option<Vec<u8>>,
}

/// Why a keyring is unusable.
#[derive(Debug, thiserror::Error)]
pub enum KeyringError {
    /// The file cannot be read or written.
    #[error("{} cannot be used: {source}", path.display())]
    Io {
        /// The path of the file.
        path: PathBuf,
        /// The error from the system.
        source: io::Error,
    },
    /// The content of the file is invalid.
    #[error("{} is damaged: {reason}", path.display())]
    Damaged {
        /// The path of the file.
        path: PathBuf,
        /// The reason, as a sentence.
        reason: String,
    },
}

impl Keyring {
    /// Reads the keyring in a state folder; `None` if the host does not belong to a cluster.
    pub fn load(directory: &Path) -> Result<Option<Keyring>, KeyringError> {
        let path = directory.join(FILE);
        let bytes = file::read(&path).map_err(|source| KeyringError::Io { path: path.clone(), source })?;
        let open = |bytes: Vec<u8>| {
            read(&bytes).map_err(|e| KeyringError::Damaged { path: path.clone(), reason: e.to_string() })
        };
        bytes.map(open).transpose()
    }

    /// Writes the keyring durably.
    pub fn save(&self, directory: &Path) -> Result<(), KeyringError> {
        let path = directory.join(FILE);
        let sealed = match self.further == Further::default() {
            true => KEYRING_FORMAT.seal(self),
            false => KEYRING_FORMAT_2.seal(&(self, &self.further)),
        };
        let bytes = sealed.map_err(|e| KeyringError::Damaged { path: path.clone(), reason: e.to_string() })?;
        file::replace(&path, &bytes).map_err(|source| KeyringError::Io { path, source })
    }

    /// The credentials for connections.
    pub fn credentials(&self) -> Credentials {
        Credentials {
            cluster: self.cluster,
            identity: PeerIdentity { host: self.host, member: self.member },
            own: Certified { certificate: self.certificate.clone(), key: self.key.clone() },
            roots: [&self.root].into_iter().chain(&self.further.roots).cloned().collect(),
            cross: self.further.cross.clone(),
        }
    }
}

fn read(bytes: &[u8]) -> Result<Keyring, CodecError> {
    let (keyring, further) = KEYRING_FORMAT_2.open_with(bytes, |version, body| match version {
        1 => Ok((codec::decode::<Keyring>(body)?, Further::default())),
        found => Err(CodecError::TooOld { found }),
    })?;
    Ok(Keyring { further, ..keyring })
}

/// The key of a host that has not joined yet. It is stored when first created, so that a repeated join uses the same
/// key.
pub fn pending_key(directory: &Path) -> Result<Secret<Vec<u8>>, KeyringError> {
    let path = directory.join(KEY_FILE);
    let io = |source| KeyringError::Io { path: path.clone(), source };
    if let Some(key) = file::read(&path).map_err(io)? {
        return Ok(Secret::new(key));
    }
    let key =
        crate::identity::make_key().map_err(|e| KeyringError::Damaged { path: path.clone(), reason: e.to_string() })?;
    file::replace(&path, key.expose()).map_err(io)?;
    Ok(key)
}

/// Deletes the host's identity. The next join creates a new one.
pub fn forget(directory: &Path) -> io::Result<()> {
    for name in [FILE, KEY_FILE] {
        match std::fs::remove_file(directory.join(name)) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn further_roots_are_written_in_the_second_format_alone() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut keyring = Keyring {
            cluster: ClusterId([1; 10]),
            host: HostId([2; 10]),
            member: Some(MemberId(3)),
            name: "h1".parse().expect("a name"),
            certificate: vec![1],
            key: Secret::new(vec![2]),
            root: vec![3],
            coordinators: Vec::new(),
            advertise: None,
            further: Further::default(),
        };
        for (further, version) in [
            (Further::default(), 1),
            (Further { roots: vec![vec![4]], cross: Some(vec![5]) }, 2),
            (Further { roots: Vec::new(), cross: Some(vec![5]) }, 2),
        ] {
            keyring.further = further;
            keyring.save(folder.path()).expect("is written");
            let bytes = std::fs::read(folder.path().join(FILE)).expect("is there");
            assert_eq!(bytes[4..6], [0, version]);
            assert_eq!(Keyring::load(folder.path()).expect("is read"), Some(keyring.clone()));
        }
        assert_eq!(keyring.credentials().roots, [vec![3]]);
    }
}
