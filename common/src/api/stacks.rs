//! Stacks, their services, instances and revisions in the API.

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

/// A stack.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct StackView {
    /// Its identity.
    pub id: StackId,
    /// The revision of its spec; grows with each change.
    pub revision: u64,
    /// When that was put.
    pub changed_at: Timestamp,
    /// Whether it is being removed.
    pub removing: bool,
    /// Its services.
    pub services: Vec<ServiceView>,
}

/// A service and how it is.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ServiceView {
    /// Its identity.
    pub id: ServiceId,
    /// What was asked for.
    pub spec: ServiceSpec,
    /// Its own address on the overlay, which leads to what serves; none where there is no overlay.
    #[schema(value_type = Option<String>)]
    pub address: Option<Ipv4Addr>,
    /// The stack's revision that last changed what its instances run.
    pub revision: u64,
    /// How many instances it wants now.
    pub wanted: u32,
    /// How far the change to its revision has come.
    pub rollout: RolloutView,
    /// How many instances serve: they run, in this revision, and nothing says that they are unwell.
    pub serving: u32,
    /// How many have ended as they should and are not started again.
    pub completed: u32,
    /// Why slots have failed for good, one line each: they are tried again by a mended revision or by `retry` alone.
    pub failed: Vec<String>,
    /// When a job with a schedule is run next.
    pub next_run: Option<Timestamp>,
    /// Why instances are missing, one line a reason.
    pub blocked: Vec<String>,
    /// What is wrong with the newest of its instances that does not serve, if its host has said so.
    pub failure: Option<FailureView>,
}

/// Why an instance does not serve.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FailureView {
    /// The instance.
    pub instance: InstanceId,
    /// Its host's name, unless the host is gone.
    pub host: Option<Name>,
    /// Why, as its host says.
    pub why: String,
    /// What its program, or its health check, printed last.
    pub output: LastLines,
}

/// How the deployment of a revision stands: the change of all services that the revision changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum DeploymentStatus {
    /// It goes on.
    Progressing,
    /// All that is to change before somebody promotes it has.
    WaitingForPromotion {
        /// A service whose canary is all there.
        service: Name,
    },
    /// Not all of it can be placed now; it goes on by itself as soon as that changes.
    Blocked {
        /// What is in its way.
        reasons: Vec<Unplaceable>,
    },
    /// It has failed.
    Failed {
        /// The service that failed.
        service: Name,
        /// Why.
        why: String,
        /// What its program printed last.
        output: LastLines,
        /// What became of the service.
        then: AfterFailure,
    },
    /// All of it serves, or has ended well.
    Done,
    /// A later revision of the stack changes the same.
    Superseded {
        /// The stack's revision now.
        by: u64,
    },
}

/// What becomes of a service whose change failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum AfterFailure {
    /// It went back to what served.
    WentBack {
        /// Its revision then.
        to: u64,
    },
    /// Nothing more of it is replaced.
    Paused,
    /// What it was to do has failed for good, and is done again only if a person says so.
    Stays,
}

/// The change of a service to a revision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RolloutView {
    /// Whether it goes on.
    pub state: RolloutState,
    /// Since when.
    pub since: Timestamp,
    /// The revision that served whole before, if one did.
    pub from_revision: Option<u64>,
    /// The revision that failed, if this is the way back from it.
    pub back_from: Option<u64>,
    /// Why it was paused or goes back; empty otherwise.
    pub why: String,
    /// What the instance printed last that failed first.
    pub output: LastLines,
    /// The first instances of the revision, until the others follow.
    pub canary: Option<CanaryView>,
}

/// The first instances of a revision, which others have not followed yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CanaryView {
    /// How many there should be.
    pub wanted: u32,
    /// How many have served long enough to count.
    pub settled: u32,
    /// When the others follow by themselves; only a person promotes them if absent.
    pub promote_at: Option<Timestamp>,
}

/// What a person wants of a rollout.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PutRollout {
    /// Paused: nothing more is replaced. Rolling: it goes on, whatever has failed before.
    pub state: RolloutState,
    /// The revision that is meant.
    pub revision: u64,
    /// Whether the other instances are to follow its canary.
    #[serde(default)]
    pub promote: bool,
}

/// A revision of a stack.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct RevisionView {
    /// Its number.
    pub revision: u64,
    /// When it was made.
    pub at: Timestamp,
    /// The API token that asked for it; none if the cluster did so by itself.
    pub by: Option<Name>,
    /// What was done.
    pub what: String,
    /// How its services differ from those of the revision before; what is the same is left out.
    pub changes: Vec<ServiceChange>,
    /// What the stack was.
    pub spec: StackSpec,
    /// Whether all of it served, or ended well, as this revision has it.
    pub served: bool,
}

/// An instance.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct InstanceView {
    /// Its identity.
    pub id: InstanceId,
    /// The revision that it was made from.
    pub revision: u64,
    /// The image that it runs, by digest where one is pinned.
    pub image: String,
    /// Its host.
    pub host: HostId,
    /// Its host's name, unless the host is gone.
    pub host_name: Option<Name>,
    /// Its host's address.
    #[schema(value_type = Option<String>)]
    pub address: Option<IpAddr>,
    /// In one word: what a person would call its state.
    pub state: String,
    /// What the leader wants of it.
    pub desired: Desired,
    /// What its host observes.
    pub observed: Observed,
    /// Whether it can be heard of.
    pub verdict: Verdict,
    /// Its ports on the host.
    pub ports: Vec<BoundPort>,
    /// The devices of the host that it has to itself.
    pub devices: Vec<BoundDevice>,
    /// When it was placed.
    pub created_at: Timestamp,
}

/// A request to make a stack what the spec says.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PutStack {
    /// The spec.
    pub spec: StackSpec,
    /// Contents of the stack's own configs and secrets; what is not here stays as it is.
    #[serde(default)]
    pub files: Vec<PutFile>,
    /// The revision that the spec was derived from; 0 for "must not exist yet". The request is
    /// refused if there is another by now.
    #[serde(default)]
    pub expect_revision: Option<u64>,
    /// Whether only the plan is wanted.
    #[serde(default)]
    pub dry_run: bool,
    /// What is done, for those who read the history; "deployed" if absent.
    #[serde(default)]
    pub what: Option<String>,
    /// Whether the spec is that of an earlier revision: what ended well for that is not done again.
    #[serde(default)]
    pub goes_back: bool,
}

/// The content of a stack's own config or secret.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PutFile {
    /// Its kind.
    pub kind: FileKind,
    /// Its name.
    pub name: Name,
    /// What is in it, as base64.
    #[schema(value_type = String)]
    pub content: Upload,
}

/// A new number of instances.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ScaleService {
    /// How many.
    pub replicas: u32,
}
