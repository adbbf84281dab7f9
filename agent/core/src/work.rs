//! All that one action takes, as a value: the instance as its host runs it, what the action waits for, what must be in
//! its place before, and whether the instance leaves anything behind.

use std::collections::{BTreeMap, BTreeSet};

use common::{
    assignment::{AssignedInstance, Assignment},
    id::InstanceId,
    part::{Part, PartId},
    spec::template::Node,
};

use crate::{
    action::{Action, ActionResult},
    network::Resident,
    observed::Container,
    wait::Awaited,
};

/// All that one action takes.
#[derive(Debug, Clone, PartialEq)]
pub struct Work {
    /// The instance, with its templates filled in for this host; none if it is not assigned any more.
    pub instance: Option<AssignedInstance>,
    /// The change that the action waits for.
    pub awaits: Option<Awaited>,
    /// The things that must be in their places before the action.
    pub needs: Vec<Need>,
    /// Whether the action removes the last container of its instance: the configs, the secrets and the lease go with it.
    pub is_last: bool,
}

/// A thing that must be on the host before a container is made or started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// The program that holds the network of an instance.
    Holder,
    /// The configs and secrets of the instance.
    Files,
    /// The file of the instance's lease, and the program that guards it.
    Lease,
}

impl Work {
    /// Renders the work of an action; an error is the result of an action that cannot be done.
    pub fn of(
        action: &Action,
        assignment: &Assignment,
        containers: &BTreeMap<PartId, Container>,
        node: &Node,
    ) -> Result<Work, ActionResult> {
        let part = action.part();
        let assigned = assignment.instances.iter().find(|instance| instance.id == part.instance);
        let instance = match assigned.map(|instance| instance.clone().filled(node)) {
            Some(Err(why)) if matches!(action, Action::Create(_)) => return Err(ActionResult::Impossible(why)),
            // Templates matter only when a container is made.
            Some(Err(_)) => assigned.cloned(),
            Some(Ok(filled)) => Some(filled),
            None => None,
        };
        let awaits = match action {
            Action::Start { .. } => {
                let resident = containers.get(part).and_then(|container| Resident::of(part, container));
                resident.map(|(address, resident)| Awaited::Admitted(address, resident))
            }
            Action::Stop { .. } => Some(Awaited::Unlisted(part.instance.clone())),
            Action::Prepare(_) | Action::Create(_) | Action::Remove { .. } => None,
        };
        let needs = instance.as_ref().map_or_else(Vec::new, |instance| needs(action, instance));
        let is_last = matches!(action, Action::Remove { .. }) && is_last(&part.part, instance.as_ref());
        Ok(Work { instance, awaits, needs, is_last })
    }
}

fn needs(action: &Action, instance: &AssignedInstance) -> Vec<Need> {
    match action {
        Action::Stop { .. } | Action::Remove { .. } => Vec::new(),
        _ if action.part().part == Part::Network => vec![Need::Holder],
        _ if instance.spec.strict_singleton => vec![Need::Files, Need::Lease],
        Action::Prepare(_) | Action::Create(_) | Action::Start { .. } => vec![Need::Files],
    }
}

/// Whether a part is the last of its instance to be removed.
fn is_last(part: &Part, instance: Option<&AssignedInstance>) -> bool {
    match part {
        Part::Network => true,
        Part::Main => instance.is_none_or(|instance| !instance.spec.has_network_part()),
        Part::Step(_) | Part::Sidekick(_) => false,
    }
}

/// The instances whose configs, secrets and leases stay on the host; those of all others are remains of an earlier
/// process.
pub fn kept(assignment: &Assignment, containers: &BTreeMap<PartId, Container>) -> BTreeSet<InstanceId> {
    let assigned = assignment.instances.iter().map(|instance| &instance.id);
    assigned.chain(containers.keys().map(|id| &id.instance)).cloned().collect()
}

#[cfg(test)]
mod tests;
