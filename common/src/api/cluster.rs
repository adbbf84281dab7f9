//! The API's view of the cluster, its environments and its key/value store.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    id::{ClusterId, HostId, MemberId, ServiceId},
    name::Name,
    network::NetworkPlan,
    time::{Span, Timestamp},
};

/// The cluster and its group of coordinators, as the answering coordinator sees them.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ClusterView {
    /// The cluster's id, also in its certificates.
    pub id: ClusterId,
    /// The member that answered the request.
    pub member: MemberId,
    /// The leader, if the answering member knows one.
    pub leader: Option<MemberId>,
    /// Whether a majority of members has recently answered the leader.
    pub quorum: bool,
    /// The index of the replicated state on the answering member.
    pub index: u64,
    /// The last index in the Raft log of the answering member. It stands still while nothing is written.
    pub log_index: u64,
    /// The wharf version of the answering member.
    pub version: String,
    /// The feature level, which all members understand.
    #[serde(default)]
    pub level: u16,
    /// The intervals and timeouts that all hosts share.
    pub settings: Settings,
    /// The address ranges and the backend of the overlay.
    pub network: NetworkPlan,
    /// The coordinators, including those that join or leave at present.
    pub members: Vec<MemberView>,
}

/// A coordinator as a member of the Raft group.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct MemberView {
    /// Its number in the group, which is never reused.
    pub id: MemberId,
    /// The host on which it runs.
    pub host: HostId,
    /// The address on which it listens.
    #[schema(value_type = String)]
    pub address: SocketAddr,
    /// Its role in the group: `leader`, `voter`, `learner`, `joining`, `leaving`, or `unreachable` if it should join
    /// but does not answer.
    pub state: String,
    /// Whether it answers the coordinator that handles the request; absent if it is not in the group.
    #[serde(default)]
    pub answers: Option<bool>,
    /// The newest feature level that its binary understands; 0 until it has reported one.
    #[serde(default)]
    pub level: u16,
}

/// An environment and its contents.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct EnvironmentView {
    /// The name, unique in the cluster.
    pub name: Name,
    /// The time of its creation.
    pub created_at: Timestamp,
    /// The stacks that are deployed in it.
    pub stacks: Vec<Name>,
    /// The services of other environments that have joined it.
    pub joined_by: Vec<ServiceId>,
}

/// Intervals and timeouts that the whole cluster shares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// The interval between two heartbeats of a host.
    pub heartbeat: Span,
    /// Time without a heartbeat after which a host gets no new instances.
    pub suspect_after: Span,
    /// Time without a heartbeat after which a host counts as down.
    pub down_after: Span,
    /// Time without a heartbeat after which other hosts replace its instances.
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

/// How long an instance of a strict singleton may run after its host's last answered heartbeat, counted from the
/// sending of that heartbeat.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseTimes {
    /// After this time the host asks the instance to end.
    pub soft: Span,
    /// After this time the instance must be dead.
    pub hard: Span,
}

/// The longest time for which a coordinator still answers after it has lost contact with a majority.
const STEP_DOWN: Span = Span::seconds(2);

impl Settings {
    /// Derives the times of leases. A lease ends early enough before `lost_after`, when a replacement may start, that a
    /// deposed leader that does not know it yet and clocks that differ by 5 % do no harm: `lost_after / (1 + d) ≥
    /// STEP_DOWN + hard / (1 − d)`.
    pub fn lease(&self) -> LeaseTimes {
        let hard = Span(self.lost_after.0.saturating_sub(STEP_DOWN.0) * 85 / 100);
        LeaseTimes { soft: Span(hard.0 * 60 / 100), hard }
    }

    /// Whether leases are possible with these times: a host may lose three heartbeats before the soft end.
    pub fn allow_leases(&self) -> bool {
        self.lease().soft.0 > 3 * self.heartbeat.0
    }

    /// The rule that these times break, if any.
    pub fn violation(&self) -> Option<String> {
        let ordered = self.heartbeat < self.suspect_after
            && self.suspect_after <= self.down_after
            && self.down_after <= self.lost_after;
        let in_range = self.heartbeat >= Span(200) && self.lost_after <= Span::seconds(86_400 * 365);
        (!ordered || !in_range).then(|| {
            "the times must increase: 200ms ≤ heartbeat < suspect_after ≤ down_after ≤ lost_after ≤ 8760h".to_owned()
        })
    }
}

/// An entry of an environment's key/value store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct KeyView {
    /// The key, unique in its environment.
    pub key: String,
    /// The value; it must be UTF-8.
    pub value: String,
    /// The state's index when it was last written.
    pub modify_index: u64,
}
