//! Stacks and their services.

use std::sync::Arc;

use axum::{Json, http::StatusCode};
use common::{
    api::{DeploymentStatus, List, PutRollout, PutStack, RevisionView, ScaleService, StackPlan, StackView},
    error::{Code, Problem},
    id::StackId,
    name::Name,
    rollout::RolloutState,
};
use coordinator_core::{Command, view};

use super::{
    ApiError,
    extract::{At, Body, Now, Reading, Writing},
    files,
};

/// Longest note in a stack's history, in bytes.
const MAX_WHAT: usize = 500;

/// All stacks of an environment.
#[utoipa::path(get, path = "/api/v1/environments/{environment}/stacks", params(("environment" = String, Path)), responses((status = 200, body = List<StackView>)))]
pub async fn list(
    Reading(published): Reading,
    Now(now): Now,
    At(environment): At<Name>,
) -> Result<Json<List<StackView>>, ApiError> {
    published.cluster.known_environment(&environment)?;
    let stacks = view::stacks(&published.cluster, now);
    let items = stacks.into_iter().filter(|stack| stack.id.environment == environment).collect();
    Ok(Json(List { index: published.cluster.index(), items }))
}

/// A stack.
#[utoipa::path(get, path = "/api/v1/environments/{environment}/stacks/{stack}", params(("environment" = String, Path), ("stack" = String, Path)), responses((status = 200, body = StackView)))]
pub async fn get(
    Reading(published): Reading,
    Now(now): Now,
    At((environment, stack)): At<(Name, Name)>,
) -> Result<Json<StackView>, ApiError> {
    let id = StackId { environment, stack };
    let view = view::stack(&published.cluster, &id, now);
    Ok(Json(view.ok_or_else(|| missing(&id))?))
}

/// How the deployment of a revision stands.
#[utoipa::path(get, path = "/api/v1/environments/{environment}/stacks/{stack}/deployments/{revision}", params(("environment" = String, Path), ("stack" = String, Path), ("revision" = u64, Path)), responses((status = 200, body = DeploymentStatus)))]
pub async fn deployment(
    Reading(published): Reading,
    Now(now): Now,
    At((environment, stack, revision)): At<(Name, Name, u64)>,
) -> Result<Json<DeploymentStatus>, ApiError> {
    let id = StackId { environment, stack };
    let status = view::deployment(&published.cluster, &id, revision, now);
    Ok(Json(status.ok_or_else(|| missing(&id))?))
}

/// Makes a stack what the spec says, or only plans it.
#[utoipa::path(put, path = "/api/v1/environments/{environment}/stacks/{stack}", params(("environment" = String, Path), ("stack" = String, Path)), request_body = PutStack, responses((status = 200, body = StackPlan)))]
pub async fn put(
    Reading(published): Reading,
    writing: Writing,
    At((environment, stack)): At<(Name, Name)>,
    Body(put): Body<PutStack>,
) -> Result<Json<StackPlan>, ApiError> {
    let Writing { coordinator, author } = writing;
    let id = StackId { environment, stack };
    let what = put.what.unwrap_or_else(|| "deployed".to_owned());
    if what.len() > MAX_WHAT {
        return Err(Problem::new(Code::InvalidRequest, format!("Stack {id} cannot be deployed"))
            .why(format!("what: it has {} bytes, and at most {MAX_WHAT} are allowed", what.len()))
            .into());
    }
    let (spec, expect_revision) = (Arc::new(put.spec), put.expect_revision);
    let files = files::new_files(&coordinator.seals, &published.cluster, &id, put.files)?;
    let command = Command::PutStack { id: id.clone(), spec, files, expect_revision, what, goes_back: put.goes_back };
    let plan = view::stack_plan(&published.cluster, &id, &command, coordinator.consensus.now());
    if put.dry_run {
        published.cluster.allows(author.by.as_ref(), &command)?;
        return Ok(Json(plan?));
    }
    // The write decides; a plan that failed only on what a repeated request has done is no reason.
    let outcome = coordinator.consensus.write(author, command).await?;
    let coordinator_core::Outcome::Revision(revision) = outcome else {
        return Err(Problem::new(Code::Internal, "The deployment had an unexpected outcome").into());
    };
    let none = StackPlan {
        id,
        from_revision: revision,
        to_revision: revision,
        services: Vec::new(),
        volumes: Vec::new(),
        unplaceable: Vec::new(),
    };
    Ok(Json(StackPlan { to_revision: revision, ..plan.unwrap_or(none) }))
}

