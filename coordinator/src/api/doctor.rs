//! What is wrong with the hosts and the paths between them.

use axum::{Json, extract::State};
use common::api::{DoctorView, PathsView};
use coordinator_core::view;

use super::{ApiError, extract::Reading};
use crate::Coordinator;

/// All that is wrong: hosts that are not heard, paths of the overlay that are broken, and what agents found.
#[utoipa::path(get, path = "/api/v1/doctor", responses((status = 200, body = DoctorView)))]
pub async fn get(
    State(coordinator): State<Coordinator>,
    Reading(published): Reading,
) -> Result<Json<DoctorView>, ApiError> {
    let found = coordinator.dispatch.findings().await?;
    let mut view = view::doctor(&published.cluster, &found);
    view.findings.extend(view::clock_findings(&published.cluster, &coordinator.consensus.clocks()));
    Ok(Json(view))
}

/// What every path of the overlay carries, by the host where it ends and the one where it begins.
#[utoipa::path(get, path = "/api/v1/doctor/paths", responses((status = 200, body = PathsView)))]
pub async fn paths(
    State(coordinator): State<Coordinator>,
    Reading(published): Reading,
) -> Result<Json<PathsView>, ApiError> {
    let found = coordinator.dispatch.findings().await?;
    Ok(Json(view::paths(&published.cluster, &found)))
}
