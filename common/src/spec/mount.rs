//! Mounts of containers, and the volumes that a stack declares.

use std::{collections::BTreeMap, fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::template;
use crate::{id::StackId, name::Name, quantity::Bytes};

/// A mount in a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MountSpec {
    /// The source of the files.
    pub source: MountSource,
    /// The absolute path in the container.
    pub target: String,
    /// Whether the container can only read it.
    #[serde(default)]
    pub read_only: bool,
    /// How mounts below a host path propagate; `rprivate`, which means not at all, if absent.
    #[serde(default)]
    pub propagation: Option<Propagation>,
    /// Whether to create a missing host path as an empty folder. Otherwise the instance fails.
    #[serde(default)]
    pub create_host_path: bool,
    /// Whether a new volume stays empty instead of getting a copy of the image's files at the target.
    #[serde(default)]
    pub nocopy: bool,
    /// The folder of the volume to mount instead of its root. It needs Docker 26 or later, so only such hosts are
    /// chosen.
    #[serde(default)]
    pub subpath: Option<String>,
}

impl MountSpec {
    /// A mount with default options.
    pub fn of(source: MountSource, target: &str) -> MountSpec {
        MountSpec {
            source,
            target: target.to_owned(),
            read_only: false,
            propagation: None,
            create_host_path: false,
            nocopy: false,
            subpath: None,
        }
    }
}

/// The source of a mount.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum MountSource {
    /// An absolute path on the host.
    Bind(String),
    /// A named volume of the stack.
    Volume(VolumeName),
    /// A volume of this container alone, removed with it.
    Anonymous,
    /// A file system in memory.
    Tmpfs(TmpfsOptions),
}

/// The options of a file system in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TmpfsOptions {
    /// The maximum size; half of the host's memory if absent.
    #[serde(default)]
    pub size: Option<Bytes>,
    /// The permission bits of the root directory, such as 0o1777.
    #[serde(default)]
    pub mode: Option<u32>,
}

/// How mounts made later propagate between a host path and the container (mount_namespaces(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Propagation {
    /// Not at all.
    Private,
    /// Not at all, including nested mounts.
    Rprivate,
    /// In both directions.
    Shared,
    /// In both directions, including nested mounts.
    Rshared,
    /// From the host to the container.
    Slave,
    /// From the host to the container, including nested mounts.
    Rslave,
}

/// The name of a volume in a stack. It may contain Swarm templates: `data`, `db_data`, `data-{{.Task.Slot}}`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(try_from = "String", into = "String")]
#[schema(value_type = String)]
pub struct VolumeName(String);

/// A text that is not a [`VolumeName`], and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a volume name: {rule}")]
pub struct InvalidVolumeName {
    /// The text as given, cut to 80 characters.
    pub text: String,
    /// The first rule that it breaks.
    pub rule: String,
}

impl VolumeName {
    /// Checks a text against Docker's rule for volume names.
    pub fn parse(text: &str) -> Result<VolumeName, InvalidVolumeName> {
        let refuse = |rule: String| InvalidVolumeName { text: text.chars().take(80).collect(), rule };
        let plain = template::without_templates(text).map_err(refuse)?;
        let is_allowed = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
        if text.is_empty() || text.len() > 200 {
            return Err(refuse("it is empty or longer than 200 characters".to_owned()));
        }
        if !plain.chars().all(is_allowed) || text.starts_with(['_', '.', '-']) {
            return Err(refuse(
                "only letters, digits, '_', '.' and '-' are allowed, and it starts with a letter or digit".to_owned(),
            ));
        }
        Ok(VolumeName(text.to_owned()))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for VolumeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for VolumeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for VolumeName {
    type Err = InvalidVolumeName;
    fn from_str(text: &str) -> Result<VolumeName, InvalidVolumeName> {
        VolumeName::parse(text)
    }
}

impl TryFrom<String> for VolumeName {
    type Error = InvalidVolumeName;
    fn try_from(text: String) -> Result<VolumeName, InvalidVolumeName> {
        VolumeName::parse(&text)
    }
}

impl From<VolumeName> for String {
    fn from(name: VolumeName) -> String {
        name.0
    }
}

impl From<Name> for VolumeName {
    fn from(name: Name) -> VolumeName {
        VolumeName(name.as_str().to_owned())
    }
}

/// A volume declared by a stack.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct VolumeSpec {
    /// The volume driver; Docker's `local` if absent.
    #[serde(default)]
    pub driver: Option<String>,
    /// The options, in the driver's own terms.
    #[serde(default)]
    pub driver_opts: BTreeMap<String, String>,
    /// Labels of the Docker volume.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// The name of the Docker volume. If absent, it is made of environment, stack and name in the stack, separated by
    /// dots.
    #[serde(default)]
    pub name: Option<VolumeName>,
    /// Whether the volume already exists outside of wharf's control. Its Docker name is then `name`, or else its name
    /// in the stack.
    #[serde(default)]
    pub external: bool,
}

/// Types of network file systems, as in mount(8).
const REMOTE: [&str; 6] = ["nfs", "nfs4", "cifs", "smb3", "ceph", "glusterfs"];

impl VolumeSpec {
    /// The name of the Docker volume. It contains the stack's name unless the volume has a fixed name or is external.
    pub fn docker_name(&self, stack: &StackId, name: &VolumeName) -> String {
        match &self.name {
            Some(own) => own.to_string(),
            None if self.external => name.to_string(),
            None => format!("{}.{}.{name}", stack.environment, stack.stack),
        }
    }

    /// Whether all hosts see the same data: Docker's own driver with a network file system. The data of other drivers
    /// counts as local to one host, because wharf cannot know.
    pub fn is_shared(&self) -> bool {
        let is_local = self.driver.as_deref().is_none_or(|driver| driver == "local");
        is_local && self.driver_opts.get("type").is_some_and(|kind| REMOTE.contains(&kind.as_str()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_volumes_are_dockers_with_templates() {
        for good in ["data", "db_data", "Data.1", "data-{{.Task.Slot}}", "{{.Service.Name}}"] {
            assert!(VolumeName::parse(good).is_ok(), "{good}");
        }
        for bad in ["", "_x", "a b", "a/b", "a:b", "../x", "{{.Nobody}}", "data-{{.Task.Slot", &"x".repeat(201)] {
            assert!(VolumeName::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn only_file_systems_of_the_network_are_shared() {
        let of = |driver: Option<&str>, kind: &str| VolumeSpec {
            driver: driver.map(str::to_owned),
            driver_opts: [("type".to_owned(), kind.to_owned())].into(),
            ..VolumeSpec::default()
        };
        assert!(of(None, "nfs").is_shared() && of(Some("local"), "cifs").is_shared());
        assert!(!of(None, "none").is_shared() && !of(Some("other"), "nfs").is_shared());
        assert!(!VolumeSpec::default().is_shared());
    }
}
