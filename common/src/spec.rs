//! What people ask for: stacks of services, and the one validator of them.
//!
//! A spec holds wishes only; what became of them is a status and lives elsewhere. Client and
//! coordinator call the same [`StackSpec::validate`].

mod constraint;
mod container;
mod unit;
mod validate;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub use constraint::{Constraint, Operator};
pub use container::{
    ContainerSpec, HealthCheck, LogOptions, MountSource, MountSpec, PullPolicy, Resources, RestartCondition,
    RestartPolicy,
};
pub use unit::Sidekick;
pub use validate::Violation;

use crate::{cron::Schedule, name::Name, time::Span};

/// Services that are deployed together from one file.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct StackSpec {
    /// The services by name.
    pub services: BTreeMap<Name, ServiceSpec>,
    /// The named volumes that the services may mount.
    #[serde(default)]
    pub volumes: BTreeSet<Name>,
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
            ..other.clone()
        };
        as_here == *self
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

fn utc() -> String {
    "UTC".to_owned()
}

fn default_catch_up() -> Span {
    Span::minutes(10)
}

fn one() -> u32 {
    1
}
