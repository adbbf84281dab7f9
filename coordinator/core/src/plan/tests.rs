use common::{
    host::{Availability, Liveness, Oversubscription},
    instance::Phase,
    quantity::{Bytes, MilliCpu},
    rollout::RolloutState,
    spec::{
        Condition, CronSpec, Mode, MountSource, MountSpec, Overlap, PortSpec, Protocol, Resources, RestartCondition,
        ServiceSpec,
    },
    time::{Span, Timestamp},
};

use super::*;
use crate::testing::{Fixture, facts, host, name, stack, web};

fn port(published: Option<u16>) -> PortSpec {
    PortSpec { container: 80, published, protocol: Protocol::Tcp, host_ip: None }
}

/// Deploys one service on three hosts; what is filled after that, and why the rest is not.
fn placed(spec: ServiceSpec) -> (Vec<String>, Vec<String>) {
    let mut fixture = Fixture::of_hosts(3);
    fixture.deploy(&[("web", spec)]);
    fixture.settle();
    let blocked = plan(&fixture.cluster, fixture.now)
        .blocked
        .into_values()
        .flatten()
        .map(|blocked| blocked.to_string())
        .collect();
    (fixture.filled(), blocked)
}

#[test]
fn instances_are_spread_and_what_does_not_fit_says_why() {
    type Change = fn(&mut ServiceSpec);
    let cases: [(&str, Change, &[&str], &[&str]); 8] = [
        ("one on each", |s| s.replicas = 3, &["web/1.1@h1", "web/2.1@h2", "web/3.1@h3"], &[]),
        (
            "two on each of two after one on each",
            |s| s.replicas = 5,
            &["web/1.1@h1", "web/2.1@h2", "web/3.1@h3", "web/4.1@h1", "web/5.1@h2"],
            &[],
        ),
        (
            "memory that is reserved is gone",
            |s| {
                s.replicas = 4;
                s.container.reservations.memory = Bytes(3 << 30);
            },
            &["web/1.1@h1", "web/2.1@h2", "web/3.1@h3"],
            &["3 hosts lack memory: it needs 3.0 GiB, and the most free is 1.0 GiB on h1"],
        ),
        (
            "cores likewise",
            |s| s.container.reservations.cpu = MilliCpu(2500),
            &[],
            &["3 hosts lack cpu: it needs 2.5 cores, and the most free is 2 on h1"],
        ),
        (
            "a fixed port once a host",
            |s| {
                s.replicas = 4;
                s.ports = vec![port(Some(80))];
            },
            &["web/1.1@h1", "web/2.1@h2", "web/3.1@h3"],
            &["3 hosts have port 80/tcp booked by another instance"],
        ),
        (
            "a host by its name",
            |s| {
                s.replicas = 2;
                s.constraints.push("node.hostname == h2".parse().expect("a constraint"));
            },
            &["web/1.1@h2", "web/2.1@h2"],
            &[],
        ),
        (
            "a label that no host has",
            |s| s.constraints.push("node.labels.disk == ssd".parse().expect("a constraint")),
            &[],
            &["3 hosts do not match node.labels.disk == ssd"],
        ),
        (
            "coordinators alone",
            |s| s.constraints.push("node.role == manager".parse().expect("a constraint")),
            &["web/1.1@h1"],
            &[],
        ),
    ];
    for (what, change, filled, blocked) in cases {
        let (found, why) = placed(web(change));
        assert_eq!(found, filled, "{what}");
        assert_eq!(why, blocked, "{what}");
    }
}

#[test]
fn a_host_whose_docker_is_silent_gets_nothing() {
    let mut fixture = Fixture::of_hosts(1);
    let silent = common::host::HostFacts { docker: String::new(), ..crate::testing::facts(1) };
    fixture.done(Command::HostReported { host: host(1), facts: silent, machine: [1; 16] });
    fixture.deploy(&[("web", web(|_| {}))]);
    let why: Vec<String> = plan(&fixture.cluster, fixture.now)
        .blocked
        .into_values()
        .flatten()
        .map(|blocked| blocked.to_string())
        .collect();
    assert_eq!(why, ["Docker does not answer on host h1"]);
}

