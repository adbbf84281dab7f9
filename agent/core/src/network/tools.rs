//! The tools that a host must have for an overlay, under the names by which a person would look for them.

use common::network::Backend;

/// A program, or a part of the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tool {
    /// The program that loads rules.
    Nft,
    /// The program that changes Docker's own filter.
    Iptables,
    /// The program that sets up WireGuard.
    Wg,
    /// WireGuard in the kernel, or the device by which a process of ours carries it.
    WireguardCarrier,
}

impl Tool {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Tool::Nft => "nft",
            Tool::Iptables => "iptables",
            Tool::Wg => "wg",
            Tool::WireguardCarrier => "the kernel's WireGuard or /dev/net/tun",
        }
    }
}

/// The tools that encryption needs.
pub const ENCRYPTION: &[Tool] = &[Tool::Wg, Tool::WireguardCarrier];

/// The tools that an overlay needs.
pub fn needed(backend: Backend) -> Vec<Tool> {
    let rules = [Tool::Nft, Tool::Iptables];
    match backend {
        Backend::None => Vec::new(),
        Backend::Vxlan => rules.into(),
        Backend::Wireguard => rules.iter().chain(ENCRYPTION).copied().collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_overlay_needs_its_tools() {
        for (backend, expected) in [
            (Backend::None, [].as_slice()),
            (Backend::Vxlan, &["nft", "iptables"]),
            (Backend::Wireguard, &["nft", "iptables", "wg", "the kernel's WireGuard or /dev/net/tun"]),
        ] {
            let names: Vec<&str> = needed(backend).into_iter().map(Tool::name).collect();
            assert_eq!(names, expected, "{backend}");
        }
    }
}
