//! What emptying a host does.

use common::{
    api::{DrainPlan, DrainedInstance},
    host::Availability,
    id::HostId,
    time::Timestamp,
};

use crate::{
    Cluster,
    command::{Batch, Command},
    plan,
};

/// What emptying a host would do now, found by trying it on a copy of the state.
pub fn drain_plan(cluster: &Cluster, id: HostId, deadline: Timestamp, now: Timestamp) -> Option<DrainPlan> {
    let host = cluster.hosts.get(&id)?.name.clone();
    let mut after = cluster.clone();
    let availability = Availability::Draining { deadline };
    let command = Command::SetAvailability { host: id, availability };
    after.apply(&Batch { at: now, proposals: vec![command.into()] });
    let mut instances: Vec<DrainedInstance> = cluster
        .instances_on(id)
        .filter(|(_, instance)| instance.fills_slot())
        .map(|(id, _)| DrainedInstance { id: id.clone(), to: None, notes: Vec::new() })
        .collect();
    // Each pass moves as many as may be moved at a time; what is placed counts as serving for the next.
    loop {
        let plan = plan::plan(&after, now);
        let places: Vec<Command> =
            plan.commands.iter().filter(|command| matches!(command, Command::Place(_))).cloned().collect();
        let mut moved = false;
        for command in places {
            let Command::Place(placement) = &command else { continue };
            let replaced = placement.replaces.clone();
            let Some(entry) = instances.iter_mut().find(|entry| Some(&entry.id) == replaced.as_ref()) else { continue };
            entry.to = cluster.hosts.get(&placement.host).map(|host| host.name.clone());
            after.apply(&Batch { at: now, proposals: vec![command.clone().into()] });
            after.instances.remove(&entry.id);
            moved = true;
        }
        if !moved {
            for entry in instances.iter_mut().filter(|entry| entry.to.is_none()) {
                entry.notes = plan.blocked.get(entry.id.service()).cloned().unwrap_or_default();
            }
            return Some(DrainPlan { host, instances });
        }
    }
}
