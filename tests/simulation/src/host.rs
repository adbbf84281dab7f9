//! A host: a real reconciler over a Docker that is only a map.

use std::collections::{BTreeMap, BTreeSet};

use agent_core::{
    Action, ActionResult, Container, ContainerState, Lease, Local, Memory, Situation, Stopped, reconcile,
};
use common::{
    assignment::{AssignedInstance, Assignment},
    device::GPU,
    host::HostFacts,
    id::{BootId, HostId, InstanceId},
    instance::{Health, Phase},
    output::LastLines,
    part::{Part, PartId},
    quantity::{Bytes, MilliCpu},
    report::Report,
    spec::{Protocol, RestartCondition, ServiceSpec},
    time::Timestamp,
    wire::Extension,
};

use crate::random::Random;

/// A host with its agent, its ledger and its containers.
pub struct Host {
    /// The facts that its agent reports.
    pub facts: HostFacts,
    /// Whether it has power.
    pub on: bool,
    /// Whether packets reach the coordinators.
    pub connected: bool,
    /// The containers in its Docker.
    pub docker: BTreeMap<PartId, Container>,
    /// The agent's latest observation.
    pub report: Report,
    assignment: Assignment,
    memory: Memory,
    under_way: Vec<Action>,
    made: u64,
    /// How much faster its own clock runs, in thousandths.
    drift: i64,
    /// Whether its agent is dead and is not restarted.
    pub without_agent: bool,
    /// Whether packets from the host arrive, but none to it.
    pub deaf: bool,
    /// The soft and hard ends of leases by the host's own clock. They are in memory and survive a restart of the agent.
    leases: BTreeMap<InstanceId, (i64, i64)>,
    /// Containers whose first process ends with the lease.
    guarded: BTreeSet<PartId>,
}

impl Host {
    /// A host that has just joined.
    pub fn new(empty: Assignment, number: u64) -> Host {
        let facts = HostFacts {
            hostname: format!("h{number}"),
            address: [10, 0, 0, number as u8].into(),
            cpu: MilliCpu(4_000),
            memory: Bytes(4 << 30),
            os: "linux".into(),
            arch: "x86_64".into(),
            kernel: String::new(),
            docker: "20.10".into(),
            agent: "0".into(),
            boot: BootId([0; 10]),
            devices: [(GPU.to_owned(), vec!["GPU-a".to_owned(), "GPU-b".to_owned()])].into(),
            wireguard: None,
        };
        Host {
            facts,
            on: true,
            connected: true,
            docker: BTreeMap::new(),
            report: Report::default(),
            assignment: empty,
            memory: Memory::default(),
            under_way: Vec::new(),
            made: 0,
            // Up to 2 % in either direction.
            drift: (number as i64 * 7) % 41 - 20,
            without_agent: false,
            deaf: false,
            leases: BTreeMap::new(),
            guarded: BTreeSet::new(),
        }
    }

    /// The host's own clock, which is never adjusted.
    pub fn own_clock(&self, now: Timestamp) -> i64 {
        now.0 as i64 / 1000 * (1000 + self.drift) + now.0 as i64 % 1000
    }

    /// A heartbeat sent at this time, by the host's clock, was answered.
    pub fn extend_leases(&mut self, sent: i64, extension: &Extension, now: Timestamp) {
        let clock = self.own_clock(now);
        for instance in &extension.instances {
            let (soft, hard) = (sent + extension.times.soft.0 as i64, sent + extension.times.hard.0 as i64);
            let known = self.leases.get(instance).map_or(0, |(_, hard)| *hard);
            if hard > known && hard > clock {
                self.leases.insert(instance.clone(), (soft, hard));
            }
        }
    }

    /// Lets the guards act after time has passed. They know only their lease.
    pub fn end_guarded(&mut self, now: Timestamp) {
        let clock = self.own_clock(now);
        let is_over = |id: &&PartId| self.leases.get(&id.instance).is_none_or(|(_, hard)| *hard <= clock);
        let over: Vec<PartId> = self.guarded.iter().filter(is_over).cloned().collect();
        over.iter().for_each(|part| self.end_program(part, 137, now));
    }

    /// The parts of strict singletons whose program runs.
    pub fn running_guarded(&self) -> impl Iterator<Item = &PartId> {
        self.running().filter(|id| self.guarded.contains(*id))
    }

    /// Whether a strict singleton's lease has expired.
    pub fn is_without_lease(&self, part: &PartId, now: Timestamp) -> bool {
        let soft = self.leases.get(&part.instance).map_or(0, |(soft, _)| *soft);
        self.guarded.contains(part) && soft <= self.own_clock(now)
    }

