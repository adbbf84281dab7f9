//! The API's view of an environment's configs and secrets. It never contains the value of a secret.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{file::FileKind, name::Name, time::Timestamp};

/// A config or a secret, without its content.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct FileView {
    /// Whether it is a config or a secret.
    pub kind: FileKind,
    /// The stack that deployed it; none if all stacks of the environment may use it.
    pub stack: Option<Name>,
    /// The name, unique among its kind in its stack or environment.
    pub name: Name,
    /// The number of the newest version.
    pub version: u64,
    /// When the newest version was set.
    pub changed_at: Timestamp,
    /// The API token that set the newest version.
    pub by: Option<Name>,
    /// The services that use it, as `stack/service`.
    pub used_by: Vec<String>,
}

/// The result of setting a config or secret.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct FilePut {
    /// The newest version; unchanged if the content is the same as before.
    pub version: u64,
    /// The stacks that got a new revision because they use it.
    pub stacks: Vec<Name>,
}
