//! What a container is made from.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    device::DeviceRequest,
    file::FileSpec,
    quantity::{Bytes, MilliCpu},
    time::Span,
};

use super::{HostEntry, Isolation, MountSpec, ResolverSpec, Tuning};

/// A program, its image and its surroundings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ContainerSpec {
    /// The image reference, as Docker takes it.
    pub image: String,
    /// When the image is pulled.
    #[serde(default)]
    pub pull: PullPolicy,
    /// Replaces the image's command.
    #[serde(default)]
    pub command: Option<Vec<String>>,
    /// Replaces the image's entrypoint.
    #[serde(default)]
    pub entrypoint: Option<Vec<String>>,
    /// The user to run as, `user[:group]`.
    #[serde(default)]
    pub user: Option<String>,
    /// The directory to start in.
    #[serde(default)]
    pub working_dir: Option<String>,
    /// Environment variables.
    #[serde(default)]
    pub environment: BTreeMap<String, String>,
    /// Its labels.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// What is mounted where.
    #[serde(default)]
    pub mounts: Vec<MountSpec>,
    /// Configs and secrets in it.
    #[serde(default)]
    pub files: Vec<FileSpec>,
    /// How health is checked; the image's own check if absent.
    #[serde(default)]
    pub healthcheck: Option<HealthCheck>,
    /// What happens on the host when the program ends.
    #[serde(default)]
    pub restart: RestartPolicy,
    /// The time between SIGTERM and SIGKILL.
    #[serde(default = "default_stop_grace")]
    pub stop_grace: Span,
    /// What placement sets aside for it.
    #[serde(default)]
    pub reservations: Resources,
    /// What it may use at most.
    #[serde(default)]
    pub limits: Resources,
    /// The devices that it has to itself, by kind.
    #[serde(default)]
    pub devices: BTreeMap<String, DeviceRequest>,
    /// Where its output goes, and how much of it is kept.
    #[serde(default)]
    pub log: LogSpec,
    /// The host name that it sees for itself; the engine makes one up if absent.
    #[serde(default)]
    pub hostname: Option<String>,
    /// The domain that it sees for itself.
    #[serde(default)]
    pub domainname: Option<String>,
    /// Who answers the names that are not the cluster's, and how it asks.
    #[serde(default)]
    pub resolver: ResolverSpec,
    /// Further lines of its `/etc/hosts`.
    #[serde(default)]
    pub extra_hosts: Vec<HostEntry>,
    /// Whether a small first process passes signals on and buries the dead; as the engine is set up if absent.
    #[serde(default)]
    pub init: Option<bool>,
    /// Whether its output is a terminal.
    #[serde(default)]
    pub tty: bool,
    /// Whether its input stays open.
    #[serde(default)]
    pub stdin_open: bool,
    /// The signal that asks it to end, such as `SIGINT`; the image's own if absent.
    #[serde(default)]
    pub stop_signal: Option<String>,
    /// Whether its root file system may only be read.
    #[serde(default)]
    pub read_only: bool,
    /// Paths that lie in memory, with mount options such as `size=64m,mode=1777`.
    #[serde(default)]
    pub tmpfs: BTreeMap<String, String>,
    /// Annotations for the runtime.
    #[serde(default)]
    pub annotations: BTreeMap<String, String>,
    /// The platform whose image is meant, `os[/arch[/variant]]`; only hosts of it are chosen.
    #[serde(default)]
    pub platform: Option<String>,
    /// The runtime that makes it, as the host's Docker knows it.
    #[serde(default)]
    pub runtime: Option<String>,
    /// What keeps it and its host apart.
    #[serde(default)]
    pub isolation: Isolation,
    /// What the kernel gives it beside processor time and memory.
    #[serde(default)]
    pub tuning: Tuning,
}

impl ContainerSpec {
    /// A container of an image, with every default.
    pub fn of_image(image: &str) -> ContainerSpec {
        ContainerSpec {
            image: image.to_owned(),
            pull: PullPolicy::default(),
            command: None,
            entrypoint: None,
            user: None,
            working_dir: None,
            environment: BTreeMap::new(),
            labels: BTreeMap::new(),
            mounts: Vec::new(),
            files: Vec::new(),
            healthcheck: None,
            restart: RestartPolicy::default(),
            stop_grace: default_stop_grace(),
            reservations: Resources::default(),
            limits: Resources::default(),
            devices: BTreeMap::new(),
            log: LogSpec::default(),
            hostname: None,
            domainname: None,
            resolver: ResolverSpec::default(),
            extra_hosts: Vec::new(),
            init: None,
            tty: false,
            stdin_open: false,
            stop_signal: None,
            read_only: false,
            tmpfs: BTreeMap::new(),
            annotations: BTreeMap::new(),
            platform: None,
            runtime: None,
            isolation: Isolation::default(),
            tuning: Tuning::default(),
        }
    }
}

