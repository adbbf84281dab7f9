//! Certificates renew themselves: at half of their life, from any coordinator.

use link::clock::now;
use std::{path::PathBuf, sync::Arc, time::Duration};

use common::wire::{Open, Renewed};
use link::{
    Transport,
    call::ask,
    identity::{make_request, validity_of},
    keyring::Keyring,
    quic::Quic,
};
use tokio::sync::watch;
use tracing::{info, warn};

const CHECK: Duration = Duration::from_secs(3600);
const RETRY: Duration = Duration::from_secs(60);

/// Renews the certificate in a state folder for as long as it is awaited.
pub async fn run(state: PathBuf, quic: Arc<Quic>, renewed: watch::Sender<()>) {
    loop {
        let pause = match Keyring::load(&state) {
            Ok(Some(keyring)) if is_due(&keyring) => match renew(&state, keyring, &quic).await {
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
        };
        tokio::time::sleep(pause).await;
    }
}

fn is_due(keyring: &Keyring) -> bool {
    match validity_of(&keyring.certificate) {
        Ok((begins, ends)) => now().since(begins).0 * 2 >= ends.since(begins).0,
        Err(_) => true,
    }
}

/// Gets a new certificate for the same key and uses it at once.
pub async fn renew(state: &std::path::Path, mut keyring: Keyring, quic: &Quic) -> Result<(), String> {
    let request = make_request(&keyring.key).map_err(|e| e.to_string())?;
    let mut reason = "no coordinator is known".to_owned();
    for coordinator in keyring.coordinators.clone() {
        let asked = async {
            let connection = quic.dial(coordinator).await?;
            ask::<Renewed>(&connection, &Open::Renew(request.clone())).await
        };
        match asked.await {
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
