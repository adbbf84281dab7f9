//! Stacks and their services.

use std::{collections::BTreeMap, net::Ipv4Addr, sync::Arc};

use common::{
    error::{Code, Problem},
    id::{ServiceId, StackId},
    name::Name,
    rollout::RolloutState,
    spec::{EndpointMode, Mode, NetworkMode, ServiceSpec, StackSpec},
    time::Timestamp,
};
use imbl::{OrdMap, Vector};
use serde::{Deserialize, Serialize};

use super::{
    Applied, Back, State, not_found,
    rollouts::{Rollout, Version},
    runs::{Runs, Task},
    size_of,
};
use crate::command::{NewFile, Outcome};

/// A stack as it was asked for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Stack {
    /// Grows with each change of the spec.
    pub revision: u64,
    /// What was asked for.
    pub spec: Arc<StackSpec>,
    /// When that was.
    pub changed_at: Timestamp,
    /// Whether it ends: it goes when its last instance is gone.
    pub removing: bool,
    /// Its services.
    pub services: OrdMap<Name, Service>,
    /// Its last revisions, the present one included.
    pub history: Vector<Arc<Revision>>,
}

/// A revision of a stack: what it was, who made it so, and why.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Revision {
    /// Its number.
    pub revision: u64,
    /// When it was made.
    pub at: Timestamp,
    /// The API token that asked for it; none if the cluster did so by itself.
    pub by: Option<Name>,
    /// What was done, for people.
    pub what: String,
    /// What the stack was.
    pub spec: Arc<StackSpec>,
    /// Whether every service of it has served whole, or ended well, as this revision has it.
    pub served: bool,
    /// The bytes that the spec takes where it is stored.
    pub bytes: u32,
}

/// What becomes of a stack, and what its author took for granted.
pub(in crate::state) struct StackChange<'a> {
    /// What it should be.
    pub(in crate::state) spec: &'a Arc<StackSpec>,
    /// New versions of its own configs and secrets.
    pub(in crate::state) files: &'a [NewFile],
    /// Its revision, if the author knows one; 0 for "none yet".
    pub(in crate::state) expect: Option<u64>,
    /// What is done, for people.
    pub(in crate::state) what: &'a str,
    /// Whether it goes back to an earlier revision.
    pub(in crate::state) goes_back: bool,
}

/// Most revisions of a stack that are kept.
pub(super) const MAX_REVISIONS: usize = 20;

/// Most stacks.
const MAX_STACKS: usize = 10_000;
/// Most bytes of the specs of all stacks together, those of earlier revisions included.
const MAX_SPEC_BYTES: usize = 128 << 20;

/// A service of a stack.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Service {
    /// The stack's revision that last changed what the instances run.
    pub revision: u64,
    /// What the instances run, and how many.
    pub spec: Arc<ServiceSpec>,
    /// The digest that the image's tag had when it was first pulled for this revision.
    pub digest: Option<String>,
    /// How far the change to the revision has come.
    pub rollout: Rollout,
    /// The last revision that served whole.
    pub stable: Option<Version>,
    /// The revisions that served whole, the last one at the end: people may go back to them.
    pub served: Vector<Version>,
    /// The runs of a job that has a schedule.
    pub runs: Runs,
    /// Whether its instances move to hosts that suit them better.
    pub rebalancing: bool,
    /// Its own address on the overlay, which it keeps for life; none where there is no overlay.
    pub address: Option<Ipv4Addr>,
}

impl Stack {
    /// Sets all times back. Schedules go on from the right time; a run that has begun keeps its name.
    pub(in crate::state) fn set_back(&mut self, back: Back) {
        back.time(&mut self.changed_at);
        self.history.iter_mut().for_each(|revision| back.time(&mut Arc::make_mut(revision).at));
        back.each(&mut self.services, |service| {
            back.time(&mut service.rollout.since);
            back.time(&mut service.runs.last);
        });
    }
}