#[test]
fn ports_that_nobody_asked_for_are_given_out_once() {
    let mut fixture = Fixture::of_hosts(1);
    fixture.deploy(&[(
        "web",
        web(|s| {
            s.replicas = 3;
            s.ports = vec![port(None), port(Some(20_001))];
            s.replicas = 1;
        }),
    )]);
    fixture.settle();
    let ports: Vec<u16> =
        fixture.cluster.instances().values().flat_map(|i| i.ports.iter().map(|port| port.host)).collect();
    assert_eq!(ports, [20_000, 20_001], "the one in the middle was asked for");
}

#[test]
fn what_a_lost_host_ran_is_replaced_after_its_time_and_ended_at_its_return() {
    let mut fixture = Fixture::of_hosts(3);
    fixture.deploy(&[("web", web(|s| s.replicas = 3))]);
    fixture.pass(Span::minutes(1), &|_| {});
    let settings = fixture.cluster.settings();

    let since = fixture.now;
    fixture.done(Command::HostLiveness { host: host(3), liveness: Liveness::Down { since } });
    let waiting = plan(&fixture.cluster, fixture.now);
    assert!(waiting.commands.is_empty(), "nothing is done yet: {:?}", waiting.commands);
    let lost_at = since + Span(settings.lost_after.0 - settings.down_after.0);
    assert_eq!(waiting.wake_at, Some(lost_at));

    // A leader that has only just begun gives every host a whole lease first.
    let new = Moment { now: lost_at, leading_since: lost_at };
    let warm = plan(&fixture.cluster, new);
    assert!(warm.commands.is_empty());
    assert_eq!(warm.wake_at, Some(lost_at + settings.down_after));

    fixture.now = lost_at;
    fixture.settle();
    assert_eq!(fixture.filled(), ["web/1.1@h1", "web/2.1@h2", "web/3.2@h1"]);
    fixture.done(Command::HostLiveness { host: host(3), liveness: Liveness::Ready });
    fixture.settle();
    assert_eq!(fixture.filled(), ["web/1.1@h1", "web/2.1@h2", "web/3.2@h1"]);
    assert_eq!(fixture.cluster.instances().len(), 3, "the old one is gone");
}

#[test]
fn scaling_down_ends_the_highest_slots_and_scaling_to_nothing_all() {
    let mut fixture = Fixture::of_hosts(3);
    fixture.deploy(&[("web", web(|s| s.replicas = 4))]);
    fixture.settle();
    let service = stack().service(name("web"));
    fixture.done(Command::ScaleService { id: service.clone(), replicas: 2 });
    fixture.settle();
    assert_eq!(fixture.filled(), ["web/1.1@h1", "web/2.1@h2"]);
    fixture.done(Command::ScaleService { id: service.clone(), replicas: 0 });
    fixture.settle();
    assert!(fixture.cluster.instances().is_empty());
    fixture.done(Command::ScaleService { id: service, replicas: 1 });
    fixture.settle();
    assert_eq!(fixture.filled(), ["web/1.2@h1"], "an incarnation is never given out twice");
}

#[test]
fn what_fails_is_tried_again_later_and_later() {
    let mut fixture = Fixture::of_hosts(1);
    fixture.deploy(&[("web", web(|_| {}))]);
    let mut waits = Vec::new();
    for incarnation in 1..=3 {
        let commands = plan(&fixture.cluster, fixture.now).commands;
        commands.into_iter().for_each(|command| drop(fixture.done(command)));
        fixture.observe(&format!("web/1.{incarnation}"), Phase::Failed);
        let commands = plan(&fixture.cluster, fixture.now).commands;
        commands.into_iter().for_each(|command| drop(fixture.done(command)));
        let wake = plan(&fixture.cluster, fixture.now).wake_at.expect("it is tried again");
        waits.push(wake.since(fixture.now));
        fixture.now = wake;
    }
    assert_eq!(waits, [Span::seconds(5), Span::seconds(10), Span::seconds(20)]);
}

