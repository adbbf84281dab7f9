//! The overlay: the addresses of containers, and how hosts reach containers on other hosts.

mod key;

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
};

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub use key::WireguardKey;

/// The carrier of overlay packets between hosts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Backend {
    /// VXLAN (RFC 7348), not encrypted.
    #[default]
    Vxlan,
    /// WireGuard, encrypted: in the kernel if it can, else in our own process.
    Wireguard,
    /// None: each host has its own bridge, and containers on different hosts do not reach each other.
    None,
}

impl std::fmt::Display for Backend {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Backend::Vxlan => "vxlan",
            Backend::Wireguard => "wireguard",
            Backend::None => "none",
        })
    }
}

impl std::str::FromStr for Backend {
    type Err = String;
    fn from_str(text: &str) -> Result<Backend, String> {
        [Backend::Vxlan, Backend::Wireguard, Backend::None]
            .into_iter()
            .find(|backend| backend.to_string() == text)
            .ok_or_else(|| format!("{text:?} is not an overlay: choose vxlan, wireguard or none"))
    }
}

/// The addresses and the overlay backend of a cluster, fixed when the cluster is created.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NetworkPlan {
    /// How containers on different hosts reach each other.
    #[serde(default)]
    pub backend: Backend,
    /// The range for containers; each host gets a subnet of it.
    #[schema(value_type = String)]
    pub containers: Ipv4Net,
    /// The range for virtual addresses of services.
    #[schema(value_type = String)]
    pub services: Ipv4Net,
}

impl Default for NetworkPlan {
    fn default() -> NetworkPlan {
        let net = |third: u8| Ipv4Net::new_assert(Ipv4Addr::new(10, third, 0, 0), 16);
        NetworkPlan { backend: Backend::default(), containers: net(42), services: net(43) }
    }
}

impl NetworkPlan {
    /// The prefix length of a host's subnet, which leaves 253 addresses for containers.
    pub const SUBNET: u8 = 24;

    /// The subnets for hosts, in ascending order.
    pub fn subnets(&self) -> impl Iterator<Item = Subnet> + Clone {
        // A range smaller than a subnet was refused when the cluster was created.
        self.containers.subnets(NetworkPlan::SUBNET).into_iter().flatten().map(Subnet)
    }

    /// The first of a host's routes that overlaps with the cluster's ranges, as a sentence.
    pub fn conflict(&self, routes: &[HostRoute]) -> Option<String> {
        if self.backend == Backend::None {
            return None;
        }
        [(self.containers, "containers"), (self.services, "services")].into_iter().find_map(|(range, what)| {
            let route = routes.iter().find(|route| overlap(&route.to, &range))?;
            Some(format!("it has a route to {route}, and the cluster uses {range} for {what}"))
        })
    }

    /// The rule that the plan breaks, if any.
    pub fn violation(&self) -> Option<String> {
        let NetworkPlan { containers, services, .. } = self;
        for (range, sizes) in [(containers, 8..=NetworkPlan::SUBNET), (services, 8..=24)] {
            if range.addr() != range.network() {
                return Some(format!("{range} does not start at its network address {}", range.network()));
            }
            if !sizes.contains(&range.prefix_len()) {
                return Some(format!(
                    "{range} must have a prefix length between /{} and /{}",
                    sizes.start(),
                    sizes.end()
                ));
            }
            let first = range.network();
            if first.is_loopback() || first.is_multicast() || first.is_link_local() || first.octets()[0] == 0 {
                return Some(format!("{range} is reserved for special use"));
            }
        }
        overlap(containers, services).then(|| format!("{containers} and {services} overlap"))
    }
}

fn overlap(a: &Ipv4Net, b: &Ipv4Net) -> bool {
    a.contains(&b.network()) || b.contains(&a.network())
}

/// A route of a host that does not belong to wharf.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HostRoute {
    /// The destination range.
    #[schema(value_type = String)]
    pub to: Ipv4Net,
    /// The name of the network interface.
    pub link: String,
}

impl std::fmt::Display for HostRoute {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({})", self.to, self.link)
    }
}

/// A host's part of the container range.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Subnet(pub Ipv4Net);

impl Subnet {
    /// The subnet that contains an address.
    pub fn of(address: Ipv4Addr) -> Subnet {
        Subnet(Ipv4Net::new_assert(address, NetworkPlan::SUBNET).trunc())
    }

    /// The host's own address on the overlay, the subnet's first address.
    pub fn host(self) -> Ipv4Addr {
        self.0.network()
    }

    /// The gateway of its containers, where the host answers DNS.
    pub fn gateway(self) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.0.network()) + 1)
    }

    /// Whether an address belongs to the host itself instead of a container.
    pub fn is_own(self, address: Ipv4Addr) -> bool {
        [self.host(), self.gateway()].contains(&address)
    }

    /// The addresses for containers, starting after `last` and wrapping around.
    pub fn containers_after(self, last: Ipv4Addr) -> impl Iterator<Item = Ipv4Addr> {
        let (first, count) =
            (u32::from(self.gateway()) + 1, u32::from(self.0.broadcast()) - u32::from(self.gateway()) - 1);
        let next = (u32::from(last) + 1).saturating_sub(first);
        (0..count).map(move |step| Ipv4Addr::from(first + (next + step) % count))
    }

    /// The hardware address of the host's end of the overlay. It is derived from the subnet, so it need not be
    /// exchanged.
    pub fn hardware_address(self) -> [u8; 6] {
        let [a, b, c, d] = self.host().octets();
        [0x02, 0x0a, a, b, c, d]
    }
}

