//! How many instances, where, with how much, and what follows their end: `deploy` of a service, and
//! the older keys that say the same.

use super::node::Node;
use crate::{
    quantity::{Bytes, MilliCpu},
    spec::{
        Canary, ContainerSpec, CronSpec, EndpointMode, FailureAction, Mode, Overlap, Resources, RestartCondition,
        RestartPolicy, ServiceSpec, UpdateOrder, UpdatePolicy,
    },
};

/// Reads all of it into a spec.
pub(super) fn read(node: &Node<'_>, spec: &mut ServiceSpec) {
    if let Some(cron) = node.get("x-cron") {
        spec.cron = cron_spec(&cron);
        spec.mode = Mode::Job;
    }
    if let Some(priority) = node.get("x-priority").and_then(|n| n.parse()) {
        spec.priority = priority;
    }
    if let Some(scale) = node.get("scale").and_then(|n| n.number()) {
        spec.replicas = scale;
    }
    if let Some(deploy) = node.get("deploy") {
        deployment(&deploy, spec);
    }
    if let Some(sticky) = node.get("x-sticky").filter(|sticky| sticky.boolean() == Some(true)) {
        if spec.endpoint_mode == EndpointMode::Dnsrr {
            sticky.problem("with endpoint_mode dnsrr the caller chooses");
        }
        spec.endpoint_mode = EndpointMode::Sticky;
    }
    spec.update.canary = node.get("x-canary").and_then(|n| canary(&n));
    if spec.mode == Mode::Job && spec.container.restart.condition == RestartCondition::Any {
        // A job that has ended well has ended; a run that failed is followed by the next one.
        let scheduled = spec.cron.is_some();
        spec.container.restart.condition = if scheduled { RestartCondition::None } else { RestartCondition::OnFailure };
    }
}

fn deployment(deploy: &Node<'_>, spec: &mut ServiceSpec) {
    deploy.warn_unknown(&[
        "mode",
        "endpoint_mode",
        "replicas",
        "resources",
        "restart_policy",
        "placement",
        "update_config",
        "rollback_config",
    ]);
    if let Some(mode) = deploy.get("mode") {
        match mode.text().as_deref() {
            None => {}
            Some("replicated") => spec.mode = Mode::Replicated,
            Some("global") => spec.mode = Mode::Global,
            Some("replicated-job") => spec.mode = Mode::Job,
            Some(other) => {
                mode.problem(format!("{other:?} is not supported yet; there are replicated, global and replicated-job"))
            }
        }
    }
    if let Some(mode) = deploy.get("endpoint_mode") {
        match mode.text().as_deref() {
            None | Some("vip") => {}
            Some("dnsrr") => spec.endpoint_mode = EndpointMode::Dnsrr,
            Some(other) => mode.problem(format!("{other:?} is not known; there are vip and dnsrr")),
        }
    }
    if let Some(replicas) = deploy.get("replicas").and_then(|n| n.number()) {
        spec.replicas = replicas;
    }
    if let Some(update) = deploy.get("update_config") {
        spec.update = update_policy(&update);
    }
    if let Some(rollback) = deploy.get("rollback_config") {
        rollback.warn("going back follows update_config");
    }
    if let Some(node) = deploy.get("placement") {
        placement(&node, spec);
    }
}

/// `x-canary: 1`, or a mapping with `instances` and `promote_after`.
fn canary(node: &Node<'_>) -> Option<Canary> {
    if !node.is_mapping() {
        return Some(Canary { instances: node.number()?, promote_after: None });
    }
    node.warn_unknown(&["instances", "promote_after"]);
    let instances = node.get("instances").map_or(Some(1), |n| n.number())?;
    Some(Canary { instances, promote_after: node.get("promote_after").and_then(|n| n.parse()) })
}

/// `x-cron: "*/5 * * * *"`, or a mapping with `schedule`, `timezone`, `overlap` and `catch_up`.
fn cron_spec(node: &Node<'_>) -> Option<CronSpec> {
    if !node.is_mapping() {
        return Some(CronSpec::of(&node.text()?));
    }
    node.warn_unknown(&["schedule", "timezone", "overlap", "catch_up"]);
    let Some(schedule) = node.get("schedule") else {
        node.problem("schedule is missing");
        return None;
    };
    let mut cron = CronSpec::of(&schedule.text()?);
    if let Some(zone) = node.get("timezone").and_then(|n| n.text()) {
        cron.timezone = zone;
    }
    if let Some(overlap) = node.get("overlap") {
        match overlap.text().as_deref() {
            Some("skip") => cron.overlap = Overlap::Skip,
            Some("replace") => cron.overlap = Overlap::Replace,
            other => overlap.problem(format!("{other:?} is not known; there are skip and replace")),
        }
    }
    if let Some(late) = node.get("catch_up").and_then(|n| n.parse()) {
        cron.catch_up = late;
    }
    Some(cron)
}

fn placement(node: &Node<'_>, spec: &mut ServiceSpec) {
    node.warn_unknown(&["constraints", "preferences", "max_replicas_per_node"]);
    for constraint in node.get("constraints").map(|n| n.items()).unwrap_or_default() {
        spec.constraints.extend(constraint.parse());
    }
    for preference in node.get("preferences").map(|n| n.items()).unwrap_or_default() {
        preference.warn_unknown(&["spread", "prefer"]);
        spec.spread.extend(preference.get("spread").and_then(|n| n.text()));
        spec.prefer.extend(preference.get("prefer").and_then(|n| n.parse()));
    }
    // 0 is Swarm's way to say that there is no limit.
    spec.max_per_host = node.get("max_replicas_per_node").and_then(|n| n.number::<u32>()).filter(|most| *most > 0);
}

