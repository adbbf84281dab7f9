//! What a host says of itself, as far as it counts. A host that somebody has taken over can say anything, so from the
//! feature level [`level::HOST_CLAIMS`] on no claim reaches beyond the host:
//!
//! - Keys and addresses belong to one host alone. A report with another host's is refused.
//! - Size, platform, devices and host name are those of the first report. More takes effect once a person accepts it;
//!   less takes effect at once.
//! - An address counts if the host's connection comes from it. Another one is taken from the first report alone; later,
//!   a person has to accept it, because a host behind NAT cannot prove the address that others use.

use std::net::IpAddr;

use common::{
    device::Devices,
    error::{Code, Problem},
    host::{HostFacts, Liveness},
    id::HostId,
    network::Backend,
    quantity::{Bytes, MilliCpu},
};
use serde::{Deserialize, Serialize};

use super::{Applied, Host, State, not_found};
use crate::{explain, level, state::work::names_of_arch};

/// What the cluster knows of a host's claims.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Claims {
    /// The most that counts: from its first report, or accepted by a person since.
    pub accepted: Option<Inventory>,
    /// What its agent says, if that is more and waits for a person.
    pub waiting: Option<Inventory>,
    /// Where its connection came from when it reported last.
    pub from: Option<IpAddr>,
    /// Whether another host has proved since then that it has this host's address.
    pub displaced: bool,
    /// Why its last report was refused.
    pub refused: Option<String>,
}

/// The part of a host's facts that attracts instances or packets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inventory {
    /// The operating system's hostname: constraints may name it.
    pub hostname: String,
    /// The address at which others reach it.
    pub address: IpAddr,
    /// The operating system.
    pub os: String,
    /// The architecture.
    pub arch: String,
    /// The total CPU.
    pub cpu: MilliCpu,
    /// The total memory.
    pub memory: Bytes,
    /// The devices that can be reserved; none until its Docker has answered, because Docker names some of them.
    pub devices: Option<Devices>,
}

/// How much more memory than accepted nobody has to accept, as a divisor: kernels count it a little differently.
const MEMORY_TOLERANCE: u64 = 16;

impl Inventory {
    fn of(facts: &HostFacts) -> Inventory {
        Inventory {
            hostname: facts.hostname.clone(),
            address: facts.address,
            os: facts.os.clone(),
            arch: facts.arch.clone(),
            cpu: facts.cpu,
            memory: facts.memory,
            devices: (!facts.docker.is_empty()).then(|| facts.devices.clone()),
        }
    }

    /// Whether it is a machine of the same kind. While Docker does not answer, the agent says how it was built itself.
    fn is_platform_of(&self, facts: &HostFacts) -> bool {
        let is_same = self.os == facts.os && names_of_arch(&self.arch) == names_of_arch(&facts.arch);
        is_same || facts.docker.is_empty()
    }

    fn has_device(&self, kind: &str, id: &String) -> bool {
        self.devices.as_ref().and_then(|all| all.get(kind)).is_some_and(|ids| ids.contains(id))
    }

    /// What counts of some facts.
    fn limit(&self, facts: &HostFacts) -> HostFacts {
        let mut counted = facts.clone();
        (counted.hostname, counted.address) = (self.hostname.clone(), self.address);
        (counted.os, counted.arch) = (self.os.clone(), self.arch.clone());
        (counted.cpu, counted.memory) = (facts.cpu.min(self.cpu), facts.memory.min(self.memory));
        for (kind, ids) in &mut counted.devices {
            ids.retain(|id| self.has_device(kind, id));
        }
        counted.devices.retain(|_, ids| !ids.is_empty());
        counted
    }

    /// Whether facts claim what a person has to accept.
    fn is_exceeded_by(&self, facts: &HostFacts) -> bool {
        let tolerated = Bytes(self.memory.0.saturating_add(self.memory.0 / MEMORY_TOLERANCE));
        let mut devices = facts.devices.iter().flat_map(|(kind, ids)| ids.iter().map(move |id| (kind, id)));
        self.hostname != facts.hostname
            || self.address != facts.address
            || !self.is_platform_of(facts)
            || self.cpu < facts.cpu
            || tolerated < facts.memory
            || devices.any(|(kind, id)| !self.has_device(kind, id))
    }
}

