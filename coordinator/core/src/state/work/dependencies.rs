//! What a service waits for before it changes: that the services that it depends on have reached their conditions.
//!
//! The order holds for every deployment. While the change of a dependency goes on, the dependant's own change waits,
//! and what served before goes on serving.

use std::collections::BTreeSet;

use common::{
    id::ServiceId,
    instance::{Health, Phase},
    name::Name,
    part::Part,
    rollout::RolloutState,
    spec::{Condition, RestartCondition},
};

use super::{Instance, Service, State, Version};
use crate::{plan, view};

/// A dependency that has not reached its condition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Awaited {
    /// The service.
    pub on: Name,
    /// What it is to reach.
    pub condition: Condition,
    /// How many of its slots have.
    pub reached: usize,
    /// How many there are.
    pub wanted: usize,
    /// Why it will not by itself, if its change has failed or was paused.
    pub failed: Option<String>,
}

impl State {
    /// What the change of a service to its revision waits for; nothing once the change is over. The way back to what
    /// served waits for nothing.
    pub fn awaited(&self, id: &ServiceId, service: &Service) -> Option<Awaited> {
        if service.rollout.state != RolloutState::Rolling || service.is_at_stable() {
            return None;
        }
        self.unreached(id, service, true).find(|awaited| self.holds_up(id, awaited))
    }

    /// Whether another service of its stack waits for a service's end. What never ends by itself is waited for in vain,
    /// and its own change goes on all the same.
    pub fn is_to_complete(&self, id: &ServiceId) -> bool {
        let ends = |service: &Service| service.spec.restart_of(&Part::Main).condition != RestartCondition::Any;
        let waits = |service: &Service| service.spec.depends_on.get(&id.service) == Some(&Condition::Completed);
        self.service(id).is_some_and(ends)
            && self.work.stacks.get(&id.stack).is_some_and(|stack| stack.services.values().any(waits))
    }

    /// What a service waits for before its first instance: that all that it depends on is there now.
    pub fn awaited_at_first(&self, id: &ServiceId, service: &Service) -> Option<Awaited> {
        let is_changing = service.rollout.state == RolloutState::Rolling;
        self.unreached(id, service, is_changing).next()
    }

    /// Whether a dependency that is not where it should be holds up changes. One that came to serve with its revision
    /// and is unwell since does not.
    fn holds_up(&self, id: &ServiceId, awaited: &Awaited) -> bool {
        let on = self.service(&id.stack.service(awaited.on.clone()));
        awaited.condition == Condition::Completed || on.is_some_and(|on| on.rollout.state != RolloutState::Done)
    }

    /// The dependencies that are not where they should be; `anew`: with the revision that they change to.
    fn unreached<'a>(
        &'a self,
        id: &'a ServiceId,
        service: &'a Service,
        anew: bool,
    ) -> impl Iterator<Item = Awaited> + 'a {
        service.spec.depends_on.iter().filter_map(move |(name, condition)| {
            let id = id.stack.service(name.clone());
            let on = self.service(&id)?;
            let wanted = view::wanted(self, &id, on);
            let reached = self.reached(&id, on, *condition, anew);
            let failed = || self.why_failed(&id, on, *condition);
            (reached < wanted).then(|| Awaited {
                on: name.clone(),
                condition: *condition,
                reached,
                wanted,
                failed: failed(),
            })
        })
    }

    /// In how many slots a service has reached a condition.
    fn reached(&self, id: &ServiceId, service: &Service, condition: Condition, anew: bool) -> usize {
        let met = |instance: &Instance| match condition {
            Condition::Started => instance.observed.phase == Phase::Running,
            Condition::Healthy => instance.observed.is_serving() && instance.observed.health != Health::Starting,
            Condition::Completed => false,
        };
        if condition == Condition::Completed {
            return self.ended_slots(id, service);
        }
        let counts = |i: &Instance| i.fills_slot() && met(i) && (!anew || i.is_current(service));
        let there = self.instances_of(id).filter(|(_, instance)| counts(instance)).map(|(id, _)| id.slot.slot);
        let has_begun = |number: &u32| self.has_ended_well(&id.slot(*number), service.task());
        let over = plan::wanted_slots(self, id, service).into_iter().filter(has_begun);
        let over = over.filter(|_| condition == Condition::Started);
        there.chain(over).collect::<BTreeSet<u32>>().len()
    }

    fn why_failed(&self, id: &ServiceId, service: &Service, condition: Condition) -> Option<String> {
        let rollout = &service.rollout;
        if matches!(rollout.state, RolloutState::Failed | RolloutState::Paused) {
            return Some(rollout.why.clone());
        }
        let failed = || self.failed_slots(id, service).next().map(|(_, why)| why.to_owned());
        (condition == Condition::Completed).then(failed).flatten()
    }

    /// What instances are made from that take the place of others, or fill a slot, while nothing more is to be
    /// changed: the last revision that served whole.
    pub fn held_back<'a>(&self, id: &ServiceId, service: &'a Service) -> Option<&'a Version> {
        let stable = service.stable.as_ref().filter(|stable| stable.revision != service.revision)?;
        let is_held = || service.is_held() || self.awaited(id, service).is_some();
        (stable.may_stand_in(&service.spec) && is_held()).then_some(stable)
    }

    /// Services whose change waits for a service, directly or by others that wait for it.
    pub(in crate::state) fn waiting_for(&self, id: &ServiceId) -> Vec<ServiceId> {
        let Some(stack) = self.work.stacks.get(&id.stack) else { return Vec::new() };
        let mut names = vec![id.service.clone()];
        loop {
            let waits = |(name, service): &(&Name, &Service)| {
                let id = id.stack.service((*name).clone());
                let on_those = || {
                    let mut unreached =
                        self.unreached(&id, service, true).filter(|awaited| self.holds_up(&id, awaited));
                    unreached.any(|awaited| names.contains(&awaited.on))
                };
                let changes = service.rollout.state == RolloutState::Rolling && !service.is_at_stable();
                !names.contains(name) && changes && on_those()
            };
            let Some((next, _)) = stack.services.iter().find(waits) else { break };
            let next = next.clone();
            names.push(next);
        }
        names.into_iter().skip(1).map(|name| id.stack.service(name)).collect()
    }
}
