//! Constraints on hosts, in Swarm's syntax with a few extensions.

use std::{cmp::Ordering, fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::name::Name;

/// A condition on a host: `node.labels.disk == ssd`, `node.labels.zone in (a, b)`, `node.labels.gpu exists`,
/// `engine.version >= 24.0`; or on the instances there: `service == db`, `container.labels.team != red`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Constraint {
    /// One of [`Constraint::KEYS`], [`Constraint::SERVICE`], `node.labels.<label>` or `container.labels.<label>`.
    pub key: String,
    /// How the host's value is compared.
    pub operator: Operator,
    /// The values to compare with: one, several for `in` and `not in`, none for `exists` and `not exists`.
    #[serde(default)]
    pub values: Vec<String>,
}

/// How a host's value is compared with those of a constraint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub enum Operator {
    /// The value is equal.
    #[serde(rename = "==")]
    Equal,
    /// The value differs, or the host has none.
    #[serde(rename = "!=")]
    NotEqual,
    /// The value is in the list.
    #[serde(rename = "in")]
    In,
    /// The value is not in the list, or the host has none.
    #[serde(rename = "not in")]
    NotIn,
    /// The host has a value.
    #[serde(rename = "exists")]
    Exists,
    /// The host has no value.
    #[serde(rename = "not exists")]
    NotExists,
    /// The version is the same or later.
    #[serde(rename = ">=")]
    AtLeast,
    /// The version is later.
    #[serde(rename = ">")]
    Later,
    /// The version is the same or earlier.
    #[serde(rename = "<=")]
    AtMost,
    /// The version is earlier.
    #[serde(rename = "<")]
    Earlier,
}

/// Operators written with signs, longer ones first, so that the parser matches them first.
const SIGNS: [Operator; 6] =
    [Operator::Equal, Operator::NotEqual, Operator::AtLeast, Operator::AtMost, Operator::Later, Operator::Earlier];
/// Operators written as words, longer ones first, so that the parser matches them first.
const WORDS: [Operator; 4] = [Operator::NotExists, Operator::Exists, Operator::NotIn, Operator::In];
/// The maximum number of values.
const MAX_VALUES: usize = 100;

impl Operator {
    /// The operator's spelling in a constraint.
    fn text(self) -> &'static str {
        match self {
            Operator::Equal => "==",
            Operator::NotEqual => "!=",
            Operator::In => "in",
            Operator::NotIn => "not in",
            Operator::Exists => "exists",
            Operator::NotExists => "not exists",
            Operator::AtLeast => ">=",
            Operator::Later => ">",
            Operator::AtMost => "<=",
            Operator::Earlier => "<",
        }
    }

    fn compares_versions(self) -> bool {
        matches!(self, Operator::AtLeast | Operator::Later | Operator::AtMost | Operator::Earlier)
    }
}

impl Constraint {
    /// The keys for host properties other than labels.
    pub const KEYS: [&'static str; 7] = [
        "node.id",
        "node.hostname",
        "node.role",
        "node.platform.os",
        "node.platform.arch",
        "node.platform.kernel",
        "engine.version",
    ];

    /// The key for services of the stack with an instance on the host.
    pub const SERVICE: &'static str = "service";

    /// The constraint that no instance of a service of the stack is on the host.
    pub fn without_service(name: &Name) -> Constraint {
        let (key, values) = (Constraint::SERVICE.to_owned(), vec![name.to_string()]);
        Constraint { key, operator: Operator::NotEqual, values }
    }

    /// Whether all services that it names are in the list.
    pub fn names_only(&self, services: &[Name]) -> bool {
        let known = |value: &String| services.iter().any(|name| name.as_str() == value);
        self.key != Constraint::SERVICE || self.values.iter().all(known)
    }

    /// Whether it depends on other instances on the host, and so changes with each of them.
    pub fn asks_for_neighbours(&self) -> bool {
        self.key == Constraint::SERVICE || self.container_label().is_some()
    }

    /// The container label that it refers to, if any.
    pub fn container_label(&self) -> Option<&str> {
        self.key.strip_prefix("container.labels.").filter(|label| !label.is_empty())
    }

    /// The host label that it refers to, if any.
    pub fn label(&self) -> Option<&str> {
        label_of(&self.key)
    }

    /// Whether a host with the values `found` under the key matches. A host may have several values, such as its name
    /// in the cluster and its hostname.
    pub fn allows(&self, found: &[&str]) -> bool {
        let is_one = || found.iter().any(|found| self.values.iter().any(|value| value == found));
        let compare = |wanted: fn(Ordering) -> bool| {
            let Some(version) = self.values.first().and_then(|value| version(value)) else { return false };
            found.iter().filter_map(|found| self::version(found)).any(|found| wanted(found.cmp(&version)))
        };
        match self.operator {
            Operator::Equal | Operator::In => is_one(),
            Operator::NotEqual | Operator::NotIn => !is_one(),
            Operator::Exists => !found.is_empty(),
            Operator::NotExists => found.is_empty(),
            Operator::AtLeast => compare(Ordering::is_ge),
            Operator::Later => compare(Ordering::is_gt),
            Operator::AtMost => compare(Ordering::is_le),
            Operator::Earlier => compare(Ordering::is_lt),
        }
    }

