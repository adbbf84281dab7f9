//! Slots and the instances that fill them.

use std::{borrow::Cow, collections::BTreeSet, net::Ipv4Addr, sync::Arc};

use common::{
    device::BoundDevice,
    error::{Code, Problem},
    id::{HostId, InstanceId, ServiceId, SlotId, StackId},
    instance::{BoundPort, Desired, Health, Observed, Phase, StopReason, Verdict, Want},
    network::{Backend, Subnet},
    output::LastLines,
    spec::{Mode, Protocol, Resources, ServiceSpec},
    time::Timestamp,
};
use imbl::OrdSet;
use serde::{Deserialize, Serialize};

use crate::level;

use super::{
    Applied, Back, Service, State, not_found,
    runs::{End, Task, Tries},
    shortened, size_of,
};

/// The longest text that is stored of what a host observes of an instance, in characters.
const MAX_MESSAGE: usize = 500;
/// What an agent sends of one instance is within this many bytes.
const MAX_OBSERVED: usize = 8 << 10;

/// A service's place number and its history.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Slot {
    /// How many instances it has had.
    pub incarnation: u64,
    /// What was tried of its last tasks.
    pub tries: Vec<Tries>,
    /// The host that holds its data, if it mounts a volume.
    pub home: Option<HostId>,
    /// Which tasks of it are over, the last one at the end.
    pub ended: Vec<End>,
}

/// One incarnation of a slot, on one host for life.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Instance {
    /// The service's revision that it was made from.
    pub revision: u64,
    /// What it is to do; never changes.
    pub task: Task,
    /// What it runs; never changes.
    pub spec: Arc<ServiceSpec>,
    /// Its host; it changes only when another one takes the whole place of that host.
    pub host: HostId,
    /// The host ports booked for it; never change.
    pub ports: Vec<BoundPort>,
    /// The host's devices that its parts have to themselves; never change.
    pub devices: Vec<BoundDevice>,
    /// What the leader wants of it.
    pub desired: Desired,
    /// What its host observes.
    pub observed: Observed,
    /// Whether it can be heard of.
    pub verdict: Verdict,
    /// When it was placed.
    pub created_at: Timestamp,
    /// Since when it serves without a break.
    pub serving_since: Option<Timestamp>,
    /// Whether it has served long enough once to show that its revision can.
    pub proven: bool,
}

impl Instance {
    /// Sets all times back that the coordinators have noted.
    pub(in crate::state) fn set_back(&mut self, back: Back) {
        back.time(&mut self.created_at);
        self.serving_since.iter_mut().for_each(|since| back.time(since));
        if let Verdict::Unknown { since } | Verdict::Lost { since } = &mut self.verdict {
            back.time(since);
        }
    }

    /// Whether it fills its slot: wanted, and not given up.
    pub fn fills_slot(&self) -> bool {
        self.desired.want <= Want::Run && !matches!(self.verdict, Verdict::Lost { .. })
    }

    /// Whether it is what its service wants now: of its revision, or, of a job, for its task.
    pub fn is_current(&self, service: &Service) -> bool {
        match service.spec.mode {
            Mode::Job => self.task == service.task(),
            Mode::Replicated | Mode::Global => self.revision == service.revision,
        }
    }

    /// Whether it serves, and has done so as long as its service asks before it counts.
    pub fn is_settled(&self, now: Timestamp) -> bool {
        self.serving_since.is_some() && (self.proven || self.settles_at().is_some_and(|at| at <= now))
    }

    /// When it will have served that long, if it goes on serving.
    pub fn settles_at(&self) -> Option<Timestamp> {
        Some(self.serving_since? + self.spec.update.monitor)
    }

    /// Notes whether it serves.
    fn note_serving(&mut self, before: &Observed, clock: Timestamp) {
        let broke_off = !self.observed.is_serving() || self.observed.restart != before.restart;
        if broke_off {
            self.proven |= self.is_settled(clock);
            self.serving_since = None;
        }
        if self.observed.is_serving() && self.serving_since.is_none() {
            self.serving_since = Some(clock);
        }
    }

    /// Whether nothing else of its slot may run beside it.
    pub fn holds_back(&self, service: &Service) -> bool {
        self.spec.strict_singleton || service.spec.strict_singleton
    }

