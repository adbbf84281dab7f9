//! The isolation of a container from its host, and the exceptions that a spec can ask for.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The isolation of a container from its host. Each default is Docker's.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Isolation {
    /// Whether there is no isolation: all capabilities, all devices, no filters.
    pub privileged: bool,
    /// Capabilities in addition to Docker's default, or `ALL`.
    pub cap_add: Vec<String>,
    /// Capabilities to remove, or `ALL`.
    pub cap_drop: Vec<String>,
    /// Options such as `no-new-privileges:true` and `apparmor=unconfined`. A seccomp profile is given as its JSON text.
    pub security_opt: Vec<String>,
    /// Host devices in the container; they may be shared with others.
    pub devices: Vec<HostDevice>,
    /// Device cgroup rules, such as `c 1:3 mr`.
    pub device_cgroup_rules: Vec<String>,
    /// Additional groups of its user, by name or number.
    pub group_add: Vec<String>,
    /// Its IPC namespace, with shared memory and semaphores; its own if absent.
    pub ipc: Option<IpcMode>,
    /// Whether it uses the host's PID namespace.
    pub host_pid: bool,
    /// Whether it uses the host's UTS namespace, which holds the hostname.
    pub host_uts: bool,
    /// Whether it uses the host's user ids even if Docker remaps them.
    pub host_users: bool,
    /// Its cgroup namespace; Docker's default if absent.
    pub cgroup: Option<CgroupMode>,
    /// The parent cgroup.
    pub cgroup_parent: Option<String>,
}

/// A host device in a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct HostDevice {
    /// The path on the host, of a device or of a folder with devices.
    pub source: String,
    /// The path in the container.
    pub target: String,
    /// The allowed operations: `r` to read, `w` to write, `m` to create the node.
    #[serde(default = "all_permissions")]
    pub permissions: String,
}

fn all_permissions() -> String {
    "rwm".to_owned()
}

/// The IPC namespace of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum IpcMode {
    /// None: there is no `/dev/shm` either.
    None,
    /// Its own, not shared.
    Private,
    /// Its own; other containers may share it.
    Shareable,
    /// The host's.
    Host,
}

/// The cgroup namespace of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum CgroupMode {
    /// Its own.
    Private,
    /// The host's.
    Host,
}
