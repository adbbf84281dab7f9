//! Hosts.

use axum::{Json, http::StatusCode};
use common::{
    api::{AcceptHost, DrainPlan, HostView, List, PutAvailability, PutHostLabels, WantedAvailability},
    error::{Code, Problem},
    host::{Availability, Oversubscription},
    id::HostId,
    time::Span,
};
use coordinator_core::{Command, view};

use super::{
    ApiError,
    extract::{At, Body, Reading, Writing},
};

/// How long instances of a host that is emptied may wait for a successor, unless the request says.
const DRAIN_WITHIN: Span = Span::minutes(60);
/// The longest such time.
const MAX_DRAIN: Span = Span::minutes(7 * 24 * 60);

/// All hosts.
#[utoipa::path(get, path = "/api/v1/hosts", responses((status = 200, body = List<HostView>)))]
pub async fn list(Reading(published): Reading) -> Json<List<HostView>> {
    Json(List { index: published.cluster.index(), items: view::hosts(&published.cluster) })
}

/// A host, by id or by name.
#[utoipa::path(get, path = "/api/v1/hosts/{host}", params(("host" = String, Path, description = "id or name")), responses((status = 200, body = HostView)))]
pub async fn get(Reading(published): Reading, At(host): At<String>) -> Result<Json<HostView>, ApiError> {
    let id = find(&published.cluster, &host)?;
    let view = view::hosts(&published.cluster).into_iter().find(|view| view.id == id);
    Ok(Json(view.ok_or_else(|| missing(&host))?))
}

/// Ends a host: its certificate is refused and its instances are replaced.
#[utoipa::path(delete, path = "/api/v1/hosts/{host}", params(("host" = String, Path, description = "id or name")), responses((status = 204)))]
pub async fn remove(
    Reading(published): Reading,
    writing: Writing,
    At(host): At<String>,
) -> Result<StatusCode, ApiError> {
    writing.apply(Command::RemoveHost(find(&published.cluster, &host)?)).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Replaces the labels of a host.
#[utoipa::path(put, path = "/api/v1/hosts/{host}/labels", params(("host" = String, Path, description = "id or name")), request_body = PutHostLabels, responses((status = 204)))]
pub async fn put_labels(
    Reading(published): Reading,
    writing: Writing,
    At(host): At<String>,
    Body(put): Body<PutHostLabels>,
) -> Result<StatusCode, ApiError> {
    let host = find(&published.cluster, &host)?;
    writing.apply(Command::PutHostLabels { host, labels: put.labels }).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Accepts what a host claims beyond what was accepted of it before.
#[utoipa::path(put, path = "/api/v1/hosts/{host}/claims", params(("host" = String, Path, description = "id or name")), request_body = AcceptHost, responses((status = 204)))]
pub async fn accept(
    Reading(published): Reading,
    writing: Writing,
    At(host): At<String>,
    Body(put): Body<AcceptHost>,
) -> Result<StatusCode, ApiError> {
    let id = find(&published.cluster, &host)?;
    let claims = &published.cluster.hosts().get(&id).ok_or_else(|| missing(&host))?.claims;
    let seen = claims.waiting.as_ref().filter(|_| claims.in_words() == put.claims);
    let Some(expect) = seen.cloned() else {
        return Err(Problem::new(Code::Conflict, format!("The claims of {host} were not accepted"))
            .why("it claims something else now, or nothing")
            .fix(format!("See what it claims: wharf host inspect {host}"))
            .into());
    };
    writing.apply(Command::AcceptHost { host: id, expect }).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Says whether people want instances on a host: cordoned, it takes no new ones; draining, it is
/// emptied as others take over; in maintenance, nothing runs there.
#[utoipa::path(put, path = "/api/v1/hosts/{host}/availability", params(("host" = String, Path, description = "id or name")), request_body = PutAvailability, responses((status = 200, body = DrainPlan, description = "What emptying it does to its instances; none are listed for the others")))]
pub async fn put_availability(
    Reading(published): Reading,
    writing: Writing,
    At(host): At<String>,
    Body(put): Body<PutAvailability>,
) -> Result<Json<DrainPlan>, ApiError> {
    let host_id = find(&published.cluster, &host)?;
    let within = put.within.unwrap_or(DRAIN_WITHIN);
    if within > MAX_DRAIN {
        return Err(Problem::new(Code::InvalidRequest, format!("Host {host} was not changed"))
            .why(format!("{within} is longer than {MAX_DRAIN}"))
            .into());
    }
    let now = writing.coordinator.consensus.now();
    let deadline = now + within;
    let (availability, plan) = match put.availability {
        WantedAvailability::Active => (Availability::Active, None),
        WantedAvailability::Cordoned => (Availability::Cordoned, None),
        WantedAvailability::Maintenance => (Availability::Maintenance, None),
        WantedAvailability::Draining => {
            (Availability::Draining { deadline }, view::drain_plan(&published.cluster, host_id, deadline, now))
        }
    };
    if !put.dry_run {
        writing.apply(Command::SetAvailability { host: host_id, availability }).await?;
    }
    let name = published.cluster.hosts().get(&host_id).ok_or_else(|| missing(&host))?.name.clone();
    Ok(Json(plan.unwrap_or(DrainPlan { host: name, instances: Vec::new() })))
}

/// Says how much of a host may be reserved, in hundredths of what it has.
#[utoipa::path(put, path = "/api/v1/hosts/{host}/oversubscription", params(("host" = String, Path, description = "id or name")), request_body = Oversubscription, responses((status = 204)))]
pub async fn oversubscribe(
    Reading(published): Reading,
    writing: Writing,
    At(host): At<String>,
    Body(oversubscription): Body<Oversubscription>,
) -> Result<StatusCode, ApiError> {
    let host = find(&published.cluster, &host)?;
    writing.apply(Command::Oversubscribe { host, oversubscription }).await?;
    Ok(StatusCode::NO_CONTENT)
}

fn missing(host: &str) -> Problem {
    Problem::new(Code::NotFound, format!("There is no host {host:?}")).fix("List the hosts: wharf host ls")
}

pub(super) fn find(cluster: &coordinator_core::State, text: &str) -> Result<HostId, Problem> {
    let by_name = || cluster.hosts().iter().find(|(_, host)| host.name.as_str() == text).map(|(id, _)| *id);
    let by_id = text.parse::<HostId>().ok().filter(|id| cluster.hosts().contains_key(id));
    by_id.or_else(by_name).ok_or_else(|| missing(text))
}
