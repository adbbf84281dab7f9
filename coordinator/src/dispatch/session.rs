//! One agent's session on the leader: what its agent says is written, one message after the other; what it is to
//! know goes out beside that, and heartbeats wait for neither.

mod pace;
mod tell;

use std::{collections::BTreeSet, net::IpAddr};

use common::{
    error::{Code, Problem},
    host::{HostCondition, HostFacts},
    id::{HostId, InstanceId},
    instance::Observed,
    wire::{Hello, ToAgent, ToCoordinator},
};
use coordinator_core::{
    Command, Outcome,
    access::{self, Action, Principal, Refusal},
    level,
    state::Host,
    view,
};
use link::{
    Connection, LinkError, Stream,
    connection::{Receiver, Sender},
};
use tokio::sync::mpsc;
use tracing::{Instrument, info, info_span};

use super::{Dispatch, fence};
use crate::raft::NotProposed;
use pace::Pace;
use tell::Telling;

/// Messages of one agent that wait to be taken in.
const WAITING: usize = 16;

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

impl From<fence::Turned> for Ended {
    fn from(turned: fence::Turned) -> Ended {
        match turned {
            fence::Turned::NotLeader => Ended::NotLeader,
            fence::Turned::Refused(problem) => Ended::Refused(problem),
        }
    }
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
            dispatch,
            host: hello.host,
            machine: hello.machine,
            from: connection.remote().ip().to_canonical(),
            number: 0,
        };
        let ended = session.run(connection, hello.facts, incoming, &mut outgoing).await;
        let farewell = match ended {
            Ended::NotLeader => Some(ToAgent::Redirect { leader: session.dispatch.consensus.leader_address() }),
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
    /// Where its connection comes from.
    from: IpAddr,
    number: u64,
}

/// What a host is told that may not have a session. Only one that was removed ends its containers.
fn refused(refusal: Refusal) -> Problem {
    match refusal {
        Refusal::Unknown => Problem::new(Code::HostUnknown, "The cluster does not know this host")
            .why("its state is that of a backup which was made before the host joined")
            .fix("On the host: wharf agent reset-identity, then join it with a line of: wharf host add"),
        Refusal::Removed | Refusal::NotAllowed => {
            Problem::new(Code::HostRemoved, "This host is no longer part of the cluster")
                .why("it was removed")
                .fix("On the host: wharf uninstall, then join it with a new line")
        }
    }
}

/// What an agent said, once it is taken in.
enum Heard {
    /// It gets an answer.
    Answer(ToAgent),
    /// The report of that number is written; these are the instances that the agent found and no assignment named.
    Report { number: u64, unknown: BTreeSet<InstanceId> },
}

impl Session {
    async fn run(
        &mut self,
        connection: Connection,
        facts: HostFacts,
        mut incoming: Receiver,
        outgoing: &mut Sender,
    ) -> Ended {
        let (said, messages) = mpsc::channel(WAITING);
        let (beaten, beats) = mpsc::channel(WAITING);
        let reading = async move {
            loop {
                let passed = match incoming.receive::<ToCoordinator>().await {
                    Ok(Some(ToCoordinator::Beat { sent })) => beaten.send(sent).await.is_ok(),
                    Ok(Some(message)) => said.send(message).await.is_ok(),
                    Ok(None) => return Ended::Gone,
                    Err(error) => return Ended::Link(error),
                };
                if !passed {
                    return Ended::Gone;
                }
            }
        };
        let serving = async {
            let mut telling = match self.greet(connection, facts, outgoing).await {
                Ok(telling) => telling,
                Err(ended) => return ended,
            };
            let (hear, heard) = mpsc::channel(WAITING);
            let ended = tokio::select! {
                ended = self.listen(messages, hear) => ended,
                ended = telling.run(self, beats, heard, outgoing) => ended,
            };
            ended.err().unwrap_or(Ended::Gone)
        };
        tokio::select! {
            ended = serving => ended,
            ended = reading => ended,
        }
    }

