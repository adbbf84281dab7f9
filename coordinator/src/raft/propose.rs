//! Proposing commands: here if this member leads, or through the one that does.

use std::time::Duration;

use common::error::{Code, Problem};
use coordinator_core::{Outcome, Proposal, access::Refusal, level};
use serde::{Deserialize, Serialize};

use super::{Consensus, MemberAnswer, MemberCall, batch};

/// How long the leader may take to answer a proposal.
pub(super) const FORWARD_TIMEOUT: Duration = Duration::from_secs(3);

impl Consensus {
    /// Has commands applied by the member that leads.
    pub(super) async fn forward(&self, proposals: Vec<Proposal>) -> Result<Vec<Outcome>, NotProposed> {
        let other = self.leadership().leader.filter(|leader| *leader != self.me);
        let (Some(leader), Some(address)) = (other, self.leader_address()) else {
            return Err(NotProposed::NotLeader);
        };
        let call = MemberCall::Propose(proposals);
        let mut leadership = self.leadership.clone();
        let led_by_another = leadership.wait_for(|now| now.leader.is_some_and(|id| id != leader));
        tokio::select! {
            answered = self.call(address, &call, FORWARD_TIMEOUT) => match answered {
                Ok(MemberAnswer::Proposed(result)) => result,
                Ok(MemberAnswer::Refused(Refusal::Removed)) => Err(NotProposed::Removed),
                Ok(MemberAnswer::Refused(refusal)) => Err(NotProposed::Unknown(refusal.to_string())),
                Ok(_) => Err(NotProposed::Unknown("the leader sent an unexpected answer".into())),
                Err(error) => {
                    Err(NotProposed::Unknown(format!("the leader at {address} does not answer: {error}")))
                }
            },
            // The old one will not answer any more. The new one knows whether it was made.
            _ = led_by_another => Err(NotProposed::Unknown("the leader changed".into())),
        }
    }

    /// Has commands applied by this member, which must lead, when it is their turn.
    pub async fn propose(&self, proposals: Vec<Proposal>) -> Result<Vec<Outcome>, NotProposed> {
        self.may_propose(&proposals)?;
        batch::propose(&self.batches, proposals).await
    }

    /// The same; refused if too many wait.
    pub(super) async fn propose_at_once(&self, proposals: Vec<Proposal>) -> Result<Vec<Outcome>, NotProposed> {
        self.may_propose(&proposals)?;
        batch::propose_at_once(&self.batches, proposals).await
    }

    /// Only the leader proposes, and only what every member understands: one that could not read a command of the log
    /// could not go on.
    pub(super) fn may_propose(&self, proposals: &[Proposal]) -> Result<(), NotProposed> {
        if !self.leadership().leads || self.handing_over.is_so() {
            return Err(NotProposed::NotLeader);
        }
        if self.space.is_short() {
            return Err(NotProposed::DiskFull);
        }
        let needed = proposals.iter().map(|proposal| proposal.command.level()).max().unwrap_or(0);
        let published = self.published.borrow();
        let level = published.cluster.level();
        // Before there is a state there is no level.
        if published.cluster.identity().is_some() && level::check(needed, level).is_err() {
            return Err(NotProposed::TooEarly { needed, level });
        }
        Ok(())
    }
}

/// Why a proposal was not made here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum NotProposed {
    /// This member does not lead.
    #[error("this member does not lead")]
    NotLeader,
    /// The proposal may or may not have been made.
    #[error("{0}")]
    Unknown(String),
    /// This member was removed from the group.
    #[error("this member was removed from the group")]
    Removed,
    /// More proposals wait than are allowed.
    #[error("too many proposals are waiting")]
    Busy,
    /// A command needs a feature level that the cluster does not have yet.
    #[error("a command needs feature level {needed}, and the cluster has {level}")]
    TooEarly {
        /// The level of the command.
        needed: u16,
        /// The level of the cluster.
        level: u16,
    },
    /// The proposal is larger than a message to the others may be.
    #[error("it has {size} bytes, and the limit is {limit}")]
    TooLarge {
        /// How many bytes it has.
        size: usize,
        /// How many are allowed.
        limit: usize,
    },
    /// The leader's disk has too little room.
    #[error("the disk of the coordinator that leads is nearly full")]
    DiskFull,
}

/// The problem of a coordinator that is none any more.
pub fn removed_from_the_group() -> Problem {
    Problem::new(Code::MemberRefused, "This coordinator was removed from the group")
        .fix("Use another coordinator: wharf ctx ls lists the known ones")
        .fix("To add it again: wharf uninstall, then join the host with a line of: wharf member add")
}

/// The problem of a group without a leader.
pub fn no_leader() -> Problem {
    Problem::new(Code::NoLeader, "The coordinators have no leader")
        .fix("Wait for the election, or start the coordinators that are down: wharf member ls")
}
