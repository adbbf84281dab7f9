//! What instances reach outside of their environments, and those that reach more or less than others do: sets of
//! addresses that the rules look into.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr},
};

use common::directory::{Directory, Reach};

use super::{
    Residents,
    rules::{Family, Script},
};

/// The set of own instances that reach nothing outside the cluster.
pub(super) const INTERNAL: &str = "internal";
/// The set of own instances that may call programs of the host.
pub(super) const CALLERS: &str = "callers";
/// The set of the ports that services on hosts' own networks listen on: address, protocol and port.
pub(super) const HOST_PORTS: &str = "host-ports";

/// The set of the addresses of hosts, where instances reach open ports alone; empty while those are not known.
pub(super) const KNOWN_HOSTS: &str = "known-hosts";
/// The set of the ports that instances publish on hosts: address, protocol and port.
pub(super) const PUBLISHED_PORTS: &str = "published-ports";

/// The elements of these sets.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reaches {
    internal: BTreeSet<String>,
    callers: BTreeSet<String>,
    host_ports: BTreeSet<String>,
    known_hosts: BTreeSet<String>,
    published_ports: BTreeSet<String>,
}

/// The elements by the directory and the own residents.
pub(super) fn reaches(directory: &Directory, residents: &Residents) -> Reaches {
    let own = |is_one: fn(&Reach) -> bool| {
        let reach = |(address, service)| Some((address, directory.service(service)?.reach));
        let residents = residents.iter().map(|(address, resident)| (address, resident.instance.service()));
        let found = residents.filter_map(reach).filter(|(_, reach)| is_one(reach));
        found.map(|(address, _): (&Ipv4Addr, Reach)| address.to_string()).collect()
    };
    let on_hosts = directory.services().filter(|(_, listing)| listing.reach.is_on_host);
    let host_ports = on_hosts.flat_map(|(id, listing)| {
        let addresses = directory.instances_of(id).map(|(_, endpoint)| endpoint.address);
        addresses.flat_map(|address| {
            listing.ports.iter().map(move |(port, protocol)| format!("{address} . {protocol} . {port}"))
        })
    });
    let element = |(address, protocol, port)| format!("{address} . {protocol} . {port}");
    let published_ports = directory.reachable_ports().map(|ports| ports.map(element).collect());
    let known_hosts = published_ports.is_some().then(|| directory.hosts().filter_map(|(_, host)| host.address));
    let known_hosts = known_hosts.into_iter().flatten().filter(IpAddr::is_ipv4);
    Reaches {
        known_hosts: known_hosts.map(|address| address.to_string()).collect(),
        published_ports: published_ports.unwrap_or_default(),
        internal: own(|reach| reach.is_internal),
        callers: own(|reach| reach.calls_host),
        host_ports: host_ports.collect(),
    }
}

/// Leads from the earlier elements to those of now.
pub(super) fn update(script: &mut Script, before: &Reaches, now: &Reaches) {
    let sets = [
        (INTERNAL, &before.internal, &now.internal),
        (CALLERS, &before.callers, &now.callers),
        (HOST_PORTS, &before.host_ports, &now.host_ports),
        (PUBLISHED_PORTS, &before.published_ports, &now.published_ports),
        (KNOWN_HOSTS, &before.known_hosts, &now.known_hosts),
    ];
    for (set, before, now) in sets {
        let elements = |one: &BTreeSet<String>, other: &BTreeSet<String>| -> Vec<String> {
            one.difference(other).cloned().collect()
        };
        script.elements("delete", Family::Ip, set, &elements(before, now));
        script.elements("add", Family::Ip, set, &elements(now, before));
    }
}

#[cfg(test)]
mod tests {
    use common::{
        directory::{Endpoint, HostListing, Listing, OpenPorts},
        id::{HostId, InstanceId},
        network::Subnet,
        spec::Protocol,
    };

    use super::*;

