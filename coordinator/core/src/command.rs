//! The commands that change a [`State`](crate::State), and what came of each.
//!
//! A command carries all that it depends on: its time, its ids, and what its author expected the
//! state to be. It is checked again when it is applied; one that no longer fits changes nothing.

mod person;
mod trust;
mod values;

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use common::{
    api::Settings,
    assignment::RegistryCredentials,
    backup::{Recipient, Schedule},
    error::Problem,
    file::FileId,
    host::{Availability, HostCondition, HostFacts, HostLabels, Liveness, Oversubscription},
    id::{HostId, InstanceId, MemberId, ServiceId, StackId},
    instance::{Desired, Observed, Verdict},
    name::Name,
    role::Grant,
    rollout::RolloutState,
    secret::Secret,
    spec::StackSpec,
    time::Timestamp,
    token::{SecretHash, TokenId},
    upgrade::{BinaryHash, Build, Target},
    wire::RootsHeld,
};
use serde::{Deserialize, Serialize};

use crate::{
    sealed::KeyId,
    state::{Content, Inventory, Step},
};

pub use trust::{NewRoot, Resealed, SealedPlace};
pub use values::{Access, Admission, Authority, BackupOutcome, Genesis, NewFile, NewJoinToken, Placement};

/// Names a write whose result its author may not learn; a second one with the same id is not made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RequestId(pub [u8; 16]);

/// A write that may have to be repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// Which one it is.
    pub id: RequestId,
    /// A hash of all that it asks for: another request under the same id is refused, never taken for a repetition.
    pub content: [u8; 16],
}

impl From<RequestId> for Request {
    /// A request whose id was drawn for it: nothing else can have that id.
    fn from(id: RequestId) -> Request {
        Request { id, content: [0; 16] }
    }
}

/// Somebody with an API token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Person {
    /// The token: what it allows is decided when the command is applied.
    pub token: TokenId,
    /// What it is called, for the history.
    pub name: Name,
    /// The address from which it asks; none below feature level [`AUDIT`](crate::level::AUDIT).
    pub from: Option<IpAddr>,
}

/// Whose write it is, and which.
#[derive(Debug, Clone)]
pub struct Author {
    /// The request.
    pub request: Request,
    /// Who asks; none if the cluster acts by itself.
    pub by: Option<Person>,
}

impl From<RequestId> for Author {
    fn from(request: RequestId) -> Author {
        Author { request: request.into(), by: None }
    }
}

/// What one Raft entry carries: commands that share a time and succeed or fail each by itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Batch {
    /// The leader's clock when it proposed them.
    pub at: Timestamp,
    /// The commands in order.
    pub proposals: Vec<Proposal>,
}

/// A command, who asked for it, and, if it may have to be repeated, which request it is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Proposal {
    /// The request.
    pub request: Option<Request>,
    /// Who asked; none if the cluster acts by itself.
    #[serde(with = "person")]
    pub by: Option<Person>,
    /// The command.
    pub command: Command,
}

impl From<Command> for Proposal {
    fn from(command: Command) -> Proposal {
        Proposal { request: None, by: None, command }
    }
}

