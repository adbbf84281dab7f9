//! Environments and networks of stacks: two instances reach each other if they belong to the same one, their own or one
//! that their services have joined. Both ends look: a host that has not heard of a change yet opens nothing on another.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
};

use common::directory::{Directory, Realm};

use super::{
    Residents, TABLE,
    rules::{Family, Script},
};

/// How the names of environments' chains begin.
pub(super) const CHAINS: &str = "environment-";
/// How the names of the sets of their members begin.
pub(super) const SETS: &str = "in-";
/// The map from instances to the chains of their own environments.
pub(super) const MAP: &str = "environments";

/// The members of each environment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Environments {
    /// The environment that each instance is of.
    homes: BTreeMap<Ipv4Addr, Realm>,
    /// All members of an environment, guests included.
    members: BTreeMap<Realm, BTreeSet<Ipv4Addr>>,
    /// The other environments that services of one have joined.
    joined: BTreeMap<Realm, BTreeSet<Realm>>,
}

impl Environments {
    /// Whether an address belongs to any.
    pub(super) fn knows(&self, address: &Ipv4Addr) -> bool {
        self.homes.contains_key(address)
    }

    /// Whether two addresses are known to belong to no environment in common.
    pub(super) fn are_apart(&self, one: &Ipv4Addr, other: &Ipv4Addr) -> bool {
        let Some(home) = self.homes.get(one).filter(|_| self.knows(other)) else { return false };
        let is_in = |name: &Realm, address| self.members.get(name).is_some_and(|members| members.contains(address));
        let mut joined = self.joined.get(home).into_iter().flatten();
        !is_in(home, other) && !joined.any(|name| is_in(name, one) && is_in(name, other))
    }

    /// Whether anything belonged somewhere at `before` and does not any more.
    pub(super) fn end_something_of(&self, before: &Environments) -> bool {
        let none = BTreeSet::new();
        before.members.iter().any(|(name, earlier)| !earlier.is_subset(self.members.get(name).unwrap_or(&none)))
    }
}

/// The members of each environment by the directory, and by the own residents, which are newer.
pub(super) fn environments(directory: &Directory, residents: &Residents) -> Environments {
    let mut found = Environments::default();
    // Rules name the sets of all that services belong to, instances or not.
    for realm in directory.services().flat_map(|(id, _)| directory.realms_of(id)) {
        found.members.entry(realm).or_default();
    }
    let elsewhere = directory.instances().map(|(id, endpoint)| (&endpoint.address, id));
    // An instance on a host's own network shares the address of the host with all others there.
    let elsewhere =
        elsewhere.filter(|(address, id)| !residents.contains_key(address) && !directory.is_on_host(id.service()));
    let here = residents.iter().map(|(address, resident)| (address, &resident.instance));
    for (address, id) in elsewhere.chain(here) {
        let mut realms = directory.realms_of(id.service());
        let Some(home) = realms.next() else { continue };
        found.homes.insert(*address, home.clone());
        found.members.entry(home.clone()).or_default().insert(*address);
        for guest_of in realms {
            found.members.entry(guest_of.clone()).or_default().insert(*address);
            found.joined.entry(home.clone()).or_default().insert(guest_of.clone());
        }
    }
    found
}

/// Leads from the earlier members to those of now. The set and the chain of an environment come before its first
/// instance.
pub(super) fn update(script: &mut Script, before: &Environments, now: &Environments) {
    let none = BTreeSet::new();
    for (name, members) in &now.members {
        if !before.members.contains_key(name) {
            script.line(format_args!("add set ip {TABLE} {SETS}{name} {{ type ipv4_addr; }}"));
        }
        let earlier = before.members.get(name).unwrap_or(&none);
        let elements = |addresses: BTreeSet<&Ipv4Addr>| -> Vec<String> {
            addresses.into_iter().map(Ipv4Addr::to_string).collect()
        };
        script.elements(
            "delete",
            Family::Ip,
            &format!("{SETS}{name}"),
            &elements(earlier.difference(members).collect()),
        );
        script.elements("add", Family::Ip, &format!("{SETS}{name}"), &elements(members.difference(earlier).collect()));
    }
    for (name, members) in before.members.iter().filter(|(name, _)| !now.members.contains_key(*name)) {
        let elements: Vec<String> = members.iter().map(Ipv4Addr::to_string).collect();
        script.elements("delete", Family::Ip, &format!("{SETS}{name}"), &elements);
    }
    for name in now.members.keys() {
        let (earlier, joined) = (before.joined.get(name), now.joined.get(name));
        if !before.members.contains_key(name) || earlier != joined {
            admit(script, name, joined.unwrap_or(&BTreeSet::new()));
        }
    }
    let changed = |address: &Ipv4Addr, home: &Realm, other: &Environments| other.homes.get(address) != Some(home);
    let gone = before.homes.iter().filter(|(address, home)| changed(address, home, now));
    script.elements("delete", Family::Ip, MAP, &gone.map(|(address, _)| address.to_string()).collect::<Vec<_>>());
    let new = now.homes.iter().filter(|(address, home)| changed(address, home, before));
    let new: Vec<String> = new.map(|(address, home)| format!("{address} : goto {CHAINS}{home}")).collect();
    script.elements("add", Family::Ip, MAP, &new);
}

/// Lets what an environment's own instances send reach what belongs to it, and to those that its services have joined
/// where the sender is one that has.
fn admit(script: &mut Script, name: &Realm, joined: &BTreeSet<Realm>) {
    let chain = format!("{CHAINS}{name}");
    script.line(format_args!("add chain ip {TABLE} {chain}"));
    script.line(format_args!("flush chain ip {TABLE} {chain}"));
    script.line(format_args!("add rule ip {TABLE} {chain} ip daddr @{SETS}{name} accept"));
    for other in joined {
        let rule = format!("ip saddr @{SETS}{other} ip daddr @{SETS}{other} accept");
        script.line(format_args!("add rule ip {TABLE} {chain} {rule}"));
    }
    script.line(format_args!("add rule ip {TABLE} {chain} reject with tcp reset"));
    script.line(format_args!("add rule ip {TABLE} {chain} reject with icmp admin-prohibited"));
}