    /// Whether its program may still run, whatever has been ordered.
    pub fn may_run(&self) -> bool {
        !self.observed.phase.is_terminal() && !matches!(self.verdict, Verdict::Lost { .. })
    }

    /// Whether it still occupies what was booked for it on its host.
    pub fn holds_bookings(&self) -> bool {
        !self.observed.phase.is_terminal() && !matches!(self.verdict, Verdict::Lost { .. })
    }
}

/// What is taken on a host.
#[derive(Debug, Clone, Default)]
pub struct Bookings {
    /// The reserved amounts.
    pub reserved: Resources,
    /// The booked ports.
    pub ports: BTreeSet<(u16, Protocol)>,
    /// The booked devices, by kind and id.
    pub devices: BTreeSet<(String, String)>,
}

impl Bookings {
    /// What these instances take together.
    pub fn of<'a>(instances: impl IntoIterator<Item = &'a Instance>) -> Bookings {
        let mut bookings = Bookings::default();
        for instance in instances.into_iter().filter(|instance| instance.holds_bookings()) {
            bookings.add(&instance.spec, instance.ports.iter().map(BoundPort::booking), &instance.devices);
        }
        bookings
    }

    /// Adds what one more instance takes.
    pub fn add(
        &mut self,
        spec: &ServiceSpec,
        ports: impl IntoIterator<Item = (u16, Protocol)>,
        devices: &[BoundDevice],
    ) {
        self.reserved = self.reserved + spec.reservations();
        self.ports.extend(ports);
        self.devices.extend(devices.iter().map(BoundDevice::booking));
    }
}

impl State {
    /// The instances on a host.
    pub fn instances_on(&self, host: HostId) -> impl Iterator<Item = (&InstanceId, &Instance)> {
        self.on(host, &self.work.by_host)
    }

    /// The strict singletons on a host.
    pub fn strict_instances_on(&self, host: HostId) -> impl Iterator<Item = (&InstanceId, &Instance)> {
        self.on(host, &self.work.strict_by_host)
    }

