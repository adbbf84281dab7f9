//! The one place that reads this host's clock.

use std::time::{SystemTime, UNIX_EPOCH};

use common::time::Timestamp;

/// The time now, by this host.
pub fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(since.as_millis().try_into().unwrap_or(u64::MAX))
}
