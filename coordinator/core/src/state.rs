//! All replicated state, and the one function that changes it.
//!
//! The maps are persistent: a clone shares all that did not change, so a snapshot is taken by
//! copying a few pointers. Everything that can be derived is derived ([`crate::view`]).

mod access;
mod audit;
mod backups;
mod environments;
mod files;
mod fleet;
mod format;
mod journal;
mod keys;
mod rebuilt;
mod requests;
mod set_back;
mod trust;
mod upgrade;
mod work;

use std::sync::Arc;

use common::{
    api::Settings,
    codec,
    error::{Code, Problem},
    id::ClusterId,
    name::default_environment,
    network::NetworkPlan,
    time::{Span, Timestamp},
};
use serde::{Deserialize, Serialize};

pub use access::{ApiTokenRecord, JoinTokenRecord};
pub use audit::{MOST_ENTRIES, REBUILT};
pub use backups::BackupReport;
pub use files::{Content, FileRecord, FileVersion};
pub use fleet::{Claims, Host, Inventory, Member, MemberState, RETURNS_WITHIN};
pub use format::StateHash;
pub use keys::Key;
pub use rebuilt::Rebuilding;
pub use trust::{RootChange, RootPhase, SealingChange};
pub use upgrade::{Phase, Step, Upgrade};
pub use work::{
    Awaited, Bookings, Candidate, End, Instance, Revision, Rollout, Runs, Service, Slot, Stack, Task, Tries, Version,
};

use crate::access::{self as authority, Action, Principal, authorize};
use crate::command::{Authority, Batch, Command, Genesis, Outcome, Person, Proposal};
use crate::level;
use work::StackChange;

/// How far the clocks of two coordinators may be apart without a strict singleton running twice.
const MAX_SKEW: Span = Span::minutes(60);

/// All replicated state of a cluster.
///
/// It consists of sections. Each owns its fields and its indexes, which only its own module writes; the other sections
/// and everything outside read them through methods. Its stored form is in `state/format.rs`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct State {
    basics: Basics,
    fleet: fleet::Fleet,
    work: work::Work,
    access: access::Credentials,
    files: files::Files,
    environments: environments::Environments,
    keys: keys::Keys,
    backups: backups::Backups,
    trust: trust::Trust,
    journal: journal::Journal,
    requests: requests::Requests,
    binaries: upgrade::Binaries,
    audit: audit::Audit,
}

/// The section of what holds for the whole cluster.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
struct Basics {
    /// Absent until [`Command::Initialize`].
    identity: Option<Arc<ClusterIdentity>>,
    clock: Timestamp,
    level: u16,
    settings: Settings,
    network: NetworkPlan,
    /// The longest `lost_after` under which a host may hold a lease since the settings were changed, and until
    /// when it may.
    old_leases: Option<(Span, Timestamp)>,
}

/// What makes a cluster this one.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub struct ClusterIdentity {
    /// Its identity.
    pub id: ClusterId,
    /// Its certificate authority.
    pub authority: Authority,
}

impl State {
    /// What makes it this cluster; absent until [`Command::Initialize`].
    pub fn identity(&self) -> Option<&Arc<ClusterIdentity>> {
        self.basics.identity.as_ref()
    }

    /// The newest time that a command brought; it never goes back.
    pub fn clock(&self) -> Timestamp {
        self.basics.clock
    }

    /// The feature level: what all members understand, and may be proposed.
    pub fn level(&self) -> u16 {
        self.basics.level
    }

    /// The cluster's times.
    pub fn settings(&self) -> Settings {
        self.basics.settings
    }

    /// How its containers are addressed and reached; never changes.
    pub fn network(&self) -> NetworkPlan {
        self.basics.network
    }

    /// Applies the commands of one log entry; deterministic, and it never fails as a whole.
    pub fn apply(&mut self, batch: &Batch) -> Vec<Outcome> {
        self.basics.clock = self.basics.clock.max(batch.at);
        batch.proposals.iter().map(|proposal| self.apply_once(proposal)).collect()
    }

