//! Snapshots: one sealed file, written beside, synced, renamed.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use common::codec::Format;
use coordinator_core::State;
use openraft::SnapshotMeta;
use serde::{Deserialize, Serialize};

use super::{space, store::StoreError};

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
    link::private::ensure_folder(directory).map_err(|error| StoreError::of_reading(directory, &error))?;
    let (path, bytes) = loop {
        let newest = list(directory).map_err(|error| StoreError::of_reading(directory, &error))?.into_iter().next();
        let Some(path) = newest else { return Ok(None) };
        match fs::read(&path) {
            Ok(bytes) => break (path, bytes),
            // A newer one has just taken its place.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(StoreError::of_reading(&path, &error)),
        }
    };
    let file = SNAPSHOT_FORMAT.open(&bytes).map_err(|error| StoreError::unreadable(&path, "it", error))?;
    Ok(Some((bytes, file)))
}

/// Stores a snapshot durably, and says where it is.
pub fn save(directory: &Path, index: u64, bytes: &[u8]) -> io::Result<PathBuf> {
    let path = directory.join(file_name(index));
    space::with_reserve(directory.parent().unwrap_or(directory), || link::file::replace(&path, bytes))?;
    Ok(path)
}

/// Removes the snapshots that are older than one. Another one that came meanwhile may be newer.
pub fn remove_older(path: &Path) -> io::Result<()> {
    let directory = path.parent().unwrap_or(Path::new("/"));
    let older = list(directory)?.into_iter().filter(|other| **other < *path);
    // Two may do this at a time.
    older.map(fs::remove_file).try_for_each(|removed| link::file::if_there(removed).map(drop))
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
