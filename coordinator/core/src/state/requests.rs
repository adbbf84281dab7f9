//! The outcomes of recent requests: a request that is repeated is made once.

use common::{
    error::{Code, Problem},
    time::{Span, Timestamp},
};
use imbl::OrdMap;
use serde::{Deserialize, Serialize};

use super::{set_back::Back, shortened, size_of};
use crate::command::{Outcome, Request, RequestId};

/// How long the outcome of a request is remembered, if there are not many.
const REMEMBER_REQUESTS: Span = Span::minutes(10);
/// Of more requests than this, only the youngest are remembered.
const MAX_REQUESTS: usize = 20_000;
/// No request younger than this is forgotten, however many there are: it is longer than any write is repeated by
/// itself.
pub(super) const REPEATED_WITHIN: Span = Span::seconds(30);
/// Most requests whose outcome is remembered: so many that the writes of [`REPEATED_WITHIN`] fit at twice the speed
/// that was measured.
const HARD_REQUESTS: usize = 1_000_000;
/// Most bytes of all remembered outcomes together.
const HARD_BYTES: usize = 128 << 20;
/// Most bytes of an outcome that are remembered; of a longer refusal its first words are.
const MAX_OUTCOME: usize = 2 << 10;

/// The section of recent requests.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(from = "Stored")]
pub(super) struct Requests {
    outcomes: OrdMap<RequestId, Remembered>,
    /// The same requests by age, for forgetting the oldest.
    ages: OrdMap<u64, (Timestamp, RequestId)>,
    /// The bytes of all outcomes together.
    #[serde(skip)]
    bytes: usize,
}

/// The stored form, which leaves out what follows from the rest.
#[derive(Deserialize)]
struct Stored {
    outcomes: OrdMap<RequestId, Remembered>,
    ages: OrdMap<u64, (Timestamp, RequestId)>,
}

impl From<Stored> for Requests {
    fn from(Stored { outcomes, ages }: Stored) -> Requests {
        let bytes = outcomes.values().map(|remembered| size_of(&remembered.outcome)).sum();
        Requests { outcomes, ages, bytes }
    }
}

/// What came of a request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Remembered {
    /// What it asked for.
    content: [u8; 16],
    outcome: Outcome,
}

impl Requests {
    /// Sets all times back.
    pub(super) fn set_back(&mut self, back: Back) {
        back.each(&mut self.ages, |(at, _)| back.time(at));
    }

    /// What came of a request that was made before; another request under the same id is rejected.
    pub(super) fn outcome_of(&self, request: Request) -> Option<Outcome> {
        let known = self.outcomes.get(&request.id)?;
        let is_same = known.content == request.content;
        Some(if is_same { known.outcome.clone() } else { Outcome::Rejected(another_request()) })
    }

    /// Makes room for one more request, if that takes no request that may be repeated.
    pub(super) fn make_room(&mut self, now: Timestamp) -> Result<(), Problem> {
        self.forget(now, REPEATED_WITHIN);
        let has_room = self.ages.len() < HARD_REQUESTS && self.bytes + MAX_OUTCOME <= HARD_BYTES;
        if has_room { Ok(()) } else { Err(too_many(self.ages.len())) }
    }

    /// Remembers what came of a request. None that is younger than `keep` is forgotten for it.
    pub(super) fn remember(&mut self, request: Request, outcome: Outcome, (now, keep): (Timestamp, Span)) {
        let age = self.ages.get_max().map_or(0, |(age, _)| age + 1);
        self.ages.insert(age, (now, request.id));
        let outcome = match outcome {
            Outcome::Rejected(problem) if size_of(&problem) > MAX_OUTCOME => {
                let what = shortened(problem.to_string(), MAX_OUTCOME / 4);
                Outcome::Rejected(Problem::new(problem.code, what))
            }
            outcome => outcome,
        };
        self.bytes += size_of(&outcome);
        self.outcomes.insert(request.id, Remembered { content: request.content, outcome });
        self.forget(now, keep);
    }

    /// Forgets the oldest requests: those that are old, and those that are too many and at least as old as `keep`.
    fn forget(&mut self, now: Timestamp, keep: Span) {
        while let Some((&oldest, &(at, id))) = self.ages.get_min().map(|(age, entry)| (age, entry)) {
            let age = now.since(at);
            let is_kept = age < REMEMBER_REQUESTS && (self.ages.len() <= MAX_REQUESTS || age < keep);
            if is_kept {
                break;
            }
            self.ages.remove(&oldest);
            let forgotten = self.outcomes.remove(&id);
            self.bytes -= forgotten.map_or(0, |forgotten| size_of(&forgotten.outcome));
        }
    }
}

fn another_request() -> Problem {
    Problem::new(Code::Conflict, "The change was not made: its Idempotency-Key was already used for another change")
        .why("another request with the same key but another body came a short time ago")
        .fix("Use a new key for each change, and repeat a request only unchanged")
}

