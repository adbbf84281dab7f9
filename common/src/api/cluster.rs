//! The cluster itself in the API, and its key/value store.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    id::{ClusterId, HostId, MemberId, ServiceId},
    name::Name,
    network::NetworkPlan,
    time::{Span, Timestamp},
};

/// The cluster and what this coordinator knows of its group.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ClusterView {
    /// Its identity.
    pub id: ClusterId,
    /// The member that answers.
    pub member: MemberId,
    /// The member that leads, if one is known.
    pub leader: Option<MemberId>,
    /// Whether a majority of members answered the leader lately.
    pub quorum: bool,
    /// The index of the replicated state here.
    pub index: u64,
    /// How far the Raft log of the answering member reaches; a quiet cluster writes nothing.
    pub log_index: u64,
    /// The version of the binary that answers.
    pub version: String,
    /// The feature level: what all members understand.
    #[serde(default)]
    pub level: u16,
    /// The cluster's times.
    pub settings: Settings,
    /// How its containers are addressed and reached.
    pub network: NetworkPlan,
    /// The members.
    pub members: Vec<MemberView>,
}

/// A coordinator.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct MemberView {
    /// Its identity in the group.
    pub id: MemberId,
    /// Its host.
    pub host: HostId,
    /// Where it listens.
    #[schema(value_type = String)]
    pub address: SocketAddr,
    /// Its part in the group: `leader`, `voter`, `learner`, `joining`, `leaving`, or `unreachable`: it is to
    /// join, and does not answer.
    pub state: String,
    /// Whether it answers the coordinator that was asked; absent if it is not of the group.
    #[serde(default)]
    pub answers: Option<bool>,
    /// The newest feature level that its binary understands; 0 until it has said so.
    #[serde(default)]
    pub level: u16,
}

/// An environment.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct EnvironmentView {
    /// Its name.
    pub name: Name,
    /// When it was made.
    pub created_at: Timestamp,
    /// The stacks in it.
    pub stacks: Vec<Name>,
    /// Services of other environments that have joined it.
    pub joined_by: Vec<ServiceId>,
}

/// Times that the whole cluster shares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// The time between two heartbeats of a host.
    pub heartbeat: Span,
    /// Silence after which a host gets nothing new.
    pub suspect_after: Span,
    /// Silence after which a host counts as down.
    pub down_after: Span,
    /// Silence after which its instances run elsewhere.
    pub lost_after: Span,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            heartbeat: Span::seconds(5),
            suspect_after: Span::seconds(15),
            down_after: Span::seconds(30),
            lost_after: Span::seconds(60),
        }
    }
}

/// How long the instance of a strict singleton may run on after its host's last answered heartbeat, counted
/// from when that was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseTimes {
    /// After this it is asked to end.
    pub soft: Span,
    /// After this it is dead.
    pub hard: Span,
}

/// The longest time for which a coordinator goes on answering after a majority has ceased to hear it.
const STEP_DOWN: Span = Span::seconds(2);

impl Settings {
    /// The times of leases. Their end lies so far before `lost_after`, when another instance may run, that
    /// a leader that is deposed without knowing it and clocks that differ by a twentieth do no harm:
    /// `lost_after / (1 + d) ≥ STEP_DOWN + hard / (1 − d)`.
    pub fn lease(&self) -> LeaseTimes {
        let hard = Span(self.lost_after.0.saturating_sub(STEP_DOWN.0) * 85 / 100);
        LeaseTimes { soft: Span(hard.0 * 60 / 100), hard }
    }

    /// Whether hosts can hold a lease at all: three heartbeats may be lost before its soft end.
    pub fn allow_leases(&self) -> bool {
        self.lease().soft.0 > 3 * self.heartbeat.0
    }

    /// The rule that the times break, if they break one.
    pub fn violation(&self) -> Option<String> {
        let ordered = self.heartbeat < self.suspect_after
            && self.suspect_after <= self.down_after
            && self.down_after <= self.lost_after;
        let in_range = self.heartbeat >= Span(200) && self.lost_after <= Span::seconds(86_400 * 365);
        (!ordered || !in_range).then(|| {
            "the times must rise: 200ms ≤ heartbeat < suspect_after ≤ down_after ≤ lost_after ≤ 8760h".to_owned()
        })
    }
}

/// A key of an environment's key/value store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct KeyView {
    /// The key.
    pub key: String,
    /// The value, as text.
    pub value: String,
    /// The index at which it was last written.
    pub modify_index: u64,
}
