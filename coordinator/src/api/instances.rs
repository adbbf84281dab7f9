//! Instances and their output.

use axum::{
    Extension, Json, body,
    extract::State,
    http::header,
    response::{IntoResponse, Response},
};
use common::{
    api::{InstanceView, List, MovedInstance, Rebalance},
    error::{Code, Problem},
    id::{InstanceId, ServiceId, StackId},
    name::Name,
    part::Part,
    wire::{LogFrame, LogRequest, is_moment},
};
use coordinator_core::{Command, view};
use futures::{FutureExt, StreamExt, stream};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{
    ApiError,
    access::Actor,
    extract::{Asked, At, Body, Reading, Writing},
};
use crate::Coordinator;

/// Which instances are asked for.
#[derive(Debug, Deserialize, IntoParams)]
pub struct Wanted {
    /// Only those of this stack.
    stack: Option<Name>,
    /// Only those of this service.
    service: Option<Name>,
}

/// The instances of an environment.
#[utoipa::path(get, path = "/api/v1/environments/{environment}/instances", params(("environment" = String, Path), Wanted), responses((status = 200, body = List<InstanceView>)))]
pub async fn list(
    Reading(published): Reading,
    At(environment): At<Name>,
    Asked(wanted): Asked<Wanted>,
) -> Result<Json<List<InstanceView>>, ApiError> {
    published.cluster.known_environment(&environment)?;
    let items = view::instances(&published.cluster, |id, _| {
        id.stack().environment == environment
            && wanted.stack.as_ref().is_none_or(|stack| id.stack().stack == *stack)
            && wanted.service.as_ref().is_none_or(|service| id.service().service == *service)
    });
    Ok(Json(List { index: published.cluster.index(), items }))
}

/// Moves instances, one of a service after the other, to hosts that suit them better; says which would move now.
#[utoipa::path(post, path = "/api/v1/environments/{environment}/rebalance", params(("environment" = String, Path)), request_body = Rebalance, responses((status = 200, body = List<MovedInstance>)))]
pub async fn rebalance(
    Reading(published): Reading,
    writing: Writing,
    At(environment): At<Name>,
    Body(asked): Body<Rebalance>,
) -> Result<Json<List<MovedInstance>>, ApiError> {
    let cluster = &published.cluster;
    let stacks = cluster.stacks().iter().filter(|(id, stack)| id.environment == environment && !stack.removing);
    let stacks = stacks.filter(|(id, _)| asked.stack.as_ref().is_none_or(|stack| id.stack == *stack));
    let services = stacks.flat_map(|(id, stack)| stack.services.iter().map(|(name, s)| (id.service(name.clone()), s)));
    let wanted = services.filter(|(id, _)| asked.service.as_ref().is_none_or(|service| id.service == *service));
    // Asked for by name, a service that stays is a refusal; else it is none of those that are meant.
    let wanted = wanted.filter(|(_, service)| asked.service.is_some() || service.stays().is_none());
    let services: Vec<ServiceId> = wanted.map(|(id, _)| id).collect();
    if services.is_empty() && asked.service.is_some() {
        return Err(Problem::new(Code::NotFound, "There is no such service").fix("List the services: wharf ls").into());
    }
    let items = view::rebalance_plan(cluster, &services, writing.coordinator.consensus.now());
    if !asked.dry_run && !services.is_empty() {
        writing.apply(Command::Rebalance { services }).await?;
    }
    Ok(Json(List { index: cluster.index(), items }))
}

/// Which output is asked for.
#[derive(Debug, Deserialize, IntoParams)]
pub struct LogQuery {
    /// The number of last lines; all if absent.
    tail: Option<u32>,
    /// Whether to go on as output appears.
    #[serde(default)]
    follow: bool,
    /// Go on after the piece with this `at`: only what was printed later is given.
    after: Option<String>,
    /// The sidekick, or `_step-1` for the first step before the start; the main container if absent.
    #[param(value_type = Option<String>)]
    part: Option<Part>,
}

impl LogQuery {
    /// What is asked of an instance's host.
    fn of(self, instance: &InstanceId) -> Result<LogRequest, Problem> {
        let LogQuery { tail, follow, after, part } = self;
        if let Some(after) = after.as_deref().filter(|after| !is_moment(after)) {
            return Err(Problem::new(Code::InvalidRequest, format!("{after:?} is not the time of a piece of output")));
        }
        Ok(LogRequest { part: instance.part(part.unwrap_or(Part::Main)), tail, follow, after })
    }
}

/// A piece of output, one JSON object a line.
#[derive(Debug, Serialize, ToSchema)]
pub struct LogLine {
    /// Whether it came from stderr.
    stderr: bool,
    /// The text; bytes that are no UTF-8 are replaced.
    text: String,
    /// When it was printed, to go on from with `after`; absent unless output is followed.
    #[serde(skip_serializing_if = "String::is_empty")]
    at: String,
}

/// The output of an instance, as newline-delimited JSON.
#[utoipa::path(get, path = "/api/v1/environments/{environment}/stacks/{stack}/services/{service}/instances/{instance}/logs",
    params(("environment" = String, Path), ("stack" = String, Path), ("service" = String, Path), ("instance" = String, Path, description = "slot.incarnation"), LogQuery),
    responses((status = 200, body = LogLine, content_type = "application/x-ndjson")))]
pub async fn logs(
    State(coordinator): State<Coordinator>,
    Extension(actor): Extension<Actor>,
    At((environment, stack, service, instance)): At<(Name, Name, Name, String)>,
    Asked(query): Asked<LogQuery>,
) -> Result<Response, ApiError> {
    let service = StackId { environment, stack }.service(service);
    let malformed = |_| Problem::new(Code::InvalidRequest, format!("{instance:?} is not an instance such as 1.1"));
    let id: InstanceId = format!("{service}/{instance}").parse().map_err(malformed)?;
    let mut stream = coordinator.dispatch.logs(query.of(&id)?).await?;
    // The first frame tells whether there is any output: a failure becomes a status.
    let first = match stream.incoming.receive::<LogFrame>().await {
        Ok(Some(LogFrame::Failed(problem))) => return Err(problem.into()),
        Ok(first) => first,
        Err(error) => {
            return Err(Problem::new(Code::Unreachable, "The output cannot be read now").why(error.to_string()).into());
        }
    };
    let lines = futures::stream::unfold((stream, first), |(mut stream, next)| async move {
        let Some(LogFrame::Output { stderr, bytes, at }) = next else { return None };
        let line = LogLine { stderr, text: String::from_utf8_lossy(&bytes).into_owned(), at };
        let next = stream.incoming.receive::<LogFrame>().await.unwrap_or(None);
        Some((as_json(&line), (stream, next)))
    });
    let refused = actor.refused(coordinator.consensus.watch()).shared();
    let last = refused
        .clone()
        .map(|problem| as_json(&LogLine { stderr: true, text: format!("wharf: {problem}\n"), at: String::new() }));
    // Output that ends by itself ends the answer; then nobody waits for a refusal.
    let lines = lines.map(Some).chain(stream::once(std::future::ready(None)));
    let lines = lines.take_until(refused).chain(stream::once(last.map(Some)));
    let lines = lines.take_while(|line| std::future::ready(line.is_some())).filter_map(std::future::ready);
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], body::Body::from_stream(lines)).into_response())
}

fn as_json(line: &LogLine) -> Result<Vec<u8>, std::convert::Infallible> {
    let mut json = serde_json::to_vec(line).unwrap_or_default();
    json.push(b'\n');
    Ok(json)
}
