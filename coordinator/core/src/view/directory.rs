//! What names stand for, derived from the state and followed as it changes.

use std::collections::BTreeSet;

use common::{
    directory::{Directory, Endpoint, HostListing, Listing},
    id::{HostId, ServiceId, StackId},
    instance::Verdict,
    network::Backend,
    spec::{EndpointMode, Mode},
};
use imbl::ordmap::DiffItem;

use crate::{
    Cluster,
    cluster::{Host, Instance, Service, Stack},
};

/// All that has an address which other hosts reach: nothing where there is no overlay.
pub fn directory(cluster: &Cluster) -> Directory {
    let mut directory = Directory::default();
    follow(&mut directory, &Cluster::default(), cluster);
    directory
}

/// Brings a directory from what it was at `before` to what it is at `after`.
pub fn follow(directory: &mut Directory, before: &Cluster, after: &Cluster) {
    if after.network.backend == Backend::None {
        return;
    }
    for item in before.instances.diff(&after.instances) {
        match item {
            DiffItem::Add(id, instance) | DiffItem::Update { new: (id, instance), .. } => {
                directory.put_instance(id.clone(), endpoint(instance));
            }
            DiffItem::Remove(id, _) => directory.put_instance(id.clone(), None),
        }
    }
    for item in before.hosts.diff(&after.hosts) {
        // What a host reports changes more often than what others know of it.
        let (subnet, listing) = match item {
            DiffItem::Add(id, host) | DiffItem::Update { new: (id, host), .. } => {
                (host.subnet, Some(host_listing(*id, host)))
            }
            DiffItem::Remove(_, host) => (host.subnet, None),
        };
        if directory.host_of(subnet.host()) != listing.as_ref() {
            directory.put_host(subnet, listing);
        }
    }
    for item in before.stacks.diff(&after.stacks) {
        match item {
            DiffItem::Add(id, stack) => follow_services(directory, id, None, Some(stack)),
            DiffItem::Update { old: (_, old), new: (id, new) } => {
                follow_services(directory, id, Some(old), Some(new));
            }
            DiffItem::Remove(id, stack) => follow_services(directory, id, Some(stack), None),
        }
    }
}

fn host_listing(id: HostId, host: &Host) -> HostListing {
    let facts = host.facts.as_ref();
    let (address, key) = (facts.map(|facts| facts.address), facts.and_then(|facts| facts.wireguard));
    HostListing { id, name: host.name.clone(), address, key, labels: host.labels.clone() }
}

fn follow_services(directory: &mut Directory, id: &StackId, before: Option<&Stack>, after: Option<&Stack>) {
    let services = |stack: Option<&Stack>| stack.map(|stack| stack.services.clone()).unwrap_or_default();
    for item in services(before).diff(&services(after)) {
        let (name, service) = match item {
            DiffItem::Add(name, service) | DiffItem::Update { new: (name, service), .. } => (name, Some(service)),
            DiffItem::Remove(name, _) => (name, None),
        };
        let service_id: ServiceId = id.service(name.clone());
        let listing = service.map(listing);
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
    Listing { address, is_sticky: spec.endpoint_mode == EndpointMode::Sticky, ports, joins, replicas, labels }
}

fn endpoint(instance: &Instance) -> Option<Endpoint> {
    let address = instance.observed.address?;
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
        seen: Cluster,
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
        let mut follower = Follower { seen: Cluster::default(), directory: Directory::default() };
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
            let on = fixture.cluster.instances.get(id).map(|instance| instance.host);
            assert_eq!(endpoint.serves, on != Some(host(1)), "{id}: nobody can say that it serves");
        }
        fixture.done(Command::HostLiveness { host: host(1), liveness: Liveness::Ready });
        fixture.done(Command::RemoveStack(stack()));
        fixture.settle();
        assert_eq!(follower.step(&fixture), "", "all are gone");
        assert_eq!((follower.directory.services().count(), follower.directory.hosts().count()), (0, 3));
    }
}
