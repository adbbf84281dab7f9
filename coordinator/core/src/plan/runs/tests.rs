//! What ends by design: once for each revision or run, in the order of what depends on what.

use common::{
    host::{Availability, Liveness},
    id::ServiceId,
    instance::{Observed, Phase},
    rollout::RolloutState,
    spec::{Condition, CronSpec, Mode, RestartCondition, ServiceSpec},
    time::Span,
};

use crate::{
    Command, Outcome, plan,
    state::Service,
    testing::{Fixture, host, instance, name, stack, web},
    view,
};

const MINUTE: Span = Span::minutes(1);

fn id(service: &str) -> ServiceId {
    stack().service(name(service))
}

fn service<'a>(fixture: &'a Fixture, service: &str) -> &'a Service {
    fixture.cluster.service(&id(service)).expect("it is deployed")
}

fn state(fixture: &Fixture, of: &str) -> RolloutState {
    service(fixture, of).rollout.state
}

fn filled_of(fixture: &Fixture, service: &str) -> Vec<String> {
    fixture.filled().into_iter().filter(|filled| filled.starts_with(&format!("{service}/"))).collect()
}

fn blocked(fixture: &Fixture) -> Vec<String> {
    plan(&fixture.cluster, fixture.now).blocked.into_values().flatten().map(|blocked| blocked.to_string()).collect()
}

fn pass(fixture: &mut Fixture, minutes: u64) {
    fixture.pass(Span::minutes(minutes), &|_| {});
}

/// The three ways to write what ends by design, with an image of that version.
fn spelled(how: usize, version: &str) -> ServiceSpec {
    web(|spec| {
        spec.container.image = format!("migrate:{version}");
        spec.container.restart.condition = RestartCondition::None;
        match how {
            0 => spec.mode = Mode::Job,
            1 => {}
            _ => {
                spec.container.restart.condition = RestartCondition::OnFailure;
                spec.container.restart.max_attempts = Some(0);
            }
        }
    })
}

fn app(version: &str, condition: Condition) -> ServiceSpec {
    web(|spec| {
        spec.container.image = format!("app:{version}");
        spec.depends_on.insert(name("migrate"), condition);
    })
}

/// `migrate` and what waits until it has ended well, both of a version.
fn deploy(fixture: &mut Fixture, how: usize, version: &str) {
    fixture.deploy(&[("app", app(version, Condition::Completed)), ("migrate", spelled(how, version))]);
    pass(fixture, 1);
}

#[test]
fn a_dependant_changes_when_its_dependency_has_done_what_it_is_to_do() {
    for how in 0..3 {
        let mut fixture = Fixture::of_hosts(2);
        deploy(&mut fixture, how, "1");
        assert!(filled_of(&fixture, "app").is_empty(), "{how}: the first waits, too");
        fixture.observe("migrate/1.1", Phase::Completed);
        pass(&mut fixture, 1);
        assert_eq!(filled_of(&fixture, "app"), ["app/1.1@h2"], "{how}");

        deploy(&mut fixture, how, "2");
        assert_eq!(filled_of(&fixture, "app"), ["app/1.1@h2"], "{how}: what served serves meanwhile");
        assert!(blocked(&fixture).contains(&"it waits for migrate: 0 of 1 completed".to_owned()), "{how}");
        // What is lost meanwhile is what served.
        fixture.done(Command::RemoveHost(host(2)));
        pass(&mut fixture, 1);
        let instance = &fixture.cluster.instances()[&instance("app/1.2")];
        assert_eq!((instance.spec.container.image.as_str(), instance.revision), ("app:1", 1), "{how}");
        fixture.observe("migrate/1.2", Phase::Completed);
        pass(&mut fixture, 1);
        assert_eq!(filled_of(&fixture, "app"), ["app/1.3@h1"], "{how}");
        assert_eq!((state(&fixture, "app"), state(&fixture, "migrate")), (RolloutState::Done, RolloutState::Done));
    }
}

