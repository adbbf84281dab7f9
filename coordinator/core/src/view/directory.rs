//! What names stand for, derived from the state and followed as it changes.

use std::{collections::BTreeSet, net::IpAddr};

use common::{
    directory::{Directory, Endpoint, HostListing, Listing, OpenPorts, Reach},
    id::{HostId, ServiceId, StackId},
    instance::Verdict,
    network::Backend,
    spec::{EndpointMode, HostAddress, Mode, NetworkMode, ServiceSpec},
};

use crate::{
    Changes, State,
    changes::{self, Change},
    state::{Host, Instance, Service, Stack},
};

/// All that has an address which other hosts reach: nothing where there is no overlay.
pub fn directory(cluster: &State) -> Directory {
    let mut directory = Directory::default();
    follow(&mut directory, &State::default(), cluster);
    directory
}

/// Brings a directory from what it was at `before` to what it is at `after`.
pub fn follow(directory: &mut Directory, before: &State, after: &State) {
    if after.network().backend == Backend::None {
        return;
    }
    let changes = Changes::between(before, after);
    if directory.open_ports().is_none() {
        directory.put_open_ports(Some(Default::default()));
    }
    for change in changes.instances() {
        directory.put_open_ports_of(change.key.clone(), change.after.and_then(|instance| open_ports(after, instance)));
        directory.put_instance(change.key.clone(), change.after.and_then(|instance| endpoint(after, instance)));
    }
    // A host may have taken the place of another one, and has its subnet.
    let (gone, there): (Vec<_>, Vec<_>) = changes.hosts().partition(|change| change.after.is_none());
    for change in gone.into_iter().chain(there) {
        // What a host reports changes more often than what others know of it.
        let listing = change.after.map(|host| host_listing(*change.key, host));
        let Some(subnet) = change.both().last().map(|host| host.subnet) else { continue };
        if directory.host_of(subnet.host()) != listing.as_ref() {
            let on_host = listing.iter().flat_map(|listing| after.instances_on(listing.id));
            for (id, instance) in on_host.filter(|(_, instance)| is_on_host(&instance.spec)) {
                directory.put_instance(id.clone(), endpoint(after, instance));
            }
            directory.put_host(subnet, listing);
        }
    }
    for change in changes.stacks() {
        follow_services(directory, &change);
    }
}

/// What an instance publishes, for as long as its host's ports are booked for it.
fn open_ports(cluster: &State, instance: &Instance) -> Option<OpenPorts> {
    let host = cluster.hosts().get(&instance.host)?.subnet;
    let ports = instance.ports.iter().map(|port| (port.spec.host_ip, port.spec.protocol, port.host)).collect();
    (instance.holds_bookings() && !instance.ports.is_empty()).then_some(OpenPorts { host, ports })
}

fn host_listing(id: HostId, host: &Host) -> HostListing {
    let facts = host.facts.as_ref();
    let (address, key) = (host.address(), facts.and_then(|facts| facts.wireguard));
    HostListing { id, name: host.name.clone(), address, key, labels: host.labels.clone() }
}

fn follow_services(directory: &mut Directory, change: &Change<'_, StackId, Stack>) {
    let services = |stack: Option<&Stack>| stack.map(|stack| stack.services.clone()).unwrap_or_default();
    let (before, after) = (services(change.before), services(change.after));
    for one in changes::diff(&before, &after) {
        let service_id: ServiceId = change.key.service(one.key.clone());
        // What is on no network is nobody's to find.
        let listing = one.after.filter(|service| service.spec.network_mode != NetworkMode::None).map(listing);
        if directory.service(&service_id) != listing.as_ref() {
            directory.put_service(service_id, listing);
        }
    }
}

fn listing(service: &Service) -> Listing {
    let spec = &service.spec;
    let published = spec.ports.iter().map(|port| (port.container, port.protocol));
    let ports: BTreeSet<_> = spec.expose.iter().map(|port| (port.container, port.protocol)).chain(published).collect();
    let ports = ports.into_iter().collect();
    let replicas = (spec.mode != Mode::Global).then_some(spec.replicas);
    let (joins, labels) = (spec.joins.clone(), spec.container.labels.clone());
    let address = service.reached_at();
    let networks = spec.networks.iter().map(|(name, attachment)| (name.clone(), attachment.aliases.clone())).collect();
    let mut hosts = spec.container.extra_hosts.iter();
    let reach = Reach {
        is_internal: spec.is_internal(),
        calls_host: hosts.any(|host| host.address == HostAddress::HostGateway),
        is_on_host: is_on_host(spec),
    };
    let resolvers = spec.container.resolver.servers.clone();
    let is_sticky = spec.endpoint_mode == EndpointMode::Sticky;
    Listing { address, is_sticky, ports, joins, replicas, labels, networks, reach, resolvers }
}

fn is_on_host(spec: &ServiceSpec) -> bool {
    spec.network_mode == NetworkMode::Host
}

fn endpoint(cluster: &State, instance: &Instance) -> Option<Endpoint> {
    let address = if is_on_host(&instance.spec) {
        // Others reach it where they reach its host.
        let IpAddr::V4(address) = cluster.hosts().get(&instance.host)?.address()? else { return None };
        address
    } else {
        instance.observed.address?
    };
    let serves = instance.fills_slot() && instance.verdict == Verdict::Reachable && instance.observed.is_serving();
    Some(Endpoint { address, serves })
}

#[cfg(test)]
mod tests {
    use common::{
        host::Liveness,
        instance::Phase,
        spec::{ExposedPort, PortSpec, Protocol},
    };

    use super::*;
    use crate::{
        Command,
        testing::{Fixture, host, name, stack, web},
    };

    /// The directory of the state after each step is the one that is derived from it at once.
    struct Follower {
        seen: State,
        directory: Directory,
    }

