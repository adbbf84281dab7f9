//! `wharf clock`: the time of the cluster, and the clocks of its coordinators.

use bytes::Bytes;
use common::{
    api::{ClockView, HostView, List},
    error::Problem,
    time::Span,
};
use hyper::Method;

use super::Session;
use crate::{
    args::Clock,
    output::{self, Rows},
};

/// Runs a command on the cluster's time; without one, shows it.
pub async fn run(session: &Session, command: Option<Clock>) -> Result<u8, Problem> {
    let view: ClockView = session.client.get("/api/v1/clock").await?;
    match command {
        None => show(session, &view).await?,
        Some(Clock::Repair) => {
            let question = format!("Set the time of the cluster back from {} to {}?", view.state, view.clocks);
            if !output::confirm(&question, session.yes)? {
                return Ok(1);
            }
            session.client.send(Method::POST, "/api/v1/clock/repair", Bytes::new()).await?;
            output::note("✓ the time of the cluster is set back");
        }
    }
    Ok(0)
}

async fn show(session: &Session, view: &ClockView) -> Result<(), Problem> {
    let hosts: List<HostView> = session.client.get("/api/v1/hosts").await?;
    let rows = view.members.iter().map(|clock| {
        let host = hosts.items.iter().find(|host| host.id == clock.host);
        let host = host.map_or_else(|| clock.host.to_string(), |host| host.name.to_string());
        vec![clock.member.to_string(), host, clock.ahead.map_or_else(|| "unknown".to_owned(), difference)]
    });
    output::list(session.format, view, Rows { head: &["MEMBER", "HOST", "CLOCK"], narrow: 3, rows: rows.collect() });
    let agreed = if view.certain { "most coordinators agree" } else { "no majority of coordinators agrees about it" };
    output::note(format!("By their clocks it is {} ({agreed}); the newest change has {}", view.clocks, view.state));
    Ok(())
}

fn difference(ahead: i64) -> String {
    match Span(ahead.unsigned_abs()) {
        Span(0) => "exact".to_owned(),
        span if ahead > 0 => format!("{span} ahead"),
        span => format!("{span} behind"),
    }
}
