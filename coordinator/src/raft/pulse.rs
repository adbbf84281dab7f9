//! What members say to each other every few seconds: what time it is by their clocks, and how far their logs reach.
//!
//! From the clocks follows the time that the leader writes into the log ([`coordinator_core::clock`]). From the logs
//! follows that a member was set back in time, as by a snapshot of its machine: it has forgotten entries that it has
//! acknowledged and votes that it has given, and nothing in its own store says so. The others remember in memory alone,
//! so a member is found out by those that ran on meanwhile; if all are set back together, nothing tells.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::{Mutex, MutexGuard},
    time::Duration,
};

use common::{
    error::{Code, Problem},
    id::MemberId,
    time::{Span, Timestamp},
    wire::Open,
};
use coordinator_core::{
    clock::{APART, Agreement, Clocks, GroupTime, Reading},
    level,
};
use futures::future::join_all;
use link::clock::BootTime;
use serde::{Deserialize, Serialize};
use tracing::{info, warn};

use super::{
    Callers, Consensus, MemberAnswer, MemberCall,
    store::{Store, StoreError},
    types::LogId,
};

/// How often the others are asked.
const EVERY: Duration = Duration::from_secs(5);
/// How often as long as one of them has not answered yet.
const SOON: Duration = Duration::from_millis(500);
const ANSWERS_WITHIN: Duration = Duration::from_secs(1);
/// A clock that was not heard for so long says nothing any more.
const FORGET_AFTER: Span = Span::minutes(1);
/// So many times in a row the others have to say that this member was set back: a log is shorter for a moment while
/// another leader's entries replace its end.
const SAID_OFTEN: u32 = 2;
/// How many stores of one member are remembered.
const MOST_STORES: usize = 8;

/// Reads the clock that people set.
pub type WallClock = fn() -> Timestamp;

/// How far the durable part of a member reaches. It only grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// A random number of the store: a member that begins with an empty one has another.
    pub store: u64,
    /// The term of its vote.
    pub term: u64,
    /// The last entry of its log.
    pub last: Option<LogId>,
}

impl Position {
    /// That of a store.
    pub fn of(store: &Store) -> Position {
        let facts = store.facts();
        let term = facts.vote.map_or(0, |vote| vote.leader_id().get_term());
        Position { store: store.number(), term, last: facts.last }
    }

    fn is_behind(&self, other: &Position) -> bool {
        self.term < other.term || self.last < other.last
    }
}

/// What a member knows of the others, and the time that follows from it.
pub struct Pulse {
    wall: WallClock,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    voters: BTreeSet<MemberId>,
    clocks: BTreeMap<MemberId, Reading>,
    /// The furthest position of each store of a member, the newest store at the end.
    positions: BTreeMap<MemberId, Vec<Position>>,
    /// While this member leads.
    group: Option<GroupTime>,
}

impl Known {
    /// Remembers the position of a member; whether it has been further before.
    fn note(&mut self, member: MemberId, position: Position) -> bool {
        let stores = self.positions.entry(member).or_default();
        let newest = stores.len().saturating_sub(1);
        match stores.iter().position(|known| known.store == position.store) {
            Some(at) if at < newest || position.is_behind(&stores[at]) => true,
            Some(at) => {
                stores[at] = position;
                false
            }
            None => {
                stores.push(position);
                if stores.len() > MOST_STORES {
                    stores.remove(0);
                }
                false
            }
        }
    }

    fn agreement(&self, me: MemberId, now: Reading) -> Agreement {
        let is_fresh = |clock: &Reading| now.boot.0.saturating_sub(clock.boot.0) < FORGET_AFTER.0;
        let counts = |id: &MemberId| *id != me && self.voters.contains(id);
        let others = self.clocks.iter().filter(|(id, clock)| counts(id) && is_fresh(clock)).map(|(_, clock)| *clock);
        Agreement::of(now, others, self.voters.len())
    }
}

