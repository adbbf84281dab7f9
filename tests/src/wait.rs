//! Waiting for conditions, with an end.

use std::{
    fmt::Display,
    time::{Duration, Instant},
};

/// How often a condition is looked at.
const PERIOD: Duration = Duration::from_millis(50);

/// Waits until `condition` gives a value; its last complaint ends the test after `limit`.
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

/// As [`until`], for conditions that await.
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
