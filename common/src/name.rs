//! Names that users choose.

use std::{fmt, sync::Arc};

use serde::{Deserialize, Serialize};

/// The name of an environment, stack, service, volume or host: `[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?`.
///
/// The rule is that of DNS labels, so every name can be part of a host name.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(try_from = "String", into = "String")]
#[schema(value_type = String)]
pub struct Name(Arc<str>);

/// A text that is not a [`Name`], and the rule that it breaks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a name: {rule}")]
pub struct InvalidName {
    /// The text as given, cut to 80 characters.
    pub text: String,
    /// The first rule that it breaks.
    pub rule: &'static str,
}

impl Name {
    /// Checks a text against the rule for names.
    pub fn parse(text: &str) -> Result<Name, InvalidName> {
        let refuse = |rule| Err(InvalidName { text: text.chars().take(80).collect(), rule });
        if text.is_empty() {
            return refuse("it is empty");
        }
        if text.len() > 63 {
            return refuse("it is longer than 63 characters");
        }
        if !text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-') {
            return refuse("only the characters a-z, 0-9 and '-' are allowed");
        }
        if text.starts_with('-') || text.ends_with('-') {
            return refuse("it must not start or end with '-'");
        }
        Ok(Name(text.into()))
    }

    /// The smallest name in sort order.
    pub fn first() -> Name {
        Name("0".into())
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The name of the environment that exists in every cluster.
pub fn default_environment() -> Name {
    Name("default".into())
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::str::FromStr for Name {
    type Err = InvalidName;
    fn from_str(text: &str) -> Result<Name, InvalidName> {
        Name::parse(text)
    }
}

impl TryFrom<String> for Name {
    type Error = InvalidName;
    fn try_from(text: String) -> Result<Name, InvalidName> {
        Name::parse(&text)
    }
}

impl From<Name> for String {
    fn from(name: Name) -> String {
        name.0.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_rule_of_dns_labels() {
        for good in ["a", "web-1", "0", &"x".repeat(63)] {
            assert!(Name::parse(good).is_ok(), "{good}");
        }
        for bad in ["", "-a", "a-", "A", "a_b", "a.b", "ä", "a b", "a\n", "../x", &"x".repeat(64)] {
            assert!(Name::parse(bad).is_err(), "{bad:?}");
        }
    }
}
