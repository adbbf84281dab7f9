//! What people ask for, and the instances that do it: stacks, their services, slots and instances.

mod addresses;
mod candidate;
mod dependencies;
mod instances;
mod placement;
mod rollouts;
mod runs;
mod stacks;

use std::{net::Ipv4Addr, sync::Arc};

use common::{
    id::{HostId, InstanceId, SlotId, StackId},
    instance::{Health, Phase, Verdict},
    name::Name,
    time::Timestamp,
};
use imbl::{OrdMap, OrdSet};
use serde::{Deserialize, Serialize};

use super::{Applied, Host, MAX_SKEW, State, not_found, set_back::Back, shortened, size_of};

pub use candidate::Candidate;
pub(super) use candidate::names_of_arch;
pub use dependencies::Awaited;
pub use instances::{Bookings, Instance, Slot};
pub use rollouts::{Rollout, Version};
pub use runs::{End, Runs, Task, Tries};
pub(super) use stacks::StackChange;
pub use stacks::{Revision, Service, Stack};

/// The section of work.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Work {
    /// Those that are being removed included.
    stacks: OrdMap<StackId, Stack>,
    /// Every slot that has ever been filled and may be again.
    slots: OrdMap<SlotId, Slot>,
    /// The highest incarnation of a slot that was forgotten.
    retired_incarnation: u64,
    /// Each until its container is gone.
    instances: OrdMap<InstanceId, Instance>,
    /// The bytes that the specs of all instances take where they are stored.
    spec_bytes: usize,
    /// An index: the instances of each host.
    by_host: OrdSet<(HostId, InstanceId)>,
    /// An index: those of them that are strict singletons. Every heartbeat of a host asks for them.
    strict_by_host: OrdSet<(HostId, InstanceId)>,
    /// Slots of strict singletons that a removed host may still fill, and until when.
    orphans: OrdMap<SlotId, Timestamp>,
    /// The address that was allocated to a service last. Addresses are allocated round-robin, so a freed address is
    /// not reused immediately.
    last_service_address: Option<Ipv4Addr>,
}

impl Work {
    /// Sets all times back, but those that name the runs of a schedule.
    pub(super) fn set_back(&mut self, back: Back) {
        back.each(&mut self.stacks, |stack| stack.set_back(back));
        back.each(&mut self.slots, |slot| slot.tries.iter_mut().for_each(|tries| back.time(&mut tries.retry_at)));
        back.each(&mut self.instances, |instance| instance.set_back(back));
        back.each(&mut self.orphans, |until| back.time(until));
    }

    /// Leaves out so many incarnations of every slot.
    pub(super) fn skip_incarnations(&mut self, by: u64) {
        let slots: Vec<SlotId> = self.slots.keys().cloned().collect();
        for id in slots {
            if let Some(slot) = self.slots.get_mut(&id) {
                slot.incarnation += by;
            }
        }
        self.retired_incarnation += by;
    }
}

impl State {
    /// The stacks, those that are being removed included.
    pub fn stacks(&self) -> &OrdMap<StackId, Stack> {
        &self.work.stacks
    }

    /// Every slot that has ever been filled and may be again.
    pub fn slots(&self) -> &OrdMap<SlotId, Slot> {
        &self.work.slots
    }

    /// The instances, each until its container is gone.
    pub fn instances(&self) -> &OrdMap<InstanceId, Instance> {
        &self.work.instances
    }

    /// Slots of strict singletons that a removed host may still fill, and until when.
    pub fn orphans(&self) -> &OrdMap<SlotId, Timestamp> {
        &self.work.orphans
    }

    /// Gives all instances on a host that are not lost a verdict.
    pub(super) fn judge_instances_on(&mut self, host: HostId, verdict: Verdict) {
        let instances: Vec<InstanceId> = self.instances_on(host).map(|(id, _)| id.clone()).collect();
        for id in instances {
            if let Some(instance) = self.work.instances.get_mut(&id)
                && !matches!(instance.verdict, Verdict::Lost { .. })
            {
                instance.verdict = verdict;
            }
        }
    }

