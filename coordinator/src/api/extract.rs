//! What handlers take from requests: states, typed paths and bodies, request ids.

use std::sync::Arc;

use axum::{
    extract::{FromRequest, FromRequestParts, Path, Query, Request, rejection::JsonRejection},
    http::request::Parts,
};
use common::error::{Code, Problem};
use coordinator_core::{Author, RequestId};
use link::identity::random_bytes;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};

use super::{ApiError, access::Actor};
use crate::{Coordinator, raft::Published};

/// The state to answer from: linearizable, unless the query says `stale`.
pub struct Reading(pub Arc<Published>);

impl FromRequestParts<Coordinator> for Reading {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, coordinator: &Coordinator) -> Result<Reading, ApiError> {
        let stale =
            parts.uri.query().unwrap_or_default().split('&').any(|pair| pair == "stale" || pair.starts_with("stale="));
        let published = if stale { coordinator.consensus.current() } else { coordinator.consensus.read().await? };
        Ok(Reading(published))
    }
}

/// Whose write a request is, and which: its id comes from the `Idempotency-Key`, or is drawn.
pub struct Writing(pub Author);

impl FromRequestParts<Coordinator> for Writing {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &Coordinator) -> Result<Writing, ApiError> {
        let by = parts.extensions.get::<Actor>().and_then(|actor| actor.0.clone());
        let Some(key) = parts.headers.get("idempotency-key") else {
            return Ok(Writing(Author { request: RequestId(random_bytes()), by }));
        };
        if key.is_empty() || key.len() > 255 {
            return Err(Problem::new(Code::InvalidRequest, "The header Idempotency-Key cannot be used")
                .why("it has 1 to 255 characters")
                .into());
        }
        // The same key means the same request only for the same caller and address.
        let caller = parts.headers.get("authorization").map(|value| value.as_bytes()).unwrap_or_default();
        let hash = Sha256::new()
            .chain_update(caller)
            .chain_update(parts.method.as_str())
            .chain_update(parts.uri.path())
            .chain_update(key.as_bytes())
            .finalize();
        let mut id = [0u8; 16];
        id.copy_from_slice(&hash[..16]);
        Ok(Writing(Author { request: RequestId(id), by }))
    }
}

/// A JSON body; unknown fields and wrong types are refused with their place.
pub struct Body<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Body<T>, ApiError> {
        match axum::Json::<T>::from_request(request, state).await {
            Ok(axum::Json(value)) => Ok(Body(value)),
            Err(JsonRejection::BytesRejection(error)) => Err(too_large(error.body_text()).into()),
            Err(error) => Err(Problem::new(Code::InvalidRequest, "The body cannot be used")
                .why(error.body_text())
                .fix("The fields are described at /api/v1/openapi.json")
                .into()),
        }
    }
}

/// Typed parts of the path.
pub struct At<T>(pub T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for At<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<At<T>, ApiError> {
        let path = Path::<T>::from_request_parts(parts, state).await;
        path.map(|Path(value)| At(value)).map_err(|error| {
            Problem::new(Code::InvalidRequest, "The address cannot be used").why(error.body_text()).into()
        })
    }
}

/// Typed parts of the query.
pub struct Asked<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Asked<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Asked<T>, ApiError> {
        let query = Query::<T>::from_request_parts(parts, state).await;
        query.map(|Query(value)| Asked(value)).map_err(|error| {
            Problem::new(Code::InvalidRequest, "The query cannot be used").why(error.body_text()).into()
        })
    }
}

/// A body as it is.
pub struct RawBody(pub axum::body::Bytes);

impl<S: Send + Sync> FromRequest<S> for RawBody {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<RawBody, ApiError> {
        axum::body::Bytes::from_request(request, state)
            .await
            .map(RawBody)
            .map_err(|error| too_large(error.body_text()).into())
    }
}

fn too_large(why: String) -> Problem {
    Problem::new(Code::TooLarge, "The body cannot be read").why(why).fix("A body has at most 1 MiB")
}
