//! What this host cannot do now: its Docker does not answer, or a disk that it writes to is full. The planner is told.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use agent_core::condition::Steady;
use common::{
    host::HostCondition,
    quantity::Bytes,
    time::{Span, Timestamp},
};
use link::clock::now;
use rustix::fs::statvfs;
use tokio::sync::watch;
use tracing::{info, warn};

use crate::runtime::ContainerRuntime;

/// How often is looked.
const EVERY: Duration = Duration::from_secs(2);
/// How long Docker may take to say that it is there.
const PING_TIMEOUT: Duration = Duration::from_secs(3);
/// How long it may not answer before that is told: a new start takes a few seconds.
const DOCKER_PATIENCE: Span = Span::seconds(5);
/// A disk is full if less than one part of so many is free, and less than [`ROOM`].
const FULL_OF: u64 = 50;
/// So much is enough on a disk of any size.
const ROOM: u64 = 2 << 30;

/// Looks for as long as it is awaited.
pub(crate) async fn watch(
    runtime: Arc<dyn ContainerRuntime>,
    state: PathBuf,
    conditions: watch::Sender<Vec<HostCondition>>,
) {
    let mut docker = Steady::new(DOCKER_PATIENCE);
    let mut disks: Vec<(PathBuf, Steady)> = Vec::new();
    loop {
        let answers = tokio::time::timeout(PING_TIMEOUT, runtime.ping()).await.is_ok_and(|pong| pong.is_ok());
        let at = now();
        let silent = docker.note(!answers, at).map(|since| HostCondition::DockerSilent { since });
        for folder in [Some(state.clone()), runtime.root()].into_iter().flatten() {
            if !disks.iter().any(|(known, _)| *known == folder) {
                disks.push((folder, Steady::new(Span(0))));
            }
        }
        let full = disks.iter_mut().filter_map(|(folder, steady)| full(folder, steady, at));
        tell(&conditions, silent.into_iter().chain(full).collect());
        tokio::time::sleep(EVERY).await;
    }
}

fn tell(conditions: &watch::Sender<Vec<HostCondition>>, found: Vec<HostCondition>) {
    conditions.send_if_modified(|told| {
        found
            .iter()
            .filter(|new| !told.contains(new))
            .for_each(|new| warn!(condition = %new, "this host takes nothing new"));
        told.iter().filter(|old| !found.contains(old)).for_each(|old| info!(condition = %old, "no more"));
        let differs = *told != found;
        *told = found;
        differs
    });
}

/// Whether the file system of a folder is full; not, if there is no such folder.
fn full(folder: &Path, steady: &mut Steady, at: Timestamp) -> Option<HostCondition> {
    let system = statvfs(folder).ok()?;
    let of = |blocks: u64| blocks.saturating_mul(system.f_frsize);
    let (free, size) = (of(system.f_bavail), of(system.f_blocks));
    steady.note(is_full(free, size, steady.is_told()), at)?;
    Some(HostCondition::DiskFull { path: folder.display().to_string(), size: Bytes(size) })
}

/// One that was full is full until twice as much is free.
fn is_full(free: u64, size: u64, was_full: bool) -> bool {
    let least = (size / FULL_OF).min(ROOM);
    size > 0 && free < if was_full { least * 2 } else { least }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_full_by_share_and_by_size_and_stays_so_until_there_is_room() {
        const GIB: u64 = 1 << 30;
        for (free, size, was_full, expected) in [
            (0, 0, false, false),
            (GIB, 100 * GIB, false, true),
            (3 * GIB, 100 * GIB, false, false),
            (3 * GIB, 100 * GIB, true, true),
            (5 * GIB, 100 * GIB, true, false),
            (3 * GIB, 10_000 * GIB, false, false),
        ] {
            assert_eq!(is_full(free, size, was_full), expected, "{free} of {size}");
        }
    }
}
