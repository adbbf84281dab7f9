use std::sync::Arc;

use common::{
    id::{ClusterId, HostId},
    instance::Desired,
    network::Network,
    output::LastLines,
    spec::{PortSpec, Protocol, ServiceSpec},
};

use super::*;
use crate::action::ActionResult;

const BOOT: BootId = BootId([1; 10]);

fn id() -> InstanceId {
    "default/shop/web/1.1".parse().expect("an id")
}

fn assigned(want: Want, change: impl FnOnce(&mut ServiceSpec)) -> Assignment {
    let mut spec = ServiceSpec::of_image("web");
    change(&mut spec);
    let instance = AssignedInstance {
        id: id(),
        desired: Desired { want, reason: None },
        spec: Arc::new(spec),
        image: "web".into(),
        ports: Vec::new(),
        devices: Vec::new(),
        restarts: 0,
        retries: 0,
        ended: None,
        credentials: Vec::new(),
    };
    Assignment {
        cluster: ClusterId([0; 10]),
        host: HostId([0; 10]),
        generation: 1,
        network: Network::default(),
        instances: vec![instance],
        surplus: BTreeSet::new(),
    }
}

fn container(state: ContainerState) -> BTreeMap<PartId, Container> {
    BTreeMap::from([(
        id().main(),
        Container {
            id: "c".into(),
            state,
            image_digest: None,
            address: None,
            sender: None,
            output: LastLines::default(),
            published: BTreeSet::new(),
        },
    )])
}

fn running(health: Health) -> ContainerState {
    ContainerState::Running { started_at: Timestamp(1000), health }
}

fn exited(exit_code: i64, started: u64, finished: u64) -> ContainerState {
    ContainerState::Exited {
        started_at: Timestamp(started),
        finished_at: Timestamp(finished),
        exit_code,
        out_of_memory: false,
    }
}

struct Host {
    memory: Memory,
    leases: BTreeMap<InstanceId, Lease>,
    boot: BootId,
}

impl Host {
    fn new() -> Host {
        Host { memory: Memory::default(), leases: BTreeMap::new(), boot: BOOT }
    }

    fn pass(&mut self, assignment: &Assignment, containers: &BTreeMap<PartId, Container>, now: u64) -> Next {
        let busy = BTreeSet::new();
        reconcile(
            Situation {
                assignment,
                containers,
                busy: &busy,
                leases: &self.leases,
                boot: self.boot,
                now: Timestamp(now),
            },
            &mut self.memory,
        )
    }

    fn learn(&mut self, action: &Action, result: ActionResult, now: u64) {
        self.memory.learn(action, &result, Timestamp(now));
    }
}

fn phase(next: &Next) -> (u32, Phase) {
    let observed = &next.report.instances[0].1;
    (observed.restart, observed.phase)
}

#[test]
fn an_instance_is_prepared_created_started_and_runs() {
    let mut host = Host::new();
    let wanted = assigned(Want::Run, |_| {});
    let none = BTreeMap::new();
    let next = host.pass(&wanted, &none, 0);
    assert_eq!((next.actions.clone(), phase(&next)), (vec![Action::Prepare(id().main())], (0, Phase::Pulling)));
    host.learn(&next.actions[0], ActionResult::Prepared, 0);
    assert_eq!(host.pass(&wanted, &none, 0).actions, [Action::Create(id().main())]);
    let next = host.pass(&wanted, &container(ContainerState::Created), 0);
    assert_eq!(
        (next.actions, phase(&host.pass(&wanted, &container(ContainerState::Created), 0))),
        (vec![Action::Start { part: id().main(), container: "c".into() }], (0, Phase::Ready))
    );
    let next = host.pass(&wanted, &container(running(Health::Unchecked)), 0);
    assert_eq!((next.actions.len(), phase(&next)), (0, (0, Phase::Running)));
}

#[test]
fn a_crash_is_followed_by_restarts_that_back_off_up_to_the_limit() {
    let mut host = Host::new();
    let wanted = assigned(Want::Run, |spec| spec.container.restart.max_attempts = Some(2));
    let mut now = 1000;
    for (restart, delay) in [(1, 1000), (2, 2000)] {
        host.pass(
            &wanted,
            &container(ContainerState::Running { started_at: Timestamp(now), health: Health::Unchecked }),
            now,
        );
        let next = host.pass(&wanted, &container(exited(1, now, now + 5)), now + 10);
        assert_eq!((phase(&next), next.wake_at), ((restart, Phase::Starting), Some(Timestamp(now + 10 + delay))));
        assert!(next.actions.is_empty());
        let next = host.pass(&wanted, &container(exited(1, now, now + 5)), now + 10 + delay);
        assert!(matches!(next.actions[..], [Action::Start { .. }]));
        now += 100_000;
    }
    let next = host.pass(&wanted, &container(exited(1, now, now + 5)), now + 10);
    assert_eq!(phase(&next), (2, Phase::Failed));
    assert!(next.report.instances[0].1.message.contains("the limit"), "{next:?}");
    assert!(host.pass(&wanted, &container(exited(1, now, now + 5)), now + 1_000_000).actions.is_empty());
}

