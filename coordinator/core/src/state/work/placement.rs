//! Placements: what the planner took for granted is checked again when a new instance is applied.

use std::collections::BTreeSet;

use common::{
    device::BoundDevice,
    error::{Code, Problem},
    host::{Availability, Liveness},
    id::InstanceId,
    instance::{BoundPort, Desired, Observed, Verdict, Want},
    spec::{Constraint, Mode, PortSpec, ServiceSpec},
};

use super::{Applied, Bookings, Candidate, Host, Instance, Service, State, Version, runs::Task, size_of};
use crate::command::Placement;

/// Most bytes that the specs of all instances may take where they are stored.
const MAX_SPEC_BYTES: usize = 512 << 20;

impl State {
    pub(in crate::state) fn place(&mut self, placement: &Placement) -> Applied {
        let refuse = |why: String| Problem::new(Code::Conflict, format!("{} was not placed", placement.slot)).why(why);
        let (version, task) = self.admitted(placement).map_err(refuse)?;
        self.insert_placed(placement, version, task)
    }

    /// What the new instance is made from, and what it is to do; or why it is not placed.
    fn admitted(&self, placement: &Placement) -> Result<(Version, Task), String> {
        let service = self.service(&placement.slot.service).ok_or("its service was removed")?;
        let version = self.version_placed(placement, service)?;
        let host = self.hosts().get(&placement.host).ok_or("its host was removed")?;
        takes_instances(host)?;
        has_slot(service, placement.slot.slot, host)?;
        let task = service.task_of(version.revision);
        if self.has_ended(&placement.slot, task) {
            return Err("its task has already ended".into());
        }
        self.may_take_over(placement)?;
        self.runs_alone(placement, service)?;
        if let Some(constraint) = self.unmet(placement, &version.spec) {
            return Err(format!("its host does not match {constraint}"));
        }
        if let Some(why) = self.does_not_fit(placement, &version.spec) {
            return Err(why);
        }
        let bytes = self.work.spec_bytes + size_of(&*version.spec);
        if bytes > MAX_SPEC_BYTES {
            return Err(format!(
                "the specs of all instances would take {bytes} bytes, and the limit is {MAX_SPEC_BYTES}"
            ));
        }
        Ok((version, task))
    }

    /// The version that is placed, if the slot and the service are as they were and more may be of that version.
    fn version_placed(&self, placement: &Placement, service: &Service) -> Result<Version, String> {
        let incarnation = self.incarnation(&placement.slot);
        if incarnation != placement.expect_incarnation {
            return Err(format!("its incarnation is {incarnation}, not {}", placement.expect_incarnation));
        }
        if service.revision != placement.expect_revision {
            return Err(format!("its revision is {}, not {}", service.revision, placement.expect_revision));
        }
        let id = &placement.slot.service;
        if placement.revision != service.revision {
            let held_back = self.held_back(id, service).filter(|version| version.revision == placement.revision);
            return held_back
                .cloned()
                .ok_or_else(|| format!("no instance should have revision {}", placement.revision));
        }
        if let Some(awaited) = self.awaited(id, service) {
            return Err(format!("it waits for {}", awaited.on));
        }
        if service.rollout.because_of_another() {
            return Err(service.rollout.why.clone());
        }
        if self.has_its_canary(placement, service) {
            return Err("its canary is already complete".into());
        }
        Ok(service.version())
    }

    /// A slot is filled by one instance, or by two while one takes the place of the other.
    fn may_take_over(&self, placement: &Placement) -> Result<(), String> {
        let slot = &placement.slot;
        let current = self.keeper(slot);
        let ended = |id: &InstanceId| self.work.instances.get(id).is_some_and(|i| id.slot == *slot && !i.fills_slot());
        if current.is_none() && placement.replaces.as_ref().is_some_and(ended) {
            return Ok(());
        }
        if current.map(|(id, _)| id) != placement.replaces.as_ref() {
            return Err("another instance already fills its slot".into());
        }
        let Some((id, instance)) = current.filter(|(_, instance)| instance.verdict == Verdict::Reachable) else {
            return Ok(());
        };
        if !self.must_move(id, instance) {
            return Err("the instance that it replaces is reachable".into());
        }
        if self.instances_of_slot(slot).filter(|(_, i)| i.fills_slot()).count() > 1 {
            return Err("another instance is already taking its slot".into());
        }
        Ok(())
    }

