//! A cluster whose time, network, disks and people are a seed's.

use std::collections::{BTreeMap, BTreeSet};

use agent_core::ContainerState;
use common::{
    api::Settings,
    assignment::Assignment,
    codec,
    host::Availability,
    id::{ClusterId, HostId, InstanceId, MemberId, ServiceId},
    instance::Health,
    name::Name,
    report::Report,
    secret::Secret,
    time::{Span, Timestamp},
    token::{JoinRole, SecretHash, TokenId},
};
use coordinator_core::{
    Batch, Cluster, Command, Moment, Planner, Proposal, RequestId,
    cluster::Stack,
    command::{Admission, Authority, Genesis, NewJoinToken},
    lease, plan, view,
};

use crate::{
    host::Host,
    oracle::{Checked, Oracle, nothing_is_left_over, what_runs_is_wanted},
    people,
    random::Random,
};

const CLUSTER: ClusterId = ClusterId([7; 10]);
const BEGINNING: Timestamp = Timestamp(1_700_000_000_000);
const TOKEN: TokenId = TokenId([1; 5]);
/// How long a healed cluster may take until everything is as wanted.
const SETTLES_WITHIN: Span = Span::minutes(60);
/// How long nothing at all may happen after that.
const QUIET: Span = Span::minutes(10);

/// Something on its way. Letters get lost, come twice, and overtake each other.
#[derive(Clone)]
enum Letter {
    Assignment(HostId, Assignment),
    Report(HostId, Report),
}

impl Letter {
    fn host(&self) -> HostId {
        match self {
            Letter::Assignment(host, _) | Letter::Report(host, _) => *host,
        }
    }
}

/// What the leader knows of a host that speaks with it.
#[derive(Default)]
struct Session {
    unknown: BTreeSet<InstanceId>,
    sent: Option<Assignment>,
    heard_report: Option<Report>,
}

/// All of it.
pub struct World {
    random: Random,
    now: Timestamp,
    cluster: Cluster,
    oracle: Oracle,
    log: Vec<Batch>,
    planner: Planner,
    /// Proposed and not decided upon yet.
    in_flight: Vec<Batch>,
    letters: Vec<Letter>,
    leading_since: Timestamp,
    heard: BTreeMap<HostId, Timestamp>,
    sessions: BTreeMap<HostId, Session>,
    hosts: BTreeMap<HostId, Host>,
    joined: u64,
    requests: u64,
}

impl World {
    /// A cluster of three hosts.
    pub fn new(seed: u64) -> Result<World, String> {
        let mut world = World {
            random: Random::new(seed),
            now: BEGINNING,
            cluster: Cluster::default(),
            oracle: Oracle::default(),
            log: Vec::new(),
            planner: Planner::default(),
            in_flight: Vec::new(),
            letters: Vec::new(),
            leading_since: BEGINNING,
            heard: BTreeMap::new(),
            sessions: BTreeMap::new(),
            hosts: BTreeMap::new(),
            joined: 0,
            requests: 0,
        };
        world.found()?;
        world.join()?;
        world.join()?;
        Ok(world)
    }