#[test]
fn a_service_waits_for_what_it_depends_on() {
    let mut fixture = Fixture::of_hosts(1);
    let depends = |s: &mut ServiceSpec| {
        s.depends_on.insert(name("db"), Condition::Started);
    };
    fixture.deploy(&[("db", web(|_| {})), ("web", web(depends))]);
    let first = plan(&fixture.cluster, fixture.now);
    assert_eq!(first.commands.len(), 1, "the database alone: {:?}", first.commands);
    let why: Vec<String> = first.blocked.into_values().flatten().map(|blocked| blocked.to_string()).collect();
    assert_eq!(why, ["it waits for db: 0 of 1 running"]);
    fixture.settle();
    assert_eq!(fixture.filled(), ["db/1.1@h1", "web/1.1@h1"]);
}

/// A host like the others but for one thing.
fn odd(fixture: &mut Fixture, number: u8, change: impl FnOnce(&mut common::host::HostFacts)) {
    let mut facts = crate::testing::facts(number);
    change(&mut facts);
    fixture.report(number, facts);
}

#[test]
fn a_service_that_fits_nowhere_says_everything_that_is_in_its_way() {
    let mut fixture = Fixture::of_hosts(8);
    let fixed = |s: &mut ServiceSpec| s.ports = vec![port(Some(80))];
    fixture.deploy(&[(
        "other",
        web(|s| {
            fixed(s);
            s.constraints.push("node.hostname == h7".parse().expect("a constraint"));
        }),
    )]);
    fixture.settle();
    let since = fixture.now;
    fixture.done(Command::HostLiveness { host: host(1), liveness: Liveness::Down { since } });
    fixture.done(Command::SetAvailability { host: host(2), availability: Availability::Cordoned });
    odd(&mut fixture, 3, |facts| facts.docker = String::new());
    odd(&mut fixture, 4, |facts| facts.arch = "aarch64".into());
    odd(&mut fixture, 5, |facts| facts.cpu = MilliCpu(500));
    odd(&mut fixture, 6, |facts| facts.memory = Bytes(64 << 20));
    let spec = web(|s| {
        fixed(s);
        s.replicas = 2;
        s.max_per_host = Some(1);
        s.container.reservations.cpu = MilliCpu(1000);
        s.container.reservations.memory = Bytes(1 << 30);
        s.constraints.push("node.platform.arch == amd64".parse().expect("a constraint"));
    });
    let other = fixture.cluster.stacks()[&stack()].spec.services[&name("other")].clone();
    fixture.deploy(&[("other", other), ("web", spec)]);
    fixture.settle();
    let why: Vec<String> = plan(&fixture.cluster, fixture.now)
        .blocked
        .into_values()
        .flatten()
        .map(|blocked| blocked.to_string())
        .collect();
    let expected = [
        "host h1 is down",
        "host h2 is cordoned",
        "Docker does not answer on host h3",
        "host h4 does not match node.platform.arch == amd64",
        "host h5 lacks cpu: it needs 1 cores, and the most free is 0.5 on h5",
        "host h6 lacks memory: it needs 1.0 GiB, and the most free is 64 MiB on h6",
        "host h8 has 1 of its instances, its maximum per host",
        "host h7 has port 80/tcp booked by another instance",
    ];
    assert_eq!(why, expected);
}

