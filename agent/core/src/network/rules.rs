//! The rules of a host as scripts for `nft -f`: all of them, or their changes.

use std::{collections::BTreeSet, fmt::Write, net::Ipv4Addr};

use common::{directory::Directory, network::Subnet};

use ipnet::Ipv4Net;

use super::{
    Binding, Flow, Residents, TABLE, bindings,
    environments::{self, Environments},
    published::{self, Ports},
    reach::{self, Reaches},
    services::{self, Services},
};

/// The rules of a host, in the parts that change apart from each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    /// The host's own subnet.
    pub(super) own: Subnet,
    /// The part that does not change as instances come and go: the tables are replaced as a whole.
    pub(super) tables: String,
    /// The part that does.
    pub(super) live: Live,
    /// The addresses that services may have.
    pub(super) services: Ipv4Net,
}

/// The part of the rules that changes as instances come and go.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Live {
    /// Where services lead.
    pub(super) services: Services,
    /// The environments, whose members reach each other.
    pub(super) environments: Environments,
    /// The instances that reach more or less than others do.
    pub(super) reaches: Reaches,
    /// Which ports of the bridge instances speak from.
    pub(super) bindings: BTreeSet<Binding>,
    /// Where the host's published ports lead; none while the agent does not know the instances on the host.
    pub(super) ports: Option<Ports>,
}

impl Live {
    /// Renders it from the directory and the own residents.
    pub fn of(directory: &Directory, residents: Option<&Residents>) -> Live {
        let (ports, none) = (residents.map(Ports::of), Residents::new());
        let residents = residents.unwrap_or(&none);
        Live {
            services: services::services(directory),
            environments: environments::environments(directory, residents),
            reaches: reach::reaches(directory, residents),
            bindings: BTreeSet::new(),
            ports,
        }
    }

    /// The same with those bindings.
    pub fn bound(self, bindings: BTreeSet<Binding>) -> Live {
        Live { bindings, ..self }
    }
}

impl Rules {
    /// The same tables with another live part.
    pub fn living(&self, live: Live) -> Rules {
        Rules { own: self.own, tables: self.tables.clone(), live, services: self.services }
    }

    /// Whether connections may be stale that began under earlier rules.
    pub(super) fn end_something_of(&self, earlier: &Rules) -> bool {
        self.live.ends_something_of(&earlier.live)
    }

    /// Whether a connection could not begin like this any more, on a host that has those addresses.
    pub fn is_stale(&self, flow: &Flow, addresses: &BTreeSet<Ipv4Addr>) -> bool {
        self.live.is_stale(self.services, flow) || self.live.misses_its_port(self.own, flow, addresses)
    }

    /// Whether ports of the host take datagrams: their connections may become stale unseen.
    pub(super) fn take_datagrams(&self) -> bool {
        self.live.ports.as_ref().is_some_and(Ports::take_datagrams)
    }

    /// Whether a chain, set or map of our table changes as instances come and go.
    pub(super) fn is_live(name: &str) -> bool {
        [services::CHAINS, environments::CHAINS, environments::SETS].iter().any(|start| name.starts_with(start))
            || [services::MAP, services::ITSELF, environments::MAP, published::CHAIN].contains(&name)
            || [reach::INTERNAL, reach::CALLERS, reach::HOST_PORTS].contains(&name)
            || [reach::KNOWN_HOSTS, reach::PUBLISHED_PORTS].contains(&name)
            || [bindings::BINDINGS, bindings::PORTS, bindings::ADDRESSES].contains(&name)
    }

    /// The script that loads all of them in one transaction, whatever the kernel holds.
    pub(super) fn whole(&self) -> String {
        let mut script = Script(self.tables.clone());
        self.enliven(&mut script, &Live::default());
        script.0
    }

    /// The script that leads here from rules that the kernel holds, if only the live part differs.
    pub(super) fn update_from(&self, loaded: &Rules) -> Option<String> {
        if self.tables != loaded.tables {
            return None;
        }
        let mut script = Script::default();
        self.enliven(&mut script, &loaded.live);
        Some(script.0)
    }

    fn enliven(&self, script: &mut Script, before: &Live) {
        environments::update(script, &before.environments, &self.live.environments);
        reach::update(script, &before.reaches, &self.live.reaches);
        services::update(script, self.own, &before.services, &self.live.services);
        bindings::update(script, &before.bindings, &self.live.bindings);
        published::update(script, before.ports.as_ref(), self.live.ports.as_ref());
    }
}

/// Which of our tables.
#[derive(Debug, Clone, Copy)]
pub(super) enum Family {
    /// That of IPv4.
    Ip,
    /// That of frames on bridges.
    Bridge,
}

/// Commands for `nft -f`, one a line.
#[derive(Default)]
pub(super) struct Script(String);

impl Script {
    #[cfg(test)]
    pub(super) fn text(&self) -> &str {
        &self.0
    }

    /// Most elements in a command.
    const MOST: usize = 1000;

    pub(super) fn line(&mut self, line: std::fmt::Arguments<'_>) {
        writeln!(self.0, "{line}").expect("a string takes all");
    }

    /// Adds elements to a set or a map, or deletes them.
    pub(super) fn elements(&mut self, verb: &str, family: Family, set: &str, elements: &[String]) {
        let family = match family {
            Family::Ip => "ip",
            Family::Bridge => "bridge",
        };
        for some in elements.chunks(Script::MOST) {
            self.line(format_args!("{verb} element {family} {TABLE} {set} {{ {} }}", some.join(", ")));
        }
    }
}
