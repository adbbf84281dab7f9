//! Which host takes an instance: filters with counts, then the spread, the emptiest, the lowest id.

use std::collections::BTreeMap;

use common::{
    host::{Availability, Liveness},
    id::{HostId, ServiceId, SlotId},
    quantity::{Bytes, MilliCpu},
    spec::{Constraint, Mode, Protocol, ServiceSpec},
};

use crate::{
    Cluster,
    cluster::{Bookings, Host},
};

/// Host ports that the planner gives to services that ask for none in particular.
const DYNAMIC_PORTS: std::ops::Range<u16> = 20_000..30_000;

/// The hosts and what is left of each, kept up to date with the placements of a pass.
pub struct HostTable {
    rows: Vec<Row>,
}

struct Row {
    id: HostId,
    host: Host,
    is_member: bool,
    taken: Bookings,
    per_service: BTreeMap<ServiceId, u32>,
}

/// What is compared to choose a host, the least being best: instances of the service on its branch at each level of the
/// spread, those on the host itself, how full it would be, and its id.
type Score = (Vec<u32>, u32, u64, HostId);

/// What is to be placed, and where it may go at all.
pub(super) struct Seat<'a> {
    pub(super) slot: &'a SlotId,
    pub(super) spec: &'a ServiceSpec,
    pub(super) incarnation: u64,
    pub(super) only: Option<Only>,
    /// The host of the instance that this one succeeds: that one no longer counts there.
    pub(super) leaving: Option<HostId>,
}

/// The one host that an instance may go to.
#[derive(Clone, Copy)]
pub(super) enum Only {
    /// The host of that number: the slot is this host's.
    Numbered(u32),
    /// The host that holds its data.
    Home(HostId),
}

/// A host that takes an instance, and its ports there.
pub(super) struct Choice {
    pub(super) host: HostId,
    pub(super) ports: Vec<u16>,
}

