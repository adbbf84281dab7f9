//! The values of the HTTP API: what `/api/v1` takes and gives. Field names are stable.

use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, SocketAddr},
};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    error::Problem,
    host::{HostFacts, HostLabels, Liveness},
    id::{ClusterId, HostId, InstanceId, MemberId, ServiceId, StackId},
    instance::{BoundPort, Desired, Observed, Verdict},
    name::Name,
    spec::{Resources, ServiceSpec, StackSpec},
    time::{Span, Timestamp},
    token::{JoinRole, TokenId},
};

/// The version of the API, part of every path.
pub const API_VERSION: &str = "v1";
/// The header of every authorised answer that names the coordinators, as `address:port,…`.
pub const COORDINATORS_HEADER: &str = "wharf-coordinators";
/// Largest body of a request, in bytes.
pub const MAX_BODY: usize = 1 << 20;

/// A list and the index of the state that it was read from.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct List<T> {
    /// The index: a watch that starts from it misses nothing.
    pub index: u64,
    /// The items, in a stable order.
    pub items: Vec<T>,
}

/// A host.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct HostView {
    /// Its identity.
    pub id: HostId,
    /// Its name.
    pub name: Name,
    /// Whether it is believed alive.
    pub liveness: Liveness,
    /// The labels that people gave it.
    pub labels: HostLabels,
    /// What its agent says of it; absent until it has reported.
    pub facts: Option<HostFacts>,
    /// The coordinator that runs on it, if one does.
    pub member: Option<MemberId>,
    /// How many instances it holds.
    pub instances: usize,
    /// What those have reserved.
    pub reserved: Resources,
    /// When it joined.
    pub joined_at: Timestamp,
}

/// A stack.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct StackView {
    /// Its identity.
    pub id: StackId,
    /// The revision of its spec; grows with each change.
    pub revision: u64,
    /// When that was put.
    pub changed_at: Timestamp,
    /// Whether it is being removed.
    pub removing: bool,
    /// Its services.
    pub services: Vec<ServiceView>,
}

/// A service and how it is.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ServiceView {
    /// Its identity.
    pub id: ServiceId,
    /// What was asked for.
    pub spec: ServiceSpec,
    /// The stack's revision that last changed what its instances run.
    pub revision: u64,
    /// How many instances serve: they run, in this revision, and nothing says that they are unwell.
    pub serving: u32,
    /// How many have ended as they should and are not started again.
    pub completed: u32,
    /// Why instances are missing, one line a reason.
    pub blocked: Vec<String>,
}

/// An instance.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct InstanceView {
    /// Its identity.
    pub id: InstanceId,
    /// The revision that it was made from.
    pub revision: u64,
    /// The image that it runs, by digest where one is pinned.
    pub image: String,
    /// Its host.
    pub host: HostId,
    /// Its host's name, unless the host is gone.
    pub host_name: Option<Name>,
    /// Its host's address.
    #[schema(value_type = Option<String>)]
    pub address: Option<IpAddr>,
    /// In one word: what a person would call its state.
    pub state: String,
    /// What the leader wants of it.
    pub desired: Desired,
    /// What its host observes.
    pub observed: Observed,
    /// Whether it can be heard of.
    pub verdict: Verdict,
    /// Its ports on the host.
    pub ports: Vec<BoundPort>,
    /// When it was placed.
    pub created_at: Timestamp,
}

/// A request to make a stack what the spec says.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PutStack {
    /// The spec.
    pub spec: StackSpec,
    /// The revision that the spec was derived from; 0 for "must not exist yet". The request is
    /// refused if there is another by now.
    #[serde(default)]
    pub expect_revision: Option<u64>,
    /// Whether only the plan is wanted.
    #[serde(default)]
    pub dry_run: bool,
}

/// What a changed spec would do, or did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StackPlan {
    /// The stack.
    pub id: StackId,
    /// The revision before the change; 0 if there was none.
    pub from_revision: u64,
    /// The revision after it; the same if nothing changes.
    pub to_revision: u64,
    /// One entry a service.
    pub changes: Vec<ServiceChange>,
    /// What the hosts cannot take of it now, one line a reason.
    pub unplaceable: Vec<String>,
}

