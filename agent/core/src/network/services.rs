//! The addresses of services: each leads to those of its instances that serve, chosen by chance.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
};

use common::{
    directory::{Directory, Realm},
    network::Subnet,
};

use super::{TABLE, environments::SETS, rules::Script};

/// How the names of services' chains begin.
pub(super) const CHAINS: &str = "service-";
/// The map from services' addresses to their chains.
pub(super) const MAP: &str = "services";
/// The set of own instances, as pairs of the same address.
pub(super) const ITSELF: &str = "itself";

/// Where the addresses of services lead.
pub(super) type Services = BTreeMap<Ipv4Addr, Lead>;

/// Where the address of a service leads, and for whose packets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Lead {
    /// The instances that serve.
    pub(super) backends: BTreeSet<Ipv4Addr>,
    /// Whether it leads the same caller to the same instance.
    pub(super) is_sticky: bool,
    /// The environments that it belongs to.
    pub(super) environments: BTreeSet<Realm>,
}

/// Where all services lead. Packets to a service without a serving instance are refused, like those to a service that
/// does not exist, so it is not here.
pub(super) fn services(directory: &Directory) -> Services {
    let leads = directory.services().filter_map(|(id, listing)| {
        let serving = directory.instances_of(id).filter(|(_, endpoint)| endpoint.serves);
        let backends: BTreeSet<Ipv4Addr> = serving.map(|(_, endpoint)| endpoint.address).collect();
        let environments = directory.realms_of(id).collect();
        Some((listing.address?, Lead { backends, is_sticky: listing.is_sticky, environments }))
            .filter(|(_, lead)| !lead.backends.is_empty())
    });
    leads.collect()
}

/// Leads from where services led before to where they lead now.
pub(super) fn update(script: &mut Script, own: Subnet, before: &Services, now: &Services) {
    for (address, lead) in now {
        let earlier = before.get(address);
        if earlier != Some(lead) {
            write(script, own, *address, lead);
        }
        if earlier.is_none() {
            script.line(format_args!("add element ip {TABLE} {MAP} {{ {address} : goto {CHAINS}{address} }}"));
        }
    }
    // Its chain stays, empty and out of reach, until all rules are loaded again.
    for address in before.keys().filter(|address| !now.contains_key(address)) {
        script.line(format_args!("delete element ip {TABLE} {MAP} {{ {address} }}"));
        script.line(format_args!("flush chain ip {TABLE} {CHAINS}{address}"));
    }
}

/// Makes a service's chain lead the members of its environments to its backends. Packets of others are refused, like
/// those to a service that does not exist.
fn write(script: &mut Script, own: Subnet, address: Ipv4Addr, lead: &Lead) {
    let Lead { backends, is_sticky, environments } = lead;
    let chain = format!("{CHAINS}{address}");
    let choice = if *is_sticky { "jhash ip saddr" } else { "numgen random" };
    let numbered = backends.iter().enumerate().map(|(number, backend)| format!("{number} : {backend}"));
    let (count, map) = (backends.len(), numbered.collect::<Vec<_>>().join(", "));
    script.line(format_args!("add chain ip {TABLE} {chain}"));
    script.line(format_args!("flush chain ip {TABLE} {chain}"));
    let strangers = environments.iter().map(|environment| format!("ip saddr != @{SETS}{environment} "));
    let strangers: String = strangers.collect();
    script.line(format_args!("add rule ip {TABLE} {chain} {strangers}ip saddr != @hosts return"));
    script.line(format_args!("add rule ip {TABLE} {chain} dnat to {choice} mod {count} map {{ {map} }}"));
    for backend in backends.iter().filter(|backend| own.0.contains(*backend)) {
        script.line(format_args!("add element ip {TABLE} {ITSELF} {{ {backend} . {backend} }}"));
    }
}
