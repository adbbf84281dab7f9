use std::collections::BTreeMap;

use common::{device::DeviceRequest, part::Part, spec::*, time::Span};

use super::*;

mod files;
mod rows;

/// Parses texts as the files of a project, with these variables and further files.
fn read_with(
    texts: &[&str],
    variables: &[(&str, &str)],
    files: &[(&str, &str)],
    profiles: &[&str],
) -> Result<Composed, ComposeError> {
    let sources: Vec<Source> = texts
        .iter()
        .enumerate()
        .map(|(i, text)| Source { name: format!("compose{i}.yaml"), text: (*text).to_owned() })
        .collect();
    let variables = variables.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    let profiles: Vec<String> = profiles.iter().map(|profile| (*profile).to_owned()).collect();
    let read = |path: &str| {
        let found = files.iter().find(|(name, _)| absolute_name(name) == path);
        found.map(|(_, text)| text.as_bytes().to_vec()).ok_or(ReadError::Missing)
    };
    let project =
        Project { variables: &variables, directory: "/srv/shop", profiles: &profiles, wanted: &[], read: &read };
    compose(&sources, &project)
}

fn absolute_name(name: &str) -> String {
    if name.starts_with('/') { name.to_owned() } else { format!("/srv/shop/{name}") }
}

fn read(texts: &[&str]) -> Result<Composed, ComposeError> {
    let env = "A=1\n# a comment\nexport B='two words'\nC=\"x\"\n";
    read_with(texts, &[("TAG", "1.2"), ("EMPTY", "")], &[("web.env", env), ("key.der", "\u{0}key")], &[])
}

fn web(text: &str) -> ServiceSpec {
    let composed = read(&[text]).unwrap_or_else(|e| panic!("{e}"));
    composed.spec.services[&"web".parse().expect("a name")].clone()
}

fn refused(text: &str) -> String {
    read(&[text]).expect_err("is refused").to_string()
}

/// The warnings, one per line.
fn warned(composed: &Composed) -> String {
    lines(&composed.warnings)
}

