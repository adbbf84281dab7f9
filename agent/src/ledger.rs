//! The agent's disk: what it was told last, and what it remembers. With it the host goes on when
//! every coordinator is gone, also across a restart.

use std::{
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use agent_core::Memory;
use common::{
    assignment::Assignment,
    codec::Format,
    id::{ClusterId, HostId},
};
use link::file;
use serde::{Deserialize, Serialize};

/// How the ledger is sealed.
pub const LEDGER_FORMAT: Format = Format { magic: b"WLED", version: 1 };
const FILE: &str = "ledger";

/// What the ledger holds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Contents {
    /// What the host should run; of generation 0 if it has never been told.
    pub assignment: Assignment,
    /// What the agent remembers.
    pub memory: Memory,
    /// Where coordinators were last.
    pub coordinators: Vec<SocketAddr>,
}

/// A ledger on disk.
#[derive(Debug)]
pub struct Ledger {
    path: PathBuf,
    contents: Contents,
}

/// Why a ledger cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// It cannot be read.
    #[error("the ledger {} cannot be read: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

impl Ledger {
    /// Reads the ledger of a state folder. A damaged one is put aside: Docker's labels and the
    /// coordinators hold all of it a second time.
    pub fn load(directory: &Path, cluster: ClusterId, host: HostId) -> Result<Ledger, LedgerError> {
        let path = directory.join(FILE);
        let unreadable = |source| LedgerError::Unreadable { path: path.clone(), source };
        let empty = || Contents {
            assignment: Assignment::nothing(cluster, host),
            memory: Memory::default(),
            coordinators: Vec::new(),
        };
        let contents = match file::read(&path).map_err(unreadable)? {
            None => empty(),
            Some(bytes) => match LEDGER_FORMAT.open::<Contents>(&bytes) {
                Ok(contents) if contents.assignment.cluster == cluster && contents.assignment.host == host => contents,
                Ok(_) => empty(),
                Err(error) => {
                    let aside = path.with_extension("damaged");
                    tracing::error!(%error, aside = %aside.display(), "the ledger is damaged; it is put aside, and the host learns anew what it runs");
                    std::fs::rename(&path, &aside).map_err(unreadable)?;
                    empty()
                }
            },
        };
        Ok(Ledger { path, contents })
    }

    /// What it holds.
    pub fn contents(&self) -> &Contents {
        &self.contents
    }

    /// Changes it and writes it durably if that made a difference.
    pub fn update(&mut self, change: impl FnOnce(&mut Contents)) -> io::Result<()> {
        let before = self.contents.clone();
        change(&mut self.contents);
        if before == self.contents {
            return Ok(());
        }
        let bytes = LEDGER_FORMAT.seal(&self.contents).map_err(io::Error::other)?;
        file::replace(&self.path, &bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_damage_is_put_aside() {
        let directory = tempfile::tempdir().expect("a folder");
        let (cluster, host) = (ClusterId([1; 10]), HostId([2; 10]));
        let mut ledger = Ledger::load(directory.path(), cluster, host).expect("loads");
        ledger.update(|contents| contents.assignment.generation = 7).expect("writes");
        assert_eq!(Ledger::load(directory.path(), cluster, host).expect("loads").contents().assignment.generation, 7);
        let path = directory.path().join(FILE);
        let mut bytes = std::fs::read(&path).expect("reads");
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        std::fs::write(&path, bytes).expect("writes");
        assert_eq!(Ledger::load(directory.path(), cluster, host).expect("loads").contents().assignment.generation, 0);
        assert!(path.with_extension("damaged").exists());
    }
}
