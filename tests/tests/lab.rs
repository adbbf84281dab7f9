//! Real hosts, real Docker, and their failures. `WHARF_ROUNDS` and `WHARF_PARTITION` (seconds) select the long forms of
//! the repeated tests.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, anyhow, ensure};
use cli::context::Contexts;
use common::api::InstanceView;
use tests::{lab::Lab, wait::until};

const SIX: &str = "
services:
  web:
    image: lab/web:1
    ports: ['80']
    stop_grace_period: 1s
    deploy: {replicas: 6}
";
/// The labs' clusters replace lost instances after this time.
const LOST_AFTER: Duration = Duration::from_secs(8);
const SOON: Duration = Duration::from_secs(20);

fn number(variable: &str, otherwise: u64) -> u64 {
    std::env::var(variable).map_or(otherwise, |text| text.parse().expect("a number"))
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_millis() as u64
}

fn ids(running: &[(String, Vec<(String, String)>)]) -> BTreeSet<String> {
    running.iter().flat_map(|(_, containers)| containers.iter().map(|(_, id)| id.clone())).collect()
}

#[test]
fn killing_the_leader_costs_no_write_and_no_container() {
    let lab = Lab::up(3);
    lab.deploy("six", SIX);
    let before = lab.wait_for_running(SOON, 6);
    assert!(before.iter().all(|(_, containers)| containers.len() == 2), "two on each: {before:?}");
    let address = lab.exec("h2", &["busybox", "wget", "-qO-", "http://127.0.0.1:20000/"]).expect("it serves");
    assert_eq!(address.trim(), "ok");

    let mut gaps = Vec::new();
    let mut writer = lab.writer("h1", "leader-kill");
    for round in 0..number("WHARF_ROUNDS", 3) {
        lab.wait_until_whole(SOON);
        writer.wait_for_more(20);
        // The host that started last may not know the leader yet.
        let leader = until(SOON, "there is a leader", || lab.leader());
        writer.catch_up();
        // The time starts before the kill, so the script's own duration counts as ours.
        let killed = now();
        lab.run(&["stop-wharf", &leader]).expect("it is killed");
        let gap = writer.wait_past(killed).saturating_sub(killed);
        // The first write may have been acknowledged before the kill took effect: the longest gap among the next ones
        // counts.
        let mut last = killed + gap;
        let mut longest = gap;
        for _ in 0..20 {
            let at = writer.wait_for_more(1);
            longest = longest.max(at.saturating_sub(last));
            last = at;
        }
        println!("round {round}: {leader} killed, the next write after {longest} ms");
        gaps.push(longest);
        lab.run(&["start-wharf", &leader]).expect("it starts");
    }
    lab.wait_until_whole(SOON);
    let acknowledged = writer.stop();
    let count = lab.verify("h1", &acknowledged);
    gaps.sort_unstable();
    println!("{count} acknowledged writes are there; gaps {gaps:?} ms, median {}", gaps[gaps.len() / 2]);
    assert_eq!(ids(&lab.all_running()), ids(&before), "no container was touched");
}

#[test]
fn killing_every_coordinator_at_once_loses_no_acknowledged_write() {
    let lab = Lab::up(3);
    let mut acknowledged = Vec::new();
    for round in 0..number("WHARF_ROUNDS", 3) {
        let mut writer = lab.writer("h1", &format!("all-killed-{round}"));
        writer.wait_for_more(50 + (round as usize * 37) % 100);
        lab.run(&["stop-wharf", "h1", "h2", "h3"]).expect("they are killed");
        writer.catch_up();
        lab.run(&["start-wharf", "h1", "h2", "h3"]).expect("they start");
        writer.wait_for_more(1);
        acknowledged.extend(writer.stop());
    }
    lab.wait_until_whole(SOON);
    let count = lab.verify("h1", &acknowledged);
    println!("{count} acknowledged writes are there");
    assert_eq!(count, acknowledged.len());
}

