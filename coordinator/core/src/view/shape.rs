//! A service's spec as a list of facts, of which any two can be compared.
//!
//! The specs are taken apart without `..`: a new field does not compile until it is here.

mod surroundings;

use std::collections::BTreeMap;

use common::{
    api::{Aspect, Change, Difference},
    file::{FileKind, FileSpec},
    part::Part,
    spec::{
        Canary, Condition, ContainerSpec, CronSpec, EndpointMode, FailureAction, Mode, PortSpec, PullPolicy,
        RestartCondition, RestartPolicy, ServiceSpec, Sidekick, UpdateOrder, UpdatePolicy,
    },
};

/// What a fact is about: the container, the aspect, and which one of those that there are several of.
type Key = (Part, Aspect, Option<String>);

/// What is so: all of it, to compare, and what of it may be shown.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Value {
    whole: String,
    shown: Option<String>,
}

/// The facts of a spec.
#[derive(Default)]
pub(super) struct Shape(BTreeMap<Key, Value>);

/// How one shape becomes the other.
pub(super) fn differences(before: &Shape, after: &Shape) -> Vec<Difference> {
    let difference = |key: &Key, change, old: Option<&Value>, new: Option<&Value>| Difference {
        part: key.0.clone(),
        aspect: key.1,
        name: key.2.clone(),
        change,
        before: old.and_then(|value| value.shown.clone()),
        after: new.and_then(|value| value.shown.clone()),
    };
    let gone = before.0.iter().filter(|(key, _)| !after.0.contains_key(*key));
    let gone = gone.map(|(key, old)| difference(key, Change::Removed, Some(old), None));
    let come = after.0.iter().filter_map(|(key, new)| match before.0.get(key) {
        None => Some(difference(key, Change::Added, None, Some(new))),
        Some(old) if old.whole != new.whole => Some(difference(key, Change::Changed, Some(old), Some(new))),
        Some(_) => None,
    });
    let mut all: Vec<Difference> = gone.chain(come).collect();
    all.sort_by(|a, b| (&a.part, a.aspect, &a.name).cmp(&(&b.part, b.aspect, &b.name)));
    all
}

impl Shape {
    pub(super) fn of(spec: &ServiceSpec) -> Shape {
        let mut shape = Shape::default();
        shape.service(spec);
        for (part, container) in spec.containers() {
            if part != Part::Main {
                shape.named(&part, Aspect::Container, None, "");
            }
            shape.container(&part, container);
        }
        shape
    }

    /// A fact of which everything may be seen.
    fn named(&mut self, part: &Part, aspect: Aspect, name: Option<&str>, value: impl ToString) {
        let text = value.to_string();
        let value = Value { whole: text.clone(), shown: Some(text).filter(|text| !text.is_empty()) };
        self.0.insert((part.clone(), aspect, name.map(str::to_owned)), value);
    }

    /// The same of the main container, if it is not as it is by default.
    fn unless_default<T: PartialEq>(&mut self, aspect: Aspect, value: &T, default: &T, text: impl Fn(&T) -> String) {
        if value != default {
            self.named(&Part::Main, aspect, None, text(value));
        }
    }

    /// A fact that may hold a password: it is compared and not shown.
    fn hidden(&mut self, part: &Part, aspect: Aspect, name: Option<&str>, value: &impl std::fmt::Debug) {
        let value = Value { whole: format!("{value:?}"), shown: None };
        self.0.insert((part.clone(), aspect, name.map(str::to_owned)), value);
    }

