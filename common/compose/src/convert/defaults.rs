//! The defaults of wharf that differ from those of compose or Swarm.

use common::{
    name::Name,
    spec::{Mode, ServiceSpec},
};

use crate::{field::Field, place::Place};

/// A setting that a file omits and for which wharf has another default than compose or Swarm.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DifferentDefault {
    /// The service that omits it.
    pub service: Name,
    /// The place of the service in the file.
    pub place: Place,
    /// The key of the setting.
    pub key: &'static str,
    /// wharf's default.
    pub here: &'static str,
    /// The default of compose, if it differs.
    pub compose: Option<&'static str>,
    /// The default of Swarm, if it differs.
    pub swarm: Option<&'static str>,
}

/// One line per default, with the services that omit the setting.
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
        format!("{} of {services}: by default {} ({others})", default.key, default.here)
    };
    by_default.iter().map(line).collect()
}

/// A default and its condition: the key at the path is absent although another key is present.
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
        here: "restarted whenever it ends",
        compose: Some("not restarted"),
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
        here: "at most three files of 10 MiB",
        compose: Some("unlimited"),
        swarm: Some("unlimited"),
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

/// The rules as rows of a Markdown table.
pub(crate) fn rows() -> String {
    let row = |rule: &Rule| {
        let same = "the same";
        let (compose, swarm) = (rule.compose.unwrap_or(same), rule.swarm.unwrap_or(same));
        format!("| `{}` | {} | {compose} | {swarm} |\n", rule.key, rule.here)
    };
    let rows: String = RULES.iter().map(row).collect();
    format!("| key | wharf | compose | Swarm |\n|---|---|---|---|\n{rows}")
}

/// Adds the defaults that apply to a service.
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
