//! Coordinators that are processes of their own, and form one group on this machine. Their hosts have no Docker.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::Duration,
};

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use cli::{
    client::Client,
    context::{Context, Contexts},
};
use common::{
    api::{ClusterView, CreateJoinToken, JoinTokenCreated, KeyView, List},
    error::Problem,
    id::MemberId,
    name::Name,
    token::{JoinRole, JoinToken},
};
use hyper::Method;
use link::keyring::Keyring;

use crate::{
    http::Endpoint,
    join::{Newcomer, join},
    load,
    wait::{until, until_async},
};

const SOON: Duration = Duration::from_secs(30);

fn name(text: &str) -> Name {
    Name::parse(text).expect("a name")
}

/// The binary that was built with this test.
pub fn wharf() -> PathBuf {
    let binary = load::load().with_file_name("wharf");
    assert!(binary.exists(), "build it first: cargo build -p cli");
    binary
}

/// A coordinator.
pub struct Member {
    folder: PathBuf,
    address: SocketAddr,
    process: Option<Child>,
}

impl Member {
    fn new(folder: &Path, number: usize, ip: IpAddr) -> Member {
        let address = TcpListener::bind((ip, 0)).and_then(|listener| listener.local_addr()).expect("a free port");
        Member { folder: folder.join(format!("h{number}")), address, process: None }
    }

    /// Its folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its state folder.
    pub fn state(&self) -> PathBuf {
        self.folder.join("state")
    }

    /// The folder of its sealing key.
    pub fn keys(&self) -> PathBuf {
        self.folder.join("keys")
    }

    /// What its process and commands beside it are to know.
    pub fn environment(&self) -> [(&'static str, PathBuf); 2] {
        [("WHARF_KEYS", self.keys()), ("WHARF_CONFIG", self.folder.join("config.toml"))]
    }

    /// What it has logged since it was started.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.join("wharf.log")).unwrap_or_default()
    }

    /// Its number in the group.
    pub fn id(&self) -> MemberId {
        Keyring::load(&self.state()).expect("it can be read").expect("it has joined").member.expect("a coordinator")
    }

    /// Starts a process of a binary.
    pub fn start(&mut self, binary: &Path) {
        std::fs::create_dir_all(&self.folder).expect("a folder");
        let log = std::fs::File::create(self.folder.join("wharf.log")).expect("a log");
        let address = self.address.to_string();
        let process = Command::new(binary)
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
            .envs(self.environment())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn();
        self.process = Some(process.expect("it can be run"));
    }

    /// Asks the process to end, and waits until it has.
    pub fn stop(&mut self) {
        let Some(mut process) = self.process.take() else { return };
        let asked = Command::new("kill").arg(process.id().to_string()).status().expect("it can be run");
        assert!(asked.success());
        until(SOON, "it ends", || process.try_wait()?.context("it runs"));
    }

    /// Whether the process that was started still runs.
    pub fn is_running(&mut self) -> bool {
        self.process.as_mut().is_some_and(|process| matches!(process.try_wait(), Ok(None)))
    }

    /// Ends a process that another one has started in the place of the first.
    fn end_successors(&self) {
        let state = self.state().display().to_string();
        let arguments = |entry: &std::fs::DirEntry| std::fs::read_to_string(entry.path().join("cmdline")).ok();
        let is_ours =
            |entry: &std::fs::DirEntry| arguments(entry).is_some_and(|all| all.split('\0').any(|one| one == state));
        let found = std::fs::read_dir("/proc").into_iter().flatten().flatten().filter(is_ours);
        for entry in found {
            Command::new("kill").arg("-9").arg(entry.file_name()).status().ok();
        }
    }

    /// Goes on with another binary.
    pub fn replace_by(&mut self, binary: &Path) {
        self.stop();
        self.start(binary);
    }

    /// Ends the process at once (SIGKILL).
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().expect("it runs");
            process.wait().expect("it has ended");
        }
    }

    /// Stops the process without ending it (SIGSTOP).
    pub fn pause(&self) {
        self.signal("-STOP");
    }

    /// Lets a paused process go on.
    pub fn resume(&self) {
        self.signal("-CONT");
    }

    fn signal(&self, signal: &str) {
        if let Some(process) = &self.process {
            let sent = Command::new("kill").arg(signal).arg(process.id().to_string()).status().expect("it can be run");
            assert!(sent.success());
        }
    }

    /// Whether the process runs, also if it is paused.
    pub fn runs(&mut self) -> bool {
        self.process.as_mut().is_some_and(|process| process.try_wait().is_ok_and(|ended| ended.is_none()))
    }

    /// Waits until the process ends by itself.
    pub fn ends(&mut self) -> std::process::ExitStatus {
        let mut process = self.process.take().expect("it was started");
        until(SOON, "it ends by itself", || process.try_wait()?.context("it runs"))
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
        self.end_successors();
    }
}

