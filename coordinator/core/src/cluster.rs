//! All replicated state, and the one function that changes it.
//!
//! The maps are persistent: a clone shares all that did not change, so a snapshot is taken by
//! copying a few pointers. Everything that can be derived is derived ([`crate::view`]).

mod access;
mod candidate;
mod dependencies;
mod environments;
mod files;
mod hosts;
mod instances;
mod keys;
mod network;
mod rollouts;
mod runs;
mod stacks;

use std::{net::Ipv4Addr, sync::Arc};

use common::{
    api::{Access, Event, Settings},
    assignment::RegistryCredentials,
    error::{Code, Problem},
    file::FileId,
    id::{ClusterId, HostId, InstanceId, MemberId, SlotId, StackId},
    name::{Name, default_environment},
    network::{NetworkPlan, Subnet},
    output::LastLines,
    time::{Span, Timestamp},
    token::TokenId,
};
use imbl::{OrdMap, OrdSet};
use serde::{Deserialize, Serialize};

pub use access::{ApiTokenRecord, JoinTokenRecord};
pub use candidate::Candidate;
pub use dependencies::Awaited;
pub use files::{Content, FileRecord, FileVersion};
pub use hosts::{Host, Member, MemberState, RETURNS_WITHIN};
pub use instances::{Bookings, Instance, Slot};
pub use keys::Key;
pub use rollouts::{Rollout, Version};
pub use runs::{End, Runs, Task, Tries};
use stacks::StackChange;
pub use stacks::{Revision, Service, Stack};

use crate::access::{Action, Principal, Refusal, authorize};
use crate::command::{Authority, Batch, Command, Genesis, Outcome, Person, Proposal, Request, RequestId};

/// How far the clocks of two coordinators may be apart without a strict singleton running twice.
const MAX_SKEW: Span = Span::minutes(60);
/// Most events that are kept.
const MAX_EVENTS: usize = 4096;
/// Most events that are kept with the output of what failed.
const MAX_OUTPUTS: usize = 256;
/// How long the outcome of a request is remembered.
const REMEMBER_REQUESTS: Span = Span::minutes(10);
/// Most requests whose outcome is remembered.
const MAX_REQUESTS: usize = 20_000;

/// All replicated state of a cluster.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Cluster {
    /// What makes it this cluster; absent until [`Command::Initialize`].
    pub identity: Option<Arc<ClusterIdentity>>,
    /// Grows with every change and every event.
    pub index: u64,
    /// The newest time that a command brought; it never goes back.
    pub clock: Timestamp,
    /// The cluster's times.
    pub settings: Settings,
    /// How its containers are addressed and reached; never changes.
    pub network: NetworkPlan,
    /// The longest `lost_after` by which a host may hold a lease since the settings were changed, and until
    /// when it may.
    pub old_leases: Option<(Span, Timestamp)>,
    /// Slots of strict singletons that a removed host may still fill, and until when.
    pub orphans: OrdMap<SlotId, Timestamp>,
    /// The environments.
    pub environments: OrdMap<Name, Timestamp>,
    /// The stacks, those being removed included.
    pub stacks: OrdMap<StackId, Stack>,
    /// The hosts.
    pub hosts: OrdMap<HostId, Host>,
    /// Every slot that has ever been filled and may be again.
    pub slots: OrdMap<SlotId, Slot>,
    /// The highest incarnation of a slot that was forgotten.
    pub retired_incarnation: u64,
    /// The instances, until their container is gone.
    pub instances: OrdMap<InstanceId, Instance>,
    /// The instances of each host.
    pub by_host: OrdSet<(HostId, InstanceId)>,
    /// Those of them that are strict singletons: every heartbeat of a host asks for them.
    pub strict_by_host: OrdSet<(HostId, InstanceId)>,
    /// The hosts' names.
    pub host_names: OrdSet<Name>,
    /// The highest subnet that a host was ever given.
    pub last_subnet: Option<Subnet>,
    /// The subnets below it that no host has, and since when: somebody may still take one for what it was.
    pub released_subnets: OrdMap<Subnet, Timestamp>,
    /// The address that was given to a service last: they are given in turn, so that one that was given up is not
    /// at once another's.
    pub last_service_address: Option<Ipv4Addr>,
    /// The coordinators.
    pub members: OrdMap<MemberId, Member>,
    /// The largest member id given out.
    pub last_member: u64,
    /// The largest host number given out.
    pub last_host: u32,
    /// The join tokens.
    pub join_tokens: OrdMap<TokenId, JoinTokenRecord>,
    /// The API tokens.
    pub api_tokens: OrdMap<TokenId, ApiTokenRecord>,
    /// Who to be at registries.
    pub registries: OrdMap<String, RegistryCredentials>,
    /// Configs and secrets.
    pub files: OrdMap<FileId, FileRecord>,
    /// Hosts that were removed: their certificates are refused.
    pub removed_hosts: OrdMap<HostId, Timestamp>,
    /// The key/value stores of the environments.
    pub keys: OrdMap<(Name, Arc<str>), Key>,
    /// The last events, by index.
    pub events: OrdMap<u64, Event>,
    /// Those of them that hold output.
    with_output: OrdSet<u64>,
    /// Who asked for the command that is being applied.
    #[serde(skip)]
    actor: Option<Name>,
    /// Outcomes of recent requests.
    requests: OrdMap<RequestId, Remembered>,
    /// Recent requests by age.
    request_ages: OrdMap<u64, (Timestamp, RequestId)>,
}