    #[test]
    fn who_reaches_less_or_more_is_in_a_set() {
        let mut directory = Directory::default();
        let mut put = |service: &str, reach: Reach, ports: Vec<(u16, Protocol)>| {
            let listing = Listing { reach, ports, ..Listing::default() };
            directory.put_service(format!("default/shop/{service}").parse().expect("an id"), Some(listing));
        };
        put("db", Reach { is_internal: true, ..Reach::default() }, vec![(5432, Protocol::Tcp)]);
        put("web", Reach { calls_host: true, ..Reach::default() }, Vec::new());
        put("node", Reach { is_on_host: true, ..Reach::default() }, vec![(9100, Protocol::Tcp)]);
        let endpoint = Endpoint { address: [192, 168, 0, 7].into(), serves: true };
        directory.put_instance("default/shop/node/1.1".parse().expect("an id"), Some(endpoint));
        let resident = |last: u8, id: &str| {
            (Ipv4Addr::new(10, 42, 0, last), id.parse::<common::id::InstanceId>().expect("an id").into())
        };
        let residents = [resident(2, "default/shop/db/1.1"), resident(3, "default/shop/web/1.1")].into();
        let now = reaches(&directory, &residents);
        let mut script = Script::default();
        update(&mut script, &Reaches::default(), &now);
        let added = "add element ip wharf internal { 10.42.0.2 }\n\
                     add element ip wharf callers { 10.42.0.3 }\n\
                     add element ip wharf host-ports { 192.168.0.7 . tcp . 9100 }\n";
        assert_eq!(script.text(), added);
        assert!(script.text() == added, "no set of hosts while their open ports are not known");
        let mut script = Script::default();
        update(&mut script, &now, &reaches(&directory, &Residents::new()));
        assert_eq!(
            script.text(),
            "delete element ip wharf internal { 10.42.0.2 }\ndelete element ip wharf callers { 10.42.0.3 }\n"
        );
    }

    #[test]
    fn of_hosts_what_is_published_is_in_a_set_once_it_is_known() {
        let mut directory = Directory::default();
        let subnet = |third| Subnet::of([10, 42, third, 0].into());
        for (third, address) in [(1, "192.168.0.1"), (2, "192.168.0.2"), (3, "fd00::3")] {
            let (id, name) = (HostId([third; 10]), format!("h{third}").parse().expect("a name"));
            let address = Some(address.parse().expect("an address"));
            let host = HostListing { id, name, address, key: None, labels: Default::default() };
            directory.put_host(subnet(third), Some(host));
        }
        let mut steps = Vec::new();
        let mut before = Reaches::default();
        let mut step = |directory: &Directory| {
            let (mut script, now) = (Script::default(), reaches(directory, &Residents::new()));
            update(&mut script, &before, &now);
            before = now;
            steps.push(script.text().to_owned());
        };
        step(&directory);
        let ports = vec![
            (None, Protocol::Tcp, 80),
            (Some([0, 0, 0, 0].into()), Protocol::Udp, 53),
            (Some([192, 168, 0, 2].into()), Protocol::Tcp, 81),
            (Some([127, 0, 0, 1].into()), Protocol::Tcp, 82),
        ];
        let id: InstanceId = "default/shop/web/1.1".parse().expect("an id");
        directory.put_open_ports_of(id.clone(), Some(OpenPorts { host: subnet(2), ports }));
        step(&directory);
        directory.put_open_ports_of(id, None);
        step(&directory);
        assert_eq!(
            steps,
            [
                "",
                "add element ip wharf published-ports { 192.168.0.2 . tcp . 80, 192.168.0.2 . tcp . 81, \
                 192.168.0.2 . udp . 53 }\n\
                 add element ip wharf known-hosts { 192.168.0.1, 192.168.0.2 }\n",
                "delete element ip wharf published-ports { 192.168.0.2 . tcp . 80, 192.168.0.2 . tcp . 81, \
                 192.168.0.2 . udp . 53 }\n",
            ]
        );
    }
}
