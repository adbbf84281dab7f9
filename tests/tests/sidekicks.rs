//! Instances with several containers on real hosts: they share a network, start and stop in order, and each can be
//! restarted alone.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use tests::{lab::Lab, wait::until};

const SOON: Duration = Duration::from_secs(40);
const PARTS: [&str; 3] = ["", "._network", ".proxy"];

/// The proxy serves; it reaches the program on their common loopback address.
fn web(version: &str, folder: &str) -> String {
    format!(
        "
services:
  web:
    image: lab/web:1
    command: [/bin/httpd, -f, -p, '127.0.0.1:8080', -h, /www]
    environment: [VERSION={version}]
    ports: ['80']
    stop_grace_period: 1s
    depends_on: {{proxy: {{condition: service_healthy}}}}
    volumes: ['{folder}:/shared']
    pre_start:
      - command: [/bin/busybox, sh, -c, 'echo \"$$WHARF_SLOT $$VERSION\" | /bin/busybox tee -a /shared/steps']
        per_replica: true
    healthcheck: {{test: [CMD, /bin/busybox, wget, -qO-, 'http://127.0.0.1:80/'], interval: 500ms, timeout: 2s}}
    deploy: {{replicas: 2, update_config: {{monitor: 1s}}}}
  proxy:
    image: lab/web:1
    network_mode: service:web
    command: [/bin/busybox, nc, -ll, -p, '80', -e, /bin/busybox, nc, '127.0.0.1', '8080']
    stop_grace_period: 1s
    healthcheck: {{test: [CMD-SHELL, '/bin/busybox netstat -ltn | /bin/busybox grep -q :80'], interval: 500ms, timeout: 2s}}
"
    )
}

/// The containers of the instance in a slot, each with its process id.
fn pids(lab: &Lab, host: &str, instance: &str) -> anyhow::Result<Vec<String>> {
    let pid = |part: &&str| {
        let name = format!("default.shop.web.{instance}{part}");
        let pid = lab.docker(host, &["inspect", "-f", "{{.State.Pid}}", &name])?;
        ensure!(pid.trim() != "0", "{name} does not run");
        Ok(pid.trim().to_owned())
    };
    PARTS.iter().map(pid).collect()
}

/// Waits until both instances answer through their proxies.
fn wait_until_served(lab: &Lab) {
    until(SOON, "both instances serve", || {
        let instances = lab.instances("h1")?;
        let ours: Vec<_> = instances.iter().filter(|i| i.id.stack().stack.as_str() == "shop").collect();
        ensure!(ours.len() == 2 && ours.iter().all(|i| i.state == "healthy"), "{ours:?}");
        for instance in ours {
            let url = format!("http://{}:{}/", instance.address.context("an address")?, instance.ports[0].host);
            lab.exec("h1", &["busybox", "wget", "-q", "-O", "-", &url])?;
        }
        anyhow::Ok(())
    });
}

#[test]
fn containers_of_an_instance_live_and_end_together() {
    let lab = Lab::up(2);
    let steps = lab.put_file("h1", "steps", "");
    let folder = steps.trim_end_matches("/steps");
    lab.deploy("shop", &web("1", folder));
    wait_until_served(&lab);
    let logged = std::fs::read_to_string(&steps).expect("the steps have been done");
    let mut done: Vec<&str> = logged.lines().collect();
    done.sort_unstable();
    assert_eq!(done, ["1 1", "2 1"], "each once, before the start");
    let told = lab.exec("h1", &["wharf", "logs", "shop/web/1.1", "--part", "_step-1"]).expect("it has output");
    assert_eq!(told.trim(), "1 1");

    // Each part is restarted alone; a new network restarts all of them.
    let instances = lab.instances("h1").expect("they are told");
    let first = instances.iter().find(|i| i.id.slot.slot == 1).expect("the first slot is filled");
    let host = first.host_name.as_ref().expect("its host is there").to_string();
    let mut restarts = first.observed.restart;
    for (index, part) in PARTS.iter().enumerate() {
        let before = pids(&lab, &host, "1.1").expect("all run");
        lab.docker(&host, &["kill", &format!("default.shop.web.1.1{part}")]).expect("it is killed");
        let after = until(SOON, "all run again", || {
            let after = pids(&lab, &host, "1.1")?;
            let kept: Vec<bool> = before.iter().zip(&after).map(|(before, after)| before == after).collect();
            let wanted: Vec<bool> = (0..3).map(|other| *part != "._network" && other != index).collect();
            ensure!(kept == wanted, "{kept:?} are as before");
            anyhow::Ok(after)
        });
        // The displayed state may be older than the end of the part, until its restart is shown.
        until(SOON, "its restart is shown", || {
            let told = lab.instances("h1")?;
            let first = told.iter().find(|i| i.id.slot.slot == 1).context("the first slot is filled")?;
            ensure!(first.observed.restart > restarts, "{} restarts, as before", first.observed.restart);
            restarts = first.observed.restart;
            anyhow::Ok(())
        });
        wait_until_served(&lab);
        assert_eq!(pids(&lab, &host, "1.1").expect("all run"), after, "and then they are left alone");
    }
    let logged = std::fs::read_to_string(&steps).expect("they are there");
    assert_eq!(logged.lines().count(), 2, "no step is done again");

    // A new revision replaces whole instances, and no call fails.
    let caller = lab.caller("h1", "shop/web");
    lab.deploy("shop", &web("2", folder));
    wait_until_served(&lab);
    let (calls, failed) = caller.stop();
    assert!(calls > 20 && failed.is_empty(), "{calls} calls, failed: {failed:?}");
    println!("two instances of three containers replaced under {calls} calls, none failed");

    // All parts of a strict singleton are bound to its lease.
    lab.deploy(
        "one",
        "
services:
  one: {image: lab/web:1, x-strict-singleton: true, stop_grace_period: 1s}
  log: {image: lab/web:1, command: [/bin/busybox, sleep, '10000'], x-group: one, stop_grace_period: 1s}
",
    );
    let instances = lab.instances("h1").expect("they are told");
    let one = instances.iter().find(|i| i.id.stack().stack.as_str() == "one").expect("it runs");
    let host = one.host_name.as_ref().expect("its host is there").to_string();
    for part in ["", ".log"] {
        let name = format!("{}{part}", one.id.container_name());
        let program = lab.docker(&host, &["inspect", "-f", "{{.Path}}", &name]).expect("it is there");
        assert_eq!(program.trim(), "/.wharf/guard", "{name}");
    }

    for stack in ["shop", "one"] {
        lab.exec("h1", &["wharf", "rm", stack, "-y"]).expect("it goes");
    }
    for host in ["h1", "h2"] {
        let left = lab.docker(host, &["ps", "-aq", "--filter", "label=wharf.cluster"]).expect("it answers");
        assert_eq!(left, "", "nothing is left on {host}");
    }
}
