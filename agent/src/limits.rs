//! Limits that the host has nearly reached: full disks, on which the agent's ledger, Docker and a coordinator stop, and a
//! full table of connections in the kernel, with which no connection begins.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use common::{finding::Finding, quantity::Bytes};
use rustix::fs::statvfs;

use crate::{
    findings::{Findings, Source},
    runtime::ContainerRuntime,
};

/// The time between two looks.
const EVERY: Duration = Duration::from_secs(30);
/// One part of so many must be free.
const FREE_OF: u64 = 20;
/// Where the kernel says how many connections it knows, and how many it may.
const CONNECTIONS: &str = "/proc/sys/net/netfilter";
/// The share of the connections that it may know from which on they are many.
const MANY: (u64, u64) = (4, 5);

/// Looks for as long as it is awaited.
pub(crate) async fn watch(runtime: Arc<dyn ContainerRuntime>, state: PathBuf, findings: Findings) {
    loop {
        let folders = [Some(state.clone()), runtime.root()].into_iter().flatten();
        let disks: Vec<Finding> = folders.filter_map(|folder| nearly_full(&folder)).collect();
        findings.put(Source::Limits, disks.into_iter().chain(many_connections(Path::new(CONNECTIONS))));
        tokio::time::sleep(EVERY).await;
    }
}

/// The finding about the file system of a folder; none if there is no such folder.
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

/// The finding about the kernel's table of connections; none if the kernel has no table.
fn many_connections(folder: &Path) -> Option<Finding> {
    let number = |name| fs::read_to_string(folder.join(name)).ok()?.trim().parse::<u64>().ok();
    let (known, most) = (number("nf_conntrack_count")?, number("nf_conntrack_max")?);
    let (of, all) = MANY;
    // The kernel has no limit where it says zero.
    let are_many = most > 0 && known.saturating_mul(all) >= most.saturating_mul(of);
    are_many.then_some(Finding::Connections { most })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fifth_of_the_connections_must_be_free() {
        let folder = tempfile::tempdir().expect("there is room");
        assert_eq!(many_connections(folder.path()), None, "a kernel that knows none");
        for (known, most, finding) in
            [(799, 1000, None), (800, 1000, Some(Finding::Connections { most: 1000 })), (9, 0, None)]
        {
            fs::write(folder.path().join("nf_conntrack_count"), format!("{known}\n")).expect("it is written");
            fs::write(folder.path().join("nf_conntrack_max"), format!("{most}\n")).expect("it is written");
            assert_eq!(many_connections(folder.path()), finding, "{known} of {most}");
        }
    }

    #[test]
    fn a_twentieth_must_be_free() {
        assert!(!is_nearly_full(0, 0) && !is_nearly_full(5, 100) && is_nearly_full(4, 100));
        assert_eq!(nearly_full(Path::new("/nowhere/at/all")), None);
    }
}
