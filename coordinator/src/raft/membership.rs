//! Brings Raft's group to what the replicated state says it should be: one change at a time, on
//! the leader, again and again until it is so.
//!
//! Whoever counts towards the majority must be there: a member is added when it answers, and votes when it has
//! acknowledged the newest entry. One that never starts would otherwise end a group of one for good.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::Duration,
};

use common::id::MemberId;
use coordinator_core::{
    Command, State, level,
    state::{Member, MemberState},
};
use openraft::{BasicNode, ChangeMembers};
use tokio::time::Instant;
use tracing::{info, warn};

use super::{Consensus, GroupMember, MemberAnswer, MemberCall};

const PAUSE: Duration = Duration::from_secs(1);
const CHANGE_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a member that is to join may take for an answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// How often a member that hears no leader asks whether it was removed.
const ASK_AGAIN: Duration = Duration::from_secs(5);
/// How long a learner may take from one sign of progress to the next.
const PATIENCE: Duration = Duration::from_secs(10);
/// After so long without an answer it is said that a member cannot be reached: an installation takes a while.
const SAY_AFTER: Duration = Duration::from_secs(10);

/// What brings the group one step closer.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    AddLearner(MemberId, SocketAddr),
    Promote(MemberId, SocketAddr),
    Readdress(MemberId, SocketAddr),
    RemoveVoter(MemberId),
    RemoveLearner(MemberId),
    Forget(MemberId),
}

impl Step {
    fn member(&self) -> MemberId {
        match self {
            Step::AddLearner(id, _) | Step::Promote(id, _) | Step::Readdress(id, _) => *id,
            Step::RemoveVoter(id) | Step::RemoveLearner(id) | Step::Forget(id) => *id,
        }
    }
}

/// A member that is to join and does not answer.
struct Silent {
    since: Instant,
    /// When it is tried again.
    again: Instant,
}

