//! Hosts, and the members that run on some of them.

mod claims;
mod subnets;
mod version1;

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use common::{
    error::{Code, Problem},
    host::{Availability, HostCondition, HostFacts, HostLabels, Liveness, Oversubscription},
    id::{HostId, InstanceId, MemberId},
    instance::{Observed, Phase, Verdict},
    name::Name,
    network::Subnet,
    spec::{Resources, ServiceSpec},
    time::{Span, Timestamp},
};
use serde::{Deserialize, Serialize};

use imbl::{OrdMap, OrdSet};

use crate::fence;

use super::{Applied, State, not_found, set_back::Back, size_of};

pub use claims::{Claims, Inventory};
pub(super) use version1::Version1;

/// The section of hosts and members.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Fleet {
    hosts: OrdMap<HostId, Host>,
    /// An index: the hosts' names.
    host_names: OrdSet<Name>,
    /// The largest host number given out.
    last_host: u32,
    /// Hosts that were removed, and when: their certificates are refused.
    removed_hosts: OrdMap<HostId, Timestamp>,
    members: OrdMap<MemberId, Member>,
    /// The largest member id given out.
    last_member: u64,
    /// The highest subnet that a host was ever given.
    last_subnet: Option<Subnet>,
    /// The subnets below it that no host has, and since when: another host may still take one for what it was.
    released_subnets: OrdMap<Subnet, Timestamp>,
}

impl Fleet {
    /// Adds the first member of a new cluster.
    pub(super) fn begin_with(&mut self, id: MemberId, member: Member) {
        self.last_member = id.0;
        self.members.insert(id, member);
    }

    /// Sets all times back.
    pub(super) fn set_back(&mut self, back: Back) {
        back.each(&mut self.hosts, |host| host.set_back(back));
        back.each(&mut self.removed_hosts, |at| back.time(at));
        back.each(&mut self.released_subnets, |at| back.time(at));
        back.each(&mut self.members, |member| member.unreached_since.iter_mut().for_each(|since| back.time(since)));
    }

    /// Forgets all members: their ids are refused from now on.
    pub(super) fn forget_members(&mut self) {
        self.members = OrdMap::new();
    }

    /// Adds the only member of a cluster that begins again.
    pub(super) fn begin_again_with(&mut self, id: MemberId, member: Member) {
        self.forget_members();
        self.begin_with(id, member);
    }

    /// Notes that a host, of which nothing is heard yet, will return.
    pub(super) fn expect_back(&mut self, id: HostId, now: Timestamp) {
        if let Some(host) = self.hosts.get_mut(&id) {
            (host.liveness, host.left_at) = (Liveness::Suspect { since: now }, Some(now));
        }
    }

    /// Gives the place of a host to another one, which is not heard yet and may be another machine.
    pub(super) fn take_place(&mut self, old: HostId, new: HostId, now: Timestamp) {
        let Some(mut host) = self.hosts.remove(&old) else { return };
        host.machine = None;
        host.conditions.clear();
        host.unprepared.clear();
        host.returns.clear();
        self.hosts.insert(new, host);
        self.removed_hosts.insert(old, now);
    }

    /// Adds a member, which is to join the group.
    pub(super) fn add_member(&mut self, member: Member) -> MemberId {
        self.last_member += 1;
        let id = MemberId(self.last_member);
        self.members.insert(id, member);
        id
    }
}

/// A host that was admitted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Host {
    /// Its name, unique in the cluster.
    pub name: Name,
    /// Its number, never given out twice: the slot of global services on it.
    pub number: u32,
    /// Whether people want instances on it.
    pub availability: Availability,
    /// Whether it is believed alive.
    pub liveness: Liveness,
    /// When its agent said that it leaves and means to come back, until it has.
    pub left_at: Option<Timestamp>,
    /// When it came back from being down, lately.
    pub returns: Vec<Timestamp>,
    /// What it cannot do now; it gets nothing new as long as there is something.
    pub conditions: Vec<HostCondition>,
    /// The images that it could not make containers of lately, and when it failed last.
    pub unprepared: BTreeMap<String, Timestamp>,
    /// The labels that people gave it.
    pub labels: HostLabels,
    /// What its agent says of it.
    pub facts: Option<HostFacts>,
    /// How much of that may be reserved.
    pub oversubscription: Oversubscription,
    /// A hash of its machine's id, from its first session.
    pub machine: Option<[u8; 16]>,
    /// When it was admitted.
    pub joined_at: Timestamp,
    /// The addresses of its containers, which it has for life.
    pub subnet: Subnet,
    /// What it claims of itself, as far as that does not count.
    pub claims: Claims,
}

