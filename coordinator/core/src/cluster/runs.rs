//! Jobs: what they have done, and when those with a schedule are run.

use common::{
    error::{Code, Problem},
    id::{ServiceId, SlotId},
    time::Timestamp,
};
use serde::{Deserialize, Serialize};

use super::{Applied, Cluster, Service};

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

/// What a job is to do once in each slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Task {
    /// A revision.
    Revision(u64),
    /// The run of its schedule that was due then; there is nothing to do before the first.
    Run(Timestamp),
}

impl Cluster {
    /// Whether the job of a slot has done a task.
    pub fn has_ended(&self, slot: &SlotId, task: Task) -> bool {
        task == Task::Run(Timestamp(0)) || self.slots.get(slot).is_some_and(|slot| slot.ended == Some(task))
    }

    /// In how many slots of a service its present task is done.
    pub fn ended_slots(&self, id: &ServiceId, service: &Service) -> usize {
        (1..=service.spec.replicas).filter(|number| self.has_ended(&id.slot(*number), service.task())).count()
    }

    /// Begins the run that was due at a time, or leaves it out; once for each time, whoever asks.
    pub(super) fn tick(&mut self, id: &ServiceId, due: Timestamp, left_out: Option<&str>) -> Applied {
        let service = self.service_mut(id)?;
        let refuse = |why: String| Err(Problem::new(Code::Conflict, format!("{id} was not run")).why(why));
        if service.spec.cron.is_none() {
            return refuse("it has no schedule".into());
        }
        if due <= service.runs.last {
            return refuse(format!("what was due at {due} was dealt with"));
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
}
