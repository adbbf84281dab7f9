//! A look at the host's disks: who fills one up stops the agent's ledger, Docker, and a coordinator.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use common::{finding::Finding, quantity::Bytes};
use rustix::fs::statvfs;

use crate::findings::{Findings, Source};

/// How often is looked.
const EVERY: Duration = Duration::from_secs(30);
/// Where Docker keeps images and containers, unless it was told otherwise.
const DOCKER: &str = "/var/lib/docker";
/// One part of so many must be free.
const FREE_OF: u64 = 20;

/// Looks for as long as it is awaited.
pub(crate) async fn watch(state: PathBuf, findings: Findings) {
    loop {
        findings.put(Source::Disks, [state.as_path(), Path::new(DOCKER)].into_iter().filter_map(nearly_full));
        tokio::time::sleep(EVERY).await;
    }
}

/// What is wrong with the file system of a folder; nothing if there is no such folder.
fn nearly_full(folder: &Path) -> Option<Finding> {
    let system = statvfs(folder).ok()?;
    let is_full = is_nearly_full(system.f_bavail, system.f_blocks);
    let size = Bytes(system.f_blocks.saturating_mul(system.f_frsize));
    is_full.then(|| Finding::Disk { path: folder.display().to_string(), size })
}

/// Some file systems, such as those of processes, have no blocks at all.
fn is_nearly_full(free: u64, all: u64) -> bool {
    all > 0 && free < all / FREE_OF
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_twentieth_must_be_free() {
        assert!(!is_nearly_full(0, 0) && !is_nearly_full(5, 100) && is_nearly_full(4, 100));
        assert_eq!(nearly_full(Path::new("/nowhere/at/all")), None);
    }
}
