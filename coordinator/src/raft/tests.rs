use std::{collections::BTreeMap, net::SocketAddr, ops::Range, path::Path, pin::pin, sync::Arc, time::Duration};

use common::{
    codec::Format,
    file::{FileId, FileKind},
    id::{ClusterId, HostId, MemberId},
    name::default_environment,
    secret::Secret,
    time::Timestamp,
    token::{JoinRole, SecretHash, TokenId},
    wire::{MAX_FRAME, PeerIdentity},
};
use coordinator_core::{
    Batch, Command, Outcome,
    access::Refusal,
    command::{Admission, Authority, Genesis, NewJoinToken},
    state::Content,
};
use link::{Supervisor, clock::now, memory::Network};
use openraft::{
    CommittedLeaderId, EntryPayload, RaftLogReader, RaftSnapshotBuilder,
    raft::{AppendEntriesRequest, AppendEntriesResponse, VoteRequest},
    storage::{RaftLogStorage, RaftStateMachine},
    testing::{StoreBuilder, Suite},
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{
    Consensus, GroupMember, MemberAnswer, MemberCall, Start,
    log::LogStore,
    state_machine::StateMachine,
    store::{ENTRY_FORMAT, Store},
    types::{Entry, LogId, StorageError, TypeConfig, Vote},
};

mod pulse;
mod write;

struct Builder;

impl StoreBuilder<TypeConfig, LogStore, StateMachine, tempfile::TempDir> for Builder {
    async fn build(&self) -> Result<(tempfile::TempDir, LogStore, StateMachine), StorageError> {
        let directory = tempfile::tempdir().expect("a folder");
        let store = Store::open(directory.path(), MemberId(1)).expect("opens");
        let (machine, _published) =
            StateMachine::open(&directory.path().join("snapshots"), Default::default()).expect("opens");
        // The suite purges what no snapshot holds.
        let log = LogStore::open(store, watch::channel(Some(u64::MAX)).1).expect("it is empty");
        Ok((directory, log, machine))
    }
}

#[test]
fn openrafts_own_storage_suite_passes() {
    Suite::test_all(Builder).unwrap_or_else(|error| panic!("{error}"));
}

fn entry(index: u64, value_size: usize) -> Entry {
    let command = Command::PutKey {
        environment: default_environment(),
        key: index.to_string().into(),
        value: vec![7; value_size].into(),
    };
    Entry {
        log_id: LogId::new(CommittedLeaderId::new(1, 1), index),
        payload: EntryPayload::Normal(Arc::new(Batch { at: Timestamp(5), proposals: vec![command.into()] })),
    }
}

/// A log with entries, and the index of the newest durable snapshot, which can be changed.
async fn log_with(directory: &Path, entries: Range<u64>, size: usize) -> (LogStore, watch::Sender<Option<u64>>) {
    let store = Store::open(directory, MemberId(1)).expect("opens");
    for index in entries {
        let entry = entry(index, size);
        let (sender, receiver) = tokio::sync::oneshot::channel();
        let sealed = ENTRY_FORMAT.seal(&entry).expect("seals");
        store.append(vec![(entry.log_id, sealed)], move |written| drop(sender.send(written)));
        receiver.await.expect("it is called").expect("writes");
    }
    let snapshot = watch::Sender::new(None);
    (LogStore::open(store, snapshot.subscribe()).expect("nothing was purged"), snapshot)
}

#[tokio::test]
async fn what_a_follower_lacks_goes_to_it_in_messages_that_it_can_take() {
    let directory = tempfile::tempdir().expect("a folder");
    let (mut log, snapshot) = log_with(directory.path(), 0..41, 100_000).await;
    let (mut next, mut messages) = (1, 0);
    while next < 41 {
        let entries = log.limited_get_log_entries(next, 41).await.expect("reads");
        let bytes = common::codec::encode(&entries).expect("encodes").len();
        assert!(bytes < MAX_FRAME / 50, "{bytes} bytes from {next} on");
        assert_eq!(entries.first().expect("at least one").log_id.index, next);
        next += entries.len() as u64;
        messages += 1;
    }
    assert_eq!(messages, 20);
    // What is purged while a follower is served is no damage.
    snapshot.send_replace(Some(20));
    log.purge(entry(20, 0).log_id).await.expect("purges");
    let left = log.limited_get_log_entries(1, 60).await.expect("reads what there is");
    assert_eq!(left.first().map(|entry| entry.log_id.index), Some(21));
    let directory = tempfile::tempdir().expect("a folder");
    let (mut log, _) = log_with(directory.path(), 0..3, 1_000_000).await;
    assert_eq!(log.limited_get_log_entries(1, 3).await.expect("reads").len(), 1, "one is never left out");
}

#[tokio::test]
async fn a_leader_is_heard_before_the_disk_has_what_it_says() {
    let directory = tempfile::tempdir().expect("a folder");
    let me = PeerIdentity { host: HostId([1; 10]), member: Some(MemberId(1)) };
    let transport = Arc::new(Network::default().end(([10, 0, 0, 1], 1).into(), me));
    let start = Start { me: MemberId(1), directory: directory.path(), transport, others: &[], wall: now };
    let stop = CancellationToken::new();
    let mut tasks = Supervisor::new(stop.clone());
    let consensus = Consensus::start(start, &mut tasks).await.expect("starts");
    let append = |term| {
        let (vote, entries) = (Vote::new_committed(term, 2), vec![entry(0, 10)]);
        MemberCall::Append(AppendEntriesRequest { vote, prev_log_id: None, entries, leader_commit: None })
    };
    let leader = PeerIdentity { host: HostId([2; 10]), member: Some(MemberId(2)) };
    let asked = VoteRequest::new(Vote::new(5, 2), None);
    let other = PeerIdentity { host: HostId([3; 10]), member: Some(MemberId(3)) };
    let in_its_name = consensus.answer(other, MemberCall::Vote(asked.clone())).await;
    assert!(matches!(in_its_name, MemberAnswer::Refused(Refusal::NotAllowed)), "nobody stands in another's name");
    assert!(
        matches!(consensus.answer(leader, MemberCall::Vote(asked)).await, MemberAnswer::Vote(Ok(vote)) if vote.vote_granted)
    );
    assert!(consensus.contact.has_just_voted(), "it does not stand against the one that it voted for");
    let soon = Some(Duration::from_secs(10));
    consensus.raft.wait(soon).metrics(|metrics| metrics.current_term == 5, "the new term").await.expect("comes");

    let MemberAnswer::Append(Ok(refused)) = consensus.answer(leader, append(4)).await else { panic!("no answer") };
    assert!(matches!(refused, AppendEntriesResponse::HigherVote(_)));
    assert_eq!(consensus.contact.silence(), None, "one that was deposed is not heard");
    let mut answering = pin!(consensus.answer(leader, append(5)));
    assert!(futures::poll!(&mut answering).is_pending(), "it is not durable yet");
    assert!(consensus.contact.is_fresh());
    assert!(matches!(answering.await, MemberAnswer::Append(Ok(AppendEntriesResponse::Success))));
    stop.cancel();
    consensus.shutdown().await;
}

#[tokio::test]
async fn entries_are_purged_once_a_durable_snapshot_holds_them() {
    let directory = tempfile::tempdir().expect("a folder");
    let (mut log, snapshot) = log_with(directory.path(), 0..10, 100).await;
    snapshot.send_replace(Some(4));
    {
        let mut purging = pin!(log.purge(entry(5, 0).log_id));
        let early = tokio::time::timeout(Duration::from_millis(200), &mut purging).await;
        assert!(early.is_err(), "the snapshot ends before it");
        snapshot.send_replace(Some(5));
        purging.await.expect("it goes on");
    }
    drop(log);
    // A process that dies while a snapshot comes starts with all that it had, or refuses what is not whole.
    let open =
        |newest| LogStore::open(Store::open(directory.path(), MemberId(1)).expect("opens"), watch::channel(newest).1);
    let Err(error) = open(Some(4)) else { panic!("entry 5 is nowhere") };
    assert!(error.to_string().contains("up to 5 were purged, and the newest snapshot ends at 4"), "{error}");
    assert!(open(None).is_err_and(|error| error.to_string().contains("there is no snapshot")));
    let state = open(Some(7)).expect("it is whole").get_log_state().await.expect("reads");
    assert_eq!((state.last_purged_log_id, state.last_log_id), (Some(entry(5, 0).log_id), Some(entry(9, 0).log_id)));
}

#[test]
fn a_damaged_snapshot_is_refused_by_name() {
    let directory = tempfile::tempdir().expect("a folder");
    let format = Format { magic: b"WSNP", version: 1, limit: 1 << 30 };
    let mut bytes = format.seal(&BTreeMap::<u8, u8>::new()).expect("seals");
    bytes[8] ^= 1;
    super::snapshot::save(directory.path(), 3, &bytes).expect("saves");
    let Err(error) = StateMachine::open(directory.path(), Default::default()) else { panic!("is refused") };
    assert!(error.to_string().contains("00000000000000000003.snapshot"), "{error}");
}

#[tokio::test]
async fn an_older_snapshot_does_not_remove_a_newer_one() {
    let directory = tempfile::tempdir().expect("a folder");
    let (mut machine, _) = StateMachine::open(directory.path(), Default::default()).expect("opens");
    machine.apply([entry(0, 1), entry(1, 1)]).await.expect("applies");
    machine.build_snapshot().await.expect("is built");
    let older = super::snapshot::save(directory.path(), 0, b"older").expect("saves");
    super::snapshot::remove_older(&older).expect("removes");
    let newest = machine.get_current_snapshot().await.expect("reads").expect("is there");
    assert_eq!(newest.meta.last_log_id, Some(entry(1, 0).log_id));
}

fn genesis(member: MemberId, host: HostId, address: SocketAddr) -> Genesis {
    let nothing = || Secret::new(Vec::new());
    Genesis {
        cluster: ClusterId([1; 10]),
        authority: Authority { certificate: vec![], key: nothing(), join_certificate: vec![], join_key: nothing() },
        settings: Default::default(),
        network: Default::default(),
        member,
        address,
        host,
        name: "h1".parse().expect("a name"),
        level: coordinator_core::level::LEVEL,
    }
}

/// A group of one whose state is made, and which admits other coordinators.
async fn group_of_one(directory: &std::path::Path) -> (Consensus, CancellationToken, Supervisor) {
    let (member, host) = (MemberId(1), HostId([1; 10]));
    let address: SocketAddr = ([10, 0, 0, 1], 1).into();
    let transport = Arc::new(Network::default().end(address, PeerIdentity { host, member: Some(member) }));
    let stop = CancellationToken::new();
    let mut tasks = Supervisor::new(stop.clone());
    let start = Start { me: member, directory, transport, others: &[], wall: now };
    let consensus = Consensus::start(start, &mut tasks).await.expect("starts");
    consensus.found(address).await.expect("is founded");
    wait_for(&consensus, "it leads", |consensus| consensus.leadership().leads).await;
    let token = NewJoinToken {
        id: TokenId([1; 5]),
        secret: SecretHash([0; 32]),
        role: JoinRole::Coordinator,
        expires_at: Timestamp(u64::MAX),
        max_uses: 9,
        labels: Default::default(),
        from: None,
    };
    let made = vec![
        Command::Initialize(Box::new(genesis(member, host, address))).into(),
        Command::PutJoinToken(Box::new(token)).into(),
    ];
    consensus.propose(made).await.expect("it is made");
    (consensus, stop, tasks)
}

async fn wait_for(consensus: &Consensus, what: &str, condition: impl Fn(&Consensus) -> bool) {
    let waiting = async {
        while !condition(consensus) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), waiting).await.unwrap_or_else(|_| panic!("{what}: not in time"));
}

