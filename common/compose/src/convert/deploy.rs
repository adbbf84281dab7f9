//! Number, placement, resources and restarts of a service: its `deploy` key, and the older keys with the same meaning.

use common::{
    quantity::{Bytes, MilliCpu},
    spec::{
        Canary, ContainerSpec, CronSpec, EndpointMode, FailureAction, Mode, Overlap, Resources, RestartCondition,
        RestartPolicy, ServiceSpec, UpdateOrder, UpdatePolicy,
    },
};

use crate::field::{Field, cut};

const MODES: [(&str, Mode); 3] =
    [("replicated", Mode::Replicated), ("global", Mode::Global), ("replicated-job", Mode::Job)];
const ENDPOINTS: [(&str, EndpointMode); 2] = [("vip", EndpointMode::Vip), ("dnsrr", EndpointMode::Dnsrr)];
const OVERLAPS: [(&str, Overlap); 2] = [("skip", Overlap::Skip), ("replace", Overlap::Replace)];
const ORDERS: [(&str, UpdateOrder); 2] =
    [("start-first", UpdateOrder::StartFirst), ("stop-first", UpdateOrder::StopFirst)];
const ACTIONS: [(&str, FailureAction); 3] =
    [("rollback", FailureAction::Rollback), ("pause", FailureAction::Pause), ("continue", FailureAction::Continue)];
const CONDITIONS: [(&str, RestartCondition); 3] =
    [("none", RestartCondition::None), ("on-failure", RestartCondition::OnFailure), ("any", RestartCondition::Any)];

/// Reads these settings into the spec.
pub(super) fn read(service: &Field<'_>, spec: &mut ServiceSpec) {
    if let Some(cron) = service.get("x-cron") {
        spec.cron = cron_spec(&cron);
        spec.mode = Mode::Job;
    }
    if let Some(priority) = service.number_of("x-priority") {
        spec.priority = priority;
    }
    let scale = service.number_of("scale");
    if let Some(scale) = scale {
        spec.replicas = scale;
    }
    if let Some(deploy) = service.get("deploy") {
        deployment(&deploy, spec);
    }
    if let (Some(scale), Some(replicas)) = (scale, service.along(&["deploy", "replicas"]))
        && scale != spec.replicas
    {
        replicas.problem(format!("it contradicts scale, which is {scale}: remove one of them"));
    }
    if let Some(sticky) = service.get("x-sticky").filter(|sticky| sticky.boolean() == Some(true)) {
        if spec.endpoint_mode == EndpointMode::Dnsrr {
            sticky.problem("it has no effect with endpoint_mode dnsrr, where clients choose the instance");
        }
        spec.endpoint_mode = EndpointMode::Sticky;
    }
    spec.update.canary = service.get("x-canary").and_then(|canary| canary_of(&canary));
    if spec.mode == Mode::Job && spec.container.restart.condition == RestartCondition::Any {
        // A job that has ended well is not restarted, and a failed scheduled run is followed by the next one.
        let scheduled = spec.cron.is_some();
        spec.container.restart.condition = if scheduled { RestartCondition::None } else { RestartCondition::OnFailure };
    }
}

fn deployment(deploy: &Field<'_>, spec: &mut ServiceSpec) {
    if let Some(mode) = deploy.get("mode").and_then(|mode| mode.word(&MODES)) {
        spec.mode = mode;
    }
    if let Some(mode) = deploy.get("endpoint_mode").and_then(|mode| mode.word(&ENDPOINTS)) {
        spec.endpoint_mode = mode;
    }
    if let Some(replicas) = deploy.number_of("replicas") {
        spec.replicas = replicas;
    }
    if let Some(update) = deploy.get("update_config") {
        spec.update = update_policy(&update);
    }
    if let Some(node) = deploy.get("placement") {
        placement(&node, spec);
    }
}

/// Reads `x-canary: 1`, or a mapping with `instances` and `promote_after`.
fn canary_of(field: &Field<'_>) -> Option<Canary> {
    if !field.is_mapping() {
        return Some(Canary { instances: field.number()?, promote_after: None });
    }
    only(field, &["instances", "promote_after"]);
    let instances = field.get("instances").map_or(Some(1), |count| count.number())?;
    Some(Canary { instances, promote_after: field.parse_of("promote_after") })
}

/// Reads `x-cron: "*/5 * * * *"`, or a mapping with `schedule`, `timezone`, `overlap` and `catch_up`.
fn cron_spec(field: &Field<'_>) -> Option<CronSpec> {
    if !field.is_mapping() {
        return Some(CronSpec::of(&field.text()?));
    }
    only(field, &["schedule", "timezone", "overlap", "catch_up"]);
    let Some(schedule) = field.get("schedule") else {
        field.problem("schedule is missing");
        return None;
    };
    let mut cron = CronSpec::of(&schedule.text()?);
    if let Some(zone) = field.text_of("timezone") {
        cron.timezone = zone;
    }
    if let Some(overlap) = field.get("overlap").and_then(|overlap| overlap.word(&OVERLAPS)) {
        cron.overlap = overlap;
    }
    if let Some(late) = field.parse_of("catch_up") {
        cron.catch_up = late;
    }
    Some(cron)
}

/// Refuses other keys in a mapping of wharf's own.
fn only(field: &Field<'_>, keys: &[&str]) {
    for (key, value) in field.entries() {
        if !keys.contains(&key) {
            value.problem(format!("this key does not exist; the keys are {}", keys.join(", ")));
        }
    }
}