/// How long what runs on a host waits for it, if its agent has said that it will be back.
pub const RETURNS_WITHIN: Span = Span::minutes(5);
/// Most bytes that an agent may say of its host.
const MAX_FACTS: usize = 256 << 10;
/// The time in which a host may return so often.
const FLAP_WINDOW: Span = Span::minutes(10);
/// So many returns within that time, and it gets nothing new for a while.
const FLAPS: usize = 3;
/// That while, after its last return.
const FLAP_PENALTY: Span = Span::minutes(5);

/// For so long other hosts are tried first for an image that it could not prepare.
const AVOID_FOR: Span = Span::minutes(10);
/// Most images that are remembered so.
const MAX_UNPREPARED: usize = 64;

impl Host {
    fn set_back(&mut self, back: Back) {
        if let Liveness::Suspect { since } | Liveness::Down { since } = &mut self.liveness {
            back.time(since);
        }
        if let Availability::Draining { deadline } = &mut self.availability {
            back.time(deadline);
        }
        for condition in &mut self.conditions {
            if let HostCondition::DockerSilent { since } = condition {
                back.time(since);
            }
        }
        let times = self.left_at.iter_mut().chain(&mut self.returns).chain(self.unprepared.values_mut());
        times.chain([&mut self.joined_at]).for_each(|time| back.time(time));
    }

    /// What may be reserved of it; nothing before it has reported.
    pub fn capacity(&self) -> Resources {
        self.facts.as_ref().map_or_else(Resources::default, |facts| self.oversubscription.of(facts))
    }

    /// Since when its Docker does not answer, if that is so.
    pub fn docker_silent_since(&self) -> Option<Timestamp> {
        self.conditions.iter().find_map(|condition| match condition {
            HostCondition::DockerSilent { since } => Some(*since),
            HostCondition::DiskFull { .. } => None,
        })
    }

    /// Whether it failed to make a container of an image so lately that other hosts are tried first.
    pub fn could_not_prepare(&self, image: &str, now: Timestamp) -> bool {
        self.unprepared.get(image).is_some_and(|at| now.since(*at) < AVOID_FOR)
    }

    /// Notes that it could not make a container of an image.
    pub(super) fn avoid(&mut self, image: &str, now: Timestamp) {
        self.unprepared.insert(image.to_owned(), now);
        if self.unprepared.len() > MAX_UNPREPARED
            && let Some(oldest) = self.unprepared.iter().min_by_key(|(_, at)| **at).map(|(image, _)| image.clone())
        {
            self.unprepared.remove(&oldest);
        }
    }

    /// Until when it gets nothing new, because it comes and goes.
    pub fn flapping_until(&self, now: Timestamp) -> Option<Timestamp> {
        let lately = self.returns.iter().filter(|at| now.since(**at) < FLAP_WINDOW).count();
        let until = *self.returns.last()? + FLAP_PENALTY;
        (lately >= FLAPS && until > now).then_some(until)
    }
}

/// A coordinator.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Member {
    /// The host that it runs on.
    pub host: HostId,
    /// Where it listens.
    pub address: SocketAddr,
    /// Whether it should be in the group.
    pub state: MemberState,
    /// Since when it should join the group and cannot be reached; the group goes on without it.
    pub unreached_since: Option<Timestamp>,
    /// The newest feature level that its binary understands; 0 until it has said so.
    pub level: u16,
}

