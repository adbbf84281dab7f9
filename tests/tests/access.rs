//! Removed hosts and revoked tokens have no rights left: neither through a certificate that is still valid, nor through
//! a stream that was opened before.

use std::{sync::Arc, time::Duration};

use anyhow::ensure;
use bytes::Bytes;
use common::{
    api::{ApiTokenCreated, ApiTokenView, ClusterView, CreateApiToken, List, PutStack, StackPlan},
    codec,
    error::{Code, Problem},
    id::{HostId, MemberId},
    name::Name,
    part::Part,
    role::Role,
    spec::{ContainerSpec, ServiceSpec, StackSpec},
    token::{SecretHash, TokenId},
    wire::{Files, LogRequest, Open, PeerIdentity, Renewed},
};
use coordinator::raft::{MemberAnswer, MemberCall};
use coordinator_core::{
    Command, Outcome, Proposal,
    access::Refusal,
    command::{Access, Person},
    view::Found,
};
use http_body_util::BodyExt;
use hyper::{Method, Response, body::Incoming};
use link::{LinkError, call::Caller};
use openraft::{Vote, raft::VoteRequest};
use tests::{cluster::TestCluster, wait::until_async};

const SOON: Duration = Duration::from_secs(20);
const TOKENS: &str = "/api/v1/api-tokens";
/// The token that a malicious coordinator would create for itself.
const OWN: TokenId = TokenId([9; 5]);

fn name(text: &str) -> Name {
    Name::parse(text).expect("a name")
}

async fn new_token(cluster: &TestCluster, role: Role) -> ApiTokenCreated {
    new_token_in(cluster, role, None).await
}

/// A token for one environment, or for the whole cluster.
async fn new_token_in(cluster: &TestCluster, role: Role, environment: Option<&str>) -> ApiTokenCreated {
    let environments = environment.map(|environment| [name(environment)].into());
    let asked = CreateApiToken { name: name("ci"), role, environments };
    cluster.client().send_json(Method::POST, TOKENS, &asked).await.expect("it is made")
}

async fn call(caller: &Caller, call: &MemberCall) -> MemberAnswer {
    let open = Open::Member(codec::encode(call).expect("encodes"));
    caller.ask(&open, SOON).await.expect("it answers")
}

fn person_of(token: &ApiTokenView) -> Person {
    Person { token: token.id, name: token.name.clone(), from: None }
}

fn make_token(by: Option<Person>) -> MemberCall {
    let secret = SecretHash([9; 32]);
    let command = Command::PutApiToken { id: OWN, name: name("own"), access: Access::Admin, secret };
    MemberCall::Propose(vec![Proposal { request: None, by, command }])
}

