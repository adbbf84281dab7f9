//! The API's view of the clocks of the coordinators.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    id::{HostId, MemberId},
    time::Timestamp,
};

/// The time of the cluster, and the clocks that it follows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ClockView {
    /// The newest time in the replicated state.
    pub state: Timestamp,
    /// The time by the coordinators' clocks.
    pub clocks: Timestamp,
    /// Whether the clocks of a majority of the coordinators agree about it.
    pub certain: bool,
    /// The clock of each coordinator.
    pub members: Vec<MemberClock>,
}

/// The clock of a coordinator.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MemberClock {
    /// The coordinator.
    pub member: MemberId,
    /// Its host.
    pub host: HostId,
    /// By how many milliseconds its clock is ahead of `clocks`; negative if it is behind, absent if it has not answered
    /// lately.
    pub ahead: Option<i64>,
}
