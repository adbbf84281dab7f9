//! The isolation of a container from its host, its share of the kernel's resources, and the names that it knows.

use std::collections::{BTreeMap, HashMap};

use agent_core::{names::search_domain, network::HostBridge};
use bollard::models::{
    ContainerCreateBody, DeviceMapping, HostConfig, HostConfigCgroupnsModeEnum, ResourcesBlkioWeightDevice,
    ResourcesUlimits, ThrottleDevice,
};
use common::{
    assignment::AssignedInstance,
    part::Part,
    spec::{
        Blkio, CgroupMode, ContainerSpec, DeviceRate, HostAddress, HostDevice, IpcMode, Isolation, NetworkMode, Tuning,
    },
};

use super::shares_network;

/// A list, or nothing where it is empty: Docker takes both for the same, and shows the latter shorter.
fn some<T: Clone>(list: &[T]) -> Option<Vec<T>> {
    (!list.is_empty()).then(|| list.to_vec())
}

fn texts(map: &BTreeMap<String, String>) -> Option<HashMap<String, String>> {
    (!map.is_empty()).then(|| map.clone().into_iter().collect())
}

/// Renders a spec's surroundings into the host's side of a container.
pub(super) fn host_config(instance: &AssignedInstance, part: &Part, spec: &ContainerSpec) -> HostConfig {
    let own = HostConfig {
        // The guard of a strict singleton is the first process, and buries the dead itself.
        init: if instance.spec.strict_singleton { Some(false) } else { spec.init },
        readonly_rootfs: Some(spec.read_only),
        tmpfs: texts(&spec.tmpfs),
        annotations: texts(&spec.annotations),
        runtime: spec.runtime.clone(),
        sysctls: sysctls(instance, part, &spec.tuning),
        ..isolation(&spec.isolation)
    };
    tuning(own, &spec.tuning)
}

fn isolation(isolation: &Isolation) -> HostConfig {
    let Isolation { privileged, cap_add, cap_drop, security_opt, device_cgroup_rules, group_add, .. } = isolation;
    let device = |HostDevice { source, target, permissions }: &HostDevice| DeviceMapping {
        path_on_host: Some(source.clone()),
        path_in_container: Some(target.clone()),
        cgroup_permissions: Some(permissions.clone()),
    };
    let host = |is_host: bool| is_host.then(|| "host".to_owned());
    HostConfig {
        privileged: Some(*privileged),
        cap_add: some(cap_add),
        cap_drop: some(cap_drop),
        security_opt: some(security_opt),
        devices: some(&isolation.devices.iter().map(device).collect::<Vec<_>>()),
        device_cgroup_rules: some(device_cgroup_rules),
        group_add: some(group_add),
        ipc_mode: isolation.ipc.map(|mode| {
            let word = match mode {
                IpcMode::None => "none",
                IpcMode::Private => "private",
                IpcMode::Shareable => "shareable",
                IpcMode::Host => "host",
            };
            word.to_owned()
        }),
        pid_mode: host(isolation.host_pid),
        uts_mode: host(isolation.host_uts),
        userns_mode: host(isolation.host_users),
        cgroupns_mode: isolation.cgroup.map(|mode| match mode {
            CgroupMode::Private => HostConfigCgroupnsModeEnum::PRIVATE,
            CgroupMode::Host => HostConfigCgroupnsModeEnum::HOST,
        }),
        cgroup_parent: isolation.cgroup_parent.clone(),
        ..HostConfig::default()
    }
}

