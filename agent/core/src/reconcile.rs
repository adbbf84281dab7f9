//! What the host does next.
//!
//! The rules, in the order of their weight: nothing is stopped without an order (an instance's
//! own health policy aside), and absence from an assignment is no order; what runs is adopted as it
//! is; one action at a time for an instance; every wait has a time at which it ends.

use std::collections::{BTreeMap, BTreeSet};

use common::{
    assignment::{AssignedInstance, Assignment},
    id::{BootId, InstanceId},
    instance::{Health, Phase, StopReason, Want},
    report::Report,
    spec::{RestartCondition, RestartPolicy},
    time::{Span, Timestamp},
};

use crate::{
    action::Action,
    memory::{Local, Memory, RESTART_DELAY_CAP},
    observed::{Container, ContainerState},
};

/// How long an instance that nobody knows may take to end.
const SURPLUS_GRACE: Span = Span::seconds(10);

/// The time between the news that an instance stops and its SIGTERM.
const DRAIN_WAIT: Span = Span::seconds(2);

/// All that a decision is made from.
#[derive(Debug, Clone, Copy)]
pub struct Situation<'a> {
    /// What the host should run.
    pub assignment: &'a Assignment,
    /// What Docker shows.
    pub containers: &'a BTreeMap<InstanceId, Container>,
    /// Instances for which an action is under way.
    pub busy: &'a BTreeSet<InstanceId>,
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
    /// When it is asked to end.
    pub soft: Timestamp,
    /// When it is dead, whoever lives.
    pub hard: Timestamp,
}

/// What to do, to tell and to wait for.
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
    memory.0.retain(|id, _| assigned.contains_key(id) || situation.containers.contains_key(id));
    for (id, instance) in &assigned {
        let container = situation.containers.get(*id);
        let local = memory.0.entry((*id).clone()).or_insert_with(|| adopt(instance, container));
        // Ahead only if this agent has lost its ledger: what it observes must count as newer.
        local.observed.restart = local.observed.restart.max(instance.restarts);
        step(situation, instance, container, local, &mut next);
        next.report.instances.push(((*id).clone(), local.observed.clone()));
    }
    for (id, container) in situation.containers.iter().filter(|(id, _)| !assigned.contains_key(id)) {
        if situation.assignment.surplus.contains(id) {
            if !situation.busy.contains(id) {
                next.actions.push(end(id, container, SURPLUS_GRACE));
            }
        } else {
            next.report.unknown.insert(id.clone());
        }
    }
    next.report.generation = situation.assignment.generation;
    next
}

/// What is remembered of an instance that the memory does not hold: its container, if there is one,
/// is taken as it is.
fn adopt(instance: &AssignedInstance, container: Option<&Container>) -> Local {
    let mut local = Local::accepted(instance.restarts);
    local.prepared = container.is_some();
    if let Some(ended) = instance.ended {
        local.observed.phase = ended;
    }
    local
}

fn step(
    situation: Situation<'_>,
    instance: &AssignedInstance,
    container: Option<&Container>,
    local: &mut Local,
    next: &mut Next,
) {
    if let Some(container) = container {
        if local.observed.image_digest.is_none() {
            local.observed.image_digest = container.image_digest.clone();
        }
        notice(situation, instance, container, local);
    }
    if situation.busy.contains(&instance.id) {
        return;
    }
    let action = match instance.desired.want {
        Want::Prepare | Want::Run => run(situation, instance, container, local),
        Want::Stop => stop(instance, container, local, situation.now),
        Want::Purge => purge(instance, container, local, situation.now),
    };
    if let Some(lease) = situation.leases.get(&instance.id).filter(|lease| lease.soft > situation.now) {
        next.wake(lease.soft);
    }
    match action {
        Some(_) if local.not_before > situation.now => next.wake(local.not_before),
        Some(action) => next.actions.push(action),
        None => {}
    }
}

