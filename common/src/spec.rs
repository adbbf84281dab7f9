//! What people ask for: stacks of services, and the one validator of them.
//!
//! A spec holds wishes only; what became of them is a status and lives elsewhere. Client and
//! coordinator call the same [`StackSpec::validate`].

mod attachment;
mod constraint;
mod container;
mod isolation;
mod mount;
mod privilege;
pub mod template;
mod tuning;
mod unit;
mod validate;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub use attachment::{Alias, Attachment, HostAddress, HostEntry, InvalidHostName, NetworkMode, ResolverSpec};
pub use constraint::{Constraint, Operator};
pub use container::{ContainerSpec, HealthCheck, LogSpec, PullPolicy, Resources, RestartCondition, RestartPolicy};
pub use isolation::{CgroupMode, HostDevice, IpcMode, Isolation};
pub use mount::{InvalidVolumeName, MountSource, MountSpec, Propagation, TmpfsOptions, VolumeName, VolumeSpec};
pub use privilege::Privilege;
pub use tuning::{Blkio, DeviceRate, DeviceWeight, Tuning, Ulimit};
pub use unit::Sidekick;
pub use validate::Violation;

use crate::{
    cron::Schedule,
    name::{Name, default_environment},
    time::Span,
};

/// Services that are deployed together from one file.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct StackSpec {
    /// The services by name.
    pub services: BTreeMap<Name, ServiceSpec>,
    /// The named volumes that the services may mount.
    #[serde(default)]
    pub volumes: BTreeMap<VolumeName, VolumeSpec>,
}

/// One workload: what to run, how many times, where, and when it counts as well.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ServiceSpec {
    /// Its main container.
    pub container: ContainerSpec,
    /// Steps that must each end well before anything else of an instance starts, in order.
    #[serde(default)]
    pub pre_start: Vec<ContainerSpec>,
    /// Containers beside the main one: they share its host and its network, and come and go with it.
    #[serde(default)]
    pub sidekicks: BTreeMap<Name, Sidekick>,
    /// Container ports that are reachable from outside.
    #[serde(default)]
    pub ports: Vec<PortSpec>,
    /// Ports on which its programs listen for others of the cluster, who find them beside its name (SRV records).
    #[serde(default)]
    pub expose: BTreeSet<ExposedPort>,
    /// What decides how many instances there are.
    #[serde(default)]
    pub mode: Mode,
    /// When a job is run, instead of once for each revision.
    #[serde(default)]
    pub cron: Option<CronSpec>,
    /// How many instances of a replicated service, or ends of a job.
    #[serde(default = "one")]
    pub replicas: u32,
    /// What a host must be like.
    #[serde(default)]
    pub constraints: Vec<Constraint>,
    /// What a host had better be like.
    #[serde(default)]
    pub prefer: Vec<Constraint>,
    /// Host labels over whose values the instances are spread evenly, the most important first.
    #[serde(default)]
    pub spread: Vec<String>,
    /// Services with a higher one are placed first; nothing that runs makes room for it.
    #[serde(default)]
    pub priority: i32,
    /// How many instances one host takes at most; no limit if absent.
    #[serde(default)]
    pub max_per_host: Option<u32>,
    /// Whether two instances must never run at the same time, whatever happens to hosts and networks: an
    /// instance runs under a lease, and ends with it.
    #[serde(default)]
    pub strict_singleton: bool,
    /// How instances of an older revision are replaced.
    #[serde(default)]
    pub update: UpdatePolicy,
    /// Services that must be up before the first instance is placed, and sidekicks that must be before the
    /// main container starts.
    #[serde(default)]
    pub depends_on: BTreeMap<Name, Condition>,
    /// How others are led to its instances.
    #[serde(default)]
    pub endpoint_mode: EndpointMode,
    /// Environments beside its own that it belongs to: it reaches what belongs to them, and that reaches it.
    #[serde(default)]
    pub joins: BTreeSet<Name>,
    /// Which network its instances are on.
    #[serde(default)]
    pub network_mode: NetworkMode,
    /// The networks of its stack that it is on: those who share one reach each other. `default` is the environment's
    /// own, on which a service is that names none.
    #[serde(default)]
    pub networks: BTreeMap<Name, Attachment>,
    /// What the stack says of the volumes that its containers mount. Filled in when the stack is deployed, so that it is
    /// part of what the instances were made from; what is given here is replaced.
    #[serde(default)]
    pub volumes: BTreeMap<VolumeName, VolumeSpec>,
}

