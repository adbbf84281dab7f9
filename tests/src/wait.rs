//! Waiting for conditions, with a time limit.

use std::{
    fmt::Display,
    time::{Duration, Instant},
};

/// The interval between checks of a condition.
const PERIOD: Duration = Duration::from_millis(50);

/// Waits until `condition` returns a value. After `limit` the test fails with its last error.
#[track_caller]
pub fn until<T, E: Display>(limit: Duration, what: &str, mut condition: impl FnMut() -> Result<T, E>) -> T {
    let end = Instant::now() + limit;
    loop {
        match condition() {
            Ok(value) => return value,
            Err(complaint) if Instant::now() > end => panic!("{what}: not within {limit:?}: {complaint}"),
            Err(_) => std::thread::sleep(PERIOD),
        }
    }
}

/// Like [`until`], for async conditions.
pub async fn until_async<T, E: Display>(
    limit: Duration,
    what: &str,
    mut condition: impl AsyncFnMut() -> Result<T, E>,
) -> T {
    let end = Instant::now() + limit;
    loop {
        match condition().await {
            Ok(value) => return value,
            Err(complaint) if Instant::now() > end => panic!("{what}: not within {limit:?}: {complaint}"),
            Err(_) => tokio::time::sleep(PERIOD).await,
        }
    }
}
