//! The HTTP API: one file a noun. Who may do what is decided in [`access`] alone; status codes are
//! known in [`error`] alone.

pub mod access;
mod audit;
mod backup;
mod clock;
mod cluster;
mod doctor;
mod door;
mod environments;
pub mod error;
mod events;
mod extract;
mod files;
mod hosts;
mod instances;
mod keys;
mod linger;
mod metrics;
mod stacks;
mod tokens;
mod trust;
mod upgrade;

use std::{net::IpAddr, time::Duration};

use axum::{
    Router,
    extract::DefaultBodyLimit,
    http::StatusCode,
    middleware::{from_fn, from_fn_with_state},
};
use common::api::MAX_BODY;
use tower_http::{catch_panic::CatchPanicLayer, timeout::TimeoutLayer};
use utoipa::OpenApi;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::Coordinator;

pub use error::ApiError;

/// How long a request may take, streams aside.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a binary may take to arrive.
const UPLOAD_TIMEOUT: Duration = Duration::from_secs(600);

/// Where a request came from.
#[derive(Debug, Clone, Copy)]
pub struct ClientAddress(pub IpAddr);

#[derive(OpenApi)]
#[openapi(info(
    title = "wharf",
    description = "The API of a wharf cluster. Every error is application/problem+json by RFC 9457."
))]
struct Document;

fn routes() -> OpenApiRouter<Coordinator> {
    quick_routes().merge(routes_that_take_long())
}

fn quick_routes() -> OpenApiRouter<Coordinator> {
    OpenApiRouter::with_openapi(Document::openapi())
        .merge(routes_of_the_cluster())
        .merge(routes_of_environments())
        .routes(routes!(events::list))
        .routes(routes!(events::watch))
        .routes(routes!(door::join))
        .routes(routes!(door::openapi))
}

fn routes_of_the_cluster() -> OpenApiRouter<Coordinator> {
    OpenApiRouter::new()
        .routes(routes!(cluster::get))
        .routes(routes!(cluster::put_settings))
        .routes(routes!(cluster::remove_member))
        .routes(routes!(audit::get))
        .routes(routes!(clock::get))
        .routes(routes!(clock::repair))
        .routes(routes!(backup::get))
        .routes(routes!(backup::status))
        .routes(routes!(backup::put_key))
        .routes(routes!(backup::put_schedule, backup::end_schedule))
        .routes(routes!(upgrade::get))
        .routes(routes!(upgrade::steer))
        .routes(routes!(trust::get))
        .routes(routes!(trust::rotate_sealing_key))
        .routes(routes!(trust::rotate_join_key))
        .routes(routes!(trust::rotate_ca))
        .routes(routes!(trust::finish_ca))
        .routes(routes!(doctor::get))
        .routes(routes!(doctor::paths))
        .routes(routes!(metrics::get))
        .routes(routes!(hosts::list))
        .routes(routes!(hosts::get, hosts::remove))
        .routes(routes!(hosts::put_labels))
        .routes(routes!(hosts::oversubscribe))
        .routes(routes!(hosts::accept))
        .routes(routes!(hosts::put_availability))
        .routes(routes!(tokens::list_join, tokens::create_join))
        .routes(routes!(tokens::revoke_join))
        .routes(routes!(tokens::list_api, tokens::create_api))
        .routes(routes!(tokens::remove_api))
        .routes(routes!(tokens::list_registries))
        .routes(routes!(tokens::put_registry, tokens::remove_registry))
}

/// Routes whose requests bring a large body.
fn routes_that_take_long() -> OpenApiRouter<Coordinator> {
    OpenApiRouter::new().routes(routes!(upgrade::begin))
}

fn routes_of_environments() -> OpenApiRouter<Coordinator> {
    OpenApiRouter::new()
        .routes(routes!(environments::list))
        .routes(routes!(environments::put, environments::remove))
        .routes(routes!(stacks::list))
        .routes(routes!(stacks::get, stacks::put, stacks::remove))
        .routes(routes!(stacks::scale))
        .routes(routes!(stacks::rollout))
        .routes(routes!(stacks::retry))
        .routes(routes!(stacks::revisions))
        .routes(routes!(stacks::deployment))
        .routes(routes!(instances::list))
        .routes(routes!(instances::logs))
        .routes(routes!(instances::rebalance))
        .routes(routes!(files::list_secrets))
        .routes(routes!(files::put_secret, files::remove_secret))
        .routes(routes!(files::list_configs))
        .routes(routes!(files::get_config, files::put_config, files::remove_config))
        .routes(routes!(keys::list))
        .routes(routes!(keys::get, keys::put, keys::remove))
}

/// The OpenAPI document of all routes.
pub fn document() -> utoipa::openapi::OpenApi {
    let (_, mut document) = routes().split_for_parts();
    document.info.version = env!("CARGO_PKG_VERSION").to_owned();
    document
}

/// Everything that is served by HTTPS.
pub fn router(coordinator: Coordinator) -> Router {
    let (quick, _) = quick_routes().split_for_parts();
    let (slow, _) = routes_that_take_long().split_for_parts();
    let quick = quick.merge(door::pages()).fallback(door::nothing_here);
    let quick = guarded(quick, &coordinator, REQUEST_TIMEOUT);
    quick.merge(guarded(slow, &coordinator, UPLOAD_TIMEOUT)).with_state(coordinator)
}

/// Routes behind the gate, the door and the limits.
fn guarded(routes: Router<Coordinator>, coordinator: &Coordinator, within: Duration) -> Router<Coordinator> {
    routes
        .method_not_allowed_fallback(door::nothing_here)
        .route_layer(from_fn(extract::note_body))
        .route_layer(from_fn_with_state(coordinator.clone(), access::authorize))
        .layer(from_fn(access::check_door))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .layer(from_fn(linger::discard_rest))
        .layer(TimeoutLayer::with_status_code(StatusCode::REQUEST_TIMEOUT, within))
        .layer(CatchPanicLayer::custom(error::panicked))
}

#[cfg(test)]
mod tests;