/// When a host pulls an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum PullPolicy {
    /// If it is not on the host.
    #[default]
    Missing,
    /// Before each new instance.
    Always,
    /// Never: the image must be on the host.
    Never,
}

/// A command that tells whether an instance works.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct HealthCheck {
    /// `["CMD", program, arguments…]`, `["CMD-SHELL", line]` or `["NONE"]`.
    pub test: Vec<String>,
    /// The time between two checks.
    #[serde(default = "default_health_interval")]
    pub interval: Span,
    /// The time one check may take.
    #[serde(default = "default_health_timeout")]
    pub timeout: Span,
    /// Failures in a row that make it unhealthy.
    #[serde(default = "default_health_retries")]
    pub retries: u32,
    /// The time after the start in which failures do not count.
    #[serde(default)]
    pub start_period: Span,
    /// The time between two checks within the start period, as Docker 25 and later know it; `interval` if absent.
    #[serde(default)]
    pub start_interval: Option<Span>,
}

impl HealthCheck {
    /// No check, not even that of the image.
    pub fn none() -> HealthCheck {
        HealthCheck::of(vec!["NONE".to_owned()])
    }

    /// A test with every default.
    pub fn of(test: Vec<String>) -> HealthCheck {
        HealthCheck {
            test,
            interval: default_health_interval(),
            timeout: default_health_timeout(),
            retries: default_health_retries(),
            start_period: Span(0),
            start_interval: None,
        }
    }
}

/// What the host does when the program of an instance ends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RestartPolicy {
    /// Which ends are followed by a restart.
    #[serde(default)]
    pub condition: RestartCondition,
    /// The delay before the first restart; doubled each time up to a minute.
    #[serde(default = "default_restart_delay")]
    pub delay: Span,
    /// Restarts within the window before the host gives up; no limit if absent.
    #[serde(default)]
    pub max_attempts: Option<u32>,
    /// A run longer than this forgets earlier failures.
    #[serde(default = "default_restart_window")]
    pub window: Span,
}

impl RestartPolicy {
    /// Whether a failure is final after so many retries.
    pub fn is_used_up(&self, retries: u32) -> bool {
        self.condition == RestartCondition::None || self.max_attempts.is_some_and(|most| retries >= most)
    }
}

/// Which ends of a program are followed by a restart on the same host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum RestartCondition {
    /// None: the instance has then ended for good.
    None,
    /// An exit code other than zero.
    OnFailure,
    /// Every end.
    #[default]
    Any,
}

/// Amounts of what a host has; zero is "not stated".
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Resources {
    /// Processor time in thousandths of a core.
    #[serde(default)]
    pub cpu: MilliCpu,
    /// Memory in bytes.
    #[serde(default)]
    pub memory: Bytes,
}

impl std::ops::Add for Resources {
    type Output = Resources;
    fn add(self, other: Resources) -> Resources {
        Resources {
            cpu: MilliCpu(self.cpu.0.saturating_add(other.cpu.0)),
            memory: Bytes(self.memory.0.saturating_add(other.memory.0)),
        }
    }
}

impl Resources {
    /// The larger amount of each.
    pub fn max(self, other: Resources) -> Resources {
        Resources { cpu: self.cpu.max(other.cpu), memory: self.memory.max(other.memory) }
    }
}

/// Where a container's output goes: a logging driver of Docker's and its options.
///
/// `json-file` and `local` keep at most three files of 10 MiB unless `max-size` and `max-file` say otherwise: Docker's
/// own default for `json-file` is all of it, for ever.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LogSpec {
    /// The driver; `json-file` if absent.
    #[serde(default)]
    pub driver: Option<String>,
    /// What the driver is told, in its own words.
    #[serde(default)]
    pub options: BTreeMap<String, String>,
}

impl LogSpec {
    /// The driver that is used.
    pub fn driver(&self) -> &str {
        self.driver.as_deref().unwrap_or("json-file")
    }

    /// All that the driver is told, with the limits that hold where none are asked for.
    pub fn told(&self) -> BTreeMap<String, String> {
        let mut told = self.options.clone();
        if ["json-file", "local"].contains(&self.driver()) {
            for (option, value) in [("max-size", "10485760"), ("max-file", "3")] {
                told.entry(option.to_owned()).or_insert_with(|| value.to_owned());
            }
        }
        told
    }
}

impl Default for RestartPolicy {
    fn default() -> RestartPolicy {
        RestartPolicy {
            condition: RestartCondition::Any,
            delay: default_restart_delay(),
            max_attempts: None,
            window: default_restart_window(),
        }
    }
}

fn default_stop_grace() -> Span {
    Span::seconds(10)
}

fn default_health_interval() -> Span {
    Span::seconds(10)
}

fn default_health_timeout() -> Span {
    Span::seconds(5)
}

fn default_health_retries() -> u32 {
    3
}

fn default_restart_delay() -> Span {
    Span::seconds(1)
}

fn default_restart_window() -> Span {
    Span::minutes(10)
}
