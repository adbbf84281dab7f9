//! The same plan, found by looking only at what has changed: what a full pass over 300,000 instances
//! takes would be too long for each of them.

use std::collections::{BTreeMap, BTreeSet};

use common::{
    id::{HostId, ServiceId},
    spec::{Constraint, Mode},
    time::Timestamp,
};

use super::{HostTable, Moment, Pass, Plan, in_order, services};
use crate::{
    Changes, State,
    state::{Service, Stack},
};

/// Plans one state after the other. What it gives is what [`plan`](super::plan) gives.
#[derive(Default)]
pub struct Planner {
    seen: Option<Seen>,
}

/// What the last plan was made from.
struct Seen {
    cluster: State,
    leading_since: Timestamp,
    hosts: HostTable,
    /// Services that are not at rest.
    pending: BTreeMap<ServiceId, Pending>,
    /// Services that depend on which hosts there are.
    global: BTreeSet<ServiceId>,
}

/// Why a service is looked at again although nothing of it has changed.
struct Pending {
    /// When its time comes.
    wake_at: Option<Timestamp>,
    /// Whether something was proposed for it, is in its way, or hinges on the room that others leave.
    always: bool,
}

impl Planner {
    /// Forgets what it has seen: the next plan looks at everything.
    pub fn forget(&mut self) {
        self.seen = None;
    }

    /// Plans what has changed since the last plan, and what was not at rest then.
    pub fn plan(&mut self, cluster: &State, at: Moment) -> Plan {
        let same =
            |seen: &Seen| seen.leading_since == at.leading_since && seen.cluster.settings() == cluster.settings();
        let (mut seen, dirty) = match self.seen.take().filter(same) {
            Some(mut seen) => {
                let dirty = seen.take_up(cluster, at.now);
                (seen, dirty)
            }
            None => (Seen::of(cluster, at.leading_since), services(cluster)),
        };
        let mut plan = Plan::default();
        for id in in_order(cluster, dirty) {
            let mut part = Plan::default();
            Pass { cluster, at, hosts: &mut seen.hosts }.plan(&id, &mut part);
            seen.note(id, &part);
            plan.add(part);
        }
        // Those that were not looked at wait on.
        seen.pending.values().filter_map(|pending| pending.wake_at).for_each(|wake_at| plan.wake(wake_at));
        self.seen = Some(seen);
        plan
    }
}

impl Seen {
    fn of(cluster: &State, leading_since: Timestamp) -> Seen {
        let global = cluster.stacks().iter().flat_map(|(id, stack)| global_of(id, stack)).collect();
        let (cluster, hosts) = (cluster.clone(), HostTable::of(cluster));
        Seen { cluster, leading_since, hosts, pending: BTreeMap::new(), global }
    }

    /// Takes up a new state; the services to look at.
    fn take_up(&mut self, cluster: &State, now: Timestamp) -> BTreeSet<ServiceId> {
        let mut dirty = self.due(now);
        let mut changed: BTreeSet<HostId> = BTreeSet::new();
        let before = std::mem::replace(&mut self.cluster, cluster.clone());
        let changes = Changes::between(&before, cluster);
        for change in changes.stacks() {
            let id = change.key;
            dirty.extend(change.both().flat_map(|stack| stack.services.keys()).map(|name| id.service(name.clone())));
            self.global.retain(|global| global.stack != *id);
            self.global.extend(change.after.into_iter().flat_map(|stack| global_of(id, stack)));
        }
        dirty.extend(changes.slots().map(|change| change.key.service.clone()));
        let mut instances_changed = false;
        for change in changes.instances() {
            instances_changed = true;
            changed.extend(change.both().map(|instance| instance.host));
            if !dirty.contains(change.key.service()) {
                dirty.insert(change.key.service().clone());
            }
        }
        let mut hosts_changed = false;
        for change in changes.members() {
            hosts_changed = true;
            changed.extend(change.both().map(|member| member.host));
        }
        for change in changes.hosts() {
            hosts_changed = true;
            changed.insert(*change.key);
            dirty.extend(cluster.instances_on(*change.key).map(|(id, _)| id.service().clone()));
        }
        self.hosts.refresh(cluster, changed);
        if hosts_changed || (instances_changed && !self.hosts.emptied().is_empty()) {
            dirty.extend(self.global.iter().cloned());
        } else if instances_changed {
            dirty.extend(self.followers().cloned());
        }
        dirty
    }

    /// The services to look at again whatever has changed.
    fn due(&self, now: Timestamp) -> BTreeSet<ServiceId> {
        let is_due = |pending: &Pending| pending.always || pending.wake_at.is_some_and(|at| at <= now);
        self.pending.iter().filter(|(_, pending)| is_due(pending)).map(|(id, _)| id.clone()).collect()
    }

    /// The services that depend on which hosts there are by what runs on those.
    fn followers(&self) -> impl Iterator<Item = &ServiceId> {
        let asks = |service: &Service| service.spec.constraints.iter().any(Constraint::asks_for_neighbours);
        self.global.iter().filter(move |id| self.cluster.service(id).is_some_and(asks))
    }

    fn note(&mut self, id: ServiceId, part: &Plan) {
        let always = !part.commands.is_empty() || !part.blocked.is_empty() || part.hinges_on_room;
        if always || part.wake_at.is_some() {
            self.pending.insert(id, Pending { wake_at: part.wake_at, always });
        } else {
            self.pending.remove(&id);
        }
    }
}

fn global_of(id: &common::id::StackId, stack: &Stack) -> Vec<ServiceId> {
    let is_global = |service: &Service| service.spec.mode == Mode::Global;
    let global = stack.services.iter().filter(|(_, service)| is_global(service));
    global.map(|(name, _)| id.service(name.clone())).collect()
}