/// Why a host does not take an instance; the order is that of the explanation.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Refusal {
    NotReady(&'static str),
    NotAvailable(&'static str),
    NoDocker,
    NotHome,
    Constraint(String),
    Cpu,
    Memory,
    Full(u32),
    Port(u16, Protocol),
    NoFreePort,
}

impl HostTable {
    /// The table of a cluster as it is.
    pub fn of(cluster: &Cluster) -> HostTable {
        let row = |(id, host): (&HostId, &Host)| {
            let mut per_service = BTreeMap::new();
            for (instance, _) in cluster.instances_on(*id).filter(|(_, instance)| instance.fills_slot()) {
                *per_service.entry(instance.service().clone()).or_default() += 1;
            }
            Row {
                id: *id,
                host: host.clone(),
                is_member: cluster.member_on(*id).is_some(),
                taken: cluster.bookings(*id),
                per_service,
            }
        };
        HostTable { rows: cluster.hosts.iter().map(row).collect() }
    }

    /// Picks a host and takes what the instance needs from it, or says why none fits.
    pub(super) fn choose(&mut self, seat: &Seat<'_>) -> Result<Choice, Vec<String>> {
        let service = &seat.slot.service;
        let levels: Vec<BTreeMap<&str, u32>> =
            seat.spec.spread.iter().map(|label| self.by_label(label, service, seat.leaving)).collect();
        let mut refusals: Vec<(Refusal, usize)> = Vec::new();
        let mut best: Option<(Score, usize, Vec<u16>)> = None;
        for (index, row) in self.rows.iter().enumerate() {
            if matches!(seat.only, Some(Only::Numbered(number)) if number != row.host.number) {
                continue;
            }
            match row.ports_for(seat) {
                Ok(ports) => {
                    let on_branch = |(label, counts): (&String, &BTreeMap<&str, u32>)| counts[row.label(label)];
                    let branches = seat.spec.spread.iter().zip(&levels).map(on_branch).collect();
                    let score = (branches, row.count(service, seat.leaving), row.share(seat.spec), row.id);
                    if best.as_ref().is_none_or(|(least, ..)| score < *least) {
                        best = Some((score, index, ports));
                    }
                }
                Err(refusal) => refusals.push((refusal, index)),
            }
        }
        let Some((_, index, ports)) = best else { return Err(self.explain(seat.spec, refusals)) };
        let row = &mut self.rows[index];
        row.taken.add(seat.spec, ports.iter().zip(&seat.spec.ports).map(|(port, spec)| (*port, spec.protocol)));
        *row.per_service.entry(service.clone()).or_default() += 1;
        Ok(Choice { host: row.id, ports })
    }

    /// How many instances of a service there are under each value of a label; hosts without it form a
    /// branch of their own.
    fn by_label(&self, label: &str, service: &ServiceId, leaving: Option<HostId>) -> BTreeMap<&str, u32> {
        let mut counts = BTreeMap::new();
        for row in &self.rows {
            *counts.entry(row.label(label)).or_default() += row.count(service, leaving);
        }
        counts
    }

    /// Why nothing is replaced at all, if so many hosts are away that the fault is likely elsewhere.
    pub(super) fn brake(&self) -> Option<String> {
        let known = self.rows.iter().filter(|row| row.host.liveness != Liveness::Joining).count();
        let ready = self.rows.iter().filter(|row| row.host.liveness == Liveness::Ready).count();
        (ready * 2 < known).then(|| {
            format!(
                "{} of {known} hosts are away: nothing is replaced until they return or are removed (wharf host rm)",
                known - ready
            )
        })
    }

    /// One line a reason, with the number of hosts that it removes and what would have been needed.
    fn explain(&self, spec: &ServiceSpec, mut refusals: Vec<(Refusal, usize)>) -> Vec<String> {
        if refusals.is_empty() {
            return vec!["the cluster has no hosts".to_owned()];
        }
        refusals.sort();
        let groups = refusals.chunk_by(|(a, _), (b, _)| a == b);
        groups
            .map(|group| {
                let rows: Vec<&Row> = group.iter().map(|(_, index)| &self.rows[*index]).collect();
                let count = if rows.len() == 1 {
                    format!("host {}", rows[0].host.name)
                } else {
                    format!("{} hosts", rows.len())
                };
                let (verb, lacks) = if rows.len() == 1 { ("is", "lacks") } else { ("are", "lack") };
                match &group[0].0 {
                    Refusal::NotReady(word) => format!("{count} {verb} {word}"),
                    Refusal::NotAvailable(word) => format!("{count} {verb} {word}"),
                    Refusal::NotHome => {
                        format!("{count} {} not have its data", if rows.len() == 1 { "does" } else { "do" })
                    }
                    Refusal::Full(most) => format!(
                        "{count} {} {most} of its instances, the most that it allows on one host",
                        if rows.len() == 1 { "has" } else { "have" }
                    ),
                    Refusal::NoDocker => format!("Docker does not answer on {count}"),
                    Refusal::Constraint(constraint) => {
                        format!("{count} {} not match {constraint}", if rows.len() == 1 { "does" } else { "do" })
                    }
                    Refusal::Cpu => {
                        let (row, free) = best_of(&rows, |row| row.free_cpu().0);
                        format!(
                            "{count} {lacks} cpu: it needs {} cores, and the most free is {} on {}",
                            spec.reservations.cpu,
                            MilliCpu(free),
                            row.host.name
                        )
                    }
                    Refusal::Memory => {
                        let (row, free) = best_of(&rows, |row| row.free_memory().0);
                        format!(
                            "{count} {lacks} memory: it needs {}, and the most free is {} on {}",
                            spec.reservations.memory,
                            Bytes(free),
                            row.host.name
                        )
                    }
                    Refusal::Port(port, protocol) => format!(
                        "{count} {} port {port}/{protocol} booked by another instance",
                        if rows.len() == 1 { "has" } else { "have" }
                    ),
                    Refusal::NoFreePort => format!(
                        "{count} {} no free port from {} to {}",
                        if rows.len() == 1 { "has" } else { "have" },
                        DYNAMIC_PORTS.start,
                        DYNAMIC_PORTS.end - 1
                    ),
                }
            })
            .collect()
    }
}

/// The row with the most of something, and how much; `rows` is never empty.
fn best_of<'a>(rows: &[&'a Row], measure: impl Fn(&Row) -> u64) -> (&'a Row, u64) {
    let first = (rows[0], measure(rows[0]));
    rows.iter().fold(first, |best, row| if measure(row) > best.1 { (row, measure(row)) } else { best })
}

impl Row {
    fn free_cpu(&self) -> MilliCpu {
        MilliCpu(self.host.facts.as_ref().map_or(0, |facts| facts.cpu.0.saturating_sub(self.taken.reserved.cpu.0)))
    }

    fn free_memory(&self) -> Bytes {
        Bytes(self.host.facts.as_ref().map_or(0, |facts| facts.memory.0.saturating_sub(self.taken.reserved.memory.0)))
    }

