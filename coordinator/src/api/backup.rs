//! Backups of the cluster.

use std::io::{self, Write};

use axum::{
    Json,
    body::Body as Bytes,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use common::{
    api::{BackupView, MemberBackups, PutBackupKey},
    backup::Schedule,
    id::MemberId,
};
use coordinator_core::Command;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::{
    ApiError,
    extract::{Body, Reading, Writing},
};
use crate::{Coordinator, backup::Draft};

/// The pieces of a backup that wait for a slow client.
const WAITING: usize = 16;
/// The size of a piece.
const PIECE: usize = 64 << 10;

/// A backup of the cluster, encrypted to its backup key.
#[utoipa::path(get, path = "/api/v1/backup", responses((status = 200, body = Vec<u8>, content_type = "application/octet-stream")))]
pub async fn get(State(coordinator): State<Coordinator>) -> Result<Response, ApiError> {
    let draft = Draft::of_now(&coordinator.consensus, coordinator.seals.clone()).await?;
    let (pieces, waiting) = mpsc::channel(WAITING);
    let failed = pieces.clone();
    let writing = move || {
        let mut writer = io::BufWriter::with_capacity(PIECE, Pieces(pieces));
        let written = draft.write(&mut writer).map_err(io::Error::other).and_then(|_| writer.flush());
        if let Err(error) = written {
            // The client sees that the answer ends too early. It may be gone itself.
            tracing::warn!(%error, "a backup was not sent");
            drop(failed.blocking_send(Err(error)));
        }
    };
    drop(tokio::task::spawn_blocking(writing));
    let body = Bytes::from_stream(ReceiverStream::new(waiting));
    Ok(([(header::CONTENT_TYPE, "application/octet-stream")], body).into_response())
}

/// Sends what is written to it on, piece by piece.
struct Pieces(mpsc::Sender<io::Result<Vec<u8>>>);

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let sent = self.0.blocking_send(Ok(bytes.to_vec()));
        sent.map_err(|_| io::Error::new(io::ErrorKind::BrokenPipe, "the client is gone"))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// How the cluster is backed up, and what came of the last scheduled backups.
#[utoipa::path(get, path = "/api/v1/backup/status", responses((status = 200, body = BackupView)))]
pub async fn status(Reading(published): Reading) -> Json<BackupView> {
    let cluster = &published.cluster;
    let members = cluster.members().iter().map(|(id, member)| {
        let report = cluster.backup_reports().get(id).cloned().unwrap_or_default();
        MemberBackups {
            member: MemberId(id.0),
            host: cluster.hosts().get(&member.host).map(|host| host.name.clone()),
            succeeded: report.succeeded,
            failed: report.failed,
        }
    });
    let members = members.collect();
    Json(BackupView { recipient: cluster.backup_recipient(), schedule: cluster.backup_schedule(), members })
}

/// Has backups encrypted to a key from now on.
#[utoipa::path(put, path = "/api/v1/backup/key", request_body = PutBackupKey, responses((status = 204)))]
pub async fn put_key(
    Reading(published): Reading,
    writing: Writing,
    Body(put): Body<PutBackupKey>,
) -> Result<StatusCode, ApiError> {
    let expected = published.cluster.backup_recipient().filter(|_| put.replace);
    writing.apply(Command::PutBackupKey { recipient: put.recipient, expected }).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Says when every coordinator makes backups by itself.
#[utoipa::path(put, path = "/api/v1/backup/schedule", request_body = Schedule, responses((status = 204)))]
pub async fn put_schedule(writing: Writing, Body(schedule): Body<Schedule>) -> Result<StatusCode, ApiError> {
    writing.apply(Command::PutBackupSchedule(Some(schedule))).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Ends the backups that coordinators make by themselves.
#[utoipa::path(delete, path = "/api/v1/backup/schedule", responses((status = 204)))]
pub async fn end_schedule(writing: Writing) -> Result<StatusCode, ApiError> {
    writing.apply(Command::PutBackupSchedule(None)).await?;
    Ok(StatusCode::NO_CONTENT)
}
