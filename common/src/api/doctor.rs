//! What is wrong, in the API.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{finding::Finding, name::Name};

/// All that is wrong with the hosts and the paths between them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DoctorView {
    /// How many hosts there are.
    pub hosts: usize,
    /// How many of them are heard.
    pub ready: usize,
    /// How many paths of the overlay are watched: one in each direction between any two hosts that are heard.
    pub directions: usize,
    /// What is wrong; nothing if all is well.
    pub findings: Vec<FindingView>,
}

/// Something that is wrong, as people should read it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FindingView {
    /// The host that found it, or that is not heard.
    pub host: Name,
    /// What its agent found; absent if the agent itself is what is missed.
    pub finding: Option<Finding>,
    /// What is wrong, where: one line.
    pub what: String,
    /// Why, as far as is known.
    pub why: Vec<String>,
    /// What to do about it.
    pub fix: Vec<String>,
}

impl FindingView {
    /// Whether it is that a path of the overlay carries nothing, or not all.
    pub fn is_of_a_path(&self) -> bool {
        matches!(self.finding, Some(Finding::Unheard { .. } | Finding::Narrow { .. }))
    }
}
