//! Coordinators of this version beside those of the version before, through an upgrade and a way back: processes of
//! both binaries form one group, write and read through each other, and the feature level rises only when the last one
//! is upgraded. `scripts/neighbour` builds the older binary and runs this.

use std::{path::PathBuf, time::Duration};

use anyhow::ensure;
use bytes::Bytes;
use common::{
    api::{ApiTokenCreated, ClusterView, CreateApiToken},
    error::{Code, Problem},
    name::Name,
    role::Role,
};
use hyper::Method;
use tests::{processes::Group, store::write_snapshot, wait::until_async};

const SOON: Duration = Duration::from_secs(30);

fn name(text: &str) -> Name {
    Name::parse(text).expect("a name")
}

/// A binary of wharf, by the variable that names it.
fn binary(variable: &str) -> PathBuf {
    PathBuf::from(std::env::var_os(variable).unwrap_or_else(|| panic!("{variable} names a binary: scripts/neighbour")))
}

/// Asks for a command that feature level 2 does not have, and that fits in no cluster whose clocks are right.
async fn refusal(group: &Group, member: usize) -> Problem {
    let asked = group.client(member).send(Method::POST, "/api/v1/clock/repair", Bytes::new()).await;
    asked.expect_err("the time of the cluster is right")
}

async fn level(group: &Group) -> u16 {
    group.view(0).await.expect("it answers").level
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_is_upgraded_one_member_after_the_other() {
    let (old, new) = (binary("WHARF_OLD"), binary("WHARF_NEW"));
    let folder = tempfile::tempdir().expect("a folder");
    let mut group = Group::of_three(folder.path(), &old).await;
    group.writes_and_reads("old").await;
    let before = level(&group).await;

    for upgraded in [0, 1] {
        group.members[upgraded].replace_by(&new);
        group.is_whole().await;
        group.writes_and_reads(&format!("upgraded-{upgraded}")).await;
        assert_eq!(level(&group).await, before, "one member does not understand more");
        let refused = refusal(&group, 0).await;
        assert_eq!(refused.code, Code::TooOld, "{refused}");
        assert!(refused.to_string().contains(&format!("the cluster has {before}")), "{refused}");
    }
    let asked = CreateApiToken { name: name("reader"), role: Role::Viewer, environments: None };
    let made = group.client(1).send_json::<_, ApiTokenCreated>(Method::POST, "/api/v1/api-tokens", &asked).await;
    let reader = made.expect("what both versions have is made");
    group
        .client_with(2, &reader.token)
        .get::<ClusterView>("/api/v1/cluster")
        .await
        .expect("the old member knows the token");

    // The old one leads, then one of the new ones, and each time the others follow.
    for stopped in [1, 2] {
        group.members[stopped].replace_by(if stopped == 2 { &old } else { &new });
        group.is_whole().await;
        group.writes_and_reads(&format!("restarted-{stopped}")).await;
    }

    // The way back: what a new binary has stored is read by the old one.
    group.members[1].stop();
    let (state, id) = (group.members[1].state(), group.members[1].id());
    write_snapshot(&state, id, |_| ());
    group.members[1].start(&old);
    group.is_whole().await;
    group.writes_and_reads("back").await;

    for upgraded in [1, 2] {
        group.members[upgraded].replace_by(&new);
        group.is_whole().await;
    }
    until_async(SOON, "the level rises", async || {
        ensure!(level(&group).await > before);
        Ok(())
    })
    .await;
    let refused = refusal(&group, 2).await;
    assert_eq!(refused.code, Code::Conflict, "now all members have it: {refused}");
    group.writes_and_reads("new").await;

    group.members[1].replace_by(&old);
    let status = group.members[1].ends();
    assert!(!status.success(), "{status}");
    let log = group.members[1].log();
    assert!(log.contains("is too old") || log.contains("newer version"), "{log}");
    let written = group.client(0).send(Method::PUT, "/api/v1/environments/default/keys/last", Bytes::new()).await;
    written.expect("the others go on");
}
