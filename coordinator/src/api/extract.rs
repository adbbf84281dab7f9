//! What handlers take from requests: states, typed paths and bodies, request ids.

use std::{convert::Infallible, sync::Arc};

use axum::{
    body::Bytes,
    extract::{FromRequest, FromRequestParts, Path, Query, Request, rejection::JsonRejection},
    http::{HeaderValue, Uri, header, request::Parts},
    middleware::Next,
    response::{IntoResponse, Response},
};
use common::{
    error::{Code, Problem},
    time::Timestamp,
};
use coordinator_core::{Author, Command, Outcome, RequestId};
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
        if asks_for_stale(&parts.uri) {
            return Ok(Reading(coordinator.consensus.current()));
        }
        let published = coordinator.consensus.read().await?;
        // Its token was accepted by what this member knew, which may have been less.
        if let Some(actor) = parts.extensions.get::<Actor>() {
            actor.check(&published.cluster)?;
        }
        Ok(Reading(published))
    }
}

/// Whether a query says that the state may be old.
pub fn asks_for_stale(uri: &Uri) -> bool {
    uri.query().unwrap_or_default().split('&').any(|pair| pair == "stale" || pair.starts_with("stale="))
}

/// A request that writes.
pub struct Writing {
    /// The coordinator that was asked.
    pub coordinator: Coordinator,
    /// Whose write it is, and which: its id comes from the `Idempotency-Key`, or is drawn.
    pub author: Author,
}

impl Writing {
    /// Has the one command of the request applied.
    pub async fn apply(self, command: Command) -> Result<Outcome, Problem> {
        self.coordinator.consensus.write(self.author, command).await
    }
}

/// The time when a request came, by the group's clocks.
pub struct Now(pub Timestamp);

impl FromRequestParts<Coordinator> for Now {
    type Rejection = Infallible;

    async fn from_request_parts(_: &mut Parts, coordinator: &Coordinator) -> Result<Now, Infallible> {
        Ok(Now(coordinator.consensus.now()))
    }
}

impl FromRequestParts<Coordinator> for Writing {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, coordinator: &Coordinator) -> Result<Writing, ApiError> {
        let coordinator = coordinator.clone();
        let by = parts.extensions.get::<Actor>().and_then(|actor| Some(actor.0.as_ref()?.person.clone()));
        let Some(key) = parts.headers.get(IDEMPOTENCY_KEY) else {
            return Ok(Writing { coordinator, author: Author { request: RequestId(random_bytes()).into(), by } });
        };
        if key.is_empty() || key.len() > 255 {
            return Err(Problem::new(Code::InvalidRequest, "The header Idempotency-Key cannot be used")
                .why("it has 1 to 255 characters")
                .into());
        }
        let Some(body) = parts.extensions.get::<BodyHash>() else {
            return Err(Problem::new(Code::Internal, "The request's body was not looked at").into());
        };
        let request = request_of(parts, key, body);
        Ok(Writing { coordinator, author: Author { request, by } })
    }
}

/// The header that says which of two requests is a repetition.
const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// What the body of a request with a key hashes to.
#[derive(Debug, Clone)]
pub struct BodyHash(Vec<u8>);

/// Looks at the bodies of requests that may be repeated before their handlers do.
pub async fn note_body(request: Request, next: Next) -> Response {
    if !request.headers().contains_key(IDEMPOTENCY_KEY) {
        return next.run(request).await;
    }
    let (parts, body) = request.into_parts();
    match Bytes::from_request(Request::from_parts(parts.clone(), body), &()).await {
        Ok(body) => {
            let mut request = Request::from_parts(parts, body.clone().into());
            request.extensions_mut().insert(BodyHash(Sha256::digest(&body).to_vec()));
            next.run(request).await
        }
        Err(error) => ApiError(too_large(error.body_text())).into_response(),
    }
}

/// Which request it is: the same key means the same one for the same caller, method and path alone, and there only
/// with the same query and body.
fn request_of(parts: &Parts, key: &HeaderValue, body: &BodyHash) -> coordinator_core::Request {
    let caller = parts.headers.get(header::AUTHORIZATION).map(HeaderValue::as_bytes).unwrap_or_default();
    let id = hash(&[caller, parts.method.as_str().as_bytes(), parts.uri.path().as_bytes(), key.as_bytes()]);
    let content = hash(&[parts.uri.query().unwrap_or_default().as_bytes(), &body.0]);
    coordinator_core::Request { id: RequestId(id), content }
}

/// A hash of several parts, each with its length: no two lists of parts are taken for the same.
fn hash(parts: &[&[u8]]) -> [u8; 16] {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update((part.len() as u64).to_be_bytes());
        hasher.update(part);
    }
    let mut half = [0; 16];
    half.copy_from_slice(&hasher.finalize()[..16]);
    half
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
pub struct RawBody(pub Bytes);

impl<S: Send + Sync> FromRequest<S> for RawBody {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<RawBody, ApiError> {
        Bytes::from_request(request, state).await.map(RawBody).map_err(|error| too_large(error.body_text()).into())
    }
}

fn too_large(why: String) -> Problem {
    Problem::new(Code::TooLarge, "The body cannot be read").why(why).fix("A body has at most 1 MiB")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_means_one_request_of_one_caller() {
        let request = |caller: &str, method: &str, uri: &str, key: &str, body: &str| {
            let asked = Request::builder().method(method).uri(uri).header(header::AUTHORIZATION, caller);
            let (parts, ()) = asked.body(()).expect("a request").into_parts();
            let key = HeaderValue::from_str(key).expect("a key");
            request_of(&parts, &key, &BodyHash(body.as_bytes().to_vec()))
        };
        let first = request("ann", "PUT", "/keys/k1", "23", "v");
        assert_eq!(request("ann", "PUT", "/keys/k1", "23", "v"), first, "a repetition");
        let others = [
            ("ann", "PUT", "/keys/k12", "3"),
            ("annP", "UT", "/keys/k1", "23"),
            ("bob", "PUT", "/keys/k1", "23"),
            ("ann", "DELETE", "/keys/k1", "23"),
            ("ann", "PUT", "/keys/k2", "23"),
            ("ann", "PUT", "/keys/k1", "24"),
        ];
        for (caller, method, uri, key) in others {
            assert_ne!(request(caller, method, uri, key, "v").id, first.id, "{caller} {method} {uri} {key}");
        }
        for (uri, body) in [("/keys/k1", "w"), ("/keys/k1?v", ""), ("/keys/k1?x", "v"), ("/keys/k1", "")] {
            let other = request("ann", "PUT", uri, "23", body);
            assert_eq!(other.id, first.id, "the same key of the same caller");
            assert_ne!(other.content, first.content, "{uri} {body}");
        }
    }
}
