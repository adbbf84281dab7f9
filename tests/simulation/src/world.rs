//! A cluster whose time, network, disks and users follow from a seed.

mod settle;

use std::collections::{BTreeMap, BTreeSet};

use common::{
    api::Settings,
    assignment::Assignment,
    codec,
    host::Availability,
    id::{ClusterId, HostId, InstanceId, MemberId},
    instance::Health,
    name::Name,
    network::NetworkPlan,
    report::Report,
    secret::Secret,
    time::{Span, Timestamp},
    token::{JoinRole, SecretHash, TokenId},
    wire::Extension,
};
use coordinator_core::{
    Batch, Command, Moment, Planner, Proposal, RequestId, State,
    command::{Admission, Authority, Genesis, NewJoinToken},
    lease::{self, Silence},
    plan, view,
};

use crate::{
    host::Host,
    oracle::{Checked, Oracle, strict_singletons_are_alone, what_has_ended_does_not_run},
    people,
    random::Random,
};

const CLUSTER: ClusterId = ClusterId([7; 10]);
const BEGINNING: Timestamp = Timestamp(1_700_000_000_000);
const TOKEN: TokenId = TokenId([1; 5]);
/// How long a deposed leader keeps answering; in reality the link enforces this bound.
const STEP_DOWN: Span = Span::seconds(2);

/// A message under way. Messages may be lost, duplicated and reordered.
#[derive(Clone)]
enum Letter {
    Assignment(HostId, Assignment),
    Report(HostId, Report),
    /// The answer to a heartbeat, with the host's own clock at its sending.
    Answer(HostId, i64, Extension),
}

impl Letter {
    fn host(&self) -> HostId {
        match self {
            Letter::Assignment(host, _) | Letter::Report(host, _) | Letter::Answer(host, ..) => *host,
        }
    }
}

/// The leader's knowledge about a host with a session.
#[derive(Default)]
struct Session {
    unknown: BTreeSet<InstanceId>,
    sent: Option<Assignment>,
    heard_report: Option<Report>,
}

/// A deposed leader that does not know it yet: it answers from its old state.
struct Deposed {
    cluster: State,
    until: Timestamp,
    hosts: BTreeSet<HostId>,
}

/// The whole simulated cluster.
pub struct World {
    random: Random,
    now: Timestamp,
    cluster: State,
    oracle: Oracle,
    log: Vec<Batch>,
    planner: Planner,
    /// Proposals that are not committed yet.
    in_flight: Vec<Batch>,
    letters: Vec<Letter>,
    leading_since: Timestamp,
    /// How far the leader's clock is ahead. No two coordinators have the same clock.
    ahead: Span,
    heard: BTreeMap<HostId, Timestamp>,
    sessions: BTreeMap<HostId, Session>,
    deposed: Option<Deposed>,
    hosts: BTreeMap<HostId, Host>,
    /// Hosts that were removed but still run.
    removed: Vec<Host>,
    /// Whether users rarely act, so that faults have time to take effect.
    is_left_alone: bool,
    /// Whether all messages arrive at once.
    calm: bool,
    joined: u64,
    requests: u64,
}

impl World {
    /// A cluster of three hosts, of a feature level.
    pub fn new(seed: u64, level: u16) -> Result<World, String> {
        let mut world = World {
            random: Random::new(seed),
            now: BEGINNING,
            cluster: State::default(),
            oracle: Oracle::default(),
            log: Vec::new(),
            planner: Planner::default(),
            in_flight: Vec::new(),
            letters: Vec::new(),
            leading_since: BEGINNING,
            ahead: Span(0),
            heard: BTreeMap::new(),
            sessions: BTreeMap::new(),
            deposed: None,
            hosts: BTreeMap::new(),
            removed: Vec::new(),
            is_left_alone: seed % 4 == 1,
            calm: false,
            joined: 0,
            requests: 0,
        };
        world.found(if seed.is_multiple_of(2) { Settings::default() } else { fast() }, level)?;
        world.join()?;
        world.join()?;
        if world.is_left_alone {
            world.ask()?;
        }
        Ok(world)
    }

