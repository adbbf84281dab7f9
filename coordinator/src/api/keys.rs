//! The key/value store, in its first form.

use std::sync::Arc;

use axum::{Json, http::StatusCode};
use common::{
    api::{KeyView, List},
    error::{Code, Problem},
    name::Name,
};
use coordinator_core::{Command, state::Key};

use super::{
    ApiError,
    extract::{At, RawBody, Reading, Writing},
};

/// Most keys in one answer.
const PAGE: usize = 10_000;

fn view(key: &str, record: &Key) -> KeyView {
    KeyView {
        key: key.to_owned(),
        value: String::from_utf8_lossy(&record.value).into_owned(),
        modify_index: record.modify_index,
    }
}

/// The keys of an environment with their values; the first 10,000.
#[utoipa::path(get, path = "/api/v1/environments/{environment}/keys", params(("environment" = String, Path)), responses((status = 200, body = List<KeyView>)))]
pub async fn list(Reading(published): Reading, At(environment): At<Name>) -> Result<Json<List<KeyView>>, ApiError> {
    published.cluster.known_environment(&environment)?;
    let of_environment = published
        .cluster
        .keys()
        .range((environment.clone(), Arc::from(""))..)
        .take_while(|((other, _), _)| *other == environment);
    let items = of_environment.take(PAGE).map(|((_, key), record)| view(key, record)).collect();
    Ok(Json(List { index: published.cluster.index(), items }))
}

/// A key.
#[utoipa::path(get, path = "/api/v1/environments/{environment}/keys/{*key}", params(("environment" = String, Path), ("key" = String, Path)), responses((status = 200, body = KeyView)))]
pub async fn get(
    Reading(published): Reading,
    At((environment, key)): At<(Name, String)>,
) -> Result<Json<KeyView>, ApiError> {
    let record = published.cluster.keys().get(&(environment, key.as_str().into()));
    Ok(Json(view(&key, record.ok_or_else(|| Problem::new(Code::NotFound, format!("There is no key {key:?}")))?)))
}

/// Writes a key; the body is the value.
#[utoipa::path(put, path = "/api/v1/environments/{environment}/keys/{*key}", params(("environment" = String, Path), ("key" = String, Path)), request_body(content = String, content_type = "text/plain"), responses((status = 204)))]
pub async fn put(
    writing: Writing,
    At((environment, key)): At<(Name, String)>,
    RawBody(value): RawBody,
) -> Result<StatusCode, ApiError> {
    writing.apply(Command::PutKey { environment, key: key.into(), value: Arc::from(&value[..]) }).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Removes a key.
#[utoipa::path(delete, path = "/api/v1/environments/{environment}/keys/{*key}", params(("environment" = String, Path), ("key" = String, Path)), responses((status = 204)))]
pub async fn remove(writing: Writing, At((environment, key)): At<(Name, String)>) -> Result<StatusCode, ApiError> {
    writing.apply(Command::RemoveKey { environment, key: key.into() }).await?;
    Ok(StatusCode::NO_CONTENT)
}