fn stand(member: MemberId) -> MemberCall {
    MemberCall::Vote(VoteRequest::new(Vote::new(99, member.0), None))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_coordinator_that_was_removed_has_no_power_left() {
    let mut cluster = TestCluster::start(3).await;
    let (kept, revoked) = (new_token(&cluster, Role::Admin).await, new_token(&cluster, Role::Admin).await);
    cluster.client().delete(&format!("{TOKENS}/{}", revoked.view.id)).await.expect("it is revoked");
    let person = |token: &ApiTokenCreated| Some(person_of(&token.view));

    // An attacker has the key of a coordinator that does not lead, and acts in its place.
    let leader = cluster.leader(0).await.expect("somebody leads");
    let stolen = (leader + 1) % 3;
    let (address, identity) = (cluster.hosts[stolen].address, cluster.hosts[stolen].identity());
    let me = identity.member.expect("a coordinator");
    cluster.hosts[stolen].switch_off().await;
    let end = Arc::new(cluster.network.end(address, identity));
    let caller = Caller::new(end.clone(), cluster.hosts[leader].address);
    let other = MemberId(if me.0 == 1 { 2 } else { 1 });
    for (what, asked) in [("in nobody's name", make_token(None)), ("in another's name", stand(other))] {
        let answer = call(&caller, &asked).await;
        assert!(matches!(answer, MemberAnswer::Refused(Refusal::NotAllowed)), "{what}: {answer:?}");
    }
    let answer = call(&caller, &make_token(person(&revoked))).await;
    let MemberAnswer::Proposed(Ok(outcomes)) = answer else { panic!("{answer:?}") };
    assert!(
        matches!(&outcomes[..], [Outcome::Rejected(problem)] if problem.code == Code::Unauthenticated),
        "the leader looks at the token again: {outcomes:?}"
    );
    caller.ask::<Found>(&Open::Findings, SOON).await.expect("so far it is a coordinator");

    let connection = caller.connection().await.expect("it is connected");
    let asked = cluster.client_of(leader);
    asked.delete(&format!("/api/v1/members/{me}")).await.expect("it is removed");
    until_async(SOON, "the group goes on without it", async || {
        let view: ClusterView = asked.get("/api/v1/cluster").await.map_err(|problem| anyhow::anyhow!("{problem}"))?;
        ensure!(view.members.iter().all(|member| member.id != me), "{:?}", view.members);
        anyhow::Ok(())
    })
    .await;
    until_async(SOON, "its connection is closed", async || {
        ensure!(connection.is_closed());
        anyhow::Ok(())
    })
    .await;
    let calls = [
        make_token(None),
        make_token(person(&revoked)),
        make_token(person(&kept)),
        stand(me),
        MemberCall::PreVote { last_log: None },
        MemberCall::ReadIndex,
        MemberCall::Group,
    ];
    for asked in calls {
        let answer = call(&caller, &asked).await;
        assert!(matches!(answer, MemberAnswer::Refused(Refusal::Removed)), "{asked:?}: {answer:?}");
    }
    let part = "default/shop/web/1.1".parse::<common::id::InstanceId>().expect("an id").part(Part::Main);
    let logs = LogRequest { part, tail: None, follow: false, after: None };
    for open in [Open::Findings, Open::SealingKey, Open::Logs(logs)] {
        caller.ask::<Vec<u8>>(&open, SOON).await.expect_err("nothing is told");
    }
    let tokens: List<ApiTokenView> = asked.get(TOKENS).await.expect("it answers");
    assert!(tokens.items.iter().all(|token| token.id != OWN), "{:?}", tokens.items);
    assert_eq!(cluster.leader(leader).await.expect("somebody leads"), leader, "it deposed nobody");

    // A well-behaved coordinator that was removed learns it and stops answering; its host stays.
    drop(end);
    let network = cluster.network.clone();
    cluster.hosts[stolen].switch_on(&network);
    until_async(SOON, "it answers no more", async || {
        let answered = cluster.client_of(stolen).get::<ClusterView>("/api/v1/cluster").await.map(drop);
        ensure!(answered.as_ref().err().map(|problem| problem.code) == Some(Code::Unreachable), "{answered:?}");
        anyhow::Ok(())
    })
    .await;
    until_async(SOON, "its host is ready", async || {
        let hosts: List<common::api::HostView> =
            cluster.client_of(leader).get("/api/v1/hosts").await.map_err(|problem| anyhow::anyhow!("{problem}"))?;
        ensure!(hosts.items.iter().all(|host| host.liveness.word() == "ready"), "{:?}", hosts.items);
        anyhow::Ok(())
    })
    .await;
}

/// Everything that arrives until an answer ends.
async fn until_it_ends(response: Response<Incoming>) -> String {
    let mut body = response.into_body();
    let mut text = String::new();
    while let Some(Ok(frame)) = body.frame().await {
        text.push_str(&String::from_utf8_lossy(frame.data_ref().map_or(&[], |data| data.as_ref())));
    }
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_followed_ends_with_the_token() {
    let cluster = TestCluster::start(1).await;
    let service = ServiceSpec { container: ContainerSpec::of_image("web:1"), ..ServiceSpec::of_image("web:1") };
    cluster.deploy("shop", service).await.expect("it is accepted");
    cluster.wait_for_running(1).await;
    let (token, other) = (new_token(&cluster, Role::Viewer).await, new_token(&cluster, Role::Viewer).await);
    let client = cluster.client_with(0, &token.token);
    let mut reading = Vec::new();
    let logs = "/api/v1/environments/default/stacks/shop/services/web/instances/1.1/logs?follow=true";
    for path in ["/api/v1/watch", logs] {
        let response = client.send(Method::GET, path, Bytes::new()).await.expect("it answers");
        reading.push((path, tokio::spawn(until_it_ends(response))));
    }
    let beside = cluster.client_with(0, &other.token).send(Method::GET, logs, Bytes::new()).await.expect("it answers");
    let mut beside = tokio::spawn(until_it_ends(beside));
    cluster.client().delete(&format!("{TOKENS}/{}", token.view.id)).await.expect("it is revoked");
    for (path, text) in reading {
        let text = tokio::time::timeout(Duration::from_secs(5), text).await;
        let text = text.unwrap_or_else(|_| panic!("{path} goes on")).expect("no panic");
        assert!(text.contains("the token ci was revoked"), "{path}: {text}");
    }
    let refused = client.get::<ClusterView>("/api/v1/cluster").await.map(drop);
    assert!(matches!(refused, Err(Problem { code: Code::Unauthenticated, .. })), "{refused:?}");
    let goes_on = tokio::time::timeout(Duration::from_millis(300), &mut beside).await;
    assert!(goes_on.is_err(), "another token's answer goes on");
    beside.abort();
}

/// The rows of the table in `docs/access.md`: method, path, and what each role may.
fn documented() -> Vec<(Method, String, Vec<String>)> {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/access.md")).expect("it is there");
    let rows = text.lines().filter_map(|line| {
        let mut cells = line.strip_prefix("| `")?.strip_suffix('|')?.split('|');
        let (method, path) = cells.next()?.trim().trim_end_matches('`').split_once(' ')?;
        Some((method.parse().expect("a method"), path.to_owned(), cells.map(|cell| cell.trim().to_owned()).collect()))
    });
    rows.collect()
}

/// A path of a route with something in every place: an environment that is there, and nothing else that is.
fn filled(path: &str, environment: &str) -> String {
    let values = [
        ("{environment}", environment),
        ("{stack}", "none"),
        ("{service}", "none"),
        ("{instance}", "1.1"),
        ("{revision}", "1"),
        ("{name}", "none"),
        ("{*key}", "none"),
        ("{host}", "none"),
        ("{member}", "99"),
        ("{registry}", "none.example"),
        ("{token}", "0000-0000"),
        ("{hash}", "0000"),
    ];
    let path = values.into_iter().fold(path.to_owned(), |path, (place, value)| path.replace(place, value));
    assert!(!path.contains('{'), "{path}");
    path
}

/// Whether the gate lets a request through; what its handler makes of an empty body does not matter.
async fn is_let_through(client: &cli::client::Client, method: &Method, path: &str) -> bool {
    match client.send(method.clone(), path, Bytes::from_static(b"{}")).await {
        Ok(_) => true,
        Err(problem) => {
            assert_ne!(problem.code, Code::Unreachable, "{method} {path}: {problem}");
            !matches!(problem.code, Code::Denied | Code::Unauthenticated)
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_route_lets_through_whom_the_documented_table_says() {
    let cluster = TestCluster::start(1).await;
    for environment in ["staging", "production"] {
        let made = format!("/api/v1/environments/{environment}");
        cluster.client().send(Method::PUT, &made, Bytes::new()).await.expect("it is made");
        // What holds something is not removed.
        let key = format!("{made}/keys/kept");
        cluster.client().send(Method::PUT, &key, Bytes::from_static(b"v")).await.expect("it is written");
    }
    let nobody = cluster.client_with(0, &new_token(&cluster, Role::Admin).await.token.replace("wat1_", "wat1_0"));
    let rows = documented();
    assert!(rows.len() > 45, "{}", rows.len());
    for (column, role) in Role::ALL.into_iter().enumerate() {
        let everywhere = cluster.client_with(0, &new_token(&cluster, role).await.token);
        let staging = cluster.client_with(0, &new_token_in(&cluster, role, Some("staging")).await.token);
        for (method, path, cells) in &rows {
            let cell = cells[column].as_str();
            let own = filled(path, "staging");
            let other = filled(path, "production");
            let has_other = own != other;
            assert_eq!(is_let_through(&everywhere, method, &own).await, !cell.is_empty(), "{role} {method} {own}");
            let expected = ["environment", "covered", "no token"].contains(&cell);
            assert_eq!(is_let_through(&staging, method, &own).await, expected, "{role} in staging {method} {own}");
            if has_other {
                assert!(!is_let_through(&staging, method, &other).await, "{role} in staging {method} {other}");
                let hidden = other.replace("production", "%70roduction");
                assert!(!is_let_through(&staging, method, &hidden).await, "{role} in staging {method} {hidden}");
            }
            assert_eq!(is_let_through(&nobody, method, &own).await, cell == "no token", "nobody {method} {own}");
        }
    }
    let unknown = is_let_through(&cluster.client(), &Method::PATCH, "/api/v1/hosts").await;
    assert!(!unknown, "a method without a route is denied to everybody");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_of_an_environment_sees_and_deploys_there_alone() {
    let cluster = TestCluster::start(1).await;
    cluster.client().send(Method::PUT, "/api/v1/environments/staging", Bytes::new()).await.expect("it is made");
    cluster.deploy("shop", ServiceSpec::of_image("web:1")).await.expect("it is accepted");
    let client = cluster.client_with(0, &new_token_in(&cluster, Role::Deployer, Some("staging")).await.token);

    let environments: List<common::api::EnvironmentView> = client.get("/api/v1/environments").await.expect("it reads");
    assert_eq!(environments.items.iter().map(|view| view.name.as_str()).collect::<Vec<_>>(), ["staging"]);
    let put = |change: fn(&mut ServiceSpec), dry_run| {
        let mut service = ServiceSpec::of_image("web:1");
        change(&mut service);
        let spec = StackSpec { services: [(name("web"), service)].into(), ..StackSpec::default() };
        PutStack { spec, files: Vec::new(), expect_revision: None, dry_run, what: None, goes_back: false }
    };
    let stack = "/api/v1/environments/staging/stacks/shop";
    for dry_run in [true, false] {
        let bad = put(|web| web.container.isolation.privileged = true, dry_run);
        let refused = client.send_json::<_, StackPlan>(Method::PUT, stack, &bad).await.expect_err("it is root");
        assert_eq!(refused.code, Code::Denied, "{refused}");
        assert!(refused.to_string().contains("web is privileged"), "{refused}");
    }
    client.send_json::<_, StackPlan>(Method::PUT, stack, &put(|_| (), false)).await.expect("it is accepted");
    cluster.wait_for_running(2).await;
    let events: List<common::api::Event> = client.get("/api/v1/events").await.expect("it reads");
    assert!(!events.items.is_empty(), "its own are there");
    let foreign: Vec<_> = events.items.iter().filter(|event| !event.subject.starts_with("staging/")).collect();
    assert!(foreign.is_empty(), "{foreign:?}");

    let all: List<ApiTokenView> = cluster.client().get(TOKENS).await.expect("it reads");
    let chief = cluster.client_with(0, &new_token_in(&cluster, Role::Admin, Some("staging")).await.token);
    let seen: List<ApiTokenView> = chief.get(TOKENS).await.expect("it reads");
    assert_eq!((all.items.len(), seen.items.len()), (2, 2), "the cluster's admin is not among those that it sees");
    let more = CreateApiToken { name: name("more"), role: Role::Viewer, environments: None };
    let refused = chief.send_json::<_, ApiTokenCreated>(Method::POST, TOKENS, &more).await.expect_err("it is more");
    assert!(refused.to_string().contains("the other token has the role viewer"), "{refused}");
    let less = CreateApiToken { environments: Some([name("staging")].into()), ..more };
    chief.send_json::<_, ApiTokenCreated>(Method::POST, TOKENS, &less).await.expect("it is made");
}

/// A cut-off coordinator, and what it still remembers of an instance, its host and a token that were there.
struct CutOff {
    cluster: TestCluster,
    behind: usize,
    host: usize,
    instance: common::id::InstanceId,
    token: ApiTokenCreated,
}

impl CutOff {
    /// Everything is there when the coordinator is cut off, and gone for the majority when this returns.
    async fn after_the_removal() -> CutOff {
        let cluster = TestCluster::start(3).await;
        let token = new_token(&cluster, Role::Viewer).await;
        let service = ServiceSpec { container: ContainerSpec::of_image("web:1"), ..ServiceSpec::of_image("web:1") };
        cluster.deploy("shop", service).await.expect("it is accepted");
        cluster.wait_for_running(1).await;
        let host = cluster.running().iter().position(|running| *running == 1).expect("one runs");
        let instance = cluster.instances().await.expect("they are listed").remove(0).id;
        let behind = (cluster.leader(0).await.expect("somebody leads") + 1) % 3;
        let mut cut_off = CutOff { cluster, behind, host, instance, token };
        assert!(matches!(cut_off.files().await, Files::Contents(_)), "so far it is to run there");
        cut_off.remove().await;
        cut_off
    }

    async fn remove(&mut self) {
        let asked = self.cluster.client_of(self.behind);
        self.cluster.cut_off(self.behind);
        until_async(SOON, "it hears nobody", async || {
            let view: ClusterView =
                asked.get("/api/v1/cluster").await.map_err(|problem| anyhow::anyhow!("{problem}"))?;
            ensure!(!view.quorum);
            anyhow::Ok(())
        })
        .await;
        let majority = self.cluster.client_of((self.behind + 1) % 3);
        majority.delete("/api/v1/environments/default/stacks/shop").await.expect("it is removed");
        majority.delete(&format!("{TOKENS}/{}", self.token.view.id)).await.expect("it is revoked");
    }

    /// What the coordinator that is behind says to the instance's host, which reaches it by another way.
    async fn ask<T: serde::de::DeserializeOwned>(&self, open: &Open) -> T {
        let elsewhere = ([127, 0, 0, 9], 9).into();
        let end = Arc::new(self.cluster.network.end(elsewhere, self.cluster.hosts[self.host].identity()));
        let caller = Caller::new(end, self.cluster.hosts[self.behind].address);
        caller.ask(open, SOON).await.expect("it answers")
    }

    async fn files(&self) -> Files {
        self.ask(&Open::Files(self.instance.clone())).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_coordinator_that_is_behind_gives_no_power_to_what_it_remembers() {
    let all = CutOff::after_the_removal().await;
    let Files::Refused(problem) = all.files().await else { panic!("the instance is not to run any more") };
    assert_eq!(problem.code, Code::NoLeader, "{problem}");
    let Renewed::Refused(problem) = all.ask(&Open::Renew(Vec::new())).await else { panic!("it is no request") };
    assert_eq!(
        problem.code,
        Code::NoLeader,
        "it looks at no request before it knows that the host is there: {problem}"
    );

    let revoked = all.cluster.client_with(all.behind, &all.token.token);
    let watch = async || revoked.send(Method::GET, "/api/v1/watch", Bytes::new()).await.map(drop);
    assert_eq!(watch().await.expect_err("the token may be revoked").code, Code::NoLeader);
    let kept = all.cluster.client_of(all.behind);
    kept.get::<ClusterView>("/api/v1/cluster").await.expect("it says what it is");
    kept.get::<List<ApiTokenView>>(&format!("{TOKENS}?stale")).await.expect("it says what it remembers");

    all.cluster.network.heal();
    until_async(SOON, "it knows that the token was revoked", async || {
        let listed = revoked.get::<List<common::api::EnvironmentView>>("/api/v1/environments").await.map(drop);
        let code = listed.expect_err("never again").code;
        ensure!(code == Code::Unauthenticated, "{code}");
        anyhow::Ok(())
    })
    .await;
    let Files::Refused(problem) = all.files().await else { panic!("the instance is not to run any more") };
    assert_eq!(problem.code, Code::Denied, "{problem}");
    assert_eq!(watch().await.expect_err("it is revoked").code, Code::Unauthenticated);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_is_no_coordinator_begins_no_stream_with_a_large_message() {
    let cluster = TestCluster::start(1).await;
    let identity = PeerIdentity { host: HostId([7; 10]), member: None };
    let end = Arc::new(cluster.network.end(([127, 0, 0, 9], 9).into(), identity));
    let caller = Caller::new(end, cluster.hosts[0].address);
    let answer = caller.ask::<Renewed>(&Open::Renew(vec![0; 1_000_000]), SOON).await.expect("it is answered");
    assert!(matches!(answer, Renewed::Refused(_)), "it is no request");
    let refused = caller.ask::<Renewed>(&Open::Renew(vec![0; 1 << 20]), SOON).await;
    assert!(matches!(refused, Err(LinkError::Ended | LinkError::Broken(_))), "{:?}", refused.err());
}
