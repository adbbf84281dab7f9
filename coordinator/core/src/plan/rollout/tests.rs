use common::{
    api::Fate,
    explain::change_lines,
    host::Availability,
    id::ServiceId,
    instance::{Observed, Phase},
    output::LastLines,
    rollout::RolloutState,
    spec::{Canary, FailureAction, Mode, MountSource, MountSpec, PortSpec, Protocol, ServiceSpec, UpdateOrder},
    time::Span,
};

use crate::{
    Command, Outcome, State, plan,
    state::Service,
    testing::{Fixture, host, name, stack, web},
    view,
};

const MINUTE: Span = Span::minutes(1);

fn service_id() -> ServiceId {
    stack().service(name("web"))
}

fn service(fixture: &Fixture) -> &Service {
    fixture.cluster.service(&service_id()).expect("it is deployed")
}

fn three(image: &str, change: impl FnOnce(&mut ServiceSpec)) -> ServiceSpec {
    web(|spec| {
        spec.replicas = 3;
        spec.container.image = image.into();
        change(spec);
    })
}

/// Three instances of `web:1` on three hosts, which have served for a minute.
fn deployed(change: fn(&mut ServiceSpec)) -> Fixture {
    let mut fixture = Fixture::of_hosts(3);
    fixture.deploy(&[("web", three("web:1", change))]);
    fixture.pass(MINUTE, &|_| {});
    assert_eq!(service(&fixture).rollout.state, RolloutState::Done);
    fixture
}

fn at_least(count: usize) -> impl Fn(&State) {
    move |cluster| assert!(Fixture::serving(cluster, "web") >= count, "fewer than {count} serve")
}

fn blocked(fixture: &Fixture) -> Vec<String> {
    plan(&fixture.cluster, fixture.now).blocked.into_values().flatten().map(|blocked| blocked.to_string()).collect()
}

fn drain(fixture: &mut Fixture, number: u8, within: Span) {
    let availability = Availability::Draining { deadline: fixture.now + within };
    fixture.done(Command::SetAvailability { host: host(number), availability });
}

#[test]
fn the_new_instance_serves_before_the_old_one_goes() {
    let mut fixture = deployed(|_| {});
    fixture.deploy(&[("web", three("web:2", |_| {}))]);
    let first = plan(&fixture.cluster, fixture.now).commands;
    let [Command::Place(place)] = &first[..] else { panic!("one is placed, none is stopped: {first:?}") };
    assert_eq!(place.replaces.as_ref().map(ToString::to_string), Some("default/shop/web/1.1".into()));
    let in_bounds = |cluster: &State| {
        at_least(3)(cluster);
        let alive = cluster.instances().values().filter(|i| i.fills_slot()).count();
        assert!(alive <= 4, "more than one at a time is replaced");
    };
    fixture.settle();
    assert_eq!(fixture.filled().len(), 4, "the new one has not served long enough");
    fixture.pass(MINUTE, &in_bounds);
    assert_eq!(fixture.filled(), ["web/1.2@h1", "web/2.2@h2", "web/3.2@h3"]);
    assert_eq!(service(&fixture).rollout.state, RolloutState::Done);
    assert!(plan(&fixture.cluster, fixture.now).commands.is_empty(), "and then all is quiet");
}

#[test]
fn what_cannot_run_twice_stops_first() {
    let fixed_port: fn(&mut ServiceSpec) = |spec| {
        spec.ports.push(PortSpec { container: 80, published: Some(80), protocol: Protocol::Tcp, host_ip: None });
    };
    let full: fn(&mut ServiceSpec) = |spec| spec.max_per_host = Some(1);
    let asked: fn(&mut ServiceSpec) = |spec| spec.update.order = Some(UpdateOrder::StopFirst);
    for change in [fixed_port, full, asked] {
        let mut fixture = deployed(change);
        fixture.deploy(&[("web", three("web:2", change))]);
        let in_bounds = |cluster: &State| {
            at_least(2)(cluster);
            assert!(cluster.instances().values().filter(|i| i.fills_slot()).count() <= 3);
        };
        fixture.pass(MINUTE, &in_bounds);
        assert_eq!(fixture.filled(), ["web/1.2@h1", "web/2.2@h2", "web/3.2@h3"]);
    }
}