impl Service {
    /// Why its instances are not moved for the sake of balance, if they are not.
    pub fn stays(&self) -> Option<&'static str> {
        if self.spec.mode != Mode::Replicated {
            Some("only replicated services can be moved")
        } else if self.spec.strict_singleton {
            Some("a strict singleton would be down during the move")
        } else if self.spec.is_pinned() {
            Some("its data is tied to its host")
        } else if self.rollout.state != RolloutState::Done {
            Some("its rollout is not done")
        } else {
            None
        }
    }

    /// The address by which others are led to it; one that is kept for when it is wanted again is none.
    pub fn reached_at(&self) -> Option<Ipv4Addr> {
        let has_own = self.spec.endpoint_mode != EndpointMode::Dnsrr && self.spec.network_mode == NetworkMode::Cluster;
        self.address.filter(|_| has_own)
    }

    /// The revision that it is to have now.
    pub fn version(&self) -> Version {
        Version { revision: self.revision, spec: self.spec.clone(), digest: self.digest.clone() }
    }

    /// What its slots are to do now: a job's instances that were made for something else do not do it.
    pub fn task(&self) -> Task {
        self.task_of(self.revision)
    }

    /// What an instance of a revision is to do. A job with a schedule finishes a run as it began it; everything else
    /// begins anew with each revision.
    pub fn task_of(&self, revision: u64) -> Task {
        match self.spec.cron {
            Some(_) => Task::Run(self.runs.due),
            None => Task::Revision(revision),
        }
    }

    /// A service that the spec changes: instances of the last good revision go on if they may.
    fn changed(earlier: Option<&Service>, to: Change<'_>) -> Service {
        let spec = Arc::new(to.spec.clone());
        let address = earlier.and_then(|earlier| earlier.address);
        // What was due before there was a schedule was not missed.
        let had_schedule = earlier.filter(|earlier| earlier.spec.cron.is_some());
        let runs = had_schedule.map_or(Runs { last: to.at, ..Runs::default() }, |earlier| earlier.runs);
        if let Some(earlier) = earlier.filter(|earlier| earlier.spec.same_instances(&spec)) {
            return Service { spec, runs, rebalancing: false, ..earlier.clone() };
        }
        let stable = earlier.and_then(|earlier| earlier.stable.clone());
        let served = earlier.map(|earlier| earlier.served.clone()).unwrap_or_default();
        let same = |version: &&Version| version.spec.same_instances(&spec);
        let again = stable.as_ref().filter(same).or_else(|| served.iter().rev().filter(|_| to.goes_back).find(same));
        if let Some(Version { revision, digest, .. }) = again.cloned() {
            let stable = stable.map(|stable| Version {
                spec: if stable.revision == revision { spec.clone() } else { stable.spec },
                ..stable
            });
            let rollout = Rollout::begun(to.at, true, to.revision);
            return Service { revision, spec, digest, rollout, stable, served, runs, rebalancing: false, address };
        }
        // The first revision of all has nothing to be compared with.
        let compared = stable.as_ref().is_some_and(|stable| stable.may_stand_in(&spec));
        let promoted = spec.update.canary.is_none() || !compared;
        let rollout = Rollout::begun(to.at, promoted, to.revision);
        let (revision, digest) = (to.revision, None);
        Service { revision, spec, digest, rollout, stable, served, runs, rebalancing: false, address }
    }
}

/// The change of a service by a revision of its stack.
struct Change<'a> {
    revision: u64,
    spec: &'a ServiceSpec,
    goes_back: bool,
    at: Timestamp,
}

impl Stack {
    /// Keeps the present spec as a revision.
    fn remember(&mut self, by: Option<Name>, what: String) {
        let (revision, at, spec) = (self.revision, self.changed_at, self.spec.clone());
        let bytes = u32::try_from(size_of(&*spec)).unwrap_or(u32::MAX);
        self.history.push_back(Arc::new(Revision { revision, at, by, what, spec, served: false, bytes }));
        while self.history.len() > MAX_REVISIONS {
            self.history.pop_front();
        }
        self.note_served();
    }

    /// Notes whether all of it is as its present revision has it.
    pub(in crate::state) fn note_served(&mut self) {
        let is_done = self.services.values().all(|service| service.rollout.state == RolloutState::Done);
        if let Some(last) = self.history.back_mut().filter(|last| is_done && !last.served) {
            Arc::make_mut(last).served = true;
        }
    }
}

impl State {
    /// The service of that id, unless its stack is being removed.
    pub fn service(&self, id: &ServiceId) -> Option<&Service> {
        self.work.stacks.get(&id.stack).filter(|stack| !stack.removing)?.services.get(&id.service)
    }

    /// Whether a service's instances move to hosts that suit them better.
    pub fn is_rebalancing(&self, id: &ServiceId) -> bool {
        self.service(id).is_some_and(|service| service.rebalancing)
    }

    /// The same, to change it.
    pub(in crate::state) fn service_mut(&mut self, id: &ServiceId) -> Result<&mut Service, Problem> {
        let stack = self.work.stacks.get_mut(&id.stack).filter(|stack| !stack.removing);
        stack.and_then(|stack| stack.services.get_mut(&id.service)).ok_or_else(|| not_found("service", id))
    }

