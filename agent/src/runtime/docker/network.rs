//! Docker's network, which the containers of a host share.

use std::{
    collections::{BTreeSet, HashMap},
    io,
    net::Ipv4Addr,
    time::Duration,
};

use agent_core::{
    Published, Sender,
    network::{BRIDGE, HostBridge, TUNNEL},
};
use bollard::{
    errors::Error,
    models::{EndpointSettings, Ipam, IpamConfig, NetworkCreateRequest, PortBinding, PortMap},
    query_parameters::{ListContainersOptionsBuilder, ListNetworksOptionsBuilder},
};
use common::spec::Protocol;
use tokio::sync::{Mutex, watch};

use super::{
    Docker,
    render::{CLUSTER_LABEL, NETWORK},
};

/// How long calls that need the network wait until the agent knows it.
const WAIT: Duration = Duration::from_secs(5);

/// The intended network, and the lock of the call that makes it.
pub(super) struct DockerNetwork {
    wanted: watch::Sender<Result<HostBridge, String>>,
    one_at_a_time: Mutex<()>,
    /// The address that was allocated last. Addresses are allocated round-robin, so a freed address is not reused
    /// immediately.
    last: Mutex<Option<Ipv4Addr>>,
}

impl Default for DockerNetwork {
    fn default() -> DockerNetwork {
        let unknown = Err("this host has not received its addresses from the cluster yet".to_owned());
        DockerNetwork { wanted: watch::Sender::new(unknown), one_at_a_time: Mutex::default(), last: Mutex::default() }
    }
}

fn failed(why: String) -> Error {
    Error::IOError { err: io::Error::other(why) }
}

impl DockerNetwork {
    /// Notes the intended network.
    pub(super) fn note(&self, bridge: HostBridge) {
        self.wanted.send_modify(|wanted| *wanted = Ok(bridge));
    }

    /// Notes why that is not known. A network that is known stays so when another problem appears.
    pub(super) fn note_lack(&self, why: &str) {
        self.wanted.send_if_modified(|wanted| {
            let is_unknown = wanted.is_err();
            if is_unknown {
                *wanted = Err(why.to_owned());
            }
            is_unknown
        });
    }

    async fn known(&self) -> Result<HostBridge, Error> {
        let mut wanted = self.wanted.subscribe();
        match tokio::time::timeout(WAIT, wanted.wait_for(Result::is_ok)).await {
            Ok(Ok(known)) => known.clone().map_err(failed),
            Ok(Err(_)) | Err(_) => self.wanted.borrow().clone().map_err(failed),
        }
    }
}

/// A container's address on our network: the one that it was made with, or else the one that it has while it runs.
pub(super) fn address_of(networks: &HashMap<String, EndpointSettings>) -> Option<Ipv4Addr> {
    let endpoint = networks.get(NETWORK)?;
    let made_with = endpoint.ipam_config.as_ref().and_then(|config| config.ipv4_address.as_ref()?.parse().ok());
    made_with.or_else(|| endpoint.ip_address.as_ref()?.parse().ok())
}

/// The process and hardware address of a container on our network; one that does not run has none.
pub(super) fn sender_of(networks: &HashMap<String, EndpointSettings>, process: Option<i64>) -> Option<Sender> {
    let process = u32::try_from(process?).ok().filter(|process| *process != 0)?;
    let hardware_address = hardware_address(networks.get(NETWORK)?.mac_address.as_deref()?)?;
    Some(Sender { process, hardware_address })
}

/// The host's ports that lead to a container, as Docker shows them while it runs; those of IPv6 lead to none of ours.
pub(super) fn published(ports: &PortMap) -> BTreeSet<Published> {
    let bound = ports.iter().flat_map(|(port, bound)| bound.iter().flatten().map(move |bound| (port, bound)));
    bound.filter_map(|(port, bound)| published_port(port, bound)).collect()
}