#[test]
fn several_are_replaced_at_a_time_if_that_is_asked_for() {
    for (parallelism, least) in [(2, 2), (0, 3)] {
        let mut fixture = deployed(|_| {});
        fixture.deploy(&[("web", three("web:2", |spec| spec.update.parallelism = parallelism))]);
        let commands = plan(&fixture.cluster, fixture.now).commands;
        assert_eq!(commands.len(), least, "{parallelism}: {commands:?}");
    }
}

#[test]
fn a_revision_that_fails_goes_back_and_nobody_notices() {
    let mut fixture = deployed(|_| {});
    let before = fixture.filled();
    fixture.deploy(&[("web", three("broken", |_| {}))]);
    fixture.pass(MINUTE, &at_least(3));
    assert_eq!(fixture.filled(), before, "what served was never touched");
    let rollout = &service(&fixture).rollout;
    assert_eq!((rollout.state, rollout.back_from), (RolloutState::Done, Some(2)));
    assert!(rollout.why.ends_with("there is no such image"), "{}", rollout.why);
    let record = &fixture.cluster.stacks()[&stack()];
    assert_eq!(record.spec.services[&name("web")].container.image, "web:1", "the stack says what is");
    let history = view::revisions(record);
    let what: Vec<&str> = history.iter().map(|revision| revision.what.as_str()).collect();
    assert_eq!(what.len(), 3);
    assert!(what[0].starts_with("web went back to what it was at revision 1: "), "{what:?}");
    assert_eq!(change_lines(&history[0].changes), ["web: image broken → web:1"]);
}

#[test]
fn a_rollout_that_failed_tells_what_was_printed_last() {
    for (action, state) in
        [(FailureAction::Rollback, RolloutState::Rolling), (FailureAction::Pause, RolloutState::Paused)]
    {
        let mut fixture = deployed(|_| {});
        fixture.deploy(&[("web", three("web:2", |spec| spec.update.on_failure = action))]);
        let place = plan(&fixture.cluster, fixture.now).commands.remove(0);
        fixture.done(place);
        let id = crate::testing::instance("web/1.2");
        let on = fixture.cluster.instances()[&id].host;
        let (failure, output) = ("it ended with exit code 7".to_owned(), LastLines::of(b"FATAL no database"));
        let (message, phase) = (failure.clone(), Phase::Starting);
        let observed = Observed { restart: 1, phase, message, failure, output: output.clone(), ..Observed::nothing() };
        fixture.done(Command::Observe { host: on, instances: vec![(id, observed)] });
        let judged = plan(&fixture.cluster, fixture.now).commands;
        judged.into_iter().for_each(|command| drop(fixture.done(command)));
        let rollout = &service(&fixture).rollout;
        assert_eq!((rollout.state, &rollout.output), (state, &output));
        assert_eq!(rollout.why, "1.2 on h1: it ended with exit code 7", "the lines are apart from the sentence");
        let event = fixture.cluster.events().values().rev().find(|event| event.subject == "default/shop/web");
        assert_eq!(event.map(|event| &event.output), Some(&output));
        fixture.pass(MINUTE, &|_| {});
        assert_eq!(service(&fixture).rollout.output, output, "it is known as long as why it went back");
    }
}

#[test]
fn a_revision_that_fails_is_paused_if_that_is_asked_for_and_goes_on_when_a_person_says_so() {
    let pause: fn(&mut ServiceSpec) = |spec| spec.update.on_failure = FailureAction::Pause;
    let mut fixture = deployed(pause);
    fixture.deploy(&[("web", three("broken", pause))]);
    fixture.pass(MINUTE, &at_least(3));
    assert_eq!(service(&fixture).rollout.state, RolloutState::Paused);
    let failed = |fixture: &Fixture| {
        fixture.cluster.slots().values().flat_map(|slot| &slot.tries).map(|tries| tries.failures).sum::<u32>()
    };
    assert_eq!(failed(&fixture), 1);
    let resume = |fixture: &mut Fixture, state| {
        let (service, why) = (service_id(), String::new());
        fixture.done(Command::MoveRollout { service, expect_revision: 2, state, why });
    };
    resume(&mut fixture, RolloutState::Rolling);
    assert_eq!(service(&fixture).rollout.why, "", "why it had paused is over");
    fixture.pass(MINUTE, &at_least(3));
    assert_eq!(failed(&fixture), 2, "it was tried once more");
    assert_eq!(service(&fixture).rollout.state, RolloutState::Paused);
    // A mended file needs no resume.
    fixture.deploy(&[("web", three("web:3", pause))]);
    fixture.pass(Span::minutes(3), &at_least(3));
    assert_eq!(service(&fixture).rollout.state, RolloutState::Done);
    assert!(fixture.cluster.instances().values().all(|i| i.spec.container.image == "web:3"));
}