    pub(in crate::state) fn put_stack(&mut self, id: &StackId, change: StackChange<'_>) -> Applied {
        self.known_environment(&id.environment)?;
        let existing = self.work.stacks.get(id);
        if existing.is_some_and(|stack| stack.removing) {
            return Err(Problem::new(Code::Conflict, format!("Stack {id} is being removed"))
                .fix("Retry when its last instance is gone; to check: wharf ps"));
        }
        let revision = existing.map_or(0, |stack| stack.revision);
        if let Some(expected) = change.expect.filter(|expected| *expected != revision) {
            return Err(Problem::new(Code::Conflict, format!("Stack {id} was changed in the meantime"))
                .why(format!("its revision is {revision}, and the request expects {expected}"))
                .fix("Check the new plan: wharf diff"));
        }
        let violations = change.spec.validate();
        if !violations.is_empty() {
            let problem = Problem::new(Code::InvalidRequest, format!("Stack {id} cannot be deployed"));
            return Err(violations.iter().fold(problem, |problem, violation| problem.why(violation.to_string())));
        }
        for environment in change.spec.services.values().flat_map(|service| &service.joins) {
            self.known_environment(environment)?;
        }
        let mut spec = self.resolve_files(id, change.spec, change.files)?;
        if spec.services.values().any(|service| service.has_volume() || !service.volumes.is_empty()) {
            Arc::make_mut(&mut spec).tell_volumes();
        }
        if existing.is_some_and(|stack| stack.spec == spec) {
            return Ok(Outcome::Revision(revision));
        }
        self.has_room_for(id, &spec)?;
        let addresses = self.lease_addresses(id, &spec)?;
        self.add_files(change.files.iter().map(|file| (file.id(id), file.content.clone())).collect())?;
        let revision = self.replace_spec(id, StackChange { spec: &spec, ..change }, &addresses);
        self.prune_files(|file| file.environment == id.environment && file.stack.as_ref() == Some(&id.stack));
        Ok(Outcome::Revision(revision))
    }

    /// Refuses a spec that is one too many, or with which all specs together would take too much.
    pub(in crate::state) fn has_room_for(&self, id: &StackId, spec: &StackSpec) -> Result<(), Problem> {
        let refuse = |why: String| {
            let problem = Problem::new(Code::TooLarge, format!("Stack {id} was not changed")).why(why);
            Err(problem.fix("Remove stacks that are not needed: wharf rm"))
        };
        if !self.work.stacks.contains_key(id) && self.work.stacks.len() >= MAX_STACKS {
            return refuse(format!("there are already {MAX_STACKS} stacks, which is the limit"));
        }
        let revisions = self.work.stacks.values().flat_map(|stack| &stack.history);
        let bytes = size_of(spec) + revisions.map(|revision| revision.bytes as usize).sum::<usize>();
        if bytes > MAX_SPEC_BYTES {
            return refuse(format!("all revisions would take {bytes} bytes, and the limit is {MAX_SPEC_BYTES}"));
        }
        Ok(())
    }

    /// Gives a stack its next revision, whose services are rolled out; those that are new have these addresses.
    pub(in crate::state) fn replace_spec(
        &mut self,
        id: &StackId,
        change: StackChange<'_>,
        addresses: &BTreeMap<Name, Ipv4Addr>,
    ) -> u64 {
        let StackChange { spec, what, goes_back, .. } = change;
        let existing = self.work.stacks.get(id);
        let revision = existing.map_or(0, |stack| stack.revision) + 1;
        let earlier = existing.map(|stack| &stack.services);
        let service = |name: &Name, spec: &ServiceSpec| {
            let to = Change { revision, spec, goes_back, at: self.basics.clock };
            let changed = Service::changed(earlier.and_then(|services| services.get(name)), to);
            Service { address: changed.address.or(addresses.get(name).copied()), ..changed }
        };
        let mut services: OrdMap<Name, Service> =
            spec.services.iter().map(|(name, spec)| (name.clone(), service(name, spec))).collect();
        retry_with_changed(&mut services, revision, self.basics.clock);
        let history = existing.map(|stack| stack.history.clone()).unwrap_or_default();
        let mut stack =
            Stack { revision, spec: spec.clone(), changed_at: self.basics.clock, removing: false, services, history };
        stack.remember(self.actor().cloned(), what.to_owned());
        self.work.stacks.insert(id.clone(), stack);
        // They were given in the order of names.
        self.work.last_service_address = addresses.values().next_back().copied().or(self.work.last_service_address);
        self.forget_slots(id);
        self.record(id, "stack-deployed", format!("revision {revision}: {what}"));
        revision
    }

    pub(in crate::state) fn remove_stack(&mut self, id: &StackId) -> Applied {
        let stack = self.work.stacks.get_mut(id).ok_or_else(|| not_found("stack", id))?;
        if !stack.removing {
            stack.removing = true;
            self.record(id, "stack-removed", "the stack is being removed");
        }
        self.drop_empty_stack(id);
        self.done()
    }

    /// Forgets a stack that ends once nothing is left of it.
    pub(in crate::state) fn drop_empty_stack(&mut self, id: &StackId) {
        let ends = self.work.stacks.get(id).is_some_and(|stack| stack.removing);
        if !ends || self.instances_of_stack(id).next().is_some() {
            return;
        }
        self.work.stacks.remove(id);
        self.forget_slots(id);
        self.prune_files(|file| file.environment == id.environment && file.stack.as_ref() == Some(&id.stack));
        self.record(id, "stack-gone", "its last instance is gone");
    }

