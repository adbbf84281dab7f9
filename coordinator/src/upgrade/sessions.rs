//! What hosts and coordinators tell each other about binaries, each on a stream of its own beside the host's session.

use common::{
    error::{Code, Problem},
    id::HostId,
    upgrade::BinaryHash,
    wire::{BinaryFrame, PeerIdentity, Running, Upgraded, Upgrading},
};
use coordinator_core::{
    Command, State,
    access::{Action, Principal, authorize},
    level,
    state::Step,
};
use link::{LinkError, Stream, binary, clock::now, connection::Sender};
use tracing::{info, warn};

use super::{Binaries, LOOK};
use crate::raft::Consensus;

/// Sends the binary of the running upgrade to a host of the cluster.
pub async fn serve_binary(
    consensus: &Consensus,
    binaries: &Binaries,
    (peer, hash): (PeerIdentity, BinaryHash),
    mut stream: Stream,
) -> Result<(), LinkError> {
    let opened = allowed(consensus, peer, hash).await.and_then(|()| open(binaries, hash));
    match opened {
        Ok(file) => binary::send(stream, file).await,
        Err(problem) => {
            stream.outgoing.send(&BinaryFrame::Refused(problem)).await?;
            stream.outgoing.finish().await
        }
    }
}

async fn allowed(consensus: &Consensus, peer: PeerIdentity, hash: BinaryHash) -> Result<(), Problem> {
    let published = consensus.decisive().await?;
    authorize(&Principal::Peer(peer), &Action::Binary(hash), &published.cluster).map_err(|refusal| {
        warn!(host = %peer.host, %refusal, "a binary was refused");
        Problem::new(Code::Denied, "The binary was not sent").why(refusal.to_string())
    })
}

fn open(binaries: &Binaries, hash: BinaryHash) -> Result<std::fs::File, Problem> {
    let missing = |why: String| Problem::new(Code::NotFound, "The binary was not sent").why(why);
    let opened = binaries.open(hash).map_err(|error| missing(error.to_string()))?;
    opened.ok_or_else(|| missing("this coordinator does not have it".to_owned()))
}

/// Serves a host that has said what it runs, for as long as this member leads: tells it when to change, and when to keep
/// what it runs.
pub async fn serve_running(
    consensus: &Consensus,
    binaries: &Binaries,
    (host, running): (HostId, Running),
    stream: Stream,
) -> Result<(), LinkError> {
    let Stream { mut incoming, mut outgoing } = stream;
    let hearing = async {
        while let Some(said) = incoming.receive::<Upgraded>().await? {
            note(consensus, host, said).await;
        }
        Ok::<(), LinkError>(())
    };
    tokio::select! {
        heard = hearing => heard,
        told = tell(consensus, binaries, (host, &running), &mut outgoing) => told,
    }
}

/// Tells a host its orders, for as long as this member leads.
async fn tell(
    consensus: &Consensus,
    binaries: &Binaries,
    (host, running): (HostId, &Running),
    outgoing: &mut Sender,
) -> Result<(), LinkError> {
    let (mut published, mut is_noted, mut told) = (consensus.watch(), false, None);
    while consensus.leadership().leads {
        let mut cluster = published.borrow_and_update().cluster.clone();
        if !is_noted {
            is_noted = note_running(consensus, &cluster, host, running).await;
            // What is told follows from what was noted.
            cluster = published.borrow_and_update().cluster.clone();
        }
        // A member that has just come to lead may not have the binary yet.
        let is_here = |order: &Upgrading| !matches!(order, Upgrading::Change(target) if !binaries.holds(target.hash));
        let wanted = order(&cluster, host, running.build.hash);
        let is_held_back = wanted.as_ref().is_some_and(|order| !is_here(order));
        let next = wanted.filter(is_here);
        if next != told
            && let Some(order) = &next
        {
            outgoing.send(order).await?;
            told = next;
        }
        tokio::select! {
            changed = published.changed() => if changed.is_err() { break },
            () = tokio::time::sleep(LOOK) , if is_held_back => {}
        }
    }
    outgoing.finish().await
}

/// What a host that runs a binary is told by a state.
fn order(cluster: &State, host: HostId, runs: BinaryHash) -> Option<Upgrading> {
    let run = cluster.upgrade()?;
    match run.hosts.get(&host)? {
        Step::Fetching { .. } if run.is_open() && runs != run.target.hash => {
            Some(Upgrading::Change(run.target.clone()))
        }
        Step::Trying { .. } if run.is_open() && runs != run.target.hash => Some(Upgrading::Go(run.target.hash)),
        Step::Done if runs == run.target.hash => Some(Upgrading::Keep(runs)),
        _ => None,
    }
}

/// Writes down what a host runs, if that is news; whether it is in the state.
async fn note_running(consensus: &Consensus, cluster: &State, host: HostId, running: &Running) -> bool {
    if cluster.level() < level::UPGRADES {
        return false;
    }
    let is_trying =
        cluster.upgrade().and_then(|run| run.hosts.get(&host)).is_some_and(|step| matches!(step, Step::Trying { .. }));
    if cluster.builds().get(&host) == Some(&running.build) && !is_trying {
        return true;
    }
    let Running { build, went_back } = running.clone();
    propose(consensus, Command::HostRuns { host, build, went_back }).await
}

/// Takes in what a host says about the binary that it was told to try.
async fn note(consensus: &Consensus, host: HostId, said: Upgraded) {
    let (hash, step) = match said {
        Upgraded::Trying(hash) => (hash, Step::Trying { since: now() }),
        Upgraded::Failed { hash, why } => (hash, Step::Failed { why }),
    };
    propose(consensus, Command::UpgradeHost { host, hash, step }).await;
}

async fn propose(consensus: &Consensus, command: Command) -> bool {
    let proposed = consensus.propose(vec![command.into()]).await;
    if let Err(error) = &proposed {
        info!(%error, "what a host said about its binary was not stored");
    }
    proposed.is_ok()
}
