//! Upgrades.

use axum::{Json, body::Body as RawBody, extract::State, http::StatusCode};
use common::{
    api::{Steer, SteerUpgrade, UpgradeView},
    error::{Code, Problem},
    upgrade::BinaryHash,
};
use coordinator_core::{Command, view};
use http_body_util::BodyExt;

use super::{
    ApiError,
    extract::{At, Body, Reading, Writing},
};
use crate::Coordinator;

/// The last upgrade, and which binary each host runs.
#[utoipa::path(get, path = "/api/v1/upgrade", responses((status = 200, body = UpgradeView)))]
pub async fn get(Reading(published): Reading) -> Json<UpgradeView> {
    Json(view::upgrade(&published.cluster))
}

/// Brings a binary of wharf, which is the body, to all hosts. Its SHA-256 is in the path.
#[utoipa::path(put, path = "/api/v1/upgrades/{hash}", params(("hash" = String, Path)), request_body(content = String, content_type = "application/octet-stream"), responses((status = 200, body = UpgradeView)))]
pub async fn begin(
    State(coordinator): State<Coordinator>,
    writing: Writing,
    At(hash): At<String>,
    body: RawBody,
) -> Result<Json<UpgradeView>, ApiError> {
    let refused = |why: String| Problem::new(Code::InvalidRequest, "The binary was refused").why(why);
    let hash: BinaryHash = hash.parse().map_err(|error: common::upgrade::InvalidHash| refused(error.to_string()))?;
    let target = receive(&coordinator, hash, body).await?;
    let begun = writing.apply(Command::BeginUpgrade(Box::new(target))).await;
    if let Err(problem) = begun {
        coordinator.binaries.keep_only(coordinator.consensus.current().cluster.upgrade().map(|run| run.target.hash));
        return Err(problem.into());
    }
    let published = coordinator.consensus.read().await?;
    Ok(Json(view::upgrade(&published.cluster)))
}

async fn receive(
    coordinator: &Coordinator,
    hash: BinaryHash,
    mut body: RawBody,
) -> Result<common::upgrade::Target, Problem> {
    let broken = |why: String| Problem::new(Code::InvalidRequest, "The binary did not arrive").why(why);
    let mut arriving = coordinator.binaries.receive(hash)?;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| broken(error.to_string()))?;
        if let Some(bytes) = frame.data_ref() {
            arriving.add(bytes).map_err(|error| {
                let code = match error {
                    link::binary::BinaryError::TooLarge(_) => Code::TooLarge,
                    _ => Code::StoreFailed,
                };
                Problem::new(code, "The binary was not stored").why(error.to_string())
            })?;
        }
    }
    coordinator.binaries.take_in(arriving, hash).await
}

/// Pauses, resumes or ends the upgrade.
#[utoipa::path(put, path = "/api/v1/upgrade/phase", request_body = SteerUpgrade, responses((status = 204)))]
pub async fn steer(writing: Writing, Body(asked): Body<SteerUpgrade>) -> Result<StatusCode, ApiError> {
    let command = match asked.want {
        Steer::Pause => Command::PauseUpgrade,
        Steer::Resume => Command::ResumeUpgrade,
        Steer::Abort => Command::AbortUpgrade,
    };
    writing.apply(command).await?;
    Ok(StatusCode::NO_CONTENT)
}