/// One run after the other of so many seconds that end with code 1; how it stands after each.
fn failing_runs(wanted: &Assignment, seconds: u64, runs: usize) -> Vec<(u32, Phase)> {
    let (mut host, mut now) = (Host::new(), 1_000);
    let mut stands = Vec::new();
    for _ in 0..runs {
        host.pass(
            wanted,
            &container(ContainerState::Running { started_at: Timestamp(now), health: Health::Unchecked }),
            now,
        );
        let next = host.pass(wanted, &container(exited(1, now, now + seconds * 1000)), now + seconds * 1000);
        let observed = &next.report.instances[0].1;
        stands.push((observed.retries, observed.phase));
        now += seconds * 1000 + 100_000;
    }
    stands
}

#[test]
fn retries_are_those_of_the_slot_and_a_long_run_forgets_them_unless_it_is_a_jobs() {
    let policy = |spec: &mut ServiceSpec| spec.container.restart.max_attempts = Some(2);
    let mut later = assigned(Want::Run, policy);
    later.instances[0].retries = 1;
    assert_eq!(failing_runs(&later, 1, 2), [(2, Phase::Starting), (2, Phase::Failed)], "one was used up elsewhere");
    let service = assigned(Want::Run, policy);
    assert_eq!(failing_runs(&service, 600, 3), [(1, Phase::Starting); 3]);
    let job = assigned(Want::Run, |spec| {
        policy(spec);
        spec.mode = Mode::Job;
    });
    let expected = [(1, Phase::Starting), (2, Phase::Starting), (2, Phase::Failed)];
    assert_eq!(failing_runs(&job, 600, 3), expected);
    let scheduled = assigned(Want::Run, |spec| {
        spec.mode = Mode::Job;
        spec.cron = Some(common::spec::CronSpec::of("0 3 * * *"));
    });
    assert_eq!(failing_runs(&scheduled, 1, 1), [(0, Phase::Failed)], "a run is not tried again if nobody says so");
}

#[test]
fn what_docker_cannot_start_has_failed_as_its_policy_says() {
    for (condition, expected) in [(RestartCondition::None, Phase::Failed), (RestartCondition::Any, Phase::Starting)] {
        let mut host = Host::new();
        let wanted = assigned(Want::Run, |spec| spec.container.restart.condition = condition);
        let created = container(ContainerState::Created);
        let action = host.pass(&wanted, &created, 1000).actions.remove(0);
        host.learn(&action, ActionResult::Failed("exec: not found".into()), 1000);
        let next = host.pass(&wanted, &created, 1000);
        assert_eq!(phase(&next).1, expected);
        assert!(next.report.instances[0].1.message.starts_with("exec: not found"), "{next:?}");
    }
}

#[test]
fn the_restart_policy_decides_which_ends_are_final() {
    let cases = [
        (RestartCondition::None, 0, Phase::Completed),
        (RestartCondition::None, 3, Phase::Failed),
        (RestartCondition::OnFailure, 0, Phase::Completed),
        (RestartCondition::OnFailure, 3, Phase::Starting),
        (RestartCondition::Any, 0, Phase::Starting),
    ];
    for (condition, code, expected) in cases {
        let mut host = Host::new();
        let wanted = assigned(Want::Run, |spec| spec.container.restart.condition = condition);
        host.pass(&wanted, &container(running(Health::Unchecked)), 1000);
        assert_eq!(
            phase(&host.pass(&wanted, &container(exited(code, 1000, 2000)), 2000)).1,
            expected,
            "{condition:?} {code}"
        );
    }
}

#[test]
fn after_a_reboot_everything_that_ran_is_started_again() {
    let mut host = Host::new();
    let wanted = assigned(Want::Run, |spec| spec.container.restart.condition = RestartCondition::OnFailure);
    host.pass(&wanted, &container(running(Health::Unchecked)), 1000);
    host.boot = BootId([2; 10]);
    let next = host.pass(&wanted, &container(exited(0, 1000, 2000)), 5000);
    assert_eq!(phase(&next), (1, Phase::Starting));
}