impl Claims {
    /// Takes in a report that came from an address; returns the facts that count.
    pub(super) fn take(&mut self, known: Option<&HostFacts>, said: &HostFacts, from: Option<IpAddr>) -> HostFacts {
        let mut accepted = self.accepted.take().unwrap_or_else(|| Inventory::of(known.unwrap_or(said)));
        if accepted.devices.is_none() && !said.docker.is_empty() {
            accepted.devices = Some(said.devices.clone());
        }
        if is_proved(said.address, from) {
            accepted.address = said.address;
        }
        let counted = accepted.limit(said);
        self.waiting = accepted.is_exceeded_by(said).then(|| Inventory::of(said));
        (self.accepted, self.from) = (Some(accepted), from);
        (self.displaced, self.refused) = (false, None);
        counted
    }

    /// Whether all that the host said last counts, and others reach it.
    pub fn counts_whole(&self) -> bool {
        self.accepted.is_some() && self.waiting.is_none() && !self.displaced && self.refused.is_none()
    }

    /// What waits for a person, in sentences; nothing if nothing does.
    pub fn in_words(&self) -> Vec<String> {
        match (&self.accepted, &self.waiting) {
            (Some(accepted), Some(waiting)) => explain::claims(accepted, waiting),
            _ => Vec::new(),
        }
    }
}

/// Whether a connection shows that a host has an address. One from the coordinator's own machine shows all of them.
fn is_proved(address: IpAddr, from: Option<IpAddr>) -> bool {
    from.is_some_and(|from| from == address || from.is_loopback())
}

impl Host {
    /// The address at which others reach it, unless another host has it now.
    pub fn address(&self) -> Option<IpAddr> {
        self.facts.as_ref().map(|facts| facts.address).filter(|_| !self.claims.displaced)
    }
}

impl State {
    /// Whether claims of hosts are checked.
    pub(super) fn checks_claims(&self) -> bool {
        self.basics.level >= level::HOST_CLAIMS
    }

    /// Why a host may not say this, if it claims what is another's.
    pub(super) fn claim_conflict(&self, id: HostId, facts: &HostFacts, from: Option<IpAddr>) -> Option<Problem> {
        let name = &self.fleet.hosts.get(&id)?.name;
        let why = self.key_conflict(id, facts).or_else(|| self.address_conflict(id, facts.address, from))?;
        let fix = "If the other host is gone: wharf host rm; else correct this one, which is refused until then";
        Some(Problem::new(Code::ClaimRefused, format!("The report of {name} was refused")).why(why).fix(fix))
    }

    fn key_conflict(&self, id: HostId, facts: &HostFacts) -> Option<String> {
        let key = facts.wireguard?;
        let has_it = |host: &Host| host.facts.as_ref().is_some_and(|facts| facts.wireguard == Some(key));
        let (_, other) = self.fleet.hosts.iter().find(|(other, host)| **other != id && has_it(host))?;
        Some(format!("its WireGuard key is that of {}", other.name))
    }

    fn address_conflict(&self, id: HostId, address: IpAddr, from: Option<IpAddr>) -> Option<String> {
        let plan = self.basics.network;
        // Without an overlay nothing is sent to it; on the coordinator's own machine several hosts share one.
        if plan.backend == Backend::None || from.is_some_and(|from| from.is_loopback()) {
            return None;
        }
        let is_of_the_cluster = match address {
            IpAddr::V4(address) => [plan.containers, plan.services].iter().any(|range| range.contains(&address)),
            IpAddr::V6(_) => false,
        };
        if is_of_the_cluster {
            return Some(format!("{address} lies in the range of containers or services"));
        }
        let is_broadcast = matches!(address, IpAddr::V4(address) if address.is_broadcast());
        if address.is_unspecified() || address.is_loopback() || address.is_multicast() || is_broadcast {
            return Some(format!("{address} is not the address of a host"));
        }
        let members = self.fleet.members.iter().filter(|(_, member)| member.host != id);
        if let Some((member, _)) = members.into_iter().find(|(_, member)| member.address.ip() == address) {
            return Some(format!("{address} is the address of coordinator {member}"));
        }
        // A host that is heard keeps its address. One that is away loses it to the host that proves it.
        let keeps = |host: &Host| host.liveness == Liveness::Ready || from != Some(address);
        let (_, other) = self.at_address(id, address).find(|(_, host)| keeps(host))?;
        Some(format!("{address} is the address of {}", other.name))
    }

    /// The other hosts that have an address.
    fn at_address(&self, id: HostId, address: IpAddr) -> impl Iterator<Item = (&HostId, &Host)> {
        self.fleet.hosts.iter().filter(move |(other, host)| **other != id && host.address() == Some(address))
    }

