//! One question and one answer on a stream of their own, over a connection that is kept.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use common::wire::Open;
use serde::de::DeserializeOwned;
use tokio::sync::Mutex;

use crate::{Connection, LinkError, Transport};

/// Asks over `connection` and waits for the one answer.
pub async fn ask<A: DeserializeOwned>(connection: &Connection, question: &Open) -> Result<A, LinkError> {
    let mut stream = connection.open().await?;
    stream.outgoing.send(question).await?;
    stream.outgoing.finish().await?;
    stream.incoming.receive().await?.ok_or(LinkError::Ended)
}

/// A peer that is asked often: the connection is made when it is needed and dropped when it fails.
#[derive(Clone)]
pub struct Caller {
    transport: Arc<dyn Transport>,
    address: SocketAddr,
    connection: Arc<Mutex<Option<Connection>>>,
}

impl Caller {
    /// A caller of the coordinator at `address`.
    pub fn new(transport: Arc<dyn Transport>, address: SocketAddr) -> Caller {
        Caller { transport, address, connection: Arc::default() }
    }

    /// Where it calls.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The connection, made if there is none.
    pub async fn connection(&self) -> Result<Connection, LinkError> {
        let mut kept = self.connection.lock().await;
        if let Some(connection) = kept.as_ref().filter(|connection| !connection.is_closed()) {
            return Ok(connection.clone());
        }
        let connection = self.transport.dial(self.address).await?;
        *kept = Some(connection.clone());
        Ok(connection)
    }

    /// Asks and waits for the answer, at most `timeout`.
    pub async fn ask<A: DeserializeOwned>(&self, question: &Open, timeout: Duration) -> Result<A, LinkError> {
        let asked = tokio::time::timeout(timeout, async { ask(&self.connection().await?, question).await }).await;
        let answer = asked.unwrap_or(Err(LinkError::TimedOut(timeout)));
        if answer.is_err() {
            // A peer that was started anew does not know the connection: the next call makes one.
            self.connection.lock().await.take();
        }
        answer
    }
}
