//! Configs and secrets of an environment in the API. The value of a secret is in none of it.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{file::FileKind, name::Name, time::Timestamp};

/// A config or a secret.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct FileView {
    /// Its kind.
    pub kind: FileKind,
    /// The stack that it came with; none if every stack of the environment may use it.
    pub stack: Option<Name>,
    /// Its name.
    pub name: Name,
    /// Its newest version.
    pub version: u64,
    /// When that was set.
    pub changed_at: Timestamp,
    /// Who set it.
    pub by: Option<Name>,
    /// The services that use it, as `stack/service`.
    pub used_by: Vec<String>,
}

/// What a config or a secret has become.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct FilePut {
    /// Its newest version: the same as before if the content is.
    pub version: u64,
    /// The stacks that have a new revision by it.
    pub stacks: Vec<Name>,
}
