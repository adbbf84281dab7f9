//! What should change next, from the whole state and the time alone.
//!
//! Level-triggered: each pass looks at everything and needs no history, so a new leader, a lost
//! proposal and a refused command all end in the same place. A pass proposes at most one step for
//! a slot; when its commands are applied, the next pass sees what is left.

mod hosts;
mod incremental;
mod pin;
mod place;
mod rollout;
mod runs;
mod scale;
mod stranded;
mod unfit;

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
};

use common::{
    api::Settings,
    host::Liveness,
    id::{HostId, InstanceId, ServiceId},
    instance::{Desired, StopReason, Verdict, Want},
    name::Name,
    time::{Span, Timestamp},
};

pub(crate) use hosts::DYNAMIC_PORTS;
pub use incremental::Planner;
pub(crate) use rollout::canary_stands;
pub use scale::wanted_slots;
pub use unfit::{Refusal, Room, Unfit};

use hosts::HostTable;

use crate::{State, command::Command, state::Awaited};

/// What should change now, when to look again, and what cannot be done.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Plan {
    /// The commands to propose, in order.
    pub commands: Vec<Command>,
    /// When to look again if nothing else happens.
    pub wake_at: Option<Timestamp>,
    /// Why instances are missing.
    pub blocked: BTreeMap<ServiceId, Vec<Blocked>>,
    /// Whether room that others leave on hosts would change it, though nothing is in its way.
    pub hinges_on_room: bool,
}

/// Why something of a service is not as it should be, and nothing is proposed about it. Its `Display` is the sentence
/// that people read; see `explain`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Blocked {
    /// Its change waits for a service that it depends on.
    Awaits(Awaited),
    /// A slot has failed so lately that it is left alone.
    BacksOff {
        /// The slot's number.
        slot: u32,
        /// How many instances failed in a row.
        failures: u32,
        /// When it is tried again.
        retry_at: Timestamp,
        /// Why the last one failed.
        why: String,
    },
    /// A slot has to wait, or its instance has to stay where it is.
    Waits {
        /// The slot's number.
        slot: u32,
        /// What holds it.
        hold: Hold,
    },
    /// These hosts take no instance.
    Unplaced(Unfit),
    /// There are no hosts.
    NoHosts,
    /// An instance has to leave its host, and no other host takes a successor.
    CannotLeave {
        /// The slot's number.
        slot: u32,
        /// Why not.
        reasons: Vec<Blocked>,
    },
    /// The cluster's settings are too short for the lease of a strict singleton.
    NoLeases,
    /// So many hosts are away that the fault is likely elsewhere: nothing is replaced.
    TooManyAway {
        /// How many are away.
        away: usize,
        /// How many there are.
        known: usize,
    },
}

/// What a slot waits for, or what holds its instance where it is. Hosts are absent once they were removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hold {
    /// It may finish its run, on a host that is emptied.
    MayFinish,
    /// Its data lies on the host that is emptied.
    DataStays,
    /// Its data lies on a host that is away.
    DataIsAway,
    /// Its instance has no lease, so it may run on a host that is away.
    NoLease {
        /// The host.
        on: Option<Name>,
    },
    /// Its instance may run on, on a host that was removed.
    Orphaned {
        /// Until its lease expires.
        until: Timestamp,
    },
    /// Its instance may run on, on a host that is away.
    Leased {
        /// The host.
        on: Option<Name>,
        /// Until its lease expires.
        until: Timestamp,
    },
    /// Another instance of a strict singleton has not ended.
    Runs {
        /// The instance.
        instance: InstanceId,
        /// Its host.
        on: Option<Name>,
    },
}

impl Blocked {
    /// The number of the slot that it is about, if it is about one alone.
    pub fn slot(&self) -> Option<u32> {
        match self {
            Blocked::BacksOff { slot, .. } | Blocked::Waits { slot, .. } | Blocked::CannotLeave { slot, .. } => {
                Some(*slot)
            }
            Blocked::Awaits(_)
            | Blocked::Unplaced(_)
            | Blocked::NoHosts
            | Blocked::NoLeases
            | Blocked::TooManyAway { .. } => None,
        }
    }
}

impl Plan {
    fn wake(&mut self, at: Timestamp) {
        self.wake_at = Some(self.wake_at.map_or(at, |earlier| earlier.min(at)));
    }

    fn desire(&mut self, instance: &InstanceId, want: Want, reason: StopReason) {
        let desired = Desired { want, reason: Some(reason) };
        self.commands.push(Command::Desire { instance: instance.clone(), desired });
    }

    /// Why instances of a service are missing, one line a reason.
    pub fn reasons(&self, service: &ServiceId) -> Vec<String> {
        self.blocked.get(service).into_iter().flatten().map(Blocked::to_string).collect()
    }