    /// A strict singleton is placed when nothing else of its slot can run any more: what was heard of has
    /// ended, and what was not has had no lease since it was found unreachable, long ago.
    fn runs_alone(&self, placement: &Placement, service: &Service) -> Result<(), String> {
        let instances = self.instances_of_slot(&placement.slot);
        for (id, instance) in instances.filter(|(_, i)| i.may_run() && i.holds_back(service)) {
            let is_replaced = placement.replaces.as_ref() == Some(id);
            let unknown_since = match instance.verdict {
                Verdict::Unknown { since } => Some(since),
                Verdict::Reachable | Verdict::Lost { .. } => None,
            };
            if !is_replaced || unknown_since.is_none() || unknown_since != placement.unknown_since {
                return Err(format!("{id} may still run"));
            }
        }
        match self.work.orphans.get(&placement.slot) {
            Some(until) if service.spec.strict_singleton && *until > self.basics.clock => {
                Err(format!("its last instance may run until {until} on a host that was removed"))
            }
            _ => Ok(()),
        }
    }

    /// Whether as many are of the service's revision as may be before it is promoted.
    fn has_its_canary(&self, placement: &Placement, service: &Service) -> bool {
        let Some(canary) = service.canary() else { return false };
        let stays = |id: &InstanceId| placement.replaces.as_ref() != Some(id);
        let of_service = self.instances_of(&placement.slot.service);
        let of_revision = of_service.filter(|(id, i)| i.fills_slot() && i.is_current(service) && stays(id));
        of_revision.count() >= canary.instances as usize
    }

    /// A constraint that its host does not meet.
    fn unmet(&self, placement: &Placement, spec: &ServiceSpec) -> Option<Constraint> {
        let service = &placement.slot.service;
        let host = self.hosts().get(&placement.host)?;
        let is_first = !self.instances_of(service).any(|(_, instance)| instance.fills_slot());
        let own_counts = spec.mode != Mode::Global;
        let candidate =
            Candidate { cluster: self, service, id: placement.host, host, placed: &[], is_first, own_counts };
        let further = [self.shunned_by(service), spec.implied_constraints()].concat();
        spec.constraints.iter().chain(&further).find(|constraint| !candidate.meets(constraint)).cloned()
    }

    fn does_not_fit(&self, placement: &Placement, spec: &ServiceSpec) -> Option<String> {
        let capacity = self.hosts().get(&placement.host)?.capacity();
        let taken = self.bookings(placement.host);
        let need = spec.reservations();
        let sum = taken.reserved + need;
        // More than all may be reserved if somebody has lowered what may be; who needs nothing more still fits.
        let fits = |need: u64, sum: u64, all: u64| need == 0 || sum <= all;
        if !fits(need.memory.0, sum.memory.0, capacity.memory.0) || !fits(need.cpu.0, sum.cpu.0, capacity.cpu.0) {
            return Some("its host does not have enough free resources".into());
        }
        if placement.ports.len() != spec.ports.len() {
            return Some("its ports do not match its spec".into());
        }
        let mut wanted = BTreeSet::new();
        for (port, asked) in placement.ports.iter().zip(&spec.ports) {
            let booking = (*port, asked.protocol);
            if taken.ports.contains(&booking) || !wanted.insert(booking) {
                return Some(format!("port {port}/{} is already booked on its host", asked.protocol));
            }
        }
        self.devices_do_not_fit(placement, spec, &taken)
    }

