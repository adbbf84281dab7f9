//! What a log holds, and how it is read again at the start: all of it, or the place where it is damaged.
//!
//! A frame that cannot be read ends the log only if no later one can, and if the end mark does not lie behind it: then
//! it was being written when the process or the power ended. Anything else is damage.

use std::{collections::BTreeMap, ops::Range, path::Path};

use common::id::MemberId;
use serde::{Deserialize, Serialize};

use super::{
    ENTRY_FORMAT, RECORD_FORMAT, StoreError,
    frame::{self, Frame, Kind, SECTOR},
    mark::{self, Mark},
    segment::{self, Segment},
};
use crate::raft::types::{Entry, LogId, Vote};

/// What is true of a log beside its entries.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// Whose log it is.
    pub owner: MemberId,
    /// The vote that was saved last.
    pub vote: Option<Vote>,
    /// The last entry known to be committed. It may lag.
    pub committed: Option<LogId>,
    /// The last entry that was purged.
    pub purged: Option<LogId>,
    /// The last entry, also if it was purged.
    pub last: Option<LogId>,
}

common::tagged! {
    /// What is written beside entries.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub enum Record {
        /// The first record of a segment: what the segments before it led to, which may be removed.
        1 => Base(facts: Facts),
        /// A vote.
        2 => Vote(vote: Vote),
        /// The entries from this index on are gone.
        3 => Truncate(from: u64),
        /// The entries up to this one are no longer needed.
        4 => Purge(last: LogId),
        /// The entries up to this one are committed.
        5 => Committed(last: LogId),
    }
}

/// Where an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Position {
    pub id: LogId,
    pub generation: u64,
    /// Its sealed bytes in the segment.
    pub range: Range<u64>,
}

/// What a log holds, and where.
pub struct Contents {
    pub facts: Facts,
    /// The entries, by index.
    pub entries: BTreeMap<u64, Position>,
    /// The segments, by generation; the last one is written to.
    pub segments: BTreeMap<u64, Segment>,
}

/// Where the next frame goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct End {
    /// The place in the last segment.
    pub at: u64,
    /// The sequence of the last frame.
    pub sequence: u64,
}

/// A log as it was read.
pub struct Read {
    pub contents: Contents,
    pub end: End,
    /// The newest end mark and the place for the next one.
    pub mark: Option<(Mark, usize)>,
}

impl Contents {
    /// An empty log.
    pub fn of(owner: MemberId) -> Contents {
        let facts = Facts { owner, vote: None, committed: None, purged: None, last: None };
        Contents { facts, entries: BTreeMap::new(), segments: BTreeMap::new() }
    }

    /// Takes an entry in.
    pub fn add(&mut self, position: Position) {
        self.facts.last = Some(position.id);
        self.entries.insert(position.id.index, position);
    }

    /// Takes a record in.
    pub fn apply(&mut self, record: &Record) {
        let facts = &mut self.facts;
        match record {
            Record::Base(_) => {}
            Record::Vote(vote) => facts.vote = Some(*vote),
            Record::Truncate(from) => {
                self.entries.split_off(from);
                let before = self.entries.last_key_value().map(|(_, position)| position.id);
                facts.last = before.or(facts.purged);
            }
            Record::Purge(last) => {
                self.entries = self.entries.split_off(&(last.index + 1));
                // By index: an entry that never was committed may be of a later term, and before it.
                let later = |known: Option<LogId>| known.filter(|known| known.index >= last.index).or(Some(*last));
                (facts.purged, facts.last) = (later(facts.purged), later(facts.last));
            }
            Record::Committed(last) => facts.committed = Some(*last),
        }
    }

    /// Takes out the segments that hold nothing that is needed, the oldest first.
    pub fn take_unneeded(&mut self) -> Vec<Segment> {
        let current = self.segments.last_key_value().map_or(0, |(generation, _)| *generation);
        // Whatever has a higher index was written later.
        let needed = self.entries.first_key_value().map_or(current, |(_, position)| position.generation);
        let kept = self.segments.split_off(&needed);
        std::mem::replace(&mut self.segments, kept).into_values().collect()
    }

    /// Reads the log of a folder; none if there is none.
    pub fn read(folder: &Path) -> Result<Option<Read>, StoreError> {
        let failed = |error: std::io::Error| StoreError::Failed { path: folder.to_owned(), reason: error.to_string() };
        let corrupt = |reason: String| StoreError::Corrupt { path: folder.to_owned(), reason };
        let mark = mark::read(folder)?;
        let generations = segment::list(folder).map_err(failed)?;
        let Some((first, last)) = generations.first().copied().zip(generations.last().copied()) else {
            return if mark.is_some() { Err(corrupt("its segments are missing".to_owned())) } else { Ok(None) };
        };
        let mut reading = Reading::default();
        for generation in first..=last {
            if !generations.contains(&generation) {
                return Err(corrupt(format!("segment {generation} is missing")));
            }
            reading.segment(folder, generation)?;
        }
        let read = reading.finish(mark).map_err(corrupt)?;
        Ok(Some(read))
    }
}

/// Reads a segment whose successor begins with the frame `next`.
pub fn check_segment(folder: &Path, generation: u64, next: u64) -> Result<(), StoreError> {
    let (Segment { header, .. }, bytes) = segment::read(folder, generation)?;
    let (mut at, mut expected) = (SECTOR, header.first);
    while let Some(frame) = frame::read(&bytes, at, header.salt).filter(|frame| frame.sequence == expected) {
        (at, expected) = (frame.end, expected + 1);
    }
    if expected == next {
        return Ok(());
    }
    let reason = format!("frame {expected} at byte {at} is damaged");
    Err(StoreError::Corrupt { path: segment::path(folder, generation), reason })
}