    /// Changes a stack's spec by a step of its own, which is a revision like any other.
    pub(in crate::state) fn change_spec(&mut self, id: &StackId, what: String, change: impl FnOnce(&mut StackSpec)) {
        let (clock, actor) = (self.basics.clock, self.actor().cloned());
        let Some(stack) = self.work.stacks.get_mut(id) else { return };
        change(Arc::make_mut(&mut stack.spec));
        stack.revision += 1;
        stack.changed_at = clock;
        stack.remember(actor, what);
    }

    pub(in crate::state) fn scale_service(&mut self, id: &ServiceId, replicas: u32) -> Applied {
        if replicas > 10_000 {
            return Err(Problem::new(Code::InvalidRequest, format!("Service {id} was not scaled"))
                .why(format!("{replicas} exceeds the limit of 10000 instances")));
        }
        let stack = self
            .work
            .stacks
            .get_mut(&id.stack)
            .filter(|stack| !stack.removing)
            .ok_or_else(|| not_found("stack", &id.stack))?;
        let service = stack.services.get_mut(&id.service).ok_or_else(|| not_found("service", id))?;
        if service.spec.replicas == replicas {
            return Ok(Outcome::Revision(stack.revision));
        }
        if service.spec.mode == Mode::Global {
            return Err(Problem::new(Code::InvalidRequest, format!("Service {id} was not scaled"))
                .why("it is global: it has one instance on each host that matches its constraints"));
        }
        if service.spec.strict_singleton && replicas > 1 {
            return Err(Problem::new(Code::InvalidRequest, format!("Service {id} was not scaled"))
                .why("it is a strict singleton, which has at most one instance"));
        }
        let (before, revision, spec) = (service.spec.replicas, stack.revision + 1, stack.spec.clone());
        // It is one more revision that is kept.
        self.has_room_for(&id.stack, &spec)?;
        Arc::make_mut(&mut self.service_mut(id)?.spec).replicas = replicas;
        let what = format!("{} was scaled from {before} to {replicas} instances", id.service);
        self.change_spec(&id.stack, what, |spec| {
            if let Some(service) = spec.services.get_mut(&id.service) {
                service.replicas = replicas;
            }
        });
        self.record(id, "service-scaled", format!("from {before} to {replicas} instances"));
        Ok(Outcome::Revision(revision))
    }

    pub(in crate::state) fn rebalance(&mut self, services: &[ServiceId]) -> Applied {
        for id in services {
            let service = self.service(id).ok_or_else(|| not_found("service", id))?;
            if let Some(why) = service.stays() {
                return Err(Problem::new(Code::Conflict, format!("{id} was not rebalanced")).why(why));
            }
        }
        for id in services {
            self.service_mut(id)?.rebalancing = true;
            self.record(id, "rebalance-begun", "instances move to hosts that suit them better");
        }
        self.done()
    }

    pub(in crate::state) fn end_rebalance(&mut self, id: &ServiceId) -> Applied {
        let service = self.service_mut(id)?;
        if std::mem::take(&mut service.rebalancing) {
            self.record(id, "rebalance-done", "no instance would be better off elsewhere");
        }
        self.done()
    }

    pub(in crate::state) fn pin_image(&mut self, id: &ServiceId, expect_revision: u64, digest: &str) -> Applied {
        let service = self.work.stacks.get_mut(&id.stack).and_then(|stack| stack.services.get_mut(&id.service));
        let service = service.ok_or_else(|| not_found("service", id))?;
        if service.revision != expect_revision || service.digest.is_some() {
            return Err(Problem::new(Code::Conflict, format!("The image of {id} is already pinned or was changed")));
        }
        service.digest = Some(digest.to_owned());
        let message = format!("{} is {digest} for this revision", service.spec.container.image);
        self.record(id, "image-pinned", message);
        self.done()
    }
}

/// What failed only because another service did is tried again with it if the revision changes that one.
fn retry_with_changed(services: &mut OrdMap<Name, Service>, revision: u64, at: Timestamp) {
    let changes = |name: &Name| services.get(name).is_some_and(|s| s.rollout.deployment == revision);
    let fails = |s: &Service| s.rollout.state == RolloutState::Failed;
    let again: Vec<Name> = services
        .iter()
        .filter(|(_, service)| fails(service) && service.rollout.because_of.as_ref().is_some_and(changes))
        .map(|(name, _)| name.clone())
        .collect();
    for name in again {
        if let Some(service) = services.get_mut(&name) {
            service.rollout = Rollout::begun(at, service.rollout.promoted, revision);
        }
    }
}