fn placement(field: &Field<'_>, spec: &mut ServiceSpec) {
    for constraint in field.items_of("constraints") {
        spec.constraints.extend(constraint.parse());
    }
    for preference in field.items_of("preferences") {
        spec.spread.extend(preference.text_of("spread"));
        spec.prefer.extend(preference.parse_of("prefer"));
    }
    // In Swarm, 0 means no limit.
    spec.max_per_host = field.number_of("max_replicas_per_node").filter(|most| *most > 0);
}

fn update_policy(field: &Field<'_>) -> UpdatePolicy {
    let mut policy = UpdatePolicy::default();
    if let Some(parallelism) = field.number_of("parallelism") {
        policy.parallelism = parallelism;
    }
    if let Some(delay) = field.parse_of("delay") {
        policy.delay = delay;
    }
    if let Some(monitor) = field.parse_of("monitor") {
        policy.monitor = monitor;
    }
    if let Some(ratio) = field.get("max_failure_ratio")
        && let Some(share) = ratio.parse::<f64>()
    {
        if (0.0..=1.0).contains(&share) {
            policy.max_failures = (share * 1000.0) as u32;
        } else {
            ratio.problem(format!("{share} is not between 0 and 1"));
        }
    }
    if let Some(order) = field.get("order").and_then(|order| order.word(&ORDERS)) {
        policy.order = Some(order);
    }
    if let Some(action) = field.get("failure_action").and_then(|action| action.word(&ACTIONS)) {
        policy.on_failure = action;
    }
    policy
}

/// Reads compose's `restart:` and Swarm's `deploy.restart_policy`; the latter takes precedence.
pub(super) fn restart(service: &Field<'_>, policy: &mut RestartPolicy) {
    if let Some(field) = service.get("restart") {
        simple(&field, policy);
    }
    let Some(deploy) = service.along(&["deploy", "restart_policy"]) else { return };
    if let Some(condition) = deploy.get("condition").and_then(|condition| condition.word(&CONDITIONS)) {
        policy.condition = condition;
    }
    if let Some(delay) = deploy.parse_of("delay") {
        policy.delay = delay;
    }
    if let Some(attempts) = deploy.number_of("max_attempts") {
        policy.max_attempts = Some(attempts);
    }
    if let Some(window) = deploy.parse_of("window") {
        policy.window = window;
    }
}

fn simple(field: &Field<'_>, policy: &mut RestartPolicy) {
    let Some(text) = field.text() else { return };
    let (word, attempts) = text.split_once(':').map_or((text.as_str(), None), |(word, n)| (word, Some(n)));
    policy.condition = match word {
        "no" | "false" => RestartCondition::None,
        "always" | "unless-stopped" => RestartCondition::Any,
        "on-failure" => RestartCondition::OnFailure,
        _ => {
            return field.problem(format!(
                "{:?} is not a restart policy: use no, always, unless-stopped or on-failure[:attempts]",
                cut(&text)
            ));
        }
    };
    if let Some(attempts) = attempts {
        match attempts.parse() {
            Ok(attempts) => policy.max_attempts = Some(attempts),
            Err(_) => field.problem(format!("{:?} is not a number of attempts", cut(attempts))),
        }
    }
}

fn amounts(field: &Field<'_>) -> Resources {
    let cpu = field.parse_of::<MilliCpu>("cpus").unwrap_or_default();
    Resources { cpu, memory: field.parse_of::<Bytes>("memory").unwrap_or_default() }
}

/// The limits that both a service and its `deploy.resources` can set.
const TWICE: [(&str, [&str; 2]); 4] = [
    ("mem_limit", ["limits", "memory"]),
    ("cpus", ["limits", "cpus"]),
    ("pids_limit", ["limits", "pids"]),
    ("mem_reservation", ["reservations", "memory"]),
];

/// Refuses two different amounts for the same limit, as compose does.
fn contradictions(service: &Field<'_>) {
    for (key, [kind, of]) in TWICE {
        let (Some(own), Some(deploy)) = (service.get(key), service.along(&["deploy", "resources", kind, of])) else {
            continue;
        };
        let amount = |field: &Field<'_>| {
            let text = field.node.as_text().unwrap_or_default();
            let bytes = || text.parse::<Bytes>().ok().map(|bytes| bytes.0);
            if of == "cpus" { text.parse::<MilliCpu>().ok().map(|cpu| cpu.0) } else { bytes() }
        };
        if amount(&own) != amount(&deploy) {
            own.problem(format!("it contradicts deploy.resources.{kind}.{of}: remove one of them"));
        }
    }
}

/// Reads the reservations and limits of a container.
pub(super) fn resources(service: &Field<'_>, spec: &mut ContainerSpec) {
    contradictions(service);
    if let Some(memory) = service.parse_of("mem_limit") {
        spec.limits.memory = memory;
    }
    if let Some(cpu) = service.parse_of("cpus") {
        spec.limits.cpu = cpu;
    }
    if let Some(memory) = service.parse_of("mem_reservation") {
        spec.reservations.memory = memory;
    }
    let Some(resources) = service.along(&["deploy", "resources"]) else { return };
    if let Some(limits) = resources.get("limits") {
        spec.limits = over(spec.limits, amounts(&limits));
    }
    if let Some(reservations) = resources.get("reservations") {
        spec.reservations = over(spec.reservations, amounts(&reservations));
    }
}

/// The amounts of `by`, where they are set, else those of `was`.
fn over(was: Resources, by: Resources) -> Resources {
    Resources {
        cpu: if by.cpu.0 == 0 { was.cpu } else { by.cpu },
        memory: if by.memory.0 == 0 { was.memory } else { by.memory },
    }
}
