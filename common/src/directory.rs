//! The directory: the services of a cluster and the addresses of their instances. Every host has all of it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::{IpAddr, Ipv4Addr},
};

use imbl::{OrdMap, ordmap::DiffItem};
use serde::{Deserialize, Serialize};

use crate::{
    id::{HostId, InstanceId, ServiceId, StackId},
    name::Name,
    network::{Peer, Peers, Subnet, WireguardKey},
    spec::{Alias, Protocol, default_network},
};

/// A service as other services find it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Listing {
    /// Its virtual address, which leads to the instances that serve; none without an overlay.
    pub address: Option<Ipv4Addr>,
    /// Whether connections from the same client go to the same instance.
    pub is_sticky: bool,
    /// The published and exposed ports in its spec.
    pub ports: Vec<(u16, Protocol)>,
    /// The environments that it has joined besides its own.
    pub joins: BTreeSet<Name>,
    /// The requested number of replicas; none if the hosts determine it.
    pub replicas: Option<u32>,
    /// The labels of its main container.
    pub labels: BTreeMap<String, String>,
    /// Its stack's networks that it is on, with its aliases there. If empty, it is only on the environment's own
    /// network.
    pub networks: BTreeMap<Name, BTreeSet<Alias>>,
    /// The reach of its instances, where it differs from the usual.
    pub reach: Reach,
    /// The DNS servers for names outside the cluster; the host's own if empty.
    pub resolvers: Vec<IpAddr>,
}

/// How the reach of a service's instances differs from the usual.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Reach {
    /// They reach nothing outside the cluster.
    pub is_internal: bool,
    /// They may call programs on their own host.
    pub calls_host: bool,
    /// They use their host's network.
    pub is_on_host: bool,
}

/// The group of services that reach each other: those of an environment, or those on a network of a stack.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Realm {
    /// All services of an environment, and its guests.
    Environment(Name),
    /// The services on a private network of a stack.
    Network(StackId, Name),
}

impl fmt::Display for Realm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Realm::Environment(name) => write!(f, "{name}"),
            // The text has dots and names do not, so no environment has the same text.
            Realm::Network(stack, name) => write!(f, "{}.{}.{name}", stack.environment, stack.stack),
        }
    }
}

/// An instance as other instances reach it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Endpoint {
    /// Its address on the overlay.
    pub address: Ipv4Addr,
    /// Whether it serves. If not, it can send requests, and only its own name leads to it.
    pub serves: bool,
}

/// A host as containers know it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct HostListing {
    /// The host's id.
    pub id: HostId,
    /// The host's name.
    pub name: Name,
    /// The address at which other hosts reach it; none until its agent has reported one.
    pub address: Option<IpAddr>,
    /// Its public WireGuard key, if it can encrypt.
    pub key: Option<WireguardKey>,
    /// The operator's labels.
    pub labels: BTreeMap<String, String>,
}

/// The ports that an instance publishes on its host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenPorts {
    /// The subnet of the host.
    pub host: Subnet,
    /// The ports: the one address of the host where a port is open, if it is only one.
    pub ports: Vec<(Option<IpAddr>, Protocol, u16)>,
}

/// The open ports of all instances.
pub type AllOpenPorts = OrdMap<InstanceId, OpenPorts>;

/// All services and instances with addresses, and the hosts that these addresses belong to.
#[derive(Debug, Clone, Default)]
pub struct Directory {
    services: OrdMap<ServiceId, Listing>,
    instances: OrdMap<InstanceId, Endpoint>,
    hosts: OrdMap<Subnet, HostListing>,
    /// The ports that instances publish on hosts; none while no coordinator has named them.
    open_ports: Option<AllOpenPorts>,
    /// The owner of each address; derived from services and instances.
    owners: OrdMap<Ipv4Addr, Owner>,
}

/// The owner of an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Owner {
    /// A service, whose virtual address it is.
    Service(ServiceId),
    /// An instance.
    Instance(InstanceId),
}

