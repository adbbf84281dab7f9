//! One service: the right number of instances, all of the current revision.

use common::{
    id::{InstanceId, ServiceId, SlotId},
    instance::{Health, Phase, StopReason, Verdict, Want},
    spec::{Condition, RestartCondition},
};

use super::{HostTable, Moment, Plan, replaced_at};
use crate::{
    Cluster,
    cluster::{Instance, Service},
    command::{Command, Placement},
};

pub(super) fn plan_service(
    cluster: &Cluster,
    id: &ServiceId,
    service: &Service,
    at: Moment,
    hosts: &mut HostTable,
    plan: &mut Plan,
) {
    let instances: Vec<(&InstanceId, &Instance)> = cluster.instances_of(id).collect();
    for (instance_id, _) in instances.iter().filter(|(_, instance)| instance.fills_slot()) {
        if instance_id.slot.slot > service.spec.replicas {
            plan.desire(instance_id, Want::Purge, StopReason::ScaledDown);
        }
    }
    purge_ended(&instances, plan);
    pin_image(id, service, &instances, plan);
    let mut whole = true;
    for number in 1..=service.spec.replicas {
        let slot = id.slot(number);
        let current = instances.iter().copied().find(|(id, i)| id.slot == slot && i.fills_slot());
        whole &= plan_slot(cluster, service, &slot, current, at, hosts, plan);
    }
    replace_outdated(service, &instances, whole, plan);
}

/// Fills the slot if it needs to be; whether an instance serves in it, or has ended well.
fn plan_slot(
    cluster: &Cluster,
    service: &Service,
    slot: &SlotId,
    current: Option<(&InstanceId, &Instance)>,
    at: Moment,
    hosts: &mut HostTable,
    plan: &mut Plan,
) -> bool {
    let mut replaces = None;
    if let Some((id, instance)) = current {
        match instance.verdict {
            Verdict::Unknown { since } if replaced_at(cluster, since, at) <= at.now => replaces = Some(id.clone()),
            Verdict::Unknown { since } => {
                plan.wake(replaced_at(cluster, since, at));
                return false;
            }
            Verdict::Reachable | Verdict::Lost { .. } => {
                if has_failed(instance) {
                    plan.desire(id, Want::Stop, StopReason::Ended);
                }
                return instance.observed.is_serving() || instance.observed.phase == Phase::Completed;
            }
        }
    }
    let record = cluster.slots.get(slot);
    if let Some(record) = record.filter(|record| record.retry_at > at.now) {
        plan.wake(record.retry_at);
        plan.block(
            &slot.service,
            format!(
                "slot {} failed {} times in a row and is tried again at {}: {}",
                slot.slot, record.failures, record.retry_at, record.last_failure
            ),
        );
        return false;
    }
    if record.is_none()
        && let Some(reason) = waits_for(cluster, &slot.service, service)
    {
        plan.block(&slot.service, reason);
        return false;
    }
    let incarnation = cluster.incarnation(slot);
    match hosts.choose(slot, &service.spec, incarnation) {
        Ok(choice) => plan.commands.push(Command::Place(Box::new(Placement {
            slot: slot.clone(),
            expect_incarnation: incarnation,
            expect_revision: service.revision,
            host: choice.host,
            ports: choice.ports,
            replaces,
        }))),
        Err(reasons) => reasons.into_iter().for_each(|reason| plan.block(&slot.service, reason)),
    }
    false
}

/// An instance that its host gave up on and that the service wants to run.
fn has_failed(instance: &Instance) -> bool {
    match instance.observed.phase {
        Phase::Rejected | Phase::Stopped | Phase::Purged => true,
        Phase::Failed => instance.spec.restart.condition != RestartCondition::None,
        _ => false,
    }
}

/// Ended instances are kept, with their output, until a newer one of the slot runs or has ended.
fn purge_ended(instances: &[(&InstanceId, &Instance)], plan: &mut Plan) {
    for (id, _) in instances.iter().filter(|(_, instance)| instance.desired.want == Want::Stop) {
        let newer = |(other, i): &&(&InstanceId, &Instance)| {
            other.slot == id.slot && other.incarnation > id.incarnation && i.observed.phase >= Phase::Running
        };
        if instances.iter().any(|other| newer(&other)) {
            plan.desire(id, Want::Purge, StopReason::Ended);
        }
    }
}

/// The first host that pulled a tag decides what it means for the whole revision.
fn pin_image(id: &ServiceId, service: &Service, instances: &[(&InstanceId, &Instance)], plan: &mut Plan) {
    if service.digest.is_some() || service.spec.image.contains('@') {
        return;
    }
    let seen = instances
        .iter()
        .filter(|(_, i)| i.revision == service.revision)
        .find_map(|(_, i)| i.observed.image_digest.clone());
    if let Some(digest) = seen {
        plan.commands.push(Command::PinImage { service: id.clone(), expect_revision: service.revision, digest });
    }
}

/// Instances of an older revision are stopped one at a time, and only while all others serve.
fn replace_outdated(service: &Service, instances: &[(&InstanceId, &Instance)], whole: bool, plan: &mut Plan) {
    let outdated = |(id, i): &&(&InstanceId, &Instance)| {
        i.fills_slot()
            && i.revision != service.revision
            && i.verdict == Verdict::Reachable
            && id.slot.slot <= service.spec.replicas
    };
    let ended = |(_, i): &&(&InstanceId, &Instance)| !i.observed.is_serving();
    let next =
        instances.iter().filter(outdated).find(ended).or_else(|| instances.iter().filter(|_| whole).find(outdated));
    if let Some((id, _)) = next {
        plan.desire(id, Want::Purge, StopReason::Superseded);
    }
}

/// What a service that has never run waits for.
fn waits_for(cluster: &Cluster, id: &ServiceId, service: &Service) -> Option<String> {
    service.spec.depends_on.iter().find_map(|(name, condition)| {
        let dependency_id = id.stack.service(name.clone());
        let replicas = cluster.service(&dependency_id)?.spec.replicas as usize;
        let met = |instance: &Instance| match condition {
            Condition::Started => instance.observed.phase == Phase::Running,
            Condition::Healthy => instance.observed.is_serving() && instance.observed.health != Health::Starting,
            Condition::Completed => instance.observed.phase == Phase::Completed,
        };
        let count = cluster.instances_of(&dependency_id).filter(|(_, i)| i.fills_slot() && met(i)).count();
        let word = match condition {
            Condition::Started => "running",
            Condition::Healthy => "healthy",
            Condition::Completed => "completed",
        };
        (count < replicas).then(|| format!("it waits for {name}: {count} of {replicas} {word}"))
    })
}
