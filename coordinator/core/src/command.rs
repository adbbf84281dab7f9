//! The commands that change a [`State`](crate::State), and what came of each.
//!
//! A command carries all that it depends on: its time, its ids, and what its author expected the
//! state to be. It is checked again when it is applied; one that no longer fits changes nothing.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use common::{
    api::Settings,
    assignment::RegistryCredentials,
    backup::{Recipient, Schedule},
    device::BoundDevice,
    error::Problem,
    file::{FileId, FileKind},
    host::{Availability, HostCondition, HostFacts, HostLabels, Liveness, Oversubscription},
    id::{ClusterId, HostId, InstanceId, MemberId, ServiceId, SlotId, StackId},
    instance::{Desired, Observed, Verdict},
    name::Name,
    network::NetworkPlan,
    role::{Grant, Role},
    rollout::RolloutState,
    secret::Secret,
    spec::StackSpec,
    time::Timestamp,
    token::{JoinRole, SecretHash, TokenId},
    upgrade::{BinaryHash, Build, Target},
    wire::RootsHeld,
};
use serde::{Deserialize, Serialize};

use crate::{
    sealed::KeyId,
    state::{Content, Inventory, Step},
};

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
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Person {
    /// The token: what it allows is decided when the command is applied.
    pub token: TokenId,
    /// What it is called, for the history.
    pub name: Name,
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
    /// Where a sealed text lies.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub enum SealedPlace {
        /// A version of a secret.
        1 => Secret {
            /// The secret.
            id: FileId,
            /// The version.
            version: u64,
        },
        /// The key of the root that issues certificates.
        2 => RootKey,
        /// The join key.
        3 => JoinKey,
        /// The key of the root that is to come.
        4 => NextRootKey,
    }
}

/// A new root.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NewRoot {
    /// Its certificate (DER).
    pub certificate: Vec<u8>,
    /// Its key, sealed.
    pub key: Secret<Vec<u8>>,
    /// Its certificate as the present root signs it (DER).
    pub cross: Vec<u8>,
}

/// A text that was opened with an earlier sealing key, and sealed with the present one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Resealed {
    /// Where it lies.
    pub place: SealedPlace,
    /// A hash of the earlier text: what has changed since stays.
    pub before: [u8; 32],
    /// The new text.
    pub text: Arc<[u8]>,
}

/// What came of a scheduled backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum BackupOutcome {
    /// It was made.
    Made {
        /// The index of the state in it.
        index: u64,
        /// Its size.
        bytes: u64,
        /// The path of its file on the member's host.
        path: String,
    },
    /// It was not made.
    Failed {
        /// Why.
        why: String,
    },
}

/// What a token of feature level 1 may do, everywhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Access {
    /// What [`Role::Viewer`] may.
    Viewer,
    /// What [`Role::Admin`] may.
    Admin,
}

impl Access {
    /// The same as a grant.
    pub fn grant(self) -> Grant {
        Grant::of_cluster(match self {
            Access::Viewer => Role::Viewer,
            Access::Admin => Role::Admin,
        })
    }

    /// A grant as level 1 has it, if it does.
    pub fn of(grant: &Grant) -> Option<Access> {
        match (grant.role, &grant.environments) {
            (Role::Viewer, None) => Some(Access::Viewer),
            (Role::Admin, None) => Some(Access::Admin),
            _ => None,
        }
    }
}

/// A new version of a stack's own config or secret.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NewFile {
    /// Its kind.
    pub kind: FileKind,
    /// Its name.
    pub name: Name,
    /// What is in it.
    pub content: Content,
}

impl NewFile {
    /// Which file it is for that stack.
    pub fn id(&self, stack: &StackId) -> FileId {
        FileId {
            environment: stack.environment.clone(),
            stack: Some(stack.stack.clone()),
            kind: self.kind,
            name: self.name.clone(),
        }
    }
}

/// All that a new cluster starts with.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Genesis {
    /// Its identity.
    pub cluster: ClusterId,
    /// Its certificate authority.
    pub authority: Authority,
    /// Its times.
    pub settings: Settings,
    /// How its containers are addressed and reached.
    pub network: NetworkPlan,
    /// The first member.
    pub member: MemberId,
    /// Where that listens.
    pub address: SocketAddr,
    /// The first member's host.
    pub host: HostId,
    /// That host's name.
    pub name: Name,
    /// The feature level of the binary that makes it.
    pub level: u16,
}

/// The keys that every coordinator shares.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Authority {
    /// The root certificate (DER).
    pub certificate: Vec<u8>,
    /// The root's key (PKCS #8), sealed from feature level [`TRUST`](crate::level::TRUST) on.
    pub key: Secret<Vec<u8>>,
    /// The self-signed certificate of the join key (DER).
    pub join_certificate: Vec<u8>,
    /// The join key (PKCS #8), sealed like the root's.
    pub join_key: Secret<Vec<u8>>,
}

/// A new join token.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NewJoinToken {
    /// Its public part.
    pub id: TokenId,
    /// The hash of its secret.
    pub secret: SecretHash,
    /// What hosts become by it.
    pub role: JoinRole,
    /// When it ends.
    pub expires_at: Timestamp,
    /// How many hosts it admits.
    pub max_uses: u32,
    /// Labels for the hosts.
    pub labels: HostLabels,
    /// The network and prefix length that hosts must come from.
    pub from: Option<(IpAddr, u8)>,
}

/// A host that asks to be admitted; its proof has been checked against the token's hash.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Admission {
    /// The token.
    pub token: TokenId,
    /// The host, derived from its key.
    pub host: HostId,
    /// The name that it would like.
    pub name: Name,
    /// Where the request came from.
    pub from: IpAddr,
    /// Where its coordinator would listen.
    pub address: SocketAddr,
}

/// A new instance, and what its author took for granted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Placement {
    /// The slot to fill.
    pub slot: SlotId,
    /// The slot's incarnation so far.
    pub expect_incarnation: u64,
    /// The service's revision.
    pub expect_revision: u64,
    /// The revision that the instance is to be of: the service's, or the last one that served whole while the
    /// change to the service's is held up.
    pub revision: u64,
    /// The host.
    pub host: HostId,
    /// The host ports, one for each port of the spec.
    pub ports: Vec<u16>,
    /// The devices of the host, as many as the spec asks for.
    pub devices: Vec<BoundDevice>,
    /// The instance that fills the slot: unreachable, or to go once this one serves.
    pub replaces: Option<InstanceId>,
    /// Since when that instance is unreachable, if it is.
    pub unknown_since: Option<Timestamp>,
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
