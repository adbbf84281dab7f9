//! What ends by design: what each slot is to do, what it has done, and when jobs with a schedule are run.
//!
//! What has ended for a task, well or failed for good, is not begun again for it, whatever becomes of hosts, leaders
//! and revisions; only a person's `retry` takes a failure back. `docs/runs.md` has the table of states.

use common::{
    error::{Code, Problem},
    id::{InstanceId, ServiceId, SlotId},
    instance::{Observed, Phase, Verdict},
    output::LastLines,
    part::Part,
    rollout::RolloutState,
    time::{Span, Timestamp},
};
use serde::{Deserialize, Serialize};

use super::{Applied, Instance, Service, State, instances::Slot, not_found};
use crate::plan;

/// How many ends a slot remembers: as many as revisions that people can go back to.
const MAX_ENDS: usize = super::stacks::MAX_REVISIONS;

/// For how many tasks a slot remembers what was tried.
const MAX_TRIES: usize = 2;

/// The delay before a slot is filled again, doubled with each failure in a row.
const RETRY_BASE: Span = Span::seconds(5);
/// The longest such delay.
const RETRY_CAP: Span = Span::minutes(5);
/// A run of this length forgets earlier failures.
const FORGIVE_AFTER: Span = Span::minutes(10);

/// The runs of a job that has a schedule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Runs {
    /// How many there were, the present one included.
    pub number: u64,
    /// When the present one was due; the beginning of time before the first.
    pub due: Timestamp,
    /// The last time that it was due and that was dealt with.
    pub last: Timestamp,
}

/// What a slot is to do. What ends by design is done once for each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Task {
    /// A revision.
    Revision(u64),
    /// The run of its schedule that was due then; there is nothing to do before the first.
    Run(Timestamp),
}

impl Task {
    /// Whether it stands for the time before the first run of a schedule, in which there is nothing to do.
    pub fn is_before_the_first(self) -> bool {
        self == Task::Run(Timestamp(0))
    }
}

/// That a slot's task is over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// The task.
    pub task: Task,
    /// Why it failed for good; none if it ended well.
    pub failed: Option<String>,
}

/// How often a slot has tried its task, as the revision has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tries {
    /// What for.
    pub task: Task,
    /// By which revision: another one begins with a clean slate.
    pub revision: u64,
    /// How many of the retries that its restart policy allows are used up, over all instances and hosts.
    pub retries: u32,
    /// How many instances failed in a row.
    pub failures: u32,
    /// When the slot may be filled again.
    pub retry_at: Timestamp,
    /// Why the last instance failed.
    pub last_failure: String,
    /// What that one printed last.
    pub last_output: LastLines,
}

impl Slot {
    /// How a task of it ended, if it has.
    pub fn end_of(&self, task: Task) -> Option<&End> {
        self.ended.iter().rev().find(|end| end.task == task)
    }

    /// What was tried of a task by a revision.
    pub fn tries_of(&self, task: Task, revision: u64) -> Option<&Tries> {
        self.tries.iter().find(|tries| (tries.task, tries.revision) == (task, revision))
    }

    /// The same to be changed. What serves may fail beside what is to take its place, so two are remembered; the
    /// `stable` revision, to which the service may go back, is not forgotten for a third one.
    pub(in crate::state) fn tries_mut(&mut self, task: Task, revision: u64, stable: Option<u64>) -> &mut Tries {
        let is_it = |tries: &Tries| (tries.task, tries.revision) == (task, revision);
        let index = self.tries.iter().position(is_it).unwrap_or_else(|| {
            while self.tries.len() >= MAX_TRIES {
                let other = self.tries.iter().rposition(|tries| Some(tries.revision) != stable);
                self.tries.remove(other.unwrap_or(self.tries.len() - 1));
            }
            let (retry_at, last_failure, last_output) = Default::default();
            self.tries
                .insert(0, Tries { task, revision, retries: 0, failures: 0, retry_at, last_failure, last_output });
            0
        });
        &mut self.tries[index]
    }

