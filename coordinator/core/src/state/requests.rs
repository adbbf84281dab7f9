//! The outcomes of recent requests: a request that is repeated is made once.

use common::{
    error::{Code, Problem},
    time::{Span, Timestamp},
};
use imbl::OrdMap;
use serde::{Deserialize, Serialize};

use super::{shortened, size_of};
use crate::command::{Outcome, Request, RequestId};

/// How long the outcome of a request is remembered.
const REMEMBER_REQUESTS: Span = Span::minutes(10);
/// Most requests whose outcome is remembered.
const MAX_REQUESTS: usize = 20_000;
/// Most bytes of an outcome that are remembered; of a longer refusal its first words are.
const MAX_OUTCOME: usize = 2 << 10;

/// The section of recent requests.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Requests {
    outcomes: OrdMap<RequestId, Remembered>,
    /// The same requests by age, for forgetting the oldest.
    ages: OrdMap<u64, (Timestamp, RequestId)>,
}

/// What came of a request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Remembered {
    /// What it asked for.
    content: [u8; 16],
    outcome: Outcome,
}

impl Requests {
    /// What came of a request that was made before; another request under the same id is rejected.
    pub(super) fn outcome_of(&self, request: Request) -> Option<Outcome> {
        let known = self.outcomes.get(&request.id)?;
        let is_same = known.content == request.content;
        Some(if is_same { known.outcome.clone() } else { Outcome::Rejected(another_request()) })
    }

    pub(super) fn remember(&mut self, request: Request, outcome: Outcome, now: Timestamp) {
        let age = self.ages.get_max().map_or(0, |(age, _)| age + 1);
        self.ages.insert(age, (now, request.id));
        let outcome = match outcome {
            Outcome::Rejected(problem) if size_of(&problem) > MAX_OUTCOME => {
                let what = shortened(problem.to_string(), MAX_OUTCOME / 4);
                Outcome::Rejected(Problem::new(problem.code, what))
            }
            outcome => outcome,
        };
        self.outcomes.insert(request.id, Remembered { content: request.content, outcome });
        while let Some((&oldest, &(at, id))) = self.ages.get_min().map(|(age, entry)| (age, entry)) {
            if self.ages.len() <= MAX_REQUESTS && now.since(at) < REMEMBER_REQUESTS {
                break;
            }
            self.ages.remove(&oldest);
            self.outcomes.remove(&id);
        }
    }
}

fn another_request() -> Problem {
    Problem::new(Code::Conflict, "The change was not made: its Idempotency-Key was already used for another change")
        .why("another request with the same key but another body came a short time ago")
        .fix("Use a new key for each change, and repeat a request only unchanged")
}
