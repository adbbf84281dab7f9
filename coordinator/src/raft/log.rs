//! openraft's log on our store. Entries are served from memory from the moment that they are
//! appended; the store has them durably when the callback is called.
//!
//! What is purged is only in a snapshot from then on. So a purge waits until that snapshot is durable.

use std::{
    collections::BTreeMap,
    fmt::Debug,
    io,
    ops::{Bound, RangeBounds},
    sync::{Arc, Mutex, MutexGuard, Weak},
};

use openraft::{
    ErrorSubject, ErrorVerb, LogState, OptionalSend, RaftLogReader, StorageIOError,
    storage::{LogFlushed, RaftLogStorage},
};
use tokio::sync::watch;

use super::{
    store::{ENTRY_FORMAT, Record, Store, StoreError},
    types::{Entry, LogId, StorageError, TypeConfig, Vote},
};

/// Bytes of entries kept in memory; older ones are read from the store.
const CACHE_BYTES: usize = 32 << 20;
/// Bytes of entries for a follower in one message; the first entry is always in it. openraft gives a message the time
/// between two heartbeats and sends all of it again if that is over before it is answered.
const MESSAGE_BYTES: usize = 256 << 10;

/// The log of a member. Clones share it.
#[derive(Clone)]
pub struct LogStore {
    store: Arc<Store>,
    state: Arc<Mutex<State>>,
    /// The index of the newest durable snapshot.
    snapshot: watch::Receiver<Option<u64>>,
}

struct State {
    purged: Option<LogId>,
    last: Option<LogId>,
    cache: BTreeMap<u64, (Arc<Entry>, usize)>,
    cached_bytes: usize,
}

impl State {
    fn remember(&mut self, entry: Entry, size: usize) {
        self.last = Some(entry.log_id);
        self.cached_bytes += size;
        self.cache.insert(entry.log_id.index, (Arc::new(entry), size));
    }

    /// Takes the oldest entries out of the memory if all take too much of it. Those stay that the store does not have yet.
    fn shrink(&mut self, store: &Store) {
        while self.cached_bytes > CACHE_BYTES
            && let Some(oldest) = self.cache.first_entry()
            && store.has(*oldest.key())
        {
            let (_, size) = oldest.remove();
            self.cached_bytes -= size;
        }
    }

    /// Takes entries out of the memory; to free many of them takes a while.
    fn forget(&mut self, range: impl RangeBounds<u64>) -> Vec<Arc<Entry>> {
        let indices: Vec<u64> = self.cache.range(range).map(|(index, _)| *index).collect();
        let gone: Vec<(Arc<Entry>, usize)> = indices.iter().filter_map(|index| self.cache.remove(index)).collect();
        self.cached_bytes -= gone.iter().map(|(_, size)| size).sum::<usize>();
        gone.into_iter().map(|(entry, _)| entry).collect()
    }
}

fn read_error(error: impl std::error::Error + 'static) -> StorageError {
    StorageIOError::new(ErrorSubject::Logs, ErrorVerb::Read, openraft::AnyError::new(&error)).into()
}

fn write_error(error: io::Error) -> StorageError {
    StorageIOError::new(ErrorSubject::Logs, ErrorVerb::Write, openraft::AnyError::new(&error)).into()
}

impl LogStore {
    /// The log in a store; `snapshot` is the index of the newest durable snapshot, which must hold all that was purged.
    pub fn open(store: Store, snapshot: watch::Receiver<Option<u64>>) -> Result<LogStore, StoreError> {
        let facts = store.facts();
        let held = *snapshot.borrow();
        if let Some(purged) = facts.purged.map(|purged| purged.index)
            && held.is_none_or(|held| held < purged)
        {
            let newest =
                held.map_or("there is no snapshot".to_owned(), |held| format!("the newest snapshot ends at {held}"));
            return Err(store.corrupt(format!("the entries up to {purged} were purged, and {newest}")));
        }
        let state = State { purged: facts.purged, last: facts.last, cache: BTreeMap::new(), cached_bytes: 0 };
        Ok(LogStore { store: Arc::new(store), state: Arc::new(Mutex::new(state)), snapshot })
    }

    /// The store, for as long as the log is used.
    pub fn store(&self) -> Weak<Store> {
        Arc::downgrade(&self.store)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic while it is held")
    }