/// Ends a stack and all its instances; volumes stay.
#[utoipa::path(delete, path = "/api/v1/environments/{environment}/stacks/{stack}", params(("environment" = String, Path), ("stack" = String, Path)), responses((status = 204)))]
pub async fn remove(writing: Writing, At((environment, stack)): At<(Name, Name)>) -> Result<StatusCode, ApiError> {
    writing.apply(Command::RemoveStack(StackId { environment, stack })).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Changes the number of instances of a service.
#[utoipa::path(put, path = "/api/v1/environments/{environment}/stacks/{stack}/services/{service}/scale", params(("environment" = String, Path), ("stack" = String, Path), ("service" = String, Path)), request_body = ScaleService, responses((status = 204)))]
pub async fn scale(
    writing: Writing,
    At((environment, stack, service)): At<(Name, Name, Name)>,
    Body(scale): Body<ScaleService>,
) -> Result<StatusCode, ApiError> {
    let id = StackId { environment, stack }.service(service);
    writing.apply(Command::ScaleService { id, replicas: scale.replicas }).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Tries what has failed of a service again at once, and forgets how often it has.
#[utoipa::path(delete, path = "/api/v1/environments/{environment}/stacks/{stack}/services/{service}/backoff", params(("environment" = String, Path), ("stack" = String, Path), ("service" = String, Path)), responses((status = 204)))]
pub async fn retry(
    writing: Writing,
    At((environment, stack, service)): At<(Name, Name, Name)>,
) -> Result<StatusCode, ApiError> {
    let service = StackId { environment, stack }.service(service);
    writing.apply(Command::Retry(service)).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Pauses the change of a service to a revision, lets it go on, or lets the rest follow its canary.
#[utoipa::path(put, path = "/api/v1/environments/{environment}/stacks/{stack}/services/{service}/rollout", params(("environment" = String, Path), ("stack" = String, Path), ("service" = String, Path)), request_body = PutRollout, responses((status = 204)))]
pub async fn rollout(
    writing: Writing,
    At((environment, stack, service)): At<(Name, Name, Name)>,
    Body(put): Body<PutRollout>,
) -> Result<StatusCode, ApiError> {
    let service = StackId { environment, stack }.service(service);
    if put.state == RolloutState::Done {
        return Err(Problem::new(Code::InvalidRequest, format!("The rollout of {service} was not changed"))
            .why("only paused and rolling can be requested; it becomes done when all instances serve")
            .into());
    }
    if put.promote && put.state != RolloutState::Rolling {
        return Err(Problem::new(Code::InvalidRequest, format!("The rollout of {service} was not changed"))
            .why("a promotion needs the state rolling")
            .into());
    }
    let by = writing.author.by.as_ref().map_or_else(String::new, |by| format!(" by {}", by.name));
    let why = format!("paused{by}");
    let expect_revision = put.revision;
    let command = if put.promote {
        Command::Promote { service, expect_revision }
    } else {
        Command::MoveRollout { service, expect_revision, state: put.state, why }
    };
    writing.apply(command).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The last revisions of a stack, the newest first.
#[utoipa::path(get, path = "/api/v1/environments/{environment}/stacks/{stack}/revisions", params(("environment" = String, Path), ("stack" = String, Path)), responses((status = 200, body = List<RevisionView>)))]
pub async fn revisions(
    Reading(published): Reading,
    At((environment, stack)): At<(Name, Name)>,
) -> Result<Json<List<RevisionView>>, ApiError> {
    let id = StackId { environment, stack };
    let stack = published.cluster.stacks().get(&id).ok_or_else(|| missing(&id))?;
    Ok(Json(List { index: published.cluster.index(), items: view::revisions(stack) }))
}

fn missing(id: &StackId) -> Problem {
    Problem::new(Code::NotFound, format!("There is no stack {id}")).fix("List the stacks: wharf ls")
}