    /// Applies a proposal unless one with its request id has been applied.
    fn apply_once(&mut self, proposal: &Proposal) -> Outcome {
        let Some(request) = proposal.request else { return self.apply_by(proposal) };
        if let Some(known) = self.requests.outcome_of(request) {
            return known;
        }
        let now = self.basics.clock;
        // Members of an earlier level forget by number alone.
        let keep = if self.basics.level < level::KEPT_REQUESTS { Span(0) } else { requests::REPEATED_WITHIN };
        if keep > Span(0)
            && let Err(problem) = self.requests.make_room(now)
        {
            return Outcome::Rejected(problem);
        }
        let outcome = self.apply_by(proposal);
        self.requests.remember(request, outcome.clone(), (now, keep));
        outcome
    }

    /// Applies a proposal of somebody who may make it by now; its events say who asked for it.
    fn apply_by(&mut self, proposal: &Proposal) -> Outcome {
        if let Err(problem) = self.allows(proposal.by.as_ref(), &proposal.command) {
            return Outcome::Rejected(problem);
        }
        let before = self.index();
        self.journal.actor = proposal.by.as_ref().map(|person| person.name.clone());
        let outcome = self.apply_command(&proposal.command);
        self.journal.actor = None;
        if self.index() > before {
            self.enter(proposal);
        }
        outcome
    }

    /// Refuses a command that its author may not have applied; the cluster itself is the author if there is no person.
    pub fn allows(&self, by: Option<&Person>, command: &Command) -> Result<(), Problem> {
        let principal = by.map_or(Principal::Cluster, |person| Principal::Token(person.token));
        authorize(&principal, &Action::Change(command), self).map_err(|refusal| match by {
            Some(person) => authority::explain(person, refusal, command, self),
            None => Problem::new(Code::Denied, "The change was not made").why(refusal.to_string()),
        })
    }

    fn apply_command(&mut self, command: &Command) -> Outcome {
        // Before there is a state there is no level.
        if self.basics.identity.is_some()
            && let Err(problem) = level::check(command.level(), self.basics.level)
        {
            return Outcome::Rejected(problem);
        }
        self.carry_out(command).unwrap_or_else(Outcome::Rejected)
    }

    fn carry_out(&mut self, command: &Command) -> Applied {
        match command {
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
            Command::PutApiToken { id, name, access, secret } => self.put_api_token(*id, name, access.grant(), *secret),
            Command::PutToken { id, name, grant, secret } => self.put_api_token(*id, name, grant.clone(), *secret),
            Command::RemoveApiToken(id) => self.remove_api_token(*id),
            Command::PutEnvironment(name) => self.put_environment(name),
            Command::RemoveEnvironment(name) => self.remove_environment(name),
            Command::PutFile { id, content } => self.put_file(id, content),
            Command::RemoveFile(id) => self.remove_file(id),
            Command::PutRegistry(credentials) => self.put_registry(credentials),
            Command::RemoveRegistry(registry) => self.remove_registry(registry),
            Command::HostReported { host, facts, machine } => self.host_reported(*host, facts, (*machine, None)),
            Command::HostSaid { host, facts, machine, from } => self.host_reported(*host, facts, (*machine, *from)),
            Command::RefuseClone(host) => self.refuse_clone(*host),
            Command::AcceptHost { host, expect } => self.accept_host(*host, expect),
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
            Command::MemberUnderstands { member, level } => self.member_understands(*member, *level),
            Command::RaiseLevel(level) => self.raise_level(*level),
            Command::SetClockBack { to } => self.set_clock_back(*to),
            Command::MemberReached { member, reached } => self.member_reached(*member, *reached),
            Command::RemoveMember(member) => self.remove_member(*member),
            Command::ForgetMember(member) => self.forget_member(*member),
            Command::PutKey { environment, key, value } => self.put_key(environment, key, value),
            Command::RemoveKey { environment, key } => self.remove_key(environment, key),
            Command::PutBackupKey { recipient, expected } => self.put_backup_key(*recipient, *expected),
            Command::PutBackupSchedule(schedule) => self.put_backup_schedule(*schedule),
            Command::BackupEnded { member, outcome } => self.backup_ended(*member, outcome),
            Command::PutReplacingToken { token, replaces } => self.put_replacing_token(token, *replaces),
            Command::BeginUpgrade(target) => self.begin_upgrade(target),
            Command::PauseUpgrade => self.pause_upgrade(),
            Command::ResumeUpgrade => self.resume_upgrade(),
            Command::AbortUpgrade => self.abort_upgrade(),
            Command::UpgradeHost { host, hash, step } => self.upgrade_host(*host, *hash, step),
            Command::HostRuns { host, build, went_back } => self.host_runs(*host, build, went_back.as_deref()),
            Command::EndUpgrade => self.end_upgrade(),
            Command::SealAuthority { key, join_key } => self.seal_authority(key, join_key),
            Command::RotateSealingKey { next, member } => self.rotate_sealing_key(*next, *member),
            Command::HoldsSealingKey { member, key } => self.holds_sealing_key(*member, *key),
            Command::UseSealingKey(key) => self.use_sealing_key(*key),
            Command::Reseal(texts) => self.reseal(texts),
            Command::RotateJoinKey { certificate, key } => self.rotate_join_key(certificate, key),
            Command::RotateRoot(root) => self.rotate_root(root),
            Command::HostTrusts { host, held } => self.host_trusts(*host, held),
            Command::MoveRoot { without } => self.move_root(*without),
            Command::EndSealingKey(old) => self.end_sealing_key(*old),
        }
    }

