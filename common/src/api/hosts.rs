//! Hosts in the API.

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

/// A host.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct HostView {
    /// Its identity.
    pub id: HostId,
    /// Its name.
    pub name: Name,
    /// Whether it is believed alive.
    pub liveness: Liveness,
    /// When its agent was asked to stop; absent once it is back.
    pub left_at: Option<Timestamp>,
    /// Its number: the slot of global services on it.
    pub number: u32,
    /// Whether people want instances on it.
    pub availability: Availability,
    /// The labels that people gave it.
    pub labels: HostLabels,
    /// What it cannot do now; nothing, if it is well.
    pub conditions: Vec<HostCondition>,
    /// What its agent says of it; absent until it has reported.
    pub facts: Option<HostFacts>,
    /// The coordinator that runs on it, if one does.
    pub member: Option<MemberId>,
    /// How many instances it holds.
    pub instances: usize,
    /// What those have reserved.
    pub reserved: Resources,
    /// How much of it may be reserved.
    pub oversubscription: Oversubscription,
    /// When it joined.
    pub joined_at: Timestamp,
    /// The addresses of its containers.
    #[schema(value_type = String)]
    pub subnet: Subnet,
}

/// Whether people want instances on a host.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PutAvailability {
    /// What they want.
    pub availability: WantedAvailability,
    /// How long instances may wait for a successor before they are stopped, if it is to be emptied;
    /// an hour if absent, 7 days at most.
    #[serde(default)]
    pub within: Option<Span>,
    /// Whether only the plan is wanted.
    #[serde(default)]
    pub dry_run: bool,
}

/// What people can want of a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum WantedAvailability {
    /// It takes new instances.
    Active,
    /// It takes no new ones.
    Cordoned,
    /// It is emptied.
    Draining,
    /// Nothing runs there.
    Maintenance,
}

/// What emptying a host does to its instances.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct DrainPlan {
    /// The host.
    pub host: Name,
    /// One entry an instance.
    pub instances: Vec<DrainedInstance>,
}

/// What becomes of an instance when its host is emptied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DrainedInstance {
    /// The instance.
    pub id: InstanceId,
    /// What becomes of it.
    pub fate: Fate,
}

/// What becomes of an instance when its host is emptied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Fate {
    /// Another one takes its place, on the host that suits it best now.
    Moves {
        /// The other one's host.
        to: Name,
    },
    /// It ends: its service has one on each host, and goes on on the others.
    EndsHere,
    /// It has ended already, or does not serve, and nothing takes its place now.
    Ends,
    /// It stays until the deadline. Then it is stopped, and runs nowhere unless that has changed.
    Stays {
        /// Why it cannot leave, for people.
        why: Vec<String>,
    },
}

/// What is to be rebalanced.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Rebalance {
    /// Of this stack alone.
    #[serde(default)]
    pub stack: Option<Name>,
    /// Of this service of the stack alone.
    #[serde(default)]
    pub service: Option<Name>,
    /// Whether only the plan is wanted.
    #[serde(default)]
    pub dry_run: bool,
}

/// An instance that another one takes the place of elsewhere.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MovedInstance {
    /// The instance.
    pub id: InstanceId,
    /// Its host.
    pub from: Name,
    /// The host of its successor.
    pub to: Name,
}

/// New labels of a host; the whole set.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PutHostLabels {
    /// The labels.
    pub labels: HostLabels,
}
