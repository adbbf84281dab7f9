//! The messages between agents and coordinators.
//!
//! Every stream begins with one [`Open`] frame that states its purpose. [`Open::allowed_for`] decides what a peer's
//! certificate may open. Coordinators also check in the state that the peer still has the role in its certificate
//! (`coordinator_core::access`).

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::{
    api::LeaseTimes,
    assignment::Assignment,
    codec,
    directory::{Difference, OpenPorts},
    error::Problem,
    finding::Finding,
    host::{HostCondition, HostFacts},
    id::{HostId, InstanceId, MemberId},
    part::PartId,
    report::Report,
    secret::Secret,
    time::{Span, Timestamp},
    upgrade::{BinaryHash, Build, Piece, Target},
};

/// The wire protocols that this binary supports, newest first. The handshake selects one by ALPN.
pub const PROTOCOLS: [u16; 1] = [1];

/// The maximum size of a frame, in bytes.
pub const MAX_FRAME: usize = 16 << 20;

/// The identity in a peer's certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerIdentity {
    /// The host that the certificate belongs to.
    pub host: HostId,
    /// The member number, if the peer is a coordinator.
    pub member: Option<MemberId>,
}

crate::tagged! {
    /// The first frame of a stream, which states its purpose.
    #[derive(Debug, Clone)]
    pub enum Open {
        /// A host's session: [`ToCoordinator`] and [`ToAgent`] follow until it ends.
        1 => Session(hello: Hello),
        /// A request (DER) for a new certificate for the same key; [`Renewed`] follows.
        2 => Renew(request: Vec<u8>),
        /// A call between coordinators in their own encoding; one answer follows.
        3 => Member(call: Vec<u8>),
        /// A request to an agent for the output of an instance; [`LogFrame`]s follow.
        4 => Logs(request: LogRequest),
        /// A request from a new coordinator for the sealing key; the key follows if the other coordinator has it.
        5 => SealingKey,
        /// A coordinator's request to the leader for the findings of all agents, by host.
        6 => Findings,
        /// A host's request for the contents of an instance's configs and secrets; [`Files`] follows.
        7 => Files(instance: InstanceId),
        /// A host's request for the binary of the running upgrade; [`BinaryFrame`]s follow.
        20 => Binary(hash: BinaryHash),
        /// A host says which binary it runs. [`Upgrading`] comes back and [`Upgraded`] follows, until the session ends.
        /// A coordinator that does not know it yet ends this stream and no other.
        21 => Running(running: Running),
        /// A coordinator's request for all sealing keys, from feature level 3 on; a list of them follows.
        25 => SealingKeys,
        /// A host's request for the roots that it is to trust: [`TrustedRoots`] follow, now and whenever they change, and
        /// the host answers each with [`RootsHeld`].
        26 => Roots,
    }
}

impl Open {
    /// Whether a peer whose certificate has ended may open this stream.
    pub fn allowed_for_lapsed(&self) -> bool {
        matches!(self, Open::Renew(_))
    }

    /// Whether a peer may open this stream. Everything that is not listed is denied.
    pub fn allowed_for(&self, peer: &PeerIdentity) -> bool {
        match self {
            // A host speaks only for itself; a coordinator's host has an agent, too.
            Open::Session(hello) => hello.host == peer.host,
            // The coordinator later checks the instance, and the binary, against the host in the certificate.
            Open::Renew(_) | Open::Files(_) | Open::Binary(_) | Open::Running(_) | Open::Roots => true,
            Open::Member(_) | Open::Logs(_) | Open::SealingKey | Open::SealingKeys | Open::Findings => {
                peer.member.is_some()
            }
        }
    }
}

impl Open {
    /// Whether the stream is only for coordinators. Calls between them are checked one by one.
    pub fn is_inside(&self) -> bool {
        matches!(self, Open::Logs(_) | Open::SealingKey | Open::SealingKeys | Open::Findings)
    }
}

/// The roots of the cluster that a host is to trust.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct TrustedRoots {
    /// The one that issues certificates (DER).
    pub issuer: Vec<u8>,
    /// Others that are trusted beside it (DER).
    pub others: Vec<Vec<u8>>,
    /// The newest root as the one before it has signed it (DER), to be shown to those that do not know the newest one yet.
    pub cross: Option<Vec<u8>>,
}

