//! The time of the cluster, and the clocks of its coordinators.

use axum::{Json, extract::State, http::StatusCode};
use common::{
    api::ClockView,
    error::{Code, Problem},
};
use coordinator_core::{Command, clock::Agreement, view};

use super::{
    ApiError,
    extract::{Reading, Writing},
};
use crate::Coordinator;

/// The time of the cluster, and how the clocks of the coordinators differ from it.
#[utoipa::path(get, path = "/api/v1/clock", responses((status = 200, body = ClockView)))]
pub async fn get(State(coordinator): State<Coordinator>, Reading(published): Reading) -> Json<ClockView> {
    Json(view::clock(&published.cluster, &coordinator.consensus.clocks()))
}

/// Sets the time of the cluster back to what most coordinators' clocks say, after a wrong clock has moved it ahead.
#[utoipa::path(post, path = "/api/v1/clock/repair", responses((status = 204)))]
pub async fn repair(writing: Writing) -> Result<StatusCode, ApiError> {
    let clocks = writing.coordinator.consensus.clocks();
    let to = match clocks.agreement {
        Agreement::Certain(time) => time,
        // Nothing else says what time it is, and a person has asked for it.
        Agreement::Vague(time) if clocks.voters <= 1 => time,
        Agreement::Vague(_) => {
            return Err(Problem::new(Code::Conflict, "The time of the cluster was not changed")
                .why("the clocks of the coordinators disagree, or too few of them answer")
                .fix("See them: wharf clock; set the wrong ones by a time server: timedatectl")
                .into());
        }
    };
    writing.apply(Command::SetClockBack { to }).await?;
    Ok(StatusCode::NO_CONTENT)
}