/// Members of one group, and how they are asked.
pub struct Group {
    /// The members; the first one created the cluster.
    pub members: Vec<Member>,
    /// What they were started from.
    pub binary: PathBuf,
    /// Where they listen.
    addresses: [IpAddr; 3],
    context: Context,
}

fn said(problem: Problem) -> anyhow::Error {
    anyhow::anyhow!("{problem}")
}

impl Group {
    /// A group of three processes of a binary.
    pub async fn of_three(folder: &Path, binary: &Path) -> Group {
        Group::at(folder, binary, [Ipv4Addr::LOCALHOST.into(); 3]).await
    }

    /// The same at addresses of this machine.
    pub async fn at(folder: &Path, binary: &Path, addresses: [IpAddr; 3]) -> Group {
        Group::made_of(folder, &|_| binary.to_owned(), addresses).await
    }

    /// A group of three processes, each of the binary of its number.
    pub async fn of_three_from(folder: &Path, binary: &dyn Fn(usize) -> PathBuf) -> Group {
        Group::made_of(folder, binary, [Ipv4Addr::LOCALHOST.into(); 3]).await
    }

    async fn made_of(folder: &Path, binary: &dyn Fn(usize) -> PathBuf, addresses: [IpAddr; 3]) -> Group {
        let mut first = Member::new(folder, 1, addresses[0]);
        first.start(&binary(1));
        let config = first.folder.join("config.toml");
        let contexts = until(SOON, "the cluster has a context", || {
            anyhow::Ok(toml::from_str::<Contexts>(&std::fs::read_to_string(&config)?)?)
        });
        let context = contexts.contexts.into_values().next().expect("it has one");
        let mut group = Group { members: vec![first], binary: binary(1), addresses, context };
        group.answers(0).await;
        for number in [2, 3] {
            let asked = CreateJoinToken {
                role: JoinRole::Coordinator,
                ttl: None,
                max_uses: None,
                labels: Default::default(),
                cidr: None,
                replaces: None,
            };
            let client = group.client(0);
            let made: JoinTokenCreated =
                client.send_json(Method::POST, "/api/v1/join-tokens", &asked).await.expect("made");
            group.join(number, &made.token).await;
            group.members[number - 1].start(&binary(number));
            group.is_whole().await;
        }
        group
    }

    /// The APIs of all members, in their order.
    pub fn endpoint(&self) -> Endpoint {
        let servers = self.members.iter().map(Member::address).collect();
        Endpoint::wharf(&Context { servers, ..self.context.clone() }).expect("the context is right")
    }

    /// Joins a member by a token; it is not started.
    pub async fn join(&mut self, number: usize, token: &str) {
        let folder = self.members[0].folder.parent().expect("it has one").to_owned();
        let member = Member::new(&folder, number, self.addresses[number - 1]);
        link::private::ensure_folder(&member.state()).expect("a folder");
        let token: JoinToken = token.parse().expect("a token");
        let newcomer = Newcomer { folder: &member.state(), name: name(&format!("h{number}")), address: member.address };
        join(&self.client(0), self.context.cluster, &token, newcomer).await.expect("it joins");
        self.members.push(member);
    }

    /// Runs the command line with the contexts of a member.
    pub fn run(&self, member: usize, arguments: &[&str]) -> Output {
        let mut command = Command::new(&self.binary);
        command.args(arguments).stdin(Stdio::null()).envs(self.members[member].environment());
        command.output().expect("it can be run")
    }

    /// What a command that succeeds prints.
    #[track_caller]
    pub fn done(&self, member: usize, arguments: &[&str]) -> String {
        let output = self.run(member, arguments);
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Why a command is refused.
    #[track_caller]
    pub fn refused(&self, member: usize, arguments: &[&str]) -> String {
        let output = self.run(member, arguments);
        assert!(!output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stdout));
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    /// A client of one member.
    pub fn client(&self, member: usize) -> Client {
        self.client_with(member, &self.context.token)
    }

    /// The same with another token.
    pub fn client_with(&self, member: usize, token: &str) -> Client {
        let servers = vec![self.members[member].address];
        let context = Context { servers, token: token.to_owned(), ..self.context.clone() };
        Client::of_context(&context).expect("the context is right")
    }

    /// A client of whichever member answers.
    pub fn any_client(&self) -> Client {
        let servers = self.members.iter().map(|member| member.address).collect();
        Client::of_context(&Context { servers, ..self.context.clone() }).expect("the context is right")
    }

    /// The cluster as a member sees it.
    pub async fn view(&self, member: usize) -> anyhow::Result<ClusterView> {
        self.client(member).get("/api/v1/cluster").await.map_err(said)
    }

    /// Waits until a member knows a leader.
    pub async fn answers(&self, member: usize) {
        until_async(SOON, "it answers", async || {
            ensure!(self.view(member).await?.leader.is_some());
            Ok(())
        })
        .await;
    }

    /// Waits until all that were started vote, and follow one leader.
    pub async fn is_whole(&self) {
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
    pub async fn writes_and_reads(&self, when: &str) {
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
}
