//! Agreement between the coordinators. All of openraft is behind this module: the rest of the
//! coordinator proposes commands, reads published states and asks who leads.

mod batch;
mod compare;
mod election;
mod handover;
mod late;
mod leave;
mod log;
mod lost;
mod membership;
mod network;
mod propose;
mod pulse;
mod read;
mod rebuild;
mod rejoin;
mod scrub;
mod snapshot;
mod space;
mod state_machine;
pub mod store;
pub mod types;
mod write;

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::Path,
    sync::{Arc, Weak},
    time::Duration,
};

use common::{
    codec::CodecError,
    error::{Code, Problem},
    id::MemberId,
    wire::{Open, PeerIdentity},
};
use coordinator_core::{
    access::{self, Action, Principal, Refusal},
    level,
};
use link::{LinkError, Supervisor, Transport, call::Caller};
use openraft::{BasicNode, Raft, ServerState, SnapshotPolicy};
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

pub use leave::leave;
pub use network::{MemberAnswer, MemberCall, Standing};
pub use propose::{NotProposed, no_leader, removed_from_the_group};
pub use pulse::WallClock;
pub use rebuild::{Found, make_store, read_store};
pub use rejoin::begin_anew;
pub use snapshot::{SNAPSHOT_FORMAT, SnapshotFile};
pub use state_machine::Published;
pub use store::{ENTRY_FORMAT, StoreError};
pub use types::Entry;

use batch::Towards;
use types::TypeConfig;

#[cfg(test)]
mod tests;

const GROUP_TIMEOUT: Duration = Duration::from_secs(2);
/// A leader that no majority has answered for this long does not lead.
const QUORUM_SILENCE: Duration = Duration::from_millis(1500);
const HEARTBEAT: Duration = Duration::from_millis(100);
const ELECTION_MIN: Duration = Duration::from_millis(400);
/// Also the time for which a follower refuses votes after it heard its leader.
const ELECTION_MAX: Duration = Duration::from_millis(600);

/// A member's part in the agreement. Clones share it.
#[derive(Clone)]
pub struct Consensus(Arc<Shared>);

/// What the clones of a [`Consensus`] share; every request clones one.
pub struct Shared {
    me: MemberId,
    raft: Raft<TypeConfig>,
    published: watch::Receiver<Arc<Published>>,
    leadership: watch::Receiver<Leadership>,
    confirmed: election::Confirmed,
    batches: batch::Batches,
    forwards: batch::Batches,
    reads: mpsc::Sender<read::Waiting>,
    contact: election::Contact,
    pulse: pulse::Pulse,
    space: space::Space,
    /// It is closed when Raft ends.
    store: Weak<store::Store>,
    handing_over: handover::HandingOver,
    callers: Arc<Callers>,
    hashes: compare::Hashes,
    /// Why this member must no longer take part, once there is a reason.
    unfit: watch::Sender<Option<Problem>>,
}

impl std::ops::Deref for Consensus {
    type Target = Shared;
    fn deref(&self) -> &Shared {
        &self.0
    }
}

/// Who leads, as far as this member knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Leadership {
    /// The leader, if one is known.
    pub leader: Option<MemberId>,
    /// Whether this member leads and a majority has confirmed it lately.
    pub leads: bool,
    /// The term.
    pub term: u64,
}

/// A member of the group as Raft knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupMember {
    /// Its identity.
    pub id: MemberId,
    /// Whether it votes.
    pub votes: bool,
    /// Where it is reached.
    pub address: String,
}

/// The group as the coordinator says that is asked; none if it says that who asks was removed.
pub async fn group_of(coordinator: &Caller) -> Result<Option<Vec<GroupMember>>, LinkError> {
    let open = Open::Member(common::codec::encode(&MemberCall::Group)?);
    match coordinator.ask(&open, GROUP_TIMEOUT).await? {
        MemberAnswer::Group(group) => Ok(Some(group)),
        MemberAnswer::Refused(Refusal::Removed) => Ok(None),
        _ => Err(LinkError::Ended),
    }
}

