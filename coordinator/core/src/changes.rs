//! What differs between two states. The maps of a state share what did not change, so looking for differences costs
//! what changed, not what there is.
//!
//! The planner reads them to find services to plan again, sessions to find hosts to send an assignment to, and the
//! directory to follow names.

use std::collections::BTreeSet;

use common::{
    file::FileId,
    id::{HostId, InstanceId, MemberId, SlotId, StackId},
};
use imbl::{OrdMap, ordmap::DiffItem};

use crate::{
    State,
    state::{FileRecord, Host, Instance, Member, Slot, Stack},
};

/// What differs between two states.
#[derive(Debug, Clone, Copy)]
pub struct Changes<'a> {
    before: &'a State,
    after: &'a State,
}

/// A value that was added, changed or removed.
#[derive(Debug, PartialEq)]
pub struct Change<'a, K, V> {
    /// What it is kept under.
    pub key: &'a K,
    /// What it was; none if it was added.
    pub before: Option<&'a V>,
    /// What it is; none if it was removed.
    pub after: Option<&'a V>,
}

impl<'a, K, V> Change<'a, K, V> {
    /// What it was and what it is.
    pub fn both(&self) -> impl Iterator<Item = &'a V> + use<'a, K, V> {
        self.before.into_iter().chain(self.after)
    }
}

/// The hosts whose assignment, or list of coordinators, may differ.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Touched {
    /// Every one.
    All,
    /// These.
    Hosts(BTreeSet<HostId>),
}

impl<'a> Changes<'a> {
    /// The differences between two states of one cluster.
    pub fn between(before: &'a State, after: &'a State) -> Changes<'a> {
        Changes { before, after }
    }

    /// Stacks and their services.
    pub fn stacks(self) -> impl Iterator<Item = Change<'a, StackId, Stack>> {
        diff(self.before.stacks(), self.after.stacks())
    }

    /// Slots.
    pub fn slots(self) -> impl Iterator<Item = Change<'a, SlotId, Slot>> {
        diff(self.before.slots(), self.after.slots())
    }

    /// Instances.
    pub fn instances(self) -> impl Iterator<Item = Change<'a, InstanceId, Instance>> {
        diff(self.before.instances(), self.after.instances())
    }

    /// Hosts.
    pub fn hosts(self) -> impl Iterator<Item = Change<'a, HostId, Host>> {
        diff(self.before.hosts(), self.after.hosts())
    }

    /// Coordinators.
    pub fn members(self) -> impl Iterator<Item = Change<'a, MemberId, Member>> {
        diff(self.before.members(), self.after.members())
    }

    /// Configs and secrets.
    pub fn files(self) -> impl Iterator<Item = Change<'a, FileId, FileRecord>> {
        diff(self.before.files(), self.after.files())
    }

    /// Whether a member or a host was removed, added or changed in what it may do.
    pub fn concern_peers(self) -> bool {
        !self.before.members().ptr_eq(self.after.members())
            || !self.before.removed_hosts().ptr_eq(self.after.removed_hosts())
    }

    /// Whether anything differs that a plan depends on.
    pub fn concern_the_plan(self) -> bool {
        let (before, after) = (self.before, self.after);
        !(before.stacks().ptr_eq(after.stacks())
            && before.hosts().ptr_eq(after.hosts())
            && before.instances().ptr_eq(after.instances())
            && before.slots().ptr_eq(after.slots())
            && before.members().ptr_eq(after.members())
            && before.settings() == after.settings())
    }

    /// The hosts whose [`assignment`](crate::view::assignment), or list of coordinators, may differ. Deriving the
    /// assignments of all hosts after each change would take time in proportion to all that runs.
    pub fn touched(self) -> Touched {
        let (before, after) = (self.before, self.after);
        let same_for_all = before.members() == after.members()
            && before.registries() == after.registries()
            && before.identity().is_some() == after.identity().is_some();
        if !same_for_all {
            return Touched::All;
        }
        let has_new_subnet = |change: &Change<'_, HostId, Host>| {
            change.before.map(|host| host.subnet) != change.after.map(|host| host.subnet)
        };
        let hosts = self.hosts().filter(has_new_subnet).map(|change| *change.key);
        let with_instances = self.instances().flat_map(|change| change.both().map(|instance| instance.host));
        // The digest that a tag was pinned to.
        let with_services = self.stacks().flat_map(|change| after.instances_of_stack(change.key));
        let with_services = with_services.map(|(_, instance)| instance.host);
        Touched::Hosts(hosts.chain(with_instances).chain(with_services).collect())
    }
}

/// The differences of two maps, in the order of their keys.
pub(crate) fn diff<'a, K: Ord, V: PartialEq>(
    before: &'a OrdMap<K, V>,
    after: &'a OrdMap<K, V>,
) -> impl Iterator<Item = Change<'a, K, V>> {
    before.diff(after).map(|item| match item {
        DiffItem::Add(key, value) => Change { key, before: None, after: Some(value) },
        DiffItem::Update { old: (_, old), new: (key, new) } => Change { key, before: Some(old), after: Some(new) },
        DiffItem::Remove(key, value) => Change { key, before: Some(value), after: None },
    })
}

#[cfg(test)]
mod tests;
