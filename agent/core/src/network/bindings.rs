//! Bindings: a packet with the address of an instance must come from that instance's container. Docker lets programs send
//! raw packets, with any source address; but a program cannot choose its port of the bridge.

use std::{collections::BTreeSet, fmt::Write, net::Ipv4Addr};

use super::rules::{Family, Script};

/// The set of the addresses that may come in by each port.
pub(super) const BINDINGS: &str = "bindings";
/// The set of the ports that have a binding.
pub(super) const PORTS: &str = "ports";
/// The set of the addresses that have one.
pub(super) const ADDRESSES: &str = "addresses";

/// The one port of the bridge, and the one hardware address there, that an instance's address belongs to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Binding {
    port: String,
    hardware_address: [u8; 6],
    address: Ipv4Addr,
}

impl Binding {
    /// None if rules cannot contain the name of the port; Docker gives no such name.
    pub fn new(port: &str, hardware_address: [u8; 6], address: Ipv4Addr) -> Option<Binding> {
        let can_be_said = port.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
        can_be_said.then(|| Binding { port: port.to_owned(), hardware_address, address })
    }

    fn element(&self) -> String {
        let mut element = format!("\"{}\" . ", self.port);
        for (place, byte) in self.hardware_address.iter().enumerate() {
            let colon = if place == 0 { "" } else { ":" };
            write!(element, "{colon}{byte:02x}").expect("a string takes all");
        }
        format!("{element} . {}", self.address)
    }
}

/// The rules for the packets that come in by a port, and their sets. A port without a binding, whose container is just
/// starting, may use every address that no other port is bound to.
pub(super) fn table() -> String {
    format!(
        "\
    set {BINDINGS} {{
        type ifname . ether_addr . ipv4_addr
    }}
    set {PORTS} {{
        type ifname
    }}
    set {ADDRESSES} {{
        type ipv4_addr
    }}
    # A bound address works at its own port only: at others, neither packets nor ARP may use it.
    chain from {{
        type filter hook prerouting priority -300;
        iifname . ether saddr . ip saddr @{BINDINGS} accept
        iifname . ether saddr . arp saddr ip @{BINDINGS} iifname . arp saddr ether . arp saddr ip @{BINDINGS} accept
        iifname @{PORTS} drop
        ip saddr @{ADDRESSES} drop
        arp saddr ip @{ADDRESSES} drop
    }}
"
    )
}

/// Leads from the earlier bindings to those of now.
pub(super) fn update(script: &mut Script, before: &BTreeSet<Binding>, now: &BTreeSet<Binding>) {
    let mut set = |name: &str, element: fn(&Binding) -> String| {
        let [before, now] = [before, now].map(|all| all.iter().map(element).collect::<BTreeSet<_>>());
        for (verb, differs) in [("delete", before.difference(&now)), ("add", now.difference(&before))] {
            script.elements(verb, Family::Bridge, name, &differs.cloned().collect::<Vec<_>>());
        }
    };
    set(BINDINGS, Binding::element);
    set(PORTS, |binding| format!("\"{}\"", binding.port));
    set(ADDRESSES, |binding| binding.address.to_string());
}
