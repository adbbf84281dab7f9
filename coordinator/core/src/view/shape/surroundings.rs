//! What of a container's surroundings is not as it is by default: one fact for each key of a compose file.

use std::{collections::BTreeMap, fmt::Debug};

use common::{
    api::Aspect,
    name::Name,
    part::Part,
    spec::{
        Attachment, Blkio, ContainerSpec, HostDevice, HostEntry, Isolation, LogSpec, MountSource, MountSpec,
        NetworkMode, ResolverSpec, TmpfsOptions, Tuning, Ulimit, VolumeName, VolumeSpec,
    },
};

use super::Shape;

/// Collects the options of a part.
struct Options<'a> {
    shape: &'a mut Shape,
    part: &'a Part,
}

impl Options<'_> {
    /// An option whose value may be seen.
    fn say(&mut self, key: &str, text: impl ToString) {
        self.shape.named(self.part, Aspect::Option, Some(key), text);
    }

    fn flag(&mut self, key: &str, is_set: bool) {
        if is_set {
            self.say(key, "");
        }
    }

    fn maybe<T: ToString>(&mut self, key: &str, value: Option<&T>) {
        if let Some(value) = value {
            self.say(key, value.to_string());
        }
    }

    fn list<T: ToString>(&mut self, key: &str, values: &[T]) {
        if !values.is_empty() {
            self.say(key, values.iter().map(T::to_string).collect::<Vec<_>>().join(", "));
        }
    }

    fn each<T: ToString>(&mut self, key: &str, values: &BTreeMap<String, T>) {
        values.iter().for_each(|(name, value)| self.say(&format!("{key}.{name}"), value.to_string()));
    }

    /// An option that may hold a password.
    fn hidden(&mut self, key: &str, value: &impl Debug) {
        self.shape.hidden(self.part, Aspect::Option, Some(key), value);
    }
}

/// The network of a service, and the volumes that it mounts.
pub(super) fn service(
    shape: &mut Shape,
    mode: NetworkMode,
    networks: &BTreeMap<Name, Attachment>,
    volumes: &BTreeMap<VolumeName, VolumeSpec>,
) {
    let mut options = Options { shape, part: &Part::Main };
    match mode {
        NetworkMode::Cluster => {}
        NetworkMode::None => options.say("network_mode", "none"),
        NetworkMode::Host => options.say("network_mode", "host"),
    }
    for (name, Attachment { internal, aliases }) in networks {
        let internal = internal.then(|| "internal".to_owned());
        let also = aliases.iter().map(|alias| format!("also {alias}"));
        let text: Vec<String> = internal.into_iter().chain(also).collect();
        options.say(&format!("network {name}"), text.join(", "));
    }
    for (volume, VolumeSpec { driver, driver_opts, labels, name, external }) in volumes {
        options.maybe(&format!("volume {volume}.driver"), driver.as_ref());
        options.maybe(&format!("volume {volume}.name"), name.as_ref());
        options.flag(&format!("volume {volume}.external"), *external);
        let maps = [("driver_opts", driver_opts), ("labels", labels)];
        for (key, map) in maps.into_iter().filter(|(_, map)| !map.is_empty()) {
            options.hidden(&format!("volume {volume}.{key}"), map);
        }
    }
}

/// What a container is given beside its program.
pub(super) fn container(shape: &mut Shape, part: &Part, spec: &ContainerSpec) {
    let mut options = Options { shape, part };
    options.maybe("hostname", spec.hostname.as_ref());
    options.maybe("domainname", spec.domainname.as_ref());
    let ResolverSpec { servers, search, options: resolver } = &spec.resolver;
    options.list("dns", servers);
    options.list("dns_search", search);
    options.list("dns_opt", resolver);
    for HostEntry { name, address } in &spec.extra_hosts {
        options.say(&format!("extra_hosts.{name}"), address);
    }
    options.maybe("init", spec.init.as_ref());
    options.flag("tty", spec.tty);
    options.flag("stdin_open", spec.stdin_open);
    options.maybe("stop_signal", spec.stop_signal.as_ref());
    options.flag("read_only", spec.read_only);
    options.each("tmpfs", &spec.tmpfs);
    options.maybe("platform", spec.platform.as_ref());
    options.maybe("runtime", spec.runtime.as_ref());
    if !spec.annotations.is_empty() {
        options.hidden("annotations", &spec.annotations);
    }
    logging(&mut options, &spec.log);
    isolation(&mut options, &spec.isolation);
    tuning(&mut options, &spec.tuning);
}

/// Some drivers are given a token.
fn logging(options: &mut Options<'_>, LogSpec { driver, options: told }: &LogSpec) {
    options.maybe("logging.driver", driver.as_ref());
    for (name, value) in told {
        let key = format!("logging.{name}");
        if ["max-size", "max-file"].contains(&name.as_str()) {
            options.say(&key, value);
        } else {
            options.hidden(&key, value);
        }
    }
}

