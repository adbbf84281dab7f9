//! Rollouts as the API and messages name them.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The state of the rollout of a service to a revision.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum RolloutState {
    /// Instances of the revision start and replace older ones.
    Rolling,
    /// No instances are replaced until a person decides.
    Paused,
    /// All instances have the revision and have served, or have ended well.
    Done,
    /// The revision has failed for good, or something that it depends on has.
    Failed,
}

impl RolloutState {
    /// The state as a word, for messages and JSON.
    pub fn word(self) -> &'static str {
        match self {
            RolloutState::Rolling => "rolling",
            RolloutState::Paused => "paused",
            RolloutState::Done => "done",
            RolloutState::Failed => "failed",
        }
    }
}
