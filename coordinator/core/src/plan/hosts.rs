//! The hosts, what is left of each, and what a host must be like to take an instance.

use std::{collections::BTreeSet, sync::Arc};

use common::{
    device::BoundDevice,
    host::{Availability, Liveness},
    id::{HostId, ServiceId},
    quantity::{Bytes, MilliCpu},
    spec::{Mode, Resources, ServiceSpec},
    time::Timestamp,
};

use super::{Blocked, unfit::Refusal};
use crate::{
    State,
    state::{Bookings, Candidate, Host, Instance},
};

/// Host ports that the planner gives to services that ask for none in particular.
pub(crate) const DYNAMIC_PORTS: std::ops::Range<u16> = 20_000..30_000;

/// The hosts and what is left of each, kept up to date with the placements of a pass.
pub(super) struct HostTable {
    /// In the order of their ids.
    rows: Vec<Row>,
    /// The hosts whose rows hold placements of a pass, which may not come true.
    touched: BTreeSet<HostId>,
    /// The hosts that are emptied, mostly none: each instance of a large cluster is asked whether it is on one.
    emptied: BTreeSet<HostId>,
}

/// A host. To choose one of ten thousand, what is in the row itself is looked at of each; the rest is elsewhere.
pub(super) struct Row {
    pub(super) id: HostId,
    pub(super) host: Box<Host>,
    /// Whether nothing of the host itself keeps instances away, now or later.
    is_open: bool,
    /// What may be reserved of it.
    capacity: Resources,
    taken: Bookings,
    /// How many instances it has.
    crowd: u64,
    /// Grows with every placement.
    pub(super) version: u32,
    /// What this pass has placed here.
    pub(super) placed: Vec<(ServiceId, Arc<ServiceSpec>)>,
}

/// What an instance gets on a host that it does not share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Booked {
    /// One port for each of the spec.
    pub(super) ports: Vec<u16>,
    pub(super) devices: Vec<BoundDevice>,
}

impl HostTable {
    /// The table of a cluster as it is.
    pub(super) fn of(cluster: &State) -> HostTable {
        let rows: Vec<Row> = cluster.hosts().iter().map(|(id, host)| Row::of(cluster, *id, host)).collect();
        let emptied = rows.iter().filter(|row| row.is_emptied()).map(|row| row.id).collect();
        HostTable { rows, touched: BTreeSet::new(), emptied }
    }

    /// Looks again at the hosts that have changed, and at those on which the last pass placed something.
    pub(super) fn refresh(&mut self, cluster: &State, mut changed: BTreeSet<HostId>) {
        changed.append(&mut self.touched);
        for id in changed {
            let row = cluster.hosts().get(&id).map(|host| Row::of(cluster, id, host));
            if row.as_ref().is_some_and(Row::is_emptied) {
                self.emptied.insert(id);
            } else {
                self.emptied.remove(&id);
            }
            match (self.rows.binary_search_by_key(&id, |row| row.id), row) {
                (Ok(index), Some(row)) => self.rows[index] = row,
                (Ok(index), None) => drop(self.rows.remove(index)),
                (Err(index), Some(row)) => self.rows.insert(index, row),
                (Err(_), None) => {}
            }
        }
    }

    pub(super) fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// The hosts that are emptied.
    pub(super) fn emptied(&self) -> &BTreeSet<HostId> {
        &self.emptied
    }

    pub(super) fn index_of(&self, id: HostId) -> Option<usize> {
        self.rows.binary_search_by_key(&id, |row| row.id).ok()
    }

    /// Takes what an instance needs from a host.
    pub(super) fn take(&mut self, index: usize, service: &ServiceId, spec: &Arc<ServiceSpec>, booked: &Booked) {
        let row = &mut self.rows[index];
        let ports = booked.ports.iter().zip(&spec.ports).map(|(port, spec)| (*port, spec.protocol));
        row.taken.add(spec, ports, &booked.devices);
        row.crowd += 1;
        row.version += 1;
        row.placed.push((service.clone(), spec.clone()));
        self.touched.insert(row.id);
    }

    /// When the first of the hosts that come and go may get something again.
    pub(super) fn calm_at(&self, now: Timestamp) -> Option<Timestamp> {
        self.rows.iter().filter_map(|row| row.host.flapping_until(now)).min()
    }

