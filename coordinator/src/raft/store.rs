//! The durable part of a member: sled, made durable.
//!
//! sled's own flush never calls fdatasync on Linux, so a power cut may take what it acknowledged.
//! One thread owns all writing: it takes every write that waits, applies them, flushes, calls
//! fdatasync on sled's file, and only then tells their authors. Large values would go to files that
//! sled never syncs, so segments are 8 MiB from the first start and values at most 60 KB.

use std::{
    fs::File,
    io,
    ops::Range,
    panic::AssertUnwindSafe,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard,
        mpsc::{self, RecvTimeoutError, TryRecvError},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use common::{
    codec::{CodecError, Format},
    id::MemberId,
};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::late::Late;

/// How an entry is sealed; chunks of it are stored under (index, chunk).
pub const ENTRY_FORMAT: Format = Format { magic: b"WLOG", version: 1, limit: 15 << 20 };
/// How the small records are sealed.
pub const RECORD_FORMAT: Format = Format { magic: b"WREC", version: 1, limit: 64 << 10 };
/// Largest value given to sled, in bytes.
const MAX_VALUE: usize = 60_000;
/// Never changes: sled cannot open a store with another one.
const SEGMENT_SIZE: usize = 8 << 20;
const OWNER: &[u8] = b"m/owner";

/// Why a store cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The store is damaged.
    #[error("the store at {} is damaged: {reason}", path.display())]
    Corrupt {
        /// Where it is.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A newer version of wharf has written the store.
    #[error("the store at {} cannot be read: {reason}", path.display())]
    Newer {
        /// Where it is.
        path: PathBuf,
        /// What is not known here.
        reason: String,
    },
    /// The store belongs to another member.
    #[error("the store at {} belongs to member {owner}, not {me}", path.display())]
    Foreign {
        /// Where it is.
        path: PathBuf,
        /// Whose it is.
        owner: MemberId,
        /// Who asked.
        me: MemberId,
    },
    /// The store cannot be read or written.
    #[error("the store at {} cannot be used: {reason}", path.display())]
    Failed {
        /// Where it is.
        path: PathBuf,
        /// What the system says.
        reason: String,
    },
}

/// Who a store belongs to.
#[derive(Debug, Serialize, Deserialize)]
pub struct Owner {
    /// The member.
    pub member: MemberId,
}

type Done = Box<dyn FnOnce(io::Result<()>) + Send>;

/// A write that waits for the disk.
struct Write {
    batch: sled::Batch,
    /// Whether its author waits until it is durable.
    durable: bool,
    done: Option<Done>,
    /// The last entry of those that nobody needs any more.
    unneeded: Option<u64>,
}

/// Keys of unneeded entries that are removed at a time, between two writes.
const REMOVE_STEP: usize = 256;
/// How long a note may wait until it is durable.
const NOTE_DELAY: Duration = Duration::from_secs(1);

/// The newest note, which nobody waits for; the writer takes it when its time has come.
type Note = Arc<Mutex<Option<sled::Batch>>>;

/// A sled database whose writes are durable when they say so.
pub struct Store {
    db: sled::Db,
    queue: Option<mpsc::Sender<Write>>,
    note: Note,
    failed: watch::Receiver<Option<String>>,
    writer: Option<JoinHandle<()>>,
    path: PathBuf,
}

impl StoreError {
    /// Why a part of what is stored at a path cannot be read.
    pub fn unreadable(path: &Path, what: &str, error: CodecError) -> StoreError {
        let (path, reason) = (path.to_owned(), format!("{what}: {error}"));
        match error {
            CodecError::Newer(_) | CodecError::Version { .. } => StoreError::Newer { path, reason },
            _ => StoreError::Corrupt { path, reason },
        }
    }
}

impl Store {
    /// Opens or makes the store of `me`.
    pub fn open(directory: &Path, me: MemberId) -> Result<Store, StoreError> {
        let path = directory.join("raft");
        let failed = |reason: String| StoreError::Failed { path: path.clone(), reason };
        link::private::ensure_folder(&path).map_err(|e| failed(e.to_string()))?;
        let db = open_sled(&path)?;
        sync_files(&path).map_err(|e| failed(e.to_string()))?;
        let file = File::options().read(true).write(true).open(path.join("db")).map_err(|e| failed(e.to_string()))?;
        let (failure_sender, failure) = watch::channel(None);
        let (queue, writes) = mpsc::channel();
        let note = Note::default();
        let writer = Writer { db: db.clone(), file, note: note.clone(), unneeded: None, late: Late::default() };
        let writer = std::thread::Builder::new()
            .name("store-writer".into())
            .spawn(move || writer.run(&writes, &failure_sender))
            .map_err(|e| failed(e.to_string()))?;
        let store = Store { db, queue: Some(queue), note, failed: failure, writer: Some(writer), path };
        store.check_owner(me)?;
        Ok(store)
    }

    fn check_owner(&self, me: MemberId) -> Result<(), StoreError> {
        match self.record::<Owner>(OWNER)? {
            Some(Owner { member }) if member == me => Ok(()),
            Some(Owner { member: owner }) => Err(StoreError::Foreign { path: self.path.clone(), owner, me }),
            None if self.db.is_empty() => {
                let mut batch = sled::Batch::default();
                batch
                    .insert(OWNER, RECORD_FORMAT.seal(&Owner { member: me }).map_err(|e| self.corrupt(e.to_string()))?);
                self.write_blocking(batch)
                    .map_err(|e| StoreError::Failed { path: self.path.clone(), reason: e.to_string() })
            }
            None => Err(self.corrupt("it holds entries without their owner".into())),
        }
    }

    fn corrupt(&self, reason: String) -> StoreError {
        StoreError::Corrupt { path: self.path.clone(), reason }
    }

    /// Tells why writing failed, once it has.
    pub fn failed(&self) -> watch::Receiver<Option<String>> {
        self.failed.clone()
    }

    /// A small record.
    pub fn record<T: serde::de::DeserializeOwned>(&self, key: &[u8]) -> Result<Option<T>, StoreError> {
        let read = self.db.get(key).map_err(|e| self.corrupt(e.to_string()))?;
        let name = String::from_utf8_lossy(key).into_owned();
        read.map(|bytes| RECORD_FORMAT.open(&bytes).map_err(|e| self.corrupt(format!("record {name}: {e}"))))
            .transpose()
    }

    /// Queues a write; `done` is called when it is durable, or has failed.
    pub fn write(&self, batch: sled::Batch, done: impl FnOnce(io::Result<()>) + Send + 'static) {
        self.enqueue(Write { batch, durable: true, done: Some(Box::new(done)), unneeded: None });
    }

    /// Has the entries up to `last`, included, removed little by little; a crash leaves some of them until the next time.
    pub fn remove_lazily(&self, last: u64) {
        self.enqueue(Write { batch: sled::Batch::default(), durable: false, done: None, unneeded: Some(last) });
    }

    /// Has the newest note durable within a second; older ones that still wait are dropped.
    pub fn note(&self, batch: sled::Batch) {
        let waited = self.note.lock().expect("no panic while it is held").replace(batch).is_some();
        if !waited {
            // The writer may be asleep, and has to know from when to count.
            self.enqueue(Write { batch: sled::Batch::default(), durable: false, done: None, unneeded: None });
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

    /// Writes and waits until it is durable.
    pub async fn write_durably(&self, batch: sled::Batch) -> io::Result<()> {
        let (sender, receiver) = tokio::sync::oneshot::channel();
        self.write(batch, move |result| drop(sender.send(result)));
        receiver.await.unwrap_or_else(|_| Err(io::Error::other("the store's writer has ended")))
    }

    fn write_blocking(&self, batch: sled::Batch) -> io::Result<()> {
        let (sender, receiver) = mpsc::channel();
        self.write(batch, move |result| drop(sender.send(result)));
        receiver.recv().unwrap_or_else(|_| Err(io::Error::other("the store's writer has ended")))
    }

    /// The indices of all entries, after checking that each can be read and none is missing.
    pub fn check_log(&self, purged: Option<u64>) -> Result<Option<(u64, u64)>, StoreError> {
        let mut range: Option<(u64, u64)> = None;
        for item in self.db.scan_prefix(b"l").keys() {
            let key = item.map_err(|e| self.corrupt(e.to_string()))?;
            let Some((index, chunk)) = parse_entry_key(&key) else {
                return Err(self.corrupt(format!("the key {key:02x?} is not that of an entry")));
            };
            // What lies below the purge mark was on its way out when the process ended.
            if chunk != 0 || purged.is_some_and(|purged| index <= purged) {
                continue;
            }
            let (first, next) = range.map_or((index, index), |(first, last)| (first, last + 1));
            if index != next || (range.is_none() && purged.is_some_and(|purged| index != purged + 1)) {
                return Err(self.corrupt(format!("entry {next} is missing before {index}")));
            }
            self.entry(index)?;
            range = Some((first, index));
        }
        Ok(range)
    }

    /// An entry and the bytes that it takes.
    pub fn entry(&self, index: u64) -> Result<(super::types::Entry, usize), StoreError> {
        let mut bytes = Vec::new();
        for item in self.db.scan_prefix(entry_prefix(index)).values() {
            bytes.extend_from_slice(&item.map_err(|e| self.corrupt(e.to_string()))?);
        }
        let entry = ENTRY_FORMAT
            .open(&bytes)
            .map_err(|error| StoreError::unreadable(&self.path, &format!("entry {index}"), error))?;
        Ok((entry, bytes.len()))
    }

    /// Adds the removal of every stored entry from `from` to `to`, both included, to a batch.
    pub fn remove_entries(&self, batch: &mut sled::Batch, from: u64, to: u64) -> io::Result<()> {
        for key in self.db.range(entry_keys(from, to)).keys() {
            batch.remove(key.map_err(io::Error::other)?);
        }
        Ok(())
    }
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

/// Adds an entry, in chunks, to a batch.
pub fn insert_entry(batch: &mut sled::Batch, index: u64, entry: &super::types::Entry) -> Result<usize, CodecError> {
    let bytes = ENTRY_FORMAT.seal(entry)?;
    for (number, chunk) in bytes.chunks(MAX_VALUE).enumerate() {
        let mut key = entry_prefix(index);
        key.extend_from_slice(&(number as u16).to_be_bytes());
        batch.insert(key, chunk);
    }
    Ok(bytes.len())
}

/// Adds a small record to a batch.
pub fn insert_record<T: Serialize>(batch: &mut sled::Batch, key: &[u8], value: &T) -> io::Result<()> {
    batch.insert(key, RECORD_FORMAT.seal(value).map_err(io::Error::other)?);
    Ok(())
}

fn entry_prefix(index: u64) -> Vec<u8> {
    let mut key = Vec::with_capacity(11);
    key.push(b'l');
    key.extend_from_slice(&index.to_be_bytes());
    key
}

/// The keys of the entries from `from` to `to`, both included.
fn entry_keys(from: u64, to: u64) -> Range<Vec<u8>> {
    entry_prefix(from)..to.checked_add(1).map_or_else(|| vec![b'm'], entry_prefix)
}

fn parse_entry_key(key: &[u8]) -> Option<(u64, u16)> {
    let rest = key.strip_prefix(b"l")?;
    let (index, chunk) = rest.split_at_checked(8)?;
    Some((u64::from_be_bytes(index.try_into().ok()?), u16::from_be_bytes(chunk.try_into().ok()?)))
}

/// sled panics on some damage instead of saying so.
fn open_sled(path: &Path) -> Result<sled::Db, StoreError> {
    let config =
        sled::Config::new().path(path).flush_every_ms(None).segment_size(SEGMENT_SIZE).cache_capacity(16 << 20);
    let opened = std::panic::catch_unwind(AssertUnwindSafe(|| config.open()));
    let corrupt = |reason: String| StoreError::Corrupt { path: path.to_owned(), reason };
    match opened {
        Ok(Ok(db)) => Ok(db),
        Ok(Err(sled::Error::Io(error)))
            if error.kind() != io::ErrorKind::InvalidData && error.kind() != io::ErrorKind::Other =>
        {
            Err(StoreError::Failed { path: path.to_owned(), reason: error.to_string() })
        }
        Ok(Err(error)) => Err(corrupt(error.to_string())),
        Err(_) => Err(corrupt("sled cannot read its own files".into())),
    }
}

/// Makes sure that the files themselves, and their names, survive a power cut.
fn sync_files(path: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            File::open(entry.path())?.sync_all()?;
        }
    }
    for directory in [Some(path), path.parent()].into_iter().flatten() {
        File::open(directory)?.sync_all()?;
    }
    Ok(())
}

/// sled panics on some errors instead of saying so.
fn guarded(work: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    std::panic::catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| Err(io::Error::other("sled panicked")))
}

/// The thread that owns all writing.
struct Writer {
    db: sled::Db,
    file: File,
    note: Note,
    /// The last of the entries that are to be removed, until they are.
    unneeded: Option<u64>,
    late: Late,
}

impl Writer {
    fn run(mut self, writes: &mpsc::Receiver<Write>, failed: &watch::Sender<Option<String>>) {
        let mut note_due: Option<Instant> = None;
        loop {
            let next = match note_due {
                _ if self.unneeded.is_some() => writes.try_recv().map_err(|error| match error {
                    TryRecvError::Empty => RecvTimeoutError::Timeout,
                    TryRecvError::Disconnected => RecvTimeoutError::Disconnected,
                }),
                None => writes.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(due) => writes.recv_timeout(due.saturating_duration_since(Instant::now())),
            };
            let is_over = matches!(next, Err(RecvTimeoutError::Disconnected));
            let note = if is_over || note_due.is_some_and(|due| due <= Instant::now()) {
                note_due = None;
                self.lock_note().take()
            } else {
                None
            };
            let (dones, written) = self.write(next.ok(), writes, note);
            if self.lock_note().is_some() {
                note_due.get_or_insert_with(|| Instant::now() + NOTE_DELAY);
            }
            if let Err(error) = &written {
                failed.send_replace(Some(error.to_string()));
            }
            for done in dones {
                done(written.as_ref().copied().map_err(|e| io::Error::new(e.kind(), e.to_string())));
            }
            if is_over || written.is_err() {
                return;
            }
            if let Err(error) = guarded(|| self.remove_some()) {
                failed.send_replace(Some(error.to_string()));
                return;
            }
        }
    }

    fn lock_note(&self) -> MutexGuard<'_, Option<sled::Batch>> {
        self.note.lock().expect("no panic while it is held")
    }

    /// Writes the first and all that wait behind it, and the note.
    fn write(
        &mut self,
        first: Option<Write>,
        writes: &mpsc::Receiver<Write>,
        note: Option<sled::Batch>,
    ) -> (Vec<Done>, io::Result<()>) {
        let mut dones = Vec::new();
        let written = guarded(|| {
            let mut durable = note.is_some();
            let mut next = first;
            while let Some(write) = next {
                durable |= write.durable;
                self.unneeded = self.unneeded.max(write.unneeded);
                dones.extend(write.done);
                self.db.apply_batch(write.batch).map_err(io::Error::from)?;
                next = writes.try_recv().ok();
            }
            if let Some(note) = note {
                self.db.apply_batch(note).map_err(io::Error::from)?;
            }
            if durable {
                let began = Instant::now();
                self.db.flush().map_err(io::Error::from)?;
                // Always, even if sled thinks that there was nothing to flush.
                self.file.sync_data()?;
                self.late.note("its disk was slow to sync", began.elapsed());
            }
            Ok(())
        });
        (dones, written)
    }

    /// Removes some of the unneeded entries, if there are any.
    fn remove_some(&mut self) -> io::Result<()> {
        let Some(last) = self.unneeded else { return Ok(()) };
        let mut batch = sled::Batch::default();
        let mut count = 0;
        for key in self.db.range(entry_keys(0, last)).keys().take(REMOVE_STEP) {
            batch.remove(key?);
            count += 1;
        }
        if count < REMOVE_STEP {
            self.unneeded = None;
        }
        Ok(self.db.apply_batch(batch)?)
    }
}