#[test]
fn of_a_dependant_nothing_changes_when_its_dependency_fails() {
    for how in 0..3 {
        let mut fixture = Fixture::of_hosts(1);
        deploy(&mut fixture, how, "1");
        fixture.observe("migrate/1.1", Phase::Completed);
        pass(&mut fixture, 1);
        deploy(&mut fixture, how, "2");
        fixture.observe("migrate/1.2", Phase::Failed);
        pass(&mut fixture, 60);
        assert_eq!(filled_of(&fixture, "app"), ["app/1.1@h1"], "{how}");
        assert_eq!(filled_of(&fixture, "migrate"), ["migrate/1.2@h1"], "{how}: it is kept, and nothing is done again");
        let rollout = &service(&fixture, "migrate").rollout;
        let why = "1.2 on h1: it ended with exit code 1";
        assert_eq!((rollout.state, rollout.why.as_str()), (RolloutState::Failed, why), "{how}");
        let waits = format!("it waits for migrate, which failed: {why}");
        assert!(blocked(&fixture).contains(&waits), "{how}: {:?}", blocked(&fixture));

        // A person lets it try once more, and the deployment goes on.
        fixture.done(Command::Retry(id("migrate")));
        pass(&mut fixture, 1);
        assert_eq!(filled_of(&fixture, "migrate"), ["migrate/1.3@h1"], "{how}");
        fixture.observe("migrate/1.3", Phase::Completed);
        pass(&mut fixture, 1);
        assert_eq!(filled_of(&fixture, "app"), ["app/1.2@h1"], "{how}");
        let said = fixture.refused(Command::Retry(id("migrate")));
        assert!(said.contains("runs that ended well are not repeated"), "{said}");
    }
}

#[test]
fn the_change_of_what_never_ends_goes_on_though_its_end_is_waited_for() {
    let mut fixture = Fixture::of_hosts(2);
    for version in ["1", "2"] {
        let never_ends = web(|spec| {
            spec.container.image = format!("migrate:{version}");
            spec.container.restart.condition = RestartCondition::Any;
            (spec.replicas, spec.update.parallelism) = (2, 1);
        });
        fixture.deploy(&[("app", app(version, Condition::Completed)), ("migrate", never_ends)]);
        pass(&mut fixture, 5);
        assert_eq!(state(&fixture, "migrate"), RolloutState::Done, "{version}");
        assert_eq!(blocked(&fixture), ["it waits for migrate: 0 of 2 completed"], "{version}");
    }
}

#[test]
fn going_back_does_nothing_again() {
    for how in 0..3 {
        let mut fixture = Fixture::of_hosts(1);
        for (version, incarnation, end) in
            [("1", 1, Phase::Completed), ("2", 2, Phase::Completed), ("3", 3, Phase::Failed)]
        {
            deploy(&mut fixture, how, version);
            fixture.observe(&format!("migrate/1.{incarnation}"), end);
            pass(&mut fixture, 1);
        }
        let history = fixture.cluster.stacks()[&stack()].history.clone();
        let served: Vec<bool> = history.iter().map(|revision| revision.served).collect();
        assert_eq!(served, [true, true, false], "{how}");
        for (back_to, image) in [(1, "app:2"), (0, "app:1")] {
            let spec = history[back_to].spec.clone();
            let (files, what) = (Vec::new(), "back".to_owned());
            let put = Command::PutStack { id: stack(), spec, files, expect_revision: None, what, goes_back: true };
            fixture.done(put);
            pass(&mut fixture, 1);
            let images: Vec<&str> =
                fixture.cluster.instances().values().map(|i| i.spec.container.image.as_str()).collect();
            assert_eq!(images, [image], "{how}");
            assert_eq!((state(&fixture, "app"), state(&fixture, "migrate")), (RolloutState::Done, RolloutState::Done));
        }
        assert_eq!(fixture.cluster.slots()[&id("migrate").slot(1)].incarnation, 3, "{how}");
    }
}

#[test]
fn what_has_ended_does_not_move_and_what_has_not_does() {
    let ends = [(Phase::Completed, 1), (Phase::Failed, 1), (Phase::Running, 2)];
    let lost: [fn(&mut Fixture); 3] = [
        |fixture| drop(fixture.done(Command::RemoveHost(host(2)))),
        |fixture| {
            drop(fixture.done(Command::SetAvailability { host: host(2), availability: Availability::Maintenance }))
        },
        |fixture| {
            let since = fixture.now;
            fixture.done(Command::HostLiveness { host: host(2), liveness: Liveness::Down { since } });
        },
    ];
    for how in 0..3 {
        for (end, incarnation) in ends {
            for (way, lose) in lost.iter().enumerate() {
                let mut fixture = Fixture::of_hosts(3);
                let on_second = "node.hostname != h1".parse().expect("a constraint");
                let mut spec = spelled(how, "1");
                spec.constraints.push(on_second);
                fixture.deploy(&[("migrate", spec)]);
                pass(&mut fixture, 1);
                assert_eq!(fixture.filled(), ["migrate/1.1@h2"]);
                fixture.observe("migrate/1.1", end);
                pass(&mut fixture, 1);
                lose(&mut fixture);
                pass(&mut fixture, 60);
                let found = fixture.cluster.slots()[&id("migrate").slot(1)].incarnation;
                assert_eq!(found, incarnation, "{how}, {end:?}, lost by {way}");
            }
        }
    }
}

