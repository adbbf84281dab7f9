//! Who may join and who may ask, in the API.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    host::HostLabels,
    id::{ClusterId, HostId, MemberId},
    name::Name,
    network::HostRoute,
    role::{Grant, Role},
    time::{Span, Timestamp},
    token::{JoinRole, TokenId},
};

/// A request for a join token.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateJoinToken {
    /// What the hosts become.
    pub role: JoinRole,
    /// For how long; an hour if absent, 15 minutes for coordinators, 30 days at most.
    #[serde(default)]
    pub ttl: Option<Span>,
    /// How many hosts; 1 if absent, 1000 at most.
    #[serde(default)]
    pub max_uses: Option<u32>,
    /// Labels that the hosts get.
    #[serde(default)]
    pub labels: HostLabels,
    /// The range of addresses that they may join from, such as `10.0.0.0/8`.
    #[serde(default)]
    pub cidr: Option<String>,
    /// The host, by name or id, whose place the host that joins takes: its name, its addresses and its containers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaces: Option<String>,
}

/// A new join token; the only time that it is shown.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct JoinTokenCreated {
    /// What the lists will show.
    pub view: JoinTokenView,
    /// The token.
    pub token: String,
    /// The line to paste on the host.
    pub line: String,
    /// The same for hosts whose curl has no pinning.
    pub other_ways: Vec<String>,
}

/// A join token without its secret.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct JoinTokenView {
    /// Its public part.
    pub id: TokenId,
    /// What the hosts become.
    pub role: JoinRole,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it ends.
    pub expires_at: Timestamp,
    /// How many hosts it may admit.
    pub max_uses: u32,
    /// Whether somebody revoked it.
    pub revoked: bool,
    /// Who used it, when, from where.
    pub uses: Vec<TokenUse>,
}

/// One use of a join token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TokenUse {
    /// The host that it admitted.
    pub host: HostId,
    /// The name that the host got.
    pub name: Name,
    /// When.
    pub at: Timestamp,
    /// From where.
    #[schema(value_type = String)]
    pub from: IpAddr,
}

/// A request for an API token.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateApiToken {
    /// What it is for.
    pub name: Name,
    /// What it may do.
    pub role: Role,
    /// The environments where it may; absent for the whole cluster.
    #[serde(default)]
    #[schema(value_type = Option<Vec<String>>)]
    pub environments: Option<BTreeSet<Name>>,
}

/// A new API token; the only time that it is shown.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ApiTokenCreated {
    /// What the lists will show.
    pub view: ApiTokenView,
    /// The token.
    pub token: String,
}

/// An API token without its secret.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ApiTokenView {
    /// Its public part.
    pub id: TokenId,
    /// What it is for.
    pub name: Name,
    /// What it may do, and where.
    #[serde(flatten)]
    pub grant: Grant,
    /// When it was made.
    pub created_at: Timestamp,
}

/// Who to be at a registry.
#[derive(Clone, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PutRegistry {
    /// The user.
    pub username: String,
    /// The password or token; it is never shown again.
    pub password: String,
}

impl std::fmt::Debug for PutRegistry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PutRegistry({})", self.username)
    }
}

/// A registry and who we are there.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct RegistryView {
    /// The registry, `host[:port]`.
    pub registry: String,
    /// The user.
    pub username: String,
}

/// A host's request to be admitted.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct JoinRequest {
    /// The public part of its token.
    pub token: TokenId,
    /// A certificate request for a key that never leaves the host (DER, hex).
    pub csr: String,
    /// The host's own random text: no two requests are alike.
    pub nonce: String,
    /// HMAC-SHA256 over request hash, cluster id and nonce, keyed with the SHA-256 of the token's
    /// secret (hex): the secret itself is never sent.
    pub proof: String,
    /// The name that the host would like.
    pub name: Name,
    /// The host's clock.
    pub clock: Timestamp,
    /// Where its coordinator would listen.
    #[schema(value_type = String)]
    pub address: SocketAddr,
    /// Whether it can do what an overlay of WireGuard needs.
    #[serde(default)]
    pub wireguard: bool,
    /// The routes that it has: a thousand at most.
    #[serde(default)]
    pub routes: Vec<HostRoute>,
}

impl JoinRequest {
    /// Most routes that a host tells.
    pub const MOST_ROUTES: usize = 1000;
}

/// What an admitted host gets.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct JoinReply {
    /// The cluster.
    pub cluster: ClusterId,
    /// The host's identity, derived from its key.
    pub host: HostId,
    /// The name that it got.
    pub name: Name,
    /// The member to run, if it was admitted as a coordinator.
    pub member: Option<MemberId>,
    /// Its certificate (PEM).
    pub certificate: String,
    /// The cluster's root certificate (PEM).
    pub authority: String,
    /// Where coordinators listen.
    #[schema(value_type = Vec<String>)]
    pub coordinators: Vec<SocketAddr>,
}
