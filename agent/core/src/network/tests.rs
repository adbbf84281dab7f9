use common::{
    directory::{Directory, Endpoint, Listing, Realm},
    network::{NetworkPlan, Peer, Peers},
    spec::Protocol,
};

use super::*;

fn subnet(number: usize) -> Subnet {
    NetworkPlan::default().subnets().nth(number).expect("there are 256")
}

fn peer(number: u8) -> (Subnet, Peer) {
    let (underlay, key) = (IpAddr::V4([192, 168, 0, number].into()), Some(WireguardKey([number; 32])));
    (subnet(number.into()), Peer { underlay, key })
}

fn underlay() -> Underlay {
    Underlay { link: 2, address: [192, 168, 0, 1].into(), mtu: 1500 }
}

fn rendered(backend: Backend, peers: Peers) -> HostNetwork {
    let plan = NetworkPlan { backend, ..NetworkPlan::default() };
    let key = Some(WireguardKey([1; 32]));
    render(Overlay { plan, own: subnet(1) }, peers, Live::default(), HostEnd { underlay: underlay(), key })
        .expect("it can be had")
}

fn wanted(peers: &[u8]) -> HostNetwork {
    rendered(Backend::Vxlan, peers.iter().map(|number| peer(*number)).collect())
}

fn encrypted(peers: &[u8]) -> HostNetwork {
    rendered(Backend::Wireguard, peers.iter().map(|number| peer(*number)).collect())
}

/// The kernel's state once all changes have been made.
fn made(wanted: &HostNetwork) -> Observed {
    let mut observed = Observed {
        tunnel: Some(ObservedTunnel { is: Some(wanted.tunnel), is_ready: true }),
        routes: wanted.routes(),
        has_rules: true,
        ..Observed::default()
    };
    for (subnet, peer) in &wanted.peers {
        match (wanted.tunnel.carrier, peer.key) {
            (Carrier::Vxlan { .. }, _) => {
                observed.vxlan.forwarding.insert(subnet.hardware_address(), peer.underlay);
                observed.vxlan.neighbours.insert(subnet.host(), subnet.hardware_address());
            }
            (Carrier::Wireguard { .. }, Some(key)) => {
                observed.wireguard.0.insert(key, speaks(*subnet, peer));
            }
            (Carrier::Wireguard { .. }, None) => panic!("a peer without a key"),
        }
    }
    observed
}

fn speaks(subnet: Subnet, peer: &Peer) -> WireguardPeer {
    WireguardPeer { endpoint: Some((peer.underlay, PORT).into()), allowed: vec![subnet.0] }
}

#[test]
fn what_is_as_it_should_be_is_left_alone() {
    for (wanted, mtu) in [(wanted(&[2, 3]), 1450), (encrypted(&[2, 3]), 1420)] {
        assert_eq!(changes(&wanted, &made(&wanted)), []);
        assert_eq!(wanted.tunnel.mtu, mtu);
    }
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
            Change::Forward(subnet(2), peer(2).1.underlay),
            Change::Neighbour(subnet(2)),
            Change::AddRoute(route),
            Change::AddRoute(services),
        ]
    );
}

#[test]
fn only_what_differs_is_changed() {
    let before = wanted(&[2, 3]);
    let moved = Peer { underlay: IpAddr::V4([192, 168, 0, 30].into()), ..peer(3).1 };
    let after = rendered(Backend::Vxlan, [(subnet(3), moved), peer(4)].into());
    let gone = Route { to: subnet(2).0, through: Some(subnet(2).host()) };
    let new = Route { to: subnet(4).0, through: Some(subnet(4).host()) };
    assert_eq!(
        changes(&after, &made(&before)),
        [
            Change::Forward(subnet(3), moved.underlay),
            Change::Forward(subnet(4), peer(4).1.underlay),
            Change::Neighbour(subnet(4)),
            Change::AddRoute(new),
            Change::RemoveRoute(gone),
            Change::ForgetNeighbour(subnet(2).host()),
            Change::ForgetForward(subnet(2).hardware_address(), peer(2).1.underlay),
        ]
    );
}