    fn service(&mut self, spec: &ServiceSpec) {
        let ServiceSpec {
            // Their containers are looked at one by one.
            container: _,
            pre_start: _,
            sidekicks,
            ports,
            expose,
            mode,
            cron,
            replicas,
            constraints,
            prefer,
            spread,
            priority,
            max_per_host,
            strict_singleton,
            update,
            depends_on,
            endpoint_mode,
            joins,
            network_mode,
            networks,
            volumes,
        } = spec;
        let main = &Part::Main;
        for port in ports {
            let (name, place) = port_texts(port);
            self.named(main, Aspect::Port, Some(&name), place);
        }
        for port in expose {
            let name = format!("{}/{}", port.container, port.protocol);
            self.named(main, Aspect::ExposedPort, Some(&name), "");
        }
        self.named(main, Aspect::Mode, None, mode_word(*mode));
        self.named(main, Aspect::Replicas, None, replicas);
        if let Some(cron) = cron {
            let CronSpec { schedule, timezone, overlap, catch_up } = cron;
            let overlap = format!("{overlap:?}").to_lowercase();
            let text = format!("{schedule:?} {timezone}, overlap {overlap}, catch_up {catch_up}");
            self.named(main, Aspect::Schedule, None, text);
        }
        for (aspect, conditions) in [(Aspect::Constraint, constraints), (Aspect::Preference, prefer)] {
            conditions.iter().for_each(|condition| self.named(main, aspect, Some(&condition.to_string()), ""));
        }
        self.unless_default(Aspect::Spread, spread, &Vec::new(), |spread| spread.join(", "));
        self.unless_default(Aspect::Priority, priority, &0, i32::to_string);
        self.unless_default(Aspect::MaxPerHost, max_per_host, &None, |most| {
            most.map_or_else(String::new, |most| most.to_string())
        });
        self.unless_default(Aspect::StrictSingleton, strict_singleton, &false, |_| String::new());
        self.unless_default(Aspect::EndpointMode, endpoint_mode, &EndpointMode::default(), |mode| {
            endpoint_word(*mode).to_owned()
        });
        joins.iter().for_each(|name| self.named(main, Aspect::JoinedEnvironment, Some(name.as_str()), ""));
        surroundings::service(self, *network_mode, networks, volumes);
        self.update(update);
        for (name, condition) in depends_on {
            self.named(main, Aspect::Dependency, Some(name.as_str()), reached(*condition));
        }
        for (name, Sidekick { container: _, depends_on }) in sidekicks {
            for (on, condition) in depends_on {
                self.named(&Part::Sidekick(name.clone()), Aspect::Dependency, Some(on.as_str()), reached(*condition));
            }
        }
    }

    fn update(&mut self, policy: &UpdatePolicy) {
        let default = UpdatePolicy::default();
        let mut say = |name: &str, differs: bool, text: String| {
            if differs {
                self.named(&Part::Main, Aspect::UpdatePolicy, Some(name), text);
            }
        };
        let UpdatePolicy { order, parallelism, monitor, delay, deadline, max_failures, on_failure, canary } = policy;
        say("order", *order != default.order, order.map_or_else(String::new, |order| order_word(order).to_owned()));
        say("parallelism", *parallelism != default.parallelism, parallelism.to_string());
        say("monitor", *monitor != default.monitor, monitor.to_string());
        say("delay", *delay != default.delay, delay.to_string());
        say("deadline", *deadline != default.deadline, deadline.to_string());
        say(
            "max_failure_ratio",
            *max_failures != default.max_failures,
            format!("{}", f64::from(*max_failures) / 1000.0),
        );
        say("failure_action", *on_failure != default.on_failure, failure_word(*on_failure).to_owned());
        if let Some(Canary { instances, promote_after }) = canary {
            let after = promote_after.map_or_else(String::new, |after| format!(", promoted after {after}"));
            say("canary", true, format!("{instances}{after}"));
        }
    }

    /// What people may keep passwords in is hidden: variables, commands, labels.
    fn container(&mut self, part: &Part, spec: &ContainerSpec) {
        let ContainerSpec {
            image,
            pull,
            command,
            entrypoint,
            user,
            working_dir,
            environment,
            labels,
            mounts,
            files,
            healthcheck,
            restart,
            stop_grace,
            reservations,
            limits,
            devices,
            // What else there is has a place of its own.
            log: _,
            hostname: _,
            domainname: _,
            resolver: _,
            extra_hosts: _,
            init: _,
            tty: _,
            stdin_open: _,
            stop_signal: _,
            read_only: _,
            tmpfs: _,
            annotations: _,
            platform: _,
            runtime: _,
            isolation: _,
            tuning: _,
        } = spec;
        surroundings::container(self, part, spec);
        let default = ContainerSpec::of_image("");
        self.named(part, Aspect::Image, None, image);
        environment.iter().for_each(|(name, value)| self.hidden(part, Aspect::Variable, Some(name), value));
        labels.iter().for_each(|(name, value)| self.hidden(part, Aspect::Label, Some(name), value));
        for (aspect, value) in [(Aspect::Command, command), (Aspect::Entrypoint, entrypoint)] {
            if let Some(value) = value {
                self.hidden(part, aspect, None, value);
            }
        }
        if let Some(check) = healthcheck {
            self.hidden(part, Aspect::HealthCheck, None, check);
        }
        mounts
            .iter()
            .for_each(|mount| self.named(part, Aspect::Mount, Some(&mount.target), surroundings::mount(mount)));
        files.iter().for_each(|file| self.file(part, file));
        for (kind, request) in devices {
            let uses = request.capabilities.join(", ");
            let uses = if uses.is_empty() { uses } else { format!(" for {uses}") };
            self.named(part, Aspect::Device, Some(kind), format!("{}{uses}", request.amount));
        }
        let mut say = |aspect, differs: bool, text: String| {
            if differs {
                self.named(part, aspect, None, text);
            }
        };
        say(Aspect::User, user.is_some(), user.clone().unwrap_or_default());
        say(Aspect::WorkingDirectory, working_dir.is_some(), working_dir.clone().unwrap_or_default());
        say(Aspect::PullPolicy, *pull != default.pull, pull_word(*pull).to_owned());
        say(Aspect::StopGracePeriod, *stop_grace != default.stop_grace, stop_grace.to_string());
        say(Aspect::RestartPolicy, *restart != default.restart, restarts(restart));
        say(Aspect::ReservedCpu, reservations.cpu != default.reservations.cpu, reservations.cpu.to_string());
        say(
            Aspect::ReservedMemory,
            reservations.memory != default.reservations.memory,
            reservations.memory.to_string(),
        );
        say(Aspect::CpuLimit, limits.cpu != default.limits.cpu, limits.cpu.to_string());
        say(Aspect::MemoryLimit, limits.memory != default.limits.memory, limits.memory.to_string());
    }

