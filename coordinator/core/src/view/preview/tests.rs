use common::{
    explain::{change_lines, plan_lines},
    host::HostFacts,
    instance::Phase,
    spec::{Condition, ContainerSpec, MountSource, MountSpec, Protocol, Sidekick, VolumeSpec},
};

use super::*;
use crate::testing::{Fixture, facts, name, stack, web};

fn port(published: u16, change: impl FnOnce(&mut PortSpec)) -> PortSpec {
    let mut port = PortSpec { container: 80, published: Some(published), protocol: Protocol::Tcp, host_ip: None };
    change(&mut port);
    port
}

fn mount(source: MountSource, target: &str) -> MountSpec {
    MountSpec::of(source, target)
}

fn data() -> MountSpec {
    mount(MountSource::Volume(name("data").into()), "/data")
}

fn plan_of(fixture: &Fixture, services: &[(&str, ServiceSpec)]) -> Vec<String> {
    let services = services.iter().map(|(service, spec)| (name(service), spec.clone())).collect();
    let spec = Arc::new(StackSpec { services, volumes: [(name("data").into(), VolumeSpec::default())].into() });
    let what = "deployed".to_owned();
    let command =
        Command::PutStack { id: stack(), spec, files: Vec::new(), expect_revision: None, what, goes_back: false };
    let plan = stack_plan(&fixture.cluster, &stack(), &command, fixture.now).expect("it can be planned");
    plan_lines(&plan)
}

#[track_caller]
fn shows(fixture: &Fixture, services: &[(&str, ServiceSpec)], expected: &[&str]) {
    assert_eq!(plan_of(fixture, services).join("\n"), expected.join("\n"));
}

#[test]
fn a_new_service_is_shown_whole() {
    let fixture = Fixture::of_hosts(3);
    let agent = web(|spec| {
        spec.mode = Mode::Global;
        spec.ports = vec![port(8080, |_| {}), port(53, |port| (port.container, port.protocol) = (53, Protocol::Udp))];
        spec.container.mounts = vec![mount(MountSource::Bind("/var/run/docker.sock".into()), "/var/run/docker.sock")];
        spec.container.environment = [("A".into(), "secret".into()), ("B".into(), "x".into())].into();
        spec.container.command = Some(vec!["--password".into()]);
    });
    let db = web(|spec| {
        spec.container.mounts = vec![data()];
        spec.container.user = Some("1000".into());
        spec.ports = vec![port(5432, |port| port.host_ip = Some([127, 0, 0, 1].into()))];
        spec.depends_on = [(name("agent"), Condition::Healthy)].into();
    });
    let api = web(|spec| {
        spec.replicas = 2;
        spec.ports = vec![port(0, |port| port.published = None)];
        let container = ContainerSpec::of_image("proxy:1");
        spec.sidekicks = [(name("proxy"), Sidekick { container, depends_on: Default::default() })].into();
    });
    shows(
        &fixture,
        &[("agent", agent), ("api", api), ("db", db)],
        &[
            "  + agent  web:1",
            "           3 instances: one on each of h1, h2 and h3, and on each matching host that joins",
            "           its host's /var/run/docker.sock at /var/run/docker.sock",
            "           env A and B; command",
            "           opens 8080/tcp (to 80 in the container) on h1, h2 and h3, at every address",
            "           opens 53/udp on h1, h2 and h3, at every address",
            "           can control its host's Docker (/var/run/docker.sock), which amounts to root access",
            "  + api    web:1",
            "           2 instances on h1 and h2",
            "           sidekick proxy: image proxy:1",
            "           opens a free port for 80/tcp on the hosts that run it, h1 and h2, at every address",
            "  + db     web:1",
            "           1 instance on h3",
            "           volume data at /data",
            "           user 1000; waits for agent (healthy)",
            "           opens 5432/tcp (to 80 in the container) on the host that runs it, h3, reachable only from the host itself",
            "  volume data of db is created on h3 if it is missing, and ties db to it",
        ],
    );
}

