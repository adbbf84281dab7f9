//! A cluster in one process, and what happens when parts of it fail.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use agent::{files::Places, runtime::fake::Fake};
use anyhow::ensure;
use bytes::Bytes;
use common::{
    api::{ApiTokenCreated, ApiTokenView, ClusterView, CreateApiToken, JoinTokenCreated, KeyView, List, Settings},
    assignment::{AssignedInstance, Assignment},
    error::Code,
    id::{ClusterId, HostId, MemberId, ServiceId},
    instance::{Desired, Phase, Want},
    name::Name,
    role::Role,
    secret::Secret,
    spec::{ContainerSpec, ServiceSpec, UpdatePolicy},
    time::Span,
    token::{ApiToken, TokenId},
    wire::{Extension, Open, PeerIdentity, ToAgent, ToCoordinator},
};
use hyper::{Method, StatusCode};
use link::{Stream, Transport, clock::now, memory::Network};
use tests::{cluster::TestCluster, http::Endpoint, wait::until_async};
use tokio::sync::watch;

const SOON: Duration = Duration::from_secs(15);

fn web(replicas: u32) -> ServiceSpec {
    // Instances count after a moment, so that updates are quick.
    let update = UpdatePolicy { monitor: Span(100), ..UpdatePolicy::default() };
    ServiceSpec { replicas, update, ..ServiceSpec::of_image("web:1") }
}

