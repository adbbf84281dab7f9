//! The one loop that places: on the leader, whenever something that it depends on has changed.

use std::time::Duration;

use common::time::{Span, Timestamp};
use coordinator_core::{Changes, Moment, Outcome, Plan, Planner, Proposal, State};
use tokio::time::Instant;
use tracing::{debug, warn};

use crate::raft::Consensus;

/// Changes that come together are planned together.
const GATHER: Duration = Duration::from_millis(10);
/// How often is planned even if nothing seems to have changed.
const TICK: Duration = Duration::from_secs(30);
/// How far the clocks may part between two looks: slow corrections are none of anybody's business.
const MAX_PARTING: Span = Span::seconds(1);
/// Most commands in one proposal.
const CHUNK: usize = 1000;

/// Plans for as long as it is awaited.
pub async fn run(consensus: Consensus) {
    let mut published = consensus.watch();
    let mut leadership = consensus.watch_leadership();
    let mut planning = Planning::new(consensus);
    loop {
        tokio::select! {
            changed = published.changed() => if changed.is_err() { return },
            changed = leadership.changed() => {
                if changed.is_err() {
                    return;
                }
                // A new leader knows nothing of what the old one had planned.
                planning.planned = None;
                planning.planner.forget();
            }
            () = tokio::time::sleep_until(planning.wake) => planning.planned = None,
        }
        // No more than half of a processor goes into planning.
        tokio::time::sleep(GATHER.max(planning.rest)).await;
        if planning.consensus.leadership().leads {
            let cluster = published.borrow_and_update().cluster.clone();
            planning.follow(cluster).await;
        } else {
            planning.leading_since = None;
            planning.wake = Instant::now() + TICK;
        }
    }
}

/// What one pass leaves to the next.
struct Planning {
    consensus: Consensus,
    planner: Planner,
    /// The state whose plan was decided upon, if nothing but a change of it asks for another.
    planned: Option<State>,
    leading_since: Option<Timestamp>,
    /// When there is something to plan even if nothing changes.
    wake: Instant,
    /// How long the last pass took.
    rest: Duration,
    last_look: Clocks,
}

impl Planning {
    /// Nothing is planned yet.
    fn new(consensus: Consensus) -> Planning {
        let (planner, last_look) = (Planner::default(), Clocks::at(consensus.now()));
        let (wake, rest) = (Instant::now(), Duration::ZERO);
        Planning { consensus, planner, planned: None, leading_since: None, wake, rest, last_look }
    }

    /// Plans a state and proposes the plan, if it differs from the last one in what matters.
    async fn follow(&mut self, cluster: State) {
        if self.planned.as_ref().is_some_and(|before| !Changes::between(before, &cluster).concern_the_plan()) {
            return;
        }
        let at = self.consensus.now();
        let now = Clocks::at(at);
        if std::mem::replace(&mut self.last_look, now).has_parted_until(at) {
            warn!("the time of the group was set; all timers are recomputed");
            self.leading_since = None;
            self.planner.forget();
        }
        let moment = Moment { now: at, leading_since: *self.leading_since.get_or_insert(at) };
        let begun = Instant::now();
        let plan = self.plan(cluster.clone(), moment).await;
        self.rest = begun.elapsed();
        self.wake = Instant::now() + plan.wake_at.map_or(TICK, |wake| wake.since(at).duration()).min(TICK);
        self.planned = propose(&self.consensus, plan).await.then_some(cluster);
    }

    /// Makes a plan on another thread: a pass over a large cluster takes a while, in which heartbeats must go on.
    async fn plan(&mut self, cluster: State, moment: Moment) -> Plan {
        let mut planner = std::mem::take(&mut self.planner);
        let passed = tokio::task::spawn_blocking(move || {
            let plan = planner.plan(&cluster, moment);
            (planner, plan)
        });
        let plan;
        (self.planner, plan) = match passed.await {
            Ok(passed) => passed,
            // It ends this task with it, which ends the coordinator.
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            // The process ends.
            Err(_) => std::future::pending().await,
        };
        plan
    }
}

/// The time of the group, and the clock that nobody sets, at the same moment.
struct Clocks {
    time: Timestamp,
    steady: Instant,
}

impl Clocks {
    fn at(time: Timestamp) -> Clocks {
        Clocks { time, steady: Instant::now() }
    }

    /// Whether one has gone further than the other since.
    fn has_parted_until(&self, now: Timestamp) -> bool {
        let passed = i128::try_from(self.steady.elapsed().as_millis()).unwrap_or(i128::MAX);
        (i128::from(now.0) - i128::from(self.time.0) - passed).abs() > i128::from(MAX_PARTING.0)
    }
}

/// Proposes what a plan says; whether all of it was decided upon.
async fn propose(consensus: &Consensus, plan: Plan) -> bool {
    for chunk in plan.commands.chunks(CHUNK) {
        let proposals: Vec<Proposal> = chunk.iter().cloned().map(Proposal::from).collect();
        match consensus.propose(proposals).await {
            Ok(outcomes) => {
                for problem in outcomes
                    .iter()
                    .filter_map(|outcome| if let Outcome::Rejected(problem) = outcome { Some(problem) } else { None })
                {
                    debug!(%problem, "a planned command no longer applied");
                }
            }
            Err(reason) => {
                warn!(%reason, "the plan could not be proposed; planning again");
                return false;
            }
        }
    }
    true
}
