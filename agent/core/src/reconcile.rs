//! The next steps of a host.
//!
//! The rules, in the order of their weight: the agent stops an instance only when ordered to (or by the instance's own
//! health policy), and absence from an assignment is no order; it adopts running containers as they are; it does one
//! action at a time for a part of an instance; and every wait has a time at which it ends.

use std::collections::{BTreeMap, BTreeSet};

use common::{
    assignment::{AssignedInstance, Assignment},
    id::{BootId, InstanceId},
    instance::{Health, Phase, StopReason, Want},
    part::{Part, PartId},
    report::Report,
    spec::{HealthCheck, Mode, RestartCondition, RestartPolicy},
    time::{Span, Timestamp},
};

use crate::{
    action::Action,
    memory::{Local, Memory, RESTART_DELAY_CAP, Stopped},
    observed::{Container, ContainerState},
    unit::{Surroundings, Unit},
};

/// How long an instance that the cluster does not know may take to end.
const SURPLUS_GRACE: Span = Span::seconds(10);

/// The message of an instance whose process is gone.
const GONE: &str = "its process has ended, and Docker does not answer";

/// The message of an instance whose health check fails.
const CHECK_FAILS: &str = "its health check fails";

/// The time between the news that an instance stops and its SIGTERM.
const DRAIN_WAIT: Span = Span::seconds(2);

/// The inputs of a decision.
#[derive(Debug, Clone, Copy)]
pub struct Situation<'a> {
    /// The instances that the host should run.
    pub assignment: &'a Assignment,
    /// The containers that Docker shows.
    pub containers: &'a BTreeMap<PartId, Container>,
    /// Parts for which an action is under way.
    pub busy: &'a BTreeSet<PartId>,
    /// The soft ends of the leases of strict singletons that have one.
    pub leases: &'a BTreeMap<InstanceId, Lease>,
    /// The kernel's boot.
    pub boot: BootId,
    /// The time.
    pub now: Timestamp,
}

/// How long the instance of a strict singleton may run on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease {
    /// When the agent asks it to end.
    pub soft: Timestamp,
    /// When its guard has killed it, whether the agent lives or not.
    pub hard: Timestamp,
}

/// The actions, the report and the next look that follow from a decision.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Next {
    /// The actions to begin now.
    pub actions: Vec<Action>,
    /// All that is observed.
    pub report: Report,
    /// When to look again if nothing else happens.
    pub wake_at: Option<Timestamp>,
}

impl Next {
    fn wake(&mut self, at: Timestamp) {
        self.wake_at = Some(self.wake_at.map_or(at, |earlier| earlier.min(at)));
    }
}

/// Decides what the host does next, and brings the memory up to date with what Docker shows.
pub fn reconcile(situation: Situation<'_>, memory: &mut Memory) -> Next {
    let mut next = Next::default();
    let assigned: BTreeMap<&InstanceId, &AssignedInstance> =
        situation.assignment.instances.iter().map(|instance| (&instance.id, instance)).collect();
    memory.0.retain(|id, _| assigned.contains_key(&id.instance) || situation.containers.contains_key(id));
    for instance in assigned.values() {
        let unit = Unit::of(situation, instance);
        step_unit(&unit, memory, &mut next);
        next.report.instances.push((instance.id.clone(), unit.observed(memory)));
    }
    for (id, container) in situation.containers.iter().filter(|(id, _)| !assigned.contains_key(&id.instance)) {
        if situation.assignment.surplus.contains(&id.instance) {
            if !situation.busy.contains(id) {
                next.actions.push(end(id, container, SURPLUS_GRACE));
            }
        } else {
            next.report.unknown.insert(id.instance.clone());
        }
    }
    next.report.generation = situation.assignment.generation;
    next
}

/// The report while Docker does not answer: the last one, in which some processes are gone since then. Callers are led
/// elsewhere; what becomes of these instances is decided once Docker shows how they ended.
pub fn without_docker(last: &Report, gone: &BTreeSet<InstanceId>) -> Report {
    let mut report = last.clone();
    for (id, observed) in &mut report.instances {
        if gone.contains(id) && observed.phase == Phase::Running {
            observed.health = Health::Gone;
            GONE.clone_into(&mut observed.message);
        }
    }
    report
}

