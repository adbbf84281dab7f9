//! The spec of a container.

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

/// A program: its image, and the environment that it runs in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ContainerSpec {
    /// The image reference, in Docker's syntax.
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
    /// Container labels, beside wharf's own.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// The volumes, host paths and tmpfs, with their paths in the container.
    #[serde(default)]
    pub mounts: Vec<MountSpec>,
    /// The configs and secrets that it gets as files.
    #[serde(default)]
    pub files: Vec<FileSpec>,
    /// The health check; the image's own if absent.
    #[serde(default)]
    pub healthcheck: Option<HealthCheck>,
    /// The host's reaction when the program ends.
    #[serde(default)]
    pub restart: RestartPolicy,
    /// The time between SIGTERM and SIGKILL.
    #[serde(default = "default_stop_grace")]
    pub stop_grace: Span,
    /// The resources that the planner reserves for it.
    #[serde(default)]
    pub reservations: Resources,
    /// The resources that it may use at most.
    #[serde(default)]
    pub limits: Resources,
    /// The devices reserved for it, by kind.
    #[serde(default)]
    pub devices: BTreeMap<String, DeviceRequest>,
    /// Where Docker writes its output, and how much is kept.
    #[serde(default)]
    pub log: LogSpec,
    /// Its own hostname; Docker chooses one if absent.
    #[serde(default)]
    pub hostname: Option<String>,
    /// Its own domain name.
    #[serde(default)]
    pub domainname: Option<String>,
    /// How it resolves names outside the cluster.
    #[serde(default)]
    pub resolver: ResolverSpec,
    /// Additional lines of its `/etc/hosts`.
    #[serde(default)]
    pub extra_hosts: Vec<HostEntry>,
    /// Whether a small init process forwards signals and reaps zombies; Docker's default if absent.
    #[serde(default)]
    pub init: Option<bool>,
    /// Whether it has a pseudo terminal.
    #[serde(default)]
    pub tty: bool,
    /// Whether its input stays open.
    #[serde(default)]
    pub stdin_open: bool,
    /// The signal that asks it to end, such as `SIGINT`; the image's own if absent.
    #[serde(default)]
    pub stop_signal: Option<String>,
    /// Whether its root file system is read-only.
    #[serde(default)]
    pub read_only: bool,
    /// Paths in memory, with mount options such as `size=64m,mode=1777`.
    #[serde(default)]
    pub tmpfs: BTreeMap<String, String>,
    /// Annotations for the OCI runtime.
    #[serde(default)]
    pub annotations: BTreeMap<String, String>,
    /// The image's platform, `os[/arch[/variant]]`. Only matching hosts are chosen.
    #[serde(default)]
    pub platform: Option<String>,
    /// The OCI runtime, by its name in the host's Docker.
    #[serde(default)]
    pub runtime: Option<String>,
    /// Its isolation from the host.
    #[serde(default)]
    pub isolation: Isolation,
    /// Kernel limits and weights besides CPU and memory.
    #[serde(default)]
    pub tuning: Tuning,
}

impl ContainerSpec {
    /// A container of an image with default settings.
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
    /// Only if the host does not have it.
    #[default]
    Missing,
    /// Before each new instance.
    Always,
    /// Never: the host must have it already.
    Never,
}

/// A command that checks whether an instance works.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct HealthCheck {
    /// `["CMD", program, arguments…]`, `["CMD-SHELL", line]` or `["NONE"]`.
    pub test: Vec<String>,
    /// The interval between two checks.
    #[serde(default = "default_health_interval")]
    pub interval: Span,
    /// The maximum duration of a check.
    #[serde(default = "default_health_timeout")]
    pub timeout: Span,
    /// The number of failures in a row that make the instance unhealthy.
    #[serde(default = "default_health_retries")]
    pub retries: u32,
    /// The time after the start during which failures do not count.
    #[serde(default)]
    pub start_period: Span,
    /// The interval during the start period (Docker 25 and later); `interval` if absent.
    #[serde(default)]
    pub start_interval: Option<Span>,
}

impl HealthCheck {
    /// No health check, not even the image's.
    pub fn none() -> HealthCheck {
        HealthCheck::of(vec!["NONE".to_owned()])
    }

    /// A health check with default settings.
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

/// The host's reaction when the program of an instance ends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RestartPolicy {
    /// Which exits lead to a restart.
    #[serde(default)]
    pub condition: RestartCondition,
    /// The delay before the first restart. It doubles with each restart, up to a minute.
    #[serde(default = "default_restart_delay")]
    pub delay: Span,
    /// The maximum number of retries before the host gives up; no limit if absent.
    #[serde(default)]
    pub max_attempts: Option<u32>,
    /// A run longer than this resets the count of failures.
    #[serde(default = "default_restart_window")]
    pub window: Span,
}

impl RestartPolicy {
    /// Whether a failure is final after this number of retries.
    pub fn is_used_up(&self, retries: u32) -> bool {
        self.condition == RestartCondition::None || self.max_attempts.is_some_and(|most| retries >= most)
    }
}

/// Which exits of a program lead to a restart on the same host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum RestartCondition {
    /// None: the instance has then ended for good.
    None,
    /// An exit code other than zero.
    OnFailure,
    /// Every exit.
    #[default]
    Any,
}

/// Amounts of a host's resources; zero means "not stated".
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Resources {
    /// CPU in thousandths of a core.
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
    /// The larger amount of each resource.
    pub fn max(self, other: Resources) -> Resources {
        Resources { cpu: self.cpu.max(other.cpu), memory: self.memory.max(other.memory) }
    }
}

/// The output of a container: a Docker logging driver and its options.
///
/// `json-file` and `local` keep at most three files of 10 MiB unless `max-size` and `max-file` are set, because
/// Docker's `json-file` by default keeps everything.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LogSpec {
    /// The logging driver; `json-file` if absent.
    #[serde(default)]
    pub driver: Option<String>,
    /// The options, in the driver's own terms.
    #[serde(default)]
    pub options: BTreeMap<String, String>,
}

impl LogSpec {
    /// The driver in effect.
    pub fn driver(&self) -> &str {
        self.driver.as_deref().unwrap_or("json-file")
    }

    /// The options in effect, including our default limits.
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