    /// The entries of a range that there are, until they take more than so many bytes; the first is always among them.
    fn read_range(&self, range: impl RangeBounds<u64>, most: usize) -> Result<Vec<Entry>, StoreError> {
        let (first, last) = {
            let state = self.state();
            (state.purged.map_or(0, |purged| purged.index + 1), state.last.map_or(0, |last| last.index + 1))
        };
        let start = match range.start_bound() {
            Bound::Included(start) => *start,
            Bound::Excluded(start) => start + 1,
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(end) => end + 1,
            Bound::Excluded(end) => *end,
            Bound::Unbounded => u64::MAX,
        };
        let (mut entries, mut bytes) = (Vec::new(), 0);
        for index in start.max(first)..end.min(last) {
            let Some((entry, size)) = self.entry(index)? else {
                // It may be purged while a follower is served; nobody gets entries with a gap.
                if entries.is_empty() { continue } else { break }
            };
            bytes += size;
            if bytes > most && !entries.is_empty() {
                break;
            }
            entries.push(entry);
        }
        Ok(entries)
    }

    /// An entry and the bytes that it takes.
    fn entry(&self, index: u64) -> Result<Option<(Entry, usize)>, StoreError> {
        let cached = self.state().cache.get(&index).cloned();
        cached.map_or_else(|| self.store.entry(index), |(entry, size)| Ok(Some(((*entry).clone(), size))))
    }
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, StorageError> {
        self.read_range(range, usize::MAX).map_err(read_error)
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<Entry>, StorageError> {
        self.read_range(start..end, MESSAGE_BYTES).map_err(read_error)
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = LogStore;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, StorageError> {
        let state = self.state();
        Ok(LogState { last_purged_log_id: state.purged, last_log_id: state.last })
    }

    async fn get_log_reader(&mut self) -> LogStore {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), StorageError> {
        self.store.write(Record::Vote(*vote)).await.map_err(write_error)
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, StorageError> {
        Ok(self.store.facts().vote)
    }

    /// Notes how far the log is known to be committed: a member that starts and hears nobody knows
    /// at least that much. A mark that lags is as good as one that does not, and costs less.
    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), StorageError> {
        if let Some(last) = committed {
            self.store.note_committed(last);
        }
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, StorageError> {
        Ok(self.store.facts().committed)
    }

    async fn append<I>(&mut self, entries: I, callback: LogFlushed<TypeConfig>) -> Result<(), StorageError>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut sealed = Vec::new();
        {
            let mut state = self.state();
            for entry in entries {
                if let Some(last) = state.last.filter(|last| last.index + 1 < entry.log_id.index) {
                    let gap = format!("entry {} does not follow {}", entry.log_id.index, last.index);
                    return Err(write_error(io::Error::other(gap)));
                }
                let bytes = ENTRY_FORMAT.seal(&entry).map_err(|e| write_error(io::Error::other(e)))?;
                let size = bytes.len();
                sealed.push((entry.log_id, bytes));
                state.remember(entry, size);
            }
            state.shrink(&self.store);
        }
        self.store.append(sealed, move |result| callback.log_io_completed(result));
        Ok(())
    }

    async fn truncate(&mut self, log_id: LogId) -> Result<(), StorageError> {
        self.store.write(Record::Truncate(log_id.index)).await.map_err(write_error)?;
        let last = log_id.index.checked_sub(1).and_then(|before| self.store.id_of(before));
        let mut state = self.state();
        let gone = state.forget(log_id.index..);
        state.last = last.or(state.purged);
        drop(state);
        drop(gone);
        Ok(())
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), StorageError> {
        let is_durable = |snapshot: &Option<u64>| snapshot.is_some_and(|index| index >= log_id.index);
        if self.snapshot.clone().wait_for(is_durable).await.is_err() {
            return Err(write_error(io::Error::other("the state machine has ended")));
        }
        let gone = {
            let mut state = self.state();
            state.purged = Some(log_id);
            state.last = state.last.filter(|last| last.index > log_id.index).or(Some(log_id));
            state.forget(..=log_id.index)
        };
        // They hold millions of small things. Nobody waits for them to be freed, least of all who holds the log.
        drop(tokio::task::spawn_blocking(move || drop(gone)));
        self.store.write(Record::Purge(log_id)).await.map_err(write_error)
    }
}
