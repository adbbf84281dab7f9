//! Who may ask for what. Every route has one line in [`POLICY`]; what has none is denied.

use std::sync::Arc;

use axum::{
    extract::{MatchedPath, Request, State},
    http::{Method, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use common::{
    api::{Access, COORDINATORS_HEADER},
    error::{Code, Problem},
    token::{ApiToken, SecretHash, TokenId},
};

use coordinator_core::{
    access::{self as core, Action, Principal},
    command::Person,
    state::ApiTokenRecord,
    view,
};
use tokio::sync::watch;

use super::ApiError;
use crate::{Coordinator, raft::Published, server::Door};

/// Who asks, where a token is needed.
#[derive(Debug, Clone)]
pub struct Actor(pub Option<Person>);

impl Actor {
    /// Completes when the token may not even read any more, with what is to be said then: an answer that goes on for
    /// hours is not for somebody whose token was revoked meanwhile.
    pub async fn refused(self, mut published: watch::Receiver<Arc<Published>>) -> Problem {
        let Some(person) = self.0 else { return std::future::pending().await };
        let principal = Principal::Token(person.token);
        let is_refused =
            |now: &Arc<Published>| core::authorize(&principal, &Action::Api(Access::Viewer), &now.cluster).is_err();
        if published.wait_for(is_refused).await.is_err() {
            return std::future::pending().await;
        }
        Problem::new(Code::Unauthenticated, "This answer ends here")
            .why(format!("the token {} was revoked", person.name))
    }
}

/// What a route asks of its caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Needs {
    /// Nothing: the route checks for itself, or has nothing to hide.
    Nobody,
    /// A token with at least this access.
    Token(Access),
}

const READ: Needs = Needs::Token(Access::Viewer);
const CHANGE: Needs = Needs::Token(Access::Admin);

/// Every route: method, path as the router writes it, and what it needs.
pub const POLICY: &[(&str, &str, Needs)] = &[
    ("GET", "/join", Needs::Nobody),
    ("GET", "/dl/{file}", Needs::Nobody),
    ("GET", "/ca", Needs::Nobody),
    ("POST", "/api/v1/join", Needs::Nobody),
    ("GET", "/api/v1/openapi.json", READ),
    ("GET", "/api/v1/cluster", READ),
    ("PUT", "/api/v1/cluster/settings", CHANGE),
    ("DELETE", "/api/v1/members/{member}", CHANGE),
    ("GET", "/api/v1/doctor", READ),
    ("GET", "/api/v1/doctor/paths", READ),
    ("GET", "/api/v1/metrics", READ),
    ("GET", "/api/v1/environments", READ),
    ("PUT", "/api/v1/environments/{environment}", CHANGE),
    ("DELETE", "/api/v1/environments/{environment}", CHANGE),
    ("GET", "/api/v1/hosts", READ),
    ("GET", "/api/v1/hosts/{host}", READ),
    ("DELETE", "/api/v1/hosts/{host}", CHANGE),
    ("PUT", "/api/v1/hosts/{host}/labels", CHANGE),
    ("PUT", "/api/v1/hosts/{host}/oversubscription", CHANGE),
    ("PUT", "/api/v1/hosts/{host}/availability", CHANGE),
    ("GET", "/api/v1/join-tokens", CHANGE),
    ("POST", "/api/v1/join-tokens", CHANGE),
    ("DELETE", "/api/v1/join-tokens/{token}", CHANGE),
    ("GET", "/api/v1/api-tokens", CHANGE),
    ("POST", "/api/v1/api-tokens", CHANGE),
    ("DELETE", "/api/v1/api-tokens/{token}", CHANGE),
    ("GET", "/api/v1/registries", CHANGE),
    ("PUT", "/api/v1/registries/{registry}", CHANGE),
    ("DELETE", "/api/v1/registries/{registry}", CHANGE),
    ("GET", "/api/v1/environments/{environment}/stacks", READ),
    ("GET", "/api/v1/environments/{environment}/stacks/{stack}", READ),
    ("PUT", "/api/v1/environments/{environment}/stacks/{stack}", CHANGE),
    ("DELETE", "/api/v1/environments/{environment}/stacks/{stack}", CHANGE),
    ("GET", "/api/v1/environments/{environment}/stacks/{stack}/revisions", READ),
    ("GET", "/api/v1/environments/{environment}/stacks/{stack}/deployments/{revision}", READ),
    ("PUT", "/api/v1/environments/{environment}/stacks/{stack}/services/{service}/scale", CHANGE),
    ("PUT", "/api/v1/environments/{environment}/stacks/{stack}/services/{service}/rollout", CHANGE),
    ("DELETE", "/api/v1/environments/{environment}/stacks/{stack}/services/{service}/backoff", CHANGE),
    ("POST", "/api/v1/environments/{environment}/rebalance", CHANGE),
    ("GET", "/api/v1/environments/{environment}/instances", READ),
    ("GET", "/api/v1/environments/{environment}/stacks/{stack}/services/{service}/instances/{instance}/logs", READ),
    ("GET", "/api/v1/environments/{environment}/secrets", READ),
    ("PUT", "/api/v1/environments/{environment}/secrets/{name}", CHANGE),
    ("DELETE", "/api/v1/environments/{environment}/secrets/{name}", CHANGE),
    ("GET", "/api/v1/environments/{environment}/configs", READ),
    ("GET", "/api/v1/environments/{environment}/configs/{name}", READ),
    ("PUT", "/api/v1/environments/{environment}/configs/{name}", CHANGE),
    ("DELETE", "/api/v1/environments/{environment}/configs/{name}", CHANGE),
    ("GET", "/api/v1/environments/{environment}/keys", READ),
    ("GET", "/api/v1/environments/{environment}/keys/{*key}", READ),
    ("PUT", "/api/v1/environments/{environment}/keys/{*key}", CHANGE),
    ("DELETE", "/api/v1/environments/{environment}/keys/{*key}", CHANGE),
    ("GET", "/api/v1/events", READ),
    ("GET", "/api/v1/watch", READ),
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
    let mut published = coordinator.consensus.current();
    let mut decided = decide(&published, &request);
    if let Err(Refusal::UnknownToken(_)) = decided {
        // This member may not have heard of it yet: it was just made, or this one just started.
        match coordinator.consensus.read().await {
            Ok(newest) => published = newest,
            Err(problem) => return ApiError(problem).into_response(),
        }
        decided = decide(&published, &request);
    }
    match decided {
        Ok(actor) => {
            request.extensions_mut().insert(actor);
            let mut response = next.run(request).await;
            if let Ok(value) = header::HeaderValue::from_str(&coordinators(&published)) {
                response.headers_mut().insert(COORDINATORS_HEADER, value);
            }
            response
        }
        Err(Refusal::Denied(problem) | Refusal::UnknownToken(problem)) => ApiError(problem).into_response(),
    }
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

fn decide(published: &Arc<Published>, request: &Request) -> Result<Actor, Refusal> {
    let path = request.extensions().get::<MatchedPath>().map(MatchedPath::as_str);
    let denied = || Problem::new(Code::Denied, format!("{} {} is not allowed", request.method(), request.uri().path()));
    let needed = path.and_then(|path| needs(request.method(), path)).ok_or_else(denied)?;
    let Needs::Token(needed) = needed else { return Ok(Actor(None)) };
    if request.uri().query().is_some_and(|query| query.contains("wat1_")) {
        return Err(Problem::new(Code::InvalidRequest, "The token must not be part of the address")
            .why("addresses end in logs and histories")
            .fix("Send it in the header: Authorization: Bearer wat1_…")
            .fix("It has been seen: revoke it, wharf token rm <id>")
            .into());
    }
    let (id, token) = authenticate(published, request)?;
    if core::authorize(&Principal::Token(id), &Action::Api(needed), &published.cluster).is_err() {
        return Err(denied()
            .why("the token may only read")
            .fix("Use a token with the access admin: wharf token create")
            .into());
    }
    Ok(Actor(Some(Person { token: id, name: token.name.clone() })))
}

fn authenticate<'a>(
    published: &'a Arc<Published>,
    request: &Request,
) -> Result<(TokenId, &'a ApiTokenRecord), Refusal> {
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
