//! Specs: the stacks and services that users want, and their validator.
//!
//! A spec holds only wishes; their status is stored elsewhere. Client and coordinator both call
//! [`StackSpec::validate`].

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

/// One workload: what to run, how often, where, and when an instance counts as healthy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ServiceSpec {
    /// The main container.
    pub container: ContainerSpec,
    /// Steps before the start, in order. Each must end with exit code 0 before the next one starts.
    #[serde(default)]
    pub pre_start: Vec<ContainerSpec>,
    /// Containers beside the main one. They share its host and network, and start and stop with it.
    #[serde(default)]
    pub sidekicks: BTreeMap<Name, Sidekick>,
    /// Container ports that can be reached from outside the cluster.
    #[serde(default)]
    pub ports: Vec<PortSpec>,
    /// Ports on which it serves other programs in the cluster, which find them by SRV records.
    #[serde(default)]
    pub expose: BTreeSet<ExposedPort>,
    /// The mode, which determines the number of instances.
    #[serde(default)]
    pub mode: Mode,
    /// When a job runs. If absent, it runs once per revision.
    #[serde(default)]
    pub cron: Option<CronSpec>,
    /// The number of instances of a replicated service, or of runs of a job.
    #[serde(default = "one")]
    pub replicas: u32,
    /// Requirements for hosts.
    #[serde(default)]
    pub constraints: Vec<Constraint>,
    /// Wishes for hosts.
    #[serde(default)]
    pub prefer: Vec<Constraint>,
    /// Host labels over whose values instances are spread evenly, the most important first.
    #[serde(default)]
    pub spread: Vec<String>,
    /// Services with a higher priority are placed first. Running instances are never stopped for them.
    #[serde(default)]
    pub priority: i32,
    /// The maximum number of instances per host; no limit if absent.
    #[serde(default)]
    pub max_per_host: Option<u32>,
    /// Whether two instances must never run at the same time, even when hosts or networks fail. An instance runs under
    /// a lease and ends with it.
    #[serde(default)]
    pub strict_singleton: bool,
    /// How instances of an older revision are replaced.
    #[serde(default)]
    pub update: UpdatePolicy,
    /// Services that must be up before the first instance is placed, and sidekicks that must be up before the main
    /// container starts.
    #[serde(default)]
    pub depends_on: BTreeMap<Name, Condition>,
    /// How clients are directed to its instances.
    #[serde(default)]
    pub endpoint_mode: EndpointMode,
    /// Other environments that it joins: it reaches their services, and they reach it.
    #[serde(default)]
    pub joins: BTreeSet<Name>,
    /// Which network its instances use.
    #[serde(default)]
    pub network_mode: NetworkMode,
    /// Its networks of the stack; services on the same network reach each other. `default` is the environment's own
    /// network, which services without networks use.
    #[serde(default)]
    pub networks: BTreeMap<Name, Attachment>,
    /// The stack's declarations of the volumes that its containers mount. The coordinator fills this in at each
    /// deployment, so that a changed declaration changes the spec; values in requests are replaced.
    #[serde(default)]
    pub volumes: BTreeMap<VolumeName, VolumeSpec>,
}

/// How clients are directed to the instances of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum EndpointMode {
    /// By a virtual address, to a random instance.
    #[default]
    Vip,
    /// By a virtual address; the same client gets the same instance as long as the set of serving instances stays the
    /// same.
    Sticky,
    /// By its name, which resolves to the addresses of all instances.
    Dnsrr,
}

/// The way in which the number of a service's instances is determined.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// The number of replicas, on any hosts with room.
    #[default]
    Replicated,
    /// The hosts: one instance on each that matches the constraints.
    Global,
    /// The number of replicas, each of which runs until it has ended once with exit code 0.
    Job,
}

/// When a job runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CronSpec {
    /// The cron pattern: minute, hour, day, month, weekday.
    pub schedule: String,
    /// The time zone of the pattern, by its IANA name.
    #[serde(default = "utc")]
    pub timezone: String,
    /// The reaction if the previous run has not ended.
    #[serde(default)]
    pub overlap: Overlap,
    /// How late a missed run may still start, for example after an outage.
    #[serde(default = "default_catch_up")]
    pub catch_up: Span,
}

