//! What names stand for: the services of a cluster, and where their instances are. Every host has all of it.

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

/// A service as others find it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Listing {
    /// Its own address, which leads to those of its instances that serve; none where there is no overlay.
    pub address: Option<Ipv4Addr>,
    /// Whether it leads the same caller to the same instance.
    pub is_sticky: bool,
    /// The ports that its file names.
    pub ports: Vec<(u16, Protocol)>,
    /// The environments that it belongs to beside its own.
    pub joins: BTreeSet<Name>,
    /// How many instances it is to have, if that is a number of its own.
    pub replicas: Option<u32>,
    /// The labels of its main container.
    pub labels: BTreeMap<String, String>,
    /// The networks of its stack that it is on, with its further names there; the environment's own alone if empty.
    pub networks: BTreeMap<Name, BTreeSet<Alias>>,
    /// What its instances may do on their networks beside what all may.
    pub reach: Reach,
    /// Who is asked for names that are not the cluster's; the host's own resolvers if empty.
    pub resolvers: Vec<IpAddr>,
}

/// What the instances of a service reach beside what all do, or do not.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Reach {
    /// Nothing outside the cluster.
    pub is_internal: bool,
    /// Programs of their own host.
    pub calls_host: bool,
    /// They are on their host's own network.
    pub is_on_host: bool,
}

/// What services have in common that reach each other: an environment, or a network of a stack.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Realm {
    /// An environment.
    Environment(Name),
    /// A network that a stack keeps to itself.
    Network(StackId, Name),
}

impl fmt::Display for Realm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Realm::Environment(name) => write!(f, "{name}"),
            // Names have no dots, so no environment is called like that.
            Realm::Network(stack, name) => write!(f, "{}.{}.{name}", stack.environment, stack.stack),
        }
    }
}

/// An instance as others reach it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Endpoint {
    /// Its address.
    pub address: Ipv4Addr,
    /// Whether it serves: what does not can ask, and be asked for by its number alone.
    pub serves: bool,
}

/// A host as its containers, and those of others, know it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct HostListing {
    /// Its identity.
    pub id: HostId,
    /// Its name.
    pub name: Name,
    /// The address under which other hosts reach it; none until its agent has said so.
    pub address: Option<IpAddr>,
    /// Its key of WireGuard, if it can encrypt.
    pub key: Option<WireguardKey>,
    /// The labels that people gave it.
    pub labels: BTreeMap<String, String>,
}

/// All services and instances that have addresses, and the hosts whose they are.
#[derive(Debug, Clone, Default)]
pub struct Directory {
    services: OrdMap<ServiceId, Listing>,
    instances: OrdMap<InstanceId, Endpoint>,
    hosts: OrdMap<Subnet, HostListing>,
    /// Whose address it is.
    owners: OrdMap<Ipv4Addr, Owner>,
}

/// Whose an address is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Owner {
    /// A service's own.
    Service(ServiceId),
    /// An instance's.
    Instance(InstanceId),
}

/// A step from one directory to another.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    /// Services that are new or differ, and those that are gone.
    pub services: Vec<(ServiceId, Option<Listing>)>,
    /// Instances that are new or differ, and those that are gone.
    pub instances: Vec<(InstanceId, Option<Endpoint>)>,
    /// Hosts that are new or differ, by the subnet that they have, and those that are gone.
    pub hosts: Vec<(Subnet, Option<HostListing>)>,
}

impl PartialEq for Directory {
    fn eq(&self, other: &Directory) -> bool {
        // The owners follow from the rest.
        self.services == other.services && self.instances == other.instances && self.hosts == other.hosts
    }
}

impl Difference {
    /// Whether nothing differs.
    pub fn is_empty(&self) -> bool {
        self.services.is_empty() && self.instances.is_empty() && self.hosts.is_empty()
    }

    /// The same in pieces of at most `most` entries, at least one piece.
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
    /// A service.
    pub fn service(&self, id: &ServiceId) -> Option<&Listing> {
        self.services.get(id)
    }

    /// What a service belongs to: its own environment or the networks of its stack that it is on, then the environments
    /// that it has joined.
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

    /// Whether two services reach each other: they do if they belong to the same realm.
    pub fn are_together(&self, one: &ServiceId, other: &ServiceId) -> bool {
        self.realms_of(one).any(|mine| self.realms_of(other).any(|theirs| mine == theirs))
    }

