//! What emptying a host does, and what rebalancing does: found by trying it on a copy of the state.

use common::{
    api::{DrainPlan, DrainedInstance, MovedInstance},
    host::Availability,
    id::{HostId, InstanceId, ServiceId},
    instance::{Health, Phase},
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

/// Which instances rebalancing these services would move now.
pub fn rebalance_plan(cluster: &Cluster, services: &[ServiceId], now: Timestamp) -> Vec<MovedInstance> {
    let mut after = cluster.clone();
    // What is about to serve does not keep the others from being looked at.
    for id in services.iter().flat_map(|service| cluster.instances_of(service)).map(|(id, _)| id) {
        serves(&mut after, id, now);
    }
    let services = services.to_vec();
    after.apply(&Batch { at: now, proposals: vec![Command::Rebalance { services }.into()] });
    let name = |host: HostId| cluster.hosts.get(&host).map(|host| host.name.clone());
    let mut moves = Vec::new();
    // One instance of a service at a time; what is placed counts as serving for the next.
    loop {
        let places = plan::plan(&after, now).commands.into_iter().filter_map(|command| match command {
            Command::Place(placement) => placement.replaces.clone().map(|replaced| (placement, replaced)),
            _ => None,
        });
        let places: Vec<_> = places.filter(|(placement, _)| after.is_rebalancing(&placement.slot.service)).collect();
        if places.is_empty() {
            return moves;
        }
        for (placement, replaced) in places {
            let Some(before) = after.instances.get(&replaced).cloned() else { continue };
            let from_to = name(before.host).zip(name(placement.host));
            moves.extend(from_to.map(|(from, to)| MovedInstance { id: replaced.clone(), from, to }));
            let successor = placement.slot.instance(placement.expect_incarnation + 1);
            after.apply(&Batch { at: now, proposals: vec![Command::Place(placement).into()] });
            after.forget_instance(&replaced);
            serves(&mut after, &successor, now);
        }
    }
}

/// Takes an instance for one that has served for long.
fn serves(cluster: &mut Cluster, id: &InstanceId, now: Timestamp) {
    if let Some(instance) = cluster.instances.get_mut(id).filter(|instance| !instance.observed.phase.is_terminal()) {
        (instance.observed.phase, instance.observed.health) = (Phase::Running, Health::Unchecked);
        (instance.serving_since, instance.proven) = (Some(now), true);
    }
}