    fn file(&mut self, part: &Part, file: &FileSpec) {
        let FileSpec { kind, name, external, version, target, uid, gid, mode } = file;
        let aspect = match kind {
            FileKind::Config => Aspect::Config,
            FileKind::Secret => Aspect::Secret,
        };
        let version = version.map_or_else(String::new, |version| format!("version {version}"));
        let default = FileSpec::of(*kind, name.clone());
        let rights = if (*uid, *gid, *mode) == (default.uid, default.gid, default.mode) {
            String::new()
        } else {
            format!(", {mode:04o} of {uid}:{gid}")
        };
        let whose = if *external { "the cluster's " } else { "" };
        let place = if *target == default.target { String::new() } else { format!(" at {target}") };
        self.named(part, aspect, Some(&format!("{whose}{name}{place}")), format!("{version}{rights}"));
    }
}

/// The container's port, and where it is open.
fn port_texts(port: &PortSpec) -> (String, String) {
    let PortSpec { container, published, protocol, host_ip } = port;
    let published = published.map_or_else(|| "any".to_owned(), |port| port.to_string());
    let address = host_ip.map_or_else(String::new, |address| format!("{address} "));
    (format!("{container}/{protocol} at {address}{published}"), String::new())
}

fn restarts(policy: &RestartPolicy) -> String {
    let RestartPolicy { condition, delay, max_attempts, window } = policy;
    let default = RestartPolicy::default();
    let mut text = match condition {
        RestartCondition::None => "never".to_owned(),
        RestartCondition::OnFailure => "on failure".to_owned(),
        RestartCondition::Any => "always".to_owned(),
    };
    if let Some(most) = max_attempts {
        text.push_str(&format!(", at most {most} times"));
    }
    if *delay != default.delay {
        text.push_str(&format!(", after {delay}"));
    }
    if *window != default.window {
        text.push_str(&format!(", window {window}"));
    }
    text
}

fn reached(condition: Condition) -> &'static str {
    match condition {
        Condition::Started => "started",
        Condition::Healthy => "healthy",
        Condition::Completed => "completed",
    }
}

fn mode_word(mode: Mode) -> &'static str {
    match mode {
        Mode::Replicated => "replicated",
        Mode::Global => "global",
        Mode::Job => "job",
    }
}

fn endpoint_word(mode: EndpointMode) -> &'static str {
    match mode {
        EndpointMode::Vip => "vip",
        EndpointMode::Sticky => "sticky",
        EndpointMode::Dnsrr => "dnsrr",
    }
}

fn order_word(order: UpdateOrder) -> &'static str {
    match order {
        UpdateOrder::StartFirst => "start-first",
        UpdateOrder::StopFirst => "stop-first",
    }
}

fn failure_word(action: FailureAction) -> &'static str {
    match action {
        FailureAction::Rollback => "rollback",
        FailureAction::Pause => "pause",
        FailureAction::Continue => "continue",
    }
}

fn pull_word(policy: PullPolicy) -> &'static str {
    match policy {
        PullPolicy::Missing => "missing",
        PullPolicy::Always => "always",
        PullPolicy::Never => "never",
    }
}
