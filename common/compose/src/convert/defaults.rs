//! Where wharf does something else than compose or Swarm when a file says nothing.

use common::{
    name::Name,
    spec::{Mode, ServiceSpec},
};

use crate::{field::Field, place::Place};

/// Something that a file leaves open and that is not what compose or Swarm would do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DifferentDefault {
    /// The service.
    pub service: Name,
    /// Where the service was written.
    pub place: Place,
    /// The key that would say it.
    pub key: &'static str,
    /// What wharf does.
    pub here: &'static str,
    /// What compose does, if it is something else.
    pub compose: Option<&'static str>,
    /// What Swarm does, if it is something else.
    pub swarm: Option<&'static str>,
}

/// A line for each default, with the services that leave it open.
pub fn default_lines(defaults: &[DifferentDefault]) -> Vec<String> {
    let mut by_default: Vec<(&DifferentDefault, Vec<&Name>)> = Vec::new();
    for default in defaults {
        let same = |(other, _): &&mut (&DifferentDefault, _)| (other.key, other.here) == (default.key, default.here);
        match by_default.iter_mut().find(same) {
            Some((_, services)) => services.push(&default.service),
            None => by_default.push((default, vec![&default.service])),
        }
    }
    let line = |(default, services): &(&DifferentDefault, Vec<&Name>)| {
        let others = match (default.compose, default.swarm) {
            (Some(compose), Some(swarm)) if compose == swarm => format!("compose and Swarm: {compose}"),
            (compose, swarm) => {
                let named = [("compose", compose), ("Swarm", swarm)].into_iter();
                named.filter_map(|(name, does)| Some(format!("{name}: {}", does?))).collect::<Vec<_>>().join("; ")
            }
        };
        let services = common::explain::list(services);
        format!("{} of {services}: {} where nothing else is said ({others})", default.key, default.here)
    };
    by_default.iter().map(line).collect()
}

/// A default, and when it matters: a path that is absent although something else is there.
struct Rule {
    key: &'static str,
    matters: fn(&Field<'_>, &ServiceSpec) -> bool,
    here: &'static str,
    compose: Option<&'static str>,
    swarm: Option<&'static str>,
}

const RULES: [Rule; 8] = [
    Rule {
        key: "restart",
        matters: |service, spec| {
            spec.mode != Mode::Job
                && service.get("restart").is_none()
                && !has(service, &["deploy", "restart_policy", "condition"])
        },
        here: "started again whenever it ends",
        compose: Some("not started again"),
        swarm: None,
    },
    Rule {
        key: "deploy.restart_policy.delay",
        matters: |service, spec| {
            spec.mode != Mode::Job
                && has(service, &["deploy", "restart_policy"])
                && !has(service, &["deploy", "restart_policy", "delay"])
        },
        here: "1s, doubled each time up to a minute",
        compose: None,
        swarm: Some("5s each time"),
    },
    Rule {
        key: "deploy.update_config.order",
        matters: |service, spec| {
            spec.mode != Mode::Job
                && spec.stops_first().is_none()
                && !has(service, &["deploy", "update_config", "order"])
        },
        here: "start-first",
        compose: Some("stop-first"),
        swarm: Some("stop-first"),
    },
    Rule {
        key: "deploy.update_config.failure_action",
        matters: |service, _| {
            has(service, &["deploy", "update_config"]) && !has(service, &["deploy", "update_config", "failure_action"])
        },
        here: "rollback",
        compose: Some("pause"),
        swarm: Some("pause"),
    },
    Rule {
        key: "healthcheck.interval",
        matters: |service, _| has(service, &["healthcheck", "test"]) && !has(service, &["healthcheck", "interval"]),
        here: "10s",
        compose: Some("30s"),
        swarm: Some("30s"),
    },
    Rule {
        key: "healthcheck.timeout",
        matters: |service, _| has(service, &["healthcheck", "test"]) && !has(service, &["healthcheck", "timeout"]),
        here: "5s",
        compose: Some("30s"),
        swarm: Some("30s"),
    },
    Rule {
        key: "logging",
        matters: |service, _| !has(service, &["logging"]),
        here: "three files of 10 MiB are kept",
        compose: Some("all of it is kept"),
        swarm: Some("all of it is kept"),
    },
    Rule {
        key: "ports",
        matters: |service, spec| {
            !spec.ports.is_empty()
                && service
                    .items_of("ports")
                    .iter()
                    .any(|port| port.get("mode").and_then(|mode| mode.text()).as_deref() != Some("host"))
        },
        here: "open on the hosts that run an instance",
        compose: None,
        swarm: Some("open on every host"),
    },
];

fn has(service: &Field<'_>, path: &[&str]) -> bool {
    service.along(path).is_some()
}

/// The rules as rows of a table.
pub(crate) fn rows() -> String {
    let row = |rule: &Rule| {
        let same = "the same";
        let (compose, swarm) = (rule.compose.unwrap_or(same), rule.swarm.unwrap_or(same));
        format!("| `{}` | {} | {compose} | {swarm} |\n", rule.key, rule.here)
    };
    let rows: String = RULES.iter().map(row).collect();
    format!("| key | wharf | compose | Swarm |\n|---|---|---|---|\n{rows}")
}

/// Adds what a service leaves open.
pub(super) fn of_service(name: &Name, service: &Field<'_>, spec: &ServiceSpec, found: &mut Vec<DifferentDefault>) {
    for rule in RULES.iter().filter(|rule| (rule.matters)(service, spec)) {
        found.push(DifferentDefault {
            service: name.clone(),
            place: service.place().clone(),
            key: rule.key,
            here: rule.here,
            compose: rule.compose,
            swarm: rule.swarm,
        });
    }
}
