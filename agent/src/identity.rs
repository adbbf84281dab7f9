//! The host's identity on disk: its certificate is renewed at half of its life, and the coordinators that the cluster has
//! are remembered, so that the host finds them after a restart even if those of its first day are gone.

use link::clock::now;
use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use common::wire::{Open, Renewed, RootId, RootsHeld, TrustedRoots};
use link::{
    Connection, LinkError, Transport,
    call::ask,
    identity::{is_issued_by, make_request, validity_of},
    keyring::{Further, Keyring},
    lapsed::has_ended,
    quic::Quic,
};
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};
use tracing::{info, warn};

use crate::trust::{self, News};

const CHECK: Duration = Duration::from_secs(10);
const RETRY: Duration = Duration::from_secs(60);
/// The same while the host is kept out because its certificate has ended.
const RETRY_ENDED: Duration = Duration::from_secs(2);
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// What an agent learns in its sessions.
pub struct Learned {
    /// The coordinators that the cluster has now.
    pub coordinators: watch::Receiver<Vec<SocketAddr>>,
    /// The connection of the session, while there is one.
    pub session: watch::Receiver<Option<Connection>>,
}

/// A host's keyring, and what is made of it.
struct Keeper {
    state: PathBuf,
    quic: Arc<Quic>,
    /// Gets notice when the keyring has changed.
    renewed: watch::Sender<()>,
    session: watch::Receiver<Option<Connection>>,
}

/// Keeps the keyring in a state folder for as long as it is awaited. `renewed` gets notice of each new certificate, and
/// of each change of the roots.
pub async fn keep(state: PathBuf, quic: Arc<Quic>, renewed: watch::Sender<()>, learned: Learned) {
    let Learned { coordinators, session } = learned;
    let (news, heard) = mpsc::channel(1);
    let keeper = Keeper { state, quic, renewed, session: session.clone() };
    tokio::join!(keeper.run(coordinators, heard), trust::listen(session, news));
}

impl Keeper {
    async fn run(self, mut coordinators: watch::Receiver<Vec<SocketAddr>>, mut heard: mpsc::Receiver<News>) {
        let mut next = Instant::now();
        loop {
            tokio::select! {
                known = next_of(&mut coordinators) => {
                    if let Err(error) = remember(&self.state, known) {
                        warn!(error, "the coordinators of the cluster could not be written down");
                    }
                }
                Some(News { roots, answer }) = heard.recv() => match self.trust(roots).await {
                    // Without a receiver, the session has ended.
                    Ok(held) => drop(answer.send(held)),
                    Err(reason) => warn!(reason, "the cluster's roots could not be taken over; trying again"),
                },
                () = tokio::time::sleep_until(next) => next = Instant::now() + self.look().await,
            }
        }
    }

    /// Trusts the roots that the cluster names, and gets a certificate of the one that issues them now.
    async fn trust(&self, roots: TrustedRoots) -> Result<RootsHeld, String> {
        let keyring = Keyring::load(&self.state).map_err(|e| e.to_string())?.ok_or("this host has no identity")?;
        let further = Further { roots: roots.others, cross: roots.cross };
        let mut keyring = if keyring.root == roots.issuer && keyring.further == further {
            keyring
        } else {
            let changed = Keyring { root: roots.issuer, further, ..keyring };
            changed.save(&self.state).map_err(|e| e.to_string())?;
            info!("the cluster's roots have changed");
            self.use_now(&changed)?;
            changed
        };
        if !is_issued_by(&keyring.certificate, &keyring.root) {
            keyring = renew(&self.state, keyring, &self.quic, self.session()).await?;
            self.renewed.send_replace(());
        }
        let trusted = keyring.credentials().roots;
        let issuer = trusted.iter().find(|root| is_issued_by(&keyring.certificate, root));
        let issuer = issuer.ok_or("no root that is trusted has issued this host's certificate")?;
        Ok(RootsHeld { roots: trusted.iter().map(|root| RootId::of(root)).collect(), issuer: RootId::of(issuer) })
    }

    fn session(&self) -> Option<Connection> {
        self.session.borrow().clone()
    }

    fn use_now(&self, keyring: &Keyring) -> Result<(), String> {
        self.quic.replace_credentials(keyring.credentials()).map_err(|e| e.to_string())?;
        self.renewed.send_replace(());
        Ok(())
    }

    /// Renews the certificate if it is due; returns after which time to look again.
    async fn look(&self) -> Duration {
        match Keyring::load(&self.state) {
            Ok(Some(keyring)) if is_due(&keyring) => {
                let pause = if has_ended(&keyring.certificate, now()) { RETRY_ENDED } else { RETRY };
                match renew(&self.state, keyring, &self.quic, self.session()).await {
                    Ok(_) => {
                        self.renewed.send_replace(());
                        CHECK
                    }
                    Err(reason) => {
                        warn!(reason, "the certificate could not be renewed; trying again");
                        pause
                    }
                }
            }
            // A coordinator may have issued itself a certificate, or the host's other process got one.
            Ok(Some(keyring)) if keyring.credentials() != self.quic.credentials() => {
                if let Err(error) = self.use_now(&keyring) {
                    warn!(error, "the certificate in the keyring cannot be used");
                }
                CHECK
            }
            Ok(_) => CHECK,
            Err(error) => {
                warn!(%error, "the keyring cannot be read");
                RETRY
            }
        }
    }
}

