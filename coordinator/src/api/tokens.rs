//! Join tokens, API tokens and registries: who may come in, who may ask, who we are elsewhere.

use std::net::IpAddr;

use axum::{Extension, Json, http::StatusCode};
use common::{
    api::{
        ApiTokenCreated, ApiTokenView, CreateApiToken, CreateJoinToken, JoinTokenCreated, JoinTokenView, List,
        PutRegistry, RegistryView,
    },
    assignment::RegistryCredentials,
    error::{Code, Problem},
    role::Grant,
    secret::Secret,
    time::{Span, Timestamp},
    token::{ApiToken, JoinRole, JoinToken, SecretHash, TokenId},
};
use coordinator_core::{
    Author, Command, Outcome, Request,
    command::{Access, NewJoinToken},
    sealed::{self, KeyId},
    state::{ApiTokenRecord, JoinTokenRecord},
};
use link::identity::random_bytes;

use super::{
    ApiError,
    access::Actor,
    extract::{At, Body, Reading, Writing},
    hosts,
};
use crate::{
    Coordinator, join,
    raft::no_leader,
    seal::{Purpose, Seals},
};

const AGENT_TTL: Span = Span::minutes(60);
const COORDINATOR_TTL: Span = Span::minutes(15);
const LONGEST_TTL: Span = Span::minutes(60 * 24 * 30);
const MOST_USES: u32 = 1000;

fn join_view(id: TokenId, record: &JoinTokenRecord) -> JoinTokenView {
    JoinTokenView {
        id,
        role: record.role,
        created_at: record.created_at,
        expires_at: record.expires_at,
        max_uses: record.max_uses,
        revoked: record.revoked,
        uses: record.uses.clone(),
    }
}

/// All join tokens, without their secrets.
#[utoipa::path(get, path = "/api/v1/join-tokens", responses((status = 200, body = List<JoinTokenView>)))]
pub async fn list_join(Reading(published): Reading) -> Json<List<JoinTokenView>> {
    let items = published.cluster.join_tokens().iter().map(|(id, record)| join_view(*id, record)).collect();
    Json(List { index: published.cluster.index(), items })
}

/// Makes a join token. The answer is the only place where it is shown.
#[utoipa::path(post, path = "/api/v1/join-tokens", request_body = CreateJoinToken, responses((status = 201, body = JoinTokenCreated)))]
pub async fn create_join(
    writing: Writing,
    Body(asked): Body<CreateJoinToken>,
) -> Result<(StatusCode, Json<JoinTokenCreated>), ApiError> {
    let Writing { coordinator, author } = writing;
    let published = coordinator.consensus.read().await?;
    let root_pin = join::root_pin(&published.cluster).ok_or_else(no_leader)?;
    let join_pin = join::join_pin(&published.cluster).ok_or_else(no_leader)?;
    let replaces = asked.replaces.as_deref().map(|host| hosts::find(&published.cluster, host)).transpose()?;
    let (id, now, request) = (TokenId(random_bytes()), coordinator.consensus.now(), author.request);
    let by = published.cluster.sealing_key();
    let secret = secret_of(&coordinator.seals, by, &[JOIN, &id.0], &request);
    let new = new_join_token(id, SecretHash::of(&secret), asked, now)?;
    let (role, expires_at, max_uses) = (new.role, new.expires_at, new.max_uses);
    let view = JoinTokenView { id, role, created_at: now, expires_at, max_uses, revoked: false, uses: Vec::new() };
    let token = Box::new(new);
    let command = match replaces {
        Some(replaces) => Command::PutReplacingToken { token, replaces },
        None => Command::PutJoinToken(token),
    };
    let made = put_token(&coordinator, author, command).await?;
    let (secret, view) = if made == id {
        (secret, view)
    } else {
        let published = coordinator.consensus.read().await?;
        let lost = || made_before("join token", made, "wharf host revoke");
        let known = published.cluster.join_tokens().get(&made).ok_or_else(lost)?;
        let secret = secret_again(&coordinator.seals, &[JOIN, &made.0], &request, known.secret).ok_or_else(lost)?;
        (secret, join_view(made, known))
    };
    let text = JoinToken { id: made, pin: root_pin, secret }.reveal();
    let script = join::script(&coordinator, &published.cluster)?;
    let created = JoinTokenCreated {
        view,
        line: join::install_line(&join_pin, coordinator.advertise, &text),
        other_ways: join::other_ways(&script, coordinator.advertise, &text),
        token: text,
    };
    Ok((StatusCode::CREATED, Json(created)))
}

