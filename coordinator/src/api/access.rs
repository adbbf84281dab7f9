//! Who may ask for what. Every route has one line in [`POLICY`]; a route without one is denied.

use std::sync::Arc;

use axum::{
    RequestExt,
    extract::{MatchedPath, RawPathParams, Request, State},
    http::{Method, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use common::{
    api::{COORDINATORS_HEADER, ROOT_HEADER},
    error::{Code, Problem},
    hex,
    name::Name,
    role::{Grant, Permission, Resource},
    token::{ApiToken, SecretHash, TokenId},
    wire::RootId,
};

use coordinator_core::{
    State as Cluster,
    access::{self as core, Action, Principal},
    command::Person,
    level,
    state::ApiTokenRecord,
    view,
};
use tokio::sync::watch;

use super::{ApiError, ClientAddress, extract::asks_for_stale};
use crate::{
    Coordinator,
    raft::{Consensus, Published},
    server::Door,
};

/// The token behind a request, and what it was let through for; none where a route needs no token.
#[derive(Debug, Clone)]
pub struct Actor(pub Option<Caller>);

/// A person or a program with an API token.
#[derive(Debug, Clone)]
pub struct Caller {
    /// The token, and its name for the history.
    pub person: Person,
    /// What it may do, and where.
    pub grant: Grant,
    /// What the request needs.
    needs: (Permission, Resource),
}

impl Actor {
    /// What the answer may show: nothing of environments where the token does not hold.
    pub fn sees(&self, environment: &Name) -> bool {
        self.0.as_ref().is_some_and(|caller| caller.grant.holds_in(environment))
    }

    /// Whether the token holds for the whole cluster.
    pub fn sees_cluster(&self) -> bool {
        self.0.as_ref().is_some_and(|caller| caller.grant.environments.is_none())
    }

    /// Refuses a request whose token may no longer make it.
    pub fn check(&self, cluster: &Cluster) -> Result<(), Problem> {
        let Some(Caller { person, needs: (permission, resource), .. }) = &self.0 else { return Ok(()) };
        let (principal, action) = (Principal::Token(person.token), Action::Api(*permission, resource));
        core::authorize(&principal, &action, cluster).map_err(|_| {
            Problem::new(Code::Unauthenticated, "This answer ends here")
                .why(format!("the token {} was revoked", person.name))
        })
    }

    /// Completes with a problem when the token may no longer make the request: an answer that goes on for hours ends
    /// when its token is revoked.
    pub async fn refused(self, mut published: watch::Receiver<Arc<Published>>) -> Problem {
        let ended = published.wait_for(|now| self.check(&now.cluster).is_err()).await.map(|now| now.clone());
        match ended.map(|now| self.check(&now.cluster)) {
            Ok(Err(problem)) => problem,
            Ok(Ok(())) | Err(_) => std::future::pending().await,
        }
    }
}

/// What a route asks of its caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Needs {
    /// Nothing: the route checks for itself, or has nothing to hide.
    Nobody,
    /// A token with this permission, there.
    Token(Permission, Place),
}

/// Where a token must hold for a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// In the whole cluster.
    Cluster,
    /// In the environment that the path names.
    Environment,
    /// Anywhere: the answer shows, and the request changes, only what the token covers.
    Anywhere,
}

const READ_CLUSTER: Needs = Needs::Token(Permission::Read, Place::Cluster);
const MANAGE_CLUSTER: Needs = Needs::Token(Permission::Manage, Place::Cluster);
const DRAIN: Needs = Needs::Token(Permission::Drain, Place::Cluster);
const READ: Needs = Needs::Token(Permission::Read, Place::Environment);
const OPERATE: Needs = Needs::Token(Permission::Operate, Place::Environment);
const DEPLOY: Needs = Needs::Token(Permission::Deploy, Place::Environment);
const MANAGE: Needs = Needs::Token(Permission::Manage, Place::Environment);
const READ_COVERED: Needs = Needs::Token(Permission::Read, Place::Anywhere);
const MANAGE_COVERED: Needs = Needs::Token(Permission::Manage, Place::Anywhere);

