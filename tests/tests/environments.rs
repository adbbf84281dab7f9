//! Services without a common environment do not reach each other: not by name, not by address, not by a service's
//! address, on the same host or across hosts. A service that joins another environment reaches it. On real hosts.

use std::{
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use common::api::{InstanceView, List, StackView};
use tests::{lab::Lab, wait::until};

const SOON: Duration = Duration::from_secs(20);
/// Blocked connections must be refused within this time, instead of timing out.
const AT_ONCE: Duration = Duration::from_secs(2);

/// A stack that answers and can send requests, on both hosts.
fn stack(joins: &str) -> String {
    format!(
        "
services:
  web:
    image: lab/web:1
    command: [/bin/httpd, -f, -vv, -p, '80', -h, /www]
    deploy: {{replicas: 2, placement: {{max_replicas_per_node: 1}}}}
    {joins}
"
    )
}

/// A container, with its host and address.
#[derive(Clone)]
struct Place {
    host: String,
    container: String,
    address: Ipv4Addr,
}

/// The instances of `web` in an environment, the one on h1 first.
fn places(lab: &Lab, environment: &str) -> [Place; 2] {
    let place = |host: &str| {
        until(SOON, "its address is known", || {
            let instances: List<InstanceView> = lab.wharf("h1", &["ps", "-e", environment])?;
            let here = |instance: &InstanceView| {
                instance.host_name.as_ref().is_some_and(|name| name.as_str() == host) && instance.observed.is_serving()
            };
            let instance = instances.items.into_iter().find(here).context("one serves")?;
            let (container, address) = (instance.id.container_name(), instance.observed.address.context("addressed")?);
            anyhow::Ok(Place { host: host.to_owned(), container, address })
        })
    };
    [place("h1"), place("h2")]
}

fn inside(lab: &Lab, from: &Place, words: &[&str]) -> anyhow::Result<String> {
    let busybox = "/bin/busybox";
    lab.docker(&from.host, &[&["exec", &from.container, busybox, "timeout", "5", busybox], words].concat())
}

fn reaches(lab: &Lab, from: &Place, to: &str) -> bool {
    inside(lab, from, &["wget", "-q", "-O", "-", &format!("http://{to}/")]).is_ok_and(|said| said.contains("ok"))
}

fn knows(lab: &Lab, from: &Place, name: &str) -> bool {
    // busybox also reports NXDOMAIN for AAAA, and then exits with an error.
    inside(lab, from, &["sh", "-c", &format!("/bin/busybox nslookup {name} 2>&1; true")]).is_ok_and(|said| {
        said.lines().any(|line| line.starts_with("Address: 10.4") || line.starts_with("Address:\t10.4"))
    })
}

fn service_address(lab: &Lab, environment: &str) -> String {
    let stacks: List<StackView> = lab.wharf("h1", &["ls", "-e", environment]).expect("it lists");
    stacks.items[0].services[0].address.expect("it has one").to_string()
}

fn deploy(lab: &Lab, environment: &str, stack: &str) {
    let file = lab.put_file("h1", "stack.yaml", stack);
    lab.exec("h1", &["wharf", "deploy", "-e", environment, "-f", &file, "-n", "shop", "-y"]).expect("it is deployed");
}

#[test]
fn environments_are_kept_apart() {
    let lab = Lab::up(2);
    lab.exec("h1", &["wharf", "env", "create", "other"]).expect("it is made");
    for environment in ["default", "other"] {
        deploy(&lab, environment, &stack(""));
    }
    let (own, other) = (places(&lab, "default"), places(&lab, "other"));
    let vip = |environment: &str| service_address(&lab, environment);
    for (from, mine, theirs, vips) in [
        (&own[0], &own, &other, (vip("default"), vip("other"))),
        (&other[0], &other, &own, (vip("other"), vip("default"))),
        (&own[1], &own, &other, (vip("default"), vip("other"))),
    ] {
        assert!(knows(&lab, from, "web") && reaches(&lab, from, &vips.0), "{}: its own", from.container);
        for place in mine {
            assert!(reaches(&lab, from, &place.address.to_string()), "{}: its own on {}", from.container, place.host);
        }
        let began = Instant::now();
        for (to, where_) in theirs.iter().map(|place| (place.address.to_string(), &place.host)) {
            assert!(!reaches(&lab, from, &to), "{} reaches another environment on {where_}", from.container);
        }
        assert!(!reaches(&lab, from, &vips.1), "{} reaches a service of another environment", from.container);
        assert!(began.elapsed() < 3 * AT_ONCE, "it is refused, and not waited for: {:?}", began.elapsed());
    }
    assert!(!knows(&lab, &own[0], "web.shop.other"), "nor is it told its name");
    // Hosts reach everything.
    for place in own.iter().chain(&other) {
        let words =
            ["busybox", "timeout", "2", "busybox", "wget", "-q", "-O", "-", &format!("http://{}/", place.address)];
        assert!(lab.exec("h2", &words).is_ok_and(|said| said.contains("ok")), "{}", place.container);
    }
    the_rules_say_no(&lab, &own[0], &other);
    what_joins_is_let_in(&lab, &own, &other);

    let (code, _, refused) = lab.try_exec("h1", &["wharf", "env", "rm", "other"]);
    assert!(code == 6 && refused.contains("the stack shop is in it"), "{code}: {refused}");
    lab.exec("h1", &["wharf", "rm", "-e", "other", "shop", "-y"]).expect("it goes");
    lab.exec("h1", &["wharf", "env", "rm", "other"]).expect("it goes");
    let (code, _, unknown) = lab.try_exec("h1", &["wharf", "ls", "-e", "other"]);
    assert!(code == 5 && unknown.contains("There is no environment other"), "{code}: {unknown}");
}

/// The counter-check: these rules, on both hosts, keep environments apart.
fn the_rules_say_no(lab: &Lab, from: &Place, to: &[Place; 2]) {
    for host in ["h1", "h2"] {
        lab.run(&["stop-wharf", host]).expect("nobody mends");
    }
    let across = to[1].address.to_string();
    let open = |host: &str| {
        lab.exec(host, &["nft", "insert", "rule", "ip", "wharf", "between", "accept"]).expect("it is open");
    };
    open("h1");
    assert!(reaches(lab, from, &to[0].address.to_string()), "it answers, if it is let");
    assert!(!reaches(lab, from, &across), "a host that opens itself does not open another");
    open("h2");
    assert!(reaches(lab, from, &across), "only both do");
    for host in ["h1", "h2"] {
        lab.run(&["start-wharf", host]).expect("it starts");
    }
    lab.wait_until_whole(SOON);
    until(SOON, "they are apart again", || {
        ensure!(!reaches(lab, from, &across) && !reaches(lab, from, &to[0].address.to_string()), "not yet");
        anyhow::Ok(())
    });
}

/// A service joins another environment while it runs, and leaves it again.
fn what_joins_is_let_in(lab: &Lab, own: &[Place; 2], other: &[Place; 2]) {
    let joining = "networks: [default, other]\nnetworks: {other: {external: true}}";
    deploy(lab, "default", &stack(joining));
    assert_eq!(places(lab, "default").map(|place| place.address), own.clone().map(|place| place.address), "they stay");
    until(SOON, "they are together", || {
        for to in other {
            ensure!(reaches(lab, &own[0], &to.address.to_string()), "it does not reach {}", to.host);
        }
        ensure!(reaches(lab, &other[0], &own[1].address.to_string()), "nor is it reached");
        ensure!(knows(lab, &own[0], "web.shop.other"), "nor does it know the name");
        ensure!(reaches(lab, &own[0], "web.shop.other"), "nor is it led there");
        anyhow::Ok(())
    });
    // Existing connections do not survive the separation.
    let (to, busybox) = (&other[1], "/bin/busybox");
    let listen = ["exec", "-d", &to.container, busybox, "sh", "-c", "/bin/busybox nc -l -p 7000 >/tmp/heard"];
    lab.docker(&to.host, &listen).expect("it listens");
    // The sender may start before the other one listens.
    let send = format!(
        "while :; do while :; do echo more; {busybox} usleep 100000; done | {busybox} nc {} 7000; {busybox} usleep 100000; done",
        to.address
    );
    lab.docker(&own[0].host, &["exec", "-d", &own[0].container, busybox, "sh", "-c", &send]).expect("it sends");
    let heard =
        || inside(lab, to, &["sh", "-c", "wc -c </tmp/heard"]).map_or(0, |said| said.trim().parse().unwrap_or(0));
    until(SOON, "they speak", || if heard() > 0 { Ok(()) } else { Err("nothing") });
    deploy(lab, "default", &stack(""));
    until(SOON, "nothing more is heard", || {
        let before: u64 = heard();
        std::thread::sleep(AT_ONCE / 2);
        ensure!(heard() == before, "it goes on");
        anyhow::Ok(())
    });
    until(SOON, "they are apart", || {
        ensure!(!reaches(lab, &own[0], &other[1].address.to_string()), "it reaches it");
        ensure!(!reaches(lab, &other[0], &own[1].address.to_string()), "it is reached");
        ensure!(!knows(lab, &own[0], "web.shop.other"), "it knows the name");
        anyhow::Ok(())
    });
}
