//! Reads this host's clock; no other code does.

use std::time::{SystemTime, UNIX_EPOCH};

use common::time::Timestamp;

/// The current time of this host's clock.
pub fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(since.as_millis().try_into().unwrap_or(u64::MAX))
}