/// How much a member knows, as it says; none if it says that who asks was removed. A member of an earlier version does not
/// answer.
pub async fn standing_of(coordinator: &Caller) -> Result<Option<Standing>, LinkError> {
    let open = Open::Member(common::codec::encode(&MemberCall::Standing)?);
    match coordinator.ask(&open, GROUP_TIMEOUT).await? {
        MemberAnswer::Standing(standing) => Ok(Some(standing)),
        MemberAnswer::Refused(Refusal::Removed) => Ok(None),
        _ => Err(LinkError::Ended),
    }
}

/// Callers of the other members, by address.
pub struct Callers {
    transport: Arc<dyn Transport>,
    by_address: std::sync::Mutex<BTreeMap<SocketAddr, Caller>>,
    /// Whether another member has said that this one was removed.
    removed: watch::Sender<bool>,
}

impl Callers {
    fn new(transport: Arc<dyn Transport>) -> Callers {
        Callers { transport, by_address: Default::default(), removed: watch::Sender::new(false) }
    }

    /// Takes note of an answer that says that this member was removed: it is for good, whoever says it.
    fn heed(&self, answer: &MemberAnswer) {
        if matches!(answer, MemberAnswer::Refused(Refusal::Removed)) {
            self.removed.send_replace(true);
        }
    }

    /// The caller of the coordinator at an address.
    pub fn get(&self, address: SocketAddr) -> Caller {
        let mut callers = self.by_address.lock().expect("no panic while it is held");
        callers.entry(address).or_insert_with(|| Caller::new(self.transport.clone(), address)).clone()
    }
}

/// What a member starts from.
#[derive(Clone)]
pub struct Start<'a> {
    /// Its identity in the group.
    pub me: MemberId,
    /// The folder of its store.
    pub directory: &'a Path,
    /// How it reaches the others.
    pub transport: Arc<dyn Transport>,
    /// The other coordinators that it knows of.
    pub others: &'a [SocketAddr],
    /// This host's clock.
    pub wall: WallClock,
}

impl Consensus {
    /// Opens the store and takes part, by tasks that end with the others.
    pub async fn start(start: Start<'_>, tasks: &mut Supervisor) -> Result<Consensus, StoreError> {
        let store = store::Store::open(start.directory, start.me)?;
        let (failed, alone) = (store.failed(), store.alone());
        let unfit = watch::Sender::new(None);
        let snapshots = start.directory.join("snapshots");
        let (state_machine, published) = state_machine::StateMachine::open(&snapshots, unfit.clone())?;
        let callers = Arc::new(Callers::new(start.transport));
        pulse::must_not_be_set_back(&store, &callers, start.others).await?;
        let log = log::LogStore::open(store, state_machine.durable())?;
        let store = log.store();
        let scrubbing = scrub::run(log.store(), snapshots);
        let checkpoints = state_machine.checkpoints();
        let network = network::Network::new(callers.clone());
        let fatal = |error: openraft::error::Fatal<u64>| StoreError::Failed {
            path: start.directory.to_owned(),
            reason: error.to_string(),
        };
        let raft = Raft::new(start.me.0, Arc::new(config()), network, log, state_machine).await.map_err(fatal)?;
        let contact = election::Contact::default();
        let (leadership_sender, leadership) = watch::channel(Leadership::default());
        let (batches, waiting_batches) = mpsc::channel(4096);
        let (forwards, waiting_forwards) = mpsc::channel(4096);
        let (reads, waiting_reads) = mpsc::channel(4096);
        let me = start.me;
        let confirmed = election::Confirmed::default();
        let consensus = Consensus(Arc::new(Shared {
            me,
            raft,
            published,
            leadership,
            confirmed,
            batches,
            forwards,
            reads,
            contact,
            pulse: pulse::Pulse::new(start.wall),
            space: space::Space::of(start.directory),
            store,
            handing_over: handover::HandingOver::default(),
            callers,
            hashes: compare::Hashes::default(),
            unfit,
        }));
        tasks.spawn("leadership", election::watch_leadership(consensus.clone(), leadership_sender, alone));
        tasks.spawn("elections", election::run(consensus.clone()));
        tasks.spawn("proposals", batch::run(consensus.clone(), Towards::Log, waiting_batches));
        tasks.spawn("forwarded proposals", batch::run(consensus.clone(), Towards::Leader, waiting_forwards));
        tasks.spawn("reads", read::run(consensus.clone(), waiting_reads));
        tasks.spawn("membership", membership::run(consensus.clone()));
        tasks.spawn("state comparison", compare::run(consensus.clone(), checkpoints));
        tasks.spawn_once("pulse", pulse::run(consensus.clone()));
        tasks.spawn("lost coordinators", lost::run(consensus.clone()));
        tasks.spawn_once("own removal", membership::notice_removal(consensus.clone()));
        tasks.spawn_once("scrub", scrubbing);
        tasks.spawn("room on the disk", space::run(consensus.clone()));
        tasks.spawn_once("store", stop_when_failed(failed, tasks.stop()));
        Ok(consensus)
    }

