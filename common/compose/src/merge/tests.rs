use std::sync::Arc;

use super::*;
use crate::{normal, render, yaml};

/// The merge of two files as YAML, or its problems.
fn merged(base: &str, over: &str) -> Result<Node, String> {
    let findings = Findings::default();
    let read = |name: &str, text: &str| {
        let name: Arc<str> = name.into();
        let mut node = yaml::documents(&name, text).unwrap_or_else(|error| panic!("{text}: {error}")).remove(0);
        normal::normalise(&mut node, &findings);
        node
    };
    let mut all = without_tags(read("a", base));
    Merge { tags: Tags::Spent, findings: &findings }.lay(&mut all, read("b", over), &[]);
    unique(&mut all, &findings);
    let (problems, ..) = findings.taken();
    if problems.is_empty() { Ok(all) } else { Err(problems.iter().map(ToString::to_string).collect()) }
}

#[track_caller]
fn check(base: &str, over: &str, expected: &str) {
    let service = |text: &str| format!("services: {{web: {{{text}}}}}");
    let found = merged(&service(base), &service(over)).unwrap_or_else(|error| panic!("{error}"));
    let wanted = merged(&service(expected), "{}").unwrap_or_else(|error| panic!("{error}"));
    let sorted = |mut node: Node| {
        sort(&mut node);
        render::yaml(&node)
    };
    assert_eq!(sorted(found), sorted(wanted), "{base} with {over}");
}

fn sort(node: &mut Node) {
    match &mut node.value {
        Value::Scalar(_) => {}
        Value::List(items) => items.iter_mut().for_each(sort),
        Value::Map(map) => {
            map.entries.sort_by(|a, b| a.key.cmp(&b.key));
            map.entries.iter_mut().for_each(|entry| sort(&mut entry.node));
        }
    }
}

/// One row per rule: a file, a later file, and their merge.
const ROWS: &[(&str, &str, &str)] = &[
    // Single values are replaced.
    ("image: a, user: x", "image: b", "image: b, user: x"),
    ("image: a", "image: null", "image: a"),
    // Commands are replaced as a whole, also by null.
    ("command: [a, b]", "command: c", "command: [c]"),
    ("command: [a, b]", "command: null", "command: null"),
    ("entrypoint: a b", "entrypoint: []", "entrypoint: []"),
    (
        "healthcheck: {test: [CMD, a], retries: 1}",
        "healthcheck: {test: b}",
        "healthcheck: {test: [CMD-SHELL, b], retries: 1}",
    ),
    // Variables and labels, by their name, in either spelling.
    ("environment: [A=1, B=2]", "environment: {B: 3, C: }", "environment: {A: '1', B: 3, C: null}"),
    ("environment: {A: 1}", "environment: [A]", "environment: [A]"),
    ("labels: [a=1, b]", "labels: {a: 2}", "labels: {a: 2, b: ''}"),
    ("sysctls: [net.a=1]", "sysctls: {net.b: 2}", "sysctls: {net.a: '1', net.b: 2}"),
    ("deploy: {labels: [a=1]}", "deploy: {labels: {a: 2}}", "deploy: {labels: {a: 2}}"),
    // Ports are the same if address, host port, port and protocol are.
    ("ports: ['80:80', '81:81']", "ports: ['80:80', '82:81']", "ports: ['80:80', '81:81', '82:81']"),
    ("ports: ['80:80']", "ports: ['80:80/udp', '127.0.0.1:80:80']", "ports: ['80:80', '80:80/udp', '127.0.0.1:80:80']"),
    ("ports: ['8000-8001:80-81']", "ports: ['8001:81']", "ports: ['8000:80', '8001:81']"),
    // Mounts and devices are the same if their target is.
    ("volumes: ['/a:/x', 'v:/y']", "volumes: ['/b:/x:ro']", "volumes: ['/b:/x:ro', 'v:/y']"),
    ("volumes: ['/a:/x']", "volumes: [{type: tmpfs, target: /x}]", "volumes: [{type: tmpfs, target: /x}]"),
    ("devices: ['/dev/a:/dev/x']", "devices: ['/dev/b:/dev/x:r', /dev/c]", "devices: ['/dev/b:/dev/x:r', /dev/c]"),
    // Configs and secrets are the same if their target is.
    ("secrets: [a, b]", "secrets: [{source: c, target: a}]", "secrets: [{source: c, target: a}, b]"),
    (
        "secrets: [a]",
        "secrets: [{source: c, target: /run/secrets/a}]",
        "secrets: [{source: c, target: /run/secrets/a}]",
    ),
    ("configs: [a]", "configs: [{source: a, target: /x}]", "configs: [a, {source: a, target: /x}]"),
    // Lists are appended, without duplicates.
    ("expose: [80, 81]", "expose: ['80', 82]", "expose: ['80', 81, 82]"),
    ("cap_add: [A]", "cap_add: [B, A]", "cap_add: [A, B]"),
    ("dns: 1.1.1.1", "dns: [8.8.8.8]", "dns: [1.1.1.1, 8.8.8.8]"),
    ("dns_opt: ['ndots:1', rotate]", "dns_opt: ['ndots:2']", "dns_opt: ['ndots:2', rotate]"),
    ("tmpfs: /a", "tmpfs: [/b, /a]", "tmpfs: [/a, /b]"),
    (
        "env_file: a.env",
        "env_file: [b.env, {path: a.env, required: false}]",
        "env_file: [{path: a.env, required: false}, b.env]",
    ),
    ("profiles: [a]", "profiles: [b]", "profiles: [a, b]"),
    (
        "deploy: {placement: {constraints: [a == b]}}",
        "deploy: {placement: {constraints: [c == d]}}",
        "deploy: {placement: {constraints: [a == b, c == d]}}",
    ),
    (
        "extra_hosts: ['a:1.1.1.1']",
        "extra_hosts: {a: 2.2.2.2, b: 3.3.3.3}",
        "extra_hosts: {a: [1.1.1.1, 2.2.2.2], b: 3.3.3.3}",
    ),
    // Names become mappings.
    (
        "depends_on: [a]",
        "depends_on: {b: {condition: service_healthy}}",
        "depends_on: {a: {condition: service_started, required: true}, b: {condition: service_healthy}}",
    ),
    ("networks: {n: {aliases: [x]}}", "networks: [n, m]", "networks: {n: {aliases: [x]}, m: null}"),
    ("networks: {n: {aliases: [x]}}", "networks: {n: {aliases: [x, y]}}", "networks: {n: {aliases: [x, y]}}"),
    // Options of a driver go with it.
    ("logging: {driver: a, options: {x: 1}}", "logging: {driver: b}", "logging: {driver: b}"),
    (
        "logging: {driver: a, options: {x: 1}}",
        "logging: {options: {y: 2}}",
        "logging: {driver: a, options: {x: 1, y: 2}}",
    ),
    (
        "ulimits: {nofile: 1}",
        "ulimits: {nofile: {soft: 2, hard: 3}, nproc: 4}",
        "ulimits: {nofile: {soft: 2, hard: 3}, nproc: 4}",
    ),
    ("build: a", "build: {args: [X=1]}", "build: {context: a, args: {X: '1'}}"),
    // Tags chosen by the user.
    ("ports: ['80:80', '81:81']", "ports: !override ['82:82']", "ports: ['82:82']"),
    ("ports: ['80:80'], image: a", "ports: !reset []", "image: a"),
    ("environment: {A: 1, B: 2}", "environment: {A: !reset null}", "environment: {B: 2}"),
    ("environment: {A: 1}", "environment: !override [B=2]", "environment: {B: '2'}"),
    ("deploy: {replicas: 2}", "deploy: !override {mode: global}", "deploy: {mode: global}"),
    ("image: a", "build: !reset null, command: !override [x]", "image: a, command: [x]"),
    ("x-cron: '* * * * *'", "x-cron: {schedule: '@daily'}", "x-cron: {schedule: '@daily'}"),
    ("x-a: {b: 1}", "x-a: {c: 2}", "x-a: {b: 1, c: 2}"),
];

