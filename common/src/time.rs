//! Points in time and durations, as values: nothing here reads a clock.

use std::{fmt, ops, time::Duration};

use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A point in time in milliseconds since 1970-01-01 UTC; RFC 3339 text in JSON.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, utoipa::ToSchema)]
#[schema(value_type = String, format = DateTime)]
pub struct Timestamp(pub u64);

/// A duration in milliseconds; text such as `1m30s` in JSON.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, utoipa::ToSchema)]
#[schema(value_type = String)]
pub struct Span(pub u64);

/// A text that is not a duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a duration such as 10s, 1m30s, 500ms or 2h")]
pub struct InvalidSpan {
    /// The text as given, cut to 80 characters.
    pub text: String,
}

impl Timestamp {
    /// The time since `earlier`; zero if `earlier` lies in the future.
    pub fn since(self, earlier: Timestamp) -> Span {
        Span(self.0.saturating_sub(earlier.0))
    }
}

impl Span {
    /// A duration of whole seconds.
    pub const fn seconds(seconds: u64) -> Span {
        Span(seconds * 1000)
    }

    /// A duration of whole minutes.
    pub const fn minutes(minutes: u64) -> Span {
        Span::seconds(minutes * 60)
    }

    /// The duration as the standard library's type.
    pub const fn duration(self) -> Duration {
        Duration::from_millis(self.0)
    }

    /// `self * 2^exponent`, at most `cap`.
    pub fn doubled(self, exponent: u32, cap: Span) -> Span {
        let factor = 1u64.checked_shl(exponent.min(40)).unwrap_or(u64::MAX);
        Span(self.0.saturating_mul(factor)).min(cap)
    }
}

impl ops::Add<Span> for Timestamp {
    type Output = Timestamp;
    fn add(self, span: Span) -> Timestamp {
        Timestamp(self.0.saturating_add(span.0))
    }
}

impl ops::Add<Span> for Span {
    type Output = Span;
    fn add(self, span: Span) -> Span {
        Span(self.0.saturating_add(span.0))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = i64::try_from(self.0)
            .ok()
            .and_then(DateTime::<Utc>::from_timestamp_millis)
            .map_or_else(|| self.0.to_string(), |t| t.to_rfc3339_opts(SecondsFormat::Millis, true));
        f.pad(&text)
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::str::FromStr for Timestamp {
    type Err = chrono::ParseError;
    fn from_str(text: &str) -> Result<Timestamp, chrono::ParseError> {
        let parsed = DateTime::parse_from_rfc3339(text)?;
        Ok(Timestamp(parsed.timestamp_millis().max(0).unsigned_abs()))
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (hours, minutes) = (self.0 / 3_600_000, self.0 / 60_000 % 60);
        let (seconds, millis) = (self.0 / 1000 % 60, self.0 % 1000);
        let mut text = String::new();
        for (value, unit) in [(hours, "h"), (minutes, "m"), (seconds, "s"), (millis, "ms")] {
            if value > 0 {
                text.push_str(&format!("{value}{unit}"));
            }
        }
        f.pad(if text.is_empty() { "0s" } else { &text })
    }
}

impl fmt::Debug for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::str::FromStr for Span {
    type Err = InvalidSpan;

    /// Parses Go's format, as compose uses it: numbers with units, one after the other.
    fn from_str(text: &str) -> Result<Span, InvalidSpan> {
        let refuse = || InvalidSpan { text: text.chars().take(80).collect() };
        let mut rest = text.trim();
        if rest.is_empty() {
            return Err(refuse());
        }
        let mut millis = 0f64;
        while !rest.is_empty() {
            let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
            let value: f64 = rest[..digits].parse().map_err(|_| refuse())?;
            rest = &rest[digits..];
            let unit = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
            let factor = match &rest[..unit] {
                "us" | "µs" => 0.001,
                "ms" => 1.0,
                "s" => 1000.0,
                "m" => 60_000.0,
                "h" => 3_600_000.0,
                "d" => 86_400_000.0,
                "" if text == "0" => 0.0,
                _ => return Err(refuse()),
            };
            millis += value * factor;
            rest = &rest[unit..];
        }
        // A hundred years exceeds any deadline and is far from an overflow.
        if millis.is_finite() && (0.0..3.2e12).contains(&millis) { Ok(Span(millis as u64)) } else { Err(refuse()) }
    }
}

/// Text in formats for people, an integer in binary formats.
macro_rules! text_or_millis {
    ($type:ident) => {
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                if serializer.is_human_readable() { serializer.collect_str(self) } else { self.0.serialize(serializer) }
            }
        }
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<$type, D::Error> {
                if deserializer.is_human_readable() {
                    String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
                } else {
                    u64::deserialize(deserializer).map($type)
                }
            }
        }
    };
}

text_or_millis!(Timestamp);
text_or_millis!(Span);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_read_as_compose_writes_them() {
        for (text, millis) in
            [("10s", 10_000), ("1m30s", 90_000), ("500ms", 500), ("1.5s", 1500), ("2h", 7_200_000), ("0", 0)]
        {
            assert_eq!(text.parse(), Ok(Span(millis)), "{text}");
        }
        for bad in ["", "10", "s", "-1s", "1x", "1e9h", "999999999h", "NaN", "1.2.3s"] {
            assert!(bad.parse::<Span>().is_err(), "{bad:?}");
        }
        assert_eq!(Span(90_500).to_string(), "1m30s500ms");
        assert_eq!(Span(0).to_string(), "0s");
    }

    #[test]
    fn timestamps_are_rfc3339_in_json_and_survive() {
        let at = Timestamp(1_795_000_000_123);
        let json = serde_json::to_string(&at).expect("serialises");
        assert_eq!(serde_json::from_str::<Timestamp>(&json).expect("reads its own"), at);
        assert_eq!(Timestamp(0).to_string(), "1970-01-01T00:00:00.000Z");
    }
}
