//! What the agent does to a container, and what comes of it.

use common::{id::InstanceId, time::Span};

/// One thing to do for one instance. At most one is under way for an instance at a time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Have the instance's image on the host.
    Prepare(InstanceId),
    /// Make the instance's container.
    Create(InstanceId),
    /// Start it.
    Start {
        /// The instance.
        instance: InstanceId,
        /// Docker's id of the container.
        container: String,
    },
    /// Ask its program to end, and end it after the grace time.
    Stop {
        /// The instance.
        instance: InstanceId,
        /// Docker's id of the container.
        container: String,
        /// The time between SIGTERM and SIGKILL.
        grace: Span,
    },
    /// Remove the container.
    Remove {
        /// The instance.
        instance: InstanceId,
        /// Docker's id of the container.
        container: String,
    },
}

impl Action {
    /// The instance that it is for.
    pub fn instance(&self) -> &InstanceId {
        match self {
            Action::Prepare(instance) | Action::Create(instance) => instance,
            Action::Start { instance, .. } | Action::Stop { instance, .. } | Action::Remove { instance, .. } => {
                instance
            }
        }
    }
}

/// What came of an action.
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
