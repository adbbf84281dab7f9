//! The audit: who changed what.

use axum::Json;
use common::audit::AuditPage;
use coordinator_core::view;
use serde::Deserialize;
use utoipa::IntoParams;

use super::extract::{Asked, Reading};

/// Most entries in one answer.
const PAGE: usize = 1000;

/// Which entries are asked for.
#[derive(Debug, Deserialize, IntoParams)]
pub struct Which {
    /// Only those with a higher number.
    #[serde(default)]
    after: u64,
}

/// Entries of the audit, the oldest first, at most 1,000.
#[utoipa::path(get, path = "/api/v1/audit", params(Which), responses((status = 200, body = AuditPage)))]
pub async fn get(Asked(which): Asked<Which>, Reading(published): Reading) -> Json<AuditPage> {
    Json(view::audit(&published.cluster, which.after, PAGE))
}
