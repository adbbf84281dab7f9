//! The API's view of backups.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    backup::{Recipient, Schedule},
    id::MemberId,
    name::Name,
    time::Timestamp,
};

/// How the cluster is backed up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BackupView {
    /// The public key that backups are encrypted to, if there is one.
    pub recipient: Option<Recipient>,
    /// When the coordinators make backups by themselves, if they do.
    pub schedule: Option<Schedule>,
    /// What came of the last scheduled backups, by coordinator.
    pub members: Vec<MemberBackups>,
}

/// What came of a coordinator's scheduled backups.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MemberBackups {
    /// The coordinator.
    pub member: MemberId,
    /// The name of its host.
    pub host: Option<Name>,
    /// Its last backup that succeeded.
    pub succeeded: Option<BackupMade>,
    /// Its last attempt, if that failed.
    pub failed: Option<BackupFailed>,
}

/// A backup that was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BackupMade {
    /// When.
    pub at: Timestamp,
    /// The index of the state in it.
    pub index: u64,
    /// Its size in bytes.
    pub bytes: u64,
    /// The path of its file on the coordinator's host.
    pub path: String,
}

/// An attempt to make a backup that failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BackupFailed {
    /// When.
    pub at: Timestamp,
    /// Why.
    pub why: String,
}

/// A request to encrypt backups to a key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PutBackupKey {
    /// The public key.
    pub recipient: Recipient,
    /// Whether it may take the place of another key.
    #[serde(default)]
    pub replace: bool,
}
