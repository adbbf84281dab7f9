//! Compares this member's state with those of the others; see [`coordinator_core::divergence`].

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex},
    time::Duration,
};

use common::{codec, error::Problem, id::MemberId, wire::Open};
use coordinator_core::{
    State,
    divergence::{self, Verdict},
    state::StateHash,
};
use futures::future::join_all;
use tokio::sync::watch;
use tracing::{error, warn};

use super::{Consensus, GroupMember, MemberAnswer, MemberCall};

/// How many of the last hashes a member can tell the others; they may be behind by so many minutes.
const KEPT: usize = 8;
/// How often the others are asked for a hash: they may not have applied the entry yet.
const TRIES: u32 = 5;
/// How long is waited before the others are asked again.
const PAUSE: Duration = Duration::from_secs(2);
/// How long a member has to answer.
const ANSWERS_WITHIN: Duration = Duration::from_secs(2);

/// A state to compare, and the index of the log entry that led to it.
pub type Checkpoint = Option<Arc<(u64, State)>>;

/// The last hashes of this member's state. Clones share them.
#[derive(Clone, Default)]
pub struct Hashes(Arc<Mutex<VecDeque<(u64, StateHash)>>>);

impl Hashes {
    /// The hash at an index of the log, if it is among the last ones.
    pub fn at(&self, index: u64) -> Option<StateHash> {
        let known = self.0.lock().expect("no panic while it is held");
        known.iter().find(|(at, _)| *at == index).map(|(_, hash)| *hash)
    }

    fn keep(&self, index: u64, hash: StateHash) {
        let mut known = self.0.lock().expect("no panic while it is held");
        known.push_back((index, hash));
        if known.len() > KEPT {
            known.pop_front();
        }
    }
}

/// Compares each checkpoint with the others, and stops this member when it turns out to be the one that differs.
pub async fn run(consensus: Consensus, mut checkpoints: watch::Receiver<Checkpoint>) {
    while checkpoints.changed().await.is_ok() {
        let Some(checkpoint) = checkpoints.borrow_and_update().clone() else { continue };
        let index = checkpoint.0;
        let hashed = tokio::task::spawn_blocking(move || checkpoint.1.hash()).await;
        let own = match hashed {
            Ok(Ok(hash)) => hash,
            Ok(Err(error)) => {
                error!(%error, index, "the state cannot be hashed, so it is not compared");
                continue;
            }
            Err(error) => {
                error!(%error, index, "hashing the state panicked");
                continue;
            }
        };
        consensus.hashes.keep(index, own);
        if let Some(problem) = compare(&consensus, index, own).await {
            consensus.stop_as_unfit(problem);
        }
    }
}

async fn compare(consensus: &Consensus, index: u64, own: StateHash) -> Option<Problem> {
    let mut found = BTreeMap::new();
    for attempt in 0..TRIES {
        if attempt > 0 {
            tokio::time::sleep(PAUSE).await;
        }
        let group = consensus.group();
        let others = group.iter().filter(|member| member.id != consensus.me() && !found.contains_key(&member.id));
        let answers = join_all(others.map(|member| ask(consensus, member, index))).await;
        found.extend(answers.into_iter().flatten());
        if found.len() + 1 >= group.len() {
            break;
        }
    }
    match divergence::compare(own, &found, consensus.group().len()) {
        Verdict::Same | Verdict::Unknown => None,
        Verdict::OthersDiffer(members) => {
            warn!(?members, index, hash = %own, "the states of these coordinators differ from that of the majority");
            None
        }
        Verdict::Split(members) => {
            error!(?members, index, hash = %own, "the states of these coordinators differ, and no state has a majority");
            None
        }
        Verdict::IDiffer => Some(divergence::diverged(consensus.me(), index)),
    }
}

/// The hash of another member's state, if it answers and has one for that index.
async fn ask(consensus: &Consensus, member: &GroupMember, index: u64) -> Option<(MemberId, StateHash)> {
    let caller = consensus.callers.get(member.address.parse().ok()?);
    let open = Open::Member(codec::encode(&MemberCall::StateHash { index }).ok()?);
    match caller.ask(&open, ANSWERS_WITHIN).await {
        Ok(MemberAnswer::StateHash(hash)) => Some((member.id, hash?)),
        // One that is away, or whose version does not know the question, is not compared.
        Ok(_) | Err(_) => None,
    }
}
