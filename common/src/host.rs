//! Hosts: what the agent says of them and how alive they are believed to be.

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

/// What an agent observes of its host; changes rarely.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HostFacts {
    /// The host's own name for itself.
    pub hostname: String,
    /// The address under which other hosts reach it.
    #[schema(value_type = String)]
    pub address: IpAddr,
    /// All the processor time there is.
    pub cpu: MilliCpu,
    /// All the memory there is.
    pub memory: Bytes,
    /// The operating system, as Docker names it.
    pub os: String,
    /// The architecture, as Docker names it.
    pub arch: String,
    /// The kernel's release.
    pub kernel: String,
    /// Docker Engine's version; empty while Docker does not answer.
    pub docker: String,
    /// The version of the agent.
    pub agent: String,
    /// The kernel's boot.
    pub boot: BootId,
    /// The devices that containers may have to themselves.
    pub devices: Devices,
    /// Its key of WireGuard, if it can encrypt what it sends through the overlay.
    #[schema(value_type = Option<String>)]
    pub wireguard: Option<WireguardKey>,
}

/// What a host cannot do now: as long as it has one of these, it gets nothing new.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum HostCondition {
    /// Its Docker does not answer its agent.
    DockerSilent {
        /// Since when, by the host's clock.
        since: Timestamp,
    },
    /// A disk that its Docker or its agent writes to is full.
    DiskFull {
        /// A folder on it.
        path: String,
        /// Its size.
        size: Bytes,
    },
}

impl HostCondition {
    /// Most conditions that a host may have at a time.
    pub const MOST: usize = 8;

    /// A word for it, as metrics and lists show it.
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
    /// It has been admitted and has not reported yet.
    Joining,
    /// Its heartbeats arrive.
    Ready,
    /// Heartbeats are missing: no new placements, nothing is moved.
    Suspect {
        /// When the leader noticed.
        since: Timestamp,
    },
    /// Its lease has ended.
    Down {
        /// When the leader noticed.
        since: Timestamp,
    },
}

impl Liveness {
    /// The state's name.
    pub fn word(&self) -> &'static str {
        match self {
            Liveness::Joining => "joining",
            Liveness::Ready => "ready",
            Liveness::Suspect { .. } => "suspect",
            Liveness::Down { .. } => "down",
        }
    }
}

/// Whether people want instances on a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Availability {
    /// It takes new instances.
    #[default]
    Active,
    /// It takes no new ones; those that it has stay.
    Cordoned,
    /// Those that it has are replaced elsewhere and then stopped.
    Draining {
        /// When they are stopped even if nothing has replaced them.
        deadline: Timestamp,
    },
    /// Nothing runs there, not even what has its data there or is on every host.
    Maintenance,
}

impl Availability {
    /// Whether what is there has to go.
    pub fn is_emptying(self) -> bool {
        matches!(self, Availability::Draining { .. } | Availability::Maintenance)
    }

    /// The state's name.
    pub fn word(&self) -> &'static str {
        match self {
            Availability::Active => "active",
            Availability::Cordoned => "cordoned",
            Availability::Draining { .. } => "draining",
            Availability::Maintenance => "in maintenance",
        }
    }
}

/// How much of what a host has may be reserved, in hundredths of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Oversubscription {
    /// Of its processor time.
    pub cpu: u32,
    /// Of its memory.
    pub memory: u32,
}

impl Default for Oversubscription {
    fn default() -> Oversubscription {
        Oversubscription { cpu: 100, memory: 100 }
    }
}

impl Oversubscription {
    /// The hundredths that make sense.
    pub const RANGE: RangeInclusive<u32> = 10..=1000;

    /// What may be reserved of a host.
    pub fn of(self, facts: &HostFacts) -> Resources {
        let part = |all: u64, hundredths: u32| (u128::from(all) * u128::from(hundredths) / 100) as u64;
        Resources { cpu: MilliCpu(part(facts.cpu.0, self.cpu)), memory: Bytes(part(facts.memory.0, self.memory)) }
    }
}

/// Labels that people put on a host.
pub type HostLabels = BTreeMap<String, String>;
