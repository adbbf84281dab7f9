//! The API's view of stacks, their services, instances and revisions.

use std::net::{IpAddr, Ipv4Addr};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{ServiceChange, Unplaceable};
use crate::{
    device::BoundDevice,
    file::{FileKind, Upload},
    id::{HostId, InstanceId, ServiceId, StackId},
    instance::{BoundPort, Desired, Observed, Verdict},
    name::Name,
    output::LastLines,
    rollout::RolloutState,
    spec::{ServiceSpec, StackSpec},
    time::Timestamp,
};

/// A stack and the state of its services.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct StackView {
    /// The stack's id.
    pub id: StackId,
    /// The revision of the current spec; each change increases it.
    pub revision: u64,
    /// When the current spec was deployed.
    pub changed_at: Timestamp,
    /// Whether the stack is being removed.
    pub removing: bool,
    /// The services in the current spec, ordered by name.
    pub services: Vec<ServiceView>,
}

/// A service: its spec and its state.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ServiceView {
    /// The service's id.
    pub id: ServiceId,
    /// The spec, as deployed.
    pub spec: ServiceSpec,
    /// The service's virtual address on the overlay; none without an overlay.
    #[schema(value_type = Option<String>)]
    pub address: Option<Ipv4Addr>,
    /// The stack's revision that last changed what the instances run.
    pub revision: u64,
    /// The number of instances that should exist now.
    pub wanted: u32,
    /// The progress of the rollout to `revision`.
    pub rollout: RolloutView,
    /// The number of instances that serve: they run `revision`, and no health check fails.
    pub serving: u32,
    /// The number of instances that have ended well and are not restarted.
    pub completed: u32,
    /// Why slots have failed for good, one line each. Only a new revision or `retry` starts them again.
    pub failed: Vec<String>,
    /// When a scheduled job runs next.
    pub next_run: Option<Timestamp>,
    /// Why instances are missing, one line per reason.
    pub blocked: Vec<String>,
    /// The failure of the newest instance that does not serve, if its host has reported one.
    pub failure: Option<FailureView>,
}

/// Why an instance does not serve.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FailureView {
    /// The instance that failed.
    pub instance: InstanceId,
    /// The name of its host; none if the host was removed.
    pub host: Option<Name>,
    /// The reason that the host reported.
    pub why: String,
    /// The last output of the program, or of the health check that failed it.
    pub output: LastLines,
}

/// The state of the deployment of a revision: the rollouts of all services that the revision changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum DeploymentStatus {
    /// The rollout is under way.
    Progressing,
    /// Everything is done up to the promotion of a canary.
    WaitingForPromotion {
        /// A service whose canary is complete.
        service: Name,
    },
    /// Some instances cannot be placed at present. The deployment continues as soon as that changes.
    Blocked {
        /// Why, per service.
        reasons: Vec<Unplaceable>,
    },
    /// The rollout of a service failed.
    Failed {
        /// The service that failed.
        service: Name,
        /// One sentence for people.
        why: String,
        /// The last output of the failed program.
        output: LastLines,
        /// The state of the service after the failure.
        then: AfterFailure,
    },
    /// All instances serve, or have ended well.
    Done,
    /// A later revision of the stack changes the same services.
    Superseded {
        /// The stack's current revision.
        by: u64,
    },
}

/// The state of a service after its rollout failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum AfterFailure {
    /// It was rolled back to the revision that served before.
    WentBack {
        /// The revision that it went back to.
        to: u64,
    },
    /// The rollout is paused: no more instances are replaced.
    Paused,
    /// It failed for good; only a person can have it retried.
    Stays,
}

/// The rollout of a service to a revision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RolloutView {
    /// Whether the rollout runs, is paused, or has ended.
    pub state: RolloutState,
    /// When it entered this state.
    pub since: Timestamp,
    /// The last revision that was fully up before, if there is one.
    pub from_revision: Option<u64>,
    /// The failed revision, if this rollout goes back from it.
    pub back_from: Option<u64>,
    /// Why it was paused or rolled back; otherwise empty.
    pub why: String,
    /// The last output of the first instance that failed.
    pub output: LastLines,
    /// The canary, until the other instances follow.
    pub canary: Option<CanaryView>,
}

/// The first instances of a revision, before the others follow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CanaryView {
    /// How many instances the canary should have.
    pub wanted: u32,
    /// How many of them have served long enough to count.
    pub settled: u32,
    /// When the promotion happens by itself; absent if only a person can promote.
    pub promote_at: Option<Timestamp>,
}

/// A request to pause, resume or promote a rollout.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PutRollout {
    /// `paused` stops replacements; `rolling` continues them, also after failures.
    pub state: RolloutState,
    /// The revision that the request is about; refused if another one is current.
    pub revision: u64,
    /// Whether to promote the canary.
    #[serde(default)]
    pub promote: bool,
}

/// A recorded revision of a stack.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct RevisionView {
    /// The number, which increases with each change.
    pub revision: u64,
    /// When it was deployed.
    pub at: Timestamp,
    /// The name of the API token that deployed it; none if the cluster rolled back by itself.
    pub by: Option<Name>,
    /// A short description: how it was deployed, or why the cluster went back.
    pub what: String,
    /// The services that differ from the previous revision.
    pub changes: Vec<ServiceChange>,
    /// The complete spec of the stack.
    pub spec: StackSpec,
    /// Whether the whole stack has served, or ended well, at this revision.
    pub served: bool,
}

/// An instance: what it should do and what it does.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct InstanceView {
    /// The instance's id.
    pub id: InstanceId,
    /// The revision of the spec that it was made from.
    pub revision: u64,
    /// The image that it runs, by digest if one is pinned.
    pub image: String,
    /// The id of its host.
    pub host: HostId,
    /// The name of its host; none if the host was removed.
    pub host_name: Option<Name>,
    /// The address of its host.
    #[schema(value_type = Option<String>)]
    pub address: Option<IpAddr>,
    /// Its state in one word for people, derived from the other fields.
    pub state: String,
    /// The state that the leader wants.
    pub desired: Desired,
    /// The state that the host reports.
    pub observed: Observed,
    /// Whether the leader can still hear from it.
    pub verdict: Verdict,
    /// The host ports booked for it.
    pub ports: Vec<BoundPort>,
    /// The devices of the host reserved for it.
    pub devices: Vec<BoundDevice>,
    /// When the leader placed it.
    pub created_at: Timestamp,
}

/// A request to create or change a stack.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PutStack {
    /// The complete new spec.
    pub spec: StackSpec,
    /// The contents of the stack's own configs and secrets. Files that are not listed keep their content.
    #[serde(default)]
    pub files: Vec<PutFile>,
    /// The revision that the new spec is based on; 0 means that the stack must not exist. The coordinator refuses the
    /// request if the stack has another revision by now.
    #[serde(default)]
    pub expect_revision: Option<u64>,
    /// Only return the plan and change nothing.
    #[serde(default)]
    pub dry_run: bool,
    /// A short description for the history; "deployed" if absent.
    #[serde(default)]
    pub what: Option<String>,
    /// Whether this restores an earlier revision. Jobs that ended well for that revision do not run again.
    #[serde(default)]
    pub goes_back: bool,
}

/// The content of one of the stack's own configs or secrets.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PutFile {
    /// Whether it is a config or a secret.
    pub kind: FileKind,
    /// The name in the stack.
    pub name: Name,
    /// The content, as base64.
    #[schema(value_type = String)]
    pub content: Upload,
}

/// A request to change the number of replicas.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ScaleService {
    /// The new number of replicas.
    pub replicas: u32,
}
