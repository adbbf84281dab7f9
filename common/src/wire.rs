//! What agents and coordinators say to each other.
//!
//! Every stream begins with one [`Open`] frame that says what the stream is for. What a peer's certificate may open is
//! decided by [`Open::allowed_for`]; whether the peer is still what its certificate says, coordinators look up in the
//! state (`coordinator_core::access`).

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::{
    api::LeaseTimes,
    assignment::Assignment,
    directory::Difference,
    error::Problem,
    finding::Finding,
    host::{HostCondition, HostFacts},
    id::{HostId, InstanceId, MemberId},
    part::PartId,
    report::Report,
    secret::Secret,
    time::{Span, Timestamp},
};

/// The wire protocols that this binary speaks, newest first; the handshake picks one by ALPN.
pub const PROTOCOLS: [u16; 1] = [1];

/// Largest frame, in bytes.
pub const MAX_FRAME: usize = 16 << 20;

/// Who a peer is, as its certificate says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerIdentity {
    /// The host that it runs on.
    pub host: HostId,
    /// The member that it is, if it is a coordinator.
    pub member: Option<MemberId>,
}

crate::tagged! {
    /// The first frame of a stream.
    #[derive(Debug, Clone)]
    pub enum Open {
        /// A host's session: [`ToCoordinator`] and [`ToAgent`] follow until it ends.
        1 => Session(hello: Hello),
        /// A new certificate for the key of this request (DER): [`Renewed`] follows.
        2 => Renew(request: Vec<u8>),
        /// A call between coordinators, encoded by them: one answer follows.
        3 => Member(call: Vec<u8>),
        /// The output of an instance, asked of its agent: [`LogFrame`]s follow.
        4 => Logs(request: LogRequest),
        /// The key that secrets are sealed with, asked by a coordinator that has just joined: the key follows, if
        /// the other has it.
        5 => SealingKey,
        /// What agents have found wrong, asked of the leader by a coordinator: it follows by host.
        6 => Findings,
        /// The contents of an instance's configs and secrets, asked by its host: [`Files`] follows.
        7 => Files(instance: InstanceId),
    }
}

impl Open {
    /// Whether a peer may open such a stream. Everything not named is denied.
    pub fn allowed_for(&self, peer: &PeerIdentity) -> bool {
        match self {
            // A host speaks for itself alone; a coordinator's host has an agent too.
            Open::Session(hello) => hello.host == peer.host,
            // What exactly is looked up by the host of the certificate.
            Open::Renew(_) | Open::Files(_) => true,
            Open::Member(_) | Open::Logs(_) | Open::SealingKey | Open::Findings => peer.member.is_some(),
        }
    }
}

impl Open {
    /// Whether it asks for what coordinators alone are told. Calls between them are looked at one by one.
    pub fn is_inside(&self) -> bool {
        matches!(self, Open::Logs(_) | Open::SealingKey | Open::Findings)
    }
}

/// How an agent introduces itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Hello {
    /// Its host.
    pub host: HostId,
    /// What it observes of the host.
    pub facts: HostFacts,
    /// The generation that its ledger holds; zero if it holds none.
    pub generation: u64,
    /// A salted hash of the machine's id: a copied disk carries the key to another machine.
    pub machine: [u8; 16],
}

crate::tagged! {
    /// What an agent says in its session.
    #[derive(Debug, Clone, PartialEq)]
    pub enum ToCoordinator {
        /// All that it observes, numbered within the session.
        1 => Report {
            /// Grows with each report.
            number: u64,
            /// The full value.
            report: Report,
        },
        /// It is alive.
        2 => Beat {
            /// The agent's own clock, which counts on in sleep and never jumps; given back unchanged.
            sent: u64,
        },
        /// What it observes of its host has changed.
        3 => Facts(facts: HostFacts),
        /// All that is wrong with its host now, as it finds it.
        4 => Findings(findings: Vec<Finding>),
        /// All that its host cannot do now.
        5 => Conditions(conditions: Vec<HostCondition>),
        /// It stops because it was asked to, and means to come back: its host is started anew, or it is.
        6 => Leaving,
    }
}