/// Every route: method, path as the router writes it, and what it needs.
pub const POLICY: &[(&str, &str, Needs)] = &[
    ("GET", "/join", Needs::Nobody),
    ("GET", "/dl/{file}", Needs::Nobody),
    ("GET", "/ca", Needs::Nobody),
    ("POST", "/api/v1/join", Needs::Nobody),
    ("GET", "/api/v1/openapi.json", READ_COVERED),
    ("GET", "/api/v1/cluster", READ_COVERED),
    ("PUT", "/api/v1/cluster/settings", MANAGE_CLUSTER),
    ("DELETE", "/api/v1/members/{member}", MANAGE_CLUSTER),
    ("GET", "/api/v1/audit", MANAGE_CLUSTER),
    ("GET", "/api/v1/clock", READ_CLUSTER),
    ("POST", "/api/v1/clock/repair", MANAGE_CLUSTER),
    ("GET", "/api/v1/backup", MANAGE_CLUSTER),
    ("GET", "/api/v1/backup/status", READ_CLUSTER),
    ("PUT", "/api/v1/backup/key", MANAGE_CLUSTER),
    ("PUT", "/api/v1/backup/schedule", MANAGE_CLUSTER),
    ("DELETE", "/api/v1/backup/schedule", MANAGE_CLUSTER),
    ("GET", "/api/v1/upgrade", READ_CLUSTER),
    ("PUT", "/api/v1/upgrade/phase", MANAGE_CLUSTER),
    ("PUT", "/api/v1/upgrades/{hash}", MANAGE_CLUSTER),
    ("GET", "/api/v1/trust", READ_CLUSTER),
    ("POST", "/api/v1/trust/sealing-key", MANAGE_CLUSTER),
    ("POST", "/api/v1/trust/join-key", MANAGE_CLUSTER),
    ("POST", "/api/v1/trust/ca", MANAGE_CLUSTER),
    ("POST", "/api/v1/trust/ca/finish", MANAGE_CLUSTER),
    ("GET", "/api/v1/doctor", READ_CLUSTER),
    ("GET", "/api/v1/doctor/paths", READ_CLUSTER),
    ("GET", "/api/v1/metrics", READ_CLUSTER),
    ("GET", "/api/v1/environments", READ_COVERED),
    ("PUT", "/api/v1/environments/{environment}", MANAGE),
    ("DELETE", "/api/v1/environments/{environment}", MANAGE),
    ("GET", "/api/v1/hosts", READ_CLUSTER),
    ("GET", "/api/v1/hosts/{host}", READ_CLUSTER),
    ("DELETE", "/api/v1/hosts/{host}", MANAGE_CLUSTER),
    ("PUT", "/api/v1/hosts/{host}/labels", MANAGE_CLUSTER),
    ("PUT", "/api/v1/hosts/{host}/oversubscription", MANAGE_CLUSTER),
    ("PUT", "/api/v1/hosts/{host}/claims", MANAGE_CLUSTER),
    ("PUT", "/api/v1/hosts/{host}/availability", DRAIN),
    ("GET", "/api/v1/join-tokens", MANAGE_CLUSTER),
    ("POST", "/api/v1/join-tokens", MANAGE_CLUSTER),
    ("DELETE", "/api/v1/join-tokens/{token}", MANAGE_CLUSTER),
    ("GET", "/api/v1/api-tokens", MANAGE_COVERED),
    ("POST", "/api/v1/api-tokens", MANAGE_COVERED),
    ("DELETE", "/api/v1/api-tokens/{token}", MANAGE_COVERED),
    ("GET", "/api/v1/registries", MANAGE_CLUSTER),
    ("PUT", "/api/v1/registries/{registry}", MANAGE_CLUSTER),
    ("DELETE", "/api/v1/registries/{registry}", MANAGE_CLUSTER),
    ("GET", "/api/v1/environments/{environment}/stacks", READ),
    ("GET", "/api/v1/environments/{environment}/stacks/{stack}", READ),
    ("PUT", "/api/v1/environments/{environment}/stacks/{stack}", DEPLOY),
    ("DELETE", "/api/v1/environments/{environment}/stacks/{stack}", DEPLOY),
    ("GET", "/api/v1/environments/{environment}/stacks/{stack}/revisions", READ),
    ("GET", "/api/v1/environments/{environment}/stacks/{stack}/deployments/{revision}", READ),
    ("PUT", "/api/v1/environments/{environment}/stacks/{stack}/services/{service}/scale", OPERATE),
    ("PUT", "/api/v1/environments/{environment}/stacks/{stack}/services/{service}/rollout", OPERATE),
    ("DELETE", "/api/v1/environments/{environment}/stacks/{stack}/services/{service}/backoff", OPERATE),
    ("POST", "/api/v1/environments/{environment}/rebalance", OPERATE),
    ("GET", "/api/v1/environments/{environment}/instances", READ),
    ("GET", "/api/v1/environments/{environment}/stacks/{stack}/services/{service}/instances/{instance}/logs", READ),
    ("GET", "/api/v1/environments/{environment}/secrets", READ),
    ("PUT", "/api/v1/environments/{environment}/secrets/{name}", DEPLOY),
    ("DELETE", "/api/v1/environments/{environment}/secrets/{name}", DEPLOY),
    ("GET", "/api/v1/environments/{environment}/configs", READ),
    ("GET", "/api/v1/environments/{environment}/configs/{name}", READ),
    ("PUT", "/api/v1/environments/{environment}/configs/{name}", DEPLOY),
    ("DELETE", "/api/v1/environments/{environment}/configs/{name}", DEPLOY),
    ("GET", "/api/v1/environments/{environment}/keys", READ),
    ("GET", "/api/v1/environments/{environment}/keys/{*key}", READ),
    ("PUT", "/api/v1/environments/{environment}/keys/{*key}", DEPLOY),
    ("DELETE", "/api/v1/environments/{environment}/keys/{*key}", DEPLOY),
    ("GET", "/api/v1/events", READ_COVERED),
    ("GET", "/api/v1/watch", READ_COVERED),
];

