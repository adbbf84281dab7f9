//! The conditions of this host: its Docker does not answer, or a disk that it writes to is full. The planner gets them.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use agent_core::condition::{Steady, is_full};
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

/// The time between two looks.
const EVERY: Duration = Duration::from_secs(2);
/// How long Docker may take to say that it is there.
const PING_TIMEOUT: Duration = Duration::from_secs(3);
/// How long it may not answer before that counts: a restart of Docker takes a few seconds.
const DOCKER_PATIENCE: Span = Span::seconds(5);

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
        publish(&conditions, silent.into_iter().chain(full).collect());
        tokio::time::sleep(EVERY).await;
    }
}

fn publish(conditions: &watch::Sender<Vec<HostCondition>>, found: Vec<HostCondition>) {
    conditions.send_if_modified(|known| {
        found
            .iter()
            .filter(|new| !known.contains(new))
            .for_each(|new| warn!(condition = %new, "this host takes no new instances"));
        known
            .iter()
            .filter(|old| !found.contains(old))
            .for_each(|old| info!(condition = %old, "this host has recovered from a condition"));
        let differs = *known != found;
        *known = found;
        differs
    });
}

/// The condition of the file system of a folder, if it is full; none if there is no such folder.
fn full(folder: &Path, steady: &mut Steady, at: Timestamp) -> Option<HostCondition> {
    let system = statvfs(folder).ok()?;
    let of = |blocks: u64| blocks.saturating_mul(system.f_frsize);
    let (free, size) = (of(system.f_bavail), of(system.f_blocks));
    steady.note(is_full(free, size, steady.counts()), at)?;
    Some(HostCondition::DiskFull { path: folder.display().to_string(), size: Bytes(size) })
}
