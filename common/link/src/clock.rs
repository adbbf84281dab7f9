//! Reads this host's clocks; no other code does.

use std::time::{SystemTime, UNIX_EPOCH};

use common::time::{Span, Timestamp};

/// The current time of this host's clock.
pub fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(since.as_millis().try_into().unwrap_or(u64::MAX))
}

/// A moment on the clock that counts on in sleep, never jumps, and begins with the boot: milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct BootTime(pub u64);

impl BootTime {
    /// Now.
    pub fn now() -> BootTime {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        BootTime(time.tv_sec as u64 * 1000 + time.tv_nsec as u64 / 1_000_000)
    }

    /// The moment that comes so much later.
    pub fn plus(self, span: Span) -> BootTime {
        BootTime(self.0.saturating_add(span.0))
    }

    /// How long it is until then; nothing if it has passed.
    pub fn until(self, then: BootTime) -> Span {
        Span(then.0.saturating_sub(self.0))
    }
}
