//! The durable part of a member: its log and its vote.
//!
//! One thread owns all writing. It takes every write that waits, puts them into one frame, writes and syncs it, and
//! only then tells their authors. Frames stand one behind the other in segments. Damage is never taken for an end
//! of the log: `contents.rs` says what is which.

mod contents;
mod error;
mod frame;
mod mark;
mod segment;
#[cfg(test)]
mod tests;

use std::{
    fs::{File, TryLockError},
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
        mpsc::{self, RecvTimeoutError},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use common::{codec::Format, id::MemberId};
use link::identity::random_bytes;
use tokio::sync::watch;

use super::{
    late::Late,
    space,
    types::{Entry, LogId},
};
use contents::{Contents, End, Position, Read};
use frame::{Draft, Kind, SECTOR};
use mark::{Mark, MarkFile};
use segment::{Header, Segment};

pub use contents::{Facts, Record};
pub use error::StoreError;
pub use mark::{MARK_FORMAT, Mark as EndMark};
pub use segment::{Header as SegmentHeader, SEGMENT_FORMAT};

/// How an entry is sealed.
pub const ENTRY_FORMAT: Format = Format { magic: b"WLOG", version: 1, limit: 15 << 20 };
/// How a [`Record`] is sealed.
pub const RECORD_FORMAT: Format = Format { magic: b"WREC", version: 2, limit: 64 << 10 };
/// A file beside the store that says that there is one. A member without its store must not vote as if it never had.
pub const MADE: &str = "raft-made";
const WHY_MADE: &str = "There is a log in the folder raft. A coordinator that has lost it must not vote. Its number:";
/// Bytes of a segment, unless a frame needs more.
const SEGMENT_SIZE: u64 = 16 << 20;
/// No more is added to a frame that has as many bytes.
const FRAME_BYTES: usize = 4 << 20;
/// How long the committed index may wait until it is durable.
const NOTE_DELAY: Duration = Duration::from_secs(1);
/// How long the end mark may lag behind entries that other members have as well. Until then, damage to the last frame would
/// look like a torn write. It never lags behind a vote.
const MARK_DELAY: Duration = Duration::from_millis(100);
/// How long another holder of the store may take to close it.
const LOCK_PATIENCE: Duration = Duration::from_secs(5);
const LOCK_PAUSE: Duration = Duration::from_millis(20);

/// A part of a write.
enum Change {
    Entry(LogId, Vec<u8>),
    Record(Record),
}

type Done = Box<dyn FnOnce(io::Result<()>) + Send>;

/// A write that waits for the disk; an empty one only wakes the writer.
#[derive(Default)]
struct Write {
    changes: Vec<Change>,
    done: Option<Done>,
}

/// What the writer and the readers share.
struct Shared {
    /// Whether no other member has what this one acknowledges.
    alone: Arc<AtomicBool>,
    contents: Mutex<Contents>,
    /// The newest committed index that nobody waits for, and since when there is one.
    note: Mutex<Option<(LogId, Instant)>>,
}

impl Shared {
    fn contents(&self) -> MutexGuard<'_, Contents> {
        self.contents.lock().expect("no panic while it is held")
    }

    fn note(&self) -> MutexGuard<'_, Option<(LogId, Instant)>> {
        self.note.lock().expect("no panic while it is held")
    }
}

/// A log and a vote whose writes are durable when they say so.
pub struct Store {
    folder: PathBuf,
    number: u64,
    shared: Arc<Shared>,
    queue: Option<mpsc::Sender<Write>>,
    failed: watch::Sender<Option<String>>,
    writer: Option<JoinHandle<()>>,
    /// Nobody else opens the store meanwhile.
    _lock: File,
}

