//! Snapshots: one sealed file, written beside, synced, renamed.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use common::codec::Format;
use coordinator_core::State;
use openraft::SnapshotMeta;
use serde::{Deserialize, Serialize};

use super::store::StoreError;

/// How a snapshot is sealed.
pub const SNAPSHOT_FORMAT: Format = Format { magic: b"WSNP", version: 1, limit: 1 << 30 };
const SUFFIX: &str = "snapshot";

/// What a snapshot file holds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SnapshotFile {
    /// Where in the log it was taken.
    pub meta: SnapshotMeta<u64, openraft::BasicNode>,
    /// The state there.
    pub cluster: State,
}

fn file_name(index: u64) -> String {
    format!("{index:020}.{SUFFIX}")
}

/// All snapshots of a folder, the newest first.
fn list(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found: Vec<PathBuf> = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == SUFFIX) {
            found.push(path);
        }
    }
    found.sort();
    found.reverse();
    Ok(found)
}

/// The bytes of the newest snapshot and what they hold.
pub fn load_newest(directory: &Path) -> Result<Option<(Vec<u8>, SnapshotFile)>, StoreError> {
    let failed = |path: &Path, reason: String| StoreError::Failed { path: path.to_owned(), reason };
    link::private::ensure_folder(directory).map_err(|e| failed(directory, e.to_string()))?;
    let Some(path) = list(directory).map_err(|e| failed(directory, e.to_string()))?.into_iter().next() else {
        return Ok(None);
    };
    let bytes = fs::read(&path).map_err(|e| failed(&path, e.to_string()))?;
    let file = SNAPSHOT_FORMAT.open(&bytes).map_err(|error| StoreError::unreadable(&path, "it", error))?;
    Ok(Some((bytes, file)))
}

/// Stores a snapshot durably, removes older ones, and says where it is.
pub fn save(directory: &Path, index: u64, bytes: &[u8]) -> io::Result<PathBuf> {
    let path = directory.join(file_name(index));
    link::file::replace(&path, bytes)?;
    // One that came from the leader while this one was made is newer.
    for older in list(directory)?.into_iter().filter(|other| *other < path) {
        fs::remove_file(older)?;
    }
    Ok(path)
}

/// Reads a snapshot again; an error if it is not what was written.
pub fn check(path: &Path, written: &SnapshotFile) -> io::Result<()> {
    let read: SnapshotFile = SNAPSHOT_FORMAT.open(&fs::read(path)?).map_err(io::Error::other)?;
    if read == *written {
        Ok(())
    } else {
        Err(io::Error::other(format!("{} does not hold what was written to it", path.display())))
    }
}