    fn found(&mut self) -> Checked {
        let none = || Secret::new(Vec::new());
        let authority =
            Authority { certificate: Vec::new(), key: none(), join_certificate: Vec::new(), join_key: none() };
        let genesis = Genesis {
            cluster: CLUSTER,
            authority,
            settings: Settings::default(),
            member: MemberId(1),
            address: ([10, 0, 0, 1], 7443).into(),
            host: host_id(1),
            name: host_name(1),
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

    /// Decides upon a batch at once.
    fn commit(&mut self, proposals: Vec<Proposal>) -> Checked {
        self.decide(Batch { at: self.now, proposals })
    }

    fn decide(&mut self, batch: Batch) -> Checked {
        self.oracle.apply(&mut self.cluster, &batch)?;
        self.log.push(batch);
        Ok(())
    }

    fn propose(&mut self, commands: Vec<Command>) {
        if !commands.is_empty() {
            let proposals = commands.into_iter().map(Proposal::from).collect();
            self.in_flight.push(Batch { at: self.now, proposals });
        }
    }

    /// One thing happens.
    pub fn step(&mut self) -> Checked {
        match self.random.below(100) {
            0..20 => self.some_host(World::pass),
            20..38 => self.some_host(|world, id| {
                let now = world.now;
                if let Some(host) = world.hosts.get_mut(&id) {
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
            75..85 => {
                self.deliver_some();
                Ok(())
            }
            85..92 => {
                let span = Span(self.random.below(8_000) as u64);
                self.advance(span);
                self.judge_leases();
                Ok(())
            }
            92..95 => self.ask(),
            _ => self.go_wrong(),
        }
    }

    fn some_host(&mut self, act: impl FnOnce(&mut World, HostId) -> Checked) -> Checked {
        match self.random.pick(self.hosts.keys().copied()) {
            Some(id) => act(self, id),
            None => Ok(()),
        }
    }

    fn advance(&mut self, span: Span) {
        self.now = self.now + span;
        for id in self.sessions.keys() {
            self.heard.insert(*id, self.now);
        }
    }

    fn pass(&mut self, id: HostId) -> Checked {
        let Some(host) = self.hosts.get_mut(&id).filter(|host| host.on) else { return Ok(()) };
        for action in host.pass(self.now) {
            self.oracle.judge_action(host, &action, &self.cluster)?;
        }
        Ok(())
    }

    /// The leader plans what has changed; a look at everything gives the same.
    fn plan(&mut self) -> Checked {
        let found = self.planner.plan(&self.cluster, self.moment());
        let all = plan(&self.cluster, self.moment());
        if (&found.commands, found.wake_at) != (&all.commands, all.wake_at) {
            return Err(format!("the planner overlooks something: {found:?} instead of {all:?}"));
        }
        self.propose(found.commands);
        Ok(())
    }

    fn moment(&self) -> Moment {
        Moment { now: self.now, leading_since: self.leading_since }
    }

    /// One proposal is decided upon, perhaps twice, perhaps long after it was made.
    fn decide_some(&mut self) -> Checked {
        if self.in_flight.is_empty() {
            return Ok(());
        }
        let chosen = self.random.below(self.in_flight.len());
        let batch = if self.random.chance(25) { self.in_flight[chosen].clone() } else { self.in_flight.remove(chosen) };
        self.decide(batch)
    }

    /// A host and the leader exchange what is new.
    fn speak(&mut self, id: HostId) -> Checked {
        let Some(host) = self.hosts.get(&id).filter(|host| host.on && host.connected) else { return Ok(()) };
        if !self.sessions.contains_key(&id) {
            let known = self.cluster.hosts.get(&id).and_then(|known| known.facts.as_ref());
            if known != Some(&host.facts) {
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
        // Most letters come soon after they were sent, some after all that followed.
        let recent = self.letters.len().saturating_sub(4);
        let first = if self.random.chance(80) { recent } else { 0 };
        let chosen = first + self.random.below(self.letters.len() - first);
        let letter = self.letters.remove(chosen);
        self.deliver(letter.clone());
        if self.random.chance(25) {
            // It comes once more, maybe much later.
            self.letters.push(letter);
        }
    }

    fn deliver(&mut self, letter: Letter) {
        match letter {
            Letter::Assignment(id, assignment) => {
                if let Some(host) = self.hosts.get_mut(&id).filter(|host| host.on && host.connected) {
                    host.receive(assignment);
                }
            }
            Letter::Report(id, report) => {
                let Some(session) = self.sessions.get_mut(&id) else { return };
                session.unknown = report.unknown;
                let news = |(instance, observed): &(InstanceId, _)| {
                    self.cluster.instances.get(instance).is_some_and(|known| known.observed != *observed)
                };
                let instances: Vec<_> = report.instances.into_iter().filter(news).collect();
                if !instances.is_empty() {
                    self.propose(vec![Command::Observe { host: id, instances }]);
                }
            }
        }
    }

    fn judge_leases(&mut self) {
        let judged = self.cluster.hosts.iter().filter_map(|(id, host)| {
            let heard = self.heard.get(id).copied();
            let silence = self.now.since(heard.unwrap_or(self.leading_since).max(self.leading_since));
            let liveness = lease::judge(host.liveness, heard.is_some(), silence, &self.cluster.settings, self.now)?;
            Some(Command::HostLiveness { host: *id, liveness })
        });
        let judged = judged.collect();
        self.propose(judged);
    }

    /// A person asks for something; the request may come twice under one id.
    fn ask(&mut self) -> Checked {
        if self.random.chance(10) {
            return self.change_of_mind();
        }
        let command = people::request(&mut self.random, &self.cluster, self.now);
        self.requests += 1;
        let request = Some(RequestId(u128::from(self.requests).to_be_bytes()));
        let proposal = Proposal { request, by: None, command };
        if self.random.chance(20) {
            self.in_flight.push(Batch { at: self.now, proposals: vec![proposal.clone()] });
        }
        self.commit(vec![proposal])
    }

    /// A person empties a host and thinks better of it, when the leader has begun to act on it.
    fn change_of_mind(&mut self) -> Checked {
        let Some(host) = self.random.pick(self.hosts.keys().copied()) else { return Ok(()) };
        let availability = Availability::Draining { deadline: self.now + Span::seconds(60) };
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
                if host.on {
                    host.lose_power(&mut world.random, now);
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
            12 if self.hosts.len() < 5 => self.join()?,
            13 => self.remove_host()?,
            14 => self.restore_from_snapshot()?,
            15 if self.random.chance(30) => self.letters.clear(),
            16 => self.some_host(|world, id| {
                // Its disk is replaced under the running containers. What it has told is told.
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

    /// A new leader: sessions begin anew, and what the old one had proposed may or may not come.
    fn change_leader(&mut self) {
        self.leading_since = self.now;
        self.heard.clear();
        self.sessions.clear();
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
        // Its owner takes its containers with it.
        self.hosts.remove(&id);
        self.sessions.remove(&id);
        self.heard.remove(&id);
        self.commit(vec![Command::RemoveHost(id).into()])
    }

    /// A member that comes back from a snapshot has the same state.
    fn restore_from_snapshot(&mut self) -> Checked {
        let bytes = codec::encode(&self.cluster).map_err(|error| error.to_string())?;
        let restored: Cluster = codec::decode(&bytes).map_err(|error| error.to_string())?;
        if restored != self.cluster {
            return Err("I6: a snapshot restores another state".to_owned());
        }
        self.cluster = restored;
        Ok(())
    }

    /// I6: the log gives every member the same state.
    pub fn replay(&self) -> Checked {
        let mut again = Cluster::default();
        for batch in &self.log {
            again.apply(batch);
        }
        if again == self.cluster { Ok(()) } else { Err("I6: the log gives another state the second time".to_owned()) }
    }

    /// Everything is mended; in bounded time all is as wanted, and then nothing happens any more.
    pub fn settle(&mut self) -> Checked {
        self.letters.clear();
        self.change_leader();
        for host in self.hosts.values_mut() {
            host.on = true;
            host.connected = true;
        }
        let deadline = self.now + SETTLES_WITHIN;
        let mut quiet_since = self.now;
        let mut index = self.cluster.index;
        while self.now.since(quiet_since) < QUIET {
            if self.now > deadline {
                return Err(format!("I11: not settled within {SETTLES_WITHIN}: {}", self.unrest()));
            }
            // What was asked for before may still come, and a service may go back to one.
            self.end_schedules()?;
            let something = self.round()?;
            if something || self.cluster.index != index {
                index = self.cluster.index;
                quiet_since = self.now;
            }
            let span = if something { Span(200) } else { Span::seconds(2) };
            self.advance(span);
        }
        let blocked: BTreeSet<ServiceId> = plan(&self.cluster, self.moment()).blocked.into_keys().collect();
        what_runs_is_wanted(&self.cluster, self.hosts.values(), &blocked)?;
        nothing_is_left_over(&self.cluster)
    }

    /// A cluster with schedules never comes to rest.
    fn end_schedules(&mut self) -> Checked {
        let has_schedule = |stack: &Stack| stack.services.values().any(|service| service.spec.cron.is_some());
        let stacks = self.cluster.stacks.iter().filter(|(_, stack)| !stack.removing && has_schedule(stack));
        let puts = stacks.map(|(id, stack)| {
            let mut spec = (*stack.spec).clone();
            spec.services.values_mut().for_each(|service| service.cron = None);
            let what = "without schedules".to_owned();
            Command::PutStack { id: id.clone(), spec: spec.into(), files: Vec::new(), expect_revision: None, what }
                .into()
        });
        let puts: Vec<Proposal> = puts.collect();
        if puts.is_empty() { Ok(()) } else { self.commit(puts) }
    }

    /// Everybody does all there is to do, once; whether there was anything.
    fn round(&mut self) -> Result<bool, String> {
        let mut something = false;
        let ids: Vec<HostId> = self.hosts.keys().copied().collect();
        for id in &ids {
            self.pass(*id)?;
            let host = self.hosts.get_mut(id).expect("no host goes");
            while host.is_busy() {
                host.finish_one(&mut self.random, 0, self.now);
                something = true;
            }
            let ailing: Vec<InstanceId> =
                host.docker.iter().filter(|(_, c)| is_ailing(c.state)).map(|(id, _)| id.clone()).collect();
            for instance in ailing {
                host.set_health(&instance, Health::Healthy);
                something = true;
            }
            self.pass(*id)?;
            self.speak(*id)?;
        }
        something |= !self.letters.is_empty();
        for letter in std::mem::take(&mut self.letters) {
            self.deliver(letter);
        }
        self.judge_leases();
        self.plan()?;
        something |= !self.in_flight.is_empty();
        for batch in std::mem::take(&mut self.in_flight) {
            self.decide(batch)?;
        }
        Ok(something)
    }

    fn unrest(&self) -> String {
        let plan = plan(&self.cluster, self.moment());
        format!("commands {:?}, blocked {:?}", plan.commands, plan.blocked)
    }
}

fn is_ailing(state: ContainerState) -> bool {
    matches!(state, ContainerState::Running { health: Health::Starting | Health::Unhealthy, .. })
}

fn host_id(number: u64) -> HostId {
    HostId([number as u8; 10])
}

fn host_name(number: u64) -> Name {
    Name::parse(&format!("h{number}")).expect("it is a name")
}

fn nothing_for(host: HostId) -> Assignment {
    Assignment { cluster: CLUSTER, host, generation: 0, instances: Vec::new(), surplus: BTreeSet::new() }
}