impl Store {
    /// Opens or makes the store of `me` in a state folder.
    pub fn open(directory: &Path, me: MemberId) -> Result<Store, StoreError> {
        let (folder, made) = (directory.join("raft"), directory.join(MADE));
        let failed = |error: io::Error| StoreError::Failed { path: made.clone(), reason: error.to_string() };
        let was_made = made.try_exists().map_err(failed)?;
        if was_made && !folder.join(mark::FILE).try_exists().map_err(failed)? {
            let reason = "it was made before, and is missing".to_owned();
            return Err(StoreError::Corrupt { path: folder, reason });
        }
        let mut store = Store::open_sized(&folder, me, SEGMENT_SIZE)?;
        if was_made {
            let text = std::fs::read_to_string(&made).map_err(failed)?;
            store.number = text.split_whitespace().last().and_then(|word| word.parse().ok()).unwrap_or(0);
        } else {
            store.number = u64::from_le_bytes(random_bytes());
            // This also makes the name of the store's folder durable.
            link::file::replace(&made, format!("{WHY_MADE} {}\n", store.number).as_bytes()).map_err(failed)?;
        }
        Ok(store)
    }

    /// Like [`Store::open`], with segments of another size.
    fn open_sized(folder: &Path, me: MemberId, size: u64) -> Result<Store, StoreError> {
        let failed = |error: io::Error| StoreError::Failed { path: folder.to_owned(), reason: error.to_string() };
        link::private::ensure_folder(folder).map_err(failed)?;
        let lock = lock(folder).map_err(failed)?;
        let Read { contents, end, mark } = match Contents::read(folder)? {
            Some(read) => read,
            None => make(folder, me, size)?,
        };
        let owner = contents.facts.owner;
        if owner != me {
            return Err(StoreError::Foreign { path: folder.to_owned(), owner, me });
        }
        let (contents, alone) = (Mutex::new(contents), Arc::new(AtomicBool::new(true)));
        let shared = Arc::new(Shared { alone, contents, note: Mutex::default() });
        let writer = Writer::new(folder, shared.clone(), (size, end), mark).map_err(failed)?;
        let failure = watch::Sender::new(None);
        let failed_sender = failure.clone();
        let (queue, writes) = mpsc::channel();
        let writer = std::thread::Builder::new()
            .name("store-writer".into())
            .spawn(move || writer.run(&writes, &failure))
            .map_err(failed)?;
        let (queue, writer) = (Some(queue), Some(writer));
        Ok(Store { folder: folder.to_owned(), number: 0, shared, queue, failed: failed_sender, writer, _lock: lock })
    }

    /// A random number that no other store of the same member has; 0 if an earlier version made it.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Says that the store is damaged.
    pub fn corrupt(&self, reason: String) -> StoreError {
        StoreError::Corrupt { path: self.folder.clone(), reason }
    }

    /// To be told whether no other member has what this one acknowledges. Then the end mark is durable before each answer:
    /// without it, damage to the last frame would look like a torn write.
    pub fn alone(&self) -> Arc<AtomicBool> {
        self.shared.alone.clone()
    }

    /// Tells why writing failed, once it has.
    pub fn failed(&self) -> watch::Receiver<Option<String>> {
        self.failed.subscribe()
    }

    /// Has the member stop for a reason.
    pub fn fail(&self, reason: String) {
        self.failed.send_replace(Some(reason));
    }

    /// The segments that are not written to any more.
    pub fn closed_segments(&self) -> Vec<u64> {
        let contents = self.shared.contents();
        contents.segments.keys().rev().skip(1).rev().copied().collect()
    }

    /// Reads a segment that is not written to any more, and compares it with what is known of it. One that was given up
    /// meanwhile is not looked at.
    pub fn check_segment(&self, generation: u64) -> Result<(), StoreError> {
        let next = self.shared.contents().segments.get(&(generation + 1)).map(|segment| segment.header.first);
        let checked = next.map_or(Ok(()), |next| contents::check_segment(&self.folder, generation, next));
        let is_kept = self.shared.contents().segments.contains_key(&generation);
        if is_kept { checked } else { Ok(()) }
    }

    /// What is durable beside the entries.
    pub fn facts(&self) -> Facts {
        self.shared.contents().facts.clone()
    }

    /// Whether an entry is durable.
    pub fn has(&self, index: u64) -> bool {
        self.shared.contents().entries.contains_key(&index)
    }

    /// The identity of a durable entry.
    pub fn id_of(&self, index: u64) -> Option<LogId> {
        self.shared.contents().entries.get(&index).map(|position| position.id)
    }

    /// A durable entry and the bytes that it takes; none if it was purged or never written.
    pub fn entry(&self, index: u64) -> Result<Option<(Entry, usize)>, StoreError> {
        let found = place_of(&self.shared.contents(), index);
        found.map(|(file, position)| read_entry(&self.folder, &file, &position)).transpose()
    }

