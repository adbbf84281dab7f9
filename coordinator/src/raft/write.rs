//! A write: a command that is proposed until its result is known.

use std::time::{Duration, Instant};

use common::error::{Code, Problem};
use coordinator_core::{Author, Command, Outcome, Proposal, level};

use super::{Consensus, NotProposed, batch, no_leader, removed_from_the_group};

/// How long a write may take before its result counts as unknown.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// Without a majority nothing will change soon; the caller should know by then.
const LEADERLESS: Duration = Duration::from_secs(4);
const RETRY_DELAY: Duration = Duration::from_millis(50);

/// What came of proposing a command once.
enum Attempt {
    /// It was applied.
    Applied(Outcome),
    /// It is in nobody's log.
    NotMade(NotProposed),
    /// It may be in a log, and be applied now or later.
    Unknown(NotProposed),
}

impl Consensus {
    /// Has a command applied, through the leader wherever it is. It is repeated under its
    /// request until its result is known or the time is over.
    pub async fn write(&self, author: impl Into<Author>, command: Command) -> Result<Outcome, Problem> {
        let Author { request, by } = author.into();
        let proposal = Proposal { request: Some(request), by, command };
        let began = Instant::now();
        let mut may_be_made = false;
        loop {
            let (problem, is_final) = match self.attempt(proposal.clone()).await {
                // An earlier attempt may still come through where this one found no room.
                Attempt::Applied(Outcome::Rejected(busy)) if busy.code == Code::Busy => (busy, !may_be_made),
                Attempt::Applied(Outcome::Rejected(problem)) => return Err(problem),
                Attempt::Applied(outcome) => return Ok(outcome),
                Attempt::NotMade(NotProposed::Busy) => (refusal(&NotProposed::Busy), !may_be_made),
                Attempt::NotMade(reason @ NotProposed::NotLeader) => (refusal(&reason), false),
                Attempt::NotMade(reason) => (refusal(&reason), true),
                Attempt::Unknown(reason) => {
                    may_be_made = true;
                    (refusal(&reason), false)
                }
            };
            let is_leaderless = !self.has_leader() && began.elapsed() > LEADERLESS;
            if is_final || is_leaderless || began.elapsed() > WRITE_TIMEOUT {
                return Err(if may_be_made { unknown(problem) } else { problem });
            }
            tokio::time::sleep(RETRY_DELAY).await;
        }
    }

    /// Proposes a command once: here if this member leads or knows no leader, else through the leader.
    async fn attempt(&self, proposal: Proposal) -> Attempt {
        let proposals = vec![proposal];
        let is_led = self.leadership().leader.is_some_and(|leader| leader != self.me);
        if !is_led && let Err(reason) = self.may_propose(&proposals) {
            return Attempt::NotMade(reason);
        }
        let towards = if is_led { &self.forwards } else { &self.batches };
        match batch::propose_at_once(towards, proposals).await.map(|outcomes| outcomes.into_iter().next()) {
            Ok(Some(outcome)) => Attempt::Applied(outcome),
            Ok(None) => Attempt::Unknown(NotProposed::Unknown("a write had no outcome".into())),
            // Even a member that says that it does not lead may have led when it took it.
            Err(reason @ (NotProposed::NotLeader | NotProposed::Unknown(_))) => Attempt::Unknown(reason),
            Err(reason) => Attempt::NotMade(reason),
        }
    }

    fn has_leader(&self) -> bool {
        let leadership = self.leadership();
        leadership.leads || leadership.leader.is_some_and(|leader| leader != self.me)
    }
}

/// The problem of a change that was not made for a reason.
fn refusal(reason: &NotProposed) -> Problem {
    match reason {
        NotProposed::NotLeader | NotProposed::Unknown(_) => no_leader().why(reason.to_string()),
        NotProposed::Removed => removed_from_the_group(),
        NotProposed::Busy => {
            Problem::new(Code::Busy, "The change was not made: too many changes are waiting").fix("Try again")
        }
        NotProposed::TooEarly { needed, level } => level::too_early(*needed, *level),
        NotProposed::DiskFull => Problem::new(Code::StoreFailed, "The change was not made")
            .why(reason.to_string())
            .why("it keeps the room that is left to go on with; reads and what runs are not affected")
            .fix("Free some space on the disk of its state folder: wharf member ls names its host, df -h its disks")
            .fix("It accepts changes by itself as soon as 160 MiB are free"),
        NotProposed::TooLarge { .. } => Problem::new(Code::TooLarge, "The change was not made").why(reason.to_string()),
    }
}

/// The problem of a change that may have been made, although its last attempt ended with a problem of its own.
fn unknown(last: Problem) -> Problem {
    let unknown = Problem::new(Code::ResultUnknown, "It is unknown whether the change was made").why(last.what);
    let unknown = last.why.into_iter().fold(unknown, Problem::why);
    unknown.fix("Repeat it with the same Idempotency-Key, or check: wharf ls")
}