/// Works while this member leads.
pub async fn run(consensus: Consensus) {
    let mut published = consensus.watch();
    let mut silent: BTreeMap<MemberId, Silent> = BTreeMap::new();
    loop {
        if consensus.leadership().leads {
            let cluster = published.borrow_and_update().cluster.clone();
            silent.retain(|id, _| cluster.members().contains_key(id));
            let now = Instant::now();
            let postponed = silent.iter().filter(|(_, one)| one.again > now).map(|(id, _)| *id).collect();
            let members = cluster.members().iter().map(|(id, member)| (*id, member.clone())).collect();
            if let Some(level) = level::to_raise(&cluster)
                && let Err(error) = consensus.propose(vec![Command::RaiseLevel(level).into()]).await
            {
                warn!(%error, level, "the feature level could not be raised; trying again");
            }
            if let Some(step) = next_step(&members, &consensus.group(), &postponed) {
                let taken = take(&consensus, &step).await;
                note(&consensus, &cluster, &mut silent, &step, (now, taken)).await;
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        } else {
            silent.clear();
        }
        tokio::select! {
            changed = published.changed() => {
                if changed.is_err() {
                    return;
                }
                // Most changes are none of members; do not look at each of a burst.
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            () = tokio::time::sleep(PAUSE) => {}
        }
    }
}

/// Asks the others from time to time whether this member was removed, when nothing is heard of a leader: who was removed
/// is told nothing any more.
pub async fn notice_removal(consensus: Consensus) {
    loop {
        tokio::time::sleep(ASK_AGAIN).await;
        if consensus.leadership().leads || consensus.hears_leader() {
            continue;
        }
        let others = consensus.group().into_iter().filter(|member| member.id != consensus.me());
        for address in others.filter_map(|member| member.address.parse().ok()) {
            // What it says is heeded by the call; one that cannot be reached is asked the next time.
            drop(consensus.call(address, &MemberCall::Group, ANSWER_TIMEOUT).await);
        }
    }
}

/// The next step, of those whose member was not found silent a moment ago.
fn next_step(
    members: &BTreeMap<MemberId, Member>,
    group: &[GroupMember],
    postponed: &BTreeSet<MemberId>,
) -> Option<Step> {
    let another_votes = |id: MemberId| group.iter().any(|other| other.votes && other.id != id);
    let of_member = |id: MemberId, known: Option<&GroupMember>| {
        let member = members.get(&id)?;
        match (member.state, known) {
            (MemberState::Present, None) => Some(Step::AddLearner(id, member.address)),
            (MemberState::Present, Some(known)) if known.address != member.address.to_string() => {
                Some(Step::Readdress(id, member.address))
            }
            (MemberState::Present, Some(known)) if !known.votes => Some(Step::Promote(id, member.address)),
            (MemberState::Present, Some(_)) => None,
            (MemberState::Leaving, Some(known)) if !known.votes => Some(Step::RemoveLearner(id)),
            (MemberState::Leaving, Some(_)) => another_votes(id).then_some(Step::RemoveVoter(id)),
            (MemberState::Leaving, None) => Some(Step::Forget(id)),
        }
    };
    members.keys().find_map(|id| {
        let known = group.iter().find(|other| other.id == *id);
        of_member(*id, known).filter(|step| {
            !matches!(step, Step::AddLearner(..) | Step::Promote(..)) || !postponed.contains(&step.member())
        })
    })
}

/// Why a step was not taken.
enum NotTaken {
    /// The member cannot be reached, or does not follow.
    Silent(String),
    Failed(String),
}

impl From<String> for NotTaken {
    fn from(why: String) -> NotTaken {
        NotTaken::Failed(why)
    }
}

async fn take(consensus: &Consensus, step: &Step) -> Result<(), NotTaken> {
    let raft = &consensus.raft;
    let change = async |members| {
        // Whoever was removed is no learner either.
        let changed = tokio::time::timeout(CHANGE_TIMEOUT, raft.change_membership(members, false)).await;
        match changed {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(NotTaken::Failed(error.to_string())),
            Err(_) => Err(NotTaken::Failed("no majority agreed to it in time".to_owned())),
        }
    };
    let node = |id: MemberId, address: &SocketAddr| BTreeMap::from([(id.0, BasicNode::new(address))]);
    match step {
        Step::AddLearner(id, address) => {
            must_answer(consensus, *id, *address).await?;
            info!(?step, "changing the group of coordinators");
            change(ChangeMembers::AddNodes(node(*id, address))).await
        }
        Step::Promote(id, address) => {
            let follows = async {
                must_follow(consensus, *id).await?;
                // It may have followed some time ago, and be gone by now.
                must_answer(consensus, *id, *address).await
            };
            if let Err(why) = follows.await {
                change(ChangeMembers::RemoveNodes(BTreeSet::from([id.0]))).await?;
                return Err(why);
            }
            info!(?step, "changing the group of coordinators");
            change(ChangeMembers::AddVoterIds(BTreeSet::from([id.0]))).await
        }
        Step::Readdress(id, address) => change(ChangeMembers::SetNodes(node(*id, address))).await,
        Step::RemoveVoter(id) => change(ChangeMembers::RemoveVoters(BTreeSet::from([id.0]))).await,
        Step::RemoveLearner(id) => change(ChangeMembers::RemoveNodes(BTreeSet::from([id.0]))).await,
        Step::Forget(id) => {
            let proposed = consensus.propose(vec![Command::ForgetMember(*id).into()]).await;
            proposed.map(drop).map_err(|error| NotTaken::Failed(error.to_string()))
        }
    }
}

/// Removes a member from the group, however it takes part, and returns when a majority of the others knows.
pub async fn take_out(consensus: &Consensus, id: MemberId) -> Result<(), String> {
    loop {
        let group = consensus.group();
        let step = match group.iter().find(|member| member.id == id) {
            Some(member) if member.votes => Step::RemoveVoter(id),
            Some(_) => Step::RemoveLearner(id),
            None => break,
        };
        info!(?step, "changing the group of coordinators");
        if let Err(NotTaken::Silent(why) | NotTaken::Failed(why)) = take(consensus, &step).await {
            return Err(why);
        }
    }
    // A member that no longer leads may know another group.
    consensus.raft.ensure_linearizable().await.map_err(|error| error.to_string())?;
    // An earlier attempt may have begun what no majority knows yet.
    let metrics = consensus.raft.metrics().borrow().clone();
    let changed = metrics.membership_config.log_id().map(|id| id.index);
    if metrics.last_applied.map(|id| id.index) < changed {
        return Err("no majority has agreed to it yet".to_owned());
    }
    Ok(())
}

/// Asks whether a member is where it should be.
async fn must_answer(consensus: &Consensus, id: MemberId, address: SocketAddr) -> Result<(), NotTaken> {
    let silent = |why: String| NotTaken::Silent(format!("{address}: {why}"));
    let connecting = consensus.callers().get(address);
    let connected = tokio::time::timeout(ANSWER_TIMEOUT, connecting.connection()).await;
    let connection = connected.map_err(|_| silent("no answer".to_owned()))?.map_err(|e| silent(e.to_string()))?;
    if connection.peer().member != Some(id) {
        return Err(silent("another process answers".to_owned()));
    }
    match consensus.call(address, &MemberCall::Group, ANSWER_TIMEOUT).await {
        Ok(MemberAnswer::Group(_)) => Ok(()),
        Ok(_) => Err(silent("it sent an unexpected answer".to_owned())),
        Err(error) => Err(silent(error.to_string())),
    }
}

/// Waits until a learner has acknowledged what is now the newest entry, for as long as it comes closer.
async fn must_follow(consensus: &Consensus, id: MemberId) -> Result<(), NotTaken> {
    let newest = consensus.last_log_index();
    let mut metrics = consensus.raft.metrics();
    let acknowledged = |metrics: &openraft::RaftMetrics<u64, BasicNode>| {
        let matched = metrics.replication.as_ref().and_then(|all| all.get(&id.0)).copied().flatten();
        matched.map_or(0, |log_id| log_id.index)
    };
    let mut before = acknowledged(&metrics.borrow_and_update());
    while before < newest {
        let progress = metrics.wait_for(|now| acknowledged(now) > before);
        match tokio::time::timeout(PATIENCE, progress).await {
            Ok(Ok(now)) => before = acknowledged(&now),
            Ok(Err(_)) => return Err(NotTaken::Failed("the Raft core has ended".to_owned())),
            Err(_) => {
                return Err(NotTaken::Silent(format!("it acknowledged only {before} of {newest} entries")));
            }
        }
    }
    Ok(())
}

/// Notes what came of a step: in the state, when people should know.
async fn note(
    consensus: &Consensus,
    cluster: &State,
    silent: &mut BTreeMap<MemberId, Silent>,
    step: &Step,
    (began, taken): (Instant, Result<(), NotTaken>),
) {
    let id = step.member();
    let is_said = cluster.members().get(&id).is_some_and(|member| member.unreached_since.is_some());
    let reached = match taken {
        Ok(()) => {
            if matches!(step, Step::Promote(..)) {
                silent.remove(&id);
            }
            matches!(step, Step::Promote(..)).then_some(true)
        }
        Err(NotTaken::Silent(why)) => {
            let one = silent.entry(id).or_insert_with(|| {
                info!(member = id.0, why, "a coordinator that should join the group does not answer");
                Silent { since: began, again: began }
            });
            one.again = Instant::now() + PAUSE;
            (one.since.elapsed() >= SAY_AFTER).then_some(false)
        }
        Err(NotTaken::Failed(error)) => {
            warn!(?step, error, "the group could not be changed; trying again");
            tokio::time::sleep(PAUSE).await;
            None
        }
    };
    let Some(reached) = reached.filter(|reached| *reached == is_said) else { return };
    let command = Command::MemberReached { member: id, reached };
    if let Err(error) = consensus.propose(vec![command.into()]).await {
        warn!(%error, "the new state of a coordinator could not be stored; trying again");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use common::id::HostId;

    #[test]
    fn the_group_is_brought_closer_one_step_at_a_time() {
        let mut members = BTreeMap::new();
        let address = |port: u16| SocketAddr::from(([10, 0, 0, 1], port));
        let member = |port: u16, state| Member { state, ..Member::new(HostId([port as u8; 10]), address(port)) };
        members.insert(MemberId(1), member(1, MemberState::Present));
        members.insert(MemberId(2), member(2, MemberState::Present));
        members.insert(MemberId(3), member(3, MemberState::Leaving));
        let known = |id: u64, votes| GroupMember { id: MemberId(id), votes, address: format!("10.0.0.1:{id}") };
        let (nobody, second) = (BTreeSet::new(), BTreeSet::from([MemberId(2)]));
        let (two, three) = (MemberId(2), MemberId(3));
        let cases: [(&[GroupMember], &BTreeSet<MemberId>, Option<Step>); 8] = [
            (&[known(1, true)], &nobody, Some(Step::AddLearner(two, address(2)))),
            (&[known(1, true)], &second, Some(Step::Forget(three))),
            (&[known(1, true), known(2, false)], &nobody, Some(Step::Promote(two, address(2)))),
            (&[known(1, true), known(2, false), known(3, true)], &second, Some(Step::RemoveVoter(three))),
            (&[known(1, true), known(2, true), known(3, true)], &nobody, Some(Step::RemoveVoter(three))),
            (&[known(1, true), known(2, true), known(3, false)], &nobody, Some(Step::RemoveLearner(three))),
            (&[known(1, true), known(2, true)], &nobody, Some(Step::Forget(three))),
            (
                &[known(1, false), known(2, false), known(3, true)],
                &second,
                Some(Step::Promote(MemberId(1), address(1))),
            ),
        ];
        for (group, postponed, step) in cases {
            assert_eq!(next_step(&members, group, postponed), step, "{group:?}");
        }
        members.remove(&three);
        assert_eq!(next_step(&members, &[known(1, true), known(2, true)], &nobody), None);
        members.insert(MemberId(1), member(1, MemberState::Leaving));
        let alone = [known(1, true)];
        assert_eq!(next_step(&members, &alone, &second), None, "the last voter stays until another one votes");
    }
}
