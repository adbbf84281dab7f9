//! The values of the HTTP API: the bodies of requests and answers under `/api/v1`. Field names are stable.

mod access;
mod backup;
mod clock;
mod cluster;
mod doctor;
mod files;
mod hosts;
mod plan;
mod stacks;
mod trust;
mod upgrade;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{error::Problem, name::Name, output::LastLines, time::Timestamp};

pub use access::*;
pub use backup::*;
pub use clock::*;
pub use cluster::*;
pub use doctor::*;
pub use files::*;
pub use hosts::*;
pub use plan::*;
pub use stacks::*;
pub use trust::*;
pub use upgrade::*;

/// The version of the API, part of every path.
pub const API_VERSION: &str = "v1";
/// The header in every authorised answer that lists the coordinators, as `address:port,…`.
pub const COORDINATORS_HEADER: &str = "wharf-coordinators";
/// The header in authorised answers that names the cluster's root, by the hash of its certificate.
pub const ROOT_HEADER: &str = "wharf-root";
/// The maximum size of a request body, in bytes.
pub const MAX_BODY: usize = 1 << 20;

/// A list, with the index of the state from which it was read.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct List<T> {
    /// The state's index; a watch that starts from it misses nothing.
    pub index: u64,
    /// The items, in a stable order.
    pub items: Vec<T>,
}

/// A recorded decision and its reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Event {
    /// The event's position in the order of all events.
    pub index: u64,
    /// When the leader recorded it.
    pub at: Timestamp,
    /// The id of the stack, service, instance, host, token or member that the event is about.
    pub subject: String,
    /// The kind of event, in kebab-case; stable.
    pub reason: String,
    /// One sentence for people.
    pub message: String,
    /// The name of the API token that requested the change; none if the cluster acted by itself.
    pub by: Option<Name>,
    /// The last output lines of the failed program, for failures. Older events no longer have them.
    pub output: LastLines,
}

/// A problem in the form of RFC 9457, `application/problem+json`, extended by our four parts.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ProblemDocument {
    /// `urn:wharf:` followed by the code.
    #[serde(rename = "type")]
    pub kind: String,
    /// The `what` of the problem.
    pub title: String,
    /// The HTTP status code, as in the answer's status line.
    pub status: u16,
    /// The causes, one per line.
    pub detail: String,
    /// The whole problem in its parts.
    #[serde(flatten)]
    pub problem: Problem,
}

/// Labels by key, as in JSON.
pub type Labels = BTreeMap<String, String>;
