//! Containers find each other by name on any host: a service has one address, which leads to serving instances, also
//! during rollouts, without coordinators, and without the host's own agent. On real hosts.

use std::time::{Duration, Instant};

use anyhow::ensure;
use tests::{lab::Lab, wait::until};

const SOON: Duration = Duration::from_secs(20);
/// The time within which a service whose instance is gone leads elsewhere.
const TOLD: Duration = Duration::from_secs(5);

/// `web` on both hosts, `data` only on the second; the client runs on the first.
fn stack(version: u32) -> String {
    format!(
        "
services:
  ask:
    image: lab/web:1
    command: [/bin/sleep, '100000']
    stop_grace_period: 1s
    deploy: {{placement: {{constraints: [node.hostname == h1]}}}}
  web:
    image: lab/web:1
    command: [/bin/httpd, -f, -vv, -p, '80', -h, /www]
    environment: {{VERSION: '{version}'}}
    ports: ['80']
    deploy:
      replicas: 2
      placement: {{max_replicas_per_node: 1}}
      update_config: {{monitor: 1s}}
  data:
    image: lab/web:1
    command: [/bin/httpd, -f, -vv, -p, '80', -h, /www]
    deploy: {{placement: {{constraints: [node.hostname == h2]}}}}
"
    )
}

/// Runs busybox in a container; returns whether it succeeded, and its output.
fn inside(lab: &Lab, host: &str, container: &str, words: &[&str]) -> (bool, String) {
    let words = [&["exec", container, "/bin/busybox", "timeout", "20", "/bin/busybox"], words].concat();
    match lab.docker(host, &words) {
        Ok(said) => (true, said),
        Err(error) => (false, format!("{error:#}")),
    }
}

fn container(lab: &Lab, service: &str, host: &str) -> String {
    let named = format!("default.names.{service}.");
    let running = lab.running(host).expect("Docker answers");
    let found = running.into_iter().map(|(name, _)| name).find(|name| name.starts_with(&named));
    found.unwrap_or_else(|| panic!("{service} runs on {host}"))
}

/// The answer that a container on h1 gets for a name, good or bad.
fn look_up(lab: &Lab, asker: &str, words: &[&str]) -> String {
    inside(lab, "h1", asker, &["sh", "-c", &format!("/bin/busybox nslookup {} 2>&1; true", words.join(" "))]).1
}

/// The addresses of a name, seen from a container on h1.
fn addresses(lab: &Lab, asker: &str, name: &str) -> Vec<String> {
    let said = look_up(lab, asker, &[name]);
    // The first address is that of the DNS server.
    let found = said.lines().filter_map(|line| line.strip_prefix("Address:")).skip(1);
    let mut found: Vec<String> = found.map(|address| address.trim().to_owned()).collect();
    found.sort();
    found
}

/// Keeps calling from a container on h1 while something happens; returns the number of failed calls.
fn under_calls(lab: &Lab, asker: &str, url: &str, happens: impl FnOnce()) -> String {
    let calls = format!(
        "n=0; failed=0; end=$(($(/bin/busybox date +%s)+120)); \
         while [ ! -e /tmp/enough ] && [ $(/bin/busybox date +%s) -lt $end ]; do n=$((n+1)); \
         /bin/busybox timeout 30 /bin/busybox wget -q -O /dev/null {url} || failed=$((failed+1)); \
         /bin/busybox usleep 10000; done; /bin/busybox rm /tmp/enough; echo failed $failed of $n"
    );
    std::thread::scope(|scope| {
        let calling = scope.spawn(|| lab.docker("h1", &["exec", asker, "/bin/busybox", "sh", "-c", &calls]));
        happens();
        assert!(inside(lab, "h1", asker, &["touch", "/tmp/enough"]).0, "the calls can be ended");
        calling.join().expect("it does not panic").expect("it calls")
    })
}

#[test]
fn containers_find_each_other_by_name() {
    let lab = Lab::up(2);
    lab.deploy("names", &stack(1));
    let asker = container(&lab, "ask", "h1");
    names_lead_to_services(&lab, &asker);
    a_service_is_all_of_its_instances(&lab, &asker);
    other_names_are_asked_of_the_hosts_resolvers(&lab, &asker);
    a_rollout_is_not_noticed(&lab, &asker);
    datagrams_follow_their_service(&lab, &asker);
    services_are_led_to_as_their_file_says(&lab, &asker);
    names_go_on_without_coordinators_and_agents(&lab, &asker);
}