    /// This member.
    pub fn me(&self) -> MemberId {
        self.me
    }

    /// Makes this member the first of a new group, unless the group exists.
    pub async fn found(&self, address: SocketAddr) -> Result<(), Problem> {
        let internal =
            |error: String| Problem::new(Code::Internal, "The group of coordinators cannot be created").why(error);
        if self.raft.is_initialized().await.map_err(|e| internal(e.to_string()))? {
            return Ok(());
        }
        let members = BTreeMap::from([(self.me.0, BasicNode::new(address))]);
        self.raft.initialize(members).await.map_err(|e| internal(e.to_string()))
    }

    /// The state as this member has it now: it may lag.
    pub fn current(&self) -> Arc<Published> {
        self.published.borrow().clone()
    }

    /// Every published state.
    pub fn watch(&self) -> watch::Receiver<Arc<Published>> {
        self.published.clone()
    }

    /// Who leads.
    pub fn leadership(&self) -> Leadership {
        *self.leadership.borrow()
    }

    /// Every change of who leads.
    pub fn watch_leadership(&self) -> watch::Receiver<Leadership> {
        self.leadership.clone()
    }

    /// The address of the leader, if one is known.
    pub fn leader_address(&self) -> Option<SocketAddr> {
        let leader = self.leadership().leader?;
        self.group().into_iter().find(|member| member.id == leader)?.address.parse().ok()
    }

    /// The group as Raft has it.
    pub fn group(&self) -> Vec<GroupMember> {
        let metrics = self.raft.metrics().borrow().clone();
        let membership = metrics.membership_config.membership();
        let voters: Vec<u64> = membership.voter_ids().collect();
        membership
            .nodes()
            .map(|(id, node)| GroupMember { id: MemberId(*id), votes: voters.contains(id), address: node.addr.clone() })
            .collect()
    }

    /// How far the log of this member reaches: it grows with every Raft write.
    pub fn last_log_index(&self) -> u64 {
        self.raft.metrics().borrow().last_log_index.unwrap_or(0)
    }

    /// How much this member knows.
    fn standing(&self) -> Standing {
        let metrics = self.raft.metrics().borrow().clone();
        let last = metrics.last_log_index.unwrap_or(0);
        Standing {
            term: metrics.current_term,
            last,
            applied: metrics.last_applied.map_or(0, |applied| applied.index),
            leader: self.leadership().leader,
        }
    }

    /// Callers of the other members.
    pub fn callers(&self) -> &Callers {
        &self.callers
    }

    /// The state after everything that was acknowledged before this call, on any member.
    pub async fn read(&self) -> Result<Arc<Published>, Problem> {
        read::read(&self.reads).await?;
        Ok(self.current())
    }

