use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use common::{
    assignment::Assignment,
    id::{BootId, ClusterId, HostId, InstanceId},
    instance::{Desired, StopReason},
    network::Network,
    output::LastLines,
    spec::{ContainerSpec, HealthCheck, RestartCondition, ServiceSpec, Sidekick},
    time::Timestamp,
};

use super::*;
use crate::{Action, ActionResult, reconcile};

fn id() -> InstanceId {
    "default/shop/web/1.1".parse().expect("an id")
}

fn part(text: &str) -> PartId {
    id().part(text.parse().expect("a part"))
}

/// A log shipper beside `web`, a proxy that waits for it, and a step before.
fn spec() -> ServiceSpec {
    let mut spec = ServiceSpec::of_image("web");
    let mut step = ContainerSpec::of_image("migrate");
    step.restart.condition = RestartCondition::OnFailure;
    spec.pre_start.push(step);
    for (name, needs) in [("log", None), ("proxy", Some("web"))] {
        let depends_on = needs.iter().map(|on| (on.parse().expect("a name"), Condition::Started)).collect();
        let sidekick = Sidekick { container: ContainerSpec::of_image(name), depends_on };
        spec.sidekicks.insert(name.parse().expect("a name"), sidekick);
    }
    spec
}

/// A host whose Docker does at once what it is asked for.
struct Host {
    assignment: Assignment,
    containers: BTreeMap<PartId, Container>,
    memory: Memory,
    now: u64,
    /// The actions that were done, in order.
    log: Vec<String>,
}

impl Host {
    fn with(spec: ServiceSpec) -> Host {
        let instance = AssignedInstance {
            id: id(),
            desired: Desired { want: Want::Run, reason: None },
            spec: Arc::new(spec),
            image: "web".into(),
            ports: Vec::new(),
            devices: Vec::new(),
            restarts: 0,
            retries: 0,
            ended: None,
            credentials: Vec::new(),
        };
        let assignment = Assignment {
            cluster: ClusterId([0; 10]),
            host: HostId([0; 10]),
            generation: 1,
            network: Network::default(),
            instances: vec![instance],
            surplus: BTreeSet::new(),
        };
        Host { assignment, containers: BTreeMap::new(), memory: Memory::default(), now: 1000, log: Vec::new() }
    }

    /// Passes until nothing is left to do at this time.
    fn settle(&mut self) -> Observed {
        for _ in 0..50 {
            let (busy, leases) = (BTreeSet::new(), BTreeMap::new());
            let situation = Situation {
                assignment: &self.assignment,
                containers: &self.containers,
                busy: &busy,
                leases: &leases,
                boot: BootId([1; 10]),
                now: Timestamp(self.now),
            };
            let next = reconcile(situation, &mut self.memory);
            if next.actions.is_empty() {
                return next.report.instances[0].1.clone();
            }
            // One at a time, so that what was done has an order.
            let result = self.perform(&next.actions[0]);
            self.memory.learn(&next.actions[0], &result, Timestamp(self.now));
            self.now += 1;
        }
        panic!("it does not come to rest: {:?}", self.log);
    }

    fn perform(&mut self, action: &Action) -> ActionResult {
        let id = action.part().clone();
        let started_at = Timestamp(self.now);
        let word = match action {
            Action::Prepare(_) => return ActionResult::Prepared,
            Action::Create(_) => {
                let state = ContainerState::Created;
                self.containers.insert(
                    id.clone(),
                    Container {
                        id: id.container_name(),
                        state,
                        image_digest: None,
                        address: None,
                        sender: None,
                        output: LastLines::default(),
                        published: BTreeSet::new(),
                    },
                );
                return ActionResult::Done;
            }
            Action::Start { .. } => {
                self.containers.get_mut(&id).expect("it was made").state =
                    ContainerState::Running { started_at, health: Health::Unchecked };
                "start"
            }
            Action::Stop { .. } => {
                self.end(&id.part.to_string(), 143);
                "stop"
            }
            Action::Remove { .. } => {
                self.containers.remove(&id);
                "remove"
            }
        };
        self.log.push(format!("{word} {}", id.part));
        ActionResult::Done
    }