#[test]
fn a_link_that_is_another_one_is_made_anew_with_all_that_leads_into_it() {
    let wanted = wanted(&[2]);
    let carrier = Carrier::Vxlan { link: 2, address: [192, 168, 0, 9].into(), own: subnet(1) };
    let elsewhere = Tunnel { carrier, ..wanted.tunnel };
    let narrow = Tunnel { mtu: 1400, ..wanted.tunnel };
    for is in [Some(elsewhere), Some(narrow), Some(encrypted(&[]).tunnel), None] {
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
    let rules = wanted(&[3, 2]).rules.whole();
    for line in [
        "elements = { 192.168.0.2, 192.168.0.3 }",
        "elements = { 10.42.1.0, 10.42.2.0, 10.42.3.0 }",
        "iifname \"wharf-br0\" ip saddr != 10.42.1.0/24 drop",
        "iifname \"wharf-br0\" ip saddr { 10.42.1.0, 10.42.1.1 } drop",
        "ip daddr 10.42.1.1 meta l4proto { tcp, udp } th dport 53 accept",
        "ip daddr 10.43.0.0/16 reject with tcp reset",
        "ip saddr . ip daddr @itself masquerade",
        "iifname { \"wharf-br0\", \"wharf-tun0\" } ip daddr @known-hosts goto to-host",
        "ip daddr . meta l4proto . th dport @published-ports accept",
        // What is not published there is dropped.
        "icmp type echo-request accept\n        drop",
    ] {
        assert!(rules.contains(line), "{line} in {rules}");
    }
    let alone = wanted(&[]).rules.whole();
    assert!(!alone.contains("elements = {  }"), "a set without elements has no such line: {alone}");
}

#[test]
fn a_peer_without_an_address_that_the_overlay_can_use_is_no_hindrance_to_the_others() {
    let distant = Peer { underlay: "fd00::9".parse().expect("an address"), key: None };
    assert_eq!(rendered(Backend::Vxlan, [(subnet(9), distant), peer(2)].into()), wanted(&[2]));
    let silent = Peer { key: None, ..peer(3).1 };
    assert_eq!(rendered(Backend::Wireguard, [(subnet(3), silent), peer(2)].into()), encrypted(&[2]));
}

#[test]
fn where_encryption_is_asked_for_there_is_no_other_way() {
    let plan = NetworkPlan { backend: Backend::Wireguard, ..NetworkPlan::default() };
    let overlay = Overlay { plan, own: subnet(1) };
    let why = render(overlay, [peer(2)].into(), Live::default(), HostEnd { underlay: underlay(), key: None })
        .expect_err("it cannot be had");
    assert!(why.contains("/dev/net/tun"), "{why}");
}

#[test]
fn by_wireguard_only_peers_that_differ_are_told_anew() {
    let (before, moved) = (encrypted(&[2, 3, 4]), Peer { underlay: IpAddr::V4([192, 168, 0, 30].into()), ..peer(3).1 });
    let after = rendered(Backend::Wireguard, [peer(2), (subnet(3), moved), peer(5)].into());
    let key = |number| WireguardKey([number; 32]);
    let route = |number| Route { to: subnet(number).0, through: None };
    assert_eq!(
        changes(&after, &made(&before)),
        [
            Change::Admit([(key(3), speaks(subnet(3), &moved)), (key(5), speaks(subnet(5), &peer(5).1))].into()),
            Change::AddRoute(route(5)),
            Change::RemoveRoute(route(4)),
            Change::Dismiss([key(4)].into()),
        ]
    );
    let found = changes(&before, &Observed::default());
    assert_eq!(found[..3], [Change::LoadRules, Change::MakeTunnel, Change::ReadyTunnel]);
    assert!(matches!(&found[3], Change::Admit(peers) if peers.len() == 3), "{found:?}");
}

fn led(services: &[(u8, &[u8])]) -> Rules {
    let backend = |last: &u8| Ipv4Addr::new(10, 42, 0, *last);
    let lead = |(last, to): &(u8, &[u8])| {
        let backends = to.iter().map(backend).collect();
        let environments = [Realm::Environment("default".parse().expect("a name"))].into();
        (Ipv4Addr::new(10, 43, 0, *last), services::Lead { backends, is_sticky: false, environments })
    };
    let services = services.iter().map(lead).collect();
    wanted(&[2]).rules.living(Live { services, ..Live::default() })
}

#[test]
fn services_lead_to_what_serves() {
    let whole = led(&[(1, &[2, 3])]).whole();
    let lines = "add chain ip wharf service-10.43.0.1\n\
                 flush chain ip wharf service-10.43.0.1\n\
                 add rule ip wharf service-10.43.0.1 ip saddr != @in-default ip saddr != @hosts return\n\
                 add rule ip wharf service-10.43.0.1 dnat to numgen random mod 2 map { 0 : 10.42.0.2, 1 : 10.42.0.3 }\n\
                 add element ip wharf services { 10.43.0.1 : goto service-10.43.0.1 }\n";
    assert!(whole.ends_with(lines), "{whole}");

    let own = Ipv4Addr::new(10, 42, 1, 9);
    let lead = services::Lead { backends: [own].into(), is_sticky: true, environments: Default::default() };
    let services = [([10, 43, 0, 1].into(), lead)].into();
    let whole = wanted(&[]).rules.living(Live { services, ..Live::default() }).whole();
    assert!(whole.contains("add element ip wharf itself { 10.42.1.9 . 10.42.1.9 }\n"), "it may ask itself: {whole}");
    assert!(whole.contains("dnat to jhash ip saddr mod 1 map { 0 : 10.42.1.9 }"), "{whole}");

    let mut directory = Directory::default();
    let id = |text: &str| text.parse().expect("an id");
    let listing = |last| Listing { address: Some([10, 43, 0, last].into()), ..Listing::default() };
    directory.put_service(id("default/shop/web"), Some(listing(1)));
    directory.put_service(id("default/shop/idle"), Some(listing(2)));
    directory.put_service(id("default/shop/plain"), Some(Listing::default()));
    for (instance, last, serves) in
        [("web/1.1", 2, true), ("web/2.1", 3, false), ("idle/1.1", 4, false), ("plain/1.1", 5, true)]
    {
        let id = format!("default/shop/{instance}").parse().expect("an id");
        directory.put_instance(id, Some(Endpoint { address: [10, 42, 0, last].into(), serves }));
    }
    assert_eq!(services::services(&directory), led(&[(1, &[2])]).live.services, "what nobody serves is refused");
}

#[test]
fn a_change_of_a_service_changes_that_service_alone() {
    let before = led(&[(1, &[2, 3]), (2, &[4]), (3, &[5])]);
    let update = |after: &[(u8, &[u8])]| led(after).update_from(&before).expect("the tables are the same");
    assert_eq!(update(&[(1, &[2, 3]), (2, &[4]), (3, &[5])]), "");
    let fewer = update(&[(1, &[3]), (2, &[4])]);
    assert_eq!(
        fewer,
        "add chain ip wharf service-10.43.0.1\n\
         flush chain ip wharf service-10.43.0.1\n\
         add rule ip wharf service-10.43.0.1 ip saddr != @in-default ip saddr != @hosts return\n\
         add rule ip wharf service-10.43.0.1 dnat to numgen random mod 1 map { 0 : 10.42.0.3 }\n\
         delete element ip wharf services { 10.43.0.3 }\n\
         flush chain ip wharf service-10.43.0.3\n"
    );
    let more = update(&[(1, &[2, 3]), (2, &[4]), (3, &[5]), (4, &[6])]);
    assert!(more.contains("add element ip wharf services { 10.43.0.4") && !more.contains("10.43.0.1"), "{more}");
    let tables = wanted(&[2, 3]).rules;
    assert_eq!(tables.update_from(&before), None, "another peer: all is loaded");
}

/// Instances by the last byte of their addresses: `shop/web` belongs to `default` and, if `joins`, to `shared`.
fn belonging(instances: &[(&str, u8)], joins: bool) -> Rules {
    let mut directory = Directory::default();
    let joined = joins.then(|| "shared".parse().expect("a name")).into_iter().collect();
    let listing = Listing { joins: joined, ..Listing::default() };
    directory.put_service("default/shop/web".parse().expect("an id"), Some(listing));
    let residents =
        instances.iter().map(|(id, last)| ([10, 42, 1, *last].into(), id.parse::<InstanceId>().expect("an id").into()));
    wanted(&[2]).rules.living(Live::of(&directory, Some(&residents.collect())))
}

#[test]
fn what_belongs_to_the_same_environment_reaches_each_other() {
    let before = belonging(&[("default/shop/web/1.1", 2), ("default/shop/db/1.1", 3), ("shared/log/in/1.1", 4)], true);
    let nothing = wanted(&[2]).rules;
    assert_eq!(
        before.update_from(&nothing).expect("the tables are the same"),
        "add set ip wharf in-default { type ipv4_addr; }\n\
         add element ip wharf in-default { 10.42.1.2, 10.42.1.3 }\n\
         add set ip wharf in-shared { type ipv4_addr; }\n\
         add element ip wharf in-shared { 10.42.1.2, 10.42.1.4 }\n\
         add chain ip wharf environment-default\n\
         flush chain ip wharf environment-default\n\
         add rule ip wharf environment-default ip daddr @in-default accept\n\
         add rule ip wharf environment-default ip saddr @in-shared ip daddr @in-shared accept\n\
         add rule ip wharf environment-default reject with tcp reset\n\
         add rule ip wharf environment-default reject with icmp admin-prohibited\n\
         add chain ip wharf environment-shared\n\
         flush chain ip wharf environment-shared\n\
         add rule ip wharf environment-shared ip daddr @in-shared accept\n\
         add rule ip wharf environment-shared reject with tcp reset\n\
         add rule ip wharf environment-shared reject with icmp admin-prohibited\n\
         add element ip wharf environments { 10.42.1.2 : goto environment-default, \
         10.42.1.3 : goto environment-default, 10.42.1.4 : goto environment-shared }\n"
    );
    // An address that is another environment's now, one that is gone, and a service that has left.
    let after = belonging(&[("default/shop/web/1.1", 2), ("shared/log/in/2.1", 3)], false);
    assert_eq!(
        after.update_from(&before).expect("the tables are the same"),
        "delete element ip wharf in-default { 10.42.1.3 }\n\
         delete element ip wharf in-shared { 10.42.1.2, 10.42.1.4 }\n\
         add element ip wharf in-shared { 10.42.1.3 }\n\
         add chain ip wharf environment-default\n\
         flush chain ip wharf environment-default\n\
         add rule ip wharf environment-default ip daddr @in-default accept\n\
         add rule ip wharf environment-default reject with tcp reset\n\
         add rule ip wharf environment-default reject with icmp admin-prohibited\n\
         delete element ip wharf environments { 10.42.1.3, 10.42.1.4 }\n\
         add element ip wharf environments { 10.42.1.3 : goto environment-shared }\n"
    );
    assert_eq!(after.update_from(&after).as_deref(), Some(""));
    assert!(after.whole().ends_with(&after.update_from(&nothing).expect("the tables are the same")));
}

#[test]
fn an_address_is_bound_to_the_port_of_its_container() {
    let binding = |port: &str, last: u8| Binding::new(port, [2, 0x42, 10, 42, 1, last], [10, 42, 1, last].into());
    assert_eq!(binding("veth*", 2), None, "rules would take that for others, too");
    assert_eq!(binding("a\" . b", 2), None);
    let bound = |bindings: &[(&str, u8)]| {
        let bindings = bindings.iter().map(|(port, last)| binding(port, *last).expect("it can be said"));
        wanted(&[2]).rules.living(Live::default().bound(bindings.collect()))
    };
    let before = bound(&[("veth1", 2), ("veth2", 3)]);
    let lines = "add element bridge wharf bindings { \"veth1\" . 02:42:0a:2a:01:02 . 10.42.1.2, \
                 \"veth2\" . 02:42:0a:2a:01:03 . 10.42.1.3 }\n\
                 add element bridge wharf ports { \"veth1\", \"veth2\" }\n\
                 add element bridge wharf addresses { 10.42.1.2, 10.42.1.3 }\n";
    assert!(before.whole().ends_with(lines), "{}", before.whole());
    // A container that is started again has the same address, and another port.
    assert_eq!(
        bound(&[("veth1", 2), ("veth3", 3)]).update_from(&before).expect("the tables are the same"),
        "delete element bridge wharf bindings { \"veth2\" . 02:42:0a:2a:01:03 . 10.42.1.3 }\n\
         add element bridge wharf bindings { \"veth3\" . 02:42:0a:2a:01:03 . 10.42.1.3 }\n\
         delete element bridge wharf ports { \"veth2\" }\n\
         add element bridge wharf ports { \"veth3\" }\n"
    );
    assert_eq!(before.update_from(&before).as_deref(), Some(""));
}

fn publishing(ports: &[(u8, Protocol, Option<[u8; 4]>, u16, u16)]) -> Rules {
    let resident = |(last, protocol, at, port, container): &(u8, Protocol, Option<[u8; 4]>, u16, u16)| {
        let published =
            Published { protocol: *protocol, at: at.map(Ipv4Addr::from), port: *port, container: *container };
        let id: InstanceId = format!("default/shop/web/{last}.1").parse().expect("an id");
        (Ipv4Addr::from([10, 42, 1, *last]), Resident { published: [published].into(), ..id.into() })
    };
    let residents: Residents = ports.iter().map(resident).collect();
    let live = Live { ports: Live::of(&Directory::default(), Some(&residents)).ports, ..Live::default() };
    wanted(&[2]).rules.living(live)
}

#[test]
fn what_a_host_publishes_its_own_containers_reach() {
    let nothing = wanted(&[2]).rules;
    let before =
        publishing(&[(2, Protocol::Tcp, None, 8080, 80), (3, Protocol::Udp, Some([192, 168, 0, 1]), 53, 5353)]);
    let whole = before.whole();
    let leads = "iifname \"wharf-br0\" ip daddr 10.42.1.1 meta l4proto { tcp, udp } th dport 53 accept\n        \
                 iifname \"wharf-br0\" fib daddr type local goto published\n";
    assert!(whole.contains(leads), "names are the host's own: {whole}");
    assert!(whole.contains("iifname \"wharf-br0\" fib daddr type local meta mark set"), "{whole}");
    assert_eq!(
        before.update_from(&nothing).expect("the tables are the same"),
        "flush chain ip wharf published\n\
         add rule ip wharf published tcp dport 8080 dnat to 10.42.1.2:80\n\
         add rule ip wharf published ip daddr 192.168.0.1 udp dport 53 dnat to 10.42.1.3:5353\n\
         add element ip wharf itself { 10.42.1.2 . 10.42.1.2 }\n\
         add element ip wharf itself { 10.42.1.3 . 10.42.1.3 }\n"
    );
    assert_eq!(before.update_from(&before).as_deref(), Some(""));
    assert_eq!(nothing.update_from(&before).as_deref(), Some("flush chain ip wharf published\n"));
    assert!(before.end_something_of(&nothing), "what came before may have to be led now");
    assert!(nothing.end_something_of(&before) && !before.end_something_of(&before));
    assert!(before.take_datagrams() && !publishing(&[(2, Protocol::Tcp, None, 8080, 80)]).take_datagrams());
}

#[test]
fn connections_to_ports_end_with_their_container_and_datagrams_follow_the_next_one() {
    const TCP: u8 = 6;
    const UDP: u8 = 17;
    let rules = publishing(&[
        (2, Protocol::Tcp, None, 80, 8000),
        (3, Protocol::Udp, None, 80, 8000),
        (4, Protocol::Udp, Some([192, 168, 0, 1]), 90, 9000),
    ]);
    let (host, other, container) = ([192, 168, 0, 1], [192, 168, 1, 1], |last| [10, 42, 1, last]);
    let addresses = [host, other, [10, 42, 1, 1]].map(Ipv4Addr::from).into();
    let flow = |protocol, to: [u8; 4], to_port, by: [u8; 4], answering_port| Flow {
        from: [192, 168, 0, 9].into(),
        to: to.into(),
        to_port,
        answered_by: by.into(),
        answering_port,
        protocol,
    };
    for (found, stale, why) in [
        (flow(UDP, host, 80, container(3), 8000), false, "it leads where it should"),
        (flow(UDP, other, 80, container(3), 8000), false, "at any address"),
        (flow(UDP, host, 80, container(9), 8000), true, "the container is gone"),
        (flow(UDP, host, 80, container(3), 8001), true, "it has another port now"),
        (flow(UDP, host, 80, host, 80), true, "it came before the container"),
        (flow(UDP, host, 81, host, 81), false, "a program of the host itself"),
        (flow(UDP, host, 81, container(3), 8000), true, "the port is published no longer"),
        (flow(UDP, host, 90, host, 90), true, "published at this address"),
        (flow(UDP, other, 90, other, 90), false, "and not at that one"),
        (flow(UDP, [8, 8, 8, 8], 80, [8, 8, 8, 8], 80), false, "somebody else's port"),
        (flow(TCP, host, 80, container(2), 8000), false, "it leads where it should"),
        (flow(TCP, host, 80, container(3), 8000), true, "of TCP, another one's"),
        (flow(TCP, host, 80, container(9), 8000), true, "the container is gone"),
        (flow(TCP, host, 80, host, 80), false, "TCP that nobody answers ends by itself"),
        (flow(TCP, host, 22, host, 22), false, "a program of the host itself"),
        (flow(1, host, 0, host, 0), false, "a ping"),
    ] {
        assert_eq!(rules.is_stale(&found, &addresses), stale, "{why}: {found:?}");
    }
    let unknown = wanted(&[2]).rules.living(Live::of(&Directory::default(), None));
    let found = flow(TCP, host, 80, container(2), 8000);
    assert!(!unknown.is_stale(&found, &addresses), "while Docker has not said what is here, nothing ends");
}

#[test]
fn the_own_host_knows_its_instances_first() {
    let mut directory = Directory::default();
    let id = |text: &str| text.parse().expect("an id");
    let endpoint = Endpoint { address: [10, 42, 1, 2].into(), serves: false };
    directory.put_instance(id("default/shop/old/1.1"), Some(endpoint));
    let residents = [(endpoint.address, InstanceId::into(id("other/shop/new/1.1")))].into();
    let found = environments::environments(&directory, &residents);
    let alone = environments::environments(&Directory::default(), &residents);
    assert_eq!(found, alone, "the address is another one's now");
}

#[test]
fn only_the_live_part_is_loaded_if_the_tables_are_the_same() {
    let (one, two, none) = (led(&[(1, &[2])]), led(&[(1, &[2, 3])]), led(&[]));
    let other_tables = wanted(&[2, 3]).rules;
    for (rules, held, loads_all, ends_flows, why) in [
        (&one, None, true, true, "the rules of an earlier process may have let pass anything"),
        (&one, Some(&other_tables), true, false, "another peer"),
        (&other_tables, Some(&one), true, true, "another peer, and the service ends"),
        (&two, Some(&one), false, false, "one more instance"),
        (&one, Some(&two), false, true, "one instance less"),
        (&none, Some(&one), false, true, "the service ends"),
        (&one, Some(&one), false, false, "nothing differs"),
    ] {
        let load = rules.load(held);
        assert_eq!(load.script == rules.whole(), loads_all, "{why}");
        assert_eq!(load.script.is_empty(), held == Some(rules), "{why}");
        assert_eq!(load.ends_flows, ends_flows, "{why}");
    }
}

#[test]
fn rules_that_the_kernel_does_not_show_are_forgotten() {
    let listed = Listed::of("table ip wharf {\n\tset peers {\n\t}\n}\n");
    let loaded = Loaded { rules: led(&[]), listed: listed.clone() };
    for (shown, stays) in [(Some(&listed), true), (Some(&Listed::of("")), false), (None, false)] {
        assert_eq!(loaded.clone().still_there(shown), stays.then(|| loaded.clone()), "{shown:?}");
    }
}

#[test]
fn connections_are_looked_through_again_as_long_as_datagrams_are_taken() {
    let seconds = std::time::Duration::from_secs;
    let look = |ago, took| Some(FlowLook { ago: seconds(ago), took: seconds(took) });
    let (udp, tcp) = (Protocol::Udp, Protocol::Tcp);
    for (protocol, last, expected, why) in [
        (udp, None, true, "there was no look yet"),
        (tcp, None, false, "connections of TCP end by themselves"),
        (tcp, look(1000, 0), false, "connections of TCP end by themselves"),
        (udp, look(2, 0), false, "the last look was a moment ago"),
        (udp, look(3, 0), true, "the last look was long enough ago"),
        (udp, look(99, 2), false, "a look that takes long is repeated less often"),
        (udp, look(100, 2), true, "it takes a fiftieth of the time"),
    ] {
        assert_eq!(publishing(&[(2, protocol, None, 53, 53)]).need_a_look(last), expected, "{why}");
    }
}
