//! Three hosts lose all that wharf had on them, and their containers run on: the cluster begins again on one of them from
//! its backup, the two others join, and no container notices.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use anyhow::ensure;
use tests::{lab::Lab, wait::until};

const SOON: Duration = Duration::from_secs(60);

const SIX: &str = "
services:
  web:
    image: lab/web:1
    ports: ['80']
    stop_grace_period: 1s
    deploy: {replicas: 6}
";

/// On every host one: with a secret, a config, and a container beside it that shares its network.
const EACH: &str = "
services:
  app:
    image: lab/web:1
    deploy: {mode: global}
    secrets: [password]
    configs: [settings]
  beside:
    image: lab/web:1
    command: ['/bin/sleep', '100000']
    network_mode: 'service:app'
secrets:
  password: {file: ./password}
configs:
  settings: {content: 'colour=blue'}
";

/// The containers of every host: their ids and when they were started.
fn started(lab: &Lab) -> BTreeMap<String, (String, String)> {
    let mut found = BTreeMap::new();
    for host in lab.names() {
        for (name, id) in lab.running(&host).expect("Docker answers") {
            let at = lab.docker(&host, &["inspect", "--format", "{{.State.StartedAt}} {{.RestartCount}}", &id]);
            found.insert(format!("{host} {name}"), (id, at.expect("it is inspected").trim().to_owned()));
        }
    }
    found
}

/// The containers of an instance of `each`: the program, what is beside it, and the one that holds their network.
const OF_EACH: usize = 3;

#[test]
fn three_hosts_without_their_state_are_adopted_with_their_containers() {
    let lab = Lab::up(3);
    lab.put_file("h1", "password", "hunter2");
    lab.deploy("six", SIX);
    lab.deploy("each", EACH);
    lab.wait_for_running(SOON, 6 + 3 * OF_EACH);
    let mut writer = lab.writer("h1", "before");
    writer.wait_for_more(50);
    let acknowledged = writer.stop();
    let before = started(&lab);

    let key = lab.exec("h1", &["wharf", "backup", "key"]).expect("a key is made");
    let key = lab.put_file("h1", "key", &key);
    let file = key.replace("/key", "/a.backup");
    let began = Instant::now();
    let mut commands = 1;
    lab.exec("h1", &["wharf", "backup", "--to", &file]).expect("a backup is made");
    println!("the backup took {:.1} s", began.elapsed().as_secs_f64());

    lab.run(&["stop-wharf", "h1", "h2", "h3"]).expect("they are killed");
    for host in lab.names() {
        let everything = "rm -rf /var/lib/wharf/* /etc/wharf/*; ls -A /var/lib/wharf /etc/wharf";
        lab.exec(&host, &["sh", "-c", everything]).expect("its state is destroyed");
    }
    let began = Instant::now();
    commands += 1;
    let words = ["wharf", "restore", &file, "--key", &key, "--advertise", "10.97.0.1:7443"];
    let lines = lab.exec("h1", &words).expect("it is restored");
    println!("restored after {:.1} s", began.elapsed().as_secs_f64());
    let lines: Vec<&str> = lines.lines().filter(|line| line.contains("/join")).collect();
    assert_eq!(lines.len(), 2, "{lines:?}");
    for (host, line) in ["h2", "h3"].into_iter().zip(&lines) {
        commands += 1;
        lab.exec(host, &["sh", "-c", &line.replace("sudo ", "")]).expect("it joins");
        println!("{host} joined after {:.1} s", began.elapsed().as_secs_f64());
    }
    lab.wait_until_whole(SOON);
    println!("whole after {:.1} s, with {commands} commands", began.elapsed().as_secs_f64());
    is_as_it_was(&lab, &before);
    assert_eq!(lab.verify("h1", &acknowledged), acknowledged.len());
    until(SOON, "the two others vote", || {
        let members = lab.members("h1")?;
        ensure!(members.iter().filter(|member| member.state == "voter").count() == 2, "{members:?}");
        anyhow::Ok(())
    });

    // What is made from now on works as before: a new instance gets the secret, and is reached from the others.
    lab.exec("h2", &["true"]).expect("it lives");
    lab.exec("h1", &["wharf", "scale", "six/web=9", "-y"]).expect("it is scaled");
    let after = lab.wait_for_running(SOON, 9 + 3 * OF_EACH);
    assert!(after.iter().all(|(_, containers)| containers.len() == 3 + OF_EACH), "{after:?}");
}

/// All instances run as they did, by the cluster's own view as well.
fn is_as_it_was(lab: &Lab, before: &BTreeMap<String, (String, String)>) {
    until(SOON, "all instances run", || {
        let instances = lab.instances("h1")?;
        let running = instances.iter().filter(|i| i.state == "running" && i.id.incarnation == 1).count();
        ensure!(instances.len() == 9 && running == 9, "{instances:?}");
        anyhow::Ok(())
    });
    // Longer than the time after which the instances of a lost host are replaced.
    std::thread::sleep(Duration::from_secs(12));
    let after = started(lab);
    let restarted: Vec<_> = before.iter().filter(|(name, was)| after.get(*name) != Some(was)).collect();
    println!("{} of {} containers were restarted", restarted.len(), before.len());
    assert!(restarted.is_empty(), "{restarted:?} of {after:?}");
    assert_eq!(after.len(), before.len(), "none was added: {after:?}");
}
