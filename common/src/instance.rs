//! The three states of an instance, each with one writer: desired (leader), observed (the host's
//! agent), verdict (leader).

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    output::LastLines,
    spec::{PortSpec, Protocol},
    time::Timestamp,
};

/// What the leader wants of an instance. Moves only onward.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Want {
    /// Everything ready to start, not started.
    Prepare,
    /// Running.
    Run,
    /// Stopped, its container kept.
    Stop,
    /// Gone, with its container.
    Purge,
}

/// What the leader wants of an instance, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Desired {
    /// What is wanted.
    pub want: Want,
    /// Why it is to end, once it is.
    pub reason: Option<StopReason>,
}

/// Why an instance is to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum StopReason {
    /// The service wants fewer.
    ScaledDown,
    /// A newer spec replaces it.
    Superseded,
    /// Its service or stack was removed.
    Removed,
    /// A newer incarnation took its slot while its host was away.
    Duplicate,
    /// Its own host gave up on it.
    Ended,
    /// Its host is being emptied.
    Drained,
    /// Its revision failed, and an older one serves.
    RolledBack,
    /// Its slot is better served on another host.
    Rebalanced,
    /// Its host cannot run it now, and another one can.
    Stranded,
}

/// How far an instance has come on its host, in the order in which it can only rise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// The host has not heard of it yet.
    Assigned,
    /// The order lies in the host's ledger.
    Accepted,
    /// Its image is being fetched.
    Pulling,
    /// Its container can be started.
    Ready,
    /// Docker has been asked to start it.
    Starting,
    /// Its program runs.
    Running,
    /// It has been asked to stop.
    Stopping,
    /// Its program ended with exit code 0 and is not started again.
    Completed,
    /// Its program failed and is not started again here.
    Failed,
    /// It cannot run on this host.
    Rejected,
    /// It was stopped as asked.
    Stopped,
    /// Its container is gone.
    Purged,
}

impl Phase {
    /// Whether nothing further happens on the host unless the leader asks.
    pub fn is_terminal(self) -> bool {
        self >= Phase::Completed
    }

    /// Terminal phases exclude one another: they share a rank.
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

/// What is known of an instance's health.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Health {
    /// Nothing checks it: running is all that is known.
    #[default]
    Unchecked,
    /// The first check has not ended yet.
    Starting,
    /// The last check passed.
    Healthy,
    /// Checks failed as often as the spec allows.
    Unhealthy,
    /// Its process is gone, and Docker, which does not answer, has not said so.
    Gone,
}

/// What the agent observes of an instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Observed {
    /// How often the host has started its program again.
    pub restart: u32,
    /// How many of the retries that its restart policy allows are used up: by its own runs that failed, and by those
    /// of its slot before it that were to do the same.
    pub retries: u32,
    /// How far it has come since then.
    pub phase: Phase,
    /// Its health while it runs.
    pub health: Health,
    /// The exit code of its last end.
    pub exit_code: Option<i64>,
    /// When its program started last.
    pub started_at: Option<Timestamp>,
    /// The registry's digest of its image, if it has one.
    pub image_digest: Option<String>,
    /// Its own address while it runs.
    #[schema(value_type = Option<String>)]
    pub address: Option<Ipv4Addr>,
    /// What a person should know: an error, or what is waited for. At most 500 characters.
    pub message: String,
    /// Why its program failed last; it stays while the program runs again.
    pub failure: String,
    /// What its program printed last before it ended or, if its health check failed it, what the check printed.
    pub output: LastLines,
    /// The image that its host cannot make a container of, and since when, as long as that fails.
    pub unprepared: Option<Unprepared>,
}

/// A preparation that fails: the image cannot be had, or its container cannot be made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Unprepared {
    /// The image, as the spec names it.
    pub image: String,
    /// Since when, by the host's clock.
    pub since: Timestamp,
}

impl Observed {
    /// An instance that its host has not heard of.
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

    /// Whether this may follow `earlier`: (restart, phase) never falls.
    pub fn may_follow(&self, earlier: &Observed) -> bool {
        (self.restart, self.phase.rank()) >= (earlier.restart, earlier.phase.rank())
    }

    /// Whether its program runs and nothing says that it is unwell.
    pub fn is_serving(&self) -> bool {
        self.phase == Phase::Running && matches!(self.health, Health::Unchecked | Health::Healthy)
    }
}

/// Whether the leader can still hear of an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Its host is believed alive.
    Reachable,
    /// Its host is down; nothing has replaced it yet.
    Unknown {
        /// When its host was found down.
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
    /// As the service asked.
    pub spec: PortSpec,
    /// The port on the host.
    pub host: u16,
}

impl BoundPort {
    /// What is booked on the host. Ports of different addresses are kept apart all the same: a
    /// port on all addresses collides with the same port on one.
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
