//! Checks of a container's mounts, isolation, devices and kernel limits.

use std::{borrow::Cow, collections::BTreeMap};

use super::{Check, MAX_ENTRIES, MAX_TEXT, Violation, clean_absolute, cut, violation};
use crate::spec::{
    ContainerSpec, HostDevice, MountSource, MountSpec, StackSpec, Tuning, attachment::is_host_name,
    privilege::capability, template,
};

/// The maximum number of entries in each list of these settings.
const MAX_LIST: usize = 100;
/// The process limits that Docker supports (setrlimit(2)).
const ULIMITS: [&str; 16] = [
    "as",
    "core",
    "cpu",
    "data",
    "fsize",
    "locks",
    "memlock",
    "msgqueue",
    "nice",
    "nofile",
    "nproc",
    "rss",
    "rtprio",
    "rttime",
    "sigpending",
    "stack",
];

/// Checks the volumes that a stack declares.
pub(super) fn volumes(stack: &StackSpec, found: &mut Vec<Violation>) {
    if stack.volumes.len() > MAX_ENTRIES {
        found.push(violation("volumes", format!("there are more than {MAX_ENTRIES}")));
    }
    for (name, volume) in &stack.volumes {
        let place = format!("volumes.{name}");
        let has_own = volume.driver.is_some() || !volume.driver_opts.is_empty() || !volume.labels.is_empty();
        if volume.external && has_own {
            found.push(violation(
                &place,
                "an external volume already exists, so it cannot have driver, options or labels here",
            ));
        }
        if volume.driver.as_ref().is_some_and(|driver| !is_word(driver)) {
            found.push(violation(&format!("{place}.driver"), "it is not a valid driver name"));
        }
        for (field, map) in [("driver_opts", &volume.driver_opts), ("labels", &volume.labels)] {
            if let Some(reason) = texts(map) {
                found.push(violation(&format!("{place}.{field}"), reason));
            }
        }
    }
}

/// The rule that a map of texts breaks, if any. The message does not show values, which may be secret.
fn texts(map: &BTreeMap<String, String>) -> Option<String> {
    let is_bad = |(key, value): (&String, &String)| {
        key.is_empty() || key.len() > 255 || key.contains('\0') || value.len() > MAX_TEXT || value.contains('\0')
    };
    if map.len() > MAX_LIST || map.iter().any(is_bad) {
        return Some(format!(
            "there are more than {MAX_LIST}, a key is empty, or a text is too long or contains a NUL"
        ));
    }
    map.values().find_map(|value| template::without_templates(value).err())
}

/// Whether a text can be the name of a driver, runtime or group, without spaces or special characters.
fn is_word(text: &str) -> bool {
    (1..=255).contains(&text.len()) && text.chars().all(|c| c.is_ascii_alphanumeric() || "_.-/:@".contains(c))
}

/// Whether a text is a device rule in the kernel's syntax: `c 1:3 mr`.
fn is_device_rule(rule: &str) -> bool {
    let words: Vec<&str> = rule.split(' ').collect();
    let is_number = |text: &str| text == "*" || text.parse::<u32>().is_ok();
    let [kind, numbers, permissions] = words.as_slice() else { return false };
    ["a", "b", "c"].contains(kind)
        && numbers.split_once(':').is_some_and(|(major, minor)| is_number(major) && is_number(minor))
        && are_permissions(permissions)
}

fn is_device(device: &HostDevice) -> bool {
    clean_absolute(&device.source) && clean_absolute(&device.target) && are_permissions(&device.permissions)
}

fn is_capability(name: &str) -> bool {
    let name = capability(name);
    (1..=40).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_uppercase() || b == b'_')
}

fn are_permissions(text: &str) -> bool {
    (1..=3).contains(&text.len()) && text.chars().all(|c| "rwm".contains(c))
}

fn is_signal(text: &str) -> bool {
    let is_name = |name: &str| name.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || "+-".contains(c));
    match text.parse::<u8>() {
        Ok(number) => (1..=64).contains(&number),
        Err(_) => (1..=16).contains(&text.len()) && is_name(&text.to_ascii_uppercase()),
    }
}

