//! Requests of users: stacks of every shape that matters to the cores.

use std::collections::BTreeMap;

use common::{
    device::{DeviceAmount, DeviceRequest, GPU},
    host::{Availability, Oversubscription},
    id::StackId,
    name::{Name, default_environment},
    quantity::{Bytes, MilliCpu},
    rollout::RolloutState,
    spec::{
        Canary, Condition, ContainerSpec, CronSpec, FailureAction, HealthCheck, Mode, MountSource, MountSpec, Overlap,
        PortSpec, Protocol, RestartCondition, RestartPolicy, ServiceSpec, Sidekick, StackSpec, UpdateOrder, VolumeSpec,
    },
    time::{Span, Timestamp},
};
use coordinator_core::{Command, State};

use crate::random::Random;

fn name(text: &str) -> Name {
    Name::parse(text).expect("it is a name")
}

/// A random request of a user.
///
/// Some users want strict singletons most of the time.
pub fn request(random: &mut Random, cluster: &State, now: Timestamp, strict: bool) -> Command {
    let stack = StackId { environment: default_environment(), stack: name(["shop", "blog"][random.below(2)]) };
    match random.below(16) {
        0 => Command::RemoveStack(stack),
        14 => Command::Retry(stack.service(name(["web", "db"][random.below(2)]))),
        15 => back_to_an_earlier_one(random, cluster, stack),
        10..=12 => availability(random, cluster, now),
        13 => {
            let service = stack.service(name(["web", "db"][random.below(2)]));
            let expect_revision = cluster.service(&service).map_or(0, |service| service.revision);
            match random.below(10) {
                0..3 => return Command::Promote { service, expect_revision },
                3..6 => return Command::Rebalance { services: vec![service] },
                _ => {}
            }
            let state = [RolloutState::Paused, RolloutState::Rolling][random.below(2)];
            Command::MoveRollout { service, expect_revision, state, why: "a person said so".into() }
        }
        1..=3 => {
            let service = stack.service(name(["web", "db"][random.below(2)]));
            Command::ScaleService { id: service, replicas: random.below(5) as u32 }
        }
        _ => {
            let revision = cluster.stacks().get(&stack).map_or(0, |stack| stack.revision);
            let expect_revision = random.chance(50).then_some(revision);
            Command::PutStack {
                id: stack,
                spec: stack_spec(random, strict).into(),
                files: Vec::new(),
                expect_revision,
                what: String::new(),
                goes_back: false,
            }
        }
    }
}

/// Rolls a stack back to an earlier revision, if there is one.
fn back_to_an_earlier_one(random: &mut Random, cluster: &State, id: StackId) -> Command {
    let kept = cluster.stacks().get(&id).and_then(|stack| random.pick(stack.history.iter()));
    match kept.map(|kept| kept.spec.clone()) {
        Some(spec) => {
            let (files, what) = (Vec::new(), "back".to_owned());
            Command::PutStack { id, spec, files, expect_revision: None, what, goes_back: true }
        }
        None => Command::RemoveStack(id),
    }
}

/// Changes a host's availability, most often to active.
fn availability(random: &mut Random, cluster: &State, now: Timestamp) -> Command {
    let host = random.pick(cluster.hosts().keys().copied()).expect("the first host never goes");
    if random.chance(15) {
        // A factor below what is already reserved would not be the planner's fault.
        let before = cluster.hosts().get(&host).map_or(100, |host| host.oversubscription.cpu);
        let hundredths = before + random.below(50) as u32;
        let oversubscription = Oversubscription { cpu: hundredths, memory: hundredths };
        return Command::Oversubscribe { host, oversubscription };
    }
    let availability = match random.below(6) {
        0 => Availability::Cordoned,
        5 if random.chance(50) => Availability::Maintenance,
        1 => Availability::Draining { deadline: now + Span::seconds(random.below(120) as u64) },
        _ => Availability::Active,
    };
    Command::SetAvailability { host, availability }
}

fn stack_spec(random: &mut Random, strict: bool) -> StackSpec {
    let mut services = BTreeMap::from([(name("web"), service(random, strict))]);
    if random.chance(60) {
        services.insert(name("db"), service(random, strict));
        if random.chance(20) {
            let texts = ["service == db", "service != db", "service == web", "service != web"];
            let condition = texts[random.below(4)].parse().expect("it is a constraint");
            services.entry(name(["web", "db"][random.below(2)])).and_modify(|service| match random.below(2) {
                0 => service.prefer.push(condition),
                _ => service.constraints.push(condition),
            });
        }
        if random.chance(40) {
            let condition = [Condition::Started, Condition::Healthy, Condition::Completed][random.below(3)];
            if condition == Condition::Completed && random.chance(80) {
                services.entry(name("db")).and_modify(|db| ends_by_design(random, db));
            }
            services.entry(name("web")).and_modify(|web| {
                web.depends_on.insert(name("db"), condition);
            });
        }
    }
    StackSpec { services, volumes: [(name("data").into(), VolumeSpec::default())].into() }
}

