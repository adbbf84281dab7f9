//! Renders requests to Docker: values from values.

mod mounts;
mod surroundings;

use std::{collections::HashMap, net::Ipv4Addr};

use bollard::models::{
    ContainerCreateBody, EndpointIpamConfig, EndpointSettings, HealthConfig, HostConfig, HostConfigLogConfig,
    NetworkingConfig, PortBinding, RestartPolicy, RestartPolicyNameEnum,
};
use common::{
    assignment::AssignedInstance,
    id::ClusterId,
    part::Part,
    spec::{HealthCheck, LogSpec, NetworkMode},
    time::Span,
};

use super::devices;
use crate::{files::Places, guard};
pub(super) use mounts::volumes;
pub(super) use surroundings::names;

/// Says which cluster a container belongs to.
pub(super) const CLUSTER_LABEL: &str = "wharf.cluster";
/// Says which instance it is: the agent's second truth if its ledger is lost.
pub(super) const INSTANCE_LABEL: &str = "wharf.instance";
/// Says which part of the instance; the main one if it is absent.
pub(super) const PART_LABEL: &str = "wharf.part";
/// A user who owns nothing, as all distributions number it.
const NOBODY: &str = "65534:65534";
/// The network that containers of a host share.
pub(super) const NETWORK: &str = "wharf";

/// The cluster and the host that containers are made for.
#[derive(Clone, Copy)]
pub(super) struct Site<'a> {
    pub(super) cluster: ClusterId,
    pub(super) places: &'a Places,
}

/// The container of an instance's part.
///
/// `guarded` are the words of a strict singleton's program, which the guard runs.
pub(super) fn container(
    instance: &AssignedInstance,
    part: &Part,
    site: Site<'_>,
    guarded: Option<Vec<String>>,
) -> ContainerCreateBody {
    let Some(spec) = instance.spec.container_of(part) else { return holder(instance, site) };
    let guarded = guarded.map(|words| [vec![guard::PROGRAM.to_owned()], words].concat());
    let environment = spec.environment.iter().map(|(key, value)| format!("{key}={value}"));
    let environment = environment.chain(own_environment(instance)).chain(devices::environment(instance, part));
    let labels = spec.labels.clone().into_iter().chain(own_labels(instance, part, site.cluster));
    let positive = |value: u64| (value > 0).then(|| i64::try_from(value).unwrap_or(i64::MAX));
    let binds = mounts::binds(spec);
    let host = HostConfig {
        mounts: Some(mounts::mounts(instance, part, spec, site)),
        binds: (!binds.is_empty()).then_some(binds),
        memory: positive(spec.limits.memory.0),
        memory_reservation: positive(spec.reservations.memory.0),
        device_requests: devices::requests(instance, part, spec),
        nano_cpus: positive(spec.limits.cpu.0.saturating_mul(1_000_000)),
        ..host_config(instance, part, &spec.log, surroundings::host_config(instance, part, spec))
    };
    ContainerCreateBody {
        image: Some(instance.image_of(part).to_owned()),
        cmd: if guarded.is_some() { None } else { spec.command.clone() },
        entrypoint: guarded.or_else(|| spec.entrypoint.clone()),
        user: spec.user.clone(),
        working_dir: spec.working_dir.clone(),
        env: Some(environment.collect()),
        labels: Some(labels.collect()),
        exposed_ports: Some(exposed_ports(instance, part)),
        healthcheck: spec.healthcheck.as_ref().map(health),
        tty: spec.tty.then_some(true),
        open_stdin: spec.stdin_open.then_some(true),
        stop_signal: spec.stop_signal.clone(),
        stop_timeout: i64::try_from(spec.stop_grace.0.div_ceil(1000)).ok(),
        host_config: Some(host),
        ..ContainerCreateBody::default()
    }
}

