//! Rollouts as people and the API speak of them.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Whether the change of a service to a revision goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum RolloutState {
    /// Instances of the revision are started, and older ones are replaced.
    Rolling,
    /// Nothing is replaced until a person decides.
    Paused,
    /// All instances are of the revision and have served, or have ended well.
    Done,
    /// What the revision was to do has failed for good, or what it depends on has.
    Failed,
}

impl RolloutState {
    /// The state's name.
    pub fn word(self) -> &'static str {
        match self {
            RolloutState::Rolling => "rolling",
            RolloutState::Paused => "paused",
            RolloutState::Done => "done",
            RolloutState::Failed => "failed",
        }
    }
}
