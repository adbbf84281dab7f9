//! Configs and secrets of an environment. Nothing here gives the value of a secret away.

use std::sync::Arc;

use axum::{
    Json,
    http::{StatusCode, header},
    response::IntoResponse,
};
use common::{
    api::{FilePut, FileView, List, PutFile},
    error::{Code, Problem},
    file::{FileId, FileKind, MAX_CONTENT},
    id::StackId,
    name::Name,
};
use coordinator_core::{
    Command, Outcome,
    command::NewFile,
    sealed::KeyId,
    state::{Content, FileRecord, FileVersion},
};

use super::{
    ApiError,
    extract::{At, RawBody, Reading, Writing},
};
use crate::seal::{Purpose, Seals};

fn of_environment(environment: Name, kind: FileKind, name: Name) -> FileId {
    FileId { environment, stack: None, kind, name }
}

fn views(cluster: &coordinator_core::State, environment: &Name, kind: FileKind) -> Result<List<FileView>, Problem> {
    cluster.known_environment(environment)?;
    let view = |id: &FileId, record: &FileRecord| {
        let (version, newest) = record.newest()?;
        let used_by = cluster.services_with(id).iter().map(|id| format!("{}/{}", id.stack.stack, id.service)).collect();
        let (changed_at, by) = (newest.at, newest.by.clone());
        Some(FileView { kind, stack: id.stack.clone(), name: id.name.clone(), version, changed_at, by, used_by })
    };
    let chosen = cluster.files().iter().filter(|(id, _)| id.environment == *environment && id.kind == kind);
    Ok(List { index: cluster.index(), items: chosen.filter_map(|(id, record)| view(id, record)).collect() })
}

/// The form in which the cluster keeps a content.
fn content((seals, by): (&Seals, Option<KeyId>), id: &FileId, bytes: &[u8]) -> Result<Content, Problem> {
    if bytes.len() > MAX_CONTENT {
        return Err(Problem::new(Code::TooLarge, format!("{id} was not set"))
            .why(format!("it has {} bytes, and at most {MAX_CONTENT} are allowed", bytes.len())));
    }
    Ok(match id.kind {
        FileKind::Config => Content::Plain(Arc::from(bytes)),
        FileKind::Secret => Content::Sealed(Arc::from(seals.seal(by, Purpose::Secret(id), bytes)?)),
    })
}

/// The version of a file that is in use, if it is just that wherever it is used; what cannot be opened any more is
/// something else.
fn same(seals: &Seals, cluster: &coordinator_core::State, id: &FileId, bytes: &[u8]) -> Option<u64> {
    let used = cluster.used_versions(id);
    let is_same = |(_, version): &(u64, &FileVersion)| match &version.content {
        Content::Plain(known) => **known == *bytes,
        Content::Sealed(sealed) => seals.open(Purpose::Secret(id), sealed).is_ok_and(|known| known.expose() == bytes),
    };
    used.last().filter(|_| used.iter().all(is_same)).map(|(number, _)| *number)
}

/// The new versions that a deployment brings: what has not changed is none.
pub fn new_files(
    seals: &Seals,
    cluster: &coordinator_core::State,
    stack: &StackId,
    files: Vec<PutFile>,
) -> Result<Vec<NewFile>, Problem> {
    let mut new = Vec::new();
    for PutFile { kind, name, content: upload } in files {
        let id = FileId {
            stack: Some(stack.stack.clone()),
            ..of_environment(stack.environment.clone(), kind, name.clone())
        };
        let bytes = upload.0.expose();
        if same(seals, cluster, &id, bytes).is_none() {
            new.push(NewFile { kind, name, content: content((seals, cluster.sealing_key()), &id, bytes)? });
        }
    }
    Ok(new)
}

async fn put(writing: Writing, id: FileId, bytes: &[u8]) -> Result<Json<FilePut>, ApiError> {
    let Writing { coordinator, author } = writing;
    let published = coordinator.consensus.read().await?;
    if let Some(version) = same(&coordinator.seals, &published.cluster, &id, bytes) {
        return Ok(Json(FilePut { version, stacks: Vec::new() }));
    }
    let stacks = published.cluster.stacks_with(&id).into_iter().map(|stack| stack.stack).collect();
    let sealing = (&*coordinator.seals, published.cluster.sealing_key());
    let command = Command::PutFile { content: content(sealing, &id, bytes)?, id };
    let Outcome::Revision(version) = coordinator.consensus.write(author, command).await? else {
        return Err(Problem::new(Code::Internal, "Setting a file had an unexpected outcome").into());
    };
    Ok(Json(FilePut { version, stacks }))
}

