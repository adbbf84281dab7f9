//! When to stand for election. openraft has no pre-vote: a member that was cut off would depose
//! the leader on its return. So its own elections are off, and a member asks the others first.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use common::id::MemberId;
use futures::{StreamExt, stream::FuturesUnordered};
use tokio::sync::watch;

use super::{Consensus, ELECTION_MAX, Leadership, MemberAnswer, MemberCall, QUORUM_SILENCE, late::Late, types::LogId};

const TICK: Duration = Duration::from_millis(50);
const PRE_VOTE_TIMEOUT: Duration = Duration::from_millis(300);
const AFTER_ELECTION: Duration = Duration::from_millis(200);
/// How often is looked who leads, and how often while a new leader waits for its first confirmation,
/// which openraft does not announce.
const LOOK: Duration = Duration::from_millis(200);
const LOOK_SOON: Duration = Duration::from_millis(5);
/// For how long a member whose clock is wrong lets the others stand for election first.
const AFTER_OTHERS: Duration = Duration::from_secs(5);
const MAX_JITTER: Duration = Duration::from_millis(150);
/// How often the pause between elections is doubled at most.
const MOST_DOUBLINGS: u32 = 3;

/// When this member last heard its leader, and when it last gave its vote to another member.
#[derive(Default)]
pub struct Contact {
    leader: Mutex<Option<Instant>>,
    vote: Mutex<Option<Instant>>,
}

impl Contact {
    /// Notes that the leader was heard.
    pub fn heard(&self) {
        *self.leader.lock().expect("no panic while it is held") = Some(Instant::now());
    }

    /// Notes that this member gave its vote to another one.
    pub fn voted(&self) {
        *self.vote.lock().expect("no panic while it is held") = Some(Instant::now());
    }

    /// Whether the one that got this member's vote may still be about to lead.
    pub fn has_just_voted(&self) -> bool {
        self.vote.lock().expect("no panic while it is held").is_some_and(|at| at.elapsed() < ELECTION_MAX)
    }

    /// Whether the leader was heard within its lease.
    pub fn is_fresh(&self) -> bool {
        self.silence().is_some_and(|silence| silence < ELECTION_MAX)
    }

    /// For how long no leader was heard; none if there never was one.
    pub fn silence(&self) -> Option<Duration> {
        self.leader.lock().expect("no panic while it is held").map(|at| at.elapsed())
    }
}

/// When a majority last confirmed this member as the leader.
#[derive(Default)]
pub struct Confirmed(Mutex<Option<Instant>>);

impl Confirmed {
    fn note(&self, at: Option<Instant>) {
        *self.0.lock().expect("no panic while it is held") = at;
    }

    /// Whether that was lately enough to answer for.
    pub fn is_fresh(&self) -> bool {
        self.0.lock().expect("no panic while it is held").is_some_and(|at| at.elapsed() < QUORUM_SILENCE + LOOK)
    }
}

/// Whether this member would vote for one whose log ends at `theirs`.
pub fn grants(consensus: &Consensus, theirs: Option<LogId>) -> bool {
    let leads = consensus.leadership().leads;
    !leads && !consensus.contact.is_fresh() && theirs >= last_log(consensus)
}

fn last_log(consensus: &Consensus) -> Option<LogId> {
    let data = consensus.raft.data_metrics().borrow().clone();
    data.last_log
}

/// Stands for election when the leader is silent and a majority agrees that it is.
pub async fn run(consensus: Consensus) {
    let mut late = Late::default();
    let mut failed = 0;
    loop {
        let began = Instant::now();
        tokio::time::sleep(TICK).await;
        late.note("its CPUs are overloaded", began.elapsed().saturating_sub(TICK));
        if consensus.is_raft_leader() || consensus.contact.is_fresh() || !is_voter(&consensus) {
            failed = 0;
            continue;
        }
        let silence = consensus.contact.silence();
        if consensus.clock_is_wrong() && silence.is_some_and(|silence| silence < AFTER_OTHERS) {
            continue;
        }
        if voters(&consensus).len() > 1 {
            tokio::time::sleep(jitter(consensus.me)).await;
        }
        if !is_leaderless(&consensus.contact, majority_agrees(&consensus)).await {
            continue;
        }
        tracing::info!(silence = ?consensus.contact.silence(), "no heartbeat from the leader: standing for election");
        if let Err(error) = consensus.raft.trigger().elect().await {
            tracing::error!(%error, "the Raft core has ended");
            return;
        }
        tokio::time::sleep(pause_after(failed, jitter(consensus.me))).await;
        failed += 1;
    }
}

/// How long a candidate waits before it stands again. Where votes take longer than the pause, because machines are
/// overloaded, candidates would depose each other for ever; so it grows, and with it what tells them apart.
fn pause_after(failed: u32, jitter: Duration) -> Duration {
    if failed == 0 { AFTER_ELECTION } else { (AFTER_ELECTION + jitter) * 2_u32.pow(failed.min(MOST_DOUBLINGS)) }
}

