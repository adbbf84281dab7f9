//! The settings of a spec take effect on real hosts: checked from within the container, from its neighbours, and with
//! Docker.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};
use tests::{lab::Lab, wait::until};

const SOON: Duration = Duration::from_secs(60);
const PATH: &str = "/api/v1/environments/default/stacks/sur";

/// Sends a request to the API of h1 as its command line does; returns the answer.
fn put(lab: &Lab, body: &Value) -> anyhow::Result<Value> {
    let script = "
        token=$(sed -n 's/^token = \"\\(.*\\)\"$/\\1/p' \"$HOME/.config/wharf/config.toml\" | head -n1)
        curl -sk --resolve lab.wharf:7443:10.97.0.1 -X PUT -H \"Authorization: Bearer $token\" \\
            -H 'Content-Type: application/json' -d @\"$1\" \"https://lab.wharf:7443$2\"";
    let file = lab.put_file("h1", "stack.json", &body.to_string());
    let said = lab.exec("h1", &["sh", "-c", script, "put", &file, PATH])?;
    serde_json::from_str(&said).with_context(|| said.clone())
}

fn web(container: Value, more: Value) -> Value {
    let mut container = container;
    container["image"] = "lab/web:1".into();
    container["stop_grace"] = "1s".into();
    let mut service = more;
    service["container"] = container;
    service
}

/// A spec with all settings of a container.
fn full() -> Value {
    let container = json!({
        "hostname": "{{.Service.Name}}-{{.Task.Slot}}",
        "environment": {"ID": "{{.Task.Slot}} of {{.Node.Hostname}}", "BRACES": "{{\"{{\"}}x}}"},
        "labels": {"slot": "{{.Task.Slot}}"},
        "mounts": [
            {"source": {"volume": "data-{{.Task.Slot}}"}, "target": "/data"},
            {"source": {"tmpfs": {"size": 1048576, "mode": 0o1777}}, "target": "/memory"},
            {"source": {"bind": "/srv/made"}, "target": "/made", "create_host_path": true}
        ],
        "tmpfs": {"/scratch": "size=64k"},
        "read_only": true,
        "init": true,
        "stop_signal": "SIGINT",
        "extra_hosts": [{"name": "box", "address": "10.1.2.3"}, {"name": "gate", "address": "host-gateway"}],
        "resolver": {"search": ["corp.example"], "options": ["attempts:3"]},
        "isolation": {
            "cap_drop": ["ALL"],
            "cap_add": ["NET_BIND_SERVICE"],
            "security_opt": ["no-new-privileges:true"],
            "group_add": ["4321"],
            "devices": [{"source": "/dev/null", "target": "/dev/mine", "permissions": "rw"}]
        },
        "tuning": {
            "pids_limit": 77,
            "shm_size": 2097152,
            "ulimits": {"nofile": {"soft": 123, "hard": 456}},
            "sysctls": {"net.core.somaxconn": "99"},
            "oom_score_adj": 55
        },
        "log": {"driver": "none"}
    });
    web(container, json!({"constraints": [{"key": "node.hostname", "operator": "==", "values": ["h1"]}]}))
}

fn stack() -> Value {
    let on = |host: &str| json!([{"key": "node.hostname", "operator": "==", "values": [host]}]);
    let port = json!([{"container": 8099, "protocol": "tcp"}]);
    json!({
        "volumes": {"data-{{.Task.Slot}}": {}, "outside": {"external": true}},
        "services": {
            "full": full(),
            "alone": web(json!({}), json!({"network_mode": "none"})),
            "open": web(json!({}), json!({"constraints": on("h2"), "ports": [
                {"container": 80, "published": 8098, "protocol": "tcp"}
            ]})),
            "node": web(
                json!({"command": ["/bin/httpd", "-f", "-p", "8099", "-h", "/www"]}),
                json!({"network_mode": "host", "expose": port, "constraints": on("h1")}),
            ),
            "back": web(json!({}), json!({"networks": {"back": {"internal": true, "aliases": ["Database"]}}})),
            "front": web(json!({}), json!({"networks": {"back": {"internal": true}, "front": {}}})),
            "other": web(json!({}), json!({"mode": "global"})),
            "lost": web(
                json!({"mounts": [{"source": {"volume": "outside"}, "target": "/data"}]}),
                json!({"constraints": on("h2")}),
            )
        }
    })
}

/// The host and the container of a service's instance in a slot.
fn container(lab: &Lab, service: &str, slot: u32) -> anyhow::Result<(String, String)> {
    let instances = lab.instances("h1")?;
    let of_slot = |i: &&common::api::InstanceView| {
        i.id.service().service.as_str() == service && i.id.slot.slot == slot && i.state == "running"
    };
    let instance = instances.iter().find(of_slot).with_context(|| format!("{service} runs: {instances:?}"))?;
    let host = instance.host_name.as_ref().context("a host")?;
    Ok((host.to_string(), instance.id.container_name()))
}

fn within(lab: &Lab, service: &str, slot: u32, words: &str) -> anyhow::Result<String> {
    let (host, container) = container(lab, service, slot)?;
    lab.docker(&host, &["exec", &container, "/bin/busybox", "sh", "-c", words])
}

#[test]
fn what_a_spec_says_holds() {
    let lab = Lab::up(2);
    let mut refused = json!({"spec": stack(), "dry_run": true});
    refused["spec"]["services"]["full"]["container"]["mounts"][0]["subpath"] = "a".into();
    let plan = put(&lab, &refused).expect("it is planned");
    let engine = lab.docker("h1", &["version", "--format", "{{.Server.Version}}"]).expect("it answers");
    let is_older = engine.split('.').next().and_then(|major| major.parse::<u32>().ok()).is_some_and(|major| major < 26);
    let is_refused = plan["unplaceable"].to_string().contains("engine.version >= 26");
    assert_eq!(is_refused, is_older, "Docker {engine}: {plan}");
    refused["spec"]["services"]["full"]["container"]["hostname"] = "{{.Nobody}}".into();
    let told = put(&lab, &refused).expect("it is answered").to_string();
    assert!(told.contains("services.full.hostname") && told.contains("{{.Nobody}}"), "{told}");

    put(&lab, &json!({"spec": stack()})).expect("it is deployed");
    until(SOON, "all run that can", || {
        for (service, slot) in
            [("full", 1), ("alone", 1), ("open", 1), ("node", 1), ("back", 1), ("front", 1), ("other", 1), ("other", 2)]
        {
            container(&lab, service, slot)?;
        }
        anyhow::Ok(())
    });
    look_within(&lab);
    look_at_networks(&lab);

    // An instance with a missing volume is refused, and starts once the volume exists.
    until(SOON, "the missing volume is named", || {
        let instances = lab.exec("h1", &["wharf", "events", "default/sur/lost"])?;
        ensure!(instances.contains("volume outside is external and does not exist on this host"), "{instances}");
        Ok(())
    });
    assert!(lab.docker("h2", &["volume", "inspect", "outside"]).is_err(), "nobody made it");
    let (code, _, told) = lab.try_exec("h1", &["wharf", "logs", "sur/full"]);
    assert!(code != 0 && told.contains("keeps nothing on the host"), "{code} {told}");
}

fn look_within(lab: &Lab) {
    let seen = |words: &str| within(lab, "full", 1, words).expect("it can be looked at").trim().to_owned();
    assert_eq!(seen("hostname"), "full-1");
    assert_eq!(seen("echo \"$ID $BRACES\""), "1 of h1 {{x}}");
    assert_eq!(seen("grep -c box /etc/hosts; grep gate /etc/hosts | cut -f1"), "1\n10.42.0.1");
    assert!(seen("echo x > /x; echo $?").ends_with('1'), "it may only read its root");
    assert_eq!(seen("echo x > /scratch/x && echo x > /memory/x && echo x > /data/x && cat /scratch/x"), "x");
    assert_eq!(seen("grep CapBnd /proc/1/status | cut -f2"), "0000000000000400");
    assert_eq!(seen("grep NoNewPrivs /proc/1/status | cut -f2"), "1");
    assert_eq!(seen("cat /proc/sys/net/core/somaxconn /proc/1/oom_score_adj"), "99\n55");
    assert!(seen("df -k /dev/shm | tail -n1").contains(" 2048 "));
    assert!(seen("id -G").split(' ').any(|group| group == "4321"));
    assert_eq!(seen("test -c /dev/mine && test -d /made && echo yes"), "yes");
    assert!(seen("cat /proc/1/cmdline").contains("init"), "a first process passes signals on");
    let resolver = seen("cat /etc/resolv.conf");
    assert!(resolver.contains("sur.default.wharf.internal corp.example"), "{resolver}");
    assert!(resolver.contains("attempts:3"), "{resolver}");
    let (host, name) = container(lab, "full", 1).expect("it runs");
    // runc's exec sets this limit in a race with its own Go runtime, so a single program may have another one:
    // https://github.com/opencontainers/runc/issues/4195.
    until(SOON, "programs have the limit of open files", || {
        let limits = within(lab, "full", 1, "ulimit -Sn; ulimit -Hn")?;
        ensure!(limits.trim() == "123\n456", "{limits}");
        anyhow::Ok(())
    });
    let shape = "{{.Config.StopSignal}} {{.HostConfig.PidsLimit}} {{(index .Config.Labels \"slot\")}} \
        {{range .HostConfig.Ulimits}}{{.Name}} {{.Soft}} {{.Hard}}{{end}} {{range .Mounts}}{{.Name}} {{end}}";
    let told = lab.docker(&host, &["inspect", "-f", shape, &name]).expect("it can be inspected");
    assert!(told.starts_with("SIGINT 77 1 nofile 123 456 ") && told.contains("default.sur.data-1"), "{told}");
}

fn look_at_networks(lab: &Lab) {
    let calls = |service: &str, slot: u32, whom: &str| -> anyhow::Result<()> {
        within(lab, service, slot, &format!("timeout 5 /bin/busybox wget -qO- http://{whom}/ >/dev/null")).map(drop)
    };
    let connects = |service: &str, address: &str| {
        within(lab, service, 1, &format!("timeout 4 /bin/busybox nc {address} </dev/null")).is_ok()
    };
    // No network: neither interfaces nor a name.
    let links = within(lab, "alone", 1, "ls /sys/class/net").expect("it can be looked at");
    assert_eq!(links.trim(), "lo");
    calls("other", 1, "alone").expect_err("nobody finds it");
    // The host's network: reachable by its name, from both hosts.
    for slot in [1, 2] {
        until(SOON, "the host's network is reached", || calls("other", slot, "node:8099"));
    }
    // Networks of the stack separate services, and an internal one has no way outside.
    until(SOON, "who shares a network is reached", || {
        calls("front", 1, "back")?;
        calls("front", 1, "database")
    });
    calls("other", 1, "back").expect_err("it shares no network with it");
    let (host, back) = container(lab, "back", 1).expect("it runs");
    let shape = "{{.NetworkSettings.Networks.wharf.IPAddress}}";
    let address = lab.docker(&host, &["inspect", "-f", shape, &back]).expect("it has an address");
    assert!(connects("front", &format!("{} 80", address.trim())), "they share a network");
    assert!(!connects("other", &format!("{} 80", address.trim())), "nor by its address");
    // Of hosts, its own and the others, a container reaches what is published there, and nothing else.
    for slot in [1, 2] {
        let calls = |whom: &str| within(lab, "other", slot, &format!("timeout 4 /bin/busybox nc {whom} </dev/null"));
        until(SOON, "what another host publishes is reached", || calls("10.97.0.2 8098").map(drop));
        until(SOON, "the host's network is reached", || calls("10.97.0.1 8099").map(drop));
        for host in ["10.97.0.1", "10.97.0.2"] {
            for port in [22, 2375, 7443] {
                calls(&format!("{host} {port}")).expect_err("nobody published it");
            }
        }
        let ping = |host: &str| within(lab, "other", slot, &format!("timeout 4 /bin/busybox ping -c1 {host}"));
        let own = ["10.97.0.1", "10.97.0.2"].map(|host| ping(host).is_ok());
        assert!(own.contains(&true), "hosts answer a ping");
    }
    for host in ["10.97.0.1", "10.97.0.2"] {
        assert!(!connects("front", &format!("{host} 7443")), "it reaches no coordinator");
        assert!(!connects("back", &format!("{host} 7443")), "it stays inside");
    }
}
