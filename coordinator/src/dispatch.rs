//! The leader's side of the agents' sessions: what hosts should run goes out, what they observe
//! comes in.

mod fence;
pub mod files;
pub mod lease;
mod session;

use std::{
    collections::{BTreeSet, HashMap},
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, Instant},
};

use common::{
    assignment::RegistryCredentials,
    directory::Directory,
    error::{Code, Problem},
    finding::Finding,
    id::{BootId, HostId},
    network::Subnet,
    wire::{LogRequest, Open},
};
use coordinator_core::{
    Changes,
    changes::Touched,
    view::{self, Found},
};
use link::{Connection, LinkError, Stream};
use tokio::sync::{Notify, watch};

pub use session::serve as serve_session;

use tracing::error;

use crate::{
    raft::{Consensus, no_leader},
    seal::Seals,
};

const DIAL_TIMEOUT: Duration = Duration::from_secs(3);
/// Most findings of one host.
const MOST_FINDINGS: usize = 100;
/// How long its peers may take to hear a host again that has come back, and to say so.
const HEARD_AGAIN: Duration = Duration::from_secs(10);
/// Changes that come together are sent together.
const GATHER: Duration = Duration::from_millis(20);
/// The same of the directory, which goes to every host.
const GATHER_DIRECTORY: Duration = Duration::from_millis(100);

/// The sessions that this member has with agents. Clones share them.
#[derive(Clone)]
pub struct Dispatch {
    consensus: Consensus,
    /// The keys that open the passwords for registries.
    seals: Arc<Seals>,
    hosts: Arc<Mutex<HashMap<HostId, Live>>>,
    /// Since when this member leads, once its leases are kept.
    leading_since: Arc<Mutex<Option<Instant>>>,
    /// Notified when any host is heard.
    heard: Arc<Notify>,
    directory: watch::Sender<KnownDirectory>,
}

/// The directory, and the state that it was derived from.
#[derive(Default)]
struct KnownDirectory {
    index: u64,
    directory: Directory,
}

/// A host that speaks with this member.
struct Live {
    connection: Connection,
    /// The boot that its machine speaks from.
    boot: BootId,
    /// The boot of another machine with its key that was refused last.
    refused: Option<BootId>,
    /// Tells sessions of one host apart: the newest counts.
    number: u64,
    last_beat: Instant,
    began: Instant,
    /// Whether it has reported all that it observes.
    reported: bool,
    /// Tells its session that its assignment may have changed.
    changed: Arc<Notify>,
    /// What its agent has found wrong.
    findings: Vec<Finding>,
}

impl Dispatch {
    /// No sessions yet.
    pub fn new(consensus: Consensus, seals: Arc<Seals>) -> Dispatch {
        Dispatch {
            consensus,
            seals,
            hosts: Arc::default(),
            leading_since: Arc::default(),
            heard: Arc::default(),
            directory: watch::Sender::default(),
        }
    }

    /// Credentials for a host, with the password open; none without the key that it needs.
    fn opened(&self, stored: &RegistryCredentials) -> Option<RegistryCredentials> {
        let opened = self.seals.open_credentials(stored);
        opened.inspect_err(|problem| error!(%problem, "a host pulls without credentials")).ok()
    }

