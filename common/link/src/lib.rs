//! How the parts of a cluster talk: streams of frames over connections that know who is at the
//! other end.
//!
//! The real transport is QUIC with mutual TLS from the cluster's own authority ([`quic`]); the
//! other one lives in memory and can be cut ([`memory`]). What is said is defined in
//! [`common::wire`].

pub mod call;
pub mod clock;
pub mod connection;
pub mod file;
pub mod identity;
pub mod keyring;
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

/// The one place that chooses the cryptography.
pub fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}
