//! The state of a host's kernel by which its containers reach those of other hosts, as a value: rendered from the
//! assignment, the directory and the host's address, and compared with the kernel's actual state.

mod bindings;
mod bridge;
pub mod docker_filter;
mod environments;
mod flows;
mod loaded;
mod published;
mod reach;
mod rules;
mod services;
mod settings;
mod tables;
pub mod tools;
mod upkeep;
mod vxlan;
mod wireguard;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
};

use common::{
    id::InstanceId,
    network::{Backend, Overlay, Peers, Subnet, WireguardKey},
    part::PartId,
};
use ipnet::Ipv4Net;

use crate::observed::{Container, Published, Sender};

pub use bindings::Binding;
pub use bridge::HostBridge;
pub use flows::{Flow, FlowLook};
pub use loaded::{FAMILIES, Listed, Load, Loaded};
pub use rules::{Live, Rules};
pub use settings::{Setting, bridge_settings, tunnel_setting};
pub use upkeep::{Knowledge, Upkeep, assigned_network};
pub use vxlan::Vxlan;
pub use wireguard::{Wireguard, WireguardPeer};

/// The bridge that containers hang on; Docker makes it.
pub const BRIDGE: &str = "wharf-br0";
/// The host's end of the overlay.
pub const TUNNEL: &str = "wharf-tun0";
/// The name of each of our nft tables.
pub const TABLE: &str = "wharf";
/// Marks our routes, as `ip route` shows it: `proto 77`.
pub const PROTOCOL: u8 = 77;
/// The network identifier of the overlay.
pub const VNI: u32 = 4242;
/// The port to which hosts send the overlay's packets, whatever carries them. Swarm has 4789.
pub const PORT: u16 = 8472;
/// Where the host answers what containers ask of metadata; they reach it by the address of metadata alone.
pub const METADATA_PORT: u16 = 8474;

/// The instances whose containers are on the host, by their addresses: known before they start.
pub type Residents = BTreeMap<Ipv4Addr, Resident>;

/// An instance whose container is on the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resident {
    /// The instance.
    pub instance: InstanceId,
    /// Its process and hardware address while it runs.
    pub sender: Option<Sender>,
    /// The host's ports that lead to it while it runs.
    pub published: BTreeSet<Published>,
}

impl Resident {
    /// The owner of a container's address, if the container has an address of its own.
    pub fn of(id: &PartId, container: &Container) -> Option<(Ipv4Addr, Resident)> {
        let (instance, published) = (id.instance.clone(), container.published.clone());
        Some((container.address?, Resident { instance, sender: container.sender, published }))
    }
}

/// The owners of the addresses of all containers.
pub fn residents(containers: &BTreeMap<PartId, Container>) -> Residents {
    containers.iter().filter_map(|(id, container)| Resident::of(id, container)).collect()
}

impl From<InstanceId> for Resident {
    fn from(instance: InstanceId) -> Resident {
        Resident { instance, sender: None, published: BTreeSet::new() }
    }
}

/// The link and the address under which other hosts reach this one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Underlay {
    /// The link's index.
    pub link: u32,
    /// The host's address there.
    pub address: Ipv4Addr,
    /// The largest packet that the link takes, in bytes.
    pub mtu: u32,
}

/// What a host itself brings to its end of the overlay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostEnd {
    /// Where other hosts reach it.
    pub underlay: Underlay,
    /// Its key, if it can encrypt.
    pub key: Option<WireguardKey>,
}

/// The intended state of a host's kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostNetwork {
    /// The host's subnet.
    pub own: Subnet,
    /// The overlay's link.
    pub tunnel: Tunnel,
    /// The other hosts, to which it leads.
    pub peers: Peers,
    /// The addresses of services, routed into the link: packets that no rule leads to an instance are refused.
    pub services: Ipv4Net,
    /// The rules.
    pub rules: Rules,
}

/// The overlay's link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tunnel {
    /// The carrier of packets to other hosts.
    pub carrier: Carrier,
    /// The largest packet that it takes, in bytes.
    pub mtu: u32,
}

/// The protocol that carries the overlay's packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Carrier {
    /// VXLAN, in clear.
    Vxlan {
        /// The link that it sends over.
        link: u32,
        /// The address that it sends from.
        address: Ipv4Addr,
        /// The host's subnet, from which its hardware address follows.
        own: Subnet,
    },
    /// WireGuard.
    Wireguard {
        /// The host's own key.
        key: WireguardKey,
    },
}

impl Carrier {
    /// The bytes that it adds to a packet.
    pub fn overhead(self) -> u32 {
        match self {
            Carrier::Vxlan { .. } => vxlan::OVERHEAD,
            Carrier::Wireguard { .. } => wireguard::OVERHEAD,
        }
    }
}