fn tuning(host: HostConfig, tuning: &Tuning) -> HostConfig {
    let ulimits = tuning.ulimits.iter().map(|(name, limit)| ResourcesUlimits {
        name: Some(name.clone()),
        soft: Some(limit.soft),
        hard: Some(limit.hard),
    });
    let host = HostConfig {
        pids_limit: tuning.pids_limit,
        memory_swap: tuning.memory_swap,
        memory_swappiness: tuning.memory_swappiness.map(i64::from),
        cpu_shares: tuning.cpu_shares.map(i64::from),
        cpu_quota: tuning.cpu_quota,
        cpu_period: tuning.cpu_period.map(i64::from),
        cpu_realtime_runtime: tuning.cpu_rt_runtime.map(i64::from),
        cpu_realtime_period: tuning.cpu_rt_period.map(i64::from),
        cpuset_cpus: tuning.cpuset.clone(),
        oom_score_adj: tuning.oom_score_adj.map(i64::from),
        oom_kill_disable: tuning.oom_kill_disable.then_some(true),
        shm_size: tuning.shm_size.and_then(|size| i64::try_from(size.0).ok()),
        ulimits: some(&ulimits.collect::<Vec<_>>()),
        storage_opt: texts(&tuning.storage_opt),
        ..host
    };
    blkio(host, &tuning.blkio)
}

fn blkio(host: HostConfig, blkio: &Blkio) -> HostConfig {
    let rate = |DeviceRate { path, rate }: &DeviceRate| ThrottleDevice {
        path: Some(path.clone()),
        rate: Some(i64::try_from(*rate).unwrap_or(i64::MAX)),
    };
    let rates = |rates: &[DeviceRate]| some(&rates.iter().map(rate).collect::<Vec<_>>());
    let weights = blkio.weight_device.iter().map(|weight| ResourcesBlkioWeightDevice {
        path: Some(weight.path.clone()),
        weight: Some(usize::from(weight.weight)),
    });
    HostConfig {
        blkio_weight: blkio.weight,
        blkio_weight_device: some(&weights.collect::<Vec<_>>()),
        blkio_device_read_bps: rates(&blkio.device_read_bps),
        blkio_device_write_bps: rates(&blkio.device_write_bps),
        blkio_device_read_iops: rates(&blkio.device_read_iops),
        blkio_device_write_iops: rates(&blkio.device_write_iops),
        ..host
    }
}

/// The kernel's parameters of a part. Those of the network are set where the network is.
fn sysctls(instance: &AssignedInstance, part: &Part, tuning: &Tuning) -> Option<HashMap<String, String>> {
    let is_set = |key: &String| !key.starts_with("net.") || !shares_network(instance, part);
    let set = tuning.sysctls.iter().filter(|(key, _)| is_set(key));
    let set: BTreeMap<String, String> = set.map(|(key, value)| (key.clone(), value.clone())).collect();
    texts(&set)
}

/// The parameters of the kernel that hold for the network of an instance, for what holds it.
pub(super) fn network_sysctls(instance: &AssignedInstance) -> Option<HashMap<String, String>> {
    let set = instance.spec.container.tuning.sysctls.iter().filter(|(key, _)| key.starts_with("net."));
    let set: BTreeMap<String, String> = set.map(|(key, value)| (key.clone(), value.clone())).collect();
    texts(&set)
}