/// Brings what is remembered up to date with what the container shows.
fn notice(situation: Situation<'_>, instance: &AssignedInstance, container: &Container, local: &mut Local) {
    match container.state {
        ContainerState::Created => {}
        ContainerState::Running { started_at, health } => {
            local.boot = Some(situation.boot);
            local.observed.started_at = Some(started_at);
            if local.observed.phase.is_terminal() && instance.desired.want <= Want::Run {
                // It was given up and runs all the same: somebody started it by hand.
                local.observed.restart += 1;
            }
            if instance.desired.want <= Want::Run {
                if local.observed.phase != Phase::Running || local.observed.health != health {
                    local.enter(Phase::Running, "");
                }
                local.observed.health = health;
            }
        }
        ContainerState::Exited { started_at, finished_at, exit_code, out_of_memory } => {
            if local.ended_run == Some(started_at) {
                return;
            }
            local.ended_run = Some(started_at);
            local.observed.exit_code = Some(exit_code);
            local.observed.health = Health::Unchecked;
            if instance.desired.want <= Want::Run && !local.observed.phase.is_terminal() {
                // Nothing is known of a lease after a boot, which has ended all programs.
                let lease = situation.leases.get(&instance.id);
                let outlived_lease = instance.spec.strict_singleton && lease.is_none_or(|l| finished_at >= l.hard);
                let run = Run { length: finished_at.since(started_at), exit_code, out_of_memory, outlived_lease };
                ended(situation, &instance.spec.restart, run, local);
            }
        }
    }
}

/// A run that has ended.
struct Run {
    length: Span,
    exit_code: i64,
    out_of_memory: bool,
    /// Whether it went on to the end of its lease, when it is killed.
    outlived_lease: bool,
}

/// Decides whether a program that has ended is started again here.
fn ended(situation: Situation<'_>, policy: &RestartPolicy, run: Run, local: &mut Local) {
    let rebooted = local.boot.is_some_and(|boot| boot != situation.boot);
    let unhealthy = std::mem::take(&mut local.stopped_unhealthy);
    if std::mem::take(&mut local.stopped_without_lease) || run.outlived_lease {
        local.observed.restart += 1;
        local.enter(Phase::Starting, "its lease was over and it was stopped");
        return;
    }
    let failed = run.exit_code != 0 || run.out_of_memory || unhealthy;
    let cause = match (unhealthy, run.out_of_memory, rebooted) {
        (true, ..) => "it was unhealthy and was stopped".to_owned(),
        (_, true, _) => "it used more memory than its limit and was killed".to_owned(),
        (.., true) => "the host was started anew".to_owned(),
        _ => format!("it ended with exit code {}", run.exit_code),
    };
    if run.length >= policy.window || rebooted {
        local.failures = 0;
    }
    let again = match policy.condition {
        RestartCondition::Any => true,
        RestartCondition::OnFailure => failed || rebooted,
        RestartCondition::None => false,
    };
    if !again {
        local.enter(if failed { Phase::Failed } else { Phase::Completed }, cause);
        return;
    }
    if policy.max_attempts.is_some_and(|most| local.failures >= most) {
        local.enter(
            Phase::Failed,
            format!("{cause}; restarted {} times within {}, which is the limit", local.failures, policy.window),
        );
        return;
    }
    let delay = policy.delay.doubled(local.failures, RESTART_DELAY_CAP.max(policy.delay));
    local.failures += 1;
    local.not_before = situation.now + delay;
    local.observed.restart += 1;
    local.enter(Phase::Starting, format!("{cause}; started again after {delay}"));
}

