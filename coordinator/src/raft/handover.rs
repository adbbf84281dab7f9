//! Handing leadership over: a leader that is about to stop lets another voter take its place first, so that writes wait
//! for one round of votes instead of the time after which a silent leader is missed.
//!
//! The leader makes no more proposals, waits until the other has all of its log, and asks it to stand for election. The
//! leader itself votes for it: nobody renews a leader's own lease, and a vote of one is a majority with the other's own
//! vote in a group of two or three. In a larger group the remaining ones refuse until they have missed the leader for
//! as long as their lease lasts, and the election is repeated until then.

use std::{
    collections::BTreeSet,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use common::id::MemberId;
use futures::future::join_all;
use tokio::{
    sync::{Mutex, MutexGuard},
    time::{Instant, timeout},
};

use super::{Consensus, MemberAnswer, MemberCall};

/// How long the other may take until it has all of the log.
const FOLLOWS_WITHIN: Duration = Duration::from_millis(800);
/// How long the other may take until it leads.
const LEADS_WITHIN: Duration = Duration::from_millis(1500);
const PAUSE: Duration = Duration::from_millis(5);
/// How often the other stands for election while the votes are refused.
const AGAIN: Duration = Duration::from_millis(150);
/// How long a member may take to answer whether it is there.
const ANSWERS_WITHIN: Duration = Duration::from_millis(500);
/// How many entries a member that takes part may be behind: the leader writes while it is asked.
const ALMOST_ALL: u64 = 200;

/// Whether this member is about to hand leadership over, and proposes nothing more.
#[derive(Default)]
pub struct HandingOver {
    is_so: AtomicBool,
    /// Held while an entry is written.
    writing: Mutex<()>,
}

impl HandingOver {
    /// Whether it is.
    pub fn is_so(&self) -> bool {
        self.is_so.load(Ordering::Acquire)
    }

    /// The turn to write an entry; none if leadership is handed over. An entry that the other does not have would keep it
    /// from being elected.
    pub async fn turn(&self) -> Option<MutexGuard<'_, ()>> {
        let turn = self.writing.lock().await;
        (!self.is_so()).then_some(turn)
    }
}

/// Ends it however it ends.
struct Until<'a>(&'a HandingOver);

impl Drop for Until<'_> {
    fn drop(&mut self) {
        self.0.is_so.store(false, Ordering::Release);
    }
}

impl Consensus {
    /// Hands leadership to another voter; returns when it leads.
    pub async fn hand_over(&self, to: MemberId) -> Result<(), String> {
        let known = self.group().into_iter().find(|member| member.id == to && member.votes);
        let address = known.and_then(|member| member.address.parse().ok()).ok_or("it does not vote")?;
        if !self.leadership().leads {
            return Err("this member does not lead".to_owned());
        }
        self.handing_over.is_so.store(true, Ordering::Release);
        let _until = Until(&self.handing_over);
        self.raft.runtime_config().heartbeat(false);
        let handed = async {
            let last = timeout(FOLLOWS_WITHIN, self.handing_over.writing.lock()).await;
            drop(last.map_err(|_| "an entry is still being written")?);
            self.follows(to).await?;
            match self.call(address, &MemberCall::TakeOver, LEADS_WITHIN + ANSWERS_WITHIN).await {
                Ok(MemberAnswer::TakenOver(true)) => Ok(()),
                Ok(_) => Err("it was not elected".to_owned()),
                Err(error) => Err(error.to_string()),
            }
        };
        let handed = handed.await;
        self.raft.runtime_config().heartbeat(true);
        handed
    }

    /// Waits until another member has the whole log.
    async fn follows(&self, other: MemberId) -> Result<(), String> {
        let deadline = Instant::now() + FOLLOWS_WITHIN;
        while self.acknowledged(other) < self.last_log_index() {
            if Instant::now() > deadline {
                return Err("it does not have all of the log".to_owned());
            }
            tokio::time::sleep(PAUSE).await;
        }
        Ok(())
    }

    /// How far another member has the log of this one, which leads.
    fn acknowledged(&self, other: MemberId) -> u64 {
        let metrics = self.raft.metrics().borrow().clone();
        let matched = metrics.replication.as_ref().and_then(|all| all.get(&other.0)).copied().flatten();
        matched.map_or(0, |log_id| log_id.index)
    }

    /// Takes leadership over from the member that asks, which must lead; whether this member leads then.
    pub(super) async fn take_over(&self, from: Option<MemberId>) -> bool {
        if from.is_none() || self.leadership().leader != from || self.space.is_short() {
            return false;
        }
        let mut leadership = self.watch_leadership();
        let deadline = Instant::now() + LEADS_WITHIN;
        while Instant::now() < deadline {
            if self.raft.trigger().elect().await.is_err() {
                return false;
            }
            if let Ok(Ok(_)) = timeout(AGAIN, leadership.wait_for(|now| now.leads)).await {
                return true;
            }
        }
        false
    }

    /// On the leader: the voters that answer and have almost all of the log.
    pub async fn taking_part(&self) -> BTreeSet<MemberId> {
        let newest = self.last_log_index();
        let asking = self.group().into_iter().filter(|member| member.votes).map(async |member| {
            if member.id == self.me() {
                return Some(member.id);
            }
            let address = member.address.parse().ok()?;
            let answer = self.call(address, &MemberCall::Group, ANSWERS_WITHIN).await;
            let follows = self.acknowledged(member.id) + ALMOST_ALL >= newest;
            (matches!(answer, Ok(MemberAnswer::Group(_))) && follows).then_some(member.id)
        });
        join_all(asking).await.into_iter().flatten().collect()
    }
}