/// Where nobody is.
const NOWHERE: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 2)), 1);

/// The admission of a coordinator that is never started.
fn admission() -> Command {
    let from = NOWHERE.ip();
    let (host, name) = (HostId([2; 10]), "h2".parse().expect("a name"));
    Command::Admit(Box::new(Admission { token: TokenId([1; 5]), host, name, from, address: NOWHERE }))
}

#[tokio::test]
async fn a_coordinator_that_never_starts_takes_no_vote() {
    let directory = tempfile::tempdir().expect("a folder");
    let (consensus, stop, _tasks) = group_of_one(directory.path()).await;
    // It was reached once, and died before it had anything.
    consensus.raft.add_learner(2, openraft::BasicNode::new(NOWHERE), false).await.expect("is added");
    consensus.propose(vec![admission().into()]).await.expect("it is admitted");
    let second = |consensus: &Consensus| consensus.current().cluster.members().get(&MemberId(2)).cloned();
    let is_said = |consensus: &Consensus| second(consensus).is_some_and(|member| member.unreached_since.is_some());
    wait_for(&consensus, "it is said that it cannot be reached", is_said).await;
    let group = consensus.group();
    assert!(matches!(&group[..], [GroupMember { id: MemberId(1), votes: true, .. }]), "{group:?}");
    let before = consensus.last_log_index();
    consensus.propose(vec![Command::RemoveMember(MemberId(2)).into()]).await.expect("one still decides alone");
    wait_for(&consensus, "it is forgotten", |consensus| second(consensus).is_none()).await;
    assert!(consensus.last_log_index() <= before + 3, "{} after {before}", consensus.last_log_index());
    let events: Vec<String> = consensus.current().cluster.events().values().map(|event| event.reason.clone()).collect();
    assert_eq!(events.iter().filter(|reason| *reason == "member-unreached").count(), 1, "{events:?}");
    stop.cancel();
    consensus.shutdown().await;
}

