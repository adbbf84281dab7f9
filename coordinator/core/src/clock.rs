//! The time that a leader writes into the log.
//!
//! One wrong clock must not move the time of the whole state, which never goes back by itself. So a leader does not write
//! what its own clock says: it writes what most members' clocks say, and where these disagree, or it is alone, a time that
//! runs at most a tenth faster or slower than a clock that no person sets. The hard choice is the lone coordinator: at
//! its start nothing but its own clock says what time it is, so then it is believed.

use std::collections::BTreeMap;

use common::{
    id::MemberId,
    time::{Span, Timestamp},
};

/// Clocks that are further apart disagree.
pub const APART: Span = Span::minutes(1);
/// The time of a group is anchored again after so long.
const ANCHOR_FOR: Span = Span::seconds(10);

/// The two clocks of this host at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reading {
    /// The clock that people and time servers set.
    pub wall: Timestamp,
    /// The time since the host's start, in which it slept included: no person sets it.
    pub boot: Span,
}

impl Reading {
    /// What the same clocks say at a later moment, if nobody sets the first one.
    fn wall_at(&self, boot: Span) -> Timestamp {
        self.wall + Span(boot.0.saturating_sub(self.boot.0))
    }
}

/// What the clocks of a group's voters say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Agreement {
    /// The clocks of a majority agree about the time.
    Certain(Timestamp),
    /// Too few are known, or they disagree: this is what the lower half of those that are known says.
    Vague(Timestamp),
}

impl Agreement {
    /// What the clocks say; `own` is this member's, `others` those that answered lately, at the boot time of that
    /// moment, and `voters` the number of members that vote.
    pub fn of(own: Reading, others: impl IntoIterator<Item = Reading>, voters: usize) -> Agreement {
        let mut walls: Vec<Timestamp> = others.into_iter().map(|other| other.wall_at(own.boot)).collect();
        walls.push(own.wall);
        walls.sort_unstable();
        let median = walls[(walls.len() - 1) / 2];
        let near = walls.iter().filter(|wall| apart(**wall, median) <= APART).count();
        if near >= 2 && near > voters / 2 { Agreement::Certain(median) } else { Agreement::Vague(median) }
    }

    /// The time, whether it is certain or not.
    pub fn time(self) -> Timestamp {
        let (Agreement::Certain(time) | Agreement::Vague(time)) = self;
        time
    }

    /// Whether a clock that says `wall` at the same moment is wrong for certain.
    pub fn contradicts(self, wall: Timestamp) -> bool {
        matches!(self, Agreement::Certain(time) if apart(time, wall) > APART)
    }
}

/// How far two times are apart.
pub fn apart(one: Timestamp, other: Timestamp) -> Span {
    Span(one.0.abs_diff(other.0))
}

/// The time of a group, as the member that leads it keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupTime {
    /// A time of the group, and this host's boot time at that moment.
    anchor: (Timestamp, Span),
    last: Timestamp,
    /// The newest time of the state that was seen: a person may set it back.
    state: Timestamp,
}

impl GroupTime {
    /// Begins with a leadership. `alone` says that this member is the only voter.
    pub fn begin(state: Timestamp, boot: Span, agreement: Agreement, alone: bool) -> GroupTime {
        let begin = match agreement {
            Agreement::Certain(time) => state.max(time),
            Agreement::Vague(time) if alone => state.max(time),
            Agreement::Vague(_) => state,
        };
        GroupTime { anchor: (begin, boot), last: begin, state }
    }

    /// The time of the group at a later moment. It never goes back, unless the time of the state was set back.
    pub fn read(&mut self, state: Timestamp, boot: Span, agreement: Agreement) -> Timestamp {
        if state < self.state {
            *self = GroupTime::begin(state, boot, agreement, false);
        }
        self.state = state;
        let (time, since) = self.anchor;
        let passed = boot.0.saturating_sub(since.0);
        let earliest = Timestamp(time.0.saturating_add(passed - passed / 10));
        let latest = Timestamp(time.0.saturating_add(passed + passed / 10));
        let now = match agreement {
            Agreement::Certain(agreed) if agreed > time + Span(passed) + APART => agreed,
            Agreement::Certain(agreed) | Agreement::Vague(agreed) => agreed.clamp(earliest, latest),
        };
        self.last = self.last.max(now).max(state);
        if passed >= ANCHOR_FOR.0 || self.last > latest {
            self.anchor = (self.last, boot);
        }
        self.last
    }
}

/// What is known of the clocks of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Clocks {
    /// What they say.
    pub agreement: Agreement,
    /// By how many milliseconds each clock that was heard lately differs from that; positive if it is ahead.
    pub differences: BTreeMap<MemberId, i64>,
    /// How many members vote.
    pub voters: usize,
}