fn published_port(port: &str, bound: &PortBinding) -> Option<Published> {
    let (container, protocol) = port.split_once('/')?;
    let protocol = match protocol {
        "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        _ => return None,
    };
    let at: Ipv4Addr = match bound.host_ip.as_deref() {
        None | Some("") => Ipv4Addr::UNSPECIFIED,
        Some(at) => at.parse().ok()?,
    };
    let (port, container) = (bound.host_port.as_ref()?.parse().ok()?, container.parse().ok()?);
    Some(Published { protocol, at: Some(at).filter(|at| !at.is_unspecified()), port, container })
}

/// A hardware address as Docker writes it: six bytes with colons between them.
fn hardware_address(text: &str) -> Option<[u8; 6]> {
    let bytes: Option<Vec<u8>> = text.split(':').map(|byte| u8::from_str_radix(byte, 16).ok()).collect();
    bytes?.try_into().ok()
}

impl Docker {
    /// Makes sure that there is exactly one network of the name, with the intended addresses, and returns which that is.
    /// Docker itself makes a second one when asked twice at the same moment, and then finds neither.
    pub(super) async fn ensure_network(&self) -> Result<HostBridge, Error> {
        let bridge = self.network.known().await?;
        let _one_at_a_time = self.network.one_at_a_time.lock().await;
        let filters = HashMap::from([("name".to_owned(), vec![NETWORK.to_owned()])]);
        let options = ListNetworksOptionsBuilder::new().filters(&filters).build();
        let mut named = self.client().await?.list_networks(Some(options)).await?;
        named.retain(|network| network.name.as_deref() == Some(NETWORK));
        named.sort_by(|one, other| one.created.cmp(&other.created));
        let own = self.cluster.to_string();
        // A network of that name that is not ours must stay.
        let is_own = |labels: &HashMap<String, String>| labels.get(CLUSTER_LABEL) == Some(&own);
        let mut kept = false;
        for network in named {
            let is_ours = network.labels.as_ref().is_some_and(is_own);
            let subnet = network.ipam.and_then(|ipam| ipam.config?.into_iter().next()?.subnet);
            let fits = match bridge {
                HostBridge::Docker => true,
                HostBridge::Overlay { subnet: wanted, .. } => is_ours && subnet == Some(wanted.to_string()),
            };
            if fits && !kept {
                kept = true;
            } else if is_ours && let Some(id) = network.id {
                // Docker refuses as long as a container hangs on it, and says so.
                self.client().await?.remove_network(&id).await?;
            } else if !fits {
                return Err(failed(format!(
                    "Docker already has a network {NETWORK} that does not belong to this cluster: docker network rm {NETWORK}"
                )));
            }
        }
        if !kept {
            self.client().await?.create_network(request(bridge, own)).await?;
        }
        Ok(bridge)
    }

    /// An address for a container that is made next, so that it is known before anything runs there; Docker gives one
    /// where there is no overlay.
    pub(super) async fn next_address(&self, bridge: HostBridge) -> Result<Option<Ipv4Addr>, Error> {
        let HostBridge::Overlay { subnet, .. } = bridge else { return Ok(None) };
        let mut last = self.network.last.lock().await;
        let filters = HashMap::from([("network".to_owned(), vec![NETWORK.to_owned()])]);
        let options = ListContainersOptionsBuilder::new().all(true).filters(&filters).build();
        let listed = self.client().await?.list_containers(Some(options)).await?;
        let addresses =
            listed.into_iter().filter_map(|summary| address_of(summary.network_settings?.networks.as_ref()?));
        let taken: BTreeSet<Ipv4Addr> = addresses.collect();
        let before = last.or(taken.last().copied()).unwrap_or(subnet.gateway());
        let next = subnet.containers_after(before).find(|next| !taken.contains(next));
        let next = next.ok_or_else(|| failed(format!("all {} addresses of {subnet} are in use", taken.len())))?;
        *last = Some(next);
        Ok(Some(next))
    }
}