#[test]
fn a_host_that_loses_power_is_replaced_and_its_surplus_is_stopped() {
    let lab = Lab::up(3);
    lab.deploy("six", SIX);
    let before = lab.wait_for_running(SOON, 6);
    let elsewhere = |running: &[(String, Vec<(String, String)>)]| -> BTreeSet<String> {
        ids(&running.iter().filter(|(host, _)| host != "h3").cloned().collect::<Vec<_>>())
    };

    let cut = Instant::now();
    lab.run(&["kill", "h3"]).expect("its power is cut");
    let after = lab.wait_for_running(LOST_AFTER + Duration::from_secs(5), 6);
    println!("its two instances run elsewhere after {:.1} s", cut.elapsed().as_secs_f64());
    assert!(elsewhere(&after).is_superset(&elsewhere(&before)), "what ran on the others was left alone");

    lab.run(&["start", "h3"]).expect("its power is back");
    until(SOON, "the surplus is gone", || {
        let left = lab.docker("h3", &["ps", "-aq"])?;
        ensure!(left.trim().is_empty(), "{left}");
        lab.wait_until_whole(SOON);
        anyhow::Ok(())
    });
    assert_eq!(ids(&lab.all_running()), elsewhere(&after), "nothing else was stopped");
    until(SOON, "the cluster forgets the lost ones", || {
        let instances = lab.instances("h1")?;
        ensure!(instances.len() == 6, "{} instances", instances.len());
        anyhow::Ok(())
    });
}

#[test]
fn a_host_that_is_cut_off_goes_on_and_knows_that_it_has_no_quorum() {
    let lab = Lab::up(3);
    lab.deploy("six", SIX);
    let before = lab.wait_for_running(SOON, 6);
    let on = |host: &str| -> Vec<(String, String)> { lab.running(host).expect("Docker answers") };
    let cut_off = on("h3");
    // Users on this host ask its own coordinator.
    let config = lab.exec("h1", &["sh", "-c", "cat $HOME/.config/wharf/config.toml"]).expect("h1 has a context");
    let mut contexts: Contexts = toml::from_str(&config).expect("it is TOML");
    for context in contexts.contexts.values_mut() {
        context.servers = vec!["10.97.0.3:7443".parse().expect("an address")];
    }
    let path = lab.put_file("h3", "config.toml", &toml::to_string(&contexts).expect("it is TOML"));

    lab.run(&["cut", "h3", "h1,h2"]).expect("it is cut off");
    let asked = until(SOON, "it notices", || {
        let (code, _, stderr) = lab.try_exec("h3", &["env", &format!("WHARF_CONFIG={path}"), "wharf", "ls"]);
        if code == 10 { Ok(stderr) } else { Err(anyhow!("exit code {code}: {stderr}")) }
    });
    assert!(asked.contains("E0") && asked.to_lowercase().contains("majority"), "{asked}");

    std::thread::sleep(Duration::from_secs(number("WHARF_PARTITION", 12)));
    assert_eq!(on("h3"), cut_off, "its containers go on");
    until(SOON, "the others run six", || {
        let count = on("h1").len() + on("h2").len();
        ensure!(count == 6, "{count}");
        anyhow::Ok(())
    });
    let (kept_1, kept_2) = (on("h1"), on("h2"));

    lab.run(&["heal"]).expect("the cut is healed");
    let healed = Instant::now();
    let after = lab.wait_for_running(SOON, 6);
    println!("one copy of each {:.1} s after healing", healed.elapsed().as_secs_f64());
    let names: BTreeSet<String> = after.iter().flat_map(|(_, c)| c.iter().map(|(name, _)| slot_of(name))).collect();
    assert_eq!(names.len(), 6, "one copy of each slot: {after:?}");
    assert_eq!((on("h1"), on("h2")), (kept_1, kept_2), "only the surplus was stopped");
    assert!(ids(&before).is_superset(&cut_off.iter().map(|(_, id)| id.clone()).collect()));
    lab.wait_until_whole(SOON);
}

/// `default.six.web.1.2` without its incarnation.
fn slot_of(container: &str) -> String {
    container.rsplit_once('.').map_or(container, |(slot, _)| slot).to_owned()
}

