//! Members whose states part, or that get what a newer version has written, stop by themselves and harm no other.

use std::{sync::Arc, time::Duration};

use anyhow::ensure;
use bytes::Bytes;
use common::{api::ClusterView, codec, error::Code, id::MemberId, wire::Open};
use coordinator::{
    Ended,
    raft::{Entry, MemberAnswer, MemberCall},
};
use coordinator_core::{Batch, Command, Proposal};
use hyper::Method;
use link::call::Caller;
use openraft::{EntryPayload, raft::AppendEntriesRequest};
use tests::{cluster::TestCluster, store::write_snapshot, wait::until_async};

const SOON: Duration = Duration::from_secs(20);
/// States are compared once a minute, and asked for until ten seconds later.
const COMPARED: Duration = Duration::from_secs(100);

async fn write(cluster: &TestCluster, host: usize, key: &str) -> anyhow::Result<()> {
    let path = format!("/api/v1/environments/default/keys/{key}");
    let written = cluster.client_of(host).send(Method::PUT, &path, Bytes::from_static(b"v")).await;
    written.map(drop).map_err(|problem| anyhow::anyhow!("{problem}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_whose_state_differs_stops_and_the_others_go_on() {
    let mut cluster = TestCluster::start(3).await;
    let leader = cluster.leader(0).await.expect("somebody leads");
    let (wrong, right) = ((leader + 1) % 3, (leader + 2) % 3);
    cluster.hosts[wrong].switch_off().await;
    let me = cluster.hosts[wrong].identity().member.expect("a coordinator");
    write_snapshot(cluster.hosts[wrong].folder(), me, |state| {
        let (environment, value) = ("default".parse().expect("a name"), [1].into());
        let nobodys = Command::PutKey { environment, key: "nobody-wrote-it".into(), value };
        state.apply(&Batch { at: state.clock(), proposals: vec![nobodys.into()] });
    });
    let network = cluster.network.clone();
    cluster.hosts[wrong].switch_on(&network);
    cluster.wait_until_whole().await;

    let writing = async {
        for number in 0.. {
            write(&cluster, leader, &format!("k{number}")).await.expect("the leader goes on");
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    };
    let ended = tokio::select! {
        ended = cluster.hosts[wrong].coordinator_ends(COMPARED) => ended,
        () = writing => unreachable!("it writes until the other ends"),
    };
    let Some(Ended::Unfit(problem)) = ended else { panic!("{ended:?}") };
    assert_eq!(problem.code, Code::StateDiffers, "{problem}");
    assert!(problem.to_string().contains(&format!("The state of coordinator {me} differs")), "{problem}");
    for host in [leader, right] {
        assert_eq!(cluster.hosts[host].coordinator_ends(Duration::ZERO).await, None, "h{host} goes on");
        write(&cluster, host, "last").await.expect("the others have a majority");
    }
}

/// A call that brings one entry; its command is one that only a later version knows.
fn append_of_the_future(from: MemberId) -> Vec<u8> {
    let log_id = openraft::LogId::new(openraft::CommittedLeaderId::new(99, from.0), 1_000_000);
    let proposal: Proposal = Command::RaiseLevel(4711).into();
    let batch = Batch { at: Default::default(), proposals: vec![proposal] };
    let entry = Entry { log_id, payload: EntryPayload::Normal(Arc::new(batch)) };
    let vote = openraft::Vote::new_committed(99, from.0);
    let request = AppendEntriesRequest { vote, prev_log_id: None, entries: vec![entry], leader_commit: None };
    let mut bytes = codec::encode(&MemberCall::Append(request)).expect("it is encoded");
    let known = codec::encode(&Command::RaiseLevel(4711)).expect("it is encoded");
    let at = bytes.windows(known.len()).position(|window| window == known).expect("the command is in it");
    bytes[at] = 250;
    bytes
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_that_only_a_newer_version_knows_stops_the_member_that_gets_it_and_no_other() {
    let mut cluster = TestCluster::start(3).await;
    let leader = cluster.leader(0).await.expect("somebody leads");
    let (sender, old) = ((leader + 1) % 3, (leader + 2) % 3);
    let (address, identity) = (cluster.hosts[sender].address, cluster.hosts[sender].identity());
    let me = identity.member.expect("a coordinator");
    cluster.hosts[sender].switch_off().await;
    let end = Arc::new(cluster.network.end(address, identity));
    let caller = Caller::new(end.clone(), cluster.hosts[old].address);

    // A question of a newer version goes unanswered, and ends nothing.
    let unknown = caller.ask::<MemberAnswer>(&Open::Member(vec![250]), SOON).await;
    assert!(unknown.is_err(), "{unknown:?}");
    assert_eq!(cluster.hosts[old].coordinator_ends(Duration::from_millis(500)).await, None, "it goes on");

    let answer = caller.ask::<MemberAnswer>(&Open::Member(append_of_the_future(me)), SOON).await;
    assert!(answer.is_err(), "{answer:?}");
    let ended = cluster.hosts[old].coordinator_ends(SOON).await;
    let Some(Ended::Unfit(problem)) = ended else { panic!("{ended:?}") };
    assert_eq!(problem.code, Code::TooOld, "{problem}");
    assert!(problem.to_string().contains("Command has no variant with the tag 250"), "{problem}");

    drop(end);
    let network = cluster.network.clone();
    cluster.hosts[sender].switch_on(&network);
    until_async(SOON, "the other two go on", async || {
        write(&cluster, leader, "after").await?;
        let view: ClusterView =
            cluster.client_of(sender).get("/api/v1/cluster").await.map_err(|problem| anyhow::anyhow!("{problem}"))?;
        ensure!(view.quorum);
        Ok(())
    })
    .await;
}
