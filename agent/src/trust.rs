//! What the leader says of the cluster's roots, on a stream of the session's connection.
//!
//! The agent opens the stream, so a coordinator sends only to those that can read it; one that does not know the stream
//! ends it.

use std::time::Duration;

use common::wire::{Open, RootsHeld, TrustedRoots};
use link::{Connection, LinkError};
use tokio::sync::{mpsc, oneshot, watch};
use tracing::debug;

/// The time after which a stream that has ended is opened again.
const AGAIN: Duration = Duration::from_secs(2);
/// The same of a coordinator that does not know such streams.
const UNKNOWN: Duration = Duration::from_secs(60);

/// The roots that the cluster trusts now, and where it goes what this host has of it.
pub(crate) struct News {
    /// The roots.
    pub roots: TrustedRoots,
    /// Answered when the host has done what it asks.
    pub answer: oneshot::Sender<RootsHeld>,
}

/// Passes on what the leader says, session by session, for as long as it is awaited.
pub(crate) async fn listen(mut session: watch::Receiver<Option<Connection>>, news: mpsc::Sender<News>) {
    loop {
        let Ok(connection) = session.wait_for(Option::is_some).await.map(|found| found.clone()) else {
            return std::future::pending().await;
        };
        let Some(connection) = connection else { continue };
        let pause = match follow(&connection, &news).await {
            Ok(true) => AGAIN,
            Ok(false) => UNKNOWN,
            Err(error) => {
                debug!(%error, "the stream of roots ended");
                AGAIN
            }
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            changed = session.changed() => if changed.is_err() { return std::future::pending().await },
        }
    }
}

/// Follows one stream; whether the coordinator said anything on it.
async fn follow(connection: &Connection, news: &mpsc::Sender<News>) -> Result<bool, LinkError> {
    let mut stream = connection.open().await?;
    stream.outgoing.send(&Open::Roots).await?;
    let mut was_answered = false;
    while let Some(roots) = stream.incoming.receive::<TrustedRoots>().await? {
        was_answered = true;
        let (answer, answered) = oneshot::channel();
        if news.send(News { roots, answer }).await.is_err() {
            return Ok(true);
        }
        // Without an answer it could not be done: the stream is opened again, and says it again.
        let Ok(held) = answered.await else { return Ok(true) };
        stream.outgoing.send(&held).await?;
    }
    Ok(was_answered)
}
