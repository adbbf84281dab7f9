//! The store of a member, read while it does not run, and made for a group that begins again with one member.

use std::{collections::BTreeSet, path::Path};

use common::{codec::CodecError, id::MemberId};
use coordinator_core::{State, level};
use openraft::{BasicNode, CommittedLeaderId, EntryPayload, Membership, SnapshotMeta};

use super::{
    GroupMember,
    snapshot::{self, SNAPSHOT_FORMAT, SnapshotFile},
    store::{Record, Store, StoreError, Stored},
    types::{LogId, StoredMembership, Vote},
};

/// The term and the index that a new group begins with.
const FIRST_TERM: u64 = 1;
const FIRST_INDEX: u64 = 1;

/// What the store of a member holds, which nobody else opens meanwhile.
pub struct Found {
    /// Whose it is.
    pub owner: MemberId,
    /// The newest term that it has voted in.
    pub term: u64,
    /// The term and the index of the last entry of its log.
    pub last: Option<(u64, u64)>,
    /// The index up to which it knows entries to be committed.
    pub committed: Option<u64>,
    /// The group, by the last entry that changes it.
    pub group: Vec<GroupMember>,
    /// The state after all entries of its log, those included of which it does not know whether they are committed.
    pub state: State,
    _stored: Stored,
}

impl Found {
    /// Whether all members are new enough to say how much they know.
    pub fn members_say_what_they_know(&self) -> bool {
        self.state.level() >= level::BACKUPS
    }
}

/// Reads the store in a state folder. Nothing of it is changed.
pub fn read_store(directory: &Path) -> Result<Option<Found>, StoreError> {
    let Some(stored) = Stored::open(directory)? else { return Ok(None) };
    let snapshot = snapshot::load_newest(&directory.join("snapshots"))?.map(|(_, file)| file);
    let (mut state, mut membership, applied) = match snapshot {
        Some(SnapshotFile { meta, cluster }) => (cluster, meta.last_membership, meta.last_log_id),
        None => (State::default(), StoredMembership::default(), None),
    };
    let facts = stored.facts().clone();
    let held = applied.map_or(0, |applied| applied.index);
    if facts.purged.is_some_and(|purged| purged.index > held) {
        let reason = format!("its log begins behind {held}, where its newest snapshot ends");
        return Err(StoreError::Corrupt { path: directory.to_owned(), reason });
    }
    let mut last = applied;
    let first = applied.map_or(0, |applied| applied.index + 1);
    let end = facts.last.map_or(0, |last| last.index + 1);
    for index in first..end {
        let Some(entry) = stored.entry(index)? else {
            let reason = format!("entry {index} is missing");
            return Err(StoreError::Corrupt { path: directory.to_owned(), reason });
        };
        last = Some(entry.log_id);
        match entry.payload {
            EntryPayload::Blank => {}
            EntryPayload::Normal(batch) => drop(state.apply(&batch)),
            EntryPayload::Membership(changed) => membership = StoredMembership::new(Some(entry.log_id), changed),
        }
    }
    Ok(Some(Found {
        owner: facts.owner,
        term: facts.vote.map_or(0, |vote| vote.leader_id().get_term()),
        last: last.map(|last| (last.leader_id.term, last.index)),
        committed: facts.committed.max(applied).map(|committed| committed.index),
        group: group_of(&membership),
        state,
        _stored: stored,
    }))
}

fn group_of(membership: &StoredMembership) -> Vec<GroupMember> {
    let voters: Vec<u64> = membership.membership().voter_ids().collect();
    let member = |(id, node): (&u64, &BasicNode)| GroupMember {
        id: MemberId(*id),
        votes: voters.contains(id),
        address: node.addr.clone(),
    };
    membership.membership().nodes().map(member).collect()
}

/// Makes the store of a group's only member, in a folder that has none.
pub async fn make_store(
    directory: &Path,
    me: (MemberId, std::net::SocketAddr),
    state: State,
) -> Result<(), StoreError> {
    let (id, address) = me;
    let failed = |error: std::io::Error| StoreError::Failed { path: directory.to_owned(), reason: error.to_string() };
    let encoding = |error: CodecError| failed(std::io::Error::other(error));
    let first = LogId::new(CommittedLeaderId::new(FIRST_TERM, id.0), FIRST_INDEX);
    let nodes = std::collections::BTreeMap::from([(id.0, BasicNode::new(address))]);
    let membership = Membership::new(vec![BTreeSet::from([id.0])], nodes);
    let meta = SnapshotMeta {
        last_log_id: Some(first),
        last_membership: StoredMembership::new(Some(first), membership),
        snapshot_id: format!("{FIRST_TERM}-{FIRST_INDEX}"),
    };
    let file = SnapshotFile { meta, cluster: state };
    let snapshots = directory.join("snapshots");
    link::private::ensure_folder(&snapshots).map_err(failed)?;
    let bytes = SNAPSHOT_FORMAT.seal(&file).map_err(encoding)?;
    let path = snapshot::save(&snapshots, FIRST_INDEX, &bytes).map_err(failed)?;
    snapshot::check(&path, &file).map_err(failed)?;
    let store = Store::open(directory, id)?;
    store.write(Record::Vote(Vote::new(FIRST_TERM, id.0))).await.map_err(failed)?;
    store.write(Record::Purge(first)).await.map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backup::tests::state;

    #[tokio::test]
    async fn a_store_that_was_made_is_read_back() {
        let folder = tempfile::tempdir().expect("a folder");
        assert!(read_store(folder.path()).expect("it is read").is_none(), "there is none");
        let address = ([10, 0, 0, 1], 7443).into();
        make_store(folder.path(), (MemberId(7), address), state(3)).await.expect("it is made");
        let found = read_store(folder.path()).expect("it is read").expect("it is there");
        assert_eq!((found.owner, found.last, found.state), (MemberId(7), Some((1, 1)), state(3)));
        let expected = GroupMember { id: MemberId(7), votes: true, address: "10.0.0.1:7443".to_owned() };
        assert_eq!(found.group, [expected]);
        let why = Store::open(folder.path(), MemberId(7)).err().expect("it is held").to_string();
        assert!(why.contains("another process uses it"), "{why}");
    }
}