/// The coordinators when they have changed.
async fn next_of(learned: &mut watch::Receiver<Vec<SocketAddr>>) -> Vec<SocketAddr> {
    match learned.changed().await {
        Ok(()) => learned.borrow_and_update().clone(),
        // No agent runs beside.
        Err(_) => std::future::pending().await,
    }
}

/// Writes down which coordinators there are, if it is not known yet. An empty list says nothing.
pub fn remember(state: &Path, known: Vec<SocketAddr>) -> Result<(), String> {
    let keyring = Keyring::load(state).map_err(|e| e.to_string())?;
    let Some(keyring) = keyring.filter(|keyring| !known.is_empty() && keyring.coordinators != known) else {
        return Ok(());
    };
    Keyring { coordinators: known, ..keyring }.save(state).map_err(|e| e.to_string())
}

/// Renews a certificate that has ended, before anything else is asked of a coordinator; once, since the host's containers
/// do not depend on it.
pub async fn renew_if_ended(state: &Path, quic: &Quic) {
    let Ok(Some(keyring)) = Keyring::load(state) else { return };
    if !has_ended(&keyring.certificate, now()) {
        return;
    }
    warn!("the certificate ended while this host was off; asking for a new one");
    let renewing = tokio::time::timeout(ANSWER_WITHIN, renew(state, keyring, quic, None));
    if let Ok(Err(reason)) = renewing.await {
        warn!(reason, "the certificate could not be renewed; trying again");
    }
}

fn is_due(keyring: &Keyring) -> bool {
    match validity_of(&keyring.certificate) {
        Ok((begins, ends)) => now().since(begins).0 * 2 >= ends.since(begins).0,
        Err(_) => true,
    }
}

/// Gets a new certificate for the same key and uses it at once. The session's connection is asked first.
async fn renew(
    state: &Path,
    mut keyring: Keyring,
    quic: &Quic,
    session: Option<Connection>,
) -> Result<Keyring, String> {
    let request = make_request(&keyring.key).map_err(|e| e.to_string())?;
    let mut reason = "no coordinator is known".to_owned();
    let others = keyring.coordinators.clone().into_iter().map(Some);
    for coordinator in session.iter().map(|_| None).chain(others) {
        let asking = async {
            let connection = match (coordinator, &session) {
                (Some(address), _) => quic.dial(address).await?,
                (None, Some(session)) => session.clone(),
                (None, None) => return Err(LinkError::Ended),
            };
            ask::<Renewed>(&connection, &Open::Renew(request.clone())).await
        };
        // One that is about to begin may accept, and not answer.
        let asked = tokio::time::timeout(ANSWER_WITHIN, asking).await;
        match asked.unwrap_or(Err(LinkError::TimedOut(ANSWER_WITHIN))) {
            Ok(Renewed::Certificate(certificate)) => {
                keyring.certificate = certificate;
                keyring.save(state).map_err(|e| e.to_string())?;
                quic.replace_credentials(keyring.credentials()).map_err(|e| e.to_string())?;
                info!("the certificate was renewed");
                return Ok(keyring);
            }
            Ok(Renewed::Refused(problem)) => reason = problem.to_string(),
            Err(error) => reason = error.to_string(),
        }
    }
    Err(reason)
}

#[cfg(test)]
mod tests {
    use common::{
        id::{ClusterId, HostId},
        secret::Secret,
    };

    use super::*;

    #[tokio::test]
    async fn the_coordinators_that_the_cluster_names_are_known_after_a_restart() {
        let folder = tempfile::tempdir().expect("a folder");
        let address = |last: u8| SocketAddr::from(([10, 0, 0, last], 7443));
        let keyring = Keyring {
            cluster: ClusterId([1; 10]),
            host: HostId([2; 10]),
            member: None,
            name: "h1".parse().expect("a name"),
            certificate: Vec::new(),
            key: Secret::new(Vec::new()),
            root: Vec::new(),
            coordinators: vec![address(1)],
            advertise: None,
            further: Default::default(),
        };
        keyring.save(folder.path()).expect("is written");
        let (cluster, mut learned) = watch::channel(keyring.coordinators.clone());
        cluster.send_replace(vec![address(2), address(3)]);
        let known = next_of(&mut learned).await;
        remember(folder.path(), known).expect("is written");
        remember(folder.path(), Vec::new()).expect("nothing is written");
        let found = Keyring::load(folder.path()).expect("is read").expect("is there");
        assert_eq!(found, Keyring { coordinators: vec![address(2), address(3)], ..keyring });
    }
}