/// What is asked for, if it is within the limits.
fn new_join_token(
    id: TokenId,
    secret: SecretHash,
    asked: CreateJoinToken,
    now: Timestamp,
) -> Result<NewJoinToken, Problem> {
    let (ttl, max_uses) = limits(&asked)?;
    let from = asked.cidr.as_deref().map(parse_cidr).transpose()?;
    Ok(NewJoinToken { id, secret, role: asked.role, expires_at: now + ttl, max_uses, labels: asked.labels, from })
}

fn limits(asked: &CreateJoinToken) -> Result<(Span, u32), Problem> {
    let refuse = |why: String| Err(Problem::new(Code::InvalidRequest, "The join token was not made").why(why));
    let coordinator = asked.role == JoinRole::Coordinator;
    let ttl = asked.ttl.unwrap_or(if coordinator { COORDINATOR_TTL } else { AGENT_TTL });
    let uses = asked.max_uses.unwrap_or(1);
    if coordinator && (uses != 1 || ttl > COORDINATOR_TTL) {
        return refuse(format!("a token for a coordinator has one use and lives {COORDINATOR_TTL} at most"));
    }
    if ttl == Span(0) || ttl > LONGEST_TTL {
        return refuse(format!("it lives more than 0s and at most {LONGEST_TTL}"));
    }
    if uses == 0 || uses > MOST_USES {
        return refuse(format!("it has 1 to {MOST_USES} uses"));
    }
    Ok((ttl, uses))
}

fn parse_cidr(text: &str) -> Result<(IpAddr, u8), Problem> {
    let parsed = text
        .split_once('/')
        .and_then(|(address, prefix)| Some((address.parse::<IpAddr>().ok()?, prefix.parse::<u8>().ok()?)));
    parsed.filter(|(address, prefix)| *prefix <= if address.is_ipv4() { 32 } else { 128 }).ok_or_else(|| {
        Problem::new(Code::InvalidRequest, "The join token was not made")
            .why(format!("{text:?} is not a range of addresses, which looks like 10.0.0.0/8"))
    })
}

/// Revokes a join token.
#[utoipa::path(delete, path = "/api/v1/join-tokens/{token}", params(("token" = String, Path)), responses((status = 204)))]
pub async fn revoke_join(writing: Writing, At(token): At<TokenId>) -> Result<StatusCode, ApiError> {
    writing.apply(Command::RevokeJoinToken(token)).await?;
    Ok(StatusCode::NO_CONTENT)
}

fn api_view(id: TokenId, record: &ApiTokenRecord) -> ApiTokenView {
    ApiTokenView { id, name: record.name.clone(), grant: record.grant.clone(), created_at: record.created_at }
}

/// The API tokens that have no more power than the caller's, without their secrets.
#[utoipa::path(get, path = "/api/v1/api-tokens", responses((status = 200, body = List<ApiTokenView>)))]
pub async fn list_api(Extension(actor): Extension<Actor>, Reading(published): Reading) -> Json<List<ApiTokenView>> {
    let is_covered =
        |record: &ApiTokenRecord| actor.0.as_ref().is_some_and(|caller| caller.grant.covers(&record.grant));
    let tokens = published.cluster.api_tokens().iter().filter(|(_, record)| is_covered(record));
    let items = tokens.map(|(id, record)| api_view(*id, record)).collect();
    Json(List { index: published.cluster.index(), items })
}

/// Makes an API token. The answer is the only place where it is shown.
#[utoipa::path(post, path = "/api/v1/api-tokens", request_body = CreateApiToken, responses((status = 201, body = ApiTokenCreated)))]
pub async fn create_api(
    writing: Writing,
    Body(asked): Body<CreateApiToken>,
) -> Result<(StatusCode, Json<ApiTokenCreated>), ApiError> {
    let Writing { coordinator, author } = writing;
    let id = TokenId(random_bytes());
    let request = author.request;
    let by = coordinator.consensus.current().cluster.sealing_key();
    let secret = secret_of(&coordinator.seals, by, &[API, &id.0], &request);
    let hash = SecretHash::of(&secret);
    let (name, grant) = (asked.name, Grant { role: asked.role, environments: asked.environments });
    let view = ApiTokenView { id, name: name.clone(), grant: grant.clone(), created_at: coordinator.consensus.now() };
    let command = match Access::of(&grant) {
        // Every feature level has this one.
        Some(access) => Command::PutApiToken { id, name, access, secret: hash },
        None => Command::PutToken { id, name, grant, secret: hash },
    };
    let made = put_token(&coordinator, author, command).await?;
    let (secret, view) = if made == id {
        (secret, view)
    } else {
        let published = coordinator.consensus.read().await?;
        let lost = || made_before("API token", made, "wharf token rm");
        let known = published.cluster.api_tokens().get(&made).ok_or_else(lost)?;
        let secret = secret_again(&coordinator.seals, &[API, &made.0], &request, known.secret).ok_or_else(lost)?;
        (secret, api_view(made, known))
    };
    Ok((StatusCode::CREATED, Json(ApiTokenCreated { view, token: ApiToken { id: made, secret }.reveal() })))
}

