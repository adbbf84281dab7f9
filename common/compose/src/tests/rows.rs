//! Real files that were once read wrongly.

use super::*;

fn variables(composed: &Composed) -> String {
    let web = &composed.spec.services[&"web".parse().expect("a name")];
    web.container.environment.iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>().join(" ")
}

#[test]
fn services_whose_profiles_are_off_do_not_run() {
    let text = "services: {web: {image: a}, wipe: {image: b, profiles: [danger, other]}}";
    let names = |profiles: &[&str]| {
        let composed = read_with(&[text], &[], &[], profiles).expect("is accepted");
        composed.spec.services.keys().map(ToString::to_string).collect::<Vec<_>>().join(" ")
    };
    assert_eq!((names(&[]), names(&["danger"]), names(&["*"])), ("web".into(), "web wipe".into(), "web wipe".into()));
    assert_eq!(names(&["else"]), "web");

    let needs = |more: &str| {
        let text = format!("services: {{web: {{image: a, {more}}}, db: {{image: b, profiles: [data]}}}}");
        read_with(&[&text], &[], &[], &[]).map(|composed| composed.spec.services.len()).map_err(|e| e.to_string())
    };
    let found = needs("depends_on: [db]").expect_err("what it needs is off");
    assert!(
        found.contains(
            "services.web.depends_on.db: db is not enabled, because none of its profiles is: enable one with --profile data"
        ),
        "{found}"
    );
    assert_eq!(needs("depends_on: {db: {condition: service_started, required: false}}"), Ok(1));

    // As in compose, naming a service enables its profiles.
    let project = |wanted: &[String]| {
        let sources = [Source { name: "a".into(), text: text.into() }];
        let read = |_: &str| Err(ReadError::Missing);
        let project = Project { variables: &BTreeMap::new(), directory: "/", profiles: &[], wanted, read: &read };
        compose(&sources, &project).map(|composed| composed.spec.services.len()).map_err(|error| error.to_string())
    };
    assert_eq!(project(&["wipe".into()]), Ok(2));
    assert!(project(&["nobody".into()]).expect_err("is refused").contains("there is no service nobody in these files"));
    let odd = refused("services: {web: {image: a, profiles: danger}}");
    assert!(odd.contains("services.web.profiles: expected a list"), "a service must not run by mistake: {odd}");
}

#[test]
fn optional_env_files_may_be_missing_and_nothing_else() {
    let text =
        "services: {web: {image: a, env_file: [{path: opt.env, required: false}, {path: none.env, required: false}]}}";
    let with = |file: &str| read_with(&[text], &[("GIVEN_BY_SHELL", "yes")], &[("opt.env", file)], &[]);
    let composed = with("A=1\nGIVEN_BY_SHELL\nNOT_GIVEN\nB=2\n").expect("is accepted");
    assert_eq!(variables(&composed), "A=1 B=2 GIVEN_BY_SHELL=yes");
    let found = with("A=1\nnot a variable\n").expect_err("it is there and cannot be read").to_string();
    assert_eq!(
        found,
        "compose0.yaml:1:39: services.web.env_file[0]: opt.env: line 2: it does not start with the name of a variable \
         (letters, digits and _) followed by ="
    );
    let required = "services: {web: {image: a, env_file: [none.env]}}";
    assert!(
        read_with(&[required], &[], &[], &[])
            .expect_err("it is missing")
            .to_string()
            .contains("none.env: there is no such file")
    );
    let wide = "services: {web: {image: a, env_file: [{path: opt.env, format: raw}]}}";
    let composed = read_with(&[wide], &[], &[("opt.env", "A='x' # y\n")], &[]).expect("is accepted");
    assert_eq!(variables(&composed), "A='x' # y");
}

#[test]
fn env_files_are_read_as_compose_documents_them() {
    let file = "\u{feff}PW=\"a # b\" # note\nURL=postgres://${PW}@${HOST}/\nK='it\\'s'\nT=\"\\t\"\nEMPTY=   # note\nPEM=\"---\nx\n---\"\nNO=$NOBODY\n";
    let text = "services: {web: {image: a, env_file: my.env, environment: {HOST: db, K: own}}}";
    let composed = read_with(&[text], &[], &[("my.env", file)], &[]).expect("is accepted");
    assert_eq!(variables(&composed), "EMPTY= HOST=db K=own NO= PEM=---\nx\n--- PW=a # b T=\t URL=postgres://a # b@db/");
    assert_eq!(
        warned(&composed),
        "my.env:9:1: services.web.env_file[0]: the variable NOBODY is not set, so it is empty here"
    );
}