    /// Queues sealed entries; `done` is called when they are durable, or have failed.
    pub fn append(&self, entries: Vec<(LogId, Vec<u8>)>, done: impl FnOnce(io::Result<()>) + Send + 'static) {
        let changes = entries.into_iter().map(|(id, sealed)| Change::Entry(id, sealed)).collect();
        self.enqueue(Write { changes, done: Some(Box::new(done)) });
    }

    /// Writes a record and waits until it, and all that was queued before it, is durable.
    pub async fn write(&self, record: Record) -> io::Result<()> {
        let (sender, receiver) = tokio::sync::oneshot::channel();
        let done: Done = Box::new(move |result| drop(sender.send(result)));
        self.enqueue(Write { changes: vec![Change::Record(record)], done: Some(done) });
        receiver.await.unwrap_or_else(|_| Err(io::Error::other("the store's writer has ended")))
    }

    /// Has the committed index durable within a second.
    pub fn note_committed(&self, last: LogId) {
        let waits = {
            let mut note = self.shared.note();
            let since = note.map_or_else(Instant::now, |(_, since)| since);
            note.replace((last, since)).is_some()
        };
        if !waits {
            // The writer may be asleep, and has to know from when to count.
            self.enqueue(Write::default());
        }
    }

    fn enqueue(&self, write: Write) {
        let Some(queue) = &self.queue else { return };
        if let Err(mpsc::SendError(write)) = queue.send(write)
            && let Some(done) = write.done
        {
            done(Err(io::Error::other("the store's writer has ended")));
        }
    }
}

/// A store that is only read. Nobody else opens it meanwhile.
pub struct Stored {
    folder: PathBuf,
    contents: Contents,
    _lock: File,
}

impl Stored {
    /// Reads the store in a state folder; none if there is none.
    pub fn open(directory: &Path) -> Result<Option<Stored>, StoreError> {
        let folder = directory.join("raft");
        let failed = |error: io::Error| StoreError::Failed { path: folder.clone(), reason: error.to_string() };
        if !folder.try_exists().map_err(failed)? {
            return Ok(None);
        }
        let lock = lock(&folder).map_err(failed)?;
        let read = Contents::read(&folder)?;
        Ok(read.map(|Read { contents, .. }| Stored { folder, contents, _lock: lock }))
    }

    /// What is durable beside the entries.
    pub fn facts(&self) -> &Facts {
        &self.contents.facts
    }

    /// An entry; none if it was purged or never written.
    pub fn entry(&self, index: u64) -> Result<Option<Entry>, StoreError> {
        let found = place_of(&self.contents, index);
        let read = found.map(|(file, position)| read_entry(&self.folder, &file, &position)).transpose()?;
        Ok(read.map(|(entry, _)| entry))
    }
}

/// Where an entry is.
fn place_of(contents: &Contents, index: u64) -> Option<(Arc<File>, Position)> {
    let position = contents.entries.get(&index)?.clone();
    Some((contents.segments.get(&position.generation)?.file.clone(), position))
}

/// An entry and the bytes that it takes.
fn read_entry(folder: &Path, file: &File, position: &Position) -> Result<(Entry, usize), StoreError> {
    let Position { id, generation, range } = position;
    let path = segment::path(folder, *generation);
    let mut sealed = vec![0; (range.end - range.start) as usize];
    file.read_exact_at(&mut sealed, range.start).map_err(|error| StoreError::of_reading(&path, &error))?;
    let entry = ENTRY_FORMAT
        .open(&sealed)
        .map_err(|error| StoreError::unreadable(&path, &format!("entry {}", id.index), error))?;
    Ok((entry, sealed.len()))
}

impl Drop for Store {
    fn drop(&mut self) {
        // The writer ends when its queue does; wait, so that the files are free afterwards.
        self.queue.take();
        if let Some(writer) = self.writer.take()
            && writer.join().is_err()
        {
            tracing::error!("the store's writer panicked");
        }
    }
}

/// Locks a folder. Whoever had it before may still be closing it.
fn lock(folder: &Path) -> io::Result<File> {
    let file = File::open(folder)?;
    let deadline = Instant::now() + LOCK_PATIENCE;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => std::thread::sleep(LOCK_PAUSE),
            Err(TryLockError::WouldBlock) => return Err(io::Error::other("another process uses it")),
            Err(TryLockError::Error(error)) => return Err(error),
        }
    }
}

