//! When a problem of the host counts as one: not when it lasts for a moment only, and less often when it returns.

use common::time::{Span, Timestamp};

/// How long the problem must be absent before it counts as solved.
const CALM: Span = Span::seconds(4);
/// The longest such time: it doubles with each relapse.
const LONGEST_CALM: Span = Span::minutes(5);
/// After this time without a relapse the earlier ones are forgotten.
const FORGIVE_AFTER: Span = Span::minutes(10);
/// A disk is full if less than one part of so many is free, and less than [`ROOM`].
const FULL_OF: u64 = 50;
/// So much is enough on a disk of any size, in bytes.
const ROOM: u64 = 2 << 30;

/// Decides from repeated looks whether a problem counts. A problem that comes and goes changes its verdict ever less
/// often: a cluster in which nothing else happens must not write for ever.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Steady {
    /// How long the problem must last before it counts.
    patience: Span,
    /// The result of the last look, and since when the looks agree on it.
    wrong: bool,
    since: Timestamp,
    /// Since when the problem exists, while it counts.
    counts_since: Option<Timestamp>,
    calm: Span,
    well_since: Timestamp,
}

impl Steady {
    /// No problem yet; one counts after it has lasted so long.
    pub fn new(patience: Span) -> Steady {
        let (since, well_since) = (Timestamp(0), Timestamp(0));
        Steady { patience, wrong: false, since, counts_since: None, calm: CALM, well_since }
    }

    /// Notes the result of a look; returns since when the problem exists, if it counts.
    pub fn note(&mut self, wrong: bool, now: Timestamp) -> Option<Timestamp> {
        if wrong != self.wrong {
            (self.wrong, self.since) = (wrong, now);
        }
        let lasts = now.since(self.since);
        if self.counts_since.is_none() && wrong && lasts >= self.patience {
            let is_relapse = self.well_since > Timestamp(0) && now.since(self.well_since) < FORGIVE_AFTER;
            self.calm = if is_relapse { self.calm.doubled(1, LONGEST_CALM) } else { CALM };
            self.counts_since = Some(self.since);
        } else if self.counts_since.is_some() && !wrong && lasts >= self.calm {
            self.counts_since = None;
            self.well_since = now;
        }
        self.counts_since
    }

    /// Whether the problem counts.
    pub fn counts(&self) -> bool {
        self.counts_since.is_some()
    }
}

/// Whether a disk of a size is full with so much of it free, in bytes. A disk that was full stays so until twice as much
/// is free.
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

    /// The verdict of each second, by looks that say `x` for wrong and `.` for well.
    fn verdicts(patience: u64, looks: &str) -> String {
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
            assert_eq!(verdicts(patience, looks), expected, "{looks}");
        }
    }

    #[test]
    fn what_flaps_is_told_ever_less_often() {
        let looks = "xxxxx.....".repeat(600);
        let verdicts = verdicts(3, &looks);
        let changes = verdicts.as_bytes().windows(2).filter(|pair| pair[0] != pair[1]).count();
        assert!(changes <= 6, "{changes} changes in 100 minutes");
    }

    #[test]
    fn it_tells_since_when() {
        let mut steady = Steady::new(Span::seconds(5));
        assert_eq!((0..3).find_map(|second| steady.note(true, Timestamp(second * 1000))), None);
        assert_eq!(steady.note(true, Timestamp(9000)), Some(Timestamp(0)));
    }
}
