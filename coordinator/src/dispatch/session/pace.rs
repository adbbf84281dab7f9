//! How fast the leader takes in messages of a host: a host that floods waits, and the other hosts do not.

use std::time::{Duration, Instant};

/// How many messages a host may send at once.
const BURST: u32 = 200;
/// One message more each.
const EVERY: Duration = Duration::from_millis(20);

/// The pace of one session.
pub struct Pace {
    /// When all that was taken in so far is paid for, if one message costs [`EVERY`].
    paid: Instant,
}

impl Pace {
    /// That of a session which begins.
    pub fn begin() -> Pace {
        Pace { paid: Instant::now() }
    }

    /// Waits until one more message may be taken in. An agent says only the newest of what it has to say when it is its
    /// turn again, so nothing is lost.
    pub async fn next(&mut self) {
        let wait = self.wait(Instant::now());
        if wait > Duration::ZERO {
            tokio::time::sleep(wait).await;
        }
    }

    /// How long one more message has to wait.
    fn wait(&mut self, now: Instant) -> Duration {
        self.paid = self.paid.max(now) + EVERY;
        (self.paid - now).saturating_sub(EVERY * BURST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_slowed_down_and_a_pause_is_made_good() {
        let mut pace = Pace::begin();
        let mut now = pace.paid;
        assert!((0..BURST).all(|_| pace.wait(now) == Duration::ZERO), "a burst is let through at once");
        for _ in 0..500 {
            let wait = pace.wait(now);
            assert_eq!(wait, EVERY);
            now += wait;
        }
        now += EVERY * BURST * 3;
        assert!((0..BURST).all(|_| pace.wait(now) == Duration::ZERO));
        assert_eq!(pace.wait(now), EVERY);
    }
}
