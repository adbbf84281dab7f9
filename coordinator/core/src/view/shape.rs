//! A service's spec as a list of facts, of which any two can be compared.
//!
//! The specs are taken apart without `..`: a new field does not compile until it is here.

mod surroundings;

use std::collections::BTreeMap;

use common::{
    api::{Aspect, Change, Difference},
    file::{FileKind, FileSpec},
    name::Name,
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
            mode,
            cron,
            replicas,
            // How it is reached.
            ports: _,
            expose: _,
            endpoint_mode: _,
            // Where its instances go.
            constraints: _,
            prefer: _,
            spread: _,
            priority: _,
            max_per_host: _,
            strict_singleton: _,
            update,
            depends_on,
            joins,
            network_mode,
            networks,
            volumes,
        } = spec;
        self.named(&Part::Main, Aspect::Mode, None, mode_word(*mode));
        self.named(&Part::Main, Aspect::Replicas, None, replicas);
        cron.iter().for_each(|cron| self.schedule(cron));
        self.reach(spec);
        self.placement(spec);
        joins.iter().for_each(|name| self.named(&Part::Main, Aspect::JoinedEnvironment, Some(name.as_str()), ""));
        surroundings::service(self, *network_mode, networks, volumes);
        self.update(update);
        self.dependencies(&Part::Main, depends_on);
        for (name, Sidekick { container: _, depends_on }) in sidekicks {
            self.dependencies(&Part::Sidekick(name.clone()), depends_on);
        }
    }

    /// How others reach a service.
    fn reach(&mut self, spec: &ServiceSpec) {
        for port in &spec.ports {
            let (name, place) = port_texts(port);
            self.named(&Part::Main, Aspect::Port, Some(&name), place);
        }
        for port in &spec.expose {
            let name = format!("{}/{}", port.container, port.protocol);
            self.named(&Part::Main, Aspect::ExposedPort, Some(&name), "");
        }
        self.unless_default(Aspect::EndpointMode, &spec.endpoint_mode, &EndpointMode::default(), |mode| {
            endpoint_word(*mode).to_owned()
        });
    }

    fn schedule(&mut self, CronSpec { schedule, timezone, overlap, catch_up }: &CronSpec) {
        let overlap = format!("{overlap:?}").to_lowercase();
        let text = format!("{schedule:?} {timezone}, overlap {overlap}, catch_up {catch_up}");
        self.named(&Part::Main, Aspect::Schedule, None, text);
    }

    /// Where a service's instances go, and before which others.
    fn placement(&mut self, spec: &ServiceSpec) {
        for (aspect, conditions) in [(Aspect::Constraint, &spec.constraints), (Aspect::Preference, &spec.prefer)] {
            conditions.iter().for_each(|condition| self.named(&Part::Main, aspect, Some(&condition.to_string()), ""));
        }
        self.unless_default(Aspect::Spread, &spec.spread, &Vec::new(), |spread| spread.join(", "));
        self.unless_default(Aspect::Priority, &spec.priority, &0, i32::to_string);
        self.unless_default(Aspect::MaxPerHost, &spec.max_per_host, &None, |most| {
            most.map_or_else(String::new, |most| most.to_string())
        });
        self.unless_default(Aspect::StrictSingleton, &spec.strict_singleton, &false, |_| String::new());
    }

    fn dependencies(&mut self, part: &Part, depends_on: &BTreeMap<Name, Condition>) {
        for (on, condition) in depends_on {
            self.named(part, Aspect::Dependency, Some(on.as_str()), reached(*condition));
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

    /// Each field has its place: with the program, with its files, with its resources, or with its surroundings.
    fn container(&mut self, part: &Part, spec: &ContainerSpec) {
        let ContainerSpec {
            image: _,
            pull: _,
            command: _,
            entrypoint: _,
            user: _,
            working_dir: _,
            environment: _,
            labels: _,
            healthcheck: _,
            restart: _,
            stop_grace: _,
            mounts: _,
            files: _,
            reservations: _,
            limits: _,
            devices: _,
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
        self.program(part, spec);
        self.files(part, spec);
        self.resources(part, spec);
        surroundings::container(self, part, spec);
    }

    /// What a container runs, and how. What people may keep passwords in is hidden: variables, commands, labels.
    fn program(&mut self, part: &Part, spec: &ContainerSpec) {
        let default = ContainerSpec::of_image("");
        self.named(part, Aspect::Image, None, &spec.image);
        spec.environment.iter().for_each(|(name, value)| self.hidden(part, Aspect::Variable, Some(name), value));
        spec.labels.iter().for_each(|(name, value)| self.hidden(part, Aspect::Label, Some(name), value));
        for (aspect, value) in [(Aspect::Command, &spec.command), (Aspect::Entrypoint, &spec.entrypoint)] {
            if let Some(value) = value {
                self.hidden(part, aspect, None, value);
            }
        }
        if let Some(check) = &spec.healthcheck {
            self.hidden(part, Aspect::HealthCheck, None, check);
        }
        for (aspect, value) in [(Aspect::User, &spec.user), (Aspect::WorkingDirectory, &spec.working_dir)] {
            value.iter().for_each(|value| self.named(part, aspect, None, value));
        }
        let mut say = |aspect, differs: bool, text: String| {
            if differs {
                self.named(part, aspect, None, text);
            }
        };
        say(Aspect::PullPolicy, spec.pull != default.pull, pull_word(spec.pull).to_owned());
        say(Aspect::StopGracePeriod, spec.stop_grace != default.stop_grace, spec.stop_grace.to_string());
        say(Aspect::RestartPolicy, spec.restart != default.restart, restarts(&spec.restart));
    }

    /// What a container mounts, and which configs and secrets it is given.
    fn files(&mut self, part: &Part, spec: &ContainerSpec) {
        for mount in &spec.mounts {
            self.named(part, Aspect::Mount, Some(&mount.target), surroundings::mount(mount));
        }
        spec.files.iter().for_each(|file| self.file(part, file));
    }

    /// What a container may take of its host.
    fn resources(&mut self, part: &Part, spec: &ContainerSpec) {
        for (kind, request) in &spec.devices {
            let uses = request.capabilities.join(", ");
            let uses = if uses.is_empty() { uses } else { format!(" for {uses}") };
            self.named(part, Aspect::Device, Some(kind), format!("{}{uses}", request.amount));
        }
        let default = ContainerSpec::of_image("");
        let amounts = [
            (Aspect::ReservedCpu, Aspect::ReservedMemory, spec.reservations, default.reservations),
            (Aspect::CpuLimit, Aspect::MemoryLimit, spec.limits, default.limits),
        ];
        for (cpu, memory, amount, usual) in amounts {
            if amount.cpu != usual.cpu {
                self.named(part, cpu, None, amount.cpu);
            }
            if amount.memory != usual.memory {
                self.named(part, memory, None, amount.memory);
            }
        }
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
