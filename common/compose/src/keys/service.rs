//! The keys of a service, and of the mappings below them.

use super::{Below::*, Key, done, ignored, partly, refused, warned};

const WINDOWS: &str = "it applies only to Windows containers, and hosts run Linux: remove this key";
const HOOKS: &str = "wharf does not run commands inside running containers: make it part of the image's entrypoint, \
                     or use pre_start for work before the start";

pub(super) const SERVICE: &[Key] = &[
    done("annotations"),
    ignored("attach", "wharf logs shows the output of every service"),
    done("blkio_config").below(Keys(BLKIO)),
    refused("build", "wharf does not build images: build and push the image, then name it under image")
        .below(Keys(BUILD)),
    done("cap_add"),
    done("cap_drop"),
    done("cgroup"),
    done("cgroup_parent"),
    done("command"),
    done("configs").below(Items(GRANT)),
    partly("container_name", "it is another name for the service; containers are named after their instances"),
    refused("cpu_count", WINDOWS),
    refused("cpu_percent", WINDOWS),
    done("cpu_period"),
    done("cpu_quota"),
    done("cpu_rt_period"),
    done("cpu_rt_runtime"),
    done("cpu_shares"),
    done("cpus"),
    done("cpuset"),
    refused("credential_spec", WINDOWS),
    done("depends_on").below(Named(DEPENDENCY)),
    done("deploy").below(Keys(DEPLOY)),
    ignored("develop", "it is for docker compose watch"),
    done("device_cgroup_rules"),
    done("devices").below(Items(DEVICE)),
    done("dns"),
    done("dns_opt"),
    done("dns_search"),
    done("domainname"),
    done("entrypoint"),
    done("env_file").below(Items(ENV_FILE)),
    done("environment"),
    done("expose"),
    done("extends").below(Keys(EXTENDS)),
    refused("external_links", "containers outside of wharf have no names: add their addresses to extra_hosts"),
    done("extra_hosts"),
    done("gpus").below(Items(GPU)),
    done("group_add"),
    done("healthcheck").below(Keys(HEALTHCHECK)),
    done("hostname"),
    done("image"),
    done("init"),
    partly("ipc", "private, shareable, host and none; not another container's"),
    refused("isolation", WINDOWS).unless(&["default"]),
    done("label_file"),
    done("labels"),
    partly("links", "the service waits for the other one; an alias applies to all services that reach it"),
    done("logging").below(Keys(LOGGING)),
    refused("mac_address", "the overlay assigns hardware addresses: remove this key"),
    done("mem_limit"),
    done("mem_reservation"),
    done("mem_swappiness"),
    done("memswap_limit"),
    refused("models", "wharf has no model runner: run the model as a service and put its address into environment"),
    partly("network_mode", "none, host, bridge and service:<name> (a sidekick); not container:<name>"),
    done("networks").below(Named(ATTACHMENT)),
    done("oom_kill_disable"),
    done("oom_score_adj"),
    partly("pid", "host; not another container's"),
    done("pids_limit"),
    done("platform"),
    done("ports").below(Items(PORT)),
    refused("post_start", HOOKS),
    partly("pre_start", "each step runs in every instance, so it needs per_replica: true").below(Items(STEP)),
    refused("pre_stop", HOOKS),
    done("privileged"),
    done("profiles"),
    refused("provider", "wharf does not call providers: run it as a service with an image"),
    partly("pull_policy", "always, missing and never; not daily, weekly, every_<time> or build"),
    refused("pull_refresh_after", "wharf does not pull images periodically: use an image with a version tag"),
    done("read_only"),
    done("restart"),
    done("runtime"),
    done("scale"),
    done("secrets").below(Items(GRANT)),
    done("security_opt"),
    done("shm_size"),
    done("stdin_open"),
    done("stop_grace_period"),
    done("stop_signal"),
    done("storage_opt"),
    done("sysctls"),
    done("tmpfs"),
    done("tty"),
    done("ulimits").below(Named(ULIMIT)),
    refused(
        "use_api_socket",
        "wharf does not mount the Docker socket implicitly: if you need it, mount /var/run/docker.sock",
    ),
    done("user"),
    partly("userns_mode", "host"),
    partly("uts", "host"),
    done("volumes").below(Items(MOUNT)),
    refused("volumes_from", "list the other service's volumes under volumes here as well"),
    done("working_dir"),
];

const DEPENDENCY: &[Key] = &[
    done("condition"),
    done("required"),
    warned("restart", "wharf does not restart a service because another one was restarted"),
];

const EXTENDS: &[Key] = &[done("service"), done("file")];

const ENV_FILE: &[Key] = &[done("path"), done("required"), partly("format", "raw; without it, compose's own format")];

const GRANT: &[Key] = &[done("source"), done("target"), done("uid"), done("gid"), done("mode")];

const DEVICE: &[Key] = &[done("source"), done("target"), done("permissions")];

const ULIMIT: &[Key] = &[done("soft"), done("hard")];

const GPU: &[Key] = &[
    done("capabilities"),
    done("count"),
    done("device_ids"),
    partly("driver", "nvidia"),
    refused("options", "wharf does not pass options to device drivers"),
];

const HEALTHCHECK: &[Key] = &[
    done("disable"),
    done("interval"),
    done("retries"),
    done("start_interval"),
    done("start_period"),
    done("test"),
    done("timeout"),
];

const LOGGING: &[Key] = &[done("driver"), done("options")];

