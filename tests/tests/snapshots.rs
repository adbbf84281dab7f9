//! A member that is killed while it gets a snapshot goes on when it is started again, and has all that was acknowledged.
//! `WHARF_ROUNDS` sets the number of kills. Needs a release build.

use std::{fs, path::Path, time::Duration};

use anyhow::ensure;
use bytes::Bytes;
use common::api::{KeyView, List};
use hyper::Method;
use tests::{
    load,
    processes::Group,
    wait::{until, until_async},
};
use tokio::task::JoinSet;

const SOON: Duration = Duration::from_secs(30);
/// A snapshot is made after ten thousand entries, and each of these is at most one.
const WRITES: usize = 14_000;
const WRITERS: usize = 4;
/// What makes the snapshot large: so many keys of so many bytes.
const LARGE: usize = 200;
const BYTES: usize = 60_000;
const KEYS: &str = "/api/v1/environments/default/keys";

async fn keys(group: &Group, member: usize) -> anyhow::Result<usize> {
    let list: List<KeyView> = match group.client(member).get(&format!("{KEYS}?stale")).await {
        Ok(list) => list,
        Err(problem) => anyhow::bail!("{problem}"),
    };
    Ok(list.items.len())
}

async fn fill(group: &Group) {
    for number in 0..LARGE {
        let value = Bytes::from(vec![b'v'; BYTES]);
        group.client(0).send(Method::PUT, &format!("{KEYS}/large-{number}"), value).await.expect("it is written");
    }
    let mut writers = JoinSet::new();
    for writer in 0..WRITERS {
        // One key each, again and again: entries, and no larger state.
        let (client, path) = (group.client(writer % 3), format!("{KEYS}/small-{writer}"));
        writers.spawn(async move {
            for number in 0..WRITES {
                client.send(Method::PUT, &path, Bytes::from(number.to_string())).await.expect("it is written");
            }
        });
    }
    while let Some(ended) = writers.join_next().await {
        ended.expect("no panic");
    }
}

fn has_snapshot(state: &Path) -> bool {
    fs::read_dir(state.join("snapshots")).is_ok_and(|mut files| files.next().is_some())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_while_a_snapshot_comes_loses_nothing() {
    let rounds: u64 = std::env::var("WHARF_ROUNDS").map_or(5, |text| text.parse().expect("a number"));
    let (folder, wharf) = (tempfile::tempdir().expect("a folder"), load::load().with_file_name("wharf"));
    let mut group = Group::of_three(folder.path(), &wharf).await;
    fill(&group).await;
    let all = LARGE + WRITERS;
    until(SOON, "there is a snapshot", || {
        ensure!(group.members.iter().all(|member| has_snapshot(&member.state())));
        Ok(())
    });
    for round in 0..rounds {
        // The third member has nothing, as a new one, and gets the snapshot of the leader. Nobody stands for election meanwhile,
        // so it does not matter that it has forgotten its vote.
        let state = group.members[2].state();
        group.members[2].kill();
        for part in ["raft", "snapshots"] {
            fs::remove_dir_all(state.join(part)).expect("removes");
        }
        fs::remove_file(state.join("raft-made")).expect("removes");
        group.members[2].start(&wharf);
        // From before the first piece to after the last one.
        tokio::time::sleep(Duration::from_millis(150 + round * 37 % 900)).await;
        group.members[2].kill();
        group.members[2].start(&wharf);
        until_async(SOON, &format!("round {round}: it has all"), async || {
            let found = keys(&group, 2).await?;
            ensure!(found == all, "{found} of {all}");
            Ok(())
        })
        .await;
        ensure_whole(&group, round).await;
    }
    println!("{rounds} kills while a snapshot came, all {all} keys there");
}

async fn ensure_whole(group: &Group, round: u64) {
    group.is_whole().await;
    let log = group.members[2].log();
    assert!(!log.contains("is damaged"), "round {round}: {log}");
}