/// The container that holds the network of an instance. It needs an image, and nothing of it.
fn holder(instance: &AssignedInstance, site: Site<'_>) -> ContainerCreateBody {
    let part = &Part::Network;
    ContainerCreateBody {
        image: Some(instance.image.clone()),
        entrypoint: Some(vec![crate::holder::PROGRAM.to_owned()]),
        user: Some(NOBODY.to_owned()),
        working_dir: Some("/".to_owned()),
        labels: Some(own_labels(instance, part, site.cluster).into()),
        exposed_ports: Some(exposed_ports(instance, part)),
        healthcheck: Some(health(&HealthCheck::none())),
        host_config: Some(HostConfig {
            mounts: Some(vec![mounts::shown(site.places.binary(), crate::holder::PROGRAM)]),
            sysctls: surroundings::network_sysctls(instance),
            ..host_config(instance, part, &LogSpec::default(), HostConfig::default())
        }),
        ..ContainerCreateBody::default()
    }
}

/// The settings that the containers of all parts have in common.
fn host_config(instance: &AssignedInstance, part: &Part, log: &LogSpec, own: HostConfig) -> HostConfig {
    let shares = shares_network(instance, part);
    let ours = surroundings::network_of(instance.spec.network_mode, NETWORK);
    let network = instance.id.part(Part::Network);
    HostConfig {
        network_mode: Some(if shares { format!("container:{}", network.container_name()) } else { ours.to_owned() }),
        port_bindings: publishes(instance, part).then(|| port_bindings(instance)),
        // Restarting is the agent's: Docker must not do it behind its back.
        restart_policy: Some(RestartPolicy { name: Some(RestartPolicyNameEnum::NO), maximum_retry_count: None }),
        log_config: Some(HostConfigLogConfig {
            typ: Some(log.driver().to_owned()),
            config: Some(log.told().into_iter().collect()),
        }),
        ..own
    }
}

/// Gives a container its address.
pub(super) fn address(body: &mut ContainerCreateBody, address: Option<Ipv4Addr>) {
    let Some(address) = address else { return };
    let config = EndpointIpamConfig { ipv4_address: Some(address.to_string()), ..EndpointIpamConfig::default() };
    let endpoint = EndpointSettings { ipam_config: Some(config), ..EndpointSettings::default() };
    let endpoints_config = Some(HashMap::from([(NETWORK.to_owned(), endpoint)]));
    body.networking_config = Some(NetworkingConfig { endpoints_config });
}

/// Whether the instance's addresses and ports are those of this part.
pub(super) fn has_network(instance: &AssignedInstance, part: &Part) -> bool {
    match part {
        Part::Network => true,
        Part::Main => !instance.spec.has_network_part(),
        Part::Step(_) | Part::Sidekick(_) => false,
    }
}

/// Whether a part is on the network of another one.
pub(super) fn shares_network(instance: &AssignedInstance, part: &Part) -> bool {
    instance.spec.has_network_part() && *part != Part::Network
}

/// Whether a part's ports are led to it by its host; on the host's own network they are the host's.
fn publishes(instance: &AssignedInstance, part: &Part) -> bool {
    has_network(instance, part) && instance.spec.network_mode == NetworkMode::Cluster
}

fn exposed_ports(instance: &AssignedInstance, part: &Part) -> Vec<String> {
    let ports = instance.ports.iter().filter(|_| publishes(instance, part));
    ports.map(|port| format!("{}/{}", port.spec.container, port.spec.protocol)).collect()
}

fn own_labels(instance: &AssignedInstance, part: &Part, cluster: ClusterId) -> [(String, String); 4] {
    [
        (PART_LABEL.to_owned(), part.to_string()),
        (CLUSTER_LABEL.to_owned(), cluster.to_string()),
        (INSTANCE_LABEL.to_owned(), instance.id.to_string()),
        ("wharf.service".to_owned(), instance.id.service().to_string()),
    ]
}