impl std::fmt::Display for Subnet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// How the containers of a host are connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Network {
    /// Only by the host's own bridge.
    #[default]
    Bridge,
    /// By the overlay, to containers on all hosts.
    Overlay(Overlay),
}

/// A host's place in the overlay. The directory holds the places of the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Overlay {
    /// The cluster's address ranges.
    pub plan: NetworkPlan,
    /// The host's own subnet.
    pub own: Subnet,
}

impl Overlay {
    /// The next host in the ring of subnets. It answers DNS for this host's containers when this host does not. For a
    /// single host it is the subnet that the next host will probably get, because containers keep their DNS settings.
    pub fn next(self, others: &Peers) -> Option<Subnet> {
        let (first, after) = (others.keys().next(), others.range(self.own..).next().map(|(subnet, _)| subnet));
        let after = after.or(first).copied();
        let mut free = self.plan.subnets().filter(|subnet| *subnet != self.own);
        after.or_else(|| free.clone().find(|subnet| *subnet > self.own)).or_else(|| free.next())
    }
}

/// The other hosts of the overlay, by their subnets.
pub type Peers = BTreeMap<Subnet, Peer>;

/// Another host of the overlay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// Its address on the underlay.
    pub underlay: IpAddr,
    /// Its public WireGuard key, if it can encrypt.
    pub key: Option<WireguardKey>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(containers: &str, services: &str) -> NetworkPlan {
        let net = |text: &str| text.parse().expect("a range");
        NetworkPlan { containers: net(containers), services: net(services), ..NetworkPlan::default() }
    }

    #[test]
    fn subnets_are_numbered_and_have_their_own_addresses() {
        let plan = NetworkPlan::default();
        let subnets: Vec<Subnet> = plan.subnets().collect();
        let third = subnets[2];
        assert_eq!(third.to_string(), "10.42.2.0/24");
        assert_eq!((third.host().to_string(), third.gateway().to_string()), ("10.42.2.0".into(), "10.42.2.1".into()));
        assert_eq!(third.hardware_address(), [0x02, 0x0a, 10, 42, 2, 0]);
        assert_eq!((subnets.len(), subnets[255].to_string()), (256, "10.42.255.0/24".to_owned()));
    }

    #[test]
    fn hosts_stand_in_a_circle() {
        let subnet = |third: usize| NetworkPlan::default().subnets().nth(third).expect("it has 256");
        let next = |own, others: &[usize]| {
            let overlay = Overlay { plan: NetworkPlan::default(), own: subnet(own) };
            let peer = Peer { underlay: [10, 0, 0, 1].into(), key: None };
            overlay.next(&others.iter().map(|other| (subnet(*other), peer)).collect())
        };
        assert_eq!(next(2, &[9, 4, 1]), Some(subnet(4)));
        assert_eq!(next(9, &[4, 1, 2]), Some(subnet(1)));
        assert_eq!(next(1, &[]), Some(subnet(2)), "alone for now");
        assert_eq!(next(255, &[]), Some(subnet(0)));
    }

    #[test]
    fn routes_of_a_host_must_lead_elsewhere() {
        let route = |to: &str| HostRoute { to: to.parse().expect("a range"), link: "vpn".into() };
        let plan = NetworkPlan::default();
        assert_eq!(plan.conflict(&[route("10.41.0.0/16"), route("192.168.0.0/16")]), None);
        for (to, what) in [("10.42.7.0/24", "containers"), ("10.0.0.0/8", "containers"), ("10.43.0.9/32", "services")] {
            let why = plan.conflict(&[route("10.41.0.0/16"), route(to)]).expect("it is refused");
            assert!(why.contains(&format!("{to} (vpn)")) && why.contains(what), "{why}");
        }
        let apart = NetworkPlan { backend: Backend::None, ..plan };
        assert_eq!(apart.conflict(&[route("10.0.0.0/8")]), None);
    }

    #[test]
    fn ranges_that_cannot_work_are_refused() {
        assert_eq!(NetworkPlan::default().violation(), None);
        assert_eq!(plan("172.16.0.0/12", "10.43.0.0/16").violation(), None);
        for (containers, services, reason) in [
            ("10.42.0.0/16", "10.42.128.0/17", "overlap"),
            ("10.0.0.0/8", "10.43.0.0/16", "overlap"),
            ("10.42.1.0/16", "10.43.0.0/16", "does not start"),
            ("10.42.0.0/25", "10.43.0.0/16", "between /8 and /24"),
            ("127.0.0.0/16", "10.43.0.0/16", "reserved for special use"),
            ("0.0.0.0/8", "10.43.0.0/16", "reserved for special use"),
            ("224.0.0.0/16", "10.43.0.0/16", "reserved for special use"),
        ] {
            let found = plan(containers, services).violation().expect("it is refused");
            assert!(found.contains(reason), "{containers} {services}: {found}");
        }
    }
}
