//! When something that is wrong with the host counts as such: not for a moment's sake, and not over and over again.

use common::time::{Span, Timestamp};

/// How long it must be well again before it counts as well.
const CALM: Span = Span::seconds(4);
/// The longest such time: it doubles with each relapse.
const LONGEST_CALM: Span = Span::minutes(5);
/// After so long without a relapse the earlier ones are forgotten.
const FORGIVE_AFTER: Span = Span::minutes(10);
/// A disk is full if less than one part of so many is free, and less than [`ROOM`].
const FULL_OF: u64 = 50;
/// So much is enough on a disk of any size, in bytes.
const ROOM: u64 = 2 << 30;

/// Whether something counts as wrong, of which looks say whether it is at their moment. What comes and goes is told
/// ever less often: a cluster in which nothing else happens must not write for ever.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Steady {
    /// How long it must be wrong before it counts as wrong.
    patience: Span,
    /// Since when the looks say what they say.
    wrong: bool,
    since: Timestamp,
    /// Since when it was wrong, while it counts as wrong.
    told: Option<Timestamp>,
    calm: Span,
    well_since: Timestamp,
}

impl Steady {
    /// Well, as far as is known.
    pub fn new(patience: Span) -> Steady {
        let (since, well_since) = (Timestamp(0), Timestamp(0));
        Steady { patience, wrong: false, since, told: None, calm: CALM, well_since }
    }

    /// Notes what a look says; since when it is wrong, if it counts as wrong.
    pub fn note(&mut self, wrong: bool, now: Timestamp) -> Option<Timestamp> {
        if wrong != self.wrong {
            (self.wrong, self.since) = (wrong, now);
        }
        let lasts = now.since(self.since);
        if self.told.is_none() && wrong && lasts >= self.patience {
            let is_relapse = self.well_since > Timestamp(0) && now.since(self.well_since) < FORGIVE_AFTER;
            self.calm = if is_relapse { self.calm.doubled(1, LONGEST_CALM) } else { CALM };
            self.told = Some(self.since);
        } else if self.told.is_some() && !wrong && lasts >= self.calm {
            self.told = None;
            self.well_since = now;
        }
        self.told
    }

    /// Whether it counts as wrong.
    pub fn is_told(&self) -> bool {
        self.told.is_some()
    }
}

/// Whether a disk of a size is full with so much of it free, in bytes. One that was full is full until twice as much is
/// free.
pub fn is_full(free: u64, size: u64, was_full: bool) -> bool {
    let least = (size / FULL_OF).min(ROOM);
    size > 0 && free < if was_full { least * 2 } else { least }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_full_by_share_and_by_size_and_stays_so_until_there_is_room() {
        const GIB: u64 = 1 << 30;
        for (free, size, was_full, expected) in [
            (0, 0, false, false),
            (GIB, 100 * GIB, false, true),
            (3 * GIB, 100 * GIB, false, false),
            (3 * GIB, 100 * GIB, true, true),
            (5 * GIB, 100 * GIB, true, false),
            (3 * GIB, 10_000 * GIB, false, false),
        ] {
            assert_eq!(is_full(free, size, was_full), expected, "{free} of {size}");
        }
    }

    /// What is told second by second, of looks that say `x` for wrong and `.` for well.
    fn told(patience: u64, looks: &str) -> String {
        let mut steady = Steady::new(Span::seconds(patience));
        let note = |(second, look): (usize, char)| match steady.note(look == 'x', Timestamp(1000 * (second as u64 + 1)))
        {
            Some(_) => 'x',
            None => '.',
        };
        looks.chars().enumerate().map(note).collect()
    }

    #[test]
    fn what_lasts_is_told_and_a_moment_is_not() {
        for (patience, looks, expected) in [
            (3, ".xx.xx..", "........"),
            (3, ".xxxxx..", "....xxxx"),
            (0, ".x......", ".xxxxx.."),
            (3, "xxxx.xxxx....", "...xxxxxxxxxx"),
        ] {
            assert_eq!(told(patience, looks), expected, "{looks}");
        }
    }

    #[test]
    fn what_flaps_is_told_ever_less_often() {
        let looks = "xxxxx.....".repeat(600);
        let told = told(3, &looks);
        let changes = told.as_bytes().windows(2).filter(|pair| pair[0] != pair[1]).count();
        assert!(changes <= 6, "{changes} changes in 100 minutes");
    }

    #[test]
    fn it_tells_since_when() {
        let mut steady = Steady::new(Span::seconds(5));
        assert_eq!((0..3).find_map(|second| steady.note(true, Timestamp(second * 1000))), None);
        assert_eq!(steady.note(true, Timestamp(9000)), Some(Timestamp(0)));
    }
}