    fn on<'a>(
        &'a self,
        host: HostId,
        by_host: &'a OrdSet<(HostId, InstanceId)>,
    ) -> impl Iterator<Item = (&'a InstanceId, &'a Instance)> {
        let of_host = by_host.range((host, least_instance())..).take_while(move |(on, _)| *on == host);
        of_host.filter_map(|(_, id)| self.work.instances.get(id).map(|instance| (id, instance)))
    }

    /// The instances of a service, by slot and incarnation.
    pub fn instances_of(&self, service: &ServiceId) -> impl Iterator<Item = (&InstanceId, &Instance)> {
        self.work.instances.range(service.slot(0).instance(0)..=service.slot(u32::MAX).instance(u64::MAX))
    }

    /// The instances of a slot, by incarnation.
    pub fn instances_of_slot(&self, slot: &SlotId) -> impl Iterator<Item = (&InstanceId, &Instance)> {
        self.work.instances.range(slot.instance(0)..=slot.instance(u64::MAX))
    }

    /// The instances of a stack.
    pub fn instances_of_stack(&self, stack: &StackId) -> impl Iterator<Item = (&InstanceId, &Instance)> {
        let stack = stack.clone();

        self.work.instances.range(least_instance_of(&stack)..).take_while(move |(id, _)| *id.stack() == stack)
    }

    /// The instance that counts in a slot: the newest of the service's revision, or else the newest. Another
    /// one may fill the slot as well while this one takes its place.
    pub fn keeper(&self, slot: &SlotId) -> Option<(&InstanceId, &Instance)> {
        let service = self.service(&slot.service);
        let filling = self.instances_of_slot(slot).filter(|(_, i)| i.fills_slot());
        filling.max_by_key(|(id, i)| (service.is_some_and(|service| i.is_current(service)), id.incarnation))
    }

    /// Whether an instance that runs well has to go once another one serves.
    pub fn must_move(&self, id: &InstanceId, instance: &Instance) -> bool {
        let service = self.service(id.service());
        let leaves = |service: &Service| !instance.is_current(service) || service.rebalancing;
        service.is_some_and(leaves) || self.is_draining(instance.host)
    }

    /// Whether a host is being emptied.
    pub fn is_draining(&self, host: HostId) -> bool {
        self.hosts().get(&host).is_some_and(|host| host.availability.is_emptying())
    }

    /// What is taken on a host.
    pub fn bookings(&self, host: HostId) -> Bookings {
        Bookings::of(self.instances_on(host).map(|(_, instance)| instance))
    }

    pub(in crate::state) fn desire(&mut self, id: &InstanceId, desired: Desired) -> Applied {
        let instance = self.work.instances.get_mut(id).ok_or_else(|| not_found("instance", id))?;
        if desired.want <= instance.desired.want {
            return Err(Problem::new(
                Code::Conflict,
                format!("{id} already has the order {:?}", instance.desired.want),
            ));
        }
        instance.desired = desired;
        let reason = match desired.reason {
            Some(StopReason::ScaledDown) => "the service wants fewer instances",
            Some(StopReason::Superseded) => "a newer revision replaces it",
            Some(StopReason::Removed) => "its service was removed",
            Some(StopReason::Duplicate) => "another instance took its slot while its host was away",
            Some(StopReason::Ended) => "it has ended",
            Some(StopReason::Drained) => "its host is being emptied",
            Some(StopReason::Rebalanced) => "another host suits it better",
            Some(StopReason::Stranded) => "its host cannot run it now, and another one can",
            Some(StopReason::RolledBack) => "its revision failed",
            None => "it is wanted",
        };
        self.record(id, "instance-ordered", format!("{:?}: {reason}", desired.want));
        self.done()
    }

    pub(in crate::state) fn observe(&mut self, host: HostId, observations: &[(InstanceId, Observed)]) -> Applied {
        for (id, observed) in observations {
            self.observe_one(host, id, observed);
        }
        self.done()
    }

    fn observe_one(&mut self, host: HostId, id: &InstanceId, observed: &Observed) {
        let clock = self.basics.clock;
        let mut observed = bounded(observed);
        if self.is_foreign_address(host, observed.address) {
            observed.to_mut().address = None;
        }
        let observed: &Observed = &observed;
        // A host speaks for its own instances; what the cluster no longer knows is no news.
        let Some(instance) = self.work.instances.get_mut(id).filter(|instance| instance.host == host) else { return };
        if *observed == instance.observed || !observed.may_follow(&instance.observed) {
            return;
        }
        let before = std::mem::replace(&mut instance.observed, observed.clone());
        instance.note_serving(&before, clock);
        let moved =
            (before.phase, before.restart, before.health) != (observed.phase, observed.restart, observed.health);
        let counts = !matches!(instance.verdict, Verdict::Lost { .. }) && instance.observed.phase > Phase::Assigned;
        let (task, revision) = (instance.task, instance.revision);
        let purged = observed.phase == Phase::Purged && instance.desired.want == Want::Purge;
        if purged {
            self.forget_instance(id);
            return;
        }
        if counts && observed.retries != before.retries {
            let stable = self.stable_revision(id.service());
            let slot = self.work.slots.entry(id.slot.clone()).or_default();
            slot.tries_mut(task, revision, stable).retries = observed.retries;
        }
        if observed.phase != before.phase {
            self.note_end_of(id, &before);
        }
        self.note_preparation(id, observed);
        if moved {
            self.record_observed(id, &before, observed);
        } else {
            self.touch();
        }
    }

    /// Whether a host claims an address for one of its containers that lies outside of its own subnet: packets for
    /// another host's containers, or for a service, would go to it. Without an overlay no address is published.
    fn is_foreign_address(&self, host: HostId, address: Option<Ipv4Addr>) -> bool {
        let (Some(address), Some(host)) = (address, self.hosts().get(&host)) else { return false };
        let is_of_a_container =
            Subnet::of(address) == host.subnet && !host.subnet.is_own(address) && address != host.subnet.0.broadcast();
        self.basics.level >= level::HOST_CLAIMS && self.basics.network.backend != Backend::None && !is_of_a_container
    }

    fn record_observed(&mut self, id: &InstanceId, before: &Observed, observed: &Observed) {
        let mut message = format!("{:?}", observed.phase).to_lowercase();
        if observed.phase == Phase::Running {
            message.push_str(&format!(", {:?}", observed.health).to_lowercase());
        }
        if let Some(code) = observed.exit_code.filter(|_| observed.phase.is_terminal()) {
            message.push_str(&format!(", exit code {code}"));
        }
        if !observed.message.is_empty() {
            message.push_str(&format!(": {}", observed.message));
        }
        let has_ended = observed.restart != before.restart || observed.phase.is_terminal();
        let says_why = has_ended || observed.health == Health::Unhealthy;
        let output = if says_why { observed.output.clone() } else { LastLines::default() };
        self.record_failure(id, "instance-observed", message, &output);
    }

    pub(in crate::state) fn judge(&mut self, id: &InstanceId, verdict: Verdict) -> Applied {
        let instance = self.work.instances.get_mut(id).ok_or_else(|| not_found("instance", id))?;
        instance.verdict = verdict;
        self.touch();
        self.done()
    }

    /// Adds a new instance, also to the indexes.
    pub(super) fn add_instance(&mut self, id: InstanceId, instance: Instance) {
        self.work.spec_bytes += size_of(&*instance.spec);
        let on_host = (instance.host, id.clone());
        if instance.spec.strict_singleton {
            self.work.strict_by_host.insert(on_host.clone());
        }
        self.work.by_host.insert(on_host);
        self.work.instances.insert(id, instance);
    }

    /// Forgets an instance whose container is gone, or whose host is.
    pub(crate) fn forget_instance(&mut self, id: &InstanceId) {
        let Some(instance) = self.work.instances.remove(id) else { return };
        self.work.spec_bytes -= size_of(&*instance.spec);
        let on_host = (instance.host, id.clone());
        self.work.by_host.remove(&on_host);
        self.work.strict_by_host.remove(&on_host);
        self.record(id, "instance-gone", "its container is gone");
        self.forget_slot(&id.slot);
        self.drop_empty_stack(id.stack());
    }

    /// Forgets the slots of services that a stack no longer has, once nothing fills them.
    pub(in crate::state) fn forget_slots(&mut self, stack: &StackId) {
        let first = least_instance_of(stack).slot;
        let of_stack =
            self.work.slots.range(first..).map(|(slot, _)| slot).take_while(|slot| slot.service.stack == *stack);
        let slots: Vec<SlotId> = of_stack.cloned().collect();
        slots.iter().for_each(|slot| self.forget_slot(slot));
    }

    /// Forgets a slot if its service is gone and nothing fills it.
    fn forget_slot(&mut self, slot: &SlotId) {
        let services = self.work.stacks.get(&slot.service.stack).map(|stack| &stack.services);
        let is_wanted = services.is_some_and(|services| services.contains_key(&slot.service.service));
        if is_wanted || self.instances_of_slot(slot).next().is_some() {
            return;
        }
        if let Some(record) = self.work.slots.remove(slot) {
            self.work.retired_incarnation = self.work.retired_incarnation.max(record.incarnation);
        }
    }

    /// The last incarnation of a slot. A slot that was never filled begins behind all that were
    /// forgotten: an incarnation is a fencing token, and no name may ever get one twice.
    pub fn incarnation(&self, slot: &SlotId) -> u64 {
        self.work.slots.get(slot).map_or(self.work.retired_incarnation, |slot| slot.incarnation)
    }
}

/// What a host observes, without what is longer than an agent may send: it is stored, and agents may be wrong.
fn bounded(observed: &Observed) -> Cow<'_, Observed> {
    if size_of(observed) <= MAX_OBSERVED {
        return Cow::Borrowed(observed);
    }
    let mut short = observed.clone();
    short.output = LastLines::of(short.output.lines().join("\n").as_bytes());
    for text in [&mut short.message, &mut short.failure] {
        *text = shortened(std::mem::take(text), MAX_MESSAGE);
    }
    short.image_digest = short.image_digest.filter(|digest| digest.len() <= MAX_MESSAGE);
    short.unprepared = short.unprepared.filter(|unprepared| unprepared.image.len() <= MAX_MESSAGE);
    Cow::Owned(short)
}

fn least_instance() -> InstanceId {
    let name = || common::name::Name::parse("0").expect("a digit is a name");
    least_instance_of(&StackId { environment: name(), stack: name() })
}

fn least_instance_of(stack: &StackId) -> InstanceId {
    let name = common::name::Name::parse("0").expect("a digit is a name");
    stack.service(name).slot(0).instance(0)
}
