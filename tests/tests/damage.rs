//! A coordinator whose store is damaged loses nothing that was acknowledged: it says what is wrong, and begins anew with
//! what the others have. One that has no others stops.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use bytes::Bytes;
use common::{
    api::{ClusterView, KeyView, List},
    error::{Code, Problem},
};
use hyper::Method;
use tests::{cluster::TestCluster, wait::until_async};

const KEYS: &str = "/api/v1/environments/default/keys";
const SOON: Duration = Duration::from_secs(30);

async fn write(cluster: &TestCluster, key: &str) {
    let path = format!("{KEYS}/{key}");
    cluster.client().send(Method::PUT, &path, Bytes::from_static(b"v")).await.expect("it is acknowledged");
}

async fn keys(cluster: &TestCluster, host: usize) -> Result<Vec<String>, Problem> {
    let list: List<KeyView> = cluster.client_of(host).get(&format!("{KEYS}?stale")).await?;
    Ok(list.items.into_iter().map(|item| item.key).collect())
}

/// The segment of a log that is written to.
fn segment(state: &Path) -> PathBuf {
    let files = fs::read_dir(state.join("raft")).expect("lists").map(|file| file.expect("lists").path());
    let newest = files.filter(|path| path.extension().is_some_and(|ending| ending == "segment")).max();
    newest.expect("there is a segment")
}

/// Where a text was written last.
fn place_of(path: &Path, text: &str) -> usize {
    let bytes = fs::read(path).expect("reads");
    bytes.windows(text.len()).rposition(|found| found == text.as_bytes()).expect("it is there")
}

fn flip(path: &Path, byte: usize) {
    let mut bytes = fs::read(path).expect("reads");
    bytes[byte] ^= 4;
    fs::write(path, bytes).expect("writes");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_with_a_damaged_log_begins_anew_and_nothing_acknowledged_is_lost() {
    let mut cluster = TestCluster::start(3).await;
    let network = cluster.network.clone();
    let mut written: Vec<String> = Vec::new();
    // In the middle of the log, at its end, and in the header; in the leader's as well, unless the first host leads.
    for round in 0..3 {
        for number in 0..40 {
            let key = format!("k{round}-{number:02}");
            write(&cluster, &key).await;
            written.push(key);
        }
        let leader = cluster.leader(0).await.expect("somebody leads");
        // The first host was born alone and its keyring names nobody else.
        let wrong = [1, 2].into_iter().find(|host| (*host == leader) == (round == 1)).unwrap_or(2);
        cluster.hosts[wrong].switch_off().await;
        let path = segment(cluster.hosts[wrong].folder());
        let place = match round {
            0 => place_of(&path, "k0-20"),
            1 => place_of(&path, "k1-39"),
            _ => 12,
        };
        flip(&path, place);
        cluster.hosts[wrong].switch_on(&network);
        cluster.wait_until_whole().await;
        until_async(SOON, "it has all that was acknowledged", async || {
            let found = keys(&cluster, wrong).await.map_err(|problem| anyhow::anyhow!("{problem}"))?;
            anyhow::ensure!(found == written, "{} of {}", found.len(), written.len());
            Ok(())
        })
        .await;
        let kept = fs::read_dir(cluster.hosts[wrong].folder()).expect("lists");
        let names = kept.map(|file| file.expect("lists").file_name().to_string_lossy().into_owned());
        assert!(names.into_iter().any(|name| name.starts_with("raft.damaged-")), "what was damaged is kept");
    }
    let view: ClusterView = cluster.client().get("/api/v1/cluster").await.expect("answers");
    assert_eq!(view.members.len(), 3, "{:?}", view.members);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_is_alone_stops_and_changes_nothing() {
    let mut cluster = TestCluster::start(1).await;
    write(&cluster, "only").await;
    cluster.hosts[0].switch_off().await;
    let path = segment(cluster.hosts[0].folder());
    let place = place_of(&path, "only");
    flip(&path, place);
    let damaged = fs::read(&path).expect("reads");
    let problem = cluster.hosts[0].coordinator_problem(&cluster.network).await;
    assert_eq!(problem.code, Code::StoreCorrupt, "{problem}");
    let name = path.file_name().expect("a name").to_string_lossy().into_owned();
    assert!(problem.to_string().contains(&name), "it names the file: {problem}");
    assert!(fs::read(&path).expect("reads") == damaged, "nothing is cut");
    flip(&path, place);
    let network = cluster.network.clone();
    cluster.hosts[0].switch_on(&network);
    until_async(SOON, "it goes on", async || {
        anyhow::ensure!(keys(&cluster, 0).await.is_ok_and(|keys| keys == ["only"]));
        anyhow::Ok(())
    })
    .await;
}