/// The difference between two directories.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    /// New or changed services; `None` for removed ones.
    pub services: Vec<(ServiceId, Option<Listing>)>,
    /// New or changed instances; `None` for removed ones.
    pub instances: Vec<(InstanceId, Option<Endpoint>)>,
    /// New or changed hosts by their subnets; `None` for removed ones.
    pub hosts: Vec<(Subnet, Option<HostListing>)>,
}

impl PartialEq for Directory {
    fn eq(&self, other: &Directory) -> bool {
        // The owners can be derived from the rest.
        (&self.services, &self.instances, &self.hosts, &self.open_ports)
            == (&other.services, &other.instances, &other.hosts, &other.open_ports)
    }
}

impl Difference {
    /// Whether the directories are equal.
    pub fn is_empty(&self) -> bool {
        self.services.is_empty() && self.instances.is_empty() && self.hosts.is_empty()
    }

    /// Splits the difference into pieces of at most `most` entries; returns at least one piece.
    pub fn pieces(self, most: usize) -> Vec<Difference> {
        let Difference { services, instances, hosts } = self;
        let none = Difference::default;
        let services = services.chunks(most).map(|part| Difference { services: part.into(), ..none() });
        let instances = instances.chunks(most).map(|part| Difference { instances: part.into(), ..none() });
        let hosts = hosts.chunks(most).map(|part| Difference { hosts: part.into(), ..none() });
        let pieces: Vec<Difference> = hosts.chain(services).chain(instances).collect();
        if pieces.is_empty() { vec![Difference::default()] } else { pieces }
    }
}

impl Directory {
    /// Looks up a service.
    pub fn service(&self, id: &ServiceId) -> Option<&Listing> {
        self.services.get(id)
    }

    /// The realms of a service: its own environment or its networks of the stack, then the environments that it has
    /// joined.
    pub fn realms_of<'a>(&'a self, id: &'a ServiceId) -> impl Iterator<Item = Realm> + 'a {
        let listing = self.services.get(id);
        let networks = listing.map(|listing| &listing.networks).into_iter().flat_map(BTreeMap::keys);
        let is_open = listing.is_none_or(|listing| listing.networks.is_empty());
        let own = is_open.then(|| Realm::Environment(id.stack.environment.clone()));
        let joined = listing.map(|listing| &listing.joins).into_iter().flatten();
        own.into_iter()
            .chain(networks.map(|network| realm(&id.stack, network)))
            .chain(joined.cloned().map(Realm::Environment))
    }

    /// Whether two services reach each other, because they share a realm.
    pub fn are_together(&self, one: &ServiceId, other: &ServiceId) -> bool {
        self.realms_of(one).any(|mine| self.realms_of(other).any(|theirs| mine == theirs))
    }