#[test]
fn a_first_revision_has_nothing_to_go_back_to_and_is_tried_on() {
    let mut fixture = Fixture::of_hosts(1);
    fixture.deploy(&[("web", web(|spec| spec.container.image = "broken".into()))]);
    fixture.pass(MINUTE, &|_| {});
    assert_eq!(service(&fixture).rollout.state, RolloutState::Rolling);
    let back = Command::RollBack { service: service_id(), expect_revision: 1, why: String::new() };
    let Outcome::Rejected(problem) = fixture.apply(back) else { panic!("it was not refused") };
    assert!(problem.to_string().contains("no earlier revision"), "{problem}");
}

#[test]
fn going_back_by_hand_keeps_the_instances_that_have_not_been_replaced_yet() {
    let mut fixture = deployed(|_| {});
    let before = fixture.filled();
    fixture.deploy(&[("web", three("web:2", |_| {}))]);
    fixture.settle();
    fixture.deploy(&[("web", three("web:1", |_| {}))]);
    fixture.pass(MINUTE, &at_least(3));
    assert_eq!(fixture.filled(), before);
    assert_eq!(service(&fixture).revision, 1);
}

#[test]
fn a_host_is_emptied_only_as_others_take_over() {
    let mut fixture = deployed(|_| {});
    drain(&mut fixture, 1, Span::minutes(60));
    let planned =
        view::drain_plan(&fixture.cluster, host(1), fixture.now + MINUTE, fixture.now).expect("the host is there");
    let moves: Vec<_> = planned.instances.iter().map(|i| (i.id.to_string(), i.fate.clone())).collect();
    assert_eq!(moves, [("default/shop/web/1.1".to_owned(), Fate::Moves { to: name("h2") })]);
    fixture.pass(MINUTE, &at_least(3));
    assert_eq!(fixture.filled(), ["web/1.2@h2", "web/2.1@h2", "web/3.1@h3"]);
    assert!(fixture.cluster.instances_on(host(1)).next().is_none());
    // It takes nothing new until it is opened again.
    let scale = |fixture: &mut Fixture, replicas| {
        fixture.done(Command::ScaleService { id: service_id(), replicas });
        fixture.pass(MINUTE, &at_least(3));
    };
    scale(&mut fixture, 4);
    assert!(fixture.filled().contains(&"web/4.1@h3".to_owned()), "{:?}", fixture.filled());
    fixture.done(Command::SetAvailability { host: host(1), availability: Availability::Active });
    scale(&mut fixture, 5);
    assert!(fixture.filled().contains(&"web/5.1@h1".to_owned()), "{:?}", fixture.filled());
}

#[test]
fn what_has_no_place_elsewhere_stays_until_the_deadline_and_says_why() {
    let mut fixture = deployed(|spec| spec.max_per_host = Some(1));
    drain(&mut fixture, 1, Span::minutes(10));
    fixture.pass(Span::minutes(9), &at_least(3));
    let why = blocked(&fixture);
    let expected =
        "slot 1 cannot leave its host yet: host h1 is draining; 2 hosts have 1 of its instances, its maximum per host";
    assert!(why.contains(&expected.to_owned()), "{why:?}");
    fixture.pass(Span::minutes(2), &at_least(2));
    assert_eq!(fixture.filled(), ["web/2.1@h2", "web/3.1@h3"]);
}

