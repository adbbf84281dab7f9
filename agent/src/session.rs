//! The agent's side of a session: it finds the leader, introduces its host, reports, and obeys.

mod reach;

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use agent_core::search::{Attempt, Search};
use common::{
    assignment::Assignment,
    error::{Code, Problem},
    finding::Finding,
    host::{HostCondition, HostFacts},
    report::Report,
    time::Timestamp,
    wire::{Hello, Open, ToAgent, ToCoordinator},
};
use link::{
    Connection, LinkError, Stream, Transport,
    clock::{BootTime, now},
    connection::{Receiver, Sender},
    keyring::Keyring,
};
use tokio::{
    sync::{Notify, mpsc, watch},
    time::Instant,
};
use tracing::{debug, error, info, warn};

use crate::{
    Config,
    directory::Learner,
    facts,
    findings::{Findings, Source},
    leases::Leases,
    logs,
    network::OwnKey,
    runtime::ContainerRuntime,
};
use reach::reach;

/// After a refusal a person must act; asking often does not help.
const AFTER_REFUSAL: Duration = Duration::from_secs(15);
/// How long a leader to whom all agents come at once may take.
const WELCOME_WITHIN: Duration = Duration::from_secs(20);
/// How often the host's facts are looked at, and how often while Docker does not answer.
const FACTS_EVERY: Duration = Duration::from_secs(15);
const FACTS_EVERY_WITHOUT_DOCKER: Duration = Duration::from_secs(1);
/// How far the host's clock and the leader's may be apart, in seconds, and the steps beyond that.
const CLOCK_STEPS: [u64; 4] = [5, 60, 600, 3600];
/// How many heartbeats may stay unanswered before another coordinator is tried.
const MISSED_BEATS: u32 = 3;

/// The inputs and outputs of sessions.
pub struct Session<R: ?Sized> {
    /// The agent's settings.
    pub config: Config,
    /// How coordinators are reached.
    pub transport: Arc<dyn Transport>,
    /// The container engine, for facts and logs.
    pub runtime: Arc<R>,
    /// Where assignments go.
    pub assignment: watch::Sender<Assignment>,
    /// The last report.
    pub report: watch::Receiver<Report>,
    /// Where the connection goes for as long as its other end leads.
    pub leader: watch::Sender<Option<Connection>>,
    /// Where the directory goes.
    pub directory: Learner,
    /// The present problems of the host.
    pub findings: Findings,
    /// The present conditions of the host.
    pub conditions: watch::Receiver<Vec<HostCondition>>,
    /// The host's key of WireGuard, if it keeps a network.
    pub key: Option<OwnKey>,
    /// Where leases are extended.
    pub leases: Arc<Leases>,
    /// Where the address goes under which others reach this host.
    pub address: watch::Sender<Option<IpAddr>>,
    /// Notified once the agent is asked to stop.
    pub leaving: Arc<Notify>,
}

/// Why a session ended.
enum End {
    Redirected(Option<SocketAddr>),
    Refused(Problem),
    Broken(String),
    /// This host has another address than when the session began; that coordinator leads.
    Moved(SocketAddr),
    /// The agent was asked to stop, and the cluster knows.
    Left,
}

impl From<LinkError> for End {
    fn from(error: LinkError) -> End {
        End::Broken(error.to_string())
    }
}

impl<R: ContainerRuntime + ?Sized> Session<R> {
    /// Keeps a session with the leader, one after the other, for as long as it is awaited.
    pub async fn run(mut self) {
        let mut search = Search::new(self.config.host, &self.config.coordinators.borrow());
        loop {
            if search.coordinators().is_empty() {
                error!("no coordinator is known; this agent continues with the assignment in its ledger");
                tokio::time::sleep(AFTER_REFUSAL).await;
                self.look_up(&mut search);
                continue;
            }
            let (end, stayed) = self.attempt(&mut search).await;
            let mut attempt = Attempt { stayed, leader: None };
            match end {
                End::Redirected(Some(leader)) => attempt.leader = Some(leader),
                End::Moved(leader) => {
                    info!("this host has another address now: the session begins again");
                    attempt.leader = Some(leader);
                }
                End::Redirected(None) => debug!("the coordinators have no leader at the moment"),
                End::Refused(problem) => {
                    error!(%problem, "the coordinator refused this host");
                    if problem.code == Code::HostRemoved {
                        self.dismiss();
                    }
                    tokio::time::sleep(AFTER_REFUSAL).await;
                }
                End::Left => return,
                End::Broken(reason) => {
                    debug!(reason, "no session");
                    self.look_up(&mut search);
                }
            }
            if let Some(pause) = search.ended(attempt, self.directory.hosts()) {
                tokio::time::sleep(pause).await;
            }
        }
    }