    fn end(&mut self, text: &str, exit_code: i64) {
        let container = self.containers.get_mut(&part(text)).expect("it is there");
        let ContainerState::Running { started_at, .. } = container.state else { panic!("it does not run") };
        let (finished_at, out_of_memory) = (Timestamp(self.now), false);
        container.state = ContainerState::Exited { started_at, finished_at, exit_code, out_of_memory };
    }

    fn health(&mut self, text: &str, is: Health) {
        let container = self.containers.get_mut(&part(text)).expect("it is there");
        let ContainerState::Running { health, .. } = &mut container.state else { panic!("it does not run") };
        *health = is;
    }

    fn done(&mut self) -> String {
        std::mem::take(&mut self.log).join(", ")
    }

    /// All of it runs.
    fn up(spec: ServiceSpec) -> Host {
        let mut host = Host::with(spec);
        host.settle();
        host.end("_step-1", 0);
        assert_eq!(host.settle().phase, Phase::Running);
        host.done();
        host
    }
}

#[test]
fn parts_start_in_turn_and_serve_together() {
    let mut host = Host::with(spec());
    let told = host.settle();
    assert_eq!(host.done(), "start _network, start _step-1");
    assert_eq!((told.phase, told.message.as_str()), (Phase::Ready, "it waits for pre_start step 1"));

    host.end("_step-1", 1);
    let told = host.settle();
    assert_eq!((told.phase, told.restart), (Phase::Ready, 1));
    assert!(told.message.contains("step 1: it ended with exit code 1; it restarts after 1s"), "{}", told.message);
    host.now += 1000;
    host.settle();
    host.end("_step-1", 0);
    let told = host.settle();
    assert_eq!(host.done(), "start _step-1, start log, start _main, start proxy");
    assert!(told.is_serving(), "{told:?}");
}

#[test]
fn a_part_that_fails_is_started_again_alone_and_holds_back_the_rest() {
    let mut host = Host::up(spec());
    host.end("proxy", 1);
    let told = host.settle();
    assert_eq!((told.phase, told.health, told.restart), (Phase::Running, Health::Starting, 1));
    assert!(told.message.starts_with("sidekick proxy: it ended with exit code 1"), "{}", told.message);
    host.now += 60_000;
    assert!(host.settle().is_serving());
    assert_eq!(host.done(), "start proxy", "the others are left alone");

    host.end("_main", 1);
    host.now += 60_000;
    host.settle();
    host.now += 60_000;
    assert!(host.settle().is_serving());
    assert_eq!(host.done(), "start _main", "its network is there as before");
}

/// The proxy waits for the program and calls it to see whether it is healthy itself.
#[test]
fn a_failed_check_does_not_count_while_what_it_needs_is_away() {
    let mut spec = spec();
    let proxy = spec.sidekicks.get_mut(&"proxy".parse().expect("a name")).expect("it is there");
    let check = HealthCheck::of(vec!["CMD".into(), "check".into()]);
    let round = check.interval.0 + check.timeout.0;
    proxy.container.healthcheck = Some(check);
    let run = |comes_back: bool| {
        let mut host = Host::up(spec.clone());
        host.end("_main", 1);
        host.settle();
        host.health("proxy", Health::Unhealthy);
        host.settle();
        assert_eq!(host.done(), "", "its program waits to be started again, and the proxy is left alone");
        host.now += 60_000;
        host.settle();
        assert_eq!(host.done(), "start _main");
        host.now += round - 1000;
        if comes_back {
            host.health("proxy", Health::Healthy);
        }
        host.settle();
        assert_eq!(host.done(), "", "its check has not been made once more");
        host.now += 2000;
        host.settle();
        host.now += 60_000;
        host.settle();
        host.done()
    };
    assert_eq!(run(true), "");
    assert_eq!(run(false), "stop proxy, start proxy");
}