/// Turns a service into one that ends by design, in one of the possible ways.
fn ends_by_design(random: &mut Random, spec: &mut ServiceSpec) {
    spec.container.restart.condition = [RestartCondition::None, RestartCondition::OnFailure][random.below(2)];
    if spec.mode == Mode::Replicated && !spec.strict_singleton && random.chance(50) {
        (spec.mode, spec.update.canary, spec.update.order) = (Mode::Job, None, None);
    }
}

fn service(random: &mut Random, strict: bool) -> ServiceSpec {
    let mut spec = ServiceSpec::of_image(["web:1", "web:2", "web:3"][random.below(3)]);
    spec.replicas = random.below(5) as u32;
    if random.chance(50) {
        let published = random.chance(50).then(|| [8080, 8081, 20_000][random.below(3)]);
        spec.ports.push(PortSpec { container: 80, published, protocol: Protocol::Tcp, host_ip: None });
    }
    if random.chance(40) {
        spec.container.reservations.memory = Bytes([512 << 20, 1 << 30, 3 << 30][random.below(3)]);
        spec.container.reservations.cpu = MilliCpu([0, 500, 2_000][random.below(3)]);
    }
    if random.chance(10) {
        let amount = [DeviceAmount::Count(1), DeviceAmount::Count(2), DeviceAmount::All][random.below(3)].clone();
        spec.container.devices.insert(GPU.to_owned(), DeviceRequest { amount, capabilities: Vec::new() });
    }
    if random.chance(30) {
        spec.container.healthcheck = Some(HealthCheck::of(vec!["CMD".into(), "true".into()]));
    }
    if random.chance(40) {
        let condition = [RestartCondition::None, RestartCondition::OnFailure, RestartCondition::Any][random.below(3)];
        spec.container.restart =
            RestartPolicy { condition, max_attempts: random.chance(50).then_some(2), ..spec.container.restart };
    }
    if random.chance(20) {
        add_parts(random, &mut spec);
    }
    if random.chance(10) {
        spec.mode = Mode::Global;
    } else if random.chance(10) {
        spec.mode = Mode::Job;
        if random.chance(50) {
            let overlap = [Overlap::Skip, Overlap::Replace][random.below(2)];
            spec.cron = Some(CronSpec { overlap, ..CronSpec::of("*/2 * * * *") });
        }
    }
    if random.chance(10) {
        let source = MountSource::Volume(name("data").into());
        spec.container.mounts.push(MountSpec::of(source, "/data"));
    }
    if spec.mode == Mode::Replicated && random.chance(if strict { 90 } else { 25 }) {
        spec.strict_singleton = true;
        spec.replicas = spec.replicas.min(1);
    }
    spec.priority = random.below(2) as i32;
    spec.max_per_host = random.chance(15).then(|| 1 + random.below(2) as u32);
    spec.update.parallelism = random.below(3) as u32;
    spec.update.on_failure =
        [FailureAction::Rollback, FailureAction::Rollback, FailureAction::Pause, FailureAction::Continue]
            [random.below(4)];
    if random.chance(20) && spec.mode != Mode::Job {
        let promote_after = random.chance(70).then(|| Span::seconds(random.below(300) as u64));
        spec.update.canary = Some(Canary { instances: 1 + random.below(2) as u32, promote_after });
    }
    if random.chance(20) {
        spec.update.order = Some(UpdateOrder::StopFirst);
    }
    if random.chance(15) {
        let texts = ["node.hostname == h1", "node.hostname != h1", "node.hostname in (h1, h2)", "engine.version >= 20"];
        spec.constraints.push(texts[random.below(4)].parse().expect("it is a constraint"));
    }
    spec
}

/// Adds sidekicks that wait for one another, and steps before the start.
fn add_parts(random: &mut Random, spec: &mut ServiceSpec) {
    let conditions =
        [RestartCondition::None, RestartCondition::OnFailure, RestartCondition::Any, RestartCondition::Any];
    let mut container = |image: &str| {
        let mut container = ContainerSpec::of_image(image);
        container.restart.condition = conditions[random.below(4)];
        if random.chance(30) {
            container.healthcheck = Some(HealthCheck::of(vec!["CMD".into(), "true".into()]));
        }
        container
    };
    let (proxy, log, step) = (container("proxy:1"), container("log:1"), container("step:1"));
    spec.sidekicks.insert(name("proxy"), Sidekick { container: proxy, depends_on: BTreeMap::new() });
    if random.chance(50) {
        let depends_on = BTreeMap::from([(name("proxy"), Condition::Started)]);
        spec.sidekicks.insert(name("log"), Sidekick { container: log, depends_on });
    }
    if random.chance(30) {
        spec.depends_on.insert(name("proxy"), [Condition::Started, Condition::Healthy][random.below(2)]);
    }
    if random.chance(40) {
        spec.pre_start.push(ContainerSpec { healthcheck: None, ..step });
    }
}