/// What came of a request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Remembered {
    /// Its place among the requests by age.
    age: u64,
    /// What it asked for.
    content: [u8; 16],
    outcome: Outcome,
}

/// What makes a cluster this one.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub struct ClusterIdentity {
    /// Its identity.
    pub id: ClusterId,
    /// Its certificate authority.
    pub authority: Authority,
}

impl Cluster {
    /// Applies the commands of one log entry; deterministic, and it never fails as a whole.
    pub fn apply(&mut self, batch: &Batch) -> Vec<Outcome> {
        self.clock = self.clock.max(batch.at);
        batch.proposals.iter().map(|proposal| self.apply_once(proposal)).collect()
    }

    /// Applies a proposal unless one with its request id has been applied.
    fn apply_once(&mut self, proposal: &Proposal) -> Outcome {
        let Some(request) = proposal.request else { return self.apply_by(proposal) };
        match self.requests.get(&request.id) {
            Some(known) if known.content == request.content => return known.outcome.clone(),
            Some(_) => return Outcome::Rejected(another_request()),
            None => {}
        }
        let outcome = self.apply_by(proposal);
        self.remember(request, outcome.clone());
        outcome
    }

    /// Applies a proposal of somebody who may make it by now; its events say who asked for it.
    fn apply_by(&mut self, proposal: &Proposal) -> Outcome {
        if let Some(person) = &proposal.by
            && let Err(refusal) = authorize(&Principal::Token(person.token), &Action::Api(Access::Admin), self)
        {
            return Outcome::Rejected(not_authorised(person, refusal));
        }
        self.actor = proposal.by.as_ref().map(|person| person.name.clone());
        let outcome = self.apply_command(&proposal.command);
        self.actor = None;
        outcome
    }

    fn remember(&mut self, request: Request, outcome: Outcome) {
        let age = self.request_ages.get_max().map_or(0, |(age, _)| age + 1);
        self.request_ages.insert(age, (self.clock, request.id));
        self.requests.insert(request.id, Remembered { age, content: request.content, outcome });
        while let Some((&oldest, &(at, id))) = self.request_ages.get_min().map(|(age, entry)| (age, entry)) {
            if self.request_ages.len() <= MAX_REQUESTS && self.clock.since(at) < REMEMBER_REQUESTS {
                break;
            }
            self.request_ages.remove(&oldest);
            self.requests.remove(&id);
        }
    }