#[test]
fn agents_and_docker_may_restart_under_running_containers() {
    let lab = Lab::up(3);
    lab.deploy("six", SIX);
    let before = lab.wait_for_running(SOON, 6);

    lab.run(&["stop-wharf", "h1", "h2", "h3"]).expect("they are killed");
    lab.run(&["start-wharf", "h1", "h2", "h3"]).expect("they start");
    lab.wait_until_whole(SOON);
    assert_eq!(ids(&lab.all_running()), ids(&before), "wharf was restarted, containers were not");

    lab.run(&["crash-docker", "h2"]).expect("it is killed");
    lab.run(&["start-docker", "h2"]).expect("it starts");
    until(SOON, "Docker is back with what it had", || {
        let running = lab.running("h2")?;
        ensure!(running.len() == 2, "{running:?}");
        anyhow::Ok(())
    });
    lab.wait_until_whole(SOON);
    assert_eq!(ids(&lab.all_running()), ids(&before), "Docker was restarted with live-restore, containers were not");
    let instances = lab.instances("h1").expect("the API answers");
    assert!(
        instances.iter().all(|instance| instance.state == "running" && instance.observed.restart == 0),
        "{instances:?}"
    );
    is_waited_for_when_it_said_so(&lab);
    assert_eq!(ids(&lab.all_running()), ids(&before), "a stopped agent was waited for");
}

/// An agent that stops on request announces it, so its instances are not replaced like those of a lost host.
fn is_waited_for_when_it_said_so(lab: &Lab) {
    let h2 = || {
        let found = lab.hosts("h1")?.into_iter().find(|host| host.name.as_str() == "h2");
        found.context("it is known")
    };
    lab.exec("h2", &["sh", "-c", "kill -TERM $(pidof wharf)"]).expect("it is asked to stop");
    until(SOON, "it is as long away as a lost one", || {
        let left_at = h2()?.left_at.context("it said farewell")?;
        let away = Duration::from_millis(now()).saturating_sub(Duration::from_millis(left_at.0));
        ensure!(away > LOST_AFTER + Duration::from_secs(3), "{away:?}");
        anyhow::Ok(())
    });
    let replaced = lab.instances("h1").expect("they are told").iter().filter(|i| i.id.incarnation > 1).count();
    assert_eq!(replaced, 0);
    lab.run(&["start-wharf", "h2"]).expect("it starts");
    until(SOON, "it is back", || {
        let host = h2()?;
        ensure!(host.left_at.is_none() && host.liveness.word() == "ready", "{host:?}");
        anyhow::Ok(())
    });
}

#[test]
fn a_leader_that_restarts_again_and_again_costs_nothing() {
    let lab = Lab::up(3);
    lab.deploy("six", SIX);
    let before = lab.wait_for_running(SOON, 6);
    let leader = until(SOON, "there is a leader", || lab.leader());

    // The old leader may not lead after its return; its earlier sessions are then of no use.
    let began = Instant::now();
    for _ in 0..3 {
        lab.run(&["stop-wharf", &leader]).expect("it is killed");
        lab.run(&["start-wharf", &leader]).expect("it starts");
        for target in ["h1", "h2", "h3"] {
            let own = until(SOON, "its agent is back", || {
                let instances = lab.instances(&leader)?;
                let here = |i: &&InstanceView| i.host_name.as_ref().is_some_and(|name| name.as_str() == target);
                anyhow::Ok(instances.iter().find(here).context("an instance there")?.id.slot.slot)
            });
            until(Duration::from_secs(5), "its output is read", || {
                lab.exec(&leader, &["wharf", "logs", &format!("six/web/{own}.1")]).map(|_| ())
            });
        }
    }
    println!("restarted three times in {:.1} s", began.elapsed().as_secs_f64());
    lab.wait_until_whole(SOON);
    assert_eq!(ids(&lab.all_running()), ids(&before), "no container was touched");
    assert!(lab.instances("h1").expect("the API answers").iter().all(|i| i.id.incarnation == 1), "none was replaced");

    a_living_host_is_removed(&lab);
}

/// A host that is removed while it runs stops its instances. A voting member must leave first.
fn a_living_host_is_removed(lab: &Lab) {
    let (code, _, said) = lab.try_exec("h1", &["wharf", "host", "rm", "h3", "-y"]);
    assert!(
        code == 6 && said.contains("it runs coordinator 3") && said.contains("wharf member rm 3"),
        "{code}: {said}"
    );
    lab.exec("h1", &["wharf", "member", "rm", "3", "-y"]).expect("it leaves");
    let (code, _, said) = lab.try_exec("h1", &["wharf", "host", "rm", "h3", "-y"]);
    assert!(
        code == 0 && said.contains("it stops its containers as soon as a coordinator reaches it"),
        "{code}: {said}"
    );
    until(SOON, "nothing runs there any more, and all of it elsewhere", || {
        let left = lab.docker("h3", &["ps", "-aq"])?;
        let running: usize = ["h1", "h2"].iter().map(|host| lab.running(host).map_or(0, |found| found.len())).sum();
        ensure!(left.trim().is_empty() && running == 6, "{left} left, {running} run");
        anyhow::Ok(())
    });
}