/// By which names a container knows itself and others; those that share a network share this too.
pub(in crate::runtime::docker) fn names(
    body: &mut ContainerCreateBody,
    instance: &AssignedInstance,
    bridge: Option<HostBridge>,
) {
    // Steps are made from the main container's spec; all others of an instance share what this one has.
    let spec = &instance.spec.container;
    body.hostname.clone_from(&spec.hostname);
    body.domainname.clone_from(&spec.domainname);
    let host = body.host_config.get_or_insert_default();
    let gateway = match bridge {
        Some(HostBridge::Overlay { subnet, .. }) => Some(subnet.gateway()),
        Some(HostBridge::Docker) | None => None,
    };
    let line = |name: &String, address: HostAddress| match (address, gateway) {
        // Docker itself would name the gateway of another bridge, to which ours does not lead.
        (HostAddress::HostGateway, Some(gateway)) => format!("{name}:{gateway}"),
        (address, _) => format!("{name}:{address}"),
    };
    let lines: Vec<String> = spec.extra_hosts.iter().map(|host| line(&host.name, host.address)).collect();
    host.extra_hosts = some(&lines);
    let resolver = &spec.resolver;
    let servers = bridge.map(|bridge| bridge.name_servers()).unwrap_or_default();
    if servers.is_empty() {
        host.dns = some(&resolver.servers.iter().map(ToString::to_string).collect::<Vec<_>>());
        (host.dns_search, host.dns_options) = (some(&resolver.search), some(&resolver.options));
        return;
    }
    // These ask the resolvers that the spec names, for names that they do not know themselves.
    host.dns = Some(servers.iter().map(ToString::to_string).collect());
    host.dns_search = Some([vec![search_domain(instance.id.stack())], resolver.search.clone()].concat());
    // A name with a dot is tried as it is first. Docker's own resolver stands between, and waits four seconds for
    // the first server: a program must not give up sooner, as it would with a shorter timeout than the usual one.
    let says_dots = resolver.options.iter().any(|option| option.starts_with("ndots:"));
    let usual = if says_dots { Vec::new() } else { vec!["ndots:1".to_owned()] };
    host.dns_options = Some([usual, resolver.options.clone()].concat());
}

/// Docker's name of the network that an instance is on; ours if it is neither of those that Docker always has.
pub(super) fn network_of(mode: NetworkMode, ours: &str) -> &str {
    match mode {
        NetworkMode::Cluster => ours,
        NetworkMode::None => "none",
        NetworkMode::Host => "host",
    }
}

#[cfg(test)]
mod tests {
    use common::{
        network::Subnet,
        quantity::Bytes,
        spec::{HostEntry, Sidekick, Ulimit},
    };

    use super::*;
    use crate::runtime::docker::render::{self, tests::instance};

    fn overlay() -> HostBridge {
        HostBridge::Overlay { subnet: Subnet::of([10, 42, 3, 0].into()), mtu: 1450, next: None }
    }

    #[test]
    fn what_a_spec_says_reaches_docker() {
        let all = instance(|spec| {
            let container = &mut spec.container;
            (container.read_only, container.init) = (true, Some(true));
            container.tmpfs.insert("/run".into(), "size=1m".into());
            container.isolation.cap_drop = vec!["ALL".into()];
            container.isolation.ipc = Some(IpcMode::Shareable);
            container.isolation.host_pid = true;
            let (source, target, permissions) = ("/dev/fuse".into(), "/dev/f".into(), "rw".into());
            container.isolation.devices = vec![HostDevice { source, target, permissions }];
            container.tuning.pids_limit = Some(50);
            container.tuning.shm_size = Some(Bytes(128 << 20));
            container.tuning.ulimits.insert("nofile".into(), Ulimit { soft: 10, hard: 20 });
            container.tuning.sysctls.insert("net.core.somaxconn".into(), "9".into());
            container.tuning.blkio.device_read_bps = vec![DeviceRate { path: "/dev/sda".into(), rate: 7 }];
        });
        let host = host_config(&all, &Part::Main, &all.spec.container);
        assert_eq!((host.readonly_rootfs, host.init, host.pids_limit), (Some(true), Some(true), Some(50)));
        assert_eq!(host.tmpfs.and_then(|tmpfs| tmpfs.get("/run").cloned()).as_deref(), Some("size=1m"));
        assert_eq!((host.cap_drop, host.cap_add), (Some(vec!["ALL".to_owned()]), None));
        assert_eq!((host.ipc_mode.as_deref(), host.pid_mode.as_deref()), (Some("shareable"), Some("host")));
        let device = host.devices.and_then(|devices| devices.first().cloned()).expect("a device");
        assert_eq!(
            (device.path_in_container.as_deref(), device.cgroup_permissions.as_deref()),
            (Some("/dev/f"), Some("rw"))
        );
        let limit = host.ulimits.and_then(|limits| limits.first().cloned()).expect("a limit");
        assert_eq!((limit.soft, limit.hard), (Some(10), Some(20)));
        assert_eq!(host.shm_size, Some(128 << 20));
        assert_eq!(host.blkio_device_read_bps.and_then(|rates| rates[0].rate), Some(7));
        assert_eq!(host.sysctls.map(|sysctls| sysctls.len()), Some(1));
        let default = host_config(&instance(|_| {}), &Part::Main, &instance(|_| {}).spec.container);
        assert_eq!((default.init, default.cap_drop, default.ulimits, default.sysctls), (None, None, None, None));
        let strict = instance(|spec| (spec.strict_singleton, spec.container.init) = (true, Some(true)));
        assert_eq!(host_config(&strict, &Part::Main, &strict.spec.container).init, Some(false), "the guard does it");
    }

