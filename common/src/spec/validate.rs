//! The validator of specs. Deployments, updates and rollbacks all use the same rules.

mod networking;
mod surroundings;

use std::collections::BTreeSet;

use super::{Constraint, ContainerSpec, ServiceSpec, StackSpec, constraint::label_of, template};
use crate::{file::MAX_FILES, name::Name, time::Span};

/// A rule that a spec breaks, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {reason}")]
pub struct Violation {
    /// The place in the spec, such as `services.web.ports[0]`.
    pub path: String,
    /// The problem, and what would be valid.
    pub reason: String,
}

/// The maximum number of services in a stack.
pub const MAX_SERVICES: usize = 500;
/// The maximum number of replicas of a service.
pub const MAX_REPLICAS: u32 = 10_000;
/// The maximum length of any text, in bytes.
pub const MAX_TEXT: usize = 32 << 10;
/// The maximum number of entries in any list or map of a service.
pub const MAX_ENTRIES: usize = 1000;

/// The maximum number of constraints, and of preferences, of a service.
pub const MAX_CONDITIONS: usize = 50;
/// The maximum number of environments that a service may join.
pub const MAX_JOINS: usize = 16;
/// The maximum number of sidekicks, and of steps, of an instance.
pub const MAX_PARTS: usize = 20;

/// The prefix of labels by which agents recognise their own containers.
const OWN_LABELS: &str = "wharf.";

impl StackSpec {
    /// All rules that the spec breaks; empty if it can be deployed.
    pub fn validate(&self) -> Vec<Violation> {
        let mut found = Vec::new();
        if self.services.is_empty() {
            found.push(violation("services", "a stack needs at least one service"));
        }
        if self.services.len() > MAX_SERVICES {
            // What else is wrong takes long to find in so many.
            let reason = format!("there are {} services, and at most {MAX_SERVICES} are allowed", self.services.len());
            return vec![violation("services", reason)];
        }
        for (name, service) in &self.services {
            let mut check = Check { path: format!("services.{name}"), found: &mut found };
            check.service(name, service, self);
        }
        surroundings::volumes(self, &mut found);
        if let Some(cycle) = self.dependency_cycle() {
            found.push(violation(
                &format!("services.{cycle}.depends_on"),
                "it depends on itself through other services",
            ));
        }
        found
    }

    /// A service that depends on itself, directly or through others.
    fn dependency_cycle(&self) -> Option<&Name> {
        // Services whose dependencies are all settled are settled; what never is lies on a cycle.
        let mut open: BTreeSet<&Name> = self.services.keys().collect();
        loop {
            let waits = |name: &&Name| self.services[*name].depends_on.keys().any(|other| open.contains(other));
            let next: BTreeSet<&Name> = open.iter().copied().filter(waits).collect();
            if next.len() == open.len() {
                return open.first().copied();
            }
            open = next;
        }
    }
}

fn violation(path: &str, reason: impl Into<String>) -> Violation {
    Violation { path: path.to_owned(), reason: reason.into() }
}

struct Check<'a> {
    path: String,
    found: &'a mut Vec<Violation>,
}

