//! How much of its network a host can bring about, by what it knows at the moment.

use std::{
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

use common::{
    assignment::Assignment,
    network::{Network, Overlay, Peers},
};

/// How long a new agent leaves alone the rules that an earlier process has loaded, while it does not know which
/// instances are on the host.
const LEFT_ALONE: Duration = Duration::from_secs(5);

/// The part of a host's network that its agent brings about now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Upkeep<'a> {
    /// The kernel keeps what it holds: the agent does not know yet what else it should hold.
    LeaveAlone,
    /// A bridge as Docker makes it, without rules.
    Bridge,
    /// The overlay.
    Overlay {
        /// The cluster's ranges and the host's subnet.
        overlay: Overlay,
        /// The other hosts.
        peers: &'a Peers,
        /// The address under which they reach this one.
        address: Ipv4Addr,
    },
}

/// Everything that an agent knows of its host's network.
#[derive(Debug, Clone, Copy)]
pub struct Knowledge<'a> {
    /// The network that the cluster has assigned to the host; none before the first assignment.
    pub network: Option<Network>,
    /// The address under which other hosts reach this one.
    pub address: Option<IpAddr>,
    /// The other hosts of the overlay; none while the directory does not name them.
    pub peers: Option<&'a Peers>,
    /// Whether the agent has seen which instances are on the host.
    pub knows_residents: bool,
    /// How long the agent runs.
    pub runs_for: Duration,
}

/// The network that the cluster has assigned to a host, if there ever was an assignment.
pub fn assigned_network(assignment: &Assignment) -> Option<Network> {
    assignment.is_known().then_some(assignment.network)
}

impl<'a> Knowledge<'a> {
    /// Decides what to bring about; an error says why there can be no overlay.
    pub fn upkeep(self) -> Result<Upkeep<'a>, String> {
        let overlay = match self.network {
            None => return Ok(Upkeep::LeaveAlone),
            Some(Network::Bridge) => return Ok(Upkeep::Bridge),
            Some(Network::Overlay(overlay)) => overlay,
        };
        if !self.knows_residents && self.runs_for < LEFT_ALONE {
            return Ok(Upkeep::LeaveAlone);
        }
        match (self.address, self.peers) {
            (Some(IpAddr::V4(address)), Some(peers)) => Ok(Upkeep::Overlay { overlay, peers, address }),
            (Some(address), Some(_)) => {
                Err(format!("others reach this host at {address}, and the overlay needs an IPv4 address"))
            }
            (None, _) | (_, None) => Ok(Upkeep::LeaveAlone),
        }
    }
}

#[cfg(test)]
mod tests {
    use common::{
        id::{ClusterId, HostId},
        network::NetworkPlan,
    };

    use super::*;

    #[test]
    fn the_overlay_begins_once_all_of_it_is_known() {
        let plan = NetworkPlan::default();
        let overlay = Overlay { plan, own: plan.subnets().nth(1).expect("there are 256") };
        let (peers, address) = (Peers::new(), Ipv4Addr::new(192, 168, 0, 1));
        let whole = Knowledge {
            network: Some(Network::Overlay(overlay)),
            address: Some(address.into()),
            peers: Some(&peers),
            knows_residents: true,
            runs_for: Duration::ZERO,
        };
        let complete = Upkeep::Overlay { overlay, peers: &peers, address };
        for (knowledge, expected, why) in [
            (whole, complete, "all is known"),
            (Knowledge { network: None, ..whole }, Upkeep::LeaveAlone, "no assignment has come yet"),
            (Knowledge { network: Some(Network::Bridge), ..whole }, Upkeep::Bridge, "no overlay is wanted"),
            (
                Knowledge {
                    network: Some(Network::Bridge),
                    address: None,
                    peers: None,
                    knows_residents: false,
                    ..whole
                },
                Upkeep::Bridge,
                "a bridge needs none of the rest",
            ),
            (Knowledge { address: None, ..whole }, Upkeep::LeaveAlone, "the address is not known"),
            (Knowledge { peers: None, ..whole }, Upkeep::LeaveAlone, "the other hosts are not known"),
            (Knowledge { knows_residents: false, ..whole }, Upkeep::LeaveAlone, "the residents are not known"),
            (Knowledge { knows_residents: false, runs_for: LEFT_ALONE, ..whole }, complete, "Docker does not answer"),
        ] {
            assert_eq!(knowledge.upkeep(), Ok(expected), "{why}");
        }
        let address = Some(IpAddr::V6("fd00::1".parse().expect("an address")));
        let refused = Knowledge { address, ..whole }.upkeep().expect_err("IPv6");
        assert_eq!(refused, "others reach this host at fd00::1, and the overlay needs an IPv4 address");
        let early = Knowledge { address, peers: None, ..whole };
        assert_eq!(early.upkeep(), Ok(Upkeep::LeaveAlone), "the other hosts come first");
    }

    #[test]
    fn a_host_without_an_assignment_has_no_network_yet() {
        let nothing = Assignment::nothing(ClusterId([1; 10]), HostId([2; 10]));
        assert_eq!(assigned_network(&nothing), None);
        assert_eq!(assigned_network(&Assignment { generation: 1, ..nothing }), Some(Network::Bridge));
    }
}
