//! Brings Raft's group to what the replicated state says it should be: one change at a time, on
//! the leader, again and again until it is so.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use common::id::MemberId;
use coordinator_core::{Cluster, Command, cluster::MemberState};
use openraft::{BasicNode, ChangeMembers};
use tracing::{info, warn};

use super::{Consensus, GroupMember};

const PAUSE: Duration = Duration::from_secs(1);
const CHANGE_TIMEOUT: Duration = Duration::from_secs(30);

/// What brings the group one step closer.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    AddLearner(MemberId, String),
    Promote(MemberId),
    Readdress(MemberId, String),
    Remove(MemberId),
    Forget(MemberId),
}

/// Works while this member leads.
pub async fn run(consensus: Consensus) {
    let mut published = consensus.watch();
    loop {
        if consensus.leadership().leads {
            let cluster = published.borrow_and_update().cluster.clone();
            if let Some(step) = next_step(&cluster, &consensus.group()) {
                take(&consensus, step).await;
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
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

fn next_step(cluster: &Cluster, group: &[GroupMember]) -> Option<Step> {
    for (id, member) in &cluster.members {
        let known = group.iter().find(|other| other.id == *id);
        let address = member.address.to_string();
        match (member.state, known) {
            (MemberState::Present, None) => return Some(Step::AddLearner(*id, address)),
            (MemberState::Present, Some(known)) if known.address != address => {
                return Some(Step::Readdress(*id, address));
            }
            (MemberState::Present, Some(known)) if !known.votes => return Some(Step::Promote(*id)),
            (MemberState::Present, Some(_)) => {}
            (MemberState::Leaving, Some(_)) => return Some(Step::Remove(*id)),
            (MemberState::Leaving, None) => return Some(Step::Forget(*id)),
        }
    }
    None
}

async fn take(consensus: &Consensus, step: Step) {
    info!(?step, "changing the group of coordinators");
    let raft = &consensus.raft;
    let change = async {
        match &step {
            Step::AddLearner(id, address) => {
                raft.add_learner(id.0, BasicNode::new(address), true).await.map(|_| ()).map_err(|e| e.to_string())
            }
            Step::Promote(id) => {
                let promoted = raft.change_membership(ChangeMembers::AddVoterIds(BTreeSet::from([id.0])), true).await;
                promoted.map(|_| ()).map_err(|e| e.to_string())
            }
            Step::Readdress(id, address) => {
                let nodes = BTreeMap::from([(id.0, BasicNode::new(address))]);
                raft.change_membership(ChangeMembers::SetNodes(nodes), true)
                    .await
                    .map(|_| ())
                    .map_err(|e| e.to_string())
            }
            Step::Remove(id) => {
                let removed = raft.change_membership(ChangeMembers::RemoveVoters(BTreeSet::from([id.0])), false).await;
                removed.map(|_| ()).map_err(|e| e.to_string())
            }
            Step::Forget(id) => {
                consensus.propose(vec![Command::ForgetMember(*id).into()]).await.map(|_| ()).map_err(|e| e.to_string())
            }
        }
    };
    match tokio::time::timeout(CHANGE_TIMEOUT, change).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            warn!(?step, error, "the group could not be changed; trying again");
            tokio::time::sleep(PAUSE).await;
        }
        Err(_) => warn!(?step, "the member does not answer; trying again"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use common::id::HostId;
    use coordinator_core::cluster::Member;

    #[test]
    fn the_group_is_brought_closer_one_step_at_a_time() {
        let mut cluster = Cluster::default();
        let member =
            |port: u16, state| Member { host: HostId([port as u8; 10]), address: ([10, 0, 0, 1], port).into(), state };
        cluster.members.insert(MemberId(1), member(1, MemberState::Present));
        cluster.members.insert(MemberId(2), member(2, MemberState::Present));
        cluster.members.insert(MemberId(3), member(3, MemberState::Leaving));
        let known = |id: u64, votes| GroupMember { id: MemberId(id), votes, address: format!("10.0.0.1:{id}") };
        assert_eq!(next_step(&cluster, &[known(1, true)]), Some(Step::AddLearner(MemberId(2), "10.0.0.1:2".into())));
        assert_eq!(next_step(&cluster, &[known(1, true), known(2, false)]), Some(Step::Promote(MemberId(2))));
        assert_eq!(
            next_step(&cluster, &[known(1, true), known(2, true), known(3, true)]),
            Some(Step::Remove(MemberId(3)))
        );
        assert_eq!(next_step(&cluster, &[known(1, true), known(2, true)]), Some(Step::Forget(MemberId(3))));
        cluster.members.remove(&MemberId(3));
        assert_eq!(next_step(&cluster, &[known(1, true), known(2, true)]), None);
    }
}
