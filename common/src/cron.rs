//! When a scheduled job is due: a cron pattern in a time zone.
//!
//! Runs in an hour that clocks skip happen right after it; an hour that clocks repeat counts once.

use chrono::{DateTime, Utc};
use chrono_tz::Tz;
use croner::{
    Cron,
    parser::{CronParser, Seconds},
};

use crate::time::Timestamp;

/// A parsed cron pattern and its time zone.
#[derive(Debug, Clone)]
pub struct Schedule {
    pattern: Cron,
    zone: Tz,
}

impl Schedule {
    /// Parses a pattern of five fields (minute, hour, day, month, weekday), or `@daily` and the like, and the name of
    /// an IANA time zone. Errors say which of the two is wrong.
    pub fn parse(pattern: &str, zone: &str) -> Result<Schedule, String> {
        let zone = zone.parse().map_err(|_| format!("{zone:?} is not a time zone such as UTC or Europe/Berlin"))?;
        let parser = CronParser::builder().seconds(Seconds::Disallowed).build();
        let pattern = parser.parse(pattern).map_err(|error| format!("{pattern:?} is not a schedule: {error}"))?;
        Ok(Schedule { pattern, zone })
    }

    /// The first time after `at` at which the job is due; `None` if there is none.
    pub fn next_after(&self, at: Timestamp) -> Option<Timestamp> {
        let at: DateTime<Utc> = DateTime::from_timestamp_millis(i64::try_from(at.0).ok()?)?;
        let next = self.pattern.find_next_occurrence(&at.with_timezone(&self.zone), false).ok()?;
        u64::try_from(next.timestamp_millis()).ok().map(Timestamp)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn next(pattern: &str, zone: &str, after: &str, count: usize) -> Vec<String> {
        let schedule = Schedule::parse(pattern, zone).expect("it is a schedule");
        let mut at = Timestamp(after.parse::<DateTime<Utc>>().expect("a time").timestamp_millis() as u64);
        let mut found = Vec::new();
        for _ in 0..count {
            at = schedule.next_after(at).expect("there is a next one");
            found.push(at.to_string());
        }
        found
    }

    #[test]
    fn a_skipped_hour_is_made_up_for_and_a_repeated_one_counts_once() {
        let spring = next("30 2 * * *", "Europe/Berlin", "2026-03-28T12:00:00Z", 2);
        assert_eq!(
            spring,
            ["2026-03-29T01:00:00.000Z", "2026-03-30T00:30:00.000Z"],
            "02:30 does not exist on the 29th"
        );
        let autumn = next("30 2 * * *", "Europe/Berlin", "2026-10-24T12:00:00Z", 2);
        assert_eq!(autumn, ["2026-10-25T00:30:00.000Z", "2026-10-26T01:30:00.000Z"], "02:30 comes twice on the 25th");
        assert_eq!(next("@hourly", "UTC", "2026-01-01T00:00:00Z", 1), ["2026-01-01T01:00:00.000Z"]);
    }

    #[test]
    fn what_is_no_schedule_is_named() {
        for (pattern, zone, words) in [
            ("61 * * * *", "UTC", "\"61 * * * *\" is not a schedule"),
            ("* * * * * *", "UTC", "is not a schedule"),
            ("* * * * *", "Mars/Olympus", "\"Mars/Olympus\" is not a time zone"),
        ] {
            let error = Schedule::parse(pattern, zone).expect_err("it is refused");
            assert!(error.contains(words), "{error}");
        }
        let never = Schedule::parse("0 0 31 2 *", "UTC").expect("it is a schedule");
        assert_eq!(never.next_after(Timestamp(0)), None, "there is no 31st of February");
    }
}
