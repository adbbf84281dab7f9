//! Communication within a cluster: streams of frames over connections with authenticated peers.
//!
//! The real transport is QUIC with mutual TLS under the cluster's own authority ([`quic`]). The other one works in
//! memory and can be interrupted ([`memory`]). [`common::wire`] defines the messages.

pub mod binary;
pub mod call;
pub mod clock;
pub mod connection;
pub mod file;
pub mod identity;
pub mod keyring;
pub mod lapsed;
pub mod memory;
pub mod private;
pub mod quic;
pub mod socket;
pub mod supervise;
pub mod transport;

pub use connection::{Connection, LinkError, Stream};
pub use identity::Credentials;
pub use supervise::Supervisor;
pub use transport::Transport;

use std::sync::Arc;

/// The cryptography of all TLS connections, chosen only here.
pub fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}
