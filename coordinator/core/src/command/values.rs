//! What commands carry: new clusters, hosts, tokens, files and instances.

use std::net::{IpAddr, SocketAddr};

use common::{
    api::Settings,
    device::BoundDevice,
    file::{FileId, FileKind},
    host::HostLabels,
    id::{ClusterId, HostId, InstanceId, MemberId, SlotId, StackId},
    name::Name,
    network::NetworkPlan,
    role::{Grant, Role},
    secret::Secret,
    time::Timestamp,
    token::{JoinRole, SecretHash, TokenId},
};
use serde::{Deserialize, Serialize};

use crate::state::Content;

/// What came of a scheduled backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum BackupOutcome {
    /// It was made.
    Made {
        /// The index of the state in it.
        index: u64,
        /// Its size.
        bytes: u64,
        /// The path of its file on the member's host.
        path: String,
    },
    /// It was not made.
    Failed {
        /// Why.
        why: String,
    },
}

/// What a token of feature level 1 may do, everywhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Access {
    /// What [`Role::Viewer`] may.
    Viewer,
    /// What [`Role::Admin`] may.
    Admin,
}

impl Access {
    /// The same as a grant.
    pub fn grant(self) -> Grant {
        Grant::of_cluster(match self {
            Access::Viewer => Role::Viewer,
            Access::Admin => Role::Admin,
        })
    }

    /// A grant as level 1 has it, if it does.
    pub fn of(grant: &Grant) -> Option<Access> {
        match (grant.role, &grant.environments) {
            (Role::Viewer, None) => Some(Access::Viewer),
            (Role::Admin, None) => Some(Access::Admin),
            _ => None,
        }
    }
}

/// A new version of a stack's own config or secret.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NewFile {
    /// Its kind.
    pub kind: FileKind,
    /// Its name.
    pub name: Name,
    /// What is in it.
    pub content: Content,
}

impl NewFile {
    /// Which file it is for that stack.
    pub fn id(&self, stack: &StackId) -> FileId {
        FileId {
            environment: stack.environment.clone(),
            stack: Some(stack.stack.clone()),
            kind: self.kind,
            name: self.name.clone(),
        }
    }
}

/// All that a new cluster starts with.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Genesis {
    /// Its identity.
    pub cluster: ClusterId,
    /// Its certificate authority.
    pub authority: Authority,
    /// Its times.
    pub settings: Settings,
    /// How its containers are addressed and reached.
    pub network: NetworkPlan,
    /// The first member.
    pub member: MemberId,
    /// Where that listens.
    pub address: SocketAddr,
    /// The first member's host.
    pub host: HostId,
    /// That host's name.
    pub name: Name,
    /// The feature level of the binary that makes it.
    pub level: u16,
}

/// The keys that every coordinator shares.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Authority {
    /// The root certificate (DER).
    pub certificate: Vec<u8>,
    /// The root's key (PKCS #8), sealed from feature level [`TRUST`](crate::level::TRUST) on.
    pub key: Secret<Vec<u8>>,
    /// The self-signed certificate of the join key (DER).
    pub join_certificate: Vec<u8>,
    /// The join key (PKCS #8), sealed like the root's.
    pub join_key: Secret<Vec<u8>>,
}

/// A new join token.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NewJoinToken {
    /// Its public part.
    pub id: TokenId,
    /// The hash of its secret.
    pub secret: SecretHash,
    /// What hosts become by it.
    pub role: JoinRole,
    /// When it ends.
    pub expires_at: Timestamp,
    /// How many hosts it admits.
    pub max_uses: u32,
    /// Labels for the hosts.
    pub labels: HostLabels,
    /// The network and prefix length that hosts must come from.
    pub from: Option<(IpAddr, u8)>,
}

/// A host that asks to be admitted; its proof has been checked against the token's hash.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Admission {
    /// The token.
    pub token: TokenId,
    /// The host, derived from its key.
    pub host: HostId,
    /// The name that it would like.
    pub name: Name,
    /// Where the request came from.
    pub from: IpAddr,
    /// Where its coordinator would listen.
    pub address: SocketAddr,
}

/// A new instance, and what its author took for granted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Placement {
    /// The slot to fill.
    pub slot: SlotId,
    /// The slot's incarnation so far.
    pub expect_incarnation: u64,
    /// The service's revision.
    pub expect_revision: u64,
    /// The revision that the instance is to be of: the service's, or the last one that served whole while the
    /// change to the service's is held up.
    pub revision: u64,
    /// The host.
    pub host: HostId,
    /// The host ports, one for each port of the spec.
    pub ports: Vec<u16>,
    /// The devices of the host, as many as the spec asks for.
    pub devices: Vec<BoundDevice>,
    /// The instance that fills the slot: unreachable, or to go once this one serves.
    pub replaces: Option<InstanceId>,
    /// Since when that instance is unreachable, if it is.
    pub unknown_since: Option<Timestamp>,
}