    impl Follower {
        fn step(&mut self, fixture: &Fixture) -> String {
            follow(&mut self.directory, &self.seen, &fixture.cluster);
            self.seen = fixture.cluster.clone();
            assert_eq!(self.directory, directory(&self.seen));
            let text = |(id, endpoint): (&common::id::InstanceId, &Endpoint)| {
                format!("{}{}", id.slot.slot, if endpoint.serves { "" } else { "-" })
            };
            self.directory.instances().map(text).collect::<Vec<_>>().join(" ")
        }
    }

    #[test]
    fn what_serves_is_listed_and_what_ends_is_not() {
        let mut fixture = Fixture::of_hosts(3);
        let mut follower = Follower { seen: State::default(), directory: Directory::default() };
        let port = |container| PortSpec { container, published: None, protocol: Protocol::Tcp, host_ip: None };
        let exposed = |container| ExposedPort { container, protocol: Protocol::Tcp };
        let many = web(|spec| {
            (spec.replicas, spec.ports) = (3, vec![port(80)]);
            spec.expose = [exposed(9100), exposed(80)].into();
        });
        fixture.deploy(&[("web", many)]);
        assert_eq!(follower.step(&fixture), "", "they have no address yet");
        fixture.settle();
        assert_eq!(follower.step(&fixture), "1 2 3");
        fixture.observe("web/2.1", Phase::Failed);
        assert_eq!(follower.step(&fixture), "1 3");
        let service = stack().service(name("web"));
        let ports = |service: &Listing| service.ports.iter().map(|(port, _)| *port).collect::<Vec<_>>();
        assert_eq!(follower.directory.service(&service).map(ports), Some(vec![80, 9100]), "published or exposed");
        let before = follower.directory.service(&service).and_then(|listing| listing.address);
        assert_eq!(before, Some([10, 43, 0, 1].into()));

        fixture.deploy(&[("web", web(|spec| spec.replicas = 1)), ("db", web(|spec| spec.replicas = 1))]);
        fixture.settle();
        follower.step(&fixture);
        let address = |name_: &str| follower.directory.service(&stack().service(name(name_))).and_then(|l| l.address);
        assert_eq!((address("web"), address("db")), (before, Some([10, 43, 0, 2].into())), "it keeps its own for life");

        let whole = follower.step(&fixture);
        assert!(whole.split(' ').all(|one| one == "1"), "one of each: {whole}");
        let liveness = Liveness::Down { since: fixture.now };
        fixture.done(Command::HostLiveness { host: host(1), liveness });
        follower.step(&fixture);
        for (id, endpoint) in follower.directory.instances() {
            let on = fixture.cluster.instances().get(id).map(|instance| instance.host);
            assert_eq!(endpoint.serves, on != Some(host(1)), "{id}: nobody can say that it serves");
        }
        fixture.done(Command::HostLiveness { host: host(1), liveness: Liveness::Ready });
        fixture.done(Command::RemoveStack(stack()));
        fixture.settle();
        assert_eq!(follower.step(&fixture), "", "all are gone");
        assert_eq!((follower.directory.services().count(), follower.directory.hosts().count()), (0, 3));
    }

    #[test]
    fn ports_are_open_for_as_long_as_they_are_booked() {
        let mut fixture = Fixture::of_hosts(2);
        let mut follower = Follower { seen: State::default(), directory: Directory::default() };
        let port = PortSpec { container: 80, published: Some(8080), protocol: Protocol::Tcp, host_ip: None };
        let publishing = |replicas| web(|spec| (spec.replicas, spec.ports) = (replicas, vec![port.clone()]));
        fixture.deploy(&[("web", publishing(2))]);
        fixture.settle();
        follower.step(&fixture);
        let open = |follower: &Follower| {
            let all = follower.directory.reachable_ports().expect("they are known");
            all.map(|(address, protocol, port)| format!("{address} {protocol} {port}")).collect::<Vec<_>>()
        };
        assert_eq!(open(&follower), ["10.0.0.1 tcp 8080", "10.0.0.2 tcp 8080"]);
        fixture.deploy(&[("web", publishing(1))]);
        fixture.settle();
        follower.step(&fixture);
        assert_eq!(open(&follower).len(), 1);
    }

    #[test]
    fn what_is_on_no_network_is_not_listed_and_what_is_on_the_hosts_has_its_address() {
        let mut fixture = Fixture::of_hosts(1);
        let mut follower = Follower { seen: State::default(), directory: Directory::default() };
        let of = |mode| web(|spec| (spec.replicas, spec.network_mode) = (1, mode));
        fixture.deploy(&[("alone", of(NetworkMode::None)), ("node", of(NetworkMode::Host))]);
        fixture.settle();
        follower.step(&fixture);
        let services: Vec<_> = follower.directory.services().map(|(id, _)| id.service.to_string()).collect();
        assert_eq!(services, ["node"]);
        let service = stack().service(name("node"));
        let listing = follower.directory.service(&service).expect("it is listed");
        assert_eq!((listing.address, listing.reach.is_on_host), (None, true));
        let address = |follower: &Follower| {
            let mut found = follower.directory.instances_of(&service).map(|(_, endpoint)| IpAddr::V4(endpoint.address));
            found.next()
        };
        let before = fixture.cluster.hosts().get(&host(1)).and_then(|host| Some(host.facts.as_ref()?.address));
        assert_eq!(address(&follower), before);
        // It follows its host.
        let facts = common::host::HostFacts { address: [192, 168, 9, 9].into(), ..crate::testing::facts(1) };
        fixture.report(1, facts);
        follower.step(&fixture);
        assert_eq!(address(&follower), Some([192, 168, 9, 9].into()));
    }
}
