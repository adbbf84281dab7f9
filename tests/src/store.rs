//! The store of a coordinator that does not run.

use std::path::Path;

use common::id::MemberId;
use coordinator::raft::{SNAPSHOT_FORMAT, SnapshotFile, store::Store};
use coordinator_core::State;
use openraft::{EntryPayload, SnapshotMeta, StoredMembership};

/// Writes a snapshot of all that a member knows to be committed, after a change that the log knows nothing of.
pub fn write_snapshot(folder: &Path, me: MemberId, change: impl FnOnce(&mut State)) {
    // The process of a coordinator does that first too: its folder is closed to other users.
    link::private::for_owner_alone();
    let store = Store::open(folder, me).expect("it opens");
    let last = store.facts().committed.expect("an entry is committed").index;
    let (mut cluster, mut meta) = (State::default(), SnapshotMeta::default());
    for index in 0..=last {
        let (entry, _) = store.entry(index).expect("it can be read").expect("nothing was purged");
        meta.last_log_id = Some(entry.log_id);
        match entry.payload {
            EntryPayload::Blank => {}
            EntryPayload::Normal(batch) => drop(cluster.apply(&batch)),
            EntryPayload::Membership(found) => {
                meta.last_membership = StoredMembership::new(Some(entry.log_id), found);
            }
        }
    }
    change(&mut cluster);
    meta.snapshot_id = "by-hand".to_owned();
    let bytes = SNAPSHOT_FORMAT.seal(&SnapshotFile { meta, cluster }).expect("it is sealed");
    let snapshots = folder.join("snapshots");
    link::private::ensure_folder(&snapshots).expect("a folder");
    link::file::replace(&snapshots.join(format!("{last:020}.snapshot")), &bytes).expect("it is written");
}