    fn found(&mut self, settings: Settings, level: u16) -> Checked {
        let none = || Secret::new(Vec::new());
        let authority =
            Authority { certificate: Vec::new(), key: none(), join_certificate: Vec::new(), join_key: none() };
        let genesis = Genesis {
            cluster: CLUSTER,
            authority,
            settings,
            network: NetworkPlan::default(),
            member: MemberId(1),
            address: ([10, 0, 0, 1], 7443).into(),
            host: host_id(1),
            name: host_name(1),
            level,
        };
        let token = NewJoinToken {
            id: TOKEN,
            secret: SecretHash([0; 32]),
            role: JoinRole::Agent,
            expires_at: Timestamp(u64::MAX),
            max_uses: 1000,
            labels: BTreeMap::new(),
            from: None,
        };
        self.joined = 1;
        self.hosts.insert(host_id(1), Host::new(nothing_for(host_id(1)), 1));
        self.commit(vec![Command::Initialize(Box::new(genesis)).into(), Command::PutJoinToken(Box::new(token)).into()])
    }

    fn join(&mut self) -> Checked {
        self.joined += 1;
        let (id, number) = (host_id(self.joined), self.joined);
        self.hosts.insert(id, Host::new(nothing_for(id), number));
        let from = [10, 0, 0, number as u8];
        let admission = Admission {
            token: TOKEN,
            host: id,
            name: host_name(number),
            from: from.into(),
            address: (from, 7443).into(),
        };
        self.commit(vec![Command::Admit(Box::new(admission)).into()])
    }

    /// Commits a batch at once.
    fn commit(&mut self, proposals: Vec<Proposal>) -> Checked {
        self.decide(Batch { at: self.leaders_clock(), proposals })
    }

    fn decide(&mut self, batch: Batch) -> Checked {
        self.oracle.apply(&mut self.cluster, &batch)?;
        self.log.push(batch);
        Ok(())
    }

    fn propose(&mut self, commands: Vec<Command>) {
        if !commands.is_empty() {
            let proposals = commands.into_iter().map(Proposal::from).collect();
            self.in_flight.push(Batch { at: self.leaders_clock(), proposals });
        }
    }

    /// The number of steps, given the number for a busy cluster.
    pub fn length(&self, busy: u64) -> u64 {
        if self.is_left_alone { 4 * busy } else { busy }
    }

    /// Performs one random step.
    pub fn step(&mut self) -> Checked {
        self.happen()?;
        strict_singletons_are_alone(self.hosts.values().chain(&self.removed))
    }

    fn happen(&mut self) -> Checked {
        match self.random.below(100) {
            // Without users, a cluster gets further between two faults.
            0..85 => (0..if self.is_left_alone { 5 } else { 1 }).try_for_each(|_| self.go_on()),
            85..92 => self.pass_time(),
            92..95 if self.is_left_alone && self.random.chance(85) => self.pass_time(),
            92..95 => self.ask(),
            _ => self.go_wrong(),
        }
    }

    /// Lets one part of the cluster do some work.
    fn go_on(&mut self) -> Checked {
        match self.random.below(85) {
            0..20 => self.some_host(World::pass),
            20..38 => self.some_host(|world, id| {
                let now = world.now;
                if let Some(host) = world.hosts.get_mut(&id).filter(|host| !host.without_agent) {
                    host.finish_one(&mut world.random, 15, now);
                    if world.random.chance(10) {
                        host.end_a_job(&mut world.random, now);
                    }
                }
                Ok(())
            }),
            38..50 => self.plan(),
            50..65 => self.decide_some(),
            65..75 => self.some_host(World::speak),
            _ => {
                self.deliver_some();
                Ok(())
            }
        }
    }

    fn pass_time(&mut self) -> Checked {
        let span = Span(self.random.below(8_000) as u64);
        self.advance(span)?;
        self.judge_leases();
        Ok(())
    }

    fn some_host(&mut self, act: impl FnOnce(&mut World, HostId) -> Checked) -> Checked {
        match self.random.pick(self.hosts.keys().copied()) {
            Some(id) => act(self, id),
            None => Ok(()),
        }
    }

    /// Lets time pass: hosts with a session send heartbeats, and guards look at the clock.
    fn advance(&mut self, span: Span) -> Checked {
        self.now = self.now + span;
        let with_session: Vec<HostId> = self.sessions.keys().copied().collect();
        for id in with_session {
            self.heard.insert(id, self.now);
            self.answer(id, self.now, lease::extension(&self.cluster, id));
        }
        if let Some(deposed) = self.deposed.take() {
            let sent = self.now.min(deposed.until);
            for id in &deposed.hosts {
                self.answer(*id, sent, lease::extension(&deposed.cluster, *id));
            }
            self.deposed = (deposed.until > self.now).then_some(deposed);
        }
        let now = self.now;
        self.hosts.values_mut().chain(&mut self.removed).for_each(|host| host.end_guarded(now));
        strict_singletons_are_alone(self.hosts.values().chain(&self.removed))
    }