/// What happens to one service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ServiceChange {
    /// Its name in the stack.
    pub service: Name,
    /// What kind of change.
    pub kind: ChangeKind,
    /// What changes, one phrase each: `image 1.8 → 1.9`.
    pub details: Vec<String>,
    /// How it is carried out.
    pub how: String,
}

/// What kind of change a service undergoes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ChangeKind {
    /// It is new.
    Create,
    /// Its instances are replaced.
    Update,
    /// Only their number changes.
    Scale,
    /// It goes.
    Remove,
    /// Nothing.
    Unchanged,
}

/// A new number of instances.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ScaleService {
    /// How many.
    pub replicas: u32,
}

/// New labels of a host; the whole set.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PutHostLabels {
    /// The labels.
    pub labels: HostLabels,
}

/// A decision that was made, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Event {
    /// Its place in the order of all events.
    pub index: u64,
    /// When.
    pub at: Timestamp,
    /// What it is about: the id of a stack, service, instance, host, token or member.
    pub subject: String,
    /// The kind of event, in kebab-case; stable.
    pub reason: String,
    /// What happened, for people.
    pub message: String,
}

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

/// What an API token may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Access {
    /// Read everything but secrets.
    Viewer,
    /// Change everything.
    Admin,
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Access::Viewer => "viewer",
            Access::Admin => "admin",
        })
    }
}

/// A request for an API token.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateApiToken {
    /// What it is for.
    pub name: Name,
    /// What it may do.
    pub access: Access,
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
    /// What it may do.
    pub access: Access,
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

/// The cluster and what this coordinator knows of its group.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ClusterView {
    /// Its identity.
    pub id: ClusterId,
    /// The member that answers.
    pub member: MemberId,
    /// The member that leads, if one is known.
    pub leader: Option<MemberId>,
    /// Whether a majority of members answered the leader lately.
    pub quorum: bool,
    /// The index of the replicated state here.
    pub index: u64,
    /// How far the Raft log of the answering member reaches; a quiet cluster writes nothing.
    pub log_index: u64,
    /// The version of the binary that answers.
    pub version: String,
    /// The cluster's times.
    pub settings: Settings,
    /// The members.
    pub members: Vec<MemberView>,
}

/// A coordinator.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct MemberView {
    /// Its identity in the group.
    pub id: MemberId,
    /// Its host.
    pub host: HostId,
    /// Where it listens.
    #[schema(value_type = String)]
    pub address: SocketAddr,
    /// Its part in the group: `leader`, `voter`, `learner`, `joining` or `leaving`.
    pub state: String,
}

/// Times that the whole cluster shares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// The time between two heartbeats of a host.
    pub heartbeat: Span,
    /// Silence after which a host gets nothing new.
    pub suspect_after: Span,
    /// Silence after which a host counts as down.
    pub down_after: Span,
    /// Silence after which its instances run elsewhere.
    pub lost_after: Span,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            heartbeat: Span::seconds(5),
            suspect_after: Span::seconds(15),
            down_after: Span::seconds(30),
            lost_after: Span::seconds(60),
        }
    }
}

impl Settings {
    /// The rule that the times break, if they break one.
    pub fn violation(&self) -> Option<String> {
        let ordered = self.heartbeat < self.suspect_after
            && self.suspect_after <= self.down_after
            && self.down_after <= self.lost_after;
        let in_range = self.heartbeat >= Span(200) && self.lost_after <= Span::seconds(86_400 * 365);
        (!ordered || !in_range).then(|| {
            "the times must rise: 200ms ≤ heartbeat < suspect_after ≤ down_after ≤ lost_after ≤ 8760h".to_owned()
        })
    }
}

/// A key of an environment's key/value store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct KeyView {
    /// The key.
    pub key: String,
    /// The value, as text.
    pub value: String,
    /// The index at which it was last written.
    pub modify_index: u64,
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

/// A problem as the API gives it: `application/problem+json` by RFC 9457, with our four parts.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ProblemDocument {
    /// `urn:wharf:` and the code.
    #[serde(rename = "type")]
    pub kind: String,
    /// What failed, on what.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// The causes, one a line.
    pub detail: String,
    /// The same in parts.
    #[serde(flatten)]
    pub problem: Problem,
}

/// Labels by key, as they stand in JSON.
pub type Labels = BTreeMap<String, String>;
