//! The API's view of hosts.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    host::{Availability, HostCondition, HostFacts, HostLabels, Liveness, Oversubscription},
    id::{HostId, InstanceId, MemberId},
    name::Name,
    network::Subnet,
    spec::Resources,
    time::{Span, Timestamp},
};

/// A host, with its state and its load.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct HostView {
    /// The host's id, derived from its public key.
    pub id: HostId,
    /// The name, unique in the cluster.
    pub name: Name,
    /// Whether the leader believes that the host is alive.
    pub liveness: Liveness,
    /// When the agent reported an orderly stop; absent once it is back.
    pub left_at: Option<Timestamp>,
    /// The host's number, used as the slot of global services.
    pub number: u32,
    /// The operator's setting.
    pub availability: Availability,
    /// The operator's labels.
    pub labels: HostLabels,
    /// The current conditions; empty if the host is healthy.
    pub conditions: Vec<HostCondition>,
    /// The agent's report about the host; absent until its first report.
    pub facts: Option<HostFacts>,
    /// What the host claims beyond what was accepted of it; it takes effect once a person accepts it.
    #[serde(default)]
    pub claims: Vec<String>,
    /// Why the coordinators refused the agent's last report, if they did.
    #[serde(default)]
    pub refused: Option<String>,
    /// The coordinator on the host, if there is one.
    pub member: Option<MemberId>,
    /// The number of instances placed on the host.
    pub instances: usize,
    /// The sum of their reservations.
    pub reserved: Resources,
    /// How much of the host's resources instances may reserve.
    pub oversubscription: Oversubscription,
    /// When the host was admitted.
    pub joined_at: Timestamp,
    /// The addresses of the host's containers.
    #[schema(value_type = String)]
    pub subnet: Subnet,
}

/// A request to change a host's availability.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PutAvailability {
    /// The new availability.
    pub availability: WantedAvailability,
    /// For draining: how long instances may wait for a replacement before they are stopped. An hour if absent, 7 days
    /// at most.
    #[serde(default)]
    pub within: Option<Span>,
    /// Only return the plan and change nothing.
    #[serde(default)]
    pub dry_run: bool,
}

/// The availability that an operator can set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum WantedAvailability {
    /// The host takes new instances.
    Active,
    /// The host takes no new instances; its running ones stay.
    Cordoned,
    /// The host's instances move to other hosts.
    Draining,
    /// Nothing runs on the host.
    Maintenance,
}

/// The effect of draining a host on its instances.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct DrainPlan {
    /// The name of the host.
    pub host: Name,
    /// One entry per instance on the host.
    pub instances: Vec<DrainedInstance>,
}

/// The effect of draining on one instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DrainedInstance {
    /// The instance's id.
    pub id: InstanceId,
    /// Its fate.
    pub fate: Fate,
}

/// The fate of an instance when its host is drained.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Fate {
    /// A replacement starts on another host, at present this one.
    Moves {
        /// The host of the replacement.
        to: Name,
    },
    /// It ends: its service has one instance on each host, and keeps those on other hosts.
    EndsHere,
    /// It has already ended or does not serve, and nothing replaces it now.
    Ends,
    /// It stays until the deadline and is then stopped. Unless the reasons disappear, nothing replaces it.
    Stays {
        /// The reasons, one sentence each.
        why: Vec<String>,
    },
}

/// A request to move instances to better hosts.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Rebalance {
    /// Only instances of this stack.
    #[serde(default)]
    pub stack: Option<Name>,
    /// Only instances of this service of the stack.
    #[serde(default)]
    pub service: Option<Name>,
    /// Only return the plan and change nothing.
    #[serde(default)]
    pub dry_run: bool,
}

/// An instance that rebalancing replaces on another host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MovedInstance {
    /// The instance that is replaced.
    pub id: InstanceId,
    /// The name of its current host.
    pub from: Name,
    /// The name of the replacement's host.
    pub to: Name,
}

/// A request to accept what a host claims.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AcceptHost {
    /// The claims as they were seen. If the host claims something else by now, nothing is accepted.
    pub claims: Vec<String>,
}

/// A request that replaces all labels of a host.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PutHostLabels {
    /// The complete set of new labels.
    pub labels: HostLabels,
}
