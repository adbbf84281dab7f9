//! The addresses of services: each leads to those of its instances that serve, chosen by chance.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
    net::Ipv4Addr,
};

use common::{directory::Directory, network::Subnet};

use super::TABLE;

/// How the names of services' chains begin.
const CHAINS: &str = "service-";
/// The map from services' addresses to their chains.
const MAP: &str = "services";
/// The set of own instances, as pairs of the same address.
const ITSELF: &str = "itself";

/// Where the addresses of services lead.
pub type Services = BTreeMap<Ipv4Addr, BTreeSet<Ipv4Addr>>;

/// The rules of a host, in the parts that change apart from each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    /// The host's own subnet.
    pub(super) own: Subnet,
    /// All but the services', as `nft -f` takes them: the tables are replaced as a whole.
    pub(super) tables: String,
    /// The services'.
    pub services: Services,
}

/// Where all services lead: none that no instance serves, which is refused like one that there is not.
pub fn services(directory: &Directory) -> Services {
    let leads = directory.services().filter_map(|(id, listing)| {
        let serving = directory.instances_of(id).filter(|(_, endpoint)| endpoint.serves);
        let backends: BTreeSet<Ipv4Addr> = serving.map(|(_, endpoint)| endpoint.address).collect();
        Some((listing.address?, backends)).filter(|(_, backends)| !backends.is_empty())
    });
    leads.collect()
}

impl Rules {
    /// The same with services that lead elsewhere.
    pub fn leading(&self, services: Services) -> Rules {
        Rules { own: self.own, tables: self.tables.clone(), services }
    }

    /// Whether a chain, set or map of our table is there for services, and changes with them.
    pub fn is_for_services(name: &str) -> bool {
        name.starts_with(CHAINS) || [MAP, ITSELF].contains(&name)
    }

    /// What loads all of them in one transaction, whatever the kernel holds.
    pub fn whole(&self) -> String {
        let mut script = self.tables.clone();
        for (address, backends) in &self.services {
            self.lead(&mut script, *address, backends);
            admit(&mut script, *address);
        }
        script
    }

    /// What leads here from rules that the kernel holds, if that takes less than all: only services differ.
    pub fn update_from(&self, loaded: &Rules) -> Option<String> {
        if self.tables != loaded.tables {
            return None;
        }
        let mut script = String::new();
        for (address, backends) in &self.services {
            let before = loaded.services.get(address);
            if before != Some(backends) {
                self.lead(&mut script, *address, backends);
            }
            if before.is_none() {
                admit(&mut script, *address);
            }
        }
        // Its chain stays, empty and out of reach, until all is loaded anew.
        for address in loaded.services.keys().filter(|address| !self.services.contains_key(address)) {
            let chain = chain(*address);
            write(&mut script, format_args!("delete element ip {TABLE} {MAP} {{ {address} }}"));
            write(&mut script, format_args!("flush chain ip {TABLE} {chain}"));
        }
        Some(script)
    }

    /// Makes a service's chain lead to its backends.
    fn lead(&self, script: &mut String, address: Ipv4Addr, backends: &BTreeSet<Ipv4Addr>) {
        let chain = chain(address);
        let numbered = backends.iter().enumerate().map(|(number, backend)| format!("{number} : {backend}"));
        let (count, map) = (backends.len(), numbered.collect::<Vec<_>>().join(", "));
        write(script, format_args!("add chain ip {TABLE} {chain}"));
        write(script, format_args!("flush chain ip {TABLE} {chain}"));
        write(script, format_args!("add rule ip {TABLE} {chain} dnat to numgen random mod {count} map {{ {map} }}"));
        for backend in backends.iter().filter(|backend| self.own.0.contains(*backend)) {
            write(script, format_args!("add element ip {TABLE} {ITSELF} {{ {backend} . {backend} }}"));
        }
    }
}

fn chain(address: Ipv4Addr) -> String {
    format!("{CHAINS}{address}")
}

/// Lets a service's address lead into its chain.
fn admit(script: &mut String, address: Ipv4Addr) {
    write(script, format_args!("add element ip {TABLE} {MAP} {{ {address} : goto {} }}", chain(address)));
}

fn write(script: &mut String, line: std::fmt::Arguments<'_>) {
    writeln!(script, "{line}").expect("a string takes all");
}
