//! Which binary each host runs, and the upgrade that brings one binary to all of them.
//!
//! What becomes of an upgrade when a host fails is decided here, when the failure is applied: it pauses, and names the
//! host. Which host is next is decided by the leader ([`crate::upgrade`]).

use common::{
    error::{Code, Problem},
    id::HostId,
    time::Timestamp,
    upgrade::{BinaryHash, Build, MAX_BINARY, MAX_VERSION, Target},
};
use imbl::OrdMap;
use serde::{Deserialize, Serialize};

use super::{Applied, State, not_found, set_back::Back, shortened};

/// The longest reason of a host, in characters.
const MAX_WHY: usize = 500;

/// The section of binaries.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Binaries {
    /// What each host runs, as it said last.
    builds: OrdMap<HostId, Build>,
    /// The last upgrade.
    run: Option<Upgrade>,
}

impl Binaries {
    /// Sets all times back.
    pub(super) fn set_back(&mut self, back: Back) {
        let Some(run) = &mut self.run else { return };
        back.time(&mut run.began);
        back.each(&mut run.hosts, |step| {
            if let Step::Fetching { since } | Step::Trying { since } = step {
                back.time(since);
            }
        });
    }
}

/// A change of all hosts to one binary.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Upgrade {
    /// The binary.
    pub target: Target,
    /// How far it is.
    pub phase: Phase,
    /// When it began.
    pub began: Timestamp,
    /// The hosts that were told to change.
    pub hosts: OrdMap<HostId, Step>,
}

/// How far an upgrade is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    /// One host after the other changes.
    Running,
    /// No further host changes.
    Paused {
        /// Why.
        why: String,
        /// Whether a host did not return healthy; else a person paused it.
        failed: bool,
    },
    /// Every host runs the binary.
    Done,
    /// A person ended it.
    Aborted,
}

/// Where a host is in an upgrade.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Step {
    /// It fetches the binary.
    Fetching {
        /// Since when.
        since: Timestamp,
    },
    /// It goes on with the binary, and is not healthy yet.
    Trying {
        /// Since when.
        since: Timestamp,
    },
    /// It was healthy with the binary, and keeps it.
    Done,
    /// It runs what it ran before.
    Failed {
        /// Why.
        why: String,
    },
}

impl Upgrade {
    /// The host that changes now; there is at most one.
    pub fn changing(&self) -> Option<(HostId, &Step)> {
        let is_changing = |step: &Step| matches!(step, Step::Fetching { .. } | Step::Trying { .. });
        self.hosts.iter().find(|(_, step)| is_changing(step)).map(|(host, step)| (*host, step))
    }

    /// Whether hosts still need the binary.
    pub fn is_open(&self) -> bool {
        matches!(self.phase, Phase::Running | Phase::Paused { .. })
    }
}

impl State {
    /// What each host runs, as it said last.
    pub fn builds(&self) -> &OrdMap<HostId, Build> {
        &self.binaries.builds
    }

    /// The last upgrade.
    pub fn upgrade(&self) -> Option<&Upgrade> {
        self.binaries.run.as_ref()
    }

    /// Whether a host runs the binary of the last upgrade.
    pub fn is_upgraded(&self, host: HostId) -> bool {
        let target = self.binaries.run.as_ref().map(|run| run.target.hash);
        target.is_some() && self.binaries.builds.get(&host).map(|build| build.hash) == target
    }

    pub(super) fn begin_upgrade(&mut self, target: &Target) -> Applied {
        let refuse = |code, why: String| Err(Problem::new(code, "The upgrade was not begun").why(why));
        if target.level < self.basics.level {
            return refuse(
                Code::TooOld,
                format!(
                    "wharf {} understands the feature levels up to {}, and the cluster has {}",
                    target.version, target.level, self.basics.level
                ),
            );
        }
        if target.size == 0 || target.size > MAX_BINARY || target.version.len() > MAX_VERSION {
            return refuse(Code::InvalidRequest, format!("a binary has 1 to {MAX_BINARY} bytes"));
        }
        if let Some(run) = self.binaries.run.as_ref().filter(|run| run.phase == Phase::Running) {
            let running = format!("the upgrade to {} ({}) is running", run.target.version, run.target.hash.short());
            return refuse(Code::Conflict, running)
                .map_err(|problem| problem.fix("Wait for it, or end it: wharf upgrade abort"));
        }
        if let Some((host, _)) = self.binaries.run.as_ref().filter(|run| run.is_open()).and_then(Upgrade::changing) {
            let name = self.hosts().get(&host).map_or_else(|| host.to_string(), |host| host.name.to_string());
            return refuse(Code::Conflict, format!("{name} still changes to another binary"));
        }
        let (began, phase) = (self.basics.clock, Phase::Running);
        self.binaries.run = Some(Upgrade { target: target.clone(), phase, began, hosts: OrdMap::new() });
        let message = format!("all hosts change to wharf {} ({})", target.version, target.hash.short());
        self.record("cluster", "upgrade-began", message);
        self.done()
    }

