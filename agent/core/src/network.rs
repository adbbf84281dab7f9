//! What a host's kernel must hold so that its containers reach those of other hosts, as a value: rendered from
//! what the cluster says and from where the host is, and compared with what the kernel shows.

mod environments;
mod flows;
mod rules;
mod services;
mod tables;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
};

use common::{
    id::InstanceId,
    network::{Overlay, Subnet},
};
use ipnet::Ipv4Net;

pub use flows::Flow;
pub use rules::{Live, Rules};

/// The bridge that containers hang on; Docker makes it.
pub const BRIDGE: &str = "wharf-br0";
/// The host's end of the overlay.
pub const TUNNEL: &str = "wharf-vx0";
/// The name of each of our nft tables.
pub const TABLE: &str = "wharf";
/// Marks our routes, as `ip route` shows it: `proto 77`.
pub const PROTOCOL: u8 = 77;
/// The network identifier of the overlay.
pub const VNI: u32 = 4242;
/// The port to which hosts send the overlay's packets. Swarm has 4789.
pub const PORT: u16 = 8472;
/// Where the host answers what containers ask of metadata; they reach it by the address of metadata alone.
pub const METADATA_PORT: u16 = 8474;
/// What VXLAN adds to a packet over IPv4: outer Ethernet, IP, UDP and VXLAN headers.
pub const OVERHEAD: u32 = 50;

/// The instances whose containers are on the host, by their addresses: known before they start.
pub type Residents = BTreeMap<Ipv4Addr, InstanceId>;

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

/// All that a host's kernel must hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostNetwork {
    /// What the overlay's link must be like.
    pub tunnel: Tunnel,
    /// What it must lead to.
    pub peers: BTreeMap<Subnet, IpAddr>,
    /// The addresses of services, routed into it: what no rule leads to an instance is refused.
    pub services: Ipv4Net,
    /// The rules.
    pub rules: Rules,
}

/// The overlay's link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tunnel {
    /// Over which link, and from which address.
    pub underlay: Underlay,
    /// The host's subnet, from which its addresses follow.
    pub own: Subnet,
}

impl Tunnel {
    /// The largest packet that fits into one of the underlay, in bytes.
    pub fn mtu(&self) -> u32 {
        self.underlay.mtu.saturating_sub(OVERHEAD)
    }
}

/// What the kernel holds of ours.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Observed {
    /// The overlay's link, if there is one of its name.
    pub tunnel: Option<ObservedTunnel>,
    /// To which underlay address frames for a hardware address go.
    pub forwarding: BTreeMap<[u8; 6], IpAddr>,
    /// The hardware addresses of hosts on the overlay.
    pub neighbours: BTreeMap<Ipv4Addr, [u8; 6]>,
    /// Our routes: to where, through which gateway, if any.
    pub routes: BTreeSet<Route>,
    /// Whether the tables are as they were loaded.
    pub has_rules: bool,
}

/// A link that has the name of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ObservedTunnel {
    /// What it is, if it is an overlay's link at all.
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
    /// Say where frames for a peer go.
    Forward(Subnet, IpAddr),
    /// Say nothing of that hardware address any more.
    ForgetForward([u8; 6], IpAddr),
    /// Say which hardware address a peer has.
    Neighbour(Subnet),
    /// Say nothing of that peer any more.
    ForgetNeighbour(Ipv4Addr),
    /// Add a route.
    AddRoute(Route),
    /// Remove a route.
    RemoveRoute(Route),
}

/// What a host needs, by what the cluster says, what is live, and where the host is.
pub fn render(overlay: &Overlay, live: Live, underlay: Underlay) -> HostNetwork {
    let tunnel = Tunnel { underlay, own: overlay.own };
    // One that others reach by IPv6 alone says so itself, and must not keep the rest apart.
    let peers = overlay.peers.iter().filter(|peer| peer.underlay.is_ipv4());
    let peers = peers.map(|peer| (peer.subnet, peer.underlay)).collect();
    let rules =
        Rules { own: overlay.own, tables: tables::tables(overlay, &peers), live, services: overlay.plan.services };
    HostNetwork { tunnel, rules, peers, services: overlay.plan.services }
}

impl HostNetwork {
    fn routes(&self) -> BTreeSet<Route> {
        let of_peer = |subnet: &Subnet| Route { to: subnet.0, through: Some(subnet.host()) };
        let services = Route { to: self.services, through: None };
        self.peers.keys().map(of_peer).chain([services]).collect()
    }
}

/// The steps from what is to what should be, in an order that never opens what should be closed: the rules
/// come first, what leads nowhere any more goes last.
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
            // With the link goes all that leads into it.
            left = &nothing;
            changes.extend(found.map(|_| Change::RemoveTunnel));
            changes.extend([Change::MakeTunnel, Change::ReadyTunnel]);
        }
    }
    for (subnet, underlay) in &wanted.peers {
        if left.forwarding.get(&subnet.hardware_address()) != Some(underlay) {
            changes.push(Change::Forward(*subnet, *underlay));
        }
        if left.neighbours.get(&subnet.host()) != Some(&subnet.hardware_address()) {
            changes.push(Change::Neighbour(*subnet));
        }
    }
    let routes = wanted.routes();
    changes.extend(routes.difference(&left.routes).map(|route| Change::AddRoute(*route)));
    changes.extend(left.routes.difference(&routes).map(|route| Change::RemoveRoute(*route)));
    let by_address: BTreeMap<Ipv4Addr, &Subnet> = wanted.peers.keys().map(|subnet| (subnet.host(), subnet)).collect();
    let strangers = left.neighbours.keys().filter(|address| !by_address.contains_key(address));
    changes.extend(strangers.map(|address| Change::ForgetNeighbour(*address)));
    let known: BTreeSet<[u8; 6]> = wanted.peers.keys().map(|subnet| subnet.hardware_address()).collect();
    let strangers = left.forwarding.iter().filter(|(address, _)| !known.contains(*address));
    changes.extend(strangers.map(|(address, underlay)| Change::ForgetForward(*address, *underlay)));
    changes
}

#[cfg(test)]
mod tests;
