use common::network::{NetworkPlan, Peer};

use super::*;

fn subnet(number: usize) -> Subnet {
    NetworkPlan::default().subnets().nth(number).expect("there are 256")
}

fn peer(number: u8) -> Peer {
    Peer { subnet: subnet(number.into()), underlay: IpAddr::V4([192, 168, 0, number].into()) }
}

fn underlay() -> Underlay {
    Underlay { link: 2, address: [192, 168, 0, 1].into(), mtu: 1500 }
}

fn wanted(peers: &[u8]) -> HostNetwork {
    let peers = peers.iter().map(|number| peer(*number)).collect();
    render(&Overlay { plan: NetworkPlan::default(), own: subnet(1), peers }, underlay())
}

/// What the kernel holds once all changes have been made.
fn made(wanted: &HostNetwork) -> Observed {
    Observed {
        tunnel: Some(ObservedTunnel { is: Some(wanted.tunnel), is_ready: true }),
        forwarding: wanted.peers.iter().map(|(subnet, underlay)| (subnet.hardware_address(), *underlay)).collect(),
        neighbours: wanted.peers.keys().map(|subnet| (subnet.host(), subnet.hardware_address())).collect(),
        routes: wanted.routes(),
        has_rules: true,
    }
}

#[test]
fn what_is_as_it_should_be_is_left_alone() {
    let wanted = wanted(&[2, 3]);
    assert_eq!(changes(&wanted, &made(&wanted)), []);
    assert_eq!(wanted.tunnel.mtu(), 1450);
}

#[test]
fn an_empty_kernel_gets_rules_before_anything_can_pass() {
    let wanted = wanted(&[2]);
    let found = changes(&wanted, &Observed::default());
    let route = Route { to: subnet(2).0, through: Some(subnet(2).host()) };
    let services = Route { to: wanted.services, through: None };
    assert_eq!(
        found,
        [
            Change::LoadRules,
            Change::MakeTunnel,
            Change::ReadyTunnel,
            Change::Forward(subnet(2), peer(2).underlay),
            Change::Neighbour(subnet(2)),
            Change::AddRoute(route),
            Change::AddRoute(services),
        ]
    );
}

#[test]
fn only_what_differs_is_changed() {
    let before = wanted(&[2, 3]);
    let moved = Peer { underlay: IpAddr::V4([192, 168, 0, 30].into()), ..peer(3) };
    let overlay = Overlay { plan: NetworkPlan::default(), own: subnet(1), peers: vec![moved, peer(4)] };
    let after = render(&overlay, underlay());
    let gone = Route { to: subnet(2).0, through: Some(subnet(2).host()) };
    let new = Route { to: subnet(4).0, through: Some(subnet(4).host()) };
    assert_eq!(
        changes(&after, &made(&before)),
        [
            Change::Forward(subnet(3), moved.underlay),
            Change::Forward(subnet(4), peer(4).underlay),
            Change::Neighbour(subnet(4)),
            Change::AddRoute(new),
            Change::RemoveRoute(gone),
            Change::ForgetNeighbour(subnet(2).host()),
            Change::ForgetForward(subnet(2).hardware_address(), peer(2).underlay),
        ]
    );
}

#[test]
fn a_link_that_is_another_one_is_made_anew_with_all_that_leads_into_it() {
    let wanted = wanted(&[2]);
    let elsewhere = Tunnel { underlay: Underlay { address: [192, 168, 0, 9].into(), ..underlay() }, ..wanted.tunnel };
    for is in [Some(elsewhere), None] {
        let observed = Observed { tunnel: Some(ObservedTunnel { is, is_ready: true }), ..made(&wanted) };
        let found = changes(&wanted, &observed);
        assert_eq!(found[..3], [Change::RemoveTunnel, Change::MakeTunnel, Change::ReadyTunnel]);
        assert_eq!(found.len(), 7, "{found:?}");
    }
    let down = Observed { tunnel: Some(ObservedTunnel { is: Some(wanted.tunnel), is_ready: false }), ..made(&wanted) };
    assert_eq!(changes(&wanted, &down), [Change::ReadyTunnel]);
}

#[test]
fn rules_name_the_peers_and_the_own_subnet() {
    let rules = wanted(&[3, 2]).rules;
    for line in [
        "elements = { 192.168.0.2, 192.168.0.3 }",
        "elements = { 10.42.1.0, 10.42.2.0, 10.42.3.0 }",
        "iifname \"wharf-br0\" ip saddr != 10.42.1.0/24 drop",
        "ip daddr 10.42.1.1 meta l4proto { tcp, udp } th dport 53 accept",
        "ip daddr 10.43.0.0/16 reject with icmp host-prohibited",
    ] {
        assert!(rules.contains(line), "{line} in {rules}");
    }
    let alone = wanted(&[]).rules;
    assert!(!alone.contains("elements = {  }"), "a set without elements has no such line: {alone}");
}

#[test]
fn a_peer_without_an_address_that_the_overlay_can_use_is_no_hindrance_to_the_others() {
    let distant = Peer { underlay: "fd00::9".parse().expect("an address"), ..peer(9) };
    let overlay = Overlay { plan: NetworkPlan::default(), own: subnet(1), peers: vec![distant, peer(2)] };
    assert_eq!(render(&overlay, underlay()), wanted(&[2]));
}
