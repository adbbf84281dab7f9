//! The last assignment and the agent's memory, on disk. With it the host goes on when every coordinator is gone, also
//! across a restart.

use std::{
    io,
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
use tokio::task::spawn_blocking;

/// How the ledger is sealed.
pub const LEDGER_FORMAT: Format = Format { magic: b"WLED", version: 1, limit: 256 << 20 };
const FILE: &str = "ledger";

/// The contents of a ledger.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Contents {
    /// The last assignment; of generation 0 if there was none yet.
    pub assignment: Assignment,
    /// The agent's memory.
    pub memory: Memory,
}

/// A ledger on disk.
#[derive(Debug)]
pub struct Ledger {
    path: PathBuf,
    contents: Contents,
    /// Whether the disk has the same contents.
    is_stored: bool,
}

/// Why a ledger cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// The file cannot be read.
    #[error("the ledger {} cannot be read: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
}

impl Ledger {
    /// Reads the ledger of a state folder, and puts a damaged one aside: Docker's labels and the coordinators hold all of
    /// it a second time.
    pub fn load(directory: &Path, cluster: ClusterId, host: HostId) -> Result<Ledger, LedgerError> {
        let path = directory.join(FILE);
        let unreadable = |source| LedgerError::Unreadable { path: path.clone(), source };
        let empty = || Contents { assignment: Assignment::nothing(cluster, host), memory: Memory::default() };
        let contents = match file::read(&path).map_err(unreadable)? {
            None => empty(),
            Some(bytes) => match LEDGER_FORMAT.open::<Contents>(&bytes) {
                Ok(contents) if contents.assignment.cluster == cluster && contents.assignment.host == host => contents,
                Ok(_) => empty(),
                Err(error) => {
                    let aside = path.with_extension("damaged");
                    tracing::error!(%error, aside = %aside.display(), "the ledger is damaged; it is put aside, and the host learns again what it runs");
                    std::fs::rename(&path, &aside).map_err(unreadable)?;
                    empty()
                }
            },
        };
        Ok(Ledger { path, contents, is_stored: true })
    }

    /// Its contents.
    pub fn contents(&self) -> &Contents {
        &self.contents
    }

    /// Replaces its contents, durably. If that fails, the next call tries again.
    pub async fn update(&mut self, assignment: &Assignment, memory: &Memory) -> io::Result<()> {
        // Passwords are for memory alone: the next session brings them again.
        let assignment = assignment.clone().without_credentials();
        if self.is_stored && self.contents.assignment == assignment && self.contents.memory == *memory {
            return Ok(());
        }
        self.is_stored = false;
        self.contents = Contents { assignment, memory: memory.clone() };
        let (path, bytes) = (self.path.clone(), LEDGER_FORMAT.seal(&self.contents).map_err(io::Error::other)?);
        spawn_blocking(move || file::replace(&path, &bytes)).await.map_err(io::Error::other)??;
        self.is_stored = true;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assignment(generation: u64) -> Assignment {
        Assignment { generation, ..Assignment::nothing(ClusterId([1; 10]), HostId([2; 10])) }
    }

    fn load(directory: &Path) -> Ledger {
        Ledger::load(directory, ClusterId([1; 10]), HostId([2; 10])).expect("loads")
    }

    #[tokio::test]
    async fn what_is_written_is_read_and_damage_is_put_aside() {
        let directory = tempfile::tempdir().expect("a folder");
        load(directory.path()).update(&assignment(7), &Memory::default()).await.expect("writes");
        assert_eq!(load(directory.path()).contents().assignment.generation, 7);
        let path = directory.path().join(FILE);
        let mut bytes = std::fs::read(&path).expect("reads");
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        std::fs::write(&path, bytes).expect("writes");
        assert_eq!(load(directory.path()).contents().assignment.generation, 0);
        assert!(path.with_extension("damaged").exists());
    }

    #[tokio::test]
    async fn what_could_not_be_written_is_not_taken_for_written() {
        let directory = tempfile::tempdir().expect("a folder");
        let in_the_way = directory.path().join(FILE).with_extension("tmp");
        std::fs::create_dir(&in_the_way).expect("a folder");
        let mut ledger = load(directory.path());
        for _ in 0..2 {
            ledger.update(&assignment(7), &Memory::default()).await.expect_err("it cannot be written");
        }
        std::fs::remove_dir(&in_the_way).expect("removes");
        ledger.update(&assignment(7), &Memory::default()).await.expect("writes");
        assert_eq!(load(directory.path()).contents().assignment.generation, 7);
    }
}
