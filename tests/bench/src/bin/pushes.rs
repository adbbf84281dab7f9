//! The cost of a change in a cluster of a thousand hosts: which hosts get a message, how many bytes, and the leader's
//! CPU time. Also the traffic between hosts to find broken paths. It measures only the pure core and the encoding.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};

use agent_core::probe::{ASK_EVERY, EVERY, SMALL, SMALL_FOR_A_LARGE};
use common::{
    assignment::Assignment,
    codec,
    directory::Directory,
    id::HostId,
    instance::{Observed, Phase},
    wire::{DirectoryPiece, ToAgent},
};
use coordinator_core::{
    Changes, Command, Planner, State,
    changes::Touched,
    view::{assignment, directory, follow},
};
use tests::world::{World, host_id};

const HOSTS: u32 = 1000;
const PER_HOST: u32 = 30;
const REPLICAS: u32 = 1000;
/// The headers of Ethernet, IPv4 and UDP inside the overlay, and of Ethernet, IPv4, UDP and VXLAN around it, in bytes.
const INSIDE: usize = 28;
const AROUND: usize = 14 + 50;
/// The size of the largest overlay packet, in bytes.
const LARGE_PACKET: usize = 1450;

/// The messages that hosts have received.
struct Told {
    assignments: BTreeMap<HostId, Assignment>,
    directory: Directory,
}

impl Told {
    fn of(cluster: &State) -> Told {
        let assigned = |host: &HostId| Some((*host, assignment(cluster, *host, &BTreeSet::new())?));
        Told { assignments: cluster.hosts().keys().filter_map(assigned).collect(), directory: directory(cluster) }
    }

    /// Sends the effects of a state change, and prints their cost.
    fn follow(&mut self, what: &str, before: &State, after: &State) {
        let (began, mut assigned) = (Instant::now(), Vec::new());
        let hosts = match Changes::between(before, after).touched() {
            Touched::All => after.hosts().keys().copied().collect(),
            Touched::Hosts(hosts) => hosts,
        };
        for host in hosts {
            let Some(now) = assignment(after, host, &BTreeSet::new()) else { continue };
            let same = |told: &Assignment| (&told.instances, &told.network) == (&now.instances, &now.network);
            if !self.assignments.get(&host).is_some_and(same) {
                assigned.push(size(&ToAgent::Assignment(Box::new(now.clone()))));
                self.assignments.insert(host, now);
            }
        }
        let assigning = began.elapsed();
        let (began, told, mut listed) = (Instant::now(), self.directory.clone(), Vec::new());
        follow(&mut self.directory, before, after);
        for _ in after.hosts().keys() {
            let difference = told.difference(&self.directory);
            if !difference.is_empty() {
                listed.push(size(&ToAgent::Directory(DirectoryPiece { anew: false, difference, more: false })));
            }
        }
        let listing = began.elapsed();
        let most = |sizes: &[usize]| sizes.iter().max().copied().unwrap_or(0);
        println!(
            "{what:<28} assignments: {:>4} of at most {:>6} bytes, {:>6} KiB, {:>6.1} ms; directory: {:>4} of {:>4} bytes, {:>6} KiB, {:>5.1} ms",
            assigned.len(),
            most(&assigned),
            assigned.iter().sum::<usize>() / 1024,
            assigning.as_secs_f64() * 1e3,
            listed.len(),
            most(&listed),
            listed.iter().sum::<usize>() / 1024,
            listing.as_secs_f64() * 1e3,
        );
    }
}

fn size(message: &ToAgent) -> usize {
    codec::encode(message).expect("it can be encoded").len()
}

fn main() {
    let mut world = World::of_hosts(HOSTS);
    for number in 0..HOSTS * PER_HOST / REPLICAS {
        world.deploy(&format!("s{number}"), REPLICAS);
    }
    let mut planner = Planner::default();
    while let commands = planner.plan(&world.cluster, world.at()).commands
        && !commands.is_empty()
    {
        world.apply(commands);
        world.run_all();
    }
    let mut told = Told::of(&world.cluster);
    println!("{HOSTS} hosts with {} instances in all", world.cluster.instances().len());

    let mut change = |what: &str, world: &mut World, commands: Vec<Command>| {
        let before = world.cluster.clone();
        world.apply(commands);
        told.follow(what, &before, &world.cluster);
    };
    let (id, instance) = world.cluster.instances().iter().next().expect("there are some");
    let (id, host, observed) = (id.clone(), instance.host, instance.observed.clone());
    let observe = |observed| Command::Observe { host, instances: vec![(id.clone(), observed)] };
    change("an instance fails", &mut world, vec![observe(Observed { phase: Phase::Failed, ..observed.clone() })]);
    let placed = planner.plan(&world.cluster, world.at()).commands;
    change("the planner answers", &mut world, placed);
    change("a host has another address", &mut world, vec![World::reported(1, 99)]);
    change("a host is removed", &mut world, vec![Command::RemoveHost(host_id(2))]);

    let peers = f64::from(HOSTS - 1);
    let small = peers / EVERY.as_secs_f64();
    let large = small / f64::from(SMALL_FOR_A_LARGE);
    // A host's probes of other hosts' instances, and its own instances' answers. A ping has headers of the same length
    // as UDP.
    let pings = 2.0 * peers / ASK_EVERY.as_secs_f64();
    let bytes = small * (SMALL.len() + INSIDE + AROUND) as f64
        + large * (LARGE_PACKET + AROUND) as f64
        + pings * (INSIDE + AROUND) as f64;
    println!(
        "doctor, each host: {:.0} packets and {:.0} KB a second, {:.2} Mbit/s",
        small + large + pings,
        bytes / 1e3,
        bytes * 8.0 / 1e6
    );
}