const JOIN: &[u8] = b"wharf join token";
const API: &[u8] = b"wharf API token";

/// The secret of a token that a request makes. It can be found again for a repetition of the request, whose author may
/// not have got the first answer; without the sealing key, which a new coordinator lacks for a moment, it cannot.
fn secret_of(seals: &Seals, by: Option<KeyId>, token: &[&[u8]; 2], request: &Request) -> Secret<[u8; 16]> {
    let derived = derive(seals, by, token, request).into_iter().next();
    derived.unwrap_or_else(|| Secret::new(random_bytes()))
}

/// The secret of a token that a request has made, if a key is still here that it was derived from.
fn secret_again(seals: &Seals, token: &[&[u8]; 2], request: &Request, known: SecretHash) -> Option<Secret<[u8; 16]>> {
    let candidates = derive(seals, None, token, request);
    candidates.into_iter().find(|secret| known.matches(&SecretHash::of(secret)))
}

fn derive(seals: &Seals, by: Option<KeyId>, [kind, id]: &[&[u8]; 2], request: &Request) -> Vec<Secret<[u8; 16]>> {
    seals.derive(by, &[kind, id, &request.id.0, &request.content]).unwrap_or_default()
}

/// Makes a token; which one was made, by this request or by the one that it repeats.
async fn put_token(coordinator: &Coordinator, author: Author, command: Command) -> Result<TokenId, Problem> {
    match coordinator.consensus.write(author, command).await? {
        Outcome::Token(made) => Ok(made),
        _ => Err(Problem::new(Code::Internal, "Making a token had an unexpected outcome")),
    }
}

fn made_before(kind: &str, id: TokenId, end: &str) -> Problem {
    Problem::new(Code::Conflict, format!("The {kind} {id} was made by this request before, and is not shown again"))
        .why("it was removed since, or this coordinator cannot find its secret again")
        .fix(format!("End it, if it is there: {end} {id}"))
        .fix("Make another one, with another Idempotency-Key")
}

/// Ends an API token.
#[utoipa::path(delete, path = "/api/v1/api-tokens/{token}", params(("token" = String, Path)), responses((status = 204)))]
pub async fn remove_api(writing: Writing, At(token): At<TokenId>) -> Result<StatusCode, ApiError> {
    writing.apply(Command::RemoveApiToken(token)).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The registries for which there are credentials.
#[utoipa::path(get, path = "/api/v1/registries", responses((status = 200, body = List<RegistryView>)))]
pub async fn list_registries(Reading(published): Reading) -> Json<List<RegistryView>> {
    let view = |credentials: &RegistryCredentials| RegistryView {
        registry: credentials.registry.clone(),
        username: credentials.username.clone(),
    };
    Json(List { index: published.cluster.index(), items: published.cluster.registries().values().map(view).collect() })
}

/// Sets the credentials of a registry.
#[utoipa::path(put, path = "/api/v1/registries/{registry}", params(("registry" = String, Path)), request_body = PutRegistry, responses((status = 204)))]
pub async fn put_registry(
    writing: Writing,
    At(registry): At<String>,
    Body(put): Body<PutRegistry>,
) -> Result<StatusCode, ApiError> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || ".-:".contains(c);
    if registry.is_empty()
        || registry.len() > 255
        || !registry.chars().all(allowed)
        || put.username.len() > 255
        || put.password.len() > 4096
        || put.password.chars().any(char::is_control)
    {
        return Err(Problem::new(Code::InvalidRequest, "The credentials were not stored")
            .why("a registry is host[:port]; a user has at most 255 bytes, a password 4096 without control characters")
            .into());
    }
    let mut password = Secret::new(put.password);
    let by = writing.coordinator.consensus.read().await?.cluster.sealing_key();
    if by.is_some() {
        let purpose = Purpose::Password(&registry);
        let text = writing.coordinator.seals.seal(by, purpose, password.expose().as_bytes())?;
        password = sealed::in_place_of_password(&text);
    }
    let credentials = RegistryCredentials { registry, username: put.username, password };
    writing.apply(Command::PutRegistry(credentials)).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Forgets the credentials of a registry.
#[utoipa::path(delete, path = "/api/v1/registries/{registry}", params(("registry" = String, Path)), responses((status = 204)))]
pub async fn remove_registry(writing: Writing, At(registry): At<String>) -> Result<StatusCode, ApiError> {
    writing.apply(Command::RemoveRegistry(registry)).await?;
    Ok(StatusCode::NO_CONTENT)
}