    /// Why nothing is replaced at all, if so many hosts are away that the fault is likely elsewhere.
    pub(super) fn brake(&self) -> Option<Blocked> {
        let known = self.rows.iter().filter(|row| row.host.liveness != Liveness::Joining).count();
        let ready = self.rows.iter().filter(|row| row.host.liveness == Liveness::Ready).count();
        (ready * 2 < known).then(|| Blocked::TooManyAway { away: known - ready, known })
    }
}

impl Row {
    fn of(cluster: &State, id: HostId, host: &Host) -> Row {
        let instances: Vec<&Instance> = cluster.instances_on(id).map(|(_, instance)| instance).collect();
        let has_docker = host.facts.as_ref().is_some_and(|facts| !facts.docker.is_empty());
        let is_active = host.availability == Availability::Active && host.liveness == Liveness::Ready;
        Row {
            id,
            host: Box::new(host.clone()),
            is_open: is_active && has_docker && host.returns.is_empty() && host.conditions.is_empty(),
            capacity: host.capacity(),
            taken: Bookings::of(instances.iter().copied()),
            crowd: instances.iter().filter(|instance| instance.fills_slot()).count() as u64,
            version: 0,
            placed: Vec::new(),
        }
    }

    pub(super) fn free_cpu(&self) -> MilliCpu {
        MilliCpu(self.capacity.cpu.0.saturating_sub(self.taken.reserved.cpu.0))
    }

    pub(super) fn free_memory(&self) -> Bytes {
        Bytes(self.capacity.memory.0.saturating_sub(self.taken.reserved.memory.0))
    }

    /// What an instance that reserves as much would lack here.
    pub(super) fn lacks(&self, need: Resources) -> Option<Refusal> {
        if need.cpu > self.free_cpu() {
            Some(Refusal::Cpu)
        } else if need.memory > self.free_memory() {
            Some(Refusal::Memory)
        } else {
            None
        }
    }

    /// What keeps instances of all services away.
    pub(super) fn refusal_of_all(&self, now: Timestamp) -> Option<Refusal> {
        if self.is_open {
            None
        } else if self.host.liveness != Liveness::Ready || self.host.facts.is_none() {
            Some(Refusal::NotReady(self.host.liveness.word()))
        } else if self.host.availability != Availability::Active {
            Some(Refusal::NotAvailable(self.host.availability.word()))
        } else if self.host.docker_silent_since().is_some() {
            Some(Refusal::NoDocker)
        } else if !self.host.conditions.is_empty() {
            Some(Refusal::DiskFull)
        } else if self.host.flapping_until(now).is_some() {
            Some(Refusal::Flapping)
        } else {
            let has_docker = self.host.facts.as_ref().is_some_and(|facts| !facts.docker.is_empty());
            (!has_docker).then_some(Refusal::NoDocker)
        }
    }

    fn is_emptied(&self) -> bool {
        self.host.availability.is_emptying()
    }

    /// The ports and devices that an instance would get here.
    pub(super) fn book(&self, spec: &ServiceSpec, incarnation: u64) -> Result<Booked, Refusal> {
        Ok(Booked { ports: self.ports_for(spec, incarnation)?, devices: self.devices_for(spec)? })
    }

    fn devices_for(&self, spec: &ServiceSpec) -> Result<Vec<BoundDevice>, Refusal> {
        let mut chosen: Vec<BoundDevice> = Vec::new();
        for (part, kind, request) in spec.devices() {
            let is_free = |id: &str| self.is_free(kind, id) && !chosen.iter().any(|d| d.kind == kind && d.id == id);
            let Some(ids) = request.amount.choose(self.devices(kind), is_free) else {
                return Err(Refusal::Device(kind.to_owned(), asked_for(spec, kind)));
            };
            chosen.extend(ids.into_iter().map(|id| BoundDevice { part: part.clone(), kind: kind.to_owned(), id }));
        }
        Ok(chosen)
    }

    fn devices(&self, kind: &str) -> &[String] {
        let facts = self.host.facts.as_ref();
        facts.and_then(|facts| facts.devices.get(kind)).map_or(&[], Vec::as_slice)
    }

    fn is_free(&self, kind: &str, id: &str) -> bool {
        self.taken.devices.is_empty() || !self.taken.devices.contains(&(kind.to_owned(), id.to_owned()))
    }