#[tokio::test]
async fn a_learner_that_leaves_is_removed_once() {
    let directory = tempfile::tempdir().expect("a folder");
    let (consensus, stop, _tasks) = group_of_one(directory.path()).await;
    consensus.raft.add_learner(2, openraft::BasicNode::new(NOWHERE), false).await.expect("is added");
    let before = consensus.last_log_index();
    let both = vec![admission().into(), Command::RemoveMember(MemberId(2)).into()];
    consensus.propose(both).await.expect("it comes and goes");
    let is_gone = |consensus: &Consensus| {
        consensus.group().len() == 1 && !consensus.current().cluster.members().contains_key(&MemberId(2))
    };
    wait_for(&consensus, "it is gone", is_gone).await;
    assert!(consensus.last_log_index() <= before + 4, "{} after {before}", consensus.last_log_index());
    stop.cancel();
    consensus.shutdown().await;
}

/// All that may be stored is in a snapshot that can be read: as many keys and configs as there may be.
#[tokio::test]
async fn a_state_that_is_full_is_read_back_from_its_snapshot() {
    let directory = tempfile::tempdir().expect("a folder");
    let (mut machine, published) = StateMachine::open(directory.path(), Default::default()).expect("opens");
    let mut index = 0;
    let mut apply = async |machine: &mut StateMachine, command: Command| {
        index += 1;
        let log_id = LogId::new(CommittedLeaderId::new(1, 1), index);
        let batch = Batch { at: Timestamp(1000), proposals: vec![command.into()] };
        let entry = Entry { log_id, payload: EntryPayload::Normal(batch.into()) };
        machine.apply([entry]).await.expect("applies")[0][0].clone()
    };
    apply(
        &mut machine,
        Command::Initialize(Box::new(genesis(MemberId(1), HostId([1; 10]), ([10, 0, 0, 1], 1).into()))),
    )
    .await;
    let (environment, full) = (default_environment(), |outcome| matches!(outcome, Outcome::Rejected(_)));
    let value: Arc<[u8]> = vec![7; 64 << 10].into();
    let content = Content::Plain(vec![7; 256 << 10].into());
    let (mut keys, mut configs) = (0, 0);
    loop {
        let key = format!("key-{keys}").into();
        let put = Command::PutKey { environment: environment.clone(), key, value: value.clone() };
        if full(apply(&mut machine, put).await) {
            break;
        }
        keys += 1;
    }
    loop {
        let name = format!("config-{configs}").parse().expect("a name");
        let id = FileId { environment: environment.clone(), stack: None, kind: FileKind::Config, name };
        if full(apply(&mut machine, Command::PutFile { id, content: content.clone() }).await) {
            break;
        }
        configs += 1;
    }
    assert_eq!((keys, configs), (1023, 256));
    machine.build_snapshot().await.expect("is built");
    let state = published.borrow().cluster.clone();
    let (_, read) = StateMachine::open(directory.path(), Default::default()).expect("opens");
    assert!(read.borrow().cluster == state, "it is what it was");
}
