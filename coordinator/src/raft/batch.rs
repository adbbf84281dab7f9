//! Many commands in one Raft entry, and in one message to the leader. openraft waits for the disk with
//! every single write, so without this each client would wait for everybody's disk.

use std::{sync::Arc, time::Duration};

use common::codec;
use coordinator_core::{Batch, Outcome, Proposal};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot},
    task::JoinSet,
};

use super::{Consensus, NotProposed};

/// Entries, or messages, on their way at a time. With two, each carries half as much, and an entry
/// costs the same whatever it carries: `scripts/bench raft`.
const IN_FLIGHT: usize = 1;
/// An entry takes what waits, up to so much: it is applied in one go, and nothing else happens meanwhile.
const MAX_COMMANDS: usize = 1000;
const MAX_BYTES: usize = 256 << 10;
/// Largest message of proposals, in bytes: the entry that holds it goes to each follower in one frame.
const MAX_PROPOSALS: usize = 8 << 20;
/// A leader that loses its majority never answers; after this the result is unknown.
const ENTRY_TIMEOUT: Duration = Duration::from_secs(3);

type Answer = oneshot::Sender<Result<Vec<Outcome>, NotProposed>>;

/// Where proposals wait.
pub type Batches = mpsc::Sender<Waiting>;

/// Proposals and where their outcomes go.
pub struct Waiting {
    proposals: Vec<Proposal>,
    /// How many bytes they take in the log.
    bytes: usize,
    answer: Answer,
}

/// Hands proposals to the batcher and waits for their outcomes; refused if too many wait already.
pub async fn propose_at_once(batches: &Batches, proposals: Vec<Proposal>) -> Result<Vec<Outcome>, NotProposed> {
    let bytes = size(&proposals)?;
    outcomes(batches.try_reserve().map_err(|_| NotProposed::Busy)?, proposals, bytes).await
}

/// The same of somebody who can wait until it is their turn.
pub async fn propose(batches: &Batches, proposals: Vec<Proposal>) -> Result<Vec<Outcome>, NotProposed> {
    let bytes = size(&proposals)?;
    outcomes(batches.reserve().await.map_err(|_| stops())?, proposals, bytes).await
}

fn size(proposals: &[Proposal]) -> Result<usize, NotProposed> {
    let size = codec::size(&proposals).map_err(|error| NotProposed::Unknown(error.to_string()))?;
    if size > MAX_PROPOSALS { Err(NotProposed::TooLarge { size, limit: MAX_PROPOSALS }) } else { Ok(size) }
}

async fn outcomes(
    place: mpsc::Permit<'_, Waiting>,
    proposals: Vec<Proposal>,
    bytes: usize,
) -> Result<Vec<Outcome>, NotProposed> {
    let (answer, outcome) = oneshot::channel();
    place.send(Waiting { proposals, bytes, answer });
    outcome.await.unwrap_or_else(|_| Err(stops()))
}

fn stops() -> NotProposed {
    NotProposed::Unknown("this member stops".into())
}

/// Where what was gathered goes.
#[derive(Debug, Clone, Copy)]
pub enum Towards {
    /// Into this member's log: it leads.
    Log,
    /// To the member that leads.
    Leader,
}

/// Gathers what waits while what was gathered before is on its way.
pub async fn run(consensus: Consensus, towards: Towards, mut waiting: mpsc::Receiver<Waiting>) {
    let permits = Arc::new(Semaphore::new(IN_FLIGHT));
    let mut under_way: JoinSet<()> = JoinSet::new();
    while let Some(first) = waiting.recv().await {
        let Ok(permit) = permits.clone().acquire_owned().await else { return };
        let gathered = gather(first, &mut waiting);
        under_way.spawn(deliver(consensus.clone(), towards, gathered, permit));
        while under_way.try_join_next().is_some() {}
    }
}

fn gather(first: Waiting, waiting: &mut mpsc::Receiver<Waiting>) -> Vec<Waiting> {
    let (mut commands, mut bytes) = (first.proposals.len(), first.bytes);
    let mut gathered = vec![first];
    while commands < MAX_COMMANDS && bytes < MAX_BYTES {
        let Ok(next) = waiting.try_recv() else { break };
        commands += next.proposals.len();
        bytes += next.bytes;
        gathered.push(next);
    }
    gathered
}

async fn deliver(consensus: Consensus, towards: Towards, gathered: Vec<Waiting>, permit: OwnedSemaphorePermit) {
    let mut answers = Vec::with_capacity(gathered.len());
    let mut proposals = Vec::new();
    for waiting in gathered {
        answers.push((waiting.proposals.len(), waiting.answer));
        proposals.extend(waiting.proposals);
    }
    let result = match towards {
        Towards::Log => write(&consensus, proposals).await,
        Towards::Leader => consensus.forward(proposals).await,
    };
    drop(permit);
    let mut outcomes = result.map(Vec::into_iter);
    for (length, answer) in answers {
        let of_this = outcomes.as_mut().map(|outcomes| outcomes.by_ref().take(length).collect());
        // An author that went away no longer wants its outcomes.
        drop(answer.send(of_this.map_err(|refused| refused.clone())));
    }
}

async fn write(consensus: &Consensus, proposals: Vec<Proposal>) -> Result<Vec<Outcome>, NotProposed> {
    let Some(_turn) = consensus.handing_over.turn().await else { return Err(NotProposed::NotLeader) };
    let batch = Arc::new(Batch { at: consensus.now(), proposals });
    match tokio::time::timeout(ENTRY_TIMEOUT, consensus.raft.client_write(batch)).await {
        Ok(Ok(response)) => Ok(response.data),
        Ok(Err(error)) if error.forward_to_leader::<openraft::BasicNode>().is_some() => Err(NotProposed::NotLeader),
        Ok(Err(error)) => Err(NotProposed::Unknown(error.to_string())),
        Err(_) => Err(NotProposed::Unknown(format!("no majority confirmed it within {ENTRY_TIMEOUT:?}"))),
    }
}

#[cfg(test)]
mod tests {
    use common::name::default_environment;
    use coordinator_core::Command;

    use super::*;

    #[test]
    fn an_entry_takes_so_many_bytes() {
        let (batches, mut waiting) = mpsc::channel(8);
        let one = || Waiting { proposals: Vec::new(), bytes: 200 << 10, answer: oneshot::channel().0 };
        for _ in 0..2 {
            batches.try_send(one()).expect("there is room");
        }
        assert_eq!(gather(one(), &mut waiting).len(), 2, "with the second there are enough");
        assert_eq!(gather(one(), &mut waiting).len(), 2);
    }

    #[test]
    fn what_no_message_can_carry_is_refused_with_its_size() {
        let put = |length: usize| {
            let (environment, value) = (default_environment(), Arc::from(vec![0; length]));
            size(&[Command::PutKey { environment, key: "k".into(), value }.into()])
        };
        assert!(put(1 << 20).is_ok_and(|size| size > 1 << 20));
        let Err(NotProposed::TooLarge { size, limit }) = put(9 << 20) else { panic!("it is too large") };
        assert!(size > limit && limit == MAX_PROPOSALS);
    }
}
