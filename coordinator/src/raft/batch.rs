//! Many commands in one Raft entry. openraft waits for the disk with every single write, so without
//! this each client would wait for everybody's disk.

use std::{sync::Arc, time::Duration};

use coordinator_core::{Batch, Command, Outcome, Proposal};
use link::clock::now;
use openraft::Raft;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot},
    task::JoinSet,
};

use super::{NotProposed, types::TypeConfig};

/// Entries on their way at a time: one is written while the next is gathered.
const IN_FLIGHT: usize = 2;
const MAX_COMMANDS: usize = 500;
const MAX_BYTES: usize = 64 << 10;
/// A leader that loses its majority never answers; after this the result is unknown.
const ENTRY_TIMEOUT: Duration = Duration::from_secs(3);

/// Proposals and where their outcomes go.
pub struct Waiting {
    proposals: Vec<Proposal>,
    answer: Answer,
}

/// Hands proposals to the batcher and waits for their outcomes.
pub async fn propose(batches: &mpsc::Sender<Waiting>, proposals: Vec<Proposal>) -> Result<Vec<Outcome>, NotProposed> {
    let (answer, outcome) = oneshot::channel();
    batches.try_send(Waiting { proposals, answer }).map_err(|_| NotProposed::Busy)?;
    outcome.await.unwrap_or_else(|_| Err(NotProposed::Unknown("this member stops".into())))
}

/// Gathers what waits while earlier entries are on their way.
pub async fn run(raft: Raft<TypeConfig>, mut waiting: mpsc::Receiver<Waiting>) {
    let permits = Arc::new(Semaphore::new(IN_FLIGHT));
    let mut entries: JoinSet<()> = JoinSet::new();
    while let Some(first) = waiting.recv().await {
        let Ok(permit) = permits.clone().acquire_owned().await else { return };
        let gathered = gather(first, &mut waiting);
        entries.spawn(write(raft.clone(), gathered, permit));
        while entries.try_join_next().is_some() {}
    }
}

fn gather(first: Waiting, waiting: &mut mpsc::Receiver<Waiting>) -> Vec<Waiting> {
    let size = |waiting: &Waiting| waiting.proposals.iter().map(|proposal| weight(&proposal.command)).sum::<usize>();
    let (mut commands, mut bytes) = (first.proposals.len(), size(&first));
    let mut gathered = vec![first];
    while commands < MAX_COMMANDS && bytes < MAX_BYTES {
        let Ok(next) = waiting.try_recv() else { break };
        commands += next.proposals.len();
        bytes += size(&next);
        gathered.push(next);
    }
    gathered
}

/// About how many bytes a command takes in the log.
fn weight(command: &Command) -> usize {
    match command {
        Command::PutKey { key, value, .. } => key.len() + value.len() + 64,
        Command::PutStack { spec, .. } => 1024 * (1 + spec.services.len()),
        Command::Observe { instances, .. } => 64 + 200 * instances.len(),
        _ => 256,
    }
}

async fn write(raft: Raft<TypeConfig>, gathered: Vec<Waiting>, permit: OwnedSemaphorePermit) {
    let mut lengths = Vec::with_capacity(gathered.len());
    let mut proposals = Vec::new();
    for waiting in gathered {
        lengths.push((waiting.proposals.len(), waiting.answer));
        proposals.extend(waiting.proposals);
    }
    let written = tokio::time::timeout(ENTRY_TIMEOUT, raft.client_write(Batch { at: now(), proposals })).await;
    drop(permit);
    let mut outcomes = match written {
        Ok(Ok(response)) => response.data.into_iter(),
        Ok(Err(error)) => {
            let refused = if error.forward_to_leader::<openraft::BasicNode>().is_some() {
                NotProposed::NotLeader
            } else {
                NotProposed::Unknown(error.to_string())
            };
            return refuse(lengths, &refused);
        }
        Err(_) => {
            let silent = format!("no majority confirmed it within {ENTRY_TIMEOUT:?}");
            return refuse(lengths, &NotProposed::Unknown(silent));
        }
    };
    for (length, answer) in lengths {
        // An author that went away no longer wants its outcomes.
        drop(answer.send(Ok(outcomes.by_ref().take(length).collect())));
    }
}

type Answer = oneshot::Sender<Result<Vec<Outcome>, NotProposed>>;

fn refuse(answers: Vec<(usize, Answer)>, refused: &NotProposed) {
    for (_, answer) in answers {
        drop(answer.send(Err(refused.clone())));
    }
}
