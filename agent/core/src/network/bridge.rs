//! The bridge that a host's containers hang on, as the container engine has to make it.

use std::net::Ipv4Addr;

use common::network::Subnet;

/// The bridge that a host's containers hang on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostBridge {
    /// One as the engine makes it.
    Docker,
    /// One of the overlay.
    Overlay {
        /// The containers' addresses.
        subnet: Subnet,
        /// The largest packet, in bytes.
        mtu: u32,
        /// The host that answers names when this one does not.
        next: Option<Subnet>,
    },
}

impl HostBridge {
    /// The addresses that answer its containers' questions for names, the first one first; none if the engine answers
    /// alone.
    pub fn name_servers(&self) -> Vec<Ipv4Addr> {
        match self {
            HostBridge::Docker => Vec::new(),
            HostBridge::Overlay { subnet, next, .. } => [*subnet].iter().chain(next).map(|s| s.gateway()).collect(),
        }
    }

    /// Whether the engine has to make this bridge, or to make containers for it from now on: `made` is the last one that
    /// it was asked for, and it `is_there` unless it was removed since.
    pub fn has_to_be_made(self, made: Option<HostBridge>, is_there: bool) -> bool {
        made != Some(self) || !is_there
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bridge_is_made_once_and_again_when_it_differs_or_is_gone() {
        let of = |third: u8, next| {
            let subnet = |third| Subnet::of([10, 42, third, 0].into());
            HostBridge::Overlay { subnet: subnet(third), mtu: 1450, next: Some(subnet(next)) }
        };
        for (made, is_there, expected) in [
            (None, false, true),
            (None, true, true),
            (Some(of(1, 2)), true, false),
            (Some(of(1, 2)), false, true),
            (Some(of(1, 3)), true, true),
            (Some(of(2, 3)), true, true),
            (Some(HostBridge::Docker), true, true),
        ] {
            assert_eq!(of(1, 2).has_to_be_made(made, is_there), expected, "{made:?}, there: {is_there}");
        }
        assert_eq!(of(1, 2).name_servers(), [Ipv4Addr::new(10, 42, 1, 1), Ipv4Addr::new(10, 42, 2, 1)]);
        assert!(HostBridge::Docker.name_servers().is_empty());
    }
}
