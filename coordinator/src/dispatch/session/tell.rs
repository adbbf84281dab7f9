//! What a session tells its agent: the assignment and the directory as they change, and answers.

use std::{collections::BTreeSet, net::SocketAddr, sync::Arc};

use common::{
    assignment::Assignment,
    directory::Directory,
    error::{Code, Problem},
    id::InstanceId,
    network::Network,
    wire::{DirectoryPiece, OpenPortsPiece, ToAgent},
};
use coordinator_core::{State, lease, level, view};
use link::connection::Sender;
use tokio::sync::{Notify, mpsc};
use tracing::debug;

use super::{Ended, Heard, Session};
use crate::dispatch::KnownDirectory;

/// Most entries of the directory that one message holds.
const PIECE: usize = 10_000;

/// What has been told, and what may have to be told anew.
pub struct Telling {
    /// The state that the session began with: nothing older is told.
    since: u64,
    /// Tells that the assignment or the coordinators may have changed.
    changed: Arc<Notify>,
    /// Whether they may differ from what was told: they are not derived anew for every heartbeat.
    is_stale: bool,
    /// Instances that the agent found and no assignment named.
    unknown: BTreeSet<InstanceId>,
    assignment: Option<Assignment>,
    coordinators: Vec<SocketAddr>,
    directory: Option<Directory>,
    /// The directory whose open ports were sent last.
    ports_of: Option<Directory>,
}

impl Telling {
    /// Nothing is told yet but these coordinators.
    pub fn new(since: u64, changed: Arc<Notify>, coordinators: Vec<SocketAddr>) -> Telling {
        let unknown = BTreeSet::new();
        let (assignment, directory, ports_of) = (None, None, None);
        Telling { since, changed, is_stale: true, unknown, assignment, coordinators, directory, ports_of }
    }

    /// Tells until the session ends.
    pub async fn run(
        &mut self,
        session: &Session,
        mut beats: mpsc::Receiver<u64>,
        mut heard: mpsc::Receiver<Heard>,
        outgoing: &mut Sender,
    ) -> Result<(), Ended> {
        let consensus = &session.dispatch.consensus;
        let (published, changed) = (consensus.watch(), self.changed.clone());
        let mut leadership = consensus.watch_leadership();
        let mut directory = session.dispatch.directory.subscribe();
        loop {
            let cluster = published.borrow().cluster.clone();
            if !cluster.is_admitted(session.host) {
                return Err(Ended::Refused(Problem::new(Code::HostRemoved, "This host was removed from the cluster")));
            }
            if std::mem::take(&mut self.is_stale) {
                self.tell_assignment(session, &cluster, outgoing).await?;
                self.tell_coordinators(&cluster, outgoing).await?;
            }
            let now = self.directory_now(&directory.borrow_and_update(), &cluster);
            self.tell_directory(now, outgoing).await?;
            if cluster.level() >= level::OPEN_PORTS {
                self.tell_open_ports(outgoing).await?;
            }
            tokio::select! {
                sent = beats.recv() => self.answer_beat(session, sent.ok_or(Ended::Gone)?, outgoing).await?,
                heard = heard.recv() => self.answer(heard.ok_or(Ended::Gone)?, outgoing).await?,
                () = changed.notified() => self.is_stale = true,
                _ = directory.changed() => {}
                _ = leadership.changed() => {}
            }
            if !consensus.leadership().leads {
                return Err(Ended::NotLeader);
            }
        }
    }

    async fn answer(&mut self, heard: Heard, outgoing: &mut Sender) -> Result<(), Ended> {
        let answer = match heard {
            Heard::Answer(answer) => answer,
            Heard::Report { number, unknown } => {
                self.is_stale |= self.unknown != unknown;
                self.unknown = unknown;
                ToAgent::ReportAck { number }
            }
        };
        Ok(outgoing.send(&answer).await?)
    }

