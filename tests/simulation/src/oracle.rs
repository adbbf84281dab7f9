//! The invariants, numbered as in the design.

use std::collections::{BTreeMap, BTreeSet};

use agent_core::Action;
use common::{
    directory::Directory,
    host::{Availability, Liveness},
    id::{HostId, InstanceId, ServiceId, SlotId},
    instance::{Health, Phase, StopReason, Verdict, Want},
    part::{Part, PartId},
    rollout::RolloutState,
    spec::{Condition, Mode, Protocol, RestartCondition},
    time::Timestamp,
};
use coordinator_core::{
    Batch, Command, Outcome, Plan, Proposal, State,
    command::Placement,
    plan::{self, Blocked},
    state::{Instance, Service, Task},
    view,
};

use crate::host::Host;

/// The broken rule and its cause, if any.
pub type Checked = Result<(), String>;

/// The history of orders and events by which agents and plans are judged.
#[derive(Default)]
pub struct Oracle {
    /// Instances that the cluster has ordered to end, or has forgotten.
    ended: BTreeSet<InstanceId>,
    /// Instances whose container was reported as removed.
    purged: BTreeSet<InstanceId>,
    /// The started runs of schedules, by their due time.
    begun: BTreeSet<(ServiceId, Timestamp)>,
    /// Instances that ran again after their host had given up on them. Their ports may have been booked for others;
    /// Docker gives a port to only one of them.
    revived: BTreeSet<InstanceId>,
    /// The tasks that slots have completed.
    done: BTreeSet<(SlotId, Key)>,
    /// The tasks that have failed for good in slots since a person last requested a retry.
    failed: BTreeSet<(SlotId, Key)>,
    /// The retries that slots have used, by task and revision.
    retries: BTreeMap<(SlotId, Key, u64), u32>,
    /// Slots and revisions with a failed instance.
    failures: BTreeSet<(SlotId, u64)>,
    /// The directory as hosts have received it, step by step.
    directory: Directory,
}

impl Oracle {
    /// Applies a proposal and compares the states before and after.
    pub fn apply(&mut self, cluster: &mut State, batch: &Batch) -> Checked {
        let before = cluster.clone();
        for proposal in &batch.proposals {
            self.apply_one(cluster, batch, proposal)?;
        }
        stacks_say_what_is(cluster)?;
        observations_only_rise(&before, cluster)?;
        slots_are_filled_once(cluster)?;
        self.names_lead_where_they_should(&before, cluster)?;
        let revived = |(id, instance): &(&InstanceId, &Instance)| {
            let before = before.instances().get(*id).is_some_and(|before| before.observed.phase.is_terminal());
            before && !instance.observed.phase.is_terminal()
        };
        self.revived.extend(cluster.instances().iter().filter(revived).map(|(id, _)| id.clone()));
        self.hosts_are_not_overbooked(cluster)
    }

