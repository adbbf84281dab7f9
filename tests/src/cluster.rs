//! A cluster in one process: real coordinators with real stores, real agents with containers only in memory, a network
//! that can be cut, and the API over real HTTPS.

use std::{
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use agent::{files::Places, runtime::fake::Fake};
use anyhow::{Context as _, ensure};
use cli::{
    client::Client,
    context::{Context, certificate_text},
};
use common::{
    api::{ClusterView, CreateJoinToken, InstanceView, JoinTokenCreated, List, PutStack, Settings, StackPlan},
    error::Problem,
    name::Name,
    network::NetworkPlan,
    spec::{ServiceSpec, StackSpec},
    time::Span,
    token::{JoinRole, JoinToken},
    wire::PeerIdentity,
};
use coordinator::Ended;
use hyper::Method;
use link::{Transport, keyring::Keyring, memory::Network};
use tempfile::TempDir;
use tokio::{sync::watch, task::JoinSet};
use tokio_util::sync::CancellationToken;

use crate::{
    join::{self, Newcomer},
    wait::until_async,
};

const SOON: Duration = Duration::from_secs(15);
/// After this time, instances on a host that is down are replaced.
pub const LOST_AFTER: Span = Span(3000);

/// A host of the cluster.
pub struct Host {
    /// Its address for both the link and HTTPS.
    pub address: SocketAddr,
    /// Its fake Docker.
    pub runtime: Arc<Fake>,
    keyring: Keyring,
    folder: TempDir,
    memory: TempDir,
    stop: CancellationToken,
    tasks: JoinSet<()>,
    ended: watch::Receiver<Option<Ended>>,
}

/// All hosts; the first one created the cluster.
pub struct TestCluster {
    /// The hosts, all of them coordinators.
    pub hosts: Vec<Host>,
    /// The network between the hosts.
    pub network: Network,
    context: Context,
}

fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port")
}

/// The folder of a host's sealing key.
fn keys_of(folder: &TempDir) -> PathBuf {
    folder.path().join("keys")
}

fn name(text: &str) -> Name {
    Name::parse(text).expect("it is a name")
}

fn problem(problem: Problem) -> anyhow::Error {
    anyhow::anyhow!("{problem}")
}

impl TestCluster {
    /// Starts a cluster of this many hosts, all coordinators, and waits until all are ready.
    pub async fn start(count: usize) -> TestCluster {
        let network = Network::default();
        let (folder, address) = (TempDir::new().expect("a folder"), free_address());
        let settings =
            Settings { heartbeat: Span(200), suspect_after: Span(800), down_after: Span(1500), lost_after: LOST_AFTER };
        let config = coordinator::Config {
            keys: keys_of(&folder),
            backups: coordinator::backup::beside(folder.path()),
            state: folder.path().to_owned(),
            listen: address,
            advertise: address,
            settings,
            network: NetworkPlan::default(),
        };
        let newborn = coordinator::birth::make_cluster(&config, name("h1")).expect("it is made");
        let context = Context {
            cluster: newborn.keyring.cluster,
            servers: vec![address],
            authority: certificate_text(&newborn.keyring.root),
            token: newborn.admin.reveal(),
        };
        let mut cluster = TestCluster { hosts: Vec::new(), network, context };
        cluster.add(folder, address, newborn.keyring);
        until_async(SOON, "the first host leads", async || cluster.view(0).await).await;
        for number in 2..=count {
            cluster.join(number).await.expect("it joins");
        }
        cluster.wait_until_whole().await;
        cluster
    }

    fn add(&mut self, folder: TempDir, address: SocketAddr, keyring: Keyring) {
        let mut host = Host {
            address,
            runtime: Arc::default(),
            keyring,
            folder,
            // Secrets may only be stored in memory.
            memory: TempDir::new_in("/dev/shm").expect("memory can hold a folder"),
            stop: CancellationToken::new(),
            tasks: JoinSet::new(),
            ended: watch::channel(None).1,
        };
        host.switch_on(&self.network);
        self.hosts.push(host);
        self.context.servers = self.hosts.iter().map(|host| host.address).collect();
    }