#[test]
fn what_has_its_data_on_a_host_waits_for_that_host() {
    let volume: fn(&mut ServiceSpec) = |spec| {
        let source = MountSource::Volume(name("data").into());
        spec.container.mounts.push(MountSpec::of(source, "/data"));
    };
    let mut fixture = deployed(volume);
    drain(&mut fixture, 1, Span::minutes(10));
    fixture.pass(Span::minutes(11), &at_least(2));
    assert_eq!(fixture.filled(), ["web/2.1@h2", "web/3.1@h3"], "at the deadline it is stopped");
    let why = blocked(&fixture);
    assert!(why.contains(&"2 hosts do not have its data".to_owned()), "{why:?}");
    fixture.done(Command::SetAvailability { host: host(1), availability: Availability::Active });
    fixture.pass(MINUTE, &at_least(2));
    assert_eq!(fixture.filled(), ["web/1.2@h1", "web/2.1@h2", "web/3.1@h3"]);

    // A revision that forgets the volume runs elsewhere; the data stays where it is.
    let not_there = |spec: &mut ServiceSpec| {
        spec.constraints.push("node.hostname != h1".parse().expect("a constraint"));
    };
    let without = |change: fn(&mut ServiceSpec)| {
        three("web:1", |spec| {
            change(spec);
            not_there(spec);
        })
    };
    fixture.deploy(&[("web", without(|_| {}))]);
    fixture.pass(Span::minutes(2), &|_| {});
    assert!(!fixture.filled().iter().any(|id| id.ends_with("@h1")), "{:?}", fixture.filled());
    fixture.deploy(&[("web", without(volume))]);
    fixture.pass(Span::minutes(2), &|_| {});
    assert!(!fixture.filled().iter().any(|id| id.starts_with("web/1.")), "{:?}", fixture.filled());
    assert!(blocked(&fixture).contains(&"2 hosts do not have its data".to_owned()), "{:?}", blocked(&fixture));
    fixture.deploy(&[("web", three("web:1", volume))]);
    fixture.pass(Span::minutes(2), &|_| {});
    let hosts: Vec<String> = fixture.filled().iter().map(|id| id.split('@').next_back().unwrap_or("").into()).collect();
    assert_eq!(hosts, ["h1", "h2", "h3"], "{:?}", fixture.filled());

    let since = fixture.now;
    fixture.done(Command::HostLiveness { host: host(1), liveness: common::host::Liveness::Down { since } });
    fixture.pass(Span::minutes(10), &at_least(2));
    assert_eq!(blocked(&fixture), ["slot 1 waits for its host, which holds its data"]);
    // A host that is removed has no data any more.
    fixture.done(Command::HostLiveness { host: host(2), liveness: common::host::Liveness::Down { since } });
    fixture.done(Command::RemoveHost(host(2)));
    fixture.pass(MINUTE, &|_| {});
    let moved = fixture.filled().iter().any(|id| id.starts_with("web/2.") && id.ends_with("@h3"));
    assert!(moved, "{:?}", fixture.filled());
}

#[test]
fn a_global_service_is_on_each_host_once() {
    let global: fn(&mut ServiceSpec) = |spec| spec.mode = Mode::Global;
    let mut fixture = Fixture::of_hosts(2);
    fixture.deploy(&[("web", web(global)), ("other", web(|_| {}))]);
    fixture.pass(MINUTE, &|_| {});
    assert_eq!(fixture.filled(), ["other/1.1@h1", "web/1.1@h1", "web/2.1@h2"]);
    let scaled = fixture.apply(Command::ScaleService { id: service_id(), replicas: 5 });
    assert!(matches!(scaled, Outcome::Rejected(_)), "it has as many as there are hosts");

    fixture.done(Command::Admit(Box::new(crate::testing::admission(3))));
    fixture.done(Command::HostReported { host: host(3), facts: crate::testing::facts(3), machine: [3; 16] });
    fixture.done(Command::HostLiveness { host: host(3), liveness: common::host::Liveness::Ready });
    fixture.pass(MINUTE, &|_| {});
    assert_eq!(fixture.filled(), ["other/1.1@h1", "web/1.1@h1", "web/2.1@h2", "web/3.1@h3"]);

    fixture.deploy(&[
        (
            "web",
            web(|spec| {
                global(spec);
                spec.container.image = "web:2".into();
            }),
        ),
        ("other", web(|_| {})),
    ]);
    fixture.pass(MINUTE, &at_least(3));
    assert_eq!(fixture.filled(), ["other/1.1@h1", "web/1.2@h1", "web/2.2@h2", "web/3.2@h3"]);

    // It leaves a host last.
    drain(&mut fixture, 1, Span::minutes(60));
    let last = |cluster: &State| {
        let on_first: Vec<_> = cluster.instances_on(host(1)).filter(|(_, i)| i.fills_slot()).collect();
        let has_web = on_first.iter().any(|(id, _)| id.service().service == name("web"));
        assert!(has_web || on_first.is_empty(), "{on_first:?}");
    };
    fixture.pass(MINUTE, &last);
    assert_eq!(fixture.filled(), ["other/1.2@h2", "web/2.2@h2", "web/3.2@h3"]);
}

