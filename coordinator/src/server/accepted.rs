//! Connections that others have made to this coordinator: those of who was removed end with that.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use common::wire::PeerIdentity;
use coordinator_core::{
    Changes, State,
    access::{Action, Principal, Refusal, authorize},
};
use link::Connection;
use tracing::info;

use crate::raft::Consensus;

/// The session of a host that was removed says so before its connection ends.
const FAREWELL: Duration = Duration::from_secs(1);

/// All connections. Clones share them.
#[derive(Clone, Default)]
pub struct Accepted(Arc<Mutex<Open>>);

#[derive(Default)]
struct Open {
    last: u64,
    connections: HashMap<u64, (Connection, Arc<AtomicBool>)>,
}

/// A connection for as long as it is served.
pub struct OpenConnection {
    /// The connection.
    pub connection: Connection,
    number: u64,
    has_session: Arc<AtomicBool>,
    accepted: Accepted,
}

impl OpenConnection {
    /// Notes that an agent speaks on it.
    pub fn has_session(&self) {
        self.has_session.store(true, Ordering::Relaxed);
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.accepted.open().connections.remove(&self.number);
    }
}

impl Accepted {
    fn open(&self) -> MutexGuard<'_, Open> {
        self.0.lock().expect("no panic while it is held")
    }

    /// Notes a new connection.
    pub fn begin(&self, connection: Connection) -> OpenConnection {
        let mut open = self.open();
        open.last += 1;
        let (number, has_session) = (open.last, Arc::<AtomicBool>::default());
        open.connections.insert(number, (connection.clone(), has_session.clone()));
        OpenConnection { connection, number, has_session, accepted: self.clone() }
    }

    /// Closes connections of hosts and coordinators as they are removed, for as long as it is awaited.
    pub async fn close_removed(&self, consensus: &Consensus) {
        let mut published = consensus.watch();
        let mut seen = published.borrow_and_update().cluster.clone();
        while published.changed().await.is_ok() {
            let next = published.borrow_and_update().cluster.clone();
            if Changes::between(&seen, &next).concern_peers() {
                tokio::time::sleep(FAREWELL).await;
                self.close(&next);
            }
            seen = next;
        }
    }

    fn close(&self, cluster: &State) {
        for (connection, has_session) in self.open().connections.values() {
            let peer = connection.peer();
            if is_over(cluster, peer, has_session.load(Ordering::Relaxed)) {
                info!(host = %peer.host, "closed the connection of a removed host or member");
                connection.close("you were removed from the cluster");
            }
        }
    }
}

/// Whether a connection ends. The host of a coordinator that was removed is a host still, and its agent speaks on.
fn is_over(cluster: &State, peer: PeerIdentity, has_session: bool) -> bool {
    let removed = |action| authorize(&Principal::Peer(peer), &action, cluster) == Err(Refusal::Removed);
    removed(Action::Host(peer.host)) || (!has_session && peer.member.is_some_and(|id| removed(Action::Agree(id))))
}
