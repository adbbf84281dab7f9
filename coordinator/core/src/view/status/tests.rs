use common::{
    api::DeploymentStatus,
    host::Liveness,
    instance::{Observed, Phase},
    output::LastLines,
    quantity::MilliCpu,
    spec::{Canary, Condition, CronSpec, Mode, RestartCondition, ServiceSpec},
    time::Span,
};

use super::deployment;
use crate::{
    Command, plan,
    testing::{Fixture, host, instance, name, stack, web},
};

fn image(image: &str) -> ServiceSpec {
    web(|spec| spec.container.image = image.into())
}

fn job(image: &str) -> ServiceSpec {
    web(|spec| {
        spec.container.image = image.into();
        spec.mode = Mode::Job;
        spec.container.restart.condition = RestartCondition::None;
    })
}

fn status(fixture: &Fixture, revision: u64) -> DeploymentStatus {
    deployment(&fixture.cluster, &stack(), revision, fixture.now).expect("there is a stack")
}

fn word(fixture: &Fixture, revision: u64) -> String {
    match status(fixture, revision) {
        DeploymentStatus::Progressing => "progressing".into(),
        DeploymentStatus::WaitingForPromotion { service } => format!("{service} waits for promotion"),
        DeploymentStatus::Blocked { reasons } => format!("{}: {}", reasons[0].service, reasons[0].reason),
        DeploymentStatus::Failed { service, why, then, .. } => format!("{service} failed: {why}: {then:?}"),
        DeploymentStatus::Done => "done".into(),
        DeploymentStatus::Superseded { by } => format!("superseded by {by}"),
    }
}

fn pass(fixture: &mut Fixture, seconds: u64) {
    fixture.pass(Span::seconds(seconds), &|_| {});
}

#[test]
fn it_runs_when_it_has_run_for_its_settling_time() {
    let mut fixture = Fixture::of_hosts(1);
    fixture.deploy(&[("web", image("web:1"))]);
    fixture.settle();
    pass(&mut fixture, 3);
    assert_eq!(word(&fixture, 1), "progressing");
    pass(&mut fixture, 3);
    assert_eq!(word(&fixture, 1), "done");
}

#[test]
fn how_a_deployment_stands() {
    let canary = |spec: &mut ServiceSpec| {
        spec.container.image = "web:2".into();
        spec.replicas = 2;
        spec.update.canary = Some(Canary { instances: 1, promote_after: None });
    };
    let large = |spec: &mut ServiceSpec| spec.container.reservations.cpu = MilliCpu(5000);
    let cases: [(&str, ServiceSpec, &str); 5] = [
        ("a new revision", image("web:2"), "done"),
        ("its canary is there", web(canary), "web waits for promotion"),
        ("it fits nowhere", web(large), "web: host h1 lacks cpu: it needs 5 cores, and the most free is 2 on h1"),
        ("it fails", image("broken"), "web failed: 1.2 on h1: there is no such image: WentBack { to: 1 }"),
        ("it is as it was", image("web:1"), "done"),
    ];
    for (case, spec, expected) in cases {
        let mut fixture = Fixture::of_hosts(1);
        fixture.deploy(&[(
            "web",
            web(|before| (before.container.image, before.replicas) = ("web:1".into(), spec.replicas)),
        )]);
        pass(&mut fixture, 60);
        fixture.deploy(&[("web", spec)]);
        let revision = fixture.cluster.stacks()[&stack()].revision;
        pass(&mut fixture, 60);
        assert_eq!(word(&fixture, revision), expected, "{case}");
    }
}

