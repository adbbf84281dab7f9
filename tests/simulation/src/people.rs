//! What people ask for: stacks of every shape that matters to the cores.

use std::collections::BTreeMap;

use common::{
    id::StackId,
    name::{Name, default_environment},
    quantity::{Bytes, MilliCpu},
    spec::{
        Condition, Constraint, HealthCheck, PortSpec, Protocol, RestartCondition, RestartPolicy, ServiceSpec, StackSpec,
    },
    time::Span,
};
use coordinator_core::{Cluster, Command};

use crate::random::Random;

fn name(text: &str) -> Name {
    Name::parse(text).expect("it is a name")
}

/// Something that a person does.
pub fn request(random: &mut Random, cluster: &Cluster) -> Command {
    let stack = StackId { environment: default_environment(), stack: name(["shop", "blog"][random.below(2)]) };
    match random.below(10) {
        0 => Command::RemoveStack(stack),
        1..=3 => {
            let service = stack.service(name(["web", "db"][random.below(2)]));
            Command::ScaleService { id: service, replicas: random.below(5) as u32 }
        }
        _ => {
            let revision = cluster.stacks.get(&stack).map_or(0, |stack| stack.revision);
            let expect_revision = random.chance(50).then_some(revision);
            Command::PutStack { id: stack, spec: stack_spec(random).into(), expect_revision }
        }
    }
}

fn stack_spec(random: &mut Random) -> StackSpec {
    let mut services = BTreeMap::from([(name("web"), service(random))]);
    if random.chance(60) {
        services.insert(name("db"), service(random));
        if random.chance(30) {
            let condition = if random.chance(50) { Condition::Started } else { Condition::Healthy };
            services.entry(name("web")).and_modify(|web| {
                web.depends_on.insert(name("db"), condition);
            });
        }
    }
    StackSpec { services, ..StackSpec::default() }
}

fn service(random: &mut Random) -> ServiceSpec {
    let mut spec = ServiceSpec::of_image(["web:1", "web:2", "web:3"][random.below(3)]);
    spec.replicas = random.below(5) as u32;
    if random.chance(50) {
        let published = random.chance(50).then(|| [8080, 8081, 20_000][random.below(3)]);
        spec.ports.push(PortSpec { container: 80, published, protocol: Protocol::Tcp, host_ip: None });
    }
    if random.chance(40) {
        spec.reservations.memory = Bytes([512 << 20, 1 << 30, 3 << 30][random.below(3)]);
        spec.reservations.cpu = MilliCpu([0, 500, 2_000][random.below(3)]);
    }
    if random.chance(30) {
        spec.healthcheck = Some(HealthCheck {
            test: vec!["CMD".into(), "true".into()],
            interval: Span::seconds(10),
            timeout: Span::seconds(5),
            retries: 3,
            start_period: Span(0),
        });
    }
    if random.chance(40) {
        let condition = [RestartCondition::None, RestartCondition::OnFailure, RestartCondition::Any][random.below(3)];
        spec.restart = RestartPolicy { condition, max_attempts: random.chance(50).then_some(2), ..spec.restart };
    }
    if random.chance(15) {
        let not = random.chance(50);
        spec.constraints.push(Constraint { key: "node.hostname".into(), not, value: "h1".into() });
    }
    spec
}
