//! Backups, restoration and recovery, with coordinators that are processes of their own. Needs a release build: the
//! binary that it runs lies beside.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use common::api::{ApiTokenView, FileView, HostView, KeyView, List};
use hyper::Method;
use tests::{
    processes::{Group, wharf},
    wait::{until, until_async},
};

const SOON: Duration = Duration::from_secs(30);
const KEYS: &str = "/api/v1/environments/default/keys";
const SECRET: &str = "/api/v1/environments/default/secrets/password";

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

async fn write_keys(group: &Group, prefix: &str, count: usize) -> Vec<String> {
    let mut written = Vec::new();
    for number in 0..count {
        let key = format!("{prefix}-{number:03}");
        let client = group.client(number % group.members.len());
        client.send(Method::PUT, &format!("{KEYS}/{key}"), Bytes::from_static(b"v")).await.expect("acknowledged");
        written.push(key);
    }
    written
}

async fn keys(group: &Group, member: usize) -> Vec<String> {
    let list: List<KeyView> = group.client(member).get(KEYS).await.expect("it reads");
    list.items.into_iter().map(|item| item.key).collect()
}

/// The address that a member listens on, as an argument.
fn place(group: &Group, member: usize) -> Vec<String> {
    let member = &group.members[member];
    let (state, keys) = (member.state().display().to_string(), member.keys().display().to_string());
    let address = member.address().to_string();
    ["--state", &state, "--keys", &keys, "--listen", &address, "--advertise", &address].map(str::to_owned).to_vec()
}

