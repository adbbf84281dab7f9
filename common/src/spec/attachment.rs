//! The networks of an instance, the peers that it reaches there, and its names.

use std::{borrow::Borrow, collections::BTreeSet, fmt, net::IpAddr, str::FromStr};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Which network a service's instances use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum NetworkMode {
    /// The cluster's: each instance has its own address, which others find by name.
    #[default]
    Cluster,
    /// None: the instance cannot reach others or be reached.
    None,
    /// The host's: ports are the host's, and the service's name leads to the host's address.
    Host,
}

/// The settings of a service on one network of its stack.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Attachment {
    /// Whether the network leads nowhere outside the cluster. A service reaches the outside through any network that is
    /// not internal.
    #[serde(default)]
    pub internal: bool,
    /// Further names of the service for others on the network.
    #[serde(default)]
    pub aliases: BTreeSet<Alias>,
}

/// A further name of a service, in lower case: a host name of at most 253 characters.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(try_from = "String", into = "String")]
#[schema(value_type = String)]
pub struct Alias(String);

/// A text that is not a host name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is not a host name: labels of letters, digits, '-' and '_', with dots between, 253 characters at most"
)]
pub struct InvalidHostName {
    /// The text as given, cut to 80 characters.
    pub text: String,
}

impl Alias {
    /// Checks a text and converts it to lower case, because host names ignore case.
    pub fn parse(text: &str) -> Result<Alias, InvalidHostName> {
        if is_host_name(text) { Ok(Alias(text.to_ascii_lowercase())) } else { Err(not_a_host_name(text)) }
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Whether a text is valid as a host name in `/etc/hosts` and in DNS queries.
pub(super) fn is_host_name(text: &str) -> bool {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
            && !label.starts_with('-')
    };
    text.len() <= 253 && text.split('.').all(is_label)
}

fn not_a_host_name(text: &str) -> InvalidHostName {
    InvalidHostName { text: text.chars().take(80).collect() }
}

impl fmt::Display for Alias {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for Alias {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Borrow<str> for Alias {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl FromStr for Alias {
    type Err = InvalidHostName;
    fn from_str(text: &str) -> Result<Alias, InvalidHostName> {
        Alias::parse(text)
    }
}

impl TryFrom<String> for Alias {
    type Error = InvalidHostName;
    fn try_from(text: String) -> Result<Alias, InvalidHostName> {
        Alias::parse(&text)
    }
}

impl From<Alias> for String {
    fn from(alias: Alias) -> String {
        alias.0
    }
}

/// How names outside the cluster are resolved; as on the host where empty.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ResolverSpec {
    /// The DNS servers for names outside the cluster, in order of preference.
    #[schema(value_type = Vec<String>)]
    pub servers: Vec<IpAddr>,
    /// Search domains after the stack's own.
    pub search: Vec<String>,
    /// Options of resolv.conf(5), such as `ndots:2`.
    pub options: Vec<String>,
}

/// A line of `/etc/hosts`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct HostEntry {
    /// The name.
    pub name: String,
    /// Where the name leads: an address, or `host-gateway`.
    #[schema(value_type = String)]
    pub address: HostAddress,
}

/// The target of a line in `/etc/hosts`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum HostAddress {
    /// A fixed IP address.
    Address(IpAddr),
    /// The container's own host. The container may then reach programs on it.
    HostGateway,
}

impl fmt::Display for HostAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HostAddress::Address(address) => write!(f, "{address}"),
            HostAddress::HostGateway => f.write_str("host-gateway"),
        }
    }
}

impl FromStr for HostAddress {
    type Err = String;
    fn from_str(text: &str) -> Result<HostAddress, String> {
        if text == "host-gateway" {
            return Ok(HostAddress::HostGateway);
        }
        // IPv6 addresses may be written in brackets, as in `[::1]`.
        let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
        let refuse =
            |_| format!("{:?} is neither an address nor host-gateway", text.chars().take(80).collect::<String>());
        bare.parse().map(HostAddress::Address).map_err(refuse)
    }
}

impl TryFrom<String> for HostAddress {
    type Error = String;
    fn try_from(text: String) -> Result<HostAddress, String> {
        text.parse()
    }
}

impl From<HostAddress> for String {
    fn from(address: HostAddress) -> String {
        address.to_string()
    }
}
