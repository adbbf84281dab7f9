//! Which host changes to the binary of the running upgrade now.
//!
//! One host at a time: those without a coordinator first, then the coordinators, the leader at the end. The next one
//! changes only after the former is back healthy. A coordinator changes only while all the others take part, so a group
//! of three always keeps its majority.

use std::collections::BTreeSet;

use common::{
    id::{HostId, MemberId},
    time::{Span, Timestamp},
};

use crate::{
    Command, State,
    state::{MemberState, Phase, Step, Upgrade},
};

/// How long a host may fetch the binary.
const FETCHES_WITHIN: Span = Span::minutes(10);
/// How long a host may take to say which binary it runs: an older version does not.
const SPEAKS_WITHIN: Span = Span::seconds(30);
/// What such a host has not done, and what to do.
const SILENT: &str = "said which binary it runs (paste an install line there, if its version is older)";
/// How long a host may take from the end of its old process until it is healthy, or is back with it.
const RETURNS_WITHIN: Span = Span::minutes(3);

/// What the leader sees of hosts and members, beside the state.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// The leader's clock.
    pub now: Timestamp,
    /// The member that leads.
    pub leader: Option<MemberId>,
    /// The hosts that have a session and have reported all their instances in it.
    pub healthy: BTreeSet<HostId>,
    /// The members that vote, answer, and have almost all of the log.
    pub take_part: BTreeSet<MemberId>,
}

/// What the leader does next.
#[derive(Debug, Clone, PartialEq)]
pub enum Next {
    /// Nothing now.
    Wait,
    /// Has this applied.
    Propose(Box<Command>),
    /// Hands leadership to one of these, the first that takes it: its own host is the last one.
    HandOver(Vec<MemberId>),
}

/// Decides by a state and by what the leader sees.
pub fn next(state: &State, seen: &Seen) -> Next {
    let Some(run) = state.upgrade().filter(|run| run.is_open()) else { return Next::Wait };
    if let Some((host, step)) = run.changing() {
        return follow(state, run, (host, step), seen);
    }
    if run.phase != Phase::Running {
        return Next::Wait;
    }
    if state.hosts().keys().all(|host| is_finished(state, run, *host)) {
        return Next::Propose(Box::new(Command::EndUpgrade));
    }
    // A host that runs the binary already, because it was installed there, has nothing to do.
    let installed = state.hosts().keys().find(|host| state.is_upgraded(**host) && !is_finished(state, run, **host));
    if let Some(host) = installed {
        return step_of(run, *host, Step::Done);
    }
    choose(state, run, seen)
}

fn is_finished(state: &State, run: &Upgrade, host: HostId) -> bool {
    state.is_upgraded(host) && run.hosts.get(&host) == Some(&Step::Done)
}

fn step_of(run: &Upgrade, host: HostId, step: Step) -> Next {
    Next::Propose(Box::new(Command::UpgradeHost { host, hash: run.target.hash, step }))
}

/// What becomes of the host that changes now.
fn follow(state: &State, run: &Upgrade, (host, step): (HostId, &Step), seen: &Seen) -> Next {
    let member_is_back = state.member_on(host).is_none_or(|member| seen.take_part.contains(&member));
    if state.is_upgraded(host) && seen.healthy.contains(&host) && member_is_back {
        return step_of(run, host, Step::Done);
    }
    let (since, within, what) = match step {
        Step::Fetching { since } if !state.builds().contains_key(&host) => (*since, SPEAKS_WITHIN, SILENT),
        Step::Fetching { since } => (*since, FETCHES_WITHIN, "fetched the binary"),
        Step::Trying { since } => (*since, RETURNS_WITHIN, "come back healthy"),
        Step::Done | Step::Failed { .. } => return Next::Wait,
    };
    if seen.now.since(since) < within {
        return Next::Wait;
    }
    step_of(run, host, Step::Failed { why: format!("it has not {what} within {within}") })
}

/// The next host, if one may change now.
fn choose(state: &State, run: &Upgrade, seen: &Seen) -> Next {
    let mut waiting: Vec<HostId> = state.hosts().keys().copied().filter(|host| !state.is_upgraded(*host)).collect();
    let rank = |host: &HostId| match state.member_on(*host) {
        None => 0,
        Some(member) if seen.leader != Some(member) => 1,
        Some(_) => 2,
    };
    let name = |host: &HostId| state.hosts().get(host).map(|host| host.name.clone());
    waiting.sort_by_key(|host| (rank(host), name(host)));
    // A host that is away changes when it is back, and holds up no other one of its kind.
    let Some(first) = waiting.first().map(rank) else { return Next::Wait };
    let Some(host) = waiting.iter().find(|host| rank(host) == first && seen.healthy.contains(host)) else {
        let plain_are_away = first == 0;
        let next = waiting.iter().find(|host| plain_are_away && rank(host) > 0 && seen.healthy.contains(host));
        return next.map_or(Next::Wait, |host| change(state, run, *host, seen));
    };
    change(state, run, *host, seen)
}

fn change(state: &State, run: &Upgrade, host: HostId, seen: &Seen) -> Next {
    let order = step_of(run, host, Step::Fetching { since: seen.now });
    let Some(member) = state.member_on(host) else { return order };
    let present = state.members().iter().filter(|(_, member)| member.state == MemberState::Present);
    let others: Vec<MemberId> = present.map(|(id, _)| *id).filter(|id| *id != member).collect();
    if !others.iter().all(|other| seen.take_part.contains(other)) {
        return Next::Wait;
    }
    if seen.leader == Some(member) && !others.is_empty() { Next::HandOver(others) } else { order }
}

#[cfg(test)]
mod tests;