/// What the join door serves.
const JOIN_DOOR: &[&str] = &["/join", "/ca", "/dl/"];

/// What a route needs; `None` is denied.
pub fn needs(method: &Method, path: &str) -> Option<Needs> {
    // A HEAD is a GET whose body nobody reads.
    let method = if method == Method::HEAD { "GET" } else { method.as_str() };
    POLICY.iter().find(|(m, p, _)| *m == method && *p == path).map(|(.., needs)| *needs)
}

/// Lets only the join pages through the join door: what comes in there has pinned a key that says
/// nothing about who else holds it, so no token may follow.
pub async fn check_door(request: Request, next: Next) -> Response {
    let door = request.extensions().get::<Door>().copied();
    let path = request.uri().path();
    let is_join_page = JOIN_DOOR.iter().any(|page| path == *page || (page.ends_with('/') && path.starts_with(page)));
    if door == Some(Door::Join) && !is_join_page {
        let problem = Problem::new(Code::WrongDoor, "This connection serves the join script alone")
            .why("the client named no coordinator in its TLS handshake, so it got the join key's certificate")
            .fix("curl --cacert ca.pem --connect-to ::ADDRESS:7443 https://coordinator.<cluster id>.wharf:7443/…")
            .fix("Use the wharf command: wharf ctx ls");
        return ApiError(problem).into_response();
    }
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    headers.insert("x-content-type-options", header::HeaderValue::from_static("nosniff"));
    headers.insert(header::REFERRER_POLICY, header::HeaderValue::from_static("no-referrer"));
    headers.entry(header::CACHE_CONTROL).or_insert(header::HeaderValue::from_static("no-store"));
    response
}

/// The one gate of the API.
pub async fn authorize(State(coordinator): State<Coordinator>, mut request: Request, next: Next) -> Response {
    let environment = environment_of(&mut request).await;
    let mut published = coordinator.consensus.current();
    let mut decided = decide(&published, &request, environment.as_ref());
    match decisive(&coordinator.consensus, &decided, may_be_stale(&request)).await {
        Ok(Some(newer)) if !Arc::ptr_eq(&newer, &published) => {
            decided = decide(&newer, &request, environment.as_ref());
            published = newer;
        }
        Ok(_) => {}
        Err(problem) => decided = Err(problem.into()),
    }
    match decided {
        Ok(actor) => {
            request.extensions_mut().insert(actor);
            let mut response = next.run(request).await;
            if let Ok(value) = header::HeaderValue::from_str(&coordinators(&published)) {
                response.headers_mut().insert(COORDINATORS_HEADER, value);
            }
            if let Some(value) = root_id(&published).and_then(|id| header::HeaderValue::from_str(&id).ok()) {
                response.headers_mut().insert(ROOT_HEADER, value);
            }
            response
        }
        Err(Refusal::Denied(problem) | Refusal::UnknownToken(problem)) => ApiError(problem).into_response(),
    }
}

/// The root that issues certificates, while it is not being changed: a client that trusted it alone too early would not
/// believe coordinators that have not renewed theirs yet.
fn root_id(published: &Published) -> Option<String> {
    let identity = published.cluster.identity().filter(|_| published.cluster.root_change().is_none())?;
    Some(hex::encode(&RootId::of(&identity.authority.certificate).0))
}

/// The state to decide by, if what this member knows by itself is not enough for what it decided.
async fn decisive(
    consensus: &Consensus,
    decided: &Result<Actor, Refusal>,
    may_be_stale: bool,
) -> Result<Option<Arc<Published>>, Problem> {
    match decided {
        // This member may not have heard of it yet: it was just made, or this one just started.
        Err(Refusal::UnknownToken(_)) => consensus.read().await.map(Some),
        // It may not have heard yet that it was revoked.
        Ok(Actor(Some(_))) if !may_be_stale => consensus.decisive().await.map(Some),
        Ok(_) | Err(Refusal::Denied(_)) => Ok(None),
    }
}