/// Makes an empty store, which must not stand where there was another one.
fn make(folder: &Path, me: MemberId, size: u64) -> Result<Read, StoreError> {
    let failed = |error: io::Error| StoreError::Failed { path: folder.to_owned(), reason: error.to_string() };
    for found in std::fs::read_dir(folder).map_err(failed)? {
        let name = found.map_err(failed)?.file_name();
        if name != segment::SPARE {
            let reason = format!("{} is there, and no segment of a log", name.display());
            return Err(StoreError::Corrupt { path: folder.to_owned(), reason });
        }
    }
    let mut contents = Contents::of(me);
    let (segment, end) = new_segment(folder, &contents.facts, Header::new(1, 1), size).map_err(failed)?;
    contents.segments.insert(1, segment);
    Ok(Read { contents, end, mark: None })
}

/// Makes a durable segment that begins with what is known so far, and says where it goes on.
fn new_segment(folder: &Path, facts: &Facts, header: Header, size: u64) -> io::Result<(Segment, End)> {
    let mut draft = Draft::default();
    draft.push(Kind::Record, &RECORD_FORMAT.seal(&Record::Base(facts.clone())).map_err(io::Error::other)?);
    let frame = draft.finish(header.salt, header.first);
    let end = End { at: (SECTOR + frame.len()) as u64, sequence: header.first };
    Ok((segment::make(folder, header, &frame, size)?, end))
}

/// The thread that owns all writing.
struct Writer {
    folder: PathBuf,
    shared: Arc<Shared>,
    /// Bytes of a segment, unless a frame needs more.
    size: u64,
    end: End,
    mark: MarkFile,
    marked: Instant,
    late: Late,
}

impl Writer {
    fn new(
        folder: &Path,
        shared: Arc<Shared>,
        (size, end): (u64, End),
        mark: Option<(Mark, usize)>,
    ) -> io::Result<Writer> {
        // A process that died may have left a frame to the kernel alone.
        if let Some((_, segment)) = shared.contents().segments.last_key_value() {
            segment.file.sync_all()?;
        }
        segment::sync_folder(folder)?;
        let mark = MarkFile::open(folder, mark)?;
        let (folder, marked, late) = (folder.to_owned(), Instant::now(), Late::default());
        Ok(Writer { folder, shared, size, end, mark, marked, late })
    }

    fn run(mut self, writes: &mpsc::Receiver<Write>, failed: &watch::Sender<Option<String>>) {
        loop {
            let next = match self.due() {
                None => writes.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(due) => writes.recv_timeout(due.saturating_duration_since(Instant::now())),
            };
            let is_over = matches!(next, Err(RecvTimeoutError::Disconnected));
            let mut dones = Vec::new();
            let written = self.write(next.ok(), writes, &mut dones, is_over);
            if let Err(error) = &written {
                failed.send_replace(Some(error.to_string()));
            }
            for done in dones {
                done(written.as_ref().copied().map_err(|e| io::Error::new(e.kind(), e.to_string())));
            }
            if is_over || written.is_err() {
                return;
            }
            if let Err(error) = self.retire() {
                failed.send_replace(Some(error.to_string()));
                return;
            }
        }
    }

    /// When there is something to do although nobody waits for it.
    fn due(&self) -> Option<Instant> {
        let note = self.shared.note().map(|(_, since)| since + NOTE_DELAY);
        let mark = (self.mark.written.sequence < self.end.sequence).then(|| self.marked + MARK_DELAY);
        note.into_iter().chain(mark).min()
    }