fn key(name: &str) -> String {
    format!("/api/v1/environments/default/keys/{name}")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stack_is_deployed_scaled_updated_and_removed() {
    let cluster = TestCluster::start(3).await;
    cluster.deploy("shop", web(6)).await.expect("it is accepted");
    cluster.wait_for_running(6).await;
    assert_eq!(cluster.running(), [2, 2, 2]);

    cluster
        .deploy("shop", ServiceSpec { container: ContainerSpec::of_image("web:2"), ..web(4) })
        .await
        .expect("it is accepted");
    until_async(SOON, "four of the new revision run", async || {
        let instances = cluster.instances().await?;
        let right = instances.iter().filter(|i| i.image == "web:2" && i.observed.phase == Phase::Running).count();
        ensure!(right == 4 && instances.len() == 4, "{instances:?}");
        anyhow::Ok(())
    })
    .await;

    // Every coordinator knows of all hosts.
    let endpoint = Endpoint::wharf(cluster.context()).expect("a context");
    for server in 0..3 {
        let mut client = endpoint.connect(server).await.expect("it answers");
        let answered = client.send(Method::GET, "/api/v1/metrics", Bytes::new(), None, SOON).await;
        let (status, text) = answered.expect("it answers");
        let text = String::from_utf8_lossy(&text);
        assert!(status == StatusCode::OK && text.contains("wharf_hosts{state=\"ready\"} 3\n"), "{status} {text}");
    }

    cluster.client().delete("/api/v1/environments/default/stacks/shop").await.expect("it is removed");
    cluster.wait_for_running(0).await;
    until_async(SOON, "nothing is left of it", async || {
        let instances = cluster.instances().await?;
        ensure!(instances.is_empty(), "{instances:?}");
        anyhow::Ok(())
    })
    .await;
}

/// The agent's next message other than a heartbeat; `None` if this many heartbeats come first. Heartbeats are answered.
async fn said(stream: &mut Stream, beats: usize) -> Option<ToCoordinator> {
    let mut heard = 0;
    while heard < beats {
        match stream.incoming.receive().await.expect("it speaks").expect("it goes on") {
            ToCoordinator::Beat { sent } => {
                let extension = Extension { times: Settings::default().lease(), instances: vec![] };
                stream.outgoing.send(&ToAgent::BeatAck { sent, extension, at: now() }).await.expect("it listens");
                heard += 1;
            }
            other => return Some(other),
        }
    }
    None
}

#[tokio::test]
async fn an_agent_has_one_report_on_its_way() {
    tokio::time::timeout(2 * SOON, hear_an_agent()).await.expect("in time");
}

/// The other side is a leader that acknowledges late.
async fn hear_an_agent() {
    let (network, folder) = (Network::default(), tempfile::tempdir().expect("a folder"));
    let (cluster, host) = (ClusterId([1; 10]), HostId([2; 10]));
    let address = |last: u8| SocketAddr::from(([127, 0, 0, last], 7443));
    let leader = network.end(address(1), PeerIdentity { host: HostId([3; 10]), member: Some(MemberId(1)) });
    let transport = Arc::new(network.end(address(2), PeerIdentity { host, member: None }));
    let (runtime, coordinators) = (Arc::<Fake>::default(), watch::Sender::new(vec![address(1)]));
    let places = Places::new(folder.path(), folder.path());
    let (state, own) = (folder.path().to_owned(), Some(address(2).ip()));
    let known = coordinators.subscribe();
    let config = agent::Config {
        state,
        places,
        cluster,
        host,
        coordinators,
        session: Default::default(),
        address: own,
        keeps_network: false,
        binary: None,
    };
    let running = tokio::spawn(agent::run(config, transport, runtime.clone(), std::future::pending()));

    let connection = leader.accept().await.expect("it dials");
    let mut stream = connection.accept().await.expect("it opens a stream");
    assert!(matches!(stream.incoming.receive().await, Ok(Some(Open::Session(_)))));
    let welcome = ToAgent::Welcome { heartbeat: Span(20), coordinators: vec![address(1), address(3)] };
    stream.outgoing.send(&welcome).await.expect("it listens");
    let first = loop {
        if let Some(ToCoordinator::Report { number, .. }) = said(&mut stream, 100).await {
            break number;
        }
    };

    assert_eq!(*known.borrow(), [address(1), address(3)], "it will be written down");

    let mut assignment = Assignment::nothing(cluster, host);
    assignment.generation = 1;
    let id = "default/shop/web".parse::<ServiceId>().expect("a service").slot(1).instance(1);
    let spec = Arc::new(web(1));
    assignment.instances.push(AssignedInstance {
        id: id.clone(),
        desired: Desired { want: Want::Run, reason: None },
        image: spec.container.image.clone(),
        spec,
        ports: vec![],
        devices: vec![],
        restarts: 0,
        retries: 0,
        ended: None,
        credentials: vec![],
    });
    stream.outgoing.send(&ToAgent::Assignment(Box::new(assignment))).await.expect("it listens");
    // Its heartbeats are answered meanwhile: it would look for another leader.
    while !runtime.running().contains(&id) {
        let other = said(&mut stream, 1).await;
        assert!(
            !matches!(other, Some(ToCoordinator::Report { .. })),
            "before the first one is acknowledged: {other:?}"
        );
    }
    while let Some(other) = said(&mut stream, 5).await {
        assert!(!matches!(other, ToCoordinator::Report { .. }), "before the first one is acknowledged: {other:?}");
    }
    stream.outgoing.send(&ToAgent::ReportAck { number: first }).await.expect("it listens");
    let phase = loop {
        if let Some(ToCoordinator::Report { report, .. }) = said(&mut stream, 100).await {
            break report.instances.into_iter().map(|(_, observed)| observed.phase).collect::<Vec<_>>();
        }
    };
    assert_eq!(phase, [Phase::Running], "the next one tells how it is by now");
    running.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_is_repaired_and_what_cannot_run_says_why() {
    let cluster = TestCluster::start(2).await;
    cluster.deploy("shop", web(2)).await.expect("it is accepted");
    cluster.wait_for_running(2).await;
    let host = &cluster.hosts[0];
    let instance = host.runtime.running().into_iter().next().expect("one runs here");
    host.runtime.print(&instance, "ready\nFATAL no database\n");
    host.runtime.crash(&instance, 1);
    until_async(SOON, "it was started again", async || {
        let instances = cluster.instances().await?;
        let found = instances.iter().find(|view| view.id == instance).map(|view| view.observed.clone());
        ensure!(found.as_ref().is_some_and(|o| o.restart == 1 && o.phase == Phase::Running), "{found:?}");
        let printed = found.map(|o| o.output.lines().to_vec()).unwrap_or_default();
        ensure!(printed == ["ready", "FATAL no database"], "{printed:?}");
        anyhow::Ok(())
    })
    .await;

    cluster.hosts.iter().for_each(|host| host.runtime.lose_image("gone:1"));
    cluster.deploy("other", ServiceSpec::of_image("gone:1")).await.expect("it is accepted");
    until_async(SOON, "the stack says why it does not run", async || {
        let path = "/api/v1/environments/default/stacks/other";
        let view: common::api::StackView = cluster.client().get(path).await.map_err(|p| anyhow::anyhow!("{p}"))?;
        let reasons = view.services[0].blocked.join("\n");
        ensure!(reasons.contains("failed") && reasons.contains("gone:1: not found"), "{reasons}");
        anyhow::Ok(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_whose_docker_is_silent_is_named_and_gets_nothing_new() {
    let cluster = TestCluster::start(2).await;
    cluster.hosts[1].runtime.silence(true);
    let doctor = async || {
        let view: common::api::DoctorView = cluster.client().get("/api/v1/doctor").await.expect("it answers");
        view.findings.into_iter().map(|finding| finding.what).collect::<Vec<_>>()
    };
    until_async(SOON, "the doctor names it", async || {
        let found = doctor().await;
        ensure!(found.iter().any(|what| what.starts_with("Docker on h2 has not answered since ")), "{found:?}");
        anyhow::Ok(())
    })
    .await;
    cluster.deploy("shop", web(3)).await.expect("it is accepted");
    until_async(SOON, "all of it runs on the other host", async || {
        let count = cluster.hosts[0].runtime.count_running();
        ensure!(count == 3, "{count} run there");
        anyhow::Ok(())
    })
    .await;
    cluster.hosts[1].runtime.silence(false);
    until_async(SOON, "it is well again", async || {
        let found = doctor().await;
        ensure!(!found.iter().any(|what| what.contains("Docker")), "{found:?}");
        anyhow::Ok(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_is_cut_off_knows_it_and_comes_back_quietly() {
    let cluster = TestCluster::start(3).await;
    cluster.deploy("shop", web(3)).await.expect("it is accepted");
    cluster.wait_for_running(3).await;
    let old = cluster.leader(0).await.expect("somebody leads");
    let other = (old + 1) % 3;
    cluster.client_of(old).send(Method::PUT, &key("before"), Bytes::from("1")).await.expect("written");

    cluster.cut_off(old);
    until_async(SOON, "the others elect another", async || {
        let leader = cluster.leader(other).await?;
        ensure!(leader != old, "they still follow it");
        anyhow::Ok(())
    })
    .await;
    cluster.client_of(other).send(Method::PUT, &key("during"), Bytes::from("2")).await.expect("the majority writes");
    let refused = cluster.client_of(old).send(Method::PUT, &key("lost"), Bytes::from("3")).await.map(drop);
    let code = refused.expect_err("a minority writes nothing").code;
    assert!([Code::NoLeader, Code::ResultUnknown].contains(&code), "{code}");
    let read = cluster.client_of(old).get::<KeyView>(&key("before")).await.map(drop);
    assert_eq!(read.expect_err("nor does it read").code, Code::NoLeader);
    let stale: KeyView =
        cluster.client_of(old).get(&format!("{}?stale", key("before"))).await.expect("unless asked to");
    assert_eq!(stale.value, "1");
    assert_eq!(cluster.hosts[old].runtime.running().len(), 1, "what runs there goes on");

    // The host is away for longer than lost_after, so its instances are replaced elsewhere.
    cluster.wait_for_running(4).await;
    let leading = cluster.leader(other).await.expect("somebody leads");
    cluster.network.heal();
    cluster.wait_until_whole().await;
    cluster.wait_for_running(3).await;
    assert_eq!(cluster.leader(old).await.expect("somebody leads"), leading, "its return deposed nobody");
    let during: KeyView = cluster.client_of(old).get(&key("during")).await.expect("it has caught up");
    assert_eq!(during.value, "2");
}

#[tokio::test(flavor = "multi_thread")]
async fn agents_and_coordinators_start_anew_under_what_runs() {
    let mut cluster = TestCluster::start(3).await;
    cluster.deploy("shop", web(6)).await.expect("it is accepted");
    cluster.wait_for_running(6).await;
    let started: u64 = cluster.hosts.iter().map(|host| host.runtime.starts()).sum();
    for host in &mut cluster.hosts {
        host.switch_off().await;
    }
    let network = cluster.network.clone();
    for host in &mut cluster.hosts {
        host.switch_on(&network);
    }
    cluster.wait_until_whole().await;
    cluster.deploy("shop", web(7)).await.expect("it is accepted");
    cluster.wait_for_running(7).await;
    let now: u64 = cluster.hosts.iter().map(|host| host.runtime.starts()).sum();
    assert_eq!(now, started + 1, "only the new one was started");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_coordinator_that_starts_knows_its_tokens_before_it_hears_of_others() {
    let mut cluster = TestCluster::start(3).await;
    cluster.client().send(Method::PUT, &key("before"), Bytes::from("1")).await.expect("written");
    for host in &mut cluster.hosts {
        host.switch_off().await;
    }
    let network = cluster.network.clone();
    cluster.hosts[0].switch_on(&network);
    let stale = format!("{}?stale", key("before"));
    until_async(SOON, "it serves what it knew", async || {
        let read = cluster.client_of(0).get::<KeyView>(&stale).await;
        if let Err(problem) = &read {
            assert_ne!(problem.code, Code::Unauthenticated, "{problem}");
        }
        let read = read.map_err(|problem| anyhow::anyhow!("{problem}"))?;
        ensure!(read.value == "1", "{}", read.value);
        anyhow::Ok(())
    })
    .await;

    for host in &mut cluster.hosts[1..] {
        host.switch_on(&network);
    }
    cluster.wait_until_whole().await;
    let behind = (cluster.leader(0).await.expect("somebody leads") + 1) % 3;
    cluster.cut_off(behind);
    let asked = CreateApiToken { name: Name::parse("fresh").expect("a name"), role: Role::Viewer, environments: None };
    let majority = cluster.client_of((behind + 1) % 3);
    let created = majority.send_json::<_, ApiTokenCreated>(Method::POST, "/api/v1/api-tokens", &asked).await;
    let fresh = created.expect("the majority makes it").token;
    cluster.network.heal();
    let lagging = cluster.client_with(behind, &fresh);
    until_async(SOON, "a member that lags takes the token", async || {
        let listed = lagging.get::<ClusterView>("/api/v1/cluster").await.map(drop);
        if let Err(problem) = &listed {
            assert_ne!(problem.code, Code::Unauthenticated, "it asks before it says that a token is unknown");
        }
        listed.map_err(|problem| anyhow::anyhow!("{problem}"))
    })
    .await;
    let invented = ApiToken { id: TokenId([7; 5]), secret: Secret::new([7; 16]) }.reveal();
    let invented = cluster.client_with(behind, &invented);
    let refused = invented.get::<ClusterView>("/api/v1/cluster").await.map(drop);
    assert_eq!(refused.expect_err("nobody made it").code, Code::Unauthenticated);
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_requests_are_named_and_change_nothing() {
    let cluster = TestCluster::start(1).await;
    let stack = |name: &str| format!("/api/v1/environments/default/stacks/{name}");
    let spec = r#"{"spec":{"services":{"web":{"container":{"image":"web"}}}}}"#;
    let too_many = r#"{"spec":{"services":{"web":{"container":{"image":"web"},"replicas":1000000000}}}}"#;
    let unknown_field = r#"{"spec":{"services":{"web":{"container":{"image":"web"},"replica":2}}}}"#;
    let wrong_type = r#"{"spec":{"services":{"web":{"container": {"image": "web"}, "replicas":"two"}}}}"#;
    let negative = r#"{"spec":{"services":{"web":{"container": {"image": "web"}, "replicas":-1}}}}"#;
    let large = "x".repeat(2 << 20);
    let huge = "x".repeat(50 << 20);
    let deep = "[".repeat(100_000);
    let cases: [(&str, &str, &str, Code, &str); 12] = [
        ("shop", unknown_field, "PUT", Code::InvalidRequest, "replica"),
        ("shop", wrong_type, "PUT", Code::InvalidRequest, "replicas"),
        ("shop", negative, "PUT", Code::InvalidRequest, "replicas"),
        ("shop", too_many, "PUT", Code::InvalidRequest, "10000"),
        ("Shop", spec, "PUT", Code::InvalidRequest, "Shop"),
        ("a%2Fb", spec, "PUT", Code::InvalidRequest, "a/b"),
        ("shop", &large, "PUT", Code::TooLarge, "1 MiB"),
        ("shop", &huge, "PUT", Code::TooLarge, "1 MiB"),
        ("shop", &large, "PATCH", Code::Denied, "PATCH"),
        ("shop", &deep, "PUT", Code::InvalidRequest, "expected a map"),
        ("shop", "", "GET", Code::NotFound, "shop"),
        ("shop", "", "PATCH", Code::Denied, "PATCH"),
    ];
    for (name, body, method, code, words) in cases {
        let method = Method::from_bytes(method.as_bytes()).expect("a method");
        let sent = cluster.client().send(method, &stack(name), Bytes::from(body.to_owned())).await.map(drop);
        let problem = sent.expect_err("it is refused");
        let shown: String = body.chars().take(80).collect();
        assert_eq!(problem.code, code, "{shown}: {problem}");
        assert!(problem.to_string().contains(words), "{shown}: {words:?} is missing in {problem}");
    }
    assert!(cluster.instances().await.expect("it answers").is_empty());
    let list: common::api::List<common::api::StackView> =
        cluster.client().get("/api/v1/environments/default/stacks").await.expect("it answers");
    assert!(list.items.is_empty(), "nothing was deployed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_request_is_made_once_and_another_is_never_taken_for_it() {
    let cluster = TestCluster::start(2).await;
    let endpoint = Endpoint::wharf(cluster.context()).expect("a context");
    let mut clients = Vec::new();
    for server in 0..2 {
        clients.push(endpoint.connect(server).await.expect("it answers"));
    }
    let [first, second] = &mut clients[..] else { panic!("two coordinators") };
    let put = Method::PUT;
    let puts = [
        ("k1", "23", "one", StatusCode::OK),
        ("k12", "3", "two", StatusCode::OK),
        ("k1", "23", "one", StatusCode::OK),
        ("k1", "23", "three", StatusCode::CONFLICT),
    ];
    for (name, idempotency, value, expected) in puts {
        let sent = first.send(put.clone(), &key(name), Bytes::from(value), Some(idempotency), SOON).await;
        let (status, body) = sent.expect("it answers");
        let right = if expected.is_success() { status.is_success() } else { status == expected };
        assert!(right, "{name} {idempotency} {value}: {status} {}", String::from_utf8_lossy(&body));
    }
    for (name, expected) in [("k1", "one"), ("k12", "two")] {
        let read: KeyView = cluster.client().get(&key(name)).await.expect("it is there");
        assert_eq!(read.value, expected, "{name}");
    }

    until_async(SOON, "the second coordinator has the sealing key", async || {
        let keys = std::fs::read_dir(cluster.hosts[1].folder().join("keys"))?.count();
        ensure!(keys == 1, "{keys}");
        anyhow::Ok(())
    })
    .await;
    // A client that got no answer repeats the request at another coordinator: the token is the same, and it works.
    let asked = r#"{"name":"ci","role":"viewer"}"#;
    let (post, path) = (Method::POST, "/api/v1/api-tokens");
    let mut made = Vec::new();
    for client in [&mut *first, &mut *second] {
        let sent = client.send(post.clone(), path, Bytes::from(asked), Some("token"), SOON).await;
        let (status, body) = sent.expect("it answers");
        assert_eq!(status, StatusCode::CREATED, "{}", String::from_utf8_lossy(&body));
        made.push(serde_json::from_slice::<ApiTokenCreated>(&body).expect("a token"));
    }
    assert_eq!(made[0].token, made[1].token);
    let with = cluster.client_with(1, &made[1].token);
    with.get::<ClusterView>("/api/v1/cluster").await.expect("the repeated answer's token works");
    let tokens: List<ApiTokenView> = cluster.client().get(path).await.expect("it answers");
    assert_eq!(tokens.items.iter().filter(|token| token.name.as_str() == "ci").count(), 1, "one was made");
    cluster.client().delete(&format!("{path}/{}", made[0].view.id)).await.expect("it is removed");
    let sent = second.send(post, path, Bytes::from(asked), Some("token"), SOON).await;
    let (status, body) = sent.expect("it answers");
    let said = String::from_utf8_lossy(&body);
    assert!(status == StatusCode::CONFLICT && said.contains("removed since"), "{status} {said}");

    let asked = r#"{"role":"agent"}"#;
    let mut lines = Vec::new();
    for client in [first, second] {
        let sent = client.send(Method::POST, "/api/v1/join-tokens", Bytes::from(asked), Some("line"), SOON).await;
        let (status, body) = sent.expect("it answers");
        assert_eq!(status, StatusCode::CREATED, "{}", String::from_utf8_lossy(&body));
        lines.push(serde_json::from_slice::<JoinTokenCreated>(&body).expect("a token").token);
    }
    assert_eq!(lines[0], lines[1], "a line that was asked for twice is one");
}
