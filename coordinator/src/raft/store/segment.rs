//! Segments: files of a fixed size that are filled with zeros before they are used, so that a sync has to write no
//! metadata. A segment that is not needed any more becomes a later one.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use common::codec::{CodecError, Format};
use serde::{Deserialize, Serialize};

use super::{StoreError, frame::SECTOR};

/// How the header of a segment is sealed.
pub const SEGMENT_FORMAT: Format = Format { magic: b"WSEG", version: 1, limit: 128 };
const SUFFIX: &str = "segment";
/// A segment that waits to be used again.
pub const SPARE: &str = "spare";
/// Bytes of a checksum.
const CHECKSUM: usize = 4;
/// Zeros are written in such pieces.
const PIECE: usize = 1 << 20;

/// The first sector of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// Its number; the first segment of a store has number 1.
    pub generation: u64,
    /// A random number that the checksums of its frames begin with.
    pub salt: u64,
    /// The sequence of its first frame: what follows a lost end of the segment before it does not follow.
    pub first: u64,
}

impl Header {
    /// The header of a new segment.
    pub fn new(generation: u64, first: u64) -> Header {
        Header { generation, salt: u64::from_le_bytes(link::identity::random_bytes()), first }
    }
}

/// A segment and its file.
#[derive(Clone)]
pub struct Segment {
    pub header: Header,
    pub file: Arc<File>,
    /// Its bytes.
    pub size: u64,
}

/// Where the segment of a generation is.
pub fn path(folder: &Path, generation: u64) -> PathBuf {
    folder.join(format!("{generation:020}.{SUFFIX}"))
}

/// The generations of a folder's segments, in order.
pub fn list(folder: &Path) -> io::Result<Vec<u64>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let is_segment = path.extension().is_some_and(|extension| extension == SUFFIX);
        let number = path.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| stem.parse::<u64>().ok());
        found.extend(number.filter(|_| is_segment));
    }
    found.sort_unstable();
    Ok(found)
}

/// The whole of a segment, whose header must be right.
pub fn read(folder: &Path, generation: u64) -> Result<(Segment, Vec<u8>), StoreError> {
    let path = path(folder, generation);
    let failed = |error: io::Error| StoreError::of_reading(&path, &error);
    let file = File::options().read(true).write(true).open(&path).map_err(failed)?;
    let bytes = fs::read(&path).map_err(failed)?;
    let header: Header = open_sector(&SEGMENT_FORMAT, &bytes)
        .map_err(|error| StoreError::unreadable(&path, "the header of the segment", error))?;
    if header.generation != generation {
        let reason = format!("its header is that of segment {}", header.generation);
        return Err(StoreError::Corrupt { path, reason });
    }
    Ok((Segment { header, file: Arc::new(file), size: bytes.len() as u64 }, bytes))
}

/// Makes a segment durable that holds one frame; `size` are its bytes.
pub fn make(folder: &Path, header: Header, frame: &[u8], size: u64) -> io::Result<Segment> {
    let spare = folder.join(SPARE);
    // A crash must not leave the new content under the old name.
    sync_folder(folder)?;
    if !fs::metadata(&spare).is_ok_and(|found| found.len() == size) {
        fill(&spare, size)?;
    }
    let file = File::options().read(true).write(true).open(&spare)?;
    file.write_all_at(&sealed_sector(&SEGMENT_FORMAT, &header)?, 0)?;
    file.write_all_at(frame, SECTOR as u64)?;
    file.sync_all()?;
    fs::rename(&spare, path(folder, header.generation))?;
    sync_folder(folder)?;
    Ok(Segment { header, file: Arc::new(file), size })
}

/// Keeps an unneeded segment for later, unless there is one already or somebody still reads it.
pub fn retire(folder: &Path, segment: Segment, usual: u64) -> io::Result<()> {
    let (path, spare) = (path(folder, segment.header.generation), folder.join(SPARE));
    if segment.size == usual && Arc::into_inner(segment.file).is_some() && !spare.exists() {
        fs::rename(path, spare)?;
    } else {
        fs::remove_file(path)?;
    }
    // In this order also after a crash: a segment that is missing between others is damage.
    sync_folder(folder)
}

fn fill(path: &Path, size: u64) -> io::Result<()> {
    let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    let zeros = vec![0; PIECE];
    let mut at = 0;
    while at < size {
        let length = usize::try_from(size - at).unwrap_or(PIECE).min(PIECE);
        file.write_all_at(&zeros[..length], at)?;
        at += length as u64;
    }
    Ok(())
}

/// Makes the names of a folder's files durable.
pub fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// A sealed value that fills a sector: the checksum of what follows, its length, itself, zeros. The checksum tells a version
/// that a flipped bit made from one of a newer wharf.
pub fn sealed_sector<T: Serialize>(format: &Format, value: &T) -> io::Result<Vec<u8>> {
    let sealed = format.seal(value).map_err(io::Error::other)?;
    let length = u16::try_from(sealed.len()).map_err(io::Error::other)?;
    let mut sector = [[0; CHECKSUM].as_slice(), &length.to_le_bytes(), &sealed].concat();
    sector.resize(SECTOR, 0);
    let checksum = crc32fast::hash(&sector[CHECKSUM..]);
    sector[..CHECKSUM].copy_from_slice(&checksum.to_le_bytes());
    Ok(sector)
}

/// What [`sealed_sector`] wrote at the start of some bytes.
pub fn open_sector<T: serde::de::DeserializeOwned>(format: &Format, bytes: &[u8]) -> Result<T, CodecError> {
    let torn = || CodecError::Format("it is shorter than a sector".to_owned());
    let (checksum, rest) = bytes.get(..SECTOR).and_then(<[u8]>::split_first_chunk).ok_or_else(torn)?;
    let (expected, found) = (u32::from_le_bytes(*checksum), crc32fast::hash(rest));
    if expected != found {
        return Err(CodecError::Checksum { expected, found });
    }
    let (length, rest) = rest.split_first_chunk().ok_or_else(torn)?;
    format.open(rest.get(..u16::from_le_bytes(*length) as usize).ok_or_else(torn)?)
}
