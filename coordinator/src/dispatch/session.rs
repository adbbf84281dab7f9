//! One agent's session on the leader.

use std::{collections::BTreeSet, sync::Arc};

use common::{
    assignment::Assignment,
    directory::Directory,
    error::{Code, Problem},
    host::HostFacts,
    id::{HostId, InstanceId},
    network::Network,
    report::Report,
    wire::{DirectoryPiece, Hello, ToAgent, ToCoordinator},
};
use coordinator_core::{Cluster, Command, Outcome, cluster::Host, lease, view};
use link::{Connection, LinkError, Stream, clock::now};
use tokio::sync::{Notify, mpsc};
use tracing::{Instrument, debug, info, info_span};

use super::{Dispatch, KnownDirectory};
use crate::raft::NotProposed;

/// Most entries of the directory that one message holds.
const PIECE: usize = 10_000;

/// Why a session ends.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error(transparent)]
    Link(#[from] LinkError),
    #[error("the host is refused: {}", .0.what)]
    Refused(Problem),
    #[error("this coordinator does not lead")]
    NotLeader,
    #[error("the agent went away")]
    Gone,
    #[error("a newer session took its place")]
    Replaced,
}

impl From<NotProposed> for Ended {
    fn from(_: NotProposed) -> Ended {
        // What was not written is reported again in the next session.
        Ended::NotLeader
    }
}

/// Serves a session until it ends.
pub async fn serve(dispatch: Dispatch, connection: Connection, hello: Hello, stream: Stream) {
    let span = info_span!("session", host = %hello.host);
    async {
        let Stream { incoming, mut outgoing } = stream;
        let mut session = Session {
            dispatch: dispatch.clone(),
            host: hello.host,
            machine: hello.machine,
            number: 0,
            changed: Arc::default(),
            unknown: BTreeSet::new(),
            sent: None,
            since: 0,
            told: None,
        };
        let ended = session.run(connection, hello, incoming, &mut outgoing).await;
        let farewell = match ended {
            Ended::NotLeader => Some(ToAgent::Redirect { leader: dispatch.consensus.leader_address() }),
            Ended::Refused(ref problem) => Some(ToAgent::Refused(problem.clone())),
            Ended::Link(_) | Ended::Gone | Ended::Replaced => None,
        };
        info!(reason = %ended, "the session ended");
        if let Some(farewell) = farewell {
            // The agent may be gone already; it then finds out by itself.
            let _ = outgoing.send(&farewell).await;
            let _ = outgoing.finish().await;
        }
    }
    .instrument(span)
    .await;
}

struct Session {
    dispatch: Dispatch,
    host: HostId,
    machine: [u8; 16],
    number: u64,
    /// Tells that the assignment may have changed.
    changed: Arc<Notify>,
    /// Instances that the agent found and no assignment named.
    unknown: BTreeSet<InstanceId>,
    /// What was sent last.
    sent: Option<Assignment>,
    /// The state that the session began with: nothing older is told.
    since: u64,
    /// The directory that was sent last.
    told: Option<Directory>,
}

impl Session {
    async fn run(
        &mut self,
        connection: Connection,
        hello: Hello,
        mut incoming: link::connection::Receiver,
        outgoing: &mut link::connection::Sender,
    ) -> Ended {
        let (said, mut heard) = mpsc::channel(16);
        let reading = async move {
            loop {
                match incoming.receive::<ToCoordinator>().await {
                    Ok(Some(message)) => {
                        if said.send(message).await.is_err() {
                            return Ended::Gone;
                        }
                    }
                    Ok(None) => return Ended::Gone,
                    Err(error) => return Ended::Link(error),
                }
            }
        };
        let speaking = async {
            if let Err(ended) = self.greet(connection, hello.facts, outgoing).await {
                return ended;
            }
            self.speak(&mut heard, outgoing).await.err().unwrap_or(Ended::Gone)
        };
        tokio::select! {
            ended = speaking => ended,
            ended = reading => ended,
        }
    }

    async fn greet(
        &mut self,
        connection: Connection,
        facts: HostFacts,
        outgoing: &mut link::connection::Sender,
    ) -> Result<(), Ended> {
        let consensus = self.dispatch.consensus.clone();
        if !consensus.leadership().leads {
            return Err(Ended::NotLeader);
        }
        // A new leader must have applied all that was acknowledged before it judges containers.
        let published = consensus.read().await.map_err(|_| Ended::NotLeader)?;
        if !published.cluster.is_admitted(self.host) {
            let removed = Problem::new(Code::HostRemoved, "This host is not part of the cluster any more")
                .why("it was removed")
                .fix("On the host: wharf uninstall, then join it with a new line");
            return Err(Ended::Refused(removed));
        }
        self.since = published.cluster.index;
        self.put_facts(facts).await?;
        (self.number, self.changed) = self.dispatch.begin(self.host, connection);
        let welcome = ToAgent::Welcome {
            heartbeat: published.cluster.settings.heartbeat,
            coordinators: view::coordinators(&published.cluster),
        };
        outgoing.send(&welcome).await?;
        info!("a session has begun");
        Ok(())
    }

