//! A member that is killed while it gets a snapshot goes on when it is started again, and has all that was acknowledged.
//! `WHARF_ROUNDS` sets the number of kills. Needs a release build.

use std::{fs, path::Path, time::Duration};

use anyhow::ensure;
use bytes::Bytes;
use common::api::{KeyView, List};
use hyper::Method;
use tests::{load, processes::Group, wait::until_async};
use tokio::task::JoinSet;

const SOON: Duration = Duration::from_secs(30);
/// A snapshot is made after ten thousand entries, so many writes at a time make few for each.
const WRITERS: usize = 2;
const FILLED_WITHIN: Duration = Duration::from_secs(90);
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
            for number in 0.. {
                client.send(Method::PUT, &path, Bytes::from(number.to_string())).await.expect("it is written");
            }
        });
    }
    until_async(FILLED_WITHIN, "all have a snapshot", async || {
        ensure!(group.members.iter().all(|member| has_snapshot(&member.state())));
        Ok(())
    })
    .await;
    writers.shutdown().await;
}

fn has_snapshot(state: &Path) -> bool {
    fs::read_dir(state.join("snapshots")).is_ok_and(|mut files| files.next().is_some())
}

/// Flips a bit in the first frame of a segment.
fn damage(state: &Path) {
    let files = fs::read_dir(state.join("raft")).expect("lists").map(|file| file.expect("lists").path());
    let segment = files.filter(|path| path.extension().is_some_and(|ending| ending == "segment")).max();
    let segment = segment.expect("there is one");
    let mut bytes = fs::read(&segment).expect("reads");
    bytes[540] ^= 1;
    fs::write(segment, bytes).expect("writes");
}

/// How often a damaged store was put aside.
fn put_aside(state: &Path) -> usize {
    let names = fs::read_dir(state).expect("lists").map(|file| file.expect("lists").file_name());
    names.filter(|name| name.to_string_lossy().starts_with("raft.damaged-")).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_while_a_snapshot_comes_loses_nothing() {
    let rounds: u64 = std::env::var("WHARF_ROUNDS").map_or(5, |text| text.parse().expect("a number"));
    let (folder, wharf) = (tempfile::tempdir().expect("a folder"), load::load().with_file_name("wharf"));
    let mut group = Group::of_three(folder.path(), &wharf).await;
    fill(&group).await;
    let all = LARGE + WRITERS;
    for round in 0..rounds {
        // The third member loses its store, begins anew, and gets the snapshot of the leader.
        let state = group.members[2].state();
        group.members[2].kill();
        damage(&state);
        group.members[2].start(&wharf);
        // From before it asks the others until it has all.
        tokio::time::sleep(Duration::from_millis(150 + round * 37 % 900)).await;
        group.members[2].kill();
        group.members[2].start(&wharf);
        until_async(SOON, &format!("round {round}: it has all"), async || {
            let found = keys(&group, 2).await?;
            ensure!(found == all, "{found} of {all}");
            Ok(())
        })
        .await;
        group.is_whole().await;
        assert_eq!(put_aside(&state), round as usize + 1, "what came by the snapshot was never taken for damage");
    }
    println!("{rounds} kills while a snapshot came, all {all} keys there");
}
