//! Compose projects generated from a seed: notations and merges that people use, mixed at random. The same seed always
//! gives the same files.

use std::collections::BTreeMap;

/// The files of a project, and how to read it.
#[derive(Debug, Default)]
pub struct Project {
    /// Each file's text, by its path in the project's folder.
    pub files: BTreeMap<String, String>,
    /// The compose files, as given with `-f`.
    pub given: Vec<String>,
    /// The enabled profiles.
    pub profiles: Vec<String>,
    /// The environment variables.
    pub variables: BTreeMap<String, String>,
}

/// A stream of random numbers (splitmix64).
pub struct Chance(u64);

impl Chance {
    pub fn of(seed: u64) -> Chance {
        Chance(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    fn percent(&mut self, chance: u64) -> bool {
        self.below(100) < chance
    }

    fn of_these<'a>(&mut self, items: &[&'a str]) -> &'a str {
        items[self.below(items.len() as u64) as usize]
    }

    /// Some of the items in their order; at least one.
    fn some<'a>(&mut self, items: &[&'a str], most: usize) -> Vec<&'a str> {
        let mut chosen: Vec<&str> = items.iter().copied().filter(|_| self.percent(50)).take(most).collect();
        if chosen.is_empty() {
            chosen.push(self.of_these(items));
        }
        chosen
    }
}

const SERVICES: [&str; 4] = ["api", "db", "web", "worker"];