/// The variables by which a program knows itself; the incarnation is a fencing token.
fn own_environment(instance: &AssignedInstance) -> [String; 4] {
    [
        format!("WHARF_INSTANCE={}", instance.id),
        format!("WHARF_SERVICE={}", instance.id.service()),
        format!("WHARF_SLOT={}", instance.id.slot.slot),
        format!("WHARF_INCARNATION={}", instance.id.incarnation),
    ]
}

fn port_bindings(instance: &AssignedInstance) -> HashMap<String, Option<Vec<PortBinding>>> {
    let mut bindings: HashMap<String, Option<Vec<PortBinding>>> = HashMap::new();
    for port in &instance.ports {
        let binding =
            PortBinding { host_ip: port.spec.host_ip.map(|ip| ip.to_string()), host_port: Some(port.host.to_string()) };
        let key = format!("{}/{}", port.spec.container, port.spec.protocol);
        bindings.entry(key).or_default().get_or_insert_default().push(binding);
    }
    bindings
}

fn health(check: &HealthCheck) -> HealthConfig {
    let nanos = |span: Span| i64::try_from(span.0.saturating_mul(1_000_000)).unwrap_or(i64::MAX);
    HealthConfig {
        test: Some(check.test.clone()),
        interval: Some(nanos(check.interval)),
        timeout: Some(nanos(check.timeout)),
        retries: Some(i64::from(check.retries)),
        start_period: Some(nanos(check.start_period)),
        start_interval: check.start_interval.map(nanos),
    }
}

/// The host port that Docker could not bind, from its message.
pub(super) fn taken_port(message: &str) -> Option<u16> {
    let taken =
        ["port is already allocated", "address already in use", "failed to bind port", "failed to bind host port"];
    if !taken.iter().any(|words| message.contains(words)) {
        return None;
    }
    // Docker writes 0.0.0.0:8080, [::]:8080 or 0.0.0.0:8080:172.18.0.2:80/tcp: the first number counts.
    let words = message.split([' ', '/', ',']).filter(|word| word.contains(':'));
    words.filter_map(|word| word.split(':').skip(1).find_map(|part| part.parse().ok())).next()
}

/// A container as it would be made on some host.
#[cfg(test)]
fn sample(instance: &AssignedInstance, part: &Part) -> ContainerCreateBody {
    let places = Places::new(std::path::Path::new("/state"), std::path::Path::new("/memory"));
    container(instance, part, Site { cluster: ClusterId([1; 10]), places: &places }, None)
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::Arc;

    use common::{
        instance::{Desired, Want},
        spec::ServiceSpec,
    };

    use super::*;

    /// `default/shop/web/1.1` with a changed spec.
    pub(super) fn instance(change: impl FnOnce(&mut ServiceSpec)) -> AssignedInstance {
        let mut spec = ServiceSpec::of_image("web:1");
        change(&mut spec);
        AssignedInstance {
            id: "default/shop/web/1.1".parse().expect("an id"),
            desired: Desired { want: Want::Run, reason: None },
            image: spec.container.image.clone(),
            spec: Arc::new(spec),
            ports: Vec::new(),
            devices: Vec::new(),
            restarts: 0,
            retries: 0,
            ended: None,
            credentials: Vec::new(),
        }
    }

    #[test]
    fn the_taken_port_is_found_in_what_docker_says() {
        let cases = [
            (
                "driver failed programming external connectivity on endpoint x (ab): Bind for 0.0.0.0:8080 failed: port is already allocated",
                Some(8080),
            ),
            ("Error starting userland proxy: listen tcp4 0.0.0.0:81: bind: address already in use", Some(81)),
            ("failed to bind host port for 0.0.0.0:82:172.18.0.2:80/tcp: address already in use", Some(82)),
            ("no such file or directory", None),
        ];
        for (message, expected) in cases {
            assert_eq!(taken_port(message), expected, "{message}");
        }
    }
}
