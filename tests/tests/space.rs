//! Coordinators whose disk is full: they refuse changes, answer reads, and go on by themselves. Their state lies on file
//! systems of its own in memory. Needs root, and a release build: the binary that it runs lies beside.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::ensure;
use bytes::Bytes;
use common::api::{KeyView, List};
use common::error::{Code, Problem};
use hyper::Method;
use tests::{
    processes::{Group, wharf},
    wait::until_async,
};

const SOON: Duration = Duration::from_secs(30);
const KEYS: &str = "/api/v1/environments/default/keys";
/// Room for the stores of three members with their reserves, and what is written.
const SIZE: &str = "768m";

/// A file system in memory, mounted while the value exists.
struct Disk(PathBuf);

impl Disk {
    fn at(path: PathBuf) -> Disk {
        std::fs::create_dir_all(&path).expect("a folder");
        let options = format!("size={SIZE}");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(&path).status();
        assert!(mounted.expect("it can be run").success());
        Disk(path)
    }

    fn path(&self) -> &Path {
        &self.0
    }

    fn filler(&self) -> PathBuf {
        self.0.join("filler")
    }

    /// Fills it to the last byte, also with what was given free since.
    fn fill(&self) {
        let file = std::fs::File::options().append(true).create(true).open(self.filler()).expect("it is made");
        let mut length = file.metadata().expect("it is there").len();
        for piece in [16 << 20, 1 << 20, 64 << 10, 4 << 10] {
            while rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), length, piece).is_ok() {
                length += piece;
            }
        }
        assert!(length > 64 << 20, "there was room: {length}");
    }

    fn free(&self) {
        std::fs::remove_file(self.filler()).expect("it was filled");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily: members that still run keep it until they have ended.
        Command::new("umount").arg("-l").arg(&self.0).status().ok();
    }
}

async fn put(group: &Group, member: usize, key: &str) -> Result<(), Problem> {
    group.client(member).send(Method::PUT, &format!("{KEYS}/{key}"), Bytes::from(vec![b'v'; 4096])).await.map(drop)
}

async fn count(group: &Group, member: usize) -> usize {
    let list: List<KeyView> = group.client(member).get(KEYS).await.expect("it reads");
    list.items.len()
}

async fn is_accepted(group: &Group, member: usize, key: &str) {
    until_async(SOON, "changes are accepted", async || {
        put(group, member, key).await.map_err(|p| anyhow::anyhow!("{p}"))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn coordinators_on_a_full_disk_refuse_changes_answer_reads_and_go_on_by_themselves() {
    let folder = tempfile::tempdir().expect("a folder");
    let disk = Disk::at(folder.path().join("disk"));
    let mut group = Group::of_three(disk.path(), &wharf()).await;
    for number in 0..30 {
        put(&group, number % 3, &format!("before-{number}")).await.expect("acknowledged");
    }
    let mut acknowledged = 30;
    until_async(SOON, "changes are refused", async || {
        // Each member gives its reserve free, and whoever fills disks takes that as well.
        disk.fill();
        acknowledged += 1;
        let Err(refused) = put(&group, 0, &format!("during-{acknowledged}")).await else { anyhow::bail!("accepted") };
        acknowledged -= 1;
        ensure!(refused.code == Code::StoreFailed, "{refused}");
        ensure!(refused.to_string().contains("df -h"), "it says what to do: {refused}");
        Ok(())
    })
    .await;
    for member in 0..3 {
        assert_eq!(count(&group, member).await, acknowledged, "reads go on");
        assert!(group.members[member].runs());
        let refused = put(&group, member, "refused").await.expect_err("there is no room");
        assert_eq!(refused.code, Code::StoreFailed, "{refused}");
    }
    // A member whose process ends on a full disk comes back.
    group.members[1].kill();
    let binary = group.binary.clone();
    group.members[1].start(&binary);
    group.answers(1).await;
    assert_eq!(count(&group, 1).await, acknowledged);

    disk.free();
    is_accepted(&group, 0, "after").await;
    for member in 0..3 {
        assert_eq!(count(&group, member).await, acknowledged + 1, "none was lost, and none was invented");
        assert!(group.members[member].runs());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_whose_disk_is_full_lets_another_lead() {
    let folder = tempfile::tempdir().expect("a folder");
    let disk = Disk::at(folder.path().join("h1"));
    let group = Group::of_three(folder.path(), &wharf()).await;
    until_async(SOON, "the first leads", async || {
        let view = group.view(0).await?;
        ensure!(view.leader == Some(group.members[0].id()), "{:?}", view.leader);
        Ok(())
    })
    .await;
    disk.fill();
    until_async(SOON, "another leads", async || {
        let view = group.view(1).await?;
        ensure!(view.leader.is_some_and(|leader| leader != group.members[0].id()), "{:?}", view.leader);
        Ok(())
    })
    .await;
    for member in 0..3 {
        is_accepted(&group, member, &format!("by-{member}")).await;
    }
    assert_eq!(count(&group, 0).await, 3);
    disk.free();
    group.is_whole().await;
}
