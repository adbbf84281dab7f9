//! What must hold at every moment. The numbers are those of the design's invariants.

use std::collections::{BTreeMap, BTreeSet};

use agent_core::Action;
use common::{
    directory::Directory,
    host::{Availability, Liveness},
    id::{InstanceId, ServiceId, SlotId},
    instance::{Health, Phase, Want},
    part::{Part, PartId},
    rollout::RolloutState,
    spec::{Mode, Protocol},
    time::Timestamp,
};
use coordinator_core::{
    Batch, Cluster, Command, Outcome, Proposal,
    cluster::{Instance, Service, Task},
    command::Placement,
    plan, view,
};

use crate::host::Host;

/// Nothing, or which rule was broken and by what.
pub type Checked = Result<(), String>;

/// What has been ordered so far, to judge agents by.
#[derive(Default)]
pub struct Oracle {
    /// Instances that the cluster has at some time ordered to end, or has forgotten.
    ended: BTreeSet<InstanceId>,
    /// Instances whose container was reported gone.
    purged: BTreeSet<InstanceId>,
    /// The runs of schedules that were begun, by when they were due.
    begun: BTreeSet<(ServiceId, Timestamp)>,
    /// Instances that ran again after their host had given them up. What was theirs may be another's by
    /// then; Docker gives a port to one of them.
    revived: BTreeSet<InstanceId>,
    /// What jobs have done, by slot.
    done: Vec<(SlotId, Task)>,
    /// What hosts were told of names, step by step.
    directory: Directory,
}

impl Oracle {
    /// Applies a proposal and compares the state before with the state after.
    pub fn apply(&mut self, cluster: &mut Cluster, batch: &Batch) -> Checked {
        let before = cluster.clone();
        for proposal in &batch.proposals {
            self.apply_one(cluster, batch, proposal)?;
        }
        stacks_say_what_is(cluster)?;
        observations_only_rise(&before, cluster)?;
        slots_are_filled_once(cluster)?;
        self.names_lead_where_they_should(&before, cluster)?;
        let revived = |(id, instance): &(&InstanceId, &Instance)| {
            let before = before.instances.get(*id).is_some_and(|before| before.observed.phase.is_terminal());
            before && !instance.observed.phase.is_terminal()
        };
        self.revived.extend(cluster.instances.iter().filter(revived).map(|(id, _)| id.clone()));
        self.hosts_are_not_overbooked(cluster)
    }

    fn apply_one(&mut self, cluster: &mut Cluster, batch: &Batch, proposal: &Proposal) -> Checked {
        let before = cluster.clone();
        let outcome = cluster.apply(&Batch { at: batch.at, proposals: vec![proposal.clone()] });
        if matches!(outcome[..], [Outcome::Rejected(_)]) {
            refusals_change_nothing(&before, batch, &proposal.command)?;
        }
        if let (Command::Place(placement), [Outcome::Done { .. }]) = (&proposal.command, &outcome[..]) {
            only_the_lost_are_replaced(&before, placement.replaces.as_ref(), batch)?;
            hosts_take_what_people_let_them(&before, placement)?;
            self.jobs_end_once(&before, placement)?;
            canaries_are_small(cluster, &placement.slot.service)?;
        }
        if let (Command::Tick { service, due, left_out: None }, [Outcome::Done { .. }]) =
            (&proposal.command, &outcome[..])
            && !self.begun.insert((service.clone(), *due))
        {
            return Err(format!("{service} was run twice for {due}"));
        }
        if let Command::Observe { instances, .. } = &proposal.command {
            let ended = instances.iter().filter_map(|(id, _)| Some((id, cluster.instances.get(id)?)));
            let ended = ended.filter(|(_, i)| i.spec.mode == Mode::Job && i.observed.phase == Phase::Completed);
            self.done.extend(ended.map(|(id, i)| (id.slot.clone(), i.task)));
        }
        // A service that is gone and comes again begins anew.
        self.done.retain(|(slot, _)| cluster.service(&slot.service).is_some_and(|s| s.spec.mode == Mode::Job));
        let gone = |id: &&InstanceId| cluster.instances.get(*id).is_none_or(|i| i.desired.want >= Want::Stop);
        self.ended.extend(before.instances.keys().filter(gone).cloned());
        if let Command::Observe { instances, .. } = &proposal.command {
            let reported_gone = |(id, observed): &&(InstanceId, _)| {
                let observed: &common::instance::Observed = observed;
                observed.phase == Phase::Purged
                    && before.instances.contains_key(id)
                    && !cluster.instances.contains_key(id)
            };
            self.purged.extend(instances.iter().filter(reported_gone).map(|(id, _)| id.clone()));
        }
        Ok(())
    }

