//! Backups that a coordinator makes by itself.
//!
//! Every coordinator makes its own: a backup that lies on one host alone is lost with that host. What came of each is
//! written to the state, so that people see one that failed wherever they look: `wharf doctor`, `wharf backup status`.

use std::{path::PathBuf, sync::Arc, time::Duration};

use common::{
    backup::Schedule,
    error::{Code, Problem},
};
use coordinator_core::{Command, RequestId, command::BackupOutcome};
use link::identity::random_bytes;
use tracing::{error, info, warn};

use super::{Draft, folder};
use crate::{raft::Consensus, seal::Seals};

/// How long to wait after a failure.
const RETRY: Duration = Duration::from_secs(300);
/// How long the sealing key may take to come.
const KEY_WITHIN: Duration = Duration::from_secs(60);
/// How often the clock is looked at: it may be set at any time.
const LOOK: Duration = Duration::from_secs(60);

/// Makes backups when they are due, for as long as it is awaited.
pub async fn run(consensus: Consensus, seals: Arc<Seals>, folder: PathBuf) {
    let mut published = consensus.watch();
    loop {
        let (due, schedule) = {
            let cluster = &published.borrow_and_update().cluster;
            (cluster.backup_due(consensus.me()), cluster.backup_schedule())
        };
        let Some((due, schedule)) = due.zip(schedule) else {
            if published.changed().await.is_err() {
                return;
            }
            continue;
        };
        let wait = due.since(consensus.now()).duration().min(LOOK);
        if wait > Duration::ZERO {
            tokio::time::sleep(wait).await;
            continue;
        }
        let outcome = match make(&consensus, &seals, folder.clone(), schedule).await {
            Ok(made) => made,
            Err(problem) => {
                error!(%problem, "a scheduled backup was not made");
                BackupOutcome::Failed { why: problem.to_string().replace('\n', ";") }
            }
        };
        let failed = matches!(outcome, BackupOutcome::Failed { .. });
        let command = Command::BackupEnded { member: consensus.me(), outcome };
        let noted = consensus.write(RequestId(random_bytes()), command).await;
        if let Err(problem) = &noted {
            warn!(%problem, "what came of a scheduled backup could not be stored");
        }
        if failed || noted.is_err() {
            tokio::time::sleep(RETRY.min(schedule.every.duration())).await;
        } else {
            // Its own write has to come back, or it would be due again.
            let me = consensus.me();
            drop(published.wait_for(|now| now.cluster.backup_due(me) != Some(due)).await);
        }
    }
}

async fn make(
    consensus: &Consensus,
    seals: &Arc<Seals>,
    folder: PathBuf,
    schedule: Schedule,
) -> Result<BackupOutcome, Problem> {
    // A coordinator that has just joined gets the sealing key within moments; without it, the draft says what is missing.
    drop(tokio::time::timeout(KEY_WITHIN, seals.watch().wait_for(|keys| !keys.is_empty())).await);
    let draft = Draft::of_now(consensus, seals.clone()).await?;
    let failed = |why: String| Problem::new(Code::StoreFailed, "The backup was not written").why(why);
    let written = tokio::task::spawn_blocking(move || {
        link::private::ensure_folder(&folder)?;
        let path = folder.join(folder::name_of(draft.head()));
        let bytes = match path.metadata() {
            // Nothing has changed since.
            Ok(there) => there.len(),
            Err(_) => folder::save(&draft, &path)?,
        };
        folder::keep_newest(&folder, draft.head(), schedule.keep as usize)?;
        info!(path = %path.display(), bytes, "a backup was made");
        Ok(BackupOutcome::Made { index: draft.head().index, bytes, path: path.display().to_string() })
    });
    let written: Result<BackupOutcome, super::BackupError> = written.await.map_err(|e| failed(e.to_string()))?;
    written.map_err(|error| failed(error.to_string()))
}
