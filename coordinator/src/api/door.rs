//! What needs no token: the join script, the binary, the root certificate, the exchange; and the
//! API's own description.

use axum::{
    Extension, Json, Router,
    body::Body,
    extract::{Request, State},
    http::header,
    response::{IntoResponse, Response},
    routing::get,
};
use common::{
    api::{JoinReply, JoinRequest},
    error::{Code, Problem},
};
use tokio_util::io::ReaderStream;

use super::{
    ApiError, ClientAddress,
    extract::{At, Body as JsonBody},
};
use crate::{Coordinator, join, raft::no_leader};

/// The pages of the join door.
pub fn pages() -> Router<Coordinator> {
    Router::new().route("/join", get(script)).route("/ca", get(root)).route("/dl/{file}", get(binary))
}

async fn script(State(coordinator): State<Coordinator>) -> Result<Response, ApiError> {
    let script = join::script(&coordinator, &coordinator.consensus.current().cluster)?;
    Ok(([(header::CONTENT_TYPE, "text/x-shellscript; charset=utf-8")], script).into_response())
}

async fn root(State(coordinator): State<Coordinator>) -> Result<Response, ApiError> {
    let published = coordinator.consensus.current();
    let identity = published.cluster.identity().ok_or_else(no_leader)?;
    Ok(([(header::CONTENT_TYPE, "application/x-pem-file")], join::as_pem(&identity.authority.certificate))
        .into_response())
}

async fn binary(State(coordinator): State<Coordinator>, At(file): At<String>) -> Result<Response, ApiError> {
    let served = format!("wharf-linux-{}", join::Binary::architecture());
    if file != served {
        return Err(Problem::new(Code::NotFound, format!("There is no {file:?} here"))
            .why(format!("this coordinator serves only {served}"))
            .into());
    }
    let failed =
        |error: std::io::Error| Problem::new(Code::Internal, "The binary cannot be read").why(error.to_string());
    let opened = coordinator.binary.open().map_err(failed)?;
    let length = opened.metadata().map_err(failed)?.len();
    let body = Body::from_stream(ReaderStream::new(tokio::fs::File::from_std(opened)));
    let headers =
        [(header::CONTENT_TYPE, "application/octet-stream".to_owned()), (header::CONTENT_LENGTH, length.to_string())];
    Ok((headers, body).into_response())
}

/// Exchanges a join token for a certificate.
#[utoipa::path(post, path = "/api/v1/join", request_body = JoinRequest, responses((status = 200, body = JoinReply)))]
pub async fn join(
    State(coordinator): State<Coordinator>,
    Extension(ClientAddress(from)): Extension<ClientAddress>,
    JsonBody(request): JsonBody<JoinRequest>,
) -> Result<Json<JoinReply>, ApiError> {
    Ok(Json(join::admit(&coordinator, request, from).await?))
}

/// This description.
#[utoipa::path(get, path = "/api/v1/openapi.json", responses((status = 200, body = serde_json::Value)))]
pub async fn openapi() -> Json<utoipa::openapi::OpenApi> {
    Json(super::document())
}

/// No route has this address and method.
pub async fn nothing_here(request: Request) -> ApiError {
    Problem::new(Code::NotFound, format!("There is no route {} {}", request.method(), request.uri().path()))
        .fix("The routes are listed at /api/v1/openapi.json")
        .into()
}
