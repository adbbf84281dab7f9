//! Peers by WireGuard: who has which key may send from which addresses, and is reached where.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};

use common::network::{Peers, Subnet, WireguardKey};
use ipnet::Ipv4Net;

use super::{Change, PORT};

/// What it adds to a packet: headers of IPv6, UDP and WireGuard, and its tag, in bytes; 20 less over IPv4, which
/// nobody has to know this way.
pub(super) const OVERHEAD: u32 = 80;
/// Why a host has none.
pub(super) const MISSING: &str = "this cluster's overlay is WireGuard, and this host lacks the program wg, or both the \
                                  kernel's WireGuard and /dev/net/tun";

/// What the link knows of the peer with a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WireguardPeer {
    /// Where it was heard last, or is to be looked for first.
    pub endpoint: Option<SocketAddr>,
    /// From where it may send, and what is sent to it.
    pub allowed: Vec<Ipv4Net>,
}

impl WireguardPeer {
    fn of(subnet: Subnet, underlay: IpAddr) -> WireguardPeer {
        WireguardPeer { endpoint: Some(SocketAddr::new(underlay, PORT)), allowed: vec![subnet.0] }
    }
}

/// What the link knows of peers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wireguard(pub BTreeMap<WireguardKey, WireguardPeer>);

impl Wireguard {
    /// What has to be said of peers, and what has to be forgotten of others.
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
