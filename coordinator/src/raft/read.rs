//! Linearizable reads: one round with a majority serves everyone who waited for it.

use std::time::Duration;

use common::error::Problem;
use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};

use super::{Consensus, MemberAnswer, MemberCall, no_leader};

const READ_TIMEOUT: Duration = Duration::from_secs(4);
const ROUND_TIMEOUT: Duration = Duration::from_secs(1);
const RETRY_DELAY: Duration = Duration::from_millis(50);

/// Somebody who waits for a round.
pub struct Waiting(oneshot::Sender<Result<(), Problem>>);

/// Waits until this member has applied all that was acknowledged before the call.
pub async fn read(reads: &mpsc::Sender<Waiting>) -> Result<(), Problem> {
    let (answer, done) = oneshot::channel();
    reads.send(Waiting(answer)).await.map_err(|_| no_leader())?;
    done.await.unwrap_or_else(|_| Err(no_leader()))
}

/// Serves readers in rounds.
pub async fn run(consensus: Consensus, mut waiting: mpsc::Receiver<Waiting>) {
    while let Some(first) = waiting.recv().await {
        let mut readers = vec![first];
        while let Ok(next) = waiting.try_recv() {
            readers.push(next);
        }
        let result = round(&consensus).await;
        for Waiting(answer) in readers {
            drop(answer.send(result.clone()));
        }
    }
}

async fn round(consensus: &Consensus) -> Result<(), Problem> {
    let deadline = Instant::now() + READ_TIMEOUT;
    while Instant::now() < deadline {
        if let Some(index) = find_index(consensus).await {
            let mut published = consensus.watch();
            let applied = published.wait_for(|published| published.applied >= index);
            if let Ok(Ok(_)) = tokio::time::timeout_at(deadline, applied).await {
                return Ok(());
            }
        }
        tokio::time::sleep(RETRY_DELAY).await;
    }
    Err(no_leader()
        .why("no majority confirmed a leader in time")
        .fix("To read this coordinator's own state, add ?stale"))
}

async fn find_index(consensus: &Consensus) -> Option<u64> {
    if consensus.is_raft_leader() {
        return index(consensus).await;
    }
    match consensus.call(consensus.leader_address()?, &MemberCall::ReadIndex, ROUND_TIMEOUT).await {
        Ok(MemberAnswer::ReadIndex(index)) => index,
        _ => None,
    }
}

/// On the leader: the index that a reader must have applied, after a majority confirmed the leader.
pub async fn index(consensus: &Consensus) -> Option<u64> {
    // A round would renew the lease with the others, which would refuse their votes to the next leader.
    if consensus.handing_over.is_so() {
        return None;
    }
    let confirmed = tokio::time::timeout(ROUND_TIMEOUT, consensus.raft.ensure_linearizable()).await;
    confirmed.ok()?.ok().map(|id| id.map_or(0, |id| id.index))
}
