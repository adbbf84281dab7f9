//! Problems that an agent finds on its host.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{host::HostCondition, id::ServiceId, network::Subnet, quantity::Bytes, time::Timestamp};

/// The maximum number of peers that an agent names for one reason. If more are silent, the host itself is likely cut
/// off.
pub const MOST_NAMED: usize = 32;

/// A problem that exists now. A host may have several.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Finding {
    /// No overlay packets from a peer arrive.
    Unheard {
        /// The subnet of the peer.
        #[schema(value_type = String)]
        peer: Subnet,
        /// Whether the peer answers on the underlay.
        answers: bool,
    },
    /// Only small overlay packets from a peer arrive.
    Narrow {
        /// The subnet of the peer.
        #[schema(value_type = String)]
        peer: Subnet,
        /// The size in bytes of the largest packet that should arrive.
        mtu: u32,
    },
    /// The agent cannot set up the host's network.
    Network {
        /// The error from the system.
        why: String,
    },
    /// The host does not answer DNS queries of its containers.
    Names {
        /// The error from the system.
        why: String,
    },
    /// A file system is nearly full.
    Disk {
        /// A folder on the file system.
        path: String,
        /// The size of the file system.
        size: Bytes,
    },
    /// The host's clock differs from the leader's.
    Clock {
        /// The minimum difference, in seconds.
        seconds: u64,
    },
    /// None of the probed instances on a peer answers.
    Unreached {
        /// The subnet of the peer.
        #[schema(value_type = String)]
        peer: Subnet,
    },
    /// The virtual address of a service leads to none of its serving instances.
    Service {
        /// The id of the service.
        #[schema(value_type = String)]
        service: ServiceId,
    },
    /// The kernel's connection tracking table is nearly full. When it is full, the kernel drops new connections.
    Connections {
        /// The capacity of the table.
        most: u64,
    },
    /// The host lacks something that instances need, and gets no new ones.
    Condition(HostCondition),
    /// The host's certificate expires soon because its renewal failed.
    Certificate {
        /// When it expires.
        #[schema(value_type = String)]
        ends: Timestamp,
    },
}

impl Finding {
    /// A stable word, used as the label of metrics.
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
