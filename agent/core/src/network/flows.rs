//! Which connections the kernel has to forget. It applies rules to the first packet of a connection only, so a sender
//! that never pauses would go on for ever by the rules of that time.

use std::{collections::BTreeSet, net::Ipv4Addr, time::Duration};

use common::{network::Subnet, spec::Protocol};
use ipnet::Ipv4Net;

use super::rules::{Live, Rules};

/// The numbers of TCP and UDP (IANA, protocol numbers).
const TCP: u8 = 6;
const UDP: u8 = 17;

/// The time between two looks for stale connections to published ports, where ports take datagrams: Docker changes its
/// own rules unseen.
const LOOK_EVERY: Duration = Duration::from_secs(3);
/// The looks take at most one part in so many of the time.
const SHARE_OF_TIME: u32 = 50;

/// The last look through all connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FlowLook {
    /// How long ago it ended.
    pub ago: Duration,
    /// How long it took.
    pub took: Duration,
}

impl Rules {
    /// Whether connections may be stale again although these rules did not change.
    pub fn need_a_look(&self, last: Option<FlowLook>) -> bool {
        let is_due = |look: FlowLook| look.ago >= (look.took * SHARE_OF_TIME).max(LOOK_EVERY);
        self.take_datagrams() && last.is_none_or(is_due)
    }
}

/// A connection as the kernel remembers it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flow {
    /// The address that began it.
    pub from: Ipv4Addr,
    /// The address that the first packet was sent to.
    pub to: Ipv4Addr,
    /// The port that it was sent to, if the protocol has ports.
    pub to_port: u16,
    /// The address that answers.
    pub answered_by: Ipv4Addr,
    /// The port that answers, if the protocol has ports.
    pub answering_port: u16,
    /// The protocol's number.
    pub protocol: u8,
}

impl Flow {
    /// The protocol, if it is one whose ports are published.
    pub(super) fn transport(&self) -> Option<Protocol> {
        match self.protocol {
            TCP => Some(Protocol::Tcp),
            UDP => Some(Protocol::Udp),
            _ => None,
        }
    }
}

impl Live {
    /// Whether the rules of `before` let pass a packet, or led it somewhere, and these do not.
    pub(super) fn ends_something_of(&self, before: &Live) -> bool {
        self.environments.end_something_of(&before.environments)
            || before.services.iter().any(|(address, earlier)| {
                let now = self.services.get(address);
                now.is_none_or(|now| !earlier.backends.is_subset(&now.backends))
            })
            // A connection that began while a port led nowhere does not follow when the port leads somewhere.
            || self.ports != before.ports
    }

    /// Whether a connection could not begin like this any more. An instance that serves no longer may finish its TCP
    /// connections; datagrams have no end. `services` are the addresses that services may have.
    pub(super) fn is_stale(&self, services: Ipv4Net, flow: &Flow) -> bool {
        let Flow { from, to, answered_by, protocol, .. } = flow;
        let is_led_astray = services.contains(to)
            && match (*protocol, self.services.get(to)) {
                (UDP, lead) => lead.is_none_or(|lead| !lead.backends.contains(answered_by)),
                _ => !self.environments.knows(answered_by),
            };
        is_led_astray || self.environments.are_apart(from, answered_by)
    }

    /// Whether a connection began at a published port of a host that has those addresses, and does not lead where the
    /// port leads now. None does so while the agent does not know where ports lead.
    pub(super) fn misses_its_port(&self, own: Subnet, flow: &Flow, addresses: &BTreeSet<Ipv4Addr>) -> bool {
        let Some(ports) = self.ports.as_ref().filter(|_| addresses.contains(&flow.to)) else { return false };
        ports.are_missed_by(flow, own.0.contains(&flow.answered_by) && flow.answered_by != flow.to)
    }
}

#[cfg(test)]
mod tests {
    use common::{
        directory::{Directory, Endpoint, Listing},
        id::InstanceId,
    };

    use super::*;

    /// `web` with one instance for each last byte, which serves or not; `db` of another environment at .9.
    fn live(web: &[(u8, bool)]) -> Live {
        let mut directory = Directory::default();
        let listing = Listing { address: Some([10, 43, 0, 1].into()), ..Listing::default() };
        directory.put_service("default/shop/web".parse().expect("an id"), Some(listing));
        for (last, serves) in web {
            let id = format!("default/shop/web/{last}.1").parse().expect("an id");
            directory.put_instance(id, Some(Endpoint { address: [10, 42, 0, *last].into(), serves: *serves }));
        }
        let residents = [([10, 42, 0, 9].into(), "other/shop/db/1.1".parse::<InstanceId>().expect("an id").into())];
        Live::of(&directory, Some(&residents.into()))
    }

    #[test]
    fn what_would_not_begin_any_more_is_forgotten() {
        let services = "10.43.0.0/16".parse().expect("a range");
        let now = live(&[(2, true), (3, false), (5, true)]);
        let flow = |from: u8, to: [u8; 4], by: u8, protocol| Flow {
            from: [10, 42, 0, from].into(),
            to: to.into(),
            to_port: 80,
            answered_by: [10, 42, 0, by].into(),
            answering_port: 80,
            protocol,
        };
        let (service, unled) = ([10, 43, 0, 1], [10, 43, 0, 7]);
        for (from, to, by, protocol, stale, why) in [
            (5, service, 2, UDP, false, "it serves"),
            (5, service, 3, UDP, true, "it serves no longer"),
            (5, service, 3, TCP, false, "what has begun may end"),
            (5, service, 4, TCP, true, "nobody is there"),
            (5, unled, 2, UDP, true, "the service is gone"),
            (5, [10, 42, 0, 2], 2, TCP, false, "they are together"),
            (5, [10, 42, 0, 9], 9, TCP, true, "they are apart"),
            (9, [10, 42, 0, 5], 5, UDP, true, "in both directions"),
            (0, [10, 42, 0, 9], 9, TCP, false, "the host itself"),
            (77, [10, 42, 0, 9], 9, TCP, false, "one that is not known yet"),
        ] {
            assert_eq!(now.is_stale(services, &flow(from, to, by, protocol)), stale, "{why}");
        }
    }

    #[test]
    fn only_what_is_taken_away_ends_anything() {
        let before = live(&[(2, true), (3, true)]);
        assert!(!before.ends_something_of(&before));
        assert!(!live(&[(2, true), (3, true), (4, true)]).ends_something_of(&before));
        assert!(live(&[(2, true), (3, false)]).ends_something_of(&before), "it serves no longer");
        assert!(live(&[(2, true)]).ends_something_of(&before), "it is gone");
    }
}
