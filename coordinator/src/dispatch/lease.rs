//! Which hosts are believed alive. The timers live in the leader's memory and begin anew with each
//! leader; only what changes is written.

use link::clock::now;
use std::time::{Duration, Instant};

use common::{api::Settings, host::Liveness};
use coordinator_core::{Command, Proposal};

use super::Dispatch;

/// Keeps the leases for as long as it is awaited.
pub async fn run(dispatch: Dispatch) {
    let mut leading_since: Option<Instant> = None;
    let mut leadership = dispatch.consensus.watch_leadership();
    loop {
        let settings = dispatch.consensus.current().cluster.settings;
        let period = (settings.heartbeat.duration() / 4).clamp(Duration::from_millis(50), Duration::from_secs(2));
        tokio::select! {
            changed = leadership.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(period) => {}
        }
        if !dispatch.consensus.leadership().leads {
            if leading_since.take().is_some() {
                dispatch.forget_all();
            }
            continue;
        }
        let since = *leading_since.get_or_insert_with(Instant::now);
        let proposals = judge_all(&dispatch, since, settings);
        if !proposals.is_empty()
            && let Err(reason) = dispatch.consensus.propose(proposals).await
        {
            tracing::warn!(%reason, "what became of hosts could not be written; trying again");
        }
    }
}

fn judge_all(dispatch: &Dispatch, leading_since: Instant, settings: Settings) -> Vec<Proposal> {
    let published = dispatch.consensus.current();
    let judged = published.cluster.hosts.iter().filter_map(|(id, host)| {
        let heard = dispatch.heard(*id);
        let silence = heard.unwrap_or(leading_since).max(leading_since).elapsed();
        let liveness = judge(host.liveness, heard.is_some(), silence, settings)?;
        Some(Command::HostLiveness { host: *id, liveness }.into())
    });
    judged.collect()
}

/// The new belief, if it differs.
fn judge(known: Liveness, heard: bool, silence: Duration, settings: Settings) -> Option<Liveness> {
    let since = now();
    let next = if silence >= settings.down_after.duration() {
        Liveness::Down { since }
    } else if silence >= settings.suspect_after.duration() {
        match known {
            // What is down stays so until it is heard; what never came is not suspected.
            Liveness::Down { .. } | Liveness::Joining => return None,
            _ => Liveness::Suspect { since },
        }
    } else if heard {
        Liveness::Ready
    } else {
        return None;
    };
    let never_came = known == Liveness::Joining && !heard;
    (next.word() != known.word() && !never_came).then_some(next)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_makes_suspect_then_down_and_a_beat_makes_ready() {
        let settings = Settings::default();
        let word =
            |known, heard, seconds| judge(known, heard, Duration::from_secs(seconds), settings).map(|l| l.word());
        let (since, ready) = (now(), Liveness::Ready);
        assert_eq!(word(Liveness::Joining, true, 0), Some("ready"));
        assert_eq!(word(Liveness::Joining, false, 90), None, "a host that never came is not down");
        assert_eq!(word(ready, true, 14), None);
        assert_eq!(word(ready, true, 15), Some("suspect"));
        assert_eq!(word(ready, false, 1), None, "a new leader waits for the host to come back");
        assert_eq!(word(ready, false, 30), Some("down"));
        assert_eq!(word(Liveness::Suspect { since }, true, 31), Some("down"));
        assert_eq!(word(Liveness::Down { since }, false, 16), None);
        assert_eq!(word(Liveness::Down { since }, true, 1), Some("ready"));
    }
}
