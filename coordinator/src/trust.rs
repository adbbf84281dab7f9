//! Takes the steps of [`coordinator_core::trust`] while this member leads.

use std::{sync::Arc, time::Duration};

use common::{
    assignment::RegistryCredentials,
    codec,
    error::{Code, Problem},
    id::HostId,
    wire::{RootsHeld, TrustedRoots},
};
use coordinator_core::{
    Command, Proposal, RequestId, State,
    command::{Resealed, SealedPlace},
    sealed::{KeyId, LOST},
    state::SealingChange,
    trust::{self, Step},
};
use link::{LinkError, Stream, identity::random_bytes};
use tokio::sync::watch;
use tracing::{error, info, warn};

use crate::{
    Coordinator,
    raft::{Consensus, no_leader},
    seal::{Purpose, Seals},
};

/// The time after which a step that failed is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// How many passwords are sealed by one command.
const PASSWORDS: usize = 100;
/// Most bytes of what a host says of its roots.
const MOST_HELD: usize = 4 << 10;

/// Works for as long as it is awaited.
pub async fn run(consensus: Consensus, seals: Arc<Seals>) {
    let mut published = consensus.watch();
    let mut leadership = consensus.watch_leadership();
    loop {
        let cluster = published.borrow_and_update().cluster.clone();
        let step = if leadership.borrow_and_update().leads { trust::next_step(&cluster) } else { None };
        if let Some(step) = step {
            match take(&consensus, &seals, &cluster, &step).await {
                // The step shows in the next state.
                Ok(()) => drop(tokio::time::timeout(RETRY, published.changed()).await),
                Err(problem) => {
                    warn!(%problem, "the cluster's keys could not be changed; trying again");
                    tokio::time::sleep(RETRY).await;
                }
            }
            continue;
        }
        tokio::select! {
            changed = published.changed() => if changed.is_err() { return },
            changed = leadership.changed() => if changed.is_err() { return },
        }
    }
}

/// Publishes the roots as they change: hosts do not look at every state.
pub async fn publish(consensus: Consensus, roots: watch::Sender<Option<TrustedRoots>>) {
    let mut published = consensus.watch();
    loop {
        let now = published.borrow_and_update().cluster.trusted_roots();
        roots.send_if_modified(|known| {
            let differs = *known != now;
            *known = now;
            differs
        });
        if published.changed().await.is_err() {
            return;
        }
    }
}

/// Tells a host which roots to trust, and notes what it has of them, for as long as it listens.
pub async fn tell(coordinator: &Coordinator, host: HostId, stream: Stream) -> Result<(), LinkError> {
    let Stream { mut incoming, mut outgoing } = stream;
    let mut roots = coordinator.roots.clone();
    loop {
        let now = roots.borrow_and_update().clone();
        if let Some(now) = now {
            outgoing.send(&now).await?;
            let Some(held) = incoming.receive_up_to::<RootsHeld>(MOST_HELD).await? else { return Ok(()) };
            note(coordinator, host, held).await?;
        }
        tokio::select! {
            changed = roots.changed() => if changed.is_err() { return Ok(()) },
            // A host says nothing unasked: it goes.
            _ = incoming.receive_up_to::<RootsHeld>(MOST_HELD) => return Ok(()),
        }
    }
}

/// Notes what a host has of the roots, if somebody waits for it.
async fn note(coordinator: &Coordinator, host: HostId, held: RootsHeld) -> Result<(), LinkError> {
    let cluster = coordinator.consensus.current().cluster.clone();
    if !cluster.awaited_by_root().any(|(awaited, _)| awaited == host) {
        return Ok(());
    }
    let noted = coordinator.consensus.write(RequestId(random_bytes()), Command::HostTrusts { host, held }).await;
    // Its next stream says it again.
    noted.map(drop).map_err(|problem| LinkError::Broken(std::io::Error::other(problem.to_string())))
}

async fn take(consensus: &Consensus, seals: &Seals, cluster: &State, step: &Step) -> Result<(), Problem> {
    let command = match step {
        Step::SealAuthority => seal_authority(seals, cluster)?,
        Step::UseSealingKey(key) => Command::UseSealingKey(*key),
        Step::Reseal(places) => Command::Reseal(reseal(seals, cluster, places)?),
        Step::SealPasswords => Command::Reseal(seal_passwords(seals, cluster)?),
        Step::EndSealingKey(old) => Command::EndSealingKey(*old),
        Step::MoveRoot => Command::MoveRoot { without: false },
    };
    let proposed = consensus.propose(vec![Proposal::from(command)]).await;
    match proposed.map(|outcomes| outcomes.into_iter().next()) {
        Ok(Some(coordinator_core::Outcome::Rejected(problem))) => Err(problem),
        Ok(_) => Ok(()),
        Err(error) => Err(no_leader().why(error.to_string())),
    }
}

/// The authority's keys, sealed with the only key that there is.
fn seal_authority(seals: &Seals, cluster: &State) -> Result<Command, Problem> {
    let (Some(identity), Some(by)) = (cluster.identity(), seals.first()) else {
        return Err(seals.seal(None, Purpose::RootKey, &[]).err().unwrap_or_else(no_leader));
    };
    let sealed = seals.sealed(by, &identity.authority)?;
    info!("the keys of the certificate authority are sealed");
    Ok(Command::SealAuthority { key: sealed.key, join_key: sealed.join_key })
}

/// Seals texts again with the present key. One that no key opens is marked, so that it does not hold up the others.
fn reseal(seals: &Seals, cluster: &State, places: &[SealedPlace]) -> Result<Vec<Resealed>, Problem> {
    let old = match cluster.sealing_change() {
        Some(SealingChange::Reseal { old }) => Some(*old),
        _ => None,
    };
    // Without both keys nothing can be said of a text: this member gets them from the others first.
    if let Some(missing) = cluster.needed_keys().find(|id| !seals.holds(*id)) {
        return Err(seals.seal(Some(missing), Purpose::RootKey, &[]).err().unwrap_or_else(no_leader));
    }
    let by = cluster.sealing_key();
    let texts = cluster.old_texts().filter(|(place, _)| places.contains(place));
    texts.map(|(place, text)| resealed(seals, (by, old), place, &text)).collect()
}

/// Seals passwords that lie open.
fn seal_passwords(seals: &Seals, cluster: &State) -> Result<Vec<Resealed>, Problem> {
    let seal = |credentials: &RegistryCredentials| {
        let place = SealedPlace::Password { registry: credentials.registry.clone() };
        let open = credentials.password.expose().as_bytes();
        let text = seals.seal(cluster.sealing_key(), Purpose::from(&place), open)?;
        Ok(Resealed { place, before: hash_of(open)?, text: text.into() })
    };
    cluster.open_passwords().take(PASSWORDS).map(seal).collect()
}

fn hash_of(text: &[u8]) -> Result<[u8; 32], Problem> {
    codec::hash(&text).map_err(|error| Problem::new(Code::Internal, error.to_string()))
}

fn resealed(
    seals: &Seals,
    (by, old): (Option<KeyId>, Option<KeyId>),
    place: SealedPlace,
    text: &[u8],
) -> Result<Resealed, Problem> {
    let before = hash_of(text)?;
    let sealed = match seals.open(Purpose::from(&place), text) {
        Ok(content) => seals.seal(by, Purpose::from(&place), content.expose())?,
        Err(problem) => {
            error!(%problem, ?place, ?old, "a sealed text cannot be opened with any key; it is left as it is");
            [&[LOST], text].concat()
        }
    };
    Ok(Resealed { place, before, text: sealed.into() })
}