#[test]
fn programs_get_what_was_written() {
    let text = "
services:
  web:
    image: a
    environment: {RELEASE: 24.10, MASK: 0x1F, EXP: 1e3, ON: yes, T: True, Z: 007}
    labels: [bare, a=b]
    command: [x, 1.10, 0x1F, true]
";
    let composed = read(&[text, "services: {web: {labels: {route.empty: , more: 1.50}}}"]).expect("is accepted");
    assert_eq!(variables(&composed), "EXP=1e3 MASK=0x1F ON=yes RELEASE=24.10 T=True Z=007");
    let web = &composed.spec.services[&"web".parse().expect("a name")].container;
    let labels: Vec<_> = web.labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
    assert_eq!(labels, ["a=b", "bare=", "more=1.50", "route.empty="]);
    assert_eq!(web.command.as_deref().map(|words| words.join(" ")), Some("x 1.10 0x1F true".to_owned()));
}

#[test]
fn each_variable_that_is_not_set_is_warned_of() {
    let text = "services: {web: {image: a, volumes: ['/data/${NOT_SET}:/x'], environment: {PW: '${NOT_SET}${OTHER}', Q: '${OTHER:-x}'}}}";
    let composed = read(&[text]).expect("is accepted");
    assert_eq!(
        warned(&composed),
        "compose0.yaml:1:38: services.web.volumes[0]: the variable NOT_SET is not set, so it is empty here\n\
         compose0.yaml:1:80: services.web.environment.PW: the variable NOT_SET is not set, so it is empty here\n\
         compose0.yaml:1:80: services.web.environment.PW: the variable OTHER is not set, so it is empty here"
    );
}

#[test]
fn a_dependency_that_is_not_required_may_be_missing() {
    let spec = web("services: {web: {image: a, depends_on: {opt: {condition: service_started, required: false}}}}");
    assert!(spec.depends_on.is_empty());
    assert!(
        refused("services: {web: {image: a, depends_on: [opt]}}")
            .contains("services.web.depends_on.opt: there is no service opt in these files")
    );
}

#[test]
fn warnings_stand_beside_what_is_refused() {
    let text = "services: {web: {image: a, ipc: 'service:db', mac_address: x, environment: {A: '$NOBODY'}, deploy: {labels: {a: b}}}}";
    let error = read(&[text]).expect_err("is refused");
    let warnings = lines(error.warnings());
    assert!(
        warnings.contains("services.web.environment.A: the variable NOBODY")
            && warnings.contains("services.web.deploy.labels"),
        "{warnings}"
    );
    let problems = error.to_string();
    for part in [
        "services.web.ipc: \"service:db\" is not supported here: use none, private, shareable or host",
        "services.web.mac_address",
    ] {
        assert!(problems.contains(part), "{part} in {problems}");
    }
}

/// A service that uses every supported key.
const ALL: &str = r#"
services:
  web:
    image: a
    hostname: "{{.Service.Name}}-{{.Task.Slot}}"
    domainname: example.org
    init: true
    tty: "true"
    stdin_open: true
    read_only: yes
    tmpfs: [/run, "/tmp:size=64m"]
    shm_size: 128m
    cap_add: [NET_ADMIN]
    cap_drop: [ALL]
    security_opt: [no-new-privileges, "seccomp=my.json", "apparmor=unconfined"]
    privileged: false
    devices: ["/dev/fuse", "/dev/a:/dev/b:r"]
    group_add: [audio, 7]
    ulimits: {nproc: 65535, nofile: {soft: 20000, hard: 40000}}
    sysctls: [net.core.somaxconn=1024]
    stop_signal: SIGINT
    dns: 9.9.9.9
    dns_search: [a.example]
    dns_opt: ["ndots:2"]
    extra_hosts: ["a:1.2.3.4", "b=host-gateway", "c:::1"]
    pids_limit: 100
    memswap_limit: -1
    mem_swappiness: 10
    cpu_shares: 512
    cpu_quota: 50ms
    cpu_period: 100000
    cpuset: 0-1
    oom_score_adj: -500
    logging: {driver: syslog, options: {tag: x}}
    annotations: {a: b}
    platform: linux/amd64
    runtime: runsc
    ipc: host
    pid: host
    networks: {inner: {aliases: [web.example]}}
    volumes:
      - data:/data:ro,nocopy
      - /anonymous
      - {type: tmpfs, target: /scratch, tmpfs: {size: 1m, mode: 0o1777}}
      - {type: volume, source: data, target: /sub, volume: {subpath: a/b}}
      - {type: bind, source: /srv, target: /srv, bind: {propagation: rslave, create_host_path: false}}
    healthcheck: {test: x, start_interval: 1s}
