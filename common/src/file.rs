//! Files that instances get: configs, and secrets, which the API never returns.

use std::fmt;

use base64::{Engine, prelude::BASE64_STANDARD};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};
use utoipa::ToSchema;

use crate::{id::StackId, name::Name, secret::Secret};

/// The maximum size of a file, in bytes.
pub const MAX_CONTENT: usize = 256 << 10;
/// The maximum number of files of a service; together they fit into one frame.
pub const MAX_FILES: usize = 50;

/// Whether the content of a file is secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum FileKind {
    /// Not secret: stored in clear in the replicated state and on hosts.
    Config,
    /// Secret: sealed in the replicated state, and only in memory on hosts.
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

/// The id of a file: of one stack, or of the environment for all its stacks.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct FileId {
    /// The environment that it is stored in.
    pub environment: Name,
    /// The stack that deployed it; none if it belongs to the environment.
    pub stack: Option<Name>,
    /// Whether it is a config or a secret.
    pub kind: FileKind,
    /// The name, unique among its kind.
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

/// A config or secret that a container gets as a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct FileSpec {
    /// Whether it is a config or a secret.
    pub kind: FileKind,
    /// The name in the stack or the environment.
    pub name: Name,
    /// Whether it belongs to the environment instead of the stack.
    #[serde(default)]
    pub external: bool,
    /// The version. If absent in a request, the newest one when the service is deployed.
    #[serde(default)]
    pub version: Option<u64>,
    /// The absolute path in the container.
    pub target: String,
    /// The id of the owning user in the container.
    #[serde(default)]
    pub uid: u32,
    /// The id of the owning group in the container.
    #[serde(default)]
    pub gid: u32,
    /// The nine permission bits, such as 0o444.
    #[serde(default = "readable")]
    pub mode: u32,
}

fn readable() -> u32 {
    0o444
}

impl FileSpec {
    /// A file at its default path: `/run/secrets` for secrets, `/` for configs.
    pub fn of(kind: FileKind, name: Name) -> FileSpec {
        let target = FileSpec::usual_target(kind, name.as_str());
        FileSpec { kind, name, external: false, version: None, target, uid: 0, gid: 0, mode: readable() }
    }

    /// The default path in containers for a file of this name.
    pub fn usual_target(kind: FileKind, name: &str) -> String {
        match kind {
            FileKind::Config => format!("/{name}"),
            FileKind::Secret => format!("/run/secrets/{name}"),
        }
    }

    /// The id of the file, used by a service of this stack.
    pub fn id(&self, stack: &StackId) -> FileId {
        FileId {
            environment: stack.environment.clone(),
            stack: (!self.external).then(|| stack.stack.clone()),
            kind: self.kind,
            name: self.name.clone(),
        }
    }
}

/// The content of a file in a request, as base64 in JSON.
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
        // The invalid text may be a secret, so the error does not repeat it.
        let decoded = BASE64_STANDARD.decode(text).map_err(|_| D::Error::custom("it is not base64"))?;
        Ok(Upload(Secret::new(decoded)))
    }
}