impl CronSpec {
    /// A schedule in UTC with default settings.
    pub fn of(schedule: &str) -> CronSpec {
        CronSpec {
            schedule: schedule.to_owned(),
            timezone: utc(),
            overlap: Overlap::default(),
            catch_up: default_catch_up(),
        }
    }

    /// Parses the pattern and the time zone. The error says what is wrong with them.
    pub fn parse(&self) -> Result<Schedule, String> {
        Schedule::parse(&self.schedule, &self.timezone)
    }
}

/// The reaction when a run is due and the previous one has not ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Overlap {
    /// The new run is skipped.
    #[default]
    Skip,
    /// The old run is stopped.
    Replace,
}

/// How instances of an older revision are replaced.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct UpdatePolicy {
    /// The order of start and stop. If absent, the new instance starts first where that is possible.
    pub order: Option<UpdateOrder>,
    /// The number of instances replaced at the same time; 0 means all.
    pub parallelism: u32,
    /// How long a new instance must serve before it counts.
    pub monitor: Span,
    /// The minimum time between the moment an instance serves and the next replacement.
    pub delay: Span,
    /// How long a new instance may take until it serves.
    pub deadline: Span,
    /// How many of 1000 new instances may fail.
    pub max_failures: u32,
    /// The reaction if more instances fail.
    pub on_failure: FailureAction,
    /// The instances that are replaced first, so that people can check them.
    pub canary: Option<Canary>,
}

/// The first instances of a new revision, and what lets the others follow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Canary {
    /// The number of first instances.
    pub instances: u32,
    /// How long they must serve before the others follow automatically. If absent, a person promotes them.
    #[serde(default)]
    pub promote_after: Option<Span>,
}

/// The order in which an old instance and its replacement stop and start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum UpdateOrder {
    /// The new instance serves before the old one stops.
    StartFirst,
    /// The old instance ends before the new one starts.
    StopFirst,
}

/// The reaction when new instances fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum FailureAction {
    /// The service is rolled back to what served before.
    #[default]
    Rollback,
    /// No more instances are replaced until a person decides.
    Pause,
    /// The other instances are replaced anyway.
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

/// A container port that can be reached from outside the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PortSpec {
    /// The port in the container.
    pub container: u16,
    /// The port on the host. If absent, the planner picks a free one.
    #[serde(default)]
    pub published: Option<u16>,
    /// The protocol.
    #[serde(default)]
    pub protocol: Protocol,
    /// The host address to listen on; all addresses if absent.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub host_ip: Option<IpAddr>,
}

/// A container port for other programs in the cluster.
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

/// The state that a dependency must have reached.
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
    /// Copies the stack's volume declarations to the services that mount them.
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
    /// A service with one replica of `image` and default settings.
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

    /// Whether instances of `other` can stay under this spec: only their number, their spread, or the handling of later
    /// instances differs.
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
            // A container's isolation is fixed at its start.
            networks: if self.is_internal() == other.is_internal() {
                self.networks.clone()
            } else {
                other.networks.clone()
            },
            ..other.clone()
        };
        as_here == *self
    }

    /// Its networks of the stack, with its aliases there. Without any, the environment's own.
    pub fn attachments(&self) -> BTreeMap<Name, Attachment> {
        match self.networks.is_empty() && self.network_mode == NetworkMode::Cluster {
            true => [(default_network(), Attachment::default())].into(),
            false => self.networks.clone(),
        }
    }

    /// Whether its instances reach nothing outside the cluster, because all their networks are internal.
    pub fn is_internal(&self) -> bool {
        !self.networks.is_empty() && self.networks.values().all(|attachment| attachment.internal)
    }

    /// Constraints that follow from other parts of the spec, in addition to the user's.
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

    /// Why a new instance can only start after the old one of its slot has ended; `None` if it can start before.
    pub fn stops_first(&self) -> Option<&'static str> {
        if self.mode == Mode::Job {
            Some("two runs of a job must not overlap")
        } else if self.strict_singleton {
            Some("two instances of a strict singleton must not overlap")
        } else if self.ports.iter().any(|port| port.published.is_some()) {
            Some("two instances cannot use the same host port")
        } else if self.has_volume() {
            Some("two instances must not write to the same volume")
        } else {
            None
        }
    }
}

/// The network in compose files that need not be declared: in wharf, the environment's own.
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
