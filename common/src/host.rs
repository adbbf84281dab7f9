//! Hosts: facts from their agents, and whether they are believed alive.

use std::{collections::BTreeMap, fmt, net::IpAddr, ops::RangeInclusive};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    device::Devices,
    id::BootId,
    network::WireguardKey,
    quantity::{Bytes, MilliCpu},
    spec::Resources,
    time::Timestamp,
};

/// The facts that an agent reports about its host; they rarely change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HostFacts {
    /// The operating system's hostname, which may differ from the host's name in the cluster.
    pub hostname: String,
    /// The address at which other hosts reach it.
    #[schema(value_type = String)]
    pub address: IpAddr,
    /// The total CPU.
    pub cpu: MilliCpu,
    /// The total memory.
    pub memory: Bytes,
    /// The operating system, as Docker names it.
    pub os: String,
    /// The architecture, as Docker names it.
    pub arch: String,
    /// The kernel release, as `uname -r` prints it.
    pub kernel: String,
    /// Docker Engine's version; empty while Docker does not answer.
    pub docker: String,
    /// The version of wharf that runs there.
    pub agent: String,
    /// The id of the current boot.
    pub boot: BootId,
    /// The devices that can be reserved for containers.
    pub devices: Devices,
    /// Its public WireGuard key, if it can encrypt overlay packets.
    #[schema(value_type = Option<String>)]
    pub wireguard: Option<WireguardKey>,
}

/// Something that a host cannot do now. As long as it has a condition, it gets no new instances.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum HostCondition {
    /// Docker does not answer the agent.
    DockerSilent {
        /// When it started, by the host's clock.
        since: Timestamp,
    },
    /// A file system that Docker or the agent writes to is full.
    DiskFull {
        /// A folder on the file system.
        path: String,
        /// The size of the file system.
        size: Bytes,
    },
}

impl HostCondition {
    /// The maximum number of simultaneous conditions of a host.
    pub const MOST: usize = 8;

    /// A stable word, used in metrics and lists.
    pub fn word(&self) -> &'static str {
        match self {
            HostCondition::DockerSilent { .. } => "docker-silent",
            HostCondition::DiskFull { .. } => "disk-full",
        }
    }
}

impl fmt::Display for HostCondition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HostCondition::DockerSilent { since } => write!(f, "Docker has not answered since {since}"),
            HostCondition::DiskFull { path, size } => write!(f, "the disk of {size} at {path} is full"),
        }
    }
}

/// Whether the leader believes that a host is alive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Liveness {
    /// Admitted, but without a report yet.
    Joining,
    /// Its heartbeats arrive.
    Ready,
    /// Heartbeats are missing: the host gets no new instances, but keeps its own.
    Suspect {
        /// When the leader noticed.
        since: Timestamp,
    },
    /// The host's lease has expired.
    Down {
        /// When the leader noticed.
        since: Timestamp,
    },
}

impl Liveness {
    /// The state as a word, for messages, metrics and JSON.
    pub fn word(&self) -> &'static str {
        match self {
            Liveness::Joining => "joining",
            Liveness::Ready => "ready",
            Liveness::Suspect { .. } => "suspect",
            Liveness::Down { .. } => "down",
        }
    }
}

/// The operator's setting for a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Availability {
    /// The host takes new instances.
    #[default]
    Active,
    /// The host takes no new instances; its running ones stay.
    Cordoned,
    /// The host's instances are replaced elsewhere and then stopped.
    Draining {
        /// When remaining instances are stopped, even without replacements.
        deadline: Timestamp,
    },
    /// Nothing runs on the host, not even instances with data there or those of global services.
    Maintenance,
}

impl Availability {
    /// Whether instances on the host must leave.
    pub fn is_emptying(self) -> bool {
        matches!(self, Availability::Draining { .. } | Availability::Maintenance)
    }

    /// The state as a word, for messages, metrics and JSON.
    pub fn word(&self) -> &'static str {
        match self {
            Availability::Active => "active",
            Availability::Cordoned => "cordoned",
            Availability::Draining { .. } => "draining",
            Availability::Maintenance => "in maintenance",
        }
    }
}

/// How much of a host's resources instances may reserve, in percent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Oversubscription {
    /// Percent of its CPU.
    pub cpu: u32,
    /// Percent of its memory.
    pub memory: u32,
}

impl Default for Oversubscription {
    fn default() -> Oversubscription {
        Oversubscription { cpu: 100, memory: 100 }
    }
}

impl Oversubscription {
    /// The allowed percentages.
    pub const RANGE: RangeInclusive<u32> = 10..=1000;

    /// The resources of a host that instances may reserve.
    pub fn of(self, facts: &HostFacts) -> Resources {
        let part = |all: u64, hundredths: u32| (u128::from(all) * u128::from(hundredths) / 100) as u64;
        Resources { cpu: MilliCpu(part(facts.cpu.0, self.cpu)), memory: Bytes(part(facts.memory.0, self.memory)) }
    }
}

/// The labels that operators set on a host.
pub type HostLabels = BTreeMap<String, String>;
