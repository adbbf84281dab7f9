//! The replicated state on this member: applied in memory, published after every step.

use std::{
    io::{self, Cursor},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard},
};

use common::{codec::CodecError, error::Problem};
use coordinator_core::{Outcome, State, divergence::is_compared, level};
use openraft::{
    EntryPayload, ErrorSubject, ErrorVerb, OptionalSend, RaftSnapshotBuilder, Snapshot, SnapshotMeta, StorageIOError,
    storage::RaftStateMachine,
};
use tokio::sync::watch;

use super::{
    compare::Checkpoint,
    snapshot::{self, SNAPSHOT_FORMAT, SnapshotFile},
    store::StoreError,
    types::{Entry, LogId, StorageError, StoredMembership, TypeConfig},
};

/// A state and where in the log it stands.
#[derive(Debug, Clone, Default)]
pub struct Published {
    /// The state.
    pub cluster: State,
    /// The index of the last log entry in it.
    pub applied: u64,
}

/// The state machine of a member. Clones share it.
#[derive(Clone)]
pub struct StateMachine {
    directory: PathBuf,
    state: Arc<Mutex<Applied>>,
    publish: Arc<watch::Sender<Arc<Published>>>,
    checkpoints: Arc<watch::Sender<Checkpoint>>,
    durable: Arc<watch::Sender<Option<u64>>>,
    unfit: watch::Sender<Option<Problem>>,
}

/// All that the log has led to so far.
#[derive(Default)]
struct Applied {
    cluster: State,
    applied: Option<LogId>,
    membership: StoredMembership,
}

fn snapshot_error(verb: ErrorVerb, error: impl std::error::Error + 'static) -> StorageError {
    StorageIOError::new(ErrorSubject::Snapshot(None), verb, openraft::AnyError::new(&error)).into()
}

impl StateMachine {
    /// The state of the newest snapshot, or none at all.
    ///
    /// `unfit` gets the reason if a snapshot comes that this binary cannot read.
    pub fn open(
        directory: &Path,
        unfit: watch::Sender<Option<Problem>>,
    ) -> Result<(StateMachine, watch::Receiver<Arc<Published>>), StoreError> {
        let state = match snapshot::load_newest(directory)? {
            None => Applied::default(),
            Some((_, file)) => {
                Applied { cluster: file.cluster, applied: file.meta.last_log_id, membership: file.meta.last_membership }
            }
        };
        let durable = state.applied.map(|applied| applied.index);
        let (publish, published) = watch::channel(Arc::new(published(&state)));
        let machine = StateMachine {
            directory: directory.to_owned(),
            state: Arc::new(Mutex::new(state)),
            publish: Arc::new(publish),
            checkpoints: Arc::default(),
            durable: Arc::new(watch::Sender::new(durable)),
            unfit,
        };
        Ok((machine, published))
    }

    /// The states to compare with those of other members, as they come; a reader sees the newest one alone.
    pub fn checkpoints(&self) -> watch::Receiver<Checkpoint> {
        self.checkpoints.subscribe()
    }

    /// The index up to which a durable snapshot holds everything.
    pub fn durable(&self) -> watch::Receiver<Option<u64>> {
        self.durable.subscribe()
    }

    fn state(&self) -> MutexGuard<'_, Applied> {
        self.state.lock().expect("apply never panics")
    }

    fn note_durable(&self, last: Option<LogId>) {
        self.durable.send_modify(|durable| *durable = (*durable).max(last.map(|last| last.index)));
    }

    fn newest(&self) -> Result<Option<(Vec<u8>, SnapshotFile)>, StorageError> {
        snapshot::load_newest(&self.directory).map_err(|e| snapshot_error(ErrorVerb::Read, e))
    }
}

fn published(state: &Applied) -> Published {
    Published { cluster: state.cluster.clone(), applied: state.applied.map_or(0, |applied| applied.index) }
}

fn as_snapshot(meta: SnapshotMeta<u64, openraft::BasicNode>, bytes: Vec<u8>) -> Snapshot<TypeConfig> {
    Snapshot { meta, snapshot: Box::new(Cursor::new(bytes)) }
}