/// The kernel's actual state, as far as it is ours.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Observed {
    /// The overlay's link, if there is one of its name.
    pub tunnel: Option<ObservedTunnel>,
    /// The peers that VXLAN knows.
    pub vxlan: Vxlan,
    /// The peers that WireGuard knows.
    pub wireguard: Wireguard,
    /// Our routes.
    pub routes: BTreeSet<Route>,
    /// Whether the tables are as they were loaded.
    pub has_rules: bool,
}

/// A link that has the name of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ObservedTunnel {
    /// Its kind, if it is an overlay's link at all.
    pub is: Option<Tunnel>,
    /// Whether it is up, with the host's address on it.
    pub is_ready: bool,
}

/// A route of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Route {
    /// Where to.
    pub to: Ipv4Net,
    /// The peer that it leads through.
    pub through: Option<Ipv4Addr>,
}

/// One change of the kernel's state. Each may be made again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Load the rules in one transaction.
    LoadRules,
    /// Remove the link of our name: it is not what it should be.
    RemoveTunnel,
    /// Make the link.
    MakeTunnel,
    /// Give it its address, and switch it on.
    ReadyTunnel,
    /// Set the address to which frames for a peer go.
    Forward(Subnet, IpAddr),
    /// Forget that hardware address.
    ForgetForward([u8; 6], IpAddr),
    /// Set the hardware address of a peer.
    Neighbour(Subnet),
    /// Forget that peer.
    ForgetNeighbour(Ipv4Addr),
    /// Set the peers that may speak by WireGuard, with their endpoints and ranges.
    Admit(BTreeMap<WireguardKey, WireguardPeer>),
    /// Forget the peers with those keys.
    Dismiss(BTreeSet<WireguardKey>),
    /// Add a route.
    AddRoute(Route),
    /// Remove a route.
    RemoveRoute(Route),
}

/// Renders the intended state of a host from its place in the overlay, the other hosts, the live part of the rules, the
/// host's own end. A cluster that encrypts has no unencrypted fallback: the error says why there is no overlay.
pub fn render(overlay: Overlay, mut peers: Peers, live: Live, end: HostEnd) -> Result<HostNetwork, &'static str> {
    let HostEnd { underlay, key } = end;
    let Overlay { own, plan } = overlay;
    let carrier = match plan.backend {
        Backend::Wireguard => Carrier::Wireguard { key: key.ok_or(wireguard::MISSING)? },
        Backend::Vxlan | Backend::None => Carrier::Vxlan { link: underlay.link, address: underlay.address, own },
    };
    let tunnel = Tunnel { carrier, mtu: underlay.mtu.saturating_sub(carrier.overhead()) };
    // A host that cannot be reached reports that itself, and must not keep the others apart.
    peers.retain(|_, peer| peer.underlay.is_ipv4() && (plan.backend != Backend::Wireguard || peer.key.is_some()));
    let rules = Rules { own, tables: tables::tables(overlay, &peers), live, services: plan.services };
    Ok(HostNetwork { own, tunnel, rules, peers, services: plan.services })
}

impl HostNetwork {
    fn routes(&self) -> BTreeSet<Route> {
        let through = |subnet: &Subnet| match self.tunnel.carrier {
            Carrier::Vxlan { .. } => Some(subnet.host()),
            Carrier::Wireguard { .. } => None,
        };
        let of_peer = |subnet: &Subnet| Route { to: subnet.0, through: through(subnet) };
        let services = Route { to: self.services, through: None };
        self.peers.keys().map(of_peer).chain([services]).collect()
    }
}

/// The steps from the actual state to the intended one, in an order that never opens a path that should be closed: the
/// rules come first, and stale peers and routes are removed last.
pub fn changes(wanted: &HostNetwork, observed: &Observed) -> Vec<Change> {
    let mut changes = Vec::new();
    if !observed.has_rules {
        changes.push(Change::LoadRules);
    }
    let nothing = Observed::default();
    let mut left = observed;
    match observed.tunnel {
        Some(found) if found.is == Some(wanted.tunnel) => {
            if !found.is_ready {
                changes.push(Change::ReadyTunnel);
            }
        }
        found => {
            // The peers and routes of a link disappear with it.
            left = &nothing;
            changes.extend(found.map(|_| Change::RemoveTunnel));
            changes.extend([Change::MakeTunnel, Change::ReadyTunnel]);
        }
    }
    let (known, strangers) = match wanted.tunnel.carrier {
        Carrier::Vxlan { .. } => left.vxlan.changes(&wanted.peers),
        Carrier::Wireguard { .. } => left.wireguard.changes(&wanted.peers),
    };
    changes.extend(known);
    let routes = wanted.routes();
    changes.extend(routes.difference(&left.routes).map(|route| Change::AddRoute(*route)));
    changes.extend(left.routes.difference(&routes).map(|route| Change::RemoveRoute(*route)));
    changes.extend(strangers);
    changes
}

#[cfg(test)]
mod tests;
