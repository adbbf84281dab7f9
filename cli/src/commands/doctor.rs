//! `wharf doctor`: problems of the cluster's hosts and of the paths between them.

use std::collections::BTreeMap;

use common::{
    api::{DoctorView, PathState, PathsView},
    error::Problem,
    name::Name,
};

use super::Session;
use crate::{
    args::Format,
    output::{self, Rows},
};

/// In larger clusters, hosts whose paths all work are not shown.
const MOST_HOSTS: usize = 20;

/// Prints the findings; the exit code is 1 if there are any.
pub async fn doctor(session: &Session) -> Result<u8, Problem> {
    let view: DoctorView = session.client.get("/api/v1/doctor").await?;
    match session.format {
        Format::Json | Format::Yaml => output::value(session.format, &view),
        Format::Name => view.findings.iter().for_each(|finding| output::line(finding.host.as_str())),
        Format::Table | Format::Wide => show(&view),
    }
    Ok(u8::from(!view.findings.is_empty()))
}

fn show(view: &DoctorView) {
    for finding in &view.findings {
        output::line(&format!("✗ {}", finding.what));
        finding.why.iter().for_each(|why| output::line(&format!("  {why}")));
        finding.fix.iter().for_each(|fix| output::line(&format!("  Fix: {fix}")));
    }
    let mark = |is_whole| if is_whole { "✓" } else { "·" };
    output::line(&format!("{} {} of {} hosts are ready", mark(view.ready == view.hosts), view.ready, view.hosts));
    let unheard = view.findings.iter().filter(|found| found.is_of_a_path()).count();
    if view.directions > 0 {
        let (mark, whole) = (mark(unheard == 0), view.directions.saturating_sub(unheard));
        output::line(&format!("{mark} {whole} of {} paths on the overlay carry packets", view.directions));
    }
}

/// Prints what each path carries; the exit code is 1 if any path does not carry all packets.
pub async fn paths(session: &Session) -> Result<u8, Problem> {
    let view: PathsView = session.client.get("/api/v1/doctor/paths").await?;
    let mut states = view.arriving.values().flat_map(BTreeMap::values);
    let is_broken = states.any(|state| matches!(state, PathState::Silent | PathState::Narrow));
    let state = |from: &Name, to: &Name| view.arriving.get(to).and_then(|arriving| arriving.get(from)).copied();
    let is_shown = |host: &&Name| {
        let differs = |state: Option<PathState>| state.is_some_and(|state| state != PathState::Whole);
        view.arriving.len() <= MOST_HOSTS
            || view.arriving.keys().any(|other| differs(state(host, other)) || differs(state(other, host)))
    };
    let shown: Vec<&Name> = view.arriving.keys().filter(is_shown).collect();
    let head: Vec<&str> = ["FROM"].into_iter().chain(shown.iter().map(|host| host.as_str())).collect();
    let row = |from: &&Name| {
        let cells = shown.iter().map(|to| state(from, to).map_or("", mark_of).to_owned());
        [from.to_string()].into_iter().chain(cells).collect()
    };
    let rows = shown.iter().map(row).collect();
    output::list(session.format, &view, Rows { head: &head, narrow: head.len(), rows });
    output::note("Packets to the host in the column: ✓ all arrive, ~ only small ones, ✗ none, ? unknown");
    if shown.len() < view.arriving.len() {
        output::note(format!(
            "{} hosts whose paths all carry packets are not shown",
            view.arriving.len() - shown.len()
        ));
    }
    Ok(u8::from(is_broken))
}

fn mark_of(state: PathState) -> &'static str {
    match state {
        PathState::Whole => "✓",
        PathState::Narrow => "~",
        PathState::Silent => "✗",
        PathState::Unknown => "?",
    }
}