#[test]
fn a_running_container_is_adopted_when_the_ledger_is_lost() {
    let mut host = Host::new();
    let mut wanted = assigned(Want::Run, |_| {});
    wanted.instances[0].restarts = 4;
    let next = host.pass(&wanted, &container(running(Health::Healthy)), 1000);
    assert_eq!((next.actions.len(), phase(&next)), (0, (4, Phase::Running)));
}

#[test]
fn a_program_that_ends_unseen_after_a_boot_has_ended_by_itself() {
    let mut host = Host::new();
    let job = assigned(Want::Run, |spec| spec.container.restart.condition = RestartCondition::OnFailure);
    host.pass(&job, &container(running(Health::Unchecked)), 1000);
    host.boot = BootId([2; 10]);
    assert_eq!(phase(&host.pass(&job, &container(exited(255, 1000, 2000)), 3000)), (1, Phase::Starting));
    let next = host.pass(&job, &container(exited(255, 1000, 2000)), 60_000);
    assert!(matches!(next.actions[..], [Action::Start { .. }]));
    assert_eq!(phase(&host.pass(&job, &container(exited(0, 60_000, 60_001)), 60_002)), (1, Phase::Completed));
}

#[test]
fn nothing_is_stopped_because_it_is_absent() {
    let mut host = Host::new();
    let mut empty = assigned(Want::Run, |_| {});
    empty.instances.clear();
    let next = host.pass(&empty, &container(running(Health::Unchecked)), 1000);
    assert!(next.actions.is_empty());
    assert_eq!(next.report.unknown, BTreeSet::from([id()]));
    empty.surplus.insert(id());
    assert!(matches!(
        host.pass(&empty, &container(running(Health::Unchecked)), 1000).actions[..],
        [Action::Stop { .. }]
    ));
    assert!(matches!(host.pass(&empty, &container(exited(0, 1, 2)), 1000).actions[..], [Action::Remove { .. }]));
}

#[test]
fn an_end_is_stop_then_remove_then_purged() {
    let mut host = Host::new();
    host.pass(&assigned(Want::Run, |_| {}), &container(running(Health::Unchecked)), 1000);
    let purge = assigned(Want::Purge, |_| {});
    let next = host.pass(&purge, &container(running(Health::Unchecked)), 1000);
    assert_eq!((matches!(next.actions[..], [Action::Stop { .. }]), phase(&next).1), (true, Phase::Stopping));
    assert!(matches!(
        host.pass(&purge, &container(exited(143, 1000, 2000)), 2000).actions[..],
        [Action::Remove { .. }]
    ));
    assert_eq!(phase(&host.pass(&purge, &BTreeMap::new(), 3000)).1, Phase::Purged);
}

#[test]
fn who_is_called_by_others_is_stopped_when_they_could_know() {
    let port = |spec: &mut ServiceSpec| {
        spec.ports.push(PortSpec { container: 80, published: None, protocol: Protocol::Tcp, host_ip: None });
    };
    for (reason, waits) in [(StopReason::Superseded, true), (StopReason::Drained, true), (StopReason::Removed, false)] {
        let mut host = Host::new();
        host.pass(&assigned(Want::Run, port), &container(running(Health::Unchecked)), 1000);
        let mut purge = assigned(Want::Purge, port);
        purge.instances[0].desired.reason = Some(reason);
        let next = host.pass(&purge, &container(running(Health::Unchecked)), 2000);
        assert_eq!(phase(&next).1, Phase::Stopping, "others learn of it at once");
        assert_eq!((next.actions.is_empty(), next.wake_at), (waits, waits.then_some(Timestamp(4000))), "{reason:?}");
        let next = host.pass(&purge, &container(running(Health::Unchecked)), 4000);
        assert!(matches!(next.actions[..], [Action::Stop { .. }]));
    }
}

#[test]
fn a_stopped_instance_keeps_its_container_and_its_verdict() {
    let mut host = Host::new();
    let wanted = assigned(Want::Run, |spec| spec.container.restart.condition = RestartCondition::None);
    host.pass(&wanted, &container(running(Health::Unchecked)), 1000);
    host.pass(&wanted, &container(exited(7, 1000, 2000)), 2000);
    let next = host.pass(&assigned(Want::Stop, |_| {}), &container(exited(7, 1000, 2000)), 3000);
    assert_eq!((next.actions.len(), phase(&next).1), (0, Phase::Failed));
}