    /// Notes why a report is refused: once, or a host that repeats it would push all else out of the history.
    pub(super) fn refuse_report(&mut self, id: HostId, problem: Problem) -> Applied {
        let why = problem.why.join("; ");
        let host = self.fleet.hosts.get_mut(&id).ok_or_else(|| not_found("host", id))?;
        if host.claims.refused.as_ref() != Some(&why) {
            let message = format!("the report of {} was refused: {why}", host.name);
            host.claims.refused = Some(why);
            self.record(id, "host-refused", message);
        }
        Err(problem)
    }

    /// Takes in what a host says, and returns what counts of it.
    pub(super) fn take_claims(&mut self, id: HostId, said: &HostFacts, from: Option<IpAddr>) -> Option<HostFacts> {
        let host = self.fleet.hosts.get(&id)?;
        let (name, before, mut claims) = (host.name.clone(), host.facts.clone(), host.claims.clone());
        let mut counted = claims.take(before.as_ref(), said, from);
        let is_anothers = Some(counted.hostname.as_str()) != Some(name.as_str())
            && self.fleet.host_names.iter().any(|other| other.as_str() == counted.hostname);
        if is_anothers {
            counted.hostname = name.to_string();
        }
        let waits_for = claims.in_words();
        let is_news = claims.waiting.is_some() && claims.waiting != host.claims.waiting;
        let displaced: Vec<HostId> = self.at_address(id, counted.address).map(|(other, _)| *other).collect();
        if let Some(host) = self.fleet.hosts.get_mut(&id) {
            host.claims = claims;
        }
        if is_news {
            let message = format!("{name} claims more than was accepted: {}", waits_for.join("; "));
            self.record(id, "host-claims", message);
        }
        self.note_moves(id, before.as_ref(), &counted);
        if !from.is_some_and(|from| from.is_loopback()) {
            displaced.into_iter().for_each(|other| self.displace(other, &counted.address));
        }
        Some(counted)
    }

    fn note_moves(&mut self, id: HostId, before: Option<&HostFacts>, now: &HostFacts) {
        let Some(before) = before else { return };
        let Some(name) = self.fleet.hosts.get(&id).map(|host| host.name.clone()) else { return };
        if before.address != now.address {
            let message = format!("{name} is reached at {} now, and was at {}", now.address, before.address);
            self.record(id, "host-moved", message);
        }
        if before.wireguard.is_some() && before.wireguard != now.wireguard {
            self.record(id, "host-key-changed", format!("{name} has another WireGuard key"));
        }
    }

    fn displace(&mut self, id: HostId, address: &IpAddr) {
        if let Some(host) = self.fleet.hosts.get_mut(&id) {
            host.claims.displaced = true;
            let message = format!("{} is away, and another host has its address {address} now", host.name);
            self.record(id, "host-displaced", message);
        }
    }

    /// Accepts what a host claims, if it is what the person has seen.
    pub(in crate::state) fn accept_host(&mut self, id: HostId, expect: &Inventory) -> Applied {
        let host = self.fleet.hosts.get_mut(&id).ok_or_else(|| not_found("host", id))?;
        if host.claims.accepted.as_ref() == Some(expect) {
            return self.done();
        }
        let name = host.name.clone();
        if host.claims.waiting.as_ref() != Some(expect) {
            return Err(Problem::new(Code::Conflict, format!("The claims of {name} were not accepted"))
                .why("they have changed")
                .fix(format!("See what it claims now: wharf host accept {name}")));
        }
        let words = host.claims.in_words();
        let devices = host.claims.accepted.as_ref().and_then(|accepted| accepted.devices.clone());
        // A host whose Docker is silent does not name its devices.
        let accepted = Inventory { devices: expect.devices.clone().or(devices), ..expect.clone() };
        if let Some(facts) = &mut host.facts {
            (facts.hostname, facts.address) = (accepted.hostname.clone(), accepted.address);
            (facts.os, facts.arch) = (accepted.os.clone(), accepted.arch.clone());
            (facts.cpu, facts.memory) = (accepted.cpu, accepted.memory);
            facts.devices = accepted.devices.clone().unwrap_or_default();
        }
        (host.claims.accepted, host.claims.waiting) = (Some(accepted), None);
        self.record(id, "host-accepted", format!("{name}: {}", words.join("; ")));
        self.done()
    }
}

#[cfg(test)]
mod tests;