    fn initialize(&mut self, genesis: &Genesis) -> Applied {
        if self.basics.identity.is_some() {
            return Err(Problem::new(Code::Conflict, "The cluster already exists"));
        }
        self.basics.identity =
            Some(Arc::new(ClusterIdentity { id: genesis.cluster, authority: genesis.authority.clone() }));
        self.basics.level = genesis.level;
        self.note_sealing_key();
        self.basics.settings = genesis.settings;
        self.basics.network = genesis.network;
        self.environments.insert(default_environment(), self.basics.clock);
        let member = Member { level: genesis.level, ..Member::new(genesis.host, genesis.address) };
        self.fleet.begin_with(genesis.member, member);
        self.admit_host(genesis.host, genesis.name.clone(), Default::default())?;
        self.record(genesis.cluster, "cluster-made", format!("the cluster was made on host {}", genesis.name));
        self.done()
    }

    fn raise_level(&mut self, level: u16) -> Applied {
        let refuse = |why: String| Err(Problem::new(Code::Conflict, "The feature level was not raised").why(why));
        if level <= self.basics.level {
            return refuse(format!("it is {} already", self.basics.level));
        }
        if let Some((id, member)) = self.members().iter().find(|(_, member)| member.level < level) {
            return refuse(format!("member {id} understands the levels up to {}", member.level));
        }
        self.basics.level = level;
        self.record("cluster", "level-raised", format!("all coordinators understand feature level {level}"));
        self.done()
    }

    fn put_settings(&mut self, settings: Settings) -> Applied {
        if let Some(violation) = settings.violation() {
            return Err(Problem::new(Code::InvalidRequest, "The settings were not changed").why(violation));
        }
        if self.basics.settings != settings {
            // Hosts hold leases by the old times until those are over.
            let longest = settings.lost_after.max(self.longest_lease());
            self.basics.old_leases = Some((longest, self.basics.clock + longest + MAX_SKEW));
            self.basics.settings = settings;
            self.record("cluster", "settings-changed", "the cluster's times were changed");
        }
        self.done()
    }

    /// How long a host that was never heard again may let a strict singleton run, at the most.
    pub fn longest_lease(&self) -> Span {
        self.basics.settings.lost_after.max(self.old_lease().unwrap_or_default())
    }

    /// The longest lease by earlier settings, while one may be held.
    pub fn old_lease(&self) -> Option<Span> {
        self.basics.old_leases.filter(|(_, until)| *until > self.basics.clock).map(|(longest, _)| longest)
    }

    fn done(&self) -> Applied {
        Ok(Outcome::Done { index: self.index() })
    }
}

/// What a command's own function gives: an outcome, or why it does not fit.
type Applied = Result<Outcome, Problem>;

/// The bytes that a value takes where it is stored; one that cannot be stored takes more than any limit.
fn size_of<T: Serialize>(value: &T) -> usize {
    codec::size(value).unwrap_or(usize::MAX)
}

/// The beginning of a text.
fn shortened(text: String, characters: usize) -> String {
    match text.char_indices().nth(characters) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

fn not_found(what: &str, id: impl std::fmt::Display) -> Problem {
    Problem::new(Code::NotFound, format!("There is no {what} {id}"))
}

#[cfg(test)]
mod tests;