/// What is answered also where no majority is heard: what this coordinator is and knows by itself.
const ANSWERED_ALONE: [&str; 2] = ["/api/v1/cluster", "/api/v1/openapi.json"];

/// Whether a request asks for what this coordinator knows, however old that is: then the token may be as old.
fn may_be_stale(request: &Request) -> bool {
    let is_answered_alone =
        || request.extensions().get::<MatchedPath>().is_some_and(|path| ANSWERED_ALONE.contains(&path.as_str()));
    request.method().is_safe() && (asks_for_stale(request.uri()) || is_answered_alone())
}

/// The environment that the path names, decoded as the handlers decode it; none if that is no name.
async fn environment_of(request: &mut Request) -> Option<Name> {
    let parameters = request.extract_parts::<RawPathParams>().await.ok()?;
    let (_, named) = parameters.iter().find(|(parameter, _)| *parameter == "environment")?;
    Name::parse(named).ok()
}

/// Why a request goes no further.
enum Refusal {
    /// Whatever this member has yet to hear.
    Denied(Problem),
    /// This member does not know the token, so far.
    UnknownToken(Problem),
}

impl From<Problem> for Refusal {
    fn from(problem: Problem) -> Refusal {
        Refusal::Denied(problem)
    }
}

/// Where the API is served, so that clients can turn elsewhere when this coordinator is gone.
fn coordinators(published: &Published) -> String {
    let addresses: Vec<String> = view::coordinators(&published.cluster).iter().map(ToString::to_string).collect();
    addresses.join(",")
}

fn decide(published: &Published, request: &Request, environment: Option<&Name>) -> Result<Actor, Refusal> {
    let path = request.extensions().get::<MatchedPath>().map(MatchedPath::as_str);
    let denied = || Problem::new(Code::Denied, format!("{} {} is not allowed", request.method(), request.uri().path()));
    let needed = path.and_then(|path| needs(request.method(), path)).ok_or_else(denied)?;
    let Needs::Token(permission, place) = needed else { return Ok(Actor(None)) };
    if request.uri().query().is_some_and(|query| query.contains("wat1_")) {
        return Err(Problem::new(Code::InvalidRequest, "The token must not be part of the address")
            .why("addresses end in logs and histories")
            .fix("Send it in the header: Authorization: Bearer wat1_…")
            .fix("It has been seen: revoke it, wharf token rm <id>")
            .into());
    }
    let (id, token) = authenticate(published, request)?;
    let resource = match (place, environment) {
        (Place::Anywhere, _) => Resource::Covered,
        (Place::Environment, Some(name)) => Resource::Environment(name.clone()),
        // An environment that is no name is nobody's in particular.
        (Place::Cluster, _) | (Place::Environment, None) => Resource::Cluster,
    };
    let address = request.extensions().get::<ClientAddress>().map(|address| address.0);
    let from = address.filter(|_| published.cluster.level() >= level::AUDIT);
    let person = Person { token: id, name: token.name.clone(), from };
    if core::authorize(&Principal::Token(id), &Action::Api(permission, &resource), &published.cluster).is_err() {
        return Err(denied().why(core::lack(&person, &token.grant)).fix(core::remedy(permission, &resource)).into());
    }
    Ok(Actor(Some(Caller { person, grant: token.grant.clone(), needs: (permission, resource) })))
}

fn authenticate<'a>(published: &'a Published, request: &Request) -> Result<(TokenId, &'a ApiTokenRecord), Refusal> {
    let unauthenticated = |why: &str| {
        Problem::new(Code::Unauthenticated, format!("{} {} needs a token", request.method(), request.uri().path()))
            .why(why)
            .fix("Send it in the header: Authorization: Bearer wat1_…")
    };
    let value =
        request.headers().get(header::AUTHORIZATION).ok_or_else(|| unauthenticated("the request carries none"))?;
    let text = value.to_str().ok().and_then(|value| value.strip_prefix("Bearer "));
    let text = text.ok_or_else(|| unauthenticated("the header Authorization is not of the form Bearer …"))?;
    let token: ApiToken =
        text.trim().parse().map_err(|error: common::token::InvalidToken| unauthenticated(&error.to_string()))?;
    let known = published.cluster.api_tokens().get(&token.id);
    let given = SecretHash::of(&token.secret);
    known
        .filter(|known| known.secret.matches(&given))
        .map(|known| (token.id, known))
        .ok_or_else(|| Refusal::UnknownToken(unauthenticated("the cluster does not know this token")))
}
