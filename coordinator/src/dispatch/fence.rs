//! The wait of a machine that comes with the key of a host and another boot than the one that is known: until the first
//! is heard again, or has been silent for long enough. What that means is decided in `coordinator_core::fence`.

use std::time::Instant;

use common::{
    error::Problem,
    id::{BootId, HostId},
    time::Span,
};
use coordinator_core::{
    Command,
    fence::{self, Admission, First},
    lease::Silence,
};

use super::Dispatch;
use crate::raft::NotProposed;

/// Why a machine got no session.
pub enum Turned {
    /// This coordinator does not lead.
    NotLeader,
    /// Another machine has the host's place.
    Refused(Problem),
}

impl From<NotProposed> for Turned {
    fn from(_: NotProposed) -> Turned {
        Turned::NotLeader
    }
}

/// Waits until a machine may speak for a host under a boot.
pub async fn pass(dispatch: &Dispatch, host: HostId, boot: BootId) -> Result<(), Turned> {
    let came = Instant::now();
    let mut leadership = dispatch.consensus.watch_leadership();
    loop {
        let heard = dispatch.heard.notified();
        tokio::pin!(heard);
        // From here on nothing is missed.
        heard.as_mut().enable();
        let leads = dispatch.consensus.leadership();
        if !leads.leads {
            return Err(Turned::NotLeader);
        }
        let wait = match decide(dispatch, host, (boot, came)) {
            Admission::Begins => return Ok(()),
            Admission::Refused => return Err(refuse(dispatch, host, boot).await?),
            Admission::Waits(wait) => wait,
        };
        tokio::select! {
            () = heard => {}
            _ = leadership.changed() => {}
            () = tokio::time::sleep(wait.duration()) => {}
        }
    }
}

fn decide(dispatch: &Dispatch, host: HostId, (boot, came): (BootId, Instant)) -> Admission {
    let cluster = dispatch.consensus.current().cluster.clone();
    let Some(known) = cluster.hosts().get(&host) else { return Admission::Begins };
    let first = known.facts.as_ref().map(|facts| facts.boot);
    let last_beat = dispatch.hosts().get(&host).filter(|live| Some(live.boot) == first).map(|live| live.last_beat);
    let leading_since = dispatch.leading_since().unwrap_or(came);
    let lasts = last_beat.map_or(leading_since, |beat| beat.max(leading_since)).elapsed();
    let lasts = Span(u64::try_from(lasts.as_millis()).unwrap_or(u64::MAX));
    let silence = Silence { lasts, was_heard: last_beat.is_some() };
    let was_heard_since = last_beat.is_some_and(|beat| beat > came);
    fence::admit(&cluster, known, boot, First { silence, was_heard_since })
}

/// Refuses the machine. One that comes again and again is noted once.
async fn refuse(dispatch: &Dispatch, host: HostId, boot: BootId) -> Result<Turned, NotProposed> {
    let is_news = match dispatch.hosts().get_mut(&host) {
        Some(live) => live.refused.replace(boot) != Some(boot),
        None => true,
    };
    if is_news {
        dispatch.consensus.propose(vec![Command::RefuseClone(host).into()]).await?;
    }
    let state = dispatch.consensus.current();
    let name = state.cluster.hosts().get(&host).map(|host| host.name.clone());
    Ok(name.map_or(Turned::NotLeader, |name| Turned::Refused(fence::cloned(&name))))
}
