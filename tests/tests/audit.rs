//! The audit of a group of real processes: who changed what stays provable, in the state and in files. Needs a release
//! build: the binary that it runs lies beside.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::ensure;
use bytes::Bytes;
use common::audit::{AuditLine, AuditPage, check};
use hyper::Method;
use tests::{
    processes::{Group, wharf},
    wait::{until, until_async},
};

const SOON: Duration = Duration::from_secs(30);
const KEYS: &str = "/api/v1/environments/default/keys";

fn files(state: &Path) -> Vec<PathBuf> {
    let listed = fs::read_dir(state.join("audit")).into_iter().flatten();
    let mut paths: Vec<_> = listed.filter_map(|entry| Some(entry.ok()?.path())).collect();
    paths.sort();
    paths
}

/// The entries in the files of a member.
fn in_files(state: &Path) -> anyhow::Result<Vec<AuditLine>> {
    let mut lines = Vec::new();
    for path in files(state) {
        for line in fs::read_to_string(path)?.lines() {
            lines.push(serde_json::from_str(line)?);
        }
    }
    Ok(lines)
}

#[tokio::test(flavor = "multi_thread")]
async fn who_changed_what_can_be_proved_and_a_forgery_is_found() {
    let folder = tempfile::tempdir().expect("a folder");
    let binary = wharf();
    let mut group = Group::of_three(folder.path(), &binary).await;
    for number in 0..40 {
        let client = group.client(number % 3);
        client.send(Method::PUT, &format!("{KEYS}/k{number}"), Bytes::from_static(b"v")).await.expect("acknowledged");
    }
    let page: AuditPage = group.client(0).get("/api/v1/audit?after=0").await.expect("it is read");
    assert_eq!(check(&page.entries), Ok(()));
    let written: Vec<_> = page.entries.iter().filter(|line| line.what == "put key").collect();
    assert_eq!(written.len(), 40);
    let is_told = |line: &&&AuditLine| {
        line.entry.token.is_some()
            && line.entry.name.is_some()
            && line.entry.from.is_some_and(|from| from.is_loopback())
    };
    assert_eq!(written.iter().filter(is_told).count(), 40, "{written:?}");
    assert_eq!(page.entries.iter().filter(|line| line.what == "admit").count(), 2, "two hosts joined");

    // A member that was away writes what it missed as well.
    group.members[2].kill();
    group.client(0).send(Method::PUT, &format!("{KEYS}/late"), Bytes::from_static(b"v")).await.expect("acknowledged");
    group.members[2].start(&binary);
    for member in &group.members {
        until_async(SOON, "its files hold all entries", async || {
            let lines = in_files(&member.state())?;
            let late = lines.iter().any(|line| line.entry.subject == "default/late");
            ensure!(late && check(&lines).is_ok(), "{} entries", lines.len());
            Ok(())
        })
        .await;
    }
    let shown = group.done(0, &["audit", "ls", "-n", "2"]);
    assert!(shown.contains("put key") && shown.contains("default/late"), "{shown}");

    let copy = folder.path().join("copy.jsonl");
    let copied = copy.display().to_string();
    fs::write(&copy, group.done(0, &["audit", "export"])).expect("it is kept");
    let of_members: Vec<_> = group.members.iter().flat_map(|member| files(&member.state())).collect();
    let of_members: Vec<_> = of_members.iter().map(|path| path.display().to_string()).collect();
    let mut all = vec!["audit", "verify", &copied];
    all.extend(of_members.iter().map(String::as_str));
    until(SOON, "all is whole", || {
        let output = group.run(0, &all);
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    });
    let whole = fs::read_to_string(&copy).expect("it is there");
    fs::write(&copy, whole.replacen("default/k7\"", "default/k8\"", 1)).expect("it is forged");
    let why = group.refused(0, &["audit", "verify", &copied]);
    assert!(why.contains("was changed: it does not have its hash"), "{why}");
    let without: Vec<_> = whole.lines().filter(|line| !line.contains("default/k7\"")).collect();
    fs::write(&copy, without.join("\n")).expect("it is forged");
    let why = group.refused(0, &["audit", "verify", &copied]);
    assert!(why.contains("are missing"), "{why}");
}