fn strs(words: &[String]) -> Vec<&str> {
    words.iter().map(String::as_str).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_lost_everything_begins_again_from_its_backup() {
    let folder = tempfile::tempdir().expect("a folder");
    let binary = wharf();
    let mut group = Group::of_three(folder.path(), &binary).await;
    let mut written = write_keys(&group, "before", 30).await;
    until_async(SOON, "the second has the sealing key, and sets a secret", async || {
        let set = group.client(1).send(Method::PUT, SECRET, Bytes::from_static(b"hunter2")).await;
        set.map(drop).map_err(|problem| anyhow::anyhow!("{problem}"))
    })
    .await;
    let sealing_key = sealing_key_of(&group, 0);
    let path = |name: &str| folder.path().join(name);
    let (file, key) = (path("a.backup"), path("key"));
    let named = file.display().to_string();
    fs::write(&key, group.done(0, &["backup", "key"])).expect("the key is kept");
    let key = key.display().to_string();
    group.done(0, &["backup", "--to", &named]);
    assert_eq!(fs::metadata(&file).expect("is there").permissions().mode() & 0o777, 0o600);
    let why = group.refused(0, &["backup", "--to", &named]);
    assert!(why.contains("exists"), "{why}");
    let shown = group.done(0, &["backup", "verify", &named, "--key", &key]);
    assert!(shown.contains("keys") && shown.contains("30"), "{shown}");
    is_refused_when_it_is_changed(&group, &file, &key);
    let other = path("other-key");
    fs::write(&other, group.done(0, &["backup", "key", "--replace"])).expect("another key");
    let why = group.refused(0, &["backup", "verify", &named, "--key", &other.display().to_string()]);
    assert!(why.contains("E0903") && why.contains("encrypted to the key"), "{why}");

    // A backup over a living cluster would split it.
    let restore = |at: &[String]| {
        [vec!["restore".to_owned(), named.clone(), "--key".into(), key.clone(), "--no-start".into()], at.to_vec()]
            .concat()
    };
    let why = group.refused(0, &strs(&restore(&elsewhere(&path("spare")))));
    assert!(why.contains("the cluster is not lost"), "{why}");

    let old = group.members.iter_mut().map(|member| {
        member.kill();
        member.id()
    });
    let old: Vec<_> = old.collect();
    let kept = path("old-h2");
    fs::rename(group.members[1].state(), &kept).expect("the state of the second is put aside");
    for member in &group.members {
        fs::remove_dir_all(member.state()).ok();
        fs::remove_dir_all(member.keys()).ok();
    }
    let words = restore(&place(&group, 0));
    let lines = group.done(0, &strs(&words));
    assert_eq!(lines.lines().filter(|line| line.contains("/join")).count(), 2, "a line for each: {lines}");
    let why = group.refused(0, &strs(&words));
    assert!(why.contains("this host belongs to a cluster"), "{why}");
    group.members.truncate(1);
    group.members[0].start(&binary);
    group.answers(0).await;
    assert_eq!(keys(&group, 0).await, written, "everything is there");
    let secrets: List<FileView> = group.client(0).get("/api/v1/environments/default/secrets").await.expect("it reads");
    assert_eq!(secrets.items.len(), 1);
    assert!(sealing_key_of(&group, 0) == sealing_key, "what was sealed can be opened");
    let tokens: List<ApiTokenView> = group.client(0).get("/api/v1/api-tokens").await.expect("the old token holds");
    assert!(tokens.items.iter().any(|token| token.name.as_str() == "rebuilt"));
    assert!(!old.contains(&group.members[0].id()), "its member id is new");

    join_again(&mut group, &lines).await;
    let hosts: List<HostView> = group.client(0).get("/api/v1/hosts").await.expect("it reads");
    let names: Vec<&str> = hosts.items.iter().map(|host| host.name.as_str()).collect();
    assert_eq!(names.len(), 3, "no host was added: {names:?}");
    written.extend(write_keys(&group, "later", 6).await);
    assert_eq!(keys(&group, 2).await, written);
}

/// Where another host would have its files, and listen.
fn elsewhere(spare: &Path) -> Vec<String> {
    let (state, keys) = (spare.display().to_string(), spare.join("k").display().to_string());
    ["--state", &state, "--keys", &keys, "--listen", "127.0.0.1:0", "--advertise", "127.0.0.1:9"]
        .map(str::to_owned)
        .to_vec()
}

/// The two others join by the lines that a restoration has printed, in the place that they had.
async fn join_again(group: &mut Group, lines: &str) {
    let binary = group.binary.clone();
    for (number, line) in [2, 3].into_iter().zip(lines.lines().filter(|line| line.contains("/join"))) {
        let token = line.rsplit(' ').next().expect("it ends with the token");
        group.join(number, token).await;
        group.members.last_mut().expect("it joined").start(&binary);
        group.is_whole().await;
    }
}

/// The file of a member's sealing key.
fn sealing_key_of(group: &Group, member: usize) -> Vec<u8> {
    let file = fs::read_dir(group.members[member].keys()).expect("lists").next().expect("one").expect("lists");
    fs::read(file.path()).expect("reads")
}

fn is_refused_when_it_is_changed(group: &Group, file: &Path, key: &str) {
    let bytes = fs::read(file).expect("reads");
    let changed = file.with_extension("changed");
    for at in [3, 20, 70, bytes.len() / 2, bytes.len() - 1] {
        let mut bad = bytes.clone();
        bad[at] ^= 1;
        fs::write(&changed, &bad).expect("writes");
        let why = group.refused(0, &["backup", "verify", &changed.display().to_string(), "--key", key]);
        assert!(why.contains("E0903"), "byte {at}: {why}");
    }
    fs::write(&changed, &bytes[..bytes.len() - 1]).expect("writes");
    let why = group.refused(0, &["backup", "verify", &changed.display().to_string(), "--key", key]);
    assert!(why.contains("cut off"), "{why}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_survivor_of_a_lost_quorum_goes_on_with_all_that_was_acknowledged() {
    let folder = tempfile::tempdir().expect("a folder");
    let binary = wharf();
    let mut group = Group::of_three(folder.path(), &binary).await;
    group.done(0, &["backup", "key"]);
    let written = write_keys(&group, "acknowledged", 60).await;
    // The first one has them too: it is the one that knows most, or knows as much.
    until_async(SOON, "the first one has all", async || {
        let list: List<KeyView> =
            group.client(0).get(&format!("{KEYS}?stale")).await.map_err(|problem| anyhow::anyhow!("{problem}"))?;
        ensure!(list.items.len() == written.len());
        Ok(())
    })
    .await;
    let words = [vec!["recover".to_owned()], place(&group, 0)].concat();
    let why = group.refused(0, &strs(&words));
    assert!(why.contains("wharf runs on this host"), "{why}");
    group.members[0].stop();
    let shown = group.run(0, &strs(&words));
    assert!(text(&shown.stderr).contains("that is a majority"), "{}", text(&shown.stderr));
    let forced = [words.clone(), vec!["--apply".into()]].concat();
    assert!(group.refused(0, &strs(&forced)).contains("that is a majority"));
    group.members[1].kill();
    group.members[2].kill();
    let dry = group.run(0, &strs(&words));
    let (table, notes) = (text(&dry.stdout), text(&dry.stderr));
    assert!(
        dry.status.success() && table.contains("knows most") && notes.contains("Nothing was changed"),
        "{table}{notes}"
    );
    let before = group.members[0].id();
    group.done(0, &strs(&forced));
    let backups = PathBuf::from(format!("{}-backups", group.members[0].state().display()));
    let backup = fs::read_dir(&backups).expect("it was made").next().expect("one").expect("reads").path();
    assert!(backup.display().to_string().contains("before-recovery"));
    group.members[0].start(&binary);
    group.answers(0).await;
    assert_eq!(keys(&group, 0).await, written);
    assert_ne!(group.members[0].id(), before);

    // The others come back: they are a majority of the old group, and must not go on.
    for member in [1, 2] {
        group.members[member].start(&binary);
    }
    for member in [1, 2] {
        until(SOON, "it is refused", || {
            let log = group.members[member].log();
            ensure!(log.contains("was removed from the group"), "{log}");
            anyhow::Ok(())
        });
    }
    let view = group.view(0).await.expect("it answers");
    assert_eq!(view.members.len(), 1, "{:?}", view.members);
    for member in [1, 2] {
        let why = group.client(member).send(Method::PUT, &format!("{KEYS}/lost"), Bytes::from_static(b"v")).await;
        assert!(why.is_err(), "an old member accepts no write");
    }
    assert_eq!(keys(&group, 0).await, written);
}

#[tokio::test(flavor = "multi_thread")]
async fn scheduled_backups_are_made_by_every_coordinator_and_a_failure_is_seen() {
    let folder = tempfile::tempdir().expect("a folder");
    let binary = wharf();
    let mut group = Group::of_three(folder.path(), &binary).await;
    let why = group.refused(0, &["backup", "schedule", "--every", "1h"]);
    assert!(why.contains("wharf backup key"), "{why}");
    let key = folder.path().join("key");
    fs::write(&key, group.done(0, &["backup", "key"])).expect("the key is kept");
    // Where the third one's go, a file is in the way.
    let in_the_way = PathBuf::from(format!("{}-backups", group.members[2].state().display()));
    fs::write(&in_the_way, "x").expect("writes");
    group.done(0, &["backup", "schedule", "--every", "1h", "--keep", "2"]);
    let made = |member: usize| {
        let folder = PathBuf::from(format!("{}-backups", group.members[member].state().display()));
        until(SOON, "a backup is made", || {
            let first = fs::read_dir(&folder)?.next().context("none yet")??.path();
            ensure!(first.extension().is_some_and(|extension| extension == "backup"), "{}", first.display());
            anyhow::Ok(first)
        })
    };
    for member in [0, 1] {
        let path = made(member).display().to_string();
        group.done(0, &["backup", "verify", &path, "--key", &key.display().to_string()]);
    }
    until(SOON, "the failure is seen", || {
        let doctor = group.run(0, &["doctor"]);
        let said = text(&doctor.stdout) + &text(&doctor.stderr);
        ensure!(said.contains("makes no backups"), "{said}");
        anyhow::Ok(())
    });
    let status = group.run(0, &["backup", "status"]);
    assert_eq!(status.status.code(), Some(1), "{}", text(&status.stdout));
    assert!(text(&status.stdout).contains("not written"), "{}", text(&status.stdout));
    group.members[2].kill();
}
