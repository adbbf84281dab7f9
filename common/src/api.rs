//! The values of the HTTP API: what `/api/v1` takes and gives. Field names are stable.

mod access;
mod cluster;
mod doctor;
mod files;
mod hosts;
mod plan;
mod stacks;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{error::Problem, name::Name, output::LastLines, time::Timestamp};

pub use access::*;
pub use cluster::*;
pub use doctor::*;
pub use files::*;
pub use hosts::*;
pub use plan::*;
pub use stacks::*;

/// The version of the API, part of every path.
pub const API_VERSION: &str = "v1";
/// The header of every authorised answer that names the coordinators, as `address:port,…`.
pub const COORDINATORS_HEADER: &str = "wharf-coordinators";
/// Largest body of a request, in bytes.
pub const MAX_BODY: usize = 1 << 20;

/// A list and the index of the state that it was read from.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct List<T> {
    /// The index: a watch that starts from it misses nothing.
    pub index: u64,
    /// The items, in a stable order.
    pub items: Vec<T>,
}

/// A decision that was made, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Event {
    /// Its place in the order of all events.
    pub index: u64,
    /// When.
    pub at: Timestamp,
    /// What it is about: the id of a stack, service, instance, host, token or member.
    pub subject: String,
    /// The kind of event, in kebab-case; stable.
    pub reason: String,
    /// What happened, for people.
    pub message: String,
    /// The API token of the person who asked for it; none if the cluster did so by itself.
    pub by: Option<Name>,
    /// The last lines of what failed, if it is a failure; older events have lost them.
    pub output: LastLines,
}

/// A problem as the API gives it: `application/problem+json` by RFC 9457, with our four parts.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ProblemDocument {
    /// `urn:wharf:` and the code.
    #[serde(rename = "type")]
    pub kind: String,
    /// What failed, on what.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// The causes, one a line.
    pub detail: String,
    /// The same in parts.
    #[serde(flatten)]
    pub problem: Problem,
}

/// Labels by key, as they stand in JSON.
pub type Labels = BTreeMap<String, String>;
