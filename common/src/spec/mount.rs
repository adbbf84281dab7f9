//! What a container sees of its host's disks, and the volumes that a stack declares.

use std::{collections::BTreeMap, fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::template;
use crate::{id::StackId, name::Name, quantity::Bytes};

/// Something mounted into a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MountSpec {
    /// What is mounted.
    pub source: MountSource,
    /// The absolute path in the container.
    pub target: String,
    /// Whether the container may only read it.
    #[serde(default)]
    pub read_only: bool,
    /// Which mounts made below a path of the host are seen on the other side; `rprivate`, which is none, if absent.
    #[serde(default)]
    pub propagation: Option<Propagation>,
    /// Whether a path of the host that is not there is made as an empty folder; otherwise the instance fails.
    #[serde(default)]
    pub create_host_path: bool,
    /// Whether a new volume stays empty instead of being filled with what the image has at the target.
    #[serde(default)]
    pub nocopy: bool,
    /// The folder of the volume that is mounted instead of all of it; Docker 26 and later can, and only such hosts are
    /// chosen.
    #[serde(default)]
    pub subpath: Option<String>,
}

impl MountSpec {
    /// A mount with every default.
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

/// What a mount shows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum MountSource {
    /// An absolute path of the host.
    Bind(String),
    /// A named volume of the stack.
    Volume(VolumeName),
    /// A volume of the container's own, which goes with it.
    Anonymous,
    /// Memory.
    Tmpfs(TmpfsOptions),
}

/// A file system in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TmpfsOptions {
    /// The most that it holds; half of the host's memory if absent.
    #[serde(default)]
    pub size: Option<Bytes>,
    /// The permission bits of its root, such as 0o1777.
    #[serde(default)]
    pub mode: Option<u32>,
}

/// Which mounts made later are seen on the other side of a bind mount (mount_namespaces(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Propagation {
    /// None.
    Private,
    /// None, also of what is mounted below.
    Rprivate,
    /// Those of either side.
    Shared,
    /// Those of either side, also of what is mounted below.
    Rshared,
    /// The host's.
    Slave,
    /// The host's, also of what is mounted below.
    Rslave,
}

/// The name of a volume in a stack, which may hold Swarm's templates: `data`, `db_data`, `data-{{.Task.Slot}}`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(try_from = "String", into = "String")]
#[schema(value_type = String)]
pub struct VolumeName(String);

/// A text that is not a [`VolumeName`], and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a volume's name: {rule}")]
pub struct InvalidVolumeName {
    /// The text as given, cut to 80 characters.
    pub text: String,
    /// The first rule it breaks.
    pub rule: String,
}

impl VolumeName {
    /// Checks a text against Docker's rule of volume names.
    pub fn parse(text: &str) -> Result<VolumeName, InvalidVolumeName> {
        let refuse = |rule: String| InvalidVolumeName { text: text.chars().take(80).collect(), rule };
        let plain = template::without_templates(text).map_err(refuse)?;
        let is_allowed = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
        if text.is_empty() || text.len() > 200 {
            return Err(refuse("it is empty or longer than 200 characters".to_owned()));
        }
        if !plain.chars().all(is_allowed) || text.starts_with(['_', '.', '-']) {
            return Err(refuse(
                "it has letters, digits, '_', '.' and '-', and starts with a letter or digit".to_owned(),
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

/// A volume that a stack declares.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct VolumeSpec {
    /// The volume's driver; Docker's `local` if absent.
    #[serde(default)]
    pub driver: Option<String>,
    /// What the driver is told, in its own words.
    #[serde(default)]
    pub driver_opts: BTreeMap<String, String>,
    /// Its labels.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Its name at Docker; environment, stack and its name in the stack, with dots between, if absent.
    #[serde(default)]
    pub name: Option<VolumeName>,
    /// Whether it was made by somebody else and must be there; its name at Docker is then its name in the stack, unless
    /// `name` says otherwise.
    #[serde(default)]
    pub external: bool,
}

/// Types of file systems that are elsewhere, as mount(8) knows them.
const REMOTE: [&str; 6] = ["nfs", "nfs4", "cifs", "smb3", "ceph", "glusterfs"];

impl VolumeSpec {
    /// Its name at Docker: volumes belong to their stack unless they have a name of their own or are somebody else's.
    pub fn docker_name(&self, stack: &StackId, name: &VolumeName) -> String {
        match &self.name {
            Some(own) => own.to_string(),
            None if self.external => name.to_string(),
            None => format!("{}.{}.{name}", stack.environment, stack.stack),
        }
    }

    /// Whether every host that mounts it sees the same: Docker's own driver with a file system of the network. Of other
    /// drivers nobody knows, so their data counts as lying on one host.
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
