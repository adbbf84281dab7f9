//! The change to a new revision, and away from hosts that are emptied: a few slots at a time, each
//! served by the old instance until the new one has shown that it can.
//!
//! Nothing is counted over time: each pass looks at the instances that there are.

use common::{
    host::Availability,
    id::InstanceId,
    instance::{Health, Phase, StopReason, Want},
    rollout::RolloutState,
    spec::{FailureAction, Mode, UpdateOrder},
    time::Timestamp,
};

use super::{
    Blocked, Hold, Plan,
    place::Placer,
    scale::{Listed, PlaceRequest, Revision, Standing, Subject},
};
use crate::{
    command::Command,
    state::{Instance, Service},
};

/// Moves on from how the slots stand.
pub(super) fn advance<'a>(subject: &Subject<'a>, standings: &[Standing<'_>], placer: &mut Placer<'a>, plan: &mut Plan) {
    let is_rolling = subject.service.rollout.state == RolloutState::Rolling;
    if is_rolling && let Some(end) = conclude(subject, standings, plan) {
        return plan.commands.push(end);
    }
    if subject.service.rebalancing {
        rebalance(subject, unsettled(standings), placer, plan);
    }
    let mut may_begin = Moves::at_once(subject, standings, plan);
    if is_rolling {
        promote(subject, plan);
    }
    for standing in standings {
        let Standing::ToMove(id, instance) = standing else { continue };
        match subject.drained_until(instance) {
            Some(deadline) if deadline <= subject.at.now => plan.desire(id, Want::Purge, StopReason::Drained),
            Some(deadline) => {
                plan.wake(deadline);
                if may_begin.drains > 0 && drain(subject, (id, instance), placer, plan) {
                    may_begin.drains -= 1;
                }
            }
            None if is_rolling && may_begin.updates > 0 => {
                may_begin.updates -= usize::from(update(subject, (id, instance), placer, plan));
            }
            None => {}
        }
    }
}

/// What ends or stops a rollout, if anything does.
fn conclude(subject: &Subject<'_>, standings: &[Standing<'_>], plan: &mut Plan) -> Option<Command> {
    if let Some(command) = judge(subject, standings, plan) {
        return Some(command);
    }
    // So many may fail, or all: they are replaced all the same.
    for (other, _) in standings.iter().flat_map(others_beside_failures) {
        plan.desire(other, Want::Purge, StopReason::Superseded);
    }
    is_done(subject, standings).then(|| subject.move_to(RolloutState::Done, String::new()))
}

/// How many instances may begin to leave now.
struct Moves {
    /// For their host's sake.
    drains: usize,
    /// For a newer revision.
    updates: usize,
}

impl Moves {
    fn at_once(subject: &Subject<'_>, standings: &[Standing<'_>], plan: &mut Plan) -> Moves {
        let at_a_time = match subject.service.spec.update.parallelism as usize {
            0 => standings.len(),
            some => some,
        };
        let moving = standings.iter().filter(|s| matches!(s, Standing::Unsettled { moving: true })).count();
        let updates = if pauses_between(subject, plan) { 0 } else { at_a_time.saturating_sub(unsettled(standings)) };
        let updates = updates.min(subject.room.get());
        Moves { drains: at_a_time.saturating_sub(moving), updates }
    }
}

