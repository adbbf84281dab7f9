//! Peers by WireGuard: each key with the addresses that its owner may send from, and its endpoint.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};

use common::network::{Peers, Subnet, WireguardKey};
use ipnet::Ipv4Net;

use super::{Change, PORT};

/// The bytes that it adds to a packet: headers of IPv6, UDP and WireGuard, and its tag. Over IPv4 it would be 20 less;
/// one value for both is simpler.
pub(super) const OVERHEAD: u32 = 80;
/// Why a host has no overlay of WireGuard.
pub(super) const MISSING: &str = "this cluster's overlay is WireGuard, but this host lacks the program wg, or both the \
                                  kernel's WireGuard and /dev/net/tun";

/// A peer as the link knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WireguardPeer {
    /// Where its last packet came from, or the first one goes to.
    pub endpoint: Option<SocketAddr>,
    /// The ranges that it may send from, and that are sent to it.
    pub allowed: Vec<Ipv4Net>,
}

impl WireguardPeer {
    fn of(subnet: Subnet, underlay: IpAddr) -> WireguardPeer {
        WireguardPeer { endpoint: Some(SocketAddr::new(underlay, PORT)), allowed: vec![subnet.0] }
    }
}

/// The peers that the link knows, by their keys.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wireguard(pub BTreeMap<WireguardKey, WireguardPeer>);

impl Wireguard {
    /// The changes that make peers known, and those that forget others.
    pub(super) fn changes(&self, peers: &Peers) -> (Vec<Change>, Vec<Change>) {
        let wanted =
            peers.iter().filter_map(|(subnet, peer)| Some((peer.key?, WireguardPeer::of(*subnet, peer.underlay))));
        let wanted: BTreeMap<WireguardKey, WireguardPeer> = wanted.collect();
        let strangers: BTreeSet<WireguardKey> =
            self.0.keys().filter(|key| !wanted.contains_key(key)).copied().collect();
        let differ: BTreeMap<_, _> = wanted.into_iter().filter(|(key, entry)| self.0.get(key) != Some(entry)).collect();
        let admit = (!differ.is_empty()).then_some(Change::Admit(differ));
        let dismiss = (!strangers.is_empty()).then_some(Change::Dismiss(strangers));
        (admit.into_iter().collect(), dismiss.into_iter().collect())
    }
}