    async fn greet(
        &mut self,
        connection: Connection,
        facts: HostFacts,
        outgoing: &mut Sender,
    ) -> Result<Telling, Ended> {
        let consensus = self.dispatch.consensus.clone();
        if !consensus.leadership().leads {
            return Err(Ended::NotLeader);
        }
        // A new leader must have applied all that was acknowledged before it judges containers.
        let published = consensus.read().await.map_err(|_| Ended::NotLeader)?;
        let peer = Principal::Peer(connection.peer());
        if let Err(refusal) = access::authorize(&peer, &Action::Host(self.host), &published.cluster) {
            return Err(Ended::Refused(refused(refusal)));
        }
        let boot = facts.boot;
        fence::pass(&self.dispatch, self.host, boot).await?;
        self.put_facts(facts).await?;
        let (number, changed) = self.dispatch.begin(self.host, boot, connection);
        self.number = number;
        let coordinators = view::coordinators(&published.cluster);
        let heartbeat = published.cluster.settings().heartbeat;
        outgoing.send(&ToAgent::Welcome { heartbeat, coordinators: coordinators.clone() }).await?;
        info!("session opened");
        Ok(Telling::new(published.cluster.index(), changed, coordinators))
    }

    /// Takes in what the agent says.
    async fn listen(
        &self,
        mut messages: mpsc::Receiver<ToCoordinator>,
        hear: mpsc::Sender<Heard>,
    ) -> Result<(), Ended> {
        let mut pace = Pace::begin();
        while let Some(message) = messages.recv().await {
            pace.next().await;
            self.note_life()?;
            if let Some(heard) = self.take_in(message).await? {
                hear.send(heard).await.map_err(|_| Ended::Gone)?;
            }
        }
        Ok(())
    }

    async fn take_in(&self, message: ToCoordinator) -> Result<Option<Heard>, Ended> {
        match message {
            // They have a way of their own.
            ToCoordinator::Beat { .. } => {}
            ToCoordinator::Facts(facts) => self.put_facts(facts).await?,
            ToCoordinator::Findings(findings) => self.dispatch.found(self.host, self.number, findings),
            ToCoordinator::Conditions(conditions) => self.put_conditions(conditions).await?,
            ToCoordinator::Leaving => {
                self.dispatch.consensus.propose(vec![Command::HostLeaves(self.host).into()]).await?;
                return Ok(Some(Heard::Answer(ToAgent::Farewell)));
            }
            ToCoordinator::Report { number, report } => {
                self.put_observed(report.instances).await?;
                self.dispatch.reported(self.host, self.number);
                return Ok(Some(Heard::Report { number, unknown: report.unknown }));
            }
        }
        Ok(None)
    }

    /// Notes that the host lives, and that this is its session still.
    fn note_life(&self) -> Result<(), Ended> {
        if self.dispatch.beat(self.host, self.number) { Ok(()) } else { Err(Ended::Replaced) }
    }

    async fn put_facts(&self, facts: HostFacts) -> Result<(), Ended> {
        let published = self.dispatch.consensus.current();
        let known = published.cluster.hosts().get(&self.host);
        let checks = published.cluster.level() >= level::HOST_CLAIMS;
        let is_known = |host: &Host| {
            let is_checked = !checks || (host.claims.from == Some(self.from) && host.claims.counts_whole());
            let is_same = host.facts.as_ref() == Some(&facts) && host.machine == Some(self.machine);
            is_same && is_checked && host.left_at.is_none()
        };
        if known.is_some_and(is_known) {
            return Ok(());
        }
        let (host, machine, from) = (self.host, self.machine, Some(self.from));
        let command = match checks {
            true => Command::HostSaid { host, facts, machine, from },
            false => Command::HostReported { host, facts, machine },
        };
        match self.dispatch.consensus.propose(vec![command.into()]).await?.into_iter().next() {
            Some(Outcome::Rejected(problem)) => Err(Ended::Refused(problem)),
            _ => Ok(()),
        }
    }

    /// Writes what the host cannot do now, if that is news.
    async fn put_conditions(&self, conditions: Vec<HostCondition>) -> Result<(), Ended> {
        let published = self.dispatch.consensus.current();
        if published.cluster.hosts().get(&self.host).is_some_and(|host| host.conditions != conditions) {
            let command = Command::HostConditions { host: self.host, conditions };
            self.dispatch.consensus.propose(vec![command.into()]).await?;
        }
        Ok(())
    }

    /// Writes what differs from what is known; a report that says nothing new writes nothing.
    async fn put_observed(&self, mut instances: Vec<(InstanceId, Observed)>) -> Result<(), Ended> {
        let published = self.dispatch.consensus.current();
        instances.retain(|(id, observed)| {
            let known = published.cluster.instances().get(id);
            known.is_some_and(|instance| instance.host == self.host && instance.observed != *observed)
        });
        if !instances.is_empty() {
            self.dispatch.consensus.propose(vec![Command::Observe { host: self.host, instances }.into()]).await?;
        }
        Ok(())
    }
}