impl Check<'_> {
    fn refuse(&mut self, field: &str, reason: impl Into<String>) {
        self.found.push(violation(&format!("{}.{field}", self.path), reason));
    }

    fn service(&mut self, name: &Name, service: &ServiceSpec, stack: &StackSpec) {
        if service.replicas > MAX_REPLICAS {
            self.refuse("deploy.replicas", format!("{} replicas exceed the limit of {MAX_REPLICAS}", service.replicas));
        }
        self.container(&service.container, stack);
        self.networking(service);
        self.ports(service);
        self.parts(name, service, stack);
        self.dependencies(name, service, stack);
        self.placement(service, stack);
        self.rollout(service);
        self.schedule(service);
        self.strict_singleton(service);
    }

    fn dependencies(&mut self, name: &Name, service: &ServiceSpec, stack: &StackSpec) {
        for dependency in service.depends_on.keys() {
            if dependency == name {
                self.refuse("depends_on", "a service cannot depend on itself");
            } else if !stack.services.contains_key(dependency) && !service.sidekicks.contains_key(dependency) {
                self.refuse("depends_on", format!("there is no service {dependency} in this stack"));
            }
        }
        if service.joins.len() > MAX_JOINS {
            let reason = format!("it joins {} environments, and at most {MAX_JOINS} are allowed", service.joins.len());
            self.refuse("networks", reason);
        }
    }

    fn placement(&mut self, service: &ServiceSpec, stack: &StackSpec) {
        self.conditions("constraints", &service.constraints, stack);
        self.conditions("preferences", &service.prefer, stack);
        if !(-1000..=1000).contains(&service.priority) {
            self.refuse("x-priority", format!("{} is not between -1000 and 1000", service.priority));
        }
        if service.max_per_host == Some(0) {
            self.refuse("deploy.placement.max_replicas_per_node", "it must be at least 1");
        }
        if service.spread.len() > 8 {
            self.refuse("deploy.placement.preferences", "instances can be spread over at most 8 labels");
        }
        if let Some(key) = service.spread.iter().find(|key| label_of(key).is_none()) {
            self.refuse("deploy.placement.preferences", format!("{:?} is not node.labels.<label>", cut(key)));
        }
    }

    fn rollout(&mut self, service: &ServiceSpec) {
        if let (Some(super::UpdateOrder::StartFirst), Some(reason)) = (service.update.order, service.stops_first()) {
            self.refuse("deploy.update_config.order", format!("start-first is not possible: {reason}"));
        }
        if let Some(canary) = &service.update.canary {
            if canary.instances == 0 || service.mode == super::Mode::Job {
                self.refuse("x-canary", "it needs at least one instance, and a job cannot have a canary");
            }
            if canary.promote_after.is_some_and(|after| after > Span::minutes(7 * 24 * 60)) {
                self.refuse("x-canary.promote_after", "it must be at most 7 days");
            }
        }
        if service.update.max_failures > 1000 {
            self.refuse("deploy.update_config.max_failure_ratio", "it must be between 0 and 1");
        }
        if service.update.monitor > Span::minutes(60) || service.update.delay > Span::minutes(60 * 24) {
            self.refuse("deploy.update_config", "monitor must be at most an hour, and delay at most a day");
        }
    }

    fn schedule(&mut self, service: &ServiceSpec) {
        if let Some(cron) = &service.cron {
            if let Err(reason) = cron.parse() {
                self.refuse("x-cron", reason);
            }
            if service.mode != super::Mode::Job {
                self.refuse("x-cron", "only a job can have a schedule: set deploy.mode to replicated-job");
            }
            if cron.catch_up > Span::minutes(24 * 60) {
                self.refuse("x-cron.catch_up", "it must be at most a day");
            }
        }
    }

    fn strict_singleton(&mut self, service: &ServiceSpec) {
        if service.strict_singleton && (service.mode != super::Mode::Replicated || service.replicas > 1) {
            self.refuse("x-strict-singleton", "it needs a replicated service with at most one replica");
        }
        if service.strict_singleton && service.containers().any(|(_, container)| container.isolation.host_pid) {
            // The kernel ends all processes of a container with its first one only if it has processes of its own.
            self.refuse(
                "pid",
                "a strict singleton cannot use the host's PID namespace, because its processes could outlive its lease",
            );
        }
    }

    fn conditions(&mut self, field: &str, conditions: &[Constraint], stack: &StackSpec) {
        if conditions.len() > MAX_CONDITIONS {
            self.refuse(&format!("deploy.placement.{field}"), format!("there are more than {MAX_CONDITIONS}"));
        }
        let services: Vec<Name> = stack.services.keys().cloned().collect();
        for (index, constraint) in conditions.iter().enumerate() {
            let is_known = constraint.names_only(&services);
            let stranger = (!is_known).then(|| format!("{constraint} names a service that is not in this stack"));
            if let Some(reason) = constraint.violation().or(stranger) {
                self.refuse(&format!("deploy.placement.{field}[{index}]"), reason);
            }
        }
    }

    fn container(&mut self, container: &ContainerSpec, stack: &StackSpec) {
        self.image(&container.image);
        self.texts(container);
        self.mounts(container, stack);
        self.files(container);
        self.health(container);
        self.resources(container);
        self.devices(container);
        self.surroundings(container);
    }

    /// Checks the parts of an instance besides its main container.
    fn parts(&mut self, name: &Name, service: &ServiceSpec, stack: &StackSpec) {
        let count = service.sidekicks.len().max(service.pre_start.len());
        if count > MAX_PARTS {
            return self
                .refuse("sidekicks", format!("there are {count} of a kind, and at most {MAX_PARTS} are allowed"));
        }
        let files = service.files().count();
        if files > MAX_FILES {
            self.refuse("files", format!("an instance has {files} files, and at most {MAX_FILES} are allowed"));
        }
        for (index, step) in service.pre_start.iter().enumerate() {
            let path = format!("{}.pre_start[{index}]", self.path);
            let mut check = Check { path, found: self.found };
            check.container(step, stack);
            if !step.devices.is_empty() {
                check.refuse("devices", "a pre_start step cannot have devices: give them to the main container");
            }
        }
        for (own, sidekick) in &service.sidekicks {
            // In the compose file the sidekick is a service.
            let mut check = Check { path: format!("services.{own}"), found: self.found };
            check.container(&sidekick.container, stack);
            check.shares_network(&sidekick.container, name);
            if stack.services.contains_key(own) {
                check.refuse("x-group", format!("{own} is a sidekick of {name} and cannot be a service as well"));
            }
            let known = |on: &&Name| *on != own && (*on == name || service.sidekicks.contains_key(*on));
            for stranger in sidekick.depends_on.keys().filter(|on| !known(on)) {
                check.refuse("depends_on", format!("{stranger} is neither {name} nor another sidekick of it"));
            }
        }
        if service.start_order(name).is_none() {
            self.refuse("depends_on", "the dependencies between it and its sidekicks form a cycle");
        }
    }

    fn image(&mut self, image: &str) {
        let allowed = |c: char| c.is_ascii_alphanumeric() || "._-/:@".contains(c);
        if image.is_empty() {
            self.refuse("image", "it is missing");
        } else if image.len() > 512
            || !image.chars().all(allowed)
            || !image.starts_with(|c: char| c.is_ascii_alphanumeric())
        {
            self.refuse(
                "image",
                format!("{:?} is not an image reference such as registry.example/shop/web:1.2", cut(image)),
            );
        }
    }

    fn texts(&mut self, container: &ContainerSpec) {
        for (field, map) in [("environment", &container.environment), ("labels", &container.labels)] {
            if map.len() > MAX_ENTRIES {
                self.refuse(field, format!("it has {} entries, and at most {MAX_ENTRIES} are allowed", map.len()));
            }
            for (key, value) in map {
                if key.is_empty() || key.contains(['=', '\0']) {
                    self.refuse(field, format!("{:?} is not a key: it must not be empty or contain '='", cut(key)));
                }
                let place = format!("{field}.{}", cut(key));
                if value.len() > MAX_TEXT || value.contains('\0') {
                    self.refuse(&place, format!("the value is longer than {MAX_TEXT} bytes or contains a NUL"));
                }
                if let Err(reason) = template::without_templates(value) {
                    self.refuse(&place, reason);
                }
            }
        }
        if let Some(label) = container.labels.keys().find(|label| label.starts_with(OWN_LABELS)) {
            self.refuse(
                "labels",
                format!("{:?}: labels that start with {OWN_LABELS:?} are reserved for wharf", cut(label)),
            );
        }
        let lists = [("command", &container.command), ("entrypoint", &container.entrypoint)];
        for (field, words) in lists.iter().filter_map(|(field, words)| words.as_ref().map(|w| (*field, w))) {
            if words.len() > MAX_ENTRIES || words.iter().any(|word| word.len() > MAX_TEXT || word.contains('\0')) {
                self.refuse(
                    field,
                    format!("more than {MAX_ENTRIES} words, or one longer than {MAX_TEXT} bytes or with a NUL"),
                );
            }
        }
        for (field, text) in [("user", &container.user), ("working_dir", &container.working_dir)] {
            if text.as_ref().is_some_and(|t| t.is_empty() || t.len() > 255 || t.contains(['\0', '\n'])) {
                self.refuse(field, "it is empty, longer than 255 bytes or has a line break");
            }
        }
    }

    fn ports(&mut self, service: &ServiceSpec) {
        for (index, port) in service.ports.iter().enumerate() {
            let field = format!("ports[{index}]");
            if port.container == 0 || port.published == Some(0) {
                self.refuse(&field, "0 is not a port: ports are 1 to 65535");
            }
            let twin = |other: &&super::PortSpec| {
                other.published.is_some()
                    && (other.published, other.protocol, other.host_ip) == (port.published, port.protocol, port.host_ip)
            };
            if service.ports[..index].iter().any(|other| twin(&other)) {
                self.refuse(&field, format!("host port {} is published twice", port.published.unwrap_or_default()));
            }
        }
        if service.expose.iter().any(|port| port.container == 0) {
            self.refuse("expose", "0 is not a port: ports are 1 to 65535");
        }
        for (field, count) in [("ports", service.ports.len()), ("expose", service.expose.len())] {
            if count > MAX_ENTRIES {
                self.refuse(field, format!("it has {count} entries, and at most {MAX_ENTRIES} are allowed"));
            }
        }
    }

    fn files(&mut self, container: &ContainerSpec) {
        for (index, file) in container.files.iter().enumerate() {
            let field = format!("{}s.{}", file.kind, file.name);
            let target = &file.target;
            if !clean_absolute(target) || target.ends_with('/') {
                self.refuse(
                    &field,
                    format!("target {:?} is not the absolute path of a file without '..'", cut(target)),
                );
            }
            let is_taken = container.files[..index].iter().any(|other| other.target == *target)
                || container.mounts.iter().any(|mount| mount.target == *target);
            if is_taken {
                self.refuse(&field, format!("another mount or file already uses the path {}", cut(target)));
            }
            if file.mode > 0o777 {
                self.refuse(&field, "mode has more than the nine permission bits");
            }
        }
    }

    fn devices(&mut self, container: &ContainerSpec) {
        for (kind, request) in &container.devices {
            if let Some(reason) = request.violation(kind) {
                self.refuse("devices", reason);
            }
        }
    }

    fn health(&mut self, container: &ContainerSpec) {
        let Some(check) = &container.healthcheck else { return };
        let well_formed = match check.test.split_first() {
            Some((kind, rest)) => match kind.as_str() {
                "NONE" => rest.is_empty(),
                "CMD" => !rest.is_empty(),
                "CMD-SHELL" => rest.len() == 1,
                _ => false,
            },
            None => false,
        };
        if !well_formed {
            self.refuse("healthcheck.test", "it must be [NONE], [CMD, program, …] or [CMD-SHELL, line]");
        }
        let between = [("interval", check.interval), ("timeout", check.timeout)];
        let at_start = check.start_interval.map(|span| ("start_interval", span));
        for (field, span) in between.into_iter().chain(at_start) {
            // Docker's own minimum is a millisecond. More than a day is surely a mistake.
            if span < Span(100) || span > Span::seconds(86_400) {
                self.refuse(&format!("healthcheck.{field}"), format!("{span} is not between 100ms and 24h"));
            }
        }
        if check.retries == 0 || check.retries > 1000 {
            self.refuse("healthcheck.retries", format!("{} is not between 1 and 1000", check.retries));
        }
    }

    fn resources(&mut self, container: &ContainerSpec) {
        let (reserved, limit) = (container.reservations, container.limits);
        if limit.memory.0 != 0 && reserved.memory > limit.memory {
            self.refuse(
                "deploy.resources",
                format!("the reservation of {} memory exceeds the limit of {}", reserved.memory, limit.memory),
            );
        }
        if limit.cpu.0 != 0 && reserved.cpu > limit.cpu {
            self.refuse(
                "deploy.resources",
                format!("the reservation of {} cores exceeds the limit of {}", reserved.cpu, limit.cpu),
            );
        }
        // Docker refuses less, with a message that does not name the container.
        if limit.memory.0 != 0 && limit.memory.0 < 6 << 20 {
            self.refuse(
                "deploy.resources.limits.memory",
                format!("{} is below Docker's minimum of 6 MiB", limit.memory),
            );
        }
        if container.stop_grace > Span::seconds(86_400) {
            self.refuse("stop_grace_period", format!("{} is longer than a day", container.stop_grace));
        }
    }
}