    pub(super) fn pause_upgrade(&mut self) -> Applied {
        let by = self.actor().map_or_else(|| "a person".to_owned(), ToString::to_string);
        let run = self.open_run()?;
        if run.phase != Phase::Running {
            return self.done();
        }
        run.phase = Phase::Paused { why: format!("{by} paused it"), failed: false };
        self.record("cluster", "upgrade-paused", "no further host changes until the upgrade is resumed");
        self.done()
    }

    pub(super) fn resume_upgrade(&mut self) -> Applied {
        let run = self.open_run()?;
        if run.phase == Phase::Running {
            return self.done();
        }
        run.phase = Phase::Running;
        run.hosts = run
            .hosts
            .iter()
            .filter(|(_, step)| !matches!(step, Step::Failed { .. }))
            .map(|(id, step)| (*id, step.clone()))
            .collect();
        self.record("cluster", "upgrade-resumed", "the upgrade goes on");
        self.done()
    }

    pub(super) fn abort_upgrade(&mut self) -> Applied {
        let run = self.open_run()?;
        run.phase = Phase::Aborted;
        self.record("cluster", "upgrade-aborted", "the upgrade ends; every host keeps what it runs");
        self.done()
    }

    fn open_run(&mut self) -> Result<&mut Upgrade, Problem> {
        let none = || Problem::new(Code::Conflict, "The upgrade was not changed").why("no upgrade is under way");
        self.binaries.run.as_mut().filter(|run| run.is_open()).ok_or_else(none)
    }

    /// Notes that a host is told to change, changes, or was healthy after it.
    pub(super) fn upgrade_host(&mut self, id: HostId, hash: BinaryHash, step: &Step) -> Applied {
        let name = self.hosts().get(&id).ok_or_else(|| not_found("host", id))?.name.clone();
        let stale = || Problem::new(Code::Conflict, "The host's step was not noted").why("another upgrade began");
        let run = self.open_run()?;
        if run.target.hash != hash {
            return Err(stale());
        }
        let is_begun =
            run.hosts.get(&id).is_some_and(|known| matches!(known, Step::Fetching { .. } | Step::Trying { .. }));
        let another = run.changing().filter(|(other, _)| *other != id);
        let version = run.target.version.clone();
        match step {
            Step::Fetching { .. } if run.phase != Phase::Running || another.is_some() => return Err(stale()),
            Step::Trying { .. } if !is_begun => return Err(stale()),
            Step::Failed { why } if is_begun => return self.fail_host(id, why.clone()),
            Step::Failed { .. } => return Err(stale()),
            Step::Fetching { .. } | Step::Trying { .. } | Step::Done => {}
        }
        run.hosts.insert(id, step.clone());
        let (reason, message) = match step {
            Step::Fetching { .. } => ("host-fetches", format!("{name} fetches wharf {version}")),
            Step::Trying { .. } => ("host-changes", format!("{name} goes on with wharf {version}")),
            Step::Done | Step::Failed { .. } => ("host-upgraded", format!("{name} is healthy with wharf {version}")),
        };
        self.record(id, reason, message);
        self.done()
    }

    fn fail_host(&mut self, id: HostId, why: String) -> Applied {
        let name = self.hosts().get(&id).map_or_else(|| id.to_string(), |host| host.name.to_string());
        let why = shortened(why, MAX_WHY);
        let run = self.open_run()?;
        run.hosts.insert(id, Step::Failed { why: why.clone() });
        let message = format!("{name} did not change: {why}");
        run.phase = Phase::Paused { why: message.clone(), failed: true };
        self.record(id, "upgrade-failed", message);
        self.done()
    }

    /// Notes what a host runs. A host that was to try another binary and says that it runs the one before has failed.
    pub(super) fn host_runs(&mut self, id: HostId, build: &Build, went_back: Option<&str>) -> Applied {
        if !self.hosts().contains_key(&id) {
            return Err(not_found("host", id));
        }
        if build.version.len() > MAX_VERSION {
            return Err(Problem::new(Code::TooLarge, "The binary of the host was not noted")
                .why(format!("a version has at most {MAX_VERSION} bytes")));
        }
        if self.binaries.builds.get(&id) != Some(build) {
            self.binaries.builds.insert(id, build.clone());
            self.touch();
        }
        let run = self.binaries.run.as_ref().filter(|run| run.is_open() && run.target.hash != build.hash);
        if matches!(run.and_then(|run| run.hosts.get(&id)), Some(Step::Trying { .. })) {
            let why = went_back.unwrap_or("it came back with the version before, and does not say why");
            return self.fail_host(id, format!("it went back to wharf {}: {why}", build.version));
        }
        self.done()
    }

    pub(super) fn end_upgrade(&mut self) -> Applied {
        let all = self.hosts().keys().all(|host| self.is_upgraded(*host));
        let run = self.open_run()?;
        if !all {
            return Err(Problem::new(Code::Conflict, "The upgrade has not ended").why("not every host runs the binary"));
        }
        run.phase = Phase::Done;
        let message = format!("every host runs wharf {} ({})", run.target.version, run.target.hash.short());
        self.record("cluster", "upgrade-done", message);
        self.done()
    }

    /// Forgets what a removed host ran.
    pub(super) fn forget_binary(&mut self, id: HostId) {
        self.binaries.builds.remove(&id);
        if let Some(run) = &mut self.binaries.run {
            run.hosts.remove(&id);
        }
    }
}