    async fn speak(
        &mut self,
        heard: &mut mpsc::Receiver<ToCoordinator>,
        outgoing: &mut link::connection::Sender,
    ) -> Result<(), Ended> {
        let published = self.dispatch.consensus.watch();
        let changed = self.changed.clone();
        let mut leadership = self.dispatch.consensus.watch_leadership();
        let mut known = view::coordinators(&published.borrow().cluster);
        let mut directory = self.dispatch.directory.subscribe();
        loop {
            let cluster = published.borrow().cluster.clone();
            self.send_assignment(&cluster, outgoing).await?;
            let now = self.directory_now(&directory.borrow_and_update(), &cluster);
            self.send_directory(now, outgoing).await?;
            let now_known = view::coordinators(&cluster);
            if now_known != known {
                known = now_known;
                outgoing.send(&ToAgent::Coordinators(known.clone())).await?;
            }
            tokio::select! {
                message = heard.recv() => self.hear(message.ok_or(Ended::Gone)?, outgoing).await?,
                () = changed.notified() => {}
                _ = directory.changed() => {}
                _ = leadership.changed() => {}
            }
            if !self.dispatch.consensus.leadership().leads {
                return Err(Ended::NotLeader);
            }
        }
    }

    async fn send_assignment(
        &mut self,
        cluster: &Cluster,
        outgoing: &mut link::connection::Sender,
    ) -> Result<(), Ended> {
        if !cluster.is_admitted(self.host) {
            return Err(Ended::Refused(Problem::new(Code::HostRemoved, "This host was removed from the cluster")));
        }
        let Some(assignment) = view::assignment(cluster, self.host, &self.unknown) else { return Ok(()) };
        let same = |sent: &Assignment| {
            (&sent.instances, &sent.surplus, &sent.network)
                == (&assignment.instances, &assignment.surplus, &assignment.network)
        };
        if self.sent.as_ref().is_some_and(same) {
            return Ok(());
        }
        debug!(generation = assignment.generation, instances = assignment.instances.len(), "assignment sent");
        outgoing.send(&ToAgent::Assignment(Box::new(assignment.clone()))).await?;
        self.sent = Some(assignment);
        Ok(())
    }

    /// The directory to tell. Where there is no overlay, the addresses of others are of no use.
    fn directory_now(&self, known: &KnownDirectory, cluster: &Cluster) -> Option<Directory> {
        self.sent.as_ref().filter(|sent| matches!(sent.network, Network::Overlay(_)))?;
        match &self.told {
            _ if known.index >= self.since => Some(known.directory.clone()),
            // This member has just come to lead, and its own is not as far yet.
            None => Some(view::directory(cluster)),
            Some(_) => None,
        }
    }

    /// Sends what has changed since it was sent last; all of it at first.
    async fn send_directory(
        &mut self,
        now: Option<Directory>,
        outgoing: &mut link::connection::Sender,
    ) -> Result<(), Ended> {
        let Some(now) = now else { return Ok(()) };
        let anew = self.told.is_none();
        let difference = self.told.as_ref().unwrap_or(&Directory::default()).difference(&now);
        if !anew && difference.is_empty() {
            return Ok(());
        }
        let pieces = difference.pieces(PIECE);
        let last = pieces.len() - 1;
        for (number, difference) in pieces.into_iter().enumerate() {
            let piece = DirectoryPiece { anew: anew && number == 0, difference, more: number < last };
            outgoing.send(&ToAgent::Directory(piece)).await?;
        }
        self.told = Some(now);
        Ok(())
    }

    async fn hear(&mut self, message: ToCoordinator, outgoing: &mut link::connection::Sender) -> Result<(), Ended> {
        if !self.dispatch.beat(self.host, self.number) {
            return Err(Ended::Replaced);
        }
        match message {
            ToCoordinator::Beat { sent } if self.dispatch.consensus.leads_for_certain() => {
                let grant = lease::grant(&self.dispatch.consensus.current().cluster, self.host);
                outgoing.send(&ToAgent::BeatAck { sent, grant, at: now() }).await?;
            }
            // Not answered: the agent looks for another coordinator if this goes on.
            ToCoordinator::Beat { .. } => {}
            ToCoordinator::Facts(facts) => self.put_facts(facts).await?,
            ToCoordinator::Findings(findings) => self.dispatch.found(self.host, self.number, findings),
            ToCoordinator::Leaving => {
                self.dispatch.consensus.propose(vec![Command::HostLeaves(self.host).into()]).await?;
                outgoing.send(&ToAgent::Farewell).await?;
            }
            ToCoordinator::Report { number, report } => {
                self.put_report(report).await?;
                self.dispatch.reported(self.host, self.number);
                outgoing.send(&ToAgent::ReportAck { number }).await?;
            }
        }
        Ok(())
    }

    async fn put_facts(&self, facts: HostFacts) -> Result<(), Ended> {
        let published = self.dispatch.consensus.current();
        let known = published.cluster.hosts.get(&self.host);
        let is_known = |host: &Host| {
            host.facts.as_ref() == Some(&facts) && host.machine == Some(self.machine) && host.left_at.is_none()
        };
        if known.is_some_and(is_known) {
            return Ok(());
        }
        let command = Command::HostReported { host: self.host, facts, machine: self.machine };
        match self.dispatch.consensus.propose(vec![command.into()]).await?.into_iter().next() {
            Some(Outcome::Rejected(problem)) => Err(Ended::Refused(problem)),
            _ => Ok(()),
        }
    }

    /// Writes what differs from what is known; a report that says nothing new writes nothing.
    async fn put_report(&mut self, report: Report) -> Result<(), Ended> {
        let published = self.dispatch.consensus.current();
        let differs = |(id, observed): &(InstanceId, common::instance::Observed)| {
            published
                .cluster
                .instances
                .get(id)
                .is_some_and(|instance| instance.host == self.host && instance.observed != *observed)
        };
        let instances: Vec<_> = report.instances.into_iter().filter(differs).collect();
        self.unknown = report.unknown;
        if !instances.is_empty() {
            self.dispatch.consensus.propose(vec![Command::Observe { host: self.host, instances }.into()]).await?;
        }
        Ok(())
    }
}