#[test]
fn an_update_names_what_is_down_and_which_ports_change() {
    let mut fixture = Fixture::of_hosts(2);
    let db = |image: &str, published: u16| {
        let mut spec = web(|spec| {
            spec.container.mounts = vec![data()];
            spec.ports = vec![port(5432, |_| {}), port(published, |_| {})];
        });
        spec.container.image = image.to_owned();
        spec
    };
    let three = |change: fn(&mut ServiceSpec)| {
        web(|spec| {
            spec.replicas = 3;
            change(spec)
        })
    };
    let stops = three(|spec| spec.update.order = Some(UpdateOrder::StopFirst));
    fixture.deploy(&[("db", db("db:1", 81)), ("free", three(|_| {})), ("old", db("x", 99)), ("stops", stops.clone())]);
    fixture.settle();
    let starts = three(|spec| {
        spec.container.environment = [("TOKEN".into(), "secret".into())].into();
        spec.replicas = 4;
    });
    let mut stops = stops;
    stops.container.user = Some("1000".into());
    shows(
        &fixture,
        &[("db", db("db:2", 82)), ("free", starts), ("stops", stops)],
        &[
            "  ~ db     image db:1 → db:2",
            "           1 instance on h1",
            "           replaced one at a time, stop-first: two instances cannot use the same host port; rolled back if it fails",
            "           down from its stop (at most 10s) until its replacement serves",
            "           closes 81/tcp (to 80 in the container)",
            "           keeps open 5432/tcp (to 80 in the container) on the host that runs it, h1, at every address",
            "           opens 82/tcp (to 80 in the container) on the host that runs it, h1, at every address",
            "  ~ free   replicas 3 → 4; env TOKEN added",
            "           3 → 4 instances on h1 and h2",
            "           replaced one at a time, start-first where a host has room for both; rolled back if it fails",
            "  - old    1 instance stops",
            "           closes 5432/tcp (to 80 in the container)",
            "           closes 99/tcp (to 80 in the container)",
            "  ~ stops  user added: 1000",
            "           3 instances on h1 and h2",
            "           replaced one at a time, stop-first; rolled back if it fails",
            "           meanwhile 1 fewer serves: each is down from its stop (at most 10s) until its replacement serves",
            "  volume data of db is kept on h1, which ties db to it",
        ],
    );
}

#[test]
fn numbers_are_as_they_will_be() {
    let mut fixture = Fixture::of_hosts(3);
    let on_one = |spec: &mut ServiceSpec| {
        spec.mode = Mode::Global;
        spec.constraints = vec!["node.hostname == h2".parse().expect("a constraint")];
    };
    let lines = plan_of(&fixture, &[("web", web(on_one))]);
    assert_eq!(lines[1].trim(), "1 instance: one on each matching host, at present h2");
    fixture.deploy(&[("web", web(on_one))]);
    fixture.settle();
    let lines = plan_of(&fixture, &[("web", web(|spec| spec.mode = Mode::Global))]);
    assert_eq!(
        lines[0].trim(),
        "~ web  mode global; constraint node.hostname == h2 removed".replace("mode global; ", "")
    );
    assert!(lines[1].contains("1 → 3 instances: one on each of h1, h2 and h3"), "{lines:?}");
}

#[test]
fn what_the_internet_reaches_is_named() {
    let mut fixture = Fixture::of_hosts(1);
    let facts = HostFacts { address: [198, 18, 0, 1].into(), ..facts(1) };
    fixture.report(1, facts);
    let open = |address: Option<IpAddr>| web(move |spec| spec.ports = vec![port(80, |port| port.host_ip = address)]);
    let warned = |address| {
        plan_of(&fixture, &[("web", open(address))])
            .contains(&"  ! web: the internet can reach 80/tcp unless a firewall blocks it".to_owned())
    };
    assert!(warned(None));
    assert!(warned(Some([0, 0, 0, 0].into())));
    assert!(!warned(Some([127, 0, 0, 1].into())));
    assert!(!warned(Some([10, 0, 0, 1].into())));
    for (address, public) in
        [("192.168.1.1", false), ("100.64.0.1", false), ("8.8.8.8", true), ("fe80::1", false), ("2a00::1", true)]
    {
        assert_eq!(is_public(address.parse().expect("an address")), public, "{address}");
    }
}

#[test]
fn where_a_service_goes_is_known_before_what_it_waits_for_runs() {
    let fixture = Fixture::of_hosts(2);
    let waits = web(|spec| {
        spec.depends_on = [(name("db"), Condition::Completed)].into();
        spec.constraints = vec!["node.labels.disk == ssd".parse().expect("a constraint")];
    });
    let lines = plan_of(&fixture, &[("db", web(|spec| spec.mode = Mode::Job)), ("web", waits)]);
    assert!(lines.contains(&"  ! web: 2 hosts do not match node.labels.disk == ssd".to_owned()), "{lines:?}");
    assert!(lines.iter().all(|line| !line.contains("waits for db:")), "{lines:?}");
}

#[test]
fn values_that_may_be_passwords_are_compared_and_not_shown() {
    let mut fixture = Fixture::of_hosts(1);
    let secret = |text: &str| {
        web(|spec| {
            spec.container.environment = [("PASSWORD".into(), text.into())].into();
            spec.container.labels = [("auth".into(), text.into())].into();
            spec.container.command = Some(vec![text.into()]);
            spec.container.entrypoint = Some(vec![text.into()]);
        })
    };
    fixture.deploy(&[("web", secret("hunter1"))]);
    let lines = plan_of(&fixture, &[("web", secret("hunter2"))]);
    assert_eq!(lines[0], "  ~ web  env PASSWORD changed; command changed; entrypoint changed; label auth changed");
    assert!(!lines.concat().contains("hunter"), "{lines:?}");
    let revisions = super::super::revisions(fixture.cluster.stacks().get(&stack()).expect("it is there"));
    assert_eq!(change_lines(&revisions[0].changes), ["web added"]);
    fixture.settle();
    fixture.observe("web/1.1", Phase::Running);
    assert_eq!(
        plan_of(&fixture, &[("web", secret("hunter1"))]),
        ["  = web  unchanged: 1 instance on h1", "Nothing would change."]
    );
}
