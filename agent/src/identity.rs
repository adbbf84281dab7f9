//! The host's identity on disk: its certificate is renewed at half of its life, and the coordinators that the cluster has
//! are remembered, so that the host finds them after a restart even if those of its first day are gone.

use link::clock::now;
use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use common::wire::{Open, Renewed};
use link::{
    LinkError, Transport,
    call::ask,
    identity::{make_request, validity_of},
    keyring::Keyring,
    quic::Quic,
};
use tokio::{sync::watch, time::Instant};
use tracing::{info, warn};

const CHECK: Duration = Duration::from_secs(3600);
const RETRY: Duration = Duration::from_secs(60);
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// Keeps the keyring in a state folder for as long as it is awaited. `learned` are the coordinators that the cluster has
/// now, and `renewed` gets notice of each new certificate.
pub async fn keep(
    state: PathBuf,
    quic: Arc<Quic>,
    renewed: watch::Sender<()>,
    mut learned: watch::Receiver<Vec<SocketAddr>>,
) {
    let mut next = Instant::now();
    loop {
        tokio::select! {
            known = next_of(&mut learned) => {
                if let Err(error) = remember(&state, known) {
                    warn!(error, "the coordinators of the cluster could not be written down");
                }
            }
            () = tokio::time::sleep_until(next) => next = Instant::now() + renew_if_due(&state, &quic, &renewed).await,
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

/// Returns after which time to look again.
async fn renew_if_due(state: &Path, quic: &Quic, renewed: &watch::Sender<()>) -> Duration {
    match Keyring::load(state) {
        Ok(Some(keyring)) if is_due(&keyring) => match renew(state, keyring, quic).await {
            Ok(()) => {
                renewed.send_replace(());
                CHECK
            }
            Err(reason) => {
                warn!(reason, "the certificate could not be renewed; trying again");
                RETRY
            }
        },
        Ok(_) => CHECK,
        Err(error) => {
            warn!(%error, "the keyring cannot be read");
            RETRY
        }
    }
}

fn is_due(keyring: &Keyring) -> bool {
    match validity_of(&keyring.certificate) {
        Ok((begins, ends)) => now().since(begins).0 * 2 >= ends.since(begins).0,
        Err(_) => true,
    }
}

/// Gets a new certificate for the same key and uses it at once.
pub async fn renew(state: &Path, mut keyring: Keyring, quic: &Quic) -> Result<(), String> {
    let request = make_request(&keyring.key).map_err(|e| e.to_string())?;
    let mut reason = "no coordinator is known".to_owned();
    for coordinator in keyring.coordinators.clone() {
        let asking = async {
            let connection = quic.dial(coordinator).await?;
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
                return Ok(());
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
