//! The feature level: what every member of a cluster understands.
//!
//! Members apply the same log, so all of them must understand a command before one of them proposes it. A binary
//! understands the levels up to [`LEVEL`]. Members announce theirs; the leader raises the level of the state once all of
//! them, those that join included, understand a higher one. A member whose binary is older than the level of the state
//! stops with a text that says so. The level is never lowered: what was written under it is in the log.

use common::error::{Code, Problem};

use crate::{Command, State};

/// The newest level that this binary understands.
///
/// | level | brought |
/// |---|---|
/// | 1 | everything up to 0.1.0 |
pub const LEVEL: u16 = 1;

impl Command {
    /// The level from which on it may be proposed. A command that a later version brings has an arm of its own.
    pub fn level(&self) -> u16 {
        1
    }
}

/// Refuses what a level does not have yet.
pub fn check(needed: u16, level: u16) -> Result<(), Problem> {
    if needed <= level { Ok(()) } else { Err(too_early(needed, level)) }
}

/// The refusal of a command that needs a higher level than the cluster has.
pub fn too_early(needed: u16, level: u16) -> Problem {
    Problem::new(Code::TooOld, "The change was not made")
        .why(format!(
            "it needs feature level {needed}, and the cluster has {level}: a coordinator runs an older version"
        ))
        .fix("See which: wharf member ls; upgrade it")
}

/// The level to which the leader raises a state now, if all members understand a higher one than it has.
pub fn to_raise(state: &State) -> Option<u16> {
    let understood = state.members().values().map(|member| member.level).min()?;
    // The leader proposes nothing that it would not understand itself.
    Some(understood.min(LEVEL)).filter(|level| *level > state.level())
}

/// What a member says whose binary is too old for a state, if it is.
pub fn too_old(state: &State) -> Option<Problem> {
    let level = state.level();
    (level > LEVEL).then(|| {
        Problem::new(Code::TooOld, "This coordinator's version of wharf is too old for its cluster")
            .why(format!("it understands the feature levels up to {LEVEL}, and the cluster has {level}"))
            .fix("Install the version that the other coordinators run; its state is untouched")
    })
}

#[cfg(test)]
mod tests {
    use common::id::MemberId;

    use super::*;
    use crate::{
        state::Member,
        testing::{Fixture, admission, host},
    };

    fn members(levels: &[u16]) -> Fixture {
        let mut fixture = Fixture::of_hosts(3);
        let member = |(index, level): (usize, &u16)| {
            let number = index as u8 + 1;
            let member = Member { level: *level, ..Member::new(host(number), admission(number).address) };
            (MemberId(u64::from(number)), member)
        };
        fixture.cluster.set_members(levels.iter().enumerate().map(member).collect(), levels.len() as u64);
        fixture
    }

    #[test]
    fn the_level_rises_when_all_members_understand_it_and_never_falls() {
        let mut fixture = members(&[3, 2, 3]);
        let refused = fixture.refused(Command::RaiseLevel(3));
        assert!(refused.contains("member 2 understands the levels up to 2"), "{refused}");
        fixture.done(Command::RaiseLevel(2));
        assert_eq!(fixture.cluster.level(), 2);
        assert!(fixture.refused(Command::RaiseLevel(2)).contains("it is 2 already"));
        fixture.done(Command::MemberUnderstands { member: MemberId(2), level: 3 });
        fixture.done(Command::RaiseLevel(3));
        let lower = fixture.refused(Command::MemberUnderstands { member: MemberId(1), level: 2 });
        assert!(lower.contains("understands feature level 2, and the cluster has 3"), "{lower}");
        let why = too_old(&fixture.cluster).expect("this binary understands one level").to_string();
        assert!(why.contains("up to 1, and the cluster has 3"), "{why}");
        assert!(too_old(&members(&[1]).cluster).is_none());
    }

    #[test]
    fn the_leader_raises_no_further_than_it_understands_itself() {
        for (levels, expected) in [(&[1, 1, 1][..], None), (&[9, 9, 9], None), (&[0, 9, 9], None), (&[1], None)] {
            assert_eq!(to_raise(&members(levels).cluster), expected, "{levels:?}");
        }
        let fresh = State::default();
        assert_eq!((fresh.level(), to_raise(&fresh)), (0, None), "it has no members");
    }

    #[test]
    fn what_needs_a_higher_level_is_refused_by_its_number() {
        assert!(check(1, 1).is_ok() && check(1, 2).is_ok());
        let refused = check(3, 2).expect_err("it is too early").to_string();
        assert!(refused.contains("it needs feature level 3, and the cluster has 2"), "{refused}");
    }
}
