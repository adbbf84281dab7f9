//! The audit in files. The state holds the newest entries alone, so every coordinator appends them to files of its own,
//! a line of JSON each.

mod files;

use std::{io, path::PathBuf, time::Duration};

use common::audit::AuditLine;
use coordinator_core::view;
use tracing::error;

use crate::raft::Consensus;
use files::Files;

/// How often the files are written at most: each time costs the disk a sync that changes of the state wait for as well.
const EVERY: Duration = Duration::from_millis(200);
/// How long to wait after a failure. Entries that the state no longer holds by then are missing from the files.
const RETRY: Duration = Duration::from_secs(10);

/// Writes entries to files in the folder, for as long as it is awaited.
pub async fn run(consensus: Consensus, folder: PathBuf) {
    let mut published = consensus.watch();
    let mut open: Option<Files> = None;
    loop {
        let cluster = published.borrow_and_update().cluster.clone();
        let after = open.as_ref().map_or(0, Files::newest);
        let entries = view::audit(&cluster, after, usize::MAX).entries;
        let is_behind = cluster.audit_newest().0 < after;
        if entries.is_empty() && !is_behind {
            if published.changed().await.is_err() {
                return;
            }
            continue;
        }
        // A state that is behind the files was set back: they go on in a new file.
        let files = open.take().filter(|_| !is_behind);
        let written = write(files, folder.clone(), entries).await;
        let pause = if written.is_ok() { EVERY } else { RETRY };
        match written {
            Ok(files) => open = Some(files),
            Err(error) => error!(%error, folder = %folder.display(), "entries of the audit were not written to a file"),
        }
        tokio::time::sleep(pause).await;
    }
}

async fn write(files: Option<Files>, folder: PathBuf, entries: Vec<AuditLine>) -> io::Result<Files> {
    let writing = tokio::task::spawn_blocking(move || {
        let mut files = match files {
            Some(files) => files,
            None => Files::open(&folder, &entries)?,
        };
        files.append(&entries)?;
        Ok(files)
    });
    writing.await.map_err(io::Error::other)?
}
