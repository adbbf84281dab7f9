//! Hosts that cannot do what they should: an image is missing, Docker's disk is full, Docker does not answer.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context as _, ensure};
use common::api::DoctorView;
use tests::{lab::Lab, wait::until};

const SOON: Duration = Duration::from_secs(40);
/// How long it may take until doctor reports a condition.
const TOLD_WITHIN: Duration = Duration::from_secs(15);
/// The agent looks every fifteen seconds when Docker tells it of nothing.
const GONE_WITHIN: Duration = Duration::from_secs(25);

fn doctor(lab: &Lab) -> anyhow::Result<Vec<String>> {
    let (_, said, _) = lab.try_exec("h1", &["wharf", "doctor", "-o", "json"]);
    let view: DoctorView = serde_json::from_str(&said).with_context(|| format!("doctor said {said}"))?;
    Ok(view.findings.into_iter().map(|finding| finding.what).collect())
}

/// The number of serving instances of a stack, by host.
fn serving(lab: &Lab, stack: &str) -> anyhow::Result<BTreeMap<String, usize>> {
    let mut serving = BTreeMap::new();
    for instance in lab.instances("h1")?.into_iter().filter(|i| i.id.stack().stack.as_str() == stack) {
        if instance.observed.is_serving() {
            *serving.entry(instance.host_name.context("its host is there")?.to_string()).or_default() += 1;
        }
    }
    Ok(serving)
}

fn web(image: &str, replicas: u32) -> String {
    format!("services: {{web: {{image: '{image}', stop_grace_period: 1s, deploy: {{replicas: {replicas}}}}}}}")
}

/// Gives a host's Docker its own disk, just large enough for the image.
fn give_small_disk(lab: &Lab, host: &str) {
    let swap = "kill -9 $(cat /run/docker.pid); pkill -x containerd
        mount -t tmpfs -o size=96m tmpfs /var/lib/docker";
    lab.exec(host, &["sh", "-c", swap]).expect("its disk is another one");
    lab.run(&["start-docker", host]).expect("its Docker starts");
    lab.run(&["hosts", "3"]).expect("all have the image");
}

#[test]
fn what_a_host_cannot_prepare_is_run_by_others() {
    let lab = Lab::up(3);
    give_small_disk(&lab, "h3");
    lab.wait_until_whole(SOON);

    // An image that one host lacks, without a registry.
    for host in ["h1", "h2"] {
        lab.docker(host, &["tag", "lab/web:1", "lab/only:1"]).expect("it is tagged");
    }
    lab.deploy("only", &web("lab/only:1", 3));
    let placed = serving(&lab, "only").expect("they are listed");
    assert!(!placed.contains_key("h3") && placed.values().sum::<usize>() == 3, "{placed:?}");

    // A full disk.
    lab.try_exec("h3", &["dd", "if=/dev/zero", "of=/var/lib/docker/filler", "bs=64k"]);
    until(TOLD_WITHIN, "doctor names the disk", || {
        let found = doctor(&lab)?;
        ensure!(found.iter().any(|what| what.contains("h3") && what.contains("full")), "{found:?}");
        anyhow::Ok(())
    });
    lab.deploy("full", &web("lab/web:1", 6));
    let placed = serving(&lab, "full").expect("they are listed");
    assert_eq!(placed, [("h1".to_owned(), 3), ("h2".to_owned(), 3)].into());
    lab.deploy(
        "job",
        "services: {job: {image: lab/web:1, command: [/bin/true], deploy: {mode: replicated-job, replicas: 3}}}",
    );

    // Once there is room, the host gets instances again.
    lab.exec("h3", &["rm", "/var/lib/docker/filler"]).expect("there is room");
    until(SOON, "doctor is content", || {
        let found = doctor(&lab)?;
        ensure!(!found.iter().any(|what| what.contains("full")), "{found:?}");
        anyhow::Ok(())
    });
    lab.deploy("again", &web("lab/web:1", 6));
    let placed = serving(&lab, "again").expect("they are listed");
    assert!(placed.get("h3").is_some_and(|count| *count >= 2), "{placed:?}");
}

#[test]
fn what_has_died_behind_a_silent_docker_is_called_no_more() {
    let lab = Lab::up(2);
    lab.deploy(
        "shop",
        "
services:
  web: {image: lab/web:1, stop_grace_period: 1s, deploy: {replicas: 2}}
  client:
    image: lab/web:1
    command: [/bin/sleep, '10000']
    stop_grace_period: 1s
    deploy: {placement: {constraints: [node.hostname == h1]}}
",
    );
    let call = || {
        let call = ["exec", "default.shop.client.1.1", "/bin/busybox", "timeout", "2", "wget", "-qO-", "http://web/"];
        lab.docker("h1", &call).map(|_| ())
    };
    until(SOON, "the service answers", call);

    let silence = |signal: &str| lab.exec("h2", &["sh", "-c", &format!("kill -{signal} $(cat /run/docker.pid)")]);
    silence("STOP").expect("Docker is silent");
    lab.exec("h2", &["pkill", "-KILL", "-x", "httpd"]).expect("its program dies");
    // Ten calls may all meet the other one by chance.
    until(GONE_WITHIN, "it is said of the instance", || {
        let shown = lab.exec("h1", &["wharf", "ps", "shop/web"])?;
        ensure!(shown.contains("its process has ended, and Docker does not answer"), "{shown}");
        anyhow::Ok(())
    });
    until(TOLD_WITHIN, "ten calls in a row are answered", || (0..10).try_for_each(|_| call()));
    until(TOLD_WITHIN, "doctor names the host", || {
        let found = doctor(&lab)?;
        ensure!(found.iter().any(|what| what.starts_with("Docker on h2 has not answered since ")), "{found:?}");
        anyhow::Ok(())
    });
    let shown = lab.exec("h1", &["wharf", "ps", "shop/web"]).expect("they are shown");
    assert!(shown.contains("its process has ended, and Docker does not answer"), "{shown}");
    (0..20).try_for_each(|_| call()).expect("what is gone is not called");

    silence("CONT").expect("Docker speaks again");
    until(SOON, "both serve", || {
        let found = serving(&lab, "shop")?;
        ensure!(found.values().sum::<usize>() == 3, "{found:?}");
        anyhow::Ok(())
    });
}