    fn apply_one(&mut self, cluster: &mut State, batch: &Batch, proposal: &Proposal) -> Checked {
        let before = cluster.clone();
        let outcome = cluster.apply(&Batch { at: batch.at, proposals: vec![proposal.clone()] });
        if matches!(outcome[..], [Outcome::Rejected(_)]) {
            refusals_change_nothing(&before, batch, &proposal.command)?;
        }
        if let (Command::Place(placement), [Outcome::Done { .. }]) = (&proposal.command, &outcome[..]) {
            only_the_lost_are_replaced(&before, placement.replaces.as_ref(), batch)?;
            hosts_take_what_people_let_them(&before, placement)?;
            self.ended_is_ended(&before, placement)?;
            self.dependencies_come_first(&before, placement)?;
            self.retries_go_on(&before, cluster, placement)?;
            canaries_are_small(cluster, &placement.slot.service)?;
        }
        if let (Command::Tick { service, due, left_out: None }, [Outcome::Done { .. }]) =
            (&proposal.command, &outcome[..])
            && !self.begun.insert((service.clone(), *due))
        {
            return Err(format!("{service} was run twice for {due}"));
        }
        if let Command::Observe { host, instances } = &proposal.command {
            for (id, _) in instances {
                self.note_end(&before, cluster, *host, id);
            }
        }
        if let (Command::Retry(service), [Outcome::Done { .. }]) = (&proposal.command, &outcome[..]) {
            // The counters of slots that have not failed are kept.
            let is_anew =
                |slot: &SlotId| slot.service == *service && before.slots().get(slot) != cluster.slots().get(slot);
            self.failed.retain(|(slot, _)| slot.service != *service);
            self.retries.retain(|(slot, ..), _| !is_anew(slot));
            self.failures.retain(|(slot, _)| slot.service != *service);
        }
        // A service that is removed and deployed again starts from zero.
        let is_there = |slot: &SlotId| cluster.slots().contains_key(slot);
        self.done.retain(|(slot, _)| is_there(slot));
        self.failed.retain(|(slot, _)| is_there(slot));
        self.retries.retain(|(slot, ..), _| is_there(slot));
        self.failures.retain(|(slot, _)| is_there(slot));
        let gone = |id: &&InstanceId| cluster.instances().get(*id).is_none_or(|i| i.desired.want >= Want::Stop);
        self.ended.extend(before.instances().keys().filter(gone).cloned());
        if let Command::Observe { instances, .. } = &proposal.command {
            let reported_gone = |(id, observed): &&(InstanceId, _)| {
                let observed: &common::instance::Observed = observed;
                observed.phase == Phase::Purged
                    && before.instances().contains_key(id)
                    && !cluster.instances().contains_key(id)
            };
            self.purged.extend(instances.iter().filter(reported_gone).map(|(id, _)| id.clone()));
        }
        Ok(())
    }

    /// I13: the directory built from differences equals that of the state; it names instances that serve and none that
    /// must end, and no two services share an address.
    fn names_lead_where_they_should(&mut self, before: &State, cluster: &State) -> Checked {
        view::follow(&mut self.directory, before, cluster);
        if self.directory != view::directory(cluster) {
            return Err("I13: the directory is not what the state says".into());
        }
        let serves =
            |id: &InstanceId| cluster.instances().get(id).is_some_and(|i| i.fills_slot() && i.observed.is_serving());
        if let Some((id, _)) = self.directory.instances().find(|(id, endpoint)| endpoint.serves && !serves(id)) {
            return Err(format!("I13: others are led to {id}, which does not serve"));
        }
        let mut owners = BTreeMap::new();
        for (id, listing) in self.directory.services() {
            let address = listing.address.ok_or_else(|| format!("I13: {id} has no address"))?;
            if let Some(other) = owners.insert(address, id) {
                return Err(format!("I13: {id} and {other} have the same address"));
            }
        }
        Ok(())
    }

    /// I3 and I4: reserved resources exist, and each port and device is booked only once.
    fn hosts_are_not_overbooked(&self, cluster: &State) -> Checked {
        for (host, record) in cluster.hosts() {
            let capacity = record.capacity();
            if cluster.instances_on(*host).any(|(id, _)| self.revived.contains(id)) {
                continue;
            }
            let reserved = cluster.bookings(*host).reserved;
            if reserved.memory > capacity.memory || reserved.cpu > capacity.cpu {
                return Err(format!("I3: more than all of {} is reserved: {reserved:?}", record.name));
            }
            let mut ports: BTreeMap<(u16, Protocol), &InstanceId> = BTreeMap::new();
            let mut devices: BTreeMap<(String, String), &InstanceId> = BTreeMap::new();
            for (id, instance) in cluster.instances_on(*host).filter(|(_, instance)| instance.holds_bookings()) {
                for device in &instance.devices {
                    if let Some(other) = devices.insert(device.booking(), id) {
                        return Err(format!(
                            "I4: {other} and {id} have {} {} on {}",
                            device.kind, device.id, record.name
                        ));
                    }
                }
                for port in &instance.ports {
                    if let Some(other) = ports.insert(port.booking(), id) {
                        return Err(format!("I4: {other} and {id} have port {} on {}", port.host, record.name));
                    }
                }
            }
        }
        Ok(())
    }

