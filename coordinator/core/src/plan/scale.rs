//! One service: the right instances, each in a slot of its own.

use std::{cell::Cell, sync::Arc};

use common::{
    id::{HostId, InstanceId, ServiceId, SlotId},
    instance::{Phase, StopReason, Verdict, Want},
    name::Name,
    rollout::RolloutState,
    spec::{Mode, ServiceSpec},
    time::Timestamp,
};

use super::{
    Blocked, Hold, Moment, Pass, Plan,
    hosts::of_global,
    lease_over_at,
    pin::confirmed_digest,
    place::{Only, Placer, Seat},
    replaced_at, rollout,
    rollout::canary_stands,
    runs,
};
use crate::{
    State,
    command::{Command, Placement},
    state::{Awaited, End, Instance, Service, Tries},
};

/// An instance and what it is known by.
pub(super) type Listed<'a> = (&'a InstanceId, &'a Instance);

/// A service while it is planned.
pub(super) struct Subject<'a> {
    pub(super) cluster: &'a State,
    pub(super) id: &'a ServiceId,
    pub(super) service: &'a Service,
    /// By slot and incarnation.
    pub(super) instances: Vec<Listed<'a>>,
    pub(super) at: Moment,
    /// How many more instances may be of the service's revision, as long as the change to it is held up.
    pub(super) room: Cell<usize>,
    /// What the change to its revision waits for.
    pub(super) awaited: Option<Awaited>,
    /// Whether another service waits for its end: then to run is not enough.
    ends: bool,
    /// The slots whose task has ended, by number: to look each of them up takes longer than all the rest.
    ended: Vec<(u32, &'a End)>,
}

/// Which revision a new instance is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Revision {
    /// The one that the service changes to.
    Target,
    /// The one that served whole, if the change is paused or its canary is complete; else the new one.
    Stable,
}

/// An instance that is to be placed.
pub(super) struct PlaceRequest<'a> {
    /// The slot that it fills.
    pub(super) slot: &'a SlotId,
    /// What it is made from.
    pub(super) of: Revision,
    /// The instance that fills the slot so far.
    pub(super) replaces: Option<&'a InstanceId>,
    /// The same instance if it still runs: it no longer counts on its host.
    pub(super) leaving: Option<&'a Instance>,
}

impl<'a> PlaceRequest<'a> {
    /// A successor of an instance that runs until the successor serves.
    pub(super) fn successor(id: &'a InstanceId, instance: &'a Instance, of: Revision) -> PlaceRequest<'a> {
        PlaceRequest { slot: &id.slot, of, replaces: Some(id), leaving: Some(instance) }
    }
}

/// How a wanted slot stands.
pub(super) enum Standing<'a> {
    /// Its instance has served long enough, or what it is to do has ended well.
    Whole,
    /// What it is to do has failed for good; other revisions may serve in it.
    Failed {
        /// The slot's number.
        slot: u32,
        /// Why.
        why: &'a str,
        /// What else fills it.
        others: Vec<Listed<'a>>,
    },
    /// Nothing serves in it, or not long enough yet.
    Unsettled {
        /// Whether one instance takes the place of another there.
        moving: bool,
    },
    /// Its instance serves and has to go once another one does.
    ToMove(&'a InstanceId, &'a Instance),
}

impl Pass<'_> {
    /// Plans a service that is wanted.
    pub(super) fn plan_service(&mut self, id: &ServiceId, service: &Service, plan: &mut Plan) {
        let subject = Subject::of(self.cluster, id, service, self.at);
        if let Some(awaited) = &subject.awaited {
            // It is looked at again whenever anything changes.
            plan.block(id, Blocked::Awaits(awaited.clone()));
        }
        runs::plan_runs(&subject, plan);
        let wanted = wanted_slots(self.cluster, id, service);
        subject.end_unwanted(&wanted, plan);
        purge_ended(&subject.instances, plan);
        subject.pin_image(plan);
        let mut placer = Placer::new(self.hosts, &subject);
        let mut rest = subject.instances.as_slice();
        let plan_slot = |number: &u32| {
            let of_slot;
            (of_slot, rest) = split_at_slot(rest, *number);
            subject.plan_slot(*number, of_slot, &mut placer, plan)
        };
        let standings: Vec<Standing<'_>> = wanted.iter().map(plan_slot).collect();
        rollout::advance(&subject, &standings, &mut placer, plan);
    }
}

