//! What an agent finds wrong with its host.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{host::HostCondition, id::ServiceId, network::Subnet, quantity::Bytes, time::Timestamp};

/// Most peers that an agent names for the same reason: where more are not heard, the host itself is the one that is
/// apart.
pub const MOST_NAMED: usize = 32;

/// Something that is wrong, for as long as it is. A host may have several.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Finding {
    /// Nothing that a peer sends through the overlay arrives here.
    Unheard {
        /// The peer.
        #[schema(value_type = String)]
        peer: Subnet,
        /// Whether the peer answers when it is asked on the underlay.
        answers: bool,
    },
    /// What a peer sends arrives if it is small, and nothing as large as the overlay should carry.
    Narrow {
        /// The peer.
        #[schema(value_type = String)]
        peer: Subnet,
        /// The largest packet that should pass, in bytes.
        mtu: u32,
    },
    /// The host's network cannot be brought to what it should be.
    Network {
        /// What the system said.
        why: String,
    },
    /// Containers get no names from this host.
    Names {
        /// What the system said.
        why: String,
    },
    /// A file system is nearly full.
    Disk {
        /// A folder on it.
        path: String,
        /// Its size.
        size: Bytes,
    },
    /// The host's clock and the leader's are apart.
    Clock {
        /// By how much at least, in seconds.
        seconds: u64,
    },
    /// None of a peer's instances that were asked answers, one after the other.
    Unreached {
        /// The peer.
        #[schema(value_type = String)]
        peer: Subnet,
    },
    /// The address of a service leads to none of the instances that serve it.
    Service {
        /// Which one.
        #[schema(value_type = String)]
        service: ServiceId,
    },
    /// The kernel's table of connections is nearly full: what finds no room in it is dropped.
    Connections {
        /// How many it may hold.
        most: u64,
    },
    /// The host cannot do something that instances need, and gets nothing new.
    Condition(HostCondition),
    /// The host's certificate ends soon: it has not been renewed when it should have been.
    Certificate {
        /// When it ends.
        #[schema(value_type = String)]
        ends: Timestamp,
    },
}

impl Finding {
    /// A word for it, as metrics label it.
    pub fn word(&self) -> &'static str {
        match self {
            Finding::Unheard { .. } => "unheard",
            Finding::Narrow { .. } => "narrow",
            Finding::Network { .. } => "network",
            Finding::Names { .. } => "names",
            Finding::Disk { .. } => "disk",
            Finding::Clock { .. } => "clock",
            Finding::Unreached { .. } => "unreached",
            Finding::Service { .. } => "service",
            Finding::Connections { .. } => "connections",
            Finding::Condition(condition) => condition.word(),
            Finding::Certificate { .. } => "certificate",
        }
    }
}
