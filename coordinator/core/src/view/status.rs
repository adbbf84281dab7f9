//! How a deployment stands: the change of all services that one revision of a stack changed.
//!
//! It is derived from the state. Only what is not at rest is planned, to learn what is in its way.

use std::collections::BTreeSet;

use common::{
    api::{AfterFailure, DeploymentStatus, Unplaceable},
    id::{ServiceId, StackId},
    instance::{Verdict, Want},
    name::Name,
    rollout::RolloutState,
    spec::StackSpec,
    time::Timestamp,
};

use crate::{
    Plan, State,
    plan::{self, Blocked},
    state::{Service, Stack},
};

/// How the deployment of a stack's revision stands; nothing if there is no such stack.
pub fn deployment(cluster: &State, id: &StackId, revision: u64, now: Timestamp) -> Option<DeploymentStatus> {
    let stack = cluster.stacks().get(id)?;
    let Some(deployment) = Deployment::of(cluster, id, stack, revision) else {
        return Some(DeploymentStatus::Superseded { by: stack.revision });
    };
    Some(deployment.status(now))
}

/// The plan of those services of a stack that are not at rest; the others have nothing in their way.
pub(super) fn plan_of_restless<'a>(
    cluster: &State,
    stacks: impl Iterator<Item = (&'a StackId, &'a Stack)>,
    now: Timestamp,
) -> Plan {
    let restless = |(id, stack): (&StackId, &'a Stack)| {
        let ids = stack.services.iter().map(|(name, service)| (id.service(name.clone()), service));
        let restless = ids.filter(|(id, service)| !is_at_rest(cluster, id, service, now));
        restless.map(|(id, _)| id).collect::<Vec<ServiceId>>()
    };
    plan::plan_services(cluster, stacks.flat_map(restless).collect(), now)
}

fn is_at_rest(cluster: &State, id: &ServiceId, service: &Service, now: Timestamp) -> bool {
    let mut hosts = cluster.instances_of(id).map(|(_, instance)| instance.host);
    is_whole(cluster, id, service, now) && !service.rebalancing && !hosts.any(|host| cluster.is_draining(host))
}

/// Whether the change of a service is done and every slot is as it should be.
fn is_whole(cluster: &State, id: &ServiceId, service: &Service, now: Timestamp) -> bool {
    let serves = |number: &u32| {
        let slot = id.slot(*number);
        let keeper = cluster.keeper(&slot).filter(|(_, instance)| instance.verdict == Verdict::Reachable);
        cluster.has_ended(&slot, service.task()) || keeper.is_some_and(|(_, i)| i.is_settled(now))
    };
    // Whether a run of a schedule has begun is another matter.
    let is_as_wanted = || service.spec.cron.is_some() || plan::wanted_slots(cluster, id, service).iter().all(serves);
    service.rollout.state == RolloutState::Done && is_as_wanted()
}

/// What one revision of a stack changed.
struct Deployment<'a> {
    cluster: &'a State,
    id: &'a StackId,
    stack: &'a Stack,
    revision: u64,
    /// What the stack was to be.
    spec: &'a StackSpec,
    changed: Vec<&'a Name>,
    removed: Vec<&'a Name>,
}

