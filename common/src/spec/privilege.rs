//! The privileges that a spec asks for beyond those of a normal container. Plans show them, and rules about who may ask
//! use them.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{CgroupMode, ContainerSpec, HostAddress, IpcMode, MountSource, NetworkMode, ServiceSpec};

/// A way for a container to control or see more of its host than usual.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Privilege {
    /// It has full root rights on its host.
    Privileged,
    /// It can control Docker, which amounts to root rights.
    Docker {
        /// The path of the socket on the host.
        path: String,
    },
    /// It can write to a host path.
    WritesHost {
        /// The path on the host.
        path: String,
    },
    /// It can read a host path.
    ReadsHost {
        /// The path on the host.
        path: String,
    },
    /// It has a capability in addition to Docker's default.
    Capability(String),
    /// A security filter of the kernel is weakened: `seccomp`, `apparmor`, `label` or `systempaths`.
    Filter(String),
    /// It can use a host device, or those in a device rule.
    Device(String),
    /// It uses the host's network.
    HostNetwork,
    /// It can reach programs on the host.
    HostGateway,
    /// It sees all processes of the host.
    HostProcesses,
    /// It shares memory segments with the host.
    HostIpc,
    /// It can change the host's hostname.
    HostName,
    /// It uses the host's user ids, where other containers have remapped ones.
    HostUsers,
    /// It sees the host's cgroups, or runs in one of them.
    ControlGroups,
    /// It runs under another OCI runtime than the default one.
    Runtime(String),
}

impl ServiceSpec {
    /// All privileges that the service's containers ask for.
    pub fn privileges(&self) -> BTreeSet<Privilege> {
        let mut asked: BTreeSet<Privilege> =
            self.containers().flat_map(|(_, container)| container.privileges()).collect();
        if self.network_mode == NetworkMode::Host {
            asked.insert(Privilege::HostNetwork);
        }
        // A volume of Docker's `local` driver may be a bind mount of a host path.
        let bound = self.volumes.values().filter(|volume| !volume.is_shared());
        asked.extend(
            bound
                .filter_map(|volume| volume.driver_opts.get("device").cloned())
                .map(|path| Privilege::WritesHost { path }),
        );
        asked
    }
}

impl ContainerSpec {
    fn privileges(&self) -> Vec<Privilege> {
        let isolation = &self.isolation;
        let mut asked: Vec<Privilege> =
            isolation.cap_add.iter().map(|name| Privilege::Capability(capability(name))).collect();
        let flags = [
            (isolation.privileged, Privilege::Privileged),
            (isolation.host_pid, Privilege::HostProcesses),
            (isolation.host_uts, Privilege::HostName),
            (isolation.host_users, Privilege::HostUsers),
            (isolation.ipc == Some(IpcMode::Host), Privilege::HostIpc),
            (isolation.cgroup == Some(CgroupMode::Host) || isolation.cgroup_parent.is_some(), Privilege::ControlGroups),
            (self.extra_hosts.iter().any(|host| host.address == HostAddress::HostGateway), Privilege::HostGateway),
        ];
        asked.extend(flags.into_iter().filter(|(is_asked, _)| *is_asked).map(|(_, privilege)| privilege));
        asked.extend(isolation.security_opt.iter().filter_map(|option| weakened(option)).map(Privilege::Filter));
        asked.extend(isolation.devices.iter().map(|device| Privilege::Device(device.source.clone())));
        asked.extend(isolation.device_cgroup_rules.iter().cloned().map(Privilege::Device));
        asked.extend(self.runtime.iter().filter(|runtime| *runtime != "runc").cloned().map(Privilege::Runtime));
        asked.extend(self.mounts.iter().filter_map(|mount| match &mount.source {
            MountSource::Bind(path) => {
                let path = path.clone();
                Some(match mount.read_only {
                    // A read-only mount of a socket still allows connections to it.
                    _ if path.ends_with("/docker.sock") => Privilege::Docker { path },
                    true => Privilege::ReadsHost { path },
                    false => Privilege::WritesHost { path },
                })
            }
            MountSource::Volume(_) | MountSource::Anonymous | MountSource::Tmpfs(_) => None,
        }));
        asked
    }
}

/// The capability in the kernel's spelling: capital letters, without `CAP_`.
pub(super) fn capability(name: &str) -> String {
    let name = name.to_ascii_uppercase();
    name.strip_prefix("CAP_").map(str::to_owned).unwrap_or(name)
}

/// The filter that a security option weakens, if any.
fn weakened(option: &str) -> Option<String> {
    let (filter, _) = option.split_once(['=', ':'])?;
    let is_tightening = filter == "no-new-privileges" || option == "seccomp=builtin";
    (!is_tightening).then(|| filter.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::{HostDevice, HostEntry, MountSpec};

    #[test]
    fn what_a_spec_asks_for_is_listed() {
        assert!(ServiceSpec::of_image("web:1").privileges().is_empty());
        let mut spec = ServiceSpec::of_image("web:1");
        let container = &mut spec.container;
        container.isolation.cap_drop = vec!["ALL".into()];
        container.isolation.security_opt = vec!["no-new-privileges:true".into(), "seccomp=builtin".into()];
        assert!(spec.privileges().is_empty(), "what takes away is no privilege");
        let container = &mut spec.container;
        container.isolation.cap_add = vec!["cap_net_admin".into()];
        container.isolation.privileged = true;
        container.isolation.host_pid = true;
        container.isolation.security_opt.push("apparmor=unconfined".into());
        let device = "/dev/fuse".to_owned();
        container.isolation.devices.push(HostDevice {
            source: device.clone(),
            target: device,
            permissions: "r".into(),
        });
        let address = HostAddress::HostGateway;
        container.extra_hosts.push(HostEntry { name: "host.docker.internal".into(), address });
        let bind = MountSource::Bind("/etc".into());
        container.mounts.push(MountSpec { read_only: true, ..MountSpec::of(bind, "/host") });
        spec.network_mode = NetworkMode::Host;
        let asked = [
            Privilege::Privileged,
            Privilege::ReadsHost { path: "/etc".into() },
            Privilege::Capability("NET_ADMIN".into()),
            Privilege::Filter("apparmor".into()),
            Privilege::Device("/dev/fuse".into()),
            Privilege::HostNetwork,
            Privilege::HostGateway,
            Privilege::HostProcesses,
        ];
        assert_eq!(spec.privileges().into_iter().collect::<Vec<_>>(), asked);
    }
}