    /// Answers a heartbeat that a host sent at this time.
    fn answer(&mut self, id: HostId, sent: Timestamp, extension: Extension) {
        let Some(host) = self.hosts.get(&id).filter(|_| !extension.instances.is_empty()) else { return };
        let letter = Letter::Answer(id, host.own_clock(sent), extension);
        match self.random.below(10) {
            _ if self.calm => self.deliver(letter),
            0 => {}
            1..4 => self.letters.push(letter),
            _ => self.deliver(letter),
        }
    }

    fn pass(&mut self, id: HostId) -> Checked {
        let Some(host) = self.hosts.get_mut(&id).filter(|host| host.on && !host.without_agent) else { return Ok(()) };
        for action in host.pass(self.now) {
            self.oracle.judge_action(host, &action, &self.cluster, self.now)?;
        }
        what_has_ended_does_not_run(host)
    }

    /// Plans the changes, and checks that a full plan gives the same.
    fn plan(&mut self) -> Checked {
        let found = self.planner.plan(&self.cluster, self.moment());
        let all = plan(&self.cluster, self.moment());
        if (&found.commands, found.wake_at) != (&all.commands, all.wake_at) {
            return Err(format!("the planner overlooks something: {found:?} instead of {all:?}"));
        }
        self.oracle.judge_plan(&self.cluster, &found)?;
        self.propose(found.commands);
        Ok(())
    }

    fn leaders_clock(&self) -> Timestamp {
        self.now + self.ahead
    }

    fn moment(&self) -> Moment {
        let by = |true_time: Timestamp| true_time + self.leaders_clock().since(self.now);
        Moment { now: by(self.now), leading_since: by(self.leading_since) }
    }

    /// Commits one proposal, possibly twice, possibly long after it was made.
    fn decide_some(&mut self) -> Checked {
        if self.in_flight.is_empty() {
            return Ok(());
        }
        let chosen = self.random.below(self.in_flight.len());
        let batch = if self.random.chance(25) { self.in_flight[chosen].clone() } else { self.in_flight.remove(chosen) };
        self.decide(batch)
    }

    /// Exchanges new messages between a host and the leader.
    fn speak(&mut self, id: HostId) -> Checked {
        let Some(host) = self.hosts.get(&id).filter(|host| host.speaks()) else { return Ok(()) };
        if self.deposed.as_ref().is_some_and(|deposed| deposed.hosts.contains(&id)) {
            return Ok(());
        }
        if !self.sessions.contains_key(&id) {
            let known = self.cluster.hosts().get(&id);
            if known.is_none_or(|known| known.facts.as_ref() != Some(&host.facts) || known.left_at.is_some()) {
                let facts = host.facts.clone();
                self.commit(vec![Command::HostReported { host: id, facts, machine: [id.0[0]; 16] }.into()])?;
            }
        }
        self.heard.insert(id, self.now);
        let session = self.sessions.entry(id).or_default();
        if session.heard_report.as_ref() != Some(&self.hosts[&id].report) {
            session.heard_report = Some(self.hosts[&id].report.clone());
            self.letters.push(Letter::Report(id, self.hosts[&id].report.clone()));
        }
        let Some(assignment) = view::assignment(&self.cluster, id, &session.unknown) else { return Ok(()) };
        let same = |sent: &Assignment| sent.instances == assignment.instances && sent.surplus == assignment.surplus;
        if !session.sent.as_ref().is_some_and(same) {
            session.sent = Some(assignment.clone());
            self.letters.push(Letter::Assignment(id, assignment));
        }
        Ok(())
    }

    fn deliver_some(&mut self) {
        if self.letters.is_empty() {
            return;
        }
        // Most messages arrive soon after they were sent, some after all later ones.
        let recent = self.letters.len().saturating_sub(4);
        let first = if self.random.chance(80) { recent } else { 0 };
        let chosen = first + self.random.below(self.letters.len() - first);
        let letter = self.letters.remove(chosen);
        self.deliver(letter.clone());
        if self.random.chance(25) {
            // The message is duplicated; the copy may arrive much later.
            self.letters.push(letter);
        }
    }

