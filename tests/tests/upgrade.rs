//! Upgrades of a group of processes, and of real hosts with real Docker: what goes on meanwhile, and what becomes of a
//! binary that does not work. `WHARF_ROUNDS` sets how often the hosts go there and back. Needs a release build.

use std::{
    collections::BTreeSet,
    fs::{self, OpenOptions},
    io::Write,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Output,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::ensure;
use bytes::Bytes;
use common::{
    api::{KeyView, List, UpgradeView},
    error::Code,
};
use hyper::Method;
use tests::{
    lab::Lab,
    load,
    processes::Group,
    wait::{until, until_async},
};

const SOON: Duration = Duration::from_secs(60);
/// A binary that hangs is given up after a minute.
const GIVEN_UP: Duration = Duration::from_secs(120);

const WEB: &str = "
services:
  web:
    image: lab/web:1
    ports: ['80']
    stop_grace_period: 1s
    healthcheck: {test: [CMD, /bin/busybox, wget, -qO-, 'http://127.0.0.1/'], interval: 500ms, timeout: 2s}
    deploy: {replicas: 6}
";

fn wharf() -> PathBuf {
    load::load().with_file_name("wharf")
}

fn place(path: &Path, bytes: &[u8]) {
    fs::create_dir_all(path.parent().expect("it is in a folder")).expect("a folder");
    fs::write(path, bytes).expect("it is written");
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("it may be run");
}

/// The same program with another hash.
fn changed_copy(of: &Path, to: &Path) {
    fs::copy(of, to).expect("it is copied");
    OpenOptions::new().append(true).open(to).and_then(|mut file| file.write_all(b"\0")).expect("a byte more");
}

/// A binary that says that it is a wharf of this version, and does something else when it is to serve.
fn impostor(path: &Path, instead: &str) {
    let output = std::process::Command::new(wharf()).args(["version", "--client", "-o", "json"]).output();
    let says = String::from_utf8(output.expect("it can be run").stdout).expect("text").replace('\n', " ");
    place(path, format!("#!/bin/sh\n[ \"$1\" = version ] && {{ echo '{says}'; exit 0; }}\n{instead}\n").as_bytes());
}

/// Three processes, each with a binary of its own.
async fn three(folder: &Path) -> Group {
    let binary = |number: usize| folder.join(format!("h{number}")).join("wharf");
    (1..=3).for_each(|number| place(&binary(number), &fs::read(wharf()).expect("there is a binary")));
    Group::of_three_from(folder, &binary).await
}

async fn upgrade(folder: &Path, to: &Path) -> Output {
    let mut command = tokio::process::Command::new(wharf());
    command.args(["upgrade", "-y", "--to"]).arg(to).env("WHARF_CONFIG", folder.join("h1/config.toml"));
    command.kill_on_drop(true).output().await.expect("it can be run")
}

async fn seen(group: &Group) -> anyhow::Result<UpgradeView> {
    for member in 0..3 {
        if let Ok(view) = group.client(member).get::<UpgradeView>("/api/v1/upgrade").await {
            return Ok(view);
        }
    }
    anyhow::bail!("no coordinator answers")
}

fn said(output: &Output) -> String {
    format!(
        "{:?} {}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// Writes one key after the other, through whichever coordinator answers, until it is stopped.
struct Writes {
    stop: Arc<AtomicBool>,
    task: tokio::task::JoinHandle<(usize, Duration, Vec<String>)>,
}

impl Writes {
    fn start(group: &Group) -> Writes {
        let (client, stop) = (group.any_client(), Arc::<AtomicBool>::default());
        let stopped = stop.clone();
        let task = tokio::spawn(async move {
            let (mut written, mut longest, mut refused) = (0, Duration::ZERO, Vec::new());
            while !stopped.load(Ordering::Relaxed) {
                let began = Instant::now();
                let path = format!("/api/v1/environments/default/keys/w{written:06}");
                // What is refused is written again: it must be there in the end.
                while let Err(problem) = client.send(Method::PUT, &path, Bytes::from_static(b"v")).await {
                    refused.push(problem.to_string());
                }
                written += 1;
                longest = longest.max(began.elapsed());
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            (written, longest, refused)
        });
        Writes { stop, task }
    }

    /// How many were acknowledged, the longest wait for one, and what was refused.
    async fn end(self) -> (usize, Duration, Vec<String>) {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.expect("no panic")
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn three_coordinators_change_to_another_binary_and_back_while_they_are_written_to() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    let mut group = three(folder).await;
    let (other, first) = (folder.join("other"), folder.join("first"));
    changed_copy(&wharf(), &other);
    fs::copy(wharf(), &first).expect("it is copied");
    let writes = Writes::start(&group);
    for binary in [&other, &first] {
        let hash = link::binary::hash_of(binary).expect("it is read");
        let output = upgrade(folder, binary).await;
        assert!(output.status.success(), "{}", said(&output));
        let view = seen(&group).await.expect("they answer");
        assert!(view.hosts.iter().all(|host| host.hash == Some(hash) && host.step == "done"), "{view:?}");
        for number in 1..=3 {
            let place = folder.join(format!("h{number}/wharf"));
            until_async(SOON, "the binary lies in its place", async || {
                ensure!(link::binary::hash_of(&place)? == hash);
                Ok::<(), anyhow::Error>(())
            })
            .await;
            assert!(!folder.join(format!("h{number}/state/trial")).exists(), "no trial is left");
            assert!(folder.join(format!("h{number}/wharf.previous")).exists(), "the one before is kept");
        }
        assert!(group.members.iter_mut().all(|member| member.is_running()), "each is the same process");
    }
    group.is_whole().await;
    let (written, longest, refused) = writes.end().await;
    println!("{written} writes, {} refused, the longest took {longest:?}", refused.len());
    for member in 0..3 {
        let keys: List<KeyView> = group.client(member).get("/api/v1/environments/default/keys").await.expect("reads");
        let there: BTreeSet<String> = keys.items.into_iter().map(|key| key.key).collect();
        let missing: Vec<_> = (0..written).map(|n| format!("w{n:06}")).filter(|key| !there.contains(key)).collect();
        assert!(missing.is_empty(), "h{} lacks {missing:?}", member + 1);
    }
    assert!(refused.is_empty(), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_binary_that_does_not_work_pauses_the_upgrade_and_the_host_goes_back_by_itself() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    let group = three(folder).await;
    let first = link::binary::hash_of(&wharf()).expect("it is read");
    let bad = folder.join("bad");
    for (instead, expected) in
        [("exit 1", "it ended by itself"), ("exec sleep 1000", "it did nothing, and was killed after 60s")]
    {
        impostor(&bad, instead);
        let output = tokio::time::timeout(GIVEN_UP, upgrade(folder, &bad)).await.expect("it is given up");
        assert_eq!(output.status.code(), Some(4), "{}", said(&output));
        assert!(said(&output).contains(expected), "{}", said(&output));
        group.is_whole().await;
        until_async(SOON, "all run the first one", async || {
            let view = seen(&group).await?;
            ensure!(view.hosts.iter().all(|host| host.hash == Some(first)), "{view:?}");
            ensure!(view.upgrade.is_some_and(|run| run.phase == "failed" && run.why.contains(expected)));
            Ok::<(), anyhow::Error>(())
        })
        .await;
        group.writes_and_reads(&instead[..4]).await;
    }
    let wrong = format!("/api/v1/upgrades/{}", "00".repeat(32));
    let refused = group.client(0).upload::<UpgradeView>(&wrong, Bytes::from_static(b"something")).await;
    let refused = refused.expect_err("its hash is wrong");
    assert_eq!(refused.code, Code::InvalidRequest, "{refused}");
    assert!(refused.to_string().contains("its SHA-256 is"), "{refused}");
}

fn ids(lab: &Lab) -> BTreeSet<String> {
    lab.all_running().into_iter().flat_map(|(_, containers)| containers.into_iter().map(|(_, id)| id)).collect()
}

/// The longest time between two acknowledged writes, in milliseconds.
fn longest_gap(acknowledged: &[String]) -> u64 {
    let times: Vec<u64> = acknowledged.iter().filter_map(|line| line.split(' ').next()?.parse().ok()).collect();
    times.windows(2).map(|pair| pair[1].saturating_sub(pair[0])).max().unwrap_or(0)
}

#[test]
fn an_upgrade_of_real_hosts_and_back_costs_no_call_no_write_and_no_container() {
    let rounds: u64 = std::env::var("WHARF_ROUNDS").map_or(1, |text| text.parse().expect("a number"));
    let lab = Lab::up(3);
    lab.deploy("shop", WEB);
    lab.wait_for_running(SOON, 6);
    let before = ids(&lab);
    let first = PathBuf::from(lab.put_file("h1", "first", ""));
    let installed = lab.exec("h1", &["cat", "/proc/self/comm"]).expect("it runs");
    assert_eq!(installed.trim(), "cat");
    lab.exec("h1", &["cp", "/usr/local/bin/wharf", &first.display().to_string()]).expect("it is copied");
    let other = first.with_file_name("other");
    changed_copy(&first, &other);
    let mut gaps = Vec::new();
    let (mut calls, mut failed, mut written) = (0, Vec::new(), 0);
    for round in 0..rounds {
        for binary in [&other, &first] {
            lab.wait_until_whole(SOON);
            let mut writer = lab.writer("h1", &format!("upgrade-{round}"));
            let caller = lab.caller("h1", "shop/web");
            writer.wait_for_more(10);
            let began = Instant::now();
            lab.exec("h1", &["wharf", "upgrade", "-y", "--to", &binary.display().to_string()])
                .expect("all hosts change");
            let took = began.elapsed();
            writer.wait_for_more(10);
            let (made, complaints) = caller.stop();
            assert!(made > 100, "all instances were called: {made}");
            let acknowledged = writer.stop();
            assert_eq!(lab.verify("h1", &acknowledged), acknowledged.len(), "every acknowledged write is there");
            gaps.push(longest_gap(&acknowledged));
            println!(
                "round {round}: {took:?}, {made} calls, {} failed, {} writes, the longest wait for one {} ms",
                complaints.len(),
                acknowledged.len(),
                gaps.last().expect("one was added")
            );
            calls += made;
            written += acknowledged.len();
            failed.extend(complaints);
        }
    }
    until(SOON, "every process has its usual name", || {
        for host in lab.names() {
            lab.exec(&host, &["pgrep", "-x", "wharf"])?;
        }
        Ok::<(), anyhow::Error>(())
    });
    let restarted = before.difference(&ids(&lab)).count();
    println!(
        "failed calls {} of {calls}, restarted containers {restarted}, {written} writes, longest refusal {:?} ms",
        failed.len(),
        gaps.iter().max()
    );
    assert!(failed.is_empty(), "{failed:?}");
    assert_eq!(ids(&lab), before, "no container was touched");
}