/// Values for keys with a few choices; each is valid by itself.
const SIMPLE: &[(&str, &[&str])] = &[
    (
        "image",
        &[
            "nginx",
            "\"nginx:${TAG:-1.0}\"",
            "postgres:16",
            "registry:5000/a/b:1.2.3",
            "${IMAGE}",
            "'a:$$x'",
            "x${EMPTY}y",
        ],
    ),
    (
        "command",
        &[
            "[\"echo\", \"a b\"]",
            "echo 'a b' c\\ d",
            "[sleep, \"1.10\"]",
            "\"\"",
            "[\"$$HOME\", \"${TAG}\"]",
            "null",
            "a \"b $${c}\"",
        ],
    ),
    ("entrypoint", &["/bin/sh -c", "[/entry, --x]", "\"\"", "[]"]),
    (
        "environment",
        &[
            "{A: 1, B: \"2\", C: 24.10, D: true, E: null}",
            "[A=1, \"B=a b\", GIVEN, NOT_GIVEN, \"C=x=y\"]",
            "{M: 0x1F, N: 1e3, O: 0o17, P: \"\", Q: ~, R: \"${GIVEN}\"}",
            "{S: \"${MISSING:-de fault}\", T: \"${EMPTY:-unset}\", U: \"${EMPTY-unset}\", V: \"${GIVEN:+set}\"}",
            "[\"W=${GIVEN:-x}${TAG}\", \"X=$$5\", \"Y=${MISSING-}\", Z=]",
            "{GIVEN: , A: \"${DEEP:-${TAG:-none}}\"}",
        ],
    ),
    (
        "env_file",
        &[
            "a.env",
            "[a.env, b.env]",
            "[{path: a.env}, {path: no.env, required: false}]",
            "b.env",
            "[{path: raw.env, format: raw}]",
        ],
    ),
    ("labels", &["{a: b, c: 1, d: true}", "[a=b, \"c=d=e\", bare]", "{x.y: \"${TAG}\", n: 1.50}", "{empty: \"\"}"]),
    ("annotations", &["{a: b}", "[a=c, d=e]"]),
    (
        "ports",
        &[
            "[\"8080:80\"]",
            "[80]",
            "[\"127.0.0.1:8001:80/udp\", \"9000\"]",
            "[\"3000-3002:4000-4002\"]",
            "[{target: 80, published: \"8080\", protocol: tcp, mode: host}]",
            "[\"${PORT:-8081}:81\", \"8082:82/udp\"]",
            "[{target: 90, host_ip: 127.0.0.1, name: x, app_protocol: http}]",
            "[\"[::1]:6000:60\"]",
            "[\"8080:80\", \"8080:80\"]",
        ],
    ),
    ("expose", &["[80, \"81\"]", "[\"3000-3002\"]", "[\"53/udp\"]"]),
    (
        "volumes",
        &[
            "[\"data:/data\"]",
            "[\"./src:/src:ro\", \"/abs/x:/x\"]",
            "[/anonymous]",
            "[\"logs:/logs:ro\", \"./a/../b:/b\"]",
            "[{type: volume, source: data, target: /data, volume: {nocopy: true, subpath: a/b}}]",
            "[{type: bind, source: ./conf, target: /conf, read_only: true, bind: {create_host_path: false, propagation: rslave}}]",
            "[{type: tmpfs, target: /run/x, tmpfs: {size: 64m, mode: 0o700}}]",
            "[\"/srv/${TAG:-x}/y:/y:rw\"]",
            "[\".:/code\", \"..:/up:z\"]",
        ],
    ),
    (
        "networks",
        &[
            "[front]",
            "[front, back]",
            "{front: {aliases: [a, b]}, back: }",
            "{back: {priority: 10, ipv4_address: 172.30.0.5}}",
        ],
    ),
    (
        "healthcheck",
        &[
            "{test: [CMD, \"true\"], interval: 5s, retries: 3}",
            "{test: curl -f localhost, timeout: 1m30s, start_period: 2s}",
            "{disable: true}",
            "{test: [NONE]}",
            "{test: [CMD-SHELL, \"exit $$?\"], start_interval: 500ms}",
        ],
    ),
    (
        "deploy",
        &[
            "{replicas: 2}",
            "{mode: global, labels: {x: y}}",
            "{resources: {limits: {cpus: \"0.50\", memory: 50M}, reservations: {memory: 20M}}}",
            "{update_config: {parallelism: 2, delay: 10s, order: start-first, failure_action: rollback}}",
            "{restart_policy: {condition: on-failure, delay: 5s, max_attempts: 3, window: 120s}}",
            "{placement: {constraints: [node.role == manager, \"node.labels.a==b\"], preferences: [{spread: node.labels.z}], max_replicas_per_node: 1}}",
            "{endpoint_mode: dnsrr, labels: [a=b], replicas: \"${REPLICAS:-3}\"}",
        ],
    ),
    ("restart", &["always", "\"no\"", "unless-stopped", "on-failure:3"]),
    ("user", &["\"1000:1000\"", "\"1000\"", "root"]),
    ("working_dir", &["/app", "\"/${GIVEN}\""]),
    ("hostname", &["h1", "${GIVEN}"]),
    ("domainname", &["example.com"]),
    ("init", &["true", "\"${BOOL:-true}\"", "false"]),
    ("tty", &["true", "false"]),
    ("stdin_open", &["true"]),
    ("read_only", &["true", "\"${BOOL}\""]),
    ("privileged", &["true", "false"]),
    ("cap_add", &["[NET_ADMIN]", "[ALL, SYS_TIME]"]),
    ("cap_drop", &["[ALL]"]),
    ("security_opt", &["[\"no-new-privileges:true\"]", "[label=disable, seccomp=unconfined]"]),
    ("group_add", &["[mail, 100]"]),
    ("dns", &["8.8.8.8", "[8.8.8.8, 9.9.9.9]"]),
    ("dns_search", &["a.example", "[a.example, b.example]"]),
    ("dns_opt", &["[use-vc, \"ndots:1\"]"]),
    ("extra_hosts", &["[\"a:10.0.0.1\"]", "{a: 10.0.0.1, b: \"::1\"}", "[\"b=10.0.0.2\", \"c:host-gateway\"]"]),
    ("tmpfs", &["/run", "[/run, \"/tmp:size=64m\"]"]),
    ("ulimits", &["{nofile: 1024}", "{nofile: {soft: 1, hard: 2}, nproc: 65535}"]),
    ("sysctls", &["{net.core.somaxconn: 1024}", "[net.core.somaxconn=1024, \"net.ipv4.tcp_syncookies=0\"]"]),
    ("shm_size", &["64m", "1gb", "\"1048576\""]),
    ("stop_signal", &["SIGINT"]),
    ("stop_grace_period", &["1m30s", "5s", "1h"]),
    ("mem_limit", &["128m", "\"1073741824\""]),
    ("mem_reservation", &["64m"]),
    ("cpus", &["0.5", "\"1.5\""]),
    ("cpu_shares", &["512"]),
    ("cpuset", &["0-1"]),
    ("pids_limit", &["100"]),
    ("oom_score_adj", &["-500"]),
    ("logging", &["{driver: json-file, options: {max-size: 10m, max-file: \"3\"}}", "{driver: none}"]),
    ("pull_policy", &["always", "missing", "never"]),
    ("platform", &["linux/amd64"]),
    ("configs", &["[conf]", "[{source: conf, target: /etc/x, mode: 0o440, uid: \"1\"}]", "[conf, given]"]),
    ("secrets", &["[pass]", "[{source: pass, target: y}]"]),
    ("devices", &["[/dev/null]", "[\"/dev/null:/dev/x:r\"]"]),
    ("scale", &["2"]),
    ("ipc", &["host", "private"]),
    ("pid", &["host"]),
    ("x-own", &["{anything: [1, 2]}"]),
];