fn is_cpuset(text: &str) -> bool {
    let is_range = |range: &str| match range.split_once('-') {
        Some((first, last)) => matches!((first.parse::<u16>(), last.parse::<u16>()), (Ok(a), Ok(b)) if a <= b),
        None => range.parse::<u16>().is_ok(),
    };
    text.split(',').all(is_range)
}

/// The rule that a security option breaks, if any.
fn security_option(option: &str) -> Option<&'static str> {
    let (kind, value) = option.split_once(['=', ':']).unwrap_or((option, ""));
    let is_known = match kind {
        "no-new-privileges" => ["", "true", "false"].contains(&value),
        "systempaths" => value == "unconfined",
        "apparmor" | "label" => !value.is_empty() && value.len() <= 255,
        "seccomp" if value.trim_start().starts_with('{') => value.len() <= MAX_TEXT * 4,
        "seccomp" => ["unconfined", "builtin"].contains(&value),
        _ => false,
    };
    let known = "it is none of no-new-privileges, apparmor=…, label=…, systempaths=unconfined, and seccomp=unconfined, \
                 seccomp=builtin or seccomp= with the text of a profile";
    (!is_known).then_some(known)
}

impl Check<'_> {
    pub(super) fn mounts(&mut self, container: &ContainerSpec, stack: &StackSpec) {
        for (index, mount) in container.mounts.iter().enumerate() {
            let field = format!("volumes[{index}]");
            self.mount(&field, mount, stack);
            let earlier = &container.mounts[..index];
            if earlier.iter().any(|other| other.target == mount.target) || container.tmpfs.contains_key(&mount.target) {
                self.refuse(&field, format!("{} is mounted twice", mount.target));
            }
        }
        for (path, options) in &container.tmpfs {
            if !clean_absolute(path) || path == "/" || options.len() > 255 || options.contains(['\0', ' ']) {
                let reason = format!("{:?} is not an absolute path below / without '..' and mount options", cut(path));
                self.refuse("tmpfs", reason);
            }
        }
        if container.mounts.len().max(container.tmpfs.len()) > MAX_LIST {
            self.refuse("volumes", format!("there are more than {MAX_LIST}"));
        }
    }

    fn mount(&mut self, field: &str, mount: &MountSpec, stack: &StackSpec) {
        // Templates are replaced by a harmless letter first.
        let Some(target) = self.without_templates(field, &mount.target) else { return };
        if !clean_absolute(&target) || target == "/" {
            self.refuse(field, format!("target {:?} is not an absolute path below / without '..'", cut(&mount.target)));
        }
        match &mount.source {
            MountSource::Bind(path) => {
                let Some(plain) = self.without_templates(field, path) else { return };
                if !clean_absolute(&plain) {
                    self.refuse(field, format!("source {:?} is not an absolute path without '..'", cut(path)));
                }
            }
            MountSource::Volume(name) if !stack.volumes.contains_key(name) => {
                self.refuse(field, format!("volume {name} is not declared under the top-level volumes"));
            }
            MountSource::Tmpfs(options) if options.mode.is_some_and(|mode| mode > 0o7777) => {
                self.refuse(field, "mode has more than the twelve permission bits");
            }
            MountSource::Volume(_) | MountSource::Anonymous | MountSource::Tmpfs(_) => {}
        }
        let (is_bind, is_volume) =
            (matches!(mount.source, MountSource::Bind(_)), matches!(mount.source, MountSource::Volume(_)));
        if !is_bind && (mount.propagation.is_some() || mount.create_host_path) {
            self.refuse(field, "propagation and create_host_path apply only to host paths");
        }
        if !is_volume && (mount.subpath.is_some() || mount.nocopy) {
            self.refuse(field, "subpath and nocopy apply only to named volumes");
        }
        if let Some(subpath) = &mount.subpath {
            let Some(plain) = self.without_templates(field, subpath) else { return };
            if plain.starts_with('/') || !clean_absolute(&format!("/{plain}")) || subpath.is_empty() {
                self.refuse(field, "subpath must be a relative path without '..'");
            }
        }
    }

    /// Replaces templates in a text by a letter. Refuses unknown templates.
    fn without_templates<'a>(&mut self, field: &str, text: &'a str) -> Option<Cow<'a, str>> {
        template::without_templates(text).map_err(|reason| self.refuse(field, reason)).ok()
    }

    pub(super) fn surroundings(&mut self, container: &ContainerSpec) {
        self.identity(container);
        self.isolation(container);
        self.tuning(container);
        self.processor(container);
        self.blkio(container);
        self.logging(container);
        let maps = [("annotations", &container.annotations), ("storage_opt", &container.tuning.storage_opt)];
        for (field, map) in maps {
            if let Some(reason) = texts(map) {
                self.refuse(field, reason);
            }
        }
    }

    fn identity(&mut self, container: &ContainerSpec) {
        for (field, text) in [("hostname", &container.hostname), ("domainname", &container.domainname)] {
            let Some(text) = text else { continue };
            let Some(plain) = self.without_templates(field, text) else { continue };
            // The values of templates are not known yet, so one letter stands for each.
            let plain = if plain.len() < text.len() { format!("x{plain}x") } else { plain.into_owned() };
            let is_name = is_host_name(&plain) && (field != "hostname" || plain.len() <= 63);
            if !is_name {
                self.refuse(field, format!("{:?} is not a valid hostname", cut(text)));
            }
        }
        if container.stop_signal.as_ref().is_some_and(|signal| !is_signal(signal)) {
            self.refuse("stop_signal", "it is not a signal such as SIGTERM or 15");
        }
        let words = [("runtime", &container.runtime), ("cgroup_parent", &container.isolation.cgroup_parent)];
        for (field, _) in words.iter().filter(|(_, text)| text.as_ref().is_some_and(|text| !is_word(text))) {
            self.refuse(field, "only letters, digits and '_.-/:@' are allowed");
        }
        if let Some(platform) = &container.platform {
            let parts: Vec<&str> = platform.split('/').collect();
            let is_part =
                |part: &&str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
            if parts.len() > 3 || !parts.iter().all(is_part) {
                self.refuse("platform", format!("{:?} is not a platform such as linux/arm64", cut(platform)));
            }
        }
    }

    fn isolation(&mut self, container: &ContainerSpec) {
        let isolation = &container.isolation;
        let lists = [
            ("cap_add", isolation.cap_add.len()),
            ("cap_drop", isolation.cap_drop.len()),
            ("security_opt", isolation.security_opt.len()),
            ("devices", isolation.devices.len()),
            ("device_cgroup_rules", isolation.device_cgroup_rules.len()),
            ("group_add", isolation.group_add.len()),
        ];
        for (field, count) in lists.into_iter().filter(|(_, count)| *count > MAX_LIST) {
            self.refuse(field, format!("it has {count} entries, and at most {MAX_LIST} are allowed"));
        }
        for (field, names) in [("cap_add", &isolation.cap_add), ("cap_drop", &isolation.cap_drop)] {
            if let Some(name) = names.iter().find(|name| !is_capability(name)) {
                self.refuse(field, format!("{:?} is not a capability, such as NET_ADMIN", cut(name)));
            }
        }
        for option in &isolation.security_opt {
            if let Some(reason) = security_option(option) {
                self.refuse("security_opt", format!("{:?}: {reason}", cut(option)));
            }
        }
        for device in isolation.devices.iter().filter(|device| !is_device(device)) {
            let found = cut(&device.source);
            self.refuse("devices", format!("{found:?} is not a device, which looks like /dev/ttyUSB0:/dev/tty0:rwm"));
        }
        if let Some(rule) = isolation.device_cgroup_rules.iter().find(|rule| !is_device_rule(rule)) {
            self.refuse("device_cgroup_rules", format!("{:?} is not a rule such as c 1:3 mr", cut(rule)));
        }
        if let Some(group) = isolation.group_add.iter().find(|group| !is_word(group)) {
            self.refuse("group_add", format!("{:?} is not the name or number of a group", cut(group)));
        }
    }

    fn tuning(&mut self, container: &ContainerSpec) {
        let tuning = &container.tuning;
        if tuning.pids_limit.is_some_and(|limit| limit < -1 || limit == 0) {
            self.refuse("pids_limit", "it must be at least 1, or -1 for no limit");
        }
        let memory = container.limits.memory.0;
        if let Some(swap) = tuning.memory_swap.filter(|swap| *swap != -1) {
            if memory == 0 {
                self.refuse("memswap_limit", "it needs a memory limit: set mem_limit");
            } else if u64::try_from(swap).map_or(true, |swap| swap < memory) {
                self.refuse(
                    "memswap_limit",
                    "it is the sum of memory and swap, so it must be at least the memory limit, or -1",
                );
            }
        }
        if tuning.memory_swappiness.is_some_and(|value| value > 100) {
            self.refuse("mem_swappiness", "it must be between 0 and 100");
        }
        if tuning.oom_score_adj.is_some_and(|score| !(-1000..=1000).contains(&score)) {
            self.refuse("oom_score_adj", "it must be between -1000 and 1000");
        }
        self.kernel_limits(tuning);
    }

    fn kernel_limits(&mut self, tuning: &Tuning) {
        for (name, limit) in &tuning.ulimits {
            let is_over = limit.hard != -1 && (limit.soft == -1 || limit.soft > limit.hard);
            if !ULIMITS.contains(&name.as_str()) {
                self.refuse("ulimits", format!("{:?} is not one of {}", cut(name), ULIMITS.join(", ")));
            } else if limit.soft < -1 || limit.hard < -1 || is_over {
                self.refuse("ulimits", format!("{name}: soft must not exceed hard, where -1 means no limit"));
            }
        }
        for (key, value) in &tuning.sysctls {
            let is_key = key.contains('.') && key.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
            let own = ["kernel.msg", "kernel.sem", "kernel.shm", "fs.mqueue.", "net.", "kernel.domainname"];
            if !is_key || key.len() > 255 || value.len() > 255 || value.contains(['\0', '\n']) {
                self.refuse("sysctls", format!("{:?} is not a kernel parameter with a value", cut(key)));
            } else if !own.iter().any(|prefix| key.starts_with(prefix)) {
                self.refuse(
                    "sysctls",
                    format!("{key} belongs to the whole host, not to a container: set it on the hosts"),
                );
            }
        }
        if tuning.sysctls.len() > MAX_LIST {
            self.refuse("sysctls", format!("there are more than {MAX_LIST}"));
        }
    }

    fn processor(&mut self, container: &ContainerSpec) {
        let tuning = &container.tuning;
        if container.limits.cpu.0 != 0 && (tuning.cpu_quota.is_some() || tuning.cpu_period.is_some()) {
            self.refuse("cpu_quota", "a limit in cores (cpus) already sets quota and period: use one of the two");
        }
        if tuning.cpu_quota.is_some_and(|quota| quota != -1 && quota < 1000) {
            self.refuse("cpu_quota", "it must be at least 1000 microseconds, or -1 for no limit");
        }
        if tuning.cpu_period.is_some_and(|period| !(1000..=1_000_000).contains(&period)) {
            self.refuse("cpu_period", "it must be between 1000 and 1000000 microseconds");
        }
        if tuning.cpuset.as_ref().is_some_and(|set| !is_cpuset(set)) {
            self.refuse("cpuset", "it is not a list of cores such as 0-2,4");
        }
    }

    fn blkio(&mut self, container: &ContainerSpec) {
        let blkio = &container.tuning.blkio;
        let rates =
            [&blkio.device_read_bps, &blkio.device_write_bps, &blkio.device_read_iops, &blkio.device_write_iops];
        let paths = rates.into_iter().flatten().map(|rate| &rate.path);
        let paths: Vec<&String> = paths.chain(blkio.weight_device.iter().map(|weight| &weight.path)).collect();
        let mut weights = blkio.weight.iter().chain(blkio.weight_device.iter().map(|weight| &weight.weight));
        if paths.len() > MAX_LIST || paths.iter().any(|path| !clean_absolute(path)) {
            self.refuse("blkio_config", format!("a path is not absolute, or there are more than {MAX_LIST}"));
        }
        if weights.any(|weight| !(10..=1000).contains(weight)) {
            self.refuse("blkio_config", "a weight must be between 10 and 1000");
        }
    }

    fn logging(&mut self, container: &ContainerSpec) {
        let log = &container.log;
        if !is_word(log.driver()) {
            self.refuse("logging.driver", format!("{:?} is not a valid driver name", cut(log.driver())));
        }
        if log.options.len() > MAX_LIST
            || log.options.iter().any(|(key, value)| key.len() > 255 || value.len() > MAX_TEXT || value.contains('\0'))
        {
            self.refuse(
                "logging.options",
                format!("there are more than {MAX_LIST}, or one is too long or contains a NUL"),
            );
        }
        if !["json-file", "local"].contains(&log.driver()) {
            return;
        }
        // Docker would refuse every container with it.
        let is_count = |text: &String| text.parse::<u32>().is_ok_and(|count| count > 0);
        if log.options.get("max-file").is_some_and(|text| !is_count(text)) {
            self.refuse("logging.options.max-file", "it must be a number of files, at least 1");
        }
        let is_size = |text: &String| {
            let unit = text.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.');
            let number = text.strip_suffix(unit).unwrap_or_default();
            let is_unit = ["", "b", "k", "kb", "m", "mb", "g", "gb"].contains(&unit.to_ascii_lowercase().as_str());
            (is_unit && number.parse::<f64>().is_ok_and(|number| number > 0.0)) || text == "-1"
        };
        if log.options.get("max-size").is_some_and(|text| !is_size(text)) {
            self.refuse("logging.options.max-size", "it must be a size such as 10m, or -1 for no limit");
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::{quantity::Bytes, spec::*};

    fn violations(change: impl FnOnce(&mut ServiceSpec)) -> String {
        let mut service = ServiceSpec::of_image("shop/web:1");
        change(&mut service);
        let mut stack = StackSpec::default();
        stack.volumes.insert("data".parse().expect("a name"), VolumeSpec::default());
        stack.services.insert("web".parse().expect("a name"), service);
        stack.validate().iter().map(|v| v.to_string()).collect::<Vec<_>>().join("; ")
    }

    fn volume(change: impl FnOnce(&mut MountSpec)) -> MountSpec {
        let mut mount = MountSpec::of(MountSource::Volume("data".parse().expect("a name")), "/data");
        change(&mut mount);
        mount
    }

    /// Everything that is done at once.
    fn all(spec: &mut ServiceSpec) {
        let container = &mut spec.container;
        container.hostname = Some("{{.Service.Name}}-{{.Task.Slot}}".into());
        container.stop_signal = Some("SIGRTMIN+3".into());
        container.platform = Some("linux/arm/v7".into());
        container.tmpfs.insert("/run".into(), "size=64m,mode=1777".into());
        container.mounts.push(volume(|mount| mount.subpath = Some("a/b".into())));
        let isolation = &mut container.isolation;
        isolation.cap_drop = vec!["ALL".into()];
        isolation.cap_add = vec!["CAP_NET_BIND_SERVICE".into(), "net_raw".into()];
        isolation.security_opt = vec!["no-new-privileges".into(), "seccomp={}".into(), "label:disable".into()];
        isolation.device_cgroup_rules = vec!["c 1:3 mr".into(), "a *:* rwm".into()];
        isolation.group_add = vec!["docker".into(), "1000".into()];
        container.limits.memory = Bytes(64 << 20);
        container.tuning.memory_swap = Some(128 << 20);
        container.tuning.cpuset = Some("0-2,4".into());
        container.tuning.sysctls.insert("net.core.somaxconn".into(), "1024".into());
        container.tuning.ulimits.insert("nofile".into(), Ulimit { soft: 1024, hard: -1 });
        container.log.driver = Some("local".into());
        container.log.options.insert("max-size".into(), "1.5m".into());
    }

    #[test]
    fn what_docker_can_do_is_accepted() {
        assert_eq!(violations(all), "");
    }

    #[test]
    fn what_docker_would_refuse_is_refused_with_its_place() {
        type Case = (&'static str, fn(&mut ServiceSpec));
        let cases: [Case; 33] = [
            ("hostname", |s| s.container.hostname = Some("a b".into())),
            ("hostname", |s| s.container.hostname = Some("{{.Name}}".into())),
            ("environment.A", |s| drop(s.container.environment.insert("A".into(), "{{env \"X\"}}".into()))),
            ("stop_signal", |s| s.container.stop_signal = Some("65".into())),
            ("platform", |s| s.container.platform = Some("linux/".into())),
            ("runtime", |s| s.container.runtime = Some("a b".into())),
            ("tmpfs", |s| drop(s.container.tmpfs.insert("run".into(), String::new()))),
            ("volumes[0]", |s| s.container.mounts.push(volume(|mount| mount.subpath = Some("../x".into())))),
            ("volumes[0]", |s| s.container.mounts.push(volume(|mount| mount.create_host_path = true))),
            ("volumes[0]", |s| {
                let bind = MountSource::Bind("/x".into());
                s.container.mounts.push(MountSpec { nocopy: true, ..MountSpec::of(bind, "/x") });
            }),
            ("cap_add", |s| s.container.isolation.cap_add.push("NET ADMIN".into())),
            ("security_opt", |s| s.container.isolation.security_opt.push("seccomp=/etc/profile.json".into())),
            ("security_opt", |s| s.container.isolation.security_opt.push("surprise".into())),
            ("devices", |s| {
                let (source, target) = ("/dev/fuse".to_owned(), "/dev/fuse".to_owned());
                s.container.isolation.devices.push(HostDevice { source, target, permissions: "rx".into() });
            }),
            ("device_cgroup_rules", |s| s.container.isolation.device_cgroup_rules.push("c 1:3".into())),
            ("group_add", |s| s.container.isolation.group_add.push(String::new())),
            ("pids_limit", |s| s.container.tuning.pids_limit = Some(0)),
            ("memswap_limit", |s| s.container.tuning.memory_swap = Some(1 << 20)),
            ("mem_swappiness", |s| s.container.tuning.memory_swappiness = Some(101)),
            ("oom_score_adj", |s| s.container.tuning.oom_score_adj = Some(2000)),
            ("ulimits", |s| {
                s.container.tuning.ulimits.insert("nofile".into(), Ulimit { soft: 2, hard: 1 });
            }),
            ("ulimits", |s| {
                s.container.tuning.ulimits.insert("files".into(), Ulimit { soft: 1, hard: 1 });
            }),
            ("sysctls", |s| drop(s.container.tuning.sysctls.insert("vm.swappiness".into(), "1".into()))),
            ("cpu_quota", |s| (s.container.limits.cpu.0, s.container.tuning.cpu_quota) = (500, Some(5000))),
            ("cpuset", |s| s.container.tuning.cpuset = Some("2-1".into())),
            ("blkio_config", |s| s.container.tuning.blkio.weight = Some(5)),
            ("logging.options.max-file", |s| drop(s.container.log.options.insert("max-file".into(), "0".into()))),
            ("logging.options.max-size", |s| drop(s.container.log.options.insert("max-size".into(), "ten".into()))),
            ("pid", |s| (s.strict_singleton, s.container.isolation.host_pid) = (true, true)),
            ("dns", |s| s.container.resolver.servers.push([127, 0, 0, 1].into())),
            ("ports[0]", |s| {
                s.network_mode = NetworkMode::None;
                s.ports.push(PortSpec { container: 80, published: None, protocol: Protocol::Tcp, host_ip: None });
            }),
            ("ports[0]", |s| {
                s.network_mode = NetworkMode::Host;
                s.ports.push(PortSpec { container: 80, published: Some(81), protocol: Protocol::Tcp, host_ip: None });
            }),
            ("networks", |s| {
                s.network_mode = NetworkMode::Host;
                s.joins.insert("shared".parse().expect("a name"));
            }),
        ];
        for (field, change) in cases {
            let found = violations(change);
            assert!(found.starts_with(&format!("services.web.{field}: ")), "expected {field}, found {found:?}");
        }
    }

    #[test]
    fn a_sidekick_leaves_the_network_to_the_main_container() {
        let found = violations(|spec| {
            let mut container = ContainerSpec::of_image("log:1");
            container.resolver.servers.push([10, 0, 0, 53].into());
            spec.sidekicks
                .insert("log".parse().expect("a name"), Sidekick { container, depends_on: Default::default() });
        });
        assert_eq!(found, "services.log.dns: it shares the network of web: set it there");
    }
}
