//! What a spec asks for that containers do not have by themselves: the one list of it, for those who look at a plan and
//! for rules about who may ask.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{CgroupMode, ContainerSpec, HostAddress, IpcMode, MountSource, NetworkMode, ServiceSpec};

/// Something by which a container can do more to its host, or see more of it, than one usually can.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Privilege {
    /// It is root on its host.
    Privileged,
    /// It speaks with Docker, so it can do all that root can.
    Docker {
        /// The socket's path.
        path: String,
    },
    /// It may write to a path of the host.
    WritesHost {
        /// The path.
        path: String,
    },
    /// It may read a path of the host.
    ReadsHost {
        /// The path.
        path: String,
    },
    /// It has a capability beside Docker's own choice.
    Capability(String),
    /// A filter of the kernel is weakened: `seccomp`, `apparmor`, `label` or `systempaths`.
    Filter(String),
    /// It reaches a device of the host, or those that a rule names.
    Device(String),
    /// It is on the host's network.
    HostNetwork,
    /// It may call programs of the host.
    HostGateway,
    /// It sees the host's processes.
    HostProcesses,
    /// It shares the host's memory segments.
    HostIpc,
    /// It may change the host's name.
    HostName,
    /// Its users are the host's, where others are remapped.
    HostUsers,
    /// It sees the host's control groups, or is put below one of them.
    ControlGroups,
    /// Another runtime than the usual one makes it.
    Runtime(String),
}

impl ServiceSpec {
    /// All privileges that it asks for, of all its containers.
    pub fn privileges(&self) -> BTreeSet<Privilege> {
        let mut asked: BTreeSet<Privilege> =
            self.containers().flat_map(|(_, container)| container.privileges()).collect();
        if self.network_mode == NetworkMode::Host {
            asked.insert(Privilege::HostNetwork);
        }
        // A volume of Docker's own driver may be a path of the host by another name.
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
                    // A socket that may only be read is spoken with all the same.
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

/// A capability as the kernel names it, without `CAP_`, in capital letters.
pub(super) fn capability(name: &str) -> String {
    let name = name.to_ascii_uppercase();
    name.strip_prefix("CAP_").map(str::to_owned).unwrap_or(name)
}

/// Which filter an option weakens, if it does.
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