#[test]
fn each_key_is_merged_by_its_rule() {
    for (base, over, expected) in ROWS {
        check(base, over, expected);
    }
}

#[test]
fn what_does_not_go_together_is_refused_with_both_places() {
    let found =
        merged("services:\n  web:\n    deploy: {}\n", "services: {web: {deploy: [x]}}").expect_err("is refused");
    assert!(
        found.starts_with("b:1:26: services.web.deploy: a list cannot be merged into a mapping of a:3:13"),
        "{found}"
    );
}

#[test]
fn networks_and_their_ranges_are_merged() {
    let base = "networks: {n: {labels: [a=1], ipam: {config: [{subnet: 10.0.0.0/24}]}}}";
    let over = "networks: {n: {labels: {b: 2}, ipam: {config: [{subnet: 10.0.0.0/24, gateway: 10.0.0.1}, {subnet: 10.0.1.0/24}]}}}";
    let found = merged(base, over).expect("is merged");
    let config = found.nearest("networks.n.ipam.config").0.as_list().map(<[Node]>::len);
    assert_eq!((config, found.nearest("networks.n.labels.b").0.as_text()), (Some(2), Some("2")));
}

mod laws {
    use proptest::prelude::*;

    use super::*;

    fn service() -> impl Strategy<Value = String> {
        let variables = prop::collection::btree_map("[A-D]", "[0-9]{1,2}", 0..4);
        let ports = prop::collection::vec(80u16..84, 0..4);
        let hosts = prop::collection::vec("[a-d]", 0..3);
        (variables, ports, hosts).prop_map(|(variables, ports, caps)| {
            let variables: Vec<String> = variables.iter().map(|(key, value)| format!("{key}: {value}")).collect();
            let ports: Vec<String> = ports.iter().map(|port| format!("'{port}:{port}'")).collect();
            format!(
                "services: {{web: {{environment: {{{}}}, ports: [{}], cap_add: [{}]}}}}",
                variables.join(", "),
                ports.join(", "),
                caps.join(", ")
            )
        })
    }

    fn told(node: Node) -> String {
        let mut node = node;
        sort(&mut node);
        render::yaml(&node)
    }

    proptest! {
        /// Merging a file with itself changes nothing.
        #[test]
        fn a_file_over_itself_is_itself(file in service()) {
            let once = merged(&file, "{}").expect("is merged");
            let twice = merged(&file, &file).expect("is merged");
            prop_assert_eq!(told(once), told(twice));
        }

        /// Three files can be merged in either grouping.
        #[test]
        fn merging_is_associative(a in service(), b in service(), c in service()) {
            let left = told(merged(&told(merged(&a, &b).expect("a, b")), &c).expect("ab, c"));
            let right = told(merged(&a, &told(merged(&b, &c).expect("b, c"))).expect("a, bc"));
            prop_assert_eq!(left, right);
        }
    }
}
