//! Why hosts do not take an instance, as values.

use common::{
    name::Name,
    spec::{Protocol, ServiceSpec},
};

use super::{
    Blocked,
    hosts::{HostTable, Row},
};

/// Why a host does not take an instance. The order is the one in which people are given the reasons.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Refusal {
    /// It does not report, by the word for its liveness.
    NotReady(&'static str),
    /// People do not want instances on it, by the word for its availability.
    NotAvailable(&'static str),
    /// It comes and goes.
    Flapping,
    /// Its Docker does not answer.
    NoDocker,
    /// One of its disks is full.
    DiskFull,
    /// The data of the slot lies on another host.
    NotHome,
    /// It does not match this constraint.
    Constraint(String),
    /// It has too little processor time left.
    Cpu,
    /// It has too little memory left.
    Memory,
    /// It has as many instances of the service as the spec allows on one host.
    Full(u32),
    /// The port is booked there.
    Port(u16, Protocol),
    /// No port is left to choose from.
    NoFreePort,
    /// It has too few devices of a kind; the second text is how many are needed, as the spec says it.
    Device(String, String),
}

/// How much of something is needed, and where the most of it is free: thousandths of a core, bytes, or devices.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Room {
    /// What an instance reserves; 0 where the refusal itself says it.
    pub needed: u64,
    /// The most that one of the hosts has free.
    pub most_free: u64,
    /// That host.
    pub on: Name,
}

/// Hosts that do not take an instance for the same reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unfit {
    /// How many; at least one.
    pub hosts: usize,
    /// The first of them.
    pub first: Name,
    /// The reason.
    pub why: Refusal,
    /// What is short, if the reason is that something is.
    pub room: Room,
}

impl HostTable {
    /// The refusals of hosts, by reason.
    pub(super) fn unfit(&self, spec: &ServiceSpec, mut refusals: Vec<(Refusal, usize)>) -> Vec<Blocked> {
        if refusals.is_empty() {
            return vec![Blocked::NoHosts];
        }
        refusals.sort();
        let groups = refusals.chunk_by(|(a, _), (b, _)| a == b);
        let unfit = |group: &[(Refusal, usize)]| {
            let rows: Vec<&Row> = group.iter().map(|(_, index)| &self.rows()[*index]).collect();
            let why = group[0].0.clone();
            let room = room(spec, &why, &rows);
            Blocked::Unplaced(Unfit { hosts: rows.len(), first: rows[0].host.name.clone(), why, room })
        };
        groups.map(unfit).collect()
    }
}

fn room(spec: &ServiceSpec, why: &Refusal, rows: &[&Row]) -> Room {
    let free = |row: &Row| match why {
        Refusal::Cpu => row.free_cpu().0,
        Refusal::Memory => row.free_memory().0,
        Refusal::Device(kind, _) => row.free_devices(kind),
        _ => 0,
    };
    let needed = match why {
        Refusal::Cpu => spec.reservations().cpu.0,
        Refusal::Memory => spec.reservations().memory.0,
        _ => 0,
    };
    let first = (rows[0], free(rows[0]));
    let (row, most_free) =
        rows.iter().fold(first, |best, row| if free(row) > best.1 { (row, free(row)) } else { best });
    Room { needed, most_free, on: row.host.name.clone() }
}