impl<'a> Deployment<'a> {
    fn of(cluster: &'a State, id: &'a StackId, stack: &'a Stack, revision: u64) -> Option<Deployment<'a>> {
        let at = |wanted: u64| stack.history.iter().find(|kept| kept.revision == wanted).map(|kept| &*kept.spec);
        let spec = at(revision)?;
        let before = revision.checked_sub(1).and_then(at);
        let is_changed = |name: &&Name| before.is_none_or(|b| b.services.get(*name) != spec.services.get(*name));
        let is_removed = |name: &&Name| !spec.services.contains_key(*name);
        let changed = spec.services.keys().filter(is_changed).collect();
        let removed = before.into_iter().flat_map(|before| before.services.keys()).filter(is_removed).collect();
        Some(Deployment { cluster, id, stack, revision, spec, changed, removed })
    }

    fn services(&self) -> impl Iterator<Item = (ServiceId, &'a Service)> {
        let service = |name: &&Name| Some((self.id.service((*name).clone()), self.stack.services.get(*name)?));
        self.changed.iter().filter_map(service)
    }

    fn status(&self, now: Timestamp) -> DeploymentStatus {
        if let Some(failed) = self.failure() {
            return failed;
        }
        let goes_on = |name: &&Name| self.stack.spec.services.get(*name) == self.spec.services.get(*name);
        if self.stack.removing || !self.changed.iter().all(goes_on) {
            return DeploymentStatus::Superseded { by: self.stack.revision };
        }
        let unfinished: Vec<(ServiceId, &Service)> =
            self.services().filter(|(id, service)| !is_whole(self.cluster, id, service, now)).collect();
        let is_left = |name: &&Name| {
            let id = self.id.service((*name).clone());
            self.cluster.instances_of(&id).any(|(_, instance)| instance.desired.want <= Want::Run)
        };
        if unfinished.is_empty() && !self.removed.iter().any(is_left) {
            return DeploymentStatus::Done;
        }
        let canary = |(id, service): &(ServiceId, &Service)| {
            let stands = plan::canary_stands(service, self.cluster.instances_of(id), now);
            stands.is_some_and(|canary| canary.count >= canary.wanted)
        };
        if let Some((first, _)) = unfinished.first().filter(|_| unfinished.iter().all(canary)) {
            return DeploymentStatus::WaitingForPromotion { service: first.service.clone() };
        }
        let reasons = self.unplaced(unfinished.into_iter().map(|(id, _)| id).collect(), now);
        if reasons.is_empty() { DeploymentStatus::Progressing } else { DeploymentStatus::Blocked { reasons } }
    }

    /// What keeps services from having all their instances, but that they wait for one another.
    fn unplaced(&self, services: BTreeSet<ServiceId>, now: Timestamp) -> Vec<Unplaceable> {
        let blocked = plan::plan_services(self.cluster, services, now).blocked.into_iter();
        let reasons = blocked.flat_map(|(id, reasons)| reasons.into_iter().map(move |reason| (id.clone(), reason)));
        let unplaced = reasons.filter(|(_, reason)| !matches!(reason, Blocked::Awaits(_)));
        unplaced.map(|(id, reason)| Unplaceable { service: id.service, reason: reason.to_string() }).collect()
    }

    /// The service whose change failed, or which a changed one waits for in vain.
    fn failure(&self) -> Option<DeploymentStatus> {
        let own = self.services().filter(|(_, service)| service.rollout.deployment == self.revision);
        let awaited = self.services().filter_map(|(id, service)| {
            let on = self.cluster.awaited(&id, service).filter(|awaited| awaited.failed.is_some())?.on;
            Some((self.id.service(on.clone()), self.stack.services.get(&on)?))
        });
        let failed = own.filter(|(_, service)| has_failed(service)).chain(awaited);
        // The cause comes before what failed because of it.
        let (id, service) = failed.min_by_key(|(_, service)| service.rollout.because_of.is_some())?;
        let rollout = &service.rollout;
        let then = match rollout.state {
            RolloutState::Failed => AfterFailure::Stays,
            RolloutState::Paused => AfterFailure::Paused,
            RolloutState::Rolling | RolloutState::Done if rollout.back_from.is_some() => {
                AfterFailure::WentBack { to: service.revision }
            }
            RolloutState::Rolling | RolloutState::Done => AfterFailure::Stays,
        };
        let (mut why, mut output) = (rollout.why.clone(), rollout.output.clone());
        // The planner has not noted it on the rollout yet.
        if why.is_empty()
            && let Some((number, reason)) = self.cluster.failed_slots(&id, service).next()
        {
            let slot = id.slot(number);
            let last =
                self.cluster.instances_of_slot(&slot).filter(|(_, instance)| instance.is_current(service)).last();
            why = format!("slot {number}: {reason}");
            output = last.map(|(_, instance)| instance.observed.output.clone()).unwrap_or_default();
        }
        Some(DeploymentStatus::Failed { service: id.service.clone(), why, output, then })
    }
}

fn has_failed(service: &Service) -> bool {
    let rollout = &service.rollout;
    match rollout.state {
        RolloutState::Failed => true,
        RolloutState::Paused => !rollout.why.is_empty(),
        RolloutState::Rolling | RolloutState::Done => rollout.back_from.is_some(),
    }
}

#[cfg(test)]
mod tests;