    async fn join(&mut self, number: usize) -> anyhow::Result<()> {
        let asked = CreateJoinToken {
            role: JoinRole::Coordinator,
            ttl: None,
            max_uses: None,
            labels: Default::default(),
            cidr: None,
            replaces: None,
        };
        let client = self.client();
        let made: JoinTokenCreated =
            client.send_json(Method::POST, "/api/v1/join-tokens", &asked).await.map_err(problem)?;
        let token: JoinToken = made.token.parse()?;
        let (folder, address) = (TempDir::new()?, free_address());
        let host = name(&format!("h{number}"));
        let newcomer = Newcomer { folder: folder.path(), name: host, address };
        let keyring = join::join(&client, self.context.cluster, &token, newcomer).await?;
        self.add(folder, address, keyring);
        Ok(())
    }

    /// The context with the servers and the admin token.
    pub fn context(&self) -> &Context {
        &self.context
    }

    /// A client that uses whichever coordinator answers.
    pub fn client(&self) -> Client {
        Client::of_context(&self.context).expect("the context is right")
    }

    /// A client of one coordinator.
    pub fn client_of(&self, host: usize) -> Client {
        let context = Context { servers: vec![self.hosts[host].address], ..self.context.clone() };
        Client::of_context(&context).expect("the context is right")
    }

    /// A client of one coordinator with another token.
    pub fn client_with(&self, host: usize, token: &str) -> Client {
        let servers = vec![self.hosts[host].address];
        let context = Context { servers, token: token.to_owned(), ..self.context.clone() };
        Client::of_context(&context).expect("the context is right")
    }

    async fn view(&self, host: usize) -> anyhow::Result<ClusterView> {
        let view: ClusterView = self.client_of(host).get("/api/v1/cluster").await.map_err(problem)?;
        ensure!(view.leader.is_some(), "nobody leads");
        Ok(view)
    }

    /// Waits until every member votes, all name the same leader, and all hosts are ready.
    pub async fn wait_until_whole(&self) {
        until_async(SOON, "the cluster is whole", async || {
            let first = self.view(0).await?;
            for host in 1..self.hosts.len() {
                ensure!(self.view(host).await?.leader == first.leader, "they follow different leaders");
            }
            let voting = first.members.iter().filter(|member| ["leader", "voter"].contains(&member.state.as_str()));
            ensure!(voting.count() == self.hosts.len(), "{:?}", first.members);
            let hosts: List<common::api::HostView> = self.client().get("/api/v1/hosts").await.map_err(problem)?;
            ensure!(hosts.items.iter().all(|host| host.liveness.word() == "ready"), "{:?}", hosts.items);
            Ok(())
        })
        .await;
    }

    /// The host whose coordinator leads, according to the given one.
    pub async fn leader(&self, asked: usize) -> anyhow::Result<usize> {
        let view = self.view(asked).await?;
        let leader = view.members.iter().find(|member| Some(member.id) == view.leader).context("it is no member")?;
        self.hosts.iter().position(|host| host.address == leader.address).context("it is no host of ours")
    }

    /// Deploys a stack with one service.
    pub async fn deploy(&self, stack: &str, service: ServiceSpec) -> Result<StackPlan, Problem> {
        let spec = StackSpec { services: [(name("web"), service)].into(), ..StackSpec::default() };
        let put =
            PutStack { spec, files: Vec::new(), expect_revision: None, dry_run: false, what: None, goes_back: false };
        self.client().send_json(Method::PUT, &format!("/api/v1/environments/default/stacks/{stack}"), &put).await
    }

    /// All instances of the cluster.
    pub async fn instances(&self) -> anyhow::Result<Vec<InstanceView>> {
        let list: List<InstanceView> =
            self.client().get("/api/v1/environments/default/instances").await.map_err(problem)?;
        Ok(list.items)
    }

