//! What a host may claim of itself, tried against coordinators by agents that lie, and by copies of a whole disk.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context as _, ensure};
use common::{
    api::{AcceptHost, DoctorView, Event, HostView, List},
    error::{Code, Problem},
    host::HostFacts,
    id::BootId,
    network::WireguardKey,
    quantity::MilliCpu,
    wire::{Hello, Open, ToAgent, ToCoordinator},
};
use link::{Connection, Stream, Transport as _};
use tests::{cluster::TestCluster, wait::until_async};

const SOON: Duration = Duration::from_secs(20);

/// An agent of ours, with the key of a host of the cluster.
struct Agent {
    _connection: Connection,
    stream: Stream,
}

/// The leader's first answer to a session.
#[derive(Debug)]
enum Answer {
    Welcome,
    Refused(Problem),
}

impl Agent {
    /// Opens a session for a host, from an address, and waits for the leader's answer.
    async fn speak(cluster: &TestCluster, host: usize, from: &str, hello: &Hello) -> anyhow::Result<(Agent, Answer)> {
        let leader = cluster.leader(0).await?;
        let from: SocketAddr = from.parse()?;
        let end = cluster.network.end(from, cluster.hosts[host].identity());
        let connection = end.dial(cluster.hosts[leader].address).await?;
        let mut stream = connection.open().await?;
        stream.outgoing.send(&Open::Session(hello.clone())).await?;
        let answer = match stream.incoming.receive::<ToAgent>().await?.context("an answer")? {
            ToAgent::Welcome { .. } => Answer::Welcome,
            ToAgent::Refused(problem) => Answer::Refused(problem),
            other => anyhow::bail!("{other:?}"),
        };
        Ok((Agent { _connection: connection, stream }, answer))
    }
}

async fn view(cluster: &TestCluster, name: &str) -> HostView {
    let view = cluster.client().get(&format!("/api/v1/hosts/{name}")).await;
    view.unwrap_or_else(|problem| panic!("{problem}"))
}

async fn facts(cluster: &TestCluster, name: &str) -> HostFacts {
    view(cluster, name).await.facts.expect("it has reported")
}

async fn hello(cluster: &TestCluster, host: usize, facts: HostFacts) -> Hello {
    let machine = agent::facts::machine_hash(cluster.context().cluster);
    Hello { host: cluster.hosts[host].identity().host, facts, generation: 0, machine }
}