/// A log that is being read.
#[derive(Default)]
struct Reading {
    /// None until the first record was read.
    contents: Option<Contents>,
    /// The index that the next entry must have; any if there is none yet.
    next: Option<u64>,
    /// The sequence of the last frame that was read, and where it ends.
    end: Option<End>,
}

impl Reading {
    fn segment(&mut self, folder: &Path, generation: u64) -> Result<(), StoreError> {
        let (segment, bytes) = segment::read(folder, generation)?;
        let path = segment::path(folder, generation);
        let header = segment.header;
        let corrupt = |reason: String| StoreError::Corrupt { path: path.clone(), reason };
        let mut expected = self.end.map_or(header.first, |end| end.sequence + 1);
        if header.first != expected {
            return Err(corrupt(format!("it begins with frame {}, and frame {expected} is missing", header.first)));
        }
        let mut at = SECTOR;
        while let Some(frame) = frame::read(&bytes, at, header.salt) {
            if frame.sequence != expected {
                return Err(corrupt(format!("at byte {at} is frame {} in place of {expected}", frame.sequence)));
            }
            self.frame(&frame, generation).map_err(|problem| problem.at(&path, at))?;
            at = frame.end;
            self.end = Some(End { at: at as u64, sequence: expected });
            expected += 1;
        }
        if at == SECTOR {
            return Err(corrupt("its first frame is damaged".to_owned()));
        }
        let later = (at + SECTOR..bytes.len()).step_by(SECTOR);
        if let Some(later) = later.into_iter().find(|later| frame::read(&bytes, *later, header.salt).is_some()) {
            return Err(corrupt(format!("what begins at byte {at} is damaged: at byte {later} is a later frame")));
        }
        if let Some(contents) = &mut self.contents {
            contents.segments.insert(generation, segment);
        }
        Ok(())
    }

    fn frame(&mut self, frame: &Frame<'_>, generation: u64) -> Result<(), Unfit> {
        for (kind, range, sealed) in frame.parts().map_err(Unfit::Form)? {
            match kind {
                Kind::Record => {
                    let record = RECORD_FORMAT.open(sealed).map_err(|error| Unfit::Part("a record", error))?;
                    self.record(&record)?;
                }
                Kind::Entry => {
                    let entry: Entry = ENTRY_FORMAT.open(sealed).map_err(|error| Unfit::Part("an entry", error))?;
                    let range = range.start as u64..range.end as u64;
                    self.entry(Position { id: entry.log_id, generation, range })?;
                }
            }
        }
        Ok(())
    }

    fn record(&mut self, record: &Record) -> Result<(), Unfit> {
        match (&mut self.contents, record) {
            (None, Record::Base(facts)) => {
                self.next = facts.last.map(|last| last.index + 1);
                let nothing = Contents::of(facts.owner);
                self.contents = Some(Contents { facts: facts.clone(), ..nothing });
            }
            (None, _) => return Err(Unfit::Form("what came before the segment is not said".to_owned())),
            (Some(contents), record) => {
                contents.apply(record);
                match record {
                    Record::Truncate(from) => self.next = Some(*from),
                    Record::Purge(last) => self.next = self.next.max(Some(last.index + 1)),
                    _ => {}
                }
            }
        }
        Ok(())
    }

    fn entry(&mut self, position: Position) -> Result<(), Unfit> {
        let index = position.id.index;
        let contents = self.contents.as_mut().ok_or_else(|| Unfit::Form("nobody owns the entry".to_owned()))?;
        if let Some(next) = self.next.filter(|next| *next != index) {
            return Err(Unfit::Form(format!("entry {next} is missing before {index}")));
        }
        self.next = Some(index + 1);
        contents.add(position);
        Ok(())
    }

    /// Checks that nothing is missing at either end; an error says what is.
    fn finish(self, mark: Option<(Mark, usize)>) -> Result<Read, String> {
        let (Some(mut contents), Some(end)) = (self.contents, self.end) else {
            return Err("it holds nothing".to_owned());
        };
        match mark {
            // The first segment comes before the first mark.
            None if end.sequence > 1 => return Err("its end mark is missing".to_owned()),
            Some((mark, _)) if mark.sequence > end.sequence => {
                return Err(format!(
                    "frame {} is damaged or missing: frames up to {} were durable",
                    end.sequence + 1,
                    mark.sequence
                ));
            }
            _ => {}
        }
        let after_purged = contents.facts.purged.map_or(0, |purged| purged.index + 1);
        let first = contents.entries.first_key_value().map(|(index, _)| *index);
        let begins = first.or(self.next.filter(|next| *next > after_purged));
        if begins.is_some_and(|begins| begins != after_purged) {
            return Err(format!("entry {after_purged} is missing"));
        }
        let last = contents.entries.last_key_value().map(|(_, position)| position.id);
        let last = last.or(contents.facts.purged);
        contents.facts.last = last;
        contents.facts.committed =
            contents.facts.committed.filter(|known| last.is_some_and(|last| known.index <= last.index));
        Ok(Read { contents, end, mark })
    }
}

/// Why a frame whose checksum is right cannot be used.
enum Unfit {
    Form(String),
    Part(&'static str, common::codec::CodecError),
}

impl Unfit {
    fn at(self, path: &Path, at: usize) -> StoreError {
        match self {
            Unfit::Form(reason) => {
                StoreError::Corrupt { path: path.to_owned(), reason: format!("the frame at byte {at}: {reason}") }
            }
            Unfit::Part(what, error) => StoreError::unreadable(path, &format!("{what} at byte {at}"), error),
        }
    }
}
