//! Files that are replaced as a whole: written beside, synced, renamed.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

/// Bytes that are given to the disk at a time: whoever else waits for it waits for one such piece, and not for all of a
/// large file.
const PIECE: usize = 4 << 20;

/// Replaces a file durably; a crash leaves the old one or the new one. Only its owner may read it.
pub fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let directory = path.parent().unwrap_or(Path::new("/"));
    crate::private::ensure_folder(directory)?;
    let beside = path.with_extension("tmp");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
    for piece in bytes.chunks(PIECE) {
        file.write_all(piece)?;
        file.sync_all()?;
    }
    fs::rename(&beside, path)?;
    File::open(directory)?.sync_all()
}

/// Reads a file that may not be there.
pub fn read(path: &Path) -> io::Result<Option<Vec<u8>>> {
    if_there(fs::read(path))
}

/// What came of something that is as good if the file or folder is not there.
pub fn if_there<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