    fn devices_do_not_fit(&self, placement: &Placement, spec: &ServiceSpec, taken: &Bookings) -> Option<String> {
        let on_host = &self.hosts().get(&placement.host)?.facts.as_ref()?.devices;
        let mut left: Vec<&BoundDevice> = placement.devices.iter().collect();
        for (part, kind, request) in spec.devices() {
            let is_its_own = |device: &BoundDevice| device.part == part && device.kind == kind;
            let own: Vec<String> = left.extract_if(.., |device| is_its_own(device)).map(|d| d.id.clone()).collect();
            let of_kind = on_host.get(kind).map_or(&[][..], Vec::as_slice);
            if request.amount.choose(of_kind, |id| own.iter().any(|own| own == id)).as_ref() != Some(&own) {
                return Some(format!("its {kind} devices are not the ones in its spec"));
            }
        }
        if !left.is_empty() {
            return Some("it has devices that its spec does not request".into());
        }
        let mut wanted = BTreeSet::new();
        let mut bookings = placement.devices.iter().map(BoundDevice::booking);
        let booked = bookings.find(|booking| taken.devices.contains(booking) || !wanted.insert(booking.clone()));
        booked.map(|(kind, id)| format!("{kind} {id} is already booked on its host"))
    }

    fn insert_placed(&mut self, placement: &Placement, version: Version, task: Task) -> Applied {
        let Version { revision, spec, .. } = version;
        if let Some(replaced) = &placement.replaces {
            self.give_up(replaced);
        }
        self.work.orphans.remove(&placement.slot);
        let slot = self.work.slots.entry(placement.slot.clone()).or_default();
        slot.incarnation = placement.expect_incarnation + 1;
        if spec.is_pinned() {
            // A revision without the volume does not move the data.
            slot.home = Some(placement.host);
        }
        let id = placement.slot.instance(slot.incarnation);
        let retries = slot.tries_of(task, revision).map_or(0, |tries| tries.retries);
        let observed = Observed { retries, ..Observed::nothing() };
        let bound = |(host, spec): (&u16, &PortSpec)| BoundPort { spec: spec.clone(), host: *host };
        let instance = Instance {
            revision,
            task,
            host: placement.host,
            ports: placement.ports.iter().zip(&spec.ports).map(bound).collect(),
            spec,
            devices: placement.devices.clone(),
            desired: Desired { want: Want::Run, reason: None },
            observed,
            verdict: Verdict::Reachable,
            created_at: self.basics.clock,
            serving_since: None,
            proven: false,
        };
        self.add_instance(id.clone(), instance);
        let host =
            self.hosts().get(&placement.host).map_or_else(|| placement.host.to_string(), |host| host.name.to_string());
        self.record(&id, "instance-placed", format!("on host {host}"));
        self.done()
    }

    /// Takes an instance that cannot be heard of for lost.
    fn give_up(&mut self, id: &InstanceId) {
        if let Some(instance) = self.work.instances.get_mut(id)
            && matches!(instance.verdict, Verdict::Unknown { .. })
        {
            instance.verdict = Verdict::Lost { since: self.basics.clock };
            self.record(id, "instance-lost", "its host has been away too long; it is replaced");
        }
    }
}

/// Refuses a host that gets no new instances.
fn takes_instances(host: &Host) -> Result<(), String> {
    if host.liveness != Liveness::Ready {
        return Err(format!("host {} is {}", host.name, host.liveness.word()));
    }
    if let Some(condition) = host.conditions.first() {
        return Err(format!("host {} gets no new instances: {condition}", host.name));
    }
    if host.availability != Availability::Active {
        return Err(format!("host {} is {}", host.name, host.availability.word()));
    }
    Ok(())
}

/// Refuses a slot that a service does not have on a host.
fn has_slot(service: &Service, slot: u32, host: &Host) -> Result<(), String> {
    match service.spec.mode {
        Mode::Replicated | Mode::Job if !(1..=service.spec.replicas).contains(&slot) => {
            Err("the service wants fewer instances".into())
        }
        Mode::Global if slot != host.number => Err("the slot belongs to another host".into()),
        Mode::Replicated | Mode::Job | Mode::Global => Ok(()),
    }
}