    /// Notes that a task is over. What ended well cannot fail any more, and runs of a schedule follow one another.
    pub(in crate::state) fn note_end(&mut self, end: End) {
        if end.failed.is_some() && self.end_of(end.task).is_some() {
            return;
        }
        let is_superseded =
            |other: &End| other.task == end.task || matches!((other.task, end.task), (Task::Run(_), Task::Run(_)));
        self.ended.retain(|other| !is_superseded(other));
        self.ended.push(end);
        if self.ended.len() > MAX_ENDS {
            // That an earlier revision failed is not asked for again; that one ended well may be.
            let last = self.ended.len() - 1;
            let failed = self.ended[..last].iter().position(|end| end.failed.is_some());
            self.ended.remove(failed.unwrap_or(0));
        }
    }
}

impl State {
    /// How a slot's task ended, if it has.
    pub fn end_of(&self, slot: &SlotId, task: Task) -> Option<&End> {
        self.work.slots.get(slot)?.end_of(task)
    }

    /// The slots of a service in which a task has ended, and how, by number.
    pub fn ends_of<'a>(&'a self, service: &ServiceId, task: Task) -> impl Iterator<Item = (u32, &'a End)> + use<'a> {
        let slots = self.work.slots.range(service.slot(0)..=service.slot(u32::MAX));
        slots.filter_map(move |(id, slot)| Some((id.slot, slot.end_of(task)?)))
    }

    /// Whether nothing is to be done for a task of a slot any more: it has ended, well or failed for good, or it is
    /// the run before the first.
    pub fn has_ended(&self, slot: &SlotId, task: Task) -> bool {
        task.is_before_the_first() || self.end_of(slot, task).is_some()
    }

    /// Whether a task of a slot has ended well.
    pub fn has_ended_well(&self, slot: &SlotId, task: Task) -> bool {
        task.is_before_the_first() || self.end_of(slot, task).is_some_and(|end| end.failed.is_none())
    }

    /// In how many of a service's slots its present task has ended well.
    pub fn ended_slots(&self, id: &ServiceId, service: &Service) -> usize {
        let slots = plan::wanted_slots(self, id, service);
        slots.into_iter().filter(|number| self.has_ended_well(&id.slot(*number), service.task())).count()
    }

    /// The slots of a service whose present task has failed for good, and why.
    pub fn failed_slots<'a>(&'a self, id: &'a ServiceId, service: &'a Service) -> impl Iterator<Item = (u32, &'a str)> {
        let failed = move |number: u32| {
            let end = self.end_of(&id.slot(number), service.task())?;
            Some((number, end.failed.as_deref()?))
        };
        plan::wanted_slots(self, id, service).into_iter().filter_map(failed)
    }

    /// The revision to which a service goes back if its present one fails.
    pub(in crate::state) fn stable_revision(&self, id: &ServiceId) -> Option<u64> {
        Some(self.service(id)?.stable.as_ref()?.revision)
    }

    /// Notes what the end of an instance means for its slot: that its task is over, or when it is tried again. What
    /// was replaced has no say, but that it ended well.
    pub(in crate::state) fn note_end_of(&mut self, id: &InstanceId, before: &Observed) {
        let clock = self.basics.clock;
        let Some(instance) = self.work.instances.get(id) else { return };
        let Instance { task, revision, observed, .. } = instance;
        let (task, revision, observed) = (*task, *revision, observed.clone());
        let counts = !matches!(instance.verdict, Verdict::Lost { .. });
        let (fills_slot, policy) = (instance.fills_slot(), instance.spec.restart_of(&Part::Main));
        let is_shared = instance.spec.cron.is_some();
        let stable = self.stable_revision(id.service());
        let slot = self.work.slots.entry(id.slot.clone()).or_default();
        match observed.phase {
            Phase::Completed => slot.note_end(End { task, failed: None }),
            Phase::Failed if counts && policy.is_used_up(slot.tries_mut(task, revision, stable).retries) => {
                let failed = Some(observed.message.clone());
                slot.note_end(End { task, failed });
                let of = if is_shared { "its run" } else { &format!("revision {revision}") };
                let message = format!("{of} failed for good: {}", observed.message);
                self.record_failure(id, "failed-for-good", message, &observed.output);
            }
            Phase::Failed | Phase::Rejected if fills_slot => {
                let tries = slot.tries_mut(task, revision, stable);
                let ran_long = before.started_at.is_some_and(|started| clock.since(started) >= FORGIVE_AFTER);
                let exponent = if ran_long { 0 } else { tries.failures };
                tries.failures = exponent + 1;
                tries.retries += u32::from(observed.phase == Phase::Failed);
                tries.retry_at = clock + RETRY_BASE.doubled(exponent, RETRY_CAP);
                tries.last_failure = observed.message;
                tries.last_output = observed.output;
            }
            _ => {}
        }
    }

    /// Begins the run that was due at a time, or leaves it out; once for each time, whoever asks.
    pub(in crate::state) fn tick(&mut self, id: &ServiceId, due: Timestamp, left_out: Option<&str>) -> Applied {
        let service = self.service_mut(id)?;
        let refuse = |why: String| Err(Problem::new(Code::Conflict, format!("{id} was not run")).why(why));
        if service.spec.cron.is_none() {
            return refuse("it has no schedule".into());
        }
        if due <= service.runs.last {
            return refuse(format!("the run due at {due} was already handled"));
        }
        service.runs.last = due;
        match left_out {
            Some(why) => self.record(id, "run-left-out", format!("the run due at {due} was left out: {why}")),
            None => {
                service.runs.number += 1;
                service.runs.due = due;
                let number = service.runs.number;
                self.record(id, "run-begun", format!("run {number}, due at {due}"));
            }
        }
        self.done()
    }

    /// Tries again at once what has failed of a service, for good or not. What has ended well is not done again.
    pub(in crate::state) fn retry(&mut self, id: &ServiceId) -> Applied {
        let service = self.service(id).ok_or_else(|| not_found("service", id))?;
        let task = service.task();
        let failed = |end: &End| end.task == task && end.failed.is_some();
        let of_service = self.work.slots.range(id.slot(0)..).take_while(|(slot, _)| slot.service == *id);
        let has_failed = |slot: &Slot| slot.tries.iter().any(|tries| tries.failures > 0);
        let slots: Vec<(SlotId, bool)> = of_service
            .map(|(slot, record)| (slot.clone(), record.ended.iter().any(failed), has_failed(record)))
            .filter(|(_, for_good, lately)| *for_good || *lately)
            .map(|(slot, for_good, _)| (slot, for_good))
            .collect();
        let spec = service.spec.clone();
        let was_avoided = self.forget_unprepared_everywhere(&spec);
        if slots.is_empty() && was_avoided {
            self.record(id, "retried", "the hosts that could not prepare its images count as well as others again");
            return self.done();
        }
        if slots.is_empty() {
            return Err(Problem::new(Code::Conflict, format!("{id} was not retried"))
                .why("none of its instances has failed, and runs that ended well are not repeated"));
        }
        let (count, clock) = (slots.len(), self.basics.clock);
        let is_over = slots.iter().any(|(_, for_good)| *for_good);
        for (slot, _) in slots {
            if let Some(record) = self.work.slots.get_mut(&slot) {
                record.tries.clear();
                record.ended.retain(|end| !failed(end));
            }
        }
        let service = self.service_mut(id)?;
        if is_over && matches!(service.rollout.state, RolloutState::Failed | RolloutState::Paused) {
            (service.rollout.state, service.rollout.since) = (RolloutState::Rolling, clock);
            (service.rollout.why, service.rollout.output) = Default::default();
        }
        let slots = if count == 1 { "1 slot that had" } else { &format!("{count} slots that had") };
        self.record(id, "retried", format!("{slots} failed: tried again at once"));
        self.done()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_tried_of_the_revision_to_go_back_to_is_remembered() {
        let mut slot = Slot::default();
        for (revision, stable) in [(1, None), (2, Some(1)), (4, Some(1)), (5, Some(1))] {
            slot.tries_mut(Task::Revision(revision), revision, stable).retries = revision as u32;
        }
        let retries = |revision: u64| slot.tries_of(Task::Revision(revision), revision).map(|tries| tries.retries);
        assert_eq!([1, 2, 4, 5].map(retries), [Some(1), None, None, Some(5)]);
    }
}
