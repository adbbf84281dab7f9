//! Coordinators of this version beside those of the version before, through an upgrade and a way back: processes of
//! both binaries form one group, write and read through each other, and the feature level rises only when the last one
//! is upgraded. `scripts/neighbour` builds the older binary and runs this.

use std::{
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use cli::{
    client::Client,
    context::{Context, Contexts},
};
use common::{
    api::{ApiTokenCreated, ClusterView, CreateApiToken, CreateJoinToken, JoinTokenCreated, KeyView, List},
    error::{Code, Problem},
    id::MemberId,
    name::Name,
    role::Role,
    token::{JoinRole, JoinToken},
};
use hyper::Method;
use link::keyring::Keyring;
use tests::{
    join::{Newcomer, join},
    store::write_snapshot,
    wait::{until, until_async},
};

const SOON: Duration = Duration::from_secs(30);

fn name(text: &str) -> Name {
    Name::parse(text).expect("a name")
}

/// A binary of wharf, by the variable that names it.
fn binary(variable: &str) -> PathBuf {
    PathBuf::from(std::env::var_os(variable).unwrap_or_else(|| panic!("{variable} names a binary: scripts/neighbour")))
}

/// A coordinator whose process is of one version or the other. Its host has no Docker.
struct Member {
    folder: PathBuf,
    address: SocketAddr,
    process: Option<Child>,
}

impl Member {
    fn new(folder: &Path, number: usize) -> Member {
        let address = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port");
        Member { folder: folder.join(format!("h{number}")), address, process: None }
    }

    fn state(&self) -> PathBuf {
        self.folder.join("state")
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.join("wharf.log")).unwrap_or_default()
    }

    fn id(&self) -> MemberId {
        Keyring::load(&self.state()).expect("it can be read").expect("it has joined").member.expect("a coordinator")
    }

    fn start(&mut self, variable: &str) {
        std::fs::create_dir_all(&self.folder).expect("a folder");
        let log = std::fs::File::create(self.folder.join("wharf.log")).expect("a log");
        let address = self.address.to_string();
        let process = Command::new(binary(variable))
            .args([
                "up",
                "--overlay",
                "none",
                "--docker",
                "/nowhere.sock",
                "--listen",
                &address,
                "--advertise",
                &address,
            ])
            .arg("--state")
            .arg(self.state())
            .env("WHARF_KEYS", self.folder.join("keys"))
            .env("WHARF_CONFIG", self.folder.join("config.toml"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn();
        self.process = Some(process.expect("it can be run"));
    }

    /// Asks the process to end, and waits until it has.
    fn stop(&mut self) {
        let Some(mut process) = self.process.take() else { return };
        let asked = Command::new("kill").arg(process.id().to_string()).status().expect("it can be run");
        assert!(asked.success());
        until(SOON, "it ends", || process.try_wait()?.context("it runs"));
    }

    fn replace_by(&mut self, variable: &str) {
        self.stop();
        self.start(variable);
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("=== {}\n{}", self.folder.display(), self.log());
        }
        if let Some(process) = &mut self.process {
            process.kill().ok();
            process.wait().ok();
        }
    }
}

/// The members, and how they are asked.
struct Group {
    members: Vec<Member>,
    context: Context,
}

fn said(problem: Problem) -> anyhow::Error {
    anyhow::anyhow!("{problem}")
}

impl Group {
    /// A group of three of the older version.
    async fn of_three(folder: &Path) -> Group {
        let mut first = Member::new(folder, 1);
        first.start("WHARF_OLD");
        let config = first.folder.join("config.toml");
        let contexts = until(SOON, "the cluster has a context", || {
            anyhow::Ok(toml::from_str::<Contexts>(&std::fs::read_to_string(&config)?)?)
        });
        let context = contexts.contexts.into_values().next().expect("it has one");
        let mut group = Group { members: vec![first], context };
        group.answers(0).await;
        for number in [2, 3] {
            let mut member = Member::new(folder, number);
            std::fs::create_dir_all(&member.folder).expect("a folder");
            let asked = CreateJoinToken {
                role: JoinRole::Coordinator,
                ttl: None,
                max_uses: None,
                labels: Default::default(),
                cidr: None,
            };
            let client = group.client(0);
            let made: JoinTokenCreated =
                client.send_json(Method::POST, "/api/v1/join-tokens", &asked).await.expect("made");
            let token: JoinToken = made.token.parse().expect("a token");
            link::private::ensure_folder(&member.state()).expect("a folder");
            let (cluster, wanted) = (group.context.cluster, name(&format!("h{number}")));
            join(&client, cluster, &token, Newcomer { folder: &member.state(), name: wanted, address: member.address })
                .await
                .expect("it joins");
            member.start("WHARF_OLD");
            group.members.push(member);
            group.is_whole().await;
        }
        group
    }

    fn client(&self, member: usize) -> Client {
        let context = Context { servers: vec![self.members[member].address], ..self.context.clone() };
        Client::of_context(&context).expect("the context is right")
    }

    async fn view(&self, member: usize) -> anyhow::Result<ClusterView> {
        self.client(member).get("/api/v1/cluster").await.map_err(said)
    }

    async fn answers(&self, member: usize) {
        until_async(SOON, "it answers", async || {
            ensure!(self.view(member).await?.leader.is_some());
            Ok(())
        })
        .await;
    }

    /// Waits until all that were started vote, and follow one leader.
    async fn is_whole(&self) {
        until_async(SOON, "all follow one leader", async || {
            let first = self.view(0).await?;
            let voting = first.members.iter().filter(|member| ["leader", "voter"].contains(&member.state.as_str()));
            ensure!(voting.count() == self.members.len(), "{:?}", first.members);
            for member in 1..self.members.len() {
                ensure!(self.view(member).await?.leader == first.leader);
            }
            Ok(())
        })
        .await;
    }

    /// Writes a key through each member, and reads every one through each.
    async fn writes_and_reads(&self, when: &str) {
        for writer in 0..self.members.len() {
            let path = format!("/api/v1/environments/default/keys/{when}-{writer}");
            let written = self.client(writer).send(Method::PUT, &path, Bytes::from_static(b"v")).await;
            written.unwrap_or_else(|problem| panic!("{when}: h{} writes: {problem}", writer + 1));
        }
        for reader in 0..self.members.len() {
            let keys: List<KeyView> =
                self.client(reader).get("/api/v1/environments/default/keys").await.expect("it reads");
            let found = keys.items.iter().filter(|key| key.key.starts_with(when)).count();
            assert_eq!(found, self.members.len(), "{when}: h{} reads what each wrote", reader + 1);
        }
    }

    /// Makes a token that feature level 1 does not have.
    async fn make_operator(&self, member: usize) -> Result<ApiTokenCreated, Problem> {
        let asked = CreateApiToken { name: name("ops"), role: Role::Operator, environments: None };
        self.client(member).send_json(Method::POST, "/api/v1/api-tokens", &asked).await
    }

    async fn level(&self) -> u16 {
        self.view(0).await.expect("it answers").level
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_is_upgraded_one_member_after_the_other() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut group = Group::of_three(folder.path()).await;
    group.writes_and_reads("old").await;
    let before = group.level().await;

    for upgraded in [0, 1] {
        group.members[upgraded].replace_by("WHARF_NEW");
        group.is_whole().await;
        group.writes_and_reads(&format!("upgraded-{upgraded}")).await;
        assert_eq!(group.level().await, before, "one member does not understand more");
        let refused = group.make_operator(0).await.expect_err("the level does not have it");
        assert_eq!(refused.code, Code::TooOld, "{refused}");
        assert!(refused.to_string().contains(&format!("the cluster has {before}")), "{refused}");
    }
    let asked = CreateApiToken { name: name("reader"), role: Role::Viewer, environments: None };
    let made = group.client(1).send_json::<_, ApiTokenCreated>(Method::POST, "/api/v1/api-tokens", &asked).await;
    let reader = made.expect("what both versions have is made");
    let through_old = Context { servers: vec![group.members[2].address], token: reader.token, ..group.context.clone() };
    let through_old = Client::of_context(&through_old).expect("the context is right");
    through_old.get::<ClusterView>("/api/v1/cluster").await.expect("the old member knows the token");

    // The old one leads, then one of the new ones, and each time the others follow.
    for stopped in [1, 2] {
        let variable = if stopped == 2 { "WHARF_OLD" } else { "WHARF_NEW" };
        group.members[stopped].replace_by(variable);
        group.is_whole().await;
        group.writes_and_reads(&format!("restarted-{stopped}")).await;
    }

    // The way back: what a new binary has stored is read by the old one.
    group.members[1].stop();
    let (state, id) = (group.members[1].state(), group.members[1].id());
    write_snapshot(&state, id, |_| ());
    group.members[1].start("WHARF_OLD");
    group.is_whole().await;
    group.writes_and_reads("back").await;

    for upgraded in [1, 2] {
        group.members[upgraded].replace_by("WHARF_NEW");
        group.is_whole().await;
    }
    until_async(SOON, "the level rises", async || {
        ensure!(group.level().await > before);
        Ok(())
    })
    .await;
    group.make_operator(2).await.expect("now all members have it");
    group.writes_and_reads("new").await;

    group.members[1].replace_by("WHARF_OLD");
    let old = &mut group.members[1];
    let mut process = old.process.take().expect("it was started");
    let status = until(SOON, "the old binary ends", || process.try_wait()?.context("it runs"));
    assert!(!status.success(), "{status}");
    let log = old.log();
    assert!(log.contains("is too old") || log.contains("newer version"), "{log}");
    let written = group.client(0).send(Method::PUT, "/api/v1/environments/default/keys/last", Bytes::new()).await;
    written.expect("the others go on");
}
