//! Environments.

use axum::{Extension, Json, http::StatusCode};
use common::{
    api::{EnvironmentView, List},
    name::Name,
};
use coordinator_core::{Command, view};

use super::{
    ApiError,
    access::Actor,
    extract::{At, Reading, Writing},
};

/// The environments where the token holds.
#[utoipa::path(get, path = "/api/v1/environments", responses((status = 200, body = List<EnvironmentView>)))]
pub async fn list(Extension(actor): Extension<Actor>, Reading(published): Reading) -> Json<List<EnvironmentView>> {
    let mut items = view::environments(&published.cluster);
    items.retain(|environment| actor.sees(&environment.name));
    for environment in &mut items {
        environment.joined_by.retain(|service| actor.sees(&service.stack.environment));
    }
    Json(List { index: published.cluster.index(), items })
}

/// Makes an environment; one that is there already is as good.
#[utoipa::path(put, path = "/api/v1/environments/{environment}", params(("environment" = String, Path)), responses((status = 204)))]
pub async fn put(writing: Writing, At(environment): At<Name>) -> Result<StatusCode, ApiError> {
    writing.apply(Command::PutEnvironment(environment)).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Removes an environment that holds nothing and that no service has joined.
#[utoipa::path(delete, path = "/api/v1/environments/{environment}", params(("environment" = String, Path)), responses((status = 204)))]
pub async fn remove(writing: Writing, At(environment): At<Name>) -> Result<StatusCode, ApiError> {
    writing.apply(Command::RemoveEnvironment(environment)).await?;
    Ok(StatusCode::NO_CONTENT)
}