#[test]
fn instances_are_spread_over_the_values_of_a_label_first() {
    let mut fixture = Fixture::of_hosts(3);
    for (number, zone) in [(1, "a"), (2, "a"), (3, "b")] {
        let labels = [("zone".to_owned(), zone.to_owned())].into();
        fixture.done(Command::PutHostLabels { host: host(number), labels });
    }
    fixture.deploy(&[(
        "web",
        three("web:1", |spec| {
            spec.replicas = 4;
            spec.spread = vec!["node.labels.zone".into()];
        }),
    )]);
    fixture.settle();
    assert_eq!(fixture.filled(), ["web/1.1@h1", "web/2.1@h3", "web/3.1@h2", "web/4.1@h3"]);
}

#[test]
fn nothing_is_replaced_when_most_hosts_seem_gone() {
    let mut fixture = deployed(|_| {});
    let since = fixture.now;
    for number in [2, 3] {
        fixture.done(Command::HostLiveness { host: host(number), liveness: common::host::Liveness::Down { since } });
    }
    fixture.pass(Span::minutes(10), &|_| {});
    assert_eq!(fixture.filled(), ["web/1.1@h1", "web/2.1@h2", "web/3.1@h3"]);
    let why = "2 of 3 hosts are away: no instances are replaced until they return or are removed (wharf host rm)";
    assert_eq!(blocked(&fixture), [why]);
    fixture.done(Command::RemoveHost(host(3)));
    fixture.pass(MINUTE, &|_| {});
    assert!(!fixture.filled().contains(&"web/2.1@h2".to_owned()), "one of two is no reason to wait");
}

fn with_canary(promote_after: Option<Span>) -> impl Fn(&mut ServiceSpec) {
    move |spec| spec.update.canary = Some(Canary { instances: 1, promote_after })
}

fn images(fixture: &Fixture) -> Vec<String> {
    let filling = fixture.cluster.instances().values().filter(|instance| instance.fills_slot());
    filling.map(|instance| instance.spec.container.image.clone()).collect()
}

#[test]
fn a_canary_waits_for_a_person() {
    for fixed_port in [false, true] {
        let change = move |spec: &mut ServiceSpec| {
            with_canary(None)(spec);
            if fixed_port {
                let (published, protocol) = (Some(80), Protocol::Tcp);
                spec.ports.push(PortSpec { container: 80, published, protocol, host_ip: None });
            }
        };
        let mut fixture = Fixture::of_hosts(4);
        fixture.deploy(&[("web", three("web:1", change))]);
        fixture.pass(MINUTE, &|_| {});
        assert_eq!(service(&fixture).rollout.state, RolloutState::Done, "the first revision of all has no canary");
        fixture.deploy(&[("web", three("web:2", change))]);
        fixture.pass(Span::minutes(60), &at_least(2));
        assert_eq!(images(&fixture), ["web:2", "web:1", "web:1"]);
        let view = view::stack(&fixture.cluster, &stack(), fixture.now).expect("it is there").services.remove(0);
        let canary = view.rollout.canary.expect("it waits");
        assert_eq!((canary.wanted, canary.settled, canary.promote_at), (1, 1, None));

        // What is lost or asked for meanwhile is what served; the canary that is lost is made again.
        fixture.done(Command::ScaleService { id: service_id(), replicas: 4 });
        fixture.settle();
        assert_eq!(images(&fixture), ["web:2", "web:1", "web:1", "web:1"]);
        let on = fixture.cluster.instances().values().find(|i| i.spec.container.image == "web:1").map(|i| i.host);
        fixture.done(Command::RemoveHost(on.filter(|on| *on != host(1)).unwrap_or(host(2))));
        fixture.done(Command::ScaleService { id: service_id(), replicas: 3 });
        fixture.pass(MINUTE, &|_| {});
        let mut left = images(&fixture);
        left.sort();
        assert_eq!(left, ["web:1", "web:1", "web:2"]);

        fixture.done(Command::Promote { service: service_id(), expect_revision: 2 });
        fixture.pass(MINUTE, &|_| {});
        assert_eq!(images(&fixture), ["web:2", "web:2", "web:2"]);
        assert_eq!(service(&fixture).rollout.state, RolloutState::Done);
        let said = fixture.refused(Command::Promote { service: service_id(), expect_revision: 2 });
        assert!(said.contains("it has no canary that waits for a promotion"), "{said}");
    }
}

#[test]
fn a_canary_begins_where_nothing_serves() {
    let mut fixture = deployed(|_| {});
    fixture.observe("web/3.1", Phase::Completed);
    fixture.deploy(&[("web", three("web:2", with_canary(None)))]);
    fixture.pass(Span::minutes(60), &at_least(2));
    assert_eq!(images(&fixture), ["web:1", "web:1", "web:2"]);
    fixture.done(Command::Promote { service: service_id(), expect_revision: 2 });
    fixture.pass(MINUTE, &at_least(2));
    assert_eq!(images(&fixture), ["web:2", "web:2", "web:2"]);
}