#[test]
fn every_supported_key_is_read() {
    let spec = web(r#"
name: shop
services:
  db: {image: pg}
  web:
    image: shop/web:${TAG}
    command: serve --name "a b" --x='c d'
    entrypoint: [/bin/web]
    env_file: web.env
    environment: [C=3, D]
    labels: {team: a}
    ports: ["8080:80", "127.0.0.1:53:53/udp", "9000-9001:90-91", {target: 443, published: 8443}, 81]
    expose: [9100, "8125/udp", "7000-7001"]
    volumes: ["data:/data", "./conf:/etc/conf:ro", {type: bind, source: /srv, target: /srv}]
    healthcheck: {test: "wget -q localhost", interval: 3s, timeout: 1s, retries: 5, start_period: 1m}
    restart: on-failure:3
    stop_grace_period: 1m30s
    depends_on: {db: {condition: service_healthy}}
    deploy:
      replicas: 3
      resources: {limits: {cpus: "1.5", memory: 512m}, reservations: {cpus: 0.25, memory: 64M}}
      restart_policy: {condition: any, delay: 2s, max_attempts: 5, window: 1m}
      placement:
        constraints: ["node.labels.disk == ssd", "node.hostname!=h1"]
        preferences: [{spread: node.labels.zone}]
        max_replicas_per_node: 2
      update_config:
        {parallelism: 2, delay: 1s, failure_action: pause, monitor: 20s, max_failure_ratio: 0.25, order: stop-first}
volumes: {data: }
"#);
    assert_eq!(spec.container.image, "shop/web:1.2");
    assert_eq!(spec.container.command, Some(["serve", "--name", "a b", "--x=c d"].map(String::from).to_vec()));
    let variables: Vec<_> = spec.container.environment.iter().map(|(k, v)| format!("{k}={v}")).collect();
    assert_eq!(variables, ["A=1", "B=two words", "C=3"]);
    assert_eq!((spec.spread.clone(), spec.max_per_host), (vec!["node.labels.zone".to_owned()], Some(2)));
    let update = UpdatePolicy {
        order: Some(UpdateOrder::StopFirst),
        parallelism: 2,
        monitor: Span::seconds(20),
        delay: Span::seconds(1),
        max_failures: 250,
        on_failure: FailureAction::Pause,
        ..UpdatePolicy::default()
    };
    assert_eq!(spec.update, update);
    let ports: Vec<_> = spec.ports.iter().map(|p| (p.published, p.container)).collect();
    assert_eq!(
        ports,
        [(Some(8080), 80), (Some(53), 53), (Some(9000), 90), (Some(9001), 91), (Some(8443), 443), (None, 81)]
    );
    assert_eq!(spec.ports[1].protocol, Protocol::Udp);
    let exposed: Vec<_> = spec.expose.iter().map(|port| (port.container, port.protocol)).collect();
    let wanted = [(7000, Protocol::Tcp), (7001, Protocol::Tcp), (8125, Protocol::Udp), (9100, Protocol::Tcp)];
    assert_eq!(exposed, wanted);
    assert_eq!(
        spec.container.mounts[1],
        MountSpec {
            read_only: true,
            create_host_path: true,
            ..MountSpec::of(MountSource::Bind("/srv/shop/conf".into()), "/etc/conf")
        }
    );
    assert_eq!(
        spec.container.healthcheck.as_ref().map(|h| (h.test[0].clone(), h.interval, h.retries)),
        Some(("CMD-SHELL".into(), Span::seconds(3), 5))
    );
    assert_eq!(
        (spec.container.restart.condition, spec.container.restart.max_attempts),
        (RestartCondition::Any, Some(5))
    );
    assert_eq!(spec.container.stop_grace, Span::seconds(90));
    assert_eq!(
        (spec.container.limits.cpu.0, spec.container.limits.memory.0, spec.container.reservations.cpu.0),
        (1500, 512 << 20, 250)
    );
    assert_eq!(spec.constraints.len(), 2);
    assert_eq!(spec.depends_on.values().next(), Some(&Condition::Healthy));
}

#[test]
fn devices_are_read_in_all_their_spellings() {
    let devices = |more: &str| -> Vec<String> {
        let spec = web(&format!("services: {{web: {{image: a, {more}}}}}"));
        let told = |(kind, request): (&String, &DeviceRequest)| {
            [&[format!("{kind}={}", request.amount)], request.capabilities.as_slice()].concat().join(" ")
        };
        spec.container.devices.iter().map(told).collect()
    };
    let reserved = |more: &str| devices(&format!("deploy: {{resources: {{reservations: {{{more}}}}}}}"));
    assert_eq!(reserved("devices: [{capabilities: [gpu], driver: nvidia, count: 2}]"), ["gpu=2"]);
    assert_eq!(
        reserved("devices: [{capabilities: [gpu, utility], device_ids: ['0', GPU-b]}]"),
        ["gpu=0 and GPU-b utility"]
    );
    assert_eq!(reserved("devices: [{capabilities: [gpu], count: all}]"), ["gpu=all that a host has"]);
    assert_eq!(devices("gpus: all"), ["gpu=all that a host has"]);
    assert_eq!(devices("gpus: [{count: 1}]"), ["gpu=1"]);
    let generic = "{discrete_resource_spec: {kind: card, value: 2}}";
    assert_eq!(
        reserved(&format!("generic_resources: [{generic}], devices: [{{capabilities: [gpu], count: 1}}]")),
        ["card=2", "gpu=1"]
    );

    for (more, part) in [
        ("devices: [{capabilities: [tpu]}]", "capabilities must contain gpu"),
        ("devices: [{capabilities: [gpu], driver: amd}]", "only nvidia is supported"),
        ("devices: [{capabilities: [gpu], count: 1, device_ids: [a]}]", "use either count or device_ids"),
        ("devices: [{capabilities: [gpu], count: 0}]", "not 0"),
        ("devices: [{capabilities: [gpu]}, {capabilities: [gpu]}]", "there is already a request for gpu"),
        ("generic_resources: [{kind: card}]", "discrete_resource_spec is missing"),
    ] {
        let text = format!("services: {{web: {{image: a, deploy: {{resources: {{reservations: {{{more}}}}}}}}}}}");
        let found = refused(&text);
        assert!(found.contains(part), "{more}: {found}");
    }
}

#[test]
fn a_schedule_makes_a_job() {
    let job = web("services: {web: {image: a, x-cron: '0 3 * * *'}}");
    assert_eq!((job.mode, job.container.restart.condition), (Mode::Job, RestartCondition::None));
    assert_eq!(job.cron, Some(CronSpec::of("0 3 * * *")));
    let job = web(
        "services: {web: {image: a, x-cron: {schedule: '@daily', timezone: Europe/Berlin, overlap: replace, catch_up: 1h}}}",
    );
    let cron = job.cron.expect("it has a schedule");
    assert_eq!(
        (cron.timezone.as_str(), cron.overlap, cron.catch_up),
        ("Europe/Berlin", Overlap::Replace, Span::minutes(60))
    );
    assert!(refused("services: {web: {image: a, x-cron: {overlap: skip}}}").contains("schedule is missing"));
    let both = refused("services: {web: {image: a, x-cron: 'never', deploy: {mode: global}}}");
    assert!(both.contains("\"never\" is not a schedule") && both.contains("only a job"), "{both}");
}

#[test]
fn later_files_override_earlier_ones() {
    let composed = read(&[
        "services: {web: {image: a, command: [x, y], environment: [A=1, B=2], ports: ['80:80'], volumes: ['/a:/data']}}",
        "services: {web: {image: b, command: [z], environment: {B: 3}, ports: ['81:81'], volumes: ['/b:/data']}, db: {image: pg}}",
    ])
    .expect("is accepted");
    let web = &composed.spec.services[&"web".parse().expect("a name")];
    assert_eq!((web.container.image.as_str(), web.container.command.as_deref()), ("b", Some(&["z".to_owned()][..])));
    assert_eq!(web.container.environment.get("B").map(String::as_str), Some("3"));
    assert_eq!((web.ports.len(), web.container.mounts.len(), composed.spec.services.len()), (2, 1, 2));
}

#[test]
fn problems_name_file_and_place() {
    let cases = [
        ("services: {web: {image: a, ports: ['80:80', 'x']}}", "compose0.yaml:1:45: services.web.ports[1]"),
        ("services: {web: {image: a, ports: ['99999']}}", "services.web.ports[0]"),
        ("services: {web: {image: a, expose: ['80:80']}}", "services.web.expose[0]"),
        ("services: {web: {image: a, deploy: {replicas: -1}}}", "services.web.deploy.replicas"),
        ("services: {web: {image: a, deploy: {replicas: 1.5}}}", "services.web.deploy.replicas"),
        ("services: {web: {image: a, deploy: {mode: global-job}}}", "services.web.deploy.mode"),
        ("services: {web: {image: a, deploy: {update_config: {order: both}}}}", "use start-first or stop-first"),
        (
            "services: {web: {image: a, deploy: {update_config: {failure_action: hope}}}}",
            "use rollback, pause or continue",
        ),
        ("services: {web: {image: a, deploy: {update_config: {max_failure_ratio: 2}}}}", "2 is not between 0 and 1"),
        (
            "services: {web: {image: a, env_file: nowhere.env}}",
            "services.web.env_file[0]: nowhere.env: there is no such file",
        ),
        (
            "services: {web: {image: a, volumes: ['~/x:/x']}}",
            "services.web.volumes[0].source: '~' differs between hosts",
        ),
        ("services: {web: {image: a, volumes: ['data:/x']}}", "volume data is not declared"),
        ("services: {web: {image: a, restart: sometimes}}", "services.web.restart"),
        ("services: {web: {image: a, healthcheck: {test: x, interval: soon}}}", "services.web.healthcheck.interval"),
        ("services: {\"w b\": {image: a}}", "only the characters a-z, 0-9 and '-' are allowed"),
        ("services: {web: {build: .}}", "services.web.build: wharf does not build images"),
        (
            "services: {web: {image: '${NOT_SET:?set it}'}}",
            "services.web.image: the variable NOT_SET is not set: set it",
        ),
        ("services: {web: {image: 'a${'}}", "services.web.image: a ${ is not closed by a }"),
        ("services: [a]", "services: expected a mapping, found a list"),
        ("services: {web: {image: [a]}}", "services.web.image: expected text, found a list"),
        ("{}", "services: it is missing"),
        ("", "the file is empty"),
        ("services:\n\tweb: {}", "compose0.yaml:2:2: it is not YAML"),
        ("a: 1\na: 2", "compose0.yaml:2:1: the key \"a\" appears twice; the first is in line 1"),
    ];
    for (text, expected) in cases {
        let found = refused(text);
        assert!(found.contains(expected), "{text:?}: expected {expected:?} in {found:?}");
    }
}

#[test]
fn bombs_and_giants_are_refused_in_time() {
    let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..12 {
        let references = vec![format!("*a{}", level - 1); 10].join(", ");
        bomb.push_str(&format!("a{level}: &a{level} [{references}]\n"));
    }
    let deep = format!("a: {}{}", "[".repeat(3000), "]".repeat(3000));
    let giant = format!("a: {}", "x".repeat(MAX_FILE));
    for text in [bomb.as_str(), deep.as_str(), giant.as_str()] {
        assert!(read(&[text]).is_err());
    }
    let nested = format!("services: {{web: {{image: '{}x{}'}}}}", "${A:-".repeat(100), "}".repeat(100));
    assert!(refused(&nested).contains("nested deeper"));
}

#[test]
fn configs_and_secrets_are_read_and_given() {
    let text = r#"
services:
  web:
    image: web
    configs: [app, {source: app, target: /etc/app.conf, mode: 0440, uid: "7", gid: 8}]
    secrets: [key, {source: password, target: db}]
configs:
  app: {content: "port=${TAG}"}
secrets:
  key: {file: key.der}
  password: {external: true, name: db-password}
"#;
    let composed = read(&[text]).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(warned(&composed), "");
    let contents: Vec<_> =
        composed.files.iter().map(|file| (file.name.as_str(), file.content.0.expose().as_slice())).collect();
    assert_eq!(contents, [("app", &b"port=1.2"[..]), ("key", &b"\0key"[..])]);
    let given: Vec<String> = composed.spec.services[&"web".parse().expect("a name")]
        .container
        .files
        .iter()
        .map(|f| format!("{} {} {} {} {}:{} {:o}", f.kind, f.name, f.external, f.target, f.uid, f.gid, f.mode))
        .collect();
    assert_eq!(
        given,
        [
            "config app false /app 0:0 444",
            "config app false /etc/app.conf 7:8 440",
            "secret key false /run/secrets/key 0:0 444",
            "secret db-password true /run/secrets/db 0:0 444",
        ]
    );
    assert!(!format!("{composed:?}").contains("107, 101, 121"), "the content of a secret is not shown");
}

#[test]
fn configs_and_secrets_that_cannot_be_given_are_refused() {
    let of = |service: &str, top: &str| refused(&format!("services: {{web: {{image: a, {service}}}}}\n{top}"));
    let cases = [
        (of("secrets: [key]", ""), "services.web.secrets[0]: secret key is not declared under the top-level secrets"),
        (of("secrets: [key]", "secrets: {key: {}}"), "secrets.key: it needs file, environment or content"),
        (of("secrets: [key]", "secrets: {key: {file: no}}"), "secrets.key.file: no: there is no such file"),
        (of("secrets: [key]", "secrets: {key: {environment: NO}}"), "the variable NO is not set"),
        (
            of("configs: [{source: a, mode: 0999}]", "configs: {a: {content: x}}"),
            "services.web.configs[0].mode: these are not permission bits",
        ),
        (
            of("configs: [{source: a, target: /../b}]", "configs: {a: {content: x}}"),
            "target \"/../b\" is not the absolute path of a file",
        ),
    ];
    for (found, expected) in cases {
        assert!(found.contains(expected), "{found}");
    }
}

#[test]
fn services_of_a_group_become_one() {
    let composed = read(&[r#"
services:
  web:
    image: web:1
    ports: ["80"]
    environment: {A: 1}
    pre_start:
      - {command: migrate --all, per_replica: true, environment: {B: 2}}
    depends_on: {log: {condition: service_healthy}}
  log: {image: log:1, x-group: web, depends_on: [db], deploy: {resources: {reservations: {cpus: 0.5}}}}
  proxy: {image: proxy:1, network_mode: "service:log", depends_on: [web]}
  db: {image: db:1}
  report: {image: report:1, depends_on: [proxy]}
"#])
    .unwrap_or_else(|e| panic!("{e}"));
    let name = |text: &str| text.parse::<Name>().expect("a name");
    let names: Vec<&str> = composed.spec.services.keys().map(Name::as_str).collect();
    assert_eq!(names, ["db", "report", "web"]);
    let web = &composed.spec.services[&name("web")];
    let needs = |needs: &BTreeMap<Name, Condition>| needs.keys().map(Name::to_string).collect::<Vec<_>>().join(" ");
    assert_eq!(needs(&web.depends_on), "db log", "what a sidekick needs of others, the whole instance waits for");
    assert_eq!(needs(&web.sidekicks[&name("log")].depends_on), "");
    assert_eq!(needs(&web.sidekicks[&name("proxy")].depends_on), "web");
    assert_eq!(needs(&composed.spec.services[&name("report")].depends_on), "web");
    assert_eq!(web.reservations().cpu.0, 500);
    let step = &web.pre_start[0];
    assert_eq!((step.image.as_str(), step.environment.len()), ("web:1", 2));
    assert_eq!(web.restart_of(&Part::Step(1)).condition, RestartCondition::OnFailure);

    let sidekick = |more: &str| format!("services: {{web: {{image: a}}, s: {{image: b, {more}}}}}");
    let cases = [
        ("x-group: web, ports: [80]", "services.s.ports: it is a sidekick of web"),
        ("x-group: web, deploy: {replicas: 2}", "services.s.deploy.replicas: it is a sidekick of web"),
        ("x-group: nobody", "there is no service nobody"),
        ("x-group: s", "it is a sidekick of itself"),
        ("x-group: web, image: '-x'", "services.s.image"),
        (
            "pre_start: [{command: x}]",
            "services.s.pre_start[0]: a step that runs once for all instances is not supported",
        ),
    ];
    for (more, why) in cases {
        let found = refused(&sidekick(more).replace("image: b, x-group: web, image", "x-group: web, image"));
        assert!(found.contains(why), "{more}: {found}");
    }
}

#[test]
fn a_canary_is_a_number_or_more() {
    let canary = |text: &str| web(&format!("services: {{web: {{image: a, x-canary: {text}}}}}")).update.canary;
    assert_eq!(canary("2"), Some(Canary { instances: 2, promote_after: None }));
    let later = Some(Canary { instances: 1, promote_after: Some(Span::minutes(10)) });
    assert_eq!(canary("{promote_after: 10m}"), later);
    assert!(refused("services: {web: {image: a, x-canary: 0}}").contains("services.web.x-canary"));
}

#[test]
fn conditions_may_be_on_what_runs_there() {
    let placed = web("services:
  db: {image: a}
  web:
    image: a
    x-priority: 5
    deploy:
      placement:
        constraints: [service != db]
        preferences: [{prefer: node.labels.disk == ssd}, {spread: node.labels.zone}]");
    let texts = |list: &[Constraint]| list.iter().map(Constraint::to_string).collect::<Vec<_>>().join("; ");
    assert_eq!(
        (texts(&placed.constraints), texts(&placed.prefer)),
        ("service != db".into(), "node.labels.disk == ssd".into())
    );
    assert_eq!((placed.priority, placed.spread.len()), (5, 1));
    let stranger = "services: {web: {image: a, deploy: {placement: {constraints: [service == db]}}}}";
    assert!(refused(stranger).contains("service == db names a service that is not in this stack"));
}

#[test]
fn external_networks_are_environments_that_a_service_joins() {
    let file = "
services:
  web: {image: a, networks: [default, shared, own]}
  db: {image: a, networks: {data: {}}}
  log: {image: a}
networks: {shared: {external: true}, data: {external: true, name: data-prod}, own: {}}
";
    let composed = read(&[file, "services: {web: {networks: {data: {}}}}"]).expect("is accepted");
    let joins = |name: &str| {
        let service = &composed.spec.services[&name.parse().expect("a name")];
        service.joins.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
    };
    assert_eq!((joins("web"), joins("db"), joins("log")), ("data-prod shared".into(), "data-prod".into(), "".into()));
    let networks = &composed.spec.services[&"web".parse().expect("a name")].networks;
    assert_eq!(networks.keys().map(ToString::to_string).collect::<Vec<_>>(), ["default", "own"]);
    for (file, problem) in [
        ("services: {web: {image: a, networks: [other]}}", "services.web.networks.other: there is no network other"),
        ("services: {web: {image: a, networks: other}}", "services.web.networks: expected a mapping"),
        (
            "services: {web: {image: a, networks: {n: {aliases: [x]}}}}\nnetworks: {n: {external: true}}",
            "services.web.networks.n: aliases have no effect in another environment",
        ),
        (
            "services: {web: {image: a, networks: [n]}}\nnetworks: {n: {external: true, name: A_b}}",
            "networks.n.name: \"A_b\" is not a name",
        ),
        (
            "services: {web: {image: a}, side: {image: a, x-group: web, networks: [default]}}",
            "services.side.networks: it is a sidekick of web",
        ),
    ] {
        let problems = read(&[file]).expect_err("it is refused").to_string();
        assert!(problems.contains(problem), "{problem} in {problems}");
    }
}

#[test]
fn others_are_led_to_a_service_as_its_file_says() {
    let mode = |rest: &str| {
        read(&[&format!("services: {{web: {{image: a, {rest}}}}}")])
            .map(|composed| composed.spec.services.into_values().next().expect("one").endpoint_mode)
            .map_err(|error| error.to_string())
    };
    assert_eq!(mode("scale: 1"), Ok(EndpointMode::Vip));
    assert_eq!(mode("x-sticky: true"), Ok(EndpointMode::Sticky));
    assert_eq!(mode("deploy: {endpoint_mode: dnsrr}"), Ok(EndpointMode::Dnsrr));
    for (rest, problem) in [
        ("deploy: {endpoint_mode: dns}", "\"dns\" is not supported here: use vip or dnsrr"),
        ("deploy: {endpoint_mode: dnsrr}, x-sticky: true", "x-sticky: it has no effect with endpoint_mode dnsrr"),
    ] {
        let problems = mode(rest).expect_err("it is refused");
        assert!(problems.contains(problem), "{problems}");
    }
}
