//! The actions of an agent on containers, and their results.

use common::{part::PartId, time::Span};

/// One thing to do for one part of an instance. At most one is under way for a part at a time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Fetch the part's image to the host.
    Prepare(PartId),
    /// Make the part's container.
    Create(PartId),
    /// Start it.
    Start {
        /// The part.
        part: PartId,
        /// Docker's id of the container.
        container: String,
    },
    /// Ask its program to end, and end it after the grace time.
    Stop {
        /// The part.
        part: PartId,
        /// Docker's id of the container.
        container: String,
        /// The time between SIGTERM and SIGKILL.
        grace: Span,
    },
    /// Remove the container.
    Remove {
        /// The part.
        part: PartId,
        /// Docker's id of the container.
        container: String,
    },
}

impl Action {
    /// Its verb, for logs.
    pub fn verb(&self) -> &'static str {
        match self {
            Action::Prepare(_) => "prepare",
            Action::Create(_) => "create",
            Action::Start { .. } => "start",
            Action::Stop { .. } => "stop",
            Action::Remove { .. } => "remove",
        }
    }

    /// The part that it is for.
    pub fn part(&self) -> &PartId {
        match self {
            Action::Prepare(part) | Action::Create(part) => part,
            Action::Start { part, .. } | Action::Stop { part, .. } | Action::Remove { part, .. } => part,
        }
    }
}

/// The result of an action.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ActionResult {
    /// It was done. Docker shows what changed.
    Done,
    /// The image is on the host.
    Prepared,
    /// It waits for something, which is no fault of the instance.
    Waits(String),
    /// It failed, and may succeed later.
    Failed(String),
    /// It cannot succeed on this host.
    Impossible(String),
}
