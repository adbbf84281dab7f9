//! The three states of an instance, each written by one party: desired (leader), observed (the host's agent), verdict
//! (leader).

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    output::LastLines,
    spec::{PortSpec, Protocol},
    time::Timestamp,
};

/// The state that the leader wants of an instance. It only moves forward through these values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Want {
    /// Prepared: everything is ready to start, but not started.
    Prepare,
    /// Running.
    Run,
    /// Stopped, its container kept.
    Stop,
    /// Removed, with its container.
    Purge,
}

/// The state that the leader wants of an instance, and the reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Desired {
    /// The wanted state.
    pub want: Want,
    /// Why the instance must end; none while it should run.
    pub reason: Option<StopReason>,
}

/// Why an instance must end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum StopReason {
    /// The service needs fewer instances.
    ScaledDown,
    /// An instance of a newer revision replaces it.
    Superseded,
    /// Its service or stack was removed.
    Removed,
    /// A newer incarnation took its slot while its host was unreachable.
    Duplicate,
    /// Its own host gave up on it.
    Ended,
    /// Its host is draining.
    Drained,
    /// Its revision failed, and the service was rolled back.
    RolledBack,
    /// A replacement runs on a better host.
    Rebalanced,
    /// Its host cannot run it now, but another host can.
    Stranded,
}

/// How far an instance has come on its host. A phase never decreases within a restart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// The host has not received it yet.
    Assigned,
    /// The host has stored it in its ledger.
    Accepted,
    /// The host is pulling its image.
    Pulling,
    /// Its container can be started.
    Ready,
    /// The agent has asked Docker to start it.
    Starting,
    /// Its program runs.
    Running,
    /// The agent has asked it to stop.
    Stopping,
    /// Its program ended with exit code 0 and is not restarted.
    Completed,
    /// Its program failed and is not restarted on this host.
    Failed,
    /// The host cannot run it.
    Rejected,
    /// It was stopped on request.
    Stopped,
    /// Its container is removed.
    Purged,
}

impl Phase {
    /// Whether the host does nothing more with it unless the leader asks.
    pub fn is_terminal(self) -> bool {
        self >= Phase::Completed
    }

    /// Terminal phases exclude each other, so they share a rank.
    fn rank(self) -> u8 {
        match self {
            Phase::Assigned => 0,
            Phase::Accepted => 10,
            Phase::Pulling => 20,
            Phase::Ready => 30,
            Phase::Starting => 40,
            Phase::Running => 50,
            Phase::Stopping => 60,
            Phase::Completed | Phase::Failed | Phase::Rejected | Phase::Stopped => 70,
            Phase::Purged => 90,
        }
    }
}

/// The health of an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Health {
    /// There is no health check: running is all that is known.
    #[default]
    Unchecked,
    /// The first check has not finished yet.
    Starting,
    /// The last check succeeded.
    Healthy,
    /// As many checks have failed in a row as the spec allows.
    Unhealthy,
    /// Its process has ended, but Docker does not answer and has not reported it.
    Gone,
}

/// The state of an instance, as its agent observes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Observed {
    /// How often the host has restarted its program.
    pub restart: u32,
    /// How many retries of its restart policy are used: by its own failed runs, and by those of earlier instances of
    /// the slot with the same task.
    pub retries: u32,
    /// The phase since the last restart.
    pub phase: Phase,
    /// The health while it runs.
    pub health: Health,
    /// The exit code of the last run.
    pub exit_code: Option<i64>,
    /// When the last run started.
    pub started_at: Option<Timestamp>,
    /// The digest of its image in the registry, if it has one.
    pub image_digest: Option<String>,
    /// Its own address while it runs.
    #[schema(value_type = Option<String>)]
    pub address: Option<Ipv4Addr>,
    /// A remark for people: an error, or what it waits for. At most 500 characters.
    pub message: String,
    /// Why the last failed run failed; kept while the program runs again.
    pub failure: String,
    /// The last output of the program before it ended or, if the health check failed it, of the check.
    pub output: LastLines,
    /// The failing preparation of its container, if any.
    pub unprepared: Option<Unprepared>,
}

/// A preparation that keeps failing: the image cannot be pulled, or the container cannot be created.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Unprepared {
    /// The image, as the spec names it.
    pub image: String,
    /// When it first failed, by the host's clock.
    pub since: Timestamp,
}

impl Observed {
    /// The observation of an instance that its host has not received yet.
    pub fn nothing() -> Observed {
        Observed {
            restart: 0,
            retries: 0,
            phase: Phase::Assigned,
            health: Health::Unchecked,
            exit_code: None,
            started_at: None,
            image_digest: None,
            address: None,
            message: String::new(),
            failure: String::new(),
            output: LastLines::default(),
            unprepared: None,
        }
    }

    /// Whether this observation may follow `earlier`: (restart, phase) never decreases.
    pub fn may_follow(&self, earlier: &Observed) -> bool {
        (self.restart, self.phase.rank()) >= (earlier.restart, earlier.phase.rank())
    }

    /// Whether its program runs and no health check fails.
    pub fn is_serving(&self) -> bool {
        self.phase == Phase::Running && matches!(self.health, Health::Unchecked | Health::Healthy)
    }
}

/// Whether the leader can hear from an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Its host is believed alive.
    Reachable,
    /// Its host is down, but no replacement exists yet.
    Unknown {
        /// When the leader noticed that the host is down.
        since: Timestamp,
    },
    /// Another incarnation has taken its slot.
    Lost {
        /// When it was replaced.
        since: Timestamp,
    },
}

/// A container port and the host port booked for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BoundPort {
    /// The port in the service's spec.
    pub spec: PortSpec,
    /// The port number on the host.
    pub host: u16,
}

impl BoundPort {
    /// The key under which the port is booked on the host. The address is not part of it, because a port on all
    /// addresses collides with the same port on one address.
    pub fn booking(&self) -> (u16, Protocol) {
        (self.host, self.spec.protocol)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn observations_never_fall_back() {
        let at = |restart, phase| Observed { restart, phase, ..Observed::nothing() };
        assert!(at(0, Phase::Running).may_follow(&at(0, Phase::Pulling)));
        assert!(at(1, Phase::Starting).may_follow(&at(0, Phase::Failed)));
        assert!(!at(0, Phase::Running).may_follow(&at(1, Phase::Starting)));
        assert!(!at(0, Phase::Pulling).may_follow(&at(0, Phase::Running)));
        assert!(at(0, Phase::Failed).may_follow(&at(0, Phase::Stopped)), "terminal phases share a rank");
    }
}