    #[test]
    fn names_are_the_clusters_and_then_the_services_own() {
        let web = instance(|spec| {
            let container = &mut spec.container;
            container.hostname = Some("web-1".into());
            container.resolver.servers = vec![[10, 0, 0, 53].into()];
            container.resolver.search = vec!["corp.example".into()];
            let line = |name: &str, address| HostEntry { name: name.into(), address };
            container.extra_hosts =
                vec![line("box", HostAddress::HostGateway), line("db", HostAddress::Address([10, 1, 1, 1].into()))];
        });
        let named = |bridge| {
            let mut body = ContainerCreateBody::default();
            names(&mut body, &web, bridge);
            (body.hostname, body.host_config.expect("it has one"))
        };
        let (hostname, host) = named(Some(overlay()));
        assert_eq!(hostname.as_deref(), Some("web-1"));
        assert_eq!(host.dns, Some(vec!["10.42.3.1".to_owned()]), "the agent asks whom the service names");
        let search = ["shop.default.wharf.internal".to_owned(), "corp.example".to_owned()];
        assert_eq!(host.dns_search, Some(search.to_vec()));
        assert_eq!(host.dns_options, Some(vec!["ndots:1".to_owned()]));
        assert_eq!(host.extra_hosts, Some(vec!["box:10.42.3.1".to_owned(), "db:10.1.1.1".to_owned()]));
        let (_, host) = named(None);
        assert_eq!(host.dns, Some(vec!["10.0.0.53".to_owned()]), "nobody else stands between");
        assert_eq!(host.extra_hosts.map(|lines| lines[0].clone()).as_deref(), Some("box:host-gateway"));
    }

    #[test]
    fn what_holds_the_network_has_what_belongs_to_it() {
        let both = instance(|spec| {
            spec.container.hostname = Some("web-1".into());
            spec.container.tuning.sysctls.insert("net.core.somaxconn".into(), "9".into());
            spec.container.tuning.sysctls.insert("kernel.msgmax".into(), "9".into());
            let sidekick = Sidekick { container: ContainerSpec::of_image("log:1"), depends_on: BTreeMap::new() };
            spec.sidekicks.insert("log".parse().expect("a name"), sidekick);
        });
        let keys = |part: &Part| {
            let body = render::sample(&both, part);
            let mut keys: Vec<String> =
                body.host_config.and_then(|host| host.sysctls).unwrap_or_default().into_keys().collect();
            keys.sort();
            keys
        };
        assert_eq!(keys(&Part::Main), ["kernel.msgmax"]);
        assert_eq!(keys(&Part::Network), ["net.core.somaxconn"]);
        for (mode, expected) in [(NetworkMode::None, "none"), (NetworkMode::Host, "host")] {
            let alone = instance(|spec| spec.network_mode = mode);
            let host = render::sample(&alone, &Part::Main).host_config.expect("it has one");
            assert_eq!(host.network_mode.as_deref(), Some(expected));
            assert_eq!(host.port_bindings, None);
        }
    }
}
