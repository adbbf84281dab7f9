//! The effect of a changed spec on a stack, as values. `common::explain` turns them into sentences.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    id::StackId,
    name::Name,
    part::Part,
    spec::{Canary, FailureAction, Mode, Privilege, Protocol, UpdateOrder, VolumeName},
    time::Span,
};

/// The effect of a changed spec on a stack.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StackPlan {
    /// The stack's id.
    pub id: StackId,
    /// The revision before the change; 0 if the stack did not exist.
    pub from_revision: u64,
    /// The revision after the change; equal to `from_revision` if nothing changes.
    pub to_revision: u64,
    /// One entry per service, before or after the change.
    pub services: Vec<ServicePlan>,
    /// The named volumes that services mount, or mounted before.
    pub volumes: Vec<VolumePlan>,
    /// The services that hosts cannot take at present, with reasons.
    pub unplaceable: Vec<Unplaceable>,
}

/// The effect on one service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ServicePlan {
    /// The differences between the old and the new spec.
    #[serde(flatten)]
    pub change: ServiceChange,
    /// The mode, which determines the number of instances.
    pub mode: Mode,
    /// The cron pattern of a scheduled job.
    pub schedule: Option<String>,
    /// The current number of instances.
    pub instances_before: u32,
    /// The future number of instances.
    pub instances: u32,
    /// The hosts of the future instances, as far as the planner can tell in advance.
    pub hosts: Vec<Name>,
    /// The host ports that are open now or will be open.
    pub ports: Vec<PortPlan>,
    /// The privileges on its hosts that the service asks for.
    pub privileges: Vec<Privilege>,
    /// How existing instances are replaced; absent if they are not.
    pub replacement: Option<Replacement>,
}

/// The differences between two specs of a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ServiceChange {
    /// The service's name in the stack.
    pub service: Name,
    /// The effect on the service's instances.
    pub kind: ChangeKind,
    /// The differences; for a new service, those from the defaults.
    pub differences: Vec<Difference>,
}

/// The effect of a changed spec on a service's instances.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ChangeKind {
    /// The service is new.
    Create,
    /// The instances are replaced.
    Update,
    /// The instances stay: only their number changes, or what matters for later ones.
    Scale,
    /// The service is removed.
    Remove,
    /// The spec is the same.
    Unchanged,
}

/// One difference between two specs. If the value may be a password, both `before` and `after` are absent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Difference {
    /// The container that it concerns.
    #[schema(value_type = String)]
    pub part: Part,
    /// The part of the spec that differs.
    pub aspect: Aspect,
    /// Which one, where a service has several: the name of a variable, a port, a path in the container.
    pub name: Option<String>,
    /// Whether it was added, removed or changed.
    pub change: Change,
    /// The old value.
    pub before: Option<String>,
    /// The new value.
    pub after: Option<String>,
}

/// Whether something exists before and after a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Change {
    /// It exists only after the change.
    Added,
    /// It exists only before the change.
    Removed,
    /// It exists before and after, with another value.
    Changed,
}

/// The subject of a difference, in display order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Aspect {
    /// A whole container.
    Container,
    /// The image of a container.
    Image,
    /// The requested number of instances.
    Replicas,
    /// The mode, which determines the number of instances.
    Mode,
    /// The schedule of a job.
    Schedule,
    /// A published port.
    Port,
    /// A port that programs in the cluster can look up.
    ExposedPort,
    /// A mounted volume, path or tmpfs.
    Mount,
    /// A config file in the container.
    Config,
    /// A secret file in the container.
    Secret,
    /// An environment variable.
    Variable,
    /// The command that replaces the image's.
    Command,
    /// The entrypoint that replaces the image's.
    Entrypoint,
    /// The user that the program runs as.
    User,
    /// The directory that the program starts in.
    WorkingDirectory,
    /// A container label.
    Label,
    /// The health check.
    HealthCheck,
    /// The restart policy, for when the program ends.
    RestartPolicy,
    /// The time between SIGTERM and SIGKILL.
    StopGracePeriod,
    /// Reserved CPU.
    ReservedCpu,
    /// Reserved memory.
    ReservedMemory,
    /// The CPU limit.
    CpuLimit,
    /// The memory limit.
    MemoryLimit,
    /// Reserved devices.
    Device,
    /// When hosts pull the image.
    PullPolicy,
    /// Another option of the container, named in `name`.
    Option,
    /// A requirement for hosts.
    Constraint,
    /// A wish for hosts.
    Preference,
    /// A host label over which instances are spread.
    Spread,
    /// The maximum number of instances per host.
    MaxPerHost,
    /// The priority when resources are short.
    Priority,
    /// Whether two instances may never run at the same time.
    StrictSingleton,
    /// How instances are replaced; `name` says which setting.
    UpdatePolicy,
    /// How clients are directed to the instances.
    EndpointMode,
    /// An environment that the service joins.
    JoinedEnvironment,
    /// A service or sidekick that must be up first.
    Dependency,
}

/// A host port that instances of a service open.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PortPlan {
    /// The port on the host; absent if each instance gets a free one.
    pub published: Option<u16>,
    /// The port in the container.
    pub container: u16,
    /// The protocol.
    pub protocol: Protocol,
    /// The only host address on which it is open; absent if it is open on all.
    #[schema(value_type = Option<String>)]
    pub address: Option<IpAddr>,
    /// Whether it opens or closes; absent if it stays open.
    pub change: Option<Change>,
    /// Whether the port is open on a public address of one of the hosts.
    pub public: bool,
}

/// How the instances of a service are replaced.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Replacement {
    /// The number of instances replaced at the same time; 0 means all.
    pub at_a_time: u32,
    /// The order of start and stop, if it is fixed. If absent, the new instance starts first where a host has room for
    /// both.
    pub order: Option<UpdateOrder>,
    /// Why the old instance must stop first.
    pub why: Option<String>,
    /// The unavailable part during the replacement.
    pub downtime: Downtime,
    /// The reaction if new instances fail.
    pub on_failure: FailureAction,
    /// The instances that are replaced first, ahead of the others.
    pub canary: Option<Canary>,
}

/// The part of a service that is unavailable during a replacement.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Downtime {
    /// Nothing: new instances serve before old ones stop.
    None,
    /// Some instances, each from its stop until its replacement serves.
    Some {
        /// How many at the same time.
        instances: u32,
        /// The maximum duration of the stop.
        stop: Span,
    },
    /// The whole service.
    All {
        /// The maximum duration of the stop.
        stop: Span,
    },
}

/// A named volume. Its data lies on hosts, and each host has its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VolumePlan {
    /// The name in the stack.
    pub volume: VolumeName,
    /// The name of the Docker volume.
    pub docker: String,
    /// Whether it is external: it must already exist.
    pub external: bool,
    /// Whether all hosts see the same data, so that it ties no instance to a host.
    pub shared: bool,
    /// Whether it is created or no longer used; absent if it stays in use. Its data is never removed.
    pub change: Option<Change>,
    /// The hosts that have its data or will have it.
    pub hosts: Vec<Name>,
    /// The services that mount it or mounted it.
    pub services: Vec<Name>,
}

/// Why instances of a service cannot be placed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Unplaceable {
    /// The service's name in the stack.
    pub service: Name,
    /// One sentence for people.
    pub reason: String,
}
