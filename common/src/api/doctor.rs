//! The API's view of problems in the cluster.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{finding::Finding, name::Name};

/// All known problems with hosts and the paths between them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DoctorView {
    /// The number of hosts in the cluster.
    pub hosts: usize,
    /// The number of hosts whose heartbeats arrive.
    pub ready: usize,
    /// The number of watched overlay paths: two between each pair of ready hosts, one per direction.
    pub directions: usize,
    /// The problems; empty if there are none.
    pub findings: Vec<FindingView>,
}

/// A problem, in sentences for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FindingView {
    /// The host that found the problem, that is missing, or whose instances cannot be reached.
    pub host: Name,
    /// The finding of the host's agent; absent if the agent itself is missing.
    pub finding: Option<Finding>,
    /// The problem and its place, in one line.
    pub what: String,
    /// The causes, as far as they are known.
    pub why: Vec<String>,
    /// Steps to solve it, one per line.
    pub fix: Vec<String>,
}

impl FindingView {
    /// Whether the problem is that an overlay path carries no packets, or only small ones.
    pub fn is_of_a_path(&self) -> bool {
        matches!(self.finding, Some(Finding::Unheard { .. } | Finding::Narrow { .. }))
    }
}

/// All overlay paths: two between each pair of hosts, one per direction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PathsView {
    /// The state of each path, by its receiving and then by its sending host; empty without an overlay.
    pub arriving: BTreeMap<Name, BTreeMap<Name, PathState>>,
}

/// Which packets arrive through an overlay path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum PathState {
    /// Packets of every size arrive.
    Whole,
    /// Only small packets arrive.
    Narrow,
    /// No packets arrive.
    Silent,
    /// Unknown, because the agent at one of its ends does not report.
    Unknown,
}

impl PathState {
    /// All states, for metrics.
    pub const ALL: [PathState; 4] = [PathState::Whole, PathState::Narrow, PathState::Silent, PathState::Unknown];

    /// A stable word for people and metric labels.
    pub fn word(self) -> &'static str {
        match self {
            PathState::Whole => "whole",
            PathState::Narrow => "narrow",
            PathState::Silent => "silent",
            PathState::Unknown => "unknown",
        }
    }
}
