//! openraft's log on our store. Entries are served from memory from the moment that they are
//! appended; the store has them durably when the callback is called.

use std::{
    collections::BTreeMap,
    fmt::Debug,
    io,
    ops::{Bound, RangeBounds},
    sync::{Arc, Mutex, MutexGuard},
};

use openraft::{
    ErrorSubject, ErrorVerb, LogState, OptionalSend, RaftLogReader, StorageIOError,
    storage::{LogFlushed, RaftLogStorage},
};

use super::{
    store::{Store, StoreError, insert_entry, insert_record},
    types::{Entry, LogId, StorageError, TypeConfig, Vote},
};

const VOTE: &[u8] = b"m/vote";
const COMMITTED: &[u8] = b"m/committed";
const PURGED: &[u8] = b"m/purged";
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
}

#[derive(Default)]
struct State {
    loaded: bool,
    purged: Option<LogId>,
    /// The index of the first entry that was ever appended; entries begin here or after the purge mark.
    first: Option<u64>,
    last: Option<LogId>,
    cache: BTreeMap<u64, (Arc<Entry>, usize)>,
    cached_bytes: usize,
}

impl State {
    fn remember(&mut self, entry: Entry, size: usize) {
        self.first.get_or_insert(entry.log_id.index);
        self.last = Some(entry.log_id);
        self.cached_bytes += size;
        self.cache.insert(entry.log_id.index, (Arc::new(entry), size));
        while self.cached_bytes > CACHE_BYTES && self.cache.len() > 1 {
            if let Some((_, (_, size))) = self.cache.pop_first() {
                self.cached_bytes -= size;
            }
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
    /// The log in a store.
    pub fn new(store: Store) -> LogStore {
        LogStore { store: Arc::new(store), state: Arc::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic while it is held")
    }

    /// Checks all that is stored, once.
    pub fn load(&self) -> Result<(), StoreError> {
        if self.state().loaded {
            return Ok(());
        }
        let purged: Option<LogId> = self.store.record(PURGED)?;
        let range = self.store.check_log(purged.map(|purged| purged.index))?;
        let last = range.map(|(_, last)| self.store.entry(last)).transpose()?.map(|(entry, _)| entry.log_id);
        let mut state = self.state();
        state.purged = purged;
        state.first = range.map(|(first, _)| first);
        state.last = last.or(purged);
        state.loaded = true;
        Ok(())
    }

    /// The entries of a range that there are, until they take more than so many bytes; the first is always among them.
    fn read_range(&self, range: impl RangeBounds<u64>, most: usize) -> Result<Vec<Entry>, StoreError> {
        let (first, last) = {
            let state = self.state();
            let kept = state.purged.map_or(0, |purged| purged.index + 1);
            (kept.max(state.first.unwrap_or(0)), state.last.map_or(0, |last| last.index + 1))
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
            let (entry, size) = self.entry(index)?;
            bytes += size;
            if bytes > most && !entries.is_empty() {
                break;
            }
            entries.push(entry);
        }
        Ok(entries)
    }

    fn is_stored(&self, index: u64) -> bool {
        let state = self.state();
        state.purged.is_none_or(|purged| index > purged.index) && state.first.is_some_and(|first| first <= index)
    }

    /// An entry and the bytes that it takes.
    fn entry(&self, index: u64) -> Result<(Entry, usize), StoreError> {
        let cached = self.state().cache.get(&index).cloned();
        cached.map_or_else(|| self.store.entry(index), |(entry, size)| Ok(((*entry).clone(), size)))
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
        self.load().map_err(read_error)?;
        let state = self.state();
        Ok(LogState { last_purged_log_id: state.purged, last_log_id: state.last })
    }

    async fn get_log_reader(&mut self) -> LogStore {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), StorageError> {
        let mut batch = sled::Batch::default();
        insert_record(&mut batch, VOTE, vote).map_err(write_error)?;
        self.store.write_durably(batch).await.map_err(write_error)
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, StorageError> {
        self.store.record(VOTE).map_err(read_error)
    }

    /// Notes how far the log is known to be committed: a member that starts and hears nobody knows
    /// at least that much. A mark that lags is as good as one that does not, and costs less.
    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), StorageError> {
        let mut batch = sled::Batch::default();
        insert_record(&mut batch, COMMITTED, &committed).map_err(write_error)?;
        self.store.note(batch);
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, StorageError> {
        Ok(self.store.record::<Option<LogId>>(COMMITTED).map_err(read_error)?.flatten())
    }

    async fn append<I>(&mut self, entries: I, callback: LogFlushed<TypeConfig>) -> Result<(), StorageError>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut batch = sled::Batch::default();
        {
            let mut state = self.state();
            for entry in entries {
                let size = insert_entry(&mut batch, entry.log_id.index, &entry)
                    .map_err(|e| write_error(io::Error::other(e)))?;
                state.remember(entry, size);
            }
        }
        self.store.write(batch, move |result| callback.log_io_completed(result));
        Ok(())
    }

    async fn truncate(&mut self, log_id: LogId) -> Result<(), StorageError> {
        // Entries may still wait in the writer's queue: let it catch up, then look what is stored.
        self.store.write_durably(sled::Batch::default()).await.map_err(write_error)?;
        let mut batch = sled::Batch::default();
        self.store.remove_entries(&mut batch, log_id.index, u64::MAX).map_err(write_error)?;
        self.store.write_durably(batch).await.map_err(write_error)?;
        let before = log_id.index.checked_sub(1);
        let last = match before {
            Some(index) if self.is_stored(index) => Some(self.entry(index).map_err(read_error)?.0.log_id),
            _ => self.state().purged,
        };
        let mut state = self.state();
        let gone = state.forget(log_id.index..);
        state.first = state.first.filter(|first| *first < log_id.index);
        state.last = last;
        drop(state);
        drop(gone);
        Ok(())
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), StorageError> {
        let gone = {
            let mut state = self.state();
            state.purged = Some(log_id);
            state.last = state.last.max(Some(log_id));
            state.forget(..=log_id.index)
        };
        // They hold millions of small things. Nobody waits for them to be freed, least of all who holds the log.
        drop(tokio::task::spawn_blocking(move || drop(gone)));
        // The mark first: entries below it are ignored if the process dies before they are gone.
        let mut mark = sled::Batch::default();
        insert_record(&mut mark, PURGED, &log_id).map_err(write_error)?;
        self.store.write_durably(mark).await.map_err(write_error)?;
        // Ten thousand entries take a while, in which others are to hear of this member.
        self.store.remove_lazily(log_id.index);
        Ok(())
    }
}