    /// Whether this member leads and a majority has said so in the last moments, by a look at the clock: a
    /// process that was stopped for a while does not know yet what it missed.
    pub fn leads_for_certain(&self) -> bool {
        self.leadership().leads && self.confirmed.is_fresh()
    }

    /// Whether this member follows a leader that it hears.
    pub fn hears_leader(&self) -> bool {
        self.leadership().leader.is_some_and(|leader| leader != self.me) && self.contact.is_fresh()
    }

    /// The state that says who may do what: this member's own while it leads for certain or hears its leader, so that
    /// what was revoked or removed is missed for no longer than the leader's lease; else that of a majority.
    pub async fn decisive(&self) -> Result<Arc<Published>, Problem> {
        if self.leads_for_certain() || self.hears_leader() { Ok(self.current()) } else { self.read().await }
    }

    /// Calls another member.
    pub async fn call(&self, to: SocketAddr, call: &MemberCall, timeout: Duration) -> Result<MemberAnswer, LinkError> {
        let open = Open::Member(common::codec::encode(call)?);
        let answer = self.callers.get(to).ask(&open, timeout).await?;
        self.callers.heed(&answer);
        Ok(answer)
    }

    /// Completes when this member learns that it was removed from the group.
    pub async fn was_removed(&self) {
        let mut removed = self.callers.removed.subscribe();
        if removed.wait_for(|removed| *removed).await.is_err() {
            std::future::pending().await
        }
    }

    /// Completes with the reason when this member must no longer take part.
    pub async fn is_unfit(&self) -> Problem {
        let mut unfit = self.unfit.subscribe();
        match unfit.wait_for(Option::is_some).await.map(|problem| problem.clone()) {
            Ok(Some(problem)) => problem,
            Ok(None) | Err(_) => std::future::pending().await,
        }
    }

    /// Ends this member's part for a reason; the first one counts.
    fn stop_as_unfit(&self, problem: Problem) {
        self.unfit.send_if_modified(|known| {
            let is_first = known.is_none();
            known.get_or_insert(problem);
            is_first
        });
    }

    /// Takes note of a call that cannot be read. Entries of the log that a newer version has written cannot be left out,
    /// so a member that gets some from another member stops; any other call of a newer version goes unanswered.
    pub fn cannot_read(&self, peer: PeerIdentity, call: &[u8], error: &CodecError) {
        let is_member = peer.member.is_some_and(|member| {
            access::authorize(&Principal::Peer(peer), &Action::Agree(member), &self.current().cluster).is_ok()
        });
        if is_member && matches!(error, CodecError::Newer(_)) && MemberCall::brings_entries(call) {
            self.stop_as_unfit(level::cannot_read(error));
        }
    }

    /// Whether a peer may make a call, by the state as it is applied here.
    fn may_call(&self, peer: PeerIdentity, call: &MemberCall) -> Result<(), Refusal> {
        let published = self.current();
        let ask = |action| access::authorize(&Principal::Peer(peer), &action, &published.cluster);
        // In the name of nobody else.
        let agree = |vote: &types::Vote| ask(Action::Agree(vote.leader_id().voted_for().map_or(MemberId(0), MemberId)));
        match call {
            MemberCall::Append(request) => agree(&request.vote),
            MemberCall::Vote(request) => agree(&request.vote),
            MemberCall::Snapshot(request) => agree(&request.vote),
            MemberCall::PreVote { .. }
            | MemberCall::Group
            | MemberCall::LetGo
            | MemberCall::Pulse(_)
            | MemberCall::TakeOver
            | MemberCall::Standing
            | MemberCall::Superseded { .. } => ask(Action::Agree(peer.member.ok_or(Refusal::NotAllowed)?)),
            MemberCall::Propose(proposals) => proposals.iter().try_for_each(|proposal| ask(Action::Forward(proposal))),
            MemberCall::ReadIndex | MemberCall::StateHash { .. } => ask(Action::Inside),
        }
    }