    /// Records the end of an instance from an accepted observation.
    fn note_end(&mut self, before: &State, after: &State, host: HostId, id: &InstanceId) {
        let (Some(old), Some(new)) = (before.instances().get(id), after.instances().get(id)) else { return };
        let is_lost = matches!(old.verdict, Verdict::Lost { .. });
        if new.host != host || old.observed == new.observed {
            return;
        }
        let (slot, task, revision) = (id.slot.clone(), key(new.task), new.revision);
        // Observations after the end are not new.
        if !is_lost && old.observed.retries != new.observed.retries {
            self.retries.insert((slot.clone(), task, revision), new.observed.retries);
        }
        if old.observed.phase == new.observed.phase {
            return;
        }
        let policy = new.spec.restart_of(&Part::Main);
        let is_final = policy.condition == RestartCondition::None
            || policy.max_attempts.is_some_and(|most| new.observed.retries >= most);
        match new.observed.phase {
            Phase::Completed => {
                self.failed.remove(&(slot.clone(), task));
                self.done.insert((slot, task));
            }
            Phase::Failed if !is_lost && is_final => drop(self.failed.insert((slot, task))),
            Phase::Failed | Phase::Rejected if !is_lost => {
                if new.observed.phase == Phase::Failed && new.fills_slot() {
                    *self.retries.entry((slot.clone(), task, revision)).or_default() += 1;
                }
                self.failures.insert((slot, revision));
            }
            _ => {}
        }
    }

    /// I14: a task that has ended, well or for good, is not started again anywhere.
    fn ended_is_ended(&self, before: &State, placement: &Placement) -> Checked {
        let Some(service) = before.service(&placement.slot.service) else { return Ok(()) };
        let task = task_of(service, placement.revision);
        for (over, how) in [(&self.done, "done"), (&self.failed, "failed for good")] {
            if over.contains(&(placement.slot.clone(), task)) {
                return Err(format!("I14: {} was placed again for {task:?}, which is {how}", placement.slot));
            }
        }
        Ok(())
    }

    /// I15: a service changes only after its dependencies.
    fn dependencies_come_first(&self, before: &State, placement: &Placement) -> Checked {
        let id = &placement.slot.service;
        let Some(service) = before.service(id).filter(|service| placement.revision == service.revision) else {
            return Ok(());
        };
        match self.unreached(before, id, service) {
            Some(waits) => Err(format!("I15: {} was placed before {waits}", placement.slot)),
            None => Ok(()),
        }
    }

    /// The first dependency that a changing service must still wait for.
    fn unreached(&self, cluster: &State, id: &ServiceId, service: &Service) -> Option<String> {
        let changes = service.stable.as_ref().is_none_or(|stable| stable.revision != service.revision);
        if !changes || service.rollout.state != RolloutState::Rolling {
            return None;
        }
        for (name, condition) in &service.spec.depends_on {
            let on_id = id.stack.service(name.clone());
            let Some(on) = cluster.service(&on_id) else { continue };
            let task = task_of(on, on.revision);
            for number in plan::wanted_slots(cluster, &on_id, on) {
                let slot = on_id.slot(number);
                let is_done = task == BEFORE_THE_FIRST || self.done.contains(&(slot.clone(), task));
                let mut current =
                    cluster.instances_of_slot(&slot).filter(|(_, i)| i.fills_slot() && i.revision == on.revision);
                let is_there = on.rollout.state == RolloutState::Done
                    || is_done && *condition == Condition::Started
                    || on.spec.mode == Mode::Job
                    || current.any(|(_, i)| i.observed.phase == Phase::Running);
                if !if *condition == Condition::Completed { is_done } else { is_there } {
                    return Some(format!("{slot} was {condition:?}"));
                }
            }
        }
        None
    }

