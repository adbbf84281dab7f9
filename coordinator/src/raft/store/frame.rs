//! Frames: all that is written with one sync, under one checksum. A power cut leaves a whole frame or none.
//!
//! A frame begins at a sector. Its checksum begins with the salt of its segment, a random number: neither what a segment
//! held before it was used again, nor bytes that somebody stored as a value, look like a frame of it.

use std::ops::Range;

/// Bytes of a sector: each frame begins at one, so that no write touches the sectors of a frame before it.
pub const SECTOR: usize = 512;
const MAGIC: &[u8; 4] = b"WFRM";
/// Magic, checksum, sequence, length.
const HEADER: usize = 20;
/// The kind and the length before each part.
const PART_HEADER: usize = 5;

/// What a part of a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A sealed entry.
    Entry,
    /// A sealed [`Record`](super::contents::Record).
    Record,
}

impl Kind {
    fn tag(self) -> u8 {
        match self {
            Kind::Entry => 1,
            Kind::Record => 2,
        }
    }

    fn of_tag(tag: u8) -> Option<Kind> {
        [Kind::Entry, Kind::Record].into_iter().find(|kind| kind.tag() == tag)
    }
}

/// A frame that is being put together.
pub struct Draft(Vec<u8>);

impl Default for Draft {
    fn default() -> Draft {
        Draft(vec![0; HEADER])
    }
}

impl Draft {
    /// Adds a part and says where in the frame its bytes are.
    pub fn push(&mut self, kind: Kind, sealed: &[u8]) -> Range<usize> {
        let length = u32::try_from(sealed.len()).expect("formats have smaller limits");
        self.0.push(kind.tag());
        self.0.extend_from_slice(&length.to_le_bytes());
        let start = self.0.len();
        self.0.extend_from_slice(sealed);
        start..self.0.len()
    }

    /// Whether nothing was added.
    pub fn is_empty(&self) -> bool {
        self.0.len() == HEADER
    }

    /// The bytes that it takes in a segment.
    pub fn size(&self) -> usize {
        self.0.len().next_multiple_of(SECTOR)
    }

    /// The bytes to write.
    pub fn finish(mut self, salt: u64, sequence: u64) -> Vec<u8> {
        let length = u32::try_from(self.0.len() - HEADER).expect("the writer begins a new frame before that");
        self.0[..4].copy_from_slice(MAGIC);
        self.0[8..16].copy_from_slice(&sequence.to_le_bytes());
        self.0[16..20].copy_from_slice(&length.to_le_bytes());
        let checksum = checksum(salt, &self.0[8..]);
        self.0[4..8].copy_from_slice(&checksum.to_le_bytes());
        let size = self.size();
        self.0.resize(size, 0);
        self.0
    }
}

/// A frame as it was read.
pub struct Frame<'a> {
    /// Its number in the log; the first frame has number 1.
    pub sequence: u64,
    /// The bytes of its parts, and where they begin in the segment.
    body: (&'a [u8], usize),
    /// Where in the segment the next frame begins.
    pub end: usize,
}

/// The frame that begins at a place of a segment, if there is one.
pub fn read(segment: &[u8], at: usize, salt: u64) -> Option<Frame<'_>> {
    let bytes = segment.get(at..)?;
    let header: &[u8; HEADER] = bytes.first_chunk()?;
    if &header[..4] != MAGIC {
        return None;
    }
    let number = |range: Range<usize>| header[range].iter().rev().fold(0_u64, |all, byte| all << 8 | u64::from(*byte));
    let length = usize::try_from(number(16..20)).ok()?;
    let whole = bytes.get(..HEADER.checked_add(length)?)?;
    (u64::from(checksum(salt, &whole[8..])) == number(4..8)).then(|| Frame {
        sequence: number(8..16),
        body: (&whole[HEADER..], at + HEADER),
        end: at + whole.len().next_multiple_of(SECTOR),
    })
}

impl<'a> Frame<'a> {
    /// Its parts and where in the segment their bytes are; an error says what does not fit together.
    pub fn parts(&self) -> Result<Vec<(Kind, Range<usize>, &'a [u8])>, String> {
        let (mut rest, mut at) = self.body;
        let mut parts = Vec::new();
        while let Some((header, after)) = rest.split_first_chunk::<PART_HEADER>() {
            let kind = Kind::of_tag(header[0]).ok_or_else(|| format!("no part has the kind {}", header[0]))?;
            let length = u32::from_le_bytes([header[1], header[2], header[3], header[4]]) as usize;
            let (bytes, behind) = after.split_at_checked(length).ok_or("a part ends behind its frame")?;
            at += PART_HEADER;
            parts.push((kind, at..at + length, bytes));
            (rest, at) = (behind, at + length);
        }
        if rest.is_empty() { Ok(parts) } else { Err("a part is shorter than its header".to_owned()) }
    }
}

fn checksum(salt: u64, bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&salt.to_le_bytes());
    hasher.update(bytes);
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_read_back_and_any_other_byte_is_none() {
        let mut draft = Draft::default();
        assert!(draft.is_empty());
        let places = [draft.push(Kind::Record, b"one"), draft.push(Kind::Entry, &[7; 600])];
        assert_eq!(draft.size(), 1024);
        let bytes = [vec![0; SECTOR], draft.finish(5, 9)].concat();
        let frame = read(&bytes, SECTOR, 5).expect("it is a frame");
        assert_eq!((frame.sequence, frame.end), (9, SECTOR + 1024));
        let parts = frame.parts().expect("they fit together");
        assert_eq!(
            parts.iter().map(|part| (part.0, part.2)).collect::<Vec<_>>(),
            [(Kind::Record, b"one".as_slice()), (Kind::Entry, [7; 600].as_slice())]
        );
        for ((_, range, part), place) in parts.iter().zip(places) {
            assert_eq!((&bytes[range.clone()], range), (*part, &(place.start + SECTOR..place.end + SECTOR)));
        }
        assert!(read(&bytes, SECTOR, 6).is_none(), "another segment has another salt");
        let length = HEADER + 2 * PART_HEADER + 603;
        for bit in 0..length * 8 {
            let mut damaged = bytes.clone();
            damaged[SECTOR + bit / 8] ^= 1 << (bit % 8);
            assert!(read(&damaged, SECTOR, 5).is_none(), "bit {bit}");
        }
        assert!(read(&bytes[..SECTOR + length - 1], SECTOR, 5).is_none(), "a torn one");
    }
}
