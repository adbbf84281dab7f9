//! Who this host is, on its disk: its key, its certificate and the cluster that it belongs to.

use std::{
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use common::{
    codec::Format,
    id::{ClusterId, HostId, MemberId},
    name::Name,
    secret::Secret,
    wire::PeerIdentity,
};
use serde::{Deserialize, Serialize};

use crate::{Credentials, file, identity::Certified};

/// How the file is sealed.
pub const KEYRING_FORMAT: Format = Format { magic: b"WKEY", version: 1, limit: 1 << 20 };
const FILE: &str = "identity";
const KEY_FILE: &str = "host.key";

/// All that a host knows of itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Keyring {
    /// The cluster that it belongs to.
    pub cluster: ClusterId,
    /// Its identity.
    pub host: HostId,
    /// The coordinator that it runs, if it runs one.
    pub member: Option<MemberId>,
    /// Its name.
    pub name: Name,
    /// Its certificate (DER).
    pub certificate: Vec<u8>,
    /// Its private key (PKCS #8).
    pub key: Secret<Vec<u8>>,
    /// The cluster's root certificate (DER).
    pub root: Vec<u8>,
    /// Where coordinators were when it joined.
    pub coordinators: Vec<SocketAddr>,
    /// Where its own coordinator is reached by others.
    pub advertise: Option<SocketAddr>,
}

/// Why a keyring cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyringError {
    /// It cannot be read or written.
    #[error("{} cannot be used: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// It is damaged.
    #[error("{} is damaged: {reason}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// How.
        reason: String,
    },
}

impl Keyring {
    /// Reads the keyring of a state folder; none if the host belongs to no cluster.
    pub fn load(directory: &Path) -> Result<Option<Keyring>, KeyringError> {
        let path = directory.join(FILE);
        let bytes = file::read(&path).map_err(|source| KeyringError::Io { path: path.clone(), source })?;
        let open = |bytes: Vec<u8>| {
            KEYRING_FORMAT.open(&bytes).map_err(|e| KeyringError::Damaged { path: path.clone(), reason: e.to_string() })
        };
        bytes.map(open).transpose()
    }

    /// Writes it durably.
    pub fn save(&self, directory: &Path) -> Result<(), KeyringError> {
        let path = directory.join(FILE);
        let bytes = KEYRING_FORMAT
            .seal(self)
            .map_err(|e| KeyringError::Damaged { path: path.clone(), reason: e.to_string() })?;
        file::replace(&path, &bytes).map_err(|source| KeyringError::Io { path, source })
    }

    /// What the link needs of it.
    pub fn credentials(&self) -> Credentials {
        Credentials {
            cluster: self.cluster,
            identity: PeerIdentity { host: self.host, member: self.member },
            own: Certified { certificate: self.certificate.clone(), key: self.key.clone() },
            root: self.root.clone(),
        }
    }
}

/// The key of a host that has not joined yet: made once, so that a repeated join asks with the same.
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

/// Forgets who this host was: the next join makes a new identity.
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
