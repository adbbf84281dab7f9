//! Says when a member is so slow that others may stop hearing it.

use std::time::{Duration, Instant};

use tracing::warn;

/// Half of the time for which the others wait for a leader.
const LATE: Duration = Duration::from_millis(300);
/// How often it is said.
const AGAIN: Duration = Duration::from_secs(10);

/// When it was said last.
#[derive(Default)]
pub struct Late(Option<Instant>);

impl Late {
    /// Says it if `what` took so long, for the first time in a while.
    pub fn note(&mut self, what: &str, took: Duration) {
        if took >= LATE && self.0.is_none_or(|said| said.elapsed() > AGAIN) {
            warn!(took_ms = took.as_millis() as u64, "this coordinator is slow: {what}");
            self.0 = Some(Instant::now());
        }
    }
}
