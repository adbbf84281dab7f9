//! The speed of the planner: single placements, many at once, a full pass over a full cluster, and one change in it. It
//! measures only the pure core, without disk, network and Docker.

use std::time::{Duration, Instant};

use common::{
    id::{HostId, InstanceId, StackId},
    instance::{Observed, Phase},
    name::default_environment,
    spec::{Mode, ServiceSpec},
};
use coordinator_core::{Command, Planner, plan};
use tests::world::{World, name};

/// The number of instances per host in the full cluster.
const PER_HOST: u32 = 30;
const REPLICAS: u32 = 1000;

fn per_second(count: usize, time: Duration) -> f64 {
    count as f64 / time.as_secs_f64()
}

fn placements(hosts: u32) {
    let mut world = World::of_hosts(hosts);
    let mut planner = Planner::default();
    planner.plan(&world.cluster, world.at());
    let (mut alone, mut count) = (Duration::ZERO, 0);
    for number in 0..300 {
        world.deploy(&format!("s{number}"), 1);
        let began = Instant::now();
        let plan = planner.plan(&world.cluster, world.at());
        alone += began.elapsed();
        count += plan.commands.len();
        world.apply(plan.commands);
    }
    assert_eq!(count, 300, "each was placed");
    let replicas = (hosts * PER_HOST).min(10_000);
    world.deploy("many", replicas);
    let began = Instant::now();
    let plan = planner.plan(&world.cluster, world.at());
    let together = began.elapsed();
    assert_eq!(plan.commands.len(), replicas as usize, "all were placed");
    println!(
        "{hosts:>6} hosts: one by one {:>9.0} placements/s, {replicas} at once {:>9.0}/s",
        per_second(count, alone),
        per_second(replicas as usize, together)
    );
}

fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) / 1024
}

fn full(hosts: u32) {
    let mut world = World::of_hosts(hosts);
    let empty = resident();
    for number in 0..hosts * PER_HOST / REPLICAS {
        world.deploy(&format!("s{number}"), REPLICAS);
    }
    let mut planner = Planner::default();
    let placing = Instant::now();
    let placed = planner.plan(&world.cluster, world.at());
    println!("{} placements planned in {:.2} s", placed.commands.len(), placing.elapsed().as_secs_f64());
    let applying = Instant::now();
    for commands in placed.commands.chunks(500) {
        world.apply(commands.to_vec());
    }
    println!("  applied in {:.2} s", applying.elapsed().as_secs_f64());
    world.run_all();
    while let commands = planner.plan(&world.cluster, world.at()).commands
        && !commands.is_empty()
    {
        world.apply(commands);
    }
    println!("{} instances take {} MiB", world.cluster.instances().len(), resident().saturating_sub(empty));

    let began = Instant::now();
    let all = plan(&world.cluster, world.at());
    println!("a whole pass over {} instances: {:.0} ms", world.cluster.instances().len(), ms(began.elapsed()));
    assert!(all.commands.is_empty(), "all is quiet");

    let mut times = Vec::new();
    for number in 0..100 {
        let id = StackId { environment: default_environment(), stack: name(&format!("s{number}")) };
        world.apply(vec![Command::ScaleService { id: id.service(name("web")), replicas: REPLICAS + 1 }]);
        let began = Instant::now();
        let plan = planner.plan(&world.cluster, world.at());
        times.push(began.elapsed());
        assert_eq!(plan.commands.len(), 1, "one more is placed");
        world.apply(plan.commands);
    }
    show("one more replica of a service with 1000", &mut times);

    let mut times = Vec::new();
    let some: Vec<(InstanceId, HostId)> =
        world.cluster.instances().iter().step_by(2_999).map(|(id, i)| (id.clone(), i.host)).collect();
    for (id, host) in some {
        let observed = Observed { phase: Phase::Running, restart: 1, ..Observed::nothing() };
        world.apply(vec![Command::Observe { host, instances: vec![(id, observed)] }]);
        let began = Instant::now();
        planner.plan(&world.cluster, world.at());
        times.push(began.elapsed());
    }
    show("one instance that was restarted", &mut times);
}

/// Services with one instance on every host.
fn global(hosts: u32, services: u32) {
    let mut world = World::of_hosts(hosts);
    for number in 0..services {
        let mut spec = ServiceSpec::of_image("web:1");
        spec.mode = Mode::Global;
        world.put(&format!("s{number}"), spec);
    }
    let mut planner = Planner::default();
    let placing = Instant::now();
    let placed = planner.plan(&world.cluster, world.at());
    let count = placed.commands.len();
    assert_eq!(count, (hosts * services) as usize, "one on each");
    println!("{services} global services on {hosts} hosts: planned at {:.0}/s", per_second(count, placing.elapsed()));
    for commands in placed.commands.chunks(500) {
        world.apply(commands.to_vec());
    }
    world.run_all();
    planner.plan(&world.cluster, world.at());
    let began = Instant::now();
    plan(&world.cluster, world.at());
    println!("a whole pass over them: {:.0} ms", ms(began.elapsed()));
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

fn show(what: &str, times: &mut [Duration]) {
    times.sort_unstable();
    let median = times[times.len() / 2];
    println!("{what}: median {:.2} ms, worst {:.2} ms", ms(median), times.last().copied().map_or(0.0, ms));
}

fn main() {
    for hosts in [100, 1_000, 10_000] {
        placements(hosts);
    }
    full(10_000);
    global(10_000, 30);
}
