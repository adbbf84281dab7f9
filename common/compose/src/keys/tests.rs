use super::*;

/// The keys in the specification's schema, by the path of their parent. The table also has those of `build`.
const SPECIFICATION: [(&str, &str); 12] = [
    ("", "version name include services models networks volumes secrets configs"),
    (
        "services",
        "develop deploy annotations attach build blkio_config cap_add cap_drop cgroup cgroup_parent command configs \
         container_name cpu_count cpu_percent cpu_shares cpu_quota cpu_period cpu_rt_period cpu_rt_runtime cpus cpuset \
         credential_spec depends_on device_cgroup_rules devices dns dns_opt dns_search domainname entrypoint env_file \
         label_file environment expose extends provider external_links extra_hosts gpus group_add healthcheck hostname \
         image init ipc isolation labels links logging mac_address mem_limit mem_reservation mem_swappiness \
         memswap_limit network_mode models networks oom_kill_disable oom_score_adj pid pids_limit platform ports \
         post_start pre_stop privileged profiles pull_policy pull_refresh_after read_only restart runtime scale \
         security_opt shm_size secrets sysctls stdin_open stop_grace_period stop_signal storage_opt tmpfs tty ulimits \
         use_api_socket user uts userns_mode volumes volumes_from working_dir",
    ),
    ("services.ports", "name mode host_ip target published protocol app_protocol"),
    ("services.volumes", "type source target read_only consistency bind volume tmpfs image"),
    (
        "services.networks",
        "aliases interface_name ipv4_address ipv6_address link_local_ips mac_address driver_opts priority gw_priority",
    ),
    ("services.healthcheck", "disable interval retries test timeout start_period start_interval"),
    (
        "services.deploy",
        "mode endpoint_mode replicas labels rollback_config update_config resources restart_policy placement",
    ),
    ("services.deploy.resources.reservations", "cpus memory generic_resources devices"),
    ("networks", "name driver driver_opts ipam external internal enable_ipv4 enable_ipv6 attachable labels"),
    ("volumes", "name driver driver_opts external labels"),
    ("secrets", "name environment file external labels driver driver_opts template_driver"),
    ("configs", "name content environment file external labels template_driver"),
];

fn at(path: &str) -> &'static [Key] {
    path.split('.').filter(|part| !part.is_empty()).fold(TOP, |keys, part| {
        let key = keys.iter().find(|key| key.name == part).unwrap_or_else(|| panic!("{part} of {path}"));
        match key.below {
            Below::Keys(keys) | Below::Named(keys) | Below::Items(keys) => keys,
            Below::Anything => panic!("{part} of {path} has no keys"),
        }
    })
}

#[test]
fn every_key_of_the_specification_is_in_the_table() {
    let mut missing = Vec::new();
    for (path, names) in SPECIFICATION {
        let known = at(path);
        missing.extend(
            names
                .split_whitespace()
                .filter(|name| !known.iter().any(|key| key.name == *name))
                .map(|name| format!("{path}.{name}")),
        );
    }
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn no_key_is_there_twice_and_each_refusal_has_a_reason() {
    fn check(keys: &[Key], path: &str) {
        for (index, key) in keys.iter().enumerate() {
            assert!(!keys[..index].iter().any(|other| other.name == key.name), "{path}.{} is there twice", key.name);
            if let Does::Refused(why) | Does::Warned(why) | Does::Ignored(why) | Does::Partly(why) = key.does {
                assert!(!why.is_empty() && !why.ends_with('.') && !why.contains('|'), "{path}.{}: {why:?}", key.name);
            }
            if let Below::Keys(keys) | Below::Named(keys) | Below::Items(keys) = key.below {
                check(keys, &format!("{path}.{}", key.name));
            }
        }
    }
    check(TOP, "");
}

#[test]
fn mistakes_are_close_to_what_was_meant() {
    for (a, b, far) in
        [("", "", 0), ("a", "", 1), ("prots", "ports", 1), ("enviroment", "environment", 1), ("image", "command", 5)]
    {
        assert_eq!(distance(a, b), far, "{a} {b}");
        assert_eq!(distance(b, a), far, "{b} {a}");
    }
}