    /// Moves all instances of a host, and the data that slots have there, to the host that takes its place.
    pub(super) fn move_instances(&mut self, old: HostId, new: HostId) {
        let instances: Vec<InstanceId> = self.instances_on(old).map(|(id, _)| id.clone()).collect();
        for id in instances {
            for index in [&mut self.work.by_host, &mut self.work.strict_by_host] {
                if index.remove(&(old, id.clone())).is_some() {
                    index.insert((new, id.clone()));
                }
            }
            if let Some(instance) = self.work.instances.get_mut(&id) {
                instance.host = new;
            }
        }
        let is_home = |slot: &Slot| slot.home == Some(old);
        let at_home: Vec<SlotId> =
            self.work.slots.iter().filter(|(_, slot)| is_home(slot)).map(|(id, _)| id.clone()).collect();
        for id in at_home {
            if let Some(slot) = self.work.slots.get_mut(&id) {
                slot.home = Some(new);
            }
        }
    }

    /// Forgets the strict singletons on a host that began again without a farewell. What runs of them elsewhere, if
    /// another machine took the host's place, ends with their leases.
    pub(super) fn abandon_strict_instances_on(&mut self, host: HostId) {
        let strict = self.strict_instances_on(host).filter(|(_, instance)| instance.may_run());
        let strict: Vec<InstanceId> = strict.map(|(id, _)| id.clone()).collect();
        let lease_over = self.basics.clock + self.longest_lease();
        for id in strict {
            self.work.orphans.insert(id.slot.clone(), lease_over);
            self.forget_instance(&id);
        }
    }

    /// Forgets all instances on a host that is removed. No coordinator hears of them any more: a strict singleton may
    /// run until its lease ends by itself.
    pub(super) fn abandon_instances_on(&mut self, host: HostId) {
        let instances: Vec<InstanceId> = self.instances_on(host).map(|(id, _)| id.clone()).collect();
        let (clock, lease_over) = (self.basics.clock, self.basics.clock + self.longest_lease());
        let may_run = |(_, until): &(&SlotId, &Timestamp)| **until + MAX_SKEW > clock;
        self.work.orphans = self.work.orphans.iter().filter(may_run).map(|(id, until)| (id.clone(), *until)).collect();
        for id in instances {
            if self.work.instances.get(&id).is_some_and(|i| i.spec.strict_singleton && i.may_run()) {
                self.work.orphans.insert(id.slot.clone(), lease_over);
            }
            self.forget_instance(&id);
        }
        let is_home = |slot: &Slot| slot.home == Some(host);
        let homeless: Vec<SlotId> =
            self.work.slots.iter().filter(|(_, slot)| is_home(slot)).map(|(id, _)| id.clone()).collect();
        for id in homeless {
            if let Some(slot) = self.work.slots.get_mut(&id) {
                slot.home = None;
            }
        }
    }

    /// Treats an instance as one that has served for long: for plans of what would be.
    pub(crate) fn suppose_serving(&mut self, id: &InstanceId, now: Timestamp) {
        let instance = self.work.instances.get_mut(id);
        if let Some(instance) = instance.filter(|instance| !instance.observed.phase.is_terminal()) {
            (instance.observed.phase, instance.observed.health) = (Phase::Running, Health::Unchecked);
            (instance.serving_since, instance.proven) = (Some(now), true);
        }
    }

    /// Lets no service of a stack wait for another one: for plans of what would be.
    pub(crate) fn suppose_no_dependencies(&mut self, id: &StackId) {
        let Some(stack) = self.work.stacks.get_mut(id) else { return };
        let waiting = stack.services.iter().filter(|(_, service)| !service.spec.depends_on.is_empty());
        let waiting: Vec<Name> = waiting.map(|(name, _)| name.clone()).collect();
        for name in waiting {
            if let Some(service) = stack.services.get_mut(&name) {
                Arc::make_mut(&mut service.spec).depends_on.clear();
            }
        }
    }
}