    /// Answers another member.
    pub async fn answer(&self, peer: PeerIdentity, call: MemberCall) -> MemberAnswer {
        if let Err(refusal) = self.may_call(peer, &call) {
            tracing::warn!(host = %peer.host, member = ?peer.member.map(|id| id.0), %refusal, "a call was refused");
            return MemberAnswer::Refused(refusal);
        }
        match call {
            MemberCall::Append(request) => {
                // The answer waits for this member's disk; the leader is there meanwhile.
                if request.vote.leader_id().get_term() >= self.raft.metrics().borrow().current_term {
                    self.contact.heard();
                }
                MemberAnswer::Append(self.raft.append_entries(request).await)
            }
            MemberCall::Vote(request) => {
                let answer = self.raft.vote(request).await;
                if answer.as_ref().is_ok_and(|answer| answer.vote_granted) {
                    self.contact.voted();
                }
                MemberAnswer::Vote(answer)
            }
            MemberCall::Snapshot(request) => {
                self.contact.heard();
                MemberAnswer::Snapshot(self.raft.install_snapshot(request).await)
            }
            MemberCall::PreVote { last_log } => MemberAnswer::PreVote(election::grants(self, last_log)),
            MemberCall::Propose(proposals) => MemberAnswer::Proposed(self.propose_at_once(proposals).await),
            MemberCall::ReadIndex => MemberAnswer::ReadIndex(read::index(self).await),
            MemberCall::Group => MemberAnswer::Group(self.group()),
            MemberCall::LetGo => MemberAnswer::LetGo(self.let_go(peer.member).await),
            MemberCall::Pulse(position) => self.pulse.answer(peer.member.unwrap_or(MemberId(0)), position),
            MemberCall::StateHash { index } => MemberAnswer::StateHash(self.hashes.at(index)),
            MemberCall::Standing => MemberAnswer::Standing(self.standing()),
            MemberCall::Superseded { index } => MemberAnswer::Superseded(self.is_superseded(peer, index)),
            MemberCall::TakeOver => MemberAnswer::TakenOver(self.take_over(peer.member).await),
        }
    }

    /// Ends this member's part; its store is closed when all clones are gone.
    pub async fn shutdown(&self) {
        if let Err(error) = self.raft.shutdown().await {
            tracing::warn!(%error, "the Raft core did not end cleanly");
        }
    }

    fn is_raft_leader(&self) -> bool {
        self.raft.metrics().borrow().state == ServerState::Leader
    }
}

fn config() -> openraft::Config {
    openraft::Config {
        cluster_name: "wharf".into(),
        heartbeat_interval: HEARTBEAT.as_millis() as u64,
        election_timeout_min: ELECTION_MIN.as_millis() as u64,
        election_timeout_max: ELECTION_MAX.as_millis() as u64,
        // Our own pre-vote decides when to stand for election.
        enable_elect: false,
        install_snapshot_timeout: 10_000,
        max_payload_entries: 1024,
        snapshot_policy: SnapshotPolicy::LogsSinceLast(10_000),
        max_in_snapshot_log_to_keep: 2_000,
        replication_lag_threshold: 20_000,
        purge_batch_size: 256,
        snapshot_max_chunk_size: 1 << 20,
        ..openraft::Config::default()
    }
}

/// A member whose store cannot be written must not go on: it would acknowledge what it cannot keep.
async fn stop_when_failed(mut failed: watch::Receiver<Option<String>>, stop: CancellationToken) {
    tokio::select! {
        biased;
        () = stop.cancelled() => {}
        failure = failed.wait_for(|failed| failed.is_some()) => {
            let reason = failure.ok().and_then(|failed| failed.clone()).unwrap_or_default();
            tracing::error!(reason, "the store cannot be written; this coordinator stops");
            stop.cancel();
        }
    }
}