/// A job that is due every ten minutes.
fn scheduled(image: &str) -> ServiceSpec {
    web(|spec| {
        spec.mode = Mode::Job;
        spec.cron = Some(CronSpec::of("*/10 * * * *"));
        spec.container.image = image.into();
    })
}

#[test]
fn a_run_that_failed_has_ended() {
    let mut fixture = Fixture::of_hosts(1);
    fixture.deploy(&[("backup", scheduled("backup:1"))]);
    // The clock begins at 00:16:40.
    pass(&mut fixture, 4);
    fixture.observe("backup/1.1", Phase::Failed);
    pass(&mut fixture, 4);
    let failed = |fixture: &Fixture| {
        let view = view::stack(&fixture.cluster, &stack(), fixture.now).expect("it is there").services.remove(0);
        (view.failed, view.completed)
    };
    assert_eq!(failed(&fixture), (vec!["slot 1: it ended with exit code 1".to_owned()], 0));
    assert_eq!(filled_of(&fixture, "backup"), ["backup/1.1@h1"], "it is not tried again by itself");
    assert_eq!(state(&fixture, "backup"), RolloutState::Done, "the deployment is another matter");

    fixture.done(Command::Retry(id("backup")));
    pass(&mut fixture, 1);
    assert_eq!(filled_of(&fixture, "backup"), ["backup/1.2@h1"], "a person has it run now");
    fixture.observe("backup/1.2", Phase::Failed);
    pass(&mut fixture, 10);
    assert_eq!(filled_of(&fixture, "backup"), ["backup/1.3@h1"], "the next one is due at its time");
    assert_eq!(service(&fixture, "backup").runs.number, 2);
    fixture.observe("backup/1.3", Phase::Failed);

    fixture.deploy(&[("backup", scheduled("backup:2"))]);
    pass(&mut fixture, 10);
    fixture.observe("backup/1.4", Phase::Completed);
    pass(&mut fixture, 1);
    assert_eq!(failed(&fixture), (Vec::new(), 1), "a mended file helps");
}

#[test]
fn a_run_that_could_not_begin_makes_room_for_the_next() {
    let mut fixture = Fixture::of_hosts(1);
    fixture.deploy(&[("backup", scheduled("broken"))]);
    pass(&mut fixture, 34);
    assert_eq!(service(&fixture, "backup").runs.number, 4, "at 20, 30, 40 and 50");
    fixture.deploy(&[("backup", scheduled("backup:2"))]);
    fixture.settle();
    let running = fixture.cluster.instances().values().filter(|i| i.observed.phase == Phase::Running).count();
    assert_eq!(running, 1, "a mended file helps at once");
}

#[test]
fn retries_are_counted_for_the_slot() {
    let mut fixture = Fixture::of_hosts(3);
    let spec = web(|spec| {
        spec.container.restart.condition = RestartCondition::OnFailure;
        spec.container.restart.max_attempts = Some(2);
    });
    fixture.deploy(&[("web", spec)]);
    pass(&mut fixture, 1);
    // One retry on its host, which is lost then.
    let observed = |restart, retries, phase| Observed { restart, retries, phase, ..Observed::nothing() };
    let instances = vec![(instance("web/1.1"), observed(1, 1, Phase::Running))];
    fixture.done(Command::Observe { host: host(1), instances });
    let since = fixture.now;
    fixture.done(Command::HostLiveness { host: host(1), liveness: Liveness::Down { since } });
    pass(&mut fixture, 5);
    assert_eq!(fixture.filled(), ["web/1.2@h2"]);
    let told = view::assignment(&fixture.cluster, host(2), &Default::default()).expect("there is a cluster");
    assert_eq!(told.instances[0].retries, 1, "its host counts on from there");
    let instances = vec![(instance("web/1.2"), observed(1, 2, Phase::Running))];
    fixture.done(Command::Observe { host: host(2), instances });
    fixture.observe("web/1.2", Phase::Failed);
    pass(&mut fixture, 60);
    assert_eq!(fixture.filled(), ["web/1.2@h2"], "it has failed for good");
    let view = view::stack(&fixture.cluster, &stack(), fixture.now).expect("it is there").services.remove(0);
    assert_eq!(view.failed, ["slot 1: it ended with exit code 1"]);
    fixture.done(Command::Retry(id("web")));
    pass(&mut fixture, 1);
    assert_eq!(fixture.filled(), ["web/1.3@h2"]);
    assert_eq!(fixture.cluster.instances()[&instance("web/1.3")].observed.retries, 0, "a person gives it all of them");
}