impl Pulse {
    /// Nothing is known of the others yet.
    pub fn new(wall: WallClock) -> Pulse {
        Pulse { wall, known: Mutex::default() }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().expect("no panic while it is held")
    }

    fn reading(&self) -> Reading {
        Reading { wall: (self.wall)(), boot: Span(BootTime::now().0) }
    }

    /// Notes who votes.
    pub fn note_voters(&self, voters: impl Iterator<Item = MemberId>) {
        self.known().voters = voters.collect();
    }

    /// Answers a member that says how far it is: with this member's clock, and whether that one was set back.
    pub fn answer(&self, member: MemberId, position: Position) -> MemberAnswer {
        let set_back = self.known().note(member, position);
        if set_back {
            warn!(member = member.0, ?position, "a coordinator has a log that reaches less far than it did before");
        }
        MemberAnswer::Pulse { wall: (self.wall)(), set_back }
    }
}

impl Consensus {
    /// The time: that of the group while this member leads, else what most clocks say or, if that is not known, its own.
    pub fn now(&self) -> Timestamp {
        let reading = self.pulse.reading();
        let (leads, state) = (self.leadership().leads, self.published.borrow().cluster.clock());
        let mut known = self.pulse.known();
        let agreement = known.agreement(self.me, reading);
        if leads {
            let alone = known.voters.len() <= 1;
            let group = known.group.get_or_insert_with(|| GroupTime::begin(state, reading.boot, agreement, alone));
            return group.read(state, reading.boot, agreement);
        }
        known.group = None;
        match agreement {
            Agreement::Certain(time) => time,
            Agreement::Vague(_) => reading.wall,
        }
    }

    /// The clocks of the group's members, this one's included.
    pub fn clocks(&self) -> Clocks {
        let reading = self.pulse.reading();
        let known = self.pulse.known();
        let agreement = known.agreement(self.me, reading);
        let mut clocks = known.clocks.clone();
        clocks.insert(self.me, reading);
        clocks.retain(|_, clock| reading.boot.0.saturating_sub(clock.boot.0) < FORGET_AFTER.0);
        Clocks::of(&clocks, reading.boot, agreement, known.voters.len())
    }

    /// Whether most of the others contradict this member's clock.
    pub fn clock_is_wrong(&self) -> bool {
        let reading = self.pulse.reading();
        self.pulse.known().agreement(self.me, reading).contradicts(reading.wall)
    }
}

/// Exchanges clocks and positions with the others for as long as it is awaited.
pub async fn run(consensus: Consensus) {
    let mut said = 0;
    let mut was_wrong = false;
    loop {
        let mut all_answered = true;
        if consensus.current().cluster.level() >= level::CLOCKS {
            let (answered, set_back) = ask_all(&consensus).await;
            all_answered = answered;
            said = if set_back { said + 1 } else { 0 };
            if said >= SAID_OFTEN {
                consensus.stop_as_unfit(set_back_problem());
                return;
            }
        }
        let is_wrong = consensus.clock_is_wrong();
        if is_wrong != was_wrong {
            match is_wrong {
                true => warn!("most coordinators contradict this host's clock; their time is used"),
                false => info!("most coordinators agree with this host's clock again"),
            }
            was_wrong = is_wrong;
        }
        if is_wrong && consensus.leadership().leads {
            give_way(&consensus).await;
        }
        tokio::time::sleep(if all_answered && said == 0 { EVERY } else { SOON }).await;
    }
}

/// Hands leadership to a member whose clock is right. Until then this one uses the time of the others.
async fn give_way(consensus: &Consensus) {
    let differences = consensus.clocks().differences;
    let is_right = |id: &MemberId| differences.get(id).is_some_and(|by| by.unsigned_abs() <= APART.0);
    let Some(other) = consensus.taking_part().await.into_iter().find(|id| *id != consensus.me && is_right(id)) else {
        return;
    };
    match consensus.hand_over(other).await {
        Ok(()) => info!(to = other.0, "handed leadership to a coordinator whose clock is right"),
        Err(why) => warn!(to = other.0, why, "leadership could not be handed to a coordinator whose clock is right"),
    }
}