/// The slots that a service wants filled, in order.
pub fn wanted_slots(cluster: &State, id: &ServiceId, service: &Service) -> Vec<u32> {
    match service.spec.mode {
        Mode::Replicated | Mode::Job => (1..=service.spec.replicas).collect(),
        Mode::Global => of_global(cluster, id, &service.spec),
    }
}

impl<'a> Subject<'a> {
    pub(super) fn of(cluster: &'a State, id: &'a ServiceId, service: &'a Service, at: Moment) -> Subject<'a> {
        let instances: Vec<_> = cluster.instances_of(id).collect();
        let canary = canary_stands(service, instances.iter().copied(), at.now);
        let awaited = cluster.awaited(id, service);
        let room = match (service.rollout.state, canary) {
            (RolloutState::Paused | RolloutState::Failed, _) => 0,
            _ if awaited.is_some() => 0,
            (_, Some(canary)) => canary.wanted.saturating_sub(canary.begun),
            (_, None) => usize::MAX,
        };
        let (room, ends) = (Cell::new(room), cluster.is_to_complete(id));
        let ended = cluster.ends_of(id, service.task()).collect();
        Subject { cluster, id, service, instances, at, room, awaited, ends, ended }
    }

    /// Ends what fills a slot that is not wanted, or not where it is.
    fn end_unwanted(&self, wanted: &[u32], plan: &mut Plan) {
        for (id, instance) in self.instances.iter().filter(|(_, instance)| instance.fills_slot()) {
            if wanted.binary_search(&id.slot.slot).is_err() || self.is_on_anothers_host(id, instance) {
                let drained = self.service.spec.mode == Mode::Global && self.cluster.is_draining(instance.host);
                plan.desire(id, Want::Purge, if drained { StopReason::Drained } else { StopReason::ScaledDown });
            }
        }
    }

    /// What a tag means for the whole revision is decided by what hosts pulled: by one on whose word it does not depend
    /// alone, see [`confirmed_digest`].
    fn pin_image(&self, plan: &mut Plan) {
        let service = self.service;
        if service.digest.is_some() || service.spec.container.image.contains('@') {
            return;
        }
        let of_revision = self.instances.iter().filter(|(_, i)| i.revision == service.revision);
        let pulled = of_revision.filter_map(|(_, i)| Some((i.host, i.observed.image_digest.as_deref()?)));
        if let Some(digest) = confirmed_digest(self.cluster, pulled) {
            let (service, expect_revision, digest) = (self.id.clone(), service.revision, digest.to_owned());
            plan.commands.push(Command::PinImage { service, expect_revision, digest });
        }
    }

    /// Fills the slot if it needs to be, and ends what it no longer needs.
    fn plan_slot(&self, number: u32, of_slot: &[Listed<'a>], placer: &mut Placer<'a>, plan: &mut Plan) -> Standing<'a> {
        let filling: Vec<_> = of_slot.iter().copied().filter(|(_, i)| i.fills_slot()).collect();
        let end = self.end_of(number);
        if end.is_some() || self.service.task().is_before_the_first() {
            return self.over((number, end), filling, plan);
        }
        let keeper = filling.iter().copied().max_by_key(|(id, i)| (self.is_current(i), id.incarnation));
        let Some((id, instance)) = keeper else {
            self.fill(&self.id.slot(number), None, placer, plan);
            return Standing::Unsettled { moving: false };
        };
        let others: Vec<_> = filling.into_iter().filter(|(other, _)| *other != id).collect();
        let unsettled = Standing::Unsettled { moving: !others.is_empty() };
        if let Verdict::Unknown { since } = instance.verdict {
            self.replace_unreachable((id, instance), since, placer, plan);
            return unsettled;
        }
        if has_failed(instance) {
            plan.desire(id, Want::Stop, StopReason::Ended);
            return unsettled;
        }
        if self.is_stranded(instance, placer, plan) {
            plan.desire(id, Want::Purge, StopReason::Stranded);
            return unsettled;
        }
        if self.has_to_go(instance, placer) {
            return self.before_move((id, instance), &others, plan).unwrap_or(unsettled);
        }
        if self.service.spec.mode == Mode::Job {
            return unsettled;
        }
        if !self.ends && instance.is_settled(self.at.now) {
            self.let_go(&others, plan);
            return Standing::Whole;
        }
        if let Some(settles) = instance.settles_at().filter(|settles| *settles > self.at.now) {
            plan.wake(settles);
        }
        unsettled
    }

    /// How the task of a slot has ended, if it has.
    fn end_of(&self, number: u32) -> Option<&'a End> {
        let place = self.ended.binary_search_by_key(&number, |(slot, _)| *slot).ok()?;
        Some(self.ended[place].1)
    }