    fn apply_command(&mut self, command: &Command) -> Outcome {
        let applied = match command {
            Command::Initialize(genesis) => self.initialize(genesis),
            Command::PutSettings(settings) => self.put_settings(*settings),
            Command::PutStack { id, spec, files, expect_revision, what, goes_back } => {
                let change = StackChange { spec, files, expect: *expect_revision, what, goes_back: *goes_back };
                self.put_stack(id, change)
            }
            Command::RemoveStack(id) => self.remove_stack(id),
            Command::ScaleService { id, replicas } => self.scale_service(id, *replicas),
            Command::MoveRollout { service, expect_revision, state, why } => {
                self.move_rollout(service, *expect_revision, *state, why)
            }
            Command::Promote { service, expect_revision } => self.promote(service, *expect_revision),
            Command::RollBack { service, expect_revision, why } => self.roll_back(service, *expect_revision, why),
            Command::Tick { service, due, left_out } => self.tick(service, *due, left_out.as_deref()),
            Command::Rebalance { services } => self.rebalance(services),
            Command::EndRebalance(service) => self.end_rebalance(service),
            Command::Retry(service) => self.retry(service),
            Command::PinImage { service, expect_revision, digest } => self.pin_image(service, *expect_revision, digest),
            Command::PutJoinToken(token) => self.put_join_token(token),
            Command::RevokeJoinToken(id) => self.revoke_join_token(*id),
            Command::Admit(admission) => self.admit(admission),
            Command::PutApiToken { id, name, access, secret } => self.put_api_token(*id, name, *access, *secret),
            Command::RemoveApiToken(id) => self.remove_api_token(*id),
            Command::PutEnvironment(name) => self.put_environment(name),
            Command::RemoveEnvironment(name) => self.remove_environment(name),
            Command::PutFile { id, content } => self.put_file(id, content),
            Command::RemoveFile(id) => self.remove_file(id),
            Command::PutRegistry(credentials) => self.put_registry(credentials),
            Command::RemoveRegistry(registry) => self.remove_registry(registry),
            Command::HostReported { host, facts, machine } => self.host_reported(*host, facts, *machine),
            Command::HostConditions { host, conditions } => self.host_conditions(*host, conditions),
            Command::HostLeaves(host) => self.host_leaves(*host),
            Command::HostLiveness { host, liveness } => self.host_liveness(*host, *liveness),
            Command::PutHostLabels { host, labels } => self.put_host_labels(*host, labels),
            Command::Oversubscribe { host, oversubscription } => self.oversubscribe(*host, *oversubscription),
            Command::SetAvailability { host, availability } => self.set_availability(*host, *availability),
            Command::RemoveHost(host) => self.remove_host(*host),
            Command::Place(placement) => self.place(placement),
            Command::Desire { instance, desired } => self.desire(instance, *desired),
            Command::Observe { host, instances } => self.observe(*host, instances),
            Command::Judge { instance, verdict } => self.judge(instance, *verdict),
            Command::MemberAddress { member, address } => self.member_address(*member, *address),
            Command::MemberReached { member, reached } => self.member_reached(*member, *reached),
            Command::RemoveMember(member) => self.remove_member(*member),
            Command::ForgetMember(member) => self.forget_member(*member),
            Command::PutKey { environment, key, value } => self.put_key(environment, key, value),
            Command::RemoveKey { environment, key } => self.remove_key(environment, key),
        };
        applied.unwrap_or_else(Outcome::Rejected)
    }

    fn initialize(&mut self, genesis: &Genesis) -> Applied {
        if self.identity.is_some() {
            return Err(Problem::new(Code::Conflict, "The cluster has been made already"));
        }
        self.identity = Some(Arc::new(ClusterIdentity { id: genesis.cluster, authority: genesis.authority.clone() }));
        self.settings = genesis.settings;
        self.network = genesis.network;
        self.environments.insert(default_environment(), self.clock);
        self.last_member = genesis.member.0;
        self.members.insert(genesis.member, Member::new(genesis.host, genesis.address));
        self.admit_host(genesis.host, genesis.name.clone(), Default::default())?;
        self.record(genesis.cluster, "cluster-made", format!("the cluster was made on host {}", genesis.name));
        self.done()
    }

