//! Raft's messages over the link.

use std::{net::SocketAddr, sync::Arc};

use common::{id::MemberId, time::Timestamp, wire::Open};
use coordinator_core::{Outcome, Proposal, access::Refusal, state::StateHash};
use link::call::Caller;
use openraft::{
    BasicNode,
    error::{InstallSnapshotError, NetworkError, RPCError, RaftError, RemoteError, Unreachable},
    network::{Backoff, RPCOption, RaftNetwork, RaftNetworkFactory},
    raft::{
        AppendEntriesRequest, AppendEntriesResponse, InstallSnapshotRequest, InstallSnapshotResponse, VoteRequest,
        VoteResponse,
    },
};

use serde::{Deserialize, Serialize};

use super::{
    Callers, GroupMember, NotProposed,
    pulse::Position,
    types::{LogId, TypeConfig},
};

common::tagged! {
    /// What one coordinator asks of another.
    #[derive(Debug)]
    pub enum MemberCall {
        /// Raft: entries, or a heartbeat.
        1 => Append(request: AppendEntriesRequest<TypeConfig>),
        /// Raft: an election.
        2 => Vote(request: VoteRequest<u64>),
        /// Raft: a piece of a snapshot.
        3 => Snapshot(request: InstallSnapshotRequest<TypeConfig>),
        /// Would you vote for me? Asked before an election, so that a member that was cut off does
        /// not depose a leader whom the others hear.
        4 => PreVote {
            /// The end of the asker's log.
            last_log: Option<LogId>,
        },
        /// Have these applied; only the leader can.
        5 => Propose(proposals: Vec<Proposal>),
        /// Which index must I have applied to have seen all that is acknowledged by now?
        6 => ReadIndex,
        /// Who is in the group, as you know it? Also asked to learn whether a member is there at all.
        7 => Group,
        /// Which hash did your state have at an index of the log?
        8 => StateHash {
            /// The index.
            index: u64,
        },
        /// Take me out of the group: I have lost my log and my vote, and begin anew. Only the leader can.
        9 => LetGo,
        /// My log reaches so far. What time is it by your clock, and was I further before?
        10 => Pulse(position: Position),
        /// How much do you know? Only asked in clusters of feature level 3 and above.
        30 => Standing,
        /// The cluster began again without you, and its state has an index that you will never reach: stop.
        31 => Superseded {
            /// That index.
            index: u64,
        },
        /// Stand for election: I lead, and am about to stop. You have all of my log.
        20 => TakeOver,
    }
}

/// How much a member knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// The newest term that it knows.
    pub term: u64,
    /// The index of the last entry of its log.
    pub last: u64,
    /// The index up to which it has applied its log.
    pub applied: u64,
    /// Who leads, as far as it knows.
    pub leader: Option<MemberId>,
}

impl MemberCall {
    /// Whether the bytes of a call say that it brings entries of the log, whatever else is in it.
    pub fn brings_entries(call: &[u8]) -> bool {
        // The tag comes first; one below 251 is a single byte.
        call.first() == Some(&1)
    }
}

common::tagged! {
    /// The answer to a [`MemberCall`].
    #[derive(Debug)]
    pub enum MemberAnswer {
        /// To [`MemberCall::Append`].
        1 => Append(request: Result<AppendEntriesResponse<u64>, RaftError<u64>>),
        /// To [`MemberCall::Vote`].
        2 => Vote(request: Result<VoteResponse<u64>, RaftError<u64>>),
        /// To [`MemberCall::Snapshot`].
        3 => Snapshot(request: Result<InstallSnapshotResponse<u64>, RaftError<u64, InstallSnapshotError>>),
        /// To [`MemberCall::PreVote`].
        4 => PreVote(granted: bool),
        /// To [`MemberCall::Propose`].
        5 => Proposed(result: Result<Vec<Outcome>, NotProposed>),
        /// To [`MemberCall::ReadIndex`]: none if this member does not lead.
        6 => ReadIndex(index: Option<u64>),
        /// To [`MemberCall::Group`].
        7 => Group(members: Vec<GroupMember>),
        /// To [`MemberCall::StateHash`]: none if this member has not hashed its state there, or no longer knows it.
        9 => StateHash(hash: Option<StateHash>),
        /// To [`MemberCall::LetGo`]: done when who asked is not in the group, which a majority knows.
        10 => LetGo(done: Result<(), NotProposed>),
        /// To [`MemberCall::Pulse`].
        11 => Pulse {
            /// The time by the clock of the member that answers.
            wall: Timestamp,
            /// Whether it has seen a later state of the member that asked.
            set_back: bool,
        },
        /// To [`MemberCall::Standing`].
        30 => Standing(standing: Standing),
        /// To [`MemberCall::Superseded`]: whether the member stops.
        31 => Superseded(stops: bool),
        /// To [`MemberCall::TakeOver`]: whether it leads now.
        20 => TakenOver(leads: bool),
        /// To any call of who may not make it.
        8 => Refused(refusal: Refusal),
    }
}