networks: {inner: {internal: true}}
volumes:
  data: {driver: local, driver_opts: {type: nfs, o: addr=10.0.0.1, device: ":/x"}, labels: [a=b], name: my_data}
"#;

#[test]
fn what_docker_does_is_read() {
    let composed = read_with(&[ALL], &[], &[("my.json", "{}")], &[]).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(warned(&composed), "");
    let spec = &composed.spec.services[&"web".parse().expect("a name")];
    let c = &spec.container;
    assert_eq!(c.hostname.as_deref(), Some("{{.Service.Name}}-{{.Task.Slot}}"));
    assert_eq!((c.init, c.tty, c.stdin_open, c.read_only), (Some(true), true, true, true));
    assert_eq!(c.tmpfs, [("/run".to_owned(), String::new()), ("/tmp".to_owned(), "size=64m".to_owned())].into());
    assert_eq!(c.isolation.security_opt, ["no-new-privileges:true", "seccomp={}", "apparmor=unconfined"]);
    assert_eq!((c.isolation.host_pid, c.isolation.ipc), (true, Some(IpcMode::Host)));
    let devices: Vec<_> =
        c.isolation.devices.iter().map(|d| format!("{}>{} {}", d.source, d.target, d.permissions)).collect();
    assert_eq!(devices, ["/dev/fuse>/dev/fuse rwm", "/dev/a>/dev/b r"]);
    assert_eq!(c.tuning.ulimits["nofile"], Ulimit { soft: 20000, hard: 40000 });
    assert_eq!((c.tuning.memory_swap, c.tuning.cpu_quota, c.tuning.pids_limit), (Some(-1), Some(50_000), Some(100)));
    assert_eq!(c.tuning.shm_size.map(|size| size.0), Some(128 << 20));
    let hosts: Vec<_> = c.extra_hosts.iter().map(|host| format!("{} {}", host.name, host.address)).collect();
    assert_eq!(hosts, ["a 1.2.3.4", "b host-gateway", "c ::1"]);
    assert_eq!((c.log.driver(), c.stop_signal.as_deref()), ("syslog", Some("SIGINT")));
    assert!(matches!(c.mounts[1].source, MountSource::Anonymous));
    assert_eq!(
        c.mounts[2].source,
        MountSource::Tmpfs(TmpfsOptions { size: Some("1m".parse().expect("an amount")), mode: Some(0o1777) })
    );
    assert_eq!(
        (c.mounts[3].subpath.as_deref(), c.mounts[4].propagation, c.mounts[4].create_host_path),
        (Some("a/b"), Some(Propagation::Rslave), false)
    );
    assert!(spec.is_internal() && spec.networks.values().all(|network| network.aliases.contains("web.example")));
    let volume = composed.spec.volumes.values().next().expect("a volume");
    assert_eq!(
        (volume.driver.as_deref(), volume.driver_opts.len(), volume.name.as_ref().map(VolumeName::as_str)),
        (Some("local"), 3, Some("my_data"))
    );
}