    /// Takes up the coordinators in the keyring, if a person has written others there: those that were known are gone.
    fn look_up(&self, search: &mut Search) {
        match Keyring::load(&self.config.state) {
            Ok(Some(keyring)) if *self.config.coordinators.borrow() != keyring.coordinators => {
                info!(coordinators = ?keyring.coordinators, "the keyring names other coordinators");
                self.learn(search, keyring.coordinators);
            }
            // Tests have none.
            Ok(_) => {}
            Err(error) => warn!(%error, "the keyring cannot be read"),
        }
    }

    /// Has one session, if a coordinator answers; returns why it ended, and how long it lasted.
    async fn attempt(&mut self, search: &mut Search) -> (End, Duration) {
        match reach(&*self.transport, search.coordinators()).await {
            Ok((place, connection)) => {
                let address = search.answered(place);
                let began = Instant::now();
                (self.with(connection, address, search).await, began.elapsed())
            }
            Err(error @ LinkError::NoCommonProtocol { .. }) => {
                let problem = Problem::new(
                    Code::ProtocolTooOld,
                    "This host and its coordinator have no protocol version in common",
                );
                let fix = "Upgrade wharf on the older side";
                (End::Refused(problem.why(error.to_string()).fix(fix)), Duration::ZERO)
            }
            Err(error) => (End::Broken(error.to_string()), Duration::ZERO),
        }
    }

    async fn with(&mut self, connection: Connection, address: SocketAddr, search: &mut Search) -> End {
        let serving = logs::serve(connection.clone(), self.runtime.clone());
        let end = tokio::select! {
            result = self.speak(&connection, address, search) => result.err().unwrap_or(End::Broken("it ended".into())),
            () = serving => End::Broken("the connection ended".into()),
        };
        self.leader.send_replace(None);
        connection.close("the session ended");
        end
    }

    async fn speak(&mut self, connection: &Connection, address: SocketAddr, search: &mut Search) -> Result<(), End> {
        let facts = self.facts(address).await?;
        let mut stream = connection.open().await?;
        let heartbeat = self.greet(&mut stream, facts.clone(), search).await?;
        self.leader.send_replace(Some(connection.clone()));
        info!(coordinator = %address, "session opened");
        let Stream { incoming, outgoing } = stream;
        let (said, heard) = mpsc::channel::<ToAgent>(16);
        let reading = pass_on(incoming, said);
        let talk = Talk::new(address, outgoing, facts);
        tokio::select! {
            result = self.converse(talk, heard, heartbeat, search) => result,
            () = reading => Err(End::Broken("the stream ended".into())),
        }
    }

    /// Tells the coordinator what changes here, and hears what it says.
    async fn converse(
        &mut self,
        mut talk: Talk,
        mut heard: mpsc::Receiver<ToAgent>,
        heartbeat: Duration,
        search: &mut Search,
    ) -> Result<(), End> {
        let mut beats = tokio::time::interval(heartbeat);
        let (leaving, mut findings, mut conditions) =
            (self.leaving.clone(), self.findings.watch(), self.conditions.clone());
        findings.mark_changed();
        self.report.mark_changed();
        conditions.mark_changed();
        loop {
            tokio::select! {
                message = heard.recv() => {
                    let message = message.ok_or_else(|| End::Broken("the coordinator ended the session".into()))?;
                    talk.note(&message);
                    self.hear(message, search)?;
                }
                _ = beats.tick() => self.beat(&mut talk).await?,
                () = leaving.notified() => talk.outgoing.send(&ToCoordinator::Leaving).await?,
                changed = self.report.changed(), if talk.may_report() => {
                    changed.map_err(|_| End::Broken("the agent stops".into()))?;
                    let report = self.report.borrow_and_update().clone();
                    talk.report(report).await?;
                }
                Ok(()) = conditions.changed() => {
                    let present = conditions.borrow_and_update().clone();
                    talk.outgoing.send(&ToCoordinator::Conditions(present)).await?;
                }
                _ = findings.changed() => talk.outgoing.send(&ToCoordinator::Findings(self.findings.all())).await?,
                () = tokio::time::sleep_until(talk.look_at_facts) => self.look_at_facts(&mut talk).await?,
            }
        }
    }