    /// The host ports that an instance would get here, or the first filter that refuses it.
    fn ports_for(&self, seat: &Seat<'_>) -> Result<Vec<u16>, Refusal> {
        let spec = seat.spec;
        if matches!(seat.only, Some(Only::Home(home)) if home != self.id) {
            return Err(Refusal::NotHome);
        }
        if self.host.liveness != Liveness::Ready || self.host.facts.is_none() {
            return Err(Refusal::NotReady(self.host.liveness.word()));
        }
        if self.host.availability != Availability::Active {
            return Err(Refusal::NotAvailable(self.host.availability.word()));
        }
        if self.host.facts.as_ref().is_some_and(|facts| facts.docker.is_empty()) {
            return Err(Refusal::NoDocker);
        }
        if let Some(failed) =
            spec.constraints.iter().find(|constraint| !matches(self.id, &self.host, self.is_member, constraint))
        {
            return Err(Refusal::Constraint(failed.to_string()));
        }
        if spec.reservations.cpu > self.free_cpu() {
            return Err(Refusal::Cpu);
        }
        if spec.reservations.memory > self.free_memory() {
            return Err(Refusal::Memory);
        }
        if let Some(most) = spec.max_per_host
            && self.count(&seat.slot.service, None) >= most
        {
            return Err(Refusal::Full(most));
        }
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
                    let begin = (seat.incarnation * 127) % length;
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

    /// How many instances of a service it has, without one that leaves.
    fn count(&self, service: &ServiceId, leaving: Option<HostId>) -> u32 {
        let count = self.per_service.get(service).copied().unwrap_or(0);
        count.saturating_sub(u32::from(leaving == Some(self.id)))
    }

    /// The value of a label, given as `node.labels.<label>`; empty if it has none.
    fn label(&self, key: &str) -> &str {
        let label = key.strip_prefix("node.labels.").unwrap_or(key);
        self.host.labels.get(label).map_or("", String::as_str)
    }

    /// How full it would be: the larger share of processor and memory, then the number of instances.
    fn share(&self, spec: &ServiceSpec) -> u64 {
        let Some(facts) = &self.host.facts else { return u64::MAX };
        let share = |taken: u64, need: u64, all: u64| (taken + need).saturating_mul(1000) / all.max(1);
        let cpu = share(self.taken.reserved.cpu.0, spec.reservations.cpu.0, facts.cpu.0);
        let memory = share(self.taken.reserved.memory.0 >> 10, spec.reservations.memory.0 >> 10, facts.memory.0 >> 10);
        let crowd: u64 = self.per_service.values().map(|count| u64::from(*count)).sum();
        (cpu.max(memory) << 20) + crowd
    }
}

/// Whether a host is what a constraint asks for.
fn matches(id: HostId, host: &Host, is_member: bool, constraint: &Constraint) -> bool {
    let Some(facts) = &host.facts else { return false };
    let equal = match constraint.key.as_str() {
        "node.id" => id.to_string() == constraint.value,
        "node.hostname" => host.name.as_str() == constraint.value || facts.hostname == constraint.value,
        "node.role" => constraint.value == if is_member { "manager" } else { "worker" },
        "node.platform.os" => facts.os == constraint.value,
        "node.platform.arch" => same_arch(&facts.arch, &constraint.value),
        key => {
            let label = key.strip_prefix("node.labels.").unwrap_or(key);
            host.labels.get(label) == Some(&constraint.value)
        }
    };
    equal != constraint.not
}

/// The numbers of the hosts on which a global service wants an instance: those that its constraints
/// allow and that can be reached or have one already. A host that is emptied keeps its own until
/// all else has left.
pub(crate) fn of_global(cluster: &Cluster, id: &ServiceId, spec: &ServiceSpec) -> Vec<u32> {
    let wanted = |(host_id, host): &(&HostId, &Host)| {
        let is_member = cluster.member_on(**host_id).is_some();
        let is_allowed = spec.constraints.iter().all(|constraint| matches(**host_id, host, is_member, constraint));
        let mut on_host = cluster.instances_on(**host_id).filter(|(_, instance)| instance.fills_slot());
        let has = || cluster.instances_on(**host_id).any(|(on, i)| on.service() == id && i.fills_slot());
        let wants = match host.availability {
            Availability::Active => host.liveness == Liveness::Ready || has(),
            Availability::Cordoned => has(),
            Availability::Draining { .. } => has() && on_host.any(|(_, i)| i.spec.mode == Mode::Replicated),
        };
        is_allowed && wants
    };
    cluster.hosts.iter().filter(wanted).map(|(_, host)| host.number).collect()
}

/// Docker says x86_64 and aarch64, people and images say amd64 and arm64.
fn same_arch(a: &str, b: &str) -> bool {
    let canonical = |arch: &str| match arch {
        "x86_64" => "amd64".to_owned(),
        "aarch64" => "arm64".to_owned(),
        other => other.to_owned(),
    };
    canonical(a) == canonical(b)
}