    /// Whether an instance of an earlier revision is the only one in its slot.
    fn stands_in(&self, cluster: &State, id: &InstanceId, service: &Service) -> bool {
        let task = task_of(service, service.revision);
        let over = [&self.done, &self.failed].iter().any(|all| all.contains(&(id.slot.clone(), task)));
        let mut filling = cluster.instances_of_slot(&id.slot).filter(|(_, i)| i.fills_slot());
        !over && filling.all(|(other, i)| other == id && i.revision != service.revision)
    }

    /// I16: retries are counted for the slot and its task, over all instances and hosts.
    fn retries_go_on(&self, before: &State, after: &State, placement: &Placement) -> Checked {
        let Some(service) = before.service(&placement.slot.service) else { return Ok(()) };
        let slot = &placement.slot;
        let task = task_of(service, placement.revision);
        let known = self.retries.get(&(slot.clone(), task, placement.revision)).copied().unwrap_or(0);
        let id = slot.instance(placement.expect_incarnation + 1);
        match after.instances().get(&id).map(|instance| instance.observed.retries) {
            Some(found) if found != known => Err(format!("I16: {id} begins with {found} retries, not {known}")),
            _ => Ok(()),
        }
    }

    /// I17 and I18 for plans: instances that do not change yet are not ended for the change, and a revision starts
    /// without earlier failures.
    pub fn judge_plan(&self, cluster: &State, planned: &Plan) -> Checked {
        for command in &planned.commands {
            let Command::Desire { instance, desired } = command else { continue };
            let id = instance.service();
            let Some(service) = cluster.service(id).filter(|_| desired.reason == Some(StopReason::Superseded)) else {
                continue;
            };
            let is_run = service.spec.cron.is_some();
            if let Some(waits) = self.unreached(cluster, id, service).filter(|_| !is_run)
                && self.stands_in(cluster, instance, service)
            {
                return Err(format!("I17: {instance} is ended before {waits}"));
            }
            let waits = service.spec.depends_on.iter().any(|(name, condition)| {
                let on = id.stack.service(name.clone());
                let fails = |slot: &SlotId, service: &Service| {
                    self.failed.contains(&(slot.clone(), task_of(service, service.revision)))
                };
                let slots = |on_service: &Service| plan::wanted_slots(cluster, &on, on_service);
                let any = |s: &Service| slots(s).into_iter().any(|number| fails(&on.slot(number), s));
                *condition == Condition::Completed && cluster.service(&on).is_some_and(any)
            });
            let goes_back = service.stable.as_ref().is_some_and(|stable| stable.revision == service.revision);
            if waits && !is_run && !goes_back && service.rollout.state == RolloutState::Rolling {
                return Err(format!("I17: {instance} is ended although what its service depends on has failed"));
            }
        }
        for (id, blocked) in planned.blocked.iter().flat_map(|(id, all)| all.iter().map(move |one| (id, one))) {
            let Blocked::BacksOff { slot, .. } = blocked else { continue };
            let Some(service) = cluster.service(id) else { continue };
            let held_back = cluster.held_back(id, service).map(|version| version.revision);
            let has_failed = |revision: u64| self.failures.contains(&(id.slot(*slot), revision));
            if !has_failed(service.revision) && !held_back.is_some_and(has_failed) {
                return Err(format!("I18: slot {slot} of {id} backs off, and its revision has not failed"));
            }
        }
        Ok(())
    }

    /// I9: no agent ends a running instance without an order or its own policy, and none starts an instance that is
    /// over.
    pub fn judge_action(&self, host: &Host, action: &Action, known: &State, now: Timestamp) -> Checked {
        let part = action.part();
        let instance = &part.instance;
        match action {
            Action::Stop { .. } => {
                let ordered = self.ended.contains(instance) || !known.instances().contains_key(instance);
                let own_reason = host.is_unhealthy(part)
                    || host.is_without_lease(part, now)
                    || host.has_new_network(part)
                    || host.is_over(instance);
                if !ordered && !own_reason {
                    return Err(format!("I9: {part} was stopped, and nobody had ordered that"));
                }
            }
            Action::Create(_) | Action::Start { .. } if self.purged.contains(instance) => {
                return Err(format!("{instance} was started again after its end"));
            }
            _ => {}
        }
        Ok(())
    }
}

