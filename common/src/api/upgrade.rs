//! The API's view of an upgrade, and of the binaries that the hosts run.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    id::{HostId, MemberId},
    name::Name,
    time::Timestamp,
    upgrade::BinaryHash,
};

/// The upgrade of a cluster, and which binary each host runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct UpgradeView {
    /// The state's index from which this was read.
    pub index: u64,
    /// The last upgrade; none if there never was one.
    pub upgrade: Option<UpgradeRun>,
    /// Every host.
    pub hosts: Vec<HostBinary>,
}

/// An upgrade.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct UpgradeRun {
    /// The SHA-256 of the binary that all hosts are to run.
    pub hash: BinaryHash,
    /// Its version.
    pub version: String,
    /// Its size in bytes.
    pub size: u64,
    /// When it began.
    pub began: Timestamp,
    /// How far it is: `running`, `paused`, `failed` (paused because a host did not return healthy), `done` or `aborted`.
    pub phase: String,
    /// Why it is paused; empty if it is not.
    pub why: String,
}

/// What a host runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HostBinary {
    /// The host.
    pub host: HostId,
    /// Its name.
    pub name: Name,
    /// The number of its coordinator, if it runs one.
    pub member: Option<MemberId>,
    /// The SHA-256 of its binary; none until it has said so.
    pub hash: Option<BinaryHash>,
    /// The version of its binary; empty until it is known.
    pub version: String,
    /// Where it is in the upgrade: `waiting`, `fetching`, `trying`, `done`, `failed`, or empty if there is none.
    pub step: String,
    /// Whether the host is believed alive: its liveness as a word.
    pub liveness: String,
}

/// What should become of an upgrade.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Steer {
    /// No further host changes until it is resumed.
    Pause,
    /// It goes on; a host that failed is tried again.
    Resume,
    /// It ends where it is; every host keeps what it runs.
    Abort,
}

/// The body of a request that steers an upgrade.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SteerUpgrade {
    /// What should become of it.
    pub want: Steer,
}
