//! A coordinator whose own certificate ended while it was off.
//!
//! It asks the others for a new one, like every host. If no other coordinator gives it one, because it is alone or all
//! of them were off, it issues one to itself: it holds the root's key. One that was removed meanwhile gains nothing by
//! that, since the others decide by their state what a member may do.

use std::{path::PathBuf, time::Duration};

use common::error::{Code, Problem};
use link::{clock::now, identity::make_request, identity::sign, keyring::Keyring, lapsed::has_ended};
use tracing::{info, warn};

use crate::Coordinator;

/// How long the others have to give it a new one.
const OTHERS_FIRST: Duration = Duration::from_secs(10);
const CHECK: Duration = Duration::from_secs(2);

/// Completes when the certificate in the keyring has not ended.
pub async fn run(coordinator: Coordinator, state: PathBuf) {
    let began = tokio::time::Instant::now();
    loop {
        match Keyring::load(&state) {
            Ok(Some(keyring)) if has_ended(&keyring.certificate, now()) => {
                if began.elapsed() >= OTHERS_FIRST
                    && let Err(problem) = issue(&coordinator, keyring, &state)
                {
                    warn!(%problem, "this coordinator's certificate has ended");
                }
            }
            Ok(_) => return,
            Err(error) => warn!(%error, "the keyring cannot be read"),
        }
        tokio::time::sleep(CHECK).await;
    }
}

/// Issues a certificate to this coordinator; whoever renews certificates takes it up from the keyring.
fn issue(coordinator: &Coordinator, keyring: Keyring, state: &std::path::Path) -> Result<(), Problem> {
    let failed = |why: String| Problem::new(Code::Internal, "No certificate was issued").why(why);
    let cluster = coordinator.consensus.current().cluster.clone();
    let identity = cluster.identity().ok_or_else(|| failed("the cluster's state is not here".to_owned()))?;
    let member = cluster.member_on(keyring.host).filter(|member| Some(*member) == keyring.member);
    let member = member.ok_or_else(|| failed("this member was removed".to_owned()))?;
    let root = coordinator.seals.root(&identity.authority)?;
    let request = make_request(&keyring.key).map_err(|error| failed(error.to_string()))?;
    let certificate =
        sign(&root, identity.id, &request, Some(member), now()).map_err(|error| failed(error.to_string()))?;
    Keyring { certificate, ..keyring }.save(state).map_err(|error| failed(error.to_string()))?;
    info!("this coordinator has issued itself a certificate, because its own had ended");
    Ok(())
}