fn run(
    situation: Situation<'_>,
    instance: &AssignedInstance,
    container: Option<&Container>,
    local: &mut Local,
) -> Option<Action> {
    if local.observed.phase.is_terminal() {
        return None;
    }
    let id = &instance.id;
    let Some(container) = container else {
        if local.observed.phase >= Phase::Starting && local.not_before <= situation.now {
            // Somebody removed the container of a running instance.
            local.observed.restart += 1;
            local.enter(Phase::Pulling, "its container was removed; it is made again");
            local.prepared = false;
        }
        if local.prepared {
            return Some(Action::Create(id.clone()));
        }
        if local.observed.phase < Phase::Pulling {
            local.enter(Phase::Pulling, "");
            local.preparing_since = Some(situation.now);
        }
        return Some(Action::Prepare(id.clone()));
    };
    let lease_over = instance.spec.strict_singleton && !has_lease(situation, &instance.id);
    match container.state {
        ContainerState::Running { .. } if lease_over => {
            local.stopped_without_lease = true;
            Some(end(id, container, rest_of_lease(situation, instance)))
        }
        ContainerState::Running { health: Health::Unhealthy, .. }
            if instance.spec.restart.condition != RestartCondition::None =>
        {
            local.stopped_unhealthy = true;
            Some(end(id, container, instance.spec.stop_grace))
        }
        ContainerState::Running { .. } => None,
        ContainerState::Created | ContainerState::Exited { .. } => {
            if local.observed.phase < Phase::Ready {
                local.enter(Phase::Ready, "");
            }
            if lease_over {
                local
                    .enter(local.observed.phase, "it waits for its lease: no coordinator has answered its host lately");
                return None;
            }
            (instance.desired.want == Want::Run)
                .then(|| Action::Start { instance: id.clone(), container: container.id.clone() })
        }
    }
}

/// Whether a strict singleton may run now.
fn has_lease(situation: Situation<'_>, id: &InstanceId) -> bool {
    situation.leases.get(id).is_some_and(|lease| lease.soft > situation.now)
}

/// The time that a strict singleton has for its end: its own grace, or what is left before it is killed.
fn rest_of_lease(situation: Situation<'_>, instance: &AssignedInstance) -> Span {
    let left = situation.leases.get(&instance.id).map_or(Span(0), |lease| lease.hard.since(situation.now));
    instance.spec.stop_grace.min(left)
}

/// Notes that a running instance is to stop. If others go on serving, those who call this one get a
/// moment in which they can learn that it goes.
fn begin_stop(instance: &AssignedInstance, local: &mut Local, now: Timestamp) {
    let others_serve = matches!(
        instance.desired.reason,
        Some(StopReason::ScaledDown | StopReason::Superseded | StopReason::Drained | StopReason::RolledBack)
    );
    if others_serve && local.observed.phase == Phase::Running && !instance.spec.ports.is_empty() {
        local.not_before = now + DRAIN_WAIT;
    }
    local.enter(Phase::Stopping, "");
}

fn stop(
    instance: &AssignedInstance,
    container: Option<&Container>,
    local: &mut Local,
    now: Timestamp,
) -> Option<Action> {
    match container {
        Some(container) if is_running(container) => {
            begin_stop(instance, local, now);
            Some(end(&instance.id, container, instance.spec.stop_grace))
        }
        _ => {
            if !local.observed.phase.is_terminal() {
                local.enter(Phase::Stopped, "");
            }
            None
        }
    }
}

fn purge(
    instance: &AssignedInstance,
    container: Option<&Container>,
    local: &mut Local,
    now: Timestamp,
) -> Option<Action> {
    match container {
        Some(container) => {
            if is_running(container) && local.observed.phase < Phase::Stopping {
                begin_stop(instance, local, now);
            }
            Some(end(&instance.id, container, instance.spec.stop_grace))
        }
        None => {
            local.enter(Phase::Purged, "");
            None
        }
    }
}

fn is_running(container: &Container) -> bool {
    matches!(container.state, ContainerState::Running { .. })
}

/// The next step towards the end of a container: stop what runs, remove what does not.
fn end(id: &InstanceId, container: &Container, grace: Span) -> Action {
    let (instance, container_id) = (id.clone(), container.id.clone());
    if is_running(container) {
        Action::Stop { instance, container: container_id, grace }
    } else {
        Action::Remove { instance, container: container_id }
    }
}

#[cfg(test)]
mod tests;