#[test]
fn a_failed_job_is_a_failed_deployment_at_once_and_no_other_one() {
    let mut fixture = Fixture::of_hosts(1);
    let app = |version: &str| {
        web(|spec| {
            spec.container.image = format!("app:{version}");
            spec.depends_on.insert(name("migrate"), Condition::Completed);
        })
    };
    fixture.deploy(&[("app", app("1")), ("migrate", job("migrate:1"))]);
    fixture.settle();
    assert_eq!(word(&fixture, 1), "progressing");
    fixture.observe("migrate/1.1", Phase::Failed);
    fixture.settle();
    let failed = "migrate failed: 1.1 on h1: it ended with exit code 1: Stays";
    assert_eq!(word(&fixture, 1), failed);

    // Another service of the stack is deployed: what failed is no part of that.
    let services = |app: ServiceSpec| [("app", app), ("migrate", job("migrate:1")), ("web", image("web:1"))];
    fixture.deploy(&services(app("1")));
    pass(&mut fixture, 10);
    assert_eq!(word(&fixture, 2), "done");
    // Whoever depends on it waits in vain.
    fixture.deploy(&services(app("2")));
    pass(&mut fixture, 10);
    assert_eq!(word(&fixture, 3), failed);
    assert_eq!(word(&fixture, 1), failed, "that has not changed");
    fixture.done(Command::Retry(stack().service(name("migrate"))));
    fixture.settle();
    assert_eq!(word(&fixture, 3), "progressing");
    fixture.observe("migrate/1.2", Phase::Completed);
    pass(&mut fixture, 10);
    assert_eq!(word(&fixture, 3), "done");
    assert_eq!(word(&fixture, 1), "superseded by 3");
}

#[test]
fn a_run_of_a_schedule_that_failed_is_no_failed_deployment() {
    let mut fixture = Fixture::of_hosts(1);
    let backup = |image: &str| {
        web(|spec| {
            spec.container.image = image.into();
            spec.mode = Mode::Job;
            spec.cron = Some(CronSpec::of("*/10 * * * *"));
        })
    };
    fixture.deploy(&[("backup", backup("backup:1"))]);
    pass(&mut fixture, 240);
    fixture.observe("backup/1.1", Phase::Failed);
    fixture.deploy(&[("backup", backup("backup:2")), ("web", image("web:1"))]);
    pass(&mut fixture, 60);
    assert_eq!((word(&fixture, 1), word(&fixture, 2)), ("superseded by 2".into(), "done".into()));
}

#[test]
fn what_is_replaced_because_its_host_died_is_part_of_it() {
    let mut fixture = Fixture::of_hosts(3);
    fixture.deploy(&[("web", web(|spec| spec.replicas = 3))]);
    let since = fixture.now;
    fixture.settle();
    fixture.done(Command::HostLiveness { host: host(3), liveness: Liveness::Down { since } });
    pass(&mut fixture, 10);
    assert_eq!(word(&fixture, 1), "progressing");
    pass(&mut fixture, 120);
    assert_eq!(word(&fixture, 1), "done", "{:?}", fixture.filled());
}

/// The slot has failed for good, and the planner has not looked yet.
#[test]
fn a_failed_dependency_is_shown_with_its_output_at_once() {
    let mut fixture = Fixture::of_hosts(1);
    let app = web(|spec| spec.depends_on = [(name("migrate"), Condition::Completed)].into());
    fixture.deploy(&[("migrate", job("migrate:1")), ("app", app)]);
    for command in plan(&fixture.cluster, fixture.now).commands {
        fixture.done(command);
    }
    let (output, failure) = (LastLines::of(b"the table is locked"), "it ended with exit code 1".to_owned());
    let (message, exit_code) = (failure.clone(), Some(1));
    let observed = Observed { phase: Phase::Failed, message, failure, exit_code, output, ..Observed::nothing() };
    let instances = vec![(instance("migrate/1.1"), observed)];
    fixture.done(Command::Observe { host: host(1), instances });
    let DeploymentStatus::Failed { service, why, output, .. } = status(&fixture, 1) else {
        panic!("{}", word(&fixture, 1));
    };
    assert_eq!((service.as_str(), why.as_str()), ("migrate", "slot 1: it ended with exit code 1"));
    assert_eq!(output.lines(), ["the table is locked"]);
}
