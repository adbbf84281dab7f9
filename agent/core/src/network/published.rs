//! The ports that containers publish. Docker leads connections from outside to them; with its default, the userland
//! proxy, it does not lead those of containers of the same host, so the rules here do. This module also finds the
//! connections that began before a port led where it leads now: datagrams of a sender that never pauses would follow them
//! for ever.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
};

use common::spec::Protocol;

use super::{Flow, Residents, TABLE, rules::Script, services::ITSELF};

/// The chain of published ports.
pub(super) const CHAIN: &str = "published";

/// Where the host's ports lead: by protocol, the one address where they are open, if it is only one, and port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Ports(BTreeMap<(Protocol, Option<Ipv4Addr>, u16), (Ipv4Addr, u16)>);

impl Ports {
    /// By the instances on the host.
    pub(super) fn of(residents: &Residents) -> Ports {
        let all = residents.iter().flat_map(|(address, resident)| {
            let port = |port: &crate::Published| ((port.protocol, port.at, port.port), (*address, port.container));
            resident.published.iter().map(port)
        });
        Ports(all.collect())
    }

    /// Whether any of them takes datagrams.
    pub(super) fn take_datagrams(&self) -> bool {
        self.0.keys().any(|(protocol, ..)| *protocol == Protocol::Udp)
    }

    fn target(&self, protocol: Protocol, at: Ipv4Addr, port: u16) -> Option<&(Ipv4Addr, u16)> {
        self.0.get(&(protocol, Some(at), port)).or_else(|| self.0.get(&(protocol, None, port)))
    }

    /// Whether a connection to a port of this host does not lead where it would lead now. A translated connection leads to
    /// a container of this host. Of those that lead to none, only datagrams can go on for ever.
    pub(super) fn are_missed_by(&self, flow: &Flow, is_translated: bool) -> bool {
        let Some(protocol) = flow.transport() else { return false };
        let target = self.target(protocol, flow.to, flow.to_port);
        let is_misled = target != Some(&(flow.answered_by, flow.answering_port));
        is_misled && (is_translated || (protocol == Protocol::Udp && target.is_some()))
    }
}

/// Leads from where ports led before to where they lead now.
pub(super) fn update(script: &mut Script, before: Option<&Ports>, now: Option<&Ports>) {
    let empty = BTreeMap::new();
    let [before, now] = [before, now].map(|ports| ports.map_or(&empty, |ports| &ports.0));
    if before == now {
        return;
    }
    script.line(format_args!("flush chain ip {TABLE} {CHAIN}"));
    for ((protocol, at, port), (address, container)) in now {
        let at = at.map(|at| format!("ip daddr {at} ")).unwrap_or_default();
        script.line(format_args!(
            "add rule ip {TABLE} {CHAIN} {at}{protocol} dport {port} dnat to {address}:{container}"
        ));
    }
    // An instance that asks for its own port is led to itself, and its answers must not bypass the host.
    for address in now.values().map(|(address, _)| address).collect::<BTreeSet<_>>() {
        script.line(format_args!("add element ip {TABLE} {ITSELF} {{ {address} . {address} }}"));
    }
}