/// I19: a host that reports the end of an instance runs no part of it.
pub fn what_has_ended_does_not_run(host: &Host) -> Checked {
    for (id, observed) in host.report.instances.iter().filter(|(_, observed)| observed.phase.is_terminal()) {
        if let Some(part) = host.running().find(|part| part.instance == *id) {
            return Err(format!("I19: {id} is {:?}, and {part} runs", observed.phase));
        }
    }
    Ok(())
}

/// A task as a key: a revision, or the due time of a run.
type Key = (u8, u64);

/// The key before the first run.
const BEFORE_THE_FIRST: Key = (1, 0);

fn key(task: Task) -> Key {
    match task {
        Task::Revision(revision) => (0, revision),
        Task::Run(due) => (1, due.0),
    }
}

/// The task of an instance of this revision.
fn task_of(service: &Service, revision: u64) -> Key {
    if service.spec.cron.is_some() { (1, service.runs.due.0) } else { (0, revision) }
}

/// Cordoned and draining hosts get no new instances, and no host gets an instance whose data is elsewhere.
fn hosts_take_what_people_let_them(before: &State, placement: &Placement) -> Checked {
    let host = before.hosts().get(&placement.host).ok_or("a host that is gone got an instance")?;
    if host.availability != Availability::Active {
        return Err(format!("{} was placed on {}, which is {}", placement.slot, host.name, host.availability.word()));
    }
    let home = before.slots().get(&placement.slot).and_then(|slot| slot.home);
    let service = before.service(&placement.slot.service);
    let held_back = service
        .and_then(|s| before.held_back(&placement.slot.service, s))
        .filter(|version| version.revision == placement.revision);
    let spec = held_back.map(|version| &version.spec).or(service.map(|service| &service.spec));
    let stays = spec.is_some_and(|spec| spec.mode != Mode::Global && spec.is_pinned());
    match home {
        Some(home) if stays && home != placement.host => {
            Err(format!("{} was placed away from its data", placement.slot))
        }
        _ => Ok(()),
    }
}

/// I9: an instance on a host that has been heard for a while is not replaced, unless it is outdated or its host drains.
fn only_the_lost_are_replaced(before: &State, replaced: Option<&InstanceId>, batch: &Batch) -> Checked {
    let Some(replaced) = replaced else { return Ok(()) };
    let Some(instance) = before.instances().get(replaced) else { return Ok(()) };
    match before.hosts().get(&instance.host) {
        Some(host) if host.liveness == Liveness::Ready && !before.must_move(replaced, instance) => {
            Err(format!("I9: {replaced} was replaced at {} although its host is ready", batch.at))
        }
        _ => Ok(()),
    }
}

/// A revision that is not promoted has at most its canary, which is replaced one by one.
fn canaries_are_small(cluster: &State, id: &ServiceId) -> Checked {
    let Some((service, canary)) = cluster.service(id).and_then(|service| Some((service, service.canary()?))) else {
        return Ok(());
    };
    let of_revision = cluster.instances_of(id).filter(|(_, i)| i.fills_slot() && i.is_current(service));
    let slots: BTreeSet<u32> = of_revision.map(|(id, _)| id.slot.slot).collect();
    let most = canary.instances as usize;
    if slots.len() > most { Err(format!("{id} has a canary of {} instead of {most}", slots.len())) } else { Ok(()) }
}