    /// How many devices of a kind nobody has.
    pub(super) fn free_devices(&self, kind: &str) -> u64 {
        self.devices(kind).iter().filter(|id| self.is_free(kind, id)).count() as u64
    }

    fn ports_for(&self, spec: &ServiceSpec, incarnation: u64) -> Result<Vec<u16>, Refusal> {
        let mut chosen: Vec<u16> = Vec::with_capacity(spec.ports.len());
        for asked in &spec.ports {
            let taken = |port: u16| {
                self.taken.ports.contains(&(port, asked.protocol))
                    || chosen
                        .iter()
                        .zip(&spec.ports)
                        .any(|(other, spec)| *other == port && spec.protocol == asked.protocol)
            };
            let port = match asked.published {
                Some(port) if taken(port) => return Err(Refusal::Port(port, asked.protocol)),
                Some(port) => port,
                None => {
                    // Each incarnation begins elsewhere: a port that some other process holds is
                    // not tried twice in a row.
                    let length = u64::from(DYNAMIC_PORTS.end - DYNAMIC_PORTS.start);
                    let begin = (incarnation * 127) % length;
                    let candidates = (0..length).map(|step| DYNAMIC_PORTS.start + ((begin + step) % length) as u16);
                    let also_fixed = |port: &u16| {
                        spec.ports
                            .iter()
                            .any(|other| other.published == Some(*port) && other.protocol == asked.protocol)
                    };
                    candidates.filter(|port| !also_fixed(port)).find(|port| !taken(*port)).ok_or(Refusal::NoFreePort)?
                }
            };
            chosen.push(port);
        }
        Ok(chosen)
    }

    /// The value of a label, given as `node.labels.<label>`; empty if it has none.
    pub(super) fn label(&self, key: &str) -> &str {
        let label = key.strip_prefix("node.labels.").unwrap_or(key);
        self.host.labels.get(label).map_or("", String::as_str)
    }

    /// How full it would be: the larger share of processor and memory, then the number of instances.
    pub(super) fn share(&self, need: Resources) -> u64 {
        let capacity = self.capacity;
        let share = |taken: u64, need: u64, all: u64| (taken + need).saturating_mul(1000) / all.max(1);
        let cpu = share(self.taken.reserved.cpu.0, need.cpu.0, capacity.cpu.0);
        let memory = share(self.taken.reserved.memory.0 >> 10, need.memory.0 >> 10, capacity.memory.0 >> 10);
        (cpu.max(memory) << 20) + self.crowd
    }
}

/// How many devices of a kind all parts of an instance ask for, in words.
fn asked_for(spec: &ServiceSpec, kind: &str) -> String {
    let requests = spec.devices().filter(|(_, of, _)| *of == kind);
    let amounts: Vec<String> = requests.map(|(_, _, request)| request.amount.to_string()).collect();
    amounts.join(" and ")
}

/// The numbers of the hosts on which a global service wants an instance: those that its constraints
/// allow and that can be reached or have one already. A host that is emptied keeps its own until
/// all else has left.
pub(crate) fn of_global(cluster: &State, id: &ServiceId, spec: &ServiceSpec) -> Vec<u32> {
    let implied = spec.implied_constraints();
    let wanted = |(host_id, host): &(&HostId, &Host)| {
        let (is_first, own_counts) = (false, false);
        let candidate = Candidate { cluster, service: id, id: **host_id, host, placed: &[], is_first, own_counts };
        let is_allowed = || spec.constraints.iter().chain(&implied).all(|constraint| candidate.meets(constraint));
        let slot = id.slot(host.number);
        let has = || cluster.instances_of_slot(&slot).any(|(_, i)| i.fills_slot() && i.host == **host_id);
        let on_host = || cluster.instances_on(**host_id).filter(|(_, instance)| instance.fills_slot());
        let wants = match host.availability {
            Availability::Active => host.liveness == Liveness::Ready || has(),
            Availability::Cordoned => has(),
            Availability::Maintenance => false,
            Availability::Draining { .. } => has() && on_host().any(|(_, i)| i.spec.mode != Mode::Global),
        };
        wants && is_allowed()
    };
    let mut numbers: Vec<u32> = cluster.hosts().iter().filter(wanted).map(|(_, host)| host.number).collect();
    numbers.sort_unstable();
    numbers
}

#[cfg(test)]
mod tests;
