//! What a changed spec would do to a stack, as values: who shows it writes the sentences (`common::explain`).

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

/// What a changed spec would do, or did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StackPlan {
    /// The stack.
    pub id: StackId,
    /// The revision before the change; 0 if there was none.
    pub from_revision: u64,
    /// The revision after it; the same if nothing changes.
    pub to_revision: u64,
    /// One entry a service.
    pub services: Vec<ServicePlan>,
    /// The named volumes that services mount or did before.
    pub volumes: Vec<VolumePlan>,
    /// What the hosts cannot take of it now.
    pub unplaceable: Vec<Unplaceable>,
}

/// What happens to one service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ServicePlan {
    /// What differs in its spec.
    #[serde(flatten)]
    pub change: ServiceChange,
    /// What decides how many instances it will have.
    pub mode: Mode,
    /// The pattern by which a job is run, if it has a schedule.
    pub schedule: Option<String>,
    /// How many instances it has now.
    pub instances_before: u32,
    /// How many it will have.
    pub instances: u32,
    /// The hosts of those that it will have, as far as they are known before anything starts.
    pub hosts: Vec<Name>,
    /// Host ports that are open now or will be.
    pub ports: Vec<PortPlan>,
    /// What it may do to its hosts beyond running there.
    pub privileges: Vec<Privilege>,
    /// How its instances are replaced, if they are.
    pub replacement: Option<Replacement>,
}

/// How the spec of a service differs from another one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ServiceChange {
    /// Its name in the stack.
    pub service: Name,
    /// What kind of change.
    pub kind: ChangeKind,
    /// Each thing that differs; for a new service, from what services are by default.
    pub differences: Vec<Difference>,
}

/// What kind of change a service undergoes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ChangeKind {
    /// It is new.
    Create,
    /// Its instances are replaced.
    Update,
    /// Its instances stay: only their number changes, or what concerns later ones.
    Scale,
    /// It goes.
    Remove,
    /// Nothing.
    Unchanged,
}

/// One thing that differs. What may be a password is never shown: then both values are absent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Difference {
    /// The container that it is about.
    #[schema(value_type = String)]
    pub part: Part,
    /// What it is.
    pub aspect: Aspect,
    /// Which one, of those that a service has several of: a variable, a port, a path in the container.
    pub name: Option<String>,
    /// Whether it was there before, and is after.
    pub change: Change,
    /// What it was.
    pub before: Option<String>,
    /// What it will be.
    pub after: Option<String>,
}

/// Whether a thing was there before a change, and is after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Change {
    /// It is new.
    Added,
    /// It goes.
    Removed,
    /// It becomes another.
    Changed,
}

/// What a difference is about, in the order in which differences are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Aspect {
    /// A whole container.
    Container,
    /// Its image.
    Image,
    /// The number of instances that is asked for.
    Replicas,
    /// What decides their number.
    Mode,
    /// When it is run.
    Schedule,
    /// A port of the hosts.
    Port,
    /// A port that the cluster's own programs find.
    ExposedPort,
    /// Something mounted.
    Mount,
    /// A config.
    Config,
    /// A secret.
    Secret,
    /// An environment variable.
    Variable,
    /// What it runs instead of the image's command.
    Command,
    /// The same for the entrypoint.
    Entrypoint,
    /// Who it runs as.
    User,
    /// Where it starts.
    WorkingDirectory,
    /// A label.
    Label,
    /// How its health is checked.
    HealthCheck,
    /// What happens when it ends.
    RestartPolicy,
    /// The time between SIGTERM and SIGKILL.
    StopGracePeriod,
    /// Processor time that is set aside.
    ReservedCpu,
    /// Memory that is set aside.
    ReservedMemory,
    /// The most processor time.
    CpuLimit,
    /// The most memory.
    MemoryLimit,
    /// Devices to itself.
    Device,
    /// When the image is pulled.
    PullPolicy,
    /// Something else of the container; the name says what.
    Option,
    /// What a host must be like.
    Constraint,
    /// What a host had better be like.
    Preference,
    /// Host labels over which instances are spread.
    Spread,
    /// The most instances on one host.
    MaxPerHost,
    /// Its place among others when there is too little.
    Priority,
    /// Whether two never run at a time.
    StrictSingleton,
    /// How instances are replaced; the name says which part of that.
    UpdatePolicy,
    /// How others are led to it.
    EndpointMode,
    /// An environment that it joins.
    JoinedEnvironment,
    /// A service or sidekick that it waits for.
    Dependency,
}

/// A port of hosts that a service's instances open.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PortPlan {
    /// The port on the host; chosen for each instance if absent.
    pub published: Option<u16>,
    /// The port in the container.
    pub container: u16,
    /// The protocol.
    pub protocol: Protocol,
    /// The one address of the host at which it is open; at all of them if absent.
    #[schema(value_type = Option<String>)]
    pub address: Option<IpAddr>,
    /// Whether it opens or closes; absent if it stays as it is.
    pub change: Option<Change>,
    /// Whether one of the hosts has an address that the internet reaches, and the port is open there.
    pub public: bool,
}

/// How the instances of a service are replaced.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Replacement {
    /// How many at a time; 0 is all of them.
    pub at_a_time: u32,
    /// What comes first, if that is settled: else the new one, where there is room for both.
    pub order: Option<UpdateOrder>,
    /// Why the old one has to go first.
    pub why: Option<String>,
    /// What does not serve meanwhile.
    pub downtime: Downtime,
    /// What happens if the new ones fail.
    pub on_failure: FailureAction,
    /// The first instances, that the others follow later.
    pub canary: Option<Canary>,
}

/// What of a service does not serve while its instances are replaced.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Downtime {
    /// Nothing: the new ones serve before the old ones stop.
    None,
    /// Some instances, each from its stop until its successor serves.
    Some {
        /// How many at a time.
        instances: u32,
        /// The longest time that the stop takes.
        stop: Span,
    },
    /// All of it.
    All {
        /// The longest time that the stop takes.
        stop: Span,
    },
}

/// A named volume. Its data lies on hosts: each has its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VolumePlan {
    /// Its name in the stack.
    pub volume: VolumeName,
    /// Its name at Docker.
    pub docker: String,
    /// Whether somebody else made it: it must be there.
    pub external: bool,
    /// Whether it is the same on every host, so that it ties nothing to one.
    pub shared: bool,
    /// Whether it is made or no longer used; absent if it is kept in use. Its data is never removed.
    pub change: Option<Change>,
    /// The hosts that have its data or will.
    pub hosts: Vec<Name>,
    /// The services that mount it, or did.
    pub services: Vec<Name>,
}

/// Why instances of a service would not be placed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Unplaceable {
    /// The service.
    pub service: Name,
    /// Why, for people.
    pub reason: String,
}