/// What a host has of the roots.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootsHeld {
    /// The roots that it trusts.
    pub roots: Vec<RootId>,
    /// The root that issued its certificate.
    pub issuer: RootId,
}

/// A hash of a root's certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootId(pub [u8; 32]);

impl RootId {
    /// That of a certificate (DER).
    pub fn of(certificate: &[u8]) -> RootId {
        // A list of bytes can always be hashed.
        RootId(codec::hash(&certificate).unwrap_or_default())
    }
}

/// The first message of an agent in a session.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Hello {
    /// The id of the agent's host.
    pub host: HostId,
    /// The facts about the host.
    pub facts: HostFacts,
    /// The generation of the assignment in its ledger; zero if there is none.
    pub generation: u64,
    /// A salted hash of the machine id. It reveals that a copied disk took the host's key to another machine.
    pub machine: [u8; 16],
}

crate::tagged! {
    /// Messages from an agent in a session.
    #[derive(Debug, Clone, PartialEq)]
    pub enum ToCoordinator {
        /// A complete report, numbered within the session.
        1 => Report {
            /// Increases with each report.
            number: u64,
            /// The state of all instances.
            report: Report,
        },
        /// A heartbeat.
        2 => Beat {
            /// The agent's monotonic clock, which includes sleep; the answer returns it unchanged.
            sent: u64,
        },
        /// The facts about the host have changed.
        3 => Facts(facts: HostFacts),
        /// All current findings of the agent.
        4 => Findings(findings: Vec<Finding>),
        /// All current conditions of the host.
        5 => Conditions(conditions: Vec<HostCondition>),
        /// The agent stops in an orderly way and will come back, because it or its host restarts.
        6 => Leaving,
    }
}

crate::tagged! {
    /// Messages from a coordinator in an agent's session.
    #[derive(Debug, Clone, PartialEq)]
    pub enum ToAgent {
        /// The session is open; this coordinator leads.
        1 => Welcome {
            /// The interval between two heartbeats.
            heartbeat: Span,
            /// The addresses of all coordinators, to try if this one fails.
            coordinators: Vec<SocketAddr>,
        },
        /// Another coordinator leads; during an election none is known.
        2 => Redirect {
            /// The address of the leader.
            leader: Option<SocketAddr>,
        },
        /// The coordinator refuses the session.
        3 => Refused(problem: Problem),
        /// Everything that the host should run.
        4 => Assignment(assignment: Box<Assignment>),
        /// The directory, or its difference from what was sent before.
        5 => Directory(piece: DirectoryPiece),
        /// The heartbeat arrived while this coordinator was leading.
        6 => BeatAck {
            /// The value from the heartbeat.
            sent: u64,
            /// The leases that the heartbeat extends.
            extension: Extension,
            /// The coordinator's clock when it answered.
            at: Timestamp,
        },
        /// The report is stored in the replicated state.
        7 => ReportAck {
            /// The number of the report.
            number: u64,
        },
        /// The addresses of the coordinators have changed.
        8 => Coordinators(coordinators: Vec<SocketAddr>),
        /// The coordinator has recorded that the agent leaves.
        9 => Farewell,
        /// The ports that instances publish on hosts, or their difference from what was sent before.
        30 => OpenPorts(piece: OpenPortsPiece),
    }
}

/// A piece of the directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DirectoryPiece {
    /// Whether it starts from an empty directory instead of what was sent before.
    pub anew: bool,
    /// The changes to the directory.
    pub difference: Difference,
    /// Whether more pieces follow before the directory is complete.
    pub more: bool,
}

/// A piece of the open ports.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenPortsPiece {
    /// Whether it starts from no open ports instead of what was sent before.
    pub anew: bool,
    /// New or changed ones; `None` for removed ones.
    pub difference: Vec<(InstanceId, Option<OpenPorts>)>,
    /// Whether more pieces follow before all are known.
    pub more: bool,
}

/// The strict singletons that may keep running, and how long after the heartbeat was sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extension {
    /// The lease times, counted from the sending of the heartbeat.
    pub times: LeaseTimes,
    /// The instances whose leases are extended. Others get no new lease.
    pub instances: Vec<InstanceId>,
}