    /// Adds the plan of another service.
    fn add(&mut self, part: Plan) {
        self.commands.extend(part.commands);
        self.blocked.extend(part.blocked);
        self.hinges_on_room |= part.hinges_on_room;
        part.wake_at.into_iter().for_each(|at| self.wake(at));
    }

    fn block(&mut self, service: &ServiceId, reason: Blocked) {
        let reasons = self.blocked.entry(service.clone()).or_default();
        if !reasons.contains(&reason) {
            reasons.push(reason);
        }
    }
}

/// When a plan is made.
#[derive(Debug, Clone, Copy)]
pub struct Moment {
    /// The time.
    pub now: Timestamp,
    /// Since when the planning member leads. Before that, hosts had nobody to speak with: each has
    /// a whole lease from then on before anything on it is replaced.
    pub leading_since: Timestamp,
}

impl From<Timestamp> for Moment {
    /// For a plan that is only looked at.
    fn from(now: Timestamp) -> Moment {
        Moment { now, leading_since: Timestamp(0) }
    }
}

/// One look at services of a state, each of which leaves the next one less room on the hosts.
struct Pass<'a> {
    cluster: &'a State,
    at: Moment,
    hosts: &'a mut HostTable,
}

/// Plans everything.
pub fn plan(cluster: &State, at: impl Into<Moment>) -> Plan {
    plan_services(cluster, services(cluster), at)
}

/// Plans these services alone, as if nothing else were to be placed.
pub(crate) fn plan_services(cluster: &State, ids: BTreeSet<ServiceId>, at: impl Into<Moment>) -> Plan {
    let mut plan = Plan::default();
    if !ids.is_empty() {
        let mut pass = Pass { cluster, at: at.into(), hosts: &mut HostTable::of(cluster) };
        in_order(cluster, ids).iter().for_each(|id| pass.plan(id, &mut plan));
    }
    plan
}

/// The order in which services get what there is: by their priority, then by their name.
fn in_order(cluster: &State, ids: BTreeSet<ServiceId>) -> Vec<ServiceId> {
    let mut ids: Vec<ServiceId> = ids.into_iter().collect();
    ids.sort_by_cached_key(|id| Reverse(cluster.service(id).map_or(0, |service| service.spec.priority)));
    ids
}

/// Every service that there is, or that has left instances.
fn services(cluster: &State) -> BTreeSet<ServiceId> {
    let mut ids = BTreeSet::new();
    for (id, stack) in cluster.stacks() {
        ids.extend(stack.services.keys().map(|name| id.service(name.clone())));
    }
    let mut last: Option<&ServiceId> = None;
    for id in cluster.instances().keys().map(InstanceId::service) {
        if last != Some(id) {
            ids.insert(id.clone());
            last = Some(id);
        }
    }
    ids
}

impl Pass<'_> {
    /// Plans a service, or the end of what it has left.
    fn plan(&mut self, id: &ServiceId, plan: &mut Plan) {
        let cluster = self.cluster;
        let service = cluster.service(id);
        if let Some(service) = service {
            self.plan_service(id, service, plan);
        }
        for (id, instance) in cluster.instances_of(id).filter(|(_, instance)| instance.desired.want < Want::Purge) {
            if service.is_none() {
                plan.desire(id, Want::Purge, StopReason::Removed);
            } else if matches!(instance.verdict, Verdict::Lost { .. }) && is_ready(cluster, instance.host) {
                // Its host is back, and another incarnation has its slot.
                plan.desire(id, Want::Purge, StopReason::Duplicate);
            }
        }
    }
}

fn is_ready(cluster: &State, host: HostId) -> bool {
    cluster.hosts().get(&host).is_some_and(|host| host.liveness == Liveness::Ready)
}

/// When an instance that became unreachable at `since` is replaced. The host counts as down
/// `down_after` its last beat, so only the rest of `lost_after` remains; one that said that it will be back has
/// longer.
fn replaced_at(cluster: &State, host: HostId, since: Timestamp, at: Moment) -> Timestamp {
    let Settings { down_after, lost_after, .. } = cluster.settings();
    let lost = since + Span(lost_after.0.saturating_sub(down_after.0));
    lost.max(at.leading_since + down_after).max(cluster.returns_until(host))
}

/// When a strict singleton that became unreachable at `since` has ended for certain. An old leader may have
/// answered its host until this one began to lead, so the whole time counts from then.
fn lease_over_at(cluster: &State, since: Timestamp, at: Moment) -> Timestamp {
    let longest = cluster.longest_lease();
    // It had been silent for `down_after` by then, unless that was another time by then.
    let silent = if cluster.old_lease().is_some() { Span(0) } else { cluster.settings().down_after };
    (since + Span(longest.0.saturating_sub(silent.0))).max(at.leading_since + longest)
}

#[cfg(test)]
mod tests;
