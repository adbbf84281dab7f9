//! Calls with one question and one answer on their own stream, over a connection that stays open.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use common::wire::Open;
use futures::{
    FutureExt, StreamExt,
    future::{BoxFuture, Shared},
    stream::FuturesUnordered,
};
use serde::de::DeserializeOwned;
use tracing::{info, warn};

use crate::{Connection, LinkError, Transport};

/// The time after which a dial without a result gets a second attempt beside it; doubled each time.
const NEXT_DIAL: Duration = Duration::from_millis(300);
/// The maximum of this time.
const NEXT_DIAL_CAP: Duration = Duration::from_secs(1);

/// Dials until one attempt has a result. If a process dies during a handshake, that attempt hangs until it times out,
/// because the process that replaces it does not know of it.
async fn dial(transport: &dyn Transport, address: SocketAddr) -> Result<Connection, LinkError> {
    let mut attempts = FuturesUnordered::new();
    let mut pause = NEXT_DIAL;
    loop {
        attempts.push(transport.dial(address));
        tokio::select! {
            Some(result) = attempts.next() => return result,
            () = tokio::time::sleep(pause) => pause = (pause * 2).min(NEXT_DIAL_CAP),
        }
    }
}

/// Sends a question over `connection` and waits for its answer.
pub async fn ask<A: DeserializeOwned>(connection: &Connection, question: &Open) -> Result<A, LinkError> {
    let mut stream = connection.open().await?;
    stream.outgoing.send(question).await?;
    stream.outgoing.finish().await?;
    stream.incoming.receive().await?.ok_or(LinkError::Ended)
}

/// A peer that is called often. The connection is made when needed, and again after it has failed.
#[derive(Clone)]
pub struct Caller {
    transport: Arc<dyn Transport>,
    address: SocketAddr,
    line: Arc<Mutex<Line>>,
}

/// A dial that several callers can wait for. It continues when one of them gives up; otherwise, a network with a round
/// trip longer than their timeout would never get a connection.
type Dialing = Shared<BoxFuture<'static, Result<Connection, Arc<LinkError>>>>;

enum Line {
    Idle { failed: bool },
    Dialing { dialing: Dialing, failed: bool },
    Connected(Connection),
}

impl Caller {
    /// A caller of the coordinator at `address`; it does not connect yet.
    pub fn new(transport: Arc<dyn Transport>, address: SocketAddr) -> Caller {
        Caller { transport, address, line: Arc::new(Mutex::new(Line::Idle { failed: false })) }
    }

    /// The address that it calls.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    fn line(&self) -> MutexGuard<'_, Line> {
        self.line.lock().expect("no panic while it is held")
    }

    /// The connection; makes one if there is none.
    pub async fn connection(&self) -> Result<Connection, LinkError> {
        let dialing = {
            let mut line = self.line();
            match &*line {
                Line::Connected(connection) if !connection.is_closed() => return Ok(connection.clone()),
                Line::Dialing { dialing, .. } => dialing.clone(),
                Line::Connected(_) | Line::Idle { .. } => {
                    let failed = matches!(*line, Line::Idle { failed: true });
                    let dialing = self.dial();
                    *line = Line::Dialing { dialing: dialing.clone(), failed };
                    dialing
                }
            }
        };
        let result = dialing.await;
        self.settle(&result);
        result.map_err(LinkError::Dial)
    }

    fn dial(&self) -> Dialing {
        let (transport, address) = (self.transport.clone(), self.address);
        async move { dial(&*transport, address).await.map_err(Arc::new) }.boxed().shared()
    }

    /// Stores the result of a dial, and logs a change once.
    fn settle(&self, result: &Result<Connection, Arc<LinkError>>) {
        let mut line = self.line();
        let Line::Dialing { failed, .. } = *line else { return };
        match result {
            Ok(connection) => {
                if failed {
                    info!(address = %self.address, "a coordinator answers again");
                }
                *line = Line::Connected(connection.clone());
            }
            Err(error) => {
                if !failed {
                    warn!(address = %self.address, %error, "a coordinator cannot be reached");
                }
                *line = Line::Idle { failed: true };
            }
        }
    }

    /// Sends a question and waits for the answer, at most `timeout`.
    pub async fn ask<A: DeserializeOwned>(&self, question: &Open, timeout: Duration) -> Result<A, LinkError> {
        let mut used = None;
        let asking = async {
            let connection = self.connection().await?;
            used = Some((connection.heard(), connection.clone()));
            ask(&connection, question).await
        };
        let asked = tokio::time::timeout(timeout, asking).await;
        if asked.is_err()
            && let Some((heard, connection)) = used
            && heard == connection.heard()
        {
            self.turn_away_from(&connection);
        }
        asked.unwrap_or(Err(LinkError::TimedOut(timeout)))
    }

    /// Uses a new connection for the next question. No packet arrived while this question waited, so the peer may have
    /// died before it knew of the connection, and its successor ignores packets that it cannot decrypt. Others may
    /// still wait on the old connection.
    fn turn_away_from(&self, connection: &Connection) {
        let mut line = self.line();
        if matches!(&*line, Line::Connected(present) if present.is_same(connection)) {
            *line = Line::Idle { failed: false };
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use async_trait::async_trait;
    use common::{id::HostId, wire::PeerIdentity};

    use super::*;
    use crate::memory::{End, Network};

    /// The first dial hangs, like one to a process that dies before it answers.
    struct FirstDialHangs {
        end: End,
        dials: AtomicUsize,
    }

    #[async_trait]
    impl Transport for FirstDialHangs {
        async fn dial(&self, to: SocketAddr) -> Result<Connection, LinkError> {
            if self.dials.fetch_add(1, Ordering::Relaxed) == 0 {
                std::future::pending::<()>().await;
            }
            self.end.dial(to).await
        }

        async fn accept(&self) -> Option<Connection> {
            self.end.accept().await
        }
    }

    #[tokio::test]
    async fn a_connection_on_which_nothing_comes_is_not_asked_again() {
        let network = Network::default();
        let identity = |number| PeerIdentity { host: HostId([number; 10]), member: None };
        let (ours, theirs) = (([10, 0, 0, 1], 1).into(), ([10, 0, 0, 2], 1).into());
        let silent = network.end(theirs, identity(2));
        let caller = Caller::new(Arc::new(network.end(ours, identity(1))), theirs);
        let first = caller.connection().await.expect("connects");
        let asked = caller.ask::<()>(&Open::Member(Vec::new()), Duration::from_millis(20)).await;
        assert!(matches!(asked, Err(LinkError::TimedOut(_))), "nobody answers");
        let second = caller.connection().await.expect("connects");
        assert!(!second.is_same(&first) && !first.is_closed(), "it is a new one, and the old one may go on");
        drop(silent);
    }

    #[tokio::test]
    async fn a_dial_that_a_dying_process_took_does_not_keep_others_waiting() {
        let network = Network::default();
        let identity = |number| PeerIdentity { host: HostId([number; 10]), member: None };
        let (ours, theirs) = (([10, 0, 0, 1], 1).into(), ([10, 0, 0, 2], 1).into());
        let _listening = network.end(theirs, identity(2));
        let transport = FirstDialHangs { end: network.end(ours, identity(1)), dials: AtomicUsize::new(0) };
        let caller = Caller::new(Arc::new(transport), theirs);
        let connected = tokio::time::timeout(Duration::from_secs(3), caller.connection()).await;
        connected.expect("it does not wait for the first dial").expect("it connects");
    }
}
