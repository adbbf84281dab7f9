//! What is measured, as Prometheus reads it (OpenMetrics 1.0).

use std::collections::BTreeMap;

use axum::{
    extract::State,
    http::header,
    response::{IntoResponse, Response},
};
use common::{
    api::{DoctorView, PathState},
    error::{Code, Problem},
    name::Name,
};
use coordinator_core::view;
use prometheus_client::{
    encoding::text::encode,
    metrics::{family::Family, gauge::Gauge},
    registry::Registry,
};

use super::{ApiError, extract::Reading};
use crate::Coordinator;

const TEXT: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// With more hosts, only paths that are not whole are told one by one: all those of a thousand hosts are a million.
const MOST_HOSTS: usize = 100;

/// The state of hosts and paths, and what is wrong, for Prometheus.
#[utoipa::path(get, path = "/api/v1/metrics", responses((status = 200, body = String, content_type = TEXT)))]
pub async fn get(State(coordinator): State<Coordinator>, Reading(published): Reading) -> Result<Response, ApiError> {
    let found = coordinator.dispatch.findings().await?;
    let cluster = &published.cluster;
    let states = cluster.hosts().values().map(|host| host.liveness.word());
    let text = exposition(states, &view::doctor(cluster, &found), view::each_path(cluster, &found))
        .map_err(|error| Problem::new(Code::Internal, "The metrics cannot be written").why(error.to_string()))?;
    Ok(([(header::CONTENT_TYPE, TEXT)], text).into_response())
}

type Gauges<const N: usize> = Family<[(&'static str, String); N], Gauge>;

/// By the state of each host, what is wrong, and all paths.
fn exposition<'a>(
    states: impl Iterator<Item = &'static str>,
    doctor: &DoctorView,
    paths: impl Iterator<Item = (&'a Name, &'a Name, PathState)>,
) -> Result<String, std::fmt::Error> {
    let mut registry = Registry::with_prefix("wharf");
    let hosts = Gauges::<1>::default();
    let mut count = 0;
    for state in states {
        count += 1;
        hosts.get_or_create(&[("state", state.to_owned())]).inc();
    }
    registry.register("hosts", "Hosts, by whether their agents are heard", hosts);

    let findings = Gauges::<2>::default();
    for finding in &doctor.findings {
        let kind = finding.finding.as_ref().map_or("absent", |finding| finding.word());
        findings.get_or_create(&[("host", finding.host.to_string()), ("kind", kind.to_owned())]).inc();
    }
    registry.register("findings", "What is wrong, as wharf doctor tells it", findings);

    let (counts, each) = (Gauges::<1>::default(), Gauges::<2>::default());
    let mut by_state: BTreeMap<&str, i64> = PathState::ALL.iter().map(|state| (state.word(), 0)).collect();
    for (to, from, state) in paths {
        *by_state.entry(state.word()).or_default() += 1;
        let is_whole = state == PathState::Whole;
        if state != PathState::Unknown && (count <= MOST_HOSTS || !is_whole) {
            each.get_or_create(&[("from", from.to_string()), ("to", to.to_string())]).set(is_whole.into());
        }
    }
    for (state, count) in by_state {
        counts.get_or_create(&[("state", state.to_owned())]).set(count);
    }
    registry.register("overlay_paths", "Paths of the overlay, by what they carry", counts);
    registry.register("overlay_path_whole", "Whether a path of the overlay carries all that it should", each);
    let mut text = String::new();
    encode(&mut text, &registry)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use common::{api::FindingView, finding::Finding, name::Name, network::Subnet};

    use super::*;

    fn name(number: usize) -> Name {
        Name::parse(&format!("h{number}")).expect("a name")
    }

    fn finding(host: usize, finding: Option<Finding>) -> FindingView {
        FindingView { host: name(host), finding, what: String::new(), why: vec![], fix: vec![] }
    }

    /// The paths between so many hosts; all whole but for one.
    fn paths(hosts: usize, (from, to): (usize, usize), state: PathState) -> Vec<(Name, Name, PathState)> {
        let state = |here, there| if (there, here) == (from, to) { state } else { PathState::Whole };
        let pairs = (1..=hosts).flat_map(|to| (1..=hosts).map(move |from| (to, from))).filter(|(to, from)| to != from);
        pairs.map(|(to, from)| (name(to), name(from), state(to, from))).collect()
    }

    fn told(states: &[&'static str], findings: Vec<FindingView>, paths: &[(Name, Name, PathState)]) -> Vec<String> {
        let doctor = DoctorView { hosts: 0, ready: 0, directions: 0, findings };
        let paths = paths.iter().map(|(to, from, state)| (to, from, *state));
        let text = exposition(states.iter().copied(), &doctor, paths).expect("text");
        assert!(text.ends_with("# EOF\n"), "{text}");
        let mut lines: Vec<String> = text.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect();
        lines.sort();
        lines
    }

    #[test]
    fn hosts_findings_and_paths_are_told() {
        let peer = Subnet::of([10, 42, 1, 0].into());
        let findings = vec![finding(2, Some(Finding::Unheard { peer, answers: true })), finding(3, None)];
        assert_eq!(
            told(&["ready", "down", "ready"], findings, &paths(2, (1, 2), PathState::Silent)),
            [
                r#"wharf_findings{host="h2",kind="unheard"} 1"#,
                r#"wharf_findings{host="h3",kind="absent"} 1"#,
                r#"wharf_hosts{state="down"} 1"#,
                r#"wharf_hosts{state="ready"} 2"#,
                r#"wharf_overlay_path_whole{from="h1",to="h2"} 0"#,
                r#"wharf_overlay_path_whole{from="h2",to="h1"} 1"#,
                r#"wharf_overlay_paths{state="narrow"} 0"#,
                r#"wharf_overlay_paths{state="silent"} 1"#,
                r#"wharf_overlay_paths{state="unknown"} 0"#,
                r#"wharf_overlay_paths{state="whole"} 1"#,
            ]
        );
    }

    #[test]
    fn of_many_hosts_only_paths_that_are_not_whole_are_told_one_by_one() {
        let told = told(&["ready"; 120], vec![], &paths(120, (7, 9), PathState::Narrow));
        let each: Vec<&String> = told.iter().filter(|line| line.starts_with("wharf_overlay_path_whole")).collect();
        assert_eq!(each, [r#"wharf_overlay_path_whole{from="h7",to="h9"} 0"#]);
        assert!(told.contains(&r#"wharf_overlay_paths{state="whole"} 14279"#.to_owned()), "{told:?}");
    }
}