/// How others are led to the instances of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum EndpointMode {
    /// By an address of its own, to any of them by chance.
    #[default]
    Vip,
    /// By an address of its own, from the same address to the same instance for as long as those that serve are the
    /// same.
    Sticky,
    /// By its name, which has the addresses of all.
    Dnsrr,
}

/// What decides how many instances a service has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// The number of replicas, wherever they fit.
    #[default]
    Replicated,
    /// The hosts: one instance on each that the constraints allow.
    Global,
    /// The number of replicas, each of which ends with exit code 0 once and is not started again.
    Job,
}

/// When a job is run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CronSpec {
    /// The cron pattern: minute, hour, day, month, weekday.
    pub schedule: String,
    /// The time zone that it is meant in.
    #[serde(default = "utc")]
    pub timezone: String,
    /// What happens if the run before has not ended.
    #[serde(default)]
    pub overlap: Overlap,
    /// How late a run may begin that was missed because nobody could begin it.
    #[serde(default = "default_catch_up")]
    pub catch_up: Span,
}

impl CronSpec {
    /// A pattern in UTC, with every default.
    pub fn of(schedule: &str) -> CronSpec {
        CronSpec {
            schedule: schedule.to_owned(),
            timezone: utc(),
            overlap: Overlap::default(),
            catch_up: default_catch_up(),
        }
    }

    /// The schedule; what is wrong with it, if it is none.
    pub fn parse(&self) -> Result<Schedule, String> {
        Schedule::parse(&self.schedule, &self.timezone)
    }
}

/// What happens when a run is due and the run before has not ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Overlap {
    /// The new one is left out.
    #[default]
    Skip,
    /// The old one is ended.
    Replace,
}

/// How instances of an older revision are replaced.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct UpdatePolicy {
    /// What comes first; if absent, the new instance wherever that is possible.
    pub order: Option<UpdateOrder>,
    /// How many instances are replaced at a time; 0 is all of them.
    pub parallelism: u32,
    /// The time for which a new instance must serve before it counts.
    pub monitor: Span,
    /// The least time between the moment an instance serves and the next replacement.
    pub delay: Span,
    /// The time in which a new instance must come to serve.
    pub deadline: Span,
    /// How many of a thousand new instances may fail.
    pub max_failures: u32,
    /// What happens when more of them fail.
    pub on_failure: FailureAction,
    /// How many are replaced at first, to be looked at before the others are.
    pub canary: Option<Canary>,
}

/// The first instances of a new revision, and what makes the others follow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Canary {
    /// How many.
    pub instances: u32,
    /// How long they must serve before the others follow by themselves; a person promotes them if absent.
    #[serde(default)]
    pub promote_after: Option<Span>,
}

/// Whether the new instance comes first or the old one goes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum UpdateOrder {
    /// The new one serves before the old one is stopped.
    StartFirst,
    /// The old one is gone before the new one starts.
    StopFirst,
}

/// What happens when new instances fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum FailureAction {
    /// The service goes back to what served before.
    #[default]
    Rollback,
    /// Nothing more is replaced until a person decides.
    Pause,
    /// The rest is replaced all the same.
    Continue,
}

impl Default for UpdatePolicy {
    fn default() -> UpdatePolicy {
        UpdatePolicy {
            order: None,
            parallelism: 1,
            monitor: Span::seconds(5),
            delay: Span(0),
            deadline: Span::minutes(10),
            max_failures: 0,
            on_failure: FailureAction::default(),
            canary: None,
        }
    }
}

/// A container port and how it is reachable from outside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PortSpec {
    /// The port in the container.
    pub container: u16,
    /// The port on the host; the planner picks a free one if absent.
    #[serde(default)]
    pub published: Option<u16>,
    /// The protocol.
    #[serde(default)]
    pub protocol: Protocol,
    /// The host's address to listen on; all of them if absent.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub host_ip: Option<IpAddr>,
}

/// A container port that others of the cluster may call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ExposedPort {
    /// The port in the container.
    pub container: u16,
    /// The protocol.
    #[serde(default)]
    pub protocol: Protocol,
}

/// A transport protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    #[default]
    Tcp,
    /// UDP.
    Udp,
}

impl std::fmt::Display for Protocol {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
        })
    }
}

/// What a dependency must have reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Condition {
    /// All its instances run.
    #[default]
    Started,
    /// All its instances run and are healthy.
    Healthy,
    /// All its instances have ended with exit code 0.
    Completed,
}