/// I2: at most one instance of a strict singleton's slot runs anywhere.
pub fn strict_singletons_are_alone<'a>(hosts: impl Iterator<Item = &'a Host>) -> Checked {
    let mut running: BTreeMap<&SlotId, &InstanceId> = BTreeMap::new();
    for id in hosts.flat_map(Host::running_guarded).map(|part| &part.instance) {
        if let Some(other) = running.insert(&id.slot, id).filter(|other| *other != id) {
            return Err(format!("I2: {other} and {id} run at the same time"));
        }
    }
    Ok(())
}

/// The state of a stack matches that of its services.
fn stacks_say_what_is(cluster: &State) -> Checked {
    for (id, stack) in cluster.stacks() {
        let says = |(name, service): (&_, &Service)| stack.spec.services.get(name) == Some(&*service.spec);
        if let Some(violation) = stack.spec.validate().first() {
            return Err(format!("stack {id} is not a valid one: {violation}"));
        }
        if stack.spec.services.len() != stack.services.len() || !stack.services.iter().all(says) {
            return Err(format!("stack {id} is not what its spec says"));
        }
    }
    Ok(())
}

/// I1: a slot has at most one instance that fills it, or two while one replaces the other.
fn slots_are_filled_once(cluster: &State) -> Checked {
    let mut filled: BTreeMap<&SlotId, usize> = BTreeMap::new();
    for (id, _) in cluster.instances().iter().filter(|(_, instance)| instance.fills_slot()) {
        let count = filled.entry(&id.slot).or_default();
        *count += 1;
        if *count > 2 {
            return Err(format!("I1: {id} fills a slot that two others fill"));
        }
    }
    Ok(())
}

/// I5: observations only rise, wanted states only move forward, and no instance changes its host.
fn observations_only_rise(before: &State, after: &State) -> Checked {
    for (id, instance) in after.instances() {
        let Some(earlier) = before.instances().get(id) else { continue };
        if !instance.observed.may_follow(&earlier.observed) {
            return Err(format!("I5: {id} fell from {:?} to {:?}", earlier.observed, instance.observed));
        }
        if instance.desired.want < earlier.desired.want {
            return Err(format!("I5: {id} is wanted again after its end was ordered"));
        }
        if (instance.host, instance.revision) != (earlier.host, earlier.revision) {
            return Err(format!("I5: {id} moved"));
        }
    }
    let back = |(slot, record): &(&SlotId, &coordinator_core::state::Slot)| {
        before.slots().get(*slot).is_some_and(|earlier| record.incarnation < earlier.incarnation)
    };
    match after.slots().iter().find(back) {
        Some((slot, _)) => Err(format!("I5: the incarnation of {slot} fell")),
        None => Ok(()),
    }
}

/// I8: a refused command changes nothing but the clock.
fn refusals_change_nothing(before: &State, batch: &Batch, command: &Command) -> Checked {
    let mut again = before.clone();
    let outcome = again.apply(&Batch { at: batch.at, proposals: vec![command.clone().into()] });
    if !matches!(outcome[..], [Outcome::Rejected(_)]) {
        // The refusal belonged to an earlier request with the same id.
        return Ok(());
    }
    let mut expected = before.clone();
    expected.apply(&Batch { at: batch.at, proposals: Vec::new() });
    if again == expected { Ok(()) } else { Err(format!("I8: a refused command changed the state: {command:?}")) }
}