fn too_many(remembered: usize) -> Problem {
    Problem::new(Code::Busy, "The change was not made: too many changes came in the last moments")
        .why(format!(
            "what came of the {remembered} changes of the last {} s must be remembered, so that none is made twice",
            REPEATED_WITHIN.duration().as_secs()
        ))
        .fix("Try again in half a minute, and make fewer changes at a time")
}

#[cfg(test)]
mod tests {
    use common::codec;

    use super::*;
    use crate::{
        Batch, Command, Proposal, State, level,
        testing::{Fixture, name},
    };

    fn id(number: usize) -> RequestId {
        let mut id = [0; 16];
        id[..8].copy_from_slice(&(number as u64).to_be_bytes());
        RequestId(id)
    }

    /// Requests of one batch, each of which changes something whenever it is made.
    fn ask(state: &mut State, at: Timestamp, numbers: impl IntoIterator<Item = usize>) -> Vec<Outcome> {
        let command = Command::PutKey { environment: name("default"), key: "key".into(), value: Default::default() };
        let proposal = |number| Proposal { request: Some(id(number).into()), by: None, command: command.clone() };
        state.apply(&Batch { at, proposals: numbers.into_iter().map(proposal).collect() })
    }

    #[test]
    fn however_many_come_after_it_a_request_is_made_once_while_it_may_be_repeated() {
        let mut fixture = Fixture::of_hosts(1);
        let start = fixture.cluster.clock();
        let first = ask(&mut fixture.cluster, start, [0]);
        ask(&mut fixture.cluster, start + Span::seconds(1), 1..MAX_REQUESTS + 5_000);
        let later = start + Span(29_999);
        assert_eq!(ask(&mut fixture.cluster, later, [0]), first, "29.999 s later it is known");
        assert_eq!(fixture.cluster.requests.ages.len(), MAX_REQUESTS + 5_000);
        // What is older goes with the next request, down to the number that is always kept.
        ask(&mut fixture.cluster, start + Span::seconds(31), [900_000]);
        assert_eq!(fixture.cluster.requests.ages.len(), MAX_REQUESTS);
        assert_ne!(ask(&mut fixture.cluster, start + Span::seconds(31), [0]), first, "nobody repeats it by now");
    }

    #[test]
    fn below_the_level_that_keeps_them_requests_are_forgotten_by_number_alone() {
        let mut fixture = Fixture::of_hosts(1);
        fixture.cluster.basics.level = level::KEPT_REQUESTS - 1;
        let start = fixture.cluster.clock();
        let first = ask(&mut fixture.cluster, start, [0]);
        ask(&mut fixture.cluster, start, 1..=MAX_REQUESTS);
        assert_eq!(fixture.cluster.requests.ages.len(), MAX_REQUESTS);
        assert_ne!(ask(&mut fixture.cluster, start, [0]), first, "it is made again, as members of that level do");
    }

    /// Fills the section with refusals of this size, as if they had come by requests.
    fn fill(state: &mut State, count: usize, size: usize) {
        let now = state.clock();
        let outcome = Outcome::Rejected(Problem::new(Code::Conflict, "x".repeat(size)));
        for number in 0..count {
            state.requests.remember(id(1 << 40 | number).into(), outcome.clone(), (now, REPEATED_WITHIN));
        }
    }

    #[test]
    fn what_finds_no_room_is_refused_until_older_requests_may_be_forgotten() {
        let by_number = (HARD_REQUESTS, 0);
        let by_bytes = (HARD_BYTES / 2000, 2000);
        for (count, size) in [by_number, by_bytes] {
            let mut fixture = Fixture::of_hosts(1);
            let start = fixture.cluster.clock();
            fill(&mut fixture.cluster, count, size);
            let index = fixture.cluster.index();
            let refused = ask(&mut fixture.cluster, start + Span::seconds(29), [0]);
            let Some(Outcome::Rejected(busy)) = refused.first() else { panic!("{refused:?}") };
            assert_eq!((busy.code, fixture.cluster.index()), (Code::Busy, index), "{busy}");
            assert!(busy.to_string().contains("changes of the last 30 s must be remembered"), "{busy}");
            let known = ask(&mut fixture.cluster, start + Span::seconds(29), [1 << 40]);
            assert!(matches!(&known[..], [Outcome::Rejected(p)] if p.code == Code::Conflict), "{known:?}");
            let made = ask(&mut fixture.cluster, start + Span::seconds(30), [0]);
            assert!(matches!(made[..], [Outcome::Done { .. }]), "it was not made, and now is: {made:?}");
        }
    }

    #[test]
    fn a_member_that_read_the_state_has_the_same_room_as_one_that_made_it() {
        let mut fixture = Fixture::of_hosts(1);
        fill(&mut fixture.cluster, 10, 100);
        let made = &fixture.cluster.requests;
        let bytes = codec::encode(made).expect("it is written");
        let read: Requests = codec::decode(&bytes).expect("it is read");
        assert!(made.bytes > 1000 && read == *made, "{} and {}", read.bytes, made.bytes);
        let as_before = codec::encode(&(&made.outcomes, &made.ages)).expect("it is written");
        assert_eq!(bytes, as_before, "its stored form is what it was");
    }
}