    fn put_settings(&mut self, settings: Settings) -> Applied {
        if let Some(violation) = settings.violation() {
            return Err(Problem::new(Code::InvalidRequest, "The settings were not changed").why(violation));
        }
        if self.settings != settings {
            // Hosts hold leases by the old times until those are over.
            let longest = settings.lost_after.max(self.longest_lease());
            self.old_leases = Some((longest, self.clock + longest + MAX_SKEW));
            self.settings = settings;
            self.record("cluster", "settings-changed", "the cluster's times were changed");
        }
        self.done()
    }

    /// How long a host that was never heard again may let a strict singleton run, at the most.
    pub fn longest_lease(&self) -> Span {
        self.settings.lost_after.max(self.old_lease().unwrap_or_default())
    }

    /// The longest lease by earlier settings, while one may be held.
    pub fn old_lease(&self) -> Option<Span> {
        self.old_leases.filter(|(_, until)| *until > self.clock).map(|(longest, _)| longest)
    }

    /// Counts a change.
    fn touch(&mut self) -> u64 {
        self.index += 1;
        self.index
    }

    /// Counts a change and leaves an event that tells of it.
    fn record(&mut self, subject: impl ToString, reason: &str, message: impl Into<String>) {
        let index = self.touch();
        let event = Event {
            index,
            at: self.clock,
            subject: subject.to_string(),
            reason: reason.to_owned(),
            message: message.into(),
            by: self.actor.clone(),
            output: LastLines::default(),
        };
        self.events.insert(index, event);
        while self.events.len() > MAX_EVENTS
            && let Some(oldest) = self.events.get_min().map(|(index, _)| *index)
        {
            self.events.remove(&oldest);
            self.with_output.remove(&oldest);
        }
    }

    /// Leaves an event of a failure with the last lines of what failed. The newest such events alone keep them.
    fn record_failure(&mut self, subject: impl ToString, reason: &str, message: impl Into<String>, output: &LastLines) {
        self.record(subject, reason, message);
        let index = self.index;
        let Some(event) = self.events.get_mut(&index).filter(|_| !output.is_empty()) else { return };
        event.output.clone_from(output);
        self.with_output.insert(index);
        if self.with_output.len() > MAX_OUTPUTS
            && let Some(oldest) = self.with_output.remove_min()
            && let Some(event) = self.events.get_mut(&oldest)
        {
            event.output = LastLines::default();
        }
    }

    fn done(&self) -> Applied {
        Ok(Outcome::Done { index: self.index })
    }
}

/// What a command's own function gives: an outcome, or why it does not fit.
type Applied = Result<Outcome, Problem>;

fn not_authorised(person: &Person, refusal: Refusal) -> Problem {
    let code = if refusal == Refusal::Unknown { Code::Unauthenticated } else { Code::Denied };
    let why = match refusal {
        Refusal::Unknown | Refusal::Removed => format!("the token {} was revoked", person.name),
        Refusal::NotAllowed => format!("the token {} may only read", person.name),
    };
    Problem::new(code, "The change was not made").why(why).fix("Use a token with the access admin: wharf token create")
}

fn another_request() -> Problem {
    Problem::new(Code::Conflict, "The change was not made: its Idempotency-Key was used for another one before")
        .why("the same key came with another body a short while ago")
        .fix("Send each change with a key of its own, and a repetition of it unchanged")
}

fn not_found(what: &str, id: impl std::fmt::Display) -> Problem {
    Problem::new(Code::NotFound, format!("There is no {what} {id}"))
}

#[cfg(test)]
mod tests;
