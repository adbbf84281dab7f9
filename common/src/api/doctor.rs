//! What is wrong, in the API.

use std::collections::BTreeMap;

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
    /// The host that found it, that is not heard, or whose instances are not reached.
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

/// Every path of the overlay: there is one in each direction between any two hosts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PathsView {
    /// What is known of it, by the host where it ends and the one where it begins; no host if there is no overlay.
    pub arriving: BTreeMap<Name, BTreeMap<Name, PathState>>,
}

/// What a path of the overlay carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum PathState {
    /// All.
    Whole,
    /// Small packets alone.
    Narrow,
    /// Nothing.
    Silent,
    /// Nobody knows: the agent at one of its ends is not heard.
    Unknown,
}

impl PathState {
    /// All of them.
    pub const ALL: [PathState; 4] = [PathState::Whole, PathState::Narrow, PathState::Silent, PathState::Unknown];

    /// A word for people, and the label of metrics.
    pub fn word(self) -> &'static str {
        match self {
            PathState::Whole => "whole",
            PathState::Narrow => "narrow",
            PathState::Silent => "silent",
            PathState::Unknown => "unknown",
        }
    }
}