#[test]
fn a_host_boots_into_its_ledger_with_every_coordinator_gone() {
    let lab = Lab::up(3);
    lab.deploy("six", SIX);
    lab.wait_for_running(SOON, 6);
    lab.run(&["kill", "h1", "h2", "h3"]).expect("all power is cut");
    lab.run(&["start", "h2"]).expect("one comes back");
    let began = Instant::now();
    until(SOON, "it runs what its ledger says", || {
        let running = lab.running("h2")?;
        ensure!(running.len() == 2, "{running:?}");
        anyhow::Ok(())
    });
    println!(
        "started from the ledger {:.1} s after Docker was up, without a coordinator",
        began.elapsed().as_secs_f64()
    );
    lab.run(&["start", "h1", "h3"]).expect("the others come back");
    let after = lab.wait_for_running(SOON, 6);
    assert!(after.iter().all(|(_, containers)| containers.len() == 2), "{after:?}");
    lab.wait_until_whole(SOON);
}

#[test]
fn uninstalling_leaves_nothing_of_wharf_and_docker_alone() {
    let lab = Lab::up(2);
    lab.deploy("six", SIX);
    lab.wait_for_running(SOON, 6);
    lab.docker("h2", &["run", "-d", "--name", "mine", "--network", "none", "lab/web:1"])
        .expect("a container of somebody else");
    nobody_else_reads_the_state(&lab);
    let (code, _, said) = lab.try_exec("h2", &["wharf", "uninstall", "-y"]);
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("one of 2: it leaves the group first") && said.contains("has left its group"), "{said}");
    assert_eq!(lab.members("h1").expect("one decides alone").len(), 1, "it has left by then");
    let left = lab.docker("h2", &["ps", "-a", "--format", "{{.Names}}"]).expect("Docker answers");
    assert_eq!(left.trim(), "mine");
    assert_eq!(
        lab.docker("h2", &["network", "ls", "-q", "--filter", "name=wharf"]).expect("Docker answers").trim(),
        ""
    );
    assert_eq!(
        lab.exec(
            "h2",
            &["sh", "-c", "ls -A /var/lib/wharf /etc/wharf /run/wharf /usr/local/bin/wharf 2>/dev/null; true"]
        )
        .expect("ls")
        .trim(),
        "/etc/wharf:\n\n/var/lib/wharf:"
    );
    let running = until(SOON, "all run on the other host", || {
        let running = lab.running("h1")?;
        ensure!(running.len() == 6, "{running:?}");
        anyhow::Ok(running)
    });
    assert_eq!(running.len(), 6);
}

/// The state folders of h1 and h2, which were created in two ways, are closed to other users; and h2 does not start
/// with an open one.
fn nobody_else_reads_the_state(lab: &Lab) {
    for host in ["h1", "h2"] {
        let open = lab.exec(host, &["find", "/var/lib/wharf", "/etc/wharf", "-type", "f", "-perm", "/077"]);
        assert_eq!(open.expect("find runs"), "", "{host}: files that others can read");
        let open = lab.exec(host, &["find", "/var/lib/wharf", "-type", "d", "-perm", "/077"]);
        assert_eq!(open.expect("find runs"), "", "{host}: folders that others can enter");
    }
    lab.run(&["stop-wharf", "h2"]).expect("it stops");
    lab.exec("h2", &["chmod", "644", "/var/lib/wharf/raft/end"]).expect("it is opened");
    let (code, _, said) = lab.try_exec("h2", &["wharf", "up"]);
    assert!(code != 0 && said.contains("E0122"), "{code}: {said}");
    let fix = "chmod go= /var/lib/wharf/raft/end";
    assert!(said.contains(fix), "{said}");
    lab.exec("h2", &["sh", "-c", fix]).expect("it is closed");
    lab.run(&["start-wharf", "h2"]).expect("it starts");
    lab.wait_until_whole(SOON);
}