    /// The rule that it breaks, if any.
    pub fn violation(&self) -> Option<String> {
        let is_known = Constraint::KEYS.contains(&self.key.as_str());
        if !is_known && self.label().is_none() && !self.asks_for_neighbours() {
            let known = Constraint::KEYS.join(", ");
            let others = "node.labels.<label>, service and container.labels.<label>";
            return Some(format!("{} is not a known key; the keys are {known}, {others}", self.key));
        }
        let fits = match self.operator {
            Operator::Exists | Operator::NotExists => self.values.is_empty(),
            Operator::In | Operator::NotIn => (1..=MAX_VALUES).contains(&self.values.len()),
            _ => self.values.len() == 1,
        };
        if !fits {
            return Some(format!("{} cannot take {} values", self.operator.text(), self.values.len()));
        }
        let value = self.values.first().filter(|_| self.operator.compares_versions());
        let bad = value.filter(|value| version(value).is_none())?;
        Some(format!("{bad:?} is not a version such as 24.0.7"))
    }
}

/// The label in a key such as `node.labels.<label>`.
pub(super) fn label_of(key: &str) -> Option<&str> {
    key.strip_prefix("node.labels.").filter(|label| !label.is_empty())
}

/// The numbers in a version: `5.10.0-23-amd64` gives 5, 10, 0. Zeros at the end are dropped.
fn version(text: &str) -> Option<Vec<u64>> {
    let numbers = text.trim_start_matches('v').split(['-', '+', '~', ' ']).next()?;
    let mut parsed: Vec<u64> = numbers.split('.').map(|part| part.parse().ok()).collect::<Option<_>>()?;
    while parsed.last() == Some(&0) {
        parsed.pop();
    }
    Some(parsed)
}

impl fmt::Display for Constraint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.key, self.operator.text())?;
        match self.operator {
            Operator::In | Operator::NotIn => write!(f, " ({})", self.values.join(", ")),
            Operator::Exists | Operator::NotExists => Ok(()),
            _ => write!(f, " {}", self.values.join(" ")),
        }
    }
}

impl FromStr for Constraint {
    type Err = String;
    fn from_str(text: &str) -> Result<Constraint, String> {
        let malformed = || format!("{text:?} is not a constraint such as node.labels.disk == ssd");
        let of = |key: &str, operator, values: Vec<&str>| {
            let values = values.into_iter().map(|value| value.trim().to_owned()).collect();
            Constraint { key: key.trim().to_owned(), operator, values }
        };
        // The first sign counts, because values may contain signs.
        let found = SIGNS.iter().filter_map(|sign| Some((text.find(sign.text())?, *sign)));
        let first = found.min_by_key(|(at, sign)| (*at, std::cmp::Reverse(sign.text().len())));
        if let Some((at, sign)) = first {
            return Ok(of(&text[..at], sign, vec![&text[at + sign.text().len()..]]));
        }
        let (key, rest) = text.trim().split_once(char::is_whitespace).ok_or_else(malformed)?;
        let rest = rest.trim();
        for word in WORDS {
            let Some(values) = rest.strip_prefix(word.text()) else { continue };
            let values = values.trim();
            let listed = values.strip_prefix('(').and_then(|values| values.strip_suffix(')'));
            return match (word, listed) {
                (Operator::Exists | Operator::NotExists, _) if values.is_empty() => Ok(of(key, word, Vec::new())),
                (Operator::In | Operator::NotIn, Some(listed)) => Ok(of(key, word, listed.split(',').collect())),
                _ => Err(malformed()),
            };
        }
        Err(malformed())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn constraints_are_read_written_and_compared() {
        let cases: [(&str, &[&str], bool); 18] = [
            ("node.labels.disk == ssd", &["ssd"], true),
            ("node.labels.disk == ssd", &[], false),
            ("node.labels.disk != ssd", &[], true),
            ("node.hostname != h1", &["h1", "host-one"], false),
            ("node.labels.zone in (a, b)", &["b"], true),
            ("node.labels.zone in (a, b)", &["c"], false),
            ("node.labels.zone not in (a, b)", &["c"], true),
            ("node.labels.zone not in (a, b)", &[], true),
            ("node.labels.gpu exists", &["yes"], true),
            ("node.labels.gpu exists", &[], false),
            ("node.labels.gpu not exists", &[], true),
            ("engine.version >= 24.0", &["24.0.7"], true),
            ("engine.version >= 24", &["9.0.1"], false),
            ("engine.version > 24.0", &["24"], false),
            ("node.platform.kernel < 5.10", &["5.9.3-amd64"], true),
            ("node.platform.kernel <= 5.10", &["5.10.0-23-amd64"], true),
            ("node.labels.level >= 3", &["high"], false),
            ("node.labels.level >= 3", &[], false),
        ];
        for (text, found, expected) in cases {
            let constraint: Constraint = text.parse().unwrap_or_else(|e| panic!("{text}: {e}"));
            assert_eq!(constraint.to_string(), text);
            assert_eq!(constraint.violation(), None, "{text}");
            assert_eq!(constraint.allows(found), expected, "{text} of {found:?}");
        }
    }

    #[test]
    fn what_is_no_constraint_is_refused() {
        for text in ["", "ssd", "node.labels.disk", "node.labels.disk exists now", "node.labels.zone in a, b"] {
            assert!(text.parse::<Constraint>().is_err(), "{text:?}");
        }
        let broken = |text: &str| text.parse::<Constraint>().expect("it is one").violation().unwrap_or_default();
        assert!(broken("node.moon == full").contains("node.moon is not a known key"));
        assert!(broken("engine.version >= new").contains("is not a version"));
        assert!(broken("node.labels. == x").contains("is not a known key"));
    }
}