impl Member {
    /// A member that should be in the group.
    pub fn new(host: HostId, address: SocketAddr) -> Member {
        Member { host, address, state: MemberState::Present, unreached_since: None, level: 0 }
    }
}

/// Whether a member should be in the group; what it is there now, Raft knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum MemberState {
    /// It should be a voter.
    Present,
    /// It should be gone.
    Leaving,
}

impl State {
    /// The hosts that were admitted and not removed.
    pub fn hosts(&self) -> &OrdMap<HostId, Host> {
        &self.fleet.hosts
    }

    /// The hosts that were removed, and when: their certificates are refused.
    pub fn removed_hosts(&self) -> &OrdMap<HostId, Timestamp> {
        &self.fleet.removed_hosts
    }

    /// The coordinators.
    pub fn members(&self) -> &OrdMap<MemberId, Member> {
        &self.fleet.members
    }

    /// The largest member id given out: ids are never given out twice.
    pub fn last_member(&self) -> u64 {
        self.fleet.last_member
    }

    /// The member that runs on a host.
    pub fn member_on(&self, host: HostId) -> Option<MemberId> {
        self.fleet.members.iter().find(|(_, member)| member.host == host).map(|(id, _)| *id)
    }

    /// Whether a host may speak: it is known and was not removed.
    pub fn is_admitted(&self, host: HostId) -> bool {
        self.fleet.hosts.contains_key(&host) && !self.fleet.removed_hosts.contains_key(&host)
    }

    /// `wanted`, or with a number behind it if another host has it.
    pub(super) fn free_host_name(&self, wanted: &Name) -> Name {
        let taken = |name: &Name| self.fleet.host_names.contains(name);
        if !taken(wanted) {
            return wanted.clone();
        }
        let stem: String = wanted.as_str().chars().take(56).collect();
        let numbered = |n: u32| Name::parse(&format!("{}-{n}", stem.trim_end_matches('-'))).ok();
        (2..).filter_map(numbered).find(|name| !taken(name)).unwrap_or_else(|| wanted.clone())
    }

    /// Replaces the members, for tests of what follows from them.
    #[cfg(test)]
    pub(crate) fn set_members(&mut self, members: OrdMap<MemberId, Member>, last: u64) {
        (self.fleet.members, self.fleet.last_member) = (members, last);
    }

    /// Adds a host that has not reported yet.
    pub(super) fn admit_host(&mut self, id: HostId, name: Name, labels: HostLabels) -> Result<(), Problem> {
        let subnet = self.lease_subnet()?;
        self.fleet.last_host += 1;
        self.fleet.host_names.insert(name.clone());
        let host = Host {
            name,
            number: self.fleet.last_host,
            availability: Availability::Active,
            liveness: Liveness::Joining,
            left_at: None,
            returns: Vec::new(),
            conditions: Vec::new(),
            unprepared: BTreeMap::new(),
            labels,
            facts: None,
            oversubscription: Oversubscription::default(),
            machine: None,
            joined_at: self.basics.clock,
            subnet,
            claims: Claims::default(),
        };
        self.fleet.hosts.insert(id, host);
        Ok(())
    }

    pub(super) fn set_availability(&mut self, id: HostId, availability: Availability) -> Applied {
        let host = self.fleet.hosts.get_mut(&id).ok_or_else(|| not_found("host", id))?;
        if host.availability != availability {
            host.availability = availability;
            let message = match availability {
                Availability::Active => format!("{} takes new instances", host.name),
                Availability::Cordoned => format!("{} takes no new instances", host.name),
                Availability::Draining { deadline } => format!("{} is emptied, until {deadline}", host.name),
                Availability::Maintenance => format!("nothing runs on {} until it is opened again", host.name),
            };
            self.record(id, &format!("host-{}", availability.word().replace("in ", "")), message);
        }
        self.done()
    }