/// Whether all others have answered, and whether one of them says that this member was set back.
async fn ask_all(consensus: &Consensus) -> (bool, bool) {
    let Some(position) = consensus.store.upgrade().map(|store| Position::of(&store)) else { return (true, false) };
    let others = consensus.group().into_iter().filter(|member| member.id != consensus.me());
    let others = others.filter_map(|member| Some((member.id, member.address.parse::<SocketAddr>().ok()?)));
    let asked = others.map(async |(id, address)| {
        let before = BootTime::now();
        let answer = consensus.call(address, &MemberCall::Pulse(position), ANSWERS_WITHIN).await;
        let halfway = Span(before.0 + before.until(BootTime::now()).0 / 2);
        (id, halfway, answer)
    });
    let (mut all_answered, mut was_set_back) = (true, false);
    for (id, boot, answer) in join_all(asked).await {
        if let Ok(MemberAnswer::Pulse { wall, set_back }) = answer {
            consensus.pulse.known().clocks.insert(id, Reading { wall, boot });
            was_set_back |= set_back;
        } else {
            all_answered = false;
        }
    }
    let members = consensus.current().cluster.members().clone();
    consensus.pulse.known().positions.retain(|id, _| members.contains_key(id));
    (all_answered, was_set_back)
}

/// Asks the others before this member takes part whether it has been further before. One that cannot ask anybody takes
/// part: a cluster that was off has to start.
pub async fn must_not_be_set_back(store: &Store, callers: &Callers, others: &[SocketAddr]) -> Result<(), StoreError> {
    let call = MemberCall::Pulse(Position::of(store));
    let Ok(question) = common::codec::encode(&call) else { return Ok(()) };
    let open = Open::Member(question);
    let asked = others.iter().map(async |address| (*address, callers.get(*address).ask(&open, ANSWERS_WITHIN).await));
    for (address, answer) in join_all(asked).await {
        if let Ok(MemberAnswer::Pulse { set_back: true, .. }) = answer {
            return Err(store.corrupt(format!(
                "it was set back in time: the coordinator at {address} has seen a later state of it"
            )));
        }
    }
    Ok(())
}

fn set_back_problem() -> Problem {
    Problem::new(Code::StoreCorrupt, "This coordinator was set back in time")
        .why("the others have seen a later state of its log, as happens when a snapshot of its machine is restored")
        .fix("Start it again: it then begins with an empty store, and the others bring it up to date")
}

#[cfg(test)]
mod tests {
    use openraft::CommittedLeaderId;

    use super::*;

    fn position(store: u64, term: u64, last: Option<(u64, u64)>) -> Position {
        let last = last.map(|(term, index)| LogId::new(CommittedLeaderId::new(term, 1), index));
        Position { store, term, last }
    }

    #[test]
    fn a_member_that_was_further_before_was_set_back() {
        let mut known = Known::default();
        // What a member says in order, and whether it was set back then.
        let said = [
            (position(7, 1, None), false),
            (position(7, 1, Some((1, 5))), false),
            (position(7, 1, Some((1, 5))), false),
            (position(7, 2, Some((1, 5))), false),
            (position(7, 2, Some((2, 4))), false),
            (position(7, 1, Some((2, 4))), true),
            (position(7, 2, Some((1, 9))), true),
            (position(7, 2, None), true),
            (position(7, 2, Some((2, 4))), false),
            (position(8, 0, None), false),
            (position(7, 3, Some((3, 9))), true),
            (position(8, 3, Some((3, 9))), false),
        ];
        for (round, (position, expected)) in said.into_iter().enumerate() {
            assert_eq!(known.note(MemberId(2), position), expected, "{round}: {position:?}");
        }
        assert!(!known.note(MemberId(3), position(7, 0, None)), "another member");
    }
}