const ENV_A: &str = "# first\nFILE_A=1\nexport EXPORTED=yes\nQUOTED=\"a b # c\" # note\nSINGLE='$GIVEN \\'x'\nEMPTY_HERE=\nGIVEN_BY_SHELL\nPLAIN=a b # note\nHASH=a#b\nUSES=${GIVEN}-${FILE_A}\nTAB=\"a\\tb\\nc\"\n";
const ENV_B: &str = "FILE_A=2\nB=\"multi\nline\"\nSPACED= x \nJSON={\"a\": 1}\nDOLLAR=$$5\n";
const RAW: &str = "FILE_A=2\nSPACED= x \nJSON={\"a\": 1}\nDOLLAR=$$5 # note\nQUOTED=\"x\"\n";
const DOT_ENV: &str = "TAG=2.0\nIMAGE=from/dotenv:${TAG}\nDEEP=\nBOOL=true\nOVERRIDDEN=by-file\n";

/// Lists that Docker Compose concatenates when merging, and then refuses because of duplicates.
const UNIQUE: [&str; 2] = ["group_add", "security_opt"];

/// Whether Docker Compose accepts this combination only under conditions that these projects do not meet.
fn clashes(have: &[&str], key: &str) -> bool {
    let apart: &[&[&str]] =
        &[&["scale", "deploy"], &["deploy", "mem_limit", "cpus", "mem_reservation", "pids_limit", "restart"]];
    apart.iter().any(|group| group.contains(&key) && have.iter().any(|other| group.contains(other)))
}

/// The project of a seed.
pub fn project(seed: u64) -> Project {
    let mut chance = Chance::of(seed);
    let mut project = Project::default();
    project.variables.insert("GIVEN".to_owned(), "given value".to_owned());
    project.variables.insert("EMPTY".to_owned(), String::new());
    if chance.percent(30) {
        project.variables.insert("OVERRIDDEN".to_owned(), "by-shell".to_owned());
        project.variables.insert("GIVEN_BY_SHELL".to_owned(), "shell".to_owned());
    }
    for (name, text) in [
        ("a.env", ENV_A),
        ("b.env", ENV_B),
        ("raw.env", RAW),
        (".env", DOT_ENV),
        ("conf.txt", "conf\n"),
        ("pass.txt", "pass\n"),
    ] {
        project.files.insert(name.to_owned(), text.to_owned());
    }
    let count = 1 + chance.below(SERVICES.len() as u64) as usize;
    let names = &SERVICES[..count];
    let mut base = String::new();
    if chance.percent(60) {
        base.push_str(&format!("name: {}\n", chance.of_these(&["shop", "${TAG:+named}", "my-app"])));
    }
    let anchored = chance.percent(40);
    if anchored {
        base.push_str("x-common: &common\n");
        base.push_str(&fields(&mut chance, &["healthcheck", "labels", "logging", "user"], 60, "  "));
        base.push_str("  init: true\n");
    }
    if chance.percent(20) {
        base.push_str("include:\n  - included/compose.yaml\n");
        let included = "services:\n  extra:\n    image: extra:${TAG:-none}\n    env_file: local.env\n    volumes: [\"./here:/here\"]\n";
        project.files.insert("included/compose.yaml".to_owned(), included.to_owned());
        project.files.insert("included/local.env".to_owned(), "LOCAL=${TAG}\n".to_owned());
    }
    base.push_str("services:\n");
    for (index, name) in names.iter().enumerate() {
        base.push_str(&format!("  {name}:\n"));
        base.push_str(&service(&mut chance, &names[..index], anchored, &mut project));
    }
    base.push_str(TOP);
    project.files.insert("compose.yaml".to_owned(), base);
    project.given.push("compose.yaml".to_owned());
    for number in 1..=chance.below(3) {
        let name = format!("override-{number}.yaml");
        let text = override_file(&mut chance, names);
        project.files.insert(name.clone(), text);
        project.given.push(name);
    }
    project.profiles = match chance.below(4) {
        0 => vec!["debug".to_owned()],
        1 => vec!["*".to_owned()],
        _ => Vec::new(),
    };
    project
}