#[test]
fn an_unhealthy_program_is_stopped_and_started_again() {
    let mut host = Host::new();
    let wanted = assigned(Want::Run, |_| {});
    let next = host.pass(&wanted, &container(running(Health::Unhealthy)), 1000);
    assert!(matches!(next.actions[..], [Action::Stop { .. }]));
    let next = host.pass(&wanted, &container(exited(0, 1000, 2000)), 2000);
    assert_eq!(phase(&next), (1, Phase::Starting));
    assert!(next.report.instances[0].1.message.contains("unhealthy"));
}

#[test]
fn what_cannot_run_here_is_rejected_and_a_slow_registry_is_waited_for() {
    let mut host = Host::new();
    let wanted = assigned(Want::Run, |_| {});
    let none = BTreeMap::new();
    let action = host.pass(&wanted, &none, 0).actions.remove(0);
    host.learn(&action, ActionResult::Failed("registry down".into()), 100);
    let next = host.pass(&wanted, &none, 100);
    assert_eq!((next.actions.len(), next.wake_at), (0, Some(Timestamp(2100))));
    assert_eq!(next.report.instances[0].1.message, "registry down");
    host.learn(&action, ActionResult::Failed("registry down".into()), 700_000);
    assert_eq!(phase(&host.pass(&wanted, &none, 700_000)).1, Phase::Rejected);
    let mut host = Host::new();
    let action = host.pass(&wanted, &none, 0).actions.remove(0);
    host.learn(&action, ActionResult::Impossible("no such image".into()), 0);
    assert_eq!(phase(&host.pass(&wanted, &none, 0)).1, Phase::Rejected);
}

#[test]
fn a_removed_container_is_made_again() {
    let mut host = Host::new();
    let wanted = assigned(Want::Run, |_| {});
    host.pass(&wanted, &container(running(Health::Unchecked)), 1000);
    let next = host.pass(&wanted, &BTreeMap::new(), 2000);
    assert_eq!((phase(&next), next.actions), ((1, Phase::Pulling), vec![Action::Prepare(id().main())]));
}

#[test]
fn a_strict_singleton_runs_under_a_lease_alone() {
    let mut host = Host::new();
    let wanted = assigned(Want::Run, |spec| spec.strict_singleton = true);
    let created = container(ContainerState::Created);
    let waits = host.pass(&wanted, &created, 1000);
    assert!(
        waits.actions.is_empty() && waits.report.instances[0].1.message.contains("waits for its lease"),
        "{waits:?}"
    );
    let lease = |soft, hard| BTreeMap::from([(id(), Lease { soft: Timestamp(soft), hard: Timestamp(hard) })]);
    host.leases = lease(5000, 8000);
    assert!(matches!(host.pass(&wanted, &created, 1000).actions[..], [Action::Start { .. }]));
    let runs = host.pass(&wanted, &container(running(Health::Unchecked)), 2000);
    assert_eq!((runs.actions.len(), runs.wake_at), (0, Some(Timestamp(5000))), "it looks again when the lease ends");
    let over = host.pass(&wanted, &container(running(Health::Unchecked)), 5000);
    let expected = Action::Stop { part: id().main(), container: "c".into(), grace: Span(3000) };
    assert_eq!(over.actions, [expected], "it has what is left of the lease to end by itself");
    let stopped = host.pass(&wanted, &container(exited(143, 1000, 5100)), 5200);
    assert_eq!((stopped.actions.len(), phase(&stopped)), (0, (1, Phase::Starting)), "no failure, and no start");
    host.leases = lease(20_000, 30_000);
    assert!(matches!(
        host.pass(&wanted, &container(exited(143, 1000, 5100)), 9000).actions[..],
        [Action::Start { .. }]
    ));

    // Its agent was dead when the guard ended it.
    let mut host = Host::new();
    host.leases = lease(5000, 8000);
    host.pass(&wanted, &container(running(Health::Unchecked)), 2000);
    let killed = host.pass(&wanted, &container(exited(137, 1000, 8100)), 60_000);
    assert_eq!((killed.actions.len(), phase(&killed)), (0, (1, Phase::Starting)));
}

