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
/// | 1 | the first one |
/// | 2 | roles and environments of tokens ([`ROLES`]); requests are remembered for as long as they may be repeated ([`KEPT_REQUESTS`]) |
/// | 3 | upgrades, and which binary each host runs ([`UPGRADES`]); sealed keys of the cluster ([`TRUST`]); clocks ([`CLOCKS`]); backups ([`BACKUPS`]); claims of hosts ([`HOST_CLAIMS`]); open ports ([`OPEN_PORTS`]); the audit ([`AUDIT`]) |
pub const LEVEL: u16 = 3;

/// The level that brought roles and environments of tokens.
pub const ROLES: u16 = 2;

/// The level from which on the cluster's own keys are sealed, and can be changed.
pub const TRUST: u16 = 3;

/// The level from which on no request is forgotten that may be repeated.
pub const KEPT_REQUESTS: u16 = 2;

/// The level from which on members tell each other their clocks and how far their logs reach, and the time of the state
/// can be set back.
pub const CLOCKS: u16 = 3;
/// The level that brought backups, and hosts that take the place of another one.
pub const BACKUPS: u16 = 3;

/// The level from which on what hosts claim of themselves is checked, and other machines with a host's key are fenced.
pub const HOST_CLAIMS: u16 = 3;

/// The level from which on agents know which ports are open on other hosts.
pub const OPEN_PORTS: u16 = 3;

/// The level from which on changes are entered in the audit, with the address that asked for them.
pub const AUDIT: u16 = 3;

/// The level that brought upgrades.
pub const UPGRADES: u16 = 3;

impl Command {
    /// The level from which on it may be proposed. A command that a later version brings has an arm of its own.
    pub fn level(&self) -> u16 {
        match self {
            Command::PutToken { .. } => ROLES,
            Command::SetClockBack { .. } => CLOCKS,
            Command::PutBackupKey { .. }
            | Command::PutBackupSchedule(_)
            | Command::BackupEnded { .. }
            | Command::PutReplacingToken { .. } => BACKUPS,
            Command::HostSaid { .. } | Command::RefuseClone(_) | Command::AcceptHost { .. } => HOST_CLAIMS,
            Command::BeginUpgrade(_)
            | Command::PauseUpgrade
            | Command::ResumeUpgrade
            | Command::AbortUpgrade
            | Command::UpgradeHost { .. }
            | Command::HostRuns { .. }
            | Command::EndUpgrade => UPGRADES,
            Command::SealAuthority { .. }
            | Command::RotateSealingKey { .. }
            | Command::HoldsSealingKey { .. }
            | Command::UseSealingKey(_)
            | Command::Reseal(_)
            | Command::EndSealingKey(_)
            | Command::RotateJoinKey { .. }
            | Command::RotateRoot(_)
            | Command::HostTrusts { .. }
            | Command::MoveRoot { .. } => TRUST,
            _ => 1,
        }
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

/// What a member says that meets entries or a state which its binary cannot read.
pub fn cannot_read(error: &impl std::error::Error) -> Problem {
    Problem::new(Code::TooOld, "This coordinator's version of wharf is too old for its cluster")
        .why(error.to_string())
        .fix("Install the version that the other coordinators run; its state is untouched")
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
        let mut fixture = members(&[LEVEL + 2, LEVEL + 1, LEVEL + 2]);
        let refused = fixture.refused(Command::RaiseLevel(LEVEL + 2));
        assert!(refused.contains(&format!("member 2 understands the levels up to {}", LEVEL + 1)), "{refused}");
        fixture.done(Command::RaiseLevel(LEVEL + 1));
        assert_eq!(fixture.cluster.level(), LEVEL + 1);
        let again = fixture.refused(Command::RaiseLevel(LEVEL + 1));
        assert!(again.contains(&format!("it is {} already", LEVEL + 1)), "{again}");
        fixture.done(Command::MemberUnderstands { member: MemberId(2), level: LEVEL + 2 });
        fixture.done(Command::RaiseLevel(LEVEL + 2));
        let lower = fixture.refused(Command::MemberUnderstands { member: MemberId(1), level: LEVEL });
        let expected = format!("understands feature level {LEVEL}, and the cluster has {}", LEVEL + 2);
        assert!(lower.contains(&expected), "{lower}");
        let why = too_old(&fixture.cluster).expect("this binary understands less").to_string();
        assert!(why.contains(&format!("up to {LEVEL}, and the cluster has {}", LEVEL + 2)), "{why}");
        assert!(too_old(&members(&[1]).cluster).is_none());
    }

    #[test]
    fn the_leader_raises_no_further_than_it_understands_itself() {
        for (levels, expected) in [(&[1, 1, 1][..], None), (&[9, 9, 9], None), (&[0, 9, 9], None), (&[LEVEL], None)] {
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