    async fn answer_beat(&self, session: &Session, sent: u64, outgoing: &mut Sender) -> Result<(), Ended> {
        session.note_life()?;
        let consensus = &session.dispatch.consensus;
        // Else it is not answered: the agent looks for another coordinator if this goes on.
        if consensus.leads_for_certain() {
            let extension = lease::extension(&consensus.current().cluster, session.host);
            outgoing.send(&ToAgent::BeatAck { sent, extension, at: session.dispatch.consensus.now() }).await?;
        }
        Ok(())
    }

    async fn tell_assignment(
        &mut self,
        session: &Session,
        cluster: &State,
        outgoing: &mut Sender,
    ) -> Result<(), Ended> {
        let Some(mut assignment) = view::assignment(cluster, session.host, &self.unknown) else { return Ok(()) };
        for instance in &mut assignment.instances {
            let stored = std::mem::take(&mut instance.credentials);
            instance.credentials = stored.iter().filter_map(|stored| session.dispatch.opened(stored)).collect();
        }
        let same = |told: &Assignment| {
            (&told.instances, &told.surplus, &told.network)
                == (&assignment.instances, &assignment.surplus, &assignment.network)
        };
        if self.assignment.as_ref().is_some_and(same) {
            return Ok(());
        }
        debug!(generation = assignment.generation, instances = assignment.instances.len(), "assignment sent");
        outgoing.send(&ToAgent::Assignment(Box::new(assignment.clone()))).await?;
        self.assignment = Some(assignment);
        Ok(())
    }

    async fn tell_coordinators(&mut self, cluster: &State, outgoing: &mut Sender) -> Result<(), Ended> {
        let coordinators = view::coordinators(cluster);
        if self.coordinators != coordinators {
            outgoing.send(&ToAgent::Coordinators(coordinators.clone())).await?;
            self.coordinators = coordinators;
        }
        Ok(())
    }

    /// The directory to tell. Where there is no overlay, the addresses of others are of no use.
    fn directory_now(&self, known: &KnownDirectory, cluster: &State) -> Option<Directory> {
        self.assignment.as_ref().filter(|told| matches!(told.network, Network::Overlay(_)))?;
        match &self.directory {
            _ if known.index >= self.since => Some(known.directory.clone()),
            // This member has just come to lead, and its own is not as far yet.
            None => Some(view::directory(cluster)),
            Some(_) => None,
        }
    }

    /// Sends what has changed since it was sent last; all of it at first.
    async fn tell_directory(&mut self, now: Option<Directory>, outgoing: &mut Sender) -> Result<(), Ended> {
        let Some(now) = now else { return Ok(()) };
        let anew = self.directory.is_none();
        let difference = self.directory.as_ref().unwrap_or(&Directory::default()).difference(&now);
        if !anew && difference.is_empty() {
            return Ok(());
        }
        let pieces = difference.pieces(PIECE);
        let last = pieces.len() - 1;
        for (number, difference) in pieces.into_iter().enumerate() {
            let piece = DirectoryPiece { anew: anew && number == 0, difference, more: number < last };
            outgoing.send(&ToAgent::Directory(piece)).await?;
        }
        self.directory = Some(now);
        Ok(())
    }

    /// Sends which ports are open on hosts, as far as that has changed since it was sent last.
    async fn tell_open_ports(&mut self, outgoing: &mut Sender) -> Result<(), Ended> {
        let Some(now) = &self.directory else { return Ok(()) };
        let anew = self.ports_of.is_none();
        let difference = self.ports_of.as_ref().unwrap_or(&Directory::default()).open_ports_difference(now);
        if !anew && difference.is_empty() {
            return Ok(());
        }
        let mut pieces: Vec<_> = difference.chunks(PIECE).map(<[_]>::to_vec).collect();
        if pieces.is_empty() {
            pieces.push(Vec::new());
        }
        let last = pieces.len() - 1;
        for (number, difference) in pieces.into_iter().enumerate() {
            let piece = OpenPortsPiece { anew: anew && number == 0, difference, more: number < last };
            outgoing.send(&ToAgent::OpenPorts(piece)).await?;
        }
        self.ports_of = Some(now.clone());
        Ok(())
    }
}
