//! Jobs with a schedule: which run is due.

use common::{id::SlotId, spec::Overlap, time::Timestamp};

use super::{Plan, scale::Subject};
use crate::{command::Command, state::Instance};

/// Begins what is due, and says when to look again.
pub(super) fn plan_runs(subject: &Subject<'_>, plan: &mut Plan) {
    let service = subject.service;
    let Some(cron) = &service.spec.cron else { return };
    // It was checked when it was deployed.
    let Ok(schedule) = cron.parse() else { return };
    let now = subject.at.now;
    let mut propose = |due, left_out: Option<&str>| {
        let (service, left_out) = (subject.id.clone(), left_out.map(str::to_owned));
        plan.commands.push(Command::Tick { service, due, left_out });
    };
    let Some(first) = schedule.next_after(service.runs.last) else { return };
    if first > now {
        return plan.wake(first);
    }
    // Of all that was missed while nobody could begin it, the last one is made up for, if it is not too late.
    let earliest = Timestamp(now.0.saturating_sub(cron.catch_up.0));
    let mut due = first;
    if first < earliest {
        match schedule.next_after(Timestamp(earliest.0.saturating_sub(1))).filter(|next| *next <= now) {
            Some(next) => due = next,
            None => return propose(earliest, Some("no coordinator could start it in time")),
        }
    }
    while let Some(next) = schedule.next_after(due).filter(|next| *next <= now) {
        due = next;
    }
    // What could not begin so far is not waited for: the run that is due now takes its place.
    let runs = |instance: &Instance| instance.fills_slot() && instance.is_current(service) && instance.may_run();
    let is_over = |slot: &SlotId| subject.cluster.has_ended(slot, service.task());
    let goes_on = subject.instances.iter().any(|(id, instance)| runs(instance) && !is_over(&id.slot));
    propose(due, (goes_on && cron.overlap == Overlap::Skip).then_some("the previous run has not ended"));
}

#[cfg(test)]
mod tests;
