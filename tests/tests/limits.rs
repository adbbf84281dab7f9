//! A state filled to its limits over the API is refused more with the number, and every member reads it back.
//! Needs a release build: a debug build takes minutes for what is written here.

use std::time::Duration;

use bytes::Bytes;
use common::{
    api::{FileView, KeyView, List},
    error::{Code, Problem},
};
use hyper::Method;
use tests::{cluster::TestCluster, store::write_snapshot, wait::until_async};
use tokio::task::JoinSet;

/// What all keys together may take in bytes, and all configs as well.
const LIMIT: usize = 67_108_864;
const LARGEST_KEY: usize = 64 << 10;
const LARGEST_CONFIG: usize = 256 << 10;
/// Requests at the same time. More would wait for the disk longer than a request may.
const WRITERS: usize = 4;
const SOON: Duration = Duration::from_secs(60);

fn key(number: usize) -> String {
    format!("/api/v1/environments/default/keys/key-{number:04}")
}

fn config(number: usize) -> String {
    format!("/api/v1/environments/default/configs/config-{number}")
}

async fn write(cluster: &TestCluster, host: usize, path: String, size: usize) -> Result<(), Problem> {
    cluster.client_of(host).send(Method::PUT, &path, Bytes::from(vec![b'v'; size])).await.map(drop)
}

/// Writes `count` values of `size` bytes through all members.
async fn fill(cluster: &TestCluster, path: fn(usize) -> String, count: usize, size: usize) {
    let mut writers = JoinSet::new();
    for writer in 0..WRITERS {
        let client = cluster.client_of(writer % cluster.hosts.len());
        writers.spawn(async move {
            for number in (writer..count).step_by(WRITERS) {
                // No two values are the same: a config that is there already would not be written.
                let mut value = number.to_string().into_bytes();
                value.resize(size, b'v');
                let value = Bytes::from(value);
                client
                    .send(Method::PUT, &path(number), value)
                    .await
                    .map_err(|problem| format!("{number}: {problem}"))?;
            }
            Ok::<_, String>(())
        });
    }
    while let Some(written) = writers.join_next().await {
        written.expect("no writer panicked").expect("there is room");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_that_is_full_refuses_more_and_is_read_again_by_every_member() {
    let mut cluster = TestCluster::start(3).await;
    // The bytes of a key's name count as well, so that one key less has room.
    let (keys, configs) = (LIMIT / LARGEST_KEY - 1, LIMIT / LARGEST_CONFIG);
    fill(&cluster, key, keys, LARGEST_KEY).await;
    fill(&cluster, config, configs, LARGEST_CONFIG).await;
    refuses_more(&cluster, keys, configs).await;

    // Each member starts from a snapshot of all that, and of nothing else.
    for host in 0..3 {
        cluster.hosts[host].switch_off().await;
        let me = cluster.hosts[host].identity().member.expect("a coordinator");
        write_snapshot(cluster.hosts[host].folder(), me, |_| {});
    }
    let network = cluster.network.clone();
    for host in &mut cluster.hosts {
        host.switch_on(&network);
    }
    for host in 0..3 {
        until_async(SOON, &format!("h{host} reads the whole state"), async || {
            let found: List<KeyView> = cluster.client_of(host).get("/api/v1/environments/default/keys").await?;
            assert_eq!(found.items.len(), keys);
            let found: List<FileView> = cluster.client_of(host).get("/api/v1/environments/default/configs").await?;
            assert_eq!(found.items.len(), configs);
            Ok::<_, Problem>(())
        })
        .await;
    }
    refuses_more(&cluster, keys, configs).await;
    cluster.client().delete(&key(0)).await.expect("what is full can be emptied");
    write(&cluster, 1, key(keys), LARGEST_KEY).await.expect("there is room again");
}

async fn refuses_more(cluster: &TestCluster, keys: usize, configs: usize) {
    for (path, size) in [(key(keys), LARGEST_KEY), (config(configs), LARGEST_CONFIG)] {
        for host in 0..3 {
            let refused = write(cluster, host, path.clone(), size).await.expect_err("it is full");
            assert_eq!(refused.code, Code::TooLarge, "{refused}");
            assert!(refused.to_string().contains(&format!("the limit is {LIMIT}")), "{refused}");
        }
    }
}