/// Notes what all parts show, then takes the next step of each.
fn step_unit(unit: &Unit<'_>, memory: &mut Memory, next: &mut Next) {
    let Unit { situation, instance, ref parts } = *unit;
    for id in parts {
        let container = situation.containers.get(id);
        memory.0.entry(id.clone()).or_insert_with(|| adopt(instance, &id.part, container));
    }
    unit.catch_up(memory);
    // The main one first: its end is that of the others.
    let (main, others): (Vec<_>, Vec<_>) = parts.iter().partition(|id| id.part == Part::Main);
    for id in main.into_iter().chain(others) {
        let want = unit.want(memory);
        let Some((container, local)) = situation.containers.get(id).zip(memory.0.get_mut(id)) else { continue };
        Turn { situation, instance, id, want }.notice(container, local);
    }
    let want = unit.want(memory);
    for (index, id) in parts.iter().enumerate().filter(|(_, id)| !situation.busy.contains(*id)) {
        let around = unit.surroundings(index, memory);
        let Some(local) = memory.0.get_mut(id) else { continue };
        Turn { situation, instance, id, want }.step(&around, local, next);
    }
}

/// The memory of a part that the agent does not remember. It adopts the part's container, if there is one, as it is.
fn adopt(instance: &AssignedInstance, part: &Part, container: Option<&Container>) -> Local {
    let mut local = Local::accepted();
    if *part == Part::Main {
        local.observed.retries = instance.retries;
    }
    local.prepared = container.is_some();
    if let Some(ended) = instance.ended {
        local.observed.phase = ended;
    }
    local
}

/// The part that is looked at.
struct Turn<'a> {
    situation: Situation<'a>,
    instance: &'a AssignedInstance,
    id: &'a PartId,
    /// The desired state of all parts of its instance.
    want: Want,
}

impl Turn<'_> {
    fn restart(&self) -> RestartPolicy {
        self.instance.spec.restart_of(&self.id.part)
    }

    fn stop_grace(&self) -> Span {
        self.instance.spec.stop_grace_of(&self.id.part)
    }

    /// The time in which its health check is made once, whatever comes of it.
    fn one_check(&self) -> Span {
        let check = self.instance.spec.container_of(&self.id.part).and_then(|container| container.healthcheck.as_ref());
        let check = check.cloned().unwrap_or_else(|| HealthCheck::of(Vec::new()));
        Span(check.interval.0 + check.timeout.0)
    }

    /// Whether its program may run only under a lease.
    fn is_leased(&self) -> bool {
        self.instance.spec.strict_singleton && self.id.part != Part::Network
    }

    /// Whether it must not run now for want of a lease.
    fn lacks_lease(&self) -> bool {
        self.is_leased() && !has_lease(self.situation, &self.id.instance)
    }

    /// The time that a strict singleton has for its end: its own grace, or what is left before it is killed.
    fn rest_of_lease(&self) -> Span {
        let lease = self.situation.leases.get(&self.id.instance);
        let left = lease.map_or(Span(0), |lease| lease.hard.since(self.situation.now));
        self.stop_grace().min(left)
    }

    /// Whether the host has been restarted since the part ran last.
    fn is_rebooted(&self, local: &Local) -> bool {
        local.boot.is_some_and(|boot| boot != self.situation.boot)
    }
}

