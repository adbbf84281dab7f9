//! Upgrades: the binaries that this coordinator keeps for hosts, and the leader's part in changing one host after the
//! other. What is next is decided in [`coordinator_core::upgrade`].

mod sessions;
mod store;

use std::time::Duration;

use common::{
    id::MemberId,
    upgrade::{BinaryHash, Target},
};
use coordinator_core::{
    Outcome, State,
    upgrade::{self, Next, Seen},
};
use link::{binary, clock::now};
use tracing::{info, warn};

use crate::{dispatch::Dispatch, raft::Consensus};

pub use sessions::{serve_binary, serve_running};
pub use store::Binaries;

/// How often the leader looks at the hosts while an upgrade is under way.
const LOOK: Duration = Duration::from_millis(300);
/// How long to wait before a binary is fetched again from the other coordinators.
const RETRY: Duration = Duration::from_secs(2);
/// How long another coordinator may take to send a binary.
const FETCHES_WITHIN: Duration = Duration::from_secs(600);
const DIAL_WITHIN: Duration = Duration::from_secs(3);

/// Changes hosts while this member leads and an upgrade is under way.
pub async fn run(consensus: Consensus, dispatch: Dispatch, binaries: Binaries) {
    let mut published = consensus.watch();
    loop {
        let is_open = |state: &State| state.upgrade().is_some_and(|run| run.is_open());
        if published.wait_for(|now| is_open(&now.cluster)).await.is_err() {
            return;
        }
        if consensus.leadership().leads {
            step(&consensus, &dispatch, &binaries).await;
        }
        tokio::time::sleep(LOOK).await;
    }
}

async fn step(consensus: &Consensus, dispatch: &Dispatch, binaries: &Binaries) {
    let cluster = consensus.current().cluster.clone();
    let Some(target) = cluster.upgrade().map(|run| run.target.clone()) else { return };
    // Hosts fetch it from here.
    if !binaries.holds(target.hash) {
        return;
    }
    let seen = Seen {
        now: now(),
        leader: Some(consensus.me()),
        healthy: dispatch.healthy(),
        take_part: consensus.taking_part().await,
    };
    match upgrade::next(&cluster, &seen) {
        Next::Wait => {}
        Next::Propose(command) => {
            match consensus.propose(vec![(*command).into()]).await.map(|all| all.into_iter().next()) {
                Ok(Some(Outcome::Rejected(problem))) => info!(%problem, "a step of the upgrade no longer applied"),
                Ok(_) => {}
                Err(error) => info!(%error, "a step of the upgrade was not made; trying again"),
            }
        }
        Next::HandOver(others) => hand_over(consensus, others).await,
    }
}

async fn hand_over(consensus: &Consensus, others: Vec<MemberId>) {
    for other in others {
        match consensus.hand_over(other).await {
            Ok(()) => {
                return info!(to = other.0, "leadership was handed over, because this host is the next to change");
            }
            Err(why) => warn!(to = other.0, why, "leadership was not handed over"),
        }
    }
}

/// Keeps the binary of the last upgrade and no other: it comes from another coordinator if it is not here.
pub async fn keep_binary(consensus: Consensus, binaries: Binaries) {
    let mut published = consensus.watch();
    let mut known: Option<BinaryHash> = None;
    loop {
        let run = published.borrow_and_update().cluster.upgrade().map(|run| (run.target.clone(), run.is_open()));
        if let Some((target, is_open)) = run
            && known != Some(target.hash)
        {
            binaries.keep_only(Some(target.hash));
            if binaries.holds(target.hash) {
                known = Some(target.hash);
            } else if is_open {
                fetch(&consensus, &binaries, &target).await;
                if !binaries.holds(target.hash) {
                    tokio::time::sleep(RETRY).await;
                }
                continue;
            }
        }
        if published.changed().await.is_err() {
            return;
        }
    }
}

async fn fetch(consensus: &Consensus, binaries: &Binaries, target: &Target) {
    let others = consensus.group().into_iter().filter(|member| member.id != consensus.me());
    for address in others.filter_map(|member| member.address.parse().ok()) {
        let caller = consensus.callers().get(address);
        let fetching = async {
            let connection = tokio::time::timeout(DIAL_WITHIN, caller.connection()).await;
            let connection = connection.map_err(|_| format!("no answer within {DIAL_WITHIN:?}"))?;
            let connection = connection.map_err(|error| error.to_string())?;
            let path = binaries.prepare(target.hash).map_err(|error| error.to_string())?;
            let fetched = binary::fetch(&connection, target.hash, &path, store::MODE).await;
            fetched.map(drop).map_err(|error| error.to_string())
        };
        match tokio::time::timeout(FETCHES_WITHIN, fetching).await {
            Ok(Ok(())) => return info!(hash = %target.hash, "the binary of the upgrade has arrived"),
            Ok(Err(why)) => info!(%address, why, "another coordinator did not send the binary of the upgrade"),
            Err(_) => info!(%address, "another coordinator was too slow to send the binary of the upgrade"),
        }
    }
}