    /// The number of running programs on each host.
    pub fn running(&self) -> Vec<usize> {
        self.hosts.iter().map(|host| host.runtime.running().len()).collect()
    }

    /// Waits until this many programs run in total.
    pub async fn wait_for_running(&self, wanted: usize) {
        until_async(SOON, &format!("{wanted} programs run"), async || {
            let running = self.running();
            ensure!(running.iter().sum::<usize>() == wanted, "{running:?}");
            anyhow::Ok(())
        })
        .await;
    }

    /// Cuts a host off from all others.
    pub fn cut_off(&self, host: usize) {
        for other in (0..self.hosts.len()).filter(|other| *other != host) {
            self.network.cut(self.hosts[host].address, self.hosts[other].address);
        }
    }
}

impl Host {
    /// The identity in the host's certificate.
    pub fn identity(&self) -> PeerIdentity {
        PeerIdentity { host: self.keyring.host, member: self.keyring.member }
    }

    /// The folder of its state, with everything that it writes to disk.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The folder of the files that it keeps in memory.
    pub fn memory(&self) -> &Path {
        self.memory.path()
    }

    /// Starts its coordinator and its agent.
    pub fn switch_on(&mut self, network: &Network) {
        let identity = self.identity();
        let transport: Arc<dyn Transport> = Arc::new(network.end(self.address, identity));
        self.stop = CancellationToken::new();
        let (renewals, renewed) = watch::channel(());
        let stopped = self.stop.clone().cancelled_owned();
        let coordinating =
            coordinator::run(self.coordinator_config(), self.keyring.clone(), transport.clone(), renewed, stopped);
        let (how, ended) = watch::channel(None);
        self.ended = ended;
        self.tasks.spawn(async move {
            let ended = coordinating.await;
            drop(renewals);
            match ended {
                Ok(ended) => how.send_replace(Some(ended)),
                Err(problem) => panic!("the coordinator ended: {problem}"),
            };
        });
        let config = agent::Config {
            state: self.folder.path().to_owned(),
            places: Places::new(self.folder.path(), self.memory.path()),
            cluster: self.keyring.cluster,
            host: self.keyring.host,
            coordinators: watch::Sender::new(self.keyring.coordinators.clone()),
            session: watch::Sender::default(),
            address: Some(self.address.ip()),
            keeps_network: false,
            binary: None,
        };
        let running = agent::run(config, transport, self.runtime.clone(), self.stop.clone().cancelled_owned());
        self.tasks.spawn(async move { running.await.expect("the ledger can be used") });
    }

    fn coordinator_config(&self) -> coordinator::Config {
        coordinator::Config {
            state: self.folder.path().to_owned(),
            keys: keys_of(&self.folder),
            backups: coordinator::backup::beside(self.folder.path()),
            listen: self.address,
            advertise: self.address,
            settings: Settings::default(),
            network: NetworkPlan::default(),
        }
    }

    /// Why its coordinator cannot run: it is started alone and must end with a problem.
    pub async fn coordinator_problem(&self, network: &Network) -> Problem {
        let transport: Arc<dyn Transport> = Arc::new(network.end(self.address, self.identity()));
        let (_renewals, renewed) = watch::channel(());
        let stopped = tokio::time::sleep(SOON);
        let ended = coordinator::run(self.coordinator_config(), self.keyring.clone(), transport, renewed, stopped);
        ended.await.expect_err("it cannot run")
    }

    /// How its coordinator ended, once it has; it gives up after `patience`.
    pub async fn coordinator_ends(&self, patience: Duration) -> Option<Ended> {
        let mut ended = self.ended.clone();
        let found = tokio::time::timeout(patience, ended.wait_for(Option::is_some)).await.ok()?;
        found.ok()?.clone()
    }

    /// Stops both; the containers go on.
    pub async fn switch_off(&mut self) {
        self.stop.cancel();
        while let Some(ended) = self.tasks.join_next().await {
            ended.expect("no task panicked");
        }
    }
}