/// The top-level declarations that services refer to.
const TOP: &str = "\
volumes:
  data:
  logs: {driver: local, driver_opts: {type: none, o: bind, device: /srv}, labels: [a=b]}
networks:
  front:
  back: {driver: bridge, internal: true, ipam: {config: [{subnet: 172.30.0.0/24}]}}
configs:
  conf: {file: ./conf.txt}
  given: {environment: GIVEN}
secrets:
  pass: {file: pass.txt}
";

fn service(chance: &mut Chance, before: &[&str], anchored: bool, project: &mut Project) -> String {
    let mut text = String::new();
    if anchored && chance.percent(60) {
        text.push_str("    <<: *common\n");
    }
    let extends = match chance.below(100) {
        0..15 => {
            project.files.insert("base.yaml".to_owned(), base_file(&mut Chance::of(chance.next())));
            text.push_str("    extends: {file: base.yaml, service: base}\n");
            true
        }
        15..30 if !before.is_empty() => {
            text.push_str(&format!("    extends: {}\n", chance.of_these(before)));
            true
        }
        _ => false,
    };
    text.push_str(&format!("    image: {}\n", chance.of_these(SIMPLE[0].1)));
    let can = |key: &&str| *key != "image" && !(extends && UNIQUE.contains(key));
    let keys: Vec<&str> = SIMPLE.iter().map(|(key, _)| *key).filter(can).collect();
    text.push_str(&fields(chance, &keys, 14, "    "));
    if !before.is_empty() && chance.percent(40) {
        let on = chance.some(before, 2);
        text.push_str(&if chance.percent(50) {
            format!("    depends_on: [{}]\n", on.join(", "))
        } else {
            let condition = chance.of_these(&["service_started", "service_healthy", "service_completed_successfully"]);
            let of = |name: &&str| format!("{name}: {{condition: {condition}, restart: true}}");
            format!("    depends_on: {{{}}}\n", on.iter().map(of).collect::<Vec<_>>().join(", "))
        });
    }
    if before.is_empty() {
        return text;
    }
    if chance.percent(12) {
        text.push_str("    profiles: [debug]\n");
    }
    text
}

/// Some of these keys, each with a value.
fn fields(chance: &mut Chance, keys: &[&str], percent: u64, indent: &str) -> String {
    let mut text = String::new();
    let mut have: Vec<&str> = Vec::new();
    for (key, values) in SIMPLE.iter().filter(|(key, _)| keys.contains(key)) {
        if chance.percent(percent) && !clashes(&have, key) {
            text.push_str(&format!("{indent}{key}: {}\n", chance.of_these(values)));
            have.push(key);
        }
    }
    text
}

fn base_file(chance: &mut Chance) -> String {
    let keys = ["environment", "env_file", "labels", "ports", "volumes", "command", "healthcheck", "cap_add", "user"];
    format!("services:\n  base:\n    image: base:1\n{}", fields(chance, &keys, 50, "    "))
}

/// A file that changes services of the first one, also with tags that remove or replace.
fn override_file(chance: &mut Chance, names: &[&str]) -> String {
    let mut text = String::from("services:\n");
    for name in chance.some(names, 3) {
        text.push_str(&format!("  {name}:\n"));
        let keys: Vec<&str> = SIMPLE
            .iter()
            .map(|(key, _)| *key)
            .filter(|key| !["scale", "deploy"].contains(key) && !UNIQUE.contains(key))
            .collect();
        let mut of_service = fields(chance, &keys, 12, "    ");
        if of_service.is_empty() {
            of_service.push_str("    environment: {ADDED: later}\n");
        }
        let tags = [("!reset", 6), ("!override", 8)];
        for (tag, percent) in tags {
            let lines: Vec<String> = of_service.lines().map(|line| tagged(chance, line, tag, percent)).collect();
            of_service = lines.join("\n") + "\n";
        }
        text.push_str(&of_service);
    }
    text
}

fn tagged(chance: &mut Chance, line: &str, tag: &str, percent: u64) -> String {
    let can = ["environment", "labels", "ports", "volumes", "cap_add", "dns", "command", "expose"];
    let Some((key, value)) =
        line.split_once(": ").filter(|(key, value)| can.contains(&key.trim()) && !value.starts_with('!'))
    else {
        return line.to_owned();
    };
    // Docker Compose reads `!override null` as text.
    if !chance.percent(percent) || value == "null" {
        return line.to_owned();
    }
    format!("{key}: {tag} {}", if tag == "!reset" { "null" } else { value })
}