fn names_lead_to_services(lab: &Lab, asker: &str) {
    // The basic case: a container pings one on another host by its name.
    until(SOON, "data is found", || {
        let (pinged, said) = inside(lab, "h1", asker, &["ping", "-c1", "-W2", "data"]);
        ensure!(pinged, "{said}");
        anyhow::Ok(())
    });
    let own = addresses(lab, asker, "data");
    assert!(matches!(own.as_slice(), [one] if one.starts_with("10.43.")), "{own:?}");
    for name in ["data.names", "data.names.default", "data.names.default.wharf.internal", "DATA"] {
        assert_eq!(addresses(lab, asker, name), own, "{name}");
    }
    let instance = addresses(lab, asker, "tasks.data");
    assert!(matches!(instance.as_slice(), [one] if one.starts_with("10.42.1.")), "{instance:?}");
    assert_eq!(addresses(lab, asker, "1.data"), instance);
    let ask = |words: &[&str]| look_up(lab, asker, words);
    assert!(ask(&[instance[0].as_str()]).contains("1.data.names.default.wharf.internal"));
    let found = ask(&["-type=srv", "web"]);
    assert!(found.contains("80 1.web.names.default.wharf.internal"), "{found}");

    let began = Instant::now();
    let unknown = ask(&["nobody"]);
    assert!(unknown.contains("NXDOMAIN") && began.elapsed() < TOLD, "{unknown}");
}

fn a_service_is_all_of_its_instances(lab: &Lab, asker: &str) {
    until(SOON, "both are found", || {
        let both = addresses(lab, asker, "tasks.web");
        ensure!(both.len() == 2, "{both:?}");
        anyhow::Ok(())
    });
    let call = |host: &str, from: &str| inside(lab, host, from, &["wget", "-q", "-O", "-", "http://web/"]);
    for _ in 0..40 {
        let (_, said) = call("h1", asker);
        assert!(said.contains("ok"), "{said}");
    }
    let each = answered(lab, "names/web");
    assert!(each.iter().all(|count| *count >= 8), "chance is fair: {each:?}");
    let logs = lab.exec("h1", &["sh", "-c", "wharf logs names/web 2>&1"]).expect("it logs");
    assert!(logs.contains("10.42.0."), "who asks is known by its own address: {logs}");
    // An instance that calls its own service reaches itself half of the time.
    for host in ["h1", "h2"] {
        let own = container(lab, "web", host);
        for _ in 0..4 {
            let (_, said) = call(host, &own);
            assert!(said.contains("ok"), "{own} asks for itself: {said}");
        }
    }
    // Hosts reach services, too, and a service without instances refuses at once.
    let address = addresses(lab, asker, "data").remove(0);
    for host in ["h1", "h2"] {
        let words = ["busybox", "timeout", "5", "busybox", "wget", "-q", "-O", "-", &format!("http://{address}/")];
        assert!(lab.exec(host, &words).expect("it is reached").contains("ok"), "{host}");
    }
    lab.exec("h1", &["wharf", "scale", "names/data=0"]).expect("nobody serves");
    until(SOON, "it is refused", || {
        let began = Instant::now();
        let (reached, said) = inside(lab, "h1", asker, &["wget", "-q", "-O", "-", "http://data/"]);
        ensure!(!reached && said.contains("refused") && began.elapsed() < TOLD, "{said}");
        anyhow::Ok(())
    });
    lab.exec("h1", &["wharf", "scale", "names/data=1"]).expect("one serves again");
    until(SOON, "it is reached", || {
        let (reached, said) = inside(lab, "h1", asker, &["wget", "-q", "-O", "-", "http://data/"]);
        ensure!(reached, "{said}");
        anyhow::Ok(())
    });
}

/// A resolver like those in hosts' networks.
fn other_names_are_asked_of_the_hosts_resolvers(lab: &Lab, asker: &str) {
    let said = look_up(lab, asker, &["outside.example"]);
    assert!(said.contains("SERVFAIL"), "nobody knows it: {said}");
    let resolver = "setsid dnsmasq --keep-in-foreground --no-resolv --no-hosts --address=/outside.example/192.0.2.7 \
                    --listen-address=10.97.0.2 --bind-interfaces --user=root --pid-file= >/dev/null 2>&1 </dev/null & \
                    for host in 1 2 3; do echo \"nameserver 10.97.0.2\"; done >/etc/resolv.conf";
    lab.exec("h2", &["sh", "-c", resolver]).expect("it starts");
    lab.exec("h1", &["sh", "-c", "echo nameserver 10.97.0.2 >/etc/resolv.conf"]).expect("it is written");
    until(SOON, "a name of the world is found", || {
        let found = addresses(lab, asker, "outside.example");
        ensure!(found == ["192.0.2.7"], "{found:?}");
        anyhow::Ok(())
    });
}

fn a_rollout_is_not_noticed(lab: &Lab, asker: &str) {
    let said = under_calls(lab, asker, "http://web/", || {
        lab.deploy("names", &stack(2));
    });
    eprintln!("a rollout under calls by name: {}", said.trim());
    assert!(said.starts_with("failed 0 of"), "{said}");
}