#[test]
fn what_docker_cannot_do_is_refused() {
    for (mode, expected) in [("none", NetworkMode::None), ("host", NetworkMode::Host), ("bridge", NetworkMode::Cluster)]
    {
        assert_eq!(web(&format!("services: {{web: {{image: a, network_mode: {mode}}}}}")).network_mode, expected);
    }
    let cases = [
        (
            "network_mode: 'container:x'",
            "services.web.network_mode: containers outside of wharf cannot share their network",
        ),
        ("network_mode: none, networks: [default]", "services.web.networks: network_mode excludes networks"),
        ("security_opt: ['seccomp=no.json']", "services.web.security_opt[0]: no.json: there is no such file"),
        ("volumes: [{type: image, source: a, target: /x}]", "mounts of type \"image\" are not supported"),
        (
            "mem_limit: 64m, deploy: {resources: {limits: {memory: 128m}}}",
            "services.web.mem_limit: it contradicts deploy.resources.limits.memory: remove one of them",
        ),
        (
            "pids_limit: 3, deploy: {resources: {limits: {pids: 4}}}",
            "services.web.pids_limit: it contradicts deploy.resources.limits.pids",
        ),
        ("pull_policy: build", "services.web.pull_policy: \"build\" is not supported here"),
        ("ulimits: {nofile: {soft: 1}}", "services.web.ulimits.nofile: both soft and hard are required"),
        ("cpu_quota: soon", "is neither a number of microseconds nor a duration"),
        ("extra_hosts: [a]", "services.web.extra_hosts: \"a\" is not a host and its address"),
        ("ports: ['80:80/sctp']", "only tcp and udp are supported"),
        ("ports: [{target: 80, published: '80-90'}]", "a range of host ports is not supported"),
        (
            "environment: [{A: 1}]",
            "services.web.environment[0]: expected KEY=value, found a mapping; a mapping has no '-'",
        ),
        (
            "networks: {default: {ipv4_address: 10.0.0.2}}",
            "services.web.networks.default.ipv4_address: the cluster assigns addresses",
        ),
    ];
    for (more, expected) in cases {
        let found = refused(&format!("services: {{web: {{image: a, {more}}}}}"));
        assert!(found.contains(expected), "{more}: {found}");
    }
    let external =
        refused("services: {web: {image: a, volumes: ['x:/x']}}\nvolumes: {x: {external: true, driver: nfs}}");
    assert!(external.contains("volumes.x.driver: an external volume already exists"), "{external}");
}

#[test]
fn keys_that_are_not_known_are_refused_with_what_was_meant() {
    let cases = [
        (
            "services: {web: {image: a, enviroment: {}}}",
            "services.web.enviroment: this key does not exist; did you mean environment?",
        ),
        (
            "services: {web: {image: a, deploy: {replica: 2}}}",
            "services.web.deploy.replica: this key does not exist; did you mean replicas?",
        ),
        ("service: {}", "service: this key does not exist; did you mean services?"),
        (
            "services: {web: {image: a, banana: 1}}",
            "services.web.banana: this key does not exist; only keys that start with x- are free",
        ),
        ("services: {web: {image: a, healthcheck: {tset: x}}}", "did you mean test?"),
        (
            "services: {web: {image: a}, off: {image: b, profiles: [x], prots: []}}",
            "services.off.prots: this key does not exist; did you mean ports?",
        ),
        (
            "services: {web: {image: a, ports: [{target: 80, publish: 80}]}}",
            "services.web.ports[0].publish: this key does not exist; did you mean published?",
        ),
    ];
    for (text, expected) in cases {
        let found = refused(text);
        assert!(found.contains(expected), "{text}: {found}");
    }
    let composed = read(&["x-top: 1\nservices: {web: {image: a, x-own: {any: thing}}}"]).expect("is accepted");
    assert_eq!(warned(&composed), "");
}

#[test]
fn an_image_is_used_and_not_built() {
    let composed = read(&["services: {web: {image: a, build: {context: ., target: x}}}"]).expect("is accepted");
    assert_eq!(
        warned(&composed),
        "compose0.yaml:1:28: services.web.build: wharf does not build images: it pulls the one under image, so build and push that first"
    );
    let found = refused("services: {web: {build: {contxt: .}}}");
    assert!(
        found.contains("did you mean context?") && found.contains("build and push the image, then name it under image"),
        "{found}"
    );
}