fn update_policy(node: &Node<'_>) -> UpdatePolicy {
    node.warn_unknown(&["parallelism", "delay", "failure_action", "monitor", "max_failure_ratio", "order"]);
    let mut policy = UpdatePolicy::default();
    if let Some(parallelism) = node.get("parallelism").and_then(|n| n.number()) {
        policy.parallelism = parallelism;
    }
    if let Some(delay) = node.get("delay").and_then(|n| n.parse()) {
        policy.delay = delay;
    }
    if let Some(monitor) = node.get("monitor").and_then(|n| n.parse()) {
        policy.monitor = monitor;
    }
    if let Some(ratio) = node.get("max_failure_ratio")
        && let Some(share) = ratio.parse::<f64>()
    {
        if (0.0..=1.0).contains(&share) {
            policy.max_failures = (share * 1000.0) as u32;
        } else {
            ratio.problem(format!("{share} is not a share from 0 to 1"));
        }
    }
    if let Some(order) = node.get("order") {
        match order.text().as_deref() {
            Some("start-first") => policy.order = Some(UpdateOrder::StartFirst),
            Some("stop-first") => policy.order = Some(UpdateOrder::StopFirst),
            other => order.problem(format!("{other:?} is not an order; there are start-first and stop-first")),
        }
    }
    if let Some(action) = node.get("failure_action") {
        match action.text().as_deref() {
            Some("rollback") => policy.on_failure = FailureAction::Rollback,
            Some("pause") => policy.on_failure = FailureAction::Pause,
            Some("continue") => policy.on_failure = FailureAction::Continue,
            other => action.problem(format!("{other:?} is not an action; there are rollback, pause and continue")),
        }
    }
    policy
}

/// `restart:` of compose and `deploy.restart_policy` of Swarm; the latter wins.
pub(super) fn restart(node: &Node<'_>, policy: &mut RestartPolicy) {
    if let Some(node) = node.get("restart") {
        let Some(text) = node.text() else { return };
        let (word, attempts) = text.split_once(':').map_or((text.as_str(), None), |(word, n)| (word, Some(n)));
        policy.condition =
            match word {
                "no" | "false" => RestartCondition::None,
                "always" | "unless-stopped" => RestartCondition::Any,
                "on-failure" => RestartCondition::OnFailure,
                _ => return node.problem(format!(
                    "{text:?} is not a restart policy; there are no, always, unless-stopped and on-failure[:attempts]"
                )),
            };
        if let Some(attempts) = attempts {
            match attempts.parse() {
                Ok(attempts) => policy.max_attempts = Some(attempts),
                Err(_) => node.problem(format!("{attempts:?} is not a number of attempts")),
            }
        }
    }
    let Some(deploy) = node.get("deploy").and_then(|n| n.get("restart_policy")) else { return };
    deploy.warn_unknown(&["condition", "delay", "max_attempts", "window"]);
    if let Some(node) = deploy.get("condition") {
        match node.text().as_deref() {
            Some("none") => policy.condition = RestartCondition::None,
            Some("on-failure") => policy.condition = RestartCondition::OnFailure,
            Some("any") => policy.condition = RestartCondition::Any,
            other => node.problem(format!("{other:?} is not a condition; there are none, on-failure and any")),
        }
    }
    if let Some(delay) = deploy.get("delay").and_then(|n| n.parse()) {
        policy.delay = delay;
    }
    if let Some(attempts) = deploy.get("max_attempts").and_then(|n| n.number()) {
        policy.max_attempts = Some(attempts);
    }
    if let Some(window) = deploy.get("window").and_then(|n| n.parse()) {
        policy.window = window;
    }
}

fn amounts(node: &Node<'_>) -> Resources {
    let cpu = node.get("cpus").and_then(|n| n.parse::<MilliCpu>()).unwrap_or_default();
    Resources { cpu, memory: node.get("memory").and_then(|n| n.parse::<Bytes>()).unwrap_or_default() }
}

/// Reads how much a container needs and may use.
pub(super) fn resources(node: &Node<'_>, spec: &mut ContainerSpec) {
    if let Some(memory) = node.get("mem_limit").and_then(|n| n.parse()) {
        spec.limits.memory = memory;
    }
    if let Some(cpu) = node.get("cpus").and_then(|n| n.parse()) {
        spec.limits.cpu = cpu;
    }
    if let Some(memory) = node.get("mem_reservation").and_then(|n| n.parse()) {
        spec.reservations.memory = memory;
    }
    let Some(resources) = node.get("deploy").and_then(|n| n.get("resources")) else { return };
    resources.warn_unknown(&["limits", "reservations"]);
    if let Some(limits) = resources.get("limits") {
        limits.warn_unknown(&["cpus", "memory"]);
        spec.limits = amounts(&limits);
    }
    if let Some(reservations) = resources.get("reservations") {
        reservations.warn_unknown(&["cpus", "memory", "devices", "generic_resources"]);
        spec.reservations = amounts(&reservations);
    }
}
