//! What commands on the cluster's own keys carry.

use std::sync::Arc;

use common::{file::FileId, secret::Secret};
use serde::{Deserialize, Serialize};

common::tagged! {
    /// Where a sealed text lies.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub enum SealedPlace {
        /// A version of a secret.
        1 => Secret {
            /// The secret.
            id: FileId,
            /// The version.
            version: u64,
        },
        /// The key of the root that issues certificates.
        2 => RootKey,
        /// The join key.
        3 => JoinKey,
        /// The key of the root that is to come.
        4 => NextRootKey,
        /// The password for a registry of images. It may lie open before.
        5 => Password {
            /// The registry.
            registry: String,
        },
    }
}

/// A new root.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NewRoot {
    /// Its certificate (DER).
    pub certificate: Vec<u8>,
    /// Its key, sealed.
    pub key: Secret<Vec<u8>>,
    /// Its certificate as the present root signs it (DER).
    pub cross: Vec<u8>,
}

/// A text that was opened with an earlier sealing key, and sealed with the present one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Resealed {
    /// Where it lies.
    pub place: SealedPlace,
    /// A hash of the earlier text: what has changed since stays.
    pub before: [u8; 32],
    /// The new text.
    pub text: Arc<[u8]>,
}