    /// The services of a stack that have a further name, and where they have it.
    pub fn called<'a>(
        &'a self,
        stack: &'a StackId,
        alias: &'a str,
    ) -> impl Iterator<Item = (&'a ServiceId, Realm)> + 'a {
        // The service that comes first of all that a stack may have.
        let of_stack =
            self.services.range(stack.service(Name::first())..).take_while(move |(id, _)| id.stack == *stack);
        of_stack.flat_map(move |(id, listing)| {
            let here = listing.networks.iter().filter(move |(_, aliases)| aliases.contains(alias));
            here.map(move |(network, _)| (id, realm(stack, network)))
        })
    }

    /// Whether an instance is on its host's own network, so that its address is the host's.
    pub fn is_on_host(&self, service: &ServiceId) -> bool {
        self.services.get(service).is_some_and(|listing| listing.reach.is_on_host)
    }

    /// Whether any service is of a stack.
    pub fn has_stack(&self, stack: &StackId) -> bool {
        // Of all names this is the first one.
        let Ok(first) = Name::parse("0") else { return false };
        self.services.range(stack.service(first)..).next().is_some_and(|(id, _)| id.stack == *stack)
    }

    /// All services.
    pub fn services(&self) -> impl Iterator<Item = (&ServiceId, &Listing)> {
        self.services.iter()
    }

    /// The instances of a service, by slot.
    pub fn instances_of(&self, id: &ServiceId) -> impl Iterator<Item = (&InstanceId, &Endpoint)> {
        let (first, last) = (id.slot(0).instance(0), id.slot(u32::MAX).instance(u64::MAX));
        self.instances.range(first..=last)
    }

    /// An instance.
    pub fn instance(&self, id: &InstanceId) -> Option<&Endpoint> {
        self.instances.get(id)
    }

    /// All instances.
    pub fn instances(&self) -> impl Iterator<Item = (&InstanceId, &Endpoint)> {
        self.instances.iter()
    }

    /// Whose an address is.
    pub fn owner(&self, address: Ipv4Addr) -> Option<&Owner> {
        self.owners.get(&address)
    }

    /// Notes what is known of a service now; none if it is gone.
    pub fn put_service(&mut self, id: ServiceId, listing: Option<Listing>) {
        let before = match &listing {
            Some(listing) => self.services.insert(id.clone(), listing.clone()),
            None => self.services.remove(&id),
        };
        let address = |listing: Option<Listing>| listing.and_then(|listing| listing.address);
        self.own(address(before), address(listing), Owner::Service(id));
    }

    /// Notes what is known of an instance now; none if it is gone.
    pub fn put_instance(&mut self, id: InstanceId, endpoint: Option<Endpoint>) {
        let before = match endpoint {
            Some(endpoint) => self.instances.insert(id.clone(), endpoint),
            None => self.instances.remove(&id),
        };
        let address = |endpoint: Option<Endpoint>| endpoint.map(|endpoint| endpoint.address);
        self.own(address(before), address(endpoint), Owner::Instance(id));
    }

    fn own(&mut self, before: Option<Ipv4Addr>, now: Option<Ipv4Addr>, owner: Owner) {
        // Another one may have been given the address meanwhile.
        if let Some(before) = before.filter(|before| self.owners.get(before) == Some(&owner)) {
            self.owners.remove(&before);
        }
        if let Some(now) = now {
            self.owners.insert(now, owner);
        }
    }

    /// Notes what is known of the host that has a subnet now; none if it is gone.
    pub fn put_host(&mut self, subnet: Subnet, host: Option<HostListing>) {
        match host {
            Some(host) => self.hosts.insert(subnet, host),
            None => self.hosts.remove(&subnet),
        };
    }

    /// All hosts, by their subnets.
    pub fn hosts(&self) -> impl Iterator<Item = (&Subnet, &HostListing)> {
        self.hosts.iter()
    }

    /// Where the instances are that serve on the host that has a subnet.
    pub fn serving_on(&self, subnet: Subnet) -> impl Iterator<Item = Ipv4Addr> {
        let owners = self.owners.range(subnet.host()..=subnet.0.broadcast());
        owners.filter_map(|(address, owner)| match owner {
            Owner::Instance(id) => self.instances.get(id).is_some_and(|endpoint| endpoint.serves).then_some(*address),
            Owner::Service(_) => None,
        })
    }

    /// The host in whose subnet an address is.
    pub fn host_of(&self, address: Ipv4Addr) -> Option<&HostListing> {
        self.hosts.get(&Subnet::of(address))
    }

    /// The hosts that have said where they are, but for the one whose subnet is `own`; nothing while that one is not
    /// known here: then the others are not, either.
    pub fn peers(&self, own: Subnet) -> Option<Peers> {
        let others = self.hosts.iter().filter(|(subnet, _)| **subnet != own);
        let peer =
            |(subnet, host): (&Subnet, &HostListing)| Some((*subnet, Peer { underlay: host.address?, key: host.key }));
        self.hosts.contains_key(&own).then(|| others.filter_map(peer).collect())
    }

    /// What leads from this one to `next`.
    pub fn difference(&self, next: &Directory) -> Difference {
        Difference {
            services: difference(&self.services, &next.services),
            instances: difference(&self.instances, &next.instances),
            hosts: difference(&self.hosts, &next.hosts),
        }
    }

    /// Takes a step.
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

/// What a network of a stack is: `default` is the environment.
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
    fn steps_lead_from_one_to_the_other_also_in_pieces() {
        let before = example();
        let mut after = before.clone();
        after.put_service(service("web2"), None);
        after.put_instance(instance("web/1.1"), None);
        // Its address has found another owner.
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
