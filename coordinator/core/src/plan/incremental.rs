//! The same plan, found by looking only at what has changed: what a full pass over 300,000 instances
//! takes would be too long for each of them.

use std::collections::{BTreeMap, BTreeSet};

use common::{
    id::{HostId, ServiceId},
    spec::{Constraint, Mode},
    time::Timestamp,
};
use imbl::ordmap::DiffItem;

use super::{HostTable, Moment, Plan, in_order, plan_service, services};
use crate::{
    Cluster,
    cluster::{Instance, Service, Stack},
};

/// Plans one state after the other. What it gives is what [`plan`](super::plan) gives.
#[derive(Default)]
pub struct Planner {
    seen: Option<Seen>,
}

/// What the last plan was made from.
struct Seen {
    cluster: Cluster,
    leading_since: Timestamp,
    hosts: HostTable,
    /// Services that are not at rest.
    restless: BTreeMap<ServiceId, Restless>,
    /// Services that depend on which hosts there are.
    global: BTreeSet<ServiceId>,
}

/// Why a service is looked at again although nothing of it has changed.
struct Restless {
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
    pub fn plan(&mut self, cluster: &Cluster, at: Moment) -> Plan {
        let same = |seen: &Seen| seen.leading_since == at.leading_since && seen.cluster.settings == cluster.settings;
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
            plan_service(cluster, &id, at, &mut seen.hosts, &mut part);
            seen.note(id, &part);
            plan.add(part);
        }
        // Those that were not looked at wait on.
        seen.restless.values().filter_map(|restless| restless.wake_at).for_each(|wake_at| plan.wake(wake_at));
        self.seen = Some(seen);
        plan
    }
}

impl Seen {
    fn of(cluster: &Cluster, leading_since: Timestamp) -> Seen {
        let global = cluster.stacks.iter().flat_map(|(id, stack)| global_of(id, stack)).collect();
        let (cluster, hosts) = (cluster.clone(), HostTable::of(cluster));
        Seen { cluster, leading_since, hosts, restless: BTreeMap::new(), global }
    }

    /// Takes up a new state; the services to look at.
    fn take_up(&mut self, cluster: &Cluster, now: Timestamp) -> BTreeSet<ServiceId> {
        let is_due = |restless: &Restless| restless.always || restless.wake_at.is_some_and(|at| at <= now);
        let mut dirty: BTreeSet<ServiceId> =
            self.restless.iter().filter(|(_, restless)| is_due(restless)).map(|(id, _)| id.clone()).collect();
        let mut changed: BTreeSet<HostId> = BTreeSet::new();
        let before = std::mem::replace(&mut self.cluster, cluster.clone());

        for (id, stack) in before.stacks.diff(&cluster.stacks).flat_map(both) {
            dirty.extend(stack.services.keys().map(|name| id.service(name.clone())));
            self.global.retain(|global| global.stack != *id);
            self.global.extend(cluster.stacks.get(id).into_iter().flat_map(|stack| global_of(id, stack)));
        }
        for (slot, _) in before.slots.diff(&cluster.slots).flat_map(both) {
            dirty.insert(slot.service.clone());
        }
        let mut instances_changed = false;
        for (id, instance) in before.instances.diff(&cluster.instances).flat_map(both) {
            let instance: &Instance = instance;
            instances_changed = true;
            changed.insert(instance.host);
            if !dirty.contains(id.service()) {
                dirty.insert(id.service().clone());
            }
        }
        let mut hosts_changed = !before.members.ptr_eq(&cluster.members);
        if hosts_changed {
            changed.extend(before.members.values().chain(cluster.members.values()).map(|member| member.host));
        }
        for (id, _) in before.hosts.diff(&cluster.hosts).flat_map(both) {
            hosts_changed = true;
            changed.insert(*id);
            dirty.extend(cluster.instances_on(*id).map(|(id, _)| id.service().clone()));
        }
        self.hosts.refresh(cluster, changed);
        if hosts_changed || (instances_changed && !self.hosts.emptied().is_empty()) {
            dirty.extend(self.global.iter().cloned());
        } else if instances_changed {
            let asks = |service: &Service| service.spec.constraints.iter().any(Constraint::asks_for_neighbours);
            let follow = self.global.iter().filter(|id| cluster.service(id).is_some_and(asks));
            dirty.extend(follow.cloned());
        }
        dirty
    }

    fn note(&mut self, id: ServiceId, part: &Plan) {
        let always = !part.commands.is_empty() || !part.blocked.is_empty() || part.hinges_on_room;
        if always || part.wake_at.is_some() {
            self.restless.insert(id, Restless { wake_at: part.wake_at, always });
        } else {
            self.restless.remove(&id);
        }
    }
}

fn global_of(id: &common::id::StackId, stack: &Stack) -> Vec<ServiceId> {
    let is_global = |service: &Service| service.spec.mode == Mode::Global;
    let global = stack.services.iter().filter(|(_, service)| is_global(service));
    global.map(|(name, _)| id.service(name.clone())).collect()
}

/// What a difference shows of before and after.
fn both<'a, K, V>(item: DiffItem<'a, 'a, K, V>) -> impl Iterator<Item = (&'a K, &'a V)> {
    let (first, second) = match item {
        DiffItem::Add(key, value) | DiffItem::Remove(key, value) => ((key, value), None),
        DiffItem::Update { old, new } => (old, Some(new)),
    };
    std::iter::once(first).chain(second)
}