#[test]
fn a_canary_is_promoted_when_its_time_has_come() {
    let mut fixture = deployed(|_| {});
    let after = Some(Span::minutes(10));
    fixture.deploy(&[("web", three("web:2", with_canary(after)))]);
    fixture.pass(Span::minutes(9), &at_least(3));
    assert_eq!(images(&fixture), ["web:2", "web:1", "web:1"]);
    fixture.pass(Span::minutes(3), &at_least(3));
    assert_eq!(images(&fixture), ["web:2", "web:2", "web:2"]);
    assert_eq!(service(&fixture).rollout.state, RolloutState::Done);
}

#[test]
fn a_canary_that_fails_is_taken_back() {
    let mut fixture = deployed(|_| {});
    fixture.deploy(&[("web", three("broken", with_canary(Some(MINUTE))))]);
    fixture.pass(MINUTE, &at_least(3));
    assert_eq!(images(&fixture), ["web:1", "web:1", "web:1"]);
    assert_eq!((service(&fixture).revision, service(&fixture).rollout.state), (1, RolloutState::Done));
}

#[test]
fn a_paused_rollout_fills_slots_with_what_served() {
    let mut fixture = deployed(|_| {});
    fixture.deploy(&[("web", three("web:2", |spec| spec.update.on_failure = FailureAction::Pause))]);
    fixture.settle();
    let (service, state, why) = (service_id(), RolloutState::Paused, "a person said so".into());
    fixture.done(Command::MoveRollout { service, expect_revision: 2, state, why });
    fixture.done(Command::ScaleService { id: service_id(), replicas: 5 });
    fixture.pass(MINUTE, &|_| {});
    assert_eq!(images(&fixture), ["web:2", "web:1", "web:1", "web:1", "web:1"]);
    drain(&mut fixture, 2, MINUTE);
    fixture.settle();
    assert_eq!(images(&fixture), ["web:2", "web:1", "web:1", "web:1", "web:1"]);
    assert!(!fixture.filled().iter().any(|filled| filled.ends_with("@h2")), "{:?}", fixture.filled());
}

#[test]
fn a_host_that_came_later_gets_its_share() {
    let mut fixture = Fixture::of_hosts(3);
    fixture.done(Command::SetAvailability { host: host(3), availability: Availability::Cordoned });
    fixture.deploy(&[("web", web(|spec| spec.replicas = 6))]);
    fixture.pass(MINUTE, &|_| {});
    fixture.done(Command::SetAvailability { host: host(3), availability: Availability::Active });
    fixture.pass(MINUTE, &|_| {});
    let on_each = |fixture: &Fixture| {
        ["h1", "h2", "h3"].map(|host| fixture.filled().iter().filter(|filled| filled.ends_with(host)).count())
    };
    assert_eq!(on_each(&fixture), [3, 3, 0], "nothing is moved by itself");
    let moves = view::rebalance_plan(&fixture.cluster, &[service_id()], fixture.now);
    let told: Vec<String> = moves.iter().map(|moved| format!("{} {} {}", moved.id, moved.from, moved.to)).collect();
    assert_eq!(told, ["default/shop/web/1.1 h1 h3", "default/shop/web/2.1 h2 h3"]);

    fixture.done(Command::Rebalance { services: vec![service_id()] });
    let in_bounds = |cluster: &State| {
        at_least(6)(cluster);
        assert!(cluster.instances().values().filter(|i| i.fills_slot()).count() <= 7, "one at a time");
    };
    fixture.pass(MINUTE, &in_bounds);
    assert_eq!(on_each(&fixture), [2, 2, 2]);
    assert!(!fixture.cluster.is_rebalancing(&service_id()), "and then it is over");
    assert_eq!(view::rebalance_plan(&fixture.cluster, &[service_id()], fixture.now), []);
    let volume = MountSource::Volume(name("data").into());
    fixture.deploy(&[(
        "web",
        web(|spec| {
            spec.container.mounts.push(MountSpec::of(volume, "/data"));
        }),
    )]);
    let said = fixture.refused(Command::Rebalance { services: vec![service_id()] });
    assert!(said.contains("its data is tied to its host"), "{said}");
}
