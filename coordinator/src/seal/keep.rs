//! Keeps the sealing keys of this coordinator at what the state needs: missing ones come from the others, and those
//! that nothing needs any more go.

use std::{sync::Arc, time::Duration};

use common::wire::Open;
use coordinator_core::{Command, RequestId, State, level, sealed::KeyId, state::SealingChange, view};
use link::identity::random_bytes;
use tracing::{debug, error, info, warn};

use super::{SealingKey, Seals};
use crate::raft::Consensus;

const ASK_TIMEOUT: Duration = Duration::from_secs(2);
const RETRY: Duration = Duration::from_secs(1);

/// Keeps them for as long as it is awaited.
pub async fn keep(seals: Arc<Seals>, consensus: Consensus) {
    let mut published = consensus.watch();
    loop {
        let cluster = published.borrow_and_update().cluster.clone();
        if lacks(&seals, &cluster) {
            fetch(&seals, &consensus, &cluster).await;
        }
        remove_retired(&seals, &cluster);
        let is_done = acknowledge(&seals, &consensus, &cluster).await && !lacks(&seals, &cluster);
        let changed = async {
            if is_done {
                return published.changed().await.is_ok();
            }
            tokio::time::sleep(RETRY).await;
            true
        };
        if !changed.await {
            return;
        }
    }
}

/// Whether a key is missing here; which one it is a young cluster does not say.
fn lacks(seals: &Seals, cluster: &State) -> bool {
    seals.first().is_none() || cluster.needed_keys().any(|id| !seals.holds(id))
}

/// Asks the other coordinators for what is missing, each once.
async fn fetch(seals: &Seals, consensus: &Consensus, cluster: &State) {
    let own = cluster.members().get(&consensus.me()).map(|member| member.address);
    for address in view::coordinators(cluster).into_iter().filter(|address| Some(*address) != own) {
        let caller = consensus.callers().get(address);
        // Members of an earlier version know of one key only.
        let answered = if cluster.level() < level::TRUST {
            let asked = caller.ask::<Option<SealingKey>>(&Open::SealingKey, ASK_TIMEOUT).await;
            asked.map(|key| key.into_iter().collect())
        } else {
            caller.ask::<Vec<SealingKey>>(&Open::SealingKeys, ASK_TIMEOUT).await
        };
        match answered {
            Ok(keys) => take_up(seals, cluster, keys),
            Err(error) => debug!(%address, %error, "a coordinator did not provide the sealing key"),
        }
        if !lacks(seals, cluster) {
            return info!(from = %address, "received the sealing key");
        }
    }
}

/// Stores those of the keys that are needed.
fn take_up(seals: &Seals, cluster: &State, offered: Vec<SealingKey>) {
    let needed: Vec<KeyId> = cluster.needed_keys().collect();
    let is_needed = |key: &SealingKey| needed.is_empty() || needed.contains(&key.id());
    let stored = seals.change(|keys| {
        for key in offered.into_iter().filter(is_needed) {
            if !keys.contains(&key) {
                keys.push(key);
            }
        }
    });
    if let Err(error) = stored {
        error!(%error, path = %seals.path.display(), "the sealing key cannot be stored");
    }
}

/// Removes the keys that the cluster has replaced, for good.
fn remove_retired(seals: &Seals, cluster: &State) {
    let retired = cluster.retired_keys();
    let removed = seals.change(|keys| keys.retain(|key| !retired.contains(&key.id())));
    if let Err(error) = removed {
        error!(%error, path = %seals.path.display(), "an old sealing key cannot be removed");
    }
}

/// Says that this member has the new key, if it has and that is not known; whether nothing is left to say.
async fn acknowledge(seals: &Seals, consensus: &Consensus, cluster: &State) -> bool {
    let me = consensus.me();
    let Some(SealingChange::Share { next, holders }) = cluster.sealing_change() else { return true };
    if holders.contains(&me) || !cluster.members().contains_key(&me) {
        return true;
    }
    if !seals.holds(*next) {
        return false;
    }
    let command = Command::HoldsSealingKey { member: me, key: *next };
    let said = consensus.write(RequestId(random_bytes()), command).await;
    if let Err(problem) = &said {
        warn!(%problem, "the new sealing key could not be acknowledged; trying again");
    }
    said.is_ok()
}