    fn hosts(&self) -> MutexGuard<'_, HashMap<HostId, Live>> {
        self.hosts.lock().expect("no panic while it is held")
    }

    fn leading_since(&self) -> Option<Instant> {
        *self.leading_since.lock().expect("no panic while it is held")
    }

    fn lead_since(&self, since: Option<Instant>) {
        *self.leading_since.lock().expect("no panic while it is held") = since;
    }

    /// Notes a new session, and how it hears that its assignment may have changed; the host's older one ends.
    fn begin(&self, host: HostId, boot: BootId, connection: Connection) -> (u64, Arc<Notify>) {
        self.heard.notify_waiters();
        let mut hosts = self.hosts();
        let number = hosts.get(&host).map_or(0, |live| live.number + 1);
        let changed = Arc::new(Notify::new());
        let (last_beat, began, reported) = (Instant::now(), Instant::now(), false);
        let live = Live {
            connection,
            boot,
            refused: None,
            number,
            last_beat,
            began,
            reported,
            changed: changed.clone(),
            findings: Vec::new(),
        };
        if let Some(older) = hosts.insert(host, live) {
            older.connection.close("a newer session of this host has begun");
        }
        (number, changed)
    }

    /// Wakes the sessions of hosts whose assignment may have changed, for as long as it is awaited. Ten thousand
    /// sessions that each looked at every state would have no time for anything else.
    pub async fn tell_hosts(self) {
        let mut published = self.consensus.watch();
        let mut seen = published.borrow_and_update().cluster.clone();
        while published.changed().await.is_ok() {
            tokio::time::sleep(GATHER).await;
            let next = published.borrow_and_update().cluster.clone();
            let hosts = self.hosts();
            if hosts.is_empty() {
                // It does not lead. A session that begins looks by itself.
                seen = next;
                continue;
            }
            match Changes::between(&seen, &next).touched() {
                Touched::All => hosts.values().for_each(|live| live.changed.notify_one()),
                Touched::Hosts(touched) => {
                    touched.iter().filter_map(|host| hosts.get(host)).for_each(|live| live.changed.notify_one());
                }
            }
            drop(hosts);
            seen = next;
        }
    }

    /// Keeps the directory that all sessions send, for as long as it is awaited.
    pub async fn keep_directory(self) {
        let mut published = self.consensus.watch();
        let mut seen = published.borrow_and_update().cluster.clone();
        self.directory.send_replace(KnownDirectory { index: seen.index(), directory: view::directory(&seen) });
        while published.changed().await.is_ok() {
            tokio::time::sleep(GATHER_DIRECTORY).await;
            let next = published.borrow_and_update().cluster.clone();
            let mut directory = self.directory.borrow().directory.clone();
            view::follow(&mut directory, &seen, &next);
            self.directory.send_if_modified(|known| {
                let differs = !known.directory.difference(&directory).is_empty()
                    || !known.directory.open_ports_difference(&directory).is_empty();
                *known = KnownDirectory { index: next.index(), directory };
                differs
            });
            seen = next;
        }
    }

    /// Notes a sign of life; whether the session is still the newest.
    fn beat(&self, host: HostId, number: u64) -> bool {
        let mut hosts = self.hosts();
        let live = hosts.get_mut(&host).filter(|live| live.number == number);
        let is_newest = live.map(|live| live.last_beat = Instant::now()).is_some();
        self.heard.notify_waiters();
        is_newest
    }

    fn reported(&self, host: HostId, number: u64) {
        if let Some(live) = self.hosts().get_mut(&host).filter(|live| live.number == number) {
            live.reported = true;
        }
    }

    fn found(&self, host: HostId, number: u64, mut findings: Vec<Finding>) {
        findings.truncate(MOST_FINDINGS);
        if let Some(live) = self.hosts().get_mut(&host).filter(|live| live.number == number) {
            live.findings = findings;
        }
    }

    /// What the agents that speak with this member have found wrong. That a host was not heard by its peers says
    /// nothing of it while it has come back only a moment ago.
    pub fn own_findings(&self) -> Found {
        let cluster = self.consensus.watch().borrow().cluster.clone();
        let hosts = self.hosts();
        let back = hosts.iter().filter(|(_, live)| live.began.elapsed() < HEARD_AGAIN);
        let back: Vec<Subnet> = back.filter_map(|(id, _)| Some(cluster.hosts().get(id)?.subnet)).collect();
        let is_stale = |finding: &Finding| match finding {
            Finding::Unheard { peer, .. } | Finding::Narrow { peer, .. } => back.contains(peer),
            _ => false,
        };
        let findings = |live: &Live| live.findings.iter().filter(|one| !is_stale(one)).cloned().collect();
        hosts.iter().map(|(host, live)| (*host, findings(live))).collect()
    }

    /// What all agents have found wrong: they speak with the leader.
    pub async fn findings(&self) -> Result<Found, Problem> {
        if self.consensus.leadership().leads {
            return Ok(self.own_findings());
        }
        let leader = self.consensus.leader_address().ok_or_else(no_leader)?;
        let asked = self.consensus.callers().get(leader).ask(&Open::Findings, DIAL_TIMEOUT).await;
        asked.map_err(|error| no_leader().why(error.to_string()))
    }

    /// When a host that has reported was heard last.
    fn heard(&self, host: HostId) -> Option<Instant> {
        self.hosts().get(&host).filter(|live| live.reported).map(|live| live.last_beat)
    }

    /// The hosts that have a session with this member and have reported all that they observe.
    pub fn healthy(&self) -> BTreeSet<HostId> {
        self.hosts().iter().filter(|(_, live)| live.reported).map(|(host, _)| *host).collect()
    }

    fn forget_all(&self) {
        for (_, live) in self.hosts().drain() {
            live.connection.close("this coordinator does not lead any more");
        }
    }

    /// Opens a stream of an instance's output: from its agent if this member has its session, else
    /// through the leader.
    pub async fn logs(&self, request: LogRequest) -> Result<Stream, Problem> {
        let cannot = |why: String| {
            Problem::new(Code::Unreachable, format!("The output of {} cannot be read now", request.part)).why(why)
        };
        let published = self.consensus.current();
        let instance = published.cluster.instances().get(&request.part.instance);
        let Some(host) = instance.map(|instance| instance.host) else {
            return Err(Problem::new(Code::NotFound, format!("There is no instance {}", request.part.instance))
                .fix("List the instances: wharf ps"));
        };
        let own = self.hosts().get(&host).map(|live| live.connection.clone());
        let connection = match way(self.consensus.leadership().leads, own, self.consensus.leader_address()) {
            Ok(Way::Session(connection)) => connection,
            Ok(Way::Leader(leader)) => {
                let dialled =
                    tokio::time::timeout(DIAL_TIMEOUT, self.consensus.callers().get(leader).connection()).await;
                let dialled = dialled.unwrap_or(Err(LinkError::TimedOut(DIAL_TIMEOUT)));
                dialled.map_err(|error| cannot(format!("the leader does not answer: {error}")))?
            }
            Err(why) => return Err(cannot(why.to_owned())),
        };
        let opened = async {
            let mut stream = connection.open().await?;
            stream.outgoing.send(&Open::Logs(request.clone())).await?;
            Ok::<Stream, LinkError>(stream)
        };
        opened.await.map_err(|error| cannot(error.to_string()))
    }
}