#[test]
fn a_host_that_comes_and_goes_gets_nothing_new_for_a_while() {
    let mut fixture = Fixture::of_hosts(1);
    for _ in 0..3 {
        let since = fixture.now;
        fixture.done(Command::HostLiveness { host: host(1), liveness: Liveness::Down { since } });
        fixture.now = fixture.now + Span::seconds(40);
        fixture.done(Command::HostLiveness { host: host(1), liveness: Liveness::Ready });
    }
    fixture.deploy(&[("web", web(|_| {}))]);
    let waiting = plan(&fixture.cluster, fixture.now);
    let why: Vec<String> = waiting.blocked.into_values().flatten().map(|blocked| blocked.to_string()).collect();
    assert_eq!(why, ["host h1 comes and goes too often to get new instances at present"]);
    assert_eq!(waiting.wake_at, Some(fixture.now + Span::minutes(5)));
    fixture.pass(Span::minutes(5), &|_| {});
    assert_eq!(fixture.filled(), ["web/1.1@h1"]);
}

#[test]
fn what_backs_off_is_tried_at_once_when_a_person_asks_for_it() {
    let mut fixture = Fixture::of_hosts(1);
    fixture.deploy(&[("web", web(|spec| spec.container.image = "broken".into()))]);
    fixture.settle();
    let service = stack().service(name("web"));
    let why: Vec<String> = plan(&fixture.cluster, fixture.now)
        .blocked
        .into_values()
        .flatten()
        .map(|blocked| blocked.to_string())
        .collect();
    assert!(why[0].starts_with("slot 1 failed 1 times in a row and will be retried at "), "{why:?}");
    fixture.done(Command::Retry(service.clone()));
    let again = plan(&fixture.cluster, fixture.now).commands;
    assert!(again.iter().any(|command| matches!(command, Command::Place(_))), "{again:?}");
    let refused = fixture.apply(Command::Retry(stack().service(name("none"))));
    assert!(matches!(refused, crate::Outcome::Rejected(_)));
}

#[test]
fn a_job_runs_once_for_each_revision_whatever_becomes_of_its_host() {
    let job = |image: &str| {
        web(|spec| {
            spec.mode = Mode::Job;
            spec.replicas = 2;
            spec.container.image = image.into();
            spec.container.restart.condition = RestartCondition::OnFailure;
        })
    };
    let view = |fixture: &Fixture| crate::view::stack(&fixture.cluster, &stack(), fixture.now).expect("it is there");
    let mut fixture = Fixture::of_hosts(2);
    fixture.deploy(&[("web", job("web:1"))]);
    fixture.pass(Span::minutes(1), &|_| {});
    assert_eq!(fixture.filled(), ["web/1.1@h1", "web/2.1@h2"]);
    assert_eq!(view(&fixture).services[0].rollout.state, RolloutState::Rolling, "they run");
    // One ends, the host of the other is emptied: it may run to its end there.
    fixture.observe("web/1.1", Phase::Completed);
    let deadline = fixture.now + Span::minutes(10);
    fixture.done(Command::SetAvailability { host: host(2), availability: Availability::Draining { deadline } });
    fixture.pass(Span::minutes(1), &|_| {});
    assert_eq!(fixture.filled(), ["web/1.1@h1", "web/2.1@h2"]);
    fixture.observe("web/2.1", Phase::Completed);
    fixture.pass(Span::minutes(1), &|_| {});
    let service = view(&fixture).services.remove(0);
    assert_eq!((service.completed, service.rollout.state), (2, RolloutState::Done));
    // Its host goes: what has ended is not done again.
    fixture.done(Command::RemoveHost(host(2)));
    fixture.pass(Span::minutes(5), &|_| {});
    assert_eq!(fixture.filled(), ["web/1.1@h1"]);
    // A new revision is a new job.
    fixture.deploy(&[("web", job("web:2"))]);
    fixture.pass(Span::minutes(1), &|_| {});
    assert_eq!(fixture.filled(), ["web/1.2@h1", "web/2.2@h1"]);
    assert_eq!(view(&fixture).services[0].completed, 0);
}

/// A job that is due every ten minutes, and what `hosts` made of it so far.
fn every_ten_minutes(overlap: Overlap) -> Fixture {
    let mut fixture = Fixture::of_hosts(1);
    let cron = CronSpec { overlap, ..CronSpec::of("*/10 * * * *") };
    fixture.deploy(&[(
        "web",
        web(|spec| {
            spec.mode = Mode::Job;
            spec.cron = Some(cron);
            spec.container.restart.condition = RestartCondition::OnFailure;
        }),
    )]);
    fixture
}