    fn deliver(&mut self, letter: Letter) {
        match letter {
            Letter::Assignment(id, assignment) => {
                if let Some(host) = self.hosts.get_mut(&id).filter(|host| host.hears()) {
                    host.receive(assignment);
                }
            }
            Letter::Answer(id, sent, extension) => {
                let now = self.now;
                if let Some(host) = self.hosts.get_mut(&id).filter(|host| host.hears()) {
                    host.extend_leases(sent, &extension, now);
                }
            }
            Letter::Report(id, report) => {
                let Some(session) = self.sessions.get_mut(&id) else { return };
                session.unknown = report.unknown;
                let news = |(instance, observed): &(InstanceId, _)| {
                    self.cluster.instances().get(instance).is_some_and(|known| known.observed != *observed)
                };
                let instances: Vec<_> = report.instances.into_iter().filter(news).collect();
                if !instances.is_empty() {
                    self.propose(vec![Command::Observe { host: id, instances }]);
                }
            }
        }
    }

    fn judge_leases(&mut self) {
        let judged = self.cluster.hosts().iter().filter_map(|(id, host)| {
            let heard = self.heard.get(id).copied();
            let lasts = self.now.since(heard.unwrap_or(self.leading_since).max(self.leading_since));
            let silence = Silence { lasts, was_heard: heard.is_some() };
            let liveness = lease::judge(host.liveness, silence, &self.cluster.settings(), self.leaders_clock())?;
            Some(Command::HostLiveness { host: *id, liveness })
        });
        let judged = judged.collect();
        self.propose(judged);
    }

    /// Makes a random request, which may arrive twice with the same id.
    fn ask(&mut self) -> Checked {
        if self.random.chance(10) {
            return self.change_of_mind();
        }
        let now = self.leaders_clock();
        let command = people::request(&mut self.random, &self.cluster, now, self.is_left_alone);
        self.requests += 1;
        let request = Some(RequestId(u128::from(self.requests).to_be_bytes()).into());
        let proposal = Proposal { request, by: None, command };
        if self.random.chance(20) {
            self.in_flight.push(Batch { at: self.leaders_clock(), proposals: vec![proposal.clone()] });
        }
        self.commit(vec![proposal])
    }

    /// Drains a host and cancels it after the leader has started to act.
    fn change_of_mind(&mut self) -> Checked {
        let Some(host) = self.random.pick(self.hosts.keys().copied()) else { return Ok(()) };
        let availability = Availability::Draining { deadline: self.leaders_clock() + Span::seconds(60) };
        self.commit(vec![Command::SetAvailability { host, availability }.into()])?;
        self.plan()?;
        self.commit(vec![Command::SetAvailability { host, availability: Availability::Active }.into()])
    }

    fn go_wrong(&mut self) -> Checked {
        let now = self.now;
        match self.random.below(20) {
            0..2 => self.change_leader(),
            2..5 => self.break_program(),
            5..7 => self.some_host(|world, id| {
                let host = world.hosts.get_mut(&id).expect("it was picked");
                host.connected = !host.connected;
                world.sessions.remove(&id);
                Ok(())
            })?,
            7..9 => self.some_host(|world, id| {
                let host = world.hosts.get_mut(&id).expect("it was picked");
                let says_so = host.speaks() && world.random.chance(30);
                if host.on {
                    host.lose_power(&mut world.random, now);
                    if says_so {
                        world.propose(vec![Command::HostLeaves(id)]);
                    }
                } else {
                    host.on = true;
                }
                world.sessions.remove(&id);
                Ok(())
            })?,
            9..11 => self.some_host(|world, id| {
                let host = world.hosts.get_mut(&id).expect("it was picked");
                host.restart_agent(&mut world.random, now);
                world.sessions.remove(&id);
                Ok(())
            })?,
            11 => self.some_host(|world, id| {
                // Somebody removes a container by hand.
                let host = world.hosts.get_mut(&id).expect("it was picked");
                if let Some(instance) = world.random.pick(host.docker.keys().cloned()) {
                    host.docker.remove(&instance);
                }
                Ok(())
            })?,
            18 => self.some_host(|world, id| {
                let host = world.hosts.get_mut(&id).expect("it was picked");
                host.without_agent = !host.without_agent;
                host.restart_agent(&mut world.random, now);
                world.sessions.remove(&id);
                Ok(())
            })?,
            17 => self.some_host(|world, id| {
                let host = world.hosts.get_mut(&id).expect("it was picked");
                host.deaf = !host.deaf;
                Ok(())
            })?,
            12 if self.hosts.len() < 5 => self.join()?,
            13 => self.remove_host()?,
            14 => self.restore_from_snapshot()?,
            15 if self.random.chance(30) => self.letters.clear(),
            16 => self.some_host(|world, id| {
                // The disk is replaced under running containers. Reports that were sent remain.
                let told = |batch: &Batch| {
                    batch.proposals.iter().any(|p| matches!(p.command, Command::Observe { host, .. } if host == id))
                };
                for batch in world.in_flight.extract_if(.., |batch| told(batch)).collect::<Vec<_>>() {
                    world.decide(batch)?;
                }
                let host = world.hosts.get_mut(&id).expect("it was picked");
                host.restart_agent(&mut world.random, now);
                host.lose_ledger(nothing_for(id));
                world.sessions.remove(&id);
                world.letters.retain(|letter| letter.host() != id);
                Ok(())
            })?,
            _ => {}
        }
        Ok(())
    }

