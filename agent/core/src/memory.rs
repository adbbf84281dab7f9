//! The agent's memory of its instances, beyond what Docker shows; kept in the ledger.

use std::collections::BTreeMap;

use common::{
    id::BootId,
    instance::{Observed, Phase},
    part::PartId,
    time::{Span, Timestamp},
};
use serde::{Deserialize, Serialize};

use crate::{
    action::{Action, ActionResult},
    observed::{Container, ContainerState},
};

/// The delay before the agent tries a failed preparation again, doubled each time.
const PREPARE_DELAY: Span = Span::seconds(2);
/// The longest such delay.
const PREPARE_DELAY_CAP: Span = Span::minutes(1);
/// How long a preparation may go on failing.
pub const PREPARE_DEADLINE: Span = Span::minutes(10);
/// The longest delay between two restarts.
pub const RESTART_DELAY_CAP: Span = Span::minutes(1);
/// Longest message in a report, in characters.
const MAX_MESSAGE: usize = 500;

/// The agent's memory, by part of an instance.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Memory(pub BTreeMap<PartId, Local>);

/// The agent's memory of one part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Local {
    /// The last observation, as the agent reports it.
    pub observed: Observed,
    /// Whether its image is on the host.
    pub prepared: bool,
    /// Since when its preparation fails, if it does.
    pub unprepared_since: Option<Timestamp>,
    /// When its preparation began.
    pub preparing_since: Option<Timestamp>,
    /// Failures in a row: of preparing, or of runs.
    pub failures: u32,
    /// Why Docker could not start it the last time, until the agent has dealt with that.
    pub not_started: Option<String>,
    /// Before this time, the agent tries nothing.
    pub not_before: Timestamp,
    /// Before this time, a failed health check does not count.
    pub check_counts_from: Timestamp,
    /// The start of the last run whose end the agent has dealt with.
    pub ended_run: Option<Timestamp>,
    /// The boot in which the agent last started it, or saw it run.
    pub boot: Option<BootId>,
    /// Why the agent stopped it, if it is to be started again.
    pub stopped: Option<Stopped>,
    /// When the network that it uses was made, if it shares one.
    pub network: Option<Timestamp>,
}

/// Why the agent stops a part that it will start again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stopped {
    /// Its health check failed.
    Unhealthy,
    /// Its lease was over.
    WithoutLease,
    /// The network that it shares was made again.
    WithoutNetwork,
}

impl Local {
    /// One that was just accepted.
    pub fn accepted() -> Local {
        Local {
            observed: Observed { phase: Phase::Accepted, ..Observed::nothing() },
            prepared: false,
            unprepared_since: None,
            preparing_since: None,
            failures: 0,
            not_started: None,
            not_before: Timestamp(0),
            check_counts_from: Timestamp(0),
            ended_run: None,
            boot: None,
            stopped: None,
            network: None,
        }
    }

    /// Notes that it fails, and the output of its container.
    pub(crate) fn fail(&mut self, why: &str, container: &Container) {
        why.clone_into(&mut self.observed.failure);
        self.observed.output.clone_from(&container.output);
    }

    /// Notes a phase and what a person should know.
    pub(crate) fn enter(&mut self, phase: Phase, message: impl Into<String>) {
        self.observed.phase = phase;
        self.observed.message = message.into().chars().take(MAX_MESSAGE).collect();
    }

    /// Notes that its preparation has failed: it is tried again, each time after a longer delay, until it takes too long.
    fn not_prepared(&mut self, why: &str, now: Timestamp) {
        let since = *self.preparing_since.get_or_insert(now);
        if now.since(since) >= PREPARE_DEADLINE {
            self.enter(Phase::Rejected, format!("not prepared within {PREPARE_DEADLINE}: {why}"));
            return;
        }
        self.not_before = now + PREPARE_DELAY.doubled(self.failures, PREPARE_DELAY_CAP);
        self.failures += 1;
        self.enter(self.observed.phase, why);
    }
}

impl Memory {
    /// The containers whose program has ended since the last look. Their last output is read before anything else: the
    /// report of the failure contains it, and the containers may be removed after that.
    pub fn new_ends<'a>(
        &self,
        containers: &'a BTreeMap<PartId, Container>,
    ) -> impl Iterator<Item = (&'a PartId, &'a Container)> {
        let known = |id| self.0.get(id).and_then(|local: &Local| local.ended_run);
        containers.iter().filter(move |(id, container)| match container.state {
            ContainerState::Exited { started_at, .. } => known(*id) != Some(started_at),
            ContainerState::Created | ContainerState::Running { .. } => false,
        })
    }

    /// Folds in the result of an action.
    pub fn learn(&mut self, action: &Action, result: &ActionResult, now: Timestamp) {
        let Some(local) = self.0.get_mut(action.part()) else { return };
        match (action, result) {
            (Action::Prepare(_) | Action::Create(_), ActionResult::Failed(_) | ActionResult::Impossible(_)) => {
                local.unprepared_since.get_or_insert(now);
            }
            (Action::Create(_), ActionResult::Done) | (_, ActionResult::Prepared) => local.unprepared_since = None,
            _ => {}
        }
        match (action, result) {
            (_, ActionResult::Done) => {}
            (_, ActionResult::Prepared) => {
                local.prepared = true;
                local.failures = 0;
                local.not_before = Timestamp(0);
            }
            (Action::Prepare(_) | Action::Create(_) | Action::Start { .. }, ActionResult::Impossible(why)) => {
                local.enter(Phase::Rejected, why.clone());
            }
            (Action::Prepare(_) | Action::Create(_), ActionResult::Failed(why)) => local.not_prepared(why, now),
            (Action::Start { .. }, ActionResult::Failed(why)) => {
                // A program that cannot be started is one that ended at once: its restart policy decides.
                local.not_before = now + Span::seconds(1);
                local.not_started = Some(why.clone());
            }
            (_, ActionResult::Waits(why) | ActionResult::Failed(why) | ActionResult::Impossible(why)) => {
                local.not_before = now + PREPARE_DELAY;
                local.enter(local.observed.phase, why.clone());
            }
        }
    }
}