/// Makes clients of the other members.
pub struct Network {
    callers: Arc<Callers>,
}

impl Network {
    pub(super) fn new(callers: Arc<Callers>) -> Network {
        Network { callers }
    }
}

/// A client of one member.
pub struct Client {
    target: u64,
    caller: Option<Caller>,
    callers: Arc<Callers>,
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Client;

    async fn new_client(&mut self, target: u64, node: &BasicNode) -> Client {
        let address: Option<SocketAddr> = node.addr.parse().ok();
        let caller = address.map(|address| self.callers.get(address));
        Client { target, caller, callers: self.callers.clone() }
    }
}

type CallError<E> = RPCError<u64, BasicNode, RaftError<u64, E>>;

impl Client {
    async fn call<E: std::error::Error>(
        &self,
        call: MemberCall,
        option: &RPCOption,
    ) -> Result<MemberAnswer, CallError<E>> {
        let unreachable = |error: link::LinkError| RPCError::Unreachable(Unreachable::new(&error));
        let Some(caller) = &self.caller else {
            return Err(RPCError::Network(NetworkError::new(&std::io::Error::other(
                "the member's address is malformed",
            ))));
        };
        let open = common::codec::encode(&call).map(Open::Member).map_err(|error| unreachable(error.into()))?;
        let answer = caller.ask(&open, option.hard_ttl()).await.map_err(unreachable)?;
        self.callers.heed(&answer);
        Ok(answer)
    }

    fn unexpected<E: std::error::Error>(&self) -> CallError<E> {
        let error = std::io::Error::other(format!("member {} sent an unexpected answer", self.target));
        RPCError::Network(NetworkError::new(&error))
    }

    fn remote<T, E: std::error::Error>(&self, answer: Result<T, RaftError<u64, E>>) -> Result<T, CallError<E>> {
        answer.map_err(|error| RPCError::RemoteError(RemoteError::new(self.target, error)))
    }
}

impl RaftNetwork<TypeConfig> for Client {
    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<u64>, CallError<openraft::error::Infallible>> {
        match self.call(MemberCall::Append(request), &option).await? {
            MemberAnswer::Append(answer) => self.remote(answer),
            _ => Err(self.unexpected()),
        }
    }

    async fn install_snapshot(
        &mut self,
        request: InstallSnapshotRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<InstallSnapshotResponse<u64>, CallError<InstallSnapshotError>> {
        match self.call(MemberCall::Snapshot(request), &option).await? {
            MemberAnswer::Snapshot(answer) => self.remote(answer),
            _ => Err(self.unexpected()),
        }
    }

    async fn vote(
        &mut self,
        request: VoteRequest<u64>,
        option: RPCOption,
    ) -> Result<VoteResponse<u64>, CallError<openraft::error::Infallible>> {
        match self.call(MemberCall::Vote(request), &option).await? {
            MemberAnswer::Vote(answer) => self.remote(answer),
            _ => Err(self.unexpected()),
        }
    }

    fn backoff(&self) -> Backoff {
        Backoff::new(std::iter::repeat(std::time::Duration::from_millis(100)))
    }
}