    /// Changes the leader: sessions start again, and open proposals of the old leader may or may not be committed.
    fn change_leader(&mut self) {
        self.leading_since = self.now;
        self.ahead = Span(self.random.below(120_000) as u64);
        self.heard.clear();
        // Some hosts stay on the old leader's side and do not hear of the new one while the old one answers.
        let with_session = std::mem::take(&mut self.sessions).into_keys();
        let hosts = with_session.filter(|_| self.random.chance(50)).collect();
        self.deposed = Some(Deposed { cluster: self.cluster.clone(), until: self.now + STEP_DOWN, hosts });
        let random = &mut self.random;
        self.in_flight.retain(|_| random.chance(50));
    }

    fn break_program(&mut self) {
        let Some(id) = self.random.pick(self.hosts.keys().copied()) else { return };
        let host = self.hosts.get_mut(&id).expect("it was picked");
        let Some(instance) = self.random.pick(host.running().cloned().collect::<Vec<_>>()) else { return };
        if host.is_checked(&instance) && self.random.chance(60) {
            let health = if self.random.chance(60) { Health::Healthy } else { Health::Unhealthy };
            host.set_health(&instance, health);
        } else {
            let exit_code = [0, 1, 137][self.random.below(3)];
            host.end_program(&instance, exit_code, self.now);
        }
    }

    fn remove_host(&mut self) -> Checked {
        let Some(id) = self.random.pick(self.hosts.keys().copied().filter(|id| *id != host_id(1))) else {
            return Ok(());
        };
        // The owner removes the containers as well, or forgets to.
        let host = self.hosts.remove(&id);
        self.removed.extend(host.filter(|_| self.random.chance(50)));
        self.sessions.remove(&id);
        self.heard.remove(&id);
        self.commit(vec![Command::RemoveHost(id).into()])
    }

    /// A member that restarts from a snapshot has the same state.
    fn restore_from_snapshot(&mut self) -> Checked {
        let bytes = codec::encode(&self.cluster).map_err(|error| error.to_string())?;
        let restored: State = codec::decode(&bytes).map_err(|error| error.to_string())?;
        if restored != self.cluster {
            return Err("I6: a snapshot restores another state".to_owned());
        }
        self.cluster = restored;
        Ok(())
    }

    /// All that was decided, and the state that it led to.
    pub fn recorded(self) -> (Vec<Batch>, State) {
        (self.log, self.cluster)
    }

    /// I6: the log gives every member the same state.
    pub fn replay(&self) -> Checked {
        let mut again = State::default();
        for batch in &self.log {
            again.apply(batch);
        }
        if again == self.cluster { Ok(()) } else { Err("I6: the log gives another state the second time".to_owned()) }
    }
}

/// Times that make losses and replacements frequent.
fn fast() -> Settings {
    Settings {
        heartbeat: Span::seconds(2),
        suspect_after: Span::seconds(4),
        down_after: Span::seconds(6),
        lost_after: Span::seconds(14),
    }
}

fn host_id(number: u64) -> HostId {
    HostId([number as u8; 10])
}

fn host_name(number: u64) -> Name {
    Name::parse(&format!("h{number}")).expect("it is a name")
}

fn nothing_for(host: HostId) -> Assignment {
    Assignment::nothing(CLUSTER, host)
}