    /// I13: the directory that is followed is the one of the state, names what serves and nothing that is to end, and
    /// no two services have the same address.
    fn names_lead_where_they_should(&mut self, before: &Cluster, cluster: &Cluster) -> Checked {
        view::follow(&mut self.directory, before, cluster);
        if self.directory != view::directory(cluster) {
            return Err("I13: the directory is not what the state says".into());
        }
        let serves =
            |id: &InstanceId| cluster.instances.get(id).is_some_and(|i| i.fills_slot() && i.observed.is_serving());
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

    /// I3 and I4: what instances reserve exists, and a port or device is booked once.
    fn hosts_are_not_overbooked(&self, cluster: &Cluster) -> Checked {
        for (host, record) in &cluster.hosts {
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

    /// What has ended well is not done again.
    fn jobs_end_once(&self, before: &Cluster, placement: &Placement) -> Checked {
        let task = before.service(&placement.slot.service).map(Service::task);
        let again = |(slot, done): &(SlotId, Task)| *slot == placement.slot && Some(*done) == task;
        if self.done.iter().any(again) {
            return Err(format!("the job of {} was placed again", placement.slot));
        }
        Ok(())
    }

    /// I9: no agent ends what runs without an order or its own policy; and none starts what is over.
    pub fn judge_action(&self, host: &Host, action: &Action, known: &Cluster, now: Timestamp) -> Checked {
        let part = action.part();
        let instance = &part.instance;
        match action {
            Action::Stop { .. } => {
                let ordered = self.ended.contains(instance) || !known.instances.contains_key(instance);
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

/// Nothing new comes to a host that is cordoned or emptied, and nothing to one that has not its data.
fn hosts_take_what_people_let_them(before: &Cluster, placement: &Placement) -> Checked {
    let host = before.hosts.get(&placement.host).ok_or("a host that is gone got an instance")?;
    if host.availability != Availability::Active {
        return Err(format!("{} was placed on {}, which is {}", placement.slot, host.name, host.availability.word()));
    }
    let home = before.slots.get(&placement.slot).and_then(|slot| slot.home);
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

/// I9: what runs on a host that has been heard of for a while is not replaced, unless it is outdated or its
/// host is emptied.
fn only_the_lost_are_replaced(before: &Cluster, replaced: Option<&InstanceId>, batch: &Batch) -> Checked {
    let Some(replaced) = replaced else { return Ok(()) };
    let Some(instance) = before.instances.get(replaced) else { return Ok(()) };
    match before.hosts.get(&instance.host) {
        Some(host) if host.liveness == Liveness::Ready && !before.must_move(replaced, instance) => {
            Err(format!("I9: {replaced} was replaced at {} although its host is ready", batch.at))
        }
        _ => Ok(()),
    }
}

/// Of a revision that is not promoted there are no more than its canary, which is replaced one by one at most.
fn canaries_are_small(cluster: &Cluster, id: &ServiceId) -> Checked {
    let Some((service, canary)) = cluster.service(id).and_then(|service| Some((service, service.canary()?))) else {
        return Ok(());
    };
    let of_revision = cluster.instances_of(id).filter(|(_, i)| i.fills_slot() && i.is_current(service));
    let slots: BTreeSet<u32> = of_revision.map(|(id, _)| id.slot.slot).collect();
    let most = canary.instances as usize;
    if slots.len() > most { Err(format!("{id} has a canary of {} instead of {most}", slots.len())) } else { Ok(()) }
}

/// I2: of a strict singleton's slot one instance runs at most, wherever.
pub fn strict_singletons_are_alone<'a>(hosts: impl Iterator<Item = &'a Host>) -> Checked {
    let mut running: BTreeMap<&SlotId, &InstanceId> = BTreeMap::new();
    for id in hosts.flat_map(Host::running_guarded).map(|part| &part.instance) {
        if let Some(other) = running.insert(&id.slot, id).filter(|other| *other != id) {
            return Err(format!("I2: {other} and {id} run at the same time"));
        }
    }
    Ok(())
}

/// What a stack is said to be is what its services are.
fn stacks_say_what_is(cluster: &Cluster) -> Checked {
    for (id, stack) in &cluster.stacks {
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

/// I1: a slot has at most one instance that fills it, or two while one takes the place of the other.
fn slots_are_filled_once(cluster: &Cluster) -> Checked {
    let mut filled: BTreeMap<&SlotId, usize> = BTreeMap::new();
    for (id, _) in cluster.instances.iter().filter(|(_, instance)| instance.fills_slot()) {
        let count = filled.entry(&id.slot).or_default();
        *count += 1;
        if *count > 2 {
            return Err(format!("I1: {id} fills a slot that two others fill"));
        }
    }
    Ok(())
}

/// I5: what is observed only rises, what is desired only moves onward, and no instance moves.
fn observations_only_rise(before: &Cluster, after: &Cluster) -> Checked {
    for (id, instance) in &after.instances {
        let Some(earlier) = before.instances.get(id) else { continue };
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
    let back = |(slot, record): &(&SlotId, &coordinator_core::cluster::Slot)| {
        before.slots.get(*slot).is_some_and(|earlier| record.incarnation < earlier.incarnation)
    };
    match after.slots.iter().find(back) {
        Some((slot, _)) => Err(format!("I5: the incarnation of {slot} fell")),
        None => Ok(()),
    }
}

/// I8: a command that is refused changes nothing but the clock.
fn refusals_change_nothing(before: &Cluster, batch: &Batch, command: &Command) -> Checked {
    let mut again = before.clone();
    let outcome = again.apply(&Batch { at: batch.at, proposals: vec![command.clone().into()] });
    if !matches!(outcome[..], [Outcome::Rejected(_)]) {
        // The refusal was that of an earlier request with the same id.
        return Ok(());
    }
    again.clock = before.clock;
    if again == *before { Ok(()) } else { Err(format!("I8: a refused command changed the state: {command:?}")) }
}

/// I11: what runs is what is wanted. Services that fit nowhere may lack instances.
pub fn what_runs_is_wanted<'a>(
    cluster: &Cluster,
    hosts: impl Iterator<Item = &'a Host> + Clone,
    blocked: &BTreeSet<ServiceId>,
) -> Checked {
    for host in hosts.clone() {
        let running: BTreeSet<&PartId> = host.running().collect();
        for part in &running {
            let instance = cluster.instances.get(&part.instance).filter(|i| i.fills_slot() && i.host == host.id());
            let Some(instance) = instance else { return Err(format!("I11: {part} runs and is not wanted")) };
            instances_are_whole(part, &running, instance, host)?;
        }
    }
    let is_main = |part: &&PartId| part.part == Part::Main;
    let running: BTreeSet<&InstanceId> = hosts.flat_map(Host::running).filter(is_main).map(|p| &p.instance).collect();
    for (stack_id, stack) in &cluster.stacks {
        if stack.removing {
            return Err(format!("I12: stack {stack_id} is still being removed"));
        }
        for (name, service) in &stack.services {
            let service_id = stack_id.service(name.clone());
            let wanted = plan::wanted_slots(cluster, &service_id, service);
            for number in wanted.into_iter().filter(|_| !blocked.contains(&service_id)) {
                let slot = service_id.slot(number);
                if service.spec.mode == Mode::Job && cluster.has_ended(&slot, service.task()) {
                    continue;
                }
                let mut filling =
                    cluster.instances_of(&service_id).filter(|(id, instance)| id.slot == slot && instance.fills_slot());
                let Some((id, instance)) = filling.next() else { return Err(format!("I11: nothing fills {slot}")) };
                let waits = service.canary().is_some_and(|canary| canary.promote_after.is_none());
                if service.rollout.state == RolloutState::Paused || waits {
                    // A person has to decide; until then whatever serves goes on.
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

/// Parts run together: all but steps, and sidekicks that have ended well.
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

/// I12: nothing is kept of what is over, one ended instance for each slot aside.
pub fn nothing_is_left_over(cluster: &Cluster) -> Checked {
    let mut kept: BTreeSet<&SlotId> = BTreeSet::new();
    for (id, instance) in cluster.instances.iter().filter(|(_, instance)| !instance.fills_slot()) {
        let ended = instance.desired.want == Want::Stop;
        if !ended {
            return Err(format!("I12: {id} is left over: {:?} {:?}", instance.desired, instance.observed.phase));
        }
        kept.insert(&id.slot);
    }
    let known = |slot: &&SlotId| {
        cluster.stacks.get(&slot.service.stack).is_some_and(|stack| stack.services.contains_key(&slot.service.service))
    };
    match cluster.slots.keys().find(|slot| !known(slot)) {
        Some(slot) => Err(format!("I12: {slot} belongs to no service")),
        None => Ok(()),
    }
}