    /// A slot whose task is over: what else fills it goes, unless it serves because the task failed.
    fn over(&self, (number, end): (u32, Option<&'a End>), filling: Vec<Listed<'a>>, plan: &mut Plan) -> Standing<'a> {
        let others: Vec<_> = filling.into_iter().filter(|(_, instance)| !self.is_current(instance)).collect();
        if let Some(why) = end.and_then(|end| end.failed.as_deref()) {
            return Standing::Failed { slot: number, why, others };
        }
        self.let_go(&others, plan);
        Standing::Whole
    }

    /// Whether an instance of a global service sits on a host that its slot does not belong to: the service
    /// was a replicated one before.
    fn is_on_anothers_host(&self, id: &InstanceId, instance: &Instance) -> bool {
        let number = || self.cluster.hosts().get(&instance.host).map(|host| host.number);
        self.service.spec.mode == Mode::Global && number() != Some(id.slot.slot)
    }

    fn is_current(&self, instance: &Instance) -> bool {
        instance.is_current(self.service)
    }

    fn has_to_go(&self, instance: &Instance, placer: &Placer<'_>) -> bool {
        let is_drained = self.service.spec.mode != Mode::Global && placer.is_emptied(instance.host);
        is_drained || !self.is_current(instance)
    }

    /// Ends what fills a slot beside the instance that counts in it.
    fn let_go(&self, others: &[Listed<'a>], plan: &mut Plan) {
        for (other, leaving) in others {
            plan.desire(other, Want::Purge, self.why_it_leaves(leaving));
        }
    }

    fn why_it_leaves(&self, leaving: &Instance) -> StopReason {
        if self.is_current(leaving) && self.service.rebalancing && !self.cluster.is_draining(leaving.host) {
            StopReason::Rebalanced
        } else if self.is_current(leaving) {
            StopReason::Drained
        } else if self.service.rollout.back_from == Some(leaving.revision) {
            StopReason::RolledBack
        } else {
            StopReason::Superseded
        }
    }

    /// An instance that has to go: if it serves, others of its slot end and it is moved in its turn; if it
    /// does not, nobody misses it.
    fn before_move(&self, (id, instance): Listed<'a>, others: &[Listed<'a>], plan: &mut Plan) -> Option<Standing<'a>> {
        let is_job = self.service.spec.mode == Mode::Job;
        if instance.observed.is_serving() && (!is_job || self.is_current(instance)) {
            self.let_go(others, plan);
            return others.is_empty().then_some(Standing::ToMove(id, instance));
        }
        let goes_on = || self.service.rollout.state == RolloutState::Rolling && self.takes_room();
        // The run of a schedule that is over makes room for the next; any other job stays until its change may begin.
        let is_held = self.awaited.is_some() && self.service.spec.cron.is_none();
        if (is_job && !is_held) || self.is_current(instance) || goes_on() {
            plan.desire(id, Want::Purge, self.why_it_leaves(instance));
        }
        None
    }

    fn replace_unreachable(
        &self,
        (id, instance): Listed<'_>,
        since: Timestamp,
        placer: &mut Placer<'a>,
        plan: &mut Plan,
    ) {
        if self.service.spec.mode == Mode::Global {
            return;
        }
        let strict = self.service.spec.strict_singleton;
        let at = if strict {
            lease_over_at(self.cluster, since, self.at)
        } else {
            replaced_at(self.cluster, instance.host, since, self.at)
        };
        if strict && !instance.spec.strict_singleton {
            let hold = Hold::NoLease { on: self.name_of(instance.host) };
            plan.block(self.id, Blocked::Waits { slot: id.slot.slot, hold });
        } else if at > self.at.now {
            plan.wake(at);
        } else if let Some(reason) = placer.brake() {
            plan.block(self.id, reason);
        } else if instance.spec.is_pinned() {
            plan.block(self.id, Blocked::Waits { slot: id.slot.slot, hold: Hold::DataIsAway });
        } else {
            self.fill(&id.slot, Some(id), placer, plan);
        }
    }

    /// Places an instance, in place of `replaces` if that is unreachable.
    fn fill(&self, slot: &SlotId, replaces: Option<&InstanceId>, placer: &mut Placer<'a>, plan: &mut Plan) {
        let (revision, _) = self.made_from(Revision::Stable);
        if self.cluster.has_ended(slot, self.service.task_of(revision)) || self.backs_off(slot, revision, plan) {
            return;
        }
        let is_new = revision == self.service.revision;
        if is_new && (self.awaited.is_some() || self.service.rollout.because_of_another()) {
            return;
        }
        let replaces = match self.left_of(slot, replaces, plan) {
            Ok(left) => left,
            Err(reason) => return plan.block(self.id, reason),
        };
        if is_new
            && !self.cluster.slots().contains_key(slot)
            && let Some(awaited) = self.cluster.awaited_at_first(self.id, self.service)
        {
            return plan.block(self.id, Blocked::Awaits(awaited));
        }
        let request = PlaceRequest { slot, of: Revision::Stable, replaces, leaving: None };
        if let Err(reasons) = self.place(&request, placer, plan) {
            reasons.into_iter().for_each(|reason| plan.block(self.id, reason));
        }
    }

    /// What may still run of a strict singleton's slot: nothing, or an instance whose lease is over and which
    /// the next one replaces; else what is waited for.
    fn left_of<'b>(
        &self,
        slot: &SlotId,
        replaces: Option<&'b InstanceId>,
        plan: &mut Plan,
    ) -> Result<Option<&'b InstanceId>, Blocked>
    where
        'a: 'b,
    {
        let is_strict = self.service.spec.strict_singleton;
        if is_strict && !self.cluster.settings().allow_leases() {
            return Err(Blocked::NoLeases);
        }
        // Another leader may have said until when, by another clock.
        let from_now = self.at.leading_since + self.cluster.longest_lease();
        let until = self.cluster.orphans().get(slot).map(|until| (*until).max(from_now));
        if let Some(until) = until.filter(|until| is_strict && *until > self.at.now) {
            plan.wake(until);
            return Err(Blocked::Waits { slot: slot.slot, hold: Hold::Orphaned { until } });
        }
        let (of_slot, _) = split_at_slot(&self.instances, slot.slot);
        let mut left = of_slot.iter().copied().filter(|(_, i)| i.may_run() && i.holds_back(self.service));
        let Some((id, instance)) = left.find(|(id, _)| Some(*id) != replaces) else { return Ok(replaces) };
        let on = self.name_of(instance.host);
        match instance.verdict {
            Verdict::Unknown { since } if instance.spec.strict_singleton && replaces.is_none() => {
                let over = lease_over_at(self.cluster, since, self.at);
                if over <= self.at.now {
                    return Ok(Some(id));
                }
                plan.wake(over);
                Err(Blocked::Waits { slot: slot.slot, hold: Hold::Leased { on, until: over } })
            }
            _ => Err(Blocked::Waits { slot: slot.slot, hold: Hold::Runs { instance: id.clone(), on } }),
        }
    }

    fn name_of(&self, host: HostId) -> Option<Name> {
        self.cluster.hosts().get(&host).map(|host| host.name.clone())
    }

    /// Whether a revision has failed in the slot so lately that it is left alone.
    pub(super) fn backs_off(&self, slot: &SlotId, revision: u64, plan: &mut Plan) -> bool {
        let record = self.cluster.slots().get(slot);
        let tries = record.and_then(|record| record.tries_of(self.service.task_of(revision), revision));
        let Some(tries) = tries.filter(|tries| tries.retry_at > self.at.now) else { return false };
        let Tries { failures, retry_at, last_failure, .. } = tries;
        plan.wake(*retry_at);
        let (slot, failures, retry_at, why) = (slot.slot, *failures, *retry_at, last_failure.clone());
        plan.block(self.id, Blocked::BacksOff { slot, failures, retry_at, why });
        true
    }

    /// Whether one more may be of the service's revision; if so, it counts.
    fn takes_room(&self) -> bool {
        let room = self.room.get();
        self.room.set(room.saturating_sub(1));
        room > 0
    }

    /// What a new instance is made from: what is wanted now, or what serves as long as that is held up.
    pub(super) fn made_from(&self, of: Revision) -> (u64, &'a Arc<ServiceSpec>) {
        let held_back = || self.cluster.held_back(self.id, self.service);
        match Some(()).filter(|()| of == Revision::Stable && self.room.get() == 0).and_then(|()| held_back()) {
            Some(version) => (version.revision, &version.spec),
            None => (self.service.revision, &self.service.spec),
        }
    }

    /// Places an instance on the host that suits it best; `leaving` is one of its slot that serves there
    /// until this one does.
    pub(super) fn place(
        &self,
        request: &PlaceRequest<'_>,
        placer: &mut Placer<'a>,
        plan: &mut Plan,
    ) -> Result<(), Vec<Blocked>> {
        let PlaceRequest { slot, of, replaces, leaving } = *request;
        let incarnation = self.cluster.incarnation(slot);
        let home = self.cluster.slots().get(slot).and_then(|slot| slot.home);
        let (revision, spec) = self.made_from(of);
        let only = match spec.mode {
            Mode::Global => Some(Only::Numbered(slot.slot)),
            Mode::Replicated | Mode::Job => home.filter(|_| spec.is_pinned()).map(Only::Home),
        };
        let leaving = leaving.map(|instance| instance.host);
        let choice = placer.choose(&Seat { incarnation, only, leaving, spec });
        let choice = choice.inspect_err(|_| placer.calm_at().into_iter().for_each(|at| plan.wake(at)))?;
        if revision == self.service.revision {
            self.takes_room();
        }
        plan.commands.push(Command::Place(Box::new(Placement {
            slot: slot.clone(),
            expect_incarnation: incarnation,
            expect_revision: self.service.revision,
            revision,
            host: choice.host,
            ports: choice.booked.ports,
            devices: choice.booked.devices,
            replaces: replaces.cloned(),
            unknown_since: replaces.and_then(|id| match self.cluster.instances().get(id)?.verdict {
                Verdict::Unknown { since } => Some(since),
                Verdict::Reachable | Verdict::Lost { .. } => None,
            }),
        })));
        Ok(())
    }
}

