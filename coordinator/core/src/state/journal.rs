//! The index of the state, and the events that explain its last changes.

use common::{api::Event, name::Name, output::LastLines};
use imbl::{OrdMap, OrdSet};
use serde::{Deserialize, Serialize};

use super::{State, shortened};

/// Most events that are kept.
const MAX_EVENTS: usize = 4096;
/// Longest message of an event, in characters.
const MAX_MESSAGE: usize = 2000;
/// Most events that are kept with the output of what failed.
pub(super) const MAX_OUTPUTS: usize = 256;

/// The section of events.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Journal {
    /// Grows with every change and every event.
    index: u64,
    events: OrdMap<u64, Event>,
    /// Those of them that hold output.
    with_output: OrdSet<u64>,
    /// Who asked for the command that is being applied.
    #[serde(skip)]
    pub(super) actor: Option<Name>,
}

impl State {
    /// The number of the last change; it grows with every change and every event.
    pub fn index(&self) -> u64 {
        self.journal.index
    }

    /// The last events, by index.
    pub fn events(&self) -> &OrdMap<u64, Event> {
        &self.journal.events
    }

    /// Who asked for the command that is being applied.
    pub(super) fn actor(&self) -> Option<&Name> {
        self.journal.actor.as_ref()
    }

    /// Counts a change.
    pub(super) fn touch(&mut self) -> u64 {
        self.journal.index += 1;
        self.journal.index
    }

    /// Leaves out so many indices.
    pub(super) fn skip_indices(&mut self, by: u64) {
        self.journal.index += by;
    }

    /// Counts a change and records an event about it.
    pub(super) fn record(&mut self, subject: impl ToString, reason: &str, message: impl Into<String>) {
        self.record_failure(subject, reason, message, &LastLines::default());
    }

    /// Records an event about a failure with the last lines of what failed. Only the newest such events keep them.
    pub(super) fn record_failure(
        &mut self,
        subject: impl ToString,
        reason: &str,
        message: impl Into<String>,
        output: &LastLines,
    ) {
        let (index, at) = (self.touch(), self.basics.clock);
        self.journal.add(Event {
            index,
            at,
            subject: subject.to_string(),
            reason: reason.to_owned(),
            message: shortened(message.into(), MAX_MESSAGE),
            by: self.journal.actor.clone(),
            output: output.clone(),
        });
    }
}

impl Journal {
    fn add(&mut self, event: Event) {
        if !event.output.is_empty() {
            self.with_output.insert(event.index);
        }
        self.events.insert(event.index, event);
        while self.events.len() > MAX_EVENTS
            && let Some(oldest) = self.events.get_min().map(|(index, _)| *index)
        {
            self.events.remove(&oldest);
            self.with_output.remove(&oldest);
        }
        if self.with_output.len() > MAX_OUTPUTS
            && let Some(oldest) = self.with_output.remove_min()
            && let Some(event) = self.events.get_mut(&oldest)
        {
            event.output = LastLines::default();
        }
    }
}