common::tagged! {
    /// A change of the replicated state. Its tag in the log never changes, and no other command ever gets it.
    #[derive(Debug, Clone, PartialEq)]
    pub enum Command {
        /// Makes the cluster; the first command of all.
        1 => Initialize(genesis: Box<Genesis>),
        /// Replaces the cluster's times.
        2 => PutSettings(settings: Settings),

        /// Makes a stack what the spec says.
        3 => PutStack {
            /// The stack.
            id: StackId,
            /// What it should be.
            spec: Arc<StackSpec>,
            /// New versions of its own configs and secrets.
            files: Vec<NewFile>,
            /// Its revision, if the author knows one; 0 for "none yet".
            expect_revision: Option<u64>,
            /// What is done, for people who read the history.
            what: String,
            /// Whether it goes back to an earlier revision: what ended well for it is not done again.
            goes_back: bool,
        },
        /// Ends a stack and all its instances.
        4 => RemoveStack(stack: StackId),
        /// Changes the number of instances of a service.
        5 => ScaleService {
            /// The service.
            id: ServiceId,
            /// How many.
            replicas: u32,
        },
        /// Stops, continues or ends the change of a service to its revision.
        6 => MoveRollout {
            /// The service.
            service: ServiceId,
            /// Its revision.
            expect_revision: u64,
            /// What becomes of the rollout.
            state: RolloutState,
            /// Why, if it is paused.
            why: String,
        },
        /// Lets the other instances follow those that were replaced first.
        7 => Promote {
            /// The service.
            service: ServiceId,
            /// Its revision.
            expect_revision: u64,
        },
        /// Returns a service to the last revision that served whole.
        8 => RollBack {
            /// The service.
            service: ServiceId,
            /// The revision that failed.
            expect_revision: u64,
            /// Why.
            why: String,
        },
        /// Begins the run of a job's schedule that was due at a time, or leaves it out.
        9 => Tick {
            /// The service.
            service: ServiceId,
            /// When it was due.
            due: Timestamp,
            /// Why it is left out, if it is.
            left_out: Option<String>,
        },
        /// Moves instances of services, one after the other, to hosts that suit them better now.
        10 => Rebalance {
            /// The services.
            services: Vec<ServiceId>,
        },
        /// Notes that no instance of a service would be better off elsewhere.
        11 => EndRebalance(service: ServiceId),
        /// Tries what has failed, for good or not, again at once, and forgets how often it has.
        12 => Retry(service: ServiceId),
        /// Fixes the image of a service's revision to what its tag meant when it was first pulled.
        13 => PinImage {
            /// The service.
            service: ServiceId,
            /// The revision that the digest was seen under.
            expect_revision: u64,
            /// The digest, `sha256:…`.
            digest: String,
        },

        /// Makes a join token.
        14 => PutJoinToken(token: Box<NewJoinToken>),
        /// Ends a join token.
        15 => RevokeJoinToken(token: TokenId),
        /// Admits a host by a join token.
        16 => Admit(admission: Box<Admission>),
        /// Makes an API token for the whole cluster, as feature level 1 has them.
        17 => PutApiToken {
            /// Its public part.
            id: TokenId,
            /// What it is for.
            name: Name,
            /// What it may do.
            access: Access,
            /// The hash of its secret.
            secret: SecretHash,
        },
        /// Makes an API token.
        45 => PutToken {
            /// Its public part.
            id: TokenId,
            /// What it is for.
            name: Name,
            /// What it may do, and where.
            grant: Grant,
            /// The hash of its secret.
            secret: SecretHash,
        },
        /// Ends an API token.
        18 => RemoveApiToken(token: TokenId),
        /// Makes an environment.
        19 => PutEnvironment(environment: Name),
        /// Removes an environment that holds nothing.
        20 => RemoveEnvironment(environment: Name),
        /// Sets a config or a secret of an environment.
        21 => PutFile {
            /// Which one.
            id: FileId,
            /// What is in it.
            content: Content,
        },
        /// Removes a config or a secret of an environment.
        22 => RemoveFile(file: FileId),
        /// Sets who to be at a registry.
        23 => PutRegistry(credentials: RegistryCredentials),
        /// Forgets who to be at a registry.
        24 => RemoveRegistry(registry: String),

        /// What an agent says of its host.
        25 => HostReported {
            /// The host.
            host: HostId,
            /// What it says.
            facts: HostFacts,
            /// A hash of the machine's id; the first one is kept, and another is a clone.
            machine: [u8; 16],
        },
        /// What an agent says of its host, and where its connection comes from: what its claims are checked against.
        50 => HostSaid {
            /// The host.
            host: HostId,
            /// What it says.
            facts: HostFacts,
            /// A hash of the machine's id; the first one is kept, and another is a clone.
            machine: [u8; 16],
            /// The source address of the connection.
            from: Option<IpAddr>,
        },
        /// Notes that a second running machine uses the key of a host, and was refused.
        51 => RefuseClone(host: HostId),
        /// Accepts that a host is more than it was, or another machine.
        52 => AcceptHost {
            /// The host.
            host: HostId,
            /// What the person has seen that it claims.
            expect: Inventory,
        },
        /// All that a host cannot do now, as its agent says.
        26 => HostConditions {
            /// The host.
            host: HostId,
            /// What it cannot do.
            conditions: Vec<HostCondition>,
        },
        /// An agent was asked to stop, and means to come back.
        27 => HostLeaves(host: HostId),
        /// Whether a host is believed alive.
        28 => HostLiveness {
            /// The host.
            host: HostId,
            /// The belief.
            liveness: Liveness,
        },
        /// Replaces a host's labels.
        29 => PutHostLabels {
            /// The host.
            host: HostId,
            /// The labels.
            labels: HostLabels,
        },
        /// Says how much of a host may be reserved.
        30 => Oversubscribe {
            /// The host.
            host: HostId,
            /// How much.
            oversubscription: Oversubscription,
        },
        /// Says whether people want instances on a host.
        31 => SetAvailability {
            /// The host.
            host: HostId,
            /// What they want.
            availability: Availability,
        },
        /// Ends a host: its certificate is refused and its instances are replaced.
        32 => RemoveHost(host: HostId),

        /// Fills a slot with a new instance.
        33 => Place(placement: Box<Placement>),
        /// Moves what is wanted of an instance onward.
        34 => Desire {
            /// The instance.
            instance: InstanceId,
            /// What is wanted now.
            desired: Desired,
        },
        /// What an agent observed, changed instances only.
        35 => Observe {
            /// The agent's host: it speaks for no other.
            host: HostId,
            /// The observations.
            instances: Vec<(InstanceId, Observed)>,
        },
        /// Whether an instance can be heard of.
        36 => Judge {
            /// The instance.
            instance: InstanceId,
            /// The verdict.
            verdict: Verdict,
        },

        /// Notes where a member listens.
        37 => MemberAddress {
            /// The member.
            member: MemberId,
            /// Where it listens now.
            address: SocketAddr,
        },
        /// Notes whether a member that is to join the group can be reached.
        38 => MemberReached {
            /// The member.
            member: MemberId,
            /// Whether it can.
            reached: bool,
        },
        /// Asks a member to leave the group.
        39 => RemoveMember(member: MemberId),
        /// Forgets a member that has left.
        40 => ForgetMember(member: MemberId),

        /// Notes which feature levels a member's binary understands.
        43 => MemberUnderstands {
            /// The member.
            member: MemberId,
            /// The newest of them.
            level: u16,
        },
        /// Raises the feature level: from now on commands of that level may be proposed.
        44 => RaiseLevel(level: u16),
        /// Sets the time of the state back, after a wrong clock has moved it ahead.
        55 => SetClockBack {
            /// The right time.
            to: Timestamp,
        },

        /// Writes a key.
        41 => PutKey {
            /// The environment.
            environment: Name,
            /// The key.
            key: Arc<str>,
            /// The value.
            value: Arc<[u8]>,
        },
        /// Removes a key.
        42 => RemoveKey {
            /// The environment.
            environment: Name,
            /// The key.
            key: Arc<str>,
        },

        /// Puts the sealed keys of the certificate authority in the place of the open ones.
        60 => SealAuthority {
            /// The root's key, sealed.
            key: Secret<Vec<u8>>,
            /// The join key, sealed.
            join_key: Secret<Vec<u8>>,
        },
        /// Begins to change the sealing key: all members are to get a new one.
        61 => RotateSealingKey {
            /// The new key.
            next: KeyId,
            /// The member that made it.
            member: MemberId,
        },
        /// A member has stored the new sealing key.
        62 => HoldsSealingKey {
            /// The member: it speaks for no other.
            member: MemberId,
            /// The new key.
            key: KeyId,
        },
        /// Seals with the new key from now on.
        63 => UseSealingKey(key: KeyId),
        /// Puts texts that were sealed again in the place of what they were.
        64 => Reseal(texts: Vec<Resealed>),
        /// Nothing needs the old sealing key any more: members remove it.
        65 => EndSealingKey(old: KeyId),
        /// Replaces the join key.
        66 => RotateJoinKey {
            /// The self-signed certificate of the new key (DER).
            certificate: Vec<u8>,
            /// The new key, sealed.
            key: Secret<Vec<u8>>,
        },
        /// Begins to change the cluster's root.
        67 => RotateRoot(root: Box<NewRoot>),
        /// What a host has of the roots.
        68 => HostTrusts {
            /// The host.
            host: HostId,
            /// What it has.
            held: RootsHeld,
        },
        /// Goes on with the change of the root.
        69 => MoveRoot {
            /// Whether hosts that are away are left out.
            without: bool,
        },
        /// Has backups encrypted to a key from now on.
        70 => PutBackupKey {
            /// The public key.
            recipient: Recipient,
            /// The key whose place it takes; none if there is none yet.
            expected: Option<Recipient>,
        },
        /// Says when the coordinators make backups by themselves, if they do.
        71 => PutBackupSchedule(schedule: Option<Schedule>),
        /// What came of a member's scheduled backup.
        72 => BackupEnded {
            /// The member.
            member: MemberId,
            /// What came of it.
            outcome: BackupOutcome,
        },
        /// Makes a join token whose host takes the place of another one.
        73 => PutReplacingToken {
            /// The token, with one use.
            token: Box<NewJoinToken>,
            /// The host whose place is taken.
            replaces: HostId,
        },
        /// Brings a binary to all hosts.
        80 => BeginUpgrade(target: Box<Target>),
        /// Lets no further host change.
        81 => PauseUpgrade,
        /// Goes on with an upgrade; hosts that failed are tried again.
        82 => ResumeUpgrade,
        /// Ends an upgrade where it is.
        83 => AbortUpgrade,
        /// Notes where a host is in the upgrade.
        84 => UpgradeHost {
            /// The host.
            host: HostId,
            /// The binary: a step of another upgrade is refused.
            hash: BinaryHash,
            /// Where it is.
            step: Step,
        },
        /// What a host runs, as its agent says at the beginning of a session.
        85 => HostRuns {
            /// The host.
            host: HostId,
            /// Its binary.
            build: Build,
            /// Why it went back to that one, if it has just tried another.
            went_back: Option<String>,
        },
        /// Notes that every host runs the binary of the upgrade.
        86 => EndUpgrade,
    }
}

common::tagged! {
    /// What came of a command.
    #[derive(Debug, Clone, PartialEq)]
    pub enum Outcome {
        /// It was made, or had been made before.
        1 => Done {
            /// The index of the state after it.
            index: u64,
        },
        /// The stack, or the file, has this revision now.
        2 => Revision(revision: u64),
        /// The host was admitted.
        3 => Admitted {
            /// The name that it got.
            name: Name,
            /// The member that it is to run.
            member: Option<MemberId>,
        },
        /// It did not fit; nothing changed.
        4 => Rejected(problem: Problem),
        /// This token was made. When the request is repeated it is still the one that was made first.
        5 => Token(token: TokenId),
    }
}