    /// The services of a stack that have this alias, and the networks on which they have it.
    pub fn called<'a>(
        &'a self,
        stack: &'a StackId,
        alias: &'a str,
    ) -> impl Iterator<Item = (&'a ServiceId, Realm)> + 'a {
        // The first possible service id in the stack.
        let of_stack =
            self.services.range(stack.service(Name::first())..).take_while(move |(id, _)| id.stack == *stack);
        of_stack.flat_map(move |(id, listing)| {
            let here = listing.networks.iter().filter(move |(_, aliases)| aliases.contains(alias));
            here.map(move |(network, _)| (id, realm(stack, network)))
        })
    }

    /// Whether the instances of a service use their host's network, so that their address is the host's.
    pub fn is_on_host(&self, service: &ServiceId) -> bool {
        self.services.get(service).is_some_and(|listing| listing.reach.is_on_host)
    }

    /// Whether the stack has any service.
    pub fn has_stack(&self, stack: &StackId) -> bool {
        // No name sorts before this one.
        let Ok(first) = Name::parse("0") else { return false };
        self.services.range(stack.service(first)..).next().is_some_and(|(id, _)| id.stack == *stack)
    }

    /// All services, ordered by id.
    pub fn services(&self) -> impl Iterator<Item = (&ServiceId, &Listing)> {
        self.services.iter()
    }

    /// The instances of a service, ordered by slot.
    pub fn instances_of(&self, id: &ServiceId) -> impl Iterator<Item = (&InstanceId, &Endpoint)> {
        let (first, last) = (id.slot(0).instance(0), id.slot(u32::MAX).instance(u64::MAX));
        self.instances.range(first..=last)
    }

    /// Looks up an instance.
    pub fn instance(&self, id: &InstanceId) -> Option<&Endpoint> {
        self.instances.get(id)
    }

    /// All instances, ordered by id.
    pub fn instances(&self) -> impl Iterator<Item = (&InstanceId, &Endpoint)> {
        self.instances.iter()
    }

    /// The owner of an address.
    pub fn owner(&self, address: Ipv4Addr) -> Option<&Owner> {
        self.owners.get(&address)
    }

    /// Replaces the entry of a service; `None` removes it.
    pub fn put_service(&mut self, id: ServiceId, listing: Option<Listing>) {
        let before = match &listing {
            Some(listing) => self.services.insert(id.clone(), listing.clone()),
            None => self.services.remove(&id),
        };
        let address = |listing: Option<Listing>| listing.and_then(|listing| listing.address);
        self.own(address(before), address(listing), Owner::Service(id));
    }

    /// Replaces the entry of an instance; `None` removes it.
    pub fn put_instance(&mut self, id: InstanceId, endpoint: Option<Endpoint>) {
        let before = match endpoint {
            Some(endpoint) => self.instances.insert(id.clone(), endpoint),
            None => self.instances.remove(&id),
        };
        let address = |endpoint: Option<Endpoint>| endpoint.map(|endpoint| endpoint.address);
        self.own(address(before), address(endpoint), Owner::Instance(id));
    }

    fn own(&mut self, before: Option<Ipv4Addr>, now: Option<Ipv4Addr>, owner: Owner) {
        // Another instance may have got the address in the meantime.
        if let Some(before) = before.filter(|before| self.owners.get(before) == Some(&owner)) {
            self.owners.remove(&before);
        }
        if let Some(now) = now {
            self.owners.insert(now, owner);
        }
    }

    /// Replaces the host of a subnet; `None` removes it.
    pub fn put_host(&mut self, subnet: Subnet, host: Option<HostListing>) {
        match host {
            Some(host) => self.hosts.insert(subnet, host),
            None => self.hosts.remove(&subnet),
        };
    }

    /// All hosts, ordered by subnet.
    pub fn hosts(&self) -> impl Iterator<Item = (&Subnet, &HostListing)> {
        self.hosts.iter()
    }

    /// The addresses of serving instances on the host with this subnet.
    pub fn serving_on(&self, subnet: Subnet) -> impl Iterator<Item = Ipv4Addr> {
        let owners = self.owners.range(subnet.host()..=subnet.0.broadcast());
        owners.filter_map(|(address, owner)| match owner {
            Owner::Instance(id) => self.instances.get(id).is_some_and(|endpoint| endpoint.serves).then_some(*address),
            Owner::Service(_) => None,
        })
    }

    /// The host whose subnet contains an address.
    pub fn host_of(&self, address: Ipv4Addr) -> Option<&HostListing> {
        self.hosts.get(&Subnet::of(address))
    }

    /// The ports that instances publish on hosts; none while no coordinator has named them.
    pub fn open_ports(&self) -> Option<&AllOpenPorts> {
        self.open_ports.as_ref()
    }

    /// Replaces all open ports.
    pub fn put_open_ports(&mut self, open_ports: Option<AllOpenPorts>) {
        self.open_ports = open_ports;
    }

    /// Replaces the open ports of an instance; `None` removes them.
    pub fn put_open_ports_of(&mut self, id: InstanceId, ports: Option<OpenPorts>) {
        let all = self.open_ports.get_or_insert_default();
        match ports {
            Some(ports) => all.insert(id, ports),
            None => all.remove(&id),
        };
    }

    /// The difference that turns the open ports of this directory into those of `next`.
    pub fn open_ports_difference(&self, next: &Directory) -> Vec<(InstanceId, Option<OpenPorts>)> {
        let none = OrdMap::new();
        difference(self.open_ports.as_ref().unwrap_or(&none), next.open_ports.as_ref().unwrap_or(&none))
    }

    /// Where ports are open on hosts, in the cluster's own words: address, protocol and port. None while they are not
    /// known.
    pub fn reachable_ports(&self) -> Option<impl Iterator<Item = (Ipv4Addr, Protocol, u16)>> {
        let of = |open: &OpenPorts| -> Vec<(Ipv4Addr, Protocol, u16)> {
            let host = self.hosts.get(&open.host).and_then(|host| host.address);
            let Some(IpAddr::V4(host)) = host else { return Vec::new() };
            let is_open = |at: &Option<IpAddr>| at.is_none_or(|at| at.is_unspecified() || at == IpAddr::V4(host));
            let ports = open.ports.iter().filter(|(at, ..)| is_open(at));
            ports.map(|(_, protocol, port)| (host, *protocol, *port)).collect()
        };
        self.open_ports.as_ref().map(|all| all.values().flat_map(of))
    }

    /// The other hosts that have reported an address; `None` while the directory lacks the host with subnet `own`,
    /// because then it is incomplete.
    pub fn peers(&self, own: Subnet) -> Option<Peers> {
        let others = self.hosts.iter().filter(|(subnet, _)| **subnet != own);
        let peer =
            |(subnet, host): (&Subnet, &HostListing)| Some((*subnet, Peer { underlay: host.address?, key: host.key }));
        self.hosts.contains_key(&own).then(|| others.filter_map(peer).collect())
    }

    /// The difference that turns this directory into `next`.
    pub fn difference(&self, next: &Directory) -> Difference {
        Difference {
            services: difference(&self.services, &next.services),
            instances: difference(&self.instances, &next.instances),
            hosts: difference(&self.hosts, &next.hosts),
        }
    }

    /// Applies a difference to this directory.
    pub fn apply(&mut self, difference: Difference) {
        for (id, listing) in difference.services {
            self.put_service(id, listing);
        }
        for (id, endpoint) in difference.instances {
            self.put_instance(id, endpoint);
        }
        for (subnet, host) in difference.hosts {
            self.put_host(subnet, host);
        }
    }
}

