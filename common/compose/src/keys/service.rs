//! The keys of a service.

use super::{Below::*, Key, done, ignored, partly, refused, warned};

const WINDOWS: &str = "only containers of Windows know it, and hosts run Linux; take it away";
const HOOKS: &str = "commands inside of a running container are not done; make it part of the image's own start or end, \
                     or use pre_start for what comes before";

pub(super) const SERVICE: &[Key] = &[
    done("annotations"),
    ignored("attach", "wharf logs shows the output of every service"),
    done("blkio_config").below(Keys(BLKIO)),
    refused(
        "build",
        "images are not built here, until there is a registry: build and push it, then name it under image",
    )
    .below(Keys(BUILD)),
    done("cap_add"),
    done("cap_drop"),
    done("cgroup"),
    done("cgroup_parent"),
    done("command"),
    done("configs").below(Items(GRANT)),
    partly("container_name", "others reach the service by it, too; the container's own name says which instance it is"),
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
    refused(
        "external_links",
        "containers that wharf did not make are not reached by name; name an address in extra_hosts",
    ),
    done("extra_hosts"),
    done("gpus").below(Items(GPU)),
    done("group_add"),
    done("healthcheck").below(Keys(HEALTHCHECK)),
    done("hostname"),
    done("image"),
    done("init"),
    partly("ipc", "private, shareable, host and none; memory is not shared with another container"),
    refused("isolation", WINDOWS).unless(&["default"]),
    done("label_file"),
    done("labels"),
    partly("links", "the service waits for the other one; a name given to it holds for all who reach it"),
    done("logging").below(Keys(LOGGING)),
    refused("mac_address", "hardware addresses belong to the overlay; take it away"),
    done("mem_limit"),
    done("mem_reservation"),
    done("mem_swappiness"),
    done("memswap_limit"),
    refused("models", "there is no model runner; run the model as a service and name its address in environment"),
    partly("network_mode", "none, host, bridge and service:<name> (a sidekick); no container's of somebody else"),
    done("networks").below(Named(ATTACHMENT)),
    done("oom_kill_disable"),
    done("oom_score_adj"),
    partly("pid", "host; processes are not shared with another container"),
    done("pids_limit"),
    done("platform"),
    done("ports").below(Items(PORT)),
    refused("post_start", HOOKS),
    partly("pre_start", "each step runs in every instance: per_replica: true").below(Items(STEP)),
    refused("pre_stop", HOOKS),
    done("privileged"),
    done("profiles"),
    refused("provider", "programs that make a service are not called; run it as a service with an image"),
    partly("pull_policy", "always, missing and never; an image is not pulled again by the clock, and not built"),
    refused("pull_refresh_after", "images are not pulled by the clock; name the version of the image"),
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
        "the Docker socket is given to no container by itself; mount /var/run/docker.sock if you mean it",
    ),
    done("user"),
    partly("userns_mode", "host"),
    partly("uts", "host"),
    done("volumes").below(Items(MOUNT)),
    refused("volumes_from", "name the volumes of the other service under volumes here, too"),
    done("working_dir"),
];

const DEPENDENCY: &[Key] =
    &[done("condition"), done("required"), warned("restart", "a service is not restarted because another one is")];

const EXTENDS: &[Key] = &[done("service"), done("file")];

const ENV_FILE: &[Key] = &[done("path"), done("required"), partly("format", "raw, or compose's own if it is absent")];

const GRANT: &[Key] = &[done("source"), done("target"), done("uid"), done("gid"), done("mode")];

const DEVICE: &[Key] = &[done("source"), done("target"), done("permissions")];

const ULIMIT: &[Key] = &[done("soft"), done("hard")];

const GPU: &[Key] = &[
    done("capabilities"),
    done("count"),
    done("device_ids"),
    partly("driver", "nvidia"),
    refused("options", "options of device drivers are not passed on"),
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
    refused("driver_opts", "networks have no drivers of Docker's; take it away"),
    warned("gw_priority", "a container has one way out"),
    refused("interface_name", "every container has its network as eth0"),
    refused("ipv4_address", "addresses are given by the cluster; others reach the service by its name"),
    refused("ipv6_address", "addresses are given by the cluster; others reach the service by its name"),
    refused("link_local_ips", "addresses are given by the cluster; others reach the service by its name"),
    refused("mac_address", "hardware addresses belong to the overlay; take it away"),
    ignored("priority", "a container has one network"),
];

const PORT: &[Key] = &[
    ignored("app_protocol", "nothing asks for it"),
    done("host_ip"),
    partly("mode", "host: a port is open on the hosts that run an instance"),
    ignored("name", "nothing asks for it"),
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
        refused("recursive", "mounts below the folder come with it; take it away").unless(&["enabled"]),
        warned("selinux", "files of hosts are not relabelled; where SELinux is on, label them there"),
    ])),
    ignored("consistency", "there is one way on Linux"),
    refused("image", "files of another image are not mounted; copy them in a step of pre_start")
        .below(Keys(&[done("subpath")])),
    done("read_only"),
    done("source"),
    done("target"),
    done("tmpfs").below(Keys(&[done("mode"), done("size")])),
    partly("type", "bind, volume and tmpfs"),
    done("volume").below(Keys(&[
        refused("labels", "label the volume where it is declared, under the top-level volumes"),
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

const PART_OF_BUILD: &str = "it belongs to build";

/// They are named so that a typing error is found; what becomes of them is what becomes of `build`.
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
    warned("labels", "nothing reads labels of services: container labels are under labels"),
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
    warned("rollback_config", "a service goes back as update_config says").below(Keys(UPDATE)),
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

/// Keys that are wharf's own, which compose leaves alone.
pub(super) const OWN: &[Key] = &[
    done("x-canary").below(Keys(&[done("instances"), done("promote_after")])),
    done("x-cron").below(Keys(&[done("schedule"), done("timezone"), done("overlap"), done("catch_up")])),
    done("x-group"),
    done("x-priority"),
    done("x-sticky"),
    done("x-strict-singleton"),
];