/// How many slots nothing serves in, or not long enough yet.
fn unsettled(standings: &[Standing<'_>]) -> usize {
    standings.iter().filter(|standing| matches!(standing, Standing::Unsettled { .. })).count()
}

/// Lets the others follow a canary whose time is over.
fn promote(subject: &Subject<'_>, plan: &mut Plan) {
    let canary = canary_stands(subject.service, subject.instances.iter().copied(), subject.at.now);
    match canary.and_then(|canary| canary.promote_at) {
        Some(at) if at <= subject.at.now => {
            let (service, expect_revision) = (subject.id.clone(), subject.service.revision);
            plan.commands.push(Command::Promote { service, expect_revision });
        }
        Some(at) => plan.wake(at),
        None => {}
    }
}

/// Moves one instance to a host that suits it better, if all others serve; ends it if there is none to move.
fn rebalance<'a>(subject: &Subject<'a>, unsettled: usize, placer: &mut Placer<'a>, plan: &mut Plan) {
    if subject.service.stays().is_some() {
        return plan.commands.push(Command::EndRebalance(subject.id.clone()));
    }
    let filling: Vec<_> = subject.instances.iter().filter(|(_, i)| i.fills_slot()).collect();
    let moving = filling.windows(2).any(|pair| pair[0].0.slot == pair[1].0.slot);
    if unsettled > 0 || moving {
        return;
    }
    let mut waits = false;
    for (id, instance) in filling {
        if !instance.observed.is_serving() || !placer.would_be_better_off(instance) {
            continue;
        }
        if subject.backs_off(&id.slot, subject.service.revision, plan) {
            waits = true;
        } else if subject.place(&PlaceRequest::successor(id, instance, Revision::Target), placer, plan).is_ok() {
            return;
        }
    }
    if !waits {
        plan.commands.push(Command::EndRebalance(subject.id.clone()));
    }
}

/// How the first instances of a revision stand.
pub(crate) struct CanaryStands {
    /// How many there should be.
    pub(crate) wanted: usize,
    /// How many there are.
    pub(crate) begun: usize,
    /// How many have served long enough to count.
    pub(crate) count: usize,
    /// When the others follow by themselves, once all of these count.
    pub(crate) promote_at: Option<Timestamp>,
}

/// How a service's canary stands, while the others do not follow it.
pub(crate) fn canary_stands<'a>(
    service: &Service,
    instances: impl Iterator<Item = (&'a InstanceId, &'a Instance)>,
    now: Timestamp,
) -> Option<CanaryStands> {
    let canary = service.canary()?;
    let wanted = canary.instances as usize;
    let first: Vec<&Instance> = instances.map(|(_, i)| i).filter(|i| i.fills_slot() && i.is_current(service)).collect();
    let settled: Vec<&&Instance> = first.iter().filter(|i| i.is_settled(now)).collect();
    let last = settled.iter().filter_map(|i| i.settles_at()).max().filter(|_| settled.len() >= wanted);
    let promote_at = last.zip(canary.promote_after).map(|(settled, after)| settled + after);
    Some(CanaryStands { wanted, begun: first.len(), count: settled.len(), promote_at })
}

/// What fills slots whose task has failed for good.
fn others_beside_failures<'a, 'b>(standing: &'b Standing<'a>) -> impl Iterator<Item = &'b Listed<'a>> {
    let others = match standing {
        Standing::Failed { others, .. } => others.as_slice(),
        _ => &[],
    };
    others.iter()
}

/// What follows if more slots have failed than may.
fn judge(subject: &Subject<'_>, standings: &[Standing<'_>], plan: &mut Plan) -> Option<Command> {
    let service = subject.service;
    let policy = &service.spec.update;
    let over = |standing: &Standing<'_>| match standing {
        Standing::Failed { slot, why, .. } => Some((*slot, (*why).to_owned())),
        _ => None,
    };
    let over: Vec<(u32, String)> = standings.iter().filter_map(over).collect();
    if service.spec.mode == Mode::Job {
        // What ran before is not what it is to do: there is nothing to go back to. A run of a schedule that failed is
        // followed by the next one.
        let first = over.into_iter().next().filter(|_| service.spec.cron.is_none());
        return first.map(|(slot, why)| subject.move_to(RolloutState::Failed, subject.told_of_slot(slot, &why)));
    }
    let (failed, why) = failures(subject, &over, plan);
    let is_too_many = failed > policy.max_failures as usize * standings.len() / 1000;
    let why = why.filter(|_| is_too_many && policy.on_failure != FailureAction::Continue)?;
    let Some(stable) = service.stable.as_ref() else {
        return over.first().map(|_| subject.move_to(RolloutState::Failed, why));
    };
    let is_done = |number: &u32| {
        let slot = subject.id.slot(*number);
        subject.cluster.has_ended_well(&slot, service.task_of(stable.revision))
    };
    let can_go_back = service.rollout.back_from.is_none() && stable.revision != service.revision;
    if can_go_back && !over.is_empty() && over.iter().all(|(slot, _)| is_done(slot)) {
        // What the earlier revision was to do is done, and is not done again.
        return Some(subject.move_to(RolloutState::Failed, why));
    }
    if policy.on_failure == FailureAction::Rollback && can_go_back {
        let (service, expect_revision) = (subject.id.clone(), service.revision);
        return Some(Command::RollBack { service, expect_revision, why });
    }
    Some(subject.move_to(RolloutState::Paused, why))
}