/// I11: the running instances are the wanted ones. Services that fit nowhere may lack instances.
pub fn what_runs_is_wanted<'a>(
    cluster: &State,
    hosts: impl Iterator<Item = &'a Host> + Clone,
    blocked: &BTreeSet<ServiceId>,
) -> Checked {
    for host in hosts.clone() {
        let running: BTreeSet<&PartId> = host.running().collect();
        for part in &running {
            let instance = cluster.instances().get(&part.instance).filter(|i| i.fills_slot() && i.host == host.id());
            let Some(instance) = instance else { return Err(format!("I11: {part} runs and is not wanted")) };
            instances_are_whole(part, &running, instance, host)?;
        }
    }
    let is_main = |part: &&PartId| part.part == Part::Main;
    let running: BTreeSet<&InstanceId> = hosts.flat_map(Host::running).filter(is_main).map(|p| &p.instance).collect();
    for (stack_id, stack) in cluster.stacks() {
        if stack.removing {
            return Err(format!("I12: stack {stack_id} is still being removed"));
        }
        for (name, service) in &stack.services {
            let service_id = stack_id.service(name.clone());
            let wanted = plan::wanted_slots(cluster, &service_id, service);
            for number in wanted.into_iter().filter(|_| !blocked.contains(&service_id)) {
                let slot = service_id.slot(number);
                // While a rollout is stopped, slots may keep what served before, and that may have ended by design.
                let held_back = cluster.held_back(&service_id, service).map(|version| version.revision);
                let mut tasks =
                    held_back.into_iter().chain([service.revision]).map(|revision| service.task_of(revision));
                if tasks.any(|task| cluster.has_ended(&slot, task)) || service.rollout.state == RolloutState::Failed {
                    continue;
                }
                let mut filling =
                    cluster.instances_of(&service_id).filter(|(id, instance)| id.slot == slot && instance.fills_slot());
                let Some((id, instance)) = filling.next() else { return Err(format!("I11: nothing fills {slot}")) };
                let waits = service.canary().is_some_and(|canary| canary.promote_after.is_none());
                if service.rollout.state == RolloutState::Paused || waits {
                    // A person must decide; until then the serving instances stay.
                    continue;
                }
                if let Some((other, _)) = filling.next() {
                    return Err(format!("I11: {id} and {other} both fill {slot}"));
                }
                if !instance.is_current(service) {
                    return Err(format!("I11: {id} is of revision {}, not {}", instance.revision, service.revision));
                }
                if service.spec.mode == Mode::Job && instance.observed.phase == Phase::Completed {
                    return Err(format!("I11: {id} has ended well, and its job is not done"));
                }
                let over = matches!(instance.observed.phase, Phase::Completed | Phase::Failed);
                if !over && !running.contains(id) {
                    return Err(format!("I11: {id} does not run; it is {:?}", instance.observed));
                }
                let believed =
                    instance.observed.phase == Phase::Running && instance.observed.health != Health::Starting;
                if !over && !believed {
                    return Err(format!("I11: {id} runs, and the cluster believes {:?}", instance.observed));
                }
            }
        }
    }
    Ok(())
}

/// All parts of an instance run, except steps, and sidekicks that have ended well.
fn instances_are_whole(part: &PartId, running: &BTreeSet<&PartId>, instance: &Instance, host: &Host) -> Checked {
    let order = instance.spec.start_order(&part.instance.service().service).unwrap_or_default();
    for other in order.into_iter().map(|other| part.instance.part(other)) {
        let is_step = matches!(other.part, Part::Step(_));
        let may_rest = matches!(other.part, Part::Sidekick(_)) && host.has_ended_well(&other);
        if running.contains(&other) == is_step && !may_rest {
            return Err(format!(
                "I11: of {}, {part} runs and {other} does {}",
                part.instance,
                if is_step { "too" } else { "not" }
            ));
        }
    }
    Ok(())
}

/// I12: no records remain of what is over, except one ended instance per slot.
pub fn nothing_is_left_over(cluster: &State) -> Checked {
    let mut kept: BTreeSet<&SlotId> = BTreeSet::new();
    for (id, instance) in cluster.instances().iter().filter(|(_, instance)| !instance.fills_slot()) {
        let ended = instance.desired.want == Want::Stop;
        if !ended {
            return Err(format!("I12: {id} is left over: {:?} {:?}", instance.desired, instance.observed.phase));
        }
        kept.insert(&id.slot);
    }
    let known = |slot: &&SlotId| {
        cluster
            .stacks()
            .get(&slot.service.stack)
            .is_some_and(|stack| stack.services.contains_key(&slot.service.service))
    };
    match cluster.slots().keys().find(|slot| !known(slot)) {
        Some(slot) => Err(format!("I12: {slot} belongs to no service")),
        None => Ok(()),
    }
}
