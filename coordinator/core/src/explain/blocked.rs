//! Why instances are missing, or stay where they are.

use std::fmt;

use common::{
    name::Name,
    quantity::{Bytes, MilliCpu},
    spec::Condition,
};

use crate::{
    plan::{Blocked, DYNAMIC_PORTS, Hold, Refusal, Room, Unfit},
    state::Awaited,
};

impl fmt::Display for Blocked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Blocked::Awaits(awaited) => awaits(awaited, f),
            Blocked::BacksOff { slot, failures, retry_at, why } => {
                write!(f, "slot {slot} failed {failures} times in a row and will be retried at {retry_at}: {why}")
            }
            Blocked::Waits { slot, hold } => write!(f, "slot {slot} {hold}"),
            Blocked::Unplaced(unfit) => unfit.fmt(f),
            Blocked::NoHosts => f.write_str("the cluster has no hosts"),
            Blocked::CannotLeave { slot, reasons } => {
                let reasons: Vec<String> = reasons.iter().map(Blocked::to_string).collect();
                write!(f, "slot {slot} cannot leave its host yet: {}", reasons.join("; "))
            }
            Blocked::NoLeases => f.write_str("lost_after is too short for the lease of a strict singleton"),
            Blocked::TooManyAway { away, known } => write!(
                f,
                "{away} of {known} hosts are away: no instances are replaced until they return or are removed (wharf host rm)"
            ),
        }
    }
}

fn awaits(awaited: &Awaited, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let Awaited { on, condition, reached, wanted, failed } = awaited;
    match failed {
        Some(why) if why.is_empty() => write!(f, "it waits for {on}, which is blocked"),
        Some(why) => write!(f, "it waits for {on}, which failed: {why}"),
        None => {
            let word = match condition {
                Condition::Started => "running",
                Condition::Healthy => "healthy",
                Condition::Completed => "completed",
            };
            write!(f, "it waits for {on}: {reached} of {wanted} {word}")
        }
    }
}

impl fmt::Display for Hold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let host = |host: &Option<Name>| host.as_ref().map_or("its host".to_owned(), Name::to_string);
        match self {
            Hold::MayFinish => f.write_str("cannot leave its host: it may finish its run"),
            Hold::DataStays => f.write_str("cannot leave its host, which holds its data"),
            Hold::DataIsAway => f.write_str("waits for its host, which holds its data"),
            Hold::NoLease { on } => write!(f, "waits for {}, where an instance without a lease may run", host(on)),
            Hold::Orphaned { until } => write!(f, "may still run until {until} on a host that was removed"),
            Hold::Leased { on, until } => write!(f, "waits until its lease on {} expires, at {until}", host(on)),
            Hold::Runs { instance, on } => write!(f, "waits until {instance} has ended on {}", host(on)),
        }
    }
}

/// The verbs of a sentence about one host or several.
struct Verbs {
    is: &'static str,
    has: &'static str,
    does: &'static str,
    lacks: &'static str,
}

const ONE: Verbs = Verbs { is: "is", has: "has", does: "does", lacks: "lacks" };
const SEVERAL: Verbs = Verbs { is: "are", has: "have", does: "do", lacks: "lack" };

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Unfit { hosts, first, why, room: Room { needed, most_free, on } } = self;
        let (who, Verbs { is, has, does, lacks }) = match hosts {
            1 => (format!("host {first}"), ONE),
            _ => (format!("{hosts} hosts"), SEVERAL),
        };
        match why {
            Refusal::NotReady(word) | Refusal::NotAvailable(word) => write!(f, "{who} {is} {word}"),
            Refusal::Flapping => {
                let (comes, goes) = if *hosts == 1 { ("comes", "goes") } else { ("come", "go") };
                write!(f, "{who} {comes} and {goes} too often to get new instances at present")
            }
            Refusal::NotHome => write!(f, "{who} {does} not have its data"),
            Refusal::Full(most) => {
                write!(f, "{who} {has} {most} of its instances, its maximum per host")
            }
            Refusal::DiskFull => write!(f, "a disk is full on {who}"),
            Refusal::NoDocker => write!(f, "Docker does not answer on {who}"),
            Refusal::Constraint(constraint) => write!(f, "{who} {does} not match {constraint}"),
            Refusal::Cpu => {
                let (needed, free) = (MilliCpu(*needed), MilliCpu(*most_free));
                write!(f, "{who} {lacks} cpu: it needs {needed} cores, and the most free is {free} on {on}")
            }
            Refusal::Memory => {
                let (needed, free) = (Bytes(*needed), Bytes(*most_free));
                write!(f, "{who} {lacks} memory: it needs {needed}, and the most free is {free} on {on}")
            }
            Refusal::Device(kind, wanted) => {
                write!(f, "{who} {lacks} {kind} devices: it needs {wanted}, and the most free are {most_free} on {on}")
            }
            Refusal::Port(port, protocol) => write!(f, "{who} {has} port {port}/{protocol} booked by another instance"),
            Refusal::NoFreePort => {
                write!(f, "{who} {has} no free port from {} to {}", DYNAMIC_PORTS.start, DYNAMIC_PORTS.end - 1)
            }
        }
    }
}
