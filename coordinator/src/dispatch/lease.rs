//! Which hosts are believed alive. The timers live in the leader's memory and begin anew with each
//! leader; only what changes is written.

use std::time::{Duration, Instant};

use common::{api::Settings, time::Span};
use coordinator_core::{
    Command, Proposal,
    lease::{self, Silence},
};

use super::Dispatch;

/// Keeps the leases for as long as it is awaited.
pub async fn run(dispatch: Dispatch) {
    let mut leading_since: Option<Instant> = None;
    let mut leadership = dispatch.consensus.watch_leadership();
    loop {
        let settings = dispatch.consensus.current().cluster.settings();
        let period = (settings.heartbeat.duration() / 4).clamp(Duration::from_millis(50), Duration::from_secs(2));
        tokio::select! {
            changed = leadership.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(period) => {}
        }
        if !dispatch.consensus.leadership().leads {
            leading_since = None;
            dispatch.lead_since(None);
            // Also those that began while it led for less than one look.
            dispatch.forget_all();
            continue;
        }
        let since = *leading_since.get_or_insert_with(Instant::now);
        dispatch.lead_since(Some(since));
        let proposals = judge_all(&dispatch, since, settings);
        if !proposals.is_empty()
            && let Err(reason) = dispatch.consensus.propose(proposals).await
        {
            tracing::warn!(%reason, "the new state of hosts could not be stored; trying again");
        }
    }
}

fn judge_all(dispatch: &Dispatch, leading_since: Instant, settings: Settings) -> Vec<Proposal> {
    let (published, now) = (dispatch.consensus.current(), dispatch.consensus.now());
    let judged = published.cluster.hosts().iter().filter_map(|(id, host)| {
        let heard = dispatch.heard(*id);
        let silence = heard.unwrap_or(leading_since).max(leading_since).elapsed();
        let lasts = Span(u64::try_from(silence.as_millis()).unwrap_or(u64::MAX));
        let silence = Silence { lasts, was_heard: heard.is_some() };
        let liveness = lease::judge(host.liveness, silence, &settings, now)?;
        Some(Command::HostLiveness { host: *id, liveness }.into())
    });
    judged.collect()
}
