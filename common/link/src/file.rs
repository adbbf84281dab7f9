//! Replaces files atomically: writes a new file beside, syncs, renames.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

/// The number of bytes between syncs. Other writers to the disk then wait for one piece instead of a whole large file.
const PIECE: usize = 4 << 20;

/// Replaces a file durably. After a crash there is either the old file or the new one. Only the owner can read it.
pub fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let directory = path.parent().unwrap_or(Path::new("/"));
    crate::private::ensure_folder(directory)?;
    let beside = path.with_extension("tmp");
    if let Err(error) = write(&beside, bytes) {
        // What was written of it takes room that may be missing elsewhere.
        if_there(fs::remove_file(&beside))?;
        return Err(error);
    }
    fs::rename(&beside, path)?;
    File::open(directory)?.sync_all()
}

fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    for piece in bytes.chunks(PIECE) {
        file.write_all(piece)?;
        file.sync_all()?;
    }
    Ok(())
}

/// Reads a file; `None` if it does not exist.
pub fn read(path: &Path) -> io::Result<Option<Vec<u8>>> {
    if_there(fs::read(path))
}

/// Turns "not found" into `None`.
pub fn if_there<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
