//! The agent's part in upgrades: it tells the leader which binary its host runs, fetches another one when it is told to,
//! and says when it is ready to go on with it. The process itself then replaces itself; this does not.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use common::{
    upgrade::{BinaryHash, Build, Target},
    wire::{Open, Running, Upgraded, Upgrading},
};
use link::{
    Connection, LinkError,
    binary::{self, BinaryError},
};
use tokio::sync::watch;
use tracing::{debug, error, info, warn};

/// How long to wait before a leader that does not know of upgrades yet is told again.
const RETRY: Duration = Duration::from_secs(10);
/// How long to wait before a binary that did not come is fetched again.
const FETCH_AGAIN: Duration = Duration::from_secs(2);
/// The running file, even if another has taken its place on disk.
const OWN: &str = "/proc/self/exe";
/// Everybody may run it, as the one before.
const MODE: u32 = 0o755;

/// The binary of this process, and what becomes of it.
#[derive(Debug, Clone)]
pub struct OwnBinary {
    /// Where another binary is put to be tried.
    pub trial: PathBuf,
    /// Why this host went back to this binary, if it has just tried another one.
    pub went_back: Option<String>,
    /// Gets the binary that the process is to go on with, as soon as it lies in its place.
    pub ready: watch::Sender<Option<BinaryHash>>,
    /// Whether the leader has said that this binary is kept.
    pub kept: watch::Sender<bool>,
}

/// Speaks with the leader about binaries for as long as it is awaited.
pub async fn run(own: OwnBinary, mut leads: watch::Receiver<Option<Connection>>) {
    let build = match own_build().await {
        Ok(build) => build,
        Err(error) => {
            error!(%error, "this process cannot read its own binary; it takes part in no upgrade");
            return std::future::pending().await;
        }
    };
    let mut running = Running { build, went_back: own.went_back.clone() };
    loop {
        let leader = leads.borrow_and_update().clone();
        if let Some(connection) = leader {
            if let Err(error) = speak(&own, &running, &connection).await {
                debug!(%error, "the leader was not told which binary this host runs");
            } else {
                running.went_back = None;
            }
            tokio::select! {
                changed = leads.changed() => if changed.is_err() { return std::future::pending().await },
                () = tokio::time::sleep(RETRY) => {}
            }
        } else if leads.changed().await.is_err() {
            return std::future::pending().await;
        }
    }
}

async fn own_build() -> io::Result<Build> {
    let hashed = tokio::task::spawn_blocking(|| binary::hash_of(Path::new(OWN))).await;
    let hash = hashed.unwrap_or_else(|panicked| Err(io::Error::other(panicked)))?;
    Ok(Build { hash, version: env!("CARGO_PKG_VERSION").to_owned() })
}

/// Obeys one leader until it ends the stream.
async fn speak(own: &OwnBinary, running: &Running, leader: &Connection) -> Result<(), LinkError> {
    let mut stream = leader.open().await?;
    stream.outgoing.send(&Open::Running(running.clone())).await?;
    let mut announced = None;
    while let Some(told) = stream.incoming.receive::<Upgrading>().await? {
        match told {
            Upgrading::Change(target) => {
                let Some(said) = change(own, leader, &target).await else { return Err(LinkError::Ended) };
                announced = matches!(said, Upgraded::Trying(_)).then_some(target.hash);
                stream.outgoing.send(&said).await?;
            }
            // A leader may still believe of an earlier attempt that it is under way.
            Upgrading::Go(hash) if announced != Some(hash) => debug!(%hash, "told to try a binary that is not here"),
            Upgrading::Go(hash) => {
                info!(%hash, "this process ends, and goes on with another binary");
                own.ready.send_replace(Some(hash));
                // The process stops its parts, and this task with them.
                return std::future::pending().await;
            }
            Upgrading::Keep(_) => {
                own.kept.send_replace(true);
            }
        }
    }
    Ok(())
}

/// Fetches a binary and tries that it runs here; none if the connection has ended. A connection that breaks, and a leader
/// that has no binary yet, say nothing against this host: it fetches again.
async fn change(own: &OwnBinary, leader: &Connection, target: &Target) -> Option<Upgraded> {
    info!(version = target.version, hash = %target.hash, "fetching another binary");
    while !leader.is_closed() {
        let fetched = async {
            binary::fetch(leader, target.hash, &own.trial, MODE).await?;
            binary::check(&own.trial, target).await
        };
        match fetched.await {
            Err(error @ (BinaryError::Link(_) | BinaryError::Refused(_))) => {
                info!(%error, "the binary did not come; fetching it again");
                tokio::time::sleep(FETCH_AGAIN).await;
            }
            fetched => return Some(outcome(target, fetched)),
        }
    }
    None
}

fn outcome(target: &Target, fetched: Result<(), BinaryError>) -> Upgraded {
    match fetched {
        Ok(()) => Upgraded::Trying(target.hash),
        Err(error) => {
            warn!(%error, "the binary cannot be used; this host goes on as before");
            let remedy = match &error {
                BinaryError::Io { source, .. } if source.kind() == io::ErrorKind::ReadOnlyFilesystem => {
                    "; the service may not write the folder of its binary: paste an install line again on that host, \
                     which writes a unit that allows it"
                }
                _ => "",
            };
            Upgraded::Failed { hash: target.hash, why: format!("{error}{remedy}") }
        }
    }
}
