//! The end mark: how far the log is known to be durable, in a file of its own. Damage at the end of the log, which
//! nothing follows, is told from a torn write by it.
//!
//! The mark has two places that are written in turn, so that a power cut leaves one of them.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use common::codec::Format;
use serde::{Deserialize, Serialize};
use tracing::warn;

use super::{
    StoreError,
    segment::{open_sector, sealed_sector},
};

/// How a mark is sealed.
pub const MARK_FORMAT: Format = Format { magic: b"WEND", version: 1, limit: 64 };
/// Its name.
pub const FILE: &str = "end";
/// The distance of the two places in bytes.
const PLACE: usize = 4096;

/// How far the log is durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// The sequence of the last durable frame; 0 if there is none.
    pub sequence: u64,
}

/// The file of the mark.
pub struct MarkFile {
    file: File,
    /// The place for the next mark.
    next: usize,
    /// What was written last.
    pub written: Mark,
}

/// Where the mark of a folder is.
pub fn path(folder: &Path) -> PathBuf {
    folder.join(FILE)
}

/// The newest mark and the place where it is not; none if there never was one.
pub fn read(folder: &Path) -> Result<Option<(Mark, usize)>, StoreError> {
    let path = path(folder);
    let bytes = link::file::read(&path)
        .map_err(|error| StoreError::Failed { path: path.clone(), reason: error.to_string() })?;
    let Some(bytes) = bytes else { return Ok(None) };
    let mut newest: Option<(Mark, usize)> = None;
    let mut damage = None;
    for place in 0..2 {
        let sector = bytes.get(place * PLACE..).unwrap_or_default();
        if sector.iter().take(PLACE).all(|byte| *byte == 0) {
            continue;
        }
        match open_sector::<Mark>(&MARK_FORMAT, sector) {
            Ok(mark) if newest.is_none_or(|(other, _)| other.sequence <= mark.sequence) => {
                newest = Some((mark, 1 - place));
            }
            Ok(_) => {}
            Err(error) => damage = Some(error),
        }
    }
    if let Some(error) = damage {
        if newest.is_none() {
            return Err(StoreError::unreadable(&path, "the end mark", error));
        }
        warn!(path = %path.display(), %error, "one of the two end marks of the log is damaged; the other is used");
    }
    let (mark, next) = newest.ok_or_else(|| StoreError::Corrupt { path, reason: "it holds no mark".to_owned() })?;
    Ok(Some((mark, next)))
}

impl MarkFile {
    /// Opens the file for the next mark, or makes it.
    pub fn open(folder: &Path, found: Option<(Mark, usize)>) -> io::Result<MarkFile> {
        let nothing = Mark { sequence: 0 };
        if found.is_none() {
            let mut whole = sealed_sector(&MARK_FORMAT, &nothing)?;
            whole.resize(2 * PLACE, 0);
            link::file::replace(&path(folder), &whole)?;
        }
        let (written, next) = found.unwrap_or((nothing, 1));
        let file = OpenOptions::new().write(true).open(path(folder))?;
        Ok(MarkFile { file, next, written })
    }

    /// Makes a mark durable.
    pub fn write(&mut self, mark: Mark) -> io::Result<()> {
        let sector = sealed_sector(&MARK_FORMAT, &mark)?;
        self.file.write_all_at(&sector, (self.next * PLACE) as u64)?;
        self.file.sync_data()?;
        (self.next, self.written) = (1 - self.next, mark);
        Ok(())
    }
}
