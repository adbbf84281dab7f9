//! The API's view of the keys that the cluster itself depends on.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The keys of the cluster, and how far a change of each is.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct TrustView {
    /// The keys.
    pub keys: Vec<TrustKey>,
}

/// One of the cluster's keys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TrustKey {
    /// What it is: `sealing-key`, `join-key` or `ca`.
    pub kind: String,
    /// Which one is in use; absent for a sealing key that was never named.
    pub id: Option<String>,
    /// How far its change is: `in use` if it is not being changed.
    pub phase: String,
    /// The coordinators or hosts that its change waits for.
    pub waits_for: Vec<String>,
}