impl StackSpec {
    /// Tells each service what the stack says of the volumes that its containers mount.
    pub fn tell_volumes(&mut self) {
        let declared = &self.volumes;
        for service in self.services.values_mut() {
            let told = |name: &VolumeName| Some((name.clone(), declared.get(name)?.clone()));
            let is_plain = |volume: &VolumeSpec| *volume == VolumeSpec::default();
            service.volumes = service.volumes().filter_map(told).filter(|(_, volume)| !is_plain(volume)).collect();
        }
    }
}

impl ServiceSpec {
    /// A service that runs `image` once, with every default.
    pub fn of_image(image: &str) -> ServiceSpec {
        ServiceSpec {
            container: ContainerSpec::of_image(image),
            pre_start: Vec::new(),
            sidekicks: BTreeMap::new(),
            ports: Vec::new(),
            expose: BTreeSet::new(),
            mode: Mode::default(),
            cron: None,
            replicas: 1,
            constraints: Vec::new(),
            prefer: Vec::new(),
            priority: 0,
            spread: Vec::new(),
            max_per_host: None,
            strict_singleton: false,
            update: UpdatePolicy::default(),
            depends_on: BTreeMap::new(),
            endpoint_mode: EndpointMode::default(),
            joins: BTreeSet::new(),
            network_mode: NetworkMode::default(),
            networks: BTreeMap::new(),
            volumes: BTreeMap::new(),
        }
    }

    /// Whether instances made from `other` may go on under this spec: what differs is only how many
    /// there are, how they are spread, and how later ones follow them.
    pub fn same_instances(&self, other: &ServiceSpec) -> bool {
        let as_here = ServiceSpec {
            expose: self.expose.clone(),
            cron: self.cron.clone(),
            replicas: self.replicas,
            prefer: self.prefer.clone(),
            priority: self.priority,
            spread: self.spread.clone(),
            max_per_host: self.max_per_host,
            update: self.update.clone(),
            depends_on: self.depends_on.clone(),
            endpoint_mode: self.endpoint_mode,
            joins: self.joins.clone(),
            // What keeps an instance inside holds from its start.
            networks: if self.is_internal() == other.is_internal() {
                self.networks.clone()
            } else {
                other.networks.clone()
            },
            ..other.clone()
        };
        as_here == *self
    }

    /// The networks of its stack that it is on, with what it is there: the environment's own if it names none.
    pub fn attachments(&self) -> BTreeMap<Name, Attachment> {
        match self.networks.is_empty() && self.network_mode == NetworkMode::Cluster {
            true => [(default_network(), Attachment::default())].into(),
            false => self.networks.clone(),
        }
    }

    /// Whether its instances reach nothing outside the cluster: every network that they are on is internal.
    pub fn is_internal(&self) -> bool {
        !self.networks.is_empty() && self.networks.values().all(|attachment| attachment.internal)
    }

    /// What a host must be like for what the spec asks of it, beside the constraints that people gave.
    pub fn implied_constraints(&self) -> Vec<Constraint> {
        let mut implied = Vec::new();
        let equal = |key: &str, value: &str| Constraint {
            key: key.to_owned(),
            operator: Operator::Equal,
            values: vec![value.to_owned()],
        };
        for (_, container) in self.containers() {
            if container.mounts.iter().any(|mount| mount.subpath.is_some()) {
                let (key, values) = ("engine.version".to_owned(), vec!["26.0".to_owned()]);
                implied.push(Constraint { key, operator: Operator::AtLeast, values });
            }
            let mut platform = container.platform.as_deref().unwrap_or_default().split('/');
            implied.extend(platform.next().filter(|os| !os.is_empty()).map(|os| equal("node.platform.os", os)));
            implied.extend(platform.next().map(|arch| equal("node.platform.arch", arch)));
        }
        implied.dedup();
        implied
    }

    /// Why a new instance cannot start before the old one of its slot is gone, if it cannot.
    pub fn stops_first(&self) -> Option<&'static str> {
        if self.mode == Mode::Job {
            Some("a job must not run twice at a time")
        } else if self.strict_singleton {
            Some("a strict singleton must not run twice at a time")
        } else if self.ports.iter().any(|port| port.published.is_some()) {
            Some("two instances cannot have the same host port")
        } else if self.has_volume() {
            Some("two instances must not write to the same volume")
        } else {
            None
        }
    }
}

/// The network of a compose file that is not named: in wharf, the environment's own.
pub fn default_network() -> Name {
    default_environment()
}

fn utc() -> String {
    "UTC".to_owned()
}

fn default_catch_up() -> Span {
    Span::minutes(10)
}

fn one() -> u32 {
    1
}