#[test]
fn a_new_revision_begins_with_a_clean_slate() {
    let mut fixture = Fixture::of_hosts(1);
    fixture.deploy(&[("web", web(|spec| spec.container.image = "broken".into()))]);
    pass(&mut fixture, 3);
    assert!(blocked(&fixture)[0].contains(" times in a row"), "{:?}", blocked(&fixture));
    fixture.deploy(&[("web", web(|spec| spec.container.image = "web:2".into()))]);
    fixture.settle();
    let running = fixture.cluster.instances().values().filter(|i| i.observed.phase == Phase::Running).count();
    assert_eq!(running, 1, "{:?}", blocked(&fixture));
}

#[test]
fn what_waits_for_a_service_that_goes_back_goes_back_with_it() {
    let mut fixture = Fixture::of_hosts(2);
    let deploy = |fixture: &mut Fixture, image: &str, version: &str| {
        let db = web(|spec| spec.container.image = image.into());
        let last = web(|spec| {
            spec.container.image = format!("last:{version}");
            spec.depends_on.insert(name("app"), Condition::Started);
        });
        fixture.deploy(&[("app", app(version, Condition::Healthy)), ("last", last), ("migrate", db)]);
        fixture.pass(MINUTE, &|_| {});
    };
    let images = |fixture: &Fixture| -> Vec<String> {
        let filling = fixture.cluster.instances().values().filter(|instance| instance.fills_slot());
        filling.map(|instance| instance.spec.container.image.clone()).collect()
    };
    deploy(&mut fixture, "db:1", "1");
    assert_eq!(images(&fixture), ["app:1", "last:1", "db:1"]);
    deploy(&mut fixture, "broken", "2");
    pass(&mut fixture, 5);
    assert_eq!(images(&fixture), ["app:1", "last:1", "db:1"]);
    for (name, because_of) in [("app", Some("migrate")), ("last", Some("migrate")), ("migrate", None)] {
        let rollout = &service(&fixture, name).rollout;
        assert_eq!((rollout.state, rollout.back_from), (RolloutState::Done, Some(2)), "{name}");
        assert_eq!(rollout.because_of.as_ref().map(|of| of.as_str()), because_of, "{name}");
    }
    // The change of the one is followed by those of the others, in turn.
    deploy(&mut fixture, "db:3", "3");
    pass(&mut fixture, 5);
    assert_eq!(images(&fixture), ["app:3", "last:3", "db:3"]);
}

#[test]
fn what_never_began_because_another_failed_begins_with_the_mended_file() {
    let mut fixture = Fixture::of_hosts(1);
    let db = |image: &str| web(|spec| spec.container.image = image.into());
    fixture.deploy(&[("migrate", db("db:1"))]);
    pass(&mut fixture, 1);
    fixture.deploy(&[("app", app("1", Condition::Healthy)), ("migrate", db("broken"))]);
    pass(&mut fixture, 5);
    assert_eq!(state(&fixture, "app"), RolloutState::Failed);
    assert!(filled_of(&fixture, "app").is_empty());
    fixture.deploy(&[("app", app("1", Condition::Healthy)), ("migrate", db("db:2"))]);
    pass(&mut fixture, 5);
    assert_eq!(state(&fixture, "app"), RolloutState::Done);
}

#[test]
fn a_placement_is_refused_while_it_waits_or_when_it_is_over() {
    let mut fixture = Fixture::of_hosts(1);
    deploy(&mut fixture, 0, "1");
    let place = |service: &str, incarnation, revision| {
        Command::Place(Box::new(crate::command::Placement {
            slot: id(service).slot(1),
            expect_incarnation: incarnation,
            expect_revision: revision,
            revision,
            host: host(1),
            ports: Vec::new(),
            devices: Vec::new(),
            replaces: None,
            unknown_since: None,
        }))
    };
    let said = fixture.refused(place("app", 0, 1));
    assert!(said.contains("it waits for migrate"), "{said}");
    fixture.observe("migrate/1.1", Phase::Failed);
    let said = fixture.refused(place("migrate", 1, 1));
    assert!(said.contains("its task has already ended"), "{said}");
    let resumed = fixture.apply(Command::MoveRollout {
        service: id("migrate"),
        expect_revision: 1,
        state: RolloutState::Failed,
        why: "a reason".into(),
    });
    assert!(matches!(resumed, Outcome::Done { .. }));
    let (service, expect_revision, state, why) = (id("migrate"), 1, RolloutState::Rolling, String::new());
    let said = fixture.refused(Command::MoveRollout { service, expect_revision, state, why });
    assert!(said.contains("wharf retry shop/migrate"), "{said}");
}