#[test]
fn a_failure_is_told_with_what_was_printed_last_and_stays_known_while_it_runs_again() {
    let printed = |state: ContainerState, text: &str| {
        let mut containers = container(state);
        containers.get_mut(&id().main()).expect("it is there").output = LastLines::of(text.as_bytes());
        containers
    };
    let told = |next: &Next| {
        let observed = &next.report.instances[0].1;
        (observed.failure.clone(), observed.output.lines().join("|"))
    };
    let failed = ("it ended with exit code 7".to_owned(), "FATAL no database".to_owned());
    let unhealthy = (CHECK_FAILS.to_owned(), "connection refused".to_owned());

    let mut host = Host::new();
    let wanted = assigned(Want::Run, |spec| spec.container.restart.condition = RestartCondition::Any);
    host.pass(&wanted, &container(running(Health::Unchecked)), 1000);
    let next = host.pass(&wanted, &printed(exited(7, 1000, 2000), "FATAL no database\n"), 2000);
    assert_eq!((phase(&next), told(&next)), ((1, Phase::Starting), failed.clone()));
    let again = ContainerState::Running { started_at: Timestamp(5000), health: Health::Unchecked };
    let next = host.pass(&wanted, &container(again), 5000);
    assert_eq!((phase(&next), told(&next)), ((1, Phase::Running), failed));

    let mut host = Host::new();
    host.pass(&wanted, &container(running(Health::Starting)), 1000);
    let next = host.pass(&wanted, &printed(running(Health::Unhealthy), "connection refused"), 2000);
    assert_eq!(told(&next), unhealthy);
    assert_eq!(next.report.instances[0].1.message, CHECK_FAILS);
    let next = host.pass(&wanted, &printed(exited(143, 1000, 3000), "bye"), 3000);
    let stopped = ("it was unhealthy, so it was stopped".to_owned(), unhealthy.1);
    assert_eq!((phase(&next), told(&next)), ((1, Phase::Starting), stopped), "the check's output says why");

    let mut host = Host::new();
    let once = assigned(Want::Run, |spec| spec.container.restart.condition = RestartCondition::None);
    host.pass(&once, &container(running(Health::Unchecked)), 1000);
    let next = host.pass(&once, &printed(exited(0, 1000, 2000), "42 rows\n"), 2000);
    assert_eq!(phase(&next), (0, Phase::Completed));
    assert_eq!(told(&next), (String::new(), "42 rows".to_owned()), "what a job printed is kept; it did not fail");
}

#[test]
fn since_when_a_preparation_fails_is_told_until_it_does_not() {
    let mut host = Host::new();
    let wanted = assigned(Want::Run, |_| {});
    let none = BTreeMap::new();
    let unprepared = |next: &Next| next.report.instances[0].1.unprepared.clone();
    let since = |at| Some(common::instance::Unprepared { image: "web".into(), since: Timestamp(at) });
    let failed = || ActionResult::Failed("no space left on device".into());
    let (prepare, create) = (Action::Prepare(id().main()), Action::Create(id().main()));
    host.pass(&wanted, &none, 0);
    for (action, result, now, expected) in [
        (&prepare, failed(), 1000, since(1000)),
        (&prepare, failed(), 4000, since(1000)),
        (&prepare, ActionResult::Waits("Docker does not answer".into()), 5000, since(1000)),
        (&prepare, ActionResult::Prepared, 9000, None),
        (&create, failed(), 10_000, since(10_000)),
        (&create, ActionResult::Done, 12_000, None),
    ] {
        host.learn(action, result, now);
        assert_eq!(unprepared(&host.pass(&wanted, &none, now)), expected, "at {now}");
    }
}

#[test]
fn a_process_that_is_gone_is_told_while_docker_is_silent_and_nothing_is_concluded() {
    let mut host = Host::new();
    let wanted = assigned(Want::Run, |_| {});
    let next = host.pass(&wanted, &container(running(Health::Healthy)), 1000);
    let gone = BTreeSet::from([id()]);
    assert_eq!(without_docker(&next.report, &BTreeSet::new()), next.report);
    let told = without_docker(&next.report, &gone);
    let observed = &told.instances[0].1;
    assert_eq!((observed.restart, observed.phase, observed.health), (0, Phase::Running, Health::Gone));
    assert!(!observed.is_serving() && observed.may_follow(&next.report.instances[0].1));
    assert_eq!(without_docker(&told, &gone), told, "it is no news again");
    let back = host.pass(&wanted, &container(running(Health::Healthy)), 2000);
    assert_eq!(back.report, next.report, "what Docker shows counts");
    let ended = host.pass(&wanted, &container(exited(137, 1000, 3000)), 3000);
    assert!(ended.report.instances[0].1.may_follow(observed));
    let ended = without_docker(&ended.report, &gone);
    assert_ne!(ended.instances[0].1.health, Health::Gone, "it does not run, and says so by itself");
}
