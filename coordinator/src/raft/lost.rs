//! Coordinators of a group that was lost, and may come back.
//!
//! Two of three that were lost are a majority of the old group, and nothing that they have stored says that the cluster
//! began again without them. So its leader goes on asking at their addresses, and says so to each that answers: it stops.

use std::time::Duration;

use common::wire::PeerIdentity;
use tracing::{error, info};

use super::{Consensus, MemberAnswer, MemberCall};

/// How often each is asked.
const ASK_EVERY: Duration = Duration::from_secs(5);
const ANSWERS_WITHIN: Duration = Duration::from_secs(2);

/// Asks while this member leads, for as long as it is awaited.
pub async fn run(consensus: Consensus) {
    loop {
        tokio::time::sleep(ASK_EVERY).await;
        if !consensus.leadership().leads {
            continue;
        }
        let published = consensus.current();
        let call = MemberCall::Superseded { index: published.cluster.index() };
        for address in published.cluster.lost_coordinators() {
            // Those that are lost do not answer, and one of an earlier version neither.
            if let Ok(MemberAnswer::Superseded(true)) = consensus.call(address, &call, ANSWERS_WITHIN).await {
                info!(%address, "a coordinator of the lost group came back, and stops");
            }
        }
    }
}

impl Consensus {
    /// Whether this member belongs to a group without which its cluster began again; it stops then.
    pub(super) fn is_superseded(&self, peer: PeerIdentity, index: u64) -> bool {
        let published = self.current();
        let superseded = peer.member.is_some_and(|member| published.cluster.is_superseded_by(member, index));
        if superseded {
            error!(host = %peer.host, index, "the cluster began again without this coordinator");
            self.callers.removed.send_replace(true);
        }
        superseded
    }
}