/// How many failures of the revision there are, and what to say of the first. `over`: the slots that have failed for
/// good.
fn failures(subject: &Subject<'_>, over: &[(u32, String)], plan: &mut Plan) -> (usize, Option<String>) {
    let service = subject.service;
    let policy = &service.spec.update;
    let mut failed = over.len();
    let mut why = over.first().map(|(slot, why)| subject.told_of_slot(*slot, why));
    let is_over = |id: &InstanceId| over.iter().any(|(slot, _)| *slot == id.slot.slot);
    // What failed before a person said "go on" does not count again.
    let judged = |i: &Instance| i.revision == service.revision && i.created_at >= service.rollout.since;
    for (id, instance) in subject.instances.iter().filter(|(id, i)| judged(i) && !is_over(id)) {
        let due = instance.created_at + policy.deadline;
        if let Some(reason) = failure(instance, due <= subject.at.now) {
            failed += 1;
            why.get_or_insert_with(|| subject.told(id, instance, &reason));
        } else if instance.fills_slot() && instance.serving_since.is_none() && !instance.proven {
            plan.wake(due);
        }
    }
    (failed, why)
}

/// Why an instance that has not shown yet that it can serve counts as failed.
fn failure(instance: &Instance, is_late: bool) -> Option<String> {
    if instance.proven {
        return None;
    }
    let observed = &instance.observed;
    let message = |otherwise: &str| {
        if observed.message.is_empty() { otherwise.to_owned() } else { observed.message.clone() }
    };
    if matches!(observed.phase, Phase::Failed | Phase::Rejected) {
        Some(message("it failed"))
    } else if observed.health == Health::Unhealthy {
        Some("its health check fails".to_owned())
    } else if observed.restart > 0 {
        Some(message(
            &observed
                .exit_code
                .map_or_else(|| "it had to be restarted".to_owned(), |code| format!("it ended with exit code {code}")),
        ))
    } else if is_late && !observed.is_serving() && observed.phase != Phase::Completed {
        Some(message("it did not serve in time"))
    } else {
        None
    }
}

/// Whether every slot is served by the revision and nothing of another one is left.
fn is_done(subject: &Subject<'_>, standings: &[Standing<'_>]) -> bool {
    let outdated = |i: &Instance| i.fills_slot() && !i.is_current(subject.service);
    if subject.awaited.is_some() && subject.service.spec.cron.is_some() {
        return false;
    }
    let is_whole = |standing: &Standing<'_>| match standing {
        // As many as that may fail.
        Standing::Whole | Standing::Failed { .. } => true,
        // It serves, and leaves only for its host's sake.
        Standing::ToMove(_, instance) => instance.is_current(subject.service),
        Standing::Unsettled { .. } => false,
    };
    standings.iter().all(is_whole) && !subject.instances.iter().any(|(_, i)| outdated(i))
}

/// Whether the pause between two replacements is not over.
fn pauses_between(subject: &Subject<'_>, plan: &mut Plan) -> bool {
    let delay = subject.service.spec.update.delay;
    let current = subject.instances.iter().filter(|(_, i)| i.revision == subject.service.revision);
    let Some(last) = current.filter_map(|(_, i)| i.serving_since).max() else { return false };
    let over = last + delay;
    if over > subject.at.now {
        plan.wake(over);
        return true;
    }
    false
}

