//! Everything that one host observes.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::{id::InstanceId, instance::Observed};

/// The complete report of a host, sent after each change and at the start of each session.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Report {
    /// The generation of the assignment in effect when it was observed.
    pub generation: u64,
    /// Every assigned instance and its state.
    pub instances: Vec<(InstanceId, Observed)>,
    /// Instances of this cluster that run in Docker but are not in the assignment.
    pub unknown: BTreeSet<InstanceId>,
}