fn isolation(options: &mut Options<'_>, isolation: &Isolation) {
    let Isolation {
        privileged,
        cap_add,
        cap_drop,
        security_opt,
        devices,
        device_cgroup_rules,
        group_add,
        ipc,
        host_pid,
        host_uts,
        host_users,
        cgroup,
        cgroup_parent,
    } = isolation;
    options.flag("privileged", *privileged);
    options.list("cap_add", cap_add);
    options.list("cap_drop", cap_drop);
    // A profile is long.
    let first_line = |text: &String| text.chars().take(60).collect::<String>();
    options.list("security_opt", &security_opt.iter().map(first_line).collect::<Vec<_>>());
    if security_opt.iter().any(|text| text.chars().count() > 60) {
        options.hidden("security_opt text", security_opt);
    }
    let device = |HostDevice { source, target, permissions }: &HostDevice| format!("{source}:{target}:{permissions}");
    options.list("devices", &devices.iter().map(device).collect::<Vec<_>>());
    options.list("device_cgroup_rules", device_cgroup_rules);
    options.list("group_add", group_add);
    options.maybe("ipc", ipc.map(|ipc| format!("{ipc:?}").to_lowercase()).as_ref());
    options.maybe("cgroup", cgroup.map(|cgroup| format!("{cgroup:?}").to_lowercase()).as_ref());
    options.maybe("cgroup_parent", cgroup_parent.as_ref());
    for (key, is_host) in [("pid", host_pid), ("uts", host_uts), ("userns_mode", host_users)] {
        if *is_host {
            options.say(key, "host");
        }
    }
}

fn tuning(options: &mut Options<'_>, tuning: &Tuning) {
    let Tuning {
        pids_limit,
        memory_swap,
        memory_swappiness,
        cpu_shares,
        cpu_quota,
        cpu_period,
        cpu_rt_runtime,
        cpu_rt_period,
        cpuset,
        oom_score_adj,
        oom_kill_disable,
        shm_size,
        ulimits,
        sysctls,
        storage_opt,
        blkio,
    } = tuning;
    options.maybe("pids_limit", pids_limit.as_ref());
    options.maybe("memswap_limit", memory_swap.as_ref());
    options.maybe("mem_swappiness", memory_swappiness.as_ref());
    options.maybe("cpu_shares", cpu_shares.as_ref());
    options.maybe("cpu_quota", cpu_quota.as_ref());
    options.maybe("cpu_period", cpu_period.as_ref());
    options.maybe("cpu_rt_runtime", cpu_rt_runtime.as_ref());
    options.maybe("cpu_rt_period", cpu_rt_period.as_ref());
    options.maybe("cpuset", cpuset.as_ref());
    options.maybe("oom_score_adj", oom_score_adj.as_ref());
    options.flag("oom_kill_disable", *oom_kill_disable);
    options.maybe("shm_size", shm_size.as_ref());
    ulimits.iter().for_each(|(name, limit)| options.say(&format!("ulimits.{name}"), range(limit)));
    options.each("sysctls", sysctls);
    options.each("storage_opt", storage_opt);
    if *blkio != Blkio::default() {
        options.hidden("blkio_config", blkio);
    }
}

fn range(Ulimit { soft, hard }: &Ulimit) -> String {
    if soft == hard { soft.to_string() } else { format!("{soft}:{hard}") }
}

/// What is mounted, and how.
pub(super) fn mount(mount: &MountSpec) -> String {
    let MountSpec { source, target: _, read_only, propagation, create_host_path, nocopy, subpath } = mount;
    let what = match source {
        MountSource::Bind(path) => format!("its host's {path}"),
        MountSource::Volume(name) => format!("volume {name}"),
        MountSource::Anonymous => "a volume of its own".to_owned(),
        MountSource::Tmpfs(TmpfsOptions { size, mode }) => {
            let size = size.map_or_else(String::new, |size| format!(" of {size}"));
            let mode = mode.map_or_else(String::new, |mode| format!(", mode {mode:04o}"));
            format!("memory{size}{mode}")
        }
    };
    let within = subpath.as_ref().map_or_else(String::new, |subpath| format!("/{subpath}"));
    let notes = [
        read_only.then(|| "read-only".to_owned()),
        propagation.map(|propagation| format!("{propagation:?}").to_lowercase()),
        create_host_path.then(|| "created if missing".to_owned()),
        nocopy.then(|| "without a copy of the image's files".to_owned()),
    ];
    let notes: Vec<String> = notes.into_iter().flatten().collect();
    if notes.is_empty() { format!("{what}{within}") } else { format!("{what}{within} ({})", notes.join(", ")) }
}
