//! What a container is made from.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    device::DeviceRequest,
    file::FileSpec,
    name::Name,
    quantity::{Bytes, MilliCpu},
    time::Span,
};

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
    /// How much of its output the host keeps.
    #[serde(default)]
    pub log: LogOptions,
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
            log: LogOptions::default(),
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

/// Something mounted into a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MountSpec {
    /// What is mounted.
    pub source: MountSource,
    /// The absolute path in the container.
    pub target: String,
    /// Whether the container may only read it.
    #[serde(default)]
    pub read_only: bool,
}

/// What a mount shows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum MountSource {
    /// An absolute path of the host.
    Bind(String),
    /// A named volume of the stack.
    Volume(Name),
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

/// How much output the host keeps of a container: Docker's own default is all of it, for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LogOptions {
    /// The size at which a file is rotated.
    pub max_size: Bytes,
    /// The number of files kept.
    pub max_files: u32,
}

impl Default for LogOptions {
    fn default() -> LogOptions {
        LogOptions { max_size: Bytes(10 << 20), max_files: 3 }
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
