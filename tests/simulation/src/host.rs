//! A host: a real reconciler over a Docker that exists only as a map.

use std::collections::{BTreeMap, BTreeSet};

use agent_core::{Action, ActionResult, Container, ContainerState, Memory, Situation, reconcile};
use common::{
    assignment::Assignment,
    host::HostFacts,
    id::{BootId, HostId, InstanceId},
    instance::Health,
    quantity::{Bytes, MilliCpu},
    report::Report,
    spec::{Mode, Protocol},
    time::Timestamp,
};

use crate::random::Random;

/// A host with its agent, its ledger and its containers.
pub struct Host {
    /// What its agent says of it.
    pub facts: HostFacts,
    /// Whether it has power.
    pub on: bool,
    /// Whether packets reach the coordinators.
    pub connected: bool,
    /// What Docker shows.
    pub docker: BTreeMap<InstanceId, Container>,
    /// What the agent observed last.
    pub report: Report,
    assignment: Assignment,
    memory: Memory,
    under_way: Vec<Action>,
    made: u64,
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
        }
    }

    /// Takes an assignment as the session does: the newest wins.
    pub fn receive(&mut self, assignment: Assignment) {
        if self.assignment.accepts(&assignment) {
            self.assignment = assignment;
        }
    }

    /// One pass of the reconciler; returns the actions that it began.
    pub fn pass(&mut self, now: Timestamp) -> Vec<Action> {
        let busy: BTreeSet<InstanceId> = self.under_way.iter().map(|action| action.instance().clone()).collect();
        let situation = Situation {
            assignment: &self.assignment,
            containers: &self.docker,
            busy: &busy,
            boot: self.facts.boot,
            now,
        };
        let next = reconcile(situation, &mut self.memory);
        self.report = next.report;
        self.under_way.extend(next.actions.iter().cloned());
        next.actions
    }

    /// Lets one action under way end, well or (in `failing` of 100 cases) not.
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

    /// The agent dies and starts again. Of what was under way, some was done and nobody learned of it.
    pub fn restart_agent(&mut self, random: &mut Random, now: Timestamp) {
        for action in std::mem::take(&mut self.under_way) {
            if random.chance(50) {
                self.perform(&action, now);
            }
        }
    }

    /// What the agent knew is gone.
    pub fn lose_ledger(&mut self, nothing: Assignment) {
        self.assignment = nothing;
        self.memory = Memory::default();
    }

    /// The power fails: programs end, the disk stays.
    pub fn lose_power(&mut self, random: &mut Random, now: Timestamp) {
        self.restart_agent(random, now);
        self.on = false;
        let running: Vec<InstanceId> = self.running().cloned().collect();
        for instance in running {
            self.end_program(&instance, 255, now);
        }
        let boot = &mut self.facts.boot.0[0];
        *boot = boot.wrapping_add(1);
    }

    /// The instances whose program runs.
    pub fn running(&self) -> impl Iterator<Item = &InstanceId> {
        self.docker
            .iter()
            .filter(|(_, container)| matches!(container.state, ContainerState::Running { .. }))
            .map(|(id, _)| id)
    }

    /// A program ends by itself.
    pub fn end_program(&mut self, instance: &InstanceId, exit_code: i64, now: Timestamp) {
        let Some(container) = self.docker.get_mut(instance) else { return };
        if let ContainerState::Running { started_at, .. } = container.state {
            let out_of_memory = false;
            container.state = ContainerState::Exited { started_at, finished_at: now, exit_code, out_of_memory };
        }
    }

    /// A job has done what it was to do.
    pub fn end_a_job(&mut self, random: &mut Random, now: Timestamp) {
        let jobs = self.assignment.instances.iter().filter(|assigned| assigned.spec.mode == Mode::Job);
        if let Some(job) = random.pick(jobs.map(|assigned| assigned.id.clone())) {
            self.end_program(&job, 0, now);
        }
    }

    /// A health check changes its mind.
    pub fn set_health(&mut self, instance: &InstanceId, verdict: Health) {
        if let Some(Container { state: ContainerState::Running { health, .. }, .. }) = self.docker.get_mut(instance) {
            *health = verdict;
        }
    }

    /// What Docker does.
    fn perform(&mut self, action: &Action, now: Timestamp) -> ActionResult {
        let missing = || ActionResult::Failed("no such container".into());
        match action {
            Action::Prepare(_) => ActionResult::Prepared,
            Action::Create(instance) => {
                self.made += 1;
                let id = format!("c{}", self.made);
                let container = Container { id, state: ContainerState::Created, image_digest: None };
                self.docker.entry(instance.clone()).or_insert(container);
                ActionResult::Done
            }
            // Docker says that nothing was to be done.
            Action::Start { instance, .. } if self.running().any(|running| running == instance) => ActionResult::Done,
            Action::Start { instance, .. } => {
                if let Some(port) = self.taken_port(instance) {
                    return ActionResult::Impossible(format!("port {port} is taken"));
                }
                let health = if self.is_checked(instance) { Health::Starting } else { Health::Unchecked };
                let Some(container) = self.docker.get_mut(instance) else { return missing() };
                container.state = ContainerState::Running { started_at: now, health };
                ActionResult::Done
            }
            Action::Stop { instance, .. } => {
                self.end_program(instance, 143, now);
                ActionResult::Done
            }
            Action::Remove { instance, .. } => {
                if self.running().any(|running| running == instance) {
                    return ActionResult::Failed("it runs".into());
                }
                self.docker.remove(instance);
                ActionResult::Done
            }
        }
    }

    fn ports_of(&self, instance: &InstanceId) -> BTreeSet<(u16, Protocol)> {
        let assigned = self.assignment.instances.iter().find(|assigned| assigned.id == *instance);
        assigned.map_or_else(BTreeSet::new, |assigned| assigned.ports.iter().map(|port| port.booking()).collect())
    }

    fn taken_port(&self, instance: &InstanceId) -> Option<u16> {
        let wanted = self.ports_of(instance);
        let others = self.running().filter(|other| *other != instance);
        others.flat_map(|other| self.ports_of(other)).find(|port| wanted.contains(port)).map(|(port, _)| port)
    }

    /// Whether a health check belongs to the instance.
    pub fn is_checked(&self, instance: &InstanceId) -> bool {
        let assigned = self.assignment.instances.iter().find(|assigned| assigned.id == *instance);
        assigned.is_some_and(|assigned| assigned.spec.healthcheck.is_some())
    }

    /// Whether its health check has failed.
    pub fn is_unhealthy(&self, instance: &InstanceId) -> bool {
        let container = self.docker.get(instance);
        container.is_some_and(|c| matches!(c.state, ContainerState::Running { health: Health::Unhealthy, .. }))
    }

    /// The host's id.
    pub fn id(&self) -> HostId {
        self.assignment.host
    }
}