    pub(super) fn oversubscribe(&mut self, id: HostId, oversubscription: Oversubscription) -> Applied {
        let Oversubscription { cpu, memory } = oversubscription;
        let range = Oversubscription::RANGE;
        if !range.contains(&cpu) || !range.contains(&memory) {
            return Err(Problem::new(Code::InvalidRequest, "The host was not changed").why(format!(
                "{cpu} % and {memory} % are not both between {} % and {} %",
                range.start(),
                range.end()
            )));
        }
        let host = self.fleet.hosts.get_mut(&id).ok_or_else(|| not_found("host", id))?;
        if host.oversubscription != oversubscription {
            host.oversubscription = oversubscription;
            let message =
                format!("{cpu} % of the processors of {} and {memory} % of its memory may be reserved", host.name);
            self.record(id, "host-oversubscribed", message);
        }
        self.done()
    }

    pub(super) fn host_reported(
        &mut self,
        id: HostId,
        said: &HostFacts,
        (machine, from): ([u8; 16], Option<IpAddr>),
    ) -> Applied {
        let size = size_of(said);
        if size > MAX_FACTS {
            return Err(Problem::new(Code::TooLarge, "The facts of the host were not stored")
                .why(format!("they have {size} bytes, and the limit is {MAX_FACTS}")));
        }
        let host = self.fleet.hosts.get(&id).ok_or_else(|| not_found("host", id))?;
        if host.machine.is_some_and(|known| known != machine) {
            return self.refuse_clone(id);
        }
        let before = host.clone();
        let mut facts = said.clone();
        if self.checks_claims() {
            if let Some(problem) = self.claim_conflict(id, said, from) {
                return self.refuse_report(id, problem);
            }
            facts = self.take_claims(id, said, from).ok_or_else(|| not_found("host", id))?;
        }
        self.take_facts((id, &before), facts, machine)
    }

    /// Stores the facts that a host may claim; `before` is what was known of it before its report.
    fn take_facts(&mut self, (id, before): (HostId, &Host), facts: HostFacts, machine: [u8; 16]) -> Applied {
        let rebooted = before.facts.as_ref().is_some_and(|known| known.boot != facts.boot);
        if rebooted && before.left_at.is_none() && self.checks_claims() {
            // Its earlier self may run on, cut off: until its leases are over nothing strict runs beside it.
            self.abandon_strict_instances_on(id);
        }
        let said = format!("{} cores, {}, Docker {}", facts.cpu, facts.memory, facts.docker);
        let host = self.fleet.hosts.get_mut(&id).ok_or_else(|| not_found("host", id))?;
        (host.left_at, host.machine, host.facts) = (None, Some(machine), Some(facts));
        if *host == *before {
            return self.done();
        }
        let (name, same_facts) = (host.name.clone(), host.facts == before.facts && before.machine.is_some());
        if same_facts {
            self.touch();
            return self.done();
        }
        self.record(id, if rebooted { "host-rebooted" } else { "host-reported" }, format!("{name}: {said}"));
        self.done()
    }

    /// Refuses another machine that uses the key of a host.
    pub(super) fn refuse_clone(&mut self, id: HostId) -> Applied {
        let name = self.fleet.hosts.get(&id).ok_or_else(|| not_found("host", id))?.name.clone();
        self.record(id, "clone-refused", format!("another machine uses the key of {name}"));
        Err(fence::cloned(&name))
    }

    pub(super) fn host_conditions(&mut self, id: HostId, conditions: &[HostCondition]) -> Applied {
        let host = self.fleet.hosts.get_mut(&id).ok_or_else(|| not_found("host", id))?;
        let refuse = |why: String| Err(Problem::new(Code::InvalidRequest, "The conditions were not stored").why(why));
        if conditions.len() > HostCondition::MOST {
            return refuse(format!("a host can have at most {}", HostCondition::MOST));
        }
        let is_long =
            |condition: &HostCondition| matches!(condition, HostCondition::DiskFull { path, .. } if path.len() > 4096);
        if conditions.iter().any(is_long) {
            return refuse("a path can have at most 4096 bytes".into());
        }
        let before = std::mem::replace(&mut host.conditions, conditions.to_vec());
        let name = host.name.clone();
        for new in conditions.iter().filter(|new| !before.contains(new)) {
            self.record(id, &format!("host-{}", new.word()), format!("{name} gets nothing new: {new}"));
        }
        let over: Vec<&str> = before.iter().map(HostCondition::word).collect();
        for word in over.into_iter().filter(|word| !conditions.iter().any(|now| now.word() == *word)) {
            self.record(id, "host-recovered", format!("{name}: no longer {word}"));
        }
        self.done()
    }