/// Whether no leader is heard or about to be, also not while the others were asked whether they hear one: to ask takes
/// as long as the slowest of them, and to stand then would depose a leader who was elected or came back meanwhile.
async fn is_leaderless(contact: &Contact, others_agree: impl Future<Output = bool>) -> bool {
    let may_stand = || !contact.is_fresh() && !contact.has_just_voted();
    may_stand() && others_agree.await && may_stand()
}

/// Spreads the members; no two of them get the same share of the clock's last digits for long.
fn jitter(me: MemberId) -> Duration {
    let nanos = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default().subsec_nanos();
    let mixed = (u64::from(nanos) ^ (me.0 << 20)).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40;
    Duration::from_millis(mixed % MAX_JITTER.as_millis() as u64)
}

fn voters(consensus: &Consensus) -> Vec<(MemberId, String)> {
    consensus.group().into_iter().filter(|member| member.votes).map(|member| (member.id, member.address)).collect()
}

fn is_voter(consensus: &Consensus) -> bool {
    voters(consensus).iter().any(|(id, _)| *id == consensus.me)
}

async fn majority_agrees(consensus: &Consensus) -> bool {
    let voters = voters(consensus);
    let needed = voters.len() / 2 + 1;
    let call = MemberCall::PreVote { last_log: last_log(consensus) };
    let mut answers: FuturesUnordered<_> = voters
        .iter()
        .filter(|(id, _)| *id != consensus.me)
        .filter_map(|(_, address)| address.parse().ok())
        .map(|address| consensus.call(address, &call, PRE_VOTE_TIMEOUT))
        .collect();
    let mut granted = 1;
    while granted < needed {
        match answers.next().await {
            Some(Ok(MemberAnswer::PreVote(true))) => granted += 1,
            Some(_) => {}
            None => return false,
        }
    }
    true
}

/// Publishes who leads. A leader that no majority answers does not: its `leads` falls within
/// [`QUORUM_SILENCE`], although openraft goes on calling it the leader.
///
/// `store_is_alone` is told whether this member alone decides.
pub async fn watch_leadership(
    consensus: Consensus,
    leadership: watch::Sender<Leadership>,
    store_is_alone: Arc<AtomicBool>,
) {
    let mut metrics = consensus.raft.server_metrics();
    loop {
        // Before the look: what it shows is not newer.
        let looked = Instant::now();
        let full = consensus.raft.metrics().borrow().clone();
        let alone = full.membership_config.membership().voter_ids().count() <= 1;
        store_is_alone.store(alone, Ordering::Relaxed);
        consensus.pulse.note_voters(full.membership_config.membership().voter_ids().map(MemberId));
        let confirmed = alone
            || full.millis_since_quorum_ack.is_some_and(|silence| u128::from(silence) < QUORUM_SILENCE.as_millis());
        let is_leader = consensus.is_raft_leader();
        let silence = if alone { Some(0) } else { full.millis_since_quorum_ack };
        let confirmed_at = silence.and_then(|silence| looked.checked_sub(Duration::from_millis(silence)));
        consensus.confirmed.note(confirmed_at.filter(|_| is_leader && confirmed));
        let now = Leadership {
            leader: full.current_leader.map(MemberId).filter(|leader| *leader != consensus.me || confirmed),
            leads: is_leader && confirmed,
            term: full.current_term,
        };
        leadership.send_if_modified(|before| note_change(before, now));
        tokio::select! {
            changed = metrics.changed() => {
                if changed.is_err() {
                    return;
                }
            }
            () = tokio::time::sleep(if now.leads == is_leader { LOOK } else { LOOK_SOON }) => {}
        }
    }
}

fn note_change(before: &mut Leadership, now: Leadership) -> bool {
    let changed = *before != now;
    if changed {
        tracing::info!(leader = ?now.leader.map(|l| l.0), leads = now.leads, term = now.term, "leadership changed");
        *before = now;
    }
    changed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_leader_who_is_heard_while_the_others_are_asked_is_not_deposed() {
        let contact = Contact::default();
        assert!(is_leaderless(&contact, async { true }).await);
        assert!(!is_leaderless(&contact, async { false }).await);
        let meanwhile = async {
            contact.heard();
            true
        };
        assert!(!is_leaderless(&contact, meanwhile).await);
    }

    #[tokio::test]
    async fn who_has_just_voted_for_another_does_not_stand_against_it() {
        let contact = Contact::default();
        contact.voted();
        assert!(!is_leaderless(&contact, async { true }).await);
        assert!(!contact.is_fresh(), "it is no leader yet: others may ask for votes");
    }

    #[test]
    fn candidates_that_fail_wait_longer_each_time_up_to_a_limit() {
        let jitter = Duration::from_millis(100);
        let pauses: Vec<u128> = (0..6).map(|failed| pause_after(failed, jitter).as_millis()).collect();
        assert_eq!(pauses, [200, 600, 1200, 2400, 2400, 2400]);
    }
}