/// What was seen since the last look.
impl Turn<'_> {
    /// Brings what is remembered up to date with what the container shows.
    fn notice(&self, container: &Container, local: &mut Local) {
        let not_started = local.not_started.take();
        if let Some(why) = not_started.filter(|_| self.want <= Want::Run && !local.observed.phase.is_terminal()) {
            self.ended(Run { length: Span(0), end: End::NeverBegan(why), outlived_lease: false }, local);
        }
        if local.observed.image_digest.is_none() {
            local.observed.image_digest = container.image_digest.clone();
        }
        match container.state {
            ContainerState::Created => {}
            ContainerState::Running { started_at, health } => {
                local.boot = Some(self.situation.boot);
                local.observed.started_at = Some(started_at);
                if self.want <= Want::Run {
                    runs_on(health, container, local);
                }
            }
            ContainerState::Exited { started_at, .. } if local.ended_run == Some(started_at) => {}
            ContainerState::Exited { started_at, finished_at, exit_code, out_of_memory } => {
                local.ended_run = Some(started_at);
                local.observed.exit_code = Some(exit_code);
                local.observed.health = Health::Unchecked;
                if self.want <= Want::Run && !local.observed.phase.is_terminal() {
                    // Its output while it is stopped does not say why its health check failed.
                    if local.stopped != Some(Stopped::Unhealthy) {
                        local.observed.output = container.output.clone();
                    }
                    let end = if out_of_memory { End::OutOfMemory } else { End::Exited(exit_code) };
                    let outlived_lease = self.outlived_lease(finished_at);
                    self.ended(Run { length: finished_at.since(started_at), end, outlived_lease }, local);
                }
            }
        }
    }

    /// Whether a run that has ended went on to the end of its lease, when it is killed.
    fn outlived_lease(&self, finished_at: Timestamp) -> bool {
        // Nothing is known of a lease after a boot, which has ended all programs.
        let lease = self.situation.leases.get(&self.id.instance);
        self.is_leased() && lease.is_none_or(|lease| finished_at >= lease.hard)
    }

    /// Decides whether a program that has ended is started again here.
    fn ended(&self, run: Run, local: &mut Local) {
        let stopped = local.stopped.take();
        if let Some(why) = run.goes_on_at_once(stopped) {
            local.observed.restart += 1;
            local.enter(Phase::Starting, why);
            return;
        }
        let policy = &self.restart();
        let rebooted = self.is_rebooted(local);
        let unhealthy = stopped == Some(Stopped::Unhealthy);
        let failed = unhealthy || !matches!(run.end, End::Exited(0));
        if run.length >= policy.window || rebooted {
            local.failures = 0;
            // However long a job ran before it failed, that was a try.
            if self.instance.spec.mode != Mode::Job && !rebooted {
                local.observed.retries = 0;
            }
        }
        let cause = run.end.cause(unhealthy, rebooted);
        if failed {
            local.observed.failure.clone_from(&cause);
        }
        let again = match policy.condition {
            RestartCondition::Any => true,
            RestartCondition::OnFailure => failed || rebooted,
            RestartCondition::None => false,
        };
        let retries = local.observed.retries;
        if !again {
            local.enter(if failed { Phase::Failed } else { Phase::Completed }, cause);
        } else if !rebooted && policy.max_attempts.is_some_and(|most| retries >= most) {
            local.enter(Phase::Failed, format!("{cause}; it was retried {retries} times, which is the limit"));
        } else {
            // A restart of the host has ended the run, which is no failure of the program.
            local.observed.retries += u32::from(!rebooted);
            self.restart_later(&cause, local);
        }
    }

    /// Has a program that has ended start again, after a delay that grows with each failure.
    fn restart_later(&self, cause: &str, local: &mut Local) {
        let first = self.restart().delay;
        let delay = first.doubled(local.failures, RESTART_DELAY_CAP.max(first));
        local.failures += 1;
        local.not_before = self.situation.now + delay;
        local.observed.restart += 1;
        local.enter(Phase::Starting, format!("{cause}; it restarts after {delay}"));
    }
}

/// Notes that a part which should run does.
fn runs_on(health: Health, container: &Container, local: &mut Local) {
    if local.observed.phase.is_terminal() {
        // The agent gave it up and it runs all the same: a person has started it by hand.
        local.observed.restart += 1;
    }
    if local.observed.phase != Phase::Running || local.observed.health != health {
        local.enter(Phase::Running, "");
        if health == Health::Unhealthy {
            local.enter(Phase::Running, CHECK_FAILS);
            local.fail(CHECK_FAILS, container);
        }
    }
    local.observed.health = health;
}

