//! The upgrade, and which binary each host runs.

use common::api::{HostBinary, UpgradeRun, UpgradeView};

use crate::{
    State,
    state::{Phase, Step, Upgrade},
};

/// The upgrade and the binaries of all hosts, sorted by name.
pub fn upgrade(cluster: &State) -> UpgradeView {
    let run = cluster.upgrade();
    let mut hosts: Vec<HostBinary> = cluster
        .hosts()
        .iter()
        .map(|(id, host)| {
            let build = cluster.builds().get(id);
            let reported = || host.facts.as_ref().map(|facts| facts.agent.clone());
            HostBinary {
                host: *id,
                name: host.name.clone(),
                member: cluster.member_on(*id),
                hash: build.map(|build| build.hash),
                version: build.map(|build| build.version.clone()).or_else(reported).unwrap_or_default(),
                step: run.map_or("", |run| step(run.hosts.get(id))).to_owned(),
                liveness: host.liveness.word().to_owned(),
            }
        })
        .collect();
    hosts.sort_by(|a, b| a.name.cmp(&b.name));
    UpgradeView { index: cluster.index(), upgrade: run.map(shown), hosts }
}

fn shown(run: &Upgrade) -> UpgradeRun {
    let (phase, why) = match &run.phase {
        Phase::Running => ("running", ""),
        Phase::Paused { why, failed: false } => ("paused", why.as_str()),
        Phase::Paused { why, failed: true } => ("failed", why.as_str()),
        Phase::Done => ("done", ""),
        Phase::Aborted => ("aborted", ""),
    };
    UpgradeRun {
        hash: run.target.hash,
        version: run.target.version.clone(),
        size: run.target.size,
        began: run.began,
        phase: phase.to_owned(),
        why: why.to_owned(),
    }
}

fn step(step: Option<&Step>) -> &'static str {
    match step {
        None => "waiting",
        Some(Step::Fetching { .. }) => "fetching",
        Some(Step::Trying { .. }) => "trying",
        Some(Step::Done) => "done",
        Some(Step::Failed { .. }) => "failed",
    }
}
