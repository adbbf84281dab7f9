//! Why no host takes an instance: one line a reason, with the number of hosts that it removes.

use std::fmt;

use common::{
    quantity::{Bytes, MilliCpu},
    spec::{Condition, Protocol, ServiceSpec},
};

use super::{
    Blocked,
    hosts::{DYNAMIC_PORTS, HostTable, Row},
};
use crate::state::Awaited;

/// Why a host does not take an instance; the order is that of the explanation.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Refusal {
    NotReady(&'static str),
    NotAvailable(&'static str),
    Flapping,
    NoDocker,
    DiskFull,
    NotHome,
    Constraint(String),
    Cpu,
    Memory,
    Full(u32),
    Port(u16, Protocol),
    NoFreePort,
    /// The kind, and what is asked for of it.
    Device(String, String),
}

impl fmt::Display for Blocked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Blocked::Awaits(Awaited { on, failed: Some(why), .. }) if why.is_empty() => {
                write!(f, "it waits for {on}, which is blocked")
            }
            Blocked::Awaits(Awaited { on, failed: Some(why), .. }) => {
                write!(f, "it waits for {on}, which failed: {why}")
            }
            Blocked::Awaits(Awaited { on, condition, reached, wanted, .. }) => {
                let word = match condition {
                    Condition::Started => "running",
                    Condition::Healthy => "healthy",
                    Condition::Completed => "completed",
                };
                write!(f, "it waits for {on}: {reached} of {wanted} {word}")
            }
            Blocked::BacksOff { slot, failures, retry_at, why } => {
                write!(f, "slot {slot} failed {failures} times in a row and will be retried at {retry_at}: {why}")
            }
            Blocked::Waits { slot, why } => write!(f, "slot {slot} {why}"),
            Blocked::Unplaced(why) => f.write_str(why),
        }
    }
}

impl HostTable {
    /// One line a reason, with the number of hosts that it removes and what would have been needed.
    pub(super) fn explain(&self, spec: &ServiceSpec, mut refusals: Vec<(Refusal, usize)>) -> Vec<String> {
        if refusals.is_empty() {
            return vec!["the cluster has no hosts".to_owned()];
        }
        refusals.sort();
        let groups = refusals.chunk_by(|(a, _), (b, _)| a == b);
        groups
            .map(|group| {
                let rows: Vec<&Row> = group.iter().map(|(_, index)| &self.rows()[*index]).collect();
                let count = if rows.len() == 1 {
                    format!("host {}", rows[0].host.name)
                } else {
                    format!("{} hosts", rows.len())
                };
                let (verb, lacks) = if rows.len() == 1 { ("is", "lacks") } else { ("are", "lack") };
                match &group[0].0 {
                    Refusal::NotReady(word) => format!("{count} {verb} {word}"),
                    Refusal::NotAvailable(word) => format!("{count} {verb} {word}"),
                    Refusal::Flapping => format!(
                        "{count} {} and {} too often to get new instances at present",
                        if rows.len() == 1 { "comes" } else { "come" },
                        if rows.len() == 1 { "goes" } else { "go" }
                    ),
                    Refusal::NotHome => {
                        format!("{count} {} not have its data", if rows.len() == 1 { "does" } else { "do" })
                    }
                    Refusal::Full(most) => format!(
                        "{count} {} {most} of its instances, its maximum per host",
                        if rows.len() == 1 { "has" } else { "have" }
                    ),
                    Refusal::DiskFull => format!("a disk is full on {count}"),
                    Refusal::NoDocker => format!("Docker does not answer on {count}"),
                    Refusal::Constraint(constraint) => {
                        format!("{count} {} not match {constraint}", if rows.len() == 1 { "does" } else { "do" })
                    }
                    Refusal::Cpu => {
                        let (row, free) = best_of(&rows, |row| row.free_cpu().0);
                        format!(
                            "{count} {lacks} cpu: it needs {} cores, and the most free is {} on {}",
                            spec.reservations().cpu,
                            MilliCpu(free),
                            row.host.name
                        )
                    }
                    Refusal::Memory => {
                        let (row, free) = best_of(&rows, |row| row.free_memory().0);
                        format!(
                            "{count} {lacks} memory: it needs {}, and the most free is {} on {}",
                            spec.reservations().memory,
                            Bytes(free),
                            row.host.name
                        )
                    }
                    Refusal::Device(kind, wanted) => {
                        let (row, free) = best_of(&rows, |row| row.free_devices(kind));
                        format!(
                            "{count} {lacks} {kind} devices: it needs {wanted}, and the most free are {free} on {}",
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