fn events(fixture: &Fixture, reason: &str) -> Vec<String> {
    let events = fixture.cluster.events().values().filter(|event| event.reason == reason);
    events.map(|event| event.message.clone()).collect()
}

#[test]
fn a_schedule_begins_a_run_at_each_time_and_leaves_out_what_overlaps() {
    // The clock begins at 00:16:40.
    let mut fixture = every_ten_minutes(Overlap::Skip);
    fixture.pass(Span::minutes(3), &|_| {});
    assert!(fixture.filled().is_empty(), "it is not run when it is deployed");
    fixture.pass(Span::minutes(1), &|_| {});
    assert_eq!(fixture.filled(), ["web/1.1@h1"]);
    fixture.pass(Span::minutes(10), &|_| {});
    assert_eq!(events(&fixture, "run-begun"), ["run 1, due at 1970-01-01T00:20:00.000Z"]);
    let left_out = ["the run due at 1970-01-01T00:30:00.000Z was left out: the previous run has not ended"];
    assert_eq!(events(&fixture, "run-left-out"), left_out);
    fixture.observe("web/1.1", Phase::Completed);
    fixture.pass(Span::minutes(10), &|_| {});
    assert_eq!(events(&fixture, "run-begun")[1..], ["run 2, due at 1970-01-01T00:40:00.000Z"]);
    assert_eq!(fixture.filled(), ["web/1.2@h1"]);
    let twice = Command::Tick { service: stack().service(name("web")), due: Timestamp(40 * 60_000), left_out: None };
    assert!(matches!(fixture.apply(twice), crate::Outcome::Rejected(_)), "a second leader comes too late");
}

#[test]
fn a_run_may_replace_the_one_before() {
    let mut fixture = every_ten_minutes(Overlap::Replace);
    fixture.pass(Span::minutes(15), &|_| {});
    assert_eq!(fixture.filled(), ["web/1.2@h1"]);
    assert_eq!(events(&fixture, "run-begun").len(), 2);
}

#[test]
fn of_the_runs_that_were_missed_the_last_is_made_up_for_if_it_is_not_too_late() {
    // Nobody led from 00:16:40 on.
    for (minutes, begun, left_out) in [(5, "due at 1970-01-01T00:20", 0), (27, "due at 1970-01-01T00:40", 0)] {
        let mut fixture = every_ten_minutes(Overlap::Skip);
        fixture.now = fixture.now + Span::minutes(minutes);
        fixture.settle();
        let found = events(&fixture, "run-begun");
        assert!(found.len() == 1 && found[0].contains(begun), "{minutes}: {found:?}");
        assert_eq!(events(&fixture, "run-left-out").len(), left_out);
    }
    let mut fixture = Fixture::of_hosts(1);
    fixture.deploy(&[(
        "web",
        web(|spec| {
            spec.mode = Mode::Job;
            spec.cron = Some(CronSpec { catch_up: Span::minutes(1), ..CronSpec::of("0 * * * *") });
        }),
    )]);
    fixture.now = fixture.now + Span::minutes(80);
    fixture.settle();
    assert_eq!(events(&fixture, "run-begun"), [""; 0]);
    assert_eq!(events(&fixture, "run-left-out").len(), 1, "what is too late is shown");
}

/// A service with a condition on hosts.
fn that(replicas: u32, condition: &str) -> ServiceSpec {
    web(|spec| {
        spec.replicas = replicas;
        spec.constraints.push(condition.parse().expect("a constraint"));
    })
}

