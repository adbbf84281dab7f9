//! Peers by VXLAN, without learning: hardware addresses follow from subnets, so no host has to announce or ask for them.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
};

use common::network::{Peer, Peers};

use super::Change;

/// The bytes that it adds to a packet over IPv4: outer Ethernet, IP, UDP and VXLAN headers.
pub(super) const OVERHEAD: u32 = 50;

/// The peers that the kernel knows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Vxlan {
    /// The underlay address to which frames for a hardware address go.
    pub forwarding: BTreeMap<[u8; 6], IpAddr>,
    /// The hardware addresses of hosts on the overlay.
    pub neighbours: BTreeMap<Ipv4Addr, [u8; 6]>,
}

impl Vxlan {
    /// The changes that make peers known, and those that forget others.
    pub(super) fn changes(&self, peers: &Peers) -> (Vec<Change>, Vec<Change>) {
        let mut known = Vec::new();
        for (subnet, Peer { underlay, .. }) in peers {
            if self.forwarding.get(&subnet.hardware_address()) != Some(underlay) {
                known.push(Change::Forward(*subnet, *underlay));
            }
            if self.neighbours.get(&subnet.host()) != Some(&subnet.hardware_address()) {
                known.push(Change::Neighbour(*subnet));
            }
        }
        let addresses: BTreeSet<Ipv4Addr> = peers.keys().map(|subnet| subnet.host()).collect();
        let hardware: BTreeSet<[u8; 6]> = peers.keys().map(|subnet| subnet.hardware_address()).collect();
        let neighbours = self.neighbours.keys().filter(|address| !addresses.contains(address));
        let forwarding = self.forwarding.iter().filter(|(address, _)| !hardware.contains(*address));
        let forgotten = neighbours.map(|address| Change::ForgetNeighbour(*address));
        let forgotten = forgotten.chain(forwarding.map(|(address, to)| Change::ForgetForward(*address, *to)));
        (known, forgotten.collect())
    }
}
