//! All that one host observes.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::{id::InstanceId, instance::Observed};

/// The full value of one host, sent when it changed and after every new session.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Report {
    /// The generation of the assignment that it was observed under.
    pub generation: u64,
    /// Every assigned instance.
    pub instances: Vec<(InstanceId, Observed)>,
    /// Instances of this cluster found in Docker that no assignment names.
    pub unknown: BTreeSet<InstanceId>,
}