/// A run that has ended.
struct Run {
    length: Span,
    end: End,
    /// Whether it went on to the end of its lease, when it is killed.
    outlived_lease: bool,
}

/// How a run ended.
enum End {
    Exited(i64),
    OutOfMemory,
    /// Docker could not start it, and said why.
    NeverBegan(String),
}

impl Run {
    /// Why the program starts again at once, if it does: its end was no doing of its own.
    fn goes_on_at_once(&self, stopped: Option<Stopped>) -> Option<&'static str> {
        match stopped {
            _ if self.outlived_lease => Some("its lease expired, so it was stopped"),
            Some(Stopped::WithoutLease) => Some("its lease expired, so it was stopped"),
            Some(Stopped::WithoutNetwork) => Some("its network was recreated"),
            Some(Stopped::Unhealthy) | None => None,
        }
    }
}

impl End {
    /// The cause of the end, for people.
    fn cause(self, unhealthy: bool, rebooted: bool) -> String {
        match (unhealthy, rebooted, self) {
            (true, ..) => "it was unhealthy, so it was stopped".to_owned(),
            (_, _, End::OutOfMemory) => "it exceeded its memory limit and was killed".to_owned(),
            (_, _, End::NeverBegan(why)) => why,
            (_, true, _) => "the host was restarted".to_owned(),
            (.., End::Exited(code)) => format!("it ended with exit code {code}"),
        }
    }
}

/// The next step.
impl Turn<'_> {
    fn step(&self, around: &Surroundings, local: &mut Local, next: &mut Next) {
        let (situation, container) = (self.situation, self.situation.containers.get(self.id));
        let action = match self.want {
            Want::Prepare | Want::Run => self.run(container, around, local),
            Want::Stop => self.stop(container, around, local),
            Want::Purge => self.purge(container, around, local),
        };
        if let Some(lease) = situation.leases.get(&self.id.instance).filter(|lease| lease.soft > situation.now) {
            next.wake(lease.soft);
        }
        if local.check_counts_from > situation.now {
            next.wake(local.check_counts_from);
        }
        match action {
            Some(_) if local.not_before > situation.now => next.wake(local.not_before),
            Some(action) => next.actions.push(action),
            None => {}
        }
    }

    fn run(&self, container: Option<&Container>, around: &Surroundings, local: &mut Local) -> Option<Action> {
        if local.observed.phase.is_terminal() {
            return None;
        }
        let Some(container) = container else { return self.make(around, local) };
        match container.state {
            ContainerState::Running { health, .. } => {
                let why = self.why_it_stops(health, around, local)?;
                local.stopped = Some(why);
                let grace = if why == Stopped::WithoutLease { self.rest_of_lease() } else { self.stop_grace() };
                Some(end(self.id, container, grace))
            }
            ContainerState::Created | ContainerState::Exited { .. } => self.start(container, around, local),
        }
    }

    /// The next step towards a container.
    fn make(&self, around: &Surroundings, local: &mut Local) -> Option<Action> {
        let now = self.situation.now;
        if local.observed.phase >= Phase::Starting && local.not_before <= now {
            // A person has removed the container of a running instance.
            local.observed.restart += 1;
            local.enter(Phase::Pulling, "its container was removed and is being recreated");
            local.prepared = false;
        }
        if local.prepared {
            return (!around.lacks_network).then(|| Action::Create(self.id.clone()));
        }
        if local.observed.phase < Phase::Pulling {
            local.enter(Phase::Pulling, "");
            local.preparing_since = Some(now);
        }
        Some(Action::Prepare(self.id.clone()))
    }

    /// Why a running program is stopped, to be started again, if it is.
    fn why_it_stops(&self, health: Health, around: &Surroundings, local: &mut Local) -> Option<Stopped> {
        if self.lacks_lease() {
            Some(Stopped::WithoutLease)
        } else if has_new_network(around, local) {
            Some(Stopped::WithoutNetwork)
        } else if health == Health::Unhealthy && self.check_counts(around, local) {
            Some(Stopped::Unhealthy)
        } else {
            None
        }
    }

    /// Whether a health check that fails is a reason to start the program again.
    fn check_counts(&self, around: &Surroundings, local: &mut Local) -> bool {
        if self.restart().condition == RestartCondition::None {
            return false;
        }
        if around.lacks_peer {
            // Once what it needs is back, its check is made once more before it counts.
            local.check_counts_from = self.situation.now + self.one_check();
        }
        local.check_counts_from <= self.situation.now
    }

    /// Starts the program of a container, unless it has to wait.
    fn start(&self, container: &Container, around: &Surroundings, local: &mut Local) -> Option<Action> {
        if local.observed.phase < Phase::Ready {
            local.enter(Phase::Ready, "");
        }
        let waits = self
            .lacks_lease()
            .then_some("it waits for its lease, because no coordinator has answered its host recently");
        if let Some(why) = waits.or(around.waits.as_deref()) {
            local.enter(local.observed.phase, why);
            return None;
        }
        if self.instance.desired.want != Want::Run {
            return None;
        }
        local.network = around.network;
        // It may end before the agent sees it run.
        local.boot = Some(self.situation.boot);
        Some(Action::Start { part: self.id.clone(), container: container.id.clone() })
    }

    fn stop(&self, container: Option<&Container>, around: &Surroundings, local: &mut Local) -> Option<Action> {
        match container.filter(|container| container.runs()) {
            Some(container) => self.end_in_turn(container, around, local),
            None => {
                if !local.observed.phase.is_terminal() {
                    local.enter(Phase::Stopped, "");
                }
                None
            }
        }
    }

    fn purge(&self, container: Option<&Container>, around: &Surroundings, local: &mut Local) -> Option<Action> {
        match container {
            Some(container) => self.end_in_turn(container, around, local),
            None => {
                local.enter(Phase::Purged, "");
                None
            }
        }
    }

    /// The next step towards the end of a container, when those that end before it have.
    fn end_in_turn(&self, container: &Container, around: &Surroundings, local: &mut Local) -> Option<Action> {
        if local.observed.phase < Phase::Stopping {
            begin_stop(self.instance, local, self.situation.now);
        }
        let may_end = !container.runs() || !around.others_end_first;
        may_end.then(|| end(self.id, container, self.stop_grace()))
    }
}