#[test]
fn what_else_runs_there_decides_where_an_instance_goes() {
    // Services are planned in the order of their names: what comes later follows in the next pass.
    let cases: [(&str, Vec<(&str, ServiceSpec)>, &[&str]); 5] = [
        (
            "beside another",
            vec![("aa", that(2, "service == db")), ("db", that(1, "node.hostname == h3"))],
            &["aa/1.1@h3", "aa/2.1@h3", "db/1.1@h3"],
        ),
        (
            "away from another, whichever of them says so",
            vec![("db", that(2, "node.hostname != h3")), ("zz", that(2, "service != db"))],
            &["db/1.1@h1", "db/2.1@h2", "zz/1.1@h3", "zz/2.1@h3"],
        ),
        (
            "the other way round",
            vec![("aa", that(2, "service != db")), ("db", that(2, "node.hostname exists"))],
            &["aa/1.1@h1", "aa/2.1@h2", "db/1.1@h3", "db/2.1@h3"],
        ),
        ("all together", vec![("web", that(3, "service == web"))], &["web/1.1@h1", "web/2.1@h1", "web/3.1@h1"]),
        (
            "away from a label",
            vec![("db", red(that(1, "node.hostname == h1"))), ("zz", that(2, "container.labels.team != red"))],
            &["db/1.1@h1", "zz/1.1@h2", "zz/2.1@h3"],
        ),
    ];
    for (case, services, filled) in cases {
        let mut fixture = Fixture::of_hosts(3);
        fixture.deploy(&services);
        fixture.settle();
        assert_eq!(fixture.filled(), filled, "{case}");
    }

    let mut fixture = Fixture::of_hosts(3);
    fixture.deploy(&[("db", that(3, "node.hostname exists")), ("zz", that(1, "service != db"))]);
    fixture.settle();
    let blocked: Vec<String> = plan(&fixture.cluster, fixture.now)
        .blocked
        .into_values()
        .flatten()
        .map(|blocked| blocked.to_string())
        .collect();
    assert_eq!(blocked, ["3 hosts do not match service != db"]);
}

fn red(mut spec: ServiceSpec) -> ServiceSpec {
    spec.container.labels.insert("team".into(), "red".into());
    spec
}

#[test]
fn a_placement_is_checked_against_what_came_before_it() {
    let mut fixture = Fixture::of_hosts(2);
    fixture.deploy(&[("db", that(2, "node.hostname exists")), ("zz", that(0, "service != db"))]);
    fixture.settle();
    let service = stack().service(name("zz"));
    fixture.done(Command::ScaleService { id: service.clone(), replicas: 1 });
    let placement = crate::command::Placement {
        slot: service.slot(1),
        expect_incarnation: 0,
        expect_revision: 1,
        revision: 1,
        host: host(1),
        ports: Vec::new(),
        devices: Vec::new(),
        replaces: None,
        unknown_since: None,
    };
    let said = fixture.refused(Command::Place(Box::new(placement)));
    assert!(said.contains("its host does not match service != db"), "{said}");
}

#[test]
fn a_global_service_can_follow_another() {
    let mut fixture = Fixture::of_hosts(3);
    let log = || ServiceSpec { mode: Mode::Global, ..that(1, "service == db") };
    fixture.deploy(&[("db", that(2, "node.hostname exists")), ("log", log())]);
    fixture.settle();
    assert_eq!(fixture.filled(), ["db/1.1@h1", "db/2.1@h2", "log/1.1@h1", "log/2.1@h2"]);
    fixture.done(Command::ScaleService { id: stack().service(name("db")), replicas: 1 });
    fixture.settle();
    assert_eq!(fixture.filled(), ["db/1.1@h1", "log/1.1@h1"]);
}

#[test]
fn preferences_are_met_where_they_can_be() {
    let prefer = |replicas: u32, wish: &str| {
        let prefer = vec![wish.parse().expect("a constraint")];
        web(|spec| (spec.replicas, spec.prefer) = (replicas, prefer))
    };
    assert_eq!(placed(prefer(2, "node.hostname == h3")).0, ["web/1.1@h3", "web/2.1@h3"]);
    let full = |spec: &mut ServiceSpec| spec.max_per_host = Some(1);
    let mut spec = prefer(2, "node.hostname == h3");
    full(&mut spec);
    assert_eq!(placed(spec), (vec!["web/1.1@h3".to_owned(), "web/2.1@h1".to_owned()], Vec::new()));
}