crate::tagged! {
    /// What a coordinator says in an agent's session.
    #[derive(Debug, Clone, PartialEq)]
    pub enum ToAgent {
        /// The session is open: this coordinator leads.
        1 => Welcome {
            /// The time between two beats.
            heartbeat: Span,
            /// All coordinators, to try when this one is gone.
            coordinators: Vec<SocketAddr>,
        },
        /// Another coordinator leads; none is known during an election.
        2 => Redirect {
            /// Where the leader is.
            leader: Option<SocketAddr>,
        },
        /// There will be no session.
        3 => Refused(problem: Problem),
        /// All that the host should run.
        4 => Assignment(assignment: Box<Assignment>),
        /// What names stand for, or how that differs from what was said before.
        5 => Directory(piece: DirectoryPiece),
        /// The beat was received while leading.
        6 => BeatAck {
            /// As the beat said.
            sent: u64,
            /// What may run on, now that the beat was answered.
            grant: Grant,
            /// What time it is where it was answered.
            at: Timestamp,
        },
        /// The report is in the replicated state.
        7 => ReportAck {
            /// As the report said.
            number: u64,
        },
        /// The coordinators have changed.
        8 => Coordinators(coordinators: Vec<SocketAddr>),
        /// It is noted that the agent leaves.
        9 => Farewell,
    }
}

/// A piece of what a coordinator says of the directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DirectoryPiece {
    /// Whether it begins with nothing, not with what was said before.
    pub anew: bool,
    /// What differs.
    pub difference: Difference,
    /// Whether another piece follows before it is whole.
    pub more: bool,
}

/// Which instances of strict singletons may run on, and for how long after the beat was sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// The times.
    pub times: LeaseTimes,
    /// The instances; others get no new lease.
    pub instances: Vec<InstanceId>,
}

crate::tagged! {
    /// The answer to [`Open::Renew`].
    #[derive(Debug, Clone)]
    pub enum Renewed {
        /// The new certificate, DER.
        1 => Certificate(certificate: Vec<u8>),
        /// None is given.
        2 => Refused(problem: Problem),
    }
}

crate::tagged! {
    /// The answer to [`Open::Files`].
    #[derive(Debug, Clone)]
    pub enum Files {
        /// The contents, in the order of the service's [`files`](crate::spec::ServiceSpec::files).
        1 => Contents(contents: Vec<Secret<Vec<u8>>>),
        /// They are not given.
        2 => Refused(problem: Problem),
    }
}

/// Which output is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogRequest {
    /// The part of an instance.
    pub part: PartId,
    /// The number of last lines; all if absent.
    pub tail: Option<u32>,
    /// Whether to go on as output appears.
    pub follow: bool,
    /// Only what was printed after this moment, as an earlier piece named it.
    pub after: Option<String>,
}

/// Whether a text is a moment as Docker writes it before output: `2026-01-02T03:04:05.123456789Z`.
pub fn is_moment(text: &str) -> bool {
    let form = b"dddd-dd-ddTdd:dd:dd.dddddddddZ";
    let fits = |(byte, form): (u8, &u8)| if *form == b'd' { byte.is_ascii_digit() } else { byte == *form };
    text.len() == form.len() && text.bytes().zip(form).all(fits)
}

crate::tagged! {
    /// A piece of an instance's output.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub enum LogFrame {
        /// Output as the program wrote it.
        1 => Output {
            /// Whether it came from stderr.
            stderr: bool,
            /// The raw bytes.
            bytes: Vec<u8>,
            /// The moment when it was printed, by which it can be gone on from; empty if that was not asked for.
            at: String,
        },
        /// The output cannot be had.
        2 => Failed(problem: Problem),
        /// That was all.
        3 => End,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_have_one_form() {
        assert!(is_moment("2026-01-02T03:04:05.123456789Z"));
        for other in ["", "2026-01-02T03:04:05Z", "2026-01-02T03:04:05.123456789+", "2026-01-02 03:04:05.123456789Z"] {
            assert!(!is_moment(other), "{other}");
        }
    }
}
