//! Files that instances are given: configs, and secrets, which nobody can read back.

use std::fmt;

use base64::{Engine, prelude::BASE64_STANDARD};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};
use utoipa::ToSchema;

use crate::{id::StackId, name::Name, secret::Secret};

/// Largest content of a file, in bytes.
pub const MAX_CONTENT: usize = 256 << 10;
/// Most files of a service: all of them fit into one frame.
pub const MAX_FILES: usize = 50;

/// Whether a file may be seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum FileKind {
    /// It may: it lies in the replicated state and on the hosts as it is.
    Config,
    /// It may not: it is sealed in the replicated state, and on hosts it lies in memory alone.
    Secret,
}

impl fmt::Display for FileKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            FileKind::Config => "config",
            FileKind::Secret => "secret",
        })
    }
}

/// Which file: a stack's own, or one of the environment that every stack may use.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct FileId {
    /// The environment.
    pub environment: Name,
    /// The stack that it came with; none if it is the environment's.
    pub stack: Option<Name>,
    /// Its kind.
    pub kind: FileKind,
    /// Its name among its kind.
    pub name: Name,
}

impl fmt::Display for FileId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.stack {
            Some(stack) => write!(f, "{} {stack}/{}", self.kind, self.name),
            None => write!(f, "{} {}", self.kind, self.name),
        }
    }
}

/// A file in the containers of a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct FileSpec {
    /// Its kind.
    pub kind: FileKind,
    /// Its name.
    pub name: Name,
    /// Whether it is the environment's instead of the stack's own.
    #[serde(default)]
    pub external: bool,
    /// Which version of it; the newest one when the service is deployed, if absent.
    #[serde(default)]
    pub version: Option<u64>,
    /// The absolute path in the container.
    pub target: String,
    /// The user that owns it there.
    #[serde(default)]
    pub uid: u32,
    /// The group that owns it there.
    #[serde(default)]
    pub gid: u32,
    /// Its permission bits.
    #[serde(default = "readable")]
    pub mode: u32,
}

fn readable() -> u32 {
    0o444
}

impl FileSpec {
    /// A file where containers look for it by custom: secrets in `/run/secrets`, configs in `/`.
    pub fn of(kind: FileKind, name: Name) -> FileSpec {
        let target = FileSpec::usual_target(kind, name.as_str());
        FileSpec { kind, name, external: false, version: None, target, uid: 0, gid: 0, mode: readable() }
    }

    /// Where a file of that name lies in containers by custom.
    pub fn usual_target(kind: FileKind, name: &str) -> String {
        match kind {
            FileKind::Config => format!("/{name}"),
            FileKind::Secret => format!("/run/secrets/{name}"),
        }
    }

    /// Which file it is for a service of that stack.
    pub fn id(&self, stack: &StackId) -> FileId {
        FileId {
            environment: stack.environment.clone(),
            stack: (!self.external).then(|| stack.stack.clone()),
            kind: self.kind,
            name: self.name.clone(),
        }
    }
}

/// The content of a file on its way from a client: the one form in which JSON carries it, as base64.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upload(pub Secret<Vec<u8>>);

impl Serialize for Upload {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&BASE64_STANDARD.encode(self.0.expose()))
    }
}

impl<'de> Deserialize<'de> for Upload {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Upload, D::Error> {
        let text = String::deserialize(deserializer)?;
        // What does not decode may be a secret all the same: it is not repeated.
        let decoded = BASE64_STANDARD.decode(text).map_err(|_| D::Error::custom("it is not base64"))?;
        Ok(Upload(Secret::new(decoded)))
    }
}