#[test]
fn a_check_that_does_not_count_holds_up_nothing_else() {
    let mut spec = spec();
    let proxy = spec.sidekicks.get_mut(&"proxy".parse().expect("a name")).expect("it is there");
    proxy.container.healthcheck = Some(HealthCheck::of(vec!["CMD".into(), "check".into()]));
    let mut host = Host::up(spec);
    host.end("_network", 137);
    host.settle();
    host.health("proxy", Health::Unhealthy);
    host.settle();
    assert_eq!(host.done(), "", "the network waits to be started again");
    // Less than a check later there is another network: the proxy moves into it without waiting.
    host.now += 2000;
    host.settle();
    let done = host.done();
    assert!(done.starts_with("start _network") && done.contains("stop proxy"), "{done}");
}

#[test]
fn what_waits_to_be_started_again_is_removed_at_once() {
    let mut host = Host::up(spec());
    for _ in 0..4 {
        host.end("_main", 1);
        host.settle();
        host.now += 60_000;
        host.settle();
    }
    host.end("_main", 1);
    host.settle();
    host.assignment.instances[0].desired = Desired { want: Want::Purge, reason: Some(StopReason::Removed) };
    assert_eq!((host.settle().phase, host.containers.len()), (Phase::Purged, 0));
}

#[test]
fn a_network_that_is_made_anew_is_used_by_all() {
    let mut host = Host::up(spec());
    host.end("_network", 137);
    host.settle();
    host.now += 60_000;
    host.settle();
    let told = host.settle();
    let done = host.done();
    assert!(done.starts_with("start _network"), "{done}");
    for name in ["log", "_main", "proxy"] {
        assert!(done.contains(&format!("stop {name}")) && done.contains(&format!("start {name}")), "{done}");
    }
    assert!(told.is_serving(), "{told:?}");
}

#[test]
fn parts_end_in_the_reverse_of_their_order() {
    let mut host = Host::up(spec());
    host.assignment.instances[0].desired = Desired { want: Want::Purge, reason: Some(StopReason::Removed) };
    let told = host.settle();
    let done = host.done();
    let stops: Vec<&str> = done.split(", ").filter(|done| done.starts_with("stop")).collect();
    assert_eq!(stops, ["stop proxy", "stop _main", "stop log", "stop _network"]);
    assert_eq!((told.phase, host.containers.len()), (Phase::Purged, 0));
}

#[test]
fn the_end_of_a_job_is_told_once_its_sidekicks_have_ended() {
    let mut job = spec();
    job.container.restart.condition = RestartCondition::OnFailure;
    let mut host = Host::up(job);
    host.end("_main", 0);
    let situation = host.settle();
    assert_eq!((situation.phase, situation.exit_code), (Phase::Completed, Some(0)));
    assert_eq!(host.done(), "stop proxy, stop log, stop _network");
}

#[test]
fn a_part_that_is_given_up_ends_the_instance() {
    let mut picky = spec();
    let proxy = picky.sidekicks.get_mut(&"proxy".parse().expect("a name")).expect("it is there");
    proxy.container.restart.condition = RestartCondition::None;
    let mut host = Host::up(picky);
    host.end("proxy", 3);
    let told = host.settle();
    assert_eq!((told.phase, told.exit_code), (Phase::Failed, Some(3)));
    assert_eq!(told.message, "sidekick proxy: it ended with exit code 3");
    assert_eq!(host.done(), "stop _main, stop log, stop _network");
}

#[test]
fn an_agent_without_its_ledger_never_reports_fewer_restarts() {
    let mut host = Host::up(spec());
    host.end("proxy", 1);
    assert_eq!(host.settle().restart, 1);
    host.now += 60_000;
    assert!(host.settle().is_serving());
    host.memory = Memory::default();
    host.assignment.instances[0].restarts = 5;
    for _ in 0..3 {
        let told = host.settle();
        assert_eq!((told.phase, told.restart), (Phase::Running, 5));
    }
}