impl RaftSnapshotBuilder<TypeConfig> for StateMachine {
    async fn build_snapshot(&mut self) -> Result<Snapshot<TypeConfig>, StorageError> {
        let file = {
            let state = self.state();
            let index = state.applied.map_or(0, |applied| applied.index);
            let term = state.applied.map_or(0, |applied| applied.leader_id.term);
            let meta = SnapshotMeta {
                last_log_id: state.applied,
                last_membership: state.membership.clone(),
                snapshot_id: format!("{term}-{index}"),
            };
            SnapshotFile { meta, cluster: state.cluster.clone() }
        };
        let (directory, last) = (self.directory.clone(), file.meta.last_log_id);
        let built = tokio::task::spawn_blocking(move || {
            let bytes = SNAPSHOT_FORMAT.seal(&file).map_err(io::Error::other)?;
            let path = snapshot::save(&directory, last.map_or(0, |id| id.index), &bytes)?;
            // The log behind it will be purged: what cannot be read again would be lost.
            snapshot::check(&path, &file)?;
            snapshot::remove_older(&path)?;
            io::Result::Ok(as_snapshot(file.meta, bytes))
        });
        let built = built.await.map_err(|e| snapshot_error(ErrorVerb::Write, e))?;
        let built = built.map_err(|e| snapshot_error(ErrorVerb::Write, e))?;
        self.note_durable(last);
        Ok(built)
    }
}

impl RaftStateMachine<TypeConfig> for StateMachine {
    type SnapshotBuilder = StateMachine;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), StorageError> {
        let state = self.state();
        Ok((state.applied, state.membership.clone()))
    }

    async fn apply<I>(&mut self, entries: I) -> Result<Vec<Vec<Outcome>>, StorageError>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut outcomes = Vec::new();
        let mut state = self.state();
        for entry in entries {
            state.applied = Some(entry.log_id);
            outcomes.push(match entry.payload {
                EntryPayload::Blank => Vec::new(),
                EntryPayload::Normal(batch) => {
                    let before = state.cluster.clock();
                    let outcomes = state.cluster.apply(&batch);
                    if is_compared(before, state.cluster.clock()) {
                        let checkpoint = (entry.log_id.index, state.cluster.clone());
                        self.checkpoints.send_replace(Some(Arc::new(checkpoint)));
                    }
                    outcomes
                }
                EntryPayload::Membership(membership) => {
                    state.membership = StoredMembership::new(Some(entry.log_id), membership);
                    Vec::new()
                }
            });
        }
        self.publish.send_replace(Arc::new(published(&state)));
        Ok(outcomes)
    }

    async fn get_snapshot_builder(&mut self) -> StateMachine {
        self.clone()
    }

    async fn begin_receiving_snapshot(&mut self) -> Result<Box<Cursor<Vec<u8>>>, StorageError> {
        Ok(Box::default())
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta<u64, openraft::BasicNode>,
        snapshot: Box<Cursor<Vec<u8>>>,
    ) -> Result<(), StorageError> {
        let bytes = snapshot.into_inner();
        let file: SnapshotFile = SNAPSHOT_FORMAT.open(&bytes).map_err(|error| {
            if let CodecError::Newer(_) | CodecError::Version { .. } = error {
                self.unfit.send_replace(Some(level::cannot_read(&error)));
            }
            snapshot_error(ErrorVerb::Read, error)
        })?;
        // Durable before it counts: the log behind it may be gone.
        let (directory, index) = (self.directory.clone(), meta.last_log_id.map_or(0, |id| id.index));
        let saved = tokio::task::spawn_blocking(move || {
            snapshot::save(&directory, index, &bytes).and_then(|path| snapshot::remove_older(&path))
        })
        .await;
        saved.map_err(|e| snapshot_error(ErrorVerb::Write, e))?.map_err(|e| snapshot_error(ErrorVerb::Write, e))?;
        self.note_durable(meta.last_log_id);
        let mut state = self.state();
        *state = Applied { cluster: file.cluster, applied: meta.last_log_id, membership: meta.last_membership.clone() };
        self.publish.send_replace(Arc::new(published(&state)));
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot<TypeConfig>>, StorageError> {
        Ok(self.newest()?.map(|(bytes, file)| as_snapshot(file.meta, bytes)))
    }
}