    /// Sends a heartbeat, unless too many were not answered.
    async fn beat(&self, talk: &mut Talk) -> Result<(), End> {
        if talk.unanswered >= MISSED_BEATS {
            return Err(End::Broken("heartbeats were not answered".into()));
        }
        talk.unanswered += 1;
        // Others have to know a new address of this host at once.
        if self.reached_at(talk.coordinator).is_ok_and(|now| now != talk.facts.address) {
            talk.look_at_facts = Instant::now();
        }
        Ok(talk.outgoing.send(&ToCoordinator::Beat { sent: BootTime::now().0 }).await?)
    }

    /// Sends the host's facts if they have changed.
    async fn look_at_facts(&self, talk: &mut Talk) -> Result<(), End> {
        let looked = self.facts(talk.coordinator).await?;
        if looked.address != talk.facts.address {
            // Only a new connection shows the coordinator that the address is this host's own.
            return Err(End::Moved(talk.coordinator));
        }
        talk.look_at_facts = Instant::now() + until_next_look(&looked);
        if looked != talk.facts {
            talk.facts = looked;
            talk.outgoing.send(&ToCoordinator::Facts(talk.facts.clone())).await?;
        }
        Ok(())
    }

    /// Introduces this host; returns how often the coordinator expects a heartbeat.
    async fn greet(&self, stream: &mut Stream, facts: HostFacts, search: &mut Search) -> Result<Duration, End> {
        let generation = self.assignment.borrow().generation;
        let machine = facts::machine_hash(self.config.cluster);
        let hello = Hello { host: self.config.host, facts, generation, machine };
        stream.outgoing.send(&Open::Session(hello)).await?;
        // One that is about to begin may accept, and not answer.
        let welcome = tokio::time::timeout(WELCOME_WITHIN, stream.incoming.receive::<ToAgent>()).await;
        match welcome.unwrap_or(Err(LinkError::TimedOut(WELCOME_WITHIN)))? {
            Some(ToAgent::Welcome { heartbeat, coordinators: known }) => {
                self.learn(search, known);
                Ok(heartbeat.duration())
            }
            Some(ToAgent::Redirect { leader }) => Err(End::Redirected(leader)),
            Some(ToAgent::Refused(problem)) => Err(End::Refused(problem)),
            _ => Err(End::Broken("the coordinator sent an unexpected message".into())),
        }
    }

    /// Notes the coordinators that the cluster has now. An empty list says nothing.
    fn learn(&self, search: &mut Search, known: Vec<SocketAddr>) {
        if known.is_empty() {
            return;
        }
        self.config.coordinators.send_if_modified(|before| {
            let differs = *before != known;
            before.clone_from(&known);
            differs
        });
        search.learn(known);
    }

    fn hear(&mut self, message: ToAgent, search: &mut Search) -> Result<(), End> {
        match message {
            ToAgent::Assignment(assignment) => self.obey(*assignment),
            ToAgent::Directory(piece) => self.directory.hear(piece),
            ToAgent::OpenPorts(piece) => self.directory.hear_open_ports(piece),
            ToAgent::Coordinators(known) => self.learn(search, known),
            ToAgent::BeatAck { sent, extension, at } => {
                self.leases.extend(BootTime(sent), &extension);
                self.findings.put(Source::Clock, clock_finding(at, now()));
            }
            ToAgent::ReportAck { .. } => {}
            ToAgent::Farewell => return Err(End::Left),
            ToAgent::Redirect { leader } => return Err(End::Redirected(leader)),
            ToAgent::Refused(problem) => return Err(End::Refused(problem)),
            ToAgent::Welcome { .. } => return Err(End::Broken("the coordinator sent a second welcome".into())),
        }
        Ok(())
    }

    /// The address under which others reach this host: the one of the settings, or the one that the kernel would take.
    fn reached_at(&self, coordinator: SocketAddr) -> io::Result<IpAddr> {
        self.config.address.map_or_else(|| link::socket::local_address_towards(coordinator), Ok)
    }

