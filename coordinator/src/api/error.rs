//! The one place that knows HTTP status codes.

use std::any::Any;

use axum::{
    body::Body,
    http::{HeaderValue, Response, StatusCode, header},
    response::IntoResponse,
};
use common::{
    api::ProblemDocument,
    error::{Code, Problem},
};

/// A problem as an answer.
#[derive(Debug)]
pub struct ApiError(pub Problem);

impl From<Problem> for ApiError {
    fn from(problem: Problem) -> ApiError {
        ApiError(problem)
    }
}

fn status(code: Code) -> StatusCode {
    match code {
        Code::TokenMalformed | Code::RequestRefused | Code::ClockSkew | Code::InvalidRequest | Code::ComposeInvalid => {
            StatusCode::BAD_REQUEST
        }
        Code::Unauthenticated => StatusCode::UNAUTHORIZED,
        Code::TokenUnknown
        | Code::TokenExpired
        | Code::TokenRevoked
        | Code::TokenUsedUp
        | Code::AddressNotAllowed
        | Code::HostRemoved
        | Code::HostUnknown
        | Code::Cloned
        | Code::ClaimRefused
        | Code::Denied => StatusCode::FORBIDDEN,
        Code::NotFound => StatusCode::NOT_FOUND,
        Code::Conflict
        | Code::MemberRefused
        | Code::TooOld
        | Code::StateDiffers
        | Code::OtherCluster
        | Code::NotPlaceable
        | Code::UpgradeFailed
        | Code::RolloutFailed => StatusCode::CONFLICT,
        Code::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        Code::WrongDoor => StatusCode::MISDIRECTED_REQUEST,
        Code::Busy => StatusCode::TOO_MANY_REQUESTS,
        Code::NoLeader | Code::Unreachable | Code::SealingKeyMissing => StatusCode::SERVICE_UNAVAILABLE,
        Code::ResultUnknown => StatusCode::GATEWAY_TIMEOUT,
        Code::WrongAuthority
        | Code::DockerMissing
        | Code::NotRoot
        | Code::PortTaken
        | Code::ProtocolTooOld
        | Code::InstallFailed
        | Code::StateExposed
        | Code::StoreCorrupt
        | Code::StoreFailed
        | Code::BackupUnusable
        | Code::Internal => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// The document of a problem, by RFC 9457.
pub fn document(problem: Problem) -> ProblemDocument {
    ProblemDocument {
        kind: format!("urn:wharf:{}", problem.code),
        title: problem.what.clone(),
        status: status(problem.code).as_u16(),
        detail: problem.why.join("\n"),
        problem,
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response<Body> {
        let status = status(self.0.code);
        let mut response = (status, axum::Json(document(self.0))).into_response();
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if status == StatusCode::SERVICE_UNAVAILABLE {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}

/// A handler panicked: the caller learns that much, the log has the rest.
pub fn panicked(_panic: Box<dyn Any + Send>) -> Response<Body> {
    ApiError(
        Problem::new(Code::Internal, "The request failed because of a bug in wharf").fix("See the coordinator's log"),
    )
    .into_response()
}