    /// Whether the network in which a part was started has been replaced by another one.
    pub fn has_new_network(&self, part: &PartId) -> bool {
        let started_at = |part: &PartId| match self.docker.get(part)?.state {
            ContainerState::Running { started_at, .. } => Some(started_at),
            ContainerState::Created | ContainerState::Exited { .. } => None,
        };
        let holder = part.instance.part(Part::Network);
        let is_later = started_at(&holder).zip(started_at(part)).is_some_and(|(network, own)| network >= own);
        // The new network may have appeared while the start was under way; the part is then started twice.
        let came_again = self.memory.0.get(&holder).is_some_and(|local| local.observed.restart > 0);
        let noted = self.memory.0.get(part).is_some_and(|local| local.stopped == Some(Stopped::WithoutNetwork));
        is_later || (came_again && noted)
    }

    /// Whether a part's program has ended with exit code 0 and is not restarted.
    pub fn has_ended_well(&self, part: &PartId) -> bool {
        self.memory.0.get(part).is_some_and(|local| local.observed.phase == Phase::Completed)
    }

    /// Whether all parts of an instance must end, because one has ended for good.
    pub fn is_over(&self, instance: &InstanceId) -> bool {
        let mut of_instance = self.memory.0.iter().filter(|(id, _)| id.instance == *instance);
        let is_end = |(id, local): (&PartId, &Local)| match local.observed.phase {
            Phase::Failed | Phase::Rejected => true,
            phase => id.part == Part::Main && phase == Phase::Completed,
        };
        of_instance.any(is_end)
    }

    /// Whether packets pass in both directions between its agent and the coordinators.
    pub fn speaks(&self) -> bool {
        self.on && self.connected && !self.without_agent
    }

    /// Whether messages to its agent arrive.
    pub fn hears(&self) -> bool {
        self.speaks() && !self.deaf
    }

    /// Accepts an assignment as a session does: the newest wins.
    pub fn receive(&mut self, assignment: Assignment) {
        if self.assignment.accepts(&assignment) {
            self.assignment = assignment;
        }
    }

    /// Runs one pass of the reconciler; returns the actions that it started.
    pub fn pass(&mut self, now: Timestamp) -> Vec<Action> {
        let busy: BTreeSet<PartId> = self.under_way.iter().map(|action| action.part().clone()).collect();
        let clock = self.own_clock(now);
        let at = |end: i64| Timestamp((now.0 as i64 + end - clock).max(0) as u64);
        let lease =
            |(id, (soft, hard)): (&InstanceId, &(i64, i64))| (id.clone(), Lease { soft: at(*soft), hard: at(*hard) });
        let leases: BTreeMap<InstanceId, Lease> = self.leases.iter().map(lease).collect();
        let situation = Situation {
            assignment: &self.assignment,
            containers: &self.docker,
            busy: &busy,
            leases: &leases,
            boot: self.facts.boot,
            now,
        };
        let next = reconcile(situation, &mut self.memory);
        self.report = next.report;
        self.under_way.extend(next.actions.iter().cloned());
        next.actions
    }

    /// Finishes one action under way; in `failing` of 100 cases it fails.
    pub fn finish_one(&mut self, random: &mut Random, failing: usize, now: Timestamp) {
        if self.under_way.is_empty() {
            return;
        }
        let action = self.under_way.swap_remove(random.below(self.under_way.len()));
        let result = if random.chance(failing) {
            if random.chance(20) {
                ActionResult::Impossible("it cannot be".into())
            } else {
                ActionResult::Failed("it failed".into())
            }
        } else {
            self.perform(&action, now)
        };
        self.memory.learn(&action, &result, now);
    }

    /// Whether actions are under way.
    pub fn is_busy(&self) -> bool {
        !self.under_way.is_empty()
    }

    /// Restarts the agent. Some of the actions under way were done, but their results are lost.
    pub fn restart_agent(&mut self, random: &mut Random, now: Timestamp) {
        for action in std::mem::take(&mut self.under_way) {
            if random.chance(50) {
                self.perform(&action, now);
            }
        }
    }

    /// Deletes the agent's ledger.
    pub fn lose_ledger(&mut self, nothing: Assignment) {
        self.assignment = nothing;
        self.memory = Memory::default();
    }

    /// Cuts the power: programs end, the disk survives.
    pub fn lose_power(&mut self, random: &mut Random, now: Timestamp) {
        self.restart_agent(random, now);
        self.on = false;
        let running: Vec<PartId> = self.running().cloned().collect();
        for instance in running {
            self.end_program(&instance, 255, now);
        }
        self.leases.clear();
        let boot = &mut self.facts.boot.0[0];
        *boot = boot.wrapping_add(1);
    }

    /// The parts whose program runs.
    pub fn running(&self) -> impl Iterator<Item = &PartId> {
        self.docker.iter().filter(|(_, container)| container.runs()).map(|(id, _)| id)
    }

    /// The steps before the start whose program runs.
    pub fn running_steps(&self) -> Vec<PartId> {
        self.running().filter(|id| matches!(id.part, Part::Step(_))).cloned().collect()
    }

