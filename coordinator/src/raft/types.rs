//! The types that openraft is told about.

use std::sync::Arc;

use coordinator_core::{Batch, Outcome};

openraft::declare_raft_types!(
    /// One entry carries a batch of commands; its answer is their outcomes. openraft copies entries
    /// for every follower and once more to apply them.
    pub TypeConfig:
        D = Arc<Batch>,
        R = Vec<Outcome>,
        NodeId = u64,
        Node = openraft::BasicNode,
        Entry = openraft::Entry<TypeConfig>,
        SnapshotData = std::io::Cursor<Vec<u8>>,
);

/// A log id.
pub type LogId = openraft::LogId<u64>;
/// A log entry.
pub type Entry = openraft::Entry<TypeConfig>;
/// A vote.
pub type Vote = openraft::Vote<u64>;
/// The last membership and where it stands in the log.
pub type StoredMembership = openraft::StoredMembership<u64, openraft::BasicNode>;
/// An error of storage.
pub type StorageError = openraft::StorageError<u64>;
