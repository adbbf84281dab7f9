//! Many agents against a group of coordinators: real agents over real connections, with containers that exist only in
//! memory. `scripts/bench fleet` starts the group and passes its processes.

use std::{
    fmt::Display,
    path::PathBuf,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use agent::{files::Places, runtime::fake::Fake};
use anyhow::{Context as _, bail, ensure};
use clap::Parser;
use cli::{
    client::Client,
    context::{Context, Contexts},
};
use common::{
    api::{ClusterView, CreateJoinToken, Event, HostView, JoinTokenCreated, List, PutStack},
    name::Name,
    spec::{Mode, ServiceSpec, StackSpec},
    token::{JoinRole, JoinToken},
};
use hyper::Method;
use link::{Transport, keyring::Keyring, quic::Quic};
use tests::join::{Newcomer, join};
use tokio::{sync::watch, task::JoinSet, time::Instant};
use tokio_util::sync::CancellationToken;

/// The maximum number of hosts that one token admits.
const TOKEN_USES: u32 = 1000;
/// The number of hosts that join at the same time.
const JOINING: usize = 16;
/// How long nothing must be written before a cluster counts as idle. A rollout watches new instances for five seconds
/// before it is done.
const QUIET: Duration = Duration::from_secs(6);
/// The interval between looks at up to a thousand agents. Each look costs time on the shared machine.
const LOOK: Duration = Duration::from_millis(100);

#[derive(Parser)]
struct Args {
    /// The number of agents.
    agents: usize,
    /// The number of instances per agent.
    #[arg(long, default_value_t = 30)]
    instances: usize,
    /// The coordinators' processes, by member number.
    #[arg(long, value_delimiter = ',')]
    pids: Vec<u32>,
    /// A folder in memory for the agents' state.
    #[arg(long, default_value = "/dev/shm")]
    folder: PathBuf,
    /// How long to measure an idle cluster, in seconds.
    #[arg(long, default_value_t = 30)]
    idle: u64,
}

/// One agent of the fleet.
struct Member {
    keyring: Keyring,
    folder: PathBuf,
    runtime: Arc<Fake>,
    stop: CancellationToken,
}

struct Fleet {
    args: Args,
    client: Client,
    context: Context,
    members: Vec<Member>,
    tasks: JoinSet<()>,
    _folder: tempfile::TempDir,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let (_, context) = Contexts::load().map_err(said)?.choose(None).map_err(said)?;
    let client = Client::of_context(&context).map_err(said)?;
    let folder = tempfile::TempDir::new_in(&args.folder)?;
    let mut fleet = Fleet { args, client, context, members: Vec::new(), tasks: JoinSet::new(), _folder: folder };
    fleet.join_all().await?;
    fleet.start_cold().await?;
    fleet.rest().await?;
    fleet.lose_some(30, true).await?;
    fleet.lose_some(60, false).await?;
    fleet.lose_leader().await?;
    fleet.rest().await?;
    fleet.members.iter().for_each(|member| member.stop.cancel());
    while fleet.tasks.join_next().await.is_some() {}
    Ok(())
}

fn said(problem: impl Display) -> anyhow::Error {
    anyhow::anyhow!("{problem}")
}

fn name(text: &str) -> Name {
    Name::parse(text).expect("it is a name")
}

fn figure(what: &str, value: impl Display) {
    println!("{what:<66} {value}");
}

impl Fleet {
    async fn join_all(&mut self) -> anyhow::Result<()> {
        let began = Instant::now();
        let mut joining = JoinSet::new();
        for first in (0..self.args.agents).step_by(TOKEN_USES as usize) {
            let last = (first + TOKEN_USES as usize).min(self.args.agents);
            let asked = CreateJoinToken {
                role: JoinRole::Agent,
                ttl: None,
                max_uses: Some(TOKEN_USES),
                labels: Default::default(),
                cidr: None,
                replaces: None,
            };
            let made: JoinTokenCreated =
                self.client.send_json(Method::POST, "/api/v1/join-tokens", &asked).await.map_err(said)?;
            for number in first..last {
                while joining.len() >= JOINING {
                    self.members.extend(joining.join_next().await.transpose()?.transpose()?);
                }
                let (context, folder) = (self.context.clone(), self._folder.path().join(number.to_string()));
                let token: JoinToken = made.token.parse()?;
                joining.spawn(async move {
                    std::fs::create_dir(&folder)?;
                    let client = Client::of_context(&context).map_err(said)?;
                    let address = ([127, 0, 0, 1], 9).into();
                    let newcomer = Newcomer { folder: &folder, name: name(&format!("f{number}")), address };
                    let keyring = join(&client, context.cluster, &token, newcomer).await?;
                    let (runtime, stop) = (Arc::default(), CancellationToken::new());
                    anyhow::Ok(Member { keyring, folder, runtime, stop })
                });
            }
        }
        while let Some(joined) = joining.join_next().await {
            self.members.push(joined??);
        }
        figure("joined, 16 at a time", format_args!("{:.1} s", began.elapsed().as_secs_f64()));
        Ok(())
    }

    fn start(tasks: &mut JoinSet<()>, member: &mut Member) -> anyhow::Result<()> {
        let transport: Arc<dyn Transport> =
            Arc::new(Quic::dial_only(([127, 0, 0, 1], 0).into(), member.keyring.credentials())?);
        member.stop = CancellationToken::new();
        let config = agent::Config {
            state: member.folder.clone(),
            places: Places::new(&member.folder, &member.folder),
            cluster: member.keyring.cluster,
            host: member.keyring.host,
            coordinators: watch::Sender::new(member.keyring.coordinators.clone()),
            session: watch::Sender::default(),
            address: Some([127, 0, 0, 1].into()),
            keeps_network: false,
            binary: None,
        };
        let running = agent::run(config, transport, member.runtime.clone(), std::future::pending());
        let stop = member.stop.clone();
        tasks.spawn(async move {
            tokio::select! {
                ended = running => eprintln!("an agent ended: {ended:?}"),
                // The agent vanishes without a farewell.
                () = stop.cancelled() => {}
            }
        });
        Ok(())
    }

    async fn count_ready(&self) -> anyhow::Result<usize> {
        let hosts: List<HostView> = self.client.get("/api/v1/hosts?stale").await.map_err(said)?;
        let ours = |host: &&HostView| host.name.as_str().starts_with('f') && host.liveness.word() == "ready";
        Ok(hosts.items.iter().filter(ours).count())
    }

    fn running(&self) -> usize {
        self.members.iter().map(|member| member.runtime.count_running()).sum()
    }

    async fn cluster(&self) -> anyhow::Result<ClusterView> {
        self.client.get("/api/v1/cluster?stale").await.map_err(said)
    }

    /// Waits for a condition and returns the time that it took. The limit is for 2,500 agents, in seconds.
    async fn wait(
        &self,
        what: &str,
        seconds: u64,
        mut is_so: impl AsyncFnMut() -> anyhow::Result<bool>,
    ) -> anyhow::Result<f64> {
        let times = |agents: usize| u32::try_from(self.args.agents.div_ceil(agents)).unwrap_or(u32::MAX);
        let (limit, pause) = (Duration::from_secs(seconds) * times(2500), LOOK * times(1000));
        let began = Instant::now();
        loop {
            match is_so().await {
                Ok(true) => return Ok(began.elapsed().as_secs_f64()),
                Ok(false) | Err(_) if began.elapsed() < limit => tokio::time::sleep(pause).await,
                Ok(false) => bail!("{what}: not within {limit:?}"),
                Err(error) => return Err(error.context(format!("{what}: not within {limit:?}"))),
            }
        }
    }

    /// Waits until nothing is written any more.
    async fn wait_for_rest(&self) -> anyhow::Result<f64> {
        let last = AtomicU64::new(0);
        self.wait("nothing is written any more", 300, async || {
            let index = self.cluster().await?.log_index;
            let is_same = last.swap(index, Ordering::Relaxed) == index;
            tokio::time::sleep(QUIET).await;
            Ok(is_same)
        })
        .await
    }

    /// Starts all agents, and then a stack with this many services on each host.
    async fn start_cold(&mut self) -> anyhow::Result<()> {
        let wanted = self.args.agents;
        for member in &mut self.members {
            Fleet::start(&mut self.tasks, member)?;
        }
        let ready = self.wait("all are ready", 300, async || Ok(self.count_ready().await? == wanted)).await?;
        figure("all agents start and are ready", format_args!("{ready:.1} s"));
        let mut service = ServiceSpec::of_image("web");
        service.mode = Mode::Global;
        // The Docker of the coordinators' own hosts does not have this image.
        let constraint = |n: u32| format!("node.hostname != b{n}").parse().expect("a constraint");
        service.constraints = (1..=3).map(constraint).collect();
        let services = (0..self.args.instances).map(|n| (name(&format!("s{n}")), service.clone())).collect();
        let spec = StackSpec { services, ..StackSpec::default() };
        let put =
            PutStack { spec, files: Vec::new(), expect_revision: None, dry_run: false, what: None, goes_back: false };
        let path = "/api/v1/environments/default/stacks/fleet";
        let began = Instant::now();
        self.client.put(path, &put).await.map_err(said)?;
        let all = wanted * self.args.instances;
        let minutes = AtomicU64::new(0);
        self.wait("all run", 540, async || {
            let (running, minute) = (self.running(), began.elapsed().as_secs() / 60);
            if minutes.swap(minute, Ordering::Relaxed) != minute {
                figure(&format!("  run after {minute} min"), running);
            }
            Ok(running == all)
        })
        .await?;
        let running = began.elapsed().as_secs_f64();
        figure(&format!("{all} instances run"), format_args!("{running:.1} s, {:.0} a second", all as f64 / running));
        self.wait_for_rest().await?;
        figure("and all is reported and at rest", format_args!("{:.1} s", (began.elapsed() - QUIET).as_secs_f64()));
        Ok(())
    }

    /// Measures the load of an idle group.
    async fn rest(&self) -> anyhow::Result<()> {
        let (begun, before) = (self.cluster().await?, self.costs());
        let index = begun.log_index;
        tokio::time::sleep(Duration::from_secs(self.args.idle)).await;
        let (written, after) = (self.cluster().await?.log_index - index, self.costs());
        figure(&format!("Raft writes in {} s of rest", self.args.idle), written);
        let events: List<Event> = self.client.get("/api/v1/events").await.map_err(said)?;
        for event in events.items.iter().filter(|event| event.index > begun.index).take(10) {
            figure(&format!("  {}", event.subject), format_args!("{}: {}", event.reason, event.message));
        }
        for (pid, (ticks, memory)) in after {
            let Some((_, (earlier, _))) = before.iter().find(|(other, _)| *other == pid) else { continue };
            let share = (ticks - earlier) as f64 / self.args.idle as f64;
            figure(&format!("coordinator {pid} at rest"), format_args!("{share:.1} % of a core, {memory} MiB"));
        }
        Ok(())
    }

    /// CPU time in hundredths of a second and resident memory in MiB of the running coordinators.
    fn costs(&self) -> Vec<(u32, (u64, u64))> {
        let cost = |pid: &u32| {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
            let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
            let ticks = fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?;
            let pages: u64 = fields.get(21)?.parse().ok()?;
            Some((*pid, (ticks, pages * 4 / 1024)))
        };
        self.args.pids.iter().filter_map(cost).collect()
    }

    /// Makes this many percent of the hosts vanish and come back all at once.
    async fn lose_some(&mut self, percent: usize, replaces: bool) -> anyhow::Result<()> {
        let lost = self.args.agents * percent / 100;
        let service = name("spread");
        let replicas = u32::try_from(self.args.agents)?.min(1000);
        let mut spec = ServiceSpec::of_image("web");
        spec.replicas = replicas;
        spec.max_per_host = Some(2);
        spec.constraints = vec!["node.role != manager".parse().expect("a constraint")];
        let stack = StackSpec { services: [(service, spec)].into(), ..StackSpec::default() };
        let put = PutStack {
            spec: stack,
            files: Vec::new(),
            expect_revision: None,
            dry_run: false,
            what: None,
            goes_back: false,
        };
        self.client.put("/api/v1/environments/default/stacks/spread", &put).await.map_err(said)?;
        let globals = self.args.agents * self.args.instances;
        let all = globals + replicas as usize;
        self.wait("all are placed", 120, async || Ok(self.running() == all)).await?;
        self.wait_for_rest().await?;
        for member in &self.members[..lost] {
            member.stop.cancel();
        }
        let staying = self.args.agents - lost;
        self.wait("they are missed", 120, async || Ok(self.count_ready().await? == staying)).await?;
        let elsewhere: usize = self.members[..lost].iter().map(|m| m.runtime.count_running()).sum();
        let replaced = elsewhere - lost * self.args.instances;
        let is_replaced = async || Ok(self.running() == all + replaced);
        if replaces {
            // First the rest of lost_after passes; only the time after that is work.
            let took = self.wait("what they ran is replaced", 180, is_replaced).await?;
            figure(
                &format!("{percent} % vanish: {replaced} instances replaced"),
                format_args!("{took:.1} s after they were missed"),
            );
        } else {
            tokio::time::sleep(Duration::from_secs(45)).await;
            ensure!(self.running() == all, "{} run, and the brake should have held at {all}", self.running());
            figure(&format!("{percent} % vanish: the brake holds"), "nothing replaced 45 s after they were missed");
        }
        for member in &mut self.members[..lost] {
            Fleet::start(&mut self.tasks, member)?;
        }
        let wanted = self.args.agents;
        let back = self.wait("all are back", 300, async || Ok(self.count_ready().await? == wanted)).await?;
        figure("they come back at once: all are ready", format_args!("{back:.1} s"));
        let again = self.wait("the surplus is gone", 300, async || Ok(self.running() == all)).await?;
        figure("and the surplus is gone", format_args!("{again:.1} s later"));
        self.wait_for_rest().await.map(drop)
    }

    /// Kills the leader while instances are being placed.
    async fn lose_leader(&mut self) -> anyhow::Result<()> {
        let leader = self.cluster().await?.leader.context("nobody leads")?;
        let pid = self.args.pids.get(leader.0 as usize - 1).context("its process is known")?;
        let before = self.running();
        let (replicas, mut spec) = (u32::try_from(self.args.agents)?.min(1000), ServiceSpec::of_image("web"));
        spec.replicas = replicas;
        spec.constraints = vec!["node.role != manager".parse().expect("a constraint")];
        let stack = StackSpec { services: [(name("late"), spec)].into(), ..StackSpec::default() };
        let put = PutStack {
            spec: stack,
            files: Vec::new(),
            expect_revision: None,
            dry_run: false,
            what: None,
            goes_back: false,
        };
        self.client.put("/api/v1/environments/default/stacks/late", &put).await.map_err(said)?;
        ensure!(Command::new("kill").args(["-9", &pid.to_string()]).status()?.success(), "it is killed");
        let at_kill = self.running();
        let first = self.wait("something is placed again", 60, async || Ok(self.running() > at_kill)).await?;
        figure("the leader is killed under a deployment: the next instance runs", format_args!("{first:.2} s"));
        let all = before + replicas as usize;
        let rest = self.wait("all are placed", 120, async || Ok(self.running() == all)).await?;
        figure(&format!("and all {replicas} of them"), format_args!("{:.2} s", first + rest));
        let wanted = self.args.agents;
        let back = self.wait("all are back", 120, async || Ok(self.count_ready().await? == wanted)).await?;
        figure("all agents are ready under the new leader", format_args!("{back:.1} s later"));
        self.wait_for_rest().await.map(drop)
    }
}