const ATTACHMENT: &[Key] = &[
    done("aliases"),
    refused("driver_opts", "wharf's networks have no Docker drivers: remove this key"),
    warned("gw_priority", "a container has only one gateway"),
    refused("interface_name", "the interface in every container is eth0"),
    refused("ipv4_address", "the cluster assigns addresses: use the service's name to reach it"),
    refused("ipv6_address", "the cluster assigns addresses: use the service's name to reach it"),
    refused("link_local_ips", "the cluster assigns addresses: use the service's name to reach it"),
    refused("mac_address", "the overlay assigns hardware addresses: remove this key"),
    ignored("priority", "a container has only one network interface"),
];

const PORT: &[Key] = &[
    ignored("app_protocol", "wharf has no use for it"),
    done("host_ip"),
    partly("mode", "always host: the port is open on the hosts that run an instance"),
    ignored("name", "wharf has no use for it"),
    done("protocol"),
    done("published"),
    done("target"),
];

const STEP: &[Key] = &[
    done("command"),
    done("environment"),
    done("image"),
    partly("per_replica", "true"),
    done("user"),
    done("working_dir"),
];

const MOUNT: &[Key] = &[
    done("bind").below(Keys(&[
        done("create_host_path"),
        done("propagation"),
        refused("recursive", "nested mounts are always included: remove this key").unless(&["enabled"]),
        warned("selinux", "wharf does not relabel files on hosts: with SELinux, label them there"),
    ])),
    ignored("consistency", "it has no effect on Linux"),
    refused("image", "wharf does not mount images: copy the files in a pre_start step").below(Keys(&[done("subpath")])),
    done("read_only"),
    done("source"),
    done("target"),
    done("tmpfs").below(Keys(&[done("mode"), done("size")])),
    partly("type", "bind, volume and tmpfs"),
    done("volume").below(Keys(&[
        refused("labels", "set the labels of the volume under the top-level volumes"),
        done("nocopy"),
        done("subpath"),
    ])),
];

const BLKIO: &[Key] = &[
    done("device_read_bps").below(Items(RATE)),
    done("device_read_iops").below(Items(RATE)),
    done("device_write_bps").below(Items(RATE)),
    done("device_write_iops").below(Items(RATE)),
    done("weight"),
    done("weight_device").below(Items(&[done("path"), done("weight")])),
];

const RATE: &[Key] = &[done("path"), done("rate")];

const PART_OF_BUILD: &str = "it is a part of build";

/// They are listed so that typing errors are found; the treatment of `build` applies to all of them.
const BUILD: &[Key] = &[
    ignored("additional_contexts", PART_OF_BUILD),
    ignored("args", PART_OF_BUILD),
    ignored("cache_from", PART_OF_BUILD),
    ignored("cache_to", PART_OF_BUILD),
    ignored("context", PART_OF_BUILD),
    ignored("dockerfile", PART_OF_BUILD),
    ignored("dockerfile_inline", PART_OF_BUILD),
    ignored("entitlements", PART_OF_BUILD),
    ignored("extra_hosts", PART_OF_BUILD),
    ignored("isolation", PART_OF_BUILD),
    ignored("labels", PART_OF_BUILD),
    ignored("network", PART_OF_BUILD),
    ignored("no_cache", PART_OF_BUILD),
    ignored("no_cache_filter", PART_OF_BUILD),
    ignored("platforms", PART_OF_BUILD),
    ignored("privileged", PART_OF_BUILD),
    ignored("provenance", PART_OF_BUILD),
    ignored("pull", PART_OF_BUILD),
    ignored("sbom", PART_OF_BUILD),
    ignored("secrets", PART_OF_BUILD),
    ignored("shm_size", PART_OF_BUILD),
    ignored("ssh", PART_OF_BUILD),
    ignored("tags", PART_OF_BUILD),
    ignored("target", PART_OF_BUILD),
    ignored("ulimits", PART_OF_BUILD),
];

const DEPLOY: &[Key] = &[
    partly("endpoint_mode", "vip and dnsrr"),
    warned("labels", "wharf does not use service labels: write container labels under labels"),
    partly("mode", "replicated, global and replicated-job"),
    done("placement").below(Keys(&[
        done("constraints"),
        done("max_replicas_per_node"),
        done("preferences").below(Items(&[done("spread"), done("prefer")])),
    ])),
    done("replicas"),
    done("resources").below(Keys(&[
        done("limits").below(Keys(&[done("cpus"), done("memory"), done("pids")])),
        done("reservations").below(Keys(&[
            done("cpus"),
            done("devices").below(Items(GPU)),
            done("generic_resources")
                .below(Items(&[done("discrete_resource_spec").below(Keys(&[done("kind"), done("value")]))])),
            done("memory"),
        ])),
    ])),
    done("restart_policy").below(Keys(&[done("condition"), done("delay"), done("max_attempts"), done("window")])),
    warned("rollback_config", "rollbacks use update_config").below(Keys(UPDATE)),
    done("update_config").below(Keys(UPDATE)),
];

const UPDATE: &[Key] = &[
    done("delay"),
    done("failure_action"),
    done("max_failure_ratio"),
    done("monitor"),
    done("order"),
    done("parallelism"),
];

/// wharf's own keys, which compose ignores.
pub(super) const OWN: &[Key] = &[
    done("x-canary").below(Keys(&[done("instances"), done("promote_after")])),
    done("x-cron").below(Keys(&[done("schedule"), done("timezone"), done("overlap"), done("catch_up")])),
    done("x-group"),
    done("x-priority"),
    done("x-sticky"),
    done("x-strict-singleton"),
];
