//! Whether the states of the members are still the same.
//!
//! All members apply the same log, so at the same index their states must be equal. A fault of a program, of memory or of
//! a disk can make one differ, and then it would decide otherwise from there on. So each member compares the hash of its
//! state with those of the others, and one that is alone with its state stops.

use std::collections::BTreeMap;

use common::{
    error::{Code, Problem},
    id::MemberId,
    time::{Span, Timestamp},
};

use crate::state::StateHash;

/// How far apart two comparisons are, by the clock of the log: a quiet cluster compares nothing.
const APART: Span = Span::minutes(1);

/// Whether the state after an entry is one to compare: the first one whose clock is in another minute than the state
/// before it. All members see the same clocks, so all choose the same entries.
pub fn is_compared(before: Timestamp, after: Timestamp) -> bool {
    before.0 / APART.0 != after.0 / APART.0
}

/// What the hashes of the members say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// A majority has this member's state, and so has everybody else who answered.
    Same,
    /// A majority has this member's state, and these have another one.
    OthersDiffer(Vec<MemberId>),
    /// A majority has another state than this member.
    IDiffer,
    /// No state has a majority, and these differ from this member's, so none can be called right.
    Split(Vec<MemberId>),
    /// Too few have answered.
    Unknown,
}

/// Compares a member's own hash with those of the other members that answered, out of `members` in all.
pub fn compare(own: StateHash, others: &BTreeMap<MemberId, StateHash>, members: usize) -> Verdict {
    let mut counts = BTreeMap::from([(own, 1)]);
    others.values().for_each(|hash| *counts.entry(*hash).or_insert(0) += 1);
    let majority = counts.into_iter().find(|(_, count)| count * 2 > members).map(|(hash, _)| hash);
    let differing: Vec<MemberId> = others.iter().filter(|(_, hash)| **hash != own).map(|(id, _)| *id).collect();
    match majority {
        Some(hash) if hash != own => Verdict::IDiffer,
        Some(_) if differing.is_empty() => Verdict::Same,
        Some(_) => Verdict::OthersDiffer(differing),
        None if differing.is_empty() => Verdict::Unknown,
        None => Verdict::Split(differing),
    }
}

/// What a member says that stops because its state differs.
pub fn diverged(me: MemberId, index: u64) -> Problem {
    Problem::new(Code::StateDiffers, format!("The state of coordinator {me} differs from that of the others"))
        .why(format!("a majority has another state at index {index} of the log; this one must not decide anything"))
        .fix(format!("From another coordinator: wharf member rm {me}, then join this host with a new line"))
        .fix("Report it with the versions of all coordinators: a fault of wharf, of the memory or of the disk")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_minority_is_the_one_that_differs() {
        let all = |hashes: &[u8]| -> BTreeMap<MemberId, StateHash> {
            let member = |(index, hash): (usize, &u8)| (MemberId(index as u64 + 2), StateHash([*hash; 32]));
            hashes.iter().enumerate().map(member).collect()
        };
        let ids = |ids: &[u64]| ids.iter().map(|id| MemberId(*id)).collect::<Vec<_>>();
        let cases = [
            (&[][..], 1, Verdict::Same),
            (&[1, 1], 3, Verdict::Same),
            (&[1], 3, Verdict::Same),
            (&[], 3, Verdict::Unknown),
            (&[1, 9], 3, Verdict::OthersDiffer(ids(&[3]))),
            (&[9, 9], 3, Verdict::IDiffer),
            (&[9], 3, Verdict::Split(ids(&[2]))),
            (&[9], 2, Verdict::Split(ids(&[2]))),
            (&[8, 9], 3, Verdict::Split(ids(&[2, 3]))),
            (&[9, 9, 9], 5, Verdict::IDiffer),
            (&[9, 9, 1], 5, Verdict::Split(ids(&[2, 3]))),
            (&[1, 1, 9, 9], 5, Verdict::OthersDiffer(ids(&[4, 5]))),
        ];
        for (others, members, expected) in cases {
            assert_eq!(compare(StateHash([1; 32]), &all(others), members), expected, "{others:?} of {members}");
        }
    }

    #[test]
    fn one_state_a_minute_is_compared() {
        let minute = APART.0;
        let cases =
            [(0, minute - 1, false), (minute - 1, minute, true), (minute, minute, false), (5, 3 * minute, true)];
        for (before, after, expected) in cases {
            assert_eq!(is_compared(Timestamp(before), Timestamp(after)), expected, "{before} {after}");
        }
    }
}
