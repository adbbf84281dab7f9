//! Conditions on hosts, as compose files spell them and a little beyond.

use std::{cmp::Ordering, fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::name::Name;

/// A condition on a host: `node.labels.disk == ssd`, `node.labels.zone in (a, b)`,
/// `node.labels.gpu exists`, `engine.version >= 24.0`; or on what runs there: `service == db`,
/// `container.labels.team != red`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Constraint {
    /// One of [`Constraint::KEYS`], [`Constraint::SERVICE`], `node.labels.<label>` or `container.labels.<label>`.
    pub key: String,
    /// How what the host has is compared.
    pub operator: Operator,
    /// With what: one value, any number of them for `in` and `not in`, none for `exists` and `not exists`.
    #[serde(default)]
    pub values: Vec<String>,
}

/// How what a host has is compared with what is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub enum Operator {
    /// It is that.
    #[serde(rename = "==")]
    Equal,
    /// It is not that; a host without it is not that either.
    #[serde(rename = "!=")]
    NotEqual,
    /// It is one of these.
    #[serde(rename = "in")]
    In,
    /// It is none of these.
    #[serde(rename = "not in")]
    NotIn,
    /// The host has it, whatever it is.
    #[serde(rename = "exists")]
    Exists,
    /// The host does not have it.
    #[serde(rename = "not exists")]
    NotExists,
    /// It is that version or a later one.
    #[serde(rename = ">=")]
    AtLeast,
    /// It is a later version.
    #[serde(rename = ">")]
    Later,
    /// It is that version or an earlier one.
    #[serde(rename = "<=")]
    AtMost,
    /// It is an earlier version.
    #[serde(rename = "<")]
    Earlier,
}

/// Those with a sign, the longer ones first.
const SIGNS: [Operator; 6] =
    [Operator::Equal, Operator::NotEqual, Operator::AtLeast, Operator::AtMost, Operator::Later, Operator::Earlier];
/// Those with words, the longer ones first.
const WORDS: [Operator; 4] = [Operator::NotExists, Operator::Exists, Operator::NotIn, Operator::In];
/// Most values to compare with.
const MAX_VALUES: usize = 100;

impl Operator {
    /// As it is written.
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
    /// What a host has beside its labels.
    pub const KEYS: [&'static str; 7] = [
        "node.id",
        "node.hostname",
        "node.role",
        "node.platform.os",
        "node.platform.arch",
        "node.platform.kernel",
        "engine.version",
    ];

    /// The services of the stack that have an instance there.
    pub const SERVICE: &'static str = "service";

    /// That no instance of a service of the stack is there.
    pub fn without_service(name: &Name) -> Constraint {
        let (key, values) = (Constraint::SERVICE.to_owned(), vec![name.to_string()]);
        Constraint { key, operator: Operator::NotEqual, values }
    }

    /// Whether all services that it names are among these.
    pub fn names_only(&self, services: &[Name]) -> bool {
        let known = |value: &String| services.iter().any(|name| name.as_str() == value);
        self.key != Constraint::SERVICE || self.values.iter().all(known)
    }

    /// Whether it asks for what else runs on a host, which changes with every instance.
    pub fn asks_for_neighbours(&self) -> bool {
        self.key == Constraint::SERVICE || self.container_label().is_some()
    }

    /// The label of containers there that it asks for, if it asks for one.
    pub fn container_label(&self) -> Option<&str> {
        self.key.strip_prefix("container.labels.").filter(|label| !label.is_empty())
    }

    /// The label that it asks for, if it asks for one.
    pub fn label(&self) -> Option<&str> {
        label_of(&self.key)
    }

    /// Whether a host that has `found` under its key is what it asks for. A host may go by several
    /// values, as by its name and its own name for itself.
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

    /// The rule that it breaks, if it breaks one.
    pub fn violation(&self) -> Option<String> {
        let is_known = Constraint::KEYS.contains(&self.key.as_str());
        if !is_known && self.label().is_none() && !self.asks_for_neighbours() {
            let known = Constraint::KEYS.join(", ");
            let others = "node.labels.<label>, service and container.labels.<label>";
            return Some(format!("{} is not known; there are {known}, {others}", self.key));
        }
        let fits = match self.operator {
            Operator::Exists | Operator::NotExists => self.values.is_empty(),
            Operator::In | Operator::NotIn => (1..=MAX_VALUES).contains(&self.values.len()),
            _ => self.values.len() == 1,
        };
        if !fits {
            return Some(format!("{} does not go with {} values", self.operator.text(), self.values.len()));
        }
        let value = self.values.first().filter(|_| self.operator.compares_versions());
        let bad = value.filter(|value| version(value).is_none())?;
        Some(format!("{bad:?} is not a version, which looks like 24.0.7"))
    }
}

/// The label that a key names.
pub(super) fn label_of(key: &str) -> Option<&str> {
    key.strip_prefix("node.labels.").filter(|label| !label.is_empty())
}

/// The numbers of a version: `5.10.0-23-amd64` is 5, 10, 0; zeros at the end say nothing.
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
        let malformed = || format!("{text:?} is not a constraint, which looks like node.labels.disk == ssd");
        let of = |key: &str, operator, values: Vec<&str>| {
            let values = values.into_iter().map(|value| value.trim().to_owned()).collect();
            Constraint { key: key.trim().to_owned(), operator, values }
        };
        // The sign that stands first counts: values may have signs in them.
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
        assert!(broken("node.moon == full").contains("node.moon is not known"));
        assert!(broken("engine.version >= new").contains("is not a version"));
        assert!(broken("node.labels. == x").contains("is not known"));
    }
}