#[test]
fn names_that_dns_does_not_know_are_kept_as_further_names() {
    let text = "
services:
  my_app: {image: a, depends_on: [My.Db], links: ['My.Db:database'], container_name: front_end, secrets: [db_password]}
  My.Db: {image: b}
secrets: {db_password: {environment: PW}}
";
    let composed = read_with(&[text], &[("PW", "x")], &[], &[]).unwrap_or_else(|e| panic!("{e}"));
    let told: Vec<String> = composed
        .spec
        .services
        .iter()
        .map(|(name, spec)| {
            let aliases: Vec<&str> = spec.networks.values().flat_map(|n| &n.aliases).map(Alias::as_str).collect();
            format!("{name} [{}]", aliases.join(" "))
        })
        .collect();
    assert_eq!(told, ["my-app [front_end my_app]", "my-db [database my.db]"]);
    let file = &composed.spec.services[&"my-app".parse().expect("a name")].container.files[0];
    assert_eq!((file.name.as_str(), file.target.as_str()), ("db-password", "/run/secrets/db_password"));
    let twins = refused("services: {a_b: {image: x}, a-b: {image: y}}");
    assert!(twins.contains("a_b and a-b both have the name a-b in wharf"), "{twins}");
}

#[test]
fn defaults_that_differ_are_told_with_their_place() {
    let composed = read(&["services:\n  web:\n    image: a\n    ports: ['80:80']\n    healthcheck: {test: x}\n"])
        .expect("is accepted");
    let told: Vec<String> = composed
        .defaults
        .iter()
        .map(|d| {
            format!("{} {}: {} ({}/{})", d.place.line, d.key, d.here, d.compose.unwrap_or("-"), d.swarm.unwrap_or("-"))
        })
        .collect();
    assert_eq!(
        told,
        [
            "2 restart: restarted whenever it ends (not restarted/-)",
            "2 healthcheck.interval: 10s (30s/30s)",
            "2 healthcheck.timeout: 5s (30s/30s)",
            "2 logging: at most three files of 10 MiB (unlimited/unlimited)",
            "2 ports: open on the hosts that run an instance (-/open on every host)",
        ]
    );
}

#[test]
fn paths_of_the_project_are_noted() {
    let composed =
        read(&["services: {web: {image: a, volumes: ['./conf:/x', '../up:/y', /etc:/z]}}"]).expect("is accepted");
    let sources: Vec<_> =
        composed.spec.services.values().flat_map(|s| &s.container.mounts).map(|m| format!("{:?}", m.source)).collect();
    assert_eq!(sources, ["Bind(\"/srv/shop/conf\")", "Bind(\"/srv/up\")", "Bind(\"/etc\")"]);
    assert!(
        lines(&composed.notes).contains("/srv/shop/conf must exist on every host that runs it"),
        "{:?}",
        composed.notes
    );
}

mod any_text {
    use proptest::prelude::*;

    use super::*;

    const WORDS: [&str; 40] = [
        "services:",
        "\n  web:",
        "\n    image: a",
        "\n    ports:",
        " ['80:80']",
        "\n      - ",
        "{",
        "}",
        "[",
        "]",
        "&a ",
        "*a",
        "<<: ",
        "!reset ",
        "!override ",
        "\n    environment:",
        " A=1",
        "${X:-",
        "}",
        "\n    extends:",
        " web",
        "include:",
        " [a.yaml]",
        "\n",
        "  ",
        "volumes:",
        "deploy:",
        "null",
        "1e3",
        "'",
        "\"",
        "\t",
        ": ",
        ", ",
        "\n    command: ",
        "networks:",
        "profiles:",
        "healthcheck:",
        "depends_on:",
        "\u{feff}",
    ];

    proptest! {
        #[test]
        fn no_text_is_too_much(text in "\\PC{0,80}") {
            let _ = read(&[&text]);
        }

        #[test]
        fn no_order_of_words_is_too_much(words in prop::collection::vec(prop::sample::select(&WORDS[..]), 0..30)) {
            let text = words.concat();
            let _ = read(&["services: {web: {image: a}}", &text]);
            let _ = read(&[&text]);
        }

        /// Printed YAML parses to the same value.
        #[test]
        fn yaml_that_is_printed_says_the_same(value in "\\PC{0,40}", key in "[\\PC&&[^\u{0}]]{1,10}") {
            let place = Place { file: "a".into(), line: 1, column: 1 };
            let mut map = Map::default();
            map.set(&key, Node::text(&value, place.clone()));
            let node = Node::new(Value::Map(map), place);
            let again = crate::yaml::documents(&"a".into(), &to_yaml(&node)).map(|mut all| all.remove(0));
            prop_assert!(again.as_ref().is_ok_and(|again| again.same(&node)), "{} {:?}", to_yaml(&node), again);
        }
    }
}