    /// Remembers of a host which images it cannot prepare, until it can.
    pub(super) fn note_preparation(&mut self, id: &InstanceId, observed: &Observed) {
        let Some(instance) = self.instances().get(id) else { return };
        let (on, spec, clock) = (instance.host, instance.spec.clone(), self.basics.clock);
        let Some(host) = self.fleet.hosts.get(&on) else { return };
        match &observed.unprepared {
            Some(failing) if !host.could_not_prepare(&failing.image, clock) => {
                if let Some(host) = self.fleet.hosts.get_mut(&on) {
                    host.avoid(&failing.image, clock);
                }
            }
            None if observed.phase >= Phase::Ready && !observed.phase.is_terminal() && !host.unprepared.is_empty() => {
                self.forget_unprepared(on, &spec);
            }
            Some(_) | None => {}
        }
    }

    /// Avoids no host any more for the images of a service; whether any was.
    pub(super) fn forget_unprepared_everywhere(&mut self, spec: &ServiceSpec) -> bool {
        let is_avoided = |host: &Host| spec.containers().any(|(_, c)| host.unprepared.contains_key(&c.image));
        let avoided: Vec<HostId> =
            self.fleet.hosts.iter().filter(|(_, host)| is_avoided(host)).map(|(id, _)| *id).collect();
        avoided.iter().for_each(|host| self.forget_unprepared(*host, spec));
        !avoided.is_empty()
    }

    fn forget_unprepared(&mut self, on: HostId, spec: &ServiceSpec) {
        if let Some(host) = self.fleet.hosts.get_mut(&on) {
            host.unprepared.retain(|image, _| spec.containers().all(|(_, container)| container.image != *image));
        }
    }

    pub(super) fn host_leaves(&mut self, id: HostId) -> Applied {
        let clock = self.basics.clock;
        let host = self.fleet.hosts.get_mut(&id).ok_or_else(|| not_found("host", id))?;
        host.left_at = Some(clock);
        let message = format!("the agent of {} was asked to stop; the host has {RETURNS_WITHIN} to return", host.name);
        self.record(id, "host-leaves", message);
        self.done()
    }

    pub(super) fn host_liveness(&mut self, id: HostId, liveness: Liveness) -> Applied {
        let clock = self.basics.clock;
        let host = self.fleet.hosts.get_mut(&id).ok_or_else(|| not_found("host", id))?;
        if host.liveness.word() == liveness.word() {
            return self.done();
        }
        if matches!((host.liveness, liveness), (Liveness::Down { .. }, Liveness::Ready)) {
            host.returns.retain(|at| clock.since(*at) < FLAP_WINDOW);
            host.returns.push(clock);
        }
        host.liveness = liveness;
        let name = host.name.clone();
        self.record(id, &format!("host-{}", liveness.word()), format!("{name} is {}", liveness.word()));
        let verdict = match liveness {
            Liveness::Down { .. } => Verdict::Unknown { since: clock },
            Liveness::Ready => Verdict::Reachable,
            Liveness::Joining | Liveness::Suspect { .. } => return self.done(),
        };
        self.judge_instances_on(id, verdict);
        self.done()
    }

    pub(super) fn put_host_labels(&mut self, id: HostId, labels: &HostLabels) -> Applied {
        let too_long = |text: &String| text.is_empty() || text.len() > 255;
        if labels.len() > 64 || labels.iter().any(|(key, value)| too_long(key) || value.len() > 255) {
            return Err(Problem::new(Code::InvalidRequest, "The labels were not changed")
                .why("a host can have at most 64 labels of at most 255 bytes each"));
        }
        let host = self.fleet.hosts.get_mut(&id).ok_or_else(|| not_found("host", id))?;
        host.labels = labels.clone();
        self.record(id, "host-labelled", "its labels were changed");
        self.done()
    }