/// Whether a strict singleton may run now.
fn has_lease(situation: Situation<'_>, id: &InstanceId) -> bool {
    situation.leases.get(id).is_some_and(|lease| lease.soft > situation.now)
}

/// Whether the network that a running part uses is gone, and there is another one.
fn has_new_network(around: &Surroundings, local: &mut Local) -> bool {
    let Some(made_at) = around.network else { return false };
    *local.network.get_or_insert(made_at) != made_at
}

/// Notes that a running instance is to stop. If others go on serving, those who call this one get a
/// moment in which they can learn that it goes.
fn begin_stop(instance: &AssignedInstance, local: &mut Local, now: Timestamp) {
    let others_serve = matches!(
        instance.desired.reason,
        Some(
            StopReason::ScaledDown
                | StopReason::Superseded
                | StopReason::Drained
                | StopReason::RolledBack
                | StopReason::Rebalanced
        )
    );
    let is_called = others_serve && local.observed.phase == Phase::Running && !instance.spec.ports.is_empty();
    // The waits of an instance that should run do not delay its end.
    local.not_before = if is_called { now + DRAIN_WAIT } else { now };
    local.enter(Phase::Stopping, "");
}

/// The next step towards the end of a container: stop what runs, remove what does not.
fn end(id: &PartId, container: &Container, grace: Span) -> Action {
    let (part, container_id) = (id.clone(), container.id.clone());
    if container.runs() {
        Action::Stop { part, container: container_id, grace }
    } else {
        Action::Remove { part, container: container_id }
    }
}

#[cfg(test)]
mod tests;