async fn remove(writing: Writing, id: FileId) -> Result<StatusCode, ApiError> {
    writing.apply(Command::RemoveFile(id)).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The secrets of an environment, without their values.
#[utoipa::path(get, path = "/api/v1/environments/{environment}/secrets", params(("environment" = String, Path)), responses((status = 200, body = List<FileView>)))]
pub async fn list_secrets(
    Reading(published): Reading,
    At(environment): At<Name>,
) -> Result<Json<List<FileView>>, ApiError> {
    Ok(Json(views(&published.cluster, &environment, FileKind::Secret)?))
}

/// Sets a secret; the body is its value. Services that use it are rolled out.
#[utoipa::path(put, path = "/api/v1/environments/{environment}/secrets/{name}", params(("environment" = String, Path), ("name" = String, Path)), request_body(content = String, content_type = "application/octet-stream"), responses((status = 200, body = FilePut)))]
pub async fn put_secret(
    writing: Writing,
    At((environment, name)): At<(Name, Name)>,
    RawBody(value): RawBody,
) -> Result<Json<FilePut>, ApiError> {
    put(writing, of_environment(environment, FileKind::Secret, name), &value).await
}

/// Removes a secret that no service uses.
#[utoipa::path(delete, path = "/api/v1/environments/{environment}/secrets/{name}", params(("environment" = String, Path), ("name" = String, Path)), responses((status = 204)))]
pub async fn remove_secret(
    writing: Writing,
    At((environment, name)): At<(Name, Name)>,
) -> Result<StatusCode, ApiError> {
    remove(writing, of_environment(environment, FileKind::Secret, name)).await
}

/// The configs of an environment, without their contents.
#[utoipa::path(get, path = "/api/v1/environments/{environment}/configs", params(("environment" = String, Path)), responses((status = 200, body = List<FileView>)))]
pub async fn list_configs(
    Reading(published): Reading,
    At(environment): At<Name>,
) -> Result<Json<List<FileView>>, ApiError> {
    Ok(Json(views(&published.cluster, &environment, FileKind::Config)?))
}

/// What is in the newest version of a config.
#[utoipa::path(get, path = "/api/v1/environments/{environment}/configs/{name}", params(("environment" = String, Path), ("name" = String, Path)), responses((status = 200, body = String, content_type = "application/octet-stream")))]
pub async fn get_config(
    Reading(published): Reading,
    At((environment, name)): At<(Name, Name)>,
) -> Result<impl IntoResponse, ApiError> {
    let id = of_environment(environment, FileKind::Config, name);
    match published.cluster.files().get(&id).and_then(FileRecord::newest).map(|(_, newest)| &newest.content) {
        Some(Content::Plain(bytes)) => Ok(([(header::CONTENT_TYPE, "application/octet-stream")], bytes.to_vec())),
        _ => Err(Problem::new(Code::NotFound, format!("There is no {id}"))
            .fix("List the configs: wharf config ls")
            .into()),
    }
}

/// Sets a config; the body is its content. Services that use it are rolled out.
#[utoipa::path(put, path = "/api/v1/environments/{environment}/configs/{name}", params(("environment" = String, Path), ("name" = String, Path)), request_body(content = String, content_type = "application/octet-stream"), responses((status = 200, body = FilePut)))]
pub async fn put_config(
    writing: Writing,
    At((environment, name)): At<(Name, Name)>,
    RawBody(content): RawBody,
) -> Result<Json<FilePut>, ApiError> {
    put(writing, of_environment(environment, FileKind::Config, name), &content).await
}

/// Removes a config that no service uses.
#[utoipa::path(delete, path = "/api/v1/environments/{environment}/configs/{name}", params(("environment" = String, Path), ("name" = String, Path)), responses((status = 204)))]
pub async fn remove_config(
    writing: Writing,
    At((environment, name)): At<(Name, Name)>,
) -> Result<StatusCode, ApiError> {
    remove(writing, of_environment(environment, FileKind::Config, name)).await
}
