//! Reads the container settings of a service.

use std::collections::BTreeMap;

use common::spec::{ContainerSpec, HealthCheck, HostEntry, LogSpec, PullPolicy, ResolverSpec};

use super::{Context, Declared, deploy, devices, environment, files, isolation, mounts, tuning};
use crate::field::Field;

/// Reads the spec of the main container.
pub(super) fn container(service: &Field<'_>, context: &Context<'_>, declared: &Declared) -> Option<ContainerSpec> {
    let Some(image) = service.get("image") else {
        // A service with `build` is already refused for that reason.
        if service.get("build").is_none() {
            service.problem("image is missing");
        }
        return None;
    };
    let mut spec = ContainerSpec::of_image(&image.text()?);
    spec.pull = service.get("pull_policy").and_then(|policy| pull_policy(&policy)).unwrap_or_default();
    spec.command = words(service, "command");
    spec.entrypoint = words(service, "entrypoint");
    spec.user = service.text_of("user");
    spec.working_dir = service.text_of("working_dir");
    spec.environment = environment::of_service(service, context);
    spec.labels = environment::labels(service, context);
    spec.annotations = environment::texts(service, "annotations");
    spec.mounts = mounts::mounts(service, context);
    spec.tmpfs = mounts::tmpfs(service);
    spec.files = files::of_service(service, &declared.files);
    spec.healthcheck = service.get("healthcheck").and_then(|check| health(&check));
    if let Some(grace) = service.parse_of("stop_grace_period") {
        spec.stop_grace = grace;
    }
    spec.stop_signal = service.text_of("stop_signal");
    spec.log = service.get("logging").map(|logging| log(&logging)).unwrap_or_default();
    names(service, &mut spec);
    spec.init = service.get("init").and_then(|init| init.boolean());
    spec.tty = service.is("tty");
    spec.stdin_open = service.is("stdin_open");
    spec.read_only = service.is("read_only");
    spec.platform = service.text_of("platform");
    spec.runtime = service.text_of("runtime");
    spec.isolation = isolation::isolation(service, context);
    spec.tuning = tuning::tuning(service);
    deploy::restart(service, &mut spec.restart);
    deploy::resources(service, &mut spec);
    spec.devices = devices::devices(service);
    Some(spec)
}

/// What the container is called and whom it asks for names.
fn names(service: &Field<'_>, spec: &mut ContainerSpec) {
    spec.hostname = service.text_of("hostname");
    spec.domainname = service.text_of("domainname");
    spec.resolver = ResolverSpec {
        servers: service.items_of("dns").iter().filter_map(Field::parse).collect(),
        search: service.texts_of("dns_search"),
        options: service.texts_of("dns_opt"),
    };
    spec.extra_hosts = hosts(service);
}

/// Reads `pre_start`: each step is the main container but for what it says.
pub(super) fn steps(service: &Field<'_>, context: &Context<'_>, main: &ContainerSpec) -> Vec<ContainerSpec> {
    let step = |step: Field<'_>| {
        if !step.is("per_replica") {
            step.problem(
                "a step that runs once for all instances is not supported: make it a service with deploy.mode \
                 replicated-job and let this one depend on it (service_completed_successfully), or set per_replica: true",
            );
        }
        let (healthcheck, devices) = (Some(HealthCheck::none()), BTreeMap::new());
        let mut spec = ContainerSpec { healthcheck, devices, ..main.clone() };
        if let Some(image) = step.text_of("image") {
            (spec.image, spec.entrypoint) = (image, None);
        }
        spec.command = words(&step, "command");
        if let Some(user) = step.text_of("user") {
            spec.user = Some(user);
        }
        if let Some(directory) = step.text_of("working_dir") {
            spec.working_dir = Some(directory);
        }
        spec.environment.extend(environment::of_service(&step, context));
        spec
    };
    service.items_of("pre_start").into_iter().map(step).collect()
}

fn pull_policy(policy: &Field<'_>) -> Option<PullPolicy> {
    policy.word(&[
        ("always", PullPolicy::Always),
        ("missing", PullPolicy::Missing),
        ("never", PullPolicy::Never),
        ("if_not_present", PullPolicy::Missing),
    ])
}

fn words(service: &Field<'_>, key: &str) -> Option<Vec<String>> {
    service.get(key).map(|command| command.items().iter().filter_map(Field::text).collect())
}

fn hosts(service: &Field<'_>) -> Vec<HostEntry> {
    let mut found = Vec::new();
    for (host, addresses) in service.entries_of("extra_hosts") {
        for address in addresses.items() {
            found.extend(address.parse().map(|address| HostEntry { name: host.to_owned(), address }));
        }
    }
    found
}

fn health(check: &Field<'_>) -> Option<HealthCheck> {
    if check.is("disable") {
        return Some(HealthCheck::none());
    }
    let Some(test) = check.get("test") else {
        check.problem("test is missing");
        return None;
    };
    let mut spec = HealthCheck::of(test.items().iter().filter_map(Field::text).collect());
    if let Some(interval) = check.parse_of("interval") {
        spec.interval = interval;
    }
    if let Some(timeout) = check.parse_of("timeout") {
        spec.timeout = timeout;
    }
    if let Some(retries) = check.number_of("retries") {
        spec.retries = retries;
    }
    if let Some(start_period) = check.parse_of("start_period") {
        spec.start_period = start_period;
    }
    spec.start_interval = check.parse_of("start_interval");
    Some(spec)
}

fn log(logging: &Field<'_>) -> LogSpec {
    LogSpec { driver: logging.text_of("driver"), options: environment::texts(logging, "options") }
}