#[test]
fn the_more_important_is_placed_first() {
    let large = |priority: i32| {
        web(|spec| {
            spec.container.reservations.memory = Bytes(3 << 30);
            spec.priority = priority;
        })
    };
    let mut fixture = Fixture::of_hosts(1);
    fixture.deploy(&[("aa", large(0)), ("zz", large(10))]);
    fixture.settle();
    assert_eq!(fixture.filled(), ["zz/1.1@h1"]);
}

#[test]
fn a_host_can_be_reserved_more_than_once() {
    let mut fixture = Fixture::of_hosts(1);
    let spec = web(|spec| {
        spec.replicas = 2;
        spec.container.reservations = Resources { cpu: MilliCpu(1500), memory: Bytes(3 << 30) };
    });
    fixture.deploy(&[("web", spec)]);
    fixture.settle();
    assert_eq!(fixture.filled(), ["web/1.1@h1"]);
    let twice = Oversubscription { cpu: 200, memory: 150 };
    fixture.done(Command::Oversubscribe { host: host(1), oversubscription: twice });
    fixture.settle();
    assert_eq!(fixture.filled(), ["web/1.1@h1", "web/2.1@h1"]);
    let said = fixture
        .refused(Command::Oversubscribe { host: host(1), oversubscription: Oversubscription { cpu: 5, memory: 100 } });
    assert!(said.contains("5 % and 100 % are not both between 10 % and 1000 %"), "{said}");
}

#[test]
fn nothing_runs_in_maintenance() {
    let mut fixture = Fixture::of_hosts(2);
    let volume = MountSpec::of(MountSource::Volume(name("data").into()), "/data");
    let mut db = that(1, "node.hostname == h1");
    db.container.mounts.push(volume);
    let log = ServiceSpec { mode: Mode::Global, ..web(|_| {}) };
    fixture.deploy(&[("db", db), ("log", log), ("web", web(|spec| spec.replicas = 2))]);
    fixture.settle();
    let availability = Availability::Maintenance;
    fixture.done(Command::SetAvailability { host: host(1), availability });
    fixture.settle();
    assert_eq!(fixture.filled(), ["log/2.1@h2", "web/1.1@h2", "web/2.2@h2"]);
    let blocked: Vec<String> = plan(&fixture.cluster, fixture.now)
        .blocked
        .into_values()
        .flatten()
        .map(|blocked| blocked.to_string())
        .collect();
    assert_eq!(blocked, ["host h1 is in maintenance", "host h2 does not have its data"]);
    fixture.done(Command::SetAvailability { host: host(1), availability: Availability::Active });
    fixture.settle();
    assert_eq!(fixture.filled(), ["db/1.2@h1", "log/1.2@h1", "log/2.1@h2", "web/1.1@h2", "web/2.2@h2"]);
}

#[test]
fn a_host_that_said_that_it_will_be_back_is_waited_for() {
    let mut fixture = Fixture::of_hosts(3);
    fixture.deploy(&[("web", web(|spec| spec.replicas = 3))]);
    fixture.settle();
    fixture.done(Command::HostLeaves(host(2)));
    let since = fixture.now;
    fixture.done(Command::HostLiveness { host: host(2), liveness: Liveness::Down { since } });
    fixture.pass(Span::minutes(4), &|_| {});
    assert_eq!(fixture.filled(), ["web/1.1@h1", "web/2.1@h2", "web/3.1@h3"]);
    fixture.pass(Span::minutes(2), &|_| {});
    assert_eq!(fixture.filled(), ["web/1.1@h1", "web/2.2@h1", "web/3.1@h3"]);

    fixture.done(Command::HostReported { host: host(2), facts: facts(2), machine: [2; 16] });
    assert_eq!(fixture.cluster.hosts()[&host(2)].left_at, None);
}