/// The realm of a network of a stack; `default` is the environment's own.
fn realm(stack: &StackId, network: &Name) -> Realm {
    if *network == default_network() {
        Realm::Environment(stack.environment.clone())
    } else {
        Realm::Network(stack.clone(), network.clone())
    }
}

fn difference<K: Ord + Clone, V: PartialEq + Clone>(
    before: &OrdMap<K, V>,
    after: &OrdMap<K, V>,
) -> Vec<(K, Option<V>)> {
    let items = before.diff(after).map(|item| match item {
        DiffItem::Add(key, value) | DiffItem::Update { new: (key, value), .. } => (key.clone(), Some(value.clone())),
        DiffItem::Remove(key, _) => (key.clone(), None),
    });
    items.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(name: &str) -> ServiceId {
        format!("default/shop/{name}").parse().expect("an id")
    }

    fn instance(name: &str) -> InstanceId {
        format!("default/shop/{name}").parse().expect("an id")
    }

    fn endpoint(last: u8, serves: bool) -> Option<Endpoint> {
        Some(Endpoint { address: [10, 42, 0, last].into(), serves })
    }

    fn example() -> Directory {
        let mut directory = Directory::default();
        let address = Some([10, 43, 0, 1].into());
        let listing = Listing { address, ports: vec![(80, Protocol::Tcp)], ..Listing::default() };
        directory.put_service(service("web"), Some(listing.clone()));
        directory.put_service(service("web2"), Some(Listing { address: None, ..listing }));
        directory.put_instance(instance("web/1.1"), endpoint(2, true));
        directory.put_instance(instance("web/10.1"), endpoint(3, false));
        directory.put_instance(instance("web2/1.1"), endpoint(4, true));
        directory
    }

    #[test]
    fn instances_of_a_service_are_found_and_so_are_owners() {
        let directory = example();
        let of = |name| directory.instances_of(&service(name)).map(|(id, _)| id.to_string()).collect::<Vec<_>>();
        assert_eq!(of("web"), ["default/shop/web/1.1", "default/shop/web/10.1"]);
        assert_eq!(of("web2"), ["default/shop/web2/1.1"]);
        assert_eq!(directory.owner([10, 43, 0, 1].into()), Some(&Owner::Service(service("web"))));
        assert_eq!(directory.owner([10, 42, 0, 3].into()), Some(&Owner::Instance(instance("web/10.1"))));
        let has_stack = |stack: &str| directory.has_stack(&stack.parse().expect("an id"));
        assert!(has_stack("default/shop"));
        assert!(!has_stack("default/sho") && !has_stack("default/shop2") && !has_stack("other/shop"));
    }

    #[test]
    fn peers_are_the_others_that_have_said_where_they_are() {
        let subnet = |third| Subnet::of([10, 42, third, 0].into());
        let host = |address: Option<IpAddr>| {
            let name = "h1".parse().expect("a name");
            Some(HostListing { id: HostId([1; 10]), name, address, key: None, labels: BTreeMap::new() })
        };
        let mut directory = Directory::default();
        let underlay = IpAddr::from([192, 168, 0, 2]);
        directory.put_host(subnet(2), host(Some(underlay)));
        directory.put_host(subnet(3), host(None));
        assert_eq!(directory.peers(subnet(1)), None, "nothing is known yet");
        directory.put_host(subnet(1), host(None));
        assert_eq!(directory.peers(subnet(1)), Some([(subnet(2), Peer { underlay, key: None })].into()));
    }

    #[test]
    fn open_ports_are_those_of_hosts_that_have_said_where_they_are() {
        let (mut directory, subnet) = (Directory::default(), Subnet::of([10, 42, 1, 0].into()));
        let reachable = |directory: &Directory| directory.reachable_ports().map(Iterator::collect::<Vec<_>>);
        assert_eq!(reachable(&directory), None, "no coordinator has named them");
        let open = OpenPorts { host: subnet, ports: vec![(None, Protocol::Tcp, 80)] };
        directory.put_open_ports_of(instance("web/1.1"), Some(open.clone()));
        assert_eq!(reachable(&directory), Some(vec![]));
        let name = "h1".parse().expect("a name");
        let address = Some(IpAddr::from([192, 168, 0, 2]));
        let host = HostListing { id: HostId([1; 10]), name, address, key: None, labels: BTreeMap::new() };
        directory.put_host(subnet, Some(host));
        assert_eq!(reachable(&directory), Some(vec![([192, 168, 0, 2].into(), Protocol::Tcp, 80)]));
        let difference = Directory::default().open_ports_difference(&directory);
        assert_eq!(difference, [(instance("web/1.1"), Some(open))]);
        let mut after = directory.clone();
        after.put_open_ports_of(instance("web/1.1"), None);
        assert_eq!(directory.open_ports_difference(&after), [(instance("web/1.1"), None)]);
        assert_ne!(directory, after);
    }

    #[test]
    fn steps_lead_from_one_to_the_other_also_in_pieces() {
        let before = example();
        let mut after = before.clone();
        after.put_service(service("web2"), None);
        after.put_instance(instance("web/1.1"), None);
        // The address has a new owner.
        after.put_instance(instance("web/1.2"), endpoint(2, true));
        after.put_instance(instance("web/10.1"), endpoint(3, true));
        let name = "h1".parse().expect("a name");
        let host = HostListing { id: HostId([1; 10]), name, address: None, key: None, labels: BTreeMap::new() };
        after.put_host(Subnet::of([10, 42, 0, 0].into()), Some(host.clone()));
        let step = before.difference(&after);
        assert_eq!((step.services.len(), step.instances.len(), step.hosts.len()), (1, 3, 1));
        assert_eq!(after.host_of([10, 42, 0, 9].into()), Some(&host));
        assert_eq!(after.host_of([10, 42, 1, 9].into()), None);
        for most in [1, 2, 100] {
            let mut walked = before.clone();
            step.clone().pieces(most).into_iter().for_each(|piece| walked.apply(piece));
            assert_eq!(walked, after);
            assert_eq!(walked.owner([10, 42, 0, 2].into()), Some(&Owner::Instance(instance("web/1.2"))));
        }
        assert!(after.difference(&after).is_empty());
        assert_eq!(Difference::default().pieces(3).len(), 1, "a first message may say that there is nothing");
    }
}