/// A program that sends datagrams from one socket without end reaches the currently serving instance.
fn datagrams_follow_their_service(lab: &Lab, asker: &str) {
    let log = |version: u32| {
        format!(
            "services: {{log: {{image: lab/web:1, command: [/bin/sleep, '100000'], stop_grace_period: 1s, \
             environment: {{VERSION: '{version}'}}, \
             deploy: {{update_config: {{monitor: 1s}}, placement: {{constraints: [node.hostname == h2]}}}}}}}}"
        )
    };
    lab.deploy("datagrams", &log(1));
    let address = until(SOON, "it has an address", || {
        addresses(lab, asker, "log.datagrams").pop().ok_or("its name is not known")
    });
    // One socket in the container's network; that nobody listens makes no difference.
    let send = format!(
        "pid=$(docker inspect -f '{{{{.State.Pid}}}}' {asker}); setsid nsenter -t $pid -n bash -c \
         'exec 3>/dev/udp/{address}/7000; while :; do echo more >&3; sleep 0.1; done' >/dev/null 2>&1 </dev/null & :"
    );
    lab.exec("h1", &["bash", "-c", &send]).expect("it sends");
    let arrives = |incarnation: u64| {
        until(SOON, "the one that serves gets it", || {
            let container = format!("default.datagrams.log.1.{incarnation}");
            let (_, counts) = inside(lab, "h2", &container, &["cat", "/proc/net/snmp"]);
            let counts = counts.lines().filter(|line| line.starts_with("Udp:")).nth(1).ok_or("no counts")?;
            let without_port = counts.split_whitespace().nth(2).ok_or("no count")?;
            if without_port == "0" { Err("nothing has come") } else { Ok(()) }
        });
    };
    arrives(1);
    lab.deploy("datagrams", &log(2));
    arrives(2);
    lab.exec("h1", &["wharf", "rm", "datagrams", "-y"]).expect("it goes");
}

fn services_are_led_to_as_their_file_says(lab: &Lab, asker: &str) {
    let web = "image: lab/web:1, command: [/bin/httpd, -f, -vv, -p, '80', -h, /www]";
    let deploy = "replicas: 2, placement: {max_replicas_per_node: 1}";
    let stack = format!(
        "services: {{same: {{{web}, x-sticky: true, deploy: {{{deploy}}}}}, \
         round: {{{web}, deploy: {{{deploy}, endpoint_mode: dnsrr}}}}}}"
    );
    lab.deploy("modes", &stack);
    until(SOON, "its name has the addresses of both", || {
        let found = addresses(lab, asker, "round.modes");
        ensure!(found.len() == 2 && found.iter().all(|address| address.starts_with("10.42.")), "{found:?}");
        anyhow::Ok(())
    });
    until(SOON, "both serve", || {
        let both = addresses(lab, asker, "tasks.same.modes");
        ensure!(both.len() == 2, "{both:?}");
        anyhow::Ok(())
    });
    until(SOON, "its host leads to both", || {
        let rules = lab.exec("h1", &["nft", "list", "table", "ip", "wharf"])?;
        ensure!(rules.contains("jhash ip saddr mod 2 "), "{rules}");
        anyhow::Ok(())
    });
    let before = answered(lab, "modes/same");
    for _ in 0..12 {
        let (_, said) = inside(lab, "h1", asker, &["wget", "-q", "-O", "-", "http://same.modes/"]);
        assert!(said.contains("ok"), "{said}");
    }
    let after = answered(lab, "modes/same");
    let mut each = [after[0] - before[0], after[1] - before[1]];
    each.sort_unstable();
    assert_eq!(each, [0, 12], "the same caller is led to the same one");
    lab.exec("h1", &["wharf", "rm", "modes", "-y"]).expect("it goes");
}

/// The numbers of calls that the first and the second instance of a service have answered.
fn answered(lab: &Lab, service: &str) -> [usize; 2] {
    let logs = lab.exec("h1", &["sh", "-c", &format!("wharf logs {service} 2>&1")]).expect("it logs");
    ["/1.", "/2."].map(|slot| logs.lines().filter(|line| line.contains(slot) && line.contains("response:200")).count())
}

fn names_go_on_without_coordinators_and_agents(lab: &Lab, asker: &str) {
    let reached = |what: &str| {
        until(SOON, what, || {
            let (reached, said) = inside(lab, "h1", asker, &["wget", "-q", "-O", "-", "http://data/"]);
            ensure!(reached, "{said}");
            anyhow::Ok(())
        });
    };
    // With one of two coordinators gone there is no leader.
    lab.run(&["stop-wharf", "h2"]).expect("it dies");
    reached("a name without a leader");
    lab.run(&["stop-wharf", "h1"]).expect("it dies");
    lab.run(&["start-wharf", "h1"]).expect("it starts, and nobody tells it anything");
    reached("a name from the disk");
    lab.run(&["start-wharf", "h2"]).expect("it starts");
    lab.wait_until_whole(SOON);
    let said = under_calls(lab, asker, "http://data/", || {
        lab.run(&["stop-wharf", "h1"]).expect("its agent dies");
        reached("a name that the next host answers");
        lab.run(&["start-wharf", "h1"]).expect("it starts");
    });
    eprintln!("an agent that is away for a while, under calls by name: {}", said.trim());
    assert!(said.starts_with("failed 0 of"), "the next host answers: {said}");
}