    async fn facts(&self, coordinator: SocketAddr) -> Result<HostFacts, End> {
        let address = self.reached_at(coordinator).map_err(|e| End::Broken(e.to_string()))?;
        self.address.send_if_modified(|known| known.replace(address) != Some(address));
        let wireguard = self.key.as_ref().and_then(OwnKey::usable);
        Ok(facts::observe(&*self.runtime, address, wireguard).await)
    }

    /// Ends all that runs here: the cluster has removed this host, and runs it elsewhere.
    fn dismiss(&self) {
        let report = self.report.borrow().clone();
        self.assignment.send_if_modified(|current| {
            let dismissed = current.dismissed(&report);
            let changes = !current.instances.is_empty() || current.surplus != dismissed.surplus;
            if changes {
                warn!(
                    instances = dismissed.surplus.len(),
                    "this host was removed from the cluster; its instances are stopped"
                );
                *current = dismissed;
            }
            changes
        });
    }

    fn obey(&self, next: Assignment) {
        self.assignment.send_if_modified(|current| {
            if !current.accepts(&next) {
                warn!(
                    generation = next.generation,
                    known = current.generation,
                    "an assignment was refused: it is older, or not for this host"
                );
                return false;
            }
            debug!(generation = next.generation, instances = next.instances.len(), "assignment received");
            let changed = *current != next;
            *current = next;
            changed
        });
    }
}

/// What was said in a session.
struct Talk {
    coordinator: SocketAddr,
    outgoing: Sender,
    /// The facts that the coordinator knows.
    facts: HostFacts,
    look_at_facts: Instant,
    /// How many heartbeats were sent since the last answer to one.
    unanswered: u32,
    /// The number of the last report.
    reported: u64,
    /// The number of the last report that the coordinator has.
    acknowledged: u64,
}

impl Talk {
    fn new(coordinator: SocketAddr, outgoing: Sender, facts: HostFacts) -> Talk {
        let look_at_facts = Instant::now() + until_next_look(&facts);
        Talk { coordinator, outgoing, facts, look_at_facts, unanswered: 0, reported: 0, acknowledged: 0 }
    }

    /// Notes what a message answers.
    fn note(&mut self, message: &ToAgent) {
        match message {
            ToAgent::BeatAck { .. } => self.unanswered = 0,
            ToAgent::ReportAck { number } => self.acknowledged = *number,
            _ => {}
        }
    }

    /// Whether no report is on its way. Changes meanwhile go with the next one: a cluster that has much to write gets
    /// fewer reports.
    fn may_report(&self) -> bool {
        self.acknowledged == self.reported
    }

    async fn report(&mut self, report: Report) -> Result<(), End> {
        self.reported += 1;
        Ok(self.outgoing.send(&ToCoordinator::Report { number: self.reported, report }).await?)
    }
}

/// The finding about the host's clock, by the time that the leader sent a moment ago.
fn clock_finding(leader: Timestamp, own: Timestamp) -> Option<Finding> {
    let apart = leader.0.abs_diff(own.0) / 1000;
    // In steps, or each second of a drift would change the finding.
    let seconds = CLOCK_STEPS.into_iter().rev().find(|step| apart >= *step)?;
    Some(Finding::Clock { seconds })
}

/// Passes on the coordinator's messages, until there are no more or the receiver is gone.
async fn pass_on(mut incoming: Receiver, said: mpsc::Sender<ToAgent>) {
    while let Ok(Some(message)) = incoming.receive::<ToAgent>().await {
        if said.send(message).await.is_err() {
            return;
        }
    }
}

fn until_next_look(facts: &HostFacts) -> Duration {
    if facts.docker.is_empty() { FACTS_EVERY_WITHOUT_DOCKER } else { FACTS_EVERY }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_that_are_apart_are_told_in_steps() {
        let found = |leader: u64, own: u64| clock_finding(Timestamp(leader * 1000), Timestamp(own * 1000));
        assert_eq!(found(104, 100), None);
        assert_eq!(found(100, 106), Some(Finding::Clock { seconds: 5 }));
        assert_eq!(found(100, 159), Some(Finding::Clock { seconds: 5 }));
        assert_eq!(found(9000, 100), Some(Finding::Clock { seconds: 3600 }));
    }
}
