//! How connections come about.

use std::net::SocketAddr;

use async_trait::async_trait;

use crate::{Connection, LinkError};

/// A way to reach coordinators and, for a coordinator, to be reached.
#[async_trait]
pub trait Transport: Send + Sync + 'static {
    /// Connects to the coordinator at an address, after checking that it is one of this cluster.
    async fn dial(&self, to: SocketAddr) -> Result<Connection, LinkError>;

    /// The next connection that somebody of this cluster made; `None` when the transport has ended.
    async fn accept(&self) -> Option<Connection>;
}