fn clean_absolute(path: &str) -> bool {
    path.starts_with('/')
        && path.len() <= 4096
        && !path.contains(['\0', ':'])
        && !path.split('/').any(|part| part == "..")
}

fn cut(text: &str) -> String {
    text.chars().take(80).collect()
}

#[cfg(test)]
mod tests {
    use crate::{quantity::Bytes, spec::*};

    fn violations(change: impl FnOnce(&mut ServiceSpec)) -> String {
        let mut service = ServiceSpec::of_image("shop/web:1");
        change(&mut service);
        let mut stack = StackSpec::default();
        stack.services.insert("web".parse().expect("a name"), service);
        stack.validate().iter().map(|v| v.to_string()).collect::<Vec<_>>().join("; ")
    }

    #[test]
    fn a_plain_service_is_accepted() {
        assert_eq!(violations(|_| {}), "");
    }

    #[test]
    fn what_cannot_run_is_refused_with_its_place() {
        type Case = (&'static str, fn(&mut ServiceSpec));
        let cases: [Case; 13] = [
            ("services.web.expose", |s| {
                s.expose = [ExposedPort { container: 0, protocol: Protocol::Tcp }].into();
            }),
            ("services.web.image", |s| s.container.image = "--privileged".into()),
            ("services.web.image", |s| s.container.image = "a b".into()),
            ("services.web.deploy.replicas", |s| s.replicas = 1_000_000_000),
            ("services.web.ports[0]", |s| {
                s.ports = vec![PortSpec { container: 0, published: None, protocol: Protocol::Tcp, host_ip: None }]
            }),
            ("services.web.volumes[0]", |s| {
                s.container.mounts = vec![MountSpec::of(MountSource::Bind("/etc/../root".into()), "/x")]
            }),
            ("services.web.volumes[0]", |s| {
                s.container.mounts = vec![MountSpec::of(MountSource::Volume("data".parse().expect("a name")), "/x")]
            }),
            ("services.web.labels", |s| {
                s.container.labels.insert("wharf.instance".into(), "x".into());
            }),
            ("services.web.healthcheck.test", |s| {
                s.container.healthcheck = Some(HealthCheck { retries: 1, ..HealthCheck::of(vec!["curl".into()]) })
            }),
            ("services.web.healthcheck.retries", |s| {
                s.container.healthcheck = Some(HealthCheck { retries: 0, ..HealthCheck::of(vec!["NONE".into()]) })
            }),
            ("services.web.depends_on", |s| {
                s.depends_on.insert("db".parse().expect("a name"), Condition::Started);
            }),
            ("services.web.deploy.placement.constraints[0]", |s| {
                s.constraints = vec!["node.moon == full".parse().expect("a constraint")]
            }),
            ("services.web.deploy.resources.limits.memory", |s| s.container.limits.memory = Bytes(1)),
        ];
        for (path, change) in cases {
            let found = violations(change);
            assert!(found.starts_with(path), "expected {path}, found {found:?}");
        }
    }

    #[test]
    fn circular_dependencies_are_named() {
        let mut stack = StackSpec::default();
        for (name, on) in [("a", "b"), ("b", "c"), ("c", "a"), ("d", "a")] {
            let mut service = ServiceSpec::of_image("x");
            service.depends_on.insert(on.parse().expect("a name"), Condition::Started);
            stack.services.insert(name.parse().expect("a name"), service);
        }
        assert_eq!(stack.validate().len(), 1, "{:?}", stack.validate());
    }
}