    pub(super) fn remove_host(&mut self, id: HostId) -> Applied {
        let host = self.fleet.hosts.get(&id).ok_or_else(|| not_found("host", id))?;
        let name = host.name.clone();
        if let Some((member, _)) = self.fleet.members.iter().find(|(_, member)| member.host == id) {
            return Err(Problem::new(Code::Conflict, format!("Host {name} was not removed"))
                .why(format!("it runs coordinator {member}"))
                .fix(format!("Remove the coordinator first: wharf member rm {member}")));
        }
        self.abandon_instances_on(id);
        self.forget_binary(id);
        if let Some(host) = self.fleet.hosts.remove(&id) {
            self.fleet.host_names.remove(&host.name);
            self.fleet.released_subnets.insert(host.subnet, self.basics.clock);
        }
        self.fleet.removed_hosts.insert(id, self.basics.clock);
        self.record(id, "host-removed", format!("{name} was removed"));
        self.done()
    }

    pub(super) fn member_address(&mut self, id: MemberId, address: SocketAddr) -> Applied {
        let member = self.fleet.members.get_mut(&id).ok_or_else(|| not_found("member", id))?;
        if member.address != address {
            member.address = address;
            self.record(format!("member {id}"), "member-moved", format!("it listens on {address}"));
        }
        self.done()
    }

    pub(super) fn member_understands(&mut self, id: MemberId, level: u16) -> Applied {
        if level < self.basics.level {
            return Err(Problem::new(Code::TooOld, format!("Member {id} cannot take part"))
                .why(format!("its binary understands feature level {level}, and the cluster has {}", self.basics.level))
                .fix("Install the version that the other coordinators run"));
        }
        let member = self.fleet.members.get_mut(&id).ok_or_else(|| not_found("member", id))?;
        if member.level != level {
            member.level = level;
            self.record(format!("member {id}"), "member-version", format!("it understands feature level {level}"));
        }
        self.done()
    }

    pub(super) fn member_reached(&mut self, id: MemberId, reached: bool) -> Applied {
        let clock = self.basics.clock;
        let member = self.fleet.members.get_mut(&id).ok_or_else(|| not_found("member", id))?;
        if reached != member.unreached_since.is_some() {
            return self.done();
        }
        member.unreached_since = (!reached).then_some(clock);
        let address = member.address;
        let (reason, message) = if reached {
            ("member-reached", format!("it answers at {address} now, and joins the group"))
        } else {
            ("member-unreached", format!("it does not answer at {address}: it joins the group as soon as it does"))
        };
        self.record(format!("member {id}"), reason, message);
        self.done()
    }

    pub(super) fn remove_member(&mut self, id: MemberId) -> Applied {
        let stays = |m: &Member| m.state == MemberState::Present && m.unreached_since.is_none();
        let staying = self.fleet.members.iter().filter(|(other, m)| **other != id && stays(m)).count();
        let member = self.fleet.members.get_mut(&id).ok_or_else(|| not_found("member", id))?;
        if staying == 0 {
            return Err(Problem::new(Code::MemberRefused, format!("Member {id} was not removed"))
                .why("it is the last member that answers, and it holds the cluster's state")
                .fix("Add another coordinator first: wharf member add"));
        }
        if member.state == MemberState::Present {
            member.state = MemberState::Leaving;
            self.record(format!("member {id}"), "member-leaving", "it was asked to leave the group");
        }
        self.done()
    }

    pub(super) fn forget_member(&mut self, id: MemberId) -> Applied {
        let member = self.fleet.members.get(&id).ok_or_else(|| not_found("member", id))?;
        if member.state != MemberState::Leaving {
            return Err(Problem::new(Code::Conflict, format!("Member {id} was not asked to leave")));
        }
        self.fleet.members.remove(&id);
        self.forget_backups_of(id);
        self.record(format!("member {id}"), "member-left", "it left the group");
        self.done()
    }
}