/// Gives an instance of an older revision a successor, or ends it first; whether either could be done.
fn update<'a>(subject: &Subject<'a>, (id, instance): Listed<'_>, placer: &mut Placer<'a>, plan: &mut Plan) -> bool {
    if subject.backs_off(&id.slot, subject.service.revision, plan) {
        return false;
    }
    let spec = &subject.service.spec;
    let stops_first = spec.stops_first().is_some() || instance.spec.stops_first().is_some();
    let asked = spec.update.order;
    if asked != Some(UpdateOrder::StopFirst) && !stops_first {
        match subject.place(&PlaceRequest::successor(id, instance, Revision::Target), placer, plan) {
            Ok(()) => return true,
            Err(reasons) if asked == Some(UpdateOrder::StartFirst) => {
                reasons.into_iter().for_each(|reason| plan.block(subject.id, reason));
                return false;
            }
            // There is no room for both.
            Err(_) => {}
        }
    }
    plan.desire(id, Want::Purge, StopReason::Superseded);
    true
}

/// Gives an instance on a host that is emptied a successor elsewhere; whether that could be done.
fn drain<'a>(subject: &Subject<'a>, (id, instance): Listed<'_>, placer: &mut Placer<'a>, plan: &mut Plan) -> bool {
    let of = if instance.is_current(subject.service) { Revision::Target } else { Revision::Stable };
    if subject.backs_off(&id.slot, subject.made_from(of).0, plan) {
        return false;
    }
    if instance.spec.mode == Mode::Job {
        plan.block(subject.id, Blocked::Waits { slot: id.slot.slot, hold: Hold::MayFinish });
        return false;
    }
    if instance.spec.is_pinned() {
        plan.block(subject.id, Blocked::Waits { slot: id.slot.slot, hold: Hold::DataStays });
        return false;
    }
    // A strict singleton stops first; where it goes is found out before it does.
    let is_strict = instance.holds_back(subject.service);
    let mut elsewhere = Plan::default();
    let found = if is_strict { &mut elsewhere } else { &mut *plan };
    match subject.place(&PlaceRequest::successor(id, instance, of), placer, found) {
        Ok(()) => {
            if is_strict {
                plan.desire(id, Want::Purge, StopReason::Drained);
            }
            true
        }
        Err(reasons) => {
            plan.block(subject.id, Blocked::CannotLeave { slot: id.slot.slot, reasons });
            false
        }
    }
}

impl Subject<'_> {
    fn move_to(&self, state: RolloutState, why: String) -> Command {
        Command::MoveRollout { service: self.id.clone(), expect_revision: self.service.revision, state, why }
    }

    /// The deadline of the instance's host, if that is being emptied.
    fn drained_until(&self, instance: &Instance) -> Option<Timestamp> {
        match self.cluster.hosts().get(&instance.host)?.availability {
            Availability::Draining { deadline } if self.service.spec.mode != Mode::Global => Some(deadline),
            Availability::Maintenance => Some(Timestamp(0)),
            _ => None,
        }
    }

    /// What to say of a slot that failed for good, by its last instance of the revision if that is still there.
    fn told_of_slot(&self, slot: u32, why: &str) -> String {
        let is_it = |(id, i): &&(&InstanceId, &Instance)| id.slot.slot == slot && i.is_current(self.service);
        let last = self.instances.iter().rfind(is_it);
        last.map_or_else(|| format!("slot {slot}: {why}"), |(id, instance)| self.told(id, instance, why))
    }

    fn told(&self, id: &InstanceId, instance: &Instance, reason: &str) -> String {
        let host = self.cluster.hosts().get(&instance.host).map_or("a lost host", |host| host.name.as_str());
        format!("{}.{} on {host}: {reason}", id.slot.slot, id.incarnation)
    }
}

#[cfg(test)]
mod tests;