impl Clocks {
    /// That of clocks that were read at `boot` or before.
    pub fn of(clocks: &BTreeMap<MemberId, Reading>, boot: Span, agreement: Agreement, voters: usize) -> Clocks {
        let time = agreement.time().0 as i64;
        let difference = |clock: &Reading| clock.wall_at(boot).0 as i64 - time;
        let differences = clocks.iter().map(|(id, clock)| (*id, difference(clock))).collect();
        Clocks { agreement, differences, voters }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp(1_800_000_000_000);
    const YEAR: Span = Span::minutes(365 * 24 * 60);
    const HOUR: Span = Span::minutes(60);

    fn reading(ahead: Span, boot: Span) -> Reading {
        Reading { wall: NOW + ahead, boot }
    }

    fn agreement(own: Span, others: &[Span], voters: usize) -> Agreement {
        let boot = Span::minutes(5);
        Agreement::of(reading(own, boot), others.iter().map(|ahead| reading(*ahead, boot)), voters)
    }

    #[test]
    fn a_majority_of_clocks_says_what_time_it_is() {
        use Agreement::{Certain, Vague};
        let second = Span::seconds(1);
        let cases: [(Span, &[Span], usize, Agreement); 9] = [
            (Span(0), &[second, Span(0)], 3, Certain(NOW)),
            (YEAR, &[second, Span(0)], 3, Certain(NOW + second)),
            (Span(0), &[YEAR, second], 3, Certain(NOW + second)),
            (Span(0), &[YEAR, HOUR], 3, Vague(NOW + HOUR)),
            (YEAR, &[second], 3, Vague(NOW + second)),
            (second, &[Span(0)], 3, Certain(NOW)),
            (second, &[], 3, Vague(NOW + second)),
            (YEAR, &[], 1, Vague(NOW + YEAR)),
            (YEAR, &[YEAR, YEAR, Span(0), Span(0)], 5, Certain(NOW + YEAR)),
        ];
        for (own, others, voters, expected) in cases {
            assert_eq!(agreement(own, others, voters), expected, "{own} {others:?} of {voters}");
        }
        assert!(agreement(YEAR, &[second, Span(0)], 3).contradicts(NOW + YEAR));
        assert!(!agreement(YEAR, &[second, Span(0)], 3).contradicts(NOW + second));
        assert!(!agreement(YEAR, &[second], 3).contradicts(NOW + YEAR), "two cannot tell which of them is wrong");
    }

    #[test]
    fn a_clock_that_answered_earlier_has_gone_on_since() {
        let own = Reading { wall: NOW + Span::seconds(30), boot: Span::seconds(40) };
        let other = Reading { wall: NOW, boot: Span::seconds(10) };
        assert_eq!(Agreement::of(own, [other], 3), Agreement::Certain(NOW + Span::seconds(30)));
    }

    #[test]
    fn the_time_of_a_group_follows_a_majority_and_no_single_clock() {
        let boot = Span::minutes(5);
        let begun = |agreement, alone| GroupTime::begin(NOW, boot, agreement, alone).last;
        assert_eq!(begun(Agreement::Certain(NOW + YEAR), false), NOW + YEAR, "the cluster was off for a year");
        assert_eq!(begun(Agreement::Vague(NOW + YEAR), false), NOW, "one clock of several");
        assert_eq!(begun(Agreement::Vague(NOW + HOUR), true), NOW + HOUR, "there is no other clock");
        assert_eq!(begun(Agreement::Vague(Timestamp(0)), true), NOW, "it never goes back");

        // The clock of a lone coordinator is set: the time goes a tenth faster or slower until they meet.
        for (set_to, after_ten_minutes) in [(NOW + YEAR, 11), (Timestamp(0), 9), (NOW + Span::minutes(10), 10)] {
            let mut time = GroupTime::begin(NOW, boot, Agreement::Vague(NOW), true);
            let mut read = Timestamp(0);
            for second in 0..=600 {
                let passed = Span::seconds(second);
                let wall = Agreement::Vague(if set_to == NOW + Span::minutes(10) { NOW + passed } else { set_to });
                read = time.read(NOW, boot + passed, wall);
            }
            let apart = apart(read, NOW + Span::minutes(after_ten_minutes));
            assert!(apart <= Span::seconds(1), "{set_to}: {read}");
        }

        // A majority that agrees is followed at once, and never back.
        let mut time = GroupTime::begin(NOW, boot, Agreement::Vague(NOW), false);
        assert_eq!(time.read(NOW, boot, Agreement::Certain(NOW + HOUR)), NOW + HOUR);
        let later = time.read(NOW + HOUR, boot + Span::seconds(10), Agreement::Certain(NOW));
        assert_eq!(later, NOW + HOUR + Span::seconds(9));
    }

    #[test]
    fn reading_often_changes_nothing() {
        let boot = Span::minutes(5);
        let mut time = GroupTime::begin(NOW, boot, Agreement::Vague(NOW), true);
        for milli in 0..30_000 {
            let read = time.read(NOW, boot + Span(milli), Agreement::Vague(NOW + Span(milli)));
            assert_eq!(read, NOW + Span(milli));
        }
    }

    #[test]
    fn the_time_begins_again_when_that_of_the_state_was_set_back() {
        let boot = Span::minutes(5);
        let poisoned = NOW + YEAR;
        let mut time = GroupTime::begin(poisoned, boot, Agreement::Certain(NOW), false);
        assert_eq!(time.read(poisoned, boot, Agreement::Certain(NOW)), poisoned, "it does not go back by itself");
        assert_eq!(time.read(NOW, boot, Agreement::Certain(NOW)), NOW);
    }
}