crate::tagged! {
    /// The answer to [`Open::Renew`].
    #[derive(Debug, Clone)]
    pub enum Renewed {
        /// The new certificate (DER).
        1 => Certificate(certificate: Vec<u8>),
        /// The coordinator refuses to issue one.
        2 => Refused(problem: Problem),
    }
}

crate::tagged! {
    /// The answer to [`Open::Files`].
    #[derive(Debug, Clone)]
    pub enum Files {
        /// The contents, in the order of [`ServiceSpec::files`](crate::spec::ServiceSpec::files).
        1 => Contents(contents: Vec<Secret<Vec<u8>>>),
        /// The coordinator refuses to send them.
        2 => Refused(problem: Problem),
    }
}

/// The binary that a host runs, as its agent says at the beginning of a session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Running {
    /// The binary.
    pub build: Build,
    /// Why the host went back to it, if it has just tried another one.
    pub went_back: Option<String>,
}

crate::tagged! {
    /// What a coordinator tells a host about its binary.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub enum Upgrading {
        /// Fetch this binary, and try it.
        1 => Change(target: Target),
        /// It is stored that the host tries the binary: go on with it.
        3 => Go(hash: BinaryHash),
        /// The host is healthy with what it runs, and keeps it.
        2 => Keep(hash: BinaryHash),
    }
}

crate::tagged! {
    /// What a host says about a binary that it was told to try.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub enum Upgraded {
        /// It has the binary, and goes on with it now.
        1 => Trying(hash: BinaryHash),
        /// It cannot use it, and goes on as before.
        2 => Failed {
            /// The binary.
            hash: BinaryHash,
            /// Why.
            why: String,
        },
    }
}

crate::tagged! {
    /// A piece of the answer to [`Open::Binary`].
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub enum BinaryFrame {
        /// The next bytes.
        1 => Bytes(piece: Piece),
        /// The binary is whole.
        2 => End,
        /// The coordinator refuses to send it.
        3 => Refused(problem: Problem),
    }
}

/// Which output to send.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogRequest {
    /// The part of the instance.
    pub part: PartId,
    /// The number of last lines; all if absent.
    pub tail: Option<u32>,
    /// Whether to keep sending new output.
    pub follow: bool,
    /// Send only output after this moment, which an earlier piece named.
    pub after: Option<String>,
}

/// Whether a text is a timestamp as Docker prefixes it to output: `2026-01-02T03:04:05.123456789Z`.
pub fn is_moment(text: &str) -> bool {
    let form = b"dddd-dd-ddTdd:dd:dd.dddddddddZ";
    let fits = |(byte, form): (u8, &u8)| if *form == b'd' { byte.is_ascii_digit() } else { byte == *form };
    text.len() == form.len() && text.bytes().zip(form).all(fits)
}

crate::tagged! {
    /// A piece of an instance's output.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub enum LogFrame {
        /// Output, as the program wrote it.
        1 => Output {
            /// Whether it came from stderr.
            stderr: bool,
            /// The raw bytes.
            bytes: Vec<u8>,
            /// The time of the output, from which reading can continue; empty if output is not followed.
            at: String,
        },
        /// The output cannot be read.
        2 => Failed(problem: Problem),
        /// The output ends here.
        3 => End,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_that_has_ended_opens_the_renewal_alone() {
        let others = [
            Open::Member(Vec::new()),
            Open::SealingKey,
            Open::SealingKeys,
            Open::Findings,
            Open::Roots,
            Open::Binary(BinaryHash([1; 32])),
        ];
        assert!(Open::Renew(Vec::new()).allowed_for_lapsed());
        assert!(others.iter().all(|open| !open.allowed_for_lapsed()));
    }

    #[test]
    fn moments_have_one_form() {
        assert!(is_moment("2026-01-02T03:04:05.123456789Z"));
        for other in ["", "2026-01-02T03:04:05Z", "2026-01-02T03:04:05.123456789+", "2026-01-02 03:04:05.123456789Z"] {
            assert!(!is_moment(other), "{other}");
        }
    }
}