/// How an agent is reached.
#[derive(Debug, PartialEq, Eq)]
enum Way<S> {
    /// By its session with this member.
    Session(S),
    /// Through the member that leads.
    Leader(SocketAddr),
}

/// Agents speak with the leader: what a member that does not lead has of a session is from before, and leads nowhere.
fn way<S>(leads: bool, session: Option<S>, leader: Option<SocketAddr>) -> Result<Way<S>, &'static str> {
    match (leads, session, leader) {
        (true, Some(session), _) => Ok(Way::Session(session)),
        (true, None, _) => Err("its host has no session with the leader"),
        (false, _, Some(leader)) => Ok(Way::Leader(leader)),
        (false, _, None) => Err("the coordinators have no leader"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_leader_uses_its_own_sessions() {
        let leader: SocketAddr = ([10, 0, 0, 2], 7443).into();
        let cases = [
            (true, Some(1), None, Ok(Way::Session(1))),
            (true, None, Some(leader), Err("its host has no session with the leader")),
            (false, Some(1), Some(leader), Ok(Way::Leader(leader))),
            (false, Some(1), None, Err("the coordinators have no leader")),
            (false, None, Some(leader), Ok(Way::Leader(leader))),
        ];
        for (leads, session, leader, expected) in cases {
            assert_eq!(way(leads, session, leader), expected, "{leads} {session:?} {leader:?}");
        }
    }
}
