//! What keeps a container and its host apart, and what of that a spec asks to be taken down.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What keeps a container and its host apart; each default is Docker's.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Isolation {
    /// Whether nothing does: all capabilities, all devices, no filter.
    pub privileged: bool,
    /// Capabilities beside Docker's own choice, or `ALL`.
    pub cap_add: Vec<String>,
    /// Capabilities that it does not have, or `ALL`.
    pub cap_drop: Vec<String>,
    /// Options such as `no-new-privileges:true` and `apparmor=unconfined`; a seccomp profile is given as its text.
    pub security_opt: Vec<String>,
    /// Devices of the host that are in it, whoever else uses them.
    pub devices: Vec<HostDevice>,
    /// Rules for devices, such as `c 1:3 mr`.
    pub device_cgroup_rules: Vec<String>,
    /// Groups that its user is in beside the image's, by name or number.
    pub group_add: Vec<String>,
    /// Whose memory is shared and whose semaphores are seen; the container's own if absent.
    pub ipc: Option<IpcMode>,
    /// Whether it sees the host's processes.
    pub host_pid: bool,
    /// Whether it has the host's name.
    pub host_uts: bool,
    /// Whether its users are the host's where Docker remaps them.
    pub host_users: bool,
    /// Which control groups it sees; as the engine is set up if absent.
    pub cgroup: Option<CgroupMode>,
    /// The control group that it is put below.
    pub cgroup_parent: Option<String>,
}

/// A device of the host in a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct HostDevice {
    /// The host's path, of a device or of a folder of them.
    pub source: String,
    /// The path in the container.
    pub target: String,
    /// What may be done: of `r`, `w` and `m`, which is to make it.
    #[serde(default = "all_permissions")]
    pub permissions: String,
}

fn all_permissions() -> String {
    "rwm".to_owned()
}

/// Whose shared memory and semaphores a container sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum IpcMode {
    /// None: there is no `/dev/shm` either.
    None,
    /// Its own.
    Private,
    /// Its own, which another container may share.
    Shareable,
    /// The host's.
    Host,
}

/// Which control groups a container sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum CgroupMode {
    /// Its own alone.
    Private,
    /// The host's.
    Host,
}
