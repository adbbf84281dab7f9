//! Ways to make connections.

use std::net::SocketAddr;

use async_trait::async_trait;

use crate::{Connection, LinkError};

/// A way to reach coordinators and, for a coordinator, to be reached.
#[async_trait]
pub trait Transport: Send + Sync + 'static {
    /// Connects to the coordinator at an address, after verifying that it belongs to this cluster.
    async fn dial(&self, to: SocketAddr) -> Result<Connection, LinkError>;

    /// Waits for the next connection from a peer of this cluster; `None` after the transport has ended.
    async fn accept(&self) -> Option<Connection>;
}