async fn events(cluster: &TestCluster, reason: &str) -> anyhow::Result<usize> {
    let events: List<Event> =
        cluster.client().get("/api/v1/events").await.map_err(|problem| anyhow::anyhow!("{problem}"))?;
    Ok(events.items.iter().filter(|event| event.reason == reason).count())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_of_a_whole_disk_gets_no_session_while_the_first_lives() {
    let mut cluster = TestCluster::start(3).await;
    let copied = 2;
    let copy = HostFacts { boot: BootId([9; 10]), ..facts(&cluster, "h3").await };
    let hello = hello(&cluster, copied, copy.clone()).await;
    for _ in 0..3 {
        let (_, answer) = Agent::speak(&cluster, copied, "127.0.0.9:1", &hello).await.expect("it is answered");
        let Answer::Refused(problem) = answer else { panic!("the copy has a session") };
        assert_eq!(problem.code, Code::Cloned, "{problem}");
        assert_ne!(facts(&cluster, "h3").await.boot, copy.boot, "the first one keeps its place");
    }
    assert_eq!(events(&cluster, "clone-refused").await.expect("they are listed"), 1, "it is noted once");
    assert_eq!(view(&cluster, "h3").await.liveness.word(), "ready");

    // The order holds under another leader, which has heard neither.
    let leader = cluster.leader(0).await.expect("one leads");
    if leader != copied {
        cluster.hosts[leader].switch_off().await;
        let other = (0..3).find(|host| *host != leader && *host != copied).expect("three less two");
        until_async(SOON, "another one leads", async || {
            let leads = cluster.leader(other).await?;
            ensure!(leads != leader, "it is the old one still");
            Ok(())
        })
        .await;
        let first = cluster.leader(other).await.expect("one leads");
        let end = cluster.network.end("127.0.0.9:1".parse().expect("an address"), cluster.hosts[copied].identity());
        let connection = end.dial(cluster.hosts[first].address).await.expect("it is reached");
        let mut stream = connection.open().await.expect("a stream");
        stream.outgoing.send(&Open::Session(hello.clone())).await.expect("it is sent");
        let answer = stream.incoming.receive::<ToAgent>().await.expect("it is answered");
        assert!(
            matches!(&answer, Some(ToAgent::Refused(problem)) if problem.code == Code::Cloned),
            "the first comes back, and keeps its place: {answer:?}"
        );
        let network = cluster.network.clone();
        cluster.hosts[leader].switch_on(&network);
        cluster.wait_until_whole().await;
    }

    // A machine that begins again is let in: at once after a farewell, and as soon as its earlier self is silent.
    cluster.hosts[copied].switch_off().await;
    let (mut again, answer) = Agent::speak(&cluster, copied, "127.0.0.9:1", &hello).await.expect("it is answered");
    assert!(matches!(answer, Answer::Welcome), "{answer:?}");
    again.stream.outgoing.send(&ToCoordinator::Beat { sent: 1 }).await.expect("it is sent");
    drop(again);
    let third = Hello { facts: HostFacts { boot: BootId([8; 10]), ..copy }, ..hello };
    let (_again, answer) = Agent::speak(&cluster, copied, "127.0.0.9:1", &third).await.expect("it is answered");
    assert!(matches!(answer, Answer::Welcome), "a power cut, and it is back: {answer:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_lies_reaches_no_further_than_itself() {
    let mut cluster = TestCluster::start(5).await;
    // Their coordinators go with their agents, and three of five decide.
    let (honest, liar) = (3, 4);
    let key = Some(WireguardKey([7; 32]));
    for host in [honest, liar] {
        cluster.hosts[host].switch_off().await;
    }
    let own = HostFacts { wireguard: key, address: [10, 9, 9, 2].into(), ..facts(&cluster, "h4").await };
    let (_honest, answer) = {
        let hello = hello(&cluster, honest, own.clone()).await;
        Agent::speak(&cluster, honest, "10.9.9.2:1", &hello).await.expect("it is answered")
    };
    assert!(matches!(answer, Answer::Welcome), "{answer:?}");

    let truth = HostFacts { address: [10, 9, 9, 3].into(), ..facts(&cluster, "h5").await };
    for (lie, why) in [
        (HostFacts { wireguard: key, ..truth.clone() }, "its WireGuard key is that of h4"),
        (HostFacts { address: own.address, ..truth.clone() }, "is the address of h4"),
        (HostFacts { address: [10, 42, 0, 9].into(), ..truth.clone() }, "range of containers"),
        (HostFacts { address: [224, 0, 0, 1].into(), ..truth.clone() }, "not the address of a host"),
    ] {
        let hello = hello(&cluster, liar, lie).await;
        let (_, answer) = Agent::speak(&cluster, liar, "10.9.9.3:1", &hello).await.expect("it is answered");
        let Answer::Refused(problem) = answer else { panic!("it is believed: {why}") };
        assert_eq!(problem.code, Code::ClaimRefused);
        assert!(problem.to_string().contains(why), "{problem}");
        let doctor: DoctorView = cluster.client().get("/api/v1/doctor").await.expect("it is answered");
        assert!(doctor.findings.iter().any(|finding| finding.why.iter().any(|told| told.contains(why))), "{why}");
    }

    // It says that it is larger: that waits for a person, who accepts what they have seen.
    let larger = HostFacts { cpu: MilliCpu(truth.cpu.0 * 10), arch: "riscv64".into(), ..truth.clone() };
    let hello = hello(&cluster, liar, larger.clone()).await;
    let (_liar, answer) = Agent::speak(&cluster, liar, "10.9.9.3:1", &hello).await.expect("it is answered");
    assert!(matches!(answer, Answer::Welcome), "{answer:?}");
    let seen = view(&cluster, "h5").await;
    let counted = seen.facts.clone().expect("it has reported");
    assert_eq!((counted.cpu, &counted.arch, counted.address), (truth.cpu, &truth.arch, truth.address));
    assert_eq!(seen.claims.len(), 2, "{:?}", seen.claims);
    let accept = |claims: Vec<String>| {
        let (client, body) = (cluster.client(), AcceptHost { claims });
        async move { client.put("/api/v1/hosts/h5/claims", &body).await }
    };
    let other = accept(vec!["cores: 2 instead of 1".into()]).await.expect_err("it claims something else");
    assert_eq!(other.code, Code::Conflict);
    accept(seen.claims).await.expect("it is accepted");
    let seen = view(&cluster, "h5").await;
    assert_eq!((seen.facts.expect("it has reported").cpu, seen.claims), (larger.cpu, Vec::new()));
}