    /// Lets a program end by itself.
    pub fn end_program(&mut self, part: &PartId, exit_code: i64, now: Timestamp) {
        let Some(container) = self.docker.get_mut(part) else { return };
        if let ContainerState::Running { started_at, .. } = container.state {
            let out_of_memory = false;
            container.state = ContainerState::Exited { started_at, finished_at: now, exit_code, out_of_memory };
        }
    }

    /// Lets a job end, well or with a failure.
    pub fn end_a_job(&mut self, random: &mut Random, now: Timestamp) {
        let ends = |spec: &ServiceSpec| spec.restart_of(&Part::Main).condition != RestartCondition::Any;
        let jobs = self.assignment.instances.iter().filter(|assigned| ends(&assigned.spec));
        if let Some(job) = random.pick(jobs.map(|assigned| assigned.id.main())) {
            self.end_program(&job, i64::from(random.chance(25)), now);
        }
    }

    /// Changes the result of a health check.
    pub fn set_health(&mut self, part: &PartId, verdict: Health) {
        if let Some(Container { state: ContainerState::Running { health, .. }, .. }) = self.docker.get_mut(part) {
            *health = verdict;
        }
    }

    /// Docker's side of an action.
    fn perform(&mut self, action: &Action, now: Timestamp) -> ActionResult {
        let missing = || ActionResult::Failed("no such container".into());
        match action {
            Action::Prepare(_) => ActionResult::Prepared,
            Action::Create(part) => {
                self.made += 1;
                let id = format!("c{}", self.made);
                // Docker assigns addresses in turn, and reuses released ones.
                let Some(overlay) = self.assignment.overlay() else { return missing() };
                let number = u32::from(overlay.own.gateway()) + 1 + (self.made % 250) as u32;
                let address = Some(number.into());
                let container = Container {
                    id,
                    state: ContainerState::Created,
                    image_digest: None,
                    address,
                    sender: None,
                    output: LastLines::default(),
                    published: BTreeSet::new(),
                };
                if self.assigned(part).is_some_and(|a| a.spec.strict_singleton) && part.part != Part::Network {
                    self.guarded.insert(part.clone());
                }
                self.docker.entry(part.clone()).or_insert(container);
                ActionResult::Done
            }
            // Docker reports that there was nothing to do.
            Action::Start { part, .. } if self.running().any(|running| running == part) => ActionResult::Done,
            Action::Start { part, .. } => {
                if let Some(port) = self.taken_port(part) {
                    return ActionResult::Impossible(format!("port {port} is taken"));
                }
                let network = part.instance.part(Part::Network);
                let shares = self.assigned(part).is_some_and(|a| a.spec.has_network_part()) && *part != network;
                if shares && !self.running().any(|running| *running == network) {
                    return ActionResult::Failed("cannot join the network of a container that does not run".into());
                }
                let health = if self.is_checked(part) { Health::Starting } else { Health::Unchecked };
                let Some(container) = self.docker.get_mut(part) else { return missing() };
                container.state = ContainerState::Running { started_at: now, health };
                // A guard with an expired lease does not start the program.
                self.end_guarded(now);
                ActionResult::Done
            }
            Action::Stop { part, .. } => {
                self.end_program(part, 143, now);
                ActionResult::Done
            }
            Action::Remove { part, .. } => {
                if self.running().any(|running| running == part) {
                    return ActionResult::Failed("it runs".into());
                }
                self.docker.remove(part);
                ActionResult::Done
            }
        }
    }

    /// The assignment of a part's instance.
    fn assigned(&self, part: &PartId) -> Option<&AssignedInstance> {
        self.assignment.instances.iter().find(|assigned| assigned.id == part.instance)
    }

    fn ports_of(&self, part: &PartId) -> BTreeSet<(u16, Protocol)> {
        let has_ports = |assigned: &&AssignedInstance| match part.part {
            Part::Network => true,
            Part::Main => !assigned.spec.has_network_part(),
            Part::Step(_) | Part::Sidekick(_) => false,
        };
        let assigned = self.assigned(part).filter(has_ports);
        assigned.map_or_else(BTreeSet::new, |assigned| assigned.ports.iter().map(|port| port.booking()).collect())
    }

    fn taken_port(&self, part: &PartId) -> Option<u16> {
        let wanted = self.ports_of(part);
        let others = self.running().filter(|other| *other != part);
        others.flat_map(|other| self.ports_of(other)).find(|port| wanted.contains(port)).map(|(port, _)| port)
    }

    /// Whether the part has a health check.
    pub fn is_checked(&self, part: &PartId) -> bool {
        let container = self.assigned(part).and_then(|assigned| assigned.spec.container_of(&part.part));
        container.is_some_and(|container| container.healthcheck.is_some())
    }

    /// Whether its health check has failed.
    pub fn is_unhealthy(&self, part: &PartId) -> bool {
        let container = self.docker.get(part);
        container.is_some_and(|c| matches!(c.state, ContainerState::Running { health: Health::Unhealthy, .. }))
    }

    /// The host's id.
    pub fn id(&self) -> HostId {
        self.assignment.host
    }
}