    /// Writes the first and all that wait behind it, and the committed index with them or when it is due.
    fn write(
        &mut self,
        first: Option<Write>,
        writes: &mpsc::Receiver<Write>,
        dones: &mut Vec<Done>,
        is_over: bool,
    ) -> io::Result<()> {
        let is_awaited = first.as_ref().is_some_and(|write| !write.changes.is_empty());
        // Before the queue is emptied: every entry that it speaks of was queued before it.
        let note = self.shared.note().take_if(|(_, since)| is_over || is_awaited || since.elapsed() >= NOTE_DELAY);
        let mut frame = Filled::default();
        let mut next = first;
        while let Some(write) = next {
            dones.extend(write.done);
            for change in write.changes {
                frame.add(change)?;
            }
            next = if frame.draft.size() < FRAME_BYTES { writes.try_recv().ok() } else { None };
        }
        match note {
            Some((last, _)) if frame.draft.size() < FRAME_BYTES => {
                frame.add(Change::Record(Record::Committed(last)))?
            }
            Some(later) => drop(self.shared.note().get_or_insert(later)),
            None => {}
        }
        let votes = frame.changes.iter().any(|change| matches!(change, Taken::Record(Record::Vote(_))));
        if !frame.draft.is_empty() {
            self.put(frame)?;
        }
        self.mark(is_over || votes || self.shared.alone.load(Ordering::Relaxed))
    }

    /// Makes a frame durable.
    fn put(&mut self, Filled { draft, changes }: Filled) -> io::Result<()> {
        let began = Instant::now();
        let length = draft.size() as u64;
        let mut segment = self.segment();
        if self.end.at + length > segment.size {
            segment = self.next_segment(segment.header.generation + 1, length)?;
        }
        let sequence = self.end.sequence + 1;
        let Header { salt, generation, .. } = segment.header;
        segment.file.write_all_at(&draft.finish(salt, sequence), self.end.at)?;
        segment.file.sync_data()?;
        let mut contents = self.shared.contents();
        for change in changes {
            match change {
                Taken::Entry(id, range) => {
                    let range = self.end.at + range.start as u64..self.end.at + range.end as u64;
                    contents.add(Position { id, generation, range });
                }
                Taken::Record(record) => contents.apply(&record),
            }
        }
        self.end = End { at: self.end.at + length, sequence };
        self.late.note("its disk was slow to sync", began.elapsed());
        Ok(())
    }

    fn segment(&self) -> Segment {
        let contents = self.shared.contents();
        contents.segments.last_key_value().map(|(_, segment)| segment.clone()).expect("a store has a segment")
    }

    /// Goes on in a new segment, which has room for a frame of so many bytes.
    fn next_segment(&mut self, generation: u64, length: u64) -> io::Result<Segment> {
        // Its header and its first frame take a sector each.
        let size = self.size.max(2 * SECTOR as u64 + length);
        let facts = self.shared.contents().facts.clone();
        let header = Header::new(generation, self.end.sequence + 1);
        let state = self.folder.parent().unwrap_or(&self.folder);
        let made = space::with_reserve(state, || new_segment(&self.folder, &facts, header, size));
        let (segment, end) = made?;
        self.end = end;
        self.shared.contents().segments.insert(generation, segment.clone());
        Ok(segment)
    }

    /// Makes the end mark durable, if it is time.
    fn mark(&mut self, now: bool) -> io::Result<()> {
        let lags = self.mark.written.sequence < self.end.sequence;
        if lags && (now || self.marked.elapsed() >= MARK_DELAY) {
            self.mark.write(Mark { sequence: self.end.sequence })?;
            self.marked = Instant::now();
        }
        Ok(())
    }

    /// Gives up the segments that are not needed any more.
    fn retire(&mut self) -> io::Result<()> {
        let unneeded = self.shared.contents().take_unneeded();
        for segment in unneeded {
            segment::retire(&self.folder, segment, self.size)?;
        }
        Ok(())
    }
}

/// What was put into a frame, as it counts when the frame is durable.
enum Taken {
    /// An entry, and where in the frame it is.
    Entry(LogId, std::ops::Range<usize>),
    Record(Record),
}

/// A frame that is being filled.
#[derive(Default)]
struct Filled {
    draft: Draft,
    changes: Vec<Taken>,
}

impl Filled {
    fn add(&mut self, change: Change) -> io::Result<()> {
        self.changes.push(match change {
            Change::Entry(id, sealed) => Taken::Entry(id, self.draft.push(Kind::Entry, &sealed)),
            Change::Record(record) => {
                let sealed = RECORD_FORMAT.seal(&record).map_err(io::Error::other)?;
                self.draft.push(Kind::Record, &sealed);
                Taken::Record(record)
            }
        });
        Ok(())
    }
}