/// The instances of a slot, by incarnation, and those of later ones.
fn split_at_slot<'a, 'b>(instances: &'b [Listed<'a>], number: u32) -> (&'b [Listed<'a>], &'b [Listed<'a>]) {
    // Who takes one slot after the other finds it at the beginning.
    let is_first = instances.first().is_none_or(|(id, _)| id.slot.slot >= number);
    let before = if is_first { 0 } else { instances.partition_point(|(id, _)| id.slot.slot < number) };
    let of_slot = instances[before..].iter().take_while(|(id, _)| id.slot.slot == number).count();
    instances[before..].split_at(of_slot)
}

/// An instance that its host gave up on although what it is to do is not over.
fn has_failed(instance: &Instance) -> bool {
    matches!(instance.observed.phase, Phase::Rejected | Phase::Stopped | Phase::Purged | Phase::Failed)
}

/// Ended instances are kept, with their output, until a newer one of the slot runs or has ended.
fn purge_ended(instances: &[(&InstanceId, &Instance)], plan: &mut Plan) {
    for of_slot in instances.chunk_by(|(a, _), (b, _)| a.slot == b.slot) {
        let came_far = |(_, i): &&(&InstanceId, &Instance)| i.observed.phase >= Phase::Running;
        let newest = of_slot.iter().filter(came_far).map(|(id, _)| id.incarnation).max().unwrap_or(0);
        for (id, _) in of_slot.iter().filter(|(_, instance)| instance.desired.want == Want::Stop) {
            if id.incarnation < newest {
                plan.desire(id, Want::Purge, StopReason::Ended);
            }
        }
    }
}