fn request(bridge: HostBridge, cluster: String) -> NetworkCreateRequest {
    let plain = NetworkCreateRequest {
        name: NETWORK.to_owned(),
        driver: Some("bridge".to_owned()),
        labels: Some(HashMap::from([(CLUSTER_LABEL.to_owned(), cluster)])),
        ..NetworkCreateRequest::default()
    };
    let HostBridge::Overlay { subnet, mtu, .. } = bridge else { return plain };
    let config = IpamConfig {
        subnet: Some(subnet.to_string()),
        gateway: Some(subnet.gateway().to_string()),
        ..IpamConfig::default()
    };
    // Docker ignores options that it does not know: gateway_mode and trusted_host_interfaces came with 28.
    let options = [
        ("com.docker.network.bridge.name", BRIDGE.to_owned()),
        ("com.docker.network.driver.mtu", mtu.to_string()),
        ("com.docker.network.bridge.enable_ip_masquerade", "false".to_owned()),
        ("com.docker.network.bridge.gateway_mode_ipv4", "nat-unprotected".to_owned()),
        ("com.docker.network.bridge.trusted_host_interfaces", TUNNEL.to_owned()),
    ];
    NetworkCreateRequest {
        ipam: Some(Ipam { config: Some(vec![config]), ..Ipam::default() }),
        options: Some(options.map(|(key, value)| (key.to_owned(), value)).into()),
        ..plain
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_container_sends_from_is_known_while_it_runs() {
        let on = |mac: &str| {
            let endpoint = EndpointSettings { mac_address: Some(mac.to_owned()), ..EndpointSettings::default() };
            HashMap::from([(NETWORK.to_owned(), endpoint)])
        };
        let sender = Sender { process: 7, hardware_address: [0x02, 0x42, 0x0a, 0x2a, 0, 0xfe] };
        assert_eq!(sender_of(&on("02:42:0a:2a:00:fe"), Some(7)), Some(sender));
        // Docker shows one that does not run as process 0, without a hardware address.
        for (mac, process) in
            [("02:42:0a:2a:00:fe", Some(0)), ("02:42:0a:2a:00:fe", None), ("", Some(7)), ("02:42", Some(7))]
        {
            assert_eq!(sender_of(&on(mac), process), None, "{mac} {process:?}");
        }
        assert_eq!(sender_of(&HashMap::new(), Some(7)), None);
    }

    #[test]
    fn the_ports_of_a_container_are_those_that_are_bound() {
        let bound = |at: Option<&str>, port: &str| {
            Some(PortBinding { host_ip: at.map(str::to_owned), host_port: Some(port.to_owned()) })
        };
        let port = |protocol, at: Option<[u8; 4]>, port, container| Published {
            protocol,
            at: at.map(Ipv4Addr::from),
            port,
            container,
        };
        for (inside, outside, expected) in [
            ("80/tcp", bound(Some("0.0.0.0"), "8080"), Some(port(Protocol::Tcp, None, 8080, 80))),
            ("80/tcp", bound(Some(""), "8080"), Some(port(Protocol::Tcp, None, 8080, 80))),
            ("53/udp", bound(None, "5353"), Some(port(Protocol::Udp, None, 5353, 53))),
            ("80/tcp", bound(Some("10.0.0.1"), "80"), Some(port(Protocol::Tcp, Some([10, 0, 0, 1]), 80, 80))),
            ("80/tcp", bound(Some("::"), "8080"), None),
            ("80/sctp", bound(Some("0.0.0.0"), "8080"), None),
            ("80/tcp", bound(Some("0.0.0.0"), "70000"), None),
            ("80", bound(Some("0.0.0.0"), "8080"), None),
            ("80/tcp", None, None),
        ] {
            let ports = HashMap::from([(inside.to_owned(), outside.map(|bound| vec![bound]))]);
            assert_eq!(published(&ports), expected.into_iter().collect(), "{ports:?}");
        }
    }
}
